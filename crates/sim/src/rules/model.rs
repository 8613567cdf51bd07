//! The engine's rules once more, as naively as they can be written down: lists that are searched
//! from the start, no keys, no wheel.
//!
//! It is told the same events in the same order and says which effects must come out. It departs
//! from the engine in nothing a peer could see.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use engine::{Config, ConnId, Expulsion, REASONS, Reason, ServiceConfig, Span, Time};

/// What the engine must have told somebody. Requests are named by their number in the run.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Told {
    Deliver { to: ConnId, request: u64, delivery: u32 },
    Reply { to: ConnId, request: u64, part: u64, last: bool },
    Refuse { to: ConnId, request: u64, reason: Reason, taken: bool, answer: bool },
    Restart { to: ConnId, request: u64 },
    Count { to: ConnId, tag: u64, workers: u32 },
    Expel { to: ConnId, why: u8 },
    Pause { to: ConnId },
    Resume { to: ConnId },
    Drained,
}

/// An [`Expulsion`] as a number, because it has no order.
pub(crate) fn why(expulsion: Expulsion) -> u8 {
    match expulsion {
        Expulsion::StrayReply => 0,
        Expulsion::SecondOffer => 1,
        Expulsion::ExecutionLimit => 2,
        Expulsion::TooManyServices => 3,
        Expulsion::Denied => 4,
    }
}

/// A request as a client makes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) number: u64,
    pub(crate) conn: ConnId,
    pub(crate) service: usize,
    pub(crate) bytes: u64,
    pub(crate) refuse_when_full: bool,
    pub(crate) needs_workers: bool,
    pub(crate) whole_replies: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Service {
    pub(crate) config: ServiceConfig,
    /// Waiting requests in the order in which they were taken.
    pub(crate) line: Vec<u64>,
    /// Free offers, the one that waits longest first.
    pub(crate) offers: VecDeque<ConnId>,
    paused: VecDeque<(ConnId, u64)>,
    promised: Vec<(ConnId, u64)>,
    pub(crate) idle_since: Option<Time>,
}

#[derive(Debug)]
pub(crate) struct Held {
    client: ConnId,
    pub(crate) service: usize,
    /// Its place in the order in which requests were taken.
    place: u64,
    bytes: u64,
    since: Time,
    deliveries: u32,
    pub(crate) holder: Option<ConnId>,
    leased_at: Time,
    /// The service had an execution limit when the lease was given.
    limited: bool,
    started: bool,
    whole_replies: bool,
    pub(crate) abandoned: bool,
}

/// Everything that was counted.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) replies: u64,
    pub(crate) refusals: [u64; REASONS.len()],
    pub(crate) withdrawals: u64,
    pub(crate) redeliveries: u64,
    pub(crate) expulsions: u64,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) config: Config,
    pub(crate) names: Vec<&'static [u8]>,
    pub(crate) services: BTreeMap<usize, Service>,
    pub(crate) requests: BTreeMap<u64, Held>,
    /// The service each worker serves.
    pub(crate) workers: BTreeMap<ConnId, usize>,
    pub(crate) counts: Counts,
    pub(crate) draining: bool,
    drained: bool,
    told: Vec<Told>,
}

impl Model {
    pub(crate) fn new(config: Config, names: Vec<&'static [u8]>) -> Model {
        Model {
            config,
            names,
            services: BTreeMap::new(),
            requests: BTreeMap::new(),
            workers: BTreeMap::new(),
            counts: Counts::default(),
            draining: false,
            drained: false,
            told: Vec::new(),
        }
    }

    /// What must have been told since the last call.
    pub(crate) fn finish(&mut self, now: Time) -> Vec<Told> {
        let services: Vec<usize> = self.services.keys().copied().collect();
        for service in services {
            self.make_room(service);
            let idle = self.is_idle(service);
            let since = &mut self.services.get_mut(&service).expect("listed").idle_since;
            *since = if idle { since.or(Some(now)) } else { None };
        }
        if self.draining && !self.drained && self.requests.is_empty() {
            self.drained = true;
            self.told.push(Told::Drained);
        }
        std::mem::take(&mut self.told)
    }

