//! The client and the worker for programs without async: the same ones, on a thread of their own.
//!
//! They stand where `mdcliapi` and `mdwrkapi` stood, and improve on them: the connection is kept
//! while the program does other things, so heartbeats go out however long a request takes.
//!
//! ```no_run
//! use maitred_client::blocking::{Client, Worker};
//!
//! # fn client() -> Result<(), maitred_client::Error> {
//! let client = Client::connect(["tcp://127.0.0.1:5555"])?;
//! println!("{}", client.call("echo", "hello")?.text());
//! # Ok(()) }
//!
//! # fn worker() -> Result<(), maitred_client::Error> {
//! let mut worker = Worker::connect("tcp://127.0.0.1:5555", "echo")?;
//! let mut reply = None;
//! loop {
//!     let request = worker.recv(reply)?;
//!     reply = Some(request);
//! }
//! # }
//! ```
//!
//! Nothing in here may be called from async code: it would block its runtime, and panics instead.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

mod meet;

pub use meet::{Acquire, Ask, Lock, MatchLine, Regulator};

use crate::client::ClientBuilder;
use crate::error::Error;
use crate::message::Message;
use crate::worker::{Request, WorkerBuilder, WorkerStatus};

/// Calls services through one or several brokers. Cheap to clone, and all clones may be used at
/// once, from any threads. See [the async one](crate::Client) for what it does.
#[derive(Clone, Debug)]
pub struct Client {
    // Before the runtime, which is to outlive it.
    client: crate::Client,
    runtime: Arc<Runtime>,
}

impl Client {
    /// A client of the brokers at `endpoints` (`tcp://host:port`), with the defaults of
    /// [`Client::builder`](crate::Client::builder).
    ///
    /// Returns at once: calls wait for a connection.
    ///
    /// # Errors
    /// If an endpoint cannot be read, or no thread can be started.
    pub fn connect<I>(endpoints: I) -> Result<Client, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        crate::Client::builder(endpoints).connect_blocking()
    }

    /// Calls a service and waits for its reply. See [`Client::call`](crate::Client::call).
    ///
    /// # Errors
    /// If there is none before the client's timeout, or it says that the request was refused or
    /// failed.
    pub fn call(
        &self,
        service: impl AsRef<[u8]>,
        body: impl Into<Message>,
    ) -> Result<Message, Error> {
        self.send(service, body).recv()
    }

    /// Sends a request and does not wait: many may be under way at once.
    pub fn send(&self, service: impl AsRef<[u8]>, body: impl Into<Message>) -> Pending {
        let mut call = self.client.call(service, body);
        let refused = {
            // Its deadline is a timer of the runtime.
            let _entered = self.runtime.handle.enter();
            call.submit().err()
        };
        Pending { call, refused, runtime: self.runtime.clone() }
    }

    /// Calls a service and hands out its replies one by one. See
    /// [`Client::stream`](crate::Client::stream).
    pub fn stream(&self, service: impl AsRef<[u8]>, body: impl Into<Message>) -> Replies {
        Replies { replies: self.client.stream(service, body), runtime: self.runtime.clone() }
    }

    /// The async client behind this one, for what is known of its connections.
    pub fn as_async(&self) -> &crate::Client {
        &self.client
    }
}

/// A call under way. Dropping it forgets the call.
#[derive(Debug)]
#[must_use = "a request whose reply nobody waits for is forgotten"]
pub struct Pending {
    call: crate::Call,
    /// Why it was not even sent.
    refused: Option<Error>,
    runtime: Arc<Runtime>,
}

impl Pending {
    /// Waits for the reply.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn recv(self) -> Result<Message, Error> {
        match self.refused {
            Some(error) => Err(error),
            None => self.runtime.handle.block_on(self.call),
        }
    }
}

/// The replies to one request, one by one: partial ones, then the final one or an error.
#[derive(Debug)]
#[must_use = "nothing is sent before the first reply is asked for"]
pub struct Replies {
    replies: crate::Replies,
    runtime: Arc<Runtime>,
}

impl Iterator for Replies {
    type Item = Result<Message, Error>;

    fn next(&mut self) -> Option<Result<Message, Error>> {
        self.runtime.handle.block_on(self.replies.next())
    }
}

/// Serves a service, one request at a time. Dropping it takes leave of the broker and hangs up; a
/// request that is not answered goes to another worker then.
#[derive(Debug)]
pub struct Worker {
    /// `None` only while it is being stopped.
    worker: Option<crate::Worker>,
    requests: mpsc::Receiver<Taken>,
    /// What [`Worker::recv`] gave out last, until it is answered.
    owed: Option<Taken>,
    runtime: Runtime,
}

/// A request on its way from the handler to the program.
#[derive(Debug)]
struct Taken {
    request: Request,
    answer: oneshot::Sender<Message>,
}

