//! Rights and quotas: what a principal is refused, and with which reason.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::{
    Blob, Class, Config, ConnId, Effect, Engine, Event, Expulsion, Fair, FairBy, Out, Patterns,
    Principal, PrincipalId, Principals, Quota, Request, RequestId, Rights, Time, WhenFull,
};

#[derive(Default)]
struct Seen {
    told: Vec<String>,
    delivered: Vec<RequestId>,
    /// Octets of each of those.
    sizes: Vec<usize>,
}

impl Out for Seen {
    fn emit(&mut self, effect: Effect<'_>) {
        match effect {
            Effect::Deliver { request, payload, .. } => {
                self.delivered.push(request);
                self.sizes.push(payload.len());
            }
            Effect::Refuse { reason, .. } => self.told.push(reason.as_str().into()),
            Effect::Expel { why: Expulsion::Denied, .. } => self.told.push("expelled".into()),
            Effect::Expel { .. }
            | Effect::Reply { .. }
            | Effect::Restart { .. }
            | Effect::Count { .. }
            | Effect::Met { .. }
            | Effect::Pause { .. }
            | Effect::Resume { .. }
            | Effect::Alarm { .. }
            | Effect::Place { .. }
            | Effect::Drained => {}
        }
    }
}

struct House {
    engine: Engine,
    seen: Seen,
    now: Time,
}

impl House {
    fn new(principals: &[(&str, Principal)]) -> House {
        let config = Config { principals: table(principals), ..Config::default() };
        let engine = Engine::new(config, (1, 2), Time::ZERO);
        House { engine, seen: Seen::default(), now: Time::ZERO }
    }

    fn step(&mut self, event: Event<'_>) {
        self.engine.step(self.now, event, &mut self.seen);
    }

    fn id(&self, name: &str) -> PrincipalId {
        self.engine.principal(name).unwrap()
    }

    /// What came of a request with a body of `bytes`: a reason, or nothing.
    fn ask(&mut self, principal: PrincipalId, service: &str, bytes: usize) -> Option<String> {
        self.step(Event::Request(Request {
            conn: ConnId::new(0, 1, 0),
            principal,
            service: Blob::Slice(service.as_bytes()),
            tag: 0,
            payload: Bytes::from(alloc::vec![0; bytes]),
            envelope: 0,
            body_at: 0,
            since: self.now,
            when_full: WhenFull::Refuse,
            needs_workers: false,
            first_frame: Blob::Slice(b""),
            fair_key: Blob::Slice(b""),
            whole_replies: true,
            detached: false,
        }));
        self.seen.told.pop()
    }

    fn offer(&mut self, principal: PrincipalId, service: &str) -> Option<String> {
        let conn = ConnId::new(0, 2, 0);
        let service = Blob::Slice(service.as_bytes());
        self.step(Event::Offer { conn, principal, service, concurrency: 100 });
        self.seen.told.pop()
    }

    fn configure(&mut self, principals: &[(&str, Principal)]) {
        let mut config = self.engine.config().clone();
        config.principals = table(principals);
        self.step(Event::Configure(Box::new(config)));
    }
}

fn table(principals: &[(&str, Principal)]) -> Principals {
    principals.iter().map(|(name, rules)| ((*name).into(), rules.clone())).collect()
}

fn caller(services: &[&str], quota: Quota) -> Principal {
    let call = Patterns::new(services.iter().copied());
    Principal { rights: Rights { call, ..Rights::none() }, quota, class: Class::Normal }
}

fn denied() -> Option<String> {
    Some("denied".into())
}

fn overload() -> Option<String> {
    Some("overload".into())
}

#[test]
fn where_nobody_is_named_everybody_may_do_everything() {
    let mut house = House::new(&[]);
    assert_eq!(house.ask(PrincipalId::ANONYMOUS, "any", 9), None);
    assert_eq!(house.offer(PrincipalId::ANONYMOUS, "any"), None);
}

#[test]
fn where_somebody_is_named_the_nameless_may_do_nothing() {
    let mut house = House::new(&[("ann", caller(&["a"], Quota::default()))]);
    assert_eq!(house.ask(PrincipalId::ANONYMOUS, "a", 9), denied());
    assert_eq!(house.offer(PrincipalId::ANONYMOUS, "a"), Some("expelled".into()));
    assert_eq!(house.ask(PrincipalId::HOUSE, "any", 9), None);
    // Refused names leave nothing behind.
    assert_eq!(house.engine.services_len(), 1);
}

#[test]
fn patterns_are_names_or_beginnings() {
    let cases = [
        ("a", "a", true),
        ("a", "ab", false),
        ("a", "", false),
        ("img.*", "img.", true),
        ("img.*", "img.small", true),
        ("img.*", "img", false),
        ("*", "", true),
        ("*", "whatever", true),
    ];
    for (pattern, name, held) in cases {
        assert_eq!(Patterns::new([pattern]).hold(name.as_bytes()), held, "{pattern} {name}");
        assert_eq!(Patterns::new(["x", pattern]).hold(name.as_bytes()), held);
    }
    assert!(!Patterns::default().hold(b"a"));
}

#[test]
fn rights_are_looked_at_service_by_service() {
    let rules = Principal {
        rights: Rights {
            call: Patterns::new(["img.*"]),
            serve: Patterns::new(["echo"]),
            ..Rights::none()
        },
        quota: Quota::default(),
        class: Class::Normal,
    };
    let mut house = House::new(&[("ann", rules)]);
    let ann = house.id("ann");
    assert_eq!(house.ask(ann, "img.small", 1), None);
    assert_eq!(house.ask(ann, "echo", 1), denied());
    assert_eq!(house.offer(ann, "img.small"), Some("expelled".into()));
    assert_eq!(house.offer(ann, "echo"), None);
    let usage = house.engine.principals().find(|view| view.name == "ann").unwrap().usage;
    assert_eq!((usage.requests, usage.denied, usage.over_quota), (1, 2, 0));
    assert_eq!(house.engine.stats().refusals[5], 1);
    assert!(!house.engine.rights(ann).unwrap().administer);
}

