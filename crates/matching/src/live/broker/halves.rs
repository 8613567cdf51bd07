//! What differs between the two sides of a broker.

use core::task::Waker;

use super::{Answer, KeyOf, Left, Seated, Seating, State};
use crate::any::AnyLine;
use crate::broker::{Match, Outcome};
use crate::line::{Flow, Line};
use crate::live::Go;
use crate::live::seats::Seats;
use crate::queue::{Key, Queue};
use crate::time::Time;

/// A value that waits in the line of a broker, and where its owner is told.
#[derive(Debug)]
pub struct Waiter<V> {
    pub(super) value: V,
    pub(super) place: usize,
}

impl<V: Flow> Flow for Waiter<V> {
    fn flow(&self) -> u64 {
        self.value.flow()
    }

    fn order(&self) -> u64 {
        self.value.order()
    }
}

/// How the line of a broker's asks is kept: [`Plain`] or [`Fair`]. Nobody else can be one.
pub trait Keep<A> {
    /// The line.
    type Line: Line<Waiter<A>>;
}

/// One line for all asks.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

/// A line for each [`Flow`] of asks, or one for all: as configured.
#[derive(Clone, Copy, Debug)]
pub struct Fair;

impl<A> Keep<A> for Plain {
    type Line = Queue<Waiter<A>>;
}

impl<A: Flow> Keep<A> for Fair {
    type Line = AnyLine<Waiter<A>>;
}

/// One of the two sides.
pub(super) trait Half<A, R, K: Keep<A>> {
    /// What it brings.
    type Own;
    /// What the other side brings.
    type Other;
    /// Names one of it who waits.
    type Key;

    /// Where it is told.
    fn seats(state: &mut State<A, R, K>) -> &mut Seats<Self::Key, Answer<Self::Other>>;

    /// Meets the other side or waits.
    fn ask(
        core: &mut Seating<A, R, K>,
        now: Time,
        waiter: Waiter<Self::Own>,
        drops: &mut Left<A, R>,
    ) -> Outcome<Waiter<A>, Waiter<R>, Self::Key>;

    /// Meets the other side or nobody.
    fn try_ask(
        core: &mut Seating<A, R, K>,
        now: Time,
        waiter: Waiter<Self::Own>,
        drops: &mut Left<A, R>,
    ) -> Result<Seated<A, R>, Waiter<Self::Own>>;

    /// Leaves the line.
    fn cancel(
        core: &mut Seating<A, R, K>,
        now: Time,
        key: &Self::Key,
        drops: &mut Left<A, R>,
    ) -> Option<Waiter<Self::Own>>;

    /// Has a deadline.
    fn expire_at(core: &mut Seating<A, R, K>, key: &Self::Key, until: Time);

    /// Tells the other side, which waited, and says whom to wake.
    fn settle(
        state: &mut State<A, R, K>,
        now: Time,
        met: Seated<A, R>,
    ) -> (Go<Self::Other>, Option<Waker>);
}

/// The asking side.
pub(super) struct Ask;

/// The side that asks back.
pub(super) struct AskR;

impl<A, R, K: Keep<A>> Half<A, R, K> for Ask {
    type Own = A;
    type Other = R;
    type Key = KeyOf<A, K>;

    fn seats(state: &mut State<A, R, K>) -> &mut Seats<KeyOf<A, K>, Answer<R>> {
        &mut state.asks
    }

    fn ask(
        core: &mut Seating<A, R, K>,
        now: Time,
        waiter: Waiter<A>,
        drops: &mut Left<A, R>,
    ) -> Outcome<Waiter<A>, Waiter<R>, KeyOf<A, K>> {
        core.ask(now, now, waiter, drops)
    }

    fn try_ask(
        core: &mut Seating<A, R, K>,
        now: Time,
        waiter: Waiter<A>,
        drops: &mut Left<A, R>,
    ) -> Result<Seated<A, R>, Waiter<A>> {
        core.try_ask(now, now, waiter, drops)
    }

    fn cancel(
        core: &mut Seating<A, R, K>,
        now: Time,
        key: &KeyOf<A, K>,
        drops: &mut Left<A, R>,
    ) -> Option<Waiter<A>> {
        core.cancel(now, *key, drops)
    }

    fn expire_at(core: &mut Seating<A, R, K>, key: &KeyOf<A, K>, until: Time) {
        core.expire_at(*key, until);
    }

    fn settle(state: &mut State<A, R, K>, now: Time, met: Seated<A, R>) -> (Go<R>, Option<Waker>) {
        let (own, other, place) = halves(now, met);
        (own, state.ask_rs.tell(place.1, Ok(other)))
    }
}

impl<A, R, K: Keep<A>> Half<A, R, K> for AskR {
    type Own = R;
    type Other = A;
    type Key = Key;

    fn seats(state: &mut State<A, R, K>) -> &mut Seats<Key, Answer<A>> {
        &mut state.ask_rs
    }

    fn ask(
        core: &mut Seating<A, R, K>,
        now: Time,
        waiter: Waiter<R>,
        drops: &mut Left<A, R>,
    ) -> Outcome<Waiter<A>, Waiter<R>> {
        core.ask_r(now, now, waiter, drops)
    }

    fn try_ask(
        core: &mut Seating<A, R, K>,
        now: Time,
        waiter: Waiter<R>,
        drops: &mut Left<A, R>,
    ) -> Result<Seated<A, R>, Waiter<R>> {
        core.try_ask_r(now, now, waiter, drops)
    }

    fn cancel(
        core: &mut Seating<A, R, K>,
        now: Time,
        key: &Key,
        drops: &mut Left<A, R>,
    ) -> Option<Waiter<R>> {
        core.cancel_r(now, *key, drops)
    }

    fn expire_at(core: &mut Seating<A, R, K>, key: &Key, until: Time) {
        core.expire_at_r(*key, until);
    }

    fn settle(state: &mut State<A, R, K>, now: Time, met: Seated<A, R>) -> (Go<A>, Option<Waker>) {
        let (other, own, place) = halves(now, met);
        (own, state.asks.tell(place.0, Ok(other)))
    }
}

/// What the asking half is told, what the other half is told, and at which places.
fn halves<A, R>(now: Time, met: Seated<A, R>) -> (Go<R>, Go<A>, (usize, usize)) {
    let (relative, relative_r) = (met.relative(), met.relative_r());
    let (sojourn, sojourn_r) = (met.ask.sojourn(now), met.ask_r.sojourn(now));
    let Match { ask, ask_r } = met;
    (
        Go { value: ask_r.value.value, relative, sojourn },
        Go { value: ask.value.value, relative: relative_r, sojourn: sojourn_r },
        (ask.value.place, ask_r.value.place),
    )
}
