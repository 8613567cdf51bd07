//! Tells a torn tail of the log from a hole in it.
//!
//! SQLite's log (WAL) ends for its reader at the first frame whose checksum is wrong. After a power
//! cut that is right: the frames of the last transaction, never answered, may be torn. But if a
//! frame *before* that is damaged, everything after it would vanish without a word, though it
//! was answered. The difference shows: we write a transaction only after the one before it was
//! synced, and begin a new log at every start, so behind a torn frame there is at most one end of
//! a transaction. Format: <https://sqlite.org/fileformat2.html#walformat>.

use std::fs;
use std::io;
use std::path::Path;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// What a log holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Log {
    /// Transactions that end after the first frame that is not, in the same log.
    pub(super) ends_behind: usize,
    /// There are frames but no header that says how to read them.
    pub(super) headless: bool,
}

impl Log {
    /// What was answered is missing.
    pub(super) fn has_hole(self) -> bool {
        self.headless || self.ends_behind > 1
    }
}

/// Reads the log at `path`; an absent or unusable one is empty.
pub(super) fn read(path: &Path) -> io::Result<Log> {
    match fs::read(path) {
        Ok(bytes) => Ok(scan(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Log::default()),
        Err(error) => Err(error),
    }
}

fn scan(bytes: &[u8]) -> Log {
    let mut log = Log::default();
    let Some(header) = bytes.get(..HEADER) else { return log };
    let big_endian = word(header, 0) & 1 == 1;
    let page = word(header, 8) as usize;
    let mut sum = checksum((0, 0), &header[..24], big_endian);
    let readable = word(header, 0) | 1 == 0x377f_0683
        && page.is_power_of_two()
        && (512..=65_536).contains(&page)
        && sum == (word(header, 24), word(header, 28));
    if !readable {
        // A header fits a sector and is synced before the first frame: it is never torn.
        log.headless = bytes.len() > HEADER;
        return log;
    }
    let salt = &header[16..24];
    let mut intact = true;
    for frame in bytes[HEADER..].chunks_exact(FRAME_HEADER + page) {
        // What is left of an older log ends this one, unless more of this one follows.
        let ours = frame[8..16] == *salt;
        intact &= ours;
        if intact {
            let next = checksum(sum, &frame[..8], big_endian);
            let next = checksum(next, &frame[FRAME_HEADER..], big_endian);
            intact = next == (word(frame, 16), word(frame, 20));
            sum = next;
        }
        if !intact && ours && word(frame, 4) != 0 {
            log.ends_behind += 1;
        }
    }
    log
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// SQLite's running checksum over pairs of words.
fn checksum((mut a, mut b): (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let read = |at: usize| {
        let word = word(bytes, at);
        if big_endian { word } else { word.swap_bytes() }
    };
    for at in (0..bytes.len()).step_by(8) {
        a = a.wrapping_add(read(at)).wrapping_add(b);
        b = b.wrapping_add(read(at + 4)).wrapping_add(a);
    }
    (a, b)
}
