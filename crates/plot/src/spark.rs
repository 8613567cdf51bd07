//! A line of block characters.

/// Eighths of a line.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The points as block characters between zero and `most`: one each, a dot where there is nothing.
/// What is zero or next to it is the lowest block.
#[must_use]
pub fn sparkline(points: &[Option<f64>], most: f64) -> String {
    let block = |point: &Option<f64>| match point {
        None => '·',
        Some(_) if most <= 0.0 => BLOCKS[0],
        Some(value) => {
            let eighths = (value / most * 7.0).round().clamp(0.0, 7.0);
            // In range: clamped just above, and what is no number becomes zero.
            BLOCKS[eighths as usize]
        }
    };
    points.iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights() {
        let cases: [(&[Option<f64>], f64, &str); 5] = [
            (&[Some(0.0), Some(50.0), Some(100.0)], 100.0, "▁▅█"),
            (&[None, Some(1.0)], 8.0, "·▂"),
            (&[Some(0.0), Some(0.0)], 0.0, "▁▁"),
            (&[Some(500.0), Some(-3.0), Some(f64::NAN)], 100.0, "█▁▁"),
            (&[], 1.0, ""),
        ];
        for (points, most, expected) in cases {
            assert_eq!(sparkline(points, most), expected, "{points:?}");
        }
    }
}
