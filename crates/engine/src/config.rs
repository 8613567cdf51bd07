//! What an operator decides about services.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::num::NonZero;

use matching::{AnyConfig, Codel, Order, PieConfig, QueueConfig, Span, Time, ValveConfig, WEIGHTS};

use crate::guard::Principals;
use crate::meeting::MeetingRules;

/// The rules of one service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServiceConfig {
    /// How often a request is given to a worker before it is refused with `workers_failed`.
    /// 1 = never run twice.
    pub max_deliveries: u32,
    /// Most requests that wait.
    pub queue_max: usize,
    /// Most payload bytes that wait.
    pub queue_bytes: u64,
    /// What becomes of a request that finds the line full.
    pub when_full: AtBound,
    /// How long a request may wait; [`Span::MAX`] = as long as its client stays.
    pub give_up: Span,
    /// The wait to aim for: while even the shortest wait is longer, requests that waited twice as
    /// long are shed with `overload`. [`Span::MAX`] = nothing is shed for the wait of others.
    pub aim: Span,
    /// Keep the line with CoDel instead of an aim.
    pub codel: Option<Codel>,
    /// How long the aim must be missed before load is shed; `None` = four times the aim.
    pub aim_interval: Option<Span>,
    /// Which request is served first.
    pub order: Order,
    /// Nobody is dropped for age while at most this many wait.
    pub keep: usize,
    /// Whether those who ask take turns.
    pub fair: Option<Fair>,
    /// Which free worker is given the next request: FIFO the one used least recently.
    pub workers: Order,
    /// How many requests may run.
    pub valve: Option<ValveRules>,
    /// Refuse newcomers by chance while the wait is over a target.
    pub protect: Option<PieConfig>,
    /// Raise an alarm while requests wait too long.
    pub alarm: Option<AlarmRules>,
    /// How long a worker may hold a request; [`Span::MAX`] = as long as it lives.
    pub execution_limit: Span,
    /// Answer refused requests in band where the protocol has no refusal.
    pub answer_refusals: bool,
}

/// What becomes of a request that finds its line full.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AtBound {
    /// Its connection is not read further until there is room; who can be told no is refused.
    #[default]
    HoldBack,
    /// It is refused.
    Refuse,
    /// The oldest that wait make room for it.
    DropOldest,
}

/// Those who ask take turns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fair {
    /// Who is one of them.
    pub by: FairBy,
    /// Most turns: who hashes alike shares one.
    pub flows: NonZero<u64>,
}

/// What tells those who ask from one another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FairBy {
    /// Their connection.
    Connection,
    /// Who they proved to be.
    Principal,
    /// The first frame of the body.
    FirstFrame,
    /// What the protocol's header says; without one, the connection.
    Header,
    /// Their principal's [`Class`](crate::Class): while all three wait, of 21 that are served 16
    /// are of the high class, 4 normal and 1 low, so that nobody starves.
    Class,
}

/// Turns of a line that is fair by class.
const CLASSES: NonZero<u64> = NonZero::new(WEIGHTS as u64).expect("above zero");

/// Hand-outs per turn of the classes, the highest first.
const CLASS_WEIGHTS: [NonZero<u32>; WEIGHTS] = [
    NonZero::new(16).expect("above zero"),
    NonZero::new(4).expect("above zero"),
    NonZero::<u32>::MIN,
];

/// How many requests may run, and what becomes of others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ValveRules {
    /// The valve. It counts requests held by workers.
    pub valve: ValveConfig,
    /// Refuse newcomers while it is shut instead of letting them wait.
    pub refuse: bool,
}

/// When to raise an alarm.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AlarmRules {
    /// The oldest request waits at least this long …
    pub wait: Span,
    /// … for this long; as long it must be better before the alarm ends.
    pub lasting: Span,
}

