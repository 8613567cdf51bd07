//! Valves, and regulators as a whole.

use std::collections::{BTreeMap, BTreeSet};

use matching::{Admissions, GoOn, Key, Lock, Regulator, Rule, Span, Time, Valve, ValveConfig};
use serde_json::{Value, json};

use crate::Verdict;
use crate::words::{self, Bad, number, text, time};

pub(crate) fn config(module: &str, config: &Value) -> Result<ValveConfig, Bad> {
    let names: &[&str] = match module {
        "sregulator_open_valve" => &["max"],
        "sregulator_relative_valve" => &["target", "min", "max"],
        "sregulator_codel_valve" => &["target", "interval", "min", "max"],
        "sregulator_rate_valve" => &["limit", "interval", "min", "max"],
        _ => panic!("no valve: {module}"),
    };
    words::known(config, names)?;
    let target = words::finite(config, "target", 100)?;
    let interval = words::finite(config, "interval", 1_000)?;
    let rule = match module {
        "sregulator_open_valve" => Rule::Open,
        "sregulator_relative_valve" => Rule::Relative(target),
        "sregulator_codel_valve" => Rule::Codel { target, interval },
        _ => Rule::Rate { limit: words::count(config, "limit", 100)?, interval },
    };
    let (min, max) = (words::count(config, "min", 0)?, words::count(config, "max", usize::MAX)?);
    let config = ValveConfig { min, max, rule };
    config.validate().map_err(words::badarg)?;
    Ok(config)
}

pub(crate) fn replay(trace: &Value) -> Verdict {
    let component = text(&trace["component"]);
    let running = trace["running"].as_array().cloned().unwrap_or_default();
    let mut locks: BTreeSet<String> = running.iter().map(Value::to_string).collect();
    let good = config(component, &trace["config"]).expect("a good configuration");
    let mut valve = Valve::new(good, locks.len(), time(&trace["t0"]));
    for (i, step) in trace["steps"].as_array().expect("steps").iter().enumerate() {
        let now = time(&step["t"]);
        let mut got = call(&mut valve, &mut locks, component, step);
        got["status"] = json!(if valve.is_open(now) { "open" } else { "closed" });
        got["size"] = json!(valve.size());
        got["next"] = words::time_json(valve.deadline(now));
        got["open_time"] = words::time_json(valve.opening());
        if let Some(what) = words::difference(&got, &step["expect"]) {
            return Verdict::Differs(i, format!("{}: {what}", text(&step["op"])));
        }
    }
    Verdict::Same
}

fn call(valve: &mut Valve, locks: &mut BTreeSet<String>, component: &str, step: &Value) -> Value {
    let (now, id) = (time(&step["t"]), step["id"].to_string());
    let mut got = json!({});
    let mut went = |opened: Time| {
        got["result"] = json!("go");
        got["open"] = json!(opened.as_nanos());
        got["relative_time"] = json!((opened - now).as_nanos());
    };
    match text(&step["op"]) {
        "init" | "timeout" => {}
        "ask" => {
            went(valve.admit(now));
            locks.insert(id);
        }
        "done" | "down" | "continue" if !locks.contains(&id) => got["result"] = json!("error"),
        "continue" => match valve.go_on(now) {
            Some(opened) => went(opened),
            None => {
                locks.remove(&id);
                got["result"] = json!("done");
            }
        },
        "done" | "down" => {
            valve.release(now, None);
            locks.remove(&id);
            got["result"] = json!("done");
        }
        "update" => valve.update(now, Span::from_nanos(number(&step["value"]))),
        "config" => {
            let config = config(component, &step["config"]).expect("a good configuration");
            valve.reconfigure(now, config);
        }
        op => panic!("unknown call {op}"),
    }
    got
}

/// Whether the record shows the defect `tag` at `step` or before it.
pub(crate) fn shows(tag: &str, trace: &Value, step: usize) -> bool {
    let steps = trace["steps"].as_array().expect("steps");
    let status = |i: usize| text(&steps[i]["expect"]["status"]);
    (1..=step).any(|i| match tag {
        "Q10" => steps[i]["op"] == "continue" && steps[i]["expect"]["result"] == "go",
        _ => steps[i]["op"] == "config" && status(i - 1) == "closed" && status(i) == "open",
    })
}

