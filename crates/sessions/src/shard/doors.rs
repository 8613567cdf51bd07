//! The way in: handshakes that take work, claims that are judged, and what becomes of those who are
//! inside when the rules change.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem;

use engine::{ConnId, PrincipalId, Time};
use zmtp::{Work, Worked};

use super::Shard;
use crate::door::Credentials;
use crate::floor::CloseReason;
use crate::wire::{Codec, Wire};

impl Shard {
    /// How each listener's peers are asked who they are, by [`Dialect::door`](crate::Dialect).
    #[must_use]
    pub fn doors(&self) -> &[zmtp::Config] {
        &self.doors
    }

    /// Handshakes that wait for [`take_work`](Shard::take_work).
    #[must_use]
    pub fn work_len(&self) -> usize {
        self.work.len()
    }

    /// The next costly step of a handshake, to be run wherever it holds nobody up; then
    /// [`worked`](Shard::worked). With it, the place of its configuration in
    /// [`doors`](Shard::doors).
    pub fn take_work(&mut self) -> Option<(ConnId, usize, Work)> {
        while let Some((id, work)) = self.work.pop_front() {
            if let Some(wire) = self.floor.wire(id).filter(|wire| !wire.closing) {
                return Some((id, usize::from(wire.dialect.door), work));
            }
        }
        None
    }

    /// What came of a step of a handshake.
    pub fn worked(&mut self, now: Time, id: ConnId, worked: Worked) {
        self.floor.now = now;
        let Some(Wire { codec: Codec::Zmtp(zmtp), outbox, dialect, .. }) = self.floor.touch(id)
        else {
            return;
        };
        let config = &self.doors[usize::from(dialect.door)];
        match zmtp.finish(config, worked, outbox.small()) {
            Ok(event) => {
                self.on_zmtp(now, id, event);
                // What it said meanwhile was left alone.
                self.floor.resumed.push_back(id);
            }
            Err(error) => self.turn_out(id, &error),
        }
        self.settle(now);
    }

    /// A layer below ZMTP, which the shell keeps, refused the peer: `kind` is a stable label, `why`
    /// is for people.
    pub fn fail_below(&mut self, now: Time, id: ConnId, kind: &'static str, why: String) {
        self.floor.counters.failed_handshakes += 1;
        self.floor.die(id, CloseReason::Zmtp(kind, why));
        self.settle(now);
    }

    /// Too many handshakes of a layer below ZMTP wait to be computed.
    pub fn crowd_out(&mut self, now: Time, id: ConnId) {
        self.crowd(id);
        self.settle(now);
    }

    fn crowd(&mut self, id: ConnId) {
        self.floor.counters.crowded += 1;
        self.floor.die(id, CloseReason::Crowded);
    }

    /// Puts a step where it will be found: behind others of its kind, but those who showed that
    /// they get our answers come before those who did not.
    pub(super) fn queue_work(&mut self, id: ConnId) {
        let zmtp = self.floor.wire(id).and_then(Wire::zmtp);
        let Some(work) = zmtp.and_then(zmtp::Connection::take_work) else { return };
        let most = self.floor.config.limits.handshakes;
        // Looked for only if there may be many, so that nobody can make us look all the time.
        if self.work.len() >= most && self.abandoned >= most.div_ceil(2) {
            self.abandoned = 0;
            let floor = &mut self.floor;
            self.work.retain(|(id, _)| floor.wire(*id).is_some_and(|wire| !wire.closing));
        }
        if self.work.len() >= most {
            return self.crowd(id);
        }
        if work.is_urgent() {
            self.work.push_front((id, work));
        } else {
            self.work.push_back((id, work));
        }
    }

    /// A peer says who it is.
    pub(super) fn on_claim(&mut self, now: Time, id: ConnId) {
        let Some(zmtp) = self.floor.wire(id).and_then(Wire::zmtp) else { return };
        let Some(claim) = zmtp.claim() else { return };
        let known = self
            .credentials
            .check(&claim)
            .and_then(|(name, proof)| Some((self.engine.principal(name)?, proof)));
        let Some(wire) = self.floor.touch(id) else { return };
        let Codec::Zmtp(zmtp) = &mut wire.codec else { return };
        if let Some((principal, proof)) = known {
            (wire.principal, wire.proof) = (principal, Some(Box::new(proof)));
            let config = &self.doors[usize::from(wire.dialect.door)];
            let event = zmtp.admit(config, wire.outbox.small());
            self.on_zmtp(now, id, event);
        } else {
            let error = zmtp.deny(wire.outbox.small());
            self.floor.counters.denied += 1;
            self.turn_out(id, &error);
        }
    }

    /// Ends a connection that broke the protocol or may not come in, after what it was told.
    pub(super) fn turn_out(&mut self, id: ConnId, error: &zmtp::Error) {
        if self.floor.wire(id).is_some_and(|wire| !wire.is_through()) {
            self.floor.counters.failed_handshakes += 1;
        }
        self.floor.die(id, CloseReason::Zmtp(error.kind(), error.to_string()));
        if let Some(wire) = self.floor.wire(id) {
            wire.closing = true;
        }
    }

    /// New credentials: who came in with one that is no longer good has to leave.
    pub(super) fn replace_credentials(&mut self, new: Credentials) {
        let before = mem::replace(&mut self.credentials, new);
        let ids: Vec<ConnId> = self.floor.wires().map(|(id, _)| id).collect();
        for id in ids {
            let Some(wire) = self.floor.wire(id) else { continue };
            let Some(proof) = wire.proof.as_deref() else { continue };
            let name = self.credentials.check_again(&before, proof);
            match name.and_then(|name| self.engine.principal(name)) {
                Some(principal) => wire.principal = principal,
                None => {
                    wire.principal = PrincipalId::ANONYMOUS;
                    self.floor.die(id, CloseReason::Revoked);
                }
            }
        }
    }
}
