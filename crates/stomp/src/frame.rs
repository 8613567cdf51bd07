//! Frames: finding the end of the head, describing it, looking at it.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use bytes::Bytes;
use memchr::{memchr, memchr2};

use crate::command::Command;
use crate::error::{Error, What};
use crate::escape::Escapes;
use crate::limits::{COMMAND_BYTES_MAX, Limits};

/// One header line: where it starts, its colon, its end without CR and LF.
#[derive(Clone, Copy, Debug)]
struct Line {
    start: usize,
    colon: usize,
    end: usize,
}

/// Where the parts of the last frame stand; scratch the caller owns and reuses, so that a frame
/// costs no allocation.
#[derive(Clone, Debug)]
pub struct Head {
    pub(crate) command: Command,
    pub(crate) escapes: Escapes,
    /// Spaces before values do not count: 1.0, whose examples have them.
    pub(crate) trims: bool,
    lines: Vec<Line>,
    pub(crate) body: Range<usize>,
    pub(crate) content_length: Option<u64>,
}

impl Default for Head {
    fn default() -> Head {
        Head {
            command: Command::Error,
            escapes: Escapes::None,
            trims: false,
            lines: Vec::new(),
            body: 0..0,
            content_length: None,
        }
    }
}

impl Head {
    /// The frame, given the buffer whose start `Step::Frame` spoke of.
    #[inline]
    pub fn view<'a>(&'a self, buf: &'a [u8]) -> Frame<'a> {
        Frame { head: self, buf }
    }

    /// Looks for the colons of the lines that [`Scan::run`] found, and checks what they say.
    pub(crate) fn read(&mut self, buf: &[u8], head: Range<usize>) -> Result<(), Error> {
        if core::str::from_utf8(&buf[head.clone()]).is_err() {
            return Err(Error::BadHeader { what: "it is not UTF-8" });
        }
        for line in &mut self.lines {
            let Some(colon) = memchr(b':', &buf[line.start..line.end]) else {
                return Err(Error::BadHeader { what: "no colon; write name:value" });
            };
            if colon == 0 {
                return Err(Error::BadHeader { what: "no name before the colon" });
            }
            line.colon = line.start + colon;
        }
        let all_known = self.escapes == Escapes::None
            || memchr(b'\\', &buf[head]).is_none()
            || self.lines.iter().all(|line| {
                self.escapes.all_known(&buf[line.start..line.colon])
                    && self.escapes.all_known(&buf[line.colon + 1..line.end])
            });
        if all_known { Ok(()) } else { Err(Error::BadHeader { what: BAD_ESCAPE }) }
    }
}

/// Marks what the connection turns into [`Error::BadEscape`], knowing the version.
pub(crate) const BAD_ESCAPE: &str = "an unknown escape";

/// How far the search for the end of the head has come; kept between calls so that a frame in many
/// pieces is searched once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scan {
    /// Where the current line starts.
    line: usize,
    /// Up to where there is neither LF nor NUL.
    searched: usize,
    /// Header lines before it.
    headers: u32,
}

impl Scan {
    pub(crate) fn at(start: usize) -> Scan {
        Scan { line: start, searched: start, headers: 0 }
    }

    /// Whether all lines so far were found by the same run.
    pub(crate) fn is_fresh(&self, start: usize) -> bool {
        self.line == start
    }

