//! OpenMetrics: one scrape is one [`Snapshot`], written out.

mod places;
mod tasks;

use std::fmt;

use engine::{ANONYMOUS, BUCKETS, HOUSE, Histogram, REASONS, Usage};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::view::{Service, Snapshot};

pub(crate) use tasks::Tasks;

/// Services named in one scrape; the rest only count in the totals. A scrape of 100,000 services
/// would cost the scraper more than it is worth.
pub(crate) const SERVICES_MAX: usize = 1_000;

/// The text of one scrape.
pub(crate) fn encode(snapshot: Snapshot, tasks: Option<Tasks>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(snapshot, tasks)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape(Snapshot, Option<Tasks>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Scrape(snapshot, tasks) = self;
        let stats = &snapshot.stats;
        let counters = &snapshot.counters;
        let mut counter = |name, help, value: u64| {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
        };
        counter("maitred_requests", "Requests taken", stats.requests)?;
        counter("maitred_replies", "Requests answered", stats.replies)?;
        counter("maitred_withdrawals", "Requests whose client left first", stats.withdrawals)?;
        counter("maitred_redeliveries", "Requests given to another worker", stats.redeliveries)?;
        counter("maitred_dismissals", "Workers told to go", counters.dismissals)?;
        counter("maitred_expiries", "Idle workers given up for silence", counters.expiries)?;
        counter("maitred_accepted", "Connections accepted", counters.accepted)?;
        counter(
            "maitred_failed_handshakes",
            "Connections that ended before they were through, for what they said",
            counters.failed_handshakes,
        )?;
        counter("maitred_denied", "Connections whose name or proof was refused", counters.denied)?;
        counter(
            "maitred_crowded",
            "Connections hung up on because too many handshakes waited",
            counters.crowded,
        )?;
        counter("maitred_turned_away", "Connections over the limit", counters.turned_away)?;
        counter("maitred_messages", "Messages received", counters.messages)?;
        counter("maitred_garbage", "Messages that made no sense", counters.garbage)?;
        counter("maitred_topic_copies", "Copies given to subscribers of topics", counters.copies)?;
        counter(
            "maitred_topic_copies_dropped",
            "Copies not given to subscribers of topics that did not read",
            counters.copies_dropped,
        )?;
        counter("maitred_received_bytes", "Bytes read", snapshot.traffic.bytes_in)?;
        counter("maitred_sent_bytes", "Bytes written", snapshot.traffic.bytes_out)?;
        counter("maitred_turns", "Turns of the reactor", snapshot.traffic.turns)?;

        let help = "Requests refused, by reason";
        let mut family =
            encoder.encode_descriptor("maitred_refusals", help, None, MetricType::Counter)?;
        for (reason, count) in REASONS.iter().zip(stats.refusals) {
            let labels = [("reason", reason.as_str())];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }

        let name = "maitred_protocol_workers";
        let mut family =
            encoder.encode_descriptor(name, "Workers, by protocol", None, MetricType::Gauge)?;
        for (protocol, count) in &snapshot.speakers {
            let gauge = ConstGauge::new(i64::try_from(*count).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("protocol", *protocol)])?)?;
        }

        let mut gauge = |name, help, value: u64| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        gauge("maitred_connections", "Connections open", counters.connections)?;
        gauge("maitred_workers", "Workers of all services", snapshot.workers_len as u64)?;
        gauge("maitred_services", "Services known", snapshot.services_len as u64)?;
        gauge("maitred_in_house", "Requests waiting or leased", snapshot.requests_len as u64)?;
        gauge("maitred_queue_length", "Requests waiting", snapshot.waiting as u64)?;
        gauge("maitred_queue_bytes", "Payload bytes waiting", snapshot.waiting_bytes)?;
        gauge("maitred_draining", "1 while draining", u64::from(snapshot.draining))?;

        let help = "Time from arrival to a worker, in seconds";
        let name = "maitred_sojourn_seconds";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        let (sum, count, buckets) = buckets(&stats.sojourn);
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;

        encode_principals(&snapshot.principals, &mut encoder)?;
        places::encode(&snapshot.places, &mut encoder)?;
        encode_services(&snapshot.services, &mut encoder)?;
        tasks.as_ref().map_or(Ok(()), |tasks| tasks.encode(&mut encoder))
    }
}

