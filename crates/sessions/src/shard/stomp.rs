//! STOMP peers: what their frames mean for a shard.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use bytes::Bytes;
use engine::{Blob, ConnId, Event, PrincipalId, Request, RequestId, Time, WhenFull};
use stomp::{Command, Due, Frame, Step, put_receipt};
use zmtp::{Claim, Mechanism, put_frame};

use super::Shard;
use crate::floor::{CloseReason, Cross, Note};
use crate::stomp::{
    AckMode, Destination, Refused, check_wishes, is_pattern, prefetch, put_envelope, put_headers,
};
use crate::talk::{Kind, Named, Sub, millis};
use crate::tongue::Asker;
use crate::wire::{Codec, Wire};

/// Messages a subscription to a queue takes before it acknowledges, if it does not say.
const PREFETCH: u32 = 100;
/// While so much waits to be written, a subscription that acknowledges nothing gets no more.
const WRITTEN_MAX: usize = 256 * 1024;

/// What became of a frame: `false` if it must be given again once there is room.
type Done = Result<bool, Refused>;

impl Shard {
    /// Consumes what `buf` holds of whole frames, at most `most`. Returns how much that is.
    pub(super) fn feed_stomp(&mut self, now: Time, id: ConnId, buf: &[u8], most: usize) -> usize {
        let mut head = core::mem::take(&mut self.head);
        let (mut at, mut frames) = (0, 0);
        if let Some(talk) = self.floor.wire(id).and_then(Wire::talk) {
            talk.beats.heard(millis(now));
        }
        while frames < most
            && let Some((wire, config)) = self.floor.wire_and_config(id)
            && !wire.is_stopped()
        {
            let Codec::Stomp(talk) = &mut wire.codec else { break };
            let out = wire.outbox.small();
            match talk.connection.next(&config.stomp, &buf[at..], &mut head, out) {
                Ok(Step::More { need }) => {
                    wire.need = need;
                    break;
                }
                Ok(Step::Skip { len }) => at += len,
                // Whoever says CONNECT is answered when its frame is taken in.
                Ok(Step::Answer) => break,
                Ok(Step::Frame { len }) => {
                    wire.note_message(now, len);
                    self.floor.counters.messages += 1;
                    if !self.on_stomp(now, id, &head.view(&buf[at..at + len])) {
                        break;
                    }
                    at += len;
                    frames += 1;
                }
                Err(error) => {
                    self.floor.touch(id);
                    if self.floor.wire(id).is_some_and(|wire| !wire.is_through()) {
                        self.floor.counters.failed_handshakes += 1;
                    }
                    self.floor.end_stomp(id, CloseReason::Stomp(error.kind(), error.to_string()));
                }
            }
        }
        self.head = head;
        at
    }

    /// Takes in one frame. `false` if it must wait: the connection is paused, and the frame is to
    /// be given again.
    fn on_stomp(&mut self, now: Time, id: ConnId, frame: &Frame<'_>) -> bool {
        let receipt = frame.get("receipt").map(Cow::into_owned);
        if let Some(talk) = self.floor.wire(id).and_then(Wire::talk) {
            talk.receipt = receipt;
        }
        let done = match frame.command() {
            Command::Connect | Command::Stomp => self.on_stomp_connect(now, id, frame),
            Command::Send => self.on_send(now, id, frame),
            Command::Subscribe => self.on_subscribe(now, id, frame).map(|()| true),
            Command::Unsubscribe => self.on_unsubscribe(now, id, frame).map(|()| true),
            Command::Ack => self.on_ack(now, id, frame, true).map(|()| true),
            Command::Nack => self.on_ack(now, id, frame, false).map(|()| true),
            Command::Disconnect => Ok(true),
            Command::Begin | Command::Commit | Command::Abort => Err(no_transactions()),
            // The codec lets none of these in from a client.
            Command::Connected | Command::Message | Command::Receipt | Command::Error => Ok(true),
        };
        match done {
            Ok(true) => {}
            Ok(false) => {
                if let Some(talk) = self.floor.wire(id).and_then(Wire::talk) {
                    talk.receipt = None;
                }
                return false;
            }
            Err((code, details)) => {
                self.floor.refuse(id, code, &details);
                return true;
            }
        }
        if let Some(wire) = self.floor.wire(id).filter(|wire| !wire.closing)
            && let Codec::Stomp(talk) = &mut wire.codec
        {
            if talk.receipt.take().is_some() {
                put_receipt(wire.outbox.small(), talk.connection.version(), frame);
            }
            if !wire.outbox.is_empty() {
                self.floor.touch(id);
                self.floor.check_outbox(id);
            }
        }
        if frame.command() == Command::Disconnect {
            self.floor.end_stomp(id, CloseReason::Ended);
        }
        true
    }

