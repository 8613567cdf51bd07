//! One connection: what it waits for, and what the next bytes mean.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::error::{Error, What, printable};
use crate::frame::{
    COMMAND, CONTEXT_BYTES_MAX, FRAME_BYTES_RFC_MAX, Frames, Head, Header, MORE, Span, put_error,
    put_pong, read_header,
};
use crate::greeting::{GREETING_BYTES, Greeting, put_greeting, read_greeting};
use crate::handshake::{Handshake, Mechanism, put_ready, read_ready, valid_identity};
use crate::limits::Limits;
use crate::socket_type::SocketType;

/// What all connections of one listener, or one client, have in common.
#[derive(Clone, Debug)]
pub struct Config {
    /// What we announce ourselves as.
    pub socket_type: SocketType,
    /// What we announce as our identity, if anything; [`valid_identity`] must hold.
    pub identity: Option<Box<[u8]>>,
    /// The one mechanism we speak.
    pub mechanism: Mechanism,
    /// What a peer may send.
    pub limits: Limits,
}

impl Config {
    /// No identity, NULL, default limits.
    pub fn new(socket_type: SocketType) -> Config {
        Config {
            socket_type,
            identity: None,
            mechanism: Mechanism::default(),
            limits: Limits::default(),
        }
    }
}

/// One connection, of either side. The same [`Config`] must be given to all calls. After an error
/// nothing more may be asked of it: flush `out` and close.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The peer's; empty before READY and if it has none.
    identity: Box<[u8]>,
    /// The peer's; set by READY.
    socket_type: Option<SocketType>,
    /// The peer's; 0 before its greeting, `u8::MAX` if its major version is above 3.
    minor: u8,
    phase: Phase,
    /// Commands taken out of the unfinished message so far.
    cuts: u8,
}

/// There may be 100,000 of these.
const _: () = assert!(size_of::<Connection>() <= 3 * size_of::<usize>());

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// The peer's greeting is awaited.
    Greeting,
    /// The greeting was accepted; the mechanism is at work.
    Handshake(Handshake),
    /// Messages and commands.
    Ready,
}

/// What is known of the peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer<'a> {
    /// Its minor version of ZMTP 3; 0 before its greeting; `u8::MAX` if its major version is above
    /// 3.
    pub minor: u8,
    /// Its socket type; `None` until READY.
    pub socket_type: Option<SocketType>,
    /// Its identity; empty until READY and if it has none.
    pub identity: &'a [u8],
}

/// What the bytes at the start of the buffer are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Not enough yet.
    More {
        /// The length the buffer must reach before another call can say anything new; always above
        /// its length at this call, and within the limits.
        need: usize,
    },
    /// The connection's own business: greeting, handshake, a command. If the command stood between
    /// the frames of an unfinished message, what came before it was moved behind it.
    Skip {
        /// Octets to consume from the start of the buffer.
        len: usize,
        /// If it is worth knowing.
        event: Option<Event>,
    },
    /// A command stood between the frames of an unfinished message. It was handled and closed over:
    /// the bytes behind it were moved forward, which costs their number. The unfinished message is
    /// still at the start of the buffer.
    Cut {
        /// Octets at the **end** of the buffer that are now garbage, to be dropped.
        len: usize,
        /// If it is worth knowing.
        event: Option<Event>,
    },
    /// A complete message, described by the frames.
    Message {
        /// Octets to consume from the start of the buffer once the message was used.
        len: usize,
    },
}

/// What the caller may want to know beside messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// The handshake is through: the peer is known, and messages may be sent.
    Ready,
    /// The peer asked for a sign of life; the PONG is already in `out`.
    Ping {
        /// Tenths of a second of silence after which the peer asks to be hung up on; 0 means never.
        ttl_deciseconds: u16,
    },
    /// The peer gave a sign of life, as all its traffic does.
    Pong,
}

impl Connection {
    /// A new connection; writes our 64-octet greeting to `out`.
    ///
    /// # Panics
    /// If the configured identity is not a [`valid_identity`].
    pub fn new(config: &Config, out: &mut Vec<u8>) -> Connection {
        assert!(
            config.identity.as_deref().is_none_or(valid_identity),
            "our own identity is invalid"
        );
        put_greeting(out, config.mechanism);
        Connection {
            identity: Box::default(),
            socket_type: None,
            minor: 0,
            phase: Phase::Greeting,
            cuts: 0,
        }
    }

