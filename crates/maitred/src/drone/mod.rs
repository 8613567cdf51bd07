//! `maitred drone`: pulls tasks from a global queue and keeps the workers that do them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::drone::{Direct, Drone, Ended, Journal, Setup, Status};
use store::{Clock, Settings, Store};
use tokio::signal::unix::{SignalKind, signal};

use crate::remote::{self, Ask, Target, print_table};
use crate::tasks::{Opened, Options, StoreUrl, open_store};
use crate::{Failure, secret, serve, transport};

mod face;
mod file;
mod remote_queue;

pub(crate) use file::{Orders, Workers};
use remote_queue::Remote;

/// Runs a drone, or steers one.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// The drone's file (TOML)
    #[arg(short, long, required = true, env = "MAITRED_DRONE_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    order: Option<Order>,
}

/// What to order a running drone.
#[derive(Debug, clap::Subcommand)]
enum Order {
    /// Show its task types and workers
    Status(Place),
    /// Give no task of a type to its workers until it is resumed
    Pause {
        /// The task type
        task_type: String,
        #[command(flatten)]
        place: Place,
    },
    /// End a pause
    Resume {
        /// The task type
        task_type: String,
        #[command(flatten)]
        place: Place,
    },
    /// Change how many workers a type has
    Scale {
        /// The task type
        task_type: String,
        /// A number, or a range such as 2..8
        workers: Workers,
        #[command(flatten)]
        place: Place,
    },
}

/// Which drone, and how to print.
#[derive(Debug, clap::Args)]
struct Place {
    /// HTTP address of the drone
    #[arg(
        long,
        env = "MAITRED_DRONE_HTTP",
        default_value = "http://127.0.0.1:8081",
        value_name = "URL"
    )]
    http: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `maitred drone`.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match (args.order, args.config) {
        (Some(order), _) => steer(order),
        (None, Some(path)) => work(&path),
        (None, None) => Err(Failure::config("say which file: --config drone.toml")),
    }
}

/// Whether a file is a drone's and not a broker's: only drones have task types.
pub(crate) fn is_drones(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    toml::de::DeTable::parse(&text).is_ok_and(|table| table.get_ref().contains_key("tasks"))
}

/// How this program starts a worker's process: see [`drone::exec`].
pub(crate) const EXEC: &str = "drone-exec";

