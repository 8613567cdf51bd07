//! PLAIN and CURVE: both roles against each other, against captures of libzmq, and against whoever
//! changes, repeats or cuts what they say.

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::connection::Security;
use crate::curve::Random;
use crate::keys::{KeyPair, NotAKey, PublicKey, SecretKey};
use alloc::string::ToString;

/// One side of a conversation: what it heard, and what it wants to say.
struct Side {
    config: Config,
    connection: Connection,
    buf: Vec<u8>,
    out: Vec<u8>,
    heard: Vec<String>,
    chance: Chance,
    /// Whom a server lets in.
    admits: bool,
}

/// Octets that only look random, the same in each run.
struct Chance(u64);

impl Chance {
    fn fill(&mut self, octets: &mut [u8]) {
        for octet in octets {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *octet = (self.0 >> 56) as u8;
        }
    }
}

impl Side {
    fn new(config: Config, seed: u64) -> Side {
        let mut out = Vec::new();
        let connection = Connection::new(&config, &mut out);
        let (buf, heard) = Default::default();
        Side { config, connection, buf, out, heard, chance: Chance(seed), admits: true }
    }

    /// Takes in `bytes` in pieces of `piece` octets.
    fn hear(&mut self, bytes: &[u8], piece: usize) {
        for piece in bytes.chunks(piece.max(1)) {
            self.buf.extend_from_slice(piece);
            while self.next() {}
        }
    }

    fn next(&mut self) -> bool {
        let Side { config, connection, buf, out, heard, chance, admits } = self;
        if heard.last().is_some_and(|last| last.starts_with("error")) {
            return false;
        }
        let mut frames = Frames::default();
        let event = match connection.next(config, buf, &mut frames, out) {
            Ok(Step::More { need }) => {
                assert!(need > buf.len());
                return false;
            }
            Ok(Step::Skip { len, event }) => {
                buf.drain(..len);
                event
            }
            Ok(Step::Cut { len, event }) => {
                buf.truncate(buf.len() - len);
                event
            }
            Ok(Step::Message { len }) => {
                let message = frames.view(buf);
                assert_eq!(message.raw_from(0).len(), len);
                heard.push(std::format!("{message:?}"));
                buf.drain(..len);
                return true;
            }
            Err(error) => {
                heard.push(std::format!("error {}", error.kind()));
                return false;
            }
        };
        let random: Random<'_> = &mut |octets| chance.fill(octets);
        let event = match event {
            Some(Event::Work) => connection.work(config, random, out),
            other => Ok(other),
        };
        match event {
            Ok(Some(Event::Claim)) => {
                heard.push(std::format!("{:?}", connection.claim().unwrap()));
                if *admits {
                    let through = connection.admit(config, out);
                    heard.extend(through.map(|event| std::format!("{event:?}")));
                } else {
                    let error = connection.deny(out);
                    heard.push(std::format!("error {}", error.kind()));
                }
            }
            Ok(event) => heard.extend(event.map(|event| std::format!("{event:?}"))),
            Err(error) => heard.push(std::format!("error {}", error.kind())),
        }
        true
    }

    /// What it has to say now.
    fn said(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.out)
    }

    /// Says these frames, sealed if they must be.
    fn say(&mut self, frames: &[u8]) -> Vec<u8> {
        let mut said = Vec::new();
        if self.connection.is_sealed() {
            self.connection.seal(frames, &mut said);
        } else {
            said.extend_from_slice(frames);
        }
        said
    }
}

/// Lets two sides talk until both are silent.
fn talk(client: &mut Side, server: &mut Side, piece: usize) {
    loop {
        let (there, back) = (client.said(), server.said());
        if there.is_empty() && back.is_empty() {
            return;
        }
        server.hear(&there, piece);
        client.hear(&back, piece);
    }
}

fn keys(seed: u8) -> KeyPair {
    KeyPair::new(SecretKey::from_bytes([seed; 32]))
}

fn config(socket_type: SocketType, security: Security) -> Config {
    let mut config = Config::new(socket_type);
    config.security = security;
    config
}

fn curve_server() -> Side {
    Side::new(config(SocketType::Router, Security::CurveServer(keys(1))), 1)
}

