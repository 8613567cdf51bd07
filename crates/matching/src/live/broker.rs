//! A broker to await.
//!
//! One lock, held for as long as a call of the core takes. Whoever waits is told at a place of
//! [`Seats`]. Wakers are called, and what strangers brought is dropped, only once the lock is
//! released, because either may call the broker again.

use alloc::vec::Vec;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use tokio::sync::Notify;
use tokio::task::coop;
use tokio::time::Instant;

use super::seats::{Seat, Seats};
use super::{Clock, Go, Shed, Timed, drive, shed};
use crate::broker::{Broker as Core, Drops, Match, Outcome};
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
    /// Matches so far of which one side stopped waiting in the very moment it was matched: what
    /// the other side brought was dropped.
    pub abandoned: u64,
}

/// Times to step back before sleeping on the lock: about 1,000 pauses in all, some 20 us.
const STEPS_BACK: u32 = 7;

type Answer<P> = Result<Go<P>, Shed>;

/// A value that waits, and the place at which its owner is told.
#[derive(Debug)]
struct Waiter<V> {
    value: V,
    place: usize,
}

type Seated<A, R> = Match<Waiter<A>, Waiter<R>>;
type Left<A, R> = Drops<Waiter<A>, Waiter<R>>;

#[derive(Debug)]
struct State<A, R> {
    core: Core<Waiter<A>, Waiter<R>>,
    drops: Left<A, R>,
    /// Where asks are told.
    asks: Seats<Answer<R>>,
    /// Where `ask_r`s are told.
    ask_rs: Seats<Answer<A>>,
    /// The time of the last call: what several threads read from a clock comes out of order.
    now: Time,
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
            asks: Seats::new(),
            ask_rs: Seats::new(),
            now: Time::ZERO,
            armed: Time::MAX,
            closed: false,
            counts: Snapshot::default(),
        };
        let (clock, wake) = (Clock(Instant::now()), Arc::new(Notify::new()));
        let shared = Arc::new(Shared { clock, wake: Arc::clone(&wake), state: Mutex::new(state) });
        tokio::spawn(drive(Arc::downgrade(&shared), wake));
        Ok(Broker { shared })
    }

    /// Waits for an `ask_r`. Whoever drops the future is withdrawn.
    ///
    /// # Errors
    /// Says why it was turned away.
    pub async fn ask(&self, value: A) -> Result<Go<R>, Shed> {
        self.wait::<Ask>(value, None).await
    }

    /// Waits for an ask. Whoever drops the future is withdrawn.
    ///
    /// # Errors
    /// Says why it was turned away.
    pub async fn ask_r(&self, value: R) -> Result<Go<A>, Shed> {
        self.wait::<AskR>(value, None).await
    }

    /// Waits for an `ask_r`, but not beyond `deadline`.
    ///
    /// # Errors
    /// Says why it was turned away.
    pub async fn ask_deadline(&self, value: A, deadline: Instant) -> Result<Go<R>, Shed> {
        self.wait::<Ask>(value, Some(deadline)).await
    }

    /// Waits for an ask, but not beyond `deadline`.
    ///
    /// # Errors
    /// Says why it was turned away.
    pub async fn ask_r_deadline(&self, value: R, deadline: Instant) -> Result<Go<A>, Shed> {
        self.wait::<AskR>(value, Some(deadline)).await
    }

    /// Meets an `ask_r` that waits, or nobody.
    ///
    /// # Errors
    /// Hands the value back when nobody waits.
    pub fn try_ask(&self, value: A) -> Result<Go<R>, A> {
        self.shared.meet::<Ask>(value)
    }

    /// Meets an ask that waits, or nobody.
    ///
    /// # Errors
    /// Hands the value back when nobody waits.
    pub fn try_ask_r(&self, value: R) -> Result<Go<A>, R> {
        self.shared.meet::<AskR>(value)
    }

    /// Changes both lines, or neither if one of the two makes no sense. Nobody who waits is lost
    /// or overtaken, except those over a new `max`.
    ///
    /// # Errors
    /// What is wrong.
    pub fn reconfigure(&self, asks: QueueConfig, ask_rs: QueueConfig) -> Result<(), ConfigError> {
        let (mut state, now) = self.shared.enter();
        let State { core, drops, .. } = &mut *state;
        let told = core.try_reconfigure(now, asks, ask_rs, drops);
        self.shared.leave(state, now, None);
        told
    }

    /// Turns everybody away, who waits and who comes, as [`Reason::Draining`].
    pub fn close(&self) {
        let (mut state, now) = self.shared.enter();
        state.closed = true;
        let State { core, drops, .. } = &mut *state;
        core.drain(drops);
        self.shared.leave(state, now, None);
    }

    /// How the broker stands.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (state, now) = self.shared.enter();
        let (asks, ask_rs) = (state.core.asks().len(), state.core.ask_rs().len());
        let oldest = state.oldest().map_or(Span::ZERO, |oldest| now - oldest);
        Snapshot { asks, ask_rs, oldest, ..state.counts }
    }

    fn wait<H: Half<A, R>>(&self, value: H::Own, until: Option<Instant>) -> Wait<'_, A, R, H> {
        let until = until.map_or(Time::MAX, |until| self.shared.clock.time(until));
        Wait { shared: &self.shared, step: Step::Fresh(value, until) }
    }
}

