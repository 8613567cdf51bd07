//! A regulator to await.
//!
//! One lock, held for as long as a call of the core takes. Whoever waits is told at a place of
//! [`Seats`], so that waiting costs no allocation; wakers are called once the lock is released.

use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker, ready};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::task::coop;
use tokio::time::Instant;

use super::seats::{Seat, Seats};
use super::{Clock, Shed, Sheds, Timed, Wakers, drive, patient, shed};
use crate::queue::{ConfigError, Key, QueueConfig, Reason};
use crate::regulator::{Admissions, GoOn, Lock, Regulator as Core};
use crate::time::{Span, Time};
use crate::valve::ValveConfig;

/// Says who may run. Clones are handles of the same regulator.
#[derive(Clone, Debug)]
pub struct Regulator {
    shared: Arc<Shared>,
}

/// The right to run. Dropping it gives it back: the work is done, or has failed if the holder
/// panics.
#[must_use = "it goes back when it is dropped"]
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    /// `None` once it went back.
    lock: Option<Lock>,
    relative: Span,
    sojourn: Span,
}

/// How a regulator stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RegulatorSnapshot {
    /// Permits that are out, those on their way to somebody who has not looked yet included.
    pub permits: usize,
    /// Those who wait for one.
    pub waiting: usize,
    /// How long the oldest of them has waited.
    pub oldest: Span,
    /// Whether one more may run at once.
    pub open: bool,
    /// Permits given out so far.
    pub admitted: u64,
    /// Permits so far whose asker stopped waiting in the very moment it got one: they went back
    /// at once.
    pub abandoned: u64,
    /// Those turned away so far.
    pub shed: Sheds,
}

/// What somebody is told who may run.
#[derive(Clone, Copy, Debug)]
struct Grant {
    lock: Lock,
    relative: Span,
    sojourn: Span,
}

type Answer = Result<Grant, Shed>;

#[derive(Debug)]
struct State {
    /// What waits is the place at which it is told.
    core: Core<usize>,
    out: Admissions<usize>,
    seats: Seats<Key, Answer>,
    /// The time of the last call: what several threads read from a clock comes out of order.
    now: Time,
    /// When the task comes next.
    armed: Time,
    closed: bool,
    counts: RegulatorSnapshot,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    wake: Arc<Notify>,
    /// Told when the regulator is closed and all permits are back.
    drained: Notify,
    state: Mutex<State>,
}

impl Regulator {
    /// A regulator nobody asked anything. Call it inside a runtime.
    ///
    /// # Errors
    /// What is wrong with a configuration.
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub fn new(queue: QueueConfig, valve: ValveConfig) -> Result<Regulator, ConfigError> {
        queue.validate()?;
        valve.validate()?;
        let state = State {
            core: Core::new(queue, valve, Time::ZERO),
            out: Admissions::default(),
            seats: Seats::new(),
            now: Time::ZERO,
            armed: Time::MAX,
            closed: false,
            counts: RegulatorSnapshot::default(),
        };
        let (clock, wake) = (Clock(Instant::now()), Arc::new(Notify::new()));
        let (drained, state) = (Notify::new(), Mutex::new(state));
        let shared = Arc::new(Shared { clock, wake: Arc::clone(&wake), drained, state });
        tokio::spawn(drive(Arc::downgrade(&shared), wake));
        Ok(Regulator { shared })
    }

    /// Waits until it may run. Whoever drops the future is withdrawn.
    ///
    /// # Errors
    /// Says why it was turned away.
    pub async fn acquire(&self) -> Result<Permit, Shed> {
        Acquire { shared: &self.shared, step: Step::Fresh(Time::MAX) }.await
    }

    /// Waits until it may run, but not beyond `deadline`.
    ///
    /// # Errors
    /// Says why it was turned away.
    pub async fn acquire_deadline(&self, deadline: Instant) -> Result<Permit, Shed> {
        let until = self.shared.clock.time(deadline);
        Acquire { shared: &self.shared, step: Step::Fresh(until) }.await
    }

