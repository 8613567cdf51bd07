//! The rules of a service as words of the configuration.

use core::num::NonZero;

use engine::{AlarmRules, AtBound, Fair, FairBy, ServiceConfig, Span, ValveRules};
use matching::{Breaker, Codel, Gradient, Order, PieConfig, PieSide, Rule, ValveConfig};
use serde::Deserialize;

use super::{Lasting, Size};

/// Turns of a fair line unless `flows` says otherwise.
const FLOWS: NonZero<u64> = NonZero::new(1_024).expect("above zero");

/// The keys of a service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rules {
    pub(super) max_deliveries: Option<u32>,
    pub(super) queue_max: Option<usize>,
    pub(super) queue_bytes: Option<Size>,
    pub(super) give_up: Option<Lasting>,
    pub(super) aim: Option<Lasting>,
    pub(super) execution_limit: Option<Lasting>,
    pub(super) answer_refusals: Option<bool>,
    pub(crate) discipline: Option<Discipline>,
    pub(crate) target: Option<Lasting>,
    pub(crate) interval: Option<Lasting>,
    pub(crate) order: Option<OrderWord>,
    pub(crate) keep: Option<usize>,
    pub(crate) when_full: Option<WhenFullWord>,
    pub(crate) fair: Option<FairWord>,
    pub(crate) flows: Option<NonZero<u64>>,
    pub(crate) workers: Option<WorkersWord>,
    pub(crate) valve: Option<ValveFile>,
    pub(crate) protect: Option<ProtectFile>,
    pub(crate) alarm: Option<AlarmFile>,
}

/// How waiters leave a line other than by a match.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Discipline {
    Drop,
    Timeout,
    Codel,
    Aim,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OrderWord {
    Fifo,
    Lifo,
    Adaptive,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WhenFullWord {
    HoldBack,
    Refuse,
    DropOldest,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FairWord {
    Off,
    Connection,
    Principal,
    FirstFrame,
    Header,
    Class,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkersWord {
    LeastRecent,
    MostRecent,
}

/// `valve = { kind = "rate", limit = 100, interval = "1s" }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum ValveFile {
    Off {},
    Concurrency {
        max: usize,
        #[serde(default)]
        refuse: bool,
    },
    Rate {
        limit: usize,
        interval: Lasting,
        #[serde(default)]
        min: usize,
        #[serde(default = "most")]
        max: usize,
        #[serde(default)]
        refuse: bool,
    },
    Codel {
        target: Lasting,
        interval: Lasting,
        min: usize,
        max: usize,
        #[serde(default)]
        refuse: bool,
    },
    Breaker {
        failures: Option<u32>,
        percent: Option<u32>,
        interval: Option<Lasting>,
        rest: Option<Lasting>,
        probes: Option<u32>,
        #[serde(default = "most")]
        max: usize,
        #[serde(default = "yes")]
        refuse: bool,
    },
    Gradient {
        start: Option<usize>,
        window: Option<Lasting>,
        tolerance: Option<u32>,
        #[serde(default = "one")]
        min: usize,
        #[serde(default = "most")]
        max: usize,
        #[serde(default)]
        refuse: bool,
    },
}

/// `protect = { target = "200ms" }`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProtectFile {
    target: Lasting,
    interval: Option<Lasting>,
    update: Option<Lasting>,
}

/// `alarm = { wait = "1s", lasting = "10s" }`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlarmFile {
    wait: Lasting,
    lasting: Lasting,
}