    /// With passwords in the house a login is checked, and where the listener says `plain` there
    /// must be one; without, anybody is nobody in particular.
    fn on_stomp_connect(&mut self, now: Time, id: ConnId, frame: &Frame<'_>) -> Done {
        let Some(wire) = self.floor.wire(id) else { return Ok(true) };
        let door = &self.doors[usize::from(wire.dialect.door)];
        let must = door.security.mechanism() != Mechanism::Null;
        let login = frame.get("login").filter(|_| must || self.credentials.has_passwords());
        let known = if let Some(login) = &login {
            let passcode = frame.get("passcode").unwrap_or_default();
            let (username, password) = (login.as_bytes(), passcode.as_bytes());
            let claim = Claim::Plain { username, password };
            self.credentials
                .check(&claim)
                .and_then(|(name, proof)| Some((self.engine.principal(name)?, Some(proof))))
        } else {
            (!must).then_some((PrincipalId::ANONYMOUS, None))
        };
        let Some((principal, proof)) = known else {
            self.floor.counters.denied += 1;
            self.floor.counters.failed_handshakes += 1;
            return Err(("denied", "login or passcode is wrong, or missing".to_string()));
        };
        let session = format!("{id:?}");
        let Some((wire, config)) = self.floor.wire_and_config(id) else { return Ok(true) };
        (wire.principal, wire.proof) = (principal, proof.map(Box::new));
        let Codec::Stomp(talk) = &mut wire.codec else { return Ok(true) };
        talk.session = session.as_str().into();
        let headers = [("session", &*session), ("server", "maitred")];
        let written = talk.connection.accept(&headers, wire.outbox.small());
        debug_assert!(written.is_ok(), "both are plain words");
        talk.beats = talk.connection.beats(&config.stomp, millis(now));
        self.arm_stomp(now, id);
        Ok(true)
    }

    fn on_send(&mut self, now: Time, id: ConnId, frame: &Frame<'_>) -> Done {
        check_wishes(frame)?;
        if frame.get("transaction").is_some() {
            return Err(no_transactions());
        }
        let text = self.destination_of(frame)?;
        match Destination::parse(&text, self.floor.config.limits.name_bytes)? {
            Destination::Service(name) => {
                let reply_to = frame.get("reply-to");
                if let Some(reply_to) = &reply_to
                    && !reply_to.starts_with("/temp-queue/")
                {
                    let text = "reply-to of a request takes /temp-queue/NAME; the answer comes on \
                                the connection that asked";
                    return Err(("bad_header", text.to_string()));
                }
                Ok(self.take_send(now, id, frame, name, reply_to.as_deref()))
            }
            Destination::Queue(name) => Ok(self.take_send(now, id, frame, name, None)),
            Destination::Topic(name) => self.publish(id, frame, name, &text).map(|()| true),
            Destination::Own(_) => {
                let talk = self.floor.wire(id).and_then(Wire::talk);
                if let Some(sub) = talk.and_then(|talk| talk.sub_to(&text)) {
                    let mut headers = Vec::new();
                    put_headers(&mut headers, frame);
                    let body = Bytes::copy_from_slice(frame.body());
                    self.floor.put_copy(id, sub, &text, &headers, &body);
                }
                Ok(true)
            }
            Destination::Reply(number) => {
                self.on_stomp_reply(now, id, frame, number);
                Ok(true)
            }
        }
    }

