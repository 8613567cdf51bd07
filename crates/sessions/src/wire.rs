//! One connection as the house sees it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;

use engine::{PrincipalId, RequestId, Span, Time};
use zmtp::{put_frame, raw_frames, set_more_on_last};

use crate::LARGE_BODY;
use crate::config::Dialect;
use crate::door::Proof;
use crate::mdp::Version;
use crate::outbox::Outbox;
use crate::talk::Talk;
use crate::tongue::Tongue;

pub use bytes::Bytes;

/// What is spoken below the words.
#[derive(Debug)]
pub(crate) enum Codec {
    Zmtp(zmtp::Connection),
    Stomp(Box<Talk>),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) codec: Codec,
    pub(crate) dialect: Dialect,
    pub(crate) remote: Option<SocketAddr>,
    /// Bytes received and not consumed: an unfinished item, or whatever came while paused.
    pub(crate) pending: Vec<u8>,
    /// Length `pending` must reach before looking at it again is worth the while.
    pub(crate) need: usize,
    /// Length of its last message if that was large: the next one is read into memory of its own
    /// from its first byte.
    pub(crate) expect: usize,
    pub(crate) outbox: Outbox,
    /// Under CURVE, what was sealed of it: only this is written then.
    pub(crate) sealed: Option<Box<Outbox>>,
    /// In whose name it speaks, and what it proved that with.
    pub(crate) principal: PrincipalId,
    pub(crate) proof: Option<Box<Proof>>,
    /// It was told of in the log that it tried what it may not.
    pub(crate) denied: bool,
    pub(crate) opened: Time,
    /// When its last byte came: any byte counts as life. Not before it was last held back.
    pub(crate) last_seen: Time,
    /// When it last said something, waited for something or served.
    pub(crate) last_use: Time,
    /// When to look after heartbeats again.
    pub(crate) next_beat: Time,
    /// When the wheel will call, [`Time::MAX`] if it will not.
    pub(crate) armed: Time,
    /// PINGs sent since its last byte.
    pub(crate) unanswered: u32,
    /// Silence after which the peer itself asked to be given up (RFC 37, PING's TTL).
    pub(crate) ttl: Span,
    pub(crate) role: Role,
    /// Terms it served.
    pub(crate) terms: u32,
    /// How its worker side speaks.
    pub(crate) tongue: Tongue,
    /// What a Paranoid Pirate worker was given last and has not answered, also when it is no longer
    /// counted on: until then it is busy, whatever else it says.
    pub(crate) job: Option<RequestId>,
    /// Its requests that have not ended.
    pub(crate) in_flight: u32,
    /// Shards that know it, one bit each.
    pub(crate) known_to: u64,
    /// Partial replies on their way to a client that takes only whole ones, by the home of the
    /// request and its name there.
    pub(crate) partials: Vec<((u8, RequestId), Partial)>,
    /// Messages that made no sense.
    pub(crate) garbage: u32,
    pub(crate) touched: bool,
    /// Shards that hold a request of it back until its service has room, one bit each.
    pub(crate) paused: u64,
    /// Too much waits to be written to it.
    pub(crate) slow: bool,
    /// It is over; only the goodbye is still written.
    pub(crate) closing: bool,
    /// The engines that knew it were told that it ended.
    pub(crate) parted: bool,
}

/// What a connection is to the worker side of the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// It never offered itself.
    Fresh,
    Serving(Serving),
    /// It was silent too long; the next thing it says is answered with DISCONNECT.
    Expired,
    /// It was told to go, or will be at this time.
    Dismissed(Option<Time>),
    /// It said DISCONNECT itself.
    Left,
}

/// A connection that serves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Serving {
    /// The shard where its service lives.
    pub(crate) home: u8,
    /// How often the connection had offered itself before: what crosses from the home of an earlier
    /// term is void.
    pub(crate) term: u32,
    pub(crate) seats: u32,
    /// Requests it holds.
    pub(crate) held: u32,
    /// When it last said anything.
    pub(crate) last_word: Time,
}

/// Partial replies that wait for the last one.
#[derive(Debug)]
pub(crate) enum Partial {
    /// Their frames, and where those of the last one begin.
    Joined(Vec<u8>, usize),
    /// They grew beyond the bound of a message.
    TooLarge,
}

impl Default for Partial {
    fn default() -> Partial {
        Partial::Joined(Vec::new(), 0)
    }
}

impl Partial {
    /// Appends the frames of `body` to those before, which thereby are no longer the last.
    pub(crate) fn add(&mut self, body: &[u8], limit: u64) {
        let Partial::Joined(joined, last) = self else { return };
        // One body alone is no larger than a message was allowed to be.
        if !joined.is_empty() && (joined.len() + body.len()) as u64 > limit {
            *self = Partial::TooLarge;
            return;
        }
        set_more_on_last(&mut joined[*last..]);
        *last = joined.len();
        if body.is_empty() {
            put_frame(joined, false, b"");
        }
        joined.extend_from_slice(body);
        debug_assert!(raw_frames(&joined[*last..]).count() > 0, "a body has a frame");
    }

