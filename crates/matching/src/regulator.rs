//! One line before a valve: who asks waits until the valve lets it run.
//!
//! ```text
//!           ┌──────────┐ valve open ┌───────┐
//!   ask ──▶ │ Queue<T> │───────────▶│ locks │─▶ done, lost
//!   drop ◀─ │          │            └───────┘
//!           └──────────┘
//! ```
//!
//! An open valve has nobody waiting before it; that is asserted after each call. The rules are
//! those of `sregulator` (specification sheet, section 2.7). Fixed: every admitted ask learns the
//! times of its own request (Q4), and a lock leaves nothing behind when it is released (Q8).

use alloc::vec::Vec;

use slotmap::SlotMap;

use crate::queue::{ConfigError, Dropped, Key, Queue, QueueConfig, Reason};
use crate::time::{Span, Time};
use crate::valve::{Report, Valve, ValveConfig};

slotmap::new_key_type! {
    /// Names one lock of one regulator. A lock that was released is harmless for ever.
    pub struct Lock;
}

/// Somebody who may run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Admitted<T> {
    /// What it holds until it is done.
    pub lock: Lock,
    /// What asked.
    pub value: T,
    /// When it was sent.
    pub send: Time,
    /// The opening of the valve that let it in.
    pub opened: Time,
}

impl<T> Admitted<T> {
    /// How long it waited for the valve; negative: how long the valve had been open.
    #[must_use]
    pub fn relative(&self) -> Span {
        self.opened - self.send
    }

    /// How long it was in the house.
    #[must_use]
    pub fn sojourn(&self, now: Time) -> Span {
        now - self.send
    }
}

/// Where a [`Regulator`] leaves what came of a call. The caller brings it, empties it and reuses
/// it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Admissions<T> {
    /// Who may run, in order.
    pub admitted: Vec<Admitted<T>>,
    /// Who was dropped, in order.
    pub dropped: Vec<Dropped<T>>,
}

impl<T> Default for Admissions<T> {
    fn default() -> Admissions<T> {
        Admissions { admitted: Vec::new(), dropped: Vec::new() }
    }
}

/// What the holder of a lock is told when it asks to go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GoOn {
    /// It keeps its lock, thanks to an opening at this time.
    Go(Time),
    /// It lost its lock and must stop.
    Stop,
    /// It holds no lock.
    NotFound,
}

/// A line before a valve.
#[derive(Debug)]
pub struct Regulator<T> {
    queue: Queue<T>,
    valve: Valve,
    /// When each lock was handed out.
    locks: SlotMap<Lock, Time>,
    /// What the valve said last.
    open: bool,
    /// Since when nobody waits before a closed valve.
    empty_mark: Time,
    /// When the valve opens by itself.
    valve_due: Option<Time>,
}

impl<T> Regulator<T> {
    /// A regulator nobody asked anything.
    #[must_use]
    pub fn new(queue: QueueConfig, valve: ValveConfig, now: Time) -> Regulator<T> {
        let valve = Valve::new(valve, 0, now);
        Regulator {
            queue: Queue::new(queue, now),
            open: valve.is_open(now),
            valve_due: valve.deadline(now),
            valve,
            locks: SlotMap::with_key(),
            empty_mark: now,
        }
    }

    /// The line before the valve.
    #[must_use]
    pub fn queue(&self) -> &Queue<T> {
        &self.queue
    }

    /// The valve.
    #[must_use]
    pub fn valve(&self) -> &Valve {
        &self.valve
    }

    /// Whether the valve was open after the last call.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Locks that are out.
    #[must_use]
    pub fn size(&self) -> usize {
        self.locks.len()
    }

    /// Those who wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Since when this regulator is as it is: the open valve's opening, the oldest waiter's send
    /// time, or since when nobody waits. `send` minus it is what meters call relative, with the
    /// sign turned while the valve is open.
    #[must_use]
    pub fn since(&self) -> Time {
        let idle = if self.open { self.valve.opening() } else { self.queue.oldest() };
        idle.unwrap_or(self.empty_mark)
    }

