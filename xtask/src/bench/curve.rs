//! CURVE: what sealing costs a request, beside what it costs libzmq's.

use std::fs;
use std::path::Path;
use std::process::Command;

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
    Ok(())
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
        Ok(Keys {
            config: config.display().to_string(),
            secret: read("server")?,
            public: read("server.pub")?,
            client: directory.join("client").display().to_string(),
        })
    }
}
