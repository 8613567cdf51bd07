//! Counters.

use std::vec::Vec;

use crate::{BUCKETS, Histogram, REASONS, Reason, Span, Stats};

#[test]
fn a_bucket_holds_what_is_at_most_its_bound() {
    for (i, bound) in BUCKETS.iter().enumerate() {
        for (us, expected) in [(*bound, i), (*bound + 1, i + 1)] {
            let mut histogram = Histogram::default();
            histogram.add(Span::from_nanos(us as i64 * 1_000));
            let place = histogram.counts.iter().position(|count| *count == 1);
            assert_eq!(place, Some(expected), "{us} us");
        }
    }
    assert_eq!((BUCKETS[0], BUCKETS[22]), (16, 1 << 26));
}

#[test]
fn odd_spans_are_counted_too() {
    let mut histogram = Histogram::default();
    for (span, place) in [
        (Span::ZERO, 0),
        (Span::from_nanos(-5), 0),
        (Span::from_nanos(16_999), 0),
        (Span::from_nanos(17_000), 1),
        (Span::MAX, 23),
    ] {
        let before = histogram.clone();
        histogram.add(span);
        let grown = (0..24).filter(|i| histogram.counts[*i] > before.counts[*i]);
        assert_eq!(grown.collect::<Vec<_>>(), [place], "{span}");
    }
    assert_eq!(histogram.count(), 5);
    histogram.add(Span::MAX);
    assert_eq!(histogram.sum_us, 33 + 2 * (i64::MAX as u64 / 1_000));
}

#[test]
fn percentiles_are_bounds_of_buckets() {
    let mut histogram = Histogram::default();
    assert_eq!(histogram.percentile_us(50), 0);
    for _ in 0..99 {
        histogram.add(Span::from_nanos(10_000));
    }
    histogram.add(Span::from_secs(1_000));
    let percentiles = [0, 1, 50, 99, 100].map(|q| histogram.percentile_us(q));
    assert_eq!(percentiles, [16, 16, 16, 16, u64::MAX]);
}

#[test]
fn every_reason_has_its_own_place() {
    let mut stats = Stats::default();
    for (i, reason) in REASONS.iter().enumerate() {
        stats.refuse(*reason);
        assert_eq!(stats.refusals[i], 1, "{}", reason.as_str());
    }
    stats.refuse(Reason::Draining);
    assert_eq!(stats.refusals, [1, 1, 1, 1, 2, 1, 1]);
}