fn curve_client() -> Side {
    let security = Security::CurveClient { server: *keys(1).public(), keys: keys(2) };
    let mut config = config(SocketType::Dealer, security);
    config.identity = Some(Box::from(*b"me"));
    Side::new(config, 2)
}

fn plain_server() -> Side {
    Side::new(config(SocketType::Router, Security::PlainServer), 3)
}

fn plain_client() -> Side {
    let password = Zeroizing::new("tea for two".into());
    let security = Security::PlainClient { username: "ann".into(), password };
    Side::new(config(SocketType::Dealer, security), 4)
}

const PLAIN_CLAIM: &str = "Plain([97, 110, 110])";

fn curve_claim() -> String {
    std::format!("Curve({})", keys(2).public())
}

#[test]
fn handshakes_come_through_however_they_are_cut() {
    for piece in [1, 2, 7, 64, 65, 1_000] {
        let (mut client, mut server) = (curve_client(), curve_server());
        talk(&mut client, &mut server, piece);
        assert_eq!(client.heard, ["Ready"]);
        assert_eq!(server.heard, [curve_claim(), "Ready".into()]);
        let peer = server.connection.peer();
        assert_eq!((peer.identity, peer.socket_type), (&b"me"[..], Some(SocketType::Dealer)));
        assert!(client.connection.is_sealed() && server.connection.is_sealed());

        let (mut client, mut server) = (plain_client(), plain_server());
        talk(&mut client, &mut server, piece);
        assert_eq!(client.heard, ["Ready"]);
        assert_eq!(server.heard, [PLAIN_CLAIM, "Ready"]);
        assert!(!client.connection.is_sealed() && !server.connection.is_sealed());
    }
}

#[test]
fn who_is_denied_is_told_the_status_code() {
    for (mut client, mut server) in
        [(curve_client(), curve_server()), (plain_client(), plain_server())]
    {
        server.admits = false;
        talk(&mut client, &mut server, 1_000);
        assert_eq!(client.heard, ["error peer_error"]);
        assert_eq!(server.heard.last().unwrap(), "error denied");
        assert!(!client.connection.is_ready() && !server.connection.is_ready());
    }
    let mut server = plain_server();
    server.admits = false;
    server.said();
    let mut client = plain_client();
    client.hear(&plain_server().said(), 64);
    server.hear(&client.said(), 64);
    assert!(server.said().ends_with(b"\x04\x0a\x05ERROR\x03400"));
}

#[test]
fn the_roles_and_mechanisms_must_fit() {
    let sides: [fn() -> Side; 4] = [curve_server, curve_client, plain_server, plain_client];
    for (i, one) in sides.iter().enumerate() {
        for (j, other) in sides.iter().enumerate() {
            let (mut one, mut other) = (one(), other());
            talk(&mut one, &mut other, 1_000);
            let through = one.connection.is_ready() && other.connection.is_ready();
            assert_eq!(through, i / 2 == j / 2 && i != j, "{i} and {j}");
        }
    }
}

#[test]
fn a_client_with_another_server_key_is_refused_at_its_hello() {
    let mut server = curve_server();
    let security = Security::CurveClient { server: *keys(9).public(), keys: keys(2) };
    let mut client = Side::new(config(SocketType::Dealer, security), 2);
    talk(&mut client, &mut server, 1_000);
    assert_eq!(server.heard, ["error bad_box"]);
    assert_eq!(client.heard, ["error peer_error"]);
}

/// Shakes hands; what the client said is changed by `change`, which is told the number of each
/// piece: 0 is the greeting, 1 HELLO, 2 INITIATE.
fn shake(mut change: impl FnMut(usize, &mut Vec<u8>)) -> (Side, Side) {
    let (mut client, mut server) = (curve_client(), curve_server());
    let mut number = 0;
    loop {
        let back = server.said();
        client.hear(&back, 1_000);
        let mut there = client.said();
        if back.is_empty() && there.is_empty() {
            return (client, server);
        }
        // The greeting is said before anything is heard.
        let mut pieces = Vec::new();
        if number == 0 {
            let rest = there.split_off(64);
            pieces.push(there);
            pieces.push(rest);
        } else {
            pieces.push(there);
        }
        for mut piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
            change(number, &mut piece);
            server.hear(&piece, 1_000);
            number += 1;
        }
    }
}

