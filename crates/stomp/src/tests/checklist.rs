//! The items of the conformance checklist that concern the wire and the connection, by number. What
//! concerns destinations, subscriptions and transactions is tested where those live.

use super::*;
use Version::{V1_0, V1_1, V1_2};

#[test]
fn item_01_lines_end_in_lf_or_cr_lf() {
    for version in Version::ALL {
        let heard = at(version, b"SEND\r\na:b\r\nc:d\n\r\nx\0");
        assert_eq!(
            (heard.values("a"), heard.values("c"), heard.body()),
            (vec!["b"], vec!["d"], &b"x"[..])
        );
    }
    let heard = at(V1_2, b"SEND\na:x\ry\n\n\0");
    assert_eq!(heard.values("a"), ["x\ry"], "a CR alone ends nothing");
}

#[test]
fn item_02_commands_and_names_are_case_sensitive() {
    assert_eq!(at(V1_2, b"send\n\n\0").kind(), "unknown_command");
    let heard = at(V1_2, b"SEND\nA:1\na:2\nContent-Length:9\n\nx\0");
    assert_eq!((heard.values("a"), heard.body()), (vec!["2"], &b"x"[..]));
}

#[test]
fn item_03_eols_and_nuls_between_frames_are_skipped() {
    for version in Version::ALL {
        let heard = at(version, b"\n\r\n\0\nSEND\n\n\0\n\n\0\r\n");
        assert_eq!((heard.frames.len(), heard.refused), (1, None));
    }
    assert_eq!(opening(b"\n\r\n\nCONNECT\n\n\0").frames.len(), 1);
}

#[test]
fn item_04_frames_come_in_any_pieces() {
    let bytes =
        b"CONNECT\naccept-version:1.2\n\n\0SEND\na:b\n\nxy\0\nSEND\ncontent-length:2\n\n\0\0\0";
    let config = Config::new(Role::Server);
    let whole = hear(&config, bytes, []);
    assert_eq!(whole.frames.len(), 3);
    for first in 0..bytes.len() {
        for second in first..bytes.len() {
            assert_eq!(hear(&config, bytes, [first, second]), whole, "{first} {second}");
        }
    }
}

#[test]
fn item_05_headers_are_utf_8_and_bodies_are_not() {
    for version in Version::ALL {
        assert_eq!(at(version, "SEND\nä:ö\n\n\0".as_bytes()).values("ä"), ["ö"]);
        assert_eq!(at(version, b"SEND\na:\xff\n\n\0").kind(), "bad_header");
        assert_eq!(at(version, b"SEND\n\n\xff\xfe\0").body(), b"\xff\xfe");
    }
}

#[test]
fn item_06_escapes_are_those_of_the_version() {
    let all = b"SEND\na\\c:x\\n\\\\\\r\n\n\0";
    assert_eq!(at(V1_2, all).values("a:"), ["x\n\\\r"]);
    assert_eq!(at(V1_1, all).kind(), "bad_escape");
    assert_eq!(at(V1_1, b"SEND\na\\c:x\\n\\\\\n\n\0").values("a:"), ["x\n\\"]);
    assert_eq!(at(V1_0, all).values("a\\c"), ["x\\n\\\\\\r"]);
}

#[test]
fn item_07_other_escapes_are_refused() {
    for version in [V1_1, V1_2] {
        for bad in ["a:\\t", "a:\\", "\\t:a", "a\\:b", "a:\\N"] {
            let heard = at(version, std::format!("SEND\n{bad}\nreceipt:7\n\n\0").as_bytes());
            assert_eq!(heard.kind(), "bad_escape", "{bad}");
            assert!(heard.out.starts_with("ERROR\nreceipt-id:7\n"), "{}", heard.out);
        }
    }
}

#[test]
fn item_08_connect_and_stomp_have_no_escapes() {
    for command in ["CONNECT", "STOMP"] {
        let bytes = std::format!("{command}\naccept-version:1.2\nlogin:gu\\cest\\t\n\n\0");
        assert_eq!(opening(bytes.as_bytes()).values("login"), ["gu\\cest\\t"]);
    }
}

