//! Brokers as processes: started, looked at from outside, and ended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// What was built.
pub(super) struct Programs {
    pub(super) maitred: PathBuf,
    pub(super) baseline: PathBuf,
    /// The same for Paranoid Pirate.
    pub(super) queue: PathBuf,
}

/// Where a process may run.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Placement {
    /// On CPU 0, with everything else of the run.
    Pinned,
    /// Wherever the kernel likes.
    Free,
}

impl Placement {
    pub(super) fn command(self, program: &Path) -> Command {
        match self {
            Placement::Free => Command::new(program),
            Placement::Pinned => {
                let mut command = Command::new("taskset");
                command.args(["-c", "0"]).arg(program);
                command
            }
        }
    }
}

/// A broker; it ends with this value.
pub(super) struct Broker {
    child: Child,
    /// Held open: a broker may write to it at any time.
    _stdout: BufReader<ChildStdout>,
    /// `host:port` of the first listener.
    pub(super) address: String,
    /// Of each listener but HTTP's, in the order they were said.
    pub(super) addresses: Vec<String>,
}

impl Broker {
    pub(super) fn maitred(programs: &Programs, placement: Placement) -> Result<Broker, String> {
        Broker::maitred_saying(programs, placement, &[])
    }

    /// With more flags.
    pub(super) fn maitred_saying(
        programs: &Programs,
        placement: Placement,
        flags: &[&str],
    ) -> Result<Broker, String> {
        let mut command = placement.command(&programs.maitred);
        command
            .args(["serve", "--mdp", "tcp://127.0.0.1:0", "--stomp", "off", "--http", "off"])
            .args(["--store", "off"])
            .args(flags);
        command.env("MAITRED_LOG", "error").env_remove("MAITRED_CONFIG");
        Broker::start(command)
    }

    pub(super) fn baseline(programs: &Programs, placement: Placement) -> Result<Broker, String> {
        let mut command = placement.command(&programs.baseline);
        command.arg("tcp://127.0.0.1:*");
        Broker::start(command)
    }

    /// One that speaks CURVE, as `config` says.
    pub(super) fn maitred_with(
        programs: &Programs,
        placement: Placement,
        config: &Path,
    ) -> Result<Broker, String> {
        let mut command = placement.command(&programs.maitred);
        command
            .args(["serve", "--mdp", "tcp://127.0.0.1:0", "--stomp", "off", "--http", "off"])
            .args(["--store", "off", "-c"])
            .arg(config);
        command.env("MAITRED_LOG", "error");
        Broker::start(command)
    }

    /// The baseline with CURVE, of which `key` is the secret key.
    pub(super) fn baseline_with(
        programs: &Programs,
        placement: Placement,
        key: &str,
    ) -> Result<Broker, String> {
        let mut command = placement.command(&programs.baseline);
        command.args(["tcp://127.0.0.1:*", key]);
        Broker::start(command)
    }

    /// The Paranoid Pirate queue on libzmq; its front end is the first address.
    pub(super) fn queue(programs: &Programs, placement: Placement) -> Result<Broker, String> {
        let mut command = placement.command(&programs.queue);
        command.args(["tcp://127.0.0.1:*", "tcp://127.0.0.1:*"]);
        Broker::start(command)
    }

    /// One that listens where `config` says, and nowhere else.
    pub(super) fn maitred_at(
        programs: &Programs,
        placement: Placement,
        config: &Path,
        more: &[&str],
    ) -> Result<Broker, String> {
        let mut command = placement.command(&programs.maitred);
        command.args(["serve", "--stomp", "off", "--http", "off", "--store", "off", "-c"]);
        command.arg(config).args(more);
        command.env("MAITRED_LOG", "error");
        Broker::start(command)
    }

    fn start(mut command: Command) -> Result<Broker, String> {
        let name = format!("{:?}", command.get_program());
        let cannot = |error: &dyn std::fmt::Display| format!("cannot start {name}: {error}");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| cannot(&error))?;
        let stdout = child.stdout.take().ok_or_else(|| cannot(&"no output"))?;
        // From here on it is ended in every case.
        let mut broker = Broker {
            child,
            _stdout: BufReader::new(stdout),
            address: String::new(),
            addresses: Vec::new(),
        };
        let mut line = String::new();
        while line.trim_end() != "ready" {
            line.clear();
            if broker._stdout.read_line(&mut line).map_err(|error| cannot(&error))? == 0 {
                return Err(cannot(&"it ended before it was ready"));
            }
            let place = line.strip_prefix("listening ").and_then(|rest| rest.split_once(" tcp://"));
            if let Some((_, address)) = place {
                let address = address.split_whitespace().next().unwrap_or_default();
                broker.addresses.push(address.to_owned());
            }
        }
        broker.address = broker.addresses.first().cloned().ok_or_else(|| cannot(&"no address"))?;
        Ok(broker)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// User and system time of all threads so far.
    pub(super) fn cpu(&self) -> Result<Duration, String> {
        let mut nanos = 0;
        let tasks = format!("/proc/{}/task", self.pid());
        for task in fs::read_dir(&tasks).map_err(|error| format!("{tasks}: {error}"))? {
            let path = task.map_err(|error| format!("{tasks}: {error}"))?.path().join("schedstat");
            let text = fs::read_to_string(&path).unwrap_or_default();
            let spent = text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
            nanos += spent.ok_or_else(|| format!("{}: no CPU time in it", path.display()))?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Bytes of memory it holds at this moment.
    pub(super) fn rss(&self) -> Result<u64, String> {
        self.memory("VmRSS:")
    }

    /// The most bytes of memory it ever held.
    pub(super) fn rss_max(&self) -> Result<u64, String> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> Result<u64, String> {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| format!("{path}: no {field}"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already; there is nothing else to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
