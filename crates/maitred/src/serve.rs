//! `maitred serve`: binds, starts the reactor on its own thread, and serves HTTP and signals beside
//! it.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sessions::{Dialect, Shard, ShardConfig};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

use crate::Failure;
use crate::calls::Calls;
use crate::config::{self, Endpoint, LogFormat, Mechanism, Overrides, Settings, Tasks};
use crate::http::{self, House};
use crate::inbox::{Command, Inbox};
use crate::reactor::Reactor;
use crate::tasks::{Desk, Opened, StoreUrl, Unopened, open_store};
use crate::transport::{self, Listener, Place};
use crate::view::Clock;

/// What to do if STOMP cannot be listened for.
const OTHER_BROKER: &str = "if another STOMP broker has this port, choose another one with \
                            --stomp tcp://127.0.0.1:PORT, or none with --stomp off";

/// What a reload found.
pub(crate) struct NewRules {
    pub(crate) shard: ShardConfig,
    /// What `tls://` listeners show from here on.
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    /// Keys that changed but only count from the next start on.
    pub(crate) needs_restart: Vec<&'static str>,
}

/// Where the configuration comes from, and what it was at the start.
struct Source {
    path: Option<PathBuf>,
    overrides: Overrides,
    started: Settings,
}

impl Source {
    fn reload(&self) -> Result<NewRules, String> {
        let new = Settings::load(self.path.as_deref(), &self.overrides)
            .map_err(|error| error.to_string())?;
        let old = &self.started;
        let mut shard = new.shard;
        let mut needs_restart = Vec::new();
        if new.mdp != old.mdp {
            needs_restart.push("mdp.listen");
        }
        if new.ppp != old.ppp {
            needs_restart.push("paranoid_pirate");
            // Listeners refer to their queues by place.
            shard.pairs.clone_from(&old.shard.pairs);
        }
        if new.stomp != old.stomp {
            needs_restart.push("stomp.listen");
        }
        if new.tokens != old.tokens {
            needs_restart.push("principals.token_file");
        }
        if new.tasks != old.tasks {
            needs_restart.push("store");
        }
        if new.http != old.http || new.http_token != old.http_token {
            needs_restart.push("http");
        }
        if (&new.log_level, new.log_format) != (&old.log_level, old.log_format) {
            needs_restart.push("log");
        }
        Ok(NewRules { shard, tls: new.tls, needs_restart })
    }
}

/// Runs a broker until it was drained.
pub(crate) fn run(
    path: Option<PathBuf>,
    overrides: Overrides,
    data: Option<PathBuf>,
) -> Result<(), Failure> {
    let settings = Settings::load(path.as_deref(), &overrides)
        .map_err(|error| Failure::config(error.to_string()))?;
    let _log = start_log(&settings);
    let _lock = data.clone().map(lock_data).transpose()?;
    raise_file_limit(settings.shard.limits.connections);
    let opened = open_tasks(&settings, data)?;
    let found = match &opened {
        Ok(opened) => opened.found.clone(),
        Err(why) => format!("store none: {why}"),
    };
    let broker = Broker::bind(settings, path, overrides, opened)?;
    let mut lines = vec![found];
    lines.extend(broker.addresses());
    lines.push("ready".to_owned());
    lines.extend(broker.hints());
    // A reader that went away must not end the broker.
    let _ = writeln!(std::io::stdout(), "{}", lines.join("\n"));
    broker.run()
}

/// Where data is kept if nobody says.
const DATA: &str = "maitred-data";

