//! Conversations of peers with whole shards as text: commands, `----`, and everything that came of
//! them. Each is played with bytes in pieces of several sizes and must come out the same.
//!
//! `REWRITE=1 cargo test -p maitred-sessions transcripts` writes what comes of them into the files;
//! then read the diff. A block ends with an empty line; `#` begins a comment. Times are in
//! milliseconds.
//!
//! | command | |
//! |---|---|
//! | `house key=n …` | a new house; everything else is default; `shards=n`, `pair=service` |
//! | `house match=name regulator/name=n` | places where processes meet |
//! | `@T …` | moves the time to T, with every tick on the way |
//! | `open c1 …` | `REQ`, `3.0`, `pongs`, `majortomo`, `from=IP`, `shard=n`, `silent` |
//! | `open c1 front=n …`, `back=n` | at an end of the n-th pair |
//! | `-> c1 …` | a message of frames: `"text"`, `"x"*9`, hexadecimal octets, or a token, `<r1>` |
//! | `raw c1 …` | bytes, written as frames are |
//! | `open s1 stomp=1.2 …` | speaks STOMP; `login=NAME:PASSCODE`, `beat=10,20` |
//! | `=> s1 SEND destination:/queue/a … "body"` | a frame of STOMP; `<m1>` is a message's name |
//! | `ping c1 ttl "context"` | of tenths of a second |
//! | `close c1` | the peer goes away |
//! | `stall c1`, `sip c1`, `read c1` | the peer stops reading, reads ten octets, reads again |
//! | `call l1 echo "body" … `, `hang l1` | calls from inside |
//! | `call l1+n …` | it keeps a lock it is given for n ms |
//! | `goes_on l1 gate …`, `done l1 gate`, `failed` | under it: `lease=n`, `guesses`, `stranger` |
//! | `answer e1 "frame" …` | the shell's answer to the first errand |
//! | `configure key=n …`, `drain`, `shutdown` | |
//! | `hold`, `let go` | what crosses between shards waits, or does no longer |
//! | `show` | counters and connections |
//! | `home echo 1` | asserts where a service lives |

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;
use std::format;
use std::path::Path;
use std::string::{String, ToString};
use std::vec::Vec;

use super::house::{House, Seen};
use super::peer::{Heard, command, message, show};
use crate::{Dialect, Errand, Lease, Note, Outcome, Pair, Sender, ShardConfig, Speaks, home_of};
use bytes::Bytes;
use engine::{ConnId, MatchRules, PrincipalId, RegulatorRules, SideRules, Span, Time};
use matching::ValveConfig;

/// What calls that stay are known by.
const SECRET: u128 = 0x5EC2E7;

#[test]
fn transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("there is a folder of transcripts")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 10, "only {} transcripts", paths.len());
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("it is text");
        std::println!("{}", path.display());
        let whole = play(&text, usize::MAX);
        for piece in [1, 7, 300, 20_000] {
            let name = format!("{} in pieces of {piece}", path.display());
            compare(&name, &by_peer(&whole), &by_peer(&play(&text, piece)));
        }
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&path, whole).expect("it can be written");
        } else {
            compare(&path.display().to_string(), &text, &whole);
        }
    }
}

/// The same text with what came of each block ordered by peer: how their bytes interleave is the
/// network's affair.
fn by_peer(text: &str) -> String {
    let mut blocks = Vec::new();
    for block in text.split("\n\n") {
        let (commands, told) = block.split_once("\n----\n").unwrap_or((block, ""));
        let mut told: Vec<&str> = told.lines().collect();
        told.sort_by_key(|line| line.split([' ', ':']).find(|word| is_peer(word)));
        blocks.push(format!("{commands}\n----\n{}", told.join("\n")));
    }
    blocks.join("\n\n")
}

fn is_peer(word: &str) -> bool {
    let digits = word.strip_prefix(|letter: char| letter.is_ascii_lowercase());
    digits.is_some_and(|n| !n.is_empty() && n.bytes().all(|digit| digit.is_ascii_digit()))
}

