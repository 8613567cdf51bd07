//! The connections of one shard, and what the engine's effects do to them.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

use bytes::Bytes;
use engine::{
    Blob, ConnId, Effect, Event, Expulsion, Met, Out, Place, PlaceChange, PrincipalId, Reason,
    RequestId, Span, Time, Wheel,
};
use zmtp::put_frame;

use crate::LARGE_BODY;
use crate::config::{ShardConfig, Speaks};
use crate::errand::Errand;
use crate::mdp::{Mmi, REFUSED, Tag};
use crate::meet;
use crate::shard::{Counters, Guest};
use crate::strikes::Strikes;
use crate::tongue::{Asker, Tongue};
use crate::topics::Topics;
use crate::wire::{Partial, Role, Wire};

mod stomp;

/// Buffers kept for connections that write again.
const SPARE_BUFFERS: usize = 256;
/// A buffer that grew larger goes back to the allocator.
const SPARE_CAPACITY: usize = 64 * 1024;

/// Why a connection was closed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CloseReason {
    /// The peer closed it, or the network did.
    Ended,
    /// The peer broke ZMTP or a limit of it, or what the shell speaks below it; the label is
    /// stable, the text is for people.
    Zmtp(&'static str, String),
    /// The peer broke STOMP, or asked for what it may not have or there is not.
    Stomp(&'static str, String),
    /// The handshake took too long.
    Handshake,
    /// It did not answer PING.
    Dead,
    /// The peer's own PING asked to be given up after such silence.
    PeerTtl,
    /// It said nothing, served nothing and waited for nothing.
    Idle,
    /// It did not read what was written to it.
    SlowReader,
    /// Too many messages made no sense.
    Garbage,
    /// Too many handshakes waited to be computed.
    Crowded,
    /// What it proved its name with is no longer good.
    Revoked,
    /// The broker is shutting down.
    Shutdown,
}

impl CloseReason {
    /// The label used in metrics and logs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            CloseReason::Ended => "ended",
            CloseReason::Zmtp(kind, _) | CloseReason::Stomp(kind, _) => kind,
            CloseReason::Handshake => "handshake_timeout",
            CloseReason::Dead => "dead",
            CloseReason::PeerTtl => "peer_ttl",
            CloseReason::Idle => "idle",
            CloseReason::SlowReader => "slow_reader",
            CloseReason::Garbage => "garbage",
            CloseReason::Crowded => "too_many_handshakes",
            CloseReason::Revoked => "revoked",
            CloseReason::Shutdown => "shutdown",
        }
    }
}

/// What became of a local call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Answered: the frames of the body as they stand on a ZMTP wire.
    Reply(Vec<u8>),
    /// Refused.
    Refused(Reason),
}

