//! What a match costs: `cargo bench -p matching --features tokio`, or `cargo xtask bench matching`
//! for a page with bars. Each line of the output is a name and a figure.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use matching::live::Broker as Live;
use matching::{Broker, Drops, FairConfig, FairQueue, Flow, Line, Outcome, Queue};
use matching::{QueueConfig, Span, Time};
use tokio::runtime::{Builder, Runtime};

/// Matches in one measurement of the core.
const MATCHES: u64 = 2_000_000;
/// How long the pairs meet in one measurement.
const MEET: Duration = Duration::from_millis(1_200);
/// Those who are withdrawn at once.
const CANCELLED: usize = 100_000;
/// The best of so many counts for the core, the median for the rest.
const RUNS: usize = 5;

fn main() {
    core();
    for pairs in [64, 1_000] {
        let two = || Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let one = || Builder::new_current_thread().enable_all().build();
        say(&format!("facade_{pairs}_two_threads"), middle(|| facade(two(), pairs)));
        say(&format!("facade_{pairs}_one_thread"), middle(|| facade(one(), pairs)));
    }
    say("cancel_core_ms", middle(cancel_core));
    say("cancel_facade_stall_ms", middle(cancel_facade));
}

fn say(name: &str, figure: f64) {
    println!("{name} {figure:.3}");
}

fn middle(run: impl Fn() -> f64) -> f64 {
    let mut figures: Vec<f64> = (0..RUNS).map(|_| run()).collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures[RUNS / 2]
}

/// A request of one of 16 tenants.
struct Request(u64);

impl Flow for Request {
    fn flow(&self) -> u64 {
        self.0 % 16
    }
}

fn core() {
    let workers = || Queue::new(QueueConfig::timeout(Span::from_secs(5)), Time::ZERO);
    let ms = Span::from_millis;
    let codel = QueueConfig::codel(ms(100), ms(1_000));
    let aim = QueueConfig::aim(ms(20), ms(500));
    for depth in [1, 64] {
        let line = |config| move || (Queue::new(config, Time::ZERO), workers());
        say(&format!("core_codel_{depth}"), pairs(line(codel), depth));
        say(&format!("core_aim_{depth}"), pairs(line(aim), depth));
        let fair = FairConfig { line: codel, flows: 1_024 };
        say(&format!("core_fair_{depth}"), pairs(|| (FairQueue::new(fair), workers()), depth));
    }
}

/// Nanoseconds per match: `depth` wait, are met, and so on, in turns on either side. One
/// microsecond passes with each call.
fn pairs<L: Line<Request>>(lines: impl Fn() -> (L, Queue<u64>), depth: u64) -> f64 {
    let run = || {
        let (asks, ask_rs) = lines();
        let mut broker = Broker::with_lines(asks, ask_rs);
        let (mut drops, mut nanos, mut met) = (Drops::default(), 0, 0);
        let start = Instant::now();
        while met < MATCHES {
            for side in [true, false, false, true] {
                for n in 0..depth {
                    nanos += 1_000;
                    let now = Time::from_nanos(nanos);
                    met += u64::from(match side {
                        true => is_match(&broker.ask(now, now, Request(n), &mut drops)),
                        false => is_match(&broker.ask_r(now, now, n, &mut drops)),
                    });
                }
            }
        }
        assert!(drops.is_empty(), "nobody waits long enough to be dropped");
        start.elapsed().as_nanos() as f64 / met as f64
    };
    (0..RUNS).map(|_| run()).fold(f64::INFINITY, f64::min)
}

fn is_match<K>(outcome: &Outcome<Request, u64, K>) -> bool {
    matches!(black_box(outcome), Outcome::Matched(_))
}

fn live() -> Live<u64, u64> {
    let asks = QueueConfig::codel(Span::from_millis(100), Span::from_secs(1));
    Live::new(asks, QueueConfig::timeout(Span::from_secs(5))).expect("good configurations")
}

/// Matches per second of so many tasks that ask and so many that ask back, in loops.
fn facade(runtime: std::io::Result<Runtime>, pairs: u64) -> f64 {
    let runtime = runtime.expect("a runtime");
    let meet = async move {
        let (broker, stop) = (live(), Arc::new(AtomicBool::new(false)));
        let mut tasks = Vec::new();
        for n in 0..pairs {
            let (asks, ask_rs, stop, stop_r) =
                (broker.clone(), broker.clone(), Arc::clone(&stop), Arc::clone(&stop));
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) && asks.ask(n).await.is_ok() {}
            }));
            tasks.push(tokio::spawn(async move {
                while !stop_r.load(Ordering::Relaxed) && ask_rs.ask_r(n).await.is_ok() {}
            }));
        }
        let (start, before) = (Instant::now(), broker.snapshot().matched);
        tokio::time::sleep(MEET).await;
        let (met, took) = (broker.snapshot().matched - before, start.elapsed());
        stop.store(true, Ordering::Relaxed);
        broker.close();
        for task in tasks {
            task.await.expect("no panic");
        }
        met as f64 / took.as_secs_f64()
    };
    runtime.block_on(async { tokio::spawn(meet).await.expect("no panic") })
}

/// Milliseconds to withdraw everybody from the core, as somebody who shares it would have to wait.
fn cancel_core() -> f64 {
    let mut broker: Broker<usize, u64> = Broker::new(
        QueueConfig::codel(Span::from_millis(100), Span::from_secs(1)),
        QueueConfig::default(),
        Time::ZERO,
    );
    let mut drops = Drops::default();
    let keys: Vec<_> = (0..CANCELLED)
        .filter_map(|n| match broker.ask(Time::ZERO, Time::ZERO, n, &mut drops) {
            Outcome::Waiting(key) => Some(key),
            Outcome::Matched(_) | Outcome::Dropped => None,
        })
        .collect();
    let start = Instant::now();
    assert_eq!(broker.cancel_all(Time::ZERO, keys, &mut drops), CANCELLED);
    start.elapsed().as_secs_f64() * 1e3
}

/// The longest call of another thread, in milliseconds, while one thread drops the futures of all
/// who wait.
fn cancel_facade() -> f64 {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let _guard = runtime.as_ref().expect("a runtime").enter();
    let asks = QueueConfig::timeout(Span::from_secs(60));
    let broker: Live<usize, u64> = Live::new(asks, QueueConfig::default()).expect("good");
    let mut futures: Vec<_> = (0..CANCELLED).map(|n| Box::pin(broker.ask(n))).collect();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    for future in &mut futures {
        assert!(future.as_mut().poll(&mut cx).is_pending());
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let (mut longest, mut calls) = (Duration::ZERO, 0);
            while !done.load(Ordering::Relaxed) {
                let start = Instant::now();
                black_box(broker.snapshot());
                longest = longest.max(start.elapsed());
                calls += 1;
            }
            assert!(calls > 0);
            longest
        });
        drop(futures);
        done.store(true, Ordering::Relaxed);
        other.join().expect("no panic").as_secs_f64() * 1e3
    })
}
