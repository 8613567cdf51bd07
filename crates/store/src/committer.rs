//! The one thread that owns an engine: it gathers calls, runs them in one transaction, commits once
//! and only then answers.
//!
//! While a commit is under way the next calls gather by themselves, so the batch grows with the
//! load and with the slowness of the disk. What a fault means is decided here, once:
//!
//! | fault | what follows |
//! |---|---|
//! | full | the reserve is freed; enqueues are refused, the rest goes on |
//! | broken | everything is answered with the reason, and nothing is taken any more |
//! | lost | the calls of this batch fail; the connection is tried anew with the next |
//! | failed | the calls of this batch run one by one, so that one cannot fail others |
//! | again | the batch runs again, as another transaction was in the way; then as if it failed |

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::api::{
    Answer, Capabilities, Claim, Command, Due, Enqueued, Error, Extend, Extended, Lease, Level,
    Listener, Notice, Query, Receipt, Refusal, Release, Reply, Settle, Settled, Store,
};
use crate::core::{Core, Settings, key_of};
use crate::limits;
use crate::rows::{Fault, Rows, Wants};
use crate::task::{NewTask, Now};

/// Calls of one commit: bounds how long the first of them waits for the last.
const CALLS: usize = 4_096;
/// Bytes of one commit, roughly.
const BYTES: usize = 4 << 20;
/// Bytes that may wait to be written before enqueues are refused.
const WAITING: usize = 256 << 20;
/// Calls a batch must have had before the next is worth waiting for.
const WORTH_WAITING: usize = 8;
/// Runs of a batch that other transactions are in the way of.
const TRIES: usize = 4;
/// The longest wait for a batch to fill.
const FILL: Duration = Duration::from_millis(1);
/// Nothing to do for so long is a time for housekeeping.
const IDLE: Duration = Duration::from_millis(100);

/// An open store. Dropping it closes it.
pub struct Engine {
    inbox: Sender<Message>,
    waiting: Arc<AtomicUsize>,
    capabilities: Capabilities,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    Call(Box<dyn Work>),
    /// What others did who share the engine.
    Heard(Vec<Notice>),
    Listen(Listener),
    Close,
}

/// A call whose types are forgotten.
trait Work: Send {
    /// Runs it in the open transaction; again if that came to nothing.
    fn run(&mut self, core: &mut dyn AnyCore) -> Result<(), Fault>;
    /// Ends it, with the level if what it did is committed.
    fn answer(self: Box<Self>, outcome: Result<Level, Error>);
    /// What this will ask for.
    fn wants(&self, wants: &mut Wants);
    /// Bytes it brings.
    fn weight(&self) -> usize;
    /// Needs room on the disk.
    fn grows(&self) -> bool;
}

/// The rules over whatever engine.
trait AnyCore {
    fn now(&mut self, asked: Now) -> Now;
    fn do_enqueue(&mut self, now: Now, tasks: &[NewTask]) -> Answers<Enqueued>;
    fn do_claim(&mut self, now: Now, claim: &Claim) -> Result<Vec<Lease>, Fault>;
    fn do_settle(&mut self, now: Now, settles: &[Settle]) -> Answers<Settled>;
    fn do_extend(&mut self, now: Now, extends: &[Extend]) -> Answers<Extended>;
    fn do_release(&mut self, now: Now, releases: &[Release]) -> Answers<()>;
    fn do_due(&mut self, now: Now) -> Result<Due, Fault>;
    fn do_command(&mut self, now: Now, command: &Command) -> Result<Result<u64, Refusal>, Fault>;
    fn do_query(&mut self, now: Now, query: &Query) -> Result<Answer, Fault>;
}

type Answers<T> = Result<Vec<Result<T, Refusal>>, Fault>;

impl<R: Rows> AnyCore for Core<R> {
    fn now(&mut self, asked: Now) -> Now {
        self.rows.now(asked)
    }
    fn do_enqueue(&mut self, now: Now, tasks: &[NewTask]) -> Answers<Enqueued> {
        self.enqueue(now, tasks)
    }
    fn do_claim(&mut self, now: Now, claim: &Claim) -> Result<Vec<Lease>, Fault> {
        self.claim(now, claim)
    }
    fn do_settle(&mut self, now: Now, settles: &[Settle]) -> Answers<Settled> {
        self.settle(now, settles)
    }
    fn do_extend(&mut self, now: Now, extends: &[Extend]) -> Answers<Extended> {
        self.extend(now, extends)
    }
    fn do_release(&mut self, now: Now, releases: &[Release]) -> Answers<()> {
        self.release(now, releases)
    }
    fn do_due(&mut self, now: Now) -> Result<Due, Fault> {
        self.due(now)
    }
    fn do_command(&mut self, now: Now, command: &Command) -> Result<Result<u64, Refusal>, Fault> {
        self.command(now, command)
    }
    fn do_query(&mut self, now: Now, query: &Query) -> Result<Answer, Fault> {
        self.query(now, query)
    }
}

