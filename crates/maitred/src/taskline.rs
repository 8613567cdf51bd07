//! `maitred enqueue`, `tasks`, `queues`, `schedules` and `store`.
//!
//! All but the last talk to a running broker over HTTP; `store` opens the file itself.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use store::sqlite;

use crate::Failure;
use crate::config::Lasting;
use crate::remote::{Ask, Target, escape, parse, print_table};

/// Exit code when the result did not come in time.
const NOT_YET: u8 = 3;
/// Exit code when the task did not end well.
const ENDED_BADLY: u8 = 5;

/// A task to be enqueued.
#[derive(Debug, clap::Args)]
pub(crate) struct Enqueue {
    /// What workers claim it by
    #[arg(value_name = "TYPE")]
    task_type: String,
    /// The work; `-` reads standard input; nothing is an empty payload
    payload: Option<String>,
    #[command(flatten)]
    target: Target,
    /// Makes enqueueing idempotent: with the same key it is the same task
    #[arg(long)]
    key: Option<String>,
    /// What the payload is, such as application/json
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Higher is sooner
    #[arg(long, allow_hyphen_values = true)]
    priority: Option<i16>,
    /// Not before so long has passed
    #[arg(long, value_name = "SPAN")]
    delay: Option<Lasting>,
    /// Any other setting, such as max_attempts=3; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// Wait so long for the result, and print it
    #[arg(long, value_name = "SPAN")]
    wait: Option<Lasting>,
}

/// Runs `maitred enqueue`.
pub(crate) fn enqueue(args: &Enqueue) -> Result<(), Failure> {
    let mut words = Vec::new();
    for setting in &args.settings {
        let (name, value) = setting
            .split_once('=')
            .ok_or_else(|| Failure::config(format!("{setting:?}: expected NAME=VALUE")))?;
        words.push((name.to_owned(), value.to_owned()));
    }
    if let Some(priority) = args.priority {
        words.push(("priority".into(), priority.to_string()));
    }
    if let Some(Lasting(delay)) = args.delay {
        words.push(("delay_ms".into(), delay.as_millis().to_string()));
    }
    if let Some(Lasting(wait)) = args.wait {
        words.push(("wait".into(), format!("{}ms", wait.as_millis())));
    }
    let path = format!("/v1/tasks/{}{}", escape(&args.task_type), query(&words));
    let mut ask = Ask::new("POST", path).body(payload(args.payload.as_deref())?);
    if let Some(key) = &args.key {
        ask = ask.header("idempotency-key", key);
    }
    if let Some(kind) = &args.content_type {
        ask = ask.header("content-type", kind);
    }
    if let Some(Lasting(wait)) = args.wait {
        ask = ask.patience(wait.into());
    }
    let body = ask.send(&args.target)?;
    let made: Map<String, Value> = parse(&body)?;
    if args.target.json {
        println!("{body}");
    } else if args.wait.is_none() {
        println!("{}", number(&made, "id"));
    }
    if args.wait.is_none() {
        return Ok(());
    }
    let (id, state) = (number(&made, "id"), word(&made, "state"));
    if state == "done" {
        if args.target.json {
            return Ok(());
        }
        return print_result(&made)
            .map_err(|error| Failure::new(format!("cannot write the result: {error}")));
    }
    if ["dead", "cancelled"].contains(&state) {
        let error = word(&made, "last_error");
        return Err(Failure {
            code: ENDED_BADLY,
            message: format!("task {id} is {state}: {error}"),
        });
    }
    let message = format!("task {id} is {state}: no result in time; maitred tasks show {id}");
    Err(Failure { code: NOT_YET, message })
}

fn payload(given: Option<&str>) -> Result<Vec<u8>, Failure> {
    match given {
        Some("-") => {
            let mut body = Vec::new();
            std::io::stdin()
                .read_to_end(&mut body)
                .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
            Ok(body)
        }
        Some(text) => Ok(text.as_bytes().to_vec()),
        None => Ok(Vec::new()),
    }
}

