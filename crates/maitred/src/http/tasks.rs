//! Tasks over HTTP: enqueueing, looking, steering.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use engine::Rights;
use serde_json::{Map, Value, json};
use store::{
    Answer, Command, Enqueued, Filter, Met, NewTask, Query as Ask, Receipt, Refusal as No,
    State as TaskState, TaskId, limits,
};
use tokio::sync::oneshot;

use super::{House, Refusal, leases, queues};
use crate::config::Lasting;
use crate::inbox::{self, Who};
use crate::tasks::view::{self, state_name};
use crate::tasks::{Denial, Desk, Ended, level_name, may_enqueue, words};

/// What a query says, in the order it says it.
pub(super) type Words = Query<Vec<(String, String)>>;

/// How long a caller may wait for a result.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// How often a task is looked at whose end may come without a word.
const LOOK: Duration = Duration::from_secs(1);
/// Tasks that one order by filter changes unless said.
const ORDERED: usize = 1_000;

pub(super) fn routes() -> Router<Arc<House>> {
    Router::new()
        .route("/openapi.json", get(openapi))
        .route("/v1/tasks", get(list).post(enqueue_all).delete(cancel_where))
        .route("/v1/tasks/{name}", get(show).post(enqueue).delete(cancel))
        .route("/v1/tasks/{name}/retry", post(retry))
        .route("/v1/tasks/{name}/why", get(why))
        .route("/v1/dead-letters", get(list_dead).delete(forget_dead))
        .route("/v1/dead-letters/requeue", post(requeue_dead))
        .merge(leases::routes())
        .merge(queues::routes())
}

