//! Random words at named places, and a naive model that says of every answer whether it may be;
//! and what rights and quotas mean there.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use bytes::Bytes;
use matching::{Order, QueueConfig, ValveConfig};
use proptest::prelude::*;

use crate::{
    ANONYMOUS, Class, Config, ConnId, Effect, Engine, Event, MatchRules, Meet, MeetWord,
    MeetingRules, Met, Out, Patterns, Place, PlaceRules, Principal, PrincipalId, Principals, Quota,
    Reason, RegulatorRules, Rights, Side, SideRules, Span, Time, Wish,
};

const CONNS: u32 = 4;
const LABELS: [&str; 3] = ["", "a", "b"];

/// A line: `order`, `give_up` in milliseconds, most waiters.
type Line = (bool, Option<i64>, usize);

#[derive(Clone, Debug)]
enum Act {
    Wait(i64),
    Ask {
        conn: u32,
        side: bool,
        label: usize,
        timeout: Option<i64>,
        waits: bool,
    },
    Cancel {
        conn: u32,
        label: usize,
    },
    Acquire {
        conn: u32,
        label: usize,
        timeout: Option<i64>,
        waits: bool,
    },
    CancelAcquire {
        conn: u32,
        label: usize,
    },
    /// Somebody speaks of a lock that is or was out.
    Continue {
        conn: u32,
        which: usize,
    },
    Done {
        conn: u32,
        which: usize,
    },
    Gone(u32),
    Match(Line, Line),
    Regulator(Line, usize),
    RemoveMatch,
    RemoveRegulator,
}

fn any_line() -> impl Strategy<Value = Line> {
    let give_up = prop_oneof![Just(None), (1i64..60).prop_map(Some)];
    (any::<bool>(), give_up, prop_oneof![Just(1_000usize), 0usize..4])
}

fn any_act() -> impl Strategy<Value = Act> {
    let conn = || 0..CONNS;
    let label = || 0..LABELS.len();
    let timeout = || prop_oneof![2 => Just(None), 1 => (0i64..60).prop_map(Some)];
    let waits = || prop::bool::weighted(0.8);
    prop_oneof![
        40 => (0i64..9).prop_map(Act::Wait),
        5 => (30i64..300).prop_map(Act::Wait),
        80 => (conn(), any::<bool>(), label(), timeout(), waits()).prop_map(
            |(conn, side, label, timeout, waits)| Act::Ask { conn, side, label, timeout, waits }
        ),
        10 => (conn(), label()).prop_map(|(conn, label)| Act::Cancel { conn, label }),
        50 => (conn(), label(), timeout(), waits()).prop_map(
            |(conn, label, timeout, waits)| Act::Acquire { conn, label, timeout, waits }
        ),
        6 => (conn(), label()).prop_map(|(conn, label)| Act::CancelAcquire { conn, label }),
        15 => (conn(), any::<usize>()).prop_map(|(conn, which)| Act::Continue { conn, which }),
        40 => (conn(), any::<usize>()).prop_map(|(conn, which)| Act::Done { conn, which }),
        8 => conn().prop_map(Act::Gone),
        3 => (any_line(), any_line()).prop_map(|(ask, ask_r)| Act::Match(ask, ask_r)),
        3 => (any_line(), 1usize..4).prop_map(|(line, max)| Act::Regulator(line, max)),
        1 => Just(Act::RemoveMatch),
        1 => Just(Act::RemoveRegulator),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(800)
    })]

    #[test]
    fn whoever_meets_is_the_next_of_those_who_are_there(
        lines in (any_line(), any_line(), any_line()),
        max in 1usize..4,
        acts in prop::collection::vec(any_act(), 0..160),
    ) {
        let mut house = House::new();
        house.act(Act::Match(lines.0, lines.1));
        house.act(Act::Regulator(lines.2, max));
        for act in acts {
            house.act(act);
        }
        house.heal();
    }
}

/// Somebody who waits.
#[derive(Clone, Debug)]
struct Waiter {
    word: u64,
    conn: ConnId,
    label: usize,
    since: Time,
    until: Option<Time>,
}

/// One side.
#[derive(Debug, Default)]
struct Row {
    line: Line,
    waiters: Vec<Waiter>,
}

impl Row {
    fn until(&self, waiter: &Waiter) -> Option<Time> {
        let give_up = self.line.1.map(|ms| waiter.since + Span::from_millis(ms));
        give_up.into_iter().chain(waiter.until).min()
    }

