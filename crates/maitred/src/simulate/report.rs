//! What came of it: a table and a sketch for people, JSON for scripts, a picture for pages.

use std::fmt::Write as _;

use plot::{Chart, Panel, Scale, Series, sparkline};
use serde_json::{Value, json};

use super::load::{Load, seconds};
use super::run::{Client, PARTS, Part, Tally, rank};
use crate::words::many;

/// Columns of the sketch.
const SKETCH: usize = 60;

/// Each line's name and what came of the load there.
#[derive(Debug)]
pub(super) struct Report {
    /// Of the load.
    pub(super) name: String,
    pub(super) load: Load,
    pub(super) rows: Vec<(String, Tally)>,
}

impl Report {
    fn window(&self) -> f64 {
        seconds(self.load.window)
    }

    /// Mean time that a request is worked on, in seconds.
    fn mean_work(&self) -> f64 {
        let work: f64 = self.load.requests.iter().map(|one| seconds(one.takes)).sum();
        work / self.load.requests.len().max(1) as f64
    }

    /// Requests per second that keep every worker busy.
    fn capacity(&self) -> f64 {
        f64::from(self.load.workers) / self.mean_work()
    }

    fn rate(&self) -> f64 {
        self.load.requests.len() as f64 / self.window()
    }

    fn goodput(&self, tally: &Tally) -> f64 {
        tally.in_window as f64 / self.window()
    }

    fn busy(&self, tally: &Tally) -> f64 {
        tally.busy_nanos as f64 / 1e9 / f64::from(self.load.workers) / self.window()
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut out = format!(
            "{} in {:.3} s ({} of capacity); {}, {} of work each\n\n",
            many(self.load.requests.len(), "request"),
            self.window(),
            share(self.rate() / self.capacity()),
            many(self.load.workers as usize, "worker"),
            millis(Some(self.mean_work())),
        );
        self.table(&mut out);
        for (name, tally) in &self.rows {
            // Writing to a string cannot fail, here and below.
            let _ = write!(out, "\n{name}\n");
            self.sketch(&mut out, tally);
        }
        out
    }

