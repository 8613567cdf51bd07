//! A drone's file: TOML, unknown keys and bad values refused with file and line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::drone::plan::{Breath, Limits, Plan, PoolPlan, Program, Restart, Verdict, Work};
use matching::Span;

use crate::config::{Lasting, LogFormat, Size};

/// A drone as it is written, in a file of its own.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    alias: Option<String>,
    global: Option<String>,
    token_file: Option<PathBuf>,
    data: Option<PathBuf>,
    http: Option<String>,
    http_hosts: Vec<String>,
    lease: Option<Lasting>,
    poll: Option<Lasting>,
    grace: Option<Lasting>,
    log: Log,
    tasks: BTreeMap<String, Task>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Log {
    level: Option<String>,
    format: Option<LogFormat>,
}

/// One task type.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Task {
    command: Option<Vec<String>>,
    persistent: Option<Vec<String>>,
    env: BTreeMap<String, String>,
    dir: Option<PathBuf>,
    workers: Option<Workers>,
    grow_wait: Option<Lasting>,
    grow_interval: Option<Lasting>,
    idle: Option<Lasting>,
    prefetch: Option<usize>,
    time_limit: Option<Lasting>,
    silence_limit: Option<Lasting>,
    grace: Option<Lasting>,
    rate: Option<Rate>,
    failed: Option<After>,
    timed_out: Option<After>,
    lost_again: Option<u32>,
    then: Option<String>,
    memory: Option<Size>,
    cpu_percent: Option<u32>,
    cpu_seconds: Option<u64>,
    open_files: Option<u64>,
    restart: Restarts,
}

/// `4`, or `"2..8"`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Workers {
    pub(crate) min: usize,
    pub(crate) max: usize,
}

impl std::str::FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Workers, String> {
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        match (min.trim().parse(), max.trim().parse()) {
            (Ok(min), Ok(max)) if 0 < max && min <= max => Ok(Workers { min, max }),
            _ => Err(format!("{text:?}: expected a number, or a range such as \"2..8\"")),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Workers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Workers, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Word {
            Number(u64),
            Text(String),
        }
        let text = match Word::deserialize(deserializer)? {
            Word::Number(number) => number.to_string(),
            Word::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    limit: usize,
    interval: Lasting,
}

/// What follows an attempt that came to nothing.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum After {
    Retry,
    Reject,
}

#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Restarts {
    base: Option<Lasting>,
    max: Option<Lasting>,
    intensity: Option<usize>,
    window: Option<Lasting>,
}

/// A drone's file, checked.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) plan: Plan,
    /// The global queue.
    pub(crate) global: String,
    pub(crate) token_file: Option<PathBuf>,
    /// Where the local queue is.
    pub(crate) data: PathBuf,
    /// Where status and metrics are to be had, if anywhere.
    pub(crate) http: Option<String>,
    pub(crate) http_hosts: Vec<String>,
    /// How long an orderly end may take.
    pub(crate) grace: Span,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
}

/// The broker on this machine.
const GLOBAL: &str = "http://127.0.0.1:8080";
/// Where data is kept if nobody says.
const DATA: &str = "maitred-drone";
/// Status and metrics; the broker has the port before it.
const HTTP: &str = "127.0.0.1:8081";
/// A shorter lease would be extended more often than work is done.
const LEASE_MIN: Span = Span::from_secs(1);

impl Orders {
    /// Reads a file.
    ///
    /// # Errors
    /// Says what is wrong, and in which line.
    pub(crate) fn load(path: &Path) -> Result<Orders, String> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        let base = path.parent().unwrap_or(Path::new("."));
        let at = |offset: usize| text[..offset].matches('\n').count() + 1;
        let file: File = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| at(span.start));
            format!("{name}:{line}: {}", error.message().replace('\n', " "))
        })?;
        file.orders(base).map_err(|(task, message)| {
            let document = toml::de::DeTable::parse(&text).ok();
            let tasks = document.as_ref().and_then(|table| table.get_ref().get("tasks"));
            let tasks = tasks.and_then(|tasks| tasks.get_ref().as_table());
            let place = tasks.and_then(|tasks| tasks.get(task.as_deref()?));
            match place.map(|place| at(place.span().start)) {
                Some(line) => format!("{name}:{line}: {message}"),
                None => format!("{name}: {message}"),
            }
        })
    }
}

