//! Meeting other processes, for programs without async.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Client, Runtime};
use crate::error::Error;
use crate::meet::Met;

/// A line where processes meet. See [the async one](crate::MatchLine).
#[derive(Clone, Debug)]
pub struct MatchLine {
    line: crate::MatchLine,
    runtime: Arc<Runtime>,
}

/// A line whose front waits for a valve. See [the async one](crate::Regulator).
#[derive(Clone, Debug)]
pub struct Regulator {
    regulator: crate::Regulator,
    runtime: Arc<Runtime>,
}

/// Leave to run. Dropping it says that the work is done. See [the async one](crate::Lock).
#[derive(Debug)]
pub struct Lock {
    lock: crate::Lock,
    runtime: Arc<Runtime>,
}

/// Somebody who will wait at a [`MatchLine`].
#[derive(Debug)]
#[must_use = "nobody waits before its outcome is asked for"]
pub struct Ask {
    ask: crate::Ask,
    runtime: Arc<Runtime>,
}

/// Somebody who will wait at a [`Regulator`].
#[derive(Debug)]
#[must_use = "nobody waits before its outcome is asked for"]
pub struct Acquire {
    acquire: crate::Acquire,
    runtime: Arc<Runtime>,
}

impl Client {
    /// The match line called `name`.
    ///
    /// # Errors
    /// As [the async one](crate::Client::match_line).
    pub fn match_line(&self, name: impl AsRef<[u8]>) -> Result<MatchLine, Error> {
        Ok(MatchLine { line: self.client.match_line(name)?, runtime: self.runtime.clone() })
    }

    /// The regulator called `name`.
    ///
    /// # Errors
    /// As [the async one](crate::Client::regulator).
    pub fn regulator(&self, name: impl AsRef<[u8]>) -> Result<Regulator, Error> {
        Ok(Regulator { regulator: self.client.regulator(name)?, runtime: self.runtime.clone() })
    }
}

impl MatchLine {
    /// Will wait for somebody who asks back, and give it `value`.
    pub fn ask(&self, value: impl Into<Bytes>) -> Ask {
        Ask { ask: self.line.ask(value), runtime: self.runtime.clone() }
    }

    /// Will wait for somebody who asks, and give it `value`.
    pub fn ask_r(&self, value: impl Into<Bytes>) -> Ask {
        Ask { ask: self.line.ask_r(value), runtime: self.runtime.clone() }
    }

    /// Meets somebody who asks back, if there is one.
    ///
    /// # Errors
    /// If it is refused, or the broker does not answer in time.
    pub fn try_ask(&self, value: impl Into<Bytes>) -> Result<Option<Met>, Error> {
        self.runtime.handle.block_on(self.line.try_ask(value))
    }

    /// Meets somebody who asks, if there is one.
    ///
    /// # Errors
    /// As [`MatchLine::try_ask`].
    pub fn try_ask_r(&self, value: impl Into<Bytes>) -> Result<Option<Met>, Error> {
        self.runtime.handle.block_on(self.line.try_ask_r(value))
    }

    /// Withdraws all that wait here under a label, and says how many those were. See
    /// [the async one](crate::MatchLine::cancel).
    ///
    /// # Errors
    /// If it is refused, or the broker does not answer in time.
    pub fn cancel(&self, label: impl Into<Bytes>) -> Result<usize, Error> {
        self.runtime.handle.block_on(self.line.cancel(label))
    }

    /// How many ask, and how many ask back.
    ///
    /// # Errors
    /// As [`MatchLine::cancel`].
    #[allow(clippy::len_without_is_empty)] // It is two lines, and asks the broker.
    pub fn len(&self) -> Result<(usize, usize), Error> {
        self.runtime.handle.block_on(self.line.len())
    }
}

impl Ask {
    /// How long to wait at most; as the client's calls do by default, `None` for any time.
    pub fn timeout(self, timeout: impl Into<Option<Duration>>) -> Ask {
        Ask { ask: self.ask.timeout(timeout), ..self }
    }