    /// Whether somebody may have been given up at `now`, and whether it must have been.
    fn is_late(&self, waiter: &Waiter, now: Time) -> (bool, bool) {
        let until = self.until(waiter);
        (until.is_some_and(|until| until <= now), until.is_some_and(|until| until < now))
    }

    /// Who is met next: the first or the last of those who are surely there. Whoever is on the
    /// brink may be.
    fn next(&self, now: Time) -> Vec<u64> {
        let mut candidates = Vec::new();
        let mut waiters: Vec<&Waiter> = self.waiters.iter().collect();
        if self.line.0 {
            waiters.reverse();
        }
        for waiter in waiters {
            let (may, must) = self.is_late(waiter, now);
            if !must {
                candidates.push(waiter.word);
            }
            if !may {
                break;
            }
        }
        candidates
    }

    fn surely(&self, now: Time) -> usize {
        self.waiters.iter().filter(|waiter| !self.is_late(waiter, now).0).count()
    }

    fn take(&mut self, word: u64) -> Option<Waiter> {
        let place = self.waiters.iter().position(|waiter| waiter.word == word)?;
        Some(self.waiters.remove(place))
    }
}

/// What is known from outside. Rows: who asks, who asks back, who waits at the regulator.
#[derive(Debug, Default)]
struct Model {
    now: Time,
    rows: [Row; 3],
    there: [bool; 2],
    max: usize,
    /// Locks that are out, by name.
    running: BTreeMap<u64, ConnId>,
    locks: Vec<u64>,
    /// The word in hand, if it is one that wants to meet: its row, whether it waits.
    newcomer: Option<(usize, Waiter, bool)>,
    /// Half of a pair: who met whom.
    half: Option<(u64, u64, Span)>,
    answers: Vec<(u64, String)>,
}

struct House {
    engine: Engine,
    model: Model,
    words: u64,
    generations: [u32; CONNS as usize],
}

impl Out for Model {
    fn emit(&mut self, effect: Effect<'_>) {
        let Effect::Met { to, tag, envelope, answer } = effect else {
            assert!(matches!(effect, Effect::Place { .. }), "{effect:?}");
            return;
        };
        assert_eq!(envelope, tag.to_string().as_bytes());
        match answer {
            Met::Go { value, relative, sojourn } => {
                let other = core::str::from_utf8(value.as_slice()).expect("it was a number");
                self.on_go(to, tag, other.parse().expect("a number"), relative, sojourn);
            }
            Met::Run { lock, sojourn, .. } => self.on_run(to, tag, lock, sojourn),
            Met::Drop { reason, sojourn } => self.on_drop(to, tag, reason, sojourn),
            Met::Retry => self.on_retry(tag),
            Met::Cancelled => {
                let waiter = self.rows.iter_mut().find_map(|row| row.take(tag));
                assert_eq!(waiter.map(|waiter| waiter.conn), Some(to), "cancelled {tag}");
                self.answers.push((tag, "cancelled".into()));
            }
            Met::Number(n) => self.answers.push((tag, format!("number {n}"))),
            Met::Len(a, b) => self.answers.push((tag, format!("len {a} {b}"))),
            Met::Done => self.answers.push((tag, "done".into())),
            Met::Stop => self.answers.push((tag, "stop".into())),
            Met::NoPlace => self.answers.push((tag, "no place".into())),
            Met::NoLock => self.answers.push((tag, "no lock".into())),
            Met::Names(names) => panic!("nobody asked for {names:?}"),
        }
    }
}

impl Model {
    /// Takes somebody out of its row, or on its way into it.
    fn leave(&mut self, word: u64) -> (usize, Waiter, bool) {
        if let Some(newcomer) = self.newcomer.take_if(|(_, waiter, _)| waiter.word == word) {
            return newcomer;
        }
        let rows = self.rows.iter_mut().enumerate();
        let found = rows.filter_map(|(i, row)| Some((i, row.take(word)?, true))).next();
        found.unwrap_or_else(|| panic!("{word} does not wait"))
    }

