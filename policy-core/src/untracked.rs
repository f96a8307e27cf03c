//! Block lists: untracked policies, enforced by XDP where packets come in.
//!
//! In: the [`Model`]. Out: for each uplink the policies that select it, and for each distinct
//! choice of policies a [`BlockList`]: prefixes, each with the first rule (by tier and order) whose
//! networks contain it, and the network set that it has them from, the first by name. `validate` lets
//! only ingress Deny rules through whose one condition is the source's `nets` or a `selector` of network
//! sets, so a list is all that such rules say. Beside it an uplink has the first limit of new flows that
//! a policy of its sets.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ipnet::IpNet;
use policy_api::messages::RuleName;
use policy_common::abi::Direction;

use crate::{
    digest::Digest,
    identity,
    labels::Labels,
    model::{Model, NetworkSet},
    names,
    peers::PeerName,
    policy::{EntityMatch, FlowLimit, Policy, PolicyKey},
    prefixes::Forest,
    services, tiers,
};

/// One block list.
#[derive(Debug)]
pub(crate) struct BlockList {
    /// The same list in another run of the agent. Named by its policies, not by its prefixes: a
    /// list only ever denies, so its prefixes may change one by one in place.
    pub(crate) digest: Digest,
    /// Prefixes, and why each is there.
    pub(crate) prefixes: Vec<(IpNet, Source)>,
}

/// Why a prefix is in a block list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// The rule, as an index into [`Untracked::names`].
    pub(crate) rule: usize,
    /// The network set that the rule picks, as an index into [`Untracked::sets`].
    set: Option<usize>,
}

/// Block lists of a model.
#[derive(Debug, Default)]
pub(crate) struct Untracked {
    /// Distinct lists.
    pub(crate) lists: Vec<BlockList>,
    /// Rules.
    pub(crate) names: Vec<RuleName>,
    /// Network sets, by name.
    sets: Vec<PeerName>,
    /// Each uplink that a policy selects.
    pub(crate) uplinks: BTreeMap<u32, Uplink>,
}

/// What an uplink has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uplink {
    /// Its list, as an index into [`Untracked::lists`].
    pub(crate) list: usize,
    /// The limit of new flows: its name, as an index into [`Untracked::names`].
    pub(crate) limit: Option<(usize, FlowLimit)>,
}

impl Untracked {
    /// The network set that a prefix is of, if it does not stand in the rule itself.
    pub(crate) fn set(&self, source: Source) -> Option<&PeerName> {
        self.sets.get(source.set?)
    }
}

/// Compiles the block lists.
pub(crate) fn compile(model: &Model) -> Untracked {
    let policies: Vec<&Arc<Policy>> = tiers::untracked(model);
    let mut named: Vec<_> = model.network_sets.values().collect();
    named.sort_by_key(|set| (&set.namespace, &set.name));
    let sets: Vec<(Labels, &[IpNet])> = named
        .iter()
        .map(|set| (identity::network_set_labels(model, set), set.nets.as_slice()))
        .collect();
    let name = |set: &&Arc<NetworkSet>| PeerName {
        namespace: set.namespace.clone(),
        name: set.name.clone(),
    };
    let mut out = Untracked { sets: named.iter().map(name).collect(), ..Untracked::default() };
    let mut known: HashMap<Digest, usize> = HashMap::new();
    let mut limits: HashMap<&PolicyKey, usize> = HashMap::new();
    for (&ifindex, labels) in &model.uplinks {
        let chosen: Vec<_> =
            policies.iter().copied().filter(|policy| policy.subject.matches(labels)).collect();
        if chosen.is_empty() {
            continue;
        }
        let keys: Vec<_> = chosen.iter().map(|policy| &policy.key).collect();
        let digest = Digest::of("block-list", &keys);
        let list = *known.entry(digest).or_insert_with(|| {
            let mut sources = Vec::new();
            let mut entries = Vec::new();
            for policy in &chosen {
                for rule in policy.rules(Direction::Ingress).unwrap_or_default() {
                    let number = out.names.len();
                    out.names.push(names::of_rule(policy, Direction::Ingress, rule));
                    for (set, nets) in networks(&rule.source, &sets) {
                        let tag = u32::try_from(sources.len()).unwrap_or(u32::MAX);
                        sources.push(Source { rule: number, set });
                        let said =
                            |net: &IpNet| services::speaks_of(rule, identity::family(net.addr()));
                        entries.extend(nets.into_iter().filter(said).map(|net| (net, tag)));
                    }
                }
            }
            let found = first(entries).into_iter();
            let prefixes = found.map(|(net, tag)| (net, sources[tag as usize])).collect();
            out.lists.push(BlockList { digest, prefixes });
            out.lists.len() - 1
        });
        let noting = model.noting_uplinks.contains(&ifindex);
        let limit = noting.then(|| first_limit(chosen.iter().copied())).flatten();
        let limit = limit.map(|(policy, limit)| {
            let name = *limits.entry(&policy.key).or_insert_with(|| {
                out.names.push(names::new_flows(policy));
                out.names.len() - 1
            });
            (name, limit)
        });
        out.uplinks.insert(ifindex, Uplink { list, limit });
    }
    out
}

