//! What a writer said was answered, and whether a store still knows it.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use store::sqlite::{self, Options};
use store::{Answer, Claim, Clock, Query, State, Store, TaskId, wait};

/// The lines of `load write`, which no store has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) enqueued: HashSet<u64>,
    pub(crate) completed: HashSet<u64>,
    /// Completed more than once.
    pub(crate) twice: Vec<u64>,
    pub(crate) fences: HashSet<u64>,
    pub(crate) last_fence: u64,
    pub(crate) other: Vec<String>,
}

impl Ledger {
    pub(crate) fn note(&mut self, line: &str) {
        let number = |text: &str| text.parse::<u64>().expect("a number");
        if let Some(id) = line.strip_prefix('+') {
            assert!(self.enqueued.insert(number(id)), "{id} was given twice");
        } else if let Some(id) = line.strip_prefix('-') {
            if !self.completed.insert(number(id)) {
                self.twice.push(number(id));
            }
        } else if let Some(rest) = line.strip_prefix('=') {
            let (_, fence) = rest.split_once(' ').expect("a fence");
            assert!(number(fence) > self.last_fence, "fences ascend: {line}");
            self.last_fence = number(fence);
            self.fences.insert(number(fence));
        } else {
            self.other.push(line.to_owned());
        }
    }

    /// Adds what another writer of the same store said.
    pub(crate) fn add(&mut self, other: Ledger) {
        for id in other.enqueued {
            assert!(self.enqueued.insert(id), "{id} was given twice");
        }
        for id in other.completed {
            if !self.completed.insert(id) {
                self.twice.push(id);
            }
        }
        for fence in other.fences {
            assert!(self.fences.insert(fence), "fence {fence} was given twice");
        }
        self.twice.extend(other.twice);
        self.last_fence = self.last_fence.max(other.last_fence);
        self.other.extend(other.other);
    }

    /// What of it the store at `path` does not know. It may know more: what was done but not
    /// answered.
    pub(crate) fn missing_from(&self, path: &Path) -> Result<Vec<String>, sqlite::Refused> {
        let clock = Clock::new();
        let (store, _) = sqlite::open(path, &clock, Options::default())?;
        // Its leases ended with the process that had them.
        let missing = self.missing_in(&store, &clock, &[State::Ready]);
        store.close();
        Ok(missing)
    }

    /// What of it a store does not know. What was not completed is in one of the `open` states.
    pub(crate) fn missing_in(
        &self,
        store: &dyn Store,
        clock: &Clock,
        open: &[State],
    ) -> Vec<String> {
        let mut missing = Vec::new();
        let states: HashMap<u64, State> = self
            .enqueued
            .iter()
            .filter_map(|id| {
                let query = Query::Task(TaskId(*id));
                match wait(|reply| store.query(clock.now(), query, reply)) {
                    Ok(Answer::Task(Some(task))) => Some((*id, task.state)),
                    _ => None,
                }
            })
            .collect();
        for id in &self.enqueued {
            match states.get(id) {
                None => missing.push(format!("{id} was enqueued and is unknown")),
                Some(State::Done) => {}
                Some(state) if self.completed.contains(id) => {
                    missing.push(format!("{id} was completed and is {state:?}"));
                }
                Some(state) if open.contains(state) => {}
                Some(state) => missing.push(format!("{id} should be {open:?} and is {state:?}")),
            }
        }
        let claim =
            Claim { types: vec!["load".into()], limit: 1, lease_ms: None, worker: "".into() };
        let leases = wait(|reply| store.claim(clock.now(), claim, reply)).expect("a claim");
        for lease in leases {
            if lease.token.fence <= self.last_fence {
                missing.push(format!("fence {} was given before", lease.token.fence));
            }
        }
        missing
    }
}
