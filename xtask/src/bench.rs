//! `cargo xtask bench`: what the broker costs, side by side with a libzmq loop in the same run, and
//! whether that keeps our bars. Writes `docs/benchmarks.md` when everything was measured.
//!
//! Everything is bounded, on loopback and on ports the system chooses; what is started is ended by
//! its own handle.

mod curve;
mod loads;
mod matching;
mod overload;
mod peer;
mod postgres;
mod ppp;
mod process;
mod report;
mod rooms;
mod stomp;
mod store;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::{cargo, root, sh};
use process::Programs;
use report::Report;

/// The loads, by the names `maitred bench` knows.
const LOADS: [&str; 5] = ["e1", "e2", "e3", "e4", "e5"];
/// What else is measured.
const ROOMS: [&str; 7] = ["latency", "memory", "idle", "ppp", "curve", "matching", "stomp"];
/// Those of them that need no broker.
const IN_PROCESS: [&str; 2] = ["matching", "stomp"];

/// Measures what `args` name, by default all.
///
/// # Errors
/// If something cannot be built, started or measured. Falling short of a bar is no error: the table
/// says it.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    if let [flag, address] = args
        && flag == rooms::VICTIM
    {
        return rooms::be_victim(address);
    }
    if args.len() == 1 && args[0] == "store" {
        return store::run();
    }
    if let [first, rest @ ..] = args
        && first == "overload"
    {
        return overload::run(&build()?, rest);
    }
    let (args, sbroker) = where_sbroker_is(args)?;
    let all = args.is_empty() || args.iter().any(|arg| arg == "all");
    let known = |arg: &String| LOADS.contains(&&**arg) || ROOMS.contains(&&**arg) || arg == "all";
    if let Some(unknown) = args.iter().find(|arg| !known(arg)) {
        let names = [&LOADS[..], &ROOMS[..], &["all"]].concat().join(" ");
        return Err(format!("{unknown:?} is none of: {names}"));
    }
    let wanted = |name: &str| all || args.iter().any(|arg| arg == name);

    let mut report = Report::start();
    if wanted("matching") {
        matching::run(&mut report, sbroker.as_deref())?;
    }
    if wanted("stomp") {
        stomp::run(&mut report)?;
    }
    if !all && args.iter().all(|arg| IN_PROCESS.contains(&&**arg)) {
        println!("{}", report.finish());
        return Ok(());
    }
    let programs = build()?;
    let loads: Vec<&str> = LOADS.into_iter().filter(|name| wanted(name)).collect();
    loads::run(&programs, &loads, &mut report)?;
    if wanted("latency") {
        rooms::latency(&programs, &mut report)?;
    }
    if wanted("memory") {
        rooms::memory(&programs, &mut report)?;
    }
    if wanted("idle") {
        rooms::idle(&programs, &mut report)?;
    }
    if wanted("ppp") {
        ppp::run(&programs, &mut report)?;
    }
    if wanted("curve") {
        curve::run(&programs, &mut report)?;
    }
    let text = report.finish();
    println!("{text}");
    if all {
        let path = root().join("docs/benchmarks.md");
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// The names among `args`, and where sbroker's modules are, if anybody says so.
fn where_sbroker_is(args: &[String]) -> Result<(Vec<String>, Option<PathBuf>), String> {
    let mut names = args.to_vec();
    let Some(at) = names.iter().position(|arg| arg == "--sbroker") else {
        return Ok((names, std::env::var_os("SBROKER_EBIN").map(PathBuf::from)));
    };
    let named: Vec<String> = names.drain(at..names.len().min(at + 2)).collect();
    let [_, ebin] = &named[..] else {
        return Err("--sbroker takes the directory of sbroker's compiled modules".into());
    };
    let ebin = std::path::absolute(ebin).map_err(|error| format!("--sbroker {ebin}: {error}"))?;
    Ok((names, Some(ebin)))
}

/// Builds the broker and the baselines.
fn build() -> Result<Programs, String> {
    sh("build maitred", &mut cargo("build --release --locked --package maitred"))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    let baseline = |name: &str| {
        let program = target.join("release").join(name);
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-Wall", "-Wextra", &format!("bench/{name}.c"), "-lzmq", "-o"]);
        sh("build a libzmq baseline", cc.arg(&program)).map_err(|error| {
            format!("{error}; it needs the Debian packages gcc and libzmq3-dev, and util-linux")
        })?;
        Ok::<_, String>(program)
    };
    Ok(Programs {
        maitred: target.join("release/maitred"),
        baseline: baseline("libzmq_broker")?,
        queue: baseline("libzmq_ppqueue")?,
    })
}