/// Nothing where nobody is named.
fn encode_principals(
    principals: &[(String, Usage)],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    type Read = fn(&Usage) -> u64;
    let named = principals.iter().any(|(name, _)| name != ANONYMOUS && name != HOUSE);
    let shown = if named { principals } else { &[] };
    let counters: [(&str, &str, Read); 3] = [
        ("maitred_principal_requests", "Requests taken", |usage| usage.requests),
        ("maitred_principal_denied", "Requests and offers without a right", |usage| usage.denied),
        ("maitred_principal_over_quota", "Requests beyond the quota", |usage| usage.over_quota),
    ];
    for (name, help, read) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (principal, usage) in shown {
            let labels = [("principal", principal.as_str())];
            ConstCounter::new(read(usage)).encode(family.encode_family(&labels)?)?;
        }
    }
    let gauges: [(&str, &str, Read); 2] = [
        ("maitred_principal_in_flight", "Requests waiting or leased", |usage| usage.in_flight),
        ("maitred_principal_in_flight_bytes", "Their payload bytes", |usage| usage.bytes),
    ];
    for (name, help, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (principal, usage) in shown {
            let labels = [("principal", principal.as_str())];
            let value = i64::try_from(read(usage)).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_services(services: &[Service], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    type Read = fn(&Service) -> u64;
    let gauges: [(&str, &str, Read); 8] = [
        ("maitred_service_workers", "Workers", |s| u64::from(s.workers)),
        ("maitred_service_offers", "Offers waiting", |s| s.offers as u64),
        ("maitred_service_queue_length", "Requests waiting", |s| s.waiting as u64),
        ("maitred_service_leased", "Requests held by workers", |s| u64::from(s.leased)),
        ("maitred_service_shedding", "1 while load is shed for the wait", |s| {
            u64::from(s.shedding)
        }),
        ("maitred_service_shut", "1 while the valve lets nobody through", |s| {
            u64::from(s.shut == Some(true))
        }),
        ("maitred_service_refused_percent", "Chance of a newcomer to be refused", |s| {
            s.refused_percent.unwrap_or(0.0).round() as u64
        }),
        ("maitred_service_alarm", "1 while the alarm is raised", |s| u64::from(s.alarmed)),
    ];
    for (name, help, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for service in services.iter() {
            let labels = [("service", service.name.as_str())];
            let value = i64::try_from(read(service)).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    let counters: [(&str, &str, Read); 3] = [
        ("maitred_service_requests", "Requests taken", |s| s.requests),
        ("maitred_service_replies", "Requests answered", |s| s.replies),
        ("maitred_service_redeliveries", "Requests given to another worker", |s| s.redeliveries),
    ];
    for (name, help, read) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for service in services.iter() {
            let labels = [("service", service.name.as_str())];
            ConstCounter::new(read(service)).encode(family.encode_family(&labels)?)?;
        }
    }
    let name = "maitred_service_refusals";
    let help = "Requests refused, by reason";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for service in services.iter() {
        // Every service has the two most likely, so that they can be watched before they occur.
        let mut counts = service.refusals_by_reason.clone();
        for reason in ["overload", "expired"] {
            counts.entry(reason.to_owned()).or_default();
        }
        for (reason, count) in &counts {
            let labels = [("service", service.name.as_str()), ("reason", reason.as_str())];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "How the line of requests is kept";
    let name = "maitred_service_discipline";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for service in services.iter() {
        let labels =
            [("service", service.name.as_str()), ("discipline", service.discipline.as_str())];
        ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Sum in seconds, count, and each bucket's bound with its own count.
fn buckets(histogram: &Histogram) -> (f64, u64, Vec<(f64, u64)>) {
    let bounds = BUCKETS.iter().map(|us| *us as f64 / 1e6).chain([f64::MAX]);
    let buckets = bounds.zip(histogram.counts).collect();
    (histogram.sum_us as f64 / 1e6, histogram.count(), buckets)
}