fn compare(name: &str, expected: &str, got: &str) {
    if expected != got {
        let mut lines = expected.lines().zip(got.lines()).enumerate();
        let place = lines.find(|(_, (expected, got))| expected != got);
        let (line, (expected, got)) = place.unwrap_or((0, ("another length", "")));
        panic!("{name}:{}:\nexpected {expected}\n     got {got}", line + 1);
    }
}

/// The same text with what really came of its commands.
fn play(text: &str, piece: usize) -> String {
    let mut story = Story::new(piece);
    let mut played = Vec::new();
    for block in text.trim_end().split("\n\n") {
        let commands: Vec<&str> = block.lines().take_while(|line| *line != "----").collect();
        for command in commands.iter().filter(|line| !line.starts_with('#')) {
            story.command(command);
        }
        let mut lines: Vec<String> = commands.iter().map(|line| line.to_string()).collect();
        if commands.iter().any(|line| !line.is_empty() && !line.starts_with('#')) {
            lines.push("----".into());
            lines.append(&mut story.lines);
        }
        played.push(lines.join("\n"));
    }
    played.join("\n\n") + "\n"
}

/// A conversation in progress.
struct Story {
    house: House,
    piece: usize,
    config: ShardConfig,
    lines: Vec<String>,
    ids: BTreeMap<String, ConnId>,
    /// Tokens in the order they were first seen.
    tokens: Vec<Vec<u8>>,
    /// Names of messages in the order they were first seen.
    messages: Vec<String>,
    /// In the order in which they came.
    errands: Vec<Sender>,
}

impl Story {
    fn new(piece: usize) -> Story {
        let config = ShardConfig::default();
        Story {
            house: House::new(&config, 1, piece),
            piece,
            config,
            lines: Vec::new(),
            ids: BTreeMap::new(),
            tokens: Vec::new(),
            messages: Vec::new(),
            errands: Vec::new(),
        }
    }

    fn command(&mut self, line: &str) {
        let mut words = words(line);
        if let Some(time) = words.first().and_then(|word| word.strip_prefix('@')) {
            let to = Time::from_millis(number(time));
            words.remove(0);
            self.advance(to);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            [] => {}
            ["house", ref keys @ ..] => {
                self.config = ShardConfig::default();
                let shards = set_all(&mut self.config, keys);
                self.house = House::new(&self.config, shards, self.piece);
                self.tokens.clear();
                self.messages.clear();
                self.errands.clear();
                self.ids.clear();
            }
            ["configure", ref keys @ ..] => {
                set_all(&mut self.config, keys);
                let now = self.house.now;
                for shard in &mut self.house.shards {
                    shard.configure(now, self.config.clone());
                }
                self.house.turn();
            }
            ["open", name, ref options @ ..] => self.open(name, options),
            ["->", name, ref frames @ ..] => {
                let frames: Vec<Vec<u8>> = frames.iter().map(|frame| self.frame(frame)).collect();
                self.house.send(self.ids[name], &message(&frames));
            }
            ["=>", name, command, ref parts @ ..] => self.say_stomp(name, command, parts),
            ["raw", name, ref parts @ ..] => {
                let bytes: Vec<Vec<u8>> = parts.iter().map(|part| self.frame(part)).collect();
                self.house.send(self.ids[name], &bytes.concat());
            }
            ["ping", name, ttl, context] => {
                let ttl = (number(ttl) as u16).to_be_bytes();
                let data = [&ttl[..], &self.frame(context)].concat();
                self.house.send(self.ids[name], &command("PING", &data));
            }
            ["close", name] => self.house.close(self.ids[name]),
            ["stall", name] => self.house.stall(self.ids[name], true),
            ["read", name] => self.house.stall(self.ids[name], false),
            ["sip", name] => self.house.sip(self.ids[name]),
            ["call", name, service, ref body @ ..] => self.call(name, service, body),
            [word @ ("goes_on" | "done" | "failed"), name, place, ref options @ ..] => {
                self.speak_again(word, name, place, options);
            }
            ["hang", name] => {
                let (id, now) = (self.ids[name], self.house.now);
                self.house.shard(id).hang_up(now, id);
                self.house.turn();
            }
            ["answer", errand, ref frames @ ..] => self.answer(errand, frames),
            ["drain"] => {
                let now = self.house.now;
                self.house.shards.iter_mut().for_each(|shard| shard.drain(now));
                self.house.turn();
            }
            ["shutdown"] => {
                let now = self.house.now;
                self.house.shards.iter_mut().for_each(|shard| shard.shut_down(now));
                self.house.turn();
            }
            ["hold"] => self.house.hold = true,
            ["let", "go"] => {
                self.house.hold = false;
                self.house.turn();
            }
            ["home", name, shard] => {
                let shards = self.house.shards.len() as u8;
                assert_eq!(i64::from(home_of(name.as_bytes(), shards, (5, 6))), number(shard));
            }
            ["show"] => self.show(),
            _ => panic!("not a command: {line}"),
        }
        self.tell("");
    }

