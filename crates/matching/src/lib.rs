//! Match-making between two sides that wait for each other, and what keeps it healthy.
//!
//! One side *asks*, the other side asks back (`ask_r`: a worker that offers itself, a connection
//! that became free). Each side waits in a [`Queue`] kept by a [`Discipline`]; the [`Broker`]
//! seats them. It is Erlang's `sbroker` as plain state machines, its defects fixed.
//!
//! ```text
//!   ask ──▶ ┌───────────┐        ┌───────────┐ ◀── ask_r
//!           │ Queue<A>  │ match  │ Queue<R>  │
//!   drop ◀─ │ discipline│◀──────▶│ discipline│ ─▶ drop
//!           └───────────┘        └───────────┘
//! ```
//!
//! | type | does |
//! | --- | --- |
//! | [`Queue`] | one line: FIFO, LIFO or adaptive; drop, timeout, CoDel or aim |
//! | [`FairQueue`] | a line per key, served in turn |
//! | [`AnyLine`] | one of the two, which may become the other |
//! | [`Broker`] | two lines that meet |
//! | [`Regulator`] | one line before a [`Valve`] that says how many may run |
//! | [`Protector`] | refuses before anything was spent |
//! | [`balancer`] | which of several brokers |
//! | [`AlarmMeter`], [`UpdateMeter`], [`BetterMeter`], [`PieMeter`] | what follows from it |
//!
//! Every call takes the time as an argument and says when it next wants to be called. Dropped
//! waiters are pushed into a buffer the caller brings, each with a [`Reason`].
//!
//! With the feature `tokio` there are brokers, regulators and pools to await, in `live`; with
//! `tower` a layer that keeps a line before any service.
//!
//! What is absent from all the rest: clocks, threads, sockets, services, bytes. A `Broker` matches
//! values it never looks at.
//!
//! ```
//! use matching::{Broker, Drops, Outcome, QueueConfig, Span, Time};
//!
//! let requests = QueueConfig::timeout(Span::from_millis(500));
//! let workers = QueueConfig::default();
//! let mut broker: Broker<&str, u32> = Broker::new(requests, workers, Time::ZERO);
//! let mut drops = Drops::default();
//!
//! let now = Time::from_millis(10);
//! assert!(matches!(broker.ask(now, now, "resize", &mut drops), Outcome::Waiting(_)));
//! let now = Time::from_millis(15);
//! let Outcome::Matched(seated) = broker.ask_r(now, now, 7, &mut drops) else { unreachable!() };
//! assert_eq!((seated.ask.value, seated.ask_r.value), ("resize", 7));
//! assert_eq!(seated.ask.sojourn(now), Span::from_millis(5));
//! ```
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "tokio"))]
extern crate std;

mod time;

mod queue;

mod fair;

mod line;

mod any;

mod broker;

mod valve;

mod regulator;

mod meter;

mod protector;

pub mod balancer;

#[cfg(feature = "tokio")]
pub mod live;

#[cfg(test)]
mod tests;

pub use any::{AnyConfig, AnyKey, AnyLine, WEIGHTS};
pub use broker::{Broker, Drops, Match, Outcome, Party, Side};
pub use fair::{FairConfig, FairKey, FairQueue};
pub use line::{Flow, Line};
pub use meter::{Alarm, AlarmConfig, AlarmMeter, BetterConfig, BetterMeter, PieConfig, PieMeter};
pub use meter::{PieSide, Published, Sample, Target, UpdateMeter, Watch};
pub use protector::{PARTS, Protector, parts};
pub use queue::{Aim, Codel, ConfigError, Discipline, DropFrom, Order, QueueConfig};
pub use queue::{Dropped, Entry, Key, Queue, Reason};
pub use regulator::{Admissions, Admitted, GoOn, Lock, Regulator};
pub use time::{Span, Time};
pub use valve::{Breaker, Gradient, Report, Rule, Valve, ValveConfig};

/// The examples of the README are tests.
#[cfg(all(doctest, feature = "tower"))]
#[doc = include_str!("../README.md")]
pub struct Readme;
