//! First stage: the engine alone, event by event, against a naive [`model`] of its rules.
//!
//! After each event the complete list of effects, all counters, all lines and the next deadline
//! must be the model's. Order is compared where it is promised: deliveries and replies per
//! connection. Effects for different connections commute.

mod model;

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::{
    Blob, Config, ConnId, Effect, Engine, Event, Out, PrincipalId, Request, RequestId,
    ServiceConfig, Span, Time, WhenFull,
};

use crate::log::Log;
use crate::rng::Rng;
use crate::{Report, Scenario, Violation};
use model::{Ask, Model, Told, why};

const NAMES: [&[u8]; 5] = [b"echo", b"sum", b"sum.slow", b"\x00bin", b"rare"];
const CONNS: u32 = 12;
/// Octets of a return envelope: the request's number.
const ENVELOPE: usize = 8;

/// Runs the first stage of a scenario.
pub(crate) fn run(scenario: &Scenario, log: &mut Log) -> Result<Report, Violation> {
    let mut stage = Stage::new(scenario, log);
    let result = stage.live();
    let virtual_time = stage.now - Time::ZERO;
    result.map_err(|violation| Violation { at: virtual_time, ..violation })?;
    let counts = &stage.model.counts;
    Ok(Report { virtual_time, requests: counts.requests, answered: counts.replies })
}

struct Stage<'a> {
    rng: Rng,
    log: &'a mut Log,
    now: Time,
    /// Time may stand still between events. Only where nothing ever expires: the engine drops what
    /// is due at its next call, not between two calls of the same moment.
    ties: bool,
    engine: Engine,
    model: Model,
    peers: Vec<Peer>,
    next_number: u64,
    next_part: u64,
    /// Under which id each request was delivered.
    ids: BTreeMap<u64, RequestId>,
    /// Ids by which a confused worker answers.
    known_ids: Vec<(RequestId, u64)>,
    weights: [u64; OPS],
}

const OPS: usize = 9;

struct Peer {
    id: ConnId,
    /// A request that found its line full, and whether there is room for it.
    held_back: Option<(Ask, bool)>,
}

/// What the engine said, in full.
#[derive(Default)]
struct Recorder {
    told: Vec<Told>,
    delivered: Vec<(u64, RequestId)>,
    broken: Vec<String>,
}

