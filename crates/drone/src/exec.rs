//! How a worker process begins: in its own limits, and bound to end with its drone.
//!
//! Limits must hold before the program's first instruction, and only the process itself can set
//! them without unsafe code. So the drone runs a wrapper (`maitred drone-exec`, or any program that
//! calls [`run`]), which sets them and then becomes the program.

use std::ffi::OsString;
use std::io::{Error, Result};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, Signal};

use crate::plan::Limits;

/// Becomes the program that the arguments name: what [`arguments`] made. Returns only if it cannot.
#[must_use]
pub fn run(arguments: impl Iterator<Item = OsString>) -> Error {
    match prepare(arguments) {
        Ok(mut program) => program.exec(),
        Err(error) => error,
    }
}

/// The arguments that make [`run`] start `argv` within `limits`, and in `cgroup` if there is one.
#[must_use]
pub fn arguments(limits: &Limits, cgroup: Option<&Cgroup>, argv: &[String]) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![std::process::id().to_string().into()];
    // In a cgroup the group's memory is bounded; address space is a poor stand-in for it.
    let memory = limits.memory.filter(|_| cgroup.is_none());
    let number = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string().into());
    words.extend([number(memory), number(limits.cpu_seconds), number(limits.files)]);
    words.push(cgroup.map_or("-".into(), |cgroup| cgroup.dir.clone().into()));
    words.extend(argv.iter().map(OsString::from));
    words
}

fn prepare(mut words: impl Iterator<Item = OsString>) -> Result<Command> {
    let mut word = || words.next().ok_or_else(|| Error::other("too few arguments"));
    let number = |word: OsString| -> Result<Option<u64>> {
        let text = word.to_string_lossy();
        if text == "-" {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| Error::other(format!("{text}: not a number")))
    };
    let drone = number(word()?)?.unwrap_or_default();
    let limits = [
        (Resource::As, number(word()?)?),
        (Resource::Cpu, number(word()?)?),
        (Resource::Nofile, number(word()?)?),
    ];
    let cgroup = word()?;
    let program = word()?;

    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid()
        .map(Pid::as_raw_nonzero)
        .is_none_or(|pid| u64::try_from(pid.get()).ok() != Some(drone))
    {
        return Err(Error::other("the drone that started this has ended"));
    }
    if cgroup != "-" {
        std::fs::write(Path::new(&cgroup).join("cgroup.procs"), "0")?;
    }
    for (resource, limit) in limits {
        if limit.is_some() {
            rustix::process::setrlimit(resource, Rlimit { current: limit, maximum: limit })?;
        }
    }
    let mut command = Command::new(program);
    command.args(words);
    Ok(command)
}

/// What `statfs` calls cgroup v2 (`CGROUP2_SUPER_MAGIC`).
const CGROUP2: rustix::fs::FsWord = 0x6367_7270;

/// A control group of one worker; removed when dropped, after the worker's end.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Makes one below the drone's own, if the machine lets it.
    ///
    /// # Errors
    /// Why there can be none: memory is then bounded for each process by itself, CPU is not.
    pub fn new(name: &str, limits: &Limits) -> std::result::Result<Cgroup, String> {
        let own = std::fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::"));
        let own = own.ok_or("this machine has no cgroup v2")?.trim_start_matches('/');
        let root = Path::new("/sys/fs/cgroup");
        // Older machines have a plain directory there, which would take any file.
        if rustix::fs::statfs(root).map_or(0, |about| about.f_type) != CGROUP2 {
            return Err("this machine has cgroup v2 nowhere or not at /sys/fs/cgroup".into());
        }
        let dir = root.join(own).join(name);
        let failed = |what: &str, error: Error| format!("{}: {what}: {error}", dir.display());
        std::fs::create_dir(&dir).map_err(|error| failed("cannot be made", error))?;
        let group = Cgroup { dir: dir.clone() };
        if let Some(octets) = limits.memory {
            group.set("memory.max", &octets.to_string()).map_err(|e| failed("memory.max", e))?;
            // Without swap the limit means what it says; not every machine has this file.
            let _ = group.set("memory.swap.max", "0");
        }
        if let Some(percent) = limits.cpu_percent {
            let quota = format!("{} 100000", u64::from(percent) * 1_000);
            group.set("cpu.max", &quota).map_err(|error| failed("cpu.max", error))?;
        }
        Ok(group)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        std::fs::write(self.dir.join(file), value)
    }

    /// Kills whatever is in it.
    pub fn kill(&self) {
        // Older kernels have no such file; then the process group's end has to do.
        let _ = self.set("cgroup.kill", "1");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that ignores its end for a moment keeps the directory; nothing depends on it.
        let _ = std::fs::remove_dir(&self.dir);
    }
}
