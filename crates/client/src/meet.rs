//! Meeting other processes: match lines and regulators of a maitred broker.
//!
//! The broker takes a connection for a process: whoever waits or holds a lock does so over one. So
//! nothing here is sent again when a connection is lost, and what a caller drops is taken back at
//! the broker, too: nobody meets it, and a lock that was on its way is given back.

use std::collections::BTreeSet;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::client::{Call, Client};
use crate::error::{Error, Refusal};
use crate::message::Message;

/// How long the broker may be late with its word that a wait is over.
const GRACE: Duration = Duration::from_secs(1);

/// A future in a box.
type Later<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// A line where processes meet, from [`Client::match_line`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MatchLine {
    place: Place,
}

/// A line whose front waits for a valve, from [`Client::regulator`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Regulator {
    place: Place,
}

/// What somebody got from whom it met.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Met {
    /// The value of the other.
    pub value: Bytes,
    /// How long we waited for the other, in microseconds; negative: how long the other waited for
    /// us.
    pub relative_us: i64,
    /// How long we were in the broker.
    pub sojourn: Duration,
}

/// Leave to run, from a [`Regulator`]. Dropping it says that the work is done.
#[derive(Debug)]
pub struct Lock {
    place: Place,
    /// `None` once it is lost or given back.
    lock: Option<Bytes>,
    relative_us: i64,
    sojourn: Duration,
}

/// Somebody who will wait at a [`MatchLine`]; to be awaited. Whoever drops what comes of that
/// meets nobody.
#[derive(Debug)]
#[must_use = "nobody waits before this is awaited"]
pub struct Ask {
    place: Place,
    word: &'static str,
    value: Bytes,
    patience: Patience,
}

/// Somebody who will wait at a [`Regulator`]; to be awaited. Whoever drops what comes of that is
/// let run no more.
#[derive(Debug)]
#[must_use = "nobody waits before this is awaited"]
pub struct Acquire {
    place: Place,
    patience: Patience,
}

impl Client {
    /// The match line called `name`.
    ///
    /// # Errors
    /// [`Error::CannotMeet`] if this client has several connections or cannot pipeline: a lock is
    /// good for the connection it was given to, and two must ask the same broker to meet.
    pub fn match_line(&self, name: impl AsRef<[u8]>) -> Result<MatchLine, Error> {
        Ok(MatchLine { place: self.place("maitred.match", name.as_ref())? })
    }

    /// The regulator called `name`.
    ///
    /// # Errors
    /// As [`Client::match_line`].
    pub fn regulator(&self, name: impl AsRef<[u8]>) -> Result<Regulator, Error> {
        Ok(Regulator { place: self.place("maitred.regulator", name.as_ref())? })
    }

    fn place(&self, service: &'static str, name: &[u8]) -> Result<Place, Error> {
        self.check_meets()?;
        Ok(Place { client: self.clone(), service, name: Bytes::copy_from_slice(name) })
    }
}

impl MatchLine {
    /// Waits for somebody who asks back, and gives it `value`.
    pub fn ask(&self, value: impl Into<Bytes>) -> Ask {
        self.wait("ask", value.into())
    }

    /// Waits for somebody who asks, and gives it `value`.
    pub fn ask_r(&self, value: impl Into<Bytes>) -> Ask {
        self.wait("ask_r", value.into())
    }

    /// Meets somebody who asks back, if there is one.
    ///
    /// # Errors
    /// If it is refused, or the broker does not answer in time.
    pub async fn try_ask(&self, value: impl Into<Bytes>) -> Result<Option<Met>, Error> {
        self.look_in("try_ask", value.into()).await
    }

    /// Meets somebody who asks, if there is one.
    ///
    /// # Errors
    /// As [`MatchLine::try_ask`].
    pub async fn try_ask_r(&self, value: impl Into<Bytes>) -> Result<Option<Met>, Error> {
        self.look_in("try_ask_r", value.into()).await
    }

    /// Withdraws all that wait here under a label that was given through this client, and says how
    /// many those were; their futures come to [`Error::Cancelled`]. Those that are not with the
    /// broker yet, for want of a connection, are not found.
    ///
    /// # Errors
    /// If it is refused, or the broker does not answer in time.
    pub async fn cancel(&self, label: impl Into<Bytes>) -> Result<usize, Error> {
        self.place.cancel(label.into()).await
    }

    /// How many ask, and how many ask back.
    ///
    /// # Errors
    /// As [`MatchLine::cancel`].
    #[allow(clippy::len_without_is_empty)] // It is two lines, and asks the broker.
    pub async fn len(&self) -> Result<(usize, usize), Error> {
        self.place.len().await
    }

    fn wait(&self, word: &'static str, value: Bytes) -> Ask {
        Ask { place: self.place.clone(), word, value, patience: Patience::new(&self.place) }
    }

