//! What the figures are to be, and whether they are.
//!
//! Inputs: results. Outputs: a line for each goal, met or missed. Pure.

use crate::bench::{
    contender::Kind,
    datapath::{self, World},
    measure::Figure,
    results::Results,
    statistics::mean,
};

/// TCP throughput over that without policy.
const THROUGHPUT: f64 = 0.97;
/// TCP connect rate over that without policy.
const CONNECTS: f64 = 0.93;
/// Small packets over those of nftables' linear rules, and with how many of them.
const OVER_LINEAR: f64 = 5.0;
const LINEAR_RULES: u32 = 1_000;
/// CPUs of the agent under a flood.
const AGENT: f64 = 0.05;
/// How far the cost of a packet may differ between worlds.
const FLAT: f64 = 0.10;

/// One goal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    /// What is to be.
    pub wanted: String,
    /// What is; the worst of all numbers of rules.
    pub seen: String,
    /// Whether that is enough.
    pub met: bool,
}

/// Every goal that something was measured for.
#[must_use]
pub fn all(results: &Results, worlds: &[World], uplink: &[World]) -> Vec<Goal> {
    let ends = [Kind::Palisade, Kind::PalisadeTwice];
    let mut goals: Vec<Goal> =
        ends.into_iter().flat_map(|kind| of_contender(results, kind)).collect();
    goals.extend(of_programs(worlds, true));
    // Its goal is for the largest list; smaller ones may be quicker.
    goals.extend(of_programs(uplink, false));
    goals
}

fn of_contender(results: &Results, kind: Kind) -> Vec<Goal> {
    let at_least = |figure, base: Kind, wanted: f64, sizes: &[u32], what: &str| {
        let ratio = |&rules: &u32| Some((results.ratio(figure, kind, base, rules)?, rules));
        let (worst, rules) =
            sizes.iter().filter_map(ratio).min_by(|(one, _), (other, _)| one.total_cmp(other))?;
        Some(Goal {
            wanted: format!(
                "{}: {what} at least {wanted} times that of {}",
                kind.name(),
                base.name()
            ),
            seen: format!("{worst:.3} times at {}", count(rules)),
            met: worst >= wanted,
        })
    };
    let sizes = results.sizes();
    let goals = [
        at_least(Figure::Throughput, Kind::NoPolicy, THROUGHPUT, &sizes, "TCP throughput"),
        at_least(Figure::Connects, Kind::NoPolicy, CONNECTS, &sizes, "TCP connect rate"),
        at_least(Figure::Connects, Kind::NftablesSets, 1.0, &sizes, "TCP connect rate"),
        at_least(
            Figure::OneWayPackets,
            Kind::NftablesLinear,
            OVER_LINEAR,
            &[LINEAR_RULES],
            "small packets, one way,",
        ),
        agent(results, kind),
        uncounted(results, kind),
    ];
    goals.into_iter().flatten().collect()
}

fn agent(results: &Results, kind: Kind) -> Option<Goal> {
    let share = |rules| Some((mean(results.samples(Figure::FloodAgent, kind, rules))?, rules));
    let (worst, rules) = results
        .sizes()
        .into_iter()
        .filter_map(share)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    Some(Goal {
        wanted: format!(
            "{}: a denied flood costs the agent under {:.0} % of a core",
            kind.name(),
            AGENT * 100.0
        ),
        seen: format!("{:.1} % at {}, in the mean", worst * 100.0, count(rules)),
        met: worst < AGENT,
    })
}

fn uncounted(results: &Results, kind: Kind) -> Option<Goal> {
    let samples: Vec<f64> = results
        .sizes()
        .into_iter()
        .flat_map(|rules| results.samples(Figure::FloodUncounted, kind, rules).to_vec())
        .collect();
    if samples.is_empty() {
        return None;
    }
    let uncounted: f64 = samples.iter().sum();
    Some(Goal {
        wanted: format!("{}: a denied flood is counted to the packet", kind.name()),
        seen: format!("{uncounted} packets off in {} floods", samples.len()),
        met: uncounted == 0.0,
    })
}

