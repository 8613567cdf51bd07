//! Stories of the engine as text: commands, `----`, and every effect that came of them.
//!
//! `REWRITE=1 cargo test -p maitred-engine transcripts` writes what comes of them into the files;
//! then read the diff. A block ends with an empty line; `#` begins a comment. Times are in
//! milliseconds.
//!
//! | command | |
//! |---|---|
//! | `@T …` | moves the time to T, ticking whenever the engine asks for it on the way |
//! | `config key=n name:key=n prefix*:key=n …` | everything else is default |
//! | `offer w1 echo 2` | with concurrency 2 |
//! | `request c1 r1 echo "body" …` | `refuse`, `needs_workers`, `whole`, `since=T`, `fair_key=K` |
//! | `reply w1 r1 "body" more` | `more`: not the last one; `failed`: the worker could not do it |
//! | `withdraw w1`, `gone c1`, `count c1 echo`, `drain` | |
//! | `match line c1/m1 ask "value" …` | `ask_r`, `try_ask`, `try_ask_r`; `label=L`, `timeout=T` |
//! | `regulate gate c1/m2 acquire …`, `try_acquire` | options as above |
//! | `regulate gate c1/m3 done m2` | or `failed`, `continue`: by the word that got the lock |
//! | `regulate gate c1/m4 update T` | |
//! | `match line c1/m5 cancel L`, `match line c1/m6 len` | also of `regulate` |
//! | `match line c1/m7 declare key=n r:key=n …`, `remove`, `list` | also of `regulate` |
//! | `show` | services, places, workers and counters as they are |
//! | `due` | when the engine wants a tick |
//!
//! A place is configured as `match/line:give_up=100`, `match_r/line:…` or `regulator/gate:max=1`;
//! `c1/m1` is the word `m1` of client `c1`.
//!
//! What a tick brings is preceded by its time. A request's name is its envelope, so that it is seen
//! to come back unharmed. `"x"*9` is nine of them.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::format;
use std::path::Path;
use std::string::{String, ToString};
use std::vec::Vec;

use core::num::NonZero;

use bytes::Bytes;
use matching::{Breaker, Codel, Order, PieConfig, PieSide, QueueConfig, Rule, Side, ValveConfig};

use crate::{
    AlarmRules, AtBound, Blob, Config, ConnId, Effect, Engine, Event, Fair, FairBy, Meet, MeetWord,
    MeetingRules, Met, Out, Place, PlaceRules, PlaceView, PrincipalId, RegulatorRules, Request,
    RequestId, ServiceConfig, SideRules, Span, Tally, Time, ValveRules, WhenFull, Wish,
};

#[test]
fn transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("there is a folder of transcripts")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 10, "only {} transcripts", paths.len());
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("it is text");
        let played = play(&text);
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&path, played).expect("it can be written");
        } else if text != played {
            panic!("{}", difference(&path, &text, &played));
        }
    }
}

fn difference(path: &Path, text: &str, played: &str) -> String {
    let mut lines = text.lines().zip(played.lines()).enumerate();
    let place = lines.find(|(_, (expected, got))| expected != got);
    let (line, (expected, got)) = place.unwrap_or((0, ("another length", "")));
    format!("{}:{}:\nexpected {expected}\n     got {got}", path.display(), line + 1)
}

/// The same text with what really came of its commands.
fn play(text: &str) -> String {
    let mut story = Story::default();
    let mut played = Vec::new();
    for block in text.trim_end().split("\n\n") {
        let commands: Vec<&str> = block.lines().take_while(|line| *line != "----").collect();
        for command in &commands {
            story.command(command.split('#').next().unwrap_or_default().trim());
        }
        let mut lines: Vec<String> = commands.iter().map(|line| line.to_string()).collect();
        if commands.iter().any(|line| !line.is_empty() && !line.starts_with('#')) {
            lines.push("----".into());
            lines.append(&mut story.told.lines);
        }
        played.push(lines.join("\n"));
    }
    played.join("\n\n") + "\n"
}

