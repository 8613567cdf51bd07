//! Tests speak data: bytes in, all that came of them out. `hear` alone knows the API of a
//! connection.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use super::*;

mod checklist;
mod golden;
mod properties;

/// What a whole conversation came to, however its bytes were cut.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Heard {
    frames: Vec<Owned>,
    refused: Option<Error>,
    out: Vec<u8>,
    /// What was neither consumed nor refused.
    left: Vec<u8>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Owned {
    command: Command,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// Feeds `bytes` to a new server in pieces that end at `cuts`; it accepts whoever connects.
fn hear(config: &Config, bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> Heard {
    let mut connection = Connection::server();
    let mut heard = Heard { frames: vec![], refused: None, out: vec![], left: vec![] };
    let mut fed = 0;
    for cut in cuts.into_iter().chain([bytes.len()]) {
        heard.left.extend_from_slice(&bytes[fed..cut]);
        fed = cut;
        // Another connection's frame in between: the scratch is shared.
        let mut head = Head::default();
        loop {
            match connection.next(config, &heard.left, &mut head, &mut heard.out) {
                Ok(Step::More { need }) => {
                    assert!(need > heard.left.len());
                    break;
                }
                Ok(Step::Skip { len }) => drop(heard.left.drain(..len)),
                Ok(Step::Answer) => connection.accept(&[], &mut heard.out).unwrap(),
                Ok(Step::Frame { len }) => {
                    let frame = head.view(&heard.left);
                    let headers = frame.headers().map(|(n, v)| (n.to_string(), v.to_string()));
                    let (command, headers) = (frame.command(), headers.collect());
                    heard.frames.push(Owned { command, headers, body: frame.body().to_vec() });
                    heard.left.drain(..len);
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

/// Hears whole, bytewise and with bytes behind it; all must agree.
#[track_caller]
fn check(config: &Config, bytes: &[u8]) -> Heard {
    let whole = hear(config, bytes, []);
    assert_eq!(hear(config, bytes, 0..bytes.len()), whole, "bytewise");
    let trailing = hear(config, &[bytes, b"\nSEN"].concat(), []);
    assert_eq!(trailing.frames, whole.frames, "trailing bytes");
    assert_eq!(trailing.refused, whole.refused, "trailing bytes");
    whole
}

/// A server of that version has accepted a client that says `bytes`.
#[track_caller]
fn at(version: Version, bytes: &[u8]) -> Heard {
    let connect = std::format!("CONNECT\naccept-version:{version}\nhost:h\n\n\0");
    let config = Config::new(Role::Server);
    let mut heard = check(&config, &[connect.as_bytes(), bytes].concat());
    heard.frames.remove(0);
    heard
}