    /// Gives a request, or a message for a queue, to the engine. `false` if it must wait: who gets
    /// no answer cannot be told no, but only be read no further.
    fn take_send(
        &mut self,
        now: Time,
        id: ConnId,
        frame: &Frame<'_>,
        name: &str,
        reply_to: Option<&str>,
    ) -> bool {
        let Some(wire) = self.floor.wire(id) else { return true };
        wire.in_flight += u32::from(reply_to.is_some());
        let principal = wire.principal;
        let body = frame.body();
        let mut payload = Vec::with_capacity(body.len() + 256);
        if let Some(reply_to) = reply_to {
            put_envelope(&mut payload, reply_to, frame.get("correlation-id").as_deref());
        }
        let envelope = payload.len() as u32;
        put_headers(&mut payload, frame);
        let body_at = payload.len() as u32;
        put_frame(&mut payload, false, body);
        let home = self.home_of(name.as_bytes());
        let waits = reply_to.is_some();
        let request = Event::Request(Request {
            conn: id,
            principal,
            service: Blob::Slice(name.as_bytes()),
            tag: Asker::Stomp { waits }.pack(),
            payload: Bytes::from(payload),
            envelope,
            body_at,
            since: now,
            when_full: if waits { WhenFull::Refuse } else { WhenFull::Pause },
            needs_workers: false,
            first_frame: Blob::Slice(body),
            fair_key: Blob::Slice(b""),
            whole_replies: true,
            detached: !waits,
        });
        self.route(now, id, home, request);
        let is_here = home == self.me;
        self.floor.wire(id).is_none_or(|wire| !(is_here && wire.paused & 1 << self.me != 0))
    }

    /// A copy for everybody who listens at this moment.
    fn publish(
        &mut self,
        id: ConnId,
        frame: &Frame<'_>,
        name: &str,
        destination: &str,
    ) -> Result<(), Refused> {
        if is_pattern(name) {
            let text = "a topic to send to has no wildcards".to_string();
            return Err(("bad_destination", text));
        }
        self.require_right(id, destination, false)?;
        let mut headers = Vec::new();
        put_headers(&mut headers, frame);
        let body = Bytes::copy_from_slice(frame.body());
        self.floor.publish(destination.as_bytes(), &headers, &body);
        if self.shards > 1 {
            let (destination, headers) =
                (Bytes::copy_from_slice(destination.as_bytes()), Bytes::from(headers));
            for shard in (0..self.shards).filter(|shard| *shard != self.me) {
                let cross = Cross::Publish(destination.clone(), headers.clone(), body.clone());
                self.floor.cross.push((shard, cross));
            }
        }
        Ok(())
    }

    /// Topics are not the engine's, but its rules hold: who sends calls, who listens serves.
    fn require_right(&mut self, id: ConnId, name: &str, serves: bool) -> Result<(), Refused> {
        let Some(wire) = self.floor.wire(id) else { return Ok(()) };
        let (principal, remote) = (wire.principal, wire.remote);
        let may = self.engine.rights(principal).is_some_and(|rights| {
            if serves {
                rights.serve.hold(name.as_bytes())
            } else {
                rights.call.hold(name.as_bytes())
            }
        });
        if may {
            return Ok(());
        }
        let service = Bytes::copy_from_slice(name.as_bytes());
        self.floor.notes.push(Note::Denied(id, remote, principal, service));
        Err(("denied", format!("the rules of this login do not allow {name:?}")))
    }

    /// An answer to a request it was given. An answer that comes too late is dropped: the request
    /// is another's by now.
    fn on_stomp_reply(&mut self, now: Time, id: ConnId, frame: &Frame<'_>, number: u64) {
        let Some(talk) = self.floor.wire(id).and_then(Wire::talk) else { return };
        let held = talk.deliveries.get(&number).copied();
        let Some((delivery, seat)) = held.and_then(|held| match held.kind {
            Kind::Service(seat) => Some((held, seat)),
            Kind::Queue(_) | Kind::Topic | Kind::Own => None,
        }) else {
            return self.floor.garbage(id, "an answer to a request it does not hold");
        };
        talk.deliveries.remove(&number);
        let failed = frame.get("status").is_some_and(|status| status.starts_with(['4', '5']));
        let mut body = Vec::with_capacity(frame.body().len() + 64);
        if failed {
            put_frame(&mut body, true, crate::mdp::FAILED);
            let why = frame.get("message").unwrap_or_default();
            put_frame(&mut body, !frame.body().is_empty(), why.as_bytes());
        }
        if !failed || !frame.body().is_empty() {
            put_frame(&mut body, false, frame.body());
        }
        self.settle_delivery(now, seat, delivery.request, Blob::Shared(body.into()), failed);
    }

