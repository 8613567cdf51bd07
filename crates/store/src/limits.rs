//! Bounds of what may be stored, and their reasons.

use crate::api::{Capabilities, Refusal};
use crate::task::{NewTask, Policy, Postback};

/// Bytes of a name: type, key, worker, content type. Names stand in indexes.
pub const NAME: usize = 255;
/// Bytes of a payload or result. One commit holds several; larger things belong beside the store.
pub const PAYLOAD: usize = 16 << 20;
/// Bytes of an error that are kept. More than a stack trace tells nothing more.
pub const ERROR: usize = 8 << 10;
/// Bytes of a progress note: written at every heartbeat.
pub const PROGRESS: usize = 4 << 10;
/// Links of a chain after the first: they are carried from link to link.
pub const STEPS: usize = 32;
/// Attributes of a task.
pub const ATTRIBUTES: usize = 32;
/// Items of one call: bounds how long one commit takes.
pub const BATCH: usize = 4_096;
/// Types of one claim: each is looked for.
pub const TYPES: usize = 256;
/// Tasks of one page.
pub const PAGE: usize = 1_000;
/// Attempts of a task.
pub const ATTEMPTS: u32 = 10_000;
/// Leases, waits and retention, in ms: 10 years. Sums of them stay far from overflow.
pub const SPAN_MS: u64 = 10 * 366 * 86_400_000;

/// Checks a task, and that the engine has what it asks for: what it has not is never left out.
pub(crate) fn check_for(task: &NewTask, engine: &Capabilities) -> Result<(), Refusal> {
    check(task)?;
    at_most("payload", task.payload.len(), engine.payload, "bytes on this engine")?;
    let steps = task.then.iter().map(|step| &step.policy);
    for policy in std::iter::once(&task.policy).chain(steps) {
        let lacks = [
            ("priority", policy.priority != 0 && !engine.priorities),
            ("fair_key", policy.fair_key.is_some() && !engine.fair_keys),
            ("concurrency", policy.concurrency.is_some() && !engine.concurrency_keys),
        ];
        if let Some((field, _)) = lacks.into_iter().find(|(_, lacks)| *lacks) {
            let problem = format!("the store's engine, {}, has none; leave it out", engine.engine);
            return Err(invalid(field, &problem));
        }
    }
    Ok(())
}

/// Checks a task before anything is reserved for it.
pub(crate) fn check(task: &NewTask) -> Result<(), Refusal> {
    name("task_type", &task.task_type)?;
    at_most("payload", task.payload.len(), PAYLOAD, "bytes")?;
    if let Some(content_type) = &task.content_type {
        name("content_type", content_type)?;
    }
    if let Some(unique) = &task.unique {
        name("unique key", &unique.key)?;
        span("unique keep_ms", unique.keep_ms)?;
    }
    match task.run_at {
        crate::When::Now => {}
        crate::When::After(ms) => span("run_at", ms)?,
        crate::When::At(at) => at_most("run_at", at as usize, 1 << 53, "ms")?,
    }
    span("deadline_ms", task.deadline_ms.unwrap_or(0))?;
    policy(&task.policy)?;
    at_most("then", task.then.len(), STEPS, "steps")?;
    for step in &task.then {
        name("then: task_type", &step.task_type)?;
        policy(&step.policy)?;
    }
    match &task.postback {
        Some(Postback::Task(to) | Postback::Service(to) | Postback::Stomp(to)) => {
            name("postback", to)?;
        }
        Some(Postback::Caller) | None => {}
    }
    at_most("attributes", task.attributes.len(), ATTRIBUTES, "names")?;
    for (key, value) in &task.attributes {
        name("attribute", key)?;
        at_most("attribute value", value.len(), ERROR, "bytes")?;
    }
    Ok(())
}

fn policy(policy: &Policy) -> Result<(), Refusal> {
    if policy.max_attempts == 0 {
        return Err(invalid("max_attempts", "must be at least 1"));
    }
    at_most("max_attempts", policy.max_attempts as usize, ATTEMPTS as usize, "")?;
    if policy.backoff.jitter_percent > 100 {
        return Err(invalid("jitter_percent", "is at most 100"));
    }
    span("backoff max_ms", policy.backoff.max_ms)?;
    if policy.lease_ms == 0 {
        return Err(invalid("lease_ms", "must be at least 1"));
    }
    span("lease_ms", policy.lease_ms)?;
    span("retention_ms", policy.retention_ms)?;
    if let Some(key) = &policy.fair_key {
        name("fair_key", key)?;
    }
    if let Some(concurrency) = &policy.concurrency {
        name("concurrency key", &concurrency.key)?;
        if concurrency.limit == 0 {
            return Err(invalid("concurrency limit", "must be at least 1"));
        }
    }
    Ok(())
}

/// A name is text that is not empty, not long, and without control characters.
pub(crate) fn name(field: &'static str, text: &str) -> Result<(), Refusal> {
    if text.is_empty() || text.len() > NAME {
        return Err(invalid(field, &format!("must have 1 to {NAME} bytes, not {}", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(field, "must have no control characters"));
    }
    Ok(())
}

pub(crate) fn span(field: &'static str, ms: u64) -> Result<(), Refusal> {
    if ms <= SPAN_MS { Ok(()) } else { Err(invalid(field, "is at most 10 years in ms")) }
}

pub(crate) fn at_most(
    field: &'static str,
    size: usize,
    limit: usize,
    unit: &str,
) -> Result<(), Refusal> {
    if size <= limit {
        return Ok(());
    }
    Err(invalid(field, &format!("is at most {limit} {unit}, not {size}")))
}

pub(crate) fn invalid(field: &'static str, problem: &str) -> Refusal {
    Refusal::Invalid { field, problem: problem.to_owned() }
}

/// What is kept of a text that somebody said: its beginning. A NUL has no place in PostgreSQL's
/// text, and none in what a person reads.
pub(crate) fn text(text: &str, limit: usize) -> String {
    cut(text, limit).replace('\0', " ")
}

/// The first bytes of a text that are whole characters.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}
