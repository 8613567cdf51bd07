//! The engine: one door in, effects out.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::hash::BuildHasher;
use core::num::NonZero;

use bytes::Bytes;
use hashbrown::HashMap;
use matching::{Broker, Drops, Match, Outcome, Queue, QueueConfig, Span, Time};
use siphasher::sip::SipHasher13;
use slotmap::{Key as _, KeyData, SlotMap};

use crate::blob::Blob;
use crate::config::{Config, ServiceConfig};
use crate::effect::{Effect, Expulsion, Out, Reason};
use crate::event::{Event, Request, WhenFull};
use crate::ids::{ConnId, RequestId};
use crate::stats::{Histogram, Stats};
use crate::wheel::Wheel;

slotmap::new_key_type! {
    struct ServiceKey;
    struct RequestKey;
    struct SeatKey;
}

/// Services, workers, requests and leases of one shard.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    services: SlotMap<ServiceKey, Service>,
    service_by_name: HashMap<Box<[u8]>, ServiceKey, NameHash>,
    requests: SlotMap<RequestKey, Held>,
    seats: SlotMap<SeatKey, Seat>,
    conns: HashMap<ConnId, Conn, IdHash>,
    /// Each entry with the time it was armed for: a service that was armed anew ignores the old.
    wheel: Wheel<(ServiceKey, Time)>,
    draining: Option<Draining>,
    stats: Stats,
    workers: usize,
    /// Whom `matching` dropped; emptied within each step.
    drops: Drops<RequestKey, SeatKey>,
    /// Leases that reached the execution limit; emptied within each step.
    expired: Vec<matching::Dropped<RequestKey>>,
    fired: Vec<(ServiceKey, Time)>,
    #[cfg(feature = "planted")]
    planted: Option<Planted>,
}

/// A bug to plant, so that the simulator can prove that its checkers catch it.
#[cfg(feature = "planted")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Planted {
    /// A lost worker's requests are forgotten.
    LostLease,
    /// A reply makes two offers of one.
    DoubleOffer,
    /// A redelivered request goes to the end of the line.
    WrongHead,
    /// The worker that offered last is served first.
    NewestWorker,
    /// An offer is forgotten when requests wait for it.
    IdleWhileWaiting,
    /// Requests of a client that left stay in line.
    ForgottenClient,
    /// A request lives on after its last reply.
    ReplyTwice,
    /// The bound of the line is not looked at.
    BoundIgnored,
    /// Any worker may answer any request.
    TrustedToken,
    /// A request is redelivered for ever.
    EndlessDeliveries,
    /// The offers of a worker that left stay in line.
    GhostOffers,
    /// Dropped requests are not told.
    SilentDrop,
}

#[derive(Debug)]
struct Service {
    name: Box<[u8]>,
    config: ServiceConfig,
    line: Broker<RequestKey, SeatKey>,
    /// Leases in the order they were given; its timeout is the execution limit.
    leases: Queue<RequestKey>,
    workers: u32,
    leased: u32,
    waiting_bytes: u64,
    /// Connections that hold back one request until there is room, with its size.
    paused: VecDeque<(ConnId, u64)>,
    /// Room kept for connections that were told to read on.
    promised: u32,
    promised_bytes: u64,
    /// When the wheel will call, [`Time::MAX`] if it will not.
    armed: Time,
    /// Since when nothing waits, serves or is held.
    idle_since: Option<Time>,
    taken: u64,
    replies: u64,
    refusals: u64,
    redeliveries: u64,
    /// Allocated with the first match.
    sojourn: Option<Box<Histogram>>,
}

/// A request in the house.
#[derive(Debug)]
struct Held {
    client: ConnId,
    service: ServiceKey,
    tag: u64,
    payload: Bytes,
    envelope: u32,
    body_at: u32,
    since: Time,
    /// Tells requests of one moment apart: grows in the order they were taken.
    rank: NonZero<u64>,
    deliveries: u32,
    state: State,
    whole_replies: bool,
    /// A partial reply has reached the client.
    started: bool,
    /// The client left; the answer has nowhere to go.
    abandoned: bool,
    /// Neighbours among the requests of the same client.
    prev: RequestKey,
    next: RequestKey,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// On its way between two states within one step.
    Moving,
    Waiting(matching::Key),
    Leased(SeatKey, matching::Key),
}

