//! A broker to await.

use alloc::vec::Vec;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::{Clock, Go, Shed, Timed, drive, shed};
use crate::broker::{Broker as Core, Drops, Match, Outcome, Side};
use crate::queue::{ConfigError, Key, QueueConfig, Reason};
use crate::time::{Span, Time};

/// Two sides that wait for each other. Clones are handles of the same broker.
#[derive(Debug)]
pub struct Broker<A, R> {
    shared: Arc<Shared<A, R>>,
}

impl<A, R> Clone for Broker<A, R> {
    fn clone(&self) -> Broker<A, R> {
        Broker { shared: Arc::clone(&self.shared) }
    }
}

/// How a broker stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// Asks that wait.
    pub asks: usize,
    /// `ask_r`s that wait.
    pub ask_rs: usize,
    /// How long the oldest waiter has waited.
    pub oldest: Span,
    /// Matches so far.
    pub matched: u64,
    /// Waiters turned away so far, by reason.
    pub queue_full: u64,
    /// As above.
    pub expired: u64,
    /// As above.
    pub overload: u64,
}

type Answer<P> = Result<Go<P>, Shed>;

/// A value that waits, and whom to tell.
#[derive(Debug)]
struct Waiter<V, P> {
    value: V,
    /// `None` as long as it only tries.
    tell: Option<oneshot::Sender<Answer<P>>>,
}

#[derive(Debug)]
struct State<A, R> {
    core: Core<Waiter<A, R>, Waiter<R, A>>,
    drops: Drops<Waiter<A, R>, Waiter<R, A>>,
    /// When the task comes next.
    armed: Time,
    closed: bool,
    counts: Snapshot,
}

#[derive(Debug)]
struct Shared<A, R> {
    clock: Clock,
    wake: Arc<Notify>,
    state: Mutex<State<A, R>>,
}

/// What to tell once the lock is released.
struct News<A, R> {
    now: Time,
    oldest: Option<Time>,
    drops: Drops<Waiter<A, R>, Waiter<R, A>>,
}

impl<A: Send + 'static, R: Send + 'static> Broker<A, R> {
    /// A broker nobody asked anything. Call it inside a runtime.
    ///
    /// # Errors
    /// What is wrong with a configuration.
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub fn new(asks: QueueConfig, ask_rs: QueueConfig) -> Result<Broker<A, R>, ConfigError> {
        asks.validate()?;
        ask_rs.validate()?;
        let state = State {
            core: Core::new(asks, ask_rs, Time::ZERO),
            drops: Drops::default(),
            armed: Time::MAX,
            closed: false,
            counts: Snapshot::default(),
        };
        let (clock, wake) = (Clock(Instant::now()), Arc::new(Notify::new()));
        let shared = Arc::new(Shared { clock, wake: Arc::clone(&wake), state: Mutex::new(state) });
        tokio::spawn(drive(Arc::downgrade(&shared), wake));
        Ok(Broker { shared })
    }

    /// Waits for an `ask_r`.
    ///
    /// # Errors
    /// Says why it was turned away.
    pub async fn ask(&self, value: A) -> Result<Go<R>, Shed> {
        self.ask_until(value, None).await
    }

    /// Waits for an ask.
    ///
    /// # Errors
    /// Says why it was turned away.
    pub async fn ask_r(&self, value: R) -> Result<Go<A>, Shed> {
        self.ask_r_until(value, None).await
    }

    /// Waits for an `ask_r`, but not beyond `deadline`.
    ///
    /// # Errors
    /// Says why it was turned away.
    pub async fn ask_deadline(&self, value: A, deadline: Instant) -> Result<Go<R>, Shed> {
        self.ask_until(value, Some(deadline)).await
    }

    /// Waits for an ask, but not beyond `deadline`.
    ///
    /// # Errors
    /// Says why it was turned away.
    pub async fn ask_r_deadline(&self, value: R, deadline: Instant) -> Result<Go<A>, Shed> {
        self.ask_r_until(value, Some(deadline)).await
    }

    /// Meets an `ask_r` that waits, or nobody.
    ///
    /// # Errors
    /// Hands the value back when nobody waits.
    pub fn try_ask(&self, value: A) -> Result<Go<R>, A> {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let met = state.try_ask(now, Waiter { value, tell: None });
        self.shared.tell(state, now);
        met.map(|met| meet_ask(met, now)).map_err(|waiter| waiter.value)
    }

    /// Meets an ask that waits, or nobody.
    ///
    /// # Errors
    /// Hands the value back when nobody waits.
    pub fn try_ask_r(&self, value: R) -> Result<Go<A>, R> {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let met = state.try_ask_r(now, Waiter { value, tell: None });
        self.shared.tell(state, now);
        met.map(|met| meet_ask_r(met, now)).map_err(|waiter| waiter.value)
    }

