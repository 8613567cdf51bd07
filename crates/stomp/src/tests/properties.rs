//! What holds for all bytes and all cuts.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn what_is_written_is_read(
        version in 0..3_usize,
        headers in prop::collection::vec(("[a-z:\\\\\n]{1,6}", "[a-z:\\\\\n\r é]{0,9}"), 0..6),
        body in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let version = Version::ALL[version];
        // 1.0 has no way to keep a space at the start of a value.
        let kept = |v: &str| version > Version::V1_0 || !v.starts_with(' ');
        let fits = |(n, v): &(String, String)| representable(version, n, v) && kept(v);
        let headers: Vec<_> = headers.into_iter().filter(fits).collect();
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, version, Command::Send);
        for (name, value) in &headers {
            writer = writer.header(name, value);
        }
        writer.content_length(body.len() as u64).body(&body).unwrap();
        let heard = at(version, &out);
        prop_assert_eq!(heard.refused, None);
        let mut read = heard.frames[0].clone();
        read.headers.pop();
        prop_assert_eq!(read, Owned { command: Command::Send, headers, body });
    }

    #[test]
    fn cuts_make_no_difference(
        parts in prop::collection::vec(prop_oneof![
            Just(b"CONNECT\naccept-version:1.2\nheart-beat:1,2\n\n\0".to_vec()),
            Just(b"SEND\ndestination:a\\cb\nreceipt:7\n\nhi\0".to_vec()),
            Just(b"SEND\r\ncontent-length:3\r\n\r\n\0\0\0\0".to_vec()),
            Just(b"\n\r\n\0".to_vec()),
            prop::collection::vec(any::<u8>(), 0..9),
        ], 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut config = Config::new(Role::Server);
        config.limits =
            Limits { headers_max: 3, head_bytes_max: 60, body_bytes_max: 9, opening_bytes_max: 55 };
        let bytes = parts.concat();
        let whole = hear(&config, &bytes, []);
        prop_assert_eq!(hear(&config, &bytes, 0..bytes.len()), whole.clone(), "bytewise");
        let cut = cut.index(bytes.len() + 1);
        prop_assert_eq!(hear(&config, &bytes, [cut]), whole);
    }
}