    /// A name for [`MatchLine::cancel`], from another thread; several may have the same.
    pub fn label(self, label: impl Into<Bytes>) -> Ask {
        Ask { ask: self.ask.label(label), ..self }
    }

    /// Waits.
    ///
    /// # Errors
    /// If it is refused or cancelled, nobody comes in time, or the connection is lost.
    pub fn recv(self) -> Result<Met, Error> {
        self.runtime.handle.block_on(self.ask.into_future())
    }
}

impl Regulator {
    /// Will wait until it may run.
    pub fn acquire(&self) -> Acquire {
        Acquire { acquire: self.regulator.acquire(), runtime: self.runtime.clone() }
    }

    /// Runs if it may at once.
    ///
    /// # Errors
    /// If it is refused, or the broker does not answer in time.
    pub fn try_acquire(&self) -> Result<Option<Lock>, Error> {
        let lock = self.runtime.handle.block_on(self.regulator.try_acquire())?;
        Ok(lock.map(|lock| Lock { lock, runtime: self.runtime.clone() }))
    }

    /// Says how long the regulated side waits for its counterparty, which a CoDel valve goes by.
    ///
    /// # Errors
    /// If it is refused, or the broker does not answer in time.
    pub fn update(&self, wait: Duration) -> Result<(), Error> {
        self.runtime.handle.block_on(self.regulator.update(wait))
    }

    /// Withdraws all that wait here under a label. See [`MatchLine::cancel`].
    ///
    /// # Errors
    /// If it is refused, or the broker does not answer in time.
    pub fn cancel(&self, label: impl Into<Bytes>) -> Result<usize, Error> {
        self.runtime.handle.block_on(self.regulator.cancel(label))
    }

    /// How many wait, and how many run.
    ///
    /// # Errors
    /// As [`Regulator::cancel`].
    #[allow(clippy::len_without_is_empty)] // It is not a collection, and asks the broker.
    pub fn len(&self) -> Result<(usize, usize), Error> {
        self.runtime.handle.block_on(self.regulator.len())
    }
}

impl Acquire {
    /// As [`Ask::timeout`].
    pub fn timeout(self, timeout: impl Into<Option<Duration>>) -> Acquire {
        Acquire { acquire: self.acquire.timeout(timeout), ..self }
    }

    /// A name for [`Regulator::cancel`], from another thread; several may have the same.
    pub fn label(self, label: impl Into<Bytes>) -> Acquire {
        Acquire { acquire: self.acquire.label(label), ..self }
    }

    /// Waits.
    ///
    /// # Errors
    /// If it is refused or cancelled, may not run in time, or the connection is lost.
    pub fn recv(self) -> Result<Lock, Error> {
        let Acquire { acquire, runtime } = self;
        let lock = runtime.handle.block_on(acquire.into_future())?;
        Ok(Lock { lock, runtime })
    }
}

impl Lock {
    /// See [the async one](crate::Lock::relative_us).
    pub fn relative_us(&self) -> i64 {
        self.lock.relative_us()
    }

    /// See [the async one](crate::Lock::sojourn).
    pub fn sojourn(&self) -> Duration {
        self.lock.sojourn()
    }

    /// Asks whether to go on (`continue`, at the broker).
    ///
    /// # Errors
    /// As [the async one](crate::Lock::go_on).
    pub fn go_on(&mut self) -> Result<(), Error> {
        self.runtime.handle.block_on(self.lock.go_on())
    }

    /// The work is done: lets the next one run, and waits until the broker knows.
    ///
    /// # Errors
    /// As [the async one](crate::Lock::done).
    pub fn done(self) -> Result<(), Error> {
        self.runtime.handle.block_on(self.lock.done())
    }

    /// As [`done`](Lock::done), but it did not succeed, which a breaker counts.
    ///
    /// # Errors
    /// As [`done`](Lock::done).
    pub fn failed(self) -> Result<(), Error> {
        self.runtime.handle.block_on(self.lock.failed())
    }
}
