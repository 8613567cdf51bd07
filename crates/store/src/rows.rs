//! What the rules need of an engine: rows, a few ways to find them, and transactions.

use crate::api::{Filter, Level, QueueView};
use crate::cron::Schedule;
use crate::row::Row;

/// Rows of one engine. Everything between [`begin`](Rows::begin) and [`commit`](Rows::commit)
/// happens or does not happen as a whole; rows that were read stay the caller's until then.
pub(crate) trait Rows: Send {
    fn begin(&mut self) -> Result<(), Fault>;
    /// Makes everything since `begin` as durable as the engine promises.
    fn commit(&mut self) -> Result<(), Fault>;
    /// Forgets everything since `begin`.
    fn rollback(&mut self);

    /// `count` numbers above all that were ever given for tasks.
    fn task_ids(&mut self, count: usize) -> Result<Vec<u64>, Fault>;
    /// `count` numbers above all that were ever given for leases.
    fn fences(&mut self, count: usize) -> Result<Vec<u64>, Fault>;

    fn insert(&mut self, row: Row) -> Result<(), Fault>;
    /// `before` is what was read; a payload kept beside the row goes when its length is 0.
    fn update(&mut self, before: &Row, row: &Row) -> Result<(), Fault>;
    fn delete(&mut self, row: &Row) -> Result<(), Fault>;
    /// What was inserted, updated and deleted must be seen by what is read after this.
    fn flush(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    /// Reads a payload kept beside its row into the row.
    fn fetch_payload(&mut self, row: &mut Row) -> Result<(), Fault>;

    /// These will be loaded, perhaps one by one.
    fn prefetch(&mut self, _ids: &[u64]) -> Result<(), Fault> {
        Ok(())
    }
    /// Those that exist, in any order.
    fn load(&mut self, ids: &[u64]) -> Result<Vec<Row>, Fault>;
    /// By (type, unique key); those that exist, in any order.
    fn by_unique(&mut self, keys: &[(&str, &str)]) -> Result<Vec<Row>, Fault>;
    /// Ready tasks of a type, in the order of claims.
    fn ready(&mut self, kind: &str, limit: usize) -> Result<Vec<Row>, Fault>;
    /// Blocked tasks of a concurrency key, in the order of claims.
    fn blocked(&mut self, key: &str, limit: usize) -> Result<Vec<Row>, Fault>;
    /// Keeps others out of these concurrency keys until the commit.
    fn lock_keys(&mut self, _keys: &[&str]) -> Result<(), Fault> {
        Ok(())
    }
    /// Leased tasks of a concurrency key.
    fn holders(&mut self, key: &str) -> Result<Vec<u64>, Fault>;
    /// Those whose [`Row::due`] has come, earliest first.
    fn due(&mut self, until: u64, limit: usize) -> Result<Vec<Row>, Fault>;
    /// The earliest [`Row::due`].
    fn next_due(&mut self) -> Result<Option<u64>, Fault>;
    /// Scheduled tasks that stand for a wall time, up to `limit`, those above `after`.
    fn by_wall(&mut self, after: u64, limit: usize) -> Result<Vec<Row>, Fault>;
    /// Rows that pass the filter, ascending, and where to go on if it stopped early: it may, after
    /// having looked at many rows.
    fn scan(&mut self, filter: &Filter) -> Result<(Vec<Row>, Option<u64>), Fault>;
    /// Ready tasks of the row's type that go before it; counting may stop at `limit`.
    fn ahead(&mut self, row: &Row, limit: usize) -> Result<u64, Fault>;
    /// The lowest and highest turn of each (type, fair key) among tasks that have not ended.
    fn turns(&mut self) -> Result<Vec<Turns>, Fault>;

    fn is_paused(&mut self, kind: &str) -> Result<bool, Fault>;
    /// Whether that changed anything.
    fn set_paused(&mut self, kind: &str, paused: bool) -> Result<bool, Fault>;
    fn queues(&mut self) -> Result<Vec<QueueView>, Fault>;

    fn schedules(&mut self) -> Result<Vec<(Schedule, Option<u64>)>, Fault>;
    fn put_schedule(&mut self, schedule: &Schedule, next_at: Option<u64>) -> Result<(), Fault>;
    fn drop_schedule(&mut self, name: &str) -> Result<bool, Fault>;

    /// There is nothing to do: a time for housekeeping. Whether it wants to be called again.
    fn idle(&mut self) -> Result<bool, Fault> {
        Ok(false)
    }
    /// Whether enqueues can be taken again after [`Fault::Full`].
    fn has_room(&mut self) -> bool {
        true
    }
    /// Gives up what was held back for the day the disk is full. Whether anything was.
    fn free_reserve(&mut self) -> bool {
        false
    }
    /// After [`Fault::Lost`]: tries to come back.
    fn reconnect(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    fn level(&self) -> Level;
    /// The last call.
    fn close(&mut self) {}
}

/// The lowest and highest turn of a fair key that is taken by tasks that have not ended.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    pub(crate) kind: String,
    pub(crate) fair_key: Option<String>,
    pub(crate) low: u64,
    pub(crate) high: u64,
}

/// What an engine failed at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// There is no room; nothing happened.
    Full(String),
    /// What was believed to be on the disk may not be. Going on would be lying.
    Broken(String),
    /// The server is gone; a commit under way may have happened.
    Lost(String),
    /// Something else about this transaction; nothing happened.
    Failed(String),
}
