//! The Rust library's match lines and regulators, with the broker they are for.

use std::io::{BufRead, BufReader, Lines};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use client::{Client, Error, Refusal, blocking};

const PLACES: &str = "
[match.line]
[match.short]
ask = { queue_max = 0 }
[regulator.gate]
valve = { kind = \"concurrency\", max = 1 }
";

/// A broker on a port of its own; it ends with this.
struct Broker {
    child: Child,
    endpoint: String,
    config: PathBuf,
    /// What else it has to say must find an open ear.
    _said: Lines<BufReader<ChildStdout>>,
}

impl Broker {
    fn start(name: &str) -> Broker {
        let config = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.toml"));
        std::fs::write(&config, PLACES).expect("it can be written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_maitred"))
            .args(["serve", "--mdp", "tcp://127.0.0.1:0", "--stomp", "off", "--http", "off"])
            .args(["--store", "off", "-c"])
            .arg(&config)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut said = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let endpoint = said.find_map(|line| {
            line.expect("it is text").strip_prefix("listening mdp ").map(str::to_owned)
        });
        let endpoint = endpoint.expect("it says where it listens");
        Broker { child, endpoint, config, _said: said }
    }

    fn client(&self) -> Client {
        Client::connect([self.endpoint.clone()]).expect("the endpoint is one")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.config);
    }
}

async fn until<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    let reached = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.expect("it is never reached");
}

#[tokio::test]
async fn two_clients_meet() {
    let broker = Broker::start("two_clients_meet");
    let (one, other) = (broker.client(), broker.client());
    let (one, other) = (one.match_line("line").unwrap(), other.match_line("line").unwrap());
    assert_eq!(one.try_ask("nobody").await, Ok(None));
    let waits = tokio::spawn(one.ask("from one").into_future());
    until(|| async { other.len().await == Ok((1, 0)) }).await;
    let met_r = other.try_ask_r("from other").await.unwrap().expect("somebody waits");
    let met = waits.await.unwrap().unwrap();
    assert_eq!((&met.value[..], &met_r.value[..]), (&b"from other"[..], &b"from one"[..]));
    assert_eq!(met_r.relative_us, -met.relative_us);
    assert_eq!(Duration::from_micros(met.relative_us as u64), met.sojourn);

    let waits = tokio::spawn(one.ask_r("x").label("later").timeout(None).into_future());
    until(|| async { other.len().await == Ok((0, 1)) }).await;
    assert_eq!((other.cancel("later").await, one.cancel("later").await), (Ok(0), Ok(1)));
    assert_eq!(waits.await.unwrap(), Err(Error::Cancelled));
    let expired = one.ask("x").timeout(Duration::from_millis(5)).await;
    assert_eq!(expired, Err(Error::Refused { reason: Refusal::Expired }));
    let nowhere = broker.client().match_line("nowhere").unwrap().try_ask("x").await;
    assert_eq!(nowhere, Err(Error::NoPlace { name: "nowhere".into() }));
    let full = broker.client().match_line("short").unwrap().ask("x").await;
    assert_eq!(full, Err(Error::Refused { reason: Refusal::QueueFull }));
}

#[tokio::test]
async fn whoever_stops_waiting_is_not_met() {
    let broker = Broker::start("whoever_stops_waiting");
    let (one, other) = (broker.client(), broker.client());
    let (line, gate) = (one.match_line("line").unwrap(), one.regulator("gate").unwrap());
    let (others_line, others_gate) =
        (other.match_line("line").unwrap(), other.regulator("gate").unwrap());
    let waits = tokio::spawn(line.ask("x").timeout(None).into_future());
    until(|| async { others_line.len().await == Ok((1, 0)) }).await;
    waits.abort();
    until(|| async { others_line.len().await == Ok((0, 0)) }).await;

    let lock = gate.acquire().await.unwrap();
    let waits = tokio::spawn(gate.acquire().into_future());
    until(|| async { others_gate.len().await == Ok((1, 1)) }).await;
    waits.abort();
    until(|| async { others_gate.len().await == Ok((0, 1)) }).await;
    // The end of a connection is the end of its holder.
    assert!(others_gate.try_acquire().await.unwrap().is_none());
    let next = tokio::spawn(others_gate.acquire().into_future());
    until(|| async { gate.len().await == Ok((1, 1)) }).await;
    drop((lock, line, gate, one));
    let mut next = next.await.unwrap().unwrap();
    next.go_on().await.unwrap();
    next.failed().await.unwrap();
    others_gate.update(Duration::from_millis(3)).await.unwrap();
    assert_eq!(others_gate.len().await, Ok((0, 0)));
}

#[test]
fn threads_meet_without_async() {
    let broker = Broker::start("threads_meet");
    let client = blocking::Client::connect([broker.endpoint.clone()]).unwrap();
    let line = client.match_line("line").unwrap();
    let back = line.clone();
    let asked_back = std::thread::spawn(move || back.ask_r("back").recv());
    let met = line.ask("forth").timeout(Duration::from_secs(20)).recv().unwrap();
    assert_eq!(met.value, "back");
    assert_eq!(asked_back.join().unwrap().unwrap().value, "forth");
    assert_eq!((line.try_ask("x"), line.len(), line.cancel("x")), (Ok(None), Ok((0, 0)), Ok(0)));

    let gate = client.regulator("gate").unwrap();
    let mut lock = gate.acquire().label("mine").recv().unwrap();
    lock.go_on().unwrap();
    assert!(gate.try_acquire().unwrap().is_none());
    lock.done().unwrap();
    drop(gate.try_acquire().unwrap().expect("it is open"));
    gate.update(Duration::ZERO).unwrap();
    gate.acquire().recv().unwrap().failed().unwrap();
    assert_eq!((gate.len(), gate.cancel("mine")), (Ok((0, 0)), Ok(0)));
}