    fn settle_delivery(
        &mut self,
        now: Time,
        seat: ConnId,
        request: RequestId,
        body: Blob<'_>,
        failed: bool,
    ) {
        let Some(home) = self.home_of_seat(seat) else { return };
        let last = true;
        self.route(now, seat, home, Event::Reply { conn: seat, request, body, last, failed });
    }

    /// A message of a queue was written to a subscription that acknowledges nothing.
    pub(super) fn settle_written(&mut self, now: Time, seat: ConnId, request: RequestId) {
        let owner = self.floor.owner_of(seat);
        let Some(wire) = self.floor.wire(owner).filter(|wire| !wire.closing) else { return };
        let is_full = wire.out_bytes() >= WRITTEN_MAX;
        if let Some(talk) = wire.talk().filter(|_| is_full) {
            return talk.unsettled.push((seat, request));
        }
        self.settle_delivery(now, seat, request, Blob::Slice(b""), false);
    }

    /// All that was written to a subscription that ends is done. What the engine gives it for that
    /// is not written any more, and returns.
    fn settle_all_written(&mut self, now: Time, seat: ConnId, home: u8) {
        let settled = core::mem::take(&mut self.floor.settled);
        for (other, request) in settled {
            if other == seat {
                let (body, last, failed) = (Blob::Slice(&b""[..]), true, false);
                self.route(
                    now,
                    seat,
                    home,
                    Event::Reply { conn: seat, request, body, last, failed },
                );
            } else {
                self.floor.settled.push_back((other, request));
            }
        }
    }

    /// The shard where what a subscription serves lives.
    fn home_of_seat(&mut self, id: ConnId) -> Option<u8> {
        let seat = self.floor.seat(id)?;
        let talk = self.floor.wire(seat.owner)?.talk()?;
        talk.subs.get(&seat.sub).map(|sub| sub.home)
    }

    fn on_subscribe(&mut self, now: Time, id: ConnId, frame: &Frame<'_>) -> Result<(), Refused> {
        check_wishes(frame)?;
        let text = self.destination_of(frame)?;
        let limits = self.floor.config.limits;
        let destination = Destination::parse(&text, limits.name_bytes)?;
        let ack = AckMode::parse(frame.get("ack").as_deref())?;
        let prefetch = prefetch(frame)?;
        let Some(talk) = self.floor.wire(id).and_then(Wire::talk) else { return Ok(()) };
        let sub_id = frame.get("id");
        if sub_id.is_none() && talk.connection.version() > stomp::Version::V1_0 {
            let text = "SUBSCRIBE takes an id, by which its messages are known".to_string();
            return Err(("bad_header", text));
        }
        if sub_id.as_deref().is_some_and(|id| talk.sub_called(id).is_some()) {
            let text = "there is a subscription with this id; UNSUBSCRIBE it first".to_string();
            return Err(("bad_header", text));
        }
        if talk.subs.len() >= limits.subscriptions {
            let text = format!("at most {} subscriptions on one connection", limits.subscriptions);
            return Err(("too_many_subscriptions", text));
        }
        let (name, most) = match destination {
            Destination::Service(name) => (name, prefetch.unwrap_or(1)),
            // Who acknowledges by reading is given the next as soon as one is written.
            Destination::Queue(name) if ack == AckMode::Auto => (name, 1),
            Destination::Queue(name) => (name, prefetch.unwrap_or(PREFETCH)),
            Destination::Topic(name) => {
                self.require_right(id, &text, true)?;
                let key = self.add_sub(id, frame, &text, ack, Kind::Topic);
                self.floor.topics.add(name, (id, key));
                return Ok(());
            }
            Destination::Own(_) => {
                self.add_sub(id, frame, &text, ack, Kind::Own);
                return Ok(());
            }
            Destination::Reply(_) => {
                let text = "/reply/ is for answers alone; subscribe to /temp-queue/NAME";
                return Err(("bad_destination", text.to_string()));
            }
        };
        let room = self.floor.config.engine.concurrency_max;
        let talk = self.floor.wire(id).and_then(Wire::talk);
        let taken = talk.map_or(0, |talk| talk.subs.values().map(|sub| sub.most).sum::<u32>());
        let concurrency = most.min(room);
        if taken.saturating_add(concurrency) > room {
            let text = format!(
                "all subscriptions of a connection together prefetch at most {room}, which is \
                 limits.concurrency"
            );
            return Err(("too_many_subscriptions", text));
        }
        let home = self.home_of(name.as_bytes());
        let key = self.add_sub(id, frame, &text, ack, Kind::Own);
        let seat = self.floor.insert_seat(id, key);
        let Some(wire) = self.floor.wire(id) else { return Ok(()) };
        let (principal, remote) = (wire.principal, wire.remote);
        if let Some(sub) = wire.talk().and_then(|talk| talk.subs.get_mut(&key)) {
            (sub.most, sub.home) = (concurrency, home);
            sub.kind = match destination {
                Destination::Service(_) => Kind::Service(seat),
                Destination::Queue(_)
                | Destination::Topic(_)
                | Destination::Own(_)
                | Destination::Reply(_) => Kind::Queue(seat),
            };
        }
        let service = Blob::Slice(name.as_bytes());
        let joined = Bytes::copy_from_slice(name.as_bytes());
        self.floor.notes.push(Note::WorkerJoined(id, remote, joined, concurrency));
        self.route(now, seat, home, Event::Offer { conn: seat, principal, service, concurrency });
        Ok(())
    }

