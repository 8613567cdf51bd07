//! What a pool knows and does, under one lock. Wakers are called, resources and errors dropped,
//! and creations begun only once it is released, because each of them may call the pool again.

use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::num::NonZero;
use core::pin::pin;
use core::task::{Poll, Waker};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Manage, Past, PoolConfig, PoolSnapshot};
use crate::broker::{Broker, Drops, Match, Outcome};
use crate::live::seats::{Seat, Seats};
use crate::live::{Clock, Refused, Shed, Timed, Wakers, drive, patient, shed};
use crate::queue::{Dropped, Key, Reason};
use crate::time::{Span, Time};
use crate::valve::Valve;

/// How often a valve that listens hears how long clients wait while nobody meets anybody: well
/// below what a new connection takes, and next to nothing of a processor.
const PULSE: Span = Span::from_millis(10);

/// A resource and its past.
pub(super) struct Entry<R> {
    pub(super) resource: R,
    made: Time,
    /// When it came back.
    back: Time,
    /// How often it was out.
    pub(super) uses: u64,
    /// It comes from its maker and need not be made ready.
    pub(super) fresh: bool,
}

impl<R> Entry<R> {
    pub(super) fn past(&self, now: Time) -> Past {
        Past { age: now - self.made, idle: now - self.back, uses: self.uses }
    }
}

/// What a client meets.
enum Offer<M: Manage> {
    Resource(Entry<M::Resource>),
    /// There is no resource, and none could be made.
    Failure(M::Error),
}

/// What a client is told.
pub(super) type Answer<M> = Result<Entry<<M as Manage>::Resource>, Refused<<M as Manage>::Error>>;

/// What is left to do once the lock is released.
struct After<M: Manage> {
    wakers: Wakers,
    /// Those who ended.
    ended: Vec<Offer<M>>,
    /// Resources to make.
    make: usize,
}

struct State<M: Manage> {
    config: PoolConfig,
    /// Who waits is the place at which it is told.
    core: Broker<usize, Offer<M>>,
    drops: Drops<usize, Offer<M>>,
    seats: Seats<Key, Answer<M>>,
    /// Counts the resources.
    valve: Valve,
    /// When the valve last heard how long clients wait.
    heard: Time,
    /// Of the resources, those that are being made.
    making: usize,
    /// How often none could be made since the last success, and when to try again.
    failures: u32,
    retry_at: Time,
    /// Grows with each client.
    rank: NonZero<u64>,
    /// The time of the last call: what several threads read from a clock comes out of order.
    now: Time,
    /// When the task comes next.
    armed: Time,
    closed: bool,
    counts: PoolSnapshot,
}

pub(super) struct Shared<M: Manage> {
    pub(super) manage: Arc<M>,
    clock: Clock,
    runtime: Handle,
    wake: Arc<Notify>,
    /// Told when nobody wants what is being made any more.
    gone: Arc<Notify>,
    /// Told when the pool is closed and no resource is left.
    pub(super) drained: Notify,
    state: Mutex<State<M>>,
}

/// Where a client stands.
pub(super) enum Asked<M: Manage> {
    /// At this place.
    Waits(usize),
    Told(Answer<M>),
}

impl<M: Manage> State<M> {
    fn new(config: PoolConfig) -> State<M> {
        State {
            config,
            core: Broker::new(config.clients, config.idle_line(), Time::ZERO),
            drops: Drops::default(),
            seats: Seats::new(),
            valve: Valve::new(config.valve(), 0, Time::ZERO),
            heard: Time::ZERO,
            making: 0,
            failures: 0,
            retry_at: Time::ZERO,
            rank: NonZero::<u64>::MIN,
            now: Time::ZERO,
            armed: Time::MAX,
            closed: false,
            counts: PoolSnapshot::default(),
        }
    }

    /// Tells the client who waits of a resource, or lets it wait for one, or ends it if there is
    /// no room for it any more.
    fn offer(&mut self, now: Time, entry: Entry<M::Resource>) -> Option<Waker> {
        if self.closed || self.valve.size() > self.config.size.max {
            let (value, reason) = (Offer::Resource(entry), Reason::Draining);
            self.drops.ask_rs.push(Dropped { value, send: now, reason });
            return None;
        }
        match self.core.ask_r(now, now, Offer::Resource(entry), &mut self.drops) {
            Outcome::Matched(met) => {
                self.heard = now;
                self.valve.update(now, met.relative_r());
                self.seat(met)
            }
            // Whoever was dropped is seen to with the others.
            Outcome::Waiting(_) | Outcome::Dropped => None,
        }
    }

