//! HTTP: health, metrics, pictures of the broker, and calls to services.
//!
//! Requests that change something are refused when their Host or Origin is not ours, so that
//! neither a rebound name nor a page of another site can make a browser send them.

mod leases;

mod queues;

mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use engine::{ANONYMOUS, HOUSE, Reason};
use serde::Deserialize;
use serde_json::json;
use sessions::Outcome;
use tokio::sync::oneshot;

use crate::calls::Calls;
use crate::config::{Lasting, Tokens};
use crate::inbox::{Command, Detail, Inbox, Who};
use crate::metrics;
use crate::tasks::Desk;
use crate::view::{Services, Snapshot, Workers};

mod meet;

/// How long a call without `?timeout=` may take.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// What a caller calls itself where callers take turns (`fair = "header"`).
const FAIR_KEY: &str = "maitred-fair-key";

/// Services listed without `?limit=`.
const LISTED: usize = 1_000;

/// What the handlers share.
pub(crate) struct House {
    pub(crate) inbox: Arc<Inbox>,
    calls: Arc<Calls>,
    /// Who keeps tasks, or why nobody does.
    desk: Result<Arc<Desk>, String>,
    pub(crate) token: Option<String>,
    pub(crate) tokens: Tokens,
    /// `host` or `host:port` values of Host and Origin that are ours.
    pub(crate) hosts: Vec<String>,
    pub(crate) body_max: usize,
    pub(crate) reload: Box<dyn Fn() -> Result<crate::serve::NewRules, String> + Send + Sync>,
}

impl House {
    #[expect(clippy::too_many_arguments, reason = "its fields, made once")]
    pub(crate) fn new(
        inbox: Arc<Inbox>,
        calls: Arc<Calls>,
        desk: Result<Arc<Desk>, String>,
        token: Option<String>,
        tokens: Tokens,
        address: SocketAddr,
        hosts: &[String],
        body_max: usize,
        reload: Box<dyn Fn() -> Result<crate::serve::NewRules, String> + Send + Sync>,
    ) -> House {
        let hosts = our_hosts(address, hosts);
        House { inbox, calls, desk, token, tokens, hosts, body_max, reload }
    }

    /// In whose name a request comes; `None` if it must bear a token and does not.
    fn who(&self, headers: &HeaderMap) -> Option<Who> {
        if self.token.as_ref().is_some_and(|token| bears(headers, token)) {
            return Some(HOUSE.into());
        }
        let borne = self.tokens.iter().find(|(token, _)| bears(headers, token));
        match borne {
            Some((_, name)) => Some(Who::from(&**name)),
            None if self.token.is_none() && self.tokens.is_empty() => Some(ANONYMOUS.into()),
            None => None,
        }
    }

    /// Whether somebody may administer the house.
    async fn check_may(&self, who: Who) -> Result<(), Refusal> {
        let (answer, may) = oneshot::channel();
        self.inbox.send(Command::May { who, answer }).map_err(|_| Refusal::stopping())?;
        match may.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::shed(Reason::Denied)),
            Err(_) => Err(Refusal::stopping()),
        }
    }

    async fn look(&self, detail: Detail) -> Result<Snapshot, Refusal> {
        let (answer, snapshot) = oneshot::channel();
        self.inbox.send(Command::Look { detail, answer }).map_err(|_| Refusal::stopping())?;
        snapshot.await.map_err(|_| Refusal::stopping())
    }
}

/// `host` or `host:port` values of Host and Origin that are ours.
pub(crate) fn our_hosts(address: SocketAddr, hosts: &[String]) -> Vec<String> {
    let port = address.port();
    let names = ["localhost".into(), "127.0.0.1".into(), "[::1]".into(), bracketed(address)];
    let mut ours: Vec<String> = names.iter().map(|name| format!("{name}:{port}")).collect();
    for host in hosts {
        ours.push(host.clone());
        ours.push(format!("{host}:{port}"));
    }
    ours
}

fn bracketed(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}

