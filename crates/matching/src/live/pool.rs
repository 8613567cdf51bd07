//! A pool: resources (connections, sessions, sandboxes) that offer themselves when they are idle,
//! and clients who wait for one in a line that sheds load.
//!
//! ```text
//!   get ──▶ ┌───────────┐ match ┌───────────┐ ◀── made, given back
//!           │ clients   │◀─────▶│ idle      │
//!   shed ◀─ │ discipline│       │ discipline│ ─▶ retired
//!           └───────────┘       └───────────┘
//!                 how long they wait │ ▲ one more
//!                                    ▼ │
//!                              valve: min ..= max
//! ```
//!
//! It is a [`Broker`](crate::Broker) whose `ask_r`s are resources, and a [`Valve`] that says when
//! there may be one more of them. Nothing runs beside it but one task that sleeps until somebody
//! is due, and one for each resource that is being made.
//!
//! ```
//! use matching::live::pool::{Manage, Pool, PoolConfig};
//! use matching::Span;
//!
//! struct Connections;
//!
//! impl Manage for Connections {
//!     type Resource = String;
//!     type Error = std::io::Error;
//!
//!     async fn create(&self) -> Result<String, std::io::Error> {
//!         Ok(String::from("a connection")) // dial, say hello
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // Clients aim for a wait of 20 ms and give up after 500; 2 to 10 connections.
//! let config = PoolConfig::aim(Span::from_millis(20), Span::from_millis(500), 2, 10);
//! let pool = Pool::new(Connections, config).unwrap();
//! let connection = pool.get().await.unwrap();
//! assert_eq!(&*connection, "a connection"); // it goes back when it is dropped
//! # }
//! ```
//!
//! # When it grows and shrinks
//!
//! Below `min` resources are made at once. Above it one more is made while more clients wait than
//! resources are being made, if the valve of [`PoolConfig::size`] is open: [`Rule::Open`] at once;
//! [`Rule::Relative`] each time a client has waited longer than the target; [`Rule::Codel`] once
//! clients have waited longer than the target for an interval, then faster and faster;
//! [`Rule::Rate`] so many in any interval, none in the first, and never more than `min` plus that
//! many at a time. Targets say how long an idle
//! resource waits for a client, so they are negative: -5 ms means that a client waited 5 ms. The
//! first resource of an empty pool is made at once, whatever the rule.
//!
//! Idle resources are retired by the discipline of their line, [`PoolConfig::idle`], which always
//! keeps `min` of them; with [`Order::Lifo`](crate::Order::Lifo) the busiest stay. A resource that
//! cannot be made is tried again after [`PoolConfig::retry`], twice that, and so on; who has waited
//! longest is told if there is no resource left that might come back.
//!
//! # What becomes of a resource
//!
//! One that comes back is looked at ([`Manage::is_broken`]) and handed to whoever waits; before
//! it is used again it is made ready ([`Manage::recycle`]). Whatever fails on that way is
//! discarded, another is made in its place if need be, and the client returns to the place in the
//! line where it stood. Whoever drops a future leaves nothing behind: out of the line it goes in
//! O(1), a resource on its way to it goes to the next one, and one that was being made ready is
//! discarded, because nobody knows in which state it is.

use core::fmt;
use core::future::Future;
use core::ops::{Deref, DerefMut};
use core::pin::pin;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Refused, Sheds};
use crate::queue::ConfigError;
use crate::time::{Span, Time};

mod config;
mod get;
mod house;

pub use config::PoolConfig;
use get::Wait;
use house::{Entry, Shared};

#[cfg(doc)]
use crate::valve::{Rule, Valve};

