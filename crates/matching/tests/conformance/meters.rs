//! Meters, and what a reading of the clock hands them.

use matching::{
    Alarm, AlarmConfig, AlarmMeter, BetterConfig, BetterMeter, ConfigError, PieConfig, PieMeter,
    PieSide, Sample, Side, Span, Target, Time, UpdateMeter, Watch, parts,
};
use serde_json::{Value, json};

use crate::Verdict;
use crate::words::{self, Bad, number, text, time};

fn steps(trace: &Value) -> impl Iterator<Item = (usize, &Value)> {
    trace["steps"].as_array().expect("steps").iter().enumerate()
}

fn sample(step: &Value) -> Sample {
    Sample {
        now: time(&step["t"]),
        queue_delay: Span::from_nanos(number(&step["queue_delay"])),
        process_delay: Span::from_nanos(number(&step["process_delay"])),
        relative: Span::from_nanos(number(&step["relative_time"])),
        backlog: step["mailbox_len"].as_u64().expect("a length"),
    }
}

/// The original never asks for a time that is past.
fn next(deadline: Option<Time>, step: &Value) -> Value {
    words::time_json(deadline.map(|due| due.max(time(&step["t"]))))
}

fn differs(i: usize, got: &Value, step: &Value) -> Option<Verdict> {
    let what = words::difference(got, &step["expect"])?;
    Some(Verdict::Differs(i, format!("{}: {what}", text(&step["op"]))))
}

pub(crate) fn pie_config(config: &Value) -> Result<PieConfig, Bad> {
    words::known(config, &["ask", "ask_r", "update", "min", "max"])?;
    let side = |name: &str| -> Result<PieSide, Bad> {
        let Some(side) = config.get(name) else { return Ok(PieSide::default()) };
        words::known(side, &["target", "interval"])?;
        Ok(PieSide {
            target: words::finite(side, "target", 100)?,
            interval: words::finite(side, "interval", 1_000)?,
        })
    };
    let max = words::count(config, "max", usize::MAX)?;
    let config = PieConfig {
        ask: side("ask")?,
        ask_r: side("ask_r")?,
        update: words::finite(config, "update", 100)?,
        min: words::count(config, "min", 0)? as u64,
        max: if max == usize::MAX { u64::MAX } else { max as u64 },
    };
    config.validate().map_err(words::badarg)?;
    Ok(config)
}

pub(crate) fn pie(trace: &Value) -> Verdict {
    let config = pie_config(&trace["config"]).expect("a good configuration");
    let mut meter = PieMeter::new(config, time(&trace["t0"]));
    for (i, step) in steps(trace) {
        let now = time(&step["t"]);
        match text(&step["op"]) {
            "init" | "info" => {}
            "update" => {
                meter.sample(&sample(step));
            }
            "config" => {
                let config = pie_config(&step["config"]).expect("a good configuration");
                meter.reconfigure(now, config);
            }
            op => panic!("unknown call {op}"),
        }
        let (published, max) = (meter.published(), meter.config().max);
        let got = json!({
            "next": next(Some(meter.deadline()), step),
            "published": {
                "min": meter.config().min,
                "max": if max == u64::MAX { Value::Null } else { json!(max) },
                "len": published.len,
                "ask_drop_int": parts(published.ask),
                "ask_r_drop_int": parts(published.ask_r),
            },
        });
        if let Some(verdict) = differs(i, &got, step) {
            return verdict;
        }
    }
    Verdict::Same
}

pub(crate) fn better_config(config: &Value) -> Result<BetterConfig, Bad> {
    words::known(config, &["ask", "ask_r", "update"])?;
    let upper = |name: &str| -> Result<Span, Bad> {
        let Some(side) = config.get(name) else { return Ok(Span::from_secs(5)) };
        words::known(side, &["upper"])?;
        words::finite(side, "upper", 5_000)
    };
    let update = words::finite(config, "update", 100)?;
    let config = BetterConfig { ask_upper: upper("ask")?, ask_r_upper: upper("ask_r")?, update };
    config.validate().map_err(words::badarg)?;
    Ok(config)
}

pub(crate) fn better(trace: &Value) -> Verdict {
    let config = better_config(&trace["config"]).expect("a good configuration");
    let mut meter = BetterMeter::new(config, time(&trace["t0"]));
    for (i, step) in steps(trace) {
        match text(&step["op"]) {
            "init" | "info" => {}
            "update" => meter.sample(&sample(step)),
            "config" => {
                let config = better_config(&step["config"]).expect("a good configuration");
                meter.reconfigure(time(&step["t"]), config);
            }
            op => panic!("unknown call {op}"),
        }
        let got = json!({
            "next": next(Some(meter.deadline()), step),
            "published": {
                "ask": meter.estimate(Side::Ask).as_nanos(),
                "ask_r": meter.estimate(Side::AskR).as_nanos(),
            },
        });
        if let Some(verdict) = differs(i, &got, step) {
            return verdict;
        }
    }
    Verdict::Same
}

pub(crate) fn alarm_config(module: &str, config: &Value) -> Result<AlarmConfig, Bad> {
    words::known(config, &["alarm", "target", "interval"])?;
    let watch = match module {
        "sbroker_overload_meter" => Watch::Overload,
        _ => Watch::Underload,
    };
    let config = AlarmConfig {
        alarm: config.get("alarm").map_or("self".into(), |alarm| text(alarm).to_owned()),
        watch,
        target: words::finite(config, "target", 100)?,
        interval: words::finite(config, "interval", 1_000)?,
    };
    config.validate().map_err(words::badarg)?;
    Ok(config)
}

