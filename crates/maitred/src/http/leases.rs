//! Working tasks over HTTP: claiming, settling, holding on.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Path, Query, State};
use axum::response::Json;
use axum::routing::post;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use store::{
    Claim, Extend, Extended, Lease, Outcome, Receipt, Refusal as No, Release, Settle, Settled,
    Token,
};
use tokio::sync::oneshot;

use super::tasks::{Words, denial_json, items_of, object_of};
use super::{House, Refusal};
use crate::inbox::Who;
use crate::tasks::{Ask, Claimed, Denial, Desk, check_claim, may_serve, view, words};

pub(super) fn routes() -> Router<Arc<House>> {
    Router::new()
        .route("/v1/leases", post(claim))
        .route("/v1/leases/settle", post(settle_all))
        .route("/v1/leases/extend", post(extend_all))
        .route("/v1/leases/release", post(release_all))
        .route("/v1/leases/{token}/complete", post(complete))
        .route("/v1/leases/{token}/fail", post(fail))
        .route("/v1/leases/{token}/extend", post(extend))
        .route("/v1/leases/{token}/progress", post(progress))
        .route("/v1/leases/{token}/release", post(release))
}

/// How long past its wait a claim's answer may come from the store.
const GRACE: Duration = Duration::from_secs(10);

/// `POST /v1/leases`.
async fn claim(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let desk = house.open_desk()?;
    let (claim, wait_ms) = claim_of(object_of(&body)?)?;
    let rights = house.rights(who).await?;
    claim.types.iter().try_for_each(|task_type| may_serve(&rights, task_type))?;
    let (sender, mut answer) = oneshot::channel::<Claimed>();
    let until = desk.now().line + wait_ms;
    desk.claim(Ask { claim, until, conn: None, taker: Box::new(sender) });
    let most = Duration::from_millis(wait_ms) + GRACE;
    let leases: Vec<Lease> = match tokio::time::timeout(most, &mut answer).await {
        Ok(Ok(answer)) => answer?,
        Ok(Err(_)) => return Err(Refusal::stopping()),
        Err(_) => {
            // What arrives from here on goes back to the store.
            answer.close();
            answer.try_recv().unwrap_or_else(|_| Ok(Vec::new()))?
        }
    };
    let leases: Vec<Value> = leases.iter().map(|lease| view::lease(desk, lease)).collect();
    Ok(Json(json!({ "leases": leases })))
}

fn claim_of(object: Map<String, Value>) -> Result<(Claim, u64), Denial> {
    let mut claim = Claim { types: Vec::new(), limit: 1, lease_ms: None, worker: String::new() };
    let mut wait_ms = 0;
    for (name, value) in object {
        match (name.as_str(), value) {
            ("types", Value::Array(types)) => {
                for task_type in types {
                    let Value::String(task_type) = task_type else {
                        return Err(Denial::invalid("types: expected an array of strings"));
                    };
                    claim.types.push(task_type);
                }
            }
            ("max", value) => claim.limit = number("max", &value)? as usize,
            ("wait_ms", value) => wait_ms = number("wait_ms", &value)?,
            ("lease_ms", value) => claim.lease_ms = Some(number("lease_ms", &value)?),
            ("worker", Value::String(worker)) => claim.worker = worker,
            (name, value) => {
                let known = "a claim has types, max, wait_ms, lease_ms and worker";
                return Err(Denial::invalid(format!("{name}: {value}: {known}")));
            }
        }
    }
    check_claim(&claim, wait_ms)?;
    Ok((claim, wait_ms))
}

fn number(name: &str, value: &Value) -> Result<u64, Denial> {
    value.as_u64().ok_or_else(|| {
        Denial::invalid(format!(
            "{name}: expected a whole number that is not negative, not {value}"
        ))
    })
}

fn token_of(text: &str) -> Result<Token, Denial> {
    text.parse().map_err(|error| Denial::invalid(format!("{text:?}: {error}")))
}

/// The one setting a query may have.
fn only(words: Vec<(String, String)>, known: &[&str]) -> Result<Vec<(String, String)>, Denial> {
    match words.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        None => Ok(words),
        Some((name, _)) => {
            Err(Denial::invalid(format!("{name:?} is not known here; {}", known.join(", "))))
        }
    }
}

/// `POST /v1/leases/{token}/complete`: the body is the result.
async fn complete(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(token): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let settle = Settle { token: token_of(&token)?, outcome: Outcome::Complete(body.to_vec()) };
    settle_one(&house, who, settle).await
}

