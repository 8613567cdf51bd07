//! `maitred bench overload`: more requests than the workers can do, whatever comes of them.
//!
//! Requests come by chance (Poisson) at a multiple of what the workers can do, whether or not
//! earlier ones were answered, and each client waits so long and no longer: what is answered later
//! is work that was done for nobody. Goodput is what was answered in time, as a share of what the
//! workers could have done. The same numbers make the same arrivals on every broker.
//!
//! A client that gives up only stops waiting: its connection stays, as it does when a program asks
//! for many people over one socket. A broker may refuse in band or shed in silence.

mod ledger;

mod rush;

use std::io::IsTerminal;
use std::time::Duration;

use plot::sparkline;
use serde_json::{Value, json};

use super::target::Target;
use super::words::Words;
use crate::Failure;
use crate::config::Lasting;
use crate::words::many;
use ledger::{Ledger, PARTS, Part, rank};
use rush::Shape;

/// What to ask for, and how to print.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
    /// Requests that come, as a multiple of what the workers can do
    #[arg(long, value_name = "TIMES", default_value_t = 2.0, value_parser = factor)]
    factor: f64,
    /// How long they come
    #[arg(long, value_name = "SPAN", default_value = "30s")]
    lasts: Lasting,
    /// Connections that serve, a request at a time
    #[arg(long, value_name = "N", default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX))]
    workers: u32,
    /// How long a request is worked on
    #[arg(long, value_name = "SPAN", default_value = "10ms")]
    takes: Lasting,
    /// How long a client waits for its answer
    #[arg(long, value_name = "SPAN", default_value = "1s")]
    patience: Lasting,
    /// Connections that ask
    #[arg(long, value_name = "N", default_value_t = 16,
        value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX))]
    clients: u32,
    /// The service that is served and asked, to try its rules [default: one of this run's own]
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Connections of a side: all of them are looked at in each turn.
const CONNECTIONS_MAX: i64 = 256;
/// Requests of a run: each is remembered.
const REQUESTS_MAX: f64 = 10e6;

fn factor(text: &str) -> Result<f64, String> {
    let factor = text.parse::<f64>().ok().filter(|factor| (0.01..=100.0).contains(factor));
    factor.ok_or_else(|| "a number from 0.01 to 100".into())
}

/// Runs it and says what came of it.
///
/// # Errors
/// If the broker cannot be reached, hangs up, or gives an answer nobody asked for.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let shape = shape(options)?;
    let broker = options.target.reach()?;
    if broker.ends.words == Words::Pirate {
        return Err(Failure::config("overload speaks Majordomo: give it --mdp, or --spawn"));
    }
    let own = || format!("overload-{:x}", std::process::id());
    let service = options.service.clone().unwrap_or_else(own).into_bytes();
    let progress = std::io::stderr().is_terminal();
    let done = rush::run(broker.ends.front, &broker.ends.security, service, &shape, progress);
    let report = Report { shape, ledger: done.map_err(|error| Failure::new(error.to_string()))? };
    if options.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    match report.ledger.bad {
        0 => Ok(()),
        bad => Err(Failure::new(format!("{bad} messages that should not have come, or not so"))),
    }
}

fn shape(options: &Options) -> Result<Shape, Failure> {
    let span = |what: &str, Lasting(span): Lasting, least: Duration| {
        let span = u64::try_from(span.as_nanos()).map(Duration::from_nanos).unwrap_or_default();
        if (least..=LONGEST).contains(&span) {
            return Ok(span);
        }
        Err(Failure::config(format!("--{what} must be from {least:?} to {LONGEST:?}")))
    };
    let shape = Shape {
        workers: options.workers,
        clients: options.clients,
        factor: options.factor,
        lasts: span("lasts", options.lasts, Duration::from_millis(100))?,
        takes: span("takes", options.takes, Duration::from_micros(100))?,
        patience: span("patience", options.patience, Duration::from_millis(1))?,
    };
    let requests = shape.rate() * shape.lasts.as_secs_f64();
    if requests > REQUESTS_MAX {
        let message = format!("about {requests:.0} requests are too many: make it shorter");
        return Err(Failure::config(message));
    }
    Ok(shape)
}

