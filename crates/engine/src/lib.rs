//! The rules of the house: services by name, workers that offer themselves, requests that wait or
//! are leased, and what happens when either side leaves.
//!
//! ```text
//!   Event ──▶ Engine::step(now, event, out) ──▶ Effect
//!                 │
//!                 ├─ one matching::Broker per service: requests ask, offers ask back
//!                 ├─ leases: who holds which request
//!                 └─ one timer wheel: give-up times, execution limits, idle services
//! ```
//!
//! Invariants:
//! * An offer holds at most one request; a request is waiting, leased, or gone.
//! * A request ends exactly once: answered, refused with a [`Reason`], or withdrawn.
//! * Nothing waits while an offer of its service is free.
//! * A request whose holder is lost goes back to the head of its line, at its original place.
//!
//! * Nobody does what the rules of its principal do not allow ([`Principals`]).
//!
//! Beside services there are named places where processes meet each other ([`Meet`]).
//!
//! What is absent: sockets, clocks, protocol words, storage. Bodies and return envelopes are bytes
//! the engine carries and never reads.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[macro_use]
mod planted;

mod event;

mod effect;

mod config;

mod guard;

mod meeting;

mod engine;

mod service;

mod stats;

mod wheel;

mod blob;

mod ids;

#[cfg(test)]
mod tests;

pub use blob::Blob;
pub use config::{AlarmRules, AtBound, Config, Fair, FairBy, ServiceConfig, ValveRules};
pub use effect::{Effect, Expulsion, Out, Reason};
#[cfg(feature = "planted")]
pub use engine::Planted;
pub use engine::{Engine, ServiceView, WorkerView};
pub use event::{Event, Request, WhenFull};
pub use guard::{
    ANONYMOUS, Class, HOUSE, Patterns, Principal, PrincipalId, PrincipalView, Principals, Quota,
    Rights, Usage,
};
pub use ids::{ConnId, RequestId};
pub use matching::{Side, Span, Time};
pub use meeting::{
    LISTED_MAX, MatchRules, Meet, MeetWord, MeetingRules, Met, Place, PlaceChange, PlaceRules,
    PlaceView, RegulatorRules, SideRules, SideView, Tally, Wish,
};
pub use stats::{BUCKETS, Histogram, REASONS, Stats};
pub use wheel::Wheel;
