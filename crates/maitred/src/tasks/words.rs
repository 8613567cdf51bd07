//! The words of a task: the same names in queries, in JSON, in frames and on the command line.
//!
//! A setting is a name and a value, both text. Times are milliseconds, as their names say.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use store::{Concurrency, Error, NewTask, Policy, Postback, Refusal, Step, Unique, When, limits};

/// Why something was refused, in a word for programs and a sentence for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Denial {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Denial {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Denial {
        Denial { reason, message: message.into() }
    }

    /// A word that cannot be taken.
    pub(crate) fn invalid(message: impl Into<String>) -> Denial {
        Denial::new("invalid", message)
    }

    /// The store ended before it answered.
    pub(crate) fn unanswered() -> Denial {
        Denial::new("unavailable", "the store did not answer")
    }

    pub(crate) fn denied(what: &str) -> Denial {
        Denial::new("denied", format!("this is not allowed: {what}"))
    }
}

impl From<Error> for Denial {
    fn from(error: Error) -> Denial {
        let reason = match error {
            Error::NoSpace(_) => "no_space",
            Error::Busy(_) => "busy",
            Error::Unavailable(_) => "unavailable",
            Error::Stopped(_) => "stopped",
            Error::Unsupported(_) => "unsupported",
        };
        Denial::new(reason, error.to_string())
    }
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Denial {
        let reason = match refusal {
            Refusal::Stale => "stale_lease",
            Refusal::Cancelled => "cancelled",
            Refusal::Unknown => "unknown_task",
            Refusal::Damaged => "damaged",
            Refusal::Invalid { .. } => "invalid",
        };
        Denial::new(reason, refusal.to_string())
    }
}

/// How long an idempotency key is known after its task ended unless said, in ms: a day, so that
/// whoever lost an answer may still ask again tomorrow.
const UNIQUE_KEEP_MS: u64 = 86_400_000;

/// Every setting there is, for those who misspell one.
const SETTINGS: &str = "priority, delay_ms, run_at, deadline_ms, unique_key, unique_keep_ms, \
                        max_attempts, backoff_ms, backoff_max_ms, jitter_percent, lease_ms, \
                        retention_ms, fair_key, concurrency_key, concurrency_limit, then, \
                        postback, content_type, attribute.NAME";

/// Applies one setting to a task.
///
/// # Errors
/// Says what is wrong with it and what is accepted.
pub(crate) fn set(task: &mut NewTask, name: &str, value: &str) -> Result<(), Denial> {
    let unique = |task: &mut NewTask| -> Unique {
        let new = Unique { key: String::new(), keep_ms: UNIQUE_KEEP_MS };
        task.unique.take().unwrap_or(new)
    };
    match name {
        "delay_ms" => task.run_at = When::After(number(name, value)?),
        "run_at" => task.run_at = When::At(number(name, value)?),
        "deadline_ms" => task.deadline_ms = Some(number(name, value)?),
        "content_type" => task.content_type = Some(value.to_owned()),
        "unique_key" => task.unique = Some(Unique { key: value.to_owned(), ..unique(task) }),
        "unique_keep_ms" => {
            let keep_ms = number(name, value)?;
            task.unique = Some(Unique { keep_ms, ..unique(task) });
        }
        "then" => {
            for task_type in value.split(',') {
                check_type(task_type)?;
                task.then.push(Step { task_type: task_type.to_owned(), ..Step::default() });
            }
        }
        "postback" => task.postback = Some(postback(value)?),
        _ => match name.strip_prefix("attribute.") {
            Some(attribute) => task.attributes.push((attribute.to_owned(), value.to_owned())),
            None => set_policy(&mut task.policy, name, value)?,
        },
    }
    Ok(())
}

fn set_policy(policy: &mut Policy, name: &str, value: &str) -> Result<(), Denial> {
    let concurrency = |policy: &mut Policy| -> Concurrency {
        let new = Concurrency { key: String::new(), limit: 1 };
        policy.concurrency.take().unwrap_or(new)
    };
    match name {
        "priority" => policy.priority = number(name, value)?,
        "max_attempts" => policy.max_attempts = number(name, value)?,
        "backoff_ms" => policy.backoff.base_ms = number(name, value)?,
        "backoff_max_ms" => policy.backoff.max_ms = number(name, value)?,
        "jitter_percent" => policy.backoff.jitter_percent = number(name, value)?,
        "lease_ms" => policy.lease_ms = number(name, value)?,
        "retention_ms" => policy.retention_ms = number(name, value)?,
        "fair_key" => policy.fair_key = Some(value.to_owned()),
        "concurrency_key" => {
            let key = value.to_owned();
            policy.concurrency = Some(Concurrency { key, ..concurrency(policy) });
        }
        "concurrency_limit" => {
            let limit = number(name, value)?;
            policy.concurrency = Some(Concurrency { limit, ..concurrency(policy) });
        }
        _ => return Err(Denial::invalid(format!("{name:?} is no setting; there are {SETTINGS}"))),
    }
    Ok(())
}

