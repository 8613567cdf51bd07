//! Drones with real stores and real processes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use drone::core::Report;
use drone::plan::{Plan, PoolPlan, Program, Verdict, Work};
use drone::{Direct, Drone, Ended, Global, Journal, Setup, Status};
use matching::Span;
use store::{
    Answer, Claim, Clock, Command, Engine, Error, Extend, Extended, Lease, Listener, NewTask,
    Query, Refusal, Release, Reply, Settle, Settled, State, Store, TaskId, TaskView, memory, wait,
};

/// Far more than anything here takes: a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("drone-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Scratch(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A global queue.
struct Hall {
    store: Arc<Engine>,
    clock: Clock,
}

impl Hall {
    fn new() -> Hall {
        let (store, _) = memory::open(Default::default()).expect("a thread");
        Hall { store: Arc::new(store), clock: Clock::new() }
    }

    fn direct(&self) -> Direct {
        Direct::new(self.store.clone(), self.clock.clone())
    }

    fn enqueue(&self, tasks: Vec<NewTask>) -> Vec<TaskId> {
        let made = wait(|reply| self.store.enqueue(self.clock.now(), tasks, reply));
        made.expect("room").into_iter().map(|made| made.expect("a good task").id).collect()
    }

    fn task(&self, id: TaskId) -> TaskView {
        match wait(|reply| self.store.query(self.clock.now(), Query::Task(id), reply)) {
            Ok(Answer::Task(Some(task))) => *task,
            other => panic!("{other:?}"),
        }
    }

