//! Majordomo's words (RFC 7 and RFC 18), as a client and a worker say and hear them. Paranoid
//! Pirate's are in [`ppp`], and are told apart here.
//!
//! Knows bytes and frames only: nothing of sockets, of time, or of who called whom.

use zmtp::put_frame;

use crate::message::Message;
use crate::ppp;

/// What is spoken with a broker.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Protocol {
    /// MDP/0.1 (RFC 7): spoken by every Majordomo broker. It knows no partial replies.
    V01,
    /// MDP/0.2 (RFC 18): with partial replies.
    #[default]
    V02,
    /// Paranoid Pirate (RFC 6), of a client to the front end or of a worker to the back end of a
    /// queue. The endpoint stands for the service: names of services are not sent. It knows no
    /// partial replies, no concurrency, and no goodbye.
    Ppp,
}

impl Protocol {
    /// Headers and octets of a version of Majordomo; `None` for what is not Majordomo.
    fn words(self) -> Option<Words> {
        match self {
            Protocol::V01 => Some(Words {
                client_header: b"MDPC01",
                worker_header: b"MDPW01",
                delimiter: true,
                partial: None,
                reply: 0x03,
                heartbeat: 0x04,
                disconnect: 0x05,
            }),
            Protocol::V02 => Some(Words {
                client_header: b"MDPC02",
                worker_header: b"MDPW02",
                delimiter: false,
                partial: Some(0x03),
                reply: 0x04,
                heartbeat: 0x05,
                disconnect: 0x06,
            }),
            Protocol::Ppp => None,
        }
    }

    /// Whether a worker may send partial replies.
    pub(crate) fn has_partials(self) -> bool {
        self.words().is_some_and(|words| words.partial.is_some())
    }
}

/// What a version of Majordomo calls things.
struct Words {
    client_header: &'static [u8],
    worker_header: &'static [u8],
    /// 0.1 has the empty frame a REQ socket would add.
    delimiter: bool,
    partial: Option<u8>,
    reply: u8,
    heartbeat: u8,
    disconnect: u8,
}

impl Words {
    /// Writes what stands before every command of a worker.
    fn put_worker_head(&self, out: &mut Vec<u8>, more: bool, command: u8) {
        if self.delimiter {
            put_frame(out, true, b"");
        }
        put_frame(out, true, self.worker_header);
        put_frame(out, more, &[command]);
    }
}

/// Whether more replies to the same request follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    Partial,
    Final,
}

/// Frames around a message's body in the longest envelope, for limits that count frames.
pub(crate) const ENVELOPE_FRAMES: u32 = 6;

/// Bytes of the longest envelope: a service name or a client's address has at most 255.
pub(crate) const ENVELOPE_BYTES_MAX: u64 = 512;

/// Writes a request. The `id` travels as a return stack of one frame, which brokers that follow RFC
/// 28's envelopes give back in front of the replies.
pub(crate) fn put_request(
    out: &mut Vec<u8>,
    protocol: Protocol,
    id: Option<u64>,
    service: &[u8],
    body: &Message,
) {
    let Some(words) = protocol.words() else {
        ppp::put_request_head(out, id);
        return put_body(out, body);
    };
    if let Some(id) = id {
        put_frame(out, true, &id.to_be_bytes());
    }
    if words.delimiter || id.is_some() {
        put_frame(out, true, b"");
    }
    put_frame(out, true, words.client_header);
    if words.partial.is_some() {
        put_frame(out, true, &[0x01]);
    }
    put_frame(out, true, service);
    put_body(out, body);
}

/// What a client hears.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ReplyHead {
    /// As it was given to [`put_request`].
    pub(crate) id: Option<u64>,
    pub(crate) part: Part,
    /// The first frame of the body.
    pub(crate) body_from: usize,
}

/// Reads a reply's envelope; `None` if it is none. Frames between the id and the header are
/// skipped, whether or not the delimiter is among them.
pub(crate) fn read_reply(message: zmtp::Message<'_>, protocol: Protocol) -> Option<ReplyHead> {
    let Some(words) = protocol.words() else { return ppp::read_reply(message) };
    let header = (0..3).find(|&i| message.frame(i) == Some(words.client_header))?;
    let id = match header {
        0 => None,
        _ => message.frame(0)?.try_into().ok().map(u64::from_be_bytes),
    };
    let (part, service) = match (words.partial, message.frame(header + 1)?) {
        (None, _) => (Part::Final, header + 1),
        (Some(_), [0x02]) => (Part::Partial, header + 2),
        (Some(_), [0x03]) => (Part::Final, header + 2),
        (Some(_), _) => return None,
    };
    message.frame(service)?;
    Some(ReplyHead { id, part, body_from: service + 1 })
}