/// The task type it is about, and what is wrong.
type Fault = (Option<String>, String);

impl File {
    fn orders(self, base: &Path) -> Result<Orders, Fault> {
        let span = |lasting: Option<Lasting>, usual: Span| lasting.map_or(usual, |span| span.0);
        let lease = span(self.lease, Span::from_secs(30));
        if lease < LEASE_MIN {
            return Err((None, format!("lease: at least {LEASE_MIN}")));
        }
        if self.tasks.is_empty() {
            let message = "there is no task type: add a table such as [tasks.resize]";
            return Err((None, message.into()));
        }
        let mut pools = Vec::new();
        for (task_type, task) in self.tasks {
            let pool = task.pool(&task_type, base);
            pools.push(pool.map_err(|message| {
                (Some(task_type.clone()), format!("tasks.{task_type}: {message}"))
            })?);
        }
        let plan = Plan {
            alias: self.alias.unwrap_or_else(alias),
            lease,
            poll: span(self.poll, Span::from_secs(2)).max(Span::from_millis(10)),
            pools,
        };
        plan.validate().map_err(|bad| (Some(bad.task_type.clone()), bad.to_string()))?;
        Ok(Orders {
            plan,
            global: self.global.unwrap_or_else(|| GLOBAL.into()),
            token_file: self.token_file.map(|path| base.join(path)),
            data: base.join(self.data.unwrap_or_else(|| DATA.into())),
            http: Some(self.http.unwrap_or_else(|| HTTP.into())).filter(|http| http != "off"),
            http_hosts: self.http_hosts,
            grace: span(self.grace, Span::from_secs(30)),
            log_level: self.log.level.unwrap_or_else(|| "info".into()),
            log_format: self.log.format.unwrap_or_default(),
        })
    }
}

/// The name of the machine, and a number for the drones of one machine.
fn alias() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", std::process::id())
}

