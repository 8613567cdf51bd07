//! What a match costs in process: `crates/matching/benches/matching.rs`, held against its bars.

use std::process::Stdio;

use super::report::Report;
use crate::{cargo, root};

/// Matches per second of Erlang's sbroker on OTP 25 on two cores, recorded once and not measured in
/// this run; and how many times that is the bar.
const RECORDED: [(&str, f64, f64); 2] = [("64", 0.57e6, 8.0), ("1000", 0.24e6, 20.0)];

/// Measures and reports.
pub(super) fn run(report: &mut Report) -> Result<(), String> {
    eprintln!("matching: core, facade, mass cancel");
    let output = cargo("bench --locked --package matching --features tokio --bench matching")
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("matching: cannot run the bench: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("matching: the bench failed: {text}"));
    }
    let figure = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let figure = line.and_then(|line| line.trim().parse::<f64>().ok());
        figure.ok_or_else(|| format!("matching: no {name} in {text:?}"))
    };
    for depth in ["1", "64"] {
        let what = format!("match in the core, CoDel and timeout, {depth} waiting");
        report.at_most(&what, figure(&format!("core_codel_{depth}"))?, 60.0, "ns");
        report.note(format!(
            "A match in the core, {depth} waiting: {:.0} ns with aim, {:.0} ns with a fair line of \
             16 flows.",
            figure(&format!("core_aim_{depth}"))?,
            figure(&format!("core_fair_{depth}"))?
        ));
    }
    for (pairs, recorded, times) in RECORDED {
        let (two, one) = (
            figure(&format!("facade_{pairs}_two_threads"))?,
            figure(&format!("facade_{pairs}_one_thread"))?,
        );
        let what = format!("awaited matches, {pairs} pairs, two threads");
        report.at_least(&what, two, recorded * times, "/s");
        report.note(format!(
            "Awaited matches, {pairs} pairs: {two:.0} /s on two threads, {one:.0} /s on one; \
             sbroker on OTP 25 was recorded at {recorded:.0} /s (not measured in this run)."
        ));
    }
    let core = figure("cancel_core_ms")?;
    report.at_most("withdrawing 100,000 waiters of the core at once", core, 5.0, "ms");
    let stall = figure("cancel_facade_stall_ms")?;
    report.at_most("longest stall while 100,000 futures are dropped", stall, 5.0, "ms");
    Ok(())
}