/// One offer of a worker: free, or holding one request.
#[derive(Debug)]
struct Seat {
    conn: ConnId,
    holds: Holds,
    /// Requests answered under this offer.
    handled: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Holds {
    /// On its way between two states within one step.
    Moving,
    Free(matching::Key),
    Request(RequestKey),
}

#[derive(Debug)]
struct Conn {
    /// Offers of the worker on this connection; empty if it is none.
    seats: Vec<SeatKey>,
    serves: ServiceKey,
    worker_since: Time,
    /// First of its requests.
    requests: RequestKey,
    /// The service it asked last.
    asks: ServiceKey,
    /// Held back, or promised room, on this service.
    held_back: Option<HeldBack>,
}

#[derive(Clone, Copy, Debug)]
struct HeldBack {
    service: ServiceKey,
    bytes: u64,
    promised: bool,
}

#[derive(Debug, Eq, PartialEq)]
enum Draining {
    Waiting,
    Done,
}

/// One service, for people and metrics.
#[derive(Clone, Debug)]
pub struct ServiceView<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Workers that serve it.
    pub workers: u32,
    /// Offers that wait for a request.
    pub offers: usize,
    /// Requests that wait for an offer.
    pub waiting: usize,
    /// Payload bytes of those.
    pub waiting_bytes: u64,
    /// When the oldest of those came.
    pub oldest: Option<Time>,
    /// Requests held by workers.
    pub leased: u32,
    /// Requests taken since the service exists.
    pub requests: u64,
    /// Requests answered.
    pub replies: u64,
    /// Requests refused.
    pub refusals: u64,
    /// Requests given to another worker after their holder was lost.
    pub redeliveries: u64,
    /// Time from the edge of the house to the match.
    pub sojourn: Option<&'a Histogram>,
}

/// One worker, for people.
#[derive(Clone, Debug)]
pub struct WorkerView<'a> {
    /// Its connection.
    pub conn: ConnId,
    /// The service it serves.
    pub service: &'a [u8],
    /// How many requests it takes at a time.
    pub concurrency: usize,
    /// How many it holds.
    pub holds: usize,
    /// When it offered itself first.
    pub since: Time,
    /// Requests it answered.
    pub handled: u64,
}

impl Engine {
    /// An empty house. `seed` keys the table of names, so that nobody can choose colliding ones.
    #[must_use]
    pub fn new(config: Config, seed: (u64, u64), now: Time) -> Engine {
        Engine {
            config,
            services: SlotMap::with_key(),
            service_by_name: HashMap::with_hasher(NameHash(seed)),
            requests: SlotMap::with_key(),
            seats: SlotMap::with_key(),
            conns: HashMap::with_hasher(IdHash),
            wheel: Wheel::new(now),
            draining: None,
            stats: Stats::default(),
            workers: 0,
            drops: Drops::default(),
            expired: Vec::new(),
            fired: Vec::new(),
            #[cfg(feature = "planted")]
            planted: None,
        }
    }

    /// The one door in. Never blocks, never fails, never reads a clock.
    pub fn step(&mut self, now: Time, event: Event<'_>, out: &mut impl Out) {
        match event {
            Event::Request(request) => {
                let kept = self.keep_promise(request.conn);
                self.on_request(now, request, out);
                self.settle_promise(now, kept, out);
            }
            Event::Reply { conn, request, body, last } => {
                self.on_reply(now, conn, request, body, last, out);
            }
            Event::Offer { conn, service, concurrency } => {
                self.on_offer(now, conn, service.as_slice(), concurrency, out);
            }
            Event::Withdraw { conn } => self.withdraw_worker(now, conn, out),
            Event::Gone { conn } => self.on_gone(now, conn, out),
            Event::Count { conn, service, tag, envelope } => {
                let workers = self.workers_of(service.as_slice());
                let envelope = envelope.as_slice();
                out.emit(Effect::Count { to: conn, tag, envelope, workers });
            }
            Event::Configure(config) => self.on_configure(now, config, out),
            Event::Drain => {
                self.draining.get_or_insert(Draining::Waiting);
            }
        }
        self.void_leases(now, out);
        self.settle_drain(out);
    }

    /// Does everything that is due at `now`.
    pub fn tick(&mut self, now: Time, out: &mut impl Out) {
        let mut fired = core::mem::take(&mut self.fired);
        self.wheel.advance(now, &mut fired);
        for (key, armed) in fired.drain(..) {
            let service = self.services.get_mut(key).filter(|service| service.armed == armed);
            if let Some(service) = service {
                service.armed = Time::MAX;
                service.line.tick(now, &mut self.drops);
                service.leases.tick(now, &mut self.expired);
                self.settle_drops(now, key, out);
                self.void_leases(now, out);
                self.rest(now, key);
                self.reap(now, key);
            }
        }
        self.fired = fired;
        self.settle_drain(out);
    }

