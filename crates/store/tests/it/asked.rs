//! A store whose every call is waited for.

use store::{
    Claim, Clock, Engine, Enqueued, Error, Lease, NewTask, Outcome, Refusal, Settle, Settled,
    Store, Token, nats, postgres, wait,
};

/// A store, asked and waited for.
pub(crate) struct Asked {
    pub(crate) store: Engine,
    pub(crate) clock: Clock,
}

impl Asked {
    /// `postgres://…` or `nats://…`.
    pub(crate) fn open(url: &str) -> Asked {
        let clock = Clock::new();
        let store = match url.starts_with("nats") {
            true => nats::open(url, &clock, nats::Options::default()).expect("a store").0,
            false => postgres::open(url, &clock, postgres::Options::default()).expect("a store").0,
        };
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
