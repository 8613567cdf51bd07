//! Majordomo and Paranoid Pirate as the peers of the simulation speak them: written from RFC 6, 7
//! and 18, on purpose not shared with the broker's own reading of them.

pub(crate) type Frames = Vec<Vec<u8>>;

/// How a peer speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Dialect {
    /// MDP/0.2 rather than MDP/0.1.
    pub(crate) v02: bool,
    /// An empty frame comes first. RFC 7 demands it, RFC 18 has none, some peers mix.
    pub(crate) delimiter: bool,
    /// Replies to its MDP/0.2 requests name the service.
    pub(crate) names_service: bool,
    /// Paranoid Pirate instead, with control words of octets or of text.
    pub(crate) pirate: Option<Letters>,
}

/// READY and HEARTBEAT of Paranoid Pirate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Letters {
    Octets,
    Text,
}

impl Letters {
    fn ready(self) -> Vec<u8> {
        match self {
            Letters::Octets => vec![1],
            Letters::Text => b"READY".to_vec(),
        }
    }

    fn heartbeat(self) -> Vec<u8> {
        match self {
            Letters::Octets => vec![2],
            Letters::Text => b"HEARTBEAT".to_vec(),
        }
    }
}

/// What a client hears.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct ClientReply {
    pub(crate) envelope: Frames,
    pub(crate) service: Option<Vec<u8>>,
    pub(crate) last: bool,
    pub(crate) body: Frames,
}

/// What a worker hears.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum WorkerHears {
    Request { token: Vec<u8>, body: Frames },
    Heartbeat,
    Disconnect,
}

/// What a worker says.
#[derive(Clone, Debug)]
pub(crate) enum WorkerSays<'a> {
    Ready { service: &'a [u8], options: &'a [&'a [u8]] },
    Reply { token: &'a [u8], body: Frames, last: bool, empty: bool },
    Heartbeat,
    Disconnect,
}

impl Dialect {
    fn client_header(self) -> &'static [u8] {
        if self.v02 { b"MDPC02" } else { b"MDPC01" }
    }

    fn worker_header(self) -> &'static [u8] {
        if self.v02 { b"MDPW02" } else { b"MDPW01" }
    }

    fn head(self) -> Frames {
        if self.delimiter { vec![Vec::new()] } else { Vec::new() }
    }

    /// A request. `envelope`: everything before the header.
    pub(crate) fn request(self, envelope: &Frames, service: &[u8], body: &Frames) -> Frames {
        let mut frames = envelope.clone();
        if self.pirate.is_some() {
            frames.extend(body.iter().cloned());
            return frames;
        }
        frames.push(self.client_header().to_vec());
        if self.v02 {
            frames.push(vec![1]);
        }
        frames.push(service.to_vec());
        frames.extend(body.iter().cloned());
        frames
    }

    /// Reads a reply; `None` if it is none.
    pub(crate) fn read_reply(self, mut frames: Frames) -> Option<ClientReply> {
        if self.pirate.is_some() {
            let empty = frames.iter().position(Vec::is_empty)?;
            let body = frames.split_off(empty + 1);
            let (service, last) = (None, true);
            return (!body.is_empty()).then_some(ClientReply {
                envelope: frames,
                service,
                last,
                body,
            });
        }
        let header = frames.iter().position(|frame| frame == self.client_header())?;
        let mut rest = frames.split_off(header).into_iter().skip(1);
        let last = if self.v02 {
            match rest.next()?.as_slice() {
                [2] => false,
                [3] => true,
                _ => return None,
            }
        } else {
            true
        };
        let service = if !self.v02 || self.names_service { Some(rest.next()?) } else { None };
        let body: Frames = rest.collect();
        (!body.is_empty()).then_some(ClientReply { envelope: frames, service, last, body })
    }

    pub(crate) fn say(self, word: WorkerSays<'_>) -> Frames {
        if let Some(letters) = self.pirate {
            return match word {
                WorkerSays::Ready { .. } => vec![letters.ready()],
                WorkerSays::Reply { token, body, empty, .. } => {
                    let mut frames = vec![token.to_vec()];
                    frames.extend(empty.then(Vec::new));
                    frames.extend(body);
                    frames
                }
                WorkerSays::Heartbeat => vec![letters.heartbeat()],
                WorkerSays::Disconnect => unreachable!("Paranoid Pirate has no goodbye"),
            };
        }
        let mut frames = self.head();
        frames.push(self.worker_header().to_vec());
        match word {
            WorkerSays::Ready { service, options } => {
                frames.push(vec![1]);
                frames.push(service.to_vec());
                frames.extend(options.iter().map(|option| option.to_vec()));
            }
            WorkerSays::Reply { token, body, last, empty } => {
                // RFC 7 has one REPLY; RFC 18 has PARTIAL (3) and FINAL (4).
                frames.push(vec![if self.v02 && last { 4 } else { 3 }]);
                frames.push(token.to_vec());
                if empty {
                    frames.push(Vec::new());
                }
                frames.extend(body);
            }
            WorkerSays::Heartbeat => frames.push(vec![if self.v02 { 5 } else { 4 }]),
            WorkerSays::Disconnect => frames.push(vec![if self.v02 { 6 } else { 5 }]),
        }
        frames
    }

    /// Reads the broker's word to a worker; `None` if it is none.
    pub(crate) fn hear(self, frames: Frames) -> Option<WorkerHears> {
        if let Some(letters) = self.pirate {
            if frames.len() == 1 {
                return (frames[0] == letters.heartbeat()).then_some(WorkerHears::Heartbeat);
            }
            let mut rest = frames.into_iter();
            let (token, empty) = (rest.next()?, rest.next()?);
            let body: Frames = rest.collect();
            let whole = empty.is_empty() && !body.is_empty();
            return whole.then_some(WorkerHears::Request { token, body });
        }
        let mut rest = frames.into_iter();
        if self.delimiter && !rest.next()?.is_empty() {
            return None;
        }
        if rest.next()? != self.worker_header() {
            return None;
        }
        let command = rest.next()?;
        let (heartbeat, disconnect) = if self.v02 { ([5], [6]) } else { ([4], [5]) };
        if command == [2] {
            let token = rest.next()?;
            // RFC 7: one address frame, then an empty one.
            if !rest.next()?.is_empty() {
                return None;
            }
            let body: Frames = rest.collect();
            return (!body.is_empty()).then_some(WorkerHears::Request { token, body });
        }
        let word = if command == heartbeat {
            WorkerHears::Heartbeat
        } else if command == disconnect {
            WorkerHears::Disconnect
        } else {
            return None;
        };
        rest.next().is_none().then_some(word)
    }
}
