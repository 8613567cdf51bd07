//! Who does which task next: the rules of a drone. Time is an argument; what is to be done comes
//! out as [`Effect`]s; nothing here is a process, a file or a clock.
//!
//! What holds:
//! * A task goes to an idle worker only, so none waits behind a slow one while a sibling idles.
//! * A task is in one place: in line, or with one worker. It leaves by one settle or one release.
//! * A worker that is lost gives its task back to the head of the line, for another worker.
//! * Never more is fetched than the workers will begin within a third of a lease.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use matching::{Span, Time};
use slotmap::{SlotMap, new_key_type};
use store::{Lease, Outcome, Token, limits};

use crate::plan::{Plan, PoolPlan, Verdict};

mod pool;
mod view;
mod words;

use pool::{Pool, rate_valve, size_valve};
pub use view::{PoolView, WorkerState, WorkerView};
pub use words::{Counts, Effect, Job, Report};

/// Number of a pool: its place in [`Plan::pools`].
pub type PoolId = usize;

new_key_type! {
    /// A worker's place in a pool. Never the same for two workers.
    pub struct Slot;
    struct TaskKey;
}

#[derive(Debug)]
struct Held {
    job: Arc<Job>,
    pool: PoolId,
    /// In this line, or with its worker, since then.
    since: Time,
    at: Option<Slot>,
    lost: u32,
}

#[derive(Debug)]
struct Worker {
    pool: PoolId,
    /// Of its pool, when it was started: an older one does its work as it was told before.
    generation: u32,
    state: At,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Starting,
    Idle(Time),
    /// With a task; `None` if it became void meanwhile.
    Busy(Option<TaskKey>, Time),
    Stopping,
}

/// What the whole drone is up to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Working,
    Draining,
}

/// The rules, and all they know.
#[derive(Debug)]
pub struct Core {
    lease: Span,
    poll: Span,
    pools: Vec<Pool>,
    by_type: BTreeMap<String, PoolId>,
    workers: SlotMap<Slot, Worker>,
    tasks: SlotMap<TaskKey, Held>,
    by_token: HashMap<Token, TaskKey>,
    mode: Mode,
    next_poll: Time,
    next_extend: Time,
    next_breath: Time,
}

/// How often pools are asked whether they are too small.
const BREATH: Span = Span::from_millis(50);

impl Core {
    /// The rules of a plan that is valid.
    #[must_use]
    pub fn new(plan: &Plan, now: Time) -> Core {
        let mut core = Core {
            lease: plan.lease,
            poll: plan.poll,
            pools: Vec::new(),
            by_type: BTreeMap::new(),
            workers: SlotMap::with_key(),
            tasks: SlotMap::with_key(),
            by_token: HashMap::new(),
            mode: Mode::Working,
            next_poll: now + plan.poll,
            next_extend: now + third(plan.lease),
            next_breath: now,
        };
        for pool in &plan.pools {
            core.add_pool(pool.clone(), now);
        }
        core
    }

    fn add_pool(&mut self, plan: PoolPlan, now: Time) {
        self.by_type.insert(plan.task_type.clone(), self.pools.len());
        self.pools.push(Pool::new(plan, now));
    }

    /// Starts the workers and asks for work.
    pub fn start(&mut self, now: Time, out: &mut Vec<Effect>) {
        for pool in 0..self.pools.len() {
            self.fill(now, pool, out);
            self.fetch(pool, out);
        }
    }

    /// Puts tasks in line that an earlier life of this drone had, whose leases still hold.
    pub fn restored(&mut self, now: Time, jobs: Vec<Job>, out: &mut Vec<Effect>) {
        for job in jobs {
            match self.by_type.get(&job.link) {
                Some(&pool) if self.mode == Mode::Working => {
                    self.take(now, pool, Arc::new(job));
                    self.pump(now, pool, out);
                }
                _ => out.push(Effect::Release(vec![job.token])),
            }
        }
    }

    /// The global queue may have tasks of this type; with `None`, of any.
    pub fn hint(&mut self, task_type: Option<&str>, out: &mut Vec<Effect>) {
        for pool in 0..self.pools.len() {
            if task_type.is_none_or(|task_type| task_type == self.pools[pool].plan.task_type) {
                self.pools[pool].hungry = true;
                self.fetch(pool, out);
            }
        }
    }

