//! Brokers against two lines of the model.

use core::num::NonZero;
use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::model::{Line, Waiter};
use super::queue::any_config;
use crate::{Broker, Drops, Key, Match, Outcome, QueueConfig, Side, Span, Time};

#[derive(Clone, Debug)]
enum Call {
    /// Time passes.
    Wait(i64),
    /// Somebody sent so long ago.
    Ask(Side, i64),
    /// The ask of an earlier match.
    AskAgain(usize),
    /// Somebody who once asked, by a share of all of them.
    Cancel(usize),
    Tick,
    Configure(QueueConfig, QueueConfig),
}

fn any_call() -> impl Strategy<Value = Call> {
    let side = prop_oneof![Just(Side::Ask), Just(Side::AskR)];
    prop_oneof![
        3 => (0i64..8).prop_map(Call::Wait),
        8 => (side, 0i64..5).prop_map(|(side, ago)| Call::Ask(side, ago)),
        2 => (0usize..8).prop_map(Call::AskAgain),
        1 => (0usize..64).prop_map(Call::Cancel),
        1 => Just(Call::Tick),
        1 => (any_config(), any_config()).prop_map(|(asks, ask_rs)| Call::Configure(asks, ask_rs)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(1_500)
    })]

    #[test]
    fn a_broker_is_its_model(
        asks in any_config(),
        ask_rs in any_config(),
        calls in prop::collection::vec(any_call(), 0..80),
    ) {
        let mut pair = Pair::new(asks, ask_rs);
        for call in calls {
            pair.call(&call);
        }
    }
}