    pub(crate) fn request(&mut self, now: Time, ask: Ask) {
        self.keep_promise(ask.conn);
        if self.draining {
            return self.refuse_new(ask, Reason::Draining);
        }
        if ask.needs_workers && self.workers_of(ask.service) == 0 {
            return self.refuse_new(ask, Reason::NoWorkers);
        }
        if !self.require_service(ask.service) {
            return self.refuse_new(ask, Reason::QueueFull);
        }
        if self.is_at_bound(ask.service, ask.bytes) {
            let service = self.services.get_mut(&ask.service).expect("required above");
            if ask.refuse_when_full || ask.bytes > service.config.queue_bytes {
                return self.refuse_new(ask, Reason::QueueFull);
            }
            service.paused.push_back((ask.conn, ask.bytes));
            return self.told.push(Told::Pause { to: ask.conn });
        }
        self.counts.requests += 1;
        let held = Held {
            client: ask.conn,
            service: ask.service,
            place: self.counts.requests,
            bytes: ask.bytes,
            since: now,
            deliveries: 0,
            holder: None,
            leased_at: now,
            limited: false,
            started: false,
            whole_replies: ask.whole_replies,
            abandoned: false,
        };
        self.requests.insert(ask.number, held);
        self.seat_or_wait(now, ask.service, ask.number);
    }

    pub(crate) fn offer(&mut self, now: Time, conn: ConnId, service: usize, concurrency: u32) {
        if self.workers.contains_key(&conn) {
            return self.expel(now, conn, Expulsion::SecondOffer);
        }
        if !self.require_service(service) {
            return self.expel(now, conn, Expulsion::TooManyServices);
        }
        self.workers.insert(conn, service);
        for _ in 0..concurrency.clamp(1, self.config.concurrency_max) {
            self.offer_once(now, service, conn);
        }
    }

    /// `request`: the number of the request the worker named, if there ever was such a one.
    pub(crate) fn reply(
        &mut self,
        now: Time,
        conn: ConnId,
        request: Option<u64>,
        part: u64,
        last: bool,
    ) {
        let held = request.and_then(|number| self.requests.get_mut(&number));
        let (Some(number), Some(held)) = (request, held.filter(|h| h.holder == Some(conn))) else {
            return self.expel(now, conn, Expulsion::StrayReply);
        };
        held.started = true;
        if !held.abandoned {
            self.told.push(Told::Reply { to: held.client, request: number, part, last });
        }
        if last {
            self.counts.replies += u64::from(!held.abandoned);
            let service = held.service;
            self.requests.remove(&number);
            self.offer_once(now, service, conn);
        }
    }

    pub(crate) fn withdraw(&mut self, now: Time, conn: ConnId) {
        let lost = self.vacate(conn);
        self.give_back(now, lost);
    }

