//! Every rule of the drone as a short script, and all of them by chance against a ledger.

use proptest::prelude::*;
use store::TaskId;

use super::*;
use crate::plan::Work;

fn plan(task_type: &str, change: impl FnOnce(&mut PoolPlan)) -> PoolPlan {
    let mut plan = PoolPlan::new(task_type, Work::Handler("h".into()));
    change(&mut plan);
    plan
}

fn lease(task: u64, task_type: &str) -> Lease {
    Lease {
        token: Token { task: TaskId(task), fence: task },
        task_type: task_type.into(),
        payload: b"work".to_vec(),
        content_type: None,
        attempt: 1,
        max_attempts: 20,
        until: 0,
        deadline: None,
        progress: None,
        attributes: Vec::new(),
    }
}

/// A core whose effects are read as text; workers are called a, b, c in the order of their start.
struct Bench {
    core: Core,
    now: Time,
    out: Vec<Effect>,
    slots: Vec<Slot>,
}

impl Bench {
    fn new(pools: Vec<PoolPlan>) -> Bench {
        let lease = Span::from_secs(30);
        let plan = Plan { alias: "d".into(), lease, poll: Span::from_secs(2), pools };
        plan.validate().expect("a good plan");
        let mut bench = Bench {
            core: Core::new(&plan, Time::default()),
            now: Time::default(),
            out: Vec::new(),
            slots: Vec::new(),
        };
        bench.core.start(bench.now, &mut bench.out);
        bench
    }

    /// What is to be done since the last time.
    fn said(&mut self) -> String {
        let mut words = Vec::new();
        for effect in self.out.drain(..) {
            if let Effect::Start { slot, .. } = effect {
                self.slots.push(slot);
            }
            let name = |slot: Slot| {
                let at = self.slots.iter().position(|other| *other == slot);
                at.map_or('?', |at| char::from(b'a' + at as u8))
            };
            let list = |tokens: &[Token]| {
                tokens.iter().map(|token| token.fence.to_string()).collect::<Vec<_>>().join("+")
            };
            words.push(match effect {
                Effect::Claim { pool, limit } => format!("claim {pool} {limit}"),
                Effect::Start { slot, after: Span::ZERO, .. } => format!("start {}", name(slot)),
                Effect::Start { slot, after, .. } => format!("start {} after {after}", name(slot)),
                Effect::Run { slot, job } => format!("run {} {}", name(slot), job.token.fence),
                Effect::Abort(slot) => format!("abort {}", name(slot)),
                Effect::Stop(slot) => format!("stop {}", name(slot)),
                Effect::Keep(job) => format!("keep {}", job.token.fence),
                Effect::Link(job) => format!("link {} {}", job.token.fence, job.link),
                Effect::Settle(token, outcome) => {
                    let how = match outcome {
                        Outcome::Complete(result) => {
                            format!("done {}", String::from_utf8_lossy(&result))
                        }
                        Outcome::Fail { .. } => "failed".into(),
                        Outcome::Reject { .. } => "rejected".into(),
                    };
                    format!("settle {} {how}", token.fence)
                }
                Effect::Release(tokens) => format!("release {}", list(&tokens)),
                Effect::Extend(tokens) => format!("extend {}", list(&tokens)),
                Effect::Forget(token) => format!("forget {}", token.fence),
                Effect::GaveUp { rest, .. } => format!("gave up for {rest}"),
            });
        }
        words.join(", ")
    }

    fn slot(&self, name: char) -> Slot {
        self.slots[usize::from(name as u8 - b'a')]
    }

    fn at(&mut self, ms: i64) {
        self.now = Time::from_millis(ms);
        self.core.tick(self.now, &mut self.out);
    }

    fn claimed(&mut self, pool: PoolId, limit: usize, tasks: &[u64]) {
        let task_type = self.core.pools[pool].plan.task_type.clone();
        let leases = tasks.iter().map(|task| lease(*task, &task_type)).collect();
        self.core.claimed(self.now, pool, limit, leases, &mut self.out);
    }