/// A call with its types.
struct Call<A, T> {
    now: Now,
    args: A,
    weight: usize,
    grows: bool,
    run: fn(&mut dyn AnyCore, Now, &A) -> Result<T, Fault>,
    wants: fn(&A, &mut Wants),
    value: Option<T>,
    reply: Reply<T>,
}

impl<A: Send, T: Send> Work for Call<A, T> {
    fn run(&mut self, core: &mut dyn AnyCore) -> Result<(), Fault> {
        let now = core.now(self.now);
        self.value = Some((self.run)(core, now, &self.args)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<Level, Error>) {
        let Call { value, reply, .. } = *self;
        let unanswered = || Error::Unavailable("the call was not run".into());
        let answer = outcome
            .and_then(|level| value.map(|value| Receipt { value, level }).ok_or_else(unanswered));
        // A caller's panic is not the store's.
        let _ = catch_unwind(AssertUnwindSafe(|| reply(answer)));
    }

    fn wants(&self, wants: &mut Wants) {
        (self.wants)(&self.args, wants);
    }

    fn weight(&self) -> usize {
        self.weight
    }

    fn grows(&self) -> bool {
        self.grows
    }
}

impl Engine {
    /// Starts the thread that owns `rows`.
    pub(crate) fn start<R: Rows + 'static>(
        rows: R,
        capabilities: Capabilities,
        settings: Settings,
    ) -> Result<Engine, String> {
        let (inbox, calls) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut core =
            Core::new(rows, settings, capabilities).map_err(|fault| error_of(fault).to_string())?;
        let heard = inbox.clone();
        // A store that is closed hears nothing any more.
        core.rows.hear(Box::new(move |notices| drop(heard.send(Message::Heard(notices)))));
        let mut committer = Committer {
            core,
            calls,
            waiting: Arc::clone(&waiting),
            listeners: Vec::new(),
            last: (0, Duration::ZERO),
            full: None,
            stopped: None,
        };
        let thread = std::thread::Builder::new()
            .name(format!("store {}", capabilities.engine))
            .spawn(move || committer.serve())
            .map_err(|error| format!("the store's thread: {error}"))?;
        Ok(Engine { inbox, waiting, capabilities, thread: Mutex::new(Some(thread)) })
    }

    fn call<A: Send + 'static, T: Send + 'static>(&self, call: Call<A, T>) {
        let weight = call.weight + CALL_BYTES;
        let waiting = self.waiting.fetch_add(weight, Ordering::Relaxed);
        if call.grows && waiting > WAITING {
            self.waiting.fetch_sub(weight, Ordering::Relaxed);
            return (call.reply)(Err(Error::Busy(waiting)));
        }
        if let Err(mpsc::SendError(Message::Call(call))) =
            self.inbox.send(Message::Call(Box::new(call)))
        {
            self.waiting.fetch_sub(weight, Ordering::Relaxed);
            call.answer(Err(Error::Stopped("it was closed".into())));
        }
    }
}

/// What a call weighs beside what it brings.
const CALL_BYTES: usize = 256;

impl Store for Engine {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn enqueue(&self, now: Now, args: Vec<NewTask>, reply: Reply<Vec<Result<Enqueued, Refusal>>>) {
        let weight = args.iter().map(|task| task.payload.len() + 256).sum();
        self.call(Call {
            now,
            args,
            weight,
            grows: true,
            run: |core, now, args| core.do_enqueue(now, args),
            wants: |args, wants| {
                wants.tasks += args.len();
                let keys = args.iter().filter_map(key_of);
                wants.keys.extend(keys.map(|(kind, key)| (kind.to_owned(), key.to_owned())));
            },
            value: None,
            reply,
        });
    }

    fn claim(&self, now: Now, args: Claim, reply: Reply<Vec<Lease>>) {
        self.call(Call {
            now,
            args,
            weight: 0,
            grows: false,
            run: |core, now, args| core.do_claim(now, args),
            wants: |_, _| {},
            value: None,
            reply,
        });
    }

    fn settle(&self, now: Now, args: Vec<Settle>, reply: Reply<Vec<Result<Settled, Refusal>>>) {
        self.call(Call {
            now,
            weight: args.len() * 64,
            args,
            grows: false,
            run: |core, now, args| core.do_settle(now, args),
            wants: |args, wants| wants.ids.extend(args.iter().map(|settle| settle.token.task.0)),
            value: None,
            reply,
        });
    }

