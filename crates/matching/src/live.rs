//! Brokers and regulators to await, on tokio. Feature `tokio`.
//!
//! ```
//! use matching::live::Broker;
//! use matching::{QueueConfig, Span};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let requests = QueueConfig::aim(Span::from_millis(20), Span::from_millis(500));
//! let broker: Broker<&str, u32> = Broker::new(requests, QueueConfig::default()).unwrap();
//! let (request, worker) = tokio::join!(broker.ask("resize"), broker.ask_r(7));
//! assert_eq!(request.unwrap().value, 7);
//! assert_eq!(worker.unwrap().value, "resize");
//! # }
//! ```
//!
//! A handle is cheap to clone. Whoever stops waiting (drops the future) is withdrawn in O(1) and
//! never matched. Whoever does so between its match and its next poll was matched: what the other
//! side brought is dropped there and then, so let that drop say so (a channel closes, a connection
//! returns to its pool), and [`Snapshot::abandoned`] counts it. Each broker and regulator has one
//! small task that sleeps until somebody is due; it ends with the last handle, so create them
//! inside a runtime.

use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::queue::{Dropped, Reason};
use crate::time::{Span, Time};

mod broker;
mod regulator;
mod seats;

#[cfg(feature = "tower")]
pub mod tower;

pub use broker::{Broker, Snapshot};
pub use regulator::{Permit, Regulator};

/// Who met a counterparty.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Go<P> {
    /// What the other side brought.
    pub value: P,
    /// How long it waited for the other side; negative: how long the other side waited.
    pub relative: Span,
    /// How long it was in the house.
    pub sojourn: Span,
}

/// Who was turned away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shed {
    /// Why.
    pub reason: Reason,
    /// How long it had waited.
    pub sojourn: Span,
    /// How long to wait before trying again: as long as the oldest waiter has stood there by now.
    pub retry_after: Span,
}

impl core::fmt::Display for Shed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let why = match self.reason {
            Reason::QueueFull => "the line is full",
            Reason::Expired => "waited too long",
            Reason::Overload => "overload",
            Reason::Draining => "closing",
        };
        write!(f, "{why} (after {}, try again in {})", self.sojourn, self.retry_after)
    }
}

impl core::error::Error for Shed {}

fn shed<T>(dropped: &Dropped<T>, now: Time, oldest: Option<Time>) -> Shed {
    let sojourn = now - dropped.send;
    let retry_after = oldest.map_or(sojourn, |oldest| now - oldest);
    Shed { reason: dropped.reason, sojourn, retry_after: retry_after.max(Span::ZERO) }
}

/// Time since a broker or regulator was made.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> Time {
        Time::ZERO + Span::from(self.0.elapsed())
    }

    fn time(self, instant: Instant) -> Time {
        Time::ZERO + Span::from(instant.saturating_duration_since(self.0))
    }

    fn instant(self, time: Time) -> Option<Instant> {
        self.0.checked_add((time - Time::ZERO).into())
    }
}

/// What has something to do at times.
trait Timed: Send + Sync + 'static {
    /// Does what is due and says when to come again.
    fn tick(self: &Arc<Self>) -> Option<Instant>;
}

/// Ticks until nobody has a handle any more.
async fn drive<T: Timed>(timed: Weak<T>, wake: Arc<Notify>) {
    loop {
        let Some(due) = timed.upgrade().map(|timed| timed.tick()) else { return };
        match due {
            // Woken before that or not: look again.
            Some(due) => drop(timeout_at(due, wake.notified()).await),
            None => wake.notified().await,
        }
    }
}