    /// Runs at once, or not: `None`.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Permit> {
        self.shared.try_ask().map(|grant| self.shared.permit(grant))
    }

    /// How long the regulated side waits for its counterparty: see
    /// [`Valve::update`](crate::Valve::update).
    pub fn update(&self, value: Span) {
        self.shared.call(|core, now, out| core.update(now, value, out));
    }

    /// Changes line and valve, or neither if one of the two makes no sense. Nobody who waits is
    /// lost or overtaken, except those over a new `max`; permits stay out.
    ///
    /// # Errors
    /// What is wrong.
    pub fn reconfigure(&self, queue: QueueConfig, valve: ValveConfig) -> Result<(), ConfigError> {
        self.shared.call(|core, now, out| core.reconfigure(now, queue, valve, out))
    }

    /// Turns everybody away, who waits and who comes, as [`Reason::Draining`]. Permits stay out,
    /// but nobody may [go on](Permit::go_on).
    pub fn close(&self) {
        let (mut state, now) = self.shared.enter();
        state.closed = true;
        let State { core, out, .. } = &mut *state;
        core.drain(now, out);
        self.shared.leave(state, now);
    }

    /// Waits until the regulator is closed and all permits are back.
    pub async fn drained(&self) {
        loop {
            // Listens before it looks, so that nothing happens in between.
            let mut told = pin!(self.shared.drained.notified());
            told.as_mut().enable();
            if patient(&self.shared.state).is_drained() {
                return;
            }
            told.await;
        }
    }

    /// How the regulator stands.
    #[must_use]
    pub fn snapshot(&self) -> RegulatorSnapshot {
        let (mut state, now) = self.shared.enter();
        let wakers = state.settle(now);
        let core = &state.core;
        let snapshot = RegulatorSnapshot {
            permits: core.size(),
            waiting: core.len(),
            oldest: core.queue().oldest().map_or(Span::ZERO, |oldest| now - oldest),
            open: !state.closed && core.is_open(),
            ..state.counts
        };
        self.shared.release(state, wakers);
        snapshot
    }
}

impl Permit {
    /// How long it waited for the valve; negative: how long the valve had been open.
    #[must_use]
    pub fn relative(&self) -> Span {
        self.relative
    }

    /// How long it waited at all.
    #[must_use]
    pub fn sojourn(&self) -> Span {
        self.sojourn
    }

    /// Gives the permit back and says that the work failed; a circuit breaker counts it.
    pub fn failed(mut self) {
        self.give_back(Some(false));
    }

    /// Gives the permit back and says nothing of the work: it was never done, or cut short. A
    /// circuit breaker that probes takes it for a failure.
    pub fn lost(mut self) {
        self.give_back(None);
    }

    /// Whether to go on, as the valve sees it now. If not, the permit is gone already.
    #[must_use]
    pub fn go_on(mut self) -> Option<Permit> {
        let lock = self.lock?;
        let (mut state, now) = self.shared.enter();
        let (closed, State { core, out, .. }) = (state.closed, &mut *state);
        let told = if closed {
            core.lost(now, lock, out);
            GoOn::Stop
        } else {
            core.go_on(now, lock, out)
        };
        self.shared.leave(state, now);
        match told {
            GoOn::Go(opened) => {
                (self.relative, self.sojourn) = (opened - now, Span::ZERO);
                Some(self)
            }
            GoOn::Stop | GoOn::NotFound => {
                self.lock = None;
                None
            }
        }
    }

    /// With a report whether the work succeeded, or without one.
    fn give_back(&mut self, report: Option<bool>) {
        let Some(lock) = self.lock.take() else { return };
        self.shared.call(|core, now, out| match report {
            Some(ok) => core.done(now, lock, ok, out),
            None => core.lost(now, lock, out),
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back(Some(!std::thread::panicking()));
    }
}

/// Somebody who waits, or is about to.
struct Acquire<'a> {
    shared: &'a Arc<Shared>,
    step: Step,
}

/// How far it came.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It was never polled; until when it will wait.
    Fresh(Time),
    /// It has a place, at which it was told or not.
    Waits(usize),
    /// It was told.
    Told(Answer),
    Done,
}

impl Future for Acquire<'_> {
    type Output = Result<Permit, Shed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Whoever may run at once, again and again, lets others run now and then.
        let budget = ready!(coop::poll_proceed(cx));
        let step = match core::mem::replace(&mut self.step, Step::Done) {
            Step::Fresh(until) => self.shared.ask(until, cx.waker()),
            Step::Waits(place) => {
                let heard = patient(&self.shared.state).seats.listen(place, cx.waker());
                match heard.0 {
                    Poll::Ready(answer) => Step::Told(answer),
                    Poll::Pending => Step::Waits(place),
                }
            }
            step @ (Step::Told(_) | Step::Done) => step,
        };
        match step {
            Step::Told(answer) => {
                budget.made_progress();
                Poll::Ready(answer.map(|grant| self.shared.permit(grant)))
            }
            Step::Done => panic!("polled after it was told"),
            Step::Fresh(_) | Step::Waits(_) => {
                self.step = step;
                Poll::Pending
            }
        }
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        let Step::Waits(place) = self.step else { return };
        let (mut state, now) = self.shared.enter();
        let State { core, out, seats, counts, .. } = &mut *state;
        let seat = seats.leave(place);
        match &seat {
            Seat::Taken(Some((key, _))) => {
                core.cancel(now, *key, out);
            }
            Seat::Told(Ok(grant)) => {
                counts.abandoned += 1;
                core.lost(now, grant.lock, out);
            }
            Seat::Told(Err(_)) | Seat::Taken(None) | Seat::Free(_) => {}
        }
        self.shared.leave(state, now);
    }
}