impl<'a> Stage<'a> {
    fn new(scenario: &Scenario, log: &'a mut Log) -> Stage<'a> {
        let mut rng = Rng::new(scenario.seed, 1);
        let ties = rng.chance(40);
        let config = some_config(&mut rng, ties);
        let now = Time::from_millis(0);
        #[allow(unused_mut, reason = "only planting changes it")]
        let mut engine = Engine::new(config.clone(), (rng.u64(), rng.u64()), now);
        #[cfg(feature = "planted")]
        if let Some(bug) = scenario.bug.and_then(crate::Bug::in_engine) {
            engine.plant(bug);
        }
        let mut weights = [0; OPS];
        for (weight, usual) in weights.iter_mut().zip([40, 14, 40, 4, 5, 6, 2, 3, 6]) {
            // Swarm: some runs lack whole kinds of events, some have them in plenty.
            *weight = usual * rng.pick(&[0, 1, 1, 1, 1, 4]);
        }
        (weights[0], weights[1]) = (weights[0].max(10), weights[1].max(3));
        let peers = (0..CONNS).map(|slot| Peer { id: ConnId::new(0, slot, 0), held_back: None });
        Stage {
            rng,
            log,
            now,
            ties,
            engine,
            model: Model::new(config, NAMES.to_vec()),
            peers: peers.collect(),
            next_number: 0,
            next_part: 0,
            ids: BTreeMap::new(),
            known_ids: Vec::new(),
            weights,
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        let steps = 60 + self.rng.skewed(600);
        for _ in 0..steps {
            self.turn()?;
        }
        self.heal()
    }

    fn turn(&mut self) -> Result<(), Violation> {
        self.pass_time()?;
        let peer = self.rng.index(self.peers.len());
        match self.rng.weighted(&self.weights) {
            0 => self.ask(peer),
            1 => self.offer(peer),
            2 => self.answer(),
            3 => self.withdraw(peer),
            4 => self.leave(peer),
            5 => self.count(peer),
            6 => self.configure(),
            7 => self.confuse(peer),
            _ if self.rng.chance(2) => self.drain(),
            _ => self.retry(),
        }
    }

    fn pass_time(&mut self) -> Result<(), Violation> {
        if self.ties && self.rng.chance(60) {
            return Ok(());
        }
        let longest = if self.rng.chance(5) { 4_000 } else { 40 };
        let ms = 1 + self.rng.skewed(longest);
        self.now += Span::from_millis(ms as i64);
        let mut out = Recorder::default();
        self.engine.tick(self.now, &mut out);
        self.model.tick(self.now);
        self.forget_services()?;
        self.compare("tick", out)
    }

    /// A service the engine forgot must have been idle for long enough, and one that was must be
    /// forgotten.
    fn forget_services(&mut self) -> Result<(), Violation> {
        for (i, name) in NAMES.into_iter().enumerate() {
            let Some(service) = self.model.services.get(&i) else { continue };
            let idle =
                service.idle_since.map_or(Time::MAX, |at| at + self.model.config.service_idle);
            let exists = self.engine.services().any(|view| view.name == name);
            if exists != (idle > self.now) {
                let text = format!("{name:?}: exists is {exists}, idle enough at {idle:?}");
                return Err(self.violation("service table", text));
            }
            if !exists {
                self.model.services.remove(&i);
            }
        }
        Ok(())
    }

    fn ask(&mut self, peer: usize) -> Result<(), Violation> {
        if self.peers[peer].held_back.is_some() {
            return self.retry();
        }
        self.next_number += 1;
        let large = self.rng.chance(3);
        let ask = Ask {
            number: self.next_number,
            conn: self.peers[peer].id,
            service: self.rng.index(NAMES.len()),
            bytes: ENVELOPE as u64 + self.rng.skewed(if large { 2_000 } else { 60 }),
            refuse_when_full: self.rng.chance(30),
            needs_workers: self.rng.chance(15),
            whole_replies: self.rng.chance(50),
        };
        self.request(peer, ask)
    }

    fn request(&mut self, peer: usize, ask: Ask) -> Result<(), Violation> {
        let mut payload = ask.number.to_le_bytes().to_vec();
        payload.resize(ask.bytes as usize, ask.number as u8);
        let event = Event::Request(Request {
            conn: ask.conn,
            principal: PrincipalId::ANONYMOUS,
            service: Blob::Slice(NAMES[ask.service]),
            tag: ask.number,
            payload: Bytes::from(payload),
            envelope: ENVELOPE as u32,
            body_at: ENVELOPE as u32,
            since: self.now,
            when_full: if ask.refuse_when_full { WhenFull::Refuse } else { WhenFull::Pause },
            needs_workers: ask.needs_workers,
            first_frame: Blob::Slice(b""),
            fair_key: Blob::Slice(b""),
            whole_replies: ask.whole_replies,
            detached: false,
        });
        self.peers[peer].held_back = None;
        self.model.request(self.now, ask);
        let paused = self.step("request", event)?;
        if paused.contains(&Told::Pause { to: ask.conn }) {
            let resumed = paused.contains(&Told::Resume { to: ask.conn });
            self.peers[peer].held_back = Some((ask, resumed));
        }
        Ok(())
    }

    /// A connection that was told to read on does so, after some time.
    fn retry(&mut self) -> Result<(), Violation> {
        let ready = |peer: &Peer| matches!(peer.held_back, Some((_, true)));
        let Some(peer) = self.peers.iter().position(ready) else { return Ok(()) };
        let Some((ask, _)) = self.peers[peer].held_back else { return Ok(()) };
        self.request(peer, ask)
    }

    fn offer(&mut self, peer: usize) -> Result<(), Violation> {
        let conn = self.peers[peer].id;
        let serves = self.model.workers.contains_key(&conn);
        if self.peers[peer].held_back.is_some() || serves && !self.rng.chance(8) {
            return Ok(());
        }
        let service = self.rng.index(NAMES.len());
        let concurrency = if self.rng.chance(60) { 1 } else { self.rng.skewed(8) as u32 };
        let name = Blob::Slice(NAMES[service]);
        self.model.offer(self.now, conn, service, concurrency);
        self.step(
            "offer",
            Event::Offer { conn, principal: PrincipalId::ANONYMOUS, service: name, concurrency },
        )
        .map(drop)
    }

    fn answer(&mut self) -> Result<(), Violation> {
        let held: Vec<(u64, ConnId)> =
            self.model.requests.iter().filter_map(|(n, h)| Some((*n, h.holder?))).collect();
        if held.is_empty() {
            return Ok(());
        }
        let (number, conn) = self.rng.pick(&held);
        let last = self.rng.chance(75);
        self.reply(conn, self.ids[&number], Some(number), last)
    }

    fn reply(
        &mut self,
        conn: ConnId,
        request: RequestId,
        number: Option<u64>,
        last: bool,
    ) -> Result<(), Violation> {
        self.next_part += 1;
        self.model.reply(self.now, conn, number, self.next_part, last);
        let body = self.next_part.to_le_bytes();
        let body = Blob::Slice(&body);
        self.step("reply", Event::Reply { conn, request, body, last, failed: false }).map(drop)
    }

    fn withdraw(&mut self, peer: usize) -> Result<(), Violation> {
        let conn = self.peers[peer].id;
        self.model.withdraw(self.now, conn);
        self.step("withdraw", Event::Withdraw { conn }).map(drop)
    }

    fn leave(&mut self, peer: usize) -> Result<(), Violation> {
        let conn = self.peers[peer].id;
        self.peers[peer].id = ConnId::new(0, conn.slot(), conn.generation() + 1);
        self.peers[peer].held_back = None;
        self.model.gone(self.now, conn);
        self.step("gone", Event::Gone { conn }).map(drop)
    }

    fn count(&mut self, peer: usize) -> Result<(), Violation> {
        let (conn, service) = (self.peers[peer].id, self.rng.index(NAMES.len()));
        let tag = self.rng.u64();
        self.model.count(conn, service, tag);
        let (service, envelope) = (Blob::Slice(NAMES[service]), Blob::Slice(b"back"));
        self.step("count", Event::Count { conn, service, tag, envelope }).map(drop)
    }

    fn configure(&mut self) -> Result<(), Violation> {
        let mut config = some_config(&mut self.rng, self.ties);
        // The table of services is compared by the rules of the moment.
        config.service_idle = self.model.config.service_idle;
        self.model.configure(self.now, config.clone());
        self.step("configure", Event::Configure(Box::new(config))).map(drop)
    }

    /// A worker answers what it does not hold: somebody else's, what ended, what never was.
    fn confuse(&mut self, peer: usize) -> Result<(), Violation> {
        let conn = self.peers[peer].id;
        let (request, number) = if self.known_ids.is_empty() || self.rng.chance(20) {
            (RequestId::from_u64(self.rng.u64()), None)
        } else {
            let (request, number) = self.rng.pick(&self.known_ids);
            (request, Some(number))
        };
        self.reply(conn, request, number, true)
    }

    fn drain(&mut self) -> Result<(), Violation> {
        self.model.draining = true;
        self.step("drain", Event::Drain).map(drop)
    }

    fn step(&mut self, code: &'static str, event: Event<'_>) -> Result<Vec<Told>, Violation> {
        self.log.event(self.now, code, self.next_number, 0, || format!("{event:?}"));
        let mut out = Recorder::default();
        self.engine.step(self.now, event, &mut out);
        let told = out.told.clone();
        self.compare(code, out)?;
        Ok(told)
    }

    fn compare(&mut self, code: &'static str, mut out: Recorder) -> Result<(), Violation> {
        for told in &mut out.told {
            if let Told::Restart { request, .. } = told {
                let named = self.ids.iter().find(|(_, id)| id.as_u64() == *request);
                *request = named.map_or(0, |(number, _)| *number);
            }
        }
        if let Some(text) = out.broken.into_iter().next() {
            return Err(self.violation("effects", text));
        }
        for (number, id) in &out.delivered {
            let known = *self.ids.entry(*number).or_insert(*id);
            if known != *id || self.known_ids.iter().any(|(i, n)| i == id && n != number) {
                let text =
                    format!("request {number} is called {id:?}, another or before {known:?}");
                return Err(self.violation("request names", text));
            }
            if self.known_ids.len() < 64 {
                self.known_ids.push((*id, *number));
            }
        }
        let must = self.model.finish(self.now);
        for told in &out.told {
            self.log.event(self.now, "  told", 0, 0, || format!("{told:?}"));
            self.log.bytes(format!("{told:?}").as_bytes());
            if let Told::Resume { to } = told
                && let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == *to)
                && let Some((_, resumed)) = &mut peer.held_back
            {
                *resumed = true;
            }
        }
        if in_promised_order(&must) != in_promised_order(&out.told) {
            let rule = blame(&must, &out.told);
            let text = format!("{code}:{}", difference(&must, &out.told));
            return Err(self.violation(rule, text));
        }
        self.compare_state()
    }

    fn compare_state(&mut self) -> Result<(), Violation> {
        let stats = self.engine.stats();
        let counts = model::Counts {
            requests: stats.requests,
            replies: stats.replies,
            refusals: stats.refusals,
            withdrawals: stats.withdrawals,
            redeliveries: stats.redeliveries,
            expulsions: stats.expulsions,
        };
        if counts != self.model.counts {
            let text = format!("it counts {counts:?}, must count {:?}", self.model.counts);
            return Err(self.violation("counters", text));
        }
        if self.engine.requests_len() != self.model.requests.len() {
            let (has, must) = (self.engine.requests_len(), self.model.requests.len());
            return Err(self.violation("ends once", format!("{has} requests, must be {must}")));
        }
        for view in self.engine.services() {
            if view.offers > 0 && view.waiting > 0 {
                let text = format!("{:?}: {} wait, {} free", view.name, view.waiting, view.offers);
                return Err(self.violation("nothing waits while an offer is free", text));
            }
            let i = NAMES.iter().position(|name| *name == view.name).expect("only ours");
            let Some(must) = self.model.services.get(&i) else {
                return Err(self.violation("service table", format!("{:?} is new", view.name)));
            };
            let has = (view.workers, view.offers, view.waiting, view.leased, view.waiting_bytes);
            let workers = self.model.workers_of(i);
            let (offers, waiting) = (must.offers.len(), must.line.len());
            let bytes = self.model.waiting_bytes(i);
            let must = (workers, offers, waiting, self.model.leased_of(i), bytes);
            if has != must {
                let text = format!(
                    "{:?}: (workers, offers, waiting, leased, bytes) is {has:?}, must be {must:?}",
                    view.name
                );
                return Err(self.violation("lines", text));
            }
        }
        let (armed, due) = (self.engine.deadline(), self.model.deadline());
        if due.is_some_and(|due| armed.is_none_or(|armed| armed > due.max(self.now + TICK))) {
            let text = format!("armed for {armed:?}, something is due at {due:?}");
            return Err(self.violation("timers", text));
        }
        Ok(())
    }

    /// Faults end; workers come; everything must end, and nothing may be left.
    fn heal(&mut self) -> Result<(), Violation> {
        for round in 0.. {
            let done = self.model.requests.is_empty()
                && self.peers.iter().all(|peer| peer.held_back.is_none());
            if done {
                break;
            }
            if round > 20_000 {
                let held_back: Vec<_> = self.peers.iter().filter_map(|p| p.held_back).collect();
                let text = format!(
                    "not ended: {:?}\nheld back: {held_back:?}\nservices: {:?}",
                    self.model.requests, self.model.services
                );
                return Err(self.violation("liveness", text));
            }
            self.now += Span::from_millis(1);
            let mut out = Recorder::default();
            self.engine.tick(self.now, &mut out);
            self.model.tick(self.now);
            self.forget_services()?;
            self.compare("tick", out)?;
            match round % 4 {
                0 => self.serve()?,
                1 => self.retry()?,
                _ => self.answer()?,
            }
        }
        for peer in 0..self.peers.len() {
            self.leave(peer)?;
        }
        self.now = self.now + self.model.config.service_idle + Span::from_secs(1);
        let mut out = Recorder::default();
        self.engine.tick(self.now, &mut out);
        self.model.tick(self.now);
        self.forget_services()?;
        self.compare("tick", out)?;
        // What was armed long ahead for something that ended may fire once more, in vain.
        self.engine.tick(self.now + Span::from_secs(100_000), &mut Recorder::default());
        let (requests, workers) = (self.engine.requests_len(), self.engine.workers_len());
        let (services, armed) = (self.engine.services_len(), self.engine.deadline());
        if (requests, workers, services, armed) != (0, 0, 0, None) {
            let text = format!(
                "left: {requests} requests, {workers} workers, {services} services, {armed:?}"
            );
            return Err(self.violation("liveness", text));
        }
        Ok(())
    }

    /// Somebody without a role serves a service that needs it.
    fn serve(&mut self) -> Result<(), Violation> {
        let needy = self.model.services.iter().find(|(i, s)| {
            self.model.workers_of(**i) == 0 && (!s.line.is_empty() || s.config.queue_max == 0)
        });
        let Some(service) = needy.map(|(i, _)| *i) else { return Ok(()) };
        let free =
            |peer: &Peer| peer.held_back.is_none() && !self.model.workers.contains_key(&peer.id);
        let peer = match self.peers.iter().position(free) {
            Some(peer) => peer,
            None => {
                let peer = self.rng.index(self.peers.len());
                self.leave(peer)?;
                peer
            }
        };
        let conn = self.peers[peer].id;
        self.model.offer(self.now, conn, service, 2);
        let name = Blob::Slice(NAMES[service]);
        self.step(
            "offer",
            Event::Offer { conn, principal: PrincipalId::ANONYMOUS, service: name, concurrency: 2 },
        )
        .map(drop)
    }

    fn violation(&self, rule: &'static str, text: String) -> Violation {
        Violation::new(rule, text)
    }
}

/// A timer never waits less than a tick of the wheel.
const TICK: Span = Span::from_millis(1);

impl Recorder {
    fn number(&mut self, envelope: &[u8], tag: u64) -> u64 {
        let number = <[u8; ENVELOPE]>::try_from(envelope).map(u64::from_le_bytes).unwrap_or(0);
        if number != tag {
            self.broken.push(format!("envelope of {number} with the tag of {tag}"));
        }
        number
    }
}

impl Out for Recorder {
    fn emit(&mut self, effect: Effect<'_>) {
        let told = match effect {
            Effect::Deliver { to, request, payload, body_at, delivery, .. } => {
                let number = self.number(&payload[..ENVELOPE], leading_number(payload));
                if payload[body_at as usize..].iter().any(|octet| *octet != number as u8) {
                    self.broken.push(format!("the body of {number} is another's"));
                }
                self.delivered.push((number, request));
                Told::Deliver { to, request: number, delivery }
            }
            Effect::Reply { to, tag, envelope, body, last, .. } => {
                let request = self.number(envelope, tag);
                let part = leading_number(body.as_slice());
                Told::Reply { to, request, part, last }
            }
            Effect::Refuse { to, request, tag, envelope, reason, answer, .. } => {
                let number = self.number(envelope, tag);
                Told::Refuse { to, request: number, reason, taken: request.is_some(), answer }
            }
            // The number is looked up later: nothing in the effect carries it.
            Effect::Restart { to, request } => Told::Restart { to, request: request.as_u64() },
            Effect::Count { to, tag, workers, .. } => Told::Count { to, tag, workers },
            Effect::Met { to, .. } => {
                return self.broken.push(format!("{to:?} met somebody nobody asked for"));
            }
            Effect::Expel { to, why: reason } => Told::Expel { to, why: why(reason) },
            Effect::Pause { to } => Told::Pause { to },
            Effect::Resume { to } => Told::Resume { to },
            Effect::Alarm { service, .. } => {
                return self.broken.push(format!("an alarm of {service:?} nobody wished"));
            }
            Effect::Place { name, .. } => {
                return self.broken.push(format!("a place {name:?} nobody declared"));
            }
            Effect::Drained => Told::Drained,
        };
        self.told.push(told);
    }
}

fn leading_number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |octets| u64::from_le_bytes(*octets))
}

