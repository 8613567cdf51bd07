//! Heart-beats ("Heart-beating" in 1.1 and 1.2): the wish, what comes of two wishes, the deadlines.

use core::fmt;

use crate::error::Error;

/// The header `heart-beat`: what its sender can do and would like, milliseconds, 0 for not at all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HeartBeat {
    /// Its sender can send something this often.
    pub send_ms: u32,
    /// Its sender would like to get something this often.
    pub receive_ms: u32,
}

impl HeartBeat {
    /// Reads the header's value: two decimals and a comma. Spaces around them are forgiven; what is
    /// more than 49 days is taken for that.
    ///
    /// # Errors
    /// [`Error::BadHeader`].
    pub fn parse(value: &str) -> Result<HeartBeat, Error> {
        let number = |text: &str| {
            let text = text.trim_matches(' ');
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().unwrap_or(u32::MAX))
        };
        let parsed = value.split_once(',').and_then(|(send, receive)| {
            Some(HeartBeat { send_ms: number(send)?, receive_ms: number(receive)? })
        });
        parsed.ok_or(Error::BadHeader {
            what: "heart-beat takes two numbers of milliseconds, as in 10000,10000",
        })
    }

    /// What this side will do, given the wish of the other: each direction as often as the less
    /// eager side says, and not at all if either says 0.
    pub fn negotiate(self, other: HeartBeat) -> HeartBeat {
        let agree = |can: u32, wanted: u32| match (can, wanted) {
            (0, _) | (_, 0) => 0,
            _ => can.max(wanted),
        };
        HeartBeat {
            send_ms: agree(self.send_ms, other.receive_ms),
            receive_ms: agree(self.receive_ms, other.send_ms),
        }
    }
}

impl fmt::Display for HeartBeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.send_ms, self.receive_ms)
    }
}

/// The beats of one connection. All times are milliseconds of one clock of the caller's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Beats {
    agreed: HeartBeat,
    /// Silence that is forgiven, in hundredths of what was agreed.
    tolerance_percent: u32,
    /// When anything was last written to the peer.
    sent_ms: u64,
    /// When anything last came from the peer.
    heard_ms: u64,
}

/// What the time asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// Write an LF now, and say so with [`Beats::sent`].
    Beat,
    /// The peer is silent for too long: close. An ERROR would reach nobody.
    Dead,
}

impl Beats {
    /// Both sides have just been heard.
    pub fn new(agreed: HeartBeat, tolerance_percent: u32, now_ms: u64) -> Beats {
        Beats {
            agreed,
            tolerance_percent: tolerance_percent.max(100),
            sent_ms: now_ms,
            heard_ms: now_ms,
        }
    }

    /// Something, be it one octet, was written.
    #[inline]
    pub fn sent(&mut self, now_ms: u64) {
        self.sent_ms = now_ms;
    }

    /// Something, be it a part of a frame, came.
    #[inline]
    pub fn heard(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
    }

    /// When to ask [`due`](Beats::due) again, if ever.
    pub fn deadline_ms(&self) -> Option<u64> {
        let beat = (self.agreed.send_ms > 0).then(|| self.beat_ms());
        let dead = (self.agreed.receive_ms > 0).then(|| self.dead_ms());
        match (beat, dead) {
            (Some(beat), Some(dead)) => Some(beat.min(dead)),
            (one, other) => one.or(other),
        }
    }

    /// What is to be done at `now_ms`.
    pub fn due(&self, now_ms: u64) -> Due {
        if self.agreed.receive_ms > 0 && now_ms >= self.dead_ms() {
            return Due::Dead;
        }
        if self.agreed.send_ms > 0 && now_ms >= self.beat_ms() {
            return Due::Beat;
        }
        Due::Nothing
    }

    /// At two thirds of what was agreed, so that a beat may be late and still be in time.
    fn beat_ms(&self) -> u64 {
        let every = u64::from(self.agreed.send_ms);
        self.sent_ms.saturating_add((every - every / 3).max(1))
    }

    fn dead_ms(&self) -> u64 {
        let silence = u64::from(self.agreed.receive_ms) * u64::from(self.tolerance_percent) / 100;
        self.heard_ms.saturating_add(silence)
    }
}
