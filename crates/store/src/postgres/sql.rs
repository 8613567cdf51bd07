//! Rows as PostgreSQL's columns, and back.
//!
//! Many rows go in one statement, as one array per column. Statements are sent with their types and
//! are never prepared: a pooler may give each transaction another session.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row as Columns};

use crate::row::{Row, Spec};
use crate::task::{DeathReason, State};

/// A parameter and its type.
pub(super) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// What [`read`] reads, of `t`; large payloads are left where they are.
pub(super) const COLUMNS: &str = "t.id, t.kind, t.state, t.reason, t.rank, t.tag, t.created, \
    t.run_at, t.at_wall, t.deadline, t.lease_until, t.keep_until, t.ended, t.attempt, t.fence, \
    t.settled, t.next, t.worker, t.last_error, t.progress, t.unique_key, t.fair_key, t.conc_key, \
    t.spec, t.payload_len, t.payload_crc, t.outside, \
    CASE WHEN t.outside THEN NULL ELSE t.payload END, t.result, t.crc";

/// The same with every payload.
pub(super) const WHOLE: &str = "t.id, t.kind, t.state, t.reason, t.rank, t.tag, t.created, \
    t.run_at, t.at_wall, t.deadline, t.lease_until, t.keep_until, t.ended, t.attempt, t.fence, \
    t.settled, t.next, t.worker, t.last_error, t.progress, t.unique_key, t.fair_key, t.conc_key, \
    t.spec, t.payload_len, t.payload_crc, t.outside, t.payload, t.result, t.crc";

/// How many columns these have: what a statement adds comes after them.
pub(super) const WIDTH: usize = 30;

/// Columns as a row; damaged if they are not what was written.
pub(super) fn read(from: &Columns) -> Result<Row, Error> {
    let state = State::from_code(i64::from(from.try_get::<_, i16>(2)?));
    let reason: Option<i16> = from.try_get(3)?;
    let spec_text: String = from.try_get(23)?;
    let spec = Spec::parse(&spec_text);
    let readable = state.is_some() && spec.is_some();
    let payload: Option<Vec<u8>> = from.try_get(27)?;
    let mut row = Row {
        id: number(from, 0)?,
        kind: from.try_get(1)?,
        state: state.unwrap_or(State::Dead),
        reason: reason.and_then(|code| DeathReason::from_code(code.into())),
        rank: from.try_get(4)?,
        tag: number(from, 5)?,
        created: number(from, 6)?,
        run_at: number(from, 7)?,
        at_wall: maybe(from, 8)?,
        deadline: maybe(from, 9)?,
        lease_until: maybe(from, 10)?,
        keep_until: maybe(from, 11)?,
        ended: maybe(from, 12)?,
        attempt: from.try_get::<_, i32>(13)?.unsigned_abs(),
        fence: number(from, 14)?,
        settled: number(from, 15)?,
        next: number(from, 16)?,
        worker: from.try_get(17)?,
        last_error: from.try_get(18)?,
        progress: from.try_get(19)?,
        unique_key: from.try_get(20)?,
        fair_key: from.try_get(21)?,
        conc_key: from.try_get(22)?,
        spec: spec.unwrap_or_default(),
        spec_text,
        payload_len: number(from, 24)?,
        payload_crc: number(from, 25)? as u32,
        outside: from.try_get(26)?,
        payload: payload.unwrap_or_default(),
        result: from.try_get(28)?,
        damaged: false,
    };
    let crc: i64 = from.try_get(29)?;
    row.damaged = !readable || i64::from(row.checksum()) != crc;
    Ok(row)
}

/// Numbers are never negative; one that is shows in the checksum.
pub(super) fn number(from: &Columns, at: usize) -> Result<u64, Error> {
    Ok(from.try_get::<_, i64>(at)? as u64)
}

fn maybe(from: &Columns, at: usize) -> Result<Option<u64>, Error> {
    Ok(from.try_get::<_, Option<i64>>(at)?.map(|value| value as u64))
}

/// What a row has in a column, if there is a place for it.
fn big(value: u64) -> i64 {
    value as i64
}

fn some(value: Option<u64>) -> Option<i64> {
    value.map(big)
}

