//! What a map operation does to the maps.
//!
//! In: an [`Op`]. Out: the [`Image`] after it. Intervals are not part of an image: what they say
//! is known by their digests ([`crate::ids::Ids`]).

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy_common::abi::{ClassKey, ClassRef};

use crate::plan::{Image, Op};

impl Image {
    /// Carries out one operation.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::WriteIntervals { .. } | Op::Quiesce => {}
            Op::SetClass(key, class) => {
                self.classes.insert(*key, *class);
            }
            Op::RemoveClass(key) => {
                self.classes.remove(key);
            }
            Op::SetAddress(address, peer) => {
                self.addresses.insert(*address, *peer);
            }
            Op::RemoveAddress(address) => {
                self.addresses.remove(address);
            }
            Op::SetCidr(net, peer) => {
                self.cidrs.insert(*net, *peer);
            }
            Op::RemoveCidr(net) => {
                self.cidrs.remove(net);
            }
            Op::SetEndpoint(ifindex, endpoint) => {
                self.endpoints.insert(*ifindex, *endpoint);
            }
            Op::RemoveEndpoint(ifindex) => {
                self.endpoints.remove(ifindex);
            }
            Op::SetGuard(key) => {
                self.guard.insert(*key);
            }
            Op::RemoveGuard(key) => {
                self.guard.remove(key);
            }
            Op::SetBlock { list, net, blocked } => {
                self.blocks.insert((*list, *net), *blocked);
            }
            Op::RemoveBlock { list, net } => {
                self.blocks.remove(&(*list, *net));
            }
            Op::SetUplink(ifindex, uplink) => {
                self.uplinks.insert(*ifindex, *uplink);
            }
            Op::RemoveUplink(ifindex) => {
                self.uplinks.remove(ifindex);
            }
            Op::SetFailsafe(port, rule) => {
                self.failsafe.insert(*port, *rule);
            }
            Op::RemoveFailsafe(port) => {
                self.failsafe.remove(port);
            }
            Op::SetPublished(port, to) => {
                self.published.insert(*port, *to);
            }
            Op::RemovePublished(port) => {
                self.published.remove(port);
            }
            Op::SetRevision(revision) => self.revision = *revision,
        }
    }

    /// The rows of a table, by peer.
    pub(crate) fn rows(&self, table: u32) -> impl Iterator<Item = (u32, ClassRef)> {
        let all = ClassKey { table, peer: 0 }..=ClassKey { table, peer: u32::MAX };
        self.classes.range(all).map(|(key, class)| (key.peer, *class))
    }

    /// The peer that the nearest prefix around this one gives to its addresses; `None`: the world.
    pub(crate) fn around(&self, net: IpNet) -> Option<u32> {
        let mut inner = net;
        loop {
            let (found, peer) = self.cidrs.range(..inner).next_back()?;
            if found.contains(&net) {
                return Some(*peer);
            }
            // What contains `net` and sorts before `found` also contains `found`.
            inner = common(*found, net)?;
            if let Some(peer) = self.cidrs.get(&inner) {
                return Some(*peer);
            }
        }
    }

    /// Every reference into `INTERVALS`, once for each map value that holds it.
    pub(crate) fn class_references(&self) -> impl Iterator<Item = ClassRef> {
        let defaults = self.endpoints.values().flat_map(|endpoint| endpoint.defaults);
        self.classes.values().copied().chain(defaults.flatten())
    }
}

/// The longest prefix that contains both.
fn common(a: IpNet, b: IpNet) -> Option<IpNet> {
    let length = |same: u32| {
        let longest = a.prefix_len().min(b.prefix_len());
        u8::try_from(same).map_or(longest, |same| same.min(longest))
    };
    match (a, b) {
        (IpNet::V4(a), IpNet::V4(b)) => {
            let differing = u32::from(a.network()) ^ u32::from(b.network());
            let net = Ipv4Net::new(b.network(), length(differing.leading_zeros())).ok()?;
            Some(IpNet::V4(net.trunc()))
        }
        (IpNet::V6(a), IpNet::V6(b)) => {
            let differing = u128::from(a.network()) ^ u128::from(b.network());
            let net = Ipv6Net::new(b.network(), length(differing.leading_zeros())).ok()?;
            Some(IpNet::V6(net.trunc()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::net;
    use proptest::prelude::*;

    fn nets() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0_u32..64, 22_u8..=32).prop_map(|(low, length)| {
                Ipv4Net::new((0x0a00_0000 | low << 4).into(), length).unwrap().trunc().into()
            }),
            (0_u128..64, 118_u8..=128).prop_map(|(low, length)| {
                Ipv6Net::new((0xfd_u128 << 120 | low << 4).into(), length).unwrap().trunc().into()
            }),
            Just(net("0.0.0.0/0")),
        ]
    }

    proptest! {
        #[test]
        fn the_nearest_prefix_around_is_the_longest_that_contains_it(
            held in prop::collection::vec(nets(), 0..30),
            asked in nets(),
        ) {
            let cidrs = held.iter().copied().zip(7..).collect();
            let image = Image { cidrs, ..Image::default() };
            let around = image
                .cidrs
                .iter()
                .filter(|(net, _)| **net != asked && net.contains(&asked))
                .max_by_key(|(net, _)| net.prefix_len());
            prop_assert_eq!(image.around(asked), around.map(|(_, peer)| *peer));
        }
    }
}