/// A story in progress.
struct Story {
    now: Time,
    engine: Engine,
    told: Told,
}

impl Default for Story {
    fn default() -> Story {
        let engine = Engine::new(Config::default(), (1, 2), Time::ZERO);
        Story { now: Time::ZERO, engine, told: Told::default() }
    }
}

/// The effects so far, as text.
#[derive(Default)]
struct Told {
    lines: Vec<String>,
    /// Goes before each line.
    prefix: String,
    /// By the names they came with.
    requests: BTreeMap<String, RequestId>,
    /// By the words that got them.
    locks: BTreeMap<String, u64>,
}

impl Story {
    fn command(&mut self, line: &str) {
        let mut words = words(line);
        if let Some(time) = words.first().and_then(|word| word.strip_prefix('@')) {
            self.advance(Time::from_millis(number(time)));
            words.remove(0);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            [] => {}
            ["config", ref words @ ..] => {
                self.step(Event::Configure(Box::new(config(words))));
            }
            ["offer", worker, service] => self.offer(worker, service, 1),
            ["offer", worker, service, n] => self.offer(worker, service, number(n) as u32),
            ["request", client, name, service, body, ref options @ ..] => {
                self.request(client, name, service, body, options);
            }
            ["reply", worker, name, body, ref more @ ..] => {
                let unknown = RequestId::from_u64(0xDEAD_0000_BEEF);
                let request = *self.told.requests.get(name).unwrap_or(&unknown);
                let last = more != ["more"];
                let failed = more == ["failed"];
                let (conn, body) = (id(worker), Blob::Slice(body.as_bytes()));
                self.step(Event::Reply { conn, request, body, last, failed });
            }
            ["return", worker, name] => {
                let unknown = RequestId::from_u64(0xDEAD_0000_BEEF);
                let request = *self.told.requests.get(name).unwrap_or(&unknown);
                self.step(Event::Return { conn: id(worker), request });
            }
            ["withdraw", worker] => self.step(Event::Withdraw { conn: id(worker) }),
            ["gone", conn] => self.step(Event::Gone { conn: id(conn) }),
            ["count", client, service] => {
                let (service, envelope) = (Blob::Slice(service.as_bytes()), Blob::Slice(b"back"));
                self.step(Event::Count { conn: id(client), service, tag: 7, envelope });
            }
            ["match", place, who, ref words @ ..] => self.meet(Place::Match, place, who, words),
            ["regulate", place, who, ref words @ ..] => {
                self.meet(Place::Regulator, place, who, words);
            }
            ["drain"] => self.step(Event::Drain),
            ["show"] => self.show(),
            ["due"] => {
                let due = self.engine.deadline().map_or("never".into(), millis);
                self.told.lines.push(format!("due {due}"));
            }
            _ => panic!("not a command: {line}"),
        }
    }

    fn advance(&mut self, to: Time) {
        assert!(to >= self.now, "time goes back to {to:?}");
        while let Some(due) = self.engine.deadline().filter(|due| *due <= to) {
            // Time may have passed without a tick since the engine looked at it.
            self.now = due.max(self.now);
            self.told.prefix = format!("@{} ", millis(self.now));
            self.engine.tick(self.now, &mut self.told);
            let next = self.engine.deadline();
            assert!(next.is_none_or(|next| next > self.now), "a deadline that does not move");
        }
        self.told.prefix.clear();
        self.now = to;
    }

    fn step(&mut self, event: Event<'_>) {
        self.engine.step(self.now, event, &mut self.told);
    }

    fn offer(&mut self, worker: &str, service: &str, concurrency: u32) {
        let service = Blob::Slice(service.as_bytes());
        self.step(Event::Offer {
            conn: id(worker),
            principal: PrincipalId::ANONYMOUS,
            service,
            concurrency,
        });
    }

