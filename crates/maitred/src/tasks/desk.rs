//! The desk: whoever wants something of the store comes here.
//!
//! It adds to the store what takes patience: claims that wait for a task, callers that wait for a
//! result, and somebody who does what is due. Answers and notices arrive on the store's thread;
//! what is done there is short. A claim that came back empty is put among those that wait on that
//! same thread, before the store can tell that something became ready: no wake-up is lost.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::ConnId;
use store::{
    Claim, Clock, Command, Enqueued, Error, Extend, Extended, Lease, NewTask, Notice, Now, Outcome,
    Query, Receipt, Refusal, Release, Settle, Settled, State, Store, TaskId, Token,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::Opened;
use super::runner::{Plan, Runner};
use super::titanic::Closing;
use super::waits::{Follower, Waits};
use crate::calls::Calls;
use crate::inbox::{self, Inbox};

/// Claims and callers that may wait at a time: each is remembered until it is answered.
const WAITING_MAX: usize = 100_000;
/// Claims woken at once when tasks become ready; each that gets some wakes two more.
const WAKE: usize = 8;
/// Nothing being due, look again after so long, in ms.
const DUE_IDLE_MS: u64 = 30_000;
/// What several brokers share may have become ready without a word.
const SHARED_POLL_MS: u64 = 2_000;

/// What a claim came to.
pub(crate) type Claimed = Result<Vec<Lease>, Error>;

/// Whoever claimed.
pub(crate) trait Taker: Send {
    /// Nobody would take the answer.
    fn is_gone(&self) -> bool;
    /// Takes the answer; gives back the leases that nobody got.
    fn take(self: Box<Self>, answer: Claimed) -> Vec<Token>;
}

impl Taker for oneshot::Sender<Claimed> {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }

    fn take(self: Box<Self>, answer: Claimed) -> Vec<Token> {
        let unsent = self.send(answer).err().and_then(Result::ok).unwrap_or_default();
        unsent.iter().map(|lease| lease.token).collect()
    }
}

/// A claim that may wait.
pub(crate) struct Ask {
    pub(crate) claim: Claim,
    /// Line time in ms until which it waits for a task.
    pub(crate) until: u64,
    /// The connection that it ends with.
    pub(crate) conn: Option<ConnId>,
    pub(crate) taker: Box<dyn Taker>,
}

/// How a task, or the last link of its chain, ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) id: TaskId,
    pub(crate) state: State,
    pub(crate) result: Vec<u8>,
    pub(crate) error: Option<String>,
}

/// What happened to tasks since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) enqueued: AtomicU64,
    pub(crate) claimed: AtomicU64,
    pub(crate) completed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) scheduled: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// An open store, and all who wait for it.
pub(crate) struct Desk {
    store: Arc<dyn Store>,
    clock: Clock,
    inbox: Arc<Inbox>,
    runtime: Handle,
    pub(crate) calls: Arc<Calls>,
    pub(crate) counts: Counts,
    pub(super) runner: Runner,
    pub(super) closing: Closing,
    waits: Mutex<Waits>,
    /// Line time in ms at which [`Store::due`] is called next.
    due_at: AtomicU64,
    /// There is something to do earlier than the driver thinks.
    kick: Notify,
    draining: AtomicBool,
}

impl Desk {
    /// Opens the desk of a store. Nothing runs before [`drive`](Desk::drive) does.
    pub(crate) fn open(
        opened: Opened,
        inbox: Arc<Inbox>,
        calls: Arc<Calls>,
        runtime: Handle,
        plan: Plan,
    ) -> Arc<Desk> {
        let Opened { store, clock, found: _ } = opened;
        let desk = Arc::new(Desk {
            store,
            clock,
            inbox,
            runtime,
            calls,
            counts: Counts::default(),
            runner: Runner::new(plan),
            closing: Closing::default(),
            waits: Mutex::default(),
            due_at: AtomicU64::new(0),
            kick: Notify::new(),
            draining: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&desk);
        desk.store.notify(Box::new(move |notices| {
            if let Some(desk) = weak.upgrade() {
                notices.iter().for_each(|notice| desk.hear(notice));
            }
        }));
        desk
    }

    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Where what takes patience is spawned, from any thread.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Unix time of a line time, both in ms, as the wall clock stands.
    pub(crate) fn wall_of(&self, line: u64) -> u64 {
        let now = self.now();
        (now.wall + line).saturating_sub(now.line)
    }

    /// Adds tasks. The answer is heard on the store's thread.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        tasks: Vec<NewTask>,
        reply: impl FnOnce(Answers<Enqueued>) + Send + 'static,
    ) {
        let now = self.now();
        for task in &tasks {
            if task.run_at != store::When::Now || task.deadline_ms.is_some() {
                let wait = match task.run_at {
                    store::When::Now => u64::MAX,
                    store::When::After(ms) => ms,
                    store::When::At(at) => at.saturating_sub(now.wall),
                };
                let wait = wait.min(task.deadline_ms.unwrap_or(u64::MAX));
                self.hint(now.line.saturating_add(wait));
            }
        }
        let desk = self.clone();
        let answer = move |answer: Answers<Enqueued>| {
            let made = answer.as_ref().map_or(0, |receipt| {
                let new = |made: &&Result<Enqueued, Refusal>| {
                    made.as_ref().is_ok_and(|made| made.met == store::Met::Nothing)
                };
                receipt.value.iter().filter(new).count()
            });
            add(&desk.counts.enqueued, made);
            add(&desk.counts.refused, usize::from(answer.is_err()));
            reply(answer);
        };
        self.store.enqueue(now, tasks, Box::new(answer));
    }

