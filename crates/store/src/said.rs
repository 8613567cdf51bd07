//! What brokers that share an engine tell each other: that there is work, that a task somebody
//! waits for has ended, that a lease is void. All of it is a hint.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::api::Notice;
use crate::row::Row;
use crate::task::{Postback, State, TaskId};

/// One message between brokers.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Said {
    /// Which broker says it: the server tells everybody, also who said it.
    pub(crate) from: u64,
    /// Types with ready tasks.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    ready: BTreeSet<String>,
    /// Tasks that ended and that somebody waits for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) ended: BTreeSet<u64>,
    /// Tokens that are void, and the workers that had them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cancelled: Vec<(String, String)>,
}

/// Whether a notice is anything to other brokers.
pub(crate) fn concerns_others(notice: &Notice) -> bool {
    match notice {
        Notice::Ready { .. } | Notice::Cancelled { .. } => true,
        Notice::Ended { postback, .. } => *postback == Some(Postback::Caller),
        Notice::Damaged { .. } | Notice::Stopped { .. } => false,
    }
}

impl Said {
    /// Draws a broker's name, anew in each process.
    pub(crate) fn draw_name() -> u64 {
        use std::hash::{BuildHasher as _, Hasher as _};
        std::hash::RandomState::new().build_hasher().finish() >> 1
    }

    pub(crate) fn by(from: u64) -> Said {
        Said { from, ..Said::default() }
    }

    pub(crate) fn entries(&self) -> usize {
        self.ready.len() + self.ended.len() + self.cancelled.len()
    }

    pub(crate) fn add(&mut self, notice: Notice) {
        match notice {
            Notice::Ready { task_type } => drop(self.ready.insert(task_type)),
            Notice::Ended { id, .. } => drop(self.ended.insert(id.0)),
            Notice::Cancelled { token, worker } => {
                self.cancelled.push((token.to_string(), worker));
            }
            Notice::Damaged { .. } | Notice::Stopped { .. } => {}
        }
    }

    pub(crate) fn text(&self) -> String {
        // Names and numbers: there is nothing JSON could refuse.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// It as notices of whoever heard it; of what ended, those whose rows were read.
    pub(crate) fn notices(self, ended: Vec<Row>) -> Vec<Notice> {
        let ready = |task_type| Notice::Ready { task_type };
        let mut notices: Vec<Notice> = self.ready.into_iter().map(ready).collect();
        for (token, worker) in self.cancelled {
            if let Ok(token) = token.parse() {
                notices.push(Notice::Cancelled { token, worker });
            }
        }
        let ended = ended.into_iter().filter(|row| row.state.is_terminal());
        notices.extend(ended.map(tell_ended));
        notices
    }
}

fn tell_ended(row: Row) -> Notice {
    Notice::Ended {
        id: TaskId(row.id),
        state: row.state,
        result: row.result.unwrap_or_default(),
        error: row.last_error.filter(|_| row.state != State::Done),
        next: (row.next != 0).then_some(TaskId(row.next)),
        postback: row.spec.postback,
    }
}
