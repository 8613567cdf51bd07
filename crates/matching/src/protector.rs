//! A gate before a broker: refuses newcomers before they cost anything.
//!
//! It counts attempts between two samples of a [`PieMeter`](crate::PieMeter) and refuses by chance
//! with the probability the meter published, as `sprotector` does (specification sheet, section
//! 2.10). Fixed (Q7): while nobody of a side waits, nobody of that side is refused by chance. The
//! original takes an idle broker, whose last counterparty came long ago, for an overloaded one and
//! refuses everybody until one comes.

use crate::broker::Side;
use crate::meter::Published;

/// Probabilities are compared as multiples of one part in 2^27.
pub const PARTS: u32 = 1 << 27;

/// Lets newcomers in, or not.
#[derive(Clone, Copy, Debug)]
pub struct Protector {
    min: u64,
    max: u64,
    len: u64,
    ask: u32,
    ask_r: u32,
}

impl Protector {
    /// Refuses nobody by chance until told to; nobody at all up to `min` attempts, everybody above
    /// `max`.
    #[must_use]
    pub fn new(min: u64, max: u64) -> Protector {
        Protector { min, max, len: 0, ask: 0, ask_r: 0 }
    }

    /// Attempts since the last sample, plus the backlog it saw.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there were no attempts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// With how many [`PARTS`] a side is refused.
    #[must_use]
    pub fn drop_parts(&self, side: Side) -> u32 {
        match side {
            Side::Ask => self.ask,
            Side::AskR => self.ask_r,
        }
    }

    /// Whether a newcomer may enter. `waiting` is how many of its side wait already; `draw` is
    /// uniform below [`PARTS`].
    #[must_use]
    pub fn admit(&mut self, side: Side, waiting: usize, draw: u32) -> bool {
        self.len = self.len.saturating_add(1);
        if self.len > self.max {
            return false;
        }
        waiting == 0 || self.len <= self.min || draw >= self.drop_parts(side)
    }

    /// An attempt that was let in left again: it was matched, dropped or cancelled.
    pub fn leave(&mut self) {
        self.len = self.len.saturating_sub(1);
    }

    /// What a meter published.
    pub fn update(&mut self, published: Published) {
        self.len = published.len;
        (self.ask, self.ask_r) = (parts(published.ask), parts(published.ask_r));
    }

    /// New bounds.
    pub fn reconfigure(&mut self, min: u64, max: u64) {
        (self.min, self.max) = (min, max);
    }
}

/// A probability in [`PARTS`], rounded down; what is no probability is the nearest one.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=1 before"
)]
pub fn parts(probability: f64) -> u32 {
    (probability.clamp(0.0, 1.0) * f64::from(PARTS)) as u32
}
