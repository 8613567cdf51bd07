//! What a peer speaks, worker or client, so that both protocols are answered by one code.

use alloc::vec::Vec;

use engine::RequestId;

use crate::mdp::{self, BrokerWord, Tag, Version};
use crate::ppp::{self, Letters};

/// Everything workers speak, as people see it.
pub const PROTOCOLS: [&str; 7] =
    ["mdp/0.1", "mdp/0.2", "ppp", "ppp/text", "stomp/1.0", "stomp/1.1", "stomp/1.2"];

/// How a worker speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tongue {
    Mdp {
        version: Version,
        /// It uses the empty delimiter.
        delimiter: bool,
    },
    Ppp(Letters),
}

impl Tongue {
    /// Everything of a request before its body.
    pub(crate) fn put_request_head(self, out: &mut Vec<u8>, request: RequestId) {
        match self {
            Tongue::Mdp { version, delimiter } => {
                mdp::put_request_head(out, version, delimiter, request);
            }
            Tongue::Ppp(_) => ppp::put_request_head(out, request),
        }
    }

    pub(crate) fn put_heartbeat(self, out: &mut Vec<u8>) {
        match self {
            Tongue::Mdp { version, delimiter } => {
                mdp::put_word(out, version, delimiter, BrokerWord::Heartbeat);
            }
            Tongue::Ppp(letters) => ppp::put_heartbeat(out, letters),
        }
    }

    /// A goodbye, where the protocol has a word for it.
    pub(crate) fn put_disconnect(self, out: &mut Vec<u8>) {
        match self {
            Tongue::Mdp { version, delimiter } => {
                mdp::put_word(out, version, delimiter, BrokerWord::Disconnect);
            }
            Tongue::Ppp(_) => {}
        }
    }

    /// What it is called where people see it: one of [`PROTOCOLS`].
    pub(crate) fn name(self) -> &'static str {
        PROTOCOLS[match self {
            Tongue::Mdp { version: Version::V01, .. } => 0,
            Tongue::Mdp { version: Version::V02, .. } => 1,
            Tongue::Ppp(Letters::Octets) => 2,
            Tongue::Ppp(Letters::Text) => 3,
        }]
    }
}

/// How whoever asked takes its answer: what the tag of a request says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Asker {
    Mdp(Tag),
    Ppp,
    /// With `waits`, the envelope says where the answer is for; else nobody waits for it.
    Stomp {
        waits: bool,
    },
}

impl Asker {
    /// Beyond all that [`Tag::pack`] uses.
    const PPP: u64 = 1 << 8;
    const STOMP: u64 = 1 << 9;
    const STOMP_WAITS: u64 = 1 << 9 | 1 << 10;

    pub(crate) fn pack(self) -> u64 {
        match self {
            Asker::Mdp(tag) => tag.pack(),
            Asker::Ppp => Asker::PPP,
            Asker::Stomp { waits: false } => Asker::STOMP,
            Asker::Stomp { waits: true } => Asker::STOMP_WAITS,
        }
    }

    pub(crate) fn unpack(tag: u64) -> Asker {
        match tag {
            Asker::PPP => Asker::Ppp,
            Asker::STOMP => Asker::Stomp { waits: false },
            Asker::STOMP_WAITS => Asker::Stomp { waits: true },
            _ => Asker::Mdp(Tag::unpack(tag)),
        }
    }

    /// Whether its protocol knows no partial replies.
    pub(crate) fn takes_only_whole(self) -> bool {
        match self {
            Asker::Mdp(tag) => tag.version == Version::V01,
            Asker::Ppp | Asker::Stomp { .. } => true,
        }
    }

    /// Everything of a reply before its body, on a ZMTP wire.
    pub(crate) fn put_reply_head(
        self,
        out: &mut Vec<u8>,
        envelope: &[u8],
        service: &[u8],
        last: bool,
    ) {
        match self {
            Asker::Mdp(tag) => mdp::put_reply_head(out, envelope, tag, service, last),
            Asker::Ppp => out.extend_from_slice(envelope),
            Asker::Stomp { .. } => debug_assert!(false, "STOMP's answers are written elsewhere"),
        }
    }
}
