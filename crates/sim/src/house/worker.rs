//! Workers: quick, slow, silent, and of bad manners.

use engine::{Span, Time};
use sessions::{Pair, Speaks};

use super::SERVICES;
use super::ledger::Ledger;
use super::speaker::Speaker;
use super::words::{Dialect, Frames, Letters, WorkerHears, WorkerSays};
use crate::Violation;
use crate::rng::Rng;

/// What a worker wants done with its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wish {
    Stay,
    /// Close it in good order.
    Close,
    /// Die.
    Crash,
}

/// Percent of requests with which each goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manners {
    pub(crate) crash: u64,
    pub(crate) hang: u64,
    pub(crate) leave: u64,
    pub(crate) stray: u64,
    pub(crate) forge: u64,
    pub(crate) second_ready: u64,
}

#[derive(Debug)]
struct Task {
    token: Vec<u8>,
    /// Not for what a stranger asked.
    job: Option<u64>,
    part: u32,
    parts: u32,
    due: Time,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) dialect: Dialect,
    pub(crate) service: usize,
    concurrency: usize,
    pub(crate) manners: Manners,
    pub(crate) beats: bool,
    beats_when_busy: bool,
    /// Puts the empty frame behind the address, as RFC 7 says and the PHP worker does not.
    empty: bool,
    slowest: Span,
    interval: Span,
    silence_max: Span,
    held: Vec<Task>,
    left: bool,
    /// It said READY twice. If it was told to go meanwhile, that was a new offer to the broker, and
    /// the two no longer agree on what it holds.
    doubled: bool,
    beat_at: Time,
    heard: Time,
    /// A token it saw, by which others answer for it.
    pub(crate) seen: Option<(Vec<u8>, u64)>,
}

impl Worker {
    /// `pairs`: Paranoid Pirate queues, one for each service.
    pub(crate) fn some(
        rng: &mut Rng,
        service: usize,
        interval: Span,
        liveness: u32,
        pairs: &[Pair],
    ) -> Worker {
        let letters = rng.pick(&[Letters::Octets, Letters::Text]);
        let pirate = rng.chance(40).then_some(letters);
        let (interval, liveness) = match pirate {
            Some(_) => (pairs[service].heartbeat, pairs[service].liveness),
            None => (interval, liveness),
        };
        let v02 = pirate.is_none() && rng.chance(50);
        let bad = |rng: &mut Rng| if rng.chance(60) { 0 } else { rng.skewed(40) };
        let manners = Manners {
            crash: bad(rng),
            hang: bad(rng),
            leave: if pirate.is_some() { 0 } else { bad(rng) },
            stray: bad(rng),
            forge: bad(rng),
            second_ready: bad(rng),
        };
        Worker {
            dialect: Dialect {
                v02,
                delimiter: !v02 || rng.chance(40),
                names_service: true,
                pirate,
            },
            service,
            concurrency: if pirate.is_some() || rng.chance(60) {
                1
            } else {
                1 + rng.skewed(16) as usize
            },
            manners,
            beats: rng.chance(80),
            beats_when_busy: rng.chance(50),
            empty: v02 || rng.chance(80),
            slowest: Span::from_nanos(rng.skewed(2_000_000_000) as i64),
            interval,
            silence_max: interval.times(i64::from(liveness) + 3),
            held: Vec::new(),
            left: false,
            doubled: false,
            beat_at: Time::MAX,
            heard: Time::ZERO,
            seen: None,
        }
    }

    /// Where it connects.
    pub(crate) fn speaks(&self) -> Speaks {
        match self.dialect.pirate {
            Some(_) => Speaks::PirateBack(self.service),
            None => Speaks::Majordomo,
        }
    }

    /// It behaves from here on. Says whether it must start anew, because it holds what it will
    /// never answer.
    pub(crate) fn calm(&mut self) -> bool {
        self.manners = Manners::default();
        self.beats = true;
        self.slowest = Span::from_millis(20);
        self.held.iter().any(|task| task.due == Time::MAX)
    }

    pub(crate) fn on_connected(&mut self, now: Time, speaker: &mut Speaker, rng: &mut Rng) {
        self.held.clear();
        self.left = false;
        self.doubled = false;
        self.heard = now;
        self.ready(now, speaker, rng);
    }

    fn ready(&mut self, now: Time, speaker: &mut Speaker, rng: &mut Rng) {
        let option = format!("concurrency={}", self.concurrency);
        let mut options: Vec<&[u8]> = Vec::new();
        if rng.chance(20) {
            options.push(b"flavour=plain");
        }
        if self.concurrency > 1 || rng.chance(20) {
            options.push(option.as_bytes());
        }
        let service = SERVICES[self.service];
        speaker.say(self.dialect.say(WorkerSays::Ready { service, options: &options }));
        self.beat_at = now + self.interval;
    }

    pub(crate) fn deadline(&self) -> Time {
        let due = self.held.iter().map(|task| task.due).min().unwrap_or(Time::MAX);
        let beat = if self.beats && !self.left { self.beat_at } else { Time::MAX };
        let patience = if self.held.is_empty() { self.heard + self.silence_max } else { Time::MAX };
        due.min(beat).min(patience)
    }

