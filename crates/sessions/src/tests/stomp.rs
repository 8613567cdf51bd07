//! Who comes in over STOMP, and what the rules of a login allow.

use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use engine::{Class, Patterns, Principal, PrincipalId, Quota, Rights, Time};
use zmtp::Security;

use super::house::{House, Seen};
use super::peer::Heard;
use crate::stomp::{is_match, read_envelope};
use crate::{CloseReason, Credentials, Dialect, ShardConfig, Speaks};

/// `bea` has a password and may call `echo` and `/topic/news`, and serve `/queue/in`.
fn config(users: bool) -> ShardConfig {
    let doors = vec![Security::Null, Security::PlainServer];
    let mut config = ShardConfig { doors, ..ShardConfig::default() };
    if users {
        let call = Patterns::new(["echo", "/topic/news"]);
        let serve = Patterns::new(["/queue/in"]);
        let rights = Rights { call, serve, ..Rights::none() };
        let bea = Principal { rights, quota: Quota::default(), class: Class::Normal };
        config.engine.principals.insert("bea".into(), bea);
        config.credentials.set_password("bea", b"two");
    }
    config
}

/// What a peer that says `frames` at a door hears: the first line and an error's code of each
/// frame, and why it was closed if it was.
fn hear(config: &ShardConfig, door: u8, frames: &[&str]) -> Vec<String> {
    let mut house = House::new(config, 1, usize::MAX);
    let dialect = Dialect { speaks: Speaks::Stomp, door, ..Dialect::default() };
    let id = house.open(0, dialect, None).expect("it is let in");
    for frame in frames {
        house.send(id, format!("{frame}\n\0").as_bytes());
    }
    let told = house.seen.iter().filter_map(|seen| match seen {
        Seen::Heard(_, Heard::Frame(lines, _)) => Some(lines[0].clone()),
        Seen::Closed(_, why) => Some(format!("closed {}", why.as_str())),
        Seen::Heard(..) | Seen::Note(_) | Seen::Outcome(..) | Seen::TurnedAway => None,
    });
    told.collect()
}

const OPEN: u8 = 0;
const PLAIN: u8 = 1;

#[test]
fn a_login_is_checked_where_there_are_users_and_asked_for_where_it_says_plain() {
    let right = "CONNECT\nlogin:bea\npasscode:two\n";
    let wrong = "CONNECT\nlogin:bea\npasscode:three\n";
    let guest = "CONNECT\nlogin:guest\npasscode:guest\n";
    let nobody = "CONNECT\n";
    let (inside, outside) = (vec!["CONNECTED"], vec!["ERROR", "closed denied"]);
    for (users, door, connect, expected) in [
        (false, OPEN, nobody, &inside),
        (false, OPEN, guest, &inside),
        (false, OPEN, wrong, &inside),
        (false, PLAIN, nobody, &outside),
        (false, PLAIN, guest, &outside),
        (true, OPEN, nobody, &inside),
        (true, OPEN, right, &inside),
        (true, OPEN, wrong, &outside),
        (true, OPEN, guest, &outside),
        (true, PLAIN, right, &inside),
        (true, PLAIN, nobody, &outside),
        (true, PLAIN, wrong, &outside),
        (true, PLAIN, "CONNECT\nlogin:bea\n", &outside),
    ] {
        assert_eq!(&hear(&config(users), door, &[connect]), expected, "{users} {door} {connect}");
    }
}

#[test]
fn the_rules_of_a_login_hold_for_every_kind_of_destination() {
    let says = |frame: &str| {
        let told = hear(&config(true), PLAIN, &["CONNECT\nlogin:bea\npasscode:two\n", frame]);
        told[1..].join(", ")
    };
    for (frame, expected) in [
        ("SEND\nreceipt:1\ndestination:/service/echo\n", "RECEIPT"),
        ("SEND\nreceipt:1\ndestination:/topic/news\n", "RECEIPT"),
        ("SUBSCRIBE\nreceipt:1\nid:1\ndestination:/queue/in\n", "RECEIPT"),
        ("SEND\nreceipt:1\ndestination:/service/other\n", "ERROR, closed denied"),
        ("SEND\nreceipt:1\ndestination:/queue/in\n", "ERROR, closed denied"),
        ("SEND\nreceipt:1\ndestination:/topic/other\n", "ERROR, closed denied"),
        ("SUBSCRIBE\nid:1\ndestination:/topic/news\n", "ERROR, closed denied"),
        ("SUBSCRIBE\nid:1\ndestination:/service/echo\n", "ERROR, closed denied"),
        // Who waits for the answer hears it there.
        ("SEND\ndestination:/service/other\nreply-to:/temp-queue/a\n", "MESSAGE"),
    ] {
        assert_eq!(says(frame), expected, "{frame}");
    }
}

#[test]
fn a_login_that_is_no_longer_good_ends_its_connections() {
    let mut config = config(true);
    let mut house = House::new(&config, 1, usize::MAX);
    let dialect = Dialect { speaks: Speaks::Stomp, door: PLAIN, ..Dialect::default() };
    let id = house.open(0, dialect, None).expect("it is let in");
    house.send(id, b"CONNECT\nlogin:bea\npasscode:two\n\n\0");
    let shard = house.shard(id);
    assert_ne!(shard.connection(id).expect("it is there").principal, PrincipalId::ANONYMOUS);
    config.credentials = Credentials::default();
    shard.configure(Time::ZERO, config);
    house.turn();
    assert_eq!(house.seen.last(), Some(&Seen::Closed(id, CloseReason::Revoked)));
}

#[test]
fn wildcards_stand_for_words() {
    for (pattern, name, expected) in [
        ("a.b", "a.b", true),
        ("a.b", "a.c", false),
        ("a.*", "a.b", true),
        ("a.*", "a.b.c", false),
        ("a.*", "a", false),
        ("*.b", "a.b", true),
        ("a.>", "a.b.c", true),
        ("a.#", "a", true),
        ("a.>", "b", false),
        (">", "a.b", true),
        ("*", "a", true),
        ("a*", "ab", false),
    ] {
        assert_eq!(is_match(pattern, name), expected, "{pattern} {name}");
    }
}

#[test]
fn an_envelope_is_read_as_it_was_written() {
    for (reply_to, correlation) in
        [("/temp-queue/a", None), ("/temp-queue/a", Some("")), ("/temp-queue/ä", Some("k:\n1"))]
    {
        let mut envelope = Vec::new();
        crate::stomp::put_envelope(&mut envelope, reply_to, correlation);
        assert_eq!(read_envelope(&envelope), (reply_to, correlation));
    }
    assert_eq!(read_envelope(b"\xff\0\xff"), ("", None), "whatever it is, it does no harm");
}
