//! JetStream's engine on a real server.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use store::nats::{self, Options, Refused};
use store::{
    Answer, Clock, Engine, Level, NewTask, Now, Outcome, Query, Refusal, State, Store, wait,
};

use crate::asked::Asked;
use crate::dir::Dir;
use crate::keeper::Keeper;
use crate::postgres::faults::{insist, kill_writers, unique};
use crate::postgres::server::free_port;
use crate::postgres::shared::{hear_of_each_other, settle_all_once};

/// A NATS server with JetStream, for these tests only.
pub(crate) struct Server {
    keeper: Mutex<Option<Keeper>>,
    root: PathBuf,
    port: u16,
    _dir: Dir,
}

/// The one server that tests share which do nothing to it.
pub(crate) fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(Server::start)
}

impl Server {
    pub(crate) fn start() -> Server {
        let dir = Dir::fast();
        let root = dir.root().to_owned();
        let server = Server { keeper: Mutex::new(None), root, port: free_port(), _dir: dir };
        server.resume();
        server
    }

    /// Starts the server, or again after [`kill_9`](Server::kill_9).
    pub(crate) fn resume(&self) {
        let mut server = Command::new("nats-server");
        server.args(["-js", "-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"]);
        server.arg(self.root.join("data"));
        let version = Command::new("nats-server").arg("--version").output();
        let advice = "nats-server: the Debian package of that name brings it; `cargo xtask test` \
                      installs it";
        assert!(version.is_ok_and(|output| output.status.success()), "{advice}");
        let keeper = Keeper::run(&server, "TERM", &self.root);
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = std::fs::read_to_string(self.root.join("log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(30), "no server: {log}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the server without a word to anybody.
    pub(crate) fn kill_9(&self) {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        keeper.expect("a running server").signal("KILL");
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("nats://127.0.0.1:{}/{name}", self.port)
    }
}

pub(crate) fn open(url: &str) -> (Engine, Clock) {
    let clock = Clock::new();
    let (store, _) = nats::open(url, &clock, Options::default()).expect("a store");
    (store, clock)
}

#[test]
fn what_is_no_address_or_no_jetstream_is_refused() {
    let refused = |url: &str| nats::open(url, &Clock::new(), Options::default()).map(drop);
    assert!(matches!(refused("postgres://a/b"), Err(Refused::BadUrl(_))));
    assert!(matches!(refused("nats://127.0.0.1:1/a.b"), Err(Refused::BadUrl(_))));
    assert!(matches!(refused("nats://127.0.0.1:1/a"), Err(Refused::Unreachable(_))));
}

#[test]
fn an_answer_says_that_it_is_not_synced() {
    let clock = Clock::new();
    let opened = nats::open(&shared().url("level"), &clock, Options::default());
    let (store, found) = opened.expect("a store");
    assert!(found.warnings[0].contains("level os"), "{:?}", found.warnings);
    let (sender, receiver) = std::sync::mpsc::channel();
    let tasks = vec![NewTask::new("t", "p")];
    store.enqueue(clock.now(), tasks, Box::new(move |answer| sender.send(answer).expect("a test")));
    assert_eq!(receiver.recv().expect("an answer").expect("room").level, Level::Os);
}

#[test]
fn two_brokers_settle_each_task_once() {
    let url = shared().url("pair");
    settle_all_once([Asked::open(&url), Asked::open(&url)]);
}

#[test]
fn brokers_hear_of_each_other() {
    hear_of_each_other(&shared().url("hear"));
}

#[test]
fn kill_9_of_brokers_loses_nothing_and_settles_nothing_twice() {
    kill_writers(&shared().url("kill"));
}

#[test]
fn a_server_that_is_killed_and_comes_back_loses_nothing() {
    let server = Server::start();
    let store = Asked::open(&server.url("restart"));
    let mut ids = Vec::new();
    for round in 0..3 {
        for number in 0..20 {
            ids.push(insist(|| store.enqueue(unique(&format!("{round}-{number}")))).id);
        }
        let lease = store.claim("t", 1).expect("an answer").remove(0);
        server.kill_9();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(300));
                server.resume();
            });
            let settled = insist(|| store.complete(lease.token));
            assert_eq!(settled.expect("the one valid lease").state, State::Done);
        });
    }
    for id in ids {
        let task = wait(|reply| store.store.query(store.clock.now(), Query::Task(id), reply));
        assert!(matches!(task, Ok(Answer::Task(Some(_)))), "{id} was enqueued: {task:?}");
    }
}

/// Takes the queue away with all its messages, as if a broker had ended after it wrote its records
/// and before it sent them.
fn lose_messages(server: &Server, name: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let address = format!("127.0.0.1:{}", server.port);
        let client = async_nats::connect(address).await.expect("a connection");
        let context = async_nats::jetstream::new(client);
        let queue = format!("{name}-ready");
        assert!(context.delete_stream(queue).await.expect("the queue").success);
    });
}

#[test]
fn a_task_whose_message_was_never_sent_gets_one() {
    let url = shared().url("unsent");
    let store = Asked::open(&url);
    let id = store.enqueue(NewTask::new("t", "p")).expect("room").id;
    let lease = store.claim("t", 1).expect("an answer").remove(0);
    let failed = Outcome::Fail { error: "e".into(), retry_after_ms: Some(0) };
    assert!(store.settle(lease.token, failed).expect("an answer").is_ok());
    drop(store);
    lose_messages(shared(), "unsent");
    let store = Asked::open(&url);
    assert_eq!(store.claim("t", 1).expect("an answer"), [], "nobody knows of it");
    let now = store.clock.now();
    let later = Now { line: now.line + 30_000, wall: now.wall + 30_000 };
    wait(|reply| store.store.due(later, reply)).expect("an answer");
    let again = store.claim("t", 1).expect("an answer").remove(0);
    assert_eq!((again.token.task, again.attempt), (id, 2));
    assert!(again.token.fence > lease.token.fence);
    assert_eq!(store.complete(lease.token), Ok(Err(Refusal::Stale)));
}

#[test]
fn a_repeated_enqueue_sends_what_was_not_sent() {
    let url = shared().url("unanswered");
    let store = Asked::open(&url);
    // Its broker ended between the record and the message: nobody was answered.
    let id = store.enqueue(unique("k")).expect("room").id;
    drop(store);
    lose_messages(shared(), "unanswered");
    let store = Asked::open(&url);
    assert_eq!(store.claim("t", 1).expect("an answer"), []);
    let again = store.enqueue(unique("k")).expect("room");
    assert_eq!((again.id, again.met), (id, store::Met::Same));
    assert_eq!(store.claim("t", 9).expect("an answer")[0].token.task, id);
}
