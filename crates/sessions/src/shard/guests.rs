//! Callers from inside the process who meet others, such as HTTP requests.
//!
//! Whoever meets is a connection, and a call from inside is one until it has its answer. Where it
//! needs more than that:
//!
//! * a lock is held beyond the answer by a *lease*: the call stays, as a connection would, until
//!   its lease ends, and whoever knows its secret speaks in its name;
//! * a label is found by every call of the same principal.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use bytes::Bytes;
use engine::{Blob, ConnId, Event, Meet, MeetWord, Met, Place, PrincipalId, Span, Time};

use super::Shard;
use crate::floor::{Floor, Outcome};
use crate::mdp::{Mmi, Tag, Version};

/// For how long a caller from inside keeps a lock without a sign of life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Counts from when it was let run, and anew whenever it goes on.
    pub span: Span,
    /// Who knows it speaks in the name of the call; not to be guessed.
    pub secret: u128,
}

/// A caller that may be let run.
#[derive(Debug)]
pub(crate) struct Guest {
    principal: PrincipalId,
    lease: Lease,
    /// The lock it holds, and until when.
    lock: Option<(u64, Time)>,
    armed: Time,
}

impl Guest {
    pub(crate) fn new(principal: PrincipalId, lease: Lease) -> Box<Guest> {
        Box::new(Guest { principal, lease, lock: None, armed: Time::MAX })
    }
}

/// Who waits under which label: principal, place, name, label.
type Label = (PrincipalId, Place, Bytes, Bytes);

/// The labels of callers from inside.
#[derive(Debug, Default)]
pub(super) struct Labels {
    callers: BTreeSet<(Label, ConnId)>,
    by_caller: BTreeMap<ConnId, Label>,
}

impl Labels {
    fn add(&mut self, id: ConnId, label: Label) {
        self.callers.insert((label.clone(), id));
        self.by_caller.insert(id, label);
    }

    pub(super) fn forget(&mut self, id: ConnId) {
        if let Some(label) = self.by_caller.remove(&id) {
            self.callers.remove(&(label, id));
        }
    }

    fn find(&self, label: &Label) -> Vec<ConnId> {
        let first = (label.clone(), ConnId::new(0, 0, 0));
        let from = self.callers.range(first..);
        from.take_while(|(other, _)| other == label).map(|(_, id)| *id).collect()
    }
}

impl Floor {
    /// Notes what an answer means for the lock of a caller from inside.
    pub(crate) fn note_guest(&mut self, id: ConnId, answer: &Met<'_>) {
        let now = self.now;
        let Some(guest) = self.local(id).and_then(|local| local.guest.as_mut()) else { return };
        match answer {
            Met::Run { lock, .. } => {
                let until = now + guest.lease.span;
                guest.lock = Some((*lock, until));
                if until < guest.armed {
                    guest.armed = until;
                    self.wheel.insert(until, (id, until));
                }
            }
            Met::Done | Met::Stop => guest.lock = None,
            Met::Go { .. }
            | Met::Drop { .. }
            | Met::Retry
            | Met::Cancelled
            | Met::Number(_)
            | Met::Len(..)
            | Met::Names(_)
            | Met::NoPlace
            | Met::NoLock => {}
        }
    }
}

impl Shard {
    /// Whether a call stays after its outcome, because it holds a lock.
    pub fn stays(&mut self, id: ConnId) -> bool {
        let guest = self.floor.local(id).and_then(|local| local.guest.as_ref());
        guest.is_some_and(|guest| guest.lock.is_some())
    }

    /// Goes on under the lock of a call that stays, for another lease of `span` or one as long as
    /// before. There will be an outcome under its id. `false` if it holds none, or if this is not
    /// its principal or not its secret.
    pub fn go_on(
        &mut self,
        now: Time,
        id: ConnId,
        whose: (PrincipalId, u128),
        name: &[u8],
        span: Option<Span>,
    ) -> bool {
        let Some((lock, guest)) = self.guest(id, whose) else { return false };
        guest.lease.span = span.unwrap_or(guest.lease.span);
        self.speak(now, id, whose.0, name, MeetWord::Continue(lock));
        true
    }

