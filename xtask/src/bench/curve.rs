//! CURVE: what sealing costs a request, beside what it costs libzmq's, and what a flood of HELLOs
//! costs those who are in.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::loads::{Run, run_once};
use super::process::{Broker, Placement, Programs};
use super::report::{Report, median};
use crate::root;

/// Runs of which the median counts.
const RUNS: usize = 3;

/// e1 and e2 without and with CURVE, on both brokers, alternating, all on one CPU.
pub(super) fn run(programs: &Programs, report: &mut Report) -> Result<(), String> {
    let keys = Keys::make(programs)?;
    let proof = ["--server-key", &keys.public, "--key", &keys.client];
    for (name, bar) in BARS {
        eprintln!("{name}: open and sealed, pinned");
        let [mut open, mut sealed, mut peer_open, mut peer_sealed]: [Vec<Run>; 4] =
            Default::default();
        let at = Placement::Pinned;
        for _ in 0..RUNS {
            let broker = Broker::maitred(programs, at)?;
            open.push(run_once(programs, name, &broker, at, &[])?);
            drop(broker);
            let broker = Broker::maitred_with(programs, at, Path::new(&keys.config))?;
            sealed.push(run_once(programs, name, &broker, at, &proof)?);
            drop(broker);
            let broker = Broker::baseline(programs, at)?;
            peer_open.push(run_once(programs, name, &broker, at, &[])?);
            drop(broker);
            let broker = Broker::baseline_with(programs, at, &keys.secret)?;
            peer_sealed.push(run_once(programs, name, &broker, at, &proof)?);
        }
        let cpu = |runs: &[Run]| median(runs.iter().map(|run| run.broker_us));
        let p50 = |runs: &[Run]| median(runs.iter().map(|run| run.p50_us));
        let (ours, theirs) = (cpu(&sealed), cpu(&peer_sealed));
        report.note(format!(
            "CURVE, {name}: {:.2} us of CPU per request without, {ours:.2} us with; the libzmq \
             loop {:.2} us without, {theirs:.2} us with; p50 {:.0} us, the libzmq loop's {:.0} us",
            cpu(&open),
            cpu(&peer_open),
            p50(&sealed),
            p50(&peer_sealed),
        ));
        report.at_most(
            &format!("{name} with CURVE: CPU, of the libzmq loop's"),
            ours / theirs,
            bar,
            "x",
        );
    }
    flood(programs, &keys, report)
}

/// One call at a time on an open listener, in peace and while two threads throw HELLOs at another
/// one. They take processors as well, so this is what a whole machine feels, not the broker alone.
fn flood(programs: &Programs, keys: &Keys, report: &mut Report) -> Result<(), String> {
    eprintln!("e1 during a flood of HELLOs, free");
    let at = Placement::Free;
    let [mut calm, mut flooded]: [Vec<Run>; 2] = Default::default();
    let mut thrown = 0;
    for _ in 0..RUNS {
        let broker = Broker::maitred_at(programs, at, Path::new(&keys.flood_config), &[])?;
        calm.push(run_once(programs, "e1", &broker, at, &[])?);
        let flood = Flood::start(broker.addresses.get(1).ok_or("no second listener")?);
        flooded.push(run_once(programs, "e1", &broker, at, &[])?);
        thrown += flood.stop()?;
    }
    let of = |runs: &[Run], f: fn(&Run) -> f64| median(runs.iter().map(f));
    report.note(format!(
        "A flood of CURVE HELLOs ({} a run, from two threads): one call at a time beside it has a \
         p50 of {:.0} us and a p99 of {:.0} us, without it {:.0} us and {:.0} us",
        thrown / RUNS as u64,
        of(&flooded, |run| run.p50_us),
        of(&flooded, |run| run.p99_us),
        of(&calm, |run| run.p50_us),
        of(&calm, |run| run.p99_us),
    ));
    Ok(())
}

