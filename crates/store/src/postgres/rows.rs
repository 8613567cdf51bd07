//! Rows in PostgreSQL.
//!
//! A transaction is one round trip to begin (with all that its calls will ask for), one for each
//! claim, and one to write and commit. Rows are locked when they are read to be changed; those that
//! another broker holds are passed over where any will do (`SKIP LOCKED`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::future::{join, join4};
use tokio_postgres::Row as Columns;
use tokio_postgres::types::Type;

use super::hear::Hearing;
use super::link::{Link, meaning};
use super::pending::{Held, Writes};
use super::sql::{COLUMNS, COUNT, HEAD, Param, WHOLE, WIDTH, by_id, by_key, number, read};
use crate::api::{Filter, Level, Notice, QueueView};
use crate::clock::Clock;
use crate::cron::Schedule;
use crate::memory::passes;
use crate::row::Row;
use crate::rows::{Fault, Rows, Tell, Turns, Wants};
use crate::task::{Now, State};

/// Larger payloads are read only by who needs them.
const INLINE: usize = 1_024;
/// Rows a filter looks at before it hands over what it found.
const SCAN: i64 = 20_000;
/// Numbers of tasks are fetched so many at a time when more are needed than were foreseen.
const NUMBERS: usize = 64;
/// Unused numbers are dropped after so long, so that numbers of brokers stay near each other.
const NUMBERS_KEPT: Duration = Duration::from_secs(1);
/// A connection that was found to have ended is one that says so within this.
const SOON: Duration = Duration::from_secs(1);
/// When what is due is in other hands, it is looked at again after so many ms.
const ELSEWHERE_MS: u64 = 100;

pub(super) struct Postgres {
    link: Link,
    clock: Clock,
    level: Level,
    /// Begins a transaction.
    begin: String,
    /// Where this broker counts.
    slot: i16,
    hearing: Option<Hearing>,
    now: Now,
    paused: HashSet<String>,
    /// Numbers for tasks, the next one last.
    numbers: Vec<u64>,
    numbers_since: Instant,
    open: bool,
    held: Held,
    fences: HashMap<u64, u64>,
    /// Counts that changed since `begin`, by type and state.
    counted: BTreeMap<(String, u8), i64>,
}

impl Postgres {
    pub(super) fn new(link: Link, clock: &Clock, level: Level, begin: String, slot: i16) -> Self {
        Postgres {
            link,
            clock: clock.clone(),
            level,
            begin,
            slot,
            hearing: None,
            now: clock.now(),
            paused: HashSet::new(),
            numbers: Vec::new(),
            numbers_since: Instant::now(),
            open: false,
            held: Held::default(),
            fences: HashMap::new(),
            counted: BTreeMap::new(),
        }
    }

    pub(super) fn listen(&mut self, hearing: Hearing) {
        self.hearing = Some(hearing);
    }

