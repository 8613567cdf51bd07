//! One test for each defect of the original that is fixed here, named as in the specification
//! sheet, section 6.1. Each fails with the old behaviour.

use std::vec::Vec;

use crate::balancer::two_of;
use crate::{
    Admissions, Broker, ConfigError, Drops, FairConfig, FairQueue, GoOn, Order, PARTS, PieConfig,
    PieMeter, Protector, Queue, QueueConfig, Reason, Regulator, Rule, Sample, Side, Span, Time,
    Valve, ValveConfig,
};

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

/// The same defect where the catch-up leaves one waiter of a LIFO line.
#[test]
fn q1_codel_never_drops_the_last_while_it_is_fast() {
    let (mut queue, mut drops) =
        (Queue::new(codel(5, 1).with_order(Order::Lifo), at(0)), Vec::new());
    for id in 0..3 {
        queue.push(at(0), at(0), id, &mut drops);
    }
    queue.push(at(5), at(3), 3, &mut drops);
    queue.push(at(7), at(7), 4, &mut drops);
    assert_eq!(queue.pop(at(8), &mut drops).map(|entry| entry.value), Some(4));
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

#[test]
fn q4_whoever_closes_the_valve_learns_its_own_times() {
    let valve = ValveConfig::rate(2, Span::from_millis(250));
    let mut regulator = Regulator::new(QueueConfig::default(), valve, at(0));
    let mut out = Admissions::default();
    assert!(regulator.ask(at(100), at(100), 'a', &mut out).is_some());
    assert!(regulator.ask(at(110), at(100), 'b', &mut out).is_some());
    regulator.tick(at(300), &mut out);
    let times: Vec<_> = out
        .admitted
        .iter()
        .map(|one| (one.value, one.relative().as_millis(), one.sojourn(at(300)).as_millis()))
        .collect();
    assert_eq!(times, [('a', 150, 200), ('b', 150, 200)]);
    assert!(!regulator.is_open());
}

#[test]
fn q6_any_two_are_compared() {
    for n in 2..9 {
        let mut pairs: Vec<_> = (0..n * (n - 1)).filter_map(|draw| two_of(n, draw)).collect();
        assert!(pairs.iter().all(|(a, b)| a != b && *a < n && *b < n));
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), n * (n - 1), "each ordered pair once");
    }
    assert_eq!(two_of(1, 0), None);
    assert_eq!(two_of(0, 0), None);
}

#[test]
fn q7_an_idle_broker_refuses_nobody() {
    let mut meter = PieMeter::new(PieConfig::default(), at(0));
    let mut gate = Protector::new(0, u64::MAX);
    // Nobody has come for a minute, so the time since the last one grows and grows.
    for tick in 0..600 {
        let now = at(tick * 100);
        gate.update(meter.sample(&Sample { now, relative: now - at(0), ..Sample::default() }));
    }
    assert_eq!(gate.drop_parts(Side::Ask), PARTS, "the meter takes it for overload");
    assert!(gate.admit(Side::Ask, 0, 0), "nobody waits, so there is room");
    assert!(!gate.admit(Side::Ask, 1, 0), "behind somebody who waits the meter is right");
}

#[test]
fn q8_a_release_leaves_nothing_behind() {
    let rules =
        [Rule::Relative(Span::ZERO), Rule::Codel { target: Span::ZERO, interval: Span::MAX }];
    for rule in rules {
        let valve = ValveConfig { min: 1, max: 2, rule };
        let mut regulator = Regulator::new(QueueConfig::default(), valve, at(0));
        let mut out = Admissions::default();
        for cycle in 0..1_000 {
            regulator.ask(at(cycle), at(cycle), (), &mut out);
            let lock = out.admitted.pop().expect("the valve is open below min").lock;
            assert!(regulator.done(at(cycle), lock, true, &mut out));
            assert!(!regulator.lost(at(cycle), lock, &mut out), "nobody watches it any more");
            assert_eq!((regulator.size(), regulator.valve().size()), (0, 0));
        }
    }
}

#[test]
fn q9_two_readings_with_no_message_between_them() {
    let sample = Sample::read((at(10), at(20)), 0, at(10), at(0), Side::Ask);
    assert_eq!(sample.process_delay, Span::from_millis(10));
    assert_eq!(sample.queue_delay, Span::ZERO);
}

#[test]
fn q10_who_goes_on_consumes_the_opening_it_is_told_of() {
    let mut valve = Valve::new(ValveConfig::rate(2, Span::from_millis(1_000)), 0, at(0));
    assert_eq!(valve.admit(at(1_000)), at(1_000));
    assert_eq!(valve.go_on(at(1_100)), Some(at(1_000)));
}

#[test]
fn q11_a_valve_that_new_limits_open_opens_now() {
    let mut valve = Valve::new(ValveConfig::limit(1), 0, at(0));
    valve.admit(at(10));
    assert!(!valve.is_open(at(10)));
    valve.reconfigure(at(5_000), ValveConfig::limit(2));
    assert_eq!(valve.opening(), Some(at(5_000)));
    valve.reconfigure(at(6_000), ValveConfig::limit(3));
    assert_eq!(valve.opening(), Some(at(5_000)), "it was open already");
}

/// Q12: the original says ok, applies one half and dies with everybody who waits. Q13: it blames
/// the wrong part when a change fails.
#[test]
fn q12_q13_a_bad_configuration_changes_nothing_and_is_named() {
    let good = QueueConfig::timeout(Span::from_millis(5));
    let bad = QueueConfig { min: 2, max: 1, ..good };
    let mut broker: Broker<u8, u8> = Broker::new(QueueConfig::default(), good, at(0));
    let mut drops = Drops::default();
    broker.ask(at(0), at(0), 1, &mut drops);
    let told = broker.try_reconfigure(at(9), good, bad, &mut drops);
    assert_eq!(told, Err(ConfigError::MinAboveMax));
    assert_eq!(broker.asks().config(), &QueueConfig::default(), "no half is applied");
    assert_eq!((broker.asks().len(), drops.is_empty()), (1, true));

    let mut regulator: Regulator<u8> = Regulator::new(good, ValveConfig::limit(0), at(0));
    let mut out = Admissions::default();
    regulator.ask(at(0), at(0), 1, &mut out);
    let valve = ValveConfig::rate(1, Span::ZERO);
    let told = regulator.reconfigure(at(1), QueueConfig::default(), valve, &mut out);
    assert_eq!(told, Err(ConfigError::Interval));
    assert_eq!(regulator.queue().config(), &good);
    assert_eq!((regulator.len(), out), (1, Admissions::default()));
    assert_eq!(regulator.go_on(at(1), crate::Lock::default(), &mut Admissions::default()), {
        GoOn::NotFound
    });
}
