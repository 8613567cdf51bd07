//! What reading STOMP costs: `crates/stomp/benches/stomp.rs`, held against its bars.

use std::process::Stdio;

use super::report::Report;
use crate::{cargo, root};

/// Measures and reports.
pub(super) fn run(report: &mut Report) -> Result<(), String> {
    eprintln!("stomp: reading, writing");
    let output = cargo("bench --locked --package maitred-stomp --bench stomp")
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("stomp: cannot run the bench: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("stomp: the bench failed: {text}"));
    }
    let figure = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let figure = line.and_then(|line| line.trim().parse::<f64>().ok());
        figure.ok_or_else(|| format!("stomp: no {name} in {text:?}"))
    };
    let small = figure("read_small_per_s")?;
    report.at_least("small STOMP frames read on one core", small, 3.0e6, "/s");
    for (what, name) in [
        ("octets of large STOMP bodies read, ended by NUL", "read_large_bytes_per_s"),
        ("octets of a large STOMP body read that comes 100 at a time", "read_dribbled_bytes_per_s"),
    ] {
        report.at_least(what, figure(name)?, 1.0e9, "/s");
    }
    report.note(format!(
        "STOMP on one core: {:.0} frames/s of 100 octets with 5 headers read, {:.0} with 20 \
         escaped headers; {:.0} MESSAGEs/s written.",
        figure("read_usual_per_s")?,
        figure("read_heavy_per_s")?,
        figure("write_usual_per_s")?
    ));
    Ok(())
}