/// Somebody who waits, or is about to.
struct Wait<'a, A, R, H: Half<A, R>> {
    shared: &'a Shared<A, R>,
    step: Step<H::Own, H::Other>,
}

/// How far it came.
enum Step<V, P> {
    /// It was never polled. What it brings, and until when.
    Fresh(V, Time),
    /// It stands in the line, or left it and was told.
    Waits(usize, Key),
    /// It was told.
    Told(Answer<P>),
    Done,
}

/// Nothing in it is pinned.
impl<A, R, H: Half<A, R>> Unpin for Wait<'_, A, R, H> {}

impl<A, R, H: Half<A, R>> Future for Wait<'_, A, R, H> {
    type Output = Answer<H::Other>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        // Whoever meets somebody at once, again and again, lets others run now and then.
        let budget = ready!(coop::poll_proceed(cx));
        let step = match core::mem::replace(&mut this.step, Step::Done) {
            Step::Fresh(value, until) => this.shared.ask::<H>(value, until, cx.waker()),
            Step::Waits(place, key) => {
                let heard = H::seats(&mut this.shared.lock()).listen(place, cx.waker());
                match heard.0 {
                    Poll::Ready(answer) => Step::Told(answer),
                    Poll::Pending => Step::Waits(place, key),
                }
            }
            step @ (Step::Told(_) | Step::Done) => step,
        };
        match step {
            Step::Told(answer) => {
                budget.made_progress();
                Poll::Ready(answer)
            }
            Step::Done => panic!("polled after it was told"),
            step @ (Step::Fresh(..) | Step::Waits(..)) => {
                this.step = step;
                Poll::Pending
            }
        }
    }
}

impl<A, R, H: Half<A, R>> Drop for Wait<'_, A, R, H> {
    fn drop(&mut self) {
        let Step::Waits(place, key) = self.step else { return };
        let (mut state, now) = self.shared.enter();
        let seat = H::seats(&mut state).leave(place);
        let State { core, drops, counts, .. } = &mut *state;
        let value = match seat {
            Seat::Taken(_) => H::cancel(core, now, key, drops),
            Seat::Free(_) | Seat::Told(_) => None,
        };
        counts.abandoned += u64::from(matches!(seat, Seat::Told(Ok(_))));
        self.shared.leave(state, now, None);
        drop((seat, value));
    }
}

/// What differs between the two sides.
trait Half<A, R> {
    /// What it brings.
    type Own;
    /// What the other side brings.
    type Other;

    /// Where it is told.
    fn seats(state: &mut State<A, R>) -> &mut Seats<Answer<Self::Other>>;

    /// Meets the other side or waits.
    fn ask(
        core: &mut Core<Waiter<A>, Waiter<R>>,
        now: Time,
        waiter: Waiter<Self::Own>,
        drops: &mut Left<A, R>,
    ) -> Outcome<Waiter<A>, Waiter<R>>;

    /// Meets the other side or nobody.
    fn try_ask(
        core: &mut Core<Waiter<A>, Waiter<R>>,
        now: Time,
        waiter: Waiter<Self::Own>,
        drops: &mut Left<A, R>,
    ) -> Result<Seated<A, R>, Waiter<Self::Own>>;

    /// Leaves the line.
    fn cancel(
        core: &mut Core<Waiter<A>, Waiter<R>>,
        now: Time,
        key: Key,
        drops: &mut Left<A, R>,
    ) -> Option<Waiter<Self::Own>>;

    /// Has a deadline.
    fn expire_at(core: &mut Core<Waiter<A>, Waiter<R>>, key: Key, until: Time);

    /// Tells the other side, which waited, and says whom to wake.
    fn settle(
        state: &mut State<A, R>,
        now: Time,
        met: Seated<A, R>,
    ) -> (Go<Self::Other>, Option<Waker>);
}

/// The asking side.
struct Ask;

/// The side that asks back.
struct AskR;

