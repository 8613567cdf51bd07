//! A producer and worker in one, for fault tests and benches of a store: a file of SQLite's, a
//! database of PostgreSQL's (`postgres://…`) or a bucket of JetStream's (`nats://…`).
//!
//! ```text
//! load write STORE ROUNDS [os]  says what was answered: +ID enqueued, =ID claimed, -ID completed
//! load bench STORE SECONDS      durable enqueues, then claims and completions, per second
//! ```
//! Each line of `write` is one write(2), made only after the store has answered.

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use store::{Claim, Clock, Engine, NewTask, Outcome, Policy, Settle, Store, wait};
use store::{nats, postgres, sqlite};

fn main() -> Result<(), String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["write", path, rounds] => write(path, number(rounds)?, false),
        ["write", path, rounds, "os"] => write(path, number(rounds)?, true),
        ["bench", path, seconds] => bench(path, Duration::from_secs(number(seconds)?)),
        _ => Err("usage: load write STORE ROUNDS [os] | load bench STORE SECONDS".into()),
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

fn write(path: &str, rounds: u64, os_level: bool) -> Result<(), String> {
    let clock = Clock::new();
    let (store, tasks, leases) = open(path, &clock, os_level)?;
    say(&format!("open {tasks} tasks, {leases} leases"))?;
    let policy = Policy { retention_ms: 3_600_000, max_attempts: 10_000, ..Policy::default() };
    for round in 0..rounds {
        // Sizes on both sides of what is kept in the row.
        let size = [10, 900, 3_000, 20_000][round as usize % 4];
        let task = |n: u64| NewTask {
            policy: policy.clone(),
            ..NewTask::new("load", vec![b'a' + (n % 26) as u8; size])
        };
        let tasks: Vec<NewTask> = (0..1 + round % 5).map(task).collect();
        let made = wait(|reply| store.enqueue(clock.now(), tasks, reply));
        match made {
            Ok(made) => {
                for id in made.into_iter().flatten().map(|made| made.id) {
                    say(&format!("+{id}"))?;
                }
            }
            Err(store::Error::NoSpace(reason)) => say(&format!("full {reason}"))?,
            Err(error) => return end(&error),
        }
        match serve(&store, &clock, (round % 4) as usize) {
            Ok(()) => {}
            Err(store::Error::NoSpace(reason)) => say(&format!("full {reason}"))?,
            Err(error) => return end(&error),
        }
        if round % 16 == 15 {
            // Long enough for the store to think it idle and copy its log into the file.
            std::thread::sleep(Duration::from_millis(130));
        }
    }
    store.close();
    say("closed")
}

/// The store, and how many tasks and leases it has.
fn open(store: &str, clock: &Clock, os_level: bool) -> Result<(Engine, u64, u64), String> {
    if store.starts_with("postgres://") {
        let options = postgres::Options { os_level, ..postgres::Options::default() };
        let opened = postgres::open(store, clock, options).map_err(|error| error.to_string());
        return opened.map(|(store, found)| (store, found.tasks, found.leases));
    }
    if store.starts_with("nats://") {
        let opened = nats::open(store, clock, nats::Options::default());
        let opened = opened.map_err(|error| error.to_string());
        return opened.map(|(store, found)| (store, found.ready, found.timed));
    }
    let options = sqlite::Options { os_level, ..sqlite::Options::default() };
    let opened = sqlite::open(Path::new(store), clock, options).map_err(|error| error.to_string());
    opened.map(|(store, found)| (store, found.tasks, found.leases))
}

fn end(error: &store::Error) -> Result<(), String> {
    say(&format!("error {error}"))?;
    Err(error.to_string())
}

fn serve(store: &Engine, clock: &Clock, limit: usize) -> Result<(), store::Error> {
    let types = vec!["load".to_owned()];
    let claim = Claim { types, limit, lease_ms: None, worker: "load".into() };
    for lease in wait(|reply| store.claim(clock.now(), claim, reply))? {
        let id = lease.token.task;
        let _ = say(&format!("={id} {}", lease.token.fence));
        let settle = Settle { token: lease.token, outcome: Outcome::Complete(b"ok".to_vec()) };
        for settled in wait(|reply| store.settle(clock.now(), vec![settle], reply))? {
            if settled.is_ok() {
                let _ = say(&format!("-{id}"));
            }
        }
    }
    Ok(())
}