    /// Leases tasks, now or as soon as there are some before the claim's end.
    pub(crate) fn claim(self: &Arc<Self>, ask: Ask) {
        self.try_claim(ask, None);
    }

    fn try_claim(self: &Arc<Self>, ask: Ask, number: Option<u64>) {
        let desk = self.clone();
        let claim = ask.claim.clone();
        self.store.claim(
            self.now(),
            claim,
            Box::new(move |answer| desk.on_claimed(ask, number, answer)),
        );
    }

    fn on_claimed(
        self: &Arc<Self>,
        ask: Ask,
        number: Option<u64>,
        answer: Result<Receipt<Vec<Lease>>, Error>,
    ) {
        let leases = match answer {
            Ok(Receipt { value, .. }) => value,
            Err(error) => {
                ask.taker.take(Err(error));
                return;
            }
        };
        let now = self.now();
        if leases.is_empty() {
            if ask.until <= now.line || self.is_draining() || ask.taker.is_gone() {
                ask.taker.take(Ok(leases));
            } else {
                self.wait(ask, number);
            }
            return;
        }
        if let Some(until) = leases.iter().map(|lease| lease.until).min() {
            self.hint(until);
        }
        add(&self.counts.claimed, leases.len());
        let types: BTreeSet<String> = leases.iter().map(|lease| lease.task_type.clone()).collect();
        let unwanted = ask.taker.take(Ok(leases));
        self.give_back(unwanted);
        // Where one task became ready there may be more.
        types.iter().for_each(|task_type| self.wake(task_type, 2));
    }

    fn wait(&self, ask: Ask, number: Option<u64>) {
        let mut waits = self.waits();
        if waits.asks.len() >= WAITING_MAX {
            drop(waits);
            ask.taker.take(Err(Error::Busy(WAITING_MAX)));
            return;
        }
        let earlier = waits.by_end.first().is_none_or(|(end, _)| ask.until < *end);
        let number = number.unwrap_or_else(|| waits.number());
        waits.insert(number, ask);
        drop(waits);
        if earlier {
            self.kick.notify_one();
        }
    }

    /// Lets claims that wait for a type try again.
    fn wake(self: &Arc<Self>, task_type: &str, count: usize) {
        let mut woken = Vec::new();
        let mut waits = self.waits();
        while woken.len() < count
            && let Some(number) =
                waits.by_type.get(task_type).and_then(|numbers| numbers.first().copied())
            && let Some(ask) = waits.remove(number)
        {
            if !ask.taker.is_gone() {
                woken.push((number, ask));
            }
        }
        drop(waits);
        for (number, ask) in woken {
            self.try_claim(ask, Some(number));
        }
    }

    /// Leases that reached nobody.
    pub(crate) fn give_back(&self, tokens: Vec<Token>) {
        if tokens.is_empty() {
            return;
        }
        let releases = tokens.into_iter().map(|token| Release { token, after_ms: 0 }).collect();
        // A lease that cannot be given back ends by itself.
        self.store.release(self.now(), releases, Box::new(drop));
    }

    /// Ends attempts. The answer is heard on the store's thread.
    pub(crate) fn settle(
        self: &Arc<Self>,
        settles: Vec<Settle>,
        reply: impl FnOnce(Answers<Settled>) + Send + 'static,
    ) {
        let completes: Vec<bool> =
            settles.iter().map(|one| matches!(one.outcome, Outcome::Complete(_))).collect();
        let desk = self.clone();
        let answer = move |answer: Answers<Settled>| {
            desk.on_settled(&completes, &answer);
            reply(answer);
        };
        self.store.settle(self.now(), settles, Box::new(answer));
    }

