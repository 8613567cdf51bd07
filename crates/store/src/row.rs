//! A task as it is stored, and what follows from its fields alone.

use serde::{Deserialize, Serialize};

use crate::task::{
    DeathReason, NewTask, Now, Policy, Postback, State, Step, TaskId, TaskView, Token, When,
};

/// All that is stored of a task. Times are line times in ms unless said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: u64,
    pub(crate) kind: String,
    pub(crate) state: State,
    pub(crate) reason: Option<DeathReason>,
    /// The priority with its sign turned: rows are claimed by (rank, tag, id), ascending.
    pub(crate) rank: i32,
    /// The turn among fair keys: see [`crate::flows`].
    pub(crate) tag: u64,
    pub(crate) created: u64,
    pub(crate) run_at: u64,
    /// The Unix time that `run_at` stands for, while it does.
    pub(crate) at_wall: Option<u64>,
    pub(crate) deadline: Option<u64>,
    pub(crate) lease_until: Option<u64>,
    pub(crate) keep_until: Option<u64>,
    pub(crate) ended: Option<u64>,
    /// Attempts begun.
    pub(crate) attempt: u32,
    /// The fence of the one valid lease; 0 if none is. A task that is ready again because the
    /// store was restarted keeps it until somebody else claims it.
    pub(crate) fence: u64,
    /// The fence of the last settle that counted, so that it can be repeated; 0 if none.
    pub(crate) settled: u64,
    /// The next link of the chain, if the end made one; 0 if not.
    pub(crate) next: u64,
    pub(crate) worker: Option<String>,
    pub(crate) last_error: Option<String>,
    pub(crate) progress: Option<Vec<u8>>,
    pub(crate) unique_key: Option<String>,
    pub(crate) fair_key: Option<String>,
    pub(crate) conc_key: Option<String>,
    /// What never changes, and the same as text.
    pub(crate) spec: Spec,
    pub(crate) spec_text: String,
    pub(crate) payload_len: u64,
    pub(crate) payload_crc: u32,
    /// The payload is kept beside the row, and `payload` is empty until fetched.
    pub(crate) outside: bool,
    pub(crate) payload: Vec<u8>,
    pub(crate) result: Option<Vec<u8>>,
    /// What was read is not what was written.
    pub(crate) damaged: bool,
}

/// What is fixed when a task is made; stored as JSON without what is as by default.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Spec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) policy: Policy,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) unique_keep_ms: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) then: Vec<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) postback: Option<Postback>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<TaskId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) attributes: Vec<(String, String)>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Spec {
    pub(crate) fn text(&self) -> String {
        // Strings, numbers and lists of them: there is nothing JSON could refuse.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a stored text says; none if it is not one of ours.
    pub(crate) fn parse(text: &str) -> Option<Spec> {
        if text == "{}" { Some(Spec::default()) } else { serde_json::from_str(text).ok() }
    }
}

impl Row {
    /// A new task; ready or scheduled, without a turn.
    pub(crate) fn new(id: u64, task: &NewTask, parent: Option<TaskId>, now: Now) -> Row {
        let spec = Spec {
            content_type: task.content_type.clone(),
            policy: task.policy.clone(),
            unique_keep_ms: task.unique.as_ref().map_or(0, |unique| unique.keep_ms),
            then: task.then.clone(),
            postback: task.postback.clone(),
            parent,
            attributes: task.attributes.clone(),
        };
        let (run_at, at_wall) = match task.run_at {
            When::Now => (now.line, None),
            When::After(ms) => (now.line + ms, None),
            When::At(wall) => (now.line + wall.saturating_sub(now.wall), Some(wall)),
        };
        let late = run_at > now.line;
        Row {
            id,
            kind: task.task_type.clone(),
            state: if late { State::Scheduled } else { State::Ready },
            reason: None,
            rank: -i32::from(task.policy.priority),
            tag: 0,
            created: now.line,
            run_at,
            at_wall: at_wall.filter(|_| late),
            deadline: task.deadline_ms.map(|ms| now.line + ms),
            lease_until: None,
            keep_until: None,
            ended: None,
            attempt: 0,
            fence: 0,
            settled: 0,
            next: 0,
            worker: None,
            last_error: None,
            progress: None,
            unique_key: task.unique.as_ref().map(|unique| unique.key.clone()),
            fair_key: task.policy.fair_key.clone(),
            conc_key: task.policy.concurrency.as_ref().map(|shared| shared.key.clone()),
            spec_text: spec.text(),
            spec,
            payload_len: task.payload.len() as u64,
            payload_crc: crc32fast::hash(&task.payload),
            outside: false,
            payload: task.payload.clone(),
            result: None,
            damaged: false,
        }
    }

    /// When something is to be done about it by itself.
    pub(crate) fn due(&self) -> Option<u64> {
        let earlier = |time: Option<u64>| match (time, self.deadline) {
            (Some(time), Some(deadline)) => Some(time.min(deadline)),
            (time, deadline) => time.or(deadline),
        };
        match self.state {
            State::Ready | State::Blocked => self.deadline,
            State::Scheduled => earlier(Some(self.run_at)),
            State::Leased => earlier(self.lease_until),
            State::Done | State::Dead | State::Cancelled => self.keep_until,
        }
    }

