//! Raw load: clients and echo workers on one thread, without a client library.
//!
//! It makes the mirror image of the broker's system calls with next to no logic, so that the
//! broker's CPU per request divided by its own is the distance to the limit. It therefore knows no
//! reconnects and no timers; what goes wrong ends the run.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use zmtp::{Config, Connection, Event, Security, SocketType, Step};

use super::words::Words;

/// One run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Shape {
    pub(super) requests: u32,
    /// In flight over all clients.
    pub(super) window: u32,
    pub(super) body: u32,
    pub(super) clients: u32,
    pub(super) workers: u32,
    /// Requests a worker takes at a time.
    pub(super) concurrency: u32,
}

/// Where the broker is, and how to speak there.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    /// For clients.
    pub(super) front: SocketAddr,
    /// For workers.
    pub(super) back: SocketAddr,
    pub(super) words: Words,
    pub(super) security: Security,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Measured {
    pub(super) seconds: f64,
    pub(super) rate: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    /// User and system time of this process.
    pub(super) load_cpu_us_per_request: f64,
    /// The same of the broker, if its process id is known.
    pub(super) broker_cpu_us_per_request: Option<f64>,
    /// Messages that should not have come, or not so.
    pub(super) bad: u64,
    /// Requests without an answer.
    pub(super) lost: u64,
}

/// Runs one scenario.
///
/// # Errors
/// If the broker cannot be reached, closes a connection, or never completes the handshakes.
pub(super) fn run(
    ends: &Ends,
    name: &str,
    shape: &Shape,
    broker_pid: Option<u32>,
    progress: bool,
) -> io::Result<Measured> {
    // A name of this run's own: nobody else's workers answer.
    let service = format!("{name}-{:x}", std::process::id());
    let mut load = Load::connect(ends, service.into_bytes(), *shape)?;
    load.shake_hands()?;
    load.measure(name, broker_pid, progress)
}

/// All connections, and what was counted.
struct Load {
    poll: Poll,
    /// The workers first, then the clients.
    peers: Vec<Peer>,
    tally: Tally,
}

/// What does not belong to one connection.
struct Tally {
    shape: Shape,
    words: Words,
    service: Vec<u8>,
    /// The body of the next request.
    body: Vec<u8>,
    start: Instant,
    /// Nanoseconds from the start to the last look at the clock, and to the last answer.
    now: u64,
    last_answer: u64,
    sent: u32,
    /// Connections that finished the handshake.
    ready: usize,
    bad: u64,
    /// By the request's number; `UNANSWERED` until it is.
    latencies_ns: Vec<u64>,
    answered: u32,
}

/// One connection.
struct Peer {
    stream: TcpStream,
    is_worker: bool,
    /// Which client, for the check that answers reach who asked.
    number: u32,
    greeted: bool,
    ready: bool,
    /// `input[start..end]` is not consumed yet; the rest is room.
    input: Vec<u8>,
    start: usize,
    end: usize,
    out: Vec<u8>,
    /// Bytes of `out`, or of what was sealed of it, already written.
    written: usize,
    /// If it proves who it is.
    secure: Option<Box<Secure>>,
}

/// What a connection needs beside, when it speaks more than NULL.
struct Secure {
    config: Config,
    zmtp: Connection,
    frames: zmtp::Frames,
    sealed: Vec<u8>,
}

impl Secure {
    fn new(security: &Security, out: &mut Vec<u8>) -> Secure {
        let mut config = Config::new(SocketType::Dealer);
        config.security = security.clone();
        let zmtp = Connection::new(&config, out);
        Secure { config, zmtp, frames: zmtp::Frames::default(), sealed: Vec::new() }
    }
}

