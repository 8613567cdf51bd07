//! The tables, and how those of older versions become current ones.
//!
//! Everything of ours is in the schema `maitred` and named with it, so that nothing depends on a
//! search path that a pooler may have left behind.

use tokio_postgres::{Client, Error};

/// Changes that were made to the schema, oldest first; `maitred.version` says how many a database
/// has had. An entry that was ever released is never edited.
const MIGRATIONS: [&str; 1] = ["
CREATE SEQUENCE maitred.task_id;
CREATE SEQUENCE maitred.fence;
CREATE TABLE maitred.task (
  id bigint PRIMARY KEY,
  kind text NOT NULL,
  state smallint NOT NULL, -- 0 ready 1 scheduled 2 blocked 3 leased 4 done 5 dead 6 cancelled
  reason smallint,         -- 0 attempts 1 deadline 2 rejected 3 damaged
  rank integer NOT NULL,   -- minus the priority
  tag bigint NOT NULL,     -- turn among fair keys
  due bigint,              -- when something happens by itself; times are Unix ms of this server
  created bigint NOT NULL,
  run_at bigint NOT NULL,
  at_wall bigint,
  deadline bigint,
  lease_until bigint,
  keep_until bigint,
  ended bigint,
  attempt integer NOT NULL,
  fence bigint NOT NULL,
  settled bigint NOT NULL,
  next bigint NOT NULL,
  worker text,
  last_error text,
  progress bytea,
  unique_key text,
  fair_key text,
  conc_key text,
  spec text NOT NULL,
  payload_len bigint NOT NULL,
  payload_crc bigint NOT NULL,
  outside boolean NOT NULL, -- large: read only when it is needed
  payload bytea,
  result bytea,
  crc bigint NOT NULL
) WITH (
  fillfactor = 80,
  -- A task is written three times in its life: what that leaves behind is swept early.
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 2000,
  autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX task_ready ON maitred.task (kind, rank, tag, id) WHERE state = 0;
CREATE INDEX task_due ON maitred.task (due, id) WHERE due IS NOT NULL;
CREATE UNIQUE INDEX task_unique ON maitred.task (kind, unique_key) WHERE unique_key IS NOT NULL;
CREATE INDEX task_key ON maitred.task (conc_key, state, rank, tag, id) WHERE conc_key IS NOT NULL;
CREATE INDEX task_wall ON maitred.task (id) WHERE at_wall IS NOT NULL;
CREATE TABLE maitred.paused (kind text PRIMARY KEY);
CREATE TABLE maitred.schedule (name text PRIMARY KEY, spec text NOT NULL, next_at bigint);
-- How many tasks of a type are in a state: the sum over all slots. A broker counts in a slot of its
-- own, so that brokers do not wait for each other.
CREATE TABLE maitred.tally (
  kind text NOT NULL,
  state smallint NOT NULL,
  slot smallint NOT NULL,
  n bigint NOT NULL,
  PRIMARY KEY (kind, state, slot)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
"];

/// The version this code reads and writes.
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;

/// Names our advisory lock among those of others: the letters `maitred`.
const LOCK: i64 = 0x6d_6169_7472_6564;

/// Brings a database up to [`VERSION`] in one transaction; its version if that is higher, in which
/// case nothing was changed. Brokers that start together do it one after the other.
pub(super) async fn migrate(client: &mut Client) -> Result<Option<i32>, Error> {
    let step = client.transaction().await?;
    step.batch_execute(&format!("SELECT pg_advisory_xact_lock({LOCK})")).await?;
    let there = "SELECT 1 WHERE to_regclass('maitred.version') IS NOT NULL";
    let mut found = 0;
    if step.simple_query(there).await?.iter().any(is_row) {
        let sql = "SELECT version FROM maitred.version";
        found = step.query_typed_one(sql, &[]).await?.try_get(0)?;
    } else {
        // Who may not make schemas may be given this one.
        let have = "SELECT 1 WHERE to_regnamespace('maitred') IS NOT NULL";
        if !step.simple_query(have).await?.iter().any(is_row) {
            step.batch_execute("CREATE SCHEMA maitred").await?;
        }
        let table = "CREATE TABLE maitred.version (version integer NOT NULL);
                     INSERT INTO maitred.version VALUES (0)";
        step.batch_execute(table).await?;
    }
    if found > VERSION {
        return Ok(Some(found));
    }
    for (number, sql) in (1..).zip(MIGRATIONS).filter(|(number, _)| *number > found) {
        step.batch_execute(sql).await?;
        step.batch_execute(&format!("UPDATE maitred.version SET version = {number}")).await?;
    }
    step.batch_execute(RAISE).await?;
    step.commit().await?;
    Ok(None)
}

/// Numbers begin above all that were given before even if that is forgotten, because the database
/// was restored from a backup: at the Unix time in µs. Under the lock, and far above what is given
/// meanwhile, so that two brokers cannot set it back.
const RAISE: &str = "
SELECT setval('maitred.task_id', floor) FROM maitred.task_id,
  (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS floor) AS now
  WHERE last_value < floor;
SELECT setval('maitred.fence', floor) FROM maitred.fence,
  (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS floor) AS now
  WHERE last_value < floor";

fn is_row(message: &tokio_postgres::SimpleQueryMessage) -> bool {
    matches!(message, tokio_postgres::SimpleQueryMessage::Row(_))
}
