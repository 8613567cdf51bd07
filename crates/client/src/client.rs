//! The client: a handle on the book of calls, and one task per connection that moves its bytes.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::backoff::{Backoff, QUICK};
use crate::calls::{BrokerStatus, Calls, CallsConfig, Request};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::mdp::{self, Part, Protocol};
use crate::meet::Labels;
use crate::message::Message;
use crate::tls::Trust;
use crate::wire::{Lost, Wire, WireConfig};

/// Calls services through one or several brokers.
///
/// Cheap to clone; all clones share the connections, and the last one to go closes them. Calls are
/// pipelined: any number of them may be under way at once.
///
/// A request that is under way when its connection is lost is sent again, on another connection,
/// until its deadline: Majordomo assumes that serving a request twice does no harm. Where it does,
/// say [`retry(false)`](Call::retry).
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

/// How to reach the brokers. See [`Client::builder`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    protocol: Protocol,
    pipelined: Option<bool>,
    window: usize,
    connections: usize,
    timeout: Option<Duration>,
    wire: WireConfig,
    tls_ca: Option<Vec<u8>>,
}

impl Client {
    /// A client of the brokers at `endpoints` (`tcp://host:port`), with the defaults of
    /// [`Client::builder`].
    ///
    /// Returns at once: calls wait for a connection.
    ///
    /// # Errors
    /// If an endpoint cannot be read, or there is no tokio runtime.
    pub fn connect<I>(endpoints: I) -> Result<Client, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Client::builder(endpoints).connect()
    }

    /// A client of the brokers at `endpoints` (`tcp://host:port`), to be configured.
    pub fn builder<I>(endpoints: I) -> ClientBuilder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        ClientBuilder {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            protocol: Protocol::default(),
            pipelined: None,
            window: 4096,
            connections: 1,
            timeout: Some(Duration::from_secs(10)),
            wire: WireConfig::default(),
            tls_ca: None,
        }
    }

    /// Calls a service and waits for its reply. Partial replies, if the worker sends any, are
    /// joined: the frames of all of them, then those of the final one.
    ///
    /// Nothing is sent before the call is awaited, and a call that is dropped is forgotten at once:
    /// it is not sent if it was not yet, and its reply is thrown away.
    pub fn call(&self, service: impl AsRef<[u8]>, body: impl Into<Message>) -> Call {
        Call { ticket: self.ticket(service.as_ref(), body.into(), false) }
    }

    /// Calls a service and hands out its replies one by one. See [`Client::call`].
    pub fn stream(&self, service: impl AsRef<[u8]>, body: impl Into<Message>) -> Replies {
        Replies { ticket: self.ticket(service.as_ref(), body.into(), true), is_done: false }
    }

    /// Waits until there is a connection to at least one broker. Calls do so by themselves.
    pub async fn connected(&self) {
        let mut any_up = self.inner.shared.any_up.subscribe();
        // It fails when the sender is gone, and we hold it.
        let _ = any_up.wait_for(|&any_up| any_up).await;
    }

    /// What is known of each connection.
    pub fn brokers(&self) -> Vec<BrokerStatus> {
        self.inner.shared.enter(|calls| calls.statuses(Instant::now()))
    }

    /// How many calls there are that were started and neither ended nor dropped.
    pub fn calls_in_flight(&self) -> usize {
        self.inner.shared.enter(|calls| calls.len())
    }

    /// How long calls may take that say nothing else.
    pub(crate) fn usual_timeout(&self) -> Option<Duration> {
        self.inner.timeout
    }

    /// Runs something beside its caller, where the connections are.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.inner.runtime.spawn(task)
    }

    pub(crate) fn labels(&self) -> &Labels {
        &self.inner.labels
    }

    /// Why something did not come in time.
    pub(crate) fn late(&self, service: &str, after: Duration) -> Error {
        self.inner.shared.enter(|calls| match calls.any_up() {
            true => Error::Timeout { service: service.into(), after },
            false => Error::Unreachable { after, why: calls.troubles() },
        })
    }

    /// Whether it may be taken for one process.
    pub(crate) fn check_meets(&self) -> Result<(), Error> {
        let problem = match (&self.inner.shared.bells[..], self.inner.pipelined) {
            ([_], true) => return Ok(()),
            (_, true) => "this client has several connections",
            (_, false) => "this client has one call at a time on its connection",
        };
        Err(Error::CannotMeet { problem })
    }

    fn ticket(&self, service: &[u8], body: Message, streaming: bool) -> Ticket {
        let request = Request {
            service: Bytes::copy_from_slice(service),
            body,
            retry: true,
            streaming,
            urgent: false,
        };
        Ticket {
            inner: self.inner.clone(),
            state: TicketState::New(Some(request)),
            timeout: self.inner.timeout,
            deadline: None,
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("brokers", &self.brokers()).finish()
    }
}

