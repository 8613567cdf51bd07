//! The tables, and how older files become current ones.

use rusqlite::{Connection, TransactionBehavior};

/// Changes that were made to the schema, oldest first. A file has had the first `user_version` of
/// them. An entry that was ever released is never edited.
const MIGRATIONS: [&str; 1] = ["
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE kind (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  paused INTEGER NOT NULL
) STRICT;
CREATE TABLE task (
  id INTEGER PRIMARY KEY,
  kind INTEGER NOT NULL,
  state INTEGER NOT NULL, -- 0 ready 1 scheduled 2 blocked 3 leased 4 done 5 dead 6 cancelled
  reason INTEGER,         -- 0 attempts 1 deadline 2 rejected 3 damaged
  rank INTEGER NOT NULL,  -- minus the priority
  tag INTEGER NOT NULL,   -- turn among fair keys
  due INTEGER,            -- when something happens by itself; times are ms of the store's line
  created INTEGER NOT NULL,
  run_at INTEGER NOT NULL,
  at_wall INTEGER,
  deadline INTEGER,
  lease_until INTEGER,
  keep_until INTEGER,
  ended INTEGER,
  attempt INTEGER NOT NULL,
  fence INTEGER NOT NULL,
  settled INTEGER NOT NULL,
  next INTEGER NOT NULL,
  worker TEXT,
  last_error TEXT,
  progress BLOB,
  unique_key TEXT,
  fair_key TEXT,
  conc_key TEXT,
  spec TEXT NOT NULL,
  payload_len INTEGER NOT NULL,
  payload_crc INTEGER NOT NULL,
  outside INTEGER NOT NULL, -- the payload is in its own table
  payload BLOB,
  result BLOB,
  crc INTEGER NOT NULL
) STRICT;
CREATE INDEX task_ready ON task (kind, rank, tag, id) WHERE state = 0;
CREATE INDEX task_due ON task (due, id) WHERE due IS NOT NULL;
CREATE UNIQUE INDEX task_unique ON task (kind, unique_key) WHERE unique_key IS NOT NULL;
CREATE INDEX task_key ON task (conc_key, state, rank, tag, id) WHERE conc_key IS NOT NULL;
CREATE INDEX task_wall ON task (id) WHERE at_wall IS NOT NULL;
CREATE TABLE payload (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE schedule (
  name TEXT PRIMARY KEY,
  spec TEXT NOT NULL,
  next_at INTEGER
) STRICT, WITHOUT ROWID;
"];

/// The version this code reads and writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Brings a file up to [`VERSION`], each step whole or not at all.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let from = version(connection)?;
    for (number, sql) in (1..).zip(MIGRATIONS).filter(|(number, _)| *number > from) {
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step.execute_batch(sql)?;
        step.pragma_update(None, "user_version", number)?;
        step.commit()?;
    }
    Ok(())
}
