//! The circuit breaker: closed to newcomers while what it admits keeps failing. It is on sbroker's
//! own roadmap and was never built there.
//!
//! ```text
//!   whole ──too many failures──▶ broken ──after `rest`──▶ probing ──all `probes` ok──▶ whole
//!                                   ▲                        │
//!                                   └───── one fails ────────┘
//! ```

use super::Report;
use crate::queue::{ConfigError, at_least};
use crate::time::{Span, Time};

/// When a breaker breaks and how it heals.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Breaker {
    /// Outcomes are counted over this long.
    pub interval: Span,
    /// It breaks at this many failures within an `interval` …
    pub failures: u32,
    /// … if they are at least this share of all outcomes, in percent.
    pub percent: u32,
    /// How long it stays broken.
    pub rest: Span,
    /// How many may then try, one of which must not fail.
    pub probes: u32,
}

impl Default for Breaker {
    /// Half of at least ten in 10 s fail; 5 s of rest; three probes.
    fn default() -> Breaker {
        let (interval, rest) = (Span::from_secs(10), Span::from_secs(5));
        Breaker { interval, failures: 10, percent: 50, rest, probes: 3 }
    }
}

impl Breaker {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        at_least(self.interval, 1, ConfigError::Interval)?;
        at_least(self.rest, 0, ConfigError::Timeout)?;
        if self.failures == 0 || self.probes == 0 || self.percent > 100 {
            return Err(ConfigError::Breaker);
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Since when.
    Whole(Time),
    /// Until when.
    Broken(Time),
    /// Since when; probes sent and probes that succeeded.
    Probing(Time, u32, u32),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Fuse {
    breaker: Breaker,
    phase: Phase,
    /// When counting began anew.
    counted_from: Time,
    good: u32,
    bad: u32,
}

impl Fuse {
    pub(super) fn new(breaker: Breaker, now: Time) -> Fuse {
        Fuse { breaker, phase: Phase::Whole(now), counted_from: now, good: 0, bad: 0 }
    }

    pub(super) fn opening(&self) -> Option<Time> {
        match self.phase {
            Phase::Whole(since) => Some(since),
            Phase::Broken(until) => Some(until),
            Phase::Probing(since, sent, _) => (sent < self.breaker.probes).then_some(since),
        }
    }

    pub(super) fn admitted(&mut self, now: Time) {
        match &mut self.phase {
            Phase::Whole(_) => {}
            Phase::Broken(until) if *until <= now => self.phase = Phase::Probing(*until, 1, 0),
            // Below `min` even a broken breaker admits.
            Phase::Broken(_) => {}
            Phase::Probing(_, sent, _) => *sent = sent.saturating_add(1),
        }
    }

    /// A holder that was lost counts as a failure only while probing.
    pub(super) fn released(&mut self, now: Time, report: Option<Report>) {
        let ok = report.map(|report| report.ok);
        match self.phase {
            Phase::Whole(_) => {
                if now - self.counted_from >= self.breaker.interval {
                    (self.counted_from, self.good, self.bad) = (now, 0, 0);
                }
                match ok {
                    Some(true) => self.good = self.good.saturating_add(1),
                    Some(false) => self.bad = self.bad.saturating_add(1),
                    None => {}
                }
                let all = u64::from(self.good) + u64::from(self.bad);
                let share = u64::from(self.bad) * 100 >= all * u64::from(self.breaker.percent);
                if self.bad >= self.breaker.failures && share {
                    self.phase = Phase::Broken(now + self.breaker.rest);
                }
            }
            // Of those admitted before it broke.
            Phase::Broken(_) => {}
            Phase::Probing(since, sent, good) => {
                let good = good + u32::from(ok == Some(true));
                self.phase = match ok {
                    Some(true) if good >= self.breaker.probes => {
                        (self.counted_from, self.good, self.bad) = (now, 0, 0);
                        Phase::Whole(now)
                    }
                    Some(true) => Phase::Probing(since, sent, good),
                    Some(false) | None => Phase::Broken(now + self.breaker.rest),
                };
            }
        }
    }

    pub(super) fn adjust(&mut self, breaker: Breaker) {
        self.breaker = breaker;
    }
}
