//! ZMTP 3.1 as a pure state machine: bytes in, messages and events out.
//!
//! ```text
//!  bytes ─▶ Connection::next ─▶ Step::Message ─▶ Frames::view ─▶ frames, as slices of the bytes
//!                   │
//!                   └─▶ out: greeting, READY, PONG, ERROR (bytes for the peer)
//! ```
//!
//! The caller owns every buffer: what was received and is not consumed yet, what is to be sent, and
//! the scratch that describes the last message. A message is never copied and nothing is ever
//! allocated by an announced length: each limit is checked as soon as the octets that break it have
//! arrived.
//!
//! Spoken: ZMTP 3.0 and 3.1 (RFC 23, RFC 37) with the mechanisms NULL, PLAIN (RFC 24) and CURVE
//! (RFC 25, RFC 26), in the role of either side. We announce 3.1 and send READY as soon as the
//! peer's greeting is acceptable, which suits 3.0 peers (both send at once) and 3.1 peers (the
//! connecting side sends first) alike.
//!
//! Departures from RFC 37, each on the strict side: a READY without `Socket-Type`, or one that
//! names `Socket-Type` or `Identity` twice, is refused; so is a second READY. Peers older than 3.0
//! are refused and not downgraded to.
//!
//! Under CURVE each frame is opened where it stands in the buffer, and a message then lies there as
//! if it had never been sealed. What costs long (the handshake's curves) is handed out as [`Work`],
//! to be run wherever the caller likes, with the caller's randomness.
//!
//! This room never knows a clock (heartbeat deadlines are the caller's), a socket, or what a
//! message means. The rules of single sockets (fair queues, REQ's lockstep, subscriptions) are not
//! kept here either.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod connection;
mod curve;
mod error;
mod frame;
mod greeting;
mod handshake;
mod keys;
mod limits;
mod secure;
mod session;
mod socket_type;
#[cfg(test)]
mod tests;

pub use crate::connection::{Config, Connection, Event, Peer, Security, Step};
pub use crate::curve::{Random, Work, Worked};
pub use crate::error::{Error, What};
pub use crate::frame::{
    Frames, Message, RawFrames, put_error, put_frame, put_header, put_ping, raw_frames,
    set_more_on_last,
};
pub use crate::handshake::{Mechanism, valid_identity};
pub use crate::keys::{KEY_BYTES, KEY_TEXT, KeyPair, NotAKey, PublicKey, SecretKey};
pub use crate::limits::Limits;
pub use crate::secure::Claim;
pub use crate::socket_type::SocketType;
