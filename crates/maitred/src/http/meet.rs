//! `/v1/match` and `/v1/regulators`: where processes meet, for those that speak HTTP.
//!
//! What is said here are the words of the service `maitred.match` or `maitred.regulator`, said in
//! the name of the request. While it waits, its connection is the process: when it closes, the
//! process is dead. A lock outlives the request, so it has a lease instead of a connection.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use engine::{ConnId, Place, REASONS, Span};
use serde::Deserialize;
use serde_json::json;
use sessions::{Lease, Outcome};
use tokio::sync::oneshot;

use super::{DEFAULT_TIMEOUT, House, LISTED, ListOptions, Refusal};
use crate::config::Lasting;
use crate::inbox::{Again, Command, Who};
use crate::view::{Matches, Places, Regulators};

/// How long a lock lasts without `?lease=`.
const DEFAULT_LEASE: Duration = Duration::from_secs(30);

/// The longest lease: whoever holds a lock for longer without a sign of life has forgotten it.
const LEASE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of the rules of a place.
const RULES_MAX: usize = 64 * 1024;

/// How long somebody waited, in microseconds.
const RELATIVE: &str = "maitred-relative-us";
const SOJOURN: &str = "maitred-sojourn-us";

pub(super) fn routes() -> Router<Arc<House>> {
    let one = |place| {
        get(move |house, path| show(house, path, place))
            .put(move |house, who, path, body| declare(house, who, path, body, place))
            .delete(move |house, who, path| remove(house, who, path, place))
    };
    Router::new()
        .route("/v1/match", get(matches))
        .route("/v1/match/{name}", one(Place::Match))
        .route("/v1/match/{name}/{word}", post(meet))
        .route("/v1/regulators", get(regulators))
        .route("/v1/regulators/{name}", one(Place::Regulator))
        .route("/v1/regulators/{name}/{word}", post(regulate))
}

/// What may stand behind `?`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    timeout: Option<String>,
    label: Option<String>,
    lease: Option<String>,
    lock: Option<String>,
    outcome: Option<String>,
    wait: Option<String>,
}

impl Options {
    fn read(given: Result<Query<Options>, QueryRejection>) -> Result<Options, Refusal> {
        given.map(|Query(options)| options).map_err(|error| bad(error.body_text()))
    }

    /// Refuses what the word does not take.
    fn only(&self, word: &str, taken: &[&str]) -> Result<(), Refusal> {
        let given = [
            ("timeout", &self.timeout),
            ("label", &self.label),
            ("lease", &self.lease),
            ("lock", &self.lock),
            ("outcome", &self.outcome),
            ("wait", &self.wait),
        ];
        let other = given.iter().find(|(name, value)| value.is_some() && !taken.contains(name));
        match other {
            None => Ok(()),
            Some((name, _)) => Err(bad(format!("{word} takes no {name}"))),
        }
    }

    /// The frames behind those of somebody who waits.
    fn patience(&self) -> Result<Vec<String>, Refusal> {
        let timeout = match self.timeout.as_deref() {
            None => Some(DEFAULT_TIMEOUT),
            Some("never") => None,
            Some(text) => Some(span(text)?.into()),
        };
        let mut frames: Vec<String> = Vec::new();
        frames.extend(self.label.as_ref().map(|label| format!("label={label}")));
        frames.extend(timeout.map(|timeout| format!("timeout={}", timeout.as_micros())));
        Ok(frames)
    }

    fn lease(&self) -> Result<Option<Span>, Refusal> {
        let Some(text) = self.lease.as_deref() else { return Ok(None) };
        let lease = span(text)?;
        if lease <= Span::ZERO || lease > Span::from(LEASE_MAX) {
            return Err(bad("a lease lasts from 1us to 24h"));
        }
        Ok(Some(lease))
    }

    fn lock(&self) -> Result<(ConnId, u128), Refusal> {
        let lock = self.lock.as_deref().ok_or_else(|| bad("expected lock=, as acquire gave it"))?;
        read_lock(lock).ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "lock", NO_LOCK))
    }
}

