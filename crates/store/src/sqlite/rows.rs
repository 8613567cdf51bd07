//! Rows in SQLite.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Params, params};

use super::guard::{self, Lock, Refused};
use super::{Recovered, schema, wal};
use crate::api::{Filter, Level, QueueView};
use crate::clock::Clock;
use crate::cron::Schedule;
use crate::memory::passes;
use crate::row::{Row, Spec};
use crate::rows::{Fault, Rows, Turns, Wants};
use crate::task::{DeathReason, State};

/// Larger payloads get a table of their own, so that a task changes state without moving them.
const INLINE: usize = 1_024;
/// Bytes kept back so that settles go on when the disk is full.
const RESERVE: u64 = 16 << 20;
/// How often room is looked for once there was none.
const LOOK: Duration = Duration::from_secs(1);
/// Pages of the log after which it is copied into the file even under load: 32 MiB.
const LOG_PAGES: u64 = 4_096;
/// Rows a filter looks at before it hands over what it found.
const SCAN: usize = 20_000;

pub(super) struct Sqlite {
    connection: Connection,
    path: PathBuf,
    os_level: bool,
    kinds: HashMap<String, Kind>,
    names: HashMap<i64, String>,
    last_task: u64,
    last_fence: u64,
    /// What `meta` says of these two.
    stored: (u64, u64),
    /// The same when the transaction began: what it gave goes with it.
    begun: (u64, u64),
    schedules: Vec<(Schedule, Option<u64>)>,
    /// Counts that changed since `begin`: type, state, by.
    counted: Vec<(String, State, i64)>,
    /// What was in memory only changed with tables that were rolled back.
    reread: bool,
    log_pages: u64,
    looked: Option<Instant>,
    /// Ends last, after the connection.
    _lock: Lock,
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    id: i64,
    paused: bool,
    counts: [u64; 7],
}

impl Sqlite {
    pub(super) fn open(
        path: &Path,
        clock: &Clock,
        os_level: bool,
    ) -> Result<(Sqlite, Recovered), Refused> {
        let lock = guard::lock(path)?;
        let io = |error| Refused::Io { path: path.to_owned(), error };
        let unusable = |error: rusqlite::Error| Refused::Unusable(error.to_string());
        if wal::read(&guard::beside(path, "-wal")).map_err(io)?.has_hole() {
            let what = "its log has a hole: what follows it was answered and would be lost".into();
            return Err(Refused::Damaged { path: path.to_owned(), what });
        }
        let mut connection = Connection::open(path).map_err(unusable)?;
        configure(&connection, os_level).map_err(|error| damage_or(path, error))?;
        let found = schema::version(&connection).map_err(|error| damage_or(path, error))?;
        if found > schema::VERSION {
            let (path, known) = (path.to_owned(), schema::VERSION);
            return Err(Refused::Newer { path, found, known });
        }
        schema::migrate(&mut connection).map_err(|error| damage_or(path, error))?;
        guard::sync_directory(path).map_err(io)?;
        let mut rows = Sqlite {
            connection,
            path: path.to_owned(),
            os_level,
            kinds: HashMap::new(),
            names: HashMap::new(),
            last_task: 0,
            last_fence: 0,
            stored: (0, 0),
            begun: (0, 0),
            schedules: Vec::new(),
            counted: Vec::new(),
            reread: false,
            log_pages: 0,
            looked: None,
            _lock: lock,
        };
        let recovered = rows.recover(clock).map_err(|fault| match fault {
            Fault::Broken(what) => Refused::Damaged { path: path.to_owned(), what },
            Fault::Full(what) | Fault::Lost(what) | Fault::Failed(what) | Fault::Again(what) => {
                Refused::Unusable(what)
            }
        })?;
        // Without a reserve the store works; it only cannot settle on a full disk.
        let _ = rows.keep_reserve();
        Ok((rows, recovered))
    }