    fn advance(&mut self, to: Time) {
        // Millisecond by millisecond would do; deadlines are faster.
        while self.house.now < to {
            let due = self.house.shards.iter().filter_map(crate::Shard::deadline).min();
            let next = due.unwrap_or(to).clamp(self.house.now, to);
            self.house.advance(next);
            let at = format!("@{} ", next.as_nanos() / 1_000_000);
            self.tell(&at);
            if due.is_none_or(|due| due > to) {
                self.house.advance(to);
            }
        }
    }

    fn open(&mut self, name: &str, options: &[&str]) {
        let has = |option| options.contains(&option);
        let value = |key| options.iter().find_map(|word| word.strip_prefix(key));
        let speaks = match (value("front="), value("back=")) {
            (Some(pair), _) => Speaks::PirateFront(number(pair) as usize),
            (None, Some(pair)) => Speaks::PirateBack(number(pair) as usize),
            (None, None) if value("stomp=").is_some() => Speaks::Stomp,
            (None, None) => Speaks::Majordomo,
        };
        let door = value("door=").map_or(0, |door| number(door) as u8);
        let dialect = Dialect { speaks, mdp02_service_frame: !has("majortomo"), door };
        let from = value("from=").map(|ip| ip.parse::<IpAddr>().expect("an address"));
        let shard = value("shard=").map_or(0, |n| number(n) as usize);
        let remote = from.map(|ip| SocketAddr::new(ip, 1));
        let Some(id) = self.house.open(shard, dialect, remote) else { return };
        self.house.seen.clear(); // The greeting, as always.
        self.ids.insert(name.into(), id);
        if let Some(peer) = self.house.peers.get_mut(&id) {
            peer.pongs = has("pongs");
        }
        if let Some(version) = value("stomp=").filter(|_| !has("silent")) {
            let mut text = format!("CONNECT\naccept-version:{version}\nhost:h\n");
            if let Some((login, passcode)) = value("login=").and_then(|both| both.split_once(':')) {
                text += &format!("login:{login}\npasscode:{passcode}\n");
            }
            if let Some(beat) = value("beat=") {
                text += &format!("heart-beat:{beat}\n");
            }
            self.house.send(id, format!("{text}\n\0").as_bytes());
        } else if !has("silent") {
            let socket_type = if has("REQ") { "REQ" } else { "DEALER" };
            self.house.join(id, u8::from(!has("3.0")), socket_type);
        }
    }

    /// Headers, and what is quoted is the body.
    fn say_stomp(&mut self, name: &str, command: &str, parts: &[&str]) {
        let mut bytes = format!("{command}\n").into_bytes();
        let mut body = None;
        for part in parts {
            if part.starts_with('"') {
                body = Some(self.frame(part));
                continue;
            }
            let named = self.messages.iter().enumerate().rev();
            let mut header = part.to_string();
            for (place, message) in named {
                header = header.replace(&format!("<m{}>", place + 1), message);
            }
            bytes.extend_from_slice(header.as_bytes());
            bytes.push(b'\n');
        }
        if let Some(body) = &body {
            bytes.extend_from_slice(format!("content-length:{}\n", body.len()).as_bytes());
        }
        bytes.push(b'\n');
        bytes.extend(body.unwrap_or_default());
        bytes.push(0);
        self.house.send(self.ids[name], &bytes);
    }

