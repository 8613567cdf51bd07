//! What a balancer compares: how long a newcomer of either side would take here.

use super::Sample;
use crate::broker::Side;
use crate::queue::{ConfigError, at_least};
use crate::time::{Span, Time};

/// What configures the estimates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BetterConfig {
    /// The worst estimate for an ask, and the first.
    pub ask_upper: Span,
    /// The worst estimate for an `ask_r`, and the first.
    pub ask_r_upper: Span,
    /// A sample is wanted this long after the last.
    pub update: Span,
}

impl Default for BetterConfig {
    /// 5 s, 5 s, 100 ms.
    fn default() -> BetterConfig {
        let upper = Span::from_secs(5);
        BetterConfig { ask_upper: upper, ask_r_upper: upper, update: Span::from_millis(100) }
    }
}

impl BetterConfig {
    /// Whether the configuration makes sense.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        at_least(self.ask_upper, 0, ConfigError::Target)?;
        at_least(self.ask_r_upper, 0, ConfigError::Target)?;
        at_least(self.update, 1, ConfigError::Interval)
    }
}

/// Estimates how long a newcomer would take.
#[derive(Clone, Copy, Debug)]
pub struct BetterMeter {
    config: BetterConfig,
    ask: Span,
    ask_r: Span,
    due: Time,
}

impl BetterMeter {
    /// Begins with the worst.
    #[must_use]
    pub fn new(config: BetterConfig, now: Time) -> BetterMeter {
        BetterMeter { config, ask: config.ask_upper, ask_r: config.ask_r_upper, due: now }
    }

    /// The last estimate for one side.
    #[must_use]
    pub fn estimate(&self, side: Side) -> Span {
        match side {
            Side::Ask => self.ask,
            Side::AskR => self.ask_r,
        }
    }

    /// When a sample is wanted.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.due
    }

    /// Looks at a sample.
    pub fn sample(&mut self, sample: &Sample) {
        let broker = sample.queue_delay + sample.process_delay;
        self.ask = (broker + sample.wait(Side::Ask)).min(self.config.ask_upper);
        self.ask_r = (broker + sample.wait(Side::AskR)).min(self.config.ask_r_upper);
        self.due = sample.now + self.config.update;
    }

    /// Changes the configuration; the estimates stay until the next sample.
    pub fn reconfigure(&mut self, now: Time, config: BetterConfig) {
        self.config = config;
        self.due = now;
    }
}