/// Columns of rows to be written, one array each.
#[derive(Default)]
pub(super) struct Arrays<'a> {
    ids: Vec<i64>,
    kinds: Vec<&'a str>,
    states: Vec<i16>,
    reasons: Vec<Option<i16>>,
    ranks: Vec<i32>,
    tags: Vec<i64>,
    dues: Vec<Option<i64>>,
    created: Vec<i64>,
    run_at: Vec<i64>,
    at_wall: Vec<Option<i64>>,
    deadlines: Vec<Option<i64>>,
    lease_until: Vec<Option<i64>>,
    keep_until: Vec<Option<i64>>,
    ended: Vec<Option<i64>>,
    attempts: Vec<i32>,
    fences: Vec<i64>,
    settled: Vec<i64>,
    next: Vec<i64>,
    workers: Vec<Option<&'a str>>,
    errors: Vec<Option<&'a str>>,
    progress: Vec<Option<&'a [u8]>>,
    unique_keys: Vec<Option<&'a str>>,
    fair_keys: Vec<Option<&'a str>>,
    conc_keys: Vec<Option<&'a str>>,
    specs: Vec<&'a str>,
    payload_len: Vec<i64>,
    payload_crc: Vec<i64>,
    outside: Vec<bool>,
    payloads: Vec<Option<&'a [u8]>>,
    results: Vec<Option<&'a [u8]>>,
    crcs: Vec<i64>,
}

