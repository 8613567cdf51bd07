//! Several brokers on one database.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use store::{
    Answer, Command, Concurrency, DeathReason, NewTask, Notice, Outcome, Policy, Postback, Query,
    Refusal, Settle, State, Store, TaskId, When, Why, wait,
};

use super::server::Pooler;
use super::{Asked, shared};

const TASKS: usize = 400;

#[test]
fn two_brokers_settle_each_task_once_and_keep_to_shared_keys() {
    let url = shared().database();
    settle_all_once([Asked::open(&url), Asked::open(&url)]);
}

#[test]
fn a_pooler_may_give_every_transaction_another_session() {
    let url = shared().database();
    let name = url.rsplit_once('/').expect("a name").1;
    let pooler = Pooler::to(shared());
    let pooled = shared().url(name, pooler.port());
    let brokers = [Asked::open(&pooled), Asked::open(&pooled)];
    let heard = listen(&brokers[1]);
    brokers[0].enqueue(NewTask::new("hint", "p")).expect("room");
    hear(&heard, |notice| *notice == Notice::Ready { task_type: "hint".into() });
    settle_all_once(brokers);
}

/// Two brokers and six workers, some of whose tasks share keys if the engine has them.
pub(crate) fn settle_all_once(brokers: [Asked; 2]) {
    let engine = brokers[0].store.capabilities();
    for number in 0..TASKS {
        let key = ["a", "b", "c"].get(number % 5);
        let concurrency = key.map(|key| Concurrency { key: (*key).into(), limit: 2 });
        let concurrency = concurrency.filter(|_| engine.concurrency_keys);
        let policy = Policy { concurrency, ..Policy::default() };
        let task = NewTask { policy, ..NewTask::new("t", number.to_string()) };
        brokers[number % 2].enqueue(task).expect("room");
    }
    let done = Mutex::new(Vec::new());
    let running = Mutex::new(HashMap::<usize, usize>::new());
    let key_of = |payload: &[u8]| {
        let number: usize = String::from_utf8_lossy(payload).parse().expect("a number");
        Some(number % 5).filter(|key| *key < 3 && engine.concurrency_keys)
    };
    let work = |broker: &Asked| {
        let start = Instant::now();
        while done.lock().expect("a list").len() < TASKS {
            assert!(start.elapsed() < Duration::from_secs(60), "it does not end");
            for lease in broker.claim("t", 4).expect("an answer") {
                let key = key_of(&lease.payload);
                if let Some(key) = key {
                    let mut running = running.lock().expect("counts");
                    let count = running.entry(key).or_default();
                    *count += 1;
                    assert!(*count <= 2, "key {key} is held {count} times");
                }
                thread::sleep(Duration::from_micros(300));
                if let Some(key) = key {
                    *running.lock().expect("counts").entry(key).or_default() -= 1;
                }
                let settled = broker.complete(lease.token).expect("an answer");
                assert!(!settled.expect("a valid lease").repeated);
                done.lock().expect("a list").push(lease.token.task);
            }
        }
    };
    thread::scope(|scope| {
        for worker in 0..6 {
            let (broker, work) = (&brokers[worker % 2], &work);
            scope.spawn(move || work(broker));
        }
    });
    let done = done.into_inner().expect("a list");
    assert_eq!(done.len(), TASKS);
    assert_eq!(done.iter().collect::<HashSet<_>>().len(), TASKS, "a task was settled twice");
    if !engine.queries {
        return;
    }
    let answer = wait(|reply| brokers[0].store.query(brokers[0].clock.now(), Query::Queues, reply));
    let Ok(Answer::Queues(queues)) = answer else { panic!("{answer:?}") };
    let queue = queues.iter().find(|queue| queue.task_type == "t").expect("a queue");
    assert_eq!(queue.counts, [0, 0, 0, 0, TASKS as u64, 0, 0], "what both counted");
}

#[test]
fn a_unique_key_names_one_task_whoever_asks() {
    let url = shared().database();
    let brokers = [Asked::open(&url), Asked::open(&url)];
    let ids = Mutex::new(HashMap::<u32, HashSet<TaskId>>::new());
    thread::scope(|scope| {
        for broker in &brokers {
            scope.spawn(|| {
                for key in 0..100 {
                    let unique = store::Unique { key: key.to_string(), keep_ms: 60_000 };
                    let task = NewTask { unique: Some(unique), ..NewTask::new("t", "p") };
                    let made = broker.enqueue(task).expect("room");
                    ids.lock().expect("a map").entry(key).or_default().insert(made.id);
                }
            });
        }
    });
    assert!(ids.lock().expect("a map").values().all(|ids| ids.len() == 1));
    assert_eq!(brokers[0].claim("t", 999).expect("an answer").len(), 100);
}