impl House {
    pub(super) fn desk(&self) -> Result<&Arc<Desk>, Refusal> {
        self.desk
            .as_ref()
            .map_err(|why| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_store", why.as_str()))
    }

    /// The desk, as long as the broker takes new work.
    pub(super) fn open_desk(&self) -> Result<&Arc<Desk>, Refusal> {
        let desk = self.desk()?;
        if desk.is_draining() { Err(Refusal::stopping()) } else { Ok(desk) }
    }

    pub(super) async fn rights(&self, who: Who) -> Result<Rights, Refusal> {
        self.rights_for(who, 0).await
    }

    /// What somebody may do, if so many bytes are within the quota.
    async fn rights_for(&self, who: Who, bytes: usize) -> Result<Rights, Refusal> {
        let (answer, rights) = oneshot::channel();
        let ask = inbox::Command::Rights { who, bytes: bytes as u64, answer };
        self.inbox.send(ask).map_err(|_| Refusal::stopping())?;
        let rights = rights.await.map_err(|_| Refusal::stopping())?;
        rights.ok_or_else(|| Denial::new("overload", "beyond the quota; try again later").into())
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Refusal {
        let Denial { reason, message } = denial;
        let (status, retry_after) = match reason {
            "bad_request" => (StatusCode::BAD_REQUEST, None),
            "denied" => (StatusCode::FORBIDDEN, None),
            "unknown_task" | "not_found" => (StatusCode::NOT_FOUND, None),
            "stale_lease" | "conflict" | "ended" => (StatusCode::CONFLICT, None),
            "cancelled" | "damaged" => (StatusCode::GONE, None),
            "invalid" => (StatusCode::UNPROCESSABLE_ENTITY, None),
            "unsupported" => (StatusCode::NOT_IMPLEMENTED, None),
            "no_space" => (StatusCode::INSUFFICIENT_STORAGE, Some(60)),
            "busy" | "unavailable" | "overload" => (StatusCode::SERVICE_UNAVAILABLE, Some(1)),
            _ => (StatusCode::SERVICE_UNAVAILABLE, None),
        };
        Refusal { retry_after, ..Refusal::new(status, reason, message) }
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Refusal {
        Denial::from(error).into()
    }
}

impl From<No> for Refusal {
    fn from(refusal: No) -> Refusal {
        Denial::from(refusal).into()
    }
}

async fn openapi() -> Response {
    let document = include_str!("../../../../docs/openapi.json");
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

/// A JSON object in a body.
pub(super) fn object_of(body: &[u8]) -> Result<Map<String, Value>, Denial> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Denial::invalid("the body must be a JSON object")),
        Err(error) => {
            Err(Denial::new("bad_request", format!("the body is not the JSON expected: {error}")))
        }
    }
}

/// Takes an array of objects out of a body that has nothing else.
pub(super) fn items_of(body: &[u8], name: &str) -> Result<Vec<Value>, Denial> {
    let mut object = object_of(body)?;
    let Some(Value::Array(items)) = object.remove(name) else {
        return Err(Denial::invalid(format!("{name}: expected an array of objects")));
    };
    if let Some(other) = object.keys().next() {
        return Err(Denial::invalid(format!("{other:?} is not known here; only {name:?} is")));
    }
    if items.len() > limits::BATCH {
        let message = format!("{name}: at most {} in one call", limits::BATCH);
        return Err(Denial::invalid(message));
    }
    Ok(items)
}

pub(super) fn denial_json(denial: &Denial) -> Value {
    json!({ "reason": denial.reason, "message": denial.message })
}

fn id_of(text: &str) -> Result<TaskId, Denial> {
    let wrong = || Denial::invalid(format!("{text:?} is not the number of a task"));
    text.parse().map(TaskId).map_err(|_| wrong())
}

/// The task of a request, and how long to wait for its result.
fn task_of(
    task_type: String,
    words: Vec<(String, String)>,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<(NewTask, Option<Duration>), Denial> {
    let text = |name: &header::HeaderName| -> Result<Option<&str>, Denial> {
        let value = headers.get(name).map(HeaderValue::to_str).transpose();
        value.map_err(|_| Denial::invalid(format!("{name}: not plain text")))
    };
    let mut task = NewTask::new(task_type, &body[..]);
    task.content_type = text(&header::CONTENT_TYPE)?.map(str::to_owned);
    let key = header::HeaderName::from_static("idempotency-key");
    if let Some(key) = text(&key)? {
        words::set(&mut task, "unique_key", key.trim_matches('"'))?;
    }
    let mut wait = None;
    for (name, value) in words {
        if name == "wait" {
            let Lasting(span) = value.parse().map_err(Denial::invalid)?;
            wait = Some(Duration::from(span));
        } else {
            words::set(&mut task, &name, &value)?;
        }
    }
    if wait.is_some_and(|wait| wait > WAIT_MAX) {
        return Err(Denial::invalid("wait: at most 5m; look at the task after that"));
    }
    Ok((words::finish(task)?, wait))
}

/// Stops following when whoever waits leaves.
struct Following {
    desk: Arc<Desk>,
    number: u64,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.desk.unfollow(self.number);
    }
}

/// `POST /v1/tasks/{type}`.
async fn enqueue(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(task_type): Path<String>,
    Query(words): Words,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let desk = house.open_desk()?;
    let (task, wait) = task_of(task_type, words, &headers, &body)?;
    may_enqueue(&house.rights_for(who, body.len()).await?, &task)?;
    let links = task.then.len();
    let (sender, answer) = oneshot::channel();
    let (told, ended) = oneshot::channel();
    let follows = wait.is_some().then(|| desk.clone());
    desk.enqueue(vec![task], move |answer| {
        let made = answer.as_ref().ok().and_then(|receipt| receipt.value.first()?.as_ref().ok());
        let following = match (made, follows) {
            (Some(made), Some(desk)) => {
                let number = desk.follow(made.id, links, told);
                Some(Following { desk, number })
            }
            (Some(_) | None, _) => None,
        };
        // Whoever asked may be gone by now.
        let _ = sender.send((answer, following));
    });
    let (answer, following) = answer.await.map_err(|_| Refusal::stopping())?;
    let Receipt { value, level } = answer?;
    let made = value.into_iter().next().ok_or_else(Refusal::stopping)??;
    let status = status_of(desk, made).await?;
    let mut object = Map::new();
    object.insert("id".into(), made.id.0.into());
    object.insert("level".into(), level_name(level).into());
    if let (Some(wait), Some(following)) = (wait, following) {
        await_end(desk, made, wait, ended, &mut object).await?;
        drop(following);
    }
    let mut response = (status, Json(Value::Object(object))).into_response();
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/tasks/{}", made.id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// 201 for a new task, 200 for one that was there, 409 if it is another.
async fn status_of(desk: &Arc<Desk>, made: Enqueued) -> Result<StatusCode, Refusal> {
    match made.met {
        Met::Nothing => Ok(StatusCode::CREATED),
        Met::Same => Ok(StatusCode::OK),
        Met::Other => {
            let found = desk.query(Ask::Task(made.id)).await?;
            // One that ended let go of its payload, so nobody can tell: believe the key.
            if matches!(found, Answer::Task(Some(view)) if view.state == TaskState::Done) {
                return Ok(StatusCode::OK);
            }
            let message = format!("task {} has this unique key and another payload", made.id);
            Err(Denial::new("conflict", message).into())
        }
    }
}

/// Waits for the end of a task and says how it came, or where the task stands.
async fn await_end(
    desk: &Arc<Desk>,
    made: Enqueued,
    wait: Duration,
    mut ended: oneshot::Receiver<Ended>,
    object: &mut Map<String, Value>,
) -> Result<(), Refusal> {
    let until = tokio::time::Instant::now() + wait;
    // What ends at another broker of a shared store, or had ended before, nobody tells.
    let mut next = match made.met {
        Met::Nothing => tokio::time::Instant::now() + LOOK,
        Met::Same | Met::Other => tokio::time::Instant::now(),
    };
    let looks = desk.store().capabilities().shared;
    loop {
        let pause = if looks || made.met != Met::Nothing { next.min(until) } else { until };
        let told = tokio::time::timeout_at(pause, &mut ended).await;
        // Too many wait, or the broker ends: nobody will tell.
        let is_alone = matches!(told, Ok(Err(_)));
        if let Ok(Ok(ended)) = told {
            put_end(object, made.id, ended);
            return Ok(());
        }
        let view = desk.query(Ask::Task(made.id)).await?;
        let is_over = matches!(&view, Answer::Task(Some(view)) if view.state.is_terminal());
        if !is_over && !is_alone && tokio::time::Instant::now() < until {
            next += LOOK;
            continue;
        }
        if let Answer::Task(Some(view)) = view {
            object.insert("state".into(), state_name(view.state).into());
            if let Some(result) = &view.result {
                words::put_bytes(object, "result", result);
            }
            object.extend(view.last_error.map(|error| ("last_error".to_owned(), error.into())));
        }
        return Ok(());
    }
}

fn put_end(object: &mut Map<String, Value>, id: TaskId, ended: Ended) {
    object.insert("state".into(), state_name(ended.state).into());
    if ended.state == TaskState::Done {
        words::put_bytes(object, "result", &ended.result);
    }
    if ended.id != id {
        object.insert("last".into(), ended.id.0.into());
    }
    object.extend(ended.error.map(|error| ("last_error".to_owned(), error.into())));
}

/// `POST /v1/tasks`: `{"tasks": […]}`, each answered on its own.
async fn enqueue_all(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let desk = house.open_desk()?;
    let rights = house.rights_for(who, body.len()).await?;
    let read = |item: &Value| -> Result<NewTask, Denial> {
        let task = words::task_from_json(item)?;
        may_enqueue(&rights, &task)?;
        Ok(task)
    };
    let read: Vec<Result<NewTask, Denial>> = items_of(&body, "tasks")?.iter().map(read).collect();
    let good: Vec<NewTask> = read.iter().flatten().cloned().collect();
    let (sender, answer) = oneshot::channel();
    desk.enqueue(good, move |answer| {
        // Whoever asked may be gone by now.
        let _ = sender.send(answer);
    });
    let Receipt { value, level } = answer.await.map_err(|_| Refusal::stopping())??;
    let mut made = value.into_iter();
    let mut told = |read: Result<NewTask, Denial>| -> Result<Enqueued, Denial> {
        read?;
        Ok(made.next().ok_or_else(Denial::unanswered)??)
    };
    let items: Vec<Value> = read
        .into_iter()
        .map(|read| match told(read) {
            Ok(made) => json!({ "id": made.id.0, "met": met_name(made.met) }),
            Err(denial) => denial_json(&denial),
        })
        .collect();
    Ok(Json(json!({ "tasks": items, "level": level_name(level) })))
}

fn met_name(met: Met) -> &'static str {
    match met {
        Met::Nothing => "new",
        Met::Same => "same",
        Met::Other => "other",
    }
}

/// What a query filters by.
fn filter_of(words: Vec<(String, String)>, limit: usize) -> Result<Filter, Denial> {
    let mut filter = Filter { limit, ..Filter::default() };
    for (name, value) in words {
        let word = || Value::String(value.clone());
        match name.as_str() {
            "type" => filter.task_type = Some(value),
            "state" => {
                let state = serde_json::from_value(word());
                filter.state =
                    Some(state.map_err(|error| Denial::invalid(format!("state: {error}")))?);
            }
            "reason" => {
                let reason = serde_json::from_value(word());
                filter.reason =
                    Some(reason.map_err(|error| Denial::invalid(format!("reason: {error}")))?);
            }
            "error" => filter.error = Some(value),
            "worker" => filter.worker = Some(value),
            "after" => filter.after = Some(TaskId(words::number("after", &value)?)),
            "limit" => filter.limit = words::number("limit", &value)?,
            other => {
                let known = "type, state, reason, error, worker, after, limit";
                return Err(Denial::invalid(format!("{other:?} is no filter; there are {known}")));
            }
        }
    }
    if filter.limit == 0 || filter.limit > limits::PAGE {
        return Err(Denial::invalid(format!("limit: from 1 to {}", limits::PAGE)));
    }
    Ok(filter)
}

/// Whether somebody may see all that a filter may find.
fn may_list(rights: &Rights, filter: &Filter) -> Result<(), Denial> {
    if rights.administer || rights.enqueue.is_all() || rights.serve.is_all() {
        return Ok(());
    }
    match &filter.task_type {
        Some(task_type) => crate::tasks::check_sees(rights, task_type),
        None => Err(Denial::denied("listing tasks of every type; name one with ?type=")),
    }
}

/// Whether somebody may change all that a filter may find.
fn may_steer(rights: &Rights, filter: &Filter) -> Result<(), Denial> {
    let named = filter.task_type.as_ref();
    let own = named.is_some_and(|task_type| rights.enqueue.hold(task_type.as_bytes()));
    if rights.administer || rights.enqueue.is_all() || own {
        return Ok(());
    }
    Err(Denial::denied("steering tasks of types that you may not enqueue"))
}

/// `GET /v1/tasks`.
async fn list(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Query(words): Words,
) -> Result<Json<Value>, Refusal> {
    list_where(&house, who, filter_of(words, 100)?).await
}

async fn list_where(house: &House, who: Who, filter: Filter) -> Result<Json<Value>, Refusal> {
    let desk = house.desk()?;
    may_list(&house.rights(who).await?, &filter)?;
    let Answer::Tasks { tasks, next } = desk.query(Ask::Tasks(filter)).await? else {
        return Err(Refusal::stopping());
    };
    let tasks: Vec<Value> = tasks.iter().map(|task| view::summary(desk, task)).collect();
    Ok(Json(json!({ "tasks": tasks, "next": next.map(|id| id.0) })))
}

/// `GET /v1/tasks/{id}`.
async fn show(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let (desk, id) = (house.desk()?, id_of(&id)?);
    let rights = house.rights(who).await?;
    let task = desk.look_at(&rights, id).await?;
    Ok(Json(view::task(desk, &task)))
}

/// `GET /v1/tasks/{id}/why`.
async fn why(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let (desk, id) = (house.desk()?, id_of(&id)?);
    let rights = house.rights(who).await?;
    Ok(Json(desk.why(&rights, id).await?))
}

/// `DELETE /v1/tasks/{id}`.
async fn cancel(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let (desk, id) = (house.desk()?, id_of(&id)?);
    let rights = house.rights(who).await?;
    desk.check_owner(&rights, id).await?;
    let changed = desk.command(Command::Cancel(vec![id])).await??;
    let task = desk.look_at(&Rights::all(), id).await?;
    if changed == 0 && task.state != TaskState::Cancelled {
        let message = format!("task {id} ended already: {}", state_name(task.state));
        return Err(Denial::new("ended", message).into());
    }
    Ok(Json(view::summary(desk, &task)))
}

/// `POST /v1/tasks/{id}/retry`.
async fn retry(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let (desk, id) = (house.desk()?, id_of(&id)?);
    let rights = house.rights(who).await?;
    desk.check_owner(&rights, id).await?;
    let changed = desk.command(Command::Retry(vec![id])).await??;
    let task = desk.look_at(&Rights::all(), id).await?;
    if changed == 0 {
        let state = state_name(task.state);
        let message = format!(
            "task {id} is {state}: only dead and cancelled tasks, whose payload \
                               is whole, can be tried again"
        );
        return Err(Denial::new("conflict", message).into());
    }
    Ok(Json(view::summary(desk, &task)))
}

/// `DELETE /v1/tasks`: cancels what a filter finds.
async fn cancel_where(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Query(words): Words,
) -> Result<Json<Value>, Refusal> {
    if words.iter().all(|(name, _)| ["after", "limit"].contains(&name.as_str())) {
        let message = "say which tasks to cancel: type, state, reason, error or worker";
        return Err(Denial::invalid(message).into());
    }
    let filter = filter_of(words, ORDERED)?;
    order(&house, who, filter, Command::CancelWhere).await
}

async fn list_dead(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Query(words): Words,
) -> Result<Json<Value>, Refusal> {
    list_where(&house, who, dead(words, 100)?).await
}

async fn requeue_dead(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Query(words): Words,
) -> Result<Json<Value>, Refusal> {
    order(&house, who, dead(words, ORDERED)?, Command::RetryWhere).await
}

async fn forget_dead(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Query(words): Words,
) -> Result<Json<Value>, Refusal> {
    order(&house, who, dead(words, ORDERED)?, Command::ForgetWhere).await
}

fn dead(words: Vec<(String, String)>, limit: usize) -> Result<Filter, Denial> {
    Ok(Filter { state: Some(TaskState::Dead), ..filter_of(words, limit)? })
}

async fn order(
    house: &House,
    who: Who,
    filter: Filter,
    command: fn(Filter) -> Command,
) -> Result<Json<Value>, Refusal> {
    let desk = house.desk()?;
    may_steer(&house.rights(who).await?, &filter)?;
    let limit = filter.limit as u64;
    let changed = desk.command(command(filter)).await??;
    Ok(Json(json!({ "changed": changed, "more": changed == limit })))
}
