//! The local queue on disk: what was fetched, how far chains came, and outcomes that are not
//! handed in yet.
//!
//! Losing the file loses no acknowledged work: leases end, and tasks return to the global queue.
//! Keeping it saves repeating: after a crash the drone goes on where its leases still hold, and
//! hands in what was done. So writes are gathered for a moment; what came and went meanwhile is
//! never written at all. They survive the end of the process at once and that of the machine
//! almost always (`synchronous=NORMAL`).

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::{Connection, params};
use store::{Outcome, Settle, TaskId, Token};

use crate::core::Job;

/// How long a change may wait for others.
const GATHER: Duration = Duration::from_millis(5);

/// Version of the tables; kept in `user_version`.
const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE held (
        fence INTEGER PRIMARY KEY, task INTEGER NOT NULL, task_type TEXT NOT NULL,
        link TEXT NOT NULL, payload BLOB NOT NULL, content_type TEXT,
        attempt INTEGER NOT NULL, attributes TEXT NOT NULL
    ) STRICT;
    CREATE TABLE outcomes (
        fence INTEGER PRIMARY KEY, task INTEGER NOT NULL, outcome TEXT NOT NULL, result BLOB
    ) STRICT;
    PRAGMA user_version = 1;
";

/// Why a local queue cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("local queue {path}: {problem}")]
pub struct Unusable {
    /// The file.
    pub path: PathBuf,
    /// What is wrong and what to do.
    pub problem: String,
}

/// A change of the local queue.
enum Change {
    Held(Arc<Job>),
    Ended(Settle),
    Gone(u64),
    Close,
}

/// The local queue. Changes are written by a thread of its own.
pub struct Journal {
    changes: Sender<Change>,
    thread: Option<JoinHandle<()>>,
}

/// What an earlier life left behind.
#[derive(Default)]
pub struct Left {
    /// Tasks that were held, each at its last link.
    pub jobs: Vec<Job>,
    /// Outcomes to hand in.
    pub outcomes: Vec<Settle>,
}

impl Journal {
    /// Opens the file at `path`, or makes it; without a path it is kept in memory only.
    ///
    /// # Errors
    /// If the file cannot be used, is another drone's, or a newer version's.
    pub fn open(path: Option<&Path>) -> Result<(Journal, Left), Unusable> {
        let place = path.unwrap_or(Path::new(":memory:"));
        let unusable = |problem: String| Unusable { path: place.to_owned(), problem };
        let db = connect(place).map_err(|error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                unusable("another drone has it open; give each drone a directory of its own".into())
            }
            _ => unusable(error.to_string()),
        })?;
        let version: i64 = db
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(|error| unusable(error.to_string()))?;
        match version {
            0 => db.execute_batch(TABLES).map_err(|error| unusable(error.to_string()))?,
            VERSION => {}
            newer => {
                return Err(unusable(format!(
                    "it is of version {newer}, this program knows {VERSION}: use the program that \
                     made it, or remove the file (leases end by themselves)"
                )));
            }
        }
        let left = left(&db).map_err(|error| unusable(error.to_string()))?;
        let known = left.jobs.iter().map(|job| job.token.fence);
        let known = known.chain(left.outcomes.iter().map(|settle| settle.token.fence)).collect();
        let (changes, inbox) = channel();
        let thread = std::thread::Builder::new()
            .name("local-queue".into())
            .spawn(move || write(db, &inbox, known))
            .map_err(|error| unusable(error.to_string()))?;
        Ok((Journal { changes, thread: Some(thread) }, left))
    }

    /// Remembers a task, or the link it came to.
    pub(crate) fn held(&self, job: Arc<Job>) {
        self.say(Change::Held(job));
    }

    /// Remembers an outcome instead of its task.
    pub(crate) fn ended(&self, settle: Settle) {
        self.say(Change::Ended(settle));
    }

    /// Forgets both.
    pub(crate) fn gone(&self, token: Token) {
        self.say(Change::Gone(token.fence));
    }

    fn say(&self, change: Change) {
        // Without its thread the drone goes on: losing the local queue loses no work.
        let _ = self.changes.send(change);
    }
}

