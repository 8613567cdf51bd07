//! The way in under PLAIN and CURVE, and traffic behind it, with real clients of both.

use std::string::String;
use std::vec;
use std::vec::Vec;

use engine::{Class, ConnId, Patterns, Principal, PrincipalId, Quota, Rights, Span, Time};
use zeroize::Zeroizing;
use zmtp::{Event, Frames, KeyPair, SecretKey, Security, SocketType, Step, put_frame, put_ping};

use crate::{CloseReason, Credentials, Dialect, LARGE_BODY, Note, Shard, ShardConfig, Want};

const CURVE: Dialect = dialect(1);
const PLAIN: Dialect = dialect(2);

const fn dialect(door: u8) -> Dialect {
    Dialect { speaks: crate::Speaks::Majordomo, mdp02_service_frame: true, door }
}

fn keys(seed: u8) -> KeyPair {
    KeyPair::new(SecretKey::from_bytes([seed; 32]))
}

/// `ann` may call and serve everything, `bea` only call `echo`; both have a key and a password.
fn config() -> ShardConfig {
    let doors = vec![Security::Null, Security::CurveServer(keys(1)), Security::PlainServer];
    let mut config = ShardConfig { doors, ..ShardConfig::default() };
    let quota = Quota::default();
    let ann = Principal { rights: Rights::all(), quota, class: Class::Normal };
    let call = Patterns::new(["echo"]);
    let bea = Principal { rights: Rights { call, ..Rights::none() }, quota, class: Class::Normal };
    config.engine.principals.insert("ann".into(), ann);
    config.engine.principals.insert("bea".into(), bea);
    config.credentials.add_key(*keys(2).public(), "ann");
    config.credentials.add_key(*keys(3).public(), "bea");
    config.credentials.set_password("ann", b"tea");
    config.credentials.set_password("bea", b"two");
    config
}

struct House {
    shard: Shard,
    now: Time,
    chance: u64,
    /// Whether works are done as soon as there are some.
    works: bool,
}

struct Guest {
    id: ConnId,
    config: zmtp::Config,
    zmtp: zmtp::Connection,
    rx: Vec<u8>,
    /// Bytes for the house.
    tx: Vec<u8>,
    heard: Vec<Vec<Vec<u8>>>,
    /// Every octet that came.
    octets: Vec<u8>,
    refused: Option<String>,
}

impl House {
    fn new(config: ShardConfig) -> House {
        let shard = Shard::new(config, (1, 2), 0, 1, Time::ZERO);
        House { shard, now: Time::ZERO, chance: 7, works: true }
    }

    fn guest(&mut self, dialect: Dialect, security: Security) -> Guest {
        let id = self.shard.open(self.now, dialect, None).unwrap();
        let mut config = zmtp::Config::new(SocketType::Dealer);
        config.security = security;
        let mut tx = Vec::new();
        let zmtp = zmtp::Connection::new(&config, &mut tx);
        let (rx, heard, octets, refused) = Default::default();
        let mut guest = Guest { id, config, zmtp, rx, tx, heard, octets, refused };
        self.talk(&mut [&mut guest]);
        guest
    }

    fn curve(&mut self, seed: u8) -> Guest {
        self.guest(CURVE, Security::CurveClient { server: *keys(1).public(), keys: keys(seed) })
    }

    fn plain(&mut self, username: &str, password: &str) -> Guest {
        let (username, password) = (username.into(), Zeroizing::new(password.into()));
        self.guest(PLAIN, Security::PlainClient { username, password })
    }

    fn do_works(&mut self) {
        let mut chance = self.chance;
        while let Some((id, door, work)) = self.shard.take_work() {
            let random = &mut |octets: &mut [u8]| {
                for octet in octets {
                    chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *octet = (chance >> 56) as u8;
                }
            };
            let worked = work.run(&self.shard.doors()[door], random);
            self.shard.worked(self.now, id, worked);
        }
        self.chance = chance;
    }

    /// Until everybody is silent.
    fn talk(&mut self, guests: &mut [&mut Guest]) {
        loop {
            let mut moved = false;
            for guest in guests.iter_mut() {
                moved |= self.listen(guest);
                if self.works {
                    self.do_works();
                }
                moved |= self.speak(guest);
            }
            if !moved {
                return;
            }
        }
    }

