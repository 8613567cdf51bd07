//! How long to wait before the next attempt.

use std::time::Duration;

/// Exponential back-off with jitter, so that the peers of a broker that restarts do not come back
/// all at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    pace: Pace,
    ceiling: Duration,
}

/// How a back-off grows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The first wait, at most.
    first: Duration,
    /// Waits double up to this.
    longest: Duration,
    /// No wait is shorter than this part of the longest it might be.
    least: f64,
    /// Only a connection that lasted so long counts as success: as long as a peer may be silent
    /// before it counts as dead, with the usual heartbeats.
    healthy: Duration,
}

/// Each wait is drawn from the whole span up to its ceiling.
pub(crate) const QUICK: Pace = Pace {
    first: Duration::from_millis(100),
    longest: Duration::from_secs(10),
    least: 0.0,
    healthy: Duration::from_secs(9),
};

/// As the Paranoid Pirate pattern has it: 1 s, doubling to 32 s. Queues of old have little room for
/// haste, so no wait is shorter than half.
pub(crate) const PIRATE: Pace = Pace {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(32),
    least: 0.5,
    healthy: Duration::from_secs(3),
};

impl Backoff {
    pub(crate) fn new(pace: Pace) -> Backoff {
        Backoff { pace, ceiling: pace.first }
    }

    /// The next wait; the one after it may be twice as long.
    pub(crate) fn next(&mut self) -> Duration {
        let Pace { least, longest, .. } = self.pace;
        let wait = self.ceiling.mul_f64(least + (1.0 - least) * fastrand::f64());
        self.ceiling = (self.ceiling * 2).min(longest);
        wait
    }

    /// To be told how long the last connection lasted, so that a broker that accepts and hangs up
    /// at once is not hammered.
    pub(crate) fn connection_lasted(&mut self, lasted: Duration) {
        if lasted >= self.pace.healthy {
            self.ceiling = self.pace.first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pace: Pace, ceilings_ms: &[u64]) {
        let mut backoff = Backoff::new(pace);
        for ceiling in ceilings_ms.iter().map(|ms| Duration::from_millis(*ms)) {
            assert_eq!(backoff.ceiling, ceiling);
            let wait = backoff.next();
            assert!((ceiling.mul_f64(pace.least)..=ceiling).contains(&wait), "{wait:?}");
        }
        backoff.connection_lasted(pace.healthy - Duration::from_millis(1));
        assert_eq!(backoff.ceiling, pace.longest);
        backoff.connection_lasted(pace.healthy);
        assert_eq!(backoff.ceiling, pace.first);
    }

    #[test]
    fn waits_double_up_to_a_limit_and_start_over_after_health() {
        check(QUICK, &[100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        check(PIRATE, &[1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 32_000]);
    }
}