/// Opens the store that was asked for. Without one, a file in the data directory; if that is not to
/// be had and nobody named it, there are no tasks, and this says why.
fn open_tasks(
    settings: &Settings,
    data: Option<PathBuf>,
) -> Result<Result<Opened, String>, Failure> {
    let Tasks { url, options, .. } = &settings.tasks;
    let named = url.is_some() || data.is_some();
    let usual = || StoreUrl::Sqlite(data.unwrap_or(DATA.into()).join("tasks.db"));
    let url = url.clone().unwrap_or_else(usual);
    match open_store(&url, *options) {
        Ok(Some(opened)) => {
            tracing::info!("{}", opened.found);
            Ok(Ok(opened))
        }
        Ok(None) => Ok(Err("no store is configured: start with --store sqlite:PATH".into())),
        Err(Unopened { message, no_place }) if no_place && !named => {
            let message = format!("{message}; name another with --store sqlite:PATH, or off");
            tracing::warn!(message, "there are no tasks");
            Ok(Err(message))
        }
        Err(Unopened { message, .. }) => Err(Failure::new(message)),
    }
}

/// A bound broker.
pub(crate) struct Broker {
    desk: Option<Arc<Desk>>,
    calls: Arc<Calls>,
    /// Why there is no desk.
    no_desk: String,
    reactor: Reactor,
    inbox: Arc<Inbox>,
    source: Arc<Source>,
    http: Option<(std::net::TcpListener, SocketAddr)>,
    mdp: Vec<Place>,
    /// Front and back end of each Paranoid Pirate queue, and its service.
    ppp: Vec<([Place; 2], String)>,
    stomp: Option<Place>,
    runtime: Runtime,
    /// SIGTERM, SIGINT, SIGHUP: heard from here on.
    signals: [Signal; 3],
}

