//! Random events, and accounts kept from nothing but events and effects.
//!
//! The rules themselves have a model in the simulator; here every request, seat and counter is
//! followed through what the engine says, and compared with what it shows.

use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use bytes::Bytes;
use proptest::prelude::*;

use crate::{
    Blob, Config, ConnId, Effect, Engine, Event, Expulsion, Out, PrincipalId, REASONS, Reason,
    Request, RequestId, ServiceConfig, Span, Time, WhenFull,
};

const SERVICES: [&[u8]; 3] = [b"echo", b"sum", b"\x00bin"];
const CONNS: u32 = 6;

#[derive(Clone, Debug)]
enum Call {
    Wait(i64),
    Ask {
        conn: u32,
        service: usize,
        bytes: usize,
        refuse: bool,
        whole: bool,
        needs: bool,
        detached: bool,
    },
    Offer {
        conn: u32,
        service: usize,
        concurrency: u32,
    },
    /// Some worker answers something it holds.
    Answer {
        which: usize,
        last: bool,
    },
    /// Some worker gives back something it holds.
    Return(usize),
    /// Somebody answers any request that ever was.
    Stray {
        conn: u32,
        which: usize,
        last: bool,
    },
    Withdraw(u32),
    Gone(u32),
    Count(u32, usize),
    Configure(Box<ServiceConfig>),
    Drain,
}

fn any_rules() -> impl Strategy<Value = ServiceConfig> {
    let span = || prop_oneof![2 => Just(i64::MAX), 3 => 1i64..40];
    let bytes = prop_oneof![Just(u64::MAX >> 1), 10u64..80];
    (1u32..4, prop_oneof![Just(1_000usize), 0usize..4], bytes, span(), span()).prop_map(
        |(max_deliveries, queue_max, queue_bytes, give_up, limit)| ServiceConfig {
            max_deliveries,
            queue_max,
            queue_bytes,
            give_up: Span::from_millis(give_up),
            execution_limit: Span::from_millis(limit),
            ..ServiceConfig::default()
        },
    )
}

fn any_call() -> impl Strategy<Value = Call> {
    let conn = || 0..CONNS;
    let service = || 0..SERVICES.len();
    prop_oneof![
        40 => (0i64..9).prop_map(Call::Wait),
        4 => (30i64..300).prop_map(Call::Wait),
        120 => (conn(), service(), 0usize..40, any::<[bool; 4]>()).prop_map(
            |(conn, service, bytes, [refuse, whole, needs, detached])| {
                let needs = needs && refuse;
                Call::Ask { conn, service, bytes, refuse, whole, needs, detached }
            }
        ),
        50 => (conn(), service(), 0u32..4).prop_map(|(conn, service, concurrency)| {
            Call::Offer { conn, service, concurrency }
        }),
        80 => (any::<usize>(), 0..5).prop_map(|(which, n)| Call::Answer { which, last: n > 0 }),
        10 => any::<usize>().prop_map(Call::Return),
        6 => (conn(), any::<usize>(), any::<bool>()).prop_map(|(conn, which, last)| {
            Call::Stray { conn, which, last }
        }),
        10 => conn().prop_map(Call::Withdraw),
        14 => conn().prop_map(Call::Gone),
        5 => (conn(), service()).prop_map(|(conn, service)| Call::Count(conn, service)),
        8 => any_rules().prop_map(|rules| Call::Configure(Box::new(rules))),
        1 => Just(Call::Drain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(600)
    })]

    #[test]
    fn the_accounts_balance(
        rules in any_rules(),
        calls in prop::collection::vec(any_call(), 0..160),
    ) {
        let mut house = House::new(rules);
        for call in calls {
            house.call(call);
        }
        house.heal();
    }
}

/// An engine, and what is known of it from outside.
struct House {
    now: Time,
    engine: Engine,
    rules: ServiceConfig,
    books: Books,
    /// Uses of each connection's slot.
    generations: [u32; CONNS as usize],
    names: u64,
}

#[derive(Default)]
struct Books {
    asked: BTreeMap<u64, Asked>,
    workers: BTreeMap<ConnId, Worker>,
    paused: BTreeSet<ConnId>,
    /// Deliveries of this step, each with those that had waited longer.
    overtaken: Vec<(u64, Vec<u64>)>,
    replies: u64,
    refusals: [u64; 7],
    withdrawals: u64,
    returned: u64,
    expulsions: u64,
    draining: bool,
    drained: u32,
    counted: Option<u32>,
}

