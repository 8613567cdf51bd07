//! A row as one message: its fields as a line of JSON, and the bytes after it.

use serde::{Deserialize, Serialize};

use crate::row::{Row, Spec};
use crate::task::{DeathReason, State};

/// The line. Absent is none, or 0.
#[derive(Deserialize, Serialize)]
struct Head {
    id: u64,
    kind: String,
    state: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<u8>,
    created: u64,
    run_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_wall: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease_until: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keep_until: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<u64>,
    #[serde(default)]
    tag: u64,
    #[serde(default)]
    attempt: u32,
    #[serde(default)]
    fence: u64,
    #[serde(default)]
    settled: u64,
    #[serde(default)]
    next: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unique_key: Option<String>,
    spec: String,
    payload_len: u64,
    payload_crc: u32,
    #[serde(default)]
    outside: bool,
    /// Lengths of the bytes that follow, in this order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    progress: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<usize>,
    #[serde(default)]
    payload: usize,
    crc: u32,
}

pub(super) fn write(row: &Row) -> Result<Vec<u8>, serde_json::Error> {
    let inline: &[u8] = if row.outside { &[] } else { &row.payload };
    let head = Head {
        id: row.id,
        kind: row.kind.clone(),
        state: row.state.code(),
        reason: row.reason.map(DeathReason::code),
        created: row.created,
        run_at: row.run_at,
        at_wall: row.at_wall,
        deadline: row.deadline,
        lease_until: row.lease_until,
        keep_until: row.keep_until,
        ended: row.ended,
        tag: row.tag,
        attempt: row.attempt,
        fence: row.fence,
        settled: row.settled,
        next: row.next,
        worker: row.worker.clone(),
        last_error: row.last_error.clone(),
        unique_key: row.unique_key.clone(),
        spec: row.spec_text.clone(),
        payload_len: row.payload_len,
        payload_crc: row.payload_crc,
        outside: row.outside,
        progress: row.progress.as_ref().map(Vec::len),
        result: row.result.as_ref().map(Vec::len),
        payload: inline.len(),
        crc: row.checksum(),
    };
    let mut bytes = serde_json::to_vec(&head)?;
    bytes.push(b'\n');
    for part in [row.progress.as_deref(), row.result.as_deref(), Some(inline)] {
        bytes.extend_from_slice(part.unwrap_or_default());
    }
    Ok(bytes)
}

/// A row, perhaps a damaged one; none if it is not to be read at all.
pub(super) fn read(bytes: &[u8]) -> Option<Row> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (line, mut rest) = (bytes.get(..end)?, bytes.get(end + 1..)?);
    let head: Head = serde_json::from_slice(line).ok()?;
    let mut part = |len: usize| {
        let (part, after) = rest.split_at_checked(len)?;
        rest = after;
        Some(part.to_vec())
    };
    let progress = head.progress.map(&mut part);
    let result = head.result.map(&mut part);
    let payload = part(head.payload);
    let spec = Spec::parse(&head.spec);
    let state = State::from_code(head.state.into());
    let torn = progress == Some(None) || result == Some(None) || payload.is_none();
    let readable = spec.is_some() && state.is_some() && !torn;
    let mut row = Row {
        id: head.id,
        kind: head.kind,
        state: state.unwrap_or(State::Dead),
        reason: head.reason.and_then(|code| DeathReason::from_code(code.into())),
        rank: 0,
        tag: head.tag,
        created: head.created,
        run_at: head.run_at,
        at_wall: head.at_wall,
        deadline: head.deadline,
        lease_until: head.lease_until,
        keep_until: head.keep_until,
        ended: head.ended,
        attempt: head.attempt,
        fence: head.fence,
        settled: head.settled,
        next: head.next,
        worker: head.worker,
        last_error: head.last_error,
        progress: progress.flatten(),
        unique_key: head.unique_key,
        fair_key: None,
        conc_key: None,
        spec: spec.unwrap_or_default(),
        spec_text: head.spec,
        payload_len: head.payload_len,
        payload_crc: head.payload_crc,
        outside: head.outside,
        payload: payload.unwrap_or_default(),
        result: result.flatten(),
        damaged: false,
    };
    row.damaged = !readable || row.checksum() != head.crc;
    Some(row)
}