#[test]
fn item_10_values_are_trimmed_on_1_0_alone() {
    for version in [V1_1, V1_2] {
        assert_eq!(at(version, b"SEND\na : b \n\n\0").values("a "), [" b "]);
    }
    assert_eq!(at(V1_0, b"SEND\na: b \n\n\0").values("a"), ["b "]);
    assert_eq!(opening(b"CONNECT\nlogin: me\n\n\0").values("login"), ["me"]);
}

#[test]
fn item_11_header_lines_have_a_name_and_a_colon() {
    for bad in ["a", ":a", ":"] {
        let heard = at(V1_2, std::format!("SEND\nx:y\n{bad}\nreceipt:7\n\n\0").as_bytes());
        assert_eq!(heard.kind(), "bad_header");
        assert!(heard.out.starts_with("ERROR\nreceipt-id:7\n"), "{}", heard.out);
    }
    assert_eq!(at(V1_2, b"SEND\na:\n\n\0").values("a"), [""]);
    assert_eq!(at(V1_2, b"SEND\na:b:c\n\n\0").values("a"), ["b:c"]);
    assert_eq!(at(V1_2, b"SEND\na:b\0").kind(), "bad_header", "no blank line");
}

#[test]
fn item_12_of_repeated_headers_the_first_counts_and_all_are_kept() {
    let bytes = b"SEND\na:1\ncontent-length:1\na:2\ncontent-length:9\n\nx\0";
    let heard = at(V1_2, bytes);
    assert_eq!((heard.values("a"), heard.body()), (vec!["1", "2"], &b"x"[..]));
    let mut head = Head::default();
    let mut out = Vec::new();
    let config = Config::new(Role::Server);
    let mut connection = Connection::server();
    let connect = b"CONNECT\nlogin:first\nlogin:second\n\n\0";
    connection.next(&config, connect, &mut head, &mut out).unwrap();
    assert_eq!(head.view(connect).get("login").as_deref(), Some("first"));
}

#[test]
fn item_13_what_has_no_body_may_carry_one() {
    let heard = at(V1_2, b"SUBSCRIBE\ncontent-length:3\n\na\0b\0SEND\n\n\0");
    assert_eq!(heard.frames.len(), 2);
    assert_eq!(heard.frames[0].body, b"");
    assert_eq!(at(V1_2, b"BEGIN\n\nignored\0").body(), b"");
}

#[test]
fn item_14_content_length_is_exact() {
    assert_eq!(at(V1_2, b"SEND\ncontent-length:2\n\na\0\0").body(), b"a\0");
    assert_eq!(at(V1_2, b"SEND\ncontent-length:007\n\n\0\0\0\0\0\0\0\0").body(), [0; 7]);
    let heard = at(V1_2, b"SEND\ncontent-length:1\nreceipt:7\n\nab\0");
    assert_eq!(heard.kind(), "no_nul");
    assert!(heard.out.starts_with("ERROR\nreceipt-id:7\n"));
    for bad in ["-1", "x", "", "+1", " 1", "1 ", "0x1"] {
        let bytes = std::format!("SEND\ncontent-length:{bad}\n\n\0");
        assert_eq!(at(V1_2, bytes.as_bytes()).kind(), "bad_header", "{bad:?}");
    }
    assert_eq!(at(V1_0, b"SEND\ncontent-length: 1 \n\n\0\0").body(), b"\0");
}

#[test]
fn item_15_without_a_length_the_body_ends_at_the_first_nul() {
    let heard = at(V1_2, b"SEND\n\na\nb\0SEND\n\n\0");
    assert_eq!((&heard.frames[0].body[..], &heard.frames[1].body[..]), (&b"a\nb"[..], &b""[..]));
}

