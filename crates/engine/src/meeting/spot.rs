//! One named place: its lines, its rules, and what happened there.

use alloc::boxed::Box;
use alloc::format;

use matching::{Broker, Regulator, Side, Time, ValveConfig};

use super::words::{MatchRules, PlaceRules, RegulatorRules, SideRules};
use super::{LOCKS_MAX, WaiterKey};
use crate::effect::Reason;
use crate::stats::REASONS;

/// One named place.
#[derive(Debug)]
pub(super) struct Spot {
    /// What a principal must be allowed to call.
    pub(super) right: Box<[u8]>,
    pub(super) kind: Kind,
    /// Declared while the house was open, not configured.
    pub(super) live: bool,
    /// Bytes that wait on each side.
    pub(super) bytes: [u64; 2],
    pub(super) armed: Time,
    pub(super) tally: Tally,
}

/// What happened at a place since it was started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Who came to each side, those turned away at once included; at a regulator, the first only.
    pub came: [u64; 2],
    /// Pairs that met; at a regulator, who was let run.
    pub met: u64,
    /// Who wanted to meet at once, and found nobody.
    pub retries: u64,
    /// Who was withdrawn, or whose connection ended while it waited.
    pub withdrawn: u64,
    /// Who was dropped, by the place of the reason in [`REASONS`].
    pub drops: [u64; REASONS.len()],
}

impl Tally {
    /// Somebody came to a side, and may be there or not.
    pub(super) fn note(&mut self, side: Side, may: bool) {
        self.came[side as usize] += 1;
        if !may {
            self.drop(Reason::Denied);
        }
    }

    pub(super) fn drop(&mut self, reason: Reason) {
        let place = REASONS.iter().position(|known| *known == reason);
        if let Some(count) = place.and_then(|place| self.drops.get_mut(place)) {
            *count += 1;
        }
    }
}

/// One place, for people and metrics.
#[derive(Clone, Debug)]
pub struct PlaceView<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its rules.
    pub rules: PlaceRules,
    /// Declared while the house was open, not configured.
    pub live: bool,
    /// Who waits on each side; at a regulator, on the first only.
    pub sides: [SideView; 2],
    /// How many run; 0 at a match line.
    pub running: usize,
    /// Whether a regulator's valve lets somebody through at the moment.
    pub open: Option<bool>,
    /// What happened there.
    pub tally: Tally,
}

/// One side of a place.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SideView {
    /// How many wait.
    pub waiting: usize,
    /// Their bytes: values, labels and return envelopes.
    pub bytes: u64,
    /// When the oldest of them came.
    pub oldest: Option<Time>,
    /// Some are dropped because others wait too long.
    pub shedding: bool,
}

#[derive(Debug)]
pub(super) enum Kind {
    Match(MatchRules, Box<Broker<WaiterKey, WaiterKey>>),
    Regulator(RegulatorRules, Box<Regulator<WaiterKey>>),
}

impl Spot {
    pub(super) fn new(now: Time, name: &[u8], rules: PlaceRules, live: bool) -> Spot {
        let mut right = format!("{}.", rules.place().service()).into_bytes();
        right.extend_from_slice(name);
        Spot {
            right: right.into(),
            kind: Kind::new(rules, now),
            live,
            bytes: [0; 2],
            armed: Time::MAX,
            tally: Tally::default(),
        }
    }

    pub(super) fn view<'a>(&'a self, name: &'a [u8]) -> PlaceView<'a> {
        let [ask, ask_r] = self.bytes;
        let (rules, sides, running, open) = match &self.kind {
            Kind::Match(rules, broker) => {
                let sides = [side(broker.asks(), ask), side(broker.ask_rs(), ask_r)];
                (PlaceRules::Match(*rules), sides, 0, None)
            }
            Kind::Regulator(rules, regulator) => {
                let sides = [side(regulator.queue(), ask), SideView::default()];
                let (size, open) = (regulator.size(), regulator.is_open());
                (PlaceRules::Regulator(*rules), sides, size, Some(open))
            }
        };
        PlaceView { name, rules, live: self.live, sides, running, open, tally: self.tally }
    }
}

fn side(line: &matching::Queue<WaiterKey>, bytes: u64) -> SideView {
    let (waiting, oldest) = (line.len(), line.oldest());
    SideView { waiting, bytes, oldest, shedding: line.is_shedding() }
}

impl Kind {
    fn new(rules: PlaceRules, now: Time) -> Kind {
        match rules {
            PlaceRules::Match(rules) => {
                let broker = Broker::new(rules.ask.queue, rules.ask_r.queue, now);
                Kind::Match(rules, Box::new(broker))
            }
            PlaceRules::Regulator(rules) => {
                let regulator = Regulator::new(rules.line.queue, bounded(rules.valve), now);
                Kind::Regulator(rules, Box::new(regulator))
            }
        }
    }

    pub(super) fn side(&self, side: Side) -> &SideRules {
        match (self, side) {
            (Kind::Match(rules, _), Side::Ask) => &rules.ask,
            (Kind::Match(rules, _), Side::AskR) => &rules.ask_r,
            (Kind::Regulator(rules, _), _) => &rules.line,
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match self {
            Kind::Match(_, broker) => broker.deadline(),
            Kind::Regulator(_, regulator) => regulator.deadline(),
        }
    }

    pub(super) fn len(&self) -> (usize, usize) {
        match self {
            Kind::Match(_, broker) => (broker.asks().len(), broker.ask_rs().len()),
            Kind::Regulator(_, regulator) => (regulator.len(), regulator.size()),
        }
    }
}

/// A valve that lets no more run than there may be locks.
pub(super) fn bounded(valve: ValveConfig) -> ValveConfig {
    let max = valve.max.min(LOCKS_MAX);
    ValveConfig { max, min: valve.min.min(max), ..valve }
}
