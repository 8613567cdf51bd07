//! What the rules need of an engine: rows, a few ways to find them, and transactions.

use crate::api::{Filter, Level, Notice, QueueView};
use crate::cron::Schedule;
use crate::row::Row;
use crate::task::Now;

/// What the calls of a transaction will ask for, so that a distant engine fetches it at once.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    /// Tasks that will be loaded, perhaps one by one.
    pub(crate) ids: Vec<u64>,
    /// Types and unique keys that will be looked up.
    pub(crate) keys: Vec<(String, String)>,
    /// Numbers for so many tasks.
    pub(crate) tasks: usize,
}

/// Tells listeners what happened elsewhere; may be called from any thread.
pub(crate) type Tell = Box<dyn Fn(Vec<Notice>) + Send>;

/// Rows of one engine. Everything between [`begin`](Rows::begin) and [`commit`](Rows::commit)
/// happens or does not happen as a whole; rows that were read stay the caller's until then.
pub(crate) trait Rows: Send {
    fn begin(&mut self, wants: &Wants) -> Result<(), Fault>;
    /// The instants of the transaction: the caller's, unless the engine has a clock of its own.
    fn now(&mut self, asked: Now) -> Now {
        asked
    }
    /// Makes everything since `begin` as durable as the engine promises.
    fn commit(&mut self) -> Result<(), Fault>;
    /// Forgets everything since `begin`.
    fn rollback(&mut self);

    /// `count` numbers above all that were ever given for tasks.
    fn task_ids(&mut self, count: usize) -> Result<Vec<u64>, Fault>;
    /// For each of these rows, which [`ready`](Rows::ready) gave, a number above all that were
    /// given for leases before.
    fn fences(&mut self, rows: &[Row]) -> Result<Vec<u64>, Fault>;

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

    /// Those that exist, in any order.
    fn load(&mut self, ids: &[u64]) -> Result<Vec<Row>, Fault>;
    /// The same for who only looks: nobody else is kept from changing it.
    fn look(&mut self, id: u64) -> Result<Option<Row>, Fault> {
        Ok(self.load(&[id])?.pop())
    }
    /// Rows that [`scan`](Rows::scan) found, as they are if they are to be changed.
    fn hold(&mut self, rows: Vec<Row>, _filter: &Filter) -> Result<Vec<Row>, Fault> {
        Ok(rows)
    }
    /// By (type, unique key); those that exist, in any order.
    fn by_unique(&mut self, keys: &[(&str, &str)]) -> Result<Vec<Row>, Fault>;
    /// Ready tasks of each of these types, in the order of claims; those that others are about to
    /// change may be left out.
    fn ready(&mut self, kinds: &[&str], limit: usize) -> Result<Vec<Vec<Row>>, Fault>;
    /// Blocked tasks of a concurrency key, in the order of claims.
    fn blocked(&mut self, key: &str, limit: usize) -> Result<Vec<Row>, Fault>;
    /// Keeps others out of these concurrency keys until the commit.
    fn lock_keys(&mut self, _keys: &[&str]) -> Result<(), Fault> {
        Ok(())
    }
    /// Leased tasks of a concurrency key.
    fn holders(&mut self, key: &str) -> Result<Vec<u64>, Fault>;
    /// Those whose [`Row::due`] has come, earliest first; as in [`ready`](Rows::ready), what others
    /// are about to change may be left out.
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
    /// Sets when a schedule fires next, unless it was replaced meanwhile.
    fn advance_schedule(&mut self, schedule: &Schedule, to: Option<u64>) -> Result<(), Fault> {
        self.put_schedule(schedule, to)
    }
    fn drop_schedule(&mut self, name: &str) -> Result<bool, Fault>;

    /// Takes the way by which others are heard who share the engine.
    fn hear(&mut self, _tell: Tell) {}
    /// What was committed and told here.
    fn told(&mut self, _notices: &[Notice]) {}
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
    /// Another transaction was in the way; nothing happened, and it may go well the next time.
    Again(String),
}