/// The list with everything sorted whose order is not promised.
fn in_promised_order(told: &[Told]) -> (BTreeMap<ConnId, Vec<Told>>, Vec<Told>) {
    let mut ordered: BTreeMap<ConnId, Vec<Told>> = BTreeMap::new();
    let mut rest = Vec::new();
    for told in told {
        match told {
            Told::Deliver { to, .. } | Told::Reply { to, .. } => {
                ordered.entry(*to).or_default().push(*told);
            }
            Told::Refuse { .. }
            | Told::Restart { .. }
            | Told::Count { .. }
            | Told::Expel { .. }
            | Told::Pause { .. }
            | Told::Resume { .. }
            | Told::Drained => rest.push(*told),
        }
    }
    rest.sort_unstable();
    (ordered, rest)
}

/// What was told and must not have been, and the reverse; everything if only the order is wrong.
fn difference(must: &[Told], has: &[Told]) -> String {
    let (mut missing, mut extra) = (must.to_vec(), Vec::new());
    for told in has {
        match missing.iter().position(|other| other == told) {
            Some(place) => drop(missing.remove(place)),
            None => extra.push(*told),
        }
    }
    if missing.is_empty() && extra.is_empty() {
        (missing, extra) = (must.to_vec(), has.to_vec());
    }
    let lines = |label: &'static str, list: Vec<Told>| {
        list.into_iter().map(move |told| format!("\n    {label} {told:?}")).collect::<String>()
    };
    lines("must not have told", extra) + &lines("must have told", missing)
}