    pub(crate) fn gone(&mut self, now: Time, conn: ConnId) {
        self.keep_promise(conn);
        let asked: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, h)| h.client == conn && !h.abandoned)
            .map(|(number, _)| *number)
            .collect();
        for number in asked {
            self.counts.withdrawals += 1;
            let held = self.requests.get_mut(&number).expect("listed");
            held.abandoned = true;
            if held.holder.is_none() {
                self.services
                    .get_mut(&held.service)
                    .expect("it waits")
                    .line
                    .retain(|n| *n != number);
                self.requests.remove(&number);
            }
        }
        self.withdraw(now, conn);
    }

    pub(crate) fn count(&mut self, to: ConnId, service: usize, tag: u64) {
        let workers = self.workers_of(service);
        self.told.push(Told::Count { to, tag, workers });
    }

    pub(crate) fn configure(&mut self, now: Time, config: Config) {
        self.config = config;
        for (service, state) in &mut self.services {
            state.config = *self.config.service(self.names[*service]);
        }
        self.tick(now);
    }

    pub(crate) fn tick(&mut self, now: Time) {
        let services: Vec<usize> = self.services.keys().copied().collect();
        for service in services {
            let config = self.services[&service].config;
            self.expire(now, service);
            let overdue: BTreeSet<ConnId> = self
                .requests
                .values()
                .filter(|h| h.service == service && h.is_overdue(now, config))
                .filter_map(|h| h.holder)
                .collect();
            let mut lost = Vec::new();
            for conn in overdue {
                self.counts.expulsions += 1;
                self.told.push(Told::Expel { to: conn, why: why(Expulsion::ExecutionLimit) });
                lost.extend(self.vacate(conn));
            }
            self.give_back(now, lost);
        }
    }

    /// When something is due next.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let waiting = self.services.values().flat_map(|s| s.line.iter().map(move |n| (s, n)));
        let expiries = waiting.map(|(s, n)| self.requests[n].since + s.config.give_up);
        let limits = self.requests.values().filter_map(|h| {
            let limit = self.services[&h.service].config.execution_limit;
            (h.holder.is_some() && h.limited).then(|| h.leased_at + limit)
        });
        let idle = self.config.service_idle;
        let reaps = self.services.values().filter_map(|s| s.idle_since.map(|at| at + idle));
        expiries.chain(limits).chain(reaps).filter(|due| *due != Time::MAX).min()
    }

    pub(crate) fn workers_of(&self, service: usize) -> u32 {
        self.workers.values().filter(|serves| **serves == service).count() as u32
    }

    pub(crate) fn leased_of(&self, service: usize) -> u32 {
        let held = self.requests.values();
        held.filter(|h| h.service == service && h.holder.is_some()).count() as u32
    }

    pub(crate) fn waiting_bytes(&self, service: usize) -> u64 {
        self.services[&service].line.iter().map(|number| self.requests[number].bytes).sum()
    }

    fn require_service(&mut self, service: usize) -> bool {
        if self.services.contains_key(&service) {
            return true;
        }
        if self.services.len() >= self.config.services_max {
            return false;
        }
        let config = self.config.service(self.names[service]);
        self.services.insert(service, Service { config: *config, ..Service::default() });
        true
    }

    fn is_idle(&self, service: usize) -> bool {
        let state = &self.services[&service];
        self.workers_of(service) == 0
            && self.leased_of(service) == 0
            && state.line.is_empty()
            && state.paused.is_empty()
            && state.promised.is_empty()
    }

    fn is_at_bound(&self, service: usize, bytes: u64) -> bool {
        let state = &self.services[&service];
        let promised: u64 = state.promised.iter().map(|(_, bytes)| bytes).sum();
        let total = self.waiting_bytes(service) + promised + bytes;
        // Each free offer takes one request, those that were promised room first.
        let unpromised = state.offers.len().saturating_sub(state.promised.len());
        let would_wait = state.promised.len().saturating_sub(state.offers.len());
        unpromised == 0
            && (state.line.len() + would_wait >= state.config.queue_max
                || total > state.config.queue_bytes)
    }

    fn keep_promise(&mut self, conn: ConnId) {
        for service in self.services.values_mut() {
            service.paused.retain(|(id, _)| *id != conn);
            service.promised.retain(|(id, _)| *id != conn);
        }
    }

    fn make_room(&mut self, service: usize) {
        while let Some((conn, bytes)) = self.services[&service].paused.front().copied() {
            // What no longer fits any line comes again to be refused.
            let fits = bytes <= self.services[&service].config.queue_bytes;
            if fits && self.is_at_bound(service, bytes) {
                return;
            }
            let state = self.services.get_mut(&service).expect("looked at above");
            state.paused.pop_front();
            state.promised.push((conn, bytes));
            self.told.push(Told::Resume { to: conn });
        }
    }

    fn seat_or_wait(&mut self, now: Time, service: usize, number: u64) {
        let state = self.services.get_mut(&service).expect("it has a request");
        if let Some(conn) = state.offers.pop_front() {
            self.lease(now, number, conn);
        } else {
            // A returned request goes where it stood.
            let place = |number: &u64| self.requests[number].place;
            let place = state.line.partition_point(|other| place(other) < place(&number));
            state.line.insert(place, number);
        }
    }

    fn offer_once(&mut self, now: Time, service: usize, conn: ConnId) {
        let state = self.services.get_mut(&service).expect("it has a worker");
        if state.line.is_empty() {
            state.offers.push_back(conn);
        } else {
            let number = state.line.remove(0);
            self.lease(now, number, conn);
        }
        self.make_room(service);
    }

    fn lease(&mut self, now: Time, number: u64, to: ConnId) {
        let held = self.requests.get_mut(&number).expect("a request in hand");
        held.deliveries += 1;
        held.holder = Some(to);
        held.leased_at = now;
        held.limited = self.services[&held.service].config.execution_limit != Span::MAX;
        self.told.push(Told::Deliver { to, request: number, delivery: held.deliveries });
    }

    fn expire(&mut self, now: Time, service: usize) {
        let give_up = self.services[&service].config.give_up;
        let before = self.services[&service].line.clone();
        for number in before.iter().copied() {
            if self.requests[&number].since + give_up <= now {
                let line = &mut self.services.get_mut(&service).expect("it has a line").line;
                line.retain(|other| *other != number);
                self.refuse(number, Reason::Expired);
            }
        }
        if self.services[&service].line.len() < before.len() {
            self.make_room(service);
        }
    }

    /// Removes a worker. Says what it held.
    fn vacate(&mut self, conn: ConnId) -> Vec<u64> {
        let Some(service) = self.workers.remove(&conn) else { return Vec::new() };
        self.services.get_mut(&service).expect("served").offers.retain(|id| *id != conn);
        let held = self.requests.iter().filter(|(_, h)| h.holder == Some(conn));
        held.map(|(number, _)| *number).collect()
    }

    fn give_back(&mut self, now: Time, mut lost: Vec<u64>) {
        lost.sort_unstable_by_key(|number| self.requests[number].place);
        let mut served = None;
        for number in lost {
            let held = self.requests.get_mut(&number).expect("it was held");
            held.holder = None;
            let service = held.service;
            served = Some(service);
            if held.abandoned {
                self.requests.remove(&number);
            } else if held.started && !held.whole_replies
                || held.deliveries >= self.services[&service].config.max_deliveries
            {
                self.refuse(number, Reason::WorkersFailed);
            } else {
                if std::mem::take(&mut held.started) {
                    self.told.push(Told::Restart { to: held.client, request: number });
                }
                self.counts.redeliveries += 1;
                self.seat_or_wait(now, service, number);
            }
        }
        // Who is past its time to wait and met no free offer does not wait again.
        if let Some(service) = served {
            self.expire(now, service);
        }
    }

    fn expel(&mut self, now: Time, conn: ConnId, reason: Expulsion) {
        self.counts.expulsions += 1;
        self.told.push(Told::Expel { to: conn, why: why(reason) });
        self.withdraw(now, conn);
    }

    fn refuse_new(&mut self, ask: Ask, reason: Reason) {
        self.counts.refuse(reason);
        let answer = self.config.service(self.names[ask.service]).answer_refusals;
        let (to, request) = (ask.conn, ask.number);
        self.told.push(Told::Refuse { to, request, reason, taken: false, answer });
    }

    fn refuse(&mut self, request: u64, reason: Reason) {
        self.counts.refuse(reason);
        let held = self.requests.remove(&request).expect("a request in hand");
        let answer = self.services[&held.service].config.answer_refusals;
        if !held.abandoned {
            self.told.push(Told::Refuse { to: held.client, request, reason, taken: true, answer });
        }
    }
}

impl Held {
    fn is_overdue(&self, now: Time, config: ServiceConfig) -> bool {
        self.holder.is_some() && self.limited && self.leased_at + config.execution_limit <= now
    }
}

impl Counts {
    fn refuse(&mut self, reason: Reason) {
        let place = REASONS.iter().position(|r| *r == reason).expect("all reasons are listed");
        self.refusals[place] += 1;
    }
}
