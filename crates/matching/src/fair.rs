//! One line per key, served in turn, so that nobody who sends much delays those who send little.
//!
//! ```text
//!           ┌ flow a: Queue ─┐
//!   push ──▶│ flow b: Queue  │──▶ pop: a, b, c, a, b, c, …
//!           └ flow c: Queue ─┘
//! ```
//!
//! The rules are those of `sbroker_fair_queue` (specification sheet, section 2.4) over any
//! [`QueueConfig`]: capacity and discipline hold per flow. An emptied flow keeps its turn until a
//! hand-out visits it; then it leaves the ring, and what CoDel learned about it is kept for as
//! long as it may matter. Fixed (Q5): a flow that returns later than that begins anew, whether or
//! not anybody swept in between. Beyond the original: weights, a bound on the number of flows,
//! and calls that cost O(log flows), not O(flows).

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::num::NonZero;

use crate::any::Mover;
use crate::queue::{ConfigError, Dropped, Entry, Key, Queue, QueueConfig, Reason};
use crate::time::Time;

/// What configures a fair queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FairConfig {
    /// What configures the line of each flow.
    pub line: QueueConfig,
    /// Most flows there are. Keys share a flow when they are equal modulo this number, so hash
    /// what strangers choose (with a secret key) before it becomes a flow key.
    pub flows: u64,
}

impl FairConfig {
    /// Whether the configuration makes sense.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.flows == 0 {
            return Err(ConfigError::Flows);
        }
        self.line.validate()
    }
}

/// Names one waiter in one fair queue.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FairKey {
    flow: u64,
    /// Which flow of that name: a later one starts its keys anew.
    life: u64,
    key: Key,
}

#[derive(Debug)]
struct Flow<T> {
    line: Queue<T>,
    life: u64,
    /// Its deadline as `due` holds it.
    due: Option<Time>,
    /// Hand-outs in this turn.
    served: u32,
}

/// A line per key, served in turn.
#[derive(Debug)]
pub struct FairQueue<T> {
    config: FairConfig,
    flows: BTreeMap<u64, Flow<T>>,
    /// Whose turn it is: every flow once, front first.
    ring: VecDeque<u64>,
    /// Empty flows that left the ring, and until when their line is remembered.
    remembered: BTreeMap<u64, (Queue<T>, Time)>,
    /// The deadlines of the flows.
    due: BTreeSet<(Time, u64)>,
    /// Hand-outs per turn where that is not one.
    weights: BTreeMap<u64, NonZero<u32>>,
    /// New keys of those who waited when the flows were dealt anew.
    moved: BTreeMap<FairKey, FairKey>,
    /// Flows there ever were.
    lives: u64,
    /// Not later than the first of `due`; earlier only costs a useless tick.
    next: Time,
    /// Not later than the first time in `remembered`.
    sweep_at: Time,
    /// Waiters in all flows.
    len: usize,
}

impl<T> FairQueue<T> {
    /// A fair queue in which nobody waits.
    #[must_use]
    pub fn new(config: FairConfig) -> FairQueue<T> {
        FairQueue {
            config,
            flows: BTreeMap::new(),
            ring: VecDeque::new(),
            remembered: BTreeMap::new(),
            due: BTreeSet::new(),
            weights: BTreeMap::new(),
            moved: BTreeMap::new(),
            lives: 0,
            next: Time::MAX,
            sweep_at: Time::MAX,
            len: 0,
        }
    }

    /// Waiters in all flows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Flows that have a turn, and those that are only remembered.
    #[must_use]
    pub fn flows(&self) -> (usize, usize) {
        (self.flows.len(), self.remembered.len())
    }

    /// Waiters in the flow of `key`.
    #[must_use]
    pub fn flow_len(&self, key: u64) -> usize {
        self.flows.get(&self.bucket(key)).map_or(0, |flow| flow.line.len())
    }

    /// Send time of the oldest waiter: one look per flow.
    #[must_use]
    pub fn oldest(&self) -> Option<Time> {
        self.flows.values().filter_map(|flow| flow.line.oldest()).min()
    }

    /// Send time of the oldest waiter that was never handed out: one look per flow.
    #[must_use]
    pub fn oldest_fresh(&self) -> Option<Time> {
        self.flows.values().filter_map(|flow| flow.line.oldest_fresh()).min()
    }