    /// All of them; `None` if that is too much.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        match self {
            Partial::Joined(joined, _) => Some(joined),
            Partial::TooLarge => None,
        }
    }
}

impl Wire {
    pub(crate) fn new(
        codec: Codec,
        dialect: Dialect,
        remote: Option<SocketAddr>,
        now: Time,
    ) -> Wire {
        Wire {
            codec,
            dialect,
            remote,
            pending: Vec::new(),
            need: 0,
            expect: 0,
            outbox: Outbox::default(),
            sealed: None,
            principal: PrincipalId::ANONYMOUS,
            proof: None,
            denied: false,
            opened: now,
            last_seen: now,
            last_use: now,
            next_beat: Time::MAX,
            armed: Time::MAX,
            unanswered: 0,
            ttl: Span::MAX,
            role: Role::Fresh,
            terms: 0,
            tongue: Tongue::Mdp { version: Version::V01, delimiter: true },
            job: None,
            in_flight: 0,
            known_to: 0,
            partials: Vec::new(),
            garbage: 0,
            touched: false,
            paused: 0,
            slow: false,
            closing: false,
            parted: false,
        }
    }

    pub(crate) fn zmtp(&mut self) -> Option<&mut zmtp::Connection> {
        match &mut self.codec {
            Codec::Zmtp(zmtp) => Some(zmtp),
            Codec::Stomp(_) => None,
        }
    }

    pub(crate) fn talk(&mut self) -> Option<&mut Talk> {
        match &mut self.codec {
            Codec::Zmtp(_) => None,
            Codec::Stomp(talk) => Some(talk),
        }
    }

    /// Whether it was let in.
    pub(crate) fn is_through(&self) -> bool {
        match &self.codec {
            Codec::Zmtp(zmtp) => zmtp.is_ready(),
            Codec::Stomp(talk) => talk.connection.is_open(),
        }
    }

    /// Whether it answers PING.
    pub(crate) fn pings(&self) -> bool {
        match &self.codec {
            Codec::Zmtp(zmtp) => zmtp.supports_ping(),
            Codec::Stomp(_) => false,
        }
    }

    /// Whether a step of its handshake is computed elsewhere.
    pub(crate) fn awaits_work(&self) -> bool {
        match &self.codec {
            Codec::Zmtp(zmtp) => zmtp.is_held(),
            Codec::Stomp(_) => false,
        }
    }

    /// A whole message of `len` octets came.
    pub(crate) fn note_message(&mut self, now: Time, len: usize) {
        self.need = 0;
        self.last_use = now;
        self.expect = if len >= LARGE_BODY { len } else { 0 };
    }

    /// Bytes that wait to be written to it.
    pub(crate) fn out_bytes(&self) -> usize {
        self.outbox.len() + self.sealed.as_ref().map_or(0, |sealed| sealed.len())
    }

    /// The handshake is through: if from here on all must be sealed, what was written so far must
    /// not.
    pub(crate) fn begin_sealing(&mut self) {
        if self.zmtp().is_some_and(|zmtp| zmtp.is_sealed()) {
            self.sealed = Some(Box::new(core::mem::take(&mut self.outbox)));
        }
    }

    /// What is to be written next.
    pub(crate) fn unwritten(&mut self) -> &mut Outbox {
        let (Some(sealed), Codec::Zmtp(zmtp)) = (&mut self.sealed, &mut self.codec) else {
            return &mut self.outbox;
        };
        if !self.outbox.is_empty() {
            let out = sealed.small();
            self.outbox.drain(|frames| zmtp.seal(frames, out));
        }
        sealed
    }

    pub(crate) fn serving(&mut self) -> Option<&mut Serving> {
        match &mut self.role {
            Role::Serving(serving) => Some(serving),
            Role::Fresh | Role::Expired | Role::Dismissed(_) | Role::Left => None,
        }
    }

    /// One of its requests ended.
    pub(crate) fn ended(&mut self, now: Time) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.last_use = now;
    }

    /// Whether it holds a request as a worker.
    pub(crate) fn holds(&self) -> bool {
        matches!(self.role, Role::Serving(Serving { held: 1.., .. }))
    }

    /// Whether nobody waits for it and it waits for nobody.
    pub(crate) fn is_idle(&self) -> bool {
        let listens = match &self.codec {
            Codec::Zmtp(_) => false,
            Codec::Stomp(talk) => !talk.subs.is_empty(),
        };
        self.in_flight == 0 && !listens && !matches!(self.role, Role::Serving(_))
    }

    /// What is not read cannot be held against it: its silence begins anew.
    pub(crate) fn excuse(&mut self, now: Time) {
        (self.last_seen, self.last_use, self.unanswered) = (now, now, 0);
        if let Some(serving) = self.serving() {
            serving.last_word = now;
        }
    }

    /// Whether what it said already is left alone for now. A slow reader's is not: room that was
    /// kept for its request must not wait for it to read.
    pub(crate) fn is_stopped(&self) -> bool {
        self.paused != 0 || self.closing || self.awaits_work()
    }

    /// Whether nothing more is read from it for now.
    pub(crate) fn is_held(&self) -> bool {
        self.paused != 0 || self.slow || self.closing || self.awaits_work()
    }
}
