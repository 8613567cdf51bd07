//! One connection: what it waits for, and what the next bytes mean.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use memchr::memchr;

use crate::beat::{Beats, HeartBeat};
use crate::command::{Command, Version};
use crate::error::{Error, Misuse, What};
use crate::escape::Escapes;
use crate::frame::{Head, Scan, Wrong};
use crate::limits::Limits;
use crate::write::{Refusal, Writer, put_error};

/// Which side we are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// We answer CONNECT.
    Server,
    /// We send it.
    Client,
}

/// What all connections of one listener, or one client, have in common.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which side we are.
    pub role: Role,
    /// The oldest version we speak.
    pub oldest: Version,
    /// The newest version we speak.
    pub newest: Version,
    /// What we can do and would like.
    pub heart_beat: HeartBeat,
    /// Silence of the peer that is forgiven, in hundredths of what was agreed; at least 100. Twice
    /// the interval is what brokers allow.
    pub tolerance_percent: u32,
    /// What a peer may send.
    pub limits: Limits,
}

impl Config {
    /// All versions, no heart-beats, default limits.
    pub fn new(role: Role) -> Config {
        Config {
            role,
            oldest: Version::V1_0,
            newest: Version::V1_2,
            heart_beat: HeartBeat::default(),
            tolerance_percent: 200,
            limits: Limits::default(),
        }
    }
}

/// One connection, of either side. The same [`Config`] must be given to all calls. After an error
/// nothing more may be asked of it: flush `out` and close.
#[derive(Clone, Debug)]
pub struct Connection {
    phase: Phase,
    version: Version,
    agreed: HeartBeat,
    /// The head of the frame at the start of the buffer, as far as it is known.
    scan: Scan,
    /// Where its body starts, and up to where there is no NUL; only for bodies without a length.
    body: Option<(usize, usize)>,
    /// Nothing new can be said of a shorter buffer.
    need: usize,
}

/// There may be 100,000 of these.
const _: () = assert!(size_of::<Connection>() <= 12 * size_of::<usize>());

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// The opening frame is awaited.
    Opening,
    /// CONNECT was read; our side has to answer.
    Asked,
    /// Frames.
    Open,
    /// DISCONNECT was read, or an ERROR written: nothing more is read.
    Closed,
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
    /// Nothing but signs of life, or whatever follows the last frame.
    Skip {
        /// Octets to consume from the start of the buffer.
        len: usize,
    },
    /// CONNECT was read and not answered: [`Connection::accept`] or [`Connection::refuse`] it.
    Answer,
    /// A frame, described by the head.
    Frame {
        /// Octets to consume from the start of the buffer once the frame was used.
        len: usize,
    },
}

impl Connection {
    /// A server's new connection.
    pub fn server() -> Connection {
        Connection::new()
    }

    fn new() -> Connection {
        Connection {
            phase: Phase::Opening,
            version: Version::V1_0,
            agreed: HeartBeat::default(),
            scan: Scan::default(),
            body: None,
            need: 0,
        }
    }

    /// A client's new connection; writes CONNECT with `host`, the versions, the heart-beat, and
    /// `headers` (login, passcode and what else the server knows).
    ///
    /// # Errors
    /// [`Misuse`] if a header has an LF or NUL in it: CONNECT knows no escapes.
    pub fn client(
        config: &Config,
        host: &str,
        headers: &[(&str, &str)],
        out: &mut Vec<u8>,
    ) -> Result<Connection, Misuse> {
        let spoken = Version::ALL.into_iter().filter(|v| spoken(config, *v));
        let names: Vec<&str> = spoken.map(Version::as_str).collect();
        let beat = config.heart_beat.to_string();
        let mut writer = Writer::new(out, config.newest, Command::Connect)
            .header("accept-version", &names.join(","))
            .header("host", host)
            .header("heart-beat", &beat);
        for (name, value) in headers {
            writer = writer.header(name, value);
        }
        writer.body(b"")?;
        Ok(Connection::new())
    }

