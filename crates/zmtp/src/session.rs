//! Traffic under CURVE (RFC 26, "MESSAGE"): one box per frame.
//!
//! ```text
//!  sealed  | header | MESSAGE | nonce | MAC | flags, payload |
//!  plain                              | header |  payload    |
//! ```
//!
//! A frame is opened where it stands: its plain header goes over the end of what stood in front of
//! the payload, so that the payload never moves. What is then in front of the plain frame is
//! garbage, and the plain frames before it are moved over that: all frames of a message end up one
//! behind the other, as if they had never been sealed.

use alloc::vec::Vec;

use crate::curve::{MAC_BYTES, open_box, seal_in_place, short_nonce};
use crate::error::{Error, What};
use crate::frame::{COMMAND, Head, LONG, MORE, header_bytes, put_any_header, read_header};
use crate::keys::SecretKey;
use crate::limits::Limits;

/// A name's length, `MESSAGE`, a nonce, a MAC and the flags.
const OVERHEAD: usize = 8 + 8 + MAC_BYTES + 1;
const NAME: &[u8; 8] = b"\x07MESSAGE";
/// The flags inside a box.
const INNER_MORE: u8 = 0x01;
const INNER_COMMAND: u8 = 0x02;

/// The keys and counters of a connection, and how far the message in its buffer was opened.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    key: SecretKey,
    is_server: bool,
    /// The last nonce we used.
    sent: u64,
    /// The last nonce the peer used.
    heard: u64,
    /// Octets at the start of the buffer that are plain frames of an unfinished message.
    pub(crate) plain: usize,
    frames: u32,
    payload_bytes: u64,
    /// The last of those frames is the last of its message.
    pub(crate) is_whole: bool,
}

/// What opening the next frame came to.
pub(crate) enum Opened {
    /// The buffer must be so long.
    More { need: usize },
    /// A frame of a message. So many octets are garbage now: at the start of the buffer or, if the
    /// plain frames were too many to move, at its end.
    Frame { gap: usize, at_end: bool },
    /// A command, whose body stands at `body`; the whole frame ends at `end`.
    Command { body: core::ops::Range<usize>, end: usize },
}

impl Session {
    /// After a handshake in which we used the nonces up to `sent` and the peer those up to `heard`.
    pub(crate) fn new(key: SecretKey, is_server: bool, sent: u64, heard: u64) -> Session {
        Session {
            key,
            is_server,
            sent,
            heard,
            plain: 0,
            frames: 0,
            payload_bytes: 0,
            is_whole: false,
        }
    }

    /// Opens the frame that follows the plain ones.
    pub(crate) fn open(&mut self, limits: &Limits, buf: &mut [u8]) -> Result<Opened, Error> {
        let pos = self.plain;
        let header = match read_header(buf, pos)? {
            Head::Whole(header) => header,
            Head::Partial { need } => return Ok(Opened::More { need }),
        };
        if header.flags & MORE != 0 {
            return Err(Error::BadFlags { flags: header.flags });
        }
        let payload_bytes = header.len.checked_sub(OVERHEAD as u64);
        let payload_bytes = payload_bytes.ok_or(NOT_SEALED)?;
        let end = usize::try_from(header.len).ok().and_then(|len| header.start.checked_add(len));
        let limit = limits.frame_bytes_max.max(u64::from(limits.command_bytes_max));
        let Some(end) = end.filter(|_| payload_bytes <= limit) else {
            return Err(Error::TooLarge { what: What::Frame, limit, got: payload_bytes });
        };
        if buf.len() < end {
            return Ok(Opened::More { need: end });
        }
        let (name, rest) = buf[header.start..end].split_at_mut(NAME.len());
        let (nonce, sealed) = rest.split_first_chunk_mut::<8>().ok_or(NOT_SEALED)?;
        if name != NAME {
            return Err(NOT_SEALED);
        }
        let nonce = u64::from_be_bytes(*nonce);
        if nonce <= self.heard {
            return Err(Error::Nonce);
        }
        let from = if self.is_server { FROM_CLIENT } else { FROM_SERVER };
        let opened = open_box(sealed, &short_nonce(from, nonce), &self.key);
        let flags = opened.and_then(|plain| plain.first().copied());
        let flags = flags.ok_or(Error::BadBox { what: "MESSAGE" })?;
        self.heard = nonce;
        let body = end - payload_bytes as usize..end;
        if flags & INNER_COMMAND != 0 {
            if payload_bytes > u64::from(limits.command_bytes_max) {
                let limit = u64::from(limits.command_bytes_max);
                return Err(Error::TooLarge { what: What::Command, limit, got: payload_bytes });
            }
            return Ok(Opened::Command { body, end });
        }
        self.count(limits, payload_bytes)?;
        self.is_whole = flags & INNER_MORE == 0;
        Ok(self.keep(buf, body))
    }

