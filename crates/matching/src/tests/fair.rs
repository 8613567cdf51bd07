//! Fair queues: properties F1 to F9 of the specification sheet, section 4.

use core::num::NonZero;
use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::queue::any_config;
use crate::{Broker, Drops, FairConfig, FairKey, FairQueue, Flow, Outcome, Queue, QueueConfig};
use crate::{Reason, Span, Time};

fn config(line: QueueConfig) -> FairConfig {
    FairConfig { line, flows: u64::MAX }
}

#[derive(Clone, Debug)]
enum Call {
    Wait(i64),
    Push(u64),
    Pop,
    Cancel(usize),
    Tick,
    Configure(QueueConfig),
    /// Deal everybody into so many flows.
    Rekey(u64),
}

fn any_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => (0i64..8).prop_map(Call::Wait),
        8 => (0u64..5).prop_map(Call::Push),
        5 => Just(Call::Pop),
        1 => (0usize..64).prop_map(Call::Cancel),
        1 => Just(Call::Tick),
        1 => any_config().prop_map(Call::Configure),
        1 => (1u64..7).prop_map(Call::Rekey),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(1_500)
    })]

    /// Nobody is lost, nobody leaves twice, flows keep their order, keys stay good.
    #[test]
    fn everybody_leaves_once_and_in_order(
        line in any_config(),
        calls in prop::collection::vec(any_call(), 0..80),
    ) {
        let mut now = Time::ZERO;
        let mut queue = FairQueue::new(config(line));
        let mut waiting: BTreeMap<u64, FairKey> = BTreeMap::new();
        let mut pushed = Vec::new();
        for call in calls {
            let mut drops = Vec::new();
            match call {
                Call::Wait(span) => now += Span::from_nanos(span),
                Call::Push(flow) => {
                    // The value says its flow.
                    let value = pushed.len() as u64 * 8 + flow;
                    let key = queue.push(now, now, flow, value, &mut drops);
                    pushed.push(key);
                    waiting.extend(key.map(|key| (value, key)));
                    drops.retain(|drop| key.is_some() || drop.value != value);
                }
                Call::Pop => {
                    if let Some(entry) = queue.pop(now, &mut drops) {
                        assert!(waiting.remove(&entry.value).is_some());
                    }
                }
                Call::Cancel(share) => {
                    let key = pushed.get(share * pushed.len() / 64).copied().flatten();
                    let Some(key) = key else { continue };
                    let cancelled = queue.cancel(now, key, &mut drops);
                    let there = waiting.iter().find(|(_, its)| **its == key).map(|(id, _)| *id);
                    assert_eq!(cancelled, there, "a key means one waiter for ever");
                    waiting.retain(|_, its| *its != key);
                }
                Call::Tick => queue.tick(now, &mut drops),
                Call::Configure(line) => {
                    let flows = queue.config().flows;
                    queue.reconfigure(now, FairConfig { line, flows }, &mut drops);
                }
                Call::Rekey(flows) => {
                    let config = FairConfig { flows, ..*queue.config() };
                    queue.rekey(now, config, |value| value % 8, &mut drops);
                }
            }
            for drop in drops {
                assert!(waiting.remove(&drop.value).is_some(), "dropped, but it was not there");
            }
            assert_eq!(queue.len(), waiting.len());
            assert_eq!(queue.is_empty(), waiting.is_empty());
            for (value, key) in &waiting {
                assert_eq!(queue.get(*key), Some(value));
            }
        }
        queue.reconfigure(now, config(QueueConfig::default()), &mut Vec::new());
        while let Some(entry) = queue.pop(now, &mut Vec::new()) {
            assert!(waiting.remove(&entry.value).is_some());
        }
        assert!(waiting.is_empty());
    }

    /// F9: with one key a fair queue is its line.
    #[test]
    fn with_one_flow_it_is_its_line(
        line in any_config(),
        calls in prop::collection::vec(any_call(), 0..80),
    ) {
        let mut now = Time::ZERO;
        let mut fair = FairQueue::new(FairConfig { line, flows: 1 });
        let mut plain = Queue::new(line, now);
        for (id, call) in calls.into_iter().enumerate() {
            let (mut drops, mut same) = (Vec::new(), Vec::new());
            match call {
                Call::Wait(span) => now += Span::from_nanos(span),
                Call::Push(flow) => {
                    let got = fair.push(now, now, flow, id, &mut drops);
                    assert_eq!(got.is_some(), plain.push(now, now, id, &mut same).is_some());
                }
                Call::Pop => {
                    let got = fair.pop(now, &mut drops).map(|entry| entry.value);
                    assert_eq!(got, plain.pop(now, &mut same).map(|entry| entry.value));
                }
                Call::Tick => {
                    fair.tick(now, &mut drops);
                    plain.tick(now, &mut same);
                }
                Call::Configure(line) => {
                    fair.reconfigure(now, FairConfig { line, flows: 1 }, &mut drops);
                    plain.reconfigure(now, line, &mut same);
                }
                Call::Cancel(_) | Call::Rekey(_) => {}
            }
            assert_eq!(drops, same);
            assert_eq!(fair.oldest(), plain.oldest());
        }
    }
}

