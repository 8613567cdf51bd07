//! PostgreSQL's engine on a real server.

mod faults;
mod opening;
mod proxy;
mod server;
mod shared;

use store::contract::Subject;
use store::postgres::{self, Options};
use store::{
    Claim, Clock, Engine, Enqueued, Error, Lease, NewTask, Outcome, Refusal, Settle, Settled,
    Store, Token, wait,
};

pub(crate) use server::{Server, shared};

pub(crate) fn open(url: &str) -> (Engine, Clock) {
    let clock = Clock::new();
    let (store, _) = postgres::open(url, &clock, Options::default()).expect("a store");
    (store, clock)
}

/// A store, asked and waited for.
pub(crate) struct Asked {
    pub(crate) store: Engine,
    pub(crate) clock: Clock,
}

impl Asked {
    pub(crate) fn open(url: &str) -> Asked {
        let (store, clock) = open(url);
        Asked { store, clock }
    }

    pub(crate) fn enqueue(&self, task: NewTask) -> Result<Enqueued, Error> {
        let made = wait(|reply| self.store.enqueue(self.clock.now(), vec![task], reply))?;
        Ok(*made[0].as_ref().expect("a good task"))
    }

    pub(crate) fn claim(&self, kind: &str, limit: usize) -> Result<Vec<Lease>, Error> {
        let (types, worker) = (vec![kind.to_owned()], "w".to_owned());
        let claim = Claim { types, limit, lease_ms: None, worker };
        wait(|reply| self.store.claim(self.clock.now(), claim, reply))
    }

    pub(crate) fn complete(&self, token: Token) -> Result<Result<Settled, Refusal>, Error> {
        self.settle(token, Outcome::Complete(b"done".to_vec()))
    }

    pub(crate) fn settle(
        &self,
        token: Token,
        outcome: Outcome,
    ) -> Result<Result<Settled, Refusal>, Error> {
        let settles = vec![Settle { token, outcome }];
        let mut answers = wait(|reply| self.store.settle(self.clock.now(), settles, reply))?;
        Ok(answers.remove(0))
    }
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
