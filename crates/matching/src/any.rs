//! A line that is plain or fair, and may become the other while somebody waits in it.

use alloc::vec::Vec;
use core::num::NonZero;

use crate::fair::{FairConfig, FairKey, FairQueue};
use crate::line::{Flow, Line};
use crate::queue::{ConfigError, Dropped, Entry, Key, Queue, QueueConfig, Reason};
use crate::time::Time;

/// What configures an [`AnyLine`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AnyConfig {
    /// The line, or the line of each flow.
    pub line: QueueConfig,
    /// Most flows of a fair line, see [`FairConfig::flows`]; `None` = one line for all.
    pub flows: Option<NonZero<u64>>,
    /// Hand-outs per turn of the first flows, see [`FairQueue::weigh`]; all others have one.
    pub weights: [NonZero<u32>; WEIGHTS],
}

/// Flows of an [`AnyLine`] that may weigh more than others.
pub const WEIGHTS: usize = 3;

impl AnyConfig {
    fn fair(&self) -> Option<FairConfig> {
        self.flows.map(|flows| FairConfig { line: self.line, flows: flows.get() })
    }
}

impl From<QueueConfig> for AnyConfig {
    fn from(line: QueueConfig) -> AnyConfig {
        AnyConfig { line, flows: None, weights: [NonZero::<u32>::MIN; WEIGHTS] }
    }
}

/// Names one waiter in an [`AnyLine`], until the line changes its kind or its flows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AnyKey {
    /// In a plain line.
    Plain(Key),
    /// In a fair one.
    Fair(FairKey),
}

/// A [`Queue`] or a [`FairQueue`], as configured. Whoever waits when that, or the number of flows,
/// changes keeps its place by arrival, its deadline and its rank, but gets another key: look it up
/// in [`entries`](AnyLine::entries).
#[derive(Debug)]
pub enum AnyLine<T> {
    /// One line for all.
    Plain(Queue<T>),
    /// A line per flow.
    Fair(FairQueue<T>),
}

/// A waiter on its way from one line to another.
#[derive(Debug)]
pub(crate) struct Mover<T> {
    pub(crate) send: Time,
    pub(crate) rank: Option<NonZero<u64>>,
    pub(crate) until: Time,
    pub(crate) value: T,
}

impl<T: Flow> AnyLine<T> {
    /// A line in which nobody waits.
    #[must_use]
    pub fn new(config: AnyConfig, now: Time) -> AnyLine<T> {
        match config.fair() {
            None => AnyLine::Plain(Queue::new(config.line, now)),
            Some(fair) => {
                let mut line = FairQueue::new(fair);
                weigh(&mut line, &config);
                AnyLine::Fair(line)
            }
        }
    }

    /// The waiter called `key`, if it still waits.
    #[must_use]
    pub fn get(&self, key: AnyKey) -> Option<&T> {
        match (self, key) {
            (AnyLine::Plain(line), AnyKey::Plain(key)) => line.get(key),
            (AnyLine::Fair(line), AnyKey::Fair(key)) => line.get(key),
            (AnyLine::Plain(_), AnyKey::Fair(_)) | (AnyLine::Fair(_), AnyKey::Plain(_)) => None,
        }
    }

    /// Every waiter and its key: one line from oldest to newest, or flow by flow.
    pub fn entries(&self) -> impl Iterator<Item = (AnyKey, &T)> {
        let (plain, fair) = match self {
            AnyLine::Plain(line) => (Some(line), None),
            AnyLine::Fair(line) => (None, Some(line)),
        };
        let plain = plain.into_iter().flat_map(Queue::entries);
        let fair = fair.into_iter().flat_map(FairQueue::entries);
        plain
            .map(|(key, value)| (AnyKey::Plain(key), value))
            .chain(fair.map(|(key, value)| (AnyKey::Fair(key), value)))
    }

    /// Who makes room for a newcomer: the oldest, in a fair line the oldest of the longest flow
    /// (one look per flow).
    #[must_use]
    pub fn first_to_go(&self) -> Option<AnyKey> {
        match self {
            AnyLine::Plain(line) => line.entries().next().map(|(key, _)| AnyKey::Plain(key)),
            AnyLine::Fair(line) => line.first_of_longest().map(AnyKey::Fair),
        }
    }

    /// Send time of the oldest waiter that was never handed out, see [`Queue::oldest_fresh`].
    #[must_use]
    pub fn oldest_fresh(&self) -> Option<Time> {
        match self {
            AnyLine::Plain(line) => line.oldest_fresh(),
            AnyLine::Fair(line) => line.oldest_fresh(),
        }
    }

    /// Whether the line, or one of its flows, drops waiters because others wait too long.
    #[must_use]
    pub fn is_shedding(&self) -> bool {
        match self {
            AnyLine::Plain(line) => line.is_shedding(),
            AnyLine::Fair(line) => line.is_shedding(),
        }
    }
}

impl<T: Flow> Line<T> for AnyLine<T> {
    type Key = AnyKey;
    type Config = AnyConfig;