impl ClientBuilder {
    /// The protocol to speak; MDP/0.2 by default, MDP/0.1 for brokers that know nothing else, and
    /// [`Protocol::Ppp`] for the front end of a Paranoid Pirate queue, which serves one service,
    /// whatever name is called.
    pub fn protocol(mut self, protocol: Protocol) -> ClientBuilder {
        self.protocol = protocol;
        self
    }

    /// Whether a connection carries many calls at once; by default it does in MDP/0.2 and does not
    /// in MDP/0.1.
    ///
    /// Majordomo has no correlation ids. Pipelined calls are told apart by a return stack of one
    /// frame in front of the envelope, as a request that came through a proxy would have: maitred
    /// gives it back, but the well-known MDP/0.1 brokers ignore requests that have one. Without it
    /// a connection carries one call at a time, as a REQ socket would, and is closed when a call
    /// under way is dropped.
    pub fn pipelined(mut self, pipelined: bool) -> ClientBuilder {
        self.pipelined = Some(pipelined);
        self
    }

    /// Most calls under way on one connection; more wait their turn in the client. 4,096 by
    /// default.
    pub fn window(mut self, calls: usize) -> ClientBuilder {
        self.window = calls.max(1);
        self
    }

    /// Connections to each broker; one by default. More of them help where calls are not
    /// [pipelined](ClientBuilder::pipelined).
    pub fn connections(mut self, per_broker: usize) -> ClientBuilder {
        self.connections = per_broker.max(1);
        self
    }