    /// Changes both lines, or neither if one of the two makes no sense. Nobody who waits is lost
    /// or overtaken, except those over a new `max`.
    ///
    /// # Errors
    /// What is wrong.
    pub fn reconfigure(&self, asks: QueueConfig, ask_rs: QueueConfig) -> Result<(), ConfigError> {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let State { core, drops, .. } = &mut *state;
        let told = core.try_reconfigure(now, asks, ask_rs, drops);
        self.shared.tell(state, now);
        told
    }

    /// Turns everybody away, who waits and who comes, as [`Reason::Draining`].
    pub fn close(&self) {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        state.closed = true;
        let State { core, drops, .. } = &mut *state;
        core.drain(drops);
        self.shared.tell(state, now);
    }

    /// How the broker stands.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let now = self.shared.clock.now();
        let state = self.shared.lock();
        let (asks, ask_rs) = (state.core.asks().len(), state.core.ask_rs().len());
        let oldest = state.oldest().map_or(Span::ZERO, |oldest| now - oldest);
        Snapshot { asks, ask_rs, oldest, ..state.counts }
    }

    async fn ask_until(&self, value: A, deadline: Option<Instant>) -> Result<Go<R>, Shed> {
        match self.enter_ask(value, deadline) {
            Entered::Answered(answer) => answer,
            Entered::Waits(told, guard) => wait(told, guard).await,
        }
    }

    fn enter_ask(&self, value: A, deadline: Option<Instant>) -> Entered<'_, A, R, R> {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let waiter = match state.try_ask(now, Waiter { value, tell: None }) {
            Ok(met) => {
                self.shared.tell(state, now);
                return Entered::Answered(Ok(meet_ask(met, now)));
            }
            Err(waiter) => waiter,
        };
        let (tell, told) = oneshot::channel();
        let State { core, drops, closed, .. } = &mut *state;
        if *closed {
            return Entered::Answered(Err(closing()));
        }
        let outcome = core.ask(now, now, Waiter { tell: Some(tell), ..waiter }, drops);
        let guard = match outcome {
            Outcome::Waiting(key) => {
                if let Some(deadline) = deadline {
                    core.expire_at(key, self.shared.clock.time(deadline));
                }
                Some(Guard { shared: &self.shared, side: Side::Ask, key })
            }
            Outcome::Matched(_) | Outcome::Dropped => None,
        };
        self.shared.tell(state, now);
        Entered::Waits(told, guard)
    }

    async fn ask_r_until(&self, value: R, deadline: Option<Instant>) -> Result<Go<A>, Shed> {
        match self.enter_ask_r(value, deadline) {
            Entered::Answered(answer) => answer,
            Entered::Waits(told, guard) => wait(told, guard).await,
        }
    }

    fn enter_ask_r(&self, value: R, deadline: Option<Instant>) -> Entered<'_, A, R, A> {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let waiter = match state.try_ask_r(now, Waiter { value, tell: None }) {
            Ok(met) => {
                self.shared.tell(state, now);
                return Entered::Answered(Ok(meet_ask_r(met, now)));
            }
            Err(waiter) => waiter,
        };
        let (tell, told) = oneshot::channel();
        let State { core, drops, closed, .. } = &mut *state;
        if *closed {
            return Entered::Answered(Err(closing()));
        }
        let outcome = core.ask_r(now, now, Waiter { tell: Some(tell), ..waiter }, drops);
        let guard = match outcome {
            Outcome::Waiting(key) => {
                if let Some(deadline) = deadline {
                    core.expire_at_r(key, self.shared.clock.time(deadline));
                }
                Some(Guard { shared: &self.shared, side: Side::AskR, key })
            }
            Outcome::Matched(_) | Outcome::Dropped => None,
        };
        self.shared.tell(state, now);
        Entered::Waits(told, guard)
    }
}

/// What became of who came in.
enum Entered<'a, A, R, P> {
    /// It did not have to wait.
    Answered(Answer<P>),
    /// It waits, or was turned away and will hear of it.
    Waits(oneshot::Receiver<Answer<P>>, Option<Guard<'a, A, R>>),
}

fn closing() -> Shed {
    Shed { reason: Reason::Draining, sojourn: Span::ZERO, retry_after: Span::ZERO }
}

async fn wait<A, R, P>(
    told: oneshot::Receiver<Answer<P>>,
    guard: Option<Guard<'_, A, R>>,
) -> Answer<P> {
    let answer = told.await;
    if answer.is_ok() {
        // It left the line: nothing to withdraw.
        core::mem::forget(guard);
    }
    answer.unwrap_or_else(|_| Err(closing()))
}

/// Withdraws a waiter whose future is dropped.
struct Guard<'a, A, R> {
    shared: &'a Arc<Shared<A, R>>,
    side: Side,
    key: Key,
}

