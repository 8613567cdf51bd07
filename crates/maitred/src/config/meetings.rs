//! `[match."name"]` and `[regulator."name"]`: named places where processes meet.

use std::collections::BTreeMap;

use engine::{
    MatchRules, MeetingRules, Place, PlaceRules, RegulatorRules, ServiceConfig, SideRules,
    ValveRules,
};
use matching::QueueConfig;
use serde::Deserialize;

use super::lines::{Discipline, OrderWord, Rules, ValveFile};
use super::{Fault, Lasting, Size};

/// The words of one line, as services have them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Line {
    discipline: Option<Discipline>,
    aim: Option<Lasting>,
    give_up: Option<Lasting>,
    target: Option<Lasting>,
    interval: Option<Lasting>,
    order: Option<OrderWord>,
    keep: Option<usize>,
    queue_max: Option<usize>,
    queue_bytes: Option<Size>,
}

/// A match line as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Match {
    ask: Line,
    ask_r: Line,
}

/// A regulator as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Regulator {
    valve: ValveFile,
    discipline: Option<Discipline>,
    aim: Option<Lasting>,
    give_up: Option<Lasting>,
    target: Option<Lasting>,
    interval: Option<Lasting>,
    order: Option<OrderWord>,
    keep: Option<usize>,
    queue_max: Option<usize>,
    queue_bytes: Option<Size>,
}

impl Match {
    fn rules(&self, name: &str) -> Result<MatchRules, Fault> {
        let ask = side(&self.ask, &["match", name, "ask"])?;
        let ask_r = side(&self.ask_r, &["match", name, "ask_r"])?;
        Ok(MatchRules { ask, ask_r })
    }
}

impl Regulator {
    fn rules(&self, name: &str) -> Result<RegulatorRules, Fault> {
        let line = side(&self.line(), &["regulator", name])?;
        let fault = |message: &str| Fault::new(&["regulator", name, "valve"], message);
        let valve =
            self.valve.rules().ok_or_else(|| fault("must not be off: it is the regulator"))?;
        let ValveRules { valve, refuse } = valve;
        if refuse && !matches!(self.valve, ValveFile::Breaker { .. }) {
            return Err(fault("knows no refuse: say try_acquire instead of acquire"));
        }
        valve.validate().map_err(|error| fault(&format!("makes no valve: {error}")))?;
        if valve.max == 0 {
            return Err(fault("with a max of 0 lets nobody through, ever"));
        }
        Ok(RegulatorRules { line, valve })
    }

    fn line(&self) -> Line {
        Line {
            discipline: self.discipline,
            aim: self.aim,
            give_up: self.give_up,
            target: self.target,
            interval: self.interval,
            order: self.order,
            keep: self.keep,
            queue_max: self.queue_max,
            queue_bytes: self.queue_bytes,
        }
    }
}

/// Checks the places.
pub(super) fn settings(
    matches: &BTreeMap<String, Match>,
    regulators: &BTreeMap<String, Regulator>,
    name_bytes: usize,
) -> Result<MeetingRules, Fault> {
    let mut rules = MeetingRules::default();
    for (name, one) in matches {
        check_name(Place::Match, name, name_bytes)?;
        rules.matches.insert(name.as_bytes().into(), one.rules(name)?);
    }
    for (name, one) in regulators {
        check_name(Place::Regulator, name, name_bytes)?;
        rules.regulators.insert(name.as_bytes().into(), one.rules(name)?);
    }
    Ok(rules)
}

/// Reads the rules of a place that is declared while the broker runs: JSON with the keys of its
/// table in the file. Nothing is an empty table.
pub(crate) fn read_place(place: Place, name: &[u8], text: &[u8]) -> Result<PlaceRules, String> {
    let name = crate::view::show(name);
    let text = if text.trim_ascii().is_empty() { b"{}" } else { text };
    let no_rules = |error: serde_json::Error| format!("rules are JSON, and these: {error}");
    let rules = match place {
        Place::Match => {
            let written: Match = serde_json::from_slice(text).map_err(no_rules)?;
            written.rules(&name).map(PlaceRules::Match)
        }
        Place::Regulator => {
            let written: Regulator = serde_json::from_slice(text).map_err(no_rules)?;
            written.rules(&name).map(PlaceRules::Regulator)
        }
    };
    rules.map_err(|fault| fault.message)
}

fn check_name(place: Place, name: &str, most: usize) -> Result<(), Fault> {
    let key = match place {
        Place::Match => "match",
        Place::Regulator => "regulator",
    };
    if name.is_empty() || name.len() > most {
        let message = format!("{key}.{name:?}: a name has from 1 to {most} octets");
        return Err(Fault::told(&[key, name], message));
    }
    Ok(())
}