const NO_LOCK: &str = "there is no such lock here: its lease ended, or it is done";

fn span(text: &str) -> Result<Span, Refusal> {
    text.parse().map(|Lasting(span)| span).map_err(bad)
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "bad_request", message)
}

/// The name of a lock: the call that holds it, and its secret.
fn name_lock(id: ConnId, secret: u128) -> String {
    format!("{:x}-{secret:032x}", id.as_u64())
}

fn read_lock(text: &str) -> Option<(ConnId, u128)> {
    let (id, secret) = text.split_once('-')?;
    let id = u64::from_str_radix(id, 16).ok()?;
    let id = ConnId::new((id >> 56) as u8, id as u32, (id >> 32) as u32 & 0xFF_FFFF);
    Some((id, u128::from_str_radix(secret, 16).ok()?))
}

/// `POST /v1/match/{name}/{word}`.
async fn meet(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path((name, word)): Path<(String, String)>,
    options: Result<Query<Options>, QueryRejection>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let options = Options::read(options)?;
    let mut frames: Vec<Bytes> = vec![word.clone().into(), name.into()];
    match &*word {
        "ask" | "ask_r" => {
            options.only(&word, &["timeout", "label"])?;
            frames.push(body);
            frames.extend(options.patience()?.into_iter().map(Bytes::from));
        }
        "try_ask" | "try_ask_r" => {
            options.only(&word, &[])?;
            frames.push(body);
        }
        "cancel" => frames.push(cancel(&options)?),
        _ => return Err(unknown(&word, "ask, ask_r, try_ask, try_ask_r or cancel")),
    }
    let answer = house.say(who, Place::Match, &frames, None).await?;
    answer.met()
}

/// `POST /v1/regulators/{name}/{word}`.
async fn regulate(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path((name, word)): Path<(String, String)>,
    options: Result<Query<Options>, QueryRejection>,
) -> Result<Response, Refusal> {
    let options = Options::read(options)?;
    let mut frames: Vec<Bytes> = vec![word.clone().into(), name.clone().into()];
    let mut lease = None;
    match &*word {
        "acquire" => {
            options.only(&word, &["timeout", "label", "lease"])?;
            frames.extend(options.patience()?.into_iter().map(Bytes::from));
            lease = Some(options.lease()?.unwrap_or(DEFAULT_LEASE.into()));
        }
        "try_acquire" => {
            options.only(&word, &["lease"])?;
            lease = Some(options.lease()?.unwrap_or(DEFAULT_LEASE.into()));
        }
        "continue" => {
            options.only(&word, &["lock", "lease"])?;
            let (id, secret) = options.lock()?;
            let again = Again::Continue(options.lease()?);
            let answer = house.say_again(who, id, secret, name, again).await?;
            return answer.runs(|| name_lock(id, secret));
        }
        "done" => {
            options.only(&word, &["lock", "outcome"])?;
            let ok = match options.outcome.as_deref() {
                None | Some("ok") => true,
                Some("failed") => false,
                Some(_) => return Err(bad("outcome is ok or failed")),
            };
            let (id, secret) = options.lock()?;
            let answer = house.say_again(who, id, secret, name, Again::Done(ok)).await?;
            return answer.met();
        }
        "update" => {
            options.only(&word, &["wait"])?;
            let wait = options.wait.as_deref().ok_or_else(|| bad("expected wait=, such as 5ms"))?;
            frames.push((span(wait)?.as_nanos() / 1_000).to_string().into());
        }
        "cancel" => frames.push(cancel(&options)?),
        _ => {
            let words = "acquire, try_acquire, continue, done, update or cancel";
            return Err(unknown(&word, words));
        }
    }
    let lease =
        lease.map(|span| Ok::<_, Refusal>(Lease { span, secret: secret()? })).transpose()?;
    let answer = house.say(who, Place::Regulator, &frames, lease).await?;
    match (answer.caller, lease) {
        (Some(id), Some(Lease { secret, .. })) => answer.runs(|| name_lock(id, secret)),
        (None, _) | (_, None) => answer.met(),
    }
}

