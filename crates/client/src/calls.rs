//! The client's book: which calls there are, on which line each is, and how good the lines are.
//!
//! ```text
//!  submit ─▶ waiting ─▶ unsent of a line ─▶ sent ─▶ done ─▶ taken by its caller
//!                ▲            │              │
//!                └────────────┴──────────────┘ the line was lost, or its broker refused
//! ```
//!
//! A *line* is one connection to one broker, up or down. A call's bytes stay here until it is done,
//! so that they can be sent again; they are encoded only when its line has room. So nothing is
//! queued but what a living caller waits for, and a caller that leaves takes its request along.
//!
//! Knows nothing of sockets, and time is an argument.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::fmt::Write;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::error::{Error, Refusal};
use crate::mdp::{self, Part, Protocol, ReplyHead};
use crate::message::Message;
use crate::wire::Lost;

/// What a caller asks for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) service: Bytes,
    pub(crate) body: Message,
    /// Whether it may be sent again when the connection it was sent on is lost.
    pub(crate) retry: bool,
    /// Whether partial replies are handed out as they come, or joined to the final one.
    pub(crate) streaming: bool,
    /// Whether it goes however many are under way.
    pub(crate) urgent: bool,
}

pub(crate) struct Calls {
    lines: Vec<Line>,
    calls: HashMap<u64, Call>,
    /// Calls no line has room for, oldest first; those that are gone are skipped.
    waiting: VecDeque<u64>,
    next_id: u64,
    config: CallsConfig,
    /// To be told once the book is closed again.
    pub(crate) due: Due,
}

/// Who has something to do because of what happened in the book.
#[derive(Default)]
pub(crate) struct Due {
    pub(crate) callers: Vec<Waker>,
    pub(crate) lines: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct CallsConfig {
    pub(crate) protocol: Protocol,
    /// Whether replies are told apart by ids; if not, a line has one call at a time.
    pub(crate) pipelined: bool,
    /// Most calls on a line.
    pub(crate) window: usize,
    /// Most bytes of partial replies held for one call.
    pub(crate) replies_bytes_max: u64,
}

struct Line {
    /// Lines of one broker have the same.
    endpoint: Box<str>,
    up: bool,
    /// The connection must go, because the reply to a call nobody waits for would be taken for
    /// another's.
    hang_up: bool,
    /// Given to this line and not sent, oldest first; those that are gone are skipped.
    unsent: VecDeque<u64>,
    /// Calls on this line, sent or not.
    in_flight: usize,
    /// Without ids: the call that was sent.
    current: Option<u64>,
    cost: Cost,
    /// Why it is down.
    trouble: Lost,
}

struct Call {
    request: Request,
    place: Place,
    /// Brokers that refused it.
    refused_by: Vec<Box<str>>,
    /// Partial replies nobody took yet.
    parts: VecDeque<Message>,
    /// Their bytes.
    parts_bytes: u64,
    /// Whether there were any since the request was sent.
    has_parts: bool,
    waker: Option<Waker>,
}

enum Place {
    Waiting,
    Unsent { line: usize },
    Sent { line: usize, at: Instant },
    Done(Result<Message, Error>),
}

/// A line as others may see it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BrokerStatus {
    /// Its endpoint, as it was given.
    pub endpoint: String,
    /// Whether there is a connection that has shaken hands.
    pub connected: bool,
    /// Calls that were given to this connection and are not answered.
    pub in_flight: usize,
    /// What was measured lately, with more weight on what is bad and on what is recent; zero if
    /// nothing was.
    pub latency: Duration,
    /// Why there is no connection.
    pub trouble: Option<String>,
}

impl Calls {
    pub(crate) fn new(endpoints: impl Iterator<Item = Box<str>>, config: CallsConfig) -> Calls {
        let now = Instant::now();
        let line = |endpoint| Line {
            endpoint,
            up: false,
            hang_up: false,
            unsent: VecDeque::new(),
            in_flight: 0,
            current: None,
            cost: Cost { nanos: 0.0, at: now },
            trouble: "not connected yet".into(),
        };
        Calls {
            lines: endpoints.map(line).collect(),
            calls: HashMap::new(),
            waiting: VecDeque::new(),
            next_id: 1,
            config,
            due: Due::default(),
        }
    }

