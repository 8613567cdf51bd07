//! `maitred demo`: a broker, workers and clients in one process, so that a newcomer sees it move.

use std::time::{Duration, Instant};

use client::{Client, Message, Request, Worker};

use crate::Failure;
use crate::config::{Overrides, Settings};
use crate::inbox::Command;
use crate::serve::Broker;

/// How long to show.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of load to show
    #[arg(long, default_value_t = 3)]
    seconds: u32,
}

/// Runs `maitred demo`.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let overrides = Overrides {
        mdp: vec!["tcp://127.0.0.1:0".into()],
        stomp: Some("off".into()),
        http: Some("127.0.0.1:0".into()),
        ..Overrides::default()
    };
    let settings =
        Settings::load(None, &overrides).map_err(|error| Failure::new(error.to_string()))?;
    let broker = Broker::bind(settings, None, overrides, Err("a demo keeps no tasks".into()))?;
    let endpoint = broker.mdp_endpoint().ok_or_else(|| Failure::new("no listener"))?;
    println!("1. A broker listens at {endpoint}.");
    let inbox = broker.inbox();
    let house = std::thread::spawn(move || broker.run());
    let shown = crate::current_thread_runtime()?.block_on(show(&endpoint, args.seconds));
    inbox
        .send(Command::Drain)
        .map_err(|error| Failure::new(format!("cannot stop the broker: {error}")))?;
    house.join().map_err(|_| Failure::new("the broker panicked"))??;
    shown.map_err(|error| Failure::new(error.to_string()))?;
    println!("6. The broker was drained and stopped. Now run your own: maitred serve");
    Ok(())
}

async fn show(endpoint: &str, seconds: u32) -> Result<(), client::Error> {
    let worker = Worker::builder(endpoint).serve("upper", 1, upper)?;
    worker.connected().await;
    println!("2. A worker offers itself for the service \"upper\".");

    let client = Client::connect([endpoint])?;
    let start = Instant::now();
    let reply = client.call("upper", "hello, maitre d'").await?;
    let took = start.elapsed();
    println!(
        "3. A client calls it with \"hello, maitre d'\" and gets {:?} after {took:.0?}.",
        reply.text()
    );
    drop(worker);

    let taken = std::sync::Arc::new(tokio::sync::Notify::new());
    let notice = taken.clone();
    let stuck = Worker::builder(endpoint).serve("fragile", 1, move |_| {
        notice.notify_one();
        std::future::pending::<Result<Message, String>>()
    })?;
    stuck.connected().await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call("fragile", "precious").await }
    });
    taken.notified().await;
    let healthy = Worker::builder(endpoint).serve("fragile", 1, upper)?;
    healthy.connected().await;
    let lost = Instant::now();
    drop(stuck);
    let reply = call.await.map_err(|_| client::Error::Stopped)??;
    println!(
        "4. A worker leaves with a request in its hands; another answers it {:?} after {:.0?}.",
        reply.text(),
        lost.elapsed()
    );

    let worker = Worker::builder(endpoint).serve("upper", 256, upper)?;
    worker.connected().await;
    println!("5. 64 clients call as fast as they can:");
    let start = Instant::now();
    let until = start + Duration::from_secs(u64::from(seconds));
    let mut second = start + Duration::from_secs(1);
    let mut calls = tokio::task::JoinSet::new();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    for _ in 0..64 {
        let (client, done) = (client.clone(), done.clone());
        calls.spawn(async move {
            while Instant::now() < until {
                client.call("upper", "hello").await?;
                done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            Ok::<(), client::Error>(())
        });
    }
    while second <= until {
        tokio::time::sleep_until(second.into()).await;
        second += Duration::from_secs(1);
        let count = done.swap(0, std::sync::atomic::Ordering::Relaxed);
        println!("   {count} requests answered in the last second");
    }
    while let Some(ended) = calls.join_next().await {
        ended.map_err(|_| client::Error::Stopped)??;
    }
    worker.stop(Duration::from_secs(1)).await;
    healthy.stop(Duration::from_secs(1)).await;
    Ok(())
}

async fn upper(request: Request) -> Result<String, String> {
    Ok(request.body.text().to_uppercase())
}
