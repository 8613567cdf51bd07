//! PostgreSQL's engine on a real server.

pub(crate) mod faults;
mod opening;
pub(crate) mod proxy;
pub(crate) mod server;
pub(crate) mod shared;

use store::contract::Subject;
use store::postgres::{self, Options};
use store::{Clock, Engine};

use crate::asked::Asked;

pub(crate) use server::{Server, shared};

pub(crate) fn open(url: &str) -> (Engine, Clock) {
    let clock = Clock::new();
    let (store, _) = postgres::open(url, &clock, Options::default()).expect("a store");
    (store, clock)
}

/// A store in a database of its own whose clock is ours: what the engine calls by the name of the
/// server's clock is found in a schema of the test's first.
pub(crate) fn with_a_clock_of_ours(server: &'static Server, unix_ms: u64) -> Subject {
    let url = server.database();
    let name = url.rsplit_once('/').expect("a database").1;
    let clock = "CREATE SCHEMA test; CREATE TABLE test.clock (ms bigint);
        INSERT INTO test.clock VALUES (0);
        CREATE FUNCTION test.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
          AS $$ SELECT timestamptz 'epoch' + ms * interval '1 ms' FROM test.clock $$;";
    server.psql(name, clock);
    server.psql(name, &format!("ALTER DATABASE {name} SET search_path = test, pg_catalog"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let client = runtime.block_on(async {
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("a connection");
        tokio::spawn(async move { drop(connection.await) });
        client
    });
    let set_clock = move |ms: u64| {
        let sql = format!("UPDATE test.clock SET ms = {ms}");
        runtime.block_on(client.batch_execute(&sql)).expect("a clock");
    };
    set_clock(unix_ms);
    let (store, _) = open(&url);
    Subject { store: Box::new(store), set_clock: Some(Box::new(set_clock)) }
}
