//! What a process asked of the disk, as strace saw it, and what the disk holds if the power goes.
//!
//! A file is what was written to it *and* covered by an fsync that had returned; a name is there
//! once its directory was synced. Everything else may be lost, or arrive in any selection, a
//! write torn between sectors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, iter};

/// One thing that happened.
#[derive(Debug)]
pub(crate) enum Event {
    Create(String),
    Unlink(String),
    Write {
        file: String,
        offset: usize,
        data: Vec<u8>,
    },
    Truncate {
        file: String,
        len: usize,
    },
    /// Covers what happened before the event of this number.
    Sync {
        file: String,
        started: usize,
    },
    /// A line on standard output: what the world knows.
    Said(String),
}

/// Runs `program` under strace and returns what it did to files under `root`.
pub(crate) fn record(program: &mut Command, root: &Path, log: &Path) -> Vec<Event> {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-y", "-xx", "-s", "10000000", "-e"])
        .arg("trace=openat,pwrite64,write,fdatasync,fsync,ftruncate,unlink")
        .arg("-o")
        .arg(log)
        .arg(program.get_program())
        .args(program.get_args())
        .stdout(Stdio::null());
    let status = strace.status().expect("strace: install the Debian package of that name");
    assert!(status.success(), "{strace:?}: {status}");
    parse(&fs::read_to_string(log).expect("strace's log"), &root.to_string_lossy())
}

fn parse(log: &str, root: &str) -> Vec<Event> {
    let mut events = Vec::new();
    // Calls that had begun when another thread's were seen: text and the events before them.
    let mut open: HashMap<&str, (String, usize)> = HashMap::new();
    for line in log.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if let Some(head) = call.strip_suffix(" <unfinished ...>") {
            open.insert(thread, (head.to_owned(), events.len()));
            continue;
        }
        let (text, started) =
            match call.strip_prefix("<... ").and_then(|c| c.split_once("resumed>")) {
                Some((_, rest)) => {
                    let (head, started) = open.remove(thread).expect("a call that began");
                    (head + rest, started)
                }
                None => (call.to_owned(), events.len()),
            };
        events.extend(event(&text, started, root));
    }
    events
}

fn event(call: &str, started: usize, root: &str) -> Option<Event> {
    let (name, rest) = call.split_once('(')?;
    let (args, result) = rest.rsplit_once(") = ")?;
    let failed = result.starts_with('-');
    if name == "write" {
        let text = args.strip_prefix("1<")?;
        let data = unhex(quoted(text)?);
        let line = String::from_utf8(data).expect("lines of text");
        return Some(Event::Said(line.trim_end().to_owned()));
    }
    let file = match name {
        "openat" | "unlink" => text(quoted(args)?),
        _ => text(args.split_once('<')?.1.split_once('>')?.0),
    };
    let beside = [".lock", "-shm", ".reserve"].iter().any(|suffix| file.ends_with(suffix));
    if !file.starts_with(root) || beside || failed {
        return None;
    }
    let last =
        |args: &str| args.rsplit_once(", ").map(|(_, last)| last.trim().parse().expect("a number"));
    Some(match name {
        "openat" if args.contains("O_CREAT") => Event::Create(file),
        "unlink" => Event::Unlink(file),
        "pwrite64" => {
            let data = unhex(quoted(args)?);
            assert_eq!(result.parse(), Ok(data.len()), "a short write: {result}");
            Event::Write { file, offset: last(args)?, data }
        }
        "ftruncate" => Event::Truncate { file, len: last(args)? },
        "fsync" | "fdatasync" => Event::Sync { file, started },
        _ => return None,
    })
}

fn quoted(text: &str) -> Option<&str> {
    text.split('"').nth(1)
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: &str| u8::from_str_radix(byte, 16).expect("hexadecimal, by -xx");
    text.split("\\x").skip(1).map(digit).collect()
}

fn text(hex: &str) -> String {
    String::from_utf8(unhex(hex)).expect("a path of text")
}

/// Files as the disk may hold them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// By number, so that a name may come to mean another file.
    files: Vec<File>,
    names: HashMap<String, usize>,
    synced_names: HashMap<String, usize>,
    seen: usize,
}

#[derive(Clone, Debug, Default)]
struct File {
    synced: Vec<u8>,
    /// Changes after the last sync, with the number of the event.
    pending: Vec<(usize, Change)>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl Disk {
    pub(crate) fn see(&mut self, event: &Event) {
        match event {
            Event::Create(name) => {
                if !self.names.contains_key(name) {
                    self.names.insert(name.clone(), self.files.len());
                    self.files.push(File::default());
                }
            }
            Event::Unlink(name) => drop(self.names.remove(name)),
            Event::Write { file, offset, data } => {
                self.change(file, Change::Write(*offset, data.clone()));
            }
            Event::Truncate { file, len } => self.change(file, Change::Truncate(*len)),
            Event::Sync { file, started } => match self.names.get(file) {
                Some(number) => {
                    let file = &mut self.files[*number];
                    let (covered, rest) =
                        file.pending.drain(..).partition(|(event, _)| event < started);
                    file.pending = rest;
                    let covered: Vec<(usize, Change)> = covered;
                    covered
                        .iter()
                        .for_each(|(_, change)| apply(&mut file.synced, change, usize::MAX));
                }
                None => self.synced_names = self.names.clone(),
            },
            Event::Said(_) => {}
        }
        self.seen += 1;
    }

    fn change(&mut self, name: &str, change: Change) {
        let number = self.names[name];
        self.files[number].pending.push((self.seen, change));
    }

    /// Puts the files into `to` as after a power cut: of what was not synced, `chance` says of
    /// each change how many sectors of it arrived.
    pub(crate) fn cut(&self, to: &Path, mut chance: impl FnMut() -> usize) -> PathBuf {
        let mut store = to.to_owned();
        for (name, number) in &self.synced_names {
            let file = &self.files[*number];
            let mut bytes = file.synced.clone();
            for (_, change) in &file.pending {
                apply(&mut bytes, change, chance());
            }
            let name = Path::new(name).file_name().expect("a name");
            if Path::new(name).extension().is_some_and(|end| end == "db") {
                store = to.join(name);
            }
            fs::write(to.join(name), bytes).expect("a file");
        }
        store
    }
}

const SECTOR: usize = 512;

fn apply(bytes: &mut Vec<u8>, change: &Change, sectors: usize) {
    match change {
        _ if sectors == 0 => {}
        Change::Truncate(len) => bytes.resize(*len, 0),
        Change::Write(offset, data) => {
            let data = &data[..data.len().min(sectors.saturating_mul(SECTOR))];
            let missing = (offset + data.len()).saturating_sub(bytes.len());
            bytes.extend(iter::repeat_n(0, missing));
            bytes[*offset..offset + data.len()].copy_from_slice(data);
        }
    }
}
