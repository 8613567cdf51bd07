//! What a match costs in process: `crates/matching/benches/matching.rs`, held against its bars.
//!
//! Those of the façade are told in times of Erlang's sbroker. `--sbroker EBIN`, or the environment
//! variable `SBROKER_EBIN`, names a directory of its compiled modules: then it is measured in the
//! same run, by `bench/sbroker_pairs.erl`. It is no part of this repository: get it from its own,
//! github.com/fishcakez/sbroker, build it as that says, and have Debian's `erlang-base` installed.

use std::path::Path;
use std::process::{Command, Stdio};

use super::report::Report;
use crate::{cargo, root, sh};

/// Matches per second of Erlang's sbroker on OTP 25 on two cores, recorded once and not measured in
/// this run; and how many times that is the bar.
const RECORDED: [(&str, f64, f64); 2] = [("64", 0.57e6, 8.0), ("1000", 0.24e6, 20.0)];

/// Measures and reports; beside sbroker, if it is told where its modules are.
pub(super) fn run(report: &mut Report, sbroker: Option<&Path>) -> Result<(), String> {
    let peer = sbroker.map(measure_sbroker).transpose()?;
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
    let figure = |name: &str| figure_in(&text, name);
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
        let beside = match &peer {
            Some(peer) => {
                let theirs = figure_in(peer, &format!("sbroker_{pairs}"))?;
                report.at_least(&format!("{what}, of sbroker's"), two / theirs, times, "x");
                format!("sbroker {theirs:.0} /s in the same run, where ours had two threads")
            }
            None => {
                report.at_least(&what, two, recorded * times, "/s");
                format!("sbroker on OTP 25 was recorded at {recorded:.0} /s, not in this run")
            }
        };
        report.note(format!(
            "Awaited matches, {pairs} pairs: {two:.0} /s on two threads, {one:.0} /s on one; \
             {beside}."
        ));
    }
    let core = figure("cancel_core_ms")?;
    report.at_most("withdrawing 100,000 waiters of the core at once", core, 5.0, "ms");
    let stall = figure("cancel_facade_stall_ms")?;
    report.at_most("longest stall while 100,000 futures are dropped", stall, 5.0, "ms");
    Ok(())
}

fn figure_in(text: &str, name: &str) -> Result<f64, String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let figure = line.and_then(|line| line.trim().parse::<f64>().ok());
    figure.ok_or_else(|| format!("matching: no {name} in {text:?}"))
}

/// What `sbroker_pairs` says of the sbroker whose modules are in `ebin`, on two schedulers.
fn measure_sbroker(ebin: &Path) -> Result<String, String> {
    if !ebin.join("sbroker.beam").is_file() {
        return Err(format!("--sbroker {}: there is no sbroker.beam in it", ebin.display()));
    }
    let out = root().join("target/sbroker-pairs");
    std::fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let mut erlc = Command::new("erlc");
    erlc.arg("-pa").arg(ebin).arg("-o").arg(&out).arg("bench/sbroker_pairs.erl");
    sh("compile sbroker_pairs", &mut erlc)
        .map_err(|error| format!("{error}; it needs the Debian package erlang-base"))?;
    eprintln!("matching: sbroker");
    let output = Command::new("erl")
        .args(["+S", "2:2", "-noshell", "-pa"])
        .arg(ebin)
        .arg("-pa")
        .arg(&out)
        .args(["-run", "sbroker_pairs", "main"])
        .args(RECORDED.map(|(pairs, ..)| pairs))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("matching: cannot run erl: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("matching: sbroker_pairs failed: {text}"));
    }
    Ok(text)
}
