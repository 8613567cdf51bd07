//! READY and its properties (RFC 37, "The NULL Security Mechanism" and "Connection Metadata").

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
}

impl Mechanism {
    /// The name in the greeting; at most 20 octets.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Null => "NULL",
        }
    }

    /// Where the handshake starts once the peer's greeting was accepted.
    pub(crate) fn handshake(self) -> Handshake {
        match self {
            Mechanism::Null => Handshake::NullReady,
        }
    }
}

/// What the handshake waits for. PLAIN's and CURVE's steps belong here; whatever state they carry
/// goes into a box, so that a connection that is through pays nothing for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Handshake {
    /// NULL: our READY is written, the peer's is awaited.
    NullReady,
}

/// What the peer's READY said about it.
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

/// Writes our READY.
pub(crate) fn put_ready(out: &mut Vec<u8>, config: &Config) {
    let mut properties = Vec::new();
    put_property(&mut properties, SOCKET_TYPE, config.socket_type.as_bytes());
    if let Some(identity) = &config.identity {
        put_property(&mut properties, IDENTITY, identity);
    }
    put_command(out, b"READY", &[&properties]);
}

/// Reads the property list of a READY and judges it. Properties we do not know are skipped.
pub(crate) fn read_ready(mut list: &[u8], ours: SocketType) -> Result<Metadata, Error> {
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

const SOCKET_TYPE: &[u8] = b"Socket-Type";
const IDENTITY: &[u8] = b"Identity";