    async fn look_in(&self, word: &'static str, value: Bytes) -> Result<Option<Met>, Error> {
        let waiting = Waiting::new(&self.place, word, [value].into());
        let answer = waiting.outcome(self.place.client.usual_timeout()).await?;
        if answer == Answer::Retry { Ok(None) } else { answer.into_met(&self.place).map(Some) }
    }
}

impl Regulator {
    /// Waits until it may run.
    pub fn acquire(&self) -> Acquire {
        Acquire { place: self.place.clone(), patience: Patience::new(&self.place) }
    }

    /// Runs if it may at once.
    ///
    /// # Errors
    /// If it is refused, or the broker does not answer in time.
    pub async fn try_acquire(&self) -> Result<Option<Lock>, Error> {
        let waiting = Waiting::new(&self.place, "try_acquire", Vec::new());
        let answer = waiting.outcome(self.place.client.usual_timeout()).await?;
        if answer == Answer::Retry { Ok(None) } else { answer.into_lock(&self.place).map(Some) }
    }

    /// Says how long the regulated side waits for its counterparty, which a CoDel valve goes by.
    ///
    /// # Errors
    /// If it is refused, or the broker does not answer in time.
    pub async fn update(&self, wait: Duration) -> Result<(), Error> {
        let micros = wait.as_micros().to_string().into();
        self.place.say("update", [micros]).await?.into_done(&self.place)
    }

    /// Withdraws all that wait here under a label. See [`MatchLine::cancel`].
    ///
    /// # Errors
    /// If it is refused, or the broker does not answer in time.
    pub async fn cancel(&self, label: impl Into<Bytes>) -> Result<usize, Error> {
        self.place.cancel(label.into()).await
    }

    /// How many wait, and how many run.
    ///
    /// # Errors
    /// As [`Regulator::cancel`].
    #[allow(clippy::len_without_is_empty)] // It is not a collection, and asks the broker.
    pub async fn len(&self) -> Result<(usize, usize), Error> {
        self.place.len().await
    }
}

impl Ask {
    /// How long to wait at most; as the client's calls do by default, `None` for any time.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Ask {
        self.patience.timeout = timeout.into();
        self
    }

    /// A name for [`MatchLine::cancel`]; several may have the same.
    pub fn label(mut self, label: impl Into<Bytes>) -> Ask {
        self.patience.label = Some(label.into());
        self
    }
}

impl IntoFuture for Ask {
    type Output = Result<Met, Error>;
    type IntoFuture = Later<Met>;

    fn into_future(self) -> Later<Met> {
        Box::pin(async move {
            let Ask { place, word, value, patience } = self;
            let answer = patience.wait(&place, word, [value].into()).await?;
            answer.into_met(&place)
        })
    }
}

impl Acquire {
    /// As [`Ask::timeout`].
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Acquire {
        self.patience.timeout = timeout.into();
        self
    }

    /// A name for [`Regulator::cancel`]; several may have the same.
    pub fn label(mut self, label: impl Into<Bytes>) -> Acquire {
        self.patience.label = Some(label.into());
        self
    }
}

impl IntoFuture for Acquire {
    type Output = Result<Lock, Error>;
    type IntoFuture = Later<Lock>;

    fn into_future(self) -> Later<Lock> {
        Box::pin(async move {
            let Acquire { place, patience } = self;
            patience.wait(&place, "acquire", Vec::new()).await?.into_lock(&place)
        })
    }
}

impl Lock {
    /// How long it waited for the valve, in microseconds; negative: how long that had been open.
    /// As of the last [`go_on`](Lock::go_on).
    pub fn relative_us(&self) -> i64 {
        self.relative_us
    }

    /// How long it waited to run; after [`go_on`](Lock::go_on), for how long it has been running.
    pub fn sojourn(&self) -> Duration {
        self.sojourn
    }

    /// Asks whether to go on (`continue`, at the broker).
    ///
    /// # Errors
    /// [`Error::LockLost`]: stop, somebody else may run by now. After any other error the broker
    /// may think so, too.
    pub async fn go_on(&mut self) -> Result<(), Error> {
        let lock = self.lock.clone().ok_or(Error::LockLost)?;
        let answer = self.place.say("continue", [lock]).await?;
        if let Answer::Go { relative_us, sojourn, .. } = answer {
            (self.relative_us, self.sojourn) = (relative_us, sojourn);
            return Ok(());
        }
        let error = answer.into_error(&self.place);
        if error == Error::LockLost {
            self.lock = None;
        }
        Err(error)
    }

    /// The work is done: lets the next one run, and waits until the broker knows.
    ///
    /// # Errors
    /// [`Error::LockLost`] if somebody else may have run meanwhile; [`Error::ConnectionLost`] or
    /// [`Error::Timeout`] if the broker did not answer: it gives the lock away when it finds that
    /// the connection is gone.
    pub async fn done(self) -> Result<(), Error> {
        self.give_back("ok").await
    }