    /// A frame of STOMP on one line; messages are called as they come.
    fn show_stomp(&mut self, lines: &[String], body: &[u8]) -> String {
        let mut shown = Vec::new();
        for line in lines {
            match line.split_once(':') {
                Some(("session" | "server", _)) => {}
                Some((name @ ("message-id" | "ack"), value)) => {
                    let place = self.messages.iter().position(|known| known == value);
                    let place = place.unwrap_or_else(|| {
                        self.messages.push(value.into());
                        self.messages.len() - 1
                    });
                    shown.push(format!("{name}:<m{}>", place + 1));
                }
                _ => shown.push(line.clone()),
            }
        }
        if !body.is_empty() {
            shown.push(show(body.strip_suffix(b"\n").unwrap_or(body)));
        }
        shown.join(" ")
    }

    fn frame(&self, word: &str) -> Vec<u8> {
        if let Some(name) = word.strip_prefix("<r") {
            let place = number(name.trim_end_matches('>')) as usize - 1;
            return self.tokens.get(place).unwrap_or_else(|| panic!("no {word} yet")).clone();
        }
        let Some(text) = word.strip_prefix('"') else {
            let octets = word.as_bytes().chunks(2).map(|pair| {
                let digits = core::str::from_utf8(pair).expect("digits");
                u8::from_str_radix(digits, 16).expect("hexadecimal digits")
            });
            return octets.collect();
        };
        let (text, times) = text.rsplit_once('"').expect("a closing quote");
        let times = times.strip_prefix('*').map_or(1, number);
        text.repeat(times as usize).into_bytes()
    }

    fn tell(&mut self, prefix: &str) {
        for seen in core::mem::take(&mut self.house.seen) {
            let line = match seen {
                Seen::Heard(_, Heard::Greeting) => continue,
                Seen::Heard(id, Heard::Command(body)) => {
                    let (name, data) = body[1..].split_at(usize::from(body[0]));
                    let name = String::from_utf8_lossy(name).into_owned();
                    let data = if name == "READY" { "…".into() } else { show(data) };
                    format!("<- {} {name} {data}", self.name(id))
                }
                Seen::Heard(id, Heard::Message(frames)) => {
                    let frames: Vec<String> = frames.iter().map(|f| self.show_frame(f)).collect();
                    format!("<- {} {}", self.name(id), frames.join(" "))
                }
                Seen::Heard(id, Heard::Frame(lines, body)) => {
                    let frame = self.show_stomp(&lines, &body);
                    format!("<- {} {frame}", self.name(id))
                }
                Seen::Heard(id, Heard::Beat) => format!("<- {} beat", self.name(id)),
                Seen::Closed(id, why) => format!("closed {}: {}", self.name(id), why.as_str()),
                Seen::Note(note) => format!("note: {}", self.note(&note)),
                Seen::Outcome(id, Outcome::Refused(why)) => {
                    format!("{} refused: {}", self.name(id), why.as_str())
                }
                Seen::Outcome(id, Outcome::Reply(body)) => {
                    let frames: Vec<_> = zmtp::raw_frames(&body).map(|(_, f)| show(f)).collect();
                    format!("{} answered: {}", self.name(id), frames.join(" "))
                }
                Seen::TurnedAway => "turned away".into(),
            };
            self.lines.push(format!("{prefix}{line}"));
        }
        self.tell_errands(prefix);
    }

    fn answer(&mut self, errand: &str, frames: &[&str]) {
        let frames: Vec<Vec<u8>> = frames.iter().map(|frame| self.frame(frame)).collect();
        let to = self.errands[number(&errand[1..]) as usize - 1].clone();
        let now = self.house.now;
        if !self.house.shard(to.conn).answer(now, &to, message(&frames)) {
            self.lines.push(format!("nobody takes {errand}"));
        }
        self.house.turn();
    }

