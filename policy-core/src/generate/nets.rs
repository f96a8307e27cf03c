//! A set of addresses that never holds more than [`MOST`] networks of a family.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

/// Networks of one family in a set at most. With more, the set is of larger ones.
pub(super) const MOST: usize = 1024;

/// Prefix lengths that addresses are widened to, step by step, the last of them everything.
const V4: [u8; 5] = [32, 24, 16, 8, 0];
/// Those of IPv6.
const V6: [u8; 5] = [128, 64, 48, 32, 0];

/// Addresses, or the networks that they are in if they were too many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Nets {
    v4: OfFamily,
    v6: OfFamily,
}

/// One family has nothing to suffer from the other's being many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfFamily {
    step: usize,
    nets: BTreeSet<IpNet>,
}

impl Nets {
    /// Whether the address is in a network of the set.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let family = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        family.nets.contains(&at(family.step, IpNet::from(address)))
    }

    /// Adds an address.
    pub(super) fn insert(&mut self, address: IpAddr) {
        let family = if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        family.extend(0, [IpNet::from(address)]);
    }

    /// Adds all of another set.
    pub(super) fn extend(&mut self, other: &Nets) {
        self.v4.extend(other.v4.step, other.v4.nets.iter().copied());
        self.v6.extend(other.v6.step, other.v6.nets.iter().copied());
    }

    /// The prefix lengths that there were too many addresses for; none if the set is exact.
    pub(super) fn widened(&self) -> Vec<u8> {
        let of = |family: &OfFamily, steps: [u8; 5]| (family.step > 0).then(|| steps[family.step]);
        of(&self.v4, V4).into_iter().chain(of(&self.v6, V6)).collect()
    }

    /// The fewest networks that hold the same addresses, sorted.
    pub(super) fn aggregated(&self) -> Vec<IpNet> {
        let mut nets = IpNet::aggregate(&self.v4.nets.union(&self.v6.nets).copied().collect());
        nets.sort_unstable();
        nets
    }
}

impl OfFamily {
    fn extend(&mut self, step: usize, nets: impl IntoIterator<Item = IpNet>) {
        if step > self.step {
            self.widen(step);
        }
        let step = self.step;
        self.nets.extend(nets.into_iter().map(|net| at(step, net)));
        while self.nets.len() > MOST {
            self.widen(self.step + 1);
        }
    }

    fn widen(&mut self, step: usize) {
        self.step = step;
        self.nets = self.nets.iter().map(|net| at(step, *net)).collect();
    }
}

fn at(step: usize, net: IpNet) -> IpNet {
    let steps = if net.addr().is_ipv4() { V4 } else { V6 };
    let length = net.prefix_len().min(steps[step.min(steps.len() - 1)]);
    // No length is refused that is not longer than the family's.
    IpNet::new(net.addr(), length).map_or(net, |net| net.trunc())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn nets(addresses: impl IntoIterator<Item = IpAddr>) -> Nets {
        let mut nets = Nets::default();
        for address in addresses {
            nets.insert(address);
            assert!(nets.v4.nets.len() <= MOST && nets.v6.nets.len() <= MOST);
        }
        nets
    }

    fn texts(nets: &Nets) -> Vec<String> {
        nets.aggregated().iter().map(IpNet::to_string).collect()
    }

    #[test]
    fn neighbours_become_one_network_if_nothing_else_is_in_it() {
        for (addresses, expected) in [
            (&["192.0.2.0", "192.0.2.1"][..], &["192.0.2.0/31"][..]),
            (&["192.0.2.1", "192.0.2.2"], &["192.0.2.1/32", "192.0.2.2/32"]),
            (
                &["192.0.2.4", "192.0.2.6", "192.0.2.5", "2001:db8::1", "2001:db8::"],
                &["192.0.2.4/31", "192.0.2.6/32", "2001:db8::/127"],
            ),
            (&[], &[]),
        ] {
            let nets = nets(addresses.iter().map(|it| it.parse().unwrap()));
            assert_eq!(texts(&nets), expected);
            assert_eq!(nets.widened(), [0_u8; 0]);
        }
    }

    #[test]
    fn too_many_addresses_become_networks() {
        let spread = |count: u32, apart: u32| {
            nets((0..count).map(move |it| IpAddr::V4(Ipv4Addr::from(it * apart))))
        };
        assert_eq!(spread(1024, 2).widened(), [0_u8; 0]);
        let wide = spread(1025, 2);
        assert_eq!(wide.widened(), [24]);
        assert!(wide.contains("0.0.8.255".parse().unwrap()));
        assert!(!wide.contains("0.0.9.0".parse().unwrap()));
        assert_eq!(spread(2000, 1 << 8).widened(), [16]);
        assert_eq!(spread(60_000, 1 << 16).widened(), [8]);
        let v6 = (0..2000_u128).map(|it| IpAddr::V6(Ipv6Addr::from(it << 96)));
        let both = nets(v6.chain(["192.0.2.1".parse().unwrap()]));
        assert_eq!(texts(&both), ["192.0.2.1/32", "::/0"]);
        assert_eq!(both.widened(), [0]);
    }

    #[test]
    fn two_sets_are_as_wide_as_the_wider_one() {
        let mut few = nets(["198.51.100.7".parse().unwrap()]);
        few.extend(&nets((0..1025_u32).map(|it| IpAddr::V4(Ipv4Addr::from(it * 2)))));
        assert!(few.contains("198.51.100.200".parse().unwrap()));
        assert_eq!(few.widened(), [24]);
    }
}
