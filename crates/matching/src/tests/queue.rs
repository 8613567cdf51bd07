//! Queues against the model, under random calls and live reconfiguration.

use core::num::NonZero;
use std::vec::Vec;

use proptest::prelude::*;

use super::model::Line;
use crate::{Discipline, DropFrom, Dropped, Entry, Key, Order, Queue, QueueConfig, Reason};
use crate::{Span, Time};

#[derive(Clone, Debug)]
pub(super) enum Call {
    /// Time passes.
    Wait(i64),
    /// A waiter that was sent so long ago.
    Push(i64),
    Pop,
    /// Somebody who was once pushed, by a share of all of them.
    Cancel(usize),
    Tick,
    Configure(QueueConfig),
    /// Somebody who was handed out.
    PutBack(usize),
}

pub(super) fn any_config() -> impl Strategy<Value = QueueConfig> {
    let order = prop_oneof![Just(Order::Fifo), Just(Order::Lifo)];
    let drop_from = prop_oneof![Just(DropFrom::Front), Just(DropFrom::Back)];
    let max = prop_oneof![3 => Just(usize::MAX), 2 => 0usize..6];
    let discipline = prop_oneof![
        1 => Just(Discipline::Drop),
        1 => Just(Discipline::Timeout(Span::MAX)),
        5 => (0i64..20).prop_map(|span| Discipline::Timeout(Span::from_nanos(span))),
    ];
    (order, drop_from, 0usize..4, max, discipline).prop_map(
        |(order, drop_from, min, max, discipline)| QueueConfig {
            order,
            drop_from,
            min: min.min(max),
            max,
            discipline,
        },
    )
}

fn any_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        3 => (0i64..6).prop_map(Call::Wait),
        1 => (0i64..60).prop_map(Call::Wait),
        6 => (0i64..5).prop_map(Call::Push),
        4 => Just(Call::Pop),
        1 => (0usize..64).prop_map(Call::Cancel),
        2 => Just(Call::Tick),
        1 => any_config().prop_map(Call::Configure),
        2 => (0usize..8).prop_map(Call::PutBack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2_000)
    })]

    #[test]
    fn a_queue_is_its_model(
        start in -1_000i64..1_000,
        config in any_config(),
        calls in prop::collection::vec(any_call(), 0..80),
    ) {
        let mut pair = Pair::new(Time::from_nanos(start), config);
        for call in calls {
            pair.call(&call);
        }
        pair.hand_back();
    }
}

/// A queue beside its model.
struct Pair {
    now: Time,
    /// Send times never go back.
    newest: Time,
    queue: Queue<u32>,
    line: Line,
    /// Every id's key, if it ever waited.
    keys: Vec<Option<Key>>,
    out: Vec<Entry<u32>>,
    /// A waiter was put back since the queue last looked at the time.
    stale: bool,
}

impl Pair {
    fn new(now: Time, config: QueueConfig) -> Pair {
        Pair {
            now,
            newest: now,
            queue: Queue::new(config, now),
            line: Line::new(config),
            keys: Vec::new(),
            out: Vec::new(),
            stale: false,
        }
    }

    fn call(&mut self, call: &Call) {
        let now = self.now;
        let (timer, mut drops) = (self.queue.deadline(), Vec::new());
        let mut looked = true;
        match call {
            Call::Wait(span) => {
                self.now += Span::from_nanos(*span);
                return;
            }
            Call::Push(ago) => {
                let send = (now + Span::from_nanos(-ago)).max(self.newest).min(now);
                self.newest = send;
                let id = self.keys.len() as u32;
                self.line.push(now, send, id);
                let key = self.queue.push(now, send, id, &mut drops);
                assert_eq!(key.is_some(), self.line.waiters.iter().any(|w| w.id == id));
                self.keys.push(key);
            }
            Call::Pop => {
                let expected = self.line.pop(now);
                let popped = self.queue.pop(now, &mut drops);
                let got = popped.map(|entry| (entry.value, entry.send));
                assert_eq!(got, expected.map(|waiter| (waiter.id, waiter.send)));
                self.out.extend(popped);
                looked = popped.is_some();
            }
            Call::Cancel(share) => {
                let id = share * self.keys.len() / 64;
                if self.keys.is_empty() {
                    return;
                }
                let there = self.line.cancel(now, id as u32);
                let cancelled =
                    self.keys[id].and_then(|key| self.queue.cancel(now, key, &mut drops));
                assert_eq!(cancelled, there.then_some(id as u32));
                looked = there;
            }
            Call::Tick => {
                self.line.tick(now);
                self.queue.tick(now, &mut drops);
            }
            Call::Configure(config) => {
                self.line.reconfigure(now, *config);
                self.queue.reconfigure(now, *config, &mut drops);
                assert_eq!(self.queue.config(), config);
            }
            Call::PutBack(which) => {
                if self.out.is_empty() {
                    return;
                }
                let Entry { value, send, .. } = self.out.remove(which % self.out.len());
                // Ids grow in the order of the pushes, as ranks must.
                let rank = NonZero::new(u64::from(value) + 1).expect("above zero");
                self.line.put_back(send, rank.get(), value);
                self.keys[value as usize] = Some(self.queue.put_back(send, rank, value));
                (looked, self.stale) = (false, true);
            }
        }
        self.compare(&drops, timer, matches!(call, Call::Configure(_)));
        if looked {
            self.stale = false;
            assert!(self.queue.deadline().is_none_or(|due| due >= now), "a timer in the past");
        }
    }

    fn compare(&mut self, drops: &[Dropped<u32>], timer: Option<Time>, configured: bool) {
        let got: Vec<_> = drops.iter().map(|drop| (drop.value, drop.send, drop.reason)).collect();
        let expected = core::mem::take(&mut self.line.drops);
        assert_eq!(got, expected);

        let expired = drops.iter().any(|drop| drop.reason == Reason::Expired);
        if expired && !configured {
            assert!(timer.is_none_or(|due| due <= self.now), "a drop before its timer");
        }
        let ids: Vec<u32> = self.line.waiters.iter().map(|waiter| waiter.id).collect();
        assert_eq!(self.queue.iter().copied().collect::<Vec<_>>(), ids);
        assert_eq!(self.queue.len(), ids.len());
        assert_eq!(self.queue.is_empty(), ids.is_empty());
        assert_eq!(self.queue.is_full(), ids.len() >= self.line.config.max);
        assert_eq!(self.queue.oldest(), self.line.waiters.first().map(|waiter| waiter.send));
        let first_due = self.line.first_due();
        let has_timer = ids.len() > self.line.config.min && first_due < Time::MAX;
        assert_eq!(self.queue.deadline().is_some(), has_timer);
        let soon = first_due.max(self.now);
        assert!(self.queue.deadline().is_none_or(|due| due <= soon), "a timer too late");
        for id in 0..self.keys.len() as u32 {
            let value = self.keys[id as usize].and_then(|key| self.queue.get(key)).copied();
            assert_eq!(value, ids.contains(&id).then_some(id), "the key of {id}");
        }
    }

    /// In the end whoever waits is there in order, and once only.
    fn hand_back(&mut self) {
        let config = QueueConfig::default();
        self.line.reconfigure(self.now, config);
        self.queue.reconfigure(self.now, config, &mut Vec::new());
        for waiter in &self.line.waiters {
            let entry = self.queue.pop(self.now, &mut Vec::new()).expect("somebody waits");
            assert_eq!((entry.value, entry.send), (waiter.id, waiter.send));
        }
        assert!(self.queue.pop(self.now, &mut Vec::new()).is_none());
    }
}