/// The limit of new flows of an uplink, and the policy that sets it.
pub fn limit<'a>(model: &'a Model, uplink: &Labels) -> Option<(&'a Policy, FlowLimit)> {
    let policies = tiers::untracked(model).into_iter();
    first_limit(policies.filter(|policy| policy.subject.matches(uplink)))
}

fn first_limit<'a>(
    mut chosen: impl Iterator<Item = &'a Arc<Policy>>,
) -> Option<(&'a Policy, FlowLimit)> {
    chosen.find_map(|policy| Some((policy.as_ref(), policy.new_flows?)))
}

/// The networks of a source: those written, or those of each set that a selector picks; if both
/// are written, what is in both.
fn networks(source: &EntityMatch, sets: &[(Labels, &[IpNet])]) -> Vec<(Option<usize>, Vec<IpNet>)> {
    let Some(selector) = &source.selector else { return vec![(None, source.nets.clone())] };
    let picked = sets.iter().enumerate().filter(|(_, (labels, _))| selector.matches(labels));
    let of_set = |(index, (_, nets)): (usize, &(Labels, &[IpNet]))| {
        let nets = if source.nets.is_empty() { nets.to_vec() } else { in_both(&source.nets, nets) };
        (Some(index), nets)
    };
    picked.map(of_set).collect()
}

/// Two prefixes are nested or apart, so what is in both is the longer of each nested pair.
fn in_both(one: &[IpNet], other: &[IpNet]) -> Vec<IpNet> {
    let within = |nets: &[IpNet], around: &[IpNet]| -> Vec<IpNet> {
        let around = forest(around);
        let inside = |net: &&IpNet| {
            let mut at = around.nearest(net.network());
            while let Some(node) = at.map(|index| &around.nodes()[index]) {
                if node.net.contains(*net) {
                    return true;
                }
                at = node.parent;
            }
            false
        };
        nets.iter().filter(inside).copied().collect()
    };
    let mut both = within(one, other);
    both.extend(within(other, one));
    both
}

fn forest(nets: &[IpNet]) -> Forest {
    Forest::new(nets.iter().map(|net| (*net, 0)).collect())
}

/// Each prefix with the lowest tag among its own and those of the prefixes around it; a prefix
/// that would say the same as the one around it is left out.
fn first(entries: Vec<(IpNet, u32)>) -> Vec<(IpNet, u32)> {
    let forest = Forest::new(entries);
    let mut winners: Vec<u32> = Vec::with_capacity(forest.nodes().len());
    let mut prefixes = Vec::new();
    for node in forest.nodes() {
        let own = forest.tags(node).first().copied().unwrap_or(u32::MAX);
        let around = node.parent.map(|parent| winners[parent]);
        let winner = around.map_or(own, |around| own.min(around));
        if around != Some(winner) {
            prefixes.push((node.net, winner));
        }
        winners.push(winner);
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn each_prefix_goes_to_the_first_source_around_it() {
        let found = first(vec![
            (net("10.0.0.0/8"), 1),
            (net("10.1.0.0/16"), 0),
            (net("10.1.2.0/24"), 2),
            (net("10.2.0.0/16"), 2),
            (net("192.0.2.0/24"), 2),
        ]);
        assert_eq!(
            found,
            [(net("10.0.0.0/8"), 1), (net("10.1.0.0/16"), 0), (net("192.0.2.0/24"), 2)]
        );
    }

    #[test]
    fn a_source_with_nets_and_selector_is_their_intersection() {
        let labels: Labels = [("feed", "bad")].into_iter().collect();
        let set = [net("10.1.0.0/16"), net("192.0.0.0/8"), net("203.0.113.0/24")];
        let source = EntityMatch {
            selector: crate::selector::Selector::parse("has(feed)").ok(),
            nets: vec![net("10.0.0.0/8"), net("192.0.2.0/24")],
            ..EntityMatch::default()
        };
        let both = vec![net("192.0.2.0/24"), net("10.1.0.0/16")];
        assert_eq!(networks(&source, &[(labels, &set)]), [(Some(0), both)]);
    }
}
