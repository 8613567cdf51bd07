//! Alarms: raised when something was bad for a whole interval, lowered when it was good for one.

use alloc::string::String;
use alloc::vec::Vec;

use super::Sample;
use crate::queue::{ConfigError, at_least};
use crate::time::{Span, Time};

/// What an alarm watches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Watch {
    /// Messages wait `target` or longer before they are handled. With a target of zero: at all.
    Overload,
    /// Capacity has been idle for `target` or longer (regulators).
    Underload,
}

/// What configures an alarm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AlarmConfig {
    /// What it is called.
    pub alarm: String,
    /// What it watches.
    pub watch: Watch,
    /// From here on things are bad.
    pub target: Span,
    /// For so long things must be bad, or good again.
    pub interval: Span,
}

impl AlarmConfig {
    /// Whether the configuration makes sense.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self.watch {
            Watch::Overload => at_least(self.target, 0, ConfigError::Target)?,
            Watch::Underload => {}
        }
        at_least(self.interval, 1, ConfigError::Interval)
    }

    fn is_bad(&self, sample: &Sample) -> bool {
        match self.watch {
            Watch::Overload if self.target == Span::ZERO => {
                sample.queue_delay > Span::ZERO || sample.backlog > 0
            }
            Watch::Overload => sample.queue_delay >= self.target,
            Watch::Underload => sample.relative.negated() >= self.target,
        }
    }
}

/// An alarm changes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Alarm {
    /// It is raised.
    Set(String),
    /// It is lowered, or was never raised.
    Clear(String),
}

/// Raises and lowers one alarm.
#[derive(Clone, Debug)]
pub struct AlarmMeter {
    config: AlarmConfig,
    set: bool,
    /// When the alarm changes if things stay as they are.
    toggle: Option<Time>,
}

impl AlarmMeter {
    /// Lowers the alarm, in case an earlier life left it raised.
    #[must_use]
    pub fn new(config: AlarmConfig, alarms: &mut Vec<Alarm>) -> AlarmMeter {
        alarms.push(Alarm::Clear(config.alarm.clone()));
        AlarmMeter { config, set: false, toggle: None }
    }

    /// Whether the alarm is raised.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.set
    }

    /// When a sample would help.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.toggle
    }

    /// Looks at a sample.
    pub fn sample(&mut self, sample: &Sample, alarms: &mut Vec<Alarm>) {
        if self.config.is_bad(sample) == self.set {
            self.toggle = None;
            return;
        }
        match self.toggle {
            None => self.toggle = Some(sample.now + self.config.interval),
            Some(at) if at > sample.now => {}
            Some(_) => {
                self.set = !self.set;
                self.toggle = None;
                let name = self.config.alarm.clone();
                alarms.push(if self.set { Alarm::Set(name) } else { Alarm::Clear(name) });
            }
        }
    }

    /// Changes the configuration. The same alarm stays as it is; another begins lowered.
    pub fn reconfigure(&mut self, config: AlarmConfig, alarms: &mut Vec<Alarm>) {
        if config.alarm != self.config.alarm {
            self.end(alarms);
            *self = AlarmMeter::new(config, alarms);
            return;
        }
        let shift = config.interval.as_nanos() - self.config.interval.as_nanos();
        self.toggle = self.toggle.map(|at| at + Span::from_nanos(shift));
        self.config = config;
    }

    /// Lowers the alarm for good.
    pub fn end(&mut self, alarms: &mut Vec<Alarm>) {
        if core::mem::take(&mut self.set) {
            alarms.push(Alarm::Clear(self.config.alarm.clone()));
        }
        self.toggle = None;
    }
}