    /// What the shell is asked to do.
    fn tell_errands(&mut self, prefix: &str) {
        let mut errands = Vec::new();
        self.house.shards.iter_mut().for_each(|shard| shard.take_errands(&mut errands));
        for Errand { from, principal: _, body } in errands {
            let frames = zmtp::raw_frames(&body).map(|(_, frame)| format!(" {}", show(frame)));
            let frames: String = frames.collect();
            let (name, service) = (self.name(from.conn), show(&from.service));
            let number = self.errands.len() + 1;
            self.lines.push(format!("{prefix}errand e{number} of {name}: {service}{frames}"));
            self.errands.push(from);
        }
    }

    /// A call from inside: `l1`, or `l1+n` with a lease of so many milliseconds.
    fn call(&mut self, name: &str, service: &str, body: &[&str]) {
        let (name, lease) = match name.split_once('+') {
            Some((name, millis)) => (name, Some(Span::from_millis(number(millis)))),
            None => (name, None),
        };
        let lease = lease.map(|span| Lease { span, secret: SECRET });
        let body: Vec<Vec<u8>> = body.iter().map(|frame| self.frame(frame)).collect();
        let shards = self.house.shards.len() - 1;
        let id = self.house.call(shards, service.as_bytes(), &message(&body), lease);
        self.ids.insert(name.to_string(), id);
    }

    /// A call that stayed says another word.
    fn speak_again(&mut self, word: &str, name: &str, place: &str, options: &[&str]) {
        let (id, now) = (self.ids[name], self.house.now);
        let stranger = options.contains(&"stranger");
        let secret = if options.contains(&"guesses") { SECRET - 1 } else { SECRET };
        let principal = if stranger { PrincipalId::ANONYMOUS } else { PrincipalId::HOUSE };
        let span = options.iter().find_map(|option| option.strip_prefix("lease="));
        let span = span.map(|millis| Span::from_millis(number(millis)));
        let (shard, whose) = (self.house.shard(id), (principal, secret));
        let place = place.as_bytes();
        let heard = match word {
            "goes_on" => shard.go_on(now, id, whose, place, span),
            _ => shard.done(now, id, whose, place, word == "done"),
        };
        let stays = shard.stays(id);
        self.lines.push(format!("{name} heard {heard} stays {stays}"));
        self.house.turn();
    }

    fn note(&self, note: &Note) -> String {
        match note {
            Note::Denied(id, ..) => format!("{id:?}: may not call that"),
            Note::WorkerJoined(id, _, service, n) => {
                format!("{} serves {} × {n}", self.name(*id), show(service))
            }
            Note::WorkerLeft(id) => format!("{} left", self.name(*id)),
            Note::WorkerExpired(id) => format!("{} expired", self.name(*id)),
            Note::WorkerDismissed(id, why) => format!("{} dismissed for {why}", self.name(*id)),
            Note::Garbage(id, why) => format!("garbage of {}: {why}", self.name(*id)),
            Note::Drained => "drained".into(),
            Note::Alarm(service, raised, _) => {
                format!("note {} alarm {raised}", String::from_utf8_lossy(service))
            }
            Note::Place(_, name, change) => {
                format!("place {} {}", String::from_utf8_lossy(name), change.as_str())
            }
            Note::Closed(..) => unreachable!("it was taken apart before"),
        }
    }

    fn show(&mut self) {
        let mut lines = Vec::new();
        for shard in &self.house.shards {
            let (c, stats) = (shard.counters(), shard.engine().stats());
            lines.push(format!(
                "connections {} of {}, turned away {}, messages {}, garbage {}, dismissals {}, \
                 expiries {}",
                c.connections,
                c.accepted,
                c.turned_away,
                c.messages,
                c.garbage,
                c.dismissals,
                c.expiries,
            ));
            lines.push(format!(
                "requests {} in house {} waiting {} replies {} refusals {:?} withdrawals {} \
                 redeliveries {}",
                stats.requests,
                shard.engine().requests_len(),
                shard.engine().waiting().0,
                stats.replies,
                stats.refusals,
                stats.withdrawals,
                stats.redeliveries,
            ));
            for view in shard.connections() {
                lines.push(format!(
                    "{}: in flight {} holds {} to write {}{}",
                    self.name(view.id),
                    view.in_flight,
                    view.held,
                    view.out_bytes,
                    if view.pings { "" } else { " no PING" },
                ));
            }
        }
        self.lines.append(&mut lines);
    }