    fn table(&self, out: &mut String) {
        type Column = (&'static str, fn(&Report, &Tally) -> String, fn(&Tally) -> bool);
        let always: fn(&Tally) -> bool = |_| true;
        let columns: [Column; 13] = [
            ("in time", |_, tally| tally.in_time.to_string(), always),
            ("goodput", |all, tally| share(all.goodput(tally) / all.capacity()), always),
            ("late", |_, tally| tally.late.to_string(), |tally| tally.late > 0),
            ("queue_full", |_, tally| tally.queue_full.to_string(), |tally| tally.queue_full > 0),
            ("expired", |_, tally| tally.expired.to_string(), |tally| tally.expired > 0),
            ("overload", |_, tally| tally.overload.to_string(), |tally| tally.overload > 0),
            ("withdrawn", |_, tally| tally.withdrawn.to_string(), |tally| tally.withdrawn > 0),
            ("worst client", |_, tally| worst_off(tally), |tally| !tally.clients.is_empty()),
            ("busy", |all, tally| share(all.busy(tally)), always),
            ("wait p50", |_, tally| millis(tally.wait(500).map(seconds)), always),
            ("p90", |_, tally| millis(tally.wait(900).map(seconds)), always),
            ("p99", |_, tally| millis(tally.wait(990).map(seconds)), always),
            ("max", |_, tally| millis(tally.wait(1_000).map(seconds)), always),
        ];
        let mut cells: Vec<Vec<String>> = vec![vec!["line".into()]];
        cells.extend(self.rows.iter().map(|(name, _)| vec![name.clone()]));
        for (head, show, wanted) in columns {
            if self.rows.iter().any(|(_, tally)| wanted(tally)) {
                cells[0].push(head.into());
                for ((_, tally), row) in self.rows.iter().zip(&mut cells[1..]) {
                    row.push(show(self, tally));
                }
            }
        }
        let width = |i: usize| cells.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
        for row in &cells {
            let _ = write!(out, "{:<1$}", row[0], widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                let _ = write!(out, "  {cell:>width$}");
            }
            out.push('\n');
        }
    }

    /// Goodput, shed and waits of one line over time.
    fn sketch(&self, out: &mut String, tally: &Tally) {
        let each = PARTS / SKETCH;
        let merged: Vec<Part> = tally.parts.chunks(each).map(merge).collect();
        let time = self.window() / SKETCH as f64;
        let rates = |count: fn(&Part) -> u64| {
            merged.iter().map(|part| Some(count(part) as f64 / time)).collect::<Vec<_>>()
        };
        let waits: Vec<_> = merged.iter().map(|part| rank(&part.waits, 990).map(seconds)).collect();
        let most = |points: &[Option<f64>]| points.iter().flatten().copied().fold(0.0, f64::max);
        let rows = [
            ("in time", rates(|part| part.in_time), per_second as fn(f64) -> String),
            ("shed", rates(|part| part.shed), per_second),
            ("wait p99", waits, |most| millis(Some(most))),
        ];
        for (name, points, show) in rows {
            let most = most(&points);
            let blocks = sparkline(&points, most);
            let _ = writeln!(out, "  {name:<8} {blocks} up to {}", show(most));
        }
    }

    /// For scripts.
    pub(super) fn json(&self) -> Value {
        let client = |one: &Client| json!({ "requests": one.offered, "in_time": one.in_time });
        let line = |(name, tally): &(String, Tally)| {
            let wait = |per_mille| tally.wait(per_mille).map(|wait| seconds(wait) * 1e3);
            json!({
                "line": name,
                "in_time": tally.in_time,
                "late": tally.late,
                "shed": {
                    "queue_full": tally.queue_full,
                    "expired": tally.expired,
                    "overload": tally.overload,
                },
                "withdrawn": tally.withdrawn,
                "clients": tally.clients.iter().map(client).collect::<Vec<_>>(),
                "goodput_per_second": self.goodput(tally),
                "goodput_of_capacity": self.goodput(tally) / self.capacity(),
                "busy": self.busy(tally),
                "longest_line": tally.longest,
                "wait_ms": {
                    "mean": tally.mean_wait().map(|mean| mean * 1e3),
                    "p50": wait(500),
                    "p90": wait(900),
                    "p99": wait(990),
                    "max": wait(1_000),
                },
            })
        };
        json!({
            "requests": self.load.requests.len(),
            "seconds": self.window(),
            "workers": self.load.workers,
            "mean_work_ms": self.mean_work() * 1e3,
            "rate_per_second": self.rate(),
            "capacity_per_second": self.capacity(),
            "lines": self.rows.iter().map(line).collect::<Vec<_>>(),
        })
    }

    /// For pages.
    pub(super) fn svg(&self) -> String {
        let part = self.window() / PARTS as f64;
        let series = |points: &dyn Fn(&Part) -> Option<f64>| -> Vec<Series> {
            let one = |(name, tally): &(String, Tally)| Series {
                name: name.clone(),
                points: tally.parts.iter().map(points).collect(),
            };
            self.rows.iter().map(one).collect()
        };
        let panel = |title: &str, scale, series, mark| Panel {
            title: title.to_owned(),
            scale,
            series,
            mark,
        };
        let capacity = Some(("capacity".to_owned(), self.capacity()));
        let in_time = series(&|one| Some(one.in_time as f64 / part));
        let shed = series(&|one| Some(one.shed as f64 / part));
        let wait = series(&|one| rank(&one.waits, 990).map(|wait| seconds(wait) * 1e3));
        let chart = Chart {
            title: format!(
                "{}: {}, {} of capacity",
                self.name,
                many(self.load.requests.len(), "request"),
                share(self.rate() / self.capacity())
            ),
            seconds: self.window(),
            panels: vec![
                panel("answered in time, per second", Scale::Linear, in_time, capacity),
                panel("shed, per second", Scale::Linear, shed, None),
                panel("wait of the served, 99th percentile, ms", Scale::Log, wait, None),
            ],
        };
        chart.svg()
    }
}

fn merge(parts: &[Part]) -> Part {
    let mut sum = Part::default();
    for part in parts {
        sum.in_time += part.in_time;
        sum.shed += part.shed;
        sum.waits.extend_from_slice(&part.waits);
    }
    sum.waits.sort_unstable();
    sum
}

/// A share in percent; a dash where there is none.
fn share(share: f64) -> String {
    if share.is_finite() { format!("{:.1} %", share * 100.0) } else { "-".into() }
}

/// The client least of whose requests were answered in time, counted from 1, and that share.
fn worst_off(tally: &Tally) -> String {
    tally.worst_off().map_or("-".into(), |(key, part)| format!("#{}: {}", key + 1, share(part)))
}

fn per_second(rate: f64) -> String {
    if rate.is_finite() { format!("{rate:.0}/s") } else { "-".into() }
}

/// A time in seconds as milliseconds; a dash where there is none.
fn millis(seconds: Option<f64>) -> String {
    seconds.map_or("-".into(), |seconds| format!("{:.1} ms", seconds * 1e3))
}
