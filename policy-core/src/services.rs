//! Sets of services: which (protocol, port) coordinates a rule is about, and from which source
//! ports.
//!
//! In: a rule, a family, and the named ports of both sides. Out: a [`Region`]: [`Services`], sorted
//! disjoint ranges over [`policy_common::abi::service`], each with the source ports that go with
//! them.

use policy_common::abi::{Family, service};

use crate::{
    model::NamedPort,
    policy::{EntityMatch, IcmpMatch, PortMatch, Rule},
};

/// One past the last coordinate: 256 protocols times 65,536 ports.
pub const SERVICES: u32 = 1 << 24;

/// One past the last source port.
pub const SOURCE_PORTS: u32 = 1 << 16;

/// Protocols whose ports the datapath reads (`policy_common::packet`): TCP, UDP, SCTP (RFC 9260) and
/// UDP-Lite (RFC 3828). No rule can name ports of another one, such as DCCP.
pub const WITH_PORTS: [u8; 4] = [6, 17, 132, 136];

/// ICMP.
pub const ICMP: u8 = 1;
/// ICMPv6.
pub const ICMPV6: u8 = 58;

/// A set of coordinates: ranges `start..end`, sorted, neither touching nor overlapping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Services(Vec<(u32, u32)>);

impl Services {
    /// Every coordinate.
    pub fn all() -> Services {
        Services(vec![(0, SERVICES)])
    }

    /// The union of any ranges `start..end`.
    pub fn union(mut ranges: Vec<(u32, u32)>) -> Services {
        ranges.retain(|(start, end)| start < end);
        ranges.sort_unstable();
        let mut union: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            match union.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => union.push((start, end)),
            }
        }
        Services(union)
    }

    /// The ranges, `start..end`.
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a coordinate is in it.
    pub fn contains(&self, coordinate: u32) -> bool {
        let after = self.0.partition_point(|(start, _)| *start <= coordinate);
        after.checked_sub(1).is_some_and(|at| coordinate < self.0[at].1)
    }

    /// What is in both.
    #[must_use]
    pub fn intersect(&self, other: &Services) -> Services {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(&&a), Some(&&b)) = (left.peek(), right.peek()) {
            let (start, end) = (a.0.max(b.0), a.1.min(b.1));
            if start < end {
                both.push((start, end));
            }
            if a.1 <= b.1 {
                left.next();
            } else {
                right.next();
            }
        }
        Services(both)
    }

    /// What is in this and not in the other.
    #[must_use]
    pub fn without(&self, other: &Services) -> Services {
        self.intersect(&other.complement())
    }

    fn complement(&self) -> Services {
        let mut gaps = Vec::with_capacity(self.0.len() + 1);
        let mut from = 0;
        for &(start, end) in &self.0 {
            if from < start {
                gaps.push((from, start));
            }
            from = end;
        }
        if from < SERVICES {
            gaps.push((from, SERVICES));
        }
        Services(gaps)
    }
}

/// Every coordinate of one protocol.
fn protocol(number: u8) -> (u32, u32) {
    let start = service(number, 0);
    (start, start + (1 << 16))
}

/// Whether a rule's family conditions let it speak of `family`: `ipVersion`, and that ICMP is a
/// protocol of IPv4 and ICMPv6 of IPv6.
pub fn speaks_of(rule: &Rule, family: Family) -> bool {
    rule.family.is_none_or(|only| only == family)
        && match (rule.protocol.is, family) {
            (Some(ICMP), Family::V6) | (Some(ICMPV6), Family::V4) => false,
            (_, Family::V4 | Family::V6) => true,
        }
}

/// The services of a rule that hold for every source port, and those that hold for some.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Region {
    /// From any source port.
    pub anywhere: Services,
    /// Services, and the source ports for which they hold; no two speak of one service.
    pub by_source: Vec<(Services, Services)>,
}

impl Region {
    /// Everything.
    pub fn all() -> Region {
        Region { anywhere: Services::all(), by_source: Vec::new() }
    }
}

/// The named ports of the two sides of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named<'a> {
    /// Of who sends it.
    pub source: &'a [NamedPort],
    /// Of who receives it.
    pub destination: &'a [NamedPort],
}