/// Threads that connect, say HELLO with a key of their own making, and leave; again and again.
struct Flood {
    over: Arc<AtomicBool>,
    thrown: Arc<AtomicU64>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Flood {
    fn start(address: &str) -> Flood {
        let (over, thrown) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..2).map(|_| {
            let (over, thrown, address) = (over.clone(), thrown.clone(), address.to_owned());
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let mut batch = Vec::new();
                    for _ in 0..50 {
                        let mut stream = TcpStream::connect(&address)?;
                        stream.write_all(&hello())?;
                        batch.push(stream);
                    }
                    thrown.fetch_add(batch.len() as u64, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        let threads = threads.collect();
        Flood { over, thrown, threads }
    }

    /// How many HELLOs there were.
    fn stop(mut self) -> Result<u64, String> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join().map_err(|_| "a thread of the flood panicked")?;
            ended.map_err(|error| format!("the flood: {error}"))?;
        }
        Ok(self.thrown.load(Ordering::Relaxed))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// A greeting and a HELLO whose box does not open: that is found out by computing it.
fn hello() -> Vec<u8> {
    let mut bytes = b"\xff\0\0\0\0\0\0\0\0\x7f\x03\x01CURVE".to_vec();
    bytes.resize(64, 0);
    bytes.extend_from_slice(b"\x04\xc8\x05HELLO\x01\x00");
    bytes.resize(bytes.len() + 72, 0);
    // Any 32 octets are a key.
    bytes.extend_from_slice(&[0x5A; 32]);
    bytes.extend_from_slice(b"\0\0\0\0\0\0\0\x01");
    bytes.resize(bytes.len() + 80, 0xA5);
    bytes
}

/// The scenarios, and the most we may cost of what the libzmq loop costs. A box costs both of us
/// nearly the same, so that the advantage of an open wire (0.31 and 0.40) shrinks the more frames
/// there are per system call.
const BARS: [(&str, f64); 2] = [("e1", 0.50), ("e2", 0.75)];

/// A broker's and a client's keys, and a configuration that lets the client in.
struct Keys {
    config: String,
    secret: String,
    public: String,
    client: String,
    /// Of a broker with an open listener and one for CURVE.
    flood_config: String,
}

impl Keys {
    fn make(programs: &Programs) -> Result<Keys, String> {
        let directory = root().join("target/bench-keys");
        // Keys are never overwritten, and each run has its own.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        for name in ["server", "client"] {
            let mut keygen = Command::new(&programs.maitred);
            keygen.arg("keygen").arg(directory.join(name));
            let done = keygen.output().map_err(|error| format!("keygen: {error}"))?;
            if !done.status.success() {
                return Err(format!("keygen: {}", String::from_utf8_lossy(&done.stderr)));
            }
        }
        let read = |name: &str| {
            let path = directory.join(name);
            let text = fs::read_to_string(&path);
            text.map(|text| text.trim().to_owned())
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        let config = directory.join("maitred.toml");
        let text = format!(
            "[security]\nmechanism = \"curve\"\nserver_key = \"server\"\n\
             [principals.load]\nkeys = [\"{}\"]\ncall = [\"*\"]\nserve = [\"*\"]\n",
            read("client.pub")?
        );
        fs::write(&config, text).map_err(|error| error.to_string())?;
        let flood_config = directory.join("flood.toml");
        let listen = "[[mdp.listen]]\nendpoint = \"tcp://127.0.0.1:0\"\n";
        let text =
            format!("[security]\nserver_key = \"server\"\n{listen}{listen}mechanism = \"curve\"\n");
        fs::write(&flood_config, text).map_err(|error| error.to_string())?;
        Ok(Keys {
            config: config.display().to_string(),
            flood_config: flood_config.display().to_string(),
            secret: read("server")?,
            public: read("server.pub")?,
            client: directory.join("client").display().to_string(),
        })
    }
}
