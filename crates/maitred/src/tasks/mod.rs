//! Durable tasks: what the broker does with the store.
//!
//! ```text
//!   HTTP ────────────────┐
//!   reactor ─errands─▶ mdp ├─▶ Desk ─calls─▶ store (its own thread)
//!            ▲           │     │  ◀─answers, notices──┘
//!            └──inbox────┘     └─▶ runner: tasks that the broker itself carries to services
//! ```
//! Nothing here waits on the reactor's thread: calls leave it as batches, and answers come back
//! through its inbox. What a task is and what may become of it is decided by the crate `store`
//! alone; here its words are read and its answers written.

mod desk;

mod waits;

mod open;

pub(crate) mod words;

pub(crate) mod view;

mod rights;

mod mdp;

mod titanic;

mod runner;

pub(crate) use desk::{Ask, Claimed, Desk, Ended};
pub(crate) use mdp::{Answered, check_claim};
pub(crate) use open::{Opened, Options, StoreUrl, Unopened, level_name, open_store};
pub(crate) use rights::{check_sees, may_enqueue, may_serve};
pub(crate) use runner::Plan;
pub(crate) use words::Denial;
