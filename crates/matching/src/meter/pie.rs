//! PIE (after RFC 8033): the probability with which a gate refuses newcomers, so that the wait
//! settles near a target. One controller per side.
//!
//! Gains and their scale are the RFC's, but not tied to how often samples come; there is no cap on
//! a step, no derandomisation and no estimate of the departure rate.

use super::Sample;
use crate::broker::Side;
use crate::queue::{ConfigError, at_least};
use crate::time::{Span, Time};

/// What configures the controller of one side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PieSide {
    /// The wait to settle at.
    pub target: Span,
    /// For so long nobody is refused after things were good.
    pub interval: Span,
}

impl Default for PieSide {
    /// 100 ms and 1 s.
    fn default() -> PieSide {
        PieSide { target: Span::from_millis(100), interval: Span::from_secs(1) }
    }
}

/// What configures a PIE meter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PieConfig {
    /// For asks.
    pub ask: PieSide,
    /// For `ask_r`s.
    pub ask_r: PieSide,
    /// How often the probabilities move.
    pub update: Span,
    /// With a backlog up to this nobody is refused.
    pub min: u64,
    /// With a backlog above this everybody is refused.
    pub max: u64,
}

impl Default for PieConfig {
    fn default() -> PieConfig {
        PieConfig {
            ask: PieSide::default(),
            ask_r: PieSide::default(),
            update: Span::from_millis(100),
            min: 0,
            max: u64::MAX,
        }
    }
}

impl PieConfig {
    /// Whether the configuration makes sense.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.min > self.max {
            return Err(ConfigError::MinAboveMax);
        }
        for side in [self.ask, self.ask_r] {
            at_least(side.target, 0, ConfigError::Target)?;
            at_least(side.interval, 1, ConfigError::Interval)?;
        }
        at_least(self.update, 1, ConfigError::Interval)
    }
}

/// What a gate goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Published {
    /// Messages that wait to be handled.
    pub len: u64,
    /// With which probability to refuse an ask, from 0 to 1.
    pub ask: f64,
    /// With which probability to refuse an `ask_r`, from 0 to 1.
    pub ask_r: f64,
}

/// Sets the probabilities of a gate.
#[derive(Clone, Copy, Debug)]
pub struct PieMeter {
    config: PieConfig,
    ask: Controller,
    ask_r: Controller,
    due: Time,
    published: Published,
}

impl PieMeter {
    /// Refuses nobody.
    #[must_use]
    pub fn new(config: PieConfig, now: Time) -> PieMeter {
        PieMeter {
            config,
            ask: Controller::new(config.ask, now),
            ask_r: Controller::new(config.ask_r, now),
            due: now,
            published: Published::default(),
        }
    }

    /// What configures the meter.
    #[must_use]
    pub fn config(&self) -> &PieConfig {
        &self.config
    }

    /// What it said last.
    #[must_use]
    pub fn published(&self) -> Published {
        self.published
    }

    /// When a sample is wanted.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.due
    }

    /// Looks at a sample.
    pub fn sample(&mut self, sample: &Sample) -> Published {
        let ask = sample.queue_delay + sample.wait(Side::Ask);
        let ask_r = sample.queue_delay + sample.wait(Side::AskR);
        if sample.now >= self.due {
            self.ask.tick(sample.now, ask);
            self.ask_r.tick(sample.now, ask_r);
            self.due = sample.now + self.config.update;
        }
        self.published = Published {
            len: sample.backlog.saturating_sub(1),
            ask: self.ask.publish(ask),
            ask_r: self.ask_r.publish(ask_r),
        };
        self.published
    }

    /// Changes the configuration; the probabilities stay, the backlog counts as none until the
    /// next sample.
    pub fn reconfigure(&mut self, now: Time, config: PieConfig) {
        self.ask.adjust(config.ask);
        self.ask_r.adjust(config.ask_r);
        let (ask, ask_r) = (self.ask.publish_last(), self.ask_r.publish_last());
        self.published = Published { len: 0, ask, ask_r };
        self.due = (now + config.update).min(self.due.max(now));
        self.config = config;
    }
}

/// How strongly the distance from the target and the trend count: per 8 s, and per 0.8 s.
const ALPHA: f64 = 1.0 / 8e9;
const BETA: f64 = 1.0 / 0.8e9;

#[derive(Clone, Copy, Debug)]
struct Controller {
    side: PieSide,
    probability: f64,
    allowance: Span,
    last: Option<Span>,
    updated: Time,
}

impl Controller {
    fn new(side: PieSide, now: Time) -> Controller {
        Controller { side, probability: 0.0, allowance: side.interval, last: None, updated: now }
    }

    fn tick(&mut self, now: Time, sojourn: Span) {
        if self.last.is_none() {
            self.updated = now;
        }
        let last = self.last.unwrap_or(sojourn);
        let distance = float(sojourn) - float(self.side.target);
        let trend = float(sojourn) - float(last);
        let p = self.probability;
        // The smaller the probability, the smaller its steps.
        let scale = match p {
            p if p < 1e-6 => 2048.0,
            p if p < 1e-5 => 512.0,
            p if p < 1e-4 => 128.0,
            p if p < 1e-3 => 32.0,
            p if p < 1e-2 => 8.0,
            p if p < 1e-1 => 2.0,
            _ => 1.0,
        };
        self.probability = (p + (distance * ALPHA + trend * BETA) / scale).clamp(0.0, 1.0);
        if sojourn == Span::ZERO && last == Span::ZERO {
            self.probability *= 0.98;
        }
        let spent = now - self.updated;
        self.allowance = (self.allowance - spent).max(Span::ZERO);
        (self.last, self.updated) = (Some(sojourn), now);
    }

    fn publish(&mut self, sojourn: Span) -> f64 {
        let half = Span::from_nanos(self.side.target.as_nanos() / 2);
        let was_good = self.last.is_none_or(|last| last < half);
        if self.probability == 0.0 && sojourn < half && was_good {
            self.allowance = self.side.interval;
            return 0.0;
        }
        if self.allowance > Span::ZERO || (was_good && self.probability < 0.2) {
            return 0.0;
        }
        self.probability
    }

    fn publish_last(&mut self) -> f64 {
        self.last.map_or(0.0, |last| self.publish(last))
    }

    fn adjust(&mut self, side: PieSide) {
        self.allowance = match self.last {
            Some(_) if self.allowance == Span::ZERO => Span::ZERO,
            Some(_) => (self.allowance - self.side.interval + side.interval).max(Span::ZERO),
            None => side.interval,
        };
        self.side = side;
    }
}

#[expect(clippy::cast_precision_loss, reason = "spans of a controller are far below 2^53 ns")]
fn float(span: Span) -> f64 {
    span.as_nanos() as f64
}