fn cancel(options: &Options) -> Result<Bytes, Refusal> {
    options.only("cancel", &["label"])?;
    let label =
        options.label.clone().ok_or_else(|| bad("expected label=, as it was asked under"))?;
    Ok(label.into())
}

fn unknown(word: &str, known: &str) -> Refusal {
    let message = format!("there is no {word:?} here: expected {known}");
    Refusal::new(StatusCode::NOT_FOUND, "not_found", message)
}

fn secret() -> Result<u128, Refusal> {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(|error| {
        let message = format!("no randomness for the name of a lock: {error}");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    })?;
    Ok(u128::from_be_bytes(secret))
}

/// `PUT /v1/match/{name}` and `PUT /v1/regulators/{name}`.
async fn declare(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    rules: Bytes,
    place: Place,
) -> Result<Response, Refusal> {
    if rules.len() > RULES_MAX {
        return Err(bad(format!("rules have at most {RULES_MAX} bytes")));
    }
    let frames = [Bytes::from_static(b"declare"), name.into(), rules];
    house.say(who, place, &frames, None).await?.met()
}

/// `DELETE /v1/match/{name}` and `DELETE /v1/regulators/{name}`.
async fn remove(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    place: Place,
) -> Result<Response, Refusal> {
    house.say(who, place, &[Bytes::from_static(b"remove"), name.into()], None).await?.met()
}

/// `GET /v1/match`.
async fn matches(
    State(house): State<Arc<House>>,
    Query(options): Query<ListOptions>,
) -> Result<Json<Matches>, Refusal> {
    Ok(Json(house.look_at_places(None, options.limit).await?.matches))
}

/// `GET /v1/regulators`.
async fn regulators(
    State(house): State<Arc<House>>,
    Query(options): Query<ListOptions>,
) -> Result<Json<Regulators>, Refusal> {
    Ok(Json(house.look_at_places(None, options.limit).await?.regulators))
}

/// `GET /v1/match/{name}` and `GET /v1/regulators/{name}`.
async fn show(
    State(house): State<Arc<House>>,
    Path(name): Path<String>,
    place: Place,
) -> Result<Response, Refusal> {
    let Places { matches, regulators } = house.look_at_places(Some(name.into()), None).await?;
    let shown = match place {
        Place::Match => matches.matches.first().map(|one| Json(one).into_response()),
        Place::Regulator => regulators.regulators.first().map(|one| Json(one).into_response()),
    };
    shown.ok_or_else(no_place)
}

fn no_place() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is no place of this name")
}

/// What came of a word, and the call it was said in.
struct Answer {
    caller: Option<ConnId>,
    frames: Vec<Bytes>,
}

impl House {
    /// Says a word and waits for what comes of it; whoever drops this takes it back.
    async fn say(
        &self,
        who: Who,
        place: Place,
        frames: &[Bytes],
        lease: Option<Lease>,
    ) -> Result<Answer, Refusal> {
        let mut body = Vec::with_capacity(frames.iter().map(|frame| frame.len() + 9).sum());
        for (i, frame) in frames.iter().enumerate() {
            zmtp::put_frame(&mut body, i + 1 < frames.len(), frame);
        }
        let service = Bytes::from_static(place.service().as_bytes());
        let call = self.calls.call_and_stay(who, service, body.into(), Bytes::new(), lease);
        let (caller, outcome) = call.await.map_err(|_| Refusal::stopping())?;
        Answer::read(Some(caller), outcome)
    }

    /// Says another word in the name of a call that holds a lock.
    async fn say_again(
        &self,
        who: Who,
        id: ConnId,
        secret: u128,
        name: String,
        word: Again,
    ) -> Result<Answer, Refusal> {
        let (answer, outcome) = oneshot::channel();
        let again = Command::Again { who, id, secret, name: name.into(), word, answer };
        self.inbox.send(again).map_err(|_| Refusal::stopping())?;
        match outcome.await.map_err(|_| Refusal::stopping())? {
            Some(outcome) => Answer::read(None, outcome),
            None => Err(Refusal::new(StatusCode::NOT_FOUND, "lock", NO_LOCK)),
        }
    }