    fn extend(&self, now: Now, args: Vec<Extend>, reply: Reply<Vec<Result<Extended, Refusal>>>) {
        self.call(Call {
            now,
            weight: args.len() * 64,
            args,
            grows: false,
            run: |core, now, args| core.do_extend(now, args),
            wants: |args, wants| wants.ids.extend(args.iter().map(|extend| extend.token.task.0)),
            value: None,
            reply,
        });
    }

    fn release(&self, now: Now, args: Vec<Release>, reply: Reply<Vec<Result<(), Refusal>>>) {
        self.call(Call {
            now,
            weight: args.len() * 64,
            args,
            grows: false,
            run: |core, now, args| core.do_release(now, args),
            wants: |args, wants| wants.ids.extend(args.iter().map(|release| release.token.task.0)),
            value: None,
            reply,
        });
    }

    fn due(&self, now: Now, reply: Reply<Due>) {
        self.call(Call {
            now,
            args: (),
            weight: 0,
            grows: false,
            run: |core, now, ()| core.do_due(now),
            wants: |(), _| {},
            value: None,
            reply,
        });
    }

    fn command(&self, now: Now, args: Command, reply: Reply<Result<u64, Refusal>>) {
        if let Some(missing) = self.capabilities.lacks_for(&args) {
            return reply(Err(Error::Unsupported(missing)));
        }
        self.call(Call {
            now,
            args,
            weight: 0,
            grows: false,
            run: |core, now, args| core.do_command(now, args),
            wants: |_, _| {},
            value: None,
            reply,
        });
    }

    fn query(&self, now: Now, args: Query, reply: Reply<Answer>) {
        if let Some(missing) = self.capabilities.lacks_to_answer(&args) {
            return reply(Err(Error::Unsupported(missing)));
        }
        self.call(Call {
            now,
            args,
            weight: 0,
            grows: false,
            run: |core, now, args| core.do_query(now, args),
            wants: |_, _| {},
            value: None,
            reply,
        });
    }

    fn notify(&self, listener: Listener) {
        // A store that is closed tells nobody anything.
        let _ = self.inbox.send(Message::Listen(listener));
    }