fn work(path: &Path) -> Result<(), Failure> {
    let orders = Orders::load(path).map_err(Failure::config)?;
    let _log = serve::log_to_stderr(&orders.log_level, orders.log_format);
    let _lock = serve::lock_data(orders.data.clone())?;
    let http = match &orders.http {
        Some(address) => {
            let listener = transport::bind_tcp(address, &format!("http://{address}"), false)?;
            let address = transport::local_address(&listener)?;
            tell(format_args!("http     http://{address}"));
            Some((listener, address))
        }
        None => None,
    };
    let journal = orders.data.join("local.db");
    let journal = Journal::open(Some(&journal)).map_err(|error| Failure::new(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start the runtime: {error}")))?;
    let (setup, own) = put_together(&orders, journal)?;
    // A store's URL may hold a password: its own way of writing it leaves that out.
    let shown = orders.global.parse::<StoreUrl>().map(|url| url.to_string());
    let shown = shown.unwrap_or_else(|_| orders.global.clone());
    tell(format_args!("drone    {} for {shown}", orders.plan.alias));
    let ended = runtime.block_on(drive(setup, own.clone(), &orders, path, http));
    runtime.shutdown_timeout(Duration::from_millis(200));
    if let Some((store, _)) = own {
        store.close();
    }
    match ended {
        Ended::Drained => Ok(()),
        Ended::Cut(tasks) => {
            Err(Failure::new(format!("stopped with {tasks} tasks unfinished; they are given back")))
        }
        Ended::Stopped(reason) => Err(Failure::new(format!("the global queue stopped: {reason}"))),
    }
}

/// A line for whoever started the drone. A reader that went away must not end it.
fn tell(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A store that this process has open, and its clock.
type Own = (Arc<dyn Store>, Clock);

/// Puts the drone together with its global queue.
fn put_together(
    orders: &Orders,
    journal: (Journal, ::drone::Left),
) -> Result<(Setup, Option<Own>), Failure> {
    let plan = orders.plan.clone();
    let (setup, own) = if orders.global.starts_with("http://") {
        let token = orders.token_file.as_deref().map(secret::read_word).transpose();
        let token = token.map_err(Failure::config)?.map(|token| token.to_string());
        (Setup::new(plan, Remote::new(&orders.global, token), journal), None)
    } else {
        let url: StoreUrl = orders.global.parse().map_err(|error: String| {
            Failure::config(format!("global: {error}; or http://HOST:PORT of a broker"))
        })?;
        let options = Options { settings: Settings::default(), os_level: false };
        let opened = open_store(&url, options).map_err(|error| Failure::new(error.message))?;
        let Some(Opened { store, clock, found }) = opened else {
            return Err(Failure::config("global: \"off\" has no tasks"));
        };
        tell(format_args!("{found}"));
        let own = (store.clone(), clock.clone());
        (Setup::new(plan, Direct::new(store, clock), journal), Some(own))
    };
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot tell where this program is: {error}")))?;
    let wrapper = vec![program.to_string_lossy().into_owned(), EXEC.to_owned()];
    let setup = setup.wrapper(wrapper);
    Ok((setup, own))
}

/// Works until it was told to end and did.
async fn drive(
    setup: Setup,
    own: Option<Own>,
    orders: &Orders,
    path: &Path,
    http: Option<(std::net::TcpListener, std::net::SocketAddr)>,
) -> Ended {
    let mut drone = Drone::start(setup);
    let control = drone.control();
    if let Some((store, clock)) = own {
        tokio::spawn(tend(store, clock));
    }
    if let Some((listener, address)) = http {
        let served = face::serve(listener, address, orders.http_hosts.clone(), control.clone());
        tokio::spawn(served);
    }
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    );
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
        return Ended::Stopped("cannot listen to signals".into());
    };
    // Not before: a signal that nobody hears yet would end the process.
    tell(format_args!("ready"));
    loop {
        tokio::select! {
            ended = drone.ended() => return ended,
            _ = terminate.recv() => control.drain(orders.grace.into()),
            _ = interrupt.recv() => control.drain(orders.grace.into()),
            _ = hangup.recv() => match Orders::load(path) {
                Ok(new) => match control.reload(new.plan).await {
                    Ok(()) => tracing::info!("the file was read again"),
                    Err(error) => tracing::error!(error, "the file was not read again"),
                },
                Err(error) => tracing::error!(error, "the file was not read again"),
            },
        }
    }
}

/// Does what is due in a store that nobody else tends.
async fn tend(store: Arc<dyn Store>, clock: Clock) {
    loop {
        let (sender, next) = tokio::sync::oneshot::channel();
        let reply = move |answer: Result<store::Receipt<store::Due>, store::Error>| {
            let next = answer.ok().and_then(|receipt| receipt.value.next);
            // Whoever no longer waits does not mind.
            let _ = sender.send(next);
        };
        store.due(clock.now(), Box::new(reply));
        let next = next.await.ok().flatten();
        let wait = next.map_or(1_000, |at| at.saturating_sub(clock.now().line)).clamp(10, 1_000);
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}

fn steer(order: Order) -> Result<(), Failure> {
    match order {
        Order::Status(place) => status(&place),
        Order::Pause { task_type, place } => set_paused(&place, &task_type, "pause"),
        Order::Resume { task_type, place } => set_paused(&place, &task_type, "resume"),
        Order::Scale { task_type, workers: Workers { min, max }, place } => {
            let path = format!("/v1/drones/types/{}/scale", remote::escape(&task_type));
            let body = format!("{{\"min\":{min},\"max\":{max}}}").into_bytes();
            Ask::new("POST", path).body(body).send(&place.target()).map(drop)
        }
    }
}

fn set_paused(place: &Place, task_type: &str, what: &str) -> Result<(), Failure> {
    let path = format!("/v1/drones/types/{}/{what}", remote::escape(task_type));
    Ask::new("POST", path).send(&place.target()).map(drop)
}

fn status(place: &Place) -> Result<(), Failure> {
    let body = Ask::new("GET", "/v1/drones").send(&place.target())?;
    if place.json {
        println!("{body}");
        return Ok(());
    }
    let cannot = |error: serde_json::Error| Failure::new(format!("an odd answer: {error}"));
    let status: face::Drones = serde_json::from_str(&body).map_err(cannot)?;
    for Status { alias, global, trouble, draining, outcomes, pools } in status.drones {
        let state = if draining { ", draining" } else { "" };
        println!("{alias} for {global}{state}, {outcomes} outcomes to hand in");
        if let Some(trouble) = trouble {
            println!("the global queue does not answer: {trouble}");
        }
        let header =
            ["TYPE", "WORKERS", "BUSY", "WAITING", "OLDEST", "MEAN", "DONE", "FAILED", "LOST", ""];
        let rows = pools.into_iter().map(|pool| {
            let busy = pool.workers.iter().filter(|worker| worker.task.is_some()).count();
            let note = match (pool.paused, pool.resting_ms) {
                (true, _) => "paused".to_owned(),
                (false, 0) => String::new(),
                (false, ms) => format!("its workers keep ending: rests for {ms} ms"),
            };
            [
                pool.task_type,
                format!("{} of {}..{}", pool.workers.len(), pool.min, pool.max),
                busy.to_string(),
                pool.waiting.to_string(),
                format!("{} ms", pool.oldest_ms),
                format!("{:.1} ms", pool.mean_ms),
                pool.counts.done.to_string(),
                (pool.counts.failed + pool.counts.timed_out).to_string(),
                pool.counts.lost.to_string(),
                note,
            ]
        });
        print_table(header, rows.collect());
    }
    Ok(())
}

impl Place {
    fn target(&self) -> Target {
        Target::at(&self.http)
    }
}
