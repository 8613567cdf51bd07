//! Arrivals that were recorded: CSV with a header, or an object a line.

use std::collections::HashMap;
use std::path::Path;

use matching::{Span, Time};

use super::load::{REQUESTS_MAX, Request};
use crate::Failure;

/// What stands in a line. Times are in seconds.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    at: f64,
    service: Option<f64>,
    key: Option<String>,
}

/// Longest time from the first to the last arrival, and longest to work on one: a year. What is
/// longer is a wrong unit.
const LONGEST_SECONDS: f64 = 366.0 * 86_400.0;

/// The requests of a trace, in the order they arrive, the first at zero. Where it does not say how
/// long one is worked on it takes `takes`.
///
/// # Errors
/// Names the file and line that makes no request.
pub(super) fn read(path: &Path, takes: Option<Span>) -> Result<Vec<Request>, Failure> {
    let text = super::read(path)?;
    let csv = path.extension().is_some_and(|extension| extension == "csv");
    parse(&text, csv, takes)
        .map_err(|(line, message)| Failure::config(format!("{}:{line}: {message}", path.display())))
}

/// A line number, and what is wrong there.
type Fault = (usize, String);

fn parse(text: &str, csv: bool, takes: Option<Span>) -> Result<Vec<Request>, Fault> {
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let columns = if csv { Some(header(lines.next())?) } else { None };
    let mut keys = HashMap::new();
    let mut found: Vec<(f64, Span, u32)> = Vec::new();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let record = match &columns {
            Some(columns) => row(columns, line),
            None => serde_json::from_str(line).map_err(|error| {
                let text = error.to_string();
                // It counts lines of its own.
                text.split(" at line ").next().unwrap_or_default().to_owned()
            }),
        };
        let record = record.map_err(|message| (number, message))?;
        let takes = match record.service {
            Some(seconds) => span("service", seconds).map_err(|message| (number, message))?,
            None => takes.ok_or_else(|| {
                (number, "no `service` here: say how long with --takes or work.time".to_owned())
            })?,
        };
        if !record.at.is_finite() {
            return Err((number, "`at` must be a number of seconds".into()));
        }
        if found.len() == REQUESTS_MAX {
            return Err((number, format!("more than {REQUESTS_MAX} requests: cut the trace")));
        }
        let next = keys.len() as u32;
        let key = record.key.map_or(0, |key| *keys.entry(key).or_insert(next));
        found.push((record.at, takes, key));
    }
    // What ended first was often logged first.
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    let first = found.first().ok_or((1, "nothing arrives in this trace".to_owned()))?.0;
    let last = found.last().map_or(first, |last| last.0);
    if last - first > LONGEST_SECONDS {
        let message = "`at` is in seconds, and this trace takes more than a year";
        return Err((1, message.to_owned()));
    }
    let request = |(at, takes, key): (f64, Span, u32)| Request {
        at: Time::from_nanos(((at - first) * 1e9).round() as i64),
        takes,
        key,
    };
    Ok(found.into_iter().map(request).collect())
}

fn span(name: &str, seconds: f64) -> Result<Span, String> {
    if !(0.0..=LONGEST_SECONDS).contains(&seconds) {
        return Err(format!("`{name}` must be a number of seconds, 0 or more"));
    }
    Ok(Span::from_nanos((seconds * 1e9).round() as i64))
}

/// Which column is which.
#[derive(Debug)]
struct Columns {
    count: usize,
    at: usize,
    service: Option<usize>,
    key: Option<usize>,
}

fn header(line: Option<(usize, &str)>) -> Result<Columns, Fault> {
    let names: Vec<&str> = line.map_or("", |(_, line)| line).split(',').map(str::trim).collect();
    let place = |wanted: &str| names.iter().position(|name| *name == wanted);
    let strange = names.iter().find(|name| !["at", "service", "key"].contains(name));
    match (place("at"), strange) {
        (Some(at), None) => {
            Ok(Columns { count: names.len(), at, service: place("service"), key: place("key") })
        }
        (_, Some(name)) => Err((1, format!("the header knows at, service and key, not {name:?}"))),
        (None, None) => Err((1, "the header needs a column `at`".into())),
    }
}

fn row(columns: &Columns, line: &str) -> Result<Record, String> {
    let cells: Vec<&str> = line.split(',').map(str::trim).collect();
    if cells.len() != columns.count {
        return Err(format!("{} cells, but the header has {}", cells.len(), columns.count));
    }
    let number = |name: &str, cell: &str| {
        let wrong = || format!("`{name}` must be a number of seconds, not {cell:?}");
        cell.parse::<f64>().map_err(|_| wrong())
    };
    let filled = |column: Option<usize>| column.map(|i| cells[i]).filter(|cell| !cell.is_empty());
    Ok(Record {
        at: number("at", cells[columns.at])?,
        service: filled(columns.service).map(|cell| number("service", cell)).transpose()?,
        key: filled(columns.key).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str, csv: bool, takes: Option<Span>) -> String {
        match parse(text, csv, takes) {
            Err((line, message)) => format!("{line}: {message}"),
            Ok(requests) => requests
                .iter()
                .map(|one| {
                    let (at, takes) = (one.at.as_nanos() / 1_000, one.takes.as_nanos() / 1_000);
                    format!("{at}+{takes}us/{}", one.key)
                })
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    #[test]
    fn traces_and_what_is_wrong_with_them() {
        let csv = [
            ("at,service,key\n0.5,0.01,a\n0.75,0.02,b\n", "0+10000us/0 250000+20000us/1"),
            ("key, at\nx, 2\n\ny, 1\n", "0+5000us/1 1000000+5000us/0"),
            ("at,service\n1.7e9,\n", "0+5000us/0"),
            ("", "1: the header knows at, service and key, not \"\""),
            ("at,when\n", "1: the header knows at, service and key, not \"when\""),
            ("service\n1\n", "1: the header needs a column `at`"),
            ("at\n", "1: nothing arrives in this trace"),
            ("at\n1\nsoon\n", "3: `at` must be a number of seconds, not \"soon\""),
            ("at\nnan\n", "2: `at` must be a number of seconds"),
            ("at,service\n1\n", "2: 1 cells, but the header has 2"),
            ("at,service\n1,-1\n", "2: `service` must be a number of seconds, 0 or more"),
            ("at\n0\n1e12\n", "1: `at` is in seconds, and this trace takes more than a year"),
        ];
        for (text, expected) in csv {
            assert_eq!(show(text, true, Some(Span::from_millis(5))), expected, "{text:?}");
        }
        let lines = [
            ("{\"at\": 1, \"key\": \"a\", \"service\": 0.5}", "0+500000us/0"),
            ("{\"at\": 1}", "1: no `service` here: say how long with --takes or work.time"),
            ("\n{\"at\": \"1\"}", "2: invalid type: string \"1\", expected f64"),
            ("{\"at\": 1, \"size\": 1}", {
                "1: unknown field `size`, expected one of `at`, `service`, `key`"
            }),
        ];
        for (text, expected) in lines {
            assert_eq!(show(text, false, None), expected, "{text:?}");
        }
    }
}