    /// Makes what the last process left a store of this one.
    fn recover(&mut self, clock: &Clock) -> Result<Recovered, Fault> {
        let unclean = self.meta("clean")?.as_deref() == Some("no");
        if unclean {
            let fault: String = self.one("PRAGMA quick_check(1)", [])?;
            if fault != "ok" {
                return Err(Fault::Broken(fault));
            }
        }
        let newest = |column: &str| {
            format!(
                "SELECT coalesce(max({column}), 0) FROM \
                 (SELECT {column} FROM task ORDER BY id DESC LIMIT 1)"
            )
        };
        let last_created: u64 = self.one(&newest("created"), [])?;
        let last_id: u64 = self.one(&newest("id"), [])?;
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
        let last_line = last_created.max(number(self.meta("line")?));
        let kept = clock.resume(self.meta("clock")?.as_deref(), last_line);
        // Unix time in µs: above what was given before even if that is forgotten (a backup).
        let floor = clock.now().wall * 1_000;
        self.last_task = number(self.meta("task")?).max(last_id).max(floor);
        self.last_fence = number(self.meta("fence")?).max(floor);
        self.begin(&Wants::default())?;
        self.set_meta("clock", &kept)?;
        self.set_meta("clean", "no")?;
        self.set_meta("line", &clock.now().line.to_string())?;
        self.read_tables()?;
        let leases = self.give_back()?;
        self.commit()?;
        // A new log at every start: see `wal`.
        self.checkpoint("TRUNCATE")?;
        let open = |kind: &Kind| kind.counts[..4].iter().sum::<u64>();
        let tasks = self.kinds.values().map(open).sum();
        Ok(Recovered { unclean, tasks, leases, took_ms: 0 })
    }

    /// Leases of the last process end; what was blocked by them is looked at anew.
    fn give_back(&mut self) -> Result<u64, Fault> {
        let mut leases = 0;
        let select = format!("{SELECT} WHERE state IN (2, 3) ORDER BY id");
        for before in self.many(&select, [])? {
            let mut row = before.clone();
            leases += u64::from(row.state == State::Leased);
            row.state = State::Ready;
            row.lease_until = None;
            if !row.damaged {
                self.update(&before, &row)?;
            }
        }
        Ok(leases)
    }

    fn read_tables(&mut self) -> Result<(), Fault> {
        self.kinds.clear();
        self.names.clear();
        let mut kinds =
            self.connection.prepare("SELECT id, name, paused FROM kind").map_err(odd)?;
        let read = kinds.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        for entry in read.map_err(odd)? {
            let (id, name, paused): (i64, String, bool) = entry.map_err(odd)?;
            self.names.insert(id, name.clone());
            self.kinds.insert(name, Kind { id, paused, counts: [0; 7] });
        }
        drop(kinds);
        let sql = "SELECT kind, state, count(*) FROM task GROUP BY kind, state";
        let mut counts = self.connection.prepare(sql).map_err(odd)?;
        let read = counts.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        for entry in read.map_err(odd)? {
            let (kind, state, count): (i64, i64, u64) = entry.map_err(odd)?;
            let kind = self.names.get(&kind).and_then(|name| self.kinds.get_mut(name));
            if let (Some(kind), Some(state)) = (kind, State::from_code(state)) {
                kind.counts[usize::from(state.code())] = count;
            }
        }
        drop(counts);
        self.schedules.clear();
        let sql = "SELECT spec, next_at FROM schedule ORDER BY name";
        let mut schedules = self.connection.prepare(sql).map_err(odd)?;
        let read = schedules.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        for entry in read.map_err(odd)? {
            let (spec, next_at): (String, Option<u64>) = entry.map_err(odd)?;
            let schedule = serde_json::from_str(&spec)
                .map_err(|error| Fault::Broken(format!("a schedule cannot be read: {error}")))?;
            self.schedules.push((schedule, next_at));
        }
        Ok(())
    }

    fn meta(&self, key: &str) -> Result<Option<String>, Fault> {
        let sql = "SELECT value FROM meta WHERE key = ?1";
        self.connection.query_row(sql, [key], |row| row.get(0)).optional().map_err(odd)
    }

