//! Tests speak data: bytes in, all that came of them out. `hear` alone knows the API of a
//! connection.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::connection::{Config, Connection, Event, Step};
use crate::error::{Error, What};
use crate::frame::{
    Frames, Message, put_error, put_frame, put_header, put_ping, raw_frames, set_more_on_last,
};
use crate::limits::Limits;
use crate::socket_type::SocketType;

mod commands;
mod frames;
mod handshake;
mod limits;
mod properties;
mod secure;

/// What a whole conversation came to, however its bytes were cut.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Heard {
    items: Vec<Item>,
    /// Everything written to the peer after our greeting.
    out: Vec<u8>,
    /// What was neither consumed nor refused.
    left: Vec<u8>,
    /// Minor version, socket type and identity of the peer.
    peer: (u8, Option<SocketType>, Vec<u8>),
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Item {
    Event(Event),
    Message(Vec<Vec<u8>>),
    Refused(Error),
}

/// Feeds `bytes` to a new connection in pieces that end at `cuts`, and drains it after each piece.
fn hear(config: &Config, bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> Heard {
    let mut out = Vec::new();
    let mut connection = Connection::new(config, &mut out);
    let (mut buf, mut frames, mut items) = (Vec::new(), Frames::default(), Vec::new());
    let mut fed = 0;
    'feed: for cut in cuts.into_iter().chain([bytes.len()]) {
        buf.extend_from_slice(&bytes[fed..cut]);
        fed = cut;
        loop {
            match connection.next(config, &mut buf, &mut frames, &mut out) {
                Ok(Step::More { need }) => {
                    assert!(need > buf.len(), "need {need} with {} there", buf.len());
                    assert!(need as u64 <= need_max(&config.limits), "need {need}");
                    break;
                }
                Ok(Step::Skip { len, event }) => {
                    items.extend(event.map(Item::Event));
                    buf.drain(..len);
                }
                Ok(Step::Cut { len, event }) => {
                    items.extend(event.map(Item::Event));
                    buf.truncate(buf.len() - len);
                }
                Ok(Step::Message { len }) => {
                    let message = frames.view(&buf);
                    assert_eq!(message.raw_from(0), &buf[..len]);
                    items.push(Item::Message(payloads(message)));
                    buf.drain(..len);
                }
                Err(error) => {
                    items.push(Item::Refused(error));
                    buf.clear();
                    break 'feed;
                }
            }
        }
    }
    let peer = connection.peer();
    let peer = (peer.minor, peer.socket_type, peer.identity.to_vec());
    Heard { items, out: out.split_off(64), left: buf, peer }
}

/// The most a connection may ask for: a whole message with long headers, and a command in its
/// middle.
fn need_max(limits: &Limits) -> u64 {
    let message = limits.message_bytes_max.saturating_add(9 * u64::from(limits.frames_max));
    message.saturating_add(9 + u64::from(limits.command_bytes_max)).max(64)
}

/// One conversation and all that comes of it.
#[derive(Clone, Debug)]
struct Case {
    name: &'static str,
    config: Config,
    bytes: Vec<u8>,
    items: Vec<Item>,
    /// Expected after our greeting.
    out: Vec<u8>,
    left: Vec<u8>,
}

impl Case {
    /// A ROUTER hears `bytes` from the very start.
    fn new(name: &'static str, bytes: &[u8]) -> Case {
        let config = Config::new(SocketType::Router);
        let (items, out, left) = Default::default();
        Case { name, config, bytes: bytes.into(), items, out, left }
    }

    /// A ROUTER has shaken hands with a DEALER and hears `bytes`.
    fn traffic(name: &'static str, bytes: &[u8]) -> Case {
        let bytes = [&GREETING[..], DEALER_READY, bytes].concat();
        Case::new(name, &bytes).answers(ROUTER_READY).event(Event::Ready)
    }

    fn ours(mut self, socket_type: SocketType) -> Case {
        self.config.socket_type = socket_type;
        self
    }

    fn limits(mut self, limits: Limits) -> Case {
        self.config.limits = limits;
        self
    }

