//! Medians with intervals that assume nothing about how the noise is distributed.

/// A median, and where the true one lies with a confidence of 95%.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Median {
    /// The sample's median.
    pub(crate) point: f64,
    /// The interval's lower end.
    pub(crate) low: f64,
    /// The interval's upper end.
    pub(crate) high: f64,
}

impl Median {
    /// Of these values, with the interval of the sign test: all medians that it would not reject at 5%. `None`
    /// for no values; of fewer than 6 the interval is their whole range, which promises less than 95%.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let low = rank(sorted.len());
        let middle = sorted.len() / 2;
        let point =
            if last % 2 == 0 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { point, low: sorted[low], high: sorted[last - low] })
    }

    /// Half the interval's width.
    pub(crate) fn margin(&self) -> f64 {
        (self.high - self.low) / 2.0
    }
}

/// The largest number of heads such that so many or fewer of `count` fair coins have at most 2.5%.
fn rank(count: usize) -> usize {
    // By logarithms: 0.5^count alone would be 0 for a large count.
    let mut log_probability = -(count as f64) * std::f64::consts::LN_2;
    let mut below = 0.0;
    for heads in 0..count {
        below += log_probability.exp();
        if below > 0.025 {
            return heads.saturating_sub(1);
        }
        log_probability += ((count - heads) as f64 / (heads + 1) as f64).ln();
    }
    0
}