fn print_result(made: &Map<String, Value>) -> std::io::Result<()> {
    let result = crate::tasks::words::take_bytes(made, "result").unwrap_or_default();
    let mut out = std::io::stdout().lock();
    out.write_all(&result)?;
    if !result.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// What a list is narrowed to.
#[derive(Debug, clap::Args)]
pub(crate) struct Narrow {
    /// Of this type
    #[arg(long = "type", value_name = "TYPE")]
    task_type: Option<String>,
    /// Whose last error contains this
    #[arg(long)]
    error: Option<String>,
    /// Whose last worker this is
    #[arg(long)]
    worker: Option<String>,
    /// With higher numbers than this
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// At most so many
    #[arg(long)]
    limit: Option<usize>,
}

impl Narrow {
    fn words(&self) -> Vec<(String, String)> {
        let number = |n: Option<u64>| n.map(|n| n.to_string());
        let all = [
            ("type", self.task_type.clone()),
            ("error", self.error.clone()),
            ("worker", self.worker.clone()),
            ("after", number(self.after)),
            ("limit", number(self.limit.map(|n| n as u64))),
        ];
        let given = all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        given.collect()
    }
}

/// What is wanted of tasks.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Tasks {
    /// List tasks, the oldest first
    List {
        /// In this state: ready, scheduled, blocked, leased, done, dead or cancelled
        #[arg(long)]
        state: Option<String>,
        #[command(flatten)]
        narrow: Narrow,
        #[command(flatten)]
        target: Target,
    },
    /// Show one task
    Show(One),
    /// Say why a task is not running
    Why(One),
    /// Make a dead or cancelled task ready again
    Retry(One),
    /// Cancel a task that has not ended
    Cancel(One),
    /// List dead letters, or requeue or forget them
    Dead {
        /// Make what is found ready again
        #[arg(long, conflicts_with = "forget")]
        requeue: bool,
        /// Forget what is found
        #[arg(long)]
        forget: bool,
        /// Dead for this reason: attempts, deadline, rejected or damaged
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        narrow: Narrow,
        #[command(flatten)]
        target: Target,
    },
}

/// One task of a broker.
#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// Its number
    id: u64,
    #[command(flatten)]
    target: Target,
}

/// Runs `maitred tasks`.
pub(crate) fn tasks(order: Tasks) -> Result<(), Failure> {
    match order {
        Tasks::List { state, narrow, target } => {
            let mut words = narrow.words();
            words.extend(state.map(|state| ("state".to_owned(), state)));
            list(&target, "/v1/tasks", &words)
        }
        Tasks::Show(One { id, target }) => {
            let body = Ask::new("GET", format!("/v1/tasks/{id}")).send(&target)?;
            show(&target, &body)
        }
        Tasks::Why(One { id, target }) => {
            let body = Ask::new("GET", format!("/v1/tasks/{id}/why")).send(&target)?;
            let why: Map<String, Value> = parse(&body)?;
            if target.json {
                println!("{body}");
            } else {
                println!("{}: {}", word(&why, "why"), word(&why, "text"));
                for (name, value) in
                    why.iter().filter(|(name, _)| *name != "why" && *name != "text")
                {
                    println!("  {name}: {}", plain(name, value));
                }
            }
            Ok(())
        }
        Tasks::Retry(One { id, target }) => {
            let body = Ask::new("POST", format!("/v1/tasks/{id}/retry")).send(&target)?;
            say(&target, &body, &format!("task {id} is ready again"))
        }
        Tasks::Cancel(One { id, target }) => {
            let body = Ask::new("DELETE", format!("/v1/tasks/{id}")).send(&target)?;
            say(&target, &body, &format!("task {id} is cancelled"))
        }
        Tasks::Dead { requeue, forget, reason, narrow, target } => {
            let mut words = narrow.words();
            words.extend(reason.map(|reason| ("reason".to_owned(), reason)));
            if !requeue && !forget {
                return list(&target, "/v1/dead-letters", &words);
            }
            let (method, path) = match requeue {
                true => ("POST", "/v1/dead-letters/requeue"),
                false => ("DELETE", "/v1/dead-letters"),
            };
            let body = Ask::new(method, format!("{path}{}", query(&words))).send(&target)?;
            let done: Map<String, Value> = parse(&body)?;
            let what = if requeue { "requeued" } else { "forgotten" };
            let more = if done["more"] == true { "; there may be more" } else { "" };
            say(&target, &body, &format!("{} {what}{more}", number(&done, "changed")))
        }
    }
}

