//! TLS below ZMTP, for listeners at `tls://`: nothing behind this file knows of it.
//!
//! ```text
//!  socket ─record─▶ Step ─▶ helper thread ─▶ Stepped ─▶ …     until the handshake is through
//!  socket ─sealed─▶ TlsStream ─plain─▶ reactor                from there on, at every read
//! ```
//!
//! TLS 1.3 only, and no resumption: our own peers keep their connections, so neither an older
//! version nor state that outlives a connection would pay for what it can be attacked with.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

/// Octets before each record: its type, a version, its length.
const HEADER: usize = 5;
/// The longest body of a record (RFC 8446, 5.2).
const RECORD_MAX: usize = (1 << 14) + 256;
/// Records of one handshake: a client's hello, a second one, a change of cipher for the sake of
/// middle boxes, and its last word, each in a few pieces at most.
const RECORDS_MAX: u8 = 16;
/// Octets of one handshake, all its records together. A hello with the largest of keys has two
/// thousand; more would be held for nobody.
const HANDSHAKE_MAX: usize = 16 * 1024;
/// Read from the socket at a time: a record of the longest kind, about.
const SEALED: usize = 16 * 1024;
/// Reads of the socket at a time: what they bring may be records without content.
const READS_MAX: u32 = 16;
/// Opened at a time into memory of a message's own.
const DIRECT_MAX: usize = 64 * 1024;

/// One connection.
pub(crate) struct TlsStream {
    tcp: TcpStream,
    state: State,
    /// The last read stopped before the socket had nothing more.
    has_more: bool,
    /// The peer said that nothing more comes.
    ended: bool,
}

enum State {
    /// The handshake's next record is being read; the other end of it may be at the helper thread.
    Shaking {
        session: Option<Box<ServerConnection>>,
        record: Vec<u8>,
        /// Records that came before, and their octets.
        records: u8,
        octets: usize,
    },
    Open(Box<ServerConnection>),
}

/// A record of a handshake, and the session that is to take it in.
pub(crate) struct Step {
    session: Box<ServerConnection>,
    record: Vec<u8>,
}

/// A session that took in a record, and what it says to it.
pub(crate) struct Stepped {
    session: Box<ServerConnection>,
    result: Result<(), rustls::Error>,
}

/// What came of reading a handshake.
pub(crate) enum Gathered {
    /// Nothing more is there for now.
    Waits,
    /// The step before is still being computed.
    Away,
    Step(Step),
    /// The peer left.
    Ended,
    /// This is no handshake of TLS, and why.
    Refused(String),
}

impl Step {
    /// Takes some time: a signature, a key exchange.
    pub(crate) fn run(self) -> Stepped {
        let Step { mut session, record } = self;
        let mut rest = &record[..];
        let mut result = Ok(());
        while !rest.is_empty() && result.is_ok() {
            result = match session.read_tls(&mut rest) {
                // After its goodbye nothing more is taken in.
                Ok(0) => Err(rustls::Error::HandshakeNotComplete),
                Ok(_) => session.process_new_packets().map(drop),
                Err(error) => Err(rustls::Error::General(error.to_string())),
            };
        }
        Stepped { session, result }
    }

    /// Whether the peer showed before that our answers reach it.
    pub(crate) fn is_urgent(&self) -> bool {
        self.session.negotiated_key_exchange_group().is_some()
    }
}

