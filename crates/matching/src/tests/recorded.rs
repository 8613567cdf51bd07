//! Replays traces recorded from Erlang's `sbroker` 1.0.0.
//!
//! A trace begins with `trace` or `broker`, its name, the configuration and whatever quirk of the
//! original it shows. Each further line is a call, `=`, and everything that came of it. Times are
//! nanoseconds. A line reads
//!
//! * `push NOW ID TAG SEND`, `pop NOW`, `tick NOW`, `config NOW …` for a queue;
//! * `cancel NOW TAG` for everyone with that tag, `gone NOW ID` for the death of one;
//! * `ask ID`, `ask_r ID`, `nb_ask ID`, `nb_ask_r ID`, `cancel ID`, `gone ID`, `config … | …` for a
//!   broker, where `nb` asks only if somebody waits on the other side.
//!
//! Differences by intent: with quirk Q3 the original asks for a timer at `min`, we do not.

use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use crate::{
    Broker, Discipline, DropFrom, Drops, Key, Order, Outcome, Queue, QueueConfig, Side, Span, Time,
};

#[test]
fn queues_do_what_the_original_did() {
    let traces = traces(include_str!("../../testdata/queue.txt"), "trace ");
    assert!(traces.len() > 45, "{} traces", traces.len());
    for trace in traces {
        let (head, steps) = trace.split_first().expect("a trace has a head");
        let words: Vec<&str> = head.split(' ').collect();
        let start = words.iter().find_map(|word| word.strip_prefix("t=")).expect("a start");
        let start = Time::from_nanos(number(start));
        let mut replay = Replay {
            queue: Queue::new(config(&words[2..]), start),
            waiting: Vec::new(),
            timer_at_min: words.last() == Some(&"Q3"),
        };
        for (i, line) in steps.iter().enumerate() {
            let (call, expected) = line.split_once(" = ").expect("a step");
            let got = replay.step(call);
            assert_eq!(got, replay.expected(expected), "{} step {i}: {call}", words[1]);
        }
    }
}

#[test]
fn brokers_do_what_the_original_did() {
    let traces = traces(include_str!("../../testdata/broker.txt"), "broker ");
    assert!(traces.len() > 15, "{} traces", traces.len());
    for trace in traces {
        let (head, steps) = trace.split_first().expect("a trace has a head");
        let words: Vec<&str> = head.split(' ').collect();
        let (asks, ask_rs) = sides(&words[2..]);
        let mut broker = Broker::new(asks, ask_rs, Time::ZERO);
        let mut keys = Vec::new();
        for (i, line) in steps.iter().enumerate() {
            let (call, expected) = line.split_once(" = ").expect("a step");
            let got = broker_step(&mut broker, &mut keys, call);
            assert_eq!(got, expected, "{} step {i}: {call}", words[1]);
        }
    }
}

/// A queue under replay, and who waits in it: id, tag, key.
struct Replay<'a> {
    queue: Queue<&'a str>,
    waiting: Vec<(&'a str, &'a str, Key)>,
    timer_at_min: bool,
}

impl<'a> Replay<'a> {
    /// What we expect where the original asked for a useless timer.
    fn expected(&self, expected: &str) -> String {
        let words: Vec<&str> = expected.split(' ').collect();
        let [before @ .., "next", _, "len", len] = &words[..] else { panic!("{expected}") };
        if self.timer_at_min && number(len) as usize <= self.queue.config().min {
            return [before, &["next", "-", "len", len]].concat().join(" ");
        }
        expected.to_string()
    }

    /// Makes one call and says all that came of it.
    fn step(&mut self, call: &'a str) -> String {
        let words: Vec<&str> = call.split(' ').collect();
        let now = Time::from_nanos(number(words[1]));
        let (mut drops, mut result) = (Vec::new(), String::new());
        match words[..] {
            ["push", _, id, tag, send] => {
                let send = Time::from_nanos(number(send));
                let key = self.queue.push(now, send, id, &mut drops);
                self.waiting.extend(key.map(|key| (id, tag, key)));
            }
            ["pop", _] => {
                let popped = self.queue.pop(now, &mut drops);
                result = format!("out {} ", popped.map_or("-", |entry| entry.value));
            }
            ["tick", _] => self.queue.tick(now, &mut drops),
            ["config", _, ref words @ ..] => {
                self.queue.reconfigure(now, config(words), &mut drops);
            }
            ["cancel", _, tag] => {
                let keys = self.keys(|(_, its, _)| *its == tag);
                result = format!("cancelled {} ", keys.len());
                self.cancel(now, &keys, &mut drops);
            }
            ["gone", _, id] => {
                let keys = self.keys(|(its, _, _)| *its == id);
                self.cancel(now, &keys, &mut drops);
            }
            _ => panic!("{call}"),
        }
        let dropped: String = drops
            .iter()
            .map(|drop| format!("drop {} {} ", drop.value, (now - drop.send).as_nanos()))
            .collect();
        let next = self.queue.deadline().map_or("-".into(), |due| due.as_nanos().to_string());
        format!("{dropped}{result}next {next} len {}", self.queue.len())
    }

