//! Where those who wait are told. A slab under the lock of its owner: whoever waits costs no
//! allocation once the slab has grown.
//!
//! Nothing of a stranger is dropped in here. Wakers and answers are handed out, so that they can
//! be dropped once the lock is released.

use alloc::vec::Vec;
use core::task::{Poll, Waker};

/// A place to be told at.
#[derive(Debug)]
pub(super) enum Seat<K, P> {
    /// Nobody's. The next free one, or the end of the slab.
    Free(usize),
    /// Somebody is told here: under which key it waits and whom to wake, unless it is told within
    /// the call that took the place.
    Taken(Option<(K, Waker)>),
    /// Somebody was told and has not listened yet.
    Told(P),
}

/// The places of one line whose waiters have keys of type `K` and are told a `P`.
#[derive(Debug)]
pub(super) struct Seats<K, P> {
    seats: Vec<Seat<K, P>>,
    /// The first free one, or the end of the slab.
    free: usize,
}

impl<K, P> Seats<K, P> {
    pub(super) fn new() -> Seats<K, P> {
        Seats { seats: Vec::new(), free: 0 }
    }

    /// The place that [`take`](Seats::take) takes.
    pub(super) fn vacant(&self) -> usize {
        self.free
    }

    /// Takes the vacant place.
    pub(super) fn take(&mut self, waits: Option<(K, Waker)>) {
        let Some(seat) = self.seats.get_mut(self.free) else {
            self.seats.push(Seat::Taken(waits));
            self.free = self.seats.len();
            return;
        };
        let Seat::Free(next) = core::mem::replace(seat, Seat::Taken(waits)) else {
            unreachable!("the vacant place was taken")
        };
        self.free = next;
    }

    /// Whoever waits here does so under another key from now on.
    pub(super) fn rekey(&mut self, place: usize, key: K) {
        match &mut self.seats[place] {
            Seat::Taken(Some((known, _))) => *known = key,
            Seat::Taken(None) | Seat::Free(_) | Seat::Told(_) => unreachable!("nobody waits here"),
        }
    }

    /// Tells whoever has this place, and says whom to wake.
    pub(super) fn tell(&mut self, place: usize, told: P) -> Option<Waker> {
        match core::mem::replace(&mut self.seats[place], Seat::Told(told)) {
            Seat::Taken(waits) => waits.map(|(_, waker)| waker),
            Seat::Free(_) | Seat::Told(_) => unreachable!("nobody waits to be told"),
        }
    }

    /// Listens at a place. Whoever was told gives its place back; otherwise `waker` will be woken
    /// in place of the one that is handed out.
    pub(super) fn listen(&mut self, place: usize, waker: &Waker) -> (Poll<P>, Option<Waker>) {
        if let Seat::Taken(Some((_, known))) = &mut self.seats[place] {
            let before = if known.will_wake(waker) {
                None
            } else {
                Some(core::mem::replace(known, waker.clone()))
            };
            return (Poll::Pending, before);
        }
        (Poll::Ready(self.hear(place)), None)
    }

    /// What somebody was told; it gives its place back.
    pub(super) fn hear(&mut self, place: usize) -> P {
        let Seat::Told(told) = self.leave(place) else { unreachable!("nobody was told here") };
        told
    }

    /// Gives a place back, whether its owner was told or not.
    pub(super) fn leave(&mut self, place: usize) -> Seat<K, P> {
        let seat = core::mem::replace(&mut self.seats[place], Seat::Free(self.free));
        assert!(!matches!(seat, Seat::Free(_)), "a place was given back twice");
        self.free = place;
        seat
    }
}

#[cfg(test)]
mod tests {
    use core::task::{Poll, Waker};

    use super::{Seat, Seats};

    /// Takes the vacant place.
    fn sit(seats: &mut Seats<&'static str, u32>) -> usize {
        let place = seats.vacant();
        seats.take(Some(("key", Waker::noop().clone())));
        place
    }

    #[test]
    fn places_are_taken_again_and_nobody_hears_what_another_was_told() {
        let mut seats = Seats::new();
        assert_eq!([sit(&mut seats), sit(&mut seats), sit(&mut seats)], [0, 1, 2]);
        assert_eq!(seats.listen(1, Waker::noop()).0, Poll::Pending);
        assert!(seats.tell(1, 7).is_some(), "somebody is to be woken");
        assert_eq!(seats.listen(1, Waker::noop()).0, Poll::Ready(7));
        assert!(seats.tell(2, 8).is_some());
        assert!(matches!(seats.leave(2), Seat::Told(8)), "nobody listened");
        seats.rekey(0, "another");
        assert!(matches!(seats.leave(0), Seat::Taken(Some(("another", _)))));
        // The one that was given back last is the warmest.
        let again = [sit(&mut seats), sit(&mut seats), sit(&mut seats), sit(&mut seats)];
        assert_eq!(again, [0, 2, 1, 3]);
        assert_eq!(seats.listen(2, Waker::noop()).0, Poll::Pending);
    }

    #[test]
    fn who_is_told_at_once_need_not_be_woken() {
        let mut seats: Seats<(), u32> = Seats::new();
        let place = seats.vacant();
        seats.take(None);
        assert!(seats.tell(place, 7).is_none());
        assert_eq!((seats.hear(place), seats.vacant()), (7, place));
    }
}
