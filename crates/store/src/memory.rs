//! A store that forgets everything with its process, and fails on command.
//!
//! It runs the same rules and the same committer as the engines that last, so what is tested over
//! it (a full disk, a commit that fails, a server that goes away) is what they do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::{Capabilities, Filter, Level, QueueView};
use crate::committer::Engine;
use crate::core::Settings;
use crate::cron::Schedule;
use crate::limits;
use crate::promises::{Keeper, Promises};
use crate::row::Row;
use crate::rows::{Fault, Rows, Turns, Wants};
use crate::task::State;

/// Opens an empty store.
///
/// # Errors
/// If its thread cannot be started.
pub fn open(settings: Settings) -> std::io::Result<(Engine, Faults)> {
    let faults = Faults::default();
    let memory = Memory { faults: faults.clone(), ..Memory::default() };
    let capabilities = Capabilities {
        engine: "memory",
        level: Level::Memory,
        shared: false,
        server_time: false,
        priorities: true,
        fair_keys: true,
        concurrency_keys: true,
        queries: true,
        schedules: true,
        pauses: true,
        keeps_place: true,
        payload: limits::PAYLOAD,
        promises: PROMISES,
    };
    let engine = Engine::start(memory, capabilities, settings).map_err(std::io::Error::other)?;
    Ok((engine, faults))
}

/// It forgets; what it knows, it treats as the others do.
const PROMISES: Promises = {
    use Keeper::{Nobody, Ours};
    Promises([Nobody, Nobody, Ours, Ours, Ours, Ours, Nobody, Nobody, Ours, Nobody])
};

/// Makes the store fail.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    full: bool,
    commits: Vec<Option<Fault>>,
    writes: Vec<Option<Fault>>,
}

impl Faults {
    /// From now on there is (no) room for new tasks.
    pub fn disk_full(&self, full: bool) {
        self.plan().full = full;
    }

    /// After `good` more commits one fails like a failed fsync.
    pub fn break_commit(&self, good: usize) {
        self.after(good, Fault::Broken("fsync: input/output error, on command".into()));
    }

    /// After `good` more commits one fails like a server that went away.
    pub fn lose_commit(&self, good: usize) {
        self.after(good, Fault::Lost("connection reset, on command".into()));
    }

    /// After `good` more writes one fails for no reason that concerns others.
    pub fn fail_write(&self, good: usize) {
        let mut plan = self.plan();
        plan.writes = (0..good).map(|_| None).collect();
        plan.writes.push(Some(Fault::Failed("on command".into())));
    }