/// All routes.
pub(crate) fn routes(house: Arc<House>) -> Router {
    let body_max = house.body_max;
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .route("/v1/services", get(services))
        .route("/v1/services/{name}", post(call))
        .route("/v1/workers", get(workers))
        .merge(meet::routes())
        .route("/v1/drain", post(drain))
        .route("/v1/reload", post(reload))
        .merge(tasks::routes())
        .fallback(|uri: Uri| async move {
            Refusal::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {}", uri.path()))
        })
        .layer(DefaultBodyLimit::max(body_max))
        .layer(middleware::from_fn_with_state(house.clone(), guard))
        .with_state(house)
}

/// Who may do what, before any handler runs.
async fn guard(State(house): State<Arc<House>>, mut request: Request, next: Next) -> Response {
    let open = ["/healthz", "/readyz"].contains(&request.uri().path());
    if let Some(who) = house.who(request.headers()) {
        request.extensions_mut().insert(who);
    } else if !open {
        let message = "this broker wants a token: send the header Authorization: Bearer TOKEN";
        let mut response =
            Refusal::new(StatusCode::UNAUTHORIZED, "denied", message).into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    if let Err(what) = is_ours(&house.hosts, request.headers(), request.uri())
        && !(reads && open)
    {
        let message = format!("{what} is not ours; add it to http.hosts if it should be");
        return Refusal::new(StatusCode::FORBIDDEN, "denied", message).into_response();
    }
    next.run(request).await
}

fn bears(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
    // Looks at every octet whatever the first ones are, so that time tells nothing.
    let differing = given.iter().zip(token.bytes()).fold(0, |d, (a, b)| d | (a ^ b));
    given.len() == token.len() && differing == 0
}

/// Whether a request is meant for us, and comes from nobody else's page.
pub(crate) fn is_ours(hosts: &[String], headers: &HeaderMap, uri: &Uri) -> Result<(), String> {
    let known = |name: &str| hosts.iter().any(|host| host.eq_ignore_ascii_case(name));
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| uri.authority().map(|authority| authority.as_str()));
    match host {
        Some(host) if known(host) => {}
        Some(host) => return Err(format!("Host {host:?}")),
        None => return Err("a request without Host".into()),
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let name = origin.split_once("://").map_or("", |(_, name)| name);
        if !known(name) {
            return Err(format!("Origin {origin:?}"));
        }
    }
    Ok(())
}

/// A refusal as JSON: `{"reason": …, "message": …}`.
struct Refusal {
    status: StatusCode,
    reason: &'static str,
    message: String,
    retry_after: Option<u32>,
}