    /// When [`tick`](Engine::tick) next has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.wheel.deadline()
    }

    /// Counters of the whole engine.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The rules in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Timers that run, those that will be ignored included.
    #[must_use]
    pub fn timers_len(&self) -> usize {
        self.wheel.len()
    }

    /// Workers of the service called `name` at this moment.
    #[must_use]
    pub fn workers_of(&self, name: &[u8]) -> u32 {
        let key = self.service_by_name.get(name);
        key.and_then(|key| self.services.get(*key)).map_or(0, |service| service.workers)
    }

    /// Workers of all services.
    #[must_use]
    pub fn workers_len(&self) -> usize {
        self.workers
    }

    /// Requests in the house: waiting and leased.
    #[must_use]
    pub fn requests_len(&self) -> usize {
        self.requests.len()
    }

    /// Requests that wait and their payload bytes, over all services.
    #[must_use]
    pub fn waiting(&self) -> (usize, u64) {
        self.services.values().fold((0, 0), |(len, bytes), service| {
            (len + service.line.asks().len(), bytes + service.waiting_bytes)
        })
    }

    /// Services in the house.
    #[must_use]
    pub fn services_len(&self) -> usize {
        self.services.len()
    }

    /// Every service, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = ServiceView<'_>> {
        self.services.values().map(|service| ServiceView {
            name: &service.name,
            workers: service.workers,
            offers: service.line.ask_rs().len(),
            waiting: service.line.asks().len(),
            waiting_bytes: service.waiting_bytes,
            oldest: service.line.asks().oldest(),
            leased: service.leased,
            requests: service.taken,
            replies: service.replies,
            refusals: service.refusals,
            redeliveries: service.redeliveries,
            sojourn: service.sojourn.as_deref(),
        })
    }

    /// Every worker, in no particular order.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView<'_>> {
        self.conns.iter().filter(|(_, conn)| !conn.seats.is_empty()).filter_map(|(id, conn)| {
            let seats = || conn.seats.iter().filter_map(|seat| self.seats.get(*seat));
            Some(WorkerView {
                conn: *id,
                service: &self.services.get(conn.serves)?.name,
                concurrency: conn.seats.len(),
                holds: seats().filter(|seat| matches!(seat.holds, Holds::Request(_))).count(),
                since: conn.worker_since,
                handled: seats().map(|seat| seat.handled).sum(),
            })
        })
    }

    /// Plants a bug.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, bug: Planted) {
        self.planted = Some(bug);
    }

    fn on_request(&mut self, now: Time, request: Request<'_>, out: &mut impl Out) {
        let name = request.service.as_slice();
        if self.draining.is_some() {
            return self.refuse_new(&request, Reason::Draining, out);
        }
        if request.needs_workers && self.workers_of(name) == 0 {
            return self.refuse_new(&request, Reason::NoWorkers, out);
        }
        let asked = self.asked_last(request.conn, name);
        let Some(key) = asked.or_else(|| self.require_service(now, name)) else {
            return self.refuse_new(&request, Reason::QueueFull, out);
        };
        let bytes = request.payload.len() as u64;
        let service = &mut self.services[key];
        if service.is_at_bound(bytes) && !planted!(self, BoundIgnored) {
            if request.when_full == WhenFull::Refuse || bytes > service.config.queue_bytes {
                service.refusals += 1;
                self.refuse_new(&request, Reason::QueueFull, out);
            } else {
                service.paused.push_back((request.conn, bytes));
                let held_back = HeldBack { service: key, bytes, promised: false };
                self.require_conn(now, request.conn).held_back = Some(held_back);
                out.emit(Effect::Pause { to: request.conn });
            }
            return self.rest(now, key);
        }
        service.taken += 1;
        self.stats.requests += 1;
        let rank = NonZero::new(self.stats.requests).unwrap_or(NonZero::<u64>::MAX);
        let held = self.requests.insert(Held {
            client: request.conn,
            service: key,
            tag: request.tag,
            payload: request.payload,
            envelope: request.envelope,
            body_at: request.body_at,
            since: request.since,
            rank,
            deliveries: 0,
            state: State::Moving,
            whole_replies: request.whole_replies,
            started: false,
            abandoned: false,
            prev: RequestKey::null(),
            next: RequestKey::null(),
        });
        let conn = self.require_conn(now, request.conn);
        conn.asks = key;
        let next = core::mem::replace(&mut conn.requests, held);
        if let Some(other) = self.requests.get_mut(next) {
            other.prev = held;
            self.requests[held].next = next;
        }
        let line = &mut self.services[key].line;
        let outcome = line.ask(now, request.since, held, &mut self.drops);
        self.settle_outcome(now, key, outcome, out);
        self.settle_drops(now, key, out);
        self.rest(now, key);
    }

    fn on_offer(
        &mut self,
        now: Time,
        id: ConnId,
        name: &[u8],
        concurrency: u32,
        out: &mut impl Out,
    ) {
        if self.conns.get(&id).is_some_and(|conn| !conn.seats.is_empty()) {
            return self.expel(now, id, Expulsion::SecondOffer, out);
        }
        let Some(key) = self.require_service(now, name) else {
            return self.expel(now, id, Expulsion::TooManyServices, out);
        };
        let concurrency = concurrency.clamp(1, self.config.concurrency_max);
        let seats: Vec<SeatKey> = (0..concurrency)
            .map(|_| self.seats.insert(Seat { conn: id, holds: Holds::Moving, handled: 0 }))
            .collect();
        let conn = self.require_conn(now, id);
        conn.seats.clone_from(&seats);
        conn.serves = key;
        conn.worker_since = now;
        self.services[key].workers += 1;
        self.workers += 1;
        for seat in seats {
            self.offer_seat(now, key, seat, out);
        }
        self.rest(now, key);
    }

    fn on_reply(
        &mut self,
        now: Time,
        id: ConnId,
        request: RequestId,
        body: Blob<'_>,
        last: bool,
        out: &mut impl Out,
    ) {
        let key = key_of(request);
        let Some((key, (seat, lease))) = key.and_then(|key| Some((key, self.lease_of(key, id)?)))
        else {
            return self.expel(now, id, Expulsion::StrayReply, out);
        };
        let held = &mut self.requests[key];
        held.started = true;
        let service = &mut self.services[held.service];
        if !held.abandoned {
            out.emit(Effect::Reply {
                to: held.client,
                request,
                tag: held.tag,
                envelope: &held.payload[..held.envelope as usize],
                service: &service.name,
                body,
                last,
            });
        }
        if !last {
            return;
        }
        if !held.abandoned {
            service.replies += 1;
            self.stats.replies += 1;
        }
        let service_key = held.service;
        service.leased -= 1;
        service.leases.cancel(now, lease, &mut self.expired);
        if !planted!(self, ReplyTwice) {
            self.forget(key);
        }
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.handled += 1;
        }
        self.offer_seat(now, service_key, seat, out);
        if planted!(self, DoubleOffer) {
            self.offer_seat(now, service_key, seat, out);
        }
        self.rest(now, service_key);
    }

    fn on_gone(&mut self, now: Time, id: ConnId, out: &mut impl Out) {
        let kept = self.keep_promise(id);
        // Requests before offers, so that none of its own moves from it to another worker; room
        // last, when all that returns has returned.
        let left = self.withdraw_requests(now, id, out);
        self.withdraw_worker(now, id, out);
        for key in left {
            self.make_room(key, out);
            self.rest(now, key);
        }
        self.settle_promise(now, kept, out);
        self.conns.remove(&id);
    }

    /// Ends a client: what waits is withdrawn, what is held is for nobody. Says which services have
    /// more room than before.
    fn withdraw_requests(&mut self, now: Time, id: ConnId, out: &mut impl Out) -> Vec<ServiceKey> {
        let mut left = Vec::new();
        let Some(conn) = self.conns.get_mut(&id) else { return left };
        let mut at = core::mem::take(&mut conn.requests);
        // Drops on the way must find the whole list undone, so it is undone first.
        let mut asked: Vec<RequestKey> = Vec::new();
        while let Some(held) = self.requests.get_mut(at) {
            asked.push(at);
            at = core::mem::take(&mut held.next);
            held.prev = RequestKey::null();
            held.abandoned = !planted!(self, ForgottenClient);
        }
        for key in asked {
            let Some(held) = self.requests.get(key).filter(|held| held.abandoned) else { continue };
            self.stats.withdrawals += 1;
            if let State::Waiting(place) = held.state {
                let (service, bytes) = (held.service, held.payload.len() as u64);
                self.services[service].line.cancel(now, place, &mut self.drops);
                self.services[service].waiting_bytes -= bytes;
                self.requests.remove(key);
                self.settle_drops(now, service, out);
                left.push(service);
            }
        }
        left.sort_unstable();
        left.dedup();
        left
    }

    fn on_configure(&mut self, now: Time, config: Config, out: &mut impl Out) {
        self.config = config;
        let keys: Vec<ServiceKey> = self.services.keys().collect();
        for key in keys {
            let service = &mut self.services[key];
            service.config = self.config.service(&service.name);
            let asks = service.config.line();
            service.line.reconfigure(now, asks, offers_config(false), &mut self.drops);
            let leases = lease_config(&service.config);
            service.leases.reconfigure(now, leases, &mut self.expired);
            self.settle_drops(now, key, out);
            self.void_leases(now, out);
            self.make_room(key, out);
            self.rest(now, key);
        }
    }

    /// Ends a worker; what it holds goes back to the head of its line.
    fn withdraw_worker(&mut self, now: Time, id: ConnId, out: &mut impl Out) {
        if let Some((key, lost)) = self.vacate(now, id) {
            self.return_requests(now, key, lost, out);
            self.rest(now, key);
        }
    }

    /// Removes a worker and its offers. Says which service it served and what it holds; the caller
    /// returns that once no offer is left that must not get it.
    fn vacate(&mut self, now: Time, id: ConnId) -> Option<(ServiceKey, Vec<RequestKey>)> {
        let conn = self.conns.get_mut(&id)?;
        if conn.seats.is_empty() {
            return None;
        }
        let seats = core::mem::take(&mut conn.seats);
        let service_key = conn.serves;
        self.forget_conn_if_empty(id);
        let service = &mut self.services[service_key];
        service.workers -= 1;
        self.workers -= 1;
        let mut lost: Vec<RequestKey> = Vec::new();
        // All offers leave before any request returns: it must not meet this worker again.
        for seat in seats {
            if planted!(self, GhostOffers) && matches!(self.seats[seat].holds, Holds::Free(_)) {
                continue;
            }
            match self.seats.remove(seat).map(|seat| seat.holds) {
                Some(Holds::Free(place)) => {
                    service.line.cancel_r(now, place, &mut self.drops);
                }
                Some(Holds::Request(request)) => lost.push(request),
                Some(Holds::Moving) | None => {}
            }
        }
        if planted!(self, LostLease) {
            lost.clear();
        }
        Some((service_key, lost))
    }

    /// Requests whose holder was lost go back to their line, or are refused.
    fn return_requests(
        &mut self,
        now: Time,
        service_key: ServiceKey,
        mut lost: Vec<RequestKey>,
        out: &mut impl Out,
    ) {
        lost.sort_by_key(|key| (self.requests[*key].since, self.requests[*key].rank));
        for key in lost {
            let held = &mut self.requests[key];
            let service = &mut self.services[service_key];
            service.leased -= 1;
            if let State::Leased(_, lease) = held.state {
                service.leases.cancel(now, lease, &mut self.expired);
            }
            held.state = State::Moving;
            if held.abandoned {
                self.forget(key);
                continue;
            }
            let broken_off = held.started && !held.whole_replies;
            let tired = held.deliveries >= service.config.max_deliveries;
            if broken_off || (tired && !planted!(self, EndlessDeliveries)) {
                self.refuse_held(key, Reason::WorkersFailed, out);
                continue;
            }
            if core::mem::take(&mut held.started) {
                let request = name_of(key);
                out.emit(Effect::Restart { to: held.client, request });
            }
            service.redeliveries += 1;
            self.stats.redeliveries += 1;
            let (since, rank, line) = (held.since, held.rank, &mut service.line);
            let outcome = if planted!(self, WrongHead) {
                line.ask(now, since, key, &mut self.drops)
            } else {
                line.ask_again(now, since, rank, key, &mut self.drops)
            };
            self.settle_outcome(now, service_key, outcome, out);
        }
        // Who is past its time to wait and met no free offer does not wait again.
        self.services[service_key].line.tick(now, &mut self.drops);
        self.settle_drops(now, service_key, out);
    }

    fn offer_seat(&mut self, now: Time, key: ServiceKey, seat: SeatKey, out: &mut impl Out) {
        if planted!(self, IdleWhileWaiting) && !self.services[key].line.asks().is_empty() {
            return;
        }
        let line = &mut self.services[key].line;
        let outcome = line.ask_r(now, now, seat, &mut self.drops);
        self.settle_outcome(now, key, outcome, out);
        self.settle_drops(now, key, out);
        // A free offer is room for any number of bytes.
        self.make_room(key, out);
    }

    /// Carries out what became of an ask or an offer.
    fn settle_outcome(
        &mut self,
        now: Time,
        key: ServiceKey,
        outcome: Outcome<RequestKey, SeatKey>,
        out: &mut impl Out,
    ) {
        match outcome {
            Outcome::Matched(seated) => self.lease(now, key, seated, out),
            Outcome::Waiting(place) => {
                let service = &mut self.services[key];
                // Only one side waits, and the newcomer is the last of it unless it was put back.
                if service.line.ask_rs().is_empty() {
                    let request = service.line.asks().get(place).copied();
                    if let Some(held) = request.and_then(|r| self.requests.get_mut(r)) {
                        held.state = State::Waiting(place);
                        service.waiting_bytes += held.payload.len() as u64;
                    }
                } else if let Some(seat) = service.line.ask_rs().get(place).copied() {
                    self.seats[seat].holds = Holds::Free(place);
                }
            }
            Outcome::Dropped => {}
        }
    }

    /// A request and an offer met: the worker holds it from here on.
    fn lease(
        &mut self,
        now: Time,
        key: ServiceKey,
        seated: Match<RequestKey, SeatKey>,
        out: &mut impl Out,
    ) {
        let (request, seat) = (seated.ask.value, seated.ask_r.value);
        let held = &mut self.requests[request];
        let service = &mut self.services[key];
        let left_line = matches!(held.state, State::Waiting(_));
        if left_line {
            service.waiting_bytes -= held.payload.len() as u64;
        }
        let sojourn = seated.ask.sojourn(now);
        let delivery = held.deliveries + 1;
        held.deliveries = delivery;
        if delivery == 1 {
            self.stats.sojourn.add(sojourn);
            service.sojourn.get_or_insert_default().add(sojourn);
        }
        service.leased += 1;
        let lease = if service.config.execution_limit == Span::MAX {
            matching::Key::null()
        } else {
            service.leases.push(now, now, request, &mut self.expired).unwrap_or_default()
        };
        held.state = State::Leased(seat, lease);
        let seat = &mut self.seats[seat];
        seat.holds = Holds::Request(request);
        out.emit(Effect::Deliver {
            to: seat.conn,
            request: name_of(request),
            payload: &held.payload,
            body_at: held.body_at,
            delivery,
        });
        if left_line {
            self.make_room(key, out);
        }
    }

    /// Tells everyone whom `matching` dropped.
    fn settle_drops(&mut self, now: Time, key: ServiceKey, out: &mut impl Out) {
        if self.drops.is_empty() {
            return;
        }
        let mut drops = core::mem::take(&mut self.drops);
        for dropped in drops.asks.drain(..) {
            let held = &self.requests[dropped.value];
            if let State::Waiting(_) = held.state {
                self.services[key].waiting_bytes -= held.payload.len() as u64;
            }
            self.refuse_held(dropped.value, dropped.reason.into(), out);
        }
        assert!(drops.ask_rs.is_empty(), "offers are never dropped");
        self.drops = drops;
        self.make_room(key, out);
        self.rest(now, key);
    }

    /// Workers that held a request too long are put out: all of them before what they hold returns,
    /// so that no request moves from one to the next.
    fn void_leases(&mut self, now: Time, out: &mut impl Out) {
        while !self.expired.is_empty() {
            let mut lost: Vec<(ServiceKey, Vec<RequestKey>)> = Vec::new();
            while let Some(expired) = self.expired.pop() {
                let Some(held) = self.requests.get(expired.value) else { continue };
                let State::Leased(seat, lease) = held.state else { continue };
                // It may be another worker's by now, under a lease that still runs.
                if self.services[held.service].leases.get(lease).is_some() {
                    continue;
                }
                let Some(conn) = self.seats.get(seat).map(|seat| seat.conn) else { continue };
                self.stats.expulsions += 1;
                out.emit(Effect::Expel { to: conn, why: Expulsion::ExecutionLimit });
                let Some((key, mut held)) = self.vacate(now, conn) else { continue };
                match lost.iter_mut().find(|(service, _)| *service == key) {
                    Some((_, before)) => before.append(&mut held),
                    None => lost.push((key, held)),
                }
            }
            for (key, requests) in lost {
                self.return_requests(now, key, requests, out);
                self.rest(now, key);
            }
        }
    }

    fn expel(&mut self, now: Time, id: ConnId, why: Expulsion, out: &mut impl Out) {
        self.stats.expulsions += 1;
        out.emit(Effect::Expel { to: id, why });
        self.withdraw_worker(now, id, out);
    }

    fn refuse_new(&mut self, request: &Request<'_>, reason: Reason, out: &mut impl Out) {
        self.stats.refuse(reason);
        let service = request.service.as_slice();
        out.emit(Effect::Refuse {
            to: request.conn,
            request: None,
            tag: request.tag,
            envelope: &request.payload[..request.envelope as usize],
            service,
            reason,
            answer: self.config.service(service).answer_refusals,
        });
    }

    fn refuse_held(&mut self, key: RequestKey, reason: Reason, out: &mut impl Out) {
        let held = &self.requests[key];
        let service = &mut self.services[held.service];
        service.refusals += 1;
        self.stats.refuse(reason);
        if !held.abandoned && !planted!(self, SilentDrop) {
            out.emit(Effect::Refuse {
                to: held.client,
                request: Some(name_of(key)),
                tag: held.tag,
                envelope: &held.payload[..held.envelope as usize],
                service: &service.name,
                reason,
                answer: service.config.answer_refusals,
            });
        }
        self.forget(key);
    }

    /// Removes a request that ended from its client's list and from the house.
    fn forget(&mut self, key: RequestKey) {
        let Some(held) = self.requests.remove(key) else { return };
        if let Some(next) = self.requests.get_mut(held.next) {
            next.prev = held.prev;
        }
        if let Some(prev) = self.requests.get_mut(held.prev) {
            prev.next = held.next;
        } else if !held.abandoned
            && let Some(conn) = self.conns.get_mut(&held.client)
        {
            conn.requests = held.next;
        }
    }

    /// The seat and lease under which `conn` holds the request.
    fn lease_of(&self, key: RequestKey, conn: ConnId) -> Option<(SeatKey, matching::Key)> {
        let State::Leased(seat, lease) = self.requests.get(key)?.state else { return None };
        let holder = self.seats.get(seat)?;
        (holder.conn == conn || planted!(self, TrustedToken)).then_some((seat, lease))
    }

    /// The service that a connection asked last, if that is the one called `name`: most ask one.
    fn asked_last(&self, id: ConnId, name: &[u8]) -> Option<ServiceKey> {
        let key = self.conns.get(&id)?.asks;
        (*self.services.get(key)?.name == *name).then_some(key)
    }

    /// Finds or makes the service called `name`. `None` if there are too many.
    fn require_service(&mut self, now: Time, name: &[u8]) -> Option<ServiceKey> {
        if let Some(key) = self.service_by_name.get(name) {
            return Some(*key);
        }
        if self.services.len() >= self.config.services_max {
            return None;
        }
        let config = self.config.service(name);
        let newest_first = planted!(self, NewestWorker);
        let key = self.services.insert(Service {
            name: name.into(),
            config,
            line: Broker::new(config.line(), offers_config(newest_first), now),
            leases: Queue::new(lease_config(&config), now),
            workers: 0,
            leased: 0,
            waiting_bytes: 0,
            paused: VecDeque::new(),
            promised: 0,
            promised_bytes: 0,
            armed: Time::MAX,
            idle_since: None,
            taken: 0,
            replies: 0,
            refusals: 0,
            redeliveries: 0,
            sojourn: None,
        });
        self.service_by_name.insert(name.into(), key);
        Some(key)
    }

    fn require_conn(&mut self, now: Time, id: ConnId) -> &mut Conn {
        self.conns.entry(id).or_insert_with(|| Conn {
            seats: Vec::new(),
            serves: ServiceKey::null(),
            worker_since: now,
            requests: RequestKey::null(),
            asks: ServiceKey::null(),
            held_back: None,
        })
    }

    fn forget_conn_if_empty(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get(&id)
            && conn.seats.is_empty()
            && conn.requests.is_null()
            && conn.held_back.is_none()
        {
            self.conns.remove(&id);
        }
    }

    /// The request that was held back has come, or never will. Says which service kept room for it.
    fn keep_promise(&mut self, id: ConnId) -> Option<ServiceKey> {
        let held_back = self.conns.get_mut(&id)?.held_back.take()?;
        self.services.get_mut(held_back.service)?.forget_held_back(id, held_back);
        Some(held_back.service)
    }

    /// What the request did not take of the room kept for it is for others.
    fn settle_promise(&mut self, now: Time, kept: Option<ServiceKey>, out: &mut impl Out) {
        if let Some(key) = kept {
            self.make_room(key, out);
            self.rest(now, key);
        }
    }

    /// Tells held-back connections to read on, as many as there is room for.
    fn make_room(&mut self, key: ServiceKey, out: &mut impl Out) {
        let service = &mut self.services[key];
        while let Some((id, bytes)) = service.paused.front().copied() {
            // What no longer fits any line comes again to be refused.
            if service.is_at_bound(bytes) && bytes <= service.config.queue_bytes {
                return;
            }
            service.paused.pop_front();
            service.promised += 1;
            service.promised_bytes += bytes;
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.held_back = Some(HeldBack { service: key, bytes, promised: true });
            }
            out.emit(Effect::Resume { to: id });
        }
    }

    /// After a service may have become idle or changed its deadline: arms the wheel for whatever it
    /// next waits for.
    fn rest(&mut self, now: Time, key: ServiceKey) {
        let Some(service) = self.services.get_mut(key) else { return };
        if !service.is_idle() {
            service.idle_since = None;
        } else if service.idle_since.is_none() {
            service.idle_since = Some(now);
        }
        let due = service.deadline(self.config.service_idle);
        if due < service.armed {
            service.armed = due;
            self.wheel.insert(due.max(now), (key, due));
        }
    }

    /// Forgets a service that was idle long enough.
    fn reap(&mut self, now: Time, key: ServiceKey) {
        let Some(service) = self.services.get(key) else { return };
        let idle = service.idle_since.is_some_and(|at| now - at >= self.config.service_idle);
        if idle && let Some(service) = self.services.remove(key) {
            self.service_by_name.remove(&service.name);
        }
    }

    fn settle_drain(&mut self, out: &mut impl Out) {
        if self.draining == Some(Draining::Waiting) && self.requests.is_empty() {
            self.draining = Some(Draining::Done);
            out.emit(Effect::Drained);
        }
    }
}