struct Asked {
    client: ConnId,
    service: Vec<u8>,
    payload: Bytes,
    since: Time,
    id: Option<RequestId>,
    deliveries: u32,
    /// `None` while it waits.
    holder: Option<ConnId>,
    started: bool,
    whole: bool,
    /// It stays when its client leaves.
    detached: bool,
    abandoned: bool,
}

struct Worker {
    service: Vec<u8>,
    concurrency: usize,
    since: Time,
    handled: u64,
}

impl House {
    fn new(rules: ServiceConfig) -> House {
        let config = Config { defaults: rules, ..base() };
        House {
            now: Time::ZERO,
            engine: Engine::new(config, (3, 4), Time::ZERO),
            rules,
            books: Books::default(),
            generations: [0; CONNS as usize],
            names: 0,
        }
    }

    fn conn(&self, slot: u32) -> ConnId {
        ConnId::new(0, slot, self.generations[slot as usize])
    }

    fn call(&mut self, call: Call) {
        match call {
            Call::Wait(ms) => self.wait(Span::from_millis(ms)),
            Call::Ask { conn, service, bytes, refuse, whole, needs, detached } => {
                let conn = self.conn(conn);
                if !self.books.paused.contains(&conn) {
                    self.ask(conn, service, bytes, [refuse, whole, needs, detached]);
                }
            }
            Call::Offer { conn, service, concurrency } => {
                let conn = self.conn(conn);
                self.offer(conn, service, concurrency);
            }
            Call::Answer { which, last } => {
                let held = self.books.asked.values().filter_map(|a| Some((a.holder?, a.id?)));
                let held: Vec<_> = held.collect();
                if let Some((conn, id)) = held.get(which.checked_rem(held.len()).unwrap_or(0)) {
                    self.answer(*conn, *id, last);
                }
            }
            Call::Return(which) => {
                let held = self.books.asked.values().filter_map(|a| Some((a.holder?, a.id?)));
                let held: Vec<_> = held.collect();
                if let Some((conn, id)) = held.get(which.checked_rem(held.len()).unwrap_or(0)) {
                    self.books.give_back(*id);
                    self.step(Event::Return { conn: *conn, request: *id });
                }
            }
            Call::Stray { conn, which, last } => {
                let any = RequestId::from_u64((which % 20) as u64 | 1 << 32);
                self.answer(self.conn(conn), any, last);
            }
            Call::Withdraw(slot) => {
                let conn = self.conn(slot);
                self.books.lose(conn);
                self.step(Event::Withdraw { conn });
            }
            Call::Gone(slot) => {
                let conn = self.conn(slot);
                self.generations[slot as usize] += 1;
                self.books.leave(conn);
                self.books.lose(conn);
                self.step(Event::Gone { conn });
                // Whatever an id of the dead is used for, it is nothing.
                self.step(Event::Gone { conn });
                self.step(Event::Withdraw { conn });
            }
            Call::Count(slot, service) => {
                let conn = self.conn(slot);
                let (name, envelope) = (Blob::Slice(SERVICES[service]), Blob::Slice(b"e"));
                self.step(Event::Count { conn, service: name, tag: 9, envelope });
                let workers = self.books.workers.values();
                let serve = workers.filter(|w| w.service == SERVICES[service]).count();
                assert_eq!(self.books.counted.take(), Some(serve as u32));
            }
            Call::Configure(rules) => {
                self.rules = *rules;
                self.step(Event::Configure(Box::new(Config { defaults: *rules, ..base() })));
            }
            Call::Drain => {
                self.books.draining = true;
                self.step(Event::Drain);
            }
        }
    }

    fn step(&mut self, event: Event<'_>) {
        self.engine.step(self.now, event, &mut self.books);
        self.check();
    }

