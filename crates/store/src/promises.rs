//! What a store promises, by number, and who keeps the promise. `docs/stores.md` says what each
//! means on each engine; a test compares that table with what the engines say here.

use serde::Serialize;

/// Who keeps a promise.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeper {
    /// This code does, and a test shows it.
    Ours,
    /// The server does; what of it can be seen is checked when the store is opened.
    Server,
    /// Nobody: it is not given.
    Nobody,
}

/// Who keeps P1 to P10, in this order.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Promises(pub [Keeper; 10]);

/// What each promise is about, in their order.
pub const NAMES: [&str; 10] = [
    "an answered enqueue is on stable storage",
    "at least once until a terminal settle",
    "one valid lease at a time, with a fence that never repeats",
    "a settle may be repeated",
    "attempts are bounded",
    "a delay is a floor; clocks that jump end no lease",
    "a full disk refuses enqueues, a failed fsync stops",
    "damage is noticed and never passed on",
    "order by priority, fair key and enqueueing",
    "the loss of a machine is survived",
];

impl Promises {
    /// Who keeps promise number `number` (from 1).
    #[must_use]
    pub fn keeper(&self, number: usize) -> Keeper {
        self.0.get(number.wrapping_sub(1)).copied().unwrap_or(Keeper::Nobody)
    }
}