impl TlsStream {
    pub(crate) fn new(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream> {
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        let session = Some(Box::new(session));
        let state = State::Shaking { session, record: Vec::new(), records: 0, octets: 0 };
        Ok(TlsStream { tcp, state, has_more: false, ended: false })
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub(crate) fn tcp_mut(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    pub(crate) fn is_shaking(&self) -> bool {
        matches!(self.state, State::Shaking { .. })
    }

    /// Whether a read that came up short left something behind.
    pub(crate) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Reads the next record of the handshake and not an octet more: what a peer can make us hold
    /// is one record, and what is computed at a time as well.
    pub(crate) fn gather(&mut self) -> Gathered {
        let State::Shaking { session, record, records, octets } = &mut self.state else {
            return Gathered::Waits;
        };
        if session.is_none() {
            return Gathered::Away;
        }
        loop {
            let wanted = match record_len(record) {
                Ok(len) => len,
                Err(why) => return Gathered::Refused(why),
            };
            if *octets + wanted > HANDSHAKE_MAX {
                return Gathered::Refused(format!(
                    "a handshake of more than {HANDSHAKE_MAX} octets"
                ));
            }
            if record.len() == wanted {
                break;
            }
            let have = record.len();
            record.resize(wanted, 0);
            let read = self.tcp.read(&mut record[have..]);
            record.truncate(have + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Gathered::Ended,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Gathered::Waits,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Gathered::Ended,
            }
        }
        *octets += record.len();
        *records += 1;
        if *records > RECORDS_MAX {
            return Gathered::Refused(format!("a handshake of more than {RECORDS_MAX} records"));
        }
        match session.take() {
            Some(session) => Gathered::Step(Step { session, record: std::mem::take(record) }),
            None => Gathered::Away,
        }
    }

    /// Takes the session back.
    ///
    /// # Errors
    /// If it failed, says why; the alert that tells the peer is written by [`TlsStream::push`].
    pub(crate) fn take_back(&mut self, stepped: Stepped) -> Result<(), String> {
        let Stepped { session: back, result } = stepped;
        let through = result.is_ok() && !back.is_handshaking();
        match &mut self.state {
            _ if through => self.state = State::Open(back),
            State::Shaking { session, .. } => *session = Some(back),
            State::Open(_) => unreachable!("a session is given out by handshakes alone"),
        }
        result.map_err(|error| error.to_string())
    }

    fn session(&mut self) -> Option<&mut ServerConnection> {
        match &mut self.state {
            State::Shaking { session, .. } => session.as_deref_mut(),
            State::Open(session) => Some(session),
        }
    }

    /// Whether something was sealed and is not written.
    pub(crate) fn is_behind(&self) -> bool {
        match &self.state {
            State::Shaking { session, .. } => session.as_ref().is_some_and(|s| s.wants_write()),
            State::Open(session) => session.wants_write(),
        }
    }

    /// Writes what was sealed.
    pub(crate) fn push(&mut self) -> io::Result<()> {
        let tcp = &mut self.tcp;
        let session = match &mut self.state {
            State::Shaking { session, .. } => session.as_deref_mut(),
            State::Open(session) => Some(&mut **session),
        };
        let Some(session) = session else { return Ok(()) };
        while session.wants_write() {
            match session.write_tls(tcp) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Appends to the spare capacity of `to`.
    pub(crate) fn read_into(&mut self, to: &mut Vec<u8>) -> io::Result<usize> {
        let have = to.len();
        let room = to.capacity() - have;
        to.resize(have + room.min(DIRECT_MAX), 0);
        let read = self.read(&mut to[have..]);
        to.truncate(have + *read.as_ref().unwrap_or(&0));
        read
    }

    /// Takes leave, as far as that goes without waiting.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if let Some(session) = self.session() {
            session.send_close_notify();
        }
        // Whoever does not read does not hear it.
        let _ = self.push();
        self.tcp.shutdown(Shutdown::Write)
    }
}

impl Read for TlsStream {
    /// Opens what the socket has until `buf` is full: readiness is edge-triggered, so a read that
    /// comes up short must mean that nothing is left, or say so by [`TlsStream::has_more`].
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let State::Open(session) = &mut self.state else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        self.has_more = true;
        let mut sealed = [0; SEALED];
        let mut got = open(session, buf)?;
        if self.ended || got == buf.len() {
            return Ok(got);
        }
        for _ in 0..READS_MAX {
            // Plain text is shorter than what it was sealed in. So there is room for it, but for
            // what completes a record of which we hold the start, and a record the session keeps.
            let most = sealed.len().min(buf.len() - got);
            let mut rest = match self.tcp.read(&mut sealed[..most]) {
                Ok(0) => return Ok(got),
                Ok(n) => &sealed[..n],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && got > 0 => {
                    self.has_more = false;
                    return Ok(got);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.has_more = false;
                    return Err(error);
                }
            };
            let short = rest.len() < most;
            // What comes after a goodbye is not taken in, and not waited for.
            while !rest.is_empty() && !self.ended {
                session.read_tls(&mut rest)?;
                let state = session.process_new_packets().map_err(io::Error::other)?;
                got += open(session, &mut buf[got..])?;
                self.ended |= state.peer_has_closed();
            }
            if self.ended || got == buf.len() {
                return Ok(got);
            }
            if short && got > 0 {
                self.has_more = false;
                return Ok(got);
            }
        }
        if got == 0 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(got) }
    }
}

/// Takes what the session has opened.
fn open(session: &mut ServerConnection, buf: &mut [u8]) -> io::Result<usize> {
    match session.reader().read(buf) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

impl Write for TlsStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    /// What it took is sealed, and written as far as the socket takes it; the session keeps 64 KiB
    /// at most.
    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.push()?;
        let State::Open(session) = &mut self.state else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let taken = session.writer().write_vectored(pieces)?;
        match self.push() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Ok(()) | Err(_) => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long the record that begins so is, its header included: at least the header's length.
fn record_len(begun: &[u8]) -> Result<usize, String> {
    // 20 to 23 are all types of records there are.
    if begun.first().is_some_and(|kind| !(20..=23).contains(kind)) {
        let why = if begun[0] == 0xff { "it speaks ZMTP without TLS" } else { "this is no TLS" };
        return Err(why.into());
    }
    let &[_, _, _, high, low, ..] = begun else { return Ok(HEADER) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > RECORD_MAX {
        return Err(format!("a record of {len} octets, and the longest has {RECORD_MAX}"));
    }
    Ok(HEADER + len)
}

/// What listeners at `tls://` show who they are with: a chain of certificates, the broker's own
/// first, and its key, both in PEM.
///
/// # Errors
/// Which of the two cannot be used, and why.
pub(crate) fn server(chain: &[u8], key: &str) -> Result<Arc<ServerConfig>, (Part, String)> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| (Part::Chain, format!("is no PEM: {error}")))?;
    if chain.is_empty() {
        return Err((Part::Chain, "holds no certificate".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| (Part::Key, format!("holds no key in PEM: {error}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider knows TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| {
            if matches!(error, rustls::Error::InconsistentKeys(_)) {
                (Part::Key, "is not the key of the first certificate in tls_cert".into())
            } else if matches!(error, rustls::Error::InvalidCertificate(_)) {
                (Part::Chain, format!("cannot be used: {error}"))
            } else {
                (Part::Key, format!("cannot be used: {error}"))
            }
        })?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// One of the two files a broker shows who it is with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    Chain,
    Key,
}
