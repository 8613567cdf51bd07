//! What is looked at before a database is used, and what is said about it.

use std::thread;

use store::postgres::{self, Options, Refused};
use store::{Clock, Level, NewTask, Store, wait};

use super::{Asked, Server, shared};

fn refused(url: &str) -> Refused {
    match postgres::open(url, &Clock::new(), Options::default()) {
        Err(refused) => refused,
        Ok(_) => panic!("{url} was opened"),
    }
}

#[test]
fn what_cannot_be_kept_is_refused_and_not_ignored() {
    let url = shared().database();
    assert!(matches!(refused(&format!("{url}?sslmode=require")), Refused::Tls));
    assert!(matches!(refused(&format!("{url}?sslmode=verify-full")), Refused::BadUrl(_)));
    assert!(matches!(refused(&format!("{url}?colour=blue")), Refused::BadUrl(_)));
    assert!(matches!(refused("postgres://nobody@127.0.0.1:1/none"), Refused::Unreachable(_)));
    let Refused::Unreachable(why) = refused(&shared().url("absent", shared().port())) else {
        panic!("a database that is not there");
    };
    assert!(why.contains("absent"), "{why}");
}

#[test]
fn tables_of_a_later_version_are_left_alone() {
    let url = shared().database();
    Asked::open(&url).store.close();
    shared().psql_at(&url, "UPDATE maitred.version SET version = 99");
    assert!(matches!(refused(&url), Refused::Newer { found: 99, known: 1 }));
    assert_eq!(shared().psql_at(&url, "SELECT version FROM maitred.version"), "99");
}

#[test]
fn brokers_that_start_together_make_the_tables_once() {
    let url = shared().database();
    let stores: Vec<Asked> = thread::scope(|scope| {
        let open = || scope.spawn(|| Asked::open(&url));
        let opening: Vec<_> = (0..6).map(|_| open()).collect();
        opening.into_iter().map(|opened| opened.join().expect("a store")).collect()
    });
    let mut ids: Vec<u64> = stores
        .iter()
        .map(|store| store.enqueue(NewTask::new("t", "p")).expect("room").id.0)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 6, "a number was given twice");
    assert_eq!(stores[0].claim("t", 9).expect("an answer").len(), 6);
}

#[test]
fn numbers_go_on_above_those_of_a_database_that_was_restored() {
    let url = shared().database();
    let store = Asked::open(&url);
    let before = store.enqueue(NewTask::new("t", "p")).expect("room").id;
    let fence = store.claim("t", 1).expect("an answer")[0].token.fence;
    store.store.close();
    // The sequences are as in a backup that was made long ago.
    let reset = "SELECT setval('maitred.task_id', 1), setval('maitred.fence', 1)";
    shared().psql_at(&url, reset);
    let store = Asked::open(&url);
    assert!(store.enqueue(NewTask::new("t", "p")).expect("room").id > before);
    assert!(store.claim("t", 1).expect("an answer")[0].token.fence > fence);
}

/// What a transaction of the store's had `synchronous_commit` set to.
fn seen_commit(url: &str, os_level: bool) -> (String, Level, Vec<String>) {
    let clock = Clock::new();
    let options = Options { os_level, ..Options::default() };
    let (store, found) = postgres::open(url, &clock, options).expect("a store");
    let spy = "CREATE TABLE IF NOT EXISTS public.seen (setting text);
        CREATE OR REPLACE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN INSERT INTO public.seen VALUES (current_setting('synchronous_commit'));
             RETURN NULL; END $$;
        CREATE OR REPLACE TRIGGER spy AFTER INSERT ON maitred.task EXECUTE FUNCTION spy();
        TRUNCATE public.seen";
    shared().psql_at(url, spy);
    let (sender, receiver) = std::sync::mpsc::channel();
    store.enqueue(
        clock.now(),
        vec![NewTask::new("t", "p")],
        Box::new(move |answer| sender.send(answer).expect("a test")),
    );
    let receipt = receiver.recv().expect("an answer").expect("room");
    assert_eq!(receipt.level, store.capabilities().level);
    (shared().psql_at(url, "SELECT setting FROM public.seen"), receipt.level, found.warnings)
}

#[test]
fn an_answer_is_as_durable_as_it_says_whatever_the_servers_settings() {
    let url = shared().database();
    assert_eq!(seen_commit(&url, false), ("on".into(), Level::Durable, vec![]));
    assert_eq!(seen_commit(&url, true), ("off".into(), Level::Os, vec![]));
    let name = url.rsplit_once('/').expect("a name").1;
    shared().psql(name, &format!("ALTER DATABASE {name} SET synchronous_commit = off"));
    let (setting, level, warnings) = seen_commit(&url, false);
    assert_eq!((setting.as_str(), level), ("on", Level::Durable));
    assert!(warnings[0].contains("synchronous_commit is off"), "{warnings:?}");
    shared().psql(name, &format!("ALTER DATABASE {name} SET synchronous_commit = remote_apply"));
    assert_eq!(seen_commit(&url, false).0, "remote_apply", "more than ours stays");
}

#[test]
fn a_server_without_fsync_is_announced_as_such() {
    let server = Server::start();
    let url = server.database();
    server.psql("postgres", "ALTER SYSTEM SET fsync = off");
    server.psql("postgres", "SELECT pg_reload_conf()");
    while server.psql("postgres", "SHOW fsync") != "off" {}
    let clock = Clock::new();
    let (store, found) = postgres::open(&url, &clock, Options::default()).expect("a store");
    assert_eq!(store.capabilities().level, Level::Os);
    assert!(found.warnings[0].contains("fsync is off"), "{:?}", found.warnings);
    let query = wait(|reply| store.query(clock.now(), store::Query::Queues, reply));
    assert!(query.is_ok());
}
