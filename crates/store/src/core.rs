//! The rules of a task's life, written once over [`Rows`] for all engines.
//!
//! ```text
//!             enqueue
//!      ┌─────────┴────────┐
//!  scheduled ──due──▶   ready ◀──a holder ends── blocked
//!      ▲                  │ claim ──key is full──────▲
//!      │                  ▼
//!      └──fail───────  leased ──complete──▶ done
//!                         │ ╲──last attempt, reject, deadline──▶ dead ──retry──▶ ready
//!                         └──lease ends, release──▶ ready
//! ```
//! Cancelling leads from everywhere that is not an end to cancelled.
//!
//! Nothing here commits, waits or reads a clock.

use std::collections::{HashMap, HashSet};

use crate::api::{
    Answer, Capabilities, Claim, Command, Due, Enqueued, Extend, Extended, Filter, Lease, Met,
    Notice, Outcome, Query, Refusal, Release, ScheduleView, Settle, Settled, Why,
};
use crate::cron::Schedule;
use crate::flows::Flows;
use crate::limits;
use crate::row::Row;
use crate::rows::{Fault, Rows, Wants};
use crate::task::{
    DeathReason, NewTask, Now, POSTBACK_SERVICE, POSTBACK_STOMP, Postback, State, TaskId, Token,
    Unique, When,
};

/// What a store is told when it is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Ended tasks answer repeated settles at least this long, in ms, whatever their retention.
    pub settled_keep_ms: u64,
    /// Dead letters and cancelled tasks are kept so long, in ms.
    pub dead_keep_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { settled_keep_ms: 60_000, dead_keep_ms: 30 * 86_400_000 }
    }
}

/// Rows looked at in one go of [`Core::due`] or of one claim.
const BITE: usize = 1_024;
/// A wall clock that moved by more than this (ms) against the line has been put right.
const SKEW_MS: u64 = 1_000;

/// The rules and what they remember between calls.
pub(crate) struct Core<R> {
    pub(crate) rows: R,
    /// What happened since they were last taken.
    pub(crate) notices: Vec<Notice>,
    flows: Flows,
    settings: Settings,
    capabilities: Capabilities,
    /// Wall minus line when tasks that stand for wall times were last set.
    skew: Option<i64>,
}

impl<R: Rows> Core<R> {
    /// # Errors
    /// If the turns taken cannot be read.
    pub(crate) fn new(
        mut rows: R,
        settings: Settings,
        capabilities: Capabilities,
    ) -> Result<Core<R>, Fault> {
        rows.begin(&Wants::default())?;
        let turns = rows.turns()?;
        rows.rollback();
        let flows = Flows::resume(turns);
        Ok(Core { rows, notices: Vec::new(), flows, settings, capabilities, skew: None })
    }

    pub(crate) fn enqueue(
        &mut self,
        now: Now,
        tasks: &[NewTask],
    ) -> Result<Vec<Result<Enqueued, Refusal>>, Fault> {
        let checked: Vec<Result<(), Refusal>> =
            tasks.iter().map(|task| limits::check_for(task, &self.capabilities)).collect();
        let good = || tasks.iter().zip(&checked).filter(|(_, check)| check.is_ok());
        let mut ids = self.rows.task_ids(good().count())?.into_iter();
        let keys: Vec<(&str, &str)> = good().filter_map(|(task, _)| key_of(task)).collect();
        let mut known: HashMap<(String, String), (u64, u64, u32)> = HashMap::new();
        if !keys.is_empty() {
            for row in self.rows.by_unique(&keys)? {
                let key = row.unique_key.clone().unwrap_or_default();
                known.insert((row.kind, key), (row.id, row.payload_len, row.payload_crc));
            }
        }
        let mut answers = Vec::with_capacity(tasks.len());
        for (task, check) in tasks.iter().zip(checked) {
            if let Err(refusal) = check {
                answers.push(Err(refusal));
                continue;
            }
            let key = key_of(task).map(|(kind, key)| (kind.to_owned(), key.to_owned()));
            if let Some(&(id, len, crc)) = key.as_ref().and_then(|key| known.get(key)) {
                let same =
                    (len, crc) == (task.payload.len() as u64, crc32fast::hash(&task.payload));
                let met = if same { Met::Same } else { Met::Other };
                answers.push(Ok(Enqueued { id: TaskId(id), met }));
                continue;
            }
            let id = ids.next().ok_or_else(|| Fault::Failed("too few numbers".into()))?;
            let row = Row::new(id, task, None, now);
            if let Some(key) = key {
                known.insert(key, (id, row.payload_len, row.payload_crc));
            }
            self.add(row)?;
            answers.push(Ok(Enqueued { id: TaskId(id), met: Met::Nothing }));
        }
        Ok(answers)
    }

