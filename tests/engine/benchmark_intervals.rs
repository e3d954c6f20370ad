//! The intervals that the benchmarks print hold what they say.

#[path = "../../benches/paired/stats.rs"]
mod stats;

use stats::Median;

#[test]
fn an_interval_is_of_the_ranks_that_the_sign_test_gives() {
    // Tables of the sign test at 5%, two-sided: the largest count of rarer signs that is significant, k, for
    // n signs; the interval is from the value after the k+1 smallest to the one before the k+1 largest.
    for (n, k) in [(6, 0), (8, 0), (9, 1), (12, 2), (20, 5), (25, 7), (50, 17), (100, 39)] {
        let values: Vec<f64> = (0..n).rev().map(f64::from).collect();
        let median = Median::of(&values).unwrap();
        assert_eq!((median.low, median.high), (f64::from(k), f64::from(n - 1 - k)), "of {n}");
        assert_eq!(median.point, f64::from(n - 1) / 2.0);
    }
}

#[test]
fn thousands_of_rounds_have_an_interval_too() {
    let values: Vec<f64> = (0..100_000).map(f64::from).collect();
    let median = Median::of(&values).unwrap();
    // 1.96 standard deviations of a fair coin thrown 100,000 times: 310.
    assert!((median.margin() - 310.0).abs() < 2.0, "{median:?}");
}

#[test]
fn few_values_have_their_whole_range_and_none_has_no_median() {
    assert_eq!(Median::of(&[3.0, 1.0]), Some(Median { point: 2.0, low: 1.0, high: 3.0 }));
    assert_eq!(Median::of(&[]), None);
}
