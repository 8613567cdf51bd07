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

    /// Whether there is a way to write `text`.
    #[inline]
    pub(crate) fn can_encode(self, text: &str, is_name: bool) -> bool {
        let text = text.as_bytes();
        match self {
            Escapes::V1_2 => memchr::memchr(0, text).is_none(),
            Escapes::V1_1 => memchr::memchr2(0, b'\r', text).is_none(),
            Escapes::None => {
                memchr::memchr3(0, b'\r', b'\n', text).is_none()
                    && !(is_name && memchr::memchr(b':', text).is_some())
            }
        }
    }

    /// Writes `text`, which [can be encoded](Escapes::can_encode), so that
    /// [`decode`](Escapes::decode) gives it back.
    #[inline]
    pub(crate) fn encode(self, text: &str, out: &mut Vec<u8>) {
        let mut rest = text.as_bytes();
        if self == Escapes::None {
            return out.extend_from_slice(rest);
        }
        let special = |&octet: &u8| matches!(octet, b'\n' | b'\r' | b':' | b'\\');
        while let Some(at) = rest.iter().position(special) {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(match rest[at] {
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b':' => b"\\c",
                _ => b"\\\\",
            });
            rest = &rest[at + 1..];
        }
        out.extend_from_slice(rest);
    }
}
