//! Messages: how they lie in the buffer and how they are written.

use super::*;

#[test]
fn messages_come_out_as_they_went_in() {
    check(Case::traffic("nothing", b""));
    check(Case::traffic("an empty frame", b"\x00\x00").message(&[b""]));
    check(Case::traffic("two messages", b"\x00\x01a\x00\x01b").message(&[b"a"]).message(&[b"b"]));
    check(Case::traffic("three frames", b"\x01\0\x01\x02ab\0\x01c").message(&[b"", b"ab", b"c"]));
    check(Case::traffic("half a header", b"\x00").left(b"\x00"));
    check(Case::traffic("half a long header", b"\x02\0\0\0").left(b"\x02\0\0\0"));
    check(Case::traffic("half a frame", b"\x00\x05abc").left(b"\x00\x05abc"));
    check(Case::traffic("half a message", b"\x01\x01a").left(b"\x01\x01a"));
}

#[test]
fn a_long_header_may_announce_a_short_frame() {
    let bytes = b"\x03\0\0\0\0\0\0\0\x01a\x02\0\0\0\0\0\0\0\0";
    check(Case::traffic("long headers", bytes).message(&[b"a", b""]));
}

#[test]
fn reserved_flags_and_commands_with_more_are_refused_at_their_octet() {
    for flags in 8..=u8::MAX {
        let case = Case::traffic("reserved flags", &[flags]);
        check(case.refuses("bad_flags", Error::BadFlags { flags }));
    }
    for flags in [5, 7, 0x0c] {
        let error = Error::BadFlags { flags };
        let case = Case::traffic("a command with MORE", &[0x01, 0x01, b'a', flags]);
        check(case.refuses("bad_flags", error.clone()));
        let case = Case::new("before READY", &[&GREETING[..], &[flags]].concat());
        check(case.answers(ROUTER_READY).refuses("bad_flags", error));
    }
}

#[test]
fn put_frame_chooses_the_shortest_header() {
    let headers: [(bool, usize, &[u8]); 5] = [
        (false, 0, b"\x00\x00"),
        (true, 255, b"\x01\xff"),
        (false, 256, b"\x02\0\0\0\0\0\0\x01\0"),
        (true, 65_536, b"\x03\0\0\0\0\0\x01\0\0"),
        (false, 1 << 40, b"\x02\0\0\x01\0\0\0\0\0"),
    ];
    for (more, len, header) in headers {
        let mut out = vec![0xee];
        put_header(&mut out, more, len);
        assert_eq!(out, [b"\xee", header].concat());
    }
    let mut out = Vec::new();
    put_frame(&mut out, true, b"abc");
    assert_eq!(out, b"\x01\x03abc");
}

/// A connection that is through, for looking at one message.
fn read(bytes: &mut [u8]) -> Frames {
    let config = Config::new(SocketType::Router);
    let (mut out, mut frames) = (Vec::new(), Frames::default());
    let mut connection = Connection::new(&config, &mut out);
    assert!(!connection.is_ready());
    for part in [&GREETING[..], DEALER_READY] {
        let step = connection.next(&config, &mut part.to_vec(), &mut frames, &mut out);
        assert!(matches!(step, Ok(Step::Skip { len, .. }) if len == part.len()));
    }
    assert!(connection.is_ready() && connection.supports_ping());
    let step = connection.next(&config, bytes, &mut frames, &mut out);
    assert!(matches!(step, Ok(Step::Message { .. })), "{step:?}");
    frames
}

#[test]
fn a_message_can_be_forwarded_in_parts() {
    let mut bytes = *b"\x01\x02id\x01\x00\x03\0\0\0\0\0\0\0\x01a\x00\x01bnext";
    let frames = read(&mut bytes);
    assert_eq!((frames.len(), frames.is_empty()), (4, false));
    let message = frames.view(&bytes);
    assert_eq!(payloads(message), [&b"id"[..], b"", b"a", b"b"]);
    assert_eq!(message.frame(4), None);
    assert_eq!([0, 1, 2, 3, 4, 9].map(|i| message.raw_from_offset(i)), [0, 4, 6, 16, 19, 19]);
    assert_eq!(message.raw_from(0), &bytes[..19]);
    assert_eq!(message.raw_from(3), b"\x00\x01b");
    assert_eq!(message.raw_from(4), b"");
    assert_eq!(message.raw_between(0, 2), b"\x01\x02id\x01\x00");
    assert_eq!(message.raw_between(1, 1), b"");
    assert_eq!(message.raw_between(3, 2), b"");
    assert_eq!(message.raw_between(2, usize::MAX), message.raw_from(2));
    assert_eq!(
        raw_frames(message.raw_from(2)).collect::<Vec<_>>(),
        [(true, &b"a"[..]), (false, b"b")]
    );

    let empty = Frames::default();
    assert!(empty.is_empty() && empty.view(b"x").is_empty());
    assert_eq!(empty.view(b"x").raw_from(0), b"");
}

#[test]
fn more_can_be_set_on_the_last_frame() {
    let joins: [(&[u8], &[u8]); 5] = [
        (b"", b""),
        (b"\x00\x00", b"\x01\x00"),
        (b"\x01\x01a\x00\x01b", b"\x01\x01a\x01\x01b"),
        (b"\x01\x00\x02\0\0\0\0\0\0\0\x01\x00", b"\x01\x00\x03\0\0\0\0\0\0\0\x01\x00"),
        (b"\x01\x01a", b"\x01\x01a"),
    ];
    for (raw, joined) in joins {
        let mut bytes = raw.to_vec();
        set_more_on_last(&mut bytes);
        assert_eq!(bytes, joined);
    }
}

#[test]
fn raw_frames_end_where_the_bytes_are_not_well_formed() {
    let raws: [&[u8]; 5] = [
        b"\x00\x01a\x00",
        b"\x00\x01a\x00\x05b",
        b"\x00\x01a\xff\x01b",
        b"\x00\x01a\x02\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x00\x01a\x02\x7f\xff\xff\xff\xff\xff\xff\xffabc",
    ];
    for raw in raws {
        assert_eq!(raw_frames(raw).collect::<Vec<_>>(), [(false, &b"a"[..])]);
    }
}
