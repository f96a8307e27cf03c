//! Readings: what one end says to connections, and what four of them say together.
//!
//! In: the classes of the compiler. Out: [`Reading`]s, steps over (service, source port) with the
//! rule that decides; and from those of both ends before and after, the [`Shift`]s: what is opened
//! and what is cut, and at which end.

use std::collections::{BTreeMap, HashMap};

use policy_api::difference::Effect;
use policy_common::abi::{
    Interval, SOURCE_BASE, VERDICT_ALLOW, VERDICT_NESTED, VERDICT_RULE, source,
};

use crate::services::{SERVICES, SOURCE_PORTS, Services};

/// What decides at an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ruling {
    pub(super) allow: bool,
    /// Number of the rule in its model; `None` where nothing is enforced.
    pub(super) rule: Option<usize>,
}

/// From a service coordinate up to the next step's: rulings by source port, from one up to the
/// next one's. The first begins at 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Step {
    start: u32,
    rulings: Vec<(u32, Ruling)>,
}

/// What an end says. The first step begins at 0.
pub(super) type Reading = Vec<Step>;

fn always(ruling: Ruling) -> Reading {
    vec![Step { start: 0, rulings: vec![(0, ruling)] }]
}

/// Nothing is enforced.
pub(super) fn open() -> Reading {
    always(Ruling { allow: true, rule: None })
}

/// Everything is denied by one rule.
pub(super) fn deny(rule: usize) -> Reading {
    always(Ruling { allow: false, rule: Some(rule) })
}

/// A class of the compiler. What staged policies and Log rules say there does not matter.
pub(super) fn of_class(class: &[Interval]) -> Reading {
    let (line, blocks) = class.split_at(class.partition_point(|step| step.start < SOURCE_BASE));
    let ruling = |verdict: u32| Ruling {
        allow: verdict & VERDICT_ALLOW != 0,
        // Rules are numbered from 1.
        rule: ((verdict & VERDICT_RULE) as usize).checked_sub(1),
    };
    let block = |number: u32| {
        let first = source(number, 0);
        let from = blocks.partition_point(|step| step.start < first);
        let own = blocks[from..].iter().take_while(|step| step.start - first < SOURCE_PORTS);
        own.map(|step| (step.start - first, ruling(step.verdict))).collect()
    };
    let step = |step: &Interval| Step {
        start: step.start,
        rulings: if step.verdict & VERDICT_NESTED == 0 {
            vec![(0, ruling(step.verdict))]
        } else {
            block(step.verdict & VERDICT_RULE)
        },
    };
    line.iter().map(step).collect()
}

/// Numbers readings by what they allow, whatever the rules.
#[derive(Default)]
pub(super) struct AllowedNumbers(HashMap<Vec<AllowedStep>, usize>);

/// A step without its rules.
type AllowedStep = (u32, Vec<(u32, bool)>);

impl AllowedNumbers {
    pub(super) fn number(&mut self, reading: &Reading) -> usize {
        let mut steps: Vec<AllowedStep> = Vec::with_capacity(reading.len());
        for step in reading {
            let mut allowed: Vec<(u32, bool)> =
                step.rulings.iter().map(|(start, ruling)| (*start, ruling.allow)).collect();
            allowed.dedup_by_key(|(_, allow)| *allow);
            if steps.last().is_none_or(|(_, last)| *last != allowed) {
                steps.push((step.start, allowed));
            }
        }
        let next = self.0.len();
        *self.0.entry(steps).or_insert(next)
    }
}

/// The deciding rules of an end whose verdict changes, before and after.
pub(super) type Turn = (Option<usize>, Option<usize>);

/// Connections between two ends that change for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shift {
    pub(super) effect: Effect,
    /// At the source, if its verdict changes.
    pub(super) egress: Option<Turn>,
    /// At the destination.
    pub(super) ingress: Option<Turn>,
    /// Source ports, as `start..end`.
    pub(super) source_ports: Services,
    pub(super) services: Services,
}

/// What changes between two ends: readings of the source and of the destination, each before and
/// after.
pub(super) fn shifts(source: [&Reading; 2], destination: [&Reading; 2]) -> Vec<Shift> {
    type Reason = (Effect, Option<Turn>, Option<Turn>);
    type Ranges = Vec<(u32, u32)>;
    let all = [source[0], source[1], destination[0], destination[1]];
    // By reason and source ports.
    let mut found: BTreeMap<(Reason, Ranges), Ranges> = BTreeMap::new();
    let mut at = [0; 4];
    for (start, end) in pieces(all.iter().flat_map(|it| it.iter().map(|step| step.start)), SERVICES)
    {
        let rulings = [0, 1, 2, 3].map(|end| {
            let steps = all[end];
            while steps.get(at[end] + 1).is_some_and(|next| next.start <= start) {
                at[end] += 1;
            }
            steps.get(at[end]).map_or(&[][..], |step| step.rulings.as_slice())
        });
        let mut reasons: BTreeMap<Reason, Ranges> = BTreeMap::new();
        let starts = rulings.iter().flat_map(|it| it.iter().map(|(start, _)| *start));
        for (first, last) in pieces(starts, SOURCE_PORTS) {
            let [egress_before, egress_after, ingress_before, ingress_after] =
                rulings.map(|rulings| {
                    let after = rulings.partition_point(|(start, _)| *start <= first);
                    let found = after.checked_sub(1).and_then(|index| rulings.get(index));
                    found.map_or(Ruling { allow: false, rule: None }, |(_, ruling)| *ruling)
                });
            let before = egress_before.allow && ingress_before.allow;
            let effect = match (before, egress_after.allow && ingress_after.allow) {
                (false, true) => Effect::Opened,
                (true, false) => Effect::Cut,
                (true, true) | (false, false) => continue,
            };
            let turn = |before: Ruling, after: Ruling| {
                (before.allow != after.allow).then_some((before.rule, after.rule))
            };
            let reason =
                (effect, turn(egress_before, egress_after), turn(ingress_before, ingress_after));
            reasons.entry(reason).or_default().push((first, last));
        }
        for (reason, ports) in reasons {
            let ports = Services::union(ports).ranges().to_vec();
            found.entry((reason, ports)).or_default().push((start, end));
        }
    }
    let shift = |(((effect, egress, ingress), ports), services)| Shift {
        effect,
        egress,
        ingress,
        source_ports: Services::union(ports),
        services: Services::union(services),
    };
    found.into_iter().map(shift).collect()
}

/// The pieces into which `starts` divide what is below `end`.
fn pieces(starts: impl Iterator<Item = u32>, end: u32) -> Vec<(u32, u32)> {
    let mut starts: Vec<u32> = starts.collect();
    starts.sort_unstable();
    starts.dedup();
    let ends: Vec<u32> = starts.iter().copied().skip(1).chain([end]).collect();
    starts.into_iter().zip(ends).collect()
}
