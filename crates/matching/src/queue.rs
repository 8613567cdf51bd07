//! One line of waiters and the discipline that keeps it.
//!
//! Waiters stand in the order they came (front = oldest). A discipline decides who is handed out
//! next and who is dropped; drops for age always take the current oldest, whatever the order of
//! hand-out is. Cancel and death of a waiter are O(1).
//!
//! The rules are those of `sbroker_queue` (specification sheet, sections 2.0 to 2.2), with quirk
//! Q3 fixed: no timer is asked for at or below `min`.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::num::NonZero;

use slotmap::{Key as _, SlotMap};

use crate::time::{Span, Time};

slotmap::new_key_type! {
    /// Names one waiter in one queue. A key of a waiter that left is harmless for ever.
    pub struct Key;
}

/// Who is handed out first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Order {
    /// The one who waited longest (FIFO).
    #[default]
    Fifo,
    /// The one who came last (LIFO): the freshest waiter is the likeliest to be still there.
    Lifo,
}

/// Who makes room when the line is full.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DropFrom {
    /// The newcomer is refused.
    #[default]
    Back,
    /// The oldest is dropped and the newcomer takes the last place.
    Front,
}

/// How waiters leave a line other than by a match.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Discipline {
    /// Only the capacity bounds the line.
    #[default]
    Drop,
    /// A waiter is dropped once it has waited this long (equality drops).
    Timeout(Span),
}

/// Everything that configures one line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QueueConfig {
    /// Who is handed out first.
    pub order: Order,
    /// Who makes room at `max`. A `max` of 0 always refuses the newcomer.
    pub drop_from: DropFrom,
    /// No waiter is dropped for age while the line has at most this many.
    pub min: usize,
    /// Most waiters the line holds.
    pub max: usize,
    /// How waiters are dropped for age.
    pub discipline: Discipline,
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        QueueConfig {
            order: Order::Fifo,
            drop_from: DropFrom::Back,
            min: 0,
            max: usize::MAX,
            discipline: Discipline::Drop,
        }
    }
}

impl QueueConfig {
    /// A FIFO line whose waiters give up after `timeout`.
    #[must_use]
    pub fn timeout(timeout: Span) -> QueueConfig {
        QueueConfig { discipline: Discipline::Timeout(timeout), ..QueueConfig::default() }
    }

    /// The same line holding at most `max` waiters.
    #[must_use]
    pub fn with_max(self, max: usize) -> QueueConfig {
        QueueConfig { max, ..self }
    }

    fn evicts_front(&self) -> bool {
        self.drop_from == DropFrom::Front && self.max > 0
    }
}

/// Why a waiter was dropped or refused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// The line holds all it may.
    QueueFull,
    /// It waited longer than its line allows.
    Expired,
}

/// A waiter that was dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dropped<T> {
    /// What waited.
    pub value: T,
    /// When it was sent; its sojourn is `now - send`.
    pub send: Time,
    /// Why it was dropped.
    pub reason: Reason,
}

/// A waiter as it leaves the line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry<T> {
    /// The key it had.
    pub key: Key,
    /// When it was sent.
    pub send: Time,
    /// What waited.
    pub value: T,
}

#[derive(Debug)]
struct Node<T> {
    value: T,
    send: Time,
    /// Towards the front (older).
    prev: Key,
    /// Towards the back (newer).
    next: Key,
    /// Its rank in `returned` if it was put back.
    returned: Option<NonZero<u64>>,
}

/// One line of waiters.
#[derive(Debug)]
pub struct Queue<T> {
    config: QueueConfig,
    nodes: SlotMap<Key, Node<T>>,
    head: Key,
    tail: Key,
    /// Earliest time at which a waiter can be due; only meaningful for [`Discipline::Timeout`].
    wake: Time,
    /// Waiters that were put back, by send time and rank: finds a newcomer's place among them in
    /// O(log n).
    returned: BTreeMap<(Time, NonZero<u64>), Key>,
}

