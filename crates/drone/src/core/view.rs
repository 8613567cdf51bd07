//! What is to be seen of a drone.

use matching::Time;
use serde::{Deserialize, Serialize};

use super::{At, Core, Counts, Slot};

/// One task type.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct PoolView {
    /// Its name.
    pub task_type: String,
    /// Always so many workers.
    pub min: usize,
    /// Never more.
    pub max: usize,
    /// Tasks in line here.
    pub waiting: usize,
    /// How long the first of them has waited, in ms.
    pub oldest_ms: u64,
    /// Mean time of an attempt, in ms.
    pub mean_ms: f64,
    /// No task is given to workers until it is resumed.
    pub paused: bool,
    /// Its workers kept ending: it is given up for so many ms more.
    pub resting_ms: u64,
    /// Counts since the start.
    pub counts: Counts,
    /// Its workers.
    pub workers: Vec<WorkerView>,
}

/// One worker.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct WorkerView {
    /// Its name here.
    pub slot: String,
    /// What it does.
    pub state: WorkerState,
    /// For how long, in ms; 0 while it starts or stops.
    pub for_ms: u64,
    /// The task it has.
    pub task: Option<u64>,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It is being started.
    Starting,
    /// It waits for a task.
    Idle,
    /// It has a task.
    Busy,
    /// It is being ended.
    Stopping,
}

impl std::fmt::Display for Slot {
    /// A small number for people; the place in its table, and which user of that place it is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = slotmap::Key::data(self).as_ffi();
        write!(f, "{}.{}", number & 0xFFFF_FFFF, (number >> 33) + 1)
    }
}

impl Core {
    /// All pools, with all their workers.
    #[must_use]
    pub fn view(&self, now: Time) -> Vec<PoolView> {
        let ms = |since: Time| (now - since).as_millis().max(0) as u64;
        let pools = self.pools.iter().enumerate().map(|(id, pool)| {
            let workers = self.workers.iter().filter(|(_, worker)| worker.pool == id);
            let workers = workers.map(|(slot, worker)| {
                let (state, for_ms, task) = match worker.state {
                    At::Starting => (WorkerState::Starting, 0, None),
                    At::Idle(since) => (WorkerState::Idle, ms(since), None),
                    At::Busy(task, since) => (WorkerState::Busy, ms(since), task),
                    At::Stopping => (WorkerState::Stopping, 0, None),
                };
                let task = task.and_then(|key| Some(self.tasks.get(key)?.job.token.task.0));
                WorkerView { slot: slot.to_string(), state, for_ms, task }
            });
            PoolView {
                task_type: pool.plan.task_type.clone(),
                min: pool.plan.min,
                max: pool.plan.max,
                waiting: pool.line.len(),
                oldest_ms: pool.line.front().map_or(0, |key| ms(self.tasks[*key].since)),
                mean_ms: pool.mean / 1e6,
                paused: pool.paused,
                resting_ms: pool.resting.map_or(0, |until| (until - now).as_millis().max(0) as u64),
                counts: pool.counts,
                workers: workers.collect(),
            }
        });
        pools.collect()
    }
}
