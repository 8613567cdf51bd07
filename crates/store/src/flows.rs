//! Whose turn it is among fair keys (start-time fair queueing).
//!
//! A task that becomes ready gets a turn one above the last of its key, but not below the turn
//! that is being served: so keys with much waiting interleave with keys that have little, and a
//! key that was silent does not save up. Tasks without a key share one.
//!
//! All of this is a cache: what is lost of it costs fairness for a moment, never a task.

use std::collections::HashMap;

use crate::rows::Turns;

/// Turns by task type.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    by_kind: HashMap<String, Flow>,
}

#[derive(Debug, Default)]
struct Flow {
    /// The highest turn that was served.
    served: u64,
    /// The last turn given, by fair key; what is not above `served` need not be here.
    last_by_key: HashMap<String, u64>,
}

/// Keys of one type that are remembered before those that no longer matter are dropped.
const KEYS: usize = 4_096;

impl Flows {
    pub(crate) fn next(&mut self, kind: &str, key: Option<&str>) -> u64 {
        let flow = self.flow(kind);
        if flow.last_by_key.len() >= KEYS {
            let served = flow.served;
            flow.last_by_key.retain(|_, last| *last > served);
        }
        let key = key.unwrap_or_default();
        let last = flow.last_by_key.get(key).copied().unwrap_or(0);
        let turn = last.max(flow.served) + 1;
        match flow.last_by_key.get_mut(key) {
            Some(last) => *last = turn,
            None => drop(flow.last_by_key.insert(key.to_owned(), turn)),
        }
        turn
    }

    pub(crate) fn served(&mut self, kind: &str, turn: u64) {
        let flow = self.flow(kind);
        flow.served = flow.served.max(turn);
    }

    /// Begins with turns that were taken before: the lowest and highest of each type and key.
    pub(crate) fn resume(turns: Vec<Turns>) -> Flows {
        let mut flows = Flows::default();
        for Turns { kind, fair_key, low, high } in turns {
            let new = !flows.by_kind.contains_key(&kind);
            let flow = flows.by_kind.entry(kind).or_default();
            let before = low.saturating_sub(1);
            flow.served = if new { before } else { flow.served.min(before) };
            flow.last_by_key.insert(fair_key.unwrap_or_default(), high);
        }
        flows
    }

    fn flow(&mut self, kind: &str) -> &mut Flow {
        if !self.by_kind.contains_key(kind) {
            self.by_kind.insert(kind.to_owned(), Flow::default());
        }
        self.by_kind.entry(kind.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_take_turns_and_silence_is_not_saved_up() {
        let mut flows = Flows::default();
        let turns: Vec<u64> = (0..3).map(|_| flows.next("t", Some("big"))).collect();
        assert_eq!(turns, [1, 2, 3]);
        assert_eq!(flows.next("t", Some("small")), 1);
        flows.served("t", 3);
        assert_eq!(flows.next("t", Some("late")), 4);
        assert_eq!(flows.next("t", Some("big")), 4);
        assert_eq!(flows.next("other", None), 1);
    }

    #[test]
    fn a_restart_goes_on_at_the_turn_being_served() {
        let turns = |fair_key: Option<&str>, low, high| Turns {
            kind: "t".into(),
            fair_key: fair_key.map(Into::into),
            low,
            high,
        };
        let mut flows = Flows::resume(vec![turns(Some("a"), 7, 9), turns(None, 8, 8)]);
        assert_eq!(flows.next("t", Some("new")), 7);
        assert_eq!(flows.next("t", Some("a")), 10);
        assert_eq!(flows.next("t", None), 9);
    }

    #[test]
    fn keys_that_no_longer_matter_are_forgotten() {
        let mut flows = Flows::default();
        for key in 0..10 * KEYS {
            let turn = flows.next("t", Some(&key.to_string()));
            flows.served("t", turn);
        }
        assert!(flows.by_kind["t"].last_by_key.len() <= KEYS);
    }
}
