//! Replays traces recorded from Erlang's `sbroker` 1.0.0, and more of the same kind named by
//! `MATCHING_VECTORS=FILE[:FILE…]` (`.json`, `.jsonl`, `.jsonl.gz`).
//!
//! A trace passes when every call has the recorded outcome. One tagged with a quirk (a defect of
//! the original) may differ, but only from the first step on at which the recorded outcome shows
//! that defect; it is counted as `quirk` then. A trace of the original's cached clock describes a
//! workaround this crate has no use for; it is skipped.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

mod brokers;
mod configs;
mod meters;
mod queues;
mod valves;
mod words;

/// What replaying one trace showed.
enum Verdict {
    Same,
    /// Step, and what differs.
    Differs(usize, String),
    Skipped(&'static str),
}

fn main() {
    if std::env::args().any(|arg| arg == "--list") {
        println!("conformance: test");
        return;
    }
    let mut files = vec![own("matching_vectors.json"), own("matching_fuzz.jsonl.gz")];
    if let Ok(more) = std::env::var("MATCHING_VECTORS") {
        files.extend(more.split(':').filter(|file| !file.is_empty()).map(str::to_owned));
    }
    let (mut passed, mut failed, mut quirk) = (0, 0, 0);
    for file in files {
        for trace in load(Path::new(&file)) {
            let name = words::text(&trace["id"]);
            // A trace of a kind nobody has seen yet fails alone.
            let verdict = std::panic::catch_unwind(|| replay(&trace));
            let verdict = verdict.unwrap_or_else(|_| Verdict::Differs(0, "panicked".into()));
            match verdict {
                Verdict::Same => passed += 1,
                Verdict::Skipped(why) => println!("{name}: skipped, {why}"),
                Verdict::Differs(step, what) => match excuse(&trace, step) {
                    Some(tag) => {
                        quirk += 1;
                        println!("{name}: {tag} at step {step}");
                    }
                    None => {
                        failed += 1;
                        println!("{name}: FAILED at step {step}: {what}");
                    }
                },
            }
        }
    }
    println!("conformance: {passed} passed, {failed} failed, {quirk} quirk");
    assert!(passed > 0, "nothing was replayed");
    assert_eq!(failed, 0, "traces differ");
}

fn replay(trace: &Value) -> Verdict {
    match words::text(&trace["component"]) {
        "sbroker_drop_queue"
        | "sbroker_timeout_queue"
        | "sbroker_codel_queue"
        | "sbroker_fair_queue" => queues::replay(trace),
        "sregulator_open_valve"
        | "sregulator_relative_valve"
        | "sregulator_codel_valve"
        | "sregulator_rate_valve" => valves::replay(trace),
        "regulator_scenario" => valves::scenario(trace),
        "broker_scenario" => brokers::scenario(trace),
        "broker_settle" => brokers::settle(trace),
        "broker_metrics" | "regulator_metrics" => meters::read(trace),
        "sprotector_pie_meter" => meters::pie(trace),
        "sbetter_meter" => meters::better(trace),
        "sbroker_overload_meter" | "sregulator_underload_meter" => meters::alarm(trace),
        "sregulator_update_meter" => meters::update(trace),
        "sprotector_decide" => brokers::decide(trace),
        "sprotector_sequence" => brokers::gate(trace),
        "sbetter_pick" => brokers::pick(trace),
        "sbetter_compare" => brokers::compare(trace),
        "config_validation" => configs::replay(trace),
        "broker_time" | "regulator_time" => Verdict::Skipped("there is no cached clock"),
        component => Verdict::Differs(0, format!("unknown component {component}")),
    }
}

/// The quirk that explains a difference at `step`: one the trace is tagged with and whose defect
/// the record shows at that step or before it.
fn excuse(trace: &Value, step: usize) -> Option<&str> {
    let tags = trace["quirks"].as_array()?;
    tags.iter().map(words::text).find(|tag| match *tag {
        "Q1" | "Q2" | "Q3" | "Q5" => queues::shows(tag, trace, step),
        "Q10" | "Q11" => valves::shows(tag, trace, step),
        "Q6" | "accepts-unknown-options" => true,
        _ => false,
    })
}

fn own(file: &str) -> String {
    format!("{}/testdata/vectors/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn load(path: &Path) -> Vec<Value> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = String::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        let mut gz = flate2::read::GzDecoder::new(&bytes[..]);
        gz.read_to_string(&mut text).expect("gzip of UTF-8");
    } else {
        text = String::from_utf8(bytes).expect("UTF-8");
    }
    if path.extension().is_some_and(|extension| extension == "json") {
        let mut whole: Value = serde_json::from_str(&text).expect("JSON");
        let traces = match whole.get_mut("vectors") {
            Some(traces) => traces.take(),
            None => whole,
        };
        return traces.as_array().expect("an array of traces").clone();
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}
