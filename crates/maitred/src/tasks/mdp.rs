//! Tasks over Majordomo: the words of the service `maitred.tasks`, and Titanic's.
//!
//! ```text
//!   enqueue TYPE PAYLOAD [name=value …]       enqueue_all TYPE PAYLOAD …
//!   claim [type=T …] [max=N] [wait_ms=N] [lease_ms=N] [worker=NAME]
//!   complete TOKEN [RESULT]                   fail TOKEN [ERROR] [retry_after_ms=N]
//!   reject TOKEN [ERROR]                      extend TOKEN [lease_ms=N] [progress=TEXT]
//!   release TOKEN [after_ms=N]                show ID, why ID, cancel ID, retry ID
//! ```
//! One frame each. The first frame of an answer is `ok`, or a reason with a sentence behind it.
//!
//! All errands of one turn of the reactor become one call of each kind to the store, and all
//! answers to one call become one message to the reactor.

use std::sync::Arc;

use engine::{PrincipalId, Rights};
use sessions::{Errand, Sender};
use store::{
    Answer, Claim, Command, Enqueued, Extend, Met, NewTask, Outcome, Query, Refusal, Release,
    Settle, Settled, TaskId, Token, limits,
};

use super::desk::{Answers, Ask, Claimed, Desk, Taker};
use super::words::{self, Denial};
use super::{titanic, view};
use crate::inbox;

/// How long a claim may wait, in ms: a client that waits longer asks again.
pub(crate) const WAIT_MAX_MS: u64 = 300_000;

/// An answer on its way to the reactor.
pub(crate) struct Answered {
    pub(crate) to: Sender,
    /// The frames of its body as they stand on a ZMTP wire.
    pub(crate) body: Vec<u8>,
    /// Leases it tells of: given back if nobody takes it.
    pub(crate) leases: Vec<Token>,
}

/// What one turn asks of the store.
#[derive(Default)]
struct Batch {
    tasks: Vec<NewTask>,
    /// Whose tasks, how many of each, and how they are answered.
    enqueuers: Vec<(Sender, usize, Form)>,
    settles: Vec<Settle>,
    settlers: Vec<Sender>,
    answers: Vec<Answered>,
}

/// How an enqueue is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    One,
    Many,
    Titanic(u64),
}

impl Desk {
    /// Takes the errands of one turn.
    pub(crate) fn take_errands(
        self: &Arc<Self>,
        errands: Vec<Errand>,
        rights_of: impl Fn(PrincipalId) -> Option<Rights>,
    ) {
        let mut batch = Batch::default();
        let mut known: Option<(PrincipalId, Arc<Rights>)> = None;
        for errand in errands {
            let rights = match &known {
                Some((principal, rights)) if *principal == errand.principal => rights.clone(),
                Some(_) | None => {
                    let rights = rights_of(errand.principal).unwrap_or_else(Rights::none);
                    let rights = Arc::new(rights);
                    known = Some((errand.principal, rights.clone()));
                    rights
                }
            };
            self.take_errand(errand, &rights, &mut batch);
            if batch.tasks.len() >= limits::BATCH || batch.settles.len() >= limits::BATCH {
                self.send_batch(std::mem::take(&mut batch));
            }
        }
        self.send_batch(batch);
    }

    fn take_errand(self: &Arc<Self>, errand: Errand, rights: &Arc<Rights>, batch: &mut Batch) {
        let Errand { from, principal: _, body } = errand;
        let frames: Vec<&[u8]> = zmtp::raw_frames(&body).map(|(_, frame)| frame).collect();
        if &from.service[..] != sessions::TASKS {
            return self.take_titanic(from, &frames, rights, batch);
        }
        let taken = match read(&frames) {
            Ok(word) => self.take_word(&from, word, rights, batch),
            Err(denial) => Err(denial),
        };
        if let Err(denial) = taken {
            batch.answers.push(Answered::denied(from, &denial));
        }
    }

