//! STOMP 1.0, 1.1 and 1.2 as a pure state machine, of either side: bytes in, frames out.
//!
//! ```text
//!  bytes ─▶ Connection::next ─▶ Step::Frame ─▶ Head::view ─▶ Frame: headers and body, as slices
//!                   │
//!                   └─▶ out: ERROR (bytes for the peer)
//!  Writer ─▶ out
//! ```
//!
//! The caller owns every buffer: what was received and is not consumed yet, what is to be sent, and
//! the scratch that describes the last frame. A body is never copied, and nothing is ever allocated
//! by an announced length: each limit is checked as soon as the octets that break it have arrived.
//!
//! Where the three texts are silent or contradict what clients do:
//!
//! * CR LF ends a line in every version, so a value cannot end in CR on 1.0 and 1.1.
//! * EOLs and stray NULs are skipped between frames and before the first one.
//! * STOMP is read like CONNECT: no escapes in CONNECT, STOMP and CONNECTED.
//! * A NUL among the headers is refused at once; it is a frame without its blank line.
//! * `host` may be missing; who needs it looks at it.
//! * CONNECTED announces the negotiated heart-beats, which suits clients that negotiate and clients
//!   that believe what they are told.
//! * A refused peer gets one ERROR; nothing that follows is read.
//!
//! This room never knows a clock (heart-beats take the time as an argument), a socket, or what a
//! destination is.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod beat;
mod command;
mod connection;
mod error;
mod escape;
mod frame;
mod limits;
#[cfg(test)]
mod tests;
mod write;

/// What the README shows works.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use crate::beat::{Beats, Due, HeartBeat};
pub use crate::command::{Command, Version};
pub use crate::connection::{Config, Connection, Role, Step};
pub use crate::error::{Error, Misuse, What};
pub use crate::frame::{Frame, Head, Headers};
pub use crate::limits::Limits;
pub use crate::write::{
    BODY_END, Refusal, Writer, is_servers_own, put_error, put_receipt, representable,
};
