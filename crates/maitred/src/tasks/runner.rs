//! Tasks that the broker itself carries: Titanic's requests and results that go to a service.
//!
//! Each type is a line of its own, so that a service nobody serves holds up no other. A task is
//! claimed when its service has workers and there is room for one more call; the lease is held for
//! as long as the call takes. What the service refuses goes back unworked; what its worker says
//! that it failed is a failed attempt.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use engine::{HOUSE, Reason};
use sessions::Outcome as Came;
use store::{
    Answer, Claim, Extend, Lease, Outcome, POSTBACK_SERVICE, Query, Refusal, Release, Settle,
    State, Token,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::desk::Desk;
use super::titanic;
use crate::inbox::Command;

/// Calls for tasks at a time: each holds its payload in memory.
const CALLS: usize = 256;
/// Calls of one line, so that a slow service leaves room for others.
const LINE_CALLS: usize = 64;
/// How long the broker leases what it carries, in ms; extended while the call lasts.
const LEASE_MS: u64 = 60_000;
/// What was refused, or found no worker, is tried again after so long, in ms.
const AGAIN_MS: u64 = 1_000;
/// Lines without workers are looked at anew so often, in ms.
const LOOK_MS: u64 = 5_000;

/// What the broker carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Plan {
    /// `titanic.request`, `titanic.reply` and `titanic.close` are the broker's own.
    pub(crate) titanic: bool,
    /// How long a reply is kept for whoever asked, in ms.
    pub(crate) titanic_keep_ms: u64,
}

/// The lines, and how much may be under way.
pub(super) struct Runner {
    pub(super) plan: Plan,
    lines: Mutex<HashMap<String, Line>>,
    room: Arc<Semaphore>,
    /// The engine cannot say which types have tasks: each service that is served is tried.
    blind: AtomicBool,
    looked: Mutex<u64>,
}

#[derive(Default)]
struct Line {
    under_way: usize,
    /// There may be tasks to claim.
    ready: bool,
    /// Somebody is claiming.
    busy: bool,
    /// Its service had no workers.
    asleep: bool,
    /// Its service got one since the last claim began.
    joined: bool,
}

impl Runner {
    pub(super) fn new(plan: Plan) -> Runner {
        Runner {
            plan,
            lines: Mutex::default(),
            room: Arc::new(Semaphore::new(CALLS)),
            blind: AtomicBool::new(false),
            looked: Mutex::new(0),
        }
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<String, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carries(&self, task_type: &str) -> bool {
        task_type == POSTBACK_SERVICE
            || self.plan.titanic && titanic::service_of(task_type).is_some()
    }
}

impl Desk {
    /// Which lines have tasks from before the broker was started.
    pub(super) async fn find_lines(self: &Arc<Self>) {
        match self.query(Query::Queues).await {
            Ok(Answer::Queues(queues)) => {
                queues.iter().for_each(|queue| self.poke(&queue.task_type));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::info!(%error, "cannot list the queues; each service is tried");
                self.runner.blind.store(true, Ordering::Relaxed);
                self.poke(POSTBACK_SERVICE);
            }
        }
    }

    /// There may be tasks of this type.
    pub(super) fn poke(self: &Arc<Self>, task_type: &str) {
        if self.runner.carries(task_type) && !self.is_draining() {
            let mut lines = self.runner.lines();
            if !lines.contains_key(task_type) {
                lines.insert(task_type.to_owned(), Line::default());
            }
            if let Some(line) = lines.get_mut(task_type) {
                line.ready = true;
                if !line.busy && !line.asleep {
                    line.busy = true;
                    drop(lines);
                    self.spawn_pump(task_type);
                }
            }
        }
    }

    /// A service has a worker more.
    pub(crate) fn worker_joined(self: &Arc<Self>, service: &[u8]) {
        let Ok(service) = std::str::from_utf8(service) else { return };
        let task_type = titanic::type_of(service);
        let waits = self.runner.lines().get_mut(&task_type).is_some_and(|line| {
            (line.asleep, line.joined) = (false, true);
            line.ready
        });
        if waits || self.runner.blind.load(Ordering::Relaxed) {
            self.poke(&task_type);
        }
    }

