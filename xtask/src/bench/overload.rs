//! Twice the load a service can bear, on three brokers in the same run. Writes `docs/overload.md`
//! and its picture.

use std::fs;
use std::process::{Command, Stdio};

use plot::{Chart, Panel, Scale, Series};
use serde_json::Value;

use super::process::{Broker, Placement, Programs};
use super::report::{Report, table};
use crate::root;

/// The wait to aim for.
const AIM_MS: f64 = 20.0;
/// Our own, told to keep it.
const AIMED: [&str; 4] = ["--aim", "20ms", "--give-up", "500ms"];
/// How long the page is measured.
const SECONDS: u32 = 30;

/// What came of the load on one broker.
struct Run {
    who: &'static str,
    /// As `maitred bench overload --json` says it.
    json: Value,
}

/// Measures all three for `seconds`, by default 30, and then writes the page.
///
/// # Errors
/// If a broker or the load fails. Falling short of a bar is no error: the table says it.
pub(super) fn run(programs: &Programs, args: &[String]) -> Result<(), String> {
    let seconds = match args {
        [] => SECONDS,
        [flag, seconds] if flag == "--seconds" => {
            let seconds = seconds.parse().ok().filter(|seconds| (1..=600).contains(seconds));
            seconds.ok_or("--seconds takes a number from 1 to 600")?
        }
        _ => return Err("usage: cargo xtask bench overload [--seconds N]".into()),
    };
    let mut report = Report::start();
    let at = Placement::Free;
    let mut runs = Vec::new();
    for who in ["maitred, aim 20 ms", "maitred, plain line", "libzmq loop, plain line"] {
        let broker = match runs.len() {
            0 => Broker::maitred_saying(programs, at, &AIMED)?,
            1 => Broker::maitred(programs, at)?,
            _ => Broker::baseline(programs, at)?,
        };
        eprintln!("overload: {who}, {seconds} s");
        runs.push(Run::of(programs, &broker, who, seconds)?);
    }
    let aimed = &runs[0];
    let goodput = aimed.number("/goodput_of_capacity")? * 100.0;
    report.at_least("goodput with aim, of capacity", goodput, 95.0, "%");
    let p99 = aimed.number("/answered_ms/p99")?;
    report.at_most("p99 of the answered, with aim: 5 times the aim", p99, 5.0 * AIM_MS, "ms");
    let page = page(&report, &runs)?;
    println!("{page}");
    if seconds != SECONDS {
        eprintln!("not {SECONDS} s: docs/overload.md stays as it is");
        return Ok(());
    }
    for (name, text) in [("docs/overload.md", page), ("docs/overload.svg", picture(&runs)?)] {
        let path = root().join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// A figure for each part of the time, where there is one.
type Points = Vec<Option<f64>>;

impl Run {
    fn of(
        programs: &Programs,
        broker: &Broker,
        who: &'static str,
        seconds: u32,
    ) -> Result<Run, String> {
        let output = Command::new(&programs.maitred)
            .args(["bench", "overload", "--json"])
            .args(["--mdp", &format!("tcp://{}", broker.address)])
            .args(["--lasts", &format!("{seconds}s")])
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("cannot run the load: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(format!("{who}: not valid: {text}"));
        }
        let json = serde_json::from_str(&text)
            .map_err(|error| format!("{who}: the load said {text:?}: {error}"))?;
        Ok(Run { who, json })
    }

    fn number(&self, place: &str) -> Result<f64, String> {
        let number = self.json.pointer(place).and_then(Value::as_f64);
        number.ok_or_else(|| format!("{}: no {place} in {}", self.who, self.json))
    }

    /// A figure for each part of the time.
    fn parts(&self, name: &str) -> Result<Points, String> {
        let parts = self.json["parts"][name].as_array();
        let parts = parts.ok_or_else(|| format!("{}: no parts of {name}", self.who))?;
        Ok(parts.iter().map(Value::as_f64).collect())
    }

    fn row(&self) -> Result<String, String> {
        let count = |name: &str| self.number(name).map(|count| format!("{count:.0}"));
        let ms = |name: &str| self.number(name).map(|ms| format!("{ms:.1} ms"));
        let cells = [
            self.who.to_owned(),
            count("/sent")?,
            count("/in_time")?,
            format!("{:.1} %", self.number("/goodput_of_capacity")? * 100.0),
            count("/late")?,
            count("/unanswered")?,
            ms("/answered_ms/p50")?,
            ms("/answered_ms/p90")?,
            ms("/answered_ms/p99")?,
            ms("/worked_ms")?,
        ];
        Ok(format!("| {} |", cells.join(" | ")))
    }
}

fn page(report: &Report, runs: &[Run]) -> Result<String, String> {
    let rows: Vec<String> = runs.iter().map(Run::row).collect::<Result<_, _>>()?;
    let plain = &runs[1];
    let wasted = plain.number("/late")? / (plain.number("/late")? + plain.number("/in_time")?);
    let text = SHOWN
        .replace("{aimed}", &format!("{:.0} %", runs[0].number("/goodput_of_capacity")? * 100.0))
        .replace("{p99}", &format!("{:.0} ms", runs[0].number("/answered_ms/p99")?))
        .replace("{wasted}", &format!("{:.0} %", wasted * 100.0))
        .replace("{worst}", &format!("{:.0} s", plain.number("/answered_ms/max")? / 1e3));
    Ok(format!(
        "{HEAD}{}\n{}\n\n{text}\n## Bars\n\n{}",
        table(HEADER, &rows),
        report.machine(),
        report.bars_table()
    ))
}

fn picture(runs: &[Run]) -> Result<String, String> {
    let series = |points: &dyn Fn(&Run) -> Result<Points, String>| {
        let one = |run: &Run| Ok(Series { name: run.who.to_owned(), points: points(run)? });
        runs.iter().map(one).collect::<Result<Vec<Series>, String>>()
    };
    let goodput = series(&|run| {
        let could = run.number("/capacity_per_second")? * run.number("/parts/seconds")?;
        let parts = run.parts("in_time")?;
        Ok(parts.into_iter().map(|count| count.map(|count| count / could * 100.0)).collect())
    })?;
    let p99 = series(&|run| run.parts("p99_ms"))?;
    let bar = format!("5 times the aim: {:.0} ms", 5.0 * AIM_MS);
    let chart = Chart {
        title: "Twice as many requests as the workers can do".into(),
        seconds: runs[0].number("/seconds")?,
        panels: vec![
            Panel {
                title: "Goodput: answered within 1 s, % of capacity, over time in s".into(),
                scale: Scale::Linear,
                series: goodput,
                mark: Some(("95 %".into(), 95.0)),
            },
            Panel {
                title: "Time to the answer, 99th percentile, ms, over time in s".into(),
                scale: Scale::Log,
                series: p99,
                mark: Some((bar, 5.0 * AIM_MS)),
            },
        ],
    };
    Ok(chart.svg())
}

const HEAD: &str = "\
# Overload

What becomes of a service that is asked for twice what it can do. Eight workers take 10 ms for each
request, so that 800 per second are all they can do; 1600 come, by chance (Poisson), for 30 s,
whether or not earlier ones were answered. A client waits 1 s. What is answered later is work done
for nobody.

Written by `cargo xtask bench overload`. The load is `maitred bench overload`, which works against
any Majordomo broker; every broker gets the same arrivals.

![Goodput and time to the answer over 30 seconds of twice the load, on three brokers](overload.svg)

";

const HEADER: &str = "\
| broker | requests | in time | goodput | late | no answer | p50 | p90 | p99 | work each |";

const SHOWN: &str = "\
*Goodput* is what was answered in time before the load ended, as a share of what the workers could
have done. *No answer* is what was shed, or still waited when the last client had given up; nobody
asked to be told (`answer_refusals`), so both are silence. Times are from the request to the
answer, the 10 ms of work included, of all that were answered. *Work each* is how long a worker was
at a request: what is beyond 10 ms it waited for the machine, and no broker can make up for it.

## What it shows

* **A plain line serves everybody too late.** Each second leaves one second of work behind, so
  after a second of overload whoever is next in line has waited longer than its client does. The
  workers are as busy as ever, and {wasted} of what they do is for nobody; in the end an answer
  takes {worst}. It makes no difference which broker keeps such a line, and it gets no better when
  the load stops: first all those who have gone are served.
* **A line with an aim sheds whom it cannot serve in time, and serves the others at once.** Half of
  what comes has to go in any case. Because those go who waited twice the aim, the workers always
  have somebody whose client is still there: goodput is {aimed} of capacity, and 99 of 100 answers
  take {p99} or less, work included.
* **`aim` is a promise about the wait, `give_up` about its end.** `maitred serve --aim 20ms
  --give-up 500ms` sets both for every service; [disciplines](disciplines.md) says what else there
  is, and [simulating](simulate.md) what it would do to your load.
";