    async fn look_at_places(
        &self,
        name: Option<Bytes>,
        limit: Option<usize>,
    ) -> Result<Places, Refusal> {
        let (answer, places) = oneshot::channel();
        let look = Command::Places { name, limit: limit.unwrap_or(LISTED), answer };
        self.inbox.send(look).map_err(|_| Refusal::stopping())?;
        places.await.map_err(|_| Refusal::stopping())
    }
}

impl Answer {
    fn read(caller: Option<ConnId>, outcome: Outcome) -> Result<Answer, Refusal> {
        match outcome {
            Outcome::Reply(raw) => {
                let raw = Bytes::from(raw);
                let frames = zmtp::raw_frames(&raw).map(|(_, frame)| raw.slice_ref(frame));
                Ok(Answer { caller, frames: frames.collect() })
            }
            Outcome::Refused(reason) => Err(Refusal::shed(reason)),
        }
    }

    fn words(&self) -> Vec<&str> {
        self.frames.iter().map(|frame| std::str::from_utf8(frame).unwrap_or("?")).collect()
    }

    /// The answer to somebody who is let run, under a lock of that name.
    fn runs(self, lock: impl FnOnce() -> String) -> Result<Response, Refusal> {
        let number = |digits: &str| digits.parse::<i64>().unwrap_or(0);
        match self.words()[..] {
            ["go", _, relative, sojourn] => Ok(Json(json!({
                "lock": lock(),
                "relative_us": number(relative),
                "sojourn_us": number(sojourn),
            }))
            .into_response()),
            _ => self.met(),
        }
    }

    /// The answer to everybody else.
    fn met(self) -> Result<Response, Refusal> {
        let conflict = |reason, message| Err(Refusal::new(StatusCode::CONFLICT, reason, message));
        match self.words()[..] {
            ["go", _, relative, sojourn] => {
                let mut headers = HeaderMap::new();
                let kind = HeaderValue::from_static("application/octet-stream");
                headers.insert(header::CONTENT_TYPE, kind);
                for (name, micros) in [(RELATIVE, relative), (SOJOURN, sojourn)] {
                    headers.extend(
                        HeaderValue::from_str(micros)
                            .ok()
                            .map(|us| (header::HeaderName::from_static(name), us)),
                    );
                }
                Ok((headers, self.frames[1].clone()).into_response())
            }
            ["drop", reason, _] => Err(dropped(reason)),
            ["retry"] => conflict("retry", "nobody is there at the moment, or the valve is shut"),
            ["cancelled"] => conflict("cancelled", "it was cancelled under its label"),
            ["stop"] => conflict("stop", "too many run: the lock is lost"),
            ["number", n] => {
                let cancelled: u64 = n.parse().unwrap_or(0);
                Ok(Json(json!({ "cancelled": cancelled })).into_response())
            }
            ["done"] => Ok(StatusCode::NO_CONTENT.into_response()),
            ["not_found", "name"] => Err(no_place()),
            ["not_found", ..] => Err(Refusal::new(StatusCode::NOT_FOUND, "lock", NO_LOCK)),
            ["bad_request", why] => Err(bad(why)),
            _ => {
                let message = "the broker gave an answer that makes no sense";
                Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message))
            }
        }
    }
}

fn dropped(word: &str) -> Refusal {
    let Some(reason) = REASONS.into_iter().find(|reason| reason.as_str() == word) else {
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "overload", "it was dropped");
    };
    let message = match reason {
        engine::Reason::QueueFull => {
            "the line is full, or there are as many places as there may be"
        }
        engine::Reason::Expired => "it waited as long as it may",
        engine::Reason::Overload => "the line is kept short, or a quota is used up",
        engine::Reason::Draining => "the place, or the broker, is stopping",
        engine::Reason::Denied => "this is not allowed",
        engine::Reason::NoWorkers | engine::Reason::WorkersFailed => "it was dropped",
    };
    Refusal { message: message.into(), ..Refusal::shed(reason) }
}