    /// The version: negotiated, or the oldest before.
    #[inline]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether CONNECTED was written or read.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The beats that were agreed on, from now on.
    pub fn beats(&self, config: &Config, now_ms: u64) -> Beats {
        Beats::new(self.agreed, config.tolerance_percent, now_ms)
    }

    /// Server: answers CONNECT. Headers such as `session` and `server` come from the caller.
    ///
    /// # Errors
    /// [`Misuse`] if one of them has an LF or NUL in it.
    ///
    /// # Panics
    /// If there is no CONNECT to be answered.
    pub fn accept(&mut self, headers: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), Misuse> {
        assert_eq!(self.phase, Phase::Asked, "a CONNECT is answered once");
        let beat = self.agreed.to_string();
        let mut writer = Writer::new(out, self.version, Command::Connected)
            .header("version", self.version.as_str());
        if self.version > Version::V1_0 {
            writer = writer.header("heart-beat", &beat);
        } else {
            writer = writer.header("heart-beat", "0,0");
        }
        for (name, value) in headers {
            writer = writer.header(name, value);
        }
        writer.body(b"")?;
        self.phase = Phase::Open;
        Ok(())
    }

    /// Server: writes an ERROR and reads nothing more ("ERROR": the connection must be closed).
    pub fn refuse(&mut self, refusal: Refusal<'_>, out: &mut Vec<u8>) {
        put_error(out, self.version, refusal);
        self.phase = Phase::Closed;
    }

    /// Says what stands at the start of `buf`, which holds **all** bytes received and not yet
    /// consumed. Only an ERROR is ever appended to `out`, by a server.
    ///
    /// A frame in many pieces is searched once: what is known of it is remembered, so `buf` must
    /// only grow until it is consumed.
    ///
    /// # Errors
    /// Whatever [`Error`] names; the peer broke the protocol or a limit.
    #[inline]
    pub fn next(
        &mut self,
        config: &Config,
        buf: &[u8],
        head: &mut Head,
        out: &mut Vec<u8>,
    ) -> Result<Step, Error> {
        match self.phase {
            Phase::Asked => return Ok(Step::Answer),
            Phase::Closed if !buf.is_empty() => return Ok(Step::Skip { len: buf.len() }),
            Phase::Opening | Phase::Open | Phase::Closed => {}
        }
        if buf.len() < self.need.max(1) {
            return Ok(Step::More { need: self.need.max(1) });
        }
        // A frame always starts at the start of the buffer: what is between frames goes first.
        let between = |octet: &u8| matches!(octet, b'\n' | b'\r' | 0);
        if between(&buf[0]) {
            let len = buf.iter().position(|octet| !between(octet)).unwrap_or(buf.len());
            return Ok(Step::Skip { len });
        }
        let step = match self.read(config, buf, head) {
            Ok(Some(len)) => {
                self.forget();
                self.on_frame(config, buf, head).map(|()| Step::Frame { len })
            }
            Ok(None) => Ok(Step::More { need: self.need }),
            Err(error) => Err(error),
        };
        step.map_err(|error| self.fail(config, buf, head, error, out))
    }

    /// The length of the frame at the start of `buf`, with its NUL; `None` if it is not whole yet.
    ///
    /// After an error `head` describes the frame if the whole of its head is there, however it
    /// came, and else nothing.
    #[inline]
    fn read(
        &mut self,
        config: &Config,
        buf: &[u8],
        head: &mut Head,
    ) -> Result<Option<usize>, Error> {
        let limits = &self.limits(config);
        if let Some((from, searched)) = self.body
            && buf.len() <= from.saturating_add(self.body_max(limits, from))
            && memchr(0, &buf[searched..]).is_none()
        {
            return Ok(self.wait_for_body(from, buf.len()));
        }
        let mut scan = self.scan;
        let mut from = scan.run(limits, buf, head, |command| self.is_known(config, command));
        if !self.scan.is_fresh() && matches!(from, Ok(Some(_))) {
            // The first lines were found by a call whose scratch has served others since.
            let mut scan = Scan::default();
            from = scan.run(limits, buf, head, |command| self.is_known(config, command));
        }
        let from = match from {
            Ok(Some(from)) => from,
            Ok(None) => {
                (self.scan, self.need) = (scan, buf.len() + 1);
                return Ok(None);
            }
            Err(error) => {
                head.clear();
                return Err(error);
            }
        };
        self.read_head(buf, from, head)?;
        let end = match head.content_length {
            Some(length) => self.end_by_length(limits, buf, from, length)?,
            None => self.end_by_nul(limits, buf, from)?,
        };
        Ok(end.map(|end| {
            head.body = from..end;
            end + 1
        }))
    }