    /// Takes a request in. Returns its id.
    pub(crate) fn submit(&mut self, request: Request, now: Instant) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let call = Call {
            request,
            place: Place::Waiting,
            refused_by: Vec::new(),
            parts: VecDeque::new(),
            parts_bytes: 0,
            has_parts: false,
            waker: None,
        };
        let urgent = call.request.urgent;
        self.calls.insert(id, call);
        let line = match urgent {
            true => self.lines.iter().position(|line| line.up && !line.hang_up),
            false => self.choose(id, now),
        };
        match line {
            Some(line) => self.assign(id, line),
            None if urgent => self.waiting.push_front(id),
            None => self.waiting.push_back(id),
        }
        id
    }

    /// Forgets a call unless it was sent and is not answered. Whether it did.
    pub(crate) fn forget_unsent(&mut self, id: u64, now: Instant) -> bool {
        let sent = |call: &Call| match call.place {
            Place::Sent { .. } | Place::Done(Ok(_)) => true,
            Place::Waiting | Place::Unsent { .. } | Place::Done(Err(_)) => false,
        };
        if self.calls.get(&id).is_some_and(sent) {
            return false;
        }
        self.forget(id, now);
        true
    }

    /// The outcome of a call whose partial replies are joined.
    pub(crate) fn poll_reply(&mut self, id: u64, cx: &Context<'_>) -> Poll<Result<Message, Error>> {
        self.poll_done(id, cx).map(|(parts, outcome)| {
            let last = outcome?;
            Ok(parts.into_iter().chain([last]).reduce(Message::joined).expect("there is a last"))
        })
    }

    /// The next reply of a call whose replies are streamed, and whether it is the last.
    pub(crate) fn poll_part(
        &mut self,
        id: u64,
        cx: &Context<'_>,
    ) -> Poll<(Result<Message, Error>, Part)> {
        if let Some(call) = self.calls.get_mut(&id)
            && let Some(part) = call.parts.pop_front()
        {
            call.parts_bytes -= part.bytes_len() as u64;
            return Poll::Ready((Ok(part), Part::Partial));
        }
        self.poll_done(id, cx).map(|(_, outcome)| (outcome, Part::Final))
    }

    /// Forgets a call.
    pub(crate) fn forget(&mut self, id: u64, now: Instant) {
        let Some(call) = self.calls.remove(&id) else { return };
        let index = match call.place {
            Place::Unsent { line } => line,
            Place::Sent { line: index, at } => {
                let line = &mut self.lines[index];
                // It would have taken at least as long as that; an early end says nothing about the
                // broker.
                line.cost.observe_at_least(now - at, now);
                if line.current == Some(id) {
                    line.hang_up = true;
                    self.due.lines.push(index);
                }
                index
            }
            Place::Waiting => {
                if self.waiting.len() > 64 + 2 * self.calls.len() {
                    self.waiting.retain(|id| self.calls.contains_key(id));
                }
                return;
            }
            Place::Done(_) => return,
        };
        let line = &mut self.lines[index];
        line.in_flight -= 1;
        if line.unsent.len() > 64 + 2 * line.in_flight {
            line.unsent.retain(|id| self.calls.contains_key(id));
        }
        self.fill(index, now);
    }

    /// Forgets a call whose deadline passed, and says what kept it.
    pub(crate) fn expire(&mut self, id: u64, after: Duration, now: Instant) -> Error {
        let error = match self.calls.get(&id) {
            Some(call) if matches!(call.place, Place::Waiting) && !self.any_up() => {
                Error::Unreachable { after, why: self.troubles() }
            }
            Some(call) => Error::Timeout {
                service: String::from_utf8_lossy(&call.request.service).into(),
                after,
            },
            None => Error::Stopped,
        };
        self.forget(id, now);
        error
    }

    /// A line has its connection: it takes what waits.
    pub(crate) fn line_up(&mut self, index: usize, now: Instant) {
        let line = &mut self.lines[index];
        debug_assert!(!line.up && line.in_flight == 0 && line.current.is_none());
        line.up = true;
        line.hang_up = false;
        self.fill(index, now);
    }

    /// A line could not get a connection.
    pub(crate) fn line_failed(&mut self, index: usize, why: Lost) {
        self.lines[index].trouble = why;
    }

    /// A line lost its connection: its calls go elsewhere, or end.
    pub(crate) fn line_lost(&mut self, index: usize, why: Lost, now: Instant) {
        let line = &mut self.lines[index];
        line.up = false;
        line.unsent.clear();
        line.in_flight = 0;
        line.current = None;
        line.trouble = why;
        let mut homeless = Vec::new();
        for (&id, call) in &mut self.calls {
            let may_move = match call.place {
                Place::Unsent { line } if line == index => true,
                Place::Sent { line, .. } if line == index => {
                    call.request.retry && !(call.request.streaming && call.has_parts)
                }
                Place::Unsent { .. } | Place::Sent { .. } | Place::Waiting | Place::Done(_) => {
                    continue;
                }
            };
            if may_move {
                call.start_over();
                homeless.push(id);
            } else {
                let line = &self.lines[index];
                call.finish(Err(Error::ConnectionLost {
                    endpoint: line.endpoint.clone(),
                    why: line.trouble.clone(),
                }));
                self.due.callers.extend(call.waker.take());
            }
        }
        // Oldest first, before those that were never sent.
        homeless.sort_unstable_by(|a, b| b.cmp(a));
        for id in homeless {
            self.waiting.push_front(id);
        }
        for other in 0..self.lines.len() {
            self.fill(other, now);
        }
    }

    /// Whether the line's connection has to go.
    pub(crate) fn must_hang_up(&self, index: usize) -> bool {
        self.lines[index].hang_up
    }

    /// Writes the line's next request to `out`, if there is one.
    pub(crate) fn put_next(&mut self, index: usize, now: Instant, out: &mut Vec<u8>) -> bool {
        let line = &mut self.lines[index];
        while let Some(id) = line.unsent.pop_front() {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            call.place = Place::Sent { line: index, at: now };
            let CallsConfig { protocol, pipelined, .. } = self.config;
            if !pipelined {
                line.current = Some(id);
            }
            let Request { service, body, .. } = &call.request;
            mdp::put_request(out, protocol, pipelined.then_some(id), service, body);
            return true;
        }
        false
    }

    /// A reply came in on a line. One to a call that is gone, or is on another line by now, is
    /// dropped.
    pub(crate) fn reply(&mut self, index: usize, head: ReplyHead, body: Message, now: Instant) {
        let line = &mut self.lines[index];
        let id = if self.config.pipelined { head.id } else { line.current };
        let Some(id) = id else { return };
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Place::Sent { line: sent_on, at } = call.place else { return };
        if sent_on != index {
            return;
        }
        let outcome = match head.part {
            Part::Final => outcome_of(body),
            Part::Partial => {
                call.has_parts = true;
                call.parts_bytes += body.bytes_len() as u64;
                if call.parts_bytes <= self.config.replies_bytes_max {
                    call.parts.push_back(body);
                    if call.request.streaming {
                        self.due.callers.extend(call.waker.take());
                    }
                    return;
                }
                // More replies to it may come, which must not be taken for another's.
                line.hang_up |= !self.config.pipelined;
                Err(Error::RepliesTooLarge { limit: self.config.replies_bytes_max })
            }
        };
        line.in_flight -= 1;
        line.current = None;
        let refused = match &outcome {
            Err(Error::Refused { reason }) => reason.another_broker_may_help(),
            _ => false,
        };
        let rtt = now - at;
        line.cost.observe(if refused { rtt.max(REFUSAL_COST) } else { rtt }, now);
        if refused && !call.has_parts {
            call.refused_by.push(line.endpoint.clone());
            if let Some(other) = self.choose(id, now) {
                self.assign(id, other);
                self.fill(index, now);
                return;
            }
        }
        let call = self.calls.get_mut(&id).expect("it was there");
        call.finish(outcome);
        self.due.callers.extend(call.waker.take());
        self.fill(index, now);
    }

    pub(crate) fn any_up(&self) -> bool {
        self.lines.iter().any(|line| line.up)
    }

    /// How many calls there are, whatever became of them, whose callers are still there.
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn statuses(&self, now: Instant) -> Vec<BrokerStatus> {
        let status = |line: &Line| BrokerStatus {
            endpoint: line.endpoint.to_string(),
            connected: line.up,
            in_flight: line.in_flight,
            latency: Duration::from_nanos(line.cost.at(now) as u64),
            trouble: (!line.up).then(|| line.trouble.to_string()),
        };
        self.lines.iter().map(status).collect()
    }

    /// What is wrong with each line.
    pub(crate) fn troubles(&self) -> Box<str> {
        let mut text = String::new();
        for line in &self.lines {
            let comma = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{comma}{}: {}", line.endpoint, line.trouble);
        }
        text.into()
    }

    /// What a call came to, and the partial replies nobody took; the call is over then.
    fn poll_done(
        &mut self,
        id: u64,
        cx: &Context<'_>,
    ) -> Poll<(VecDeque<Message>, Result<Message, Error>)> {
        let Entry::Occupied(mut entry) = self.calls.entry(id) else {
            return Poll::Ready((VecDeque::new(), Err(Error::Stopped)));
        };
        let call = entry.get_mut();
        match &mut call.place {
            Place::Done(outcome) => {
                let outcome = std::mem::replace(outcome, Err(Error::Stopped));
                Poll::Ready((entry.remove().parts, outcome))
            }
            Place::Waiting | Place::Unsent { .. } | Place::Sent { .. } => {
                match &mut call.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => call.waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    fn assign(&mut self, id: u64, index: usize) {
        let call = self.calls.get_mut(&id).expect("only calls in the book are assigned");
        call.place = Place::Unsent { line: index };
        let line = &mut self.lines[index];
        line.in_flight += 1;
        line.unsent.push_back(id);
        self.due.lines.push(index);
        debug_assert!(line.in_flight <= self.config.window || self.calls[&id].request.urgent);
    }

    /// The better of two lines drawn at random, of those that are up, have room, and whose broker
    /// has not refused this call.
    fn choose(&self, id: u64, now: Instant) -> Option<usize> {
        let refused_by = &self.calls[&id].refused_by;
        let able = |line: &Line| self.has_room(line) && !refused_by.contains(&line.endpoint);
        let candidates = || (0..self.lines.len()).filter(|&i| able(&self.lines[i]));
        let count = candidates().count();
        if count <= 1 {
            return candidates().next();
        }
        let one = fastrand::usize(..count);
        let other = (one + fastrand::usize(1..count)) % count;
        let [one, other] = [one, other].map(|n| candidates().nth(n).expect("n is below count"));
        let better = self.lines[other].score(now) < self.lines[one].score(now);
        Some(if better { other } else { one })
    }

    fn has_room(&self, line: &Line) -> bool {
        line.up && !line.hang_up && line.in_flight < self.config.window
    }

    /// Uses a line's room for what waits. If others have room too, each call goes to the better of
    /// two.
    fn fill(&mut self, index: usize, now: Instant) {
        while self.has_room(&self.lines[index])
            && let Some(id) = self.waiting.pop_front()
        {
            if self.calls.contains_key(&id) {
                let chosen = self.choose(id, now).unwrap_or(index);
                self.assign(id, chosen);
            }
        }
    }
}

impl Call {
    fn start_over(&mut self) {
        self.place = Place::Waiting;
        self.parts.clear();
        self.parts_bytes = 0;
        self.has_parts = false;
    }

    fn finish(&mut self, outcome: Result<Message, Error>) {
        self.place = Place::Done(outcome);
        self.request.body = Message::default();
    }
}

impl Line {
    /// Lower is better. A line nothing is known about is tried with one call, and not with many.
    fn score(&self, now: Instant) -> f64 {
        let latency = self.cost.at(now);
        if latency < 1.0 {
            return UNKNOWN_COST.as_nanos() as f64 * self.in_flight as f64;
        }
        latency * (self.in_flight + 1) as f64
    }
}

/// A moving average of latency that jumps to what is worse and sinks slowly to what is better,
/// weighted by time, not by number; it also sinks when nothing is observed, so that a broker that
/// was bad gets its chance again. (Known as peak EWMA.)
struct Cost {
    nanos: f64,
    /// When it was that.
    at: Instant,
}

impl Cost {
    fn at(&self, now: Instant) -> f64 {
        self.nanos * self.weight(now)
    }

    fn observe(&mut self, latency: Duration, now: Instant) {
        let nanos = latency.as_nanos() as f64;
        let weight = self.weight(now);
        self.nanos = nanos.max(self.nanos * weight + nanos * (1.0 - weight));
        self.at = now;
    }

    fn observe_at_least(&mut self, latency: Duration, now: Instant) {
        if latency.as_nanos() as f64 > self.at(now) {
            self.observe(latency, now);
        }
    }

    /// How much of the past still counts.
    fn weight(&self, now: Instant) -> f64 {
        (-now.saturating_duration_since(self.at).as_secs_f64() / COST_DECAY_SECONDS).exp()
    }
}

fn outcome_of(body: Message) -> Result<Message, Error> {
    let [Some(word), Some(text), None] = [body.get(0), body.get(1), body.get(2)] else {
        return Ok(body);
    };
    if word == mdp::REFUSED {
        return Err(Error::Refused { reason: Refusal::from_word(text) });
    }
    if word == mdp::FAILED {
        return Err(Error::Failed { message: String::from_utf8_lossy(text).into() });
    }
    Ok(body)
}

/// After this long, two thirds of an average are forgotten.
const COST_DECAY_SECONDS: f64 = 10.0;
/// What a refusal counts as, so that the broker that refuses quickest does not get everything.
const REFUSAL_COST: Duration = Duration::from_secs(1);
/// What a call on a line of unknown latency counts as.
const UNKNOWN_COST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
