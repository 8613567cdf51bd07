//! The queues against theory: what a line without rules must come to, known in closed form.

use engine::{AtBound, Fair, FairBy, ServiceConfig};
use matching::Span;

use super::load::{File, Load, Plan, seconds};
use super::run::{Tally, run};

fn plan(text: &str) -> Plan {
    let file: File = toml::from_str(text).unwrap();
    file.settle().unwrap()
}

/// Requests to one worker of 10 ms: it can do 100 per second.
fn load(shape: &str, rate: u32, lasts: u32, seed: u64) -> Load {
    let text = format!(
        "workers = 1\nseed = {seed}\nwork = {{ time = \"10ms\", shape = \"{shape}\" }}\n\
         [[phases]]\nlasts = \"{lasts}s\"\nrate = {rate}\n"
    );
    plan(&text).load
}

fn mean_wait(tally: &Tally) -> f64 {
    tally.mean_wait().unwrap() * 1e3
}

fn near(what: &str, got: f64, theory: f64, share: f64) {
    assert!((got / theory - 1.0).abs() < share, "{what}: {got}, theory says {theory}");
}

/// M/M/1 half busy: the wait is zero with 0.5, else exponential around 1 / (100 - 50) s. The mean
/// of 100,000 such waits, each like its neighbours, has an error of sqrt(29 / 100,000), 1.7 %
/// (Daley 1968); bounds are about five errors.
#[test]
fn exponential_work_waits_as_theory_says() {
    let load = load("exponential", 50, 2_000, 1);
    let tally = run(&load, &ServiceConfig::default());
    near("mean wait, ms", mean_wait(&tally), 10.0, 0.085);
    near("p99, ms", seconds(tally.wait(990).unwrap()) * 1e3, 1e3 * 50_f64.ln() / 50.0, 0.12);
    let at_once = tally.waits.iter().filter(|wait| **wait == Span::ZERO).count();
    near("seated at once", at_once as f64 / tally.waits.len() as f64, 0.5, 0.03);
    assert_eq!(tally.in_time, load.requests.len() as u64);
}

/// M/D/1: half the wait of M/M/1.
#[test]
fn constant_work_waits_half_as_long() {
    let tally = run(&load("constant", 50, 2_000, 2), &ServiceConfig::default());
    near("mean wait, ms", mean_wait(&tally), 5.0, 0.085);
}

/// M/M/1/K: of a house with room for K = 5 a share of (1 - p) p^K / (1 - p^(K + 1)) is refused,
/// whoever it is that has to go.
#[test]
fn a_bounded_line_refuses_what_theory_says() {
    let load = load("exponential", 80, 1_000, 3);
    let p: f64 = 0.8;
    let refused = (1.0 - p) * p.powi(5) / (1.0 - p.powi(6));
    for when_full in [AtBound::Refuse, AtBound::DropOldest] {
        let rules = ServiceConfig { queue_max: 4, when_full, ..ServiceConfig::default() };
        let tally = run(&load, &rules);
        near("refused", tally.queue_full as f64 / tally.offered as f64, refused, 0.15);
        assert_eq!(tally.longest, 4);
    }
}

#[test]
fn a_seed_is_a_load_and_every_request_ends_once() {
    let draw = |seed| load("exponential", 80, 200, seed);
    let mut first = draw(4);
    assert_eq!(first.requests, draw(4).requests);
    assert_ne!(first.requests, draw(5).requests);
    first.patience = Span::from_millis(100);
    let lines = [
        "default",
        "timeout:give_up=70ms",
        "aim:aim=20ms,give_up=80ms",
        "codel:discipline=codel,target=5ms,interval=100ms,give_up=80ms",
        "stack:order=lifo,queue_max=3,when_full=drop_oldest",
        "dealt:fair=connection,flows=7,aim=10ms,order=adaptive,keep=1",
    ];
    for leaves in [false, true] {
        first.leaves = leaves;
        for text in lines {
            let line = super::rules::LineFile::of_flag(text).unwrap().settle().unwrap();
            let tally = run(&first, &line.config);
            let shed = tally.queue_full + tally.expired + tally.overload;
            let ended = tally.in_time + tally.late + tally.withdrawn + shed;
            assert_eq!(ended, first.requests.len() as u64, "{text}");
            assert_eq!(tally.waits.len() as u64, tally.in_time + tally.late, "{text}");
            assert_eq!(text == "default", shed == 0, "{text}");
        }
    }
}

