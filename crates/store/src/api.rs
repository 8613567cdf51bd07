//! What a store can be asked, and what it answers.
//!
//! Every call is a batch, returns at once, and answers through a [`Reply`] on the store's own
//! thread: the caller posts the answer to wherever it belongs. What changes something is answered
//! only after it is as durable as the [`Receipt`] says: nobody can see an answer whose fact might
//! be forgotten.

use std::sync::mpsc;

use serde::{Deserialize, Serialize};

use crate::cron::Schedule;
use crate::promises::Promises;
use crate::task::{DeathReason, NewTask, Now, Postback, State, TaskId, TaskView, Token};

/// A durable set of tasks. Bring your own by implementing it, and run
/// [`contract::check`](crate::contract::check) on it.
pub trait Store: Send + Sync {
    /// What this engine can do. Constant while the store is open.
    fn capabilities(&self) -> Capabilities;

    /// Adds tasks, each on its own: one that is refused does not keep others out.
    fn enqueue(&self, now: Now, tasks: Vec<NewTask>, reply: Reply<Vec<Result<Enqueued, Refusal>>>);

    /// Leases tasks that are ready; answers with none rather than wait.
    fn claim(&self, now: Now, claim: Claim, reply: Reply<Vec<Lease>>);

    /// Ends attempts. A settle that was lost on its way back may be repeated: the same answer.
    fn settle(&self, now: Now, settles: Vec<Settle>, reply: Reply<Vec<Result<Settled, Refusal>>>);

    /// Holds leases for longer and notes progress.
    fn extend(&self, now: Now, extends: Vec<Extend>, reply: Reply<Vec<Result<Extended, Refusal>>>);

    /// Gives leases back unworked; does not count as an attempt.
    fn release(&self, now: Now, releases: Vec<Release>, reply: Reply<Vec<Result<(), Refusal>>>);

    /// Does what is due: delays that passed, leases and deadlines that ended, schedules, what
    /// was kept long enough. Call it again when it says.
    fn due(&self, now: Now, reply: Reply<Due>);

    /// Cancels, retries, requeues, pauses, schedules.
    fn command(&self, now: Now, command: Command, reply: Reply<Result<u64, Refusal>>);

    /// Looks; changes nothing.
    fn query(&self, now: Now, query: Query, reply: Reply<Answer>);

    /// Who is told what happens, after it is durable; called on the store's thread, so it must
    /// not wait. Several may listen; what happened before they came they are not told.
    fn notify(&self, listener: Listener);

    /// Ends what was asked before and closes. Later calls answer [`Error::Stopped`].
    fn close(&self);
}

/// Takes the answer to a call. Runs on the store's thread and must not wait.
pub type Reply<T> = Box<dyn FnOnce(Result<Receipt<T>, Error>) + Send>;

/// Hears what happens.
pub type Listener = Box<dyn Fn(&[Notice]) + Send>;

/// Calls and waits for the answer: for tests and commands, not for reactors.
///
/// # Errors
/// What the store answers; [`Error::Stopped`] if it never does.
pub fn wait<T: Send + 'static>(call: impl FnOnce(Reply<T>)) -> Result<T, Error> {
    let (sender, receiver) = mpsc::sync_channel(1);
    call(Box::new(move |answer| {
        // Whoever no longer waits does not mind.
        let _ = sender.send(answer);
    }));
    match receiver.recv() {
        Ok(answer) => answer.map(|receipt| receipt.value),
        Err(_) => Err(Error::Stopped("it was closed before it answered".into())),
    }
}

/// An answer, and how durable what it tells is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Receipt<T> {
    /// The answer.
    pub value: T,
    /// What it survives.
    pub level: Level,
}

/// What an answered change survives.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing: it is gone with the process.
    Memory,
    /// The end of the process, not the machine's.
    Os,
    /// The loss of power: it is on stable storage.
    Durable,
}

/// What an engine gives.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Capabilities {
    /// Its name.
    pub engine: &'static str,
    /// What answered changes survive.
    pub level: Level,
    /// Several brokers may share it.
    pub shared: bool,
    /// It goes by its server's clock and ignores [`Now`].
    pub server_time: bool,
    /// Higher priorities go first.
    pub priorities: bool,
    /// Fair keys take turns.
    pub fair_keys: bool,
    /// Concurrency keys bound leases.
    pub concurrency_keys: bool,
    /// Tasks can be listed, cancelled and retried by filter.
    pub queries: bool,
    /// Cron schedules.
    pub schedules: bool,
    /// Types can be paused.
    pub pauses: bool,
    /// A task that comes back from a lost or released lease goes where it was in its line, not to
    /// the end.
    pub keeps_place: bool,
    /// Bytes of a payload or result, at most.
    pub payload: usize,
    /// Who keeps which promise.
    pub promises: Promises,
}

