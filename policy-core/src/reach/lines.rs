//! What changes, as people read it.
//!
//! In: a `Comparison`. Out: [`ConnectionChange`]s. Endpoints become workloads, families that say
//! the same become one entry, and there is a bound to how much is told.

use std::collections::{BTreeMap, BTreeSet};

use policy_api::difference::{ConnectionChange, End, Reason};
use policy_common::abi::Family;

use super::{
    Comparison, MAX_CONNECTIONS, MAX_ENDS,
    compiled::Compiled,
    ends::Member,
    readings::{Shift, Turn},
    wording,
};
use crate::model::{EndpointId, EndpointSpec, Model};

/// The entries, and how many more there would be.
pub(super) fn lines(
    models: [&Model; 2],
    compiled: &[Compiled; 2],
    comparison: &Comparison<'_>,
) -> (Vec<ConnectionChange>, usize) {
    let names = Names::new(models[1], comparison);
    let mut lines: [BTreeSet<ConnectionChange>; 2] = Default::default();
    let (mut ends, mut left_out) = (0, 0);
    for block in &comparison.blocks {
        let Some(first) = block.sources.first() else { continue };
        if lines[0].len() + lines[1].len() >= MAX_CONNECTIONS || ends > MAX_ENDS {
            left_out += 1;
            continue;
        }
        let family = comparison.groups[*first].key.family;
        let sources = names.ends(family, &block.sources);
        let destinations = names.ends(family, &block.destinations);
        if one_workload(&sources).is_some_and(|it| one_workload(&destinations) == Some(it)) {
            continue;
        }
        ends += sources.len() + destinations.len();
        let shift = &comparison.shifts[block.shift];
        lines[family as usize].insert(ConnectionChange {
            effect: shift.effect,
            sources,
            destinations,
            families: vec![name(family).to_owned()],
            services: wording::services(&shift.services),
            source_ports: wording::source_ports(&shift.source_ports),
            reasons: reasons(compiled, shift),
        });
    }
    (joined(lines, &names), left_out)
}

const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Makes one entry of two that say the same of both families. Who has no address of a family
/// makes no difference there.
fn joined(lines: [BTreeSet<ConnectionChange>; 2], names: &Names<'_>) -> Vec<ConnectionChange> {
    let [v4, v6] = lines;
    let all = names.ends_of_both();
    let in_both = |line: &ConnectionChange| {
        let common = |ends: &[End]| -> Vec<End> {
            ends.iter().filter(|end| all.contains(end)).cloned().collect()
        };
        let (sources, destinations) = (common(&line.sources), common(&line.destinations));
        let families = Vec::new();
        (!sources.is_empty() && !destinations.is_empty()).then(|| ConnectionChange {
            sources,
            destinations,
            families,
            ..line.clone()
        })
    };
    // By what is said of the ends that have both families.
    let mut counterparts: BTreeMap<ConnectionChange, Vec<ConnectionChange>> = BTreeMap::new();
    let mut joined = BTreeSet::new();
    for line in v6 {
        match in_both(&line) {
            Some(common) => counterparts.entry(common).or_default().push(line),
            None => {
                joined.insert(line);
            }
        }
    }
    for line in v4 {
        let other = in_both(&line).and_then(|common| counterparts.get_mut(&common)?.pop());
        joined.insert(match other {
            Some(other) => ConnectionChange {
                sources: union(line.sources, other.sources),
                destinations: union(line.destinations, other.destinations),
                families: [line.families, other.families].concat(),
                ..other
            },
            None => line,
        });
    }
    joined.extend(counterparts.into_values().flatten());
    joined.into_iter().collect()
}

fn union(some: Vec<End>, others: Vec<End>) -> Vec<End> {
    some.into_iter().chain(others).collect::<BTreeSet<End>>().into_iter().collect()
}

/// The workload that is all of one side: what it says to itself does not leave it, whatever the
/// networks.
fn one_workload(ends: &[End]) -> Option<(&str, &str)> {
    match ends {
        [End::Endpoint { namespace, name, .. }] => Some((namespace, name)),
        _ => None,
    }
}

