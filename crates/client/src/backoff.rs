//! How long to wait before the next attempt.

use std::time::Duration;

/// Exponential back-off with full jitter: each wait is drawn from the whole span up to its ceiling,
/// so that the clients of a broker that restarts do not come back all at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff { ceiling: FIRST }
    }

    /// The next wait; the one after it may be twice as long.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.ceiling.mul_f64(fastrand::f64());
        self.ceiling = (self.ceiling * 2).min(LONGEST);
        wait
    }

    /// To be told how long the last connection lasted: only one that proved itself counts as
    /// success, so that a broker that accepts and hangs up at once is not hammered.
    pub(crate) fn connection_lasted(&mut self, lasted: Duration) {
        if lasted >= HEALTHY {
            self.ceiling = FIRST;
        }
    }
}

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// As long as a peer may be silent before it counts as dead, with the usual heartbeats.
const HEALTHY: Duration = Duration::from_secs(9);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_start_over_after_health() {
        let mut backoff = Backoff::new();
        for ceiling_ms in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            assert_eq!(backoff.ceiling, Duration::from_millis(ceiling_ms));
            assert!(backoff.next() <= Duration::from_millis(ceiling_ms));
        }
        backoff.connection_lasted(HEALTHY - Duration::from_millis(1));
        assert_eq!(backoff.ceiling, LONGEST);
        backoff.connection_lasted(HEALTHY);
        assert_eq!(backoff.ceiling, FIRST);
    }
}
