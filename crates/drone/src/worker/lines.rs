//! The words of persistent workers: one line of JSON for each task and each reply.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use matching::Span;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::{Job, Report};

#[derive(Serialize)]
struct TaskLine<'a> {
    id: String,
    r#type: &'a str,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
}

/// The line that hands a task over.
pub(super) fn task(job: &Job) -> Vec<u8> {
    let payload = std::str::from_utf8(&job.payload).ok();
    let line = TaskLine {
        id: job.token.task.to_string(),
        r#type: &job.link,
        attempt: job.attempt,
        payload,
        payload_base64: payload.is_none().then(|| BASE64.encode(&job.payload)),
        content_type: job.content_type.as_deref(),
    };
    let mut octets = serde_json::to_vec(&line).unwrap_or_default();
    octets.push(b'\n');
    octets
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ReplyLine {
    id: Option<Value>,
    result: Option<Value>,
    result_base64: Option<String>,
    then: Option<String>,
    error: Option<String>,
    retry: Option<bool>,
    retry_after_ms: Option<u64>,
    progress: Option<Value>,
    beat: bool,
}

/// What a line says.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Line {
    /// The end of the attempt.
    End(Report),
    /// It goes on; this is to be told to those who look.
    Progress(Vec<u8>),
    /// It goes on.
    Beat,
}

/// Reads what a worker says while it has `job`.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub(super) fn reply(line: &[u8], job: &Job) -> Result<Line, String> {
    let said: ReplyLine = serde_json::from_slice(line).map_err(|error| {
        format!("said a line that is no reply ({error}); print what is not a reply to stderr")
    })?;
    if let Some(id) = said.id {
        let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        if id != job.token.task.to_string() {
            return Err(format!("answered task {id}, but was given {}", job.token.task));
        }
    }
    if let Some(error) = said.error {
        let retry_after = said.retry_after_ms.map(|ms| Span::from_millis(ms.min(1 << 40) as i64));
        let for_good = said.retry == Some(false);
        return Ok(Line::End(Report::Failed { error, for_good, retry_after }));
    }
    let result = match (said.result, said.result_base64) {
        (Some(_), Some(_)) => return Err("said both result and result_base64".into()),
        (Some(Value::String(text)), None) => Some(Bytes::from(text)),
        (Some(value), None) => Some(Bytes::from(value.to_string())),
        (None, Some(text)) => {
            let octets = BASE64.decode(text).map_err(|error| format!("result_base64: {error}"))?;
            Some(Bytes::from(octets))
        }
        (None, None) => None,
    };
    match (result, said.then, said.progress) {
        (Some(payload), Some(to), _) => Ok(Line::End(Report::Next { to, payload })),
        (Some(result), None, _) => Ok(Line::End(Report::Done(result))),
        (None, Some(_), _) => Err("said then without a result to hand on".into()),
        (None, None, Some(Value::String(text))) => Ok(Line::Progress(text.into())),
        (None, None, Some(value)) => Ok(Line::Progress(value.to_string().into())),
        (None, None, None) if said.beat => Ok(Line::Beat),
        (None, None, None) => Err("said a line with none of result, error, progress, beat".into()),
    }
}

#[cfg(test)]
mod tests {
    use store::{TaskId, Token};

    use super::*;

    fn job(payload: &[u8]) -> Job {
        Job {
            token: Token { task: TaskId(7), fence: 9 },
            task_type: "resize".into(),
            link: "local:crop".into(),
            payload: Bytes::copy_from_slice(payload),
            content_type: None,
            attempt: 2,
            attributes: Vec::new(),
        }
    }

    #[test]
    fn tasks_are_told_in_one_line() {
        let told = |payload: &[u8]| String::from_utf8(task(&job(payload))).expect("JSON is UTF-8");
        let text = r#"{"id":"7","type":"local:crop","attempt":2,"payload":"a\nb"}"#;
        assert_eq!(told(b"a\nb"), format!("{text}\n"));
        let octets = r#"{"id":"7","type":"local:crop","attempt":2,"payload_base64":"/wA="}"#;
        assert_eq!(told(&[0xFF, 0]), format!("{octets}\n"));
    }

    #[test]
    fn replies_are_read() {
        let done = |octets: &'static [u8]| Line::End(Report::Done(Bytes::from_static(octets)));
        let fails = |error: &str, for_good: bool, ms: Option<i64>| {
            let retry_after = ms.map(Span::from_millis);
            Line::End(Report::Failed { error: error.into(), for_good, retry_after })
        };
        let next = Report::Next { to: "local:hex".into(), payload: Bytes::from_static(b"120") };
        let table: [(&str, Line); 10] = [
            (r#"{"result":"ok"}"#, done(b"ok")),
            (r#"{"id":"7","result":{"a":[1]}}"#, done(br#"{"a":[1]}"#)),
            (r#"{"id":7,"result":""}"#, done(b"")),
            (r#"{"result_base64":"/wA="}"#, done(&[0xFF, 0])),
            (r#"{"result":120,"then":"local:hex"}"#, Line::End(next)),
            (r#"{"error":"why"}"#, fails("why", false, None)),
            (r#"{"error":"why","retry":false}"#, fails("why", true, None)),
            (r#"{"error":"why","retry_after_ms":5}"#, fails("why", false, Some(5))),
            (r#"{"progress":{"percent":5}}"#, Line::Progress(br#"{"percent":5}"#.to_vec())),
            (r#"{"beat":true}"#, Line::Beat),
        ];
        for (said, line) in table {
            assert_eq!(reply(said.as_bytes(), &job(b"")), Ok(line), "{said}");
        }
    }

    #[test]
    fn what_is_no_reply_says_why() {
        let table = [
            ("", "no reply"),
            ("loading model", "print what is not a reply to stderr"),
            ("{}", "none of result"),
            (r#"{"then":"local:hex"}"#, "without a result"),
            (r#"{"id":"8","result":1}"#, "answered task 8, but was given 7"),
            (r#"{"result":1,"result_base64":""}"#, "both"),
            (r#"{"result_base64":"?"}"#, "result_base64"),
            (r#"{"reslut":1}"#, "unknown field `reslut`"),
        ];
        for (said, why) in table {
            let error = reply(said.as_bytes(), &job(b"")).expect_err(said);
            assert!(error.contains(why), "{said}: {error}");
        }
    }
}