/// One client asks for four times what there is, nine others for a twentieth each: when they take
/// turns, the nine do not notice.
#[test]
fn turns_keep_the_modest_from_waiting_for_the_greedy() {
    let text = "workers = 1\npatience = \"1s\"\nclients = [80, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n\
                work = { time = \"10ms\" }\n[[phases]]\nlasts = \"60s\"\nrate = 445\n";
    let load = plan(text).load;
    let rules = ServiceConfig { give_up: Span::from_secs(1), ..ServiceConfig::default() };
    let flows = core::num::NonZero::new(1_024).unwrap();
    let fair = Some(Fair { by: FairBy::Connection, flows });
    let (one_line, turns) = (run(&load, &rules), run(&load, &ServiceConfig { fair, ..rules }));
    let modest = |tally: &Tally| {
        let modest = &tally.clients[1..];
        let sum = |count: fn(&super::run::Client) -> u64| modest.iter().map(count).sum::<u64>();
        sum(|client| client.in_time) as f64 / sum(|client| client.offered) as f64
    };
    assert!(modest(&one_line) < 0.35, "{}", modest(&one_line));
    assert!(modest(&turns) > 0.99, "{}", modest(&turns));
    assert_eq!(turns.worst_off().unwrap().0, 0);
}

#[test]
fn flags_name_lines_in_the_words_of_the_configuration() {
    let cases = [
        ("a:aim", "\"aim\" is no rule: expected KEY=VALUE"),
        (":aim=1s", "a line needs a name"),
        ("a:aim=1s,aim=2s", "aim is said twice"),
        ("a:name=b", "name is said twice"),
        ("a:aim=0s", "aim must be longer than nothing"),
        ("a:aim=soon", "\"soon\" is not a duration"),
        ("a:lunch=1", "unknown field `lunch`, expected one of"),
        ("a:discipline=codel", "discipline = \"codel\" needs a target"),
        ("a:discipline=aim", "discipline = \"aim\" needs an aim"),
        ("a:fair=class", "fair = \"class\" is not simulated"),
        ("a:valve=off", "valve is not simulated"),
    ];
    for (text, expected) in cases {
        let line = super::rules::LineFile::of_flag(text).and_then(|line| line.settle());
        let error = line.unwrap_err();
        assert!(error.starts_with(expected), "{text:?}\n  gave {error:?}\n  not  {expected:?}");
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
        ("workers = 1\nclients = [1]\ntrace = \"a.csv\"\n".into(), {
            "m.toml:2: clients describes nothing beside a trace: say it in its column `key`"
        }),
        ("workers = 1\ntrace = \"a.csv\"\n[work]\nshape = \"uniform\"\n".into(), {
            "m.toml:4: shape describes nothing beside a trace: say it in its column `service`"
        }),
        ("workers = 1\ntrace = \"a.csv\"\n[work]\ntime = \"1s\"\nspread = 1\n".into(), {
            "m.toml:5: spread describes nothing beside a trace"
        }),
        (format!("workers = 1\n[work]\ntime = \"1s\"\nspread = 1\n{phases}"), {
            "m.toml:4: spread describes shape = \"lognormal\" and no other"
        }),
        (
            format!("workers = 1\nclients = [0]\nwork = {{ time = \"1s\" }}\n{phases}"),
            "m.toml:2: clients are 1 to 100000 weights",
        ),
        (
            format!(
                "workers = 1\nwork = {{ time = \"1s\" }}\n{phases}[[lines]]\nname = \"a\"\n\
                 discipline = \"timeout\"\n"
            ),
            "m.toml:6: discipline = \"timeout\" needs a limit",
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
