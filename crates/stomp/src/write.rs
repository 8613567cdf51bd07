//! Writing frames.

use alloc::format;
use alloc::vec::Vec;

use memchr::memchr;

use crate::command::{Command, Version};
use crate::error::Misuse;
use crate::escape::Escapes;
use crate::frame::Frame;

/// The octet that ends a body, for who writes the body some other way.
pub const BODY_END: u8 = 0;

/// Writes one frame, headers in the order they are given. What cannot be written is remembered, and
/// said at the end; then `out` is as it was.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Where the frame starts in `out`.
    start: usize,
    version: Version,
    escapes: Escapes,
    content_length: Option<u64>,
    wrong: Option<Misuse>,
}

impl<'a> Writer<'a> {
    /// Begins a frame for a peer of that version, at the end of `out`.
    #[inline]
    pub fn new(out: &'a mut Vec<u8>, version: Version, command: Command) -> Writer<'a> {
        let start = out.len();
        out.extend_from_slice(command.as_str().as_bytes());
        out.push(b'\n');
        let escapes = Escapes::of(version, command);
        Writer { out, start, version, escapes, content_length: None, wrong: None }
    }

    /// A header, escaped as the version wants it.
    #[inline]
    pub fn header(mut self, name: &str, value: &str) -> Writer<'a> {
        if name.is_empty() {
            self.wrong = Some(Misuse::NoName);
        }
        if !self.escapes.can_encode(name, true) || !self.escapes.can_encode(value, false) {
            self.wrong = Some(Misuse::Unrepresentable { version: self.version });
            return self;
        }
        self.escapes.encode(name, self.out);
        self.out.push(b':');
        self.escapes.encode(value, self.out);
        self.out.push(b'\n');
        self
    }

    /// A header if the version can carry it, and else nothing: for what is good to know and no
    /// more.
    #[inline]
    pub fn header_if_fits(self, name: &str, value: &str) -> Writer<'a> {
        if representable(self.version, name, value) { self.header(name, value) } else { self }
    }

    /// The length of the body, at this place; else it comes last, and not for an empty body.
    #[inline]
    pub fn content_length(mut self, length: u64) -> Writer<'a> {
        self.content_length = Some(length);
        self.header("content-length", &format!("{length}"))
    }

    /// Ends the frame with this body.
    ///
    /// # Errors
    /// [`Misuse`] of this or an earlier call; nothing was written then.
    #[inline]
    pub fn body(mut self, body: &[u8]) -> Result<(), Misuse> {
        match self.content_length {
            Some(length) if length != body.len() as u64 => self.wrong = Some(Misuse::Length),
            None if !body.is_empty() => self = self.content_length(body.len() as u64),
            Some(_) | None => {}
        }
        self.finish(body)
    }

    /// Ends the frame with a body whose length is not said: it ends at the NUL.
    ///
    /// # Errors
    /// As [`body`](Writer::body); also if there is a NUL in it.
    pub fn text_body(mut self, body: &[u8]) -> Result<(), Misuse> {
        if memchr(0, body).is_some() || self.content_length.is_some() {
            self.wrong = Some(Misuse::Length);
        }
        self.finish(body)
    }

    /// Ends the head. A body of `length` octets and [`BODY_END`] must follow some other way: a
    /// large one need not be copied.
    ///
    /// # Errors
    /// As [`body`](Writer::body).
    pub fn body_follows(mut self, length: u64) -> Result<(), Misuse> {
        match self.content_length {
            Some(said) if said != length => self.wrong = Some(Misuse::Length),
            None => self = self.content_length(length),
            Some(_) => {}
        }
        self.out.push(b'\n');
        self.settle()
    }

    #[inline]
    fn finish(self, body: &[u8]) -> Result<(), Misuse> {
        self.out.push(b'\n');
        self.out.extend_from_slice(body);
        self.out.push(BODY_END);
        self.settle()
    }

    #[inline]
    fn settle(self) -> Result<(), Misuse> {
        match self.wrong {
            None => Ok(()),
            Some(misuse) => {
                self.out.truncate(self.start);
                Err(misuse)
            }
        }
    }
}

/// Whether a peer of that version can be sent this header.
#[inline]
pub fn representable(version: Version, name: &str, value: &str) -> bool {
    let escapes = Escapes::of(version, Command::Message);
    !name.is_empty() && escapes.can_encode(name, true) && escapes.can_encode(value, false)
}

/// What a server says in an ERROR.
#[derive(Clone, Copy, Debug, Default)]
pub struct Refusal<'a> {
    /// The header `message`: short, for people.
    pub message: &'a str,
    /// The header `error-code`: stable, for programs.
    pub code: &'a str,
    /// The receipt that the refused frame asked for.
    pub receipt_id: Option<&'a str>,
    /// Whether to list the versions spoken, oldest and newest.
    pub versions: Option<(Version, Version)>,
    /// What exactly went wrong, and what to do; text.
    pub details: &'a str,
}

/// Writes an ERROR. Whatever the version cannot carry is left out.
pub fn put_error(out: &mut Vec<u8>, version: Version, refusal: Refusal<'_>) {
    let mut writer = Writer::new(out, version, Command::Error);
    if let Some((oldest, newest)) = refusal.versions {
        let spoken = Version::ALL.into_iter().filter(|v| (oldest..=newest).contains(v));
        let names: Vec<&str> = spoken.map(Version::as_str).collect();
        writer = writer.header("version", &names.join(","));
    }
    if let Some(id) = refusal.receipt_id {
        writer = writer.header_if_fits("receipt-id", id);
    }
    writer = writer
        .header_if_fits("message", refusal.message)
        .header_if_fits("error-code", refusal.code)
        .header("content-type", "text/plain");
    let done = writer.body(refusal.details.as_bytes());
    debug_assert_eq!(done, Ok(()), "every header was looked at");
}

/// Whether a MESSAGE never takes this header over from a SEND: the server says it itself, or it
/// concerned the SEND alone.
#[inline]
pub fn is_servers_own(name: &str) -> bool {
    SERVERS_OWN.contains(&name)
}

/// Writes the RECEIPT that `frame` asks for, if it asks; never for CONNECT, which CONNECTED
/// answers. To be called when the frame was processed. Says whether one was written.
pub fn put_receipt(out: &mut Vec<u8>, version: Version, frame: &Frame<'_>) -> bool {
    if frame.command().is_plain() {
        return false;
    }
    let Some(id) = frame.get("receipt") else { return false };
    Writer::new(out, version, Command::Receipt).header("receipt-id", &id).body(b"").is_ok()
}

/// What a MESSAGE never takes over from a SEND.
const SERVERS_OWN: [&str; 10] = [
    "destination",
    "message-id",
    "subscription",
    "ack",
    "id",
    "receipt",
    "transaction",
    "redelivered",
    "content-length",
    "receipt-id",
];
