//! Calls to services from inside the process: HTTP requests, and tasks that the broker carries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use engine::ConnId;
use sessions::{Lease, Outcome};
use tokio::sync::oneshot;

use crate::inbox::{Command, Inbox, Who};

/// The way of calls to the reactor.
pub(crate) struct Calls {
    inbox: Arc<Inbox>,
    tickets: AtomicU64,
}

/// The broker ended before it answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Gone;

impl Calls {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Calls {
        Calls { inbox, tickets: AtomicU64::new(0) }
    }

    /// Calls a service. `body` is frames as they stand on a ZMTP wire, at least one. Whoever stops
    /// waiting withdraws the call.
    ///
    /// # Errors
    /// If the broker ends first.
    pub(crate) async fn call(
        &self,
        who: Who,
        service: Bytes,
        body: Bytes,
        fair_key: Bytes,
    ) -> Result<Outcome, Gone> {
        let called = self.call_and_stay(who, service, body, fair_key, None).await;
        called.map(|(_, outcome)| outcome)
    }

    /// The same; with a lease, a lock it is given outlives the call by so much. The call's own
    /// number comes back with the outcome.
    ///
    /// # Errors
    /// If the broker ends first.
    pub(crate) async fn call_and_stay(
        &self,
        who: Who,
        service: Bytes,
        body: Bytes,
        fair_key: Bytes,
        lease: Option<Lease>,
    ) -> Result<(ConnId, Outcome), Gone> {
        let (answer, outcome) = oneshot::channel();
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let call = Command::Call { who, ticket, service, body, fair_key, lease, answer };
        self.inbox.send(call).map_err(|_| Gone)?;
        let mut line = Line { calls: self, ticket, answered: false };
        let outcome = outcome.await.map_err(|_| Gone);
        line.answered = true;
        outcome
    }
}

/// A call that is under way: whoever asked may leave at any time, and then it is withdrawn.
struct Line<'a> {
    calls: &'a Calls,
    ticket: u64,
    answered: bool,
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // The reactor is gone only when the broker is.
            let _ = self.calls.inbox.send(Command::HangUp { ticket: self.ticket });
        }
    }
}
