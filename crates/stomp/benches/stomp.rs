//! What reading and writing frames costs, on one core. Prints a name and a figure a line, for
//! `cargo xtask bench stomp`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use stomp::{Command, Config, Connection, Head, Role, Step, Version, Writer};

/// Each figure is the best of so many runs: others use the machine, too.
const RUNS: usize = 5;
/// How long one run takes at least.
const RUN: Duration = Duration::from_millis(300);

fn main() {
    let small = many(b"SEND\ndestination:/queue/a\n\nhello\0", 64 << 10);
    println!("read_small_per_s {:.0}", read(&small).0);
    let usual = many(
        b"SEND\ndestination:/service/upper\nreply-to:/temp-queue/r\ncorrelation-id:1234\n\
          content-type:text/plain\ncontent-length:100\n\n\
          0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567\
          890123456789\0\n",
        64 << 10,
    );
    println!("read_usual_per_s {:.0}", read(&usual).0);
    let headers: String = (0..20).map(|i| format!("header-{i}:a\\cvalue {i}\n")).collect();
    let heavy = many(format!("SEND\n{headers}\n\0").as_bytes(), 64 << 10);
    println!("read_heavy_per_s {:.0}", read(&heavy).0);
    let body = vec![b'x'; 1 << 20];
    // With a content-length a body is not looked at at all.
    let large = [b"SEND\n\n", &body[..], b"\0"].concat();
    println!("read_large_bytes_per_s {:.0}", read(&large).1);
    println!("read_dribbled_bytes_per_s {:.0}", dribbled(&large));
    println!("write_usual_per_s {:.0}", write());
}

fn many(frame: &[u8], octets: usize) -> Vec<u8> {
    frame.repeat(octets / frame.len())
}

fn open(config: &Config) -> (Connection, Head, Vec<u8>) {
    let mut connection = Connection::server();
    let (mut head, mut out) = (Head::default(), Vec::new());
    let connect = b"CONNECT\naccept-version:1.2\n\n\0";
    connection.next(config, connect, &mut head, &mut out).expect("it may connect");
    connection.accept(&[], &mut out).expect("it can be told");
    out.clear();
    (connection, head, out)
}

/// Frames and octets per second.
fn read(bytes: &[u8]) -> (f64, f64) {
    let config = Config::new(Role::Server);
    let (mut connection, mut head, mut out) = open(&config);
    let rates = (0..RUNS).map(|_| {
        let (mut frames, mut octets) = (0_u64, 0_u64);
        let start = Instant::now();
        while start.elapsed() < RUN {
            let mut rest = black_box(bytes);
            loop {
                match connection.next(&config, rest, &mut head, &mut out).expect("frames") {
                    Step::Frame { len } => {
                        let frame = head.view(rest);
                        black_box((frame.get("destination"), frame.body()));
                        frames += 1;
                        rest = &rest[len..];
                    }
                    Step::Skip { len } => rest = &rest[len..],
                    Step::More { .. } | Step::Answer => break,
                }
            }
            octets += bytes.len() as u64;
        }
        let seconds = start.elapsed().as_secs_f64();
        (frames as f64 / seconds, octets as f64 / seconds)
    });
    rates.fold((0.0, 0.0), |best, rate| (best.0.max(rate.0), best.1.max(rate.1)))
}

/// Octets per second of a frame that comes 100 octets at a time.
fn dribbled(bytes: &[u8]) -> f64 {
    let config = Config::new(Role::Server);
    let (mut connection, mut head, mut out) = open(&config);
    let rates = (0..RUNS).map(|_| {
        let mut octets = 0_u64;
        let start = Instant::now();
        while start.elapsed() < RUN {
            for end in (100..bytes.len()).step_by(100).chain([bytes.len()]) {
                let step = connection.next(&config, &bytes[..end], &mut head, &mut out);
                assert_eq!(matches!(step, Ok(Step::Frame { .. })), end == bytes.len());
            }
            octets += bytes.len() as u64;
        }
        octets as f64 / start.elapsed().as_secs_f64()
    });
    rates.fold(0.0, f64::max)
}

/// MESSAGEs written per second.
fn write() -> f64 {
    let mut out = Vec::with_capacity(1 << 20);
    let rates = (0..RUNS).map(|_| {
        let mut frames = 0_u64;
        let start = Instant::now();
        while start.elapsed() < RUN {
            out.clear();
            for _ in 0..1_000 {
                let writer = Writer::new(&mut out, Version::V1_2, Command::Message);
                let done = writer
                    .header("subscription", "0")
                    .header("message-id", "1234567890")
                    .header("destination", "/queue/a")
                    .header("content-type", "text/plain")
                    .body(&[b'x'; 100]);
                done.expect("it can be written");
            }
            frames += 1_000;
            black_box(&out);
        }
        frames as f64 / start.elapsed().as_secs_f64()
    });
    rates.fold(0.0, f64::max)
}
