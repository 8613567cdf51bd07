//! Tests speak data: bytes in, all that came of them out. `hear` alone knows the API of a
//! connection.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use super::*;

mod checklist;
mod client;
mod golden;
mod limits;
mod properties;
mod writing;

/// What a whole conversation came to, however its bytes were cut.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Heard {
    frames: Vec<Owned>,
    refused: Option<Error>,
    /// All that the server wrote.
    out: String,
    /// What was neither consumed nor refused.
    left: Vec<u8>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Owned {
    command: Command,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Heard {
    /// Why it was refused.
    #[track_caller]
    fn kind(&self) -> &'static str {
        self.refused.as_ref().expect("it was refused").kind()
    }

    /// The values of a header of its only frame.
    #[track_caller]
    fn values(&self, name: &str) -> Vec<&str> {
        assert_eq!((&self.refused, self.frames.len()), (&None, 1));
        let headers = self.frames[0].headers.iter().filter(|(known, _)| known == name);
        headers.map(|(_, value)| &**value).collect()
    }

    /// The body of its only frame.
    #[track_caller]
    fn body(&self) -> &[u8] {
        assert_eq!((&self.refused, self.frames.len()), (&None, 1));
        &self.frames[0].body
    }
}

/// Feeds `bytes` to a new server in pieces that end at `cuts`; it accepts whoever connects, and
/// gives the receipts it is asked for.
fn hear(config: &Config, bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> Heard {
    let mut connection = Connection::server();
    let mut heard = Heard { frames: vec![], refused: None, out: String::new(), left: vec![] };
    let mut out = Vec::new();
    let mut fed = 0;
    for cut in cuts.into_iter().chain([bytes.len()]) {
        heard.left.extend_from_slice(&bytes[fed..cut]);
        fed = cut;
        // As if other connections had used the scratch since.
        let mut head = Head::default();
        loop {
            match connection.next(config, &heard.left, &mut head, &mut out) {
                Ok(Step::More { need }) => {
                    assert!(need > heard.left.len());
                    break;
                }
                Ok(Step::Skip { len }) => drop(heard.left.drain(..len)),
                Ok(Step::Answer) => connection.accept(&[("session", "s1")], &mut out).unwrap(),
                Ok(Step::Frame { len }) => {
                    let frame = head.view(&heard.left);
                    put_receipt(&mut out, connection.version(), &frame);
                    let headers = frame.headers().map(|(n, v)| (n.to_string(), v.to_string()));
                    let (command, headers) = (frame.command(), headers.collect());
                    heard.frames.push(Owned { command, headers, body: frame.body().to_vec() });
                    heard.left.drain(..len);
                }
                Err(error) => {
                    heard.refused = Some(error);
                    heard.left.clear();
                    break;
                }
            }
        }
        if heard.refused.is_some() {
            let step = connection.next(config, b"SEND\n\n\0", &mut head, &mut out);
            assert_eq!(step, Ok(Step::Skip { len: 7 }), "nothing is read after an error");
            break;
        }
    }
    heard.out = String::from_utf8(out).unwrap();
    heard
}

/// Hears whole, bytewise and with bytes behind it; all must agree.
#[track_caller]
fn check(config: &Config, bytes: &[u8]) -> Heard {
    let whole = hear(config, bytes, []);
    assert_eq!(hear(config, bytes, 0..bytes.len()), whole, "bytewise");
    let trailing = hear(config, &[bytes, b"\nSEN"].concat(), []);
    if whole.left.is_empty() {
        assert_eq!(trailing.frames, whole.frames, "trailing bytes");
        assert_eq!(trailing.refused, whole.refused, "trailing bytes");
        assert_eq!(trailing.out, whole.out, "trailing bytes");
    }
    whole
}

/// What a new server of ours makes of `bytes`.
#[track_caller]
fn opening(bytes: &[u8]) -> Heard {
    check(&Config::new(Role::Server), bytes)
}

/// What a server that has accepted a client of that version makes of `bytes`; the CONNECT and its
/// answer are left out.
#[track_caller]
fn at(version: Version, bytes: &[u8]) -> Heard {
    at_with(&Config::new(Role::Server), version, bytes)
}

#[track_caller]
fn at_with(config: &Config, version: Version, bytes: &[u8]) -> Heard {
    let connect = std::format!("CONNECT\naccept-version:{version}\nhost:h\n\n\0");
    let mut heard = check(config, &[connect.as_bytes(), bytes].concat());
    heard.frames.remove(0);
    heard.out.drain(..=heard.out.find('\0').expect("CONNECTED"));
    heard
}