/// Writes READY. A concurrency above one is told in an option frame that brokers which do not know
/// it ignore.
pub(crate) fn put_ready(out: &mut Vec<u8>, protocol: Protocol, service: &[u8], concurrency: usize) {
    let Some(words) = protocol.words() else { return ppp::put_ready(out) };
    words.put_worker_head(out, true, 0x01);
    put_frame(out, concurrency > 1, service);
    if concurrency > 1 {
        put_frame(out, false, format!("concurrency={concurrency}").as_bytes());
    }
}

pub(crate) fn put_heartbeat(out: &mut Vec<u8>, protocol: Protocol) {
    match protocol.words() {
        Some(words) => words.put_worker_head(out, false, words.heartbeat),
        None => ppp::put_heartbeat(out),
    }
}

/// Writes a goodbye, where there is a word for it.
pub(crate) fn put_disconnect(out: &mut Vec<u8>, protocol: Protocol) {
    if let Some(words) = protocol.words() {
        words.put_worker_head(out, false, words.disconnect);
    }
}

/// Writes a reply to `client`, as its request named it.
///
/// # Panics
/// If it is a partial one and the protocol knows none.
pub(crate) fn put_reply(
    out: &mut Vec<u8>,
    protocol: Protocol,
    part: Part,
    client: &[u8],
    body: &Message,
) {
    let command = protocol.words().map(|words| match part {
        Part::Final => (words.reply, words),
        Part::Partial => (words.partial.expect("the protocol has partial replies"), words),
    });
    match command {
        Some((command, words)) => {
            words.put_worker_head(out, true, command);
            put_frame(out, true, client);
            put_frame(out, true, b"");
        }
        None => out.extend_from_slice(client),
    }
    put_body(out, body);
}

fn put_body(out: &mut Vec<u8>, body: &Message) {
    let last = body.len() - 1;
    for (i, frame) in body.iter().enumerate() {
        put_frame(out, i < last, frame);
    }
}

/// What a worker hears.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Command<'a> {
    Request {
        /// To be given back with the reply.
        client: &'a [u8],
        /// The first frame of the body.
        body_from: usize,
    },
    Heartbeat,
    Disconnect,
}

