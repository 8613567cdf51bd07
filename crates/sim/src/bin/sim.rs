//! Runs seeds, or replays one: `sim --seed N [--count N] [--stage rules|house] [--shards 1|2]
//! [--planted NAME] [--log]`.

use std::process::ExitCode;
use std::time::Instant;

use maitred_sim::{Bug, Keep, Scenario, Stage, run};

const USAGE: &str = "\
Usage: sim --seed N [options]
  --count N       run N seeds from there on (default 1)
  --rules         only the engine against its model
  --shards 1|2    only whole shards, so many of them
  --planted NAME  with a bug planted (needs the feature `planted`)
  --log           print everything that happens";

struct Args {
    seed: u64,
    count: u64,
    stages: Vec<Stage>,
    bug: Option<Bug>,
    log: bool,
}

fn main() -> ExitCode {
    let args = match read_args(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut failed = false;
    for stage in args.stages {
        let start = Instant::now();
        let (mut requests, mut answered) = (0, 0);
        for seed in args.seed..args.seed + args.count {
            let keep = if args.log { Keep::Print } else { Keep::Hash };
            let scenario = Scenario { seed, stage, bug: args.bug, keep };
            let (log, result) = run(&scenario);
            match result {
                Ok(report) => {
                    requests += report.requests;
                    answered += report.answered;
                    if args.count == 1 {
                        println!(
                            "{stage:?} seed {seed}: fine; {} events in {}, log {:016x}",
                            log.events(),
                            report.virtual_time,
                            log.hash()
                        );
                    }
                }
                Err(_) => {
                    failed = true;
                    show(scenario);
                    break;
                }
            }
        }
        let (count, seconds) = (args.count, start.elapsed().as_secs_f64());
        println!(
            "{stage:?}: {count} seeds, {requests} requests, {answered} answered, {seconds:.1} s"
        );
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs a scenario that failed once more, this time with its last lines.
fn show(scenario: Scenario) {
    let (log, result) = run(&Scenario { keep: Keep::Last, ..scenario });
    for line in log.last_lines() {
        println!("{}", line.chars().take(240).collect::<String>());
    }
    let Err(violation) = result else { panic!("the same seed must give the same run") };
    println!("{:?} seed {}: {violation}", scenario.stage, scenario.seed);
}

fn read_args(mut words: impl Iterator<Item = String>) -> Result<Args, String> {
    let all = vec![Stage::Rules, Stage::House(1), Stage::House(2)];
    let mut args = Args { seed: 0, count: 1, stages: all, bug: None, log: false };
    let mut seeded = false;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--seed" => {
                args.seed = number(&value()?)?;
                seeded = true;
            }
            "--count" => args.count = number(&value()?)?,
            "--rules" => args.stages = vec![Stage::Rules],
            "--shards" => {
                let shards = number(&value()?)?;
                if !(1..=8).contains(&shards) {
                    return Err(format!("{shards} shards are not simulated"));
                }
                args.stages = vec![Stage::House(shards as u8)];
            }
            "--planted" => {
                let name = value()?;
                let known = || format!("no bug {name:?}; there are {:?}", Bug::ALL);
                args.bug = Some(Bug::from_name(&name).ok_or_else(known)?);
            }
            "--log" => args.log = true,
            _ => return Err(format!("unknown option {word:?}")),
        }
    }
    if seeded { Ok(args) } else { Err("--seed is missing".into()) }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}