    fn ready(&mut self, name: char) {
        let slot = self.slot(name);
        self.core.ready(self.now, slot, &mut self.out);
    }

    fn done(&mut self, name: char, report: Report) {
        let slot = self.slot(name);
        self.core.done(self.now, slot, true, report, &mut self.out);
    }

    fn died(&mut self, name: char) {
        let slot = self.slot(name);
        self.core.died(self.now, slot, false, "killed", &mut self.out);
    }
}

fn done(result: &'static str) -> Report {
    Report::Done(Bytes::from_static(result.as_bytes()))
}

#[test]
fn tasks_go_to_idle_workers_only() {
    let two = plan("a", |plan| (plan.min, plan.max, plan.prefetch) = (2, 2, 2));
    let mut bench = Bench::new(vec![two]);
    assert_eq!(bench.said(), "start a, start b, claim 0 4");
    bench.ready('a');
    bench.ready('b');
    bench.claimed(0, 4, &[1, 2, 3, 4]);
    assert_eq!(bench.said(), "keep 1, keep 2, keep 3, keep 4, run b 1, run a 2, claim 0 2");
    // b is slow: what comes next is a's, however much waits.
    bench.claimed(0, 2, &[5, 6]);
    bench.done('a', done("x"));
    assert_eq!(bench.said(), "keep 5, keep 6, settle 2 done x, run a 3, claim 0 1");
    bench.claimed(0, 1, &[]);
    bench.done('a', done("y"));
    assert_eq!(bench.said(), "settle 3 done y, run a 4");
    // The queue was short: only a hint or the poll makes it ask again.
    bench.done('a', done("z"));
    bench.core.hint(Some("other"), &mut bench.out);
    assert_eq!(bench.said(), "settle 4 done z, run a 5");
    bench.core.hint(Some("a"), &mut bench.out);
    assert_eq!(bench.said(), "claim 0 3");
}

#[test]
fn slow_tasks_are_not_fetched_ahead() {
    let mut bench = Bench::new(vec![plan("a", |_| {})]);
    bench.ready_all();
    bench.claimed(0, 15, &[1]);
    assert_eq!(bench.said(), "keep 1, run a 1");
    // A task took 5 s: two of them are a third of the lease of 30 s.
    bench.at(5_000);
    assert_eq!(bench.said(), "claim 0 15");
    bench.claimed(0, 15, &[]);
    bench.done('a', done(""));
    bench.core.hint(None, &mut bench.out);
    assert_eq!(bench.said(), "settle 1 done , claim 0 2");
}

#[test]
fn a_lost_workers_task_is_the_next_of_another() {
    let two = plan("a", |plan| (plan.min, plan.max) = (2, 2));
    let mut bench = Bench::new(vec![two]);
    bench.ready_all();
    bench.claimed(0, 30, &[1]);
    bench.claimed(0, 30, &[2]);
    bench.claimed(0, 30, &[3]);
    assert_eq!(bench.said(), "keep 1, run b 1, keep 2, run a 2, keep 3");
    bench.died('b');
    assert_eq!(bench.said(), "start c");
    bench.ready('c');
    assert_eq!(bench.said(), "run c 1");
    bench.died('c');
    bench.done('a', done("x"));
    assert_eq!(bench.said(), "start d after 100ms, settle 2 done x, run a 1");
    // The third worker is lost with it: the attempt has failed.
    bench.died('a');
    assert_eq!(bench.said(), "settle 1 failed, start e");
}

#[test]
fn chains_stay_in_the_drone_and_end_as_one_task() {
    let first = plan("a", |plan| plan.then = Some("local:hex".into()));
    let mut bench = Bench::new(vec![first, plan("local:hex", |_| {})]);
    assert_eq!(bench.said(), "start a, claim 0 15, start b");
    bench.ready('a');
    bench.ready('b');
    bench.claimed(0, 15, &[1, 2]);
    bench.done('a', done("120"));
    assert_eq!(bench.said(), "keep 1, keep 2, run a 1, link 1 local:hex, run b 1, run a 2");
    bench.done('b', done("78"));
    assert_eq!(bench.said(), "settle 1 done 78");
    let to = "local:nowhere".to_owned();
    bench.done('a', Report::Next { to, payload: Bytes::new() });
    assert_eq!(bench.said(), "settle 2 rejected");
}

