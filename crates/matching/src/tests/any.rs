//! Lines that change their kind while somebody waits, and brokers that are shut.

use core::num::NonZero;
use std::vec::Vec;

use proptest::prelude::*;

use crate::{AnyConfig, AnyLine, Broker, Drops, FairConfig, FairQueue, Flow, Line, Outcome};
use crate::{QueueConfig, Reason, Span, Time};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Waiter(u32);

impl Flow for Waiter {
    fn flow(&self) -> u64 {
        u64::from(self.0 % 3)
    }
    fn order(&self) -> u64 {
        u64::from(self.0)
    }
}

#[derive(Clone, Debug)]
enum Call {
    /// Somebody comes so many milliseconds after the one before.
    Push(i64),
    /// One of those handed out returns.
    PutBack(usize),
    Pop,
    /// The n-th of those who wait leaves.
    Cancel(usize),
    /// One line (0) or so many flows.
    Become(u64),
}

fn any_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => (0i64..3).prop_map(Call::Push),
        2 => (0usize..8).prop_map(Call::PutBack),
        3 => Just(Call::Pop),
        1 => (0usize..16).prop_map(Call::Cancel),
        2 => (0u64..4).prop_map(Call::Become),
    ]
}

fn config(flows: u64) -> AnyConfig {
    AnyConfig { flows: NonZero::new(flows), ..QueueConfig::default().into() }
}

