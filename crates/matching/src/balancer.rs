//! Which of several brokers a newcomer goes to. Pure functions: chance and cpu are arguments.
//!
//! *Best of two* compares the estimates of two brokers drawn at random and is nearly as good as
//! knowing them all. The rules are those of `sbetter`, `srand` and `sscheduler` (specification
//! sheet, section 2.10). Fixed (Q6): the two are any two. The original only ever compares
//! neighbours, and looks at the first and the last half as often as at the others.

use crate::time::Span;

/// What is known about a broker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Estimate {
    /// How long a newcomer would take.
    Known(Span),
    /// The broker does not exist.
    Absent,
    /// Nothing: it publishes no estimate.
    Unknown,
    /// It cannot be compared: it is elsewhere.
    Remote,
}

/// Which of two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pick {
    /// The first.
    First,
    /// The second.
    Second,
    /// Neither can be had, for the reason that this estimate shows.
    Neither(Estimate),
}

/// Two distinct of `n` brokers. `draw` is uniform below `n * (n - 1)`; each ordered pair belongs
/// to one draw. `None` if there are no two.
#[must_use]
pub fn two_of(n: usize, draw: usize) -> Option<(usize, usize)> {
    let others = n.checked_sub(1).filter(|others| *others > 0)?;
    let first = draw / others % n;
    let second = draw % others;
    Some((first, if second >= first { second + 1 } else { second }))
}

/// The better of two: the first only if it is known and strictly better.
#[must_use]
pub fn better(first: Estimate, second: Estimate) -> Pick {
    match (first, second) {
        (Estimate::Known(a), Estimate::Known(b)) => {
            if a < b {
                Pick::First
            } else {
                Pick::Second
            }
        }
        (Estimate::Known(_), Estimate::Absent | Estimate::Unknown | Estimate::Remote) => {
            Pick::First
        }
        (Estimate::Absent | Estimate::Unknown | Estimate::Remote, Estimate::Known(_)) => {
            Pick::Second
        }
        (_, Estimate::Absent) => Pick::Neither(Estimate::Absent),
        (Estimate::Absent | Estimate::Unknown | Estimate::Remote, _) => Pick::Neither(first),
    }
}

/// One of `n` by chance: `draw` is any number. `None` if there is none.
#[must_use]
pub fn one_of(n: usize, draw: u64) -> Option<usize> {
    let n = u64::try_from(n).ok().filter(|n| *n > 0)?;
    // The high half of the product: even without a division, and without a bias that matters.
    usize::try_from((u128::from(draw) * u128::from(n)) >> 64).ok()
}

/// The broker of a cpu: who runs there always meets there. `None` if there is none.
#[must_use]
pub fn of_cpu(n: usize, cpu: usize) -> Option<usize> {
    cpu.checked_rem(n)
}