    pub(crate) fn on_message(
        &mut self,
        now: Time,
        frames: Frames,
        speaker: &mut Speaker,
        ledger: &mut Ledger,
        rng: &mut Rng,
    ) -> Result<Wish, Violation> {
        self.heard = now;
        let Some(word) = self.dialect.hear(frames.clone()) else {
            let text = format!("a worker cannot read {frames:?}");
            return Err(Violation::new("words", text));
        };
        match word {
            WorkerHears::Heartbeat => Ok(Wish::Stay),
            WorkerHears::Disconnect if rng.chance(40) && !self.left => {
                self.held.clear();
                self.ready(now, speaker, rng);
                Ok(Wish::Stay)
            }
            WorkerHears::Disconnect => Ok(Wish::Close),
            // What was under way when it left.
            WorkerHears::Request { .. } if self.left => Ok(Wish::Stay),
            WorkerHears::Request { token, body } => {
                self.on_request(now, token, &body, speaker, ledger, rng)
            }
        }
    }

    fn on_request(
        &mut self,
        now: Time,
        token: Vec<u8>,
        body: &Frames,
        speaker: &mut Speaker,
        ledger: &mut Ledger,
        rng: &mut Rng,
    ) -> Result<Wish, Violation> {
        if self.held.len() >= self.concurrency && !self.doubled {
            let text = format!(
                "a worker of {} offers holds {} requests and got {:?}",
                self.concurrency,
                self.held.len(),
                String::from_utf8_lossy(&token)
            );
            return Err(Violation::new("an offer holds one request", text));
        }
        let request = ledger.deliver(self.service, body)?;
        if let Some(request) = request {
            self.seen = Some((token.clone(), request));
        }
        if rng.chance(self.manners.crash) {
            return Ok(Wish::Crash);
        }
        if rng.chance(self.manners.leave) {
            self.left = true;
            speaker.say(self.dialect.say(WorkerSays::Disconnect));
            return Ok(if rng.chance(50) { Wish::Close } else { Wish::Stay });
        }
        if !self.doubled && rng.chance(self.manners.second_ready) {
            self.doubled = true;
            self.ready(now, speaker, rng);
        }
        let parts = if self.dialect.v02 && rng.chance(30) { 1 + rng.skewed(5) as u32 } else { 1 };
        let job = request.map(|request| ledger.job(request, false));
        let due = if rng.chance(self.manners.hang) { Time::MAX } else { self.later(now, rng) };
        self.held.push(Task { token, job, part: 0, parts, due });
        Ok(Wish::Stay)
    }

    fn later(&self, now: Time, rng: &mut Rng) -> Time {
        now + Span::from_nanos(rng.skewed(self.slowest.as_nanos() as u64) as i64)
    }

    pub(crate) fn on_wake(
        &mut self,
        now: Time,
        speaker: &mut Speaker,
        ledger: &mut Ledger,
        rng: &mut Rng,
    ) -> Wish {
        if self.held.is_empty() && self.heard + self.silence_max <= now {
            return Wish::Close;
        }
        while let Some(place) = self.held.iter().position(|task| task.due <= now) {
            self.answer(now, place, speaker, ledger, rng);
        }
        if self.beats && !self.left && self.beat_at <= now {
            self.beat_at = now + self.interval;
            if self.held.is_empty() || self.beats_when_busy {
                speaker.say(self.dialect.say(WorkerSays::Heartbeat));
            }
        }
        Wish::Stay
    }

    /// Says the next part of an answer.
    fn answer(
        &mut self,
        now: Time,
        place: usize,
        speaker: &mut Speaker,
        ledger: &mut Ledger,
        rng: &mut Rng,
    ) {
        let due = self.later(now, rng);
        let task = &mut self.held[place];
        let last = task.part + 1 == task.parts;
        let body = match task.job {
            Some(job) => ledger.part(job, task.part, last),
            None => vec![b"for a stranger".to_vec()],
        };
        task.part += 1;
        task.due = due;
        let says = WorkerSays::Reply { token: &task.token, body, last, empty: self.empty };
        let frames = self.dialect.say(says);
        if last {
            self.held.swap_remove(place);
            if rng.chance(self.manners.stray) {
                speaker.say(frames.clone());
            }
        }
        if !self.left {
            speaker.say(frames);
        }
    }

    /// Answers for another worker, by a token that is not its own.
    pub(crate) fn forge(
        &self,
        token: &[u8],
        request: u64,
        speaker: &mut Speaker,
        ledger: &mut Ledger,
    ) {
        let job = ledger.job(request, true);
        let body = ledger.part(job, 0, true);
        let says = WorkerSays::Reply { token, body, last: true, empty: true };
        speaker.say(self.dialect.say(says));
    }

    pub(crate) fn concurrency(&self) -> usize {
        self.concurrency
    }

    pub(crate) fn has_left(&self) -> bool {
        self.left
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_empty() && !self.left
    }
}
