//! What we write, and what we refuse to write.

use super::*;
use Version::{V1_0, V1_1, V1_2};

/// A MESSAGE with one header.
fn message(version: Version, name: &str, value: &str) -> Result<String, Misuse> {
    let mut out = b"before".to_vec();
    let done = Writer::new(&mut out, version, Command::Message).header(name, value).body(b"");
    let text = String::from_utf8(out).unwrap();
    let written = text.strip_prefix("before").unwrap().to_string();
    if done.is_err() {
        assert_eq!(written, "", "nothing is written then");
    }
    done.map(|()| written)
}

#[test]
fn item_09_what_is_written_is_escaped_as_the_version_says() {
    let written = |version, value| message(version, "a", value).map(|text| text.replace('\0', ""));
    let plain = |value: &str| Ok(std::format!("MESSAGE\na:{value}\n\n"));
    assert_eq!(written(V1_2, "x\n:\\\r"), plain("x\\n\\c\\\\\\r"));
    assert_eq!(written(V1_1, "x\n:\\"), plain("x\\n\\c\\\\"));
    assert_eq!(written(V1_0, "x:\\"), plain("x:\\"));
    let cannot = |version| Err(Misuse::Unrepresentable { version });
    assert_eq!(written(V1_1, "\r"), cannot(V1_1));
    assert_eq!(written(V1_0, "\n"), cannot(V1_0));
    assert_eq!(written(V1_0, "\r"), cannot(V1_0));
    assert_eq!(written(V1_2, "\0"), cannot(V1_2));
    assert_eq!(message(V1_0, "a:b", ""), cannot(V1_0));
    assert_eq!(message(V1_2, "a:b", ""), Ok("MESSAGE\na\\cb:\n\n\0".into()));
    assert_eq!(message(V1_2, "", "b"), Err(Misuse::NoName));
    for version in Version::ALL {
        for (name, value) in
            [("a", "b"), ("a:", "b"), ("a", "\r"), ("a", "\n"), ("", ""), ("a", "\0")]
        {
            assert_eq!(representable(version, name, value), message(version, name, value).is_ok());
        }
    }
}

#[test]
fn item_16_bodies_carry_their_length() {
    let mut out = Vec::new();
    Writer::new(&mut out, V1_2, Command::Message).body(b"a\0").unwrap();
    Writer::new(&mut out, V1_2, Command::Message).text_body(b"a").unwrap();
    Writer::new(&mut out, V1_2, Command::Message).content_length(0).body(b"").unwrap();
    Writer::new(&mut out, V1_2, Command::Message).body_follows(3).unwrap();
    let expected =
        b"MESSAGE\ncontent-length:2\n\na\0\0MESSAGE\n\na\0MESSAGE\ncontent-length:0\n\n\0\
        MESSAGE\ncontent-length:3\n\n";
    assert_eq!(out, expected);
    let wrong = Writer::new(&mut out, V1_2, Command::Message).content_length(3).body(b"a");
    assert_eq!(wrong, Err(Misuse::Length));
    let wrong = Writer::new(&mut out, V1_2, Command::Message).text_body(b"\0");
    assert_eq!(wrong, Err(Misuse::Length));
    assert_eq!(out, expected, "nothing is written then");
}

/// A SEND as it would be handed on as a MESSAGE to a peer of `to`.
fn handed_on(from: Version, to: Version, send: &[u8]) -> String {
    let config = Config::new(Role::Server);
    let (mut head, mut out) = (Head::default(), Vec::new());
    let mut connection = Connection::server();
    let connect = std::format!("CONNECT\naccept-version:{from}\n\n\0");
    connection.next(&config, connect.as_bytes(), &mut head, &mut out).unwrap();
    connection.accept(&[], &mut out).unwrap();
    connection.next(&config, send, &mut head, &mut out).unwrap();
    let frame = head.view(send);
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, to, Command::Message).header("message-id", "1");
    for (name, value) in frame.headers().filter(|(name, _)| !is_servers_own(name)) {
        writer = writer.header_if_fits(&name, &value);
    }
    writer.body(frame.body()).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn items_17_and_40_headers_are_handed_on_and_none_is_invented() {
    let send = b"SEND\ndestination:/q\nz:1\na:2\nz:3\ncontent-type:text/plain\n\nx\0";
    let expected = "MESSAGE\nmessage-id:1\nz:1\na:2\nz:3\ncontent-type:text/plain\n\
        content-length:1\n\nx\0";
    assert_eq!(handed_on(V1_2, V1_2, send), expected);
    let send = b"SEND\ndestination:/q\n\nx\0";
    assert_eq!(handed_on(V1_2, V1_2, send), "MESSAGE\nmessage-id:1\ncontent-length:1\n\nx\0");
}

#[test]
fn items_40_and_44_what_the_server_says_cannot_be_said_by_a_client() {
    for name in [
        "message-id",
        "subscription",
        "ack",
        "id",
        "receipt",
        "transaction",
        "redelivered",
        "receipt-id",
    ] {
        let send = std::format!("SEND\ndestination:/q\n{name}:forged\n\n\0");
        let handed = handed_on(V1_2, V1_2, send.as_bytes());
        assert_eq!(handed, "MESSAGE\nmessage-id:1\n\n\0", "{name}");
    }
}

#[test]
fn what_a_version_cannot_carry_is_left_out_and_the_rest_goes_on() {
    let send = b"SEND\ndestination:/q\na:x\\ny\nb\\c:1\nc:\\r\nd:2\n\n\0";
    let to = |version| handed_on(V1_2, version, send);
    assert_eq!(to(V1_2), "MESSAGE\nmessage-id:1\na:x\\ny\nb\\c:1\nc:\\r\nd:2\n\n\0");
    assert_eq!(to(V1_1), "MESSAGE\nmessage-id:1\na:x\\ny\nb\\c:1\nd:2\n\n\0");
    assert_eq!(to(V1_0), "MESSAGE\nmessage-id:1\nd:2\n\n\0");
    let send = b"SEND\ndestination:/q\na: x\\ny\n\n\0";
    assert_eq!(handed_on(V1_0, V1_2, send), "MESSAGE\nmessage-id:1\na:x\\\\ny\n\n\0");
}