fn of_programs(worlds: &[World], flat: bool) -> Vec<Goal> {
    let mut goals = Vec::new();
    for name in datapath::budgeted(worlds) {
        let costs: Vec<(f64, &World)> =
            worlds.iter().filter_map(|world| Some((world.cost(name)?, world))).collect();
        let by_cost = |one: &&(f64, &World), other: &&(f64, &World)| one.0.total_cmp(&other.0);
        let (Some((least, _)), Some((most, at)), Some(budget)) = (
            costs.iter().min_by(by_cost),
            costs.iter().max_by(by_cost),
            worlds.first().and_then(|world| world.budget(name)),
        ) else {
            continue;
        };
        goals.push(Goal {
            wanted: format!("{name}: at most {budget} ns over an empty program"),
            seen: format!("{most:.0} ns at {}", at.title()),
            met: *most <= f64::from(budget),
        });
        if !flat {
            continue;
        }
        let difference = (most - least) / least;
        goals.push(Goal {
            wanted: format!("{name}: flat within {:.0} %", FLAT * 100.0),
            seen: format!("{least:.0} to {most:.0} ns, {:.0} %", difference * 100.0),
            met: difference <= FLAT,
        });
    }
    goals
}

/// A number of rules in words.
pub(super) fn count(rules: u32) -> String {
    if rules == 1 { "1 rule".to_owned() } else { format!("{rules} rules") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::datapath::Cost;

    fn of(results: &Results, what: &str) -> Goal {
        let goals = all(results, &[], &[]);
        goals.into_iter().find(|goal| goal.wanted.contains(what)).unwrap()
    }

    #[test]
    fn a_ratio_is_judged_where_it_is_worst() {
        let mut results = Results::default();
        for (rules, fenced) in [(1, 99.0), (10_000, 96.0)] {
            results.push(Figure::Throughput, Kind::NoPolicy, rules, 100.0);
            results.push(Figure::Throughput, Kind::Palisade, rules, fenced);
        }
        let goal = of(&results, "throughput");
        assert!(!goal.met);
        assert_eq!(goal.seen, "0.960 times at 10000 rules");
        assert_eq!(all(&results, &[], &[]).len(), 1, "what was not measured is not judged");
    }

    #[test]
    fn linear_rules_are_compared_at_a_thousand_only() {
        let mut results = Results::default();
        for (rules, linear) in [(1, 50.0), (1_000, 10.0)] {
            results.push(Figure::OneWayPackets, Kind::NftablesLinear, rules, linear);
            results.push(Figure::OneWayPackets, Kind::Palisade, rules, 51.0);
        }
        let goal = of(&results, "small packets");
        assert!(goal.met);
        assert_eq!(goal.seen, "5.100 times at 1000 rules");
    }

    #[test]
    fn one_packet_in_any_round_is_a_miss() {
        let mut results = Results::default();
        for off in [0.0, 0.0, 1.0] {
            results.push(Figure::FloodUncounted, Kind::Palisade, 1, off);
            results.push(Figure::FloodAgent, Kind::Palisade, 1, 0.049);
        }
        assert!(!of(&results, "to the packet").met);
        assert!(of(&results, "of a core").met);
    }

    #[test]
    fn a_program_is_held_to_its_budget_and_to_being_flat() {
        let world = |rules, nanos| World {
            size: vec![(rules, "rules")],
            costs: vec![Cost { name: "denied", budget: Some(200), nanos }],
        };
        let goals = all(&Results::default(), &[world(1, 180.0), world(50_000, 199.0)], &[]);
        assert_eq!(goals.iter().map(|goal| goal.met).collect::<Vec<_>>(), [true, false]);
        let goals = all(&Results::default(), &[world(1, 195.0), world(50_000, 201.0)], &[]);
        assert_eq!(goals.iter().map(|goal| goal.met).collect::<Vec<_>>(), [false, true]);
        let goals = all(&Results::default(), &[], &[world(10, 40.0), world(1_000_000, 201.0)]);
        assert_eq!(goals.iter().map(|goal| goal.met).collect::<Vec<_>>(), [false]);
    }
}
