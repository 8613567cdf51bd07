//! What the targets share: one side of a ZMTP conversation, driven the way the shell drives it.

pub mod house;
pub mod secure;

use zmtp::{Config, Connection, Error, Event, Frames, Limits, Step};

/// Everything that came of a conversation.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Heard {
    /// In order.
    pub items: Vec<Item>,
    /// Everything written to the peer, our greeting included.
    pub out: Vec<u8>,
    /// Received, but neither consumed nor refused.
    pub left: Vec<u8>,
}

/// One thing that came of a conversation.
#[derive(Debug, Eq, PartialEq)]
pub enum Item {
    /// Beside messages.
    Event(Event),
    /// The payloads of its frames.
    Message(Vec<Vec<u8>>),
    /// The end.
    Refused(Error),
}

/// Feeds `bytes` to a new connection in pieces that end at `cuts`, which must ascend; drains it
/// after each.
///
/// # Panics
/// If the connection breaks a promise its documentation makes.
pub fn hear(config: &Config, bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> Heard {
    let mut heard = Heard::default();
    let mut connection = Connection::new(config, &mut heard.out);
    let mut frames = Frames::default();
    let mut fed = 0;
    for cut in cuts.into_iter().chain([bytes.len()]) {
        heard.left.extend_from_slice(&bytes[fed..cut]);
        fed = cut;
        loop {
            let buf = &mut heard.left;
            match connection.next(config, buf, &mut frames, &mut heard.out) {
                Ok(Step::More { need }) => {
                    assert!(need > buf.len());
                    assert!(need as u64 <= need_max(&config.limits));
                    break;
                }
                Ok(Step::Skip { len, event }) => {
                    heard.items.extend(event.map(Item::Event));
                    drop(buf.drain(..len));
                }
                Ok(Step::Cut { len, event }) => {
                    heard.items.extend(event.map(Item::Event));
                    assert!(0 < len && len < buf.len());
                    buf.truncate(buf.len() - len);
                }
                Ok(Step::Message { len }) => {
                    let message = frames.view(buf);
                    assert!(!message.is_empty());
                    assert_eq!(message.raw_from(0), &buf[..len]);
                    let payloads = (0..message.len()).map(|i| message.frame(i).unwrap().to_vec());
                    let payloads: Vec<_> = payloads.collect();
                    let raw = zmtp::raw_frames(&buf[..len]);
                    assert!(raw.map(|(_, payload)| payload).eq(&payloads));
                    heard.items.push(Item::Message(payloads));
                    drop(buf.drain(..len));
                }
                Err(error) => {
                    heard.items.push(Item::Refused(error));
                    buf.clear();
                    return heard;
                }
            }
        }
    }
    heard
}

/// Ascending places to cut `len` octets at, in 256ths.
pub fn cuts(fractions: &[u8], len: usize) -> Vec<usize> {
    let mut cuts: Vec<_> = fractions.iter().map(|&f| usize::from(f) * len / 256).collect();
    cuts.sort_unstable();
    cuts
}

/// The most a connection may ask for: a whole message with long headers, and a command in its
/// middle.
fn need_max(limits: &Limits) -> u64 {
    let message = limits.message_bytes_max.saturating_add(9 * u64::from(limits.frames_max));
    message.saturating_add(9 + u64::from(limits.command_bytes_max)).max(64)
}
