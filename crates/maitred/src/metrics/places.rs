//! Metrics of the places where processes meet. As many of each kind are named as services are.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::view::{Match, Places, Regulator};

pub(super) fn encode(places: &Places, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Places { matches, regulators } = places;
    encode_matches(&matches.matches, encoder)?;
    encode_regulators(&regulators.regulators, encoder)?;
    let count = |total: usize| i64::try_from(total).unwrap_or(i64::MAX);
    let name = "maitred_places";
    let mut family = encoder.encode_descriptor(name, "Named places", None, MetricType::Gauge)?;
    for (kind, total) in [("match", matches.total), ("regulator", regulators.total)] {
        ConstGauge::new(count(total)).encode(family.encode_family(&[("kind", kind)])?)?;
    }
    Ok(())
}

fn encode_matches(matches: &[Match], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let (name, help) = ("maitred_match_waiting", "Who waits, by side");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for one in matches {
        for (side, line) in [("ask", &one.ask), ("ask_r", &one.ask_r)] {
            let labels = [("match", one.name.as_str()), ("side", side)];
            let waiting = i64::try_from(line.waiting).unwrap_or(i64::MAX);
            ConstGauge::new(waiting).encode(family.encode_family(&labels)?)?;
        }
    }
    let (name, help) = ("maitred_match_came", "Who came, by side");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for one in matches {
        for (side, line) in [("ask", &one.ask), ("ask_r", &one.ask_r)] {
            let labels = [("match", one.name.as_str()), ("side", side)];
            ConstCounter::new(line.came).encode(family.encode_family(&labels)?)?;
        }
    }
    type Read = fn(&Match) -> u64;
    let counters: [(&str, &str, Read); 3] = [
        ("maitred_match_matched", "Pairs that met", |m| m.matched),
        ("maitred_match_retries", "Who tried, and found nobody", |m| m.ends.retries),
        ("maitred_match_withdrawn", "Who was cancelled, or left", |m| m.ends.withdrawn),
    ];
    for (name, help, read) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for one in matches {
            let labels = [("match", one.name.as_str())];
            ConstCounter::new(read(one)).encode(family.encode_family(&labels)?)?;
        }
    }
    let drops = matches.iter().map(|one| (one.name.as_str(), &one.ends.drops_by_reason));
    encode_drops("maitred_match_drops", "match", drops, encoder)
}

fn encode_regulators(regulators: &[Regulator], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    type Read = fn(&Regulator) -> u64;
    let gauges: [(&str, &str, Read); 3] = [
        ("maitred_regulator_waiting", "Who waits", |r| r.line.waiting as u64),
        ("maitred_regulator_running", "Locks that are out", |r| r.running as u64),
        ("maitred_regulator_open", "1 while the valve lets somebody through", |r| {
            u64::from(r.open)
        }),
    ];
    for (name, help, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for one in regulators {
            let labels = [("regulator", one.name.as_str())];
            let value = i64::try_from(read(one)).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    let counters: [(&str, &str, Read); 4] = [
        ("maitred_regulator_came", "Who came", |r| r.line.came),
        ("maitred_regulator_admitted", "Who was let run", |r| r.admitted),
        ("maitred_regulator_retries", "Who tried, and found it shut", |r| r.ends.retries),
        ("maitred_regulator_withdrawn", "Who was cancelled, or left", |r| r.ends.withdrawn),
    ];
    for (name, help, read) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for one in regulators {
            let labels = [("regulator", one.name.as_str())];
            ConstCounter::new(read(one)).encode(family.encode_family(&labels)?)?;
        }
    }
    let drops = regulators.iter().map(|one| (one.name.as_str(), &one.ends.drops_by_reason));
    encode_drops("maitred_regulator_drops", "regulator", drops, encoder)
}

fn encode_drops<'a>(
    name: &str,
    label: &str,
    places: impl Iterator<Item = (&'a str, &'a BTreeMap<String, u64>)>,
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let help = "Who was dropped, by reason";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (place, drops) in places {
        // The most likely are there before they occur, so that they can be watched.
        let mut counts = drops.clone();
        for reason in ["overload", "expired", "queue_full"] {
            counts.entry(reason.to_owned()).or_default();
        }
        for (reason, count) in &counts {
            let labels = [(label, place), ("reason", reason.as_str())];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