    fn take_titanic(
        self: &Arc<Self>,
        from: Sender,
        frames: &[&[u8]],
        rights: &Rights,
        batch: &mut Batch,
    ) {
        let name = frames.first().copied().unwrap_or_default().to_vec();
        match &from.service[..] {
            b"titanic.request" => {
                let keep_ms = self.runner.plan.titanic_keep_ms;
                let task = titanic::secret().and_then(|secret| {
                    Ok((secret, titanic::request(frames, secret, keep_ms, rights)?))
                });
                match task {
                    Ok(_) if self.is_draining() => {
                        let denial = Denial::new("draining", "the broker is stopping");
                        batch.answers.push(Answered::denied(from, &denial));
                    }
                    Ok((secret, task)) => {
                        batch.tasks.push(task);
                        batch.enqueuers.push((from, 1, Form::Titanic(secret)));
                    }
                    Err(denial) => {
                        batch.answers.push(Answered::new(from, titanic::failure(&denial)))
                    }
                }
            }
            b"titanic.close" => {
                let desk = self.clone();
                self.runtime().spawn(async move {
                    let body = titanic::close(&desk, &name).await;
                    desk.post(vec![Answered::new(from, body)]);
                });
            }
            _ => {
                let desk = self.clone();
                self.runtime().spawn(async move {
                    let body = titanic::reply(&desk, &name).await;
                    desk.post(vec![Answered::new(from, body)]);
                });
            }
        }
    }

    fn take_word(
        self: &Arc<Self>,
        from: &Sender,
        word: Word,
        rights: &Arc<Rights>,
        batch: &mut Batch,
    ) -> Result<(), Denial> {
        let from = from.clone();
        if self.is_draining() && matches!(word, Word::Enqueue(..) | Word::Claim(..)) {
            return Err(Denial::new("draining", "the broker is stopping"));
        }
        match word {
            Word::Enqueue(tasks, form) => {
                tasks.iter().try_for_each(|task| may_enqueue(rights, task))?;
                batch.enqueuers.push((from, tasks.len(), form));
                batch.tasks.extend(tasks);
            }
            Word::Claim(claim, wait_ms) => {
                claim.types.iter().try_for_each(|task_type| may_serve(rights, task_type))?;
                let until = self.now().line + wait_ms;
                let taker = Box::new(OverMdp { desk: self.clone(), from });
                self.claim(Ask { claim, until, taker });
            }
            Word::Settle(settle) if rights.serve.is_all() => {
                batch.settles.push(settle);
                batch.settlers.push(from);
            }
            word @ (Word::Settle(_)
            | Word::Extend(_)
            | Word::Release(_)
            | Word::Look(..)
            | Word::Order(..)) => {
                let (desk, rights) = (self.clone(), rights.clone());
                self.runtime().spawn(async move {
                    let body = match desk.do_word(word, &rights).await {
                        Ok(frames) => ok(&frames),
                        Err(denial) => deny(&denial),
                    };
                    desk.post(vec![Answered::new(from, body)]);
                });
            }
        }
        Ok(())
    }

    /// What is not worth a batch, or needs to be looked at first.
    async fn do_word(
        self: &Arc<Self>,
        word: Word,
        rights: &Rights,
    ) -> Result<Vec<Vec<u8>>, Denial> {
        match word {
            Word::Settle(settle) => {
                self.check_holder(rights, &[settle.token]).await?;
                let (sender, answer) = tokio::sync::oneshot::channel();
                self.settle(vec![settle], move |answer| {
                    // Whoever asked may be gone by now.
                    let _ = sender.send(answer);
                });
                let receipt = answer.await.map_err(|_| unanswered())??;
                settled(&first(receipt.value)?)
            }
            Word::Extend(extend) => {
                self.check_holder(rights, &[extend.token]).await?;
                let (sender, answer) = tokio::sync::oneshot::channel();
                self.extend(vec![extend], move |answer| {
                    // As above.
                    let _ = sender.send(answer);
                });
                let receipt = answer.await.map_err(|_| unanswered())??;
                let left = first(receipt.value)?.until.saturating_sub(self.now().line);
                Ok(vec![left.to_string().into()])
            }
            Word::Release(release) => {
                self.check_holder(rights, &[release.token]).await?;
                first(self.release(vec![release]).await?.value)?;
                Ok(Vec::new())
            }
            Word::Look(id, why) => {
                let shown = if why {
                    self.why(rights, id).await?
                } else {
                    view::task(self, &self.look_at(rights, id).await?)
                };
                Ok(vec![shown.to_string().into()])
            }
            Word::Order(id, command) => {
                self.check_owner(rights, id).await?;
                let changed = self.command(command).await??;
                Ok(vec![changed.to_string().into()])
            }
            Word::Enqueue(..) | Word::Claim(..) => Err(unanswered()),
        }
    }

