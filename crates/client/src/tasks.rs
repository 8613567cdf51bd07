//! Durable tasks: put work into a broker's store, and work it.
//!
//! ```no_run
//! use maitred_client::tasks::{Claim, NewTask};
//! use maitred_client::{Client, Error};
//!
//! # async fn run() -> Result<(), Error> {
//! let tasks = Client::connect(["tcp://127.0.0.1:5555"])?.tasks();
//! let id = tasks.enqueue(NewTask::new("mail", "to: all").key("order 7").priority(3)).await?;
//! println!("task {id} is on disk");
//!
//! let claim = Claim::of(["mail"]).wait(std::time::Duration::from_secs(30));
//! for lease in tasks.claim(&claim).await? {
//!     println!("sending {:?}", lease.payload);
//!     tasks.complete(&lease.token, "sent").await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! It speaks to the service `maitred.tasks`. Settles, extensions and enqueues with a key may be
//! repeated, so they are sent again when a connection is lost; an enqueue without a key is not.

use std::time::Duration;

use bytes::Bytes;

use crate::client::Client;
use crate::error::Error;
use crate::message::Message;

/// The service of a broker's task store.
const SERVICE: &str = "maitred.tasks";
/// How much longer than a claim's own wait its answer may take.
const GRACE: Duration = Duration::from_secs(10);
/// Frames of one lease in the answer to a claim.
const LEASE_FRAMES: usize = 6;

impl Client {
    /// The durable tasks of the brokers this client knows. All of them should share one store.
    #[must_use]
    pub fn tasks(&self) -> Tasks {
        Tasks { client: self.clone() }
    }
}

/// Durable tasks. See the [module](crate::tasks).
#[derive(Clone, Debug)]
pub struct Tasks {
    client: Client,
}

/// A task to be enqueued.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewTask {
    task_type: String,
    payload: Bytes,
    settings: Vec<(String, String)>,
    has_key: bool,
}

impl NewTask {
    /// A task that workers claim by `task_type`.
    pub fn new(task_type: impl Into<String>, payload: impl Into<Bytes>) -> NewTask {
        let (task_type, payload) = (task_type.into(), payload.into());
        NewTask { task_type, payload, settings: Vec::new(), has_key: false }
    }

    /// While a task of this type with this key is known, enqueueing again answers with that task.
    #[must_use]
    pub fn key(mut self, key: &str) -> NewTask {
        self.has_key = true;
        self.set("unique_key", key)
    }

    /// Higher is sooner; 0 unless said.
    #[must_use]
    pub fn priority(self, priority: i16) -> NewTask {
        self.set("priority", priority)
    }

    /// Not before so long has passed.
    #[must_use]
    pub fn delay(self, delay: Duration) -> NewTask {
        self.set("delay_ms", delay.as_millis())
    }

    /// If it has not ended after so long it is dead.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> NewTask {
        self.set("deadline_ms", deadline.as_millis())
    }

    /// A lease counts as an attempt; after so many the task is dead. 20 unless said.
    #[must_use]
    pub fn max_attempts(self, attempts: u32) -> NewTask {
        self.set("max_attempts", attempts)
    }

    /// A task of this type follows its good end, with its result as the payload.
    #[must_use]
    pub fn then(self, task_type: &str) -> NewTask {
        self.set("then", task_type)
    }

    /// Its result is brought to this service.
    #[must_use]
    pub fn postback_to(self, service: &str) -> NewTask {
        self.set("postback", format!("service:{service}"))
    }

    /// Any other setting, by the name that the guide's page on tasks gives it.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> NewTask {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    fn message(&self) -> Message {
        let mut message = Message::from("enqueue");
        message.push(self.task_type.clone());
        message.push(self.payload.clone());
        for (name, value) in &self.settings {
            message.push(format!("{name}={value}"));
        }
        message
    }
}

/// A request for work.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    types: Vec<String>,
    max: usize,
    wait: Duration,
    lease: Option<Duration>,
    worker: String,
}