    /// The house reads once what the guest has to say.
    fn listen(&mut self, guest: &mut Guest) -> bool {
        match self.shard.want(guest.id) {
            _ if guest.tx.is_empty() => return false,
            Want::Paused => return false,
            Want::Shared => {
                let mut buf = vec![0; 128 * 1024];
                let have = self.shard.take_pending(guest.id, &mut buf);
                let n = guest.tx.len().min(buf.len() - have);
                buf[have..have + n].copy_from_slice(&guest.tx[..n]);
                guest.tx.drain(..n);
                self.shard.received(self.now, guest.id, &mut buf[..have + n]);
            }
            Want::Direct => {
                let pending = self.shard.direct(guest.id).unwrap();
                let n = guest.tx.len().min(pending.capacity() - pending.len());
                pending.extend(guest.tx.drain(..n));
                self.shard.received_direct(self.now, guest.id);
            }
        }
        true
    }

    /// The house writes once what it has to say.
    fn speak(&mut self, guest: &mut Guest) -> bool {
        let Some(outbox) = self.shard.outbox(guest.id) else { return false };
        let mut pieces: [&[u8]; 8] = [&[]; 8];
        let count = outbox.pieces(&mut pieces);
        let bytes = pieces[..count].concat();
        self.shard.wrote(self.now, guest.id, bytes.len());
        guest.octets.extend_from_slice(&bytes);
        guest.rx.extend_from_slice(&bytes);
        guest.read();
        !bytes.is_empty()
    }

    fn closed(&mut self) -> Vec<CloseReason> {
        let mut ids = Vec::new();
        self.shard.take_closing(&mut ids);
        let notes = self.shard.notes().drain(..);
        notes
            .filter_map(|note| match note {
                Note::Closed(_, _, why) => Some(why),
                Note::WorkerJoined(..)
                | Note::WorkerLeft(_)
                | Note::WorkerExpired(_)
                | Note::WorkerDismissed(..)
                | Note::Denied(..)
                | Note::Alarm(..)
                | Note::Place(..)
                | Note::Garbage(..)
                | Note::Drained => None,
            })
            .collect()
    }
}

impl Guest {
    fn read(&mut self) {
        let mut frames = Frames::default();
        while self.refused.is_none() {
            let step = self.zmtp.next(&self.config, &mut self.rx, &mut frames, &mut self.tx);
            match step {
                Ok(Step::More { .. }) => return,
                Ok(Step::Skip { len, event }) => {
                    self.rx.drain(..len);
                    if event == Some(Event::Work) {
                        let random = &mut |octets: &mut [u8]| octets.fill(9);
                        self.zmtp.work(&self.config, random, &mut self.tx).unwrap();
                    }
                }
                Ok(Step::Cut { len, .. }) => self.rx.truncate(self.rx.len() - len),
                Ok(Step::Message { len }) => {
                    let message = frames.view(&self.rx);
                    let whole = (0..message.len()).map(|i| message.frame(i).unwrap().to_vec());
                    self.heard.push(whole.collect());
                    self.rx.drain(..len);
                }
                Err(error) => self.refused = Some(std::format!("{error}")),
            }
        }
    }

    fn say(&mut self, frames: &[&[u8]]) {
        let mut plain = Vec::new();
        for (i, frame) in frames.iter().enumerate() {
            put_frame(&mut plain, i + 1 < frames.len(), frame);
        }
        self.put(&plain);
    }

    fn put(&mut self, plain: &[u8]) {
        if self.zmtp.is_sealed() {
            self.zmtp.seal(plain, &mut self.tx);
        } else {
            self.tx.extend_from_slice(plain);
        }
    }
}

