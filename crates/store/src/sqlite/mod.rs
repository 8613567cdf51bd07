//! The embedded engine: one SQLite file, one connection, one thread.
//!
//! `journal_mode=WAL` and `synchronous=FULL`: a commit returns after its fsync. Checkpoints are run
//! by the same connection when it is idle, so nothing ever races with a write. What was written is
//! checked on the way back: every row and payload carries a checksum, and what of the log (WAL)
//! was answered is told apart from a torn tail (module `wal`).

mod guard;
mod rows;
mod schema;
mod tend;
mod wal;

use std::path::Path;

use crate::api::{Capabilities, Level};
use crate::clock::Clock;
use crate::committer::Engine;
use crate::core::Settings;
use crate::limits;
use crate::promises::{Keeper, Promises};
use rows::Sqlite;

pub use guard::Refused;
pub use tend::{Checked, backup, check, restore};

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// How long things are kept.
    pub settings: Settings,
    /// Answer before the fsync: what was answered survives the end of the process but perhaps not
    /// the machine's. For work that can be made again.
    pub os_level: bool,
}

/// What opening a store found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Recovered {
    /// It was not closed the last time.
    pub unclean: bool,
    /// Tasks that have not ended.
    pub tasks: u64,
    /// Leases that the end of the last process ended. Their tasks are ready; whoever still works
    /// one may extend or settle it until somebody else claims it.
    pub leases: u64,
    /// How long it took, in ms.
    pub took_ms: u64,
}

/// Opens the store at `path`, or makes it.
///
/// # Errors
/// [`Refused`] says what is in the way and what to do about it.
pub fn open(path: &Path, clock: &Clock, options: Options) -> Result<(Engine, Recovered), Refused> {
    let start = std::time::Instant::now();
    let (rows, mut recovered) = Sqlite::open(path, clock, options.os_level)?;
    let capabilities = Capabilities {
        engine: "sqlite",
        level: if options.os_level { Level::Os } else { Level::Durable },
        shared: false,
        server_time: false,
        priorities: true,
        fair_keys: true,
        concurrency_keys: true,
        queries: true,
        schedules: true,
        pauses: true,
        keeps_place: true,
        payload: limits::PAYLOAD,
        promises: promises(options.os_level),
    };
    let engine = Engine::start(rows, capabilities, options.settings).map_err(Refused::Unusable)?;
    recovered.took_ms = start.elapsed().as_millis() as u64;
    Ok((engine, recovered))
}

fn promises(os_level: bool) -> Promises {
    use Keeper::{Nobody, Ours};
    let stable = if os_level { Nobody } else { Ours };
    Promises([stable, Ours, Ours, Ours, Ours, Ours, Ours, Ours, Ours, Nobody])
}
