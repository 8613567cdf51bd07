//! The maitred broker: one binary.
//!
//! `serve` is the house; everything else talks to one: over MDP (`call`, `work`, `bench`) or over
//! HTTP (`services`, `workers`, `places`, `enqueue`, `tasks`, `drain`, `reload`). `simulate` needs
//! none.

mod serve;

mod reactor;

mod transport;

mod goodbye;

mod handshakes;

mod tls;

mod inbox;

mod calls;

mod tasks;

mod view;

mod http;

mod metrics;

mod config;

mod remote;

mod taskline;

mod call;

mod work;

mod demo;

mod drone;

mod keygen;

mod secret;

mod bench;

mod simulate;

mod chance;

mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Seats requests with workers: a Majordomo and Paranoid Pirate broker.
#[derive(Debug, Parser)]
#[command(name = "maitred", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Run a broker
    Serve {
        /// Configuration file (TOML); without one, the defaults
        #[arg(short, long, env = "MAITRED_CONFIG")]
        config: Option<PathBuf>,
        /// Listen for Majordomo peers here, or `off`; may be repeated [default: tcp://127.0.0.1:5555]
        #[arg(long, value_name = "ENDPOINT")]
        mdp: Vec<String>,
        /// Listen for STOMP peers here, or `off` [default: tcp://127.0.0.1:61613]
        #[arg(long, value_name = "ENDPOINT")]
        stomp: Option<String>,
        /// Listen for HTTP here, or `off` [default: 127.0.0.1:8080]
        #[arg(long, value_name = "ADDR")]
        http: Option<String>,
        /// Directory that this broker alone may use [default: maitred-data]
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Keep tasks here: sqlite:PATH, postgres://…, nats://… or off [default: tasks.db in the
        /// data directory]
        #[arg(long, value_name = "URL", env = "MAITRED_STORE", hide_env_values = true)]
        store: Option<String>,
        /// Shed load so that requests wait about this long, such as 20ms
        #[arg(long, value_name = "SPAN")]
        aim: Option<config::Lasting>,
        /// Let no request wait longer than this
        #[arg(long, value_name = "SPAN")]
        give_up: Option<config::Lasting>,
        /// How log lines look
        #[arg(long, value_name = "FORMAT")]
        log_format: Option<config::LogFormat>,
    },
    /// Call a service and print the answer
    Call(call::Args),
    /// Serve requests with a command
    Work(work::Args),
    /// Show a broker, workers and clients at work, then stop
    Demo(demo::Args),
    /// Make a key pair for CURVE
    Keygen(keygen::Args),
    /// Check a configuration file
    Check {
        /// The file
        file: PathBuf,
    },
    /// List services
    Services(remote::Target),
    /// List workers
    Workers(remote::Target),
    /// List match lines and regulators
    Places(remote::Target),
    /// Put a task into its queue
    Enqueue(taskline::Enqueue),
    /// Look at tasks, and steer them
    Tasks {
        #[command(subcommand)]
        order: taskline::Tasks,
    },
    /// List task types; pause and resume them
    Queues(taskline::Queues),
    /// List schedules; make and remove them
    Schedules(taskline::Schedules),
    /// Check, copy and restore a store
    Store {
        #[command(subcommand)]
        order: taskline::Store,
    },
    /// Pull tasks from a queue and keep the workers that do them
    Drone(drone::Args),
    /// Let a broker finish what it holds, then stop
    Drain(remote::Target),
    /// Make a broker read its configuration file again
    Reload(remote::Target),
    /// Load a broker and say what came of it
    Bench(bench::Options),
    /// Try disciplines on a load, without a broker
    Simulate(simulate::Args),
}

/// Which broker a command calls or serves through.
#[derive(Debug, clap::Args)]
pub(crate) struct Door {
    /// Majordomo endpoint of the broker
    #[arg(
        long,
        env = "MAITRED_MDP",
        default_value = "tcp://127.0.0.1:5555",
        value_name = "ENDPOINT"
    )]
    mdp: String,
    /// Paranoid Pirate endpoint instead: a front end to call, a back end to serve. It is one
    /// service's, whatever SERVICE says
    #[arg(long, value_name = "ENDPOINT")]
    ppp: Option<String>,
    /// Public key of the broker, or a file that holds it: speak CURVE
    #[arg(
        long,
        env = "MAITRED_SERVER_KEY",
        value_name = "KEY|FILE",
        requires = "key",
        allow_hyphen_values = true
    )]
    server_key: Option<String>,
    /// File of our secret key, made by `maitred keygen`
    #[arg(long, env = "MAITRED_KEY", value_name = "FILE", requires = "server_key")]
    key: Option<PathBuf>,
    /// Our name at a broker that speaks PLAIN
    #[arg(long, value_name = "NAME", requires = "password_file", conflicts_with = "server_key")]
    user: Option<String>,
    /// File of the password that belongs to it
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Certificate of the authority that vouches for the broker, for tls:// endpoints: a PEM file
    #[arg(long, env = "MAITRED_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

