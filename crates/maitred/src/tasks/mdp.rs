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

mod read;

use std::sync::Arc;

use engine::{PrincipalId, Rights};
use sessions::{Errand, Sender};
use store::{Enqueued, Met, NewTask, Refusal, Settle, Settled, Token, limits};

use super::desk::{Answers, Ask, Claimed, Desk, Taker};
use super::rights::{may_enqueue, may_serve};
use super::words::Denial;
use super::{titanic, view};
use crate::inbox;
use read::{Word, read};

pub(crate) use read::check_claim;

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
                let conn = Some(from.conn());
                let taker = Box::new(OverMdp { desk: self.clone(), from });
                self.claim(Ask { claim, until, conn, taker });
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
                let receipt = answer.await.map_err(|_| Denial::unanswered())??;
                settled(&first(receipt.value)?)
            }
            Word::Extend(extend) => {
                self.check_holder(rights, &[extend.token]).await?;
                let (sender, answer) = tokio::sync::oneshot::channel();
                self.extend(vec![extend], move |answer| {
                    // As above.
                    let _ = sender.send(answer);
                });
                let receipt = answer.await.map_err(|_| Denial::unanswered())??;
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
            Word::Enqueue(..) | Word::Claim(..) => Err(Denial::unanswered()),
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
    Ok(answers.into_iter().next().ok_or_else(Denial::unanswered)??)
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
