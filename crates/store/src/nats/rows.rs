//! Rows in a JetStream bucket.
//!
//! A transaction here is many messages, not one. What makes it whole: each record is written only
//! over the revision that was read (compare and set); times (`ID.later`) are written before the
//! records they are about, messages to the queue after; if a record was changed by somebody else,
//! those written before it are set back and the calls run again. A process that ends in between
//! leaves a task that its time brings back, a message that finds nothing to lease, or a record that
//! nobody was told of: never a task that waits for ever.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::jetstream::{AckKind, Message};

use super::later::{self, Later};
use super::link::{Link, fetch, hex};
use crate::api::{Filter, Level, Notice, QueueView};
use crate::cron::Schedule;
use crate::row::Row;
use crate::rows::{Fault, Rows, Turns, Wants};
use crate::task::{Now, State};

/// Larger payloads are kept beside the record, which is written at each change.
const INLINE: usize = 1_024;
/// Numbers for tasks are fetched so many at a time.
const NUMBERS: u64 = 1_024;
/// A task that becomes ready is looked at again after so long (ms): should this process end
/// between its record and its message, it gets its message then.
const LOOK_AGAIN_MS: u64 = 30_000;

/// A record that a transaction has seen.
struct Seen {
    /// As it is in the bucket; none if it is not there.
    stored: Option<Row>,
    /// 0 if it is not there.
    revision: u64,
    /// As it will be.
    row: Option<Row>,
    changed: bool,
}

pub(super) struct Nats {
    link: Link,
    later: Arc<Mutex<Later>>,
    /// Numbers for tasks: the next, and the first that is not ours.
    numbers: (u64, u64),
    line: u64,
    seen: BTreeMap<u64, Seen>,
    /// By type and key: the task and the revision of the entry that names it.
    unique: HashMap<(String, String), (Option<u64>, u64)>,
    fetched: HashMap<u64, Message>,
    /// Ready tasks whose message may never have been sent.
    unsure: Vec<(u64, String, u64)>,
}

impl Nats {
    pub(super) fn new(link: Link, later: Arc<Mutex<Later>>) -> Nats {
        Nats {
            link,
            later,
            numbers: (0, 0),
            line: 0,
            seen: BTreeMap::new(),
            unique: HashMap::new(),
            fetched: HashMap::new(),
            unsure: Vec::new(),
        }
    }

    fn later(&self) -> MutexGuard<'_, Later> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn require_seen(&mut self, ids: &[u64]) -> Result<(), Fault> {
        let unknown: Vec<u64> =
            ids.iter().copied().filter(|id| !self.seen.contains_key(id)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let read = self.link.run(self.link.read(&unknown))?;
        for (row, revision) in read {
            let seen = Seen { stored: Some(row.clone()), revision, row: Some(row), changed: false };
            self.seen.insert(seen.row.as_ref().map_or(0, |row| row.id), seen);
        }
        for id in unknown {
            let absent = Seen { stored: None, revision: 0, row: None, changed: false };
            self.seen.entry(id).or_insert(absent);
        }
        Ok(())
    }

    fn rows(&self, ids: &[u64]) -> Vec<Row> {
        ids.iter().filter_map(|id| self.seen.get(id)?.row.clone()).collect()
    }

    fn set(&mut self, id: u64, row: Option<Row>) {
        let absent = Seen { stored: None, revision: 0, row: None, changed: false };
        let seen = self.seen.entry(id).or_insert(absent);
        seen.row = row;
        seen.changed = true;
    }

    /// Puts messages of tasks that were not leased back, and ends those of the others.
    fn release(&mut self) {
        let fetched = std::mem::take(&mut self.fetched);
        // What was not read may be ready.
        let ready = |id: &u64| {
            let row = self.seen.get(id).map(|seen| seen.row.as_ref());
            row.is_none_or(|row| row.is_some_and(|row| row.state == State::Ready))
        };
        let answers: Vec<(Message, AckKind)> = fetched
            .into_iter()
            .map(|(id, message)| {
                let kind = if ready(&id) { AckKind::Nak(None) } else { AckKind::Ack };
                (message, kind)
            })
            .collect();
        if answers.is_empty() {
            return;
        }
        // What is lost of this comes again after the ack wait, and finds its task taken.
        let _ = self.link.run(async {
            for (message, kind) in answers {
                let _ = message.ack_with(kind).await;
            }
            Ok(())
        });
    }
}

