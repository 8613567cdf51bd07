//! What SQLite's store survives: the end of its process, of the power, of the room on the disk; and
//! what it notices: a disk that fails, bytes that are not the ones written.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use store::sqlite::{self, Options, Refused};
use store::{Answer, Clock, Filter, Query, Store, TaskView, wait};

use crate::dir::Dir;
use crate::ledger::Ledger;
use crate::syscalls::{Disk, Event, record};

/// The program that writes: built with the tests, from `examples/load.rs`.
pub(crate) fn writer() -> PathBuf {
    let test = env::current_exe().expect("this program");
    let target = test.parent().and_then(Path::parent).expect("a target directory");
    let program = target.join("examples/load");
    assert!(
        program.exists(),
        "{} is not built: `cargo test` without --test builds it",
        program.display()
    );
    program
}

fn write(path: &Path, rounds: u32, level: &str) -> Command {
    let mut command = Command::new(writer());
    command.arg("write").arg(path).arg(rounds.to_string());
    command.args((!level.is_empty()).then_some(level));
    command
}

/// A seeded generator: the same faults in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn kill_9_loses_nothing_that_was_answered() {
    let dir = Dir::new();
    let path = dir.path("tasks.db");
    let mut ledger = Ledger::default();
    let mut chance = Chance(1);
    for round in 0..25 {
        let mut child =
            write(&path, 1_000_000, "").stdout(Stdio::piped()).spawn().expect("the writer");
        let stdout = child.stdout.take().expect("its output");
        thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let lines = BufReader::new(stdout).lines();
                lines.map(|line| line.expect("text")).collect::<Vec<String>>()
            });
            thread::sleep(Duration::from_millis(20 + chance.below(180)));
            child.kill().expect("a living writer");
            child.wait().expect("its end");
            for line in reader.join().expect("its lines") {
                ledger.note(&line);
            }
        });
        if round % 5 == 4 {
            let missing = ledger.missing_from(&path).expect("a whole store");
            assert_eq!(missing, [""; 0], "after kill {round}");
        }
    }
    assert!(ledger.enqueued.len() > 100, "the writer hardly wrote: {ledger:?}");
    assert!(ledger.twice.is_empty(), "settled twice: {:?}", ledger.twice);
}

/// Checks every state the disk can be in when the power goes; what was lost at each cut.
fn cut_everywhere(events: &[Event], torn: bool) -> Vec<String> {
    let (mut disk, mut ledger, mut chance) = (Disk::default(), Ledger::default(), Chance(7));
    let mut lost = Vec::new();
    let mut cuts = 0;
    for (number, event) in events.iter().enumerate() {
        // What is on the disk changes with a sync only; what the world knows only grows until then.
        let before_sync = matches!(event, Event::Sync { .. });
        let sampled = torn && chance.below(8) == 0;
        if before_sync || sampled || number + 1 == events.len() {
            cuts += 1;
            let dir = Dir::fast();
            let path = disk.cut(dir.root(), || match torn {
                false => 0,
                true => [0, usize::MAX, 1, 5][chance.below(4) as usize],
            });
            match ledger.missing_from(&path.join_if_directory()) {
                Ok(missing) => lost.extend(missing),
                Err(refused) => lost.push(refused.to_string()),
            }
        }
        disk.see(event);
        if let Event::Said(line) = event {
            ledger.note(line);
        }
    }
    assert!(cuts > 50, "only {cuts} cuts of {} events", events.len());
    lost
}

/// Before the first sync of the directory there is no store yet.
trait JoinIfDirectory {
    fn join_if_directory(&self) -> PathBuf;
}

impl JoinIfDirectory for PathBuf {
    fn join_if_directory(&self) -> PathBuf {
        if self.is_dir() { self.join("tasks.db") } else { self.clone() }
    }
}

fn record_writer(level: &str) -> Vec<Event> {
    let dir = Dir::new();
    let root = fs::canonicalize(dir.root()).expect("a directory");
    record(&mut write(&root.join("tasks.db"), 40, level), &root, &dir.path("strace.log"))
}

#[test]
fn a_power_cut_loses_nothing_that_was_answered() {
    let events = record_writer("");
    assert_eq!(cut_everywhere(&events, false), [""; 0], "everything not synced was lost");
    assert_eq!(cut_everywhere(&events, true), [""; 0], "some of it arrived, some of it torn");
}

