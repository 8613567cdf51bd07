//! What a new process makes of what the last one left.

use std::path::Path;

use store::sqlite::{self, Options, Recovered};
use store::{
    Answer, Claim, Clock, Command, Engine, Extend, Lease, NewTask, Outcome, Policy, Query, Refusal,
    Settle, State, Store, Token, When, Why, wait,
};

use crate::dir::Dir;

fn open(path: &Path) -> (Engine, Clock, Recovered) {
    let clock = Clock::new();
    let (store, recovered) = sqlite::open(path, &clock, Options::default()).expect("a store");
    (store, clock, recovered)
}

fn enqueue(store: &Engine, clock: &Clock, task: NewTask) {
    let made = wait(|reply| store.enqueue(clock.now(), vec![task], reply)).expect("room");
    made[0].as_ref().expect("a good task");
}

fn claim(store: &Engine, clock: &Clock) -> Vec<Lease> {
    let claim = Claim { types: vec!["t".into()], limit: 9, lease_ms: None, worker: "w".into() };
    wait(|reply| store.claim(clock.now(), claim, reply)).expect("an answer")
}

fn complete(store: &Engine, clock: &Clock, token: Token) -> Result<State, Refusal> {
    let settles = vec![Settle { token, outcome: Outcome::Complete(Vec::new()) }];
    let mut answers = wait(|reply| store.settle(clock.now(), settles, reply)).expect("an answer");
    answers.remove(0).map(|settled| settled.state)
}

fn extend(store: &Engine, clock: &Clock, token: Token) -> Result<(), Refusal> {
    let extends = vec![Extend { token, lease_ms: None, progress: None }];
    let mut answers = wait(|reply| store.extend(clock.now(), extends, reply)).expect("an answer");
    answers.remove(0).map(drop)
}

#[test]
fn leases_end_with_the_process_and_their_workers_may_go_on_until_another_claims() {
    let dir = Dir::new();
    let path = dir.path("tasks.db");
    let (store, clock, recovered) = open(&path);
    assert_eq!((recovered.unclean, recovered.tasks, recovered.leases), (false, 0, 0));
    for _ in 0..4 {
        enqueue(&store, &clock, NewTask::new("t", "p"));
    }
    let leases = claim(&store, &clock);
    drop(store);

    let (store, clock, recovered) = open(&path);
    assert_eq!((recovered.tasks, recovered.leases), (4, 4));
    // One worker had finished, one goes on, two are gone.
    assert_eq!(complete(&store, &clock, leases[0].token), Ok(State::Done));
    assert_eq!(extend(&store, &clock, leases[1].token), Ok(()));
    let again = claim(&store, &clock);
    assert_eq!(again.len(), 2, "back at once, without a wait");
    assert!(again.iter().all(|lease| lease.attempt == 2));
    let newest = leases.iter().map(|lease| lease.token.fence).max();
    assert!(again.iter().all(|lease| Some(lease.token.fence) > newest), "fences only ascend");
    for lost in &leases[2..] {
        assert_eq!(complete(&store, &clock, lost.token), Err(Refusal::Stale));
        assert_eq!(extend(&store, &clock, lost.token), Err(Refusal::Stale));
    }
    assert_eq!(complete(&store, &clock, leases[1].token), Ok(State::Done));
    // A reply lost with the process: the settle is repeated after the restart.
    store.close();
    let (store, clock, _) = open(&path);
    assert_eq!(complete(&store, &clock, leases[0].token), Ok(State::Done));
}

#[test]
fn everything_an_operator_ordered_is_there_after_a_restart() {
    let dir = Dir::new();
    let path = dir.path("tasks.db");
    let (store, clock, _) = open(&path);
    let command = |store: &Engine, clock: &Clock, command| {
        wait(|reply| store.command(clock.now(), command, reply))
            .expect("an answer")
            .expect("a good command")
    };
    command(&store, &clock, Command::Pause("t".into()));
    let schedule = store::cron::Schedule {
        name: "nightly".into(),
        cron: "0 3 * * *".into(),
        zone: "Europe/Berlin".into(),
        task: NewTask::new("t", b"\xff\x00".to_vec()),
        catch_up: store::cron::CatchUp::Once,
    };
    command(&store, &clock, Command::Schedule(Box::new(schedule.clone())));
    let policy = Policy { fair_key: Some("a".into()), priority: -7, ..Policy::default() };
    let task = NewTask { policy, run_at: When::After(3_600_000), ..NewTask::new("t", "later") };
    enqueue(&store, &clock, task);
    enqueue(&store, &clock, NewTask::new("t", "x".repeat(50_000)));
    let before = wait(|reply| store.query(clock.now(), Query::Queues, reply));
    store.close();

    let (store, clock, recovered) = open(&path);
    assert_eq!((recovered.unclean, recovered.tasks), (false, 2));
    let query = |query| wait(|reply| store.query(clock.now(), query, reply));
    assert_eq!(query(Query::Queues), before);
    let Ok(Answer::Schedules(schedules)) = query(Query::Schedules) else { panic!("schedules") };
    assert_eq!(schedules[0].schedule, schedule);
    assert!(schedules[0].next_at.is_some_and(|at| at > clock.now().wall));
    assert!(claim(&store, &clock).is_empty(), "still paused");
    command(&store, &clock, Command::Resume("t".into()));
    let leases = claim(&store, &clock);
    assert_eq!((leases.len(), leases[0].payload.len()), (1, 50_000));
    let Ok(Answer::Tasks { tasks, .. }) = query(Query::Tasks(store::Filter::default())) else {
        panic!("tasks")
    };
    let why = query(Query::Why(tasks[0].id));
    assert_eq!(why, Ok(Answer::Why(Why::Delayed { until: tasks[0].run_at })));
}

#[test]
fn a_file_of_a_later_version_is_left_alone() {
    let dir = Dir::new();
    let path = dir.path("tasks.db");
    open(&path).0.close();
    let mut bytes = std::fs::read(&path).expect("the file");
    // `user_version` stands at offset 60 of a SQLite file, big-endian.
    bytes[63] = 200;
    std::fs::write(&path, &bytes).expect("the file");
    let refused = sqlite::open(&path, &Clock::new(), Options::default()).map(drop);
    assert!(matches!(refused, Err(sqlite::Refused::Newer { found: 200, .. })), "{refused:?}");
}
