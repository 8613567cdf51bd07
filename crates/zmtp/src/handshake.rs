//! What handshakes say: READY and its properties (RFC 37, "The NULL Security Mechanism" and
//! "Connection Metadata"), and the words of PLAIN (RFC 24).

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::connection::Config;
use crate::error::Error;
use crate::frame::put_command;
use crate::socket_type::SocketType;

/// How peers prove who they are; both must have chosen the same one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mechanism {
    /// Not at all.
    #[default]
    Null,
    /// By a name and a password that everybody on the way can read (RFC 24).
    Plain,
    /// By keys, and all traffic is sealed (RFC 25, RFC 26).
    Curve,
}

impl Mechanism {
    /// The name in the greeting; at most 20 octets.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Null => "NULL",
            Mechanism::Plain => "PLAIN",
            Mechanism::Curve => "CURVE",
        }
    }
}

/// The command the handshake waits for. Whatever else it must remember is in a box, so that a
/// connection that is through pays nothing for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Awaited {
    /// NULL: our READY is written, the peer's is awaited.
    NullReady,
    PlainHello,
    PlainWelcome,
    PlainInitiate,
    PlainReady,
    CurveHello,
    CurveWelcome,
    CurveInitiate,
    CurveReady,
}

impl Awaited {
    /// The only command there may be beside ERROR.
    pub(crate) fn name(self) -> &'static [u8] {
        match self {
            Awaited::NullReady | Awaited::PlainReady | Awaited::CurveReady => b"READY",
            Awaited::PlainHello | Awaited::CurveHello => b"HELLO",
            Awaited::PlainWelcome | Awaited::CurveWelcome => b"WELCOME",
            Awaited::PlainInitiate | Awaited::CurveInitiate => b"INITIATE",
        }
    }

    /// Most octets in the body of a command now. Strangers are given little room.
    pub(crate) fn command_bytes_max(self, limit: u32) -> u32 {
        match self {
            Awaited::NullReady => limit,
            // Two names of 255 octets and their lengths.
            Awaited::PlainHello => limit.min(6 + 2 * 256),
            // An ERROR with the longest reason is longer than either.
            Awaited::PlainWelcome | Awaited::CurveHello | Awaited::CurveWelcome => limit.min(262),
            Awaited::PlainInitiate
            | Awaited::PlainReady
            | Awaited::CurveInitiate
            | Awaited::CurveReady => limit.min(METADATA_BYTES_MAX),
        }
    }
}

/// What the peer's properties said about it.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub(crate) socket_type: SocketType,
    /// Empty if none was announced or the socket type has none.
    pub(crate) identity: Box<[u8]>,
}

/// Whether `identity` may be announced: at most 255 octets, the first not zero; empty means none
/// (RFC 37, "The Identity Property").
pub fn valid_identity(identity: &[u8]) -> bool {
    identity.len() <= IDENTITY_BYTES_MAX && identity.first() != Some(&0)
}

/// Our properties.
pub(crate) fn properties(config: &Config) -> Vec<u8> {
    let mut properties = Vec::new();
    put_property(&mut properties, SOCKET_TYPE, config.socket_type.as_bytes());
    if let Some(identity) = &config.identity {
        put_property(&mut properties, IDENTITY, identity);
    }
    properties
}

/// Writes our READY.
pub(crate) fn put_ready(out: &mut Vec<u8>, config: &Config) {
    put_command(out, b"READY", &[&properties(config)]);
}

/// Writes a PLAIN client's HELLO.
pub(crate) fn put_plain_hello(out: &mut Vec<u8>, username: &str, password: &str) {
    let lengths = [username.len() as u8, password.len() as u8];
    let (name, word) = (username.as_bytes(), password.as_bytes());
    put_command(out, b"HELLO", &[&lengths[..1], name, &lengths[1..], word]);
}

/// The name and the password in a PLAIN client's HELLO.
pub(crate) fn read_plain_hello(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = data.split_first()?;
    let (username, rest) = rest.split_at_checked(usize::from(len))?;
    let (&len, password) = rest.split_first()?;
    (password.len() == usize::from(len)).then_some((username, password))
}

/// Reads a property list and judges it. Properties we do not know are skipped.
pub(crate) fn read_properties(mut list: &[u8], ours: SocketType) -> Result<Metadata, Error> {
    let mut socket_type = None;
    let mut identity = None;
    while !list.is_empty() {
        let (name, value) = take_property(&mut list)?;
        let known = if name.eq_ignore_ascii_case(SOCKET_TYPE) {
            &mut socket_type
        } else if name.eq_ignore_ascii_case(IDENTITY) {
            &mut identity
        } else {
            continue;
        };
        if known.replace(value).is_some() {
            return Err(Error::BadReady { what: "a property twice" });
        }
    }
    let name = socket_type.ok_or(Error::BadReady { what: "no Socket-Type" })?;
    let socket_type = SocketType::from_bytes(name)
        .ok_or(Error::BadReady { what: "a Socket-Type nobody knows" })?;
    if !ours.accepts(socket_type) {
        return Err(Error::Incompatible { ours, peer: socket_type });
    }
    let identity = identity.filter(|_| socket_type.has_identity()).unwrap_or_default();
    if !valid_identity(identity) {
        return Err(Error::BadIdentity);
    }
    Ok(Metadata { socket_type, identity: identity.into() })
}

fn put_property(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
}

/// Takes the first property, a name and a value, off a list that is not empty.
fn take_property<'a>(list: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Error> {
    const CUT_OFF: Error = Error::BadReady { what: "a property runs past the end" };
    let (&name_bytes, rest) = list.split_first().ok_or(CUT_OFF)?;
    if name_bytes == 0 {
        return Err(Error::BadReady { what: "a property without a name" });
    }
    let (name, rest) = rest.split_at_checked(usize::from(name_bytes)).ok_or(CUT_OFF)?;
    let (value_bytes, rest) = rest.split_first_chunk::<4>().ok_or(CUT_OFF)?;
    let value_bytes = usize::try_from(u32::from_be_bytes(*value_bytes)).map_err(|_| CUT_OFF)?;
    let (value, rest) = rest.split_at_checked(value_bytes).ok_or(CUT_OFF)?;
    *list = rest;
    Ok((name, value))
}

/// The identity's length is bounded by the grammar, not by a limit of ours.
const IDENTITY_BYTES_MAX: usize = 255;

/// A socket type, an identity, and room for what others add.
const METADATA_BYTES_MAX: u32 = 4 << 10;

const SOCKET_TYPE: &[u8] = b"Socket-Type";
const IDENTITY: &[u8] = b"Identity";
