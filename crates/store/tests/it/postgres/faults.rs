//! What PostgreSQL's engine survives: the end of its process, of the server, of the way between.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use store::{
    Answer, Error, Met, NewTask, Outcome, Policy, Query, Refusal, State, Store, TaskId, Unique,
    wait,
};

use super::proxy::{Mode, Proxy};
use super::{Asked, Server, shared};
use crate::faults::writer;
use crate::ledger::Ledger;

fn write(url: &str) -> Child {
    let mut command = Command::new(writer());
    command.args(["write", url, "1000000"]).stdout(Stdio::piped());
    command.spawn().expect("the writer")
}

/// Kills it after a while; what it had said by then.
fn kill_after(mut child: Child, time: Duration) -> Ledger {
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut ledger = Ledger::default();
    thread::scope(|scope| {
        let reader = scope.spawn(move || lines.map(|line| line.expect("text")).collect::<Vec<_>>());
        thread::sleep(time);
        child.kill().expect("a living writer");
        child.wait().expect("its end");
        reader.join().expect("its lines").iter().for_each(|line| ledger.note(line));
    });
    ledger
}

#[test]
fn kill_9_of_brokers_loses_nothing_and_settles_nothing_twice() {
    kill_writers(&shared().database());
}

/// Kills pairs of writers again and again, and compares what they said with what is there.
pub(crate) fn kill_writers(url: &str) {
    let mut ledger = Ledger::default();
    for round in 0.. {
        // On a busy machine a round writes little.
        if round >= 8 && ledger.enqueued.len() > 100 {
            break;
        }
        assert!(round < 200, "the writers hardly write: {}", ledger.enqueued.len());
        let writers = [write(url), write(url)];
        let times = [60 + round * 37 % 190, 40 + round * 53 % 210];
        thread::scope(|scope| {
            let ends: Vec<_> = writers
                .into_iter()
                .zip(times)
                .map(|(child, ms)| {
                    scope.spawn(move || kill_after(child, Duration::from_millis(ms)))
                })
                .collect();
            ends.into_iter().for_each(|end| ledger.add(end.join().expect("a ledger")));
        });
    }
    let store = Asked::open(url);
    let open = [State::Ready, State::Leased];
    assert_eq!(ledger.missing_in(&store.store, &store.clock, &open), [""; 0]);
    assert!(ledger.twice.is_empty(), "settled twice: {:?}", ledger.twice);
}

pub(crate) fn unique(key: &str) -> NewTask {
    let unique = Unique { key: key.into(), keep_ms: 3_600_000 };
    let policy = Policy { retention_ms: 3_600_000, ..Policy::default() };
    NewTask { unique: Some(unique), policy, ..NewTask::new("t", "p") }
}

/// Repeats a call that may have happened until there is an answer.
pub(crate) fn insist<T>(call: impl Fn() -> Result<T, Error>) -> T {
    let start = Instant::now();
    loop {
        match call() {
            Ok(answer) => return answer,
            Err(Error::Unavailable(_)) => thread::sleep(Duration::from_millis(50)),
            Err(error) => panic!("{error}"),
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the server does not come back");
    }
}

#[test]
fn a_server_that_is_killed_and_comes_back_loses_nothing() {
    let server = Server::start();
    let url = server.database();
    let store = Asked::open(&url);
    let over = AtomicBool::new(false);
    let (made, settled) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // Until both have got on a bit.
    let pass = || {
        let reached = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let (from, start) = ((reached(&made), reached(&settled)), Instant::now());
        while reached(&made) < from.0 + 10 || reached(&settled) < from.1 + 5 {
            assert!(start.elapsed() < Duration::from_secs(60), "they do not get on");
            thread::sleep(Duration::from_millis(5));
        }
    };
    let (enqueued, completed) = thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let mut ids: Vec<TaskId> = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let key = ids.len().to_string();
                let id = insist(|| store.enqueue(unique(&key))).id;
                assert!(!ids.contains(&id), "two keys, one task");
                ids.push(id);
                made.store(ids.len(), Ordering::Relaxed);
            }
            ids
        });
        let worker = scope.spawn(|| {
            let mut done = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let Ok(leases) = store.claim("t", 3) else { continue };
                for lease in leases {
                    let answer = insist(|| store.complete(lease.token));
                    assert_eq!(answer.expect("the one valid lease").state, State::Done);
                    done.push(lease.token.task);
                    settled.store(done.len(), Ordering::Relaxed);
                }
            }
            done
        });
        for down in [0, 300, 1_500] {
            pass();
            server.kill_9();
            thread::sleep(Duration::from_millis(down));
            server.resume();
        }
        pass();
        over.store(true, Ordering::Relaxed);
        (producer.join().expect("ids"), worker.join().expect("ids"))
    });
    let state = |id: &TaskId| match wait(|reply| {
        store.store.query(store.clock.now(), Query::Task(*id), reply)
    }) {
        Ok(Answer::Task(task)) => task.map(|task| task.state),
        answer => panic!("{answer:?}"),
    };
    for id in &enqueued {
        assert!(state(id).is_some(), "{id} was enqueued and is unknown");
    }
    for id in &completed {
        assert_eq!(state(id), Some(State::Done), "{id} was completed");
    }
    let rows = server.psql_at(&url, "SELECT count(*) FROM maitred.task");
    assert_eq!(rows, enqueued.len().to_string(), "a repeated enqueue made two tasks");
}

