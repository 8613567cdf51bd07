//! The words of Majordomo: MDP/0.1 (RFC 7), MDP/0.2 (RFC 18) and MMI (RFC 8), read and written.
//!
//! One endpoint serves both versions and both roles: each message says itself what it is. Frames
//! before the first empty one are a return stack (a proxy's, a REQ's correlation id) and are given
//! back as they came; that also mirrors whether a peer uses the empty delimiter at all.
//!
//! Accepted beyond the texts, because old peers do it: MDP/0.2 with the delimiter; a worker's
//! REPLY without the empty frame behind the address; bodies of no frame (given on as one empty
//! frame); unknown option frames behind READY.

use alloc::vec::Vec;

use engine::{Place, RequestId};
use zmtp::{Message, put_frame};

/// First body frame of an in-band refusal; the second is the reason.
pub const REFUSED: &[u8] = b"MAITRED-REFUSED";
/// First body frame of the reply of a worker whose handler failed; the second says how.
pub const FAILED: &[u8] = b"MAITRED-FAILED";

/// Frames a return stack may have before the delimiter.
pub(crate) const STACK_MAX: usize = 8;

/// Whether a service name is the broker's own: everything that begins with `mmi.` (RFC 8) or with
/// `maitred.`.
#[must_use]
pub fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(b"mmi.") || name.starts_with(b"maitred.")
}

/// Protocol version of a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    V01,
    V02,
}

/// What a message says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Word<'a> {
    /// A client's request. The return envelope is frames `0..header`, the body `body..`.
    Request { version: Version, header: usize, service: &'a [u8], body: usize },
    /// Anything a worker says. `delimiter`: an empty frame came first.
    Worker { version: Version, delimiter: bool, word: WorkerWord<'a> },
    /// Nothing that makes sense, and why.
    Garbage(&'static str),
}

impl Word<'_> {
    fn makes_sense(&self) -> bool {
        match self {
            Word::Request { service, .. } => !service.is_empty(),
            Word::Worker { .. } => true,
            Word::Garbage(_) => false,
        }
    }
}

/// What a worker says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum WorkerWord<'a> {
    /// Offers itself; option frames from frame `options` on.
    Ready {
        service: &'a [u8],
        options: usize,
    },
    /// Answers; the body is frames `body..`.
    Reply {
        request: Option<RequestId>,
        body: usize,
        last: bool,
    },
    Heartbeat,
    Disconnect,
    /// A command only the broker may say.
    Misuse,
}

/// Reads one message. A return stack may hold anything, also a frame that looks like a header:
/// MDP/0.2 has no delimiter and is read from its first frame if that makes sense, everything else
/// from behind the first empty frame if that does.
pub(crate) fn read<'a>(message: &Message<'a>) -> Word<'a> {
    let first = message.frame(0).is_some_and(is_header).then(|| read_at(message, 0));
    let is_v02 = message.frame(0).is_some_and(|frame| frame.ends_with(b"02"));
    if let Some(word) = first
        && is_v02
        && word.makes_sense()
    {
        return word;
    }
    let behind = delimiter_at(message).map(|delimiter| read_at(message, delimiter + 1));
    match (behind, first) {
        (Some(word), _) if word.makes_sense() => word,
        (_, Some(word)) | (Some(word), None) => word,
        (None, None) => Word::Garbage("no Majordomo header"),
    }
}

fn read_at<'a>(message: &Message<'a>, header: usize) -> Word<'a> {
    let frame = |i: usize| message.frame(header + i);
    match frame(0) {
        Some(b"MDPC01") => match frame(1) {
            Some(service) => {
                Word::Request { version: Version::V01, header, service, body: header + 2 }
            }
            None => Word::Garbage("a request without a service"),
        },
        Some(b"MDPC02") => match (frame(1), frame(2)) {
            (Some([0x01]), Some(service)) => {
                Word::Request { version: Version::V02, header, service, body: header + 3 }
            }
            _ => Word::Garbage("not an MDP/0.2 request"),
        },
        Some(b"MDPW01") if header <= 1 => worker(message, header, Version::V01),
        Some(b"MDPW02") if header <= 1 => worker(message, header, Version::V02),
        _ => Word::Garbage("no Majordomo header"),
    }
}

