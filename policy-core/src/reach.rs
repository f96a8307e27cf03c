//! Which connections a change of policy opens and which it cuts, and which there are at all.
//!
//! In: two models, before and after. Out: a [`Reach`]: connections between the endpoints that both
//! have, and between them and everybody else, each with the rules that decide. A connection is
//! allowed if the source's egress and the destination's ingress allow it; an end that is no
//! endpoint of this host enforces nothing, but an uplink may drop its packets.
//!
//! No packet is evaluated: both models are compiled, addresses that no table of either tells apart
//! are taken together (`ends`), and what two such groups say to each other is compared once for
//! each combination of classes (`readings`). `lines` makes of it what people read.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use policy_api::{
    connectivity::{Allowed, Connectivity, Deciding},
    difference::{ConnectionChange, Difference, End, Reach, ResourceChange},
};
use policy_common::abi::Direction;

use crate::{
    model::{DefaultAction, EndpointId, EndpointSpec, Model, Settings},
    policy::{Policy, StagedAction},
    shared::SharedMap,
};

mod compiled;
mod ends;
mod lines;
mod readings;
#[cfg(test)]
mod tests;
mod wording;

use compiled::{Compiled, OPEN};
use ends::{Group, Member};
use readings::{AllowedNumbers, Reading, Shift};

/// Entries of an answer at most.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Ends that all entries of an answer name at most.
pub const MAX_ENDS: usize = 200_000;

/// A whole difference, of which the resources are known already. `staged`: every staged policy of
/// `after` would be in force.
pub fn difference(
    resources: Vec<ResourceChange>,
    before: &Model,
    after: &Model,
    staged: bool,
) -> Difference {
    if !staged {
        let reach = compare(before, after);
        return Difference { resources, reach, ..Difference::default() };
    }
    let told = |policy: &Arc<Policy>| match policy.staged {
        None => None,
        Some(StagedAction::Set) => Some(policy.key.to_string()),
        Some(StagedAction::Delete) => {
            Some(format!("{} (deletes {})", policy.key, policy.key.enforced()))
        }
    };
    Difference {
        resources,
        staged: after.policies.values().filter_map(told).collect(),
        reach: compare(before, &after.with_staged_enforced()),
        ..Difference::default()
    }
}

/// The model without host endpoints.
fn workloads(model: &Model) -> Cow<'_, Model> {
    if model.endpoints.values().all(|spec| !spec.plane.of_host()) {
        return Cow::Borrowed(model);
    }
    let mut model = model.clone();
    model.endpoints.retain(|_, spec| !spec.plane.of_host());
    Cow::Owned(model)
}

/// All that a model allows: what it opens where nothing was allowed.
pub fn connectivity(model: &Model) -> Connectivity {
    let reach = compare(&closed(model), model);
    let allowed = |change: ConnectionChange| Allowed {
        exposed: change.sources.iter().any(End::is_anybody),
        sources: change.sources,
        destinations: change.destinations,
        families: change.families,
        services: change.services,
        source_ports: change.source_ports,
        allowed_by: change
            .reasons
            .into_iter()
            .filter_map(|reason| {
                Some(Deciding { at: reason.at, rule: reason.after?, packets: None })
            })
            .collect(),
    };
    Connectivity {
        endpoints: reach.endpoints,
        connections: reach.connections.into_iter().map(allowed).collect(),
        connections_left_out: reach.connections_left_out,
    }
}

/// The same endpoints, and nothing is allowed.
fn closed(model: &Model) -> Model {
    Model {
        settings: Settings { default_action: DefaultAction::Deny, host_access: false },
        policies: SharedMap::default(),
        ..model.clone()
    }
}