impl<A, R> Half<A, R> for Ask {
    type Own = A;
    type Other = R;

    fn seats(state: &mut State<A, R>) -> &mut Seats<Answer<R>> {
        &mut state.asks
    }

    fn ask(
        core: &mut Core<Waiter<A>, Waiter<R>>,
        now: Time,
        waiter: Waiter<A>,
        drops: &mut Left<A, R>,
    ) -> Outcome<Waiter<A>, Waiter<R>> {
        core.ask(now, now, waiter, drops)
    }

    fn try_ask(
        core: &mut Core<Waiter<A>, Waiter<R>>,
        now: Time,
        waiter: Waiter<A>,
        drops: &mut Left<A, R>,
    ) -> Result<Seated<A, R>, Waiter<A>> {
        core.try_ask(now, now, waiter, drops)
    }

    fn cancel(
        core: &mut Core<Waiter<A>, Waiter<R>>,
        now: Time,
        key: Key,
        drops: &mut Left<A, R>,
    ) -> Option<Waiter<A>> {
        core.cancel(now, key, drops)
    }

    fn expire_at(core: &mut Core<Waiter<A>, Waiter<R>>, key: Key, until: Time) {
        core.expire_at(key, until);
    }

    fn settle(state: &mut State<A, R>, now: Time, met: Seated<A, R>) -> (Go<R>, Option<Waker>) {
        let (own, other, place) = halves(now, met);
        (own, state.ask_rs.tell(place.1, Ok(other)))
    }
}

impl<A, R> Half<A, R> for AskR {
    type Own = R;
    type Other = A;

    fn seats(state: &mut State<A, R>) -> &mut Seats<Answer<A>> {
        &mut state.ask_rs
    }

    fn ask(
        core: &mut Core<Waiter<A>, Waiter<R>>,
        now: Time,
        waiter: Waiter<R>,
        drops: &mut Left<A, R>,
    ) -> Outcome<Waiter<A>, Waiter<R>> {
        core.ask_r(now, now, waiter, drops)
    }

    fn try_ask(
        core: &mut Core<Waiter<A>, Waiter<R>>,
        now: Time,
        waiter: Waiter<R>,
        drops: &mut Left<A, R>,
    ) -> Result<Seated<A, R>, Waiter<R>> {
        core.try_ask_r(now, now, waiter, drops)
    }

    fn cancel(
        core: &mut Core<Waiter<A>, Waiter<R>>,
        now: Time,
        key: Key,
        drops: &mut Left<A, R>,
    ) -> Option<Waiter<R>> {
        core.cancel_r(now, key, drops)
    }

    fn expire_at(core: &mut Core<Waiter<A>, Waiter<R>>, key: Key, until: Time) {
        core.expire_at_r(key, until);
    }

    fn settle(state: &mut State<A, R>, now: Time, met: Seated<A, R>) -> (Go<A>, Option<Waker>) {
        let (other, own, place) = halves(now, met);
        (own, state.asks.tell(place.0, Ok(other)))
    }
}

/// What the asking half is told, what the other half is told, and at which places.
fn halves<A, R>(now: Time, met: Seated<A, R>) -> (Go<R>, Go<A>, (usize, usize)) {
    let (relative, relative_r) = (met.relative(), met.relative_r());
    let (sojourn, sojourn_r) = (met.ask.sojourn(now), met.ask_r.sojourn(now));
    let Match { ask, ask_r } = met;
    (
        Go { value: ask_r.value.value, relative, sojourn },
        Go { value: ask.value.value, relative: relative_r, sojourn: sojourn_r },
        (ask.value.place, ask_r.value.place),
    )
}

impl<A, R> State<A, R> {
    fn oldest(&self) -> Option<Time> {
        self.core.asks().oldest().or(self.core.ask_rs().oldest())
    }

    fn count(&mut self, reason: Reason) {
        match reason {
            Reason::QueueFull => self.counts.queue_full += 1,
            Reason::Expired => self.counts.expired += 1,
            Reason::Overload => self.counts.overload += 1,
            Reason::Draining => {}
        }
    }

    /// Why somebody need not even come in.
    fn refuse(&self, now: Time, until: Time) -> Option<Reason> {
        match (self.closed, until <= now) {
            (true, _) => Some(Reason::Draining),
            (false, true) => Some(Reason::Expired),
            (false, false) => None,
        }
    }

