//! Looking after a store: checking it, copying it while it is closed, putting a copy in its place.

use std::fs::{self, File};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::guard::{self, Refused};
use super::rows::{Sqlite, odd};
use super::wal;
use crate::api::Filter;
use crate::clock::Clock;
use crate::rows::{Fault, Rows};
use crate::task::TaskId;

/// What a check found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Checked {
    /// Tasks that were read.
    pub tasks: u64,
    /// Tasks that are not what was written.
    pub damaged: Vec<TaskId>,
    /// What SQLite says about the file's structure; empty if it is sound.
    pub structure: Vec<String>,
}

impl Checked {
    /// Nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.structure.is_empty()
    }
}

/// Reads everything in a closed store: the file's structure, and each task against its checksums.
///
/// # Errors
/// If the store is open elsewhere or cannot be opened at all.
pub fn check(path: &Path) -> Result<Checked, Refused> {
    require(path)?;
    let (mut rows, _) = Sqlite::open(path, &Clock::new(), false)?;
    let checked = check_rows(&mut rows).map_err(|fault| refused(path, fault));
    rows.close();
    let mut checked = checked?;
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(|error| refused(path, odd(error)))?;
    let mut statement = connection
        .prepare("PRAGMA integrity_check(100)")
        .map_err(|error| refused(path, odd(error)))?;
    let lines = statement
        .query_map([], |row| row.get::<_, String>(0))
        .and_then(|lines| lines.collect::<Result<Vec<_>, _>>())
        .map_err(|error| refused(path, odd(error)))?;
    checked.structure = lines.into_iter().filter(|line| line != "ok").collect();
    Ok(checked)
}

fn check_rows(rows: &mut Sqlite) -> Result<Checked, Fault> {
    let mut checked = Checked::default();
    let mut filter = Filter { limit: 1_000, ..Filter::default() };
    loop {
        let (found, next) = rows.scan(&filter)?;
        for mut row in found {
            if row.outside {
                rows.fetch_payload(&mut row)?;
            }
            checked.tasks += 1;
            if row.damaged || !row.payload_is_whole() {
                checked.damaged.push(TaskId(row.id));
            }
        }
        filter.after = next.map(TaskId);
        if next.is_none() {
            return Ok(checked);
        }
    }
}

/// Copies a store into a new file, as it was at one instant. The store may be open in a broker.
///
/// # Errors
/// If there already is something at `to`, or reading or writing fails.
pub fn backup(path: &Path, to: &Path) -> Result<(), Refused> {
    require(path)?;
    if to.exists() {
        let error = std::io::ErrorKind::AlreadyExists.into();
        return Err(Refused::Io { path: to.to_owned(), error });
    }
    let io = |error| Refused::Io { path: to.to_owned(), error };
    let part = guard::beside(to, ".part");
    // What an interrupted backup left.
    let _ = fs::remove_file(&part);
    let copy = || -> rusqlite::Result<()> {
        let from = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        from.execute("VACUUM INTO ?1", [part.to_string_lossy()])?;
        Ok(())
    };
    copy().map_err(|error| Refused::Unusable(format!("{}: {error}", path.display())))?;
    File::open(&part).and_then(|file| file.sync_all()).map_err(io)?;
    fs::rename(&part, to).map_err(io)?;
    guard::sync_directory(to).map_err(io)
}

/// Puts a backup where no store is, after checking it. Numbers of tasks and leases go on above
/// all that were given after the backup was taken, as long as the wall clock is right.
///
/// # Errors
/// If the backup is not sound, or there is a store at `path`.
pub fn restore(backup: &Path, path: &Path) -> Result<Checked, Refused> {
    require(backup)?;
    let io = |error| Refused::Io { path: path.to_owned(), error };
    for old in [path.to_owned(), guard::beside(path, "-wal")] {
        if old.exists() {
            let error = std::io::ErrorKind::AlreadyExists.into();
            return Err(Refused::Io { path: old, error });
        }
    }
    let _lock = guard::lock(path)?;
    let part = guard::beside(path, ".part");
    fs::copy(backup, &part).map_err(io)?;
    let checked = check(&part)?;
    for rest in ["-wal", "-shm", ".lock", ".reserve"] {
        let _ = fs::remove_file(guard::beside(&part, rest));
    }
    if !checked.is_sound() {
        let _ = fs::remove_file(&part);
        let what = format!("{checked:?}");
        return Err(Refused::Damaged { path: backup.to_owned(), what });
    }
    File::open(&part).and_then(|file| file.sync_all()).map_err(io)?;
    fs::rename(&part, path).map_err(io)?;
    guard::sync_directory(path).map_err(io)?;
    Ok(checked)
}

/// A check must not make the store it was to check.
fn require(path: &Path) -> Result<(), Refused> {
    let io = |error| Refused::Io { path: path.to_owned(), error };
    fs::metadata(path).map_err(io)?;
    let hole = wal::read(&guard::beside(path, "-wal")).map_err(io)?.has_hole();
    if hole {
        let what = "its log has a hole".into();
        return Err(Refused::Damaged { path: path.to_owned(), what });
    }
    Ok(())
}

fn refused(path: &Path, fault: Fault) -> Refused {
    match fault {
        Fault::Broken(what) => Refused::Damaged { path: path.to_owned(), what },
        Fault::Full(what) | Fault::Lost(what) | Fault::Failed(what) | Fault::Again(what) => {
            Refused::Unusable(what)
        }
    }
}