    /// What a claim for `limit` tasks brought. One that failed brought nothing, and is tried again
    /// with the next poll.
    pub fn claimed(
        &mut self,
        now: Time,
        pool: PoolId,
        limit: usize,
        leases: Vec<Lease>,
        out: &mut Vec<Effect>,
    ) {
        self.pools[pool].asking = 0;
        self.pools[pool].hungry &= leases.len() >= limit;
        for lease in leases {
            let job = Arc::new(Job {
                token: lease.token,
                link: lease.task_type.clone(),
                task_type: lease.task_type,
                payload: lease.payload.into(),
                content_type: lease.content_type,
                attempt: lease.attempt,
                attributes: lease.attributes,
            });
            if self.mode == Mode::Draining || self.by_token.contains_key(&job.token) {
                out.push(Effect::Release(vec![job.token]));
                continue;
            }
            out.push(Effect::Keep(job.clone()));
            self.take(now, pool, job);
        }
        self.pump(now, pool, out);
    }

    /// A worker that was to be started can work.
    pub fn ready(&mut self, now: Time, slot: Slot, out: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get_mut(slot) else { return };
        if !matches!(worker.state, At::Starting) {
            return;
        }
        worker.state = At::Idle(now);
        let pool = worker.pool;
        self.pools[pool].starting -= 1;
        self.pools[pool].idle.push(slot);
        self.pump(now, pool, out);
    }

    /// What came of a worker's task. The worker is idle again if it is `alive`; otherwise
    /// [`Core::died`] follows.
    pub fn done(
        &mut self,
        now: Time,
        slot: Slot,
        alive: bool,
        report: Report,
        out: &mut Vec<Effect>,
    ) {
        let Some(worker) = self.workers.get_mut(slot) else { return };
        let At::Busy(task, since) = worker.state else { return };
        let pool = worker.pool;
        worker.state = At::Idle(now);
        let state = &mut self.pools[pool];
        if alive && (state.valve.size() > state.plan.max || worker.generation < state.generation) {
            state.valve.release(now, None);
            self.stop(slot, out);
        } else if alive {
            state.idle.push(slot);
        }
        if let Some(task) = task {
            self.pools[pool].learn(now - since);
            self.end(now, pool, task, report, out);
        }
        self.pump(now, pool, out);
    }

    /// What follows the end of an attempt.
    fn end(
        &mut self,
        now: Time,
        pool: PoolId,
        key: TaskKey,
        report: Report,
        out: &mut Vec<Effect>,
    ) {
        let Pool { counts, plan, .. } = &mut self.pools[pool];
        let outcome = match bounded(report) {
            Report::Done(result) => {
                counts.done += 1;
                match plan.then.clone() {
                    Some(to) => return self.link(now, pool, key, &to, result, out),
                    None => Outcome::Complete(result.into()),
                }
            }
            Report::Next { to, payload } => {
                counts.done += 1;
                return self.link(now, pool, key, &to, payload, out);
            }
            Report::Failed { error, for_good, retry_after } => {
                counts.failed += 1;
                let verdict = if for_good { Verdict::Reject } else { plan.failed };
                let retry_after_ms = retry_after.map(|span| span.as_millis().max(0) as u64);
                outcome(verdict, error, retry_after_ms)
            }
            Report::TimedOut(error) => {
                counts.timed_out += 1;
                outcome(plan.timed_out, error, None)
            }
            Report::Lost(error) => {
                counts.lost += 1;
                let again = plan.lost_again;
                let held = &mut self.tasks[key];
                held.lost += 1;
                if held.lost <= again {
                    held.at = None;
                    held.since = now;
                    self.pools[pool].line.push_front(key);
                    return;
                }
                Outcome::Fail { error, retry_after_ms: None }
            }
        };
        if matches!(outcome, Outcome::Complete(_)) {
            self.pools[pool].streak = 0;
        }
        let held = self.forget(key);
        out.push(Effect::Settle(held.job.token, outcome));
    }