pub(crate) fn listen(broker: &Asked) -> Receiver<Notice> {
    let (sender, receiver) = channel();
    broker.store.notify(Box::new(move |notices| {
        notices.iter().for_each(|notice| sender.send(notice.clone()).unwrap_or_default());
    }));
    receiver
}

/// The first notice that is wanted, which comes soon.
pub(crate) fn hear(notices: &Receiver<Notice>, wanted: impl Fn(&Notice) -> bool) -> Notice {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let notice = notices.recv_timeout(left).expect("a notice");
        if wanted(&notice) {
            return notice;
        }
    }
}

#[test]
fn brokers_hear_of_each_others_work() {
    hear_of_each_other(&shared().database());
}

pub(crate) fn hear_of_each_other(url: &str) {
    let (here, there) = (Asked::open(url), Asked::open(url));
    let heard = listen(&there);
    let task = NewTask { postback: Some(Postback::Caller), ..NewTask::new("t", "p") };
    let id = here.enqueue(task).expect("room").id;
    hear(&heard, |notice| *notice == Notice::Ready { task_type: "t".into() });
    let lease = here.claim("t", 1).expect("an answer").remove(0);
    here.complete(lease.token).expect("an answer").expect("settled");
    let ended = hear(&heard, |notice| matches!(notice, Notice::Ended { .. }));
    let expected = Notice::Ended {
        id,
        state: State::Done,
        result: b"done".to_vec(),
        error: None,
        next: None,
        postback: Some(Postback::Caller),
    };
    assert_eq!(ended, expected, "who waits there is told");
    // A lease of that broker is cancelled by this one.
    let id = here.enqueue(NewTask::new("u", "p")).expect("room").id;
    let lease = there.claim("u", 1).expect("an answer").remove(0);
    let cancel = Command::Cancel(vec![id]);
    wait(|reply| here.store.command(here.clock.now(), cancel, reply)).expect("an answer").ok();
    let cancelled = hear(&heard, |notice| matches!(notice, Notice::Cancelled { .. }));
    assert_eq!(cancelled, Notice::Cancelled { token: lease.token, worker: "w".into() });
    assert_eq!(there.complete(lease.token), Ok(Err(Refusal::Cancelled)));
}

#[test]
fn work_is_found_without_being_told_of() {
    let url = shared().database();
    let broker = Asked::open(&url);
    let heard = listen(&broker);
    let id = broker.enqueue(NewTask { run_at: When::After(1), ..NewTask::new("t", "p") });
    let id = id.expect("room").id.0;
    // What makes it ready tells nobody: a notification that was lost, say.
    let ready = format!("UPDATE maitred.task SET state = 0, due = NULL WHERE id = {id}");
    shared().psql_at(&url, &ready);
    hear(&heard, |notice| *notice == Notice::Ready { task_type: "t".into() });
}

#[test]
fn a_lease_of_a_broker_that_is_gone_runs_out_and_its_token_is_void() {
    let url = shared().database();
    let (gone, stays) = (Asked::open(&url), Asked::open(&url));
    let policy = Policy { lease_ms: 300, ..Policy::default() };
    gone.enqueue(NewTask { policy, ..NewTask::new("t", "p") }).expect("room");
    let first = gone.claim("t", 1).expect("an answer").remove(0);
    drop(gone);
    assert_eq!(stays.claim("t", 1).expect("an answer"), [], "it is not given back early");
    let start = Instant::now();
    let second = loop {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not come back");
        thread::sleep(Duration::from_millis(20));
        wait(|reply| stays.store.due(stays.clock.now(), reply)).expect("an answer");
        if let Some(lease) = stays.claim("t", 1).expect("an answer").pop() {
            break lease;
        }
    };
    assert!(second.token.fence > first.token.fence && second.attempt == 2);
    assert_eq!(stays.complete(first.token), Ok(Err(Refusal::Stale)));
    assert!(stays.complete(second.token).expect("an answer").is_ok());
}

