//! The load itself: everybody on one thread that sleeps until the next moment at which somebody
//! has something to do, to the nanosecond as far as the kernel can.

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zmtp::{Security, put_frame};

use super::ledger::Ledger;
use crate::bench::link::Link;
use crate::chance::Chance;

/// What comes, and who serves it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) workers: u32,
    pub(super) clients: u32,
    /// Requests that come, as a multiple of the capacity.
    pub(super) factor: f64,
    /// How long they come.
    pub(super) lasts: Duration,
    /// How long one is worked on.
    pub(super) takes: Duration,
    /// How long a client waits.
    pub(super) patience: Duration,
}

impl Shape {
    /// Requests per second that keep every worker busy.
    pub(super) fn capacity(&self) -> f64 {
        f64::from(self.workers) / self.takes.as_secs_f64()
    }

    /// Requests per second that come.
    pub(super) fn rate(&self) -> f64 {
        self.capacity() * self.factor
    }
}

/// Runs it until every request has ended, or its client has given up.
///
/// # Errors
/// If the broker cannot be reached, never completes the handshakes, or hangs up.
pub(super) fn run(
    broker: SocketAddr,
    security: &Security,
    service: Vec<u8>,
    shape: &Shape,
    progress: bool,
) -> io::Result<Ledger> {
    // Sleeps end when they should, not 50 us later; without it the load is only less exact.
    let _ = rustix::thread::set_current_timer_slack(NonZero::new(1));
    let links = (0..shape.workers + shape.clients).map(|_| Link::connect(broker, security));
    let mut rush = Rush {
        links: links.collect::<io::Result<_>>()?,
        workers: (0..shape.workers).map(|_| Worker::default()).collect(),
        service,
        takes: nanos(shape.takes),
        ledger: Ledger::new(nanos(shape.lasts), nanos(shape.patience)),
        start: Instant::now(),
        now: 0,
    };
    rush.shake_hands()?;
    rush.last(shape, progress)?;
    rush.say_goodbye();
    rush.ledger.settle();
    Ok(rush.ledger)
}

/// All connections, and what is going on.
struct Rush {
    /// The workers' first, then the clients'.
    links: Vec<Link>,
    workers: Vec<Worker>,
    service: Vec<u8>,
    /// How long a request is worked on, in nanoseconds.
    takes: u64,
    ledger: Ledger,
    start: Instant,
    /// Nanoseconds from the start to this turn.
    now: u64,
}

#[derive(Default)]
struct Worker {
    /// It has told the broker what it serves.
    offered: bool,
    job: Option<Job>,
}

/// A request in a worker's hands.
struct Job {
    since: u64,
    /// The address the reply goes to.
    client: Vec<u8>,
    body: Vec<u8>,
}

impl Rush {
    /// Until every worker has offered itself, and a moment longer, so that the broker has heard it.
    fn shake_hands(&mut self) -> io::Result<()> {
        self.restart();
        let mut settled = None;
        while settled.is_none_or(|at| self.now < at) {
            if self.now > nanos(PATIENCE) {
                return Err(io::Error::other("the broker does not finish the handshakes"));
            }
            self.wait_until(self.now + nanos(SETTLE) / 10)?;
            let Rush { links, workers, service, .. } = self;
            for (worker, link) in workers.iter_mut().zip(links) {
                if link.is_ready() && !worker.offered {
                    worker.offer(service, link.out());
                }
            }
            self.flush()?;
            if settled.is_none() && self.links.iter().all(Link::is_ready) {
                settled = Some(self.now + nanos(SETTLE));
            }
        }
        Ok(())
    }

    /// The load, from its first request to the end of the last client's patience.
    fn last(&mut self, shape: &Shape, progress: bool) -> io::Result<()> {
        let mut chance = Chance::new(SEED, 0);
        let gap = 1e9 / shape.rate();
        let mut next_gap = || (gap * chance.exponential()) as u64;
        let (end, patience) = (nanos(shape.lasts), nanos(shape.patience));
        self.restart();
        let (mut next, mut beat, mut line) = (next_gap(), nanos(HEARTBEAT), 0);
        while self.now < end || (self.now <= end + patience && self.ledger.outstanding() > 0) {
            while next <= self.now.min(end) {
                self.ask(next);
                next += next_gap();
            }
            let wake = match (next <= end, self.now < end) {
                (true, _) => next,
                (false, true) => end,
                (false, false) => end + patience + 1,
            };
            let wake = wake.min(self.end_work());
            if beat <= self.now {
                beat += nanos(HEARTBEAT);
                self.beat();
            }
            self.flush()?;
            if progress && self.now >= line {
                line += nanos(PROGRESS);
                eprint!("\r{} % ", (self.now * 100 / (end + patience)).min(100));
            }
            self.wait_until(wake.min(beat))?;
        }
        if progress {
            eprint!("\r\x1b[K");
        }
        Ok(())
    }

    fn restart(&mut self) {
        (self.start, self.now) = (Instant::now(), 0);
    }