/// A regulator and who stands where, by id.
struct House {
    regulator: Regulator<i64>,
    waiting: BTreeMap<i64, Key>,
    locks: BTreeMap<i64, Lock>,
    now: Time,
}

pub(crate) fn scenario(trace: &Value) -> Verdict {
    let config = &trace["config"];
    let queue = words::queue(text(&config["queue"]["module"]), &config["queue"]["args"]);
    let valve = self::config(text(&config["valve"]["module"]), &config["valve"]["args"]);
    let (queue, valve) = (queue.expect("a good line"), valve.expect("a good valve"));
    let mut house = House {
        regulator: Regulator::new(queue, valve, Time::ZERO),
        waiting: BTreeMap::new(),
        locks: BTreeMap::new(),
        now: Time::ZERO,
    };
    for (i, step) in trace["steps"].as_array().expect("steps").iter().enumerate() {
        let got = house.step(step);
        let mut expected = step["expect"].clone();
        words::sort_notified(&mut expected);
        if let Some(what) = words::difference(&got, &expected) {
            return Verdict::Differs(i, format!("{}: {what}", text(&step["op"])));
        }
    }
    Verdict::Same
}

impl House {
    fn step(&mut self, step: &Value) -> Value {
        // The scenarios know no time; what counts is its order.
        self.now += Span::from_nanos(1);
        let (now, op, id) = (self.now, text(&step["op"]), step["id"].as_i64().unwrap_or(-1));
        let mut out = Admissions::default();
        let mut got = json!({});
        let lock = self.locks.get(&id).copied().unwrap_or_default();
        match op {
            "async_ask" => {
                let key = self.regulator.ask(now, now, id, &mut out);
                self.waiting.extend(key.map(|key| (id, key)));
                got["returns"] = json!("await");
            }
            "dynamic_ask" => {
                let open = self.regulator.is_open();
                let key = self.regulator.ask(now, now, id, &mut out);
                self.waiting.extend(key.map(|key| (id, key)));
                got["returns"] = json!(if open { "go" } else { "await" });
            }
            "nb_ask" => {
                let ran = self.regulator.try_ask(now, now, id, &mut out).is_ok();
                got["returns"] = json!(if ran { "go" } else { "drop" });
            }
            "done" => {
                let held = self.regulator.done(now, lock, true, &mut out);
                got["returns"] = json!(if held { "stop" } else { "not_found" });
            }
            "continue" => {
                got["returns"] = json!(match self.regulator.go_on(now, lock, &mut out) {
                    GoOn::Go(_) => "go",
                    GoOn::Stop => "stop",
                    GoOn::NotFound => "not_found",
                });
            }
            "kill" => {
                let key = self.waiting.get(&id).copied().unwrap_or_default();
                self.regulator.cancel(now, key, &mut out);
                self.regulator.lost(now, lock, &mut out);
            }
            "cancel" => {
                let key = self.waiting.get(&id).copied().unwrap_or_default();
                let cancelled = self.regulator.cancel(now, key, &mut out);
                got["cancelled"] = json!(u8::from(cancelled.is_some()));
            }
            "update" => {
                let value = Span::from_nanos(number(&step["value"]));
                self.regulator.update(now, value, &mut out);
            }
            _ => panic!("unknown call {op}"),
        }
        self.notify(&mut got, id, &out);
        got
    }

    fn notify(&mut self, got: &mut Value, id: i64, out: &Admissions<i64>) {
        let at_once = got["returns"] == "go";
        let mut notified = Vec::new();
        for admitted in &out.admitted {
            self.locks.insert(admitted.value, admitted.lock);
            assert!(admitted.sojourn(self.now) >= Span::ZERO.max(admitted.relative()));
            if !(at_once && admitted.value == id) {
                notified.push(json!({ "id": admitted.value, "result": "go" }));
            }
        }
        for dropped in &out.dropped {
            notified.push(json!({ "id": dropped.value, "result": "drop" }));
        }
        got["notified"] = Value::Array(notified);
        words::sort_notified(got);
        got["len"] = json!(self.regulator.len());
        got["size"] = json!(self.regulator.size());
    }
}
