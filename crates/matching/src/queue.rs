//! One line of waiters and the discipline that keeps it.
//!
//! Waiters stand in the order they came (front = oldest). A discipline decides who is handed out
//! next and who is dropped; drops for age always take the current oldest, whatever the order of
//! hand-out is. Cancel and death of a waiter are O(1).
//!
//! The rules are those of `sbroker_queue` (specification sheet, sections 2.0 to 2.3), with quirks
//! Q1, Q2 (see `codel`) and Q3 fixed: no timer is asked for at or below `min`.
//!
//! Beyond `sbroker` a waiter may bring a deadline of its own: it is never handed out after it,
//! and `min` does not keep it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::num::NonZero;

use slotmap::{Key as _, SlotMap};

use crate::any::Mover;
use crate::time::{Span, Time};

mod aim;
mod codel;
mod config;

use aim::Health;
use codel::Control;
pub(crate) use codel::gap;
pub(crate) use config::at_least;
pub use config::{Aim, Codel, ConfigError, Discipline, DropFrom, Order, QueueConfig};

slotmap::new_key_type! {
    /// Names one waiter in one queue. A key of a waiter that left is harmless for ever.
    pub struct Key;
}

/// Why a waiter was dropped or refused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// The line holds all it may.
    QueueFull,
    /// It waited longer than its line allows, or than it wanted to itself.
    Expired,
    /// The line sheds load: those before it wait too long, or the gate closed.
    Overload,
    /// The line is being closed.
    Draining,
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

impl<T> Entry<T> {
    fn dropped(self, reason: Reason) -> Dropped<T> {
        Dropped { value: self.value, send: self.send, reason }
    }
}

#[derive(Debug)]
struct Node<T> {
    value: T,
    send: Time,
    /// When it gives up by itself, [`Time::MAX`] if never.
    until: Time,
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
    /// The oldest waiter that was never handed out. Those before it were.
    fresh: Key,
    /// Nothing is dropped for age before this time; means nothing to [`Discipline::Drop`].
    wake: Time,
    /// When the discipline asked to be called; only meaningful for [`Discipline::Codel`].
    timer: Time,
    /// What CoDel knows about the line.
    control: Control,
    /// How a line with an aim is doing.
    health: Health,
    /// The waiters with a deadline of their own, soonest first.
    hasty: BTreeSet<(Time, Key)>,
    /// Waiters that were put back, by send time and rank: finds a newcomer's place among them in
    /// O(log n).
    returned: BTreeMap<(Time, NonZero<u64>), Key>,
}

