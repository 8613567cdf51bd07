//! A broker to await.
//!
//! One lock, held for as long as a call of the core takes. Whoever waits is told at a place of
//! [`Seats`]. Wakers are called, and what strangers brought is dropped, only once the lock is
//! released, because either may call the broker again.

use alloc::vec::Vec;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker, ready};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::task::coop;
use tokio::time::Instant;

use super::seats::{Seat, Seats};
use super::{Clock, Go, Shed, Sheds, Timed, drive, patient, shed};
use crate::any::{AnyConfig, AnyLine};
use crate::broker::{Broker as Core, Drops, Match, Outcome};
use crate::line::{Flow, Line};
use crate::queue::{ConfigError, Key, Queue, QueueConfig, Reason};
use crate::time::{Span, Time};

mod halves;

use halves::{Ask, AskR, Half};
pub use halves::{Fair, Keep, Plain, Waiter};

/// Two sides that wait for each other. Clones are handles of the same broker.
///
/// The line of asks is plain, unless it is that of a [`FairBroker`].
pub struct Broker<A, R, K: Keep<A> = Plain> {
    shared: Arc<Shared<A, R, K>>,
}

/// A broker whose asks may take turns: what they bring names its [`Flow`], and each flow (a tenant,
/// a client) has a line of its own. Made by [`fair`](Broker::fair).
///
/// ```
/// use matching::live::{Broker, FairBroker};
/// use matching::{AnyConfig, Flow, QueueConfig, Span};
/// use std::num::NonZero;
///
/// struct Request { tenant: u64 }
///
/// impl Flow for Request {
///     fn flow(&self) -> u64 {
///         self.tenant
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let line = QueueConfig::aim(Span::from_millis(20), Span::from_millis(500)).with_max(1_000);
/// let requests = AnyConfig { flows: NonZero::new(256), ..line.into() };
/// let broker: FairBroker<Request, u32> = Broker::fair(requests, QueueConfig::default()).unwrap();
/// let (request, worker) = tokio::join!(broker.ask(Request { tenant: 3 }), broker.ask_r(7));
/// assert_eq!((request.unwrap().value, worker.unwrap().value.tenant), (7, 3));
/// # }
/// ```
pub type FairBroker<A, R> = Broker<A, R, Fair>;

impl<A, R, K: Keep<A>> Clone for Broker<A, R, K> {
    fn clone(&self) -> Broker<A, R, K> {
        Broker { shared: Arc::clone(&self.shared) }
    }
}

impl<A, R, K: Keep<A>> fmt::Debug for Broker<A, R, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").finish_non_exhaustive()
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
    /// Waiters of both sides turned away so far.
    pub shed: Sheds,
    /// Matches so far of which one side stopped waiting in the very moment it was matched: what
    /// the other side brought was dropped.
    pub abandoned: u64,
}

type Answer<P> = Result<Go<P>, Shed>;

type Seated<A, R> = Match<Waiter<A>, Waiter<R>>;
type Left<A, R> = Drops<Waiter<A>, Waiter<R>>;
type Seating<A, R, K> = Core<Waiter<A>, Waiter<R>, <K as Keep<A>>::Line, Queue<Waiter<R>>>;
type KeyOf<A, K> = <<K as Keep<A>>::Line as Line<Waiter<A>>>::Key;

struct State<A, R, K: Keep<A>> {
    core: Seating<A, R, K>,
    drops: Left<A, R>,
    /// Where asks are told.
    asks: Seats<KeyOf<A, K>, Answer<R>>,
    /// Where `ask_r`s are told.
    ask_rs: Seats<Key, Answer<A>>,
    /// The time of the last call: what several threads read from a clock comes out of order.
    now: Time,
    /// When the task comes next.
    armed: Time,
    closed: bool,
    counts: Snapshot,
}

struct Shared<A, R, K: Keep<A>> {
    clock: Clock,
    wake: Arc<Notify>,
    state: Mutex<State<A, R, K>>,
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
        Broker::with_asks(Queue::new(asks, Time::ZERO), ask_rs)
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
}

impl<A: Flow + Send + 'static, R: Send + 'static> FairBroker<A, R> {
    /// A broker nobody asked anything, whose asks take turns by [`Flow`] if `asks` says so. Call
    /// it inside a runtime.
    ///
    /// # Errors
    /// What is wrong with a configuration.
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub fn fair(asks: AnyConfig, ask_rs: QueueConfig) -> Result<FairBroker<A, R>, ConfigError> {
        asks.line.validate()?;
        Broker::with_asks(AnyLine::new(asks, Time::ZERO), ask_rs)
    }

    /// Changes both lines, or neither if one of the two makes no sense. A fair line may become
    /// plain, a plain one fair. Nobody who waits is lost or overtaken, except those over a new
    /// `max` and by the turns of others.
    ///
    /// # Errors
    /// What is wrong.
    pub fn reconfigure(&self, asks: AnyConfig, ask_rs: QueueConfig) -> Result<(), ConfigError> {
        let (mut state, now) = self.shared.enter();
        let State { core, drops, asks: seats, .. } = &mut *state;
        let told = core.try_reconfigure(now, asks, ask_rs, drops);
        // Whoever moved to another line has another key.
        for (key, waiter) in core.asks().entries() {
            seats.rekey(waiter.place, key);
        }
        self.shared.leave(state, now, None);
        told
    }
}

