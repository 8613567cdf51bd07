//! Frames (RFC 37, "Framing"): reading headers, describing a message, writing.

use alloc::vec::Vec;
use core::fmt;

use crate::error::Error;

/// More frames of the same message follow.
pub(crate) const MORE: u8 = 0x01;
/// The size has eight octets.
pub(crate) const LONG: u8 = 0x02;
/// The frame is a command.
pub(crate) const COMMAND: u8 = 0x04;

/// Most octets in a frame, whatever the limits say (RFC 37, "Framing").
pub(crate) const FRAME_BYTES_RFC_MAX: u64 = i64::MAX as u64;

/// A complete frame header.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) flags: u8,
    /// Where the payload starts.
    pub(crate) start: usize,
    /// The announced length of the payload, unchecked.
    pub(crate) len: u64,
}

/// What stands at a frame boundary.
pub(crate) enum Head {
    /// Less than a header; `need` octets in all would tell more.
    Partial {
        need: usize,
    },
    Whole(Header),
}

/// Reads the header at `pos`, which is at most `buf.len()`. Bad flags are refused at their own
/// octet.
#[inline(always)]
pub(crate) fn read_header(buf: &[u8], pos: usize) -> Result<Head, Error> {
    let Some(&flags) = buf.get(pos) else { return Ok(Head::Partial { need: pos + 2 }) };
    if flags <= MORE {
        let Some(&len) = buf.get(pos + 1) else { return Ok(Head::Partial { need: pos + 2 }) };
        return Ok(Head::Whole(Header { flags, start: pos + 2, len: u64::from(len) }));
    }
    read_rare_header(buf, pos, flags)
}

fn read_rare_header(buf: &[u8], pos: usize, flags: u8) -> Result<Head, Error> {
    let known = flags & !(MORE | LONG | COMMAND) == 0;
    if !known || flags & (COMMAND | MORE) == COMMAND | MORE {
        return Err(Error::BadFlags { flags });
    }
    if flags & LONG == 0 {
        let Some(&len) = buf.get(pos + 1) else { return Ok(Head::Partial { need: pos + 2 }) };
        return Ok(Head::Whole(Header { flags, start: pos + 2, len: u64::from(len) }));
    }
    let start = pos + 9;
    let Some(Ok(len)) = buf.get(pos + 1..start).map(<[u8; 8]>::try_from) else {
        return Ok(Head::Partial { need: start });
    };
    Ok(Head::Whole(Header { flags, start, len: u64::from_be_bytes(len) }))
}

/// Where the payload of one frame stands in the buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Where the frames of the last message stand; scratch the caller owns and reuses, so that a
/// message costs no allocation.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    /// In order and without gaps: a frame's header starts where the frame before it ends.
    pub(crate) spans: Vec<Span>,
}

impl Frames {
    /// How many frames.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none; true before the first message.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The message, given the buffer whose start `Step::Message` spoke of.
    #[inline]
    pub fn view<'a>(&'a self, buf: &'a [u8]) -> Message<'a> {
        Message { spans: &self.spans, buf }
    }
}

/// A message as it lies in the buffer it was read into.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    spans: &'a [Span],
    buf: &'a [u8],
}

impl<'a> Message<'a> {
    /// How many frames.
    #[inline]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are no frames, which no received message is.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The payload of frame `i`.
    #[inline]
    pub fn frame(&self, i: usize) -> Option<&'a [u8]> {
        let span = self.spans.get(i)?;
        self.buf.get(span.start..span.end)
    }

    /// The frames `i..` as they came over the wire, headers included; empty if there is no frame
    /// `i`.
    #[inline]
    pub fn raw_from(&self, i: usize) -> &'a [u8] {
        self.raw_between(i, self.spans.len())
    }

    /// The frames `i..j` as they came over the wire, headers included; empty if there are none.
    #[inline]
    pub fn raw_between(&self, i: usize, j: usize) -> &'a [u8] {
        let range = self.raw_from_offset(i)..self.raw_from_offset(j);
        self.buf.get(range).unwrap_or_default()
    }

    /// Where in the buffer the header of frame `i` starts; the length of the whole message if there
    /// is no frame `i`.
    #[inline]
    pub fn raw_from_offset(&self, i: usize) -> usize {
        let before = i.min(self.spans.len());
        if before == 0 { 0 } else { self.spans[before - 1].end }
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries((0..self.len()).filter_map(|i| self.frame(i))).finish()
    }
}

