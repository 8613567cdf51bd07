//! When something is to be done about a task by itself: the index that every broker keeps of the
//! bucket's `ID.later` entries. It is a hint; what counts is in the task's own record.

use std::collections::{BTreeSet, HashMap};

#[derive(Clone, Copy, Debug)]
struct Entry {
    due: u64,
    revision: u64,
    /// It stands for a wall time.
    wall: bool,
}

#[derive(Debug, Default)]
pub(super) struct Later {
    by_id: HashMap<u64, Entry>,
    by_due: BTreeSet<(u64, u64)>,
}

impl Later {
    /// What an entry of the bucket says; an older one than is known is too late.
    pub(super) fn set(&mut self, id: u64, due: u64, wall: bool, revision: u64) {
        if self.by_id.get(&id).is_some_and(|entry| entry.revision > revision) {
            return;
        }
        self.forget(id);
        self.by_due.insert((due, id));
        self.by_id.insert(id, Entry { due, revision, wall });
    }

    /// The same entry means another time.
    pub(super) fn correct(&mut self, id: u64, due: u64) {
        let Some(entry) = self.by_id.get(&id).copied() else { return };
        self.set(id, due, entry.wall, entry.revision);
    }

    pub(super) fn forget(&mut self, id: u64) {
        if let Some(entry) = self.by_id.remove(&id) {
            self.by_due.remove(&(entry.due, id));
        }
    }

    /// The first ones until then.
    pub(super) fn until(&self, until: u64, limit: usize) -> Vec<u64> {
        self.by_due.range(..=(until, u64::MAX)).take(limit).map(|(_, id)| *id).collect()
    }

    /// The earliest, of those that are not `changing`.
    pub(super) fn next(&self, changing: impl Fn(u64) -> bool) -> Option<u64> {
        self.by_due.iter().find(|(_, id)| !changing(*id)).map(|(due, _)| *due)
    }

    pub(super) fn walls(&self, after: u64) -> Vec<u64> {
        let wall = |(id, entry): (&u64, &Entry)| (entry.wall && *id > after).then_some(*id);
        let mut ids: Vec<u64> = self.by_id.iter().filter_map(wall).collect();
        ids.sort_unstable();
        ids
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}

/// An entry's text.
pub(super) fn write(due: u64, wall: bool) -> String {
    format!("{due}{}", if wall { " wall" } else { "" })
}

/// The time and whether it stands for a wall time.
pub(super) fn read(text: &[u8]) -> Option<(u64, bool)> {
    let text = std::str::from_utf8(text).ok()?;
    let (due, wall) = text.strip_suffix(" wall").map_or((text, false), |due| (due, true));
    Some((due.parse().ok()?, wall))
}
