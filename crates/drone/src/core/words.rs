//! What the rules are told and what they say.

use std::sync::Arc;

use bytes::Bytes;
use matching::Span;
use store::{Outcome, Token};

#[cfg(doc)]
use super::Core;
use super::{PoolId, Slot};

/// A task as its worker sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Job {
    /// Proof of holding the global task.
    pub token: Token,
    /// The type that was claimed.
    pub task_type: String,
    /// The type of this link of the chain; the same as `task_type` at first.
    pub link: String,
    /// The work.
    pub payload: Bytes,
    /// What the payload is, if anybody said; of the first link only.
    pub content_type: Option<String>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Names and values that came with the task.
    pub attributes: Vec<(String, String)>,
}

/// What came of an attempt.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Report {
    /// It is done; this is the result.
    Done(Bytes),
    /// It is done, and a sibling goes on with it.
    Next {
        /// The link's type.
        to: String,
        /// Its work.
        payload: Bytes,
    },
    /// The worker says that it failed.
    Failed {
        /// Why.
        error: String,
        /// Trying again is of no use, whatever the plan says.
        for_good: bool,
        /// Wait so long instead of the task's own back-off.
        retry_after: Option<Span>,
    },
    /// It took longer than it may and was ended.
    TimedOut(String),
    /// Its worker ended while it had it.
    Lost(String),
}

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Ask the global queue for at most `limit` tasks; the answer goes to [`Core::claimed`].
    Claim {
        /// For which pool.
        pool: PoolId,
        /// At most so many.
        limit: usize,
    },
    /// Start a worker; then [`Core::ready`].
    Start {
        /// Its name here.
        slot: Slot,
        /// In which pool.
        pool: PoolId,
        /// Not before so long.
        after: Span,
    },
    /// Give a task to an idle worker; then [`Core::done`].
    Run {
        /// Which.
        slot: Slot,
        /// The task.
        job: Arc<Job>,
    },
    /// Its task is void: end the attempt; then [`Core::done`], whose report counts for nothing.
    Abort(Slot),
    /// The worker is no longer needed: end it; then [`Core::died`].
    Stop(Slot),
    /// Remember a task that was fetched.
    Keep(Arc<Job>),
    /// Remember that a chain came so far.
    Link(Arc<Job>),
    /// Remember the outcome, and hand it in.
    Settle(Token, Outcome),
    /// Give leases back unworked, and forget their tasks.
    Release(Vec<Token>),
    /// Hold these leases on; the answers go to [`Core::void`] where they are lost.
    Extend(Vec<Token>),
    /// Forget a task that is no longer ours.
    Forget(Token),
    /// For the log: a pool is given up for a while.
    GaveUp {
        /// Which.
        pool: PoolId,
        /// For how long.
        rest: Span,
        /// How the last worker ended.
        error: String,
    },
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Counts {
    /// Tasks fetched, or handed on by siblings.
    pub fetched: u64,
    /// Attempts that ended well.
    pub done: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Attempts that took too long.
    pub timed_out: u64,
    /// Attempts whose worker was lost.
    pub lost: u64,
    /// Workers started.
    pub started: u64,
    /// Tasks that were taken from us: cancelled, or their lease ended.
    pub voided: u64,
}
