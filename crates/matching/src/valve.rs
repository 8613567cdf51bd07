//! How many may run at once, and when one more may start.
//!
//! A valve counts locks; it is *open* while one more may be handed out. It plays the second side
//! of a [`Regulator`](crate::Regulator), which owns the locks. Below `min` every valve is open, at
//! `max` every valve is closed, in between it follows its own rule:
//!
//! | valve | opens | for |
//! | --- | --- | --- |
//! | open | always | a plain limit of concurrency |
//! | relative | once per update below `target` | growing a pool while its clients wait |
//! | codel | while updates stay below `target` for an `interval`, ever faster | the same, calmly |
//! | rate | at most `limit` times in any `interval` | retries, reconnects, restarts |
//! | breaker | unless what it admits keeps failing | a dependency that may be down |
//! | gradient | while work takes no longer than usual | a limit nobody wants to guess |
//!
//! The rules of the first four are those of sbroker's valves (specification sheet, section 2.8),
//! with quirks Q8 (a release always leaves nothing behind: there is nothing here but a number),
//! Q10 and Q11 fixed. Every call takes the time; nothing is remembered about single locks.

use alloc::collections::VecDeque;

use crate::queue::{ConfigError, at_least};
use crate::time::{Span, Time};

mod breaker;
mod codel;
mod gradient;

pub use breaker::Breaker;
use breaker::Fuse;
use codel::Gate;
use gradient::Flow;
pub use gradient::Gradient;

/// What configures a valve.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ValveConfig {
    /// Below this many locks the valve is open.
    pub min: usize,
    /// At this many locks the valve is closed.
    pub max: usize,
    /// What holds in between.
    pub rule: Rule,
}

/// When a valve is open between `min` and `max`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Rule {
    /// Always.
    #[default]
    Open,
    /// Each update below this target admits one.
    Relative(Span),
    /// Updates below `target` for an `interval` admit one, and then more and more.
    Codel {
        /// Updates below it say that there are too few locks. May be negative.
        target: Span,
        /// How long updates must stay low before the first start above `min`.
        interval: Span,
    },
    /// At most `limit` starts above `min` in any `interval`; none in the first, so that whoever
    /// starts anew stays within a quota it may have used up before. What runs counts: at most
    /// `min + limit` at a time.
    Rate {
        /// Starts.
        limit: usize,
        /// Time they are counted over.
        interval: Span,
    },
    /// Unless too much of what was admitted failed.
    Breaker(Breaker),
    /// As many as run without making each other slow.
    Gradient(Gradient),
}

impl Default for ValveConfig {
    fn default() -> ValveConfig {
        ValveConfig { min: 0, max: usize::MAX, rule: Rule::Open }
    }
}

impl ValveConfig {
    /// At most `max` locks.
    #[must_use]
    pub fn limit(max: usize) -> ValveConfig {
        ValveConfig { max, ..ValveConfig::default() }
    }

    /// At most `limit` starts in any `interval`.
    #[must_use]
    pub fn rate(limit: usize, interval: Span) -> ValveConfig {
        ValveConfig { rule: Rule::Rate { limit, interval }, ..ValveConfig::default() }
    }

    /// Whether the configuration makes sense.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.min > self.max {
            return Err(ConfigError::MinAboveMax);
        }
        match self.rule {
            Rule::Open | Rule::Relative(_) => Ok(()),
            Rule::Codel { interval, .. } | Rule::Rate { interval, .. } => {
                at_least(interval, 1, ConfigError::Interval)
            }
            Rule::Breaker(breaker) => breaker.validate(),
            Rule::Gradient(gradient) => gradient.validate(),
        }
    }

    /// The size from which a release counts as "became small".
    fn edge(&self) -> usize {
        match self.rule {
            Rule::Open => self.max,
            Rule::Relative(_)
            | Rule::Codel { .. }
            | Rule::Rate { .. }
            | Rule::Breaker(_)
            | Rule::Gradient(_) => self.min,
        }
    }
}

/// How the work under a lock went. Only a breaker and a gradient valve care.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Report {
    /// How long the lock was held.
    pub held: Span,
    /// Whether the work succeeded.
    pub ok: bool,
}

#[derive(Clone, Debug)]
enum State {
    Open,
    Relative(Relative),
    Codel(Gate),
    Rate(Tokens),
    Breaker(Fuse),
    Gradient(Flow),
}

/// The last thing a relative valve saw, and whether an update is still to be used.
#[derive(Clone, Copy, Debug)]
struct Relative {
    /// The last update, unless it was used up.
    last: Option<Span>,
    updated: Time,
}

