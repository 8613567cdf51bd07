//! Two lines that wait for each other.
//!
//! At most one of the two is non-empty: an ask that finds an `ask_r` waiting takes it, otherwise it
//! waits itself. That is an invariant of the type, asserted after each call.
//!
//! Beyond `sbroker` a broker may be *shut* ([`Broker::shut`]): whoever decides how much may run at
//! a time (a [`Valve`](crate::Valve)) holds the match back, and both sides wait until it is opened.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::num::NonZero;

use crate::line::Line;
use crate::queue::{ConfigError, Dropped, Entry, Key, Queue, QueueConfig, Reason};
use crate::time::{Span, Time};

/// One of the two sides of a [`Broker`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Those who ask (requests).
    Ask,
    /// Those who ask back (offers).
    AskR,
}

/// One half of a match.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Party<T> {
    /// What asked.
    pub value: T,
    /// When it was sent.
    pub send: Time,
}

impl<T> Party<T> {
    /// How long it was in the house: `now - send`.
    #[must_use]
    pub fn sojourn(&self, now: Time) -> Span {
        now - self.send
    }
}

/// An ask and an `ask_r` that met.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Match<A, R> {
    /// The asking half.
    pub ask: Party<A>,
    /// The half that asked back.
    pub ask_r: Party<R>,
}

impl<A, R> Match<A, R> {
    /// How long the ask waited for its counterparty (negative: the counterparty was waiting).
    /// For the other half it is the same span with the sign turned.
    #[must_use]
    pub fn relative(&self) -> Span {
        self.ask_r.send - self.ask.send
    }

    /// How long the `ask_r` waited for its counterparty.
    #[must_use]
    pub fn relative_r(&self) -> Span {
        self.ask.send - self.ask_r.send
    }
}

/// What became of an ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome<A, R, K = Key> {
    /// It met a counterparty at once.
    Matched(Match<A, R>),
    /// It waits under this key.
    Waiting(K),
    /// It was refused or dropped; it is in [`Drops`] with its reason.
    Dropped,
}

/// Where a [`Broker`] leaves whom it dropped. The caller brings it, empties it and reuses it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Drops<A, R> {
    /// Dropped asks, in the order they were dropped.
    pub asks: Vec<Dropped<A>>,
    /// Dropped `ask_r`s, in the order they were dropped.
    pub ask_rs: Vec<Dropped<R>>,
}

impl<A, R> Default for Drops<A, R> {
    fn default() -> Drops<A, R> {
        Drops { asks: Vec::new(), ask_rs: Vec::new() }
    }
}

impl<A, R> Drops<A, R> {
    /// Whether nobody was dropped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asks.is_empty() && self.ask_rs.is_empty()
    }
}

/// Two lines and the rule that seats them. A line is a [`Queue`] unless another kind of [`Line`]
/// is named.
#[derive(Debug)]
pub struct Broker<A, R, LA = Queue<A>, LR = Queue<R>> {
    asks: LA,
    ask_rs: LR,
    /// The side that may wait. The other line is empty.
    waiting: Side,
    /// Nobody is seated: both sides may wait.
    shut: bool,
    values: PhantomData<(A, R)>,
}

impl<A, R> Broker<A, R> {
    /// A broker with nobody waiting.
    #[must_use]
    pub fn new(asks: QueueConfig, ask_rs: QueueConfig, now: Time) -> Broker<A, R> {
        Broker::with_lines(Queue::new(asks, now), Queue::new(ask_rs, now))
    }
}

impl<A, R, LA: Line<A>, LR: Line<R>> Broker<A, R, LA, LR> {
    /// A broker over two lines in which nobody waits yet.
    ///
    /// # Panics
    /// If somebody waits in both.
    #[must_use]
    pub fn with_lines(asks: LA, ask_rs: LR) -> Broker<A, R, LA, LR> {
        let waiting = if ask_rs.is_empty() { Side::Ask } else { Side::AskR };
        let broker = Broker { asks, ask_rs, waiting, shut: false, values: PhantomData };
        broker.check();
        broker
    }

    /// The line of asks.
    #[must_use]
    pub fn asks(&self) -> &LA {
        &self.asks
    }

    /// The line of `ask_r`s.
    #[must_use]
    pub fn ask_rs(&self) -> &LR {
        &self.ask_rs
    }

