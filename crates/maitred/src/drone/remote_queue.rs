//! A broker elsewhere as a drone's global queue, over HTTP: the drone needs no database.

use std::collections::HashMap;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::drone::Global;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use store::{
    Claim, Error, Extend, Extended, Lease, Level, Listener, Notice, Outcome, Receipt, Refusal,
    Release, Reply, Settle, Settled, State, TaskId, Token,
};

use crate::tasks::words::put_bytes;

/// How long a claim waits at the broker: the answer comes as soon as there is a task.
const WAIT: Duration = Duration::from_secs(5);
/// How long past that an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Something to be asked, by the thread that asks such things.
type Errand = Box<dyn FnOnce(&Line) + Send>;

/// A broker's address.
pub(crate) struct Line {
    url: String,
    token: Option<String>,
    agent: ureq::Agent,
}

/// The broker's task surface.
pub(crate) struct Remote {
    line: Arc<Line>,
    /// One thread for each thing that may wait, so that none waits for another.
    threads: Mutex<HashMap<String, Sender<Errand>>>,
    listener: Arc<Mutex<Option<Listener>>>,
}

impl Remote {
    pub(crate) fn new(url: &str, token: Option<String>) -> Remote {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(WAIT + PATIENCE))
            .build()
            .into();
        let url = url.trim_end_matches('/').to_owned();
        Remote {
            line: Arc::new(Line { url, token, agent }),
            threads: Mutex::default(),
            listener: Arc::default(),
        }
    }

    /// Runs an errand on the thread of this name, after those before it.
    fn send(&self, name: &str, errand: Errand) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = threads.entry(name.to_owned()).or_insert_with(|| {
            let (sender, errands) = channel::<Errand>();
            let line = self.line.clone();
            // Without a thread the errand is dropped, and so is whoever waits for its answer.
            let _ = std::thread::Builder::new().name("global-queue".into()).spawn(move || {
                for errand in errands {
                    errand(&line);
                }
            });
            sender
        });
        let _ = thread.send(errand);
    }

    /// A batch whose answer has one item for each of its own.
    fn batch<T: Send + 'static>(
        &self,
        path: &'static str,
        name: &'static str,
        items: Vec<Value>,
        read: fn(&Value) -> Option<T>,
        reply: Reply<Vec<Result<T, Refusal>>>,
    ) {
        let errand = move |line: &Line| {
            let body = json!({ name: items });
            let answers = line.post(path, &body).and_then(|answer| {
                let told = answer[name].as_array();
                let told = told.filter(|told| told.len() == items.len());
                let told = told.ok_or_else(|| puzzled(&answer))?;
                let told = told.iter().map(|item| match item["reason"].as_str() {
                    Some(reason) => Ok(Err(refusal(reason))),
                    None => read(item).map(Ok).ok_or_else(|| puzzled(item)),
                });
                told.collect::<Result<Vec<_>, Error>>()
            });
            reply(answers.map(receipt));
        };
        self.send(path, Box::new(errand));
    }
}

/// The broker answered something that this program does not understand.
fn puzzled(answer: &Value) -> Error {
    let mut text = answer.to_string();
    text.truncate(text.floor_char_boundary(200));
    Error::Unavailable(format!("an answer that is not understood: {text}"))
}

/// How durable the broker keeps what it answers is the broker's to say, not ours.
fn receipt<T>(value: T) -> Receipt<T> {
    Receipt { value, level: Level::Os }
}

fn refusal(reason: &str) -> Refusal {
    match reason {
        "cancelled" => Refusal::Cancelled,
        "unknown_task" => Refusal::Unknown,
        "damaged" => Refusal::Damaged,
        _ => Refusal::Stale,
    }
}

impl Line {
    fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        let lost = |error: &dyn std::fmt::Display| {
            Error::Unavailable(format!("{}{path}: {error}", self.url))
        };
        let mut request = self.agent.post(format!("{}{path}", self.url));
        request = request.header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut response = request.send(body.to_string()).map_err(|error| lost(&error))?;
        let status = response.status();
        let text = response.body_mut().with_config().limit(1 << 30).read_to_string();
        let text = text.map_err(|error| lost(&error))?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        let message = answer["message"].as_str().unwrap_or(&text).to_owned();
        Err(lost(&format!("{status}: {message}")))
    }
}

fn words(object: &Value, name: &str) -> Option<Vec<u8>> {
    if let Some(text) = object[name].as_str() {
        return Some(text.as_bytes().to_vec());
    }
    BASE64.decode(object[format!("{name}_base64")].as_str()?).ok()
}

