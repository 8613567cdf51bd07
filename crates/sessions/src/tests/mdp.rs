//! Words: a table of what each message says, tokens, and hostile frames.

use std::format;
use std::string::String;
use std::vec::Vec;

use engine::RequestId;
use proptest::prelude::*;
use zmtp::{Config, Connection, Frames, Message, SocketType, Step};

use super::peer::{greeting, message, ready};
use crate::mdp::{
    BrokerWord, Mmi, Tag, Version, Word, WorkerWord, put_reply_head, put_request_head, put_word,
    read, read_concurrency, token,
};

/// Gives a message of these frames to `f`.
pub(super) fn with_message<T>(frames: &[Vec<u8>], f: impl FnOnce(&Message<'_>) -> T) -> T {
    let config = Config::new(SocketType::Router);
    let (mut out, mut scratch) = (Vec::new(), Frames::default());
    let mut connection = Connection::new(&config, &mut out);
    let mut bytes = [greeting(1), ready("DEALER"), message(frames)].concat();
    loop {
        match connection.next(&config, &mut bytes, &mut scratch, &mut out) {
            Ok(Step::Skip { len, .. }) => drop(bytes.drain(..len)),
            Ok(Step::Message { .. }) => return f(&scratch.view(&bytes)),
            Ok(Step::More { .. } | Step::Cut { .. }) | Err(_) => panic!("a whole message"),
        }
    }
}

/// Frames between blanks: `-` is the empty one, `x01` an octet, `@` a token of request 0x1f.
pub(super) fn frames(text: &str) -> Vec<Vec<u8>> {
    let frame = |word: &str| match word.strip_prefix('x') {
        _ if word == "-" => Vec::new(),
        _ if word == "@" => token(RequestId::from_u64(0x1F)).to_vec(),
        Some(octet) => Vec::from([u8::from_str_radix(octet, 16).expect("an octet")]),
        None => word.as_bytes().to_vec(),
    };
    text.split_whitespace().map(frame).collect()
}

fn says(text: &str) -> String {
    with_message(&frames(text), |message| match read(message) {
        Word::Request { version, header, service, body } => {
            let service = String::from_utf8_lossy(service);
            format!("{version:?} request of {service}, header {header}, body {body}")
        }
        Word::Worker { version, delimiter, word } => {
            let with = if delimiter { "with" } else { "without" };
            let word = match word {
                WorkerWord::Ready { service, options } => {
                    let n = read_concurrency(message, options);
                    format!("ready for {} of {n}", String::from_utf8_lossy(service))
                }
                WorkerWord::Reply { request, body, last } => {
                    let end = if last { "last" } else { "part" };
                    format!("reply to {request:?}, body {body}, {end}")
                }
                WorkerWord::Heartbeat => "heartbeat".into(),
                WorkerWord::Disconnect => "disconnect".into(),
                WorkerWord::Misuse => "misuse".into(),
            };
            format!("{version:?} {with} delimiter: {word}")
        }
        Word::Garbage(_) => "garbage".into(),
    })
}

#[test]
fn every_word_is_read() {
    for (text, expected) in [
        ("- MDPC01 echo hi", "V01 request of echo, header 1, body 3"),
        ("MDPC01 echo hi", "V01 request of echo, header 0, body 2"),
        ("- MDPC01 echo", "V01 request of echo, header 1, body 3"),
        ("id - MDPC01 echo hi", "V01 request of echo, header 2, body 4"),
        ("MDPC02 x01 echo hi", "V02 request of echo, header 0, body 3"),
        ("- MDPC02 x01 echo", "V02 request of echo, header 1, body 4"),
        ("a b c d e f g h - MDPC01 echo", "V01 request of echo, header 9, body 11"),
        ("a b c d e f g h i - MDPC01 echo", "garbage"),
        // What looks like a header in a return stack.
        ("MDPC01 - MDPC01 echo hi", "V01 request of echo, header 2, body 4"),
        ("MDPW01 - MDPC02 x01 echo hi", "V02 request of echo, header 2, body 5"),
        // A body may look like anything. Only 0.1 without its delimiter, which no text knows, is
        // taken for a return stack then.
        ("- MDPC01 echo - MDPC01 other", "V01 request of echo, header 1, body 3"),
        ("MDPC01 echo - MDPC01 other", "V01 request of other, header 3, body 5"),
        ("MDPC02 x01 echo - MDPC01 other", "V02 request of echo, header 0, body 3"),
        ("- MDPC01", "garbage"),
        ("MDPC01", "garbage"),
        ("-", "garbage"),
        ("- -", "garbage"),
        ("hello", "garbage"),
        ("MDPC02 x02 echo hi", "garbage"),
        ("MDPC02 echo hi", "garbage"),
        ("MDPC03 x01 echo hi", "garbage"),
        ("mdpc01 echo hi", "garbage"),
        ("- MDPW01 x01 echo", "V01 with delimiter: ready for echo of 1"),
        ("MDPW01 x01 echo", "V01 without delimiter: ready for echo of 1"),
        ("MDPW02 x01 echo concurrency=8", "V02 without delimiter: ready for echo of 8"),
        ("- MDPW02 x01 echo a b=c concurrency=8", "V02 with delimiter: ready for echo of 8"),
        ("MDPW02 x01 echo concurrency=-1", "V02 without delimiter: ready for echo of 1"),
        (
            "MDPW02 x01 echo concurrency=x concurrency=2",
            "V02 without delimiter: ready for echo of 2",
        ),
        ("- MDPW01 x01", "garbage"),
        ("- MDPW01 x02 @ - hi", "V01 with delimiter: misuse"),
        ("- MDPW01 x03 @ - hi", "V01 with delimiter: reply to Some(r1f), body 5, last"),
        ("- MDPW01 x03 @ hi", "V01 with delimiter: reply to Some(r1f), body 4, last"),
        ("- MDPW01 x03 @", "V01 with delimiter: reply to Some(r1f), body 4, last"),
        ("- MDPW01 x03", "V01 with delimiter: reply to None, body 4, last"),
        ("- MDPW01 x03 somebody - hi", "V01 with delimiter: reply to None, body 5, last"),
        ("MDPW02 x03 @ - hi", "V02 without delimiter: reply to Some(r1f), body 4, part"),
        ("MDPW02 x04 @ - hi", "V02 without delimiter: reply to Some(r1f), body 4, last"),
        ("- MDPW01 x04", "V01 with delimiter: heartbeat"),
        ("MDPW02 x05", "V02 without delimiter: heartbeat"),
        ("- MDPW01 x05", "V01 with delimiter: disconnect"),
        ("MDPW02 x06", "V02 without delimiter: disconnect"),
        ("- MDPW01 x04 extra", "V01 with delimiter: heartbeat"),
        ("- MDPW01 x06", "garbage"),
        ("- MDPW02 x07", "garbage"),
        ("- MDPW01 x00", "garbage"),
        ("- MDPW01 -", "garbage"),
        ("- MDPW01 no", "garbage"),
        ("- MDPW01", "garbage"),
        ("p - MDPW01 x04", "garbage"),
    ] {
        assert_eq!(says(text), expected, "{text}");
    }
}

#[test]
fn only_our_own_spelling_is_a_token() {
    let text = |address: &str| says(&format!("- MDPW01 x03 {address} - hi"));
    assert_eq!(token(RequestId::from_u64(0x1_0000_ABCD)), *b"r:000000010000abcd");
    for good in ["r:0000000000000000", "r:ffffffffffffffff", "r:000000010000abcd"] {
        assert!(text(good).contains("Some"), "{good}");
    }
    for bad in [
        "r:",
        "r:1",
        "r:00000001000000000",
        "R:0000000100000000",
        "r:00000001ABCDEF00",
        "r:000000010000000g",
        "r:+000000100000000",
        "s:0000000100000000",
        "@0123456789ABCDEF",
    ] {
        assert!(text(bad).contains("None"), "{bad}");
    }
}

#[test]
fn every_word_of_ours_is_written() {
    let all = [
        (Version::V01, BrokerWord::Heartbeat, &b"\x01\x06MDPW01\x00\x01\x04"[..]),
        (Version::V01, BrokerWord::Disconnect, b"\x01\x06MDPW01\x00\x01\x05"),
        (Version::V02, BrokerWord::Heartbeat, b"\x01\x06MDPW02\x00\x01\x05"),
        (Version::V02, BrokerWord::Disconnect, b"\x01\x06MDPW02\x00\x01\x06"),
    ];
    for (version, word, expected) in all {
        let (mut bare, mut delimited) = (Vec::new(), Vec::new());
        put_word(&mut bare, version, false, word);
        put_word(&mut delimited, version, true, word);
        assert_eq!(bare, expected);
        assert_eq!(delimited, [b"\x01\x00", expected].concat());
    }
}

fn any_version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V01), Just(Version::V02)]
}