/// Makes resources and keeps them in shape.
pub trait Manage: Send + Sync + 'static {
    /// What is pooled. Dropping one ends it.
    type Resource: Send + 'static;
    /// Why one could not be made or made ready.
    type Error: Send + 'static;

    /// Makes a resource, in a task of its own. The pool waits for it as long as it takes: bound
    /// it. The future is dropped when the pool closes.
    fn create(&self) -> impl Future<Output = Result<Self::Resource, Self::Error>> + Send;

    /// Makes a resource that was idle or came back ready for its next client: ends a transaction,
    /// asks whether the peer is alive. That client waits for it. A resource that fails, or whose
    /// client stops waiting meanwhile, is discarded.
    fn recycle(
        &self,
        resource: &mut Self::Resource,
        past: Past,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        let _ = (resource, past);
        core::future::ready(Ok(()))
    }

    /// Whether a resource that comes back is of no use any more. Called where it is dropped, so
    /// it must not block.
    fn is_broken(&self, resource: &mut Self::Resource) -> bool {
        let _ = resource;
        false
    }

    /// Hears of every error that no client is told, to log it.
    fn failed(&self, error: Self::Error) {
        drop(error);
    }
}

/// What a resource did before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Past {
    /// Since it was made.
    pub age: Span,
    /// Since it came back, or since it was made if it never was out.
    pub idle: Span,
    /// How often it was out.
    pub uses: u64,
}

/// How a pool stands. `resources` are idle, being made, or out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PoolSnapshot {
    /// Resources there are, those that are being made included.
    pub resources: usize,
    /// Resources that wait for a client.
    pub idle: usize,
    /// Resources that are being made.
    pub making: usize,
    /// Clients who wait.
    pub waiting: usize,
    /// How long the oldest of them has waited.
    pub oldest: Span,
    /// Resources made so far.
    pub made: u64,
    /// Resources so far that could not be made.
    pub failed: u64,
    /// Resources so far that were broken, could not be made ready, or were taken out.
    pub discarded: u64,
    /// Resources so far that ended because they were idle for too long, one too many, or in the
    /// way of closing.
    pub retired: u64,
    /// Resources handed over so far.
    pub given: u64,
    /// Resources handed over so far to a client who stopped waiting in that very moment: they went
    /// to the next one.
    pub abandoned: u64,
    /// Clients turned away so far.
    pub shed: Sheds,
}

impl PoolSnapshot {
    /// Resources that are out, or on their way to a client.
    #[must_use]
    pub fn out(&self) -> usize {
        self.resources - self.idle - self.making
    }
}

/// A pool of resources. Clones are handles of the same pool.
pub struct Pool<M: Manage> {
    shared: Arc<Shared<M>>,
}

impl<M: Manage> Clone for Pool<M> {
    fn clone(&self) -> Pool<M> {
        Pool { shared: Arc::clone(&self.shared) }
    }
}

impl<M: Manage> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("snapshot", &self.snapshot()).finish_non_exhaustive()
    }
}

impl<M: Manage> Pool<M> {
    /// A pool that begins to make its `min` resources at once. Call it inside a runtime: its
    /// tasks run there.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub fn new(manage: M, config: PoolConfig) -> Result<Pool<M>, ConfigError> {
        config.validate()?;
        Ok(Pool { shared: Shared::new(manage, config) })
    }

    /// Waits for a resource. Whoever drops the future is withdrawn.
    ///
    /// # Errors
    /// Says why it was turned away, or why no resource could be made.
    pub async fn get(&self) -> Result<Pooled<M>, Refused<M::Error>> {
        self.obtain(Time::MAX).await
    }

    /// Waits for a resource, but not beyond `deadline`. A resource that is being made ready by
    /// then still comes.
    ///
    /// # Errors
    /// Says why it was turned away, or why no resource could be made.
    pub async fn get_deadline(&self, deadline: Instant) -> Result<Pooled<M>, Refused<M::Error>> {
        self.obtain(self.shared.time(deadline)).await
    }

    /// Takes an idle resource, without waiting for more than that it is made ready.
    pub async fn try_get(&self) -> Option<Pooled<M>> {
        loop {
            let held = Held::new(&self.shared, self.shared.take_idle()?);
            if let Some(pooled) = held.ready().await {
                return Some(pooled);
            }
        }
    }

    /// Changes everything, or nothing if something makes no sense. No client who waits is lost or
    /// overtaken, except those over a new `max`; resources over the new `max` end once they are
    /// idle.
    ///
    /// # Errors
    /// What is wrong.
    pub fn reconfigure(&self, config: PoolConfig) -> Result<(), ConfigError> {
        config.validate()?;
        self.shared.reconfigure(config);
        Ok(())
    }

    /// Turns every client away, who waits and who comes, as
    /// [`Reason::Draining`](crate::Reason::Draining). Idle resources end at once, those that are
    /// out when they come back.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Waits until the pool is closed and no resource is left.
    pub async fn drained(&self) {
        loop {
            // Listens before it looks, so that nothing happens in between.
            let mut told = pin!(self.shared.drained.notified());
            told.as_mut().enable();
            if self.shared.is_drained() {
                return;
            }
            told.await;
        }
    }

    /// How the pool stands.
    #[must_use]
    pub fn snapshot(&self) -> PoolSnapshot {
        self.shared.snapshot()
    }

    /// What makes the resources.
    #[must_use]
    pub fn manage(&self) -> &M {
        &self.shared.manage
    }

    async fn obtain(&self, until: Time) -> Result<Pooled<M>, Refused<M::Error>> {
        let mut wait = Wait::new(&self.shared, until);
        loop {
            let held = Held::new(&self.shared, (&mut wait).await?);
            if let Some(pooled) = held.ready().await {
                return Ok(pooled);
            }
            wait.again();
        }
    }
}

