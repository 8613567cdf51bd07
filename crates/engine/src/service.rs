//! One service: its lines, its valve, its meters and what it counts.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use matching::{
    Alarm, AlarmConfig, AlarmMeter, AnyLine, Broker, Flow, Line as _, PieMeter, Protector, Queue,
    Report, Rule, Sample, Side, Span, Time, Valve, Watch,
};

use crate::config::{AlarmRules, ServiceConfig, ValveRules};
use crate::effect::Reason;
use crate::engine::{RequestKey, SeatKey};
use crate::ids::ConnId;
use crate::stats::{Histogram, REASONS};

/// A request as it stands in line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Asker {
    pub(crate) key: RequestKey,
    /// Whose turn it takes in a fair line.
    pub(crate) flow: u64,
    /// Tells requests of one moment apart.
    pub(crate) rank: u64,
}

impl Flow for Asker {
    fn flow(&self) -> u64 {
        self.flow
    }
    fn order(&self) -> u64 {
        self.rank
    }
}

/// The two lines of a service.
pub(crate) type Lines = Broker<Asker, SeatKey, AnyLine<Asker>, Queue<SeatKey>>;

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: Box<[u8]>,
    pub(crate) config: ServiceConfig,
    pub(crate) line: Lines,
    /// Leases in the order they were given; its timeout is the execution limit.
    pub(crate) leases: Queue<RequestKey>,
    /// Decides how many requests may run; what it lets through and what it gets back is counted
    /// with every lease.
    pub(crate) gate: Option<Box<Gate>>,
    /// Refuses newcomers by chance.
    guard: Option<Box<Pie>>,
    watch: Option<Box<Lookout>>,
    pub(crate) workers: u32,
    pub(crate) leased: u32,
    pub(crate) waiting_bytes: u64,
    /// Connections that hold back one request until there is room, with its size.
    pub(crate) paused: VecDeque<(ConnId, u64)>,
    /// Room kept for connections that were told to read on.
    pub(crate) promised: u32,
    pub(crate) promised_bytes: u64,
    /// When the wheel will call, [`Time::MAX`] if it will not.
    pub(crate) armed: Time,
    /// Since when nothing waits, serves or is held.
    pub(crate) idle_since: Option<Time>,
    pub(crate) taken: u64,
    pub(crate) replies: u64,
    /// By the place of the reason in [`REASONS`].
    pub(crate) refusals: [u64; REASONS.len()],
    pub(crate) redeliveries: u64,
    /// Allocated with the first match.
    pub(crate) sojourn: Option<Box<Histogram>>,
}

/// A valve before the workers.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) valve: Valve,
    refuse: bool,
}

/// PIE: the longer the wait, the likelier a newcomer is refused.
#[derive(Debug)]
struct Pie {
    meter: PieMeter,
    protector: Protector,
}

/// Watches how long the oldest request waits.
#[derive(Debug)]
struct Lookout {
    meter: AlarmMeter,
    every: Span,
    next: Time,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldBack {
    pub(crate) service: crate::engine::ServiceKey,
    pub(crate) bytes: u64,
    pub(crate) promised: bool,
}

impl Service {
    pub(crate) fn new(name: &[u8], config: ServiceConfig, now: Time) -> Service {
        let asks = AnyLine::new(config.line(), now);
        let mut service = Service {
            name: name.into(),
            config,
            line: Broker::with_lines(asks, Queue::new(config.offers(), now)),
            leases: Queue::new(config.leases(), now),
            gate: None,
            guard: None,
            watch: None,
            workers: 0,
            leased: 0,
            waiting_bytes: 0,
            paused: VecDeque::new(),
            promised: 0,
            promised_bytes: 0,
            armed: Time::MAX,
            idle_since: None,
            taken: 0,
            replies: 0,
            refusals: [0; REASONS.len()],
            redeliveries: 0,
            sojourn: None,
        };
        service.fit(now);
        service
    }