    /// Inserts a new row, with its turn if it is ready.
    fn add(&mut self, mut row: Row) -> Result<(), Fault> {
        if row.state == State::Ready {
            row.tag = self.flows.next(&row.kind, row.fair_key.as_deref());
            self.tell_ready(&row.kind);
        }
        self.rows.insert(row)
    }

    fn tell_ready(&mut self, kind: &str) {
        let told =
            |notice: &Notice| matches!(notice, Notice::Ready { task_type } if task_type == kind);
        // A batch is mostly of one type; listeners need not hear it for each task.
        if !self.notices.last().is_some_and(told) {
            self.notices.push(Notice::Ready { task_type: kind.to_owned() });
        }
    }

    pub(crate) fn claim(&mut self, now: Now, claim: &Claim) -> Result<Vec<Lease>, Fault> {
        let limit = claim.limit.min(limits::BATCH);
        let mut leases = Vec::new();
        let mut kinds: Vec<&str> = Vec::new();
        for kind in claim.types.iter().take(limits::TYPES) {
            if !kinds.contains(&kind.as_str()) && !self.rows.is_paused(kind)? {
                kinds.push(kind);
            }
        }
        // What is found may be blocked or past its deadline and leave room for more.
        for _ in 0..8 {
            let wanted = limit - leases.len();
            if wanted == 0 {
                break;
            }
            let found = self.rows.ready(&kinds, wanted)?;
            let more = found.iter().any(|rows| rows.len() == wanted);
            let rows = merge(found, wanted);
            let grants = rows.len();
            self.lease(now, claim, rows, &mut leases)?;
            if !more || grants == 0 {
                break;
            }
            self.rows.flush()?;
        }
        Ok(leases)
    }

    fn lease(
        &mut self,
        now: Now,
        claim: &Claim,
        rows: Vec<Row>,
        leases: &mut Vec<Lease>,
    ) -> Result<(), Fault> {
        let keys = keys_of(&rows);
        self.rows.lock_keys(&keys)?;
        let mut held: HashMap<String, u32> = HashMap::new();
        for key in keys {
            held.insert(key.to_owned(), self.rows.holders(key)?.len() as u32);
        }
        let fences = self.rows.fences(&rows)?;
        for (mut row, fence) in rows.into_iter().zip(fences) {
            let before = row.clone();
            if row.outside {
                self.rows.fetch_payload(&mut row)?;
            }
            if row.damaged || !row.payload_is_whole() {
                self.quarantine(now, &before, row)?;
                continue;
            }
            if row.deadline.is_some_and(|deadline| deadline <= now.line) {
                self.die(now, &before, row, DeathReason::Deadline, DEADLINE)?;
                continue;
            }
            if let Some(used) = row.conc_key.as_ref().and_then(|key| held.get_mut(key)) {
                if *used >= row.conc_limit() {
                    row.state = State::Blocked;
                    row.fence = 0;
                    self.rows.update(&before, &row)?;
                    continue;
                }
                *used += 1;
            }
            row.state = State::Leased;
            row.attempt += 1;
            row.fence = fence;
            row.worker = Some(limits::text(&claim.worker, limits::NAME));
            let span = claim.lease_ms.unwrap_or(row.spec.policy.lease_ms);
            let until = now.line + span.clamp(1, limits::SPAN_MS);
            row.lease_until = Some(until);
            self.flows.served(&row.kind, row.tag);
            leases.push(Lease {
                token: row.token(),
                task_type: row.kind.clone(),
                payload: std::mem::take(&mut row.payload),
                content_type: row.spec.content_type.clone(),
                attempt: row.attempt,
                max_attempts: row.spec.policy.max_attempts,
                until,
                deadline: row.deadline,
                progress: row.progress.clone(),
                attributes: row.spec.attributes.clone(),
            });
            self.rows.update(&before, &row)?;
        }
        Ok(())
    }