/// Of everything that lasts.
const LONGEST: Duration = Duration::from_secs(3_600);

/// What was asked for, and what came of it.
struct Report {
    shape: Shape,
    ledger: Ledger,
}

impl Report {
    fn goodput(&self) -> f64 {
        let could = self.shape.capacity() * self.shape.lasts.as_secs_f64();
        self.ledger.in_window as f64 / could
    }

    /// For people.
    fn text(&self) -> String {
        let Report { shape, ledger } = self;
        let took = |per_mille| millis(rank(&ledger.took, per_mille));
        let mut out = format!(
            "{} in {:?}, {} times what {} can do at {:?} each; clients wait {:?}\n\
             in time {} (goodput {:.1} % of capacity), late {}, refused {}, unanswered {}; \
             given up {}\n\
             answered after p50 {}, p90 {}, p99 {}; a worker was at it for {}\n\n",
            many(ledger.sent() as usize, "request"),
            shape.lasts,
            shape.factor,
            many(shape.workers as usize, "worker"),
            shape.takes,
            shape.patience,
            ledger.in_time,
            self.goodput() * 100.0,
            ledger.late,
            ledger.refused,
            ledger.outstanding(),
            ledger.given_up(),
            took(500),
            took(900),
            took(990),
            millis(ledger.mean_work()),
        );
        let each = self.part_seconds();
        let rate = |count: fn(&Part) -> u64| -> Vec<Option<f64>> {
            ledger.parts.iter().map(|part| Some(count(part) as f64 / each)).collect()
        };
        let p99 = |part: &Part| rank(&part.took, 990).map(|nanos| nanos as f64 / 1e6);
        let rows = [
            ("in time", rate(|part| part.in_time), "/s"),
            ("late", rate(|part| part.late), "/s"),
            ("refused", rate(|part| part.refused), "/s"),
            ("p99", ledger.parts.iter().map(p99).collect(), " ms"),
        ];
        for (name, points, unit) in rows {
            let most = points.iter().flatten().copied().fold(0.0, f64::max);
            out += &format!("{name:<8} {} up to {most:.0}{unit}\n", sparkline(&points, most));
        }
        out
    }

    /// For scripts.
    fn json(&self) -> Value {
        let Report { shape, ledger } = self;
        let ms = |nanos: Option<u64>| nanos.map(|nanos| nanos as f64 / 1e6);
        let took = |per_mille| ms(rank(&ledger.took, per_mille));
        let counts = |of: fn(&Part) -> u64| ledger.parts.iter().map(of).collect::<Vec<u64>>();
        let waits = |per_mille| -> Vec<Option<f64>> {
            ledger.parts.iter().map(|part| ms(rank(&part.took, per_mille))).collect()
        };
        json!({
            "scenario": "overload",
            "workers": shape.workers,
            "clients": shape.clients,
            "factor": shape.factor,
            "seconds": shape.lasts.as_secs_f64(),
            "takes_ms": shape.takes.as_secs_f64() * 1e3,
            "patience_ms": shape.patience.as_secs_f64() * 1e3,
            "capacity_per_second": shape.capacity(),
            "sent": ledger.sent(),
            "in_time": ledger.in_time,
            "late": ledger.late,
            "refused": ledger.refused,
            "unanswered": ledger.outstanding(),
            "given_up": ledger.given_up(),
            "bad": ledger.bad,
            "goodput_of_capacity": self.goodput(),
            "answered_ms": {
                "p50": took(500), "p90": took(900), "p99": took(990), "max": took(1_000),
            },
            "worked_ms": ms(ledger.mean_work()),
            "parts": {
                "seconds": self.part_seconds(),
                "sent": counts(|part| part.sent),
                "in_time": counts(|part| part.in_time),
                "late": counts(|part| part.late),
                "refused": counts(|part| part.refused),
                "p50_ms": waits(500),
                "p99_ms": waits(990),
            },
        })
    }

    fn part_seconds(&self) -> f64 {
        self.shape.lasts.as_secs_f64() / PARTS as f64
    }
}

fn millis(nanos: Option<u64>) -> String {
    nanos.map_or("-".into(), |nanos| format!("{:.1} ms", nanos as f64 / 1e6))
}
