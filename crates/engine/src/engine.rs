//! The engine: one door in, effects out.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hasher as _};
use core::num::NonZero;

use bytes::Bytes;
use hashbrown::HashMap;
use matching::{AnyKey, Drops, Line as _, Match, Outcome, Span, Time};
use siphasher::sip::SipHasher13;
use slotmap::{Key as _, KeyData, SlotMap};

use crate::blob::Blob;
use crate::config::{AtBound, Config, Fair, FairBy};
use crate::effect::{Effect, Expulsion, Out, Reason};
use crate::event::{Event, Request, WhenFull};
use crate::guard::{Guard, PrincipalId, PrincipalView, Rights};
use crate::ids::{ConnId, RequestId};
use crate::meeting::{Caller, Meetings, Place, PlaceView};
use crate::service::{Asker, HeldBack, Service};
use crate::stats::{Histogram, REASONS, Stats};
use crate::wheel::Wheel;

slotmap::new_key_type! {
    pub(crate) struct ServiceKey;
    pub(crate) struct RequestKey;
    pub(crate) struct SeatKey;
}

/// Services, workers, requests and leases of one shard.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    guard: Guard,
    services: SlotMap<ServiceKey, Service>,
    service_by_name: HashMap<Box<[u8]>, ServiceKey, NameHash>,
    requests: SlotMap<RequestKey, Held>,
    seats: SlotMap<SeatKey, Seat>,
    conns: HashMap<ConnId, Conn, IdHash>,
    /// Each entry with the time it was armed for: a service that was armed anew ignores the old.
    wheel: Wheel<(ServiceKey, Time)>,
    draining: Option<Draining>,
    meetings: Meetings,
    stats: Stats,
    workers: usize,
    /// Whom `matching` dropped; emptied within each step.
    drops: Drops<Asker, SeatKey>,
    /// Leases that reached the execution limit; emptied within each step.
    expired: Vec<matching::Dropped<RequestKey>>,
    fired: Vec<(ServiceKey, Time)>,
    /// How often chance was asked for.
    draws: u64,
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
    /// Who left still waits at named places, and keeps its locks.
    GhostMeeter,
}

/// A request in the house.
#[derive(Debug)]
struct Held {
    client: ConnId,
    principal: PrincipalId,
    service: ServiceKey,
    tag: u64,
    payload: Bytes,
    envelope: u32,
    body_at: u32,
    since: Time,
    /// Tells requests of one moment apart: grows in the order they were taken.
    rank: NonZero<u64>,
    /// Whose turn it takes in a fair line.
    flow: u64,
    deliveries: u32,
    state: State,
    whole_replies: bool,
    /// It stays when its client leaves.
    detached: bool,
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
    Waiting(AnyKey),
    Leased(SeatKey, matching::Key),
}

/// One offer of a worker: free, or holding one request.
#[derive(Debug)]
struct Seat {
    conn: ConnId,
    holds: Holds,
    /// When it was given the request it holds.
    since: Time,
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
    /// In whose name it serves.
    principal: PrincipalId,
    worker_since: Time,
    /// First of its requests.
    requests: RequestKey,
    /// The service it asked last.
    asks: ServiceKey,
    /// Held back, or promised room, on this service.
    held_back: Option<HeldBack>,
}

