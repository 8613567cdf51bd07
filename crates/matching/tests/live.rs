//! Brokers that are awaited. Time is paused and jumps to whoever sleeps next.

use std::future::Future;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use matching::live::{Broker, FairBroker};
use matching::{AnyConfig, Flow, QueueConfig, Reason, Span};
use tokio::time::{Instant, sleep, timeout};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn broker(asks: QueueConfig) -> Broker<&'static str, u32> {
    Broker::new(asks, QueueConfig::default()).expect("a good configuration")
}

#[tokio::test(start_paused = true)]
async fn two_meet_and_learn_how_long_they_waited() {
    let broker = broker(QueueConfig::default());
    let other = broker.clone();
    let worker = tokio::spawn(async move {
        sleep(ms(50)).await;
        other.ask_r(7).await
    });
    let request = broker.ask("resize").await.expect("a worker came");
    let worker = worker.await.expect("no panic").expect("a request waited");
    assert_eq!((request.value, worker.value), (7, "resize"));
    assert_eq!((request.relative.as_millis(), request.sojourn.as_millis()), (50, 50));
    assert_eq!((worker.relative.as_millis(), worker.sojourn.as_millis()), (-50, 0));
    assert_eq!(broker.snapshot().matched, 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_in_time() {
    let broker = broker(QueueConfig::timeout(Span::from_millis(100)));
    let start = Instant::now();
    let shed = broker.ask("late").await.expect_err("nobody serves");
    assert_eq!((shed.reason, shed.sojourn.as_millis()), (Reason::Expired, 100));
    assert!(start.elapsed() < ms(105));
    let shed = broker.ask_deadline("later", Instant::now() + ms(30)).await.expect_err("nobody");
    assert_eq!((shed.reason, shed.sojourn.as_millis()), (Reason::Expired, 30));
    assert_eq!(broker.snapshot().shed.expired, 2);
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_is_not_matched() {
    let broker = broker(QueueConfig::default());
    assert!(timeout(ms(10), broker.ask("gone")).await.is_err());
    assert_eq!(broker.snapshot().asks, 0);
    assert_eq!(broker.try_ask_r(7), Err(7));
    let (request, worker) = tokio::join!(broker.ask("here"), broker.ask_r(8));
    assert_eq!((request.expect("met").value, worker.expect("met").value), (8, "here"));
}

#[tokio::test(start_paused = true)]
async fn lines_change_while_somebody_waits() {
    let broker = broker(QueueConfig::default());
    let other = broker.clone();
    let waits = tokio::spawn(async move { other.ask("patient").await });
    sleep(ms(20)).await;
    let bad = QueueConfig { min: 2, max: 1, ..QueueConfig::default() };
    assert!(broker.reconfigure(bad, QueueConfig::default()).is_err());
    assert_eq!(broker.snapshot().asks, 1);
    let strict = QueueConfig::timeout(Span::from_millis(50));
    broker.reconfigure(strict, QueueConfig::default()).expect("a good configuration");
    let shed = waits.await.expect("no panic").expect_err("nobody serves");
    assert_eq!(shed.sojourn.as_millis(), 50);

    let other = broker.clone();
    let waits = tokio::spawn(async move { other.ask("last").await });
    sleep(ms(1)).await;
    broker.close();
    assert_eq!(waits.await.expect("no panic").expect_err("closed").reason, Reason::Draining);
    assert_eq!(broker.ask("too late").await.expect_err("closed").reason, Reason::Draining);
}

/// Polls a future once.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn a_match_that_nobody_hears_of_is_dropped_and_counted() {
    let broker: Broker<u8, Arc<()>> =
        Broker::new(QueueConfig::default(), QueueConfig::default()).expect("good");
    let mut request = Box::pin(broker.ask(1));
    assert!(poll(request.as_mut()).is_pending());
    let value = Arc::new(());
    assert_eq!(broker.try_ask_r(Arc::clone(&value)).expect("a request waits").value, 1);
    assert_eq!(Arc::strong_count(&value), 2);
    drop(request);
    assert_eq!(Arc::strong_count(&value), 1, "it went with the future");
    let snapshot = broker.snapshot();
    assert_eq!((snapshot.matched, snapshot.abandoned, snapshot.asks), (1, 1, 0));
}

/// What is dropped may call the broker again: no lock is held then.
#[tokio::test(start_paused = true)]
async fn what_is_dropped_may_call_the_broker() {
    struct Calls(Broker<Calls, u8>);
    impl Drop for Calls {
        fn drop(&mut self) {
            assert!(self.0.try_ask_r(9).is_err(), "nobody waits any more");
        }
    }
    let line = QueueConfig::timeout(Span::from_millis(5));
    let broker: Broker<Calls, u8> = Broker::new(line, QueueConfig::default()).expect("good");
    let mut request = Box::pin(broker.ask(Calls(broker.clone())));
    assert!(poll(request.as_mut()).is_pending());
    drop(request);
    let shed = broker.ask(Calls(broker.clone())).await.map(|go| go.value).expect_err("late");
    assert_eq!((shed.reason, broker.snapshot().shed.expired), (Reason::Expired, 1));
}

#[tokio::test(start_paused = true)]
async fn who_comes_after_its_deadline_meets_nobody() {
    let broker = broker(QueueConfig::default());
    let mut worker = Box::pin(broker.ask_r(7));
    assert!(poll(worker.as_mut()).is_pending());
    let shed = broker.ask_deadline("late", Instant::now()).await.expect_err("too late");
    assert_eq!((shed.reason, shed.sojourn), (Reason::Expired, Span::ZERO));
    assert_eq!((broker.snapshot().ask_rs, broker.snapshot().shed.expired), (1, 1));
}

/// A request of a tenant.
#[derive(Debug)]
struct Request(u64, u32);

impl Flow for Request {
    fn flow(&self) -> u64 {
        self.0
    }
}

fn in_turns(flows: u64) -> AnyConfig {
    AnyConfig { flows: NonZero::new(flows), ..QueueConfig::default().into() }
}

/// What the next workers are given.
fn served(broker: &FairBroker<Request, ()>, workers: usize) -> Vec<(u64, u32)> {
    let next = || broker.try_ask_r(()).ok().map(|go| (go.value.0, go.value.1));
    (0..workers).map_while(|_| next()).collect()
}

#[tokio::test(start_paused = true)]
async fn tenants_take_turns_and_the_line_changes_its_kind_under_them() {
    let broker: FairBroker<Request, ()> =
        Broker::fair(in_turns(16), QueueConfig::default()).expect("good");
    let mut waits = Vec::new();
    for (tenant, n) in [(1, 1), (1, 2), (1, 3), (1, 4), (2, 5), (3, 6), (2, 7)] {
        sleep(ms(1)).await;
        let mut ask = Box::pin(broker.ask(Request(tenant, n)));
        assert!(poll(ask.as_mut()).is_pending());
        waits.push(ask);
    }
    assert_eq!(served(&broker, 3), [(1, 1), (2, 5), (3, 6)]);
    // One line for all: whoever came first is next.
    let plain = AnyConfig::from(QueueConfig::default());
    broker.reconfigure(plain, QueueConfig::default()).expect("good");
    assert_eq!(served(&broker, 1), [(1, 2)]);
    // Whoever moved to another line is withdrawn there.
    drop(waits.remove(2));
    assert_eq!(broker.snapshot().asks, 2);
    broker.reconfigure(in_turns(4), QueueConfig::default()).expect("good");
    let bad = QueueConfig { min: 2, max: 1, ..QueueConfig::default() };
    assert!(broker.reconfigure(bad.into(), QueueConfig::default()).is_err());
    drop(waits.remove(2));
    assert_eq!(served(&broker, 9), [(2, 7)]);
    drop(waits);
    let snapshot = broker.snapshot();
    assert_eq!((snapshot.asks, snapshot.matched, snapshot.abandoned), (0, 5, 5));
}

#[tokio::test]
async fn who_always_meets_somebody_lets_others_run() {
    let broker: Broker<u32, u32> =
        Broker::new(QueueConfig::default(), QueueConfig::default()).expect("good");
    let workers: Vec<_> = (0..1_000).map(|n| Box::pin(broker.ask_r(n))).collect();
    let workers: Vec<_> = workers
        .into_iter()
        .map(|mut worker| {
            assert!(poll(worker.as_mut()).is_pending());
            worker
        })
        .collect();
    let met = Arc::new(AtomicU32::new(0));
    let (asks, counted) = (broker.clone(), Arc::clone(&met));
    let greedy = tokio::spawn(async move {
        for n in 0..1_000 {
            asks.ask(n).await.expect("a worker waits");
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    tokio::task::yield_now().await;
    assert!((1..1_000).contains(&met.load(Ordering::Relaxed)), "it had the thread to itself");
    greedy.await.expect("no panic");
    drop(workers);
}

/// Matches, deadlines and dropped futures on two threads: everybody is told once or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_lost_between_two_threads() {
    let broker: Broker<u32, u32> =
        Broker::new(QueueConfig::default(), QueueConfig::default()).expect("good");
    let told = Arc::new(AtomicU32::new(0));
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let (broker, told) = (broker.clone(), Arc::clone(&told));
            tokio::spawn(async move {
                for round in 0..500 {
                    let give_up = async {
                        for _ in 0..(n + round) % 4 {
                            tokio::task::yield_now().await;
                        }
                    };
                    let met = tokio::select! {
                        met = async { match n % 2 {
                            0 => broker.ask(n).await.map(|go| go.value),
                            _ => broker.ask_r(n).await.map(|go| go.value),
                        }} => met.is_ok(),
                        () = give_up => false,
                    };
                    told.fetch_add(u32::from(met), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let snapshot = broker.snapshot();
    assert_eq!((snapshot.asks, snapshot.ask_rs), (0, 0));
    let told = u64::from(told.load(Ordering::Relaxed));
    assert_eq!(told + snapshot.abandoned, 2 * snapshot.matched, "each match has two ends");
}

#[tokio::test]
async fn a_thousand_pairs_meet() {
    let broker: Broker<u32, u32> =
        Broker::new(QueueConfig::default(), QueueConfig::default()).expect("good");
    let tasks: Vec<_> = (0..1_000)
        .flat_map(|n| {
            let (ask, ask_r) = (broker.clone(), broker.clone());
            [
                tokio::spawn(async move { ask.ask(n).await.is_ok() }),
                tokio::spawn(async move { ask_r.ask_r(n).await.is_ok() }),
            ]
        })
        .collect();
    for task in tasks {
        assert!(task.await.expect("no panic"));
    }
    let snapshot = broker.snapshot();
    assert_eq!((snapshot.matched, snapshot.asks, snapshot.ask_rs), (1_000, 0, 0));
}
