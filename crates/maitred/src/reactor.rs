//! The reactor: one thread that owns the sockets and the shard.
//!
//! A turn, in this order:
//! 1. wait for readiness, the bell, or the shard's deadline;
//! 2. read the clock once;
//! 3. take commands, accept connections;
//! 4. read each ready connection once (at most one buffer each, so that nobody starves);
//! 5. let the shard do what is due;
//! 6. flush each touched connection once, close what is to be closed, hand out the outcomes of
//!    local calls, until that leaves nothing more to do;
//! 7. write the log.
//!
//! Readiness is edge-triggered: a connection stays in `ready` until a read came up short.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{ConnId, Rights, Time};
use mio::{Events, Interest, Poll, Token};
use sessions::{Call, CloseReason, Dialect, Errand, Note, Outcome, Shard, Want};
use tokio::sync::oneshot;

use crate::goodbye::Goodbyes;
use crate::handshakes::Handshakes;
use crate::inbox::{Again, Command, Detail, Inbox};
use crate::tasks::{Answered, Denial, Desk};
use crate::transport::{Listener, Stream};
use crate::view::{self, Clock, Snapshot, Traffic};

mod tls;

/// Read by all connections in turn; one read is at most this long.
const READ_BUFFER: usize = 128 * 1024;
/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 256;
/// After the process ran out of descriptors, accept again this much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pieces written by one system call.
const PIECES: usize = 32;
/// How long goodbyes may take when the broker ends.
const GOODBYE: Duration = Duration::from_millis(500);
/// After a turn with a single event, look this long for the next before going to sleep: a peer that
/// makes one call at a time answers within it, and waking up costs more than looking.
const SPIN: Duration = Duration::from_micros(50);

const BELL: Token = Token(0);
const FIRST_LISTENER: usize = 1;
const FIRST_CONNECTION: usize = 1 << 16;

/// A socket and what is known of its readiness.
struct Socket {
    id: ConnId,
    stream: Stream,
    /// There may be more to read.
    readable: bool,
    /// The peer closed its side, or the connection broke: no further edge will come, so it is read
    /// to its end whatever the length of a read.
    ending: bool,
    /// It is in `ready`.
    queued: bool,
    /// The last write did not take everything.
    blocked: bool,
}

/// Who waits for the outcome of a call.
enum Caller {
    /// Whoever made it, and its ticket.
    Call(u64, oneshot::Sender<(ConnId, Outcome)>),
    /// Whoever said another word in its name.
    Again(oneshot::Sender<Option<Outcome>>),
}

/// What the reactor is made of.
pub(crate) struct Reactor {
    poll: Poll,
    inbox: Arc<Inbox>,
    clock: Clock,
    shard: Shard,
    listeners: Vec<(Listener, Dialect)>,
    /// What connections at `tls://` are shown from here on; if there are such listeners.
    tls: Option<Arc<rustls::ServerConfig>>,
    /// If there are handshakes that take long.
    handshakes: Option<Handshakes>,
    /// By the slot of their id.
    sockets: Vec<Option<Socket>>,
    goodbyes: Goodbyes,
    /// Connections to read in this turn or the next.
    ready: VecDeque<ConnId>,
    buffer: Box<[u8]>,
    /// Who takes the errands to the task store, if there is one.
    desk: Option<Arc<Desk>>,
    /// Why there is none.
    no_desk: String,
    /// Errands that are not answered yet.
    errands: usize,
    /// Why the broker must not go on.
    stop: Option<String>,
    calls: HashMap<ConnId, Caller>,
    call_by_ticket: HashMap<u64, ConnId>,
    traffic: Traffic,
    /// When listeners that ran out of descriptors are tried again.
    accept_again: Option<Instant>,
    drain_timeout: Duration,
    drain_until: Option<Instant>,
    drained: bool,
    scratch: Scratch,
}

/// Lists reused from turn to turn.
#[derive(Default)]
struct Scratch {
    ids: Vec<ConnId>,
    outcomes: Vec<(ConnId, Outcome)>,
    commands: Vec<Command>,
    errands: Vec<Errand>,
}

