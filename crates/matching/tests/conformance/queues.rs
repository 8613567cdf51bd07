//! Lines: drop, timeout, CoDel and fair.

use std::collections::BTreeMap;

use matching::{Dropped, FairConfig, FairKey, FairQueue, Key, Queue, QueueConfig, Time};
use serde_json::{Value, json};

use crate::Verdict;
use crate::words::{self, number, text, time};

/// Who was pushed: id, tag, key.
type Guests<K> = Vec<(Value, Value, K)>;

/// A line under replay. Waiters are their ids.
enum Line {
    Plain(Box<Queue<Value>>, Guests<Key>),
    /// With the flow of each id.
    Fair(Box<FairQueue<Value>>, Guests<FairKey>, BTreeMap<String, Value>),
}

pub(crate) fn replay(trace: &Value) -> Verdict {
    let component = text(&trace["component"]);
    let start = time(&trace["t0"]);
    let mut line = match component {
        "sbroker_fair_queue" => {
            let config = words::fair(&trace["config"]).expect("a good configuration");
            Line::Fair(Box::new(FairQueue::new(config)), Vec::new(), BTreeMap::new())
        }
        _ => {
            let config = words::queue(component, &trace["config"]).expect("a good configuration");
            Line::Plain(Box::new(Queue::new(config, start)), Vec::new())
        }
    };
    let mut module = component.to_owned();
    for (i, step) in trace["steps"].as_array().expect("steps").iter().enumerate() {
        if let Some(other) = step.get("queue_module") {
            text(other).clone_into(&mut module);
        }
        let got = line.step(&module, step);
        if let Some(what) = words::difference(&got, &step["expect"]) {
            return Verdict::Differs(i, format!("{}: {what}", text(&step["op"])));
        }
    }
    Verdict::Same
}

impl Line {
    fn step(&mut self, module: &str, step: &Value) -> Value {
        let now = time(&step["t"]);
        let mut drops = Vec::new();
        let mut got = match self {
            Line::Plain(queue, guests) => plain_step(queue, guests, module, step, &mut drops),
            Line::Fair(queue, guests, flows) => fair_step(queue, guests, flows, step, &mut drops),
        };
        got["dropped"] = words::drops_json(&drops, now);
        got
    }
}

fn plain_step(
    queue: &mut Queue<Value>,
    guests: &mut Guests<Key>,
    module: &str,
    step: &Value,
    drops: &mut Vec<Dropped<Value>>,
) -> Value {
    let now = time(&step["t"]);
    let mut got = json!({});
    match text(&step["op"]) {
        "init" => {}
        "in" => {
            let key = queue.push(now, time(&step["send_time"]), step["id"].clone(), drops);
            guests.extend(key.map(|key| (step["id"].clone(), step["tag"].clone(), key)));
        }
        "out" | "fq_out" => {
            let popped = queue.pop(now, drops);
            if popped.is_none() && step["op"] == "fq_out" {
                got["remove_at"] = words::time_json(Some(queue.forget_at(now)));
            }
            got["out"] = popped.map_or(Value::Null, |entry| out(&entry.value, entry.send, now));
        }
        "timeout" | "info" => queue.tick(now, drops),
        "cancel" => {
            let keys = keys(guests, |(_, tag, _)| *tag == step["tag"]);
            got["cancelled"] = json!(queue.cancel_all(now, keys, drops));
        }
        "down" => {
            let keys = keys(guests, |(id, _, _)| *id == step["id"]);
            queue.cancel_all(now, keys, drops);
        }
        "config" | "swap" => {
            let config = words::queue(module, &step["config"]).expect("a good configuration");
            if step["op"] == "swap" {
                // The original starts the new line afresh even if it is of the same kind.
                queue.reconfigure(Time::from_nanos(i64::MIN), reset(config), drops);
                assert!(drops.is_empty(), "the way between two lines drops nobody");
            }
            queue.try_reconfigure(now, config, drops).expect("a good configuration");
        }
        op => panic!("unknown call {op}"),
    }
    got["next"] = words::time_json(queue.deadline());
    got["len"] = json!(queue.len());
    got["head_send_time"] = words::time_json(queue.oldest());
    got["queue"] = Value::Array(queue.iter().cloned().collect());
    got
}

/// A line that holds whoever `config` holds and has no discipline.
fn reset(config: QueueConfig) -> QueueConfig {
    let order = config.order;
    QueueConfig { order, ..QueueConfig::default() }
}

