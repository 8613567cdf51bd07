//! Frames: finding the end of the head, describing it, looking at it.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use bytes::Bytes;
use memchr::{memchr, memchr2};

use crate::command::Command;
use crate::error::{Error, What, printable};
use crate::escape::Escapes;
use crate::limits::{COMMAND_BYTES_MAX, Limits};

/// One header line: where it starts, its colon, its end without CR and LF.
#[derive(Clone, Copy, Debug)]
struct Line {
    start: usize,
    /// Equal to `start` if there is none: a line without a name, which no look-up finds.
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
            command: Command::Connect,
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

    /// Forgets what it described.
    pub(crate) fn clear(&mut self) {
        self.lines.clear();
    }

    /// Looks for the colons of the lines that [`Scan::run`] found, and checks what they say. All
    /// lines are looked at even if one is wrong, so that the receipt can still be named.
    pub(crate) fn read(&mut self, buf: &[u8], head: Range<usize>) -> Result<(), Wrong> {
        let mut wrong = None;
        for line in &mut self.lines {
            match memchr(b':', &buf[line.start..line.end]) {
                None => wrong = wrong.or(Some("no colon; write name:value")),
                Some(0) => wrong = wrong.or(Some("no name before the colon")),
                Some(colon) => line.colon = line.start + colon,
            }
        }
        if core::str::from_utf8(&buf[head.clone()]).is_err() {
            return Err(Wrong::Header("it is not UTF-8"));
        }
        if let Some(what) = wrong {
            return Err(Wrong::Header(what));
        }
        let all_known = self.escapes == Escapes::None
            || memchr(b'\\', &buf[head]).is_none()
            || self.lines.iter().all(|line| {
                self.escapes.all_known(&buf[line.start..line.colon])
                    && self.escapes.all_known(&buf[line.colon + 1..line.end])
            });
        if all_known { Ok(()) } else { Err(Wrong::Escape) }
    }

    /// The first value of a header by the octets of its name: those of the protocol are never
    /// escaped. The value stands as it was written.
    #[inline]
    pub(crate) fn find<'a>(&self, buf: &'a [u8], name: &[u8]) -> Option<&'a str> {
        let line = self.lines.iter().find(|line| &buf[line.start..line.colon] == name)?;
        core::str::from_utf8(&buf[line.colon + 1..line.end]).ok()
    }

    /// The receipt that the frame asks for, if as much of it makes sense.
    pub(crate) fn receipt(&self, buf: &[u8]) -> Option<String> {
        let value = self.find(buf, b"receipt")?;
        let known = self.escapes.all_known(value.as_bytes());
        known.then(|| self.escapes.decode(value).into_owned())
    }
}

/// What is wrong with a head.
pub(crate) enum Wrong {
    Header(&'static str),
    /// An escape that the version does not know.
    Escape,
}

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
    /// Whether nothing was found yet: all lines will be found by one run.
    #[inline]
    pub(crate) fn is_fresh(&self) -> bool {
        self.line == 0
    }

    /// Looks for the blank line of the frame at the start of `buf`: where the body starts, or
    /// `None` if it is not there yet. The lines it meets on the way are put into `head`. Everything
    /// is checked line by line, so that cuts make no difference.
    #[inline]
    pub(crate) fn run(
        &mut self,
        limits: &Limits,
        buf: &[u8],
        head: &mut Head,
        is_known: impl Fn(Command) -> bool,
    ) -> Result<Option<usize>, Error> {
        let head_bytes_max = limits.head_bytes_max as usize;
        loop {
            let is_command = self.line == 0;
            let bound =
                if is_command { COMMAND_BYTES_MAX.min(head_bytes_max) } else { head_bytes_max };
            let window = &buf[..buf.len().min(bound)];
            let may_be_blank = matches!(
                window.get(self.line..).unwrap_or_default(),
                [] | [b'\r'] | [b'\n', ..] | [b'\r', b'\n', ..]
            );
            if !is_command && !may_be_blank && self.headers >= limits.headers_max {
                return Err(Error::TooManyHeaders { limit: limits.headers_max });
            }
            let from = self.searched.min(window.len());
            let Some(at) = memchr2(b'\n', 0, &window[from..]) else {
                if buf.len() < bound {
                    self.searched = buf.len();
                    return Ok(None);
                }
                let what = if is_command { What::Command } else { What::Head };
                return Err(Error::TooLarge { what, limit: bound as u64 });
            };
            let at = from + at;
            if buf[at] == 0 {
                return Err(Error::BadHeader { what: "a NUL; a blank line ends the headers" });
            }
            let end = at - usize::from(at > self.line && buf[at - 1] == b'\r');
            if is_command {
                let line = &buf[..end];
                let command = Command::parse(line).filter(|&command| is_known(command));
                let Some(command) = command else {
                    return Err(Error::UnknownCommand { got: printable(line) });
                };
                head.clear();
                head.command = command;
            } else if end == self.line {
                return Ok(Some(at + 1));
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
    #[inline]
    pub fn values(&self, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
        let frame = *self;
        self.head.lines.iter().filter_map(move |line| {
            let (written, value) = frame.raw(*line)?;
            let is_it = written == name || frame.head.escapes.decode(written) == name;
            is_it.then(|| frame.head.escapes.decode(value))
        })
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

    /// Name and value as they were written.
    #[inline]
    fn raw(&self, line: Line) -> Option<(&'a str, &'a str)> {
        // The head was found to be UTF-8, and a colon is an octet of its own in it.
        let text = |range: Range<usize>| core::str::from_utf8(&self.buf[range]).ok();
        let value = text(line.colon + 1..line.end)?;
        let value = if self.head.trims { value.trim_start_matches(' ') } else { value };
        Some((text(line.start..line.colon)?, value))
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
        let (name, value) = self.frame.raw(line)?;
        let escapes = self.frame.head.escapes;
        Some((escapes.decode(name), escapes.decode(value)))
    }
}
