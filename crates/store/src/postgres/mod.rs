//! The engine of many brokers: one PostgreSQL database, which they share.
//!
//! ```text
//!   broker ── committer thread ──▶ link ──▶ server ◀── link ◀── committer thread ── broker
//!          └─ hears ── LISTEN / pg_notify, and a look every 2 s ──────────── hears ─┘
//! ```
//! * **Time** is the server's clock, for leases and delays too; [`Now`](crate::Now) is not asked.
//!   [`Clock`] is set to it, so that the broker's `now` is near.
//! * **Numbers** come from two sequences. A fence is drawn after its row is locked.
//! * **Several brokers** pass over rows that another holds (`SKIP LOCKED`) and lock concurrency
//!   keys for a transaction. No lease ends with its broker: it runs out, and until then its
//!   worker may settle it through any other.
//! * **Poolers**: no statement is prepared, no setting and no advisory lock outlives its
//!   transaction, so a pooler may give each transaction another session. Only hints need one
//!   (module `hear`).
//! * **Loss of the connection**: calls that may have happened answer
//!   [`Unavailable`](crate::Error::Unavailable); others wait some seconds for the server to come
//!   back.
//! * **TLS** is not there: `sslmode=require` is refused. Put the server behind a private network
//!   or a tunnel.

mod hear;
mod link;
mod pending;
mod rows;
mod schema;
mod sql;

use std::collections::HashMap;
use std::time::Instant;

use serde::Serialize;
use tokio_postgres::types::Type;

use crate::api::{Capabilities, Level};
use crate::clock::Clock;
use crate::committer::Engine;
use crate::core::Settings;
use crate::limits;
use crate::promises::{Keeper, Promises};
use crate::rows::Fault;
use crate::said::Said;
use hear::Hearing;
use link::Link;
use rows::Postgres;

/// How a database is opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// How long things are kept.
    pub settings: Settings,
    /// Answer before the server's fsync: what was answered survives the end of this process but
    /// perhaps not the server's. For work that can be made again.
    pub os_level: bool,
}

/// What opening a database found.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Recovered {
    /// Tasks that have not ended.
    pub tasks: u64,
    /// Leases that are out: other brokers' and those of a process that ended. They run out by
    /// themselves.
    pub leases: u64,
    /// How long it took, in ms.
    pub took_ms: u64,
    /// The server's version.
    pub server: String,
    /// Settings of the server that weaken what is promised, and by how much.
    pub warnings: Vec<String>,
}

/// Why a database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The connection string.
    #[error("{0}; a store is named as postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    BadUrl(String),
    /// It wants what is not there.
    #[error(
        "sslmode=require: TLS to PostgreSQL is not supported; leave sslmode out and reach the \
         server over a private network or a tunnel"
    )]
    Tls,
    /// No server.
    #[error("PostgreSQL cannot be reached: {0}")]
    Unreachable(String),
    /// It knows too little.
    #[error("PostgreSQL {0} is too old; version 14 or later is needed")]
    OldServer(String),
    /// It takes no writes.
    #[error("the server is a standby and takes no writes; name the primary")]
    Standby,
    /// The tables were made by a later version of ours.
    #[error("the tables have schema version {found}; this version knows {known}; upgrade maitred")]
    Newer {
        /// What they have.
        found: i32,
        /// What we know.
        known: i32,
    },
    /// The server said no.
    #[error("{0}")]
    Unusable(String),
}

/// The first server version that is tested for.
const FIRST: u32 = 140_000;
/// Brokers count in so many slots: as many can commit without waiting for each other.
const SLOTS: u64 = 64;