    fn keys(&self, wanted: impl Fn(&(&str, &str, Key)) -> bool) -> Vec<Key> {
        let wanted = self.waiting.iter().filter(|waiter| wanted(waiter));
        wanted.map(|(_, _, key)| *key).filter(|key| self.queue.get(*key).is_some()).collect()
    }

    /// The original removes everyone with a tag, then looks at the time.
    fn cancel(&mut self, now: Time, keys: &[Key], drops: &mut Vec<crate::Dropped<&'a str>>) {
        for key in keys {
            assert!(self.queue.cancel(Time::from_nanos(i64::MIN), *key, drops).is_some());
        }
        self.queue.tick(now, drops);
    }
}

fn broker_step<'a>(
    broker: &mut Broker<&'a str, &'a str>,
    keys: &mut Vec<(&'a str, Side, Key)>,
    call: &'a str,
) -> String {
    let words: Vec<&str> = call.split(' ').collect();
    let (now, mut drops, mut result) = (Time::ZERO, Drops::default(), String::new());
    match words[..] {
        ["nb_ask", id] if broker.ask_rs().is_empty() => result = format!("drop {id} "),
        ["nb_ask_r", id] if broker.asks().is_empty() => result = format!("drop {id} "),
        ["ask" | "nb_ask", id] => match broker.ask(now, now, id, &mut drops) {
            Outcome::Matched(seated) => result = format!("meets {} ", seated.ask_r.value),
            Outcome::Waiting(key) => keys.push((id, Side::Ask, key)),
            Outcome::Dropped => {}
        },
        ["ask_r" | "nb_ask_r", id] => match broker.ask_r(now, now, id, &mut drops) {
            Outcome::Matched(seated) => result = format!("meets {} ", seated.ask.value),
            Outcome::Waiting(key) => keys.push((id, Side::AskR, key)),
            Outcome::Dropped => {}
        },
        [verb @ ("cancel" | "gone"), id] => {
            let place = keys.iter().find(|(its, _, _)| *its == id);
            let cancelled = place.and_then(|(_, side, key)| match side {
                Side::Ask => broker.cancel(now, *key, &mut drops),
                Side::AskR => broker.cancel_r(now, *key, &mut drops),
            });
            if verb == "cancel" {
                result = format!("cancelled {} ", u8::from(cancelled.is_some()));
            }
        }
        ["config", ref words @ ..] => {
            let (asks, ask_rs) = sides(words);
            broker.reconfigure(now, asks, ask_rs, &mut drops);
        }
        _ => panic!("{call}"),
    }
    let mut dropped: Vec<i64> = [&drops.asks[..], &drops.ask_rs[..]]
        .concat()
        .iter()
        .map(|drop| number(drop.value))
        .collect();
    dropped.sort_unstable();
    let dropped: String = dropped.iter().map(|id| format!("drop {id} ")).collect();
    format!("{result}{dropped}len {} {}", broker.asks().len(), broker.ask_rs().len())
}

fn traces<'a>(text: &'a str, head: &str) -> Vec<Vec<&'a str>> {
    let mut traces: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        if line.starts_with(head) {
            traces.push(Vec::new());
        }
        traces.last_mut().expect("a trace begins with its head").push(line);
    }
    traces
}

/// `drop|timeout fifo|lifo front|back min=N max=N|- [ms=N|-]`
fn config(words: &[&str]) -> QueueConfig {
    let value = |prefix: &str| words.iter().find_map(|word| word.strip_prefix(prefix));
    let timeout = value("ms=").map(|ms| match ms {
        "-" => Discipline::Timeout(Span::MAX),
        ms => Discipline::Timeout(Span::from_millis(number(ms))),
    });
    QueueConfig {
        order: if words[1] == "lifo" { Order::Lifo } else { Order::Fifo },
        drop_from: if words[2] == "front" { DropFrom::Front } else { DropFrom::Back },
        min: value("min=").map_or(0, |n| number(n) as usize),
        max: value("max=").filter(|n| *n != "-").map_or(usize::MAX, |n| number(n) as usize),
        discipline: timeout.unwrap_or_default(),
    }
}

fn sides(words: &[&str]) -> (QueueConfig, QueueConfig) {
    let mut sides = words.split(|word| *word == "|").map(config);
    (sides.next().expect("asks"), sides.next().expect("ask_rs"))
}

fn number(text: &str) -> i64 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}
