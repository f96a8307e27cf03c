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
    // Everything but the families.
    let mut lines: BTreeMap<ConnectionChange, BTreeSet<&'static str>> = BTreeMap::new();
    let (mut ends, mut left_out) = (0, 0);
    for block in &comparison.blocks {
        let Some(first) = block.sources.first() else { continue };
        if lines.len() >= MAX_CONNECTIONS || ends > MAX_ENDS {
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
        let line = ConnectionChange {
            effect: shift.effect,
            sources,
            destinations,
            families: Vec::new(),
            services: wording::services(&shift.services),
            source_ports: wording::source_ports(&shift.source_ports),
            reasons: reasons(compiled, shift),
        };
        lines.entry(line).or_default().insert(match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        });
    }
    let with_families = |(line, families): (ConnectionChange, BTreeSet<&str>)| ConnectionChange {
        families: families.into_iter().map(str::to_owned).collect(),
        ..line
    };
    (lines.into_iter().map(with_families).collect(), left_out)
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
