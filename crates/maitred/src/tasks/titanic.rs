//! Titanic (RFC 9): requests that outlive their client, the broker and the workers.
//!
//! A request is a task of its service's own type, stored before it is answered. The broker itself
//! carries it to the service (module `runner`) and keeps the reply until the client closes it.
//!
//! A request's name is its task's number and a random number that is stored with it, 16 hexadecimal
//! digits each: it is looked up by the first and believed by the second, so nobody can guess the
//! name of another's, and no name is ever a path.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use engine::Rights;
use store::{Answer, Command, Filter, NewTask, Policy, Query, State, TaskId, TaskView};

use super::desk::Desk;
use super::words::Denial;

/// Task types of Titanic's requests begin so; the service follows.
const PREFIX: &str = "maitred.titanic.";
/// Octets of a service's name that leave room for the prefix.
const SERVICE_MAX: usize = store::limits::NAME - PREFIX.len();
/// The attribute that holds the random half of a request's name.
pub(super) const SECRET: &str = "secret";

/// What Titanic answers first.
pub(super) const OK: &str = "200";
const PENDING: &str = "300";
const UNKNOWN: &str = "400";
const INTERNAL: &str = "500";

/// The service whose requests are tasks of this type.
pub(super) fn service_of(task_type: &str) -> Option<&str> {
    task_type.strip_prefix(PREFIX)
}

/// The type of the tasks that are requests to this service.
pub(super) fn type_of(service: &str) -> String {
    format!("{PREFIX}{service}")
}

/// The name of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Uuid {
    id: TaskId,
    secret: u64,
}

impl Uuid {
    pub(super) fn new(id: TaskId, secret: u64) -> Uuid {
        Uuid { id, secret }
    }

    pub(super) fn text(self) -> String {
        format!("{:016x}{:016x}", self.id.0, self.secret)
    }

    fn read(text: &[u8]) -> Option<Uuid> {
        let text = std::str::from_utf8(text).ok()?;
        let whole = text.len() == 32 && text.bytes().all(|octet| octet.is_ascii_hexdigit());
        let (id, secret) = whole.then(|| text.split_at(16))?;
        let number = |half: &str| u64::from_str_radix(half, 16).ok();
        Some(Uuid { id: TaskId(number(id)?), secret: number(secret)? })
    }

    fn is_of(self, view: &TaskView) -> bool {
        let secret = format!("{:016x}", self.secret);
        service_of(&view.task_type).is_some()
            && view.attributes.iter().any(|(name, value)| name == SECRET && *value == secret)
    }
}

/// Random, so that it cannot be guessed.
///
/// # Errors
/// If the system has no randomness.
pub(super) fn secret() -> Result<u64, Denial> {
    getrandom::u64().map_err(|error| Denial::new(INTERNAL, format!("no randomness: {error}")))
}

/// The task of a `titanic.request` whose body is `frames`: the service, then the request.
///
/// # Errors
/// A status and why.
pub(super) fn request(
    frames: &[&[u8]],
    secret: u64,
    keep_ms: u64,
    rights: &Rights,
) -> Result<NewTask, Denial> {
    let refuse = |why: &str| Err(Denial::new(UNKNOWN, why));
    let [service, body @ ..] = frames else {
        return refuse("expected the service and the request, one frame each or more");
    };
    let Ok(name) = std::str::from_utf8(service) else {
        return refuse("the service's name is not UTF-8");
    };
    if name.is_empty() || name.len() > SERVICE_MAX || name.chars().any(char::is_control) {
        return refuse("the service's name is empty, too long, or has control characters");
    }
    if sessions::is_reserved(service) || name.starts_with("titanic.") {
        return refuse("that service is the broker's own");
    }
    if !rights.call.hold(service) {
        return refuse("this is not allowed: calling that service");
    }
    let mut payload = Vec::with_capacity(body.iter().map(|frame| frame.len() + 9).sum());
    for (i, frame) in body.iter().enumerate() {
        zmtp::put_frame(&mut payload, i + 1 < body.len(), frame);
    }
    if body.is_empty() {
        zmtp::put_frame(&mut payload, false, b"");
    }
    Ok(NewTask {
        policy: Policy { retention_ms: keep_ms, ..Policy::default() },
        attributes: vec![(SECRET.into(), format!("{secret:016x}"))],
        ..NewTask::new(type_of(name), payload)
    })
}

/// An answer: the frames of its body as they stand on the wire.
pub(super) fn answer(status: &str, rest: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::new();
    zmtp::put_frame(&mut body, !rest.is_empty(), status.as_bytes());
    for (i, frame) in rest.iter().enumerate() {
        zmtp::put_frame(&mut body, i + 1 < rest.len(), frame);
    }
    body
}

/// The bare status, because old clients compare the whole frame; why stands in a second one.
pub(super) fn failure(denial: &Denial) -> Vec<u8> {
    let status = match denial.reason {
        UNKNOWN | "invalid" | "denied" => UNKNOWN,
        _ => INTERNAL,
    };
    answer(status, &[denial.message.as_bytes()])
}

