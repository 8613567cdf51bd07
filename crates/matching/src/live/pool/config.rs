//! What configures a pool.

use crate::queue::{ConfigError, Discipline, Order, QueueConfig, at_least};
use crate::time::Span;
use crate::valve::{Rule, ValveConfig};

/// Everything that configures a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolConfig {
    /// How the line of clients is kept.
    pub clients: QueueConfig,
    /// How the line of idle resources is kept: who is handed out first, and which are retired.
    /// `min` of [`size`](PoolConfig::size) always stay.
    pub idle: QueueConfig,
    /// How many resources there are, and when there may be one more.
    pub size: ValveConfig,
    /// How long to wait after a resource could not be made, doubled each time one more fails.
    pub retry: Span,
    /// But no longer than this.
    pub retry_max: Span,
}

impl PoolConfig {
    /// Clients aim for a wait of `aim` and give up after `give_up`. There are `min` to `max`
    /// resources, one more at once when a client would have to wait; those idle for a minute end.
    #[must_use]
    pub fn aim(aim: Span, give_up: Span, min: usize, max: usize) -> PoolConfig {
        PoolConfig {
            clients: QueueConfig::aim(aim, give_up),
            size: ValveConfig { min, max, rule: Rule::Open },
            ..PoolConfig::default()
        }
    }

    /// Whether the configuration makes sense.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.clients.validate()?;
        self.size.validate()?;
        self.idle_line().validate()?;
        match self.size.rule {
            Rule::Open | Rule::Relative(_) | Rule::Codel { .. } | Rule::Rate { .. } => {}
            Rule::Breaker(_) | Rule::Gradient(_) => return Err(ConfigError::Rule),
        }
        at_least(self.retry, 1, ConfigError::Retry)?;
        at_least(self.retry_max, self.retry.as_nanos(), ConfigError::Retry)
    }

    /// The line of idle resources never goes below the pool's `min`.
    pub(super) fn idle_line(&self) -> QueueConfig {
        QueueConfig { min: self.idle.min.max(self.size.min), ..self.idle }
    }

    /// The valve lets the first resource be made at once, whatever its rule.
    pub(super) fn valve(&self) -> ValveConfig {
        ValveConfig { min: self.size.min.max(1).min(self.size.max), ..self.size }
    }

    /// Whether the valve listens to how long clients wait.
    pub(super) fn listens(&self) -> bool {
        match self.size.rule {
            Rule::Relative(_) | Rule::Codel { .. } => true,
            Rule::Open | Rule::Rate { .. } | Rule::Breaker(_) | Rule::Gradient(_) => false,
        }
    }

    /// How long to wait when the last `failures` resources could not be made.
    pub(super) fn pause(&self, failures: u32) -> Span {
        let doubled = 1_i64.checked_shl(failures.saturating_sub(1)).filter(|times| *times > 0);
        self.retry.times(doubled.unwrap_or(i64::MAX)).min(self.retry_max)
    }
}

impl Default for PoolConfig {
    /// Clients wait up to 5 s. Up to 10 resources, made when a client would have to wait; the one
    /// that came back last goes out first, and those idle for a minute end. Tries again after
    /// 100 ms to 10 s.
    fn default() -> PoolConfig {
        PoolConfig {
            clients: QueueConfig::timeout(Span::from_secs(5)),
            idle: QueueConfig {
                order: Order::Lifo,
                discipline: Discipline::Timeout(Span::from_secs(60)),
                ..QueueConfig::default()
            },
            size: ValveConfig::limit(10),
            retry: Span::from_millis(100),
            retry_max: Span::from_secs(10),
        }
    }
}