    fn on_settled(&self, completes: &[bool], answer: &Answers<Settled>) {
        let Ok(receipt) = answer else { return };
        let mut waits = false;
        for (complete, settled) in completes.iter().zip(&receipt.value) {
            match (complete, settled) {
                (_, Ok(settled)) if settled.repeated => {}
                (true, Ok(_)) => add(&self.counts.completed, 1),
                (false, Ok(settled)) => {
                    add(&self.counts.failed, 1);
                    waits |= settled.state == State::Scheduled;
                }
                (_, Err(_)) => add(&self.counts.stale, 1),
            }
        }
        let now = self.now().line;
        // A back-off may be short; what ended is kept a minute at least.
        self.hint(if waits { now } else { now + 60_000 });
    }

    /// Holds leases for longer.
    pub(crate) fn extend(
        self: &Arc<Self>,
        extends: Vec<Extend>,
        reply: impl FnOnce(Answers<Extended>) + Send + 'static,
    ) {
        let desk = self.clone();
        let answer = move |answer: Answers<Extended>| {
            let ends = answer.iter().flat_map(|receipt| &receipt.value).flatten();
            if let Some(until) = ends.map(|extended| extended.until).min() {
                desk.hint(until);
            }
            reply(answer);
        };
        self.store.extend(self.now(), extends, Box::new(answer));
    }