    /// Brings valve, guard and alarm in line with the rules. What they know survives as far as it
    /// still means something.
    pub(crate) fn fit(&mut self, now: Time) {
        let size = self.leased as usize;
        self.gate = match (self.gate.take(), self.config.valve) {
            (_, None) => None,
            (None, Some(ValveRules { valve, refuse })) => {
                // What a rate allows is there from the start, not only an interval later.
                let since = match valve.rule {
                    Rule::Rate { interval, .. } => {
                        Time::from_nanos((now - Time::ZERO - interval).as_nanos())
                    }
                    Rule::Open | Rule::Relative(_) | Rule::Codel { .. } => now,
                    Rule::Breaker(_) | Rule::Gradient(_) => now,
                };
                Some(Box::new(Gate { valve: Valve::new(valve, size, since), refuse }))
            }
            (Some(mut gate), Some(ValveRules { valve, refuse })) => {
                if *gate.valve.config() != valve {
                    gate.valve.reconfigure(now, valve);
                }
                gate.refuse = refuse;
                Some(gate)
            }
        };
        self.guard = match (self.guard.take(), self.config.protect) {
            (_, None) => None,
            (None, Some(pie)) => {
                let protector = Protector::new(pie.min, pie.max);
                Some(Box::new(Pie { meter: PieMeter::new(pie, now), protector }))
            }
            (Some(mut guard), Some(pie)) => {
                guard.meter.reconfigure(now, pie);
                guard.protector.reconfigure(pie.min, pie.max);
                Some(guard)
            }
        };
        self.fit_alarm(now);
    }

    fn fit_alarm(&mut self, now: Time) {
        let Some(AlarmRules { wait, lasting }) = self.config.alarm else { return };
        let config = AlarmConfig {
            alarm: alloc::string::String::new(),
            watch: Watch::Overload,
            target: wait,
            interval: lasting,
        };
        let every = Span::from_nanos(lasting.as_nanos() / 4);
        let every = every.max(Span::from_millis(10)).min(Span::from_secs(1));
        // That it is quiet at first is nobody's news.
        let mut unsaid = Vec::new();
        match &mut self.watch {
            Some(watch) => {
                watch.meter.reconfigure(config, &mut unsaid);
                watch.every = every;
                watch.next = watch.next.min(now + every);
            }
            None => {
                let meter = AlarmMeter::new(config, &mut unsaid);
                self.watch = Some(Box::new(Lookout { meter, every, next: now }));
            }
        }
    }

    /// Whether the alarm changes now, and to what. Call it whenever the service is called by the
    /// wheel.
    pub(crate) fn look_out(&mut self, now: Time) -> Option<bool> {
        let oldest = self.line.asks().oldest().unwrap_or(now);
        let watch = self.watch.as_mut()?;
        let mut alarms = Vec::new();
        if self.config.alarm.is_none() {
            watch.meter.end(&mut alarms);
            self.watch = None;
        } else if now >= watch.next {
            watch.next = now + watch.every;
            let sample = Sample { now, queue_delay: now - oldest, ..Sample::default() };
            watch.meter.sample(&sample, &mut alarms);
        }
        alarms.pop().map(|alarm| matches!(alarm, Alarm::Set(_)))
    }

    /// Whether the alarm is raised.
    pub(crate) fn is_alarmed(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.meter.is_set())
    }

    /// The chance in percent with which a newcomer is refused.
    pub(crate) fn refused_percent(&self) -> Option<f64> {
        let guard = self.guard.as_ref()?;
        let parts = f64::from(guard.protector.drop_parts(Side::Ask));
        Some(parts * 100.0 / f64::from(matching::PARTS))
    }

    /// Whether chance plays a part in who is let in.
    pub(crate) fn draws(&self) -> bool {
        self.guard.is_some()
    }

