//! What must be right before a file is touched.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another process has it.
    #[error("{0} is in use by another process; a store has one broker at a time")]
    InUse(PathBuf),
    /// Locks and fsync cannot be relied on there.
    #[error("{path} is on a network file system ({kind}); put the store on a local disk")]
    NetworkFileSystem {
        /// Where.
        path: PathBuf,
        /// Which.
        kind: &'static str,
    },
    /// Two connections could destroy the file with this SQLite.
    #[error("SQLite {0} has the WAL-reset defect; 3.51.3 or later is needed")]
    OldSqlite(String),
    /// The file was written by a later version of ours.
    #[error("{path} has schema version {found}; this version knows {known}; upgrade maitred")]
    Newer {
        /// Which file.
        path: PathBuf,
        /// What it has.
        found: i64,
        /// What we know.
        known: i64,
    },
    /// What was answered is no longer whole.
    #[error("{path} is damaged: {what}; nothing was changed; restore a backup")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The system said no.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// SQLite said no.
    #[error("{0}")]
    Unusable(String),
}

/// The first SQLite in which a reset of the log cannot race with a write.
const FIRST_SAFE: i32 = 3_051_003;

/// Held while a store is open.
#[derive(Debug)]
pub(super) struct Lock {
    /// The kernel ends the lock with the file, however the process ends.
    _file: File,
}

/// Keeps others out. The lock is on a file beside the store, because SQLite's own locks would go
/// when any descriptor of the store's file is closed.
pub(super) fn lock(path: &Path) -> Result<Lock, Refused> {
    check_version(rusqlite::version_number(), rusqlite::version())?;
    let refuse = |error| Refused::Io { path: path.to_owned(), error };
    let directory = directory_of(path);
    fs::create_dir_all(&directory).map_err(refuse)?;
    let system = rustix::fs::statfs(&directory).map_err(|error| refuse(error.into()))?;
    if let Some(kind) = network_kind(system.f_type as u32) {
        return Err(Refused::NetworkFileSystem { path: path.to_owned(), kind });
    }
    let beside = beside(path, ".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&beside)
        .map_err(refuse)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(Refused::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(Refused::Io { path: beside, error }),
    }
}

fn check_version(number: i32, name: &str) -> Result<(), Refused> {
    if number < FIRST_SAFE { Err(Refused::OldSqlite(name.to_owned())) } else { Ok(()) }
}

/// A file named after the store.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn directory_of(path: &Path) -> PathBuf {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(".".into(), Path::to_owned)
}

/// Makes the names in a directory as durable as the files.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// The file system types (statfs(2), `f_type`) on which a lock or an fsync may mean nothing.
fn network_kind(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b => "SMB",
        0xff53_4d42 => "CIFS",
        0xfe53_4d42 => "SMB2",
        0x5346_414f => "AFS",
        0x0102_1997 => "9P",
        0x00c3_6400 => "Ceph",
        0x0bd0_0bd0 => "Lustre",
        0x7461_636f => "OCFS2",
        0x0116_1970 => "GFS2",
        0x4750_4653 => "GPFS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_file_systems() {
        assert!(matches!(check_version(3_051_002, "3.51.2"), Err(Refused::OldSqlite(_))));
        assert!(check_version(rusqlite::version_number(), rusqlite::version()).is_ok());
        assert_eq!(network_kind(0x6969), Some("NFS"));
        // ext4, tmpfs, btrfs, xfs, overlayfs.
        for local in [0xef53, 0x0102_1994, 0x9123_683e, 0x5846_5342, 0x794c_7630] {
            assert_eq!(network_kind(local), None);
        }
    }
}