#[test]
fn asks_return_to_their_places() {
    let mut broker: Broker<u32, &str> =
        Broker::new(QueueConfig::default(), QueueConfig::default(), Time::ZERO);
    let mut drops = Drops::default();
    let at = Time::from_millis;
    for n in 1..=4 {
        assert!(matches!(broker.ask(at(n), at(n), n as u32, &mut drops), Outcome::Waiting(_)));
    }
    let mut met = Vec::new();
    for _ in 0..3 {
        let Outcome::Matched(seated) = broker.ask_r(at(5), at(5), "w", &mut drops) else {
            panic!("an ask waits");
        };
        met.push(seated.ask);
    }
    for ask in [met[1], met[2], met[0]] {
        let rank = NonZero::new(u64::from(ask.value)).expect("above zero");
        let again = broker.ask_again(at(6), ask.send, rank, ask.value, &mut drops);
        assert!(matches!(again, Outcome::Waiting(_)));
    }
    assert_eq!(broker.asks().iter().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(broker.asks().oldest(), Some(at(1)));
}

/// A broker beside its model.
struct Pair {
    now: Time,
    newest: Time,
    broker: Broker<u32, u32>,
    lines: [Line; 2],
    keys: BTreeMap<u32, (Side, Key)>,
    ids: u32,
    met: Vec<Match<u32, u32>>,
    /// Asks taken or taken again, matches, drops, cancels.
    accounts: [usize; 4],
}

impl Pair {
    fn new(asks: QueueConfig, ask_rs: QueueConfig) -> Pair {
        Pair {
            now: Time::ZERO,
            newest: Time::ZERO,
            broker: Broker::new(asks, ask_rs, Time::ZERO),
            lines: [Line::new(asks), Line::new(ask_rs)],
            keys: BTreeMap::new(),
            ids: 0,
            met: Vec::new(),
            accounts: [0; 4],
        }
    }

    fn call(&mut self, call: &Call) {
        let (now, mut drops) = (self.now, Drops::default());
        match call {
            Call::Wait(span) => self.now += Span::from_nanos(*span),
            Call::Ask(side, ago) => {
                let send = (now + Span::from_nanos(-ago)).max(self.newest).min(now);
                self.newest = send;
                self.ids += 1;
                self.ask(*side, send, None, self.ids, &mut drops);
            }
            Call::AskAgain(which) if !self.met.is_empty() => {
                let ask = self.met.remove(which % self.met.len()).ask;
                self.ask(Side::Ask, ask.send, Some(u64::from(ask.value)), ask.value, &mut drops);
            }
            Call::AskAgain(_) => {}
            Call::Cancel(share) => {
                let id = (share * self.ids as usize / 64) as u32;
                let Some((side, key)) = self.keys.get(&id).copied() else { return };
                let cancelled = match side {
                    Side::Ask => self.broker.cancel(now, key, &mut drops),
                    Side::AskR => self.broker.cancel_r(now, key, &mut drops),
                };
                let there = self.lines[side as usize].cancel(now, id);
                assert_eq!(cancelled, there.then_some(id));
                self.accounts[3] += usize::from(there);
            }
            Call::Tick => {
                self.broker.tick(now, &mut drops);
                self.lines.iter_mut().for_each(|line| line.tick(now));
            }
            Call::Configure(asks, ask_rs) => {
                self.broker.reconfigure(now, *asks, *ask_rs, &mut drops);
                self.lines[0].reconfigure(now, *asks);
                self.lines[1].reconfigure(now, *ask_rs);
            }
        }
        self.compare(&drops);
    }

    fn ask(
        &mut self,
        side: Side,
        send: Time,
        rank: Option<u64>,
        id: u32,
        drops: &mut Drops<u32, u32>,
    ) {
        let now = self.now;
        self.accounts[0] += 1;
        let [asks, ask_rs] = &mut self.lines;
        let (own, other) = match side {
            Side::Ask => (asks, ask_rs),
            Side::AskR => (ask_rs, asks),
        };
        let partner = other.pop(now);
        match (partner, rank) {
            (Some(_), _) => {}
            (None, Some(rank)) => own.put_back(send, rank, id),
            (None, None) => own.push(now, send, id),
        }
        let waits = own.waiters.iter().any(|waiter| waiter.id == id);
        let outcome = match (side, rank.and_then(NonZero::new)) {
            (Side::Ask, None) => self.broker.ask(now, send, id, drops),
            (Side::Ask, Some(rank)) => self.broker.ask_again(now, send, rank, id, drops),
            (Side::AskR, _) => self.broker.ask_r(now, send, id, drops),
        };
        match outcome {
            Outcome::Matched(seated) => {
                self.check_match(side, Waiter { id, send, rank: 0 }, partner, seated);
            }
            Outcome::Waiting(key) => {
                assert!(partner.is_none() && waits);
                self.keys.insert(id, (side, key));
            }
            Outcome::Dropped => assert!(partner.is_none() && !waits),
        }
    }

    fn check_match(
        &mut self,
        side: Side,
        newcomer: Waiter,
        partner: Option<Waiter>,
        seated: Match<u32, u32>,
    ) {
        let partner = partner.expect("the model has nobody for it");
        let (ask, ask_r) = match side {
            Side::Ask => (newcomer, partner),
            Side::AskR => (partner, newcomer),
        };
        assert_eq!((seated.ask.value, seated.ask.send), (ask.id, ask.send));
        assert_eq!((seated.ask_r.value, seated.ask_r.send), (ask_r.id, ask_r.send));
        let sojourns = [seated.ask.sojourn(self.now), seated.ask_r.sojourn(self.now)];
        let difference = sojourns[0].as_nanos() - sojourns[1].as_nanos();
        assert_eq!(seated.relative().as_nanos(), difference);
        if !self.broker.asks().is_empty() {
            assert_eq!(side, Side::AskR);
            assert!(seated.relative() >= Span::ZERO);
        }
        self.met.push(seated);
        self.accounts[1] += 1;
    }

    fn compare(&mut self, drops: &Drops<u32, u32>) {
        let [asks, ask_rs] = &mut self.lines;
        for (line, drops) in [(&mut *asks, &drops.asks), (&mut *ask_rs, &drops.ask_rs)] {
            let got: Vec<_> = drops.iter().map(|d| (d.value, d.send, d.reason)).collect();
            assert_eq!(got, core::mem::take(&mut line.drops));
            self.accounts[2] += got.len();
        }
        let ids = |line: &Line| line.waiters.iter().map(|waiter| waiter.id).collect::<Vec<_>>();
        assert_eq!(self.broker.asks().iter().copied().collect::<Vec<_>>(), ids(asks));
        assert_eq!(self.broker.ask_rs().iter().copied().collect::<Vec<_>>(), ids(ask_rs));
        assert!(asks.waiters.is_empty() || ask_rs.waiters.is_empty());
        let [taken, matched, dropped, cancelled] = self.accounts;
        let waiting = asks.waiters.len() + ask_rs.waiters.len();
        assert_eq!(taken, 2 * matched + dropped + cancelled + waiting, "conservation");
        let due = self.broker.deadline().unwrap_or(Time::MAX);
        let soon = |line: &Line| line.first_due().max(self.now);
        let is_late = |line: &Line| line.waiters.len() > line.config.min && due > soon(line);
        assert!(!is_late(asks) && !is_late(ask_rs), "a timer too late");
    }
}