#[test]
fn item_18_what_is_too_large_is_refused_before_it_is_there() {
    let huge = b"SEND\nreceipt:7\ncontent-length:99999999999999999999999\n\n";
    let heard = at(V1_2, huge);
    assert_eq!(heard.kind(), "body_too_large");
    assert!(heard.out.starts_with("ERROR\nreceipt-id:7\nmessage:body_too_large\n"));
    assert_eq!(at(V1_2, &[b'A'; 32]).kind(), "command_too_large");
    let many = [b"SEND\n", &b"a:b\n".repeat(1001)[..]].concat();
    assert_eq!(at(V1_2, &many).kind(), "too_many_headers");
    assert_eq!(at(V1_2, &[b"SEND\na:", &[b'x'; 70_000][..]].concat()).kind(), "head_too_large");
    assert_eq!(opening(&[b"CONNECT\na:", &[b'x'; 9_000][..]].concat()).kind(), "head_too_large");
    assert_eq!(opening(b"CONNECT\ncontent-length:8192\n\n").kind(), "opening_too_large");
}

#[test]
fn item_19_a_beat_is_no_frame() {
    let heard = at(V1_2, b"\n\0\n\r\n");
    assert_eq!((heard.frames.len(), heard.left.len(), heard.refused), (0, 0, None));
}

#[test]
fn item_20_stomp_connects_like_connect() {
    let answer = |command: &str| {
        opening(std::format!("{command}\naccept-version:1.1\nhost:h\n\n\0").as_bytes()).out
    };
    assert_eq!(answer("STOMP"), answer("CONNECT"));
}

#[test]
fn item_21_connect_comes_first_and_once() {
    assert_eq!(opening(b"SEND\nreceipt:9\n\n\0").kind(), "unexpected");
    let early = opening(b"\n\r\n\0SEND\ndestination:a\\cb\nreceipt:7\n\nhi\0");
    assert_eq!(early.kind(), "unexpected");
    assert!(early.out.starts_with("ERROR\nreceipt-id:7\n"), "{}", early.out);
    assert_eq!(opening(b"GET / HTTP/1.1\r\n").kind(), "unknown_command");
    let again = at(V1_2, b"CONNECT\nreceipt:9\n\n\0");
    assert_eq!(again.kind(), "unexpected");
    assert!(again.out.starts_with("ERROR\nreceipt-id:9\n"), "{}", again.out);
}

#[test]
fn item_22_who_offers_no_version_speaks_1_0() {
    for command in ["CONNECT", "STOMP"] {
        let out = opening(std::format!("{command}\n\n\0").as_bytes()).out;
        assert_eq!(out, "CONNECTED\nversion:1.0\nheart-beat:0,0\nsession:s1\n\n\0");
    }
}

#[test]
fn item_23_the_highest_common_version_is_chosen() {
    for (offered, chosen) in [
        ("1.0,1.1,1.2", "1.2"),
        ("1.2,1.1,1.0", "1.2"),
        ("1.1,1.0", "1.1"),
        ("2.0, 1.0, 1.1 ,1.3", "1.1"),
        ("1.0", "1.0"),
    ] {
        let out = opening(std::format!("CONNECT\naccept-version:{offered}\n\n\0").as_bytes()).out;
        assert!(out.starts_with(&std::format!("CONNECTED\nversion:{chosen}\n")), "{out}");
    }
    let mut config = Config::new(Role::Server);
    config.newest = V1_1;
    let out = check(&config, b"CONNECT\naccept-version:1.1,1.2\n\n\0").out;
    assert!(out.starts_with("CONNECTED\nversion:1.1\n"), "{out}");
}

#[test]
fn item_24_no_common_version_is_said_with_those_we_speak() {
    for offered in ["3", "", "1.20", "v1.2"] {
        let heard = opening(std::format!("CONNECT\naccept-version:{offered}\n\n\0").as_bytes());
        assert_eq!(heard.kind(), "no_version");
        assert!(heard.out.starts_with("ERROR\nversion:1.0,1.1,1.2\nmessage:no_version\n"));
        assert!(heard.out.ends_with("\n\nno version in common; spoken here: 1.0 to 1.2\n\0"));
    }
}