#[test]
fn outcomes_have_their_own_verdicts() {
    let failed = |for_good| Report::Failed { error: "e".into(), for_good, retry_after: None };
    let late = || Report::TimedOut("late".into());
    let strict = |plan: &mut PoolPlan| plan.failed = Verdict::Reject;
    let hasty = |plan: &mut PoolPlan| plan.timed_out = Verdict::Reject;
    type Change = Option<fn(&mut PoolPlan)>;
    let table: [(Change, Report, &str); 6] = [
        (None, failed(false), "failed"),
        (None, failed(true), "rejected"),
        (None, late(), "failed"),
        (Some(strict), failed(false), "rejected"),
        (Some(strict), late(), "failed"),
        (Some(hasty), late(), "rejected"),
    ];
    for (change, report, outcome) in table {
        let mut bench = Bench::new(vec![plan("a", |plan| {
            if let Some(change) = change {
                change(plan);
            }
        })]);
        bench.ready_all();
        bench.claimed(0, 15, &[1]);
        bench.said();
        bench.done('a', report.clone());
        assert_eq!(bench.said(), format!("settle 1 {outcome}"), "{report:?}");
    }
}

#[test]
fn pools_grow_while_tasks_wait_and_shrink_when_nobody_has_work() {
    let mut bench = Bench::new(vec![plan("a", |plan| (plan.min, plan.max) = (1, 3))]);
    bench.ready_all();
    bench.claimed(0, 15, &[1, 2, 3, 4, 5]);
    bench.said();
    let mut started = Vec::new();
    for ms in (50..=3_000).step_by(50) {
        bench.at(ms);
        let said = bench.said();
        if said.contains("start") {
            started.push(ms);
            let name = char::from(b'a' + started.len() as u8);
            bench.ready(name);
            bench.said();
        }
    }
    // Waits above 100 ms for a second, then another second, then 1/√2 of one.
    assert_eq!(started, [1_150, 2_150], "two more, and never a fourth");
    for name in ['a', 'b', 'c', 'a', 'b'] {
        bench.done(name, done(""));
    }
    bench.said();
    let mut stopped = Vec::new();
    for ms in (3_050..=20_000).step_by(50) {
        bench.at(ms);
        let said = bench.said();
        if said.contains("stop") {
            stopped.push((ms, said));
        }
    }
    assert_eq!(stopped.len(), 2, "{stopped:?}");
    assert!(stopped.iter().all(|(ms, _)| *ms >= 13_000), "{stopped:?}");
}

#[test]
fn workers_that_only_end_give_their_tasks_back() {
    let frail = plan("a", |plan| plan.restart.intensity = 2);
    let mut bench = Bench::new(vec![frail]);
    bench.ready_all();
    bench.claimed(0, 15, &[1, 2]);
    bench.said();
    bench.died('a');
    assert_eq!(bench.said(), "start b");
    bench.died('b');
    assert_eq!(bench.said(), "start c after 100ms");
    // Task 1 was tried here: it has failed. Task 2 was not.
    bench.died('c');
    assert_eq!(bench.said(), "gave up for 10.000s, settle 1 failed, release 2");
    bench.at(9_000);
    assert_eq!(bench.said(), "");
    bench.at(10_000);
    assert_eq!(bench.said(), "start d after 200ms, claim 0 15");
}

#[test]
fn what_is_void_is_ended() {
    let mut bench = Bench::new(vec![plan("a", |_| {})]);
    bench.ready_all();
    bench.claimed(0, 15, &[1, 2, 3]);
    bench.said();
    let token = |fence| Token { task: TaskId(fence), fence };
    for fence in [2, 1, 9] {
        bench.core.void(bench.now, token(fence), &mut bench.out);
    }
    assert_eq!(bench.said(), "forget 2, forget 1, abort a");
    bench.done('a', Report::Lost("aborted".into()));
    assert_eq!(bench.said(), "run a 3");
}