    fn event(mut self, event: Event) -> Case {
        self.items.push(Item::Event(event));
        self
    }

    fn message(mut self, frames: &[&[u8]]) -> Case {
        self.items.push(Item::Message(frames.iter().map(|frame| frame.to_vec()).collect()));
        self
    }

    fn answers(mut self, bytes: &[u8]) -> Case {
        self.out.extend_from_slice(bytes);
        self
    }

    fn left(mut self, bytes: &[u8]) -> Case {
        self.left.extend_from_slice(bytes);
        self
    }

    /// Ends in `error` without a word to the peer.
    fn hangs_up(mut self, error: Error) -> Case {
        self.items.push(Item::Refused(error));
        self
    }

    /// Ends in `error`, and the peer is told its kind.
    fn refuses(self, kind: &str, error: Error) -> Case {
        assert_eq!(kind, error.kind());
        let body = [b"\x05ERROR", &[kind.len() as u8][..], kind.as_bytes()].concat();
        self.answers(&command(&body)).hangs_up(error)
    }
}

/// Hears the case whole, bytewise, in pieces cut at two places, and with bytes behind it; all must
/// agree. Gives back what was heard.
#[track_caller]
fn check(case: Case) -> Heard {
    let Case { name, config, bytes, items, out, left } = case;
    let whole = hear(&config, &bytes, []);
    let expected = Heard { items, out, left, peer: whole.peer.clone() };
    assert_eq!(whole, expected, "{name}: whole");
    assert_eq!(hear(&config, &bytes, 0..bytes.len()), expected, "{name}: bytewise");

    let mut seed = name.bytes().fold(17, |seed: usize, b| seed * 31 % 65_521 + usize::from(b));
    for _ in 0..20 {
        let mut cut = || {
            seed = (seed * 75 + 74) % 65_537;
            seed * (bytes.len() + 1) / 65_537
        };
        let (a, b) = (cut(), cut());
        assert_eq!(
            hear(&config, &bytes, [a.min(b), a.max(b)]),
            expected,
            "{name}: cut at {a} and {b}"
        );
    }

    if expected.left.is_empty() {
        let refused = matches!(expected.items.last(), Some(Item::Refused(_)));
        let trailing: &[u8] = if refused { b"\xff\xff\xff" } else { b"\x01\x05abc" };
        let left = if refused { Vec::new() } else { trailing.to_vec() };
        let bytes = [&bytes[..], trailing].concat();
        // Nothing can follow half a greeting or handshake but the rest of it.
        if refused || matches!(expected.items.first(), Some(Item::Event(Event::Ready))) {
            let expected = Heard { left, ..expected };
            assert_eq!(hear(&config, &bytes, []), expected, "{name}: trailing bytes");
        }
    }
    whole
}

/// A short command frame.
fn command(body: &[u8]) -> Vec<u8> {
    [&[0x04, u8::try_from(body.len()).unwrap()], body].concat()
}

/// A property of a READY.
fn property(name: &str, value: &[u8]) -> Vec<u8> {
    let length = (value.len() as u32).to_be_bytes();
    [&[name.len() as u8], name.as_bytes(), &length, value].concat()
}

/// A READY command with these properties, in a long frame.
fn ready(properties: &[Vec<u8>]) -> Vec<u8> {
    let body = [b"\x05READY", &properties.concat()[..]].concat();
    [&[0x06], &(body.len() as u64).to_be_bytes()[..], &body].concat()
}

fn payloads(message: Message<'_>) -> Vec<Vec<u8>> {
    (0..message.len()).map(|i| message.frame(i).unwrap().to_vec()).collect()
}

/// A ZMTP 3.1 peer's greeting with NULL.
const GREETING: [u8; 64] = {
    let mut greeting = [0; 64];
    (greeting[0], greeting[9], greeting[10], greeting[11]) = (0xff, 0x7f, 3, 1);
    (greeting[12], greeting[13], greeting[14], greeting[15]) = (b'N', b'U', b'L', b'L');
    greeting
};
const DEALER_READY: &[u8] = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER";
const ROUTER_READY: &[u8] = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06ROUTER";