#[test]
fn calls_of_one_transaction_see_each_other() {
    let url = shared().database();
    let broker = Asked::open(&url);
    for payload in ["a", "b", "c"] {
        broker.enqueue(NewTask::new("t", payload)).expect("room");
    }
    let leases = broker.claim("t", 3).expect("an answer");
    // The first call holds the thread up until the others are in one batch behind it.
    let (go, wait_for) = mpsc::channel::<()>();
    let now = broker.clock.now();
    let nothing = Query::Queues;
    broker.store.query(now, nothing, Box::new(move |_| wait_for.recv().unwrap_or_default()));
    let (says, said) = mpsc::channel();
    let settle = |token, outcome| {
        let says = says.clone();
        let settles = vec![Settle { token, outcome }];
        let reply = move |answer: Result<store::Receipt<Vec<_>>, _>| {
            let mut receipt: store::Receipt<Vec<Result<store::Settled, Refusal>>> =
                answer.expect("an answer");
            says.send(receipt.value.remove(0).map(|settled| (settled.state, settled.repeated)))
                .expect("a test");
        };
        broker.store.settle(now, settles, Box::new(reply));
    };
    let failed = |retry_after_ms| Outcome::Fail { error: "e".into(), retry_after_ms };
    let unique = |payload: &str| {
        let unique = store::Unique { key: "k".into(), keep_ms: 9_000 };
        vec![NewTask { unique: Some(unique), ..NewTask::new("v", payload) }]
    };
    let (meets, met) = mpsc::channel();
    settle(leases[0].token, Outcome::Complete(b"done".to_vec()));
    settle(leases[0].token, Outcome::Complete(b"done".to_vec()));
    settle(leases[1].token, failed(Some(0)));
    for payload in ["one", "one", "two"] {
        let meets = meets.clone();
        let reply = move |answer: Result<store::Receipt<Vec<_>>, _>| {
            let receipt: store::Receipt<Vec<Result<store::Enqueued, Refusal>>> =
                answer.expect("an answer");
            meets.send(receipt.value[0].clone().expect("good").met).expect("a test");
        };
        broker.store.enqueue(now, unique(payload), Box::new(reply));
    }
    let (leased, again) = mpsc::channel();
    let claim = store::Claim {
        types: vec!["v".into(), "t".into()],
        limit: 9,
        lease_ms: None,
        worker: "w".into(),
    };
    let reply = move |answer: Result<store::Receipt<Vec<store::Lease>>, _>| {
        leased.send(answer.expect("an answer").value).expect("a test");
    };
    broker.store.claim(now, claim, Box::new(reply));
    settle(leases[1].token, Outcome::Complete(Vec::new()));
    settle(leases[2].token, Outcome::Reject { error: "no".into() });
    go.send(()).expect("a waiting thread");
    let said: Vec<_> = said.iter().take(5).collect();
    let expected = [
        Ok((State::Done, false)),
        Ok((State::Done, true)),
        Ok((State::Ready, false)),
        Err(Refusal::Stale),
        Ok((State::Dead, false)),
    ];
    assert_eq!(said, expected);
    use store::Met::{Nothing, Other, Same};
    assert_eq!(met.iter().take(3).collect::<Vec<_>>(), [Nothing, Same, Other]);
    let again = again.recv().expect("leases");
    let mut payloads: Vec<&[u8]> = again.iter().map(|lease| &lease.payload[..]).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, [&b"b"[..], b"one"]);
    let answer = wait(|reply| broker.store.query(now, Query::Queues, reply));
    let Ok(Answer::Queues(queues)) = answer else { panic!("{answer:?}") };
    let counts: Vec<[u64; 7]> = queues.iter().map(|queue| queue.counts).collect();
    assert_eq!(counts, [[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0, 0]]);
}

#[test]
fn what_was_changed_behind_our_back_is_a_dead_letter() {
    let url = shared().database();
    let broker = Asked::open(&url);
    let id = broker.enqueue(NewTask::new("t", "payload")).expect("room").id;
    shared().psql_at(&url, "UPDATE maitred.task SET payload = 'other!!'");
    assert_eq!(broker.claim("t", 1).expect("an answer"), []);
    let why = wait(|reply| broker.store.query(broker.clock.now(), Query::Why(id), reply));
    let Ok(Answer::Why(Why::Ended { reason, .. })) = why else { panic!("{why:?}") };
    assert_eq!(reason, Some(DeathReason::Damaged));
}
