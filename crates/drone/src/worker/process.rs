//! A child process: its start, its end with all it started, and what it complains of.

use std::ffi::OsString;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};

use super::Kit;
use crate::exec::{self, Cgroup};
use crate::plan::{Limits, PoolPlan, Program};

/// What of a complaint is kept with a failed task.
const TAIL: usize = 2_048;
/// A longer line of a complaint is cut.
const LINE: u64 = 8_192;

/// A process, its group and its control group.
pub(super) struct Process {
    pub(super) child: Child,
    cgroup: Option<Cgroup>,
    group: Option<Pid>,
}

impl Process {
    /// Starts a program in a process group of its own.
    pub(super) fn start(
        name: &str,
        plan: &PoolPlan,
        program: &Program,
        kit: &Kit,
        env: &[(&str, String)],
        bound: bool,
    ) -> Result<Process, String> {
        let cgroup = group_for(name, &plan.limits);
        let wrapped = bound || plan.limits != Limits::default();
        let mut words: Vec<OsString> = Vec::new();
        if wrapped && let Some((wrapper, rest)) = kit.wrapper.split_first() {
            words.push(wrapper.into());
            words.extend(rest.iter().map(OsString::from));
            words.extend(exec::arguments(&plan.limits, cgroup.as_ref(), &program.argv));
        } else {
            words.extend(program.argv.iter().map(OsString::from));
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(program.env.iter().cloned());
        command.envs(env.iter().map(|(key, value)| (key, value)));
        if let Some(dir) = &program.dir {
            command.current_dir(dir);
        }
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", program.argv[0]))?;
        let group = child.id().and_then(|id| Pid::from_raw(id as i32));
        Ok(Process { child, cgroup, group })
    }

    /// Ends it and everything it started, at once.
    pub(super) async fn kill(&mut self) {
        if let Some(group) = self.group {
            // It may have ended in the meantime.
            let _ = kill_process_group(group, Signal::KILL);
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        let _ = self.child.wait().await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let (Some(group), Ok(None)) = (self.group, self.child.try_wait()) {
            // Without waiting: whoever drops it unasked is being dropped itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn group_for(name: &str, limits: &Limits) -> Option<Cgroup> {
    if limits.memory.is_none() && limits.cpu_percent.is_none() {
        return None;
    }
    let name = format!("maitred-{}-{name}", std::process::id());
    match Cgroup::new(&name, limits) {
        Ok(group) => Some(group),
        Err(why) => {
            tracing::debug!(why, "no control group: limits hold for each process by itself");
            None
        }
    }
}

/// What a process writes to standard error: to the log, with the task it has, and the end of it
/// for whoever asks why a task failed.
#[derive(Clone, Default)]
pub(super) struct Complaints(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    task: Option<u64>,
    tail: Vec<u8>,
}

impl Complaints {
    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes now belongs to this task.
    pub(super) fn about(&self, task: Option<u64>) {
        let mut heard = self.heard();
        heard.task = task;
        heard.tail.clear();
    }

    /// The end of what was written since then, as text.
    pub(super) fn tail(&self) -> String {
        String::from_utf8_lossy(&self.heard().tail).trim().to_owned()
    }

    /// Listens until the process closes its end.
    pub(super) async fn listen(self, name: String, pipe: Option<ChildStderr>) {
        use tokio::io::AsyncReadExt;
        let Some(pipe) = pipe else { return };
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut pipe).take(LINE).read_until(b'\n', &mut line).await;
            if !matches!(read, Ok(1..)) {
                return;
            }
            let task = {
                let mut heard = self.heard();
                heard.tail.extend_from_slice(&line);
                let extra = heard.tail.len().saturating_sub(TAIL);
                heard.tail.drain(..extra);
                heard.task
            };
            let text = String::from_utf8_lossy(&line);
            tracing::info!(target: "maitred::worker", worker = name, task, "{}", text.trim_end());
        }
    }
}