impl Load {
    fn connect(ends: &Ends, service: Vec<u8>, shape: Shape) -> io::Result<Load> {
        let poll = Poll::new()?;
        let mut peers = Vec::new();
        for i in 0..shape.workers + shape.clients {
            let (is_worker, number) = (i < shape.workers, i.saturating_sub(shape.workers));
            let address = if is_worker { ends.back } else { ends.front };
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(i as usize), interest)?;
            let mut peer = Peer::new(stream, is_worker, number);
            if let Security::Null = ends.security {
                peer.out.extend_from_slice(&GREETING);
                peer.out.extend_from_slice(READY);
            } else {
                peer.secure = Some(Box::new(Secure::new(&ends.security, &mut peer.out)));
            }
            peer.flush()?;
            peers.push(peer);
        }
        let tally = Tally {
            shape,
            words: ends.words,
            service,
            body: vec![0; shape.body as usize],
            start: Instant::now(),
            now: 0,
            last_answer: 0,
            sent: 0,
            ready: 0,
            bad: 0,
            latencies_ns: vec![UNANSWERED; shape.requests as usize],
            answered: 0,
        };
        Ok(Load { poll, peers, tally })
    }

    /// Until every worker has said READY, and a moment longer, so that the broker has heard it.
    fn shake_hands(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let start = Instant::now();
        while self.tally.ready < self.peers.len() || start.elapsed() < SETTLE {
            if start.elapsed() > PATIENCE {
                return Err(io::Error::other("the broker does not finish the handshakes"));
            }
            self.turn(&mut events, SETTLE)?;
        }
        Ok(())
    }

    fn measure(&mut self, name: &str, pid: Option<u32>, progress: bool) -> io::Result<Measured> {
        let mut events = Events::with_capacity(EVENTS);
        let cpu = Cpu::read(pid)?;
        self.tally.start = Instant::now();
        self.tally.now = 0;
        let clients = self.tally.shape.workers as usize..self.peers.len();
        for i in clients.clone().cycle().take(self.tally.shape.window as usize) {
            self.tally.ask(&mut self.peers[i]);
        }
        for peer in &mut self.peers[clients] {
            peer.flush()?;
        }
        let mut last_line = 0;
        while self.tally.answered < self.tally.shape.requests
            && self.tally.now - self.tally.last_answer < PATIENCE.as_nanos() as u64
        {
            self.turn(&mut events, Duration::from_millis(100))?;
            if progress && self.tally.now - last_line > PROGRESS.as_nanos() as u64 {
                last_line = self.tally.now;
                let percent =
                    u64::from(self.tally.answered) * 100 / u64::from(self.tally.shape.requests);
                eprint!("\r{name}: {percent} % ");
            }
        }
        let elapsed = self.tally.start.elapsed();
        let cpu = Cpu::read(pid)?.since(cpu);
        if progress {
            eprint!("\r\x1b[K");
        }
        self.say_goodbye();
        Ok(self.tally.sum_up(elapsed, cpu))
    }

    /// Serves whoever is ready.
    fn turn(&mut self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        if events.is_empty() {
            self.tally.look_at_clock();
        }
        for event in &*events {
            let peer = &mut self.peers[event.token().0];
            loop {
                let more = peer.fill()?;
                self.tally.look_at_clock();
                peer.consume(&mut self.tally)?;
                if !more {
                    break;
                }
            }
            peer.flush()?;
        }
        Ok(())
    }

    fn say_goodbye(&mut self) {
        for peer in self.peers.iter_mut().filter(|peer| peer.is_worker) {
            self.tally.words.leave(&mut peer.out);
            // The run is over; a broker that is gone needs no goodbye.
            let _ = peer.flush();
        }
    }
}

impl Peer {
    fn new(stream: TcpStream, is_worker: bool, number: u32) -> Peer {
        Peer {
            stream,
            is_worker,
            number,
            greeted: false,
            ready: false,
            input: vec![0; 2 * ROOM],
            start: 0,
            end: 0,
            out: Vec::new(),
            written: 0,
            secure: None,
        }
    }