impl Service {
    fn is_idle(&self) -> bool {
        self.workers == 0
            && self.leased == 0
            && self.line.asks().is_empty()
            && self.paused.is_empty()
            && self.promised == 0
    }

    /// Whether another request of this many bytes would have to wait beyond the bounds.
    fn is_at_bound(&self, bytes: u64) -> bool {
        let waits = self.line.ask_rs().is_empty();
        let len = self.line.asks().len() + self.promised as usize;
        let total = self.waiting_bytes + self.promised_bytes + bytes;
        waits && (len >= self.config.queue_max || total > self.config.queue_bytes)
    }

    fn forget_held_back(&mut self, id: ConnId, held_back: HeldBack) {
        if held_back.promised {
            self.promised -= 1;
            self.promised_bytes -= held_back.bytes;
        } else {
            self.paused.retain(|(conn, _)| *conn != id);
        }
    }

    fn deadline(&self, idle: Span) -> Time {
        let line = self.line.deadline().unwrap_or(Time::MAX);
        let leases = self.leases.deadline().unwrap_or(Time::MAX);
        let reap = self.idle_since.map_or(Time::MAX, |at| at + idle);
        line.min(leases).min(reap)
    }
}

/// Offers wait in the order they came: the least recently used worker is served first.
fn offers_config(newest_first: bool) -> QueueConfig {
    let order = if newest_first { matching::Order::Lifo } else { matching::Order::Fifo };
    QueueConfig { order, ..QueueConfig::default() }
}

fn lease_config(config: &ServiceConfig) -> QueueConfig {
    if config.execution_limit == Span::MAX {
        QueueConfig::default()
    } else {
        QueueConfig::timeout(config.execution_limit)
    }
}

/// How a request is called outside.
fn name_of(key: RequestKey) -> RequestId {
    RequestId::from_u64(key.data().as_ffi())
}

/// `None` for what was never a name: each request has only one.
fn key_of(name: RequestId) -> Option<RequestKey> {
    let key = RequestKey::from(KeyData::from_ffi(name.as_u64()));
    (name_of(key) == name).then_some(key)
}

/// Keyed hash for names that peers choose.
#[derive(Clone, Copy, Debug)]
struct NameHash((u64, u64));

impl BuildHasher for NameHash {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0.0, self.0.1)
    }
}

/// Hash for ids that we issue ourselves: one multiplication.
#[derive(Clone, Copy, Debug)]
struct IdHash;

impl BuildHasher for IdHash {
    type Hasher = IdHasher;
    fn build_hasher(&self) -> IdHasher {
        IdHasher(0)
    }
}

struct IdHasher(u64);

impl core::hash::Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, n: u64) {
        let mixed = (self.0 ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ mixed >> 32;
    }
}
