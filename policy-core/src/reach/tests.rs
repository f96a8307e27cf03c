//! The comparison against the reference evaluator, and what its answers look like.

use std::net::IpAddr;

use policy_api::{difference::Effect, messages::Verdict};
use policy_common::abi::service;
use proptest::prelude::*;

use super::*;
use crate::{
    evaluate::{Packet, evaluate},
    identity::{self, Owner},
    testing::{self, ADDRESSES, SERVICES, ip, random_history},
};

/// Who has an address in both models, if it is the same one.
enum Who {
    Endpoint(EndpointId),
    Host,
    Nobody,
}

fn who(models: [&Model; 2], address: IpAddr) -> Option<Who> {
    let owner = |model: &Model| match identity::owners(model).get(&address) {
        Some(Owner::Endpoint(id, _)) => Who::Endpoint((*id).clone()),
        Some(Owner::Host) => Who::Host,
        None => Who::Nobody,
    };
    match models.map(owner) {
        [Who::Endpoint(a), Who::Endpoint(b)] if a == b => Some(Who::Endpoint(a)),
        [Who::Host, Who::Host] => Some(Who::Host),
        [Who::Nobody, Who::Nobody] => Some(Who::Nobody),
        _ => None,
    }
}

/// What decides at both ends, before or after; `None` where nothing is enforced.
fn decisions(
    model: &Model,
    packet: &Packet,
    ends: [&Who; 2],
) -> [Option<(Verdict, policy_api::messages::RuleName)>; 2] {
    let directions = [Direction::Egress, Direction::Ingress];
    [0, 1].map(|end| match ends[end] {
        Who::Endpoint(id) => {
            let decision = evaluate(model, packet, directions[end], id).unwrap();
            Some((decision.verdict, decision.rule))
        }
        Who::Host | Who::Nobody => None,
    })
}