    /// A sibling goes on with the task.
    fn link(
        &mut self,
        now: Time,
        from: PoolId,
        key: TaskKey,
        to: &str,
        payload: Bytes,
        out: &mut Vec<Effect>,
    ) {
        self.pools[from].streak = 0;
        let Some(&pool) = self.by_type.get(to).filter(|pool| self.pools[**pool].plan.is_local())
        else {
            let held = self.forget(key);
            let error = format!(
                "its worker hands it on to {to:?}, but this drone has no such task type; those of \
                 its own begin with \"local:\""
            );
            return out.push(Effect::Settle(held.job.token, Outcome::Reject { error }));
        };
        let held = &mut self.tasks[key];
        let job = Job { link: to.into(), payload, content_type: None, ..(*held.job).clone() };
        *held = Held { job: Arc::new(job), pool, since: now, at: None, lost: 0 };
        out.push(Effect::Link(held.job.clone()));
        let pool_state = &mut self.pools[pool];
        pool_state.line.push_back(key);
        pool_state.counts.fetched += 1;
        self.fill(now, pool, out);
        self.pump(now, pool, out);
    }

    /// A worker ended: because it was told to (`ours`), or by itself.
    pub fn died(&mut self, now: Time, slot: Slot, ours: bool, error: &str, out: &mut Vec<Effect>) {
        if let Some(Worker { state: At::Busy(..), .. }) = self.workers.get(slot) {
            self.done(now, slot, false, Report::Lost(error.into()), out);
        }
        let Some(worker) = self.workers.remove(slot) else { return };
        let pool = worker.pool;
        let state = &mut self.pools[pool];
        state.idle.retain(|idle| *idle != slot);
        if matches!(worker.state, At::Starting) {
            state.starting -= 1;
        }
        if !matches!(worker.state, At::Stopping) {
            state.valve.release(now, None);
        }
        if !ours {
            state.streak += 1;
            state.ends.push_back(now);
            let from = now + state.plan.restart.window.negated();
            while state.ends.front().is_some_and(|end| *end < from) {
                state.ends.pop_front();
            }
            if state.ends.len() > state.plan.restart.intensity {
                return self.give_up(now, pool, error, out);
            }
        }
        self.fill(now, pool, out);
        self.pump(now, pool, out);
    }

    /// Workers of this pool do nothing but end: others may have more luck with its tasks.
    fn give_up(&mut self, now: Time, pool: PoolId, error: &str, out: &mut Vec<Effect>) {
        let state = &mut self.pools[pool];
        let rest = state.plan.restart.max;
        state.resting = Some(now + rest);
        state.ends.clear();
        out.push(Effect::GaveUp { pool, rest, error: error.into() });
        self.give_back(pool, error, out);
    }

    /// Gives back what stands in line. Links of a chain cannot be given back as they are: their
    /// attempt has failed.
    fn give_back(&mut self, pool: PoolId, error: &str, out: &mut Vec<Effect>) {
        let line = std::mem::take(&mut self.pools[pool].line);
        let mut unworked = Vec::new();
        for key in line {
            let held = self.forget(key);
            if held.job.link == held.job.task_type && held.lost == 0 {
                unworked.push(held.job.token);
            } else {
                let outcome = Outcome::Fail { error: error.into(), retry_after_ms: None };
                out.push(Effect::Settle(held.job.token, outcome));
            }
        }
        if !unworked.is_empty() {
            out.push(Effect::Release(unworked));
        }
    }

    /// A lease is no longer ours: its task was cancelled, or somebody else has it.
    pub fn void(&mut self, now: Time, token: Token, out: &mut Vec<Effect>) {
        let Some(&key) = self.by_token.get(&token) else { return };
        let held = self.forget(key);
        let pool = &mut self.pools[held.pool];
        pool.counts.voided += 1;
        out.push(Effect::Forget(token));
        match held.at {
            None => pool.line.retain(|other| *other != key),
            Some(slot) => {
                if let Some(worker) = self.workers.get_mut(slot) {
                    worker.state = At::Busy(None, now);
                    out.push(Effect::Abort(slot));
                }
            }
        }
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.next_poll <= now {
            self.next_poll = now + self.poll;
            self.hint(None, out);
        }
        if self.next_extend <= now {
            self.next_extend = now + third(self.lease);
            if !self.by_token.is_empty() {
                let mut tokens: Vec<Token> = self.by_token.keys().copied().collect();
                tokens.sort_unstable_by_key(|token| token.fence);
                out.push(Effect::Extend(tokens));
            }
        }
        if self.next_breath <= now {
            self.next_breath = now + BREATH;
            for pool in 0..self.pools.len() {
                self.breathe(now, pool, out);
            }
        }
        for pool in 0..self.pools.len() {
            self.pump(now, pool, out);
        }
    }