    /// Meets the next waiting `ask_r`, or waits. `send` is when the ask reached the house: the
    /// sojourn counts from there.
    pub fn ask(
        &mut self,
        now: Time,
        send: Time,
        value: A,
        drops: &mut Drops<A, R>,
    ) -> Outcome<A, R, LA::Key> {
        if let Some(entry) = self.next_ask_r(now, drops) {
            return Outcome::Matched(seat(Party { value, send }, party(entry)));
        }
        let waits = self.asks.push(now, send, value, &mut drops.asks);
        self.check();
        waits.map_or(Outcome::Dropped, Outcome::Waiting)
    }

    /// Meets the next waiting ask, or waits.
    pub fn ask_r(
        &mut self,
        now: Time,
        send: Time,
        value: R,
        drops: &mut Drops<A, R>,
    ) -> Outcome<A, R, LR::Key> {
        if let Some(entry) = self.next_ask(now, drops) {
            return Outcome::Matched(seat(party(entry), Party { value, send }));
        }
        let waits = self.ask_rs.push(now, send, value, &mut drops.ask_rs);
        self.check();
        waits.map_or(Outcome::Dropped, Outcome::Waiting)
    }

    /// Meets the next waiting `ask_r`, but does not wait.
    ///
    /// # Errors
    /// Hands the value back when nobody waits on the other side.
    pub fn try_ask(
        &mut self,
        now: Time,
        send: Time,
        value: A,
        drops: &mut Drops<A, R>,
    ) -> Result<Match<A, R>, A> {
        if let Some(entry) = self.next_ask_r(now, drops) {
            return Ok(seat(Party { value, send }, party(entry)));
        }
        self.asks.tick(now, &mut drops.asks);
        Err(value)
    }

    /// Meets the next waiting ask, but does not wait.
    ///
    /// # Errors
    /// Hands the value back when nobody waits on the other side.
    pub fn try_ask_r(
        &mut self,
        now: Time,
        send: Time,
        value: R,
        drops: &mut Drops<A, R>,
    ) -> Result<Match<A, R>, R> {
        if let Some(entry) = self.next_ask(now, drops) {
            return Ok(seat(party(entry), Party { value, send }));
        }
        self.ask_rs.tick(now, &mut drops.ask_rs);
        Err(value)
    }

    /// Puts an ask whose counterparty was lost back at the head of its line, or seats it at once
    /// with a waiting `ask_r`. Its original send time keeps its place and its sojourn; `rank`
    /// orders asks of one moment, see [`Queue::put_back`].
    pub fn ask_again(
        &mut self,
        now: Time,
        send: Time,
        rank: NonZero<u64>,
        value: A,
        drops: &mut Drops<A, R>,
    ) -> Outcome<A, R, LA::Key> {
        if let Some(entry) = self.next_ask_r(now, drops) {
            return Outcome::Matched(seat(Party { value, send }, party(entry)));
        }
        let key = self.asks.put_back(now, send, rank, value);
        self.check();
        Outcome::Waiting(key)
    }

    /// Removes a waiting ask. `None` if it left before.
    pub fn cancel(&mut self, now: Time, key: LA::Key, drops: &mut Drops<A, R>) -> Option<A> {
        self.asks.cancel(now, key, &mut drops.asks)
    }

    /// Removes a waiting `ask_r`. `None` if it left before.
    pub fn cancel_r(&mut self, now: Time, key: LR::Key, drops: &mut Drops<A, R>) -> Option<R> {
        self.ask_rs.cancel(now, key, &mut drops.ask_rs)
    }

    /// Removes several waiting asks (all with one tag, all of one connection) and says how many
    /// there were. O(1) for each.
    pub fn cancel_all(
        &mut self,
        now: Time,
        keys: impl IntoIterator<Item = LA::Key>,
        drops: &mut Drops<A, R>,
    ) -> usize {
        self.asks.cancel_all(now, keys, &mut drops.asks)
    }

    /// Removes several waiting `ask_r`s and says how many there were. O(1) for each.
    pub fn cancel_all_r(
        &mut self,
        now: Time,
        keys: impl IntoIterator<Item = LR::Key>,
        drops: &mut Drops<A, R>,
    ) -> usize {
        self.ask_rs.cancel_all(now, keys, &mut drops.ask_rs)
    }

    /// Gives a waiting ask a deadline of its own: it meets nobody from `until` on.
    pub fn expire_at(&mut self, key: LA::Key, until: Time) {
        self.asks.expire_at(key, until);
    }

