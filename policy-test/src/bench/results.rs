//! All samples of a run.
//!
//! Inputs: samples, in the order of the rounds. Outputs: summaries and ratios. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::bench::{
    contender::Kind,
    measure::Figure,
    statistics::{Summary, median, ratios},
};

/// By figure, contender and number of rules: a sample for each round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results(BTreeMap<(Figure, Kind, u32), Vec<f64>>);

impl Results {
    /// Adds the next round's sample.
    pub fn push(&mut self, figure: Figure, kind: Kind, rules: u32, sample: f64) {
        self.0.entry((figure, kind, rules)).or_default().push(sample);
    }

    /// The samples; none where nothing was measured.
    #[must_use]
    pub fn samples(&self, figure: Figure, kind: Kind, rules: u32) -> &[f64] {
        self.0.get(&(figure, kind, rules)).map_or(&[], Vec::as_slice)
    }

    /// The middle and the spread; `None` where nothing was measured.
    #[must_use]
    pub fn summary(&self, figure: Figure, kind: Kind, rules: u32) -> Option<Summary> {
        Summary::of(self.samples(figure, kind, rules))
    }

    /// How many times as much as another contender, round by round, and of that the median.
    #[must_use]
    pub fn ratio(&self, figure: Figure, kind: Kind, base: Kind, rules: u32) -> Option<f64> {
        let (samples, bases) =
            (self.samples(figure, kind, rules), self.samples(figure, base, rules));
        median(&ratios(samples, bases))
    }

    /// The numbers of rules that were measured, ascending.
    #[must_use]
    pub fn sizes(&self) -> Vec<u32> {
        let sizes: BTreeSet<u32> = self.0.keys().map(|(_, _, rules)| *rules).collect();
        sizes.into_iter().collect()
    }

    /// The contenders for which a figure was measured, in their order.
    #[must_use]
    pub fn contenders(&self, figure: Figure) -> Vec<Kind> {
        let measured =
            |kind: &Kind| self.0.keys().any(|(other, who, _)| *other == figure && who == kind);
        Kind::ALL.into_iter().filter(measured).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut results = Results::default();
        for (bare, fenced) in [(100.0, 90.0), (50.0, 46.0), (80.0, 72.0)] {
            results.push(Figure::Connects, Kind::NoPolicy, 1, bare);
            results.push(Figure::Connects, Kind::Palisade, 1, fenced);
        }
        let ratio = results.ratio(Figure::Connects, Kind::Palisade, Kind::NoPolicy, 1);
        assert_eq!(ratio, Some(0.9));
        assert_eq!(results.ratio(Figure::Connects, Kind::Palisade, Kind::NftablesSets, 1), None);
        assert_eq!(results.ratio(Figure::Connects, Kind::Palisade, Kind::NoPolicy, 100), None);
        let summary = results.summary(Figure::Connects, Kind::NoPolicy, 1).unwrap();
        assert_eq!(summary.median, 80.0);
    }

    #[test]
    fn contenders_are_those_of_the_figure() {
        let mut results = Results::default();
        results.push(Figure::Update, Kind::NftablesSets, 100, 1.0);
        results.push(Figure::Update, Kind::Palisade, 1, 1.0);
        results.push(Figure::Connects, Kind::NoPolicy, 1, 1.0);
        assert_eq!(results.contenders(Figure::Update), [Kind::Palisade, Kind::NftablesSets]);
        assert_eq!(results.sizes(), [1, 100]);
    }
}
