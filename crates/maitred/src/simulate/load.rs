//! The file: a load described or recorded, those who serve it, and the lines to try.

use std::path::{Path, PathBuf};

use engine::ServiceConfig;
use matching::{Span, Time};
use toml::Spanned;

use super::rules::{Line, LineFile};
use super::{Args, trace};
use crate::Failure;
use crate::chance::Chance;
use crate::config::Lasting;

/// Most requests of a load: each costs some 100 bytes while it is simulated.
pub(super) const REQUESTS_MAX: usize = 10_000_000;
/// Most requests that are served at a time.
const WORKERS_MAX: u32 = 1_000_000;

/// Most clients whose fate is told apart.
const CLIENTS_MAX: usize = 100_000;

/// One request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Request {
    pub(super) at: Time,
    /// How long a worker works on it.
    pub(super) takes: Span,
    /// The flow it belongs to in a fair line.
    pub(super) key: u32,
}

/// What comes, and who serves it.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// In the order they arrive.
    pub(super) requests: Vec<Request>,
    /// From the start to the end of arrivals: what rates and shares count over.
    pub(super) window: Span,
    pub(super) workers: u32,
    /// [`Span::MAX`] = for ever.
    pub(super) patience: Span,
    /// A client without patience leaves, and its request with it.
    pub(super) leaves: bool,
}

impl Load {
    /// How many clients there are, if they can be told apart and are not too many to look at.
    pub(super) fn clients(&self) -> usize {
        let keys = self.requests.iter().map(|one| one.key as usize + 1).max().unwrap_or(0);
        if (2..=CLIENTS_MAX).contains(&keys) { keys } else { 0 }
    }
}

/// Everything there is to do.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) load: Load,
    pub(super) lines: Vec<Line>,
}

/// The file as it is written.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    workers: Option<Spanned<u32>>,
    patience: Option<Lasting>,
    leaves: bool,
    seed: u64,
    /// Weights by which the requests of a description belong to clients.
    clients: Option<Spanned<Vec<u32>>>,
    trace: Option<Spanned<PathBuf>>,
    work: Work,
    phases: Vec<Spanned<Phase>>,
    lines: Vec<Spanned<LineFile>>,
    /// Where it was read, and what stood there.
    #[serde(skip)]
    path: PathBuf,
    #[serde(skip)]
    text: String,
}

/// How long a request is worked on.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Work {
    time: Option<Lasting>,
    shape: Option<Spanned<Shape>>,
    spread: Option<Spanned<f64>>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Shape {
    #[default]
    Constant,
    Uniform,
    Exponential,
    Lognormal,
}

/// A stretch of time with a rate of its own.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Phase {
    lasts: Lasting,
    /// Requests per second.
    rate: f64,
    #[serde(default)]
    arrivals: Arrivals,
    /// Requests that come together.
    #[serde(default = "one")]
    burst: u32,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Arrivals {
    #[default]
    Poisson,
    Even,
}