impl Broker {
    /// Binds every endpoint; nothing is served yet.
    pub(crate) fn bind(
        settings: Settings,
        path: Option<PathBuf>,
        overrides: Overrides,
        opened: Result<Opened, String>,
    ) -> Result<Broker, Failure> {
        let mut settings = settings;
        // Without a store, peers may serve these names themselves.
        settings.shard.titanic = settings.tasks.plan.titanic && opened.is_ok();
        let mut listeners = Vec::new();
        let mut mdp = Vec::new();
        let guards = |endpoint: &Endpoint, mechanism: Mechanism| {
            settings.insecure || mechanism.guards(endpoint.scheme)
        };
        for (endpoint, mechanism, dialect) in &settings.mdp {
            let (listener, place) = transport::listen(endpoint, guards(endpoint, *mechanism))?;
            mdp.push(place);
            listeners.push((listener, *dialect));
        }
        let mut ppp = Vec::new();
        for (place, queue) in settings.ppp.iter().enumerate() {
            let mut listen = |(endpoint, dialect): (&Endpoint, Dialect)| {
                let guarded = guards(endpoint, queue.mechanism);
                let (listener, place) = transport::listen(endpoint, guarded)?;
                listeners.push((listener, dialect));
                Ok(place)
            };
            let [front, back] = queue.listeners(place);
            ppp.push(([listen(front)?, listen(back)?], queue.service.clone()));
        }
        let stomp = listen_for_stomp(&settings, &mut listeners)?;
        let http = match &settings.http {
            None => None,
            Some(address) => {
                let name = format!("http://{address}");
                let listener = transport::bind_tcp(address, &name, settings.insecure)?;
                let address = transport::local_address(&listener)?;
                Some((listener, address))
            }
        };
        let clock = Clock::start();
        let seed = (fastrand::u64(..), fastrand::u64(..));
        let shard = Shard::new(settings.shard.clone(), seed, 0, 1, clock.now())
            .with_rules_read_by(config::read_place);
        let tls = settings.tls.clone();
        let mut reactor = Reactor::new(shard, clock, listeners, tls, settings.drain_timeout)
            .map_err(|error| Failure::new(format!("cannot start the reactor: {error}")))?;
        let inbox = reactor.inbox();
        let source = Arc::new(Source { path, overrides, started: settings });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| Failure::new(format!("cannot start the runtime: {error}")))?;
        let calls = Arc::new(Calls::new(inbox.clone()));
        let plan = source.started.tasks.plan;
        let desk = opened.map(|opened| {
            Desk::open(opened, inbox.clone(), calls.clone(), runtime.handle().clone(), plan)
        });
        let no_desk = desk.as_ref().err().cloned().unwrap_or_default();
        reactor.set_desk(desk.clone());
        let desk = desk.ok();
        let signals = hear_signals(&runtime)
            .map_err(|error| Failure::new(format!("cannot listen to signals: {error}")))?;
        Ok(Broker {
            desk,
            calls,
            no_desk,
            reactor,
            inbox,
            source,
            http,
            mdp,
            ppp,
            stomp,
            runtime,
            signals,
        })
    }

    /// Where Majordomo clients and workers connect.
    pub(crate) fn mdp_endpoint(&self) -> Option<String> {
        self.mdp.first().map(Place::to_string)
    }

    /// How other threads reach the broker.
    pub(crate) fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    fn addresses(&self) -> Vec<String> {
        let mdp = self.mdp.iter().map(|address| format!("listening mdp {address}"));
        let http = self.http.iter().map(|(_, address)| format!("listening http http://{address}"));
        let ppp = self.ppp.iter().flat_map(|([front, back], service)| {
            [
                format!("listening ppp-frontend {front} service {service}"),
                format!("listening ppp-backend {back} service {service}"),
            ]
        });
        let stomp = self.stomp.iter().map(|address| format!("listening stomp {address}"));
        mdp.chain(ppp).chain(stomp).chain(http).collect()
    }

    /// A line to try for each listener.
    fn hints(&self) -> Vec<String> {
        let mut hints = Vec::new();
        if let Some(address) = self.mdp.first() {
            hints.push(format!("try: maitred work upper --mdp {address} -- tr a-z A-Z"));
            hints.push(format!("     maitred call upper 'hello' --mdp {address}"));
        }
        if let Some(([front, back], service)) = self.ppp.first() {
            hints.push(format!("try: maitred work {service} --ppp {back} -- tr a-z A-Z"));
            hints.push(format!("     maitred call {service} 'hello' --ppp {front}"));
        }
        if let Some(Place::Tcp(address)) = &self.stomp {
            hints.push(format!(
                "     printf 'STOMP\\n\\n\\0SEND\\ndestination:/service/upper\\n\
                 reply-to:/temp-queue/a\\n\\nhello\\0' | nc -q 1 {} {}",
                address.ip(),
                address.port()
            ));
        }
        if let Some((_, address)) = &self.http {
            hints.push(format!("     curl -d hello http://{address}/v1/services/upper"));
            if self.desk.is_some() {
                hints.push(format!("     curl -d hello http://{address}/v1/tasks/upper"));
            }
        }
        hints
    }

    /// Serves until drained.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let Broker { desk, calls, no_desk, reactor, inbox, source, http, runtime, signals, .. } =
            self;
        if let Some(desk) = &desk {
            runtime.spawn(desk.clone().drive());
        }
        runtime.spawn(obey_signals(signals, inbox.clone(), source.clone()));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let served = http.map(|(listener, address)| {
            let settings = &source.started;
            let reload = {
                let source = source.clone();
                Box::new(move || source.reload())
            };
            let body_max =
                settings.shard.zmtp.message_bytes_max.min(settings.shard.zmtp.frame_bytes_max);
            let house = House::new(
                inbox,
                calls,
                desk.clone().ok_or(no_desk),
                settings.http_token.clone(),
                settings.tokens.clone(),
                address,
                &settings.http_hosts,
                usize::try_from(body_max).unwrap_or(usize::MAX),
                reload,
            );
            runtime.spawn(serve_http(listener, Arc::new(house), stopped))
        });
        let reactor = std::thread::Builder::new()
            .name("reactor".into())
            .spawn(move || reactor.run())
            .map_err(|error| Failure::new(format!("cannot start the reactor: {error}")))?;
        let ended = reactor.join().map_err(|_| Failure::new("the reactor panicked"))?;
        // Whoever was told something by the reactor must hear it over HTTP, too.
        drop(stop);
        if let Some(served) = served {
            let _ = runtime.block_on(async { tokio::time::timeout(LAST_REPLIES, served).await });
        }
        runtime.shutdown_timeout(Duration::from_millis(200));
        if let Some(desk) = desk {
            desk.close();
        }
        ended.map_err(|error| {
            // What stops the broker on purpose says why by itself.
            let prefix = match error.kind() == std::io::ErrorKind::Other {
                true => "",
                false => "the reactor failed: ",
            };
            Failure::new(format!("{prefix}{error}"))
        })
    }
}

