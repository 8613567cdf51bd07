//! Greetings and READY: who is let in.

use super::*;

#[test]
fn greetings_in_halves_wait_for_the_rest() {
    for end in 0..64 {
        check(Case::new("half a greeting", &GREETING[..end]).left(&GREETING[..end]));
    }
    check(Case::new("a greeting", &GREETING).answers(ROUTER_READY));
}

#[test]
fn what_the_rfc_calls_insignificant_is_not_looked_at() {
    let mut greeting = GREETING;
    greeting[1..9].fill(0xa5);
    greeting[32] = 1;
    greeting[33..].fill(0x5a);
    let bytes = [&greeting[..], DEALER_READY].concat();
    let case = Case::new("garbage in padding, as-server and filler", &bytes);
    check(case.answers(ROUTER_READY).event(Event::Ready));
}

#[test]
fn versions() {
    // What stands at octets 10 and 11, and the minor version we take the peer for.
    for (major, minor, taken) in [(3, 0, 0), (3, 1, 1), (3, 9, 9), (4, 0, u8::MAX)] {
        let mut greeting = GREETING;
        (greeting[10], greeting[11]) = (major, minor);
        let bytes = [&greeting[..], DEALER_READY].concat();
        let case = Case::new("a version we speak", &bytes);
        let heard = check(case.answers(ROUTER_READY).event(Event::Ready));
        assert_eq!(heard.peer, (taken, Some(SocketType::Dealer), vec![]));
    }
    // ZMTP 2.0 and a peer that says it is 1.0, as far as they would send before our answer.
    for (revision, major) in [(0, 1), (1, 2), (2, 2)] {
        let bytes = [&GREETING[..10], &[revision, 0x05]].concat();
        check(Case::new("an old version", &bytes).hangs_up(Error::OldVersion { major }));
    }
}

#[test]
fn other_protocols_are_refused_at_the_first_wrong_octet() {
    // The bytes, and how many are needed to tell.
    let strangers: [(&[u8], usize); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n", 1),
        (b"\x16\x03\x01\x02\x00", 1),      // TLS
        (b"\x01\x00", 1),                  // ZMTP 1.0, anonymous
        (b"\x06\x00worker", 1),            // ZMTP 1.0, with an identity
        (b"\xff\0\0\0\0\0\0\x01\0\0", 10), // ZMTP 1.0, with an identity of 255 octets
        (b"\xff\0\0\0\0\0\0\0\0\x7e", 10),
    ];
    for (bytes, tells) in strangers {
        check(Case::new("a stranger", bytes).hangs_up(Error::NotZmtp));
        check(Case::new("a stranger, just", &bytes[..tells]).hangs_up(Error::NotZmtp));
        let before = &bytes[..tells - 1];
        check(Case::new("a stranger, not yet", before).left(before));
    }
}

#[test]
fn mechanisms_must_match_exactly() {
    let twenty = b"ABCDEFGHIJKLMNOPQRST";
    let others: [(&[u8], &str); 7] = [
        (b"PLAIN", "PLAIN"),
        (b"CURVE", "CURVE"),
        (b"NULLX", "NULLX"),
        (b"null", "null"),
        (b"NUL", "NUL"),
        (b"", ""),
        (twenty, "ABCDEFGHIJKLMNOPQRST"),
    ];
    for (name, got) in others {
        let mut greeting = GREETING;
        greeting[12..32].fill(0);
        greeting[12..12 + name.len()].copy_from_slice(name);
        let error = Error::Mechanism { ours: "NULL", got: got.into() };
        check(Case::new("another mechanism", &greeting).hangs_up(error));
    }
    let mut greeting = GREETING;
    greeting[30] = b'\n';
    let got = "NULL??????????????\u{3f}".into();
    let error = Error::Mechanism { ours: "NULL", got };
    check(Case::new("an unprintable mechanism", &greeting).hangs_up(error));
}

/// READY after a good greeting.
fn shaken(name: &'static str, properties: &[Vec<u8>]) -> Case {
    Case::new(name, &[&GREETING[..], &ready(properties)].concat()).answers(ROUTER_READY)
}

fn dealer() -> Vec<u8> {
    property("Socket-Type", b"DEALER")
}

