//! Tests speak data through one `check`.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::connection::{Config, Connection, Event, Step};
use crate::error::Error;
use crate::frame::{Frames, put_command, put_frame, put_ping};
use crate::socket_type::SocketType;

mod cases;

/// What a whole conversation came to, however its bytes were cut.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Heard {
    items: Vec<Item>,
    /// Everything written to the peer, greeting included.
    out: Vec<u8>,
    /// What was neither consumed nor refused.
    left: Vec<u8>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Item {
    Event(Event),
    Message(Vec<Vec<u8>>),
    Refused(Error),
}

/// Feeds `bytes` to a new connection in pieces that end at `cuts`, and drains it after each piece.
fn hear(config: &Config, bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> Heard {
    let mut out = Vec::new();
    let mut connection = Connection::new(config, &mut out);
    let (mut buf, mut frames, mut items) = (Vec::new(), Frames::default(), Vec::new());
    let mut fed = 0;
    for cut in cuts.into_iter().chain([bytes.len()]) {
        buf.extend_from_slice(&bytes[fed..cut]);
        fed = cut;
        loop {
            match connection.next(config, &mut buf, &mut frames, &mut out) {
                Ok(Step::More { need }) => {
                    assert!(need > buf.len(), "need {need} of {}", buf.len());
                    break;
                }
                Ok(Step::Skip { len, event }) => {
                    items.extend(event.map(Item::Event));
                    buf.drain(..len);
                }
                Ok(Step::Cut { len, event }) => {
                    items.extend(event.map(Item::Event));
                    buf.truncate(buf.len() - len);
                }
                Ok(Step::Message { len }) => {
                    let message = frames.view(&buf);
                    assert_eq!(message.raw_from(0), &buf[..len]);
                    let frames = (0..message.len()).map(|i| message.frame(i).unwrap().to_vec());
                    items.push(Item::Message(frames.collect()));
                    buf.drain(..len);
                }
                Err(error) => {
                    items.push(Item::Refused(error));
                    return Heard { items, out, left: Vec::new() };
                }
            }
        }
    }
    Heard { items, out, left: buf }
}
