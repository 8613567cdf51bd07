//! Why a connection ends. Every error is the peer's doing and is final: flush `out`, then close.

use alloc::boxed::Box;
use core::fmt;

use crate::socket_type::SocketType;

/// What was too large.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum What {
    /// The payload of one message frame.
    Frame,
    /// The payloads of one message together.
    Message,
    /// The body of a command.
    Command,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            What::Frame => "frame",
            What::Message => "message",
            What::Command => "command",
        })
    }
}

/// Why the connection must be closed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The signature is wrong: another protocol, or ZMTP 1.0, which has no signature (RFC 37,
    /// "Formal Grammar").
    #[error("the peer does not speak ZMTP 3 (nor 2)")]
    NotZmtp,
    /// The peer announced a version below 3; we do not downgrade (RFC 37, "Version Negotiation").
    #[error("the peer speaks ZMTP {major}; 3.0 is the oldest we speak")]
    OldVersion {
        /// The peer's major version, 1 or 2.
        major: u8,
    },
    /// The peer's mechanism is not exactly ours (RFC 37, "Authentication and Confidentiality").
    #[error("the peer's security mechanism is {got:?}, ours {ours}")]
    Mechanism {
        /// Our mechanism.
        ours: &'static str,
        /// The peer's mechanism, unprintable octets shown as `?`.
        got: Box<str>,
    },
    /// The two socket types do not talk to each other (RFC 37, "The Socket-Type Property").
    #[error("a {ours} socket does not talk to a {peer} socket")]
    Incompatible {
        /// Our type.
        ours: SocketType,
        /// The peer's type.
        peer: SocketType,
    },
    /// A length is above its limit.
    #[error("a {what} of {got} octets is above the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: What,
        /// Its limit, octets.
        limit: u64,
        /// The announced length, octets; for a message: of its frames so far.
        got: u64,
    },
    /// A message has more frames than allowed.
    #[error("a message of more than {limit} frames")]
    TooManyFrames {
        /// The limit, frames.
        limit: u32,
    },
    /// More commands between the frames of one message than any heartbeat explains.
    #[error("more than {limit} commands inside one message")]
    TooManyCommands {
        /// The limit, commands.
        limit: u8,
    },
    /// Reserved bits are set, or a command has the MORE bit (RFC 37, "Framing").
    #[error("bad frame flags {flags:#04x}")]
    BadFlags {
        /// The flags octet.
        flags: u8,
    },
    /// A command is malformed (RFC 37, "Commands" and "Connection Heartbeating").
    #[error("bad command: {what}")]
    BadCommand {
        /// What is wrong.
        what: &'static str,
    },
    /// The READY command is malformed (RFC 37, "The NULL Security Mechanism").
    #[error("bad READY: {what}")]
    BadReady {
        /// What is wrong.
        what: &'static str,
    },
    /// The peer's identity is longer than 255 octets or starts with a zero octet (RFC 37, "The
    /// Identity Property").
    #[error("bad identity: at most 255 octets, the first not zero")]
    BadIdentity,
    /// A command of PLAIN or CURVE is malformed (RFC 24, RFC 26).
    #[error("bad handshake: {what}")]
    BadHandshake {
        /// What is wrong.
        what: &'static str,
    },
    /// A box was sealed with other keys than it should be, or changed on its way (RFC 26).
    #[error("cannot open the box of {what}")]
    BadBox {
        /// Which box, and what that may mean.
        what: &'static str,
    },
    /// A nonce that is not above the one before it: something was replayed (RFC 26).
    #[error("a nonce that does not grow: a replay")]
    Nonce,
    /// The peer is not whom it claims to be, or nobody who may come in.
    #[error("the peer may not come in: {who}")]
    Denied {
        /// Who it claimed to be.
        who: Box<str>,
    },
    /// Something well-formed came at the wrong time.
    #[error("unexpected {what}")]
    Unexpected {
        /// What came.
        what: &'static str,
    },
    /// The peer sent ERROR: fatal, and not to be retried with the same credentials (RFC 37, "Error
    /// Handling").
    #[error("the peer refused: {reason}")]
    PeerError {
        /// The peer's reason, unprintable octets shown as `?`.
        reason: Box<str>,
    },
}

impl Error {
    /// The reason the peer is given in ERROR: the kind, but for [`Error::Denied`] the status code
    /// of RFC 27 that libzmq's peers know what to do with.
    pub fn reason(&self) -> &'static str {
        if matches!(self, Error::Denied { .. }) { "400" } else { self.kind() }
    }

    /// A short stable name for metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::NotZmtp => "not_zmtp",
            Error::OldVersion { .. } => "old_version",
            Error::Mechanism { .. } => "mechanism_mismatch",
            Error::Incompatible { .. } => "incompatible_socket_type",
            Error::TooLarge { what: What::Frame, .. } => "frame_too_large",
            Error::TooLarge { what: What::Message, .. } => "message_too_large",
            Error::TooLarge { what: What::Command, .. } => "command_too_large",
            Error::TooManyFrames { .. } => "too_many_frames",
            Error::TooManyCommands { .. } => "too_many_commands",
            Error::BadFlags { .. } => "bad_flags",
            Error::BadCommand { .. } => "bad_command",
            Error::BadReady { .. } => "bad_ready",
            Error::BadIdentity => "bad_identity",
            Error::BadHandshake { .. } => "bad_handshake",
            Error::BadBox { .. } => "bad_box",
            Error::Nonce => "bad_nonce",
            Error::Denied { .. } => "denied",
            Error::Unexpected { .. } => "unexpected",
            Error::PeerError { .. } => "peer_error",
        }
    }
}

/// Octets of a peer as text that is safe to log.
pub(crate) fn printable(bytes: &[u8]) -> Box<str> {
    bytes.iter().map(|&b| if (0x20..0x7f).contains(&b) { char::from(b) } else { '?' }).collect()
}
