//! Majordomo as the peers of the simulation speak it: written from RFC 7 and RFC 18, on purpose not
//! shared with the broker's own reading of them.

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
