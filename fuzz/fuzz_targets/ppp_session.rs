//! Whatever Paranoid Pirate peers say, among others of Majordomo: no panic, accounts that balance,
//! no worker with two requests, nothing that waits while an offer is free, and nothing left when
//! all are gone.
//!
//! Input: one octet of circumstances (0x01 two shards, 0x02 no line, 0x04 bytewise, 0x08 limits on
//! time), then steps. A step is an octet, its kind below and the peer above (`kind | peer << 4`),
//! and what the kind needs:
//!
//! | kind | |
//! |---|---|
//! | 0 | READY, as octet or word by the next octet |
//! | 1 | HEARTBEAT, likewise |
//! | 2 | a reply to one of the last tokens: which, and an octet of how |
//! | 3 | a request of so many frames |
//! | 4 | a message of frames of so many octets: their number, then each |
//! | 5 | time: in 100 ms |
//! | 6 | the peer leaves |
//! | 7 | a new peer: 0x03 where it comes in, 0x04 the other shard, 0x08 answers PING |
//! | 8 | a call from inside |
//! | 9 | the peer stops reading, or reads again |
//! | 10 | other circumstances |
//! | 11 | drain |
#![no_main]

use engine::Span;
use libfuzzer_sys::fuzz_target;
use maitred_fuzz::house::House;
use sessions::{Bytes, Dialect, Pair, ShardConfig, Speaks};

fuzz_target!(|data: &[u8]| {
    let mut data = data.iter().copied();
    let mut next = move || data.next();
    let circumstances = next().unwrap_or(0);
    let shards = 1 + (circumstances & 1);
    let piece = if circumstances & 4 != 0 { 1 } else { usize::MAX };
    let mut house = House::new(&config(circumstances), shards, piece);
    for bits in 0..6 {
        open(&mut house, bits);
    }
    for _ in 0..200 {
        let Some(octet) = next() else { break };
        step(&mut house, octet, &mut || next().unwrap_or(0));
    }
    house.end();
});

fn step(house: &mut House, octet: u8, next: &mut impl FnMut() -> u8) {
    let (kind, which) = (octet & 15, usize::from(octet >> 4));
    let peer = house.peers.get(which % house.peers.len().max(1)).copied();
    let word = |text: u8, octet: u8, word: &[u8]| {
        if text & 1 == 0 { vec![octet] } else { word.to_vec() }
    };
    match (kind, peer) {
        (0, Some(peer)) => house.send(peer, &message(&[word(next(), 1, b"READY")])),
        (1, Some(peer)) => house.send(peer, &message(&[word(next(), 2, b"HEARTBEAT")])),
        (2, Some(peer)) => {
            let (which, how) = (usize::from(next()), next());
            let token = house.tokens.get(which % house.tokens.len().max(1)).cloned();
            let mut frames = vec![token.unwrap_or_else(|| b"r:0000000100000001".to_vec())];
            frames.extend((how & 1 == 0).then(Vec::new));
            frames.extend((0..how >> 1 & 3).map(|_| b"answer".to_vec()));
            frames.extend((how & 8 != 0).then(|| vec![b'y'; 17_000]));
            house.send(peer, &message(&frames));
        }
        (3, Some(peer)) => {
            let how = next();
            let mut frames: Vec<Vec<u8>> = (0..how & 3).map(|_| b"hop".to_vec()).collect();
            frames.push(Vec::new());
            frames.extend((0..how >> 2 & 3).map(|_| b"ask".to_vec()));
            frames.extend((how & 16 != 0).then(|| vec![b'x'; 17_000]));
            house.send(peer, &message(&frames));
        }
        (4, Some(peer)) => {
            let count = 1 + next() % 12;
            let mut frames = Vec::new();
            for _ in 0..count {
                let len = next() % 24;
                frames.push((0..len).map(|_| next()).collect());
            }
            house.send(peer, &message(&frames));
        }
        (5, _) => house.wait(Span::from_millis(i64::from(next()) * 100)),
        (6, Some(peer)) => house.close(peer),
        (7, _) => open(house, next()),
        (8, _) => house.call(b"echo", b"\x00\x01x"),
        (9, Some(peer)) => house.stall(peer, next() & 1 != 0),
        (10, _) => house.configure(&config(next())),
        (11, _) => house.drain(),
        (_, _) => {}
    }
}

fn open(house: &mut House, bits: u8) {
    let mut opening = b"\xff\0\0\0\0\0\0\0\0\x7f\x03\x01NULL".to_vec();
    opening.resize(64, 0);
    opening.extend_from_slice(b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER");
    let speaks = match bits & 3 {
        0 => Speaks::PirateBack(0),
        1 => Speaks::PirateFront(0),
        2 => Speaks::PirateBack(1),
        _ => Speaks::Majordomo,
    };
    let dialect = Dialect { speaks, ..Dialect::default() };
    house.open(usize::from(bits >> 2 & 1), dialect, bits & 8 != 0, &opening);
    if speaks == Speaks::Majordomo
        && let Some(peer) = house.peers.last().copied()
    {
        house.send(peer, b"\x01\x00\x01\x06MDPW01\x01\x01\x01\x00\x04echo");
    }
}

fn config(bits: u8) -> ShardConfig {
    let pair = |service: &'static [u8]| Pair {
        service: Bytes::from_static(service),
        heartbeat: Span::from_secs(1),
        liveness: 3,
    };
    let mut config =
        ShardConfig { pairs: vec![pair(b"echo"), pair(b"other")], ..Default::default() };
    config.limits.connections = 12;
    config.limits.garbage = 20;
    if bits & 2 != 0 {
        config.engine.defaults.queue_max = 0;
        config.limits.out_bytes = 30_000;
    }
    if bits & 8 != 0 {
        config.engine.defaults.give_up = Span::from_secs(2);
        config.engine.defaults.execution_limit = Span::from_secs(4);
        config.engine.defaults.answer_refusals = true;
    }
    config
}

fn message(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (i, frame) in frames.iter().enumerate() {
        zmtp::put_frame(&mut bytes, i + 1 < frames.len(), frame);
    }
    bytes
}