impl Capabilities {
    /// What a command asks for that is not there.
    pub(crate) fn lacks_for(&self, command: &Command) -> Option<&'static str> {
        let (there, what) = match command {
            Command::CancelWhere(_) | Command::RetryWhere(_) | Command::ForgetWhere(_) => {
                (self.queries, "search: name tasks by their numbers")
            }
            Command::Pause(_) | Command::Resume(_) => (self.pauses, "pauses"),
            Command::Schedule(_) | Command::Unschedule(_) => (self.schedules, "schedules"),
            Command::Cancel(_) | Command::Retry(_) => (true, ""),
        };
        (!there).then_some(what)
    }

    /// The same of a query.
    pub(crate) fn lacks_to_answer(&self, query: &Query) -> Option<&'static str> {
        let (there, what) = match query {
            Query::Tasks(_) => (self.queries, "search: ask for tasks by their numbers"),
            Query::Queues => (self.queries, "counts of tasks"),
            Query::Schedules => (self.schedules, "schedules"),
            Query::Task(_) | Query::Why(_) => (true, ""),
        };
        (!there).then_some(what)
    }
}

/// The answer to a task that was accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Enqueued {
    /// The task's number.
    pub id: TaskId,
    /// What an idempotent enqueue met.
    pub met: Met,
}

/// Whether a task with the same unique key was there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Met {
    /// None: it is a new task.
    Nothing,
    /// One with the same payload.
    Same,
    /// One with another payload, which stays as it is; or one that has ended and let go of it.
    Other,
}

/// A request for work.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// Any of these types.
    pub types: Vec<String>,
    /// At most so many tasks.
    pub limit: usize,
    /// For how long, in ms; each task's own time unless said.
    pub lease_ms: Option<u64>,
    /// Who asks, for those who look.
    pub worker: String,
}

/// A task in somebody's hands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Proof of holding it.
    pub token: Token,
    /// Its type.
    pub task_type: String,
    /// The work.
    pub payload: Vec<u8>,
    /// What the payload is.
    pub content_type: Option<String>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How many there may be.
    pub max_attempts: u32,
    /// When the lease ends unless extended; line time in ms.
    pub until: u64,
    /// When the task must have ended; line time in ms.
    pub deadline: Option<u64>,
    /// What the last attempt's worker noted as progress.
    pub progress: Option<Vec<u8>>,
    /// Names and values that came with it.
    pub attributes: Vec<(String, String)>,
}

/// The end of an attempt.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settle {
    /// The lease.
    pub token: Token,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an attempt ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The task is done; this is the result.
    Complete(Vec<u8>),
    /// It failed; it is tried again as its policy says.
    Fail {
        /// Why.
        error: String,
        /// Wait so many ms instead of the back-off.
        retry_after_ms: Option<u64>,
    },
    /// It failed, and trying again is of no use.
    Reject {
        /// Why.
        error: String,
    },
}

/// The answer to a settle that counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settled {
    /// Where the task stands by it.
    pub state: State,
    /// The next link of its chain, if it made one.
    pub next: Option<TaskId>,
    /// It had counted before: the answer is repeated.
    pub repeated: bool,
}

/// A longer hold on a lease.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Extend {
    /// The lease.
    pub token: Token,
    /// Counted from now, in ms; the task's own time unless said.
    pub lease_ms: Option<u64>,
    /// What to tell those who look.
    pub progress: Option<Vec<u8>>,
}

/// The answer to an extension.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extended {
    /// When the lease now ends; line time in ms.
    pub until: u64,
}

/// A lease given back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Release {
    /// The lease.
    pub token: Token,
    /// Nobody gets the task for so many ms.
    pub after_ms: u64,
}

/// What [`Store::due`] did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Due {
    /// Tasks whose time came.
    pub woken: u64,
    /// Leases that ended by themselves.
    pub lost: u64,
    /// Tasks that died of it.
    pub died: u64,
    /// Ended tasks that were kept long enough.
    pub forgotten: u64,
    /// Tasks that schedules made.
    pub scheduled: u64,
    /// When to call again, as line time in ms; at once if it is not later than now.
    pub next: Option<u64>,
}

/// What an operator orders. The answer is how many tasks (or types, or schedules) it changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Ends tasks that have not ended. What their workers say later is refused.
    Cancel(Vec<TaskId>),
    /// The same for what a filter finds, up to [`Filter::limit`].
    CancelWhere(Filter),
    /// Makes dead and cancelled tasks ready again, with all their attempts before them.
    Retry(Vec<TaskId>),
    /// The same for what a filter finds, up to [`Filter::limit`].
    RetryWhere(Filter),
    /// Forgets ended tasks now, up to [`Filter::limit`].
    ForgetWhere(Filter),
    /// No task of the type is leased until resumed; leases that are out stay.
    Pause(String),
    /// Ends a pause.
    Resume(String),
    /// Adds or replaces a schedule.
    Schedule(Box<Schedule>),
    /// Removes a schedule.
    Unschedule(String),
}

/// Which tasks are meant.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Of this type.
    pub task_type: Option<String>,
    /// In this state.
    pub state: Option<State>,
    /// Dead for this reason.
    pub reason: Option<DeathReason>,
    /// Whose last error contains this.
    pub error: Option<String>,
    /// Whose last worker this is.
    pub worker: Option<String>,
    /// With higher numbers than this: where the last page ended.
    pub after: Option<TaskId>,
    /// At most so many; no more than [`limits::PAGE`](crate::limits::PAGE).
    pub limit: usize,
}

