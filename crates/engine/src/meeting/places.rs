//! Which places there are: configured ones, and those declared while the house is open.
//!
//! | | configured | declared while open |
//! |---|---|---|
//! | declared again | new rules, until configured again | new rules |
//! | removed | gone, until configured again | gone |
//! | configured again, named | the rules configured | becomes a configured one |
//! | configured again, not named | gone | stays |

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Bound;

use bytes::Bytes;
use matching::{QueueConfig, Span, Time};
use slotmap::Key as _;

use super::spot::{Kind, PlaceView, Spot, bounded};
use super::words::{LISTED_MAX, MeetingRules, Met, Place, PlaceChange, PlaceRules};
use super::{Caller, Meetings, SpotKey, WaiterKey};
use crate::effect::{Effect, Out, Reason};
use crate::guard::Guard;

impl Meetings {
    /// Every place, by kind and name.
    pub(crate) fn views(&self) -> impl Iterator<Item = PlaceView<'_>> {
        self.by_name.iter().filter_map(|((_, name), key)| Some(self.spots.get(*key)?.view(name)))
    }

    /// One place.
    pub(crate) fn view(&self, place: Place, name: &[u8]) -> Option<PlaceView<'_>> {
        let ((_, name), key) = self.by_name.get_key_value(&(place, name.into()))?;
        Some(self.spots.get(*key)?.view(name))
    }

    pub(super) fn find(&self, place: Place, name: &[u8]) -> Option<SpotKey> {
        self.by_name.get(&(place, name.into())).copied()
    }

    /// New rules, see the table above.
    pub(crate) fn configure(
        &mut self,
        now: Time,
        rules: &MeetingRules,
        guard: &mut Guard,
        out: &mut impl Out,
    ) {
        self.places_max = rules.places_max;
        let stays = |place, name: &[u8], spot: &Spot| spot.live || rules.name(place, name);
        let closed = self.by_name.iter().filter(|((place, name), key)| {
            self.spots.get(**key).is_none_or(|spot| !stays(*place, name, spot))
        });
        let closed: Vec<(Place, Box<[u8]>)> = closed.map(|(name, _)| name.clone()).collect();
        for (place, name) in closed {
            self.close(now, place, &name, guard, out);
        }
        for (name, rules) in rules.each() {
            self.set(now, name, rules, false, guard, out);
        }
    }

    /// Starts a place, or changes it.
    pub(super) fn declare(
        &mut self,
        now: Time,
        caller: Caller<'_>,
        name: &[u8],
        rules: PlaceRules,
        guard: &mut Guard,
        out: &mut impl Out,
    ) {
        let refused = |reason| Met::Drop { reason, sojourn: Span::ZERO };
        if !guard.may_administer(caller.principal) {
            return caller.tell(refused(Reason::Denied), out);
        }
        let known = self.find(rules.place(), name);
        if known.is_none() && self.by_name.len() >= self.places_max {
            return caller.tell(refused(Reason::QueueFull), out);
        }
        let live = known.and_then(|key| self.spots.get(key)).is_none_or(|spot| spot.live);
        self.set(now, name, rules, live, guard, out);
        caller.tell(Met::Done, out);
    }

    /// Stops a place.
    pub(super) fn remove(
        &mut self,
        now: Time,
        caller: Caller<'_>,
        (place, name): (Place, &[u8]),
        guard: &mut Guard,
        out: &mut impl Out,
    ) {
        if !guard.may_administer(caller.principal) {
            let answer = Met::Drop { reason: Reason::Denied, sojourn: Span::ZERO };
            return caller.tell(answer, out);
        }
        let found = self.close(now, place, name, guard, out);
        caller.tell(if found { Met::Done } else { Met::NoPlace }, out);
    }

    /// Names the places behind `name` that somebody may use.
    pub(super) fn list(
        &self,
        caller: Caller<'_>,
        (place, name): (Place, &[u8]),
        guard: &Guard,
        out: &mut impl Out,
    ) {
        let from: (Place, Box<[u8]>) = (place, name.into());
        let behind = self.by_name.range((Bound::Excluded(from), Bound::Unbounded));
        let names = behind
            .take_while(|((kind, _), _)| *kind == place)
            .filter(|(_, key)| {
                let spot = self.spots.get(**key);
                spot.is_some_and(|spot| guard.lets_call(caller.principal, &spot.right))
            })
            .take(LISTED_MAX)
            .map(|((_, name), _)| Bytes::copy_from_slice(name));
        caller.tell(Met::Names(names.collect()), out);
    }

    /// Starts or changes a place, and says so if it makes a difference.
    fn set(
        &mut self,
        now: Time,
        name: &[u8],
        rules: PlaceRules,
        live: bool,
        guard: &mut Guard,
        out: &mut impl Out,
    ) {
        let place = rules.place();
        let change = match self.find(place, name) {
            None => {
                self.open(now, name, rules, live);
                Some(PlaceChange::Started)
            }
            Some(key) => {
                let changes = self.change(now, key, rules, live, guard, out);
                changes.then_some(PlaceChange::Changed)
            }
        };
        if let Some(change) = change {
            out.emit(Effect::Place { place, name, change });
        }
    }

    pub(super) fn open(&mut self, now: Time, name: &[u8], rules: PlaceRules, live: bool) {
        let key = self.spots.insert(Spot::new(now, name, rules, live));
        self.by_name.insert((rules.place(), name.into()), key);
        self.rest(now, key);
    }

    /// Whether it makes a difference.
    fn change(
        &mut self,
        now: Time,
        key: SpotKey,
        rules: PlaceRules,
        live: bool,
        guard: &mut Guard,
        out: &mut impl Out,
    ) -> bool {
        self.spots[key].live = live;
        let changed = match (&mut self.spots[key].kind, rules) {
            (Kind::Match(before, broker), PlaceRules::Match(rules)) if *before != rules => {
                *before = rules;
                broker.reconfigure(now, rules.ask.queue, rules.ask_r.queue, &mut self.drops);
                true
            }
            (Kind::Regulator(before, regulator), PlaceRules::Regulator(rules))
                if *before != rules =>
            {
                let (queue, valve): (QueueConfig, _) = (rules.line.queue, bounded(rules.valve));
                // What makes no sense was refused where it was read.
                let done = regulator.reconfigure(now, queue, valve, &mut self.came).is_ok();
                if done {
                    *before = rules;
                }
                done
            }
            (
                Kind::Match(..) | Kind::Regulator(..),
                PlaceRules::Match(_) | PlaceRules::Regulator(_),
            ) => false,
        };
        self.settle(now, key, guard, out);
        changed
    }

    /// Stops a place. Whether there was one.
    fn close(
        &mut self,
        now: Time,
        place: Place,
        name: &[u8],
        guard: &mut Guard,
        out: &mut impl Out,
    ) -> bool {
        let Some(key) = self.by_name.remove(&(place, name.into())) else { return false };
        self.send_home(now, key, guard, out);
        self.spots.remove(key);
        let Meetings { locks, holds, .. } = self;
        locks.retain(|lock, held| {
            let stays = held.spot != key;
            stays || !holds.remove(&(held.conn, lock.data().as_ffi()))
        });
        out.emit(Effect::Place { place, name, change: PlaceChange::Stopped });
        true
    }

    /// Drops all who wait at a place with `draining`.
    pub(super) fn send_home(
        &mut self,
        now: Time,
        key: SpotKey,
        guard: &mut Guard,
        out: &mut impl Out,
    ) {
        let mut waiters: Vec<(u64, Time, WaiterKey)> = self
            .waiters
            .iter()
            .filter(|(_, waiter)| waiter.spot == key)
            .map(|(key, waiter)| (waiter.rank, waiter.since, key))
            .collect();
        waiters.sort_unstable();
        for (_, since, waiter) in waiters {
            let answer = Met::Drop { reason: Reason::Draining, sojourn: now - since };
            self.withdraw(now, waiter, answer, guard, out);
        }
        self.settle(now, key, guard, out);
    }
}