/// A line is what the same words make of the line of a service.
fn side(line: &Line, table: &[&str]) -> Result<SideRules, Fault> {
    let words = Rules {
        discipline: line.discipline,
        aim: line.aim,
        give_up: line.give_up,
        target: line.target,
        interval: line.interval,
        order: line.order,
        keep: line.keep,
        ..Rules::default()
    };
    let service = super::rules(ServiceConfig::default(), &words, table)?;
    if service.codel.is_some() && line.give_up.is_some() {
        let message = "counts only without discipline = \"codel\": give a timeout with each word";
        return Err(Fault::new(&[table, &["give_up"]].concat(), message));
    }
    let usual = SideRules::default();
    let max = line.queue_max.unwrap_or(usual.queue.max);
    let queue = QueueConfig { max, ..service.line().line };
    queue.validate().map_err(|error| {
        Fault::new(&[table, &["queue_max"]].concat(), &format!("makes no line: {error}"))
    })?;
    Ok(SideRules { queue, bytes: line.queue_bytes.map_or(usual.bytes, |Size(bytes)| bytes) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engine::Span;
    use matching::ValveConfig;

    use super::super::{Overrides, read};
    use super::*;

    #[test]
    fn bad_places_are_refused_with_line_and_advice() {
        let cases = [
            ("[match.db]", "accepted"),
            (
                "[match.\"a b\"]\nask = { aim = \"5ms\", give_up = \"1s\", order = \"lifo\" }",
                "accepted",
            ),
            ("[match.db.ask_r]\nqueue_max = 0\nqueue_bytes = \"1KiB\"", "accepted"),
            ("[regulator.x]\nvalve = { kind = \"concurrency\", max = 2 }", "accepted"),
            ("[regulator.x]\nvalve = { kind = \"breaker\" }\nkeep = 3", "accepted"),
            ("[match.\"\"]", "m.toml:1: match.\"\": a name has from 1 to 255 octets"),
            ("[match.db]\n\nask = { aim = \"5\" }", "m.toml:3: \"5\" is not a duration"),
            ("[match.db]\nasks = {}", "m.toml:2: unknown field `asks`"),
            ("[match.db]\nask = { valve = 1 }", "m.toml:2: unknown field `valve`"),
            (
                "[match.db.ask]\nkeep = 1\ndiscipline = \"codel\"",
                "m.toml:3: match.db.ask.discipline = \"codel\" needs a target",
            ),
            (
                "[match.db.ask]\ndiscipline = \"codel\"\ntarget = \"5ms\"\ngive_up = \"1s\"",
                "m.toml:4: match.db.ask.give_up counts only without",
            ),
            (
                "[match.db.ask_r]\naim = \"5ms\"\ngive_up = \"1ms\"",
                "m.toml:2: match.db.ask_r.aim makes no line: give_up",
            ),
            (
                "[match.db.ask_r]\nkeep = 5\nqueue_max = 4",
                "m.toml:3: match.db.ask_r.queue_max makes no line: min must not be above max",
            ),
            ("[regulator.x]", "m.toml:1: missing field `valve`"),
            (
                "[regulator.x]\nvalve = { kind = \"off\" }",
                "m.toml:2: regulator.x.valve must not be off",
            ),
            (
                "[regulator.x]\nvalve = { kind = \"concurrency\", max = 0 }",
                "m.toml:2: regulator.x.valve with a max of 0",
            ),
            (
                "[regulator.x]\nvalve = { kind = \"concurrency\", max = 1, refuse = true }",
                "m.toml:2: regulator.x.valve knows no refuse",
            ),
            (
                "[regulator.x]\nvalve = { kind = \"rate\", limit = 1, interval = \"0s\" }",
                "m.toml:2: regulator.x.valve makes no valve: interval",
            ),
        ];
        for (text, expected) in cases {
            let got = match read("m.toml", text, Path::new("."), &Overrides::default()) {
                Ok(_) => "accepted".into(),
                Err(error) => error.to_string(),
            };
            assert!(got.starts_with(expected), "{text:?}\n  gave {got:?}\n  not  {expected:?}");
        }
    }

    #[test]
    fn places_have_the_lines_that_their_words_make() {
        let text = "[match.db]\nask = { give_up = \"1s\", queue_max = 7, queue_bytes = 9 }\n\
                    [regulator.x]\nvalve = { kind = \"concurrency\", max = 2 }\ngive_up = \"2s\"";
        let settings =
            read("m.toml", text, Path::new("."), &Overrides::default()).expect("it is accepted");
        let rules = settings.shard.engine.meetings;
        let db = rules.matches[&b"db"[..]];
        let ask = QueueConfig::timeout(Span::from_secs(1)).with_max(7);
        assert_eq!(db.ask, SideRules { queue: ask, bytes: 9 });
        assert_eq!(db.ask_r, SideRules::default());
        let x = rules.regulators[&b"x"[..]];
        let line = QueueConfig::timeout(Span::from_secs(2)).with_max(1_000_000);
        assert_eq!((x.line.queue, x.valve), (line, ValveConfig::limit(2)));
    }
}
