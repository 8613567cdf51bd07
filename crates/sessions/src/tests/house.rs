//! Shards with a shell that has no sockets: peers whose bytes are fed in pieces of any size.

use core::net::SocketAddr;
use std::boxed::Box;
use std::collections::{BTreeMap, VecDeque};
use std::string::String;
use std::vec;
use std::vec::Vec;

use super::peer::{Ear, Heard, command, greeting, ready};
use crate::{
    Call, CloseReason, Cross, Dialect, Lease, Note, Outcome, Shard, ShardConfig, Speaks, Want,
};
use bytes::Bytes;
use engine::{ConnId, MatchRules, Place, PlaceRules, PrincipalId, RegulatorRules, SideRules, Time};
use matching::ValveConfig;

/// Bytes of the shell's read buffer.
const BUFFER: usize = 64 * 1024;

/// What happened, in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    Heard(ConnId, Heard),
    /// Why, and whether the peer heard everything that was written.
    Closed(ConnId, CloseReason),
    Note(Note),
    Outcome(ConnId, Outcome),
    TurnedAway,
}

#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Sent and not read by the broker.
    sent: VecDeque<u8>,
    ear: Ear,
    /// It answers PING.
    pub(super) pongs: bool,
    /// It does not read.
    pub(super) stalled: bool,
}

/// All shards and all peers.
pub(super) struct House {
    pub(super) now: Time,
    pub(super) shards: Vec<Shard>,
    pub(super) peers: BTreeMap<ConnId, Peer>,
    pub(super) seen: Vec<Seen>,
    /// Most bytes one read brings.
    piece: usize,
    /// What crosses waits until it is let go.
    pub(super) hold: bool,
    crossing: VecDeque<(u8, Cross)>,
    buffer: Box<[u8]>,
}

impl House {
    pub(super) fn new(config: &ShardConfig, shards: u8, piece: usize) -> House {
        let shard = |me| {
            Shard::new(config.clone(), (5, 6), me, shards, Time::ZERO)
                .with_rules_read_by(read_rules)
        };
        House {
            now: Time::ZERO,
            shards: (0..shards).map(shard).collect(),
            peers: BTreeMap::new(),
            seen: Vec::new(),
            piece,
            hold: false,
            crossing: VecDeque::new(),
            buffer: vec![0; BUFFER].into(),
        }
    }

    pub(super) fn shard(&mut self, id: ConnId) -> &mut Shard {
        &mut self.shards[usize::from(id.shard())]
    }

    /// A connection that says nothing yet.
    pub(super) fn open(
        &mut self,
        shard: usize,
        dialect: Dialect,
        remote: Option<SocketAddr>,
    ) -> Option<ConnId> {
        let id = self.shards[shard].open(self.now, dialect, remote);
        match id {
            Some(id) => {
                let mut peer = Peer::default();
                peer.ear.is_stomp = dialect.speaks == Speaks::Stomp;
                self.peers.insert(id, peer);
            }
            None => self.seen.push(Seen::TurnedAway),
        }
        self.turn();
        id
    }

    /// A connection through its handshake, which is not shown.
    pub(super) fn join(&mut self, id: ConnId, minor: u8, socket_type: &str) {
        let before = self.seen.len();
        self.send(id, &[greeting(minor), ready(socket_type)].concat());
        let seen = self.seen.split_off(before);
        let handshake: Vec<&Heard> = seen.iter().filter_map(Seen::heard).collect();
        match handshake[..] {
            [Heard::Greeting, Heard::Command(ready)] if ready.starts_with(b"\x05READY") => {}
            [Heard::Command(ready)] if ready.starts_with(b"\x05READY") => {}
            _ => panic!("no handshake: {seen:?}"),
        }
    }

