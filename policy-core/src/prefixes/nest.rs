//! Prefixes and the groups that they belong to, kept from one model to the next.
//!
//! In: prefixes that join or leave groups. Out: for each prefix the groups that its addresses are
//! in, its own and those of the prefixes around it; and which prefixes the datapath needs. A change costs
//! what lies inside the prefixes that it is about, not what there is.

use std::{collections::BTreeMap, iter::successors, net::IpAddr};

use ipnet::IpNet;

use crate::{
    identity,
    peers::{GroupId, NO_GROUPS, Peers, SetId},
};

/// A prefix joins (`true`) or leaves a group.
pub(crate) type Edit = (IpNet, GroupId, bool);

/// One prefix that belongs to a group.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Groups that name it.
    own: SetId,
    /// Those, and all around it.
    all: SetId,
    /// Length of the longest other prefix that contains it.
    parent: Option<u8>,
    /// The peer of its addresses, unless that is also the peer of the prefix around it.
    entry: Option<u32>,
}

/// What a change did.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Prefixes with another entry than before: the old one, the new one.
    pub(crate) entries: Vec<(IpNet, Option<usize>, Option<usize>)>,
    /// Prefixes whose addresses may be in other groups now; none inside another, ascending.
    pub(crate) regions: Vec<IpNet>,
}

/// Prefixes of both families by group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nest {
    nodes: BTreeMap<IpNet, Node>,
}

impl Nest {
    /// Lets prefixes (masked) join and leave groups.
    pub(crate) fn edit(&mut self, mut edits: Vec<Edit>, peers: &mut Peers) -> Changes {
        // A prefix sorts directly before everything inside it: families apart, then the first
        // address, then the shorter prefix.
        edits.sort_unstable();
        let mut changes = Changes::default();
        for of_net in edits.chunk_by(|a, b| a.0 == b.0) {
            let net = of_net[0].0;
            let old = self.nodes.get(&net).copied();
            let was = old.map_or(NO_GROUPS, |node| node.own);
            let mut own = was;
            for &(_, group, joins) in of_net {
                own = if joins { peers.with(own, group) } else { peers.without(own, group) };
            }
            if own == was {
                continue;
            }
            if own == NO_GROUPS {
                self.nodes.remove(&net);
                if let Some(entry) = old.and_then(|node| node.entry) {
                    changes.entries.push((net, Some(entry as usize), None));
                }
            } else {
                let blank = Node { own, all: NO_GROUPS, parent: None, entry: None };
                self.nodes.entry(net).and_modify(|node| node.own = own).or_insert(blank);
            }
            if changes.regions.last().is_none_or(|last| !last.contains(&net)) {
                changes.regions.push(net);
            }
        }
        for index in 0..changes.regions.len() {
            let region = changes.regions[index];
            self.settle(region, peers, &mut changes.entries);
        }
        changes
    }

    /// The peer of a prefix, unless that is also the peer of the prefix around it.
    pub(crate) fn peer(&self, net: IpNet) -> Option<usize> {
        self.nodes.get(&net)?.entry.map(|peer| peer as usize)
    }

    /// The peer of the nearest prefix around this one that has one of its own; `None`: the world.
    pub(crate) fn around(&self, net: IpNet) -> Option<usize> {
        let mut at = self.before(net).find(|(outer, _)| outer.contains(&net))?;
        loop {
            if let Some(peer) = at.1.entry {
                return Some(peer as usize);
            }
            at = self.parent(at.0, at.1)?;
        }
    }