    fn add_sub(
        &mut self,
        id: ConnId,
        frame: &Frame<'_>,
        destination: &str,
        ack: AckMode,
        kind: Kind,
    ) -> u32 {
        let name = frame.get("id").map(|id| Box::from(&*id));
        let (destination, most, home) = (destination.into(), 0, self.me);
        let sub = Sub { id: name, destination, ack, kind, most, home };
        self.floor.wire(id).and_then(Wire::talk).map_or(0, |talk| talk.add_sub(sub))
    }

    fn on_unsubscribe(&mut self, now: Time, id: ConnId, frame: &Frame<'_>) -> Result<(), Refused> {
        let Some(talk) = self.floor.wire(id).and_then(Wire::talk) else { return Ok(()) };
        let key = match (frame.get("id"), frame.get("destination")) {
            (Some(id), _) => talk.sub_called(&id),
            (None, Some(to)) if talk.connection.version() == stomp::Version::V1_0 => {
                talk.sub_to(&to)
            }
            (None, _) => None,
        };
        let Some(key) = key else {
            let text = "UNSUBSCRIBE takes the id of a subscription that there is".to_string();
            return Err(("bad_header", text));
        };
        self.end_subscription(now, id, key);
        Ok(())
    }

    /// Ends a subscription; what it was given and did not settle goes to others.
    fn end_subscription(&mut self, now: Time, id: ConnId, key: u32) {
        let Some(talk) = self.floor.wire(id).and_then(Wire::talk) else { return };
        let topic = talk.subs.get(&key).filter(|sub| sub.kind == Kind::Topic);
        let topic = topic.and_then(|sub| sub.destination.strip_prefix("/topic/").map(Box::from));
        let seat = talk.subs.get(&key).and_then(|sub| sub.kind.seat());
        let home = seat.and_then(|seat| self.home_of_seat(seat));
        let Some(wire) = self.floor.wire(id) else { return };
        // What was written and perhaps not read goes to others if it can.
        let is_over = wire.parted;
        let Some(talk) = wire.talk() else { return };
        talk.remove_sub(key);
        let unsettled = core::mem::take(&mut talk.unsettled);
        if let Some(name) = topic {
            let name: Box<str> = name;
            self.floor.topics.remove(&name, (id, key));
        }
        self.floor.settled.extend(unsettled);
        if let (Some(seat), Some(home)) = (seat, home) {
            if !is_over {
                self.settle_all_written(now, seat, home);
            }
            self.tell_gone(now, seat);
            self.floor.remove(seat);
        }
    }