/// What the rule matches in `family`, if the sides have these named ports.
pub fn of_rule(rule: &Rule, family: Family, named: Named<'_>) -> Region {
    let services = of_destination(rule, family, named.destination);
    let side = &rule.source;
    if side.ports.is_empty() && side.not_ports.is_empty() {
        return Region { anywhere: services, by_source: Vec::new() };
    }
    // A port is one of a protocol: what a name stands for differs from one to the next, and what
    // has no ports is in no list.
    let with_ports = Services::union(WITH_PORTS.map(protocol).to_vec());
    let anywhere =
        if side.ports.is_empty() { services.without(&with_ports) } else { Services::default() };
    let mut region = Region { anywhere, by_source: Vec::new() };
    for number in WITH_PORTS {
        let services = services.intersect(&Services(vec![protocol(number)]));
        let mut ports = Services(vec![(0, SOURCE_PORTS)]);
        if !side.ports.is_empty() {
            ports = ports.intersect(&source_ports(&side.ports, number, named.source));
        }
        ports = ports.without(&source_ports(&side.not_ports, number, named.source));
        if !services.is_empty() && !ports.is_empty() {
            region.by_source.push((services, ports));
        }
    }
    region
}

/// The ports of a list that are of this protocol.
fn source_ports(ports: &[PortMatch], number: u8, named: &[NamedPort]) -> Services {
    let mut ranges = Vec::new();
    for port in ports {
        match port {
            PortMatch::Range(first, last) => {
                ranges.push((u32::from(*first), u32::from(*last) + 1));
            }
            PortMatch::Named(name) => ranges.extend(
                named
                    .iter()
                    .filter(|port| port.name == *name && port.protocol == number)
                    .map(|port| (u32::from(port.port), u32::from(port.port) + 1)),
            ),
        }
    }
    Services::union(ranges)
}

/// The coordinates of `family` that the rule matches, its source ports left aside.
fn of_destination(rule: &Rule, family: Family, named: &[NamedPort]) -> Services {
    if !speaks_of(rule, family) {
        return Services::default();
    }
    let mut services = match rule.protocol.is {
        Some(number) => Services(vec![protocol(number)]),
        None => Services::all(),
    };
    if let Some(number) = rule.protocol.is_not {
        services = services.without(&Services(vec![protocol(number)]));
    }
    if let Some(icmp) = rule.icmp {
        services = services.intersect(&of_icmp(icmp, family));
    }
    if let Some(icmp) = rule.not_icmp {
        services = services.without(&of_icmp(icmp, family));
    }
    let side = &rule.destination;
    if !side.ports.is_empty() {
        services = services.intersect(&of_ports(&side.ports, named));
    }
    if !side.not_ports.is_empty() {
        services = services.without(&of_ports(&side.not_ports, named));
    }
    services
}

/// Whether a side of a rule names ports by name: what is matched depends on who is there.
pub fn uses_names(side: &EntityMatch) -> bool {
    side.ports.iter().chain(&side.not_ports).any(|port| matches!(port, PortMatch::Named(_)))
}

/// The named ports among `named` that a side of a rule asks for; all that [`of_rule`] reads of
/// them.
pub fn names_used(side: &EntityMatch, named: &[NamedPort]) -> Vec<NamedPort> {
    let asked = |name: &str| {
        side.ports
            .iter()
            .chain(&side.not_ports)
            .any(|port| matches!(port, PortMatch::Named(wanted) if wanted == name))
    };
    let mut used: Vec<_> = named.iter().filter(|port| asked(&port.name)).cloned().collect();
    used.sort_unstable();
    used.dedup();
    used
}

fn of_icmp(icmp: IcmpMatch, family: Family) -> Services {
    let number = match family {
        Family::V4 => ICMP,
        Family::V6 => ICMPV6,
    };
    let first = service(number, u16::from(icmp.kind) << 8 | u16::from(icmp.code.unwrap_or(0)));
    let count = if icmp.code.is_some() { 1 } else { 1 << 8 };
    Services(vec![(first, first + count)])
}

