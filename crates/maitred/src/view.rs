//! Pictures of the broker for people, scripts and metrics: the only serialisable types.

use std::collections::BTreeMap;
use std::time::Instant;

use engine::{ConnId, Histogram, REASONS, Span, Stats, Time, Usage};
use serde::{Deserialize, Serialize};
use sessions::{Counters, PROTOCOLS, Shard};

mod places;

pub(crate) use places::{Match, Matches, Places, Regulator, Regulators, place, places};

/// What the reactor tells of itself.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) stats: Stats,
    pub(crate) counters: Counters,
    pub(crate) traffic: Traffic,
    pub(crate) workers_len: usize,
    pub(crate) services_len: usize,
    pub(crate) requests_len: usize,
    pub(crate) waiting: usize,
    pub(crate) waiting_bytes: u64,
    pub(crate) draining: bool,
    pub(crate) services: Vec<Service>,
    pub(crate) workers: Vec<Worker>,
    /// Where processes meet; in a scrape.
    pub(crate) places: Places,
    /// What each principal did; in a scrape.
    pub(crate) principals: Vec<(String, Usage)>,
    /// Workers by what they speak.
    pub(crate) speakers: BTreeMap<&'static str, u64>,
}

/// Bytes over all sockets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) turns: u64,
}

/// One service.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Service {
    /// Its name; octets that are not UTF-8 are shown as `\xNN`.
    pub(crate) name: String,
    pub(crate) workers: u32,
    /// Those workers by what they speak; not in a scrape.
    #[serde(default)]
    pub(crate) protocols: BTreeMap<String, u32>,
    /// Offers that wait for a request.
    pub(crate) offers: usize,
    /// Requests that wait for an offer.
    pub(crate) waiting: usize,
    pub(crate) waiting_bytes: u64,
    /// Age of the oldest waiting request in milliseconds.
    pub(crate) oldest_ms: Option<i64>,
    /// Requests held by workers.
    pub(crate) leased: u32,
    pub(crate) requests: u64,
    pub(crate) replies: u64,
    pub(crate) refusals: u64,
    /// The same by reason; only those that occurred.
    pub(crate) refusals_by_reason: BTreeMap<String, u64>,
    pub(crate) redeliveries: u64,
    /// How the line is kept: `drop`, `timeout`, `aim` or `codel`.
    pub(crate) discipline: String,
    /// Requests are dropped because others wait too long.
    pub(crate) shedding: bool,
    /// Whether its valve lets nobody through; `null` without a valve.
    pub(crate) shut: Option<bool>,
    /// Chance in percent with which its guard refuses a newcomer.
    pub(crate) refused_percent: Option<f64>,
    /// Its alarm is raised.
    pub(crate) alarmed: bool,
    /// Upper bounds in microseconds of the time from arrival to a worker.
    pub(crate) sojourn_p50_us: Option<u64>,
    pub(crate) sojourn_p99_us: Option<u64>,
}

/// One worker.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Worker {
    pub(crate) id: String,
    pub(crate) service: String,
    pub(crate) remote: Option<String>,
    /// In whose name it serves.
    #[serde(default)]
    pub(crate) principal: String,
    /// `mdp/0.1`, `mdp/0.2`, `ppp`, `ppp/text`, or `stomp/` and a version.
    pub(crate) protocol: String,
    pub(crate) concurrency: usize,
    /// Requests it holds.
    pub(crate) holds: usize,
    pub(crate) handled: u64,
    /// Time since it offered itself, in milliseconds.
    pub(crate) age_ms: i64,
    /// Time since its last byte, in milliseconds.
    pub(crate) quiet_ms: i64,
    /// Whether the peer answers ZMTP PING.
    pub(crate) pings: bool,
}

/// The answer of `GET /v1/services`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Services {
    pub(crate) services: Vec<Service>,
    /// How many there are, those not shown included.
    pub(crate) total: usize,
}

/// The answer of `GET /v1/workers`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Workers {
    pub(crate) workers: Vec<Worker>,
}

/// The one clock of the house: nanoseconds since it was opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    pub(crate) fn now(&self) -> Time {
        Time::ZERO + Span::from(self.0.elapsed())
    }
}

/// Shows any bytes as text.
pub(crate) fn show(name: &[u8]) -> String {
    name.utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.push_str(chunk.valid());
        for octet in chunk.invalid() {
            text.push_str(&format!("\\x{octet:02x}"));
        }
        text
    })
}