    /// How long calls may take that say nothing else; 10 s by default, `None` for any time.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> ClientBuilder {
        self.timeout = timeout.into();
        self
    }

    /// After how much silence a broker is asked for a sign of life (3 s by default), and how many
    /// times (3 by default) before its connection is given up.
    pub fn heartbeat(mut self, interval: Duration, liveness: u32) -> ClientBuilder {
        self.wire.heartbeat = interval.max(Duration::from_millis(1));
        self.wire.liveness = liveness.max(1);
        self
    }

    /// Talks to nobody but the broker with that key, and proves to it that it has `keys`; all
    /// traffic is sealed (CURVE).
    pub fn curve(mut self, server: zmtp::PublicKey, keys: zmtp::KeyPair) -> ClientBuilder {
        self.wire.security = zmtp::Security::CurveClient { server, keys };
        self
    }

    /// Gives a name and a password, which everybody on the way can read (PLAIN). Each has at most
    /// 255 bytes; what is longer is cut, and then refused by the broker.
    pub fn plain(mut self, username: &str, password: &str) -> ClientBuilder {
        let cut = |text: &str| text[..text.floor_char_boundary(255)].into();
        let (username, password) = (cut(username), zeroize::Zeroizing::new(cut(password)));
        self.wire.security = zmtp::Security::PlainClient { username, password };
        self
    }

    /// At `tls://host:port` endpoints, believes brokers whose certificate is for that host and was
    /// signed by one of these authorities: their certificates in PEM, as many as you like. TLS says
    /// who the broker is; who we are is said by [`plain`](ClientBuilder::plain) or
    /// [`curve`](ClientBuilder::curve).
    pub fn tls_ca(mut self, pem: impl Into<Vec<u8>>) -> ClientBuilder {
        self.tls_ca = Some(pem.into());
        self
    }

    /// What a message may hold, sent or received.
    pub fn limits(mut self, limits: zmtp::Limits) -> ClientBuilder {
        self.wire.limits = limits;
        self
    }

    /// Starts the connections, on the tokio runtime this is called in. Returns at once.
    ///
    /// # Errors
    /// If an endpoint cannot be read or lacks [`tls_ca`](ClientBuilder::tls_ca), or there is no
    /// tokio runtime.
    pub fn connect(mut self) -> Result<Client, Error> {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let mut endpoints = Vec::new();
        for text in &self.endpoints {
            let endpoint = Endpoint::parse(text)?;
            endpoints.extend(std::iter::repeat_n(endpoint, self.connections));
        }
        if endpoints.is_empty() {
            return Err(Error::Endpoint { endpoint: "".into(), problem: "there is none" });
        }
        self.wire.trust = Trust::for_endpoints(self.tls_ca.as_deref(), endpoints.iter())?;
        let pipelined = self.pipelined.unwrap_or(self.protocol == Protocol::V02);
        let config = CallsConfig {
            protocol: self.protocol,
            pipelined,
            window: if pipelined { self.window } else { 1 },
            replies_bytes_max: self.wire.limits.message_bytes_max,
        };
        let names = endpoints.iter().map(|endpoint| endpoint.as_str().into());
        let shared = Arc::new(Shared {
            calls: Mutex::new(Calls::new(names, config)),
            bells: endpoints.iter().map(|_| Notify::new()).collect(),
            any_up: watch::Sender::new(false),
            protocol: self.protocol,
        });
        let drivers = endpoints.into_iter().enumerate().map(|(index, endpoint)| {
            let driver =
                Driver { shared: shared.clone(), index, endpoint, wire: self.wire.clone() };
            runtime.spawn(driver.run()).abort_handle()
        });
        let drivers = drivers.collect();
        let inner = Inner {
            shared,
            drivers,
            timeout: self.timeout,
            limits: self.wire.limits,
            pipelined,
            runtime,
            labels: Labels::default(),
        };
        Ok(Client { inner: Arc::new(inner) })
    }
}

/// What all clones of a client, and all its calls, share.
struct Inner {
    shared: Arc<Shared>,
    drivers: Vec<AbortHandle>,
    timeout: Option<Duration>,
    limits: zmtp::Limits,
    pipelined: bool,
    runtime: Handle,
    labels: Labels,
}

impl Drop for Inner {
    /// Nobody waits for anything any more: every call holds the client.
    fn drop(&mut self) {
        self.drivers.iter().for_each(AbortHandle::abort);
    }
}

/// What the client and its drivers share.
struct Shared {
    calls: Mutex<Calls>,
    /// One per line, rung when it has something to do.
    bells: Vec<Notify>,
    any_up: watch::Sender<bool>,
    protocol: Protocol,
}

impl Shared {
    /// Opens the book for `entry`, and then tells everybody what it means for them.
    fn enter<T>(&self, entry: impl FnOnce(&mut Calls) -> T) -> T {
        let mut calls = self.calls.lock().expect("nobody panics while the book is open");
        let result = entry(&mut calls);
        for line in calls.due.lines.drain(..) {
            self.bells[line].notify_one();
        }
        let callers = std::mem::take(&mut calls.due.callers);
        // A waker may run anything.
        drop(calls);
        callers.into_iter().for_each(Waker::wake);
        result
    }
}

/// One call, as its caller holds it.
struct Ticket {
    inner: Arc<Inner>,
    state: TicketState,
    timeout: Option<Duration>,
    /// Runs from the first poll on.
    deadline: Option<Pin<Box<Sleep>>>,
}

enum TicketState {
    /// Until it is sent; `None` never outlives a call to [`Ticket::submit`].
    New(Option<Request>),
    /// In the book.
    Submitted(u64),
    /// Not in the book any more.
    Over,
}

impl Ticket {
    fn submit(&mut self) -> Result<u64, Error> {
        let request = match &mut self.state {
            TicketState::Submitted(id) => return Ok(*id),
            TicketState::New(request) => request.take(),
            TicketState::Over => None,
        };
        self.state = TicketState::Over;
        let request = request.expect("a call that is over is not polled again");
        self.check(&request)?;
        let now = Instant::now();
        let id = self.inner.shared.enter(|calls| calls.submit(request, now));
        self.state = TicketState::Submitted(id);
        self.arm(now);
        Ok(id)
    }

