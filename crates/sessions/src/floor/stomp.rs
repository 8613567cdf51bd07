//! What is written to STOMP connections: MESSAGEs, whoever they come from, and ERRORs.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use bytes::Bytes;
use engine::{Blob, ConnId, Reason, RequestId};
use stomp::{BODY_END, Command, Refusal, Version, Writer};
use zmtp::raw_frames;

use super::{CloseReason, Floor, Given, Note, Seat};
use crate::LARGE_BODY;
use crate::mdp::FAILED;
use crate::outbox::Outbox;
use crate::stomp::{AckMode, read_envelope, read_headers, status_of};
use crate::talk::{Delivery, Kind, Talk};
use crate::tongue::Asker;
use crate::wire::Codec;

/// Frames of a failed answer that are no part of it: [`FAILED`], and why.
const FAILED_FRAMES: usize = 2;

/// A body as it stands in the house.
enum Body<'a> {
    /// Frames of ZMTP.
    Frames(Blob<'a>),
    /// Those of a payload from here on.
    Part(&'a Bytes, usize),
}

impl Floor {
    /// Gives a request, or a message of a queue, to a subscription.
    pub(super) fn deliver_stomp(&mut self, id: ConnId, seat: Seat, given: &Given<'_>) {
        let Some(wire) = self.touch(seat.owner) else { return };
        let Codec::Stomp(talk) = &mut wire.codec else { return };
        let Some(kind) = talk.subs.get(&seat.sub).map(|sub| sub.kind) else { return };
        let number = talk.count_delivery();
        let request = given.request;
        let Some((writer, ack)) = begin(talk, wire.outbox.small(), number, seat.sub, None) else {
            return;
        };
        let mut writer = writer;
        if let Kind::Service(_) = kind {
            writer = writer.header("reply-to", &alloc::format!("/reply/{number}"));
        }
        if given.delivery > 1 {
            writer = writer.header("redelivered", "true");
        }
        if let Asker::Stomp { .. } = Asker::unpack(given.tag) {
            let block = &given.payload[given.envelope as usize..given.body_at as usize];
            for (name, value) in read_headers(block) {
                if name != "reply-to" || kind != Kind::Service(id) {
                    writer = writer.header_if_fits(name, value);
                }
            }
        }
        let body = Body::Part(&given.payload, given.body_at as usize);
        put_body(writer, &body, 0).write(&mut wire.outbox, &body);
        if kind == Kind::Queue(id) && ack == AckMode::Auto {
            self.settled.push_back((id, request));
        } else {
            talk.deliveries.insert(number, Delivery { sub: seat.sub, kind, request });
        }
        self.check_outbox(seat.owner);
    }

    /// Gives an answer to who asked.
    pub(super) fn answer_stomp(
        &mut self,
        to: ConnId,
        request: (u8, RequestId),
        waits: bool,
        envelope: &[u8],
        body: &Blob<'_>,
        last: bool,
    ) {
        let (now, limit) = (self.now, self.config.zmtp.message_bytes_max);
        let Some(wire) = self.wire(to).filter(|_| waits) else { return };
        if last {
            wire.ended(now);
        }
        let joined;
        let body = if !last || wire.partials.iter().any(|(id, _)| *id == request) {
            match wire.join_partial(request, body.as_slice(), last, limit) {
                Some(whole) => joined = whole,
                None if !last => return,
                // All parts together are larger than a message may be.
                None => {
                    let reason = Reason::WorkersFailed;
                    return self.refuse_stomp(to, waits, true, envelope, &[], reason);
                }
            }
            Blob::Slice(&joined)
        } else {
            body.clone()
        };
        let mut frames = raw_frames(body.as_slice()).map(|(_, frame)| frame);
        let failed = frames.next() == Some(FAILED);
        let why = frames.next().and_then(|frame| core::str::from_utf8(frame).ok());
        let (status, reason) = if failed { ("500", Some("failed")) } else { ("200", None) };
        let why = why.filter(|_| failed);
        self.put_answer(to, envelope, status, reason, why, &Body::Frames(body.clone()), failed);
    }

    /// Tells who asked, or put something into a queue, that it will not be.
    pub(super) fn refuse_stomp(
        &mut self,
        to: ConnId,
        waits: bool,
        was_taken: bool,
        envelope: &[u8],
        service: &[u8],
        reason: Reason,
    ) {
        if waits {
            let (status, reason) = (status_of(reason), Some(reason.as_str()));
            let body = Body::Frames(Blob::Slice(&[]));
            self.put_answer(to, envelope, status, reason, None, &body, false);
        } else if !was_taken {
            let service = String::from_utf8_lossy(service);
            let text = alloc::format!("{service:?} did not take the message: {}", reason.as_str());
            self.refuse(to, reason.as_str(), &text);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one MESSAGE")]
    fn put_answer(
        &mut self,
        to: ConnId,
        envelope: &[u8],
        status: &str,
        reason: Option<&str>,
        why: Option<&str>,
        body: &Body<'_>,
        failed: bool,
    ) {
        let (reply_to, correlation) = read_envelope(envelope);
        let Some(wire) = self.touch(to) else { return };
        let Codec::Stomp(talk) = &mut wire.codec else { return };
        let number = talk.count_delivery();
        let out = wire.outbox.small();
        let begun = match talk.sub_to(reply_to) {
            Some(sub) => begin(talk, out, number, sub, Some(reply_to)),
            None => Some((begin_own(talk, out, number, reply_to), AckMode::Auto)),
        };
        let Some((mut writer, _)) = begun else { return };
        if let Some(correlation) = correlation {
            writer = writer.header_if_fits("correlation-id", correlation);
        }
        writer = writer.header("status", status);
        if let Some(reason) = reason {
            writer = writer.header("reason", reason);
        }
        if let Some(why) = why {
            writer = writer.header_if_fits("message", why);
        }
        let skip = if failed { FAILED_FRAMES } else { 0 };
        put_body(writer, body, skip).write(&mut wire.outbox, body);
        self.check_outbox(to);
    }

    /// Gives a copy of what was sent to a topic to everybody of this shard who listens. `headers`
    /// are as [`put_headers`](crate::stomp::put_headers) keeps them.
    pub(crate) fn publish(&mut self, destination: &[u8], headers: &[u8], body: &Bytes) {
        let destination = core::str::from_utf8(destination).unwrap_or_default();
        let Some(name) = destination.strip_prefix("/topic/") else { return };
        let mut listeners = Vec::new();
        self.topics.find(name, &mut listeners);
        for (to, sub) in listeners {
            self.put_copy(to, sub, destination, headers, body);
        }
    }

    /// Gives a copy of a SEND to a subscription, unless too much waits to be read already.
    pub(crate) fn put_copy(
        &mut self,
        to: ConnId,
        sub: u32,
        destination: &str,
        headers: &[u8],
        body: &Bytes,
    ) {
        let most = self.config.limits.out_bytes / 4;
        let Some(wire) = self.wire(to) else { return };
        if wire.out_bytes().saturating_add(body.len()) > most {
            self.counters.copies_dropped += 1;
            return;
        }
        let Some(wire) = self.touch(to) else { return };
        let Codec::Stomp(talk) = &mut wire.codec else { return };
        let number = talk.count_delivery();
        let out = wire.outbox.small();
        let Some((mut writer, _)) = begin(talk, out, number, sub, Some(destination)) else {
            return;
        };
        for (name, value) in read_headers(headers) {
            writer = writer.header_if_fits(name, value);
        }
        if writer.body_follows(body.len() as u64).is_ok() {
            wire.outbox.push_shared(body, 0);
            wire.outbox.small().push(BODY_END);
        }
        self.counters.copies += 1;
        self.check_outbox(to);
    }

    /// Writes an ERROR, and closes the connection once that was flushed.
    pub(crate) fn refuse(&mut self, id: ConnId, code: &'static str, details: &str) {
        let Some(wire) = self.touch(id) else { return };
        let Codec::Stomp(talk) = &mut wire.codec else { return };
        let receipt = talk.receipt.take();
        let refusal = Refusal {
            message: code,
            code,
            receipt_id: receipt.as_deref(),
            versions: None,
            details: &alloc::format!("{details}\n"),
        };
        talk.connection.refuse(refusal, wire.outbox.small());
        self.end_stomp(id, CloseReason::Stomp(code, details.to_string()));
    }

    /// Nothing more is read from it, and what was written is flushed before it is closed.
    pub(crate) fn end_stomp(&mut self, id: ConnId, reason: CloseReason) {
        self.die(id, reason);
        if let Some(wire) = self.wire(id) {
            wire.closing = true;
        }
    }

    /// A subscription's worker is out, and has to begin anew.
    pub(super) fn dismiss_stomp(&mut self, owner: ConnId, code: &'static str, why: &'static str) {
        self.counters.dismissals += 1;
        self.notes.push(Note::WorkerDismissed(owner, why));
        self.refuse(owner, code, why);
    }
}

/// Begins a MESSAGE of a subscription, which is for the subscription's own destination if no other
/// is said; and how it is acknowledged.
fn begin<'a>(
    talk: &Talk,
    out: &'a mut Vec<u8>,
    number: u64,
    sub: u32,
    destination: Option<&str>,
) -> Option<(Writer<'a>, AckMode)> {
    let sub = talk.subs.get(&sub)?;
    let version = talk.connection.version();
    let name = talk.name(number, sub.kind);
    let mut writer = Writer::new(out, version, Command::Message);
    if let Some(id) = &sub.id {
        writer = writer.header_if_fits("subscription", id);
    }
    writer = writer.header("message-id", &name);
    writer = writer.header_if_fits("destination", destination.unwrap_or(&sub.destination));
    if sub.ack != AckMode::Auto && version == Version::V1_2 {
        writer = writer.header("ack", &name);
    }
    Some((writer, sub.ack))
}

/// Begins an answer to a place that nobody subscribed to: it is its own subscription.
fn begin_own<'a>(talk: &Talk, out: &'a mut Vec<u8>, number: u64, destination: &str) -> Writer<'a> {
    Writer::new(out, talk.connection.version(), Command::Message)
        .header_if_fits("subscription", destination)
        .header("message-id", &talk.name(number, Kind::Own))
        .header_if_fits("destination", destination)
}