/// Reads a number that a setting names.
///
/// # Errors
/// Says what it is not.
pub(crate) fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Denial> {
    let wrong = || Denial::invalid(format!("{name}: {value:?} is not a number in range"));
    value.parse().map_err(|_| wrong())
}

/// `task:TYPE`, `service:NAME` or `caller`.
fn postback(value: &str) -> Result<Postback, Denial> {
    match value.split_once(':') {
        Some(("task", to)) => {
            check_type(to)?;
            Ok(Postback::Task(to.to_owned()))
        }
        Some(("service", to)) if !to.is_empty() => Ok(Postback::Service(to.to_owned())),
        Some(("stomp", _)) => Err(Denial::invalid(
            "postback: results cannot go to a STOMP destination in this build; use service:NAME \
             or task:TYPE",
        )),
        None if value == "caller" => Ok(Postback::Caller),
        Some(_) | None => Err(Denial::invalid(format!(
            "postback: {value:?} leads nowhere; expected service:NAME, task:TYPE or caller"
        ))),
    }
}

/// A task type that peers may use.
///
/// # Errors
/// If it is the broker's own, or no name.
pub(crate) fn check_type(task_type: &str) -> Result<(), Denial> {
    if task_type.starts_with("maitred.") {
        let message = format!("{task_type:?}: types that begin with maitred. are the broker's own");
        return Err(Denial::invalid(message));
    }
    if task_type.is_empty() || task_type.len() > limits::NAME {
        let message = format!("a task type has 1 to {} bytes", limits::NAME);
        return Err(Denial::invalid(message));
    }
    Ok(())
}

/// What is left to check once every setting was applied.
///
/// # Errors
/// If settings that belong together do not come together.
pub(crate) fn finish(task: NewTask) -> Result<NewTask, Denial> {
    check_type(&task.task_type)?;
    if task.unique.as_ref().is_some_and(|unique| unique.key.is_empty()) {
        return Err(Denial::invalid("unique_keep_ms means nothing without a unique_key"));
    }
    if task.policy.concurrency.as_ref().is_some_and(|concurrency| concurrency.key.is_empty()) {
        return Err(Denial::invalid("concurrency_limit means nothing without a concurrency_key"));
    }
    Ok(task)
}

/// A task as JSON has it: `type`, `payload` or `payload_base64`, and settings.
///
/// # Errors
/// Says which field is wrong and what is accepted.
pub(crate) fn task_from_json(value: &Value) -> Result<NewTask, Denial> {
    let object = value.as_object().ok_or_else(|| Denial::invalid("a task is a JSON object"))?;
    let mut task = NewTask::default();
    for (name, value) in object {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            ("type", Value::String(text)) => text.clone_into(&mut task.task_type),
            ("payload", Value::String(text)) => task.payload = text.clone().into_bytes(),
            ("payload_base64", Value::String(text)) => task.payload = unbase64(name, text)?,
            ("payload", Value::Object(_) | Value::Array(_)) => {
                task.payload = value.to_string().into_bytes();
                task.content_type.get_or_insert("application/json".into());
            }
            ("then", Value::Array(steps)) => {
                for step in steps {
                    task.then.push(step_from_json(step)?);
                }
            }
            ("attributes", Value::Object(attributes)) => {
                for (attribute, value) in attributes {
                    task.attributes.push((attribute.clone(), plain(name, value)?));
                }
            }
            (name, value) => set(&mut task, name, &plain(name, value)?)?,
        }
    }
    finish(task)
}

fn step_from_json(value: &Value) -> Result<Step, Denial> {
    let mut step = Step::default();
    match value {
        Value::String(task_type) => task_type.clone_into(&mut step.task_type),
        Value::Object(object) => {
            for (name, value) in object {
                match (name.as_str(), value) {
                    ("type", Value::String(text)) => text.clone_into(&mut step.task_type),
                    (name, value) => set_policy(&mut step.policy, name, &plain(name, value)?)?,
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            return Err(Denial::invalid("then: a step is a task type or a JSON object"));
        }
    }
    check_type(&step.task_type)?;
    Ok(step)
}

fn plain(name: &str, value: &Value) -> Result<String, Denial> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            Err(Denial::invalid(format!("{name}: expected a string or a number, not {value}")))
        }
    }
}