    /// One client after the other sends a request; its number is its body.
    fn ask(&mut self, due: u64) {
        let number = self.ledger.send(due);
        let clients = self.workers.len()..self.links.len();
        let client = clients.start + (number as usize) % clients.len();
        let out = self.links[client].out();
        put_frame(out, true, b"");
        put_frame(out, true, CLIENT);
        put_frame(out, true, &self.service);
        put_frame(out, false, &number.to_le_bytes());
    }

    /// Workers whose work is done reply; says when the next one will be.
    fn end_work(&mut self) -> u64 {
        let mut next = u64::MAX;
        for (worker, link) in self.workers.iter_mut().zip(&mut self.links) {
            let Some(job) = &worker.job else { continue };
            if job.since + self.takes > self.now {
                next = next.min(job.since + self.takes);
                continue;
            }
            self.ledger.work(self.now - job.since);
            put_word(link.out(), REPLY, true);
            put_frame(link.out(), true, &job.client);
            put_frame(link.out(), true, b"");
            put_frame(link.out(), false, &job.body);
            worker.job = None;
        }
        next
    }

    /// Brokers forget workers that say nothing.
    fn beat(&mut self) {
        for link in &mut self.links[..self.workers.len()] {
            put_word(link.out(), HEARTBEAT_WORD, false);
        }
    }

    fn say_goodbye(&mut self) {
        for link in &mut self.links[..self.workers.len()] {
            put_word(link.out(), DISCONNECT, false);
            // The run is over; a broker that is gone needs no goodbye.
            let _ = link.flush();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.links.iter_mut().filter(|link| link.is_behind()).try_for_each(Link::flush)
    }

    /// Sleeps until somebody sent something or it is time, then takes in all that came.
    fn wait_until(&mut self, wake: u64) -> io::Result<()> {
        let span = Duration::from_nanos(wake).saturating_sub(self.start.elapsed());
        let timeout =
            Timespec { tv_sec: span.as_secs() as i64, tv_nsec: span.subsec_nanos().into() };
        let interest = |link: &Link| match link.is_behind() {
            true => PollFlags::IN | PollFlags::OUT,
            false => PollFlags::IN,
        };
        let mut fds: Vec<PollFd<'_>> =
            self.links.iter().map(|link| PollFd::new(link, interest(link))).collect();
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let ready = fds.iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty());
        let ready: Vec<usize> = ready.map(|(place, _)| place).collect();
        self.now = self.start.elapsed().as_nanos() as u64;
        let Rush { links, workers, service, ledger, now, .. } = self;
        for place in ready {
            match workers.get_mut(place) {
                Some(worker) => links[place].read(|frames, out| {
                    if !worker.on_message(*now, service, frames, out) {
                        ledger.bad += 1;
                    }
                })?,
                None => links[place].read(|frames, _| on_answer(ledger, *now, frames))?,
            }
        }
        Ok(())
    }
}

impl Worker {
    fn offer(&mut self, service: &[u8], out: &mut Vec<u8>) {
        self.offered = true;
        put_word(out, READY, true);
        put_frame(out, false, service);
    }

    /// Whether the message makes sense.
    fn on_message(
        &mut self,
        now: u64,
        service: &[u8],
        frames: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> bool {
        match frames {
            [b"", WORKER, REQUEST, client, b"", body] if self.job.is_none() => {
                let (client, body) = (client.to_vec(), body.to_vec());
                self.job = Some(Job { since: now, client, body });
            }
            [b"", WORKER, HEARTBEAT_WORD] => {}
            // The broker has forgotten it: it introduces itself again.
            [b"", WORKER, DISCONNECT] => self.offer(service, out),
            _ => return false,
        }
        true
    }
}

fn on_answer(ledger: &mut Ledger, now: u64, frames: &[&[u8]]) {
    match frames {
        [b"", CLIENT, _, sessions::REFUSED, _] => ledger.refuse(now),
        [b"", CLIENT, _, body] => match body.as_array::<8>() {
            Some(number) => ledger.answer(now, u64::from_le_bytes(*number)),
            None => ledger.bad += 1,
        },
        _ => ledger.bad += 1,
    }
}

/// What every message of a worker begins with.
fn put_word(out: &mut Vec<u8>, word: &[u8], more: bool) {
    put_frame(out, true, b"");
    put_frame(out, true, WORKER);
    put_frame(out, more, word);
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// MDP/0.1 (RFC 7).
const CLIENT: &[u8] = b"MDPC01";
const WORKER: &[u8] = b"MDPW01";
const READY: &[u8] = b"\x01";
const REQUEST: &[u8] = b"\x02";
const REPLY: &[u8] = b"\x03";
const HEARTBEAT_WORD: &[u8] = b"\x04";
const DISCONNECT: &[u8] = b"\x05";

/// Of the arrivals: every broker gets the same.
const SEED: u64 = 1;
/// From the last handshake to the first request.
const SETTLE: Duration = Duration::from_millis(300);
/// Within which the handshakes are done.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two signs of life of a worker: brokers give up on them after some seconds.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_millis(250);
