//! What a task is: the words a producer says when it enqueues one, and what is seen of it later.
//!
//! Times are milliseconds. A *line* time counts on the store's own steady line, which wall clocks
//! that jump do not move; a *wall* time is Unix time.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text::bytes;

/// The number of a task. Never given twice, not even by a store restored from a backup; ascending
/// in the order of enqueueing; small enough (2⁵³) for JavaScript.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct TaskId(pub u64);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Proof of holding a lease: the task, and a fence that no other lease of any task ever has.
///
/// Its text (`TASK-FENCE`, hexadecimal) may stand in a URL.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Token {
    /// The leased task.
    pub task: TaskId,
    /// Ascending over all leases of a store, across restarts.
    pub fence: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.task.0, self.fence)
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Token, BadToken> {
        let (task, fence) = text.split_once('-').ok_or(BadToken)?;
        let number = |part: &str| {
            // `from_str_radix` would also take a sign, and a token has one spelling only.
            let plain = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            plain.then(|| u64::from_str_radix(part, 16).ok()).flatten().ok_or(BadToken)
        };
        Ok(Token { task: TaskId(number(task)?), fence: number(fence)? })
    }
}

/// A text that is no lease token.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a lease token: it has the form TASK-FENCE in hexadecimal, as a claim gave it")]
pub struct BadToken;

/// The instants a call happens at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Now {
    /// The store's steady line, in ms: see [`Clock`](crate::Clock).
    pub line: u64,
    /// Unix time, in ms. It may jump.
    pub wall: u64,
}

/// When a task may first run.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// At once.
    #[default]
    Now,
    /// Not before this many ms have passed, whatever wall clocks do.
    After(u64),
    /// Not before this Unix time in ms; follows the wall clock where it is put right.
    At(u64),
}

/// How long a task that failed waits before it runs again.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Backoff {
    /// After the first failure, in ms; doubled by each further one.
    pub base_ms: u64,
    /// At most this, in ms.
    pub max_ms: u64,
    /// Up to this share of the wait is added, in percent, so that what failed together does not
    /// come back together.
    pub jitter_percent: u8,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { base_ms: 1_000, max_ms: 3_600_000, jitter_percent: 20 }
    }
}

impl Backoff {
    /// The wait after failed attempt number `attempt` (from 1) of `task`, in ms. The jitter is
    /// drawn from these two, so that it can be foreseen and needs no generator.
    #[must_use]
    pub fn wait_ms(&self, task: TaskId, attempt: u32) -> u64 {
        let doublings = attempt.saturating_sub(1).min(62);
        let wait = self.base_ms.saturating_mul(1 << doublings).min(self.max_ms);
        let span = wait.saturating_mul(u64::from(self.jitter_percent)) / 100;
        if span == 0 { wait } else { wait + mix(task.0 ^ (u64::from(attempt) << 52)) % (span + 1) }
    }
}

/// Spreads a number over all of 64 bits (the finaliser of SplitMix64).
fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// At most `limit` tasks with the same `key` are leased at a time, over all task types.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Concurrency {
    /// What is shared.
    pub key: String,
    /// Leases at a time; at least 1. The task that asks to be leased says it.
    pub limit: u32,
}

/// Makes enqueueing idempotent: while a task of the same type with this key is known, enqueueing
/// again answers with that task.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Unique {
    /// The key, within the task type.
    pub key: String,
    /// How long the key is still known after the task's end, in ms.
    pub keep_ms: u64,
}

/// Where the result goes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Postback {
    /// A new task of this type, with the result as its payload.
    Task(String),
    /// A request to this service: a task of the type [`POSTBACK_SERVICE`], which the broker works.
    Service(String),
    /// A message to this STOMP destination: a task of the type [`POSTBACK_STOMP`].
    Stomp(String),
    /// Whoever waits: nothing but [`Notice::Ended`](crate::Notice::Ended).
    Caller,
}

/// The type of tasks that bring a result to a service; their attribute `to` names it.
pub const POSTBACK_SERVICE: &str = "maitred.postback.service";
/// The type of tasks that bring a result to a STOMP destination; their attribute `to` names it.
pub const POSTBACK_STOMP: &str = "maitred.postback.stomp";

/// How a task is to be treated. The settings of [`NewTask`] that a chain's [`Step`] has too.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Higher is sooner; 0 unless said.
    pub priority: i16,
    /// A lease counts as an attempt; after so many the task is dead. 20 unless said.
    pub max_attempts: u32,
    /// Waits after failures.
    pub backoff: Backoff,
    /// How long a claim that names no time of its own holds the task, in ms. 30,000 unless said.
    pub lease_ms: u64,
    /// How long the task and its result are kept after a good end, in ms. 60,000 unless said.
    pub retention_ms: u64,
    /// Tasks of one type take turns by this key within a priority.
    pub fair_key: Option<String>,
    /// Bounds leases of tasks that share something.
    pub concurrency: Option<Concurrency>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            priority: 0,
            max_attempts: 20,
            backoff: Backoff::default(),
            lease_ms: 30_000,
            retention_ms: 60_000,
            fair_key: None,
            concurrency: None,
        }
    }
}

