//! The drone itself: one task of the runtime that hears everything, asks the rules and carries out
//! what they say.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use matching::{Span, Time};
use serde::{Deserialize, Serialize};
use store::{
    Claim, Error, Extend, Extended, Lease, Notice, Refusal, Release, Settle, Settled, Token,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::core::{Core, Effect, Job, PoolView, Report, Slot};
use crate::global::Global;
use crate::hand_in::HandIn;
use crate::journal::{Journal, Left};
use crate::plan::Plan;
use crate::worker::{self, Call, Handlers, Kit, Order, Said};

/// Everything a drone needs.
pub struct Setup {
    plan: Plan,
    global: Arc<dyn Global>,
    journal: Journal,
    left: Left,
    kit: Kit,
}

impl Setup {
    /// A drone that does what `plan` says, for tasks of `global`.
    pub fn new(plan: Plan, global: impl Global, journal: (Journal, Left)) -> Setup {
        let (journal, left) = journal;
        let kit = Kit { wrapper: Vec::new(), handlers: Handlers::new(), call: None };
        Setup { plan, global: Arc::new(global), journal, left, kit }
    }

    /// The program that starts workers in their limits: it calls [`crate::exec::run`] with what
    /// follows. Without one there are no limits, and workers may outlive a killed drone.
    #[must_use]
    pub fn wrapper(mut self, argv: Vec<String>) -> Setup {
        self.kit.wrapper = argv;
        self
    }

    /// Rust code for tasks, by the name that [`crate::plan::Work::Handler`] says.
    #[must_use]
    pub fn handler<F, R>(mut self, name: &str, handler: F) -> Setup
    where
        F: Fn(Arc<Job>) -> R + Send + Sync + 'static,
        R: Future<Output = Report> + Send + 'static,
    {
        self.kit.handlers.insert(name.into(), Arc::new(move |job| Box::pin(handler(job))));
        self
    }

    /// How services are called.
    #[must_use]
    pub fn services<F>(mut self, call: F) -> Setup
    where
        F: Fn(String, Arc<Job>) -> Pin<Box<dyn Future<Output = Report> + Send>>
            + Send
            + Sync
            + 'static,
    {
        let call: Call = Arc::new(call);
        self.kit.call = Some(call);
        self
    }
}

/// How a drone ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ended {
    /// Everything it had was finished or given back.
    Drained,
    /// Its time was over: so many tasks were cut short and given back.
    Cut(usize),
    /// The global queue stopped for good.
    Stopped(String),
}

/// What is to be seen of a drone.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    /// What it calls itself.
    pub alias: String,
    /// Its global queue.
    pub global: String,
    /// Why the global queue gave no answer the last time, if it did not.
    pub trouble: Option<String>,
    /// It claims no more and ends when it is done.
    pub draining: bool,
    /// Outcomes that are not handed in yet.
    pub outcomes: usize,
    /// Its task types.
    pub pools: Vec<PoolView>,
}

/// A drone at work. Dropping it ends it as a crash would: what it had is in the local queue.
pub struct Drone {
    control: Control,
    task: JoinHandle<Ended>,
}

/// Steers a drone. Cheap to clone.
#[derive(Clone)]
pub struct Control(mpsc::UnboundedSender<Input>);

enum Input {
    Claimed(usize, usize, Result<Vec<Lease>, Error>),
    Settled(Result<Vec<Result<Settled, Refusal>>, Error>),
    Extended(Vec<Token>, Result<Vec<Result<Extended, Refusal>>, Error>),
    Restored(Vec<Job>),
    Told(Vec<Notice>),
    Said(Slot, Said),
    Status(oneshot::Sender<Status>),
    Pause(String, bool, oneshot::Sender<bool>),
    Scale(String, usize, usize, oneshot::Sender<Result<(), String>>),
    Reload(Plan, oneshot::Sender<()>),
    Drain(Duration),
}

impl Drone {
    /// Starts it, inside a tokio runtime.
    #[must_use]
    pub fn start(setup: Setup) -> Drone {
        let (sender, inputs) = mpsc::unbounded_channel();
        let control = Control(sender.clone());
        let task = tokio::spawn(House::new(setup, sender).run(inputs));
        Drone { control, task }
    }

    /// Steers it.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// How it ends.
    pub async fn ended(&mut self) -> Ended {
        match (&mut self.task).await {
            Ok(ended) => ended,
            Err(error) => Ended::Stopped(format!("the drone itself failed: {error}")),
        }
    }
}

impl Drop for Drone {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Control {
    /// What is to be seen of it; `None` once it has ended.
    pub async fn status(&self) -> Option<Status> {
        let (sender, answer) = oneshot::channel();
        self.0.send(Input::Status(sender)).ok()?;
        answer.await.ok()
    }