#[test]
fn draining_finishes_chains_and_gives_back_the_rest() {
    let first = plan("a", |plan| plan.then = Some("local:b".into()));
    let mut bench = Bench::new(vec![first, plan("local:b", |_| {})]);
    bench.ready_all();
    bench.claimed(0, 15, &[1, 2, 3]);
    bench.done('a', done("x"));
    bench.said();
    bench.core.drain(bench.now, &mut bench.out);
    assert_eq!(bench.said(), "release 3");
    bench.done('a', done("y"));
    bench.done('b', done("z"));
    assert_eq!(bench.said(), "link 2 local:b, settle 1 done z, run b 2");
    assert!(!bench.core.is_idle());
    bench.done('b', done("w"));
    assert_eq!(bench.said(), "settle 2 done w");
    assert!(bench.core.is_idle());
}

#[test]
fn rates_bound_starts_and_pauses_stop_them() {
    let slow = plan("a", |plan| plan.rate = Some((2, Span::from_secs(1))));
    let mut bench = Bench::new(vec![slow]);
    bench.ready_all();
    bench.claimed(0, 15, &[1, 2, 3, 4]);
    bench.done('a', done(""));
    bench.done('a', done(""));
    assert!(bench.said().ends_with("run a 1, settle 1 done , run a 2, settle 2 done "));
    assert_eq!(bench.core.deadline(), Time::from_millis(1_000).min(bench.core.next_breath));
    bench.at(1_000);
    assert_eq!(bench.said(), "run a 3");
    assert!(bench.core.pause("a", true, &mut bench.out));
    bench.done('a', done(""));
    assert_eq!(bench.said(), "release 4, settle 3 done ");
    bench.at(3_000);
    assert_eq!(bench.said(), "");
    assert!(bench.core.pause("a", false, &mut bench.out));
    assert_eq!(bench.said(), "claim 0 15");
    assert!(!bench.core.pause("b", false, &mut bench.out));
}

#[test]
fn scaling_starts_and_ends_workers() {
    let mut bench = Bench::new(vec![plan("a", |_| {})]);
    bench.ready_all();
    bench.said();
    bench.core.scale(bench.now, "a", 2, 3, &mut bench.out).expect("a good range");
    assert_eq!(bench.said(), "start b");
    bench.ready('b');
    bench.claimed(0, 15, &[1]);
    assert!(bench.said().contains("run b 1"));
    bench.core.scale(bench.now, "a", 1, 1, &mut bench.out).expect("a good range");
    assert_eq!(bench.said(), "stop a, claim 0 15");
    for (task_type, min, max) in [("b", 1, 1), ("a", 2, 1), ("a", 0, 0)] {
        assert!(bench.core.scale(bench.now, task_type, min, max, &mut bench.out).is_err());
    }
}

#[test]
fn a_new_plan_replaces_workers_as_they_become_idle() {
    let two = |plan: &mut PoolPlan| (plan.min, plan.max) = (2, 2);
    let mut bench = Bench::new(vec![plan("a", two), plan("b", |_| {})]);
    bench.ready_all();
    bench.claimed(0, 30, &[1]);
    bench.claimed(1, 15, &[2, 3]);
    assert_eq!(bench.said(), "keep 1, run b 1, keep 2, keep 3, run c 2");
    // The same again changes nothing.
    let pools = vec![plan("a", two), plan("b", |_| {})];
    let mut new =
        Plan { alias: "d".into(), lease: Span::from_secs(30), poll: Span::from_secs(2), pools };
    bench.core.reconfigure(bench.now, &new, &mut bench.out);
    assert_eq!(bench.said(), "claim 0 30, claim 1 14");
    bench.claimed(0, 30, &[]);
    bench.claimed(1, 14, &[]);
    let changed = plan("a", |plan| {
        two(plan);
        plan.work = Work::Handler("other".into());
    });
    new.pools = vec![changed, plan("c", |_| {})];
    bench.core.reconfigure(bench.now, &new, &mut bench.out);
    // b is gone: what waits for it goes back, its worker may finish.
    let said = "stop a, start d, claim 0 30, release 3, start e, claim 2 15";
    assert_eq!(bench.said(), said);
    bench.done('b', done("x"));
    bench.done('c', done("y"));
    assert_eq!(bench.said(), "stop b, settle 1 done x, stop c, settle 2 done y");
    let slot = bench.slot('b');
    bench.core.died(bench.now, slot, true, "", &mut bench.out);
    assert_eq!(bench.said(), "start f");
}

