//! A line that promises its wait: those it serves waited about `aim` to three times that, however
//! much too much comes.
//!
//! In the spirit of the controlled delay that Facebook runs in its servers ("Fail at Scale", ACM
//! Queue 2015): as long as somebody got through within `aim` in each `interval`, waiters may grow
//! as old as `give_up`. When even the shortest wait of an interval was longer, the line sheds
//! whoever is older than twice `aim`, until an interval goes well again. CoDel's drops follow one
//! another by the clock and lose the race against twice the load; this rule cannot.
//!
//! The wait that counts is that of the oldest at a hand-out; a line found empty counts as zero. In
//! an interval without a hand-out the age of the oldest at its end counts. Whoever was handed out
//! before and put back ([`Queue::put_back`]) counts for nothing here and is not shed: it leaves
//! unserved only when it has waited `give_up`, or at a deadline of its own.

use alloc::vec::Vec;

use super::{Aim, Discipline, Dropped, Entry, Order, Queue, Reason};
use crate::time::{Span, Time};

/// How the line has been doing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Health {
    /// Even the shortest wait of the last interval was too long.
    shedding: bool,
    /// When this interval ends.
    judged_at: Time,
    /// The shortest wait in this interval.
    shortest: Option<Span>,
}

impl Health {
    pub(super) fn new(now: Time) -> Health {
        Health { shedding: false, judged_at: now, shortest: None }
    }

    pub(super) fn is_shedding(&self) -> bool {
        self.shedding
    }

    fn note(&mut self, wait: Span) {
        self.shortest = Some(self.shortest.map_or(wait, |shortest| shortest.min(wait)));
    }
}

impl<T> Queue<T> {
    pub(super) fn aim_start(&mut self, aim: Aim, now: Time) {
        self.health = Health { judged_at: now + aim.interval, ..Health::new(now) };
    }

    /// New numbers for a line that knows how it is doing: it is judged no later than planned.
    pub(super) fn aim_adjust(&mut self, aim: Aim, now: Time) {
        self.health.judged_at = self.health.judged_at.min(now + aim.interval);
    }

    pub(super) fn aim_forget_at(&self, now: Time) -> Time {
        if self.health.shedding { self.health.judged_at.max(now) } else { now }
    }

    pub(super) fn aim_deadline(&self, aim: Aim) -> Time {
        // Without a time to give up at there is none to look at, even if times begin below zero.
        let oldest = self.oldest().filter(|_| aim.give_up < Span::MAX);
        let gives_up = oldest.map_or(Time::MAX, |oldest| oldest + aim.give_up);
        let Some(oldest) = self.oldest_fresh() else { return gives_up };
        let shed = oldest + aim.aim.times(2);
        // Before anybody waits twice `aim` it may turn out that the line must shed.
        let shed = if self.health.shedding { shed } else { shed.max(self.health.judged_at) };
        gives_up.min(shed)
    }

    pub(super) fn aim_push(&mut self, aim: Aim, now: Time, drops: &mut Vec<Dropped<T>>) {
        self.aim_judge(aim, now);
        if self.len() == 1 {
            self.health.note(Span::ZERO);
        }
        self.aim_shed(aim, now, drops);
    }

    pub(super) fn aim_tick(&mut self, aim: Aim, now: Time, drops: &mut Vec<Dropped<T>>) {
        self.aim_judge(aim, now);
        self.aim_shed(aim, now, drops);
    }

    pub(super) fn aim_pop(
        &mut self,
        aim: Aim,
        now: Time,
        drops: &mut Vec<Dropped<T>>,
    ) -> Option<Entry<T>> {
        self.aim_tick(aim, now, drops);
        self.health.note(self.oldest_fresh().map_or(Span::ZERO, |oldest| now - oldest));
        let newest_first = match self.config.order {
            Order::Fifo => false,
            Order::Lifo => true,
            Order::Adaptive => self.health.shedding,
        };
        self.unlink(if newest_first { self.tail } else { self.head })
    }

    fn aim_judge(&mut self, aim: Aim, now: Time) {
        if now < self.health.judged_at {
            return;
        }
        let age = self.oldest_fresh().map_or(Span::ZERO, |oldest| now - oldest);
        let shortest = self.health.shortest.unwrap_or(age);
        self.health =
            Health { shedding: shortest > aim.aim, judged_at: now + aim.interval, shortest: None };
    }

    fn aim_shed(&mut self, aim: Aim, now: Time, drops: &mut Vec<Dropped<T>>) {
        let waited = |since: Option<Time>, span| since.is_some_and(|since| since + span <= now);
        while self.len() > self.config.min && waited(self.oldest(), aim.give_up) {
            self.drop_front(Reason::Expired, drops);
        }
        let limit = aim.aim.times(2);
        while self.health.shedding
            && self.len() > self.config.min
            && waited(self.oldest_fresh(), limit)
        {
            self.drop_fresh(Reason::Overload, drops);
        }
    }

    /// Whether the line sheds load right now: it is slow, and its discipline acts on it.
    #[must_use]
    pub fn is_shedding(&self) -> bool {
        match self.config.discipline {
            Discipline::Drop | Discipline::Timeout(_) => false,
            Discipline::Codel(_) => self.control.is_dropping(),
            Discipline::Aim(_) => self.health.is_shedding(),
        }
    }
}
