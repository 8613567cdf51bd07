//! Messages and commands of a DEALER, written and read again in arbitrary cuts, come out as they
//! went in.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use maitred_fuzz::{Item, cuts, hear};
use zmtp::{Config, Connection, Event, Frames, SocketType, Step, put_frame, put_ping};

/// One conversation.
#[derive(Arbitrary, Debug)]
struct Conversation {
    identity: Vec<u8>,
    cuts: [u8; 6],
    acts: Vec<Act>,
}

/// What the DEALER does.
#[derive(Arbitrary, Debug)]
enum Act {
    /// One frame after the other, a PING before each marked one.
    Message {
        first: Vec<u8>,
        rest: Vec<(bool, Payload)>,
    },
    Ping {
        ttl_deciseconds: u16,
        context: [u8; 16],
        context_bytes: u8,
    },
}

/// A short payload as it is, or a long one of one octet.
#[derive(Arbitrary, Debug)]
enum Payload {
    Short(Vec<u8>),
    Long(u8, u16),
}

/// Octets of one conversation: a payload of four octets of input can mean 64 KiB.
const BYTES_MAX: usize = 1 << 20;

fuzz_target!(|conversation: Conversation| {
    let Conversation { mut identity, cuts: fractions, acts } = conversation;
    identity.truncate(255);
    let identity = identity.into_boxed_slice();
    if !zmtp::valid_identity(&identity) {
        return;
    }
    let router = Config::new(SocketType::Router);
    let mut dealer = Config::new(SocketType::Dealer);
    dealer.identity = Some(identity);

    let mut bytes = opening(&dealer, &router);
    let mut expected = vec![Item::Event(Event::Ready)];
    for act in acts {
        if bytes.len() > BYTES_MAX {
            break;
        }
        put(act, &mut bytes, &mut expected);
    }
    let heard = hear(&router, &bytes, cuts(&fractions, bytes.len()));
    assert_eq!(heard.items, expected);
    assert_eq!(heard.left, b"");
});

/// What `ours` writes to a greeting of `theirs`.
fn opening(ours: &Config, theirs: &Config) -> Vec<u8> {
    let [mut out, mut greeting] = [Vec::new(), Vec::new()];
    Connection::new(theirs, &mut greeting);
    let mut connection = Connection::new(ours, &mut out);
    let step = connection.next(ours, &mut greeting, &mut Frames::default(), &mut out);
    assert_eq!(step, Ok(Step::Skip { len: 64, event: None }));
    out
}

fn put(act: Act, out: &mut Vec<u8>, expected: &mut Vec<Item>) {
    match act {
        Act::Message { first, mut rest } => {
            // More commands than this inside one message are refused.
            rest.truncate(64);
            let mut frames = vec![first];
            put_frame(out, !rest.is_empty(), &frames[0]);
            let count = rest.len();
            for (i, (pinged, payload)) in rest.into_iter().enumerate() {
                if pinged {
                    put_ping(out, 1, b"between");
                    expected.push(Item::Event(Event::Ping { ttl_deciseconds: 1 }));
                }
                let payload = match payload {
                    Payload::Short(payload) => payload,
                    Payload::Long(octet, len) => vec![octet; usize::from(len)],
                };
                put_frame(out, i + 1 < count, &payload);
                frames.push(payload);
            }
            expected.push(Item::Message(frames));
        }
        Act::Ping { ttl_deciseconds, context, context_bytes } => {
            put_ping(out, ttl_deciseconds, &context[..usize::from(context_bytes % 17)]);
            expected.push(Item::Event(Event::Ping { ttl_deciseconds }));
        }
    }
}