#[test]
fn every_octet_that_matters_is_guarded() {
    let mut lengths = [0; 3];
    let (_, server) = shake(|number, piece| lengths[number] = piece.len());
    assert_eq!(server.heard.len(), 2);
    for (number, len) in lengths.into_iter().enumerate().skip(1) {
        for at in 0..len {
            let (_, server) = shake(|n, piece| {
                if n == number {
                    piece[at] ^= 0x10;
                }
            });
            // HELLO's padding is only there to be long.
            let ignored = number == 1 && (10..82).contains(&at);
            assert_eq!(server.connection.is_ready(), ignored, "octet {at} of piece {number}");
        }
    }
}

#[test]
fn what_was_recorded_cannot_be_played_again() {
    let mut pieces: [Vec<u8>; 3] = Default::default();
    let (mut client, mut server) = shake(|number, piece| pieces[number].clone_from(piece));
    let message = client.say(b"\x01\x01a\0\x01b");
    server.hear(&message, 1_000);
    assert_eq!(server.heard.last().unwrap(), "[[97], [98]]");
    server.hear(&message, 1_000);
    assert_eq!(server.heard.last().unwrap(), "error bad_nonce");

    // On another connection the same INITIATE finds another cookie key.
    let mut other = curve_server();
    other.chance = Chance(99);
    for piece in &pieces {
        other.hear(piece, 1_000);
    }
    assert_eq!(other.heard, ["error bad_box"]);
    // HELLO a second time; INITIATE at once, which is more than a HELLO may be.
    for (order, expected) in
        [([0, 1, 1], "error unexpected"), ([0, 2, 1], "error command_too_large")]
    {
        let mut other = curve_server();
        order.iter().for_each(|piece| other.hear(&pieces[*piece], 1_000));
        assert_eq!(other.heard, [expected]);
    }
}

#[test]
fn a_server_holds_one_key_between_welcome_and_initiate() {
    let (mut client, mut server) = (curve_client(), curve_server());
    client.hear(&server.said(), 1_000);
    server.hear(&client.said(), 1_000);
    let shown = std::format!("{:?}", server.connection);
    assert!(shown.contains("Cookie { key: SecretKey(..), nonce: 1 }"), "{shown}");
}

#[test]
fn strangers_are_given_little_room() {
    let long = |name: &[u8], len: u64| {
        let mut bytes = [&[0x06][..], &len.to_be_bytes()].concat();
        bytes.extend_from_slice(name);
        bytes
    };
    for (mut server, greeting_from, len) in
        [(curve_server(), curve_client().said(), 263), (plain_server(), plain_client().said(), 519)]
    {
        server.hear(&greeting_from, 64);
        server.hear(&long(b"", len), 64);
        assert_eq!(server.heard, ["error command_too_large"]);
    }
    let (mut client, mut server) = (curve_client(), curve_server());
    client.hear(&server.said(), 1_000);
    server.hear(&client.said(), 1_000);
    server.hear(&long(b"", 4_097), 64);
    assert_eq!(server.heard, ["error command_too_large"]);
}

#[test]
fn malformed_hellos() {
    let hello = |data: &[u8]| command(&[b"\x05HELLO", data].concat());
    let cases: [(&[u8], &str); 6] = [
        (b"\x03ann\x03tea", "Plain([97, 110, 110])"),
        (b"\x00\x00", "Plain([])"),
        (b"", "error bad_handshake"),
        (b"\x03an", "error bad_handshake"),
        (b"\x03ann\x03te", "error bad_handshake"),
        (b"\x03ann\x03teas", "error bad_handshake"),
    ];
    for (data, expected) in cases {
        let mut server = plain_server();
        server.hear(&plain_client().said(), 64);
        server.hear(&hello(data), 1);
        assert_eq!(server.heard.first().unwrap(), expected, "{data:?}");
    }
    let mut versions = [1, 0].into_iter().chain([0; 192]).collect::<Vec<u8>>();
    for (data, expected) in [
        (versions.clone(), "error bad_box"),
        (versions[..193].to_vec(), "error bad_handshake"),
        (
            {
                versions[0] = 2;
                versions
            },
            "error bad_handshake",
        ),
    ] {
        let mut server = curve_server();
        server.hear(&curve_client().said(), 64);
        server.hear(&hello(&data), 1);
        assert_eq!(server.heard, [expected]);
    }
}

