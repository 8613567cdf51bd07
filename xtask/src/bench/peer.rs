//! A blocking Majordomo peer of a few lines, for what the load generator has no words for.
//!
//! It announces ZMTP 3.0, so that nobody PINGs it and it may be silent for as long as it likes.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// One connection, of a client or a worker.
pub(super) struct Peer {
    input: BufReader<TcpStream>,
}

impl Peer {
    /// Connects and completes its half of the handshake; the broker's is read with the first
    /// message.
    pub(super) fn connect(address: &str) -> io::Result<Peer> {
        let mut input = BufReader::new(open(address)?);
        let mut greeting = [0; 64];
        input.read_exact(&mut greeting)?;
        Ok(Peer { input })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        self.input.get_ref()
    }

    /// Sends what [`request`] and its like wrote.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.input.get_mut().write_all(bytes)
    }

    /// The frames of the next message; commands are passed over.
    pub(super) fn receive(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        loop {
            let mut flags = [0];
            self.input.read_exact(&mut flags)?;
            let len = if flags[0] & LONG == 0 {
                let mut len = [0];
                self.input.read_exact(&mut len)?;
                u64::from(len[0])
            } else {
                let mut len = [0; 8];
                self.input.read_exact(&mut len)?;
                u64::from_be_bytes(len)
            };
            let mut payload = vec![0; usize::try_from(len).map_err(io::Error::other)?];
            self.input.read_exact(&mut payload)?;
            if flags[0] & COMMAND != 0 {
                continue;
            }
            frames.push(payload);
            if flags[0] & MORE == 0 {
                return Ok(frames);
            }
        }
    }

    /// As a worker: waits for a request, and says under which address to answer it. Heartbeats are
    /// passed over.
    pub(super) fn receive_request(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let frames = self.receive()?;
            if let [_, _, command, address, ..] = &frames[..]
                && command == b"\x02"
            {
                return Ok(address.clone());
            }
        }
    }

    /// As a client: what the broker answers to `question` about itself.
    pub(super) fn ask_broker(&mut self, question: &str, about: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        request(&mut bytes, question, about.as_bytes());
        self.send(&bytes)?;
        let answer = self.receive()?.pop().unwrap_or_default();
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// As a client: waits until a service has so many workers.
    pub(super) fn wait_for_workers(&mut self, service: &str, count: usize) -> io::Result<()> {
        let start = Instant::now();
        while self.ask_broker("mmi.workers", service)? != count.to_string() {
            if start.elapsed() > Duration::from_secs(30) {
                return Err(io::Error::other(format!("{service} never had {count} workers")));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }
}

/// A connection that says who it is and reads nothing.
pub(super) fn open(address: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut bytes = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 3, 0];
    bytes.extend_from_slice(b"NULL");
    bytes.resize(64, 0);
    bytes.extend_from_slice(b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER");
    stream.write_all(&bytes)?;
    Ok(stream)
}

/// Appends a client's request.
pub(super) fn request(out: &mut Vec<u8>, service: &str, body: &[u8]) {
    put(out, &[b"", b"MDPC01", service.as_bytes(), body]);
}

/// Appends a worker's READY.
pub(super) fn ready(out: &mut Vec<u8>, service: &str) {
    put(out, &[b"", b"MDPW01", b"\x01", service.as_bytes()]);
}

/// Appends a worker's reply.
pub(super) fn reply(out: &mut Vec<u8>, address: &[u8], body: &[u8]) {
    put(out, &[b"", b"MDPW01", b"\x03", address, b"", body]);
}

/// Appends a worker's DISCONNECT.
pub(super) fn disconnect(out: &mut Vec<u8>) {
    put(out, &[b"", b"MDPW01", b"\x05"]);
}

/// Frames of at most 255 octets.
fn put(out: &mut Vec<u8>, frames: &[&[u8]]) {
    for (i, frame) in frames.iter().enumerate() {
        out.push(if i + 1 < frames.len() { MORE } else { 0 });
        out.push(u8::try_from(frame.len()).expect("our own frames are short"));
        out.extend_from_slice(frame);
    }
}

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;