    /// The waiter called `key`, if it still waits.
    #[must_use]
    pub fn get(&self, key: FairKey) -> Option<&T> {
        let key = self.resolve(key)?;
        self.flows.get(&key.flow)?.line.get(key.key)
    }

    /// Every waiter and its key, flow by flow.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (FairKey, &T)> {
        self.flows.iter().flat_map(|(name, flow)| {
            let (flow_name, life) = (*name, flow.life);
            let entries = flow.line.entries();
            entries.map(move |(key, value)| (FairKey { flow: flow_name, life, key }, value))
        })
    }

    /// The oldest waiter of the longest flow.
    pub(crate) fn first_of_longest(&self) -> Option<FairKey> {
        let longest = self.flows.iter().max_by_key(|(_, flow)| flow.line.len());
        let (name, Flow { line, life, .. }) = longest?;
        let key = line.entries().next()?.0;
        Some(FairKey { flow: *name, life: *life, key })
    }

    /// Whether one of the flows drops waiters because others wait too long: one look per flow.
    #[must_use]
    pub fn is_shedding(&self) -> bool {
        self.flows.values().any(|flow| flow.line.is_shedding())
    }

    /// Everybody, flow by flow, removed without a drop.
    pub(crate) fn withdraw_all(&mut self) -> Vec<Mover<T>> {
        let mut movers = Vec::with_capacity(self.len);
        for flow in self.keys() {
            movers.extend(self.on(flow, Queue::withdraw_all).unwrap_or_default());
        }
        movers
    }

    /// Takes in somebody who waited elsewhere, behind those of its flow who came before.
    pub(crate) fn move_in(&mut self, now: Time, key: u64, mover: Mover<T>) {
        let flow = self.bucket(key);
        self.require_flow(now, flow);
        self.on(flow, |line| line.move_in(mover));
        self.next = self.next.min(self.first_due());
    }

    /// What configures the queue.
    #[must_use]
    pub fn config(&self) -> &FairConfig {
        &self.config
    }

    /// When [`tick`](FairQueue::tick) next has something to do. May be early.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        (self.next < Time::MAX).then_some(self.next)
    }

    /// Lets the flow of `key` hand out this many waiters per turn.
    pub fn weigh(&mut self, key: u64, weight: NonZero<u32>) {
        let flow = self.bucket(key);
        match weight {
            NonZero::<u32>::MIN => self.weights.remove(&flow),
            weight => self.weights.insert(flow, weight),
        };
    }

    /// Appends a waiter to the flow of `key`. `None` when it was refused or dropped at once.
    pub fn push(
        &mut self,
        now: Time,
        send: Time,
        key: u64,
        value: T,
        drops: &mut Vec<Dropped<T>>,
    ) -> Option<FairKey> {
        let flow = self.bucket(key);
        let life = self.require_flow(now, flow);
        let key = self.on(flow, |line| line.push(now, send, value, drops)).flatten();
        self.settle(now, flow, drops);
        key.map(|key| FairKey { flow, life, key })
    }

    /// Puts a waiter that was handed out back where it stood in its flow, see
    /// [`Queue::put_back`].
    pub fn put_back(
        &mut self,
        now: Time,
        send: Time,
        rank: NonZero<u64>,
        key: u64,
        value: T,
    ) -> FairKey {
        let flow = self.bucket(key);
        let life = self.require_flow(now, flow);
        let key = self.on(flow, |line| line.put_back(send, rank, value));
        self.next = self.next.min(self.first_due());
        FairKey { flow, life, key: key.expect("the flow is there") }
    }

    /// Gives a waiter a deadline of its own, see [`Queue::expire_at`].
    pub fn expire_at(&mut self, key: FairKey, until: Time) {
        let Some(key) = self.resolve(key) else { return };
        self.on(key.flow, |line| line.expire_at(key.key, until));
        self.next = self.next.min(self.first_due());
    }

    /// Hands out the next waiter of the flow whose turn it is, dropping those that are due on the
    /// way. The entry's key is the one in its flow.
    pub fn pop(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) -> Option<Entry<T>> {
        while let Some(flow) = self.ring.front().copied() {
            if let Some(entry) = self.on(flow, |line| line.pop(now, drops)).flatten() {
                self.end_turn(flow);
                self.settle(now, flow, drops);
                return Some(entry);
            }
            self.ring.pop_front();
            self.retire(now, flow);
        }
        self.next = Time::MAX;
        self.moved.clear();
        self.sweep(now);
        None
    }

    /// Removes one waiter without a drop. `None` if it left before.
    pub fn cancel(&mut self, now: Time, key: FairKey, drops: &mut Vec<Dropped<T>>) -> Option<T> {
        let key = self.resolve(key)?;
        let cancelled = self.on(key.flow, |line| line.cancel(now, key.key, drops)).flatten()?;
        self.tick_flows(now, drops);
        Some(cancelled)
    }

    /// Removes several waiters without a drop and says how many there were.
    pub fn cancel_all(
        &mut self,
        now: Time,
        keys: impl IntoIterator<Item = FairKey>,
        drops: &mut Vec<Dropped<T>>,
    ) -> usize {
        let mut cancelled = 0;
        for key in keys {
            let Some(FairKey { flow, key, .. }) = self.resolve(key) else { continue };
            let one = self.on(flow, |line| line.withdraw(key)).flatten();
            cancelled += usize::from(one.is_some());
        }
        self.tick_flows(now, drops);
        cancelled
    }

    /// Drops every waiter that is due and forgets what need not be remembered.
    pub fn tick(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) {
        if now < self.next {
            self.sweep(now);
        } else {
            self.tick_flows(now, drops);
        }
    }

    /// Drops everybody for one reason, flow by flow.
    pub fn clear(&mut self, reason: Reason, drops: &mut Vec<Dropped<T>>) {
        for flow in self.keys() {
            self.on(flow, |line| line.clear(reason, drops));
        }
        self.next = self.first_due();
    }

    /// Changes the configuration of all flows; those remembered rejoin the ring. A new bound on
    /// the flows holds for newcomers: whoever waits keeps the flow it stands in.
    pub fn reconfigure(&mut self, now: Time, config: FairConfig, drops: &mut Vec<Dropped<T>>) {
        self.config = config;
        for (flow, (line, _)) in core::mem::take(&mut self.remembered) {
            self.open_flow(flow, line);
        }
        self.sweep_at = Time::MAX;
        for flow in self.keys() {
            self.on(flow, |line| line.reconfigure(now, config.line, drops));
        }
        self.next = self.first_due();
    }

    /// As [`reconfigure`](FairQueue::reconfigure), but deals everybody into flows anew, in the
    /// order they were sent, by the key that `key_of` finds. Keys of waiters stay good.
    pub fn rekey(
        &mut self,
        now: Time,
        config: FairConfig,
        key_of: impl Fn(&T) -> u64,
        drops: &mut Vec<Dropped<T>>,
    ) {
        let mut waiters = Vec::with_capacity(self.len);
        for (name, flow) in core::mem::take(&mut self.flows) {
            let Flow { mut line, life, .. } = flow;
            while let Some((key, mover)) = line.withdraw_oldest() {
                waiters.push((FairKey { flow: name, life, key }, mover));
            }
        }
        waiters.sort_by_key(|(_, mover)| mover.send);
        self.ring.clear();
        self.due.clear();
        self.remembered.clear();
        self.config = config;
        (self.len, self.sweep_at) = (0, Time::MAX);

        let mut moved = BTreeMap::new();
        for (old, mover) in waiters {
            let flow = self.bucket(key_of(&mover.value));
            let life = self.require_flow(now, flow);
            let key = self.on(flow, |line| line.move_in(mover));
            moved.extend(key.map(|key| (old, FairKey { flow, life, key })));
        }
        for new in self.moved.values_mut() {
            *new = moved.get(new).copied().unwrap_or(*new);
        }
        self.moved.retain(|_, new| self.flows.get(&new.flow).is_some_and(|f| f.life == new.life));
        self.moved.append(&mut moved);
        for flow in self.keys() {
            self.on(flow, |line| line.reconfigure(now, config.line, drops));
        }
        self.next = self.first_due();
    }

    /// As [`reconfigure`](FairQueue::reconfigure), unless the configuration makes no sense: then
    /// nothing changes.
    ///
    /// # Errors
    /// What [`FairConfig::validate`] says.
    pub fn try_reconfigure(
        &mut self,
        now: Time,
        config: FairConfig,
        drops: &mut Vec<Dropped<T>>,
    ) -> Result<(), ConfigError> {
        config.validate()?;
        self.reconfigure(now, config, drops);
        Ok(())
    }

    fn bucket(&self, key: u64) -> u64 {
        key % self.config.flows.max(1)
    }

    fn keys(&self) -> Vec<u64> {
        self.flows.keys().copied().collect()
    }

    fn first_due(&self) -> Time {
        self.due.first().map_or(Time::MAX, |(due, _)| *due)
    }

    fn require_flow(&mut self, now: Time, flow: u64) -> u64 {
        if let Some(flow) = self.flows.get(&flow) {
            return flow.life;
        }
        let remembered = self.remembered.remove(&flow);
        // Q5: the original revives a flow past its time, unless somebody swept.
        let remembered = remembered.filter(|(_, forget_at)| *forget_at > now);
        let line = match remembered {
            Some((line, _)) => line,
            None => Queue::new(self.config.line, now),
        };
        self.open_flow(flow, line)
    }

    fn open_flow(&mut self, flow: u64, line: Queue<T>) -> u64 {
        let life = self.lives;
        self.lives += 1;
        self.flows.insert(flow, Flow { line, life, due: None, served: 0 });
        self.ring.push_back(flow);
        life
    }

    /// Where a waiter stands, `None` if its flow is gone.
    fn resolve(&self, key: FairKey) -> Option<FairKey> {
        let lives =
            |key: &FairKey| self.flows.get(&key.flow).is_some_and(|flow| flow.life == key.life);
        if lives(&key) { Some(key) } else { self.moved.get(&key).copied().filter(lives) }
    }

    /// Does something to one line and notes what changed.
    fn on<R>(&mut self, flow: u64, act: impl FnOnce(&mut Queue<T>) -> R) -> Option<R> {
        let state = self.flows.get_mut(&flow)?;
        let before = state.line.len();
        let result = act(&mut state.line);
        self.len = self.len - before + state.line.len();
        let due = state.line.deadline();
        if due != state.due {
            if let Some(due) = core::mem::replace(&mut state.due, due) {
                self.due.remove(&(due, flow));
            }
            self.due.extend(due.map(|due| (due, flow)));
        }
        Some(result)
    }

    fn end_turn(&mut self, flow: u64) {
        let weight = self.weights.get(&flow).map_or(1, |weight| weight.get());
        let Some(state) = self.flows.get_mut(&flow) else { return };
        state.served += 1;
        if state.served >= weight {
            state.served = 0;
            self.ring.rotate_left(1);
        }
    }

    /// An empty flow leaves the ring.
    fn retire(&mut self, now: Time, flow: u64) {
        let Some(Flow { line, due, .. }) = self.flows.remove(&flow) else { return };
        assert!(line.is_empty(), "a flow left the ring with waiters");
        if let Some(due) = due {
            self.due.remove(&(due, flow));
        }
        let forget_at = line.forget_at(now);
        if forget_at > now {
            self.sweep_at = self.sweep_at.min(forget_at);
            self.remembered.insert(flow, (line, forget_at));
        }
    }

    /// After something happened to one flow: has its deadline, or the others their due.
    fn settle(&mut self, now: Time, flow: u64, drops: &mut Vec<Dropped<T>>) {
        if now < self.next {
            let due = self.flows.get(&flow).and_then(|flow| flow.due);
            self.next = due.map_or(self.next, |due| due.min(self.next));
            self.sweep(now);
        } else {
            self.tick_flows(now, drops);
        }
    }

    fn tick_flows(&mut self, now: Time, drops: &mut Vec<Dropped<T>>) {
        if self.first_due() <= now {
            let due = self.due.range(..=(now, u64::MAX)).map(|(_, flow)| *flow);
            let mut due: Vec<u64> = due.collect();
            due.sort_unstable();
            for flow in due {
                self.on(flow, |line| line.tick(now, drops));
            }
        }
        self.next = self.first_due();
        self.sweep(now);
    }

    fn sweep(&mut self, now: Time) {
        if self.sweep_at <= now {
            self.remembered.retain(|_, (_, forget_at)| *forget_at > now);
            let first = self.remembered.values().map(|(_, forget_at)| *forget_at).min();
            self.sweep_at = first.unwrap_or(Time::MAX);
        }
    }
}
