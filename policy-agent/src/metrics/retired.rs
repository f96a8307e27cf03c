//! Totals of who is gone: interfaces that went, rules and peers whose number another may get.
//!
//! They stay for a while, so that nothing is lost between two scrapes, and are then forgotten: what comes
//! and goes must not fill a Prometheus. They do not join the rest, whose sum would rise by what was
//! counted long ago.

use std::{
    collections::BTreeMap,
    ops::AddAssign,
    time::{Duration, Instant},
};

use policy_common::abi::Counter;
use serde::{Deserialize, Serialize};

use super::series::{Bounded, DropSeries, Series};
use crate::flows::Passed;

/// What is kept on disk: drops (packets, bytes), and flows that began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    drops: Vec<(DropSeries, u64, u64)>,
    flows: Vec<(Series, u64)>,
}

/// Totals of all that is gone.
#[derive(Debug)]
pub(super) struct Retired {
    pub(super) drops: Totals<DropSeries, Counter>,
    pub(super) flows: Totals<Series, u64>,
    /// Since the agent started, as the live ones are.
    pub(super) traffic: Totals<Series, Passed>,
}

impl Retired {
    pub(super) fn of(kept: Kept, bounds: Bounds) -> Retired {
        let mut retired = Retired {
            drops: Totals::new(bounds),
            flows: Totals::new(bounds),
            traffic: Totals::new(bounds),
        };
        for (series, packets, bytes) in kept.drops {
            retired.drops.add(series, Counter { packets, bytes });
        }
        for (series, flows) in kept.flows {
            retired.flows.add(series, flows);
        }
        retired
    }

    pub(super) fn kept(&self) -> Kept {
        let drops = self.drops.sums().map(|(series, c)| (series.clone(), c.packets, c.bytes));
        let flows = self.flows.sums().map(|(series, flows)| (series.clone(), flows));
        Kept { drops: drops.collect(), flows: flows.collect() }
    }

    /// Forgets who has been gone for long.
    pub(super) fn expire(&mut self, now: Instant) {
        self.drops.expire(now);
        self.flows.expire(now);
        self.traffic.expire(now);
    }
}

/// How many series are told apart, and how long those that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Series of one metric.
    pub series: usize,
    /// For so long a series of who is gone stays.
    pub expiry: Duration,
}

/// Sums by series.
#[derive(Debug)]
pub(super) struct Totals<S, V> {
    bounds: Bounds,
    sums: BTreeMap<S, (V, Instant)>,
}

impl<S: Bounded, V: AddAssign + Copy + Default> Totals<S, V> {
    fn new(bounds: Bounds) -> Self {
        Totals { bounds, sums: BTreeMap::new() }
    }

    /// Who is gone may have half of the series: the rest is for who is there.
    pub(super) fn add(&mut self, series: S, value: V) {
        let room = self.sums.len() < self.bounds.series / 2;
        let series = if room || self.sums.contains_key(&series) { series } else { series.other() };
        let now = Instant::now();
        let (sum, changed) = self.sums.entry(series).or_insert_with(|| (V::default(), now));
        *sum += value;
        *changed = now;
    }

    fn expire(&mut self, now: Instant) {
        let expiry = self.bounds.expiry;
        self.sums.retain(|series, (_, changed)| {
            *series == series.other() || now.saturating_duration_since(*changed) <= expiry
        });
    }

    pub(super) fn sums(&self) -> impl Iterator<Item = (&S, V)> {
        self.sums.iter().map(|(series, (value, _))| (series, *value))
    }
}

/// Sums by series of who is gone and who is there, bounded.
pub(super) fn with_live<S: Bounded + Clone, V: AddAssign + Copy + Default>(
    retired: &Totals<S, V>,
    live: impl Iterator<Item = (S, V)>,
) -> BTreeMap<S, V> {
    let mut totals: BTreeMap<S, V> =
        retired.sums().map(|(series, value)| (series.clone(), value)).collect();
    for (series, value) in live {
        let room = totals.len() < retired.bounds.series;
        let series = if room || totals.contains_key(&series) { series } else { series.other() };
        *totals.entry(series).or_default() += value;
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { series: 10, expiry: Duration::from_secs(60) };

    fn series(port: u32) -> Series {
        Series { port: port.to_string(), ..Series::default() }
    }

    #[test]
    fn series_over_the_limit_are_summed_and_none_is_lost() {
        let mut retired = Totals::new(BOUNDS);
        for port in 0..100 {
            retired.add(series(port), 2_u64);
        }
        retired.add(series(0), 2);
        assert_eq!(retired.sums().count(), 6);
        let live = (0..100).map(|port| (series(port), 1));
        let totals = with_live(&retired, live);
        assert_eq!(totals.len(), 10 + 1 - 1);
        assert_eq!(totals[&series(0)], 5);
        assert_eq!(totals.values().sum::<u64>(), 302);
        assert!(totals[&Series::rest()] > 200);
    }

    #[test]
    fn who_is_gone_for_long_is_forgotten_and_the_rest_never() {
        let mut retired = Totals::new(BOUNDS);
        retired.add(series(1), 3_u64);
        retired.add(Series::rest(), 4);
        let now = Instant::now();
        retired.expire(now + BOUNDS.expiry / 2);
        assert_eq!(retired.sums().count(), 2);
        retired.expire(now + BOUNDS.expiry * 2);
        assert_eq!(retired.sums().collect::<Vec<_>>(), [(&Series::rest(), 4)]);
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let mut retired = Retired::of(Kept::default(), BOUNDS);
        let drops = DropSeries { reason: "policy".to_owned(), series: series(1) };
        retired.drops.add(drops, Counter { packets: 2, bytes: 120 });
        retired.flows.add(series(2), 7);
        let text = serde_json::to_string(&retired.kept()).unwrap();
        let again: Kept = serde_json::from_str(&text).unwrap();
        assert_eq!(Retired::of(again, BOUNDS).kept(), retired.kept());
    }
}