fn list(target: &Target, path: &str, words: &[(String, String)]) -> Result<(), Failure> {
    let body = Ask::new("GET", format!("{path}{}", query(words))).send(target)?;
    if target.json {
        println!("{body}");
        return Ok(());
    }
    let page: Map<String, Value> = parse(&body)?;
    let header = ["ID", "TYPE", "STATE", "ATTEMPT", "AGE", "WORKER", "LAST ERROR"];
    let tasks = page.get("tasks").and_then(Value::as_array).cloned().unwrap_or_default();
    let rows = tasks.iter().filter_map(Value::as_object).map(|task| {
        let attempt = format!("{}/{}", number(task, "attempt"), number(task, "max_attempts"));
        let error = word(task, "last_error").lines().next().unwrap_or_default().to_owned();
        [
            number(task, "id").to_string(),
            word(task, "type").to_owned(),
            word(task, "state").to_owned(),
            attempt,
            age(number(task, "created_at")),
            dash(word(task, "worker")),
            dash(error.chars().take(60).collect::<String>().as_str()),
        ]
    });
    print_table(header, rows.collect());
    if let Some(next) = page.get("next").and_then(Value::as_u64) {
        println!("there may be more: --after {next}");
    }
    Ok(())
}

fn show(target: &Target, body: &str) -> Result<(), Failure> {
    if target.json {
        println!("{body}");
        return Ok(());
    }
    let task: Map<String, Value> = parse(body)?;
    let first = ["id", "type", "state"];
    let rest = task.keys().map(String::as_str).filter(|name| !first.contains(name));
    for name in first.into_iter().chain(rest) {
        if let Some(value) = task.get(name).filter(|value| !value.is_null()) {
            println!("{name:<14} {}", plain(name, value));
        }
    }
    Ok(())
}

/// Which queues are to be paused or resumed, if any.
#[derive(Debug, clap::Args)]
pub(crate) struct Queues {
    #[command(flatten)]
    target: Target,
    /// Lease no tasks of this type until it is resumed
    #[arg(long, value_name = "TYPE", conflicts_with = "resume")]
    pause: Option<String>,
    /// Lease them again
    #[arg(long, value_name = "TYPE")]
    resume: Option<String>,
}

/// Runs `maitred queues`.
pub(crate) fn queues(args: &Queues) -> Result<(), Failure> {
    for (name, what, done) in
        [(&args.pause, "pause", "paused"), (&args.resume, "resume", "resumed")]
    {
        if let Some(name) = name {
            let path = format!("/v1/queues/{}/{what}", escape(name));
            let body = Ask::new("POST", path).send(&args.target)?;
            return say(&args.target, &body, &format!("{name} is {done}"));
        }
    }
    let body = Ask::new("GET", "/v1/queues").send(&args.target)?;
    if args.target.json {
        println!("{body}");
        return Ok(());
    }
    let page: Map<String, Value> = parse(&body)?;
    let states = ["ready", "scheduled", "blocked", "leased", "done", "dead", "cancelled"];
    let mut header = ["TYPE", "", "", "", "", "", "", "", "PAUSED"];
    let upper = states.map(str::to_uppercase);
    for (cell, state) in header[1..8].iter_mut().zip(&upper) {
        *cell = state;
    }
    let queues = page.get("queues").and_then(Value::as_array).cloned().unwrap_or_default();
    let rows = queues.iter().filter_map(Value::as_object).map(|queue| {
        let mut row: [String; 9] = std::array::from_fn(|_| String::new());
        word(queue, "type").clone_into(&mut row[0]);
        for (cell, state) in row[1..8].iter_mut().zip(states) {
            *cell = number(queue, state).to_string();
        }
        row[8] = if queue["paused"] == true { "yes".into() } else { "-".into() };
        row
    });
    print_table(header, rows.collect());
    Ok(())
}

