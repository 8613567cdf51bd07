//! The words of the recorded traces: options, times, numbers.

use matching::{
    Codel, ConfigError, Discipline, DropFrom, Dropped, FairConfig, Order, QueueConfig, Span, Time,
};
use serde_json::{Value, json};

/// What makes a configuration unacceptable.
pub(crate) type Bad = &'static str;

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("not a number: {value}"))
}

pub(crate) fn time(value: &Value) -> Time {
    Time::from_nanos(number(value))
}

/// `null` for [`None`].
pub(crate) fn time_json(time: Option<Time>) -> Value {
    time.map_or(Value::Null, |time| json!(time.as_nanos()))
}

pub(crate) fn drops_json(drops: &[Dropped<Value>], now: Time) -> Value {
    let drops = drops
        .iter()
        .map(|drop| json!({ "id": drop.value, "sojourn": (now - drop.send).as_nanos() }));
    Value::Array(drops.collect())
}

/// The first of `keys` at which two objects differ.
pub(crate) fn difference(got: &Value, expected: &Value) -> Option<String> {
    let keys = got.as_object().expect("an object").keys();
    keys.filter(|key| expected.get(key.as_str()).is_some())
        .find(|key| got[key.as_str()] != expected[key.as_str()])
        .map(|key| format!("{key} is {}, recorded {}", got[key], expected[key]))
}

/// Rejects options nobody knows.
pub(crate) fn known(config: &Value, names: &[&str]) -> Result<(), Bad> {
    let options = config.as_object().ok_or("badarg")?;
    match options.keys().all(|key| names.contains(&key.as_str())) {
        true => Ok(()),
        false => Err("unknown option"),
    }
}

pub(crate) fn millis(config: &Value, name: &str, default: i64) -> Result<Span, Bad> {
    match config.get(name) {
        None => Ok(Span::from_millis(default)),
        Some(Value::String(word)) if word == "infinity" => Ok(Span::MAX),
        Some(value) => value.as_i64().map(Span::from_millis).ok_or("badarg"),
    }
}

/// As [`millis`], where only a number will do.
pub(crate) fn finite(config: &Value, name: &str, default: i64) -> Result<Span, Bad> {
    let span = millis(config, name, default)?;
    if span == Span::MAX { Err("badarg") } else { Ok(span) }
}

pub(crate) fn count(config: &Value, name: &str, default: usize) -> Result<usize, Bad> {
    match config.get(name) {
        None => Ok(default),
        Some(Value::String(word)) if word == "infinity" && name == "max" => Ok(usize::MAX),
        Some(value) => value.as_u64().and_then(|count| usize::try_from(count).ok()).ok_or("badarg"),
    }
}

pub(crate) fn badarg(_: ConfigError) -> Bad {
    "badarg"
}

pub(crate) fn queue(module: &str, config: &Value) -> Result<QueueConfig, Bad> {
    let names: &[&str] = match module {
        "sbroker_drop_queue" => &["out", "drop", "max", "min"],
        "sbroker_timeout_queue" => &["out", "drop", "max", "min", "timeout"],
        "sbroker_codel_queue" => &["out", "drop", "max", "min", "target", "interval"],
        _ => panic!("no queue: {module}"),
    };
    known(config, names)?;
    let discipline = match module {
        "sbroker_drop_queue" => Discipline::Drop,
        "sbroker_timeout_queue" => Discipline::Timeout(millis(config, "timeout", 5_000)?),
        _ => Discipline::Codel(Codel {
            target: finite(config, "target", 100)?,
            interval: finite(config, "interval", 1_000)?,
        }),
    };
    let order = match config.get("out").map(text) {
        None | Some("out") => Order::Fifo,
        Some("out_r") => Order::Lifo,
        Some(_) => return Err("badarg"),
    };
    let drop_from = match config.get("drop").map(text) {
        None | Some("drop_r") => DropFrom::Back,
        Some("drop") => DropFrom::Front,
        Some(_) => return Err("badarg"),
    };
    let (min, max) = (count(config, "min", 0)?, count(config, "max", usize::MAX)?);
    let config = QueueConfig { order, drop_from, min, max, discipline };
    config.validate().map_err(badarg)?;
    Ok(config)
}

pub(crate) fn fair(config: &Value) -> Result<FairConfig, Bad> {
    known(config, &["module", "args", "index"])?;
    let line = queue(text(&config["module"]), &config["args"])?;
    let flows = match config["index"].get("range") {
        Some(range) => Some(range.as_u64().ok_or("badarg")?),
        None => index(text(&config["index"]))?,
    };
    let flows = flows.unwrap_or(u64::MAX);
    let config = FairConfig { line, flows };
    config.validate().map_err(badarg)?;
    Ok(config)
}

/// How many keys an index can yield, if that is bounded.
fn index(index: &str) -> Result<Option<u64>, Bad> {
    match index {
        "flow" | "application" | "node" | "pid" | "value" => return Ok(None),
        _ => {}
    }
    let inside = index.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or("badarg")?;
    let (head, last) = inside.rsplit_once(',').ok_or("badarg")?;
    let n: u64 = last.trim().parse().map_err(|_| "badarg")?;
    match head.split_once(',') {
        None if head == "element" && n > 0 => Ok(None),
        Some(("hash", _)) if (1..=1 << 32).contains(&n) => Ok(Some(n)),
        None | Some(_) => Err("badarg"),
    }
}

/// Notifications of different clients have no order.
pub(crate) fn sort_notified(expected: &mut Value) {
    if let Some(notified) = expected["notified"].as_array_mut() {
        notified.sort_by_key(|one| number(&one["id"]));
    }
}
