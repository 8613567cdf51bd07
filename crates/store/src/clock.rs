//! The steady line that delays and leases are measured on.
//!
//! A wall clock may be put forward an hour; a task delayed by 30 minutes must still wait them. So
//! the line follows the machine's boot clock (which also counts while it sleeps), and begins at
//! Unix time so that its numbers can be read. Its offset from the boot clock is kept by the store:
//! within one boot it never changes, after a reboot it goes on from Unix time, never backwards.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::task::Now;

/// The clocks of this machine.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Names the boot that the boot clock counts from.
    boot: String,
    offset: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

impl Clock {
    /// A line that begins at the wall clock; opening a store may set it to the store's own.
    #[must_use]
    pub fn new() -> Clock {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let offset = wall_ms().saturating_sub(boot_ms());
        Clock { boot: boot.trim().to_owned(), offset: std::sync::Arc::new(offset.into()) }
    }

    /// Both clocks, now.
    #[must_use]
    pub fn now(&self) -> Now {
        let offset = self.offset.load(std::sync::atomic::Ordering::Relaxed);
        Now { line: boot_ms() + offset, wall: wall_ms() }
    }

    /// Goes on with the line of a store: the same one if it is still the same boot, otherwise one
    /// that is not behind `last`, the latest instant the store knows. Returns what the store
    /// keeps for the next time.
    pub(crate) fn resume(&self, kept: Option<&str>, last: u64) -> String {
        let same = kept.and_then(|text| {
            let (boot, offset) = text.split_once(' ')?;
            (boot == self.boot && !boot.is_empty()).then(|| offset.parse().ok()).flatten()
        });
        let own = wall_ms().saturating_sub(boot_ms());
        let offset: u64 = same.unwrap_or_else(|| own.max(last.saturating_sub(boot_ms())));
        self.offset.store(offset, std::sync::atomic::Ordering::Relaxed);
        format!("{} {offset}", self.boot)
    }

    /// Goes by another clock, which is at `line` at this instant: that of a server many share.
    #[cfg(any(feature = "nats", feature = "postgres"))]
    pub(crate) fn follow(&self, line: u64) {
        let offset = line.saturating_sub(boot_ms());
        self.offset.store(offset, std::sync::atomic::Ordering::Relaxed);
    }
}

fn boot_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec.unsigned_abs() * 1_000 + time.tv_nsec.unsigned_abs() / 1_000_000
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_goes_on_within_a_boot_and_never_back_after_one() {
        let clock = Clock::new();
        let kept = clock.resume(None, 0);
        // The wall clock was an hour wrong when the offset was taken: the line keeps it.
        let (boot, offset) = kept.split_once(' ').expect("boot and offset");
        let odd = offset.parse::<u64>().expect("ms") + 3_600_000;
        assert_eq!(clock.resume(Some(&format!("{boot} {odd}")), 0), format!("{boot} {odd}"));
        assert!(clock.now().line >= clock.now().wall + 3_599_000);
        // Another boot, and a wall clock that lags behind what the store has seen.
        let last = wall_ms() + 86_400_000;
        clock.resume(Some("another-boot 5"), last);
        assert!(clock.now().line >= last);
    }
}