/// Something worth a log line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Note {
    /// A worker offered itself.
    WorkerJoined(ConnId, Option<SocketAddr>, Bytes, u32),
    /// A worker said goodbye.
    WorkerLeft(ConnId),
    /// An idle worker was silent too long.
    WorkerExpired(ConnId),
    /// A worker was put out, and for what.
    WorkerDismissed(ConnId, &'static str),
    /// A connection was closed.
    Closed(ConnId, Option<SocketAddr>, CloseReason),
    /// A connection asked for a service it may not call; said once of each connection.
    Denied(ConnId, Option<SocketAddr>, PrincipalId, Bytes),
    /// A message made no sense.
    Garbage(ConnId, &'static str),
    /// A service's alarm changes: its name, whether it is raised, how long the oldest waits.
    Alarm(Bytes, bool, Span),
    /// A named place was started, changed or stopped.
    Place(Place, Bytes, PlaceChange),
    /// The last request ended after a drain began.
    Drained,
}

impl Note {
    /// What the house hears of an effect that is for nobody in particular.
    fn from_effect(effect: &Effect<'_>) -> Option<Note> {
        if let Effect::Alarm { service, raised, oldest } = effect {
            Some(Note::Alarm(Bytes::copy_from_slice(service), *raised, *oldest))
        } else if let Effect::Place { place, name, change } = effect {
            Some(Note::Place(*place, Bytes::copy_from_slice(name), *change))
        } else {
            matches!(effect, Effect::Drained).then_some(Note::Drained)
        }
    }
}

/// What crosses from one shard to another.
#[derive(Clone, Debug)]
pub enum Cross {
    /// For the engine of the shard where a service lives.
    Event(Event<'static>),
    /// As above, an offer: which term of its connection as a worker begins.
    Offer(u32, Event<'static>),
    /// For a worker: term, and what it is given.
    Deliver(ConnId, u32, Given<'static>),
    /// For a client: home, request, tag, envelope, service, body, whether last. Requests of
    /// different homes may have the same id.
    Reply(ConnId, u8, RequestId, u64, Bytes, Bytes, Bytes, bool),
    /// For a client: home, request, tag, envelope, service, reason, whether to answer in band.
    Refuse(ConnId, u8, Option<RequestId>, u64, Bytes, Bytes, Reason, bool),
    /// For a client: home, request; forget partial replies.
    Restart(ConnId, u8, RequestId),
    /// For a client: tag, envelope, workers.
    Count(ConnId, u64, Bytes, u32),
    /// For a client: tag, envelope, answer.
    Met(ConnId, u64, Bytes, Met<'static>),
    /// For a worker: term, reason.
    Expel(ConnId, u32, Expulsion),
    /// For whoever listens to a topic: its destination, headers, body.
    Publish(Bytes, Bytes, Bytes),
    /// For any connection: home; there is no room for its request, stop reading it.
    Pause(ConnId, u8),
    /// For any connection: home; there is room again.
    Resume(ConnId, u8),
}

/// A request as a worker is given it.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    pub(crate) request: RequestId,
    pub(crate) tag: u64,
    pub(crate) payload: Cow<'a, Bytes>,
    pub(crate) envelope: u32,
    pub(crate) body_at: u32,
    pub(crate) delivery: u32,
}

impl Cross {
    fn from_effect(home: u8, term: u32, effect: Effect<'_>) -> Option<Cross> {
        Some(match effect {
            Effect::Deliver { to, request, tag, payload, envelope, body_at, delivery } => {
                let payload = Cow::Owned(payload.clone());
                let given = Given { request, tag, payload, envelope, body_at, delivery };
                Cross::Deliver(to, term, given)
            }
            Effect::Reply { to, request, tag, envelope, service, body, last } => Cross::Reply(
                to,
                home,
                request,
                tag,
                Bytes::copy_from_slice(envelope),
                Bytes::copy_from_slice(service),
                body.into_bytes(),
                last,
            ),
            Effect::Refuse { to, request, tag, envelope, service, reason, answer } => {
                Cross::Refuse(
                    to,
                    home,
                    request,
                    tag,
                    Bytes::copy_from_slice(envelope),
                    Bytes::copy_from_slice(service),
                    reason,
                    answer,
                )
            }
            Effect::Restart { to, request } => Cross::Restart(to, home, request),
            Effect::Count { to, tag, envelope, workers } => {
                Cross::Count(to, tag, Bytes::copy_from_slice(envelope), workers)
            }
            Effect::Met { to, tag, envelope, answer } => {
                Cross::Met(to, tag, Bytes::copy_from_slice(envelope), answer.into_static())
            }
            Effect::Expel { to, why } => Cross::Expel(to, term, why),
            Effect::Pause { to } => Cross::Pause(to, home),
            Effect::Resume { to } => Cross::Resume(to, home),
            Effect::Alarm { .. } | Effect::Place { .. } | Effect::Drained => return None,
        })
    }

    /// The worker and the term it is meant for, if it is for a worker.
    pub(crate) fn term(&self) -> Option<(ConnId, u32)> {
        match self {
            Cross::Deliver(to, term, ..) | Cross::Expel(to, term, _) => Some((*to, *term)),
            Cross::Event(_)
            | Cross::Offer(..)
            | Cross::Reply(..)
            | Cross::Refuse(..)
            | Cross::Restart(..)
            | Cross::Count(..)
            | Cross::Met(..)
            | Cross::Publish(..)
            | Cross::Pause(..)
            | Cross::Resume(..) => None,
        }
    }

    /// Hands the effect that crossed to `f`, with the shard whose engine named its request. An
    /// event is not an effect, and neither is what concerns topics.
    pub(crate) fn with_effect(self, f: impl FnOnce(u8, Effect<'_>)) {
        match self {
            Cross::Event(_) | Cross::Offer(..) | Cross::Publish(..) => {}
            Cross::Deliver(to, _, given) => {
                let Given { request, tag, payload, envelope, body_at, delivery } = given;
                let payload = &*payload;
                let effect =
                    Effect::Deliver { to, request, tag, payload, envelope, body_at, delivery };
                f(to.shard(), effect);
            }
            Cross::Reply(to, home, request, tag, envelope, service, body, last) => {
                let (envelope, service, body) = (&envelope, &service, Blob::Shared(body));
                f(home, Effect::Reply { to, request, tag, envelope, service, body, last });
            }
            Cross::Refuse(to, home, request, tag, envelope, service, reason, answer) => {
                let (envelope, service) = (&envelope, &service);
                f(home, Effect::Refuse { to, request, tag, envelope, service, reason, answer });
            }
            Cross::Restart(to, home, request) => f(home, Effect::Restart { to, request }),
            Cross::Count(to, tag, envelope, workers) => {
                let envelope = &envelope;
                f(to.shard(), Effect::Count { to, tag, envelope, workers });
            }
            Cross::Met(to, tag, envelope, answer) => {
                let envelope = &envelope;
                f(to.shard(), Effect::Met { to, tag, envelope, answer });
            }
            Cross::Expel(to, _, why) => f(to.shard(), Effect::Expel { to, why }),
            Cross::Pause(to, home) => f(home, Effect::Pause { to }),
            Cross::Resume(to, home) => f(home, Effect::Resume { to }),
        }
    }
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    conn: Conn,
}

#[derive(Debug)]
enum Conn {
    Free,
    Wire(Box<Wire>),
    Local(Local),
    Seat(Seat),
}

/// What stands for one subscription of a STOMP connection towards the engine, as if it were a
/// connection of its own: a worker serves one service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) owner: ConnId,
    /// Which of its subscriptions.
    pub(crate) sub: u32,
    known_to: u64,
}

/// A call from inside the process, such as an HTTP request.
#[derive(Debug, Default)]
pub(crate) struct Local {
    partial: Partial,
    pub(crate) known_to: u64,
    pub(crate) guest: Option<Box<Guest>>,
}

/// All connections of one shard.
#[derive(Debug)]
pub(crate) struct Floor {
    me: u8,
    slots: Vec<Slot>,
    free: Vec<u32>,
    pub(crate) config: ShardConfig,
    /// Each entry with the time it was armed for: a wire that was armed anew ignores the old.
    pub(crate) wheel: Wheel<(ConnId, Time)>,
    pub(crate) now: Time,
    pub(crate) counters: Counters,
    pub(crate) strikes: Strikes,
    spare: Vec<Vec<u8>>,
    pub(crate) touched: Vec<ConnId>,
    pub(crate) dying: Vec<(ConnId, CloseReason)>,
    /// In the order in which they were held back.
    pub(crate) resumed: VecDeque<ConnId>,
    pub(crate) outcomes: Vec<(ConnId, Outcome)>,
    pub(crate) cross: Vec<(u8, Cross)>,
    pub(crate) notes: Vec<Note>,
    pub(crate) errands: Vec<Errand>,
    /// The last term of each worker of another shard.
    pub(crate) terms: BTreeMap<ConnId, u32>,
    /// Connections of other shards that an event was just refused room for.
    pub(crate) paused_afar: Vec<ConnId>,
    /// Connections of other shards there is room for, in the order in which they were held back.
    pub(crate) resumed_afar: VecDeque<ConnId>,
    /// Messages of queues that are done because they were written.
    pub(crate) settled: VecDeque<(ConnId, RequestId)>,
    pub(crate) topics: Topics,
}

impl Floor {
    pub(crate) fn new(config: ShardConfig, me: u8, now: Time) -> Floor {
        Floor {
            me,
            slots: Vec::new(),
            free: Vec::new(),
            config,
            wheel: Wheel::new(now),
            now,
            counters: Counters::default(),
            strikes: Strikes::default(),
            spare: Vec::new(),
            touched: Vec::new(),
            dying: Vec::new(),
            resumed: VecDeque::new(),
            outcomes: Vec::new(),
            cross: Vec::new(),
            notes: Vec::new(),
            errands: Vec::new(),
            terms: BTreeMap::new(),
            paused_afar: Vec::new(),
            resumed_afar: VecDeque::new(),
            settled: VecDeque::new(),
            topics: Topics::default(),
        }
    }

    pub(crate) fn insert_wire(&mut self, wire: Wire) -> ConnId {
        self.counters.connections += 1;
        self.counters.accepted += 1;
        self.insert(Conn::Wire(Box::new(wire)))
    }

    pub(crate) fn insert_local(&mut self, guest: Option<Box<Guest>>) -> ConnId {
        self.insert(Conn::Local(Local { guest, ..Local::default() }))
    }

    pub(crate) fn insert_seat(&mut self, owner: ConnId, sub: u32) -> ConnId {
        self.insert(Conn::Seat(Seat { owner, sub, known_to: 0 }))
    }

    fn insert(&mut self, conn: Conn) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, conn: Conn::Free });
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        place.conn = conn;
        ConnId::new(self.me, slot, place.generation)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot.conn, Conn::Free))
    }

    pub(crate) fn remove(&mut self, id: ConnId) {
        let Some(slot) = self.slots.get_mut(id.slot() as usize) else { return };
        if slot.generation != id.generation() || matches!(slot.conn, Conn::Free) {
            return;
        }
        if let Conn::Wire(_) = slot.conn {
            self.counters.connections -= 1;
        }
        slot.conn = Conn::Free;
        slot.generation = (slot.generation + 1) % ConnId::GENERATIONS;
        self.free.push(id.slot());
    }

    pub(crate) fn wire(&mut self, id: ConnId) -> Option<&mut Wire> {
        let slot = self.slots.get_mut(id.slot() as usize)?;
        match &mut slot.conn {
            Conn::Wire(wire) if slot.generation == id.generation() && id.shard() == self.me => {
                Some(wire)
            }
            Conn::Wire(_) | Conn::Local(_) | Conn::Seat(_) | Conn::Free => None,
        }
    }

    /// A connection, and the rules it is under.
    pub(crate) fn wire_and_config(&mut self, id: ConnId) -> Option<(&mut Wire, &ShardConfig)> {
        let slot = self.slots.get_mut(id.slot() as usize)?;
        match &mut slot.conn {
            Conn::Wire(wire) if slot.generation == id.generation() && id.shard() == self.me => {
                Some((wire, &self.config))
            }
            Conn::Wire(_) | Conn::Local(_) | Conn::Seat(_) | Conn::Free => None,
        }
    }

    pub(crate) fn seat(&self, id: ConnId) -> Option<Seat> {
        let slot = self.slots.get(id.slot() as usize)?;
        match &slot.conn {
            Conn::Seat(seat) if slot.generation == id.generation() && id.shard() == self.me => {
                Some(*seat)
            }
            Conn::Wire(_) | Conn::Local(_) | Conn::Seat(_) | Conn::Free => None,
        }
    }

    /// The connection that `id` stands for, or `id` itself.
    pub(crate) fn owner_of(&self, id: ConnId) -> ConnId {
        self.seat(id).map_or(id, |seat| seat.owner)
    }

    pub(crate) fn local(&mut self, id: ConnId) -> Option<&mut Local> {
        let slot = self.slots.get_mut(id.slot() as usize)?;
        match &mut slot.conn {
            Conn::Local(local) if slot.generation == id.generation() => Some(local),
            Conn::Wire(_) | Conn::Local(_) | Conn::Seat(_) | Conn::Free => None,
        }
    }

    pub(crate) fn look_at_wire(&self, id: ConnId) -> Option<&Wire> {
        let slot = self.slots.get(id.slot() as usize)?;
        match &slot.conn {
            Conn::Wire(wire) if slot.generation == id.generation() => Some(wire),
            Conn::Wire(_) | Conn::Local(_) | Conn::Seat(_) | Conn::Free => None,
        }
    }

    pub(crate) fn wires(&self) -> impl Iterator<Item = (ConnId, &Wire)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| match &slot.conn {
            Conn::Wire(wire) => Some((ConnId::new(self.me, i as u32, slot.generation), &**wire)),
            Conn::Local(_) | Conn::Seat(_) | Conn::Free => None,
        })
    }

    /// Interval and liveness of heartbeats towards a peer.
    pub(crate) fn rhythm(&self, id: ConnId) -> (Span, u32) {
        let speaks = self.look_at_wire(id).map(|wire| wire.dialect.speaks);
        self.config.rhythm(speaks.unwrap_or_default())
    }

    /// The shards that know a connection.
    pub(crate) fn known_to(&mut self, id: ConnId) -> &mut u64 {
        let slot = &mut self.slots[id.slot() as usize];
        match &mut slot.conn {
            Conn::Wire(wire) => &mut wire.known_to,
            Conn::Local(local) => &mut local.known_to,
            Conn::Seat(seat) => &mut seat.known_to,
            Conn::Free => unreachable!("asked for a connection in hand"),
        }
    }

    /// Whether a worker still serves its term.
    pub(crate) fn serves(&mut self, id: ConnId, term: u32) -> bool {
        if self.seat(id).is_some() {
            return true;
        }
        let serving = self.wire(id).and_then(Wire::serving);
        serving.is_some_and(|serving| serving.term == term)
    }

    /// Makes the wheel call for `id` at `due` at the latest.
    pub(crate) fn arm(&mut self, id: ConnId, due: Time) {
        let Some(wire) = self.wire(id) else { return };
        if due < wire.armed {
            wire.armed = due;
            self.wheel.insert(due, (id, due));
        }
    }

    /// Lends a buffer before something is written, and notes that there is something to flush.
    pub(crate) fn touch(&mut self, id: ConnId) -> Option<&mut Wire> {
        let slot = self.slots.get_mut(id.slot() as usize)?;
        let Conn::Wire(wire) = &mut slot.conn else { return None };
        if slot.generation != id.generation() || wire.closing {
            return None;
        }
        if !wire.touched {
            wire.touched = true;
            self.touched.push(id);
            if wire.outbox.is_empty()
                && let Some(buffer) = self.spare.pop()
            {
                wire.outbox.lend(buffer);
            }
        }
        Some(wire)
    }

    /// After a flush: a drained connection gives its buffer back.
    pub(crate) fn flushed(&mut self, id: ConnId, n: usize) {
        let quarter = self.config.limits.out_bytes / 4;
        let Some(wire) = self.wire(id) else { return };
        let written = match &mut wire.sealed {
            None => &mut wire.outbox,
            Some(sealed) => sealed,
        };
        written.advance(n);
        let left = written.len();
        let buffer = written.take_buffer();
        if wire.sealed.is_some() {
            // An idle connection owns no buffer.
            wire.outbox.take_buffer();
        }
        if let Some(talk) = wire.talk().filter(|_| left == 0) {
            let unsettled = core::mem::take(&mut talk.unsettled);
            self.settled.extend(unsettled);
        }
        let Some(wire) = self.wire(id) else { return };
        if wire.slow && wire.out_bytes() <= quarter {
            wire.slow = false;
            self.resumed.push_back(id);
        }
        if let Some(buffer) = buffer
            && self.spare.len() < SPARE_BUFFERS
            && buffer.capacity() <= SPARE_CAPACITY
        {
            self.spare.push(buffer);
        }
    }

    pub(crate) fn die(&mut self, id: ConnId, reason: CloseReason) {
        self.dying.push((id, reason));
    }

    /// Tells a worker to go, later if its address was told so often lately. Paranoid Pirate has no
    /// word for that: the worker hears nothing more, and starts anew when that has lasted.
    pub(crate) fn dismiss(&mut self, now: Time, id: ConnId, why: &'static str) {
        let Some(wire) = self.wire(id) else { return };
        wire.last_use = now;
        let (remote, has_word) = (wire.remote, wire.dialect.speaks == Speaks::Majordomo);
        self.counters.dismissals += 1;
        self.notes.push(Note::WorkerDismissed(id, why));
        let delay = match remote {
            Some(remote) if has_word => self.strikes.add(now, remote.ip()),
            Some(_) | None => Span::ZERO,
        };
        if delay == Span::ZERO {
            self.say_disconnect(id);
        } else if let Some(wire) = self.wire(id) {
            wire.role = Role::Dismissed(Some(now + delay));
            self.arm(id, now + delay);
        }
    }

    pub(crate) fn say_disconnect(&mut self, id: ConnId) {
        if let Some(wire) = self.touch(id) {
            wire.role = Role::Dismissed(None);
            wire.tongue.put_disconnect(wire.outbox.small());
        }
    }

    /// Counts a message that made no sense; too many end the connection.
    pub(crate) fn garbage(&mut self, id: ConnId, why: &'static str) {
        let limit = self.config.limits.garbage;
        self.counters.garbage += 1;
        let Some(wire) = self.wire(id) else { return };
        wire.garbage += 1;
        if wire.garbage == 1 {
            self.notes.push(Note::Garbage(id, why));
        } else if wire.garbage > limit {
            self.die(id, CloseReason::Garbage);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one effect, taken apart once")]
    fn on_reply(
        &mut self,
        to: ConnId,
        request: (u8, RequestId),
        tag: u64,
        envelope: &[u8],
        service: &[u8],
        body: &Blob<'_>,
        last: bool,
    ) {
        let limit = self.config.zmtp.message_bytes_max;
        if let Some(local) = self.local(to) {
            local.partial.add(body.as_slice(), limit);
            if last {
                let joined = core::mem::take(&mut local.partial).finish();
                let too_large = Outcome::Refused(Reason::WorkersFailed);
                self.outcomes.push((to, joined.map_or(too_large, Outcome::Reply)));
            }
            return;
        }
        let (asker, now) = (Asker::unpack(tag), self.now);
        if let Asker::Stomp { waits } = asker {
            return self.answer_stomp(to, request, waits, envelope, body, last);
        }
        let Some(wire) = self.touch(to) else { return };
        if last {
            wire.ended(now);
        }
        let whole = asker.takes_only_whole();
        if whole && (!last || wire.partials.iter().any(|(id, _)| *id == request)) {
            let Some(mut joined) = wire.join_partial(request, body.as_slice(), last, limit) else {
                return;
            };
            asker.put_reply_head(wire.outbox.small(), envelope, service, true);
            wire.outbox.small().append(&mut joined);
        } else {
            asker.put_reply_head(wire.outbox.small(), envelope, service, last);
            if body.as_slice().is_empty() {
                put_frame(wire.outbox.small(), false, b"");
            }
            wire.outbox.push_blob(body);
        }
        self.check_outbox(to);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one effect, taken apart once")]
    fn on_refuse(
        &mut self,
        to: ConnId,
        request: Option<(u8, RequestId)>,
        tag: u64,
        envelope: &[u8],
        service: &[u8],
        reason: Reason,
        answer: bool,
    ) {
        if self.local(to).is_some() {
            self.outcomes.push((to, Outcome::Refused(reason)));
            return;
        }
        let now = self.now;
        let asker = Asker::unpack(tag);
        let Some(wire) = self.wire(to) else { return };
        if asker != (Asker::Stomp { waits: false }) {
            wire.ended(now);
        }
        if reason == Reason::Denied && !wire.denied {
            wire.denied = true;
            let (remote, principal) = (wire.remote, wire.principal);
            let service = Bytes::copy_from_slice(service);
            self.notes.push(Note::Denied(to, remote, principal, service));
        }
        let Some(wire) = self.wire(to) else { return };
        if let Some(request) = request {
            wire.partials.retain(|(id, _)| *id != request);
        }
        if let Asker::Stomp { waits } = asker {
            self.refuse_stomp(to, waits, request.is_some(), envelope, service, reason);
        } else if answer && let Some(wire) = self.touch(to) {
            let small = wire.outbox.small();
            asker.put_reply_head(small, envelope, service, true);
            put_frame(small, true, REFUSED);
            put_frame(small, false, reason.as_str().as_bytes());
            self.check_outbox(to);
        }
    }

    fn on_count(&mut self, to: ConnId, tag: u64, envelope: &[u8], workers: u32) {
        let tag = Tag::unpack(tag);
        let Some(mmi) = tag.mmi else { return };
        let mut digits = [0u8; 10];
        let answer: &[u8] = match mmi {
            Mmi::Service if workers > 0 => b"200",
            Mmi::Service => b"404",
            Mmi::Workers => decimal(workers, &mut digits),
            Mmi::Meet(_) => return,
        };
        self.answer(to, tag, envelope, mmi.name(), &[answer]);
    }

    fn on_met(&mut self, to: ConnId, tag: u64, envelope: &[u8], answer: &Met<'_>) {
        let tag = Tag::unpack(tag);
        let Some(mmi) = tag.mmi else { return };
        self.note_guest(to, answer);
        meet::with_frames(answer, |frames| self.answer(to, tag, envelope, mmi.name(), frames));
    }

    /// An answer of the broker itself.
    pub(crate) fn answer(
        &mut self,
        to: ConnId,
        tag: Tag,
        envelope: &[u8],
        service: &[u8],
        frames: &[&[u8]],
    ) {
        let mut body = Vec::new();
        for (i, frame) in frames.iter().enumerate() {
            put_frame(&mut body, i + 1 < frames.len(), frame);
        }
        self.answer_raw(to, tag, envelope, service, body);
    }

    /// The same with a body that is written already. Whether anybody took it.
    pub(crate) fn answer_raw(
        &mut self,
        to: ConnId,
        tag: Tag,
        envelope: &[u8],
        service: &[u8],
        body: Vec<u8>,
    ) -> bool {
        let now = self.now;
        if self.local(to).is_some() {
            self.outcomes.push((to, Outcome::Reply(body)));
            return true;
        }
        let Some(wire) = self.touch(to) else { return false };
        wire.ended(now);
        Asker::Mdp(tag).put_reply_head(wire.outbox.small(), envelope, service, true);
        if body.len() < LARGE_BODY {
            wire.outbox.small().extend_from_slice(&body);
        } else {
            wire.outbox.push_blob(&Blob::Shared(body.into()));
        }
        self.check_outbox(to);
        true
    }

    fn on_deliver(&mut self, to: ConnId, given: &Given<'_>) {
        if let Some(seat) = self.seat(to) {
            return self.deliver_stomp(to, seat, given);
        }
        let Given { request, payload, body_at, .. } = given;
        let (request, body_at) = (*request, *body_at);
        let Some(wire) = self.touch(to) else { return };
        let tongue = wire.tongue;
        let Some(serving) = wire.serving() else { return };
        serving.held += 1;
        if let Tongue::Ppp(_) = tongue {
            debug_assert_eq!(serving.held, 1, "it takes one request at a time");
            wire.job = Some(request);
        }
        let small = wire.outbox.small();
        tongue.put_request_head(small, request);
        if payload.len() == body_at as usize {
            put_frame(small, false, b"");
        }
        wire.outbox.push_shared(payload, body_at as usize);
        self.check_outbox(to);
    }

    /// Does to a connection of this shard what the engine of shard `home` wants.
    pub(crate) fn carry_out(&mut self, home: u8, effect: Effect<'_>) {
        match effect {
            Effect::Deliver { to, request, tag, payload, envelope, body_at, delivery } => {
                let payload = Cow::Borrowed(payload);
                let given = Given { request, tag, payload, envelope, body_at, delivery };
                self.on_deliver(to, &given);
            }
            Effect::Reply { to, request, tag, envelope, service, body, last } => {
                self.on_reply(to, (home, request), tag, envelope, service, &body, last);
            }
            Effect::Refuse { to, request, tag, envelope, service, reason, answer } => {
                let request = request.map(|request| (home, request));
                self.on_refuse(to, request, tag, envelope, service, reason, answer);
            }
            Effect::Restart { to, request } => {
                if let Some(local) = self.local(to) {
                    local.partial = Partial::default();
                } else if let Some(wire) = self.wire(to) {
                    wire.partials.retain(|(id, _)| *id != (home, request));
                }
            }
            Effect::Count { to, tag, envelope, workers } => {
                self.on_count(to, tag, envelope, workers);
            }
            Effect::Met { to, tag, envelope, answer } => self.on_met(to, tag, envelope, &answer),
            Effect::Expel { to, why } => {
                let code = if why == Expulsion::Denied { "denied" } else { "dismissed" };
                let why = match why {
                    Expulsion::StrayReply => "a reply to a request it does not hold",
                    Expulsion::SecondOffer => "a second READY",
                    Expulsion::ExecutionLimit => "the execution limit",
                    Expulsion::TooManyServices => "too many services",
                    Expulsion::Denied => "it may not serve this service",
                };
                match self.seat(to) {
                    Some(seat) => self.dismiss_stomp(seat.owner, code, why),
                    None => self.dismiss(self.now, to, why),
                }
            }
            Effect::Pause { to } => {
                if let Some(wire) = self.wire(to) {
                    wire.paused |= 1 << home;
                }
            }
            Effect::Resume { to } => {
                if let Some(wire) = self.wire(to) {
                    wire.paused &= !(1 << home);
                    // What is in hand is for this shard, whatever others hold back.
                    if wire.paused == 0 || home == self.me {
                        self.resumed.push_back(to);
                    }
                }
            }
            Effect::Alarm { .. } | Effect::Place { .. } | Effect::Drained => {}
        }
    }

    /// A peer that does not read costs only itself.
    pub(crate) fn check_outbox(&mut self, id: ConnId) {
        let limit = self.config.limits.out_bytes;
        let Some(wire) = self.wire(id) else { return };
        let len = wire.out_bytes();
        if len > limit {
            self.die(id, CloseReason::SlowReader);
        } else if len > limit / 2 {
            wire.slow = true;
        }
    }
}

impl Out for Floor {
    #[inline]
    fn emit(&mut self, effect: Effect<'_>) {
        let Some(to) = effect.to() else {
            return self.notes.extend(Note::from_effect(&effect));
        };
        if to.shard() != self.me {
            if let Effect::Pause { to } = effect {
                self.paused_afar.push(to);
            } else if let Effect::Resume { to } = effect {
                self.resumed_afar.push_back(to);
            } else {
                let term = self.terms.get(&to).copied().unwrap_or_default();
                let cross = Cross::from_effect(self.me, term, effect);
                self.cross.extend(cross.map(|cross| (to.shard(), cross)));
            }
            return;
        }
        self.carry_out(self.me, effect);
    }
}

impl Wire {
    /// Adds a partial reply to those before it. With the last one, the whole body; `None` if there
    /// is none to send (yet).
    fn join_partial(
        &mut self,
        request: (u8, RequestId),
        body: &[u8],
        last: bool,
        limit: u64,
    ) -> Option<Vec<u8>> {
        let place = self.partials.iter().position(|(id, _)| *id == request).unwrap_or_else(|| {
            self.partials.push((request, Partial::default()));
            self.partials.len() - 1
        });
        self.partials[place].1.add(body, limit);
        if last { self.partials.swap_remove(place).1.finish() } else { None }
    }
}

fn decimal(mut n: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return &digits[at..];
        }
    }
}
