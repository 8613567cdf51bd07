//! What can be measured where requests meet, and what follows from it.
//!
//! Whoever drives a broker or a regulator reads the clock now and then; each reading becomes one
//! [`Sample`], and every meter sees every sample:
//!
//! | meter | says |
//! | --- | --- |
//! | [`AlarmMeter`] | what happens here waits too long, or capacity lies idle, for an interval |
//! | [`UpdateMeter`] | tells other regulators how long this side waits, at jittered times |
//! | [`BetterMeter`] | how long a newcomer would take here: what balancers compare |
//! | [`PieMeter`] | with which probability newcomers should be refused |
//!
//! The rules are those of the specification sheet, section 2.9.

use crate::broker::Side;
use crate::time::{Span, Time};

mod alarm;
mod better;
mod pie;
mod update;

pub use alarm::{Alarm, AlarmConfig, AlarmMeter, Watch};
pub use better::{BetterConfig, BetterMeter};
pub use pie::{PieConfig, PieMeter, PieSide, Published};
pub use update::{Target, UpdateMeter};

/// What one reading of the clock found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sample {
    /// The reading.
    pub now: Time,
    /// How long messages wait before they are handled. Never negative.
    pub queue_delay: Span,
    /// How long handling one takes. Never negative.
    pub process_delay: Span,
    /// How long asks wait for their counterparty; negative: how long the counterparty waits.
    pub relative: Span,
    /// Messages that wait to be handled.
    pub backlog: u64,
}

impl Sample {
    /// A sample from two readings of the clock, between which `handled` messages were handled,
    /// the last of them sent at `send`. `since` is the send time of the oldest waiter, or since
    /// when nobody waits (a regulator with an open valve: the opening); `side` is the one that
    /// waits (an open valve waits as [`Side::AskR`]).
    ///
    /// No message at all between two readings is fine (quirk Q9: it kills the original).
    #[must_use]
    pub fn read(
        (before, now): (Time, Time),
        handled: u64,
        send: Time,
        since: Time,
        side: Side,
    ) -> Sample {
        let handled = i64::try_from(handled.max(1)).unwrap_or(i64::MAX);
        let process_delay = Span::from_nanos((now - before).as_nanos() / handled);
        let handled_at = Time::from_nanos((now - Time::ZERO).as_nanos() - process_delay.as_nanos());
        let queue_delay = (handled_at - send).max(Span::ZERO);
        let relative = match side {
            Side::Ask => send - since,
            Side::AskR => since - send,
        };
        Sample { now, queue_delay, process_delay, relative, backlog: 0 }
    }

    /// How long an ask, or an `ask_r`, waits for its counterparty: never negative.
    #[must_use]
    pub fn wait(&self, side: Side) -> Span {
        let relative = match side {
            Side::Ask => self.relative,
            Side::AskR => self.relative.negated(),
        };
        relative.max(Span::ZERO)
    }
}