/// How long HTTP may go on writing when the broker has ended.
const LAST_REPLIES: Duration = Duration::from_secs(1);

/// Serves until `stopped` is over, and then finishes the replies that are under way.
fn listen_for_stomp(
    settings: &Settings,
    listeners: &mut Vec<(Listener, Dialect)>,
) -> Result<Option<Place>, Failure> {
    let Some(door) = &settings.stomp else { return Ok(None) };
    let (listener, place) = transport::listen(&door.endpoint, settings.insecure)
        .map_err(|failure| failure.advise(OTHER_BROKER))?;
    listeners.push((listener, door.dialect));
    Ok(Some(place))
}

async fn serve_http(
    listener: std::net::TcpListener,
    house: Arc<House>,
    stopped: tokio::sync::oneshot::Receiver<()>,
) {
    let served = async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let over = async {
            let _ = stopped.await;
        };
        axum::serve(listener, http::routes(house)).with_graceful_shutdown(over).await
    };
    if let Err(error) = served.await {
        tracing::error!(%error, "HTTP stopped");
    }
}

fn hear_signals(runtime: &Runtime) -> std::io::Result<[Signal; 3]> {
    let _context = runtime.enter();
    Ok([
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ])
}

/// SIGTERM and SIGINT drain, SIGHUP reloads.
async fn obey_signals(signals: [Signal; 3], inbox: Arc<Inbox>, source: Arc<Source>) {
    let [mut terminate, mut interrupt, mut hangup] = signals;
    loop {
        tokio::select! {
            _ = terminate.recv() => drain(&inbox),
            _ = interrupt.recv() => drain(&inbox),
            _ = hangup.recv() => match source.reload() {
                Err(error) => tracing::error!(error, "configuration refused; the old one stays"),
                Ok(NewRules { shard, tls, needs_restart }) => {
                    let (done, applied) = tokio::sync::oneshot::channel();
                    let reload = Command::Reload { config: Box::new(shard), tls, done };
                    if inbox.send(reload).is_ok() && applied.await.is_ok() {
                        tracing::info!(?needs_restart, "configuration applied");
                    }
                }
            },
        }
    }
}

fn drain(inbox: &Inbox) {
    if let Err(error) = inbox.send(Command::Drain) {
        tracing::error!(%error, "cannot reach the reactor");
    }
}

/// Lines are written by a thread of their own: a terminal that stops reading must not stop the
/// reactor. Lines that pile up are lost.
fn start_log(settings: &Settings) -> WorkerGuard {
    log_to_stderr(&settings.log_level, settings.log_format)
}

/// Log lines go to standard error, from a thread of their own.
pub(crate) fn log_to_stderr(level: &str, format: LogFormat) -> WorkerGuard {
    let filter = EnvFilter::try_from_env("MAITRED_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let (lines, guard) = tracing_appender::non_blocking(std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines);
    let started = match format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    if let Err(error) = started {
        eprintln!("maitred: no log: {error}");
    }
    guard
}

/// Every connection costs a descriptor: takes as many as the system grants.
fn raise_file_limit(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let granted = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if granted < connections as u64 {
        tracing::info!(
            granted,
            connections,
            "fewer open files than limits.connections; raise the hard limit for more"
        );
    }
}

/// Takes the data directory for this process alone.
pub(crate) fn lock_data(dir: PathBuf) -> Result<std::fs::File, Failure> {
    let cannot = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(format!("cannot {what} data directory {}: {error}", dir.display()))
    };
    std::fs::create_dir_all(&dir).map_err(|error| cannot("create", &error))?;
    let path = dir.join("maitred.lock");
    let file = std::fs::File::create(&path).map_err(|error| cannot("write to", &error))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| cannot("lock", &"another maitred uses it"))?;
    Ok(file)
}
