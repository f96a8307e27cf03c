//! The rules that every contender gets.
//!
//! Inputs: how many. Outputs: the same list for all of them, written by each in its own language.
//!
//! The last rule is the one that lets the measured traffic in, so that a list is walked to its end,
//! as it is for everything that no rule lets in.

use std::net::Ipv4Addr;

/// Rules that share one network, each with a port of its own.
const PORTS: u32 = 100;
const FIRST_PORT: u16 = 1_000;
/// 172.16.0.0 and on: no address of the topology is in one of these networks.
const FIRST_NETWORK: u32 = 0xac10_0000;
const NETWORK_PREFIX: u8 = 24;

/// What one rule lets in to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// TCP from a network to one port.
    Service {
        /// Its first address.
        network: Ipv4Addr,
        /// Its length.
        prefix: u8,
        /// The port.
        port: u16,
    },
    /// Everything from one address.
    Source(Ipv4Addr),
}

/// `count` rules, of which only the last has to do with the topology's addresses.
#[must_use]
pub fn rules(count: u32, open_to: Ipv4Addr) -> Vec<Rule> {
    let services = (0..count.saturating_sub(1)).map(|index| Rule::Service {
        network: Ipv4Addr::from_bits(FIRST_NETWORK + ((index / PORTS) << (32 - NETWORK_PREFIX))),
        prefix: NETWORK_PREFIX,
        port: FIRST_PORT + u16::try_from(index % PORTS).unwrap_or_default(),
    });
    services.chain([Rule::Source(open_to)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN_TO: Ipv4Addr = Ipv4Addr::new(10, 80, 1, 2);

    #[test]
    fn one_rule_lets_the_measured_traffic_in_and_stands_last() {
        assert_eq!(rules(1, OPEN_TO), [Rule::Source(OPEN_TO)]);
        let many = rules(1_000, OPEN_TO);
        assert_eq!(many.len(), 1_000);
        let sources = many.iter().filter(|rule| matches!(rule, Rule::Source(_)));
        assert_eq!(sources.count(), 1);
        assert_eq!(many.last(), Some(&Rule::Source(OPEN_TO)));
    }

    #[test]
    fn no_two_rules_are_the_same_and_none_has_the_topologys_addresses() {
        let mut seen = std::collections::BTreeSet::new();
        for rule in rules(50_000, OPEN_TO) {
            let Rule::Service { network, prefix, port } = rule else { continue };
            assert!(seen.insert((network, port)), "{network}/{prefix} {port} twice");
            assert_ne!(network.octets()[0], 10);
            assert_eq!(network.to_bits() & 0xff, 0, "{network} is the beginning of a /{prefix}");
        }
        assert_eq!(seen.len(), 49_999);
    }
}
