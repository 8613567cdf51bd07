//! What configures a line, and which configurations make sense.

use core::fmt;

use crate::time::Span;

/// Who is handed out first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Order {
    /// The one who waited longest (FIFO).
    #[default]
    Fifo,
    /// The one who came last (LIFO): the freshest waiter is the likeliest to be still there.
    Lifo,
    /// FIFO as long as the line is healthy, LIFO while it sheds load
    /// ([`Discipline::Codel`], [`Discipline::Aim`]): then those who came last are served in time
    /// and those who are late anyway wait in vain.
    Adaptive,
}

/// Who makes room when the line is full.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DropFrom {
    /// The newcomer is refused.
    #[default]
    Back,
    /// The oldest is dropped and the newcomer takes the last place.
    Front,
}

/// How waiters leave a line other than by a match.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Discipline {
    /// Only the capacity bounds the line.
    #[default]
    Drop,
    /// A waiter is dropped once it has waited this long (equality drops).
    Timeout(Span),
    /// The oldest are dropped, faster and faster, while the line stays slow.
    Codel(Codel),
    /// Whoever is older than twice the aim is shed while the aim is missed.
    Aim(Aim),
}

/// The two knobs of CoDel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Codel {
    /// A wait that is good enough: below it nobody is dropped. 5 to 20 % of `interval`.
    pub target: Span,
    /// How long the line must be slow before the first drop: the time a client takes to react,
    /// or the 95th percentile of the time it takes to serve.
    pub interval: Span,
}

impl Default for Codel {
    /// `sbroker`'s own: 100 ms and 1 s.
    fn default() -> Codel {
        Codel { target: Span::from_millis(100), interval: Span::from_secs(1) }
    }
}

/// What a line promises those it serves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Aim {
    /// The wait to aim for.
    pub aim: Span,
    /// How long the aim must be missed before the line sheds load.
    pub interval: Span,
    /// Nobody waits longer than this, even in a line that keeps its aim now and then.
    pub give_up: Span,
}

/// Everything that configures one line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QueueConfig {
    /// Who is handed out first.
    pub order: Order,
    /// Who makes room at `max`. A `max` of 0 always refuses the newcomer.
    pub drop_from: DropFrom,
    /// No waiter is dropped for age while the line has at most this many.
    pub min: usize,
    /// Most waiters the line holds.
    pub max: usize,
    /// How waiters are dropped for age.
    pub discipline: Discipline,
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        QueueConfig {
            order: Order::Fifo,
            drop_from: DropFrom::Back,
            min: 0,
            max: usize::MAX,
            discipline: Discipline::Drop,
        }
    }
}

impl QueueConfig {
    /// A FIFO line whose waiters give up after `timeout`.
    #[must_use]
    pub fn timeout(timeout: Span) -> QueueConfig {
        QueueConfig { discipline: Discipline::Timeout(timeout), ..QueueConfig::default() }
    }

    /// A FIFO line that CoDel keeps near `target`.
    #[must_use]
    pub fn codel(target: Span, interval: Span) -> QueueConfig {
        let codel = Codel { target, interval };
        QueueConfig { discipline: Discipline::Codel(codel), ..QueueConfig::default() }
    }

    /// A FIFO line that aims for a wait of `aim` and in which nobody waits longer than `give_up`.
    /// It is judged every four times `aim`.
    #[must_use]
    pub fn aim(aim: Span, give_up: Span) -> QueueConfig {
        QueueConfig::aim_judged(aim, aim.times(4), give_up)
    }

    /// As [`aim`](QueueConfig::aim), judged every `interval`.
    #[must_use]
    pub fn aim_judged(aim: Span, interval: Span, give_up: Span) -> QueueConfig {
        let aim = Aim { aim, interval, give_up };
        QueueConfig { discipline: Discipline::Aim(aim), ..QueueConfig::default() }
    }

    /// The same line holding at most `max` waiters.
    #[must_use]
    pub fn with_max(self, max: usize) -> QueueConfig {
        QueueConfig { max, ..self }
    }

    /// The same line with another order of hand-out.
    #[must_use]
    pub fn with_order(self, order: Order) -> QueueConfig {
        QueueConfig { order, ..self }
    }

    /// Whether the configuration makes sense. Whoever changes a live line asks first, so that a
    /// bad value harms nobody who waits (quirk Q12).
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.min > self.max {
            return Err(ConfigError::MinAboveMax);
        }
        match self.discipline {
            Discipline::Drop => Ok(()),
            Discipline::Timeout(timeout) => at_least(timeout, 0, ConfigError::Timeout),
            Discipline::Codel(Codel { target, interval }) => {
                at_least(target, 0, ConfigError::Target)?;
                at_least(interval, 1, ConfigError::Interval)
            }
            Discipline::Aim(Aim { aim, interval, give_up }) => {
                at_least(aim, 1, ConfigError::Aim)?;
                at_least(interval, 1, ConfigError::Interval)?;
                at_least(give_up, aim.as_nanos(), ConfigError::GiveUp)
            }
        }
    }

    pub(super) fn evicts_front(&self) -> bool {
        self.drop_from == DropFrom::Front && self.max > 0
    }
}

/// What is wrong with a configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConfigError {
    /// `min` is above `max`.
    MinAboveMax,
    /// A timeout below zero.
    Timeout,
    /// A target below zero.
    Target,
    /// An interval that is not above zero.
    Interval,
    /// An aim that is not above zero.
    Aim,
    /// Giving up before the aim.
    GiveUp,
    /// No flows at all.
    Flows,
    /// A breaker without failures or probes, or with more than 100 percent.
    Breaker,
    /// A rule of a valve that cannot size a pool.
    Rule,
    /// A pause that is not above zero, or above its own maximum.
    Retry,
    /// Nobody to update.
    NoTarget,
    /// The same regulator and side twice.
    DuplicateTarget,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConfigError::MinAboveMax => "min must not be above max",
            ConfigError::Timeout => "timeout must not be negative",
            ConfigError::Target => "target must not be negative",
            ConfigError::Interval => "interval must be above zero",
            ConfigError::Aim => "aim must be above zero",
            ConfigError::GiveUp => "give_up must not be below aim",
            ConfigError::Flows => "flows must be above zero",
            ConfigError::Breaker => "failures and probes must be above zero, percent at most 100",
            ConfigError::Rule => "a pool is sized by an open, relative, codel or rate valve",
            ConfigError::Retry => "retry must be above zero and not above retry_max",
            ConfigError::NoTarget => "there must be somebody to update",
            ConfigError::DuplicateTarget => "a regulator and side stand there twice",
        })
    }
}

impl core::error::Error for ConfigError {}

pub(crate) fn at_least(span: Span, nanos: i64, error: ConfigError) -> Result<(), ConfigError> {
    if span.as_nanos() < nanos { Err(error) } else { Ok(()) }
}
