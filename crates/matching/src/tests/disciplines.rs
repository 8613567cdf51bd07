//! What holds for every line, whatever its discipline, under random calls and live changes of
//! discipline: properties PQ1 to PQ15 of the specification sheet, section 4.

use core::num::NonZero;
use std::vec::Vec;

use proptest::prelude::*;

use crate::{Aim, Codel, Discipline, DropFrom, Dropped, Key, Order, Queue, QueueConfig, Reason};
use crate::{Span, Time};

#[derive(Clone, Debug)]
enum Call {
    Wait(i64),
    /// Sent so long ago, with a deadline of its own so far ahead.
    Push(i64, Option<i64>),
    Pop,
    /// Everyone with a tag: ids modulo three.
    CancelTag(u32),
    Tick,
    Configure(QueueConfig),
    /// Somebody who was handed out.
    PutBack(usize),
}

fn span(range: core::ops::Range<i64>) -> impl Strategy<Value = Span> {
    range.prop_map(Span::from_nanos)
}

fn any_discipline() -> impl Strategy<Value = Discipline> {
    prop_oneof![
        1 => Just(Discipline::Drop),
        1 => Just(Discipline::Timeout(Span::MAX)),
        2 => span(0..20).prop_map(Discipline::Timeout),
        6 => (span(0..6), span(1..11))
            .prop_map(|(target, interval)| Discipline::Codel(Codel { target, interval })),
        3 => (span(1..6), span(1..11), span(0..20)).prop_map(|(aim, interval, more)| {
            Discipline::Aim(Aim { aim, interval, give_up: aim + more })
        }),
    ]
}

fn any_config() -> impl Strategy<Value = QueueConfig> {
    let order = prop_oneof![Just(Order::Fifo), Just(Order::Lifo), Just(Order::Adaptive)];
    let drop_from = prop_oneof![Just(DropFrom::Front), Just(DropFrom::Back)];
    let max = prop_oneof![3 => Just(usize::MAX), 2 => 0usize..6];
    (order, drop_from, 0usize..4, max, any_discipline()).prop_map(
        |(order, drop_from, min, max, discipline)| {
            let config = QueueConfig { order, drop_from, min: min.min(max), max, discipline };
            assert_eq!(config.validate(), Ok(()));
            config
        },
    )
}

