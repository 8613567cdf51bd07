//! STOMP peers that say anything in any order, next to each other: whatever they do, the accounts
//! balance, nobody waits while an offer is free, and nothing is left when all are gone.

use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

use engine::{ConnId, Span};
use proptest::prelude::*;

use super::house::{House, Seen};
use super::peer::Heard;
use crate::{Dialect, ShardConfig, Speaks};

const PEERS: usize = 4;
const DESTINATIONS: [&str; 7] = [
    "/service/a",
    "/service/b",
    "/queue/a",
    "/queue/b",
    "/topic/x.y",
    "/topic/x.*",
    "/temp-queue/t",
];
const MODES: [&str; 3] = ["auto", "client", "client-individual"];

#[derive(Clone, Debug)]
enum Say {
    Send {
        to: usize,
        reply: bool,
        bytes: usize,
    },
    Subscribe {
        to: usize,
        id: u8,
        mode: usize,
        prefetch: u8,
    },
    Unsubscribe {
        id: u8,
    },
    /// ACK, NACK or answer one of the messages that were heard.
    Settle {
        which: usize,
        how: u8,
    },
    Disconnect,
    Close,
    Stall(bool),
    Wait(i64),
}

fn any_say() -> impl Strategy<Value = Say> {
    let to = || 0..DESTINATIONS.len();
    prop_oneof![
        60 => (to(), any::<bool>(), prop_oneof![0usize..30, Just(20_000)])
            .prop_map(|(to, reply, bytes)| Say::Send { to, reply, bytes }),
        40 => (to(), 0u8..4, 0..MODES.len(), 1u8..4)
            .prop_map(|(to, id, mode, prefetch)| Say::Subscribe { to, id, mode, prefetch }),
        10 => (0u8..4).prop_map(|id| Say::Unsubscribe { id }),
        60 => (any::<usize>(), 0u8..4).prop_map(|(which, how)| Say::Settle { which, how }),
        2 => Just(Say::Disconnect),
        4 => Just(Say::Close),
        4 => any::<bool>().prop_map(Say::Stall),
        4 => (1i64..2_000).prop_map(Say::Wait),
    ]
}

/// The house, and what its peers heard.
struct Town {
    house: House,
    ids: [Option<ConnId>; PEERS],
    /// By peer: the name and the `reply-to` of each message.
    heard: BTreeMap<ConnId, Vec<(String, Option<String>)>>,
    subscribed: BTreeMap<ConnId, Vec<u8>>,
}

impl Town {
    fn new(max_deliveries: u32, queue_max: usize, piece: usize) -> Town {
        let mut config = ShardConfig::default();
        config.engine.defaults.max_deliveries = max_deliveries;
        config.engine.defaults.queue_max = queue_max;
        config.engine.service_idle = Span::from_millis(500);
        config.limits.out_bytes = 100_000;
        let house = House::new(&config, 1, piece);
        Town { house, ids: [None; PEERS], heard: BTreeMap::new(), subscribed: BTreeMap::new() }
    }

    fn peer(&mut self, slot: usize) -> ConnId {
        if let Some(id) = self.ids[slot].filter(|id| self.house.peers.contains_key(id)) {
            return id;
        }
        let dialect = Dialect { speaks: Speaks::Stomp, ..Dialect::default() };
        let id = self.house.open(0, dialect, None).expect("there is room");
        self.ids[slot] = Some(id);
        let version = ["1.0", "1.1", "1.2", "1.2"][slot];
        self.tell(id, &format!("CONNECT\naccept-version:{version}\n"), b"");
        id
    }