    /// As [`done`](Lock::done), but it did not succeed, which a breaker counts.
    ///
    /// # Errors
    /// As [`done`](Lock::done).
    pub async fn failed(self) -> Result<(), Error> {
        self.give_back("failed").await
    }

    async fn give_back(mut self, outcome: &'static str) -> Result<(), Error> {
        let lock = self.lock.take().ok_or(Error::LockLost)?;
        let place = self.place.clone();
        // A task, so that it is said even if nobody waits for the answer.
        let said = self.place.client.spawn(async move {
            place.say("done", [lock, outcome.into()]).await?.into_done(&place)
        });
        said.await.unwrap_or(Err(Error::Stopped))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            let place = self.place.clone();
            self.place.client.spawn(async move {
                // What it cannot be told, the end of the connection will tell.
                let _ = place.say("done", [lock]).await;
            });
        }
    }
}

/// A named place at the broker.
#[derive(Clone, Debug)]
struct Place {
    client: Client,
    service: &'static str,
    name: Bytes,
}

impl Place {
    fn call(&self, word: &'static str, arguments: impl IntoIterator<Item = Bytes>) -> Call {
        let head = [Bytes::from_static(word.as_bytes()), self.name.clone()];
        let body = Message::frames(head.into_iter().chain(arguments));
        self.client.call(self.service, body).retry(false)
    }

    /// Says a word that is answered at once, whoever waits.
    async fn say(
        &self,
        word: &'static str,
        arguments: impl IntoIterator<Item = Bytes>,
    ) -> Result<Answer, Error> {
        Answer::read(self.call(word, arguments).urgent().await?)
    }

    async fn len(&self) -> Result<(usize, usize), Error> {
        self.say("len", []).await?.into_numbers(self)
    }

    async fn cancel(&self, label: Bytes) -> Result<usize, Error> {
        let mut cancelled = 0;
        for number in self.client.labels().find(self, &label) {
            let answer = self.say("cancel", [number.to_string().into()]).await?;
            cancelled += answer.into_numbers(self)?.0;
        }
        Ok(cancelled)
    }
}

/// How long somebody waits, and what it is called.
#[derive(Debug)]
struct Patience {
    timeout: Option<Duration>,
    label: Option<Bytes>,
}

impl Patience {
    fn new(place: &Place) -> Patience {
        Patience { timeout: place.client.usual_timeout(), label: None }
    }

    async fn wait(
        self,
        place: &Place,
        word: &'static str,
        mut arguments: Vec<Bytes>,
    ) -> Result<Answer, Error> {
        let number = place.client.labels().take(place, self.label.as_ref());
        arguments.push(format!("label={number}").into());
        if let Some(timeout) = self.timeout {
            arguments.push(format!("timeout={}", timeout.as_micros()).into());
        }
        let mut waiting = Waiting::new(place, word, arguments);
        (waiting.number, waiting.label) = (Some(number), self.label);
        waiting.outcome(self.timeout.map(|timeout| timeout.saturating_add(GRACE))).await
    }
}

/// Somebody whose answer may come late. If it is dropped before that, it is taken back.
struct Waiting {
    place: Place,
    /// Its label at the broker, if it may wait there.
    number: Option<u64>,
    /// Its label here.
    label: Option<Bytes>,
    /// `None` once it is answered.
    call: Option<Call>,
}

impl Waiting {
    fn new(place: &Place, word: &'static str, frames: Vec<Bytes>) -> Waiting {
        let call = place.call(word, frames).timeout(None);
        Waiting { place: place.clone(), number: None, label: None, call: Some(call) }
    }

    async fn outcome(mut self, timeout: Option<Duration>) -> Result<Answer, Error> {
        let Some(call) = &mut self.call else { return Err(Error::Stopped) };
        let outcome = match timeout {
            None => call.await,
            Some(after) => match tokio::time::timeout(after, call).await {
                Ok(outcome) => outcome,
                Err(_) => return Err(self.place.client.late(self.place.service, after)),
            },
        };
        self.call = None;
        Answer::read(outcome?)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Waiting { place, number, label, call } = self;
        if let (Some(number), Some(label)) = (&number, label.take()) {
            place.client.labels().forget(place, label, *number);
        }
        // What was not sent is not known to the broker, and forgotten here.
        let Some(mut call) = call.take() else { return };
        if call.forget_unsent() {
            return;
        }
        let (place, number) = (place.clone(), *number);
        place.clone().client.spawn(async move {
            if let Some(number) = number {
                // Its own answer says what came of it.
                let _ = place.say("cancel", [number.to_string().into()]).await;
            }
            if let Ok(Ok(Answer::Go { value, .. })) = call.await.map(Answer::read)
                && place.service == "maitred.regulator"
            {
                let _ = place.say("done", [value]).await;
            }
        });
    }
}