impl Claim {
    /// One task of any of these types, without waiting.
    pub fn of<I>(types: I) -> Claim
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Claim {
            types: types.into_iter().map(Into::into).collect(),
            max: 1,
            wait: Duration::ZERO,
            lease: None,
            worker: String::new(),
        }
    }

    /// At most so many.
    #[must_use]
    pub fn max(mut self, max: usize) -> Claim {
        self.max = max;
        self
    }

    /// Wait so long for a task, at most five minutes.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Claim {
        self.wait = wait;
        self
    }

    /// How long the leases last; each task's own time unless said.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Claim {
        self.lease = Some(lease);
        self
    }

    /// Who asks, for those who look.
    #[must_use]
    pub fn worker(mut self, worker: impl Into<String>) -> Claim {
        self.worker = worker.into();
        self
    }

    fn message(&self) -> Message {
        let mut message = Message::from("claim");
        self.types.iter().for_each(|task_type| message.push(format!("type={task_type}")));
        message.push(format!("max={}", self.max));
        message.push(format!("wait_ms={}", self.wait.as_millis()));
        if let Some(lease) = self.lease {
            message.push(format!("lease_ms={}", lease.as_millis()));
        }
        if !self.worker.is_empty() {
            message.push(format!("worker={}", self.worker));
        }
        message
    }
}

/// A task in our hands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Proof of holding it.
    pub token: String,
    /// Its type.
    pub task_type: String,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How long the lease lasted when the broker answered.
    pub left: Duration,
    /// What the payload is, if anybody said.
    pub content_type: Option<String>,
    /// The work.
    pub payload: Bytes,
}

impl Tasks {
    /// Puts a task into its queue; once this returns it is as durable as the broker's store.
    /// Returns the task's number, which with a [key](NewTask::key) may be one of before.
    ///
    /// # Errors
    /// [`Error::Task`] if the broker refuses it; what [calls](Client::call) may come to.
    pub async fn enqueue(&self, task: NewTask) -> Result<u64, Error> {
        let call = self.client.call(SERVICE, task.message()).retry(task.has_key);
        let answer = read(call.await?)?;
        number(answer.first().map_or(&[], |frame| frame))
    }

    /// Leases tasks; none if none came in time.
    ///
    /// # Errors
    /// As of [`enqueue`](Tasks::enqueue).
    pub async fn claim(&self, claim: &Claim) -> Result<Vec<Lease>, Error> {
        let call = self.client.call(SERVICE, claim.message()).timeout(claim.wait + GRACE);
        leases(&read(call.await?)?)
    }

    /// The task is done; this is the result.
    ///
    /// # Errors
    /// [`Error::Task`] with the reason `stale_lease` if the lease is no longer the valid one, or
    /// `cancelled`; otherwise as of [`enqueue`](Tasks::enqueue).
    pub async fn complete(&self, token: &str, result: impl Into<Bytes>) -> Result<(), Error> {
        self.say(["complete".into(), token.to_owned().into(), result.into()]).await.map(drop)
    }

    /// The attempt failed; the task is tried again after its back-off, or `after` so long.
    ///
    /// # Errors
    /// As of [`complete`](Tasks::complete).
    pub async fn fail(
        &self,
        token: &str,
        error: &str,
        after: Option<Duration>,
    ) -> Result<(), Error> {
        let mut frames =
            vec![Bytes::from("fail"), token.to_owned().into(), error.to_owned().into()];
        frames.extend(after.map(|after| format!("retry_after_ms={}", after.as_millis()).into()));
        self.say(frames).await.map(drop)
    }

    /// It failed, and trying again is of no use: the task is dead.
    ///
    /// # Errors
    /// As of [`complete`](Tasks::complete).
    pub async fn reject(&self, token: &str, error: &str) -> Result<(), Error> {
        let frames = ["reject", token, error].map(|frame| Bytes::from(frame.to_owned()));
        self.say(frames).await.map(drop)
    }

    /// Holds the lease for longer, from now on; the task's own time unless said. Returns how long
    /// it now lasts.
    ///
    /// # Errors
    /// As of [`complete`](Tasks::complete).
    pub async fn extend(&self, token: &str, lease: Option<Duration>) -> Result<Duration, Error> {
        let mut frames = vec![Bytes::from("extend"), token.to_owned().into()];
        frames.extend(lease.map(|lease| format!("lease_ms={}", lease.as_millis()).into()));
        let answer = self.say(frames).await?;
        let left = number(answer.first().map_or(&[], |frame| frame))?;
        Ok(Duration::from_millis(left))
    }

    /// Gives the task back unworked; no attempt is counted.
    ///
    /// # Errors
    /// As of [`complete`](Tasks::complete).
    pub async fn release(&self, token: &str) -> Result<(), Error> {
        let frames = ["release", token].map(|frame| Bytes::from(frame.to_owned()));
        self.say(frames).await.map(drop)
    }

    /// Cancels a task that has not ended; whether it did.
    ///
    /// # Errors
    /// [`Error::Task`] with the reason `unknown_task`; otherwise as of
    /// [`enqueue`](Tasks::enqueue).
    pub async fn cancel(&self, id: u64) -> Result<bool, Error> {
        let answer = self.say([Bytes::from("cancel"), id.to_string().into()]).await?;
        Ok(number(answer.first().map_or(&[], |frame| frame))? > 0)
    }

