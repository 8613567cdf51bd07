//! Places where processes meet: named match lines and named regulators, `sbroker`'s own job
//! between processes instead of inside one.
//!
//! ```text
//!   Meet ──▶ place by name ──▶ matching::Broker or matching::Regulator ──▶ Met
//! ```
//!
//! Who waits and who holds a lock is a connection. When it ends it meets nobody any more and its
//! locks are released; no other connection can name them.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use bytes::Bytes;
use matching::{Admissions, Drops, GoOn, Key, Match, Outcome, Side, Span, Time};
use slotmap::{Key as _, KeyData, SlotMap};

use crate::effect::{Effect, Out, Reason};
use crate::guard::{Guard, PrincipalId};
use crate::ids::ConnId;
use crate::wheel::Wheel;

mod words;

mod spot;

mod places;

pub use spot::{PlaceView, SideView, Tally};
pub use words::{
    LISTED_MAX, MatchRules, Meet, MeetWord, MeetingRules, Met, Place, PlaceChange, PlaceRules,
    RegulatorRules, SideRules, Wish,
};

use spot::{Kind, Spot};

/// Most locks of one regulator, whatever its valve says: each costs memory until it is done, and a
/// valve that counts by time alone lets run for ever.
const LOCKS_MAX: usize = 1_000_000;

slotmap::new_key_type! {
    struct SpotKey;
    struct WaiterKey;
    struct LockKey;
}

/// Who says a word, and how it is to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) conn: ConnId,
    pub(crate) principal: PrincipalId,
    pub(crate) tag: u64,
    pub(crate) envelope: &'a [u8],
}

impl Caller<'_> {
    fn tell(&self, answer: Met<'_>, out: &mut impl Out) {
        let Caller { conn: to, tag, envelope, .. } = *self;
        out.emit(Effect::Met { to, tag, envelope, answer });
    }
}

/// All places of one shard.
#[derive(Debug)]
pub(crate) struct Meetings {
    places_max: usize,
    spots: SlotMap<SpotKey, Spot>,
    by_name: BTreeMap<(Place, Box<[u8]>), SpotKey>,
    waiters: SlotMap<WaiterKey, Waiter>,
    /// Waiters there ever were.
    taken: u64,
    /// Whose waiters stand where and under which label: connection, spot, label, waiter.
    waits: BTreeSet<(ConnId, u64, Bytes, u64)>,
    locks: SlotMap<LockKey, Held>,
    /// Whose locks.
    holds: BTreeSet<(ConnId, u64)>,
    /// Each entry with the time it was armed for, as the engine's.
    wheel: Wheel<(SpotKey, Time)>,
    fired: Vec<(SpotKey, Time)>,
    /// Whom `matching` dropped or let run; emptied within each step.
    drops: Drops<WaiterKey, WaiterKey>,
    came: Admissions<WaiterKey>,
}

/// Somebody who waits.
#[derive(Debug)]
struct Waiter {
    conn: ConnId,
    principal: PrincipalId,
    tag: u64,
    envelope: Bytes,
    value: Bytes,
    label: Bytes,
    since: Time,
    /// Grows in the order they came.
    rank: u64,
    spot: SpotKey,
    side: Side,
    /// `None` on the way in.
    key: Option<Key>,
}

impl Waiter {
    fn bytes(&self) -> u64 {
        (self.envelope.len() + self.value.len() + self.label.len()) as u64
    }
}

/// A lock that is out.
#[derive(Debug)]
struct Held {
    conn: ConnId,
    spot: SpotKey,
    lock: matching::Lock,
    since: Time,
}

impl Meetings {
    pub(crate) fn new(rules: &MeetingRules, now: Time) -> Meetings {
        let mut meetings = Meetings {
            places_max: rules.places_max,
            spots: SlotMap::with_key(),
            by_name: BTreeMap::new(),
            waiters: SlotMap::with_key(),
            taken: 0,
            waits: BTreeSet::new(),
            locks: SlotMap::with_key(),
            holds: BTreeSet::new(),
            wheel: Wheel::new(now),
            fired: Vec::new(),
            drops: Drops::default(),
            came: Admissions::default(),
        };
        for (name, rules) in rules.each() {
            meetings.open(now, name, rules, false);
        }
        meetings
    }

