//! Second stage: whole shards, joined by a channel, in a network with peers that fail.
//!
//! ```text
//!   clients, workers, noise ── zmtp ── Link (bytes cut, delayed, lost) ── Shard ─┐ Cross, late
//!   callers inside the process ─────────────────────────────────────── Shard ◀──┘
//! ```
//!
//! A run has three acts. Faults: everything goes wrong that the seed wants. Calm: the network
//! heals and peers behave; everything must end in bounded time. Quiet: nothing happens, so next to
//! nothing may be done; then everybody leaves, and nothing may be left.

mod client;

mod ledger;

mod meeter;

mod net;

mod noise;

mod setting;

mod shell;

mod speaker;

mod words;

mod worker;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use engine::{ConnId, ServiceView, Span, Time};
use sessions::{Call, Cross, Shard};

use crate::log::Log;
use crate::rng::Rng;
use crate::{Bug, Report, Scenario, Violation};
use client::Client;
use ledger::{LOCAL, Ledger};
use meeter::{Book, Meeter};
use net::{Link, Way, Weather};
use noise::Noise;
use setting::Setting;
use speaker::{Speaker, put_message};
use worker::{Wish, Worker};

pub(crate) const SERVICES: [&[u8]; 4] = [b"alpha", b"beta", b"gamma.\x00", b"delta"];

/// Runs the second stage of a scenario.
pub(crate) fn run(scenario: &Scenario, shards: u8, log: &mut Log) -> Result<Report, Violation> {
    let mut world = World::new(scenario, shards, log);
    let result = world.live();
    let virtual_time = world.now - world.opened;
    result.map_err(|violation| Violation { at: virtual_time, ..violation })?;
    let (requests, answered) = (world.ledger.entries.len() as u64, world.ledger.answered);
    Ok(Report { virtual_time, requests, answered })
}

/// What happens at some moment.
#[derive(Clone, Copy, Debug)]
enum What {
    /// Octets arrive; none: the end of the stream does, or a pause is over.
    Arrive { link: usize, way: Way, octets: usize },
    /// The peer may have something to do.
    Wake { peer: usize },
    /// A shard asked to be called.
    Tick { shard: usize },
    /// What was sent from one shard to another.
    Cross { from: usize, to: usize, count: usize },
    /// Something goes wrong.
    Fault,
    /// Somebody inside the process calls.
    Call,
}

/// What is certainly true of services, for the checker of `mmi`.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) shards: usize,
    /// Workers the broker may count, and since when there are none.
    workers: Vec<(u32, Time)>,
}

/// Nothing is ever armed further ahead.
const SETTLED: Span = Span::from_secs(70);

impl Truth {
    pub(crate) fn without_worker_since(&self, service: usize) -> Option<Time> {
        let (workers, since) = self.workers[service];
        (workers == 0).then_some(since)
    }
}

#[derive(Debug)]
enum Kind {
    Client(Client),
    Worker(Worker),
    Meeter(Meeter),
    Noise(Noise),
}

#[derive(Debug)]
struct Peer {
    kind: Kind,
    remote: SocketAddr,
    link: Option<usize>,
    speaker: Option<Speaker>,
    /// It does not read before this time.
    stalled: Time,
    /// Nor does anything else.
    frozen: Time,
    connect_at: Time,
    /// Its next wake-up.
    armed: Time,
    old: bool,
}

struct World<'a> {
    rng: Rng,
    log: &'a mut Log,
    opened: Time,
    now: Time,
    next_event: u64,
    queue: BTreeMap<(Time, u64), What>,
    shards: Vec<Shard>,
    armed: Vec<Time>,
    ticks: u64,
    cross: BTreeMap<(usize, usize), VecDeque<Cross>>,
    cross_last: BTreeMap<(usize, usize), Time>,
    links: Vec<Link>,
    link_by_conn: BTreeMap<ConnId, usize>,
    calls: BTreeMap<ConnId, Option<u64>>,
    peers: Vec<Peer>,
    ledger: Ledger,
    book: Book,
    truth: Truth,
    setting: Setting,
    weather: Weather,
    /// Faults may happen.
    faulty: bool,
    drained: usize,
    bug: Option<Bug>,
    /// The shell's read buffer.
    buffer: Vec<u8>,
}

