//! Outcomes on their way to the global queue: stored, and forwarded as soon as it can be reached.

use std::time::{Duration, Instant};

use store::{Error, Refusal, Settle, Settled};

use crate::journal::Journal;

/// After a call that failed the next one waits so long, doubling.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Outcomes that are not known to have arrived.
#[derive(Default)]
pub(crate) struct HandIn {
    waiting: Vec<Settle>,
    flying: Vec<Settle>,
    retry: Option<(Instant, Duration)>,
}

impl HandIn {
    pub(crate) fn push(&mut self, settle: Settle) {
        self.waiting.push(settle);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.flying.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.flying.len()
    }

    /// When [`HandIn::take`] has something, if time alone brings it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let (at, _) = self.retry?;
        (self.flying.is_empty() && !self.waiting.is_empty()).then_some(at)
    }

    /// What to hand in now: one batch at a time, so that the next one gathers meanwhile.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Vec<Settle>> {
        if !self.flying.is_empty()
            || self.waiting.is_empty()
            || self.retry.is_some_and(|(at, _)| at > now)
        {
            return None;
        }
        let batch = self.waiting.len().min(store::limits::BATCH);
        self.flying = self.waiting.drain(..batch).collect();
        Some(self.flying.clone())
    }

    /// What came of it.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        answer: Result<Vec<Result<Settled, Refusal>>, Error>,
        journal: &Journal,
    ) {
        let batch = std::mem::take(&mut self.flying);
        match answer {
            Ok(answers) => {
                self.retry = None;
                for (settle, answer) in batch.iter().zip(answers) {
                    if let Err(refusal) = answer {
                        let task = settle.token.task.0;
                        tracing::warn!(task, %refusal, "an outcome came too late");
                    }
                    journal.gone(settle.token);
                }
            }
            Err(error) => {
                let wait = self.retry.map_or(RETRY_MIN, |(_, wait)| (wait * 2).min(RETRY_MAX));
                self.retry = Some((now + wait, wait));
                let outcomes = batch.len() + self.waiting.len();
                tracing::warn!(%error, outcomes, ?wait, "outcomes wait to be handed in");
                self.waiting.splice(..0, batch);
            }
        }
    }
}
