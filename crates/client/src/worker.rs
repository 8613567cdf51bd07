//! The worker: one task keeps the connection and its heartbeats, and one task per request serves
//! it.
//!
//! ```text
//!  broker ─request─▶ driver ─spawn─▶ handler's task
//!  broker ◀─reply── driver ◀─join── handler's task ─▶ its end: a reply, an error, a panic
//!                      ◀─partials── (a bounded channel)
//! ```
//!
//! The driver never waits for a handler, so the broker hears from it however long they work.

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::{self, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::backoff::{Backoff, PIRATE, QUICK};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::mdp::{self, Command, FAILED, Part, Protocol};
use crate::message::Message;
use crate::tls::Trust;
use crate::wire::{Lost, Wire, WireConfig};

/// Serves a service. Made by [`WorkerBuilder::serve`].
///
/// It reconnects and registers again whenever it loses its broker, for as long as it lives.
/// Dropping it drops the handlers where they are, takes leave of the broker and hangs up; the
/// broker gives their requests to other workers. To let them finish, [`stop`](Worker::stop) it.
#[must_use = "a worker that is dropped stops serving at once"]
pub struct Worker {
    /// When the grace ends, once it was told to stop.
    stop: watch::Sender<Option<Instant>>,
    status: watch::Receiver<WorkerStatus>,
    driver: JoinHandle<usize>,
}

/// How to reach the broker. See [`Worker::builder`].
#[derive(Clone, Debug)]
pub struct WorkerBuilder {
    endpoint: String,
    protocol: Protocol,
    /// Interval and liveness, if they are not the protocol's own.
    heartbeat: Option<(Duration, u32)>,
    wire: WireConfig,
    tls_ca: Option<Vec<u8>>,
}

/// What is known of a worker's connection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Whether there is a connection, on which it said that it is ready.
    pub connected: bool,
    /// How many times there was one.
    pub connections: u64,
    /// Why there is none, or why the one before was lost.
    pub trouble: Option<String>,
}

impl Worker {
    /// A worker of the broker at `endpoint` (`tcp://host:port`). A worker has exactly one broker,
    /// as Majordomo wants it; to serve several brokers or services, start several workers.
    pub fn builder(endpoint: impl Into<String>) -> WorkerBuilder {
        WorkerBuilder {
            endpoint: endpoint.into(),
            protocol: Protocol::default(),
            heartbeat: None,
            wire: WireConfig::default(),
            tls_ca: None,
        }
    }

    /// What is known of its connection.
    pub fn status(&self) -> WorkerStatus {
        self.status.borrow().clone()
    }

    /// Waits until it has said to its broker that it is ready. Brokers do not answer that.
    pub async fn connected(&self) {
        let mut status = self.status.clone();
        if status.wait_for(|status| status.connected).await.is_err() {
            // The driver is gone, so there will never be a connection.
            std::future::pending().await
        }
    }

    /// Stops without losing anything: new requests are left to other workers, those that are held
    /// are finished and answered, then the broker is told and the connection closed. What is not
    /// finished after `grace` is dropped, and the broker gives it to other workers.
    ///
    /// Returns how many handlers were cut off.
    pub async fn stop(mut self, grace: Duration) -> usize {
        self.stop.send_replace(Some(deadline_after(grace)));
        // It fails if the runtime ends, and with it all handlers.
        (&mut self.driver).await.unwrap_or(0)
    }
}