    /// The work under the lock of a call that stays is done, well or not. Otherwise as
    /// [`go_on`](Shard::go_on).
    pub fn done(
        &mut self,
        now: Time,
        id: ConnId,
        whose: (PrincipalId, u128),
        name: &[u8],
        ok: bool,
    ) -> bool {
        let Some((lock, _)) = self.guest(id, whose) else { return false };
        self.speak(now, id, whose.0, name, MeetWord::Done(lock, ok));
        true
    }

    fn guest(&mut self, id: ConnId, whose: (PrincipalId, u128)) -> Option<(u64, &mut Guest)> {
        let guest = self.floor.local(id)?.guest.as_mut()?;
        let (lock, _) = guest.lock?;
        (whose == (guest.principal, guest.lease.secret)).then_some((lock, guest))
    }

    fn speak(
        &mut self,
        now: Time,
        id: ConnId,
        principal: PrincipalId,
        name: &[u8],
        word: MeetWord<'_>,
    ) {
        let place = Place::Regulator;
        self.say(now, id, principal, Meet { place, name: Blob::Slice(name), word });
        self.settle(now);
    }

    fn say(&mut self, now: Time, id: ConnId, principal: PrincipalId, word: Meet<'_>) {
        let home = self.home_of(word.name.as_slice());
        let mmi = Some(Mmi::Meet(word.place));
        let tag = Tag { version: Version::V02, service_frame: true, mmi }.pack();
        let envelope = Blob::Slice(b"");
        self.route(now, id, home, Event::Meet { conn: id, principal, tag, envelope, word });
    }

    /// The lease of a caller from inside may have ended.
    pub(super) fn on_lease_end(&mut self, now: Time, id: ConnId, armed: Time) {
        let Some(local) = self.floor.local(id) else { return };
        let Some(guest) = local.guest.as_mut().filter(|guest| guest.armed == armed) else { return };
        guest.armed = Time::MAX;
        let Some((_, until)) = guest.lock else { return };
        if until <= now {
            return self.hang_up(now, id);
        }
        guest.armed = until;
        self.floor.wheel.insert(until, (id, until));
    }

    /// Notes the label of a caller from inside; withdraws all that wait under it if it says so.
    /// Whether the word is answered.
    pub(super) fn cancels_labelled(
        &mut self,
        now: Time,
        id: ConnId,
        principal: PrincipalId,
        meet: &Meet<'_>,
    ) -> bool {
        if self.floor.local(id).is_none() {
            return false;
        }
        let key = |label: &Blob<'_>| {
            let [name, label] = [&meet.name, label].map(|b| Bytes::copy_from_slice(b.as_slice()));
            (principal, meet.place, name, label)
        };
        let label = match &meet.word {
            MeetWord::Ask(_, wish) => {
                if !wish.label.as_slice().is_empty() {
                    self.labels.add(id, key(&wish.label));
                }
                return false;
            }
            MeetWord::Cancel(label) => label,
            MeetWord::Len
            | MeetWord::Continue(_)
            | MeetWord::Done(..)
            | MeetWord::Update(_)
            | MeetWord::Declare(_)
            | MeetWord::Remove
            | MeetWord::List => return false,
        };
        let mut found = self.labels.find(&key(label));
        // Whoever has its answer waits no more, even if it has not been told.
        found.retain(|found| !self.floor.outcomes.iter().any(|(id, _)| id == found));
        if found.is_empty() {
            return false;
        }
        for waiter in &found {
            self.labels.forget(*waiter);
            self.say(now, *waiter, principal, meet.clone());
        }
        let mut answer = Vec::new();
        crate::meet::with_frames(&Met::Number(found.len()), |frames| {
            for (i, frame) in frames.iter().enumerate() {
                zmtp::put_frame(&mut answer, i + 1 < frames.len(), frame);
            }
        });
        self.floor.outcomes.push((id, Outcome::Reply(answer)));
        true
    }
}