    /// Gives a waiting `ask_r` a deadline of its own: it meets nobody from `until` on.
    pub fn expire_at_r(&mut self, key: LR::Key, until: Time) {
        self.ask_rs.expire_at(key, until);
    }

    /// Seats nobody until it is opened: both sides wait.
    pub fn shut(&mut self) {
        self.shut = true;
    }

    /// Whether both sides wait because the broker is shut.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.shut
    }

    /// The next two who meet although the broker is shut. Without one of the two sides the broker
    /// is open from then on: whoever comes is seated at once. Call it again and again for as long
    /// as there may be more.
    pub fn seat_next(&mut self, now: Time, drops: &mut Drops<A, R>) -> Option<Match<A, R>> {
        let first = NonZero::<u64>::MIN;
        if !self.asks.is_empty()
            && let Some(ask_r) = self.ask_rs.pop(now, &mut drops.ask_rs)
        {
            if let Some(ask) = self.asks.pop(now, &mut drops.asks) {
                return Some(seat(party(ask), party(ask_r)));
            }
            self.ask_rs.put_back(now, ask_r.send, first, ask_r.value);
        }
        self.waiting = if self.ask_rs.is_empty() { Side::Ask } else { Side::AskR };
        self.shut = false;
        self.check();
        None
    }

    /// The side that may wait: the other one is empty unless the broker is shut.
    #[must_use]
    pub fn waiting(&self) -> Side {
        self.waiting
    }

    /// Drops everybody: the broker is being closed.
    pub fn drain(&mut self, drops: &mut Drops<A, R>) {
        self.asks.clear(Reason::Draining, &mut drops.asks);
        self.ask_rs.clear(Reason::Draining, &mut drops.ask_rs);
    }

    /// Drops whoever is due on either side.
    pub fn tick(&mut self, now: Time, drops: &mut Drops<A, R>) {
        self.asks.tick(now, &mut drops.asks);
        self.ask_rs.tick(now, &mut drops.ask_rs);
    }

    /// When [`tick`](Broker::tick) next has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match (self.asks.deadline(), self.ask_rs.deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (due, None) | (None, due) => due,
        }
    }

    /// Changes both lines. Waiters keep their places, except those over a new `max`.
    pub fn reconfigure(
        &mut self,
        now: Time,
        asks: LA::Config,
        ask_rs: LR::Config,
        drops: &mut Drops<A, R>,
    ) {
        self.asks.reconfigure(now, asks, &mut drops.asks);
        self.ask_rs.reconfigure(now, ask_rs, &mut drops.ask_rs);
    }

    /// As [`reconfigure`](Broker::reconfigure), unless one of the two makes no sense: then neither
    /// line changes (quirk Q12).
    ///
    /// # Errors
    /// What [`QueueConfig::validate`] says.
    pub fn try_reconfigure(
        &mut self,
        now: Time,
        asks: LA::Config,
        ask_rs: LR::Config,
        drops: &mut Drops<A, R>,
    ) -> Result<(), ConfigError> {
        LA::validate(&asks)?;
        LR::validate(&ask_rs)?;
        self.reconfigure(now, asks, ask_rs, drops);
        Ok(())
    }

    /// The next ask to seat. Turns to the other side when there is none.
    fn next_ask(&mut self, now: Time, drops: &mut Drops<A, R>) -> Option<Entry<A>> {
        if self.waiting == Side::AskR || self.shut {
            return None;
        }
        let entry = self.asks.pop(now, &mut drops.asks);
        if entry.is_none() {
            self.waiting = Side::AskR;
        }
        entry
    }

    /// The next `ask_r` to seat. Turns to the asking side when there is none.
    fn next_ask_r(&mut self, now: Time, drops: &mut Drops<A, R>) -> Option<Entry<R>> {
        if self.waiting == Side::Ask || self.shut {
            return None;
        }
        let entry = self.ask_rs.pop(now, &mut drops.ask_rs);
        if entry.is_none() {
            self.waiting = Side::Ask;
        }
        entry
    }

    fn check(&self) {
        let one_side = self.asks.is_empty() || self.ask_rs.is_empty();
        assert!(one_side || self.shut, "both sides of a match line wait");
    }
}

fn party<T>(entry: Entry<T>) -> Party<T> {
    Party { value: entry.value, send: entry.send }
}

fn seat<A, R>(ask: Party<A>, ask_r: Party<R>) -> Match<A, R> {
    Match { ask, ask_r }
}
