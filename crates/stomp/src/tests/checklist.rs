//! The conformance items that concern the wire and the connection, by number.

use super::*;

fn value(heard: &Heard, i: usize, name: &str) -> String {
    heard.frames[0].headers.iter().filter(|(n, _)| n == name).nth(i).unwrap().1.clone()
}

fn kind(heard: &Heard) -> &'static str {
    heard.refused.as_ref().expect("refused").kind()
}

#[test]
fn item_01_lines_end_in_lf_or_cr_lf() {
    for version in Version::ALL {
        assert_eq!(value(&at(version, b"SEND\r\na:b\r\n\r\nx\0"), 0, "a"), "b");
    }
}

#[test]
fn item_02_commands_are_case_sensitive() {
    assert_eq!(kind(&at(Version::V1_2, b"send\n\n\0")), "unknown_command");
}

#[test]
fn item_03_eols_and_nuls_between_frames_are_skipped() {
    assert_eq!(at(Version::V1_2, b"\n\r\n\0\nSEND\n\n\0\n\n").frames.len(), 1);
    let first = check(&Config::new(Role::Server), b"\n\nCONNECT\n\n\0");
    assert_eq!(first.frames.len(), 1);
}

#[test]
fn item_06_and_07_escapes_per_version() {
    let all = b"SEND\na\\c:x\\n\\\\\\r\n\n\0";
    assert_eq!(value(&at(Version::V1_2, all), 0, "a:"), "x\n\\\r");
    assert_eq!(kind(&at(Version::V1_1, all)), "bad_escape");
    assert_eq!(value(&at(Version::V1_0, all), 0, "a\\c"), "x\\n\\\\\\r");
    assert_eq!(kind(&at(Version::V1_2, b"SEND\na:\\t\n\n\0")), "bad_escape");
    assert_eq!(kind(&at(Version::V1_2, b"SEND\na:\\\n\n\0")), "bad_escape");
}

#[test]
fn item_08_connect_has_no_escapes() {
    let heard = check(&Config::new(Role::Server), b"CONNECT\nlogin:gu\\cest\n\n\0");
    assert_eq!(value(&heard, 0, "login"), "gu\\cest");
}

#[test]
fn item_10_values_are_trimmed_on_1_0_alone() {
    assert_eq!(value(&at(Version::V1_2, b"SEND\na: b \n\n\0"), 0, "a"), " b ");
    assert_eq!(value(&at(Version::V1_0, b"SEND\na: b \n\n\0"), 0, "a"), "b ");
}

#[test]
fn item_05_and_11_malformed_headers() {
    for line in [&b"a"[..], b":a", b"a:\xff", b"a:\0"] {
        let heard = at(Version::V1_2, &[b"SEND\n", line, b"\n\n\0"].concat());
        assert_eq!(kind(&heard), "bad_header");
    }
    assert_eq!(value(&at(Version::V1_2, b"SEND\na:b:c\n\n\0"), 0, "a"), "b:c");
}

#[test]
fn item_12_repeated_headers_keep_their_order() {
    let heard = at(Version::V1_2, b"SEND\na:1\na:2\n\n\0");
    assert_eq!((value(&heard, 0, "a"), value(&heard, 1, "a")), ("1".into(), "2".into()));
}

#[test]
fn item_14_and_15_content_length_and_nul() {
    assert_eq!(at(Version::V1_2, b"SEND\ncontent-length:2\n\na\0\0").frames[0].body, b"a\0");
    assert_eq!(kind(&at(Version::V1_2, b"SEND\ncontent-length:1\n\nab\0")), "no_nul");
    for bad in ["-1", "x", "", "+1"] {
        let bytes = std::format!("SEND\ncontent-length:{bad}\n\n\0");
        assert_eq!(kind(&at(Version::V1_2, bytes.as_bytes())), "bad_header");
    }
}

#[test]
fn item_18_limits() {
    let huge = b"SEND\ncontent-length:99999999999999999999999\n\n";
    assert_eq!(kind(&at(Version::V1_2, huge)), "body_too_large");
    assert_eq!(kind(&at(Version::V1_2, &[b'A'; 32])), "command_too_large");
    let many = [b"SEND\n", &b"a:b\n".repeat(1001)[..]].concat();
    assert_eq!(kind(&at(Version::V1_2, &many)), "too_many_headers");
}

#[test]
fn item_21_connect_comes_first_and_once() {
    assert_eq!(kind(&check(&Config::new(Role::Server), b"SEND\n\n\0")), "unexpected");
    let again = at(Version::V1_2, b"CONNECT\nreceipt:9\n\n\0");
    assert_eq!(kind(&again), "unexpected");
    assert!(String::from_utf8(again.out).unwrap().contains("\nreceipt-id:9\n"));
}

#[test]
fn items_22_to_24_versions() {
    let config = Config::new(Role::Server);
    let answer = |header: &str| {
        let bytes = std::format!("CONNECT\n{header}\n\0");
        String::from_utf8(check(&config, bytes.as_bytes()).out).unwrap()
    };
    assert!(answer("").starts_with("CONNECTED\nversion:1.0\n"));
    assert!(answer("accept-version:2.0, 1.0, 1.2,1.1\n").contains("version:1.2\n"));
    assert!(answer("accept-version:3\n").starts_with("ERROR\nversion:1.0,1.1,1.2\n"));
}

#[test]
fn items_31_to_36_heart_beats_are_negotiated() {
    let mut config = Config::new(Role::Server);
    config.heart_beat = HeartBeat { send_ms: 500, receive_ms: 2000 };
    let bytes = b"CONNECT\naccept-version:1.2\nheart-beat:1000,800\n\n\0";
    let out = String::from_utf8(check(&config, bytes).out).unwrap();
    assert!(out.contains("heart-beat:800,2000\n"));
    let bad = b"CONNECT\naccept-version:1.2\nheart-beat:1\n\n\0";
    assert_eq!(kind(&check(&config, bad)), "bad_header");
    let mut beats = Beats::new(HeartBeat { send_ms: 900, receive_ms: 1000 }, 200, 0);
    assert_eq!((beats.deadline_ms(), beats.due(599)), (Some(600), Due::Nothing));
    assert_eq!((beats.due(600), beats.due(2000)), (Due::Beat, Due::Dead));
    beats.heard(1500);
    beats.sent(2000);
    assert_eq!(beats.due(2000), Due::Nothing);
}

#[test]
fn item_77_nothing_is_read_after_disconnect() {
    assert_eq!(at(Version::V1_2, b"DISCONNECT\n\n\0garbage").frames.len(), 1);
}