/// `POST /v1/leases/{token}/fail`: the body says why.
async fn fail(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(token): Path<String>,
    Query(words): Words,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let error = String::from_utf8_lossy(&body).into_owned();
    let (mut retry, mut retry_after_ms) = (true, None);
    for (name, value) in only(words, &["retry", "retry_after_ms"])? {
        match (name.as_str(), value.as_str()) {
            ("retry", "true") => retry = true,
            ("retry", "false") => retry = false,
            ("retry", _) => return Err(Denial::invalid("retry: expected true or false").into()),
            (name, value) => retry_after_ms = Some(words::number(name, value)?),
        }
    }
    let outcome = match retry {
        true => Outcome::Fail { error, retry_after_ms },
        false => Outcome::Reject { error },
    };
    settle_one(&house, who, Settle { token: token_of(&token)?, outcome }).await
}

async fn settle_one(house: &House, who: Who, settle: Settle) -> Result<Json<Value>, Refusal> {
    let id = settle.token.task.0;
    let answer = settle_them(house, who, vec![settle]).await?;
    let settled = first(answer)?;
    Ok(Json(view::settled(id, &settled)))
}

async fn settle_them(
    house: &House,
    who: Who,
    settles: Vec<Settle>,
) -> Result<Vec<Result<Settled, No>>, Refusal> {
    let tokens: Vec<Token> = settles.iter().map(|settle| settle.token).collect();
    let desk = held(house, who, &tokens).await?;
    let (sender, answer) = oneshot::channel();
    desk.settle(settles, move |answer| {
        // Whoever asked may be gone by now.
        let _ = sender.send(answer);
    });
    Ok(answer.await.map_err(|_| Refusal::stopping())??.value)
}

/// The desk, if whoever asks may hold these leases.
async fn held<'a>(house: &'a House, who: Who, tokens: &[Token]) -> Result<&'a Arc<Desk>, Refusal> {
    let desk = house.desk()?;
    let rights = house.rights(who).await?;
    desk.check_holder(&rights, tokens).await?;
    Ok(desk)
}

fn first<T>(answers: Vec<Result<T, No>>) -> Result<T, Refusal> {
    Ok(answers.into_iter().next().ok_or_else(Refusal::stopping)??)
}

/// `POST /v1/leases/settle`: `{"settles": […]}`, each answered on its own.
async fn settle_all(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let items = items_of(&body, "settles")?;
    let settles: Vec<Settle> = items.into_iter().map(settle_of).collect::<Result<_, _>>()?;
    let ids: Vec<u64> = settles.iter().map(|settle| settle.token.task.0).collect();
    let answers = settle_them(&house, who, settles).await?;
    let told = ids.into_iter().zip(answers).map(|(id, answer)| match answer {
        Ok(settled) => view::settled(id, &settled),
        Err(refusal) => denial_json(&refusal.into()),
    });
    Ok(Json(json!({ "settles": told.collect::<Vec<_>>() })))
}

fn settle_of(item: Value) -> Result<Settle, Denial> {
    let Value::Object(object) = item else {
        return Err(Denial::invalid("settles: expected objects"));
    };
    let token = token_in(&object)?;
    let error = || -> Result<String, Denial> {
        let bytes = words::take_bytes(&object, "error")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let outcome = match object.get("outcome").and_then(Value::as_str) {
        Some("complete") => Outcome::Complete(words::take_bytes(&object, "result")?),
        Some("fail") => {
            let after = object.get("retry_after_ms");
            let retry_after_ms = after.map(|value| number("retry_after_ms", value)).transpose()?;
            Outcome::Fail { error: error()?, retry_after_ms }
        }
        Some("reject") => Outcome::Reject { error: error()? },
        Some(_) | None => {
            return Err(Denial::invalid("outcome: expected complete, fail or reject"));
        }
    };
    let known =
        ["token", "outcome", "result", "result_base64", "error", "error_base64", "retry_after_ms"];
    check_names(&object, &known)?;
    Ok(Settle { token, outcome })
}

fn token_in(object: &Map<String, Value>) -> Result<Token, Denial> {
    let text = object.get("token").and_then(Value::as_str);
    token_of(text.ok_or_else(|| Denial::invalid("token: expected the token of a lease"))?)
}

fn check_names(object: &Map<String, Value>, known: &[&str]) -> Result<(), Denial> {
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            Err(Denial::invalid(format!("{name:?} is not known here; {}", known.join(", "))))
        }
    }
}

/// `POST /v1/leases/{token}/extend`: `lease_ms` in the query or in a JSON body.
async fn extend(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(token): Path<String>,
    Query(words): Words,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let mut extend = Extend { token: token_of(&token)?, lease_ms: None, progress: None };
    if !body.is_empty() {
        let object = object_of(&body)?;
        check_names(&object, &["lease_ms"])?;
        let lease_ms = object.get("lease_ms");
        extend.lease_ms = lease_ms.map(|value| number("lease_ms", value)).transpose()?;
    }
    for (name, value) in only(words, &["lease_ms"])? {
        extend.lease_ms = Some(words::number(&name, &value)?);
    }
    extend_one(&house, who, extend).await
}

