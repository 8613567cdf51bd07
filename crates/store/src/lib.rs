//! Durable tasks: work that must not be lost, in SQLite, PostgreSQL or wherever you bring it.
//!
//! ```text
//!   Store (trait) ── Engine ──inbox──▶ committer (one thread) ──▶ core (the rules) ──▶ rows
//!                       ▲                  one commit per batch         memory, sqlite, postgres
//!                       └────replies and notices, after the commit────────┘
//! ```
//! * [`Store`] is what callers see: batches in, answers through a [`Reply`] once they are durable.
//! * The rules of a task's life are written once, in `core`, over the narrow interface `rows`.
//! * What a fault of an engine means is decided once, in `committer`.
//! * [`contract::check`] is the suite that every store passes, also one you bring.
//!
//! Time is an argument ([`Now`]; [`Clock`] makes one), jitter is derived from the task: nothing in
//! the rules reads a clock or draws a number. What is absent: protocols, workers, payload formats.
//!
//! ```
//! use store::{Claim, Clock, NewTask, Outcome, Settle, Store, memory, wait};
//!
//! let (store, _) = memory::open(Default::default()).expect("a thread");
//! let clock = Clock::new();
//! let tasks = vec![NewTask::new("mail", "to: all")];
//! let made = wait(|reply| store.enqueue(clock.now(), tasks, reply)).expect("room");
//! let id = made[0].as_ref().expect("a good task").id;
//!
//! let types = vec!["mail".into()];
//! let claim = Claim { types, limit: 10, lease_ms: None, worker: "w1".into() };
//! let leases = wait(|reply| store.claim(clock.now(), claim, reply)).expect("an answer");
//! assert_eq!((leases[0].token.task, &leases[0].payload[..]), (id, &b"to: all"[..]));
//!
//! let settle = Settle { token: leases[0].token, outcome: Outcome::Complete(b"sent".to_vec()) };
//! wait(|reply| store.settle(clock.now(), vec![settle], reply)).expect("an answer");
//! ```

pub mod api;
pub mod contract;
pub mod cron;
pub mod limits;
pub mod memory;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod promises;
#[cfg(feature = "sqlite")]
pub mod sqlite;

mod clock;
mod committer;
mod core;
mod flows;
mod row;
mod rows;
#[cfg(any(feature = "nats", feature = "postgres"))]
mod said;
mod task;
mod text;

pub use self::core::Settings;
pub use api::*;
pub use clock::Clock;
pub use committer::Engine;
pub use task::*;
