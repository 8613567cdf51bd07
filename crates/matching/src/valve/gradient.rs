//! The gradient valve: finds the limit of concurrency by itself. As long as work takes no longer
//! than usual the limit grows by its square root per window; when it takes longer the limit
//! shrinks by the same factor. It is the idea of TCP Vegas and of Netflix's gradient limit, with
//! integers.
//!
//! What is usual must be measured without a queue, or it creeps up with the limit: now and then
//! the limit is halved for two windows, the first to drain, the second to measure.

use super::Report;
use crate::queue::{ConfigError, at_least};
use crate::time::{Span, Time};

/// How a gradient valve learns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Gradient {
    /// The limit to begin with.
    pub start: usize,
    /// The limit moves once per window.
    pub window: Span,
    /// How much longer than usual work may take before the limit shrinks, in percent.
    pub tolerance: u32,
}

impl Default for Gradient {
    /// 20 at first, a move per second, 50 % of tolerance.
    fn default() -> Gradient {
        Gradient { start: 20, window: Span::from_secs(1), tolerance: 50 }
    }
}

impl Gradient {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        at_least(self.window, 1, ConfigError::Interval)
    }
}

/// What is usual is measured anew after so many windows.
const MEASURED_EVERY: u32 = 32;

#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    gradient: Gradient,
    limit: usize,
    /// Since when the size was below the limit.
    small: Time,
    /// How long work takes when nothing is in its way.
    usual: Option<Span>,
    window_from: Time,
    windows: u32,
    /// The limit to return to, and windows until then, while measuring.
    measuring: Option<(usize, u32)>,
    /// Sum and number of this window's reports, and the most locks that were out.
    sum: i64,
    count: i64,
    peak: usize,
}

impl Flow {
    pub(super) fn new(gradient: Gradient, now: Time) -> Flow {
        Flow {
            gradient,
            limit: gradient.start.max(1),
            small: now,
            usual: None,
            window_from: now,
            windows: 0,
            measuring: None,
            sum: 0,
            count: 0,
            peak: 0,
        }
    }

    pub(super) fn opening(&self, size: usize) -> Option<Time> {
        (size < self.limit).then_some(self.small)
    }

    pub(super) fn admitted(&mut self, size: usize) {
        self.peak = self.peak.max(size);
    }

    pub(super) fn released(&mut self, now: Time, report: Option<Report>) {
        self.small = now;
        if let Some(Report { held, ok: true }) = report {
            self.sum = self.sum.saturating_add(held.as_nanos().max(1));
            self.count += 1;
        }
        if now - self.window_from < self.gradient.window || self.count == 0 {
            return;
        }
        let mean = self.sum / self.count;
        (self.window_from, self.sum, self.count) = (now, 0, 0);
        match self.measuring {
            Some((limit, 1)) => {
                (self.limit, self.measuring) = (limit, None);
                self.usual = Some(Span::from_nanos(mean));
            }
            Some((limit, left)) => self.measuring = Some((limit, left - 1)),
            None => {
                let usual = self.usual.map_or(mean, |usual| usual.as_nanos().min(mean));
                self.usual = Some(Span::from_nanos(usual));
                self.move_limit(usual, mean);
                self.windows = self.windows.wrapping_add(1);
                if self.windows.is_multiple_of(MEASURED_EVERY) {
                    self.measuring = Some((self.limit, 2));
                    self.limit = (self.limit / 2).max(1);
                }
            }
        }
        self.peak = 0;
    }

    fn move_limit(&mut self, usual: i64, mean: i64) {
        let allowed = i128::from(usual) * i128::from(100 + i64::from(self.gradient.tolerance));
        // In parts of a thousand, between a half and the whole.
        let factor = (allowed * 10 / i128::from(mean.max(1))).clamp(500, 1_000);
        let limit = i128::try_from(self.limit).unwrap_or(i128::MAX / 2_000);
        // A limit that was never reached says nothing about more.
        let reached = self.peak.saturating_mul(2) >= self.limit;
        let room = if reached { self.limit.isqrt().max(1) } else { 0 };
        let shrunk = usize::try_from(limit * factor / 1_000).unwrap_or(self.limit);
        let room = if factor < 1_000 { 0 } else { room };
        self.limit = shrunk.saturating_add(room).max(1);
    }

    pub(super) fn adjust(&mut self, gradient: Gradient) {
        self.gradient = gradient;
    }
}
