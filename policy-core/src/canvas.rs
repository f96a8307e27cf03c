//! First match wins, over a whole line of coordinates at once.
//!
//! In: the coordinates of each matching rule, in order, tier by tier. Out: the line, cut into
//! pieces of one verdict each. Each coordinate is painted once, so the cost is that of the
//! ranges, not of ranges times rules.

use std::collections::BTreeMap;

use crate::services::Services;

/// What a piece of the line says, from `start` up to the next piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Piece {
    /// First coordinate.
    pub(crate) start: u32,
    /// Verdict word.
    pub(crate) verdict: u32,
    /// The Log rules that were passed before, as [`LogLists`] numbers them; 0: none.
    pub(crate) log: u32,
}

/// Lists of Log rules, numbered from 1.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogLists {
    /// Each list, as rule numbers in the order of the walk.
    lists: Vec<Vec<u32>>,
    index: BTreeMap<Vec<u32>, u32>,
}

impl LogLists {
    /// The list `before` with one more rule at its end.
    pub(crate) fn extended(&mut self, before: u32, rule: u32) -> u32 {
        let mut list = self.get(before).to_vec();
        list.push(rule);
        let lists = &mut self.lists;
        *self.index.entry(list).or_insert_with_key(|list| {
            lists.push(list.clone());
            u32::try_from(lists.len()).unwrap_or(u32::MAX)
        })
    }

    /// The rules of a list; none for 0.
    pub(crate) fn get(&self, list: u32) -> &[u32] {
        let at = (list as usize).checked_sub(1);
        at.and_then(|at| self.lists.get(at)).map_or(&[], Vec::as_slice)
    }

    /// The number of a list.
    pub(crate) fn find(&self, list: &[u32]) -> Option<u32> {
        self.index.get(list).copied()
    }

    /// How many lists there are.
    pub(crate) fn len(&self) -> usize {
        self.lists.len()
    }
}

/// Ranges by start, disjoint: end, and the Log rules so far.
type Ranges = BTreeMap<u32, (u32, u32)>;

/// What has been decided so far.
pub(crate) struct Canvas {
    /// Not decided in this tier yet.
    undecided: Ranges,
    /// Passed on to the next tier.
    passed: Ranges,
    painted: Vec<Piece>,
}

impl Canvas {
    /// A line of the coordinates below `end`, on which nothing is decided.
    pub(crate) fn new(end: u32) -> Canvas {
        Canvas {
            undecided: BTreeMap::from([(0, (end, 0))]),
            passed: Ranges::new(),
            painted: Vec::new(),
        }
    }

    /// Whether later rules of this tier can have no effect.
    pub(crate) fn tier_is_decided(&self) -> bool {
        self.undecided.is_empty()
    }

    /// Decides what is still undecided among `coordinates`.
    pub(crate) fn decide(&mut self, coordinates: &Services, verdict: u32) {
        for &(start, end) in coordinates.ranges() {
            let painted = &mut self.painted;
            take(&mut self.undecided, start, end, |start, _, log| {
                painted.push(Piece { start, verdict, log });
            });
        }
    }

    /// Hands what is still undecided among `coordinates` to the next tier.
    pub(crate) fn pass(&mut self, coordinates: &Services) {
        for &(start, end) in coordinates.ranges() {
            let passed = &mut self.passed;
            take(&mut self.undecided, start, end, |start, end, log| {
                passed.insert(start, (end, log));
            });
        }
    }

    /// Notes a Log rule on what is still undecided among `coordinates`, which stays undecided.
    pub(crate) fn log(&mut self, coordinates: &Services, rule: u32, lists: &mut LogLists) {
        for &(start, end) in coordinates.ranges() {
            let mut noted = Vec::new();
            take(&mut self.undecided, start, end, |start, end, log| {
                noted.push((start, (end, lists.extended(log, rule))));
            });
            self.undecided.extend(noted);
        }
    }

    /// Goes on to the next tier with what has been passed to it.
    pub(crate) fn end_tier(&mut self) {
        self.undecided = std::mem::take(&mut self.passed);
    }

    /// The pieces, sorted; equal neighbours are one. Everything has to be decided.
    pub(crate) fn finish(mut self) -> Vec<Piece> {
        // The pieces cover everything without overlap, so where one ends the next one starts.
        self.painted.sort_unstable();
        self.painted.dedup_by_key(|piece| (piece.verdict, piece.log));
        self.painted
    }
}

/// Removes `from..to` from `ranges`, telling `each` the pieces that were there.
fn take(ranges: &mut Ranges, from: u32, to: u32, mut each: impl FnMut(u32, u32, u32)) {
    while let Some((&start, &(end, log))) = ranges.range(..to).next_back() {
        if end <= from {
            break;
        }
        ranges.remove(&start);
        if to < end {
            ranges.insert(to, (end, log));
        }
        if start < from {
            ranges.insert(start, (from, log));
        }
        each(start.max(from), end.min(to), log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::SERVICES;

    fn services(ranges: &[(u32, u32)]) -> Services {
        Services::union(ranges.to_vec())
    }

    fn pieces(canvas: Canvas) -> Vec<(u32, u32)> {
        canvas.finish().into_iter().map(|piece| (piece.start, piece.verdict)).collect()
    }

    #[test]
    fn the_first_rule_wins_and_equal_neighbours_are_one() {
        let mut canvas = Canvas::new(SERVICES);
        canvas.decide(&services(&[(10, 20)]), 1);
        canvas.decide(&services(&[(15, 30), (40, 50)]), 2);
        canvas.decide(&services(&[(30, 35)]), 2);
        canvas.decide(&Services::all(), 3);
        assert!(canvas.tier_is_decided());
        assert_eq!(pieces(canvas), [(0, 3), (10, 1), (20, 2), (35, 3), (40, 2), (50, 3)]);
    }

    #[test]
    fn what_is_passed_is_decided_by_the_next_tier() {
        let mut canvas = Canvas::new(SERVICES);
        canvas.pass(&services(&[(10, 20)]));
        canvas.decide(&Services::all(), 1);
        canvas.end_tier();
        canvas.decide(&services(&[(0, 15)]), 2);
        canvas.decide(&Services::all(), 3);
        assert_eq!(pieces(canvas), [(0, 1), (10, 2), (15, 3), (20, 1)]);
    }

    #[test]
    fn log_rules_are_noted_in_order_until_something_decides_and_across_tiers() {
        let mut lists = LogLists::default();
        let mut canvas = Canvas::new(SERVICES);
        canvas.decide(&services(&[(0, 10)]), 1);
        canvas.log(&services(&[(5, 30)]), 7, &mut lists);
        canvas.log(&services(&[(20, 40)]), 8, &mut lists);
        canvas.pass(&Services::all());
        canvas.end_tier();
        canvas.log(&services(&[(25, 30)]), 7, &mut lists);
        canvas.decide(&Services::all(), 2);
        let found: Vec<_> = canvas
            .finish()
            .into_iter()
            .map(|piece| (piece.start, piece.verdict, lists.get(piece.log).to_vec()))
            .collect();
        let expected = [
            (0, 1, vec![]),
            (10, 2, vec![7]),
            (20, 2, vec![7, 8]),
            (25, 2, vec![7, 8, 7]),
            (30, 2, vec![8]),
            (40, 2, vec![]),
        ];
        assert_eq!(found, expected);
    }
}
