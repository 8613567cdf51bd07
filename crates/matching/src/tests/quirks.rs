//! One test for each defect of the original that is fixed here, named as in the specification
//! sheet, section 6.1. Each fails with the old behaviour.

use std::vec::Vec;

use crate::{FairConfig, FairQueue, Order, Queue, QueueConfig, Reason, Span, Time};

fn at(millis: i64) -> Time {
    Time::from_millis(millis)
}

fn codel(target: i64, interval: i64) -> QueueConfig {
    QueueConfig::codel(Span::from_millis(target), Span::from_millis(interval))
}

#[test]
fn q1_codel_never_drops_the_fast() {
    let (mut queue, mut drops) = (Queue::new(codel(10, 20), at(0)), Vec::new());
    for id in 0..4 {
        queue.push(at(0), at(0), id, &mut drops);
    }
    queue.tick(at(10), &mut drops);
    queue.tick(at(30), &mut drops);
    assert_eq!(drops.len(), 1);
    // Three more drops are overdue, and then it is this one's turn.
    assert!(queue.push(at(95), at(95), 4, &mut drops).is_some());
    assert_eq!(drops.iter().map(|drop| drop.value).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(queue.deadline(), Some(at(105)));
    assert!(drops.iter().all(|drop| drop.reason == Reason::Overload));
}

#[test]
fn q2_a_lifo_line_that_served_everybody_fast_is_calm() {
    let config = codel(10, 100).with_order(Order::Lifo);
    let (mut queue, mut drops) = (Queue::new(config, at(0)), Vec::new());
    queue.push(at(0), at(0), 'a', &mut drops);
    queue.push(at(0), at(0), 'b', &mut drops);
    queue.tick(at(10), &mut drops);
    queue.pop(at(11), &mut drops);
    queue.pop(at(12), &mut drops);
    queue.push(at(105), at(105), 'c', &mut drops);
    assert_eq!(queue.pop(at(106), &mut drops).map(|entry| entry.value), Some('c'));
    // Slow from 310 on, so nothing may be dropped before 410.
    queue.push(at(300), at(300), 'd', &mut drops);
    queue.tick(at(310), &mut drops);
    assert_eq!((queue.len(), drops.len()), (1, 0));
    assert_eq!(queue.deadline(), Some(at(410)));
}

#[test]
fn q3_no_timer_at_or_below_min() {
    let config = QueueConfig::timeout(Span::from_millis(100));
    let config = QueueConfig { min: 1, ..config.with_order(Order::Lifo) };
    let (mut queue, mut drops) = (Queue::new(config, at(0)), Vec::new());
    queue.push(at(50), at(50), 'b', &mut drops);
    queue.push(at(60), at(60), 'c', &mut drops);
    assert_eq!(queue.pop(at(105), &mut drops).map(|entry| entry.value), Some('c'));
    assert_eq!(queue.deadline(), None);
}

#[test]
fn q5_a_flow_past_its_time_begins_anew() {
    let config = FairConfig { line: codel(10, 100), flows: u64::MAX };
    let (mut queue, mut drops) = (FairQueue::new(config), Vec::new());
    for id in 0..3 {
        queue.push(at(0), at(0), 1, id, &mut drops);
    }
    for tick in [10, 110, 210] {
        queue.tick(at(tick), &mut drops);
    }
    assert_eq!(drops.len(), 2);
    while queue.pop(at(211), &mut drops).is_some() {}
    assert_eq!(queue.flows(), (0, 1));
    let knows = |queue: &FairQueue<i32>| !std::format!("{queue:?}").contains("count: 0");
    assert!(knows(&queue), "a flow is remembered");
    // Long after, with no sweep in between.
    queue.push(at(2_000), at(2_000), 1, 9, &mut drops);
    assert!(!knows(&queue), "a flow that was to be forgotten came back");
}
