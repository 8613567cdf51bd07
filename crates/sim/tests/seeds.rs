//! Thousands of seeds through both stages, and proof that the checkers catch what is planted.
//!
//! `MAITRED_SIM_SEED` moves the first seed, `MAITRED_SIM_SEEDS` changes their number.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::thread;

use maitred_sim::{Bug, Keep, Scenario, Stage, run};

thread_local! {
    /// Panics on this thread are expected.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Seeds of one test run, over all stages.
const SEEDS: u64 = 3_000;
/// Seeds in which a planted bug must be caught, for each stage.
const SEEDS_TO_CATCH: u64 = 400;
/// A bug is not looked for any longer when it was caught so often in a stage.
const CATCHES_ENOUGH: u64 = 5;
/// The rule that every panic breaks. Not a checker: a planted bug must break another one.
const PANIC: &str = "no panic";

#[test]
fn no_seed_breaks_a_rule() {
    let first = number("MAITRED_SIM_SEED").unwrap_or(1);
    let seeds = number("MAITRED_SIM_SEEDS").unwrap_or(SEEDS);
    let shares =
        [(Stage::Rules, seeds / 2), (Stage::House(1), seeds / 4), (Stage::House(2), seeds / 4)];
    let scenarios: Vec<Scenario> = shares
        .into_iter()
        .flat_map(|(stage, share)| (first..first + share).map(move |seed| scenario(seed, stage)))
        .collect();
    let broken: Vec<Scenario> =
        in_parallel(&scenarios, |scenario| run(scenario).1.is_err().then_some(*scenario));
    if let Some(scenario) = broken.first() {
        panic!("{} of {} seeds broke a rule; {}", broken.len(), scenarios.len(), replay(scenario));
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for stage in [Stage::Rules, Stage::House(1), Stage::House(2)] {
        for seed in 7..17 {
            let (first, _) = run(&scenario(seed, stage));
            let (again, _) = run(&Scenario { keep: Keep::Last, ..scenario(seed, stage) });
            assert_eq!(first.hash(), again.hash(), "{stage:?} seed {seed}");
            assert_eq!(first.events(), again.events(), "{stage:?} seed {seed}");
        }
    }
}

#[test]
fn every_planted_bug_is_caught() {
    // A planted bug may well panic, and that is not worth a page each time.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            loud(info);
        }
    }));
    let caught = in_parallel(&Bug::ALL, |bug| {
        QUIET.set(true);
        Some((*bug, catches(*bug)))
    });
    for (bug, rules) in &caught {
        println!("{bug:?}: {rules:?}");
    }
    let missed = caught.iter().filter(|(_, rules)| rules.keys().all(|(_, rule)| *rule == PANIC));
    let missed: Vec<Bug> = missed.map(|(bug, _)| *bug).collect();
    assert!(missed.is_empty(), "no checker noticed {missed:?}");
}

/// The checkers that caught a bug, by stage, and how often each of them did.
fn catches(bug: Bug) -> BTreeMap<(String, &'static str), u64> {
    let mut caught = BTreeMap::new();
    for stage in [Stage::Rules, Stage::House(1), Stage::House(2)] {
        if stage == Stage::Rules && !bug.is_in_engine() {
            continue;
        }
        let mut catches = 0;
        for seed in 1..=SEEDS_TO_CATCH {
            let planted = Scenario { bug: Some(bug), ..scenario(seed, stage) };
            if let Err(violation) = run(&planted).1 {
                *caught.entry((format!("{stage:?}"), violation.rule)).or_insert(0) += 1;
                catches += 1;
                if catches == CATCHES_ENOUGH {
                    break;
                }
            }
        }
    }
    caught
}

fn scenario(seed: u64, stage: Stage) -> Scenario {
    Scenario { seed, stage, bug: None, keep: Keep::Hash }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")))
}

/// Says how to see it again, with what led to it.
fn replay(scenario: &Scenario) -> String {
    let (log, result) = run(&Scenario { keep: Keep::Last, ..*scenario });
    let flags = match scenario.stage {
        Stage::Rules => "--rules".to_string(),
        Stage::House(shards) => format!("--shards {shards}"),
    };
    let violation = result.err().map(|violation| violation.to_string()).unwrap_or_default();
    let seed = scenario.seed;
    format!("`cargo xtask sim --seed {seed} {flags}`\n{}\n{violation}", log.last_lines().join("\n"))
}

fn in_parallel<T: Sync, R: Send>(items: &[T], check: impl Fn(&T) -> Option<R> + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(2, usize::from).min(items.len().max(1));
    let mut results = Vec::new();
    let check = &check;
    thread::scope(|scope| {
        // Every n-th item, so that slow stages are shared.
        let share = move |first| {
            items.iter().skip(first).step_by(threads).filter_map(check).collect::<Vec<R>>()
        };
        let handles: Vec<_> = (0..threads).map(|first| scope.spawn(move || share(first))).collect();
        for handle in handles {
            results.extend(handle.join().expect("a simulation thread panicked outside a run"));
        }
    });
    results
}