/// Writes a message frame.
#[inline]
pub fn put_frame(out: &mut Vec<u8>, more: bool, payload: &[u8]) {
    put_header(out, more, payload.len());
    out.extend_from_slice(payload);
}

/// Writes the header of a message frame whose payload of `payload_len` octets follows some other
/// way.
#[inline]
pub fn put_header(out: &mut Vec<u8>, more: bool, payload_len: usize) {
    put_any_header(out, u8::from(more), payload_len);
}

/// Writes a PING: answer it, or hang up after `ttl_deciseconds` of silence if that is not 0 (RFC
/// 37, "Connection Heartbeating"). Only for peers that
/// [`Connection::supports_ping`](crate::Connection::supports_ping).
///
/// # Panics
/// If `context` is longer than 16 octets.
pub fn put_ping(out: &mut Vec<u8>, ttl_deciseconds: u16, context: &[u8]) {
    assert!(context.len() <= CONTEXT_BYTES_MAX, "a PING's context has at most 16 octets");
    put_command(out, b"PING", &[&ttl_deciseconds.to_be_bytes(), context]);
}

/// Writes a PONG.
pub(crate) fn put_pong(out: &mut Vec<u8>, context: &[u8]) {
    put_command(out, b"PONG", &[context]);
}

/// Writes an ERROR: fatal for the peer (RFC 37, "Error Handling"). The grammar allows 255 visible
/// ASCII characters: what is longer is cut, what is not visible becomes `_`.
pub fn put_error(out: &mut Vec<u8>, reason: &str) {
    let reason: Vec<u8> = reason
        .chars()
        .take(255)
        .map(|c| if c.is_ascii_graphic() { c as u8 } else { b'_' })
        .collect();
    put_command(out, b"ERROR", &[&[reason.len() as u8], &reason]);
}

/// Writes a command whose data are `parts`, one after the other.
pub(crate) fn put_command(out: &mut Vec<u8>, name: &[u8], parts: &[&[u8]]) {
    let data_bytes: usize = parts.iter().map(|part| part.len()).sum();
    put_any_header(out, COMMAND, 1 + name.len() + data_bytes);
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Octets of the header of a frame whose payload has `payload_len`.
pub(crate) fn header_bytes(payload_len: usize) -> usize {
    if payload_len <= usize::from(u8::MAX) { 2 } else { 9 }
}

#[inline]
pub(crate) fn put_any_header(out: &mut Vec<u8>, flags: u8, len: usize) {
    match u8::try_from(len) {
        Ok(short) => out.extend_from_slice(&[flags, short]),
        Err(_) => {
            let mut header = [flags | LONG; 9];
            header[1..].copy_from_slice(&(len as u64).to_be_bytes());
            out.extend_from_slice(&header);
        }
    }
}

/// Iterates over the frames of `raw`, well-formed message bytes as [`Message::raw_from`] gives
/// them: whether more follow, and the payload. Ends early where the bytes are not well-formed.
pub fn raw_frames(raw: &[u8]) -> RawFrames<'_> {
    RawFrames { raw, pos: 0 }
}

/// See [`raw_frames`].
#[derive(Clone, Debug)]
pub struct RawFrames<'a> {
    raw: &'a [u8],
    /// Where the next header starts.
    pos: usize,
}

impl<'a> Iterator for RawFrames<'a> {
    type Item = (bool, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<(bool, &'a [u8])> {
        let Ok(Head::Whole(header)) = read_header(self.raw, self.pos) else { return None };
        let end = header.start.checked_add(usize::try_from(header.len).ok()?)?;
        let payload = self.raw.get(header.start..end)?;
        self.pos = end;
        Some((header.flags & MORE != 0, payload))
    }
}

/// Sets the MORE flag on the last frame of `raw`, well-formed message bytes, so that more can be
/// appended.
pub fn set_more_on_last(raw: &mut [u8]) {
    let mut frames = raw_frames(raw);
    let mut last = None;
    loop {
        let start = frames.pos;
        if frames.next().is_none() {
            break;
        }
        last = Some(start);
    }
    if let Some(start) = last {
        raw[start] |= MORE;
    }
}

/// Most octets in the context of a PING or PONG (RFC 37, "Connection Heartbeating").
pub(crate) const CONTEXT_BYTES_MAX: usize = 16;
