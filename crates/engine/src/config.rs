//! What an operator decides about services.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use matching::{QueueConfig, Span};

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
    /// How long a request may wait; [`Span::MAX`] = as long as its client stays.
    pub give_up: Span,
    /// The wait to aim for: while even the shortest wait is longer, requests that waited twice as
    /// long are shed with `overload`. [`Span::MAX`] = nothing is shed for the wait of others.
    pub aim: Span,
    /// How long a worker may hold a request; [`Span::MAX`] = as long as it lives.
    pub execution_limit: Span,
    /// Answer refused requests in band where the protocol has no refusal.
    pub answer_refusals: bool,
}

impl Default for ServiceConfig {
    fn default() -> ServiceConfig {
        ServiceConfig {
            max_deliveries: 3,
            queue_max: 1_000_000,
            queue_bytes: 1 << 30,
            give_up: Span::MAX,
            aim: Span::MAX,
            execution_limit: Span::MAX,
            answer_refusals: false,
        }
    }
}

impl ServiceConfig {
    /// The line in which requests wait, in the order they came. The engine bounds their number and
    /// bytes itself.
    #[must_use]
    pub fn line(&self) -> QueueConfig {
        if self.aim != Span::MAX {
            QueueConfig::aim(self.aim, self.give_up)
        } else if self.give_up != Span::MAX {
            QueueConfig::timeout(self.give_up)
        } else {
            QueueConfig::default()
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
    /// Most services at a time. Each costs about half a kilobyte.
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
            services_max: 1_000_000,
            concurrency_max: 65_536,
            service_idle: Span::from_secs(60),
        }
    }
}

impl Config {
    /// The rules of the service called `name`.
    #[must_use]
    pub fn service(&self, name: &[u8]) -> ServiceConfig {
        if let Some(config) = self.by_name.get(name) {
            return *config;
        }
        let longest = self
            .by_prefix
            .iter()
            .filter(|(prefix, _)| name.starts_with(prefix))
            .max_by_key(|(prefix, _)| prefix.len());
        longest.map_or(self.defaults, |(_, config)| *config)
    }
}