/// Which schedule is to be made or removed, if any.
#[derive(Debug, clap::Args)]
pub(crate) struct Schedules {
    #[command(flatten)]
    target: Target,
    /// Make or replace this one
    #[arg(
        long,
        value_name = "NAME",
        requires_all = ["cron", "task_type"],
        conflicts_with = "remove"
    )]
    set: Option<String>,
    /// Minute, hour, day, month, weekday; or @hourly, @daily, …
    #[arg(long, value_name = "EXPRESSION", requires = "set")]
    cron: Option<String>,
    /// Zone it is read in, such as Europe/Berlin [default: UTC]
    #[arg(long, requires = "set")]
    zone: Option<String>,
    /// Type of the tasks it makes
    #[arg(long = "type", value_name = "TYPE", requires = "set")]
    task_type: Option<String>,
    /// Their payload; `-` reads standard input
    #[arg(long, requires = "set")]
    payload: Option<String>,
    /// What passed unseen: `skip`, `once`, or how many to make up for [default: skip]
    #[arg(long, value_name = "RULE", requires = "set")]
    catch_up: Option<String>,
    /// Remove this one
    #[arg(long, value_name = "NAME")]
    remove: Option<String>,
}

/// Runs `maitred schedules`.
pub(crate) fn schedules(args: &Schedules) -> Result<(), Failure> {
    if let Some(name) = &args.remove {
        let body = Ask::new("DELETE", format!("/v1/schedules/{}", escape(name)));
        return say(&args.target, &body.send(&args.target)?, &format!("{name} is removed"));
    }
    if let Some(name) = &args.set {
        let mut task = Map::new();
        task.insert("type".into(), json!(args.task_type));
        let payload = payload(args.payload.as_deref())?;
        crate::tasks::words::put_bytes(&mut task, "payload", &payload);
        let mut schedule = Map::new();
        schedule.insert("cron".into(), json!(args.cron));
        schedule.insert("task".into(), Value::Object(task));
        schedule.extend(args.zone.clone().map(|zone| ("zone".to_owned(), zone.into())));
        let rule = args.catch_up.as_ref().map(|rule| match rule.parse::<u32>() {
            Ok(count) => json!({ "all": count }),
            Err(_) => json!(rule),
        });
        schedule.extend(rule.map(|rule| ("catch_up".to_owned(), rule)));
        let body = Ask::new("PUT", format!("/v1/schedules/{}", escape(name)))
            .body(Value::Object(schedule).to_string().into_bytes())
            .send(&args.target)?;
        let made: Map<String, Value> = parse(&body)?;
        let next = in_how_long(number(&made, "next_at"));
        return say(&args.target, &body, &format!("{name} fires {next}"));
    }
    let body = Ask::new("GET", "/v1/schedules").send(&args.target)?;
    if args.target.json {
        println!("{body}");
        return Ok(());
    }
    let page: Map<String, Value> = parse(&body)?;
    let schedules = page.get("schedules").and_then(Value::as_array).cloned().unwrap_or_default();
    let rows = schedules.iter().filter_map(Value::as_object).map(|one| {
        let rule = &one["catch_up"];
        let rule = rule.as_str().map_or_else(|| rule["all"].to_string(), str::to_owned);
        [
            word(one, "name").to_owned(),
            word(one, "cron").to_owned(),
            word(one, "zone").to_owned(),
            one["task"]["type"].as_str().unwrap_or_default().to_owned(),
            rule,
            in_how_long(number(one, "next_at")),
        ]
    });
    print_table(["NAME", "CRON", "ZONE", "TYPE", "CATCH UP", "NEXT"], rows.collect());
    Ok(())
}

/// What is to be done with a store's file.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Store {
    /// Read everything in a store that no broker has open, against its checksums
    Check {
        /// The file
        path: PathBuf,
    },
    /// Copy a store as it is at one instant; a broker may have it open
    Backup {
        /// The file
        path: PathBuf,
        /// Where the copy goes; nothing may be there
        to: PathBuf,
    },
    /// Put a backup, after checking it, where no store is
    Restore {
        /// The backup
        backup: PathBuf,
        /// Where the store goes; nothing may be there
        path: PathBuf,
    },
}