    fn on_go(&mut self, to: ConnId, tag: u64, other: u64, relative: Span, sojourn: Span) {
        let Some((first, second, waited)) = self.half.take() else {
            // Both are looked at before either leaves.
            let (newcomer, waiter) = match &self.newcomer {
                Some((_, newcomer, _)) if newcomer.word == tag => (tag, other),
                Some(_) | None => (other, tag),
            };
            let row = self.newcomer.as_ref().expect("somebody came").0;
            assert_eq!(self.newcomer.as_ref().map(|(_, one, _)| one.word), Some(newcomer));
            let next = self.rows[1 - row].next(self.now);
            assert!(next.contains(&waiter), "{waiter} met {newcomer}, not one of {next:?}");
            assert_eq!(self.find(tag), (to, self.now + sojourn.negated()));
            self.half = Some((tag, other, relative));
            return;
        };
        assert_eq!((tag, other, relative), (second, first, waited.negated()));
        assert_eq!(self.find(tag), (to, self.now + sojourn.negated()));
        self.leave(first);
        self.leave(second);
    }

    fn find(&self, word: u64) -> (ConnId, Time) {
        let newcomer = self.newcomer.iter().map(|(_, waiter, _)| waiter);
        let all = self.rows.iter().flat_map(|row| &row.waiters).chain(newcomer);
        let mut found = all.filter(|waiter| waiter.word == word);
        found.next().map(|waiter| (waiter.conn, waiter.since)).expect("it is there")
    }

    fn on_run(&mut self, to: ConnId, tag: u64, lock: u64, sojourn: Span) {
        // Whoever goes on has its lock already.
        if self.running.contains_key(&lock) {
            self.answers.push((tag, format!("go on {lock}")));
            return;
        }
        assert!(self.running.len() < self.max, "{} run", self.running.len());
        let mut next = self.rows[2].next(self.now);
        if self.rows[2].surely(self.now) == 0 {
            next.extend(self.newcomer.as_ref().map(|(_, waiter, _)| waiter.word));
        }
        assert!(next.contains(&tag), "{tag} is let run, not one of {next:?}");
        let (row, waiter, _) = self.leave(tag);
        assert_eq!((row, waiter.conn, waiter.since), (2, to, self.now + sojourn.negated()));
        self.running.insert(lock, to);
        self.locks.push(lock);
    }

    fn on_drop(&mut self, to: ConnId, tag: u64, reason: Reason, sojourn: Span) {
        let is_new = self.newcomer.as_ref().is_some_and(|(_, waiter, _)| waiter.word == tag);
        let (row, waiter, _) = self.leave(tag);
        assert_eq!((waiter.conn, waiter.since), (to, self.now + sojourn.negated()));
        let row = &self.rows[row];
        match reason {
            Reason::Expired => assert!(row.is_late(&waiter, self.now).0, "{waiter:?} is not late"),
            Reason::QueueFull => {
                // New rules may make a line shorter than it is.
                let full = row.waiters.len() >= row.line.2;
                assert!(full, "{waiter:?} of {} (new: {is_new})", row.waiters.len());
            }
            Reason::Draining => assert!(!is_new),
            Reason::Overload | Reason::Denied | Reason::NoWorkers | Reason::WorkersFailed => {
                panic!("dropped for {reason:?}");
            }
        }
    }

    fn on_retry(&mut self, tag: u64) {
        let (row, _, waits) = self.leave(tag);
        assert!(!waits, "it would have waited");
        match row {
            2 => {
                let shut = self.running.len() >= self.max || !self.rows[2].waiters.is_empty();
                assert!(shut, "it could have run");
            }
            side => assert_eq!(self.rows[1 - side].surely(self.now), 0, "somebody was there"),
        }
    }
}

impl House {
    fn new() -> House {
        let engine = Engine::new(Config::default(), (1, 2), Time::ZERO);
        House { engine, model: Model::default(), words: 0, generations: [0; CONNS as usize] }
    }

    fn conn(&self, conn: u32) -> ConnId {
        ConnId::new(0, conn, self.generations[conn as usize])
    }

    fn say(&mut self, conn: ConnId, place: Place, word: MeetWord<'_>) -> Option<String> {
        let tag = self.words;
        self.words += 1;
        let envelope = tag.to_string();
        let name = Bytes::from_static(b"it").into();
        self.engine.step(
            self.model.now,
            Event::Meet {
                conn,
                principal: PrincipalId::ANONYMOUS,
                tag,
                envelope: crate::Blob::Slice(envelope.as_bytes()),
                word: Meet { place, name, word },
            },
            &mut self.model,
        );
        let place = self.model.answers.iter().position(|(word, _)| *word == tag);
        place.map(|place| self.model.answers.remove(place).1)
    }

