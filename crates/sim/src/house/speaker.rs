//! The ZMTP side of a peer: a `DEALER` or `REQ` socket's worth of protocol and nothing more.

use zmtp::{Config, Connection, Frames as Scratch, SocketType, Step, put_frame};

use super::words::Frames;

/// Octet of a greeting that holds the minor version.
const MINOR: usize = 11;

#[derive(Debug)]
pub(crate) struct Speaker {
    config: Config,
    zmtp: Connection,
    scratch: Scratch,
    inbox: Vec<u8>,
    /// Octets to write.
    pub(crate) out: Vec<u8>,
    /// Octets that were ever put into `out`.
    pub(crate) said: u64,
    /// Messages that wait for the end of the handshake.
    early: Vec<Frames>,
}

impl Speaker {
    /// `old`: announces ZMTP 3.0, which knows no PING.
    pub(crate) fn new(socket_type: SocketType, old: bool) -> Speaker {
        let config = Config::new(socket_type);
        let mut out = Vec::new();
        let zmtp = Connection::new(&config, &mut out);
        if old {
            out[MINOR] = 0;
        }
        let said = out.len() as u64;
        let (scratch, inbox, early) = Default::default();
        Speaker { config, zmtp, scratch, inbox, out, said, early }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.zmtp.is_ready()
    }

    /// Says a message as soon as it may. Returns the octet of the stream at which it ends, if it is
    /// out already.
    pub(crate) fn say(&mut self, frames: Frames) -> Option<u64> {
        if !self.zmtp.is_ready() {
            self.early.push(frames);
            return None;
        }
        let before = self.out.len();
        put_message(&mut self.out, &frames);
        self.said += (self.out.len() - before) as u64;
        Some(self.said)
    }

    /// Says octets that need not make sense.
    pub(crate) fn babble(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.said += bytes.len() as u64;
    }

    /// Takes in octets. Returns whole messages, and whether the other side broke the protocol or
    /// said that this one did.
    pub(crate) fn hear(&mut self, bytes: &[u8]) -> (Vec<Frames>, bool) {
        self.inbox.extend_from_slice(bytes);
        let mut messages = Vec::new();
        let before = self.out.len();
        let mut broken = false;
        loop {
            let step =
                self.zmtp.next(&self.config, &mut self.inbox, &mut self.scratch, &mut self.out);
            match step {
                Ok(Step::More { .. }) => break,
                Ok(Step::Skip { len, .. }) => drop(self.inbox.drain(..len)),
                Ok(Step::Cut { len, .. }) => self.inbox.truncate(self.inbox.len() - len),
                Ok(Step::Message { len }) => {
                    let view = self.scratch.view(&self.inbox);
                    let frames = (0..view.len()).filter_map(|i| view.frame(i));
                    messages.push(frames.map(<[u8]>::to_vec).collect());
                    self.inbox.drain(..len);
                }
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        self.said += (self.out.len() - before) as u64;
        if self.zmtp.is_ready() {
            for frames in std::mem::take(&mut self.early) {
                self.say(frames);
            }
        }
        (messages, broken)
    }
}

/// A message as it stands on the wire.
pub(crate) fn put_message(out: &mut Vec<u8>, frames: &Frames) {
    for (i, frame) in frames.iter().enumerate() {
        put_frame(out, i + 1 < frames.len(), frame);
    }
}