    fn show_token(&mut self, frame: &[u8]) -> String {
        let place = self.tokens.iter().position(|token| token == frame).unwrap_or_else(|| {
            self.tokens.push(frame.to_vec());
            self.tokens.len() - 1
        });
        format!("<r{}>", place + 1)
    }

    fn show_frame(&mut self, frame: &[u8]) -> String {
        if frame.len() == 18 && frame.starts_with(b"r:") {
            return self.show_token(frame);
        }
        show(frame)
    }

    fn name(&self, id: ConnId) -> &str {
        let named = self.ids.iter().find(|(_, its)| **its == id);
        named.map_or("?", |(name, _)| name)
    }
}

fn set_all(config: &mut ShardConfig, keys: &[&str]) -> u8 {
    let mut shards = 1;
    for word in keys {
        let (key, value) = word.split_once('=').expect("key=value");
        if key == "pair" {
            let service = Bytes::copy_from_slice(value.as_bytes());
            let heartbeat = Span::from_millis(1_000);
            config.pairs.push(Pair { service, heartbeat, liveness: 3 });
            continue;
        }
        if let Some(name) = key.strip_prefix("regulator/") {
            let valve = ValveConfig::limit(number(value) as usize);
            let rules = RegulatorRules { line: SideRules::default(), valve };
            config.engine.meetings.regulators.insert(name.as_bytes().into(), rules);
            continue;
        }
        if key == "match" {
            config.engine.meetings.matches.insert(value.as_bytes().into(), MatchRules::default());
            continue;
        }
        let value = number(value);
        let service = &mut config.engine.defaults;
        match key {
            "shards" => shards = value as u8,
            "titanic" => config.titanic = value != 0,
            "connections" => config.limits.connections = value as usize,
            "out_bytes" => config.limits.out_bytes = value as usize,
            "handshake" => config.limits.handshake = Span::from_millis(value),
            "idle" => config.limits.idle = Span::from_millis(value),
            "garbage" => config.limits.garbage = value as u32,
            "subscriptions" => config.limits.subscriptions = value as usize,
            "body_bytes" => config.stomp.limits.body_bytes_max = value as u64,
            "name_bytes" => config.limits.name_bytes = value as usize,
            "heartbeat" => config.heartbeat = Span::from_millis(value),
            "liveness" => config.liveness = value as u32,
            "frame_bytes" => config.zmtp.frame_bytes_max = value as u64,
            "message_bytes" => config.zmtp.message_bytes_max = value as u64,
            "frames" => config.zmtp.frames_max = value as u32,
            "concurrency_max" => config.engine.concurrency_max = value as u32,
            "services_max" => config.engine.services_max = value as usize,
            "max_deliveries" => service.max_deliveries = value as u32,
            "queue_max" => service.queue_max = value as usize,
            "queue_bytes" => service.queue_bytes = value as u64,
            "give_up" => service.give_up = Span::from_millis(value),
            "execution_limit" => service.execution_limit = Span::from_millis(value),
            "answer_refusals" => service.answer_refusals = value != 0,
            _ => panic!("no such key: {key}"),
        }
    }
    shards
}

/// Words between blanks; what is quoted is one, with its quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let quoted = rest.strip_prefix('"').and_then(|text| text.find('"')).map_or(0, |at| at + 2);
        let end = rest[quoted..].find(' ').map_or(rest.len(), |at| quoted + at);
        words.push(rest[..end].to_string());
        rest = rest[end..].trim_start();
    }
    words
}

fn number(text: &str) -> i64 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}