    /// Reads once; whether there may be more.
    fn fill(&mut self) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.input.len() - self.end < ROOM {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.input.len() - self.end < ROOM {
                self.input.resize(self.input.len() * 2, 0);
            }
        }
        let room = self.input.len() - self.end;
        match self.stream.read(&mut self.input[self.end..]) {
            Ok(0) => {
                let who = if self.is_worker { "worker" } else { "client" };
                Err(io::Error::other(format!("the broker closed the connection of a {who}")))
            }
            Ok(n) => {
                self.end += n;
                Ok(n == room)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Takes in every whole message.
    fn consume(&mut self, tally: &mut Tally) -> io::Result<()> {
        if let Some(mut secure) = self.secure.take() {
            let consumed = self.consume_secure(&mut secure, tally);
            self.secure = Some(secure);
            return consumed;
        }
        let input = std::mem::take(&mut self.input);
        let mut frames: Frames<'_> = [&[]; FRAMES];
        let (mut count, mut at) = (0, self.start);
        if !self.greeted && self.end - at >= GREETING.len() {
            self.greeted = true;
            at += GREETING.len();
            self.start = at;
        }
        while self.greeted
            && let Some((flags, payload, next)) = read_frame(&input[..self.end], at)
        {
            at = next;
            if flags & COMMAND != 0 {
                self.on_command(tally, payload);
                if count == 0 {
                    self.start = at;
                }
                continue;
            }
            if count < FRAMES {
                frames[count] = payload;
                count += 1;
            }
            if flags & MORE == 0 {
                self.on_message(tally, &frames[..count]);
                count = 0;
                self.start = at;
            }
        }
        self.input = input;
        Ok(())
    }

    /// The same through the codec.
    fn consume_secure(&mut self, secure: &mut Secure, tally: &mut Tally) -> io::Result<()> {
        let Secure { config, zmtp, frames, .. } = secure;
        let broken = |error: zmtp::Error| io::Error::other(error.to_string());
        let mut input = std::mem::take(&mut self.input);
        while self.start < self.end {
            let bytes = &mut input[self.start..self.end];
            let event = match zmtp.next(config, bytes, frames, &mut self.out).map_err(broken)? {
                Step::More { .. } => break,
                Step::Skip { len, event } => {
                    self.start += len;
                    event
                }
                Step::Cut { len, event } => {
                    self.end -= len;
                    event
                }
                Step::Message { len } => {
                    let message = frames.view(&input[self.start..self.start + len]);
                    let mut parts: Frames<'_> = [&[]; FRAMES];
                    let count = message.len().min(FRAMES);
                    for (i, part) in parts[..count].iter_mut().enumerate() {
                        *part = message.frame(i).unwrap_or_default();
                    }
                    self.on_message(tally, &parts[..count]);
                    self.start += len;
                    None
                }
            };
            if event == Some(Event::Work) {
                let random = &mut |octets: &mut [u8]| {
                    getrandom::fill(octets).expect("the system has randomness once it has booted");
                };
                zmtp.work(config, random, &mut self.out).map_err(broken)?;
            } else if event == Some(Event::Ready) {
                self.ready = true;
                tally.ready += 1;
                if self.is_worker {
                    self.offer(tally);
                }
            }
        }
        self.input = input;
        Ok(())
    }

    #[cold]
    fn on_command(&mut self, tally: &mut Tally, payload: &[u8]) {
        if payload.starts_with(b"\x05READY") && !self.ready {
            self.ready = true;
            tally.ready += 1;
            if self.is_worker {
                self.offer(tally);
            }
        } else if let Some(ping) = payload.strip_prefix(b"\x04PING") {
            // Two octets of TTL, then the context, which a PONG gives back.
            let context = &ping[ping.len().min(2)..ping.len().min(2 + 16)];
            self.out.extend_from_slice(&[COMMAND, 5 + context.len() as u8]);
            self.out.extend_from_slice(b"\x04PONG");
            self.out.extend_from_slice(context);
        } else if !payload.starts_with(b"\x04PONG") {
            tally.bad += 1;
        }
    }

    fn offer(&mut self, tally: &Tally) {
        tally.words.offer(&mut self.out, &tally.service, tally.shape.concurrency);
    }

    fn on_message(&mut self, tally: &mut Tally, frames: &[&[u8]]) {
        if !self.is_worker {
            tally.on_answer(self, frames);
            return;
        }
        tally.bad += u64::from(!tally.words.serve(&mut self.out, frames));
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut out = &mut self.out;
        if let Some(secure) = self.secure.as_deref_mut().filter(|secure| secure.zmtp.is_sealed()) {
            secure.zmtp.seal(out, &mut secure.sealed);
            out.clear();
            out = &mut secure.sealed;
        }
        while self.written < out.len() {
            match self.stream.write(&out[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        out.clear();
        self.written = 0;
        Ok(())
    }
}

impl Tally {
    fn look_at_clock(&mut self) {
        self.now = self.start.elapsed().as_nanos() as u64;
    }

    /// The next request, if any is left. The body carries when it was sent, its number and who
    /// asked.
    fn ask(&mut self, client: &mut Peer) {
        if self.sent == self.shape.requests {
            return;
        }
        self.body[..8].copy_from_slice(&self.now.to_le_bytes());
        self.body[8..12].copy_from_slice(&self.sent.to_le_bytes());
        self.body[12..16].copy_from_slice(&client.number.to_le_bytes());
        self.sent += 1;
        self.words.ask(&mut client.out, &self.service, &self.body);
    }

    fn on_answer(&mut self, client: &mut Peer, frames: &[&[u8]]) {
        let Some(body) = self.words.answer(&self.service, frames) else {
            self.bad += 1;
            return;
        };
        let whole = body.len() == self.body.len();
        let (sent_at, rest) = body.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        let (number, rest) = rest.split_first_chunk::<4>().unwrap_or((&[0xFF; 4], &[]));
        let own = rest.starts_with(&client.number.to_le_bytes());
        match self.latencies_ns.get_mut(u32::from_le_bytes(*number) as usize) {
            Some(latency) if whole && own && *latency == UNANSWERED => {
                *latency = self.now.saturating_sub(u64::from_le_bytes(*sent_at));
            }
            Some(_) | None => {
                self.bad += 1;
                return;
            }
        }
        self.answered += 1;
        self.last_answer = self.now;
        self.ask(client);
    }

    fn sum_up(&mut self, elapsed: Duration, cpu: Cpu) -> Measured {
        // Those without an answer stand at the end.
        self.latencies_ns.sort_unstable();
        let answered = self.answered as usize;
        let share = |per_mille: usize| match answered {
            0 => 0.0,
            _ => self.latencies_ns[(answered * per_mille / 1_000).min(answered - 1)] as f64 / 1e3,
        };
        let seconds = elapsed.as_secs_f64();
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / f64::from(self.answered.max(1));
        Measured {
            seconds,
            rate: f64::from(self.answered) / seconds,
            p50_us: share(500),
            p99_us: share(990),
            p999_us: share(999),
            load_cpu_us_per_request: each(cpu.own),
            broker_cpu_us_per_request: cpu.broker.map(each),
            bad: self.bad,
            lost: u64::from(self.shape.requests - self.answered),
        }
    }
}

type Frames<'a> = [&'a [u8]; FRAMES];

/// Flags, payload and end of the frame that starts at `at`, if all of it is there.
#[inline]
fn read_frame(input: &[u8], at: usize) -> Option<(u8, &[u8], usize)> {
    let flags = *input.get(at)?;
    let (start, len) = if flags & LONG == 0 {
        (at + 2, usize::from(*input.get(at + 1)?))
    } else {
        let len = input.get(at + 1..at + 9)?.try_into().map(u64::from_be_bytes).ok()?;
        (at + 9, len as usize)
    };
    let end = start.checked_add(len)?;
    Some((flags, input.get(start..end)?, end))
}

/// CPU time spent so far.
#[derive(Clone, Copy)]
struct Cpu {
    own: Duration,
    broker: Option<Duration>,
}

impl Cpu {
    fn read(broker_pid: Option<u32>) -> io::Result<Cpu> {
        let own = clock_gettime(ClockId::ProcessCPUTime);
        let own = Duration::new(own.tv_sec as u64, own.tv_nsec as u32);
        Ok(Cpu { own, broker: broker_pid.map(cpu_of).transpose()? })
    }

    fn since(self, before: Cpu) -> Cpu {
        let broker = self.broker.zip(before.broker);
        Cpu {
            own: self.own.saturating_sub(before.own),
            broker: broker.map(|(after, before)| after.saturating_sub(before)),
        }
    }
}

/// User and system time of all threads of a process, in nanoseconds where `/proc/PID/stat` counts
/// ticks.
fn cpu_of(pid: u32) -> io::Result<Duration> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let spent = text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
        nanos += spent.ok_or_else(|| io::Error::other("the kernel keeps no schedstat"))?;
    }
    Ok(Duration::from_nanos(nanos))
}

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// ZMTP 3.1, NULL.
const GREETING: [u8; 64] = {
    let mut greeting = [0; 64];
    greeting[0] = 0xFF;
    greeting[9] = 0x7F;
    greeting[10] = 3;
    greeting[11] = 1;
    [greeting[12], greeting[13], greeting[14], greeting[15]] = *b"NULL";
    greeting
};
const READY: &[u8] = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER";

/// Frames of a message that are looked at; more than any that is expected.
const FRAMES: usize = 8;
/// Room for one read, at least.
const ROOM: usize = 64 * 1024;
const EVENTS: usize = 256;
const UNANSWERED: u64 = u64::MAX;
/// From the last handshake to the first request, at least.
const SETTLE: Duration = Duration::from_millis(300);
/// Silence after which the broker is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_millis(250);
