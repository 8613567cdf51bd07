//! Bytes that wait to be written to one connection.
//!
//! Small pieces are appended to one buffer; a large body is kept as a reference and written from
//! the memory it was read into. An empty outbox owns no memory.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::{Buf, Bytes};
use engine::Blob;

use crate::LARGE_BODY;

/// A prefix of this many bytes that was already written is cut off.
const COMPACT_AT: usize = 64 * 1024;

/// Bytes that wait to be written.
#[derive(Debug, Default)]
pub struct Outbox {
    small: Vec<u8>,
    /// Bytes of `small` already written.
    sent: usize,
    /// Large pieces, each with the place in `small` before which it goes.
    large: VecDeque<(usize, Bytes)>,
    large_bytes: usize,
}

impl Outbox {
    /// Bytes not yet written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.small.len() - self.sent + self.large_bytes
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where small pieces are appended.
    pub(crate) fn small(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    /// Appends `bytes` by copy or, if large, by reference.
    pub(crate) fn push_shared(&mut self, bytes: &Bytes, from: usize) {
        if bytes.len() - from >= LARGE_BODY {
            self.push_large(bytes.slice(from..));
        } else {
            self.small.extend_from_slice(&bytes[from..]);
        }
    }

    /// Appends a body.
    pub(crate) fn push_blob(&mut self, blob: &Blob<'_>) {
        match blob {
            Blob::Slice(slice) => self.small.extend_from_slice(slice),
            Blob::Shared(bytes) => self.push_shared(bytes, 0),
        }
    }

    fn push_large(&mut self, bytes: Bytes) {
        self.large_bytes += bytes.len();
        self.large.push_back((self.small.len(), bytes));
    }

    /// All that waits, if it lies in one piece, as without large bodies it always does.
    #[must_use]
    pub fn only_piece(&self) -> Option<&[u8]> {
        self.large.is_empty().then(|| &self.small[self.sent..])
    }

    /// The first pieces to write, at most as many as `pieces` holds. Returns how many.
    pub fn pieces<'a>(&'a self, pieces: &mut [&'a [u8]]) -> usize {
        let mut count = 0;
        let mut at = self.sent;
        let mut put = |piece: &'a [u8]| {
            if !piece.is_empty() && count < pieces.len() {
                pieces[count] = piece;
                count += 1;
            }
        };
        for (place, bytes) in &self.large {
            put(&self.small[at..*place]);
            put(bytes);
            at = *place;
        }
        put(&self.small[at..]);
        count
    }

    /// Notes that the first `n` bytes were written.
    pub fn advance(&mut self, mut n: usize) {
        while n > 0 {
            let Some((place, bytes)) = self.large.front_mut() else {
                self.sent += n;
                break;
            };
            let before = (*place - self.sent).min(n);
            self.sent += before;
            n -= before;
            let part = bytes.len().min(n);
            bytes.advance(part);
            self.large_bytes -= part;
            n -= part;
            if *place == self.sent && bytes.is_empty() {
                self.large.pop_front();
            }
        }
        debug_assert!(self.sent <= self.small.len(), "more written than there was");
        if self.is_empty() {
            self.small.clear();
            self.sent = 0;
        } else if self.sent >= COMPACT_AT && self.sent * 2 >= self.small.len() {
            self.small.drain(..self.sent);
            for (place, _) in &mut self.large {
                *place -= self.sent;
            }
            self.sent = 0;
        }
    }

    /// Hands all that waits to `put`, piece by piece, and forgets it; each piece is a run of whole
    /// frames if nothing of this outbox was written yet.
    pub(crate) fn drain(&mut self, mut put: impl FnMut(&[u8])) {
        let mut at = self.sent;
        for (place, bytes) in self.large.drain(..) {
            put(&self.small[at..place]);
            put(&bytes);
            at = place;
        }
        put(&self.small[at..]);
        self.small.clear();
        (self.sent, self.large_bytes) = (0, 0);
    }

    /// Lends a buffer to an empty outbox, so that an idle connection need not own one.
    pub(crate) fn lend(&mut self, buffer: Vec<u8>) {
        if self.small.capacity() == 0 {
            self.small = buffer;
        }
    }

    /// Takes the buffer back once all is written.
    pub(crate) fn take_buffer(&mut self) -> Option<Vec<u8>> {
        if self.is_empty() && self.small.capacity() > 0 {
            self.large = VecDeque::new();
            return Some(core::mem::take(&mut self.small));
        }
        None
    }
}