    /// Begins, and reads the clock, the pauses and what the calls want, in one round trip.
    fn start(&mut self, wants: &Wants) -> Result<(), Fault> {
        let ids: Vec<i64> = wants.ids.iter().filter_map(|id| i64::try_from(*id).ok()).collect();
        let clean = wants.keys.iter().filter(|(_, key)| !key.contains('\0'));
        let clean: Vec<&(String, String)> =
            clean.filter(|(kind, _)| !kind.contains('\0')).collect();
        let kinds: Vec<&str> = clean.iter().map(|(kind, _)| kind.as_str()).collect();
        let keys: Vec<&str> = clean.iter().map(|(_, key)| key.as_str()).collect();
        let numbers = wants.tasks.saturating_sub(self.numbers.len()) as i64;
        let (by_id, by_key) = (by_id(), by_key());
        let begin = &self.begin;
        let (head, rows, known) = self.link.ask(async |client| {
            let begun = client.batch_execute(begin);
            let numbers: [Param<'_>; 1] = [(&numbers, Type::INT8)];
            let head = client.query_typed_one(HEAD, &numbers);
            let rows = async {
                if ids.is_empty() {
                    return Ok(Vec::new());
                }
                client.query_typed(&by_id, &[(&ids, Type::INT8_ARRAY)]).await
            };
            let known = async {
                if keys.is_empty() {
                    return Ok(Vec::new());
                }
                let keys: [Param<'_>; 2] = [(&kinds, Type::TEXT_ARRAY), (&keys, Type::TEXT_ARRAY)];
                client.query_typed(&by_key, &keys).await
            };
            let (begun, head, rows, known) = join4(begun, head, rows, known).await;
            begun?;
            Ok((head?, rows?, known?))
        })?;
        self.open = true;
        let line = number(&head, 0).map_err(odd)?;
        self.now = Now { line, wall: line };
        self.clock.follow(line);
        self.paused = head.try_get::<_, Vec<String>>(1).map_err(odd)?.into_iter().collect();
        self.take_numbers(&head, 2)?;
        self.hold(&rows)?;
        self.held.note_absent(&wants.ids);
        for (kind, key) in &wants.keys {
            self.held.know_unique((kind.clone(), key.clone()), None);
        }
        for columns in &known {
            let row = read(columns).map_err(odd)?;
            let key = (row.kind.clone(), row.unique_key.clone().unwrap_or_default());
            self.held.know_unique(key, Some(row));
        }
        Ok(())
    }

    fn take_numbers(&mut self, columns: &Columns, at: usize) -> Result<(), Fault> {
        let more: Option<Vec<i64>> = columns.try_get(at).map_err(odd)?;
        let Some(more) = more.filter(|more| !more.is_empty()) else { return Ok(()) };
        if self.numbers.is_empty() {
            self.numbers_since = Instant::now();
        }
        self.numbers.extend(more.into_iter().map(|number| number as u64));
        self.numbers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(())
    }

    fn hold(&mut self, rows: &[Columns]) -> Result<Vec<Row>, Fault> {
        let rows: Vec<Row> = rows.iter().map(read).collect::<Result<_, _>>().map_err(odd)?;
        rows.iter().for_each(|row| self.held.hold(row));
        Ok(rows)
    }

    /// Reads, after what was changed so far: in one round trip.
    fn fetch(&mut self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Columns>, Fault> {
        let writes = self.held.take();
        self.link.ask(async |client| {
            let (sent, found) = join(writes.send(client), client.query_typed(sql, params)).await;
            sent.and(found)
        })
    }

    /// Reads rows that stay ours until the commit.
    fn fetch_held(&mut self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Fault> {
        let found = self.fetch(sql, params)?;
        self.hold(&found)
    }

    fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, Fault> {
        self.link.ask(async |client| client.execute_typed(sql, params).await)
    }

    fn count(&mut self, row: &Row, state: State, by: i64) {
        *self.counted.entry((row.kind.clone(), state.code())).or_default() += by;
    }

    fn forget_transaction(&mut self) {
        self.held = Held::default();
        self.fences.clear();
        self.counted.clear();
    }
}

fn odd(error: tokio_postgres::Error) -> Fault {
    match meaning(&error) {
        // What was read is not what this code reads.
        Fault::Lost(text) => Fault::Failed(text),
        fault @ (Fault::Full(_) | Fault::Broken(_) | Fault::Failed(_) | Fault::Again(_)) => fault,
    }
}

/// A limit as PostgreSQL counts.
fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl Rows for Postgres {
    fn begin(&mut self, wants: &Wants) -> Result<(), Fault> {
        self.forget_transaction();
        if self.numbers_since.elapsed() > NUMBERS_KEPT {
            self.numbers.clear();
        }
        self.link.require()?;
        let asked = Instant::now();
        match self.start(wants) {
            // The connection had ended before, by a restart perhaps, and nothing was asked yet.
            Err(Fault::Lost(_)) if asked.elapsed() < SOON => {
                self.link.require()?;
                self.start(wants)
            }
            outcome => outcome,
        }
    }

    fn now(&mut self, _asked: Now) -> Now {
        self.now
    }

    fn commit(&mut self) -> Result<(), Fault> {
        let writes = self.held.take();
        let counted = std::mem::take(&mut self.counted);
        let changes = || counted.iter().filter(|(_, by)| **by != 0);
        let kinds: Vec<&str> = changes().map(|((kind, _), _)| kind.as_str()).collect();
        let states: Vec<i16> = changes().map(|((_, state), _)| i16::from(*state)).collect();
        let counts: Vec<i64> = changes().map(|(_, by)| *by).collect();
        let slot = self.slot;
        self.open = false;
        let done = self.link.ask(async |client| {
            // Last, because brokers may share a slot: it is locked for the commit only.
            let count = async {
                if kinds.is_empty() {
                    return Ok(0);
                }
                let params: [Param<'_>; 4] = [
                    (&kinds, Type::TEXT_ARRAY),
                    (&states, Type::INT2_ARRAY),
                    (&counts, Type::INT8_ARRAY),
                    (&slot, Type::INT2),
                ];
                client.execute_typed(COUNT, &params).await
            };
            // A transaction that failed is rolled back by this, and the failure is what we hear.
            let end = client.batch_execute("COMMIT");
            let (sent, (counted, ended)) = join(writes.send(client), join(count, end)).await;
            sent.and(counted.map(drop)).and(ended)
        });
        self.forget_transaction();
        done
    }

    fn rollback(&mut self) {
        self.forget_transaction();
        if std::mem::take(&mut self.open) {
            // Without a connection the server does it by itself.
            let _ = self.link.ask(async |client| client.batch_execute("ROLLBACK").await);
        }
    }

    fn task_ids(&mut self, count: usize) -> Result<Vec<u64>, Fault> {
        if self.numbers.len() < count {
            let missing = limit_of((count - self.numbers.len()).max(NUMBERS));
            let sql = "SELECT array_agg(nextval('maitred.task_id')) FROM generate_series(1, $1)";
            let params: [Param<'_>; 1] = [(&missing, Type::INT8)];
            let found = self.link.ask(async |client| client.query_typed_one(sql, &params).await)?;
            self.take_numbers(&found, 0)?;
        }
        let from = self.numbers.len().saturating_sub(count);
        let mut numbers = self.numbers.split_off(from);
        numbers.reverse();
        Ok(numbers)
    }

    /// They were drawn after the rows were locked, so that no other broker can have given a higher
    /// one for the same task.
    fn fences(&mut self, rows: &[Row]) -> Result<Vec<u64>, Fault> {
        let missing = || Fault::Failed("a row without a fence".into());
        rows.iter().map(|row| self.fences.remove(&row.id).ok_or_else(missing)).collect()
    }

    fn insert(&mut self, mut row: Row) -> Result<(), Fault> {
        row.outside = row.payload.len() > INLINE;
        self.count(&row, row.state, 1);
        self.held.add(row);
        Ok(())
    }

    fn update(&mut self, before: &Row, row: &Row) -> Result<(), Fault> {
        let outside = row.outside && row.payload_len > 0;
        self.count(row, before.state, -1);
        self.count(row, row.state, 1);
        if outside == row.outside {
            self.held.change(row);
        } else {
            self.held.change(&Row { outside, ..row.clone() });
        }
        Ok(())
    }

    fn delete(&mut self, row: &Row) -> Result<(), Fault> {
        self.count(row, row.state, -1);
        self.held.remove(row);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Fault> {
        let writes = self.held.take();
        if writes.is_empty() {
            return Ok(());
        }
        self.link.ask(async |client| Writes::send(&writes, client).await)
    }

    fn fetch_payload(&mut self, row: &mut Row) -> Result<(), Fault> {
        if row.payload.len() as u64 == row.payload_len {
            return Ok(());
        }
        let sql = "SELECT payload FROM maitred.task WHERE id = $1";
        let found = self.fetch(sql, &[(&(row.id as i64), Type::INT8)])?;
        let body = found.first().map(|columns| columns.try_get::<_, Option<Vec<u8>>>(0));
        // An absent payload shows as one that is not whole.
        row.payload = body.transpose().map_err(odd)?.flatten().unwrap_or_default();
        Ok(())
    }

    fn load(&mut self, ids: &[u64]) -> Result<Vec<Row>, Fault> {
        let unknown: Vec<u64> =
            ids.iter().copied().filter(|id| self.held.get(*id).is_none()).collect();
        if !unknown.is_empty() {
            // A token may name any number, also one that there is no place for.
            let ids: Vec<i64> = unknown.iter().filter_map(|id| i64::try_from(*id).ok()).collect();
            self.fetch_held(&by_id(), &[(&ids, Type::INT8_ARRAY)])?;
            self.held.note_absent(&unknown);
        }
        Ok(ids.iter().filter_map(|id| self.held.get(*id).flatten().cloned()).collect())
    }

    fn look(&mut self, id: u64) -> Result<Option<Row>, Fault> {
        let Ok(id) = i64::try_from(id) else { return Ok(None) };
        let sql = format!("SELECT {COLUMNS} FROM maitred.task AS t WHERE id = $1");
        let found = self.fetch(&sql, &[(&id, Type::INT8)])?;
        found.first().map(read).transpose().map_err(odd)
    }

    fn hold(&mut self, rows: Vec<Row>, filter: &Filter) -> Result<Vec<Row>, Fault> {
        let mut ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
        ids.sort_unstable();
        let mut rows = self.load(&ids)?;
        // Somebody may have changed them after they were found.
        rows.retain(|row| passes(row, filter));
        Ok(rows)
    }

    fn by_unique(&mut self, keys: &[(&str, &str)]) -> Result<Vec<Row>, Fault> {
        let owned = |(kind, key): &(&str, &str)| ((*kind).to_owned(), (*key).to_owned());
        let keys: Vec<(String, String)> = keys.iter().map(owned).collect();
        let unknown: Vec<_> =
            keys.iter().filter(|key| self.held.unique(key).is_none()).cloned().collect();
        if !unknown.is_empty() {
            let kinds: Vec<&str> = unknown.iter().map(|(kind, _)| kind.as_str()).collect();
            let words: Vec<&str> = unknown.iter().map(|(_, key)| key.as_str()).collect();
            let params: [Param<'_>; 2] = [(&kinds, Type::TEXT_ARRAY), (&words, Type::TEXT_ARRAY)];
            let found = self.fetch(&by_key(), &params)?;
            for key in &unknown {
                self.held.know_unique(key.clone(), None);
            }
            for columns in &found {
                let row = read(columns).map_err(odd)?;
                let key = (row.kind.clone(), row.unique_key.clone().unwrap_or_default());
                self.held.know_unique(key, Some(row));
            }
        }
        Ok(keys.iter().filter_map(|key| self.held.unique(key).flatten().cloned()).collect())
    }

    fn ready(&mut self, kinds: &[&str], limit: usize) -> Result<Vec<Vec<Row>>, Fault> {
        let asked: Vec<&str> = kinds.iter().copied().filter(|kind| !kind.contains('\0')).collect();
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT {WHOLE}, nextval('maitred.fence') FROM unnest($1) AS k (kind), LATERAL \
             (SELECT * FROM maitred.task AS q WHERE q.kind = k.kind AND q.state = 0 \
             ORDER BY q.rank, q.tag, q.id LIMIT $2 FOR UPDATE SKIP LOCKED) AS t"
        );
        let limit = limit_of(limit);
        let found = self.fetch(&sql, &[(&asked, Type::TEXT_ARRAY), (&limit, Type::INT8)])?;
        let mut lines: HashMap<&str, Vec<Row>> = HashMap::new();
        for columns in &found {
            let row = read(columns).map_err(odd)?;
            self.held.hold(&row);
            self.fences.insert(row.id, number(columns, WIDTH).map_err(odd)?);
            if let Some(kind) = asked.iter().find(|kind| **kind == row.kind) {
                lines.entry(kind).or_default().push(row);
            }
        }
        lines.values_mut().for_each(|line| line.sort_unstable_by_key(Row::place));
        Ok(asked.iter().map(|kind| lines.remove(kind).unwrap_or_default()).collect())
    }

    fn blocked(&mut self, key: &str, limit: usize) -> Result<Vec<Row>, Fault> {
        let sql = format!(
            "SELECT {COLUMNS} FROM maitred.task AS t WHERE conc_key = $1 AND state = 2 \
             ORDER BY rank, tag, id LIMIT $2 FOR UPDATE SKIP LOCKED"
        );
        self.fetch_held(&sql, &[(&key, Type::TEXT), (&limit_of(limit), Type::INT8)])
    }

    fn lock_keys(&mut self, keys: &[&str]) -> Result<(), Fault> {
        if keys.is_empty() {
            return Ok(());
        }
        let sql = "SELECT count(pg_advisory_xact_lock(hashtextextended(key, 20260101))) \
                   FROM unnest($1) AS k (key)";
        self.fetch(sql, &[(&keys, Type::TEXT_ARRAY)]).map(drop)
    }

    fn holders(&mut self, key: &str) -> Result<Vec<u64>, Fault> {
        let sql = "SELECT id FROM maitred.task WHERE conc_key = $1 AND state = 3 ORDER BY id";
        let found = self.fetch(sql, &[(&key, Type::TEXT)])?;
        found.iter().map(|columns| number(columns, 0)).collect::<Result<_, _>>().map_err(odd)
    }

    fn due(&mut self, until: u64, limit: usize) -> Result<Vec<Row>, Fault> {
        let sql = format!(
            "SELECT {COLUMNS} FROM maitred.task AS t WHERE due <= $1 \
             ORDER BY due, id LIMIT $2 FOR UPDATE SKIP LOCKED"
        );
        let until = i64::try_from(until).unwrap_or(i64::MAX);
        self.fetch_held(&sql, &[(&until, Type::INT8), (&limit_of(limit), Type::INT8)])
    }

    fn next_due(&mut self) -> Result<Option<u64>, Fault> {
        let sql = "SELECT min(due) FROM maitred.task WHERE due IS NOT NULL";
        let found = self.fetch(sql, &[])?;
        let next = found.first().map(|columns| columns.try_get::<_, Option<i64>>(0));
        let next = next.transpose().map_err(odd)?.flatten();
        let soonest = self.now.line + ELSEWHERE_MS;
        Ok(next.map(|next| match next as u64 {
            // Another broker is at it.
            past if past <= self.now.line => soonest,
            later => later,
        }))
    }

    fn by_wall(&mut self, _after: u64, _limit: usize) -> Result<Vec<Row>, Fault> {
        // The line is the wall clock here: the server's.
        Ok(Vec::new())
    }

    fn scan(&mut self, filter: &Filter) -> Result<(Vec<Row>, Option<u64>), Fault> {
        let after = filter.after.map_or(0, |id| id.0).min(i64::MAX as u64) as i64;
        let end = "SELECT max(id) FROM (SELECT id FROM maitred.task WHERE id > $1 \
                   ORDER BY id LIMIT $2) AS looked HAVING count(*) = $2";
        let end = self.fetch(end, &[(&after, Type::INT8), (&SCAN, Type::INT8)])?;
        let end = end.first().map(|columns| number(columns, 0)).transpose().map_err(odd)?;
        let sql = format!(
            "SELECT {COLUMNS} FROM maitred.task AS t WHERE id > $1 AND id <= $2 \
             AND ($3 IS NULL OR kind = $3) AND ($4 IS NULL OR state = $4) \
             ORDER BY id LIMIT $5"
        );
        let last = end.map_or(i64::MAX, |id| id as i64);
        let kind = filter.task_type.as_deref().map(|kind| kind.replace('\0', " "));
        let state = filter.state.map(|state| i16::from(state.code()));
        let (mut from, mut found) = (after, Vec::new());
        // What SQL does not look at is looked at here, so a page may take more than one look.
        loop {
            let wanted = limit_of(filter.limit);
            let params: [Param<'_>; 5] = [
                (&from, Type::INT8),
                (&last, Type::INT8),
                (&kind, Type::TEXT),
                (&state, Type::INT2),
                (&wanted, Type::INT8),
            ];
            let page = self.fetch(&sql, &params)?;
            for columns in &page {
                let row = read(columns).map_err(odd)?;
                from = row.id as i64;
                if passes(&row, filter) {
                    found.push(row);
                }
                if found.len() >= filter.limit {
                    return Ok((found, Some(from as u64)));
                }
            }
            if page.len() < filter.limit {
                return Ok((found, end));
            }
        }
    }

    fn ahead(&mut self, row: &Row, limit: usize) -> Result<u64, Fault> {
        let sql = "SELECT count(*) FROM (SELECT 1 FROM maitred.task WHERE kind = $1 \
                   AND state = 0 AND (rank, tag, id) < ($2, $3, $4) LIMIT $5) AS before";
        let (rank, tag, id) = row.place();
        let params: [Param<'_>; 5] = [
            (&row.kind, Type::TEXT),
            (&rank, Type::INT4),
            (&(tag as i64), Type::INT8),
            (&(id as i64), Type::INT8),
            (&limit_of(limit), Type::INT8),
        ];
        let found = self.fetch(sql, &params)?;
        found.first().map_or(Ok(0), |columns| number(columns, 0)).map_err(odd)
    }

    fn turns(&mut self) -> Result<Vec<Turns>, Fault> {
        let sql = "SELECT kind, fair_key, min(tag), max(tag) FROM maitred.task \
                   WHERE state IN (0, 2) \
                   GROUP BY kind, fair_key";
        let turns = |columns: &Columns| {
            Ok(Turns {
                kind: columns.try_get(0)?,
                fair_key: columns.try_get(1)?,
                low: number(columns, 2)?,
                high: number(columns, 3)?,
            })
        };
        self.fetch(sql, &[])?.iter().map(turns).collect::<Result<_, _>>().map_err(odd)
    }

    fn is_paused(&mut self, kind: &str) -> Result<bool, Fault> {
        Ok(self.paused.contains(kind))
    }

    fn set_paused(&mut self, kind: &str, paused: bool) -> Result<bool, Fault> {
        let sql = match paused {
            true => "INSERT INTO maitred.paused VALUES ($1) ON CONFLICT DO NOTHING",
            false => "DELETE FROM maitred.paused WHERE kind = $1",
        };
        let changed = self.execute(sql, &[(&kind, Type::TEXT)])? > 0;
        if paused {
            self.paused.insert(kind.to_owned());
        } else {
            self.paused.remove(kind);
        }
        Ok(changed)
    }

    fn queues(&mut self) -> Result<Vec<QueueView>, Fault> {
        // What this transaction changed is counted at its end.
        let sql = "SELECT kind, state, sum(n)::bigint FROM maitred.tally GROUP BY kind, state";
        let mut queues: BTreeMap<String, QueueView> = BTreeMap::new();
        let mut add = |kind: String, state: usize, count: i64| {
            let queue = queues.entry(kind).or_default();
            if let Some(total) = queue.counts.get_mut(state) {
                *total = total.saturating_add_signed(count);
            }
        };
        let found = self.fetch(sql, &[])?;
        for columns in &found {
            let state: i16 = columns.try_get(1).map_err(odd)?;
            let count = columns.try_get(2).map_err(odd)?;
            add(columns.try_get(0).map_err(odd)?, usize::from(state.unsigned_abs()), count);
        }
        for ((kind, state), by) in &self.counted {
            add(kind.clone(), usize::from(*state), *by);
        }
        for kind in &self.paused {
            queues.entry(kind.clone()).or_default().paused = true;
        }
        queues.retain(|_, queue| queue.paused || queue.counts != [0; 7]);
        let named = |(task_type, queue)| QueueView { task_type, ..queue };
        Ok(queues.into_iter().map(named).collect())
    }

    fn schedules(&mut self) -> Result<Vec<(Schedule, Option<u64>)>, Fault> {
        let sql = "SELECT spec, next_at FROM maitred.schedule ORDER BY name";
        let found = self.fetch(sql, &[])?;
        let mut schedules = Vec::with_capacity(found.len());
        for columns in &found {
            let spec: String = columns.try_get(0).map_err(odd)?;
            let next: Option<i64> = columns.try_get(1).map_err(odd)?;
            // One that a later version wrote is that version's.
            let Ok(schedule) = serde_json::from_str(&spec) else { continue };
            schedules.push((schedule, next.map(|next| next as u64)));
        }
        Ok(schedules)
    }

    fn put_schedule(&mut self, schedule: &Schedule, next_at: Option<u64>) -> Result<(), Fault> {
        let sql = "INSERT INTO maitred.schedule VALUES ($1, $2, $3) ON CONFLICT (name) \
                   DO UPDATE SET spec = excluded.spec, next_at = excluded.next_at";
        let (spec, next) = (spec_of(schedule)?, next_at.map(|next| next as i64));
        let params: [Param<'_>; 3] =
            [(&schedule.name, Type::TEXT), (&spec, Type::TEXT), (&next, Type::INT8)];
        self.execute(sql, &params).map(drop)
    }

    fn advance_schedule(&mut self, schedule: &Schedule, to: Option<u64>) -> Result<(), Fault> {
        let sql = "UPDATE maitred.schedule SET next_at = $3 WHERE name = $1 AND spec = $2";
        let (spec, next) = (spec_of(schedule)?, to.map(|next| next as i64));
        let params: [Param<'_>; 3] =
            [(&schedule.name, Type::TEXT), (&spec, Type::TEXT), (&next, Type::INT8)];
        self.execute(sql, &params).map(drop)
    }

    fn drop_schedule(&mut self, name: &str) -> Result<bool, Fault> {
        if name.contains('\0') {
            return Ok(false);
        }
        let sql = "DELETE FROM maitred.schedule WHERE name = $1";
        Ok(self.execute(sql, &[(&name, Type::TEXT)])? > 0)
    }

    fn hear(&mut self, tell: Tell) {
        if let Some(hearing) = &mut self.hearing {
            hearing.start(tell);
        }
    }

    fn told(&mut self, notices: &[Notice]) {
        if let Some(hearing) = &self.hearing {
            hearing.pass_on(notices);
        }
    }

    fn reconnect(&mut self) -> Result<(), Fault> {
        // The next transaction brings it back, or says that there is no server.
        self.link.cut();
        Ok(())
    }

    fn level(&self) -> Level {
        self.level
    }

    fn close(&mut self) {
        self.hearing = None;
    }
}

fn spec_of(schedule: &Schedule) -> Result<String, Fault> {
    serde_json::to_string(schedule)
        .map_err(|error| Fault::Failed(format!("the schedule cannot be written: {error}")))
}