    /// Gives leases back unworked.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn release(
        &self,
        releases: Vec<Release>,
    ) -> Result<Receipt<Vec<Result<(), Refusal>>>, Error> {
        let after = releases.iter().map(|release| release.after_ms).min().unwrap_or(0);
        let answer = self.ask(|store, now, reply| store.release(now, releases, reply)).await;
        self.hint(self.now().line.saturating_add(after));
        answer
    }

    /// Calls and waits for the answer.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Store, Now, store::Reply<T>),
    ) -> Result<Receipt<T>, Error> {
        let (sender, answer) = oneshot::channel();
        let reply = Box::new(move |answer| {
            // Whoever asked may be gone by now.
            let _ = sender.send(answer);
        });
        call(&*self.store, self.now(), reply);
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Orders something of the store.
    ///
    /// # Errors
    /// What the store says, about the whole or about a word of it.
    pub(crate) async fn command(&self, command: Command) -> Result<Result<u64, Refusal>, Error> {
        let done = self.ask(|store, now, reply| store.command(now, command, reply)).await?;
        // Schedules, and what was made ready, may be due.
        self.hint(self.now().line);
        Ok(done.value)
    }

    /// Asks something of the store.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn query(&self, query: Query) -> Result<store::Answer, Error> {
        let answer = self.ask(|store, now, reply| store.query(now, query, reply)).await?;
        Ok(answer.value)
    }

    /// Tells `sender` how a task ends, following `links` links of its chain.
    ///
    /// Called on the store's thread, in the reply that tells of the task, it misses nothing.
    pub(crate) fn follow(&self, id: TaskId, links: usize, sender: oneshot::Sender<Ended>) -> u64 {
        let mut waits = self.waits();
        let number = waits.number();
        if waits.followed.len() < WAITING_MAX {
            waits.followed.insert(number, id);
            let follower = Follower { number, links, sender };
            waits.followers.entry(id).or_default().push(follower);
        }
        number
    }

    /// Whoever followed under this number no longer does.
    pub(crate) fn unfollow(&self, number: u64) {
        let mut waits = self.waits();
        let Some(id) = waits.followed.remove(&number) else { return };
        if let Some(followers) = waits.followers.get_mut(&id) {
            followers.retain(|follower| follower.number != number);
            if followers.is_empty() {
                waits.followers.remove(&id);
            }
        }
    }

    fn hear(self: &Arc<Self>, notice: &Notice) {
        match notice {
            Notice::Ready { task_type } => {
                self.wake(task_type, WAKE);
                self.poke(task_type);
            }
            Notice::Ended { id, state, result, error, next, postback: _ } => {
                match state {
                    State::Dead => {
                        add(&self.counts.dead, 1);
                        let error = error.as_deref().unwrap_or_default();
                        tracing::warn!(task = id.0, error, "a task is dead");
                    }
                    State::Cancelled => add(&self.counts.cancelled, 1),
                    State::Done
                    | State::Ready
                    | State::Scheduled
                    | State::Blocked
                    | State::Leased => {}
                }
                self.tell_followers(*id, *state, *next, || Ended {
                    id: *id,
                    state: *state,
                    result: result.clone(),
                    error: error.clone(),
                });
            }
            Notice::Cancelled { token, worker } => {
                tracing::info!(task = token.task.0, worker, "a running task was cancelled");
            }
            Notice::Damaged { id } => {
                tracing::error!(task = id.0, "a task is damaged: it is a dead letter now");
            }
            Notice::Stopped { reason } => {
                tracing::error!(reason, "the store stopped");
                let stop = inbox::Command::Stop { reason: format!("the store stopped: {reason}") };
                if let Err(error) = self.inbox.send(stop) {
                    tracing::error!(%error, "cannot reach the reactor");
                }
            }
        }
    }

    /// `ended` is made only if somebody wants to know.
    fn tell_followers(
        &self,
        id: TaskId,
        state: State,
        next: Option<TaskId>,
        ended: impl Fn() -> Ended,
    ) {
        let mut waits = self.waits();
        let Some(followers) = waits.followers.remove(&id) else { return };
        let mut told = Vec::new();
        for mut follower in followers {
            match next {
                Some(next) if state == State::Done && follower.links > 0 => {
                    follower.links -= 1;
                    waits.followed.insert(follower.number, next);
                    waits.followers.entry(next).or_default().push(follower);
                }
                Some(_) | None => {
                    waits.followed.remove(&follower.number);
                    told.push(follower);
                }
            }
        }
        drop(waits);
        for follower in told {
            // Whoever waited may be gone by now.
            let _ = follower.sender.send(ended());
        }
    }

    /// Something is to be done at this line time, or earlier.
    pub(super) fn hint(&self, line: u64) {
        if self.due_at.fetch_min(line, Ordering::Relaxed) > line {
            self.kick.notify_one();
        }
    }

    /// Does what is due, for as long as the broker runs.
    pub(crate) async fn drive(self: Arc<Self>) {
        self.find_lines().await;
        loop {
            let now = self.now().line;
            self.end_waits(now);
            if self.due_at.load(Ordering::Relaxed) <= now {
                self.do_due().await;
            }
            if self.store.capabilities().shared {
                self.wake_some();
            }
            self.poke_sleepers(now);
            let next = self.due_at.load(Ordering::Relaxed).min(self.first_end());
            let wait = Duration::from_millis(next.saturating_sub(self.now().line));
            let most = Duration::from_millis(SHARED_POLL_MS);
            tokio::select! {
                () = self.kick.notified() => {}
                () = tokio::time::sleep(wait.min(most)) => {}
            }
        }
    }

    async fn do_due(&self) {
        // What is hinted at from here on counts, whatever this call answers.
        self.due_at.store(u64::MAX, Ordering::Relaxed);
        let answer = self.ask(|store, now, reply| store.due(now, reply)).await;
        let now = self.now().line;
        let next = match answer {
            Ok(Receipt { value: due, .. }) => {
                add(&self.counts.lost, due.lost as usize);
                add(&self.counts.scheduled, due.scheduled as usize);
                if due.lost > 0 {
                    tracing::info!(leases = due.lost, "leases ended: their tasks are ready again");
                }
                due.next.unwrap_or(u64::MAX).min(now + DUE_IDLE_MS)
            }
            Err(error) => {
                tracing::warn!(%error, "what is due was not done; trying again");
                now + 1_000
            }
        };
        self.due_at.fetch_min(next, Ordering::Relaxed);
    }

    fn first_end(&self) -> u64 {
        self.waits().by_end.first().map_or(u64::MAX, |(end, _)| *end)
    }

    /// Claims that waited long enough are answered with nothing.
    fn end_waits(&self, now: u64) {
        let mut ended = Vec::new();
        let mut waits = self.waits();
        while let Some((end, number)) = waits.by_end.first().copied()
            && end <= now
            && let Some(ask) = waits.remove(number)
        {
            ended.push(ask);
        }
        drop(waits);
        for ask in ended {
            ask.taker.take(Ok(Vec::new()));
        }
    }

    /// A connection ended: what it claimed and waits for is for nobody.
    pub(crate) fn gone(&self, conn: ConnId) {
        let mut ended = Vec::new();
        let mut waits = self.waits();
        while let Some(number) =
            waits.by_conn.get(&conn).and_then(|numbers| numbers.first().copied())
            && let Some(ask) = waits.remove(number)
        {
            ended.push(ask);
        }
        drop(waits);
        for ask in ended {
            ask.taker.take(Ok(Vec::new()));
        }
    }

    fn wake_some(self: &Arc<Self>) {
        let types: Vec<String> = self.waits().by_type.keys().cloned().collect();
        types.iter().for_each(|task_type| self.wake(task_type, WAKE));
    }

    /// Nobody waits for tasks any more, and the broker starts no work of its own.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.end_waits(u64::MAX);
    }

    /// Ends what was asked before, and closes the store.
    pub(crate) fn close(&self) {
        self.drain();
        self.store.close();
    }

    /// Claims that wait for a type.
    pub(crate) fn waiting_for(&self, task_type: &str) -> usize {
        self.waits().by_type.get(task_type).map_or(0, BTreeSet::len)
    }

    /// Claims that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waits().asks.len()
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a batch came to.
pub(crate) type Answers<T> = Result<Receipt<Vec<Result<T, Refusal>>>, Error>;

pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

fn closed() -> Error {
    Error::Stopped("it was closed before it answered".into())
}