    fn close(&self) {
        let _ = self.inbox.send(Message::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A listener may be what closes the store: a thread does not wait for itself.
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

struct Committer<R> {
    core: Core<R>,
    calls: Receiver<Message>,
    waiting: Arc<AtomicUsize>,
    listeners: Vec<Listener>,
    /// Calls of the last batch, and how long its commit took.
    last: (usize, Duration),
    /// Why enqueues are refused.
    full: Option<String>,
    /// Why everything is refused.
    stopped: Option<String>,
}

impl<R: Rows> Committer<R> {
    fn serve(&mut self) {
        let mut open = true;
        let mut restless = true;
        while open {
            let message = if restless {
                match self.calls.recv_timeout(IDLE) {
                    Ok(message) => Ok(message),
                    Err(RecvTimeoutError::Timeout) => {
                        restless = self.housekeep();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            } else {
                self.calls.recv()
            };
            let Ok(message) = message else { break };
            restless = true;
            let mut batch = Vec::new();
            open = self.gather(message, &mut batch);
            if !batch.is_empty() {
                self.commit(batch);
            }
        }
        self.core.rows.close();
    }

    fn housekeep(&mut self) -> bool {
        if self.stopped.is_some() {
            return false;
        }
        match self.core.rows.idle() {
            Ok(again) => again,
            Err(fault @ Fault::Broken(_)) => {
                self.stop(&error_of(fault));
                false
            }
            // What matters comes up with the next call.
            Err(Fault::Full(_) | Fault::Lost(_) | Fault::Failed(_) | Fault::Again(_)) => true,
        }
    }

    /// Takes what is there, and waits for more if the last batch says that is worth it. False when
    /// the store is to close.
    fn gather(&mut self, first: Message, batch: &mut Vec<Box<dyn Work>>) -> bool {
        let mut bytes = 0;
        let mut next = Some(first);
        let (calls, took) = self.last;
        let start = Instant::now();
        loop {
            match next.take() {
                Some(Message::Call(call)) => {
                    bytes += call.weight();
                    batch.push(call);
                }
                Some(Message::Listen(listener)) => self.listeners.push(listener),
                Some(Message::Heard(notices)) => self.tell(&notices),
                Some(Message::Close) => return false,
                None => {}
            }
            if batch.len() >= CALLS || bytes >= BYTES {
                return true;
            }
            next = self.calls.try_recv().ok();
            if next.is_some() {
                continue;
            }
            let fill = FILL.min(took / 8);
            if calls < WORTH_WAITING || batch.len() * 2 > calls || start.elapsed() >= fill {
                return true;
            }
            next = self.calls.recv_timeout(fill.saturating_sub(start.elapsed())).ok();
        }
    }

    fn commit(&mut self, mut batch: Vec<Box<dyn Work>>) {
        if let Some(reason) = &self.stopped {
            let error = Error::Stopped(reason.clone());
            return self.answer(batch, &Err(error));
        }
        if let Some(reason) = self.full.take()
            && !self.core.rows.has_room()
        {
            self.full = Some(reason.clone());
            let (growing, rest) = batch.into_iter().partition(|call| call.grows());
            self.answer(growing, &Err(Error::NoSpace(reason)));
            batch = rest;
        }
        let start = Instant::now();
        let calls = batch.len();
        match self.run_patiently(&mut batch) {
            Ok(level) => {
                self.last = (calls, start.elapsed());
                self.answer(batch, &Ok(level));
                let notices = std::mem::take(&mut self.core.notices);
                if !notices.is_empty() {
                    self.core.rows.told(&notices);
                    self.tell(&notices);
                }
            }
            Err(fault) => self.fail(batch, fault),
        }
    }

    /// Runs all of them, and again while other transactions are in the way.
    fn run_patiently(&mut self, batch: &mut [Box<dyn Work>]) -> Result<Level, Fault> {
        for _ in 1..TRIES {
            match self.run(batch) {
                Err(Fault::Again(_)) => {}
                outcome => return outcome,
            }
        }
        self.run(batch)
    }

    /// Runs and commits all of them, or none.
    fn run(&mut self, batch: &mut [Box<dyn Work>]) -> Result<Level, Fault> {
        self.core.notices.clear();
        let mut run = || {
            let mut wants = Wants::default();
            for call in batch.iter() {
                call.wants(&mut wants);
            }
            self.core.rows.begin(&wants)?;
            for call in batch.iter_mut() {
                call.run(&mut self.core)?;
            }
            self.core.rows.commit()
        };
        match run() {
            Ok(()) => Ok(self.core.rows.level()),
            Err(fault) => {
                self.core.rows.rollback();
                Err(fault)
            }
        }
    }

    fn fail(&mut self, mut batch: Vec<Box<dyn Work>>, fault: Fault) {
        match fault {
            Fault::Full(reason) => {
                if self.core.rows.free_reserve() {
                    return self.commit(batch);
                }
                if batch.iter().all(|call| call.grows()) || batch.len() == 1 {
                    self.full = Some(reason.clone());
                    return self.answer(batch, &Err(Error::NoSpace(reason)));
                }
                self.full = Some(reason);
                self.commit_apart(batch);
            }
            Fault::Failed(_) | Fault::Again(_) if batch.len() > 1 => self.commit_apart(batch),
            fault @ Fault::Broken(_) => {
                let error = error_of(fault);
                self.answer(batch, &Err(error.clone()));
                self.stop(&error);
            }
            fault @ Fault::Lost(_) => {
                let error = error_of(fault);
                self.answer(std::mem::take(&mut batch), &Err(error));
                // The next batch tries again if this comes to nothing.
                let _ = self.core.rows.reconnect();
            }
            fault @ (Fault::Failed(_) | Fault::Again(_)) => {
                self.answer(batch, &Err(error_of(fault)));
            }
        }
    }

    fn commit_apart(&mut self, batch: Vec<Box<dyn Work>>) {
        for call in batch {
            self.commit(vec![call]);
        }
    }

    fn answer(&mut self, batch: Vec<Box<dyn Work>>, outcome: &Result<Level, Error>) {
        for call in batch {
            self.waiting.fetch_sub(call.weight() + CALL_BYTES, Ordering::Relaxed);
            call.answer(outcome.clone());
        }
    }

    fn tell(&self, notices: &[Notice]) {
        for listener in &self.listeners {
            let _ = catch_unwind(AssertUnwindSafe(|| listener(notices)));
        }
    }

    fn stop(&mut self, error: &Error) {
        let reason = match error {
            Error::Stopped(reason) => reason.clone(),
            other @ (Error::NoSpace(_)
            | Error::Busy(_)
            | Error::Unavailable(_)
            | Error::Unsupported(_)) => other.to_string(),
        };
        self.tell(&[Notice::Stopped { reason: reason.clone() }]);
        self.stopped = Some(reason);
    }
}

fn error_of(fault: Fault) -> Error {
    match fault {
        Fault::Full(reason) => Error::NoSpace(reason),
        Fault::Broken(reason) => Error::Stopped(reason),
        Fault::Lost(reason) | Fault::Failed(reason) | Fault::Again(reason) => {
            Error::Unavailable(reason)
        }
    }
}

/// Items of one call are bounded where the call is made.
const _: () = assert!(limits::BATCH <= CALLS);
