//! Which prefixes contain which: the nesting of any number of prefixes, in O(n log n).
//!
//! In: prefixes of both families, each with a tag. Out: a [`Forest`], whose nodes are the distinct
//! prefixes, parents before children, each with its nearest ancestor and its tags. [`nest`] is for
//! prefixes that come and go.

use std::{net::IpAddr, ops::Range};

use ipnet::IpNet;

pub(crate) mod nest;

/// One distinct prefix.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The prefix, masked.
    pub(crate) net: IpNet,
    /// The longest other prefix that contains it.
    pub(crate) parent: Option<usize>,
    tags: Range<usize>,
}

/// Distinct prefixes and their nesting.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forest {
    nodes: Vec<Node>,
    tags: Vec<u32>,
}

impl Forest {
    /// Sorts prefixes into a forest. The same prefix may come with several tags.
    pub(crate) fn new(mut entries: Vec<(IpNet, u32)>) -> Forest {
        for (net, _) in &mut entries {
            *net = net.trunc();
        }
        // A prefix sorts directly before everything inside it: families apart, then the first
        // address, then the shorter prefix.
        entries.sort_unstable();
        entries.dedup();
        let mut forest = Forest { nodes: Vec::new(), tags: Vec::with_capacity(entries.len()) };
        let mut path: Vec<usize> = Vec::new();
        for (net, tag) in entries {
            forest.tags.push(tag);
            let tags = forest.tags.len();
            if let Some(last) = forest.nodes.last_mut()
                && last.net == net
            {
                last.tags.end = tags;
                continue;
            }
            while path.last().is_some_and(|&top| !forest.nodes[top].net.contains(&net)) {
                path.pop();
            }
            let parent = path.last().copied();
            path.push(forest.nodes.len());
            forest.nodes.push(Node { net, parent, tags: tags - 1..tags });
        }
        forest
    }

    /// Every node; a node's parent comes before it.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The tags of a node's own prefix, sorted, distinct.
    pub(crate) fn tags(&self, node: &Node) -> &[u32] {
        &self.tags[node.tags.clone()]
    }

    /// The longest prefix that contains the address, as an index into [`Forest::nodes`].
    pub(crate) fn nearest(&self, address: IpAddr) -> Option<usize> {
        let host = IpNet::from(address);
        let mut at = self.nodes.partition_point(|node| node.net <= host).checked_sub(1);
        while let Some(index) = at {
            let node = &self.nodes[index];
            if node.net.contains(&address) {
                return at;
            }
            at = node.parent;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0_u32..64, 24_u8..=32).prop_map(|(low, length)| {
                let address = IpAddr::from((0x0a00_0000 | low << 2).to_be_bytes());
                IpNet::new(address, length).unwrap().trunc()
            }),
            (0_u128..64, 120_u8..=128).prop_map(|(low, length)| {
                let address = IpAddr::from((0xfd_u128 << 120 | low << 2).to_be_bytes());
                IpNet::new(address, length).unwrap().trunc()
            }),
            Just("0.0.0.0/0".parse().unwrap()),
            Just("::/0".parse().unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn nesting_is_what_a_search_through_all_finds(
            nets in prop::collection::vec(net(), 0..40),
            addresses in prop::collection::vec(net(), 0..20),
        ) {
            let tagged: Vec<_> = nets.iter().copied().zip(0..).collect();
            let forest = Forest::new(tagged);
            for node in forest.nodes() {
                let parent = nets
                    .iter()
                    .filter(|other| **other != node.net && other.contains(&node.net))
                    .max_by_key(|other| other.prefix_len());
                let found = node.parent.map(|parent| forest.nodes()[parent].net);
                prop_assert_eq!(found, parent.copied());
                for (net, index) in nets.iter().zip(0_u32..) {
                    prop_assert_eq!(forest.tags(node).contains(&index), *net == node.net);
                }
            }
            for address in addresses.iter().map(|net| net.addr()) {
                let nearest = nets
                    .iter()
                    .filter(|net| net.contains(&address))
                    .max_by_key(|net| net.prefix_len());
                let found = forest.nearest(address).map(|node| forest.nodes()[node].net);
                prop_assert_eq!(found, nearest.copied());
            }
        }
    }
}
