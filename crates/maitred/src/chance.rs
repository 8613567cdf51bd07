//! Chance that is the same everywhere and for ever: a seed names a load.
//!
//! It is written out here (SplitMix64, Steele, Lea and Flood 2014) because a load that a page or a
//! ticket quotes must not change with the version of a library.

/// A source of chance.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// The source of chance number `stream` of a seed.
    pub(crate) fn new(seed: u64, stream: u64) -> Chance {
        let mut chance = Chance(seed ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03));
        // Seeds next to each other shall have nothing in common.
        Chance(chance.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// Above 0, at most 1: its logarithm is finite.
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 * (-53_f64).exp2()
    }

    /// Exponentially distributed around a mean of 1.
    pub(crate) fn exponential(&mut self) -> f64 {
        -self.unit().ln()
    }

    /// Log-normally distributed around a mean of 1: `spread` is the standard deviation of the
    /// logarithm.
    pub(crate) fn lognormal(&mut self, spread: f64) -> f64 {
        // Box and Muller; the second of the pair is left.
        let radius = (2.0 * self.exponential()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.unit()).cos();
        (spread * normal - spread * spread / 2.0).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix64() {
        // The first outputs for the state 1234567, as published with the algorithm.
        let mut chance = Chance(1_234_567);
        let got = [chance.next(), chance.next(), chance.next()];
        assert_eq!(got, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn means_and_deviations_are_right() {
        type Draw = fn(&mut Chance) -> f64;
        // Mean and variance of each; the sample of 400,000 is off by at most 5 of its own errors.
        let cases: [(&str, Draw, f64, f64); 3] = [
            ("unit", Chance::unit, 0.5, 1.0 / 12.0),
            ("exponential", Chance::exponential, 1.0, 1.0),
            ("lognormal", |chance| chance.lognormal(0.5), 1.0, 0.25_f64.exp() - 1.0),
        ];
        for (name, draw, mean, variance) in cases {
            let mut chance = Chance::new(1, 0);
            let (count, mut sum, mut squares) = (400_000, 0.0, 0.0);
            for _ in 0..count {
                let x = draw(&mut chance);
                sum += x;
                squares += (x - mean) * (x - mean);
            }
            let error = (variance / f64::from(count)).sqrt();
            let (got, spread) = (sum / f64::from(count), squares / f64::from(count));
            assert!((got - mean).abs() < 5.0 * error, "{name}: mean {got}");
            assert!((spread / variance - 1.0).abs() < 0.05, "{name}: variance {spread}");
        }
    }
}