    fn request(&mut self, client: &str, name: &str, service: &str, body: &str, options: &[&str]) {
        let since = options.iter().find_map(|word| word.strip_prefix("since="));
        let fair_key = options.iter().find_map(|word| word.strip_prefix("fair_key="));
        let has = |option| options.contains(&option);
        self.step(Event::Request(Request {
            conn: id(client),
            principal: PrincipalId::ANONYMOUS,
            service: Blob::Slice(service.as_bytes()),
            tag: 1_000 + number(&name[1..]) as u64,
            payload: Bytes::from(format!("{name}{body}")),
            envelope: name.len() as u32,
            body_at: name.len() as u32,
            since: since.map_or(self.now, |time| Time::from_millis(number(time))),
            when_full: if has("refuse") { WhenFull::Refuse } else { WhenFull::Pause },
            needs_workers: has("needs_workers"),
            first_frame: Blob::Slice(body.as_bytes()),
            fair_key: Blob::Slice(fair_key.unwrap_or_default().as_bytes()),
            whole_replies: has("whole"),
            detached: has("detached"),
        }));
    }

    fn meet(&mut self, place: Place, name: &str, who: &str, words: &[&str]) {
        let (client, word_name) = who.split_once('/').expect("client/word");
        let option = |key| words.iter().find_map(|word| word.strip_prefix(key));
        let wish = |value: &str, waits| Wish {
            value: Bytes::copy_from_slice(value.as_bytes()).into(),
            label: Bytes::copy_from_slice(option("label=").unwrap_or_default().as_bytes()).into(),
            timeout: option("timeout=").map_or(Span::MAX, |span| Span::from_millis(number(span))),
            waits,
        };
        let lock = |name: &str| self.told.locks.get(name).copied().unwrap_or(77);
        let word = match *words {
            ["ask", value, ..] => MeetWord::Ask(Side::Ask, wish(value, true)),
            ["ask_r", value, ..] => MeetWord::Ask(Side::AskR, wish(value, true)),
            ["try_ask", value, ..] => MeetWord::Ask(Side::Ask, wish(value, false)),
            ["try_ask_r", value, ..] => MeetWord::Ask(Side::AskR, wish(value, false)),
            ["acquire", ..] => MeetWord::Ask(Side::Ask, wish("", true)),
            ["try_acquire"] => MeetWord::Ask(Side::Ask, wish("", false)),
            ["cancel", label] => MeetWord::Cancel(Blob::Slice(label.as_bytes())),
            ["len"] => MeetWord::Len,
            ["continue", name] => MeetWord::Continue(lock(name)),
            ["done", name] => MeetWord::Done(lock(name), true),
            ["failed", name] => MeetWord::Done(lock(name), false),
            ["update", span] => MeetWord::Update(Span::from_millis(number(span))),
            ["declare", ref keys @ ..] => MeetWord::Declare(Box::new(declared(place, keys))),
            ["remove"] => MeetWord::Remove,
            ["list"] => MeetWord::List,
            _ => panic!("not a word: {words:?}"),
        };
        self.step(Event::Meet {
            conn: id(client),
            principal: PrincipalId::ANONYMOUS,
            tag: 1_000 + number(&word_name[1..]) as u64,
            envelope: Blob::Slice(word_name.as_bytes()),
            word: Meet { place, name: Blob::Slice(name.as_bytes()), word },
        });
    }

    fn show(&mut self) {
        let mut lines = Vec::new();
        for s in self.engine.services() {
            let name = String::from_utf8_lossy(s.name);
            let oldest = s.oldest.map_or("-".into(), millis);
            lines.push(format!(
                "service {name}: workers {} offers {} waiting {} ({} bytes, oldest {oldest}) \
                 leased {}; taken {} answered {} refused {} redelivered {}",
                s.workers,
                s.offers,
                s.waiting,
                s.waiting_bytes,
                s.leased,
                s.requests,
                s.replies,
                s.refusals.iter().sum::<u64>(),
                s.redeliveries,
            ));
        }
        for w in self.engine.workers() {
            let service = String::from_utf8_lossy(w.service);
            lines.push(format!(
                "worker {}: {service} holds {} of {}, answered {}, since {}",
                name(w.conn),
                w.holds,
                w.concurrency,
                w.handled,
                millis(w.since),
            ));
        }
        lines.extend(self.engine.places().map(|place| show_place(&place, self.now)));
        lines.sort();
        let s = self.engine.stats();
        lines.push(format!(
            "house: requests {} replies {} refusals {:?} withdrawals {} redeliveries {} \
             expulsions {}",
            s.requests, s.replies, s.refusals, s.withdrawals, s.redeliveries, s.expulsions,
        ));
        self.told.lines.append(&mut lines);
    }
}

