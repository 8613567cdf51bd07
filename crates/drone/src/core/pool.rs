//! A task type with its line and its workers.

use std::collections::VecDeque;

use matching::{Rule, Span, Time, Valve, ValveConfig};

use super::{Counts, Slot, TaskKey, third};
use crate::plan::PoolPlan;

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) plan: PoolPlan,
    /// Raised when its workers are to work in another way.
    pub(super) generation: u32,
    /// How many workers there may be; its size is how many there are.
    pub(super) valve: Valve,
    pub(super) rate: Option<Valve>,
    pub(super) line: VecDeque<TaskKey>,
    /// The last one is the next to work, so that the others come to rest.
    pub(super) idle: Vec<Slot>,
    pub(super) starting: usize,
    /// A claim that is out, and how much for.
    pub(super) asking: usize,
    /// The global queue may have something.
    pub(super) hungry: bool,
    pub(super) paused: bool,
    pub(super) resting: Option<Time>,
    /// Ends of workers within the window.
    pub(super) ends: VecDeque<Time>,
    /// Ends of workers since one of them did something.
    pub(super) streak: u32,
    /// Mean time of an attempt in ns; 0 while nothing is known.
    pub(super) mean: f64,
    pub(super) counts: Counts,
}

impl Pool {
    pub(super) fn new(plan: PoolPlan, now: Time) -> Pool {
        Pool {
            valve: Valve::new(size_valve(&plan), 0, now),
            rate: rate_valve(&plan, now),
            line: VecDeque::new(),
            idle: Vec::new(),
            starting: 0,
            asking: 0,
            hungry: true,
            paused: false,
            resting: None,
            ends: VecDeque::new(),
            streak: 0,
            mean: 0.0,
            counts: Counts::default(),
            plan,
            generation: 0,
        }
    }

    /// How many tasks may stand in line: as many as its workers begin within a third of a lease.
    pub(super) fn target(&self, lease: Span) -> usize {
        let workers = self.valve.size().max(1);
        let each = match self.mean {
            mean if mean > 0.0 => (third(lease).as_nanos() as f64 / mean) as usize,
            _ => self.plan.prefetch,
        };
        workers * each.clamp(1, self.plan.prefetch)
    }

    pub(super) fn learn(&mut self, took: Span) {
        let took = took.as_nanos().max(1) as f64;
        self.mean = if self.mean > 0.0 { self.mean * 0.9 + took * 0.1 } else { took };
    }
}

/// How many workers a pool may have.
pub(super) fn size_valve(plan: &PoolPlan) -> ValveConfig {
    let target = plan.breath.wait.negated();
    let rule = Rule::Codel { target, interval: plan.breath.interval };
    ValveConfig { min: plan.min, max: plan.max, rule }
}

pub(super) fn rate_valve(plan: &PoolPlan, now: Time) -> Option<Valve> {
    let (limit, interval) = plan.rate?;
    // A valve lets nobody through in its first interval, because it cannot know what happened
    // before; a drone that starts has done nothing, so it begins an interval earlier.
    Some(Valve::new(ValveConfig::rate(limit, interval), 0, now + interval.negated()))
}