    fn set_meta(&self, key: &str, value: &str) -> Result<(), Fault> {
        self.run("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", [key, value])
    }

    fn run(&self, sql: &str, params: impl Params) -> Result<(), Fault> {
        let mut statement = self.connection.prepare_cached(sql).map_err(odd)?;
        statement.execute(params).map(drop).map_err(odd)
    }

    fn one<T: rusqlite::types::FromSql>(&self, sql: &str, params: impl Params) -> Result<T, Fault> {
        let mut statement = self.connection.prepare_cached(sql).map_err(odd)?;
        statement.query_row(params, |row| row.get(0)).map_err(odd)
    }

    fn many(&self, sql: &str, params: impl Params) -> Result<Vec<Row>, Fault> {
        let mut statement = self.connection.prepare_cached(sql).map_err(odd)?;
        let rows = statement.query_map(params, |row| read(row, &self.names)).map_err(odd)?;
        rows.collect::<Result<_, _>>().map_err(odd)
    }

    fn numbers(&self, sql: &str, params: impl Params) -> Result<Vec<u64>, Fault> {
        let mut statement = self.connection.prepare_cached(sql).map_err(odd)?;
        let rows = statement.query_map(params, |row| row.get(0)).map_err(odd)?;
        rows.collect::<Result<_, _>>().map_err(odd)
    }

    fn kind_id(&self, kind: &str) -> Option<i64> {
        self.kinds.get(kind).map(|kind| kind.id)
    }

    fn require_kind(&mut self, kind: &str) -> Result<i64, Fault> {
        if let Some(id) = self.kind_id(kind) {
            return Ok(id);
        }
        self.run("INSERT INTO kind (name, paused) VALUES (?1, 0)", [kind])?;
        let id = self.connection.last_insert_rowid();
        self.reread = true;
        self.names.insert(id, kind.to_owned());
        self.kinds.insert(kind.to_owned(), Kind { id, paused: false, counts: [0; 7] });
        Ok(id)
    }

    fn count(&mut self, kind: &str, state: State, by: i64) {
        if let Some(kind) = self.kinds.get_mut(kind) {
            let count = &mut kind.counts[usize::from(state.code())];
            *count = count.saturating_add_signed(by);
        }
        self.counted.push((kind.to_owned(), state, by));
    }

    fn checkpoint(&mut self, mode: &str) -> Result<(), Fault> {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        self.connection.query_row(&sql, [], |_| Ok(())).map_err(odd)?;
        self.log_pages = 0;
        Ok(())
    }

    fn keep_reserve(&self) -> std::io::Result<()> {
        let path = guard::beside(&self.path, ".reserve");
        if fs::metadata(&path).is_ok_and(|data| data.len() == RESERVE) {
            return Ok(());
        }
        let file = File::create(&path)?;
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, RESERVE).inspect_err(|_| {
            // Half a reserve would take the room it is for.
            let _ = fs::remove_file(&path);
        })?;
        Ok(())
    }
}

fn configure(connection: &Connection, os_level: bool) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(64);
    connection.execute_batch("PRAGMA page_size = 8192")?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::InvalidParameterName(format!("journal mode {mode}")));
    }
    let synchronous = if os_level { "NORMAL" } else { "FULL" };
    connection.execute_batch(&format!(
        "PRAGMA synchronous = {synchronous}; PRAGMA wal_autocheckpoint = 0;
         PRAGMA cache_size = -65536; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;
         PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF; PRAGMA foreign_keys = OFF;
         PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON; PRAGMA secure_delete = OFF"
    ))
}

fn damage_or(path: &Path, error: rusqlite::Error) -> Refused {
    match odd(error) {
        Fault::Broken(what) => Refused::Damaged { path: path.to_owned(), what },
        Fault::Full(what) | Fault::Lost(what) | Fault::Failed(what) | Fault::Again(what) => {
            Refused::Unusable(what)
        }
    }
}

