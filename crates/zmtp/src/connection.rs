//! One connection: what it waits for, and what the next bytes mean.

use alloc::boxed::Box;
use alloc::vec::Vec;

use zeroize::Zeroizing;

use crate::curve::{Random, Work, Worked};
use crate::error::{Error, What, printable};
use crate::frame::{
    COMMAND, CONTEXT_BYTES_MAX, FRAME_BYTES_RFC_MAX, Frames, Head, Header, MORE, Span, put_error,
    put_pong, read_header,
};
use crate::greeting::{GREETING_BYTES, Greeting, put_greeting, read_greeting};
use crate::handshake::{Awaited, Mechanism, valid_identity};
use crate::keys::{KeyPair, PublicKey};
use crate::limits::Limits;
use crate::secure::{Claim, Secure, Shaken};
use crate::session::Opened;
use crate::socket_type::SocketType;

/// What all connections of one listener, or one client, have in common.
#[derive(Clone, Debug)]
pub struct Config {
    /// What we announce ourselves as.
    pub socket_type: SocketType,
    /// What we announce as our identity, if anything; [`valid_identity`] must hold.
    pub identity: Option<Box<[u8]>>,
    /// The one mechanism we speak, in our role.
    pub security: Security,
    /// What a peer may send.
    pub limits: Limits,
}

impl Config {
    /// No identity, NULL, default limits.
    pub fn new(socket_type: SocketType) -> Config {
        Config {
            socket_type,
            identity: None,
            security: Security::default(),
            limits: Limits::default(),
        }
    }
}

/// A mechanism and our role in it.
#[derive(Clone, Default)]
pub enum Security {
    /// Nobody is asked anything; both roles are the same.
    #[default]
    Null,
    /// Asks for a name and a password ([`Connection::claim`]).
    PlainServer,
    /// Gives a name and a password, each of at most 255 octets.
    PlainClient {
        /// The name.
        username: Box<str>,
        /// The password.
        password: Zeroizing<Box<str>>,
    },
    /// Proves that it has these keys, and asks for the peer's ([`Connection::claim`]).
    CurveServer(KeyPair),
    /// Talks to nobody but the server with that key.
    CurveClient {
        /// The server's key.
        server: PublicKey,
        /// Ours.
        keys: KeyPair,
    },
}

impl core::fmt::Debug for Security {
    /// Without secrets.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Security::Null => f.write_str("Null"),
            Security::PlainServer => f.write_str("PlainServer"),
            Security::PlainClient { username, .. } => {
                f.debug_tuple("PlainClient").field(username).finish()
            }
            Security::CurveServer(keys) => {
                f.debug_tuple("CurveServer").field(keys.public()).finish()
            }
            Security::CurveClient { server, keys } => {
                f.debug_tuple("CurveClient").field(server).field(keys.public()).finish()
            }
        }
    }
}

impl Security {
    /// The mechanism.
    pub fn mechanism(&self) -> Mechanism {
        match self {
            Security::Null => Mechanism::Null,
            Security::PlainServer | Security::PlainClient { .. } => Mechanism::Plain,
            Security::CurveServer(_) | Security::CurveClient { .. } => Mechanism::Curve,
        }
    }

    fn is_server(&self) -> bool {
        matches!(self, Security::PlainServer | Security::CurveServer(_))
    }

    fn is_valid(&self) -> bool {
        match self {
            Security::PlainClient { username, password } => {
                username.len() <= 255 && password.len() <= 255
            }
            Security::Null
            | Security::PlainServer
            | Security::CurveServer(_)
            | Security::CurveClient { .. } => true,
        }
    }
}

/// One connection, of either side. The same [`Config`] must be given to all calls. After an error
/// nothing more may be asked of it: flush `out` and close.
#[derive(Debug)]
pub struct Connection {
    /// The peer's; empty before READY and if it has none.
    identity: Box<[u8]>,
    /// What PLAIN and CURVE remember.
    secure: Option<Box<Secure>>,
    /// The peer's; set by READY.
    socket_type: Option<SocketType>,
    /// The peer's; 0 before its greeting, `u8::MAX` if its major version is above 3.
    minor: u8,
    phase: Phase,
    /// Commands taken out of the unfinished message so far.
    cuts: u8,
}