/// What we prove who we are with.
pub(crate) enum Proof {
    Nothing,
    Curve { server: client::PublicKey, keys: client::KeyPair },
    Plain { user: String, password: zeroize::Zeroizing<String> },
}

impl Door {
    pub(crate) fn endpoint(&self) -> &str {
        self.ppp.as_deref().unwrap_or(&self.mdp)
    }

    /// Reads the files it names.
    pub(crate) fn proof(&self) -> Result<Proof, Failure> {
        if let (Some(server), Some(key)) = (&self.server_key, &self.key) {
            let server = secret::public_key(server).map_err(Failure::config)?;
            let keys = secret::read_key(key).map_err(Failure::config)?;
            return Ok(Proof::Curve { server, keys });
        }
        if let (Some(user), Some(path)) = (&self.user, &self.password_file) {
            let password = secret::read_word(path).map_err(Failure::config)?;
            return Ok(Proof::Plain { user: user.clone(), password });
        }
        Ok(Proof::Nothing)
    }

    /// The certificates of the authorities that vouch for the broker.
    pub(crate) fn authorities(&self) -> Result<Option<Vec<u8>>, Failure> {
        let Some(path) = &self.tls_ca else { return Ok(None) };
        let cannot = |error| Failure::config(format!("cannot read {}: {error}", path.display()));
        std::fs::read(path).map(Some).map_err(cannot)
    }

    pub(crate) fn protocol(&self) -> client::Protocol {
        match self.ppp {
            Some(_) => client::Protocol::Ppp,
            None => client::Protocol::V02,
        }
    }
}

/// Why a command failed, and the exit code that says so.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Something went wrong: exit code 1.
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure { code: 1, message: message.into() }
    }

    /// What was asked for makes no sense: exit code 2, as for wrong flags.
    pub(crate) fn config(message: impl Into<String>) -> Failure {
        Failure { code: 2, message: message.into() }
    }

    /// The same, with what to do about it.
    pub(crate) fn advise(mut self, advice: &str) -> Failure {
        self.message.push_str("; ");
        self.message.push_str(advice);
        self
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == drone::EXEC) {
        eprintln!("maitred: cannot start the worker: {}", ::drone::exec::run(words));
        // As a shell says that a command cannot be run.
        return ExitCode::from(126);
    }
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("maitred: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn run(command: Sub) -> Result<(), Failure> {
    match command {
        Sub::Serve { config, mdp, stomp, http, data, store, aim, give_up, log_format } => {
            let overrides = config::Overrides { mdp, stomp, http, store, log_format, aim, give_up };
            serve::run(config, overrides, data)
        }
        Sub::Call(args) => call::run(&args),
        Sub::Work(args) => work::run(args),
        Sub::Demo(args) => demo::run(&args),
        Sub::Keygen(args) => keygen::run(&args),
        Sub::Check { file } => {
            if drone::is_drones(&file) {
                drone::Orders::load(&file).map_err(Failure::config)?;
            } else {
                config::Settings::load(Some(&file), &config::Overrides::default())
                    .map_err(|error| Failure::config(error.to_string()))?;
            }
            println!("{}: ok", file.display());
            Ok(())
        }
        Sub::Services(target) => remote::services(&target),
        Sub::Workers(target) => remote::workers(&target),
        Sub::Places(target) => remote::places(&target),
        Sub::Enqueue(args) => taskline::enqueue(&args),
        Sub::Tasks { order } => taskline::tasks(order),
        Sub::Queues(args) => taskline::queues(&args),
        Sub::Schedules(args) => taskline::schedules(&args),
        Sub::Store { order } => taskline::store(order),
        Sub::Drone(args) => drone::run(args),
        Sub::Drain(target) => remote::drain(&target),
        Sub::Reload(target) => remote::reload(&target),
        Sub::Bench(options) => bench::run(&options),
        Sub::Simulate(args) => simulate::run(&args),
    }
}

/// A runtime for commands that are clients.
pub(crate) fn current_thread_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start the runtime: {error}")))
}
