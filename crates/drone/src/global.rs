//! The global queue as a drone sees it.

use std::sync::Arc;

use store::{
    Claim, Clock, Extend, Extended, Lease, Listener, Refusal, Release, Reply, Settle, Settled,
    Store,
};

/// A shared queue of tasks. Calls return at once and answer through a [`Reply`], on any thread;
/// a queue that cannot be reached answers [`store::Error::Unavailable`].
pub trait Global: Send + Sync + 'static {
    /// What to call it in logs.
    fn name(&self) -> String;

    /// Leases tasks that are ready; answers with none rather than wait.
    fn claim(&self, claim: Claim, reply: Reply<Vec<Lease>>);

    /// Ends attempts; may be repeated.
    fn settle(&self, settles: Vec<Settle>, reply: Reply<Vec<Result<Settled, Refusal>>>);

    /// Holds leases for longer.
    fn extend(&self, extends: Vec<Extend>, reply: Reply<Vec<Result<Extended, Refusal>>>);

    /// Gives leases back unworked.
    fn release(&self, releases: Vec<Release>, reply: Reply<Vec<Result<(), Refusal>>>);

    /// Who is told that there is work, or that work was cancelled. Hints: the drone also polls.
    fn notify(&self, listener: Listener);
}

/// A store that this process has open.
#[derive(Clone)]
pub struct Direct {
    store: Arc<dyn Store>,
    clock: Clock,
}

impl Direct {
    /// `clock` is the one the store was opened with.
    pub fn new(store: Arc<dyn Store>, clock: Clock) -> Direct {
        Direct { store, clock }
    }
}

impl Global for Direct {
    fn name(&self) -> String {
        self.store.capabilities().engine.into()
    }

    fn claim(&self, claim: Claim, reply: Reply<Vec<Lease>>) {
        self.store.claim(self.clock.now(), claim, reply);
    }

    fn settle(&self, settles: Vec<Settle>, reply: Reply<Vec<Result<Settled, Refusal>>>) {
        self.store.settle(self.clock.now(), settles, reply);
    }

    fn extend(&self, extends: Vec<Extend>, reply: Reply<Vec<Result<Extended, Refusal>>>) {
        self.store.extend(self.clock.now(), extends, reply);
    }

    fn release(&self, releases: Vec<Release>, reply: Reply<Vec<Result<(), Refusal>>>) {
        self.store.release(self.clock.now(), releases, reply);
    }

    fn notify(&self, listener: Listener) {
        self.store.notify(listener);
    }
}
