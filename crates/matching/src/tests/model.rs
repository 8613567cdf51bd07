//! The rules of a line, written down as simply as they can be: a `Vec` and no cached time.

use std::vec::Vec;

use crate::{Discipline, DropFrom, Order, QueueConfig, Reason, Span, Time};

/// One waiter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Waiter {
    pub(super) id: u32,
    pub(super) send: Time,
    /// Orders those of one moment that were put back; the rest stand behind them.
    pub(super) rank: u64,
}

/// A line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) config: QueueConfig,
    pub(super) waiters: Vec<Waiter>,
    /// Since the last call.
    pub(super) drops: Vec<(u32, Time, Reason)>,
}

impl Line {
    pub(super) fn new(config: QueueConfig) -> Line {
        Line { config, waiters: Vec::new(), drops: Vec::new() }
    }

    pub(super) fn push(&mut self, now: Time, send: Time, id: u32) {
        let evicts = self.config.drop_from == DropFrom::Front && self.config.max > 0;
        let full = self.waiters.len() >= self.config.max;
        if full && evicts {
            self.drop_at(0, Reason::QueueFull);
        }
        if full && !evicts {
            self.drops.push((id, send, Reason::QueueFull));
        } else {
            self.waiters.push(Waiter { id, send, rank: u64::MAX });
        }
        self.tick(now);
    }

    pub(super) fn put_back(&mut self, send: Time, rank: u64, id: u32) {
        self.waiters.insert(0, Waiter { id, send, rank });
        self.waiters.sort_by_key(|waiter| (waiter.send, waiter.rank));
    }

    pub(super) fn pop(&mut self, now: Time) -> Option<Waiter> {
        match self.config.order {
            Order::Fifo | Order::Adaptive => {
                while self.waiters.len() > self.config.min && self.is_due(0, now) {
                    self.drop_at(0, Reason::Expired);
                }
                (!self.waiters.is_empty()).then(|| self.waiters.remove(0))
            }
            Order::Lifo => {
                let last = self.waiters.len().checked_sub(1)?;
                // The one handed out may count as one of those that are kept.
                if last >= self.config.min {
                    let kept = self.config.min.max(1);
                    while self.waiters.len() > kept && self.is_due(0, now) {
                        self.drop_at(0, Reason::Expired);
                    }
                    if self.config.min == 0 && self.is_due(self.waiters.len() - 1, now) {
                        self.drop_at(self.waiters.len() - 1, Reason::Expired);
                    }
                }
                self.waiters.pop()
            }
        }
    }

    pub(super) fn cancel(&mut self, now: Time, id: u32) -> bool {
        let place = self.waiters.iter().position(|waiter| waiter.id == id);
        if let Some(place) = place {
            self.waiters.remove(place);
            self.tick(now);
        }
        place.is_some()
    }

    pub(super) fn tick(&mut self, now: Time) {
        while self.waiters.len() > self.config.min && self.is_due(0, now) {
            self.drop_at(0, Reason::Expired);
        }
    }

    pub(super) fn reconfigure(&mut self, now: Time, config: QueueConfig) {
        self.config = config;
        let over = self.waiters.len().saturating_sub(config.max);
        let evicts = config.drop_from == DropFrom::Front && config.max > 0;
        let place = if evicts { 0 } else { self.waiters.len() - over };
        for _ in 0..over {
            self.drop_at(place, Reason::QueueFull);
        }
        self.tick(now);
    }

    /// When the oldest is due, [`Time::MAX`] if never.
    pub(super) fn first_due(&self) -> Time {
        self.waiters.first().map_or(Time::MAX, |waiter| self.expiry(waiter.send))
    }

    fn is_due(&self, place: usize, now: Time) -> bool {
        self.waiters.get(place).is_some_and(|waiter| self.expiry(waiter.send) <= now)
    }

    fn expiry(&self, send: Time) -> Time {
        match self.config.discipline {
            Discipline::Drop | Discipline::Timeout(Span::MAX) => Time::MAX,
            Discipline::Codel(_) | Discipline::Aim(_) => unreachable!("another model's"),
            Discipline::Timeout(timeout) => send + timeout,
        }
    }

    fn drop_at(&mut self, place: usize, reason: Reason) {
        let Waiter { id, send, .. } = self.waiters.remove(place);
        self.drops.push((id, send, reason));
    }
}
