//! Escapes in header names and values ("Value Encoding" in 1.1 and 1.2).

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

use crate::command::{Command, Version};

/// How the headers of one frame are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Escapes {
    /// As they are.
    None,
    /// `\n \c \\`.
    V1_1,
    /// Also `\r`.
    V1_2,
}

impl Escapes {
    #[inline]
    pub(crate) fn of(version: Version, command: Command) -> Escapes {
        match version {
            _ if command.is_plain() => Escapes::None,
            Version::V1_0 => Escapes::None,
            Version::V1_1 => Escapes::V1_1,
            Version::V1_2 => Escapes::V1_2,
        }
    }

    /// The octet that a backslash and `octet` stand for.
    fn meant_by(self, octet: u8) -> Option<u8> {
        match octet {
            b'n' => Some(b'\n'),
            b'c' => Some(b':'),
            b'\\' => Some(b'\\'),
            b'r' if self == Escapes::V1_2 => Some(b'\r'),
            _ => None,
        }
    }

    /// Whether every escape in `text` is known.
    pub(crate) fn all_known(self, text: &[u8]) -> bool {
        let mut rest = text;
        while let Some(at) = memchr::memchr(b'\\', rest) {
            if rest.get(at + 1).and_then(|&octet| self.meant_by(octet)).is_none() {
                return false;
            }
            rest = &rest[at + 2..];
        }
        true
    }

    /// What `text`, whose escapes are all known, means.
    #[inline]
    pub(crate) fn decode(self, text: &str) -> Cow<'_, str> {
        if self == Escapes::None || memchr::memchr(b'\\', text.as_bytes()).is_none() {
            return Cow::Borrowed(text);
        }
        let mut plain = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('\\') {
            plain.push_str(before);
            let octet = after.as_bytes().first().and_then(|&octet| self.meant_by(octet));
            plain.extend(octet.map(char::from));
            rest = after.get(1..).unwrap_or_default();
        }
        plain.push_str(rest);
        Cow::Owned(plain)
    }

    /// Writes `text` so that [`decode`](Escapes::decode) gives it back. `false` if that cannot be
    /// done; then a part of it may have been written.
    #[inline]
    pub(crate) fn encode(self, text: &str, is_name: bool, out: &mut Vec<u8>) -> bool {
        let special = |&b: &u8| matches!(b, b'\n' | b'\r' | b':' | b'\\' | 0);
        let mut rest = text.as_bytes();
        while let Some(at) = rest.iter().position(special) {
            out.extend_from_slice(&rest[..at]);
            let escape: &[u8] = match (rest[at], self) {
                (b'\\', Escapes::None) => b"\\",
                (b':', Escapes::None) if !is_name => b":",
                (0, _) | (_, Escapes::None) | (b'\r', Escapes::V1_1) => return false,
                (b'\n', _) => b"\\n",
                (b'\r', _) => b"\\r",
                (b':', _) => b"\\c",
                _ => b"\\\\",
            };
            out.extend_from_slice(escape);
            rest = &rest[at + 1..];
        }
        out.extend_from_slice(rest);
        true
    }
}
