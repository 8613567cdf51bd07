//! The thread that computes handshakes: a step of CURVE or TLS takes a tenth of a millisecond or
//! two, and the reactor has better things to do.
//!
//! ```text
//!  reactor ─at most BATCH steps─▶ thread ─run─▶ inbox ─▶ reactor
//! ```
//!
//! What waits beyond a batch waits in the shard, or here if it is of TLS, where its number is
//! bounded and where those who came further are first. So a flood of HELLOs costs the reactor what
//! parsing them costs, and the rest is paid by this thread, which gives way to all others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use engine::ConnId;
use zmtp::{Config, Work};

use crate::inbox::{Command, Inbox};
use crate::tls::Step;

/// Steps given out at a time: few enough that an urgent one need not wait long behind others.
const BATCH: usize = 16;

enum Job {
    /// A step of CURVE, and the place of its door.
    Zmtp(ConnId, usize, Work),
    Tls(ConnId, Step),
}

/// The reactor's end.
pub(crate) struct Handshakes {
    jobs: Sender<Job>,
    /// Steps that were given out and have not come back.
    in_hand: usize,
    /// Steps of TLS that wait.
    tls: VecDeque<(ConnId, Step)>,
    /// Connections that ended in a handshake of TLS, since their steps were last looked for.
    abandoned: usize,
    /// Whose turn it is where both wait.
    tls_next: bool,
}

impl Handshakes {
    /// Starts the thread; it ends when this is dropped. `doors` are the shard's.
    pub(crate) fn start(doors: Vec<Config>, inbox: Arc<Inbox>) -> std::io::Result<Handshakes> {
        let (jobs, taken) = channel();
        std::thread::Builder::new()
            .name("handshakes".into())
            .spawn(move || compute(&taken, &doors, &inbox))?;
        let tls = VecDeque::new();
        Ok(Handshakes { jobs, in_hand: 0, tls, abandoned: 0, tls_next: false })
    }

    /// Keeps a step of TLS until there is room; `false` if `most` wait already. `is_there`: whether
    /// a connection is still open.
    pub(crate) fn push(
        &mut self,
        id: ConnId,
        step: Step,
        most: usize,
        is_there: impl Fn(ConnId) -> bool,
    ) -> bool {
        // As the shard does it: who left takes no place, and is looked for only now and then.
        if self.tls.len() >= most && self.abandoned >= most.div_ceil(2) {
            self.abandoned = 0;
            self.tls.retain(|(id, _)| is_there(*id));
        }
        if self.tls.len() >= most {
            return false;
        }
        if step.is_urgent() {
            self.tls.push_front((id, step));
        } else {
            self.tls.push_back((id, step));
        }
        true
    }

    /// A connection ended in a handshake of TLS.
    pub(crate) fn abandon(&mut self) {
        self.abandoned += 1;
    }

    /// Gives out as much as there is room for, of TLS and of ZMTP in turns. `is_there`: whether a
    /// connection is still open.
    pub(crate) fn feed(
        &mut self,
        mut next: impl FnMut() -> Option<(ConnId, usize, Work)>,
        is_there: impl Fn(ConnId) -> bool,
    ) {
        while self.in_hand < BATCH {
            self.tls_next = !self.tls_next;
            let tls = |queue: &mut VecDeque<(ConnId, Step)>| {
                let found = std::iter::from_fn(|| queue.pop_front()).find(|(id, _)| is_there(*id));
                found.map(|(id, step)| Job::Tls(id, step))
            };
            let mut zmtp = || next().map(|(id, door, work)| Job::Zmtp(id, door, work));
            let job = if self.tls_next {
                tls(&mut self.tls).or_else(zmtp)
            } else {
                zmtp().or_else(|| tls(&mut self.tls))
            };
            let Some(job) = job else { return };
            self.in_hand += 1;
            // The thread ends after this, unless it panicked, and then its connections time out.
            if self.jobs.send(job).is_err() {
                tracing::error!("the thread that computes handshakes is gone");
            }
        }
    }

    /// One came back.
    pub(crate) fn came_back(&mut self) {
        self.in_hand -= 1;
    }
}

fn compute(jobs: &Receiver<Job>, doors: &[Config], inbox: &Inbox) {
    // Who is already in comes first. It is only a wish.
    let _ = rustix::process::nice(5);
    let mut random = |octets: &mut [u8]| {
        getrandom::fill(octets).expect("the system has randomness once it has booted");
    };
    for job in jobs {
        let done = match job {
            Job::Zmtp(id, door, work) => {
                let worked = Box::new(work.run(&doors[door], &mut random));
                Command::Worked { id, worked }
            }
            Job::Tls(id, step) => Command::Shaken { id, stepped: step.run() },
        };
        if inbox.send(done).is_err() {
            return;
        }
    }
}
