//! Why a connection ends, and what we must not ask of a writer.

use alloc::boxed::Box;
use core::fmt;

use crate::command::{Command, Version};

/// What was too large.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum What {
    /// The first line.
    Command,
    /// Command and headers.
    Head,
    /// The body.
    Body,
    /// The whole frame that opens the conversation.
    Opening,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            What::Command => "command",
            What::Head => "head",
            What::Body => "body",
            What::Opening => "opening frame",
        })
    }
}

/// Why the connection must be closed. Every error is the peer's doing and is final: flush `out`,
/// then close.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Something is above its limit.
    #[error("a {what} of more than {limit} octets")]
    TooLarge {
        /// What is too large.
        what: What,
        /// Its limit, octets.
        limit: u64,
    },
    /// A frame has more headers than allowed.
    #[error("a frame of more than {limit} headers")]
    TooManyHeaders {
        /// The limit, headers.
        limit: u32,
    },
    /// The first line is no command that the other side sends in this version.
    #[error("{got:?} is no command here; commands are in capitals, without spaces")]
    UnknownCommand {
        /// The line, unprintable octets shown as `?`.
        got: Box<str>,
    },
    /// A header line is malformed.
    #[error("bad header: {what}")]
    BadHeader {
        /// What is wrong with it, and how to do it right.
        what: &'static str,
    },
    /// An escape that the negotiated version does not know (1.2: `\r \n \c \\`; 1.1: all but `\r`).
    #[error("an escape that STOMP {version} does not know")]
    BadEscape {
        /// The negotiated version.
        version: Version,
    },
    /// The octet after the announced content is not NUL.
    #[error("no NUL after the {length} octets that content-length announced")]
    NoNul {
        /// The announced length, octets.
        length: u64,
    },
    /// A frame at the wrong time.
    #[error("unexpected {got}: {expected}")]
    Unexpected {
        /// What came.
        got: Command,
        /// What should have come.
        expected: &'static str,
    },
    /// No version in common.
    #[error("no version in common; spoken here: {oldest} to {newest}")]
    NoVersion {
        /// The oldest we speak.
        oldest: Version,
        /// The newest we speak.
        newest: Version,
    },
    /// The server chose a version we did not offer.
    #[error("the server chose a version that was not offered")]
    VersionNotOffered,
}

impl Error {
    /// A short stable name for metrics, logs and the header `error-code`.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::TooLarge { what: What::Command, .. } => "command_too_large",
            Error::TooLarge { what: What::Head, .. } => "head_too_large",
            Error::TooLarge { what: What::Body, .. } => "body_too_large",
            Error::TooLarge { what: What::Opening, .. } => "opening_too_large",
            Error::TooManyHeaders { .. } => "too_many_headers",
            Error::UnknownCommand { .. } => "unknown_command",
            Error::BadHeader { .. } => "bad_header",
            Error::BadEscape { .. } => "bad_escape",
            Error::NoNul { .. } => "no_nul",
            Error::Unexpected { .. } => "unexpected",
            Error::NoVersion { .. } => "no_version",
            Error::VersionNotOffered => "version_not_offered",
        }
    }
}

/// What a [`Writer`](crate::Writer) was asked and cannot do: our doing. Nothing was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Misuse {
    /// The version has no way to write this header: a NUL anywhere; without escapes an LF, a CR or
    /// a colon in the name; on 1.1 a CR.
    #[error("a header that STOMP {version} cannot carry")]
    Unrepresentable {
        /// The version written for.
        version: Version,
    },
    /// A header's name is empty.
    #[error("a header without a name")]
    NoName,
    /// The body is not as long as the `content-length` that was written, or has a NUL in it and
    /// none was written.
    #[error("content-length and body disagree")]
    Length,
}

/// Octets of a peer as text that is safe to log.
pub(crate) fn printable(bytes: &[u8]) -> Box<str> {
    bytes.iter().map(|&b| if (0x20..0x7f).contains(&b) { char::from(b) } else { '?' }).collect()
}
