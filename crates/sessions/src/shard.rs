//! One reactor's share of the broker: its connections, their sessions, and the services that live
//! here. Bytes and the time come in, bytes and notes go out.
//!
//! A service lives on one shard (by a hash of its name). Events for a service that lives elsewhere,
//! and effects for a connection that does, leave through [`Shard::take_cross`] and enter the other
//! shard through [`Shard::cross_in`]. The rules are the same with one shard and with several.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::hash::Hasher;
use core::net::SocketAddr;

use bytes::Bytes;
use engine::{
    Blob, ConnId, Engine, Event, MeetWord, Place, PrincipalId, Request, Span, Time, WhenFull,
};
use siphasher::sip::SipHasher13;
use zmtp::{Frames, Message, Step, Work};

use crate::LARGE_BODY;
use crate::config::{Dialect, ShardConfig, Speaks};
use crate::door::Credentials;
use crate::errand::{self, Errand, Sender};
use crate::floor::{CloseReason, Cross, Floor, Note, Outcome};
use crate::mdp::{self, FAILED, Mmi, Tag, Version, Word, WorkerWord};
use crate::meet::{self, ReadRules};
use crate::outbox::Outbox;
use crate::talk::{Talk, millis};
use crate::tongue::{Asker, Tongue};
use crate::wire::{Codec, Role, Serving, Wire};

mod doors;

mod pirates;

mod stomp;

mod guests;

pub(crate) use guests::Guest;
pub use guests::Lease;

use guests::Labels;

/// A direct read asks for at most this much at first, and at most doubles what has arrived, so
/// that an announced length alone reserves next to nothing.
const DIRECT_MAX: usize = 256 * 1024;
/// A direct read has room for a little more than it expects: that it came up short then tells that
/// nothing more is there, without another system call.
const DIRECT_SLACK: usize = 64;

/// What happened to connections since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Open now.
    pub connections: u64,
    /// Opened since the start.
    pub accepted: u64,
    /// Refused because there were too many.
    pub turned_away: u64,
    /// Messages received.
    pub messages: u64,
    /// Messages that made no sense.
    pub garbage: u64,
    /// Workers told to go.
    pub dismissals: u64,
    /// Idle workers given up for silence.
    pub expiries: u64,
    /// Connections that ended before they were through, for what they said.
    pub failed_handshakes: u64,
    /// Those of them whose name nobody knows, or who did not prove it.
    pub denied: u64,
    /// Connections hung up on because too many handshakes waited.
    pub crowded: u64,
    /// Copies of topics' messages given to who listens.
    pub copies: u64,
    /// Copies that were not given, because too much waited to be read already.
    pub copies_dropped: u64,
}

/// How to read next from a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Want {
    /// Not at all for now; it will be in [`Shard::take_resumed`].
    Paused,
    /// Into a buffer of the caller, behind what [`Shard::take_pending`] puts there.
    Shared,
    /// Into the spare capacity of [`Shard::direct`].
    Direct,
}

/// A call from inside the process.
#[derive(Clone, Debug)]
pub struct Call {
    /// In whose name.
    pub principal: PrincipalId,
    /// Name of the service.
    pub service: Bytes,
    /// The frames of the body as they stand on a ZMTP wire; at least one.
    pub body: Bytes,
    /// What the caller calls itself in a fair line; may be empty.
    pub fair_key: Bytes,
    /// For how long it keeps a lock it is given, having no connection that could end.
    pub lease: Option<Lease>,
}

/// One connection, for people.
#[derive(Clone, Debug)]
pub struct ConnView {
    /// Its id.
    pub id: ConnId,
    /// The peer's address.
    pub remote: Option<SocketAddr>,
    /// When it was opened.
    pub opened: Time,
    /// When its last byte came.
    pub last_seen: Time,
    /// Bytes that wait to be written to it.
    pub out_bytes: usize,
    /// In whose name it speaks.
    pub principal: PrincipalId,
    /// Its requests that have not ended.
    pub in_flight: u32,
    /// Requests it holds as a worker.
    pub held: u32,
    /// Whether the peer answers PING.
    pub pings: bool,
    /// What it speaks if it is a worker: one of [`PROTOCOLS`](crate::PROTOCOLS).
    pub serves_in: Option<&'static str>,
}

impl ConnView {
    fn new(id: ConnId, wire: &Wire) -> ConnView {
        ConnView {
            id,
            remote: wire.remote,
            opened: wire.opened,
            last_seen: wire.last_seen,
            out_bytes: wire.out_bytes(),
            principal: wire.principal,
            in_flight: wire.in_flight,
            held: match (&wire.codec, wire.role) {
                (Codec::Stomp(talk), _) => talk.deliveries.len() as u32,
                (_, Role::Serving(serving)) => serving.held,
                (_, Role::Fresh | Role::Expired | Role::Dismissed(_) | Role::Left) => 0,
            },
            pings: wire.pings(),
            serves_in: match (&wire.codec, wire.role) {
                (Codec::Stomp(talk), _) => talk.serves_in(),
                (_, Role::Serving(_)) => Some(wire.tongue.name()),
                (_, Role::Fresh | Role::Expired | Role::Dismissed(_) | Role::Left) => None,
            },
        }
    }
}

/// Everything of the broker that does no I/O.
#[derive(Debug)]
pub struct Shard {
    me: u8,
    shards: u8,
    seed: (u64, u64),
    engine: Engine,
    floor: Floor,
    /// By the door of a listener.
    doors: Vec<zmtp::Config>,
    credentials: Credentials,
    /// Steps of handshakes that wait to be computed.
    work: VecDeque<(ConnId, Work)>,
    /// Connections that ended while they waited for such a step, since those were last looked for.
    abandoned: usize,
    frames: Frames,
    /// Where the parts of the STOMP frame in hand stand.
    head: ::stomp::Head,
    fired: Vec<(ConnId, Time)>,
    /// Connections to close once their outbox was flushed as far as it goes.
    closing: Vec<ConnId>,
    /// Connections that may be read again.
    readable: Vec<ConnId>,
    /// Requests of other shards' connections that wait until there is room.
    parked: BTreeMap<ConnId, VecDeque<Request<'static>>>,
    read_rules: ReadRules,
    labels: Labels,
    #[cfg(feature = "planted")]
    busy_beat: bool,
}

