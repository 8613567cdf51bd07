//! Pictures of the places where processes meet.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use engine::{PlaceView, SideView, Span, Time};
use serde::{Deserialize, Serialize};
use sessions::Shard;

use super::{by_reason, show};

/// One side of a place.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Side {
    /// Who waits there.
    pub(crate) waiting: usize,
    pub(crate) waiting_bytes: u64,
    /// How long the first of them waits, in milliseconds.
    pub(crate) oldest_ms: Option<i64>,
    /// Who came there since the place was started.
    pub(crate) came: u64,
    /// Some are dropped because others wait too long.
    pub(crate) shedding: bool,
}

/// What became of those who came to a place, beside those who met.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Ends {
    /// Who tried, and found nobody or the valve shut.
    pub(crate) retries: u64,
    /// Who was cancelled, or left.
    pub(crate) withdrawn: u64,
    pub(crate) drops: u64,
    /// The same by reason; only those that occurred.
    pub(crate) drops_by_reason: BTreeMap<String, u64>,
}

/// A match line.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Match {
    /// Its name; octets that are not UTF-8 are shown as `\xNN`.
    pub(crate) name: String,
    /// Declared while the broker ran, not in the configuration.
    pub(crate) live: bool,
    pub(crate) ask: Side,
    pub(crate) ask_r: Side,
    /// Pairs that met.
    pub(crate) matched: u64,
    #[serde(flatten)]
    pub(crate) ends: Ends,
}

/// A regulator.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Regulator {
    pub(crate) name: String,
    pub(crate) live: bool,
    #[serde(flatten)]
    pub(crate) line: Side,
    /// Locks that are out.
    pub(crate) running: usize,
    /// Whether its valve lets somebody through at the moment.
    pub(crate) open: bool,
    /// Who was let run.
    pub(crate) admitted: u64,
    #[serde(flatten)]
    pub(crate) ends: Ends,
}

/// The answer of `GET /v1/match`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Matches {
    pub(crate) matches: Vec<Match>,
    /// How many there are, those not shown included.
    pub(crate) total: usize,
}

/// The answer of `GET /v1/regulators`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Regulators {
    pub(crate) regulators: Vec<Regulator>,
    /// How many there are, those not shown included.
    pub(crate) total: usize,
}

/// Places of both kinds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    pub(crate) matches: Matches,
    pub(crate) regulators: Regulators,
}

/// Up to `limit` places of each kind by name; if there are more, those to which most came.
pub(crate) fn places(shard: &Shard, now: Time, limit: usize) -> Places {
    let all = shard.engine().places();
    let (mut matches, mut regulators): (Vec<_>, Vec<_>) = all.partition(|v| v.open.is_none());
    let total = [matches.len(), regulators.len()];
    busiest(&mut matches, limit);
    busiest(&mut regulators, limit);
    Places {
        matches: Matches {
            matches: matches.iter().map(|view| Match::new(view, now)).collect(),
            total: total[0],
        },
        regulators: Regulators {
            regulators: regulators.iter().map(|view| Regulator::new(view, now)).collect(),
            total: total[1],
        },
    }
}

/// The places called `name`, at most one of each kind.
pub(crate) fn place(shard: &Shard, now: Time, name: &[u8]) -> Places {
    let view = |place| shard.engine().place(place, name);
    let mut places = Places::default();
    places.matches.matches.extend(view(engine::Place::Match).map(|view| Match::new(&view, now)));
    let regulator = view(engine::Place::Regulator).map(|view| Regulator::new(&view, now));
    places.regulators.regulators.extend(regulator);
    places
}

fn busiest(views: &mut Vec<PlaceView<'_>>, limit: usize) {
    if views.len() > limit {
        views
            .select_nth_unstable_by_key(limit, |view| Reverse(view.tally.came.iter().sum::<u64>()));
        views.truncate(limit);
        views.sort_unstable_by_key(|view| view.name);
    }
}

impl Match {
    fn new(view: &PlaceView<'_>, now: Time) -> Match {
        let [ask, ask_r] = [0, 1].map(|i| Side::new(&view.sides[i], view.tally.came[i], now));
        Match {
            name: show(view.name),
            live: view.live,
            ask,
            ask_r,
            matched: view.tally.met,
            ends: Ends::new(view),
        }
    }
}

impl Regulator {
    fn new(view: &PlaceView<'_>, now: Time) -> Regulator {
        Regulator {
            name: show(view.name),
            live: view.live,
            line: Side::new(&view.sides[0], view.tally.came[0], now),
            running: view.running,
            open: view.open == Some(true),
            admitted: view.tally.met,
            ends: Ends::new(view),
        }
    }
}

impl Side {
    fn new(side: &SideView, came: u64, now: Time) -> Side {
        Side {
            waiting: side.waiting,
            waiting_bytes: side.bytes,
            oldest_ms: side.oldest.map(|at| Span::as_millis(now - at)),
            came,
            shedding: side.shedding,
        }
    }
}

impl Ends {
    fn new(view: &PlaceView<'_>) -> Ends {
        Ends {
            retries: view.tally.retries,
            withdrawn: view.tally.withdrawn,
            drops: view.tally.drops.iter().sum(),
            drops_by_reason: by_reason(view.tally.drops),
        }
    }
}
