//! The broker in a house of cards: virtual time, a network made up, peers that fail, and checkers.
#![allow(clippy::missing_panics_doc, reason = "a simulator that finds nonsense must stop")]

mod bug;

mod log;

mod rng;

mod rules;

mod house;

pub use bug::Bug;
pub use log::{Keep, Log};
pub use rng::Rng;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use engine::Span;

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Everything else follows from it.
    pub seed: u64,
    /// What is simulated.
    pub stage: Stage,
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// What becomes of the log.
    pub keep: Keep,
}

/// What is simulated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// The engine alone against a model of its rules.
    Rules,
    /// Whole shards, as many as said, with a network and peers.
    House(u8),
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Report {
    /// How long it lasted.
    pub virtual_time: Span,
    /// Requests taken by the broker.
    pub requests: u64,
    /// Requests answered.
    pub answered: u64,
}

/// A rule that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The checker's name.
    pub rule: &'static str,
    /// When, since the run began.
    pub at: Span,
    /// What was seen.
    pub text: String,
}

impl Violation {
    /// The stage fills in the time.
    fn new(rule: &'static str, text: String) -> Violation {
        Violation { rule, at: Span::ZERO, text }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule \"{}\" broken at {}: {}", self.rule, self.at, self.text)
    }
}

/// Runs a scenario. Returns its log whatever happened. A panic is a violation like others.
pub fn run(scenario: &Scenario) -> (Log, Result<Report, Violation>) {
    let mut log = Log::new(scenario.keep);
    let result = catch_unwind(AssertUnwindSafe(|| match scenario.stage {
        Stage::Rules => rules::run(scenario, &mut log),
        Stage::House(shards) => house::run(scenario, shards, &mut log),
    }));
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()));
        let text = text.unwrap_or_default();
        Err(Violation { rule: "no panic", at: Span::ZERO, text })
    });
    (log, result)
}