pub(crate) fn show_id(id: ConnId) -> String {
    format!("{id:?}")
}

/// Up to `limit` services by name; if there are more, those with the most requests.
pub(crate) fn services(shard: &Shard, now: Time, limit: usize) -> Vec<Service> {
    let percentile = |histogram: Option<&Histogram>, q| histogram.map(|h| h.percentile_us(q));
    let mut views: Vec<engine::ServiceView<'_>> = shard.engine().services().collect();
    if views.len() > limit {
        views.select_nth_unstable_by_key(limit, |view| std::cmp::Reverse(view.requests));
        views.truncate(limit);
    }
    let mut services: Vec<Service> = views
        .into_iter()
        .map(|service| Service {
            name: show(service.name),
            workers: service.workers,
            protocols: BTreeMap::new(),
            offers: service.offers,
            waiting: service.waiting,
            waiting_bytes: service.waiting_bytes,
            oldest_ms: service.oldest.map(|at| (now - at).as_millis()),
            leased: service.leased,
            requests: service.requests,
            replies: service.replies,
            refusals: service.refusals.iter().sum(),
            refusals_by_reason: by_reason(service.refusals),
            discipline: service.discipline.to_owned(),
            shedding: service.shedding,
            shut: service.shut,
            refused_percent: service.refused_percent,
            alarmed: service.alarmed,
            redeliveries: service.redeliveries,
            sojourn_p50_us: percentile(service.sojourn, 50),
            sojourn_p99_us: percentile(service.sojourn, 99),
        })
        .collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    services
}

fn by_reason(refusals: [u64; REASONS.len()]) -> BTreeMap<String, u64> {
    let named = REASONS.iter().zip(refusals).filter(|(_, count)| *count > 0);
    named.map(|(reason, count)| (reason.as_str().to_owned(), count)).collect()
}

/// Says of each of `services` what its workers speak.
pub(crate) fn add_protocols(shard: &Shard, services: &mut [Service]) {
    let places: BTreeMap<String, usize> =
        services.iter().enumerate().map(|(i, service)| (service.name.clone(), i)).collect();
    for worker in shard.engine().workers() {
        if let Some(place) = places.get(&show(worker.service)) {
            *services[*place].protocols.entry(protocol_of(shard, worker.conn)).or_default() += 1;
        }
    }
}

/// Workers by what they speak.
pub(crate) fn speakers(shard: &Shard) -> BTreeMap<&'static str, u64> {
    // Those that nobody speaks are there, too: a series that appears late is missed by rates.
    let mut speakers: BTreeMap<&'static str, u64> = PROTOCOLS.map(|name| (name, 0)).into();
    for name in shard.connections().filter_map(|conn| conn.serves_in) {
        *speakers.entry(name).or_default() += 1;
    }
    speakers
}

fn protocol_of(shard: &Shard, conn: ConnId) -> String {
    let speaks = shard.connection(conn).and_then(|conn| conn.serves_in);
    speaks.unwrap_or("-").to_owned()
}

/// Every worker, by service and age.
pub(crate) fn workers(shard: &Shard, now: Time) -> Vec<Worker> {
    let mut workers: Vec<Worker> = shard
        .engine()
        .workers()
        .map(|worker| {
            let conn = shard.connection(worker.conn);
            let conn = conn.as_ref();
            Worker {
                id: show_id(worker.conn),
                service: show(worker.service),
                principal: conn.map_or_else(String::new, |conn| {
                    shard.engine().principal_name(conn.principal).to_owned()
                }),
                remote: conn.and_then(|conn| conn.remote).map(|remote| remote.to_string()),
                protocol: conn.and_then(|conn| conn.serves_in).unwrap_or("-").to_owned(),
                concurrency: worker.concurrency,
                holds: worker.holds,
                handled: worker.handled,
                age_ms: (now - worker.since).as_millis(),
                quiet_ms: conn.map_or(0, |conn| (now - conn.last_seen).as_millis()),
                pings: conn.is_some_and(|conn| conn.pings),
            }
        })
        .collect();
    workers.sort_by(|a, b| (&a.service, -a.age_ms, &a.id).cmp(&(&b.service, -b.age_ms, &b.id)));
    workers
}
