//! What a fault means to those who asked: the memory store fails on command.

use std::sync::{Arc, Mutex};

use store::memory::{self, Faults};
use store::{
    Claim, Engine, Error, Met, NewTask, Notice, Now, Outcome, Refusal, Settings, Settle, State,
    Store, Unique, wait,
};

const NOW: Now = Now { line: 1_000, wall: 1_000 };

fn open() -> (Engine, Faults) {
    memory::open(Settings::default()).expect("a store")
}

fn enqueue(store: &Engine, payload: &str) -> Result<(), Error> {
    let tasks = vec![NewTask::new("t", payload)];
    wait(|reply| store.enqueue(NOW, tasks, reply)).map(drop)
}

fn claim(store: &Engine) -> Result<Vec<store::Lease>, Error> {
    let claim = Claim { types: vec!["t".into()], limit: 9, lease_ms: None, worker: "w".into() };
    wait(|reply| store.claim(NOW, claim, reply))
}

fn complete(store: &Engine, lease: &store::Lease) -> Result<Result<State, Refusal>, Error> {
    let settles = vec![Settle { token: lease.token, outcome: Outcome::Complete(b"done".to_vec()) }];
    let mut answers = wait(|reply| store.settle(NOW, settles, reply))?;
    Ok(answers.remove(0).map(|settled| settled.state))
}

#[test]
fn a_full_disk_refuses_enqueues_and_settles_go_on() {
    let (store, faults) = open();
    enqueue(&store, "first").expect("room");
    let leases = claim(&store).expect("an answer");
    faults.disk_full(true);
    for _ in 0..2 {
        assert!(matches!(enqueue(&store, "second"), Err(Error::NoSpace(_))));
    }
    assert_eq!(complete(&store, &leases[0]), Ok(Ok(State::Done)));
    faults.disk_full(false);
    enqueue(&store, "third").expect("room again");
    assert_eq!(claim(&store).expect("an answer").len(), 1, "what was refused is not there");
}

#[test]
fn a_failed_commit_stops_the_store_for_good_and_says_why() {
    let (store, faults) = open();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    store.notify(Box::new(move |notices| hears.lock().expect("a list").extend_from_slice(notices)));
    enqueue(&store, "first").expect("a good commit");
    faults.break_commit(1);
    enqueue(&store, "second").expect("a good commit");
    for _ in 0..3 {
        let Err(Error::Stopped(reason)) = enqueue(&store, "third") else { panic!("it went on") };
        assert!(reason.contains("fsync"), "{reason}");
        assert!(matches!(claim(&store), Err(Error::Stopped(_))));
    }
    store.close();
    assert!(matches!(enqueue(&store, "fourth"), Err(Error::Stopped(_))));
    let heard = heard.lock().expect("a list");
    let ready = Notice::Ready { task_type: "t".into() };
    assert_eq!(heard[..2], [ready.clone(), ready], "only what was committed is told");
    assert!(matches!(heard[2..], [Notice::Stopped { .. }]), "{heard:?}");
}

#[test]
fn a_lost_commit_fails_its_calls_and_a_repetition_is_safe() {
    let (store, faults) = open();
    let task = || {
        let unique = Some(Unique { key: "k".into(), keep_ms: 0 });
        vec![NewTask { unique, ..NewTask::new("t", "p") }]
    };
    faults.lose_commit(0);
    let lost = wait(|reply| store.enqueue(NOW, task(), reply));
    assert!(matches!(lost, Err(Error::Unavailable(_))), "{lost:?}");
    let again = wait(|reply| store.enqueue(NOW, task(), reply)).expect("it is back");
    assert_eq!(again[0].as_ref().map(|made| made.met), Ok(Met::Nothing));
    let leases = claim(&store).expect("an answer");
    faults.lose_commit(0);
    assert!(complete(&store, &leases[0]).is_err());
    assert_eq!(complete(&store, &leases[0]), Ok(Ok(State::Done)));
    assert_eq!(complete(&store, &leases[0]), Ok(Ok(State::Done)), "repeated");
}

#[test]
fn one_bad_call_does_not_fail_its_batch() {
    let (store, faults) = open();
    // The first call holds the thread up until the others are in one batch behind it.
    let (go, wait_for) = std::sync::mpsc::channel::<()>();
    store.claim(
        NOW,
        Claim { types: Vec::new(), limit: 1, lease_ms: None, worker: String::new() },
        Box::new(move |_| wait_for.recv().unwrap_or_default()),
    );
    let (sender, answers) = std::sync::mpsc::channel();
    for number in 0..5 {
        let sender = sender.clone();
        let tasks = vec![NewTask::new("t", number.to_string())];
        store.enqueue(
            NOW,
            tasks,
            Box::new(move |answer| sender.send((number, answer.is_ok())).expect("a test")),
        );
    }
    faults.fail_write(2);
    go.send(()).expect("a waiting thread");
    let mut answers: Vec<(u32, bool)> = answers.iter().take(5).collect();
    answers.sort_unstable();
    // The fault struck the batch; each call alone went well.
    assert!(answers.iter().all(|(_, good)| *good), "{answers:?}");
    assert_eq!(claim(&store).expect("an answer").len(), 5, "nothing twice");
}

#[test]
fn a_caller_that_panics_is_not_the_stores_end() {
    let (store, _) = open();
    let tasks = vec![NewTask::new("t", "")];
    store.enqueue(NOW, tasks, Box::new(|_| panic!("on purpose")));
    enqueue(&store, "next").expect("it lives");
}
