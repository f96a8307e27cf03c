//! Totals of who is gone: interfaces that went, rules and peers whose number another may get.
//!
//! They stay for a while, so that nothing is lost between two scrapes, and are then forgotten: what comes
//! and goes must not fill a Prometheus. They do not join the rest, whose sum would rise by what was
//! counted long ago.

use std::{
    collections::BTreeMap,
    ops::AddAssign,
    time::{Duration, SystemTime},
};

use policy_common::abi::Counter;
use serde::{Deserialize, Serialize};

use super::series::{Bounded, DropSeries, Series};
use crate::flows::Passed;

/// What is kept on disk: drops (packets, bytes), and flows that began; and when each was counted last, seconds
/// since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    drops: Vec<(DropSeries, u64, u64, u64)>,
    flows: Vec<(Series, u64, u64)>,
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
        for (series, packets, bytes, changed) in kept.drops {
            retired.drops.add_at(series, Counter { packets, bytes }, time(changed));
        }
        for (series, flows, changed) in kept.flows {
            retired.flows.add_at(series, flows, time(changed));
        }
        retired.expire(SystemTime::now());
        retired
    }

    pub(super) fn kept(&self) -> Kept {
        let drops = self.drops.sums.iter().map(|(series, (counter, changed))| {
            (series.clone(), counter.packets, counter.bytes, seconds(*changed))
        });
        let flows = self.flows.sums.iter();
        let flows = flows.map(|(series, (flows, at))| (series.clone(), *flows, seconds(*at)));
        Kept { drops: drops.collect(), flows: flows.collect() }
    }

    /// Forgets who has been gone for long.
    pub(super) fn expire(&mut self, now: SystemTime) {
        self.drops.expire(now);
        self.flows.expire(now);
        self.traffic.expire(now);
    }
}

fn time(seconds: u64) -> SystemTime {
    let since = Duration::from_secs(seconds);
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or_else(SystemTime::now)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
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
    sums: BTreeMap<S, (V, SystemTime)>,
}

impl<S: Bounded, V: AddAssign + Copy + Default> Totals<S, V> {
    fn new(bounds: Bounds) -> Self {
        Totals { bounds, sums: BTreeMap::new() }
    }

    /// Who is gone may have half of the series: the rest is for who is there.
    pub(super) fn add(&mut self, series: S, value: V) {
        self.add_at(series, value, SystemTime::now());
    }

    fn add_at(&mut self, series: S, value: V, now: SystemTime) {
        let room = self.sums.len() < self.bounds.series / 2;
        let series = if room || self.sums.contains_key(&series) { series } else { series.other() };
        let (sum, changed) = self.sums.entry(series).or_insert_with(|| (V::default(), now));
        *sum += value;
        *changed = now;
    }

    fn expire(&mut self, now: SystemTime) {
        let expiry = self.bounds.expiry;
        // A clock that has been put back makes nothing older.
        self.sums.retain(|series, (_, changed)| {
            *series == series.other() || now.duration_since(*changed).unwrap_or_default() <= expiry
        });
    }

    /// Sums of who is gone and who is there, bounded. What was counted of one that is there again stays for as
    /// long as that one does: a counter must not fall.
    pub(super) fn with_live(&mut self, live: impl Iterator<Item = (S, V)>) -> BTreeMap<S, V>
    where
        S: Clone,
    {
        let now = SystemTime::now();
        let mut totals: BTreeMap<S, V> =
            self.sums.iter().map(|(series, (value, _))| (series.clone(), *value)).collect();
        for (series, value) in live {
            let room = totals.len() < self.bounds.series;
            let series = if room || totals.contains_key(&series) { series } else { series.other() };
            if let Some((_, changed)) = self.sums.get_mut(&series) {
                *changed = now;
            }
            *totals.entry(series).or_default() += value;
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { series: 10, expiry: Duration::from_secs(60) };

    fn series(port: u32) -> Series {
        Series { port: port.to_string(), ..Series::default() }
    }

    fn sums(totals: &Totals<Series, u64>) -> Vec<(&Series, u64)> {
        totals.sums.iter().map(|(series, (sum, _))| (series, *sum)).collect()
    }

    #[test]
    fn series_over_the_limit_are_summed_and_none_is_lost() {
        let mut retired = Totals::new(BOUNDS);
        for port in 0..100 {
            retired.add(series(port), 2_u64);
        }
        retired.add(series(0), 2);
        assert_eq!(retired.sums.len(), 6);
        let totals = retired.with_live((0..100).map(|port| (series(port), 1)));
        assert_eq!(totals.len(), 10);
        assert_eq!(totals[&series(0)], 5);
        assert_eq!(totals.values().sum::<u64>(), 302);
        assert!(totals[&Series::rest()] > 200);
    }

    #[test]
    fn who_is_gone_for_long_is_forgotten_and_the_rest_never() {
        let mut retired = Totals::new(BOUNDS);
        retired.add(series(1), 3_u64);
        retired.add(Series::rest(), 4);
        let now = SystemTime::now();
        retired.expire(now + BOUNDS.expiry / 2);
        assert_eq!(retired.sums.len(), 2);
        retired.expire(now - BOUNDS.expiry * 10);
        assert_eq!(retired.sums.len(), 2, "a clock that was put back");
        retired.expire(now + BOUNDS.expiry * 2);
        assert_eq!(sums(&retired), [(&Series::rest(), 4)]);
    }

    /// A container that is made anew under its name goes on with the counter of the one before it.
    #[test]
    fn a_counter_that_goes_on_does_not_fall() {
        let mut retired = Totals::new(BOUNDS);
        let long_ago = SystemTime::now() - BOUNDS.expiry * 3;
        retired.add_at(series(1), 3_u64, long_ago);
        retired.add_at(series(2), 5, long_ago);
        let live = || [(series(1), 10)].into_iter();
        assert_eq!(retired.with_live(live())[&series(1)], 13);
        retired.expire(SystemTime::now());
        assert_eq!(sums(&retired), [(&series(1), 3)]);
        assert_eq!(retired.with_live(live())[&series(1)], 13);
    }

    #[test]
    fn what_was_forgotten_does_not_come_back_with_the_next_agent() {
        let mut retired = Retired::of(Kept::default(), BOUNDS);
        retired.flows.add_at(series(1), 7, SystemTime::now() - BOUNDS.expiry * 3);
        retired.flows.add(series(2), 8);
        let again = Retired::of(retired.kept(), BOUNDS);
        assert_eq!(sums(&again.flows), [(&series(2), 8)]);
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