    fn arm(&mut self, now: Instant) {
        let until = self.timeout.and_then(|timeout| now.checked_add(timeout));
        match (until, &mut self.deadline) {
            (None, deadline) => *deadline = None,
            (Some(until), Some(deadline)) => deadline.as_mut().reset(until),
            (Some(until), deadline) => *deadline = Some(Box::pin(sleep_until(until))),
        }
    }

    /// A request the broker would hang up for harms all others on its connection.
    fn check(&self, request: &Request) -> Result<(), Error> {
        let len = request.service.len();
        if !(1..=255).contains(&len) {
            return Err(Error::ServiceName { len });
        }
        request.body.check(&self.inner.limits)
    }

    /// To be asked when there is no reply.
    fn poll_deadline(&mut self, id: u64, cx: &mut Context<'_>) -> Poll<Error> {
        let (Some(deadline), Some(after)) = (&mut self.deadline, self.timeout) else {
            return Poll::Pending;
        };
        match deadline.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.state = TicketState::Over;
                let now = Instant::now();
                Poll::Ready(self.inner.shared.enter(|calls| calls.expire(id, after, now)))
            }
        }
    }

    fn set_retry(&mut self, retry: bool) {
        if let TicketState::New(Some(request)) = &mut self.state {
            request.retry = retry;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let TicketState::Submitted(id) = self.state {
            self.inner.shared.enter(|calls| calls.forget(id, Instant::now()));
        }
    }
}

/// A call under way: a future of its reply. See [`Client::call`].
#[must_use = "nothing is sent before a call is awaited"]
pub struct Call {
    ticket: Ticket,
}

impl Call {
    /// How long to wait for the reply, from the first poll on; `None` for any time.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Call {
        self.ticket.timeout = timeout.into();
        self
    }

    /// Whether the request may be sent again when the connection it was sent on is lost; true by
    /// default. If not, the call ends with [`Error::ConnectionLost`] then.
    ///
    /// This is about our own sending only. A broker may still give the request to another worker
    /// when the one that holds it is lost.
    pub fn retry(mut self, retry: bool) -> Call {
        self.ticket.set_retry(retry);
        self
    }

    /// Sends the request even if as many are under way as may be: it is one that ends others.
    pub(crate) fn urgent(mut self) -> Call {
        if let TicketState::New(Some(request)) = &mut self.ticket.state {
            request.urgent = true;
        }
        self
    }

    /// Forgets the call if the broker knows nothing of it. Whether it is over.
    pub(crate) fn forget_unsent(&mut self) -> bool {
        let over = match self.ticket.state {
            TicketState::Submitted(id) => {
                let now = Instant::now();
                self.ticket.inner.shared.enter(|calls| calls.forget_unsent(id, now))
            }
            TicketState::New(_) | TicketState::Over => true,
        };
        if over {
            self.ticket.state = TicketState::Over;
        }
        over
    }

    /// Sends the request without waiting for anything.
    pub(crate) fn submit(&mut self) -> Result<(), Error> {
        self.ticket.submit().map(drop)
    }
}

impl Future for Call {
    type Output = Result<Message, Error>;

