//! CoDel: drop the oldest, faster and faster, while the line stays slow.
//!
//! A waiter is *fast* while its sojourn is below `target`. Once the oldest was slow for a whole
//! `interval` it is dropped; the next drop follows after `interval / √2`, `interval / √3` and so on
//! until somebody fast is handed out. The rules are those of `sbroker_codel_queue` (specification
//! sheet, section 2.3), which follow draft-ietf-aqm-codel-03: ticks and newcomers may start and
//! continue an episode of drops, not only hand-outs, so that a line nobody takes from loses all
//! who are slow; `min` waiters are kept; waiters are counted, not bytes.
//!
//! Two defects of the original are fixed. Q1: when it catches up on drops that are overdue it
//! drops fast waiters too, even one that came this instant; we stop at the first who is fast. Q2:
//! a LIFO line that hands out its last waiter, fast, stays in its episode if its cached timer is
//! ahead; ours is calm then.
//!
//! The original knows nobody who was handed out before and put back ([`Queue::put_back`]). Here
//! such a waiter is as if it were not there: it is not dropped, and handing it out changes nothing.

use alloc::vec::Vec;

use slotmap::Key as _;

use super::{Codel, Dropped, Entry, Key, Queue, Reason};
use crate::time::{Span, Time};

/// An episode is remembered for this many intervals after its last drop.
const MEMORY: i64 = 8;

/// Where a line stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Nobody slow was seen.
    Calm,
    /// Somebody slow was seen: the first drop may happen at this time.
    Armed(Time),
    /// An episode of drops.
    Dropping,
}

/// What CoDel knows about a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control {
    phase: Phase,
    /// Drops in this episode, or in the last one.
    count: u64,
    /// When the next drop is due; after an episode, when it would have been.
    drop_next: Time,
}

impl Control {
    pub(super) fn new(now: Time) -> Control {
        Control { phase: Phase::Calm, count: 0, drop_next: now }
    }

    pub(super) fn is_dropping(&self) -> bool {
        self.phase == Phase::Dropping
    }

    fn enter(&mut self, now: Time, interval: Span) {
        let remembered = now - self.drop_next < interval.times(MEMORY);
        if self.count > 2 && remembered {
            self.count -= 2;
            self.drop_next = now + gap(interval, self.count);
        } else {
            self.count = 1;
            self.drop_next = now + interval;
        }
        self.phase = Phase::Dropping;
    }

    fn step(&mut self, interval: Span) {
        self.count += 1;
        self.drop_next += gap(interval, self.count);
    }
}

/// `interval / √n`, rounded down, without floats: equal on every machine.
pub(crate) fn gap(interval: Span, n: u64) -> Span {
    let (nanos, n) = (interval.as_nanos().unsigned_abs(), n.max(1));
    let gap = match u32::try_from(nanos) {
        Ok(_) => (nanos * nanos / n).isqrt(),
        Err(_) => {
            let square = u128::from(nanos) * u128::from(nanos) / u128::from(n);
            u64::try_from(square.isqrt()).unwrap_or(u64::MAX)
        }
    };
    Span::from_nanos(i64::try_from(gap).unwrap_or(i64::MAX))
}

impl<T> Queue<T> {
    /// When nothing of an episode is remembered any more.
    pub(super) fn codel_forget_at(&self, codel: Codel, now: Time) -> Time {
        (self.control.drop_next + codel.interval.times(MEMORY)).max(now)
    }

    pub(super) fn codel_start(&mut self, now: Time) {
        self.control = Control::new(now);
        (self.wake, self.timer) = (now, Time::MAX);
    }

    /// New knobs for a running episode: nothing that is already planned is put off.
    pub(super) fn codel_adjust(&mut self, codel: Codel, now: Time) {
        let latest = now + codel.interval;
        if let Phase::Armed(at) = self.control.phase
            && at > latest
        {
            self.control.phase = Phase::Armed(latest);
            self.wake = latest;
        }
        if self.control.drop_next > latest {
            self.control.drop_next = latest;
            if self.control.phase == Phase::Dropping {
                self.wake = latest;
            }
        }
        if self.control.phase == Phase::Calm {
            self.wake = now;
        }
    }

    pub(super) fn codel_tick(&mut self, codel: Codel, now: Time, drops: &mut Vec<Dropped<T>>) {
        if self.len() <= self.config.min || self.fresh.is_null() {
            return;
        }
        self.timer = match self.control.phase {
            _ if self.wake > now => self.wake,
            Phase::Dropping if self.control.drop_next > now => self.control.drop_next,
            Phase::Armed(at) if at > now => at,
            Phase::Calm | Phase::Armed(_) | Phase::Dropping => {
                self.codel_service(codel, self.config.min, now, drops)
            }
        };
    }

    /// A newcomer stands in the line. Unlike a tick it does not wait for the planned time once the
    /// oldest turned slow, as in the original.
    pub(super) fn codel_pushed(&mut self, codel: Codel, now: Time, drops: &mut Vec<Dropped<T>>) {
        if self.len() <= self.config.min {
            return;
        }
        self.timer = match self.wake > now {
            true => self.wake,
            false => self.codel_service(codel, self.config.min, now, drops),
        };
    }

