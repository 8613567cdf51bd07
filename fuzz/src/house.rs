//! A shell without sockets around one or two shards, and invariants to look at after each step.

use engine::{ConnId, Span, Time};
use sessions::{Call, Cross, Dialect, Outcome, Shard, ShardConfig, Want};
use std::collections::{BTreeMap, VecDeque};

const BUFFER: usize = 64 * 1024;
/// What all peers together say. A step of a few octets can mean a quarter of a megabyte, and cut
/// into single octets that costs the square of it.
const SENT_MAX: usize = 8 << 20;
const SENT_BYTEWISE_MAX: usize = 120_000;

/// A peer as the shell sees it.
#[derive(Default)]
struct Peer {
    sent: VecDeque<u8>,
    /// Written to it and not yet understood.
    heard: Vec<u8>,
    greeted: bool,
    stalled: bool,
    pongs: bool,
}

/// Shards, peers and calls from inside.
pub struct House {
    now: Time,
    shards: Vec<Shard>,
    /// Open connections, in the order they came.
    pub peers: Vec<ConnId>,
    peer_by_id: BTreeMap<ConnId, Peer>,
    /// Calls, and whether their outcome came.
    calls: Vec<(ConnId, bool)>,
    /// The last tokens workers were given.
    pub tokens: VecDeque<Vec<u8>>,
    buffer: Vec<u8>,
    piece: usize,
    /// What peers may still say.
    left: usize,
}

impl House {
    /// `piece`: most bytes of one read or write.
    pub fn new(config: &ShardConfig, shards: u8, piece: usize) -> House {
        let shard = |me| Shard::new(config.clone(), (5, 6), me, shards, Time::ZERO);
        House {
            now: Time::ZERO,
            shards: (0..shards).map(shard).collect(),
            peers: Vec::new(),
            peer_by_id: BTreeMap::new(),
            calls: Vec::new(),
            tokens: VecDeque::new(),
            buffer: vec![0; BUFFER],
            piece: piece.max(1),
            left: if piece < 64 { SENT_BYTEWISE_MAX } else { SENT_MAX },
        }
    }

    /// A new connection, through its handshake if `opening` is one.
    pub fn open(&mut self, shard: usize, dialect: Dialect, pongs: bool, opening: &[u8]) {
        let shard = shard % self.shards.len();
        let remote = Some(([10, 0, 0, 1], 1).into());
        let Some(id) = self.shards[shard].open(self.now, dialect, remote) else { return };
        self.peers.push(id);
        self.peer_by_id.insert(id, Peer { pongs, ..Peer::default() });
        self.send(id, opening);
    }

    pub fn send(&mut self, id: ConnId, bytes: &[u8]) {
        if bytes.len() > self.left {
            return;
        }
        if let Some(peer) = self.peer_by_id.get_mut(&id) {
            self.left -= bytes.len();
            peer.sent.extend(bytes);
            self.read(id);
        }
        self.turn();
    }

    pub fn close(&mut self, id: ConnId) {
        let now = self.now;
        self.shard(id).closed(now, id);
        self.forget(id);
        self.turn();
    }

    pub fn stall(&mut self, id: ConnId, stalled: bool) {
        if let Some(peer) = self.peer_by_id.get_mut(&id) {
            peer.stalled = stalled;
            self.write(id);
        }
        self.turn();
    }

    pub fn call(&mut self, service: &[u8], body: &[u8]) {
        let (service, body) = (service.to_vec().into(), body.to_vec().into());
        let call = Call {
            principal: engine::PrincipalId::HOUSE,
            service,
            body,
            fair_key: Vec::new().into(),
            lease: None,
        };
        let id = self.shards[0].call(self.now, call);
        self.calls.push((id, false));
        self.turn();
    }

    pub fn hang_up(&mut self, which: usize) {
        if !self.calls.is_empty() {
            let (id, _) = self.calls.remove(which % self.calls.len());
            let now = self.now;
            self.shard(id).hang_up(now, id);
            self.turn();
        }
    }

    pub fn configure(&mut self, config: &ShardConfig) {
        for shard in &mut self.shards {
            shard.configure(self.now, config.clone());
        }
        self.turn();
    }