/// The rule that the first difference is about.
fn blame(must: &[Told], has: &[Told]) -> &'static str {
    let (must, has) = (in_promised_order(must), in_promised_order(has));
    let deliveries = |told: &BTreeMap<ConnId, Vec<Told>>| -> Vec<(u64, ConnId)> {
        let mut pairs = Vec::new();
        for told in told.values().flatten() {
            if let Told::Deliver { to, request, .. } = told {
                pairs.push((*request, *to));
            }
        }
        pairs.sort_unstable();
        pairs
    };
    let (must_pairs, has_pairs) = (deliveries(&must.0), deliveries(&has.0));
    if must_pairs != has_pairs {
        let requests = |pairs: &[(u64, ConnId)]| pairs.iter().map(|p| p.0).collect::<Vec<_>>();
        let workers = |pairs: &[(u64, ConnId)]| {
            let mut workers: Vec<ConnId> = pairs.iter().map(|p| p.1).collect();
            workers.sort_unstable();
            workers
        };
        return if requests(&must_pairs) == requests(&has_pairs) {
            "least recently used first"
        } else if workers(&must_pairs) == workers(&has_pairs) {
            "head of the line"
        } else {
            "an offer holds one request"
        };
    }
    if must.0 != has.0 { "ends once" } else { "effects" }
}

