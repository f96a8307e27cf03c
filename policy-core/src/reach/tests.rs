//! The comparison against the reference evaluator, and what its answers look like.

use std::net::IpAddr;

use policy_api::{difference::Effect, messages::Verdict};
use policy_common::abi::service;
use proptest::prelude::*;

use super::*;
use crate::{
    evaluate::{Packet, evaluate, staged},
    identity::{self, Owner},
    testing::{self, ADDRESSES, SERVICES, ip, random_history, random_model},
};

/// At the edges of what rules of the small world name.
const SOURCE_PORTS: [u16; 4] = [0, 80, 8080, 40_000];

/// Who has an address in both models, if it is the same one.
enum Who {
    Endpoint(EndpointId),
    Host,
    Nobody,
}

fn who(models: [&Model; 2], address: IpAddr) -> Option<Who> {
    let owner = |model: &Model| match identity::owners(model).get(&address) {
        Some(Owner::Endpoint(id, _)) => Who::Endpoint((*id).clone()),
        Some(Owner::Host | Owner::HostEndpoint(_)) => Who::Host,
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
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For every pair of addresses of the small world and every service.
    #[test]
    fn what_changes_is_what_the_evaluator_says(history in random_history()) {
        // What a model allows at all is what it opens where nothing was allowed.
        let whole: Vec<[Model; 2]> =
            history.iter().take(1).map(|model| [closed(model), model.clone()]).collect();
        for pair in history.windows(2).chain(whole.iter().map(|it| &it[..])) {
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
                let services = SERVICES.into_iter();
                for ((protocol, port), source_port) in
                    services.flat_map(|service| SOURCE_PORTS.map(|port| (service, port)))
                {
                    let packet = Packet { source, destination, protocol, port, source_port };
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
                            shift.services.contains(at)
                                && shift.source_ports.contains(u32::from(source_port))
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

    /// The evaluator has its own account of what staged policies would do.
    #[test]
    fn staged_policies_in_force_decide_as_the_evaluator_says(model in random_model()) {
        let enforced = model.with_staged_enforced();
        for (source, destination) in pairs() {
            for (protocol, port) in SERVICES {
                let packet = Packet { source, destination, protocol, port, source_port: 8080 };
                for id in model.endpoints.keys() {
                    for direction in [Direction::Egress, Direction::Ingress] {
                        let pending = staged(&model, &packet, direction, id)
                            .or_else(|| evaluate(&model, &packet, direction, id));
                        let is = evaluate(&enforced, &packet, direction, id);
                        prop_assert_eq!(
                            is.map(|decision| decision.verdict),
                            pending.map(|decision| decision.verdict)
                        );
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

fn end(end: &End) -> String {
    match end {
        End::Endpoint { namespace, name, network: None } => format!("{namespace}/{name}"),
        End::Endpoint { namespace, name, network: Some(network) } => {
            format!("{namespace}/{name}@{network}")
        }
        End::Host => "host".to_owned(),
        End::World => "world".to_owned(),
        End::Network { name, nets, nets_left_out, .. } => {
            format!("{name}({} +{nets_left_out})", nets.join(" "))
        }
    }
}

fn line(change: &policy_api::difference::ConnectionChange) -> String {
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

/// What the datapath's lists of prefixes and the division of addresses have to be asked for.
#[test]
fn a_network_that_longer_prefixes_use_up_is_nobody() {
    let mut before = shop();
    let nets = |nets: &[&str]| nets.iter().map(|net| testing::net(net)).collect();
    let mut rule = testing::any_rule(crate::policy::Action::Deny);
    rule.source.nets = nets(&["192.0.2.0/24"]);
    let mut inner = testing::any_rule(crate::policy::Action::Allow);
    inner.source.nets = nets(&["192.0.2.0/25", "192.0.2.128/25"]);
    let policy = |rules| testing::policy("db", "app == 'db'", rules);
    testing::add_policy(&mut before, policy(vec![inner.clone(), rule]));
    let mut after = before.clone();
    testing::add_policy(
        &mut after,
        policy(vec![inner, testing::any_rule(crate::policy::Action::Allow)]),
    );
    assert_eq!(
        told(&before, &after),
        ["Opened shop/web-1,shop/web-2,host,world -> shop/db IPv4+IPv6 all \
          [ingress tier-default>dbingress[0]]"]
    );
}

#[test]
fn an_uplink_that_drops_is_an_end() {
    let mut before = shop();
    before.uplinks.insert(2, testing::labels(&[("uplink", "")]));
    let mut after = before.clone();
    let mut rule = testing::any_rule(crate::policy::Action::Deny);
    rule.source.nets = vec![testing::net("203.0.113.0/24")];
    let mut policy = testing::policy("feed", "all()", vec![rule]);
    policy.untracked = true;
    testing::add_policy(&mut after, policy);
    let line = "203.0.113.0/24(203.0.113.0/24 +0) -> shop/db,shop/web-1,shop/web-2 IPv4 all";
    assert_eq!(told(&before, &after), [format!("Cut {line} [uplink ->feedingress[0]]")]);
    assert_eq!(told(&after, &before), [format!("Opened {line} [uplink feedingress[0]>-]")]);
}

#[test]
fn a_rule_about_source_ports_opens_for_those_only() {
    let mut before = shop();
    let mut rule = allow(5432, "app == 'web'");
    testing::add_policy(&mut before, testing::policy("db", "app == 'db'", vec![]));
    rule.source.ports = vec![crate::policy::PortMatch::Range(1024, 65535)];
    let mut after = before.clone();
    testing::add_policy(&mut after, testing::policy("db", "app == 'db'", vec![rule]));
    let reach = compare(&before, &after);
    let [change] = &reach.connections[..] else { panic!("{reach:?}") };
    assert_eq!(change.source_ports, ["1024-65535"]);
    assert_eq!(change.services, ["5432/tcp"]);
}

#[test]
fn an_endpoint_that_only_one_side_has_is_named_and_not_compared() {
    let before = shop();
    let mut after = before.clone();
    after.endpoints.remove(&EndpointId("db".to_owned()));
    testing::add_endpoint(&mut after, "new", testing::endpoint(7, "new", "db", &["10.0.0.7"]));
    let reach = compare(&before, &after);
    assert_eq!(reach.endpoints, 2);
    assert_eq!(
        (&reach.endpoints_gone[..], &reach.endpoints_new[..]),
        (&["shop/db".to_owned()][..], &["shop/new".to_owned()][..])
    );
    assert_eq!(reach.connections, []);
}

#[test]
fn the_whole_of_what_is_allowed_is_told_with_its_rules() {
    let mut model = shop();
    let mut world = testing::any_rule(crate::policy::Action::Allow);
    world.index = 1;
    world.protocol.is = Some(6);
    world.source.nets = vec![testing::net("0.0.0.0/0")];
    world.destination.ports = vec![crate::policy::PortMatch::Range(443, 443)];
    let rules = vec![allow(5432, "app == 'web'"), world];
    testing::add_policy(&mut model, testing::policy("db", "app == 'db'", rules));
    model.settings.default_action = DefaultAction::Deny;
    let told = |model: &Model| -> Vec<String> {
        let found = connectivity(model);
        assert_eq!((found.endpoints, found.connections_left_out), (3, 0));
        let line = |allowed: &Allowed| {
            let by = allowed.allowed_by.iter().map(|it| {
                assert_eq!(it.packets, None, "nobody has counted");
                format!("{} {}{}", it.at, it.rule.policy, it.rule.rule)
            });
            format!(
                "{} -> {} {} {} [{}]{}",
                allowed.sources.iter().map(end).collect::<Vec<_>>().join(","),
                allowed.destinations.iter().map(end).collect::<Vec<_>>().join(","),
                allowed.families.join("+"),
                allowed.services.join(","),
                by.collect::<Vec<_>>().join(", "),
                if allowed.exposed { " exposed" } else { "" },
            )
        };
        found.connections.iter().map(line).collect()
    };
    // Who is denied to call is not among those who are let in.
    assert_eq!(told(&model), ["host,world -> shop/db IPv4 443/tcp [ingress dbingress[1]] exposed"]);
    model.settings.default_action = DefaultAction::Allow;
    let open = told(&model);
    assert!(
        open.contains(
            &"shop/web-1,shop/web-2 -> shop/db IPv4+IPv6 5432/tcp [egress endpoint-default, \
              ingress dbingress[0]]"
                .to_owned()
        ),
        "{open:#?}"
    );
    assert!(
        open.iter().any(|line| line.contains("-> shop/web-1,shop/web-2")
            && line.contains("world")
            && line.ends_with(" exposed")),
        "{open:#?}"
    );
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