#[test]
fn a_message_given_back_is_given_again() {
    let (mut client, mut server) = shake(|_, _| {});
    let message = client.say(b"\x01\x01a\0\x01b");
    let mut buf = [&message[..], b"\0"].concat();
    let (mut frames, mut out) = (Frames::default(), Vec::new());
    let Side { config, connection, .. } = &mut server;
    let Ok(Step::Skip { len: gap, event: None }) =
        connection.next(config, &mut buf, &mut frames, &mut out)
    else {
        panic!("frames are opened first");
    };
    for _ in 0..3 {
        let step = connection.next(config, &mut buf[gap..], &mut frames, &mut out);
        assert_eq!(step, Ok(Step::Message { len: 6 }));
        assert_eq!(payloads(frames.view(&buf[gap..])), [b"a", b"b"]);
        connection.hand_back(6);
    }
}

#[test]
fn limits_hold_for_what_is_in_the_boxes() {
    let limits = Limits {
        frame_bytes_max: 300,
        frames_max: 3,
        message_bytes_max: 500,
        command_bytes_max: 64,
    };
    let frame = |more: bool, len: usize| {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, more, &vec![7; len]);
        bytes
    };
    let cases: [(Vec<u8>, &str); 5] = [
        ([frame(true, 250), frame(false, 250)].concat(), ""),
        (frame(false, 301), "error frame_too_large"),
        ([frame(true, 251), frame(false, 250)].concat(), "error message_too_large"),
        (frame(true, 1).repeat(4), "error too_many_frames"),
        (command(&[1; 65]), "error command_too_large"),
    ];
    for (plain, expected) in cases {
        for piece in [1, 1_000] {
            let (mut client, mut server) = shake(|_, _| {});
            server.config.limits = limits;
            let sealed = client.say(&plain);
            server.hear(&sealed, piece);
            let last = server.heard.last().unwrap();
            assert!(if expected.is_empty() { last.starts_with('[') } else { last == expected });
        }
    }
    // The length alone is enough, before anything it speaks of has come.
    let (_, mut server) = shake(|_, _| {});
    server.config.limits = limits;
    server.hear(b"\x02\0\0\0\0\0\0\x01\x4e", 9);
    assert_eq!(server.heard.last().unwrap(), "error frame_too_large");
    for short in [&b"\0\x20"[..], b"\0\x28\x07MASSAGE", b"\x01\x28"] {
        let (_, mut server) = shake(|_, _| {});
        server.hear(&[short, &[0; 40]].concat(), 1_000);
        assert!(server.heard.last().unwrap().starts_with("error bad_"), "{short:?}");
    }
}

#[test]
fn z85_is_the_rfc_s() {
    // RFC 32's test case, four times.
    let octets = [0x86, 0x4f, 0xd2, 0x6f, 0xb5, 0x59, 0xf7, 0x5b].repeat(4);
    let key = PublicKey::from_bytes(octets.try_into().unwrap());
    assert_eq!(key.to_string(), "HelloWorld".repeat(4));
    assert_eq!(PublicKey::from_z85(&"HelloWorld".repeat(4)), Ok(key));
    let secret = SecretKey::from_z85(&"HelloWorld".repeat(4)).unwrap();
    assert_eq!(*secret.to_z85(), "HelloWorld".repeat(4));
    assert_eq!(std::format!("{secret:?}"), "SecretKey(..)");
    let bad = ["", "HelloWorld", &"HelloWorl\"".repeat(4), &"#".repeat(40), &"a".repeat(41)];
    for text in bad {
        assert_eq!(PublicKey::from_z85(text), Err(NotAKey), "{text}");
    }
}