#[test]
fn a_restart_between_calls_goes_unnoticed() {
    let server = Server::start();
    let store = Asked::open(&server.database());
    store.enqueue(NewTask::new("t", "before")).expect("room");
    server.kill_9();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(700));
            server.resume();
        });
        store.enqueue(NewTask::new("t", "meanwhile")).expect("it waits for the server");
    });
    assert_eq!(store.claim("t", 9).expect("an answer").len(), 2);
}

#[test]
fn an_answer_lost_after_the_server_acted_is_not_acted_on_twice() {
    let url = shared().database();
    let proxy = Proxy::to(shared().port());
    let name = url.rsplit_once('/').expect("a name").1;
    let store = Asked::open(&shared().url(name, proxy.port()));
    for round in 0..5 {
        let key = round.to_string();
        proxy.set(Mode::LoseReply);
        let lost = store.enqueue(unique(&key));
        assert!(matches!(lost, Err(Error::Unavailable(_))), "{lost:?}");
        let again = store.enqueue(unique(&key)).expect("it is back");
        assert_eq!(again.met, Met::Same, "it had happened");
        let lease = store.claim("t", 1).expect("an answer").remove(0);
        assert_eq!(lease.token.task, again.id);
        proxy.set(Mode::LoseReply);
        let lost = store.complete(lease.token);
        assert!(matches!(lost, Err(Error::Unavailable(_))), "{lost:?}");
        let settled = store.complete(lease.token).expect("it is back").expect("settled");
        assert!(settled.repeated, "it had counted");
        let failed = Outcome::Fail { error: "e".into(), retry_after_ms: None };
        assert_eq!(store.settle(lease.token, failed), Ok(Err(Refusal::Stale)));
    }
    assert_eq!(shared().psql_at(&url, "SELECT count(*) FROM maitred.task"), "5");
}

#[test]
fn a_partition_within_a_commit_keeps_nobody_else_out_and_settles_once() {
    let url = shared().database();
    let proxy = Proxy::to(shared().port());
    let name = url.rsplit_once('/').expect("a name").1;
    let (cut_off, other) = (Asked::open(&shared().url(name, proxy.port())), Asked::open(&url));
    other.enqueue(NewTask::new("t", "p")).expect("room");
    let lease = cut_off.claim("t", 1).expect("an answer").remove(0);
    proxy.set(Mode::HoldCommit);
    let start = Instant::now();
    thread::scope(|scope| {
        let lost = scope.spawn(|| cut_off.complete(lease.token));
        // The row is locked by a transaction that nobody will end but the server.
        thread::sleep(Duration::from_millis(300));
        let free = other.enqueue(NewTask::new("t", "q")).expect("others go on");
        let leases = other.claim("t", 9).expect("an answer");
        assert_eq!(leases.len(), 1, "and pass over what is locked");
        assert_eq!(leases[0].token.task, free.id);
        let settled = insist(|| other.complete(lease.token));
        assert!(!settled.expect("the lease is valid anywhere").repeated, "the commit never came");
        let lost = lost.join().expect("an answer");
        assert!(matches!(lost, Err(Error::Unavailable(_))), "{lost:?}");
    });
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    // The COMMIT that was on its way arrives, at a session that is no more.
    proxy.set(Mode::Pass);
    let settled = insist(|| cut_off.complete(lease.token)).expect("settled");
    assert!(settled.repeated);
}

#[test]
fn calls_are_answered_while_nothing_gets_through() {
    let url = shared().database();
    let proxy = Proxy::to(shared().port());
    let name = url.rsplit_once('/').expect("a name").1;
    let store = Asked::open(&shared().url(name, proxy.port()));
    proxy.set(Mode::Hold);
    let start = Instant::now();
    let lost = store.enqueue(unique("k"));
    assert!(matches!(lost, Err(Error::Unavailable(_))), "{lost:?}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    proxy.set(Mode::Pass);
    let made = insist(|| store.enqueue(unique("k")));
    assert_eq!(store.claim("t", 9).expect("an answer")[0].token.task, made.id);
}
