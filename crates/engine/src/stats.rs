//! Counters as plain numbers, read by whoever exports them.

use crate::effect::Reason;
use matching::Span;

/// Every reason, in the order of [`Stats::refusals`].
pub const REASONS: [Reason; 7] = [
    Reason::NoWorkers,
    Reason::QueueFull,
    Reason::Expired,
    Reason::Overload,
    Reason::Draining,
    Reason::Denied,
    Reason::WorkersFailed,
];

/// Upper bounds of the histogram's buckets in microseconds: powers of two from 16 us to 67 s.
pub const BUCKETS: [u64; 23] = {
    let mut bounds = [0; 23];
    let mut i = 0;
    while i < 23 {
        bounds[i] = 1 << (i + 4);
        i += 1;
    }
    bounds
};

/// How often a span fell into each bucket.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Histogram {
    /// Spans up to [`BUCKETS`]`[i]` but above the bound before; the last slot counts the rest.
    pub counts: [u64; 24],
    /// Sum of all spans in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Counts one span.
    pub fn add(&mut self, span: Span) {
        let us = u64::try_from(span.as_nanos()).unwrap_or(0) / 1_000;
        self.sum_us = self.sum_us.saturating_add(us);
        let bits = 64 - us.saturating_sub(1).leading_zeros() as usize;
        let index = bits.saturating_sub(4).min(self.counts.len() - 1);
        self.counts[index] += 1;
    }

    /// How many spans were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The bound in microseconds under which a share `q` (0 to 100) of the spans lies.
    #[must_use]
    pub fn percentile_us(&self, q: u64) -> u64 {
        let total = self.count();
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += count;
            if total > 0 && seen * 100 >= total * q {
                return *BUCKETS.get(i).unwrap_or(&u64::MAX);
            }
        }
        0
    }
}

/// What happened since the start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Requests taken.
    pub requests: u64,
    /// Requests answered.
    pub replies: u64,
    /// Requests refused, by the place of the reason in [`REASONS`].
    pub refusals: [u64; 7],
    /// Requests whose client left before the answer.
    pub withdrawals: u64,
    /// Requests given to another worker after their holder was lost.
    pub redeliveries: u64,
    /// Workers put out for a fault of theirs.
    pub expulsions: u64,
    /// Time from the edge of the house to the match.
    pub sojourn: Histogram,
}

impl Stats {
    /// Counts one refusal.
    pub fn refuse(&mut self, reason: Reason) {
        if let Some(i) = REASONS.iter().position(|r| *r == reason) {
            self.refusals[i] += 1;
        }
    }
}