    fn wait(&mut self, span: Span) {
        let end = self.now + span;
        while let Some(due) = self.engine.deadline().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.engine.tick(self.now, &mut self.books);
            assert!(self.engine.deadline().is_none_or(|due| due > self.now));
            self.check();
        }
        self.now = end;
    }

    fn ask(
        &mut self,
        conn: ConnId,
        service: usize,
        bytes: usize,
        [refuse, whole, needs, detached]: [bool; 4],
    ) {
        self.names += 1;
        let name = self.names;
        let mut payload = name.to_be_bytes().to_vec();
        payload.resize(8 + bytes, b'x');
        let payload = Bytes::from(payload);
        let asked = Asked {
            client: conn,
            service: SERVICES[service].to_vec(),
            payload: payload.clone(),
            since: self.now,
            id: None,
            deliveries: 0,
            holder: None,
            started: false,
            whole,
            detached,
            abandoned: false,
        };
        self.books.asked.insert(name, asked);
        self.step(Event::Request(Request {
            conn,
            principal: PrincipalId::ANONYMOUS,
            service: Blob::Slice(SERVICES[service]),
            tag: name,
            payload,
            envelope: 8,
            body_at: 8,
            since: self.now,
            when_full: if refuse { WhenFull::Refuse } else { WhenFull::Pause },
            needs_workers: needs,
            first_frame: Blob::Slice(b""),
            fair_key: Blob::Slice(b""),
            whole_replies: whole,
            detached,
        }));
        if self.books.paused.contains(&conn) {
            assert!(!refuse, "paused though it wanted a refusal");
        }
    }

    fn offer(&mut self, conn: ConnId, service: usize, concurrency: u32) {
        let worker = Worker {
            service: SERVICES[service].to_vec(),
            concurrency: concurrency.clamp(1, 2) as usize,
            since: self.now,
            handled: 0,
        };
        let expulsions = self.books.expulsions;
        let is_second = self.books.workers.contains_key(&conn);
        if !is_second {
            self.books.workers.insert(conn, worker);
        }
        let service = Blob::Slice(SERVICES[service]);
        self.step(Event::Offer { conn, principal: PrincipalId::ANONYMOUS, service, concurrency });
        assert_eq!(self.books.expulsions - expulsions, u64::from(is_second));
    }

    fn answer(&mut self, conn: ConnId, id: RequestId, last: bool) {
        let (expulsions, replies) = (self.books.expulsions, self.books.replies);
        let asked = &self.books.asked;
        let held = asked.iter().find(|(_, a)| a.id == Some(id) && a.holder == Some(conn));
        let (held, abandoned) = (held.map(|(name, _)| *name), held.is_some_and(|h| h.1.abandoned));
        if let (Some(name), true) = (held, last) {
            if let Some(worker) = self.books.workers.get_mut(&conn) {
                worker.handled += 1;
            }
            if abandoned {
                self.books.asked.remove(&name);
            }
        }
        self.step(Event::Reply { conn, request: id, body: Blob::Slice(b"y"), last, failed: false });
        let is_stray = u64::from(held.is_none());
        assert_eq!(self.books.expulsions - expulsions, is_stray, "{id:?} from {conn:?}");
        let is_answer = held.is_some() && last && !abandoned;
        assert_eq!(self.books.replies - replies, u64::from(is_answer));
    }

    /// Without faults, everything ends.
    fn heal(&mut self) {
        self.step(Event::Drain);
        self.books.draining = true;
        let rules = ServiceConfig { execution_limit: Span::MAX, ..self.rules };
        self.step(Event::Configure(Box::new(Config { defaults: rules, ..base() })));
        for (i, service) in SERVICES.iter().enumerate() {
            let conn = ConnId::new(0, 100 + i as u32, 0);
            let serves = self.books.workers.values().any(|worker| worker.service == *service);
            if !serves {
                self.offer(conn, i, 1);
            }
        }
        while let Some((conn, id)) =
            self.books.asked.values().find_map(|asked| Some((asked.holder?, asked.id?)))
        {
            self.answer(conn, id, true);
        }
        // Who was promised room comes, so that it is there for the next.
        for _ in 0..CONNS {
            let conns = (0..CONNS).map(|slot| self.conn(slot));
            let free: Vec<ConnId> = conns.filter(|c| !self.books.paused.contains(c)).collect();
            free.into_iter().for_each(|conn| self.ask(conn, 0, 0, [true, true, false, false]));
        }
        assert!(self.books.asked.is_empty(), "{} never end", self.books.asked.len());
        assert_eq!(self.books.drained, 1);
        assert!(self.books.paused.is_empty(), "held back though there is room");
        for slot in (0..CONNS).chain(100..103) {
            let generation = self.generations.get(slot as usize).copied().unwrap_or(0);
            let conn = ConnId::new(0, slot, generation);
            self.books.leave(conn);
            self.books.lose(conn);
            self.step(Event::Gone { conn });
        }
        self.wait(Span::from_secs(1));
        assert_eq!(self.engine.services_len(), 0, "a service that nobody needs");
        assert_eq!(self.engine.deadline(), None, "a timer for nothing");
    }

    fn check(&mut self) {
        for (name, older) in core::mem::take(&mut self.books.overtaken) {
            let still = older.iter().find(|other| self.books.waits(**other));
            assert!(still.is_none(), "{name} before {still:?}, which had waited longer");
        }
        self.check_services();
        self.check_workers();
        let (stats, books) = (self.engine.stats(), &self.books);
        assert_eq!(stats.replies, books.replies);
        assert_eq!(stats.refusals, books.refusals);
        assert_eq!(stats.withdrawals, books.withdrawals);
        assert_eq!(stats.redeliveries, books.returned);
        assert_eq!(stats.expulsions, books.expulsions);
        assert_eq!(self.engine.requests_len(), books.asked.len());
        let waiting = books.asked.values().filter(|asked| asked.holder.is_none());
        let bytes = waiting.clone().map(|asked| asked.payload.len() as u64).sum();
        assert_eq!(self.engine.waiting(), (waiting.count(), bytes));
        let has_ended = books.draining && books.asked.is_empty();
        assert_eq!(books.drained, u32::from(books.drained > 0 || has_ended));
    }

    fn check_services(&self) {
        for view in self.engine.services() {
            let asked = || self.books.asked.values().filter(|asked| asked.service == view.name);
            let workers = || self.books.workers.values().filter(|w| w.service == view.name);
            let waiting = || asked().filter(|asked| asked.holder.is_none());
            let leased = asked().count() - waiting().count();
            let offers: usize = workers().map(|worker| worker.concurrency).sum();
            assert_eq!(view.workers as usize, workers().count());
            assert_eq!(self.engine.workers_of(view.name) as usize, workers().count());
            assert_eq!(view.offers, offers - leased);
            assert_eq!(view.waiting, waiting().count());
            assert_eq!(view.waiting_bytes, waiting().map(|a| a.payload.len() as u64).sum());
            assert_eq!(view.oldest, waiting().map(|asked| asked.since).min());
            assert_eq!(view.leased as usize, leased);
            assert!(view.offers == 0 || view.waiting == 0, "waits while an offer is free");
        }
        let sum = |count: fn(&crate::ServiceView<'_>) -> u64| -> u64 {
            self.engine.services().map(|view| count(&view)).sum()
        };
        // Services that were forgotten took their counts with them.
        assert!(sum(|view| view.replies) <= self.books.replies);
        assert!(sum(|view| view.redeliveries) <= self.books.returned);
        assert_eq!(self.engine.services_len(), self.engine.services().count());
    }

    fn check_workers(&self) {
        let describe = |conn, service: &[u8], concurrency, holds, since, handled| -> String {
            format!("{conn:?} {service:?} {holds}/{concurrency} since {since:?}: {handled}")
        };
        let shown: BTreeSet<String> = self
            .engine
            .workers()
            .map(|w| describe(w.conn, w.service, w.concurrency, w.holds, w.since, w.handled))
            .collect();
        let held = |conn| self.books.asked.values().filter(|a| a.holder == Some(conn)).count();
        let expected: BTreeSet<String> = self
            .books
            .workers
            .iter()
            .map(|(c, w)| describe(*c, &w.service, w.concurrency, held(*c), w.since, w.handled))
            .collect();
        assert_eq!(shown, expected);
        assert_eq!(self.engine.workers_len(), expected.len());
    }
}