impl Out for Told {
    fn emit(&mut self, effect: Effect<'_>) {
        let text = String::from_utf8_lossy;
        let line = match effect {
            Effect::Deliver { to, request, payload, body_at, delivery, .. } => {
                let (envelope, body) = payload.split_at(body_at as usize);
                self.requests.insert(text(envelope).into(), request);
                format!("deliver {} {} {:?} #{delivery}", name(to), text(envelope), text(body))
            }
            Effect::Reply { to, tag, envelope, service, body, last, .. } => {
                self.check_tag(tag, envelope);
                let more = if last { "" } else { " more" };
                let (envelope, service) = (text(envelope), text(service));
                format!("reply {} {envelope} {service} {:?}{more}", name(to), text(body.as_slice()))
            }
            Effect::Refuse { to, request, tag, envelope, service, reason, answer } => {
                self.check_tag(tag, envelope);
                let new = if request.is_none() { " new" } else { "" };
                let answer = if answer { " answer" } else { "" };
                let (envelope, service, reason) = (text(envelope), text(service), reason.as_str());
                format!("refuse {} {envelope} {service} {reason}{new}{answer}", name(to))
            }
            Effect::Restart { to, request } => {
                let named = self.requests.iter().find(|(_, id)| **id == request);
                format!("restart {} {}", name(to), named.map_or("?", |(name, _)| name))
            }
            Effect::Count { to, tag, envelope, workers } => {
                assert_eq!((tag, envelope), (7, &b"back"[..]));
                format!("count {} {workers}", name(to))
            }
            Effect::Met { to, tag, envelope, answer } => {
                self.check_tag(tag, envelope);
                let word = text(envelope);
                if let Met::Run { lock, .. } = answer {
                    self.locks.insert(word.to_string(), lock);
                }
                format!("met {}/{word} {}", name(to), met(&answer))
            }
            Effect::Expel { to, why } => format!("expel {} {why:?}", name(to)),
            Effect::Pause { to } => format!("pause {}", name(to)),
            Effect::Resume { to } => format!("resume {}", name(to)),
            Effect::Alarm { service, raised, oldest } => {
                let (word, oldest) = (if raised { "alarm" } else { "calm" }, oldest.as_millis());
                format!("{word} {} {oldest}", text(service))
            }
            Effect::Place { name, change, .. } => {
                format!("place {} {}", text(name), change.as_str())
            }
            Effect::Drained => "drained".into(),
        };
        self.lines.push(format!("{}{line}", self.prefix));
    }
}

impl Told {
    fn check_tag(&self, tag: u64, envelope: &[u8]) {
        let name = String::from_utf8_lossy(envelope);
        assert_eq!(tag, 1_000 + number(&name[1..]) as u64, "the tag of {name}");
    }
}

fn show_place(place: &PlaceView<'_>, now: Time) -> String {
    let mut text = format!("place {}", String::from_utf8_lossy(place.name));
    if place.live {
        text.push_str(" live");
    }
    let Tally { came, met, retries, withdrawn, drops } = place.tally;
    for (side, came) in place.sides.iter().zip(came) {
        let oldest = side.oldest.map_or(0, |at| (now - at).as_millis());
        text.push_str(&format!(" [came {came} waiting {} {}B {oldest}]", side.waiting, side.bytes));
    }
    text.push_str(&format!(" met {met} retries {retries} withdrawn {withdrawn} drops {drops:?}"));
    if let Some(open) = place.open {
        text.push_str(&format!(" running {} open {open}", place.running));
    }
    text
}

