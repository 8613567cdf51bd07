//! Paranoid Pirate peers: what their messages mean for a shard.

use bytes::Bytes;
use engine::{Blob, ConnId, Event, Time};
use zmtp::Message;

use super::Shard;
use crate::mdp;
use crate::ppp::{self, Word};
use crate::tongue::{Asker, Tongue};
use crate::wire::Role;

impl Shard {
    /// A message at a front end is a request, whatever it holds. `false` if it must wait.
    pub(super) fn on_pirate_client(
        &mut self,
        now: Time,
        id: ConnId,
        pair: usize,
        message: &Message<'_>,
        whole: Option<&Bytes>,
    ) -> bool {
        let Some(service) = self.service_of(pair) else { return true };
        let Some(body) = ppp::body_of(message) else {
            self.floor.garbage(id, "a request without the empty frame that REQ puts before it");
            return true;
        };
        self.take_request(now, id, message, whole, Asker::Ppp, body, &service, body)
    }

    /// What a worker said, by what the connection is:
    ///
    /// | | READY | own reply | other reply | HEARTBEAT |
    /// |---|---|---|---|---|
    /// | fresh | serves | – | dropped | dropped |
    /// | serving, idle | lives | – | dropped | lives |
    /// | serving, busy | lives | settles | dropped | lives |
    /// | expired | serves | – | dropped | serves |
    /// | dismissed | serves | serves | – | – |
    ///
    /// Dropped messages count as garbage. "serving, busy" is left by one's own reply alone, so that
    /// nothing else a busy worker says earns it a second request. A reply whose address is none of
    /// ours, of one that serves, dismisses it: it does not give addresses back, so what it holds
    /// would never be answered.
    ///
    /// Who is expired was idle, and its connection is the one on which it said READY: it serves
    /// again with its first sign of life. Who was dismissed may be busy until it answers what it
    /// was given; that answer is void.
    pub(super) fn on_pirate_worker(
        &mut self,
        now: Time,
        id: ConnId,
        pair: usize,
        message: &Message<'_>,
        whole: Option<&Bytes>,
    ) {
        let word = ppp::read(message);
        let Some(wire) = self.floor.wire(id) else { return };
        let job = wire.job;
        #[cfg(feature = "planted")]
        if self.busy_beat && word == Word::Heartbeat && job.is_some() {
            self.withdraw(now, id, Role::Expired);
            return self.enlist(now, id, pair);
        }
        match (&mut wire.role, word) {
            (_, Word::Garbage(why)) => self.floor.garbage(id, why),
            (Role::Serving(serving), Word::Ready(_) | Word::Heartbeat) => serving.last_word = now,
            (Role::Serving(serving), Word::Reply { request: Some(request), body })
                if job == Some(request) =>
            {
                serving.last_word = now;
                serving.held = 0;
                let home = serving.home;
                wire.job = None;
                let failed = message.frame(body) == Some(mdp::FAILED);
                let body = match whole {
                    Some(whole) => Blob::Shared(whole.slice(message.raw_from_offset(body)..)),
                    None => Blob::Slice(message.raw_from(body)),
                };
                let last = true;
                self.route(now, id, home, Event::Reply { conn: id, request, body, last, failed });
            }
            (Role::Serving(_), Word::Reply { request: None, .. }) => {
                self.send_away(now, id, "a reply without a valid address");
            }
            (Role::Serving(_) | Role::Expired, Word::Reply { .. }) => {
                self.floor.garbage(id, "a reply to a request it does not hold");
            }
            (
                Role::Fresh | Role::Expired | Role::Dismissed(_) | Role::Left,
                Word::Ready(letters),
            ) => {
                wire.tongue = Tongue::Ppp(letters);
                self.enlist(now, id, pair);
            }
            (Role::Expired, Word::Heartbeat) => self.enlist(now, id, pair),
            (Role::Dismissed(_), Word::Reply { request, .. })
                if job.is_some() && request == job =>
            {
                self.enlist(now, id, pair);
            }
            (Role::Fresh, Word::Heartbeat) => {
                self.floor.garbage(id, "a heartbeat before READY");
            }
            (Role::Fresh, Word::Reply { .. }) => self.floor.garbage(id, "a reply before READY"),
            (Role::Dismissed(_) | Role::Left, Word::Heartbeat | Word::Reply { .. }) => {}
        }
    }

    fn enlist(&mut self, now: Time, id: ConnId, pair: usize) {
        let Some(service) = self.service_of(pair) else { return };
        if let Some(wire) = self.floor.wire(id) {
            wire.job = None;
        }
        self.on_ready(now, id, &service, 1);
    }

    fn service_of(&self, pair: usize) -> Option<Bytes> {
        self.floor.config.pairs.get(pair).map(|pair| pair.service.clone())
    }
}