    fn send_batch(self: &Arc<Self>, batch: Batch) {
        let Batch { tasks, enqueuers, settles, settlers, answers } = batch;
        if !tasks.is_empty() {
            let desk = self.clone();
            self.enqueue(tasks, move |answer| desk.post(tell_enqueued(enqueuers, answer)));
        }
        if !settles.is_empty() {
            let desk = self.clone();
            self.settle(settles, move |answer| desk.post(tell_settled(settlers, answer)));
        }
        self.post(answers);
    }

    /// Sends answers to the reactor.
    fn post(&self, answers: Vec<Answered>) {
        // The reactor is gone only when the broker is.
        if !answers.is_empty() {
            let _ = self.inbox().send(inbox::Command::Answers(answers));
        }
    }
}

/// A claim that came over Majordomo.
struct OverMdp {
    desk: Arc<Desk>,
    from: Sender,
}

impl Taker for OverMdp {
    fn is_gone(&self) -> bool {
        // The reactor finds out, and gives the leases back.
        false
    }

    fn take(self: Box<Self>, answer: Claimed) -> Vec<Token> {
        let OverMdp { desk, from } = *self;
        let answered = match answer {
            Err(error) => Answered::denied(from, &error.into()),
            Ok(leases) => {
                let mut frames = vec![leases.len().to_string().into_bytes()];
                let now = desk.now().line;
                for lease in &leases {
                    frames.push(lease.token.to_string().into());
                    frames.push(lease.task_type.clone().into());
                    frames.push(lease.attempt.to_string().into());
                    frames.push(lease.until.saturating_sub(now).to_string().into());
                    frames.push(lease.content_type.clone().unwrap_or_default().into());
                    frames.push(lease.payload.clone());
                }
                let leases = leases.iter().map(|lease| lease.token).collect();
                Answered { to: from, body: ok(&frames), leases }
            }
        };
        desk.post(vec![answered]);
        Vec::new()
    }
}

impl Answered {
    pub(crate) fn new(to: Sender, body: Vec<u8>) -> Answered {
        Answered { to, body, leases: Vec::new() }
    }

    /// A refusal, in the form of the service that was asked.
    pub(crate) fn denied(to: Sender, denial: &Denial) -> Answered {
        let body = if &to.service[..] == sessions::TASKS {
            deny(denial)
        } else {
            titanic::failure(denial)
        };
        Answered::new(to, body)
    }
}

fn tell_enqueued(
    enqueuers: Vec<(Sender, usize, Form)>,
    answer: Answers<Enqueued>,
) -> Vec<Answered> {
    let mut made = match answer {
        Ok(receipt) => receipt.value.into_iter(),
        Err(error) => {
            let denial = Denial::from(error);
            let denied = |(from, ..): (Sender, usize, Form)| Answered::denied(from, &denial);
            return enqueuers.into_iter().map(denied).collect();
        }
    };
    let mut answers = Vec::with_capacity(enqueuers.len());
    for (from, count, form) in enqueuers {
        let own: Vec<Result<Enqueued, Refusal>> = made.by_ref().take(count).collect();
        let own: Result<Vec<Enqueued>, Refusal> = own.into_iter().collect();
        answers.push(match own {
            Ok(own) => Answered::new(from, enqueued(&own, form)),
            Err(refusal) => Answered::denied(from, &refusal.into()),
        });
    }
    answers
}

fn enqueued(made: &[Enqueued], form: Form) -> Vec<u8> {
    let id = |made: &Enqueued| made.id.0.to_string().into_bytes();
    match (form, made) {
        (Form::Titanic(secret), [made]) => {
            let name = titanic::Uuid::new(made.id, secret).text();
            titanic::answer(titanic::OK, &[name.as_bytes()])
        }
        (Form::One, [one]) => {
            let met = match one.met {
                Met::Nothing => "new",
                Met::Same => "same",
                Met::Other => "other",
            };
            ok(&[id(one), met.into()])
        }
        (Form::One | Form::Many | Form::Titanic(_), made) => {
            ok(&made.iter().map(id).collect::<Vec<_>>())
        }
    }
}