    /// Tells a client who waited.
    fn seat(&mut self, met: Match<usize, Offer<M>>) -> Option<Waker> {
        let answer = match met.ask_r.value {
            Offer::Resource(entry) => {
                self.counts.given += 1;
                Ok(entry)
            }
            Offer::Failure(error) => Err(Refused::Failed(error)),
        };
        self.seats.tell(met.ask.value, answer)
    }

    /// The resource a client met that did not wait.
    fn take(&mut self, now: Time, met: Match<usize, Offer<M>>) -> Entry<M::Resource> {
        self.heard = now;
        self.valve.update(now, met.relative_r());
        self.counts.given += 1;
        let Offer::Resource(entry) = met.ask_r.value else {
            unreachable!("a failure does not wait for clients")
        };
        Entry { fresh: false, ..entry }
    }

    /// Tells the valve how long clients wait.
    fn listen(&mut self, now: Time) {
        if self.config.listens()
            && let Some(oldest) = self.core.asks().oldest()
        {
            self.heard = now;
            self.valve.update(now, oldest - now);
        }
    }

    /// Whether one more resource is to be made, if the valve is open.
    fn lacks(&self) -> bool {
        !self.closed
            && (self.valve.size() < self.config.size.min
                || self.core.asks().len() > self.making && self.valve.size() < self.config.size.max)
    }

    /// Sees to those the core dropped, and begins what has to be made.
    fn settle(&mut self, now: Time) -> After<M> {
        let mut after = After { wakers: Wakers::default(), ended: Vec::new(), make: 0 };
        if !self.drops.is_empty() {
            let oldest = self.core.asks().oldest();
            for dropped in self.drops.asks.drain(..) {
                self.counts.shed.count(dropped.reason);
                let answer = shed(&dropped, now, oldest);
                after.wakers.push(self.seats.tell(dropped.value, Err(Refused::Shed(answer))));
            }
            for dropped in self.drops.ask_rs.drain(..) {
                self.counts.retired += 1;
                self.valve.release(now, None);
                after.ended.push(dropped.value);
            }
        }
        while self.lacks() && self.retry_at <= now && self.valve.is_open(now) {
            self.valve.admit(now);
            self.making += 1;
            after.make += 1;
        }
        after
    }

    /// When the task has something to do.
    fn deadline(&self, now: Time) -> Option<Time> {
        let grow = self.lacks().then(|| {
            let opens = self.valve.deadline(now).unwrap_or(self.retry_at);
            let pulse = if self.config.listens() { self.heard + PULSE } else { Time::MAX };
            match (self.retry_at > now, self.valve.is_open(now)) {
                (true, _) => self.retry_at,
                (false, true) => now,
                (false, false) if opens > now => opens,
                (false, false) => pulse,
            }
        });
        let grow = grow.filter(|at| *at < Time::MAX);
        match (self.core.deadline(), grow) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (due, None) | (None, due) => due,
        }
    }

    fn is_drained(&self) -> bool {
        self.closed && self.valve.size() == 0
    }
}

impl<M: Manage> Shared<M> {
    pub(super) fn new(manage: M, config: PoolConfig) -> Arc<Shared<M>> {
        let wake = Arc::new(Notify::new());
        let shared = Arc::new(Shared {
            manage: Arc::new(manage),
            clock: Clock(Instant::now()),
            runtime: Handle::current(),
            wake: Arc::clone(&wake),
            gone: Arc::new(Notify::new()),
            drained: Notify::new(),
            state: Mutex::new(State::new(config)),
        });
        tokio::spawn(drive(Arc::downgrade(&shared), wake));
        let (state, now) = shared.enter();
        shared.leave(state, now);
        shared
    }

    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    pub(super) fn time(&self, instant: Instant) -> Time {
        self.clock.time(instant)
    }

    /// Begins a call.
    fn enter(&self) -> (MutexGuard<'_, State<M>>, Time) {
        let now = self.clock.now();
        let mut state = patient(&self.state);
        state.now = state.now.max(now);
        let now = state.now;
        (state, now)
    }

    /// Ends a call.
    fn leave(self: &Arc<Self>, mut state: MutexGuard<'_, State<M>>, now: Time) {
        let after = state.settle(now);
        self.release(state, now, after);
    }

    /// Has the task come in time, releases the lock, and then does the rest.
    fn release(self: &Arc<Self>, mut state: MutexGuard<'_, State<M>>, now: Time, after: After<M>) {
        if let Some(due) = state.deadline(now).filter(|due| *due < state.armed) {
            state.armed = due;
            self.wake.notify_one();
        }
        let drained = state.is_drained();
        drop(state);
        let After { wakers, ended, make } = after;
        wakers.wake();
        drop(ended);
        for _ in 0..make {
            self.make();
        }
        if drained {
            self.drained.notify_waiters();
        }
    }

