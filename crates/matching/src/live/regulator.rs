//! A regulator to await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::{Clock, Shed, Timed, drive, shed};
use crate::queue::{ConfigError, Key, QueueConfig, Reason};
use crate::regulator::{Admissions, GoOn, Lock, Regulator as Core};
use crate::time::{Span, Time};
use crate::valve::ValveConfig;

/// Says who may run. Clones are handles of the same regulator.
#[derive(Clone, Debug)]
pub struct Regulator {
    shared: Arc<Shared>,
}

/// The right to run; it goes back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    /// Null once it went back.
    lock: Option<Lock>,
    /// How long it waited for the valve; negative: how long the valve had been open.
    relative: Span,
    /// How long it was in the house.
    sojourn: Span,
}

type Answer = Result<Permit, Shed>;

#[derive(Debug)]
struct State {
    core: Core<oneshot::Sender<Answer>>,
    out: Admissions<oneshot::Sender<Answer>>,
    /// When the task comes next.
    armed: Time,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    wake: Arc<Notify>,
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
        let core = Core::new(queue, valve, Time::ZERO);
        let state = State { core, out: Admissions::default(), armed: Time::MAX };
        let (clock, wake) = (Clock(Instant::now()), Arc::new(Notify::new()));
        let shared = Arc::new(Shared { clock, wake: Arc::clone(&wake), state: Mutex::new(state) });
        tokio::spawn(drive(Arc::downgrade(&shared), wake));
        Ok(Regulator { shared })
    }

    /// Waits until it may run.
    ///
    /// # Errors
    /// Says why it was turned away.
    pub async fn acquire(&self) -> Result<Permit, Shed> {
        let (tell, mut told) = oneshot::channel();
        let key = self.shared.with(|core, now, out| core.ask(now, now, tell, out));
        let mut guard = Guard { shared: &self.shared, key };
        let answer = (&mut told).await;
        guard.key = None;
        answer.unwrap_or(Err(Shed {
            reason: Reason::Draining,
            sojourn: Span::ZERO,
            retry_after: Span::ZERO,
        }))
    }

    /// Runs at once, or not: `None`.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Permit> {
        let (tell, mut told) = oneshot::channel();
        self.shared.with(|core, now, out| core.try_ask(now, now, tell, out)).ok()?;
        told.try_recv().ok()?.ok()
    }

    /// How long the regulated side waits for its counterparty: see
    /// [`Valve::update`](crate::Valve::update).
    pub fn update(&self, value: Span) {
        self.shared.with(|core, now, out| core.update(now, value, out));
    }

    /// Changes line and valve, or neither if one of the two makes no sense.
    ///
    /// # Errors
    /// What is wrong.
    pub fn reconfigure(&self, queue: QueueConfig, valve: ValveConfig) -> Result<(), ConfigError> {
        self.shared.with(|core, now, out| core.reconfigure(now, queue, valve, out))
    }

    /// Permits that are out, and those who wait for one.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let state = self.shared.lock();
        (state.core.size(), state.core.len())
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
        self.give_back(false);
    }

    /// Whether to go on. If not, the permit is gone already.
    #[must_use]
    pub fn go_on(mut self) -> Option<Permit> {
        let lock = self.lock?;
        match self.shared.with(|core, now, out| core.go_on(now, lock, out)) {
            GoOn::Go(_) => Some(self),
            GoOn::Stop | GoOn::NotFound => {
                self.lock = None;
                None
            }
        }
    }

    fn give_back(&mut self, ok: bool) {
        if let Some(lock) = self.lock.take() {
            self.shared.with(|core, now, out| core.done(now, lock, ok, out));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back(true);
    }
}

/// Withdraws a waiter whose future is dropped.
struct Guard<'a> {
    shared: &'a Arc<Shared>,
    key: Option<Key>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shared.with(|core, now, out| drop(core.cancel(now, key, out)));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call: then has the task come in time, and tells everybody what came of it.
    fn with<T>(
        self: &Arc<Self>,
        call: impl FnOnce(
            &mut Core<oneshot::Sender<Answer>>,
            Time,
            &mut Admissions<oneshot::Sender<Answer>>,
        ) -> T,
    ) -> T {
        let now = self.clock.now();
        let mut state = self.lock();
        let State { core, out, .. } = &mut *state;
        let result = call(core, now, out);
        if let Some(due) = core.deadline().filter(|due| *due < state.armed) {
            state.armed = due;
            self.wake.notify_one();
        }
        let oldest = state.core.queue().oldest();
        let out = core::mem::take(&mut state.out);
        drop(state);
        self.tell(out, now, oldest);
        result
    }

    fn tell(
        self: &Arc<Self>,
        out: Admissions<oneshot::Sender<Answer>>,
        now: Time,
        oldest: Option<Time>,
    ) {
        for admitted in out.admitted {
            let (relative, sojourn) = (admitted.relative(), admitted.sojourn(now));
            let (shared, lock) = (Arc::clone(self), Some(admitted.lock));
            // Who is gone drops its permit, which gives it back.
            drop(admitted.value.send(Ok(Permit { shared, lock, relative, sojourn })));
        }
        for dropped in out.dropped {
            let answer = shed(&dropped, now, oldest);
            drop(dropped.value.send(Err(answer)));
        }
    }
}

impl Timed for Shared {
    fn tick(self: &Arc<Self>) -> Option<Instant> {
        self.with(|core, now, out| core.tick(now, out));
        let mut state = self.lock();
        let due = state.core.deadline();
        state.armed = due.unwrap_or(Time::MAX);
        due.and_then(|due| self.clock.instant(due))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}