impl<A, R> Drop for Guard<'_, A, R> {
    fn drop(&mut self) {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let State { core, drops, .. } = &mut *state;
        match self.side {
            Side::Ask => drop(core.cancel(now, self.key, drops)),
            Side::AskR => drop(core.cancel_r(now, self.key, drops)),
        }
        self.shared.tell(state, now);
    }
}

fn meet_ask<A, R>(met: Match<Waiter<A, R>, Waiter<R, A>>, now: Time) -> Go<R> {
    let (relative, relative_r) = (met.relative(), met.relative_r());
    let (sojourn, sojourn_r) = (met.ask.sojourn(now), met.ask_r.sojourn(now));
    let other = Go { value: met.ask.value.value, relative: relative_r, sojourn: sojourn_r };
    if let Some(tell) = met.ask_r.value.tell {
        // Gone in this instant: its own business, as death after a match is.
        let _ = tell.send(Ok(other));
    }
    Go { value: met.ask_r.value.value, relative, sojourn }
}

fn meet_ask_r<A, R>(met: Match<Waiter<A, R>, Waiter<R, A>>, now: Time) -> Go<A> {
    let (relative, relative_r) = (met.relative(), met.relative_r());
    let (sojourn, sojourn_r) = (met.ask.sojourn(now), met.ask_r.sojourn(now));
    let other = Go { value: met.ask_r.value.value, relative, sojourn };
    if let Some(tell) = met.ask.value.tell {
        // As above.
        let _ = tell.send(Ok(other));
    }
    Go { value: met.ask.value.value, relative: relative_r, sojourn: sojourn_r }
}

type Seated<A, R> = Match<Waiter<A, R>, Waiter<R, A>>;

impl<A, R> State<A, R> {
    fn oldest(&self) -> Option<Time> {
        self.core.asks().oldest().or(self.core.ask_rs().oldest())
    }

    fn try_ask(&mut self, now: Time, one: Waiter<A, R>) -> Result<Seated<A, R>, Waiter<A, R>> {
        let met = self.core.try_ask(now, now, one, &mut self.drops)?;
        self.counts.matched += 1;
        Ok(met)
    }

    fn try_ask_r(&mut self, now: Time, one: Waiter<R, A>) -> Result<Seated<A, R>, Waiter<R, A>> {
        let met = self.core.try_ask_r(now, now, one, &mut self.drops)?;
        self.counts.matched += 1;
        Ok(met)
    }

    fn count(&mut self, reason: Reason) {
        match reason {
            Reason::QueueFull => self.counts.queue_full += 1,
            Reason::Expired => self.counts.expired += 1,
            Reason::Overload => self.counts.overload += 1,
            Reason::Draining => {}
        }
    }
}

impl<A, R> Shared<A, R> {
    fn lock(&self) -> MutexGuard<'_, State<A, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a call: has the task come in time, releases the lock, tells who was turned away.
    fn tell(&self, mut state: MutexGuard<'_, State<A, R>>, now: Time) {
        if let Some(due) = state.core.deadline().filter(|due| *due < state.armed) {
            state.armed = due;
            self.wake.notify_one();
        }
        if state.drops.is_empty() {
            return;
        }
        let reasons = state.drops.asks.iter().map(|drop| drop.reason);
        let reasons_r = state.drops.ask_rs.iter().map(|drop| drop.reason);
        let reasons: Vec<Reason> = reasons.chain(reasons_r).collect();
        for reason in reasons {
            state.count(reason);
        }
        let (drops, oldest) = (core::mem::take(&mut state.drops), state.oldest());
        drop(state);
        News { now, oldest, drops }.spread();
    }
}

impl<A, R> News<A, R> {
    fn spread(self) {
        let (now, oldest) = (self.now, self.oldest);
        for dropped in self.drops.asks {
            let answer = shed(&dropped, now, oldest);
            if let Some(tell) = dropped.value.tell {
                let _ = tell.send(Err(answer));
            }
        }
        for dropped in self.drops.ask_rs {
            let answer = shed(&dropped, now, oldest);
            if let Some(tell) = dropped.value.tell {
                let _ = tell.send(Err(answer));
            }
        }
    }
}

impl<A: Send + 'static, R: Send + 'static> Timed for Shared<A, R> {
    fn tick(self: &Arc<Self>) -> Option<Instant> {
        let now = self.clock.now();
        let mut state = self.lock();
        let State { core, drops, armed, .. } = &mut *state;
        core.tick(now, drops);
        *armed = core.deadline().unwrap_or(Time::MAX);
        let due = core.deadline().and_then(|due| self.clock.instant(due));
        self.tell(state, now);
        due
    }
}

impl<A, R> Drop for Shared<A, R> {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}