#[test]
fn the_power_cut_test_notices_a_store_that_answers_before_it_syncs() {
    let lost = cut_everywhere_or_few(&record_writer("os"));
    assert!(lost > 0, "with synchronous = NORMAL nothing was lost: the test sees nothing");
}

/// As [`cut_everywhere`] at the end only: a store that hardly syncs has few states.
fn cut_everywhere_or_few(events: &[Event]) -> usize {
    let (mut disk, mut ledger) = (Disk::default(), Ledger::default());
    let mut lost = 0;
    for event in events {
        if let Event::Sync { .. } = event
            && !ledger.enqueued.is_empty()
        {
            let dir = Dir::fast();
            let path = disk.cut(dir.root(), || 0);
            lost += ledger.missing_from(&path.join_if_directory()).expect("never corrupt").len();
        }
        disk.see(event);
        if let Event::Said(line) = event {
            ledger.note(line);
        }
    }
    lost
}

/// Runs the writer with faults injected into its system calls; its ledger and whether it went well.
fn inject(path: &Path, fault: &str) -> (Ledger, bool) {
    let mut strace = Command::new("strace");
    let inner = write(path, 60, "");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync,pwrite64", "-e"]);
    strace.arg(format!("inject={fault}")).arg(inner.get_program()).args(inner.get_args());
    let mut child = strace
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("strace: install the Debian package of that name");
    let mut text = String::new();
    child.stdout.take().expect("its output").read_to_string(&mut text).expect("text");
    let mut ledger = Ledger::default();
    text.lines().for_each(|line| ledger.note(line));
    (ledger, child.wait().expect("its end").success())
}

#[test]
fn a_failed_fsync_stops_the_store_for_good() {
    for call in [40, 60, 77] {
        let dir = Dir::new();
        let path = dir.path("tasks.db");
        let fault = format!("fsync,fdatasync:error=EIO:when={call}");
        let (ledger, went_well) = inject(&path, &fault);
        assert!(!went_well, "one fsync failed, the next did not, and it went on");
        let last = ledger.other.last().expect("a last word");
        assert!(last.starts_with("error the store stopped: "), "{last}");
        assert_eq!(ledger.missing_from(&path).expect("a whole store"), [""; 0]);
    }
}

#[test]
fn a_full_disk_refuses_and_passes() {
    let dir = Dir::new();
    let path = dir.path("tasks.db");
    let (ledger, went_well) = inject(&path, "pwrite64:error=ENOSPC:when=150..170");
    assert!(ledger.other.iter().any(|line| line.starts_with("full ")), "{:?}", ledger.other);
    assert!(went_well, "{:?}", ledger.other);
    assert_eq!(ledger.missing_from(&path).expect("a whole store"), [""; 0]);
}

#[test]
fn a_second_broker_is_refused_and_a_dead_one_is_not_in_the_way() {
    let dir = Dir::new();
    let path = dir.path("tasks.db");
    let clock = Clock::new();
    let (first, _) = sqlite::open(&path, &clock, Options::default()).expect("a store");
    let second = sqlite::open(&path, &clock, Options::default()).map(drop);
    assert!(matches!(second, Err(Refused::InUse(_))), "{second:?}");
    assert!(matches!(sqlite::check(&path), Err(Refused::InUse(_))));
    first.close();
    assert!(sqlite::check(&path).expect("closed").is_sound());
}

/// A store that was killed with its log full, and what was answered.
fn killed(dir: &Dir) -> (PathBuf, Ledger) {
    let path = dir.path("tasks.db");
    let mut child = write(&path, 14, "").stdout(Stdio::piped()).spawn().expect("the writer");
    let mut ledger = Ledger::default();
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    for line in lines.map(|line| line.expect("text")) {
        ledger.note(&line);
        if ledger.enqueued.len() == 30 {
            break;
        }
    }
    child.kill().expect("a living writer");
    child.wait().expect("its end");
    (path, ledger)
}

