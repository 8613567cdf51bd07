//! Commands in traffic: heartbeats, refusals, and what is ignored.

use super::*;

#[test]
fn a_ping_is_answered_with_its_context() {
    for context in [&b""[..], b"x", b"0123456789abcdef"] {
        let bytes = command(&[b"\x04PING\x12\x34", context].concat());
        let case = Case::traffic("PING", &bytes).event(Event::Ping { ttl_deciseconds: 0x1234 });
        check(case.answers(&command(&[b"\x04PONG", context].concat())));
    }
}

#[test]
fn a_pong_is_worth_knowing() {
    check(Case::traffic("PONG", b"\x04\x08\x04PONGctx").event(Event::Pong));
}

#[test]
fn what_a_later_version_may_add_is_ignored() {
    let bodies: [&[u8]; 6] = [
        b"\x09SUBSCRIBEtopic",
        b"\x06CANCEL",
        b"\x04JOINgroup",
        b"\x05LEAVE",
        b"\x04ping",
        b"\x01X\0\0\0",
    ];
    for body in bodies {
        check(Case::traffic("an unknown command", &command(body)));
        let between = [b"\x01\x01a", &command(body)[..], b"\x00\x01b"].concat();
        check(Case::traffic("an unknown command between", &between).message(&[b"a", b"b"]));
    }
}

#[test]
fn a_long_command_is_a_command() {
    let bytes = [b"\x06\0\0\0\0\0\0\0\x08\x04PING\0\0z", &b"\x06\0\0\0\0\0\0\x01\x2c\x01X"[..]];
    let bytes = [&bytes.concat()[..], &[1; 298]].concat();
    let case = Case::traffic("long commands", &bytes).event(Event::Ping { ttl_deciseconds: 0 });
    check(case.answers(b"\x04\x06\x04PONGz"));
}

#[test]
fn malformed_commands() {
    let long_context = "a context of more than 16 octets";
    let bodies: [(&'static str, &[u8]); 9] = [
        ("empty", b""),
        ("no name", b"\0"),
        ("no name", b"\0PING"),
        ("the name runs past the end", b"\x05PING"),
        ("the name runs past the end", b"\xff"),
        ("a PING without a TTL", b"\x04PING"),
        ("a PING without a TTL", b"\x04PING\0"),
        (long_context, b"\x04PING\0\x010123456789abcdefg"),
        (long_context, b"\x04PONG0123456789abcdefg"),
    ];
    for (what, body) in bodies {
        let bytes = command(body);
        let error = Error::BadCommand { what };
        check(Case::traffic(what, &bytes).refuses("bad_command", error.clone()));
        let between = [b"\x01\x01a", &bytes[..]].concat();
        check(Case::traffic(what, &between).refuses("bad_command", error));
    }
}

#[test]
fn an_error_from_the_peer_ends_it_without_an_answer() {
    // The data of the command, and what we take the reason for.
    let reasons: [(&[u8], &str); 5] = [
        (b"\x04gone", "gone"),
        (b"\x04gone and more", "gone"),
        (b"\xffgone", "gone"),
        (b"\0", ""),
        (b"", ""),
    ];
    for (data, reason) in reasons {
        let bytes = command(&[b"\x05ERROR", data].concat());
        let error = Error::PeerError { reason: reason.into() };
        check(Case::traffic("ERROR", &bytes).hangs_up(error));
    }
}

#[test]
fn a_second_ready_is_refused() {
    let error = Error::Unexpected { what: "second READY" };
    check(Case::traffic("READY twice", DEALER_READY).refuses("unexpected", error));
}

#[test]
fn commands_between_the_frames_of_a_message_are_cut_out() {
    let bytes =
        b"\x01\x01a\x04\x08\x04PING\0\x07z\x01\0\x04\x05\x04PONG\x04\x02\x01X\x00\x02bc\x00\x01d";
    check(
        Case::traffic("commands between", bytes)
            .event(Event::Ping { ttl_deciseconds: 7 })
            .event(Event::Pong)
            .message(&[b"a", b"", b"bc"])
            .message(&[b"d"])
            .answers(b"\x04\x06\x04PONGz"),
    );
    let unfinished = b"\x01\x01a\x04\x07\x04PING\0\0\x01\x05b";
    check(
        Case::traffic("an unfinished message with a PING in it", unfinished)
            .event(Event::Ping { ttl_deciseconds: 0 })
            .answers(b"\x04\x05\x04PONG")
            .left(b"\x01\x01a\x01\x05b"),
    );
}

#[test]
fn put_ping_and_put_error_write_what_the_grammar_says() {
    let mut out = Vec::new();
    put_ping(&mut out, 0x0102, b"ctx");
    put_error(&mut out, "no way\n");
    assert_eq!(out, b"\x04\x0a\x04PING\x01\x02ctx\x04\x0e\x05ERROR\x07no_way_");

    out.clear();
    put_error(&mut out, &String::from("é").repeat(300));
    assert_eq!(&out[..16], b"\x06\0\0\0\0\0\0\x01\x06\x05ERROR\xff");
    assert_eq!(&out[16..], [b'_'; 255]);
}

#[test]
#[should_panic(expected = "at most 16 octets")]
fn a_long_context_of_our_own_is_misuse() {
    put_ping(&mut Vec::new(), 0, &[0; 17]);
}
