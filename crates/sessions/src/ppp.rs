//! The words of Paranoid Pirate (RFC 6/PPP), read and written.
//!
//! Nothing in PPP says what a message is but its place and its length: what a worker says is a
//! control word if it has one frame, and a reply if it has more. The text has octets for control
//! words; the examples in Lua, C++, PHP, Tcl and C# have the words themselves. Which of the two a
//! worker speaks shows in its READY, and it is answered in kind.
//!
//! Accepted beyond the text: a reply without the empty frame behind the address; bodies of no frame
//! (given on as one empty frame); control words of the other dialect.

use alloc::vec::Vec;

use engine::RequestId;
use zmtp::Message;

use crate::mdp::{STACK_MAX, TOKEN_BYTES, read_token, token};

/// How a worker writes READY and HEARTBEAT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Letters {
    /// 0x01 and 0x02, as RFC 6 says.
    Octets,
    /// `READY` and `HEARTBEAT`.
    Text,
}

/// What a worker says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Word {
    /// It is idle, and begins a conversation.
    Ready(Letters),
    Heartbeat,
    /// It answers, and is idle again; the body is frames `body..`.
    Reply {
        /// `None` if the address is none of ours.
        request: Option<RequestId>,
        body: usize,
    },
    /// Nothing that makes sense, and why.
    Garbage(&'static str),
}

/// Reads what came in at a back end.
pub(crate) fn read(message: &Message<'_>) -> Word {
    match (message.len(), message.frame(0)) {
        (1, Some([0x01])) => Word::Ready(Letters::Octets),
        (1, Some(b"READY")) => Word::Ready(Letters::Text),
        (1, Some([0x02] | b"HEARTBEAT")) => Word::Heartbeat,
        (1, _) => Word::Garbage("one frame that is neither READY nor HEARTBEAT"),
        (_, address) => {
            let delimiter = usize::from(message.frame(1).is_some_and(<[u8]>::is_empty));
            Word::Reply { request: address.and_then(read_token), body: 1 + delimiter }
        }
    }
}

/// Where in a client's message the body starts: behind the first empty frame, which a REQ socket
/// puts there. What stands before it is a return stack, and is given back as it came.
pub(crate) fn body_of(message: &Message<'_>) -> Option<usize> {
    let delimiter = (0..=STACK_MAX).find(|i| message.frame(*i).is_some_and(<[u8]>::is_empty));
    delimiter.map(|delimiter| delimiter + 1)
}

/// Everything of a request to a worker before its body.
pub(crate) fn put_request_head(out: &mut Vec<u8>, request: RequestId) {
    let mut head = *b"\x01\x12r:0000000000000000\x01\x00";
    head[2..2 + TOKEN_BYTES].copy_from_slice(&token(request));
    out.extend_from_slice(&head);
}

/// The queue's HEARTBEAT to a worker.
pub(crate) fn put_heartbeat(out: &mut Vec<u8>, letters: Letters) {
    out.extend_from_slice(match letters {
        Letters::Octets => b"\x00\x01\x02",
        Letters::Text => b"\x00\x09HEARTBEAT",
    });
}
