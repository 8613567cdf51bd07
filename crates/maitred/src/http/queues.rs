//! Queues, schedules and the store itself over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{get, post, put};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use store::cron::Schedule;
use store::{Answer, Command, Level, NewTask, Query as Ask};

use super::tasks::object_of;
use super::{House, Refusal};
use crate::inbox::Who;
use crate::tasks::{Denial, view, words};

pub(super) fn routes() -> Router<Arc<House>> {
    Router::new()
        .route("/v1/queues", get(queues))
        .route("/v1/queues/{name}/pause", post(pause))
        .route("/v1/queues/{name}/resume", post(resume))
        .route("/v1/schedules", get(schedules))
        .route("/v1/schedules/{name}", put(schedule).delete(unschedule))
        .route("/v1/store", get(look_at_store))
}

/// `GET /v1/queues`.
async fn queues(State(house): State<Arc<House>>) -> Result<Json<Value>, Refusal> {
    let Answer::Queues(queues) = house.desk()?.query(Ask::Queues).await? else {
        return Err(Refusal::stopping());
    };
    Ok(Json(json!({ "queues": queues.iter().map(view::queue).collect::<Vec<_>>() })))
}

async fn pause(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    set_paused(&house, who, name, true).await
}

async fn resume(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    set_paused(&house, who, name, false).await
}

async fn set_paused(
    house: &House,
    who: Who,
    name: String,
    paused: bool,
) -> Result<Json<Value>, Refusal> {
    let desk = house.desk()?;
    house.check_may(who).await?;
    let command = if paused { Command::Pause } else { Command::Resume };
    let changed = desk.command(command(name.clone())).await??;
    Ok(Json(json!({ "type": name, "paused": paused, "changed": changed > 0 })))
}

/// `GET /v1/schedules`.
async fn schedules(State(house): State<Arc<House>>) -> Result<Json<Value>, Refusal> {
    let Answer::Schedules(schedules) = house.desk()?.query(Ask::Schedules).await? else {
        return Err(Refusal::stopping());
    };
    let schedules: Vec<Value> = schedules.iter().map(view::schedule).collect();
    Ok(Json(json!({ "schedules": schedules })))
}

/// `PUT /v1/schedules/{name}`.
async fn schedule(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let desk = house.desk()?;
    house.check_may(who).await?;
    let schedule = schedule_of(name.clone(), object_of(&body)?)?;
    desk.command(Command::Schedule(Box::new(schedule))).await??;
    let Answer::Schedules(schedules) = desk.query(Ask::Schedules).await? else {
        return Err(Refusal::stopping());
    };
    let made = schedules.iter().find(|one| one.schedule.name == name);
    made.map(|made| Json(view::schedule(made))).ok_or_else(Refusal::stopping)
}

fn schedule_of(name: String, object: Map<String, Value>) -> Result<Schedule, Denial> {
    let mut schedule = Schedule {
        name,
        cron: String::new(),
        zone: "UTC".into(),
        task: NewTask::default(),
        catch_up: store::cron::CatchUp::default(),
    };
    for (name, value) in object {
        match (name.as_str(), value) {
            ("cron", Value::String(text)) => schedule.cron = text,
            ("zone", Value::String(text)) => schedule.zone = text,
            ("task", task) => schedule.task = words::task_from_json(&task)?,
            ("catch_up", rule) => {
                schedule.catch_up = serde_json::from_value(rule).map_err(|_| {
                    Denial::invalid("catch_up: expected \"skip\", \"once\" or {\"all\": N}")
                })?;
            }
            (name, value) => {
                let known = "a schedule has cron, zone, catch_up and task";
                return Err(Denial::invalid(format!("{name}: {value}: {known}")));
            }
        }
    }
    if schedule.task.task_type.is_empty() {
        return Err(Denial::invalid("task: what is to be enqueued is missing"));
    }
    Ok(schedule)
}

/// `DELETE /v1/schedules/{name}`.
async fn unschedule(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    let desk = house.desk()?;
    house.check_may(who).await?;
    match desk.command(Command::Unschedule(name.clone())).await?? {
        0 => Err(Denial::new("not_found", format!("there is no schedule {name:?}")).into()),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

/// `GET /v1/store`: which engine, and what it promises.
async fn look_at_store(State(house): State<Arc<House>>) -> Result<Json<Value>, Refusal> {
    let desk = house.desk()?;
    let capabilities = desk.store().capabilities();
    let warning = (capabilities.level < Level::Durable)
        .then_some("what is answered does not survive a loss of power");
    Ok(Json(json!({
        "capabilities": capabilities,
        "waiting_claims": desk.waiting(),
        "warning": warning,
    })))
}
