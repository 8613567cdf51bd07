//! Sessions: what peers say in their protocols, in the engine's words, and back.
//!
//! ```text
//!  bytes ─▶ zmtp ─▶ mdp, ppp ─Event─▶ engine ─Effect─▶ mdp, ppp ─▶ Outbox ─▶ bytes
//!           stomp ─▶ stomp                             stomp
//!           └──────────────────────── Shard ───────────────────────┘
//! ```
//!
//! A [`Shard`] is everything of the broker that does no I/O: connections, their sessions, the
//! engine and one timer wheel. The shell brings bytes and the time and carries bytes away; the
//! simulator does the same with a network it made up. Heartbeats, protocol versions and misuse end
//! here: the engine hears `Offer`, `Withdraw`, `Gone`.
//!
//! A body is a run of ZMTP frames as they stood on the wire, so a request is forwarded without
//! being taken apart.
//!
//! What is absent: sockets, clocks, threads, logs. What is worth a log line is left in
//! [`Shard::notes`] for the shell.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod shard;

mod floor;

mod wire;

mod mdp;

mod meet;

mod ppp;

mod stomp;

mod talk;

mod topics;

mod tongue;

mod outbox;

mod strikes;

mod door;

mod errand;

mod config;

#[cfg(test)]
mod tests;

pub use config::{Dialect, Limits, Pair, ShardConfig, Speaks};
pub use door::Credentials;
pub use errand::{Errand, Sender, TASKS, TITANIC};
pub use floor::{CloseReason, Cross, Note, Outcome};
pub use mdp::{FAILED, REFUSED, is_reserved};
pub use meet::ReadRules;
pub use outbox::Outbox;
pub use shard::{Call, ConnView, Counters, Lease, Shard, Want, home_of};
pub use tongue::PROTOCOLS;
pub use wire::Bytes;

/// Bodies from this size on are shared by reference count instead of being copied.
pub const LARGE_BODY: usize = 16 * 1024;