    pub(super) fn codel_pop_fifo(
        &mut self,
        codel: Codel,
        now: Time,
        drops: &mut Vec<Dropped<T>>,
    ) -> Option<Entry<T>> {
        if self.fresh.is_null() || self.is_returned(self.head) {
            return self.codel_pop_other(self.head, now);
        }
        let mut entry = self.unlink(self.head)?;
        loop {
            if self.len() < self.config.min {
                self.codel_calm(now);
                return Some(entry);
            }
            if codel.is_fast(entry.send, now) {
                self.codel_calm(entry.send + codel.target);
                return Some(entry);
            }
            if self.wake > now {
                self.timer = self.wake;
                return Some(entry);
            }
            let first = match self.control.phase {
                Phase::Calm => {
                    self.codel_arm(codel, now);
                    return Some(entry);
                }
                Phase::Armed(_) => true,
                Phase::Dropping => false,
            };
            drops.push(entry.dropped(Reason::Overload));
            if first {
                self.codel_enter(codel, now);
            }
            let kept = self.len() == self.config.min;
            if self.fresh.is_null() {
                self.codel_calm(now);
                return self.unlink(self.head);
            }
            if self.is_returned(self.head) {
                return self.unlink(self.head);
            }
            entry = self.unlink(self.head)?;
            if kept {
                self.codel_calm(now);
                return Some(entry);
            }
            if codel.is_fast(entry.send, now) {
                self.codel_calm(entry.send + codel.target);
                return Some(entry);
            }
            if first {
                return Some(entry);
            }
            self.codel_step(codel);
        }
    }

    pub(super) fn codel_pop_lifo(
        &mut self,
        codel: Codel,
        now: Time,
        drops: &mut Vec<Dropped<T>>,
    ) -> Option<Entry<T>> {
        if self.fresh.is_null() || self.is_returned(self.tail) {
            return self.codel_pop_other(self.tail, now);
        }
        let entry = self.unlink(self.tail)?;
        let min = self.config.min;
        if self.len() < min {
            self.codel_calm(now);
            return Some(entry);
        }
        // Q2: the original looks at its cached timer first, whatever its phase.
        let alarmed = self.control.phase != Phase::Calm || self.wake <= now;
        if alarmed && self.fresh.is_null() && codel.is_fast(entry.send, now) {
            self.codel_calm(now);
            return Some(entry);
        }
        if self.wake > now {
            self.timer = self.wake;
            return Some(entry);
        }
        if self.fresh.is_null() {
            return self.codel_lone(codel, entry, now, drops);
        }
        self.timer = self.codel_service(codel, min.saturating_sub(1), now, drops);
        if self.fresh.is_null() && min == 0 && codel.is_fast(entry.send, now) {
            // Q1 again: all others were dropped, this one is not slow.
            self.codel_calm(now);
            return Some(entry);
        }
        if self.fresh.is_null() && min == 0 {
            return self.codel_lone(codel, entry, now, drops);
        }
        if self.len() < min {
            self.codel_calm(now);
        }
        Some(entry)
    }

    /// The last waiter of a LIFO line, slow: the episode takes it or hands it out.
    fn codel_lone(
        &mut self,
        codel: Codel,
        entry: Entry<T>,
        now: Time,
        drops: &mut Vec<Dropped<T>>,
    ) -> Option<Entry<T>> {
        match self.control.phase {
            Phase::Calm => {
                self.codel_arm(codel, now);
                return Some(entry);
            }
            Phase::Dropping if self.control.drop_next <= now => self.codel_step(codel),
            Phase::Armed(at) if at <= now => self.codel_enter(codel, now),
            Phase::Dropping | Phase::Armed(_) => return Some(entry),
        }
        drops.push(entry.dropped(Reason::Overload));
        self.codel_calm(now);
        // Whoever was put back is handed out rather than nobody.
        self.unlink(self.tail)
    }

    /// Looks after the oldest of more than `floor` waiters; says when to look again.
    fn codel_service(
        &mut self,
        codel: Codel,
        floor: usize,
        now: Time,
        drops: &mut Vec<Dropped<T>>,
    ) -> Time {
        if self.codel_front_is_fast(codel, now) {
            return self.wake;
        }
        match self.control.phase {
            Phase::Calm => self.codel_arm(codel, now),
            Phase::Armed(_) => {
                self.drop_fresh(Reason::Overload, drops);
                self.codel_enter(codel, now);
            }
            Phase::Dropping => {
                self.drop_fresh(Reason::Overload, drops);
                self.codel_step(codel);
                while self.control.drop_next <= now && self.len() > floor && !self.fresh.is_null() {
                    // Q1: the original does not look.
                    if self.codel_front_is_fast(codel, now) {
                        return self.wake;
                    }
                    self.drop_fresh(Reason::Overload, drops);
                    self.codel_step(codel);
                }
            }
        }
        self.wake
    }

    fn codel_front_is_fast(&mut self, codel: Codel, now: Time) -> bool {
        let fast = self.oldest_fresh().filter(|send| codel.is_fast(*send, now));
        if let Some(send) = fast {
            self.wake = send + codel.target;
        }
        fast.is_some()
    }

    /// Hands out whoever is there when nobody fresh waits, or not at that end.
    fn codel_pop_other(&mut self, key: Key, now: Time) -> Option<Entry<T>> {
        if self.fresh.is_null() && self.control.phase != Phase::Calm {
            self.codel_calm(now);
        }
        self.unlink(key)
    }

    fn codel_calm(&mut self, wake: Time) {
        self.control.phase = Phase::Calm;
        (self.wake, self.timer) = (wake, wake);
    }

    fn codel_arm(&mut self, codel: Codel, now: Time) {
        let at = now + codel.interval;
        self.control.phase = Phase::Armed(at);
        (self.wake, self.timer) = (at, at);
    }

    fn codel_enter(&mut self, codel: Codel, now: Time) {
        self.control.enter(now, codel.interval);
        (self.wake, self.timer) = (self.control.drop_next, self.control.drop_next);
    }

    fn codel_step(&mut self, codel: Codel) {
        self.control.step(codel.interval);
        (self.wake, self.timer) = (self.control.drop_next, self.control.drop_next);
    }
}

impl Codel {
    fn is_fast(self, send: Time, now: Time) -> bool {
        send + self.target > now
    }
}
