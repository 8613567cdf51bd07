//! Which configurations are accepted.

use serde_json::Value;

use crate::words::{self, Bad};
use crate::{Verdict, meters, valves};

pub(crate) fn replay(trace: &Value) -> Verdict {
    let expected = words::text(&trace["expect"]["result"]);
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
        "sregulator_open_valve"
        | "sregulator_relative_valve"
        | "sregulator_codel_valve"
        | "sregulator_rate_valve" => valves::config(module, config).map(|_| ()),
        "sprotector_pie_meter" => meters::pie_config(config).map(|_| ()),
        "sbetter_meter" => meters::better_config(config).map(|_| ()),
        "sbroker_overload_meter" | "sregulator_underload_meter" => {
            meters::alarm_config(module, config).map(|_| ())
        }
        "sregulator_update_meter" => meters::update_config(words::text(config)),
        _ => panic!("unknown module {module}"),
    }
}
