//! Tasks, leases and queues as JSON shows them.
//!
//! The store's line times become Unix times in ms here, so that nobody outside meets the line.

use serde_json::{Map, Value, json};
use store::{Lease, QueueView, ScheduleView, Settled, State, TaskView, Why};

use super::desk::Desk;
use super::titanic;
use super::words::put_bytes;

fn put(object: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    object.extend(value.map(|value| (name.to_owned(), value)));
}

fn attributes(task_type: &str, pairs: &[(String, String)]) -> Option<Value> {
    // Whoever sees a Titanic request must not be able to name it.
    let hidden = |name: &str| titanic::service_of(task_type).is_some() && name == titanic::SECRET;
    let shown = pairs.iter().filter(|(name, _)| !hidden(name));
    let object: Map<String, Value> =
        shown.map(|(name, value)| (name.clone(), json!(value))).collect();
    (!object.is_empty()).then_some(Value::Object(object))
}

/// A state as it is written everywhere.
pub(crate) fn state_name(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Scheduled => "scheduled",
        State::Blocked => "blocked",
        State::Leased => "leased",
        State::Done => "done",
        State::Dead => "dead",
        State::Cancelled => "cancelled",
    }
}

/// A lease as its worker gets it.
pub(crate) fn lease(desk: &Desk, lease: &Lease) -> Value {
    let mut object = Map::new();
    object.insert("token".into(), lease.token.to_string().into());
    object.insert("id".into(), lease.token.task.0.into());
    object.insert("type".into(), lease.task_type.clone().into());
    object.insert("attempt".into(), lease.attempt.into());
    object.insert("max_attempts".into(), lease.max_attempts.into());
    put_bytes(&mut object, "payload", &lease.payload);
    object.insert("content_type".into(), json!(lease.content_type));
    object.insert("deadline".into(), desk.wall_of(lease.until).into());
    let must_end_by = lease.deadline.map(|line| desk.wall_of(line).into());
    put(&mut object, "must_end_by", must_end_by);
    if let Some(progress) = &lease.progress {
        put_bytes(&mut object, "progress", progress);
    }
    put(&mut object, "attributes", attributes(&lease.task_type, &lease.attributes));
    Value::Object(object)
}

/// A task as whoever looks sees it.
pub(crate) fn task(desk: &Desk, view: &TaskView) -> Value {
    let at = |line: Option<u64>| line.map(|line| desk.wall_of(line).into());
    let mut object = Map::new();
    object.insert("id".into(), view.id.0.into());
    object.insert("type".into(), view.task_type.clone().into());
    object.insert("state".into(), state_name(view.state).into());
    put(&mut object, "reason", view.reason.map(|reason| json!(reason)));
    object.insert("priority".into(), view.priority.into());
    object.insert("attempt".into(), view.attempt.into());
    object.insert("max_attempts".into(), view.max_attempts.into());
    put(&mut object, "created_at", at(Some(view.created)));
    put(&mut object, "run_at", at(Some(view.run_at)));
    put(&mut object, "must_end_by", at(view.deadline));
    put(&mut object, "leased_until", at(view.lease_until));
    put(&mut object, "ended_at", at(view.ended));
    put(&mut object, "worker", view.worker.clone().map(Value::from));
    put(&mut object, "last_error", view.last_error.clone().map(Value::from));
    if let Some(progress) = &view.progress {
        put_bytes(&mut object, "progress", progress);
    }
    if let Some(result) = &view.result {
        put_bytes(&mut object, "result", result);
    }
    if view.state != State::Done {
        put_bytes(&mut object, "payload", &view.payload);
    }
    object.insert("content_type".into(), json!(view.content_type));
    put(&mut object, "unique_key", view.unique_key.clone().map(Value::from));
    put(&mut object, "parent", view.parent.map(|id| id.0.into()));
    put(&mut object, "attributes", attributes(&view.task_type, &view.attributes));
    Value::Object(object)
}

/// The same in a list, without what may be large.
pub(crate) fn summary(desk: &Desk, view: &TaskView) -> Value {
    let mut shown = task(desk, view);
    if let Value::Object(object) = &mut shown {
        for name in ["payload", "payload_base64", "result", "result_base64"] {
            object.remove(name);
        }
    }
    shown
}

/// What a settle came to.
pub(crate) fn settled(id: u64, settled: &Settled) -> Value {
    let mut object = Map::new();
    object.insert("id".into(), id.into());
    object.insert("state".into(), state_name(settled.state).into());
    put(&mut object, "next", settled.next.map(|id| id.0.into()));
    object.insert("repeated".into(), settled.repeated.into());
    Value::Object(object)
}

/// A task type as a queue.
pub(crate) fn queue(view: &QueueView) -> Value {
    let mut object = Map::new();
    object.insert("type".into(), view.task_type.clone().into());
    object.insert("paused".into(), view.paused.into());
    for (state, count) in State::ALL.into_iter().zip(view.counts) {
        object.insert(state_name(state).into(), count.into());
    }
    Value::Object(object)
}

/// A schedule and when it fires next.
pub(crate) fn schedule(view: &ScheduleView) -> Value {
    let schedule = &view.schedule;
    let mut object = Map::new();
    object.insert("name".into(), schedule.name.clone().into());
    object.insert("cron".into(), schedule.cron.clone().into());
    object.insert("zone".into(), schedule.zone.clone().into());
    object.insert("catch_up".into(), json!(schedule.catch_up));
    object.insert("next_at".into(), json!(view.next_at));
    let mut task = Map::new();
    task.insert("type".into(), schedule.task.task_type.clone().into());
    put_bytes(&mut task, "payload", &schedule.task.payload);
    object.insert("task".into(), Value::Object(task));
    Value::Object(object)
}

/// Why a task is not running; `workers` is how many claims wait for its type.
pub(crate) fn why(desk: &Desk, why: &Why, waiting: usize) -> Value {
    let at = |line: u64| desk.wall_of(line);
    match why {
        Why::Unknown => json!({
            "why": "unknown",
            "text": "there is no such task: it never was, or was kept long enough"
        }),
        Why::Ready { ahead } => {
            let text = match (ahead, waiting) {
                (0, 0) => "it is next; no worker waits for its type".to_owned(),
                (0, _) => "it is next".to_owned(),
                (n, 0) => format!("{n} tasks go first; no worker waits for their type"),
                (n, _) => format!("{n} tasks go first"),
            };
            json!({ "why": "ready", "ahead": ahead, "waiting_claims": waiting, "text": text })
        }
        Why::Paused => json!({
            "why": "paused",
            "text": "its type is paused; resume it to go on"
        }),
        Why::Delayed { until } => json!({
            "why": "delayed", "until": at(*until), "text": "it was enqueued to run later"
        }),
        Why::BackingOff { until, attempt, error } => json!({
            "why": "backing_off", "until": at(*until), "attempt": attempt, "error": error,
            "text": format!("attempt {attempt} failed; it waits before the next")
        }),
        Why::Blocked { key, limit, holders } => json!({
            "why": "blocked", "key": key, "limit": limit,
            "holders": holders.iter().map(|id| id.0).collect::<Vec<_>>(),
            "text": format!("others run under its concurrency key {key:?}")
        }),
        Why::Running { worker, until, attempt } => json!({
            "why": "running", "worker": worker, "until": at(*until), "attempt": attempt,
            "text": format!("it is running: attempt {attempt}, by {worker:?}")
        }),
        Why::Ended { state, reason, error } => json!({
            "why": "ended", "state": state_name(*state), "reason": reason, "error": error,
            "text": format!("it ended: {}", state_name(*state))
        }),
    }
}
