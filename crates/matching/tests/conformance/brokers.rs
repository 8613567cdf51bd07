//! Brokers, and how clients come to one: gate and balancer.

use std::collections::BTreeMap;

use matching::balancer::{self, Estimate, Pick};
use matching::{
    Broker, Drops, Key, Match, Outcome, PARTS, Party, Protector, Published, Side, Span, Time, parts,
};
use serde_json::{Value, json};

use crate::Verdict;
use crate::words::{self, number, text, time};

/// A broker and who waits, by id.
struct House {
    broker: Broker<i64, i64>,
    asks: BTreeMap<i64, Key>,
    ask_rs: BTreeMap<i64, Key>,
    now: Time,
}

pub(crate) fn scenario(trace: &Value) -> Verdict {
    let side = |config: &Value, name: &str| {
        let side = &config[name];
        words::queue(text(&side["module"]), &side["args"]).expect("a good line")
    };
    let config = &trace["config"];
    let mut house = House {
        broker: Broker::new(side(config, "ask"), side(config, "ask_r"), Time::ZERO),
        asks: BTreeMap::new(),
        ask_rs: BTreeMap::new(),
        now: Time::ZERO,
    };
    for (i, step) in trace["steps"].as_array().expect("steps").iter().enumerate() {
        let mut got = match step["op"] == "change_config" {
            true => {
                let (config, mut drops) = (&step["config"], Drops::default());
                let (ask, ask_r) = (side(config, "ask"), side(config, "ask_r"));
                house.broker.try_reconfigure(house.now, ask, ask_r, &mut drops).expect("good");
                house.tell(json!({}), &drops, None)
            }
            false => house.step(step),
        };
        let mut expected = step["expect"].clone();
        words::sort_notified(&mut expected);
        words::sort_notified(&mut got);
        if let Some(what) = words::difference(&got, &expected) {
            return Verdict::Differs(i, format!("{}: {what}", text(&step["op"])));
        }
    }
    Verdict::Same
}

impl House {
    fn step(&mut self, step: &Value) -> Value {
        let (now, id) = (self.now, number(&step["id"]));
        let (mut drops, mut got) = (Drops::default(), json!({}));
        let mut met = None;
        match text(&step["op"]) {
            op @ ("async_ask" | "dynamic_ask") => {
                let outcome = self.broker.ask(now, now, id, &mut drops);
                met = placed(op, id, outcome, &mut self.asks, &mut got);
            }
            op @ ("async_ask_r" | "dynamic_ask_r") => {
                let outcome = self.broker.ask_r(now, now, id, &mut drops);
                met = placed(op, id, outcome, &mut self.ask_rs, &mut got);
            }
            "nb_ask" => {
                met = self.broker.try_ask(now, now, id, &mut drops).ok();
                got["returns"] = json!(if met.is_some() { "go" } else { "drop" });
            }
            "nb_ask_r" => {
                met = self.broker.try_ask_r(now, now, id, &mut drops).ok();
                got["returns"] = json!(if met.is_some() { "go" } else { "drop" });
            }
            "cancel" => {
                let cancelled = self.cancel(id, &mut drops);
                got["cancelled"] = json!(cancelled);
            }
            "kill" => {
                self.cancel(id, &mut drops);
            }
            op => panic!("unknown call {op}"),
        }
        let at_once = (got["returns"] == "go").then_some(id);
        if let (Some(id), Some(met)) = (at_once, &met) {
            got["partner"] = json!(met.ask.value + met.ask_r.value - id);
        }
        self.tell_met(got, &drops, met, at_once)
    }

    /// Everyone of that name, on either side.
    fn cancel(&mut self, id: i64, drops: &mut Drops<i64, i64>) -> usize {
        let (ask, ask_r) = (self.asks.get(&id).copied(), self.ask_rs.get(&id).copied());
        self.broker.cancel_all(self.now, ask, drops)
            + self.broker.cancel_all_r(self.now, ask_r, drops)
    }

    fn tell(&self, got: Value, drops: &Drops<i64, i64>, at_once: Option<i64>) -> Value {
        self.tell_met(got, drops, None, at_once)
    }

    fn tell_met(
        &self,
        mut got: Value,
        drops: &Drops<i64, i64>,
        met: Option<Match<i64, i64>>,
        at_once: Option<i64>,
    ) -> Value {
        let mut notified = Vec::new();
        if let Some(met) = met {
            let (ask, ask_r) = (met.ask.value, met.ask_r.value);
            notified.push(json!({ "id": ask, "result": "go", "partner": ask_r }));
            notified.push(json!({ "id": ask_r, "result": "go", "partner": ask }));
            notified.retain(|one| Some(number(&one["id"])) != at_once);
        }
        let dropped = drops.asks.iter().chain(&drops.ask_rs);
        notified.extend(dropped.map(|drop| json!({ "id": drop.value, "result": "drop" })));
        got["notified"] = Value::Array(notified);
        got["len"] = json!(self.broker.asks().len());
        got["len_r"] = json!(self.broker.ask_rs().len());
        got
    }
}