impl<'a> World<'a> {
    fn new(scenario: &Scenario, shards: u8, log: &'a mut Log) -> World<'a> {
        let mut rng = Rng::new(scenario.seed, 2 + u64::from(shards));
        let opened = Time::from_nanos(rng.between(-1 << 50, 1 << 50));
        let setting = Setting::some(&mut rng);
        let seed = (rng.u64(), rng.u64());
        #[allow(unused_mut, reason = "only planting changes it")]
        let mut houses: Vec<Shard> = (0..shards)
            .map(|me| Shard::new(setting.shard.clone(), seed, me, shards, opened))
            .collect();
        #[cfg(feature = "planted")]
        if let Some(bug) = scenario.bug.and_then(Bug::in_engine) {
            houses.iter_mut().for_each(|shard| shard.plant(bug));
        } else if scenario.bug == Some(Bug::BusyBeat) {
            houses.iter_mut().for_each(Shard::plant_busy_beat);
        }
        let mut ledger = Ledger::new(scenario.seed, setting.large, SERVICES.len());
        setting.note_deliveries(&mut ledger);
        let truth = Truth { shards: shards.into(), workers: vec![(0, opened); SERVICES.len()] };
        World {
            rng,
            log,
            opened,
            now: opened,
            next_event: 0,
            queue: BTreeMap::new(),
            armed: vec![Time::MAX; houses.len()],
            shards: houses,
            ticks: 0,
            cross: BTreeMap::new(),
            cross_last: BTreeMap::new(),
            links: Vec::new(),
            link_by_conn: BTreeMap::new(),
            calls: BTreeMap::new(),
            peers: Vec::new(),
            ledger,
            book: Book::default(),
            truth,
            weather: setting.weather,
            setting,
            faulty: true,
            drained: 0,
            bug: scenario.bug,
            buffer: vec![0; shell::READ_BUFFER],
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        self.start();
        self.run_until(self.now + self.setting.faults)?;
        self.calm()?;
        self.run_until_ended()?;
        self.quiet()?;
        self.leave()
    }

    fn start(&mut self) {
        let setting = &self.setting;
        let (beat, liveness) = (setting.shard.heartbeat, setting.shard.liveness);
        let mut kinds: Vec<Kind> = Vec::new();
        for _ in 0..setting.clients {
            kinds.push(Kind::Client(Client::some(&mut self.rng, setting.names_service)));
        }
        for i in 0..setting.workers {
            let service = if i < SERVICES.len() { i } else { self.rng.index(SERVICES.len()) };
            let pairs = &setting.shard.pairs;
            let worker = Worker::some(&mut self.rng, service, beat, liveness, pairs);
            kinds.push(Kind::Worker(worker));
        }
        kinds.extend((0..setting.meeters).map(|_| Kind::Meeter(Meeter::new())));
        for _ in 0..setting.noises {
            kinds.push(Kind::Noise(Noise::some(&mut self.rng)));
        }
        for (i, kind) in kinds.into_iter().enumerate() {
            // Some share an address, as behind one proxy.
            let host = if self.rng.chance(20) { 1 } else { i as u8 + 2 };
            let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, host));
            let late = self.rng.skewed(self.setting.faults.as_nanos() as u64 / 2) as i64;
            let connect_at = self.now + Span::from_nanos(late);
            self.peers.push(Peer {
                kind,
                remote: SocketAddr::new(address, 40_000 + i as u16),
                link: None,
                speaker: None,
                stalled: self.now,
                frozen: self.now,
                connect_at,
                armed: Time::MAX,
                old: self.rng.chance(20),
            });
            self.arm_peer(i);
        }
        for what in [What::Fault, What::Call] {
            let at = self.now + self.some_span(1_000);
            self.at(at, what);
        }
    }