    /// When [`tick`](Meetings::tick) next has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.wheel.deadline()
    }

    /// Timers that run.
    pub(crate) fn timers_len(&self) -> usize {
        self.wheel.len()
    }

    /// Does everything that is due.
    pub(crate) fn tick(&mut self, now: Time, guard: &mut Guard, out: &mut impl Out) {
        let mut fired = core::mem::take(&mut self.fired);
        self.wheel.advance(now, &mut fired);
        for (key, armed) in fired.drain(..) {
            let Some(spot) = self.spots.get_mut(key).filter(|spot| spot.armed == armed) else {
                continue;
            };
            spot.armed = Time::MAX;
            match &mut spot.kind {
                Kind::Match(_, broker) => broker.tick(now, &mut self.drops),
                Kind::Regulator(_, regulator) => regulator.tick(now, &mut self.came),
            }
            self.settle(now, key, guard, out);
        }
        self.fired = fired;
    }

    /// Somebody says a word. `closing`: nobody may begin to wait or to run.
    pub(crate) fn meet(
        &mut self,
        now: Time,
        caller: Caller<'_>,
        meet: Meet<'_>,
        closing: bool,
        guard: &mut Guard,
        out: &mut impl Out,
    ) {
        let (place, name) = (meet.place, meet.name.as_slice());
        match meet.word {
            MeetWord::Declare(rules) => {
                debug_assert_eq!(rules.place(), place, "rules for the other kind of place");
                return self.declare(now, caller, name, *rules, guard, out);
            }
            MeetWord::Remove => return self.remove(now, caller, (place, name), guard, out),
            MeetWord::List => return self.list(caller, (place, name), guard, out),
            MeetWord::Ask(..)
            | MeetWord::Cancel(_)
            | MeetWord::Len
            | MeetWord::Continue(_)
            | MeetWord::Done(..)
            | MeetWord::Update(_) => {}
        }
        let Some(key) = self.find(place, name) else {
            return caller.tell(Met::NoPlace, out);
        };
        let may = guard.may_call(caller.principal, &self.spots[key].right);
        if let MeetWord::Ask(side, _) = &meet.word {
            self.spots[key].tally.note(*side, may);
        }
        if !may {
            return caller.tell(Met::Drop { reason: Reason::Denied, sojourn: Span::ZERO }, out);
        }
        match meet.word {
            MeetWord::Ask(..) if closing => self.refuse(caller, key, Reason::Draining, out),
            MeetWord::Ask(side, wish) => {
                let value = wish.value.into_bytes();
                let label = wish.label.into_bytes();
                let until = (wish.timeout != Span::MAX).then(|| now + wish.timeout);
                let waiter = Waiter {
                    conn: caller.conn,
                    principal: caller.principal,
                    tag: caller.tag,
                    envelope: Bytes::copy_from_slice(caller.envelope),
                    value,
                    label,
                    since: now,
                    rank: 0,
                    spot: key,
                    side,
                    key: None,
                };
                match self.lets_in(now, &waiter, guard) {
                    Err(reason) => self.refuse(caller, key, reason, out),
                    Ok(()) if wish.waits => self.enter(now, waiter, until, guard, out),
                    Ok(()) => self.look_in(now, waiter, guard, out),
                }
            }
            MeetWord::Cancel(label) => {
                let label = label.into_bytes();
                let found = self.waiters_of(caller.conn, Some((key, &label)));
                let cancelled = found.len();
                for waiter in found {
                    self.withdraw(now, waiter, Met::Cancelled, guard, out);
                }
                caller.tell(Met::Number(cancelled), out);
            }
            MeetWord::Len => {
                let (a, b) = self.spots[key].kind.len();
                caller.tell(Met::Len(a, b), out);
            }
            MeetWord::Continue(_) | MeetWord::Done(..) | MeetWord::Update(_) => {
                let answer = self.regulate(now, caller.conn, key, &meet.word);
                caller.tell(answer, out);
            }
            MeetWord::Declare(_) | MeetWord::Remove | MeetWord::List => {}
        }
        self.settle(now, key, guard, out);
    }

    /// Turns somebody away at the door of a place.
    fn refuse(&mut self, caller: Caller<'_>, key: SpotKey, reason: Reason, out: &mut impl Out) {
        self.spots[key].tally.drop(reason);
        caller.tell(Met::Drop { reason, sojourn: Span::ZERO }, out);
    }

    /// A connection ended: it meets nobody any more, and what it held is free.
    pub(crate) fn gone(&mut self, now: Time, conn: ConnId, guard: &mut Guard, out: &mut impl Out) {
        // All leave before any place is looked at again: none of them is let run on the way.
        let left: Vec<Waiter> = self
            .waiters_of(conn, None)
            .into_iter()
            .filter_map(|waiter| self.forget(waiter, guard))
            .collect();
        for waiter in left {
            self.count(waiter.spot, &Met::Cancelled);
            self.unqueue(now, &waiter);
            self.settle(now, waiter.spot, guard, out);
        }
        let held: Vec<u64> =
            self.holds.range((conn, 0)..=(conn, u64::MAX)).map(|(_, lock)| *lock).collect();
        for lock in held {
            let Some(held) = self.unlock(lock) else { continue };
            if let Some(spot) = self.spots.get_mut(held.spot)
                && let Kind::Regulator(_, regulator) = &mut spot.kind
            {
                regulator.lost(now, held.lock, &mut self.came);
                self.settle(now, held.spot, guard, out);
            }
        }
    }

    /// Nobody waits from here on; who runs may finish.
    pub(crate) fn drain(&mut self, now: Time, guard: &mut Guard, out: &mut impl Out) {
        let keys: Vec<SpotKey> = self.spots.keys().collect();
        for key in keys {
            self.send_home(now, key, guard, out);
        }
    }

    /// Whether there is room for one more.
    fn lets_in(&self, now: Time, waiter: &Waiter, guard: &mut Guard) -> Result<(), Reason> {
        let (bytes, spot) = (waiter.bytes(), &self.spots[waiter.spot]);
        let waiting = spot.bytes[waiter.side as usize];
        if waiting.saturating_add(bytes) > spot.kind.side(waiter.side).bytes {
            return Err(Reason::QueueFull);
        }
        if !guard.has_room(now, waiter.principal, bytes) {
            return Err(Reason::Overload);
        }
        Ok(())
    }

    /// Meets somebody, or waits.
    fn enter(
        &mut self,
        now: Time,
        waiter: Waiter,
        until: Option<Time>,
        guard: &mut Guard,
        out: &mut impl Out,
    ) {
        let (spot, side) = (waiter.spot, waiter.side);
        let who = self.take_in(waiter, guard);
        let drops = &mut self.drops;
        let (key, met) = match &mut self.spots[spot].kind {
            Kind::Match(_, broker) => {
                let outcome = match side {
                    Side::Ask => broker.ask(now, now, who, drops),
                    Side::AskR => broker.ask_r(now, now, who, drops),
                };
                match outcome {
                    Outcome::Matched(met) => (None, Some(met)),
                    Outcome::Waiting(key) => {
                        match (until, side) {
                            (None, _) => {}
                            (Some(until), Side::Ask) => broker.expire_at(key, until),
                            (Some(until), Side::AskR) => broker.expire_at_r(key, until),
                        }
                        (Some(key), None)
                    }
                    Outcome::Dropped => (None, None),
                }
            }
            Kind::Regulator(_, regulator) => {
                let key = regulator.ask(now, now, who, &mut self.came);
                if let (Some(key), Some(until)) = (key, until) {
                    regulator.expire_at(key, until);
                }
                (key, None)
            }
        };
        if let Some(waiter) = self.waiters.get_mut(who) {
            waiter.key = key;
        }
        self.settle(now, spot, guard, out);
        if let Some(met) = met {
            self.seat(now, &met, guard, out);
        }
    }

    /// Meets somebody who is there, or goes away.
    fn look_in(&mut self, now: Time, waiter: Waiter, guard: &mut Guard, out: &mut impl Out) {
        let (spot, side) = (waiter.spot, waiter.side);
        let who = self.take_in(waiter, guard);
        let (met, stays) = match &mut self.spots[spot].kind {
            Kind::Match(_, broker) => {
                let met = match side {
                    Side::Ask => broker.try_ask(now, now, who, &mut self.drops),
                    Side::AskR => broker.try_ask_r(now, now, who, &mut self.drops),
                };
                (met.ok(), false)
            }
            Kind::Regulator(_, regulator) => {
                (None, regulator.try_ask(now, now, who, &mut self.came).is_ok())
            }
        };
        self.settle(now, spot, guard, out);
        if let Some(met) = met {
            self.seat(now, &met, guard, out);
        } else if !stays {
            self.end(who, Met::Retry, guard, out);
        }
    }

    fn take_in(&mut self, mut waiter: Waiter, guard: &mut Guard) -> WaiterKey {
        let bytes = waiter.bytes();
        self.taken += 1;
        waiter.rank = self.taken;
        guard.took(waiter.principal, bytes);
        if let Some(spot) = self.spots.get_mut(waiter.spot) {
            spot.bytes[waiter.side as usize] += bytes;
        }
        let (conn, spot, label) = (waiter.conn, waiter.spot, waiter.label.clone());
        let key = self.waiters.insert(waiter);
        self.waits.insert((conn, spot.data().as_ffi(), label, key.data().as_ffi()));
        key
    }

    /// What is said by and about those who run.
    fn regulate(
        &mut self,
        now: Time,
        conn: ConnId,
        key: SpotKey,
        word: &MeetWord<'_>,
    ) -> Met<'static> {
        let Kind::Regulator(_, regulator) = &mut self.spots[key].kind else { return Met::NoPlace };
        if let MeetWord::Update(span) = word {
            regulator.update(now, *span, &mut self.came);
            return Met::Done;
        }
        let (MeetWord::Continue(name) | MeetWord::Done(name, _)) = word else {
            return Met::NoLock;
        };
        let held = self.locks.get(LockKey::from(KeyData::from_ffi(*name)));
        let held = held.filter(|held| held.conn == conn && held.spot == key);
        let Some(Held { lock, since, .. }) = held.map(|held| Held { ..*held }) else {
            return Met::NoLock;
        };
        if let MeetWord::Done(_, ok) = word {
            regulator.done(now, lock, *ok, &mut self.came);
            self.unlock(*name);
            return Met::Done;
        }
        match regulator.go_on(now, lock, &mut self.came) {
            GoOn::Go(opened) => {
                Met::Run { lock: *name, relative: opened - now, sojourn: now - since }
            }
            GoOn::Stop => {
                self.unlock(*name);
                Met::Stop
            }
            GoOn::NotFound => {
                self.unlock(*name);
                Met::NoLock
            }
        }
    }

    /// After a place was looked at: tells whom it dropped and whom it lets run, and arms the wheel.
    fn settle(&mut self, now: Time, key: SpotKey, guard: &mut Guard, out: &mut impl Out) {
        let mut drops = core::mem::take(&mut self.drops);
        for dropped in drops.asks.drain(..).chain(drops.ask_rs.drain(..)) {
            let answer = Met::Drop { reason: dropped.reason.into(), sojourn: now - dropped.send };
            self.end(dropped.value, answer, guard, out);
        }
        self.drops = drops;
        while !self.came.admitted.is_empty() || !self.came.dropped.is_empty() {
            let came = core::mem::take(&mut self.came);
            for dropped in came.dropped {
                let sojourn = now - dropped.send;
                let answer = Met::Drop { reason: dropped.reason.into(), sojourn };
                self.end(dropped.value, answer, guard, out);
            }
            for admitted in came.admitted {
                let conn = self.waiters.get(admitted.value).map(|waiter| waiter.conn);
                if let Some(conn) = conn {
                    let held = Held { conn, spot: key, lock: admitted.lock, since: now };
                    let lock = self.locks.insert(held).data().as_ffi();
                    self.holds.insert((conn, lock));
                    let (relative, sojourn) = (admitted.relative(), admitted.sojourn(now));
                    self.end(admitted.value, Met::Run { lock, relative, sojourn }, guard, out);
                } else if let Kind::Regulator(_, regulator) = &mut self.spots[key].kind {
                    // Its connection ended within this step.
                    regulator.lost(now, admitted.lock, &mut self.came);
                }
            }
        }
        self.rest(now, key);
    }

    /// Tells two that they met.
    fn seat(
        &mut self,
        now: Time,
        met: &Match<WaiterKey, WaiterKey>,
        guard: &mut Guard,
        out: &mut impl Out,
    ) {
        let ask = self.forget(met.ask.value, guard);
        let ask_r = self.forget(met.ask_r.value, guard);
        let (Some(ask), Some(ask_r)) = (ask, ask_r) else {
            debug_assert!(false, "somebody met a waiter that had left");
            return;
        };
        if let Some(spot) = self.spots.get_mut(ask.spot) {
            spot.tally.met += 1;
        }
        let times = [(met.relative(), met.ask.send), (met.relative_r(), met.ask_r.send)];
        for ((one, other), (relative, send)) in [(&ask, &ask_r), (&ask_r, &ask)].iter().zip(times) {
            let (value, sojourn) = (other.value.clone().into(), now - send);
            let answer = Met::Go { value, relative, sojourn };
            out.emit(Effect::Met { to: one.conn, tag: one.tag, envelope: &one.envelope, answer });
        }
    }

    /// Answers somebody who waits no more.
    fn end(&mut self, key: WaiterKey, answer: Met<'_>, guard: &mut Guard, out: &mut impl Out) {
        if let Some(Waiter { conn: to, tag, envelope, spot, .. }) = self.forget(key, guard) {
            self.count(spot, &answer);
            out.emit(Effect::Met { to, tag, envelope: &envelope, answer });
        }
    }

    /// Notes what became of somebody who came to a place.
    fn count(&mut self, spot: SpotKey, answer: &Met<'_>) {
        let Some(Spot { tally, .. }) = self.spots.get_mut(spot) else { return };
        match answer {
            Met::Drop { reason, .. } => tally.drop(*reason),
            Met::Run { .. } => tally.met += 1,
            Met::Retry => tally.retries += 1,
            Met::Cancelled => tally.withdrawn += 1,
            // Both that met are counted at once, and the rest is about nobody who waited.
            Met::Go { .. }
            | Met::Number(_)
            | Met::Len(..)
            | Met::Done
            | Met::Stop
            | Met::Names(_)
            | Met::NoPlace
            | Met::NoLock => {}
        }
    }

    /// Takes somebody out of its line, and answers it.
    fn withdraw(
        &mut self,
        now: Time,
        key: WaiterKey,
        answer: Met<'_>,
        guard: &mut Guard,
        out: &mut impl Out,
    ) {
        let Some(waiter) = self.forget(key, guard) else { return };
        self.count(waiter.spot, &answer);
        self.unqueue(now, &waiter);
        let Waiter { conn: to, tag, envelope, .. } = &waiter;
        out.emit(Effect::Met { to: *to, tag: *tag, envelope, answer });
    }

    fn unqueue(&mut self, now: Time, waiter: &Waiter) {
        let (Some(key), Some(spot)) = (waiter.key, self.spots.get_mut(waiter.spot)) else { return };
        match (&mut spot.kind, waiter.side) {
            (Kind::Match(_, broker), Side::Ask) => {
                broker.cancel(now, key, &mut self.drops);
            }
            (Kind::Match(_, broker), Side::AskR) => {
                broker.cancel_r(now, key, &mut self.drops);
            }
            (Kind::Regulator(_, regulator), _) => {
                regulator.cancel(now, key, &mut self.came);
            }
        }
    }

    fn forget(&mut self, key: WaiterKey, guard: &mut Guard) -> Option<Waiter> {
        let waiter = self.waiters.remove(key)?;
        let (spot, label) = (waiter.spot.data().as_ffi(), waiter.label.clone());
        self.waits.remove(&(waiter.conn, spot, label, key.data().as_ffi()));
        let bytes = waiter.bytes();
        guard.ended(waiter.principal, bytes);
        if let Some(spot) = self.spots.get_mut(waiter.spot) {
            spot.bytes[waiter.side as usize] -= bytes;
        }
        Some(waiter)
    }

    fn unlock(&mut self, lock: u64) -> Option<Held> {
        let held = self.locks.remove(LockKey::from(KeyData::from_ffi(lock)))?;
        self.holds.remove(&(held.conn, lock));
        Some(held)
    }

    /// All that a connection waits for, or only at one place and under one label; in the order it
    /// came.
    fn waiters_of(&self, conn: ConnId, at: Option<(SpotKey, &Bytes)>) -> Vec<WaiterKey> {
        let spot = at.map_or(0, |(spot, _)| spot.data().as_ffi());
        let label = at.map_or(Bytes::new(), |(_, label)| label.clone());
        let from = self.waits.range((conn, spot, label.clone(), 0)..);
        let of_it = from.take_while(|entry| {
            entry.0 == conn && (at.is_none() || (entry.1 == spot && entry.2 == label))
        });
        let mut found: Vec<WaiterKey> =
            of_it.map(|entry| WaiterKey::from(KeyData::from_ffi(entry.3))).collect();
        found.sort_by_key(|key| self.waiters.get(*key).map(|waiter| waiter.rank));
        found
    }

    fn rest(&mut self, now: Time, key: SpotKey) {
        let Some(spot) = self.spots.get_mut(key) else { return };
        if let Some(due) = spot.kind.deadline()
            && due < spot.armed
        {
            spot.armed = due;
            self.wheel.insert(due.max(now), (key, due));
        }
    }
}
