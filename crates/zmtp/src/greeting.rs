//! The 64 octets each side opens with (RFC 37, "Formal Grammar").

use alloc::vec::Vec;

use crate::error::{Error, printable};
use crate::handshake::Mechanism;

/// Octets in a greeting.
pub(crate) const GREETING_BYTES: usize = 64;

/// The oldest major version we speak.
const MAJOR: u8 = 3;

/// The minor version we announce: 3.1 added PING and PONG.
const MINOR: u8 = 1;

/// Where the mechanism stands, null-padded.
const MECHANISM: core::ops::Range<usize> = 12..32;

/// Where `as-server` stands: 1 for the side that asks who the other one is.
const AS_SERVER: usize = 32;

/// Writes our greeting. The filler is zero.
pub(crate) fn put_greeting(out: &mut Vec<u8>, mechanism: Mechanism, as_server: bool) {
    let start = out.len();
    out.extend_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, MAJOR, MINOR]);
    out.extend_from_slice(mechanism.name().as_bytes());
    out.resize(start + GREETING_BYTES, 0);
    out[start + AS_SERVER] = u8::from(as_server);
}

/// What a peer's greeting came to so far.
pub(crate) enum Greeting {
    /// Acceptable as far as it goes; nothing new can be said before `need` octets are there.
    Partial { need: usize },
    /// Acceptable; `minor` is `u8::MAX` when the major version is above ours.
    Whole { minor: u8 },
}

/// Judges as much of a greeting as has arrived, refusing at the first octet that cannot be ours.
/// Padding, `as-server` and filler are not looked at: the RFC forbids it for the first, and libzmq
/// says 0 in both roles. Two servers, or two clients, fail at the first command instead.
pub(crate) fn read_greeting(buf: &[u8], mechanism: Mechanism) -> Result<Greeting, Error> {
    let Some(&first) = buf.first() else { return Ok(Greeting::Partial { need: 1 }) };
    if first != 0xff {
        return Err(Error::NotZmtp);
    }
    let Some(&last) = buf.get(9) else { return Ok(Greeting::Partial { need: 10 }) };
    if last != 0x7f {
        return Err(Error::NotZmtp);
    }
    let Some(&major) = buf.get(10) else { return Ok(Greeting::Partial { need: 11 }) };
    if major < MAJOR {
        // RFC 15: ZMTP 2.0 announces itself by the octet 1; 0 was ZMTP 1.0's.
        return Err(Error::OldVersion { major: if major == 0 { 1 } else { 2 } });
    }
    let Some(greeting) = buf.get(..GREETING_BYTES) else {
        return Ok(Greeting::Partial { need: GREETING_BYTES });
    };
    let padded = &greeting[MECHANISM];
    let name_bytes = mechanism.name().len();
    let (name, padding) = padded.split_at(name_bytes);
    if name != mechanism.name().as_bytes() || padding.iter().any(|&b| b != 0) {
        let end = padded.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
        return Err(Error::Mechanism { ours: mechanism.name(), got: printable(&padded[..end]) });
    }
    Ok(Greeting::Whole { minor: if major > MAJOR { u8::MAX } else { greeting[11] } })
}