impl Reactor {
    /// A reactor on listeners that are already bound.
    pub(crate) fn new(
        shard: Shard,
        clock: Clock,
        mut listeners: Vec<(Listener, Dialect)>,
        tls: Option<Arc<rustls::ServerConfig>>,
        drain_timeout: Duration,
    ) -> io::Result<Reactor> {
        let poll = Poll::new()?;
        let inbox = Arc::new(Inbox::new(mio::Waker::new(poll.registry(), BELL)?));
        for (i, (listener, _)) in listeners.iter_mut().enumerate() {
            let token = Token(FIRST_LISTENER + i);
            poll.registry().register(listener, token, Interest::READABLE)?;
        }
        let doors = shard.doors().to_vec();
        let handshakes = listeners
            .iter()
            .any(|(listener, dialect)| {
                let door = doors.get(usize::from(dialect.door));
                listener.is_tls()
                    || door.is_some_and(|door| door.security.mechanism() == zmtp::Mechanism::Curve)
            })
            .then(|| Handshakes::start(doors, inbox.clone()))
            .transpose()?;
        Ok(Reactor {
            poll,
            inbox,
            clock,
            shard,
            listeners,
            tls,
            handshakes,
            sockets: Vec::new(),
            goodbyes: Goodbyes::default(),
            ready: VecDeque::new(),
            buffer: vec![0; READ_BUFFER].into_boxed_slice(),
            desk: None,
            no_desk: String::new(),
            errands: 0,
            stop: None,
            calls: HashMap::new(),
            call_by_ticket: HashMap::new(),
            traffic: Traffic::default(),
            accept_again: None,
            drain_timeout,
            drain_until: None,
            drained: false,
            scratch: Scratch::default(),
        })
    }

    /// How other threads reach the reactor.
    pub(crate) fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    /// Errands go to this desk, or are refused for this reason.
    pub(crate) fn set_desk(&mut self, desk: Result<Arc<Desk>, String>) {
        match desk {
            Ok(desk) => self.desk = Some(desk),
            Err(reason) => self.no_desk = reason,
        }
    }