impl Drop for Worker {
    /// The driver still takes leave: many brokers do not notice that a connection ends.
    fn drop(&mut self) {
        self.stop.send_replace(Some(Instant::now()));
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl WorkerBuilder {
    /// The protocol to speak; MDP/0.2 by default, MDP/0.1 for brokers that know nothing else, and
    /// [`Protocol::Ppp`] for the back end of a Paranoid Pirate queue. A worker of such a queue has
    /// one request at a time, is silent while it works, and comes back after 1 s, doubling to 32 s.
    pub fn protocol(mut self, protocol: Protocol) -> WorkerBuilder {
        self.protocol = protocol;
        self
    }

    /// How often to send a heartbeat (by default every 3 s, and every second over Paranoid Pirate),
    /// and after how many such intervals of silence (3 by default) the broker is given up.
    pub fn heartbeat(mut self, interval: Duration, liveness: u32) -> WorkerBuilder {
        self.heartbeat = Some((interval.max(Duration::from_millis(1)), liveness.max(1)));
        self
    }

    /// Talks to nobody but the broker with that key, and proves to it that it has `keys`; all
    /// traffic is sealed (CURVE).
    pub fn curve(mut self, server: zmtp::PublicKey, keys: zmtp::KeyPair) -> WorkerBuilder {
        self.wire.security = zmtp::Security::CurveClient { server, keys };
        self
    }

    /// Gives a name and a password, which everybody on the way can read (PLAIN). Each has at most
    /// 255 bytes; what is longer is cut, and then refused by the broker.
    pub fn plain(mut self, username: &str, password: &str) -> WorkerBuilder {
        let cut = |text: &str| text[..text.floor_char_boundary(255)].into();
        let (username, password) = (cut(username), zeroize::Zeroizing::new(cut(password)));
        self.wire.security = zmtp::Security::PlainClient { username, password };
        self
    }

    /// At `tls://host:port` endpoints, believes brokers whose certificate is for that host and was
    /// signed by one of these authorities: their certificates in PEM, as many as you like. TLS says
    /// who the broker is; who we are is said by [`plain`](WorkerBuilder::plain) or
    /// [`curve`](WorkerBuilder::curve).
    pub fn tls_ca(mut self, pem: impl Into<Vec<u8>>) -> WorkerBuilder {
        self.tls_ca = Some(pem.into());
        self
    }

    /// What a message may hold, sent or received.
    pub fn limits(mut self, limits: zmtp::Limits) -> WorkerBuilder {
        self.wire.limits = limits;
        self
    }

    /// Starts serving, on the tokio runtime this is called in. Returns at once.
    ///
    /// The `handler` is called once per request, and up to `concurrency` of its futures run at a
    /// time (0 counts as 1). More than one needs a broker that understands it, as maitred does;
    /// others, and Paranoid Pirate queues, give out one request at a time.
    ///
    /// A handler that returns an error or panics does not make the request vanish: Majordomo has no
    /// word for it, so the final reply is `MAITRED-FAILED` and the error's text as two frames (for
    /// a panic a fixed text), which our client turns into [`Error::Failed`].
    ///
    /// A request may come twice: a broker gives it to another worker when it loses the one that
    /// held it.
    ///
    /// # Errors
    /// If the endpoint or the service name is none, or there is no tokio runtime.
    pub fn serve<H, F, M, E>(
        self,
        service: impl AsRef<[u8]>,
        concurrency: usize,
        handler: H,
    ) -> Result<Worker, Error>
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Result<M, E>> + Send + 'static,
        M: Into<Message>,
        E: Display,
    {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let service = service.as_ref();
        if !(1..=255).contains(&service.len()) {
            return Err(Error::ServiceName { len: service.len() });
        }
        let endpoint = Endpoint::parse(&self.endpoint)?;
        let mut wire = self.wire;
        wire.trust = Trust::for_endpoints(self.tls_ca.as_deref(), [&endpoint].into_iter())?;
        let own = (self.protocol == Protocol::Ppp).then_some((Duration::from_secs(1), 3));
        if let Some((interval, liveness)) = self.heartbeat.or(own) {
            (wire.heartbeat, wire.liveness) = (interval, liveness);
        }
        let concurrency = if self.protocol == Protocol::Ppp { 1 } else { concurrency.max(1) };
        let handler = Arc::new(handler);
        let handler: Handler = Box::new(move |make_request| {
            let handler = handler.clone();
            Box::pin(async move {
                // Called in here, so that its panics are caught too.
                let outcome = handler(make_request()).await;
                outcome.map(Into::into).map_err(|error| error.to_string())
            })
        });
        let (stop, stop_asked) = watch::channel(None);
        let (status, status_seen) = watch::channel(WorkerStatus::default());
        let (partial_replies, partials) = mpsc::channel(PARTIALS_MAX);
        let driver = Driver {
            endpoint,
            wire,
            protocol: self.protocol,
            service: Bytes::copy_from_slice(service),
            concurrency,
            handler,
            stop: stop_asked,
            status,
            tasks: JoinSet::new(),
            held: HashMap::new(),
            backlog: VecDeque::new(),
            partial_replies,
            partials,
        };
        Ok(Worker { stop, status: status_seen, driver: runtime.spawn(driver.run()) })
    }
}

/// A request, as the handler gets it.
#[derive(Debug)]
pub struct Request {
    /// What the client sent.
    pub body: Message,
    task: task::Id,
    partial_replies: mpsc::Sender<(task::Id, Message)>,
    limits: zmtp::Limits,
    lost: Arc<AtomicBool>,
}

impl Request {
    /// Sends a partial reply; what the handler returns is the final one. Waits while the broker is
    /// slow to take them.
    ///
    /// Over MDP/0.1 and Paranoid Pirate, which know none, partial replies are kept and joined to
    /// the final one.
    ///
    /// # Errors
    /// If the connection the request came on was lost, so that no reply can reach the client any
    /// more; or if the reply is too large.
    pub async fn partial(&self, reply: impl Into<Message>) -> Result<(), Error> {
        let reply = reply.into();
        reply.check(&self.limits)?;
        if self.is_abandoned() || self.partial_replies.send((self.task, reply)).await.is_err() {
            return Err(Error::Stopped);
        }
        Ok(())
    }

    /// Whether the connection the request came on was lost: no reply can reach the client any more,
    /// and the broker gives the request to another worker. A long job may look here whether to go
    /// on.
    pub fn is_abandoned(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

type Outcome = Result<Message, String>;
type Handler = Box<
    dyn Fn(Box<dyn FnOnce() -> Request + Send>) -> Pin<Box<dyn Future<Output = Outcome> + Send>>
        + Send
        + Sync,
>;

/// The task that keeps the connection.
struct Driver {
    endpoint: Endpoint,
    wire: WireConfig,
    protocol: Protocol,
    service: Bytes,
    concurrency: usize,
    handler: Handler,
    stop: watch::Receiver<Option<Instant>>,
    status: watch::Sender<WorkerStatus>,
    /// Handlers at work, also those whose connection is gone: they count against the concurrency.
    tasks: JoinSet<Outcome>,
    /// Requests of this connection whose handlers are at work.
    held: HashMap<task::Id, Held>,
    /// Requests of this connection that wait for handlers of one that is gone.
    backlog: VecDeque<Arrived>,
    partial_replies: mpsc::Sender<(task::Id, Message)>,
    partials: mpsc::Receiver<(task::Id, Message)>,
}

struct Held {
    /// To be given back with the reply.
    client: Bytes,
    /// Partial replies, where the protocol knows none.
    joined: Option<Message>,
}

struct Arrived {
    client: Bytes,
    body: Message,
}

/// One connection.
struct Session {
    wire: Wire,
    /// What the requests that came on it know of its end.
    lost: Arc<AtomicBool>,
    /// When we last said anything.
    said: Instant,
    /// When the broker last said anything, or last owed us nothing.
    heard: Instant,
}

/// Why a connection ended.
enum End {
    /// With so many handlers cut off.
    Stopped(usize),
    Lost(Lost),
}

impl Driver {
    async fn run(mut self) -> usize {
        let pace = if self.protocol == Protocol::Ppp { PIRATE } else { QUICK };
        let mut backoff = Backoff::new(pace);
        let mut stop = self.stop.clone();
        let mut stopped = pin!(stop.wait_for(Option::is_some));
        let cut_off = loop {
            let connected = tokio::select! {
                biased;
                _ = &mut stopped => break self.cut_off(),
                connected = Wire::connect(&self.endpoint, &self.wire) => connected,
            };
            let why = match connected {
                Ok(wire) => {
                    let since = Instant::now();
                    let end = self.keep(wire).await;
                    backoff.connection_lasted(since.elapsed());
                    match end {
                        End::Stopped(cut_off) => break cut_off,
                        End::Lost(why) => why,
                    }
                }
                Err(why) => why,
            };
            self.status.send_modify(|status| {
                status.connected = false;
                status.trouble = Some(format!("{}: {why}", self.endpoint));
            });
            tokio::select! {
                biased;
                _ = &mut stopped => break self.cut_off(),
                () = sleep(backoff.next()) => (),
            }
        };
        self.status.send_modify(|status| status.connected = false);
        cut_off
    }

    /// Drops the handlers that are still at work; returns how many.
    fn cut_off(&mut self) -> usize {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.abort_all();
        self.tasks.len()
    }

    /// Serves over one connection until it ends.
    async fn keep(&mut self, wire: Wire) -> End {
        let now = Instant::now();
        let lost = Arc::new(AtomicBool::new(false));
        let mut session = Session { wire, lost, said: now, heard: now };
        let out = &mut session.wire.tx;
        mdp::put_ready(out, self.protocol, &self.service, self.concurrency);
        self.status.send_modify(|status| {
            status.connected = true;
            status.connections += 1;
            status.trouble = None;
        });
        let end = self.turn_until_end(&mut session).await;
        session.lost.store(true, Ordering::Relaxed);
        self.held.clear();
        self.backlog.clear();
        match end {
            Ok(()) => {
                // Before the broker gives what they served to others.
                let cut_off = self.cut_off();
                mdp::put_disconnect(&mut session.wire.tx, self.protocol);
                session.wire.close().await;
                End::Stopped(cut_off)
            }
            Err(why) => End::Lost(why),
        }
    }

    /// `Ok` if all was done that was to be done before stopping.
    async fn turn_until_end(&mut self, session: &mut Session) -> Result<(), Lost> {
        let mut stop = self.stop.clone();
        let mut timer = pin!(sleep(self.wire.heartbeat));
        loop {
            let stop_at = *stop.borrow_and_update();
            if let Some(stop_at) = stop_at {
                self.backlog.clear();
                if self.held.is_empty() || Instant::now() >= stop_at {
                    return Ok(());
                }
            }
            let has_room = session.wire.has_room();
            tokio::select! {
                biased;
                // It fails when the handle is gone, and that told us to stop before.
                _ = stop.changed() => continue,
                moved = session.wire.io() => {
                    moved?;
                    self.receive(session)?;
                }
                Some((task, reply)) = self.partials.recv(), if has_room => {
                    self.send_partial(session, task, reply);
                }
                Some(joined) = self.tasks.join_next_with_id(), if has_room => {
                    self.finish(session, joined);
                }
                () = &mut timer => timer.as_mut().reset(self.beat(session)?),
                () = sleep_until(stop_at.unwrap_or_else(Instant::now)), if stop_at.is_some() => (),
            }
            while session.wire.has_room()
                && let Some(joined) = self.tasks.try_join_next_with_id()
            {
                self.finish(session, joined);
            }
            self.start(session);
        }
    }

    fn receive(&mut self, session: &mut Session) -> Result<(), Lost> {
        let is_stopping = self.stop.borrow().is_some();
        let Session { wire, heard, .. } = session;
        let mut end = Ok(());
        wire.receive(|incoming| {
            let Some(command) = mdp::read_command(incoming.view, self.protocol) else {
                end = Err("the broker sent something that makes no sense".into());
                return;
            };
            *heard = Instant::now();
            match command {
                Command::Heartbeat => (),
                Command::Disconnect => end = Err("the broker said DISCONNECT".into()),
                // The broker gives it to another worker when we say DISCONNECT.
                Command::Request { .. } if is_stopping => (),
                Command::Request { .. }
                    if self.held.len() + self.backlog.len() >= self.concurrency =>
                {
                    end = Err("the broker sent more requests than it was offered".into());
                }
                Command::Request { client, body_from } => self.backlog.push_back(Arrived {
                    client: Bytes::copy_from_slice(client),
                    body: incoming.body(body_from),
                }),
            }
        })?;
        end
    }

    /// Starts handlers for what has arrived.
    fn start(&mut self, session: &Session) {
        while self.tasks.len() < self.concurrency
            && let Some(Arrived { client, body }) = self.backlog.pop_front()
        {
            let partial_replies = self.partial_replies.clone();
            let (lost, limits) = (session.lost.clone(), self.wire.limits);
            let make_request =
                move || Request { body, task: task::id(), partial_replies, limits, lost };
            let task = self.tasks.spawn((self.handler)(Box::new(make_request)));
            self.held.insert(task.id(), Held { client, joined: None });
        }
    }

    fn send_partial(&mut self, session: &mut Session, task: task::Id, reply: Message) {
        // Its connection is gone.
        let Some(held) = self.held.get_mut(&task) else { return };
        if self.protocol.has_partials() {
            let out = &mut session.wire.tx;
            mdp::put_reply(out, self.protocol, Part::Partial, &held.client, &reply);
            session.said = Instant::now();
        } else {
            held.joined = Some(match held.joined.take() {
                None => reply,
                Some(before) => before.joined(reply),
            });
        }
    }

    /// A handler came to its end: its request is answered.
    fn finish(&mut self, session: &mut Session, joined: Result<(task::Id, Outcome), JoinError>) {
        // What it sent before its end stands in the channel.
        while let Ok((task, reply)) = self.partials.try_recv() {
            self.send_partial(session, task, reply);
        }
        let (task, outcome) = match joined {
            Ok(ended) => ended,
            // What a panic says is not meant for clients; it is on our standard error.
            Err(error) => (error.id(), Err("the handler panicked".to_owned())),
        };
        // Its connection is gone, and another worker has the request.
        let Some(held) = self.held.remove(&task) else { return };
        let outcome = outcome.map(|last| match held.joined {
            None => last,
            Some(before) => before.joined(last),
        });
        let outcome = outcome.and_then(|reply| match reply.check(&self.wire.limits) {
            Ok(()) => Ok(reply),
            Err(error) => Err(error.to_string()),
        });
        let reply = outcome.unwrap_or_else(|text| {
            Message::frames([Bytes::from_static(FAILED), Bytes::from(text)])
        });
        let out = &mut session.wire.tx;
        mdp::put_reply(out, self.protocol, Part::Final, &held.client, &reply);
        session.said = Instant::now();
        session.heard = session.said;
    }

    /// Gives signs of life and demands them. Returns when to call this again.
    ///
    /// Brokers owe heartbeats to idle workers only; while we hold requests, the signs of life of
    /// the broker's ZMTP have to do.
    fn beat(&mut self, session: &mut Session) -> Result<Instant, Lost> {
        let now = Instant::now();
        let WireConfig { heartbeat, liveness, .. } = self.wire;
        let mut next = session.wire.watch(now)?;
        if now >= session.said + heartbeat {
            // Old Paranoid Pirate queues take any word of a busy worker for an offer.
            let is_shy = self.protocol == Protocol::Ppp && !self.held.is_empty();
            // If there is no room, what stands there will be heard.
            if session.wire.has_room() && !is_shy {
                mdp::put_heartbeat(&mut session.wire.tx, self.protocol);
            }
            session.said = now;
        }
        next = next.min(session.said + heartbeat);
        if self.held.is_empty() && self.backlog.is_empty() {
            let dead = session.heard + heartbeat * liveness;
            if now >= dead {
                let silence = now - session.heard;
                return Err(format!("the broker sent no heartbeat for {silence:.1?}").into());
            }
            next = next.min(dead);
        }
        Ok(next)
    }
}

/// Far off, but not beyond what clocks can count.
fn deadline_after(span: Duration) -> Instant {
    Instant::now() + span.min(Duration::from_secs(365 * 24 * 3600))
}

/// Partial replies that wait for the driver, of all handlers together.
const PARTIALS_MAX: usize = 64;