/// Frames that are often words of the protocol.
fn any_frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    const WORDS: [&[u8]; 9] = [
        b"",
        b"MDPC01",
        b"MDPC02",
        b"MDPW01",
        b"MDPW02",
        b"echo",
        b"mmi.service",
        b"concurrency=3",
        b"r:0000000100000001",
    ];
    let frame = prop_oneof![
        8 => (0..WORDS.len()).prop_map(|i| WORDS[i].to_vec()),
        4 => (0u8..9).prop_map(|octet| Vec::from([octet])),
        2 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(frame, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2_000)
    })]

    #[test]
    fn a_token_names_its_request(id in any::<u64>()) {
        let request = RequestId::from_u64(id);
        let frames = [b"MDPW01".to_vec(), Vec::from([3]), token(request).to_vec()];
        let read = with_message(&frames, |message| match read(message) {
            Word::Worker { word: WorkerWord::Reply { request, .. }, .. } => request,
            Word::Worker { .. } | Word::Request { .. } | Word::Garbage(_) => None,
        });
        prop_assert_eq!(read, Some(request));
    }

    #[test]
    fn a_tag_comes_back(
        version in any_version(),
        service_frame in any::<bool>(),
        mmi in prop_oneof![Just(None), Just(Some(Mmi::Service)), Just(Some(Mmi::Workers))],
    ) {
        let tag = Tag { version, service_frame, mmi };
        prop_assert_eq!(Tag::unpack(tag.pack()), tag);
    }

    #[test]
    fn whatever_is_read_lies_within_the_message(frames in any_frames()) {
        with_message(&frames, |message| match read(message) {
            Word::Request { header, service, body, .. } => {
                assert!(header <= 9 && header < body && body <= message.len() + 1);
                assert_eq!(message.frame(body - 1), Some(service));
                assert!(message.raw_between(0, header).len() < message.raw_from(0).len());
                let _ = message.raw_from(body);
            }
            Word::Worker { word: WorkerWord::Ready { options, .. }, .. } => {
                let _ = read_concurrency(message, options);
            }
            Word::Worker { word: WorkerWord::Reply { body, .. }, .. } => {
                assert!(message.raw_from_offset(body) <= message.raw_from(0).len());
            }
            Word::Worker { .. } | Word::Garbage(_) => {}
        });
    }

    #[test]
    fn what_is_written_is_well_formed(
        version in any_version(),
        delimiter in any::<bool>(),
        service_frame in any::<bool>(),
        last in any::<bool>(),
        service in prop::collection::vec(any::<u8>(), 0..300),
        id in any::<u64>(),
    ) {
        let tag = Tag { version, service_frame, mmi: None };
        let envelope = if delimiter { &b"\x01\x00"[..] } else { b"" };
        let mut reply = Vec::new();
        put_reply_head(&mut reply, envelope, tag, &service, last);
        reply.extend_from_slice(b"\x00\x01x");
        let frames: Vec<_> = zmtp::raw_frames(&reply).map(|(_, frame)| frame).collect();
        let mut expected: Vec<&[u8]> = Vec::new();
        expected.extend(delimiter.then_some(&b""[..]));
        match version {
            Version::V01 => expected.push(b"MDPC01"),
            Version::V02 => expected.extend([&b"MDPC02"[..], if last { b"\x03" } else { b"\x02" }]),
        }
        expected.extend(service_frame.then_some(&service[..]));
        expected.push(b"x");
        prop_assert_eq!(frames, expected);

        let mut request = Vec::new();
        let name = RequestId::from_u64(id);
        put_request_head(&mut request, version, delimiter, name);
        request.extend_from_slice(b"\x00\x01x");
        let frames: Vec<_> = zmtp::raw_frames(&request).map(|(_, frame)| frame).collect();
        let (token, header) = (token(name), match version {
            Version::V01 => &b"MDPW01"[..],
            Version::V02 => b"MDPW02",
        });
        let mut expected: Vec<&[u8]> = Vec::new();
        expected.extend(delimiter.then_some(&b""[..]));
        expected.extend([header, b"\x02", &token, b"", b"x"]);
        prop_assert_eq!(frames, expected);
    }
}