fn met(answer: &Met<'_>) -> String {
    let times = |relative: &Span, sojourn: &Span| {
        format!("relative {} sojourn {}", relative.as_millis(), sojourn.as_millis())
    };
    match answer {
        Met::Go { value, relative, sojourn } => {
            let value = String::from_utf8_lossy(value.as_slice());
            format!("go {value:?} {}", times(relative, sojourn))
        }
        Met::Run { relative, sojourn, .. } => format!("run {}", times(relative, sojourn)),
        Met::Drop { reason, sojourn } => {
            format!("drop {} sojourn {}", reason.as_str(), sojourn.as_millis())
        }
        Met::Retry => "retry".into(),
        Met::Cancelled => "cancelled".into(),
        Met::Number(n) => format!("number {n}"),
        Met::Len(a, b) => format!("len {a} {b}"),
        Met::Done => "done".into(),
        Met::Stop => "stop".into(),
        Met::Names(names) => names
            .iter()
            .fold("names".into(), |text, name| format!("{text} {}", String::from_utf8_lossy(name))),
        Met::NoPlace => "no place".into(),
        Met::NoLock => "no lock".into(),
    }
}

/// `c3` and `w3` are different connections.
fn id(name: &str) -> ConnId {
    let (kind, n) = name.split_at(1);
    ConnId::new(u8::from(kind == "w"), number(n) as u32, 0)
}

fn name(id: ConnId) -> String {
    format!("{}{}", if id.shard() == 1 { "w" } else { "c" }, id.slot())
}

fn config(words: &[&str]) -> Config {
    let mut config = Config::default();
    for word in words {
        let (key, value) = word.split_once('=').expect("key=value");
        let value = number(value);
        if let Some((place, key)) = key.split_once('/').filter(|_| key.contains(':')) {
            let (name, key) = key.split_once(':').expect("place/name:key");
            set_place(&mut config.meetings, place, name, key, value);
            continue;
        }
        match key.rsplit_once(':') {
            None => match key {
                "services_max" => config.services_max = value as usize,
                "places_max" => config.meetings.places_max = value as usize,
                "concurrency_max" => config.concurrency_max = value as u32,
                "service_idle" => config.service_idle = Span::from_millis(value),
                _ => set(&mut config.defaults, key, value),
            },
            Some((name, key)) => match name.strip_suffix('*') {
                Some(prefix) => {
                    let mut service = ServiceConfig::default();
                    set(&mut service, key, value);
                    config.by_prefix.push((prefix.as_bytes().into(), service));
                }
                None => set(config.by_name.entry(name.as_bytes().into()).or_default(), key, value),
            },
        }
    }
    config
}

fn set_place(rules: &mut MeetingRules, place: &str, name: &str, key: &str, value: i64) {
    let name: Box<[u8]> = name.as_bytes().into();
    let nothing = RegulatorRules { line: SideRules::default(), valve: ValveConfig::limit(1) };
    let side = match place {
        "match" => &mut rules.matches.entry(name).or_default().ask,
        "match_r" => &mut rules.matches.entry(name).or_default().ask_r,
        "regulator" => {
            let regulator = rules.regulators.entry(name).or_insert(nothing);
            match key {
                "max" => regulator.valve = ValveConfig::limit(value as usize),
                "rate" => regulator.valve = ValveConfig::rate(value as usize, Span::from_secs(1)),
                _ => {}
            }
            &mut regulator.line
        }
        _ => panic!("no such place: {place}"),
    };
    match key {
        "give_up" => side.queue = QueueConfig::timeout(Span::from_millis(value)),
        "codel" => {
            side.queue = QueueConfig::codel(Span::from_millis(value), Span::from_millis(100))
        }
        "queue_max" => side.queue.max = value as usize,
        "bytes" => side.bytes = value as u64,
        "max" | "rate" => {}
        _ => panic!("no such key: {key}"),
    }
}