/// What a commit writes.
#[derive(Default)]
struct Plan {
    laters: Vec<(u64, u64, bool)>,
    bodies: Vec<(String, Vec<u8>)>,
    /// New and changed records, over the revisions that were seen.
    records: Vec<(Row, u64)>,
    /// What was there, in the same order.
    stored: Vec<Option<Row>>,
    /// Keys of new records, their tasks and the revisions they must have.
    unique: Vec<(String, u64, u64)>,
    gone: Vec<Row>,
}

impl Nats {
    fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        let mut changed: Vec<&Seen> = self.seen.values().filter(|seen| seen.changed).collect();
        changed.sort_by_key(|seen| seen.stored.is_some());
        // A new task that nobody else needs may be forgotten by a process that ends before it
        // answers; what an end makes may not.
        let alone = changed.iter().all(|seen| seen.stored.is_none());
        for seen in changed {
            let Some(row) = &seen.row else {
                plan.gone.extend(seen.stored.clone());
                continue;
            };
            let due = match row.due() {
                None if row.state == State::Ready && !(alone && seen.stored.is_none()) => {
                    Some(self.line + LOOK_AGAIN_MS)
                }
                due => due,
            };
            if let Some(due) = due {
                plan.laters.push((row.id, due, row.at_wall.is_some()));
            }
            if seen.stored.is_none() {
                if row.outside {
                    plan.bodies.push((format!("{}.body", row.id), row.payload.clone()));
                }
                if let Some(key) = &row.unique_key {
                    let entry = self.unique.get(&(row.kind.clone(), key.clone()));
                    let revision = entry.map_or(0, |(_, revision)| *revision);
                    plan.unique.push((unique_key(&row.kind, key), row.id, revision));
                }
            }
            plan.records.push((row.clone(), seen.revision));
            plan.stored.push(seen.stored.clone());
        }
        plan
    }
}

impl Plan {
    /// Writes it; the revisions of the records.
    async fn carry_out(&self, link: &Link) -> Result<Vec<u64>, Fault> {
        link.put_all(&self.bodies).await?;
        // What an end makes is there before the end is.
        let new = self.stored.iter().take_while(|stored| stored.is_none()).count();
        let (new, changed) = self.records.split_at(new);
        let mut written = link.swap_all(new).await?;
        if written.iter().all(Option::is_some) {
            written.extend(link.swap_all(changed).await?);
        }
        written.resize(self.records.len(), None);
        let mut whole = written.iter().all(Option::is_some);
        let mut keys = Vec::new();
        if whole {
            for (key, id, revision) in &self.unique {
                let swapped = link.swap(key, id.to_string().into_bytes(), *revision).await?;
                whole &= swapped.is_some();
                keys.extend(swapped.map(|_| key.clone()));
            }
        }
        if !whole {
            self.set_back(link, &written, keys).await?;
            return Err(Fault::Again("another broker changed a task first".into()));
        }
        let mut gone: Vec<String> = Vec::new();
        for row in &self.gone {
            gone.push(format!("{}.>", row.id));
            gone.extend(row.unique_key.as_ref().map(|key| unique_key(&row.kind, key)));
        }
        link.remove(&gone).await?;
        Ok(written.into_iter().flatten().collect())
    }

    /// Undoes what was written of it.
    async fn set_back(
        &self,
        link: &Link,
        written: &[Option<u64>],
        keys: Vec<String>,
    ) -> Result<(), Fault> {
        let mut gone = keys;
        let mut back = Vec::new();
        for (((row, _), stored), revision) in self.records.iter().zip(&self.stored).zip(written) {
            match (stored, revision) {
                (Some(stored), Some(revision)) => back.push((stored.clone(), *revision)),
                (None, Some(_)) => gone.push(format!("{}.>", row.id)),
                (_, None) => {}
            }
        }
        // Whoever changed it since has seen what was written, and it stands.
        link.swap_all(&back).await?;
        link.remove(&gone).await
    }
}

