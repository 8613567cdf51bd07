//! What is not a matter of speed: a lost worker, memory, and doing nothing.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::peer::{self, Peer};
use super::process::{Broker, Placement, Programs};
use super::report::{Report, percentile};

/// Makes this program a worker to be killed.
pub(super) const VICTIM: &str = "--victim";

const SERVICE: &str = "bench";

/// Connections that hold a request when they are aborted.
const ABORTS: usize = 2_000;
/// Processes that hold a request when they are killed.
const KILLS: usize = 100;
const IDLE_WORKERS: usize = 10_000;
const SERVICES: usize = 100_000;
/// How long an idle broker is watched.
const WATCHED: Duration = Duration::from_secs(20);

/// From the death of the worker that holds a request until another has it.
pub(super) fn latency(programs: &Programs, report: &mut Report) -> Result<(), String> {
    let broker = Broker::maitred(programs, Placement::Free)?;
    let cases = [
        ("its connection aborted", Victim::connect as fn(&str) -> io::Result<Victim>, ABORTS),
        ("its process killed (SIGKILL)", Victim::spawn, KILLS),
    ];
    for (how, victim, rounds) in cases {
        eprintln!("latency: a worker lost with a request, {how}, {rounds} times");
        let mut took = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            took.push(lose(&broker.address, victim).map_err(|error| format!("latency: {error}"))?);
        }
        took.sort_unstable();
        let ms = |per_mille| percentile(&took, per_mille).as_secs_f64() * 1e3;
        report.at_most(&format!("redelivery, {how}: p99 of {rounds}"), ms(990), 5.0, "ms");
        report.note(format!(
            "Redelivery, {how}: p50 {:.3} ms, p99 {:.3} ms, worst {:.3} ms.",
            ms(500),
            ms(990),
            ms(1_000)
        ));
    }
    Ok(())
}

/// One round: a worker takes the request and dies, its heir gets it.
fn lose(address: &str, victim: fn(&str) -> io::Result<Victim>) -> io::Result<Duration> {
    let mut client = Peer::connect(address)?;
    let mut victim = victim(address)?;
    client.wait_for_workers(SERVICE, 1)?;
    let mut out = Vec::new();
    peer::request(&mut out, SERVICE, b"whose?");
    client.send(&out)?;
    victim.wait_for_request()?;

    let mut heir = Peer::connect(address)?;
    out.clear();
    peer::ready(&mut out, SERVICE);
    heir.send(&out)?;
    client.wait_for_workers(SERVICE, 2)?;
    let start = Instant::now();
    victim.die()?;
    let request = heir.receive_request()?;
    let took = start.elapsed();

    out.clear();
    peer::reply(&mut out, &request, b"mine");
    peer::disconnect(&mut out);
    heir.send(&out)?;
    let answer = client.receive()?;
    if answer.last().map(Vec::as_slice) != Some(b"mine") {
        return Err(io::Error::other("the request was not answered by its second worker"));
    }
    client.wait_for_workers(SERVICE, 0)?;
    Ok(took)
}

/// A worker that will not live to answer.
enum Victim {
    Connection(Peer),
    Process(Child, BufReader<std::process::ChildStdout>),
}

impl Victim {
    fn connect(address: &str) -> io::Result<Victim> {
        let mut worker = Peer::connect(address)?;
        let mut out = Vec::new();
        peer::ready(&mut out, SERVICE);
        worker.send(&out)?;
        Ok(Victim::Connection(worker))
    }

    fn spawn(address: &str) -> io::Result<Victim> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", VICTIM, address])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        Ok(Victim::Process(child, BufReader::new(stdout)))
    }

    fn wait_for_request(&mut self) -> io::Result<()> {
        match self {
            Victim::Connection(worker) => worker.receive_request().map(drop),
            Victim::Process(_, stdout) => stdout.read_line(&mut String::new()).map(drop),
        }
    }

    fn die(self) -> io::Result<()> {
        match self {
            Victim::Connection(worker) => {
                // Closing resets the connection.
                set_socket_linger(worker.stream(), Some(Duration::ZERO))?;
                drop(worker);
                Ok(())
            }
            Victim::Process(mut child, _) => {
                child.kill()?;
                child.wait().map(drop)
            }
        }
    }
}