/// Whoever was put back is known as such in whatever its line becomes.
#[test]
fn what_was_begun_is_not_shed_after_a_move() {
    let aim = QueueConfig::aim(Span::from_millis(20), Span::from_secs(9));
    let aimed = |flows| AnyConfig { flows: NonZero::new(flows), ..aim.into() };
    let fair = |flows| FairConfig { line: aim, flows };
    let at = Time::from_millis;
    let (mut line, mut drops) = (AnyLine::new(aimed(0), at(0)), Vec::new());
    let mut fair_line = FairQueue::new(fair(1));
    for id in [1, 2] {
        line.push(at(0), at(0), Waiter(id), &mut drops);
        Line::push(&mut fair_line, at(0), at(0), Waiter(id), &mut drops);
    }
    assert!(line.pop(at(0), &mut drops).is_some() && fair_line.pop(at(0), &mut drops).is_some());
    line.put_back(at(1), at(0), NonZero::<u64>::MIN, Waiter(1));
    Line::put_back(&mut fair_line, at(1), at(0), NonZero::<u64>::MIN, Waiter(1));
    for (ms, flows) in [(2, 3), (3, 2), (4, 0), (5, 3)] {
        line.reconfigure(at(ms), aimed(flows), &mut drops);
        Line::reconfigure(&mut fair_line, at(ms), fair(flows.max(1)), &mut drops);
    }
    assert_eq!(drops, Vec::new());
    for ms in (10..500).step_by(10) {
        line.tick(at(ms), &mut drops);
        fair_line.tick(at(ms), &mut drops);
    }
    let dropped: Vec<_> = drops.iter().map(|drop| (drop.value.0, drop.reason)).collect();
    assert_eq!(dropped, [(2, Reason::Overload), (2, Reason::Overload)]);
    assert_eq!((line.oldest(), line.oldest_fresh()), (Some(at(0)), None));
    assert_eq!((fair_line.oldest(), fair_line.oldest_fresh()), (Some(at(0)), None));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(500)
    })]

    /// Whatever a line becomes, everybody in it keeps the place of arrival and can be found.
    #[test]
    fn a_line_that_changes_its_kind_keeps_everybody_in_order(
        calls in prop::collection::vec(any_call(), 0..60),
    ) {
        let (mut line, mut drops) = (AnyLine::new(config(0), Time::ZERO), Vec::new());
        let (mut now, mut came, mut returned) = (Time::ZERO, 0, false);
        // Send time and number.
        let mut waiting: Vec<(Time, u32)> = Vec::new();
        let mut out: Vec<(Time, u32)> = Vec::new();
        for call in calls {
            match call {
                Call::Push(after) => {
                    now += Span::from_millis(after);
                    came += 1;
                    waiting.push((now, came));
                    prop_assert!(line.push(now, now, Waiter(came), &mut drops).is_some());
                }
                Call::PutBack(n) if !out.is_empty() => {
                    let (send, id) = out.swap_remove(n % out.len());
                    let rank = NonZero::new(u64::from(id)).expect("from one on");
                    line.put_back(now, send, rank, Waiter(id));
                    waiting.push((send, id));
                    returned = true;
                }
                Call::PutBack(_) => {}
                Call::Pop => {
                    let popped = line.pop(now, &mut drops).map(|entry| (entry.send, entry.value.0));
                    prop_assert_eq!(popped.is_some(), !waiting.is_empty());
                    if let Some((send, id)) = popped {
                        waiting.retain(|(_, other)| *other != id);
                        out.push((send, id));
                    }
                }
                Call::Cancel(n) if !waiting.is_empty() => {
                    let (_, id) = waiting.remove(n % waiting.len());
                    let key = line.entries().find(|(_, waiter)| waiter.0 == id).map(|(key, _)| key);
                    let key = key.expect("everybody who waits can be found");
                    prop_assert_eq!(line.get(key), Some(&Waiter(id)));
                    prop_assert_eq!(line.cancel(now, key, &mut drops), Some(Waiter(id)));
                }
                Call::Cancel(_) => {}
                Call::Become(flows) => line.reconfigure(now, config(flows), &mut drops),
            }
            prop_assert_eq!(line.len(), waiting.len());
        }
        line.reconfigure(now, config(0), &mut drops);
        waiting.sort_unstable();
        let left = core::iter::from_fn(|| {
            line.pop(now, &mut Vec::new()).map(|entry| (entry.send, entry.value.0))
        });
        let mut left: Vec<(Time, u32)> = left.collect();
        prop_assert!(left.is_sorted_by_key(|(send, _)| *send));
        // Whoever returns to a fair line stands before all others of its moment.
        if returned {
            left.sort_unstable();
        }
        prop_assert_eq!(left, waiting);
        prop_assert_eq!(drops, Vec::new());
    }

    /// A broker that is shut keeps both sides; opened, it seats them as it would have, and is
    /// then like one that never was shut.
    #[test]
    fn a_shut_broker_seats_everybody_later(
        calls in prop::collection::vec((0u8..6, 0i64..3), 0..60),
    ) {
        let line = QueueConfig::default();
        let mut broker: Broker<u32, u32> = Broker::new(line, line, Time::ZERO);
        let (mut drops, mut now) = (Drops::default(), Time::ZERO);
        let (mut asked, mut offered) = (0, 0);
        let mut met = Vec::new();
        for (call, after) in calls {
            now += Span::from_millis(after);
            match call {
                0 | 1 => {
                    asked += 1;
                    let outcome = broker.ask(now, now, asked, &mut drops);
                    if let Outcome::Matched(seated) = outcome {
                        prop_assert!(!broker.is_shut());
                        met.push((seated.ask.value, seated.ask_r.value));
                    }
                }
                2 | 3 => {
                    offered += 1;
                    let outcome = broker.ask_r(now, now, offered, &mut drops);
                    if let Outcome::Matched(seated) = outcome {
                        prop_assert!(!broker.is_shut());
                        met.push((seated.ask.value, seated.ask_r.value));
                    }
                }
                4 => broker.shut(),
                _ => {
                    // The valve lets one through at a time, and may shut again at once.
                    let seated = broker.seat_next(now, &mut drops);
                    let seated = seated.map(|seated| (seated.ask.value, seated.ask_r.value));
                    prop_assert_eq!(seated.is_some(), broker.is_shut());
                    met.extend(seated);
                }
            }
        }
        while let Some(seated) = broker.seat_next(now, &mut drops) {
            met.push((seated.ask.value, seated.ask_r.value));
        }
        prop_assert!(!broker.is_shut());
        let pairs = asked.min(offered);
        prop_assert_eq!(met, (1..=pairs).map(|n| (n, n)).collect::<Vec<_>>());
        let left = broker.asks().len() + broker.ask_rs().len();
        prop_assert_eq!(left, asked.abs_diff(offered) as usize);
    }
}