impl State {
    /// Why somebody need not even come in.
    fn refuse(&self, now: Time, until: Time) -> Option<Reason> {
        match (self.closed, until <= now) {
            (true, _) => Some(Reason::Draining),
            (false, true) => Some(Reason::Expired),
            (false, false) => None,
        }
    }

    /// Tells everybody what came of a call; says whom to wake.
    fn settle(&mut self, now: Time) -> Wakers {
        let mut wakers = Wakers::default();
        let State { core, out, seats, counts, .. } = self;
        for admitted in out.admitted.drain(..) {
            counts.admitted += 1;
            let (relative, sojourn) = (admitted.relative(), admitted.sojourn(now));
            let grant = Grant { lock: admitted.lock, relative, sojourn };
            wakers.push(seats.tell(admitted.value, Ok(grant)));
        }
        let oldest = core.queue().oldest();
        // A valve that opens by time alone is known to admit nobody before.
        let opens = core.valve().deadline(now).map_or(Span::ZERO, |opens| opens - now);
        for dropped in out.dropped.drain(..) {
            counts.shed.count(dropped.reason);
            let mut answer = shed(&dropped, now, oldest);
            answer.retry_after = answer.retry_after.max(opens);
            wakers.push(seats.tell(dropped.value, Err(answer)));
        }
        wakers
    }

    fn is_drained(&self) -> bool {
        self.closed && self.core.size() == 0
    }
}

impl Shared {
    /// Begins a call. What the valve had to do by now is done before.
    fn enter(&self) -> (MutexGuard<'_, State>, Time) {
        let now = self.clock.now();
        let mut state = patient(&self.state);
        state.now = state.now.max(now);
        let now = state.now;
        let State { core, out, .. } = &mut *state;
        if core.deadline().is_some_and(|due| due <= now) {
            core.tick(now, out);
        }
        (state, now)
    }

    /// Ends a call: tells everybody what came of it, releases the lock, and then wakes whoever was
    /// told.
    fn leave(&self, mut state: MutexGuard<'_, State>, now: Time) {
        let wakers = state.settle(now);
        self.release(state, wakers);
    }

    /// Has the task come in time, releases the lock, and then wakes whoever was told.
    fn release(&self, mut state: MutexGuard<'_, State>, wakers: Wakers) {
        if let Some(due) = state.core.deadline().filter(|due| *due < state.armed) {
            state.armed = due;
            self.wake.notify_one();
        }
        let drained = state.is_drained();
        drop(state);
        wakers.wake();
        if drained {
            self.drained.notify_waiters();
        }
    }

    /// A whole call.
    fn call<T>(&self, call: impl FnOnce(&mut Core<usize>, Time, &mut Admissions<usize>) -> T) -> T {
        let (mut state, now) = self.enter();
        let State { core, out, .. } = &mut *state;
        let result = call(core, now, out);
        self.leave(state, now);
        result
    }

    /// Runs at once, is turned away or waits.
    fn ask(&self, until: Time, waker: &Waker) -> Step {
        let (mut state, now) = self.enter();
        if let Some(reason) = state.refuse(now, until) {
            state.counts.shed.count(reason);
            self.leave(state, now);
            return Step::Told(Err(Shed::at_once(reason)));
        }
        let State { core, out, seats, .. } = &mut *state;
        let place = seats.vacant();
        let key = core.ask(now, now, place, out);
        if let Some(key) = key {
            core.expire_at(key, until);
        }
        seats.take(key.map(|key| (key, waker.clone())));
        let wakers = state.settle(now);
        let step = match key {
            Some(_) => Step::Waits(place),
            None => Step::Told(state.seats.hear(place)),
        };
        self.release(state, wakers);
        step
    }

    /// Runs at once or not at all.
    fn try_ask(&self) -> Option<Grant> {
        let (mut state, now) = self.enter();
        let (closed, State { core, out, seats, .. }) = (state.closed, &mut *state);
        let place = seats.vacant();
        if closed || core.try_ask(now, now, place, out).is_err() {
            self.leave(state, now);
            return None;
        }
        seats.take(None);
        let wakers = state.settle(now);
        let answer = state.seats.hear(place);
        self.release(state, wakers);
        answer.ok()
    }

    fn permit(self: &Arc<Self>, grant: Grant) -> Permit {
        let Grant { lock, relative, sojourn } = grant;
        Permit { shared: Arc::clone(self), lock: Some(lock), relative, sojourn }
    }
}

impl Timed for Shared {
    fn tick(self: &Arc<Self>) -> Option<Instant> {
        let (mut state, now) = self.enter();
        let State { core, out, .. } = &mut *state;
        core.tick(now, out);
        let due = core.deadline();
        state.armed = due.unwrap_or(Time::MAX);
        self.leave(state, now);
        due.and_then(|due| self.clock.instant(due))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}
