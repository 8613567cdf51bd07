//! Regulators and valves: properties V and R of the specification sheet, section 4, and the two
//! valves the original has not.

use std::vec::Vec;

use proptest::prelude::*;

use super::queue::any_config;
use crate::{Admissions, Breaker, GoOn, Gradient, Lock, QueueConfig, Regulator, Report, Rule};
use crate::{Span, Time, Valve, ValveConfig};

#[derive(Clone, Debug)]
enum Call {
    Wait(i64),
    Ask,
    TryAsk,
    /// One of the locks that are out.
    Done(usize, bool),
    Lost(usize),
    GoOn(usize),
    Update(i64),
    Tick,
    /// Everybody who waits goes.
    Drain,
    Configure(QueueConfig, ValveConfig),
}

fn span(range: core::ops::Range<i64>) -> impl Strategy<Value = Span> {
    range.prop_map(Span::from_nanos)
}

fn any_valve() -> impl Strategy<Value = ValveConfig> {
    let breaker = (span(1..20), 1u32..4, 0u32..101, span(0..20), 1u32..4).prop_map(
        |(interval, failures, percent, rest, probes)| {
            Rule::Breaker(Breaker { interval, failures, percent, rest, probes })
        },
    );
    let gradient = (1usize..6, span(1..20), 0u32..100).prop_map(|(start, window, tolerance)| {
        Rule::Gradient(Gradient { start, window, tolerance })
    });
    let rule = prop_oneof![
        2 => Just(Rule::Open),
        2 => span(-5..6).prop_map(Rule::Relative),
        2 => (span(-5..6), span(1..12))
            .prop_map(|(target, interval)| Rule::Codel { target, interval }),
        2 => (0usize..5, span(1..12)).prop_map(|(limit, interval)| Rule::Rate { limit, interval }),
        1 => breaker,
        1 => gradient,
    ];
    let max = prop_oneof![1 => Just(usize::MAX), 2 => 0usize..6];
    (rule, 0usize..3, max).prop_map(|(rule, min, max)| {
        let config = ValveConfig { min: min.min(max), max, rule };
        assert_eq!(config.validate(), Ok(()));
        config
    })
}

fn any_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => (0i64..8).prop_map(Call::Wait),
        6 => Just(Call::Ask),
        1 => Just(Call::TryAsk),
        3 => (0usize..8, any::<bool>()).prop_map(|(which, ok)| Call::Done(which, ok)),
        1 => (0usize..8).prop_map(Call::Lost),
        2 => (0usize..8).prop_map(Call::GoOn),
        2 => (-8i64..9).prop_map(Call::Update),
        1 => Just(Call::Tick),
        1 => Just(Call::Drain),
        1 => (any_config(), any_valve()).prop_map(|(queue, valve)| Call::Configure(queue, valve)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2_000)
    })]

    /// R1, R2, R5, R6, V1, V2, V3, V6, V7 and conservation.
    #[test]
    fn a_regulator_counts_right(
        queue in any_config(),
        valve in any_valve(),
        calls in prop::collection::vec(any_call(), 0..80),
    ) {
        let mut now = Time::ZERO;
        let mut regulator = Regulator::new(queue, valve, now);
        let mut locks: Vec<Lock> = Vec::new();
        let (mut asked, mut ran, mut dropped) = (0, 0, 0);
        for call in calls {
            let mut out = Admissions::default();
            let pick = |which: usize| locks.get(which % locks.len().max(1)).copied();
            match call {
                Call::Wait(span) => {
                    now += Span::from_nanos(span);
                    regulator.tick(now, &mut out);
                }
                Call::Ask => {
                    asked += 1;
                    regulator.ask(now, now, (), &mut out);
                }
                Call::TryAsk => {
                    let open = regulator.is_open();
                    let refused = regulator.try_ask(now, now, (), &mut out).is_err();
                    assert_eq!(refused, !open);
                    asked += usize::from(open);
                }
                Call::Done(which, ok) => {
                    let lock = pick(which).unwrap_or_default();
                    assert_eq!(regulator.done(now, lock, ok, &mut out), locks.contains(&lock));
                    assert!(!regulator.done(now, lock, ok, &mut out), "done twice");
                    locks.retain(|its| *its != lock);
                }
                Call::Lost(which) => {
                    let lock = pick(which).unwrap_or_default();
                    assert_eq!(regulator.lost(now, lock, &mut out), locks.contains(&lock));
                    locks.retain(|its| *its != lock);
                }
                Call::GoOn(which) => {
                    let lock = pick(which).unwrap_or_default();
                    let (size, ValveConfig { min, max, .. }) =
                        (regulator.size(), *regulator.valve().config());
                    let told = regulator.go_on(now, lock, &mut out);
                    assert_eq!(told == GoOn::NotFound, !locks.contains(&lock));
                    if told == GoOn::Stop {
                        assert!(size > min, "stopped below min");
                        locks.retain(|its| *its != lock);
                    }
                    if let GoOn::Go(opened) = told {
                        assert!(size <= max && opened <= now);
                    }
                }
                Call::Update(value) => regulator.update(now, Span::from_nanos(value), &mut out),
                Call::Tick => regulator.tick(now, &mut out),
                Call::Drain => {
                    regulator.drain(now, &mut out);
                    assert!(regulator.is_empty(), "somebody waits still");
                }
                Call::Configure(queue, valve) => {
                    regulator.reconfigure(now, queue, valve, &mut out).expect("a good one");
                }
            }
            for admitted in &out.admitted {
                assert!(admitted.sojourn(now) >= admitted.relative().max(Span::ZERO));
                locks.push(admitted.lock);
            }
            ran += out.admitted.len();
            dropped += out.dropped.len();
            assert_eq!(regulator.size(), locks.len());
            assert_eq!(asked, ran + dropped + regulator.len());
            assert!(!regulator.is_open() || regulator.is_empty(), "waits before an open valve");
            let ValveConfig { min, max, .. } = *regulator.valve().config();
            if locks.len() < min {
                assert!(regulator.is_open(), "closed below min");
            }
            if locks.len() >= max {
                assert!(!regulator.is_open(), "open at max");
            }
        }
    }

    /// V11: starts above `min` in any interval are at most `limit`, none in the first.
    #[test]
    fn a_rate_valve_keeps_its_rate(
        limit in 0usize..4,
        interval in 1i64..12,
        waits in prop::collection::vec((0i64..6, any::<bool>()), 0..120),
    ) {
        let span = Span::from_nanos(interval);
        let (mut now, mut starts) = (Time::ZERO, Vec::new());
        let mut valve = Valve::new(ValveConfig::rate(limit, span), 0, now);
        for (wait, done) in waits {
            now += Span::from_nanos(wait);
            if done && valve.size() > 0 {
                valve.release(now, None);
            }
            if valve.is_open(now) {
                valve.admit(now);
                starts.push(now);
            }
            let recent = starts.iter().filter(|start| **start + span > now).count();
            assert!(recent <= limit);
        }
        assert!(starts.iter().all(|start| *start >= Time::ZERO + span));
    }
}