fn of_ports(ports: &[PortMatch], named: &[NamedPort]) -> Services {
    let mut ranges = Vec::new();
    for port in ports {
        match port {
            PortMatch::Range(first, last) => ranges.extend(
                WITH_PORTS.map(|number| (service(number, *first), service(number, *last) + 1)),
            ),
            PortMatch::Named(name) => ranges.extend(
                named
                    .iter()
                    .filter(|port| port.name == *name)
                    .map(|port| service(port.protocol, port.port))
                    .map(|start| (start, start + 1)),
            ),
        }
    }
    Services::union(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, ProtocolMatch};

    fn rule(is: Option<u8>) -> Rule {
        Rule {
            index: 0,
            action: Action::Allow,
            family: None,
            protocol: ProtocolMatch { is, is_not: None },
            icmp: None,
            not_icmp: None,
            source: EntityMatch::default(),
            destination: EntityMatch::default(),
        }
    }

    #[test]
    fn ranges_are_merged_cut_and_inverted() {
        let set = Services::union(vec![(10, 20), (0, 5), (15, 30), (30, 31), (40, 40)]);
        assert_eq!(set.ranges(), [(0, 5), (10, 31)]);
        assert_eq!(set.without(&Services::union(vec![(3, 12)])).ranges(), [(0, 3), (12, 31)]);
        assert_eq!(set.complement().ranges(), [(5, 10), (31, SERVICES)]);
        assert_eq!(set.complement().complement(), set);
    }

    #[test]
    fn a_port_range_costs_one_range_and_excluded_ports_leave_the_rest() {
        let mut tcp = rule(Some(6));
        tcp.destination.ports = vec![PortMatch::Range(1, 65535)];
        tcp.destination.not_ports = vec![PortMatch::Range(22, 22)];
        assert_eq!(
            of_destination(&tcp, Family::V4, &[]).ranges(),
            [(service(6, 1), service(6, 22)), (service(6, 23), service(7, 0))]
        );
    }

    #[test]
    fn a_name_counts_only_for_its_protocol() {
        let mut tcp = rule(Some(6));
        tcp.destination.ports = vec![PortMatch::Named("dns".to_owned())];
        let dns = |protocol| NamedPort { name: "dns".to_owned(), protocol, port: 53 };
        assert!(of_destination(&tcp, Family::V4, &[dns(17)]).is_empty());
        assert_eq!(
            of_destination(&tcp, Family::V4, &[dns(17), dns(6)]).ranges(),
            [(service(6, 53), service(6, 54))]
        );
    }

    #[test]
    fn icmp_belongs_to_one_family() {
        let mut ping = rule(Some(ICMP));
        ping.icmp = Some(IcmpMatch { kind: 8, code: None });
        assert_eq!(
            of_destination(&ping, Family::V4, &[]).ranges(),
            [(service(1, 8 << 8), service(1, 9 << 8))]
        );
        assert!(of_destination(&ping, Family::V6, &[]).is_empty());
    }

    #[test]
    fn source_ports_are_of_their_protocol_and_exclude_nothing_without_ports() {
        let mut any = rule(None);
        any.source.ports = vec![PortMatch::Named("dns".to_owned())];
        let dns = |protocol, port| NamedPort { name: "dns".to_owned(), protocol, port };
        let named = [dns(17, 53), dns(6, 5353)];
        let region = of_rule(&any, Family::V4, Named { source: &named, destination: &[] });
        assert!(region.anywhere.is_empty());
        let of = |number: u8| Services(vec![protocol(number)]);
        assert_eq!(
            region.by_source,
            [(of(6), Services(vec![(5353, 5354)])), (of(17), Services(vec![(53, 54)]))]
        );

        let mut not = rule(None);
        not.source.not_ports = vec![PortMatch::Range(0, 1023)];
        let region = of_rule(&not, Family::V4, Named::default());
        assert!(
            region.anywhere.contains(service(ICMP, 0)) && !region.anywhere.contains(service(6, 0))
        );
        assert_eq!(region.by_source.len(), WITH_PORTS.len());
        assert_eq!(region.by_source[0].1.ranges(), [(1024, SOURCE_PORTS)]);
    }
}
