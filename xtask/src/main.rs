//! Repository automation: `cargo xtask COMMAND`.

mod bench;
mod deny;
mod fuzz;
mod interop;
mod python;
mod setup;
mod sim;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

const USAGE: &str = "\
usage: cargo xtask COMMAND
  test              install what the tests need and run all of them
  interop [ARG ...]  run only the interop suite; arguments go to pytest
  python [ARG ...]  run only the tests of clients/python and of examples; arguments go to pytest
  sim --seed N [--shards 2] [--log] [--planted NAME]  replay one simulated run
  tidy              check what no compiler checks: docs, names, arrows between crates
  bench [e1 ... e5 latency memory idle curve matching stomp] [--sbroker EBIN]  measure all or these;
                    EBIN: compiled modules of Erlang's sbroker, to measure matching beside it
  bench overload [--seconds N]  twice the load for 30 s on three brokers; writes docs/overload.md
  bench store       measure durable tasks per second beside bare fsyncs of the same disk
  deny              check licences, sources and duplicates of dependencies
  fuzz [--seconds N]  replay the committed corpora, then fuzz each target for N (30) seconds";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["bench", ..] => bench::run(&args[1..]),
        ["interop", ..] => test::interop(&args[1..]),
        ["python", ..] => test::python(&args[1..]),
        ["sim", ..] => sim::run(&args[1..]),
        ["test"] => test::run(),
        ["tidy"] => tidy::run(),
        ["deny"] => deny::run(),
        ["fuzz"] => fuzz::run(30),
        ["fuzz", "--seconds", seconds] => match seconds.parse() {
            Ok(seconds) => fuzz::run(seconds),
            Err(_) => Err(format!("--seconds takes a number, not {seconds:?}")),
        },
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Runs a command in the root of the checkout, its output shown, and says how long it took.
pub(crate) fn sh(what: &str, command: &mut Command) -> Result<(), String> {
    eprintln!("\n=== {what}");
    let start = Instant::now();
    let status = command
        .current_dir(root())
        .status()
        .map_err(|error| format!("{what}: cannot run {:?}: {error}", command.get_program()))?;
    if !status.success() {
        return Err(format!("{what}: failed ({status})"));
    }
    eprintln!("=== {what}: ok in {:.0?}", start.elapsed());
    Ok(())
}

/// A cargo command with these words.
pub(crate) fn cargo(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(words.split_whitespace());
    command
}
