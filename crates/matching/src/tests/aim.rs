//! Lines under load, served by one who takes a millisecond each.

use std::vec::Vec;

use crate::{Discipline, Order, Queue, QueueConfig, Reason, Span, Time};

/// What became of the load.
struct Outcome {
    /// Waits of the served, in ms, in the order they were served.
    waits: Vec<i64>,
    dropped: Vec<(Reason, i64)>,
    idle: u32,
}

/// `load(ms)` come in each millisecond; one is served in each.
fn run(config: QueueConfig, millis: i64, load: impl Fn(i64) -> u32) -> Outcome {
    let mut queue = Queue::new(config, Time::ZERO);
    let mut outcome = Outcome { waits: Vec::new(), dropped: Vec::new(), idle: 0 };
    for ms in 0..millis {
        let (now, mut drops) = (Time::from_millis(ms), Vec::new());
        for _ in 0..load(ms) {
            queue.push(now, now, ms, &mut drops);
        }
        match queue.pop(now, &mut drops) {
            Some(entry) => outcome.waits.push((now - entry.send).as_millis()),
            None => outcome.idle += 1,
        }
        let late = drops.iter().map(|drop| (drop.reason, (now - drop.send).as_millis()));
        outcome.dropped.extend(late);
    }
    outcome
}

fn percentile(waits: &[i64], percent: usize) -> i64 {
    let mut waits = waits.to_vec();
    waits.sort_unstable();
    waits[(waits.len() - 1) * percent / 100]
}

fn aim(order: Order) -> QueueConfig {
    QueueConfig::aim(Span::from_millis(20), Span::from_millis(500)).with_order(order)
}

#[test]
fn twice_the_load_waits_about_the_aim() {
    for load in [2, 3, 10] {
        let outcome = run(aim(Order::Fifo), 30_000, |_| load);
        assert_eq!(outcome.idle, 0, "capacity is lost");
        assert!(percentile(&outcome.waits, 50) >= 20, "shed too early");
        assert!(percentile(&outcome.waits, 99) <= 60, "{}", percentile(&outcome.waits, 99));
        assert!(outcome.waits.iter().all(|wait| *wait <= 160), "the first judgement is late");
        assert!(outcome.dropped.iter().all(|(reason, _)| *reason == Reason::Overload));
    }
}

#[test]
fn plain_codel_loses_that_race() {
    let config = QueueConfig::codel(Span::from_millis(20), Span::from_millis(100));
    let outcome = run(config, 5_000, |_| 2);
    assert!(percentile(&outcome.waits, 50) > 100, "then the aim were not needed");
}

#[test]
fn an_adaptive_line_serves_the_newest_while_it_sheds() {
    let outcome = run(aim(Order::Adaptive), 30_000, |_| 2);
    assert_eq!(outcome.idle, 0);
    assert_eq!(percentile(&outcome.waits[1_000..], 90), 0, "the newest is served at once");
    let config = QueueConfig::codel(Span::from_millis(20), Span::from_millis(100));
    let outcome = run(config.with_order(Order::Adaptive), 30_000, |_| 2);
    assert!(percentile(&outcome.waits[1_000..], 50) <= 20);
}

#[test]
fn a_healthy_line_sheds_nobody() {
    // Bursts of 15 ms of work that are gone before the next one comes.
    let outcome = run(aim(Order::Adaptive), 10_000, |ms| if ms % 20 == 0 { 15 } else { 0 });
    assert!(outcome.dropped.is_empty());
    assert_eq!(outcome.waits.iter().max(), Some(&14), "first come, first served");
}

#[test]
fn a_line_recovers() {
    let load = |ms| if ms < 2_000 { 2 } else { u32::from(ms % 2 == 0) };
    let outcome = run(aim(Order::Fifo), 4_000, load);
    let served_late = &outcome.waits[outcome.waits.len() - 500..];
    assert!(served_late.iter().all(|wait| *wait == 0), "the line is empty again");
}

#[test]
fn a_line_nobody_serves_sheds_in_time() {
    let (mut queue, mut drops) = (Queue::new(aim(Order::Fifo), Time::ZERO), Vec::new());
    queue.push(Time::ZERO, Time::ZERO, (), &mut drops);
    let mut calls = 0;
    while let Some(due) = queue.deadline() {
        queue.tick(due, &mut drops);
        calls += 1;
    }
    // The first 80 ms began with an empty line; in the next nobody got through.
    assert_eq!((calls, drops.len(), drops[0].reason), (2, 1, Reason::Overload));
}

/// A line of those who were begun, none of whom gives up, waits for nothing: a timer at the end of
/// time would lie about for ever.
#[test]
fn who_never_gives_up_needs_no_timer() {
    for begin in [Time::ZERO, Time::from_nanos(-5_000_000_000)] {
        let config = QueueConfig::aim(Span::from_millis(20), Span::MAX);
        let (mut queue, mut drops) = (Queue::new(config, begin), Vec::new());
        queue.push(begin, begin, "first", &mut drops);
        assert!(queue.deadline().is_some(), "it may have to shed");
        assert!(queue.pop(begin, &mut drops).is_some());
        queue.put_back(begin, core::num::NonZero::<u64>::MIN, "first");
        assert_eq!((queue.len(), queue.deadline()), (1, None));
    }
}

/// A second in somebody's hands is no wait: whoever comes back is not shed, nor for its sake those
/// who came just now.
#[test]
fn what_was_begun_is_not_shed() {
    let at = Time::from_millis;
    let codel = QueueConfig::codel(Span::from_millis(5), Span::from_millis(40));
    for config in [aim(Order::Fifo), aim(Order::Lifo), aim(Order::Adaptive), codel] {
        let (mut queue, mut drops) = (Queue::new(config, Time::ZERO), Vec::new());
        queue.push(at(0), at(0), "first", &mut drops);
        assert!(queue.pop(at(0), &mut drops).is_some());
        queue.put_back(at(0), core::num::NonZero::<u64>::MIN, "first");
        // The interval from 80 to 160 has somebody old in it, who says nothing.
        queue.tick(at(170), &mut drops);
        assert!(!queue.is_shedding(), "{config:?}");
        // Nobody is served: others are shed, and it stays until it gives up.
        for ms in 170..490 {
            queue.push(at(ms), at(ms), "other", &mut drops);
        }
        assert!(drops.iter().all(|drop| drop.value == "other"), "{config:?}");
        assert!(queue.is_shedding() && !drops.is_empty(), "{config:?}");
        assert_eq!(queue.oldest(), Some(at(0)), "{config:?}");
        queue.tick(at(500), &mut drops);
        let first = drops.iter().find(|drop| drop.value == "first").map(|drop| drop.reason);
        let gives_up = matches!(config.discipline, Discipline::Aim(_));
        assert_eq!(first, gives_up.then_some(Reason::Expired), "{config:?}");
    }
}