    pub(crate) fn settle(
        &mut self,
        now: Now,
        settles: &[Settle],
    ) -> Result<Vec<Result<Settled, Refusal>>, Fault> {
        let mut rows = self.load(settles.iter().map(|settle| settle.token))?;
        let mut answers = Vec::with_capacity(settles.len());
        for settle in settles {
            answers.push(match rows.get(&settle.token.task.0).cloned() {
                None => Err(Refusal::Unknown),
                Some(row) => {
                    let (row, answer) = self.settle_one(now, row, settle)?;
                    rows.insert(row.id, row);
                    answer
                }
            });
        }
        Ok(answers)
    }

    fn settle_one(
        &mut self,
        now: Now,
        mut row: Row,
        settle: &Settle,
    ) -> Result<(Row, Result<Settled, Refusal>), Fault> {
        if let Err(refusal) = holds(&row, settle.token) {
            let known = row.settled != 0 && row.settled == settle.token.fence;
            let answer = if known && fits(&row, &settle.outcome) {
                Ok(settled(&row, true))
            } else {
                Err(refusal)
            };
            return Ok((row, answer));
        }
        if row.damaged {
            let before = row.clone();
            return Ok((self.quarantine(now, &before, row)?, Err(Refusal::Damaged)));
        }
        if let Outcome::Complete(result) = &settle.outcome
            && let Err(refusal) =
                limits::at_most("result", result.len(), self.capabilities.payload, "bytes")
        {
            return Ok((row, Err(refusal)));
        }
        let before = row.clone();
        row.settled = row.fence;
        row.next = 0;
        let row = match &settle.outcome {
            Outcome::Complete(result) => self.complete(now, &before, row, result)?,
            Outcome::Fail { error, .. } if row.attempt >= row.spec.policy.max_attempts => {
                self.die(now, &before, row, DeathReason::Attempts, error)?
            }
            Outcome::Reject { error } => {
                self.die(now, &before, row, DeathReason::Rejected, error)?
            }
            Outcome::Fail { error, retry_after_ms } => {
                let id = TaskId(row.id);
                let backoff = || row.spec.policy.backoff.wait_ms(id, row.attempt);
                let wait = retry_after_ms.unwrap_or_else(backoff).min(limits::SPAN_MS);
                row.last_error = Some(limits::text(error, limits::ERROR));
                self.put_back(now, &before, row, wait)?
            }
        };
        let answer = settled(&row, false);
        Ok((row, Ok(answer)))
    }

    fn complete(
        &mut self,
        now: Now,
        before: &Row,
        mut row: Row,
        result: &[u8],
    ) -> Result<Row, Fault> {
        row.state = State::Done;
        let keep = row.spec.policy.retention_ms.max(row.spec.unique_keep_ms);
        self.end(now, &mut row, keep.max(self.settings.settled_keep_ms));
        row.payload = Vec::new();
        row.payload_len = 0;
        row.payload_crc = crc32fast::hash(&[]);
        let follows = following(&row, result);
        let chained = !row.spec.then.is_empty();
        if chained {
            // The result lives on as the next link's payload.
            row.result = None;
        } else {
            row.result = Some(result.to_vec());
        }
        if let Some(task) = follows {
            let id = first(self.rows.task_ids(1)?)?;
            let next = Row::new(id, &task, Some(TaskId(row.id)), now);
            row.next = id;
            self.add(next)?;
        }
        self.notices.push(Notice::Ended {
            id: TaskId(row.id),
            state: State::Done,
            result: if chained { Vec::new() } else { result.to_vec() },
            error: None,
            next: (row.next != 0).then_some(TaskId(row.next)),
            postback: row.spec.postback.clone(),
        });
        self.rows.update(before, &row)?;
        self.unblock(before)?;
        Ok(row)
    }

