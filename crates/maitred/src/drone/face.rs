//! What is to be seen of a drone over HTTP, and steered.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use ::drone::core::WorkerState;
use ::drone::{Control, Status};
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde_json::json;

use crate::http::{is_ours, our_hosts};

/// The drones of this process.
#[derive(serde::Deserialize, serde::Serialize)]
pub(super) struct Drones {
    pub(super) drones: Vec<Status>,
}

struct House {
    control: Control,
    hosts: Vec<String>,
}

/// Serves until the runtime ends.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    address: SocketAddr,
    hosts: Vec<String>,
    control: Control,
) {
    let house = Arc::new(House { control, hosts: our_hosts(address, &hosts) });
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .route("/v1/drones", get(status))
        .route("/v1/drones/types/{task_type}/pause", post(pause))
        .route("/v1/drones/types/{task_type}/resume", post(resume))
        .route("/v1/drones/types/{task_type}/scale", post(scale))
        .layer(middleware::from_fn_with_state(house.clone(), guard))
        .with_state(house);
    let served = async {
        listener.set_nonblocking(true)?;
        axum::serve(tokio::net::TcpListener::from_std(listener)?, routes).await
    };
    if let Err(error) = served.await {
        tracing::error!(%error, "HTTP ended");
    }
}

async fn guard(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    match is_ours(&house.hosts, request.headers(), request.uri()) {
        Ok(()) => next.run(request).await,
        Err(what) => {
            let message = format!("{what} is not ours; add it to http_hosts if it should be");
            refuse(StatusCode::FORBIDDEN, "denied", &message)
        }
    }
}

fn refuse(status: StatusCode, reason: &str, message: &str) -> Response {
    (status, Json(json!({ "reason": reason, "message": message }))).into_response()
}

fn ended() -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "draining", "the drone has ended")
}

async fn status(State(house): State<Arc<House>>) -> Response {
    match house.control.status().await {
        Some(status) => Json(Drones { drones: vec![status] }).into_response(),
        None => ended(),
    }
}

async fn pause(State(house): State<Arc<House>>, Path(task_type): Path<String>) -> Response {
    set_paused(&house, &task_type, true).await
}

async fn resume(State(house): State<Arc<House>>, Path(task_type): Path<String>) -> Response {
    set_paused(&house, &task_type, false).await
}

async fn set_paused(house: &House, task_type: &str, paused: bool) -> Response {
    if house.control.pause(task_type, paused).await {
        return Json(json!({ "type": task_type, "paused": paused })).into_response();
    }
    let message = format!("this drone has no task type {task_type:?}");
    refuse(StatusCode::NOT_FOUND, "unknown_type", &message)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    min: usize,
    max: usize,
}

async fn scale(
    State(house): State<Arc<House>>,
    Path(task_type): Path<String>,
    body: axum::body::Bytes,
) -> Response {
    let range: Range = match serde_json::from_slice(&body) {
        Ok(range) => range,
        Err(error) => {
            let message = format!("expected {{\"min\": N, \"max\": N}}: {error}");
            return refuse(StatusCode::BAD_REQUEST, "invalid", &message);
        }
    };
    match house.control.scale(&task_type, range.min, range.max).await {
        Ok(()) => {
            Json(json!({ "type": task_type, "min": range.min, "max": range.max })).into_response()
        }
        Err(message) => refuse(StatusCode::BAD_REQUEST, "invalid", &message),
    }
}

async fn metrics(State(house): State<Arc<House>>) -> Response {
    let Some(status) = house.control.status().await else { return ended() };
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], exposition(&status)).into_response()
}

/// Names of counters, what they count, and where it stands.
type Counter = (&'static str, &'static str, fn(&::drone::core::Counts) -> u64);

const COUNTERS: [Counter; 7] = [
    ("fetched", "Tasks fetched, or handed on by siblings", |counts| counts.fetched),
    ("done", "Attempts that ended well", |counts| counts.done),
    ("failed", "Attempts that failed", |counts| counts.failed),
    ("timed_out", "Attempts that took longer than their time limit", |counts| counts.timed_out),
    ("lost", "Attempts whose worker was lost", |counts| counts.lost),
    ("started", "Workers started", |counts| counts.started),
    ("voided", "Tasks that were taken away: cancelled, or their lease ended", |c| c.voided),
];

/// Names of gauges, what they tell, and what it is.
type Gauge = (&'static str, &'static str, fn(&::drone::core::PoolView) -> f64);

/// One picture as OpenMetrics text.
fn exposition(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, status);
    text
}

fn write(text: &mut String, status: &Status) -> std::fmt::Result {
    for (name, help, read) in COUNTERS {
        writeln!(text, "# HELP maitred_drone_{name} {help}.")?;
        writeln!(text, "# TYPE maitred_drone_{name} counter")?;
        for pool in &status.pools {
            let (task_type, count) = (label(&pool.task_type), read(&pool.counts));
            writeln!(text, "maitred_drone_{name}_total{{type=\"{task_type}\"}} {count}")?;
        }
    }
    writeln!(text, "# HELP maitred_drone_workers Workers by what they do.")?;
    writeln!(text, "# TYPE maitred_drone_workers gauge")?;
    let states = [
        (WorkerState::Starting, "starting"),
        (WorkerState::Idle, "idle"),
        (WorkerState::Busy, "busy"),
        (WorkerState::Stopping, "stopping"),
    ];
    for pool in &status.pools {
        for (state, name) in states {
            let count = pool.workers.iter().filter(|worker| worker.state == state).count();
            let task_type = label(&pool.task_type);
            let labels = format!("type=\"{task_type}\",state=\"{name}\"");
            writeln!(text, "maitred_drone_workers{{{labels}}} {count}")?;
        }
    }
    let gauges: [Gauge; 4] = [
        ("waiting", "Tasks in line here", |pool| pool.waiting as f64),
        ("oldest_seconds", "How long the first in line waits", |pool| pool.oldest_ms as f64 / 1e3),
        ("mean_seconds", "Mean time of an attempt", |pool| pool.mean_ms / 1e3),
        ("resting_seconds", "How long the type is given up for", |p| p.resting_ms as f64 / 1e3),
    ];
    for (name, help, read) in gauges {
        writeln!(text, "# HELP maitred_drone_{name} {help}.")?;
        writeln!(text, "# TYPE maitred_drone_{name} gauge")?;
        for pool in &status.pools {
            let (task_type, value) = (label(&pool.task_type), read(pool));
            writeln!(text, "maitred_drone_{name}{{type=\"{task_type}\"}} {value}")?;
        }
    }
    let outcomes = status.outcomes;
    writeln!(text, "# HELP maitred_drone_outcomes Outcomes that are not handed in yet.")?;
    writeln!(text, "# TYPE maitred_drone_outcomes gauge")?;
    writeln!(text, "maitred_drone_outcomes {outcomes}")?;
    writeln!(text, "# HELP maitred_drone_trouble Whether the global queue does not answer.")?;
    writeln!(text, "# TYPE maitred_drone_trouble gauge")?;
    writeln!(text, "maitred_drone_trouble {}", u8::from(status.trouble.is_some()))?;
    writeln!(text, "# EOF")
}

fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