/// The group that an address is in.
fn group_of(
    compiled: &[Compiled; 2],
    groups: &[Group],
    who: &Who,
    address: IpAddr,
) -> Option<usize> {
    let family = identity::family(address);
    let peers = compiled.each_ref().map(|compiled| {
        let longest = || {
            let around = compiled.prefixes().filter(|(net, _)| net.contains(&address));
            around.max_by_key(|(net, _)| net.prefix_len()).map(|(_, peer)| peer)
        };
        let own = compiled.addresses().get(&address).copied();
        own.or_else(longest).unwrap_or(Compiled::world(family))
    });
    let tables = match who {
        Who::Endpoint(id) => Some(compiled.each_ref().map(|compiled| compiled.tables(id).unwrap())),
        Who::Host | Who::Nobody => None,
    };
    let columns = [0, 1].map(|side: usize| compiled[side].columns()[peers[side]]);
    let key = ends::Key { family, columns, tables, uplink: [OPEN; 2] };
    groups.iter().position(|group| group.key == key)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// For every pair of addresses of the small world and every service.
    #[test]
    fn what_changes_is_what_the_evaluator_says(history in random_history()) {
        for pair in history.windows(2) {
            let [before, after] = pair else { continue };
            let models = [before, after];
            let compiled = models.map(Compiled::new);
            let groups = ends::groups(models, &compiled);
            let comparison = Comparison::new(&compiled, &groups);
            for (source, destination) in pairs() {
                let Some(packet_ends) = who(models, source).zip(who(models, destination)) else {
                    continue;
                };
                let (from, to) = (&packet_ends.0, &packet_ends.1);
                let outside = |who: &Who| !matches!(who, Who::Endpoint(_));
                if outside(from) && outside(to) {
                    continue;
                }
                if let (Who::Endpoint(a), Who::Endpoint(b)) = (from, to)
                    && a == b
                {
                    continue;
                }
                let place = |who, address| group_of(&compiled, &groups, who, address);
                let (Some(from_group), Some(to_group)) =
                    (place(from, source), place(to, destination))
                else {
                    return Err(TestCaseError::fail("an address is in no group"));
                };
                let shifts: Vec<&Shift> = comparison
                    .blocks
                    .iter()
                    .filter(|block| {
                        block.sources.contains(&from_group)
                            && block.destinations.contains(&to_group)
                    })
                    .map(|block| &comparison.shifts[block.shift])
                    .collect();
                for (protocol, port) in SERVICES {
                    let packet = Packet { source, destination, protocol, port };
                    let ends = [from, to];
                    let [was, is] = [before, after].map(|model| decisions(model, &packet, ends));
                    let allowed = |ends: &[Option<(Verdict, _)>; 2]| {
                        ends.iter().flatten().all(|(verdict, _)| *verdict == Verdict::Allow)
                    };
                    let expected = match (allowed(&was), allowed(&is)) {
                        (false, true) => Some(Effect::Opened),
                        (true, false) => Some(Effect::Cut),
                        _ => None,
                    };
                    let at = service(protocol, port);
                    let found: Vec<&&Shift> = shifts
                        .iter()
                        .filter(|shift| {
                            let ranges = shift.services.ranges().iter();
                            ranges.clone().any(|(start, end)| (*start..*end).contains(&at))
                        })
                        .collect();
                    prop_assert_eq!(
                        found.iter().map(|shift| shift.effect).collect::<Vec<_>>(),
                        expected.into_iter().collect::<Vec<_>>(),
                        "{:?}: {:?} then {:?}", packet, was, is
                    );
                    let Some(shift) = found.first() else { continue };
                    for (end, turn) in [shift.egress, shift.ingress].into_iter().enumerate() {
                        let rule = |side: usize, rule: Option<usize>| {
                            compiled[side].rule(rule?).cloned()
                        };
                        let expected = match (&was[end], &is[end]) {
                            (Some(was), Some(is)) if was.0 != is.0 => {
                                Some((Some(was.1.clone()), Some(is.1.clone())))
                            }
                            _ => None,
                        };
                        let found = turn.map(|(was, is)| (rule(0, was), rule(1, is)));
                        prop_assert_eq!(found, expected);
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_changes_between_a_model_and_itself(history in random_history()) {
        let reach = compare(&history[0], &history[0]);
        prop_assert_eq!(reach.connections, []);
        prop_assert_eq!(reach.connections_left_out, 0);
    }
}

fn pairs() -> impl Iterator<Item = (IpAddr, IpAddr)> {
    let addresses = ADDRESSES.map(ip);
    addresses.into_iter().flat_map(move |source| {
        let alike = move |other: &IpAddr| other.is_ipv4() == source.is_ipv4() && *other != source;
        addresses.into_iter().filter(alike).map(move |destination| (source, destination))
    })
}

/// The answer as text, one line for each entry.
fn told(before: &Model, after: &Model) -> Vec<String> {
    let reach = compare(before, after);
    reach.connections.iter().map(line).collect()
}

fn line(change: &policy_api::difference::ConnectionChange) -> String {
    use policy_api::difference::End;
    let end = |end: &End| match end {
        End::Endpoint { namespace, name, network: None } => format!("{namespace}/{name}"),
        End::Endpoint { namespace, name, network: Some(network) } => {
            format!("{namespace}/{name}@{network}")
        }
        End::Host => "host".to_owned(),
        End::World => "world".to_owned(),
        End::Network { name, nets, nets_left_out, .. } => {
            format!("{name}({} +{nets_left_out})", nets.join(" "))
        }
    };
    let ends = |ends: &[End]| ends.iter().map(end).collect::<Vec<_>>().join(",");
    let reasons: Vec<String> = change
        .reasons
        .iter()
        .map(|reason| {
            let rule = |rule: &Option<policy_api::messages::RuleName>| {
                rule.as_ref()
                    .map_or_else(|| "-".to_owned(), |it| format!("{}{}", it.policy, it.rule))
            };
            format!("{} {}>{}", reason.at, rule(&reason.before), rule(&reason.after))
        })
        .collect();
    format!(
        "{:?} {} -> {} {} {} [{}]",
        change.effect,
        ends(&change.sources),
        ends(&change.destinations),
        change.families.join("+"),
        change.services.join(" "),
        reasons.join(", ")
    )
}

fn shop() -> Model {
    let mut model = Model::default();
    for (slot, name, app, v4, v6) in [
        (0, "web-1", "web", "10.0.0.1", "fd00::1"),
        (1, "web-2", "web", "10.0.0.2", "fd00::2"),
        (2, "db", "db", "10.0.0.3", "fd00::3"),
    ] {
        testing::add_endpoint(&mut model, name, testing::endpoint(slot, name, app, &[v4, v6]));
    }
    model.host_addresses.insert(ip("10.0.0.254"));
    model
}

fn allow(port: u16, from: &str) -> crate::policy::Rule {
    let mut rule = testing::any_rule(crate::policy::Action::Allow);
    rule.protocol.is = Some(6);
    rule.source.selector = Some(testing::selector(from));
    rule.destination.ports = vec![crate::policy::PortMatch::Range(port, port)];
    rule
}

#[test]
fn a_first_policy_cuts_everything_but_what_it_allows() {
    let before = shop();
    let mut after = before.clone();
    testing::add_policy(
        &mut after,
        testing::policy("db", "app == 'db'", vec![allow(5432, "app == 'web'")]),
    );
    assert_eq!(
        told(&before, &after),
        [
            "Cut shop/web-1,shop/web-2 -> shop/db IPv4+IPv6 all but 5432/tcp \
             [ingress endpoint-default>tier-default]",
            "Cut host,world -> shop/db IPv4+IPv6 all [ingress endpoint-default>tier-default]",
        ]
    );
    assert!(told(&after, &before).iter().all(|line| line.starts_with("Opened ")));
}
