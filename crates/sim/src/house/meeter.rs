//! Peers that meet at match lines and run under a regulator, and the book of who met whom.
//!
//! Each value is the number of its asker, so that every meeting can be held against what both
//! sides heard. A lock is held for a while and then done, unless its holder is lost before.

use std::collections::BTreeMap;

use engine::{MatchRules, MeetingRules, Place, RegulatorRules, SideRules, Span, Time};
use matching::ValveConfig;

use super::speaker::Speaker;
use super::words::Frames;
use crate::Violation;
use crate::rng::Rng;

const LINES: [&str; 2] = ["tables", "games"];
const GATE: &str = "gate";

/// How many may run at the gate.
const RUN_MAX: usize = 2;

/// Longest way of an ask and of the news of an end to the shard where both are known.
const NEWS: Span = Span::from_millis(500);

/// The places they use.
pub(crate) fn places() -> MeetingRules {
    let mut rules = MeetingRules::default();
    for line in LINES {
        rules.matches.insert(line.as_bytes().into(), MatchRules::default());
    }
    let (line, valve) = (SideRules::default(), ValveConfig::limit(RUN_MAX));
    rules.regulators.insert(GATE.as_bytes().into(), RegulatorRules { line, valve });
    rules
}

/// Somebody who asked.
#[derive(Debug)]
struct Asker {
    line: usize,
    back: bool,
    link: usize,
    at: Time,
    /// Whom it says it met.
    met: Option<u64>,
}

/// Everything that was asked.
#[derive(Debug, Default)]
pub(crate) struct Book {
    askers: Vec<Asker>,
    /// When the broker learnt of the end of a link.
    ended: BTreeMap<usize, Time>,
    /// Meetings that both sides know of, or one.
    pub(crate) meetings: u64,
}

impl Book {
    pub(crate) fn broker_lost(&mut self, now: Time, link: usize) {
        self.ended.entry(link).or_insert(now);
    }

    fn ask(&mut self, asker: Asker) -> u64 {
        self.askers.push(asker);
        self.askers.len() as u64 - 1
    }