fn tell_settled(settlers: Vec<Sender>, answer: Answers<Settled>) -> Vec<Answered> {
    let own = match answer {
        Ok(receipt) => receipt.value,
        Err(error) => {
            let denial = Denial::from(error);
            return settlers.into_iter().map(|from| Answered::denied(from, &denial)).collect();
        }
    };
    let tell = |(from, own): (Sender, Result<Settled, Refusal>)| {
        let frames = own.map_err(Denial::from).and_then(|own| settled(&own));
        match frames {
            Ok(frames) => Answered::new(from, ok(&frames)),
            Err(denial) => Answered::denied(from, &denial),
        }
    };
    settlers.into_iter().zip(own).map(tell).collect()
}

fn settled(settled: &Settled) -> Result<Vec<Vec<u8>>, Denial> {
    let mut frames = vec![view::state_name(settled.state).into()];
    frames.extend(settled.next.map(|next| next.0.to_string().into()));
    Ok(frames)
}

fn first<T>(answers: Vec<Result<T, Refusal>>) -> Result<T, Denial> {
    Ok(answers.into_iter().next().ok_or_else(unanswered)??)
}

fn unanswered() -> Denial {
    Denial::new("unavailable", "the store did not answer")
}

fn ok(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    zmtp::put_frame(&mut body, !frames.is_empty(), b"ok");
    for (i, frame) in frames.iter().enumerate() {
        zmtp::put_frame(&mut body, i + 1 < frames.len(), frame);
    }
    body
}

fn deny(denial: &Denial) -> Vec<u8> {
    let mut body = Vec::new();
    zmtp::put_frame(&mut body, true, denial.reason.as_bytes());
    zmtp::put_frame(&mut body, false, denial.message.as_bytes());
    body
}

/// Whether somebody may put a task into its queue, and send its result where it goes.
///
/// # Errors
/// Says what is not allowed.
pub(crate) fn may_enqueue(rights: &Rights, task: &NewTask) -> Result<(), Denial> {
    let then = task.then.iter().map(|step| &step.task_type);
    let back = match &task.postback {
        Some(store::Postback::Task(to)) => Some(to),
        Some(store::Postback::Service(to)) if !rights.call.hold(to.as_bytes()) => {
            return Err(Denial::denied(&format!("calling the service {to:?}")));
        }
        Some(_) | None => None,
    };
    for task_type in std::iter::once(&task.task_type).chain(then).chain(back) {
        if !rights.enqueue.hold(task_type.as_bytes()) {
            return Err(Denial::denied(&format!("enqueueing tasks of type {task_type:?}")));
        }
    }
    Ok(())
}

/// Whether somebody may work tasks of a type.
///
/// # Errors
/// Says what is not allowed.
pub(crate) fn may_serve(rights: &Rights, task_type: &str) -> Result<(), Denial> {
    words::check_type(task_type)?;
    if rights.serve.hold(task_type.as_bytes()) {
        return Ok(());
    }
    Err(Denial::denied(&format!("working tasks of type {task_type:?}")))
}

/// What a client says.
enum Word {
    Enqueue(Vec<NewTask>, Form),
    /// With how long it may wait, in ms.
    Claim(Claim, u64),
    Settle(Settle),
    Extend(Extend),
    Release(Release),
    /// A task, or why it is not running.
    Look(TaskId, bool),
    Order(TaskId, Command),
}

