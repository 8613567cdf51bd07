//! The wheel against a sorted map.

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use crate::{Span, Time, Wheel};

const TICK: i64 = 1_000_000;

#[derive(Clone, Debug)]
enum Call {
    /// A timer due so many nanoseconds from now.
    Insert(i64),
    /// So many nanoseconds pass.
    Advance(i64),
    /// Time passes up to the deadline, so many times.
    Follow(u32),
}

/// Spans of any scale, from nanoseconds to years, often on the borders of slots.
fn any_span() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 0i64..5 * TICK,
        2 => (0i64..200).prop_map(|ticks| ticks * TICK),
        2 => (0u32..36, -1i64..2).prop_map(|(bit, off)| (1i64 << bit) * TICK + off),
        1 => (0u32..55, 0i64..1_000).prop_map(|(bit, off)| (1i64 << bit) + off),
    ]
}

fn any_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => (-3 * TICK..0).prop_map(Call::Insert),
        12 => any_span().prop_map(Call::Insert),
        8 => any_span().prop_map(Call::Advance),
        3 => (1u32..6).prop_map(Call::Follow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2_000)
    })]

    #[test]
    fn every_timer_fires_once_and_in_time(
        origin in -1_000_000_000i64..1_000_000_000,
        calls in prop::collection::vec(any_call(), 0..60),
    ) {
        let mut pair = Pair::new(Time::from_nanos(origin));
        for call in calls {
            match call {
                Call::Insert(span) => pair.insert(Span::from_nanos(span)),
                Call::Advance(span) => pair.advance(pair.now + Span::from_nanos(span)),
                Call::Follow(times) => {
                    for _ in 0..times {
                        let Some(due) = pair.wheel.deadline() else { break };
                        pair.advance(due.max(pair.now));
                    }
                }
            }
        }
        pair.finish();
    }
}

#[test]
fn beyond_the_range_is_the_end_of_the_range() {
    let mut wheel = Wheel::new(Time::ZERO);
    wheel.insert(Time::MAX, "never");
    let mut fired = Vec::new();
    let end = Time::from_millis(1 << 36);
    wheel.advance(Time::from_millis((1 << 36) - 2), &mut fired);
    assert!(fired.is_empty());
    wheel.advance(end, &mut fired);
    assert_eq!(fired, ["never"]);
}

/// A wheel beside a sorted map.
struct Pair {
    now: Time,
    wheel: Wheel<u32>,
    due_by_id: BTreeMap<u32, Time>,
    next: u32,
}

impl Pair {
    fn new(now: Time) -> Pair {
        Pair { now, wheel: Wheel::new(now), due_by_id: BTreeMap::new(), next: 0 }
    }

    fn insert(&mut self, span: Span) {
        let due = self.now + span;
        self.wheel.insert(due, self.next);
        // What is past fires with the next tick.
        self.due_by_id.insert(self.next, due.max(self.now));
        self.next += 1;
        self.check();
    }

    fn advance(&mut self, to: Time) {
        self.now = to;
        let mut fired = Vec::new();
        self.wheel.advance(to, &mut fired);
        for id in fired {
            let due = self.due_by_id.remove(&id).expect("it fires once");
            assert!(due <= to, "{id} early: {due:?} at {to:?}");
        }
        for (id, due) in &self.due_by_id {
            assert!(*due + Span::from_nanos(TICK) > to, "{id} late: {due:?} at {to:?}");
        }
        self.check();
    }

    fn check(&self) {
        assert_eq!(self.wheel.len(), self.due_by_id.len());
        assert_eq!(self.wheel.is_empty(), self.due_by_id.is_empty());
        let first = self.due_by_id.values().min().copied();
        assert_eq!(self.wheel.deadline().is_some(), first.is_some());
        let (Some(due), Some(first)) = (self.wheel.deadline(), first) else { return };
        assert!(due <= first + Span::from_nanos(TICK), "{due:?} after {first:?}");
    }

    /// Whoever follows the deadlines gets everything, in few steps.
    fn finish(&mut self) {
        let mut steps = 0;
        while let Some(due) = self.wheel.deadline() {
            assert!(due > self.now, "a deadline that does not move");
            self.advance(due);
            steps += 1;
            assert!(steps <= 6 * 64 * (self.next + 1), "too many steps");
        }
        assert!(self.due_by_id.is_empty());
    }
}