impl Drop for Journal {
    /// Writes what is still to be written.
    fn drop(&mut self) {
        self.say(Change::Close);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    // Takes the lock now, so that a second drone is told at once.
    db.execute_batch("BEGIN IMMEDIATE; COMMIT;")?;
    Ok(db)
}

fn left(db: &Connection) -> rusqlite::Result<Left> {
    let token = |task: i64, fence: i64| Token { task: TaskId(task as u64), fence: fence as u64 };
    let mut jobs = db.prepare("SELECT * FROM held ORDER BY fence")?;
    let jobs = jobs.query_map([], |row| {
        let payload: Vec<u8> = row.get("payload")?;
        let attributes: String = row.get("attributes")?;
        Ok(Job {
            token: token(row.get("task")?, row.get("fence")?),
            task_type: row.get("task_type")?,
            link: row.get("link")?,
            payload: Bytes::from(payload),
            content_type: row.get("content_type")?,
            attempt: row.get("attempt")?,
            attributes: serde_json::from_str(&attributes).unwrap_or_default(),
        })
    })?;
    let jobs = jobs.collect::<rusqlite::Result<Vec<Job>>>()?;
    let mut outcomes = db.prepare("SELECT fence, task, outcome, result FROM outcomes")?;
    let outcomes = outcomes.query_map([], |row| {
        let said: String = row.get(2)?;
        let said: Said = serde_json::from_str(&said).unwrap_or_default();
        let result: Option<Vec<u8>> = row.get(3)?;
        let outcome = match (result, said) {
            (Some(result), _) => Outcome::Complete(result),
            (None, Said { error, reject: true, .. }) => Outcome::Reject { error },
            (None, Said { error, retry_after_ms, .. }) => Outcome::Fail { error, retry_after_ms },
        };
        Ok(Settle { token: token(row.get(1)?, row.get(0)?), outcome })
    })?;
    Ok(Left { jobs, outcomes: outcomes.collect::<rusqlite::Result<_>>()? })
}

/// An outcome without a result.
#[derive(Default, serde::Deserialize, serde::Serialize)]
struct Said {
    error: String,
    reject: bool,
    retry_after_ms: Option<u64>,
}

/// The newest that is known of a task.
enum Latest {
    Held(Arc<Job>),
    Ended(Settle),
    Gone,
}

/// Gathers changes and writes them, until told to stop.
fn write(mut db: Connection, inbox: &Receiver<Change>, mut written: HashSet<u64>) {
    // `written` is what the file has: what came and went meanwhile is not written at all.
    let mut open = true;
    while open {
        let Ok(first) = inbox.recv() else { return };
        let mut latest: HashMap<u64, Latest> = HashMap::new();
        open = note(&mut latest, first);
        let until = Instant::now() + GATHER;
        while open {
            match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(change) => open = note(&mut latest, change),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
        }
        latest.retain(|fence, latest| !matches!(latest, Latest::Gone) || written.remove(fence));
        if let Err(error) = apply(&mut db, &latest) {
            tracing::error!(%error, "the local queue cannot be written; work goes on without it");
        }
        written.extend(latest.into_iter().filter_map(|(fence, latest)| match latest {
            Latest::Gone => None,
            Latest::Held(_) | Latest::Ended(_) => Some(fence),
        }));
    }
}

/// Whether to go on.
fn note(latest: &mut HashMap<u64, Latest>, change: Change) -> bool {
    match change {
        Change::Held(job) => latest.insert(job.token.fence, Latest::Held(job)),
        Change::Ended(settle) => latest.insert(settle.token.fence, Latest::Ended(settle)),
        Change::Gone(fence) => latest.insert(fence, Latest::Gone),
        Change::Close => return false,
    };
    true
}

fn apply(db: &mut Connection, latest: &HashMap<u64, Latest>) -> rusqlite::Result<()> {
    if latest.is_empty() {
        return Ok(());
    }
    let batch = db.transaction()?;
    {
        let mut held = batch.prepare_cached(
            "INSERT OR REPLACE INTO held VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let mut ended =
            batch.prepare_cached("INSERT OR REPLACE INTO outcomes VALUES (?1, ?2, ?3, ?4)")?;
        let mut unhold = batch.prepare_cached("DELETE FROM held WHERE fence = ?1")?;
        let mut forget = batch.prepare_cached("DELETE FROM outcomes WHERE fence = ?1")?;
        for (fence, latest) in latest {
            let fence = *fence as i64;
            match latest {
                Latest::Held(job) => {
                    let attributes = serde_json::to_string(&job.attributes).unwrap_or_default();
                    held.execute(params![
                        fence,
                        job.token.task.0 as i64,
                        job.task_type,
                        job.link,
                        &job.payload[..],
                        job.content_type,
                        job.attempt,
                        attributes,
                    ])?;
                }
                Latest::Ended(settle) => {
                    let (said, result) = match &settle.outcome {
                        Outcome::Complete(result) => (Said::default(), Some(&result[..])),
                        Outcome::Fail { error, retry_after_ms } => {
                            let retry_after_ms = *retry_after_ms;
                            let error = error.clone();
                            (Said { error, reject: false, retry_after_ms }, None)
                        }
                        Outcome::Reject { error } => {
                            let error = error.clone();
                            (Said { error, reject: true, retry_after_ms: None }, None)
                        }
                    };
                    let said = serde_json::to_string(&said).unwrap_or_default();
                    ended.execute(params![fence, settle.token.task.0 as i64, said, result])?;
                    unhold.execute([fence])?;
                }
                Latest::Gone => {
                    unhold.execute([fence])?;
                    forget.execute([fence])?;
                }
            }
        }
    }
    batch.commit()
}