fn read(frames: &[&[u8]]) -> Result<Word, Denial> {
    let bad = |why: &str| Err(Denial::new("bad_request", why));
    let [word, rest @ ..] = frames else {
        return bad("expected a word and its arguments, one frame each");
    };
    match (*word, rest) {
        (b"enqueue", [task_type, payload, settings @ ..]) => {
            let mut task = NewTask::new(text("TYPE", task_type)?, *payload);
            for setting in settings {
                let (name, value) = setting_of(setting)?;
                words::set(&mut task, name, value)?;
            }
            Ok(Word::Enqueue(vec![words::finish(task)?], Form::One))
        }
        (b"enqueue_all", [task_type, payloads @ ..]) if !payloads.is_empty() => {
            let task_type = text("TYPE", task_type)?;
            words::check_type(task_type)?;
            let tasks = payloads.iter().map(|payload| NewTask::new(task_type, *payload));
            Ok(Word::Enqueue(tasks.collect(), Form::Many))
        }
        (b"claim", settings) => claim(settings),
        (b"complete", [token, rest @ ..]) if rest.len() <= 1 => {
            let result = rest.first().copied().unwrap_or_default().to_vec();
            Ok(Word::Settle(Settle { token: lease(token)?, outcome: Outcome::Complete(result) }))
        }
        (b"fail", [token, rest @ ..]) if rest.len() <= 2 => {
            let error = shown(rest.first().copied().unwrap_or_default());
            let retry_after_ms = option("retry_after_ms", &rest[rest.len().min(1)..])?;
            let outcome = Outcome::Fail { error, retry_after_ms };
            Ok(Word::Settle(Settle { token: lease(token)?, outcome }))
        }
        (b"reject", [token, rest @ ..]) if rest.len() <= 1 => {
            let error = shown(rest.first().copied().unwrap_or_default());
            Ok(Word::Settle(Settle { token: lease(token)?, outcome: Outcome::Reject { error } }))
        }
        (b"extend", [token, settings @ ..]) => {
            let mut extend = Extend { token: lease(token)?, lease_ms: None, progress: None };
            for setting in settings {
                if let Some(progress) = setting.strip_prefix(b"progress=") {
                    extend.progress = Some(progress.to_vec());
                } else {
                    extend.lease_ms = option("lease_ms", &[setting])?;
                }
            }
            Ok(Word::Extend(extend))
        }
        (b"release", [token, settings @ ..]) => {
            let after_ms = option("after_ms", settings)?.unwrap_or(0);
            Ok(Word::Release(Release { token: lease(token)?, after_ms }))
        }
        (b"show", [id]) => Ok(Word::Look(number_of(id)?, false)),
        (b"why", [id]) => Ok(Word::Look(number_of(id)?, true)),
        (b"cancel", [id]) => {
            let id = number_of(id)?;
            Ok(Word::Order(id, Command::Cancel(vec![id])))
        }
        (b"retry", [id]) => {
            let id = number_of(id)?;
            Ok(Word::Order(id, Command::Retry(vec![id])))
        }
        (
            b"enqueue" | b"enqueue_all" | b"complete" | b"fail" | b"reject" | b"extend"
            | b"release" | b"show" | b"why" | b"cancel" | b"retry",
            _,
        ) => bad("too few or too many frames for this word"),
        _ => bad(
            "unknown word: expected enqueue, enqueue_all, claim, complete, fail, reject, extend, \
             release, show, why, cancel or retry",
        ),
    }
}

fn claim(settings: &[&[u8]]) -> Result<Word, Denial> {
    let mut claim = Claim { types: Vec::new(), limit: 1, lease_ms: None, worker: String::new() };
    let mut wait_ms = 0;
    for setting in settings {
        let (name, value) = setting_of(setting)?;
        match name {
            "type" => claim.types.push(value.to_owned()),
            "max" => claim.limit = words::number(name, value)?,
            "wait_ms" => wait_ms = words::number(name, value)?,
            "lease_ms" => claim.lease_ms = Some(words::number(name, value)?),
            "worker" => value.clone_into(&mut claim.worker),
            _ => {
                let expected = "a claim takes type, max, wait_ms, lease_ms and worker";
                return Err(Denial::invalid(format!("{name:?}: {expected}")));
            }
        }
    }
    check_claim(&claim, wait_ms)?;
    Ok(Word::Claim(claim, wait_ms))
}

/// Bounds of a claim.
///
/// # Errors
/// Says what is out of range.
pub(crate) fn check_claim(claim: &Claim, wait_ms: u64) -> Result<(), Denial> {
    let most = limits::TYPES;
    if claim.types.is_empty() || claim.types.len() > most {
        return Err(Denial::invalid(format!("a claim names 1 to {most} types")));
    }
    if claim.limit == 0 || claim.limit > limits::PAGE {
        let message = format!("max: a claim takes 1 to {} tasks", limits::PAGE);
        return Err(Denial::invalid(message));
    }
    if claim.lease_ms.is_some_and(|ms| ms == 0 || ms > limits::SPAN_MS) {
        return Err(Denial::invalid("lease_ms: at least 1, and at most 10 years"));
    }
    if wait_ms > WAIT_MAX_MS {
        let message = format!("wait_ms: at most {WAIT_MAX_MS}; ask again after that");
        return Err(Denial::invalid(message));
    }
    Ok(())
}