    /// Sets what all ends have in common.
    fn end(&mut self, now: Now, row: &mut Row, keep_ms: u64) {
        row.fence = 0;
        row.lease_until = None;
        row.at_wall = None;
        row.ended = Some(now.line);
        row.keep_until = Some(now.line + keep_ms);
    }

    fn die(
        &mut self,
        now: Now,
        before: &Row,
        mut row: Row,
        reason: DeathReason,
        error: &str,
    ) -> Result<Row, Fault> {
        row.state = State::Dead;
        row.reason = Some(reason);
        row.last_error = Some(limits::text(error, limits::ERROR));
        let keep = self.settings.dead_keep_ms.max(row.spec.unique_keep_ms);
        self.end(now, &mut row, keep);
        self.tell_ended(&row);
        self.rows.update(before, &row)?;
        self.unblock(before)?;
        Ok(row)
    }

    fn quarantine(&mut self, now: Now, before: &Row, mut row: Row) -> Result<Row, Fault> {
        self.notices.push(Notice::Damaged { id: TaskId(row.id) });
        row.damaged = false;
        row.payload = Vec::new();
        self.die(now, before, row, DeathReason::Damaged, DAMAGED)
    }

    fn tell_ended(&mut self, row: &Row) {
        self.notices.push(Notice::Ended {
            id: TaskId(row.id),
            state: row.state,
            result: Vec::new(),
            error: row.last_error.clone(),
            next: None,
            postback: row.spec.postback.clone(),
        });
    }

    /// Back into the line after `wait` ms; at once with the turn it had.
    fn put_back(&mut self, now: Now, before: &Row, mut row: Row, wait: u64) -> Result<Row, Fault> {
        row.fence = 0;
        row.lease_until = None;
        row.at_wall = None;
        row.run_at = now.line + wait;
        row.state = if wait == 0 { State::Ready } else { State::Scheduled };
        if wait == 0 {
            self.tell_ready(&row.kind);
        }
        self.rows.update(before, &row)?;
        self.unblock(before)?;
        Ok(row)
    }

    /// Lets the next task of a concurrency key go when one that held it no longer does.
    fn unblock(&mut self, before: &Row) -> Result<(), Fault> {
        let Some(key) = before.conc_key.as_deref().filter(|_| before.state == State::Leased) else {
            return Ok(());
        };
        self.rows.flush()?;
        for blocked in self.rows.blocked(key, 1)? {
            let mut row = blocked.clone();
            row.state = State::Ready;
            self.tell_ready(&row.kind);
            self.rows.update(&blocked, &row)?;
        }
        self.rows.flush()
    }

    pub(crate) fn extend(
        &mut self,
        now: Now,
        extends: &[Extend],
    ) -> Result<Vec<Result<Extended, Refusal>>, Fault> {
        let mut rows = self.load(extends.iter().map(|extend| extend.token))?;
        let mut answers = Vec::with_capacity(extends.len());
        for extend in extends {
            let answer = match rows.get_mut(&extend.token.task.0) {
                None => Err(Refusal::Unknown),
                Some(row) => match holds(row, extend.token) {
                    Err(refusal) => Err(refusal),
                    Ok(()) => self.extend_one(now, row, extend)?,
                },
            };
            answers.push(answer);
        }
        Ok(answers)
    }

    fn extend_one(
        &mut self,
        now: Now,
        row: &mut Row,
        extend: &Extend,
    ) -> Result<Result<Extended, Refusal>, Fault> {
        let progress = extend.progress.as_ref();
        let size = progress.map_or(0, Vec::len);
        if let Err(refusal) = limits::at_most("progress", size, limits::PROGRESS, "bytes") {
            return Ok(Err(refusal));
        }
        let before = row.clone();
        if row.state != State::Leased {
            // The store was restarted; its worker was not. It holds the task on if it may.
            if let Some(key) = &row.conc_key
                && self.rows.holders(key)?.len() as u32 >= row.conc_limit()
            {
                return Ok(Err(Refusal::Stale));
            }
            row.state = State::Leased;
        }
        let span = extend.lease_ms.unwrap_or(row.spec.policy.lease_ms);
        let until = now.line + span.clamp(1, limits::SPAN_MS);
        row.lease_until = Some(until);
        if let Some(progress) = progress {
            row.progress = Some(progress.clone());
        }
        self.rows.update(&before, row)?;
        Ok(Ok(Extended { until }))
    }

