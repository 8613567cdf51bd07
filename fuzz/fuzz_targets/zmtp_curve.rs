//! CURVE and PLAIN, both roles: a good conversation of which some octets are changed, left out,
//! said twice or added, before and after the boxes are closed, cut at any place.
//!
//! What holds: nothing panics; how the bytes are cut makes no difference; an honest handshake comes
//! through.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use maitred_fuzz::cuts;
use maitred_fuzz::secure::{Kind, Side};

#[derive(Arbitrary, Debug)]
struct Input {
    plain: bool,
    /// Whether it is the server that is lied to.
    at_server: bool,
    /// In the handshake, by the number of what was said.
    lies: Vec<(u8, Lie)>,
    /// Frames as they would stand on an open wire; what is not whole is not said.
    traffic: Vec<u8>,
    /// In the sealed traffic.
    later: Vec<Lie>,
    /// Bytes behind all that.
    noise: Vec<u8>,
    cuts: Vec<u8>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Lie {
    /// This octet is another one.
    Change(u16, u8),
    /// Nothing is said from here on.
    Cut(u16),
    /// All of it is said twice, unless that is more than any peer needs to say.
    Twice,
}

/// Lies that double what is said may follow each other; more octets than this find nothing new.
const SAID_MAX: usize = 16_384;

impl Lie {
    fn tell(self, bytes: &mut Vec<u8>) -> bool {
        let len = bytes.len().max(1);
        match self {
            Lie::Change(at, mask) => {
                if let Some(octet) = bytes.get_mut(usize::from(at) % len) {
                    *octet ^= mask;
                }
                mask != 0
            }
            Lie::Cut(at) => {
                bytes.truncate(usize::from(at) % len);
                true
            }
            Lie::Twice => {
                if bytes.len() <= SAID_MAX / 2 {
                    bytes.extend_from_within(..);
                }
                true
            }
        }
    }
}

fuzz_target!(|input: Input| {
    let kind = if input.plain { Kind::Plain } else { Kind::Curve };
    let whole = converse(kind, &input, &[]);
    let cut = converse(kind, &input, &input.cuts);
    assert_eq!(whole, cut);
});

/// Everything the side that was lied to heard.
fn converse(kind: Kind, input: &Input, fractions: &[u8]) -> Vec<String> {
    let (mut server, mut client) = (Side::server(kind), Side::client(kind));
    let (victim, liar) = match input.at_server {
        true => (&mut server, &mut client),
        false => (&mut client, &mut server),
    };
    let mut lied = false;
    for number in 0.. {
        let honest = victim.said();
        liar.hear(&honest, &[]);
        let mut said = liar.said();
        if honest.is_empty() && said.is_empty() {
            break;
        }
        for (_, lie) in input.lies.iter().filter(|(at, _)| at % 4 == number) {
            lied |= lie.tell(&mut said);
        }
        victim.hear(&said, &cuts(fractions, said.len()));
    }
    if !lied {
        assert!(victim.is_ready() && liar.is_ready());
    }
    if liar.is_ready() {
        let mut traffic = liar.seal(&input.traffic);
        for lie in &input.later {
            lie.tell(&mut traffic);
        }
        traffic.extend_from_slice(&input.noise);
        victim.hear(&traffic, &cuts(fractions, traffic.len()));
    }
    victim.heard().to_vec()
}