/// The shard where the service called `name` lives.
#[must_use]
pub fn home_of(name: &[u8], shards: u8, seed: (u64, u64)) -> u8 {
    if shards <= 1 {
        return 0;
    }
    let mut hasher = SipHasher13::new_with_keys(seed.0, seed.1);
    hasher.write(name);
    (hasher.finish() % u64::from(shards)) as u8
}

impl Shard {
    /// Shard `me` of `shards`. All shards of a house must be given the same `seed`.
    #[must_use]
    pub fn new(config: ShardConfig, seed: (u64, u64), me: u8, shards: u8, now: Time) -> Shard {
        assert!(shards <= 64, "at most 64 shards: who knows a connection is one word of bits");
        let doors = config.doors.iter().map(|security| {
            let mut door = zmtp::Config::new(zmtp::SocketType::Router);
            (door.limits, door.security) = (config.zmtp, security.clone());
            door
        });
        Shard {
            doors: doors.collect(),
            credentials: config.credentials.clone(),
            work: VecDeque::new(),
            abandoned: 0,
            me,
            shards,
            seed,
            engine: Engine::new(config.engine.clone(), seed, now),
            floor: Floor::new(config, me, now),
            frames: Frames::default(),
            head: ::stomp::Head::default(),
            fired: Vec::new(),
            closing: Vec::new(),
            readable: Vec::new(),
            parked: BTreeMap::new(),
            read_rules: meet::no_rules,
            labels: Labels::default(),
            #[cfg(feature = "planted")]
            busy_beat: false,
        }
    }

    /// The same shard, where places may be declared with rules that `read_rules` understands.
    #[must_use]
    pub fn with_rules_read_by(self, read_rules: ReadRules) -> Shard {
        Shard { read_rules, ..self }
    }

    /// Takes in a new connection; `None` if there are as many as there may be.
    pub fn open(
        &mut self,
        now: Time,
        dialect: Dialect,
        remote: Option<SocketAddr>,
    ) -> Option<ConnId> {
        if self.floor.counters.connections >= self.floor.config.limits.connections as u64 {
            self.floor.counters.turned_away += 1;
            return None;
        }
        let mut greeting = Vec::new();
        let codec = if dialect.speaks == Speaks::Stomp {
            Codec::Stomp(Box::new(Talk::new(now)))
        } else {
            let door = &self.doors[usize::from(dialect.door)];
            Codec::Zmtp(zmtp::Connection::new(door, &mut greeting))
        };
        let id = self.floor.insert_wire(Wire::new(codec, dialect, remote, now));
        if !greeting.is_empty()
            && let Some(wire) = self.floor.touch(id)
        {
            wire.outbox.small().extend_from_slice(&greeting);
        }
        let due = now + self.floor.config.limits.handshake;
        self.floor.arm(id, due);
        Some(id)
    }

    /// How to read next from `id`.
    pub fn want(&mut self, id: ConnId) -> Want {
        let Some(wire) = self.floor.wire(id) else { return Want::Paused };
        if wire.is_held() {
            return Want::Paused;
        }
        let have = wire.pending.len();
        let need = if have == 0 { wire.expect } else { wire.need };
        if have < LARGE_BODY && need.saturating_sub(have) < LARGE_BODY {
            return Want::Shared;
        }
        let missing = need.saturating_sub(have).clamp(1, have.max(DIRECT_MAX));
        if wire.pending.capacity() - have < missing {
            wire.pending.reserve_exact(missing + DIRECT_SLACK);
        }
        Want::Direct
    }

    /// Moves what is not consumed yet to the start of `buf`; read behind it, then give all of it to
    /// [`received`](Shard::received).
    pub fn take_pending(&mut self, id: ConnId, buf: &mut [u8]) -> usize {
        let Some(wire) = self.floor.wire(id) else { return 0 };
        let pending = core::mem::take(&mut wire.pending);
        buf[..pending.len()].copy_from_slice(&pending);
        pending.len()
    }

    /// Where a direct read appends. Its length is what has arrived, its spare capacity what to read
    /// at most. Call [`received_direct`](Shard::received_direct) afterwards.
    pub fn direct(&mut self, id: ConnId) -> Option<&mut Vec<u8>> {
        self.floor.wire(id).map(|wire| &mut wire.pending)
    }

    /// After a direct read that brought nothing: an idle connection owns no buffer.
    pub fn read_nothing(&mut self, id: ConnId) {
        if let Some(wire) = self.floor.wire(id)
            && wire.pending.is_empty()
        {
            wire.pending = Vec::new();
        }
    }

    /// Takes in all bytes of `id` that are not consumed yet.
    pub fn received(&mut self, now: Time, id: ConnId, buf: &mut [u8]) {
        self.alive(now, id);
        let (start, end) = self.feed(now, id, buf, usize::MAX);
        if start < end
            && let Some(wire) = self.floor.wire(id)
            && !wire.closing
        {
            wire.pending = buf[start..end].to_vec();
        }
        self.settle(now);
    }

    /// After bytes were appended to [`direct`](Shard::direct).
    pub fn received_direct(&mut self, now: Time, id: ConnId) {
        self.alive(now, id);
        self.feed_pending(now, id, usize::MAX);
        self.settle(now);
    }

    /// The connection ended, or the shell closed it. Its id means nothing from here on.
    pub fn closed(&mut self, now: Time, id: ConnId) {
        self.part(now, id, CloseReason::Ended);
        self.floor.remove(id);
        self.settle(now);
    }

    /// Does everything that is due at `now`.
    pub fn tick(&mut self, now: Time) {
        self.floor.now = now;
        self.engine.tick(now, &mut self.floor);
        let mut fired = core::mem::take(&mut self.fired);
        self.floor.wheel.advance(now, &mut fired);
        for (id, armed) in fired.drain(..) {
            if self.floor.wire(id).is_some_and(|wire| wire.armed == armed) {
                self.on_timer(now, id);
            } else if self.floor.local(id).is_some() {
                self.on_lease_end(now, id, armed);
            }
        }
        self.fired = fired;
        self.settle(now);
    }

