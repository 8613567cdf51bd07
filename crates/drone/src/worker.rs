//! A worker: something that does one task at a time. Each is a task of the runtime that takes
//! orders and says what came of them.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use store::Token;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::core::{Job, Report};
use crate::plan::{PoolPlan, Work};

mod command;
mod lines;
mod persistent;
mod process;

/// Rust code that does tasks.
pub type Handler =
    Arc<dyn Fn(Arc<Job>) -> Pin<Box<dyn Future<Output = Report> + Send>> + Send + Sync>;

/// Handlers by name.
pub type Handlers = HashMap<String, Handler>;

/// Calls a service with a task: the service's name, the task.
pub(crate) type Call =
    Arc<dyn Fn(String, Arc<Job>) -> Pin<Box<dyn Future<Output = Report> + Send>> + Send + Sync>;

/// What all workers of a drone share.
pub(crate) struct Kit {
    /// The program that calls [`crate::exec::run`], and what stands before its arguments.
    pub(crate) wrapper: Vec<String>,
    pub(crate) handlers: Handlers,
    pub(crate) call: Option<Call>,
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Order {
    Run(Arc<Job>),
    /// What it has is void.
    Abort,
    Stop,
}

/// What a worker says.
#[derive(Debug)]
pub(crate) enum Said {
    Ready,
    Done {
        alive: bool,
        report: Report,
    },
    Progress(Token, Vec<u8>),
    /// It ended; `ours` if it was told to.
    Died {
        ours: bool,
        error: String,
    },
}

/// Where a worker says it.
pub(crate) trait Say: Fn(Said) + Send + Sync + 'static {}
impl<F: Fn(Said) + Send + Sync + 'static> Say for F {}

/// Works until told to stop, or until it can no longer.
pub(crate) async fn work(
    name: String,
    plan: Arc<PoolPlan>,
    kit: Arc<Kit>,
    after: Duration,
    mut orders: UnboundedReceiver<Order>,
    say: impl Say,
) {
    tokio::select! {
        () = tokio::time::sleep(after) => {}
        // Nothing but the end can be said to a worker that has not begun.
        _ = orders.recv() => {
            return say(Said::Died { ours: true, error: String::new() });
        }
    }
    let (ours, error) = match &plan.work {
        Work::Persistent(program) => {
            persistent::work(&name, &plan, program, &kit, &mut orders, &say).await
        }
        Work::Command(program) => {
            command::work(&name, &plan, program, &kit, &mut orders, &say).await
        }
        Work::Service(service) => match kit.call.clone() {
            Some(call) => {
                let service = service.clone();
                futures(&plan, &mut orders, &say, move |job| call(service.clone(), job)).await
            }
            None => (false, "this drone has no endpoint for the workers of services".into()),
        },
        Work::Handler(handler) => match kit.handlers.get(handler).cloned() {
            Some(handler) => futures(&plan, &mut orders, &say, move |job| handler(job)).await,
            None => (false, format!("the program has no handler {handler:?}")),
        },
    };
    say(Said::Died { ours, error });
}

/// Work that is a future.
async fn futures(
    plan: &PoolPlan,
    orders: &mut UnboundedReceiver<Order>,
    say: &impl Say,
    mut start: impl FnMut(Arc<Job>) -> Pin<Box<dyn Future<Output = Report> + Send>>,
) -> (bool, String) {
    say(Said::Ready);
    while let Some(order) = orders.recv().await {
        let job = match order {
            Order::Run(job) => job,
            Order::Abort => continue,
            Order::Stop => break,
        };
        // A task of its own, so that a panic ends the attempt and not the worker.
        let mut attempt = tokio::spawn(start(job));
        let report = tokio::select! {
            report = &mut attempt => report.unwrap_or_else(|error| {
                failed(format!("the handler panicked: {error}"))
            }),
            () = limit(plan) => {
                attempt.abort();
                Report::TimedOut(too_long(plan))
            }
            _ = orders.recv() => {
                attempt.abort();
                Report::Lost("aborted".into())
            }
        };
        say(Said::Done { alive: true, report });
    }
    (true, String::new())
}

fn failed(error: String) -> Report {
    Report::Failed { error, for_good: false, retry_after: None }
}

/// Passes with the time an attempt may take.
async fn limit(plan: &PoolPlan) {
    match plan.time_limit {
        Some(span) => tokio::time::sleep(span.into()).await,
        None => std::future::pending().await,
    }
}

fn too_long(plan: &PoolPlan) -> String {
    let limit = plan.time_limit.unwrap_or_default();
    format!("ended because it took longer than its time_limit of {limit}")
}
