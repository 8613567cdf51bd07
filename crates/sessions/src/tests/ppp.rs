//! Words of Paranoid Pirate: a table of what each message says, and hostile frames.

use std::format;
use std::string::String;
use std::vec::Vec;

use engine::RequestId;
use proptest::prelude::*;

use super::mdp::{frames, with_message};
use crate::mdp::token;
use crate::ppp::{Letters, Word, body_of, put_heartbeat, put_request_head, read};
use crate::tongue::Asker;

fn says(text: &str) -> String {
    with_message(&frames(text), |message| match read(message) {
        Word::Ready(letters) => format!("ready in {letters:?}"),
        Word::Heartbeat => "heartbeat".into(),
        Word::Reply { request, body } => format!("reply to {request:?}, body {body}"),
        Word::Garbage(_) => "garbage".into(),
    })
}

#[test]
fn every_word_of_a_worker_is_read() {
    for (text, expected) in [
        ("x01", "ready in Octets"),
        ("READY", "ready in Text"),
        ("x02", "heartbeat"),
        ("HEARTBEAT", "heartbeat"),
        ("x00", "garbage"),
        ("x03", "garbage"),
        ("-", "garbage"),
        ("ready", "garbage"),
        ("READY.", "garbage"),
        ("HEARTBEATS", "garbage"),
        ("@", "garbage"),
        ("@ - hi", "reply to Some(r1f), body 2"),
        ("@ hi", "reply to Some(r1f), body 1"),
        ("@ -", "reply to Some(r1f), body 2"),
        ("@ - -", "reply to Some(r1f), body 2"),
        ("@ - a - b", "reply to Some(r1f), body 2"),
        ("@ a - b", "reply to Some(r1f), body 1"),
        // A body may look like anything, also like a control word.
        ("@ - x01", "reply to Some(r1f), body 2"),
        ("@ READY", "reply to Some(r1f), body 1"),
        ("x01 x02", "reply to None, body 1"),
        ("READY echo", "reply to None, body 1"),
        ("somebody - hi", "reply to None, body 2"),
        ("- MDPW01 x01 echo", "reply to None, body 1"),
        ("r:1 - hi", "reply to None, body 2"),
    ] {
        assert_eq!(says(text), expected, "{text}");
    }
}

#[test]
fn a_clients_body_is_found_behind_its_stack() {
    for (text, expected) in [
        ("- hi", Some(1)),
        ("-", Some(1)),
        ("- -", Some(1)),
        ("id - hi", Some(2)),
        ("id - a - b", Some(2)),
        ("a b c d e f g h - hi", Some(9)),
        ("a b c d e f g h i - hi", None),
        ("hi", None),
        ("x01", None),
        ("HEARTBEAT", None),
    ] {
        assert_eq!(with_message(&frames(text), body_of), expected, "{text}");
    }
}

#[test]
fn every_word_of_the_queue_is_written() {
    let mut out = Vec::new();
    put_heartbeat(&mut out, Letters::Octets);
    put_heartbeat(&mut out, Letters::Text);
    put_request_head(&mut out, RequestId::from_u64(0x1F));
    let expected = b"\x00\x01\x02\x00\x09HEARTBEAT\x01\x12r:000000000000001f\x01\x00";
    assert_eq!(out, expected);
    assert_eq!(Asker::unpack(Asker::Ppp.pack()), Asker::Ppp);
}

/// Frames that are often words of the protocol.
fn any_frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    const WORDS: [&[u8]; 6] =
        [b"", b"READY", b"HEARTBEAT", b"MDPW01", b"r:0000000100000001", b"r:x"];
    let frame = prop_oneof![
        6 => (0..WORDS.len()).prop_map(|i| WORDS[i].to_vec()),
        3 => (0u8..5).prop_map(|octet| Vec::from([octet])),
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
    fn whatever_is_read_lies_within_the_message(frames in any_frames()) {
        with_message(&frames, |message| {
            let all = message.raw_from(0).len();
            match read(message) {
                Word::Reply { body, .. } => {
                    assert!(message.len() > 1 && (1..=2).contains(&body));
                    assert!(message.raw_from_offset(body) <= all);
                }
                // What has one frame is never a reply, and nothing else is a control word.
                Word::Ready(_) | Word::Heartbeat | Word::Garbage(_) => {
                    assert_eq!(message.len(), 1);
                }
            }
            match body_of(message) {
                Some(body) => {
                    assert_eq!(message.frame(body - 1), Some(&b""[..]));
                    assert!(body <= 9 && message.raw_from_offset(body) <= all);
                    assert!(message.raw_between(0, body).len() <= all);
                }
                None => assert!(frames.iter().take(9).all(|frame| !frame.is_empty())),
            }
        });
    }

    #[test]
    fn a_request_answered_as_it_came_is_recognised(
        id in any::<u64>(),
        body in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
    ) {
        let request = RequestId::from_u64(id);
        let mut head = Vec::new();
        put_request_head(&mut head, request);
        let heard: Vec<_> = zmtp::raw_frames(&head).map(|(_, frame)| frame.to_vec()).collect();
        prop_assert_eq!(&heard, &[token(request).to_vec(), Vec::new()]);
        let reply = [heard, body.clone()].concat();
        with_message(&reply, |message| {
            assert_eq!(read(message), Word::Reply { request: Some(request), body: 2 });
            let rest: Vec<_> = (2..message.len()).filter_map(|i| message.frame(i)).collect();
            assert_eq!(rest, body);
        });
    }
}
