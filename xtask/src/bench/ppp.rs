//! Paranoid Pirate: what a request costs, beside Majordomo's and beside such a queue on libzmq.

use std::fs;

use super::loads::{Run, run_at, run_once};
use super::process::{Broker, Placement, Programs};
use super::report::{Report, median};
use crate::root;

/// Runs of which the median counts.
const RUNS: usize = 3;

/// The scenarios, and the most we may cost of what the queue on libzmq costs: the bars of
/// Majordomo, since the work is the same.
const BARS: [(&str, f64); 2] = [("e1", 0.42), ("e2", 0.50)];

const CONFIG: &str = "\
[[paranoid_pirate]]
frontend = \"tcp://127.0.0.1:0\"
backend = \"tcp://127.0.0.1:0\"
service = \"bench\"
";

/// e1 and e2 through a queue of ours, one on libzmq, and Majordomo, alternating, all on one CPU.
pub(super) fn run(programs: &Programs, report: &mut Report) -> Result<(), String> {
    let config = root().join("target/bench-ppp.toml");
    fs::write(&config, CONFIG).map_err(|error| format!("{}: {error}", config.display()))?;
    let at = Placement::Pinned;
    for (name, bar) in BARS {
        eprintln!("{name}: Paranoid Pirate, pinned");
        let [mut own, mut peer, mut mdp]: [Vec<Run>; 3] = Default::default();
        for _ in 0..RUNS {
            let broker = Broker::maitred_at(programs, at, &config, &["--mdp", "off"])?;
            own.push(through_queue(programs, name, &broker, at)?);
            drop(broker);
            let broker = Broker::queue(programs, at)?;
            peer.push(through_queue(programs, name, &broker, at)?);
            drop(broker);
            let broker = Broker::maitred(programs, at)?;
            mdp.push(run_once(programs, name, &broker, at, &[])?);
        }
        let cpu = |runs: &[Run]| median(runs.iter().map(|run| run.broker_us));
        let rate = |runs: &[Run]| median(runs.iter().map(|run| run.rate));
        report.note(format!(
            "Paranoid Pirate, {name}: {:.0} requests/s at {:.2} us of CPU each; the queue on \
             libzmq {:.0} at {:.2} us; Majordomo through maitred {:.0} at {:.2} us",
            rate(&own),
            cpu(&own),
            rate(&peer),
            cpu(&peer),
            rate(&mdp),
            cpu(&mdp),
        ));
        let what = format!("{name} as Paranoid Pirate: CPU, of the libzmq queue's");
        report.at_most(&what, cpu(&own) / cpu(&peer), bar, "x");
    }
    Ok(())
}

fn through_queue(
    programs: &Programs,
    name: &str,
    broker: &Broker,
    at: Placement,
) -> Result<Run, String> {
    let [front, back] = &broker.addresses[..] else {
        return Err("a queue has two endpoints".into());
    };
    let (front, back) = (format!("tcp://{front}"), format!("tcp://{back}"));
    run_at(programs, name, broker, at, &["--ppp-front", &front, "--ppp-back", &back])
}