#[test]
fn item_25_a_missing_host_is_no_error() {
    assert_eq!(opening(b"CONNECT\naccept-version:1.2\n\n\0").refused, None);
}

#[test]
fn item_26_connected_says_version_session_and_beats() {
    let out = opening(b"CONNECT\naccept-version:1.2\nhost:h\n\n\0").out;
    assert_eq!(out, "CONNECTED\nversion:1.2\nheart-beat:0,0\nsession:s1\n\n\0");
}

#[test]
fn item_27_who_may_not_come_in_hears_why_and_nothing_more_is_read() {
    let config = Config::new(Role::Server);
    let (mut head, mut out) = (Head::default(), Vec::new());
    let mut connection = Connection::server();
    let connect = b"CONNECT\naccept-version:1.2\nlogin:me\npasscode:secret\n\n\0";
    let step = connection.next(&config, connect, &mut head, &mut out);
    assert_eq!(step, Ok(Step::Frame { len: connect.len() }));
    let waits = connection.next(&config, b"SEND\n\n\0", &mut head, &mut out);
    assert_eq!(waits, Ok(Step::Answer), "nothing is read before the answer");
    let refusal = Refusal { message: "denied", code: "denied", ..Refusal::default() };
    connection.refuse(refusal, &mut out);
    let text = "ERROR\nmessage:denied\nerror-code:denied\ncontent-type:text/plain\n\n\0";
    assert_eq!(out, text.as_bytes());
    let step = connection.next(&config, b"SEND\n\n\0", &mut head, &mut out);
    assert_eq!(step, Ok(Step::Skip { len: 7 }));
}

#[test]
fn item_28_connect_gets_no_receipt() {
    let out = opening(b"CONNECT\naccept-version:1.2\nreceipt:1\n\n\0").out;
    assert_eq!(out.matches("receipt").count(), 0, "{out}");
}

#[test]
fn item_30_all_that_came_before_the_end_is_heard() {
    let heard = opening(
        b"CONNECT\n\n\0SEND\ndestination:a\n\n1\0SEND\ndestination:a\n\n2\0DISCONNECT\n\n\0",
    );
    assert_eq!(heard.frames.len(), 4);
}

#[test]
fn item_31_malformed_heart_beats_are_refused() {
    for bad in ["1", "", ",", "1,", "-1,0", "a,b", "1,2,3", "1.5,0"] {
        let bytes = std::format!("CONNECT\naccept-version:1.2\nheart-beat:{bad}\n\n\0");
        assert_eq!(opening(bytes.as_bytes()).kind(), "bad_header", "{bad:?}");
    }
    let bytes = b"CONNECT\naccept-version:1.2\nheart-beat:99999999999,0\n\n\0";
    assert_eq!(opening(bytes).refused, None);
}

/// What a server that can and wants so answers a client that can and wants so.
fn negotiated(ours: (u32, u32), theirs: &str) -> String {
    let mut config = Config::new(Role::Server);
    config.heart_beat = HeartBeat { send_ms: ours.0, receive_ms: ours.1 };
    let bytes = std::format!("CONNECT\naccept-version:1.2\n{theirs}\n\0");
    let out = check(&config, bytes.as_bytes()).out;
    let line = out.lines().find_map(|line| line.strip_prefix("heart-beat:"));
    line.expect("a server says its beats").to_string()
}

#[test]
fn item_32_no_heart_beat_means_none() {
    assert_eq!(negotiated((500, 500), ""), "0,0");
}

#[test]
fn items_33_and_36_the_slower_wish_wins_and_is_what_we_answer() {
    for (ours, theirs, answer) in [
        ((500, 2000), "heart-beat:1000,800\n", "800,2000"),
        ((500, 2000), "heart-beat:3000,100\n", "500,3000"),
        ((500, 2000), "heart-beat:0,100\n", "500,0"),
        ((500, 2000), "heart-beat:3000,0\n", "0,3000"),
        ((0, 0), "heart-beat:3000,3000\n", "0,0"),
        ((0, 500), "heart-beat:0,3000\n", "0,0"),
    ] {
        assert_eq!(negotiated(ours, theirs), answer, "{ours:?} {theirs}");
    }
}