/// `POST /v1/leases/{token}/progress`: the body is what to tell those who look. Extends, too.
async fn progress(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(token): Path<String>,
    Query(words): Words,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let progress = Some(body.to_vec());
    let mut extend = Extend { token: token_of(&token)?, lease_ms: None, progress };
    for (name, value) in only(words, &["lease_ms"])? {
        extend.lease_ms = Some(words::number(&name, &value)?);
    }
    extend_one(&house, who, extend).await
}

async fn extend_one(house: &House, who: Who, extend: Extend) -> Result<Json<Value>, Refusal> {
    let desk = held(house, who, &[extend.token]).await?;
    let extended = first(extend_them(desk, vec![extend]).await?)?;
    Ok(Json(json!({ "deadline": desk.wall_of(extended.until) })))
}

async fn extend_them(
    desk: &Arc<Desk>,
    extends: Vec<Extend>,
) -> Result<Vec<Result<Extended, No>>, Refusal> {
    let (sender, answer) = oneshot::channel();
    desk.extend(extends, move |answer| {
        // Whoever asked may be gone by now.
        let _ = sender.send(answer);
    });
    Ok(answer.await.map_err(|_| Refusal::stopping())??.value)
}

/// `POST /v1/leases/extend`: `{"extends": […]}`, each answered on its own.
async fn extend_all(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let read = |item: Value| -> Result<Extend, Denial> {
        let Value::Object(object) = item else {
            return Err(Denial::invalid("extends: expected objects"));
        };
        check_names(&object, &["token", "lease_ms", "progress", "progress_base64"])?;
        let progress = words::take_bytes(&object, "progress")?;
        let lease_ms = object.get("lease_ms");
        let lease_ms = lease_ms.map(|value| number("lease_ms", value)).transpose()?;
        let progress = (!progress.is_empty()).then_some(progress);
        Ok(Extend { token: token_in(&object)?, lease_ms, progress })
    };
    let items = items_of(&body, "extends")?;
    let extends: Vec<Extend> = items.into_iter().map(read).collect::<Result<_, _>>()?;
    let tokens: Vec<Token> = extends.iter().map(|extend| extend.token).collect();
    let desk = held(&house, who, &tokens).await?;
    let told = extend_them(desk, extends).await?.into_iter().map(|answer| match answer {
        Ok(extended) => json!({ "deadline": desk.wall_of(extended.until) }),
        Err(refusal) => denial_json(&refusal.into()),
    });
    Ok(Json(json!({ "extends": told.collect::<Vec<_>>() })))
}

/// `POST /v1/leases/{token}/release`: gives a task back unworked.
async fn release(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    Path(token): Path<String>,
    Query(words): Words,
) -> Result<Json<Value>, Refusal> {
    let mut release = Release { token: token_of(&token)?, after_ms: 0 };
    for (name, value) in only(words, &["after_ms"])? {
        release.after_ms = words::number(&name, &value)?;
    }
    let desk = held(&house, who, &[release.token]).await?;
    first(desk.release(vec![release]).await?.value)?;
    Ok(Json(json!({ "id": release.token.task.0 })))
}

/// `POST /v1/leases/release`: `{"releases": […]}`, each answered on its own.
async fn release_all(
    State(house): State<Arc<House>>,
    Extension(who): Extension<Who>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let read = |item: Value| -> Result<Release, Denial> {
        let Value::Object(object) = item else {
            return Err(Denial::invalid("releases: expected objects"));
        };
        check_names(&object, &["token", "after_ms"])?;
        let after_ms = object.get("after_ms").map(|value| number("after_ms", value)).transpose()?;
        Ok(Release { token: token_in(&object)?, after_ms: after_ms.unwrap_or(0) })
    };
    let items = items_of(&body, "releases")?;
    let releases: Vec<Release> = items.into_iter().map(read).collect::<Result<_, _>>()?;
    let tokens: Vec<Token> = releases.iter().map(|release| release.token).collect();
    let desk = held(&house, who, &tokens).await?;
    let Receipt { value, .. } = desk.release(releases).await?;
    let told = tokens.into_iter().zip(value).map(|(token, answer)| match answer {
        Ok(()) => json!({ "id": token.task.0 }),
        Err(refusal) => denial_json(&refusal.into()),
    });
    Ok(Json(json!({ "releases": told.collect::<Vec<_>>() })))
}