    /// A client asks, or asks again from where it stood: since when, and what tells it from others
    /// who came then.
    pub(super) fn ask(
        self: &Arc<Self>,
        until: Time,
        stood: &mut Option<(Time, NonZero<u64>)>,
        waker: &Waker,
    ) -> Asked<M> {
        let (mut state, now) = self.enter();
        let refused = match (state.closed, until <= now) {
            (true, _) => Some(Reason::Draining),
            (false, true) => Some(Reason::Expired),
            (false, false) => None,
        };
        if let Some(reason) = refused {
            state.counts.shed.count(reason);
            let sojourn = stood.map_or(Span::ZERO, |(send, _)| now - send);
            self.leave(state, now);
            return Asked::Told(Err(Refused::Shed(Shed { sojourn, ..Shed::at_once(reason) })));
        }
        let State { core, drops, seats, rank, .. } = &mut *state;
        let place = seats.vacant();
        let outcome = match *stood {
            None => {
                *stood = Some((now, *rank));
                *rank = rank.saturating_add(1);
                core.ask(now, now, place, drops)
            }
            Some((send, rank)) => core.ask_again(now, send, rank, place, drops),
        };
        let entry = match outcome {
            Outcome::Matched(met) => Some(state.take(now, met)),
            Outcome::Waiting(key) => {
                core.expire_at(key, until);
                seats.take(Some((key, waker.clone())));
                state.listen(now);
                self.leave(state, now);
                return Asked::Waits(place);
            }
            Outcome::Dropped => None,
        };
        let (answer, after) = match entry {
            Some(entry) => (Ok(entry), state.settle(now)),
            None => {
                // It is told where the others are.
                state.seats.take(None);
                let after = state.settle(now);
                (state.seats.hear(place), after)
            }
        };
        self.release(state, now, after);
        Asked::Told(answer)
    }

    /// What a client was told at its place.
    pub(super) fn hear(&self, place: usize, waker: &Waker) -> Poll<Answer<M>> {
        let mut state = patient(&self.state);
        let (heard, before) = state.seats.listen(place, waker);
        drop(state);
        drop(before);
        heard
    }

    /// A client stopped waiting.
    pub(super) fn cancel(self: &Arc<Self>, place: usize) {
        let (mut state, now) = self.enter();
        let seat = state.seats.leave(place);
        let (mut gone, mut woken, mut unheard) = (None, None, None);
        match seat {
            Seat::Taken(Some((key, waker))) => {
                let State { core, drops, .. } = &mut *state;
                core.cancel(now, key, drops);
                gone = Some(waker);
            }
            Seat::Told(Ok(entry)) => {
                state.counts.abandoned += 1;
                woken = state.offer(now, entry);
            }
            Seat::Told(Err(Refused::Failed(error))) => unheard = Some(error),
            Seat::Told(Err(Refused::Shed(_))) | Seat::Taken(None) | Seat::Free(_) => {}
        }
        let mut after = state.settle(now);
        after.wakers.push(woken);
        self.release(state, now, after);
        drop(gone);
        if let Some(error) = unheard {
            self.manage.failed(error);
        }
    }

    /// An idle resource, if there is one.
    pub(super) fn take_idle(self: &Arc<Self>) -> Option<Entry<M::Resource>> {
        let (mut state, now) = self.enter();
        let State { core, drops, .. } = &mut *state;
        // It never stands in the line, so nobody tells it anything.
        let met = core.try_ask(now, now, usize::MAX, drops).ok();
        let entry = met.map(|met| state.take(now, met));
        self.leave(state, now);
        entry
    }

    /// A resource comes back whole.
    pub(super) fn give_back(self: &Arc<Self>, entry: Entry<M::Resource>) {
        let (mut state, now) = self.enter();
        let woken = state.offer(now, Entry { fresh: false, back: now, ..entry });
        let mut after = state.settle(now);
        after.wakers.push(woken);
        self.release(state, now, after);
    }

    /// A resource ended in the hands of who had it, or left for good.
    pub(super) fn discard(self: &Arc<Self>, entry: Option<Entry<M::Resource>>) {
        let (mut state, now) = self.enter();
        state.counts.discarded += 1;
        state.valve.release(now, None);
        self.leave(state, now);
        drop(entry);
    }