/// There may be 100,000 of these.
const _: () = assert!(size_of::<Connection>() <= 4 * size_of::<usize>());

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// The peer's greeting is awaited.
    Greeting,
    /// The greeting was accepted; the mechanism waits for the peer.
    Handshake(Awaited),
    /// The mechanism waits for the caller: to do its work, or to judge the peer's claim.
    Held,
    /// Messages and commands.
    Ready,
    /// Messages and commands, each in a box.
    Sealed,
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
    /// The handshake cannot go on before [`Connection::take_work`] was done and its result given to
    /// [`Connection::finish`]. Until then nothing more is looked at.
    Work,
    /// The peer says who it is: answer [`Connection::claim`] with [`Connection::admit`] or
    /// [`Connection::deny`]. Until then nothing more is looked at.
    Claim,
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
    /// If the configured identity is not a [`valid_identity`], or a name or password is too long.
    pub fn new(config: &Config, out: &mut Vec<u8>) -> Connection {
        assert!(
            config.identity.as_deref().is_none_or(valid_identity),
            "our own identity is invalid"
        );
        assert!(config.security.is_valid(), "a name and a password have at most 255 octets");
        put_greeting(out, config.security.mechanism(), config.security.is_server());
        Connection {
            identity: Box::default(),
            secure: None,
            socket_type: None,
            minor: 0,
            phase: Phase::Greeting,
            cuts: 0,
        }
    }

    /// Whether messages may be sent and received.
    #[inline]
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Sealed)
    }

    /// Whether what is sent must be given to [`seal`](Connection::seal) first, and the handshake is
    /// through.
    #[inline]
    pub fn is_sealed(&self) -> bool {
        self.phase == Phase::Sealed
    }

    /// Whether it waits for work to be done or a claim to be judged.
    pub fn is_held(&self) -> bool {
        self.phase == Phase::Held
    }

    /// What [`Event::Work`] spoke of, once.
    pub fn take_work(&mut self) -> Option<Work> {
        self.secure.as_mut()?.take_work()
    }

    /// Takes in what came of the work.
    ///
    /// # Errors
    /// As [`next`](Connection::next).
    pub fn finish(
        &mut self,
        config: &Config,
        worked: Worked,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event>, Error> {
        let shaken = Secure::finish(self.secure.take(), worked, config, out);
        self.settle(shaken).map_err(|error| refuse(error, out))
    }

    /// Does the work at once, for callers that may take a tenth of a millisecond for it.
    ///
    /// # Errors
    /// As [`next`](Connection::next).
    pub fn work(
        &mut self,
        config: &Config,
        random: Random<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event>, Error> {
        match self.take_work() {
            Some(work) => self.finish(config, work.run(config, random), out),
            None => Ok(None),
        }
    }

    /// Who the peer says it is, from [`Event::Claim`] to the judgement.
    pub fn claim(&self) -> Option<Claim<'_>> {
        self.secure.as_ref()?.claim()
    }

    /// The peer is whom it claims to be, and may come in.
    pub fn admit(&mut self, config: &Config, out: &mut Vec<u8>) -> Option<Event> {
        let claimed = self.secure.take()?;
        let shaken = claimed.admit(config, out);
        // Its properties were judged before it was asked for.
        self.settle(shaken).ok().flatten()
    }

    /// The peer may not come in: it is told so, and the connection is over.
    pub fn deny(&mut self, out: &mut Vec<u8>) -> Error {
        let who = match self.claim() {
            Some(Claim::Plain { username, .. }) => printable(username),
            Some(Claim::Curve(key)) => alloc::format!("{key}").into(),
            None => "nobody".into(),
        };
        refuse(Error::Denied { who }, out)
    }

    /// Seals whole frames, as they would be sent without CURVE, for a connection that
    /// [`is_sealed`](Connection::is_sealed). They must be sent in the order in which they were
    /// sealed.
    pub fn seal(&mut self, frames: &[u8], out: &mut Vec<u8>) {
        if let Some(session) = self.secure.as_mut().and_then(|secure| secure.session()) {
            session.seal(frames, out);
        }
    }

    /// The message of `len` octets that [`next`](Connection::next) just gave stays at the start of
    /// the buffer, to be given again.
    pub fn hand_back(&mut self, len: usize) {
        if let Some(session) = self.secure.as_mut().and_then(|secure| secure.session()) {
            session.handed_back(len);
        }
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
            Phase::Sealed => self.next_sealed(config, buf, frames, out),
            Phase::Held => Ok(Step::More { need: buf.len() + 1 }),
            Phase::Handshake(awaited) => self.next_in_handshake(config, buf, awaited, out),
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
        let event = on_command(body, out)?;
        self.close_over(buf, pos, end, event)
    }

    /// Drops a command that ends at `end`, behind `pos` octets of an unfinished message.
    fn close_over(
        &mut self,
        buf: &mut [u8],
        pos: usize,
        end: usize,
        event: Option<Event>,
    ) -> Result<Step, Error> {
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

    /// As `next_in_traffic`, where each frame is in a box: frames are opened as long as they are
    /// there, and a message is given out once all of it is plain.
    fn next_sealed(
        &mut self,
        config: &Config,
        buf: &mut [u8],
        frames: &mut Frames,
        out: &mut Vec<u8>,
    ) -> Result<Step, Error> {
        let mut skip = 0;
        loop {
            let Some(session) = self.secure.as_mut().and_then(|secure| secure.session()) else {
                return Err(Error::Unexpected { what: "message without a session" });
            };
            let stop = session.is_whole || session.is_long();
            if skip > 0 && stop {
                return Ok(Step::Skip { len: skip, event: None });
            }
            if session.is_whole {
                let len = session.plain;
                session.handed_out();
                self.cuts = 0;
                let mut pos = 0;
                while let Head::Whole(header) = read_header(&buf[..len], pos)? {
                    let end = header.start + header.len as usize;
                    frames.spans.push(Span { start: header.start, end });
                    pos = end;
                }
                return Ok(Step::Message { len });
            }
            match session.open(&config.limits, &mut buf[skip..])? {
                Opened::More { .. } if skip > 0 => {
                    return Ok(Step::Skip { len: skip, event: None });
                }
                Opened::More { need } => return Ok(Step::More { need }),
                Opened::Frame { gap, at_end: false } => skip += gap,
                Opened::Frame { gap, at_end: true } => {
                    return Ok(Step::Cut { len: gap, event: None });
                }
                Opened::Command { body, end } => {
                    let pos = session.plain;
                    let event = on_command(&buf[skip..][body], out)?;
                    let step = self.close_over(&mut buf[skip..], pos, end, event)?;
                    return Ok(match step {
                        Step::Skip { len, event } => Step::Skip { len: skip + len, event },
                        // Only the plain frames were moved so far; they are few if `skip` is not 0.
                        Step::Cut { len, event } => {
                            if skip > 0 {
                                let kept = buf.len() - len;
                                buf.copy_within(skip..kept, skip + len);
                                return Ok(Step::Skip { len: skip + len, event });
                            }
                            Step::Cut { len, event }
                        }
                        other @ (Step::More { .. } | Step::Message { .. }) => other,
                    });
                }
            }
        }
    }

    #[cold]
    fn next_in_handshake(
        &mut self,
        config: &Config,
        buf: &[u8],
        awaited: Awaited,
        out: &mut Vec<u8>,
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
        let limit = awaited.command_bytes_max(config.limits.command_bytes_max);
        let end = end_of(header, What::Command, u64::from(limit))?;
        let Some(body) = buf.get(header.start..end) else { return Ok(Step::More { need: end }) };
        let (name, data) = split_command(body)?;
        if name == b"ERROR" {
            return Err(peer_error(data));
        }
        if name != awaited.name() {
            return Err(Error::Unexpected { what: "command before READY" });
        }
        let shaken = Secure::next(self.secure.take(), awaited, config, data, out);
        Ok(Step::Skip { len: end, event: self.settle(shaken)? })
    }

    /// Takes in what came of a step of the handshake.
    fn settle(&mut self, shaken: Result<Shaken, Error>) -> Result<Option<Event>, Error> {
        let (phase, secure, event) = match shaken? {
            Shaken::Awaits(awaited, secure) => (Phase::Handshake(awaited), secure, None),
            Shaken::Works(secure) => (Phase::Held, Some(secure), Some(Event::Work)),
            Shaken::Claims(secure) => (Phase::Held, Some(secure), Some(Event::Claim)),
            Shaken::Through(metadata, session) => {
                self.socket_type = Some(metadata.socket_type);
                self.identity = metadata.identity;
                let phase = if session.is_some() { Phase::Sealed } else { Phase::Ready };
                (phase, session, Some(Event::Ready))
            }
        };
        (self.phase, self.secure) = (phase, secure);
        Ok(event)
    }

    #[cold]
    fn next_in_greeting(
        &mut self,
        config: &Config,
        buf: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Step, Error> {
        match read_greeting(buf, config.security.mechanism())? {
            Greeting::Partial { need } => Ok(Step::More { need }),
            Greeting::Whole { minor } => {
                self.minor = minor;
                let event = self.settle(Ok(Secure::begin(config, out)))?;
                Ok(Step::Skip { len: GREETING_BYTES, event })
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

/// What a command in the traffic means.
fn on_command(body: &[u8], out: &mut Vec<u8>) -> Result<Option<Event>, Error> {
    let (name, data) = split_command(body)?;
    match name {
        b"PING" => {
            let (ttl, context) = data
                .split_first_chunk::<2>()
                .ok_or(Error::BadCommand { what: "a PING without a TTL" })?;
            check_context(context)?;
            put_pong(out, context);
            Ok(Some(Event::Ping { ttl_deciseconds: u16::from_be_bytes(*ttl) }))
        }
        b"PONG" => {
            check_context(data)?;
            Ok(Some(Event::Pong))
        }
        b"ERROR" => Err(peer_error(data)),
        b"READY" => Err(Error::Unexpected { what: "second READY" }),
        _ => Ok(None),
    }
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
        put_error(out, error.reason());
    }
    error
}

/// Each command in the middle of a message moves bytes; peers send one now and then (a PING), so
/// that many in one message are no accident.
const COMMANDS_IN_MESSAGE_MAX: u8 = 64;

const EARLY_MESSAGE: Error = Error::Unexpected { what: "message before READY" };