#[test]
fn item_34_beats_are_sent_in_time() {
    let mut beats = Beats::new(HeartBeat { send_ms: 900, receive_ms: 0 }, 200, 1_000);
    assert_eq!(beats.deadline_ms(), Some(1_600));
    assert_eq!((beats.due(1_599), beats.due(1_600)), (Due::Nothing, Due::Beat));
    beats.sent(1_500);
    assert_eq!((beats.due(1_600), beats.deadline_ms()), (Due::Nothing, Some(2_100)));
}

#[test]
fn items_35_and_37_silence_is_forgiven_for_a_while_and_any_octet_ends_it() {
    let mut beats = Beats::new(HeartBeat { send_ms: 0, receive_ms: 1_000 }, 200, 0);
    assert_eq!((beats.due(1_999), beats.due(2_000)), (Due::Nothing, Due::Dead));
    beats.heard(1_500);
    assert_eq!((beats.due(2_000), beats.deadline_ms()), (Due::Nothing, Some(3_500)));
}

#[test]
fn item_38_version_1_0_has_no_beats() {
    let out = opening(b"CONNECT\nheart-beat:1,1\n\n\0").out;
    assert!(out.contains("\nheart-beat:0,0\n"), "{out}");
    let beats = Beats::new(HeartBeat::default(), 200, 0);
    assert_eq!((beats.due(u64::MAX), beats.deadline_ms()), (Due::Nothing, None));
}

#[test]
fn item_72_a_frame_is_receipted_under_the_name_it_asked_for() {
    let heard = at(V1_2, b"SEND\nreceipt:a\\cb\n\n\0ACK\n\n\0NACK\nreceipt:\n\n\0");
    assert_eq!(heard.out, "RECEIPT\nreceipt-id:a\\cb\n\n\0RECEIPT\nreceipt-id:\n\n\0");
}

#[test]
fn items_75_and_79_an_error_names_the_receipt_that_will_not_come() {
    let heard = at(V1_2, b"SEND\nreceipt:a\\cb\ncontent-length:x\n\n\0");
    let expected = "ERROR\nreceipt-id:a\\cb\nmessage:bad_header\nerror-code:bad_header\n\
        content-type:text/plain\ncontent-length:60\n\n\
        bad header: content-length takes a number of octets\n\0";
    let length = "bad header: content-length takes a number of octets\n".len();
    assert_eq!(heard.out, expected.replace("length:60", &std::format!("length:{length}")));
    let unnamed = at(V1_2, b"SEND\nreceipt:a\\t\n\n\0").out;
    assert!(!unnamed.contains("receipt-id"), "{unnamed}");
}

#[test]
fn item_77_nothing_is_read_after_disconnect() {
    let heard = at(V1_2, b"DISCONNECT\nreceipt:1\n\n\0garbage\0SEND\n\n\0");
    assert_eq!((heard.frames.len(), heard.refused), (1, None));
    assert_eq!(heard.out, "RECEIPT\nreceipt-id:1\n\n\0");
}

#[test]
fn item_78_an_error_ends_the_connection() {
    let heard = at(V1_2, b"SEND\na\n\n\0SEND\n\n\0");
    assert_eq!((heard.kind(), heard.frames.len()), ("bad_header", 0));
}

#[test]
fn item_82_commands_of_the_other_side_and_of_later_versions_are_unknown() {
    for command in ["CONNECTED", "MESSAGE", "RECEIPT", "ERROR", "PUBLISH", "SEND ", "x"] {
        let bytes = std::format!("{command}\n\n\0");
        assert_eq!(at(V1_2, bytes.as_bytes()).kind(), "unknown_command", "{command:?}");
    }
    assert_eq!(at(V1_0, b"NACK\n\n\0").kind(), "unknown_command");
    assert_eq!(at(V1_1, b"NACK\n\n\0").refused, None);
}