/// A task to be enqueued.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewTask {
    /// What workers claim it by.
    pub task_type: String,
    /// The work; the store never reads it.
    #[serde(with = "bytes")]
    pub payload: Vec<u8>,
    /// What the payload is, if anybody said.
    pub content_type: Option<String>,
    /// When it may first run.
    pub run_at: When,
    /// If it has not ended so many ms after enqueueing, it is dead.
    pub deadline_ms: Option<u64>,
    /// Makes enqueueing idempotent.
    pub unique: Option<Unique>,
    /// How it is treated.
    pub policy: Policy,
    /// What follows its good end, each step working on the result of the one before.
    pub then: Vec<Step>,
    /// Where the last step's result goes.
    pub postback: Option<Postback>,
    /// Names and values carried along, not interpreted: a trace, an address.
    pub attributes: Vec<(String, String)>,
}

impl NewTask {
    /// A task of `task_type` with `payload`, everything else as by default.
    pub fn new(task_type: impl Into<String>, payload: impl Into<Vec<u8>>) -> NewTask {
        NewTask { task_type: task_type.into(), payload: payload.into(), ..NewTask::default() }
    }
}

/// A later link of a chain.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Step {
    /// The type of the task that is made.
    pub task_type: String,
    /// How it is treated.
    pub policy: Policy,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for a worker.
    Ready,
    /// Waits for its time.
    Scheduled,
    /// Waits for others with its concurrency key.
    Blocked,
    /// A worker has it.
    Leased,
    /// Ended well.
    Done,
    /// A dead letter: ended badly, kept to be looked at and perhaps requeued.
    Dead,
    /// Ended because somebody said so.
    Cancelled,
}

impl State {
    /// All of them, in the order of their codes.
    pub const ALL: [State; 7] = [
        State::Ready,
        State::Scheduled,
        State::Blocked,
        State::Leased,
        State::Done,
        State::Dead,
        State::Cancelled,
    ];

    /// Nothing happens to it any more unless somebody says so.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, State::Done | State::Dead | State::Cancelled)
    }

    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: i64) -> Option<State> {
        State::ALL.get(usize::try_from(code).ok()?).copied()
    }
}

/// Why a task is dead.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeathReason {
    /// Its last attempt failed or its worker was lost.
    Attempts,
    /// Its deadline passed.
    Deadline,
    /// A worker said that trying again is of no use.
    Rejected,
    /// What the store holds of it is not what was written.
    Damaged,
}

impl DeathReason {
    const ALL: [DeathReason; 4] =
        [DeathReason::Attempts, DeathReason::Deadline, DeathReason::Rejected, DeathReason::Damaged];

    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: i64) -> Option<DeathReason> {
        DeathReason::ALL.get(usize::try_from(code).ok()?).copied()
    }
}

/// What is to be seen of a task.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TaskView {
    /// Its number.
    pub id: TaskId,
    /// What workers claim it by.
    pub task_type: String,
    /// Where it stands.
    pub state: State,
    /// Why it is dead, if it is.
    pub reason: Option<DeathReason>,
    /// Higher is sooner.
    pub priority: i16,
    /// Attempts begun.
    pub attempt: u32,
    /// Attempts allowed.
    pub max_attempts: u32,
    /// Line times in ms: enqueued, may run from, must end by, leased until, ended.
    pub created: u64,
    /// See `created`.
    pub run_at: u64,
    /// See `created`.
    pub deadline: Option<u64>,
    /// See `created`.
    pub lease_until: Option<u64>,
    /// See `created`.
    pub ended: Option<u64>,
    /// Who had it last.
    pub worker: Option<String>,
    /// Why the last attempt came to nothing.
    pub last_error: Option<String>,
    /// What its worker said last.
    #[serde(with = "bytes::option")]
    pub progress: Option<Vec<u8>>,
    /// What it came to.
    #[serde(with = "bytes::option")]
    pub result: Option<Vec<u8>>,
    /// The work; empty once it ended well.
    #[serde(with = "bytes")]
    pub payload: Vec<u8>,
    /// What the payload is.
    pub content_type: Option<String>,
    /// Its idempotency key.
    pub unique_key: Option<String>,
    /// The task before it in its chain.
    pub parent: Option<TaskId>,
    /// Names and values that came with it.
    pub attributes: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_one_spelling() {
        let token = Token { task: TaskId(0x1f), fence: 0xabc };
        assert_eq!(token.to_string(), "1f-abc");
        assert_eq!("1f-abc".parse(), Ok(token));
        for bad in ["", "-", "1f", "1f-", "-abc", "+1f-abc", "1F-abc", "1f-abc-", "1f-abc ", "é-1"]
        {
            // An empty number is no number either.
            assert_eq!(bad.parse::<Token>(), Err(BadToken), "{bad:?}");
        }
    }

    #[test]
    fn waits_double_up_to_their_bound_and_spread() {
        let plain = Backoff { base_ms: 100, max_ms: 1_000, jitter_percent: 0 };
        let waits: Vec<u64> = (1..=6).map(|n| plain.wait_ms(TaskId(7), n)).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(plain.wait_ms(TaskId(7), u32::MAX), 1_000);

        let spread = Backoff { jitter_percent: 50, ..plain };
        let waits: Vec<u64> = (0..100).map(|id| spread.wait_ms(TaskId(id), 1)).collect();
        assert!(waits.iter().all(|wait| (100..=150).contains(wait)), "{waits:?}");
        let mut distinct = waits.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 20, "jitter hardly spreads: {distinct:?}");
    }
}
