//! A process that lives from task to task and speaks lines of JSON.

use std::sync::Arc;

use store::limits;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::mpsc::UnboundedReceiver;

use super::lines::{self, Line};
use super::process::{Complaints, Process};
use super::{Kit, Order, Said, Say, limit, too_long};
use crate::core::{Job, Report};
use crate::plan::{PoolPlan, Program};

/// The longest line: a payload in base64, or text with every octet escaped, and some room.
const LINE_MAX: u64 = 6 * limits::PAYLOAD as u64 + 4_096;

pub(super) async fn work(
    name: &str,
    plan: &PoolPlan,
    program: &Program,
    kit: &Kit,
    orders: &mut UnboundedReceiver<Order>,
    say: &impl Say,
) -> (bool, String) {
    let mut process = match Process::start(name, plan, program, kit, &[], true) {
        Ok(process) => process,
        Err(error) => return (false, error),
    };
    let complaints = Complaints::default();
    let child = &mut process.child;
    tokio::spawn(complaints.clone().listen(name.to_owned(), child.stderr.take()));
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return (false, "it has no pipes".into());
    };
    let mut pipes = Pipes { stdin, stdout: BufReader::new(stdout), line: Vec::new() };
    say(Said::Ready);
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            line = pipes.hear() => {
                let why = match line {
                    Ok(_) => "it spoke without having a task".into(),
                    Err(why) => why,
                };
                process.kill().await;
                return (false, with(why, &complaints));
            }
        };
        let job = match order {
            Some(Order::Run(job)) => job,
            Some(Order::Abort) => continue,
            Some(Order::Stop) | None => {
                drop(pipes);
                let grace = plan.grace.into();
                if tokio::time::timeout(grace, process.child.wait()).await.is_err() {
                    tracing::warn!(worker = name, "killed: it did not end when its input did");
                }
                process.kill().await;
                return (true, String::new());
            }
        };
        complaints.about(Some(job.token.task.0));
        let ended = tokio::select! {
            report = pipes.attempt(&job, plan, say) => report,
            () = limit(plan) => Err(Report::TimedOut(too_long(plan))),
            _ = orders.recv() => Err(Report::Lost("aborted".into())),
        };
        complaints.about(None);
        let (report, ours) = match ended {
            Ok(report) => {
                say(Said::Done { alive: true, report });
                continue;
            }
            Err(Report::Lost(why)) if why == "aborted" => (Report::Lost(why), true),
            Err(Report::Lost(why)) => (Report::Lost(with(why, &complaints)), false),
            Err(report) => (report, true),
        };
        let why = match &report {
            Report::Lost(why) | Report::TimedOut(why) => why.clone(),
            Report::Done(_) | Report::Next { .. } | Report::Failed { .. } => String::new(),
        };
        // Told before the process is gone: another worker may begin meanwhile.
        say(Said::Done { alive: false, report });
        process.kill().await;
        return (ours, why);
    }
}

fn with(why: String, complaints: &Complaints) -> String {
    let tail = complaints.tail();
    if tail.is_empty() { why } else { format!("{why}: {tail}") }
}

struct Pipes {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    line: Vec<u8>,
}

impl Pipes {
    /// The next line. What was read of it is kept if nobody waits for the rest.
    async fn hear(&mut self) -> Result<&[u8], String> {
        if self.line.last() == Some(&b'\n') {
            self.line.clear();
        }
        let room = (LINE_MAX + 1).saturating_sub(self.line.len() as u64);
        let read = (&mut self.stdout).take(room).read_until(b'\n', &mut self.line).await;
        match read {
            Ok(_) if self.line.last() == Some(&b'\n') => Ok(&self.line),
            Ok(_) if self.line.len() as u64 > LINE_MAX => {
                Err(format!("it said a line longer than {LINE_MAX} octets"))
            }
            Ok(_) => Err("it ended".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Hands a task over and waits for what comes of it. `Err`: the process is of no use any more.
    async fn attempt(
        &mut self,
        job: &Arc<Job>,
        plan: &PoolPlan,
        say: &impl Say,
    ) -> Result<Report, Report> {
        let told = self.stdin.write_all(&lines::task(job)).await;
        told.map_err(|error| Report::Lost(format!("it ended before it had the task: {error}")))?;
        loop {
            let silence = async {
                match plan.silence_limit {
                    Some(span) => tokio::time::sleep(span.into()).await,
                    None => std::future::pending().await,
                }
            };
            let line = tokio::select! {
                line = self.hear() => line,
                () = silence => {
                    let span = plan.silence_limit.unwrap_or_default();
                    Err(format!("it said nothing for its silence_limit of {span}"))
                }
            };
            match lines::reply(line.map_err(Report::Lost)?, job).map_err(Report::Lost)? {
                Line::End(report) => return Ok(report),
                Line::Progress(octets) => say(Said::Progress(job.token, octets)),
                Line::Beat => {}
            }
        }
    }
}