    /// Somebody comes to a row.
    fn come(&mut self, row: usize, conn: u32, label: usize, timeout: Option<i64>, waits: bool) {
        let (place, side) = match row {
            0 => (Place::Match, Side::Ask),
            1 => (Place::Match, Side::AskR),
            _ => (Place::Regulator, Side::Ask),
        };
        let (conn, now, timeout) = (self.conn(conn), self.model.now, timeout.filter(|_| waits));
        let until = timeout.map(|ms| now + Span::from_millis(ms));
        let waiter = Waiter { word: self.words, conn, label, since: now, until };
        let there = self.model.there[usize::from(row == 2)];
        self.model.newcomer = there.then_some((row, waiter, waits));
        let wish = Wish {
            value: Bytes::from(self.words.to_string()).into(),
            label: Bytes::from_static(LABELS[label].as_bytes()).into(),
            timeout: timeout.map_or(Span::MAX, Span::from_millis),
            waits,
        };
        let answer = self.say(conn, place, MeetWord::Ask(side, wish));
        assert_eq!(answer.as_deref(), (!there).then_some("no place"));
        // Whoever got no answer waits.
        if let Some((row, waiter, waits)) = self.model.newcomer.take() {
            assert!(waits, "{waiter:?} got no answer");
            self.model.rows[row].waiters.push(waiter);
        }
    }

    fn cancel(&mut self, place: Place, conn: u32, label: usize) {
        let conn = self.conn(conn);
        let rows = if place == Place::Match { 0..2 } else { 2..3 };
        let ours = |row: &Row| {
            row.waiters.iter().filter(|one| (one.conn, one.label) == (conn, label)).count()
        };
        let count = |house: &House| house.model.rows[rows.clone()].iter().map(ours).sum::<usize>();
        let before = count(self);
        let text = Bytes::from_static(LABELS[label].as_bytes());
        let answer = self.say(conn, place, MeetWord::Cancel(text.into())).expect("an answer");
        if !self.model.there[usize::from(place == Place::Regulator)] {
            return assert_eq!(answer, "no place");
        }
        let told = self.model.answers.drain(..).filter(|(_, told)| told == "cancelled").count();
        // All are gone: cancelled, or given up first.
        assert_eq!((answer, count(self)), (format!("number {told}"), 0));
        assert!(told <= before);
    }

    fn lock(&mut self, conn: u32, which: usize, done: bool) {
        let conn = self.conn(conn);
        let lock = match self.model.locks.len() {
            0 => 7,
            len => self.model.locks[which % len],
        };
        let holds = self.model.running.get(&lock) == Some(&conn);
        let fits = self.model.running.len() <= self.model.max;
        let word = if done { MeetWord::Done(lock, true) } else { MeetWord::Continue(lock) };
        // What is freed may be given to the next before the answer comes.
        if holds && (done || !fits) {
            self.model.running.remove(&lock);
        }
        let answer = self.say(conn, Place::Regulator, word).expect("an answer");
        let expected = match (self.model.there[1], holds, done) {
            (false, ..) => "no place".into(),
            (true, false, _) => "no lock".into(),
            (true, true, true) => "done".into(),
            (true, true, false) if fits => format!("go on {lock}"),
            (true, true, false) => "stop".into(),
        };
        assert_eq!(answer, expected);
    }

    fn gone(&mut self, conn: u32) {
        let id = self.conn(conn);
        self.generations[conn as usize] += 1;
        for row in &mut self.model.rows {
            row.waiters.retain(|waiter| waiter.conn != id);
        }
        self.model.running.retain(|_, holder| *holder != id);
        self.engine.step(self.model.now, Event::Gone { conn: id }, &mut self.model);
    }

    fn declare(&mut self, rules: PlaceRules) {
        let word = MeetWord::Declare(Box::new(rules));
        let answer = self.say(ConnId::new(0, 99, 0), rules.place(), word);
        assert_eq!(answer.as_deref(), Some("done"));
        self.model.there[usize::from(rules.place() == Place::Regulator)] = true;
    }

