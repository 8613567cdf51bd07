//! What every store must do, as one suite: run [`check`] on yours.
//!
//! Each case gets an empty store and a time of its own, so that nothing here waits. Where an engine
//! says in its [`Capabilities`](crate::Capabilities) that it cannot do something, the cases about
//! it are left out; the floor (enqueue, claim, extend, settle, retry, dead letters, unique keys,
//! delays, fencing) is not.

use crate::api::{
    Answer, Capabilities, Claim, Command, Due, Enqueued, Error, Extend, Filter, Lease, Level, Met,
    Outcome, Query, Refusal, Release, Settle, Settled, Store, Why, wait,
};
use crate::cron::{CatchUp, Schedule};
use crate::promises::Keeper;
use crate::task::{
    Backoff, Concurrency, DeathReason, NewTask, Now, POSTBACK_SERVICE, Policy, Postback, State,
    Step, TaskId, TaskView, Token, Unique, When,
};

/// A case: its name, whether an engine is asked it, and what it does.
type Case = (&'static str, fn(&Bench<'_>));

const CASES: [Case; 20] = [
    ("a task lives: enqueued, claimed once, completed", life),
    ("a bad task is refused and its neighbours are not", refusals),
    ("order: priority, then order of enqueueing", order),
    ("a delay is a floor and does not follow the wall clock", delay),
    ("a wall time follows the wall clock", wall_time),
    ("a unique key answers with the first task, also after its end", unique),
    ("a stale token changes nothing", fencing),
    ("a settle may be repeated", repeat),
    ("failures wait as the back-off says and end in the dead letters", failing),
    ("a rejected task is dead at once, and may be requeued by filter", rejecting),
    ("a lease that ends returns its task at once and counts", lost_lease),
    ("extending holds a lease and notes progress", extending),
    ("releasing gives an attempt back", releasing),
    ("a deadline ends what waits and what runs", deadlines),
    ("fair keys take turns", fairness),
    ("a concurrency key bounds leases and blocks nothing else", concurrency),
    ("cancelling ends queued and running tasks", cancelling),
    ("a paused type gives nothing", pausing),
    ("chains hand results on, and a postback brings the last one", chains),
    ("schedules make tasks, and what was missed follows the rule", schedules),
];

/// What a case is run on.
pub struct Subject {
    /// An empty store.
    pub store: Box<dyn Store>,
    /// Sets the clock of its server to a Unix time in ms: for engines that go by one, because the
    /// cases do not wait.
    pub set_clock: Option<Box<dyn Fn(u64)>>,
}

impl<S: Store + 'static> From<S> for Subject {
    /// A store that goes by the [`Now`] of its calls.
    fn from(store: S) -> Subject {
        Subject { store: Box::new(store), set_clock: None }
    }
}

/// Runs every case on a store that `open` makes anew for it.
///
/// # Panics
/// If the store does not do what it must; names the case.
pub fn check(mut open: impl FnMut(&str) -> Subject) {
    for (name, case) in CASES {
        eprintln!("contract: {name}");
        let subject = open(name);
        let by_server = subject.store.capabilities().server_time;
        assert_eq!(by_server, subject.set_clock.is_some(), "whose clock it goes by");
        check_promises(&subject.store.capabilities());
        case(&Bench { store: &*subject.store, set_clock: subject.set_clock.as_deref() });
        subject.store.close();
    }
}

/// What an engine promises and what it can do must not contradict each other.
fn check_promises(engine: &Capabilities) {
    let (kept, promises) = (|keeper| keeper != Keeper::Nobody, engine.promises);
    assert_eq!(kept(promises.keeper(1)), engine.level == Level::Durable, "P1 is its level");
    let ordered = engine.priorities && engine.fair_keys && engine.keeps_place;
    assert_eq!(kept(promises.keeper(9)), ordered, "P9 is the order of claims");
    assert_eq!(promises.keeper(6) == Keeper::Server, engine.server_time, "P6 is whose clock");
    for number in 3..=5 {
        assert_eq!(promises.keeper(number), Keeper::Ours, "P{number} is the floor, and asked here");
    }
}

/// The store of a case, asked and waited for.
struct Bench<'a> {
    store: &'a dyn Store,
    set_clock: Option<&'a dyn Fn(u64)>,
}

