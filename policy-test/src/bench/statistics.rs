//! What many samples come to.
//!
//! Inputs: numbers. Outputs: medians, quartiles, ratios of pairs. Pure.

/// The middle of some samples, and the half of them that is nearest to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Half of the samples are below.
    pub median: f64,
    /// A quarter is below.
    pub low: f64,
    /// A quarter is above.
    pub high: f64,
}

impl Summary {
    /// `None` for no samples.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            low: quantile(&sorted, 0.25)?,
            median: quantile(&sorted, 0.5)?,
            high: quantile(&sorted, 0.75)?,
        })
    }

    /// The distance of the quartiles as a share of the median; 0 for a median of 0.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.high - self.low) / self.median.abs() }
    }
}

/// The value below which a share of ascending samples lies; between two samples, in proportion.
/// `None` for no samples.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = share.clamp(0.0, 1.0) * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let below = position.floor() as usize;
    let (low, high) = (*sorted.get(below)?, *sorted.get((below + 1).min(last))?);
    Some(low + (high - low) * position.fract())
}

/// The median; `None` for no samples.
#[must_use]
pub fn median(samples: &[f64]) -> Option<f64> {
    Some(Summary::of(samples)?.median)
}

/// The mean, for what comes in bursts that most samples miss; `None` for no samples.
#[must_use]
pub fn mean(samples: &[f64]) -> Option<f64> {
    (!samples.is_empty()).then(|| samples.iter().sum::<f64>() / samples.len() as f64)
}

/// Each sample over the one of the same round: what disturbs a machine for longer than a round
/// hits both. Pairs without a base are left out.
#[must_use]
pub fn ratios(samples: &[f64], bases: &[f64]) -> Vec<f64> {
    let pairs = samples.iter().zip(bases).filter(|&(_, &base)| base != 0.0);
    pairs.map(|(sample, base)| sample / base).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_samples_in_proportion() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[7.0], 0.99), Some(7.0));
        let samples = [0.0, 10.0, 20.0, 30.0, 40.0];
        assert_eq!(quantile(&samples, 0.0), Some(0.0));
        assert_eq!(quantile(&samples, 0.5), Some(20.0));
        assert_eq!(quantile(&samples, 0.625), Some(25.0));
        assert_eq!(quantile(&samples, 1.0), Some(40.0));
        assert_eq!(quantile(&samples, 2.0), Some(40.0));
    }

    #[test]
    fn a_summary_does_not_mind_order_or_an_outlier() {
        let summary = Summary::of(&[3.0, 1.0, 1_000.0, 2.0, 4.0]).unwrap();
        assert_eq!(summary, Summary { median: 3.0, low: 2.0, high: 4.0 });
        assert!((summary.spread() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[0.0, 0.0]).unwrap().spread(), 0.0);
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(median(&[1.0, 2.0, 3.0, 10.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_burst_shows_in_the_mean() {
        assert_eq!(mean(&[0.0, 0.0, 0.0, 0.4]), Some(0.1));
        assert_eq!(mean(&[]), None);
    }

    #[test]
    fn ratios_pair_samples_of_one_round() {
        // A machine that gets slower by half: the ratio stays.
        assert_eq!(ratios(&[80.0, 40.0], &[100.0, 50.0]), [0.8, 0.8]);
        assert_eq!(ratios(&[1.0, 2.0], &[0.0, 4.0]), [0.5]);
    }
}
