//! First match wins, over all services at once.
//!
//! In: the services of each matching rule, in order, tier by tier. Out: the class: sorted
//! intervals with one verdict each. Each coordinate is painted once, so the cost is that of the
//! ranges, not of ranges times rules.

use std::collections::BTreeMap;

use policy_common::abi::Interval;

use crate::services::{SERVICES, Services};

/// Ranges by start, disjoint.
type Ranges = BTreeMap<u32, u32>;

/// What has been decided so far.
pub(crate) struct Canvas {
    /// Not decided in this tier yet.
    undecided: Ranges,
    /// Passed on to the next tier.
    passed: Ranges,
    painted: Vec<Interval>,
}

impl Canvas {
    /// Nothing is decided.
    pub(crate) fn new() -> Canvas {
        Canvas {
            undecided: BTreeMap::from([(0, SERVICES)]),
            passed: Ranges::new(),
            painted: Vec::new(),
        }
    }

    /// Whether later rules of this tier can have no effect.
    pub(crate) fn tier_is_decided(&self) -> bool {
        self.undecided.is_empty()
    }

    /// Decides what is still undecided among `services`.
    pub(crate) fn decide(&mut self, services: &Services, verdict: u32) {
        for &(start, end) in services.ranges() {
            let painted = &mut self.painted;
            take(&mut self.undecided, start, end, |start, _| {
                painted.push(Interval { start, verdict });
            });
        }
    }

    /// Hands what is still undecided among `services` to the next tier.
    pub(crate) fn pass(&mut self, services: &Services) {
        for &(start, end) in services.ranges() {
            let passed = &mut self.passed;
            take(&mut self.undecided, start, end, |start, end| {
                passed.insert(start, end);
            });
        }
    }

    /// Goes on to the next tier with what has been passed to it.
    pub(crate) fn end_tier(&mut self) {
        self.undecided = std::mem::take(&mut self.passed);
    }

    /// The class. Everything has to be decided.
    pub(crate) fn finish(mut self) -> Vec<Interval> {
        // The pieces cover everything without overlap, so where one ends the next one starts.
        self.painted.sort_unstable();
        self.painted.dedup_by_key(|interval| interval.verdict);
        self.painted
    }
}

/// Removes `from..to` from `ranges`, telling `each` the pieces that were there.
fn take(ranges: &mut Ranges, from: u32, to: u32, mut each: impl FnMut(u32, u32)) {
    while let Some((&start, &end)) = ranges.range(..to).next_back() {
        if end <= from {
            break;
        }
        ranges.remove(&start);
        if to < end {
            ranges.insert(to, end);
        }
        if start < from {
            ranges.insert(start, from);
        }
        each(start.max(from), end.min(to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(ranges: &[(u32, u32)]) -> Services {
        Services::union(ranges.to_vec())
    }

    fn class(canvas: Canvas) -> Vec<(u32, u32)> {
        canvas.finish().into_iter().map(|interval| (interval.start, interval.verdict)).collect()
    }

    #[test]
    fn the_first_rule_wins_and_equal_neighbours_are_one() {
        let mut canvas = Canvas::new();
        canvas.decide(&services(&[(10, 20)]), 1);
        canvas.decide(&services(&[(15, 30), (40, 50)]), 2);
        canvas.decide(&services(&[(30, 35)]), 2);
        canvas.decide(&Services::all(), 3);
        assert!(canvas.tier_is_decided());
        assert_eq!(class(canvas), [(0, 3), (10, 1), (20, 2), (35, 3), (40, 2), (50, 3)]);
    }

    #[test]
    fn what_is_passed_is_decided_by_the_next_tier() {
        let mut canvas = Canvas::new();
        canvas.pass(&services(&[(10, 20)]));
        canvas.decide(&Services::all(), 1);
        canvas.end_tier();
        canvas.decide(&services(&[(0, 15)]), 2);
        canvas.decide(&Services::all(), 3);
        assert_eq!(class(canvas), [(0, 1), (10, 2), (15, 3), (20, 1)]);
    }
}