#[test]
fn a_hole_in_the_log_is_refused_and_a_torn_tail_is_not() {
    let dir = Dir::new();
    let (path, ledger) = killed(&dir);
    let log = path.with_extension("db-wal");
    let whole = fs::read(&log).expect("a log");
    let frame = 24 + 8_192;
    // The last frame is of the last transaction, which may be torn: it is cut short here.
    fs::write(&log, [&whole[..], &whole[32..32 + frame / 2]].concat()).expect("a tail");
    let copy = dir.path("copy");
    fs::create_dir(&copy).expect("a directory");
    fs::copy(&path, copy.join("tasks.db")).expect("a copy");
    fs::copy(&log, copy.join("tasks.db-wal")).expect("a copy");
    assert_eq!(ledger.missing_from(&copy.join("tasks.db")).expect("torn, not damaged"), [""; 0]);

    for at in [1, 17, 25, 32 + 4, 32 + 24 + 100, 32 + 3 * frame + 9] {
        let mut holed = whole.clone();
        holed[at] ^= 0x10;
        fs::write(&log, &holed).expect("a log");
        let refused = ledger.missing_from(&path).expect_err("a hole");
        assert!(matches!(refused, Refused::Damaged { .. }), "{refused}");
        assert_eq!(fs::read(&log).expect("the log"), holed, "it was changed");
    }
}

/// All that is to be seen of the tasks of a closed store.
fn views(path: &Path) -> Vec<TaskView> {
    let clock = Clock::new();
    let (store, _) = sqlite::open(path, &clock, Options::default()).expect("a store");
    let filter = Filter { limit: 1_000, ..Filter::default() };
    let answer = wait(|reply| store.query(clock.now(), Query::Tasks(filter), reply));
    store.close();
    let Ok(Answer::Tasks { tasks, .. }) = answer else { panic!("{answer:?}") };
    tasks
}

#[test]
fn a_flipped_byte_never_passes_for_what_was_written() {
    let dir = Dir::new();
    let (path, ledger) = killed(&dir);
    sqlite::check(&path).expect("a store");
    let before = views(&path);
    assert!(before.len() >= 30, "{}", before.len());
    let whole = fs::read(&path).expect("the file");
    let mut chance = Chance(3);
    let mut noticed = 0;
    // Most bytes are payload; every other flip is aimed at what stands around it.
    let word = b"max_attempts";
    let rows: Vec<usize> =
        (0..whole.len() - 200).filter(|at| whole[*at..].starts_with(word)).collect();
    for round in 0..400 {
        let copy = Dir::fast();
        let copied = copy.path("tasks.db");
        let mut flipped = whole.clone();
        let mut at = chance.below(whole.len() as u64) as usize;
        if round % 2 == 0 {
            let row = rows[chance.below(rows.len() as u64) as usize];
            at = (row - 80) + chance.below(160) as usize;
        }
        flipped[at] ^= 1 << chance.below(8);
        fs::write(&copied, flipped).expect("a file");
        let sound = sqlite::check(&copied).is_ok_and(|checked| checked.is_sound());
        noticed += u32::from(!sound);
        if sound {
            assert!(views(&copied) == before, "byte {at} changed a task and goes unnoticed");
            let missing = ledger.missing_from(&copied).expect("a sound store");
            assert_eq!(missing, [""; 0], "byte {at} goes unnoticed");
        }
    }
    assert!(noticed > 50, "only {noticed} of 400 flips were noticed");
}

#[test]
fn a_backup_is_whole_and_its_numbers_are_never_given_again() {
    let dir = Dir::new();
    let (path, mut ledger) = killed(&dir);
    let (backup, restored) = (dir.path("backup.db"), dir.path("restored.db"));
    sqlite::backup(&path, &backup).expect("a backup");
    assert!(sqlite::backup(&path, &backup).is_err(), "a backup replaces nothing");
    // The original goes on and gives leases the backup has not heard of.
    let more = write(&path, 5, "").output().expect("the writer");
    let mut later = Ledger::default();
    String::from_utf8_lossy(&more.stdout).lines().for_each(|line| later.note(line));
    assert!(sqlite::restore(&backup, &path).is_err(), "a restore replaces nothing");
    assert!(sqlite::restore(&backup, &restored).expect("restored").is_sound());
    ledger.last_fence = later.last_fence;
    assert_eq!(ledger.missing_from(&restored).expect("a whole store"), [""; 0]);
}
