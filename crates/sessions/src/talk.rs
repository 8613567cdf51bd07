//! One STOMP connection as the house sees it: its codec, its subscriptions, what it was given.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use engine::{ConnId, RequestId, Time};
use stomp::{Beats, Connection, HeartBeat, Version};

use crate::stomp::AckMode;
use crate::tongue::PROTOCOLS;

/// The state of one STOMP connection.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) connection: Connection,
    pub(crate) beats: Beats,
    /// What stands before the name of each of its messages; not before it is let in.
    pub(crate) session: Box<str>,
    /// The receipt that the frame in hand asks for.
    pub(crate) receipt: Option<String>,
    /// By a number of ours that is never used again.
    pub(crate) subs: BTreeMap<u32, Sub>,
    next_sub: u32,
    /// What it was given and has not settled, in the order it was given.
    pub(crate) deliveries: BTreeMap<u64, Delivery>,
    next_delivery: u64,
    /// Deliveries up to this number may have lost their subscription.
    pub(crate) released: u64,
    /// What was written is done, but too much waits to be written for the next.
    pub(crate) unsettled: Vec<(ConnId, RequestId)>,
}

/// One subscription.
#[derive(Debug)]
pub(crate) struct Sub {
    /// As the client named it; 1.0 need not.
    pub(crate) id: Option<Box<str>>,
    pub(crate) destination: Box<str>,
    pub(crate) ack: AckMode,
    pub(crate) kind: Kind,
    /// Messages it takes at a time before it settles; 0 if that does not count.
    pub(crate) most: u32,
    /// The shard where what it serves lives.
    pub(crate) home: u8,
}

/// What a subscription is to the house.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A worker of a service, which settles by answering. With the connection that stands for it
    /// towards the engine: one for each subscription, because a worker serves one service.
    Service(ConnId),
    /// A worker of a queue, which settles by ACK.
    Queue(ConnId),
    Topic,
    /// Where answers come.
    Own,
}

/// A message that was given and not settled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Delivery {
    pub(crate) sub: u32,
    pub(crate) kind: Kind,
    pub(crate) request: RequestId,
}

/// What an ACK or NACK names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Named {
    /// A message of a queue.
    Queue(u64),
    /// Anything else: a request, which only its answer settles, or what nobody has to acknowledge.
    Other(u64),
}

impl Talk {
    pub(crate) fn new(now: Time) -> Talk {
        Talk {
            connection: Connection::server(),
            beats: Beats::new(HeartBeat::default(), 0, millis(now)),
            session: "".into(),
            receipt: None,
            subs: BTreeMap::new(),
            next_sub: 0,
            deliveries: BTreeMap::new(),
            next_delivery: 1,
            released: 0,
            unsettled: Vec::new(),
        }
    }

    pub(crate) fn add_sub(&mut self, sub: Sub) -> u32 {
        let key = self.next_sub;
        self.next_sub += 1;
        self.subs.insert(key, sub);
        key
    }

    /// The subscription that the client calls so.
    pub(crate) fn sub_called(&self, id: &str) -> Option<u32> {
        self.find_sub(|sub| sub.id.as_deref() == Some(id))
    }

    /// The first subscription to a destination, which is called so.
    pub(crate) fn sub_to(&self, destination: &str) -> Option<u32> {
        self.find_sub(|sub| *sub.destination == *destination)
    }

    fn find_sub(&self, is_it: impl Fn(&Sub) -> bool) -> Option<u32> {
        self.subs.iter().find(|(_, sub)| is_it(sub)).map(|(key, _)| *key)
    }

    /// Forgets a subscription and what it was given.
    pub(crate) fn remove_sub(&mut self, key: u32) {
        self.subs.remove(&key);
        self.deliveries.retain(|_, delivery| delivery.sub != key);
        self.released = self.next_delivery - 1;
    }

    /// What it is called if it serves: one of [`PROTOCOLS`](crate::PROTOCOLS).
    pub(crate) fn serves_in(&self) -> Option<&'static str> {
        let serves = self.subs.values().any(|sub| sub.kind.seat().is_some());
        serves.then(|| match self.connection.version() {
            Version::V1_0 => PROTOCOLS[4],
            Version::V1_1 => PROTOCOLS[5],
            Version::V1_2 => PROTOCOLS[6],
        })
    }

    /// The number of the next delivery.
    pub(crate) fn count_delivery(&mut self) -> u64 {
        let number = self.next_delivery;
        self.next_delivery += 1;
        number
    }

    /// What a message is called.
    pub(crate) fn name(&self, number: u64, kind: Kind) -> String {
        let letter = match kind {
            Kind::Queue(_) => 'q',
            Kind::Service(_) | Kind::Topic | Kind::Own => 'm',
        };
        format!("{}-{letter}{number}", self.session)
    }

    /// What an ACK means; `None` if no message was ever called so.
    pub(crate) fn read_name(&self, name: &str) -> Option<Named> {
        let rest = name.strip_prefix(&*self.session)?.strip_prefix('-')?;
        let (letter, digits) = rest.split_at_checked(1)?;
        let number = digits.parse().ok().filter(|number| *number < self.next_delivery)?;
        match letter {
            "q" => Some(Named::Queue(number)),
            "m" => Some(Named::Other(number)),
            _ => None,
        }
    }

    /// Takes out what an ACK for `number` settles; nothing if it was settled already.
    pub(crate) fn take_acked(&mut self, number: u64) -> Vec<Delivery> {
        let Some(delivery) = self.deliveries.get(&number).copied() else { return Vec::new() };
        let cumulative = self.subs.get(&delivery.sub).is_some_and(|sub| sub.ack == AckMode::Client);
        if !cumulative {
            self.deliveries.remove(&number);
            return alloc::vec![delivery];
        }
        let before = self.deliveries.range(..=number);
        let settled: Vec<u64> = before
            .filter(|(_, other)| other.sub == delivery.sub)
            .map(|(number, _)| *number)
            .collect();
        settled.into_iter().filter_map(|number| self.deliveries.remove(&number)).collect()
    }
}

impl Kind {
    /// The connection that stands for it towards the engine.
    pub(crate) fn seat(self) -> Option<ConnId> {
        match self {
            Kind::Service(seat) | Kind::Queue(seat) => Some(seat),
            Kind::Topic | Kind::Own => None,
        }
    }
}

/// The time as the codec counts it.
pub(crate) fn millis(now: Time) -> u64 {
    u64::try_from((now - Time::ZERO).as_millis()).unwrap_or(0)
}