    /// When [`tick`](Shard::tick) next has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match (self.engine.deadline(), self.floor.wheel.deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (due, None) | (None, due) => due,
        }
    }

    /// Timers that run, those that will be ignored included.
    #[must_use]
    pub fn timers_len(&self) -> usize {
        self.engine.timers_len() + self.floor.wheel.len()
    }

    /// A call from inside the process. Its outcome will be in
    /// [`take_outcomes`](Shard::take_outcomes) under the id returned; then, or to give up,
    /// [`hang_up`](Shard::hang_up).
    pub fn call(&mut self, now: Time, call: Call) -> ConnId {
        let id = self.floor.insert_local(call.lease.map(|lease| Guest::new(call.principal, lease)));
        let tag = Tag { version: Version::V02, service_frame: true, mmi: None };
        if errand::is_errand(&call.service, self.floor.config.titanic) {
            let envelope = Bytes::new();
            let from = Sender { conn: id, tag, envelope, service: call.service };
            let Call { principal, body, .. } = call;
            self.floor.errands.push(Errand { from, principal, body });
            return id;
        }
        if mdp::is_reserved(&call.service) {
            let frames = zmtp::raw_frames(&call.body).map(|(_, frame)| frame);
            let frames: Vec<&[u8]> = frames.take(meet::FRAMES_MAX).collect();
            self.on_own(now, id, call.principal, &call.service, &frames, tag, &[]);
        } else {
            let home = self.home_of(&call.service);
            let first = zmtp::raw_frames(&call.body).next().map_or(&b""[..], |(_, frame)| frame);
            let event = Event::Request(Request {
                conn: id,
                principal: call.principal,
                service: Blob::Shared(call.service),
                tag: tag.pack(),
                first_frame: Blob::Slice(first),
                fair_key: Blob::Shared(call.fair_key),
                payload: call.body.clone(),
                envelope: 0,
                body_at: 0,
                since: now,
                when_full: WhenFull::Refuse,
                needs_workers: true,
                whole_replies: true,
                detached: false,
            });
            self.route(now, id, home, event);
        }
        self.settle(now);
        id
    }

    /// Ends a call from inside the process.
    pub fn hang_up(&mut self, now: Time, id: ConnId) {
        if self.floor.local(id).is_some() {
            self.labels.forget(id);
            self.tell_gone(now, id);
            self.floor.remove(id);
            self.settle(now);
        }
    }

    /// New rules apply from here on. Connections that are open keep their handshake.
    pub fn configure(&mut self, now: Time, config: ShardConfig) {
        self.doors.iter_mut().for_each(|door| door.limits = config.zmtp);
        self.floor.now = now;
        self.engine.step(now, Event::Configure(Box::new(config.engine.clone())), &mut self.floor);
        self.replace_credentials(config.credentials.clone());
        let titanic = self.floor.config.titanic;
        self.floor.config = ShardConfig { titanic, ..config };
        self.settle(now);
    }

    /// Refuses new requests; [`Note::Drained`] once the last one ended.
    pub fn drain(&mut self, now: Time) {
        self.floor.now = now;
        self.engine.step(now, Event::Drain, &mut self.floor);
        self.settle(now);
    }

    /// Says goodbye to every worker and closes every connection.
    pub fn shut_down(&mut self, now: Time) {
        let ids: Vec<ConnId> = self.floor.wires().map(|(id, _)| id).collect();
        for id in ids {
            if self.floor.wire(id).is_some_and(|wire| wire.serving().is_some()) {
                self.floor.say_disconnect(id);
            }
            self.floor.die(id, CloseReason::Shutdown);
        }
        self.settle(now);
    }

    /// What crossed from another shard.
    pub fn cross_in(&mut self, now: Time, cross: Cross) {
        self.floor.now = now;
        if let Cross::Event(Event::Request(request)) = cross {
            self.request_from_afar(now, request);
        } else if let Cross::Event(event) = cross {
            if let Event::Gone { conn } = event {
                self.parked.remove(&conn);
                self.floor.terms.remove(&conn);
            }
            self.engine.step(now, event, &mut self.floor);
        } else if let Cross::Offer(term, event) = cross {
            if let Event::Offer { conn, .. } = event {
                self.floor.terms.insert(conn, term);
            }
            self.engine.step(now, event, &mut self.floor);
        } else if let Cross::Publish(destination, headers, body) = cross {
            self.floor.publish(&destination, &headers, &body);
        } else if cross.term().is_none_or(|(to, term)| self.floor.serves(to, term)) {
            cross.with_effect(|home, effect| self.floor.carry_out(home, effect));
        }
        self.settle(now);
    }

    /// What must cross to other shards, in order.
    pub fn take_cross(&mut self, into: &mut Vec<(u8, Cross)>) {
        into.append(&mut self.floor.cross);
    }

    /// Connections that have something to flush.
    pub fn take_touched(&mut self, into: &mut Vec<ConnId>) {
        for id in &self.floor.touched {
            into.push(*id);
        }
        self.floor.touched.clear();
    }

    /// What waits to be written to `id`; afterwards call [`wrote`](Shard::wrote).
    pub fn outbox(&mut self, id: ConnId) -> Option<&Outbox> {
        let wire = self.floor.wire(id)?;
        wire.touched = false;
        Some(wire.unwritten())
    }

    /// The first `n` bytes of the outbox of `id` were written.
    pub fn wrote(&mut self, now: Time, id: ConnId, n: usize) {
        if let Some(wire) = self.floor.wire(id).filter(|_| n > 0) {
            let is_slow = wire.slow;
            if is_slow {
                wire.excuse(now);
            }
            if let Some(talk) = wire.talk() {
                talk.beats.sent(millis(now));
                if is_slow {
                    // It is not read until it reads, so that it does is its sign of life.
                    talk.beats.heard(millis(now));
                }
            }
        }
        self.floor.flushed(id, n);
        if !self.floor.resumed.is_empty() || !self.floor.settled.is_empty() {
            self.settle(now);
        }
    }

    /// Connections to close: flush what goes without waiting, close the socket, call
    /// [`closed`](Shard::closed).
    pub fn take_closing(&mut self, into: &mut Vec<ConnId>) {
        into.append(&mut self.closing);
    }

    /// Whether nothing waits in [`take_touched`](Shard::take_touched),
    /// [`take_closing`](Shard::take_closing) and [`take_outcomes`](Shard::take_outcomes).
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.floor.touched.is_empty() && self.closing.is_empty() && self.floor.outcomes.is_empty()
    }

    /// Connections that were paused and may be read again.
    pub fn take_resumed(&mut self, into: &mut Vec<ConnId>) {
        into.append(&mut self.readable);
    }

    /// What became of local calls.
    pub fn take_outcomes(&mut self, into: &mut Vec<(ConnId, Outcome)>) {
        into.append(&mut self.floor.outcomes);
    }

    /// Whether something of so many bytes that the shell does for a principal is within its quota.
    pub fn admit(&mut self, now: Time, principal: PrincipalId, bytes: u64) -> bool {
        self.engine.admit(now, principal, bytes)
    }

    /// Requests to services that live with the shell; each is to be answered once.
    pub fn take_errands(&mut self, into: &mut Vec<Errand>) {
        into.append(&mut self.floor.errands);
    }

    /// The answer to an errand: the frames of its body as they stand on a ZMTP wire. `false` if
    /// whoever sent it is gone.
    pub fn answer(&mut self, now: Time, to: &Sender, body: Vec<u8>) -> bool {
        self.floor.now = now;
        let taken = self.floor.answer_raw(to.conn, to.tag, &to.envelope, &to.service, body);
        self.settle(now);
        taken
    }

    /// What is worth a log line.
    pub fn notes(&mut self) -> &mut Vec<Note> {
        &mut self.floor.notes
    }

    /// The engine, to look at.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Plants a bug.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, bug: engine::Planted) {
        self.engine.plant(bug);
    }

    /// Plants a bug: a heartbeat of a busy Paranoid Pirate worker counts as an offer.
    #[cfg(feature = "planted")]
    pub fn plant_busy_beat(&mut self) {
        self.busy_beat = true;
    }

    /// What happened to connections.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.floor.counters
    }

    /// The rules in force.
    #[must_use]
    pub fn config(&self) -> &ShardConfig {
        &self.floor.config
    }

    /// Every connection.
    pub fn connections(&self) -> impl Iterator<Item = ConnView> {
        self.floor.wires().map(|(id, wire)| ConnView::new(id, wire))
    }

    /// One connection, also by what stands for one of its subscriptions.
    #[must_use]
    pub fn connection(&self, id: ConnId) -> Option<ConnView> {
        let id = self.floor.owner_of(id);
        self.floor.look_at_wire(id).map(|wire| ConnView::new(id, wire))
    }

    /// Whether nothing of a subscription is left.
    #[cfg(test)]
    pub(crate) fn is_clean_of_stomp(&self) -> bool {
        self.floor.topics.is_empty() && self.floor.settled.is_empty() && self.floor.is_empty()
    }

    fn home_of(&self, name: &[u8]) -> u8 {
        home_of(name, self.shards, self.seed)
    }

    fn alive(&mut self, now: Time, id: ConnId) {
        self.floor.now = now;
        if let Some(wire) = self.floor.wire(id) {
            wire.last_seen = now;
            wire.unanswered = 0;
        }
    }

    /// Consumes what `buf` holds of whole items, at most `most` messages. Returns the range that is
    /// left.
    fn feed(&mut self, now: Time, id: ConnId, buf: &mut [u8], most: usize) -> (usize, usize) {
        if self.floor.wire(id).is_some_and(|wire| wire.talk().is_some()) {
            return (self.feed_stomp(now, id, buf, most), buf.len());
        }
        let mut messages = 0;
        let mut frames = core::mem::take(&mut self.frames);
        let (mut at, mut end) = (0, buf.len());
        while let Some(wire) = self.floor.wire(id)
            && !wire.is_stopped()
            && messages < most
            && at < end
        {
            let Codec::Zmtp(zmtp) = &mut wire.codec else { break };
            let out = wire.outbox.small();
            let door = &self.doors[usize::from(wire.dialect.door)];
            let step = zmtp.next(door, &mut buf[at..end], &mut frames, out);
            if let Ok(Step::Message { len }) = step {
                wire.note_message(now, len);
                let message = frames.view(&buf[at..at + len]);
                if !self.on_message(now, id, &message, None) {
                    self.hand_back(id, len);
                    break;
                }
                at += len;
                messages += 1;
                continue;
            }
            match self.settle_step(id, step) {
                Some(Step::Skip { len, event }) => {
                    at += len;
                    self.on_zmtp(now, id, event);
                }
                Some(Step::Cut { len, event }) => {
                    end -= len;
                    self.on_zmtp(now, id, event);
                }
                Some(Step::Message { .. } | Step::More { .. }) | None => break,
            }
        }
        self.frames = frames;
        (at, end)
    }

    /// Consumes what is pending, at most `most` messages. A large one at its start is not copied.
    fn feed_pending(&mut self, now: Time, id: ConnId, most: usize) {
        let Some(wire) = self.floor.wire(id) else { return };
        if wire.is_stopped() || wire.pending.len() < wire.need {
            return;
        }
        let mut buf = core::mem::take(&mut wire.pending);
        // What of it is consumed: nothing that is large is moved for what stood before it.
        let mut at = 0;
        let is_stomp = wire.talk().is_some();
        while !is_stomp && buf.len() - at >= LARGE_BODY {
            let mut frames = core::mem::take(&mut self.frames);
            let step = self.next(id, &mut buf[at..], &mut frames);
            match step {
                Some(Step::Message { len }) if len >= LARGE_BODY => {
                    self.take_large(now, id, buf, at, len, &frames, most);
                    self.frames = frames;
                    return;
                }
                Some(Step::Message { len }) => self.hand_back(id, len),
                Some(Step::Cut { len, event }) => {
                    buf.truncate(buf.len() - len);
                    self.on_zmtp(now, id, event);
                }
                Some(Step::Skip { len, event }) => {
                    at += len;
                    self.on_zmtp(now, id, event);
                }
                Some(Step::More { .. }) | None => {}
            }
            self.frames = frames;
            match step {
                Some(Step::Message { .. }) => break,
                Some(Step::Skip { .. } | Step::Cut { .. })
                    if self.floor.wire(id).is_some_and(|wire| !wire.is_stopped()) => {}
                Some(Step::Skip { .. } | Step::Cut { .. } | Step::More { .. }) | None => {
                    if let Some(wire) = self.floor.wire(id).filter(|wire| !wire.closing) {
                        buf.drain(..at);
                        wire.pending = buf;
                    }
                    return;
                }
            }
        }
        buf.drain(..at);
        let (start, end) = self.feed(now, id, &mut buf, most);
        if let Some(wire) = self.floor.wire(id).filter(|wire| !wire.closing) {
            buf.truncate(end);
            buf.drain(..start);
            wire.pending = if buf.is_empty() { Vec::new() } else { buf };
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a place in a buffer, and how far to go on")]
    /// Takes in the large message of `len` octets at `at`, sharing the memory it was read into, and
    /// what is behind it.
    fn take_large(
        &mut self,
        now: Time,
        id: ConnId,
        mut buf: Vec<u8>,
        at: usize,
        len: usize,
        frames: &Frames,
        most: usize,
    ) {
        let mut rest = buf.split_off(at + len);
        let whole = Bytes::from(buf).slice(at..);
        if let Some(wire) = self.floor.wire(id) {
            wire.note_message(now, len);
        }
        let message = frames.view(&whole);
        let taken = self.on_message(now, id, &message, Some(&whole));
        if !taken {
            self.hand_back(id, len);
            let mut again = Vec::from(whole);
            again.append(&mut rest);
            rest = again;
        }
        let Some(wire) = self.floor.wire(id).filter(|wire| !wire.closing) else { return };
        wire.pending = rest;
        if taken && most > 1 && !wire.pending.is_empty() {
            self.feed_pending(now, id, most - 1);
        }
    }

    /// A message stays where it is, to be looked at again.
    fn hand_back(&mut self, id: ConnId, len: usize) {
        if let Some(zmtp) = self.floor.wire(id).and_then(Wire::zmtp) {
            zmtp.hand_back(len);
        }
    }

    /// The next item; `None` if the peer broke the protocol.
    fn next(&mut self, id: ConnId, buf: &mut [u8], frames: &mut Frames) -> Option<Step> {
        let wire = self.floor.wire(id)?;
        let Codec::Zmtp(zmtp) = &mut wire.codec else { return None };
        let door = &self.doors[usize::from(wire.dialect.door)];
        let step = zmtp.next(door, buf, frames, wire.outbox.small());
        self.settle_step(id, step)
    }

    /// After the codec said what comes next: whatever is not a message may have made it write, or
    /// ended the connection.
    fn settle_step(&mut self, id: ConnId, step: Result<Step, zmtp::Error>) -> Option<Step> {
        let wire = self.floor.wire(id)?;
        wire.need = match step {
            Ok(Step::More { need }) => need,
            Ok(_) | Err(_) => 0,
        };
        // PONG, READY and ERROR are written by the codec itself.
        if !wire.outbox.is_empty() {
            self.floor.touch(id);
            self.floor.check_outbox(id);
        }
        match step {
            Ok(step) => Some(step),
            Err(error) => {
                self.turn_out(id, &error);
                None
            }
        }
    }

    fn on_zmtp(&mut self, now: Time, id: ConnId, event: Option<zmtp::Event>) {
        let beat = now + self.floor.rhythm(id).0;
        let Some(wire) = self.floor.wire(id) else { return };
        match event {
            Some(zmtp::Event::Work) => self.queue_work(id),
            Some(zmtp::Event::Claim) => self.on_claim(now, id),
            Some(zmtp::Event::Ready) => {
                wire.begin_sealing();
                wire.next_beat = beat;
                self.floor.arm(id, beat);
            }
            Some(zmtp::Event::Ping { ttl_deciseconds }) => {
                wire.ttl = match ttl_deciseconds {
                    0 => Span::MAX,
                    ds => Span::from_millis(i64::from(ds) * 100),
                };
                let due = now + wire.ttl;
                self.floor.arm(id, due);
            }
            Some(zmtp::Event::Pong) | None => {}
        }
    }

    /// Takes in one message. `false` if it must wait: the connection is paused, and the message is
    /// to be given again.
    fn on_message(
        &mut self,
        now: Time,
        id: ConnId,
        message: &Message<'_>,
        whole: Option<&Bytes>,
    ) -> bool {
        self.floor.counters.messages += 1;
        let Some(wire) = self.floor.wire(id) else { return true };
        match wire.dialect.speaks {
            Speaks::Majordomo => {}
            Speaks::PirateFront(pair) => {
                return self.on_pirate_client(now, id, pair, message, whole);
            }
            Speaks::PirateBack(pair) => {
                self.on_pirate_worker(now, id, pair, message, whole);
                return true;
            }
            Speaks::Stomp => return true,
        }
        match mdp::read(message) {
            Word::Request { version, header, service, body } => {
                self.on_request(now, id, message, whole, version, header, service, body)
            }
            Word::Worker { version, delimiter, word } => {
                let Some(wire) = self.floor.wire(id) else { return true };
                wire.tongue = Tongue::Mdp { version, delimiter };
                self.on_worker(now, id, message, whole, word);
                true
            }
            Word::Garbage(why) => {
                self.floor.garbage(id, why);
                true
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one word, taken apart once")]
    fn on_request(
        &mut self,
        now: Time,
        id: ConnId,
        message: &Message<'_>,
        whole: Option<&Bytes>,
        version: Version,
        header: usize,
        service: &[u8],
        body: usize,
    ) -> bool {
        if service.is_empty() || service.len() > self.floor.config.limits.name_bytes {
            self.floor.garbage(id, "a service name that is empty or too long");
            return true;
        }
        let titanic = self.floor.config.titanic;
        let Some(wire) = self.floor.wire(id) else { return true };
        let service_frame = version == Version::V01 || wire.dialect.mdp02_service_frame;
        let tag = Tag { version, service_frame, mmi: None };
        let stack = message.raw_between(0, header);
        if errand::is_errand(service, titanic) {
            self.on_errand(id, message, whole, tag, stack, service, body);
            return true;
        }
        if mdp::is_reserved(service) {
            wire.in_flight += 1;
            let principal = wire.principal;
            let most = message.len().min(body + meet::FRAMES_MAX);
            let frames: Vec<&[u8]> = (body..most).filter_map(|i| message.frame(i)).collect();
            self.on_own(now, id, principal, service, &frames, tag, stack);
            return true;
        }
        self.take_request(now, id, message, whole, Asker::Mdp(tag), header, service, body)
    }

    /// A request to a service that lives with the shell.
    #[expect(clippy::too_many_arguments, reason = "the parts of one word, taken apart once")]
    fn on_errand(
        &mut self,
        id: ConnId,
        message: &Message<'_>,
        whole: Option<&Bytes>,
        tag: Tag,
        stack: &[u8],
        service: &[u8],
        body: usize,
    ) {
        let Some(wire) = self.floor.wire(id) else { return };
        wire.in_flight += 1;
        let principal = wire.principal;
        let body = match whole {
            Some(whole) => whole.slice(message.raw_from_offset(body)..),
            None => Bytes::copy_from_slice(message.raw_from(body)),
        };
        let (envelope, service) = (Bytes::copy_from_slice(stack), Bytes::copy_from_slice(service));
        let from = Sender { conn: id, tag, envelope, service };
        self.floor.errands.push(Errand { from, principal, body });
    }

    /// Gives a request to the engine: the return stack is frames `..stack`, the body `body..`.
    /// `false` if it must wait.
    #[expect(clippy::too_many_arguments, reason = "the parts of one word, taken apart once")]
    fn take_request(
        &mut self,
        now: Time,
        id: ConnId,
        message: &Message<'_>,
        whole: Option<&Bytes>,
        asker: Asker,
        stack: usize,
        service: &[u8],
        body: usize,
    ) -> bool {
        let Some(wire) = self.floor.wire(id) else { return true };
        wire.in_flight += 1;
        let principal = wire.principal;
        let stack = message.raw_between(0, stack);
        let first_frame = message.frame(body).unwrap_or_default();
        let (payload, envelope, body_at) = match whole {
            Some(whole) => (whole.clone(), stack.len(), message.raw_from_offset(body)),
            None => {
                let body = message.raw_from(body);
                let mut payload = Vec::with_capacity(stack.len() + body.len());
                payload.extend_from_slice(stack);
                payload.extend_from_slice(body);
                (Bytes::from(payload), stack.len(), stack.len())
            }
        };
        let home = self.home_of(service);
        let request = Event::Request(Request {
            conn: id,
            principal,
            service: Blob::Slice(service),
            tag: asker.pack(),
            payload,
            envelope: envelope as u32,
            body_at: body_at as u32,
            since: now,
            when_full: WhenFull::Pause,
            needs_workers: false,
            first_frame: Blob::Slice(first_frame),
            fair_key: Blob::Slice(b""),
            whole_replies: asker.takes_only_whole(),
            detached: false,
        });
        self.route(now, id, home, request);
        match self.floor.wire(id) {
            Some(wire) if wire.paused & 1 << self.me != 0 && home == self.me => {
                wire.in_flight -= 1;
                false
            }
            Some(_) | None => true,
        }
    }

    /// Services of the broker itself. `body`: its first frames.
    #[expect(clippy::too_many_arguments, reason = "the parts of one word, taken apart once")]
    fn on_own(
        &mut self,
        now: Time,
        id: ConnId,
        principal: PrincipalId,
        service: &[u8],
        body: &[&[u8]],
        tag: Tag,
        envelope: &[u8],
    ) {
        let places = [Place::Match, Place::Regulator];
        let place = places.into_iter().find(|place| place.service().as_bytes() == service);
        let Some(place) = place else {
            let name = body.last().copied().unwrap_or_default();
            return self.on_mmi(now, id, service, name, tag, envelope);
        };
        let read = meet::read(place, body, self.read_rules).and_then(|word| {
            let most = self.floor.config.limits.name_bytes;
            let fits = (1..=most).contains(&word.name.as_slice().len());
            let fits = fits || !matches!(word.word, MeetWord::Declare(_));
            if fits { Ok(word) } else { Err(format!("a name has from 1 to {most} octets").into()) }
        });
        match read {
            Ok(word) if self.cancels_labelled(now, id, principal, &word) => {}
            Ok(word) => {
                let home = self.home_of(word.name.as_slice());
                let tag = Tag { mmi: Some(Mmi::Meet(place)), ..tag }.pack();
                let envelope = Blob::Slice(envelope);
                self.route(now, id, home, Event::Meet { conn: id, principal, tag, envelope, word });
            }
            Err(why) => {
                let frames = [meet::BAD_REQUEST, why.as_bytes()];
                self.floor.answer(id, tag, envelope, service, &frames);
            }
        }
    }

    /// RFC 8: services of the broker itself.
    fn on_mmi(
        &mut self,
        now: Time,
        id: ConnId,
        service: &[u8],
        name: &[u8],
        tag: Tag,
        envelope: &[u8],
    ) {
        let is_own = errand::is_errand(name, self.floor.config.titanic);
        let mmi = match service {
            b"mmi.service" if is_own => {
                return self.floor.answer(id, tag, envelope, service, &[b"200"]);
            }
            b"mmi.service" => Mmi::Service,
            b"mmi.workers" => Mmi::Workers,
            b"mmi.heartbeat" => {
                let interval = self.floor.config.heartbeat.as_millis().to_string();
                let liveness = self.floor.config.liveness.to_string();
                let frames = [interval.as_bytes(), liveness.as_bytes()];
                return self.floor.answer(id, tag, envelope, service, &frames);
            }
            _ => return self.floor.answer(id, tag, envelope, service, &[b"501"]),
        };
        let tag = Tag { mmi: Some(mmi), ..tag }.pack();
        let (service, envelope) = (Blob::Slice(name), Blob::Slice(envelope));
        let home = self.home_of(name);
        self.route(now, id, home, Event::Count { conn: id, service, tag, envelope });
    }

    /// What a worker said, by what the connection is:
    ///
    /// | | READY | REPLY | HEARTBEAT | DISCONNECT | a broker's word |
    /// |---|---|---|---|---|---|
    /// | fresh | serves | go | go | left | go |
    /// | serving | go | settles | lives | left | go |
    /// | expired | serves | go | go | left | go |
    /// | dismissed | serves | – | – | left | – |
    /// | left | serves | – | – | – | – |
    ///
    /// "go" is DISCONNECT, once, then silence (RFC 7).
    fn on_worker(
        &mut self,
        now: Time,
        id: ConnId,
        message: &Message<'_>,
        whole: Option<&Bytes>,
        word: WorkerWord<'_>,
    ) {
        let Some(wire) = self.floor.wire(id) else { return };
        match (&mut wire.role, word) {
            (Role::Serving(serving), WorkerWord::Reply { request, body, last }) => {
                serving.last_word = now;
                serving.held -= u32::from(last && serving.held > 0);
                let failed = message.frame(body) == Some(FAILED);
                let home = serving.home;
                let body = match whole {
                    Some(whole) => Blob::Shared(whole.slice(message.raw_from_offset(body)..)),
                    None => Blob::Slice(message.raw_from(body)),
                };
                let Some(request) = request else {
                    self.send_away(now, id, "a reply without a valid address");
                    return;
                };
                let reply = Event::Reply { conn: id, request, body, last, failed };
                self.route(now, id, home, reply);
            }
            (Role::Serving(serving), WorkerWord::Heartbeat) => serving.last_word = now,
            (Role::Serving(_), WorkerWord::Disconnect) => {
                self.floor.notes.push(Note::WorkerLeft(id));
                self.withdraw(now, id, Role::Left);
            }
            (Role::Serving(_), WorkerWord::Ready { .. }) => {
                self.send_away(now, id, "a second READY");
            }
            (Role::Serving(_), WorkerWord::Misuse) => {
                self.send_away(now, id, "a command only the broker may say");
            }
            (Role::Dismissed(Some(_)), _) => {}
            (
                Role::Fresh | Role::Expired | Role::Dismissed(None) | Role::Left,
                WorkerWord::Ready { service, options },
            ) => {
                let concurrency = mdp::read_concurrency(message, options);
                self.on_ready(now, id, service, concurrency);
            }
            (Role::Fresh | Role::Expired | Role::Dismissed(None), WorkerWord::Disconnect) => {
                wire.role = Role::Left;
            }
            (Role::Fresh | Role::Expired, WorkerWord::Reply { .. }) => {
                self.floor.dismiss(now, id, "a reply before READY");
            }
            (Role::Fresh | Role::Expired, WorkerWord::Heartbeat) => {
                self.floor.dismiss(now, id, "a heartbeat before READY");
            }
            (Role::Fresh | Role::Expired, WorkerWord::Misuse) => {
                self.floor.dismiss(now, id, "a command only the broker may say");
            }
            (
                Role::Dismissed(None) | Role::Left,
                WorkerWord::Reply { .. }
                | WorkerWord::Heartbeat
                | WorkerWord::Disconnect
                | WorkerWord::Misuse,
            ) => {}
        }
    }

    fn on_ready(&mut self, now: Time, id: ConnId, service: &[u8], concurrency: u32) {
        if mdp::is_reserved(service) || errand::is_errand(service, self.floor.config.titanic) {
            return self.floor.dismiss(now, id, "a reserved service name");
        }
        if service.is_empty() || service.len() > self.floor.config.limits.name_bytes {
            return self.floor.dismiss(now, id, "a service name that is empty or too long");
        }
        let home = self.home_of(service);
        let seats = concurrency.clamp(1, self.floor.config.engine.concurrency_max);
        let beat = now + self.floor.rhythm(id).0;
        let Some(wire) = self.floor.wire(id) else { return };
        let term = wire.terms;
        wire.terms = term.wrapping_add(1);
        wire.role = Role::Serving(Serving { home, term, seats, held: 0, last_word: now });
        wire.next_beat = wire.next_beat.min(beat);
        let name = Bytes::copy_from_slice(service);
        let (remote, principal) = (wire.remote, wire.principal);
        self.floor.arm(id, beat);
        self.floor.notes.push(Note::WorkerJoined(id, remote, name, seats));
        let offer =
            Event::Offer { conn: id, principal, service: Blob::Slice(service), concurrency: seats };
        if home == self.me {
            return self.route(now, id, home, offer);
        }
        *self.floor.known_to(id) |= 1 << home;
        self.floor.cross.push((home, Cross::Offer(term, offer.into_static())));
    }

    /// A registered worker did something it must not: it is told to go, and what it holds goes to
    /// others.
    fn send_away(&mut self, now: Time, id: ConnId, why: &'static str) {
        self.withdraw(now, id, Role::Dismissed(None));
        self.floor.dismiss(now, id, why);
    }

    fn withdraw(&mut self, now: Time, id: ConnId, role: Role) {
        let Some(wire) = self.floor.wire(id) else { return };
        let Some(home) = wire.serving().map(|serving| serving.home) else { return };
        (wire.role, wire.last_use) = (role, now);
        self.route(now, id, home, Event::Withdraw { conn: id });
    }

    /// Gives an event to the engine of the shard where its service lives.
    fn route(&mut self, now: Time, id: ConnId, home: u8, event: Event<'_>) {
        *self.floor.known_to(id) |= 1 << home;
        if home == self.me {
            self.floor.now = now;
            self.engine.step(now, event, &mut self.floor);
        } else {
            self.floor.cross.push((home, Cross::Event(event.into_static())));
        }
    }

    /// A request of another shard's connection: when there is no room it is parked here, because
    /// its own shard has already consumed it.
    fn request_from_afar(&mut self, now: Time, request: Request<'static>) {
        let conn = request.conn;
        if let Some(parked) = self.parked.get_mut(&conn) {
            return parked.push_back(request);
        }
        let spare = request.clone();
        self.engine.step(now, Event::Request(request), &mut self.floor);
        if self.floor.paused_afar.contains(&conn) {
            self.parked.entry(conn).or_default().push_back(spare);
        }
        for to in core::mem::take(&mut self.floor.paused_afar) {
            self.floor.cross.push((to.shard(), Cross::Pause(to, self.me)));
        }
    }

    /// There is room for a connection of another shard: its parked requests first.
    fn resume_from_afar(&mut self, now: Time, conn: ConnId) {
        let mut parked = self.parked.remove(&conn).unwrap_or_default();
        while let Some(request) = parked.pop_front() {
            let spare = request.clone();
            self.engine.step(now, Event::Request(request), &mut self.floor);
            if core::mem::take(&mut self.floor.paused_afar).contains(&conn) {
                parked.push_front(spare);
                self.parked.insert(conn, parked);
                return;
            }
        }
        self.floor.cross.push((conn.shard(), Cross::Resume(conn, self.me)));
    }

    fn on_timer(&mut self, now: Time, id: ConnId) {
        let limits = self.floor.config.limits;
        let Some(wire) = self.floor.wire(id) else { return };
        wire.armed = Time::MAX;
        if wire.closing {
            return;
        }
        if wire.is_through() && wire.talk().is_some() {
            return self.on_stomp_timer(now, id);
        }
        if !wire.is_through() {
            let due = wire.opened + limits.handshake;
            if due <= now {
                return self.floor.die(id, CloseReason::Handshake);
            }
            return self.floor.arm(id, due);
        }
        if wire.paused != 0 {
            wire.excuse(now);
        }
        if wire.last_seen + wire.ttl <= now {
            return self.floor.die(id, CloseReason::PeerTtl);
        }
        if wire.is_idle() && wire.last_use + limits.idle <= now {
            return self.floor.die(id, CloseReason::Idle);
        }
        if let Role::Dismissed(Some(at)) = wire.role
            && at <= now
        {
            self.floor.say_disconnect(id);
        }
        self.beat(now, id);
        let Some(wire) = self.floor.wire(id) else { return };
        let mut due = wire.next_beat.min(wire.last_seen + wire.ttl);
        if let Role::Dismissed(Some(at)) = wire.role {
            due = due.min(at);
        }
        self.floor.arm(id, due);
    }

    /// PING to peers that hold a lease or were quiet; heartbeats to idle workers, and the end of
    /// those that were silent too long.
    fn beat(&mut self, now: Time, id: ConnId) {
        let (interval, liveness) = self.floor.rhythm(id);
        let Some(wire) = self.floor.wire(id).filter(|wire| wire.next_beat <= now) else { return };
        wire.next_beat = now + interval;
        let quiet = now - wire.last_seen >= interval;
        let pings = wire.pings() && (quiet || wire.holds());
        if pings && wire.unanswered >= liveness {
            return self.floor.die(id, CloseReason::Dead);
        }
        let (tongue, role) = (wire.tongue, wire.role);
        if pings {
            wire.unanswered += 1;
            if let Some(wire) = self.floor.touch(id) {
                zmtp::put_ping(wire.outbox.small(), 0, b"");
            }
        }
        let Role::Serving(serving) = role else { return };
        if serving.held == 0 && now - serving.last_word >= interval.times(i64::from(liveness)) {
            self.floor.counters.expiries += 1;
            self.floor.notes.push(Note::WorkerExpired(id));
            self.withdraw(now, id, Role::Expired);
        } else if serving.held < serving.seats
            && let Some(wire) = self.floor.touch(id)
        {
            tongue.put_heartbeat(wire.outbox.small());
        }
    }

    /// Tells every engine that knows a connection that it ended.
    fn tell_gone(&mut self, now: Time, id: ConnId) {
        let known_to = core::mem::take(self.floor.known_to(id));
        for home in (0..self.shards).filter(|home| known_to & 1 << home != 0) {
            if home == self.me {
                self.floor.now = now;
                self.engine.step(now, Event::Gone { conn: id }, &mut self.floor);
            } else {
                self.floor.cross.push((home, Cross::Event(Event::Gone { conn: id })));
            }
        }
    }

    /// Ends a connection for the engine; its slot lives until the shell has closed the socket.
    fn part(&mut self, now: Time, id: ConnId, reason: CloseReason) {
        let Some(wire) = self.floor.wire(id) else { return };
        if wire.parted {
            return;
        }
        wire.parted = true;
        wire.closing = true;
        wire.pending = Vec::new();
        self.abandoned += usize::from(wire.awaits_work());
        let remote = wire.remote;
        self.floor.notes.push(Note::Closed(id, remote, reason));
        self.tell_gone(now, id);
        self.end_subscriptions(now, id);
    }

    /// Carries out what the steps before left to do: closings, and pauses that ended.
    fn settle(&mut self, now: Time) {
        loop {
            if let Some((id, reason)) = self.floor.dying.pop() {
                if self.floor.wire(id).is_some_and(|wire| !wire.parted) {
                    self.part(now, id, reason);
                    self.closing.push(id);
                }
            } else if let Some(id) = self.floor.resumed.pop_front() {
                if let Some(wire) = self.floor.wire(id) {
                    wire.need = 0;
                    // The room kept for the message in hand must not wait for other shards.
                    let elsewhere = core::mem::take(&mut wire.paused);
                    let most = if elsewhere == 0 { usize::MAX } else { 1 };
                    self.feed_pending(now, id, most);
                    if let Some(wire) = self.floor.wire(id) {
                        wire.paused |= elsewhere;
                    }
                    if self.floor.wire(id).is_some_and(|wire| !wire.is_held()) {
                        self.readable.push(id);
                    }
                }
            } else if let Some((seat, request)) = self.floor.settled.pop_front() {
                self.settle_written(now, seat, request);
            } else if let Some(conn) = self.floor.resumed_afar.pop_front() {
                self.resume_from_afar(now, conn);
            } else {
                return;
            }
        }
    }
}
