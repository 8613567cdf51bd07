//! The one way from other threads to the reactor: commands in batches.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use engine::ConnId;
use sessions::{Outcome, ShardConfig};
use tokio::sync::oneshot;
use zmtp::Worked;

use crate::view::Snapshot;

/// The name of a principal.
pub(crate) type Who = Arc<str>;

/// What other threads may ask of the reactor.
pub(crate) enum Command {
    /// Calls a service; `ticket` names the call for [`Command::HangUp`].
    Call {
        who: Who,
        ticket: u64,
        service: Bytes,
        body: Bytes,
        fair_key: Bytes,
        answer: oneshot::Sender<Outcome>,
    },
    /// Whoever asked no longer waits.
    HangUp { ticket: u64 },
    /// A picture of everything.
    Look { detail: Detail, answer: oneshot::Sender<Snapshot> },
    /// New rules.
    Reload { config: Box<ShardConfig>, done: oneshot::Sender<()> },
    /// Whether somebody may administer the house.
    May { who: Who, answer: oneshot::Sender<bool> },
    /// A step of a handshake was computed.
    Worked { id: ConnId, worked: Box<Worked> },
    /// Stop accepting, finish or hand back, then exit.
    Drain,
}

/// How much of a [`Snapshot`] is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Detail {
    Totals,
    /// At most so many services, and what their workers speak.
    Services(usize),
    /// For metrics: at most so many services.
    Scrape(usize),
    Workers,
}

/// A queue of commands and the bell that wakes the reactor.
pub(crate) struct Inbox {
    commands: Mutex<Vec<Command>>,
    bell: mio::Waker,
}

impl Inbox {
    pub(crate) fn new(bell: mio::Waker) -> Inbox {
        Inbox { commands: Mutex::new(Vec::new()), bell }
    }

    /// Adds a command. The bell rings only for the first of a batch.
    pub(crate) fn send(&self, command: Command) -> io::Result<()> {
        let mut commands = self.commands.lock().unwrap_or_else(|poison| poison.into_inner());
        commands.push(command);
        if commands.len() == 1 { self.bell.wake() } else { Ok(()) }
    }

    /// Everything sent since the last call.
    pub(crate) fn take(&self, into: &mut Vec<Command>) {
        let mut commands = self.commands.lock().unwrap_or_else(|poison| poison.into_inner());
        std::mem::swap(&mut *commands, into);
    }
}