fn some_config(rng: &mut Rng, ties: bool) -> Config {
    let service = |rng: &mut Rng| ServiceConfig {
        max_deliveries: rng.pick(&[1, 2, 3, 3, 9]),
        queue_max: rng.pick(&[0, 1, 2, 5, 20, 1_000]),
        queue_bytes: rng.pick(&[64, 300, 2_000, 1 << 30]),
        give_up: if ties || rng.chance(40) {
            Span::MAX
        } else {
            Span::from_millis(rng.between(1, 800))
        },
        execution_limit: if ties || rng.chance(40) {
            Span::MAX
        } else {
            Span::from_millis(rng.between(1, 800))
        },
        answer_refusals: rng.chance(50),
        // The model knows only lines that shed nobody for the wait of others, and no valves.
        ..ServiceConfig::default()
    };
    let mut config = Config { defaults: service(rng), ..Config::default() };
    config.by_name.insert(NAMES[0].into(), service(rng));
    config.by_prefix.push((b"s".as_slice().into(), service(rng)));
    config.by_prefix.push((b"sum".as_slice().into(), service(rng)));
    config.services_max = rng.pick(&[3, 100, 100]);
    config.concurrency_max = rng.pick(&[4, 100]);
    config.service_idle = Span::from_millis(rng.between(100, 2_000));
    config
}
