//! What a broker asks of the lines it seats from.

use alloc::vec::Vec;
use core::fmt::Debug;
use core::num::NonZero;

use crate::fair::{FairConfig, FairKey, FairQueue};
use crate::queue::{ConfigError, Dropped, Entry, Key, Queue, QueueConfig, Reason};
use crate::time::Time;

/// A line of waiters: a [`Queue`], a [`FairQueue`] of waiters that name their [`Flow`], or
/// [`AnyLine`](crate::AnyLine). What the methods do is said there. Nobody else can be one.
pub trait Line<T>: sealed::Sealed {
    /// Names a waiter.
    type Key: Copy + Debug + Eq + Send;
    /// Configures the line.
    type Config: Copy;

    /// Waiters in the line.
    fn len(&self) -> usize;
    /// Whether nobody waits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Send time of the oldest waiter.
    fn oldest(&self) -> Option<Time>;
    /// When [`tick`](Line::tick) next has something to do.
    fn deadline(&self) -> Option<Time>;
    /// Appends a waiter.
    fn push(
        &mut self,
        now: Time,
        send: Time,
        value: T,
        drops: &mut Vec<Dropped<T>>,
    ) -> Option<Self::Key>;
    /// Puts a waiter that was handed out back where it stood.
    fn put_back(&mut self, now: Time, send: Time, rank: NonZero<u64>, value: T) -> Self::Key;
    /// Hands out the next waiter.
    fn pop(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) -> Option<Entry<T>>;
    /// Removes one waiter without a drop.
    fn cancel(&mut self, now: Time, key: Self::Key, drops: &mut Vec<Dropped<T>>) -> Option<T>;
    /// Removes several waiters without a drop.
    fn cancel_all(
        &mut self,
        now: Time,
        keys: impl IntoIterator<Item = Self::Key>,
        drops: &mut Vec<Dropped<T>>,
    ) -> usize;
    /// Gives a waiter a deadline of its own.
    fn expire_at(&mut self, key: Self::Key, until: Time);
    /// Drops every waiter that is due.
    fn tick(&mut self, now: Time, drops: &mut Vec<Dropped<T>>);
    /// Drops everybody.
    fn clear(&mut self, reason: Reason, drops: &mut Vec<Dropped<T>>);
    /// Whether a configuration makes sense.
    ///
    /// # Errors
    /// Names the first value out of its range.
    fn validate(config: &Self::Config) -> Result<(), ConfigError>;
    /// Changes the configuration.
    fn reconfigure(&mut self, now: Time, config: Self::Config, drops: &mut Vec<Dropped<T>>);
}

/// A waiter that says which flow of a [`FairQueue`] it belongs to, always the same.
pub trait Flow {
    /// The key of the flow.
    fn flow(&self) -> u64;

    /// Grows in the order in which waiters come: tells those of one moment apart when an
    /// [`AnyLine`](crate::AnyLine) changes its kind.
    fn order(&self) -> u64 {
        0
    }
}

mod sealed {
    pub trait Sealed {}
    impl<T> Sealed for crate::Queue<T> {}
    impl<T> Sealed for crate::FairQueue<T> {}
    impl<T> Sealed for crate::AnyLine<T> {}
}

impl<T> Line<T> for Queue<T> {
    type Key = Key;
    type Config = QueueConfig;

    fn len(&self) -> usize {
        self.len()
    }
    fn oldest(&self) -> Option<Time> {
        self.oldest()
    }
    fn deadline(&self) -> Option<Time> {
        self.deadline()
    }
    fn push(
        &mut self,
        now: Time,
        send: Time,
        value: T,
        drops: &mut Vec<Dropped<T>>,
    ) -> Option<Key> {
        self.push(now, send, value, drops)
    }
    fn put_back(&mut self, _: Time, send: Time, rank: NonZero<u64>, value: T) -> Key {
        self.put_back(send, rank, value)
    }
    fn pop(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) -> Option<Entry<T>> {
        self.pop(now, drops)
    }
    fn cancel(&mut self, now: Time, key: Key, drops: &mut Vec<Dropped<T>>) -> Option<T> {
        self.cancel(now, key, drops)
    }
    fn cancel_all(
        &mut self,
        now: Time,
        keys: impl IntoIterator<Item = Key>,
        drops: &mut Vec<Dropped<T>>,
    ) -> usize {
        self.cancel_all(now, keys, drops)
    }
    fn expire_at(&mut self, key: Key, until: Time) {
        self.expire_at(key, until);
    }
    fn tick(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) {
        self.tick(now, drops);
    }
    fn clear(&mut self, reason: Reason, drops: &mut Vec<Dropped<T>>) {
        self.clear(reason, drops);
    }
    fn validate(config: &QueueConfig) -> Result<(), ConfigError> {
        config.validate()
    }
    fn reconfigure(&mut self, now: Time, config: QueueConfig, drops: &mut Vec<Dropped<T>>) {
        self.reconfigure(now, config, drops);
    }
}

impl<T: Flow> Line<T> for FairQueue<T> {
    type Key = FairKey;
    type Config = FairConfig;

    fn len(&self) -> usize {
        self.len()
    }
    fn oldest(&self) -> Option<Time> {
        self.oldest()
    }
    fn deadline(&self) -> Option<Time> {
        self.deadline()
    }
    fn push(
        &mut self,
        now: Time,
        send: Time,
        value: T,
        drops: &mut Vec<Dropped<T>>,
    ) -> Option<FairKey> {
        self.push(now, send, value.flow(), value, drops)
    }
    fn put_back(&mut self, now: Time, send: Time, rank: NonZero<u64>, value: T) -> FairKey {
        self.put_back(now, send, rank, value.flow(), value)
    }
    fn pop(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) -> Option<Entry<T>> {
        self.pop(now, drops)
    }
    fn cancel(&mut self, now: Time, key: FairKey, drops: &mut Vec<Dropped<T>>) -> Option<T> {
        self.cancel(now, key, drops)
    }
    fn cancel_all(
        &mut self,
        now: Time,
        keys: impl IntoIterator<Item = FairKey>,
        drops: &mut Vec<Dropped<T>>,
    ) -> usize {
        self.cancel_all(now, keys, drops)
    }
    fn expire_at(&mut self, key: FairKey, until: Time) {
        self.expire_at(key, until);
    }
    fn tick(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) {
        self.tick(now, drops);
    }
    fn clear(&mut self, reason: Reason, drops: &mut Vec<Dropped<T>>) {
        self.clear(reason, drops);
    }
    fn validate(config: &FairConfig) -> Result<(), ConfigError> {
        config.validate()
    }
    /// Deals everybody anew if the bound on flows changes.
    fn reconfigure(&mut self, now: Time, config: FairConfig, drops: &mut Vec<Dropped<T>>) {
        if config.flows == self.config().flows {
            self.reconfigure(now, config, drops);
        } else {
            self.rekey(now, config, Flow::flow, drops);
        }
    }
}
