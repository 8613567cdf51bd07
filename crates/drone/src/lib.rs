//! A drone: it pulls typed tasks from a shared, global queue into a local one and keeps the workers
//! that do them.
//!
//! ```text
//!   global queue ──claims──▶ Drone ──tasks──▶ workers (processes, services, Rust)
//!        ▲                   │  core: who does which task next; reads no clock
//!        └────outcomes───────┤  journal: the local queue, on disk
//! ```
//! * [`plan`] says what a drone is to do.
//! * [`core`] holds the rules: leases, lines, chains, pools that grow and shrink.
//! * [`Global`] is the shared queue: any [`store::Store`], or one you bring.
//! * [`Drone`] runs it all on tokio.

pub mod core;
pub mod exec;
pub mod plan;

mod drone;
mod global;
mod hand_in;
mod journal;
mod worker;

pub use drone::{Control, Drone, Ended, Setup, Status};
pub use global::{Direct, Global};
pub use journal::{Journal, Left, Unusable};
pub use worker::{Handler, Handlers};
