//! One connection to a broker, for loads that keep time: it never blocks, and hands each message to
//! its caller.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use zmtp::{Config, Connection, Event, Frames, Security, SocketType, Step};

/// A DEALER socket with one peer.
pub(super) struct Link {
    stream: TcpStream,
    config: Config,
    zmtp: Connection,
    frames: Frames,
    /// What came and is not consumed yet.
    input: Vec<u8>,
    /// Whole frames to be sent.
    out: Vec<u8>,
    /// What was sealed of them.
    sealed: Vec<u8>,
    /// Octets of what is sent (`sealed` if frames are, else `out`) that are on their way.
    written: usize,
}

impl Link {
    /// Connects and greets.
    ///
    /// # Errors
    /// If nobody listens there.
    pub(super) fn connect(broker: SocketAddr, security: &Security) -> io::Result<Link> {
        let stream = TcpStream::connect(broker)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut config = Config::new(SocketType::Dealer);
        config.security = security.clone();
        let mut out = Vec::new();
        let zmtp = Connection::new(&config, &mut out);
        let mut link = Link {
            stream,
            config,
            zmtp,
            frames: Frames::default(),
            input: Vec::new(),
            out,
            sealed: Vec::new(),
            written: 0,
        };
        link.flush()?;
        Ok(link)
    }

    /// Whether the handshake is through: messages may be sent.
    pub(super) fn is_ready(&self) -> bool {
        self.zmtp.is_ready()
    }

    /// Where frames to be sent are appended, whole messages.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Whether something could not be written yet.
    pub(super) fn is_behind(&self) -> bool {
        !self.out.is_empty() || !self.sealed.is_empty()
    }

    /// Reads what there is; each message goes to `on_message`, with the place for an answer.
    ///
    /// # Errors
    /// If the broker hangs up or breaks the protocol.
    pub(super) fn read(
        &mut self,
        mut on_message: impl FnMut(&[&[u8]], &mut Vec<u8>),
    ) -> io::Result<()> {
        let mut chunk = [0; CHUNK];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::Error::other("the broker closed a connection")),
                Ok(n) => {
                    self.input.extend_from_slice(&chunk[..n]);
                    self.consume(&mut on_message)?;
                    if n < CHUNK {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes as much as there is room for.
    ///
    /// # Errors
    /// If the broker is gone.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut out = &mut self.out;
        if self.zmtp.is_sealed() {
            self.zmtp.seal(out, &mut self.sealed);
            out.clear();
            out = &mut self.sealed;
        }
        while self.written < out.len() {
            match self.stream.write(&out[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        out.clear();
        self.written = 0;
        Ok(())
    }

    fn consume(&mut self, on_message: &mut impl FnMut(&[&[u8]], &mut Vec<u8>)) -> io::Result<()> {
        let broken = |error: zmtp::Error| io::Error::other(error.to_string());
        let mut start = 0;
        while start < self.input.len() {
            let bytes = &mut self.input[start..];
            let Link { config, zmtp, frames, out, .. } = self;
            let event = match zmtp.next(config, bytes, frames, out).map_err(broken)? {
                Step::More { .. } => break,
                Step::Skip { len, event } => {
                    start += len;
                    event
                }
                Step::Cut { len, event } => {
                    self.input.truncate(self.input.len() - len);
                    event
                }
                Step::Message { len } => {
                    let message = frames.view(&self.input[start..start + len]);
                    let mut parts: [&[u8]; FRAMES] = [&[]; FRAMES];
                    let count = message.len().min(FRAMES);
                    for (i, part) in parts[..count].iter_mut().enumerate() {
                        *part = message.frame(i).unwrap_or_default();
                    }
                    on_message(&parts[..count], out);
                    start += len;
                    None
                }
            };
            if event == Some(Event::Work) {
                let random = &mut |octets: &mut [u8]| {
                    getrandom::fill(octets).expect("the system has randomness once it has booted");
                };
                self.zmtp.work(&self.config, random, &mut self.out).map_err(broken)?;
            }
        }
        self.input.drain(..start);
        Ok(())
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Octets of one read.
const CHUNK: usize = 16 * 1024;
/// Frames of a message that are looked at; more than any that is expected.
const FRAMES: usize = 8;