#[test]
fn ready_may_come_in_a_long_frame_and_with_properties_nobody_knows() {
    let properties = [property("X-Colour", b""), dealer(), property("Resource", b"a/b")];
    let heard = check(shaken("unknown properties", &properties).event(Event::Ready));
    assert_eq!(heard.peer, (1, Some(SocketType::Dealer), vec![]));
}

#[test]
fn property_names_have_no_case() {
    let properties = [property("socket-TYPE", b"REQ"), property("IDENTITY", b"me")];
    let heard = check(shaken("odd case", &properties).event(Event::Ready));
    assert_eq!(heard.peer, (1, Some(SocketType::Req), b"me".to_vec()));
}

#[test]
fn identities() {
    let longest = [9; 255];
    for identity in [&b""[..], b"me", b"a\0b\xff", &longest] {
        let properties = [property("Identity", identity), dealer()];
        let heard = check(shaken("a good identity", &properties).event(Event::Ready));
        assert_eq!(heard.peer.2, identity);
    }
    for identity in [&b"\0"[..], b"\0\x01\x02\x03\x04", &[9; 256]] {
        let properties = [dealer(), property("Identity", identity)];
        check(shaken("a bad identity", &properties).refuses("bad_identity", Error::BadIdentity));
    }
    let sub = [property("Socket-Type", b"SUB"), property("Identity", b"\0")];
    let case = shaken("an identity that means nothing", &sub).ours(SocketType::XPub);
    let answer = b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04XPUB";
    let case = Case { out: answer.to_vec(), ..case };
    let heard = check(case.event(Event::Ready));
    assert_eq!(heard.peer, (1, Some(SocketType::Sub), vec![]));
}

