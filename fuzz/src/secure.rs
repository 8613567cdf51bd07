//! One side of a conversation under PLAIN or CURVE, whose chance is the same in each run.

use zmtp::{
    Config, Connection, Event, Frames, KeyPair, Limits, PublicKey, SecretKey, Security, SocketType,
    Step,
};

/// A mechanism.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// RFC 24.
    Plain,
    /// RFC 26.
    Curve,
}

/// One side.
pub struct Side {
    config: Config,
    connection: Connection,
    buf: Vec<u8>,
    out: Vec<u8>,
    heard: Vec<String>,
    over: bool,
}

fn keys(seed: u8) -> KeyPair {
    KeyPair::new(SecretKey::from_bytes([seed; 32]))
}

impl Side {
    /// Asks who the other one is, and believes it.
    pub fn server(kind: Kind) -> Side {
        Side::new(SocketType::Router, match kind {
            Kind::Plain => Security::PlainServer,
            Kind::Curve => Security::CurveServer(keys(1)),
        })
    }

    /// Says who it is.
    pub fn client(kind: Kind) -> Side {
        let server: PublicKey = *keys(1).public();
        Side::new(SocketType::Dealer, match kind {
            Kind::Plain => {
                let password = "tea for two".to_owned().into_boxed_str();
                Security::PlainClient { username: "ann".into(), password: password.into() }
            }
            Kind::Curve => Security::CurveClient { server, keys: keys(2) },
        })
    }

    fn new(socket_type: SocketType, security: Security) -> Side {
        let mut config = Config::new(socket_type);
        config.security = security;
        config.limits = Limits {
            frame_bytes_max: 1_000,
            frames_max: 8,
            message_bytes_max: 2_000,
            command_bytes_max: 1_000,
        };
        let mut out = Vec::new();
        let connection = Connection::new(&config, &mut out);
        Side { config, connection, buf: Vec::new(), out, heard: Vec::new(), over: false }
    }

    /// Takes in `bytes` in pieces that end at `cuts`, which ascend.
    ///
    /// # Panics
    /// If the connection breaks a promise its documentation makes.
    pub fn hear(&mut self, bytes: &[u8], cuts: &[usize]) {
        let mut fed = 0;
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            self.buf.extend_from_slice(&bytes[fed..cut]);
            fed = cut;
            while !self.over && self.next() {}
        }
    }

    fn next(&mut self) -> bool {
        let Side { config, connection, buf, out, heard, over } = self;
        let mut frames = Frames::default();
        let event = match connection.next(config, buf, &mut frames, out) {
            Ok(Step::More { need }) => {
                assert!(need > buf.len());
                return false;
            }
            Ok(Step::Skip { len, event }) => {
                buf.drain(..len);
                event
            }
            Ok(Step::Cut { len, event }) => {
                assert!(0 < len && len < buf.len());
                buf.truncate(buf.len() - len);
                event
            }
            Ok(Step::Message { len }) => {
                let message = frames.view(buf);
                assert_eq!(message.raw_from(0), &buf[..len]);
                heard.push(format!("{message:?}"));
                buf.drain(..len);
                return true;
            }
            Err(error) => {
                heard.push(format!("{error:?}"));
                *over = true;
                return false;
            }
        };
        let event = match event {
            Some(Event::Work) => connection.work(config, &mut |octets| octets.fill(0x5A), out),
            other => Ok(other),
        };
        match event {
            Ok(Some(Event::Claim)) => {
                heard.push(format!("{:?}", connection.claim()));
                heard.extend(connection.admit(config, out).map(|event| format!("{event:?}")));
            }
            Ok(event) => heard.extend(event.map(|event| format!("{event:?}"))),
            Err(error) => {
                heard.push(format!("{error:?}"));
                *over = true;
            }
        }
        true
    }

    /// What it has to say now.
    pub fn said(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Everything it heard.
    pub fn heard(&self) -> &[String] {
        &self.heard
    }

    /// Whether it is through.
    pub fn is_ready(&self) -> bool {
        self.connection.is_ready()
    }

    /// As many of `frames` as are whole and well-formed, as this side would send them.
    pub fn seal(&mut self, frames: &[u8]) -> Vec<u8> {
        let mut whole = 0;
        while let Some(len) = frame_len(&frames[whole..]) {
            whole += len;
        }
        if !self.connection.is_sealed() {
            return frames[..whole].to_vec();
        }
        let mut sealed = Vec::new();
        self.connection.seal(&frames[..whole], &mut sealed);
        sealed
    }
}

/// Length of the frame at the start of `bytes`, if it is whole and well-formed.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let &flags = bytes.first()?;
    if flags & !7 != 0 || flags & 5 == 5 {
        return None;
    }
    let (header, len) = match flags & 2 {
        0 => (2, u64::from(*bytes.get(1)?)),
        _ => (9, u64::from_be_bytes(bytes.get(1..9)?.try_into().ok()?)),
    };
    let end = usize::try_from(len).ok()?.checked_add(header)?;
    (end <= bytes.len()).then_some(end)
}