    fn len(&self) -> usize {
        match self {
            AnyLine::Plain(line) => line.len(),
            AnyLine::Fair(line) => line.len(),
        }
    }
    fn oldest(&self) -> Option<Time> {
        match self {
            AnyLine::Plain(line) => line.oldest(),
            AnyLine::Fair(line) => line.oldest(),
        }
    }
    fn deadline(&self) -> Option<Time> {
        match self {
            AnyLine::Plain(line) => line.deadline(),
            AnyLine::Fair(line) => line.deadline(),
        }
    }
    fn push(
        &mut self,
        now: Time,
        send: Time,
        value: T,
        drops: &mut Vec<Dropped<T>>,
    ) -> Option<AnyKey> {
        match self {
            AnyLine::Plain(line) => line.push(now, send, value, drops).map(AnyKey::Plain),
            AnyLine::Fair(line) => Line::push(line, now, send, value, drops).map(AnyKey::Fair),
        }
    }
    fn put_back(&mut self, now: Time, send: Time, rank: NonZero<u64>, value: T) -> AnyKey {
        match self {
            AnyLine::Plain(line) => AnyKey::Plain(line.put_back(send, rank, value)),
            AnyLine::Fair(line) => AnyKey::Fair(Line::put_back(line, now, send, rank, value)),
        }
    }
    fn pop(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) -> Option<Entry<T>> {
        match self {
            AnyLine::Plain(line) => line.pop(now, drops),
            AnyLine::Fair(line) => line.pop(now, drops),
        }
    }
    fn cancel(&mut self, now: Time, key: AnyKey, drops: &mut Vec<Dropped<T>>) -> Option<T> {
        match (self, key) {
            (AnyLine::Plain(line), AnyKey::Plain(key)) => line.cancel(now, key, drops),
            (AnyLine::Fair(line), AnyKey::Fair(key)) => line.cancel(now, key, drops),
            (AnyLine::Plain(_), AnyKey::Fair(_)) | (AnyLine::Fair(_), AnyKey::Plain(_)) => None,
        }
    }
    fn cancel_all(
        &mut self,
        now: Time,
        keys: impl IntoIterator<Item = AnyKey>,
        drops: &mut Vec<Dropped<T>>,
    ) -> usize {
        let keys = keys.into_iter();
        match self {
            AnyLine::Plain(line) => line.cancel_all(now, keys.filter_map(AnyKey::plain), drops),
            AnyLine::Fair(line) => line.cancel_all(now, keys.filter_map(AnyKey::fair), drops),
        }
    }
    fn expire_at(&mut self, key: AnyKey, until: Time) {
        match (self, key) {
            (AnyLine::Plain(line), AnyKey::Plain(key)) => line.expire_at(key, until),
            (AnyLine::Fair(line), AnyKey::Fair(key)) => line.expire_at(key, until),
            (AnyLine::Plain(_), AnyKey::Fair(_)) | (AnyLine::Fair(_), AnyKey::Plain(_)) => {}
        }
    }
    fn tick(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) {
        match self {
            AnyLine::Plain(line) => line.tick(now, drops),
            AnyLine::Fair(line) => line.tick(now, drops),
        }
    }
    fn clear(&mut self, reason: Reason, drops: &mut Vec<Dropped<T>>) {
        match self {
            AnyLine::Plain(line) => line.clear(reason, drops),
            AnyLine::Fair(line) => line.clear(reason, drops),
        }
    }
    fn validate(config: &AnyConfig) -> Result<(), ConfigError> {
        config.line.validate()
    }
    /// Moves everybody if the kind or the number of flows changes, in the order they came.
    fn reconfigure(&mut self, now: Time, config: AnyConfig, drops: &mut Vec<Dropped<T>>) {
        let mut movers = match (&mut *self, config.fair()) {
            (AnyLine::Plain(line), None) => return line.reconfigure(now, config.line, drops),
            (AnyLine::Fair(line), Some(fair)) if fair.flows == line.config().flows => {
                weigh(line, &config);
                return line.reconfigure(now, fair, drops);
            }
            (AnyLine::Plain(line), Some(_)) => line.withdraw_all(),
            (AnyLine::Fair(line), _) => line.withdraw_all(),
        };
        movers.sort_by_key(|mover| (mover.send, mover.value.order()));
        *self = AnyLine::new(config, now);
        match self {
            AnyLine::Plain(line) => {
                movers.into_iter().for_each(|mover| {
                    line.move_in(mover);
                });
                line.reconfigure(now, config.line, drops);
            }
            AnyLine::Fair(line) => {
                movers.into_iter().for_each(|mover| line.move_in(now, mover.value.flow(), mover));
                let config = *line.config();
                line.reconfigure(now, config, drops);
            }
        }
    }
}

fn weigh<T>(line: &mut FairQueue<T>, config: &AnyConfig) {
    for (flow, weight) in (0..).zip(config.weights) {
        line.weigh(flow, weight);
    }
}

impl AnyKey {
    fn plain(self) -> Option<Key> {
        match self {
            AnyKey::Plain(key) => Some(key),
            AnyKey::Fair(_) => None,
        }
    }

    fn fair(self) -> Option<FairKey> {
        match self {
            AnyKey::Plain(_) => None,
            AnyKey::Fair(key) => Some(key),
        }
    }
}
