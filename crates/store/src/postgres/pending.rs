//! What a transaction has changed and not sent yet: a statement for each kind of change, however
//! many rows.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures_util::future::join3;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use super::sql::{Arrays, INSERT, UPDATE};
use crate::row::Row;

/// Rows that a transaction holds, as they will be, and which of them the server has to be told.
#[derive(Default)]
pub(super) struct Held {
    /// Locked by us: nobody else changes them before the commit. Without payloads.
    rows: HashMap<u64, Row>,
    /// Asked for and not there.
    absent: HashSet<u64>,
    /// By type and unique key; none if there is none.
    unique: HashMap<(String, String), Option<Row>>,
    added: BTreeMap<u64, Row>,
    changed: BTreeSet<u64>,
    gone: HashSet<u64>,
}

/// Writes on their way.
#[derive(Default)]
pub(super) struct Writes {
    added: Vec<Row>,
    changed: Vec<Row>,
    gone: Vec<i64>,
}

impl Held {
    /// A row that was read and locked.
    pub(super) fn hold(&mut self, row: &Row) {
        // What is known here and not sent is newer; all reads come after what was sent.
        let bare = Row { payload: Vec::new(), ..row.clone() };
        self.rows.insert(row.id, bare);
    }

    pub(super) fn note_absent(&mut self, ids: &[u64]) {
        let rows = &self.rows;
        self.absent.extend(ids.iter().filter(|id| !rows.contains_key(id)));
    }

    /// A row as it is; none within if it is known not to be.
    pub(super) fn get(&self, id: u64) -> Option<Option<&Row>> {
        if self.gone.contains(&id) {
            return Some(None);
        }
        match self.added.get(&id).or_else(|| self.rows.get(&id)) {
            Some(row) => Some(Some(row)),
            None => self.absent.contains(&id).then_some(None),
        }
    }

    pub(super) fn know_unique(&mut self, key: (String, String), row: Option<Row>) {
        self.unique.insert(key, row);
    }

    pub(super) fn unique(&self, key: &(String, String)) -> Option<Option<&Row>> {
        self.unique.get(key).map(Option::as_ref)
    }

    pub(super) fn add(&mut self, row: Row) {
        self.keep_unique(&row, true);
        self.added.insert(row.id, row);
    }

    pub(super) fn change(&mut self, row: &Row) {
        self.keep_unique(row, true);
        if let Some(added) = self.added.get_mut(&row.id) {
            let payload = std::mem::take(&mut added.payload);
            *added = Row { payload, ..row.clone() };
            return;
        }
        self.hold(row);
        self.changed.insert(row.id);
    }

    pub(super) fn remove(&mut self, row: &Row) {
        self.keep_unique(row, false);
        self.changed.remove(&row.id);
        self.rows.remove(&row.id);
        if self.added.remove(&row.id).is_none() {
            self.gone.insert(row.id);
        }
    }

    fn keep_unique(&mut self, row: &Row, there: bool) {
        if let Some(key) = &row.unique_key {
            let bare = there.then(|| Row { payload: Vec::new(), ..row.clone() });
            self.unique.insert((row.kind.clone(), key.clone()), bare);
        }
    }

    /// What the server is to be told; it is taken as told.
    pub(super) fn take(&mut self) -> Writes {
        let added: Vec<Row> = std::mem::take(&mut self.added).into_values().collect();
        added.iter().for_each(|row| self.hold(row));
        let changed = std::mem::take(&mut self.changed);
        let changed = changed.iter().filter_map(|id| self.rows.get(id).cloned()).collect();
        let gone = std::mem::take(&mut self.gone);
        self.absent.extend(&gone);
        Writes { added, changed, gone: gone.into_iter().map(|id| id as i64).collect() }
    }
}

impl Writes {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.gone.is_empty()
    }

    /// Sends them, all at once. What goes, goes first: a new row may want its unique key.
    pub(super) async fn send(&self, client: &Client) -> Result<(), Error> {
        let (changed, added) = (Arrays::of(self.changed.iter()), Arrays::of(self.added.iter()));
        let delete = async {
            if self.gone.is_empty() {
                return Ok(0);
            }
            let sql = "DELETE FROM maitred.task WHERE id = ANY ($1)";
            client.execute_typed(sql, &[(&self.gone, Type::INT8_ARRAY)]).await
        };
        let update = async {
            if changed.is_empty() {
                return Ok(0);
            }
            client.execute_typed(UPDATE, &changed.changing()).await
        };
        let insert = async {
            if added.is_empty() {
                return Ok(0);
            }
            client.execute_typed(INSERT, &added.all()).await
        };
        let (deleted, updated, inserted) = join3(delete, update, insert).await;
        deleted.and(updated).and(inserted).map(drop)
    }
}
