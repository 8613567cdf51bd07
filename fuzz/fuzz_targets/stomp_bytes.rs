//! Arbitrary bytes into a STOMP connection of either side: no panic, no excess, no difference
//! however they are cut, and what was read can be written and read again.
//!
//! Input: one octet of circumstances, three of cuts, then what the peer sends. The octet: 0x03 the
//! version of a conversation that is open already, 3 none; 0x04 limits are tight; 0x08 we are a
//! client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use maitred_fuzz::cuts;
use stomp::{
    Command, Config, Connection, Error, Head, Limits, Role, Step, Version, Writer, put_receipt,
    representable,
};

fuzz_target!(|data: &[u8]| {
    let Some((&[circumstances, ref fractions @ ..], sent)) = data.split_first_chunk::<4>() else {
        return;
    };
    let is_client = circumstances & 0x08 != 0;
    let mut config = Config::new(if is_client { Role::Client } else { Role::Server });
    if circumstances & 0x04 != 0 {
        config.limits =
            Limits { headers_max: 3, head_bytes_max: 60, body_bytes_max: 9, opening_bytes_max: 55 };
    }
    let opening = match (Version::ALL.get(usize::from(circumstances & 0x03)), is_client) {
        (None, _) => String::new(),
        (Some(version), false) => format!("CONNECT\naccept-version:{version}\n\n\0"),
        (Some(version), true) => format!("CONNECTED\nversion:{version}\n\n\0"),
    };
    let bytes = [opening.as_bytes(), sent].concat();

    let whole = hear(&config, &bytes, []);
    assert_eq!(hear(&config, &bytes, 0..bytes.len()), whole, "bytewise");
    assert_eq!(hear(&config, &bytes, cuts(fractions, bytes.len())), whole, "cut");
    // CONNECTED, RECEIPTs no longer than what asked for them, one ERROR.
    assert!(whole.out.len() <= 100 + 8 * bytes.len() + 400);
    for said in &whole.said {
        said.is_read_again(&config);
    }
});

/// Everything that came of a conversation.
#[derive(Debug, Default, Eq, PartialEq)]
struct Heard {
    said: Vec<Said>,
    refused: Option<Error>,
    out: Vec<u8>,
    left: Vec<u8>,
}

/// One frame, and in which version it was said.
#[derive(Debug, Eq, PartialEq)]
struct Said {
    version: Version,
    command: Command,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// Feeds `bytes` to a new connection in pieces that end at `cuts`, which must ascend.
fn hear(config: &Config, bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> Heard {
    let mut heard = Heard::default();
    let mut connection = match config.role {
        Role::Server => Connection::server(),
        Role::Client => Connection::client(config, "h", &[], &mut Vec::new()).unwrap(),
    };
    let limits = &config.limits;
    let need_max = u64::from(limits.head_bytes_max) + limits.body_bytes_max + 1;
    let mut fed = 0;
    for cut in cuts.into_iter().chain([bytes.len()]) {
        heard.left.extend_from_slice(&bytes[fed..cut]);
        fed = cut;
        // As if other connections had used the scratch since.
        let mut head = Head::default();
        loop {
            match connection.next(config, &heard.left, &mut head, &mut heard.out) {
                Ok(Step::More { need }) => {
                    assert!(need > heard.left.len() && need as u64 <= need_max);
                    break;
                }
                Ok(Step::Skip { len }) => {
                    assert!(len > 0);
                    drop(heard.left.drain(..len));
                }
                Ok(Step::Answer) => connection.accept(&[], &mut heard.out).unwrap(),
                Ok(Step::Frame { len }) => {
                    let frame = head.view(&heard.left[..len]);
                    put_receipt(&mut heard.out, connection.version(), &frame);
                    let headers = frame.headers().map(|(n, v)| (n.into_owned(), v.into_owned()));
                    heard.said.push(Said {
                        version: connection.version(),
                        command: frame.command(),
                        headers: headers.collect(),
                        body: frame.body().to_vec(),
                    });
                    drop(heard.left.drain(..len));
                }
                Err(error) => {
                    heard.refused = Some(error);
                    heard.left.clear();
                    return heard;
                }
            }
        }
    }
    heard
}

impl Said {
    /// A SEND or MESSAGE that was read can be written; then it is read as the same. Only a CR,
    /// which before 1.2 may stand in a header and has no escape, is not said again.
    fn is_read_again(&self, config: &Config) {
        if !matches!(self.command, Command::Send | Command::Message) {
            return;
        }
        let mut bytes = match config.role {
            Role::Server => format!("CONNECT\naccept-version:{}\n\n\0", self.version),
            Role::Client => format!("CONNECTED\nversion:{}\n\n\0", self.version),
        }
        .into_bytes();
        let mut writer = Writer::new(&mut bytes, self.version, self.command);
        let mut has_length = false;
        for (name, value) in &self.headers {
            if name != "content-length" {
                writer = writer.header_if_fits(name, value);
            } else if !has_length {
                has_length = true;
                writer = writer.content_length(self.body.len() as u64);
            }
        }
        let written = if has_length || self.body.is_empty() {
            writer.body(&self.body)
        } else {
            writer.text_body(&self.body)
        };
        written.expect("what was said in a version can be said in it");
        let mut roomy = config.clone();
        roomy.limits = Limits::default();
        let again = hear(&roomy, &bytes, []);
        assert_eq!(again.refused, None);
        let again = again.said.last().expect("it is read");
        assert_eq!(again.body, self.body);
        let theirs = |said: &Said| -> Vec<(String, String)> {
            let kept = said.headers.iter().filter(|(name, value)| {
                name != "content-length" && representable(self.version, name, value)
            });
            kept.cloned().collect()
        };
        assert_eq!(theirs(again), theirs(self));
        let lost = self.headers.iter().filter(|(n, v)| !representable(self.version, n, v));
        let has_cr = |(n, v): &(String, String)| n.contains('\r') || v.contains('\r');
        assert!(self.version < Version::V1_2 || lost.clone().next().is_none());
        assert!(lost.clone().all(has_cr));
    }
}
