//! A network made up: byte streams that are cut anywhere, delayed, filled up, reset or silent.

use std::collections::VecDeque;

use engine::{ConnId, Span, Time};

use crate::rng::Rng;

/// Who reads a pipe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// From the peer to the broker.
    Up,
    /// From the broker to the peer.
    Down,
}

/// How well the network behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Longest delay of a piece.
    pub(crate) delay_max: Span,
    /// Percent of writes that are cut into pieces.
    pub(crate) cut_percent: u64,
    /// Octets a pipe holds before its writer must wait.
    pub(crate) capacity: usize,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    bytes: VecDeque<u8>,
    /// Octets at the front that have arrived.
    arrived: usize,
    /// When the last piece written so far arrives.
    last: Option<Time>,
    /// Octets its reader took.
    pub(crate) read: u64,
    /// Nothing comes after what is in it.
    pub(crate) ended: bool,
}

impl Pipe {
    pub(crate) fn room(&self, weather: &Weather) -> usize {
        weather.capacity.saturating_sub(self.bytes.len())
    }

    /// Takes in `bytes`. Says when how many of them arrive.
    pub(crate) fn write(
        &mut self,
        now: Time,
        bytes: &[u8],
        weather: &Weather,
        rng: &mut Rng,
    ) -> Vec<(Time, usize)> {
        self.bytes.extend(bytes);
        let mut pieces = Vec::new();
        let mut left = bytes.len();
        while left > 0 {
            let cut = pieces.len() < 6 && rng.chance(weather.cut_percent);
            let piece = if cut { 1 + rng.skewed(left as u64 - 1) as usize } else { left };
            left -= piece;
            pieces.push((self.next_arrival(now, weather, rng), piece));
        }
        pieces
    }

    /// When something written now arrives: never before what was written earlier.
    pub(crate) fn next_arrival(&mut self, now: Time, weather: &Weather, rng: &mut Rng) -> Time {
        let delay = 1_000 + rng.skewed(weather.delay_max.as_nanos() as u64) as i64;
        let at = (now + Span::from_nanos(delay)).max(self.last.unwrap_or(now));
        self.last = Some(at);
        at
    }

    pub(crate) fn arrive(&mut self, octets: usize) {
        self.arrived = (self.arrived + octets).min(self.bytes.len());
    }

    pub(crate) fn readable(&self) -> usize {
        self.arrived
    }

    /// Whether all that was written has been read.
    pub(crate) fn is_drained(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether all that was written has arrived.
    pub(crate) fn has_arrived(&self) -> bool {
        self.arrived == self.bytes.len()
    }

    pub(crate) fn take(&mut self, octets: usize) -> Vec<u8> {
        let octets = octets.min(self.arrived);
        self.arrived -= octets;
        self.read += octets as u64;
        self.bytes.drain(..octets).collect()
    }

    /// Everything under way is lost.
    pub(crate) fn lose(&mut self) {
        self.bytes.clear();
        self.arrived = 0;
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: usize,
    pub(crate) shard: usize,
    /// Its id in the shard.
    pub(crate) id: ConnId,
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    /// Nothing arrives any more in either direction, and nobody is told.
    pub(crate) silent: bool,
    /// The shard was told that it ended.
    pub(crate) broker_done: bool,
    /// The peer knows that it ended.
    pub(crate) peer_done: bool,
    /// The service for which the broker may count it as a worker.
    pub(crate) may_serve: Option<usize>,
    /// Octet of `up` behind which its worker has left.
    pub(crate) leaves_at: Option<u64>,
}
