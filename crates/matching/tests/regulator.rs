//! Regulators that are awaited. Time is paused and jumps to whoever sleeps next.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use matching::live::{Regulator, RegulatorSnapshot, Sheds};
use matching::{Breaker, QueueConfig, Reason, Rule, Span, ValveConfig};
use tokio::time::{Instant, sleep, timeout};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn span(millis: i64) -> Span {
    Span::from_millis(millis)
}

fn limit(max: usize) -> Regulator {
    Regulator::new(QueueConfig::default(), ValveConfig::limit(max)).expect("a good configuration")
}

fn ruled(rule: Rule) -> Regulator {
    let valve = ValveConfig { rule, ..ValveConfig::default() };
    Regulator::new(QueueConfig::default(), valve).expect("a good configuration")
}

/// Polls a future once.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn as_many_run_as_may() {
    let line = QueueConfig::timeout(span(100));
    let regulator = Regulator::new(line, ValveConfig::limit(2)).expect("a good configuration");
    let one = regulator.acquire().await.expect("open");
    let two = regulator.try_acquire().expect("open");
    assert!(regulator.try_acquire().is_none());
    let shed = regulator.acquire().await.expect_err("nobody gives back");
    assert_eq!((shed.reason, shed.sojourn), (Reason::Expired, span(100)));

    let other = regulator.clone();
    let waits = tokio::spawn(async move { other.acquire().await });
    sleep(ms(40)).await;
    let snapshot = regulator.snapshot();
    assert_eq!((snapshot.permits, snapshot.waiting, snapshot.oldest), (2, 1, span(40)));
    assert!(!snapshot.open);
    drop(one);
    let three = waits.await.expect("no panic").expect("its turn");
    assert_eq!((three.sojourn(), three.relative()), (span(40), span(40)));
    drop((two, three));
    let shed = Sheds { expired: 1, ..Sheds::default() };
    let expected = RegulatorSnapshot { open: true, admitted: 3, shed, ..Default::default() };
    assert_eq!(regulator.snapshot(), expected);
}