/// Opens the database that `url` names (`postgres://…`), and makes or updates our tables in it.
///
/// # Errors
/// [`Refused`] says what is in the way and what to do about it.
pub fn open(url: &str, clock: &Clock, options: Options) -> Result<(Engine, Recovered), Refused> {
    let start = Instant::now();
    let config = link::config(url)?;
    let mut link = Link::open(config.clone())?;
    let server = Server::ask(&mut link)?;
    if server.number < FIRST {
        return Err(Refused::OldServer(server.version));
    }
    if server.standby {
        return Err(Refused::Standby);
    }
    link.migrate()?;
    let found = "SELECT coalesce(sum(n) FILTER (WHERE state < 4), 0)::bigint, \
                 coalesce(sum(n) FILTER (WHERE state = 3), 0)::bigint FROM maitred.tally";
    let found = link.ask(async |client| client.query_typed_one(found, &[]).await);
    let found = found.map_err(unusable)?;
    let count = |at| sql::number(&found, at).map_err(|error| Refused::Unusable(link::say(&error)));
    let mut recovered = Recovered {
        tasks: count(0)?,
        leases: count(1)?,
        warnings: server.warnings(options.os_level),
        server: server.version.clone(),
        took_ms: 0,
    };
    let level = if options.os_level || !server.fsync { Level::Os } else { Level::Durable };
    let me = Said::draw_name();
    let slot = (me % SLOTS) as i16;
    let mut rows = Postgres::new(link, clock, level, server.begin(options.os_level), slot);
    rows.listen(Hearing::new(config, me));
    let capabilities = Capabilities {
        engine: "postgres",
        level,
        shared: true,
        server_time: true,
        priorities: true,
        fair_keys: true,
        concurrency_keys: true,
        queries: true,
        schedules: true,
        pauses: true,
        keeps_place: true,
        payload: limits::PAYLOAD,
        promises: promises(level),
    };
    let engine = Engine::start(rows, capabilities, options.settings).map_err(Refused::Unusable)?;
    recovered.took_ms = start.elapsed().as_millis() as u64;
    Ok((engine, recovered))
}

fn promises(level: Level) -> Promises {
    use Keeper::{Nobody, Ours, Server};
    let stable = if level == Level::Durable { Server } else { Nobody };
    Promises([stable, Ours, Ours, Ours, Ours, Server, Server, Ours, Ours, Server])
}

fn unusable(fault: Fault) -> Refused {
    match fault {
        Fault::Lost(what) => Refused::Unreachable(what),
        Fault::Full(what) | Fault::Broken(what) | Fault::Failed(what) | Fault::Again(what) => {
            Refused::Unusable(what)
        }
    }
}

/// What a server says of itself.
struct Server {
    version: String,
    number: u32,
    standby: bool,
    fsync: bool,
    full_page_writes: bool,
    checksums: bool,
    /// As it is for this role and database.
    synchronous_commit: String,
}

impl Server {
    fn ask(link: &mut Link) -> Result<Server, Refused> {
        let sql = "SELECT name, setting FROM pg_settings WHERE name = ANY ($1) \
                   UNION ALL SELECT 'standby', pg_is_in_recovery()::text";
        let names = [
            "server_version",
            "server_version_num",
            "fsync",
            "full_page_writes",
            "data_checksums",
            "synchronous_commit",
        ];
        let read = link.ask(async |client| {
            let found = client.query_typed(sql, &[(&&names[..], Type::TEXT_ARRAY)]).await?;
            let pair =
                |columns: &tokio_postgres::Row| Ok((columns.try_get(0)?, columns.try_get(1)?));
            found.iter().map(pair).collect::<Result<HashMap<String, String>, _>>()
        });
        let read = read.map_err(unusable)?;
        let text = |name: &str| read.get(name).cloned().unwrap_or_default();
        Ok(Server {
            version: text("server_version"),
            number: text("server_version_num").parse().unwrap_or(0),
            standby: text("standby") == "true",
            fsync: text("fsync") == "on",
            full_page_writes: text("full_page_writes") == "on",
            checksums: text("data_checksums") == "on",
            synchronous_commit: text("synchronous_commit"),
        })
    }

    fn warnings(&self, os_level: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |bad: bool, what: &str| warnings.extend(bad.then(|| what.to_owned()));
        warn(!self.fsync, "fsync is off: what is answered may not survive the server's machine");
        warn(
            !self.full_page_writes,
            "full_page_writes is off: a loss of power may damage the database",
        );
        warn(
            !self.checksums,
            "data_checksums is off: of damaged pages only what is in our rows is noticed",
        );
        warn(
            self.synchronous_commit == "off" && !os_level,
            "synchronous_commit is off: our own transactions set it to on",
        );
        warnings
    }

    /// What begins every transaction. All of it ends with it.
    fn begin(&self, os_level: bool) -> String {
        let commit = match (os_level, self.synchronous_commit.as_str()) {
            (true, _) => "SET LOCAL synchronous_commit = off;",
            (false, "off") => "SET LOCAL synchronous_commit = on;",
            // Perhaps more than ours: a standby that must have it, too.
            (false, _) => "",
        };
        // Should this process or the way to it be gone, its locks go soon. A queue's tables change
        // faster than what the planner knows of them: it is to use the indexes.
        format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {commit} \
             SET LOCAL statement_timeout = 8000; SET LOCAL lock_timeout = 4000; \
             SET LOCAL idle_in_transaction_session_timeout = 10000; SET LOCAL jit = off; \
             SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; \
             SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
        )
    }
}