    /// Lines whose service had no workers may have missed that it has.
    pub(super) fn poke_sleepers(self: &Arc<Self>, now: u64) {
        {
            let mut looked = self.runner.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if now < *looked + LOOK_MS {
                return;
            }
            *looked = now;
        }
        let mut waiting = Vec::new();
        self.runner.lines().iter_mut().filter(|(_, line)| line.ready).for_each(|(name, line)| {
            line.asleep = false;
            waiting.push(name.clone());
        });
        waiting.iter().for_each(|task_type| self.poke(task_type));
    }

    fn spawn_pump(self: &Arc<Self>, task_type: &str) {
        let (desk, task_type) = (self.clone(), task_type.to_owned());
        self.runtime().spawn(async move { desk.pump(task_type).await });
    }

    /// Claims for one line until nothing is ready, or nobody serves it, or there is no room.
    async fn pump(self: Arc<Self>, task_type: String) {
        loop {
            let room = {
                let mut lines = self.runner.lines();
                let Some(line) = lines.get_mut(&task_type) else { return };
                let room = LINE_CALLS - line.under_way;
                if !line.ready || room == 0 || self.is_draining() {
                    line.busy = false;
                    if !line.ready && line.under_way == 0 {
                        lines.remove(&task_type);
                    }
                    return;
                }
                (line.ready, line.joined) = (false, false);
                room
            };
            let permits = self.take_room(room);
            let staffed = match titanic::service_of(&task_type) {
                Some(service) => self.is_staffed(service).await,
                None => true,
            };
            if permits.is_empty() || !staffed {
                let mut lines = self.runner.lines();
                let Some(line) = lines.get_mut(&task_type) else { return };
                line.ready = true;
                if !permits.is_empty() && line.joined {
                    continue;
                }
                (line.busy, line.asleep) = (false, !staffed);
                return;
            }
            let leases = self.claim_own(&task_type, permits.len()).await;
            let full = leases.len() == permits.len();
            let mut lines = self.runner.lines();
            if let Some(line) = lines.get_mut(&task_type) {
                line.under_way += leases.len();
                line.ready |= full;
            }
            drop(lines);
            for (lease, permit) in leases.into_iter().zip(permits) {
                let desk = self.clone();
                self.runtime().spawn(async move { desk.carry(lease, permit).await });
            }
        }
    }

    fn take_room(&self, most: usize) -> Vec<OwnedSemaphorePermit> {
        let permit = || self.runner.room.clone().try_acquire_owned().ok();
        std::iter::from_fn(permit).take(most).collect()
    }

    async fn is_staffed(&self, service: &str) -> bool {
        let (answer, staffed) = oneshot::channel();
        let service = Bytes::copy_from_slice(service.as_bytes());
        let asked = self.inbox().send(Command::IsStaffed { service, answer });
        asked.is_ok() && staffed.await.unwrap_or(false)
    }

    async fn claim_own(&self, task_type: &str, limit: usize) -> Vec<Lease> {
        let claim = Claim {
            types: vec![task_type.to_owned()],
            limit,
            lease_ms: Some(LEASE_MS),
            worker: "maitred".into(),
        };
        match self.ask(|store, now, reply| store.claim(now, claim, reply)).await {
            Ok(receipt) => receipt.value,
            Err(error) => {
                tracing::warn!(%error, task_type, "cannot claim");
                Vec::new()
            }
        }
    }

    /// Calls the service of one task and settles it.
    async fn carry(self: Arc<Self>, lease: Lease, permit: OwnedSemaphorePermit) {
        let (token, task_type) = (lease.token, lease.task_type.clone());
        match self.call_for(lease).await {
            Verdict::Settle(outcome) => self.settle_own(token, outcome).await,
            Verdict::Release(why) => {
                tracing::debug!(task = token.task.0, why, "a task goes back unworked");
                let releases = vec![Release { token, after_ms: AGAIN_MS }];
                if let Err(error) = self.release(releases).await {
                    tracing::warn!(%error, task = token.task.0, "cannot give a task back");
                }
            }
            Verdict::Lost => {}
        }
        drop(permit);
        let others: Vec<String> = {
            let mut lines = self.runner.lines();
            if let Some(line) = lines.get_mut(&task_type) {
                line.under_way -= 1;
                if line.under_way == 0 && !line.ready && !line.busy {
                    lines.remove(&task_type);
                }
            }
            let waiting = lines.iter().filter(|(_, line)| line.ready && !line.asleep);
            waiting.map(|(name, _)| name.clone()).collect()
        };
        others.iter().for_each(|task_type| self.poke(task_type));
    }

