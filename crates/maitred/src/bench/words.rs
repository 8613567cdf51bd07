//! What clients and workers say, frame by frame, in either protocol.

use zmtp::{put_frame, put_header};

/// A protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Words {
    /// MDP/0.1.
    Majordomo,
    /// RFC 6: the listener stands for the service.
    Pirate,
}

impl Words {
    /// A worker's READY, for so many requests at a time.
    pub(super) fn offer(self, out: &mut Vec<u8>, service: &[u8], each: u32) {
        match self {
            Words::Pirate => put_frame(out, false, b"\x01"),
            Words::Majordomo => {
                out.extend_from_slice(b"\x01\x00\x01\x06MDPW01\x01\x01\x01");
                put_frame(out, each > 1, service);
                if each > 1 {
                    put_frame(out, false, format!("concurrency={each}").as_bytes());
                }
            }
        }
    }

    /// A client's request.
    pub(super) fn ask(self, out: &mut Vec<u8>, service: &[u8], body: &[u8]) {
        out.extend_from_slice(b"\x01\x00");
        if self == Words::Majordomo {
            out.extend_from_slice(b"\x01\x06MDPC01");
            put_frame(out, true, service);
        }
        put_header(out, false, body.len());
        out.extend_from_slice(body);
    }

    /// The body of an answer to a client; `None` if this is none.
    pub(super) fn answer<'a>(self, service: &[u8], frames: &[&'a [u8]]) -> Option<&'a [u8]> {
        match (self, frames) {
            (Words::Majordomo, [b"", b"MDPC01", name, body]) if *name == service => Some(body),
            (Words::Pirate, [b"", body]) => Some(body),
            _ => None,
        }
    }

    /// What an echo worker says to that: its own body, or a heartbeat for one. `false` if it should
    /// not have come.
    pub(super) fn serve(self, out: &mut Vec<u8>, frames: &[&[u8]]) -> bool {
        match (self, frames) {
            // The reply takes over everything behind the command.
            (Words::Majordomo, [b"", b"MDPW01", b"\x02", client, b"", body]) => {
                out.extend_from_slice(b"\x01\x00\x01\x06MDPW01\x01\x01\x03");
                put_frame(out, true, client);
                out.extend_from_slice(b"\x01\x00");
                put_frame(out, false, body);
            }
            (Words::Majordomo, [b"", b"MDPW01", b"\x04"]) => {
                out.extend_from_slice(b"\x01\x00\x01\x06MDPW01\x00\x01\x04");
            }
            (Words::Pirate, [client, b"", body]) => {
                put_frame(out, true, client);
                out.extend_from_slice(b"\x01\x00");
                put_frame(out, false, body);
            }
            (Words::Pirate, [b"\x02"]) => put_frame(out, false, b"\x02"),
            _ => return false,
        }
        true
    }

    /// A worker's goodbye, where there is one.
    pub(super) fn leave(self, out: &mut Vec<u8>) {
        if self == Words::Majordomo {
            out.extend_from_slice(b"\x01\x00\x01\x06MDPW01\x00\x01\x05");
        }
    }
}
