//! What the real shell does around a shard: read, flush, close, carry across, call when due.

use engine::{ConnId, Span, Time};
use sessions::{Note, Outcome, Want};

use super::net::Way;
use super::{What, World};
use crate::{Bug, Violation};

/// The shell's read buffer.
pub(super) const READ_BUFFER: usize = 64 * 1024;

impl World<'_> {
    /// Octets or the end of the stream reach the broker.
    pub(super) fn on_octets_up(&mut self, link: usize, octets: usize) -> Result<(), Violation> {
        self.links[link].up.arrive(octets);
        self.broker_reads(link)
    }

    pub(super) fn broker_reads(&mut self, link: usize) -> Result<(), Violation> {
        let (shard, id) = (self.links[link].shard, self.links[link].id);
        while !self.links[link].broker_done && self.links[link].up.readable() > 0 {
            let want = self.shards[shard].want(id);
            if want == Want::Paused {
                break;
            }
            self.read_once(link, want);
            self.turn(shard)?;
            let state = &self.links[link];
            if state.leaves_at.is_some_and(|at| state.up.read >= at)
                && !state.broker_done
                && self.shards[shard].want(id) != Want::Paused
            {
                self.forget_worker(link);
            }
        }
        let state = &mut self.links[link];
        if state.up.ended && state.up.is_drained() && !state.broker_done {
            if self.bug == Some(Bug::UnnoticedEnd) && self.rng.chance(20) {
                return Ok(());
            }
            return self.broker_loses(link);
        }
        // The end is noticed even where nothing is read.
        if state.up.ended && state.up.has_arrived() && !state.broker_done && self.setting.sees_end {
            return self.broker_loses(link);
        }
        if !state.peer_done {
            let peer = state.peer;
            self.pump(peer);
        }
        Ok(())
    }

    fn read_once(&mut self, link: usize, want: Want) {
        let (shard, id) = (self.links[link].shard, self.links[link].id);
        let most = if self.rng.chance(70) {
            READ_BUFFER
        } else {
            1 + self.rng.skewed(READ_BUFFER as u64 - 1) as usize
        };
        if want == Want::Direct {
            let Some(into) = self.shards[shard].direct(id) else { return };
            let spare = into.capacity() - into.len();
            into.extend(self.links[link].up.take(spare.min(most)));
            self.shards[shard].received_direct(self.now, id);
        } else {
            let pending = self.shards[shard].take_pending(id, &mut self.buffer);
            let bytes = self.links[link].up.take(most.min(READ_BUFFER - pending));
            let end = pending + bytes.len();
            self.buffer[pending..end].copy_from_slice(&bytes);
            self.shards[shard].received(self.now, id, &mut self.buffer[..end]);
        }
        let read = self.links[link].up.read;
        self.log.event(self.now, "broker reads", link as u64, read, || {
            format!("link {link} up to octet {read}")
        });
    }

    /// The broker learns that a connection ended.
    pub(super) fn broker_loses(&mut self, link: usize) -> Result<(), Violation> {
        if self.links[link].broker_done {
            return Ok(());
        }
        let (shard, id) = (self.links[link].shard, self.links[link].id);
        self.log.event(self.now, "broker loses", link as u64, 0, || format!("link {link}"));
        self.shards[shard].closed(self.now, id);
        self.broker_forgets(link);
        self.turn(shard)
    }

    fn broker_forgets(&mut self, link: usize) {
        self.links[link].broker_done = true;
        self.book.broker_lost(self.now, link);
        self.links[link].up.lose();
        self.link_by_conn.remove(&self.links[link].id);
        self.forget_worker(link);
    }

    pub(super) fn on_tick(&mut self, shard: usize) -> Result<(), Violation> {
        if self.armed[shard] > self.now {
            return Ok(());
        }
        self.armed[shard] = Time::MAX;
        self.ticks += 1;
        self.shards[shard].tick(self.now);
        if self.shards[shard].deadline().is_some_and(|due| due <= self.now) {
            return Err(self.violation("timers", "due again at once".into()));
        }
        self.turn(shard)
    }

    pub(super) fn on_cross(
        &mut self,
        from: usize,
        to: usize,
        count: usize,
    ) -> Result<(), Violation> {
        for _ in 0..count {
            let queue = self.cross.entry((from, to)).or_default();
            if self.bug == Some(Bug::CrossReordered) && queue.len() > 1 && self.rng.chance(20) {
                queue.swap(0, 1);
            }
            let Some(cross) = queue.pop_front() else { break };
            self.log.event(self.now, "crosses", from as u64, to as u64, || format!("{cross:?}"));
            self.shards[to].cross_in(self.now, cross);
        }
        self.turn(to)
    }

    /// For callers that cannot fail: what a shard left is looked at with its next event.
    pub(super) fn turn_or_remember(&mut self, shard: usize) {
        let mut touched = Vec::new();
        self.shards[shard].take_touched(&mut touched);
        for id in touched {
            if let Some(link) = self.link_by_conn.get(&id).copied() {
                self.flush(link);
            }
        }
        self.arm_shard(shard);
    }

    /// Carries out everything a shard left for the shell.
    pub(super) fn turn(&mut self, shard: usize) -> Result<(), Violation> {
        loop {
            let mut idle = true;
            let (mut touched, mut closing, mut resumed) = (Vec::new(), Vec::new(), Vec::new());
            self.shards[shard].take_touched(&mut touched);
            for id in touched {
                idle = false;
                if let Some(link) = self.link_by_conn.get(&id).copied() {
                    self.flush(link);
                }
            }
            self.shards[shard].take_closing(&mut closing);
            for id in closing {
                idle = false;
                self.broker_closes(shard, id);
            }
            self.shards[shard].take_resumed(&mut resumed);
            for id in resumed {
                idle = false;
                let forgets = self.bug == Some(Bug::LostWakeUp) && self.rng.chance(50);
                if let Some(link) = self.link_by_conn.get(&id).copied().filter(|_| !forgets) {
                    self.at(self.now, What::Arrive { link, way: Way::Up, octets: 0 });
                }
            }
            idle &= !self.take_outcomes(shard)?;
            if idle {
                break;
            }
        }
        self.send_across(shard);
        let notes = std::mem::take(self.shards[shard].notes());
        for note in notes {
            self.drained += usize::from(note == Note::Drained);
            self.log.event(self.now, "note", shard as u64, 0, || format!("{note:?}"));
        }
        self.arm_shard(shard);
        self.check_shard(shard)
    }

    /// Writes what waits for a peer, as far as its pipe has room.
    pub(super) fn flush(&mut self, link: usize) {
        let (shard, id) = (self.links[link].shard, self.links[link].id);
        loop {
            let room = self.links[link].down.room(&self.weather);
            let Some(outbox) = self.shards[shard].outbox(id) else { return };
            let mut pieces: [&[u8]; 16] = [&[]; 16];
            let count = outbox.pieces(&mut pieces);
            let mut bytes: Vec<u8> = Vec::new();
            for piece in &pieces[..count] {
                let fits = piece.len().min(room - bytes.len());
                bytes.extend_from_slice(&piece[..fits]);
            }
            if bytes.is_empty() {
                return;
            }
            let state = &mut self.links[link];
            self.log.event(self.now, "broker writes", link as u64, bytes.len() as u64, || {
                format!("{} octets on link {link}", bytes.len())
            });
            self.log.bytes(&bytes);
            if !state.peer_done {
                let arrivals = state.down.write(self.now, &bytes, &self.weather, &mut self.rng);
                let silent = state.silent;
                for (at, octets) in arrivals {
                    if !silent {
                        self.at(at, What::Arrive { link, way: Way::Down, octets });
                    }
                }
            }
            self.shards[shard].wrote(self.now, id, bytes.len());
        }
    }

    fn broker_closes(&mut self, shard: usize, id: ConnId) {
        let Some(link) = self.link_by_conn.get(&id).copied() else { return };
        self.log.event(self.now, "broker closes", link as u64, 0, || format!("link {link}"));
        self.flush(link);
        self.shards[shard].closed(self.now, id);
        self.broker_forgets(link);
        let (weather, silent) = (self.weather, self.links[link].silent);
        self.links[link].down.ended = true;
        let at = self.links[link].down.next_arrival(self.now, &weather, &mut self.rng);
        if !silent {
            self.at(at, What::Arrive { link, way: Way::Down, octets: 0 });
        }
    }

    fn take_outcomes(&mut self, shard: usize) -> Result<bool, Violation> {
        let mut outcomes = Vec::new();
        self.shards[shard].take_outcomes(&mut outcomes);
        let any = !outcomes.is_empty();
        for (id, outcome) in outcomes {
            let Some(request) = self.calls.remove(&id) else {
                let text = format!("{id:?} hung up, or was told before: {outcome:?}");
                return Err(self.violation("ends once", text));
            };
            self.shards[shard].hang_up(self.now, id);
            let body = match outcome {
                Outcome::Reply(body) => {
                    Some(zmtp::raw_frames(&body).map(|(_, frame)| frame.to_vec()).collect())
                }
                Outcome::Refused(_) => None,
            };
            self.ledger.hear_local(request, body)?;
        }
        Ok(any)
    }

    fn send_across(&mut self, shard: usize) {
        let mut left = Vec::new();
        self.shards[shard].take_cross(&mut left);
        let mut counts = std::collections::BTreeMap::new();
        for (to, cross) in left {
            let to = usize::from(to);
            self.cross.entry((shard, to)).or_default().push_back(cross);
            *counts.entry(to).or_insert(0) += 1;
        }
        for (to, count) in counts {
            let late = self.rng.skewed(self.setting.cross_delay.as_nanos() as u64) as i64;
            let last = self.cross_last.get(&(shard, to)).copied().unwrap_or(self.now);
            let at = last.max(self.now + Span::from_nanos(late));
            self.cross_last.insert((shard, to), at);
            self.at(at, What::Cross { from: shard, to, count });
        }
    }

    fn arm_shard(&mut self, shard: usize) {
        let Some(due) = self.shards[shard].deadline() else { return };
        if due < self.armed[shard] {
            let late = if self.faulty { self.rng.skewed(3_000_000) as i64 } else { 0 };
            self.armed[shard] = due;
            self.at(due + Span::from_nanos(late), What::Tick { shard });
        }
    }

    /// What must hold after every turn.
    fn check_shard(&self, shard: usize) -> Result<(), Violation> {
        let house = &self.shards[shard];
        for view in house.engine().services() {
            if view.offers > 0 && view.waiting > 0 && view.shut != Some(true) {
                let text = format!("{:?}: {} wait, {} free", view.name, view.waiting, view.offers);
                return Err(self.violation("nothing waits while an offer is free", text));
            }
            // What returns from lost workers comes on top of the bound.
            if view.waiting > self.setting.queue_max + self.setting.offers_max {
                let text = format!("{:?}: {} wait", view.name, view.waiting);
                return Err(self.violation("bounds", text));
            }
        }
        let limits = house.config().limits;
        if house.counters().connections > limits.connections as u64 {
            let text = format!("{} connections", house.counters().connections);
            return Err(self.violation("bounds", text));
        }
        for view in house.connections() {
            if view.out_bytes > limits.out_bytes + self.setting.message_max {
                let text = format!("{} octets wait for {:?}", view.out_bytes, view.id);
                return Err(self.violation("bounds", text));
            }
        }
        Ok(())
    }
}