impl Task {
    fn pool(self, task_type: &str, base: &Path) -> Result<PoolPlan, String> {
        let program = |argv: Vec<String>| Program {
            argv,
            env: self.env.clone().into_iter().collect(),
            dir: self.dir.as_ref().map(|dir| base.join(dir)),
        };
        let work = match (self.command, self.persistent) {
            (Some(argv), None) => Work::Command(program(argv)),
            (None, Some(argv)) => Work::Persistent(program(argv)),
            (None, None) => return Err("has neither command nor persistent".into()),
            (Some(_), Some(_)) => return Err("has both command and persistent".into()),
        };
        let mut pool = PoolPlan::new(task_type, work);
        let set = |value: &mut Span, lasting: Option<Lasting>| {
            if let Some(Lasting(span)) = lasting {
                *value = span;
            }
        };
        if let Some(Workers { min, max }) = self.workers {
            (pool.min, pool.max) = (min, max);
        }
        let mut breath = Breath::default();
        set(&mut breath.wait, self.grow_wait);
        set(&mut breath.interval, self.grow_interval);
        set(&mut breath.idle, self.idle);
        if breath.interval <= Span::ZERO {
            return Err("grow_interval must be more than nothing".into());
        }
        pool.breath = breath;
        pool.prefetch = self.prefetch.unwrap_or(pool.prefetch);
        let limit = |lasting: Option<Lasting>| lasting.map(|l| l.0).filter(|s| *s < Span::MAX);
        pool.time_limit = limit(self.time_limit);
        pool.silence_limit = limit(self.silence_limit);
        set(&mut pool.grace, self.grace);
        if let Some(Rate { limit, interval: Lasting(interval) }) = self.rate {
            if limit == 0 || interval <= Span::ZERO {
                return Err("rate: limit and interval must be more than nothing".into());
            }
            pool.rate = Some((limit, interval));
        }
        let verdict = |after: Option<After>| match after {
            None | Some(After::Retry) => Verdict::Retry,
            Some(After::Reject) => Verdict::Reject,
        };
        (pool.failed, pool.timed_out) = (verdict(self.failed), verdict(self.timed_out));
        pool.lost_again = self.lost_again.unwrap_or(pool.lost_again);
        pool.then = self.then;
        pool.limits = Limits {
            memory: self.memory.map(|size| size.0),
            cpu_percent: self.cpu_percent,
            cpu_seconds: self.cpu_seconds,
            files: self.open_files,
        };
        let mut restart = Restart::default();
        set(&mut restart.base, self.restart.base);
        set(&mut restart.max, self.restart.max);
        set(&mut restart.window, self.restart.window);
        restart.intensity = self.restart.intensity.unwrap_or(restart.intensity);
        pool.restart = restart;
        Ok(pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Orders, String> {
        let name = format!("drone-{}-{:x}.toml", std::process::id(), text.len());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).map_err(|error| error.to_string())?;
        let orders = Orders::load(&path);
        let _ = std::fs::remove_file(&path);
        let name = path.display().to_string();
        orders.map_err(|error| error.replace(&name, "drone.toml"))
    }

    #[test]
    fn a_file_becomes_a_plan() {
        let orders = read(
            "alias = 'west'\nglobal = 'sqlite:tasks.db'\n[tasks.resize]\n\
             command = ['convert', '-', 'png:-']\nworkers = '2..8'\ntime_limit = '1m'\n\
             memory = '64MiB'\nfailed = 'reject'\nrate = { limit = 5, interval = '1s' }\n\
             [tasks.'local:hex']\npersistent = ['hex']\n",
        )
        .expect("a good file");
        let hex = Work::Persistent(Program { argv: vec!["hex".into()], ..Program::default() });
        let argv = ["convert", "-", "png:-"].map(String::from).to_vec();
        let convert = Work::Command(Program { argv, ..Program::default() });
        let mut resize = PoolPlan::new("resize", convert);
        (resize.min, resize.max) = (2, 8);
        resize.time_limit = Some(Span::from_secs(60));
        resize.limits.memory = Some(64 << 20);
        resize.failed = Verdict::Reject;
        resize.rate = Some((5, Span::from_secs(1)));
        assert_eq!(orders.plan.pools, [PoolPlan::new("local:hex", hex), resize]);
        assert_eq!((orders.plan.alias.as_str(), &*orders.global), ("west", "sqlite:tasks.db"));
        assert_eq!(orders.http.as_deref(), Some(HTTP));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let table = [
            ("", "drone.toml: there is no task type"),
            ("[tasks.a]\n", "drone.toml:1: tasks.a: has neither command nor persistent"),
            ("\n[tasks.a]\ncommand = []\n", "drone.toml:2: task type \"a\": the command is empty"),
            ("[tasks.a]\ncommand = ['x']\ncolour = 1\n", "drone.toml:3: unknown field `colour`"),
            ("[tasks.a]\ncommand = ['x']\nworkers = '3..2'\n", "drone.toml:3: \"3..2\": expected"),
            ("[tasks.a]\ncommand = ['x']\nthen = 'b'\n", "drone.toml:1: task type \"a\": then"),
            ("[tasks.a]\ncommand = ['x']\nthen = 'local:b'\n", "there is no such task type here"),
            ("lease = '1ms'\n[tasks.a]\ncommand = ['x']\n", "drone.toml: lease: at least 1"),
            ("[tasks.a]\nservice = 'x'\n", "drone.toml:2: unknown field `service`"),
        ];
        for (text, why) in table {
            let error = read(text).expect_err(text);
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }
}
