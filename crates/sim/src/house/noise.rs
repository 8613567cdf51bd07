//! Peers that send garbage of every kind.

use engine::{Span, Time};
use sessions::Speaks;
use zmtp::put_ping;

use super::speaker::{Speaker, put_message};
use super::words::{Dialect, Frames, WorkerSays};
use crate::rng::Rng;

#[derive(Debug)]
pub(crate) struct Noise {
    kind: u64,
    /// It never reads.
    pub(crate) deaf: bool,
    /// Where it connects.
    pub(crate) speaks: Speaks,
    said_at: Time,
    pause: Span,
}

const KINDS: u64 = 9;
/// Octets it has ready at most.
const BACKLOG_MAX: usize = 64 * 1024;

impl Noise {
    pub(crate) fn some(rng: &mut Rng) -> Noise {
        let kind = rng.below(KINDS);
        Noise {
            kind,
            deaf: matches!(kind, 4 | 8),
            speaks: rng.pick(&[
                Speaks::Majordomo,
                Speaks::Majordomo,
                Speaks::PirateFront(0),
                Speaks::PirateBack(0),
            ]),
            said_at: Time::ZERO,
            pause: Span::from_nanos(1_000_000 + rng.skewed(300_000_000) as i64),
        }
    }

    pub(crate) fn on_connected(&mut self, now: Time, speaker: &mut Speaker, rng: &mut Rng) {
        self.said_at = now;
        match self.kind {
            0 => {
                speaker.out.clear();
                speaker.babble(&octets(rng, 300));
            }
            1 => speaker.out.truncate(rng.index(64)),
            2 => {
                speaker.out.clear();
                speaker.babble(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            }
            _ => {}
        }
    }

    pub(crate) fn deadline(&self) -> Time {
        self.said_at + self.pause
    }

    pub(crate) fn on_wake(&mut self, now: Time, speaker: &mut Speaker, rng: &mut Rng) {
        self.said_at = now;
        if self.kind < 3 || !speaker.is_ready() || speaker.out.len() > BACKLOG_MAX {
            return;
        }
        for _ in 0..1 + rng.skewed(30) {
            self.say(speaker, rng);
        }
    }

    fn say(&self, speaker: &mut Speaker, rng: &mut Rng) {
        let mut bytes = Vec::new();
        match self.kind {
            3 => {
                put_message(&mut bytes, &some_words(rng));
                let place = rng.index(bytes.len());
                bytes[place] ^= 1 << rng.below(8);
            }
            4 => {
                let ttl = rng.pick(&[0, 0, 1, 30, 600]);
                put_ping(&mut bytes, ttl, &octets(rng, 16));
            }
            5 => bytes = b"\x02\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec(),
            6 => bytes = b"\x01\x01x".repeat(40),
            7 => {
                let mut frames = some_garbage(rng);
                // A back end takes a single frame of the right octet for a worker.
                if let Speaks::PirateBack(_) = self.speaks {
                    frames.push(Vec::new());
                }
                put_message(&mut bytes, &frames);
            }
            _ => put_message(&mut bytes, &some_words(rng)),
        }
        speaker.babble(&bytes);
    }
}

fn octets(rng: &mut Rng, most: u64) -> Vec<u8> {
    (0..rng.skewed(most)).map(|_| rng.u64() as u8).collect()
}

fn some_garbage(rng: &mut Rng) -> Frames {
    (0..1 + rng.below(12)).map(|_| octets(rng, 12)).collect()
}

/// Well-formed words at the wrong time, none of them an offer for a service of others.
fn some_words(rng: &mut Rng) -> Frames {
    let dialect = Dialect {
        v02: rng.chance(50),
        delimiter: rng.chance(70),
        names_service: true,
        pirate: None,
    };
    let body = vec![b"noise".to_vec(), octets(rng, 40)];
    let envelope = vec![Vec::new()];
    match rng.below(8) {
        0 => dialect.request(&envelope, b"mmi.service", &vec![b"alpha".to_vec()]),
        1 => dialect.request(&envelope, b"mmi.nonsense", &body),
        2 => dialect.request(&envelope, b"alpha", &body),
        3 => dialect.request(&envelope, b"", &body),
        4 => dialect.say(WorkerSays::Heartbeat),
        5 => dialect.say(WorkerSays::Ready { service: b"mmi.service", options: &[] }),
        6 => {
            let token = format!("r:{:016x}", rng.u64() & 0x7_0000_000F).into_bytes();
            dialect.say(WorkerSays::Reply { token: &token, body, last: true, empty: true })
        }
        _ => dialect.say(WorkerSays::Disconnect),
    }
}