/// Where the line and the wall clock of every case begin.
const LINE: u64 = 5_000_000;
const WALL: u64 = 1_767_225_600_000;

impl Bench<'_> {
    /// Where the line begins: a server's clock is a wall clock, too.
    fn line(&self) -> u64 {
        if self.set_clock.is_some() { WALL } else { LINE }
    }

    /// So many ms after the beginning.
    fn at(&self, ms: u64) -> Now {
        self.turn(Now { line: self.line() + ms, wall: WALL + ms })
    }

    fn turn(&self, now: Now) -> Now {
        if let Some(set_clock) = self.set_clock {
            set_clock(now.line);
        }
        now
    }

    fn enqueue(&self, ms: u64, task: NewTask) -> TaskId {
        self.try_enqueue(self.at(ms), task).expect("an accepted task").id
    }

    fn try_enqueue(&self, now: Now, task: NewTask) -> Result<Enqueued, Refusal> {
        let mut answers =
            wait(|reply| self.store.enqueue(now, vec![task], reply)).expect("an answer");
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    fn claim(&self, ms: u64, kind: &str, limit: usize) -> Vec<Lease> {
        self.claim_at(self.at(ms), kind, limit)
    }

    fn claim_at(&self, now: Now, kind: &str, limit: usize) -> Vec<Lease> {
        let claim = Claim { types: vec![kind.into()], limit, lease_ms: None, worker: "w".into() };
        wait(|reply| self.store.claim(now, claim, reply)).expect("an answer")
    }

    fn take(&self, ms: u64, kind: &str) -> Lease {
        let mut leases = self.claim(ms, kind, 1);
        assert_eq!(leases.len(), 1, "a lease of {kind:?} at {ms}");
        leases.remove(0)
    }

    fn settle(&self, ms: u64, token: Token, outcome: Outcome) -> Result<Settled, Refusal> {
        let settles = vec![Settle { token, outcome }];
        let mut answers =
            wait(|reply| self.store.settle(self.at(ms), settles, reply)).expect("an answer");
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    fn complete(&self, ms: u64, token: Token) -> Result<Settled, Refusal> {
        self.settle(ms, token, Outcome::Complete(b"done".to_vec()))
    }

    fn fail(&self, ms: u64, token: Token) -> Result<Settled, Refusal> {
        self.settle(ms, token, failure("no luck"))
    }

    fn extend(&self, ms: u64, token: Token, progress: Option<&str>) -> Result<u64, Refusal> {
        let progress = progress.map(|text| text.as_bytes().to_vec());
        let extends = vec![Extend { token, lease_ms: None, progress }];
        let mut answers =
            wait(|reply| self.store.extend(self.at(ms), extends, reply)).expect("an answer");
        answers.remove(0).map(|extended| extended.until)
    }

    fn release(&self, ms: u64, token: Token, after_ms: u64) -> Result<(), Refusal> {
        let releases = vec![Release { token, after_ms }];
        wait(|reply| self.store.release(self.at(ms), releases, reply)).expect("an answer").remove(0)
    }

    fn due(&self, ms: u64) -> Due {
        self.due_at(self.at(ms))
    }

    fn due_at(&self, now: Now) -> Due {
        wait(|reply| self.store.due(now, reply)).expect("an answer")
    }

    fn command(&self, ms: u64, command: Command) -> u64 {
        self.try_command(ms, command).expect("an accepted command")
    }

    fn try_command(&self, ms: u64, command: Command) -> Result<u64, Refusal> {
        wait(|reply| self.store.command(self.at(ms), command, reply)).expect("an answer")
    }

    /// What an engine has not is refused, never left out.
    fn refuses(&self, task: NewTask) {
        let made = self.try_enqueue(self.at(0), task);
        assert!(matches!(made, Err(Refusal::Invalid { .. })), "{made:?}");
    }

    fn lacks(&self, command: Command) {
        let done = wait(|reply| self.store.command(self.at(0), command, reply));
        assert!(matches!(done, Err(Error::Unsupported(_))), "{done:?}");
    }

    fn view(&self, id: TaskId) -> Option<TaskView> {
        let answer = wait(|reply| self.store.query(self.at(0), Query::Task(id), reply));
        let Ok(Answer::Task(task)) = answer else { panic!("asked for a task, got {answer:?}") };
        task.map(|task| *task)
    }

    fn state(&self, id: TaskId) -> State {
        self.view(id).expect("a known task").state
    }

    fn why(&self, id: TaskId) -> Why {
        let answer = wait(|reply| self.store.query(self.at(0), Query::Why(id), reply));
        let Ok(Answer::Why(why)) = answer else { panic!("asked why, got {answer:?}") };
        why
    }
}

fn failure(error: &str) -> Outcome {
    Outcome::Fail { error: error.into(), retry_after_ms: None }
}

fn task(kind: &str, payload: &str, policy: Policy) -> NewTask {
    NewTask { policy, ..NewTask::new(kind, payload) }
}

fn plain(kind: &str, payload: &str) -> NewTask {
    NewTask::new(kind, payload)
}

fn payloads(leases: &[Lease]) -> Vec<String> {
    leases.iter().map(|lease| String::from_utf8_lossy(&lease.payload).into_owned()).collect()
}

fn life(b: &Bench<'_>) {
    let large = "x".repeat(100_000);
    for payload in ["", "small", &large] {
        let id = b
            .enqueue(0, NewTask { content_type: Some("text/plain".into()), ..plain("t", payload) });
        // What was taken from a queue and not said to be done may still count for a moment.
        let why = b.why(id);
        let first = b.store.capabilities().queries;
        assert!(why == Why::Ready { ahead: 0 } || !first && matches!(why, Why::Ready { .. }));
        assert_eq!(b.claim(0, "other", 9), []);
        let lease = b.take(10, "t");
        assert_eq!((lease.token.task, lease.attempt, lease.max_attempts), (id, 1, 20));
        assert_eq!(payloads(std::slice::from_ref(&lease)), [payload]);
        assert_eq!(lease.content_type.as_deref(), Some("text/plain"));
        assert_eq!(lease.until, b.line() + 10 + 30_000);
        assert_eq!(b.claim(10, "t", 9), []);
        let running = Why::Running { worker: "w".into(), until: lease.until, attempt: 1 };
        assert_eq!(b.why(id), running);
        let settled = b.complete(20, lease.token);
        assert_eq!(settled, Ok(Settled { state: State::Done, next: None, repeated: false }));
        let view = b.view(id).expect("kept for its retention");
        assert_eq!(view.result.as_deref(), Some(&b"done"[..]));
        assert_eq!((view.payload.len(), view.ended), (0, Some(b.line() + 20)));
        assert_eq!(b.due(60_019).forgotten, 0);
        assert_eq!(b.due(60_020).forgotten, 1);
        assert_eq!(b.why(id), Why::Unknown);
        assert_eq!(b.complete(60_021, lease.token), Err(Refusal::Unknown));
    }
}

fn refusals(b: &Bench<'_>) {
    let bad = [
        plain("", "no type"),
        plain("a\nb", "a control character"),
        plain(&"x".repeat(256), "a long type"),
        task("t", "", Policy { max_attempts: 0, ..Policy::default() }),
        task("t", "", Policy { lease_ms: 0, ..Policy::default() }),
        NewTask { run_at: When::After(u64::MAX), ..plain("t", "") },
        NewTask { then: vec![Step::default()], ..plain("t", "") },
        NewTask {
            then: vec![Step { task_type: "s".into(), ..Step::default() }; 33],
            ..plain("t", "")
        },
    ];
    let count = bad.len();
    let mut batch = vec![plain("t", "first")];
    batch.extend(bad);
    batch.push(plain("t", "last"));
    let answers = wait(|reply| b.store.enqueue(b.at(0), batch, reply)).expect("an answer");
    assert!(answers[0].is_ok() && answers[count + 1].is_ok(), "{answers:?}");
    for answer in &answers[1..=count] {
        assert!(matches!(answer, Err(Refusal::Invalid { .. })), "{answer:?}");
    }
    assert_eq!(payloads(&b.claim(0, "t", 99)), ["first", "last"]);
}

fn order(b: &Bench<'_>) {
    let there = b.store.capabilities().priorities;
    for (payload, priority) in [("c", 0), ("e", -1), ("a", 9), ("d", 0), ("b", 9)] {
        let policy = Policy { priority, ..Policy::default() };
        let made = b.try_enqueue(b.at(0), task("t", payload, policy));
        assert_eq!(made.is_ok(), there || priority == 0, "{made:?}");
    }
    if there {
        assert_eq!(payloads(&b.claim(0, "t", 2)), ["a", "b"]);
        assert_eq!(payloads(&b.claim(0, "t", 9)), ["c", "d", "e"]);
    } else {
        assert_eq!(payloads(&b.claim(0, "t", 9)), ["c", "d"]);
    }
    b.enqueue(0, plain("x", "1"));
    b.enqueue(0, plain("y", "2"));
    b.enqueue(0, plain("x", "3"));
    let claim = Claim {
        types: vec!["y".into(), "x".into(), "x".into()],
        limit: 9,
        lease_ms: Some(7),
        worker: "w".into(),
    };
    let leases = wait(|reply| b.store.claim(b.at(1), claim, reply)).expect("an answer");
    assert_eq!(payloads(&leases), ["1", "2", "3"]);
    assert!(leases.iter().all(|lease| lease.until == b.line() + 8));
}

fn delay(b: &Bench<'_>) {
    let id = b.enqueue(0, NewTask { run_at: When::After(1_000), ..plain("t", "") });
    assert_eq!(b.why(id), Why::Delayed { until: b.line() + 1_000 });
    // An hour forward on the wall clock; a server has no other.
    let jump = if b.set_clock.is_some() { 999 } else { 3_600_000 };
    let jumped = b.turn(Now { line: b.line() + 999, wall: WALL + jump });
    assert_eq!(b.due_at(jumped).woken, 0);
    assert_eq!(b.claim_at(jumped, "t", 1), []);
    let due = b.due(500);
    assert_eq!((due.woken, due.next), (0, Some(b.line() + 1_000)));
    assert_eq!(b.due(1_000).woken, 1);
    assert_eq!(b.claim(1_000, "t", 9).len(), 1);
}

fn wall_time(b: &Bench<'_>) {
    b.due(0);
    b.enqueue(0, NewTask { run_at: When::At(WALL + 7_200_000), ..plain("t", "") });
    assert_eq!(b.due(3_600_000).woken, 0);
    // The wall clock was an hour slow and is put right: the time has come.
    let line = if b.set_clock.is_some() { 7_200_001 } else { 3_600_001 };
    let right = b.turn(Now { line: b.line() + line, wall: WALL + 7_200_001 });
    assert_eq!(b.due_at(right).woken, 1);
    b.enqueue(line, NewTask { run_at: When::At(WALL - 1), ..plain("t", "past") });
    assert_eq!(b.claim_at(b.turn(right), "t", 9).len(), 2);
}

fn unique(b: &Bench<'_>) {
    let with = |kind: &str, payload: &str| NewTask {
        unique: Some(Unique { key: "k".into(), keep_ms: 100_000 }),
        ..plain(kind, payload)
    };
    let batch = vec![with("t", "one"), with("t", "one"), with("t", "two"), with("u", "one")];
    let answers = wait(|reply| b.store.enqueue(b.at(0), batch, reply)).expect("an answer");
    let answers: Vec<Enqueued> = answers.into_iter().map(|answer| answer.expect("good")).collect();
    let met: Vec<Met> = answers.iter().map(|answer| answer.met).collect();
    assert_eq!(met, [Met::Nothing, Met::Same, Met::Other, Met::Nothing]);
    assert!(answers[0].id == answers[1].id && answers[0].id == answers[2].id);
    assert_ne!(answers[0].id, answers[3].id);
    let id = answers[0].id;
    let lease = b.take(0, "t");
    assert_eq!(b.claim(0, "t", 9), []);
    b.complete(5, lease.token).expect("settled");
    let again = b.try_enqueue(b.at(100_004), with("t", "one")).expect("known");
    assert_eq!(again.id, id);
    b.due(100_005);
    let anew = b.try_enqueue(b.at(100_005), with("t", "one")).expect("new");
    assert_eq!(anew.met, Met::Nothing);
    assert!(anew.id > id, "a number was given twice");
}

fn fencing(b: &Bench<'_>) {
    let id = b.enqueue(0, plain("t", ""));
    let first = b.take(0, "t");
    b.due(30_000);
    let second = b.take(30_001, "t");
    assert_eq!(first.token.task, second.token.task);
    assert!(second.token.fence > first.token.fence && second.attempt == 2);
    let forged = Token { task: id, fence: 0 };
    let elsewhere = Token { task: TaskId(id.0 + 1_000_000), fence: second.token.fence };
    for token in [first.token, forged, Token { task: id, fence: u64::MAX }] {
        assert_eq!(b.complete(30_002, token), Err(Refusal::Stale));
        assert_eq!(b.fail(30_002, token), Err(Refusal::Stale));
        assert_eq!(b.extend(30_002, token, None), Err(Refusal::Stale));
        assert_eq!(b.release(30_002, token, 0), Err(Refusal::Stale));
    }
    assert_eq!(b.complete(30_002, elsewhere), Err(Refusal::Unknown));
    assert_eq!(
        b.complete(30_002, Token { task: TaskId(u64::MAX), fence: 1 }),
        Err(Refusal::Unknown)
    );
    assert_eq!(b.state(id), State::Leased);
    assert!(b.complete(30_003, second.token).is_ok());
    assert_eq!(b.complete(30_003, first.token), Err(Refusal::Stale));
}

fn repeat(b: &Bench<'_>) {
    let ok = |state, repeated| Ok(Settled { state, next: None, repeated });
    b.enqueue(0, plain("t", ""));
    let lease = b.take(0, "t");
    assert_eq!(b.fail(0, lease.token), ok(State::Scheduled, false));
    assert_eq!(b.fail(0, lease.token), ok(State::Scheduled, true));
    assert_eq!(b.complete(0, lease.token), Err(Refusal::Stale));
    b.due(10_000);
    let lease = b.take(10_000, "t");
    // Twice in one batch.
    let settle = Settle { token: lease.token, outcome: Outcome::Complete(Vec::new()) };
    let batch = vec![settle.clone(), settle];
    let answers = wait(|reply| b.store.settle(b.at(10_000), batch, reply)).expect("an answer");
    assert_eq!(answers, [ok(State::Done, false), ok(State::Done, true)]);
    assert_eq!(b.complete(70_000, lease.token), ok(State::Done, true));
    assert_eq!(b.fail(10_001, lease.token), Err(Refusal::Stale));
}

fn failing(b: &Bench<'_>) {
    let backoff = Backoff { base_ms: 100, max_ms: 150, jitter_percent: 0 };
    let id = b.enqueue(0, task("t", "p", Policy { max_attempts: 3, backoff, ..Policy::default() }));
    let mut now = 0;
    for (attempt, wait_ms) in [(1, 100), (2, 150)] {
        let lease = b.take(now, "t");
        assert_eq!(lease.attempt, attempt);
        assert_eq!(
            b.settle(now, lease.token, failure("boom")).map(|s| s.state),
            Ok(State::Scheduled)
        );
        let until = b.line() + now + wait_ms;
        let error = Some("boom".into());
        assert_eq!(b.why(id), Why::BackingOff { until, attempt, error });
        now += wait_ms;
        assert_eq!(b.due(now - 1).woken, 0);
        assert_eq!(b.due(now).woken, 1);
    }
    let lease = b.take(now, "t");
    assert_eq!(b.settle(now, lease.token, failure("last")).map(|s| s.state), Ok(State::Dead));
    let reason = Some(DeathReason::Attempts);
    assert_eq!(b.why(id), Why::Ended { state: State::Dead, reason, error: Some("last".into()) });
    assert_eq!(b.command(now, Command::Retry(vec![id])), 1);
    let lease = b.take(now, "t");
    assert_eq!((lease.attempt, payloads(&[lease])), (1, vec!["p".to_owned()]));
}

fn rejecting(b: &Bench<'_>) {
    for payload in ["a", "b", "c"] {
        b.enqueue(0, plain("t", payload));
    }
    for (lease, error) in b.claim(0, "t", 9).into_iter().zip(["db gone", "bad input", "db slow"]) {
        let reject = Outcome::Reject { error: error.into() };
        assert_eq!(b.settle(0, lease.token, reject).map(|s| s.state), Ok(State::Dead));
    }
    if !b.store.capabilities().queries {
        for lost in
            [Command::CancelWhere(Filter::default()), Command::RetryWhere(Filter::default())]
        {
            b.lacks(lost);
        }
        let page = Query::Tasks(Filter::default());
        let page = wait(|reply| b.store.query(b.at(0), page, reply));
        return assert!(matches!(page, Err(Error::Unsupported(_))), "{page:?}");
    }
    let dead = |error: &str| Filter {
        task_type: Some("t".into()),
        state: Some(State::Dead),
        error: Some(error.into()),
        ..Filter::default()
    };
    assert_eq!(b.command(0, Command::RetryWhere(Filter { limit: 1, ..dead("db") })), 1);
    assert_eq!(b.command(0, Command::RetryWhere(dead("db"))), 1);
    assert_eq!(payloads(&b.claim(0, "t", 9)), ["a", "c"]);
    assert_eq!(b.command(0, Command::ForgetWhere(dead(""))), 1);
    let rest =
        wait(|reply| b.store.query(b.at(0), Query::Tasks(dead("")), reply)).expect("an answer");
    assert_eq!(rest, Answer::Tasks { tasks: Vec::new(), next: None });
}

fn lost_lease(b: &Bench<'_>) {
    let id =
        b.enqueue(0, task("t", "", Policy { max_attempts: 2, lease_ms: 50, ..Policy::default() }));
    b.enqueue(0, plain("t", "later"));
    let lost = b.take(0, "t");
    let due = b.due(49);
    assert_eq!((due.lost, due.next), (0, Some(b.line() + 50)));
    let due = b.due(50);
    assert_eq!((due.lost, due.died), (1, 0));
    assert_eq!(b.complete(50, lost.token), Err(Refusal::Stale));
    // At once, and before what came after it.
    if !b.store.capabilities().keeps_place {
        assert_eq!(payloads(&b.claim(50, "t", 1)), ["later"]);
    }
    let lease = b.take(50, "t");
    assert_eq!((lease.token.task, lease.attempt), (id, 2));
    let due = b.due(100);
    assert_eq!((due.lost, due.died), (1, 1));
    let Why::Ended { state: State::Dead, reason: Some(DeathReason::Attempts), error } = b.why(id)
    else {
        panic!("a task that loses its last worker is dead: {:?}", b.why(id));
    };
    assert!(error.expect("an error").contains("lease"));
}

fn extending(b: &Bench<'_>) {
    let id = b.enqueue(0, task("t", "", Policy { lease_ms: 100, ..Policy::default() }));
    let lease = b.take(0, "t");
    assert_eq!(b.extend(90, lease.token, Some("half")), Ok(b.line() + 190));
    assert_eq!(b.due(189).lost, 0);
    assert_eq!(b.view(id).and_then(|view| view.progress).as_deref(), Some(&b"half"[..]));
    let long = "x".repeat(5_000);
    assert!(matches!(b.extend(150, lease.token, Some(&long)), Err(Refusal::Invalid { .. })));
    assert_eq!(b.due(190).lost, 1);
    let lease = b.take(190, "t");
    assert_eq!(
        lease.progress.as_deref(),
        Some(&b"half"[..]),
        "what the next worker can go on from"
    );
}

fn releasing(b: &Bench<'_>) {
    b.enqueue(0, plain("t", ""));
    let lease = b.take(0, "t");
    assert_eq!(b.release(0, lease.token, 0), Ok(()));
    assert_eq!(b.release(0, lease.token, 0), Err(Refusal::Stale));
    let lease = b.take(0, "t");
    assert_eq!(lease.attempt, 1);
    assert_eq!(b.release(0, lease.token, 500), Ok(()));
    assert_eq!(b.claim(499, "t", 1), []);
    assert_eq!(b.due(500).woken, 1);
    assert_eq!(b.take(500, "t").attempt, 1);
}

fn deadlines(b: &Bench<'_>) {
    let soon = |payload: &str| NewTask { deadline_ms: Some(100), ..plain("t", payload) };
    let runs = b.enqueue(0, soon("runs"));
    let lease = b.take(0, "t");
    assert_eq!(lease.deadline, Some(b.line() + 100));
    let waits = b.enqueue(0, soon("waits"));
    let delayed = b.enqueue(0, NewTask { run_at: When::After(1_000), ..soon("delayed") });
    // Nobody looked in time: a claim does not hand out what is past its deadline.
    assert_eq!(b.claim(100, "t", 9), []);
    b.due(100);
    for id in [runs, waits, delayed] {
        let Why::Ended { reason: Some(DeathReason::Deadline), .. } = b.why(id) else {
            panic!("{:?}", b.why(id));
        };
    }
    assert_eq!(b.complete(100, lease.token), Err(Refusal::Stale));
    b.command(200, Command::Retry(vec![waits]));
    assert_eq!(payloads(&b.claim(200, "t", 9)), ["waits"]);
}

fn fairness(b: &Bench<'_>) {
    if !b.store.capabilities().fair_keys {
        let policy = Policy { fair_key: Some("a".into()), ..Policy::default() };
        return b.refuses(task("t", "", policy));
    }
    let add = |key: &str, payload: &str| {
        let policy = Policy { fair_key: Some(key.into()), ..Policy::default() };
        b.enqueue(0, task("t", payload, policy))
    };
    for payload in ["a1", "a2", "a3", "a4"] {
        add("a", payload);
    }
    add("b", "b1");
    add("b", "b2");
    assert_eq!(payloads(&b.claim(0, "t", 3)), ["a1", "b1", "a2"]);
    add("c", "c1");
    assert_eq!(payloads(&b.claim(0, "t", 9)), ["b2", "a3", "c1", "a4"]);
}

fn concurrency(b: &Bench<'_>) {
    let shared = |limit| Some(Concurrency { key: "db".into(), limit });
    if !b.store.capabilities().concurrency_keys {
        return b.refuses(task("t", "", Policy { concurrency: shared(2), ..Policy::default() }));
    }
    let add = |payload: &str, concurrency| {
        b.enqueue(0, task("t", payload, Policy { concurrency, ..Policy::default() }))
    };
    add("1", shared(2));
    add("2", shared(2));
    let third = add("3", shared(2));
    let fourth = add("4", shared(2));
    add("free", None);
    let leases = b.claim(0, "t", 3);
    assert_eq!(payloads(&leases), ["1", "2", "free"], "a full key must not hide what is behind it");
    let holders = vec![leases[0].token.task, leases[1].token.task];
    assert_eq!(b.why(third), Why::Blocked { key: "db".into(), limit: 2, holders });
    assert_eq!(b.claim(0, "t", 9), []);
    b.complete(1, leases[1].token).expect("settled");
    let next = b.claim(1, "t", 9);
    assert_eq!(payloads(&next), ["3"]);
    b.fail(1, leases[0].token).expect("settled");
    assert_eq!(payloads(&b.claim(1, "t", 9)), ["4"]);
    // Lost and cancelled holders let go as well.
    b.command(2, Command::Cancel(vec![third]));
    b.due(30_001);
    assert_eq!(b.state(fourth), State::Ready);
    let mut last = payloads(&b.claim(30_001, "t", 9));
    last.sort();
    assert_eq!(last, ["1", "4", "free"]);
}

fn cancelling(b: &Bench<'_>) {
    let queued = b.enqueue(0, plain("t", "queued"));
    let delayed = b.enqueue(0, NewTask { run_at: When::After(9), ..plain("t", "") });
    let running = b.enqueue(0, plain("r", ""));
    let done = b.enqueue(0, plain("d", ""));
    let lease = b.take(0, "r");
    b.complete(0, b.take(0, "d").token).expect("settled");
    let all = vec![queued, delayed, running, done, TaskId(1)];
    assert_eq!(b.command(1, Command::Cancel(all.clone())), 3);
    assert_eq!(b.command(1, Command::Cancel(all)), 0);
    assert_eq!(b.claim(10, "t", 9), []);
    assert_eq!(b.extend(2, lease.token, None), Err(Refusal::Cancelled));
    assert_eq!(b.complete(2, lease.token), Err(Refusal::Cancelled));
    assert_eq!(b.state(running), State::Cancelled);
    assert_eq!(b.state(done), State::Done);
    assert_eq!(b.command(3, Command::Retry(vec![queued, done])), 1);
    assert_eq!(payloads(&b.claim(3, "t", 9)), ["queued"]);
}

fn pausing(b: &Bench<'_>) {
    if !b.store.capabilities().pauses {
        return b.lacks(Command::Pause("t".into()));
    }
    let id = b.enqueue(0, plain("t", ""));
    b.enqueue(0, plain("u", ""));
    let lease = b.take(0, "u");
    assert_eq!(b.command(0, Command::Pause("t".into())), 1);
    assert_eq!(b.command(0, Command::Pause("u".into())), 1);
    assert_eq!(b.command(0, Command::Pause("t".into())), 0);
    assert_eq!(b.why(id), Why::Paused);
    assert_eq!(b.claim(0, "t", 1), []);
    assert!(b.complete(0, lease.token).is_ok(), "leases that are out stay");
    let queues = wait(|reply| b.store.query(b.at(0), Query::Queues, reply)).expect("an answer");
    let Answer::Queues(queues) = queues else { panic!("{queues:?}") };
    let seen: Vec<_> = queues.iter().map(|q| (&*q.task_type, q.paused, q.counts)).collect();
    let expected = [("t", true, [1, 0, 0, 0, 0, 0, 0]), ("u", true, [0, 0, 0, 0, 1, 0, 0])];
    assert_eq!(seen, expected);
    assert_eq!(b.command(0, Command::Resume("t".into())), 1);
    assert_eq!(b.claim(0, "t", 1).len(), 1);
}

fn chains(b: &Bench<'_>) {
    let priority = if b.store.capabilities().priorities { 3 } else { 0 };
    let step = Step { task_type: "two".into(), policy: Policy { priority, ..Policy::default() } };
    let first = b.enqueue(
        0,
        NewTask {
            then: vec![step],
            postback: Some(Postback::Service("answers".into())),
            attributes: vec![("trace".into(), "abc".into())],
            ..plain("one", "in")
        },
    );
    let lease = b.take(0, "one");
    let settled = b.settle(0, lease.token, Outcome::Complete(b"between".to_vec()));
    let next = settled.expect("settled").next.expect("the chain goes on");
    assert_eq!(b.complete(0, lease.token).expect("repeated").next, Some(next));
    let lease = b.take(0, "two");
    assert_eq!((lease.token.task, &lease.payload[..]), (next, &b"between"[..]));
    assert_eq!(b.view(next).expect("known").parent, Some(first));
    let settled = b.settle(0, lease.token, Outcome::Complete(b"out".to_vec()));
    assert!(settled.expect("settled").next.is_some());
    let lease = b.take(0, POSTBACK_SERVICE);
    assert_eq!(lease.payload, b"out");
    let named =
        |name: &str| lease.attributes.iter().find(|(key, _)| key == name).map(|(_, v)| &**v);
    assert_eq!((named("to"), named("trace")), (Some("answers"), Some("abc")));
    assert_eq!(named("task"), Some(&*next.to_string()));
}

fn schedules(b: &Bench<'_>) {
    // WALL is midnight of 1 January 2026.
    let hourly = Schedule {
        name: "hourly".into(),
        cron: "0 * * * *".into(),
        zone: "UTC".into(),
        task: plain("t", "tick"),
        catch_up: CatchUp::Once,
    };
    let order = |schedule: &Schedule| Command::Schedule(Box::new(schedule.clone()));
    if !b.store.capabilities().schedules {
        return b.lacks(order(&hourly));
    }
    let wrong = Schedule { cron: "61 * * * *".into(), ..hourly.clone() };
    assert!(matches!(b.try_command(0, order(&wrong)), Err(Refusal::Invalid { .. })));
    assert_eq!(b.command(1, order(&hourly)), 1);
    let hour = 3_600_000;
    let due = b.due(2);
    assert_eq!((due.scheduled, due.next), (0, Some(b.line() + hour)));
    assert_eq!(b.due(hour).scheduled, 1);
    assert_eq!(b.due(hour + 5).scheduled, 0);
    // Three instants were missed, the fourth is on time.
    assert_eq!(b.due(5 * hour + 1_000).scheduled, 2);
    assert_eq!(payloads(&b.claim(5 * hour + 1_000, "t", 9)), ["tick", "tick", "tick"]);
    assert_eq!(b.command(5 * hour, Command::Unschedule("hourly".into())), 1);
    assert_eq!(b.due(9 * hour).scheduled, 0);
}