    /// Tells whom the core dropped; says whom to wake.
    fn tell(&mut self, now: Time, left: &Left<A, R>) -> Vec<Waker> {
        let oldest = self.oldest();
        let mut wakers = Vec::with_capacity(left.asks.len() + left.ask_rs.len());
        for dropped in &left.asks {
            self.count(dropped.reason);
            let answer = Err(shed(dropped, now, oldest));
            wakers.extend(self.asks.tell(dropped.value.place, answer));
        }
        for dropped in &left.ask_rs {
            self.count(dropped.reason);
            let answer = Err(shed(dropped, now, oldest));
            wakers.extend(self.ask_rs.tell(dropped.value.place, answer));
        }
        wakers
    }
}

impl<A, R> Shared<A, R> {
    /// Whoever finds the lock held steps back, longer each time, before it sleeps on it: calls are
    /// far shorter than a sleep, and the thread that holds the lock has its lines at hand.
    fn lock(&self) -> MutexGuard<'_, State<A, R>> {
        for tries in 0..STEPS_BACK {
            match self.state.try_lock() {
                Ok(state) => return state,
                Err(TryLockError::Poisoned(state)) => return state.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
            for _ in 0..(8 << tries) {
                core::hint::spin_loop();
            }
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call.
    fn enter(&self) -> (MutexGuard<'_, State<A, R>>, Time) {
        let now = self.clock.now();
        let mut state = self.lock();
        state.now = state.now.max(now);
        let now = state.now;
        (state, now)
    }

    /// Ends a call: has the task come in time, tells who was dropped, releases the lock, and then
    /// wakes whoever was told.
    fn leave(&self, mut state: MutexGuard<'_, State<A, R>>, now: Time, met: Option<Waker>) {
        if let Some(due) = state.core.deadline().filter(|due| *due < state.armed) {
            state.armed = due;
            self.wake.notify_one();
        }
        if state.drops.is_empty() {
            drop(state);
        } else {
            let left = core::mem::take(&mut state.drops);
            let wakers = state.tell(now, &left);
            drop(state);
            wakers.into_iter().for_each(Waker::wake);
        }
        if let Some(waker) = met {
            waker.wake();
        }
    }

    /// Meets the other side, is turned away or waits.
    fn ask<H: Half<A, R>>(
        &self,
        value: H::Own,
        until: Time,
        waker: &Waker,
    ) -> Step<H::Own, H::Other> {
        let (mut state, now) = self.enter();
        if let Some(reason) = state.refuse(now, until) {
            state.count(reason);
            return Step::Told(Err(Shed { reason, sojourn: Span::ZERO, retry_after: Span::ZERO }));
        }
        let place = H::seats(&mut state).vacant();
        let State { core, drops, .. } = &mut *state;
        match H::ask(core, now, Waiter { value, place }, drops) {
            Outcome::Matched(met) => {
                state.counts.matched += 1;
                let (go, other) = H::settle(&mut state, now, met);
                self.leave(state, now, other);
                Step::Told(Ok(go))
            }
            Outcome::Waiting(key) => {
                H::expire_at(core, key, until);
                H::seats(&mut state).take(Some(waker.clone()));
                self.leave(state, now, None);
                Step::Waits(place, key)
            }
            Outcome::Dropped => {
                // It is told where the others are.
                H::seats(&mut state).take(None);
                self.leave(state, now, None);
                match H::seats(&mut self.lock()).leave(place) {
                    Seat::Told(answer) => Step::Told(answer),
                    Seat::Free(_) | Seat::Taken(_) => unreachable!("it was dropped"),
                }
            }
        }
    }

    /// Meets the other side or nobody.
    fn meet<H: Half<A, R>>(&self, value: H::Own) -> Result<Go<H::Other>, H::Own> {
        let (mut state, now) = self.enter();
        let State { core, drops, .. } = &mut *state;
        // It never stands in the line, so nobody tells it anything.
        let waiter = Waiter { value, place: usize::MAX };
        match H::try_ask(core, now, waiter, drops) {
            Ok(met) => {
                state.counts.matched += 1;
                let (go, other) = H::settle(&mut state, now, met);
                self.leave(state, now, other);
                Ok(go)
            }
            Err(waiter) => {
                self.leave(state, now, None);
                Err(waiter.value)
            }
        }
    }
}

impl<A: Send + 'static, R: Send + 'static> Timed for Shared<A, R> {
    fn tick(self: &Arc<Self>) -> Option<Instant> {
        let (mut state, now) = self.enter();
        let State { core, drops, armed, .. } = &mut *state;
        core.tick(now, drops);
        *armed = core.deadline().unwrap_or(Time::MAX);
        let due = core.deadline().and_then(|due| self.clock.instant(due));
        self.leave(state, now, None);
        due
    }
}

impl<A, R> Drop for Shared<A, R> {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}
