//! Everything that can happen to the engine.

use alloc::boxed::Box;

use bytes::Bytes;

use crate::blob::Blob;
use crate::config::Config;
use crate::guard::PrincipalId;
use crate::ids::{ConnId, RequestId};
use crate::meeting::Meet;
use matching::Time;

/// What to do with a request that finds its line full.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WhenFull {
    /// Do not take it; tell its connection to stop reading until there is room. For protocols that
    /// cannot say no.
    Pause,
    /// Refuse it with a reason.
    Refuse,
}

/// A request as it enters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request<'a> {
    /// Who asks.
    pub conn: ConnId,
    /// In whose name.
    pub principal: PrincipalId,
    /// Name of the service asked, any bytes.
    pub service: Blob<'a>,
    /// Private to the session: comes back with every answer.
    pub tag: u64,
    /// The return envelope (first `envelope` bytes), anything, and the body (from `body_at` on).
    pub payload: Bytes,
    /// Length of the return envelope at the start of `payload`.
    pub envelope: u32,
    /// Where in `payload` the body starts.
    pub body_at: u32,
    /// When the request reached the house; the sojourn counts from here.
    pub since: Time,
    /// What to do at the service's bound.
    pub when_full: WhenFull,
    /// Refuse with `no_workers` instead of waiting when the service has no worker.
    pub needs_workers: bool,
    /// The first frame of the body, by which a fair line may tell clients apart.
    pub first_frame: Blob<'a>,
    /// What the client calls itself in a fair line; empty if its protocol has no word for it.
    pub fair_key: Blob<'a>,
    /// The client sees replies only whole, so that a broken-off stream of partial replies may
    /// start again with another worker.
    pub whole_replies: bool,
    /// Nobody waits for the answer: the request stays when its client leaves.
    pub detached: bool,
}

/// Everything that can happen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event<'a> {
    /// A client asks.
    Request(Request<'a>),
    /// A connection becomes a worker with `concurrency` offers.
    Offer {
        /// The worker's connection.
        conn: ConnId,
        /// In whose name.
        principal: PrincipalId,
        /// Name of the service it serves.
        service: Blob<'a>,
        /// How many requests it takes at a time, at least 1.
        concurrency: u32,
    },
    /// A worker answers a request it holds; the last answer is also its next offer.
    Reply {
        /// The worker's connection.
        conn: ConnId,
        /// The request, as the worker named it.
        request: RequestId,
        /// The body.
        body: Blob<'a>,
        /// Whether this ends the request.
        last: bool,
        /// The worker says that it could not do what was asked: a breaker counts that.
        failed: bool,
    },
    /// A worker gives back a request it holds, and goes on: the request returns to the head of its
    /// line, the worker offers itself again.
    Return {
        /// The worker's connection.
        conn: ConnId,
        /// The request, as the worker named it.
        request: RequestId,
    },
    /// A connection stops being a worker but lives on.
    Withdraw {
        /// The worker's connection.
        conn: ConnId,
    },
    /// A connection ended: everything it asked and offered is void.
    Gone {
        /// The connection.
        conn: ConnId,
    },
    /// Somebody wants to know how many workers a service has.
    Count {
        /// Who asks.
        conn: ConnId,
        /// Name of the service.
        service: Blob<'a>,
        /// Private to the session.
        tag: u64,
        /// The return envelope.
        envelope: Blob<'a>,
    },
    /// Somebody says a word at a named place.
    Meet {
        /// Who.
        conn: ConnId,
        /// In whose name.
        principal: PrincipalId,
        /// Private to the session: comes back with the answer.
        tag: u64,
        /// The return envelope.
        envelope: Blob<'a>,
        /// What, and where.
        word: Meet<'a>,
    },
    /// New rules apply from here on; nothing waiting is lost.
    Configure(Box<Config>),
    /// No new requests are taken; when the last one ended, [`Effect::Drained`](crate::Effect).
    Drain,
}

impl Event<'_> {
    /// The same event without borrows, so that it may cross to another shard.
    #[must_use]
    pub fn into_static(self) -> Event<'static> {
        match self {
            Event::Request(request) => Event::Request(Request {
                service: request.service.into_static(),
                conn: request.conn,
                principal: request.principal,
                tag: request.tag,
                payload: request.payload,
                envelope: request.envelope,
                body_at: request.body_at,
                since: request.since,
                when_full: request.when_full,
                needs_workers: request.needs_workers,
                first_frame: request.first_frame.into_static(),
                fair_key: request.fair_key.into_static(),
                whole_replies: request.whole_replies,
                detached: request.detached,
            }),
            Event::Offer { conn, principal, service, concurrency } => {
                Event::Offer { conn, principal, service: service.into_static(), concurrency }
            }
            Event::Reply { conn, request, body, last, failed } => {
                Event::Reply { conn, request, body: body.into_static(), last, failed }
            }
            Event::Return { conn, request } => Event::Return { conn, request },
            Event::Withdraw { conn } => Event::Withdraw { conn },
            Event::Gone { conn } => Event::Gone { conn },
            Event::Count { conn, service, tag, envelope } => Event::Count {
                conn,
                service: service.into_static(),
                tag,
                envelope: envelope.into_static(),
            },
            Event::Meet { conn, principal, tag, envelope, word } => Event::Meet {
                conn,
                principal,
                tag,
                envelope: envelope.into_static(),
                word: word.into_static(),
            },
            Event::Configure(config) => Event::Configure(config),
            Event::Drain => Event::Drain,
        }
    }
}