fn reasons(compiled: &[Compiled; 2], shift: &Shift) -> Vec<Reason> {
    let reason = |at: &str, (before, after): Turn| {
        let uplink = |side: usize, rule: Option<usize>| {
            rule.is_some_and(|rule| compiled[side].is_block(rule))
        };
        let at = if uplink(0, before) || uplink(1, after) { "uplink" } else { at };
        let name = |side: usize, rule: Option<usize>| compiled[side].rule(rule?).cloned();
        Reason { at: at.to_owned(), before: name(0, before), after: name(1, after) }
    };
    let egress = shift.egress.map(|turn| reason("egress", turn));
    egress.into_iter().chain(shift.ingress.map(|turn| reason("ingress", turn))).collect()
}

/// Who is who.
struct Names<'a> {
    model: &'a Model,
    comparison: &'a Comparison<'a>,
    /// Endpoints of each workload, by family.
    endpoints: [BTreeMap<(&'a str, &'a str), BTreeSet<&'a EndpointId>>; 2],
}

impl<'a> Names<'a> {
    fn new(model: &'a Model, comparison: &'a Comparison<'a>) -> Names<'a> {
        let mut names = Names { model, comparison, endpoints: Default::default() };
        for group in comparison.groups {
            for member in &group.members {
                if let Some((id, spec)) = names.endpoint(member) {
                    let workloads = &mut names.endpoints[group.key.family as usize];
                    workloads.entry(workload(spec)).or_default().insert(id);
                }
            }
        }
        names
    }

    fn endpoint(&self, member: &'a Member) -> Option<(&'a EndpointId, &'a EndpointSpec)> {
        match member {
            Member::Endpoint(id) => Some((id, self.model.endpoints.get(id)?)),
            Member::Host | Member::World | Member::Network { .. } => None,
        }
    }

    /// Ends that have addresses of both families, by any name that they may have.
    fn ends_of_both(&self) -> BTreeSet<End> {
        let [v4, v6] = [Family::V4, Family::V6].map(|family| -> BTreeSet<End> {
            let groups = self.comparison.groups.iter().enumerate();
            let of_family = groups.filter(|(_, group)| group.key.family == family);
            of_family.flat_map(|(index, _)| self.ends(family, &[index])).collect()
        });
        let workloads = self.endpoints[0].keys().filter(|it| self.endpoints[1].contains_key(*it));
        let whole = workloads.map(|(namespace, name)| End::Endpoint {
            namespace: (*namespace).to_owned(),
            name: (*name).to_owned(),
            network: None,
        });
        v4.intersection(&v6).cloned().chain(whole).collect()
    }

    /// The members of some groups of one family, sorted.
    fn ends(&self, family: Family, groups: &[usize]) -> Vec<End> {
        let mut ends = BTreeSet::new();
        let mut found: BTreeMap<(&str, &str), BTreeSet<&EndpointId>> = BTreeMap::new();
        for member in groups.iter().flat_map(|&group| &self.comparison.groups[group].members) {
            match member {
                Member::Endpoint(_) => {
                    if let Some((id, spec)) = self.endpoint(member) {
                        found.entry(workload(spec)).or_default().insert(id);
                    }
                }
                Member::Host => {
                    ends.insert(End::Host);
                }
                Member::World => {
                    ends.insert(End::World);
                }
                Member::Network { name, nets, left_out } => {
                    ends.insert(End::Network {
                        namespace: name.namespace.clone(),
                        name: name.name.clone(),
                        nets: nets.iter().map(ToString::to_string).collect(),
                        nets_left_out: *left_out,
                    });
                }
            }
        }
        for (workload, ids) in found {
            let (namespace, name) = workload;
            let end = |network: Option<String>| End::Endpoint {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                network,
            };
            if self.endpoints[family as usize].get(&workload) == Some(&ids) {
                ends.insert(end(None));
            } else {
                let specs = ids.into_iter().filter_map(|id| self.model.endpoints.get(id));
                ends.extend(specs.map(|spec| end(Some(spec.network.clone()))));
            }
        }
        ends.into_iter().collect()
    }
}

fn workload(spec: &EndpointSpec) -> (&str, &str) {
    (&spec.namespace, &spec.name)
}