fn text<'a>(what: &str, frame: &'a [u8]) -> Result<&'a str, Denial> {
    let wrong = |_| Denial::new("bad_request", format!("{what} is not UTF-8"));
    std::str::from_utf8(frame).map_err(wrong)
}

fn shown(frame: &[u8]) -> String {
    String::from_utf8_lossy(frame).into_owned()
}

fn setting_of(frame: &[u8]) -> Result<(&str, &str), Denial> {
    let setting = text("a setting", frame)?;
    let wrong = || Denial::new("bad_request", format!("{setting:?}: expected NAME=VALUE"));
    setting.split_once('=').ok_or_else(wrong)
}

fn option(name: &'static str, settings: &[&[u8]]) -> Result<Option<u64>, Denial> {
    match settings {
        [] => Ok(None),
        [setting] => match setting_of(setting)? {
            (given, value) if given == name => Ok(Some(words::number(name, value)?)),
            (given, _) => Err(Denial::invalid(format!("{given:?}: expected {name}=NUMBER"))),
        },
        _ => Err(Denial::new("bad_request", format!("expected nothing behind {name}=NUMBER"))),
    }
}

fn lease(frame: &[u8]) -> Result<Token, Denial> {
    text("TOKEN", frame)?.parse().map_err(|error| Denial::invalid(format!("{error}")))
}

fn number_of(frame: &[u8]) -> Result<TaskId, Denial> {
    Ok(TaskId(words::number("ID", text("ID", frame)?)?))
}

/// Looking at tasks, and who may.
impl Desk {
    /// One task, if whoever asks may see it.
    pub(crate) async fn look_at(
        &self,
        rights: &Rights,
        id: TaskId,
    ) -> Result<store::TaskView, Denial> {
        let Answer::Task(Some(view)) = self.query(Query::Task(id)).await? else {
            return Err(Refusal::Unknown.into());
        };
        check_sees(rights, &view.task_type)?;
        Ok(*view)
    }

    /// Why a task is not running.
    pub(crate) async fn why(
        &self,
        rights: &Rights,
        id: TaskId,
    ) -> Result<serde_json::Value, Denial> {
        let task = self.look_at(rights, id).await?;
        let Answer::Why(why) = self.query(Query::Why(id)).await? else {
            return Err(unanswered());
        };
        Ok(view::why(self, &why, self.waiting_for(&task.task_type)))
    }

    /// Whether somebody may cancel or retry a task: whoever may enqueue it.
    pub(crate) async fn check_owner(&self, rights: &Rights, id: TaskId) -> Result<(), Denial> {
        let Answer::Task(Some(view)) = self.query(Query::Task(id)).await? else {
            return Err(Refusal::Unknown.into());
        };
        if rights.administer || rights.enqueue.hold(view.task_type.as_bytes()) {
            return Ok(());
        }
        Err(Denial::denied(&format!("steering tasks of type {:?}", view.task_type)))
    }

    /// Whether somebody may hold these leases. A token is no secret, so what it stands for counts.
    pub(crate) async fn check_holder(
        &self,
        rights: &Rights,
        tokens: &[Token],
    ) -> Result<(), Denial> {
        if rights.serve.is_all() {
            return Ok(());
        }
        for token in tokens {
            if let Answer::Task(Some(view)) = self.query(Query::Task(token.task)).await? {
                may_serve(rights, &view.task_type)?;
            }
        }
        Ok(())
    }
}

/// Whether somebody may see tasks of a type: whoever may enqueue or work them.
///
/// # Errors
/// If not.
pub(crate) fn check_sees(rights: &Rights, task_type: &str) -> Result<(), Denial> {
    let name = task_type.as_bytes();
    if rights.administer || rights.enqueue.hold(name) || rights.serve.hold(name) {
        return Ok(());
    }
    Err(Denial::denied(&format!("seeing tasks of type {task_type:?}")))
}
