//! The thread that computes handshakes: a step of CURVE takes a tenth of a millisecond or two, and
//! the reactor has better things to do.
//!
//! ```text
//!  reactor ─at most BATCH steps─▶ thread ─run─▶ inbox ─▶ reactor
//! ```
//!
//! What waits beyond a batch waits in the shard, where its number is bounded and where those who
//! came further are first. So a flood of HELLOs costs the reactor what parsing them costs, and the
//! rest is paid by this thread, which gives way to all others.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use engine::ConnId;
use zmtp::{Config, Work};

use crate::inbox::{Command, Inbox};

/// Steps given out at a time: few enough that an urgent one need not wait long behind others.
const BATCH: usize = 16;

type Job = (ConnId, usize, Work);

/// The reactor's end.
pub(crate) struct Handshakes {
    jobs: Sender<Job>,
    /// Steps that were given out and have not come back.
    in_hand: usize,
}

impl Handshakes {
    /// Starts the thread; it ends when this is dropped. `doors` are the shard's.
    pub(crate) fn start(doors: Vec<Config>, inbox: Arc<Inbox>) -> std::io::Result<Handshakes> {
        let (jobs, taken) = channel();
        std::thread::Builder::new()
            .name("handshakes".into())
            .spawn(move || compute(&taken, &doors, &inbox))?;
        Ok(Handshakes { jobs, in_hand: 0 })
    }

    /// Gives out as much as there is room for.
    pub(crate) fn feed(&mut self, mut next: impl FnMut() -> Option<Job>) {
        while self.in_hand < BATCH
            && let Some(job) = next()
        {
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
    for (id, door, work) in jobs {
        let worked = Box::new(work.run(&doors[door], &mut random));
        if inbox.send(Command::Worked { id, worked }).is_err() {
            return;
        }
    }
}