    /// Gives no task of a type to workers until it is resumed. Whether there is such a type.
    pub async fn pause(&self, task_type: &str, paused: bool) -> bool {
        let (sender, answer) = oneshot::channel();
        let sent = self.0.send(Input::Pause(task_type.into(), paused, sender));
        sent.is_ok() && answer.await.unwrap_or(false)
    }

    /// Changes how many workers a type has.
    ///
    /// # Errors
    /// If there is no such type, the range makes no sense, or the drone has ended.
    pub async fn scale(&self, task_type: &str, min: usize, max: usize) -> Result<(), String> {
        let (sender, answer) = oneshot::channel();
        let gone = || Err("the drone has ended".to_owned());
        if self.0.send(Input::Scale(task_type.into(), min, max, sender)).is_err() {
            return gone();
        }
        answer.await.unwrap_or_else(|_| gone())
    }

    /// Goes by another plan from here on; the alias stays. Workers that do a type's tasks in
    /// another way now are replaced as they become idle.
    ///
    /// # Errors
    /// If the plan cannot be carried out, or the drone has ended: nothing changed.
    pub async fn reload(&self, plan: Plan) -> Result<(), String> {
        plan.validate().map_err(|bad| bad.to_string())?;
        let (sender, answer) = oneshot::channel();
        let gone = || "the drone has ended".to_owned();
        self.0.send(Input::Reload(plan, sender)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Claims no more, finishes what is begun, gives back the rest, and ends; after `grace` what
    /// still runs is cut short and given back too.
    pub fn drain(&self, grace: Duration) {
        // One that has ended is drained.
        let _ = self.0.send(Input::Drain(grace));
    }
}

struct House {
    plan: Plan,
    core: Core,
    global: Arc<dyn Global>,
    journal: Journal,
    left: Left,
    hand_in: HandIn,
    kit: Arc<Kit>,
    inputs: mpsc::UnboundedSender<Input>,
    workers: HashMap<Slot, mpsc::UnboundedSender<Order>>,
    begin: Instant,
    trouble: Option<String>,
    draining: Option<Instant>,
    cut: usize,
    stopped: Option<String>,
}

/// Inputs heard before the rest is looked at.
const TURN: usize = 1_024;

impl House {
    fn new(setup: Setup, inputs: mpsc::UnboundedSender<Input>) -> House {
        let Setup { plan, global, journal, left, kit } = setup;
        House {
            core: Core::new(&plan, Time::default()),
            global,
            journal,
            left,
            hand_in: HandIn::default(),
            kit: Arc::new(kit),
            inputs,
            workers: HashMap::new(),
            begin: Instant::now(),
            trouble: None,
            draining: None,
            cut: 0,
            stopped: None,
            plan,
        }
    }

    async fn run(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) -> Ended {
        let told = self.inputs.clone();
        // A queue outlives its drones: whoever no longer listens does not mind.
        let tell = move |notices: &[Notice]| drop(told.send(Input::Told(notices.to_vec())));
        self.global.notify(Box::new(tell));
        let mut effects = Vec::new();
        self.restore();
        self.core.start(self.now(), &mut effects);
        self.carry_out(&mut effects);

        let mut heard = Vec::with_capacity(TURN);
        loop {
            let wait = self.wait();
            // A timeout is a turn in which nothing was heard.
            let _ = tokio::time::timeout(wait, inputs.recv_many(&mut heard, TURN)).await;
            let now = self.now();
            for input in heard.drain(..) {
                self.hear(now, input, &mut effects);
            }
            if self.core.deadline() <= now {
                self.core.tick(now, &mut effects);
            }
            self.end_if_due(now, &mut effects);
            self.carry_out(&mut effects);
            if let Some(why) = self.stopped.take() {
                return Ended::Stopped(why);
            }
            if self.draining.is_some() && self.core.is_idle() && self.hand_in.is_empty() {
                self.dismiss(&mut inputs).await;
                return if self.cut == 0 { Ended::Drained } else { Ended::Cut(self.cut) };
            }
        }
    }

    fn now(&self) -> Time {
        let nanos = self.begin.elapsed().as_nanos();
        Time::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    fn wait(&self) -> Duration {
        let wait: Duration = (self.core.deadline() - self.now()).max(Span::ZERO).into();
        let others = [self.hand_in.deadline(), self.draining];
        let others = others.into_iter().flatten();
        let others = others.map(|at| at.saturating_duration_since(Instant::now()));
        others.fold(wait, Duration::min)
    }

    /// Hands in what an earlier life did, and goes on with what it had if the leases still hold.
    fn restore(&mut self) {
        let Left { jobs, outcomes } = std::mem::take(&mut self.left);
        for settle in outcomes {
            self.hand_in.push(settle);
        }
        if jobs.is_empty() {
            return;
        }
        tracing::info!(tasks = jobs.len(), "the local queue has tasks of an earlier life");
        let extends = jobs.iter().map(|job| self.extension(job.token, None)).collect();
        let inputs = self.inputs.clone();
        let reply = move |answer: Result<store::Receipt<Vec<Result<Extended, Refusal>>>, Error>| {
            // Without an answer the leases are as good as lost; they end by themselves.
            let answers = answer.map(|receipt| receipt.value).unwrap_or_default();
            let held = jobs.into_iter().zip(answers).filter(|(_, answer)| answer.is_ok());
            drop(inputs.send(Input::Restored(held.map(|(job, _)| job).collect())));
        };
        self.global.extend(extends, Box::new(reply));
    }

    fn extension(&self, token: Token, progress: Option<Vec<u8>>) -> Extend {
        let lease_ms = Some(self.plan.lease.as_millis().max(1) as u64);
        Extend { token, lease_ms, progress }
    }

    fn hear(&mut self, now: Time, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Claimed(pool, limit, answer) => {
                let leases = self.known(answer).unwrap_or_default();
                self.core.claimed(now, pool, limit, leases, out);
            }
            Input::Settled(answer) => {
                match &answer {
                    Ok(_) => self.answers(),
                    Err(error) => self.troubled(error),
                }
                self.hand_in.answered(Instant::now(), answer, &self.journal);
            }
            Input::Extended(tokens, answer) => {
                let Some(answers) = self.known(answer) else { return };
                for (token, answer) in tokens.into_iter().zip(answers) {
                    if let Err(refusal) = answer {
                        tracing::warn!(task = token.task.0, %refusal, "a task is no longer ours");
                        self.core.void(now, token, out);
                    }
                }
            }
            Input::Restored(jobs) => self.core.restored(now, jobs, out),
            Input::Told(notices) => {
                for notice in notices {
                    self.told(now, notice, out);
                }
            }
            Input::Said(slot, said) => self.said(now, slot, said, out),
            Input::Status(answer) => drop(answer.send(self.status(now))),
            Input::Pause(task_type, paused, answer) => {
                let known = self.core.pause(&task_type, paused, out);
                // Whoever asked may no longer wait.
                let _ = answer.send(known);
            }
            Input::Scale(task_type, min, max, answer) => {
                drop(answer.send(self.core.scale(now, &task_type, min, max, out)));
            }
            Input::Reload(plan, answer) => {
                self.core.reconfigure(now, &plan, out);
                self.plan = Plan { alias: self.plan.alias.clone(), ..plan };
                let _ = answer.send(());
            }
            Input::Drain(grace) => {
                let until = Instant::now() + grace;
                self.draining = Some(self.draining.map_or(until, |old| old.min(until)));
                self.core.drain(now, out);
            }
        }
    }

    fn told(&mut self, now: Time, notice: Notice, out: &mut Vec<Effect>) {
        match notice {
            Notice::Ready { task_type } => self.core.hint(Some(&task_type), out),
            Notice::Cancelled { token, .. } => self.core.void(now, token, out),
            Notice::Stopped { reason } => self.stopped = Some(reason),
            Notice::Ended { .. } | Notice::Damaged { .. } => {}
        }
    }

    fn said(&mut self, now: Time, slot: Slot, said: Said, out: &mut Vec<Effect>) {
        match said {
            Said::Ready => self.core.ready(now, slot, out),
            Said::Done { alive, report } => self.core.done(now, slot, alive, report, out),
            Said::Progress(token, octets) => {
                let octets = octets[..octets.len().min(store::limits::PROGRESS)].to_vec();
                self.extend(vec![self.extension(token, Some(octets))]);
            }
            Said::Died { ours, error } => {
                if !ours {
                    tracing::warn!(worker = %slot, error, "a worker ended");
                }
                self.workers.remove(&slot);
                self.core.died(now, slot, ours, &error, out);
            }
        }
    }

    /// The answer, unless there is none; says when that changes.
    fn known<T>(&mut self, answer: Result<T, Error>) -> Option<T> {
        match answer {
            Ok(value) => {
                self.answers();
                Some(value)
            }
            Err(error) => {
                self.troubled(&error);
                None
            }
        }
    }

    fn answers(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!(global = self.global.name(), "the global queue answers again");
        }
    }

    fn troubled(&mut self, error: &Error) {
        if let Error::Stopped(reason) = error {
            self.stopped = Some(reason.clone());
        }
        let error = error.to_string();
        if self.trouble.as_ref() != Some(&error) {
            tracing::warn!(global = self.global.name(), error, "the global queue does not answer");
            self.trouble = Some(error);
        }
    }

    fn status(&self, now: Time) -> Status {
        Status {
            alias: self.plan.alias.clone(),
            global: self.global.name(),
            trouble: self.trouble.clone(),
            draining: self.draining.is_some(),
            outcomes: self.hand_in.len(),
            pools: self.core.view(now),
        }
    }

    /// The time for an orderly end may be over.
    fn end_if_due(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.draining.is_none_or(|until| until > Instant::now()) {
            return;
        }
        self.cut += self.core.abandon(now, out);
        if !self.hand_in.is_empty() {
            // They stay in the local queue, for the next life.
            tracing::warn!(outcomes = self.hand_in.len(), "outcomes are not handed in");
            self.hand_in = HandIn::default();
        }
        for orders in self.workers.values() {
            let _ = orders.send(Order::Abort);
        }
    }

    fn carry_out(&mut self, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Claim { pool, limit } => self.claim(pool, limit),
                Effect::Start { slot, pool, after } => self.start(slot, pool, after),
                Effect::Run { slot, job } => self.order(slot, Order::Run(job)),
                Effect::Abort(slot) => self.order(slot, Order::Abort),
                Effect::Stop(slot) => self.order(slot, Order::Stop),
                Effect::Keep(job) | Effect::Link(job) => self.journal.held(job),
                Effect::Settle(token, outcome) => {
                    let settle = Settle { token, outcome };
                    self.journal.ended(settle.clone());
                    self.hand_in.push(settle);
                }
                Effect::Release(tokens) => self.release(tokens),
                Effect::Extend(tokens) => {
                    for batch in tokens.chunks(store::limits::BATCH) {
                        let extends = batch.iter().map(|token| self.extension(*token, None));
                        self.extend(extends.collect());
                    }
                }
                Effect::Forget(token) => self.journal.gone(token),
                Effect::GaveUp { pool, rest, error } => {
                    let task_type = &self.core.plan(pool).task_type;
                    tracing::error!(
                        task_type,
                        %rest,
                        error,
                        "workers keep ending: the type rests, its tasks go back"
                    );
                }
            }
        }
        if let Some(batch) = self.hand_in.take(Instant::now()) {
            let inputs = self.inputs.clone();
            let reply = move |answer: Result<store::Receipt<_>, Error>| {
                drop(inputs.send(Input::Settled(answer.map(|receipt| receipt.value))));
            };
            self.global.settle(batch, Box::new(reply));
        }
    }