/// Runs `maitred store`.
pub(crate) fn store(order: Store) -> Result<(), Failure> {
    let refused = |refused: sqlite::Refused| Failure::new(refused.to_string());
    match order {
        Store::Check { path } => {
            let path = file_of(&path);
            let checked = sqlite::check(path).map_err(refused)?;
            if checked.is_sound() {
                println!("{}: sound, {} tasks", path.display(), checked.tasks);
                return Ok(());
            }
            let damaged: Vec<String> = checked.damaged.iter().map(ToString::to_string).collect();
            for line in &checked.structure {
                println!("{}: {line}", path.display());
            }
            for id in &damaged {
                println!("{}: task {id} is not what was written", path.display());
            }
            Err(Failure::new(format!("{} is damaged: restore a backup", path.display())))
        }
        Store::Backup { path, to } => {
            let (path, to) = (file_of(&path), file_of(&to));
            sqlite::backup(path, to).map_err(refused)?;
            println!("{} is a copy of {}", to.display(), path.display());
            Ok(())
        }
        Store::Restore { backup, path } => {
            let (backup, path) = (file_of(&backup), file_of(&path));
            let checked = sqlite::restore(backup, path).map_err(refused)?;
            println!("{}: restored, {} tasks", path.display(), checked.tasks);
            Ok(())
        }
    }
}

/// The file of a store, also where it is named as `serve --store` has it.
fn file_of(path: &Path) -> &Path {
    let text = path.to_str().and_then(|text| text.strip_prefix("sqlite:"));
    text.map_or(path, |text| Path::new(text.strip_prefix("//").unwrap_or(text)))
}

fn query(words: &[(String, String)]) -> String {
    let mut query = String::new();
    for (name, value) in words {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(&format!("{}={}", escape(name), escape(value)));
    }
    query
}

fn say(target: &Target, body: &str, text: &str) -> Result<(), Failure> {
    println!("{}", if target.json { body } else { text });
    Ok(())
}

fn number(object: &Map<String, Value>, name: &str) -> u64 {
    object.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn word<'a>(object: &'a Map<String, Value>, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.to_owned() }
}

/// A value for people; instants as how long ago, or how long to go.
fn plain(name: &str, value: &Value) -> String {
    let is_instant = name.ends_with("_at")
        || ["until", "deadline", "must_end_by", "leased_until"].contains(&name);
    match (value.as_u64(), value.as_str()) {
        (Some(at), _) if is_instant => in_how_long(at),
        (_, Some(text)) => text.to_owned(),
        (_, None) => value.to_string(),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

fn age(at: u64) -> String {
    span(now_ms().saturating_sub(at))
}

/// `in 5s`, or `5s ago`.
fn in_how_long(at: u64) -> String {
    let now = now_ms();
    match at {
        0 => "never".into(),
        at if at >= now => format!("in {}", span(at - now)),
        at => format!("{} ago", span(now - at)),
    }
}

fn span(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{:.1}s", ms as f64 / 1e3),
        10_000..600_000 => format!("{}s", ms / 1_000),
        600_000..36_000_000 => format!("{}m", ms / 60_000),
        36_000_000..864_000_000 => format!("{}h", ms / 3_600_000),
        _ => format!("{}d", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short_and_files_may_be_named_as_stores() {
        let cases = [(0, "0.0s"), (61_000, "61s"), (3_600_000, "60m"), (864_000_000, "10d")];
        for (ms, expected) in cases {
            assert_eq!(span(ms), expected);
        }
        for name in ["a/b.db", "sqlite:a/b.db", "sqlite://a/b.db"] {
            assert_eq!(file_of(Path::new(name)), Path::new("a/b.db"));
        }
        let words = [("type".to_owned(), "a&b=\u{e9}".to_owned()), ("x".into(), String::new())];
        assert_eq!(query(&words), "?type=a%26b%3D%C3%A9&x=");
    }
}
