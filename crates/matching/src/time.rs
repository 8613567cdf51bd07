//! Time as plain numbers: printable, storable, replayable. Nobody here reads a clock.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

/// A point in time in nanoseconds since an origin the caller chose. Negative values are normal.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Time(i64);

/// A signed distance between two [`Time`]s in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Span(i64);

impl Time {
    /// The origin.
    pub const ZERO: Time = Time(0);
    /// Later than every other time; stands for "never" in comparisons.
    pub const MAX: Time = Time(i64::MAX);

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Time {
        Time(nanos)
    }

    /// Milliseconds since the origin.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Time {
        Time(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.0
    }
}

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);
    /// Longer than every other span; stands for "forever".
    pub const MAX: Span = Span(i64::MAX);

    /// A span of nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Span {
        Span(nanos)
    }

    /// A span of milliseconds, saturating.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Span {
        Span(millis.saturating_mul(1_000_000))
    }

    /// A span of seconds, saturating.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Span {
        Span(secs.saturating_mul(1_000_000_000))
    }

    /// Nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whole milliseconds, truncated toward zero.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0 / 1_000_000
    }

    /// The span with its sign turned.
    #[must_use]
    pub const fn negated(self) -> Span {
        Span(self.0.saturating_neg())
    }

    /// The span times `factor`, saturating.
    #[must_use]
    pub const fn times(self, factor: i64) -> Span {
        Span(self.0.saturating_mul(factor))
    }
}

impl From<core::time::Duration> for Span {
    /// Saturates at about 292 years.
    fn from(duration: core::time::Duration) -> Span {
        Span(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl From<Span> for core::time::Duration {
    /// A negative span becomes zero: nobody can sleep into the past.
    fn from(span: Span) -> core::time::Duration {
        core::time::Duration::from_nanos(u64::try_from(span.0).unwrap_or(0))
    }
}

impl Add<Span> for Time {
    type Output = Time;
    fn add(self, span: Span) -> Time {
        Time(self.0.saturating_add(span.0))
    }
}

impl AddAssign<Span> for Time {
    fn add_assign(&mut self, span: Span) {
        *self = *self + span;
    }
}

impl Sub<Time> for Time {
    type Output = Span;
    fn sub(self, earlier: Time) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Span {
    type Output = Span;
    fn add(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }
}

impl Sub for Span {
    type Output = Span;
    fn sub(self, other: Span) -> Span {
        Span(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0;
        match nanos.unsigned_abs() {
            0..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}us", nanos / 1_000),
            1_000_000..1_000_000_000 => write!(f, "{}ms", nanos / 1_000_000),
            _ => write!(f, "{}.{:03}s", nanos / 1_000_000_000, (nanos / 1_000_000 % 1_000).abs()),
        }
    }
}