fn lease(object: &Value) -> Option<Lease> {
    let attributes = object["attributes"].as_object().into_iter().flatten();
    Some(Lease {
        token: object["token"].as_str()?.parse().ok()?,
        task_type: object["type"].as_str()?.to_owned(),
        payload: words(object, "payload")?,
        content_type: object["content_type"].as_str().map(str::to_owned),
        attempt: u32::try_from(object["attempt"].as_u64()?).ok()?,
        max_attempts: u32::try_from(object["max_attempts"].as_u64()?).ok()?,
        // Times on the broker's clock mean nothing here: a drone goes by its own.
        until: 0,
        deadline: None,
        progress: words(object, "progress"),
        attributes: attributes
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
    })
}

fn settled(object: &Value) -> Option<Settled> {
    let state = serde_json::from_value::<State>(object["state"].clone()).ok()?;
    let next = object["next"].as_u64().map(TaskId);
    let repeated = object["repeated"].as_bool().unwrap_or(false);
    Some(Settled { state, next, repeated })
}

impl Global for Remote {
    fn name(&self) -> String {
        self.line.url.clone()
    }

    fn claim(&self, claim: Claim, reply: Reply<Vec<Lease>>) {
        let listener = self.listener.clone();
        let types = claim.types.clone();
        let name = format!("claim {}", types.join(" "));
        let errand = move |line: &Line| {
            let body = json!({
                "types": claim.types, "max": claim.limit, "lease_ms": claim.lease_ms,
                "worker": claim.worker, "wait_ms": WAIT.as_millis() as u64,
            });
            let leases = line.post("/v1/leases", &body).and_then(|answer| {
                let leases = answer["leases"].as_array().ok_or_else(|| puzzled(&answer))?;
                leases
                    .iter()
                    .map(|object| lease(object).ok_or_else(|| puzzled(object)))
                    .collect::<Result<Vec<Lease>, Error>>()
            });
            let again = leases.is_ok();
            reply(leases.map(receipt));
            // The next claim waits at the broker as this one did: no other hint is needed.
            if again {
                let listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
                let ready = |task_type: &String| Notice::Ready { task_type: task_type.clone() };
                if let Some(listener) = &*listener {
                    listener(&types.iter().map(ready).collect::<Vec<_>>());
                }
            }
        };
        self.send(&name, Box::new(errand));
    }

    fn settle(&self, settles: Vec<Settle>, reply: Reply<Vec<Result<Settled, Refusal>>>) {
        let items = settles.iter().map(|settle| {
            let mut item = token(settle.token);
            match &settle.outcome {
                Outcome::Complete(result) => {
                    item.insert("outcome".into(), "complete".into());
                    put_bytes(&mut item, "result", result);
                }
                Outcome::Fail { error, retry_after_ms } => {
                    item.insert("outcome".into(), "fail".into());
                    item.insert("error".into(), error.as_str().into());
                    if let Some(ms) = retry_after_ms {
                        item.insert("retry_after_ms".into(), (*ms).into());
                    }
                }
                Outcome::Reject { error } => {
                    item.insert("outcome".into(), "reject".into());
                    item.insert("error".into(), error.as_str().into());
                }
            }
            Value::Object(item)
        });
        self.batch("/v1/leases/settle", "settles", items.collect(), settled, reply);
    }

    fn extend(&self, extends: Vec<Extend>, reply: Reply<Vec<Result<Extended, Refusal>>>) {
        let items = extends.iter().map(|extend| {
            let mut item = token(extend.token);
            if let Some(ms) = extend.lease_ms {
                item.insert("lease_ms".into(), ms.into());
            }
            if let Some(progress) = &extend.progress {
                put_bytes(&mut item, "progress", progress);
            }
            Value::Object(item)
        });
        let read = |_: &Value| Some(Extended { until: 0 });
        self.batch("/v1/leases/extend", "extends", items.collect(), read, reply);
    }

    fn release(&self, releases: Vec<Release>, reply: Reply<Vec<Result<(), Refusal>>>) {
        let items = releases.iter().map(|release| {
            let mut item = token(release.token);
            item.insert("after_ms".into(), release.after_ms.into());
            Value::Object(item)
        });
        self.batch("/v1/leases/release", "releases", items.collect(), |_| Some(()), reply);
    }

    fn notify(&self, listener: Listener) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }
}

fn token(token: Token) -> Map<String, Value> {
    Map::from_iter([("token".to_owned(), token.to_string().into())])
}
