//! Who waits at the desk: claims for tasks, callers for results.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use engine::ConnId;
use store::TaskId;
use tokio::sync::oneshot;

use super::desk::{Ask, Ended};

/// Somebody who waits for the end of a task.
pub(super) struct Follower {
    pub(super) number: u64,
    /// Links of its chain that are still to come.
    pub(super) links: usize,
    pub(super) sender: oneshot::Sender<Ended>,
}

/// Claims by what they wait for, and followers by what they follow.
#[derive(Default)]
pub(super) struct Waits {
    next: u64,
    pub(super) asks: BTreeMap<u64, Ask>,
    pub(super) by_type: HashMap<String, BTreeSet<u64>>,
    pub(super) by_end: BTreeSet<(u64, u64)>,
    pub(super) by_conn: HashMap<ConnId, BTreeSet<u64>>,
    pub(super) followers: HashMap<TaskId, Vec<Follower>>,
    /// What each follower follows now.
    pub(super) followed: HashMap<u64, TaskId>,
}

impl Waits {
    /// A number that nobody has.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn insert(&mut self, number: u64, ask: Ask) {
        for task_type in &ask.claim.types {
            self.by_type.entry(task_type.clone()).or_default().insert(number);
        }
        self.by_end.insert((ask.until, number));
        if let Some(conn) = ask.conn {
            self.by_conn.entry(conn).or_default().insert(number);
        }
        self.asks.insert(number, ask);
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Ask> {
        let ask = self.asks.remove(&number)?;
        self.by_end.remove(&(ask.until, number));
        if let Some(conn) = ask.conn
            && let Some(numbers) = self.by_conn.get_mut(&conn)
        {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_conn.remove(&conn);
            }
        }
        for task_type in &ask.claim.types {
            if let Some(numbers) = self.by_type.get_mut(task_type) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    self.by_type.remove(task_type);
                }
            }
        }
        Some(ask)
    }
}
