//! What a client of `maitred.tasks` says, frame by frame.

use store::{Claim, Command, Extend, NewTask, Outcome, Release, Settle, TaskId, Token, limits};

use super::Form;
use crate::tasks::words::{self, Denial};

/// How long a claim may wait, in ms: a client that waits longer asks again.
const WAIT_MAX_MS: u64 = 300_000;

/// What a client says.
pub(super) enum Word {
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

/// Reads the body of a request.
///
/// # Errors
/// Says what is wrong with it and what is accepted.
pub(super) fn read(frames: &[&[u8]]) -> Result<Word, Denial> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let known = prop::sample::select(vec![
            "enqueue",
            "enqueue_all",
            "claim",
            "complete",
            "fail",
            "reject",
            "extend",
            "release",
            "show",
            "why",
            "cancel",
            "retry",
            "mail",
            "type=mail",
            "max=2",
            "wait_ms=9",
            "1-a",
            "lease_ms=5",
            "progress=x",
            "retry_after_ms=7",
            "after_ms=1",
            "priority=1",
            "7",
            "=",
        ]);
        prop_oneof![
            3 => known.prop_map(|word| word.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..20),
        ]
    }

    proptest! {
        /// Whatever a client says is a word, or refused with a sentence.
        #[test]
        fn any_frames_are_understood_or_refused(
            frames in prop::collection::vec(frame(), 0..6),
        ) {
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            match read(&frames) {
                Ok(Word::Enqueue(tasks, _)) => {
                    let own = |task: &NewTask| words::check_type(&task.task_type).is_ok();
                    prop_assert!(tasks.iter().all(own));
                }
                Ok(Word::Claim(claim, wait_ms)) => {
                    prop_assert!(check_claim(&claim, wait_ms).is_ok());
                }
                Ok(_) => {}
                Err(denial) => {
                    prop_assert!(["bad_request", "invalid"].contains(&denial.reason));
                    prop_assert!(!denial.message.is_empty());
                }
            }
        }
    }

    #[test]
    fn words_are_read_with_their_arguments() {
        let token = "1f-a";
        let outcome = |frames: &[&[u8]]| match read(frames) {
            Ok(Word::Settle(settle)) => (settle.token.to_string(), settle.outcome),
            Ok(_) | Err(_) => panic!("no settle: {frames:?}"),
        };
        let fail =
            |error: &str, retry_after_ms| Outcome::Fail { error: error.into(), retry_after_ms };
        let cases: [(&[&[u8]], Outcome); 5] = [
            (&[b"complete", b"1f-a"], Outcome::Complete(Vec::new())),
            (&[b"complete", b"1f-a", b"\xff"], Outcome::Complete(vec![0xff])),
            (&[b"fail", b"1f-a"], fail("", None)),
            (&[b"fail", b"1f-a", b"why", b"retry_after_ms=7"], fail("why", Some(7))),
            (&[b"reject", b"1f-a", b"no"], Outcome::Reject { error: "no".into() }),
        ];
        for (frames, expected) in cases {
            assert_eq!(outcome(frames), (token.into(), expected));
        }
        assert!(read(&[b"fail", b"1f-a", b"why", b"7"]).is_err());
        assert!(read(&[b"fail", b"1f-a", b"why", b"retry_after_ms=7", b"x"]).is_err());
    }
}