    /// Whether messages may be sent and received.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// What is known of the peer.
    pub fn peer(&self) -> Peer<'_> {
        Peer { minor: self.minor, socket_type: self.socket_type, identity: &self.identity }
    }

    /// Whether the peer's greeting promised to answer PING: 3.1 or later (RFC 37, "Connection
    /// Heartbeating").
    pub fn supports_ping(&self) -> bool {
        self.minor >= 1
    }

    /// Says what stands at the start of `buf`, which holds **all** bytes received and not yet
    /// consumed. Bytes for the peer are appended to `out`, always whole frames.
    ///
    /// An unfinished message is looked at from its start at each call, by its headers alone, so the
    /// cost is its number of frames and nothing is remembered between calls. A PONG is never longer
    /// than its PING, so `out` grows no faster than `buf` is consumed.
    ///
    /// # Errors
    /// Whatever [`Error`] names; the peer broke the protocol, a limit, or gave up itself. If it got
    /// past the greeting an ERROR command with [`Error::kind`] as its reason was written to `out`.
    #[inline]
    pub fn next(
        &mut self,
        config: &Config,
        buf: &mut [u8],
        frames: &mut Frames,
        out: &mut Vec<u8>,
    ) -> Result<Step, Error> {
        if self.phase == Phase::Ready
            && let Some(len) = read_short_message(&config.limits, buf, frames)
        {
            self.cuts = 0;
            return Ok(Step::Message { len });
        }
        frames.spans.clear();
        let step = match self.phase {
            Phase::Ready => self.next_in_traffic(config, buf, frames, out),
            Phase::Handshake(awaited) => self.next_in_handshake(config, buf, awaited),
            Phase::Greeting => return self.next_in_greeting(config, buf, out),
        };
        match step {
            Ok(step) => Ok(step),
            Err(error) => Err(refuse(error, out)),
        }
    }

    /// Whatever the hot path left.
    fn next_in_traffic(
        &mut self,
        config: &Config,
        buf: &mut [u8],
        frames: &mut Frames,
        out: &mut Vec<u8>,
    ) -> Result<Step, Error> {
        let limits = &config.limits;
        let mut pos = 0;
        let mut message_bytes = 0;
        loop {
            let header = match read_header(buf, pos)? {
                Head::Whole(header) => header,
                Head::Partial { need } => return Ok(Step::More { need }),
            };
            if header.flags & COMMAND != 0 {
                return self.next_command(config, buf, pos, header, out);
            }
            if frames.spans.len() >= limits.frames_max as usize {
                return Err(Error::TooManyFrames { limit: limits.frames_max });
            }
            let limit = limits.frame_bytes_max.min(FRAME_BYTES_RFC_MAX);
            let end = end_of(header, What::Frame, limit)?;
            message_bytes = header.len.saturating_add(message_bytes);
            if message_bytes > limits.message_bytes_max {
                return Err(Error::TooLarge {
                    what: What::Message,
                    limit: limits.message_bytes_max,
                    got: message_bytes,
                });
            }
            if end > buf.len() {
                return Ok(Step::More { need: end });
            }
            frames.spans.push(Span { start: header.start, end });
            if header.flags & MORE == 0 {
                self.cuts = 0;
                return Ok(Step::Message { len: end });
            }
            pos = end;
        }
    }

    /// A command at `pos`, which is 0 unless a message is unfinished.
    #[cold]
    fn next_command(
        &mut self,
        config: &Config,
        buf: &mut [u8],
        pos: usize,
        header: Header,
        out: &mut Vec<u8>,
    ) -> Result<Step, Error> {
        let end = end_of(header, What::Command, u64::from(config.limits.command_bytes_max))?;
        let Some(body) = buf.get(header.start..end) else { return Ok(Step::More { need: end }) };
        let (name, data) = split_command(body)?;
        let event = match name {
            b"PING" => {
                let (ttl, context) = data
                    .split_first_chunk::<2>()
                    .ok_or(Error::BadCommand { what: "a PING without a TTL" })?;
                check_context(context)?;
                put_pong(out, context);
                Some(Event::Ping { ttl_deciseconds: u16::from_be_bytes(*ttl) })
            }
            b"PONG" => {
                check_context(data)?;
                Some(Event::Pong)
            }
            b"ERROR" => return Err(peer_error(data)),
            b"READY" => return Err(Error::Unexpected { what: "second READY" }),
            _ => None,
        };
        if pos == 0 {
            return Ok(Step::Skip { len: end, event });
        }
        self.cuts += 1;
        if self.cuts > COMMANDS_IN_MESSAGE_MAX {
            return Err(Error::TooManyCommands { limit: COMMANDS_IN_MESSAGE_MAX });
        }
        // The shorter side is moved.
        let len = end - pos;
        if pos <= buf.len() - end {
            buf.copy_within(..pos, len);
            return Ok(Step::Skip { len, event });
        }
        buf.copy_within(end.., pos);
        Ok(Step::Cut { len, event })
    }

    #[cold]
    fn next_in_handshake(
        &mut self,
        config: &Config,
        buf: &[u8],
        awaited: Handshake,
    ) -> Result<Step, Error> {
        let header = match read_header(buf, 0)? {
            Head::Whole(header) => header,
            Head::Partial { .. } if buf.first().is_some_and(|flags| flags & COMMAND == 0) => {
                return Err(EARLY_MESSAGE);
            }
            Head::Partial { need } => return Ok(Step::More { need }),
        };
        if header.flags & COMMAND == 0 {
            return Err(EARLY_MESSAGE);
        }
        let end = end_of(header, What::Command, u64::from(config.limits.command_bytes_max))?;
        let Some(body) = buf.get(header.start..end) else { return Ok(Step::More { need: end }) };
        let (name, data) = split_command(body)?;
        if name == b"ERROR" {
            return Err(peer_error(data));
        }
        match awaited {
            Handshake::NullReady if name == b"READY" => {
                let metadata = read_ready(data, config.socket_type)?;
                self.socket_type = Some(metadata.socket_type);
                self.identity = metadata.identity;
                self.phase = Phase::Ready;
                Ok(Step::Skip { len: end, event: Some(Event::Ready) })
            }
            Handshake::NullReady => Err(Error::Unexpected { what: "command before READY" }),
        }
    }

    #[cold]
    fn next_in_greeting(
        &mut self,
        config: &Config,
        buf: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Step, Error> {
        match read_greeting(buf, config.mechanism)? {
            Greeting::Partial { need } => Ok(Step::More { need }),
            Greeting::Whole { minor } => {
                self.minor = minor;
                self.phase = Phase::Handshake(config.mechanism.handshake());
                match config.mechanism {
                    Mechanism::Null => put_ready(out, config),
                }
                Ok(Step::Skip { len: GREETING_BYTES, event: None })
            }
        }
    }
}