    pub(crate) fn token(&self) -> Token {
        Token { task: TaskId(self.id), fence: self.fence }
    }

    /// What the order of claims goes by.
    pub(crate) fn place(&self) -> (i32, u64, u64) {
        (self.rank, self.tag, self.id)
    }

    pub(crate) fn conc_limit(&self) -> u32 {
        self.spec.policy.concurrency.as_ref().map_or(u32::MAX, |shared| shared.limit)
    }

    /// Over everything but the payload's bytes, which have their own.
    pub(crate) fn checksum(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        for number in [
            self.id,
            u64::from(self.state.code()),
            self.reason.map_or(0, |reason| 1 + u64::from(reason.code())),
            i64::from(self.rank) as u64,
            self.tag,
            self.created,
            self.run_at,
            u64::from(self.attempt),
            self.fence,
            self.settled,
            self.next,
            self.payload_len,
            u64::from(self.payload_crc),
            u64::from(self.outside),
        ] {
            crc.update(&number.to_le_bytes());
        }
        let times = [self.at_wall, self.deadline, self.lease_until, self.keep_until, self.ended];
        for time in times {
            // 0 is a time, too.
            crc.update(&time.map_or([0xff; 8], u64::to_le_bytes));
        }
        let texts = [
            Some(&self.kind),
            self.worker.as_ref(),
            self.last_error.as_ref(),
            self.unique_key.as_ref(),
            self.fair_key.as_ref(),
            self.conc_key.as_ref(),
            Some(&self.spec_text),
        ];
        for text in texts {
            update(&mut crc, text.map(|text| text.as_bytes()));
        }
        update(&mut crc, self.progress.as_deref());
        update(&mut crc, self.result.as_deref());
        crc.finalize()
    }

    /// Whether the payload's bytes are the ones that were written.
    pub(crate) fn payload_is_whole(&self) -> bool {
        self.payload.len() as u64 == self.payload_len
            && crc32fast::hash(&self.payload) == self.payload_crc
    }

    pub(crate) fn view(&self) -> TaskView {
        TaskView {
            id: TaskId(self.id),
            task_type: self.kind.clone(),
            state: self.state,
            reason: self.reason,
            priority: self.spec.policy.priority,
            attempt: self.attempt,
            max_attempts: self.spec.policy.max_attempts,
            created: self.created,
            run_at: self.run_at,
            deadline: self.deadline,
            lease_until: self.lease_until,
            ended: self.ended,
            worker: self.worker.clone(),
            last_error: self.last_error.clone(),
            progress: self.progress.clone(),
            result: self.result.clone(),
            payload: self.payload.clone(),
            content_type: self.spec.content_type.clone(),
            unique_key: self.unique_key.clone(),
            parent: self.spec.parent,
            attributes: self.spec.attributes.clone(),
        }
    }
}

/// The length goes in too, so that bytes cannot move from one field to the next.
fn update(crc: &mut crc32fast::Hasher, bytes: Option<&[u8]>) {
    crc.update(&bytes.map_or([0xff; 8], |bytes| (bytes.len() as u64).to_le_bytes()));
    crc.update(bytes.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_covers_every_field() {
        let task = NewTask::new("t", "payload");
        let row = Row::new(7, &task, None, Now { line: 10, wall: 20 });
        let same = row.clone();
        assert_eq!(row.checksum(), same.checksum());
        let changes: [fn(&mut Row); 22] = [
            |row| row.id ^= 1,
            |row| row.kind.push('x'),
            |row| row.state = State::Dead,
            |row| row.reason = Some(DeathReason::Attempts),
            |row| row.rank ^= 1,
            |row| row.tag ^= 1,
            |row| row.created ^= 1,
            |row| row.run_at ^= 1,
            |row| row.at_wall = Some(0),
            |row| row.deadline = Some(0),
            |row| row.lease_until = Some(0),
            |row| row.keep_until = Some(0),
            |row| row.ended = Some(0),
            |row| row.attempt ^= 1,
            |row| row.fence ^= 1,
            |row| row.settled ^= 1,
            |row| row.worker = Some(String::new()),
            |row| row.last_error = Some(String::new()),
            |row| row.progress = Some(Vec::new()),
            |row| row.spec_text.push(' '),
            |row| row.payload_crc ^= 1,
            |row| row.result = Some(Vec::new()),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut other = row.clone();
            change(&mut other);
            assert_ne!(row.checksum(), other.checksum(), "change {number} goes unseen");
        }
        let mut torn = row.clone();
        torn.payload.truncate(3);
        assert!(row.payload_is_whole() && !torn.payload_is_whole());
    }

    #[test]
    fn a_spec_as_by_default_takes_two_bytes_and_any_survives_its_text() {
        assert_eq!(Spec::default().text(), "{}");
        let spec = Spec {
            postback: Some(Postback::Task("after".into())),
            then: vec![Step { task_type: "next".into(), policy: Policy::default() }],
            attributes: vec![("trace".into(), "\u{1}\"".into())],
            ..Spec::default()
        };
        assert_eq!(Spec::parse(&spec.text()), Some(spec));
        assert_eq!(Spec::parse("{"), None);
    }
}