/// A request whose holder was lost, and when it had been given out.
type Lost = (RequestKey, Time);

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
    /// Requests refused, by the place of the reason in [`REASONS`].
    pub refusals: [u64; REASONS.len()],
    /// Requests given to another worker after their holder was lost.
    pub redeliveries: u64,
    /// Time from the edge of the house to the match.
    pub sojourn: Option<&'a Histogram>,
    /// How the line is kept, see [`ServiceConfig::discipline`](crate::ServiceConfig::discipline).
    pub discipline: &'static str,
    /// Requests are dropped because others wait too long.
    pub shedding: bool,
    /// Its valve, if it has one: whether it lets nobody through.
    pub shut: Option<bool>,
    /// Chance in percent with which a newcomer is refused.
    pub refused_percent: Option<f64>,
    /// Its alarm is raised.
    pub alarmed: bool,
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
            guard: Guard::new(&config.principals),
            meetings: Meetings::new(&config.meetings, now),
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
            draws: 0,
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
            Event::Reply { conn, request, body, last, failed } => {
                self.on_reply(now, conn, request, body, (last, failed), out);
            }
            Event::Offer { conn, principal, service, concurrency } => {
                if !self.guard.may_serve(principal, service.as_slice()) {
                    self.expel(now, conn, Expulsion::Denied, out);
                } else {
                    self.on_offer(now, conn, principal, service.as_slice(), concurrency, out);
                }
            }
            Event::Return { conn, request } => self.on_return(now, conn, request, out),
            Event::Withdraw { conn } => self.withdraw_worker(now, conn, out),
            Event::Gone { conn } => self.on_gone(now, conn, out),
            Event::Count { conn, service, tag, envelope } => {
                let workers = self.workers_of(service.as_slice());
                let envelope = envelope.as_slice();
                out.emit(Effect::Count { to: conn, tag, envelope, workers });
            }
            Event::Meet { conn, principal, tag, envelope, word } => {
                let caller = Caller { conn, principal, tag, envelope: envelope.as_slice() };
                let closing = self.draining.is_some();
                self.meetings.meet(now, caller, word, closing, &mut self.guard, out);
            }
            Event::Configure(config) => self.on_configure(now, *config, out),
            Event::Drain => {
                self.draining.get_or_insert(Draining::Waiting);
                self.meetings.drain(now, &mut self.guard, out);
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
                self.pump(now, key, out);
                self.look_out(now, key, out);
                self.rest(now, key);
                self.reap(now, key);
            }
        }
        self.fired = fired;
        self.meetings.tick(now, &mut self.guard, out);
        self.settle_drain(out);
    }

    /// When [`tick`](Engine::tick) next has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match (self.wheel.deadline(), self.meetings.deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (due, None) | (None, due) => due,
        }
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
        self.wheel.len() + self.meetings.timers_len()
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
            discipline: service.config.discipline(),
            shedding: service.line.asks().is_shedding(),
            shut: service.gate.as_ref().map(|_| service.line.is_shut()),
            refused_percent: service.refused_percent(),
            alarmed: service.is_alarmed(),
            requests: service.taken,
            replies: service.replies,
            refusals: service.refusals,
            redeliveries: service.redeliveries,
            sojourn: service.sojourn.as_deref(),
        })
    }

    /// Every named place, match lines first, by name.
    pub fn places(&self) -> impl Iterator<Item = PlaceView<'_>> {
        self.meetings.views()
    }

    /// One named place.
    #[must_use]
    pub fn place(&self, place: Place, name: &[u8]) -> Option<PlaceView<'_>> {
        self.meetings.view(place, name)
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

    /// The principal called `name`, if the rules ever named it.
    #[must_use]
    pub fn principal(&self, name: &str) -> Option<PrincipalId> {
        self.guard.find(name)
    }

    /// What a principal is called.
    #[must_use]
    pub fn principal_name(&self, id: PrincipalId) -> &str {
        self.guard.name(id)
    }

    /// What a principal may do at this moment.
    #[must_use]
    pub fn rights(&self, id: PrincipalId) -> Option<&Rights> {
        self.guard.rights(id)
    }

    /// Whether something that is no request to a service, and does not stay, is within the quota
    /// of a principal. It counts against the rate.
    pub fn admit(&mut self, now: Time, id: PrincipalId, bytes: u64) -> bool {
        self.guard.has_room(now, id, bytes)
    }

    /// Every principal there ever was.
    pub fn principals(&self) -> impl Iterator<Item = PrincipalView<'_>> {
        self.guard.views()
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
        let bytes = request.payload.len() as u64;
        if !self.guard.may_call(request.principal, name) {
            return self.refuse_new(&request, Reason::Denied, out);
        }
        if request.needs_workers && self.workers_of(name) == 0 {
            return self.refuse_new(&request, Reason::NoWorkers, out);
        }
        let asked = self.asked_last(request.conn, name);
        let Some(key) = asked.or_else(|| self.require_service(now, name)) else {
            return self.refuse_new(&request, Reason::QueueFull, out);
        };
        if !self.lets_in(now, key, &request, out) {
            return self.rest(now, key);
        }
        let flow = self.flow_of(key, &request);
        let service = &mut self.services[key];
        service.taken += 1;
        self.stats.requests += 1;
        let rank = NonZero::new(self.stats.requests).unwrap_or(NonZero::<u64>::MAX);
        self.guard.took(request.principal, bytes);
        let held = self.requests.insert(Held {
            client: request.conn,
            principal: request.principal,
            service: key,
            tag: request.tag,
            payload: request.payload,
            envelope: request.envelope,
            body_at: request.body_at,
            since: request.since,
            rank,
            flow,
            deliveries: 0,
            state: State::Moving,
            whole_replies: request.whole_replies,
            detached: request.detached,
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
        let asker = Asker { key: held, flow, rank: rank.get() };
        let outcome = self.services[key].line.ask(now, request.since, asker, &mut self.drops);
        self.settle_ask(now, key, outcome, out);
        self.settle_drops(now, key, out);
        self.rest(now, key);
    }

    /// Whether the service, its line and the principal have room for one more request. If not,
    /// the request was refused, or its connection is held back.
    fn lets_in(
        &mut self,
        now: Time,
        key: ServiceKey,
        request: &Request<'_>,
        out: &mut impl Out,
    ) -> bool {
        let bytes = request.payload.len() as u64;
        let draw = if self.services[key].draws() { self.draw() } else { 0 };
        self.pump(now, key, out);
        let service = &mut self.services[key];
        if service.turns_away(now, draw) {
            return self.turn_down(key, request, Reason::Overload, out);
        }
        let (at_bound, most) = (service.config.when_full, service.config.queue_bytes);
        let is_full = service.is_at_bound(bytes) && !planted!(self, BoundIgnored);
        let makes_room = at_bound == AtBound::DropOldest;
        if is_full && !(makes_room && self.drop_oldest(now, key, bytes, out)) {
            let refuses = request.when_full == WhenFull::Refuse || at_bound == AtBound::Refuse;
            if refuses || bytes > most {
                return self.turn_down(key, request, Reason::QueueFull, out);
            }
            self.services[key].paused.push_back((request.conn, bytes));
            let held_back = HeldBack { service: key, bytes, promised: false };
            self.require_conn(now, request.conn).held_back = Some(held_back);
            out.emit(Effect::Pause { to: request.conn });
            return false;
        }
        if !self.guard.has_room(now, request.principal, bytes) {
            return self.turn_down(key, request, Reason::Overload, out);
        }
        true
    }

    /// Refuses a request of a service that exists; always `false`: it is not let in.
    fn turn_down(
        &mut self,
        key: ServiceKey,
        request: &Request<'_>,
        reason: Reason,
        out: &mut impl Out,
    ) -> bool {
        self.services[key].refuse(reason);
        self.refuse_new(request, reason, out);
        false
    }

    fn on_offer(
        &mut self,
        now: Time,
        id: ConnId,
        principal: PrincipalId,
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
            .map(|_| {
                self.seats.insert(Seat { conn: id, holds: Holds::Moving, since: now, handled: 0 })
            })
            .collect();
        let conn = self.require_conn(now, id);
        conn.seats.clone_from(&seats);
        (conn.serves, conn.principal) = (key, principal);
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
        (last, failed): (bool, bool),
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
        let since = self.seats.get(seat).map_or(now, |seat| seat.since);
        service.returned(now, now - since, !failed);
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

    fn on_return(&mut self, now: Time, id: ConnId, request: RequestId, out: &mut impl Out) {
        let key = key_of(request);
        let Some((key, (seat, _))) = key.and_then(|key| Some((key, self.lease_of(key, id)?)))
        else {
            return self.expel(now, id, Expulsion::StrayReply, out);
        };
        let service = self.requests[key].service;
        let Some(held) = self.seats.get_mut(seat) else { return };
        held.holds = Holds::Moving;
        let since = held.since;
        // Others that wait for a request come before the one that gave it back.
        self.return_requests(now, service, alloc::vec![(key, since)], out);
        self.offer_seat(now, service, seat, out);
        self.rest(now, service);
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
        if !planted!(self, GhostMeeter) {
            self.meetings.gone(now, id, &mut self.guard, out);
        }
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
            held.abandoned = !held.detached && !planted!(self, ForgottenClient);
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
        self.guard.configure(&config.principals);
        self.meetings.configure(now, &config.meetings, &mut self.guard, out);
        self.config = config;
        let keys: Vec<ServiceKey> = self.services.keys().collect();
        for key in keys {
            let service = &mut self.services[key];
            let before = service.config;
            service.config = *self.config.service(&service.name);
            service.fit(now);
            service.leases.reconfigure(now, service.config.leases(), &mut self.expired);
            let (asks, offers) = (service.config.line(), service.config.offers());
            service.line.reconfigure(now, asks, offers, &mut self.drops);
            if before != service.config {
                self.find_waiting(key);
            }
            self.settle_drops(now, key, out);
            self.void_leases(now, out);
            self.pump(now, key, out);
            self.look_out(now, key, out);
            self.make_room(key, out);
            self.rest(now, key);
        }
        self.expel_denied(now, out);
    }

    /// Workers that may not serve what they serve any more are put out.
    fn expel_denied(&mut self, now: Time, out: &mut impl Out) {
        let Engine { conns, services, guard, .. } = self;
        let serving = conns.iter().filter(|(_, conn)| !conn.seats.is_empty());
        let mut denied: Vec<ConnId> = serving
            .filter(|(_, conn)| {
                let service = services.get(conn.serves);
                service.is_some_and(|service| !guard.may_serve(conn.principal, &service.name))
            })
            .map(|(id, _)| *id)
            .collect();
        // The table's order is nobody's: the same run must stay the same.
        denied.sort_unstable();
        for id in denied {
            self.expel(now, id, Expulsion::Denied, out);
        }
    }

    /// After a line changed its kind: notes where everybody stands, and how long they may.
    fn find_waiting(&mut self, key: ServiceKey) {
        let service = &mut self.services[key];
        let entries = service.line.asks().entries().map(|(place, asker)| (place, asker.key));
        let entries: Vec<(AnyKey, RequestKey)> = entries.collect();
        for (place, request) in entries {
            let held = &mut self.requests[request];
            held.state = State::Waiting(place);
            let until = service.config.wait_limit(held.since).unwrap_or(Time::MAX);
            service.line.expire_at(place, until);
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
    fn vacate(&mut self, now: Time, id: ConnId) -> Option<(ServiceKey, Vec<Lost>)> {
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
        let mut lost: Vec<Lost> = Vec::new();
        // All offers leave before any request returns: it must not meet this worker again.
        for seat in seats {
            if planted!(self, GhostOffers) && matches!(self.seats[seat].holds, Holds::Free(_)) {
                continue;
            }
            let Some(Seat { holds, since, .. }) = self.seats.remove(seat) else { continue };
            match holds {
                Holds::Free(place) => {
                    service.line.cancel_r(now, place, &mut self.drops);
                }
                Holds::Request(request) => lost.push((request, since)),
                Holds::Moving => {}
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
        mut lost: Vec<Lost>,
        out: &mut impl Out,
    ) {
        lost.sort_by_key(|(key, _)| (self.requests[*key].since, self.requests[*key].rank));
        for (key, since) in lost {
            let held = &mut self.requests[key];
            let service = &mut self.services[service_key];
            service.returned(now, now - since, false);
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
            service.is_held_up(now);
            let (since, rank, line) = (held.since, held.rank, &mut service.line);
            let asker = Asker { key, flow: held.flow, rank: rank.get() };
            let outcome = if planted!(self, WrongHead) {
                line.ask(now, since, asker, &mut self.drops)
            } else {
                line.ask_again(now, since, rank, asker, &mut self.drops)
            };
            self.settle_ask(now, service_key, outcome, out);
        }
        self.pump(now, service_key, out);
        // Who is past its time to wait and met no free offer does not wait again.
        self.services[service_key].line.tick(now, &mut self.drops);
        self.settle_drops(now, service_key, out);
    }

    fn offer_seat(&mut self, now: Time, key: ServiceKey, seat: SeatKey, out: &mut impl Out) {
        if planted!(self, IdleWhileWaiting) && !self.services[key].line.asks().is_empty() {
            return;
        }
        let service = &mut self.services[key];
        service.is_held_up(now);
        let outcome = service.line.ask_r(now, now, seat, &mut self.drops);
        match outcome {
            Outcome::Matched(seated) => self.lease(now, key, seated, out),
            Outcome::Waiting(place) => self.seats[seat].holds = Holds::Free(place),
            Outcome::Dropped => unreachable!("the line of offers is not bounded"),
        }
        self.pump(now, key, out);
        self.settle_drops(now, key, out);
        // A free offer is room for one of those that are held back.
        self.make_room(key, out);
    }

    /// Carries out what became of an ask.
    fn settle_ask(
        &mut self,
        now: Time,
        key: ServiceKey,
        outcome: Outcome<Asker, SeatKey, AnyKey>,
        out: &mut impl Out,
    ) {
        match outcome {
            Outcome::Matched(seated) => self.lease(now, key, seated, out),
            Outcome::Waiting(place) => {
                let service = &mut self.services[key];
                let asker = service.line.asks().get(place).copied();
                if let Some(held) = asker.and_then(|asker| self.requests.get_mut(asker.key)) {
                    held.state = State::Waiting(place);
                    service.waiting_bytes += held.payload.len() as u64;
                    if let Some(until) = service.config.wait_limit(held.since) {
                        service.line.expire_at(place, until);
                    }
                }
            }
            Outcome::Dropped => {}
        }
    }

    /// While the valve lets somebody through and both sides wait for it: seats them.
    fn pump(&mut self, now: Time, key: ServiceKey, out: &mut impl Out) {
        loop {
            let Some(service) = self.services.get_mut(key) else { return };
            if service.is_held_up(now) || !service.line.is_shut() {
                return;
            }
            let seated = service.line.seat_next(now, &mut self.drops);
            match seated {
                Some(seated) => self.lease(now, key, seated, out),
                None => return self.settle_drops(now, key, out),
            }
        }
    }

    fn look_out(&mut self, now: Time, key: ServiceKey, out: &mut impl Out) {
        let Some(service) = self.services.get_mut(key) else { return };
        if let Some(raised) = service.look_out(now) {
            let oldest = service.line.asks().oldest().unwrap_or(now);
            let service = &service.name;
            out.emit(Effect::Alarm { service, raised, oldest: now - oldest });
        }
    }

    /// Makes room for `bytes` in a line that is full. False if there is no room even without
    /// anybody in it.
    fn drop_oldest(&mut self, now: Time, key: ServiceKey, bytes: u64, out: &mut impl Out) -> bool {
        if bytes > self.services[key].config.queue_bytes {
            return false;
        }
        loop {
            let service = &mut self.services[key];
            if !service.is_at_bound(bytes) {
                return true;
            }
            let Some(place) = service.line.asks().first_to_go() else { return false };
            let Some(asker) = service.line.cancel(now, place, &mut self.drops) else {
                return false;
            };
            service.waiting_bytes -= self.requests[asker.key].payload.len() as u64;
            self.refuse_held(asker.key, Reason::QueueFull, out);
            self.settle_drops(now, key, out);
        }
    }

    /// Whose turn a request takes in a fair line; anything in a plain one.
    fn flow_of(&self, key: ServiceKey, request: &Request<'_>) -> u64 {
        let Some(Fair { by, .. }) = self.services[key].config.fair else { return 0 };
        let mut hasher = self.service_by_name.hasher().build_hasher();
        match (by, request.fair_key.as_slice()) {
            (FairBy::Class, _) => return self.guard.turn_of(request.principal),
            (FairBy::Principal, _) => hasher.write_u32(request.principal.as_u32()),
            (FairBy::FirstFrame, _) => hasher.write(request.first_frame.as_slice()),
            (FairBy::Header, named) if !named.is_empty() => hasher.write(named),
            (FairBy::Header | FairBy::Connection, _) => hasher.write_u64(request.conn.as_u64()),
        }
        hasher.finish()
    }

    /// Chance that no peer can foresee: the keyed hash of a counter.
    fn draw(&mut self) -> u32 {
        self.draws += 1;
        let mut hasher = self.service_by_name.hasher().build_hasher();
        hasher.write_u64(self.draws);
        (hasher.finish() >> 32) as u32
    }

    /// A request and an offer met: the worker holds it from here on.
    fn lease(
        &mut self,
        now: Time,
        key: ServiceKey,
        seated: Match<Asker, SeatKey>,
        out: &mut impl Out,
    ) {
        let (request, seat) = (seated.ask.value.key, seated.ask_r.value);
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
        service.lent(now);
        let lease = if service.config.execution_limit == Span::MAX {
            matching::Key::null()
        } else {
            service.leases.push(now, now, request, &mut self.expired).unwrap_or_default()
        };
        held.state = State::Leased(seat, lease);
        let seat = &mut self.seats[seat];
        seat.holds = Holds::Request(request);
        seat.since = now;
        out.emit(Effect::Deliver {
            to: seat.conn,
            request: name_of(request),
            tag: held.tag,
            payload: &held.payload,
            envelope: held.envelope,
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
            let held = &self.requests[dropped.value.key];
            if let State::Waiting(_) = held.state {
                self.services[key].waiting_bytes -= held.payload.len() as u64;
            }
            self.refuse_held(dropped.value.key, dropped.reason.into(), out);
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
            let mut lost: Vec<(ServiceKey, Vec<Lost>)> = Vec::new();
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
        service.refuse(reason);
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
        self.guard.ended(held.principal, held.payload.len() as u64);
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
        let mut config = *self.config.service(name);
        if planted!(self, NewestWorker) {
            config.workers = matching::Order::Lifo;
        }
        let key = self.services.insert(Service::new(name, config, now));
        self.service_by_name.insert(name.into(), key);
        Some(key)
    }

    fn require_conn(&mut self, now: Time, id: ConnId) -> &mut Conn {
        self.conns.entry(id).or_insert_with(|| Conn {
            seats: Vec::new(),
            serves: ServiceKey::null(),
            principal: PrincipalId::ANONYMOUS,
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
        let due = service.deadline(now, self.config.service_idle);
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