fn placed(
    op: &str,
    id: i64,
    outcome: Outcome<i64, i64>,
    keys: &mut BTreeMap<i64, Key>,
    got: &mut Value,
) -> Option<Match<i64, i64>> {
    got["returns"] = json!("await");
    match outcome {
        Outcome::Matched(met) => {
            if op.starts_with("dynamic") {
                got["returns"] = json!("go");
            }
            return Some(met);
        }
        Outcome::Waiting(key) => {
            keys.insert(id, key);
        }
        Outcome::Dropped => {}
    }
    None
}

pub(crate) fn settle(trace: &Value) -> Verdict {
    let now = time(&trace["now"]);
    let met = Match {
        ask: Party { value: "ask", send: time(&trace["ask_send"]) },
        ask_r: Party { value: "ask_r", send: time(&trace["ask_r_send"]) },
    };
    let reply = |to: Party<&str>, from: Party<&str>, relative: Span| {
        json!({
            "to": to.value,
            "value_from": from.value,
            "relative_time": relative.as_nanos(),
            "sojourn": to.sojourn(now).as_nanos(),
        })
    };
    let got = json!({ "replies_in_order": [
        reply(met.ask_r, met.ask, met.relative_r()),
        reply(met.ask, met.ask_r, met.relative()),
    ] });
    match words::difference(&got, &trace["expect"]) {
        None => Verdict::Same,
        Some(what) => Verdict::Differs(0, what),
    }
}

/// A gate where somebody waits, so that chance counts.
const WAITING: usize = 1;

pub(crate) fn decide(trace: &Value) -> Verdict {
    let min = trace["min"].as_u64().expect("a minimum");
    let max = trace["max"].as_u64().unwrap_or(u64::MAX);
    let len = trace["len_after_increment"].as_u64().expect("a length") - 1;
    let drop = trace["drop_int"].as_u64().expect("a probability");
    let mut gate = Protector::new(min, max);
    gate.update(Published { len, ask: drop as f64 / f64::from(PARTS), ask_r: 0.0 });
    let mut other = gate;
    let got = match (gate.admit(Side::Ask, WAITING, 0), other.admit(Side::Ask, WAITING, PARTS - 1))
    {
        (true, true) => "go",
        (false, false) => "drop",
        (false, true) | (true, false) => "probabilistic",
    };
    match words::difference(&json!({ "decision": got }), &trace["expect"]) {
        None => Verdict::Same,
        Some(what) => Verdict::Differs(0, what),
    }
}

pub(crate) fn gate(trace: &Value) -> Verdict {
    let bound = |name: &str| trace[name].as_u64().expect("a bound");
    let mut gate = Protector::new(bound("min"), bound("max"));
    for (i, step) in trace["steps"].as_array().expect("steps").iter().enumerate() {
        let got = if step["op"] == "update" {
            let probability = |name: &str| step[name].as_f64().expect("a probability");
            let len = step["len"].as_u64().expect("a length");
            let (ask, ask_r) = (probability("ask_drop"), probability("ask_r_drop"));
            gate.update(Published { len, ask, ask_r });
            json!({ "ask_drop_int": parts(ask), "ask_r_drop_int": parts(ask_r) })
        } else {
            let side = if step["key"] == "ask" { Side::Ask } else { Side::AskR };
            let goes = gate.admit(side, WAITING, 0);
            json!({ "result": if goes { "go" } else { "drop" }, "len": gate.len() })
        };
        if let Some(what) = words::difference(&got, step) {
            return Verdict::Differs(i, what);
        }
    }
    Verdict::Same
}

pub(crate) fn pick(trace: &Value) -> Verdict {
    let n = usize::try_from(number(&trace["n"])).expect("a number of brokers");
    let pairs = (0..n * (n - 1)).map(|draw| balancer::two_of(n, draw).expect("there are two"));
    let pairs: Vec<Value> = pairs.map(|(a, b)| json!([a + 1, b + 1])).collect();
    let got = json!({ "pairs": pairs });
    match words::difference(&got, &trace["expect"]) {
        None => Verdict::Same,
        Some(what) => Verdict::Differs(0, what),
    }
}

pub(crate) fn compare(trace: &Value) -> Verdict {
    let estimate = |value: &Value| match value.as_str() {
        None => Estimate::Known(Span::from_nanos(number(value))),
        Some("undefined") => Estimate::Absent,
        Some("nobetter") => Estimate::Unknown,
        Some(_) => Estimate::Remote,
    };
    let got = match balancer::better(estimate(&trace["first"]), estimate(&trace["second"])) {
        Pick::First => "first",
        Pick::Second => "second",
        Pick::Neither(Estimate::Absent) => "undefined",
        Pick::Neither(Estimate::Unknown) => "nobetter",
        Pick::Neither(Estimate::Remote | Estimate::Known(_)) => "badnode",
    };
    match words::difference(&json!({ "choice": got }), &trace["expect"]) {
        None => Verdict::Same,
        Some(what) => Verdict::Differs(0, what),
    }
}
