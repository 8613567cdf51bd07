//! The engine for those who run NATS: a JetStream bucket, which several brokers may share.
//!
//! ```text
//!   broker ── committer ──▶ records (bucket, compare and set) ◀── committer ── broker
//!                     └───▶ ready tasks (work queue) ──▶ whoever claims
//! ```
//! * **A task** is a record in the bucket; whoever changes it says which revision it has seen, and
//!   of two who do at once one begins anew. That is the fence.
//! * **Ready tasks** have a message in a work-queue stream, by type. Who takes it has 30 s
//!   (ack-wait) to lease the task; then it is acknowledged, and the lease is the record's. A
//!   message that was sent twice is known by its id for two minutes, and later finds nothing to
//!   lease.
//! * **Time** is the caller's [`Now`](crate::Now); [`Clock`] is set to the server's clock once,
//!   when the store is opened, so that brokers agree. Every broker keeps an index of all tasks
//!   that have a time (leases, delays, deadlines, ends), about 100 bytes each.
//! * **Durability**: a JetStream server answers before its fsync unless its `sync_interval` is
//!   `always`, which versions before 2.10 do not have and no client can see. So every answer is
//!   of the level [`Os`](Level::Os): it survives our end and the server's, perhaps not its
//!   machine's.
//! * **What is absent** is refused: priorities, fair keys, concurrency keys, search and counts,
//!   pauses, schedules. A task that comes back goes to the end of its line.

mod hear;
mod later;
mod link;
mod record;
mod rows;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::api::{Capabilities, Level};
use crate::clock::Clock;
use crate::committer::Engine;
use crate::core::Settings;
use crate::promises::{Keeper, Promises};
use crate::rows::Fault;
use later::Later;
use link::Link;
use rows::Nats;

/// How a bucket is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// How long things are kept.
    pub settings: Settings,
    /// On how many servers of a cluster everything is kept; 1 unless said. Only for what is made
    /// now: an existing bucket stays as it is.
    pub replicas: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { settings: Settings::default(), replicas: 1 }
    }
}

/// What opening a bucket found.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Recovered {
    /// Messages of ready tasks.
    pub ready: u64,
    /// Tasks that have a time: leased, delayed, with a deadline, or ended and kept.
    pub timed: u64,
    /// How long it took, in ms.
    pub took_ms: u64,
    /// The server's version.
    pub server: String,
    /// What weakens the promises.
    pub warnings: Vec<String>,
}

/// Why a bucket was not opened.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The address.
    #[error("{0}; a store is named as nats://HOST:PORT/NAME")]
    BadUrl(String),
    /// No server.
    #[error("NATS cannot be reached: {0}")]
    Unreachable(String),
    /// The server said no; it may have no JetStream.
    #[error("JetStream: {0}; is the server started with -js?")]
    Unusable(String),
}

/// Opens the bucket that `url` names (`nats://HOST:PORT/NAME`), or makes it.
///
/// # Errors
/// [`Refused`] says what is in the way and what to do about it.
pub fn open(url: &str, clock: &Clock, options: Options) -> Result<(Engine, Recovered), Refused> {
    let start = Instant::now();
    let (server, name) = link::parse(url)?;
    let link = Link::open(&server, &name, options.replicas)?;
    let index = Arc::new(Mutex::new(Later::default()));
    hear::follow(&link, &index).map_err(refused)?;
    let (unix_ms, took) = link.server_time().map_err(refused)?;
    clock.follow(unix_ms + took / 2);
    let version = link.client.server_info().version;
    let warning = "answers come before the server's fsync (unless its sync_interval is `always`, \
                   which cannot be seen from here): level os";
    let mut recovered = Recovered {
        ready: link.run(link.waiting()).map_err(refused)?,
        timed: index.lock().unwrap_or_else(PoisonError::into_inner).len() as u64,
        took_ms: 0,
        server: version,
        warnings: vec![warning.into()],
    };
    let payload = link.payload_limit();
    let capabilities = Capabilities {
        engine: "nats",
        level: Level::Os,
        shared: true,
        server_time: false,
        priorities: false,
        fair_keys: false,
        concurrency_keys: false,
        queries: false,
        schedules: false,
        pauses: false,
        keeps_place: false,
        payload,
        promises: PROMISES,
    };
    let rows = Nats::new(link, index);
    let engine = Engine::start(rows, capabilities, options.settings).map_err(Refused::Unusable)?;
    recovered.took_ms = start.elapsed().as_millis() as u64;
    Ok((engine, recovered))
}

const PROMISES: Promises = {
    use Keeper::{Nobody, Ours, Server};
    Promises([Nobody, Ours, Ours, Ours, Ours, Ours, Nobody, Ours, Nobody, Server])
};

fn refused(fault: Fault) -> Refused {
    match fault {
        Fault::Lost(what) => Refused::Unreachable(what),
        Fault::Full(what) | Fault::Broken(what) | Fault::Failed(what) | Fault::Again(what) => {
            Refused::Unusable(what)
        }
    }
}