fn most() -> usize {
    usize::MAX
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

impl Rules {
    /// Changes what the keys name, or says which key is wrong and why.
    pub(crate) fn apply(&self, config: &mut ServiceConfig) -> Result<(), (&'static str, String)> {
        self.apply_discipline(config)?;
        if let Some(order) = self.order {
            config.order = match order {
                OrderWord::Fifo => Order::Fifo,
                OrderWord::Lifo => Order::Lifo,
                OrderWord::Adaptive => Order::Adaptive,
            };
        }
        if let Some(keep) = self.keep {
            config.keep = keep;
        }
        if let Some(when_full) = self.when_full {
            config.when_full = match when_full {
                WhenFullWord::HoldBack => AtBound::HoldBack,
                WhenFullWord::Refuse => AtBound::Refuse,
                WhenFullWord::DropOldest => AtBound::DropOldest,
            };
        }
        if let Some(workers) = self.workers {
            config.workers = match workers {
                WorkersWord::LeastRecent => Order::Fifo,
                WorkersWord::MostRecent => Order::Lifo,
            };
        }
        let flows = self.flows.or(config.fair.map(|fair| fair.flows)).unwrap_or(FLOWS);
        config.fair = match self.fair {
            None => config.fair.map(|fair| Fair { flows, ..fair }),
            Some(FairWord::Off) => None,
            Some(FairWord::Connection) => Some(Fair { by: FairBy::Connection, flows }),
            Some(FairWord::Principal) => Some(Fair { by: FairBy::Principal, flows }),
            Some(FairWord::Class) => Some(Fair { by: FairBy::Class, flows }),
            Some(FairWord::FirstFrame) => Some(Fair { by: FairBy::FirstFrame, flows }),
            Some(FairWord::Header) => Some(Fair { by: FairBy::Header, flows }),
        };
        if let Some(valve) = &self.valve {
            config.valve = valve.rules();
        }
        if let Some(ProtectFile { target: Lasting(target), interval, update }) = self.protect {
            let interval = interval.map_or(target.times(10), |Lasting(span)| span);
            let ask = PieSide { target, interval };
            let update = update.map_or(PieConfig::default().update, |Lasting(span)| span);
            config.protect = Some(PieConfig { ask, update, ..PieConfig::default() });
        }
        if let Some(AlarmFile { wait: Lasting(wait), lasting: Lasting(lasting) }) = self.alarm {
            config.alarm = (wait != Span::MAX).then_some(AlarmRules { wait, lasting });
        }
        validate(config)
    }

    fn apply_discipline(&self, config: &mut ServiceConfig) -> Result<(), (&'static str, String)> {
        let interval = self.interval.map(|Lasting(span)| span);
        match self.discipline {
            Some(Discipline::Codel) => {
                let before = config.codel;
                let target = self.target.map(|Lasting(span)| span);
                let target = target.or(before.map(|codel| codel.target));
                let Some(target) = target else {
                    let message =
                        "needs a target, such as target = \"5ms\" (5 to 20 % of interval)";
                    return Err(("discipline", format!("= \"codel\" {message}")));
                };
                let interval = interval.or(before.map(|codel| codel.interval));
                config.codel =
                    Some(Codel { target, interval: interval.unwrap_or(target.times(20)) });
                return Ok(());
            }
            Some(Discipline::Aim) if config.aim == Span::MAX => {
                return Err((
                    "discipline",
                    "= \"aim\" needs an aim, such as aim = \"20ms\"".into(),
                ));
            }
            Some(Discipline::Timeout) if config.give_up == Span::MAX => {
                let message = "= \"timeout\" needs a limit, such as give_up = \"500ms\"";
                return Err(("discipline", message.into()));
            }
            Some(Discipline::Aim) => config.codel = None,
            Some(Discipline::Timeout) => (config.codel, config.aim) = (None, Span::MAX),
            Some(Discipline::Drop) => {
                (config.codel, config.aim, config.give_up) = (None, Span::MAX, Span::MAX);
            }
            None => {}
        }
        if let Some(Lasting(target)) = self.target {
            let Some(codel) = &mut config.codel else {
                return Err(("target", "counts only with discipline = \"codel\"".into()));
            };
            codel.target = target;
        }
        if let Some(interval) = interval {
            match &mut config.codel {
                Some(codel) => codel.interval = interval,
                None => config.aim_interval = Some(interval),
            }
        }
        Ok(())
    }
}

/// What parses but makes no line.
fn validate(config: &ServiceConfig) -> Result<(), (&'static str, String)> {
    if let Err(error) = config.line().line.validate() {
        let key = if config.codel.is_some() { "target" } else { "aim" };
        return Err((key, format!("makes no line: {error}")));
    }
    if let Some(ValveRules { valve, .. }) = &config.valve {
        if let Err(error) = valve.validate() {
            return Err(("valve", format!("makes no valve: {error}")));
        }
        if valve.max == 0 {
            return Err(("valve", "with a max of 0 lets nobody through, ever".into()));
        }
    }
    if let Some(pie) = &config.protect
        && let Err(error) = pie.validate()
    {
        return Err(("protect", format!("makes no guard: {error}")));
    }
    let short = Span::from_millis(1);
    if config.alarm.is_some_and(|alarm| alarm.wait < short || alarm.lasting < short) {
        return Err(("alarm", "needs a wait and a lasting of at least 1ms".into()));
    }
    Ok(())
}

impl ValveFile {
    pub(super) fn rules(&self) -> Option<ValveRules> {
        let span = |lasting: Option<Lasting>, default| lasting.map_or(default, |Lasting(s)| s);
        let (valve, refuse) = match *self {
            ValveFile::Off {} => return None,
            ValveFile::Concurrency { max, refuse } => (ValveConfig::limit(max), refuse),
            ValveFile::Rate { limit, interval: Lasting(interval), min, max, refuse } => {
                (ValveConfig { min, max, rule: Rule::Rate { limit, interval } }, refuse)
            }
            ValveFile::Codel { target, interval, min, max, refuse } => {
                let (Lasting(target), Lasting(interval)) = (target, interval);
                (ValveConfig { min, max, rule: Rule::Codel { target, interval } }, refuse)
            }
            ValveFile::Breaker { failures, percent, interval, rest, probes, max, refuse } => {
                let usual = Breaker::default();
                let rule = Rule::Breaker(Breaker {
                    interval: span(interval, usual.interval),
                    failures: failures.unwrap_or(usual.failures),
                    percent: percent.unwrap_or(usual.percent),
                    rest: span(rest, usual.rest),
                    probes: probes.unwrap_or(usual.probes),
                });
                (ValveConfig { min: 0, max, rule }, refuse)
            }
            ValveFile::Gradient { start, window, tolerance, min, max, refuse } => {
                let usual = Gradient::default();
                let rule = Rule::Gradient(Gradient {
                    start: start.unwrap_or(usual.start),
                    window: span(window, usual.window),
                    tolerance: tolerance.unwrap_or(usual.tolerance),
                });
                (ValveConfig { min, max, rule }, refuse)
            }
        };
        Some(ValveRules { valve, refuse })
    }
}