proptest! {
    #[test]
    fn sealed_traffic_is_heard_as_open_traffic_is(
        acts in prop::collection::vec(super::properties::act(), 0..12),
        piece in prop_oneof![1_usize..80, Just(10_000)],
    ) {
        let mut plain = Vec::new();
        acts.iter().for_each(|act| act.put(&mut plain));
        let (mut client, mut server) = shake(|_, _| {});
        let (mut open_client, mut open) = (Side::new(Config::new(SocketType::Dealer), 5),
            Side::new(Config::new(SocketType::Router), 6));
        talk(&mut open_client, &mut open, 1_000);
        let sealed = client.say(&plain);
        server.hear(&sealed, piece);
        open.hear(&plain, piece);
        prop_assert_eq!(&server.heard[2..], &open.heard[1..]);
        // What it answers comes back whole.
        let answers = server.said();
        prop_assert_eq!(&answers, &open.said());
        let sealed = server.say(&answers);
        client.hear(&sealed, piece);
        open_client.hear(&answers, piece);
        prop_assert_eq!(client.heard, open_client.heard);
    }

    #[test]
    fn no_change_in_sealed_traffic_goes_unseen(
        acts in prop::collection::vec(super::properties::act(), 1..6),
        place in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let mut plain = Vec::new();
        acts.iter().for_each(|act| act.put(&mut plain));
        let (mut client, mut server) = shake(|_, _| {});
        let mut sealed = client.say(&plain);
        let at = place.index(sealed.len());
        sealed[at] ^= 1 << bit;
        let (_, mut good) = shake(|_, _| {});
        good.hear(&client_again(&plain), 10_000);
        server.hear(&sealed, 10_000);
        // What was heard before the change is as it was, and then there is an end, or silence.
        let refused = server.heard.last().unwrap().starts_with("error");
        let heard = &server.heard[..server.heard.len() - usize::from(refused)];
        prop_assert!(good.heard.starts_with(heard));
        // Whether a MESSAGE is called a command (RFC 26) or not (libzmq) is the same to us.
        let is_same = good.heard == server.heard;
        prop_assert!(!is_same || bit == 2 && is_header(&plain, at));
    }

    #[test]
    fn any_key_survives_its_text(octets in any::<[u8; 32]>()) {
        let key = PublicKey::from_bytes(octets);
        prop_assert_eq!(PublicKey::from_z85(&key.to_string()), Ok(key));
    }
}

/// Whether the sealed form of `plain` has the flags of a frame at `at`.
fn is_header(plain: &[u8], at: usize) -> bool {
    let (mut client, mut start, mut rest) = (shake(|_, _| {}).0, 0, plain);
    while !rest.is_empty() && start < at {
        let header = if rest[0] & 2 == 0 { 2 } else { 9 };
        let len = if header == 2 {
            usize::from(rest[1])
        } else {
            u64::from_be_bytes(rest[1..9].try_into().unwrap()) as usize
        };
        let (frame, behind) = rest.split_at(header + len);
        start += client.say(frame).len();
        rest = behind;
    }
    start == at
}

/// What the client of `shake` would say.
fn client_again(plain: &[u8]) -> Vec<u8> {
    let (mut client, _) = shake(|_, _| {});
    client.say(plain)
}

/// What libzmq 4.3.5 said to us while our chance was the one of these tests: a DEALER called
/// `worker-1` with heartbeats that sent two messages, and a ROUTER that answered with two.
fn captured(text: &str) -> Vec<u8> {
    super::handshake::unhex(&text.split_whitespace().collect::<String>())
}

#[test]
fn a_recorded_libzmq_client_comes_in() {
    let bytes = captured(include_str!("../../testdata/curve-libzmq-dealer.hex"));
    for piece in [1, 5_000] {
        let mut server = curve_server();
        server.hear(&bytes, piece);
        let large = std::format!("[[], {:?}]", [b'x'; 300]);
        assert_eq!(server.heard[..2], [curve_claim(), "Ready".into()]);
        assert_eq!(
            server.heard[2..4],
            ["[[], [77, 68, 80, 87, 48, 49], [1], [101, 99, 104, 111]]", &large]
        );
        assert!(server.heard[4..].iter().all(|heard| heard.starts_with("Ping")));
        assert_eq!(server.connection.peer().identity, b"worker-1");
    }
}

#[test]
fn a_recorded_libzmq_server_lets_us_in() {
    let bytes = captured(include_str!("../../testdata/curve-libzmq-router.hex"));
    for piece in [1, 5_000] {
        let mut client = curve_client();
        client.hear(&bytes, piece);
        let large = std::format!("[[], {:?}]", [b'y'; 300]);
        assert_eq!(client.heard, ["Ready", &large, "[[121, 101, 115]]"]);
    }
}
