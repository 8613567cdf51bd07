//! One hierarchical timer wheel: six levels of 64 slots, one tick a millisecond.
//!
//! Nothing is ever cancelled: an owner that no longer wants to be called ignores the call. Owners
//! therefore keep what they armed for, and arm at most once per deadline.

use alloc::vec::Vec;

use matching::{Span, Time};

const LEVELS: usize = 6;
const SLOTS: u64 = 64;
const TICK_NANOS: i64 = 1_000_000;

/// Timers for values of type `T`, due with millisecond precision and never early.
#[derive(Debug)]
pub struct Wheel<T> {
    /// `slots[level * 64 + i]`.
    slots: Vec<Vec<(u64, T)>>,
    /// One bit per non-empty slot of each level.
    occupied: [u64; LEVELS],
    /// The last tick that was fired.
    tick: u64,
    origin: Time,
    len: usize,
}

impl<T> Wheel<T> {
    /// An empty wheel whose time starts at `now`.
    #[must_use]
    pub fn new(now: Time) -> Wheel<T> {
        let slots = (0..LEVELS * SLOTS as usize).map(|_| Vec::new()).collect();
        Wheel { slots, occupied: [0; LEVELS], tick: 0, origin: now, len: 0 }
    }

    /// Timers not yet fired.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fires `item` at the first [`advance`](Wheel::advance) at or after `due`. Beyond the wheel's
    /// range (two years) it fires at the end of the range.
    pub fn insert(&mut self, due: Time, item: T) {
        let nanos = (due - self.origin).as_nanos().max(0);
        let tick = (nanos as u64).div_ceil(TICK_NANOS as u64);
        self.place(tick.max(self.tick + 1), item);
        self.len += 1;
    }

    /// When [`advance`](Wheel::advance) next has something to do: at or before the first due time.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let mut best: Option<u64> = None;
        for (level, bits) in self.occupied.iter().enumerate() {
            if *bits == 0 {
                continue;
            }
            let shift = 6 * level as u32;
            let at = self.tick >> shift;
            // The first occupied slot after the current one, counting around the ring.
            let ahead =
                bits.rotate_right(((at % SLOTS) as u32 + 1) & 63).trailing_zeros() as u64 + 1;
            let tick = (at + ahead) << shift;
            best = Some(best.map_or(tick, |b: u64| b.min(tick)));
        }
        best.map(|tick| self.origin + Span::from_nanos((tick as i64).saturating_mul(TICK_NANOS)))
    }

    /// Moves everything due at or before `now` into `fired`.
    pub fn advance(&mut self, now: Time, fired: &mut Vec<T>) {
        let target = ((now - self.origin).as_nanos().max(0) / TICK_NANOS) as u64;
        while self.tick < target {
            let Some(next) = self.next_tick() else { break };
            if next > target {
                break;
            }
            self.tick = next;
            // Coarse slots first: what they hold may be due in this very tick.
            for level in (0..LEVELS).rev() {
                let shift = 6 * level as u32;
                if level > 0 && self.tick & ((1 << shift) - 1) != 0 {
                    continue;
                }
                self.open(level, ((self.tick >> shift) % SLOTS) as usize, fired);
            }
        }
        self.tick = self.tick.max(target);
    }

    fn next_tick(&self) -> Option<u64> {
        let due = self.deadline()?;
        Some(((due - self.origin).as_nanos() / TICK_NANOS) as u64)
    }

    fn open(&mut self, level: usize, slot: usize, fired: &mut Vec<T>) {
        if self.occupied[level] & 1 << slot == 0 {
            return;
        }
        self.occupied[level] &= !(1 << slot);
        let mut list = core::mem::take(&mut self.slots[level * SLOTS as usize + slot]);
        for (tick, item) in list.drain(..) {
            if tick <= self.tick {
                fired.push(item);
                self.len -= 1;
            } else {
                self.place(tick, item);
            }
        }
        // Keeps a small list for reuse; a large one goes back to the allocator.
        if list.capacity() <= 64 && self.slots[level * SLOTS as usize + slot].is_empty() {
            self.slots[level * SLOTS as usize + slot] = list;
        }
    }

    fn place(&mut self, tick: u64, item: T) {
        let range = 1u64 << (6 * LEVELS as u32);
        let tick = tick.min(self.tick + range - 1);
        let differing = tick ^ self.tick;
        let level = ((63 - differing.max(1).leading_zeros()) / 6) as usize;
        let level = level.min(LEVELS - 1);
        let slot = ((tick >> (6 * level as u32)) % SLOTS) as usize;
        self.occupied[level] |= 1 << slot;
        self.slots[level * SLOTS as usize + slot].push((tick, item));
    }
}