fn fair_step(
    queue: &mut FairQueue<Value>,
    guests: &mut Guests<FairKey>,
    flows: &mut BTreeMap<String, Value>,
    step: &Value,
    drops: &mut Vec<Dropped<Value>>,
) -> Value {
    let now = time(&step["t"]);
    let mut got = json!({});
    match text(&step["op"]) {
        "init" => {}
        "in" => {
            flows.insert(step["id"].to_string(), step["flow"].clone());
            let (send, flow) = (time(&step["send_time"]), flow(&step["flow"]));
            let key = queue.push(now, send, flow, step["id"].clone(), drops);
            guests.extend(key.map(|key| (step["id"].clone(), step["tag"].clone(), key)));
        }
        "out" => {
            let popped = queue.pop(now, drops);
            got["out"] = popped.map_or(Value::Null, |entry| out(&entry.value, entry.send, now));
        }
        "timeout" => queue.tick(now, drops),
        // The original asks every flow.
        "info" => {
            queue.cancel_all(now, [], drops);
        }
        "cancel" => {
            let keys = keys(guests, |(_, tag, _)| *tag == step["tag"]);
            got["cancelled"] = json!(queue.cancel_all(now, keys, drops));
        }
        "down" => {
            let keys = keys(guests, |(id, _, _)| *id == step["id"]);
            queue.cancel_all(now, keys, drops);
        }
        "config" => {
            let config: FairConfig = words::fair(&step["config"]).expect("a good configuration");
            if config.flows == queue.config().flows {
                queue.try_reconfigure(now, config, drops).expect("a good configuration");
            } else {
                let key_of = |id: &Value| flow(&flows[&id.to_string()]);
                queue.rekey(now, config, key_of, drops);
            }
        }
        op => panic!("unknown call {op}"),
    }
    got["next"] = words::time_json(queue.deadline());
    got["len"] = json!(queue.len());
    got["head_send_time"] = words::time_json(queue.oldest());
    got
}

fn out(id: &Value, send: Time, now: Time) -> Value {
    json!({ "id": id, "send_time": send.as_nanos(), "sojourn": (now - send).as_nanos() })
}

fn keys<K: Copy>(guests: &Guests<K>, wanted: impl Fn(&(Value, Value, K)) -> bool) -> Vec<K> {
    guests.iter().filter(|guest| wanted(guest)).map(|(_, _, key)| *key).collect()
}

/// Keys in the order of their names, as in the original.
fn flow(name: &Value) -> u64 {
    let mut bytes = [0; 8];
    for (byte, of) in bytes.iter_mut().zip(text(name).bytes()) {
        *byte = of;
    }
    u64::from_be_bytes(bytes)
}

/// Whether the record shows the defect `tag` at `step` or before it.
pub(crate) fn shows(tag: &str, trace: &Value, step: usize) -> bool {
    let mut config = &trace["config"];
    for (i, call) in trace["steps"].as_array().expect("steps").iter().enumerate().take(step + 1) {
        if let Some(other) = call.get("config") {
            config = other;
        }
        let line = config.get("args").unwrap_or(config);
        let shown = match tag {
            "Q1" => drops_the_fast(line, call),
            "Q2" => stays_alarmed(line, call),
            "Q3" => wakes_for_nothing(line, call),
            _ => i > 0 && revives(&trace["steps"][i - 1], call),
        };
        if shown {
            return true;
        }
    }
    false
}

fn target(line: &Value) -> i64 {
    line.get("target").map_or(100, number) * 1_000_000
}

/// Q1: somebody below target was dropped, and not for want of room.
fn drops_the_fast(line: &Value, call: &Value) -> bool {
    let drops = call["expect"]["dropped"].as_array().expect("drops");
    let fast = drops.iter().filter(|drop| number(&drop["sojourn"]) < target(line)).count();
    fast > 0 && drops.len() > 1 && call["op"] != "config" && call["op"] != "swap"
}

/// Q2: the last waiter of a LIFO line left fast and the episode goes on.
fn stays_alarmed(line: &Value, call: &Value) -> bool {
    let out = &call["expect"]["out"];
    let lifo = line["out"] == "out_r" && line.get("min").is_none_or(|min| *min == 0);
    if !lifo || !out.is_object() || number(&out["sojourn"]) >= target(line) {
        return false;
    }
    let alarmed = |state: &Value| state.get("drop_first").is_some_and(|at| !at.is_null());
    let state = &call["expect"]["state"];
    match state.get("flows").and_then(Value::as_object) {
        None => call["expect"]["len"] == 0 && alarmed(state),
        Some(flows) => flows.values().any(|flow| {
            flow["queue"].as_array().is_some_and(Vec::is_empty) && alarmed(&flow["state"])
        }),
    }
}

/// Q3: a LIFO timeout line asks for a timer at or below `min`.
fn wakes_for_nothing(line: &Value, call: &Value) -> bool {
    line["out"] == "out_r"
        && line.get("min").is_some_and(|min| *min != 0)
        && (call["op"] == "out" || call["op"] == "fq_out")
        && !call["expect"]["next"].is_null()
}

/// Q5: a flow that was to be forgotten by now is back with what it knew.
fn revives(before: &Value, call: &Value) -> bool {
    let name = text(&call["flow"]);
    let remembered = &before["expect"]["state"]["empties"][name];
    call["op"] == "in"
        && remembered.is_object()
        && number(&remembered["remove_at"]) <= number(&call["t"])
}
