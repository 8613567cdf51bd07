//! The queues against theory: what a line without rules must come to, known in closed form.

use matching::{AnyConfig, QueueConfig, Span};

use super::load::{File, Load, seconds};
use super::run::{Tally, run};

/// A million requests to one worker of 10 ms at 80 per second.
fn load(shape: &str, seed: u64) -> Load {
    let text = format!(
        "workers = 1\nseed = {seed}\nwork = {{ time = \"10ms\", shape = \"{shape}\" }}\n\
         lines = [{{ name = \"a\" }}]\n[[phases]]\nlasts = \"12500s\"\nrate = 80\n"
    );
    let file: File = toml::from_str(&text).unwrap();
    file.settle().unwrap().load
}

fn mean_wait(tally: &Tally) -> f64 {
    tally.mean_wait().unwrap() * 1e3
}

fn near(what: &str, got: f64, theory: f64, share: f64) {
    assert!((got / theory - 1.0).abs() < share, "{what}: {got}, theory says {theory}");
}

/// M/M/1: the wait is zero with 1 - 0.8, else exponential around 1 / (100 - 80) s. The mean of a
/// million has an error of about 1.1 %.
#[test]
fn exponential_work_waits_as_theory_says() {
    let load = load("exponential", 1);
    let tally = run(&load, &AnyConfig::from(QueueConfig::default()));
    near("mean wait, ms", mean_wait(&tally), 40.0, 0.05);
    near("p99, ms", seconds(tally.wait(990).unwrap()) * 1e3, 1e3 * 80_f64.ln() / 20.0, 0.07);
    let at_once = tally.waits.iter().filter(|wait| **wait == Span::ZERO).count();
    near("seated at once", at_once as f64 / tally.waits.len() as f64, 0.2, 0.02);
    assert_eq!(tally.in_time, load.requests.len() as u64);
}

/// M/D/1: half the wait of M/M/1.
#[test]
fn constant_work_waits_half_as_long() {
    let tally = run(&load("constant", 2), &AnyConfig::from(QueueConfig::default()));
    near("mean wait, ms", mean_wait(&tally), 20.0, 0.05);
}

/// M/M/1/K: of a house with room for K = 5 a share of (1 - p) p^K / (1 - p^(K + 1)) is refused.
#[test]
fn a_bounded_line_refuses_what_theory_says() {
    let load = load("exponential", 3);
    let tally = run(&load, &AnyConfig::from(QueueConfig::default().with_max(4)));
    let p: f64 = 0.8;
    let refused = (1.0 - p) * p.powi(5) / (1.0 - p.powi(6));
    near("refused", tally.queue_full as f64 / tally.offered as f64, refused, 0.03);
}

#[test]
fn a_seed_is_a_load_and_every_request_ends_once() {
    let first = load("exponential", 4);
    assert_eq!(first.requests, load("exponential", 4).requests);
    assert_ne!(first.requests, load("exponential", 5).requests);
    let mut first = first;
    first.patience = Span::from_millis(100);
    let aim = QueueConfig::aim(Span::from_millis(20), Span::from_millis(80));
    for leaves in [false, true] {
        first.leaves = leaves;
        for config in [QueueConfig::default(), QueueConfig::timeout(Span::from_millis(70)), aim] {
            let tally = run(&first, &AnyConfig::from(config));
            let shed = tally.queue_full + tally.expired + tally.overload;
            let ended = tally.in_time + tally.late + tally.withdrawn + shed;
            assert_eq!(ended, first.requests.len() as u64, "{config:?}");
            assert_eq!(tally.waits.len() as u64, tally.in_time + tally.late);
            assert_eq!(tally.withdrawn > 0, leaves && config == QueueConfig::default());
        }
    }
}

#[test]
fn mistakes_are_named_with_their_line() {
    let dir = std::env::temp_dir().join(format!("maitred-simulate-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("m.toml");
    let phases = "[[phases]]\nlasts = \"1s\"\nrate = 10\n";
    let cases = [
        (String::new(), "m.toml: who serves?"),
        ("\nworkers = 0\n".into(), "m.toml:2: workers must be from 1"),
        ("workers = 1\nlunch = 2\n".into(), "m.toml:2: unknown field `lunch`"),
        ("workers = 1\n".into(), "m.toml: nothing arrives"),
        (format!("workers = 1\n{phases}"), "m.toml: how long is a request worked on?"),
        ("workers = 1\ntrace = \"a.csv\"\n[work]\ntime = \"1 day\"\n".into(), {
            "m.toml:4: \"1 day\" is not a duration"
        }),
        (
            "workers = 1\nwork = { time = \"1s\" }\n[[phases]]\nlasts = \"1s\"\nrate = -1\n".into(),
            { "m.toml:3: rate must be from 0" },
        ),
        (
            "workers = 1\nwork = { time = \"1s\" }\n[[phases]]\nlasts = \"9h\"\nrate = 1e6\n"
                .into(),
            { "m.toml:3: about 32400000001 requests" },
        ),
        (
            format!("workers = 1\nwork = {{ time = \"1s\" }}\n{phases}[[lines]]\naim = \"1s\"\n"),
            "m.toml:6: a line needs a name",
        ),
    ];
    for (text, expected) in cases {
        std::fs::write(&path, &text).unwrap();
        let error = File::read(&path).and_then(File::settle).unwrap_err().message;
        let error = error.replace(&format!("{}/", dir.display()), "");
        assert!(error.starts_with(expected), "{text:?}\n  gave {error:?}\n  not  {expected:?}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