    fn run_until(&mut self, until: Time) -> Result<(), Violation> {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((at, _), what) = entry.remove_entry();
            assert!(at >= self.now, "time does not run backwards");
            self.now = at;
            self.handle(what)?;
        }
        self.now = until;
        Ok(())
    }

    fn handle(&mut self, what: What) -> Result<(), Violation> {
        match what {
            What::Arrive { link, way: Way::Up, octets } => self.on_octets_up(link, octets),
            What::Arrive { link, way: Way::Down, octets } => self.on_octets_down(link, octets),
            What::Wake { peer } => self.on_wake(peer),
            What::Tick { shard } => self.on_tick(shard),
            What::Cross { from, to, count } => self.on_cross(from, to, count),
            What::Fault => self.on_fault(),
            What::Call => self.on_call(),
        }
    }

    fn at(&mut self, at: Time, what: What) {
        self.next_event += 1;
        self.queue.insert((at.max(self.now), self.next_event), what);
    }

    fn some_span(&mut self, most_ms: u64) -> Span {
        Span::from_nanos(1 + self.rng.skewed(most_ms * 1_000_000) as i64)
    }

    /// Octets or the end of the stream reach a peer.
    fn on_octets_down(&mut self, link: usize, octets: usize) -> Result<(), Violation> {
        self.links[link].down.arrive(octets);
        if self.links[link].peer_done {
            return Ok(());
        }
        self.peer_reads(self.links[link].peer)
    }

    fn peer_reads(&mut self, peer: usize) -> Result<(), Violation> {
        let Some(link) = self.peers[peer].link else { return Ok(()) };
        let deaf = matches!(&self.peers[peer].kind, Kind::Noise(noise) if noise.deaf);
        if self.peers[peer].stalled > self.now || self.peers[peer].frozen > self.now {
            return Ok(());
        }
        let state = &mut self.links[link];
        let readable = if deaf && state.down.read > 400 { 0 } else { state.down.readable() };
        let bytes = state.down.take(readable);
        let ended = state.down.ended && state.down.is_drained();
        if !bytes.is_empty() {
            self.log.event(self.now, "peer reads", link as u64, bytes.len() as u64, || {
                format!("{} octets on link {link}", bytes.len())
            });
            self.flush(link);
            self.peer_hears(peer, link, &bytes)?;
        }
        if ended && self.peers[peer].link == Some(link) {
            self.peer_lost(peer);
        }
        Ok(())
    }

    fn peer_hears(&mut self, peer: usize, link: usize, bytes: &[u8]) -> Result<(), Violation> {
        let Some(mut speaker) = self.peers[peer].speaker.take() else { return Ok(()) };
        let (messages, broken) = speaker.hear(bytes);
        let mut wish = if broken { Wish::Close } else { Wish::Stay };
        for frames in messages {
            self.log.event(self.now, "hears", peer as u64, link as u64, || {
                format!("peer {peer} on link {link}: {}", show(&frames))
            });
            match &mut self.peers[peer].kind {
                Kind::Client(client) => {
                    client.on_message(self.now, link, frames, &mut self.ledger, &self.truth)?;
                }
                Kind::Worker(worker) => {
                    let (ledger, rng) = (&mut self.ledger, &mut self.rng);
                    wish = worker.on_message(self.now, frames, &mut speaker, ledger, rng)?;
                    if wish != Wish::Stay {
                        break;
                    }
                }
                Kind::Meeter(meeter) => {
                    meeter.on_message(self.now, &frames, &mut self.book, &mut self.rng)?;
                }
                Kind::Noise(_) => {}
            }
        }
        self.check_running()?;
        let wakes = matches!(self.peers[peer].kind, Kind::Client(_));
        self.peers[peer].speaker = Some(speaker);
        self.note_worker(peer, link);
        self.pump(peer);
        match wish {
            Wish::Stay => {}
            Wish::Close => self.peer_closes(peer),
            Wish::Crash => self.peer_crashes(peer),
        }
        if wakes {
            return self.on_peer_turn(peer);
        }
        self.arm_peer(peer);
        Ok(())
    }

    fn on_wake(&mut self, peer: usize) -> Result<(), Violation> {
        if self.peers[peer].armed > self.now {
            return Ok(());
        }
        self.peers[peer].armed = Time::MAX;
        self.peer_reads(peer)?;
        self.on_peer_turn(peer)
    }

    /// A peer does what it wants to do by now.
    fn on_peer_turn(&mut self, peer: usize) -> Result<(), Violation> {
        let state = &mut self.peers[peer];
        if state.frozen > self.now {
            self.arm_peer(peer);
            return Ok(());
        }
        if state.link.is_none() {
            if state.connect_at <= self.now {
                self.connect(peer);
            }
            self.arm_peer(peer);
            return Ok(());
        }
        let (Some(link), Some(mut speaker)) = (state.link, state.speaker.take()) else {
            return Ok(());
        };
        let wish = match &mut state.kind {
            Kind::Client(client) => {
                let (ledger, truth) = (&mut self.ledger, &self.truth);
                let leaves =
                    client.on_wake(self.now, link, &mut speaker, ledger, truth, &mut self.rng);
                if leaves { Wish::Close } else { Wish::Stay }
            }
            Kind::Worker(worker) => {
                worker.on_wake(self.now, &mut speaker, &mut self.ledger, &mut self.rng)
            }
            Kind::Meeter(meeter) => {
                let book = &mut self.book;
                meeter.on_wake(self.now, link, &mut speaker, book, &mut self.rng);
                Wish::Stay
            }
            Kind::Noise(noise) => {
                noise.on_wake(self.now, &mut speaker, &mut self.rng);
                Wish::Stay
            }
        };
        self.peers[peer].speaker = Some(speaker);
        self.maybe_forge(peer);
        self.pump(peer);
        match wish {
            Wish::Stay => {}
            Wish::Close => self.peer_closes(peer),
            Wish::Crash => self.peer_crashes(peer),
        }
        self.arm_peer(peer);
        Ok(())
    }

    /// A worker answers in another's name.
    fn maybe_forge(&mut self, peer: usize) {
        let Kind::Worker(worker) = &self.peers[peer].kind else { return };
        // Tokens of different homes may be the same: there another's may well be its own.
        let alone = self.shards.len() == 1;
        if !self.rng.chance(worker.manners.forge / 4) || worker.has_left() || !alone {
            return;
        }
        let others: Vec<(Vec<u8>, u64)> = self
            .peers
            .iter()
            .filter_map(|other| match &other.kind {
                // Of its own service it may have been given the request meanwhile.
                Kind::Worker(other) if other.service != worker.service => other.seen.clone(),
                Kind::Client(_) | Kind::Worker(_) | Kind::Meeter(_) | Kind::Noise(_) => None,
            })
            .collect();
        if others.is_empty() {
            return;
        }
        let (token, request) = others[self.rng.index(others.len())].clone();
        let Some(mut speaker) = self.peers[peer].speaker.take() else { return };
        if let Kind::Worker(worker) = &self.peers[peer].kind {
            worker.forge(&token, request, &mut speaker, &mut self.ledger);
        }
        self.peers[peer].speaker = Some(speaker);
    }

    fn connect(&mut self, peer: usize) {
        let shard = self.rng.index(self.shards.len());
        let speaks = match &self.peers[peer].kind {
            Kind::Client(client) => client.speaks(),
            Kind::Worker(worker) => worker.speaks(),
            Kind::Meeter(_) => sessions::Speaks::Majordomo,
            Kind::Noise(noise) => noise.speaks,
        };
        let mdp02_service_frame = self.setting.names_service;
        let dialect = sessions::Dialect { speaks, mdp02_service_frame, door: 0 };
        let remote = self.peers[peer].remote;
        let refused = self.faulty && self.rng.chance(self.setting.refuse_percent);
        let opened =
            if refused { None } else { self.shards[shard].open(self.now, dialect, Some(remote)) };
        let Some(id) = opened else {
            self.peers[peer].connect_at = self.now + self.some_span(2_000);
            return;
        };
        let link = self.links.len();
        self.log.event(self.now, "connects", peer as u64, shard as u64, || {
            format!("peer {peer} as link {link} ({id:?})")
        });
        self.links.push(Link {
            peer,
            shard,
            id,
            up: net::Pipe::default(),
            down: net::Pipe::default(),
            silent: false,
            broker_done: false,
            peer_done: false,
            may_serve: None,
            leaves_at: None,
        });
        self.link_by_conn.insert(id, link);
        let state = &mut self.peers[peer];
        let socket_type = match &state.kind {
            Kind::Client(client) => client.socket_type,
            Kind::Worker(_) | Kind::Meeter(_) | Kind::Noise(_) => zmtp::SocketType::Dealer,
        };
        let mut speaker = Speaker::new(socket_type, state.old);
        match &mut state.kind {
            Kind::Client(client) => client.on_connected(self.now),
            Kind::Worker(worker) => worker.on_connected(self.now, &mut speaker, &mut self.rng),
            Kind::Meeter(meeter) => meeter.on_connected(self.now),
            Kind::Noise(noise) => noise.on_connected(self.now, &mut speaker, &mut self.rng),
        }
        state.link = Some(link);
        state.speaker = Some(speaker);
        self.note_worker(peer, link);
        self.pump(peer);
        self.turn_or_remember(shard);
    }

    /// The broker may count a worker from the moment it offers itself.
    fn note_worker(&mut self, peer: usize, link: usize) {
        let Kind::Worker(worker) = &self.peers[peer].kind else { return };
        let state = &mut self.links[link];
        if worker.has_left() {
            let said = self.peers[peer].speaker.as_ref().map(|speaker| speaker.said);
            state.leaves_at = state.leaves_at.or(said);
        } else if state.may_serve.is_none() && !state.broker_done {
            state.may_serve = Some(worker.service);
            self.truth.workers[worker.service].0 += 1;
        }
    }

    fn forget_worker(&mut self, link: usize) {
        if let Some(service) = self.links[link].may_serve.take() {
            let (workers, since) = &mut self.truth.workers[service];
            *workers -= 1;
            *since = self.now;
        }
    }

    /// Writes what a peer has to say, as far as its pipe has room.
    fn pump(&mut self, peer: usize) {
        let (Some(link), Some(speaker)) = (self.peers[peer].link, &mut self.peers[peer].speaker)
        else {
            return;
        };
        let state = &mut self.links[link];
        let octets = speaker.out.len().min(state.up.room(&self.weather));
        if octets == 0 {
            return;
        }
        let bytes: Vec<u8> = speaker.out.drain(..octets).collect();
        let pieces = state.up.write(self.now, &bytes, &self.weather, &mut self.rng);
        let silent = state.silent;
        self.log.event(self.now, "peer writes", link as u64, octets as u64, || {
            format!("{octets} octets on link {link}")
        });
        for (at, octets) in pieces {
            if !silent {
                self.at(at, What::Arrive { link, way: Way::Up, octets });
            }
        }
    }

    /// A peer closes its connection; what it wrote still arrives.
    fn peer_closes(&mut self, peer: usize) {
        let Some(link) = self.peer_parts(peer) else { return };
        let (weather, silent) = (self.weather, self.links[link].silent);
        let at = self.links[link].up.next_arrival(self.now, &weather, &mut self.rng);
        self.links[link].up.ended = true;
        if !silent {
            self.at(at, What::Arrive { link, way: Way::Up, octets: 0 });
        }
    }

    /// A peer dies; what it wrote may be lost.
    fn peer_crashes(&mut self, peer: usize) {
        let Some(link) = self.peers[peer].link else { return };
        if !self.links[link].silent {
            self.links[link].up.lose();
        }
        self.peer_closes(peer);
    }

    /// The other side or the network ended a peer's connection.
    fn peer_lost(&mut self, peer: usize) {
        self.peer_parts(peer);
        self.arm_peer(peer);
    }

    fn peer_parts(&mut self, peer: usize) -> Option<usize> {
        let link = self.peers[peer].link.take()?;
        self.log.event(self.now, "parts", peer as u64, link as u64, || {
            format!("peer {peer} from link {link}")
        });
        self.links[link].peer_done = true;
        self.links[link].down.lose();
        if let Kind::Meeter(meeter) = &mut self.peers[peer].kind {
            meeter.on_parted();
        }
        self.ledger.withdraw(link);
        self.peers[peer].speaker = None;
        self.peers[peer].connect_at = self.now + self.some_span(1_500);
        self.flush(link);
        Some(link)
    }

    fn arm_peer(&mut self, peer: usize) {
        let state = &self.peers[peer];
        let mut due = match (&state.link, &state.kind) {
            (None, _) => state.connect_at,
            (Some(_), Kind::Client(client)) => client.deadline(),
            (Some(_), Kind::Worker(worker)) => worker.deadline(),
            (Some(_), Kind::Meeter(meeter)) => meeter.deadline(),
            (Some(_), Kind::Noise(noise)) => noise.deadline(),
        };
        if state.stalled > self.now {
            due = due.min(state.stalled);
        }
        due = due.max(state.frozen).max(self.now);
        if due < state.armed && due != Time::MAX {
            self.peers[peer].armed = due;
            self.at(due, What::Wake { peer });
        }
    }

    /// Something goes wrong with a connection, or with the rules.
    fn on_fault(&mut self) -> Result<(), Violation> {
        if !self.faulty {
            return Ok(());
        }
        let next = self.now + self.some_span(self.setting.fault_every_ms);
        self.at(next, What::Fault);
        let peer = self.rng.index(self.peers.len());
        let weights = self.setting.fault_weights;
        let fault = self.rng.weighted(&weights);
        self.log.event(self.now, "fault", peer as u64, fault as u64, || {
            format!("kind {fault} at peer {peer}")
        });
        let span = self.some_span(8_000);
        match fault {
            0 => self.peer_closes(peer),
            1 => self.peer_crashes(peer),
            2 => self.reset(peer)?,
            3 => {
                if let Some(link) = self.peers[peer].link {
                    self.links[link].silent = true;
                }
            }
            4 => self.peers[peer].stalled = self.now + span,
            5 => self.peers[peer].frozen = self.now + span,
            6 => self.reload()?,
            7 if self.rng.chance(3) => self.drain()?,
            _ => {}
        }
        self.arm_peer(peer);
        Ok(())
    }

    /// Both ends learn at once that their connection is no more.
    fn reset(&mut self, peer: usize) -> Result<(), Violation> {
        let Some(link) = self.peers[peer].link else { return Ok(()) };
        self.links[link].up.lose();
        self.peer_lost(peer);
        self.broker_loses(link)
    }

    fn reload(&mut self) -> Result<(), Violation> {
        self.setting.reload(&mut self.rng);
        self.setting.note_deliveries(&mut self.ledger);
        for shard in 0..self.shards.len() {
            self.shards[shard].configure(self.now, self.setting.shard.clone());
            self.turn(shard)?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), Violation> {
        for shard in 0..self.shards.len() {
            self.shards[shard].drain(self.now);
            self.turn(shard)?;
        }
        Ok(())
    }

    /// Somebody inside the process calls, or gives up.
    fn on_call(&mut self) -> Result<(), Violation> {
        if !self.faulty {
            return Ok(());
        }
        let next = self.now + self.some_span(self.setting.call_every_ms);
        self.at(next, What::Call);
        if !self.calls.is_empty() && self.rng.chance(30) {
            let calls: Vec<(ConnId, Option<u64>)> = self.calls.clone().into_iter().collect();
            let (id, request) = self.rng.pick(&calls);
            self.calls.remove(&id);
            if let Some(request) = request {
                self.ledger.withdraw_one(request);
            }
            let shard = usize::from(id.shard());
            self.shards[shard].hang_up(self.now, id);
            return self.turn(shard);
        }
        let shard = self.rng.index(self.shards.len());
        let service = self.rng.index(SERVICES.len());
        let request = self.ledger.upcoming();
        let frames = self.ledger.open(LOCAL, service, Vec::new(), None, false);
        let mut body = Vec::new();
        put_message(&mut body, &frames);
        let call = Call {
            principal: engine::PrincipalId::HOUSE,
            service: Bytes::from_static(SERVICES[service]),
            body: body.into(),
            fair_key: Bytes::new(),
            lease: None,
        };
        let id = self.shards[shard].call(self.now, call);
        self.calls.insert(id, Some(request));
        self.turn(shard)
    }

    /// The faults end: the network heals, peers behave.
    fn calm(&mut self) -> Result<(), Violation> {
        self.log.event(self.now, "calm", 0, 0, String::new);
        self.faulty = false;
        self.weather =
            Weather { delay_max: Span::from_millis(2), cut_percent: 10, capacity: 1 << 20 };
        // There is room for everybody.
        self.setting.shard.limits.connections = 1_000;
        for shard in &mut self.shards {
            shard.configure(self.now, self.setting.shard.clone());
        }
        for link in 0..self.links.len() {
            let state = &self.links[link];
            if state.silent && !(state.peer_done && state.broker_done) {
                let peer = state.peer;
                if self.peers[peer].link == Some(link) {
                    self.peer_lost(peer);
                }
                self.broker_loses(link)?;
            }
        }
        for peer in 0..self.peers.len() {
            let state = &mut self.peers[peer];
            (state.stalled, state.frozen) = (self.now, self.now);
            match &mut state.kind {
                Kind::Client(client) => {
                    client.calm(self.setting.answers_all);
                }
                Kind::Worker(worker) => {
                    if worker.calm() {
                        self.peer_crashes(peer);
                    }
                }
                Kind::Meeter(meeter) => meeter.calm(),
                Kind::Noise(_) => {
                    self.peer_crashes(peer);
                    self.peers[peer].connect_at = Time::MAX;
                }
            }
            // Whoever was armed far ahead looks again now.
            self.peers[peer].armed = Time::MAX;
            self.arm_peer(peer);
            self.peer_reads(peer)?;
            self.arm_peer(peer);
        }
        Ok(())
    }

    fn run_until_ended(&mut self) -> Result<(), Violation> {
        for _ in 0..1_200 {
            if self.unended().is_none() {
                return Ok(());
            }
            self.run_until(self.now + Span::from_millis(100))?;
        }
        let mut text = self.unended().unwrap_or_default();
        for shard in &self.shards {
            text.extend(shard.engine().services().map(|view| show_service(&view)));
        }
        Err(self.violation("liveness", text))
    }

    /// Why the run is not over yet.
    fn unended(&self) -> Option<String> {
        for (peer, state) in self.peers.iter().enumerate() {
            match &state.kind {
                Kind::Client(client) if client.left > 0 => {
                    return Some(format!("client {peer} asks"));
                }
                Kind::Worker(worker) if state.link.is_none() || !worker.is_idle() => {
                    return Some(format!("worker {peer} is not ready"));
                }
                Kind::Meeter(meeter) if !meeter.is_done() => {
                    return Some(format!("meeter {peer} waits or runs: {meeter:?}"));
                }
                Kind::Client(_) | Kind::Worker(_) | Kind::Meeter(_) | Kind::Noise(_) => {}
            }
        }
        for shard in &self.shards {
            let engine = shard.engine();
            if engine.requests_len() > 0 {
                let views: String = engine.services().map(|view| show_service(&view)).collect();
                return Some(format!("{} requests left{views}", engine.requests_len()));
            }
        }
        let expected = self.truth.workers.iter().map(|(workers, _)| *workers as usize).sum();
        let workers: usize = self.shards.iter().map(|shard| shard.engine().workers_len()).sum();
        if workers != expected {
            return Some(format!("{workers} workers, must be {expected}"));
        }
        // Who cannot be told of a refusal waits in vain: as many as there are such refusals.
        let open: Vec<u64> = self.ledger.still_open().map(|(request, _)| request).collect();
        let refused: u64 =
            self.shards.iter().map(|s| s.engine().stats().refusals.iter().sum::<u64>()).sum();
        let untold = if self.setting.answers_all { self.ledger.refused_unnamed } else { refused };
        if open.len() as u64 > untold {
            return Some(format!("requests {open:?} did not end; {untold} refusals were not told"));
        }
        None
    }

    /// Nobody wants anything: heartbeats and nothing else.
    fn quiet(&mut self) -> Result<(), Violation> {
        let shard = &self.setting.shard;
        let beats = || shard.pairs.iter().map(|pair| pair.heartbeat).chain([shard.heartbeat]);
        let (shortest, longest) = (beats().min(), beats().max());
        let (shortest, longest) = (shortest.unwrap_or_default(), longest.unwrap_or_default());
        // Long enough for everything armed before to have fired, in some runs: they take long.
        let settles = self.rng.chance(5);
        self.run_until(self.now + if settles { SETTLED } else { longest.times(4) })?;
        if let Some(text) = self.unended() {
            return Err(self.violation("liveness", text));
        }
        let stale: usize = self.shards.iter().map(Shard::timers_len).sum();
        self.ticks = 0;
        self.run_until(self.now + shortest.times(10))?;
        let connections: u64 = self.shards.iter().map(|s| s.counters().connections).sum();
        // A beat of a connection is one timer, which the wheel may move twice before it fires.
        let most = 40 * (connections + SERVICES.len() as u64) + 3 * stale as u64;
        if self.ticks > most {
            let text = format!("{} ticks in 10 quiet intervals", self.ticks);
            return Err(self.violation("timers", text));
        }
        for shard in &self.shards {
            let owners = shard.counters().connections as usize + shard.engine().services_len();
            if settles && shard.timers_len() > 3 * owners {
                let text = format!("{} timers of {owners} owners", shard.timers_len());
                return Err(self.violation("timers", text));
            }
            for view in shard.connections() {
                if (view.in_flight, view.held, view.out_bytes) != (0, 0, 0) {
                    return Err(self.violation("nothing is left", format!("{view:?}")));
                }
            }
        }
        self.check_workers()
    }

    /// As many run at the gate as may, of those whom the broker has not given up.
    fn check_running(&self) -> Result<(), Violation> {
        let running = self.peers.iter().filter(|peer| match (&peer.kind, peer.link) {
            (Kind::Meeter(meeter), Some(link)) => meeter.runs() && !self.links[link].broker_done,
            (Kind::Client(_) | Kind::Worker(_) | Kind::Noise(_) | Kind::Meeter(_), _) => false,
        });
        meeter::check_running(running.count())
    }

    /// Every service has exactly the workers that are there.
    fn check_workers(&mut self) -> Result<(), Violation> {
        for (service, name) in SERVICES.into_iter().enumerate() {
            let counted: u32 = self.shards.iter().map(|s| s.engine().workers_of(name)).sum();
            let offers: usize = self
                .shards
                .iter()
                .flat_map(|s| s.engine().services())
                .filter(|view| view.name == name)
                .map(|view| view.offers)
                .sum();
            let serving: Vec<usize> = self
                .peers
                .iter()
                .filter_map(|peer| match &peer.kind {
                    Kind::Worker(worker) if worker.service == service && peer.link.is_some() => {
                        Some(worker.concurrency())
                    }
                    Kind::Client(_) | Kind::Worker(_) | Kind::Meeter(_) | Kind::Noise(_) => None,
                })
                .collect();
            if counted as usize != serving.len() || offers != serving.iter().sum::<usize>() {
                let text = format!("{name:?}: {counted} workers, {offers} offers, are {serving:?}");
                return Err(self.violation("workers are counted", text));
            }
        }
        Ok(())
    }

    /// Everybody goes; nothing may be left.
    fn leave(&mut self) -> Result<(), Violation> {
        for peer in 0..self.peers.len() {
            self.peer_closes(peer);
            self.peers[peer].connect_at = Time::MAX;
        }
        let calls: Vec<ConnId> = std::mem::take(&mut self.calls).into_keys().collect();
        for id in calls {
            let shard = usize::from(id.shard());
            self.shards[shard].hang_up(self.now, id);
            self.turn(shard)?;
        }
        self.drain()?;
        let idle = self.setting.shard.engine.service_idle;
        self.run_until(self.now + idle + SETTLED)?;
        if self.drained != self.shards.len() {
            let text = format!("{} of {} shards drained", self.drained, self.shards.len());
            return Err(self.violation("drain", text));
        }
        for shard in &self.shards {
            let (engine, counters) = (shard.engine(), shard.counters());
            let left = (
                engine.requests_len(),
                engine.workers_len(),
                engine.services_len(),
                counters.connections,
                shard.timers_len(),
            );
            if left != (0, 0, 0, 0, 0) {
                let text = format!("(requests, workers, services, connections, timers): {left:?}");
                return Err(self.violation("nothing is left", text));
            }
            for place in engine.places() {
                let waiting: usize = place.sides.iter().map(|side| side.waiting).sum();
                if waiting + place.running > 0 {
                    return Err(self.violation("nothing is left", format!("{place:?}")));
                }
            }
        }
        Ok(())
    }

    fn violation(&self, rule: &'static str, text: String) -> Violation {
        Violation::new(rule, text)
    }
}

/// A service for the report.
fn show_service(view: &ServiceView<'_>) -> String {
    let name = String::from_utf8_lossy(view.name).into_owned();
    let (workers, offers) = (view.workers, view.offers);
    let (waiting, leased) = (view.waiting, view.leased);
    format!("; {name:?}: {workers} workers, {offers} offers, {waiting} wait, {leased} leased")
}

/// Frames for the log.
fn show(frames: &[Vec<u8>]) -> String {
    let short = |frame: &Vec<u8>| {
        let text =
            String::from_utf8_lossy(&frame[..frame.len().min(24)]).escape_debug().to_string();
        if frame.len() > 24 { format!("{text}…{}", frame.len()) } else { text }
    };
    frames.iter().map(short).collect::<Vec<_>>().join("|")
}
