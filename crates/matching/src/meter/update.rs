//! Tells other regulators how long this side waits, so that they let start as many as are needed.

use alloc::vec::Vec;

use super::Sample;
use crate::broker::Side;
use crate::queue::{ConfigError, at_least};
use crate::time::{Span, Time};

/// A regulator `K` to be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Target<K> {
    /// Which.
    pub regulator: K,
    /// The side whose wait it hears of.
    pub side: Side,
    /// How often, about: the time between two tellings is 0.5 to 1.5 times this, by chance, lest
    /// everybody tells at once.
    pub update: Span,
}

#[derive(Clone, Copy, Debug)]
struct Entry<K> {
    target: Target<K>,
    told: Option<Time>,
    due: Time,
}

/// Tells regulators.
#[derive(Clone, Debug)]
pub struct UpdateMeter<K> {
    entries: Vec<Entry<K>>,
}

impl<K: Copy + PartialEq> UpdateMeter<K> {
    /// Tells everybody at the first sample.
    ///
    /// # Errors
    /// Names what is wrong with the targets.
    pub fn new(targets: &[Target<K>], now: Time) -> Result<UpdateMeter<K>, ConfigError> {
        validate(targets)?;
        let entries = targets.iter().map(|target| Entry { target: *target, told: None, due: now });
        Ok(UpdateMeter { entries: entries.collect() })
    }

    /// When a sample is wanted.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.entries.iter().map(|entry| entry.due).min()
    }

    /// Whom a sample is for, and what they hear. `chance(n)` is a number from 1 to `n`.
    pub fn sample(
        &mut self,
        sample: &Sample,
        mut chance: impl FnMut(i64) -> i64,
        casts: &mut Vec<(K, Span)>,
    ) {
        for entry in self.entries.iter_mut().filter(|entry| entry.due <= sample.now) {
            let value = match entry.target.side {
                Side::Ask => sample.relative,
                Side::AskR => sample.relative.negated(),
            };
            casts.push((entry.target.regulator, value));
            entry.told = Some(sample.now);
            entry.due = next(sample.now, entry.target.update, &mut chance);
        }
    }

    /// Changes the targets. Those who were told before keep their rhythm.
    ///
    /// # Errors
    /// Names what is wrong with the targets; nothing changes then.
    pub fn reconfigure(
        &mut self,
        now: Time,
        targets: &[Target<K>],
        mut chance: impl FnMut(i64) -> i64,
    ) -> Result<(), ConfigError> {
        validate(targets)?;
        let told = |target: &Target<K>| {
            let is = |one: &Target<K>| one.regulator == target.regulator && one.side == target.side;
            self.entries.iter().find(|entry| is(&entry.target)).and_then(|entry| entry.told)
        };
        let entries = targets.iter().map(|target| {
            let told = told(target);
            let due = told.map_or(now, |told| next(told, target.update, &mut chance).max(now));
            Entry { target: *target, told, due }
        });
        self.entries = entries.collect();
        Ok(())
    }
}

fn next(told: Time, update: Span, chance: &mut impl FnMut(i64) -> i64) -> Time {
    let nanos = update.as_nanos();
    told + Span::from_nanos((nanos / 2).saturating_add(chance(nanos).clamp(1, nanos)))
}

fn validate<K: PartialEq>(targets: &[Target<K>]) -> Result<(), ConfigError> {
    if targets.is_empty() {
        return Err(ConfigError::NoTarget);
    }
    for (i, target) in targets.iter().enumerate() {
        at_least(target.update, 1, ConfigError::Interval)?;
        let is = |one: &Target<K>| one.regulator == target.regulator && one.side == target.side;
        if targets[..i].iter().any(is) {
            return Err(ConfigError::DuplicateTarget);
        }
    }
    Ok(())
}