/// What is left to be written of a MESSAGE after its head.
struct Rest {
    /// Frames that are not written.
    skip: usize,
    /// Octets of those that are, if they lie in one piece at the end of the body.
    one_piece: Option<usize>,
    /// The head was written.
    is_begun: bool,
}

/// Ends the head of a MESSAGE whose body is all frames but the first `skip`, one after the other.
fn put_body(mut writer: Writer<'_>, body: &Body<'_>, skip: usize) -> Rest {
    let lengths = || raw_frames(body.as_slice()).skip(skip).map(|(_, frame)| frame.len());
    let (count, total) = lengths().fold((0, 0), |(count, total), len| (count + 1, total + len));
    if count > 1 {
        let mut text = String::new();
        for len in lengths() {
            text.push_str(if text.is_empty() { "" } else { "," });
            text.push_str(&len.to_string());
        }
        writer = writer.header("maitred-frames", &text);
    }
    let is_begun = writer.body_follows(total as u64).is_ok();
    debug_assert!(is_begun, "each header was looked at");
    Rest { skip, one_piece: (count == 1).then_some(total), is_begun }
}

impl Rest {
    fn write(self, outbox: &mut Outbox, body: &Body<'_>) {
        if !self.is_begun {
            return;
        }
        match (self.one_piece, body.as_shared()) {
            (Some(len), Some(bytes)) if len >= LARGE_BODY => {
                outbox.push_shared(bytes, bytes.len() - len);
            }
            (_, _) => {
                for (_, frame) in raw_frames(body.as_slice()).skip(self.skip) {
                    outbox.small().extend_from_slice(frame);
                }
            }
        }
        outbox.small().push(BODY_END);
    }
}

impl Body<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Body::Frames(blob) => blob.as_slice(),
            Body::Part(bytes, from) => &bytes[*from..],
        }
    }

    fn as_shared(&self) -> Option<&Bytes> {
        match self {
            Body::Frames(Blob::Shared(bytes)) => Some(bytes),
            Body::Part(bytes, _) => Some(*bytes),
            Body::Frames(Blob::Slice(_)) => None,
        }
    }
}
