//! Paranoid Pirate's words (RFC 6), as a client and a worker say and hear them.
//!
//! There is no header and no service name: an endpoint stands for a service, a message of one frame
//! to or from a worker is a control word, and everything else is a stack of addresses, an empty
//! frame, and a body.

use zmtp::put_frame;

use crate::mdp::{Command, Part, ReplyHead};

const READY: u8 = 0x01;
const HEARTBEAT: u8 = 0x02;

/// Frames of a stack of addresses, at most.
const STACK_MAX: usize = 8;

/// Writes everything of a request before its body.
pub(crate) fn put_request_head(out: &mut Vec<u8>, id: Option<u64>) {
    if let Some(id) = id {
        put_frame(out, true, &id.to_be_bytes());
    }
    put_frame(out, true, b"");
}

/// Reads a reply's envelope; `None` if it is none.
pub(crate) fn read_reply(message: zmtp::Message<'_>) -> Option<ReplyHead> {
    let delimiter = delimiter_of(message)?;
    let id = match delimiter {
        0 => None,
        _ => message.frame(0)?.try_into().ok().map(u64::from_be_bytes),
    };
    Some(ReplyHead { id, part: Part::Final, body_from: delimiter + 1 })
}

pub(crate) fn put_ready(out: &mut Vec<u8>) {
    put_frame(out, false, &[READY]);
}

pub(crate) fn put_heartbeat(out: &mut Vec<u8>) {
    put_frame(out, false, &[HEARTBEAT]);
}

/// Reads what a queue tells a worker; `None` if it is no such thing. The client is the whole stack
/// of addresses, with the empty frame, as it stands on the wire: queues that are not ours put
/// several there.
pub(crate) fn read_command(message: zmtp::Message<'_>) -> Option<Command<'_>> {
    if message.len() == 1 {
        let word = message.frame(0)?;
        return (word == [HEARTBEAT] || word == b"HEARTBEAT").then_some(Command::Heartbeat);
    }
    let body_from = delimiter_of(message)? + 1;
    Some(Command::Request { client: message.raw_between(0, body_from), body_from })
}

fn delimiter_of(message: zmtp::Message<'_>) -> Option<usize> {
    (0..=STACK_MAX).find(|&i| message.frame(i).is_some_and(<[u8]>::is_empty))
}
