//! What one seed makes of the world: rules, weather, who is there, what goes wrong.
//!
//! Swarm testing: each run lacks some kinds of faults and has others in plenty.

use core::num::NonZero;

use engine::{AlarmRules, AtBound, Fair, FairBy, ServiceConfig, Span, ValveRules};
use matching::{Breaker, Codel, Gradient, Order, PieConfig, PieSide, Rule, ValveConfig};
use sessions::{Bytes, Pair, ShardConfig};

use super::SERVICES;
use super::ledger::Ledger;
use super::net::Weather;
use crate::rng::Rng;

const FAULTS: usize = 8;

#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) shard: ShardConfig,
    pub(crate) weather: Weather,
    pub(crate) clients: usize,
    pub(crate) workers: usize,
    /// Peers that meet each other.
    pub(crate) meeters: usize,
    pub(crate) noises: usize,
    /// How long things go wrong.
    pub(crate) faults: Span,
    pub(crate) fault_every_ms: u64,
    pub(crate) call_every_ms: u64,
    pub(crate) fault_weights: [u64; FAULTS],
    pub(crate) refuse_percent: u64,
    /// Longest way from shard to shard.
    pub(crate) cross_delay: Span,
    /// Some bodies are large.
    pub(crate) large: bool,
    /// Replies to MDP/0.2 clients name the service.
    pub(crate) names_service: bool,
    /// Every refusal is answered in band.
    pub(crate) answers_all: bool,
    /// The shell notices the end of a stream it does not read, as the real one does. One that does
    /// not has to be told of all room, or it leaves connections behind.
    pub(crate) sees_end: bool,
    /// Longest line any rules of the run allow.
    pub(crate) queue_max: usize,
    /// More offers than there ever are.
    pub(crate) offers_max: usize,
    /// No message of the run is larger.
    pub(crate) message_max: usize,
}

impl Setting {
    pub(crate) fn some(rng: &mut Rng) -> Setting {
        let large = rng.chance(12);
        let answers_all = rng.chance(70);
        let mut shard = ShardConfig {
            heartbeat: Span::from_millis(rng.pick(&[100, 300, 1_000])),
            liveness: rng.pick(&[2, 3, 4]),
            ..ShardConfig::default()
        };
        shard.pairs = SERVICES
            .map(|name| Pair {
                service: Bytes::from_static(name),
                heartbeat: Span::from_millis(rng.pick(&[100, 300, 1_000])),
                liveness: rng.pick(&[2, 3, 4]),
            })
            .into();
        shard.limits.connections = rng.pick(&[6, 20, 100]);
        shard.limits.out_bytes = rng.pick(&[16 << 10, 256 << 10, 4 << 20]);
        shard.limits.handshake = Span::from_millis(rng.pick(&[500, 5_000]));
        shard.limits.idle = rng.pick(&[Span::MAX, Span::from_secs(5)]);
        shard.limits.garbage = rng.pick(&[3, 100]);
        shard.zmtp.message_bytes_max = 1 << 20;
        shard.zmtp.frame_bytes_max = 1 << 20;
        shard.zmtp.frames_max = 100;
        shard.engine.meetings = super::meeter::places();
        shard.engine.service_idle = Span::from_millis(rng.between(200, 5_000));
        let mut fault_weights = [6, 6, 6, 3, 5, 3, 2, 1];
        for weight in &mut fault_weights {
            *weight *= rng.pick(&[0, 1, 1, 3]);
        }
        fault_weights[0] += 1;
        let workers = SERVICES.len() + rng.skewed(5) as usize;
        let mut setting = Setting {
            shard,
            weather: Weather {
                delay_max: Span::from_nanos(rng.pick(&[100_000, 5_000_000, 200_000_000])),
                cut_percent: rng.pick(&[0, 20, 80]),
                capacity: rng.pick(&[600, 8 << 10, 256 << 10]),
            },
            clients: rng.between(1, 6) as usize,
            workers,
            meeters: rng.pick(&[0, 2, 4, 8]),
            noises: rng.pick(&[0, 0, 1, 2, 3]),
            faults: Span::from_millis(rng.between(1_000, 12_000)),
            fault_every_ms: rng.pick(&[100, 1_000, 10_000]),
            call_every_ms: rng.pick(&[50, 1_000, 100_000]),
            fault_weights,
            refuse_percent: rng.pick(&[0, 0, 30]),
            cross_delay: Span::from_nanos(rng.pick(&[10_000, 1_000_000, 60_000_000])),
            large,
            names_service: rng.chance(80),
            answers_all,
            sees_end: rng.chance(50),
            queue_max: 0,
            offers_max: workers * 32,
            message_max: if large { 1 << 20 } else { 16 << 10 },
        };
        setting.reload(rng);
        setting
    }