fn worker<'a>(message: &Message<'a>, header: usize, version: Version) -> Word<'a> {
    let command = match message.frame(header + 1) {
        Some(&[octet]) => octet,
        _ => return Word::Garbage("a worker's message without a command"),
    };
    let rest = header + 2;
    // RFC 7 and RFC 18 number the same commands differently.
    let word = match (version, command) {
        (_, 0x01) => match message.frame(rest) {
            Some(service) => WorkerWord::Ready { service, options: rest + 1 },
            None => return Word::Garbage("READY without a service"),
        },
        (_, 0x02) => WorkerWord::Misuse,
        (Version::V01, 0x03) | (Version::V02, 0x04) => reply(message, rest, true),
        (Version::V02, 0x03) => reply(message, rest, false),
        (Version::V01, 0x04) | (Version::V02, 0x05) => WorkerWord::Heartbeat,
        (Version::V01, 0x05) | (Version::V02, 0x06) => WorkerWord::Disconnect,
        _ => return Word::Garbage("an unknown worker command"),
    };
    Word::Worker { version, delimiter: header > 0, word }
}

fn reply<'a>(message: &Message<'a>, rest: usize, last: bool) -> WorkerWord<'a> {
    let request = message.frame(rest).and_then(read_token);
    let delimiter = usize::from(message.frame(rest + 1).is_some_and(<[u8]>::is_empty));
    WorkerWord::Reply { request, body: rest + 1 + delimiter, last }
}

/// The index of the first empty frame.
fn delimiter_at(message: &Message<'_>) -> Option<usize> {
    (0..=STACK_MAX).find(|i| message.frame(*i).is_some_and(<[u8]>::is_empty))
}

fn is_header(frame: &[u8]) -> bool {
    matches!(frame, b"MDPC01" | b"MDPC02" | b"MDPW01" | b"MDPW02")
}

/// The `concurrency=N` among a READY's option frames; 1 without it.
pub(crate) fn read_concurrency(message: &Message<'_>, options: usize) -> u32 {
    let option = (options..message.len())
        .filter_map(|i| message.frame(i)?.strip_prefix(b"concurrency="))
        .find_map(|digits| core::str::from_utf8(digits).ok()?.parse().ok());
    option.unwrap_or(1)
}

/// Octets of a token: `r:` and sixteen hexadecimal digits.
pub(crate) const TOKEN_BYTES: usize = 18;

/// The address frame a worker gets: our own printable token, so that nobody can answer for another
/// and every old worker echoes it unharmed.
pub(crate) fn token(request: RequestId) -> [u8; TOKEN_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut token = *b"r:0000000000000000";
    let (pairs, _) = token[2..].as_chunks_mut::<2>();
    for (pair, octet) in pairs.iter_mut().zip(request.as_u64().to_be_bytes()) {
        *pair = [DIGITS[usize::from(octet >> 4)], DIGITS[usize::from(octet & 0xF)]];
    }
    token
}

pub(crate) fn read_token(frame: &[u8]) -> Option<RequestId> {
    let digits: &[u8; 16] = frame.strip_prefix(b"r:")?.try_into().ok()?;
    // Without branches, so that the compiler can look at all digits at once.
    let valid = |octet: &u8| octet.is_ascii_digit() | matches!(octet, b'a'..=b'f');
    let all_valid = digits.iter().fold(true, |all, octet| all & valid(octet));
    let worth = digits.map(|octet| (octet & 0xF) + 9 * (octet >> 6));
    let mut id = [0; 8];
    for (octet, pair) in id.iter_mut().zip(worth.as_chunks::<2>().0) {
        *octet = pair[0] << 4 | pair[1];
    }
    all_valid.then(|| RequestId::from_u64(u64::from_be_bytes(id)))
}