    pub(super) fn send(&mut self, id: ConnId, bytes: &[u8]) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.sent.extend(bytes);
            self.read(id);
            self.turn();
        }
    }

    /// The peer goes away.
    pub(super) fn close(&mut self, id: ConnId) {
        let now = self.now;
        self.shard(id).closed(now, id);
        self.peers.remove(&id);
        self.turn();
    }

    pub(super) fn call(
        &mut self,
        shard: usize,
        service: &[u8],
        body: &[u8],
        lease: Option<Lease>,
    ) -> ConnId {
        let (service, body) = (Bytes::copy_from_slice(service), Bytes::copy_from_slice(body));
        let fair_key = Bytes::new();
        let principal = PrincipalId::HOUSE;
        let call = Call { principal, service, body, fair_key, lease };
        let id = self.shards[shard].call(self.now, call);
        self.turn();
        id
    }

    /// Time passes; every shard is called whenever it wants to be.
    pub(super) fn advance(&mut self, to: Time) {
        loop {
            let due = self.shards.iter().filter_map(Shard::deadline).min();
            let Some(due) = due.filter(|due| *due <= to) else { break };
            self.now = due.max(self.now);
            for shard in &mut self.shards {
                if shard.deadline().is_some_and(|due| due <= self.now) {
                    shard.tick(self.now);
                    let next = shard.deadline();
                    assert!(next.is_none_or(|next| next > self.now), "it does not move on");
                }
            }
            self.turn();
        }
        self.now = to;
    }

    /// What every shell does after each event: until nothing is left to do.
    pub(super) fn turn(&mut self) {
        while self.flush() | self.close_closing() | self.cross() | self.read_on() {}
        for shard in 0..self.shards.len() {
            let notes = core::mem::take(self.shards[shard].notes());
            for note in notes {
                self.seen.push(match note {
                    Note::Closed(id, _, why) => Seen::Closed(id, why),
                    Note::WorkerJoined(..)
                    | Note::WorkerLeft(_)
                    | Note::WorkerExpired(_)
                    | Note::WorkerDismissed(..)
                    | Note::Denied(..)
                    | Note::Garbage(..)
                    | Note::Alarm(..)
                    | Note::Place(..)
                    | Note::Drained => Seen::Note(note),
                });
            }
            let mut outcomes = Vec::new();
            self.shards[shard].take_outcomes(&mut outcomes);
            self.seen.extend(outcomes.into_iter().map(|(id, outcome)| Seen::Outcome(id, outcome)));
        }
    }

    pub(super) fn stall(&mut self, id: ConnId, stalled: bool) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.stalled = stalled;
        }
        self.write(id);
        self.turn();
    }

    /// A peer that does not read takes ten octets after all.
    pub(super) fn sip(&mut self, id: ConnId) {
        let now = self.now;
        let shard = &mut self.shards[usize::from(id.shard())];
        let Some(outbox) = shard.outbox(id) else { return };
        let mut pieces: [&[u8]; 1] = [&[]];
        outbox.pieces(&mut pieces);
        let sip = &pieces[0][..pieces[0].len().min(10)];
        let heard = self.peers.get_mut(&id).map(|peer| peer.ear.hear(sip)).unwrap_or_default();
        self.seen.extend(heard.into_iter().map(|heard| Seen::Heard(id, heard)));
        let n = sip.len();
        shard.wrote(now, id, n);
        self.turn();
    }

    fn flush(&mut self) -> bool {
        let mut touched = Vec::new();
        for shard in &mut self.shards {
            shard.take_touched(&mut touched);
        }
        for id in &touched {
            self.write(*id);
        }
        !touched.is_empty()
    }

    /// Writes what waits for one peer, in the pieces it takes.
    fn write(&mut self, id: ConnId) {
        let now = self.now;
        loop {
            let mut bytes = Vec::new();
            let Some(outbox) = self.shards[usize::from(id.shard())].outbox(id) else { return };
            let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.stalled) else { return };
            let mut pieces: [&[u8]; 4] = [&[]; 4];
            let count = outbox.pieces(&mut pieces);
            for piece in &pieces[..count] {
                bytes.extend_from_slice(piece);
            }
            bytes.truncate(self.piece);
            if bytes.is_empty() {
                return;
            }
            let mut pong = false;
            for heard in peer.ear.hear(&bytes) {
                pong |= matches!(&heard, Heard::Command(body) if body.starts_with(b"\x04PING"));
                self.seen.push(Seen::Heard(id, heard));
            }
            if pong && peer.pongs {
                peer.sent.extend(command("PONG", b""));
            }
            self.shard(id).wrote(now, id, bytes.len());
            if pong {
                self.read(id);
            }
        }
    }

    fn close_closing(&mut self) -> bool {
        let mut closing = Vec::new();
        for shard in &mut self.shards {
            shard.take_closing(&mut closing);
        }
        for id in &closing {
            self.write(*id);
            let now = self.now;
            self.shard(*id).closed(now, *id);
            if let Some(peer) = self.peers.remove(id).filter(|peer| !peer.stalled) {
                assert!(peer.ear.is_idle(), "closed in the middle of a message");
            }
        }
        !closing.is_empty()
    }

    fn cross(&mut self) -> bool {
        let mut crossing = Vec::new();
        for shard in &mut self.shards {
            shard.take_cross(&mut crossing);
        }
        self.crossing.extend(crossing);
        if self.hold {
            return false;
        }
        let Some((to, cross)) = self.crossing.pop_front() else { return false };
        let now = self.now;
        self.shards[usize::from(to)].cross_in(now, cross);
        true
    }

    fn read_on(&mut self) -> bool {
        let mut resumed = Vec::new();
        for shard in &mut self.shards {
            shard.take_resumed(&mut resumed);
        }
        for id in &resumed {
            self.read(*id);
        }
        !resumed.is_empty()
    }

    /// Reads what a peer sent, for as long as the shard wants it.
    fn read(&mut self, id: ConnId) {
        let (now, piece) = (self.now, self.piece);
        while let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.sent.is_empty()) {
            let shard = &mut self.shards[usize::from(id.shard())];
            match shard.want(id) {
                Want::Paused => return,
                Want::Shared => {
                    let have = shard.take_pending(id, &mut self.buffer);
                    let n = peer.sent.len().min(piece).min(BUFFER - have);
                    for (place, octet) in self.buffer[have..].iter_mut().zip(peer.sent.drain(..n)) {
                        *place = octet;
                    }
                    shard.received(now, id, &mut self.buffer[..have + n]);
                }
                Want::Direct => {
                    let Some(buffer) = shard.direct(id) else { return };
                    let room = buffer.capacity() - buffer.len();
                    assert!(room > 0, "asked to read into nothing");
                    let n = peer.sent.len().min(piece).min(room);
                    buffer.extend(peer.sent.drain(..n));
                    shard.received_direct(now, id);
                }
            }
        }
    }
}

impl Seen {
    fn heard(&self) -> Option<&Heard> {
        match self {
            Seen::Heard(_, heard) => Some(heard),
            Seen::Closed(..) | Seen::Note(_) | Seen::Outcome(..) | Seen::TurnedAway => None,
        }
    }
}

/// Rules as they are written here: how many may run.
fn read_rules(place: Place, _name: &[u8], text: &[u8]) -> Result<PlaceRules, String> {
    let max = core::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    match place {
        Place::Match => Ok(PlaceRules::Match(MatchRules::default())),
        Place::Regulator => {
            let max = max.ok_or("expected how many may run")?;
            let valve = ValveConfig::limit(max);
            Ok(PlaceRules::Regulator(RegulatorRules { line: SideRules::default(), valve }))
        }
    }
}