    /// New rules for services.
    pub(crate) fn reload(&mut self, rng: &mut Rng) {
        let answers_all = self.answers_all;
        // Where nobody may wait, there is no room any more once the workers have left.
        let shortest = usize::from(!self.sees_end);
        let service = |rng: &mut Rng| ServiceConfig {
            aim: if rng.chance(20) {
                Span::from_millis(rng.pick(&[5, 50, 500]))
            } else {
                Span::MAX
            },
            max_deliveries: rng.pick(&[1, 2, 3, 8]),
            queue_max: rng.pick(&[shortest, 1, 3, 20, 1_000]),
            queue_bytes: rng.pick(&[600, 20_000, 1 << 30]),
            give_up: if rng.chance(60) {
                Span::MAX
            } else {
                Span::from_millis(rng.between(20, 5_000))
            },
            execution_limit: if rng.chance(60) {
                Span::MAX
            } else {
                Span::from_millis(rng.between(300, 3_000))
            },
            answer_refusals: answers_all || rng.chance(50),
            ..if rng.chance(30) { kept_somehow(rng) } else { ServiceConfig::default() }
        };
        self.shard.engine.defaults = service(rng);
        self.shard.engine.by_name.clear();
        for name in SERVICES {
            if rng.chance(50) {
                let rules = service(rng);
                self.shard.engine.by_name.insert(name.into(), rules);
            }
        }
        let rules = SERVICES.map(|name| self.shard.engine.service(name).queue_max);
        self.queue_max = rules.into_iter().max().unwrap_or(0).max(self.queue_max);
    }

    /// Tells the checker of deliveries what is allowed.
    pub(crate) fn note_deliveries(&self, ledger: &mut Ledger) {
        for (most, name) in ledger.deliveries_max.iter_mut().zip(SERVICES) {
            *most = (*most).max(self.shard.engine.service(name).max_deliveries);
        }
    }
}

/// Lines of every kind, valves and guards. Many rules stay what they are by default.
fn kept_somehow(rng: &mut Rng) -> ServiceConfig {
    let millis = |rng: &mut Rng, from, to| Span::from_millis(rng.between(from, to));
    let rule = match rng.between(0, 5) {
        0 => Rule::Open,
        1 => Rule::Rate { limit: rng.pick(&[1, 5, 50]), interval: millis(rng, 10, 500) },
        2 => Rule::Codel { target: millis(rng, 5, 200), interval: millis(rng, 50, 500) },
        3 => Rule::Gradient(Gradient { start: 3, window: millis(rng, 50, 500), tolerance: 50 }),
        _ => {
            Rule::Breaker(Breaker { failures: 2, rest: millis(rng, 50, 500), ..Breaker::default() })
        }
    };
    let valve = ValveConfig { min: 1, max: rng.pick(&[1, 3, 100]), rule };
    let fair_by =
        rng.pick(&[FairBy::Connection, FairBy::Principal, FairBy::FirstFrame, FairBy::Class]);
    let flows = NonZero::new(rng.pick(&[1, 3, 1_024])).unwrap_or(NonZero::<u64>::MIN);
    let codel = Codel { target: millis(rng, 1, 50), interval: millis(rng, 50, 500) };
    let wait = millis(rng, 50, 1_000);
    let side = PieSide { target: millis(rng, 10, 500), interval: millis(rng, 10, 500) };
    ServiceConfig {
        codel: rng.chance(20).then_some(codel),
        order: rng.pick(&[Order::Fifo, Order::Fifo, Order::Lifo, Order::Adaptive]),
        keep: rng.pick(&[0, 0, 2]),
        when_full: rng.pick(&[AtBound::HoldBack, AtBound::HoldBack, AtBound::Refuse]),
        fair: rng.chance(30).then_some(Fair { by: fair_by, flows }),
        valve: rng.chance(30).then_some(ValveRules { valve, refuse: rng.chance(30) }),
        protect: rng.chance(20).then_some(PieConfig { ask: side, ..PieConfig::default() }),
        alarm: rng.chance(30).then_some(AlarmRules { wait, lasting: wait }),
        ..ServiceConfig::default()
    }
}