/// What the broker says.
#[derive(Debug, Eq, PartialEq)]
enum Answer {
    Go { value: Bytes, relative_us: i64, sojourn: Duration },
    Drop(Refusal),
    Retry,
    Cancelled,
    Number(usize, usize),
    Done,
    Stop,
    NoPlace,
    NoLock,
    BadRequest(Box<str>),
}

impl Answer {
    fn read(body: Message) -> Result<Answer, Error> {
        let frames: Vec<&[u8]> = body.iter().map(|frame| &frame[..]).collect();
        Answer::understood(&frames, &body).ok_or_else(|| Error::BadAnswer {
            answer: body.text().chars().take(80).collect::<String>().into(),
        })
    }

    fn understood(frames: &[&[u8]], body: &Message) -> Option<Answer> {
        let number = |frame: &[u8]| std::str::from_utf8(frame).ok()?.parse::<i64>().ok();
        let count = |frame: &[u8]| usize::try_from(number(frame)?).ok();
        Some(match *frames {
            [b"go", _, relative, sojourn] => Answer::Go {
                value: body.get(1)?.clone(),
                relative_us: number(relative)?,
                sojourn: Duration::from_micros(number(sojourn)?.try_into().unwrap_or(0)),
            },
            [b"drop", reason, _] => Answer::Drop(Refusal::from_word(reason)),
            [b"retry"] => Answer::Retry,
            [b"cancelled"] => Answer::Cancelled,
            [b"number", one] => Answer::Number(count(one)?, 0),
            [b"number", one, other] => Answer::Number(count(one)?, count(other)?),
            [b"done"] => Answer::Done,
            [b"stop"] => Answer::Stop,
            [b"not_found", b"name"] => Answer::NoPlace,
            [b"not_found", b"lock"] => Answer::NoLock,
            [b"bad_request", why] => Answer::BadRequest(String::from_utf8_lossy(why).into()),
            _ => return None,
        })
    }

    fn into_met(self, place: &Place) -> Result<Met, Error> {
        if let Answer::Go { value, relative_us, sojourn } = self {
            return Ok(Met { value, relative_us, sojourn });
        }
        Err(self.into_error(place))
    }

    fn into_lock(self, place: &Place) -> Result<Lock, Error> {
        let Met { value, relative_us, sojourn } = self.into_met(place)?;
        Ok(Lock { place: place.clone(), lock: Some(value), relative_us, sojourn })
    }

    fn into_done(self, place: &Place) -> Result<(), Error> {
        if self == Answer::Done { Ok(()) } else { Err(self.into_error(place)) }
    }

    fn into_numbers(self, place: &Place) -> Result<(usize, usize), Error> {
        if let Answer::Number(one, other) = self {
            return Ok((one, other));
        }
        Err(self.into_error(place))
    }

    fn into_error(self, place: &Place) -> Error {
        match self {
            Answer::Drop(reason) => Error::Refused { reason },
            Answer::Cancelled => Error::Cancelled,
            Answer::Stop | Answer::NoLock => Error::LockLost,
            Answer::NoPlace => Error::NoPlace { name: String::from_utf8_lossy(&place.name).into() },
            Answer::BadRequest(why) => Error::BadAnswer { answer: why },
            Answer::Go { .. } | Answer::Retry | Answer::Number(..) | Answer::Done => {
                Error::BadAnswer { answer: "an answer to something else".into() }
            }
        }
    }
}

/// Who waits under which label. The broker is given a number for each, so that one of several of
/// the same label can be taken back.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    last: AtomicU64,
    /// Service, name and label of each, and the numbers alone.
    numbers: Mutex<BTreeSet<(&'static str, Bytes, Bytes, u64)>>,
}

impl Labels {
    fn take(&self, place: &Place, label: Option<&Bytes>) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        if let Some(label) = label {
            self.enter().insert((place.service, place.name.clone(), label.clone(), number));
        }
        number
    }

    fn find(&self, place: &Place, label: &Bytes) -> Vec<u64> {
        let numbers = self.enter();
        let first = (place.service, place.name.clone(), label.clone(), 0);
        let last = (place.service, place.name.clone(), label.clone(), u64::MAX);
        numbers.range(first..=last).map(|(.., number)| *number).collect()
    }

    fn forget(&self, place: &Place, label: Bytes, number: u64) {
        self.enter().remove(&(place.service, place.name.clone(), label, number));
    }

    fn enter(&self) -> std::sync::MutexGuard<'_, BTreeSet<(&'static str, Bytes, Bytes, u64)>> {
        self.numbers.lock().expect("nobody panics while the labels are open")
    }
}
