//! Random lives of tasks, in lock-step with a model that is too simple to be wrong: a list that is
//! searched from end to end for every question.

use proptest::prelude::*;
use store::contract::Subject;
use store::sqlite::{self, Options};
use store::{
    Answer, Backoff, Claim, Clock, Command, Concurrency, Extend, NewTask, Now, Outcome, Policy,
    Query, Refusal, Release, Settings, Settle, State, Store, TaskId, Token, Unique, When, memory,
    wait,
};

use crate::dir::Dir;
use crate::postgres::{shared, with_a_clock_of_ours};

/// One thing that is done. Tasks and leases are named by their place in what was made so far.
#[derive(Clone, Debug)]
enum Op {
    Enqueue { kind: u8, priority: i16, delay: u64, unique: Option<u8>, key: Option<u8> },
    Claim { kind: u8, limit: usize },
    Complete(usize),
    Fail(usize),
    Release(usize, u64),
    Extend(usize),
    Cancel(usize),
    Retry(usize),
    Pause(u8, bool),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let enqueue = (0..2_u8, -1..=1_i16, prop_oneof![3 => Just(0_u64), 1 => 1..200_u64]);
    let enqueue =
        (enqueue, prop::option::weighted(0.2, 0..3_u8), prop::option::weighted(0.3, 0..2_u8));
    prop_oneof![
        6 => enqueue.prop_map(|((kind, priority, delay), unique, key)| {
            Op::Enqueue { kind, priority, delay, unique, key }
        }),
        5 => (0..2_u8, 1..4_usize).prop_map(|(kind, limit)| Op::Claim { kind, limit }),
        3 => (0..40_usize).prop_map(Op::Complete),
        3 => (0..40_usize).prop_map(Op::Fail),
        1 => (0..40_usize, prop_oneof![Just(0_u64), 1..50_u64])
            .prop_map(|(n, ms)| Op::Release(n, ms)),
        1 => (0..40_usize).prop_map(Op::Extend),
        1 => (0..40_usize).prop_map(Op::Cancel),
        1 => (0..40_usize).prop_map(Op::Retry),
        1 => (0..2_u8, any::<bool>()).prop_map(|(kind, pause)| Op::Pause(kind, pause)),
        3 => (1..150_u64).prop_map(Op::Pass),
    ]
}

/// When the line begins.
const START: u64 = 1_000_000_000;
const LEASE: u64 = 100;
const ATTEMPTS: u32 = 3;
const KEY_LIMIT: usize = 2;
const KEPT: u64 = 60_000;
const BACKOFF: Backoff = Backoff { base_ms: 10, max_ms: 40, jitter_percent: 0 };

/// A task in the model.
#[derive(Clone, Debug)]
struct Sheet {
    kind: u8,
    priority: i16,
    turn: u64,
    unique: Option<u8>,
    key: Option<u8>,
    state: State,
    run_at: u64,
    lease_until: u64,
    attempt: u32,
    /// Its leases' numbers in the model: the valid one, and the one settled last.
    lease: Option<usize>,
    settled: Option<(usize, bool)>,
}

#[derive(Default)]
struct Model {
    now: u64,
    sheets: Vec<Sheet>,
    /// The task of each lease.
    leases: Vec<usize>,
    paused: [bool; 2],
    served: [u64; 2],
    last: [u64; 2],
}

impl Model {
    /// All tasks here share one fair key, so turns only order them by when they became ready.
    fn turn(&mut self, kind: u8) -> u64 {
        let kind = usize::from(kind);
        self.last[kind] = self.last[kind].max(self.served[kind]) + 1;
        self.last[kind]
    }

    /// The task, and whether it is a new one.
    fn enqueue(
        &mut self,
        kind: u8,
        priority: i16,
        delay: u64,
        unique: Option<u8>,
        key: Option<u8>,
    ) -> (usize, bool) {
        let same = |sheet: &Sheet| sheet.kind == kind && sheet.unique == unique;
        if unique.is_some()
            && let Some(known) = self.sheets.iter().position(same)
        {
            return (known, false);
        }
        let state = if delay > 0 { State::Scheduled } else { State::Ready };
        let turn = if delay > 0 { 0 } else { self.turn(kind) };
        let run_at = self.now + delay;
        self.sheets.push(Sheet {
            kind,
            priority,
            turn,
            unique,
            key,
            state,
            run_at,
            lease_until: 0,
            attempt: 0,
            lease: None,
            settled: None,
        });
        (self.sheets.len() - 1, true)
    }