    fn tell(&mut self, id: ConnId, head: &str, body: &[u8]) {
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("content-length:{}\n", body.len())
        };
        let bytes = [head.as_bytes(), length.as_bytes(), b"\n", body, b"\0"].concat();
        self.house.send(id, &bytes);
    }

    fn say(&mut self, slot: usize, say: &Say) {
        let id = self.peer(slot);
        match *say {
            Say::Send { to, reply, bytes } => {
                let reply = if reply { "reply-to:/temp-queue/t\n" } else { "" };
                let to = DESTINATIONS[to];
                // Who sends to a pattern is turned out, which is told elsewhere.
                let to = if to.ends_with('*') { "/topic/x.z" } else { to };
                let head = format!("SEND\ndestination:{to}\n{reply}receipt:r\n");
                self.tell(id, &head, &std::vec![b'x'; bytes]);
            }
            Say::Subscribe { to, id: name, mode, prefetch } => {
                let taken = self.subscribed.entry(id).or_default();
                if taken.contains(&name) {
                    return;
                }
                taken.push(name);
                let (to, mode) = (DESTINATIONS[to], MODES[mode]);
                let head = format!(
                    "SUBSCRIBE\ndestination:{to}\nid:{name}\nack:{mode}\nprefetch:{prefetch}\n"
                );
                self.tell(id, &head, b"");
            }
            Say::Unsubscribe { id: name } => {
                let taken = self.subscribed.entry(id).or_default();
                if let Some(place) = taken.iter().position(|known| *known == name) {
                    taken.remove(place);
                    self.tell(id, &format!("UNSUBSCRIBE\nid:{name}\n"), b"");
                }
            }
            Say::Settle { which, how } => {
                let heard = self.heard.entry(id).or_default();
                if heard.is_empty() {
                    return;
                }
                let (name, reply_to) = heard.remove(which % heard.len());
                match (how, reply_to) {
                    (0 | 1, Some(reply_to)) => {
                        self.tell(id, &format!("SEND\ndestination:{reply_to}\n"), b"y");
                    }
                    (2, _) if slot > 0 => {
                        self.tell(id, &format!("NACK\nid:{name}\nmessage-id:{name}\n"), b"")
                    }
                    _ => self.tell(id, &format!("ACK\nid:{name}\nmessage-id:{name}\n"), b""),
                }
            }
            Say::Disconnect => self.tell(id, "DISCONNECT\nreceipt:d\n", b""),
            Say::Close => self.house.close(id),
            Say::Stall(stalled) => self.house.stall(id, stalled),
            Say::Wait(ms) => {
                let to = self.house.now + Span::from_millis(ms);
                self.house.advance(to);
            }
        }
        self.listen();
    }

    fn listen(&mut self) {
        for seen in core::mem::take(&mut self.house.seen) {
            if let Seen::Heard(id, Heard::Frame(lines, _)) = seen
                && lines[0] == "MESSAGE"
            {
                let value = |name: &str| {
                    let line =
                        lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                    line.map(String::from)
                };
                let name = value("message-id").expect("a message has a name");
                let reply_to = value("reply-to").filter(|to| to.starts_with("/reply/"));
                self.heard.entry(id).or_default().push((name, reply_to));
            }
        }
    }

    fn check(&self) {
        let engine = self.house.shards[0].engine();
        let stats = engine.stats();
        // What a worker holds for a client that left is withdrawn, and still in the house.
        assert!(engine.requests_len() as u64 <= stats.requests - stats.replies);
        let (mut leased, mut offers) = (0, 0);
        for view in engine.services() {
            assert!(view.offers == 0 || view.waiting == 0, "waits while an offer is free");
            leased += u64::from(view.leased);
            offers += view.offers;
        }
        assert_eq!(engine.requests_len() as u64, leased + engine.waiting().0 as u64);
        assert!(engine.workers_len() == 0 || offers as u64 + leased > 0);
        let held: u64 = self.house.shards[0].connections().map(|view| u64::from(view.held)).sum();
        assert!(held <= leased, "{held} given and not settled, {leased} leased");
    }

    /// Everybody leaves, and nothing is left but what nobody took.
    fn end(&mut self) {
        for id in self.ids.into_iter().flatten() {
            self.house.close(id);
            self.check();
        }
        let shard = &self.house.shards[0];
        assert_eq!((shard.counters().connections, shard.engine().workers_len()), (0, 0));
        assert_eq!(shard.engine().requests_len(), shard.engine().waiting().0);
        assert!(shard.is_clean_of_stomp(), "a subscription of nobody's");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(250)
    })]

    #[test]
    fn the_accounts_balance(
        max_deliveries in 1u32..4,
        queue_max in prop_oneof![Just(1_000usize), 0usize..3],
        piece in prop_oneof![Just(usize::MAX), Just(7usize)],
        says in prop::collection::vec((0..PEERS, any_say()), 0..80),
    ) {
        let mut town = Town::new(max_deliveries, queue_max, piece);
        for (slot, say) in &says {
            town.say(*slot, say);
            town.check();
        }
        town.end();
    }
}
