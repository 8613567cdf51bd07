//! The broker that is loaded: one that runs somewhere, or one of this run's own.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::load::Ends;
use super::words::Words;
use crate::{Failure, secret};

/// Where it is, and who we are to it.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// The broker
    #[arg(long, default_value = "tcp://127.0.0.1:5555", value_name = "ENDPOINT")]
    mdp: String,
    /// A Paranoid Pirate queue instead: where its clients connect …
    #[arg(long, value_name = "ENDPOINT", requires = "ppp_back", conflicts_with = "mdp")]
    ppp_front: Option<String>,
    /// … and its workers
    #[arg(long, value_name = "ENDPOINT", requires = "ppp_front")]
    ppp_back: Option<String>,
    /// Public key of the broker, or a file that holds it: speak CURVE
    #[arg(long, value_name = "KEY|FILE", requires = "key", allow_hyphen_values = true)]
    server_key: Option<String>,
    /// File of our secret key, made by `maitred keygen`
    #[arg(long, value_name = "FILE", requires = "server_key")]
    key: Option<PathBuf>,
    /// Start a broker for this run, and stop it afterwards
    #[arg(long, conflicts_with_all = ["mdp", "ppp_front", "key"])]
    spawn: bool,
}

/// A broker within reach.
pub(super) struct Reached {
    pub(super) ends: Ends,
    own: Option<OwnBroker>,
}

impl Target {
    /// Finds the broker, or starts one.
    ///
    /// # Errors
    /// If an address or a key makes no sense, or no broker can be started.
    pub(super) fn reach(&self) -> Result<Reached, Failure> {
        let own = if self.spawn { Some(OwnBroker::start()?) } else { None };
        let mdp = own.as_ref().map_or(&self.mdp, |own| &own.endpoint);
        let (front, back, words) = match (&self.ppp_front, &self.ppp_back) {
            (Some(front), Some(back)) => (resolve(front)?, resolve(back)?, Words::Pirate),
            _ => (resolve(mdp)?, resolve(mdp)?, Words::Majordomo),
        };
        let security = match (&self.server_key, &self.key) {
            (Some(server), Some(key)) => zmtp::Security::CurveClient {
                server: secret::public_key(server).map_err(Failure::config)?,
                keys: secret::read_key(key).map_err(Failure::config)?,
            },
            _ => zmtp::Security::Null,
        };
        Ok(Reached { ends: Ends { front, back, words, security }, own })
    }
}

impl Reached {
    /// The process that was started for this run.
    pub(super) fn own_pid(&self) -> Option<u32> {
        self.own.as_ref().map(|own| own.child.id())
    }
}

fn resolve(endpoint: &str) -> Result<SocketAddr, Failure> {
    let address = endpoint.strip_prefix("tcp://").ok_or_else(|| {
        Failure::config(format!("{endpoint:?} is not an endpoint: expected tcp://HOST:PORT"))
    })?;
    let mut addresses = address
        .to_socket_addrs()
        .map_err(|error| Failure::config(format!("cannot resolve {endpoint}: {error}")))?;
    addresses.next().ok_or_else(|| Failure::config(format!("{endpoint} has no address")))
}

/// A broker of our own; it ends with this value.
struct OwnBroker {
    child: Child,
    /// Held open: a broker may write to it at any time.
    _stdout: Option<BufReader<ChildStdout>>,
    endpoint: String,
}

impl OwnBroker {
    fn start() -> Result<OwnBroker, Failure> {
        let cannot =
            |error: &dyn std::fmt::Display| Failure::new(format!("cannot start a broker: {error}"));
        let program = std::env::current_exe().map_err(|error| cannot(&error))?;
        let mut child = Command::new(program)
            .args(["serve", "--mdp", "tcp://127.0.0.1:0", "--stomp", "off", "--http", "off"])
            .args(["--store", "off"])
            .env("MAITRED_LOG", "error")
            .env_remove("MAITRED_CONFIG")
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| cannot(&error))?;
        let mut stdout = child.stdout.take().map(BufReader::new);
        let endpoint = stdout
            .as_mut()
            .into_iter()
            .flat_map(BufRead::lines)
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening mdp ").map(str::to_owned));
        // From here on it is ended in every case.
        let mut own = OwnBroker { child, _stdout: stdout, endpoint: String::new() };
        own.endpoint = endpoint.ok_or_else(|| cannot(&"it said no address"))?;
        Ok(own)
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        // It may have ended already; there is nothing else to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