/// What an error of SQLite means for a store.
pub(super) fn odd(error: rusqlite::Error) -> Fault {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Fault::Full(text),
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly,
        ) => Fault::Broken(text),
        _ => Fault::Failed(text),
    }
}

const SELECT: &str = "SELECT id, kind, state, reason, rank, tag, created, run_at, at_wall, \
    deadline, lease_until, keep_until, ended, attempt, fence, settled, next, worker, last_error, \
    progress, unique_key, fair_key, conc_key, spec, payload_len, payload_crc, outside, payload, \
    result, crc FROM task";

/// The columns of [`SELECT`] as a row; damaged if they are not what was written.
fn read(from: &rusqlite::Row<'_>, names: &HashMap<i64, String>) -> rusqlite::Result<Row> {
    let kind: i64 = from.get(1)?;
    let state = State::from_code(from.get(2)?);
    let reason: Option<i64> = from.get(3)?;
    let spec_text: String = from.get(23)?;
    let spec = Spec::parse(&spec_text);
    let readable = state.is_some() && spec.is_some() && names.contains_key(&kind);
    let mut row = Row {
        id: from.get(0)?,
        kind: names.get(&kind).cloned().unwrap_or_default(),
        state: state.unwrap_or(State::Dead),
        reason: reason.and_then(DeathReason::from_code),
        rank: from.get(4)?,
        tag: from.get(5)?,
        created: from.get(6)?,
        run_at: from.get(7)?,
        at_wall: from.get(8)?,
        deadline: from.get(9)?,
        lease_until: from.get(10)?,
        keep_until: from.get(11)?,
        ended: from.get(12)?,
        attempt: from.get(13)?,
        fence: from.get(14)?,
        settled: from.get(15)?,
        next: from.get(16)?,
        worker: from.get(17)?,
        last_error: from.get(18)?,
        progress: from.get(19)?,
        unique_key: from.get(20)?,
        fair_key: from.get(21)?,
        conc_key: from.get(22)?,
        spec: spec.unwrap_or_default(),
        spec_text,
        payload_len: from.get(24)?,
        payload_crc: from.get(25)?,
        outside: from.get(26)?,
        payload: match from.get_ref(27)?.data_type() {
            Type::Null => Vec::new(),
            Type::Integer | Type::Real | Type::Text | Type::Blob => from.get(27)?,
        },
        result: from.get(28)?,
        damaged: false,
    };
    let crc: u32 = from.get(29)?;
    row.damaged = !readable || row.checksum() != crc;
    Ok(row)
}

impl Rows for Sqlite {
    fn begin(&mut self, _wants: &Wants) -> Result<(), Fault> {
        self.counted.clear();
        self.reread = false;
        self.begun = (self.last_task, self.last_fence);
        self.run("BEGIN IMMEDIATE", [])
    }

    fn commit(&mut self) -> Result<(), Fault> {
        let numbers = (self.last_task, self.last_fence);
        if numbers != self.stored {
            self.set_meta("task", &numbers.0.to_string())?;
            self.set_meta("fence", &numbers.1.to_string())?;
        }
        self.run("COMMIT", [])?;
        self.stored = numbers;
        // Each change touches a few pages; the log is measured only when it may have grown large.
        self.log_pages += self.counted.len() as u64;
        if self.log_pages > LOG_PAGES {
            let log = guard::beside(&self.path, "-wal");
            if fs::metadata(log).is_ok_and(|data| data.len() > LOG_PAGES * 8_192) {
                self.checkpoint("PASSIVE")?;
            }
            self.log_pages = 0;
        }
        Ok(())
    }

    fn rollback(&mut self) {
        if !self.connection.is_autocommit() {
            // What cannot be rolled back fails again, at the next call.
            let _ = self.run("ROLLBACK", []);
        }
        // Or the next transaction would write although it only reads.
        (self.last_task, self.last_fence) = self.begun;
        for (kind, state, by) in std::mem::take(&mut self.counted) {
            if let Some(kind) = self.kinds.get_mut(&kind) {
                let count = &mut kind.counts[usize::from(state.code())];
                *count = count.saturating_add_signed(-by);
            }
        }
        if std::mem::take(&mut self.reread) {
            let _ = self.read_tables();
        }
    }