/// Times from which one start each is allowed.
#[derive(Clone, Debug)]
struct Tokens {
    times: VecDeque<Time>,
    /// Locks above `min` beyond the limit: their release frees nothing.
    overflow: usize,
}

/// Says whether one more lock may be handed out.
#[derive(Clone, Debug)]
pub struct Valve {
    config: ValveConfig,
    size: usize,
    /// When the size last fell from the edge.
    small: Time,
    state: State,
}

impl Valve {
    /// A valve with `size` locks out.
    #[must_use]
    pub fn new(config: ValveConfig, size: usize, now: Time) -> Valve {
        Valve { config, size, small: now, state: State::new(&config, size, now) }
    }

    /// Locks that are out.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// What configures the valve.
    #[must_use]
    pub fn config(&self) -> &ValveConfig {
        &self.config
    }

    /// Whether one more lock may be handed out.
    #[must_use]
    pub fn is_open(&self, now: Time) -> bool {
        self.opening().is_some_and(|opening| opening <= now)
    }

    /// Since when the valve is open, or when it opens by time alone; `None` while only an event
    /// can open it.
    #[must_use]
    pub fn opening(&self) -> Option<Time> {
        if self.size >= self.config.max {
            return None;
        }
        let small = self.size < self.config.min;
        match &self.state {
            State::Open => Some(self.small),
            State::Rate(tokens) => {
                let front = tokens.times.front().copied();
                if small { Some(front.map_or(self.small, |at| at.min(self.small))) } else { front }
            }
            State::Relative(_) | State::Codel(_) | State::Breaker(_) | State::Gradient(_)
                if small =>
            {
                Some(self.small)
            }
            State::Relative(relative) => self.is_low(relative).then_some(relative.updated),
            State::Codel(gate) => gate.opening(),
            State::Breaker(fuse) => fuse.opening(),
            State::Gradient(flow) => flow.opening(self.size),
        }
    }

    /// When the valve opens by time alone. As in the original a CoDel valve asks for no call: the
    /// next update or request opens it.
    #[must_use]
    pub fn deadline(&self, now: Time) -> Option<Time> {
        match self.state {
            State::Rate(_) | State::Breaker(_) => self.opening().filter(|opening| *opening > now),
            State::Open | State::Relative(_) | State::Codel(_) | State::Gradient(_) => None,
        }
    }

    /// Hands out one more lock; the caller has seen that the valve is open. Returns the time the
    /// opening is attributed to.
    pub fn admit(&mut self, now: Time) -> Time {
        let opening = self.opening().unwrap_or(now);
        self.size += 1;
        let above = self.size > self.config.min;
        match &mut self.state {
            State::Open => {}
            State::Relative(relative) if above => relative.last = None,
            State::Codel(gate) if above => gate.consume(&self.config, now),
            State::Rate(tokens) if above => {
                tokens.times.pop_front();
            }
            State::Breaker(fuse) => fuse.admitted(now),
            State::Gradient(flow) => flow.admitted(self.size),
            State::Relative(_) | State::Codel(_) | State::Rate(_) => {}
        }
        opening
    }

    /// Whether the holder of a lock may go on: the time the opening is attributed to, or `None`
    /// if it must stop; then its lock is gone.
    pub fn go_on(&mut self, now: Time) -> Option<Time> {
        let (size, ValveConfig { min, max, .. }) = (self.size, self.config);
        if let State::Open = self.state {
            if size > max {
                self.release(now, None);
                return None;
            }
            return Some(if size == max { now } else { self.small });
        }
        if size < min {
            return Some(self.small);
        }
        if size == min {
            return Some(now);
        }
        // It goes on if one more could start were it not there.
        let opening = match &self.state {
            State::Relative(relative) => self.is_low(relative).then_some(relative.updated),
            State::Codel(gate) => gate.opening(),
            State::Rate(tokens) => tokens.times.front().copied(),
            State::Breaker(fuse) => fuse.opening(),
            State::Gradient(flow) => flow.opening(size - 1),
            State::Open => Some(self.small),
        };
        let opening = opening.filter(|opening| *opening <= now && size <= max);
        if opening.is_none() {
            self.release(now, None);
            return None;
        }
        match &mut self.state {
            State::Relative(relative) => relative.last = None,
            State::Codel(gate) => gate.consume(&self.config, now),
            State::Rate(tokens) => {
                tokens.times.pop_front();
                tokens.times.push_back(now + self.config.interval());
            }
            State::Open | State::Breaker(_) | State::Gradient(_) => {}
        }
        // Q10: the original attributes a rate valve's opening to `small`.
        opening
    }