fn unique_key(kind: &str, key: &str) -> String {
    format!("unique.{}.{}", hex(kind), hex(key))
}

impl Rows for Nats {
    fn begin(&mut self, _wants: &Wants) -> Result<(), Fault> {
        self.seen.clear();
        self.unique.clear();
        self.unsure.clear();
        Ok(())
    }

    fn now(&mut self, asked: Now) -> Now {
        self.line = asked.line;
        asked
    }

    fn commit(&mut self) -> Result<(), Fault> {
        let plan = self.plan();
        if !(plan.records.is_empty() && plan.gone.is_empty()) {
            let laters: Vec<(String, Vec<u8>)> = plan
                .laters
                .iter()
                .map(|(id, due, wall)| {
                    (format!("{id}.later"), later::write(*due, *wall).into_bytes())
                })
                .collect();
            let timed = self.link.run(self.link.put_all(&laters))?;
            {
                let mut later = self.later();
                for ((id, due, wall), revision) in plan.laters.iter().zip(timed) {
                    later.set(*id, *due, *wall, revision);
                }
            }
            let revisions = self.link.run(plan.carry_out(&self.link))?;
            let mut later = self.later();
            for (row, _) in &plan.records {
                if row.due().is_none() {
                    later.forget(row.id);
                }
            }
            plan.gone.iter().for_each(|row| later.forget(row.id));
            drop(later);
            let ready = plan.records.iter().zip(&plan.stored).zip(revisions);
            let ready = ready.filter(|(((row, _), stored), _)| {
                let was = stored.as_ref().map(|row| row.state);
                row.state == State::Ready && was != Some(State::Ready)
            });
            let message = |(((row, _), _), revision): ((&(Row, u64), _), u64)| {
                (row.id, row.kind.clone(), revision)
            };
            self.unsure.extend(ready.map(message));
        }
        let ready = std::mem::take(&mut self.unsure);
        if !ready.is_empty() {
            self.link.run(self.link.dispatch(&ready))?;
        }
        self.release();
        Ok(())
    }

    fn rollback(&mut self) {
        // As they are in the bucket, not as they were to be.
        for seen in self.seen.values_mut() {
            seen.row = seen.stored.take();
        }
        self.release();
        self.seen.clear();
        self.unsure.clear();
    }

    fn task_ids(&mut self, count: usize) -> Result<Vec<u64>, Fault> {
        let count = count as u64;
        if self.numbers.1 - self.numbers.0 < count {
            let wanted = count.max(NUMBERS);
            let first = self.link.run(async {
                loop {
                    let stored = self.link.text("number").await?;
                    let text = stored.as_ref().map(|(text, _)| String::from_utf8_lossy(text));
                    let next = text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
                    // Above all that were given before even if that was lost: Unix time in µs.
                    let next = next.max(unix_us());
                    let revision = stored.map_or(0, |(_, revision)| revision);
                    let value = (next + wanted).to_string().into_bytes();
                    if self.link.swap("number", value, revision).await?.is_some() {
                        return Ok(next);
                    }
                }
            })?;
            self.numbers = (first, first + wanted);
        }
        let first = self.numbers.0;
        self.numbers.0 += count;
        Ok((first..first + count).collect())
    }

