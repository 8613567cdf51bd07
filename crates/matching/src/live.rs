//! Brokers, regulators and pools to await, on tokio. Feature `tokio`.
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
//! returns to its pool), and [`Snapshot::abandoned`] counts it. A permit or a resource of a pool
//! goes back by itself. Each broker, regulator and pool has one small task that sleeps until
//! somebody is due; it ends with the last handle, so create them inside a runtime.

use alloc::vec::Vec;
use core::task::Waker;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::queue::{Dropped, Reason};
use crate::time::{Span, Time};

mod broker;
pub mod pool;
mod regulator;
mod seats;

#[cfg(feature = "tower")]
pub mod tower;

pub use broker::{Broker, Fair, FairBroker, Keep, Plain, Snapshot, Waiter};
pub use regulator::{Permit, Regulator, RegulatorSnapshot};

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

impl Shed {
    /// Turned away without a wait.
    fn at_once(reason: Reason) -> Shed {
        Shed { reason, sojourn: Span::ZERO, retry_after: Span::ZERO }
    }

    /// [`retry_after`](Shed::retry_after) in whole seconds, at least one, as HTTP's `Retry-After`
    /// says it.
    #[must_use]
    pub fn retry_after_secs(&self) -> u64 {
        let nanos = u64::try_from(self.retry_after.as_nanos()).unwrap_or(0);
        nanos.div_ceil(1_000_000_000).max(1)
    }
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

/// Why there is nothing: no response, no resource.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused<E> {
    /// The line turned the asker away.
    Shed(Shed),
    /// What it waited for failed.
    Failed(E),
}

impl<E: core::fmt::Display> core::fmt::Display for Refused<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Refused::Shed(shed) => write!(f, "{shed}"),
            Refused::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl<E: core::error::Error> core::error::Error for Refused<E> {}

/// How many were turned away, by reason.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sheds {
    /// [`Reason::QueueFull`].
    pub queue_full: u64,
    /// [`Reason::Expired`].
    pub expired: u64,
    /// [`Reason::Overload`].
    pub overload: u64,
    /// [`Reason::Draining`].
    pub draining: u64,
}

impl Sheds {
    /// All of them.
    #[must_use]
    pub fn sum(&self) -> u64 {
        let Sheds { queue_full, expired, overload, draining } = *self;
        queue_full + expired + overload + draining
    }

    fn count(&mut self, reason: Reason) {
        match reason {
            Reason::QueueFull => self.queue_full += 1,
            Reason::Expired => self.expired += 1,
            Reason::Overload => self.overload += 1,
            Reason::Draining => self.draining += 1,
        }
    }
}

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

/// Whom to wake once a lock is released: mostly one.
#[derive(Debug, Default)]
struct Wakers {
    first: Option<Waker>,
    others: Vec<Waker>,
}

impl Wakers {
    fn push(&mut self, waker: Option<Waker>) {
        if self.first.is_none() {
            self.first = waker;
        } else {
            self.others.extend(waker);
        }
    }

    fn wake(self) {
        self.first.into_iter().chain(self.others).for_each(Waker::wake);
    }
}

/// Times to step back before sleeping on a lock: about 1,000 pauses in all, some 20 us.
const STEPS_BACK: u32 = 7;

/// Whoever finds a lock held steps back, longer each time, before it sleeps on it: calls are far
/// shorter than a sleep, and the thread that holds the lock has its lines at hand.
fn patient<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for tries in 0..STEPS_BACK {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(guard)) => return guard.into_inner(),
            Err(TryLockError::WouldBlock) => {}
        }
        for _ in 0..(8 << tries) {
            core::hint::spin_loop();
        }
    }
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