/// The life of a [`Victim::Process`]: takes one request, says so, and waits for its end.
pub(super) fn be_victim(address: &str) -> Result<(), String> {
    let serve = || {
        let mut worker = Peer::connect(address)?;
        let mut out = Vec::new();
        peer::ready(&mut out, SERVICE);
        worker.send(&out)?;
        worker.receive_request()?;
        println!("holding");
        io::stdout().flush()?;
        worker.receive_request().map(drop)
    };
    serve().map_err(|error: io::Error| error.to_string())
}

/// What waiting requests and idle workers cost.
pub(super) fn memory(programs: &Programs, report: &mut Report) -> Result<(), String> {
    for count in [100_000, 1_000_000] {
        eprintln!("memory: {count} requests of 100 bytes in line");
        let broker = Broker::maitred(programs, Placement::Free)?;
        let before = broker.rss()?;
        let _client = queue(&broker, count, |_| SERVICE.into())?;
        let each = (broker.rss()? - before) as f64 / count as f64;
        report.at_most(
            &format!("RSS per waiting 100-byte request, {count} of them"),
            each,
            400.0,
            "B",
        );
    }
    eprintln!("memory: {IDLE_WORKERS} idle workers");
    raise_file_limit(IDLE_WORKERS + 100)?;
    let broker = Broker::maitred(programs, Placement::Free)?;
    let before = broker.rss()?;
    let idle = || {
        let mut ready = Vec::new();
        peer::ready(&mut ready, SERVICE);
        let mut workers = Vec::with_capacity(IDLE_WORKERS);
        for _ in 0..IDLE_WORKERS {
            let mut worker = peer::open(&broker.address)?;
            worker.write_all(&ready)?;
            workers.push(worker);
        }
        Peer::connect(&broker.address)?.wait_for_workers(SERVICE, IDLE_WORKERS)?;
        Ok(workers)
    };
    let workers = idle().map_err(|error: io::Error| format!("idle workers: {error}"))?;
    let each = (broker.rss()? - before) as f64 / workers.len() as f64 / 1024.0;
    report.at_most(
        &format!("RSS per idle worker connection, {IDLE_WORKERS} of them"),
        each,
        8.0,
        "KiB",
    );
    Ok(())
}

/// Leaves requests that nobody serves, and waits until the broker has taken them all.
fn queue(broker: &Broker, count: usize, service: impl Fn(usize) -> String) -> Result<Peer, String> {
    let fill = || {
        let mut client = Peer::connect(&broker.address)?;
        let mut out = Vec::new();
        for i in 0..count {
            peer::request(&mut out, &service(i), &[b'x'; 100]);
            if out.len() > 32 * 1024 || i + 1 == count {
                client.send(&out)?;
                out.clear();
            }
        }
        // Answered in its turn, after all of them.
        client.ask_broker("mmi.service", SERVICE)?;
        Ok(client)
    };
    fill().map_err(|error: io::Error| format!("queueing: {error}"))
}

/// CPU of brokers that have nothing to do.
pub(super) fn idle(programs: &Programs, report: &mut Report) -> Result<(), String> {
    let empty = Broker::maitred(programs, Placement::Free)?;
    let known = Broker::maitred(programs, Placement::Free)?;
    let before = known.rss()?;
    // A request in each keeps them alive.
    let _client = queue(&known, SERVICES, |i| format!("service-{i:06}"))?;
    let each = (known.rss()? - before) as f64 / SERVICES as f64;
    report.note(format!("A service with one waiting 100-byte request holds {each:.0} B of RSS."));
    eprintln!("idle: watching brokers that have nothing to do for {} s", WATCHED.as_secs());
    std::thread::sleep(Duration::from_secs(1));
    let before = (empty.cpu()?, known.cpu()?);
    std::thread::sleep(WATCHED);
    let after = (empty.cpu()?, known.cpu()?);
    let share = |spent: Duration| spent.as_secs_f64() / WATCHED.as_secs_f64() * 100.0;
    let cases = [
        ("CPU of an idle broker".to_owned(), after.0 - before.0),
        (format!("CPU of an idle broker that knows {SERVICES} services"), after.1 - before.1),
    ];
    for (what, spent) in cases {
        report.at_most(&what, share(spent), 0.1, "% of a core");
    }
    Ok(())
}

fn raise_file_limit(needed: usize) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < needed as u64) {
        return Err(format!("the hard limit of open files must be {needed} at least (ulimit -Hn)"));
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|error| format!("open files: {error}"))
}