    fn order(&self, slot: Slot, order: Order) {
        if let Some(orders) = self.workers.get(&slot) {
            // One that is ending says so by itself.
            let _ = orders.send(order);
        }
    }

    fn claim(&self, pool: usize, limit: usize) {
        let claim = Claim {
            types: vec![self.core.plan(pool).task_type.clone()],
            limit,
            lease_ms: Some(self.plan.lease.as_millis().max(1) as u64),
            worker: self.plan.alias.clone(),
        };
        let inputs = self.inputs.clone();
        let reply = move |answer: Result<store::Receipt<_>, Error>| {
            drop(inputs.send(Input::Claimed(pool, limit, answer.map(|receipt| receipt.value))));
        };
        self.global.claim(claim, Box::new(reply));
    }

    fn extend(&self, extends: Vec<Extend>) {
        let tokens = extends.iter().map(|extend| extend.token).collect();
        let inputs = self.inputs.clone();
        let reply = move |answer: Result<store::Receipt<_>, Error>| {
            drop(inputs.send(Input::Extended(tokens, answer.map(|receipt| receipt.value))));
        };
        self.global.extend(extends, Box::new(reply));
    }

    fn release(&self, tokens: Vec<Token>) {
        for token in &tokens {
            self.journal.gone(*token);
        }
        let releases = tokens.into_iter().map(|token| Release { token, after_ms: 0 }).collect();
        // Leases that are not given back end by themselves.
        self.global.release(releases, Box::new(|_| {}));
    }

    fn start(&mut self, slot: Slot, pool: usize, after: Span) {
        let (orders, inbox) = mpsc::unbounded_channel();
        self.workers.insert(slot, orders);
        let inputs = self.inputs.clone();
        let say = move |said| drop(inputs.send(Input::Said(slot, said)));
        let plan = Arc::new(self.core.plan(pool).clone());
        let name = format!("{}-{slot}", plan.task_type);
        tokio::spawn(worker::work(name, plan, self.kit.clone(), after.into(), inbox, say));
    }

    /// Ends the workers; they bound the time that takes themselves.
    async fn dismiss(&mut self, inputs: &mut mpsc::UnboundedReceiver<Input>) {
        for orders in self.workers.values() {
            let _ = orders.send(Order::Stop);
        }
        while !self.workers.is_empty() {
            if let Some(Input::Said(slot, Said::Died { .. })) = inputs.recv().await {
                self.workers.remove(&slot);
            }
        }
    }
}
