//! One line over one load, in virtual time.
//!
//! Everything that happens is an arrival, the end of work, a client that leaves, or a timer of the
//! line. At one moment work ends first, then clients leave, then timers run, then requests arrive.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use engine::{AtBound, ServiceConfig};
use matching::{
    AnyKey, AnyLine, Broker, Drops, Flow, Line as _, Match, Outcome, Queue, QueueConfig, Reason,
    Span, Time,
};

use super::load::Load;

/// Equal parts of the window that pictures show.
pub(super) const PARTS: usize = 120;

/// What came of a load in one line.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) offered: u64,
    /// Answered before the client lost patience, and of those how many before the window ended.
    pub(super) in_time: u64,
    pub(super) in_window: u64,
    /// Answered when nobody waited any more.
    pub(super) late: u64,
    /// Left the line because the client left.
    pub(super) withdrawn: u64,
    pub(super) queue_full: u64,
    pub(super) expired: u64,
    pub(super) overload: u64,
    /// Of those served, sorted.
    pub(super) waits: Vec<Span>,
    /// Work done within the window, in nanoseconds over all workers.
    pub(super) busy_nanos: i128,
    /// Work that was asked for, in nanoseconds.
    pub(super) work_nanos: i128,
    /// Most requests in line at a time.
    pub(super) longest: usize,
    /// The window in equal parts.
    pub(super) parts: Vec<Part>,
    /// By their key; empty if there are none or very many.
    pub(super) clients: Vec<Client>,
}

/// What came of the requests of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Client {
    pub(super) offered: u64,
    pub(super) in_time: u64,
}

/// What happened in one part of the window.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) in_time: u64,
    pub(super) shed: u64,
    /// Of those seated in this part, sorted.
    pub(super) waits: Vec<Span>,
}

/// A request in line.
#[derive(Clone, Copy, Debug)]
struct Ask {
    index: u32,
    key: u32,
}

impl Flow for Ask {
    fn flow(&self) -> u64 {
        u64::from(self.key)
    }
    fn order(&self) -> u64 {
        u64::from(self.index)
    }
}

type Worker = u32;

struct Floor<'a> {
    load: &'a Load,
    rules: &'a ServiceConfig,
    broker: Broker<Ask, Worker, AnyLine<Ask>, Queue<Worker>>,
    drops: Drops<Ask, Worker>,
    /// Who works on which request until when.
    busy: BinaryHeap<Reverse<(Time, Worker, u32)>>,
    /// Clients that will leave, in the order they do.
    leaving: VecDeque<(Time, AnyKey)>,
    tally: Tally,
}

/// Runs until everything that arrived has ended.
pub(super) fn run(load: &Load, rules: &ServiceConfig) -> Tally {
    let start = Time::ZERO;
    let lines = (AnyLine::new(rules.line(), start), Queue::new(QueueConfig::default(), start));
    let mut floor = Floor {
        load,
        rules,
        broker: Broker::with_lines(lines.0, lines.1),
        drops: Drops::default(),
        busy: BinaryHeap::new(),
        leaving: VecDeque::new(),
        tally: Tally {
            parts: vec![Part::default(); PARTS],
            clients: vec![Client::default(); load.clients()],
            ..Tally::default()
        },
    };
    for worker in 0..load.workers {
        floor.offer(start, worker);
    }
    let mut arrivals = (0..).zip(&load.requests).peekable();
    while let Some(now) = floor.next(arrivals.peek().map(|(_, request)| request.at)) {
        if floor.busy.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            floor.end_work(now);
        } else if floor.leaving.front().is_some_and(|(at, _)| *at <= now) {
            floor.leave(now);
        } else if floor.broker.deadline().is_some_and(|at| at <= now) {
            floor.broker.tick(now, &mut floor.drops);
        } else if let Some((index, request)) = arrivals.next() {
            floor.arrive(now, Ask { index, key: request.key });
        }
        floor.settle_drops(now);
    }
    let mut tally = floor.tally;
    tally.waits.sort_unstable();
    tally.parts.iter_mut().for_each(|part| part.waits.sort_unstable());
    tally
}