    fn remove(&mut self, place: Place) {
        let there = &mut self.model.there[usize::from(place == Place::Regulator)];
        let expected = if core::mem::take(there) { "done" } else { "no place" };
        let answer = self.say(ConnId::new(0, 99, 0), place, MeetWord::Remove);
        assert_eq!(answer.as_deref(), Some(expected));
        let rows = if place == Place::Match { 0..2 } else { 2..3 };
        assert!(self.model.rows[rows].iter().all(|row| row.waiters.is_empty()));
        if place == Place::Regulator {
            self.model.running.clear();
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Wait(ms) => self.advance(self.model.now + Span::from_millis(ms)),
            Act::Ask { conn, side, label, timeout, waits } => {
                self.come(usize::from(side), conn, label, timeout, waits);
            }
            Act::Acquire { conn, label, timeout, waits } => {
                self.come(2, conn, label, timeout, waits);
            }
            Act::Cancel { conn, label } => self.cancel(Place::Match, conn, label),
            Act::CancelAcquire { conn, label } => self.cancel(Place::Regulator, conn, label),
            Act::Continue { conn, which } => self.lock(conn, which, false),
            Act::Done { conn, which } => self.lock(conn, which, true),
            Act::Gone(conn) => self.gone(conn),
            Act::Match(ask, ask_r) => {
                (self.model.rows[0].line, self.model.rows[1].line) = (ask, ask_r);
                let (ask, ask_r) = (side(ask), side(ask_r));
                self.declare(PlaceRules::Match(MatchRules { ask, ask_r }));
            }
            Act::Regulator(line, max) => {
                (self.model.rows[2].line, self.model.max) = (line, max);
                let (line, valve) = (side(line), ValveConfig::limit(max));
                self.declare(PlaceRules::Regulator(RegulatorRules { line, valve }));
            }
            Act::RemoveMatch => self.remove(Place::Match),
            Act::RemoveRegulator => self.remove(Place::Regulator),
        }
        self.check();
    }

    fn advance(&mut self, to: Time) {
        while let Some(due) = self.engine.deadline().filter(|due| *due <= to) {
            self.model.now = due.max(self.model.now);
            self.engine.tick(self.model.now, &mut self.model);
        }
        self.model.now = to;
    }

    /// What the engine shows is what we know.
    fn check(&self) {
        let Model { now, rows, running, max, .. } = &self.model;
        assert!(self.model.half.is_none(), "one of a pair was not told");
        let met = rows[0].surely(*now).min(rows[1].surely(*now));
        assert_eq!(met, 0, "two wait for each other");
        if self.model.there[1] && running.len() < *max {
            assert_eq!(rows[2].surely(*now), 0, "somebody waits at an open valve");
        }
        let mut bytes = 0;
        for place in self.engine.places() {
            let tally = place.tally;
            let waiting: usize = place.sides.iter().map(|side| side.waiting).sum();
            let is_match = place.open.is_none();
            let known = if is_match { &rows[..2] } else { &rows[2..] };
            assert_eq!(waiting, known.iter().map(|row| row.waiters.len()).sum::<usize>());
            assert_eq!(place.running, if is_match { 0 } else { running.len() });
            let ends = tally.retries + tally.withdrawn + tally.drops.iter().sum::<u64>();
            let met = if is_match { 2 * tally.met } else { tally.met };
            assert_eq!(tally.came.iter().sum::<u64>(), met + ends + waiting as u64);
            bytes += place.sides.iter().map(|side| side.bytes).sum::<u64>();
        }
        let nobody = self.engine.principals().find(|view| view.name == ANONYMOUS);
        let usage = nobody.expect("it is always there").usage;
        let waiting: usize = rows.iter().map(|row| row.waiters.len()).sum();
        assert_eq!((usage.in_flight, usage.bytes), (waiting as u64, bytes));
    }

    /// Everybody who may be late is given up, and when all have left nothing is left.
    fn heal(&mut self) {
        self.advance(self.model.now + Span::from_secs(10));
        for row in &self.model.rows {
            for waiter in &row.waiters {
                assert_eq!(row.until(waiter), None, "{waiter:?} still waits");
            }
        }
        (0..CONNS).for_each(|conn| self.gone(conn));
        self.check();
        assert_eq!(self.engine.deadline(), None, "a timer runs for nobody");
    }
}

fn side((lifo, give_up, max): Line) -> SideRules {
    let queue = give_up
        .map_or(QueueConfig::default(), |give_up| QueueConfig::timeout(Span::from_millis(give_up)));
    let order = if lifo { Order::Lifo } else { Order::Fifo };
    SideRules { queue: QueueConfig { order, ..queue.with_max(max) }, ..SideRules::default() }
}

/// What somebody may and how much.
fn principal(call: &[&str], administer: bool, quota: Quota) -> Principal {
    let call = Patterns::new(call.iter().copied());
    let rights = Rights { call, administer, ..Rights::none() };
    Principal { rights, quota, class: Class::Normal }
}