/// What a session must remember of a request to answer it: travels through the engine as its tag.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tag {
    pub(crate) version: Version,
    /// Replies name the service.
    pub(crate) service_frame: bool,
    /// For a request to the broker itself.
    pub(crate) mmi: Option<Mmi>,
}

/// The broker's own services that need the engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mmi {
    /// `mmi.service`: 200 if the service has a worker, else 404 (RFC 8).
    Service,
    /// `mmi.workers`: their number.
    Workers,
    /// `maitred.match` and `maitred.regulator`.
    Meet(Place),
}

impl Mmi {
    pub(crate) fn name(self) -> &'static [u8] {
        match self {
            Mmi::Service => b"mmi.service",
            Mmi::Workers => b"mmi.workers",
            Mmi::Meet(place) => place.service().as_bytes(),
        }
    }
}

impl Tag {
    pub(crate) fn pack(self) -> u64 {
        let mmi = match self.mmi {
            None => 0,
            Some(Mmi::Service) => 1,
            Some(Mmi::Workers) => 2,
            Some(Mmi::Meet(Place::Match)) => 3,
            Some(Mmi::Meet(Place::Regulator)) => 4,
        };
        u64::from(self.version == Version::V02) | u64::from(self.service_frame) << 1 | mmi << 2
    }

    pub(crate) fn unpack(tag: u64) -> Tag {
        Tag {
            version: if tag & 1 == 0 { Version::V01 } else { Version::V02 },
            service_frame: tag & 2 != 0,
            mmi: match tag >> 2 & 7 {
                1 => Some(Mmi::Service),
                2 => Some(Mmi::Workers),
                3 => Some(Mmi::Meet(Place::Match)),
                4 => Some(Mmi::Meet(Place::Regulator)),
                _ => None,
            },
        }
    }
}

/// Everything of a reply to a client before its body.
pub(crate) fn put_reply_head(
    out: &mut Vec<u8>,
    envelope: &[u8],
    tag: Tag,
    service: &[u8],
    last: bool,
) {
    out.extend_from_slice(envelope);
    match tag.version {
        Version::V01 => out.extend_from_slice(b"\x01\x06MDPC01"),
        Version::V02 => {
            out.extend_from_slice(b"\x01\x06MDPC02\x01\x01");
            out.push(if last { 0x03 } else { 0x02 });
        }
    }
    if tag.service_frame {
        put_frame(out, true, service);
    }
}

/// Everything of a request to a worker before its body.
pub(crate) fn put_request_head(
    out: &mut Vec<u8>,
    version: Version,
    delimiter: bool,
    request: RequestId,
) {
    let mut head = *b"\x01\x00\x01\x06MDPW01\x01\x01\x02\x01\x12r:0000000000000000\x01\x00";
    if version == Version::V02 {
        head[9] = b'2';
    }
    head[15..15 + TOKEN_BYTES].copy_from_slice(&token(request));
    out.extend_from_slice(if delimiter { &head } else { &head[2..] });
}

/// What a broker says to a worker beside requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BrokerWord {
    Heartbeat,
    Disconnect,
}

/// A broker's word to a worker.
pub(crate) fn put_word(out: &mut Vec<u8>, version: Version, delimiter: bool, word: BrokerWord) {
    if delimiter {
        out.extend_from_slice(b"\x01\x00");
    }
    out.extend_from_slice(match (version, word) {
        (Version::V01, BrokerWord::Heartbeat) => b"\x01\x06MDPW01\x00\x01\x04",
        (Version::V01, BrokerWord::Disconnect) => b"\x01\x06MDPW01\x00\x01\x05",
        (Version::V02, BrokerWord::Heartbeat) => b"\x01\x06MDPW02\x00\x01\x05",
        (Version::V02, BrokerWord::Disconnect) => b"\x01\x06MDPW02\x00\x01\x06",
    });
}