    /// When [`Core::tick`] is to be called.
    #[must_use]
    pub fn deadline(&self) -> Time {
        let rates = self.pools.iter().filter(|pool| !pool.line.is_empty());
        let rates = rates.filter_map(|pool| pool.rate.as_ref()?.opening());
        let breathes = |pool: &Pool| {
            pool.resting.is_some() || !pool.line.is_empty() || pool.valve.size() > pool.plan.min
        };
        let breath = self.pools.iter().any(breathes).then_some(self.next_breath);
        rates.chain(breath).fold(self.next_poll.min(self.next_extend), Time::min)
    }

    /// Starts workers while tasks wait, ends those that idle.
    fn breathe(&mut self, now: Time, pool: PoolId, out: &mut Vec<Effect>) {
        let state = &mut self.pools[pool];
        if state.resting.is_some_and(|until| until <= now) {
            state.resting = None;
            state.hungry = true;
        }
        let idle_since = state.idle.first().and_then(|slot| match self.workers.get(*slot)?.state {
            At::Idle(since) => Some(since),
            At::Starting | At::Busy(..) | At::Stopping => None,
        });
        // How long workers waited for tasks; negative: how long tasks waited for workers.
        let waiting = state.line.front().map(|key| (now - self.tasks[*key].since).negated());
        let idling = idle_since.map(|since| now - since);
        state.valve.update(now, waiting.or(idling).unwrap_or(Span::ZERO));
        let too_long = idling.is_some_and(|idling| idling >= state.plan.breath.idle);
        let spare = too_long && state.line.is_empty() && state.valve.size() > state.plan.min;
        if spare && state.valve.go_on(now).is_none() {
            let slot = state.idle.remove(0);
            self.stop(slot, out);
        }
        self.fill(now, pool, out);
    }

    /// Ends an idle worker whose lock has been released.
    fn stop(&mut self, slot: Slot, out: &mut Vec<Effect>) {
        if let Some(worker) = self.workers.get_mut(slot) {
            worker.state = At::Stopping;
            out.push(Effect::Stop(slot));
        }
    }

    /// Starts the workers that the valve lets start.
    fn fill(&mut self, now: Time, pool: PoolId, out: &mut Vec<Effect>) {
        let state = &mut self.pools[pool];
        if self.mode == Mode::Draining && state.line.is_empty() || state.resting.is_some() {
            return;
        }
        loop {
            let small = state.valve.size() < state.plan.min;
            let wanted = small || state.line.len() > state.starting + state.idle.len();
            if !wanted || !state.valve.is_open(now) {
                return;
            }
            state.valve.admit(now);
            state.starting += 1;
            state.counts.started += 1;
            let generation = state.generation;
            let slot = self.workers.insert(Worker { pool, generation, state: At::Starting });
            out.push(Effect::Start { slot, pool, after: state.plan.restart.wait(state.streak) });
        }
    }

    /// Gives tasks to idle workers, and fetches more.
    fn pump(&mut self, now: Time, pool: PoolId, out: &mut Vec<Effect>) {
        loop {
            let state = &mut self.pools[pool];
            let shut = state.rate.as_ref().is_some_and(|rate| !rate.is_open(now));
            if state.paused || state.resting.is_some() || shut {
                break;
            }
            if state.line.is_empty() || state.idle.is_empty() {
                break;
            }
            let (Some(key), Some(slot)) = (state.line.pop_front(), state.idle.pop()) else { break };
            if let Some(rate) = &mut state.rate {
                // The start is what counts, not how long the task takes.
                rate.admit(now);
                rate.release(now, None);
            }
            let held = &mut self.tasks[key];
            (held.at, held.since) = (Some(slot), now);
            self.workers[slot].state = At::Busy(Some(key), now);
            out.push(Effect::Run { slot, job: held.job.clone() });
        }
        self.fetch(pool, out);
    }