    /// When [`tick`](Regulator::tick) next has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match (self.queue.deadline(), self.valve_due) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (due, None) | (None, due) => due,
        }
    }

    /// Runs at once or waits; whoever may run is in `out`. The key, if it waits.
    pub fn ask(&mut self, now: Time, send: Time, value: T, out: &mut Admissions<T>) -> Option<Key> {
        if self.open {
            self.admit(now, send, value, out);
            self.turn(now, out);
            return None;
        }
        let key = self.queue.push(now, send, value, &mut out.dropped);
        self.turn(now, out);
        key.filter(|key| self.queue.get(*key).is_some())
    }

    /// Runs at once or not at all.
    ///
    /// # Errors
    /// Hands the value back if the valve was closed.
    pub fn try_ask(
        &mut self,
        now: Time,
        send: Time,
        value: T,
        out: &mut Admissions<T>,
    ) -> Result<(), T> {
        if self.open {
            self.admit(now, send, value, out);
            self.turn(now, out);
            return Ok(());
        }
        self.tick(now, out);
        Err(value)
    }

    /// Gives a waiter a deadline of its own, see [`Queue::expire_at`].
    pub fn expire_at(&mut self, key: Key, until: Time) {
        self.queue.expire_at(key, until);
    }

    /// Whether the holder of a lock may go on. Decided before anybody who waits.
    pub fn go_on(&mut self, now: Time, lock: Lock, out: &mut Admissions<T>) -> GoOn {
        if !self.locks.contains_key(lock) {
            self.turn(now, out);
            return GoOn::NotFound;
        }
        let told = self.valve.go_on(now).map_or(GoOn::Stop, GoOn::Go);
        if told == GoOn::Stop {
            self.locks.remove(lock);
        }
        self.turn(now, out);
        told
    }

    /// The work under a lock is done, well or not. False if there is no such lock.
    pub fn done(&mut self, now: Time, lock: Lock, ok: bool, out: &mut Admissions<T>) -> bool {
        let since = self.locks.remove(lock);
        if let Some(since) = since {
            self.valve.release(now, Some(Report { held: now - since, ok }));
        }
        self.turn(now, out);
        since.is_some()
    }

    /// The holder of a lock is lost. False if there is no such lock.
    pub fn lost(&mut self, now: Time, lock: Lock, out: &mut Admissions<T>) -> bool {
        let held = self.locks.remove(lock).is_some();
        if held {
            self.valve.release(now, None);
        }
        self.turn(now, out);
        held
    }

    /// How long the regulated side waits for its counterparty, see [`Valve::update`].
    pub fn update(&mut self, now: Time, value: Span, out: &mut Admissions<T>) {
        self.valve.update(now, value);
        self.turn(now, out);
    }

    /// Removes one waiter without a drop. `None` if it left before.
    pub fn cancel(&mut self, now: Time, key: Key, out: &mut Admissions<T>) -> Option<T> {
        let cancelled = self.queue.cancel(now, key, &mut out.dropped);
        self.turn(now, out);
        cancelled
    }

    /// Drops everybody who waits: the regulator is being closed. Locks stay out.
    pub fn drain(&mut self, now: Time, out: &mut Admissions<T>) {
        self.queue.clear(Reason::Draining, &mut out.dropped);
        self.turn(now, out);
    }

    /// Drops whoever is due, and lets run whoever may.
    pub fn tick(&mut self, now: Time, out: &mut Admissions<T>) {
        self.turn(now, out);
    }

    /// Changes line and valve: both or, if one of the two makes no sense, neither. Waiters keep
    /// their places, except those over a new `max`; locks stay out.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn reconfigure(
        &mut self,
        now: Time,
        queue: QueueConfig,
        valve: ValveConfig,
        out: &mut Admissions<T>,
    ) -> Result<(), ConfigError> {
        queue.validate()?;
        valve.validate()?;
        self.queue.reconfigure(now, queue, &mut out.dropped);
        self.valve.reconfigure(now, valve);
        self.turn(now, out);
        Ok(())
    }

    /// Looks at the valve after whatever happened: an open one lets waiters run until it closes
    /// or nobody waits; before a closed one the line has its due.
    fn turn(&mut self, now: Time, out: &mut Admissions<T>) {
        let was_open = core::mem::replace(&mut self.open, self.valve.is_open(now));
        while self.open {
            let Some(entry) = self.queue.pop(now, &mut out.dropped) else {
                self.empty_mark = now;
                break;
            };
            self.admit(now, entry.send, entry.value, out);
            self.open = self.valve.is_open(now);
        }
        if !self.open {
            if was_open {
                self.empty_mark = now;
            }
            self.queue.tick(now, &mut out.dropped);
        }
        self.valve_due = self.valve.deadline(now);
        assert!(!self.open || self.queue.is_empty(), "somebody waits before an open valve");
        assert_eq!(self.valve.size(), self.locks.len(), "valve and regulator count differently");
    }

    /// Q4: the times are those of the request itself, whichever call let it in.
    fn admit(&mut self, now: Time, send: Time, value: T, out: &mut Admissions<T>) {
        let opened = self.valve.admit(now);
        let lock = self.locks.insert(now);
        out.admitted.push(Admitted { lock, value, send, opened });
    }
}