/// F2: between two hand-outs of a backlogged key every other backlogged key is served once.
#[test]
fn everyone_has_a_turn() {
    let (mut queue, mut drops) = (FairQueue::new(config(QueueConfig::default())), Vec::new());
    for (flow, waiters) in [(1, 100), (2, 10), (3, 10)] {
        for _ in 0..waiters {
            queue.push(Time::ZERO, Time::ZERO, flow, flow, &mut drops);
        }
    }
    let served: Vec<u64> = (0..30)
        .filter_map(|_| queue.pop(Time::ZERO, &mut drops).map(|entry| entry.value))
        .collect();
    assert_eq!(served, [1, 2, 3].repeat(10));

    queue.weigh(1, NonZero::new(3).expect("above zero"));
    queue.push(Time::ZERO, Time::ZERO, 2, 2, &mut drops);
    queue.push(Time::ZERO, Time::ZERO, 2, 2, &mut drops);
    let served: Vec<u64> =
        (0..8).filter_map(|_| queue.pop(Time::ZERO, &mut drops).map(|entry| entry.value)).collect();
    assert_eq!(served, [1, 1, 1, 2, 1, 1, 1, 2]);
}

/// F4: one flow's capacity is not another's.
#[test]
fn a_full_flow_refuses_its_own_only() {
    let line = QueueConfig::default().with_max(2);
    let (mut queue, mut drops) = (FairQueue::new(config(line)), Vec::new());
    for id in 0..5 {
        queue.push(Time::ZERO, Time::ZERO, 1, id, &mut drops);
    }
    assert_eq!(drops.len(), 3);
    assert!(drops.iter().all(|drop| drop.reason == Reason::QueueFull));
    assert!(queue.push(Time::ZERO, Time::ZERO, 2, 9, &mut drops).is_some());
    assert_eq!((queue.flow_len(1), queue.flow_len(2), queue.len()), (2, 1, 3));
}

/// However many keys strangers choose, there are no more flows than configured.
#[test]
fn the_key_table_is_bounded() {
    let line = QueueConfig::codel(Span::from_millis(5), Span::from_millis(100));
    let (mut queue, mut drops) = (FairQueue::new(FairConfig { line, flows: 16 }), Vec::new());
    for key in 0..10_000 {
        queue.push(Time::ZERO, Time::ZERO, key, key, &mut drops);
    }
    assert_eq!(queue.flows(), (16, 0));
    let now = Time::from_millis(1);
    while queue.pop(now, &mut drops).is_some() {}
    assert!(queue.flows().1 <= 16);
}

/// A request that says who sent it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct From(u64);

impl Flow for From {
    fn flow(&self) -> u64 {
        self.0
    }
}

#[test]
fn a_broker_seats_the_flows_in_turn() {
    let line = QueueConfig::timeout(Span::from_millis(10));
    let asks = FairQueue::new(config(line));
    let mut broker: Broker<From, (), FairQueue<From>> =
        Broker::with_lines(asks, Queue::new(QueueConfig::default(), Time::ZERO));
    let mut drops = Drops::default();
    let mut keys = Vec::new();
    for flow in [1, 1, 1, 1, 2, 3] {
        match broker.ask(Time::ZERO, Time::ZERO, From(flow), &mut drops) {
            Outcome::Waiting(key) => keys.push(key),
            Outcome::Matched(_) | Outcome::Dropped => panic!("it waits"),
        }
    }
    let mut seated = Vec::new();
    for _ in 0..4 {
        let now = Time::from_millis(1);
        match broker.ask_r(now, now, (), &mut drops) {
            Outcome::Matched(met) => seated.push(met.ask.value.0),
            Outcome::Waiting(_) | Outcome::Dropped => panic!("somebody waits"),
        }
    }
    assert_eq!(seated, [1, 2, 3, 1]);
    assert_eq!(broker.cancel(Time::from_millis(2), keys[2], &mut drops), Some(From(1)));
    assert_eq!(broker.deadline(), Some(Time::from_millis(10)));
    broker.tick(Time::from_millis(10), &mut drops);
    assert_eq!((drops.asks.len(), drops.asks[0].reason), (1, Reason::Expired));
}