fn say(line: &str) -> Result<(), String> {
    io::stdout().write_all(format!("{line}\n").as_bytes()).map_err(|error| error.to_string())
}

/// Calls that are under way at a time: 64 connections with 16 each.
const IN_FLIGHT: usize = 1_024;
/// Tasks of one claim.
const CLAIM: usize = 256;

fn bench(path: &str, time: Duration) -> Result<(), String> {
    let clock = Clock::new();
    let (store, ..) = open(path, &clock, false)?;
    let one_by_one = measure(
        time / 4,
        1,
        || {},
        |done| {
            let task = vec![NewTask::new("one", vec![b'x'; 100])];
            store.enqueue(
                clock.now(),
                task,
                Box::new(move |answer| done.send(answer.is_ok()).unwrap_or_default()),
            );
        },
    )?;
    println!("enqueue, one at a time        {one_by_one:>9.0} /s");
    let enqueued = measure(
        time,
        IN_FLIGHT,
        || {},
        |done| {
            let task = vec![NewTask::new("load", vec![b'x'; 100])];
            store.enqueue(
                clock.now(),
                task,
                Box::new(move |answer| done.send(answer.is_ok()).unwrap_or_default()),
            );
        },
    )?;
    println!("enqueue, {IN_FLIGHT} in flight      {enqueued:>9.0} /s");
    let worked = work(&store, &clock, time)?;
    println!("claim {CLAIM} + complete {CLAIM}     {worked:>9.0} /s");
    let life = 1.0 / (1.0 / enqueued + 1.0 / worked);
    println!("enqueue, claim and complete   {life:>9.0} /s");
    store.close();
    Ok(())
}

/// Calls per second with so many under way.
fn measure(
    time: Duration,
    in_flight: usize,
    between: impl Fn(),
    call: impl Fn(mpsc::Sender<bool>),
) -> Result<f64, String> {
    let (done, answers) = mpsc::channel();
    for _ in 0..in_flight {
        call(done.clone());
    }
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < time {
        if !answers.recv().map_err(|_| "the store is gone")? {
            return Err("a call was refused".into());
        }
        count += 1;
        between();
        call(done.clone());
    }
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    for _ in 0..in_flight {
        answers.recv().map_err(|_| "the store is gone")?;
    }
    Ok(rate)
}

/// Tasks claimed and completed per second, four workers' worth of batches under way.
fn work(store: &Engine, clock: &Clock, time: Duration) -> Result<f64, String> {
    let (leased, leases) = mpsc::channel();
    let ask = || {
        let (types, worker) = (vec!["load".to_owned()], "load".to_owned());
        let claim = Claim { types, limit: CLAIM, lease_ms: None, worker };
        let leased = leased.clone();
        store.claim(
            clock.now(),
            claim,
            Box::new(move |answer| leased.send(answer).unwrap_or_default()),
        );
    };
    (0..4).for_each(|_| ask());
    let start = Instant::now();
    let (settled, count) = mpsc::channel();
    let mut done = 0;
    while start.elapsed() < time {
        let leases = leases.recv().map_err(|_| "the store is gone")?;
        let leases = leases.map_err(|error| error.to_string())?.value;
        if leases.is_empty() {
            break;
        }
        let complete = |lease: &store::Lease| Settle {
            token: lease.token,
            outcome: Outcome::Complete(Vec::new()),
        };
        let settles: Vec<Settle> = leases.iter().map(complete).collect();
        let settled = settled.clone();
        store.settle(
            clock.now(),
            settles,
            Box::new(move |answer| {
                let good = answer.map_or(0, |receipt| receipt.value.iter().flatten().count());
                let _ = settled.send(good);
            }),
        );
        ask();
        done += count.try_iter().sum::<usize>();
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}