    fn holders(&self, key: u8) -> usize {
        let holds = |sheet: &&Sheet| sheet.key == Some(key) && sheet.state == State::Leased;
        self.sheets.iter().filter(holds).count()
    }

    fn best(&self, wanted: impl Fn(&Sheet) -> bool) -> Option<usize> {
        let found = self.sheets.iter().enumerate().filter(|(_, sheet)| wanted(sheet));
        found.min_by_key(|(at, sheet)| (-sheet.priority, sheet.turn, *at)).map(|(at, _)| at)
    }

    fn claim(&mut self, kind: u8, limit: usize) -> Vec<usize> {
        let mut claimed = Vec::new();
        while claimed.len() < limit && !self.paused[usize::from(kind)] {
            let ready = |sheet: &Sheet| sheet.kind == kind && sheet.state == State::Ready;
            let Some(at) = self.best(ready) else { break };
            if self.sheets[at].key.is_some_and(|key| self.holders(key) >= KEY_LIMIT) {
                self.sheets[at].state = State::Blocked;
                continue;
            }
            let lease = self.leases.len();
            self.leases.push(at);
            let sheet = &mut self.sheets[at];
            sheet.state = State::Leased;
            sheet.attempt += 1;
            sheet.lease = Some(lease);
            sheet.lease_until = self.now + LEASE;
            let served = &mut self.served[usize::from(kind)];
            *served = (*served).max(sheet.turn);
            claimed.push(at);
        }
        claimed
    }

    fn leave(&mut self, at: usize, state: State) {
        let was = std::mem::replace(&mut self.sheets[at].state, state);
        self.sheets[at].lease = None;
        if let Some(key) = self.sheets[at].key.filter(|_| was == State::Leased) {
            let next = self.best(|sheet| sheet.key == Some(key) && sheet.state == State::Blocked);
            next.into_iter().for_each(|next| self.sheets[next].state = State::Ready);
        }
    }

    fn back(&mut self, at: usize, wait: u64) -> State {
        self.sheets[at].run_at = self.now + wait;
        let state = if wait == 0 { State::Ready } else { State::Scheduled };
        self.leave(at, state);
        state
    }

    fn holds(&self, lease: usize) -> Result<usize, Refusal> {
        let at = self.leases[lease];
        match &self.sheets[at] {
            sheet if sheet.lease == Some(lease) => Ok(at),
            sheet if sheet.state == State::Cancelled => Err(Refusal::Cancelled),
            _ => Err(Refusal::Stale),
        }
    }

    fn settle(&mut self, lease: usize, good: bool) -> Result<State, Refusal> {
        let at = match self.holds(lease) {
            Ok(at) => at,
            Err(refusal) => {
                let sheet = &self.sheets[self.leases[lease]];
                let known = sheet.settled == Some((lease, good));
                return if known { Ok(sheet.state) } else { Err(refusal) };
            }
        };
        self.sheets[at].settled = Some((lease, good));
        let attempt = self.sheets[at].attempt;
        if good {
            self.leave(at, State::Done);
        } else if attempt >= ATTEMPTS {
            self.leave(at, State::Dead);
        } else {
            self.back(at, BACKOFF.wait_ms(TaskId(0), attempt));
        }
        Ok(self.sheets[at].state)
    }

    fn pass(&mut self) {
        let mut due: Vec<usize> = (0..self.sheets.len())
            .filter(|at| {
                let sheet = &self.sheets[*at];
                (sheet.state == State::Scheduled && sheet.run_at <= self.now)
                    || (sheet.state == State::Leased && sheet.lease_until <= self.now)
            })
            .collect();
        due.sort_by_key(|at| (self.sheets[*at].state == State::Leased, *at));
        for at in due {
            if self.sheets[at].state == State::Scheduled {
                self.sheets[at].turn = self.turn(self.sheets[at].kind);
                self.sheets[at].state = State::Ready;
            } else if self.sheets[at].attempt >= ATTEMPTS {
                self.leave(at, State::Dead);
            } else {
                self.back(at, 0);
            }
        }
    }
}