    /// Claims what the workers will soon begin.
    fn fetch(&mut self, pool: PoolId, out: &mut Vec<Effect>) {
        let state = &mut self.pools[pool];
        if !state.hungry
            || state.asking > 0
            || state.paused
            || state.resting.is_some()
            || state.plan.is_local()
            || state.plan.max == 0
            || self.mode == Mode::Draining
        {
            return;
        }
        let room = state.target(self.lease).saturating_sub(state.line.len());
        // Few large claims rather than many small ones, but nobody idles for it.
        if room == 0 || (room < state.target(self.lease).div_ceil(4) && !state.line.is_empty()) {
            return;
        }
        state.asking = room;
        out.push(Effect::Claim { pool, limit: room });
    }

    fn take(&mut self, now: Time, pool: PoolId, job: Arc<Job>) {
        let token = job.token;
        let key = self.tasks.insert(Held { job, pool, since: now, at: None, lost: 0 });
        self.by_token.insert(token, key);
        self.pools[pool].line.push_back(key);
        self.pools[pool].counts.fetched += 1;
    }

    fn forget(&mut self, key: TaskKey) -> Held {
        let held = self.tasks.remove(key).expect("only tasks that are held are forgotten");
        self.by_token.remove(&held.job.token);
        held
    }

    /// Claims no more and gives back what nobody has begun; chains that are under way are
    /// finished.
    pub fn drain(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.mode = Mode::Draining;
        for pool in 0..self.pools.len() {
            let line = std::mem::take(&mut self.pools[pool].line);
            let (under_way, fresh): (Vec<TaskKey>, Vec<TaskKey>) =
                line.into_iter().partition(|key| {
                    let held = &self.tasks[*key];
                    held.job.link != held.job.task_type
                });
            self.pools[pool].line = under_way.into();
            let unworked: Vec<Token> =
                fresh.into_iter().map(|key| self.forget(key).job.token).collect();
            if !unworked.is_empty() {
                out.push(Effect::Release(unworked));
            }
            self.pump(now, pool, out);
        }
    }

    /// Gives back everything that is still held: its time is over. Returns how much that was.
    pub fn abandon(&mut self, now: Time, out: &mut Vec<Effect>) -> usize {
        let keys: Vec<TaskKey> = self.tasks.keys().collect();
        let mut tokens = Vec::new();
        for key in keys {
            let held = self.forget(key);
            tokens.push(held.job.token);
            if let Some(worker) = held.at.and_then(|slot| self.workers.get_mut(slot)) {
                worker.state = At::Busy(None, now);
            }
        }
        for pool in &mut self.pools {
            pool.line.clear();
        }
        let cut = tokens.len();
        if cut > 0 {
            out.push(Effect::Release(tokens));
        }
        cut
    }