impl Bench {
    /// Every worker that was to be started can work.
    fn ready_all(&mut self) {
        self.said();
        for slot in self.slots.clone() {
            self.core.ready(self.now, slot, &mut self.out);
        }
        self.said();
    }
}

#[derive(Clone, Debug)]
enum Act {
    Claimed(usize, usize),
    Ready(usize),
    Done(usize, u8),
    Died(usize),
    Void(u64),
    Pass(u16),
    Pause(bool),
    Scale(usize, usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..2_usize, 0..9_usize).prop_map(|(pool, tasks)| Act::Claimed(pool, tasks)),
        4 => (0..6_usize).prop_map(Act::Ready),
        8 => (0..6_usize, 0..6_u8).prop_map(|(slot, how)| Act::Done(slot, how)),
        2 => (0..6_usize).prop_map(Act::Died),
        1 => (0..60_u64).prop_map(Act::Void),
        4 => (1..4_000_u16).prop_map(Act::Pass),
        1 => any::<bool>().prop_map(Act::Pause),
        1 => (0..3_usize, 1..4_usize).prop_map(|(min, more)| Act::Scale(min, min + more)),
    ];
    proptest::collection::vec(act, 1..200)
}

/// What the outside knows by the effects alone.
#[derive(Default)]
struct Ledger {
    /// Tasks in hand, and with which worker.
    held: std::collections::BTreeMap<u64, Option<Slot>>,
    /// Workers: whether they can work, and on what.
    workers: HashMap<Slot, (bool, Option<u64>)>,
    order: Vec<Slot>,
    asked: [Option<usize>; 3],
}

impl Ledger {
    fn check(&mut self, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Claim { pool, limit } => {
                    assert!(limit > 0 && self.asked[pool].is_none(), "one claim at a time");
                    self.asked[pool] = Some(limit);
                }
                Effect::Start { slot, .. } => {
                    assert!(self.workers.insert(slot, (false, None)).is_none());
                    self.order.push(slot);
                }
                Effect::Run { slot, job } => {
                    let (ready, has) = self.workers[&slot];
                    assert!(ready && has.is_none(), "only idle workers get tasks");
                    self.workers.insert(slot, (true, Some(job.token.fence)));
                    let place = self.held.get_mut(&job.token.fence).expect("a task in hand");
                    assert!(place.replace(slot).is_none(), "with one worker only");
                }
                Effect::Abort(slot) => assert!(self.workers[&slot].1.is_some()),
                Effect::Stop(slot) => {
                    let (ready, has) = self.workers[&slot];
                    assert!(ready && has.is_none(), "only idle workers are ended");
                }
                Effect::Keep(job) => assert!(self.held.insert(job.token.fence, None).is_none()),
                Effect::Link(job) => assert!(self.held.contains_key(&job.token.fence)),
                Effect::Settle(token, _) | Effect::Forget(token) => {
                    assert!(self.held.remove(&token.fence).is_some(), "settled once");
                }
                Effect::Release(tokens) => {
                    for token in tokens {
                        let place = self.held.remove(&token.fence).expect("given back once");
                        assert_eq!(place, None, "nobody works what is given back");
                    }
                }
                Effect::Extend(tokens) => {
                    let held: Vec<u64> = self.held.keys().copied().collect();
                    let extended: Vec<u64> = tokens.iter().map(|token| token.fence).collect();
                    assert_eq!(held, extended, "all that is held, and nothing else");
                }
                Effect::GaveUp { .. } => {}
            }
        }
    }
}