    pub(super) fn reconfigure(self: &Arc<Self>, config: PoolConfig) {
        let (mut state, now) = self.enter();
        state.config = config;
        state.valve.reconfigure(now, config.valve());
        let State { core, drops, .. } = &mut *state;
        core.reconfigure(now, config.clients, config.idle_line(), drops);
        let mut over = Vec::new();
        while state.valve.size() > config.size.max {
            let State { core, drops, .. } = &mut *state;
            let Ok(met) = core.try_ask(now, now, usize::MAX, drops) else { break };
            state.counts.retired += 1;
            state.valve.release(now, None);
            over.push(met.ask_r.value);
        }
        let mut after = state.settle(now);
        after.ended.extend(over);
        self.release(state, now, after);
    }

    pub(super) fn close(self: &Arc<Self>) {
        let (mut state, now) = self.enter();
        state.closed = true;
        let State { core, drops, .. } = &mut *state;
        core.drain(drops);
        self.leave(state, now);
        self.gone.notify_waiters();
    }

    pub(super) fn is_drained(&self) -> bool {
        patient(&self.state).is_drained()
    }

    pub(super) fn snapshot(&self) -> PoolSnapshot {
        let (state, now) = self.enter();
        let (asks, idle) = (state.core.asks(), state.core.ask_rs());
        PoolSnapshot {
            resources: state.valve.size(),
            idle: idle.len(),
            making: state.making,
            waiting: asks.len(),
            oldest: asks.oldest().map_or(Span::ZERO, |oldest| now - oldest),
            ..state.counts
        }
    }

    /// Makes a resource in a task of its own; it was counted already.
    fn make(self: &Arc<Self>) {
        let (birth, manage) = (Birth { shared: Arc::downgrade(self) }, Arc::clone(&self.manage));
        // Made here, so that it hears of what happens before the task runs.
        let gone = Arc::clone(&self.gone).notified_owned();
        self.runtime.spawn(async move {
            let (mut gone, mut create) = (pin!(gone), pin!(manage.create()));
            let made = poll_fn(|cx| match gone.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => create.as_mut().poll(cx).map(Some),
            });
            birth.end(made.await);
        });
    }

    /// What came of making a resource; `None` if that was cut short.
    fn born(self: &Arc<Self>, made: Option<Result<M::Resource, M::Error>>) {
        let (mut state, now) = self.enter();
        state.making -= 1;
        let (mut woken, mut unheard) = (None, None);
        match made {
            Some(Ok(resource)) => {
                state.counts.made += 1;
                (state.failures, state.retry_at) = (0, now);
                let entry = Entry { resource, made: now, back: now, uses: 0, fresh: true };
                woken = state.offer(now, entry);
            }
            failed @ (Some(Err(_)) | None) => {
                state.counts.failed += 1;
                // Those that were begun together fail together: that is one failure.
                if state.retry_at <= now {
                    state.failures = state.failures.saturating_add(1);
                    state.retry_at = now + state.config.pause(state.failures);
                }
                state.valve.release(now, None);
                unheard = failed.and_then(Result::err);
                if state.valve.size() == 0
                    && let Some(error) = unheard.take()
                {
                    let State { core, drops, .. } = &mut *state;
                    match core.try_ask_r(now, now, Offer::Failure(error), drops) {
                        Ok(met) => woken = state.seat(met),
                        Err(Offer::Failure(error)) => unheard = Some(error),
                        Err(Offer::Resource(_)) => unreachable!("no resource was offered"),
                    }
                }
            }
        }
        let mut after = state.settle(now);
        after.wakers.push(woken);
        self.release(state, now, after);
        if let Some(error) = unheard {
            self.manage.failed(error);
        }
    }
}

impl<M: Manage> Timed for Shared<M> {
    fn tick(self: &Arc<Self>) -> Option<Instant> {
        let (mut state, now) = self.enter();
        let State { core, drops, .. } = &mut *state;
        core.tick(now, drops);
        if state.heard + PULSE <= now {
            state.listen(now);
        }
        let after = state.settle(now);
        let due = state.deadline(now);
        state.armed = due.unwrap_or(Time::MAX);
        self.release(state, now, after);
        due.and_then(|due| self.clock.instant(due))
    }
}

impl<M: Manage> Drop for Shared<M> {
    fn drop(&mut self) {
        self.gone.notify_waiters();
        self.wake.notify_one();
    }
}

/// A resource that is being made. Whatever ends that, a panic included, is told to the pool.
struct Birth<M: Manage> {
    shared: Weak<Shared<M>>,
}

impl<M: Manage> Birth<M> {
    fn end(mut self, made: Option<Result<M::Resource, M::Error>>) {
        if let Some(shared) = core::mem::take(&mut self.shared).upgrade() {
            shared.born(made);
        }
    }
}

impl<M: Manage> Drop for Birth<M> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.born(None);
        }
    }
}