impl Refusal {
    fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, reason, message: message.into(), retry_after: None }
    }

    fn stopping() -> Refusal {
        let message = "the broker is stopping";
        Refusal {
            retry_after: Some(5),
            ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "draining", message)
        }
    }

    fn shed(reason: Reason) -> Refusal {
        let (status, message, retry_after) = match reason {
            Reason::NoWorkers => {
                (StatusCode::NOT_FOUND, "no worker serves this name at the moment", None)
            }
            Reason::QueueFull => {
                (StatusCode::SERVICE_UNAVAILABLE, "the service's line is full", Some(1))
            }
            Reason::Expired => (
                StatusCode::SERVICE_UNAVAILABLE,
                "it waited as long as the service allows",
                Some(1),
            ),
            Reason::Overload => {
                (StatusCode::SERVICE_UNAVAILABLE, "the service is overloaded", Some(1))
            }
            Reason::Draining => {
                (StatusCode::SERVICE_UNAVAILABLE, "the broker is stopping", Some(5))
            }
            Reason::Denied => (StatusCode::FORBIDDEN, "this is not allowed", None),
            Reason::WorkersFailed => {
                (StatusCode::SERVICE_UNAVAILABLE, "every worker that tried was lost", Some(1))
            }
        };
        Refusal { retry_after, ..Refusal::new(status, reason.as_str(), message) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(json!({ "reason": self.reason, "message": self.message }));
        let mut response = (self.status, body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

async fn readyz(State(house): State<Arc<House>>) -> Result<&'static str, Refusal> {
    match house.look(Detail::Totals).await?.draining {
        false => Ok("ok\n"),
        true => Err(Refusal::stopping()),
    }
}

async fn scrape(State(house): State<Arc<House>>) -> Result<Response, Refusal> {
    let snapshot = house.look(Detail::Scrape(metrics::SERVICES_MAX)).await?;
    let tasks = match &house.desk {
        // A store that cannot be asked must not hide the rest.
        Ok(desk) => metrics::Tasks::look(desk).await.ok(),
        Err(_) => None,
    };
    let text = metrics::encode(snapshot, tasks).map_err(|error| {
        let message = format!("cannot write the metrics: {error}");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    })?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

#[derive(Deserialize)]
struct ListOptions {
    limit: Option<usize>,
}

async fn services(
    State(house): State<Arc<House>>,
    Query(options): Query<ListOptions>,
) -> Result<Json<Services>, Refusal> {
    let limit = options.limit.unwrap_or(LISTED);
    let snapshot = house.look(Detail::Services(limit)).await?;
    Ok(Json(Services { services: snapshot.services, total: snapshot.services_len }))
}

async fn workers(State(house): State<Arc<House>>) -> Result<Json<Workers>, Refusal> {
    let snapshot = house.look(Detail::Workers).await?;
    Ok(Json(Workers { workers: snapshot.workers }))
}

async fn drain(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
) -> Result<StatusCode, Refusal> {
    house.check_may(who).await?;
    house.inbox.send(Command::Drain).map_err(|_| Refusal::stopping())?;
    Ok(StatusCode::ACCEPTED)
}

async fn reload(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
) -> Result<Response, Refusal> {
    house.check_may(who).await?;
    let rules = (house.reload)()
        .map_err(|message| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", message))?;
    let (done, applied) = oneshot::channel();
    let config = Box::new(rules.shard);
    let tls = rules.tls;
    house.inbox.send(Command::Reload { config, tls, done }).map_err(|_| Refusal::stopping())?;
    applied.await.map_err(|_| Refusal::stopping())?;
    Ok(Json(json!({ "applied": true, "needs_restart": rules.needs_restart })).into_response())
}

#[derive(Deserialize)]
struct CallOptions {
    timeout: Option<String>,
}

/// `POST /v1/services/{name}`: one frame in, the frames of the reply out, one after the other.
async fn call(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    Query(options): Query<CallOptions>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let timeout = match options.timeout.as_deref().map(str::parse::<Lasting>) {
        None => DEFAULT_TIMEOUT,
        Some(Ok(Lasting(span))) => span.into(),
        Some(Err(message)) => {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_request", message));
        }
    };
    let mut frames = Vec::with_capacity(body.len() + 9);
    zmtp::put_frame(&mut frames, false, &body);
    let fair_key = headers.get(FAIR_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    let fair_key = Bytes::copy_from_slice(fair_key);
    let call = house.calls.call(who, Bytes::from(name), frames.into(), fair_key);
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(Outcome::Reply(frames))) => Ok(reply(&frames)),
        Ok(Ok(Outcome::Refused(reason))) => Err(Refusal::shed(reason)),
        Ok(Err(_)) => Err(Refusal::stopping()),
        Err(_) => {
            let message = "no answer in time; the request was withdrawn";
            Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message))
        }
    }
}

fn reply(frames: &[u8]) -> Response {
    let mut body = Vec::with_capacity(frames.len());
    let mut lengths = Vec::new();
    for (_, frame) in zmtp::raw_frames(frames) {
        body.extend_from_slice(frame);
        lengths.push(frame.len().to_string());
    }
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    if lengths.len() > 1
        && let Ok(lengths) = HeaderValue::from_str(&lengths.join(","))
    {
        headers.insert("maitred-frames", lengths);
    }
    response
}
