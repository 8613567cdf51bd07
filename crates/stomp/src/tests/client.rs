//! The client's side of a conversation.

use super::*;

/// What a client makes of `bytes` after its CONNECT: the commands it heard and what became of it.
fn answers(bytes: &[u8]) -> (Vec<Command>, Connection, Option<&'static str>) {
    let mut config = Config::new(Role::Client);
    config.heart_beat = HeartBeat { send_ms: 1_000, receive_ms: 2_000 };
    let (mut head, mut out) = (Head::default(), Vec::new());
    let mut connection = Connection::client(&config, "h", &[], &mut out).unwrap();
    out.clear();
    let (mut at, mut commands) = (0, Vec::new());
    let refused = loop {
        match connection.next(&config, &bytes[at..], &mut head, &mut out) {
            Ok(Step::More { .. }) => break None,
            Ok(Step::Answer) => unreachable!("a client has nothing to answer"),
            Ok(Step::Skip { len }) => at += len,
            Ok(Step::Frame { len }) => {
                commands.push(head.view(&bytes[at..]).command());
                at += len;
            }
            Err(error) => break Some(error.kind()),
        }
    };
    assert!(out.is_empty(), "a client has no words for errors");
    (commands, connection, refused)
}

#[test]
fn connect_says_what_we_speak_and_would_like() {
    let mut config = Config::new(Role::Client);
    config.heart_beat = HeartBeat { send_ms: 1_000, receive_ms: 2_000 };
    let mut out = Vec::new();
    Connection::client(&config, "h", &[("login", "a:b"), ("passcode", "c")], &mut out).unwrap();
    let expected = "CONNECT\naccept-version:1.0,1.1,1.2\nhost:h\nheart-beat:1000,2000\n\
        login:a:b\npasscode:c\n\n\0";
    assert_eq!(out, expected.as_bytes());
    let wrong = Connection::client(&config, "h\nlogin:x", &[], &mut out);
    assert!(matches!(wrong, Err(Misuse::Unrepresentable { .. })));
    assert_eq!(out, expected.as_bytes(), "nothing is written then");
}

#[test]
fn connected_settles_version_and_beats() {
    let bytes = b"\nCONNECTED\nversion:1.1\nheart-beat:500,3000\n\n\0\nMESSAGE\na:b\\n\n\nx\0\n";
    let (commands, connection, refused) = answers(bytes);
    assert_eq!((commands, refused), (vec![Command::Connected, Command::Message], None));
    assert_eq!((connection.version(), connection.is_open()), (Version::V1_1, true));
    let mut config = Config::new(Role::Client);
    config.tolerance_percent = 100;
    let beats = connection.beats(&config, 0);
    assert_eq!((beats.due(1_999), beats.due(2_000)), (Due::Nothing, Due::Dead), "2000 is slower");
    let mut beats = beats;
    beats.heard(2_000);
    assert_eq!(beats.due(2_000), Due::Beat, "two thirds of 3000");
}

#[test]
fn an_old_server_names_no_version() {
    let (_, connection, refused) = answers(b"CONNECTED\nsession: 7\n\n\0");
    assert_eq!((connection.version(), refused), (Version::V1_0, None));
}

#[test]
fn a_refusal_is_a_frame() {
    let (commands, connection, refused) = answers(b"ERROR\nmessage:no\n\nwhy\0\n");
    assert_eq!((commands, connection.is_open(), refused), (vec![Command::Error], false, None));
}

#[test]
fn servers_that_break_the_protocol_are_refused() {
    for (bytes, kind) in [
        (&b"CONNECTED\nversion:1.3\n\n\0"[..], "version_not_offered"),
        (b"MESSAGE\n\n\0", "unexpected"),
        (b"SEND\n\n\0", "unknown_command"),
        (b"CONNECTED\nversion:1.2\nheart-beat:x\n\n\0", "bad_header"),
        (b"CONNECTED\nversion:1.2\n\n\0CONNECTED\n\n\0", "unexpected"),
        (b"HTTP/1.1 400 Bad Request\r\n", "unknown_command"),
    ] {
        assert_eq!(answers(bytes).2, Some(kind));
    }
}
