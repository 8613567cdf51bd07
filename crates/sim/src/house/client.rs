//! Clients: lockstep or pipelined, alone or behind proxies, patient or not.

use engine::{Span, Time};
use sessions::Speaks;
use zmtp::SocketType;

use super::ledger::Ledger;
use super::speaker::Speaker;
use super::words::{ClientReply, Dialect, Frames, Letters};
use super::{SERVICES, Truth};
use crate::Violation;
use crate::rng::Rng;

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) dialect: Dialect,
    pub(crate) socket_type: SocketType,
    /// Proxies between it and the broker: frames of the return stack.
    hops: u64,
    window: usize,
    /// Requests it still makes.
    pub(crate) left: u32,
    think: Span,
    /// It hangs up when nothing came for so long.
    patience: Span,
    /// Percent of its requests that ask the broker about a service.
    curious: u64,
    favourite: usize,
    open: Vec<u64>,
    /// Questions to the broker itself, in order: the service, and since when it surely had no
    /// worker.
    questions: Vec<(usize, Option<Time>)>,
    ask_at: Time,
    heard: Time,
}

impl Client {
    pub(crate) fn some(rng: &mut Rng, names_service: bool) -> Client {
        // Of a Paranoid Pirate queue, which is told by its endpoint alone.
        let pirate = rng.chance(30).then_some(Letters::Octets);
        let lockstep = rng.chance(35);
        let req = lockstep && rng.chance(50);
        let v02 = !req && pirate.is_none() && rng.chance(50);
        let hops = if rng.chance(60) && !req { 1 + rng.below(3) } else { 0 };
        let flood = !lockstep && rng.chance(25);
        let delimiter = !v02 || hops > 0 || rng.chance(40);
        Client {
            dialect: Dialect { v02, delimiter, names_service, pirate },
            socket_type: if req { SocketType::Req } else { SocketType::Dealer },
            hops,
            window: if lockstep { 1 } else { 1 + rng.skewed(200) as usize },
            left: if flood { 200 } else { 5 + rng.skewed(60) as u32 },
            think: if flood {
                Span::ZERO
            } else {
                Span::from_nanos(rng.skewed(300_000_000) as i64)
            },
            patience: if rng.chance(50) {
                Span::MAX
            } else {
                Span::from_millis(rng.between(300, 5_000))
            },
            curious: if pirate.is_some() { 0 } else { rng.pick(&[0, 0, 10, 40]) },
            favourite: rng.index(SERVICES.len()),
            open: Vec::new(),
            questions: Vec::new(),
            ask_at: Time::ZERO,
            heard: Time::ZERO,
        }
    }

    /// It waits as long as it takes, and asks little more. Nothing more if it may wait for what was
    /// refused without its knowledge.
    pub(crate) fn calm(&mut self, answers_all: bool) {
        let told = answers_all && (self.hops > 0 || self.window == 1);
        self.left = if told { self.left.min(3) } else { 0 };
        self.patience = Span::MAX;
    }

    pub(crate) fn on_connected(&mut self, now: Time) {
        self.open.clear();
        self.questions.clear();
        self.ask_at = now;
        self.heard = now;
    }

    /// Where it connects.
    pub(crate) fn speaks(&self) -> Speaks {
        match self.dialect.pirate {
            Some(_) => Speaks::PirateFront(self.favourite),
            None => Speaks::Majordomo,
        }
    }

    /// When it next does something on its own.
    pub(crate) fn deadline(&self) -> Time {
        let ask = if self.may_ask() { self.ask_at } else { Time::MAX };
        let waits = !self.open.is_empty() || !self.questions.is_empty();
        let leave = if waits { self.heard + self.patience } else { Time::MAX };
        ask.min(leave)
    }

    fn waits(&self) -> bool {
        !self.open.is_empty() || !self.questions.is_empty()
    }

    fn may_ask(&self) -> bool {
        self.left > 0 && self.open.len() + self.questions.len() < self.window
    }

    /// Asks what it may. Says whether it loses patience.
    pub(crate) fn on_wake(
        &mut self,
        now: Time,
        link: usize,
        speaker: &mut Speaker,
        ledger: &mut Ledger,
        truth: &Truth,
        rng: &mut Rng,
    ) -> bool {
        if self.waits() && self.heard + self.patience <= now {
            return true;
        }
        while self.may_ask() && self.ask_at <= now {
            self.ask_at = now + Span::from_nanos(rng.skewed(self.think.as_nanos() as u64) as i64);
            self.left -= 1;
            if !self.waits() {
                self.heard = now;
            }
            let faithful = self.dialect.pirate.is_some() || rng.chance(70);
            let service = if faithful { self.favourite } else { rng.index(SERVICES.len()) };
            let names = !self.dialect.v02 || self.dialect.names_service;
            if names && rng.chance(self.curious) {
                self.questions.push((service, truth.without_worker_since(service)));
                let envelope = self.envelope(ledger.upcoming());
                let body = vec![SERVICES[service].to_vec()];
                speaker.say(self.dialect.request(&envelope, b"mmi.service", &body));
                continue;
            }
            let request = ledger.upcoming();
            let envelope = self.envelope(request);
            let named = Some(SERVICES[service].to_vec());
            let body = ledger.open(link, service, envelope.clone(), named, self.dialect.v02);
            self.open.push(request);
            speaker.say(self.dialect.request(&envelope, SERVICES[service], &body));
        }
        false
    }

    fn envelope(&self, request: u64) -> Frames {
        let mut frames: Frames = (0..self.hops)
            .map(|hop| if hop == 0 { format!("via:{request}") } else { format!("hop{hop}") })
            .map(String::into_bytes)
            .collect();
        if self.dialect.delimiter {
            frames.push(Vec::new());
        }
        frames
    }

    pub(crate) fn on_message(
        &mut self,
        now: Time,
        link: usize,
        frames: Frames,
        ledger: &mut Ledger,
        truth: &Truth,
    ) -> Result<(), Violation> {
        self.heard = now;
        let Some(reply) = self.dialect.read_reply(frames.clone()) else {
            let text = format!("a client on link {link} cannot read {frames:?}");
            return Err(Violation::new("words", text));
        };
        if reply.service.as_deref() == Some(b"mmi.service") {
            return self.on_fact(link, &reply, truth);
        }
        let alone = if self.open.len() == 1 && self.hops == 0 { Some(self.open[0]) } else { None };
        if let Some(ended) = ledger.hear(link, reply, alone)? {
            self.open.retain(|request| *request != ended);
        }
        Ok(())
    }

    /// What the broker says about a service must be true.
    fn on_fact(
        &mut self,
        link: usize,
        reply: &ClientReply,
        truth: &Truth,
    ) -> Result<(), Violation> {
        if self.questions.is_empty() {
            let text = format!("link {link} got an answer it did not ask for: {reply:?}");
            return Err(Violation::new("mmi", text));
        }
        // In order with one shard. With several, what is true of a home may be on its way.
        let (service, since) = self.questions.remove(0);
        let none = since.is_some() && truth.without_worker_since(service) == since;
        let word = reply.body[0].as_slice();
        let known = word == b"200" || word == b"404";
        if !known || truth.shards == 1 && none && word != b"404" {
            let text = format!("{:?} for service {service}, without a worker", reply.body);
            return Err(Violation::new("mmi", text));
        }
        Ok(())
    }
}
