//! What was measured, as a page.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Collects rows and bars; [`finish`](Report::finish) makes the page.
pub(super) struct Report {
    machine: String,
    loads: Vec<String>,
    free: Vec<String>,
    bars: Vec<String>,
    notes: Vec<String>,
    /// What fell short of its bar.
    short: Vec<String>,
}

impl Report {
    /// Notes the machine and its state before the run adds to it.
    pub(super) fn start() -> Report {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
        let model = model.trim_start_matches([' ', '\t', ':']);
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let kernel = read("/proc/sys/kernel/osrelease");
        let load = read("/proc/loadavg");
        let load: Vec<&str> = load.split_whitespace().take(2).collect();
        let machine = format!(
            "{model}, {cores} cores, Linux {}; {}; load average before the run \
             (1 and 5 minutes): {}.",
            kernel.trim(),
            today(),
            load.join(" and ")
        );
        let empty = Vec::new;
        Report {
            machine,
            loads: empty(),
            free: empty(),
            bars: empty(),
            notes: empty(),
            short: empty(),
        }
    }

    /// A row of e1 to e5.
    pub(super) fn load_row(&mut self, who: &str, [first, rest @ ..]: [String; 7]) {
        let line = format!("| {first} | {who} | {} |", rest.join(" | "));
        eprintln!("{line}");
        self.loads.push(line);
    }

    /// A row of what is measured with free placement.
    pub(super) fn free_row(&mut self, cells: [String; 6]) {
        let line = format!("| {} |", cells.join(" | "));
        eprintln!("{line}");
        self.free.push(line);
    }

    /// A sentence below the tables.
    pub(super) fn note(&mut self, note: String) {
        eprintln!("{note}");
        self.notes.push(note);
    }

    /// A bar that `figure` must not exceed.
    pub(super) fn at_most(&mut self, what: &str, figure: f64, bar: f64, unit: &str) {
        self.bar(what, figure, "at most", bar, unit, figure <= bar);
    }

    /// A bar that `figure` must reach.
    pub(super) fn at_least(&mut self, what: &str, figure: f64, bar: f64, unit: &str) {
        self.bar(what, figure, "at least", bar, unit, figure >= bar);
    }

    fn bar(&mut self, what: &str, figure: f64, sense: &str, bar: f64, unit: &str, met: bool) {
        let (figure, bar) = (show(figure), show(bar));
        let verdict = if met { "met" } else { "**short**" };
        let line = format!("| {what} | {figure} {unit} | {sense} {bar} {unit} | {verdict} |");
        eprintln!("{line}");
        self.bars.push(line);
        if !met {
            self.short.push(format!("- {what}: {figure} {unit}, the bar is {sense} {bar} {unit}."));
        }
    }

    /// What it was measured on, and how busy that was.
    pub(super) fn machine(&self) -> &str {
        &self.machine
    }

    /// The bars and what was measured.
    pub(super) fn bars_table(&self) -> String {
        table(BARS_HEADER, &self.bars)
    }

    /// The page.
    pub(super) fn finish(self) -> String {
        let mut page = format!("{HEAD}\n{}\n", self.machine);
        let mut section = |title: &str, text: &str, header: &str, rows: &[String]| {
            if !rows.is_empty() {
                // Writing to a string cannot fail.
                let _ = write!(page, "\n## {title}\n\n{text}{}", table(header, rows));
            }
        };
        section("Bars", "", BARS_HEADER, &self.bars);
        section("Requests", LOADS_TEXT, LOADS_HEADER, &self.loads);
        section("Free placement", FREE_TEXT, FREE_HEADER, &self.free);
        if !self.notes.is_empty() {
            let _ = write!(page, "\n## Beside the bars\n\n- {}\n", self.notes.join("\n- "));
        }
        let short = match &self.short[..] {
            [] => "Nothing: every bar was met in this run.".to_owned(),
            short => short.join("\n"),
        };
        let _ = write!(page, "\n## What fell short\n\n{short}\n");
        page
    }
}

/// A table of rows that are written already.
pub(super) fn table(header: &str, rows: &[String]) -> String {
    let rule = "|---".repeat(header.matches('|').count() - 1);
    format!("{header}\n{rule}|\n{}\n", rows.join("\n"))
}

/// The middle of a few.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value below which this share of the sorted `values` lies.
pub(super) fn percentile(values: &[Duration], per_mille: usize) -> Duration {
    let place = (values.len() * per_mille / 1_000).min(values.len().saturating_sub(1));
    values.get(place).copied().unwrap_or_default()
}

/// Three significant digits, as far as they mean anything.
fn show(figure: f64) -> String {
    match figure.abs() {
        10_000.0.. => format!("{figure:.0}"),
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        0.1.. => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

fn today() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    output.map_or_else(|_| "undated".into(), |o| String::from_utf8_lossy(&o.stdout).trim().into())
}

const HEAD: &str = "\
# Benchmarks

Written by `cargo xtask bench`; run it on your machine. Ratios carry over between machines better
than times do.
";

const BARS_HEADER: &str = "| | measured | bar | |";

const LOADS_TEXT: &str = "\
Broker and load generator (`maitred bench`) run pinned to one CPU, alternating with the libzmq loop
(`bench/libzmq_broker.c`: the least an MDP/0.1 broker on libzmq can do, without heartbeats,
redelivery or limits); each figure is the median of three runs, every answer is checked. CPU is user
and system time of all threads of the broker from the first request to the last answer (the
scheduler's own count in `/proc/PID/task/*/schedstat`, which `/proc/PID/stat` rounds to ticks). *Of
load* is the broker's CPU divided by the load generator's own, which makes the mirror image of its
system calls with next to no logic. About 0.02 of it is the price of having a second thread at all
(HTTP, signals), which the load generator does not: the kernel then counts references to a socket at
each call. RSS is the most the process held.

";
const LOADS_HEADER: &str =
    "| scenario | broker | requests/s | CPU per request | of load | p50 | p99 | RSS |";

const FREE_TEXT: &str = "\
The same wherever the kernel puts broker and load. Only to look at: on few CPUs placement alone
changes these figures by more than brokers differ, and a broker that spins for the next call (it
does so after a turn with a single event, for at most 50 us) buys latency with CPU that nobody else
wanted.

";
const FREE_HEADER: &str = "| scenario | broker | requests/s | CPU per request | p50 | p99 |";