/// The hot path: a run of short frames, all of it there and within the limits. Says where it ends;
/// `None` leaves the judgement to the careful path, which looks at it from the start again.
#[inline(always)]
fn read_short_message(limits: &Limits, buf: &[u8], frames: &mut Frames) -> Option<usize> {
    frames.spans.clear();
    let mut pos = 0;
    let mut message_bytes = 0;
    loop {
        let &[flags, len] = buf.get(pos..)?.first_chunk()?;
        let (start, len) = (pos + 2, u64::from(len));
        let end = start + len as usize;
        message_bytes += len;
        let too_many = frames.spans.len() >= limits.frames_max as usize;
        if flags > MORE || end > buf.len() || len > limits.frame_bytes_max || too_many {
            return None;
        }
        frames.spans.push(Span { start, end });
        if flags == 0 {
            return (message_bytes <= limits.message_bytes_max).then_some(end);
        }
        pos = end;
    }
}

/// Where the frame's payload ends, its length being within `limit`.
#[inline(always)]
fn end_of(header: Header, what: What, limit: u64) -> Result<usize, Error> {
    if header.len <= limit
        && let Ok(len) = usize::try_from(header.len)
        && let Some(end) = header.start.checked_add(len)
    {
        return Ok(end);
    }
    Err(Error::TooLarge { what, limit, got: header.len })
}

/// A command's name and data.
fn split_command(body: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let (&name_bytes, rest) = body.split_first().ok_or(Error::BadCommand { what: "empty" })?;
    if name_bytes == 0 {
        return Err(Error::BadCommand { what: "no name" });
    }
    rest.split_at_checked(usize::from(name_bytes))
        .ok_or(Error::BadCommand { what: "the name runs past the end" })
}

fn check_context(context: &[u8]) -> Result<(), Error> {
    if context.len() > CONTEXT_BYTES_MAX {
        return Err(Error::BadCommand { what: "a context of more than 16 octets" });
    }
    Ok(())
}

/// The reason is for people, so a malformed one is shown as far as it goes.
fn peer_error(data: &[u8]) -> Error {
    let reason = match data.split_first() {
        Some((&len, rest)) => &rest[..rest.len().min(usize::from(len))],
        None => &[],
    };
    Error::PeerError { reason: printable(reason) }
}

/// Tells the peer why, unless it was the peer that told us.
#[cold]
fn refuse(error: Error, out: &mut Vec<u8>) -> Error {
    if !matches!(error, Error::PeerError { .. }) {
        put_error(out, error.kind());
    }
    error
}

/// Each command in the middle of a message moves bytes; peers send one now and then (a PING), so
/// that many in one message are no accident.
const COMMANDS_IN_MESSAGE_MAX: u8 = 64;

const EARLY_MESSAGE: Error = Error::Unexpected { what: "message before READY" };