/// Rules as `set_place` makes them of `key=n`, or `r:key=n` for who asks back.
fn declared(place: Place, keys: &[&str]) -> PlaceRules {
    let mut rules = MeetingRules::default();
    for word in keys {
        let (key, value) = word.split_once('=').expect("key=value");
        let (side, key) = match (place, key.strip_prefix("r:")) {
            (Place::Match, Some(key)) => ("match_r", key),
            (Place::Match, None) => ("match", key),
            (Place::Regulator, _) => ("regulator", key),
        };
        set_place(&mut rules, side, "it", key, number(value));
    }
    let MeetingRules { mut matches, mut regulators, .. } = rules;
    match place {
        Place::Match => PlaceRules::Match(matches.remove(&b"it"[..]).unwrap_or_default()),
        Place::Regulator => {
            PlaceRules::Regulator(regulators.remove(&b"it"[..]).expect("it has a valve"))
        }
    }
}

fn set(config: &mut ServiceConfig, key: &str, value: i64) {
    match key {
        "max_deliveries" => config.max_deliveries = value as u32,
        "queue_max" => config.queue_max = value as usize,
        "queue_bytes" => config.queue_bytes = value as u64,
        "give_up" => config.give_up = Span::from_millis(value),
        "aim" => config.aim = Span::from_millis(value),
        "execution_limit" => config.execution_limit = Span::from_millis(value),
        "codel" => config.codel = Some(Codel { target: Span::from_millis(value), ..codel(config) }),
        "interval" => {
            config.aim_interval = Some(Span::from_millis(value));
            let interval = Span::from_millis(value);
            config.codel = config.codel.map(|codel| Codel { interval, ..codel });
        }
        "lifo" => config.order = if value == 0 { Order::Fifo } else { Order::Lifo },
        "newest_worker" => config.workers = if value == 0 { Order::Fifo } else { Order::Lifo },
        "keep" => config.keep = value as usize,
        "drop_oldest" => config.when_full = AtBound::DropOldest,
        "refuse_full" => config.when_full = AtBound::Refuse,
        "fair_first_frame" => config.fair = fair(FairBy::FirstFrame, value),
        "fair_connection" => config.fair = fair(FairBy::Connection, value),
        "fair_header" => config.fair = fair(FairBy::Header, value),
        "valve" => config.valve = valve(ValveConfig::limit(value as usize)),
        "rate" => config.valve = valve(ValveConfig::rate(value as usize, Span::from_secs(1))),
        "breaker" => {
            let breaker = Breaker { failures: value as u32, probes: 1, ..Breaker::default() };
            let rule = Rule::Breaker(breaker);
            config.valve = valve(ValveConfig { rule, ..ValveConfig::default() });
        }
        "refuse_shut" => {
            config.valve = config.valve.map(|rules| ValveRules { refuse: value != 0, ..rules });
        }
        "alarm" => {
            let wait = Span::from_millis(value);
            config.alarm = Some(AlarmRules { wait, lasting: wait });
        }
        "protect" => {
            let (target, interval) = (Span::from_millis(value), Span::from_millis(value));
            let ask = PieSide { target, interval };
            config.protect = Some(PieConfig { ask, ..PieConfig::default() });
        }
        "answer_refusals" => config.answer_refusals = value != 0,
        _ => panic!("no such key: {key}"),
    }
}

fn codel(config: &ServiceConfig) -> Codel {
    config.codel.unwrap_or_default()
}

fn fair(by: FairBy, flows: i64) -> Option<Fair> {
    NonZero::new(flows as u64).map(|flows| Fair { by, flows })
}

fn valve(valve: ValveConfig) -> Option<ValveRules> {
    Some(ValveRules { valve, refuse: false })
}

/// Words between blanks; `"a b"*2` is one.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = if let Some(quoted) = rest.strip_prefix('"') {
            let (text, after) = quoted.split_once('"').expect("a closing quote");
            let end = after.find(' ').unwrap_or(after.len());
            let times = after[..end].strip_prefix('*').map_or(1, number);
            (text.repeat(times as usize), &after[end..])
        } else {
            let end = rest.find(' ').unwrap_or(rest.len());
            (rest[..end].to_string(), &rest[end..])
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}

fn millis(time: Time) -> String {
    (time.as_nanos() / 1_000_000).to_string()
}

fn number(text: &str) -> i64 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}