    /// Made from the revision of an entry that is written for them: it is above those of all
    /// leases that anybody has committed on what was fetched here.
    fn fences(&mut self, rows: &[Row]) -> Result<Vec<u64>, Fault> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let revision = self.link.run(self.link.put("fence", Vec::new()))?;
        let first = revision * crate::limits::BATCH as u64;
        Ok((first..).take(rows.len()).collect())
    }

    fn insert(&mut self, mut row: Row) -> Result<(), Fault> {
        row.outside = row.payload.len() > INLINE;
        if let Some(key) = &row.unique_key {
            let entry = self.unique.entry((row.kind.clone(), key.clone())).or_default();
            entry.0 = Some(row.id);
        }
        self.set(row.id, Some(row));
        Ok(())
    }

    fn update(&mut self, _before: &Row, row: &Row) -> Result<(), Fault> {
        let mut row = row.clone();
        let seen = self.seen.get_mut(&row.id).and_then(|seen| seen.row.as_mut());
        // The payload never changes; it only goes.
        row.payload = seen.map(|seen| std::mem::take(&mut seen.payload)).unwrap_or_default();
        if row.payload_len == 0 {
            (row.payload, row.outside) = (Vec::new(), false);
        }
        self.set(row.id, Some(row));
        Ok(())
    }

    fn delete(&mut self, row: &Row) -> Result<(), Fault> {
        if let Some(key) = &row.unique_key {
            self.unique.insert((row.kind.clone(), key.clone()), (None, 0));
        }
        self.set(row.id, None);
        Ok(())
    }

    fn fetch_payload(&mut self, row: &mut Row) -> Result<(), Fault> {
        if row.payload.len() as u64 == row.payload_len {
            return Ok(());
        }
        let body = self.link.run(self.link.text(&format!("{}.body", row.id)))?;
        // An absent payload shows as one that is not whole.
        row.payload = body.map(|(body, _)| body).unwrap_or_default();
        Ok(())
    }

    fn load(&mut self, ids: &[u64]) -> Result<Vec<Row>, Fault> {
        self.require_seen(ids)?;
        Ok(self.rows(ids))
    }

    fn by_unique(&mut self, keys: &[(&str, &str)]) -> Result<Vec<Row>, Fault> {
        let mut ids = Vec::new();
        for (kind, key) in keys {
            let name = ((*kind).to_owned(), (*key).to_owned());
            if !self.unique.contains_key(&name) {
                let entry = self.link.run(self.link.text(&unique_key(kind, key)))?;
                let id = entry.as_ref().map(|(text, _)| String::from_utf8_lossy(text));
                let id = id.and_then(|text| text.parse().ok());
                self.unique.insert(name.clone(), (id, entry.map_or(0, |(_, revision)| revision)));
            }
            ids.extend(self.unique.get(&name).and_then(|(id, _)| *id));
        }
        self.require_seen(&ids)?;
        for id in &ids {
            // Whoever enqueued it may have ended before its message was sent.
            if let Some(Seen { stored: Some(row), revision, .. }) = self.seen.get(id)
                && row.state == State::Ready
            {
                self.unsure.push((*id, row.kind.clone(), *revision));
            }
        }
        // A key whose task is not there is free: its entry is written over.
        Ok(self.rows(&ids))
    }

    fn ready(&mut self, kinds: &[&str], limit: usize) -> Result<Vec<Vec<Row>>, Fault> {
        let mut lines = Vec::with_capacity(kinds.len());
        for kind in kinds {
            let mut line = Vec::new();
            while line.len() < limit {
                let wanted = limit - line.len();
                let runtime = self.link.runtime.handle().clone();
                let queue = runtime.block_on(self.link.queue(kind))?;
                let messages = self.link.run(fetch(&queue, wanted))?;
                let last = messages.len() < wanted;
                let mut ids = Vec::with_capacity(messages.len());
                for message in messages {
                    let id = String::from_utf8_lossy(&message.payload).parse().unwrap_or(0);
                    // A second message for one task ends with the first.
                    if self.fetched.insert(id, message).is_none() {
                        ids.push(id);
                    }
                }
                self.require_seen(&ids)?;
                let rows = self.rows(&ids).into_iter();
                line.extend(rows.filter(|row| row.state == State::Ready && row.kind == **kind));
                if last {
                    break;
                }
            }
            lines.push(line);
        }
        Ok(lines)
    }

    fn blocked(&mut self, _key: &str, _limit: usize) -> Result<Vec<Row>, Fault> {
        Ok(Vec::new())
    }

    fn holders(&mut self, _key: &str) -> Result<Vec<u64>, Fault> {
        Ok(Vec::new())
    }

    fn due(&mut self, until: u64, limit: usize) -> Result<Vec<Row>, Fault> {
        let mut ids = self.later().until(until, limit);
        // What this transaction changed is not in the index yet.
        let changed = self.seen.values().filter(|seen| seen.changed);
        ids.extend(changed.filter_map(|seen| seen.row.as_ref().map(|row| row.id)));
        ids.sort_unstable();
        ids.dedup();
        self.require_seen(&ids)?;
        let mut due = Vec::new();
        for id in ids {
            let Some(seen) = self.seen.get(&id) else { continue };
            match (&seen.row, seen.row.as_ref().and_then(Row::due)) {
                (Some(row), Some(time)) if time <= until => due.push(row.clone()),
                (Some(_), Some(time)) => self.later().correct(id, time),
                (Some(row), None) => {
                    if row.state == State::Ready {
                        self.unsure.push((id, row.kind.clone(), seen.revision));
                    }
                    self.later().forget(id);
                }
                (None, _) => self.later().forget(id),
            }
        }
        due.sort_by_key(|row| (row.due(), row.id));
        due.truncate(limit);
        Ok(due)
    }

    fn next_due(&mut self) -> Result<Option<u64>, Fault> {
        let changing = |id| self.seen.get(&id).is_some_and(|seen| seen.changed);
        let kept = self.later().next(changing);
        let changed = self.seen.values().filter(|seen| seen.changed);
        let changed = changed.filter_map(|seen| seen.row.as_ref()?.due()).min();
        Ok(kept.into_iter().chain(changed).min())
    }

    fn by_wall(&mut self, after: u64, limit: usize) -> Result<Vec<Row>, Fault> {
        let mut ids = self.later().walls(after);
        ids.truncate(limit);
        self.require_seen(&ids)?;
        let mut rows = self.rows(&ids);
        rows.retain(|row| row.state == State::Scheduled && row.at_wall.is_some());
        Ok(rows)
    }

    fn scan(&mut self, _filter: &Filter) -> Result<(Vec<Row>, Option<u64>), Fault> {
        Err(Fault::Failed("JetStream's engine cannot search".into()))
    }

    /// What waits of all types: no more can be known without reading it.
    fn ahead(&mut self, _row: &Row, limit: usize) -> Result<u64, Fault> {
        let waiting = self.link.run(self.link.waiting())?;
        Ok(waiting.saturating_sub(1).min(limit as u64))
    }

    fn turns(&mut self) -> Result<Vec<Turns>, Fault> {
        Ok(Vec::new())
    }

    fn is_paused(&mut self, _kind: &str) -> Result<bool, Fault> {
        Ok(false)
    }

    fn set_paused(&mut self, _kind: &str, _paused: bool) -> Result<bool, Fault> {
        Err(Fault::Failed("JetStream's engine cannot pause".into()))
    }

    fn queues(&mut self) -> Result<Vec<QueueView>, Fault> {
        Err(Fault::Failed("JetStream's engine does not count".into()))
    }

    fn schedules(&mut self) -> Result<Vec<(Schedule, Option<u64>)>, Fault> {
        Ok(Vec::new())
    }

    fn put_schedule(&mut self, _: &Schedule, _: Option<u64>) -> Result<(), Fault> {
        Err(Fault::Failed("JetStream's engine has no schedules".into()))
    }

    fn drop_schedule(&mut self, _name: &str) -> Result<bool, Fault> {
        Err(Fault::Failed("JetStream's engine has no schedules".into()))
    }

    fn told(&mut self, notices: &[Notice]) {
        super::hear::pass_on(&self.link, notices);
    }

    fn hear(&mut self, tell: crate::rows::Tell) {
        super::hear::start(&self.link, tell);
    }

    fn level(&self) -> Level {
        Level::Os
    }
}

fn unix_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as u64
}