    fn after(&self, good: usize, fault: Fault) {
        let mut plan = self.plan();
        plan.commits = (0..good).map(|_| None).collect();
        plan.commits.push(Some(fault));
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next planned outcome.
fn step(steps: &mut Vec<Option<Fault>>) -> Result<(), Fault> {
    if steps.is_empty() {
        return Ok(());
    }
    steps.remove(0).map_or(Ok(()), Err)
}

/// Rows in ordered maps, with what is needed to undo.
#[derive(Default)]
struct Memory {
    rows: BTreeMap<u64, Row>,
    ready: BTreeSet<(String, i32, u64, u64)>,
    due: BTreeSet<(u64, u64)>,
    unique: HashMap<(String, String), u64>,
    by_key: BTreeSet<(String, State, i32, u64, u64)>,
    paused: BTreeSet<String>,
    schedules: BTreeMap<String, (Schedule, Option<u64>)>,
    last_task: u64,
    last_fence: u64,
    /// Rows as they were when they were first touched since `begin`.
    undo: Vec<(u64, Option<Row>)>,
    paused_before: BTreeSet<String>,
    schedules_before: BTreeMap<String, (Schedule, Option<u64>)>,
    faults: Faults,
}

impl Memory {
    fn set(&mut self, id: u64, row: Option<Row>) -> Option<Row> {
        let old = self.rows.remove(&id);
        if let Some(old) = &old {
            self.index(old, false);
        }
        if let Some(row) = row {
            self.index(&row, true);
            self.rows.insert(id, row);
        }
        old
    }

    fn index(&mut self, row: &Row, add: bool) {
        fn put<T: Ord>(set: &mut BTreeSet<T>, key: T, add: bool) {
            let changed = if add { set.insert(key) } else { set.remove(&key) };
            assert!(changed, "an index disagrees with its rows");
        }
        let (rank, tag, id) = row.place();
        if row.state == State::Ready {
            put(&mut self.ready, (row.kind.clone(), rank, tag, id), add);
        }
        if let Some(due) = row.due() {
            put(&mut self.due, (due, id), add);
        }
        if let Some(key) = &row.conc_key {
            put(&mut self.by_key, (key.clone(), row.state, rank, tag, id), add);
        }
        if let Some(key) = &row.unique_key {
            let key = (row.kind.clone(), key.clone());
            let before = if add { self.unique.insert(key, id) } else { self.unique.remove(&key) };
            assert_eq!(before.is_none(), add, "two tasks with one unique key");
        }
    }

    fn touch(&mut self, id: u64, row: Option<Row>) -> Result<(), Fault> {
        step(&mut self.faults.plan().writes)?;
        let old = self.set(id, row);
        self.undo.push((id, old));
        Ok(())
    }

    fn get(&self, ids: impl Iterator<Item = u64>) -> Vec<Row> {
        ids.filter_map(|id| self.rows.get(&id)).cloned().collect()
    }
}

impl Rows for Memory {
    fn begin(&mut self, _wants: &Wants) -> Result<(), Fault> {
        assert!(self.undo.is_empty(), "a transaction within another");
        self.paused_before = self.paused.clone();
        self.schedules_before = self.schedules.clone();
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        step(&mut self.faults.plan().commits)?;
        self.undo.clear();
        Ok(())
    }

    fn rollback(&mut self) {
        while let Some((id, row)) = self.undo.pop() {
            self.set(id, row);
        }
        self.paused = std::mem::take(&mut self.paused_before);
        self.schedules = std::mem::take(&mut self.schedules_before);
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

    fn insert(&mut self, row: Row) -> Result<(), Fault> {
        if self.faults.plan().full {
            return Err(Fault::Full("on command".into()));
        }
        self.touch(row.id, Some(row))
    }

    fn update(&mut self, before: &Row, row: &Row) -> Result<(), Fault> {
        let stored = self.rows.get(&row.id);
        assert_eq!(stored.map(|row| row.state), Some(before.state), "a stale row is written");
        let mut row = row.clone();
        // The payload never changes; it only goes.
        let kept = stored.filter(|_| row.payload_len > 0).map(|row| row.payload.clone());
        row.payload = kept.unwrap_or_default();
        self.touch(row.id, Some(row))
    }

    fn delete(&mut self, row: &Row) -> Result<(), Fault> {
        self.touch(row.id, None)
    }

    fn fetch_payload(&mut self, _row: &mut Row) -> Result<(), Fault> {
        Ok(())
    }

    fn load(&mut self, ids: &[u64]) -> Result<Vec<Row>, Fault> {
        Ok(self.get(ids.iter().copied()))
    }

    fn by_unique(&mut self, keys: &[(&str, &str)]) -> Result<Vec<Row>, Fault> {
        let find = |(kind, key): &(&str, &str)| {
            self.unique.get(&((*kind).to_owned(), (*key).to_owned())).copied()
        };
        Ok(self.get(keys.iter().filter_map(find)))
    }

    fn ready(&mut self, kinds: &[&str], limit: usize) -> Result<Vec<Vec<Row>>, Fault> {
        let line = |kind: &&str| {
            let from = ((*kind).to_owned(), i32::MIN, 0, 0);
            let found = self.ready.range(from..).take_while(|entry| entry.0 == *kind).take(limit);
            self.get(found.map(|entry| entry.3))
        };
        Ok(kinds.iter().map(line).collect())
    }

    fn blocked(&mut self, key: &str, limit: usize) -> Result<Vec<Row>, Fault> {
        let from = (key.to_owned(), State::Blocked, i32::MIN, 0, 0);
        let same =
            |entry: &&(String, State, i32, u64, u64)| entry.0 == key && entry.1 == State::Blocked;
        let found = self.by_key.range(from..).take_while(same).take(limit);
        Ok(self.get(found.map(|entry| entry.4)))
    }

    fn holders(&mut self, key: &str) -> Result<Vec<u64>, Fault> {
        let from = (key.to_owned(), State::Leased, i32::MIN, 0, 0);
        let same =
            |entry: &&(String, State, i32, u64, u64)| entry.0 == key && entry.1 == State::Leased;
        Ok(self.by_key.range(from..).take_while(same).map(|entry| entry.4).collect())
    }

    fn due(&mut self, until: u64, limit: usize) -> Result<Vec<Row>, Fault> {
        let found = self.due.range(..=(until, u64::MAX)).take(limit);
        Ok(self.get(found.map(|(_, id)| *id)))
    }

    fn next_due(&mut self) -> Result<Option<u64>, Fault> {
        Ok(self.due.first().map(|(due, _)| *due))
    }

    fn by_wall(&mut self, after: u64, limit: usize) -> Result<Vec<Row>, Fault> {
        let rows = self.rows.range(after + 1..).map(|(_, row)| row);
        let found = rows.filter(|row| row.state == State::Scheduled && row.at_wall.is_some());
        Ok(found.take(limit).cloned().collect())
    }

    fn scan(&mut self, filter: &Filter) -> Result<(Vec<Row>, Option<u64>), Fault> {
        let after = filter.after.map_or(0, |id| id.0);
        let rows = self.rows.range(after.saturating_add(1)..).map(|(_, row)| row);
        let found: Vec<Row> =
            rows.filter(|row| passes(row, filter)).take(filter.limit).cloned().collect();
        let next = found.last().filter(|_| found.len() == filter.limit).map(|row| row.id);
        Ok((found, next))
    }

    fn ahead(&mut self, row: &Row, limit: usize) -> Result<u64, Fault> {
        let (rank, tag, id) = row.place();
        let from = (row.kind.clone(), i32::MIN, 0, 0);
        let to = (row.kind.clone(), rank, tag, id);
        Ok(self.ready.range(from..to).take(limit).count() as u64)
    }

    fn turns(&mut self) -> Result<Vec<Turns>, Fault> {
        Ok(Vec::new())
    }

    fn is_paused(&mut self, kind: &str) -> Result<bool, Fault> {
        Ok(self.paused.contains(kind))
    }

    fn set_paused(&mut self, kind: &str, paused: bool) -> Result<bool, Fault> {
        Ok(if paused { self.paused.insert(kind.to_owned()) } else { self.paused.remove(kind) })
    }

    fn queues(&mut self) -> Result<Vec<QueueView>, Fault> {
        let mut queues: BTreeMap<&str, QueueView> = BTreeMap::new();
        for row in self.rows.values() {
            let queue = queues.entry(&row.kind).or_default();
            queue.counts[usize::from(row.state.code())] += 1;
        }
        for kind in &self.paused {
            queues.entry(kind).or_default().paused = true;
        }
        let named = queues
            .into_iter()
            .map(|(kind, queue)| QueueView { task_type: kind.to_owned(), ..queue });
        Ok(named.collect())
    }

    fn schedules(&mut self) -> Result<Vec<(Schedule, Option<u64>)>, Fault> {
        Ok(self.schedules.values().cloned().collect())
    }

    fn put_schedule(&mut self, schedule: &Schedule, next_at: Option<u64>) -> Result<(), Fault> {
        self.schedules.insert(schedule.name.clone(), (schedule.clone(), next_at));
        Ok(())
    }

    fn drop_schedule(&mut self, name: &str) -> Result<bool, Fault> {
        Ok(self.schedules.remove(name).is_some())
    }

    fn has_room(&mut self) -> bool {
        !self.faults.plan().full
    }

    fn level(&self) -> Level {
        Level::Memory
    }
}

/// Whether a row is what the filter wants.
pub(crate) fn passes(row: &Row, filter: &Filter) -> bool {
    filter.task_type.as_ref().is_none_or(|kind| *kind == row.kind)
        && filter.state.is_none_or(|state| state == row.state)
        && filter.reason.is_none_or(|reason| Some(reason) == row.reason)
        && filter.worker.as_ref().is_none_or(|worker| Some(worker) == row.worker.as_ref())
        && filter.error.as_ref().is_none_or(|error| {
            row.last_error.as_ref().is_some_and(|last| last.contains(error.as_str()))
        })
}