impl Books {
    fn waits(&self, name: u64) -> bool {
        self.asked.get(&name).is_some_and(|asked| asked.holder.is_none())
    }

    /// A worker is no more: what it holds waits again, unless nobody wants it.
    fn lose(&mut self, conn: ConnId) {
        if self.workers.remove(&conn).is_none() {
            return;
        }
        self.asked.retain(|_, asked| !(asked.holder == Some(conn) && asked.abandoned));
        for asked in self.asked.values_mut().filter(|asked| asked.holder == Some(conn)) {
            asked.holder = None;
            self.returned += 1;
        }
    }

    /// A worker goes on without what it held, which waits again, unless nobody wants it.
    fn give_back(&mut self, id: RequestId) {
        self.asked.retain(|_, asked| !(asked.id == Some(id) && asked.abandoned));
        for asked in self.asked.values_mut().filter(|asked| asked.id == Some(id)) {
            asked.holder = None;
            self.returned += 1;
        }
    }

    /// A client is no more: what waits is withdrawn, what is held is for nobody.
    fn leave(&mut self, conn: ConnId) {
        self.paused.remove(&conn);
        let mine = |asked: &Asked| asked.client == conn && !asked.abandoned && !asked.detached;
        self.withdrawals += self.asked.values().filter(|asked| mine(asked)).count() as u64;
        self.asked.retain(|_, asked| !(mine(asked) && asked.holder.is_none()));
        for asked in self.asked.values_mut().filter(|asked| asked.client == conn) {
            asked.abandoned = !asked.detached;
        }
    }