impl<A, R, K> Broker<A, R, K>
where
    A: Send + 'static,
    R: Send + 'static,
    K: Keep<A> + 'static,
    K::Line: Send,
{
    fn with_asks(asks: K::Line, ask_rs: QueueConfig) -> Result<Broker<A, R, K>, ConfigError> {
        ask_rs.validate()?;
        let state = State {
            core: Core::with_lines(asks, Queue::new(ask_rs, Time::ZERO)),
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

    fn wait<H: Half<A, R, K>>(
        &self,
        value: H::Own,
        until: Option<Instant>,
    ) -> Wait<'_, A, R, K, H> {
        let until = until.map_or(Time::MAX, |until| self.shared.clock.time(until));
        Wait { shared: &self.shared, step: Step::Fresh(value, until) }
    }
}

/// Somebody who waits, or is about to.
struct Wait<'a, A, R, K: Keep<A>, H: Half<A, R, K>> {
    shared: &'a Shared<A, R, K>,
    step: Step<H::Own, H::Other>,
}

/// How far it came.
enum Step<V, P> {
    /// It was never polled. What it brings, and until when.
    Fresh(V, Time),
    /// It has a place, at which it was told or not.
    Waits(usize),
    /// It was told.
    Told(Answer<P>),
    Done,
}

/// Nothing in it is pinned.
impl<A, R, K: Keep<A>, H: Half<A, R, K>> Unpin for Wait<'_, A, R, K, H> {}

impl<A, R, K: Keep<A>, H: Half<A, R, K>> Future for Wait<'_, A, R, K, H> {
    type Output = Answer<H::Other>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        // Whoever meets somebody at once, again and again, lets others run now and then.
        let budget = ready!(coop::poll_proceed(cx));
        let step = match core::mem::replace(&mut this.step, Step::Done) {
            Step::Fresh(value, until) => this.shared.ask::<H>(value, until, cx.waker()),
            Step::Waits(place) => {
                let mut state = patient(&this.shared.state);
                let heard = H::seats(&mut state).listen(place, cx.waker());
                drop(state);
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

impl<A, R, K: Keep<A>, H: Half<A, R, K>> Drop for Wait<'_, A, R, K, H> {
    fn drop(&mut self) {
        let Step::Waits(place) = self.step else { return };
        let (mut state, now) = self.shared.enter();
        let seat = H::seats(&mut state).leave(place);
        let State { core, drops, counts, .. } = &mut *state;
        let value = match &seat {
            Seat::Taken(Some((key, _))) => H::cancel(core, now, key, drops),
            Seat::Taken(None) | Seat::Free(_) | Seat::Told(_) => None,
        };
        counts.abandoned += u64::from(matches!(seat, Seat::Told(Ok(_))));
        self.shared.leave(state, now, None);
        drop((seat, value));
    }
}

impl<A, R, K: Keep<A>> State<A, R, K> {
    fn oldest(&self) -> Option<Time> {
        self.core.asks().oldest().or(self.core.ask_rs().oldest())
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
            self.counts.shed.count(dropped.reason);
            let answer = Err(shed(dropped, now, oldest));
            wakers.extend(self.asks.tell(dropped.value.place, answer));
        }
        for dropped in &left.ask_rs {
            self.counts.shed.count(dropped.reason);
            let answer = Err(shed(dropped, now, oldest));
            wakers.extend(self.ask_rs.tell(dropped.value.place, answer));
        }
        wakers
    }
}

impl<A, R, K: Keep<A>> Shared<A, R, K> {
    /// Begins a call.
    fn enter(&self) -> (MutexGuard<'_, State<A, R, K>>, Time) {
        let now = self.clock.now();
        let mut state = patient(&self.state);
        state.now = state.now.max(now);
        let now = state.now;
        (state, now)
    }

    /// Ends a call: has the task come in time, tells who was dropped, releases the lock, and then
    /// wakes whoever was told.
    fn leave(&self, mut state: MutexGuard<'_, State<A, R, K>>, now: Time, met: Option<Waker>) {
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
    fn ask<H: Half<A, R, K>>(
        &self,
        value: H::Own,
        until: Time,
        waker: &Waker,
    ) -> Step<H::Own, H::Other> {
        let (mut state, now) = self.enter();
        if let Some(reason) = state.refuse(now, until) {
            state.counts.shed.count(reason);
            return Step::Told(Err(Shed::at_once(reason)));
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
                H::expire_at(core, &key, until);
                H::seats(&mut state).take(Some((key, waker.clone())));
                self.leave(state, now, None);
                Step::Waits(place)
            }
            Outcome::Dropped => {
                // It is told where the others are.
                H::seats(&mut state).take(None);
                self.leave(state, now, None);
                let answer = H::seats(&mut patient(&self.state)).hear(place);
                Step::Told(answer)
            }
        }
    }

    /// Meets the other side or nobody.
    fn meet<H: Half<A, R, K>>(&self, value: H::Own) -> Result<Go<H::Other>, H::Own> {
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

impl<A, R, K> Timed for Shared<A, R, K>
where
    A: Send + 'static,
    R: Send + 'static,
    K: Keep<A> + 'static,
    K::Line: Send,
{
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

impl<A, R, K: Keep<A>> Drop for Shared<A, R, K> {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}