    fn count(&mut self, limits: &Limits, payload_bytes: u64) -> Result<(), Error> {
        if self.frames >= limits.frames_max {
            return Err(Error::TooManyFrames { limit: limits.frames_max });
        }
        if payload_bytes > limits.frame_bytes_max {
            let limit = limits.frame_bytes_max;
            return Err(Error::TooLarge { what: What::Frame, limit, got: payload_bytes });
        }
        self.frames += 1;
        self.payload_bytes += payload_bytes;
        if self.payload_bytes > limits.message_bytes_max {
            return Err(Error::TooLarge {
                what: What::Message,
                limit: limits.message_bytes_max,
                got: self.payload_bytes,
            });
        }
        Ok(())
    }

    /// Writes the plain header in front of the payload and closes the gap before it.
    fn keep(&mut self, buf: &mut [u8], payload: core::ops::Range<usize>) -> Opened {
        let more = if self.is_whole { 0 } else { MORE };
        let len = payload.len();
        let start = payload.start - header_bytes(len);
        if let Ok(short) = u8::try_from(len) {
            buf[start..payload.start].copy_from_slice(&[more, short]);
        } else {
            buf[start] = more | LONG;
            buf[start + 1..payload.start].copy_from_slice(&(len as u64).to_be_bytes());
        }
        let gap = start - self.plain;
        // The shorter side is moved, so that many small frames behind a large one stay cheap.
        let at_end = self.is_long() && self.plain > buf.len() - start;
        if at_end {
            buf.copy_within(start.., self.plain);
        } else {
            buf.copy_within(..self.plain, gap);
        }
        self.plain += payload.end - start;
        Opened::Frame { gap, at_end }
    }

    /// Whether the plain frames are worth a thought before they are moved.
    pub(crate) fn is_long(&self) -> bool {
        self.plain >= 1_024
    }

    /// The message was handed out.
    pub(crate) fn handed_out(&mut self) {
        (self.plain, self.frames, self.payload_bytes, self.is_whole) = (0, 0, 0, false);
    }

    /// A message of `len` octets at the start of the buffer is plain already.
    pub(crate) fn handed_back(&mut self, len: usize) {
        (self.plain, self.is_whole) = (len, true);
    }

    /// Seals frames as they would stand on an open wire, all of them whole.
    pub(crate) fn seal(&mut self, mut plain: &[u8], out: &mut Vec<u8>) {
        while let Ok(Head::Whole(header)) = read_header(plain, 0) {
            let end = header.start + header.len as usize;
            let Some(payload) = plain.get(header.start..end) else { break };
            let inner = if header.flags & MORE != 0 { INNER_MORE } else { 0 }
                | if header.flags & COMMAND != 0 { INNER_COMMAND } else { 0 };
            self.sent += 1;
            put_any_header(out, 0, OVERHEAD + payload.len());
            out.extend_from_slice(NAME);
            out.extend_from_slice(&self.sent.to_be_bytes());
            let mac_at = out.len();
            out.extend_from_slice(&[0; MAC_BYTES]);
            out.push(inner);
            out.extend_from_slice(payload);
            let from = if self.is_server { FROM_SERVER } else { FROM_CLIENT };
            let nonce = short_nonce(from, self.sent);
            let mac = seal_in_place(&mut out[mac_at + MAC_BYTES..], &nonce, &self.key);
            out[mac_at..mac_at + MAC_BYTES].copy_from_slice(&mac);
            plain = &plain[end..];
        }
        debug_assert!(plain.is_empty(), "only whole frames are sealed");
    }
}

const NOT_SEALED: Error = Error::BadCommand { what: "not a MESSAGE, and CURVE is spoken" };
const FROM_CLIENT: &[u8; 16] = b"CurveZMQMESSAGEC";
const FROM_SERVER: &[u8; 16] = b"CurveZMQMESSAGES";