    pub(crate) fn release(
        &mut self,
        now: Now,
        releases: &[Release],
    ) -> Result<Vec<Result<(), Refusal>>, Fault> {
        let mut rows = self.load(releases.iter().map(|release| release.token))?;
        let mut answers = Vec::with_capacity(releases.len());
        for release in releases {
            let answer = match rows.get(&release.token.task.0).cloned() {
                None => Err(Refusal::Unknown),
                Some(mut row) => match holds(&row, release.token) {
                    Err(refusal) => Err(refusal),
                    Ok(()) => {
                        let before = row.clone();
                        row.attempt = row.attempt.saturating_sub(1);
                        let wait = release.after_ms.min(limits::SPAN_MS);
                        let row = self.put_back(now, &before, row, wait)?;
                        rows.insert(row.id, row);
                        Ok(())
                    }
                },
            };
            answers.push(answer);
        }
        Ok(answers)
    }

    fn load(&mut self, tokens: impl Iterator<Item = Token>) -> Result<HashMap<u64, Row>, Fault> {
        let ids: HashSet<u64> = tokens.map(|token| token.task.0).collect();
        let mut ids: Vec<u64> = ids.into_iter().collect();
        // One order of locks for all who share the store.
        ids.sort_unstable();
        let rows = self.rows.load(&ids)?;
        self.lock_keys(&rows)?;
        Ok(rows.into_iter().map(|row| (row.id, row)).collect())
    }

    /// Before anything is decided that depends on who holds the concurrency keys of these.
    fn lock_keys(&mut self, rows: &[Row]) -> Result<(), Fault> {
        self.rows.lock_keys(&keys_of(rows))
    }

    pub(crate) fn due(&mut self, now: Now) -> Result<Due, Fault> {
        let mut due = Due::default();
        self.reset_walls(now)?;
        let mut rows = self.rows.due(now.line, BITE)?;
        let full = rows.len() == BITE;
        sort_holders_last(&mut rows);
        self.lock_keys(&rows)?;
        for row in rows {
            self.come_due(now, row, &mut due)?;
        }
        let next_instant = self.run_schedules(now, &mut due)?;
        self.rows.flush()?;
        let next_row = if full { Some(now.line) } else { self.rows.next_due()? };
        let next_instant = next_instant.map(|wall| now.line + wall.saturating_sub(now.wall));
        due.next = match (next_row, next_instant) {
            (Some(row), Some(instant)) => Some(row.min(instant)),
            (row, instant) => row.or(instant),
        };
        Ok(due)
    }

    fn come_due(&mut self, now: Now, mut row: Row, due: &mut Due) -> Result<(), Fault> {
        let before = row.clone();
        if row.state.is_terminal() {
            due.forgotten += 1;
            return self.rows.delete(&row);
        }
        if row.damaged {
            due.died += 1;
            return self.quarantine(now, &before, row).map(drop);
        }
        if row.deadline.is_some_and(|deadline| deadline <= now.line) {
            due.died += 1;
            return self.die(now, &before, row, DeathReason::Deadline, DEADLINE).map(drop);
        }
        if row.state == State::Leased {
            let worker = row.worker.as_deref().unwrap_or_default();
            let error = format!("the lease of worker {worker:?} ended");
            due.lost += 1;
            if row.attempt >= row.spec.policy.max_attempts {
                due.died += 1;
                return self.die(now, &before, row, DeathReason::Attempts, &error).map(drop);
            }
            row.last_error = Some(error);
            return self.put_back(now, &before, row, 0).map(drop);
        }
        // A delay that is over. What else has a time has it from its deadline.
        due.woken += 1;
        row.state = State::Ready;
        row.at_wall = None;
        row.tag = self.flows.next(&row.kind, row.fair_key.as_deref());
        self.tell_ready(&row.kind);
        self.rows.update(&before, &row)
    }