/// The store under test, and what its numbers are called in the model.
struct Pair<'a> {
    store: &'a dyn Store,
    set_clock: Option<&'a dyn Fn(u64)>,
    model: Model,
    ids: Vec<TaskId>,
    tokens: Vec<Token>,
}

impl Pair<'_> {
    fn now(&self) -> Now {
        let now = START + self.model.now;
        if let Some(set_clock) = self.set_clock {
            set_clock(now);
        }
        Now { line: now, wall: now }
    }

    fn run(&mut self, op: &Op) {
        let now = self.now();
        match *op {
            Op::Enqueue { .. } => self.enqueue(op),
            Op::Claim { kind, limit } => {
                let types = vec![format!("t{kind}")];
                let claim = Claim { types, limit, lease_ms: None, worker: "w".into() };
                let leases = wait(|reply| self.store.claim(now, claim, reply)).expect("an answer");
                let expected: Vec<TaskId> =
                    self.model.claim(kind, limit).into_iter().map(|at| self.ids[at]).collect();
                let claimed: Vec<TaskId> = leases.iter().map(|lease| lease.token.task).collect();
                assert_eq!(claimed, expected);
                self.tokens.extend(leases.iter().map(|lease| lease.token));
            }
            Op::Complete(n) => self.settle(n, true),
            Op::Fail(n) => self.settle(n, false),
            Op::Release(n, after_ms) => {
                let Some(lease) = pick(n, self.tokens.len()) else { return };
                let releases = vec![Release { token: self.tokens[lease], after_ms }];
                let answer = wait(|reply| self.store.release(now, releases, reply));
                let expected = self.model.holds(lease).map(|at| {
                    self.model.sheets[at].attempt -= 1;
                    self.model.back(at, after_ms);
                });
                assert_eq!(answer.expect("an answer"), [expected]);
            }
            Op::Extend(n) => {
                let Some(lease) = pick(n, self.tokens.len()) else { return };
                let extends =
                    vec![Extend { token: self.tokens[lease], lease_ms: None, progress: None }];
                let answer = wait(|reply| self.store.extend(now, extends, reply));
                let until = self.model.now + LEASE;
                let expected = self.model.holds(lease);
                expected.iter().for_each(|at| self.model.sheets[*at].lease_until = until);
                assert_eq!(answer.expect("an answer")[0].clone().map(drop), expected.map(drop));
            }
            Op::Cancel(n) => self.command(n, true),
            Op::Retry(n) => self.command(n, false),
            Op::Pause(kind, pause) => {
                let name = format!("t{kind}");
                let command = if pause { Command::Pause(name) } else { Command::Resume(name) };
                wait(|reply| self.store.command(now, command, reply))
                    .expect("an answer")
                    .expect("a good name");
                self.model.paused[usize::from(kind)] = pause;
            }
            Op::Pass(ms) => {
                self.model.now += ms;
                let now = self.now();
                wait(|reply| self.store.due(now, reply)).expect("an answer");
                self.model.pass();
            }
        }
    }

    fn enqueue(&mut self, op: &Op) {
        let Op::Enqueue { kind, priority, delay, unique, key } = *op else { return };
        let now = self.now();
        let limit = KEY_LIMIT as u32;
        let task = NewTask {
            run_at: if delay > 0 { When::After(delay) } else { When::Now },
            unique: unique.map(|key| Unique { key: format!("u{key}"), keep_ms: KEPT }),
            policy: Policy {
                priority,
                max_attempts: ATTEMPTS,
                backoff: BACKOFF,
                lease_ms: LEASE,
                concurrency: key.map(|key| Concurrency { key: format!("k{key}"), limit }),
                ..Policy::default()
            },
            ..NewTask::new(format!("t{kind}"), "p")
        };
        let made = wait(|reply| self.store.enqueue(now, vec![task], reply)).expect("room");
        let made = made[0].as_ref().expect("a good task").id;
        let (at, new) = self.model.enqueue(kind, priority, delay, unique, key);
        if new {
            self.ids.push(made);
        }
        assert_eq!(self.ids[at], made);
    }

    fn command(&mut self, n: usize, cancel: bool) {
        let now = self.now();
        let Some(at) = pick(n, self.ids.len()) else { return };
        let ids = vec![self.ids[at]];
        let state = self.model.sheets[at].state;
        let command = if cancel { Command::Cancel(ids) } else { Command::Retry(ids) };
        let done = wait(|reply| self.store.command(now, command, reply));
        let applies = match cancel {
            true => !state.is_terminal(),
            false => matches!(state, State::Dead | State::Cancelled),
        };
        assert_eq!(done, Ok(Ok(u64::from(applies))));
        if applies && cancel {
            self.model.leave(at, State::Cancelled);
        } else if applies {
            let turn = self.model.turn(self.model.sheets[at].kind);
            let sheet = &mut self.model.sheets[at];
            (sheet.state, sheet.turn, sheet.attempt) = (State::Ready, turn, 0);
            sheet.settled = None;
        }
    }

    fn settle(&mut self, n: usize, good: bool) {
        let Some(lease) = pick(n, self.tokens.len()) else { return };
        let outcome = match good {
            true => Outcome::Complete(b"r".to_vec()),
            false => Outcome::Fail { error: "e".into(), retry_after_ms: None },
        };
        let settles = vec![Settle { token: self.tokens[lease], outcome }];
        let now = self.now();
        let answer = wait(|reply| self.store.settle(now, settles, reply)).expect("an answer");
        let expected = self.model.settle(lease, good);
        assert_eq!(answer[0].clone().map(|settled| settled.state), expected);
    }

    /// Every task is where the model has it, and the counts agree.
    fn compare(&self) {
        let mut counts = [[0_u64; 7]; 2];
        for (at, sheet) in self.model.sheets.iter().enumerate() {
            let query = Query::Task(self.ids[at]);
            let answer = wait(|reply| self.store.query(self.now(), query, reply));
            let Ok(Answer::Task(Some(task))) = answer else { panic!("{sheet:?}: {answer:?}") };
            assert_eq!((task.state, task.attempt), (sheet.state, sheet.attempt), "{sheet:?}");
            let state = State::ALL.iter().position(|state| *state == sheet.state);
            counts[usize::from(sheet.kind)][state.expect("a state")] += 1;
        }
        let answer = wait(|reply| self.store.query(self.now(), Query::Queues, reply));
        let Ok(Answer::Queues(queues)) = answer else { panic!("{answer:?}") };
        for queue in queues {
            let kind = usize::from(queue.task_type == "t1");
            assert_eq!(queue.counts, counts[kind], "{queue:?}");
        }
    }
}

/// A recent one: the old ones are mostly over.
fn pick(n: usize, len: usize) -> Option<usize> {
    len.checked_sub(1).map(|last| last - n % len.min(12))
}

fn check(subject: &Subject, ops: &[Op]) {
    let (ids, tokens) = (Vec::new(), Vec::new());
    let store = &*subject.store;
    let set_clock = subject.set_clock.as_deref();
    let mut pair = Pair { store, set_clock, model: Model::default(), ids, tokens };
    ops.iter().for_each(|op| pair.run(op));
    pair.compare();
    store.close();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn memory_does_what_the_model_does(ops in prop::collection::vec(op(), 1..120)) {
        let (store, _) = memory::open(Settings::default()).expect("a store");
        check(&store.into(), &ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn sqlite_does_what_the_model_does(ops in prop::collection::vec(op(), 1..120)) {
        let dir = Dir::fast();
        let opened = sqlite::open(&dir.path("m.db"), &Clock::new(), Options::default());
        check(&opened.expect("a store").0.into(), &ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 15, ..ProptestConfig::default() })]
    #[test]
    fn postgres_does_what_the_model_does(ops in prop::collection::vec(op(), 1..120)) {
        check(&with_a_clock_of_ours(shared(), START), &ops);
    }
}