    fn task_ids(&mut self, count: usize) -> Result<Vec<u64>, Fault> {
        let first = self.last_task + 1;
        self.last_task += count as u64;
        Ok((first..=self.last_task).collect())
    }

    fn fences(&mut self, rows: &[Row]) -> Result<Vec<u64>, Fault> {
        let first = self.last_fence + 1;
        self.last_fence += rows.len() as u64;
        Ok((first..=self.last_fence).collect())
    }

    fn insert(&mut self, mut row: Row) -> Result<(), Fault> {
        let kind = self.require_kind(&row.kind)?;
        row.outside = row.payload.len() > INLINE;
        let inline = (!row.outside).then_some(&row.payload);
        self.run(
            "INSERT INTO task (id, kind, state, rank, tag, due, created, run_at, at_wall, \
             deadline, unique_key, fair_key, conc_key, spec, payload_len, payload_crc, \
             outside, payload, crc, attempt, fence, settled, next) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, \
             ?17, ?18, ?19, 0, 0, 0, 0)",
            params![
                row.id,
                kind,
                row.state.code(),
                row.rank,
                row.tag,
                row.due(),
                row.created,
                row.run_at,
                row.at_wall,
                row.deadline,
                row.unique_key,
                row.fair_key,
                row.conc_key,
                row.spec_text,
                row.payload_len,
                row.payload_crc,
                row.outside,
                inline,
                row.checksum(),
            ],
        )?;
        if row.outside {
            self.run("INSERT INTO payload VALUES (?1, ?2)", params![row.id, row.payload])?;
        }
        self.count(&row.kind, row.state, 1);
        Ok(())
    }

    fn update(&mut self, before: &Row, row: &Row) -> Result<(), Fault> {
        let mut row = row.clone();
        if row.outside && row.payload_len == 0 {
            self.run("DELETE FROM payload WHERE id = ?1", [row.id])?;
            row.outside = false;
        }
        self.run(
            "UPDATE task SET state = ?2, reason = ?3, tag = ?4, due = ?5, run_at = ?6, \
             at_wall = ?7, deadline = ?8, lease_until = ?9, keep_until = ?10, ended = ?11, \
             attempt = ?12, fence = ?13, settled = ?14, next = ?15, worker = ?16, \
             last_error = ?17, progress = ?18, payload_len = ?19, payload_crc = ?20, \
             outside = ?21, payload = CASE WHEN ?19 = 0 THEN NULL ELSE payload END, \
             result = ?22, crc = ?23 WHERE id = ?1",
            params![
                row.id,
                row.state.code(),
                row.reason.map(DeathReason::code),
                row.tag,
                row.due(),
                row.run_at,
                row.at_wall,
                row.deadline,
                row.lease_until,
                row.keep_until,
                row.ended,
                row.attempt,
                row.fence,
                row.settled,
                row.next,
                row.worker,
                row.last_error,
                row.progress,
                row.payload_len,
                row.payload_crc,
                row.outside,
                row.result,
                row.checksum(),
            ],
        )?;
        self.count(&row.kind, before.state, -1);
        self.count(&row.kind, row.state, 1);
        Ok(())
    }

    fn delete(&mut self, row: &Row) -> Result<(), Fault> {
        self.run("DELETE FROM task WHERE id = ?1", [row.id])?;
        if row.outside {
            self.run("DELETE FROM payload WHERE id = ?1", [row.id])?;
        }
        self.count(&row.kind, row.state, -1);
        Ok(())
    }