    /// The task, once it is in this state.
    async fn until(&self, id: TaskId, state: State) -> TaskView {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            wait(|reply| self.store.due(self.clock.now(), reply)).expect("an answer");
            let task = self.task(id);
            if task.state == state {
                return task;
            }
            assert!(tokio::time::Instant::now() < until, "still {task:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn plan(pools: Vec<PoolPlan>) -> Plan {
    let poll = Span::from_millis(100);
    let plan = Plan { alias: "drone".into(), lease: Span::from_secs(30), poll, pools };
    plan.validate().expect("a good plan");
    plan
}

fn sh(script: &str) -> Program {
    Program { argv: ["sh", "-c", script].map(String::from).to_vec(), ..Program::default() }
}

fn start(hall: &Hall, pools: Vec<PoolPlan>, journal: Option<&Path>) -> Drone {
    let journal = Journal::open(journal).expect("a local queue");
    Drone::start(Setup::new(plan(pools), hall.direct(), journal))
}

async fn drain(mut drone: Drone) -> Ended {
    drone.control().drain(PATIENCE);
    tokio::time::timeout(PATIENCE, drone.ended()).await.expect("it drains")
}

/// The status, once it is as wanted.
async fn seen(drone: &Drone, wanted: impl Fn(&Status) -> bool) -> Status {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = drone.control().status().await.expect("it lives");
        if wanted(&status) {
            return status;
        }
        assert!(tokio::time::Instant::now() < until, "still {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Doubles a number; fails, rejects, ends or sleeps when told so.
const LINES: &str = r#"
import json, os, sys, time
for line in sys.stdin:
    task = json.loads(line)
    what = task["payload"]
    print("has", what, file=sys.stderr, flush=True)
    if what == "die" and task["attempt"] == 1 and not os.path.exists("died"):
        open("died", "w").close()
        os.kill(os.getpid(), 9)
    if what == "sleep":
        time.sleep(3600)
    if what == "babble":
        print("not JSON", flush=True)
        continue
    if what == "progress":
        print(json.dumps({"progress": {"percent": 50}}), flush=True)
        open("told", "w").close()
        while not os.path.exists("seen"):
            time.sleep(0.01)
        reply = {"result": "done"}
    elif what == "fail":
        reply = {"error": "no luck"}
    elif what == "reject":
        reply = {"error": "no good", "retry": False}
    elif what == "chain":
        reply = {"result": 6, "then": "local:double"}
    elif what.isdigit():
        reply = {"id": task["id"], "result": str(2 * int(what))}
    else:
        reply = {"result": what}
    print(json.dumps(reply), flush=True)
"#;

fn persistent(task_type: &str, scratch: &Scratch) -> PoolPlan {
    let argv = ["python3", "-c", LINES].map(String::from).to_vec();
    let program = Program { argv, dir: Some(scratch.0.clone()), ..Program::default() };
    PoolPlan::new(task_type, Work::Persistent(program))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_does_a_task() {
    let hall = Hall::new();
    let script = "tr a-z A-Z; echo \"$MAITRED_TASK_TYPE $MAITRED_ATTEMPT\"";
    let drone = start(&hall, vec![PoolPlan::new("up", Work::Command(sh(script)))], None);
    let ids = hall.enqueue(vec![NewTask::new("up", "hello "), NewTask::new("up", "again ")]);
    let task = hall.until(ids[0], State::Done).await;
    assert_eq!(task.result.as_deref(), Some(&b"HELLO up 1\n"[..]));
    assert_eq!(task.worker.as_deref(), Some("drone"));
    hall.until(ids[1], State::Done).await;
    assert_eq!(drain(drone).await, Ended::Drained);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_fail_in_three_ways() {
    let hall = Hall::new();
    let script = "read -r what; echo \"about $what\" >&2; case $what in \
                  fail) exit 3;; bad) exit 65;; sleep) sleep 3600;; kill) kill -9 $$;; esac";
    let mut pool = PoolPlan::new("do", Work::Command(sh(script)));
    pool.time_limit = Some(Span::from_millis(300));
    pool.timed_out = Verdict::Reject;
    let drone = start(&hall, vec![pool], None);
    let once = |what: &str| {
        let mut task = NewTask::new("do", format!("{what}\n"));
        task.policy.max_attempts = 1;
        task
    };
    let ids = hall.enqueue(["fail", "bad", "sleep", "kill"].map(once).to_vec());
    let errors = [
        "exit status: 3: about fail",
        "exit status: 65: about bad",
        "ended because it took longer than its time_limit of 300ms",
        "signal: 9 (SIGKILL): about kill",
    ];
    for (id, error) in ids.into_iter().zip(errors) {
        let task = hall.until(id, State::Dead).await;
        assert_eq!(task.last_error.as_deref(), Some(error));
    }
    let status = seen(&drone, |_| true).await;
    let counts = status.pools[0].counts;
    // A task whose worker is lost is given to another twice before its attempt has failed.
    assert_eq!((counts.failed, counts.timed_out, counts.lost, counts.done), (2, 1, 3, 0));
    assert_eq!(drain(drone).await, Ended::Drained);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn persistent_workers_speak_lines() {
    let (hall, scratch) = (Hall::new(), Scratch::new());
    let double = persistent("local:double", &scratch);
    let mut pool = persistent("do", &scratch);
    pool.max = 2;
    let drone = start(&hall, vec![pool, double], None);
    let task = |what: &str| {
        let mut task = NewTask::new("do", what);
        task.policy.max_attempts = 1;
        task
    };
    let whats = ["21", "text", "chain", "die", "fail", "reject", "babble"];
    let ids = hall.enqueue(whats.map(task).to_vec());
    for (id, result) in ids.iter().zip(["42", "text", "12", "die"]) {
        let task = hall.until(*id, State::Done).await;
        assert_eq!(task.result.as_deref(), Some(result.as_bytes()));
    }
    for (id, error) in ids[4..].iter().zip(["no luck", "no good", "print what is not a reply"]) {
        let task = hall.until(*id, State::Dead).await;
        let last = task.last_error.unwrap_or_default();
        assert!(last.contains(error), "{last}");
    }
    let id = hall.enqueue(vec![task("progress")])[0];
    let until = tokio::time::Instant::now() + PATIENCE;
    while hall.task(id).progress.is_none() {
        assert!(tokio::time::Instant::now() < until, "no progress is seen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(hall.task(id).progress.as_deref(), Some(&br#"{"percent":50}"#[..]));
    std::fs::write(scratch.join("seen"), "").expect("a file");
    hall.until(id, State::Done).await;
    assert_eq!(drain(drone).await, Ended::Drained);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_task_ends_its_process() {
    let (hall, scratch) = (Hall::new(), Scratch::new());
    let drone = start(&hall, vec![persistent("do", &scratch)], None);
    let id = hall.enqueue(vec![NewTask::new("do", "sleep")])[0];
    hall.until(id, State::Leased).await;
    seen(&drone, |status| status.pools[0].workers.iter().any(|w| w.task == Some(id.0))).await;
    let cancel = Command::Cancel(vec![id]);
    let cancelled = wait(|reply| hall.store.command(hall.clock.now(), cancel, reply));
    assert_eq!(cancelled, Ok(Ok(1)));
    let next = hall.enqueue(vec![NewTask::new("do", "1")])[0];
    hall.until(next, State::Done).await;
    assert_eq!(hall.task(id).state, State::Cancelled);
    assert_eq!(drain(drone).await, Ended::Drained);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_ends_a_worker() {
    let (hall, scratch) = (Hall::new(), Scratch::new());
    let mut pool = persistent("do", &scratch);
    pool.silence_limit = Some(Span::from_millis(200));
    pool.lost_again = 0;
    let drone = start(&hall, vec![pool], None);
    let mut task = NewTask::new("do", "sleep");
    task.policy.max_attempts = 1;
    let id = hall.enqueue(vec![task])[0];
    let task = hall.until(id, State::Dead).await;
    assert!(task.last_error.is_some_and(|error| error.contains("silence_limit of 200")));
    assert_eq!(drain(drone).await, Ended::Drained);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_life_goes_on_with_what_the_last_one_had() {
    let (hall, scratch) = (Hall::new(), Scratch::new());
    let file = scratch.join("local.db");
    let pools = vec![PoolPlan::new("slow", Work::Handler("h".into()))];
    let journal = Journal::open(Some(&file)).expect("a local queue");
    let setup = Setup::new(plan(pools), hall.direct(), journal);
    let drone = Drone::start(setup.handler("h", |_| std::future::pending()));
    let ids = hall.enqueue(vec![NewTask::new("slow", "1"), NewTask::new("slow", "2")]);
    hall.until(ids[0], State::Leased).await;
    seen(&drone, |status| status.pools[0].counts.fetched == 2).await;
    // Its end without a word: what it had is in the local queue, and its leases still hold.
    drop(drone);
    let second = loop {
        match Journal::open(Some(&file)) {
            Ok((journal, left)) if left.jobs.len() == 2 => break (journal, left),
            // It is still being closed, or what it had was not written yet.
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let pools = vec![PoolPlan::new("slow", Work::Handler("h".into()))];
    let setup = Setup::new(plan(pools), hall.direct(), second);
    let drone =
        Drone::start(setup.handler("h", |job| async move { Report::Done(job.payload.clone()) }));
    for id in ids {
        let task = hall.until(id, State::Done).await;
        assert_eq!(task.attempt, 1, "the same lease");
    }
    assert_eq!(drain(drone).await, Ended::Drained);
    let (_, left) = Journal::open(Some(&file)).expect("a local queue");
    assert!(left.jobs.is_empty() && left.outcomes.is_empty());
}

/// A global queue whose answers to settles are lost, so many times.
struct Lossy(Direct, AtomicUsize);

impl Global for Lossy {
    fn name(&self) -> String {
        self.0.name()
    }

    fn claim(&self, claim: Claim, reply: Reply<Vec<Lease>>) {
        self.0.claim(claim, reply);
    }

    fn settle(&self, settles: Vec<Settle>, reply: Reply<Vec<Result<Settled, Refusal>>>) {
        let left = self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        let reply: Reply<_> = match left {
            Ok(_) => {
                let lost = Error::Unavailable("the line is cut".into());
                Box::new(move |_| reply(Err(lost)))
            }
            Err(_) => reply,
        };
        self.0.settle(settles, reply);
    }

    fn extend(&self, extends: Vec<Extend>, reply: Reply<Vec<Result<Extended, Refusal>>>) {
        self.0.extend(extends, reply);
    }

    fn release(&self, releases: Vec<Release>, reply: Reply<Vec<Result<(), Refusal>>>) {
        self.0.release(releases, reply);
    }

    fn notify(&self, listener: Listener) {
        self.0.notify(listener);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_are_handed_in_until_it_is_known_that_they_arrived() {
    let (hall, scratch) = (Hall::new(), Scratch::new());
    let file = scratch.join("local.db");
    let global = Lossy(hall.direct(), AtomicUsize::new(3));
    let pools = vec![PoolPlan::new("t", Work::Handler("h".into()))];
    let journal = Journal::open(Some(&file)).expect("a local queue");
    let setup = Setup::new(plan(pools), global, journal);
    let drone =
        Drone::start(setup.handler("h", |job| async move { Report::Done(job.payload.clone()) }));
    let ids = hall.enqueue(vec![NewTask::new("t", "y"), NewTask::new("t", "z")]);
    for id in ids {
        assert_eq!(hall.until(id, State::Done).await.attempt, 1);
    }
    let status = seen(&drone, |status| status.outcomes == 0).await;
    assert_eq!((status.pools[0].counts.done, status.trouble), (2, None));
    assert_eq!(drain(drone).await, Ended::Drained);
    let (_, left) = Journal::open(Some(&file)).expect("a local queue");
    assert!(left.outcomes.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drone_that_is_out_of_time_gives_back_what_it_has() {
    let hall = Hall::new();
    let sleep = PoolPlan::new("t", Work::Command(sh("sleep 3600")));
    let mut drone = start(&hall, vec![sleep], None);
    let ids = hall.enqueue(vec![NewTask::new("t", ""), NewTask::new("t", "")]);
    hall.until(ids[0], State::Leased).await;
    seen(&drone, |status| status.pools[0].workers.iter().any(|w| w.task.is_some())).await;
    drone.control().drain(Duration::from_millis(50));
    let ended = tokio::time::timeout(PATIENCE, drone.ended()).await.expect("it ends");
    assert_eq!(ended, Ended::Cut(1));
    for id in ids {
        hall.until(id, State::Ready).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_program_gives_its_tasks_back() {
    let hall = Hall::new();
    let program = Program { argv: vec!["/nowhere/at-all".into()], ..Program::default() };
    let mut pool = PoolPlan::new("t", Work::Command(program));
    pool.restart.intensity = 1;
    pool.restart.base = Span::from_millis(1);
    let drone = start(&hall, vec![pool], None);
    let ids = hall.enqueue((0..5).map(|_| NewTask::new("t", "")).collect());
    let status = seen(&drone, |status| status.pools[0].resting_ms > 0).await;
    assert_eq!(status.pools[0].waiting, 0);
    for id in &ids[1..] {
        assert_eq!(hall.until(*id, State::Ready).await.attempt, 0, "it does not count");
    }
    assert_eq!(drain(drone).await, Ended::Drained);
}