impl<T> Queue<T> {
    /// An empty line.
    #[must_use]
    pub fn new(config: QueueConfig, now: Time) -> Queue<T> {
        Queue {
            config,
            nodes: SlotMap::with_key(),
            head: Key::null(),
            tail: Key::null(),
            wake: now,
            returned: BTreeMap::new(),
        }
    }

    /// Waiters in the line.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Send time of the oldest waiter.
    #[must_use]
    pub fn oldest(&self) -> Option<Time> {
        self.nodes.get(self.head).map(|node| node.send)
    }

    /// The waiter called `key`, if it still waits.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&T> {
        self.nodes.get(key).map(|node| &node.value)
    }

    /// What configures the line.
    #[must_use]
    pub fn config(&self) -> &QueueConfig {
        &self.config
    }

    /// The waiters from oldest to newest.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let mut at = self.head;
        core::iter::from_fn(move || {
            let node = self.nodes.get(at)?;
            at = node.next;
            Some(&node.value)
        })
    }

    /// Whether the next [`push`](Queue::push) would find the line full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= self.config.max
    }

    /// When [`tick`](Queue::tick) next has something to do. Never later than the first age drop.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match self.config.discipline {
            Discipline::Drop => None,
            Discipline::Timeout(Span::MAX) => None,
            Discipline::Timeout(_) => (self.len() > self.config.min).then_some(self.wake),
        }
    }

    /// Appends a waiter sent at `send` (at or after the newest waiter's send time, at or before
    /// `now`). `None` when the newcomer was refused or dropped at once; it is in `drops` then.
    pub fn push(
        &mut self,
        now: Time,
        send: Time,
        value: T,
        drops: &mut Vec<Dropped<T>>,
    ) -> Option<Key> {
        if self.is_full() {
            if !self.config.evicts_front() {
                drops.push(Dropped { value, send, reason: Reason::QueueFull });
                self.tick(now, drops);
                return None;
            }
            // Whoever is left was sent no earlier than the one that made room.
            self.wake = self.oldest().map_or(self.wake, |send| self.expiry(send));
            self.drop_front(Reason::QueueFull, drops);
        }
        let key = self.nodes.insert(Node {
            value,
            send,
            prev: self.tail,
            next: Key::null(),
            returned: None,
        });
        match self.nodes.get_mut(self.tail) {
            Some(last) => last.next = key,
            None => self.head = key,
        }
        self.tail = key;
        self.tick(now, drops);
        self.nodes.contains_key(key).then_some(key)
    }

    /// Puts a waiter that was handed out back where it stood: before everyone sent later, and among
    /// those put back by `rank`, which tells waiters of one moment apart and grows in the order
    /// they were pushed. Capacity and age are not checked, because it was already admitted once.
    pub fn put_back(&mut self, send: Time, rank: NonZero<u64>, value: T) -> Key {
        let after = self.returned.range(..(send, rank)).next_back().map(|(_, key)| *key);
        let prev = after.unwrap_or_else(Key::null);
        let mut next = match self.nodes.get(prev) {
            Some(node) => node.next,
            None => self.head,
        };
        let mut prev = prev;
        // Only a line that hands out LIFO can have older waiters that were never handed out.
        while let Some(node) = self.nodes.get(next) {
            if node.send >= send {
                break;
            }
            prev = next;
            next = node.next;
        }
        let key = self.nodes.insert(Node { value, send, prev, next, returned: Some(rank) });
        match self.nodes.get_mut(prev) {
            Some(node) => node.next = key,
            None => self.head = key,
        }
        match self.nodes.get_mut(next) {
            Some(node) => node.prev = key,
            None => self.tail = key,
        }
        self.returned.insert((send, rank), key);
        self.wake = self.wake.min(self.expiry(send));
        key
    }

    /// Hands out the next waiter, dropping those that are due on the way.
    pub fn pop(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) -> Option<Entry<T>> {
        match self.config.order {
            Order::Fifo => self.pop_fifo(now, drops),
            Order::Lifo => self.pop_lifo(now, drops),
        }
    }

    /// Removes one waiter without a drop. `None` if it left before.
    pub fn cancel(&mut self, now: Time, key: Key, drops: &mut Vec<Dropped<T>>) -> Option<T> {
        let entry = self.unlink(key)?;
        self.tick(now, drops);
        Some(entry.value)
    }

    /// Drops every waiter that is due.
    pub fn tick(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) {
        if self.deadline().is_some_and(|due| due <= now) {
            self.expire_down_to(self.config.min, now, drops);
        }
    }

    /// Changes the configuration. Waiters keep their places; those over the new `max` are dropped
    /// from the end that `drop_from` names.
    pub fn reconfigure(&mut self, now: Time, config: QueueConfig, drops: &mut Vec<Dropped<T>>) {
        self.config = config;
        let mut over = self.len().saturating_sub(config.max);
        if config.evicts_front() {
            for _ in 0..over {
                self.drop_front(Reason::QueueFull, drops);
            }
        } else if over > 0 {
            let first = drops.len();
            while over > 0 {
                if let Some(Entry { value, send, .. }) = self.unlink(self.tail) {
                    drops.push(Dropped { value, send, reason: Reason::QueueFull });
                }
                over -= 1;
            }
            drops[first..].reverse();
        }
        self.wake = now;
        self.tick(now, drops);
    }

    fn pop_fifo(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) -> Option<Entry<T>> {
        loop {
            let entry = self.unlink(self.head)?;
            let expiry = self.expiry(entry.send);
            if expiry == Time::MAX || self.len() < self.config.min {
                return Some(entry);
            }
            self.wake = expiry;
            if expiry > now {
                return Some(entry);
            }
            drops.push(Dropped { value: entry.value, send: entry.send, reason: Reason::Expired });
        }
    }

    fn pop_lifo(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) -> Option<Entry<T>> {
        let entry = self.unlink(self.tail)?;
        let expiry = self.expiry(entry.send);
        if expiry == Time::MAX || self.len() < self.config.min || self.wake > now {
            return Some(entry);
        }
        let floor = self.config.min.saturating_sub(1);
        if expiry > now {
            if !self.is_empty() {
                self.expire_down_to(floor, now, drops);
            }
            return Some(entry);
        }
        // The newest is due, hence all are.
        while self.len() > floor {
            self.drop_front(Reason::Expired, drops);
        }
        self.wake = self.oldest().map_or(expiry, |send| self.expiry(send));
        if self.config.min == 0 {
            drops.push(Dropped { value: entry.value, send: entry.send, reason: Reason::Expired });
            return None;
        }
        Some(entry)
    }

    fn expire_down_to(&mut self, floor: usize, now: Time, drops: &mut Vec<Dropped<T>>) {
        while self.len() > floor {
            let Some(send) = self.oldest() else { return };
            self.wake = self.expiry(send);
            if self.wake > now {
                return;
            }
            self.drop_front(Reason::Expired, drops);
        }
    }

    fn expiry(&self, send: Time) -> Time {
        match self.config.discipline {
            Discipline::Drop => Time::MAX,
            Discipline::Timeout(timeout) => send + timeout,
        }
    }

    fn drop_front(&mut self, reason: Reason, drops: &mut Vec<Dropped<T>>) {
        if let Some(Entry { value, send, .. }) = self.unlink(self.head) {
            drops.push(Dropped { value, send, reason });
        }
    }

    fn unlink(&mut self, key: Key) -> Option<Entry<T>> {
        let Node { value, send, prev, next, returned } = self.nodes.remove(key)?;
        match self.nodes.get_mut(prev) {
            Some(node) => node.next = next,
            None => self.head = next,
        }
        match self.nodes.get_mut(next) {
            Some(node) => node.prev = prev,
            None => self.tail = prev,
        }
        if let Some(rank) = returned {
            self.returned.remove(&(send, rank));
        }
        Some(Entry { key, send, value })
    }
}
