//! The far end of a connection, by hand: it writes and reads ZMTP without the room under test.

use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

/// What a peer hears.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Heard {
    Greeting,
    Command(Vec<u8>),
    Message(Vec<Vec<u8>>),
    /// A frame of STOMP: its command and headers, and its body.
    Frame(Vec<String>, Vec<u8>),
    /// STOMP's sign of life.
    Beat,
}

/// Reads what the broker writes.
#[derive(Debug, Default)]
pub(super) struct Ear {
    bytes: Vec<u8>,
    greeted: bool,
    frames: Vec<Vec<u8>>,
    /// It hears STOMP.
    pub(super) is_stomp: bool,
}

impl Ear {
    /// Takes in bytes and says what they complete.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Vec<Heard> {
        self.bytes.extend_from_slice(bytes);
        let mut heard = Vec::new();
        if self.is_stomp {
            self.hear_stomp(&mut heard);
            return heard;
        }
        if !self.greeted && self.bytes.len() >= 64 {
            assert_eq!((self.bytes[0], self.bytes[9], self.bytes[10]), (0xFF, 0x7F, 3));
            self.bytes.drain(..64);
            self.greeted = true;
            heard.push(Heard::Greeting);
        }
        while self.greeted && self.bytes.len() >= 2 {
            let flags = self.bytes[0];
            assert_eq!(flags & !7, 0, "flags of the broker");
            let (start, len) = if flags & 2 == 0 {
                (2, usize::from(self.bytes[1]))
            } else if let Some(len) = self.bytes.get(1..9) {
                (9, u64::from_be_bytes(len.try_into().expect("eight octets")) as usize)
            } else {
                break;
            };
            let Some(payload) = self.bytes.get(start..start + len).map(<[u8]>::to_vec) else {
                break;
            };
            self.bytes.drain(..start + len);
            if flags & 4 != 0 {
                heard.push(Heard::Command(payload));
            } else {
                self.frames.push(payload);
                if flags & 1 == 0 {
                    heard.push(Heard::Message(core::mem::take(&mut self.frames)));
                }
            }
        }
        heard
    }

    fn hear_stomp(&mut self, heard: &mut Vec<Heard>) {
        loop {
            if self.bytes.first() == Some(&b'\n') {
                self.bytes.remove(0);
                heard.push(Heard::Beat);
                continue;
            }
            let Some(blank) = self.bytes.windows(2).position(|pair| pair == b"\n\n") else {
                return;
            };
            let head = String::from_utf8(self.bytes[..blank].to_vec()).expect("UTF-8");
            let lines: Vec<String> = head.split('\n').map(String::from).collect();
            let length = lines.iter().find_map(|line| line.strip_prefix("content-length:"));
            let start = blank + 2;
            let length: usize = length.map_or(0, |digits| digits.parse().expect("a number"));
            if self.bytes.len() <= start + length {
                return;
            }
            let body = self.bytes[start..start + length].to_vec();
            assert_eq!(self.bytes[start + length], 0, "a frame ends in NUL");
            self.bytes.drain(..=start + length);
            heard.push(Heard::Frame(lines, body));
        }
    }

    /// Whether everything so far was whole.
    pub(super) fn is_idle(&self) -> bool {
        self.bytes.is_empty() && self.frames.is_empty()
    }
}

/// A greeting of version 3.`minor` with NULL.
pub(super) fn greeting(minor: u8) -> Vec<u8> {
    let mut greeting = vec![0u8; 64];
    greeting[0] = 0xFF;
    greeting[9] = 0x7F;
    greeting[10..12].copy_from_slice(&[3, minor]);
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// READY of a socket type.
pub(super) fn ready(socket_type: &str) -> Vec<u8> {
    let mut body = b"\x0bSocket-Type\0\0\0".to_vec();
    body.push(socket_type.len() as u8);
    body.extend_from_slice(socket_type.as_bytes());
    command("READY", &body)
}

/// A command.
pub(super) fn command(name: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![4, (1 + name.len() + data.len()) as u8, name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A message.
pub(super) fn message<F: AsRef<[u8]>>(frames: &[F]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (i, frame) in frames.iter().enumerate() {
        let (frame, more) = (frame.as_ref(), u8::from(i + 1 < frames.len()));
        if let Ok(len) = u8::try_from(frame.len()) {
            bytes.extend_from_slice(&[more, len]);
        } else {
            bytes.push(more | 2);
            bytes.extend_from_slice(&(frame.len() as u64).to_be_bytes());
        }
        bytes.extend_from_slice(frame);
    }
    bytes
}

/// A frame as text: quoted if it can be read, else in hexadecimal; runs are shortened.
pub(super) fn show(frame: &[u8]) -> String {
    let run = frame.first().is_some_and(|first| frame.iter().all(|octet| octet == first));
    let readable = |octet: &u8| matches!(octet, b' '..=b'~') && *octet != b'"';
    if frame.is_empty() {
        "\"\"".into()
    } else if run && frame.len() > 40 && readable(&frame[0]) {
        format!("\"{}\"*{}", char::from(frame[0]), frame.len())
    } else if frame.iter().all(readable) {
        format!("\"{}\"", String::from_utf8_lossy(frame))
    } else {
        frame.iter().map(|octet| format!("{octet:02x}")).collect()
    }
}