fn at(millis: i64) -> Time {
    Time::from_millis(millis)
}

#[test]
fn a_breaker_breaks_rests_probes_and_heals() {
    let breaker = Breaker {
        interval: Span::from_millis(1_000),
        failures: 3,
        percent: 50,
        rest: Span::from_millis(500),
        probes: 2,
    };
    let config = ValveConfig { rule: Rule::Breaker(breaker), ..ValveConfig::default() };
    let mut valve = Valve::new(config, 0, at(0));
    let run = |valve: &mut Valve, now, ok| {
        assert!(valve.is_open(now));
        valve.admit(now);
        valve.release(now, Some(Report { held: Span::ZERO, ok }));
    };
    for ok in [true, false, true, false] {
        run(&mut valve, at(10), ok);
    }
    assert!(valve.is_open(at(10)), "two failures are not three");
    run(&mut valve, at(20), false);
    assert!(!valve.is_open(at(519)));
    assert_eq!(valve.deadline(at(20)), Some(at(520)));
    // Half open: two may try, no more.
    valve.admit(at(520));
    valve.admit(at(520));
    assert!(!valve.is_open(at(520)));
    valve.release(at(530), Some(Report { held: Span::ZERO, ok: false }));
    assert_eq!(valve.deadline(at(530)), Some(at(1_030)), "one failed");
    valve.release(at(531), Some(Report { held: Span::ZERO, ok: true }));
    run(&mut valve, at(1_030), true);
    run(&mut valve, at(1_031), true);
    assert_eq!(valve.opening(), Some(at(1_031)), "whole again");
    run(&mut valve, at(1_040), false);
    assert!(valve.is_open(at(1_040)), "counting began anew");
}

#[test]
fn a_gradient_valve_finds_the_limit() {
    // What is behind it does ten at once in 10 ms each; more only wait for each other.
    let gradient = Gradient { start: 1, window: Span::from_millis(50), tolerance: 50 };
    let config = ValveConfig { rule: Rule::Gradient(gradient), max: 500, min: 0 };
    let mut valve = Valve::new(config, 0, at(0));
    let (mut limits, mut now) = (Vec::new(), at(0));
    for _ in 0..5_000 {
        while valve.is_open(now) {
            valve.admit(now);
        }
        limits.push(valve.size());
        let held = Span::from_millis(10.max(valve.size() as i64));
        now += held;
        while valve.size() > 0 {
            valve.release(now, Some(Report { held, ok: true }));
        }
    }
    let late = &limits[limits.len() / 2..];
    let mean = late.iter().sum::<usize>() / late.len();
    assert!((10..=20).contains(&mean), "{mean}: {late:?}");
    assert!(late.iter().all(|limit| *limit <= 30), "{late:?}");
}