    /// Nothing is held, and no answer to a claim is missing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.pools.iter().all(|pool| pool.asking == 0)
    }

    /// Gives no task of a type to workers until it is resumed; what runs goes on, what waits is
    /// given back. Whether there is such a type.
    pub fn pause(&mut self, task_type: &str, paused: bool, out: &mut Vec<Effect>) -> bool {
        let Some(&pool) = self.by_type.get(task_type) else { return false };
        self.pools[pool].paused = paused;
        if paused {
            if !self.pools[pool].plan.is_local() {
                self.give_back(pool, "its worker was lost, and its type is paused here", out);
            }
        } else {
            self.hint(Some(task_type), out);
        }
        true
    }

    /// Changes how many workers a type has.
    ///
    /// # Errors
    /// If there is no such type, or the range makes no sense.
    pub fn scale(
        &mut self,
        now: Time,
        task_type: &str,
        min: usize,
        max: usize,
        out: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let types = || self.by_type.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let Some(&pool) = self.by_type.get(task_type) else {
            return Err(format!(
                "there is no task type {task_type:?} here; there are: {}",
                types()
            ));
        };
        if max == 0 || min > max {
            return Err(format!("{min}..{max}: at least 1, and min not above max"));
        }
        let mut plan = self.pools[pool].plan.clone();
        (plan.min, plan.max) = (min, max);
        self.set_plan(now, pool, plan, out);
        Ok(())
    }

    /// Goes by another plan from here on. Workers that do a type's tasks in another way now are
    /// replaced as they become idle; a type that is gone gives its tasks back.
    pub fn reconfigure(&mut self, now: Time, plan: &Plan, out: &mut Vec<Effect>) {
        (self.lease, self.poll) = (plan.lease, plan.poll);
        for pool in 0..self.pools.len() {
            let task_type = &self.pools[pool].plan.task_type;
            match plan.pools.iter().find(|new| new.task_type == *task_type) {
                Some(new) => self.set_plan(now, pool, new.clone(), out),
                None => {
                    let gone = PoolPlan { min: 0, max: 0, ..self.pools[pool].plan.clone() };
                    self.give_back(pool, "this drone no longer does its type", out);
                    self.set_plan(now, pool, gone, out);
                }
            }
        }
        for new in &plan.pools {
            if !self.by_type.contains_key(&new.task_type) {
                self.add_pool(new.clone(), now);
                self.fill(now, self.pools.len() - 1, out);
                self.fetch(self.pools.len() - 1, out);
            }
        }
    }

    /// What a pool goes by.
    #[must_use]
    pub fn plan(&self, pool: PoolId) -> &PoolPlan {
        &self.pools[pool].plan
    }

    fn set_plan(&mut self, now: Time, pool: PoolId, plan: PoolPlan, out: &mut Vec<Effect>) {
        let state = &mut self.pools[pool];
        let max = plan.max;
        let old = std::mem::replace(&mut state.plan, plan);
        let differs = (&old.work, old.limits, old.grace)
            != (&state.plan.work, state.plan.limits, state.plan.grace)
            || (old.time_limit, old.silence_limit)
                != (state.plan.time_limit, state.plan.silence_limit);
        if old.rate != state.plan.rate {
            state.rate = rate_valve(&state.plan, now);
        }
        state.generation += u32::from(differs);
        state.hungry |= max > 0;
        state.valve.reconfigure(now, size_valve(&state.plan));
        let extra = if differs { usize::MAX } else { state.valve.size().saturating_sub(max) };
        let extra = extra.min(state.idle.len());
        let stopped: Vec<Slot> = state.idle.drain(..extra).collect();
        for slot in stopped {
            self.pools[pool].valve.release(now, None);
            self.stop(slot, out);
        }
        self.fill(now, pool, out);
        self.pump(now, pool, out);
    }
}

impl crate::plan::Restart {
    /// How long the next start waits after so many ends in a row.
    fn wait(&self, streak: u32) -> Span {
        match streak {
            0 | 1 => Span::ZERO,
            _ => self.base.times(1 << (streak - 2).min(20)).min(self.max),
        }
    }
}

fn third(span: Span) -> Span {
    Span::from_nanos(span.as_nanos() / 3)
}

/// What the global queue would refuse to take becomes something that it takes.
fn bounded(report: Report) -> Report {
    let cut = |mut error: String| {
        error.truncate(error.floor_char_boundary(limits::ERROR));
        error
    };
    match report {
        Report::Done(result) if result.len() > limits::PAYLOAD => {
            let error = format!("its result is larger than {} octets", limits::PAYLOAD);
            Report::Failed { error, for_good: true, retry_after: None }
        }
        Report::Failed { error, for_good, retry_after } => {
            Report::Failed { error: cut(error), for_good, retry_after }
        }
        Report::TimedOut(error) => Report::TimedOut(cut(error)),
        Report::Lost(error) => Report::Lost(cut(error)),
        report @ (Report::Done(_) | Report::Next { .. }) => report,
    }
}

fn outcome(verdict: Verdict, error: String, retry_after_ms: Option<u64>) -> Outcome {
    match verdict {
        Verdict::Retry => Outcome::Fail { error, retry_after_ms },
        Verdict::Reject => Outcome::Reject { error },
    }
}

#[cfg(test)]
mod tests;