    /// One task as the broker shows it, in JSON.
    ///
    /// # Errors
    /// As of [`cancel`](Tasks::cancel).
    pub async fn show(&self, id: u64) -> Result<Bytes, Error> {
        let answer = self.say([Bytes::from("show"), id.to_string().into()]).await?;
        Ok(answer.into_iter().next().unwrap_or_default())
    }

    async fn say(&self, frames: impl IntoIterator<Item = Bytes>) -> Result<Vec<Bytes>, Error> {
        read(self.client.call(SERVICE, Message::frames(frames)).await?)
    }
}

/// What stands behind `ok`, or the refusal.
fn read(answer: Message) -> Result<Vec<Bytes>, Error> {
    let mut frames = answer.into_frames();
    let word = frames.next().unwrap_or_default();
    if &word[..] == b"ok" {
        return Ok(frames.collect());
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned().into_boxed_str();
    let message = text(&frames.next().unwrap_or_default());
    Err(Error::Task { reason: text(&word), message })
}

fn odd(what: &str) -> Error {
    Error::Task { reason: "not_understood".into(), message: what.into() }
}

fn number(frame: &[u8]) -> Result<u64, Error> {
    let number = std::str::from_utf8(frame).ok().and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| odd("the broker's answer has no number where one belongs"))
}

fn leases(frames: &[Bytes]) -> Result<Vec<Lease>, Error> {
    let (count, rest) = frames.split_first().ok_or_else(|| odd("the answer is empty"))?;
    if rest.len() as u64 != number(count)?.saturating_mul(LEASE_FRAMES as u64) {
        return Err(odd("the broker's answer has too few or too many leases"));
    }
    let text = |frame: &Bytes| String::from_utf8_lossy(frame).into_owned();
    let (leases, _) = rest.as_chunks::<LEASE_FRAMES>();
    leases
        .iter()
        .map(|[token, task_type, attempt, left, content_type, payload]| {
            Ok(Lease {
                token: text(token),
                task_type: text(task_type),
                attempt: u32::try_from(number(attempt)?).unwrap_or(u32::MAX),
                left: Duration::from_millis(number(left)?),
                content_type: (!content_type.is_empty()).then(|| text(content_type)),
                payload: payload.clone(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_their_frames() {
        let frames = |message: Message| {
            let frames = message.into_frames();
            frames.map(|frame| String::from_utf8_lossy(&frame).into_owned()).collect::<Vec<_>>()
        };
        let task = NewTask::new("mail", "x").key("k").delay(Duration::from_secs(2)).then("log");
        let words = ["enqueue", "mail", "x", "unique_key=k", "delay_ms=2000", "then=log"];
        assert_eq!(frames(task.message()), words);
        let claim = Claim::of(["a", "b"]).max(5).wait(Duration::from_secs(1)).worker("w");
        let words = ["claim", "type=a", "type=b", "max=5", "wait_ms=1000", "worker=w"];
        assert_eq!(frames(claim.message()), words);
        let claim = Claim::of(["a"]).lease(Duration::from_millis(7));
        assert_eq!(
            frames(claim.message()),
            ["claim", "type=a", "max=1", "wait_ms=0", "lease_ms=7"]
        );
    }

    #[test]
    fn answers_are_read_or_refused() {
        let answer = |frames: &[&str]| {
            read(Message::frames(frames.iter().map(|frame| frame.to_string())))
                .and_then(|frames| leases(&frames))
        };
        let lease = answer(&["ok", "1", "1f-a", "mail", "2", "30000", "", "x"]);
        let expected = Lease {
            token: "1f-a".into(),
            task_type: "mail".into(),
            attempt: 2,
            left: Duration::from_secs(30),
            content_type: None,
            payload: "x".into(),
        };
        assert_eq!(lease, Ok(vec![expected]));
        assert_eq!(answer(&["ok", "0"]), Ok(Vec::new()));
        let stale = Error::Task { reason: "stale_lease".into(), message: "too late".into() };
        assert_eq!(answer(&["stale_lease", "too late"]), Err(stale));
        for bad in [&["ok"][..], &["ok", "x"], &["ok", "1", "y"], &["ok", "18446744073709551615"]] {
            let odd = answer(bad).expect_err("nonsense");
            assert!(odd.to_string().contains("not_understood"), "{odd}");
        }
    }
}
