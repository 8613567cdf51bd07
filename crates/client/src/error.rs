//! What can go wrong, and what to do about it.

use std::fmt;
use std::time::Duration;

/// Why a call, a connection or a worker did not come to its end.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An endpoint cannot be read.
    #[error(
        "endpoint `{endpoint}`: {problem}; write it as tcp://host:port, IPv6 as \
         tcp://[::1]:port, with TLS as tls://host:port, or ipc://path"
    )]
    Endpoint {
        /// As it was given.
        endpoint: Box<str>,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// There is nothing to check a broker's certificate with, or it cannot be used.
    #[error("{why}")]
    Tls {
        /// What is missing or wrong.
        why: Box<str>,
    },
    /// A service name no broker would take.
    #[error("a service name has 1 to 255 bytes, this one has {len}")]
    ServiceName {
        /// Its length.
        len: usize,
    },
    /// There is no tokio runtime to run the connections on.
    #[error("no tokio runtime: call this from async code, or use maitred_client::blocking")]
    NoRuntime,
    /// The thread of a blocking client or worker could not be started.
    #[error("cannot start a thread: {why}")]
    NoThread {
        /// What the system said.
        why: Box<str>,
    },
    /// A request or reply is larger than the limits allow; sending it would make the broker hang
    /// up.
    #[error("the message has {got} {what}, the limit is {limit}")]
    TooLarge {
        /// "bytes" or "frames".
        what: &'static str,
        /// How many there may be.
        limit: u64,
        /// How many there are.
        got: u64,
    },
    /// The replies to one call, partial ones together, are larger than the limits allow.
    #[error(
        "the replies held for one call are more than {limit} bytes; \
         take them faster, or raise the limit"
    )]
    RepliesTooLarge {
        /// How many bytes there may be.
        limit: u64,
    },
    /// The deadline passed without a final reply. Whether the request was served is unknown.
    #[error("no reply from service `{service}` within {after:?}")]
    Timeout {
        /// The service that was called.
        service: Box<str>,
        /// The call's timeout.
        after: Duration,
    },
    /// The deadline passed while no broker was connected. The request was not served as far as we
    /// know: the only exception is one that had been sent when its connection was lost.
    #[error("no broker within {after:?} ({why}); is one listening there?")]
    Unreachable {
        /// The call's timeout.
        after: Duration,
        /// Which brokers were tried, and what became of it.
        why: Box<str>,
    },
    /// The connection was lost after the request was sent, and the call must not be sent twice (or
    /// has already handed out a partial reply). Whether the request was served is unknown.
    #[error("lost {endpoint}: {why}")]
    ConnectionLost {
        /// The broker.
        endpoint: Box<str>,
        /// What happened.
        why: Box<str>,
    },
    /// The broker refused the request; it was not served, except for [`Refusal::WorkersFailed`].
    #[error("refused: {reason}")]
    Refused {
        /// Why.
        reason: Refusal,
    },
    /// The worker's handler failed.
    #[error("the worker failed: {message}")]
    Failed {
        /// What it said.
        message: Box<str>,
    },
    /// This client cannot meet others.
    #[error("{problem}: whoever meets others has one pipelined connection to one broker")]
    CannotMeet {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The broker knows no place of that name.
    #[error("there is no match line or regulator `{name}`")]
    NoPlace {
        /// The name.
        name: Box<str>,
    },
    /// It was cancelled under its label.
    #[error("cancelled")]
    Cancelled,
    /// Too many run, or the connection was lost: somebody else may run by now.
    #[error("the lock is lost")]
    LockLost,
    /// The broker said something else than an answer; another version may know more.
    #[error("the broker's answer makes no sense here: {answer}")]
    BadAnswer {
        /// What it said.
        answer: Box<str>,
    },
    /// The worker or client was stopped.
    #[error("stopped")]
    Stopped,
}

/// Why a broker refused a request.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody serves that service.
    NoWorkers,
    /// The service's line is full.
    QueueFull,
    /// It waited too long in line.
    Expired,
    /// The service is overloaded, and the broker keeps its line short.
    Overload,
    /// The broker is about to stop.
    Draining,
    /// This client may not call this service.
    Denied,
    /// Every worker that was given the request was lost while it held it.
    WorkersFailed,
    /// A reason this version does not know.
    Other(Box<str>),
}

impl Refusal {
    /// The broker's word for it.
    pub fn as_str(&self) -> &str {
        match self {
            Refusal::NoWorkers => "no_workers",
            Refusal::QueueFull => "queue_full",
            Refusal::Expired => "expired",
            Refusal::Overload => "overload",
            Refusal::Draining => "draining",
            Refusal::Denied => "denied",
            Refusal::WorkersFailed => "workers_failed",
            Refusal::Other(word) => word,
        }
    }

    pub(crate) fn from_word(word: &[u8]) -> Refusal {
        const KNOWN: [Refusal; 7] = [
            Refusal::NoWorkers,
            Refusal::QueueFull,
            Refusal::Expired,
            Refusal::Overload,
            Refusal::Draining,
            Refusal::Denied,
            Refusal::WorkersFailed,
        ];
        let known = KNOWN.into_iter().find(|reason| reason.as_str().as_bytes() == word);
        known.unwrap_or_else(|| Refusal::Other(String::from_utf8_lossy(word).into()))
    }

    /// Whether the request did not run and another broker may well take it.
    pub(crate) fn another_broker_may_help(&self) -> bool {
        match self {
            Refusal::NoWorkers | Refusal::QueueFull | Refusal::Overload | Refusal::Draining => true,
            Refusal::Expired | Refusal::Denied | Refusal::WorkersFailed | Refusal::Other(_) => {
                false
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