#[test]
fn a_request_goes_from_door_to_door_and_nothing_of_it_is_seen_on_the_way() {
    for len in [0, 40, LARGE_BODY, 300_000] {
        let mut house = House::new(config());
        let (mut client, mut worker) = (house.curve(2), house.plain("ann", "tea"));
        let (mut other, secret) = (house.curve(2), vec![0xA5; len]);
        for worker in [&mut worker, &mut other] {
            worker.say(&[b"", b"MDPW01", b"\x01", b"echo", b"concurrency=2"]);
            house.talk(&mut [worker]);
        }
        for _ in 0..4 {
            client.say(&[b"", b"MDPC01", b"echo", &secret, b"end"]);
            client.put(&{
                let mut ping = Vec::new();
                put_ping(&mut ping, 0, b"x");
                ping
            });
        }
        house.talk(&mut [&mut client, &mut worker, &mut other]);
        for worker in [&mut worker, &mut other] {
            assert_eq!(worker.heard.len(), 2, "{len}");
            for request in core::mem::take(&mut worker.heard) {
                assert_eq!(request[5..], [secret.clone(), b"end".to_vec()]);
                worker.say(&[b"", b"MDPW01", b"\x03", &request[3], b"", &secret, b"done"]);
            }
        }
        house.talk(&mut [&mut client, &mut worker, &mut other]);
        let reply: Vec<&[u8]> = vec![b"", b"MDPC01", b"echo", &secret, b"done"];
        assert_eq!(client.heard, vec![reply; 4]);
        let shown = |guest: &Guest| guest.octets.windows(12).any(|some| some == [0xA5; 12]);
        assert!(!shown(&client) && !shown(&other));
        assert_eq!(shown(&worker), len > 0);
        assert_eq!(house.closed(), []);
    }
}

#[test]
fn a_full_line_holds_sealed_requests_back_and_takes_them_later() {
    for len in [10, LARGE_BODY + 10] {
        let mut config = config();
        config.engine.defaults.queue_max = 1;
        let mut house = House::new(config);
        let (mut client, mut worker) = (house.curve(2), house.curve(2));
        for _ in 0..5 {
            client.say(&[b"", b"MDPC01", b"echo", &vec![7; len]]);
        }
        house.talk(&mut [&mut client]);
        assert_eq!(house.shard.engine().requests_len(), 1);
        worker.say(&[b"", b"MDPW01", b"\x01", b"echo"]);
        for _ in 0..5 {
            house.talk(&mut [&mut worker, &mut client]);
            let request = worker.heard.pop().unwrap();
            worker.say(&[b"", b"MDPW01", b"\x03", &request[3], b"", b"ok"]);
            house.talk(&mut [&mut worker, &mut client]);
        }
        assert_eq!(client.heard.len(), 5);
    }
}

#[test]
fn strangers_are_told_and_counted() {
    let mut house = House::new(config());
    let mut refused = vec![house.curve(9)];
    for (name, password) in [("ann", "two"), ("ann", "te"), ("ann", ""), ("eve", "tea"), ("", "")] {
        refused.push(house.plain(name, password));
    }
    let count = refused.len();
    for guest in refused {
        assert_eq!(guest.refused.as_deref(), Some("the peer refused: 400"));
    }
    let closed = house.closed();
    assert_eq!(closed.len(), count);
    for why in closed {
        let CloseReason::Zmtp("denied", text) = why else { panic!("{why:?}") };
        assert!(!text.contains("te"), "no passwords in the log: {text}");
    }
    let counters = house.shard.counters();
    assert_eq!((counters.denied, counters.failed_handshakes), (count as u64, count as u64));
    // Another server key is found out before anybody says a name.
    let security = Security::CurveClient { server: *keys(8).public(), keys: keys(2) };
    let guest = house.guest(CURVE, security);
    assert_eq!(guest.refused.as_deref(), Some("the peer refused: bad_box"));
    assert_eq!(house.shard.counters().failed_handshakes, count as u64 + 1);
}

#[test]
fn a_name_s_rights_hold_behind_every_door() {
    let mut house = House::new(config());
    for mut bea in [house.curve(3), house.plain("bea", "two")] {
        bea.say(&[b"", b"MDPC01", b"other", b"x"]);
        bea.say(&[b"", b"MDPC01", b"other", b"y"]);
        bea.say(&[b"", b"MDPC01", b"echo", b"z"]);
        bea.say(&[b"", b"MDPW01", b"\x01", b"echo"]);
        house.talk(&mut [&mut bea]);
        assert_eq!(bea.heard, [[&b""[..], b"MDPW01", b"\x05"]]);
        let told: Vec<Note> = house.shard.notes().drain(..).collect();
        let denied = told.iter().filter(|note| matches!(note, Note::Denied(..))).count();
        assert_eq!(denied, 1, "once of each connection: {told:?}");
    }
    assert_eq!(house.shard.engine().requests_len(), 2);
    let mut nobody = house.guest(dialect(0), Security::Null);
    nobody.say(&[b"", b"MDPC01", b"echo", b"x"]);
    nobody.say(&[b"", b"MDPC01", b"mmi.service", b"echo"]);
    house.talk(&mut [&mut nobody]);
    assert_eq!(house.shard.engine().requests_len(), 2);
    assert_eq!(nobody.heard.last().unwrap()[3], b"404");
}