impl Floor<'_> {
    /// When something next happens.
    fn next(&self, arrival: Option<Time>) -> Option<Time> {
        let work = self.busy.peek().map(|Reverse((at, ..))| *at);
        let leave = self.leaving.front().map(|(at, _)| *at);
        [arrival, work, leave, self.broker.deadline()].into_iter().flatten().min()
    }

    fn arrive(&mut self, now: Time, ask: Ask) {
        self.tally.offered += 1;
        self.tally.work_nanos += i128::from(self.takes(ask.index).as_nanos());
        if let Some(client) = self.tally.client(ask.key) {
            client.offered += 1;
        }
        if !self.has_room(now) {
            self.tally.queue_full += 1;
            if let Some(part) = self.part(now) {
                part.shed += 1;
            }
            return;
        }
        match self.broker.ask(now, now, ask, &mut self.drops) {
            Outcome::Matched(seated) => self.seat(now, seated),
            Outcome::Waiting(key) => {
                if let Some(until) = self.rules.wait_limit(now) {
                    self.broker.expire_at(key, until);
                }
                if self.load.leaves && self.load.patience < Span::MAX {
                    self.leaving.push_back((now + self.load.patience, key));
                }
            }
            Outcome::Dropped => {}
        }
        self.tally.longest = self.tally.longest.max(self.broker.asks().len());
    }

    /// Whether one more may come, as the engine bounds a line. Who would be held back is counted as
    /// refused: nobody here knows when such a client would come again.
    fn has_room(&mut self, now: Time) -> bool {
        if self.broker.asks().len() < self.rules.queue_max || !self.broker.ask_rs().is_empty() {
            return true;
        }
        let oldest = match self.rules.when_full {
            AtBound::HoldBack | AtBound::Refuse => None,
            AtBound::DropOldest => self.broker.asks().first_to_go(),
        };
        let Some(oldest) = oldest else { return false };
        if self.broker.cancel(now, oldest, &mut self.drops).is_some() {
            self.tally.queue_full += 1;
            if let Some(part) = self.part(now) {
                part.shed += 1;
            }
        }
        true
    }

    fn offer(&mut self, now: Time, worker: Worker) {
        if let Outcome::Matched(seated) = self.broker.ask_r(now, now, worker, &mut self.drops) {
            self.seat(now, seated);
        }
    }

    fn seat(&mut self, now: Time, seated: Match<Ask, Worker>) {
        let wait = seated.ask.sojourn(now);
        let index = seated.ask.value.index;
        self.tally.waits.push(wait);
        if let Some(part) = self.part(now) {
            part.waits.push(wait);
        }
        let until = now + self.takes(index);
        let end = Time::ZERO + self.load.window;
        let within = until.min(end) - now.min(end);
        self.tally.busy_nanos += i128::from(within.as_nanos());
        self.busy.push(Reverse((until, seated.ask_r.value, index)));
    }

    fn end_work(&mut self, now: Time) {
        let Some(Reverse((_, worker, index))) = self.busy.pop() else { return };
        let took = now - self.load.requests[index as usize].at;
        if took <= self.load.patience {
            self.tally.in_time += 1;
            if let Some(client) = self.tally.client(self.load.requests[index as usize].key) {
                client.in_time += 1;
            }
            self.tally.in_window += u64::from(now <= Time::ZERO + self.load.window);
            if let Some(part) = self.part(now) {
                part.in_time += 1;
            }
        } else {
            self.tally.late += 1;
        }
        self.offer(now, worker);
    }

    fn leave(&mut self, now: Time) {
        let Some((_, key)) = self.leaving.pop_front() else { return };
        // Most were seated or dropped before.
        let left = self.broker.cancel(now, key, &mut self.drops);
        self.tally.withdrawn += u64::from(left.is_some());
    }

    fn settle_drops(&mut self, now: Time) {
        let count = self.drops.asks.len() as u64;
        if count == 0 {
            return;
        }
        for dropped in self.drops.asks.drain(..) {
            match dropped.reason {
                Reason::QueueFull => self.tally.queue_full += 1,
                Reason::Expired => self.tally.expired += 1,
                Reason::Overload => self.tally.overload += 1,
                Reason::Draining => unreachable!("nobody closes the line"),
            }
        }
        if let Some(part) = self.part(now) {
            part.shed += count;
        }
    }

    fn part(&mut self, now: Time) -> Option<&mut Part> {
        let window = i128::from(self.load.window.as_nanos()).max(1);
        let place = i128::from(now.as_nanos()) * PARTS as i128 / window;
        self.tally.parts.get_mut(usize::try_from(place).ok()?)
    }

    fn takes(&self, index: u32) -> Span {
        self.load.requests[index as usize].takes
    }
}

impl Tally {
    fn client(&mut self, key: u32) -> Option<&mut Client> {
        self.clients.get_mut(key as usize)
    }

    /// The client of whose requests the smallest share was answered in time: its key, that share.
    pub(super) fn worst_off(&self) -> Option<(usize, f64)> {
        let came = self.clients.iter().enumerate().filter(|(_, client)| client.offered > 0);
        came.map(|(key, client)| (key, client.in_time as f64 / client.offered as f64))
            .min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The wait that this share of those served did not exceed (nearest rank).
    pub(super) fn wait(&self, per_mille: usize) -> Option<Span> {
        rank(&self.waits, per_mille)
    }

    /// Mean wait of those served, in seconds.
    pub(super) fn mean_wait(&self) -> Option<f64> {
        let sum: i128 = self.waits.iter().map(|wait| i128::from(wait.as_nanos())).sum();
        (!self.waits.is_empty()).then(|| sum as f64 / self.waits.len() as f64 / 1e9)
    }
}

/// The value of this rank among sorted ones.
pub(super) fn rank(sorted: &[Span], per_mille: usize) -> Option<Span> {
    let place = (sorted.len() * per_mille).div_ceil(1_000).max(1) - 1;
    sorted.get(place.min(sorted.len().saturating_sub(1))).copied()
}
