//! Which values an axis spans, and where its ticks stand.

use crate::Scale;

/// Powers of ten that a logarithmic axis spans at most: below is the bottom.
const DECADES: i32 = 7;

/// From `low` to `high`; both are ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    /// Between two ticks of a linear axis.
    step: f64,
}

impl Axis {
    /// An axis that has room for all of them.
    pub(crate) fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Axis {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| value.is_finite() && *value > 0.0) {
            least = least.min(value);
            most = most.max(value);
        }
        if most == 0.0 {
            return Axis {
                scale,
                low: if scale == Scale::Log { 0.1 } else { 0.0 },
                high: 1.0,
                step: 1.0,
            };
        }
        match scale {
            Scale::Linear => {
                let step = nice(most / 5.0);
                Axis { scale, low: 0.0, high: (most / step).ceil() * step, step }
            }
            Scale::Log => {
                let top = most.log10().ceil() as i32;
                let bottom = (least.log10().floor() as i32).clamp(top - DECADES, top - 1);
                Axis { scale, low: 10_f64.powi(bottom), high: 10_f64.powi(top), step: 0.0 }
            }
        }
    }

    /// Where a value stands, from 0 (bottom) to 1 (top).
    pub(crate) fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => value / self.high,
            Scale::Log if value <= self.low => 0.0,
            Scale::Log => (value / self.low).log10() / (self.high / self.low).log10(),
        };
        share.clamp(0.0, 1.0)
    }

    /// Values to name, from low to high.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        let count = match self.scale {
            Scale::Linear => (self.high / self.step).round() as i32,
            Scale::Log => (self.high / self.low).log10().round() as i32,
        };
        let bottom = self.low.max(f64::MIN_POSITIVE).log10().round() as i32;
        (0..=count)
            .map(|i| match self.scale {
                Scale::Linear => self.step * f64::from(i),
                Scale::Log => 10_f64.powi(bottom + i),
            })
            .collect()
    }
}

/// The next of 1, 2, 5, 10, … times a power of ten.
fn nice(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * 0.999_999);
    factor.unwrap_or(10.0) * power
}

/// A value for people: as many digits as it needs.
pub(crate) fn label(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        let cases: [(Scale, &[f64], &[&str]); 7] = [
            (Scale::Linear, &[30.0], &["0", "10", "20", "30"]),
            (Scale::Linear, &[0.0, 9.0, 3.0], &["0", "2", "4", "6", "8", "10"]),
            (Scale::Linear, &[0.25], &["0", "0.05", "0.1", "0.15", "0.2", "0.25"]),
            (Scale::Linear, &[], &["0", "1"]),
            (Scale::Log, &[3.0, 900.0], &["1", "10", "100", "1000"]),
            (Scale::Log, &[5.0], &["1", "10"]),
            (Scale::Log, &[0.0, -1.0, f64::NAN], &["0.1", "1"]),
        ];
        for (scale, values, expected) in cases {
            let ticks = Axis::of(scale, values.iter().copied()).ticks();
            let labels: Vec<String> = ticks.into_iter().map(label).collect();
            assert_eq!(labels, expected, "{values:?}");
        }
    }

    #[test]
    fn a_logarithmic_axis_is_bounded() {
        let axis = Axis::of(Scale::Log, [1e-300, 1e3].into_iter());
        assert_eq!(axis.ticks().len(), 8);
        assert_eq!(axis.place(1e-300), 0.0);
        assert_eq!(axis.place(1e3), 1.0);
    }
}