#[test]
fn the_rate_is_kept_over_time_and_a_burst_at_once() {
    let quota = Quota { rate: 10, burst: 3, ..Quota::default() };
    let mut house = House::new(&[("ann", caller(&["*"], quota))]);
    let ann = house.id("ann");
    let mut taken = Vec::new();
    for ms in (0..1_000).step_by(10) {
        house.now = Time::from_millis(ms);
        while house.ask(ann, "a", 1).is_none() {
            taken.push(ms);
        }
    }
    assert_eq!(taken[..4], [0, 0, 0, 100]);
    assert_eq!(taken.len(), 3 + 9);
    // Others do not pay for it.
    assert_eq!(house.ask(PrincipalId::HOUSE, "a", 1), None);
}

#[test]
fn what_is_in_the_house_is_bounded_until_it_ends() {
    let quota = Quota { in_flight: 2, bytes: 100, ..Quota::default() };
    let mut house = House::new(&[("ann", caller(&["*"], quota))]);
    let ann = house.id("ann");
    assert_eq!(house.ask(ann, "a", 101), overload());
    assert_eq!(house.ask(ann, "a", 60), None);
    assert_eq!(house.ask(ann, "a", 41), overload());
    assert_eq!(house.ask(ann, "a", 40), None);
    assert_eq!(house.ask(ann, "a", 0), overload());
    house.offer(PrincipalId::HOUSE, "a");
    assert_eq!(house.ask(ann, "a", 0), overload(), "held by a worker, it still counts");
    let request = house.seen.delivered[0];
    let body = Blob::Slice(b"");
    house.step(Event::Reply {
        conn: ConnId::new(0, 2, 0),
        request,
        body,
        last: true,
        failed: false,
    });
    assert_eq!(house.ask(ann, "a", 61), overload());
    assert_eq!(house.ask(ann, "a", 60), None);
    // Its client leaves: what waits is gone, what is held ends with its worker.
    house.step(Event::Gone { conn: ConnId::new(0, 1, 0) });
    house.step(Event::Gone { conn: ConnId::new(0, 2, 0) });
    let usage = house.engine.principals().find(|view| view.name == "ann").unwrap().usage;
    assert_eq!((usage.in_flight, usage.bytes), (0, 0));
}

#[test]
fn a_worker_that_lost_its_right_is_put_out() {
    let serves = |pattern| Principal {
        rights: Rights { serve: Patterns::new([pattern]), ..Rights::none() },
        quota: Quota::default(),
        class: Class::Normal,
    };
    let mut house = House::new(&[("ann", serves("a"))]);
    let ann = house.id("ann");
    assert_eq!(house.offer(ann, "a"), None);
    house.configure(&[("ann", serves("*"))]);
    assert!(house.seen.told.is_empty());
    assert_eq!(house.engine.workers_of(b"a"), 1);
    house.configure(&[("ann", serves("b"))]);
    assert_eq!(house.seen.told.pop(), Some("expelled".into()));
    assert_eq!(house.engine.workers_of(b"a"), 0);
}

#[test]
fn names_keep_their_ids_when_the_rules_change() {
    let free = || caller(&["*"], Quota::default());
    let mut house = House::new(&[("bea", free())]);
    let bea = house.id("bea");
    assert_eq!(house.ask(bea, "a", 5), None);
    house.configure(&[("ann", free()), ("bea", caller(&["b"], Quota::default()))]);
    assert_eq!(house.id("bea"), bea);
    assert_eq!(house.ask(bea, "a", 5), denied());
    assert_eq!(house.ask(bea, "b", 5), None);
    house.configure(&[("ann", free())]);
    assert_eq!(house.ask(bea, "b", 5), denied(), "a name that is gone may do nothing");
    house.configure(&[]);
    assert_eq!(house.ask(PrincipalId::ANONYMOUS, "b", 5), None);
    assert_eq!(house.ask(bea, "b", 5), denied());
    assert_eq!(house.engine.principal_name(bea), "bea");
}

#[test]
fn classes_take_weighted_turns() {
    let of = |class| Principal { class, ..caller(&["a"], Quota::default()) };
    let classes = [("high", Class::High), ("normal", Class::Normal), ("low", Class::Low)];
    let mut house = House::new(&classes.map(|(name, class)| (name, of(class))));
    let mut config = house.engine.config().clone();
    let flows = core::num::NonZero::<u64>::MIN;
    config.defaults.fair = Some(Fair { by: FairBy::Class, flows });
    house.step(Event::Configure(Box::new(config)));
    // The low ones come first, and each class is told by the size of its requests.
    for (size, name) in [(3, "low"), (2, "normal"), (1, "high")] {
        for _ in 0..50 {
            let principal = house.id(name);
            assert_eq!(house.ask(principal, "a", size), None);
        }
    }
    assert_eq!(house.offer(PrincipalId::HOUSE, "a"), None);
    let count = |sizes: &[usize], size| sizes.iter().filter(|one| **one == size).count();
    let (first, all) = (&house.seen.sizes[..42], &house.seen.sizes[..]);
    assert_eq!([1, 2, 3].map(|size| count(first, size)), [32, 8, 2]);
    // A hundred offers: all of the high ones, and nobody starved.
    assert_eq!(count(all, 1), 50);
    assert!(count(all, 2) > 16 && count(all, 3) >= 3, "{all:?}");
}