    /// Command and headers, both complete.
    #[inline]
    fn read_head(&self, buf: &[u8], from: usize, head: &mut Head) -> Result<(), Error> {
        head.escapes = Escapes::of(self.version, head.command);
        head.trims = self.version == Version::V1_0 && self.phase == Phase::Open;
        head.content_length = None;
        head.read(buf, 0..from).map_err(|wrong| match wrong {
            Wrong::Header(what) => Error::BadHeader { what },
            Wrong::Escape => Error::BadEscape { version: self.version },
        })?;
        if let Some(text) = head.find(buf, b"content-length") {
            let text = if self.version == Version::V1_0 { text.trim_matches(' ') } else { text };
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            if !digits {
                return Err(Error::BadHeader { what: "content-length takes a number of octets" });
            }
            // More than fits is more than any limit.
            head.content_length = Some(text.parse().unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// Whether the other side may send it in this version.
    fn is_known(&self, config: &Config, command: Command) -> bool {
        let theirs = command.is_servers() == (config.role == Role::Client);
        let is_new = command == Command::Nack && self.phase == Phase::Open;
        theirs && !(is_new && self.version == Version::V1_0)
    }

    #[inline]
    fn end_by_length(
        &mut self,
        limits: &Limits,
        buf: &[u8],
        from: usize,
        length: u64,
    ) -> Result<Option<usize>, Error> {
        let length_max = self.body_max(limits, from);
        let Some(octets) = usize::try_from(length).ok().filter(|octets| *octets <= length_max)
        else {
            return Err(self.too_large(limits));
        };
        let end = from + octets;
        match buf.get(end) {
            None => {
                self.need = end + 1;
                Ok(None)
            }
            Some(0) => Ok(Some(end)),
            Some(_) => Err(Error::NoNul { length }),
        }
    }

    #[inline]
    fn end_by_nul(
        &mut self,
        limits: &Limits,
        buf: &[u8],
        from: usize,
    ) -> Result<Option<usize>, Error> {
        let last = from.saturating_add(self.body_max(limits, from));
        let window = &buf[..buf.len().min(last.saturating_add(1))];
        if let Some(at) = memchr(0, &window[from..]) {
            return Ok(Some(from + at));
        }
        if buf.len() > last {
            return Err(self.too_large(limits));
        }
        Ok(self.wait_for_body(from, buf.len()))
    }

    /// There is no NUL between `from` and `searched`.
    fn wait_for_body(&mut self, from: usize, searched: usize) -> Option<usize> {
        self.body = Some((from, searched));
        self.need = searched + 1;
        None
    }

    /// The limits of this phase.
    #[inline]
    fn limits(&self, config: &Config) -> Limits {
        let mut limits = config.limits;
        if self.phase == Phase::Opening {
            limits.head_bytes_max = limits.head_bytes_max.min(limits.opening_bytes_max);
        }
        limits
    }

    /// Most octets of a body behind a head of `head_bytes`.
    #[inline]
    fn body_max(&self, limits: &Limits, head_bytes: usize) -> usize {
        let max = usize::try_from(limits.body_bytes_max).unwrap_or(usize::MAX);
        if self.phase == Phase::Opening {
            return max.min((limits.opening_bytes_max as usize).saturating_sub(head_bytes));
        }
        max
    }

    fn too_large(&self, limits: &Limits) -> Error {
        if self.phase == Phase::Opening {
            let limit = u64::from(limits.opening_bytes_max);
            return Error::TooLarge { what: What::Opening, limit };
        }
        Error::TooLarge { what: What::Body, limit: limits.body_bytes_max }
    }

    #[inline]
    fn forget(&mut self) {
        (self.scan, self.body, self.need) = (Scan::default(), None, 0);
    }

    /// What a frame does to the connection itself.
    #[inline]
    fn on_frame(&mut self, config: &Config, buf: &[u8], head: &mut Head) -> Result<(), Error> {
        match (self.phase, head.command) {
            (Phase::Opening, _) => self.on_opening(config, buf, head),
            (_, got @ (Command::Connect | Command::Stomp | Command::Connected)) => {
                Err(Error::Unexpected { got, expected: "the connection is open already" })
            }
            (_, Command::Disconnect) => {
                self.phase = Phase::Closed;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_opening(&mut self, config: &Config, buf: &[u8], head: &mut Head) -> Result<(), Error> {
        match (config.role, head.command) {
            (Role::Server, Command::Connect | Command::Stomp) => self.on_connect(config, buf, head),
            (Role::Client, Command::Connected) => self.on_connected(config, buf, head),
            (Role::Client, Command::Error) => {
                self.phase = Phase::Closed;
                Ok(())
            }
            (Role::Server, got) => Err(Error::Unexpected { got, expected: "CONNECT comes first" }),
            (Role::Client, got) => {
                Err(Error::Unexpected { got, expected: "CONNECTED or ERROR comes first" })
            }
        }
    }

    /// Server: the highest common version, whatever the order and whatever else is named.
    fn on_connect(&mut self, config: &Config, buf: &[u8], head: &mut Head) -> Result<(), Error> {
        let offered = head.find(buf, b"accept-version");
        let common = match offered {
            Some(list) => list
                .split(',')
                .filter_map(|name| Version::parse(name.trim_matches(' ')))
                .filter(|version| spoken(config, *version))
                .max(),
            None => Some(Version::V1_0).filter(|version| spoken(config, *version)),
        };
        let (oldest, newest) = (config.oldest, config.newest);
        self.version = common.ok_or(Error::NoVersion { oldest, newest })?;
        // Who offers nothing speaks 1.0, whose examples write `login: name`.
        head.trims = offered.is_none();
        self.agree(config, head.find(buf, b"heart-beat"))?;
        self.phase = Phase::Asked;
        Ok(())
    }

    fn on_connected(&mut self, config: &Config, buf: &[u8], head: &Head) -> Result<(), Error> {
        let chosen = match head.find(buf, b"version") {
            Some(text) => Version::parse(text.trim_matches(' ')),
            None => Some(Version::V1_0),
        };
        let chosen = chosen.filter(|version| spoken(config, *version));
        self.version = chosen.ok_or(Error::VersionNotOffered)?;
        self.agree(config, head.find(buf, b"heart-beat"))?;
        self.phase = Phase::Open;
        Ok(())
    }

    /// 1.0 knows no heart-beats, so there the header means nothing.
    fn agree(&mut self, config: &Config, theirs: Option<&str>) -> Result<(), Error> {
        if let Some(value) = theirs
            && self.version > Version::V1_0
        {
            self.agreed = config.heart_beat.negotiate(HeartBeat::parse(value)?);
        }
        Ok(())
    }

    /// A server tells its client why; a client has no words for it.
    #[cold]
    fn fail(
        &mut self,
        config: &Config,
        buf: &[u8],
        head: &Head,
        error: Error,
        out: &mut Vec<u8>,
    ) -> Error {
        self.forget();
        self.phase = Phase::Closed;
        if config.role == Role::Client {
            return error;
        }
        let receipt_id = head.receipt(buf);
        let versions = if let Error::NoVersion { oldest, newest } = error {
            Some((oldest, newest))
        } else {
            None
        };
        let details = format!("{error}\n");
        let refusal = Refusal {
            message: error.kind(),
            code: error.kind(),
            receipt_id: receipt_id.as_deref(),
            versions,
            details: &details,
        };
        put_error(out, self.version, refusal);
        error
    }
}

fn spoken(config: &Config, version: Version) -> bool {
    (config.oldest..=config.newest).contains(&version)
}