/// Reads what a broker tells a worker; `None` if it is no such thing. The delimiters before the
/// header and after the client's address may be missing.
pub(crate) fn read_command(message: zmtp::Message<'_>, protocol: Protocol) -> Option<Command<'_>> {
    let Some(words) = protocol.words() else { return ppp::read_command(message) };
    let header = usize::from(message.frame(0)?.is_empty());
    if message.frame(header)? != words.worker_header {
        return None;
    }
    let &[command] = message.frame(header + 1)? else { return None };
    if command == 0x02 {
        let client = message.frame(header + 2)?;
        let delimiter = header + 3;
        let delimited = message.frame(delimiter).is_some_and(<[u8]>::is_empty);
        return Some(Command::Request { client, body_from: delimiter + usize::from(delimited) });
    }
    if command == words.heartbeat {
        return Some(Command::Heartbeat);
    }
    (command == words.disconnect).then_some(Command::Disconnect)
}

/// The first frame of a two-frame final reply that is a broker's refusal; the second is its reason.
pub(crate) const REFUSED: &[u8] = b"MAITRED-REFUSED";

/// The first frame of a two-frame final reply that says the handler failed; the second is its text.
pub(crate) const FAILED: &[u8] = b"MAITRED-FAILED";

#[cfg(test)]
mod tests {
    use zmtp::{Config, Connection, Frames, SocketType, Step};

    use super::*;

    /// Shows frames as text, `∅` for an empty one.
    fn shown(out: &[u8]) -> String {
        let frames = zmtp::raw_frames(out).map(|(more, frame)| {
            let text =
                if frame.is_empty() { "∅".into() } else { frame.escape_ascii().to_string() };
            if more { text + "|" } else { text }
        });
        frames.collect()
    }

    /// Gives `frames` to `read` as a message that came over a connection.
    fn with_message<T>(frames: &[&[u8]], read: impl FnOnce(zmtp::Message<'_>) -> T) -> T {
        let config = Config::new(SocketType::Dealer);
        let (mut buf, mut out) = (Vec::new(), Vec::new());
        let mut router = Config::new(SocketType::Router);
        router.limits = config.limits;
        let mut theirs = Connection::new(&router, &mut buf);
        let mut ours = Connection::new(&config, &mut out);
        let mut spans = Frames::default();
        // The router answers our greeting with its READY.
        theirs.next(&router, &mut out.clone(), &mut spans, &mut buf).unwrap();
        for (i, frame) in frames.iter().enumerate() {
            put_frame(&mut buf, i + 1 < frames.len(), frame);
        }
        loop {
            match ours.next(&config, &mut buf, &mut spans, &mut out).unwrap() {
                Step::Skip { len, .. } => drop(buf.drain(..len)),
                Step::Message { .. } => return read(spans.view(&buf)),
                Step::More { .. } | Step::Cut { .. } => panic!("an incomplete message"),
            }
        }
    }

    #[test]
    fn a_client_speaks() {
        let check = |protocol, id, body: Message, expected: &str| {
            let mut out = Vec::new();
            put_request(&mut out, protocol, id, b"echo", &body);
            assert_eq!(shown(&out), expected);
        };
        let many = || Message::frames(["a", "", "c"]);
        check(Protocol::V01, None, "hi".into(), "∅|MDPC01|echo|hi");
        check(Protocol::V01, None, ().into(), "∅|MDPC01|echo|∅");
        check(
            Protocol::V01,
            Some(258),
            many(),
            r"\x00\x00\x00\x00\x00\x00\x01\x02|∅|MDPC01|echo|a|∅|c",
        );
        check(Protocol::V02, None, many(), r"MDPC02|\x01|echo|a|∅|c");
        check(
            Protocol::V02,
            Some(1),
            "hi".into(),
            r"\x00\x00\x00\x00\x00\x00\x00\x01|∅|MDPC02|\x01|echo|hi",
        );
        check(Protocol::Ppp, None, many(), "∅|a|∅|c");
        check(Protocol::Ppp, Some(1), "hi".into(), r"\x00\x00\x00\x00\x00\x00\x00\x01|∅|hi");
    }

    #[test]
    fn a_client_hears() {
        let check = |protocol, frames: &[&[u8]], expected: Option<(Option<u64>, Part, usize)>| {
            let got = with_message(frames, |message| read_reply(message, protocol));
            let got = got.map(|head| (head.id, head.part, head.body_from));
            assert_eq!(got, expected, "{protocol:?} {frames:?}");
        };
        let id: &[u8] = &7_u64.to_be_bytes();
        use Part::{Final, Partial};
        check(Protocol::V01, &[b"", b"MDPC01", b"s", b"x"], Some((None, Final, 3)));
        check(Protocol::V01, &[id, b"", b"MDPC01", b"s", b"x"], Some((Some(7), Final, 4)));
        check(Protocol::V01, &[b"", b"MDPC01", b"s"], Some((None, Final, 3)));
        check(Protocol::V01, &[b"", b"MDPC01"], None);
        check(Protocol::V01, &[b"", b"MDPC02", b"\x03", b"s"], None);
        check(Protocol::V01, &[b"hello"], None);
        check(Protocol::V02, &[b"MDPC02", b"\x03", b"s", b"x"], Some((None, Final, 3)));
        check(Protocol::V02, &[b"", b"MDPC02", b"\x02", b"s", b"x"], Some((None, Partial, 4)));
        check(
            Protocol::V02,
            &[id, b"", b"MDPC02", b"\x02", b"s", b"x"],
            Some((Some(7), Partial, 5)),
        );
        check(Protocol::V02, &[id, b"MDPC02", b"\x03", b"s", b"x"], Some((Some(7), Final, 4)));
        check(Protocol::V02, &[b"odd", b"", b"MDPC02", b"\x03", b"s"], Some((None, Final, 5)));
        check(Protocol::V02, &[id, b"", b"MDPC02", b"\x01", b"s", b"x"], None);
        check(Protocol::V02, &[id, b"", b"MDPC02", b"\x03"], None);
        check(Protocol::V02, &[id, id, b"", b"MDPC02", b"\x03", b"s"], None);
        check(Protocol::Ppp, &[b"", b"x"], Some((None, Final, 1)));
        check(Protocol::Ppp, &[id, b"", b"", b"x"], Some((Some(7), Final, 2)));
        check(Protocol::Ppp, &[b"odd", b"", b"x"], Some((None, Final, 2)));
        check(Protocol::Ppp, &[b"x"], None);
    }

    #[test]
    fn a_worker_speaks() {
        let check = |put: &dyn Fn(&mut Vec<u8>, Protocol), v01: &str, v02: &str, ppp: &str| {
            let all = [(Protocol::V01, v01), (Protocol::V02, v02), (Protocol::Ppp, ppp)];
            for (protocol, expected) in all {
                let mut out = Vec::new();
                put(&mut out, protocol);
                assert_eq!(shown(&out), expected);
            }
        };
        check(
            &|out, protocol| put_ready(out, protocol, b"echo", 1),
            r"∅|MDPW01|\x01|echo",
            r"MDPW02|\x01|echo",
            r"\x01",
        );
        check(
            &|out, protocol| put_ready(out, protocol, b"echo", 8),
            r"∅|MDPW01|\x01|echo|concurrency=8",
            r"MDPW02|\x01|echo|concurrency=8",
            r"\x01",
        );
        check(&put_heartbeat, r"∅|MDPW01|\x04", r"MDPW02|\x05", r"\x02");
        check(&put_disconnect, r"∅|MDPW01|\x05", r"MDPW02|\x06", "");
        check(
            &|out, protocol| {
                let client: &[u8] =
                    if protocol == Protocol::Ppp { b"\x01\x01c\x01\x00" } else { b"c" };
                put_reply(out, protocol, Part::Final, client, &"hi".into());
            },
            r"∅|MDPW01|\x03|c|∅|hi",
            r"MDPW02|\x04|c|∅|hi",
            "c|∅|hi",
        );
        let mut out = Vec::new();
        put_reply(&mut out, Protocol::V02, Part::Partial, b"c", &"hi".into());
        assert_eq!(shown(&out), r"MDPW02|\x03|c|∅|hi");
    }

    #[test]
    fn a_worker_hears() {
        let check = |protocol, frames: &[&[u8]], expected: Option<Command<'_>>| {
            with_message(frames, |message| {
                assert_eq!(read_command(message, protocol), expected, "{protocol:?} {frames:?}");
            });
        };
        let request = |body_from| Some(Command::Request { client: b"c", body_from });
        check(Protocol::V01, &[b"", b"MDPW01", b"\x02", b"c", b"", b"x"], request(5));
        check(Protocol::V01, &[b"", b"MDPW01", b"\x02", b"c", b"x"], request(4));
        check(Protocol::V01, &[b"", b"MDPW01", b"\x04"], Some(Command::Heartbeat));
        check(Protocol::V01, &[b"", b"MDPW01", b"\x05"], Some(Command::Disconnect));
        check(Protocol::V01, &[b"", b"MDPW01", b"\x06"], None);
        check(Protocol::V01, &[b"", b"MDPW02", b"\x05"], None);
        check(Protocol::V02, &[b"MDPW02", b"\x02", b"c", b"", b"x"], request(4));
        check(Protocol::V02, &[b"", b"MDPW02", b"\x02", b"c", b"", b"", b"x"], request(5));
        check(Protocol::V02, &[b"MDPW02", b"\x02", b"c", b""], request(4));
        check(Protocol::V02, &[b"MDPW02", b"\x02"], None);
        check(Protocol::V02, &[b"MDPW02", b"\x05"], Some(Command::Heartbeat));
        check(Protocol::V02, &[b"MDPW02", b"\x06"], Some(Command::Disconnect));
        check(Protocol::V02, &[b"MDPW02"], None);
        check(Protocol::V02, &[b"MDPW02", b"\x02\x02"], None);
        check(Protocol::V02, &[b""], None);
        let request = |client, body_from| Some(Command::Request { client, body_from });
        check(Protocol::Ppp, &[b"c", b"", b"x"], request(b"\x01\x01c\x01\x00", 2));
        let stack = b"\x01\x01a\x01\x01b\x01\x00";
        check(Protocol::Ppp, &[b"a", b"b", b"", b"", b"x"], request(stack, 3));
        check(Protocol::Ppp, &[b"c", b""], request(b"\x01\x01c\x00\x00", 2));
        check(Protocol::Ppp, &[b"c", b"x"], None);
        check(Protocol::Ppp, &[b"\x02"], Some(Command::Heartbeat));
        check(Protocol::Ppp, &[b"HEARTBEAT"], Some(Command::Heartbeat));
        check(Protocol::Ppp, &[b"\x01"], None);
    }
}