    fn deliver(&mut self, to: ConnId, id: RequestId, payload: &Bytes, delivery: u32) {
        let name = name_of(&payload[..8]);
        let service = self.asked[&name].service.clone();
        let worker = &self.workers[&to];
        assert_eq!(worker.service, service, "delivered to another service");
        let held = self.asked.values().filter(|asked| asked.holder == Some(to)).count();
        assert!(held < worker.concurrency, "{to:?} holds too many");
        let place = |name: u64, asked: &Asked| (asked.since, name);
        let own = place(name, &self.asked[&name]);
        let older = self.asked.iter().filter(|(other, asked)| {
            asked.service == service && asked.holder.is_none() && place(**other, asked) < own
        });
        self.overtaken.push((name, older.map(|(other, _)| *other).collect()));
        let asked = self.asked.get_mut(&name).expect("it is asked for");
        assert_eq!(asked.holder, None, "delivered while it is held");
        assert!(asked.id.is_none_or(|before| before == id), "another name for the same");
        assert_eq!(*payload, asked.payload);
        asked.deliveries += 1;
        assert_eq!(asked.deliveries, delivery);
        (asked.id, asked.holder) = (Some(id), Some(to));
    }

    fn refuse(&mut self, to: ConnId, request: Option<RequestId>, name: u64, reason: Reason) {
        let asked = self.asked.remove(&name).expect("it ends once");
        assert_eq!(asked.client, to);
        assert_eq!(asked.holder, None, "refused while it is held");
        // A new one has no name yet; one that was delivered keeps its own.
        assert!(request.is_some() || asked.deliveries == 0);
        assert!(asked.id.is_none() || asked.id == request);
        let place = REASONS.iter().position(|r| *r == reason).expect("a known reason");
        self.refusals[place] += 1;
        if reason == Reason::WorkersFailed {
            self.returned -= 1;
        } else {
            assert!(!asked.started || asked.whole);
        }
    }
}

impl Out for Books {
    fn emit(&mut self, effect: Effect<'_>) {
        match effect {
            Effect::Deliver { to, request, payload, delivery, body_at, .. } => {
                assert_eq!(body_at, 8);
                self.deliver(to, request, payload, delivery);
            }
            Effect::Reply { to, request, tag, envelope, service, body, last } => {
                assert_eq!((tag, body.as_slice()), (name_of(envelope), &b"y"[..]));
                let asked = self.asked.get_mut(&tag).expect("it ends once");
                assert_eq!((asked.client, asked.id), (to, Some(request)));
                assert_eq!(asked.service, service);
                assert!(asked.holder.is_some() && !asked.abandoned);
                asked.started = true;
                if last {
                    self.replies += 1;
                    self.asked.remove(&tag);
                }
            }
            Effect::Refuse { to, request, tag, envelope, reason, .. } => {
                assert_eq!(tag, name_of(envelope));
                self.refuse(to, request, tag, reason);
            }
            Effect::Restart { to, request } => {
                let asked = self.asked.values_mut().find(|asked| asked.id == Some(request));
                let asked = asked.expect("it lives");
                assert!(asked.client == to && asked.started && asked.whole);
                asked.started = false;
            }
            Effect::Count { workers, .. } => self.counted = Some(workers),
            Effect::Expel { to, why } => {
                self.expulsions += 1;
                assert_ne!(why, Expulsion::TooManyServices);
                self.lose(to);
            }
            Effect::Pause { to } => {
                assert!(self.paused.insert(to), "paused twice");
                // It was not taken; it will come again.
                let last = self.asked.pop_last().expect("it was asked for");
                assert_eq!(last.1.client, to);
            }
            Effect::Resume { to } => assert!(self.paused.remove(&to), "resumed without a pause"),
            Effect::Met { .. } => panic!("nobody said a word at a place"),
            Effect::Alarm { .. } => panic!("no alarm was wished for"),
            Effect::Place { .. } => panic!("nobody declared a place"),
            Effect::Drained => self.drained += 1,
        }
    }
}

fn base() -> Config {
    let service_idle = Span::from_millis(100);
    Config { concurrency_max: 2, service_idle, ..Config::default() }
}

fn name_of(envelope: &[u8]) -> u64 {
    u64::from_be_bytes(envelope.try_into().expect("eight octets"))
}