fn unknown() -> Vec<u8> {
    answer(UNKNOWN, &[b"no such request"])
}

/// Requests that somebody is closing, so that a second goodbye cannot meet another request.
#[derive(Default)]
pub(super) struct Closing(Mutex<HashSet<TaskId>>);

/// The answer of `titanic.reply`.
pub(super) async fn reply(desk: &Arc<Desk>, name: &[u8]) -> Vec<u8> {
    let view = match find(desk, name).await {
        Ok(Some((_, view))) => view,
        Ok(None) => return unknown(),
        Err(denial) => return failure(&denial),
    };
    match view.state {
        State::Done => {
            let mut body = Vec::new();
            let result = view.result.unwrap_or_default();
            zmtp::put_frame(&mut body, !result.is_empty(), OK.as_bytes());
            body.extend_from_slice(&result);
            body
        }
        State::Dead => {
            let error = view.last_error.unwrap_or_default();
            let why = format!("after {} attempts: {error}", view.attempt);
            answer(INTERNAL, &[why.as_bytes()])
        }
        State::Cancelled => unknown(),
        State::Ready | State::Scheduled | State::Blocked | State::Leased => answer(PENDING, &[]),
    }
}

/// The answer of `titanic.close`; 200 also for what is not there.
pub(super) async fn close(desk: &Arc<Desk>, name: &[u8]) -> Vec<u8> {
    let (uuid, view) = match find(desk, name).await {
        Ok(Some(found)) => found,
        Ok(None) => return answer(OK, &[]),
        Err(denial) => return failure(&denial),
    };
    let closing = || desk.closing.0.lock().unwrap_or_else(PoisonError::into_inner);
    if !closing().insert(uuid.id) {
        return answer(OK, &[]);
    }
    let closed = forget(desk, uuid, view).await;
    closing().remove(&uuid.id);
    match closed {
        Ok(()) => answer(OK, &[]),
        Err(denial) => failure(&denial),
    }
}

async fn forget(desk: &Arc<Desk>, uuid: Uuid, view: TaskView) -> Result<(), Denial> {
    if !view.state.is_terminal() {
        desk.command(Command::Cancel(vec![uuid.id])).await??;
    }
    // Whoever closed it at the same time is through: the number must still be this request's, or
    // the filter would find the next one.
    if find(desk, uuid.text().as_bytes()).await?.is_none() {
        return Ok(());
    }
    let filter = Filter {
        task_type: Some(view.task_type),
        after: Some(TaskId(uuid.id.0 - 1)),
        limit: 1,
        ..Filter::default()
    };
    match desk.command(Command::ForgetWhere(filter)).await {
        // It goes when its time is over; whoever closed it knows the name and nobody else.
        Err(store::Error::Unsupported(_)) => Ok(()),
        other => Ok(other?.map(drop)?),
    }
}

async fn find(desk: &Arc<Desk>, name: &[u8]) -> Result<Option<(Uuid, TaskView)>, Denial> {
    let Some(uuid) = Uuid::read(name) else { return Ok(None) };
    let Answer::Task(Some(view)) = desk.query(Query::Task(uuid.id)).await? else {
        return Ok(None);
    };
    Ok(uuid.is_of(&view).then_some((uuid, *view)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hexadecimal_and_nothing_else() {
        let uuid = Uuid::new(TaskId(0xabc), 7);
        assert_eq!(uuid.text(), "0000000000000abc0000000000000007");
        assert_eq!(Uuid::read(uuid.text().as_bytes()), Some(uuid));
        assert_eq!(Uuid::read(uuid.text().to_uppercase().as_bytes()), Some(uuid));
        let dashed = b"00000000-0000-0abc-0000-000000000007";
        for bad in [&b""[..], b"../victim", b"+000000000000abc0000000000000007", dashed] {
            assert_eq!(Uuid::read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn requests_that_make_no_task_say_why() {
        let long = [b'x'; SERVICE_MAX + 1];
        let none = Rights::none();
        let cases: [(&[&[u8]], &Rights, &str); 6] = [
            (&[], &none, "expected the service"),
            (&[b""], &none, "empty"),
            (&[&long, b"x"], &none, "too long"),
            (&[b"\xff", b"x"], &none, "not UTF-8"),
            (&[b"mmi.service", b"x"], &none, "the broker's own"),
            (&[b"echo", b"x"], &none, "not allowed"),
        ];
        for (frames, rights, expected) in cases {
            let denial = request(frames, 1, 60_000, rights).expect_err("no task");
            assert!(denial.message.contains(expected), "{}", denial.message);
            assert!(failure(&denial)[2..].starts_with(b"400"));
        }
        let task = request(&[b"echo"], 0xa, 60_000, &Rights::all()).expect("a task");
        assert_eq!((&*task.task_type, &task.payload[..]), ("maitred.titanic.echo", &b"\0\0"[..]));
        assert_eq!(task.attributes, [("secret".to_owned(), "000000000000000a".to_owned())]);
    }
}