    /// When the wall clock was put right, tasks that stand for a wall time follow it.
    fn reset_walls(&mut self, now: Now) -> Result<(), Fault> {
        let skew = now.wall as i64 - now.line as i64;
        if self.skew.is_some_and(|old| old.abs_diff(skew) <= SKEW_MS) {
            return Ok(());
        }
        let mut after = 0;
        loop {
            let rows = self.rows.by_wall(after, BITE)?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            for before in rows {
                let mut row = before.clone();
                let wall = row.at_wall.unwrap_or(now.wall);
                row.run_at = now.line + wall.saturating_sub(now.wall);
                if row.run_at != before.run_at {
                    self.rows.update(&before, &row)?;
                }
            }
        }
        self.rows.flush()?;
        self.skew = Some(skew);
        Ok(())
    }

    /// Makes the tasks of schedules; the earliest next instant.
    fn run_schedules(&mut self, now: Now, due: &mut Due) -> Result<Option<u64>, Fault> {
        let mut earliest: Option<u64> = None;
        for (schedule, next_at) in self.rows.schedules()? {
            let Some(mut next) = next_at else { continue };
            // A schedule stored by another version may be one this version does not take.
            let Ok(plan) = schedule.check() else { continue };
            if next <= now.wall {
                let firing = plan.fire(next, now.wall);
                let tasks: Vec<NewTask> =
                    firing.instants.iter().map(|at| at_instant(&schedule, *at)).collect();
                for answer in self.enqueue(now, &tasks)? {
                    due.scheduled += u64::from(answer.is_ok_and(|made| made.met == Met::Nothing));
                }
                self.rows.advance_schedule(&schedule, firing.next_at)?;
                let Some(later) = firing.next_at else { continue };
                next = later;
            }
            earliest = Some(earliest.map_or(next, |other| other.min(next)));
        }
        Ok(earliest)
    }

    pub(crate) fn command(
        &mut self,
        now: Now,
        command: &Command,
    ) -> Result<Result<u64, Refusal>, Fault> {
        let done = match command {
            Command::Cancel(ids) => {
                let rows = self.load(ids.iter().map(|id| Token { task: *id, fence: 0 }))?;
                self.cancel(now, rows.into_values().collect())?
            }
            Command::CancelWhere(filter) => {
                let rows = self.find(filter)?;
                self.cancel(now, rows)?
            }
            Command::Retry(ids) => {
                let rows = self.load(ids.iter().map(|id| Token { task: *id, fence: 0 }))?;
                self.retry(now, rows.into_values().collect())?
            }
            Command::RetryWhere(filter) => {
                let rows = self.find(filter)?;
                self.retry(now, rows)?
            }
            Command::ForgetWhere(filter) => {
                let rows = self.find(filter)?;
                let mut forgotten = 0;
                for row in rows.into_iter().filter(|row| row.state.is_terminal()) {
                    self.rows.delete(&row)?;
                    forgotten += 1;
                }
                forgotten
            }
            Command::Pause(kind) | Command::Resume(kind) => {
                if let Err(refusal) = limits::name("task_type", kind) {
                    return Ok(Err(refusal));
                }
                let pause = matches!(command, Command::Pause(_));
                if !pause {
                    self.tell_ready(kind);
                }
                u64::from(self.rows.set_paused(kind, pause)?)
            }
            Command::Schedule(schedule) => match schedule.check() {
                Err(refusal) => return Ok(Err(refusal)),
                Ok(plan) => {
                    self.rows.put_schedule(schedule, plan.after(now.wall))?;
                    1
                }
            },
            Command::Unschedule(name) => u64::from(self.rows.drop_schedule(name)?),
        };
        Ok(Ok(done))
    }

    /// All pages of what the filter finds, up to its limit.
    fn find(&mut self, filter: &Filter) -> Result<Vec<Row>, Fault> {
        let mut filter = filter.clone();
        filter.limit = filter.limit.min(limits::BATCH);
        let mut found = Vec::new();
        loop {
            let limit = filter.limit - found.len();
            let (rows, next) = self.rows.scan(&Filter { limit, ..filter.clone() })?;
            found.extend(rows);
            filter.after = next.map(TaskId);
            if next.is_none() || found.len() >= filter.limit {
                let held = self.rows.hold(found, &filter)?;
                self.lock_keys(&held)?;
                return Ok(held);
            }
        }
    }