impl Default for Filter {
    fn default() -> Filter {
        Filter {
            task_type: None,
            state: None,
            reason: None,
            error: None,
            worker: None,
            after: None,
            limit: 100,
        }
    }
}

/// What somebody wants to know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Query {
    /// One task.
    Task(TaskId),
    /// Tasks by number, ascending.
    Tasks(Filter),
    /// Every type that has tasks or is paused.
    Queues,
    /// Every schedule.
    Schedules,
    /// Why a task is not running.
    Why(TaskId),
}

/// What there is to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The task, if it is known.
    Task(Option<Box<TaskView>>),
    /// A page of tasks, and where the next begins.
    Tasks {
        /// What was found.
        tasks: Vec<TaskView>,
        /// [`Filter::after`] of the next page, if there may be one.
        next: Option<TaskId>,
    },
    /// The queues, by name.
    Queues(Vec<QueueView>),
    /// The schedules, by name.
    Schedules(Vec<ScheduleView>),
    /// The answer to why.
    Why(Why),
}

/// A task type as a queue.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct QueueView {
    /// The task type.
    pub task_type: String,
    /// Nothing is leased.
    pub paused: bool,
    /// Tasks by state, in the order of [`State::ALL`].
    pub counts: [u64; 7],
}

/// A schedule and when it fires next.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScheduleView {
    /// What was ordered.
    pub schedule: Schedule,
    /// Unix time in ms.
    pub next_at: Option<u64>,
}

/// Why a task is not running. What only the broker knows, such as that no worker serves the type,
/// it adds to [`Why::Ready`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Why {
    /// The store knows no such task: it never was, or was kept long enough.
    Unknown,
    /// It waits for a worker to claim it.
    Ready {
        /// Tasks that go first.
        ahead: u64,
    },
    /// Its type is paused.
    Paused,
    /// It was enqueued to run later.
    Delayed {
        /// Line time in ms.
        until: u64,
    },
    /// It failed and waits before the next attempt.
    BackingOff {
        /// Line time in ms.
        until: u64,
        /// The attempt that failed.
        attempt: u32,
        /// Why it failed.
        error: Option<String>,
    },
    /// Others with its concurrency key run.
    Blocked {
        /// The key.
        key: String,
        /// How many may.
        limit: u32,
        /// Tasks that do.
        holders: Vec<TaskId>,
    },
    /// It is running.
    Running {
        /// Who has it.
        worker: String,
        /// Until when, line time in ms.
        until: u64,
        /// Which attempt.
        attempt: u32,
    },
    /// It ended.
    Ended {
        /// How.
        state: State,
        /// Why, if it is dead.
        reason: Option<DeathReason>,
        /// The last error.
        error: Option<String>,
    },
}

/// Something that happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// Tasks of this type can be claimed. A hint: others may be faster.
    Ready {
        /// Which.
        task_type: String,
    },
    /// A task ended for good.
    Ended {
        /// Which.
        id: TaskId,
        /// How.
        state: State,
        /// The result, if it ended well and nothing follows it in a chain.
        result: Vec<u8>,
        /// The last error, if it did not.
        error: Option<String>,
        /// What follows it.
        next: Option<TaskId>,
        /// Where the result goes.
        postback: Option<Postback>,
    },
    /// A running task was cancelled: its worker can stop.
    Cancelled {
        /// The lease that is void.
        token: Token,
        /// Who had it.
        worker: String,
    },
    /// What is stored of a task is not what was written; it is a dead letter.
    Damaged {
        /// Which.
        id: TaskId,
    },
    /// The store stopped for good.
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why one item of a batch was refused; nothing of it happened.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The lease is no longer (or never was) the valid one.
    #[error("stale lease: it ended, was settled otherwise, or another worker has the task")]
    Stale,
    /// The task was cancelled while it ran.
    #[error("the task was cancelled")]
    Cancelled,
    /// No such task: it never was, or was kept long enough.
    #[error("no such task")]
    Unknown,
    /// What is stored of the task is damaged; it is a dead letter now.
    #[error("what is stored of the task is damaged; it is a dead letter now")]
    Damaged,
    /// A word that cannot be taken.
    #[error("{field}: {problem}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// Why a whole batch came to nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The disk is full: enqueues are refused until there is room; settles go on.
    #[error("no space: {0}; make room; tasks can still be settled")]
    NoSpace(String),
    /// Too much waits to be written.
    #[error("busy: {0} bytes wait to be written; try again later")]
    Busy(usize),
    /// The server cannot be reached or gave up. **The call may have had its effect**: repeat it
    /// with the same unique key or token.
    #[error("unavailable: {0}; the call may have had its effect")]
    Unavailable(String),
    /// The store stopped for good, by [`Store::close`] or because going on could lose tasks.
    #[error("the store stopped: {0}")]
    Stopped(String),
    /// This engine cannot do that; see [`Capabilities`].
    #[error("this engine has no {0}")]
    Unsupported(&'static str),
}
