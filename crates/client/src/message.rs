//! What requests and replies carry.

use std::borrow::Cow;
use std::iter;

use bytes::{Bytes, BytesMut};

use crate::error::Error;
use crate::mdp::{ENVELOPE_BYTES_MAX, ENVELOPE_FRAMES};

/// The body of a request or a reply: one or more frames, of any bytes, any of which may be empty.
///
/// Frames are reference-counted: cloning a message copies no bytes.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Message {
    /// There is always one, so the common message costs no list.
    first: Bytes,
    rest: Vec<Bytes>,
}

impl Message {
    /// A message of these frames; of one empty frame if there are none, since Majordomo knows no
    /// body of no frames.
    pub fn frames<I>(frames: I) -> Message
    where
        I: IntoIterator,
        I::Item: Into<Bytes>,
    {
        let mut frames = frames.into_iter().map(Into::into);
        Message { first: frames.next().unwrap_or_default(), rest: frames.collect() }
    }

    /// The first frame, which is the whole body of most messages.
    pub fn first(&self) -> &Bytes {
        &self.first
    }

    /// Frame `i`.
    pub fn get(&self, i: usize) -> Option<&Bytes> {
        match i.checked_sub(1) {
            None => Some(&self.first),
            Some(i) => self.rest.get(i),
        }
    }

    /// How many frames; at least one.
    #[allow(clippy::len_without_is_empty)] // It never is.
    pub fn len(&self) -> usize {
        1 + self.rest.len()
    }

    /// The frames in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        // `iter::once(..).chain(..)` has no exact size.
        (0..self.len()).map(|i| self.get(i).expect("i is below the length"))
    }

    /// How many bytes all frames have together.
    pub fn bytes_len(&self) -> usize {
        self.iter().map(Bytes::len).sum()
    }

    /// The frames themselves.
    pub fn into_frames(self) -> impl Iterator<Item = Bytes> {
        iter::once(self.first).chain(self.rest)
    }

    /// All frames as one run of bytes; copies only if there is more than one frame.
    pub fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut all = BytesMut::with_capacity(self.bytes_len());
        self.iter().for_each(|frame| all.extend_from_slice(frame));
        all.freeze()
    }

    /// The first frame as text for people; bytes that are not UTF-8 become `�`.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.first)
    }

    /// Appends a frame.
    pub fn push(&mut self, frame: impl Into<Bytes>) {
        self.rest.push(frame.into());
    }

    /// Whether it may be sent, in any envelope.
    pub(crate) fn check(&self, limits: &zmtp::Limits) -> Result<(), Error> {
        let check = |what, got: usize, limit: u64| match got as u64 {
            got if got > limit => Err(Error::TooLarge { what, limit, got }),
            _ => Ok(()),
        };
        let frames_max = limits.frames_max.saturating_sub(ENVELOPE_FRAMES);
        check("frames", self.len(), frames_max.into())?;
        let bytes_max = limits.message_bytes_max.min(limits.frame_bytes_max);
        check("bytes", self.bytes_len(), bytes_max.saturating_sub(ENVELOPE_BYTES_MAX))
    }

    /// The frames of this message, then those of `other`.
    pub(crate) fn joined(mut self, other: Message) -> Message {
        self.rest.extend(other.into_frames());
        self
    }
}

impl From<Bytes> for Message {
    fn from(first: Bytes) -> Message {
        Message { first, rest: Vec::new() }
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Message {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Message {
    fn from(text: String) -> Message {
        Bytes::from(text).into()
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Message {
        text.as_bytes().into()
    }
}

impl From<&[u8]> for Message {
    fn from(bytes: &[u8]) -> Message {
        Bytes::copy_from_slice(bytes).into()
    }
}

impl<const N: usize> From<&[u8; N]> for Message {
    fn from(bytes: &[u8; N]) -> Message {
        bytes.as_slice().into()
    }
}

impl From<()> for Message {
    /// One empty frame.
    fn from((): ()) -> Message {
        Message::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: Message, expected: &[&[u8]]) {
        assert_eq!(message.len(), expected.len());
        assert_eq!(message.iter().map(|frame| &frame[..]).collect::<Vec<_>>(), expected);
        assert_eq!(message.get(expected.len()), None);
        assert_eq!(message.bytes_len(), expected.concat().len());
        assert_eq!(message.clone().into_frames().collect::<Vec<_>>(), expected);
        assert_eq!(message.into_bytes(), expected.concat());
    }

    #[test]
    fn messages_are_made_of_whatever_is_at_hand() {
        check("text".into(), &[b"text"]);
        check(String::from("text").into(), &[b"text"]);
        check(vec![1, 2].into(), &[&[1, 2]]);
        check(b"\0\xff".into(), &[b"\0\xff"]);
        check(().into(), &[b""]);
        check(Message::frames(["a", "", "c"]), &[b"a", b"", b"c"]);
        check(Message::frames(Vec::<Bytes>::new()), &[b""]);
        let mut message = Message::from("a");
        message.push("b");
        check(message.joined(Message::frames(["c", "d"])), &[b"a", b"b", b"c", b"d"]);
    }
}
