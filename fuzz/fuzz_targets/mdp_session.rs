//! Whatever peers say to shards in whatever order: no panic, accounts that balance, nothing that
//! waits while an offer is free, and nothing left when all are gone.
//!
//! Input: one octet of circumstances (0x01 two shards, 0x02 tight limits, 0x04 bytewise), then
//! steps. A step is its kind, a peer, and what the kind needs:
//!
//! | kind | |
//! |---|---|
//! | 0 | a message: its number of frames, then each frame |
//! | 1 | raw bytes: their number, then they |
//! | 2 | time: in 100 ms |
//! | 3 | the peer leaves |
//! | 4 | a new peer: 0x01 on the other shard, 0x02 ZMTP 3.0, 0x04 answers PING, 0x08 is mute |
//! | 5 | a call from inside: a frame that names the service |
//! | 6 | a call is given up |
//! | 7 | the peer stops reading, or reads again |
//! | 8 | other rules: an octet of them |
//! | 9 | drain |
//!
//! A frame is an octet: below 0x40 a word of [`WORDS`], the last tokens, then one octet; from there
//! on so many octets as it says, 0xff a body of 17,000.
#![no_main]

use engine::Span;
use libfuzzer_sys::fuzz_target;
use maitred_fuzz::house::House;
use sessions::{Dialect, ShardConfig};

const WORDS: [&[u8]; 16] = [
    b"",
    b"MDPC01",
    b"MDPC02",
    b"MDPW01",
    b"MDPW02",
    b"left",
    b"right",
    b"mmi.service",
    b"mmi.workers",
    b"mmi.heartbeat",
    b"concurrency=2",
    b"concurrency=70000",
    b"\x01",
    b"\x03",
    b"\x04",
    b"r:0000000100000001",
];
const TOKENS: u8 = 0x18;

fuzz_target!(|data: &[u8]| {
    let mut data = Data(data);
    let circumstances = data.octet();
    let shards = 1 + (circumstances & 1);
    let piece = if circumstances & 4 != 0 { 1 } else { usize::MAX };
    let mut house = House::new(&config(circumstances & 2), shards, piece);
    for peer in 0..4 {
        open(&mut house, peer);
    }
    for _ in 0..200 {
        if data.0.is_empty() {
            break;
        }
        step(&mut house, &mut data);
    }
    house.end();
});

fn step(house: &mut House, data: &mut Data<'_>) {
    let (kind, which) = (data.octet() % 10, usize::from(data.octet()));
    let peer = house.peers.get(which % house.peers.len().max(1)).copied();
    match (kind, peer) {
        (0, Some(peer)) => {
            let frames: Vec<Vec<u8>> = (0..data.octet() % 16).map(|_| frame(house, data)).collect();
            house.send(peer, &message(&frames));
        }
        (1, Some(peer)) => {
            let n = usize::from(data.octet());
            let bytes = data.octets(n);
            house.send(peer, bytes);
        }
        (2, _) => house.wait(Span::from_millis(i64::from(data.octet()) * 100)),
        (3, Some(peer)) => house.close(peer),
        (4, _) => open(house, data.octet()),
        (5, _) => {
            let service = frame(house, data);
            house.call(&service, b"\x00\x01x");
        }
        (6, _) => house.hang_up(which),
        (7, Some(peer)) => house.stall(peer, data.octet() & 1 != 0),
        (8, _) => house.configure(&config(data.octet())),
        (9, _) => house.drain(),
        (_, _) => {}
    }
}

fn open(house: &mut House, bits: u8) {
    let mut opening = Vec::new();
    if bits & 8 == 0 {
        opening.extend_from_slice(b"\xff\0\0\0\0\0\0\0\0\x7f\x03");
        opening.push(u8::from(bits & 2 == 0));
        opening.extend_from_slice(b"NULL");
        opening.resize(64, 0);
        opening.extend_from_slice(b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER");
    }
    let pongs = bits & 4 != 0;
    let dialect = Dialect { mdp02_service_frame: pongs, ..Dialect::default() };
    house.open(usize::from(bits & 1), dialect, pongs, &opening);
}

fn config(bits: u8) -> ShardConfig {
    let mut config = ShardConfig::default();
    config.limits.connections = 12;
    config.limits.idle = Span::from_secs(30);
    if bits & 2 != 0 {
        config.limits.garbage = 3;
        config.limits.out_bytes = 30_000;
        config.zmtp.message_bytes_max = 40_000;
        config.engine.services_max = 3;
        let rules = &mut config.engine.defaults;
        rules.queue_max = usize::from(bits >> 4 & 3);
        rules.queue_bytes = 20_000;
        rules.max_deliveries = 2;
        rules.answer_refusals = bits & 4 != 0;
    }
    if bits & 8 != 0 {
        config.engine.defaults.give_up = Span::from_secs(2);
        config.engine.defaults.execution_limit = Span::from_secs(4);
    }
    config
}

fn frame(house: &House, data: &mut Data<'_>) -> Vec<u8> {
    let octet = data.octet();
    match octet {
        0..0x10 => WORDS[usize::from(octet)].to_vec(),
        0x10..TOKENS => house.tokens.get(usize::from(octet) - 0x10).cloned().unwrap_or_default(),
        TOKENS..0x40 => vec![octet - TOKENS],
        0xff => vec![b'x'; 17_000],
        _ => data.octets(usize::from(octet) - 0x40).to_vec(),
    }
}

fn message(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (i, frame) in frames.iter().enumerate() {
        zmtp::put_frame(&mut bytes, i + 1 < frames.len(), frame);
    }
    bytes
}

/// What is left of the input; zeros behind its end.
struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    fn octet(&mut self) -> u8 {
        self.octets(1).first().copied().unwrap_or(0)
    }

    fn octets(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
