//! Damps storms of DISCONNECT.
//!
//! Reference workers reconnect at once when they are told to go, so a worker that is refused for
//! something it will repeat is a tight loop. The first few refusals of an address are immediate;
//! then each waits longer than the one before.

use alloc::collections::BTreeMap;
use core::net::IpAddr;

use engine::{Span, Time};

/// Refusals that are not delayed.
const FREE: u32 = 8;
/// Delay of the first refusal after those; doubles each time, at most `DOUBLINGS` times.
const FIRST_DELAY: Span = Span::from_millis(100);
const DOUBLINGS: u32 = 6;
/// Quiet time after which an address starts afresh.
const FORGET: Span = Span::from_secs(30);
/// Addresses remembered. When all are fresh, further ones are not delayed.
const ADDRESSES_MAX: usize = 4_096;

/// Recent refusals by address.
#[derive(Debug, Default)]
pub(crate) struct Strikes {
    by_address: BTreeMap<IpAddr, (u32, Time)>,
}

impl Strikes {
    /// Counts one refusal and says how long to wait with it.
    pub(crate) fn add(&mut self, now: Time, address: IpAddr) -> Span {
        if self.by_address.len() >= ADDRESSES_MAX {
            self.by_address.retain(|_, (_, last)| now - *last < FORGET);
            if self.by_address.len() >= ADDRESSES_MAX {
                return Span::ZERO;
            }
        }
        let (count, last) = self.by_address.entry(address).or_insert((0, now));
        if now - *last >= FORGET {
            *count = 0;
        }
        *count += 1;
        *last = now;
        match count.checked_sub(FREE + 1) {
            None => Span::ZERO,
            Some(over) => FIRST_DELAY.times(1 << over.min(DOUBLINGS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn delays_grow_and_are_forgotten() {
        let mut strikes = Strikes::default();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let delays: std::vec::Vec<i64> =
            (0..16).map(|_| strikes.add(Time::ZERO, address).as_millis()).collect();
        let grown = [0, 0, 0, 0, 0, 0, 0, 0, 100, 200, 400, 800, 1600, 3200, 6400, 6400];
        assert_eq!(delays, grown);
        assert_eq!(strikes.add(Time::from_millis(30_000), address), Span::ZERO);
    }
}
