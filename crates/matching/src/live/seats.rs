//! Where those who wait are told. One slab per side, under the lock of its broker: whoever waits
//! costs no allocation once the slab has grown.
//!
//! Nothing of a stranger is dropped in here. Wakers and answers are handed out, so that they can
//! be dropped once the lock is released.

use alloc::vec::Vec;
use core::task::{Poll, Waker};

/// A place to be told at.
#[derive(Debug)]
pub(super) enum Seat<P> {
    /// Nobody's. The next free one, or the end of the slab.
    Free(usize),
    /// Somebody waits here; whom to wake, if anybody.
    Taken(Option<Waker>),
    /// Somebody was told and has not listened yet.
    Told(P),
}

/// The places of one side.
#[derive(Debug)]
pub(super) struct Seats<P> {
    seats: Vec<Seat<P>>,
    /// The first free one, or the end of the slab.
    free: usize,
}

impl<P> Seats<P> {
    pub(super) fn new() -> Seats<P> {
        Seats { seats: Vec::new(), free: 0 }
    }

    /// The place that [`take`](Seats::take) takes.
    pub(super) fn vacant(&self) -> usize {
        self.free
    }

    /// Takes the vacant place.
    pub(super) fn take(&mut self, waker: Option<Waker>) {
        let Some(seat) = self.seats.get_mut(self.free) else {
            self.seats.push(Seat::Taken(waker));
            self.free = self.seats.len();
            return;
        };
        let Seat::Free(next) = core::mem::replace(seat, Seat::Taken(waker)) else {
            unreachable!("the vacant place was taken")
        };
        self.free = next;
    }

    /// Tells whoever has this place, and says whom to wake.
    pub(super) fn tell(&mut self, place: usize, told: P) -> Option<Waker> {
        match core::mem::replace(&mut self.seats[place], Seat::Told(told)) {
            Seat::Taken(waker) => waker,
            Seat::Free(_) | Seat::Told(_) => unreachable!("nobody waits to be told"),
        }
    }

    /// Listens at a place. Whoever was told gives its place back; otherwise `waker` will be woken
    /// in place of the one that is handed out.
    pub(super) fn listen(&mut self, place: usize, waker: &Waker) -> (Poll<P>, Option<Waker>) {
        match &mut self.seats[place] {
            Seat::Taken(Some(known)) if known.will_wake(waker) => return (Poll::Pending, None),
            Seat::Taken(known) => return (Poll::Pending, known.replace(waker.clone())),
            Seat::Free(_) | Seat::Told(_) => {}
        }
        let Seat::Told(told) = self.leave(place) else { unreachable!("nobody waits here") };
        (Poll::Ready(told), None)
    }

    /// Gives a place back, whether its owner was told or not.
    pub(super) fn leave(&mut self, place: usize) -> Seat<P> {
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
    fn sit(seats: &mut Seats<u32>) -> usize {
        let place = seats.vacant();
        seats.take(Some(Waker::noop().clone()));
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
        assert!(matches!(seats.leave(0), Seat::Taken(Some(_))));
        // The one that was given back last is the warmest.
        let again = [sit(&mut seats), sit(&mut seats), sit(&mut seats), sit(&mut seats)];
        assert_eq!(again, [0, 2, 1, 3]);
        assert_eq!(seats.listen(2, Waker::noop()).0, Poll::Pending);
    }
}