fn any_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        3 => (0i64..6).prop_map(Call::Wait),
        1 => (0i64..60).prop_map(Call::Wait),
        6 => (0i64..5, prop_oneof![6 => Just(None), 1 => (0i64..20).prop_map(Some)])
            .prop_map(|(ago, until)| Call::Push(ago, until)),
        4 => Just(Call::Pop),
        1 => (0u32..3).prop_map(Call::CancelTag),
        2 => Just(Call::Tick),
        1 => any_config().prop_map(Call::Configure),
        2 => (0usize..8).prop_map(Call::PutBack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(4_000)
    })]

    #[test]
    fn every_line_keeps_the_rules(
        start in -1_000i64..1_000,
        config in any_config(),
        calls in prop::collection::vec(any_call(), 0..80),
    ) {
        let now = Time::from_nanos(start);
        let queue = Queue::new(config, now);
        let (waiters, out) = (Vec::new(), Vec::new());
        let mut house = House { now, newest: now, queue, waiters, out, ids: 0 };
        for call in calls {
            house.call(&call);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    id: u32,
    send: Time,
    until: Time,
    key: Key,
    /// It was handed out before.
    returned: bool,
}

/// A queue beside a list that is told who left and only checks that they might.
struct House {
    now: Time,
    newest: Time,
    queue: Queue<u32>,
    waiters: Vec<Waiter>,
    /// Handed out.
    out: Vec<Waiter>,
    ids: u32,
}

impl House {
    fn call(&mut self, call: &Call) {
        let (now, before) = (self.now, *self.queue.config());
        // Below `min` a line has no timer, but the next who comes may make somebody due.
        let mut timer = self.queue.deadline().filter(|_| self.queue.len() > before.min);
        let mut drops = Vec::new();
        let shedding = self.queue.is_shedding();
        let mut newcomer = None;
        match call {
            Call::Wait(span) => self.now += Span::from_nanos(*span),
            Call::Push(ago, until) => {
                let alone = self.waiters.iter().all(|waiter| waiter.returned);
                newcomer = self.push(*ago, *until, &mut drops);
                // Who is late already has no timer before there is somebody.
                let late = drops.iter().any(|drop| newcomer == Some(drop.value));
                timer = timer.filter(|_| !(alone && late));
            }
            Call::Pop => {
                let popped = self.queue.pop(now, &mut drops);
                self.check_drops(&drops, &before, None);
                assert!(popped.is_some() || self.waiters.is_empty(), "somebody is left behind");
                let place = popped.map(|entry| (self.place(entry.value), entry.send));
                if let Some((place, send)) = place {
                    let waiter = self.waiters[place];
                    assert_eq!(waiter.send, send);
                    assert!(waiter.until > now, "handed out although it gave up");
                    let newest_first = match before.order {
                        Order::Fifo => false,
                        Order::Lifo => true,
                        Order::Adaptive => place > 0 || (shedding && self.waiters.len() == 1),
                    };
                    let end = if newest_first { self.waiters.len() - 1 } else { 0 };
                    assert_eq!(place, end, "handed out from the middle");
                    let waiter = self.waiters.remove(place);
                    self.out.push(waiter);
                }
                self.compare(&drops, timer);
                return;
            }
            Call::CancelTag(tag) => {
                let tagged = self.waiters.iter().filter(|waiter| waiter.id % 3 == *tag);
                let keys: Vec<Key> = tagged.map(|waiter| waiter.key).collect();
                assert_eq!(self.queue.cancel_all(now, keys.clone(), &mut drops), keys.len());
                self.waiters.retain(|waiter| waiter.id % 3 != *tag);
                assert_eq!(self.queue.cancel_all(now, keys, &mut drops), 0, "cancelled twice");
            }
            Call::PutBack(which) => {
                if !self.out.is_empty() {
                    self.put_back(which % self.out.len());
                }
            }
            Call::Tick => {
                self.queue.tick(now, &mut drops);
                // Gaps of zero (an interval of very few ns) drop one per tick.
                let waits = self.queue.deadline().is_none_or(|due| due > now);
                assert!(waits || !drops.is_empty(), "who ticks at the timer spins");
            }
            Call::Configure(config) => {
                self.queue.try_reconfigure(now, *config, &mut drops).expect("a good one");
                self.check_drops(&drops, config, None);
                self.compare(&drops, None);
                assert!(self.queue.len() <= config.max);
                return;
            }
        }
        self.check_drops(&drops, &before, newcomer);
        self.compare(&drops, timer);
    }

    /// Before everyone sent later; of one moment, in the order they came and before those who were
    /// never handed out.
    fn put_back(&mut self, which: usize) {
        let Waiter { id, send, .. } = self.out.remove(which);
        // Ids grow in the order of the pushes, as ranks must.
        let rank = NonZero::new(u64::from(id) + 1).expect("above zero");
        let key = self.queue.put_back(send, rank, id);
        self.waiters.push(Waiter { id, send, until: Time::MAX, key, returned: true });
        self.waiters.sort_by_key(|waiter| {
            (waiter.send, if waiter.returned { waiter.id } else { u32::MAX })
        });
    }

    fn push(&mut self, ago: i64, until: Option<i64>, drops: &mut Vec<Dropped<u32>>) -> Option<u32> {
        let (now, id) = (self.now, self.ids);
        self.ids += 1;
        let send = (now + Span::from_nanos(-ago)).max(self.newest).min(now);
        self.newest = send;
        match self.queue.push(now, send, id, drops) {
            Some(key) => {
                let until = until.map_or(Time::MAX, |until| now + Span::from_nanos(until + 1));
                self.queue.expire_at(key, until);
                self.waiters.push(Waiter { id, send, until, key, returned: false });
            }
            None => {
                let dropped = drops.iter().filter(|drop| drop.value == id);
                assert_eq!(dropped.count(), 1, "a newcomer that is not in is dropped once");
                let key = Key::default();
                let until = Time::MAX;
                self.waiters.push(Waiter { id, send, until, key, returned: false });
            }
        }
        Some(id)
    }

    fn place(&self, id: u32) -> usize {
        self.waiters.iter().position(|waiter| waiter.id == id).expect("it waits")
    }

    /// Everyone who was dropped might be, and is no longer in the list.
    fn check_drops(&mut self, drops: &[Dropped<u32>], config: &QueueConfig, newcomer: Option<u32>) {
        for drop in drops {
            let place = self.place(drop.value);
            let waiter = self.waiters.remove(place);
            assert_eq!(waiter.send, drop.send);
            let sojourn = self.now - drop.send;
            let (oldest, last) = (place == 0, place == self.waiters.len());
            let oldest_fresh = !waiter.returned && self.waiters[..place].iter().all(|w| w.returned);
            let gave_up = waiter.until <= self.now;
            match (drop.reason, config.discipline) {
                (Reason::QueueFull, _) if newcomer == Some(drop.value) => {}
                (Reason::QueueFull, _) => match config.drop_from {
                    DropFrom::Front if config.max > 0 => assert!(oldest),
                    // Several leave from the back, told front to back.
                    DropFrom::Front | DropFrom::Back => assert!(place >= config.max),
                },
                (Reason::Expired, _) if gave_up => {}
                (Reason::Expired, Discipline::Timeout(timeout)) => {
                    assert!(oldest || last);
                    assert!(sojourn >= timeout);
                }
                (Reason::Expired, Discipline::Aim(aim)) => {
                    assert!(oldest && sojourn >= aim.give_up)
                }
                (Reason::Overload, Discipline::Codel(codel)) => {
                    assert!(oldest_fresh, "CoDel drops the oldest");
                    assert!(sojourn >= codel.target, "dropped although it was fast");
                }
                (Reason::Overload, Discipline::Aim(aim)) => {
                    assert!(oldest_fresh && sojourn >= aim.aim.times(2));
                }
                (reason, _) => panic!("nobody is dropped here as {reason:?}"),
            }
            let kept = self.waiters.len() + 1 >= config.min;
            assert!(kept || gave_up || drop.reason == Reason::QueueFull, "min is kept");
        }
    }

    fn compare(&mut self, drops: &[Dropped<u32>], timer: Option<Time>) {
        let ids: Vec<u32> = self.waiters.iter().map(|waiter| waiter.id).collect();
        assert_eq!(self.queue.iter().copied().collect::<Vec<_>>(), ids);
        assert_eq!(self.queue.len(), ids.len());
        assert_eq!(self.queue.oldest(), self.waiters.first().map(|waiter| waiter.send));
        let fresh = self.waiters.iter().find(|waiter| !waiter.returned);
        assert_eq!(self.queue.oldest_fresh(), fresh.map(|waiter| waiter.send));
        for waiter in &self.waiters {
            assert_eq!(self.queue.get(waiter.key), Some(&waiter.id));
        }
        let aged = drops.iter().any(|drop| drop.reason != Reason::QueueFull);
        if aged && let Some(due) = timer {
            assert!(due <= self.now, "dropped before the timer");
        }
        let config = self.queue.config();
        let hasty = self.waiters.iter().any(|waiter| waiter.until < Time::MAX);
        if ids.len() <= config.min && !hasty {
            assert_eq!(self.queue.deadline(), None, "a timer with nobody to drop");
        }
        match config.discipline {
            Discipline::Drop | Discipline::Timeout(Span::MAX) if !hasty => {
                assert_eq!(self.queue.deadline(), None, "a timer of the timeless");
            }
            Discipline::Drop
            | Discipline::Timeout(_)
            | Discipline::Codel(_)
            | Discipline::Aim(_) => {}
        }
    }
}

/// PQ15: within an episode the gaps are `interval / √n`, `n` growing by one per drop.
#[test]
fn the_gaps_of_an_episode_shrink_by_the_square_root() {
    let config = QueueConfig::codel(Span::from_nanos(1_000), Span::from_nanos(100_000));
    let (mut queue, mut drops) = (Queue::new(config, Time::ZERO), Vec::new());
    for id in 0..50 {
        queue.push(Time::ZERO, Time::ZERO, id, &mut drops);
    }
    let mut times = Vec::new();
    while let Some(due) = queue.deadline() {
        let before = drops.len();
        queue.tick(due, &mut drops);
        if drops.len() > before {
            assert_eq!(drops.len(), before + 1);
            times.push(due);
        }
    }
    assert_eq!(times.len(), 50);
    for (n, pair) in times.windows(2).enumerate() {
        let gap = 100_000.0 / ((n + 1) as f64).sqrt();
        assert_eq!((pair[1] - pair[0]).as_nanos(), gap as i64, "gap {n}");
    }
}