/// A resource that is out. It goes back when it is dropped.
pub struct Pooled<M: Manage> {
    held: Held<M>,
}

impl<M: Manage> Pooled<M> {
    /// Ends the resource instead of giving it back: it is broken.
    pub fn discard(mut self) {
        self.held.end();
    }

    /// Takes the resource out of the pool, which may make another one.
    ///
    /// # Panics
    /// Never: whoever holds it has it.
    #[must_use]
    pub fn detach(mut self) -> M::Resource {
        let entry = self.held.entry.take().expect("it was not given back yet");
        self.held.shared.discard(None);
        entry.resource
    }
}

impl<M: Manage> Deref for Pooled<M> {
    type Target = M::Resource;

    fn deref(&self) -> &M::Resource {
        &self.held.entry.as_ref().expect("it was not given back yet").resource
    }
}

impl<M: Manage> DerefMut for Pooled<M> {
    fn deref_mut(&mut self) -> &mut M::Resource {
        &mut self.held.entry.as_mut().expect("it was not given back yet").resource
    }
}

impl<M: Manage> fmt::Debug for Pooled<M>
where
    M::Resource: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pooled").field(&**self).finish()
    }
}

impl<M: Manage> Drop for Pooled<M> {
    fn drop(&mut self) {
        // If `is_broken` panics, what is held ends.
        let Held { shared, entry } = &mut self.held;
        if entry.as_mut().is_some_and(|entry| !shared.manage.is_broken(&mut entry.resource)) {
            entry.take().into_iter().for_each(|entry| shared.give_back(entry));
        }
    }
}

/// A resource on its way to a client. It ends when it is dropped.
struct Held<M: Manage> {
    shared: Arc<Shared<M>>,
    entry: Option<Entry<M::Resource>>,
}

impl<M: Manage> Held<M> {
    fn new(shared: &Arc<Shared<M>>, entry: Entry<M::Resource>) -> Held<M> {
        Held { shared: Arc::clone(shared), entry: Some(entry) }
    }

    /// Makes it ready; it ends if it cannot be.
    async fn ready(mut self) -> Option<Pooled<M>> {
        let entry = self.entry.as_mut()?;
        if !entry.fresh {
            let past = entry.past(self.shared.now());
            if let Err(error) = self.shared.manage.recycle(&mut entry.resource, past).await {
                self.end();
                self.shared.manage.failed(error);
                return None;
            }
        }
        entry.uses += 1;
        Some(Pooled { held: self })
    }

    fn end(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.shared.discard(Some(entry));
        }
    }
}

impl<M: Manage> Drop for Held<M> {
    fn drop(&mut self) {
        self.end();
    }
}