    /// Every prefix with a peer of its own, ascending.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (IpNet, usize)> {
        self.nodes.iter().filter_map(|(net, node)| Some((*net, node.entry? as usize)))
    }

    /// The groups of an address.
    pub(crate) fn groups(&self, address: IpAddr) -> SetId {
        let host = IpNet::from(address);
        if let Some(node) = self.nodes.get(&host) {
            return node.all;
        }
        let around = self.before(host).find(|(net, _)| net.contains(&address));
        around.map_or(NO_GROUPS, |(_, node)| node.all)
    }

    /// Works out anew what is inside a region, given that everything before it is right.
    fn settle(
        &mut self,
        region: IpNet,
        peers: &mut Peers,
        entries: &mut Vec<(IpNet, Option<usize>, Option<usize>)>,
    ) {
        // The prefixes around the place where the walk is.
        let around = self.before(region).find(|(net, _)| net.contains(&region));
        let mut path: Vec<(IpNet, SetId)> =
            around.into_iter().map(|(net, node)| (net, node.all)).collect();
        let family = identity::family(region.addr());
        for (&net, node) in self.nodes.range_mut(region..) {
            if !region.contains(&net) {
                break;
            }
            while path.last().is_some_and(|(top, _)| !top.contains(&net)) {
                path.pop();
            }
            let parent = path.last().copied();
            let outside = parent.map_or(NO_GROUPS, |(_, all)| all);
            node.all = peers.union(outside, node.own);
            node.parent = parent.map(|(top, _)| top.prefix_len());
            let entry = (node.all != outside).then(|| peers.peer(family, None, node.all));
            let was = node.entry.map(|peer| peer as usize);
            if entry != was {
                node.entry = entry.and_then(|peer| u32::try_from(peer).ok());
                entries.push((net, was, entry));
            }
            path.push((net, node.all));
        }
    }

    /// The last prefix that sorts before this one, then those around it, from the inside out. What
    /// contains this one is among them: it contains the last one before, too, or is that.
    fn before(&self, net: IpNet) -> impl Iterator<Item = (IpNet, Node)> {
        let last = self.nodes.range(..net).next_back().map(|(net, node)| (*net, *node));
        successors(last, |(net, node)| self.parent(*net, *node))
    }

    fn parent(&self, net: IpNet, node: Node) -> Option<(IpNet, Node)> {
        let parent = IpNet::new(net.addr(), node.parent?).ok()?.trunc();
        self.nodes.get(&parent).map(|node| (parent, *node))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{peers::Group, testing::net};

    fn nets() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0_u32..16, 24_u8..=32).prop_map(|(low, length)| {
                let address = IpAddr::from((0x0a00_0000 | low << 4).to_be_bytes());
                IpNet::new(address, length).unwrap().trunc()
            }),
            (0_u128..16, 120_u8..=128).prop_map(|(low, length)| {
                let address = IpAddr::from((0xfd_u128 << 120 | low << 4).to_be_bytes());
                IpNet::new(address, length).unwrap().trunc()
            }),
        ]
    }

    proptest! {
        /// After every edit the groups of each prefix are those of all prefixes around it, and what
        /// was told of the entries adds up to what there is.
        #[test]
        fn groups_are_what_a_search_through_all_finds(
            steps in prop::collection::vec(
                prop::collection::vec((nets(), 0_u32..4, any::<bool>()), 0..12),
                1..6,
            ),
            asked in prop::collection::vec(nets(), 1..12),
        ) {
            let mut peers = Peers::default();
            let groups: Vec<GroupId> = (1..=4)
                .map(|length| net(&format!("192.0.2.0/{}", 24 + length)))
                .map(|net| peers.group(&Group::Nets([net].into())))
                .collect();
            let mut nest = Nest::default();
            let mut all: Vec<(IpNet, GroupId)> = Vec::new();
            let mut entries: BTreeMap<IpNet, usize> = BTreeMap::new();
            for step in steps {
                // A prefix joins or leaves a group once in a step.
                let step: BTreeMap<(IpNet, GroupId), bool> = step
                    .into_iter()
                    .map(|(net, group, joins)| ((net, groups[group as usize]), joins))
                    .collect();
                let edits = step.iter().map(|(&(net, group), &joins)| (net, group, joins)).collect();
                let changes = nest.edit(edits, &mut peers);
                for ((net, group), joins) in step {
                    all.retain(|known| *known != (net, group));
                    if joins {
                        all.push((net, group));
                    }
                }
                for (net, old, new) in changes.entries {
                    prop_assert_eq!(entries.get(&net).copied(), old);
                    match new {
                        Some(peer) => entries.insert(net, peer),
                        None => entries.remove(&net),
                    };
                }
                prop_assert_eq!(&nest.peers().collect::<BTreeMap<_, _>>(), &entries);
                for address in asked.iter().map(|net| net.addr()) {
                    let mut set = NO_GROUPS;
                    for (_, group) in all.iter().filter(|(net, _)| net.contains(&address)) {
                        set = peers.with(set, *group);
                    }
                    prop_assert_eq!(nest.groups(address), set);
                    // The longest prefix that is in the maps says the same.
                    let around = entries.iter().filter(|(net, _)| net.contains(&address));
                    let entry = around.max_by_key(|(net, _)| net.prefix_len()).map(|it| *it.1);
                    let family = identity::family(address);
                    let peer = (set != NO_GROUPS).then(|| peers.peer(family, None, set));
                    prop_assert_eq!(entry, peer);
                    let host = IpNet::from(address);
                    prop_assert_eq!(nest.peer(host).or_else(|| nest.around(host)), peer);
                }
            }
        }
    }
}