    fn poll(mut self: Pin<&mut Call>, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        let ticket = &mut self.ticket;
        let id = ticket.submit()?;
        let reply = ticket.inner.shared.enter(|calls| calls.poll_reply(id, cx));
        match reply {
            Poll::Ready(outcome) => {
                ticket.state = TicketState::Over;
                Poll::Ready(outcome)
            }
            Poll::Pending => ticket.poll_deadline(id, cx).map(Err),
        }
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

/// The replies to one request, one by one. See [`Client::stream`].
#[must_use = "nothing is sent before the first reply is awaited"]
pub struct Replies {
    ticket: Ticket,
    is_done: bool,
}

impl Replies {
    /// How long to wait for each reply, from when the one before it came; `None` for any time.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Replies {
        self.ticket.timeout = timeout.into();
        self
    }

    /// Whether the request may be sent again when the connection is lost before the first reply
    /// came; true by default. After that it never is. See [`Call::retry`].
    pub fn retry(mut self, retry: bool) -> Replies {
        self.ticket.set_retry(retry);
        self
    }

    /// The next reply; `None` after the final one, and after an error. May be dropped and called
    /// again.
    pub async fn next(&mut self) -> Option<Result<Message, Error>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Replies::next`], for those who implement a `Stream` with it.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        if self.is_done {
            return Poll::Ready(None);
        }
        let id = match self.ticket.submit() {
            Ok(id) => id,
            Err(error) => {
                self.is_done = true;
                return Poll::Ready(Some(Err(error)));
            }
        };
        let part = self.ticket.inner.shared.enter(|calls| calls.poll_part(id, cx));
        match part {
            Poll::Ready((reply, Part::Partial)) => {
                self.ticket.arm(Instant::now());
                Poll::Ready(Some(reply))
            }
            Poll::Ready((outcome, Part::Final)) => {
                self.is_done = true;
                self.ticket.state = TicketState::Over;
                Poll::Ready(Some(outcome))
            }
            Poll::Pending => {
                let expired = self.ticket.poll_deadline(id, cx);
                self.is_done = expired.is_ready();
                expired.map(|error| Some(Err(error)))
            }
        }
    }

    /// Whether the last reply [`Replies::next`] gave was the final one, or an error.
    pub fn is_done(&self) -> bool {
        self.is_done
    }
}

impl std::fmt::Debug for Replies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replies").field("is_done", &self.is_done).finish_non_exhaustive()
    }
}

/// The task that keeps one line.
struct Driver {
    shared: Arc<Shared>,
    index: usize,
    endpoint: Endpoint,
    wire: WireConfig,
}

/// Why a connection ended.
enum End {
    /// We wanted it to.
    HangUp,
    Lost(Lost),
}

impl Driver {
    async fn run(self) {
        let mut backoff = Backoff::new(QUICK);
        loop {
            match Wire::connect(&self.endpoint, &self.wire).await {
                Ok(wire) => {
                    let since = Instant::now();
                    let end = self.keep(wire).await;
                    backoff.connection_lasted(since.elapsed());
                    match end {
                        End::HangUp => {
                            self.down("closed because a call was dropped".into());
                            continue;
                        }
                        End::Lost(why) => self.down(why),
                    }
                }
                Err(why) => self.shared.enter(|calls| calls.line_failed(self.index, why)),
            }
            sleep(backoff.next()).await;
        }
    }

    /// Moves bytes until the connection ends.
    async fn keep(&self, mut wire: Wire) -> End {
        self.shared.enter(|calls| calls.line_up(self.index, Instant::now()));
        self.shared.any_up.send_replace(true);
        let mut timer = pin!(sleep(self.wire.heartbeat));
        loop {
            let now = Instant::now();
            let hang_up = self.shared.enter(|calls| {
                while wire.has_room() && calls.put_next(self.index, now, &mut wire.tx) {}
                calls.must_hang_up(self.index)
            });
            if hang_up {
                return End::HangUp;
            }
            let turn = tokio::select! {
                biased;
                moved = wire.io() => moved.and_then(|()| self.receive(&mut wire)),
                () = self.shared.bells[self.index].notified() => Ok(()),
                () = &mut timer => {
                    wire.watch(Instant::now()).map(|next| timer.as_mut().reset(next))
                }
            };
            if let Err(why) = turn {
                return End::Lost(why);
            }
        }
    }

    fn receive(&self, wire: &mut Wire) -> Result<(), Lost> {
        let now = Instant::now();
        self.shared.enter(|calls| {
            wire.receive(|incoming| {
                if let Some(head) = mdp::read_reply(incoming.view, self.shared.protocol) {
                    calls.reply(self.index, head, incoming.body(head.body_from), now);
                }
            })
        })
    }

    fn down(&self, why: Lost) {
        let any_up = self.shared.enter(|calls| {
            calls.line_lost(self.index, why, Instant::now());
            calls.any_up()
        });
        self.shared.any_up.send_replace(any_up);
    }
}
