//! The task store by itself, without a broker before it, beside what the disk alone can do; and on
//! PostgreSQL, beside a plain loop of SKIP LOCKED on the same server.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::postgres::Server;
use crate::{cargo, root, sh};

/// How long each load runs, in seconds.
const SECONDS: &str = "5";
/// How long bare fsyncs are counted.
const SYNCS: Duration = Duration::from_secs(2);
/// Bytes before each bare fsync: what a commit of one task writes to the log, at least.
const BLOCK: usize = 8_192;

/// Builds the load, runs it on a new store under `target/`, and prints its rates.
///
/// # Errors
/// If it cannot be built or run.
pub(super) fn run() -> Result<(), String> {
    let build = "build --release --locked --package maitred-store --example load";
    sh("build the store's load", &mut cargo(build))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    let place = target.join(format!("bench-store-{}", std::process::id()));
    let io = |error: std::io::Error| format!("{}: {error}", place.display());
    fs::create_dir_all(&place).map_err(io)?;
    let syncs = bare_syncs(&place.join("bare")).map_err(io);
    let mut load = Command::new(target.join("release/examples/load"));
    load.arg("bench").arg(place.join("tasks.db")).arg(SECONDS);
    let ran = sh("the task store, on SQLite, every answer after its fsync", &mut load);
    println!("bare fsync after {BLOCK} bytes    {:>9.0} /s", syncs?);
    let ran = ran.and_then(|()| on_postgres(&place.join("postgres"), &target));
    let removed = fs::remove_dir_all(&place).map_err(io);
    ran.and(removed)
}

fn on_postgres(place: &Path, target: &Path) -> Result<(), String> {
    let server = Server::start(place)?;
    let mut load = Command::new(target.join("release/examples/load"));
    load.arg("bench").arg(server.url()).arg(SECONDS);
    sh("the task store, on PostgreSQL, every answer after its fsync", &mut load)?;
    let (inserted, worked) = server.plain_loop(SECONDS)?;
    println!("plain loop: insert, one at a time per connection {inserted:>9.0} /s");
    println!("plain loop: claim + delete                       {worked:>9.0} /s");
    Ok(())
}

fn bare_syncs(path: &Path) -> std::io::Result<f64> {
    let mut file = File::create(path)?;
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < SYNCS {
        file.write_all(&[b'x'; BLOCK])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}