    pub fn drain(&mut self) {
        self.shards.iter_mut().for_each(|shard| shard.drain(self.now));
        self.turn();
    }

    pub fn wait(&mut self, span: Span) {
        let end = self.now + span;
        while let Some(due) = self.shards.iter().filter_map(Shard::deadline).min()
            && due <= end
        {
            self.now = due.max(self.now);
            for shard in &mut self.shards {
                if shard.deadline().is_some_and(|due| due <= self.now) {
                    shard.tick(self.now);
                    assert!(shard.deadline().is_none_or(|due| due > self.now), "time stands still");
                }
            }
            self.turn();
        }
        self.now = end;
    }

    /// Everybody leaves; nothing may be left.
    pub fn end(mut self) {
        for id in core::mem::take(&mut self.peers) {
            self.close(id);
        }
        while !self.calls.is_empty() {
            self.hang_up(0);
        }
        self.wait(Span::from_secs(100));
        for shard in &self.shards {
            assert_eq!(shard.counters().connections, 0);
            assert_eq!(shard.engine().requests_len(), 0, "requests of nobody");
            assert_eq!(shard.engine().workers_len(), 0, "workers that left");
            assert_eq!(shard.engine().services_len(), 0, "services of nobody");
            assert_eq!(shard.deadline(), None, "timers of nobody");
        }
    }

    fn shard(&mut self, id: ConnId) -> &mut Shard {
        &mut self.shards[usize::from(id.shard())]
    }

    fn forget(&mut self, id: ConnId) {
        self.peers.retain(|peer| *peer != id);
        self.peer_by_id.remove(&id);
    }

