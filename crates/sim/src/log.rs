//! What happened, as one number always and as lines on request.

use std::collections::VecDeque;

use engine::Time;

/// Lines kept for the report of a violation.
const LAST_LINES: usize = 120;

/// What to do with lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keep {
    /// Nothing: only the hash.
    Hash,
    /// The last ones, for the report of a violation.
    Last,
    /// All, printed as they come.
    Print,
}

/// The log of one run.
#[derive(Debug)]
pub struct Log {
    keep: Keep,
    hash: u64,
    events: u64,
    lines: VecDeque<String>,
    /// When the run began; lines count from there.
    opened: Option<Time>,
}

impl Log {
    /// An empty log.
    #[must_use]
    pub fn new(keep: Keep) -> Log {
        Log { keep, hash: 0xCBF2_9CE4_8422_2325, events: 0, lines: VecDeque::new(), opened: None }
    }

    /// One event. `line` is only called when somebody wants to read it.
    pub fn event(&mut self, now: Time, code: &str, a: u64, b: u64, line: impl FnOnce() -> String) {
        self.events += 1;
        for byte in code.bytes() {
            self.mix(u64::from(byte));
        }
        self.mix(now.as_nanos() as u64);
        self.mix(a);
        self.mix(b);
        let opened = *self.opened.get_or_insert(now);
        if self.keep == Keep::Hash {
            return;
        }
        let ms = (now - opened).as_nanos() as f64 / 1e6;
        let line = format!("{ms:>13.6} {code} {}", line());
        if self.keep == Keep::Print {
            println!("{line}");
            return;
        }
        if self.lines.len() == LAST_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Bytes that belong to the last event.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    /// The whole log as one number.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The last lines, if they were kept.
    #[must_use]
    pub fn last_lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
    }
}