    fn cancel(&mut self, now: Now, mut rows: Vec<Row>) -> Result<u64, Fault> {
        sort_holders_last(&mut rows);
        let mut cancelled = 0;
        for mut row in rows {
            if row.state.is_terminal() {
                continue;
            }
            let before = row.clone();
            if row.state == State::Leased {
                let worker = row.worker.clone().unwrap_or_default();
                self.notices.push(Notice::Cancelled { token: row.token(), worker });
            }
            row.state = State::Cancelled;
            let keep = self.settings.dead_keep_ms.max(row.spec.unique_keep_ms);
            self.end(now, &mut row, keep);
            self.tell_ended(&row);
            self.rows.update(&before, &row)?;
            self.unblock(&before)?;
            cancelled += 1;
        }
        Ok(cancelled)
    }

    fn retry(&mut self, now: Now, mut rows: Vec<Row>) -> Result<u64, Fault> {
        rows.sort_by_key(|row| row.id);
        let mut retried = 0;
        for before in rows {
            let mut row = before.clone();
            // A payload that is not what was enqueued must not run; who wants the task enqueues it
            // anew.
            let damaged = row.reason == Some(DeathReason::Damaged) || row.damaged;
            if !matches!(row.state, State::Dead | State::Cancelled) || damaged {
                continue;
            }
            row.state = State::Ready;
            row.reason = None;
            row.attempt = 0;
            row.settled = 0;
            row.ended = None;
            row.keep_until = None;
            row.run_at = now.line;
            // The deadline that killed it would kill it again.
            row.deadline = row.deadline.filter(|deadline| *deadline > now.line);
            row.tag = self.flows.next(&row.kind, row.fair_key.as_deref());
            self.tell_ready(&row.kind);
            self.rows.update(&before, &row)?;
            retried += 1;
        }
        Ok(retried)
    }

    pub(crate) fn query(&mut self, _now: Now, query: &Query) -> Result<Answer, Fault> {
        Ok(match query {
            Query::Task(id) => {
                let mut found = self.rows.look(id.0)?;
                if let Some(row) = &mut found
                    && row.outside
                {
                    self.rows.fetch_payload(row)?;
                }
                Answer::Task(found.map(|row| Box::new(row.view())))
            }
            Query::Tasks(filter) => {
                let limit = filter.limit.clamp(1, limits::PAGE);
                let (rows, next) = self.rows.scan(&Filter { limit, ..filter.clone() })?;
                let tasks = rows.iter().map(Row::view).collect();
                Answer::Tasks { tasks, next: next.map(TaskId) }
            }
            Query::Queues => Answer::Queues(self.rows.queues()?),
            Query::Schedules => {
                let view = |(schedule, next_at)| ScheduleView { schedule, next_at };
                Answer::Schedules(self.rows.schedules()?.into_iter().map(view).collect())
            }
            Query::Why(id) => Answer::Why(self.why(*id)?),
        })
    }

    fn why(&mut self, id: TaskId) -> Result<Why, Fault> {
        let Some(row) = self.rows.look(id.0)? else { return Ok(Why::Unknown) };
        Ok(match row.state {
            State::Ready if self.rows.is_paused(&row.kind)? => Why::Paused,
            State::Ready => Why::Ready { ahead: self.rows.ahead(&row, limits::PAGE)? },
            State::Scheduled if row.attempt == 0 => Why::Delayed { until: row.run_at },
            State::Scheduled => {
                Why::BackingOff { until: row.run_at, attempt: row.attempt, error: row.last_error }
            }
            State::Blocked => {
                let limit = row.conc_limit();
                let key = row.conc_key.unwrap_or_default();
                let holders = self.rows.holders(&key)?.into_iter().map(TaskId).collect();
                Why::Blocked { key, limit, holders }
            }
            State::Leased => Why::Running {
                worker: row.worker.unwrap_or_default(),
                until: row.lease_until.unwrap_or_default(),
                attempt: row.attempt,
            },
            State::Done | State::Dead | State::Cancelled => {
                Why::Ended { state: row.state, reason: row.reason, error: row.last_error }
            }
        })
    }
}