pub(crate) fn alarm(trace: &Value) -> Verdict {
    let module = text(&trace["component"]);
    let config = alarm_config(module, &trace["config"]).expect("a good configuration");
    let mut alarms = Vec::new();
    let mut meter = AlarmMeter::new(config, &mut alarms);
    for (i, step) in steps(trace) {
        match text(&step["op"]) {
            "init" | "info" => {}
            "update" => meter.sample(&sample(step), &mut alarms),
            "config" => {
                let config = alarm_config(module, &step["config"]).expect("a good configuration");
                meter.reconfigure(config, &mut alarms);
            }
            op => panic!("unknown call {op}"),
        }
        let changes = alarms.drain(..).map(|alarm| match alarm {
            Alarm::Set(id) => json!({ "action": "set", "id": id }),
            Alarm::Clear(id) => json!({ "action": "clear", "id": id }),
        });
        let changes: Vec<Value> = changes.collect();
        let got = json!({ "next": next(meter.deadline(), step), "alarms": changes });
        if let Some(verdict) = differs(i, &got, step) {
            return verdict;
        }
    }
    Verdict::Same
}

fn targets(entries: &Value) -> Vec<Target<u8>> {
    let entries = entries.as_array().expect("entries").iter();
    let targets = entries.map(|entry| Target {
        regulator: 0,
        side: if entry["queue"] == "ask" { Side::Ask } else { Side::AskR },
        update: Span::from_millis(number(&entry["update_ms"])),
    });
    targets.collect()
}

/// Chance is not recorded, only the next due time that came of it: whoever could have drawn it
/// has, everybody else drew the most there is.
pub(crate) fn update(trace: &Value) -> Verdict {
    let mut meter =
        UpdateMeter::new(&targets(&trace["entries"]), time(&trace["first_next"])).expect("good");
    let mut told = 0;
    for (i, step) in steps(trace) {
        let now = number(&step["t"]);
        let next = number(&step["expect"]["next"]);
        let drawn = |since: i64| {
            move |most: i64| {
                let draw = next - since - most / 2;
                if (1..=most).contains(&draw) { draw } else { most }
            }
        };
        let mut casts = Vec::new();
        match text(&step["op"]) {
            "update" => {
                let relative = Span::from_nanos(number(&step["relative_time"]));
                let sample = Sample { now: time(&step["t"]), relative, ..Sample::default() };
                meter.sample(&sample, drawn(now), &mut casts);
                if !casts.is_empty() {
                    told = now;
                }
            }
            "config" => {
                let targets = targets(&step["entries"]);
                meter.reconfigure(time(&step["t"]), &targets, drawn(told)).expect("good targets");
            }
            op => panic!("unknown call {op}"),
        }
        let mut casts: Vec<i64> = casts.iter().map(|(_, value)| value.as_nanos()).collect();
        casts.sort_unstable();
        let got = json!({ "casts": casts, "next": words::time_json(meter.deadline()) });
        if let Some(verdict) = differs(i, &got, step) {
            return verdict;
        }
    }
    Verdict::Same
}

/// `[{a,ask,#{update => 0}},…]`
pub(crate) fn update_config(list: &str) -> Result<(), Bad> {
    let mut targets = Vec::new();
    for entry in list.trim_matches(['[', ']']).split("},{").filter(|entry| !entry.is_empty()) {
        let entry = entry.trim_start_matches('{');
        let mut words = entry.splitn(3, ',');
        let regulator = words.next().unwrap_or_default();
        if !regulator.starts_with(|first: char| first.is_ascii_lowercase()) {
            return Err("badarg");
        }
        let side = match words.next() {
            Some("ask") => Side::Ask,
            Some("ask_r") => Side::AskR,
            Some(_) | None => return Err("badarg"),
        };
        let options = words.next().unwrap_or_default();
        let update = match options.split_once("update => ") {
            None => 100,
            Some((_, number)) => {
                number.trim_end_matches('}').trim().parse().map_err(|_| "badarg")?
            }
        };
        targets.push(Target { regulator, side, update: Span::from_millis(update) });
    }
    match UpdateMeter::new(&targets, Time::ZERO) {
        Ok(_) => Ok(()),
        Err(ConfigError::DuplicateTarget) => Err("duplicate_entries"),
        Err(error) => Err(words::badarg(error)),
    }
}

pub(crate) fn read(trace: &Value) -> Verdict {
    let side = match (text(&trace["active_queue"]), text(&trace["valve"])) {
        ("ask", _) | (_, "closed") => Side::Ask,
        _ => Side::AskR,
    };
    let there = ["oldest_send", "open_time"].iter().find_map(|name| trace[*name].as_i64());
    let since = there.unwrap_or_else(|| number(&trace["empty_mark"]));
    let readings = (time(&trace["prev_read"]), time(&trace["now"]));
    let handled = trace["seq"].as_u64().expect("a number of messages");
    let send = time(&trace["send_estimate"]);
    let sample = Sample::read(readings, handled, send, Time::from_nanos(since), side);
    let got = json!({
        "queue_delay": sample.queue_delay.as_nanos(),
        "process_delay": sample.process_delay.as_nanos(),
        "relative_time": sample.relative.as_nanos(),
        "new_empty_mark": since,
    });
    match words::difference(&got, &trace["expect"]) {
        None => Verdict::Same,
        Some(what) => Verdict::Differs(0, what),
    }
}