    fn fetch_payload(&mut self, row: &mut Row) -> Result<(), Fault> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT body FROM payload WHERE id = ?1")
            .map_err(odd)?;
        let body = statement.query_row([row.id], |body| body.get(0)).optional().map_err(odd)?;
        // An absent payload shows as one that is not whole.
        row.payload = body.unwrap_or_default();
        Ok(())
    }

    fn load(&mut self, ids: &[u64]) -> Result<Vec<Row>, Fault> {
        let select = format!("{SELECT} WHERE id = ?1");
        let mut statement = self.connection.prepare_cached(&select).map_err(odd)?;
        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            // A token may name any number, also one that SQLite has no place for.
            let Ok(id) = i64::try_from(*id) else { continue };
            let row = statement.query_row([id], |row| read(row, &self.names));
            rows.extend(row.optional().map_err(odd)?);
        }
        Ok(rows)
    }

    fn by_unique(&mut self, keys: &[(&str, &str)]) -> Result<Vec<Row>, Fault> {
        let select = format!("{SELECT} WHERE kind = ?1 AND unique_key = ?2");
        let mut rows = Vec::new();
        for (kind, key) in keys {
            let Some(kind) = self.kind_id(kind) else { continue };
            rows.extend(self.many(&select, params![kind, key])?);
        }
        Ok(rows)
    }

    fn ready(&mut self, kinds: &[&str], limit: usize) -> Result<Vec<Vec<Row>>, Fault> {
        let select =
            format!("{SELECT} WHERE kind = ?1 AND state = 0 ORDER BY rank, tag, id LIMIT ?2");
        let line = |kind: &&str| match self.kind_id(kind) {
            None => Ok(Vec::new()),
            Some(kind) => self.many(&select, params![kind, limit]),
        };
        kinds.iter().map(line).collect()
    }

    fn blocked(&mut self, key: &str, limit: usize) -> Result<Vec<Row>, Fault> {
        let select =
            format!("{SELECT} WHERE conc_key = ?1 AND state = 2 ORDER BY rank, tag, id LIMIT ?2");
        self.many(&select, params![key, limit])
    }

    fn holders(&mut self, key: &str) -> Result<Vec<u64>, Fault> {
        self.numbers("SELECT id FROM task WHERE conc_key = ?1 AND state = 3", [key])
    }

    fn due(&mut self, until: u64, limit: usize) -> Result<Vec<Row>, Fault> {
        let select = format!("{SELECT} WHERE due <= ?1 ORDER BY due, id LIMIT ?2");
        self.many(&select, params![until, limit])
    }

    fn next_due(&mut self) -> Result<Option<u64>, Fault> {
        self.one("SELECT min(due) FROM task WHERE due IS NOT NULL", [])
    }

    fn by_wall(&mut self, after: u64, limit: usize) -> Result<Vec<Row>, Fault> {
        let select = format!(
            "{SELECT} WHERE at_wall IS NOT NULL AND id > ?1 AND state = 1 ORDER BY id LIMIT ?2"
        );
        self.many(&select, params![after, limit])
    }

    fn scan(&mut self, filter: &Filter) -> Result<(Vec<Row>, Option<u64>), Fault> {
        let after = filter.after.map_or(0, |id| id.0).min(i64::MAX as u64);
        let select = format!("{SELECT} WHERE id > ?1 ORDER BY id");
        let mut statement = self.connection.prepare_cached(&select).map_err(odd)?;
        let mut entries = statement.query([after]).map_err(odd)?;
        let mut found = Vec::new();
        let mut looked = 0;
        while let Some(entry) = entries.next().map_err(odd)? {
            let row = read(entry, &self.names).map_err(odd)?;
            let id = row.id;
            looked += 1;
            if passes(&row, filter) {
                found.push(row);
            }
            if found.len() >= filter.limit || looked >= SCAN {
                return Ok((found, Some(id)));
            }
        }
        Ok((found, None))
    }

    fn ahead(&mut self, row: &Row, limit: usize) -> Result<u64, Fault> {
        let kind = self.kind_id(&row.kind);
        let (rank, tag, id) = row.place();
        self.one(
            "SELECT count(*) FROM (SELECT 1 FROM task WHERE kind = ?1 AND state = 0 \
             AND (rank, tag, id) < (?2, ?3, ?4) LIMIT ?5)",
            params![kind, rank, tag, id, limit],
        )
    }

    fn turns(&mut self) -> Result<Vec<Turns>, Fault> {
        let sql = "SELECT kind, fair_key, min(tag), max(tag) FROM task WHERE state IN (0, 2) \
                   GROUP BY kind, fair_key";
        let mut statement = self.connection.prepare(sql).map_err(odd)?;
        let read = statement.query_map([], |row| {
            let kind = self.names.get(&row.get(0)?).cloned().unwrap_or_default();
            Ok(Turns { kind, fair_key: row.get(1)?, low: row.get(2)?, high: row.get(3)? })
        });
        read.map_err(odd)?.collect::<Result<_, _>>().map_err(odd)
    }

    fn is_paused(&mut self, kind: &str) -> Result<bool, Fault> {
        Ok(self.kinds.get(kind).is_some_and(|kind| kind.paused))
    }

    fn set_paused(&mut self, kind: &str, paused: bool) -> Result<bool, Fault> {
        if self.is_paused(kind)? == paused {
            return Ok(false);
        }
        let id = self.require_kind(kind)?;
        self.run("UPDATE kind SET paused = ?2 WHERE id = ?1", params![id, paused])?;
        self.reread = true;
        if let Some(kind) = self.kinds.get_mut(kind) {
            kind.paused = paused;
        }
        Ok(true)
    }

    fn queues(&mut self) -> Result<Vec<QueueView>, Fault> {
        let shown = |(_, kind): &(&String, &Kind)| kind.paused || kind.counts != [0; 7];
        let view = |(name, kind): (&String, &Kind)| QueueView {
            task_type: name.clone(),
            paused: kind.paused,
            counts: kind.counts,
        };
        let mut queues: Vec<QueueView> = self.kinds.iter().filter(shown).map(view).collect();
        queues.sort_by(|a, b| a.task_type.cmp(&b.task_type));
        Ok(queues)
    }

    fn schedules(&mut self) -> Result<Vec<(Schedule, Option<u64>)>, Fault> {
        Ok(self.schedules.clone())
    }

    fn put_schedule(&mut self, schedule: &Schedule, next_at: Option<u64>) -> Result<(), Fault> {
        let spec = serde_json::to_string(schedule)
            .map_err(|error| Fault::Failed(format!("the schedule cannot be written: {error}")))?;
        let params = params![schedule.name, spec, next_at];
        self.run("INSERT OR REPLACE INTO schedule VALUES (?1, ?2, ?3)", params)?;
        self.reread = true;
        self.schedules.retain(|(other, _)| other.name != schedule.name);
        self.schedules.push((schedule.clone(), next_at));
        self.schedules.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        Ok(())
    }

    fn drop_schedule(&mut self, name: &str) -> Result<bool, Fault> {
        self.run("DELETE FROM schedule WHERE name = ?1", [name])?;
        self.reread = true;
        let before = self.schedules.len();
        self.schedules.retain(|(other, _)| other.name != name);
        Ok(self.schedules.len() < before)
    }

    fn idle(&mut self) -> Result<bool, Fault> {
        self.checkpoint("PASSIVE")?;
        Ok(false)
    }

    fn has_room(&mut self) -> bool {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return false;
        }
        self.looked = Some(Instant::now());
        self.keep_reserve().is_ok()
    }

    fn free_reserve(&mut self) -> bool {
        fs::remove_file(guard::beside(&self.path, ".reserve")).is_ok()
    }

    fn level(&self) -> Level {
        if self.os_level { Level::Os } else { Level::Durable }
    }

    fn close(&mut self) {
        if !self.connection.is_autocommit() {
            return;
        }
        // An unclean end costs a check at the next start, and nothing else.
        let line: Result<(), Fault> = self.set_meta("clean", "yes");
        let _ = line.and_then(|()| self.checkpoint("TRUNCATE"));
    }
}