/// What `after` makes of the connections that `before` allows and denies. Host endpoints are left
/// aside: what passes them depends on routes, which no model has.
pub fn compare(before: &Model, after: &Model) -> Reach {
    let workloads = [before, after].map(workloads);
    let [before, after] = workloads.each_ref().map(AsRef::as_ref);
    let models: [&Model; 2] = [before, after];
    let compiled = models.map(Compiled::new);
    let groups = ends::groups(models, &compiled);
    let comparison = Comparison::new(&compiled, &groups);
    let (connections, connections_left_out) = lines::lines(models, &compiled, &comparison);
    let names = |model: &Model, other: &Model| {
        let missing = |(id, _): &(&EndpointId, _)| !other.endpoints.contains_key(*id);
        let mut names: Vec<String> =
            model.endpoints.iter().filter(missing).map(|(_, spec)| full_name(spec)).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    Reach {
        endpoints: before.endpoints.keys().filter(|id| after.endpoints.contains_key(*id)).count(),
        endpoints_gone: names(before, after),
        endpoints_new: names(after, before),
        connections,
        connections_left_out,
    }
}

fn full_name(spec: &EndpointSpec) -> String {
    format!("{}/{}", spec.namespace, spec.name)
}

/// From each group of `sources` to each of `destinations`, the same changes.
struct Block {
    shift: usize,
    sources: Vec<usize>,
    destinations: Vec<usize>,
}

/// All that changes.
struct Comparison<'a> {
    groups: &'a [Group],
    /// Distinct.
    shifts: Vec<Shift>,
    blocks: Vec<Block>,
}

/// The four readings between a source and a destination, before and after.
type Quad = ([usize; 2], [usize; 2]);

impl<'a> Comparison<'a> {
    fn new(compiled: &[Compiled; 2], groups: &'a [Group]) -> Comparison<'a> {
        let readings = compiled.each_ref().map(Compiled::readings);
        let mut allowed = AllowedNumbers::default();
        let allowed = readings.each_ref().map(|readings| -> Vec<usize> {
            readings.iter().map(|reading| allowed.number(reading)).collect()
        });
        let same = |[before, after]: [usize; 2]| allowed[0][before] == allowed[1][after];

        let mut known = Known::default();
        let mut blocks: BTreeMap<(usize, Vec<usize>), Vec<usize>> = BTreeMap::new();
        for (source_index, source) in groups.iter().enumerate() {
            let mut found: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (index, destination) in groups.iter().enumerate() {
                if !can_meet(source, destination) {
                    continue;
                }
                let quad = quad(compiled, source, destination);
                if same(quad.0) && same(quad.1) {
                    continue;
                }
                for &shift in known.shifts(quad, &readings) {
                    found.entry(shift).or_default().push(index);
                }
            }
            for (shift, destinations) in found {
                blocks.entry((shift, destinations)).or_default().push(source_index);
            }
        }
        let block = |((shift, destinations), sources)| Block { shift, sources, destinations };
        Comparison { groups, shifts: known.shifts, blocks: blocks.into_iter().map(block).collect() }
    }
}

/// Whether a connection between the two says anything about policy. What an endpoint says to
/// itself does not leave it.
fn can_meet(source: &Group, destination: &Group) -> bool {
    let itself = || {
        let [Member::Endpoint(a)] = &source.members[..] else { return false };
        let [Member::Endpoint(b)] = &destination.members[..] else { return false };
        a == b
    };
    source.key.family == destination.key.family
        && (source.key.tables.is_some() || destination.key.tables.is_some())
        && !itself()
}

fn quad(compiled: &[Compiled; 2], source: &Group, destination: &Group) -> Quad {
    let end = |subject: &Group, peer: &Group, direction: Direction| {
        [0, 1].map(|side| match subject.key.tables {
            Some(tables) => compiled[side].reading(
                tables[side][direction as usize],
                peer.peers[side],
                peer.key.family,
            ),
            None if direction == Direction::Egress => subject.key.uplink[side],
            None => OPEN,
        })
    };
    (end(source, destination, Direction::Egress), end(destination, source, Direction::Ingress))
}

/// What has been found out about readings.
#[derive(Default)]
struct Known {
    of_quad: HashMap<Quad, Vec<usize>>,
    shifts: Vec<Shift>,
    index: HashMap<Shift, usize>,
}

impl Known {
    fn shifts(&mut self, quad: Quad, readings: &[Vec<Reading>; 2]) -> &[usize] {
        let (shifts, index) = (&mut self.shifts, &mut self.index);
        self.of_quad.entry(quad).or_insert_with(|| {
            let of = |ends: [usize; 2]| [&readings[0][ends[0]], &readings[1][ends[1]]];
            let number = |shift: Shift| {
                *index.entry(shift).or_insert_with_key(|shift| {
                    shifts.push(shift.clone());
                    shifts.len() - 1
                })
            };
            readings::shifts(of(quad.0), of(quad.1)).into_iter().map(number).collect()
        })
    }
}
