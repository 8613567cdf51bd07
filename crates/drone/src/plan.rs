//! What a drone is told to do: which task types, done by what, by how many.

use std::path::PathBuf;

use matching::Span;

/// Tasks of this prefix never leave the drone: they are links of a chain.
pub const LOCAL: &str = "local:";

/// Everything a drone is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// What the drone calls itself; the worker of its leases.
    pub alias: String,
    /// How long a task is leased; extended while the drone has it.
    pub lease: Span,
    /// How often the global queue is asked although it said nothing.
    pub poll: Span,
    /// The task types.
    pub pools: Vec<PoolPlan>,
}

/// One task type and its workers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolPlan {
    /// What is claimed; with [`LOCAL`] in front, what siblings hand on.
    pub task_type: String,
    /// How a task is done.
    pub work: Work,
    /// Always so many workers.
    pub min: usize,
    /// Never more.
    pub max: usize,
    /// When and how the pool grows and shrinks between the two.
    pub breath: Breath,
    /// Tasks fetched ahead for each worker, at most; fewer if they take long.
    pub prefetch: usize,
    /// How long one attempt may take.
    pub time_limit: Option<Span>,
    /// How long a persistent worker that has a task may say nothing: no reply, no progress, no
    /// beat.
    pub silence_limit: Option<Span>,
    /// How long a worker that is told to stop may take before it is killed.
    pub grace: Span,
    /// At most so many starts of tasks in any span.
    pub rate: Option<(usize, Span)>,
    /// What follows a failure.
    pub failed: Verdict,
    /// What follows an attempt that took longer than `time_limit`.
    pub timed_out: Verdict,
    /// How often this drone itself gives a task to another worker when the one that had it was
    /// lost; after that the attempt has failed.
    pub lost_again: u32,
    /// The type the result of a good end goes to instead of home.
    pub then: Option<String>,
    /// What a worker process may use.
    pub limits: Limits,
    /// How workers that end by themselves are started again.
    pub restart: Restart,
}

impl PoolPlan {
    /// One worker that does `work`, everything else as by default.
    #[must_use]
    pub fn new(task_type: &str, work: Work) -> PoolPlan {
        PoolPlan {
            task_type: task_type.into(),
            work,
            min: 1,
            max: 1,
            breath: Breath::default(),
            prefetch: 15,
            time_limit: None,
            silence_limit: None,
            grace: Span::from_secs(10),
            rate: None,
            failed: Verdict::Retry,
            timed_out: Verdict::Retry,
            lost_again: 2,
            then: None,
            limits: Limits::default(),
            restart: Restart::default(),
        }
    }

    /// Whether its tasks come from siblings only.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.task_type.starts_with(LOCAL)
    }
}

/// How a task is done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Work {
    /// A process for each task: payload in, result out.
    Command(Program),
    /// Processes that live on: one line of JSON for each task and each reply.
    Persistent(Program),
    /// A request to a service, whose workers connect from elsewhere.
    Service(String),
    /// Rust code of the program that holds the drone, by name.
    Handler(String),
}

/// A program to run.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Program {
    /// The program and its arguments; never empty.
    pub argv: Vec<String>,
    /// Added to the drone's own environment.
    pub env: Vec<(String, String)>,
    /// Where it runs; the drone's own directory if nothing is said.
    pub dir: Option<PathBuf>,
}

/// When a pool grows and shrinks: a CoDel valve turned on the wait of its tasks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Breath {
    /// Tasks that wait longer than this want one more worker.
    pub wait: Span,
    /// For so long before the first worker more; then ever faster.
    pub interval: Span,
    /// A worker above `min` that had nothing to do for so long ends.
    pub idle: Span,
}

impl Default for Breath {
    fn default() -> Breath {
        Breath {
            wait: Span::from_millis(100),
            interval: Span::from_secs(1),
            idle: Span::from_secs(10),
        }
    }
}

/// What follows an attempt that came to nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Verdict {
    /// Another one, as the task's own policy says.
    #[default]
    Retry,
    /// None: the task is a dead letter.
    Reject,
}

/// What a worker process may use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Octets of memory: of the whole group in a cgroup, else of address space of each process.
    pub memory: Option<u64>,
    /// CPU of the group in percent of one core; only in a cgroup.
    pub cpu_percent: Option<u32>,
    /// Seconds of CPU of one process.
    pub cpu_seconds: Option<u64>,
    /// Open files of one process.
    pub files: Option<u64>,
}

/// How workers that end by themselves are started again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Restart {
    /// The second start waits so long (the first does not wait), each further one twice as long.
    pub base: Span,
    /// But not longer.
    pub max: Span,
    /// More ends than this within `window` give the pool up for `max`, and its tasks back.
    pub intensity: usize,
    /// See `intensity`.
    pub window: Span,
}

impl Default for Restart {
    fn default() -> Restart {
        Restart {
            base: Span::from_millis(100),
            max: Span::from_secs(10),
            intensity: 20,
            window: Span::from_secs(10),
        }
    }
}

/// What is wrong with a plan.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("task type {task_type:?}: {problem}")]
pub struct BadPlan {
    /// Where.
    pub task_type: String,
    /// What, and what would be right.
    pub problem: String,
}

impl Plan {
    /// Whether it can be carried out.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), BadPlan> {
        for (at, pool) in self.pools.iter().enumerate() {
            let bad = |problem: String| Err(BadPlan { task_type: pool.task_type.clone(), problem });
            if pool.task_type.is_empty() || pool.task_type == LOCAL {
                return bad("has no name".into());
            }
            if self.pools[..at].iter().any(|other| other.task_type == pool.task_type) {
                return bad("stands here twice; one table has all its workers".into());
            }
            if pool.max == 0 || pool.min > pool.max {
                let (min, max) = (pool.min, pool.max);
                return bad(format!("workers = {min}..{max}: at least 1, and min not above max"));
            }
            if pool.prefetch == 0 {
                return bad("prefetch must be at least 1".into());
            }
            if let Work::Command(program) | Work::Persistent(program) = &pool.work
                && program.argv.first().is_none_or(String::is_empty)
            {
                return bad("the command is empty".into());
            }
            if let Some(then) = &pool.then {
                if !then.starts_with(LOCAL) {
                    return bad(format!(
                        "then = {then:?}: a link within the drone begins with {LOCAL:?}; what \
                         follows elsewhere is said when the task is enqueued"
                    ));
                }
                if !self.pools.iter().any(|other| other.task_type == *then) {
                    return bad(format!("then = {then:?}: there is no such task type here"));
                }
            }
        }
        Ok(())
    }
}