#[tokio::test(start_paused = true)]
async fn who_brings_a_deadline_waits_no_longer() {
    let regulator = limit(1);
    let permit = regulator.acquire().await.expect("open");
    let start = Instant::now();
    let shed = regulator.acquire_deadline(start + ms(30)).await.expect_err("nobody gives back");
    assert_eq!((shed.reason, shed.sojourn), (Reason::Expired, span(30)));
    assert!(start.elapsed() < ms(35));
    let shed = regulator.acquire_deadline(start).await.expect_err("too late");
    assert_eq!((shed.reason, shed.sojourn), (Reason::Expired, Span::ZERO));
    drop(permit);
    assert!(regulator.acquire_deadline(Instant::now() + ms(1)).await.is_ok());
    assert_eq!(regulator.snapshot().shed.expired, 2);
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_gets_nothing() {
    let regulator = limit(1);
    let permit = regulator.acquire().await.expect("open");
    assert!(timeout(ms(10), regulator.acquire()).await.is_err());
    assert_eq!(regulator.snapshot().waiting, 0);
    drop(permit);
    let snapshot = regulator.snapshot();
    assert_eq!((snapshot.permits, snapshot.admitted, snapshot.abandoned), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_nobody_hears_of_goes_back() {
    let regulator = limit(1);
    let permit = regulator.acquire().await.expect("open");
    let mut first = Box::pin(regulator.acquire());
    let mut second = Box::pin(regulator.acquire());
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    drop(permit);
    assert_eq!((regulator.snapshot().permits, regulator.snapshot().waiting), (1, 1));
    // Granted, and dropped before it looked: the next one has it.
    drop(first);
    assert_eq!((regulator.snapshot().permits, regulator.snapshot().waiting), (1, 0));
    let Poll::Ready(Ok(permit)) = poll(second.as_mut()) else { panic!("it was lost") };
    drop(permit);
    let snapshot = regulator.snapshot();
    assert_eq!((snapshot.permits, snapshot.admitted, snapshot.abandoned), (0, 3, 1));
}

#[tokio::test(start_paused = true)]
async fn who_may_not_go_on_has_no_permit_any_more() {
    let regulator = limit(2);
    let one = regulator.acquire().await.expect("open");
    let two = regulator.acquire().await.expect("open");
    sleep(ms(7)).await;
    let one = one.go_on().expect("two may run");
    assert_eq!(one.sojourn(), Span::ZERO);
    regulator.reconfigure(QueueConfig::default(), ValveConfig::limit(1)).expect("good");
    assert_eq!(regulator.snapshot().permits, 2, "permits stay out");
    assert!(one.go_on().is_none());
    assert_eq!(regulator.snapshot().permits, 1);
    assert!(two.go_on().is_some(), "it is the only one");
    assert_eq!(regulator.snapshot().permits, 0);
}

#[tokio::test(start_paused = true)]
async fn line_and_valve_change_while_somebody_waits() {
    let regulator = limit(1);
    let permit = regulator.acquire().await.expect("open");
    let mut waits = Box::pin(regulator.acquire());
    assert!(poll(waits.as_mut()).is_pending());
    let before = regulator.snapshot();
    let bad = ValveConfig { min: 2, max: 1, rule: Rule::Open };
    assert!(regulator.reconfigure(QueueConfig::timeout(Span::ZERO), bad).is_err());
    let bad = QueueConfig { min: 2, max: 1, ..QueueConfig::default() };
    assert!(regulator.reconfigure(bad, ValveConfig::limit(2)).is_err());
    assert_eq!(regulator.snapshot(), before, "neither changes");
    regulator.reconfigure(QueueConfig::default(), ValveConfig::limit(2)).expect("good");
    let Poll::Ready(Ok(second)) = poll(waits.as_mut()) else { panic!("there is room for two") };
    drop((permit, second));
}

#[tokio::test(start_paused = true)]
async fn a_closed_regulator_turns_away_and_drains() {
    let regulator = limit(1);
    let permit = regulator.acquire().await.expect("open");
    let mut waits = Box::pin(regulator.acquire());
    assert!(poll(waits.as_mut()).is_pending());
    let mut drained = Box::pin(regulator.drained());
    assert!(poll(drained.as_mut()).is_pending());
    regulator.close();
    regulator.close();
    let told = waits.await.expect_err("closed");
    assert_eq!(told.reason, Reason::Draining);
    assert_eq!(regulator.acquire().await.expect_err("closed").reason, Reason::Draining);
    assert!(regulator.try_acquire().is_none());
    assert!(poll(drained.as_mut()).is_pending(), "one still runs");
    assert!(permit.go_on().is_none(), "it must come to an end");
    assert!(poll(drained.as_mut()).is_ready());
    regulator.drained().await;
    let snapshot = regulator.snapshot();
    assert_eq!((snapshot.permits, snapshot.shed.draining, snapshot.open), (0, 2, false));
}

#[tokio::test(start_paused = true)]
async fn a_broken_valve_opens_by_time() {
    let breaker = Breaker { failures: 1, rest: span(200), ..Breaker::default() };
    let regulator = ruled(Rule::Breaker(breaker));
    regulator.acquire().await.expect("whole").failed();
    assert!(regulator.try_acquire().is_none());
    let strict = QueueConfig::default().with_max(0);
    let valve = ValveConfig { rule: Rule::Breaker(breaker), ..ValveConfig::default() };
    regulator.reconfigure(strict, valve).expect("good");
    let shed = regulator.acquire().await.expect_err("nobody may wait");
    assert_eq!((shed.reason, shed.retry_after), (Reason::QueueFull, span(200)));
    regulator.reconfigure(QueueConfig::default(), valve).expect("good");
    let start = Instant::now();
    let probe = regulator.acquire().await.expect("it heals");
    assert!((ms(200)..ms(205)).contains(&start.elapsed()));
    drop(probe);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_panics_has_failed() {
    let breaker = Breaker { failures: 1, rest: span(200), ..Breaker::default() };
    let regulator = ruled(Rule::Breaker(breaker));
    regulator.acquire().await.expect("whole").lost();
    let permit = regulator.try_acquire().expect("who is lost did not fail");
    let panics = tokio::spawn(async move {
        let _permit = permit;
        panic!("on purpose");
    });
    assert!(panics.await.is_err());
    assert!(regulator.try_acquire().is_none(), "the circuit is broken");
    assert_eq!(regulator.snapshot().permits, 0);
}

/// As sbroker's: nothing starts above `min` during the first interval.
#[tokio::test(start_paused = true)]
async fn a_rate_valve_admits_above_min_from_the_second_interval_on() {
    let rule = Rule::Rate { limit: 2, interval: span(1_000) };
    let regulator = ruled(rule);
    let start = Instant::now();
    assert!(regulator.try_acquire().is_none());
    let mut started = Vec::new();
    for _ in 0..3 {
        drop(regulator.acquire().await.expect("its turn"));
        started.push(start.elapsed().as_secs());
    }
    assert_eq!(started, [1, 1, 2]);
    let valve = ValveConfig { min: 1, max: usize::MAX, rule };
    let eager = Regulator::new(QueueConfig::default(), valve).expect("good");
    assert!(eager.try_acquire().is_some(), "below min at once");
}

/// Who asks once the time has come does not depend on the task that wakes the others.
#[tokio::test(start_paused = true)]
async fn what_time_opened_is_open() {
    let regulator = ruled(Rule::Rate { limit: 1, interval: span(50) });
    let asked = tokio::spawn(async move {
        sleep(ms(50)).await;
        regulator.try_acquire().is_some()
    });
    assert!(asked.await.expect("no panic"));
}

#[tokio::test(start_paused = true)]
async fn updates_open_a_relative_valve() {
    let regulator = ruled(Rule::Relative(span(-5)));
    assert!(regulator.try_acquire().is_none(), "nobody said that there are too few");
    regulator.update(span(-4));
    assert!(regulator.try_acquire().is_none());
    let mut waits = Box::pin(regulator.acquire());
    assert!(poll(waits.as_mut()).is_pending());
    regulator.update(span(-6));
    let Poll::Ready(Ok(permit)) = poll(waits.as_mut()) else { panic!("one more may run") };
    assert!(regulator.try_acquire().is_none(), "one only");
    drop(permit);
}

/// Never more than may run, on two threads that give up at any point; nothing stays behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_permit_is_lost_between_two_threads() {
    const LIMIT: usize = 3;
    let regulator = limit(LIMIT);
    let (running, ran) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU32::new(0)));
    let tasks: Vec<_> = (0..32)
        .map(|n: u32| {
            let (regulator, running) = (regulator.clone(), Arc::clone(&running));
            let ran = Arc::clone(&ran);
            tokio::spawn(async move {
                for round in 0..500 {
                    let give_up = async {
                        for _ in 0..(n + round) % 5 {
                            tokio::task::yield_now().await;
                        }
                    };
                    let permit = tokio::select! {
                        permit = regulator.acquire() => permit.ok(),
                        () = give_up => None,
                    };
                    let Some(permit) = permit else { continue };
                    assert!(running.fetch_add(1, Ordering::SeqCst) < LIMIT);
                    if round % 3 == 0 {
                        tokio::task::yield_now().await;
                    }
                    running.fetch_sub(1, Ordering::SeqCst);
                    ran.fetch_add(1, Ordering::Relaxed);
                    drop(permit);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let snapshot = regulator.snapshot();
    assert_eq!((snapshot.permits, snapshot.waiting), (0, 0));
    assert_eq!(u64::from(ran.load(Ordering::Relaxed)) + snapshot.abandoned, snapshot.admitted);
}