    /// Runs until the broker was drained.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1_024);
        let mut spin = false;
        loop {
            let waited = self.wait(&mut events, spin)?;
            self.traffic.turns += 1;
            let now = self.clock.now();
            let mut count = 0;
            for event in &events {
                count += 1;
                match event.token() {
                    BELL => self.take_commands(now),
                    Token(n) if n < FIRST_CONNECTION => self.accept(now, n - FIRST_LISTENER),
                    Token(n) => self.note_readiness(n - FIRST_CONNECTION, event, now),
                }
            }
            if self.accept_again.is_some_and(|at| at <= Instant::now()) {
                self.accept_again = None;
                (0..self.listeners.len()).for_each(|i| self.accept(now, i));
            }
            for _ in 0..self.ready.len() {
                if let Some(id) = self.ready.pop_front() {
                    self.read(now, id);
                }
            }
            if self.shard.deadline().is_some_and(|due| due <= now) {
                self.shard.tick(now);
            }
            self.settle(now);
            self.goodbyes.listen(&mut self.buffer);
            self.log();
            spin = count == 1 && waited < 4 * SPIN;
            let is_over = self.drain_until.is_some_and(|until| until <= Instant::now());
            if is_over || self.drained && self.errands == 0 || self.stop.is_some() {
                return self.say_goodbye();
            }
        }
    }

    /// Waits for events and says how long it slept.
    fn wait(&mut self, events: &mut Events, spin: bool) -> io::Result<Duration> {
        if !self.ready.is_empty() {
            self.poll_once(events, Some(Duration::ZERO))?;
            return Ok(Duration::ZERO);
        }
        let start = Instant::now();
        if spin {
            loop {
                self.poll_once(events, Some(Duration::ZERO))?;
                let spent = start.elapsed();
                if !events.is_empty() || spent >= SPIN {
                    break;
                }
                std::thread::yield_now();
            }
            if !events.is_empty() {
                return Ok(start.elapsed());
            }
        }
        let now = self.clock.now();
        let due = self.shard.deadline().map(|due| Duration::from(due - now));
        let instants = [self.accept_again, self.drain_until, self.goodbyes.next()];
        let instants = instants.into_iter().flatten();
        let other = instants.min().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = due.into_iter().chain(other).min();
        self.poll_once(events, timeout)?;
        Ok(start.elapsed())
    }

    fn poll_once(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            other => other,
        }
    }

    fn socket(&mut self, id: ConnId) -> Option<&mut Socket> {
        let socket = self.sockets.get_mut(id.slot() as usize)?.as_mut();
        socket.filter(|socket| socket.id == id)
    }

    fn note_readiness(&mut self, slot: usize, event: &mio::event::Event, now: Time) {
        let Some(socket) = self.sockets.get_mut(slot).and_then(Option::as_mut) else { return };
        let id = socket.id;
        socket.ending |= event.is_read_closed() || event.is_error();
        if event.is_readable() || socket.ending {
            socket.readable = true;
            if !socket.queued {
                socket.queued = true;
                self.ready.push_back(id);
            }
        }
        if event.is_writable() && socket.blocked {
            socket.blocked = false;
            self.flush(now, id);
        }
    }

    fn accept(&mut self, now: Time, listener: usize) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some((socket, dialect)) = self.listeners.get(listener) else { return };
            match socket.accept(self.tls.as_ref()) {
                Ok((stream, remote)) => {
                    let dialect = *dialect;
                    if let Some(id) = self.shard.open(now, dialect, remote) {
                        self.admit(now, id, stream);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
        // More may be waiting, and the edge will not come again: go on in the next turn.
        self.accept_again = Some(Instant::now());
    }

    fn admit(&mut self, now: Time, id: ConnId, mut stream: Stream) {
        let slot = id.slot() as usize;
        let token = Token(FIRST_CONNECTION + slot);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = stream
            .prepare()
            .and_then(|()| self.poll.registry().register(&mut stream, token, interest));
        if let Err(error) = registered {
            tracing::debug!(%error, "a connection ended before it was taken in");
            return self.shard.closed(now, id);
        }
        if self.sockets.len() <= slot {
            self.sockets.resize_with(slot + 1, || None);
        }
        self.sockets[slot] = Some(Socket {
            id,
            stream,
            readable: false,
            ending: false,
            queued: false,
            blocked: false,
        });
    }

    /// Reads one connection once.
    fn read(&mut self, now: Time, id: ConnId) {
        let Some(socket) = self.sockets.get_mut(id.slot() as usize).and_then(Option::as_mut) else {
            return;
        };
        if socket.id != id {
            return;
        }
        socket.queued = false;
        if socket.stream.is_shaking() {
            return self.shake(now, id);
        }
        let (result, room) = match self.shard.want(id) {
            // Whoever is gone has nothing more to say, and what it asked is for nobody.
            Want::Paused if socket.ending => return self.close(now, id),
            // It stays readable and is queued again when it is resumed.
            Want::Paused => return,
            Want::Shared => {
                let have = self.shard.take_pending(id, &mut self.buffer);
                let result = socket.stream.read(&mut self.buffer[have..]);
                match result {
                    Ok(n) if n > 0 => self.shard.received(now, id, &mut self.buffer[..have + n]),
                    Ok(_) | Err(_) => {
                        if have > 0
                            && let Some(pending) = self.shard.direct(id)
                        {
                            pending.extend_from_slice(&self.buffer[..have]);
                        }
                    }
                }
                (result, self.buffer.len() - have)
            }
            Want::Direct => {
                let Some(pending) = self.shard.direct(id) else { return };
                let room = pending.capacity() - pending.len();
                let result = socket.stream.read_into(pending);
                if result.as_ref().is_ok_and(|n| *n > 0) {
                    self.shard.received_direct(now, id);
                } else {
                    self.shard.read_nothing(id);
                }
                (result, room)
            }
        };
        match result {
            Ok(0) => self.close(now, id),
            Ok(n) => {
                self.traffic.bytes_in += n as u64;
                if n == room || socket.ending || socket.stream.has_more() {
                    socket.queued = true;
                    self.ready.push_back(id);
                } else {
                    socket.readable = false;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                socket.queued = true;
                self.ready.push_back(id);
            }
            Err(_) => self.close(now, id),
        }
    }

    /// Flushes, closes and hands out until nothing is left: the end of a connection, for instance,
    /// gives its requests to others, which then have something to be flushed.
    fn settle(&mut self, now: Time) {
        loop {
            self.send_errands(now);
            self.flush_touched(now);
            self.close_closing(now);
            self.hand_out_outcomes(now);
            if self.shard.is_settled() {
                break;
            }
        }
        self.resume();
        if let Some(handshakes) = &mut self.handshakes {
            let sockets = &self.sockets;
            handshakes.feed(|| self.shard.take_work(), |id| is_there(sockets, id));
        }
    }

    /// What this turn brought for the task store leaves as one batch.
    fn send_errands(&mut self, now: Time) {
        let mut errands = std::mem::take(&mut self.scratch.errands);
        self.shard.take_errands(&mut errands);
        if errands.is_empty() {
            self.scratch.errands = errands;
            return;
        }
        self.errands += errands.len();
        let (mine, beyond): (Vec<Errand>, Vec<Errand>) = errands
            .into_iter()
            .partition(|one| self.shard.admit(now, one.principal, one.body.len() as u64));
        if !beyond.is_empty() {
            self.turn_down(beyond, &Denial::new("overload", "beyond the quota; try again later"));
        }
        let engine = self.shard.engine();
        match &self.desk {
            Some(desk) => desk.take_errands(mine, |id| engine.rights(id).cloned()),
            None => self.turn_down(mine, &Denial::new("no_store", self.no_desk.as_str())),
        }
    }

    /// Refuses errands: in the next turn, as if the store had.
    fn turn_down(&self, errands: Vec<Errand>, denial: &Denial) {
        let answers = errands.into_iter().map(|errand| Answered::denied(errand.from, denial));
        let sent = self.inbox.send(Command::Answers(answers.collect()));
        debug_assert!(sent.is_ok(), "the bell is the reactor's own");
    }

    fn answer(&mut self, now: Time, answers: Vec<Answered>) {
        for Answered { to, body, leases } in answers {
            self.errands -= 1;
            if !self.shard.answer(now, &to, body)
                && let Some(desk) = &self.desk
            {
                desk.give_back(leases);
            }
        }
    }

    fn flush_touched(&mut self, now: Time) {
        let mut ids = std::mem::take(&mut self.scratch.ids);
        self.shard.take_touched(&mut ids);
        for id in ids.drain(..) {
            self.flush(now, id);
        }
        self.scratch.ids = ids;
    }

    /// Writes what waits for one connection, as far as it goes.
    fn flush(&mut self, now: Time, id: ConnId) {
        let Some(socket) = self.sockets.get_mut(id.slot() as usize).and_then(Option::as_mut) else {
            return;
        };
        if socket.id != id {
            return;
        }
        if !socket.blocked && socket.stream.is_behind() {
            match socket.stream.push() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.blocked = true,
                Err(_) => return self.close(now, id),
            }
        }
        loop {
            let Some(outbox) = self.shard.outbox(id) else { return };
            if outbox.is_empty() || socket.blocked {
                return;
            }
            let result = if let Some(piece) = outbox.only_piece() {
                socket.stream.write(piece)
            } else {
                let mut pieces = [&[][..]; PIECES];
                let count = outbox.pieces(&mut pieces);
                socket.stream.write_vectored(&pieces.map(IoSlice::new)[..count])
            };
            match result {
                Ok(n) => {
                    self.traffic.bytes_out += n as u64;
                    self.shard.wrote(now, id, n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(now, id),
            }
        }
    }

    fn close_closing(&mut self, now: Time) {
        let mut ids = std::mem::take(&mut self.scratch.ids);
        loop {
            self.shard.take_closing(&mut ids);
            let Some(id) = ids.pop() else { break };
            self.flush(now, id);
            if let Some(stream) = self.end(now, id) {
                self.goodbyes.add(stream);
            }
        }
        self.scratch.ids = ids;
    }

    fn close(&mut self, now: Time, id: ConnId) {
        drop(self.end(now, id));
    }

    /// Ends a connection; what is left of it is a socket that may still be read.
    fn end(&mut self, now: Time, id: ConnId) -> Option<Stream> {
        let stream = self.hang_up(id);
        if self.errands > 0
            && let Some(desk) = &self.desk
        {
            desk.gone(id);
        }
        self.shard.closed(now, id);
        stream
    }

    /// Says that nothing more comes, and gives up the socket.
    fn hang_up(&mut self, id: ConnId) -> Option<Stream> {
        let place = self.sockets.get_mut(id.slot() as usize)?;
        let mut socket = place.take_if(|socket| socket.id == id)?;
        // Both may fail on a connection that is already gone; there is nothing else to do.
        let _ = self.poll.registry().deregister(&mut socket.stream);
        let _ = socket.stream.finish();
        if socket.stream.is_shaking()
            && let Some(handshakes) = &mut self.handshakes
        {
            handshakes.abandon();
        }
        Some(socket.stream)
    }

    /// Connections that were paused are read again if there was something left.
    fn resume(&mut self) {
        let mut ids = std::mem::take(&mut self.scratch.ids);
        self.shard.take_resumed(&mut ids);
        for id in ids.drain(..) {
            if let Some(socket) = self.sockets.get_mut(id.slot() as usize).and_then(Option::as_mut)
                && socket.id == id
                && socket.readable
                && !socket.queued
            {
                socket.queued = true;
                self.ready.push_back(id);
            }
        }
        self.scratch.ids = ids;
    }

    fn take_commands(&mut self, now: Time) {
        let mut commands = std::mem::take(&mut self.scratch.commands);
        self.inbox.take(&mut commands);
        for command in commands.drain(..) {
            self.obey(now, command);
        }
        self.scratch.commands = commands;
    }

    fn obey(&mut self, now: Time, command: Command) {
        match command {
            Command::Call { who, ticket, service, body, fair_key, lease, answer } => {
                let principal = self.shard.engine().principal(&who).unwrap_or_default();
                let id = self.shard.call(now, Call { principal, service, body, fair_key, lease });
                self.calls.insert(id, Caller::Call(ticket, answer));
                self.call_by_ticket.insert(ticket, id);
            }
            Command::HangUp { ticket } => {
                if let Some(id) = self.call_by_ticket.remove(&ticket) {
                    self.calls.remove(&id);
                    self.shard.hang_up(now, id);
                }
            }
            Command::Again { who, id, secret, name, word, answer } => {
                let principal = self.shard.engine().principal(&who).unwrap_or_default();
                let whose = (principal, secret);
                let holds = match word {
                    Again::Continue(span) => self.shard.go_on(now, id, whose, &name, span),
                    Again::Done(ok) => self.shard.done(now, id, whose, &name, ok),
                };
                if holds {
                    // At once: it may say the next before this turn ends.
                    self.calls.insert(id, Caller::Again(answer));
                    self.hand_out_outcomes(now);
                } else {
                    let _ = answer.send(None);
                }
            }
            Command::Places { name, limit, answer } => {
                let _ = answer.send(match name {
                    None => view::places(&self.shard, now, limit),
                    Some(name) => view::place(&self.shard, now, &name),
                });
            }
            Command::Look { detail, answer } => {
                // Whoever asked may be gone by now.
                let _ = answer.send(self.snapshot(now, detail));
            }
            Command::Reload { config, tls, done } => {
                self.shard.configure(now, *config);
                self.tls = tls.or(self.tls.take());
                let _ = done.send(());
            }
            Command::May { who, answer } => {
                let engine = self.shard.engine();
                let rights = engine.principal(&who).and_then(|id| engine.rights(id));
                let _ = answer.send(rights.is_some_and(|rights| rights.administer));
            }
            Command::Rights { who, bytes, answer } => {
                let principal = self.shard.engine().principal(&who);
                let admitted = principal.is_none_or(|id| self.shard.admit(now, id, bytes));
                let rights = || {
                    let rights = self.shard.engine().rights(principal?).cloned();
                    Some(rights.unwrap_or_else(Rights::none))
                };
                let _ = answer.send(admitted.then(|| rights().unwrap_or_else(Rights::none)));
            }
            Command::IsStaffed { service, answer } => {
                let _ = answer.send(self.shard.engine().workers_of(&service) > 0);
            }
            Command::Answers(answers) => self.answer(now, answers),
            Command::Stop { reason } => self.stop = Some(reason),
            Command::Worked { id, worked } => {
                if let Some(handshakes) = &mut self.handshakes {
                    handshakes.came_back();
                }
                self.shard.worked(now, id, *worked);
            }
            Command::Shaken { id, stepped } => {
                if let Some(handshakes) = &mut self.handshakes {
                    handshakes.came_back();
                }
                self.shaken(now, id, stepped);
            }
            Command::Drain => self.drain(now),
        }
    }

    fn drain(&mut self, now: Time) {
        if self.drain_until.is_some() {
            return;
        }
        tracing::info!(
            requests = self.shard.engine().requests_len(),
            timeout = ?self.drain_timeout,
            "draining: no new connections, no new requests"
        );
        for (listener, _) in &mut self.listeners {
            let _ = self.poll.registry().deregister(listener);
        }
        self.listeners.clear();
        self.drain_until = Some(Instant::now() + self.drain_timeout);
        if let Some(desk) = &self.desk {
            desk.drain();
        }
        self.shard.drain(now);
    }

    fn hand_out_outcomes(&mut self, now: Time) {
        let mut outcomes = std::mem::take(&mut self.scratch.outcomes);
        self.shard.take_outcomes(&mut outcomes);
        for (id, outcome) in outcomes.drain(..) {
            // Whoever asked may be gone by now.
            let heard = match self.calls.remove(&id) {
                Some(Caller::Call(ticket, answer)) => {
                    self.call_by_ticket.remove(&ticket);
                    answer.send((id, outcome)).is_ok()
                }
                // Its lease says until when it is not gone.
                Some(Caller::Again(answer)) => {
                    let _ = answer.send(Some(outcome));
                    true
                }
                None => false,
            };
            if !heard || !self.shard.stays(id) {
                self.shard.hang_up(now, id);
            }
        }
        self.scratch.outcomes = outcomes;
    }

    fn log(&mut self) {
        for note in std::mem::take(self.shard.notes()) {
            match note {
                Note::WorkerJoined(id, remote, service, concurrency) => {
                    if let Some(desk) = &self.desk {
                        desk.worker_joined(&service);
                    }
                    tracing::info!(
                        conn = ?id,
                        remote = %Remote(remote),
                        service = view::show(&service),
                        concurrency,
                        "worker joined"
                    );
                }
                Note::WorkerLeft(id) => tracing::info!(conn = ?id, "worker left"),
                Note::WorkerExpired(id) => {
                    tracing::warn!(conn = ?id, "worker given up: silent while idle");
                }
                Note::WorkerDismissed(id, why) => {
                    tracing::warn!(conn = ?id, why, "worker told to go");
                }
                Note::Closed(id, remote, reason) => log_closed(id, remote, &reason),
                Note::Denied(id, remote, principal, service) => tracing::warn!(
                    conn = ?id,
                    remote = %Remote(remote),
                    principal = self.shard.engine().principal_name(principal),
                    service = view::show(&service),
                    "denied: it may not call this service"
                ),
                Note::Garbage(id, why) => {
                    tracing::warn!(conn = ?id, why, "a message that makes no sense");
                }
                Note::Alarm(service, true, oldest) => tracing::warn!(
                    service = %view::show(&service),
                    oldest_ms = oldest.as_millis(),
                    "alarm: requests wait too long"
                ),
                Note::Alarm(service, false, _) => {
                    tracing::info!(service = %view::show(&service), "alarm ended");
                }
                Note::Place(place, name, change) => {
                    let (kind, name) = (place.service(), view::show(&name));
                    tracing::info!(kind, name, "place {}", change.as_str());
                }
                Note::Drained => {
                    tracing::info!("drained: the last request ended");
                    self.drained = true;
                }
            }
        }
    }

    fn snapshot(&self, now: Time, detail: Detail) -> Snapshot {
        let engine = self.shard.engine();
        let (waiting, waiting_bytes) = engine.waiting();
        Snapshot {
            stats: engine.stats().clone(),
            counters: *self.shard.counters(),
            traffic: self.traffic,
            workers_len: engine.workers_len(),
            services_len: engine.services_len(),
            requests_len: engine.requests_len(),
            waiting,
            waiting_bytes,
            draining: self.drain_until.is_some(),
            services: match detail {
                Detail::Scrape(limit) => view::services(&self.shard, now, limit),
                Detail::Services(limit) => {
                    let mut services = view::services(&self.shard, now, limit);
                    view::add_protocols(&self.shard, &mut services);
                    services
                }
                Detail::Totals | Detail::Workers => Vec::new(),
            },
            workers: match detail {
                Detail::Workers => view::workers(&self.shard, now),
                Detail::Totals | Detail::Services(_) | Detail::Scrape(_) => Vec::new(),
            },
            places: match detail {
                Detail::Scrape(limit) => view::places(&self.shard, now, limit),
                Detail::Totals | Detail::Services(_) | Detail::Workers => view::Places::default(),
            },
            principals: match detail {
                Detail::Scrape(_) => {
                    engine.principals().map(|view| (view.name.into(), view.usage)).collect()
                }
                Detail::Totals | Detail::Services(_) | Detail::Workers => Vec::new(),
            },
            speakers: match detail {
                Detail::Scrape(_) => view::speakers(&self.shard),
                Detail::Totals | Detail::Services(_) | Detail::Workers => BTreeMap::new(),
            },
        }
    }

    /// Tells every worker, and gives the kernel a moment to carry it away.
    fn say_goodbye(mut self) -> io::Result<()> {
        let now = self.clock.now();
        self.settle(now);
        let until = Instant::now() + GOODBYE;
        while self.unsent() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
            for slot in 0..self.sockets.len() {
                if let Some(socket) = &mut self.sockets[slot] {
                    socket.blocked = false;
                    let id = socket.id;
                    self.flush(now, id);
                }
            }
        }
        self.shard.shut_down(now);
        self.close_closing(now);
        self.log();
        match self.stop {
            Some(reason) => Err(io::Error::other(reason)),
            None => {
                tracing::info!("stopped");
                Ok(())
            }
        }
    }

    fn unsent(&mut self) -> bool {
        let sockets = || self.sockets.iter().flatten();
        if sockets().any(|socket| socket.stream.is_behind()) {
            return true;
        }
        let ids: Vec<ConnId> = sockets().map(|socket| socket.id).collect();
        ids.into_iter().any(|id| self.shard.outbox(id).is_some_and(|outbox| !outbox.is_empty()))
    }
}

fn is_there(sockets: &[Option<Socket>], id: ConnId) -> bool {
    let socket = sockets.get(id.slot() as usize).and_then(Option::as_ref);
    socket.is_some_and(|socket| socket.id == id)
}

fn log_closed(id: ConnId, remote: Option<std::net::SocketAddr>, reason: &CloseReason) {
    let (label, remote) = (reason.as_str(), Remote(remote));
    match reason {
        CloseReason::Ended | CloseReason::Shutdown | CloseReason::Idle | CloseReason::PeerTtl => {
            tracing::debug!(conn = ?id, %remote, reason = label, "connection closed");
        }
        CloseReason::Zmtp(_, detail) | CloseReason::Stomp(_, detail) => {
            tracing::warn!(conn = ?id, %remote, reason = label, detail, "connection refused");
        }
        CloseReason::Handshake
        | CloseReason::Crowded
        | CloseReason::Revoked
        | CloseReason::Dead
        | CloseReason::SlowReader
        | CloseReason::Garbage => {
            tracing::warn!(conn = ?id, %remote, reason = label, "connection closed");
        }
    }
}

/// An address that may be unknown.
struct Remote(Option<std::net::SocketAddr>);

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("-"),
        }
    }
}