#[test]
fn too_many_handshakes_at_once_are_turned_away() {
    let mut config = config();
    config.limits.handshakes = 2;
    let mut house = House::new(config);
    house.works = false;
    let mut guests: Vec<Guest> = (0..4).map(|_| house.curve(2)).collect();
    assert_eq!(house.shard.work_len(), 2);
    assert_eq!(house.closed(), [CloseReason::Crowded, CloseReason::Crowded]);
    assert_eq!(house.shard.counters().crowded, 2);
    house.works = true;
    let [first, second, ..] = &mut guests[..] else { panic!() };
    house.talk(&mut [first, second]);
    assert!(first.zmtp.is_ready() && second.zmtp.is_ready());
}

/// Whoever says HELLO and leaves at once, again and again, must not keep others out.
#[test]
fn who_left_takes_no_place_among_handshakes() {
    let mut config = config();
    config.limits.handshakes = 8;
    let mut house = House::new(config);
    house.works = false;
    let mut stays = house.curve(2);
    for _ in 0..100 {
        let gone = house.curve(3);
        house.shard.closed(house.now, gone.id);
        assert!(house.shard.work_len() <= 8);
    }
    let mut comes = house.curve(2);
    assert_eq!(house.shard.counters().crowded, 0);
    house.works = true;
    house.talk(&mut [&mut stays, &mut comes]);
    assert!(stays.zmtp.is_ready() && comes.zmtp.is_ready());
}

#[test]
fn who_answered_once_comes_before_who_did_not() {
    let mut house = House::new(config());
    house.works = false;
    let mut first = house.curve(2);
    house.do_works();
    let _others: Vec<Guest> = (0..3).map(|_| house.curve(2)).collect();
    house.talk(&mut [&mut first]);
    assert_eq!(house.shard.work_len(), 4);
    let (id, _, work) = house.shard.take_work().unwrap();
    assert!(id == first.id && work.is_urgent());
}

#[test]
fn whoever_leaves_in_the_middle_leaves_nothing() {
    let mut house = House::new(config());
    house.works = false;
    let guest = house.curve(2);
    let (id, door, work) = house.shard.take_work().unwrap();
    house.shard.closed(house.now, id);
    let worked = work.run(&house.shard.doors()[door], &mut |octets| octets.fill(1));
    house.shard.worked(house.now, id, worked);
    assert!(house.shard.outbox(guest.id).is_none());
    let gone = house.curve(2);
    house.shard.closed(house.now, gone.id);
    assert!(house.shard.take_work().is_none());
    // A handshake nobody goes on with ends by its time.
    let _silent = house.curve(2);
    house.closed();
    house.now = Time::ZERO + Span::from_secs(6);
    house.shard.tick(house.now);
    assert_eq!(house.closed(), [CloseReason::Handshake]);
}

#[test]
fn new_rules_put_out_who_is_not_in_them() {
    let mut house = House::new(config());
    let mut stays = house.curve(2);
    let (goes, moves) = (house.plain("bea", "two"), house.curve(3));
    let also_goes = house.plain("ann", "tea");
    let mut new = config();
    new.credentials = Credentials::default();
    new.credentials.add_key(*keys(2).public(), "ann");
    new.credentials.add_key(*keys(3).public(), "ann");
    new.credentials.set_password("ann", b"coffee");
    house.shard.configure(house.now, new);
    assert_eq!(house.closed(), [CloseReason::Revoked, CloseReason::Revoked]);
    let ann = house.shard.engine().principal("ann").unwrap();
    let now = |house: &House, id| house.shard.connection(id).unwrap().principal;
    assert_eq!(now(&house, stays.id), ann);
    assert_eq!(now(&house, moves.id), ann);
    for gone in [goes, also_goes] {
        assert_eq!(now(&house, gone.id), PrincipalId::ANONYMOUS);
    }
    stays.say(&[b"", b"MDPC01", b"any", b"x"]);
    house.talk(&mut [&mut stays]);
    assert_eq!(house.shard.engine().requests_len(), 1);
}