impl Worker {
    /// A worker of the broker at `endpoint` (`tcp://host:port`), with the defaults of
    /// [`Worker::builder`](crate::Worker::builder).
    ///
    /// # Errors
    /// If the endpoint or the service name is none, or no thread can be started.
    pub fn connect(
        endpoint: impl Into<String>,
        service: impl AsRef<[u8]>,
    ) -> Result<Worker, Error> {
        crate::Worker::builder(endpoint).serve_blocking(service)
    }

    /// Answers the last request, if there was one, and waits for the next.
    ///
    /// `None` for a request that was given out answers it with a failure.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the worker's thread is gone.
    pub fn recv(&mut self, reply: Option<Message>) -> Result<Message, Error> {
        self.answer(reply);
        let taken = self.requests.blocking_recv();
        self.take(taken)
    }

    /// As [`Worker::recv`], but `None` if no request comes for so long.
    ///
    /// # Errors
    /// As [`Worker::recv`].
    pub fn recv_timeout(
        &mut self,
        reply: Option<Message>,
        span: Duration,
    ) -> Result<Option<Message>, Error> {
        self.answer(reply);
        let waited =
            self.runtime.handle.block_on(async { timeout(span, self.requests.recv()).await });
        match waited {
            Err(_) => Ok(None),
            Ok(taken) => self.take(taken).map(Some),
        }
    }

    /// Sends a partial reply to the request that was given out last; does nothing if it was
    /// answered.
    ///
    /// # Errors
    /// As [`Request::partial`].
    pub fn partial(&mut self, reply: impl Into<Message>) -> Result<(), Error> {
        match &self.owed {
            Some(taken) => self.runtime.handle.block_on(taken.request.partial(reply)),
            None => Ok(()),
        }
    }

    /// What is known of its connection.
    pub fn status(&self) -> WorkerStatus {
        self.worker.as_ref().map(crate::Worker::status).unwrap_or_default()
    }

    /// Answers the last request, if there was one, takes leave of the broker, and hangs up.
    pub fn stop(mut self, reply: Option<Message>) {
        self.answer(reply);
        // A request that has just come in goes to another worker.
        self.requests.close();
        if let Some(worker) = self.worker.take() {
            self.runtime.handle.block_on(worker.stop(STOP_GRACE));
        }
    }

    fn answer(&mut self, reply: Option<Message>) {
        if let Some(Taken { answer, .. }) = self.owed.take()
            && let Some(reply) = reply
        {
            // It fails when the connection and all that came on it are gone.
            let _ = answer.send(reply);
        }
    }

    fn take(&mut self, taken: Option<Taken>) -> Result<Message, Error> {
        let mut taken = taken.ok_or(Error::Stopped)?;
        let body = std::mem::take(&mut taken.request.body);
        self.owed = Some(taken);
        Ok(body)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Where blocking is not allowed, the connection just ends.
        if let Some(worker) = self.worker.take()
            && Handle::try_current().is_err()
        {
            self.runtime.handle.block_on(worker.stop(Duration::ZERO));
        }
    }
}

impl ClientBuilder {
    /// The blocking client, on a thread of its own.
    ///
    /// # Errors
    /// If an endpoint cannot be read, or no thread can be started.
    pub fn connect_blocking(self) -> Result<Client, Error> {
        let runtime = Runtime::start("maitred-client")?;
        let client = {
            let _entered = runtime.handle.enter();
            self.connect()?
        };
        Ok(Client { client, runtime: Arc::new(runtime) })
    }
}

impl WorkerBuilder {
    /// The blocking worker, with its connection on a thread of its own.
    ///
    /// # Errors
    /// If the endpoint or the service name is none, or no thread can be started.
    pub fn serve_blocking(self, service: impl AsRef<[u8]>) -> Result<Worker, Error> {
        let runtime = Runtime::start("maitred-worker")?;
        let (taken, requests) = mpsc::channel(1);
        let handler = move |request| {
            let taken = taken.clone();
            async move {
                let (answer, answered) = oneshot::channel();
                if taken.send(Taken { request, answer }).await.is_err() {
                    // The program is stopping: what is not answered goes to another worker.
                    return std::future::pending().await;
                }
                answered.await.map_err(|_| "the worker gave no reply")
            }
        };
        let worker = {
            let _entered = runtime.handle.enter();
            self.serve::<_, _, Message, _>(service, 1, handler)?
        };
        Ok(Worker { worker: Some(worker), requests, owed: None, runtime })
    }
}

/// A single-threaded runtime that runs on a thread of its own until it is dropped.
#[derive(Debug)]
struct Runtime {
    handle: Handle,
    /// Dropped to end the thread.
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Runtime {
    fn start(name: &str) -> Result<Runtime, Error> {
        let no_thread = |error: std::io::Error| Error::NoThread { why: error.to_string().into() };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(no_thread)?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let run = move || {
            let _ = runtime.block_on(ended);
        };
        let thread = thread::Builder::new().name(name.into()).spawn(run).map_err(no_thread)?;
        Ok(Runtime { handle, end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did, nobody could be told here.
            let _ = thread.join();
        }
    }
}

/// The last reply is given already: this is for it to leave.
const STOP_GRACE: Duration = Duration::from_secs(1);