/// Bytes as JSON has them: a string if they are UTF-8, else another field in base64.
pub(crate) fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

/// The other way round: of two fields the one that is there; empty if neither is.
///
/// # Errors
/// If it is no text, or no base64.
pub(crate) fn take_bytes(object: &Map<String, Value>, name: &str) -> Result<Vec<u8>, Denial> {
    let coded = format!("{name}_base64");
    match (object.get(name), object.get(&coded)) {
        (Some(_), Some(_)) => {
            Err(Denial::invalid(format!("{name} and {coded}: only one of them may be there")))
        }
        (Some(Value::String(text)), None) => Ok(text.clone().into_bytes()),
        (None, Some(Value::String(text))) => unbase64(&coded, text),
        (None, None) => Ok(Vec::new()),
        (Some(other), None) | (None, Some(other)) => {
            Err(Denial::invalid(format!("{name}: expected a string, not {other}")))
        }
    }
}

fn unbase64(name: &str, text: &str) -> Result<Vec<u8>, Denial> {
    STANDARD
        .decode(text)
        .map_err(|error| Denial::invalid(format!("{name} is not base64 (RFC 4648): {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_say_what_they_do_in_every_spelling() {
        let task = task_from_json(&json!({
            "type": "mail", "payload": "hi", "priority": -3, "delay_ms": 5, "deadline_ms": "900",
            "unique_key": "k", "max_attempts": 2, "backoff_ms": 7, "lease_ms": 9,
            "concurrency_key": "db", "concurrency_limit": 4, "then": ["a", {"type": "b",
            "priority": 1}], "postback": "service:log", "attributes": {"trace": "x"},
            "content_type": null,
        }));
        let task = task.expect("good words");
        let mut same = NewTask::new("mail", "hi");
        let words = "priority=-3 delay_ms=5 deadline_ms=900 unique_key=k max_attempts=2 \
                     backoff_ms=7 lease_ms=9 concurrency_key=db concurrency_limit=4 then=a,b \
                     postback=service:log attribute.trace=x";
        for word in words.split_whitespace() {
            let (name, value) = word.split_once('=').expect("a setting");
            set(&mut same, name, value).expect("a good one");
        }
        same.then[1].policy.priority = 1;
        assert_eq!(finish(same), Ok(task.clone()));
        assert_eq!(task.unique.expect("a key").keep_ms, UNIQUE_KEEP_MS);
    }

    #[test]
    fn words_that_mean_nothing_say_why() {
        let cases = [
            (json!([]), "a JSON object"),
            (json!({}), "a task type has"),
            (json!({"type": "maitred.x"}), "the broker's own"),
            (json!({"type": "t", "priority": "high"}), "priority: \"high\" is not a number"),
            (json!({"type": "t", "priority": 40000}), "is not a number in range"),
            (json!({"type": "t", "priority": true}), "expected a string or a number"),
            (json!({"type": "t", "prio": 1}), "there are priority, delay_ms"),
            (json!({"type": "t", "payload_base64": "?"}), "payload_base64 is not base64"),
            (json!({"type": "t", "postback": "nowhere"}), "leads nowhere"),
            (json!({"type": "t", "postback": "stomp:/queue/x"}), "STOMP"),
            (json!({"type": "t", "postback": "task:maitred.y"}), "the broker's own"),
            (json!({"type": "t", "unique_keep_ms": 5}), "without a unique_key"),
            (json!({"type": "t", "concurrency_limit": 5}), "without a concurrency_key"),
            (json!({"type": "t", "then": [7]}), "a step is"),
            (json!({"type": "t", "then": [{"type": "u", "delay_ms": 7}]}), "is no setting"),
        ];
        for (words, expected) in cases {
            let denial = task_from_json(&words).expect_err("nonsense");
            assert!(denial.message.contains(expected), "{words}: {}", denial.message);
        }
    }

    #[test]
    fn bytes_survive_json() {
        for bytes in [&b""[..], b"hello", b"\xff\x00", "gr\u{fc}n".as_bytes()] {
            let mut object = Map::new();
            put_bytes(&mut object, "payload", bytes);
            assert_eq!(take_bytes(&object, "payload").as_deref(), Ok(bytes));
        }
        let both = json!({"a": "x", "a_base64": "eA=="});
        assert!(take_bytes(both.as_object().expect("one"), "a").is_err());
    }
}