#[test]
fn bad_property_lists() {
    let cut_off = "a property runs past the end";
    let nameless = "a property without a name";
    let huge = b"\x01X\xff\xff\xff\xffabc".to_vec();
    let lists: [(&'static str, &[Vec<u8>]); 10] = [
        ("no Socket-Type", &[]),
        ("no Socket-Type", &[property("Identity", b"me")]),
        ("a Socket-Type nobody knows", &[property("Socket-Type", b"STREAM")]),
        ("a Socket-Type nobody knows", &[property("Socket-Type", b"dealer")]),
        ("a property twice", &[dealer(), dealer()]),
        ("a property twice", &[property("identity", b"a"), dealer(), property("Identity", b"a")]),
        (nameless, &[dealer(), property("", b"x")]),
        (cut_off, &[dealer(), huge]),
        (cut_off, &[dealer(), b"\x05Ident".to_vec()]),
        (cut_off, &[dealer(), b"\x01X\0\0".to_vec()]),
    ];
    for (what, list) in lists {
        check(shaken(what, list).refuses("bad_ready", Error::BadReady { what }));
    }
    for end in 1..dealer().len() {
        let list = [dealer()[..end].to_vec()];
        check(shaken(cut_off, &list).refuses("bad_ready", Error::BadReady { what: cut_off }));
    }
}

#[test]
fn socket_types_that_do_not_talk_are_told_so() {
    let sub = [property("Socket-Type", b"SUB")];
    let error = Error::Incompatible { ours: SocketType::Router, peer: SocketType::Sub };
    let heard = check(shaken("SUB", &sub).refuses("incompatible_socket_type", error));
    assert!(heard.out.ends_with(b"\x04\x1f\x05ERROR\x18incompatible_socket_type"));
}

#[test]
fn the_rfc_s_table_of_socket_types() {
    use SocketType::*;
    let pairs = [
        (Req, Rep),
        (Req, Router),
        (Rep, Dealer),
        (Dealer, Dealer),
        (Dealer, Router),
        (Router, Router),
        (Pub, Sub),
        (Pub, XSub),
        (XPub, Sub),
        (XPub, XSub),
        (Push, Pull),
        (Pair, Pair),
        (Client, Server),
        (Radio, Dish),
        (Scatter, Gather),
        (Peer, Peer),
        (Channel, Channel),
    ];
    for ours in SocketType::ALL {
        assert_eq!(SocketType::from_bytes(ours.as_bytes()), Some(ours));
        for peer in SocketType::ALL {
            let talk = pairs.contains(&(ours, peer)) || pairs.contains(&(peer, ours));
            assert_eq!(ours.accepts(peer), talk, "{ours} and {peer}");
        }
    }
}

#[test]
fn only_ready_or_error_may_open() {
    let early = Error::Unexpected { what: "command before READY" };
    for body in [&b"\x04PING\0\0"[..], b"\x04PONG", b"\x05HELLO", b"\x05ready", b"\x09SUBSCRIBE"] {
        let bytes = [&GREETING[..], &command(body)].concat();
        let case = Case::new("a command too early", &bytes).answers(ROUTER_READY);
        check(case.refuses("unexpected", early.clone()));
    }
    let early = Error::Unexpected { what: "message before READY" };
    for frame in [&b"\x00\x00"[..], b"\x01", b"\x02\x80", b"\x03\0\0\0\0\0\0\0\x01x"] {
        let bytes = [&GREETING[..], frame].concat();
        let case = Case::new("a message too early", &bytes).answers(ROUTER_READY);
        check(case.refuses("unexpected", early.clone()));
    }
    let bytes = [&GREETING[..], b"\x04\x0d\x05ERROR\x06go\naw\xff"].concat();
    let error = Error::PeerError { reason: "go?aw?".into() };
    check(Case::new("ERROR instead", &bytes).answers(ROUTER_READY).hangs_up(error));
}

#[test]
fn our_identity_is_announced() {
    let mut config = Config::new(SocketType::Dealer);
    config.identity = Some(Box::from(&b"worker-7"[..]));
    let heard = hear(&config, &[&GREETING[..], ROUTER_READY].concat(), []);
    let answer = b"\x04\x31\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x08worker-7";
    assert_eq!(heard.out, answer);
    assert_eq!(heard.items, [Item::Event(Event::Ready)]);

    config.identity = Some(Box::from([7; 255]));
    let long = hear(&config, &GREETING, []).out;
    assert_eq!(&long[..10], b"\x06\0\0\0\0\0\0\x01\x28\x05");
    assert_eq!(long.len(), 9 + 0x128);
}

#[test]
#[should_panic(expected = "our own identity is invalid")]
fn an_invalid_identity_of_our_own_is_misuse() {
    let mut config = Config::new(SocketType::Dealer);
    config.identity = Some(Box::from([0]));
    Connection::new(&config, &mut Vec::new());
}

/// All that a libzmq 4.3.5 DEALER sent a ROUTER that greeted it and said READY: identity
/// `worker-1`, a four-frame message, a message with a frame of 300 octets, and three heartbeats
/// with a TTL of 3 s.
pub(super) const LIBZMQ_DEALER: &str = "\
    ff00000000000000097f03014e554c4c00000000000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000\
    04310552454144590b536f636b65742d54797065000000064445414c4552084964656e74697479\
    00000008776f726b65722d31010001064d445057303101010100046563686f010002000000000000012c";

#[test]
fn a_recorded_libzmq_dealer_is_understood() {
    let mut bytes = unhex(LIBZMQ_DEALER);
    bytes.extend_from_slice(&[b'x'; 300]);
    bytes.extend_from_slice(&b"\x04\x07\x04PING\0\x1e".repeat(3));
    let ping = Event::Ping { ttl_deciseconds: 30 };
    let case = Case::new("libzmq DEALER", &bytes)
        .answers(ROUTER_READY)
        .event(Event::Ready)
        .message(&[b"", b"MDPW01", b"\x01", b"echo"])
        .message(&[b"", &[b'x'; 300]])
        .event(ping)
        .event(ping)
        .event(ping)
        .answers(&b"\x04\x05\x04PONG".repeat(3));
    let heard = check(case);
    assert_eq!(heard.peer, (1, Some(SocketType::Dealer), b"worker-1".to_vec()));
}

/// All that a libzmq 4.3.5 REQ sent a ROUTER likewise: an empty identity and one request.
const LIBZMQ_REQ: &str = "\
    ff00000000000000017f03014e554c4c00000000000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000\
    04260552454144590b536f636b65742d5479706500000003524551084964656e746974790000000001\
    0001064d445043303101046563686f000568656c6c6f";

#[test]
fn a_recorded_libzmq_req_is_understood() {
    let case = Case::new("libzmq REQ", &unhex(LIBZMQ_REQ))
        .answers(ROUTER_READY)
        .event(Event::Ready)
        .message(&[b"", b"MDPC01", b"echo", b"hello"]);
    let heard = check(case);
    assert_eq!(heard.peer, (1, Some(SocketType::Req), vec![]));
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: &u8| char::from(*c).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect()
}