impl<T> Queue<T> {
    /// An empty line.
    #[must_use]
    pub fn new(config: QueueConfig, now: Time) -> Queue<T> {
        let mut queue = Queue {
            config,
            nodes: SlotMap::with_key(),
            head: Key::null(),
            tail: Key::null(),
            fresh: Key::null(),
            wake: now,
            timer: Time::MAX,
            control: Control::new(now),
            health: Health::new(now),
            hasty: BTreeSet::new(),
            returned: BTreeMap::new(),
        };
        if let Discipline::Aim(aim) = config.discipline {
            queue.aim_start(aim, now);
        }
        queue
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

    /// Send time of the oldest waiter that was never handed out: how slow the line is. Whoever was
    /// put back spent part of its age in somebody's hands.
    #[must_use]
    pub fn oldest_fresh(&self) -> Option<Time> {
        self.nodes.get(self.fresh).map(|node| node.send)
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

    /// The waiters and their keys from oldest to newest.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Key, &T)> {
        let mut at = self.head;
        core::iter::from_fn(move || {
            let (key, node) = (at, self.nodes.get(at)?);
            at = node.next;
            Some((key, &node.value))
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
        let own = self.hasty.first().map(|(until, _)| *until);
        let line = self.line_deadline();
        match (own, line) {
            (Some(own), Some(line)) => Some(own.min(line)),
            (due, None) | (None, due) => due,
        }
    }

    /// When the line, empty at `now`, has nothing to remember any more: a queue made new behaves
    /// alike from then on.
    #[must_use]
    pub fn forget_at(&self, now: Time) -> Time {
        match self.config.discipline {
            Discipline::Drop | Discipline::Timeout(_) => now,
            Discipline::Codel(codel) => self.codel_forget_at(codel, now),
            Discipline::Aim(_) => self.aim_forget_at(now),
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
            if let Discipline::Timeout(_) = self.config.discipline {
                // Whoever is left was sent no earlier than the one that made room.
                self.wake = self.oldest().map_or(self.wake, |send| self.expiry(send));
            }
            self.drop_front(Reason::QueueFull, drops);
        }
        let key = self.append(send, value);
        match self.config.discipline {
            Discipline::Drop | Discipline::Timeout(_) => self.tick(now, drops),
            Discipline::Codel(codel) => {
                self.expire_hasty(now, drops);
                self.codel_pushed(codel, now, drops);
            }
            Discipline::Aim(aim) => {
                self.expire_hasty(now, drops);
                self.aim_push(aim, now, drops);
            }
        }
        self.nodes.contains_key(key).then_some(key)
    }

    /// Gives the waiter called `key` a deadline of its own: from `until` on it is not handed out
    /// but dropped as [`Reason::Expired`]. O(log n) in those who have one.
    pub fn expire_at(&mut self, key: Key, until: Time) {
        let Some(node) = self.nodes.get_mut(key) else { return };
        if node.until < Time::MAX {
            self.hasty.remove(&(node.until, key));
        }
        node.until = until;
        if until < Time::MAX {
            self.hasty.insert((until, key));
        }
    }

    /// Puts a waiter that was handed out back where it stood: before everyone sent later, and among
    /// those put back by `rank`, which tells waiters of one moment apart and grows in the order
    /// they were pushed. Capacity and age are not checked, because it was already admitted once.
    ///
    /// From then on it is not shed as [`Reason::Overload`], nor does its age say that the line is
    /// slow: it was in somebody's hands, and what was begun is not given up for what was not. What
    /// bounds its whole age ([`Discipline::Timeout`], [`Aim::give_up`], a deadline of its own)
    /// still does.
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
        let key = self.nodes.insert(Node {
            value,
            send,
            until: Time::MAX,
            prev,
            next,
            returned: Some(rank),
        });
        match self.nodes.get_mut(prev) {
            Some(node) => node.next = key,
            None => self.head = key,
        }
        match self.nodes.get_mut(next) {
            Some(node) => node.prev = key,
            None => self.tail = key,
        }
        self.returned.insert((send, rank), key);
        match self.config.discipline {
            Discipline::Drop | Discipline::Aim(_) => {}
            Discipline::Timeout(_) => self.wake = self.wake.min(self.expiry(send)),
            // With it more than `min` may wait, who had no timer.
            Discipline::Codel(_) => self.timer = self.timer.min(self.wake),
        }
        key
    }

    /// Hands out the next waiter, dropping those that are due on the way.
    pub fn pop(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) -> Option<Entry<T>> {
        self.expire_hasty(now, drops);
        let newest_first = match self.config.order {
            Order::Fifo => false,
            Order::Lifo => true,
            Order::Adaptive => self.is_shedding(),
        };
        match (self.config.discipline, newest_first) {
            (Discipline::Aim(aim), _) => self.aim_pop(aim, now, drops),
            (Discipline::Codel(codel), false) => self.codel_pop_fifo(codel, now, drops),
            (Discipline::Codel(codel), true) => self.codel_pop_lifo(codel, now, drops),
            (Discipline::Drop | Discipline::Timeout(_), false) => self.pop_fifo(now, drops),
            (Discipline::Drop | Discipline::Timeout(_), true) => self.pop_lifo(now, drops),
        }
    }

    /// Removes one waiter without a drop. `None` if it left before.
    pub fn cancel(&mut self, now: Time, key: Key, drops: &mut Vec<Dropped<T>>) -> Option<T> {
        let entry = self.unlink(key)?;
        self.tick(now, drops);
        Some(entry.value)
    }

    /// Removes one waiter and looks at nobody else.
    pub(crate) fn withdraw(&mut self, key: Key) -> Option<T> {
        self.unlink(key).map(|entry| entry.value)
    }

    /// Removes several waiters without a drop (all with one tag, all of one connection) and says
    /// how many there were. O(1) for each.
    pub fn cancel_all(
        &mut self,
        now: Time,
        keys: impl IntoIterator<Item = Key>,
        drops: &mut Vec<Dropped<T>>,
    ) -> usize {
        let cancelled = keys.into_iter().filter_map(|key| self.unlink(key)).count();
        self.tick(now, drops);
        cancelled
    }

    /// Drops every waiter that is due.
    pub fn tick(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) {
        self.expire_hasty(now, drops);
        match self.config.discipline {
            Discipline::Drop => {}
            Discipline::Timeout(_) => {
                if self.line_deadline().is_some_and(|due| due <= now) {
                    self.expire_down_to(self.config.min, now, drops);
                }
            }
            Discipline::Codel(codel) => self.codel_tick(codel, now, drops),
            Discipline::Aim(aim) => self.aim_tick(aim, now, drops),
        }
    }

    /// Drops everybody, oldest first, for one reason.
    pub fn clear(&mut self, reason: Reason, drops: &mut Vec<Dropped<T>>) {
        while !self.is_empty() {
            self.drop_front(reason, drops);
        }
    }

    /// Changes the configuration. Waiters keep their places; those over the new `max` are dropped
    /// from the end that `drop_from` names. What CoDel knows survives new knobs, but nothing else
    /// does; another discipline starts anew.
    pub fn reconfigure(&mut self, now: Time, config: QueueConfig, drops: &mut Vec<Dropped<T>>) {
        let before = core::mem::replace(&mut self.config, config);
        self.trim(drops);
        match (before.discipline, config.discipline) {
            (Discipline::Codel(_), Discipline::Codel(codel)) => self.codel_adjust(codel, now),
            (Discipline::Aim(_), Discipline::Aim(aim)) => self.aim_adjust(aim, now),
            (_, Discipline::Codel(_)) => self.codel_start(now),
            (_, Discipline::Aim(aim)) => self.aim_start(aim, now),
            (_, Discipline::Drop | Discipline::Timeout(_)) => self.wake = now,
        }
        self.tick(now, drops);
    }

    /// As [`reconfigure`](Queue::reconfigure), unless the configuration makes no sense: then
    /// nothing changes.
    ///
    /// # Errors
    /// What [`QueueConfig::validate`] says.
    pub fn try_reconfigure(
        &mut self,
        now: Time,
        config: QueueConfig,
        drops: &mut Vec<Dropped<T>>,
    ) -> Result<(), ConfigError> {
        config.validate()?;
        self.reconfigure(now, config, drops);
        Ok(())
    }

    /// Appends a waiter and looks at nothing else.
    pub(crate) fn append(&mut self, send: Time, value: T) -> Key {
        let key = self.nodes.insert(Node {
            value,
            send,
            until: Time::MAX,
            prev: self.tail,
            next: Key::null(),
            returned: None,
        });
        match self.nodes.get_mut(self.tail) {
            Some(last) => last.next = key,
            None => self.head = key,
        }
        self.tail = key;
        if self.fresh.is_null() {
            self.fresh = key;
        }
        key
    }

    /// The oldest and the key it had, removed without a drop.
    pub(crate) fn withdraw_oldest(&mut self) -> Option<(Key, Mover<T>)> {
        let Node { until, returned: rank, .. } = self.nodes.get(self.head)?;
        let (until, rank) = (*until, *rank);
        let Entry { key, send, value } = self.unlink(self.head)?;
        Some((key, Mover { send, rank, until, value }))
    }

    /// Everybody, oldest first, removed without a drop.
    pub(crate) fn withdraw_all(&mut self) -> Vec<Mover<T>> {
        let mut movers = Vec::with_capacity(self.len());
        while let Some((_, mover)) = self.withdraw_oldest() {
            movers.push(mover);
        }
        movers
    }

    /// Takes in somebody who waited elsewhere, behind those who came before.
    pub(crate) fn move_in(&mut self, mover: Mover<T>) -> Key {
        let Mover { send, rank, until, value } = mover;
        let key = match rank {
            Some(rank) => self.put_back(send, rank, value),
            None => self.append(send, value),
        };
        self.expire_at(key, until);
        key
    }

    fn line_deadline(&self) -> Option<Time> {
        let due = match self.config.discipline {
            Discipline::Drop | Discipline::Timeout(Span::MAX) => return None,
            Discipline::Timeout(_) => self.wake,
            Discipline::Codel(_) if self.fresh.is_null() => return None,
            Discipline::Codel(_) => self.timer,
            Discipline::Aim(aim) => self.aim_deadline(aim),
        };
        // Nobody leaves at the end of time: a timer for that would only lie about.
        (self.len() > self.config.min && due < Time::MAX).then_some(due)
    }

    /// Drops whoever the capacity has no room for, oldest first.
    fn trim(&mut self, drops: &mut Vec<Dropped<T>>) {
        let over = self.len().saturating_sub(self.config.max);
        if self.config.evicts_front() {
            for _ in 0..over {
                self.drop_front(Reason::QueueFull, drops);
            }
            return;
        }
        let first = drops.len();
        for _ in 0..over {
            let last = self.unlink(self.tail);
            drops.extend(last.map(|entry| entry.dropped(Reason::QueueFull)));
        }
        drops[first..].reverse();
    }

    fn expire_hasty(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) {
        while let Some((until, key)) = self.hasty.first().copied() {
            if until > now {
                return;
            }
            let late = self.unlink(key);
            drops.extend(late.map(|entry| entry.dropped(Reason::Expired)));
        }
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
            drops.push(entry.dropped(Reason::Expired));
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
            drops.push(entry.dropped(Reason::Expired));
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
            Discipline::Drop | Discipline::Codel(_) | Discipline::Aim(_) => Time::MAX,
            Discipline::Timeout(timeout) => send + timeout,
        }
    }

    fn drop_front(&mut self, reason: Reason, drops: &mut Vec<Dropped<T>>) {
        let oldest = self.unlink(self.head);
        drops.extend(oldest.map(|entry| entry.dropped(reason)));
    }

    fn drop_fresh(&mut self, reason: Reason, drops: &mut Vec<Dropped<T>>) {
        let oldest = self.unlink(self.fresh);
        drops.extend(oldest.map(|entry| entry.dropped(reason)));
    }

    fn is_returned(&self, key: Key) -> bool {
        self.nodes.get(key).is_some_and(|node| node.returned.is_some())
    }

    fn unlink(&mut self, key: Key) -> Option<Entry<T>> {
        let Node { value, send, until, prev, next, returned } = self.nodes.remove(key)?;
        if key == self.fresh {
            // Whoever returned is passed once: nobody who is fresh ever comes in behind this.
            self.fresh = next;
            while self.is_returned(self.fresh) {
                self.fresh = self.nodes[self.fresh].next;
            }
        }
        match self.nodes.get_mut(prev) {
            Some(node) => node.next = next,
            None => self.head = next,
        }
        match self.nodes.get_mut(next) {
            Some(node) => node.prev = prev,
            None => self.tail = prev,
        }
        if until < Time::MAX {
            self.hasty.remove(&(until, key));
        }
        if let Some(rank) = returned {
            self.returned.remove(&(send, rank));
        }
        Some(Entry { key, send, value })
    }
}
