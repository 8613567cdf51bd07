//! Connections that were told why they end.
//!
//! A socket that is closed while something in it was not read is reset, and whoever is still
//! talking may lose the last words that were written to it. So these are listened to, and not
//! heard, until they stop or a moment has passed.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::transport::Stream;

/// How long whoever was told goodbye may go on talking.
const MOMENT: Duration = Duration::from_secs(1);
/// Between two looks at them.
const EVERY: Duration = Duration::from_millis(10);
/// At a time; whoever comes then is hung up on as it is.
const MOST: usize = 256;
/// Reads of one of them at one look.
const READS: usize = 8;

/// Sockets that are only read any more.
#[derive(Default)]
pub(crate) struct Goodbyes {
    streams: Vec<(Instant, Stream)>,
    /// When to look again.
    next: Option<Instant>,
}

impl Goodbyes {
    /// Takes in a socket whose writing side was finished.
    pub(crate) fn add(&mut self, stream: Stream) {
        if self.streams.len() < MOST {
            let now = Instant::now();
            self.streams.push((now + MOMENT, stream));
            self.next.get_or_insert(now);
        }
    }

    /// When to [`listen`](Goodbyes::listen) next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Reads what they say if it is time to.
    pub(crate) fn listen(&mut self, scratch: &mut [u8]) {
        let now = Instant::now();
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        self.streams.retain_mut(|(until, stream)| now < *until && goes_on(stream, scratch));
        self.next = (!self.streams.is_empty()).then(|| now + EVERY);
    }
}

/// Whether it may say more.
fn goes_on(stream: &mut Stream, scratch: &mut [u8]) -> bool {
    for _ in 0..READS {
        match stream.read(scratch) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}