    /// The connection is over, and so are its subscriptions.
    pub(super) fn end_subscriptions(&mut self, now: Time, id: ConnId) {
        while let Some(talk) = self.floor.wire(id).and_then(Wire::talk)
            && let Some(key) = talk.subs.keys().next().copied()
        {
            self.end_subscription(now, id, key);
        }
    }

    fn on_ack(
        &mut self,
        now: Time,
        id: ConnId,
        frame: &Frame<'_>,
        is_ack: bool,
    ) -> Result<(), Refused> {
        if frame.get("transaction").is_some() {
            return Err(no_transactions());
        }
        let Some(talk) = self.floor.wire(id).and_then(Wire::talk) else { return Ok(()) };
        // 1.2 says id, the others message-id; who says both means the same.
        let name = frame.get("id").or_else(|| frame.get("message-id"));
        let named = name.and_then(|name| talk.read_name(&name));
        let Some(named) = named else {
            let text = "ACK and NACK take the id that is in the message's ack header, or on 1.0 \
                        and 1.1 its message-id";
            return Err(("bad_header", text.to_string()));
        };
        let taken = match named {
            Named::Queue(number) => {
                let taken = talk.take_acked(number);
                if taken.is_empty() && number > talk.released {
                    let text = "this message was acknowledged already, or needs no ACK";
                    return Err(("bad_header", text.to_string()));
                }
                taken
            }
            // A request is settled by its answer alone; but it can be given back.
            Named::Other(number) if !is_ack => talk.take_acked(number),
            Named::Other(_) => Vec::new(),
        };
        for delivery in taken {
            let Some(seat) = delivery.kind.seat() else { continue };
            let request = delivery.request;
            if is_ack {
                self.settle_delivery(now, seat, request, Blob::Slice(b""), false);
            } else if let Some(home) = self.home_of_seat(seat) {
                self.route(now, seat, home, Event::Return { conn: seat, request });
            }
        }
        Ok(())
    }

    fn destination_of<'a>(&self, frame: &Frame<'a>) -> Result<Cow<'a, str>, Refused> {
        let missing = || {
            let text = format!("{} takes a destination", frame.command());
            ("bad_header", text)
        };
        frame.get("destination").ok_or_else(missing)
    }

    /// Beats, and the end of whoever is silent too long.
    pub(super) fn on_stomp_timer(&mut self, now: Time, id: ConnId) {
        let idle = self.floor.config.limits.idle;
        let Some(wire) = self.floor.wire(id) else { return };
        let (is_paused, is_idle, last_use) = (wire.paused != 0, wire.is_idle(), wire.last_use);
        if is_idle && last_use + idle <= now {
            return self.floor.die(id, CloseReason::Idle);
        }
        let Some(talk) = wire.talk() else { return };
        if is_paused {
            // What is not read cannot be held against it.
            talk.beats.heard(millis(now));
        }
        match talk.beats.due(millis(now)) {
            Due::Nothing => {}
            Due::Dead => return self.floor.die(id, CloseReason::Dead),
            Due::Beat => {
                talk.beats.sent(millis(now));
                if let Some(wire) = self.floor.touch(id) {
                    // A beat in the middle of what waits to be written would be one too many.
                    if wire.outbox.is_empty() {
                        wire.outbox.small().push(b'\n');
                    }
                }
            }
        }
        self.arm_stomp(now, id);
    }

    fn arm_stomp(&mut self, now: Time, id: ConnId) {
        let idle = self.floor.config.limits.idle;
        let Some(wire) = self.floor.wire(id) else { return };
        let mut due = if wire.is_idle() { wire.last_use + idle } else { now + idle };
        if let Some(beat) = wire.talk().and_then(|talk| talk.beats.deadline_ms()) {
            due = due.min(Time::from_millis(i64::try_from(beat).unwrap_or(i64::MAX)));
        }
        if due < Time::MAX {
            self.floor.arm(id, due);
        }
    }
}

fn no_transactions() -> Refused {
    ("not_supported", "there are no transactions; send frames without them".to_string())
}