impl<'a> Arrays<'a> {
    pub(super) fn of(rows: impl Iterator<Item = &'a Row>) -> Arrays<'a> {
        let mut arrays = Arrays::default();
        rows.for_each(|row| arrays.push(row));
        arrays
    }

    fn push(&mut self, row: &'a Row) {
        self.ids.push(big(row.id));
        self.kinds.push(&row.kind);
        self.states.push(row.state.code().into());
        self.reasons.push(row.reason.map(|reason| reason.code().into()));
        self.ranks.push(row.rank);
        self.tags.push(big(row.tag));
        self.dues.push(some(row.due()));
        self.created.push(big(row.created));
        self.run_at.push(big(row.run_at));
        self.at_wall.push(some(row.at_wall));
        self.deadlines.push(some(row.deadline));
        self.lease_until.push(some(row.lease_until));
        self.keep_until.push(some(row.keep_until));
        self.ended.push(some(row.ended));
        self.attempts.push(row.attempt as i32);
        self.fences.push(big(row.fence));
        self.settled.push(big(row.settled));
        self.next.push(big(row.next));
        self.workers.push(row.worker.as_deref());
        self.errors.push(row.last_error.as_deref());
        self.progress.push(row.progress.as_deref());
        self.unique_keys.push(row.unique_key.as_deref());
        self.fair_keys.push(row.fair_key.as_deref());
        self.conc_keys.push(row.conc_key.as_deref());
        self.specs.push(&row.spec_text);
        self.payload_len.push(big(row.payload_len));
        self.payload_crc.push(row.payload_crc.into());
        self.outside.push(row.outside);
        self.payloads.push((row.payload_len > 0).then_some(row.payload.as_slice()));
        self.results.push(row.result.as_deref());
        self.crcs.push(row.checksum().into());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// For [`INSERT`].
    pub(super) fn all(&self) -> [Param<'_>; 31] {
        [
            (&self.ids, Type::INT8_ARRAY),
            (&self.kinds, Type::TEXT_ARRAY),
            (&self.states, Type::INT2_ARRAY),
            (&self.reasons, Type::INT2_ARRAY),
            (&self.ranks, Type::INT4_ARRAY),
            (&self.tags, Type::INT8_ARRAY),
            (&self.dues, Type::INT8_ARRAY),
            (&self.created, Type::INT8_ARRAY),
            (&self.run_at, Type::INT8_ARRAY),
            (&self.at_wall, Type::INT8_ARRAY),
            (&self.deadlines, Type::INT8_ARRAY),
            (&self.lease_until, Type::INT8_ARRAY),
            (&self.keep_until, Type::INT8_ARRAY),
            (&self.ended, Type::INT8_ARRAY),
            (&self.attempts, Type::INT4_ARRAY),
            (&self.fences, Type::INT8_ARRAY),
            (&self.settled, Type::INT8_ARRAY),
            (&self.next, Type::INT8_ARRAY),
            (&self.workers, Type::TEXT_ARRAY),
            (&self.errors, Type::TEXT_ARRAY),
            (&self.progress, Type::BYTEA_ARRAY),
            (&self.unique_keys, Type::TEXT_ARRAY),
            (&self.fair_keys, Type::TEXT_ARRAY),
            (&self.conc_keys, Type::TEXT_ARRAY),
            (&self.specs, Type::TEXT_ARRAY),
            (&self.payload_len, Type::INT8_ARRAY),
            (&self.payload_crc, Type::INT8_ARRAY),
            (&self.outside, Type::BOOL_ARRAY),
            (&self.payloads, Type::BYTEA_ARRAY),
            (&self.results, Type::BYTEA_ARRAY),
            (&self.crcs, Type::INT8_ARRAY),
        ]
    }

    /// For [`UPDATE`].
    pub(super) fn changing(&self) -> [Param<'_>; 23] {
        [
            (&self.ids, Type::INT8_ARRAY),
            (&self.states, Type::INT2_ARRAY),
            (&self.reasons, Type::INT2_ARRAY),
            (&self.tags, Type::INT8_ARRAY),
            (&self.dues, Type::INT8_ARRAY),
            (&self.run_at, Type::INT8_ARRAY),
            (&self.at_wall, Type::INT8_ARRAY),
            (&self.deadlines, Type::INT8_ARRAY),
            (&self.lease_until, Type::INT8_ARRAY),
            (&self.keep_until, Type::INT8_ARRAY),
            (&self.ended, Type::INT8_ARRAY),
            (&self.attempts, Type::INT4_ARRAY),
            (&self.fences, Type::INT8_ARRAY),
            (&self.settled, Type::INT8_ARRAY),
            (&self.next, Type::INT8_ARRAY),
            (&self.workers, Type::TEXT_ARRAY),
            (&self.errors, Type::TEXT_ARRAY),
            (&self.progress, Type::BYTEA_ARRAY),
            (&self.payload_len, Type::INT8_ARRAY),
            (&self.payload_crc, Type::INT8_ARRAY),
            (&self.outside, Type::BOOL_ARRAY),
            (&self.results, Type::BYTEA_ARRAY),
            (&self.crcs, Type::INT8_ARRAY),
        ]
    }
}

/// Adds rows; the parameters are [`Arrays::all`].
pub(super) const INSERT: &str = "INSERT INTO maitred.task (id, kind, state, reason, rank, \
    tag, due, created, run_at, at_wall, deadline, lease_until, keep_until, ended, attempt, \
    fence, settled, next, worker, last_error, progress, unique_key, fair_key, conc_key, spec, \
    payload_len, payload_crc, outside, payload, result, crc) SELECT * FROM unnest($1, $2, $3, \
    $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, \
    $23, $24, $25, $26, $27, $28, $29, $30, $31)";

/// Changes rows; the parameters are [`Arrays::changing`].
pub(super) const UPDATE: &str = "UPDATE maitred.task AS t SET state = n.state, reason = \
    n.reason, tag = n.tag, due = n.due, run_at = n.run_at, at_wall = n.at_wall, deadline = \
    n.deadline, lease_until = n.lease_until, keep_until = n.keep_until, ended = n.ended, attempt \
    = n.attempt, fence = n.fence, settled = n.settled, next = n.next, worker = n.worker, \
    last_error = n.last_error, progress = n.progress, payload_len = n.payload_len, payload_crc = \
    n.payload_crc, outside = n.outside, payload = CASE WHEN n.payload_len = 0 THEN NULL ELSE \
    t.payload END, result = n.result, crc = n.crc FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, \
    $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23) AS n (id, state, \
    reason, tag, due, run_at, at_wall, deadline, lease_until, keep_until, ended, attempt, fence, \
    settled, next, worker, last_error, progress, payload_len, payload_crc, outside, result, crc) \
    WHERE t.id = n.id";

/// The clock, the paused types, and numbers for so many tasks.
pub(super) const HEAD: &str = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint, \
    coalesce((SELECT array_agg(kind) FROM maitred.paused), '{}'), \
    (SELECT array_agg(nextval('maitred.task_id')) FROM generate_series(1, $1))";

/// Rows by number, locked; the parameter is an array of numbers.
pub(super) fn by_id() -> String {
    // In one order for all, so that nobody waits in a circle.
    format!("SELECT {COLUMNS} FROM maitred.task AS t WHERE id = ANY ($1) ORDER BY id FOR UPDATE")
}

/// Rows by two arrays, of types and of unique keys.
pub(super) fn by_key() -> String {
    format!(
        "SELECT {COLUMNS} FROM unnest($1, $2) AS k (kind, key) \
         JOIN maitred.task AS t ON t.kind = k.kind AND t.unique_key = k.key"
    )
}

/// Adds to the counts of a slot.
pub(super) const COUNT: &str = "INSERT INTO maitred.tally (kind, state, n, slot) \
    SELECT kind, state, n, $4 FROM unnest($1, $2, $3) AS c (kind, state, n) \
    ON CONFLICT (kind, state, slot) DO UPDATE SET n = tally.n + excluded.n";
