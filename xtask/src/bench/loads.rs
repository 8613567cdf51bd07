//! e1 to e5: requests and replies as fast as they go.

use std::process::Stdio;

use serde_json::Value;

use super::process::{Broker, Placement, Programs};
use super::report::{Report, median};

/// One run of one scenario on one broker.
pub(super) struct Run {
    pub(super) rate: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) broker_us: f64,
    load_us: f64,
    rss_max: f64,
}

/// A scenario and its bars.
struct Load {
    name: &'static str,
    what: &'static str,
    /// Broker's CPU per request, as a share of the baseline's.
    cpu_bar: Option<f64>,
    /// Median latency, as a share of the baseline's.
    p50_bar: Option<f64>,
    /// Broker's CPU per request, as a share of the load's own.
    load_bar: Option<f64>,
    /// Requests per second, and microseconds of CPU for each.
    own_bars: Option<(f64, f64)>,
    /// Shown with free placement as well.
    free: bool,
}

const NONE: Load = Load {
    name: "",
    what: "",
    cpu_bar: None,
    p50_bar: None,
    load_bar: None,
    own_bars: None,
    free: false,
};

const LOADS: [Load; 5] = [
    Load {
        name: "e1",
        what: "one call at a time",
        cpu_bar: Some(0.42),
        p50_bar: Some(0.65),
        free: true,
        ..NONE
    },
    Load {
        name: "e2",
        what: "1 client, 512 in flight, 32 workers",
        cpu_bar: Some(0.50),
        load_bar: Some(1.08),
        free: true,
        ..NONE
    },
    Load {
        name: "e3",
        what: "64 clients, 4 in flight each, 64 workers",
        cpu_bar: Some(0.47),
        load_bar: Some(1.08),
        free: true,
        ..NONE
    },
    Load { name: "e4", what: "64 KiB bodies, 4 clients, 16 workers", cpu_bar: Some(0.60), ..NONE },
    Load {
        name: "e5",
        what: "2 workers of concurrency 256, 4,096 in flight",
        own_bars: Some((2e6, 0.30)),
        ..NONE
    },
];

/// Runs of which the median counts.
const RUNS: usize = 3;

/// Runs the scenarios named.
pub(super) fn run(programs: &Programs, names: &[&str], report: &mut Report) -> Result<(), String> {
    for load in LOADS.iter().filter(|load| names.contains(&load.name)) {
        pinned(programs, load, report)?;
    }
    for load in LOADS.iter().filter(|load| load.free && names.contains(&load.name)) {
        free(programs, load, report)?;
    }
    Ok(())
}

/// Broker, baseline and load on one CPU, alternating.
fn pinned(programs: &Programs, load: &Load, report: &mut Report) -> Result<(), String> {
    let Load { name, what, .. } = load;
    eprintln!("{name}: {what}, pinned");
    let (own, peer) = alternate(programs, load, Placement::Pinned)?;
    let of = |f: fn(&Run) -> f64| median(own.iter().map(f));
    let (cpu, p50, rate) = (of(|run| run.broker_us), of(|run| run.p50_us), of(|run| run.rate));
    let to_load = of(|run| run.broker_us / run.load_us);
    let row = [
        format!("{name}: {what}"),
        format!("{rate:.0}"),
        format!("{cpu:.2} us"),
        format!("{to_load:.2}"),
        format!("{p50:.1} us"),
        format!("{:.1} us", of(|run| run.p99_us)),
        format!("{:.1} MB", of(|run| run.rss_max) / 1e6),
    ];
    report.load_row("maitred", row);
    if let Some((rate_bar, cpu_bar)) = load.own_bars {
        report.at_least(&format!("{name} requests per second"), rate, rate_bar, "/s");
        report.at_most(&format!("{name} CPU per request"), cpu, cpu_bar, "us");
    }
    if let Some(bar) = load.load_bar {
        report.at_most(&format!("{name} CPU, of the load's own"), to_load, bar, "x");
    }
    let Some(peer) = peer else { return Ok(()) };
    let of = |f: fn(&Run) -> f64| median(peer.iter().map(f));
    let (peer_cpu, peer_p50) = (of(|run| run.broker_us), of(|run| run.p50_us));
    let row = [
        String::new(),
        format!("{:.0}", of(|run| run.rate)),
        format!("{peer_cpu:.2} us"),
        format!("{:.2}", of(|run| run.broker_us / run.load_us)),
        format!("{peer_p50:.1} us"),
        format!("{:.1} us", of(|run| run.p99_us)),
        format!("{:.1} MB", of(|run| run.rss_max) / 1e6),
    ];
    report.load_row("libzmq loop", row);
    if let Some(bar) = load.cpu_bar {
        report.at_most(&format!("{name} CPU, of the libzmq loop's"), cpu / peer_cpu, bar, "x");
    }
    if let Some(bar) = load.p50_bar {
        report.at_most(&format!("{name} p50, of the libzmq loop's"), p50 / peer_p50, bar, "x");
    }
    Ok(())
}

