//! Everything the engine can do.

use bytes::Bytes;

use crate::blob::Blob;
use crate::ids::{ConnId, RequestId};
use crate::meeting::{Met, Place, PlaceChange};
use matching::Span;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// The service has no worker.
    NoWorkers,
    /// The service's line is at its bound.
    QueueFull,
    /// It waited longer than its service allows.
    Expired,
    /// A discipline shed it.
    Overload,
    /// The broker is shutting down.
    Draining,
    /// The peer may not do this.
    Denied,
    /// As many workers as allowed were lost while they held it.
    WorkersFailed,
}

impl Reason {
    /// The word used on the wire, in metrics and in the docs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::NoWorkers => "no_workers",
            Reason::QueueFull => "queue_full",
            Reason::Expired => "expired",
            Reason::Overload => "overload",
            Reason::Draining => "draining",
            Reason::Denied => "denied",
            Reason::WorkersFailed => "workers_failed",
        }
    }
}

impl From<matching::Reason> for Reason {
    fn from(reason: matching::Reason) -> Reason {
        match reason {
            matching::Reason::QueueFull => Reason::QueueFull,
            matching::Reason::Expired => Reason::Expired,
            matching::Reason::Overload => Reason::Overload,
            matching::Reason::Draining => Reason::Draining,
        }
    }
}

/// Why a worker was put out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expulsion {
    /// It answered a request it does not hold.
    StrayReply,
    /// It offered itself twice.
    SecondOffer,
    /// It held a request longer than the service's execution limit.
    ExecutionLimit,
    /// The broker holds as many services as it may.
    TooManyServices,
    /// It may not serve this service.
    Denied,
}

/// Everything that can be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect<'a> {
    /// Give a request to a worker.
    Deliver {
        /// The worker's connection.
        to: ConnId,
        /// The name under which the worker must answer.
        request: RequestId,
        /// As it came with the request.
        tag: u64,
        /// The payload the request came with.
        payload: &'a Bytes,
        /// Length of the return envelope at the start of `payload`.
        envelope: u32,
        /// Where in `payload` the body starts.
        body_at: u32,
        /// 1 for the first delivery.
        delivery: u32,
    },
    /// Give an answer to a client.
    Reply {
        /// The client's connection.
        to: ConnId,
        /// The request it answers.
        request: RequestId,
        /// As it came with the request.
        tag: u64,
        /// As it came with the request.
        envelope: &'a [u8],
        /// The service that answers.
        service: &'a [u8],
        /// The body.
        body: Blob<'a>,
        /// Whether this ends the request.
        last: bool,
    },
    /// Tell a client that its request will not be answered.
    Refuse {
        /// The client's connection.
        to: ConnId,
        /// The request, if it had been taken.
        request: Option<RequestId>,
        /// As it came with the request.
        tag: u64,
        /// As it came with the request.
        envelope: &'a [u8],
        /// The service asked.
        service: &'a [u8],
        /// Why.
        reason: Reason,
        /// Whether the service is configured to say so where the protocol has no form for it.
        answer: bool,
    },
    /// The partial replies given so far are void: the request starts again elsewhere.
    Restart {
        /// The client's connection.
        to: ConnId,
        /// The request.
        request: RequestId,
    },
    /// Answer to [`Event::Count`](crate::Event).
    Count {
        /// Who asked.
        to: ConnId,
        /// As it came.
        tag: u64,
        /// As it came.
        envelope: &'a [u8],
        /// Workers of the service at this moment.
        workers: u32,
    },
    /// Answer to [`Event::Meet`](crate::Event).
    Met {
        /// Who asked.
        to: ConnId,
        /// As it came.
        tag: u64,
        /// As it came.
        envelope: &'a [u8],
        /// The answer.
        answer: Met<'a>,
    },
    /// A worker is out: it must start anew.
    Expel {
        /// The worker's connection.
        to: ConnId,
        /// Why.
        why: Expulsion,
    },
    /// The request in hand was not taken: stop reading this connection.
    Pause {
        /// The connection.
        to: ConnId,
    },
    /// There is room for the request in hand: read on.
    Resume {
        /// The connection.
        to: ConnId,
    },
    /// The alarm of a service changes.
    Alarm {
        /// The service.
        service: &'a [u8],
        /// Whether it is raised from here on.
        raised: bool,
        /// How long the oldest request waits.
        oldest: Span,
    },
    /// A named place was started, changed or stopped.
    Place {
        /// What it is.
        place: Place,
        /// Its name.
        name: &'a [u8],
        /// What became of it.
        change: PlaceChange,
    },
    /// After [`Event::Drain`](crate::Event): the last request ended.
    Drained,
}

impl Effect<'_> {
    /// The connection it is for; `None` for the whole house.
    #[must_use]
    pub fn to(&self) -> Option<ConnId> {
        match self {
            Effect::Deliver { to, .. }
            | Effect::Reply { to, .. }
            | Effect::Refuse { to, .. }
            | Effect::Restart { to, .. }
            | Effect::Count { to, .. }
            | Effect::Met { to, .. }
            | Effect::Expel { to, .. }
            | Effect::Pause { to }
            | Effect::Resume { to } => Some(*to),
            Effect::Alarm { .. } | Effect::Place { .. } | Effect::Drained => None,
        }
    }
}

/// Where effects go. The caller brings it; the engine keeps nothing undelivered.
pub trait Out {
    /// Carries out one effect, or notes it down.
    fn emit(&mut self, effect: Effect<'_>);
}