impl Default for ServiceConfig {
    fn default() -> ServiceConfig {
        ServiceConfig {
            max_deliveries: 3,
            queue_max: 1_000_000,
            queue_bytes: 1 << 30,
            when_full: AtBound::HoldBack,
            give_up: Span::MAX,
            aim: Span::MAX,
            codel: None,
            aim_interval: None,
            order: Order::Fifo,
            keep: 0,
            fair: None,
            workers: Order::Fifo,
            valve: None,
            protect: None,
            alarm: None,
            execution_limit: Span::MAX,
            answer_refusals: false,
        }
    }
}

impl ServiceConfig {
    /// The line of requests; the engine bounds their number and bytes itself, because at a bound a
    /// client may be held back instead.
    #[must_use]
    pub fn line(&self) -> AnyConfig {
        let line = match (self.codel, self.aim, self.give_up) {
            (Some(Codel { target, interval }), ..) => QueueConfig::codel(target, interval),
            (None, Span::MAX, Span::MAX) => QueueConfig::default(),
            (None, Span::MAX, give_up) => QueueConfig::timeout(give_up),
            (None, aim, give_up) => match self.aim_interval {
                None => QueueConfig::aim(aim, give_up),
                Some(interval) => QueueConfig::aim_judged(aim, interval, give_up),
            },
        };
        let line = QueueConfig { order: self.order, min: self.keep, ..line };
        let plain = AnyConfig::from(line);
        match self.fair {
            None => plain,
            Some(Fair { by: FairBy::Class, .. }) => {
                AnyConfig { flows: Some(CLASSES), weights: CLASS_WEIGHTS, ..plain }
            }
            Some(Fair { flows, .. }) => AnyConfig { flows: Some(flows), ..plain },
        }
    }

    /// The line of offers.
    pub(crate) fn offers(&self) -> QueueConfig {
        QueueConfig { order: self.workers, ..QueueConfig::default() }
    }

    /// The line of leases: its timeout is the execution limit.
    pub(crate) fn leases(&self) -> QueueConfig {
        match self.execution_limit {
            Span::MAX => QueueConfig::default(),
            limit => QueueConfig::timeout(limit),
        }
    }

    /// Until when a request may wait, where the discipline does not know that itself.
    #[must_use]
    pub fn wait_limit(&self, since: Time) -> Option<Time> {
        (self.codel.is_some() && self.give_up != Span::MAX).then(|| since + self.give_up)
    }

    /// The word for how the line is kept, used in metrics and listings.
    #[must_use]
    pub fn discipline(&self) -> &'static str {
        match (self.codel, self.aim, self.give_up) {
            (Some(_), ..) => "codel",
            (None, Span::MAX, Span::MAX) => "drop",
            (None, Span::MAX, _) => "timeout",
            (None, ..) => "aim",
        }
    }
}

/// The rules of all services.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// For services that nothing below names.
    pub defaults: ServiceConfig,
    /// By exact name.
    pub by_name: BTreeMap<Box<[u8]>, ServiceConfig>,
    /// By prefix, the longest match wins; an exact name wins over every prefix.
    pub by_prefix: Vec<(Box<[u8]>, ServiceConfig)>,
    /// Where processes meet.
    pub meetings: MeetingRules,
    /// Who may do what.
    pub principals: Principals,
    /// Most services at a time. Each costs about 1.2 kilobytes.
    pub services_max: usize,
    /// Most offers one worker may make.
    pub concurrency_max: u32,
    /// How long a service without workers and requests is remembered.
    pub service_idle: Span,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            defaults: ServiceConfig::default(),
            by_name: BTreeMap::new(),
            by_prefix: Vec::new(),
            meetings: MeetingRules::default(),
            principals: Principals::new(),
            services_max: 1_000_000,
            concurrency_max: 65_536,
            service_idle: Span::from_secs(60),
        }
    }
}

impl Config {
    /// The rules of the service called `name`.
    #[must_use]
    pub fn service(&self, name: &[u8]) -> &ServiceConfig {
        if let Some(config) = self.by_name.get(name) {
            return config;
        }
        let longest = self
            .by_prefix
            .iter()
            .filter(|(prefix, _)| name.starts_with(prefix))
            .max_by_key(|(prefix, _)| prefix.len());
        longest.map_or(&self.defaults, |(_, config)| config)
    }
}
