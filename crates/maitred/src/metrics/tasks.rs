//! What is counted of tasks.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use store::{Answer, Query, QueueView, State};

use super::SERVICES_MAX;
use crate::tasks::view::state_name;
use crate::tasks::{Desk, level_name};

/// One picture of the store.
#[derive(Debug)]
pub(crate) struct Tasks {
    counters: Vec<(&'static str, &'static str, u64)>,
    waiting: usize,
    level: &'static str,
    engine: &'static str,
    /// The largest by tasks that have not ended.
    queues: Vec<QueueView>,
}

impl Tasks {
    /// # Errors
    /// What the store says.
    pub(crate) async fn look(desk: &Desk) -> Result<Tasks, store::Error> {
        let mut queues = match desk.query(Query::Queues).await? {
            Answer::Queues(queues) => queues,
            Answer::Task(_) | Answer::Tasks { .. } | Answer::Schedules(_) | Answer::Why(_) => {
                Vec::new()
            }
        };
        let open = |queue: &QueueView| {
            let states = State::ALL.iter().zip(queue.counts);
            states.filter(|(state, _)| !state.is_terminal()).map(|(_, count)| count).sum::<u64>()
        };
        queues.sort_by_key(|queue| std::cmp::Reverse(open(queue)));
        queues.truncate(SERVICES_MAX);
        let counts = &desk.counts;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let capabilities = desk.store().capabilities();
        Ok(Tasks {
            counters: vec![
                ("maitred_tasks_enqueued", "Tasks taken", read(&counts.enqueued)),
                ("maitred_tasks_claimed", "Leases given", read(&counts.claimed)),
                ("maitred_tasks_completed", "Attempts that ended well", read(&counts.completed)),
                ("maitred_tasks_failed", "Attempts that failed", read(&counts.failed)),
                ("maitred_tasks_lost", "Leases that ended by themselves", read(&counts.lost)),
                ("maitred_tasks_stale", "Settles that came too late", read(&counts.stale)),
                ("maitred_tasks_died", "Tasks that became dead letters", read(&counts.dead)),
                ("maitred_tasks_cancelled", "Tasks cancelled", read(&counts.cancelled)),
                ("maitred_tasks_scheduled", "Tasks that schedules made", read(&counts.scheduled)),
                (
                    "maitred_tasks_refused",
                    "Enqueues that the store could not take",
                    read(&counts.refused),
                ),
            ],
            waiting: desk.waiting(),
            level: level_name(capabilities.level),
            engine: capabilities.engine,
            queues,
        })
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in &self.counters {
            let counter = ConstCounter::new(*value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let (name, help) = ("maitred_tasks_waiting_claims", "Claims that wait for a task");
        let gauge = ConstGauge::new(self.waiting as i64);
        gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;

        let (name, help) = ("maitred_store", "Which engine keeps tasks, and at which level");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let labels = [("engine", self.engine), ("level", self.level)];
        ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;

        let (name, help) = ("maitred_tasks", "Tasks known, by type and state");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for queue in &self.queues {
            for (state, count) in State::ALL.into_iter().zip(queue.counts) {
                let labels = [("type", queue.task_type.as_str()), ("state", state_name(state))];
                let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&labels)?)?;
            }
        }
        let (name, help) = ("maitred_tasks_paused", "1 while the type is paused");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for queue in self.queues.iter().filter(|queue| queue.paused) {
            let labels = [("type", queue.task_type.as_str())];
            ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