impl File {
    /// Reads a load.
    ///
    /// # Errors
    /// Names file and line of what is not understood.
    pub(super) fn read(path: &Path) -> Result<File, Failure> {
        let text = super::read(path)?;
        let file = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_at(&text, span.start));
            let message = error.message().replace('\n', " ");
            Failure::config(format!("{}:{line}: {message}", path.display()))
        });
        Ok(File { path: path.to_owned(), text, ..file? })
    }

    /// A trace alone: everything else comes from flags.
    pub(super) fn of_trace(path: &Path) -> File {
        let trace = Some(Spanned::new(0..0, path.file_name().unwrap_or_default().into()));
        File { path: path.to_owned(), trace, ..File::default() }
    }

    /// Flags win over the file.
    ///
    /// # Errors
    /// If a flag describes no line.
    pub(super) fn override_with(&mut self, args: &Args) -> Result<(), Failure> {
        if let Some(workers) = args.workers {
            self.workers = Some(Spanned::new(0..0, workers));
        }
        self.work.time = args.takes.or(self.work.time);
        self.patience = args.patience.or(self.patience);
        self.seed = args.seed.unwrap_or(self.seed);
        if !args.lines.is_empty() {
            self.lines.clear();
        }
        for text in &args.lines {
            let line = LineFile::of_flag(text).and_then(|line| line.settle().map(|_| line));
            let line =
                line.map_err(|message| Failure::config(format!("--line {text:?}: {message}")))?;
            self.lines.push(Spanned::new(0..0, line));
        }
        Ok(())
    }

    /// The load and the lines.
    ///
    /// # Errors
    /// Names file and line of what makes no sense.
    pub(super) fn settle(self) -> Result<Plan, Failure> {
        let workers = self.workers.as_ref().ok_or_else(|| {
            self.fault(0, "who serves? Say workers = 4 in the file, or --workers 4")
        })?;
        if !(1..=WORKERS_MAX).contains(workers.get_ref()) {
            let message = format!("workers must be from 1 to {WORKERS_MAX}");
            return Err(self.fault(workers.span().start, &message));
        }
        let requests = match (&self.trace, &self.phases[..]) {
            (Some(trace), []) => {
                self.refuse_beside_a_trace()?;
                let beside = self.path.with_file_name(trace.get_ref());
                trace::read(&beside, self.work.time.map(|Lasting(span)| span))?
            }
            (None, [_, ..]) => self.draw()?,
            (Some(trace), [_, ..]) => {
                return Err(self.fault(trace.span().start, "a trace or phases, not both"));
            }
            (None, []) => {
                let message = "nothing arrives: add [[phases]] with lasts and rate, or a trace";
                return Err(self.fault(0, message));
            }
        };
        let recorded = requests.last().map_or(Span::ZERO, |last| last.at - Time::ZERO);
        let described = self.phases.iter().map(|phase| phase.get_ref().lasts.0);
        let window = described.reduce(|sum, lasts| sum + lasts).unwrap_or(recorded);
        let load = Load {
            requests,
            window,
            workers: *workers.get_ref(),
            patience: self.patience.map_or(Span::MAX, |Lasting(span)| span),
            leaves: self.leaves,
        };
        let mut lines = Vec::new();
        for line in &self.lines {
            let settled = line.get_ref().settle();
            lines.push(settled.map_err(|message| self.fault(line.span().start, &message))?);
        }
        if lines.is_empty() {
            let default = ServiceConfig::default();
            lines.push(Line { name: "default".into(), config: default });
        }
        Ok(Plan { load, lines })
    }

    /// A trace says itself when each request comes, how long it takes and whose it is.
    fn refuse_beside_a_trace(&self) -> Result<(), Failure> {
        let Work { shape, spread, .. } = &self.work;
        let idle = [
            ("clients", self.clients.as_ref().map(Spanned::span), "say it in its column `key`"),
            ("shape", shape.as_ref().map(Spanned::span), "say it in its column `service`"),
            ("spread", spread.as_ref().map(Spanned::span), "say it in its column `service`"),
        ];
        let said =
            idle.into_iter().find_map(|(key, span, advice)| Some((key, span?.start, advice)));
        let Some((key, at, advice)) = said else { return Ok(()) };
        Err(self.fault(
            at,
            &format!("{key} describes nothing beside a trace: {advice}, or leave it out"),
        ))
    }

    /// The requests of the description.
    fn draw(&self) -> Result<Vec<Request>, Failure> {
        let takes = self.work.time.map(|Lasting(span)| span).ok_or_else(|| {
            let message = "how long is a request worked on? Say time = \"10ms\" under [work]";
            self.fault(0, message)
        })?;
        if takes == Span::MAX {
            return Err(self.fault(0, "work that never ends is served to nobody"));
        }
        let shape = self.work.shape.as_ref().map_or(Shape::default(), |shape| *shape.get_ref());
        let spread = self.work.spread.as_ref().map_or(1.0, |spread| *spread.get_ref());
        if let Some(said) = &self.work.spread {
            if !(0.0..=4.0).contains(&spread) {
                return Err(self.fault(said.span().start, "spread must be from 0 to 4"));
            }
            if shape != Shape::Lognormal {
                let message = "spread describes shape = \"lognormal\" and no other";
                return Err(self.fault(said.span().start, message));
            }
        }
        let mut expected = 0.0;
        for phase in &self.phases {
            let at = phase.span().start;
            let Phase { lasts: Lasting(lasts), rate, burst, .. } = phase.get_ref();
            if *lasts == Span::MAX {
                return Err(self.fault(at, "a phase must end: lasts cannot be \"never\""));
            }
            if !(0.0..=1e9).contains(rate) {
                return Err(self.fault(at, "rate must be from 0 to 1e9 requests per second"));
            }
            if !(1..=1_000_000).contains(burst) {
                return Err(self.fault(at, "burst must be from 1 to 1000000 requests"));
            }
            expected += rate * seconds(*lasts) + f64::from(*burst);
            if expected > REQUESTS_MAX as f64 {
                let message = format!(
                    "about {expected:.0} requests up to here, more than {REQUESTS_MAX}: \
                     make it shorter or slower"
                );
                return Err(self.fault(at, &message));
            }
        }
        let clients = self.shares()?;
        let [mut when, mut work, mut who] = [1, 2, 3].map(|i| Chance::new(self.seed, i));
        let mut requests = Vec::new();
        let mut start = 0.0;
        for phase in &self.phases {
            let end = start + phase.get_ref().lasts.0.as_nanos() as f64;
            phase.get_ref().draw(start, end, &mut when, |at| {
                let factor = match shape {
                    Shape::Constant => 1.0,
                    Shape::Uniform => 2.0 * work.unit(),
                    Shape::Exponential => work.exponential(),
                    Shape::Lognormal => work.lognormal(spread),
                };
                let takes = Span::from_nanos((takes.as_nanos() as f64 * factor).round() as i64);
                let place = who.unit();
                let key = clients.partition_point(|share| *share < place);
                requests.push(Request { at, takes, key: key as u32 });
            });
            start = end;
        }
        // Chance may go a little beyond what was expected, not without end.
        requests.truncate(REQUESTS_MAX);
        Ok(requests)
    }

    /// Where the share of each client but the last ends, from 0 to 1.
    fn shares(&self) -> Result<Vec<f64>, Failure> {
        let Some(clients) = &self.clients else { return Ok(Vec::new()) };
        let (weights, at) = (clients.get_ref(), clients.span().start);
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        if weights.len() > CLIENTS_MAX || total == 0.0 {
            let message =
                format!("clients are 1 to {CLIENTS_MAX} weights, such as [8, 1, 1], not all 0");
            return Err(self.fault(at, &message));
        }
        let ends = weights.iter().scan(0.0, |sum, weight| {
            *sum += f64::from(*weight);
            Some(*sum / total)
        });
        Ok(ends.take(weights.len() - 1).collect())
    }

    fn fault(&self, at: usize, message: &str) -> Failure {
        let path = self.path.display();
        match at {
            0 => Failure::config(format!("{path}: {message}")),
            _ => Failure::config(format!("{path}:{}: {message}", line_at(&self.text, at))),
        }
    }
}

impl Phase {
    /// Arrivals from `start` to `end`, both in nanoseconds.
    fn draw(&self, start: f64, end: f64, chance: &mut Chance, mut arrive: impl FnMut(Time)) {
        // Nothing ever comes at a rate of zero: the gap is infinite.
        let gap = 1e9 * f64::from(self.burst) / self.rate;
        let mut at = match self.arrivals {
            Arrivals::Even => start,
            Arrivals::Poisson => start + gap * chance.exponential(),
        };
        while at < end && self.rate > 0.0 {
            (0..self.burst).for_each(|_| arrive(Time::from_nanos(at as i64)));
            at += match self.arrivals {
                Arrivals::Even => gap,
                Arrivals::Poisson => gap * chance.exponential(),
            };
        }
    }
}

/// A span in seconds.
pub(super) fn seconds(span: Span) -> f64 {
    span.as_nanos() as f64 / 1e9
}

fn line_at(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or_default().matches('\n').count() + 1
}