    fn turn(&mut self) {
        while self.flush() | self.close_closing() | self.cross() | self.read_on() {}
        for shard in &mut self.shards {
            shard.notes().clear();
            let mut outcomes = Vec::new();
            shard.take_outcomes(&mut outcomes);
            for (id, outcome) in outcomes {
                let call = self.calls.iter_mut().find(|(call, _)| *call == id);
                let (_, ended) = call.expect("an outcome of a call that was hung up");
                assert!(!core::mem::replace(ended, true), "two outcomes");
                if let Outcome::Reply(body) = outcome {
                    assert_frames(&body);
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        for shard in &self.shards {
            assert_eq!(shard.counters().connections, shard.connections().count() as u64);
            for service in shard.engine().services() {
                assert!(service.offers == 0 || service.waiting == 0, "it waits while one is free");
            }
        }
        let connections = self.shards.iter().flat_map(Shard::connections);
        let asked: u64 = connections.map(|view| u64::from(view.in_flight)).sum();
        let in_house: usize = self.shards.iter().map(|shard| shard.engine().requests_len()).sum();
        if self.shards.len() == 1 {
            assert!(asked <= in_house as u64, "{asked} asked, {in_house} in the house");
            let shard = &self.shards[0];
            for worker in shard.engine().workers() {
                let view = shard.connection(worker.conn).expect("a worker has a connection");
                assert_eq!(view.held as usize, worker.holds, "who holds what");
            }
        }
    }

    fn flush(&mut self) -> bool {
        let mut touched = Vec::new();
        self.shards.iter_mut().for_each(|shard| shard.take_touched(&mut touched));
        for id in &touched {
            self.write(*id);
        }
        !touched.is_empty()
    }

    fn write(&mut self, id: ConnId) {
        let (now, piece) = (self.now, self.piece);
        loop {
            let shard = &mut self.shards[usize::from(id.shard())];
            let Some(outbox) = shard.outbox(id) else { return };
            let Some(peer) = self.peer_by_id.get_mut(&id).filter(|peer| !peer.stalled) else {
                return;
            };
            let mut pieces: [&[u8]; 4] = [&[]; 4];
            let count = outbox.pieces(&mut pieces);
            let waiting = pieces[..count].iter().copied().flatten().copied();
            let bytes: Vec<u8> = waiting.take(piece).collect();
            if bytes.is_empty() {
                return;
            }
            shard.wrote(now, id, bytes.len());
            if peer.hear(&bytes, &mut self.tokens) && peer.pongs {
                peer.sent.extend(b"\x04\x05\x04PONG");
                self.read(id);
            }
            self.tokens.truncate(8);
        }
    }

    fn close_closing(&mut self) -> bool {
        let mut closing = Vec::new();
        self.shards.iter_mut().for_each(|shard| shard.take_closing(&mut closing));
        for id in &closing {
            self.write(*id);
            let now = self.now;
            self.shard(*id).closed(now, *id);
            self.forget(*id);
        }
        !closing.is_empty()
    }

    fn cross(&mut self) -> bool {
        let mut crossing: Vec<(u8, Cross)> = Vec::new();
        self.shards.iter_mut().for_each(|shard| shard.take_cross(&mut crossing));
        let any = !crossing.is_empty();
        for (to, cross) in crossing {
            self.shards[usize::from(to)].cross_in(self.now, cross);
        }
        any
    }

    fn read_on(&mut self) -> bool {
        let mut resumed = Vec::new();
        self.shards.iter_mut().for_each(|shard| shard.take_resumed(&mut resumed));
        for id in &resumed {
            self.read(*id);
        }
        !resumed.is_empty()
    }

    fn read(&mut self, id: ConnId) {
        let (now, piece) = (self.now, self.piece);
        while let Some(peer) = self.peer_by_id.get_mut(&id).filter(|peer| !peer.sent.is_empty()) {
            let shard = &mut self.shards[usize::from(id.shard())];
            match shard.want(id) {
                Want::Paused => return,
                Want::Shared => {
                    let have = shard.take_pending(id, &mut self.buffer);
                    let n = peer.sent.len().min(piece).min(BUFFER - have);
                    for (i, octet) in peer.sent.drain(..n).enumerate() {
                        self.buffer[have + i] = octet;
                    }
                    shard.received(now, id, &mut self.buffer[..have + n]);
                }
                Want::Direct => {
                    let Some(buffer) = shard.direct(id) else { return };
                    let room = buffer.capacity() - buffer.len();
                    let n = peer.sent.len().min(piece).min(room);
                    assert!(n > 0, "asked to read into nothing");
                    buffer.extend(peer.sent.drain(..n));
                    shard.received_direct(now, id);
                }
            }
        }
    }
}

impl Peer {
    /// Reads what the broker wrote, which must be well-formed; says whether there was a PING.
    fn hear(&mut self, bytes: &[u8], tokens: &mut VecDeque<Vec<u8>>) -> bool {
        self.heard.extend_from_slice(bytes);
        if !self.greeted && self.heard.len() >= 64 {
            self.heard.drain(..64);
            self.greeted = true;
        }
        let mut ping = false;
        while self.greeted
            && let Some((start, end)) = extent(&self.heard)
        {
            let Some(payload) = self.heard.get(start..end) else { break };
            ping |= self.heard[0] & 4 != 0 && payload.starts_with(b"\x04PING");
            if payload.starts_with(b"r:") && payload.len() == 18 {
                tokens.push_front(payload.to_vec());
            }
            self.heard.drain(..end);
        }
        ping
    }
}

/// Where the payload of the first frame begins and ends; `None` if its header is not whole.
fn extent(bytes: &[u8]) -> Option<(usize, usize)> {
    let flags = *bytes.first()?;
    assert!(flags & !7 == 0, "flags of the broker: {flags:x}");
    if flags & 2 == 0 {
        return Some((2, 2 + usize::from(*bytes.get(1)?)));
    }
    let len = bytes.get(1..9)?.try_into().ok()?;
    Some((9, 9 + u64::from_be_bytes(len) as usize))
}

/// A body is whole frames, of which the last one, and only that, is the last.
fn assert_frames(body: &[u8]) {
    let frames: Vec<(bool, &[u8])> = zmtp::raw_frames(body).collect();
    let more = frames.iter().filter(|(more, _)| *more).count();
    assert_eq!(more + 1, frames.len());
    assert!(frames.last().is_some_and(|(more, _)| !more));
}