    /// A lock came back: its work is done, or its holder is lost.
    pub fn release(&mut self, now: Time, report: Option<Report>) {
        assert!(self.size > 0, "more locks came back than went out");
        let (min, interval) = (self.config.min, self.config.interval());
        match &mut self.state {
            State::Rate(tokens) if self.size > min => match tokens.overflow.checked_sub(1) {
                Some(less) => tokens.overflow = less,
                None => tokens.times.push_back(now + interval),
            },
            State::Breaker(fuse) => fuse.released(now, report),
            State::Gradient(flow) => flow.released(now, report),
            State::Open | State::Relative(_) | State::Codel(_) | State::Rate(_) => {}
        }
        if self.size == self.config.edge() {
            self.small = now;
        }
        self.size -= 1;
    }

    /// How long the regulated side waited for its counterparty: low or negative means that there
    /// are too few locks. Only relative and CoDel valves listen.
    pub fn update(&mut self, now: Time, value: Span) {
        match (&mut self.state, self.config.rule) {
            (State::Relative(relative), _) => {
                *relative = Relative { last: Some(value), updated: now };
            }
            (State::Codel(gate), Rule::Codel { target, interval }) => {
                gate.update(now, value < target, interval);
            }
            (
                State::Open
                | State::Codel(_)
                | State::Rate(_)
                | State::Breaker(_)
                | State::Gradient(_),
                _,
            ) => {}
        }
    }

    /// Changes the configuration. All locks stay out; what the valve knows survives unless its
    /// rule is of another kind.
    pub fn reconfigure(&mut self, now: Time, config: ValveConfig) {
        let was_full = self.size >= self.config.max;
        let before = core::mem::replace(&mut self.config, config);
        match (&mut self.state, before.rule, config.rule) {
            (State::Open, _, Rule::Open) => {
                // Q11: the original tells the next ask of an opening long ago.
                if was_full && self.size < config.max {
                    self.small = now;
                }
            }
            (State::Relative(_), _, Rule::Relative(_)) => {}
            (State::Codel(gate), _, Rule::Codel { interval, .. }) => gate.adjust(now + interval),
            (State::Rate(tokens), Rule::Rate { interval: old, .. }, Rule::Rate { .. }) => {
                let shift = config.interval().as_nanos().saturating_sub(old.as_nanos());
                for at in &mut tokens.times {
                    *at += Span::from_nanos(shift);
                }
                tokens.fit(&config, self.size, now);
            }
            (State::Breaker(fuse), _, Rule::Breaker(breaker)) => fuse.adjust(breaker),
            (State::Gradient(flow), _, Rule::Gradient(gradient)) => flow.adjust(gradient),
            (
                State::Open
                | State::Relative(_)
                | State::Codel(_)
                | State::Rate(_)
                | State::Breaker(_)
                | State::Gradient(_),
                _,
                _,
            ) => *self = Valve::new(config, self.size, now),
        }
    }

    fn is_low(&self, relative: &Relative) -> bool {
        match self.config.rule {
            Rule::Relative(target) => relative.last.is_some_and(|last| last < target),
            Rule::Open
            | Rule::Codel { .. }
            | Rule::Rate { .. }
            | Rule::Breaker(_)
            | Rule::Gradient(_) => false,
        }
    }
}

impl ValveConfig {
    fn interval(&self) -> Span {
        match self.rule {
            Rule::Codel { interval, .. } | Rule::Rate { interval, .. } => interval,
            Rule::Open | Rule::Relative(_) | Rule::Breaker(_) | Rule::Gradient(_) => Span::ZERO,
        }
    }
}

impl State {
    fn new(config: &ValveConfig, size: usize, now: Time) -> State {
        match config.rule {
            Rule::Open => State::Open,
            Rule::Relative(_) => State::Relative(Relative { last: None, updated: now }),
            Rule::Codel { .. } => State::Codel(Gate::new(now)),
            Rule::Rate { .. } => {
                let mut tokens = Tokens { times: VecDeque::new(), overflow: 0 };
                tokens.fit(config, size, now);
                State::Rate(tokens)
            }
            Rule::Breaker(breaker) => State::Breaker(Fuse::new(breaker, now)),
            Rule::Gradient(gradient) => State::Gradient(Flow::new(gradient, now)),
        }
    }
}

impl Tokens {
    /// As many tokens as the limit leaves beside the locks that are out.
    fn fit(&mut self, config: &ValveConfig, size: usize, now: Time) {
        let Rule::Rate { limit, interval } = config.rule else { return };
        let used = size.saturating_sub(config.min);
        self.overflow = used.saturating_sub(limit);
        self.times.resize(limit.saturating_sub(used), now + interval);
    }
}