    /// Why a newcomer is not even let in: a breaker that is open, or a wait that makes it hopeless.
    /// `draw` is fresh chance.
    pub(crate) fn turns_away(&mut self, now: Time, draw: u32) -> bool {
        if let Some(gate) = &self.gate
            && gate.refuse
            && !gate.valve.is_open(now)
        {
            return true;
        }
        let Some(guard) = &mut self.guard else { return false };
        let waiting = self.line.asks().len();
        if now >= guard.meter.deadline() {
            // What a lost worker held is old without having waited.
            let oldest = self.line.asks().oldest_fresh().unwrap_or(now);
            let sample = Sample { now, relative: now - oldest, ..Sample::default() };
            guard.protector.update(guard.meter.sample(&sample));
        }
        let admitted = guard.protector.admit(Side::Ask, waiting, draw % matching::PARTS);
        guard.protector.leave();
        !admitted
    }

    /// A request was given out.
    pub(crate) fn lent(&mut self, now: Time) {
        self.leased += 1;
        if let Some(gate) = &mut self.gate {
            gate.valve.admit(now);
            if !gate.valve.is_open(now) {
                self.line.shut();
            }
        }
    }

    /// A request that was given out `held` ago came back, answered well or not.
    pub(crate) fn returned(&mut self, now: Time, held: Span, ok: bool) {
        self.leased -= 1;
        if let Some(gate) = &mut self.gate {
            gate.valve.release(now, Some(Report { held, ok }));
            match gate.valve.config().rule {
                Rule::Relative(_) | Rule::Codel { .. } => gate.valve.update(now, held),
                Rule::Open | Rule::Rate { .. } | Rule::Breaker(_) | Rule::Gradient(_) => {}
            }
        }
    }

    /// Whether the valve lets nobody through. Shuts the lines if so.
    pub(crate) fn is_held_up(&mut self, now: Time) -> bool {
        let held_up = self.gate.as_ref().is_some_and(|gate| !gate.valve.is_open(now));
        if held_up {
            self.line.shut();
        }
        held_up
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.workers == 0
            && self.leased == 0
            && self.line.asks().is_empty()
            && self.paused.is_empty()
            && self.promised == 0
    }

    /// Whether one more request would have to wait where there is no room for it. A free offer is
    /// room for one request of any size, unless it is promised to one that was held back.
    pub(crate) fn is_at_bound(&self, bytes: u64) -> bool {
        let offers = if self.line.is_shut() { 0 } else { self.line.ask_rs().len() };
        let promised = self.promised as usize;
        let len = self.line.asks().len() + promised;
        let total = self.waiting_bytes + self.promised_bytes + bytes;
        promised >= offers
            && (len - offers >= self.config.queue_max || total > self.config.queue_bytes)
    }

    pub(crate) fn forget_held_back(&mut self, id: ConnId, held_back: HeldBack) {
        if held_back.promised {
            self.promised -= 1;
            self.promised_bytes -= held_back.bytes;
        } else {
            self.paused.retain(|(conn, _)| *conn != id);
        }
    }

    pub(crate) fn refuse(&mut self, reason: Reason) {
        if let Some(i) = REASONS.iter().position(|r| *r == reason) {
            self.refusals[i] += 1;
        }
    }

    pub(crate) fn deadline(&self, now: Time, idle: Span) -> Time {
        let line = self.line.deadline().unwrap_or(Time::MAX);
        let leases = self.leases.deadline().unwrap_or(Time::MAX);
        let reap = self.idle_since.map_or(Time::MAX, |at| at + idle);
        // Time alone opens a valve only for somebody who waits.
        let both = self.line.is_shut() && !self.line.asks().is_empty();
        let gate = self.gate.as_ref().filter(|_| both).and_then(|gate| gate.valve.deadline(now));
        let looks = !self.line.asks().is_empty() || self.is_alarmed();
        let watch = self.watch.as_ref().filter(|_| looks).map_or(Time::MAX, |watch| watch.next);
        line.min(leases).min(reap).min(gate.unwrap_or(Time::MAX)).min(watch)
    }
}
