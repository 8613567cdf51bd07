//! `maitred bench`: loads a broker and says what came of it.
//!
//! Any Majordomo MDP/0.1 broker will do, and any Paranoid Pirate queue. The scenarios differ in
//! what they ask of one: the price of a single call, of many small ones on few and on many
//! connections, of large bodies, and of many requests on one worker's connection (which needs our
//! READY option `concurrency=N`; a broker without it serves one at a time). They ask for the next
//! when one is answered; `overload` asks for more than can be served, whatever comes of it.

mod target;

mod load;

mod words;

mod link;

mod overload;

use std::io::IsTerminal;

use clap::ValueEnum;
use serde::Serialize;

use crate::Failure;
use load::{Measured, Shape};
use target::Target;
use words::Words;

/// What to bench, and how to print.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    more: Option<More>,
    #[command(flatten)]
    target: Target,
    /// What to ask of it
    #[arg(long, value_enum, default_value_t = Choice::All)]
    scenario: Choice,
    /// Requests in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests: Option<u32>,
    /// Requests in flight, over all clients
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    window: Option<u32>,
    /// Bytes of a body
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(16..=1 << 26))]
    body: Option<u32>,
    /// Connections that ask
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    clients: Option<u32>,
    /// Connections that serve
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    workers: Option<u32>,
    /// Requests a worker takes at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    concurrency: Option<u32>,
    /// Process id of the broker, if it runs on this machine: its CPU time is measured, too
    #[arg(long, conflicts_with = "spawn")]
    pid: Option<u32>,
    /// Print JSON, one object per scenario and line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum More {
    /// Ask for more than the workers can do, and see who is served in time
    Overload(overload::Options),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Choice {
    /// One call at a time
    E1,
    /// One client, 512 in flight, 32 workers
    E2,
    /// 64 clients, 4 in flight each, 64 workers
    E3,
    /// Bodies of 64 KiB
    E4,
    /// Two workers that take 256 requests at a time
    E5,
    /// All of them, one after the other
    All,
}

/// Requests, window, body, clients, workers, concurrency.
const SCENARIOS: [(Choice, &str, [u32; 6]); 5] = [
    (Choice::E1, "e1", [20_000, 1, 64, 1, 1, 1]),
    (Choice::E2, "e2", [200_000, 512, 64, 1, 32, 1]),
    (Choice::E3, "e3", [200_000, 256, 64, 64, 64, 1]),
    (Choice::E4, "e4", [20_000, 16, 65_536, 4, 16, 1]),
    (Choice::E5, "e5", [1_000_000, 4_096, 64, 1, 2, 256]),
];

/// What a scenario came to: what was asked, and what was measured.
#[derive(Serialize)]
struct Report {
    scenario: &'static str,
    #[serde(flatten)]
    shape: Shape,
    #[serde(flatten)]
    measured: Measured,
    valid: bool,
}

/// Runs the scenarios that were asked for.
///
/// # Errors
/// If the broker cannot be reached, or an answer was wrong or missing.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    if let Some(More::Overload(options)) = &options.more {
        return overload::run(options);
    }
    let broker = options.target.reach()?;
    let pid = options.pid.or(broker.own_pid());
    let progress = std::io::stderr().is_terminal();
    let mut wrong = Vec::new();
    for (choice, name, numbers) in SCENARIOS {
        if options.scenario != Choice::All && options.scenario != choice {
            continue;
        }
        let shape = shape(options, numbers);
        if broker.ends.words == Words::Pirate && shape.concurrency > 1 {
            continue;
        }
        let measured = load::run(&broker.ends, name, &shape, pid, progress)
            .map_err(|error| Failure::new(format!("{name}: {error}")))?;
        let valid = measured.bad == 0 && measured.lost == 0;
        let report = Report { scenario: name, shape, measured, valid };
        if options.json {
            let line = serde_json::to_string(&report);
            println!("{}", line.map_err(|error| Failure::new(error.to_string()))?);
        } else {
            print(&report);
        }
        if !valid {
            wrong.push(name);
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("wrong or missing answers in {}", wrong.join(", "))))
}

fn shape(options: &Options, [requests, window, body, clients, workers, each]: [u32; 6]) -> Shape {
    Shape {
        requests: options.requests.unwrap_or(requests),
        window: options.window.unwrap_or(window),
        body: options.body.unwrap_or(body),
        clients: options.clients.unwrap_or(clients),
        workers: options.workers.unwrap_or(workers),
        concurrency: options.concurrency.unwrap_or(each),
    }
}

fn print(report: &Report) {
    let Report { scenario, shape, measured, valid } = report;
    println!(
        "{scenario}: {} requests of {} B, {} in flight; clients {}, workers {} x {}",
        shape.requests, shape.body, shape.window, shape.clients, shape.workers, shape.concurrency
    );
    println!(
        "    {:.0} req/s   p50 {:.1} us   p99 {:.1} us   p99.9 {:.1} us",
        measured.rate, measured.p50_us, measured.p99_us, measured.p999_us
    );
    let load = measured.load_cpu_us_per_request;
    if let Some(broker) = measured.broker_cpu_us_per_request {
        println!("    CPU per request: load {load:.2} us, broker {broker:.2} us");
    } else {
        println!("    CPU per request: load {load:.2} us");
    }
    if *valid {
        println!("    every answer right");
    } else {
        println!("    {} answers wrong, {} missing", measured.bad, measured.lost);
    }
}