    /// Looks for the blank line of the frame at `start`: where the body starts, or `None` if it is
    /// not there yet. Bounds are checked line by line, so that cuts make no difference.
    #[inline]
    pub(crate) fn run(
        &mut self,
        limits: &Limits,
        buf: &[u8],
        start: usize,
        head: &mut Head,
    ) -> Result<Option<usize>, Error> {
        loop {
            let is_command = self.line == start;
            let bound = if is_command {
                start + COMMAND_BYTES_MAX
            } else {
                start + limits.head_bytes_max as usize
            };
            let blank = matches!(buf[self.line..], [] | [b'\n', ..] | [b'\r', b'\n', ..] | [b'\r']);
            if !is_command && !blank && self.headers >= limits.headers_max {
                return Err(Error::TooManyHeaders { limit: limits.headers_max });
            }
            let window = &buf[..buf.len().min(bound)];
            let from = self.searched.min(window.len());
            let Some(at) = memchr2(b'\n', 0, &window[from..]) else {
                if buf.len() >= bound {
                    let (what, limit) = match is_command {
                        true => (What::Command, COMMAND_BYTES_MAX as u64),
                        false => (What::Head, u64::from(limits.head_bytes_max)),
                    };
                    return Err(Error::TooLarge { what, limit });
                }
                self.searched = buf.len();
                return Ok(None);
            };
            let at = from + at;
            if buf[at] == 0 {
                return Err(Error::BadHeader { what: "a NUL; a blank line ends the headers" });
            }
            let end = at - usize::from(at > self.line && buf[at - 1] == b'\r');
            if !is_command && end == self.line {
                return Ok(Some(at + 1));
            }
            if is_command {
                head.lines.clear();
                head.body = start..end;
            } else {
                self.headers += 1;
                head.lines.push(Line { start: self.line, colon: self.line, end });
            }
            (self.line, self.searched) = (at + 1, at + 1);
        }
    }
}

/// A frame as it lies in the buffer it was read into.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    head: &'a Head,
    buf: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Its command.
    #[inline]
    pub fn command(&self) -> Command {
        self.head.command
    }

    /// The header's value. Of repeated headers the first counts ("Repeated Header Entries").
    #[inline]
    pub fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.values(name).next()
    }

    /// All values of a repeated header, in order.
    pub fn values(&self, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
        self.headers().filter(move |(known, _)| known == name).map(|(_, value)| value)
    }

    /// All headers in order, names and values, repeated ones included.
    #[inline]
    pub fn headers(&self) -> Headers<'a> {
        Headers { frame: *self, next: 0 }
    }

    /// The body; empty if the command has none.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        if self.head.command.has_body() { &self.buf[self.head.body.clone()] } else { &[] }
    }

    /// Where in the buffer the body stands, whatever the command.
    pub fn body_range(&self) -> Range<usize> {
        self.head.body.clone()
    }

    /// The body as memory of its own: a part of `memory`, the buffer itself, if it has at least
    /// `keep_bytes_min` octets; a copy if it is so small that it must not hold on to the buffer.
    pub fn body_bytes(&self, memory: &Bytes, keep_bytes_min: usize) -> Bytes {
        let body = self.body();
        if !body.is_empty() && body.len() >= keep_bytes_min {
            return memory.slice(self.body_range());
        }
        Bytes::copy_from_slice(body)
    }

    /// What the frame announced. Some clients take its presence for "binary".
    pub fn content_length(&self) -> Option<u64> {
        self.head.content_length
    }

    fn raw(&self, line: Line) -> (&'a str, &'a str) {
        let text = |range: Range<usize>| core::str::from_utf8(&self.buf[range]).unwrap_or_default();
        let value = text(line.colon + 1..line.end);
        let value = if self.head.trims { value.trim_start_matches(' ') } else { value };
        (text(line.start..line.colon), value)
    }
}

/// See [`Frame::headers`].
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    frame: Frame<'a>,
    next: usize,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (Cow<'a, str>, Cow<'a, str>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let line = *self.frame.head.lines.get(self.next)?;
        self.next += 1;
        let (name, value) = self.frame.raw(line);
        let escapes = self.frame.head.escapes;
        Some((escapes.decode(name), escapes.decode(value)))
    }
}

impl Head {
    /// The first value of a header by the octets of its name: ours are never escaped.
    #[inline]
    pub(crate) fn find<'a>(&self, buf: &'a [u8], name: &[u8]) -> Option<&'a str> {
        let line = self.lines.iter().find(|line| &buf[line.start..line.colon] == name)?;
        core::str::from_utf8(&buf[line.colon + 1..line.end]).ok()
    }
}

/// The receipt that a frame with the head `head` asks for, as far as a malformed one can be read.
pub(crate) fn receipt_of(head: &[u8], escapes: Escapes) -> Option<String> {
    let mut lines = head.split(|&b| b == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(b"receipt:"))?;
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    if !escapes.all_known(value) {
        return None;
    }
    Some(escapes.decode(core::str::from_utf8(value).ok()?).into_owned())
}
