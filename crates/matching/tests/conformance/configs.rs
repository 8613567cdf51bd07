//! Which configurations are accepted.

use serde_json::Value;

use crate::Verdict;
use crate::words::{self, Bad};

pub(crate) fn replay(trace: &Value) -> Verdict {
    let expected = words::text(&trace["expect"]["result"]);
    let module = words::text(&trace["module"]);
    if !module.starts_with("sbroker") || module.ends_with("meter") {
        return Verdict::Skipped("unknown component");
    }
    let got = check(words::text(&trace["module"]), &trace["config"]).err().unwrap_or("ok");
    match got == expected {
        true => Verdict::Same,
        false => Verdict::Differs(0, format!("{got}, recorded {expected}")),
    }
}

fn check(module: &str, config: &Value) -> Result<(), Bad> {
    match module {
        "sbroker_fair_queue" => words::fair(config).map(|_| ()),
        "sbroker_drop_queue" | "sbroker_timeout_queue" | "sbroker_codel_queue" => {
            words::queue(module, config).map(|_| ())
        }
        _ => panic!("unknown module {module}"),
    }
}