    /// `one` says that it met `other`.
    fn meet(&mut self, one: u64, other: &[u8]) -> Result<(), Violation> {
        let violation = |text: String| Violation::new("who meets", text);
        let name = String::from_utf8_lossy(other).into_owned();
        let number = name.parse::<u64>().ok().filter(|n| (*n as usize) < self.askers.len());
        let Some(number) = number else {
            return Err(violation(format!("{one} met {name:?}, which nobody is")));
        };
        let (us, them) = (&self.askers[one as usize], &self.askers[number as usize]);
        if us.line != them.line || us.back == them.back {
            return Err(violation(format!(
                "{one} met {number} of another line, or of its own side"
            )));
        }
        if them.met.is_some_and(|met| met != one) || us.met.is_some() {
            return Err(violation(format!(
                "{one} met {number}, one of them twice: {us:?} {them:?}"
            )));
        }
        let ended = self.ended.get(&them.link);
        if ended.is_some_and(|ended| *ended + NEWS < us.at) {
            return Err(violation(format!(
                "{one} met {number}, which had been lost before it came"
            )));
        }
        let taken = self.askers.iter().filter(|asker| asker.met == Some(number)).count();
        if taken > 0 {
            return Err(violation(format!("{one} met {number}, as another did before")));
        }
        self.meetings += u64::from(them.met.is_none());
        self.askers[one as usize].met = Some(number);
        Ok(())
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum State {
    Idle,
    Asks(u64),
    Acquires,
    /// Under this lock, until then.
    Runs(Vec<u8>, Time),
}

#[derive(Debug)]
pub(crate) struct Meeter {
    state: State,
    next_at: Time,
    calm: bool,
}

impl Meeter {
    pub(crate) fn new() -> Meeter {
        Meeter { state: State::Idle, next_at: Time::MAX, calm: false }
    }

    pub(crate) fn on_connected(&mut self, now: Time) {
        (self.state, self.next_at) = (State::Idle, now);
    }

    /// It lost its connection: to the broker it is dead.
    pub(crate) fn on_parted(&mut self) {
        self.state = State::Idle;
    }

    pub(crate) fn calm(&mut self) {
        self.calm = true;
    }

    /// Whether it wants nothing any more.
    pub(crate) fn is_done(&self) -> bool {
        self.calm && self.state == State::Idle
    }

    pub(crate) fn runs(&self) -> bool {
        matches!(self.state, State::Runs(..))
    }

    pub(crate) fn deadline(&self) -> Time {
        match &self.state {
            State::Idle if self.calm => Time::MAX,
            State::Idle => self.next_at,
            State::Asks(_) | State::Acquires => Time::MAX,
            State::Runs(_, until) if self.calm => (*until).min(self.next_at),
            State::Runs(_, until) => *until,
        }
    }

    pub(crate) fn on_wake(
        &mut self,
        now: Time,
        link: usize,
        speaker: &mut Speaker,
        book: &mut Book,
        rng: &mut Rng,
    ) {
        match &self.state {
            State::Idle if !self.calm && self.next_at <= now => {
                let timeout = format!("timeout={}", 1_000 + rng.skewed(3_000_000));
                if rng.chance(40) {
                    say(speaker, Place::Regulator, &["acquire", GATE, &timeout]);
                    self.state = State::Acquires;
                    return;
                }
                let (line, back) = (rng.index(LINES.len()), rng.chance(50));
                let number = book.ask(Asker { line, back, link, at: now, met: None });
                let word = if back { "ask_r" } else { "ask" };
                let value = number.to_string();
                say(speaker, Place::Match, &[word, LINES[line], &value, &timeout]);
                self.state = State::Asks(number);
            }
            State::Runs(lock, until) if *until <= now || self.calm => {
                let lock = String::from_utf8_lossy(lock).into_owned();
                say(speaker, Place::Regulator, &["done", GATE, &lock]);
                self.rest(now, rng);
            }
            State::Idle | State::Asks(_) | State::Acquires | State::Runs(..) => {}
        }
    }

    pub(crate) fn on_message(
        &mut self,
        now: Time,
        frames: &Frames,
        book: &mut Book,
        rng: &mut Rng,
    ) -> Result<(), Violation> {
        let body: Vec<&[u8]> = frames.iter().skip(3).map(Vec::as_slice).collect();
        match (&self.state, &body[..]) {
            (State::Asks(number), [b"go", other, _, _]) => {
                book.meet(*number, other)?;
                self.rest(now, rng);
            }
            (State::Acquires, [b"go", lock, _, _]) => {
                let until = now + Span::from_millis(rng.skewed(2_000) as i64);
                self.state = State::Runs(lock.to_vec(), until);
                self.next_at = now;
            }
            (State::Asks(_) | State::Acquires, [b"drop", b"expired" | b"draining", _]) => {
                self.rest(now, rng);
            }
            // Answers to `done`.
            (_, [b"done"] | [b"not_found", b"lock"]) => {}
            (state, body) => {
                let body = body.iter().map(|frame| String::from_utf8_lossy(frame));
                let text = format!("{state:?} was told {:?}", body.collect::<Vec<_>>());
                return Err(Violation::new("words of places", text));
            }
        }
        Ok(())
    }

    fn rest(&mut self, now: Time, rng: &mut Rng) {
        let pause = Span::from_millis(rng.skewed(800) as i64);
        (self.state, self.next_at) = (State::Idle, now + pause);
    }
}

/// Whether at most as many run as may, of those whom the broker has not given up.
pub(crate) fn check_running(running: usize) -> Result<(), Violation> {
    if running > RUN_MAX {
        return Err(Violation::new("who runs", format!("{running} run at once")));
    }
    Ok(())
}

fn say(speaker: &mut Speaker, place: Place, words: &[&str]) {
    let head = ["", "MDPC01", place.service()];
    let frames = head.iter().chain(words).map(|frame| frame.as_bytes().to_vec());
    speaker.say(frames.collect());
}