/// Does to the core what may happen to it, and what follows from that to the ledger.
fn play(
    act: Act,
    core: &mut Core,
    now: &mut Time,
    ledger: &mut Ledger,
    next: &mut u64,
    out: &mut Vec<Effect>,
) {
    match act {
        Act::Claimed(pool, tasks) => {
            if let Some(limit) = ledger.asked[pool].take() {
                let task_type = ["a", "c"][pool];
                let tasks = tasks.min(limit) as u64;
                let leases = (*next..*next + tasks).map(|task| lease(task, task_type));
                core.claimed(*now, pool, limit, leases.collect(), out);
                *next += tasks;
            }
        }
        Act::Ready(at) => {
            let waiting = ledger.order.iter().filter(|slot| !ledger.workers[*slot].0);
            if let Some(slot) = waiting.copied().nth(at % 3) {
                ledger.workers.insert(slot, (true, None));
                core.ready(*now, slot, out);
            }
        }
        Act::Done(at, how) => {
            let busy = |slot: &&Slot| ledger.workers[*slot].1.is_some();
            if let Some(slot) = ledger.order.iter().filter(busy).copied().nth(at % 3) {
                let (_, task) = ledger.workers[&slot];
                ledger.workers.insert(slot, (true, None));
                if let Some(place) = task.and_then(|task| ledger.held.get_mut(&task)) {
                    *place = None;
                }
                let report = match how {
                    0 => Report::TimedOut("late".into()),
                    1 => Report::Lost("lost".into()),
                    2 => Report::Next { to: "local:b".into(), payload: Bytes::new() },
                    3 => Report::Failed { error: "e".into(), for_good: false, retry_after: None },
                    _ => done("x"),
                };
                core.done(*now, slot, true, report, out);
            }
        }
        Act::Died(at) => {
            if let Some(slot) = ledger.order.get(at).copied() {
                ledger.order.remove(at);
                let task = ledger.workers.remove(&slot).and_then(|(_, task)| task);
                if let Some(place) = task.and_then(|task| ledger.held.get_mut(&task)) {
                    *place = None;
                }
                core.died(*now, slot, at % 2 == 0, "died", out);
            }
        }
        Act::Void(fence) => {
            core.void(*now, Token { task: TaskId(fence), fence }, out);
        }
        Act::Pass(ms) => {
            *now += Span::from_millis(i64::from(ms));
            core.tick(*now, out);
        }
        Act::Pause(paused) => drop(core.pause("a", paused, out)),
        Act::Scale(min, max) => {
            core.scale(*now, "a", min, max, out).expect("a good range");
        }
    }
}

proptest! {
    #[test]
    fn every_task_has_one_place_and_leaves_once(acts in acts()) {
        let first = plan("a", |plan| {
            (plan.min, plan.max, plan.prefetch) = (1, 3, 3);
            plan.then = Some("local:b".into());
            plan.restart.intensity = 4;
        });
        let rated = plan("c", |plan| plan.rate = Some((3, Span::from_secs(1))));
        let pools = vec![first, rated, plan("local:b", |_| {})];
        let lease_for = Span::from_secs(30);
        let plan = Plan { alias: "d".into(), lease: lease_for, poll: Span::from_secs(2), pools };
        let mut now = Time::default();
        let mut core = Core::new(&plan, now);
        let mut out = Vec::new();
        core.start(now, &mut out);
        let mut ledger = Ledger::default();
        ledger.check(&mut out);
        let mut next = 1;
        for act in acts {
            play(act, &mut core, &mut now, &mut ledger, &mut next, &mut out);
            ledger.check(&mut out);
        }
        // The end: everything that is held can be brought to one.
        core.drain(now, &mut out);
        ledger.check(&mut out);
        for place in ledger.held.values_mut() {
            *place = None;
        }
        core.abandon(now, &mut out);
        ledger.check(&mut out);
        prop_assert!(ledger.held.is_empty());
    }
}
