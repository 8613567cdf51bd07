//! The CoDel valve: CoDel turned round. While updates stay low it lets one more start, and then
//! the next after `interval / √2`, `interval / √3` and so on, each after a fresh low update.

use super::ValveConfig;
use crate::queue::gap;
use crate::time::{Span, Time};

/// An episode is remembered for this many intervals after its last opening.
const MEMORY: i64 = 8;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// The last update was high, or there was none.
    Off,
    /// Updates are low; the first opening.
    At(Time),
    /// A low update came after the last opening: the next is at `next`.
    Opening,
    /// An opening was used; a low update is missing.
    Await,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    phase: Phase,
    /// Openings in this episode, or in the last one.
    count: u64,
    next: Time,
}

impl Gate {
    pub(super) fn new(now: Time) -> Gate {
        Gate { phase: Phase::Off, count: 0, next: now }
    }

    pub(super) fn opening(&self) -> Option<Time> {
        match self.phase {
            Phase::Off | Phase::Await => None,
            Phase::At(at) => Some(at),
            Phase::Opening => Some(self.next),
        }
    }

    pub(super) fn update(&mut self, now: Time, low: bool, interval: Span) {
        self.phase = match self.phase {
            _ if !low => Phase::Off,
            Phase::Off => Phase::At(now + interval),
            Phase::Await => Phase::Opening,
            phase @ (Phase::At(_) | Phase::Opening) => phase,
        };
    }

    /// Somebody starts above `min`.
    pub(super) fn consume(&mut self, config: &ValveConfig, now: Time) {
        let interval = config.interval();
        if self.phase == Phase::Opening {
            self.count += 1;
            self.next += gap(interval, self.count);
        } else if self.count > 2 && now - self.next < interval.times(MEMORY) {
            self.count -= 2;
            self.next = now + gap(interval, self.count);
        } else {
            self.count = 1;
            self.next = now + interval;
        }
        self.phase = Phase::Await;
    }

    /// A new interval ends at `latest`: nothing that is planned is put off.
    pub(super) fn adjust(&mut self, latest: Time) {
        if let Phase::At(at) = self.phase {
            self.phase = Phase::At(at.min(latest));
        }
        self.next = self.next.min(latest);
    }
}