/// The same wherever the kernel puts them: only to look at, for placement alone changes it.
fn free(programs: &Programs, load: &Load, report: &mut Report) -> Result<(), String> {
    eprintln!("{}: {}, free", load.name, load.what);
    let (own, peer) = alternate(programs, load, Placement::Free)?;
    for (who, runs) in [("maitred", Some(own)), ("libzmq loop", peer)] {
        let Some(runs) = runs else { continue };
        let of = |f: fn(&Run) -> f64| median(runs.iter().map(f));
        report.free_row([
            load.name.to_owned(),
            who.to_owned(),
            format!("{:.0}", of(|run| run.rate)),
            format!("{:.2} us", of(|run| run.broker_us)),
            format!("{:.1} us", of(|run| run.p50_us)),
            format!("{:.1} us", of(|run| run.p99_us)),
        ]);
    }
    Ok(())
}

/// The runs of our broker and, where the scenario means anything to it, of the baseline.
fn alternate(
    programs: &Programs,
    load: &Load,
    placement: Placement,
) -> Result<(Vec<Run>, Option<Vec<Run>>), String> {
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let broker = Broker::maitred(programs, placement)?;
        own.push(run_once(programs, load.name, &broker, placement, &[])?);
        drop(broker);
        if load.own_bars.is_none() {
            let broker = Broker::baseline(programs, placement)?;
            peer.push(run_once(programs, load.name, &broker, placement, &[])?);
        }
    }
    Ok((own, Some(peer).filter(|runs| !runs.is_empty())))
}

/// One run of a scenario on a broker; `more` goes to the load as it is.
pub(super) fn run_once(
    programs: &Programs,
    name: &str,
    broker: &Broker,
    placement: Placement,
    more: &[&str],
) -> Result<Run, String> {
    let mdp = format!("tcp://{}", broker.address);
    run_at(programs, name, broker, placement, &[&["--mdp", &mdp], more].concat())
}

/// As [`run_once`]; `more` says where.
pub(super) fn run_at(
    programs: &Programs,
    name: &str,
    broker: &Broker,
    placement: Placement,
    more: &[&str],
) -> Result<Run, String> {
    let output = placement
        .command(&programs.maitred)
        .args(["bench", "--json", "--scenario", name])
        .args(["--pid", &broker.pid().to_string()])
        .args(more)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run the load: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let json: Value = serde_json::from_str(&text)
        .map_err(|error| format!("{name}: the load said {text:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name}: not valid: {text}"));
    }
    let number = |key: &str| json[key].as_f64().ok_or_else(|| format!("{name}: no {key}: {text}"));
    Ok(Run {
        rate: number("rate")?,
        p50_us: number("p50_us")?,
        p99_us: number("p99_us")?,
        broker_us: number("broker_cpu_us_per_request")?,
        load_us: number("load_cpu_us_per_request")?,
        rss_max: broker.rss_max()? as f64,
    })
}