const DEADLINE: &str = "its deadline passed";
const DAMAGED: &str = "what is stored of it is not what was written";

/// The concurrency keys of these rows, in the one order in which all lock them.
fn keys_of(rows: &[Row]) -> Vec<&str> {
    let mut keys: Vec<&str> = rows.iter().filter_map(|row| row.conc_key.as_deref()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

pub(crate) fn key_of(task: &NewTask) -> Option<(&str, &str)> {
    task.unique.as_ref().map(|unique| (task.task_type.as_str(), unique.key.as_str()))
}

fn first(ids: Vec<u64>) -> Result<u64, Fault> {
    ids.first().copied().ok_or_else(|| Fault::Failed("too few numbers".into()))
}

/// Whether the token is the one valid lease of the task.
fn holds(row: &Row, token: Token) -> Result<(), Refusal> {
    if row.fence != 0 && row.fence == token.fence {
        return Ok(());
    }
    Err(if row.state == State::Cancelled { Refusal::Cancelled } else { Refusal::Stale })
}

/// Whether a settle that already counted ended as this one wants to.
fn fits(row: &Row, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Complete(_) => row.state == State::Done,
        Outcome::Reject { .. } => row.reason == Some(DeathReason::Rejected),
        Outcome::Fail { .. } => {
            row.state != State::Done && row.reason != Some(DeathReason::Rejected)
        }
    }
}

fn settled(row: &Row, repeated: bool) -> Settled {
    let next = (row.next != 0).then_some(TaskId(row.next));
    Settled { state: row.state, next, repeated }
}

/// The task that a good end makes: the next link of the chain, or a postback.
fn following(row: &Row, result: &[u8]) -> Option<NewTask> {
    let mut attributes = row.spec.attributes.clone();
    if let Some((step, rest)) = row.spec.then.split_first() {
        return Some(NewTask {
            task_type: step.task_type.clone(),
            payload: result.to_vec(),
            content_type: row.spec.content_type.clone(),
            policy: step.policy.clone(),
            then: rest.to_vec(),
            postback: row.spec.postback.clone(),
            attributes,
            ..NewTask::default()
        });
    }
    let (task_type, to) = match row.spec.postback.as_ref()? {
        Postback::Task(kind) => (kind.as_str(), None),
        Postback::Service(to) => (POSTBACK_SERVICE, Some(to)),
        Postback::Stomp(to) => (POSTBACK_STOMP, Some(to)),
        Postback::Caller => return None,
    };
    attributes.extend(to.map(|to| ("to".to_owned(), to.clone())));
    attributes.push(("task".to_owned(), row.id.to_string()));
    Some(NewTask {
        task_type: task_type.to_owned(),
        payload: result.to_vec(),
        content_type: row.spec.content_type.clone(),
        attributes,
        ..NewTask::default()
    })
}

fn at_instant(schedule: &Schedule, wall: u64) -> NewTask {
    let mut task = schedule.task.clone();
    // Another broker may see the instant pass a day later, but not later than that.
    let key = format!("cron {} {wall}", limits::cut(&schedule.name, 200));
    task.unique = Some(Unique { key, keep_ms: 86_400_000 });
    task.run_at = When::Now;
    task
}

/// The end of a lease may change a blocked task. Those who end several read no row that was changed
/// since: what blocks nobody goes first.
fn sort_holders_last(rows: &mut [Row]) {
    rows.sort_by_key(|row| (row.state == State::Leased, row.id));
}

/// The best of several lines, each kept in its order.
fn merge(lines: Vec<Vec<Row>>, limit: usize) -> Vec<Row> {
    let mut lines: Vec<_> = lines.into_iter().map(|line| line.into_iter().peekable()).collect();
    if lines.len() == 1 {
        return lines.remove(0).take(limit).collect();
    }
    let mut merged = Vec::with_capacity(limit.min(64));
    while merged.len() < limit {
        let heads = lines.iter_mut().enumerate();
        let best =
            heads.filter_map(|(at, line)| line.peek().map(|row| ((row.rank, row.id), at))).min();
        let Some(row) = best.and_then(|(_, at)| lines.get_mut(at)?.next()) else { break };
        merged.push(row);
    }
    merged
}