    async fn call_for(&self, lease: Lease) -> Verdict {
        let token = lease.token;
        let Some(errand) = Errand::new(lease) else {
            let error = "it names no service: it was not made by this broker".into();
            return Verdict::Settle(Outcome::Reject { error });
        };
        let service = Bytes::from(errand.service.into_bytes());
        let call = self.calls.call(HOUSE.into(), service, errand.body, Bytes::new());
        tokio::pin!(call);
        let came = loop {
            tokio::select! {
                came = &mut call => break came,
                () = tokio::time::sleep(Duration::from_millis(LEASE_MS / 3)) => {
                    if !self.hold(token).await {
                        // Cancelled, or another broker has it: the call is withdrawn.
                        return Verdict::Lost;
                    }
                }
            }
        };
        match came {
            Ok(Came::Reply(frames)) => judge(&frames, errand.keeps_frames),
            Ok(Came::Refused(Reason::WorkersFailed)) => {
                let error = "every worker that tried was lost".into();
                Verdict::Settle(Outcome::Fail { error, retry_after_ms: None })
            }
            Ok(Came::Refused(reason)) => Verdict::Release(reason.as_str()),
            Err(_) => Verdict::Lost,
        }
    }

    /// Holds a lease for longer; `false` if it is no longer ours.
    async fn hold(&self, token: Token) -> bool {
        let extends = vec![Extend { token, lease_ms: Some(LEASE_MS), progress: None }];
        match self.ask(|store, now, reply| store.extend(now, extends, reply)).await {
            Ok(receipt) => !matches!(
                receipt.value.first(),
                Some(Err(Refusal::Stale
                    | Refusal::Cancelled
                    | Refusal::Unknown
                    | Refusal::Damaged))
            ),
            // What cannot be reached now may be in time.
            Err(_) => true,
        }
    }

    async fn settle_own(self: &Arc<Self>, token: Token, outcome: Outcome) {
        let mut outcome = outcome;
        // Twice: a result that is too large to be kept is said so.
        for _ in 0..2 {
            let (sender, answer) = oneshot::channel();
            self.settle(vec![Settle { token, outcome }], move |answer| {
                // The broker ends: the lease ends with it.
                let _ = sender.send(answer);
            });
            let Ok(Ok(receipt)) = answer.await else {
                return tracing::warn!(task = token.task.0, "cannot settle a task");
            };
            match receipt.value.into_iter().next() {
                Some(Err(Refusal::Invalid { field, problem })) => {
                    outcome = Outcome::Reject { error: format!("{field}: {problem}") };
                }
                Some(Err(refusal)) => {
                    return tracing::info!(task = token.task.0, %refusal, "a result is not taken");
                }
                Some(Ok(settled)) => {
                    debug_assert!(settled.state != State::Leased, "it was settled");
                    return;
                }
                None => return,
            }
        }
    }
}

/// What becomes of a task that was called for.
enum Verdict {
    Settle(Outcome),
    Release(&'static str),
    /// The lease is not ours any more, or the broker ends.
    Lost,
}

/// A call to be made for a task.
struct Errand {
    service: String,
    body: Bytes,
    /// The result is the reply's frames as they stand on the wire.
    keeps_frames: bool,
}

impl Errand {
    fn new(lease: Lease) -> Option<Errand> {
        if let Some(service) = titanic::service_of(&lease.task_type) {
            let service = service.to_owned();
            return Some(Errand { service, body: lease.payload.into(), keeps_frames: true });
        }
        let to = lease.attributes.into_iter().rev().find(|(name, _)| name == "to");
        let mut body = Vec::with_capacity(lease.payload.len() + 9);
        zmtp::put_frame(&mut body, false, &lease.payload);
        Some(Errand { service: to?.1, body: body.into(), keeps_frames: false })
    }
}

/// A reply whose worker says that it failed is a failed attempt.
fn judge(frames: &[u8], keeps_frames: bool) -> Verdict {
    let mut bodies = zmtp::raw_frames(frames).map(|(_, frame)| frame);
    if zmtp::raw_frames(frames).next().is_some_and(|(_, first)| first == sessions::FAILED) {
        let error = bodies.nth(1).unwrap_or_default();
        let error = String::from_utf8_lossy(error).into_owned();
        return Verdict::Settle(Outcome::Fail { error, retry_after_ms: None });
    }
    let result = if keeps_frames { frames.to_vec() } else { bodies.collect::<Vec<_>>().concat() };
    Verdict::Settle(Outcome::Complete(result))
}
