//! A process for each task: payload on standard input, result on standard output.

use std::sync::Arc;

use store::limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedReceiver;

use super::process::{Complaints, Process};
use super::{Kit, Order, Said, Say, failed, limit, too_long};
use crate::core::{Job, Report};
use crate::plan::{PoolPlan, Program};

/// The exit code that says that the task itself is wrong (`EX_DATAERR` of sysexits.h): trying
/// again is of no use.
const DATA_ERROR: i32 = 65;

pub(super) async fn work(
    name: &str,
    plan: &PoolPlan,
    program: &Program,
    kit: &Kit,
    orders: &mut UnboundedReceiver<Order>,
    say: &impl Say,
) -> (bool, String) {
    say(Said::Ready);
    while let Some(order) = orders.recv().await {
        let job = match order {
            Order::Run(job) => job,
            Order::Abort => continue,
            Order::Stop => break,
        };
        let mut process = match Process::start(name, plan, program, kit, &env(&job), false) {
            Ok(process) => process,
            Err(error) => return (false, error),
        };
        let complaints = Complaints::default();
        complaints.about(Some(job.token.task.0));
        let report = tokio::select! {
            report = attempt(name, &job, &mut process, &complaints) => report,
            () = limit(plan) => {
                process.kill().await;
                Report::TimedOut(too_long(plan))
            }
            _ = orders.recv() => {
                process.kill().await;
                Report::Lost("aborted".into())
            }
        };
        say(Said::Done { alive: true, report });
    }
    (true, String::new())
}

fn env(job: &Job) -> Vec<(&'static str, String)> {
    let mut env = vec![
        ("MAITRED_TASK_ID", job.token.task.to_string()),
        ("MAITRED_TASK_TYPE", job.link.clone()),
        ("MAITRED_ATTEMPT", job.attempt.to_string()),
    ];
    env.extend(job.content_type.clone().map(|is| ("MAITRED_CONTENT_TYPE", is)));
    env
}

async fn attempt(
    name: &str,
    job: &Arc<Job>,
    process: &mut Process,
    complaints: &Complaints,
) -> Report {
    let child = &mut process.child;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A command need not read its input: a closed pipe is no failure.
            let _ = stdin.write_all(&job.payload).await;
        }
    };
    let most = limits::PAYLOAD as u64;
    let read = async {
        let mut result = Vec::new();
        if let Some(stdout) = stdout {
            // What came before an error is what there is.
            let _ = stdout.take(most + 1).read_to_end(&mut result).await;
        }
        result
    };
    let listen = complaints.clone().listen(name.to_owned(), stderr);
    let ((), result, ()) = tokio::join!(feed, read, listen);
    if result.len() as u64 > most {
        process.kill().await;
        let error = format!("its result is larger than {most} octets");
        return Report::Failed { error, for_good: true, retry_after: None };
    }
    let status = match process.child.wait().await {
        Ok(status) if status.success() => return Report::Done(result.into()),
        Ok(status) => status,
        Err(error) => return Report::Lost(error.to_string()),
    };
    let said = complaints.tail();
    let error = format!("{status}: {said}").trim_end_matches(": ").to_owned();
    match status.code() {
        Some(DATA_ERROR) => Report::Failed { error, for_good: true, retry_after: None },
        Some(_) => failed(error),
        None => Report::Lost(error),
    }
}
