//! The one way from other threads to the reactor: commands in batches.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use engine::{ConnId, Rights, Span};
use sessions::{Lease, Outcome, ShardConfig};
use tokio::sync::oneshot;
use zmtp::Worked;

use crate::tasks::Answered;
use crate::tls::Stepped;
use crate::view::{Places, Snapshot};

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
        lease: Option<Lease>,
        answer: oneshot::Sender<(ConnId, Outcome)>,
    },
    /// Says another word in the name of a call that holds a lock; `None` if it holds none.
    Again {
        who: Who,
        id: ConnId,
        secret: u128,
        name: Bytes,
        word: Again,
        answer: oneshot::Sender<Option<Outcome>>,
    },
    /// Whoever asked no longer waits.
    HangUp { ticket: u64 },
    /// A picture of at most so many named places of each kind, or of those called `name`.
    Places { name: Option<Bytes>, limit: usize, answer: oneshot::Sender<Places> },
    /// A picture of everything.
    Look { detail: Detail, answer: oneshot::Sender<Snapshot> },
    /// New rules.
    Reload {
        config: Box<ShardConfig>,
        /// What new connections at `tls://` are shown; `None` changes nothing.
        tls: Option<Arc<rustls::ServerConfig>>,
        done: oneshot::Sender<()>,
    },
    /// Whether somebody may administer the house.
    May { who: Who, answer: oneshot::Sender<bool> },
    /// What somebody may do; nothing if nobody knows the name. `None`: too much for its quota. The
    /// question counts against the rate.
    Rights { who: Who, bytes: u64, answer: oneshot::Sender<Option<Rights>> },
    /// Whether a service has workers.
    IsStaffed { service: Bytes, answer: oneshot::Sender<bool> },
    /// Answers to errands.
    Answers(Vec<Answered>),
    /// The broker must not go on: exit with this reason.
    Stop { reason: String },
    /// A step of a handshake was computed.
    Worked { id: ConnId, worked: Box<Worked> },
    /// As above, of TLS.
    Shaken { id: ConnId, stepped: Stepped },
    /// Stop accepting, finish or hand back, then exit.
    Drain,
}

/// What is said under a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Again {
    /// Go on, for another lease as long as this or as the one before.
    Continue(Option<Span>),
    /// It is done, well or not.
    Done(bool),
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