/// The answers of a house with a match line and a regulator called `a`, to words of `ann`.
fn answers(ann: Principal, words: &[(Place, MeetWord<'_>)]) -> Vec<String> {
    struct Told(Vec<String>);
    impl Out for Told {
        fn emit(&mut self, effect: Effect<'_>) {
            if let Effect::Met { answer, .. } = effect {
                self.0.push(if let Met::Drop { reason, .. } = answer {
                    reason.as_str().into()
                } else {
                    format!("{answer:?}").to_lowercase()
                });
            }
        }
    }
    let valve = ValveConfig::limit(1);
    let mut meetings = MeetingRules::default();
    meetings.matches.insert((*b"a").into(), MatchRules::default());
    let regulator = RegulatorRules { line: SideRules::default(), valve };
    meetings.regulators.insert((*b"a").into(), regulator);
    let mut principals = Principals::new();
    principals.insert("ann".into(), ann);
    let config = Config { meetings, principals, ..Config::default() };
    let mut engine = Engine::new(config, (1, 2), Time::ZERO);
    let principal = engine.principal("ann").expect("it is named");
    let mut told = Told(Vec::new());
    for (tag, (place, word)) in (0..).zip(words) {
        let name = if *word == MeetWord::List { &b""[..] } else { b"a" };
        let word = Meet { place: *place, name: crate::Blob::Slice(name), word: word.clone() };
        let (conn, envelope) = (ConnId::new(0, 1, 0), crate::Blob::Slice(b""));
        let event = Event::Meet { conn, principal, tag, envelope, word };
        engine.step(Time::ZERO, event, &mut told);
    }
    let usage = engine.principals().find(|view| view.name == "ann").expect("it is named").usage;
    told.0.push(format!("denied {} over {}", usage.denied, usage.over_quota));
    told.0
}

fn ask(value: &'static [u8]) -> MeetWord<'static> {
    let (value, label) = (crate::Blob::Slice(value), crate::Blob::Slice(b""));
    MeetWord::Ask(Side::Ask, Wish { value, label, timeout: Span::MAX, waits: true })
}

#[test]
fn a_place_is_used_by_those_who_may_and_kept_by_those_who_administer() {
    let declare = || MeetWord::Declare(Box::new(PlaceRules::Match(MatchRules::default())));
    let words = [
        (Place::Match, ask(b"x")),
        (Place::Regulator, MeetWord::Len),
        (Place::Match, MeetWord::List),
        (Place::Match, declare()),
        (Place::Match, MeetWord::Remove),
    ];
    let cases: [(&[&str], bool, &[&str]); 4] = [
        (&[], false, &["denied", "denied", "names([])", "denied", "denied", "denied 4 over 0"]),
        (
            &["maitred.match.*"],
            false,
            &["denied", "names([b\"a\"])", "denied", "denied", "denied 3 over 0"],
        ),
        (
            &["maitred.match.b", "maitred.regulator.a"],
            false,
            &["denied", "len(0, 0)", "names([])", "denied", "denied", "denied 3 over 0"],
        ),
        (&[], true, &["denied", "denied", "names([])", "done", "done", "denied 2 over 0"]),
    ];
    for (call, administer, expected) in cases {
        let ann = principal(call, administer, Quota::default());
        assert_eq!(answers(ann, &words), expected, "{call:?} {administer}");
    }
}

#[test]
fn who_waits_counts_against_the_quota() {
    let words = [
        (Place::Match, ask(b"12345")),
        (Place::Match, ask(b"123456")),
        (Place::Regulator, ask(b"")),
        (Place::Regulator, ask(b"")),
        (Place::Regulator, ask(b"")),
    ];
    let all = &["maitred.*"];
    let few = Quota { in_flight: 2, ..Quota::default() };
    // Who runs does not wait any more.
    let run = |told: &[String]| told.iter().filter(|one| one.starts_with("run")).count();
    let told = answers(principal(all, false, few), &words);
    assert_eq!((run(&told), &told[told.len() - 1][..]), (0, "denied 0 over 3"));
    let told = answers(principal(all, false, few), &words[2..]);
    assert_eq!((run(&told), &told[told.len() - 1][..]), (1, "denied 0 over 0"));
    let small = Quota { bytes: 10, ..Quota::default() };
    let told = answers(principal(all, false, small), &words);
    assert_eq!(told[0], "overload");
    assert_eq!((run(&told), &told[told.len() - 1][..]), (1, "denied 0 over 1"));
    let slow = Quota { rate: 1, burst: 2, ..Quota::default() };
    let told = answers(principal(all, false, slow), &words);
    assert_eq!((told.len(), &told[told.len() - 1][..]), (4, "denied 0 over 3"));
}
