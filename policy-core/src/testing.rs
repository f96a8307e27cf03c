//! Models for tests: builders, and random ones over a small world in which things often meet.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use policy_common::abi::{Direction, Family};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};

use crate::{
    host::{self, Failsafe, HostEndpoint, Interface, Plane, Published},
    labels::Labels,
    model::{DefaultAction, EndpointId, EndpointSpec, Model, NamedPort, NetworkSet, Settings},
    policy::{
        Action, EntityMatch, IcmpMatch, Order, Policy, PolicyKey, PolicyKind, PortMatch,
        ProtocolMatch, Reach, Rule, StagedAction,
    },
    selector::Selector,
    tiers::{DEFAULT_ORDER, DEFAULT_TIER, Tier, TierAction},
};

pub(crate) const ADDRESSES: [&str; 11] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.1.1",
    "10.0.0.254",
    "192.0.2.1",
    "192.0.2.129",
    "203.0.113.9",
    "fd00::1",
    "fd00::2",
    "2001:db8::1",
];

const NETS: [&str; 11] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.2/32",
    "10.0.1.0/24",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "::/0",
    "fd00::/8",
    "fd00::2/128",
    "fd00::/126",
];

const SELECTORS: [&str; 10] = [
    "all()",
    "app == 'web'",
    "!has(app)",
    "app in {'db', 'web'}",
    "pcns.env == 'x'",
    "projectcalico.org/namespace == 'a'",
    "zone == 'in'",
    "has(palisade.io/host)",
    "app != 'db'",
    "tier == 'f' && has(app)",
];

/// The last one always exists.
const TIERS: [&str; 4] = ["app", "ops", "security", "default"];

pub(crate) const SERVICES: [(u8, u16); 8] =
    [(6, 80), (6, 8080), (6, 443), (17, 53), (1, 8 << 8), (1, 3 << 8 | 1), (58, 128 << 8), (47, 0)];

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

pub(crate) fn labels(labels: &[(&str, &str)]) -> Labels {
    labels.iter().copied().collect()
}

pub(crate) fn any_rule(action: Action) -> Rule {
    Rule {
        index: 0,
        action,
        family: None,
        protocol: ProtocolMatch::default(),
        icmp: None,
        not_icmp: None,
        source: EntityMatch::default(),
        destination: EntityMatch::default(),
    }
}

/// An endpoint in namespace `shop`, on interface 10 and up in order of `slot`.
pub(crate) fn endpoint(slot: u32, name: &str, app: &str, addresses: &[&str]) -> EndpointSpec {
    EndpointSpec {
        ifindex: 10 + slot,
        interface: format!("veth{slot}"),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        network: "front".to_owned(),
        labels: labels(&[("app", app)]),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        mac: None,
        ports: Vec::new(),
        bridge: None,
        plane: Plane::Workload,
        adopt_until_ns: 0,
    }
}

pub(crate) fn policy(name: &str, subject: &str, ingress: Vec<Rule>) -> Policy {
    Policy {
        key: PolicyKey {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            kind: PolicyKind::NetworkPolicy,
        },
        tier: DEFAULT_TIER.to_owned(),
        order: Order(None),
        subject: selector(subject),
        ingress: Some(ingress),
        egress: None,
        untracked: false,
        new_flows: None,
        reach: Reach::Local,
        staged: None,
    }
}

pub(crate) fn add_endpoint(model: &mut Model, id: &str, endpoint: EndpointSpec) {
    model.endpoints.insert(EndpointId(id.to_owned()), Arc::new(endpoint));
}

pub(crate) fn add_policy(model: &mut Model, policy: Policy) {
    model.policies.insert(policy.key.clone(), Arc::new(policy));
}

pub(crate) fn tier(name: &str, order: Option<f64>, end: TierAction) -> Tier {
    Tier { name: name.to_owned(), order: Order(order), end }
}

pub(crate) fn add_tier(model: &mut Model, tier: Tier) {
    model.tiers.insert(tier.name.clone(), tier);
}

/// Up to three tiers beside `default`, before and behind it, with ties.
fn random_tiers() -> impl Strategy<Value = Vec<Tier>> {
    let end = || select(vec![TierAction::Deny, TierAction::Pass]);
    let order = || select(vec![1.0, 2.0, DEFAULT_ORDER, 2_000_000.0]);
    let tiers = TIERS[..3].to_vec();
    subsequence(tiers, 0..=3).prop_flat_map(move |names| {
        names
            .into_iter()
            .map(|name| (order(), end()).prop_map(move |(order, end)| tier(name, Some(order), end)))
            .collect::<Vec<_>>()
    })
}

fn random_labels() -> impl Strategy<Value = Labels> {
    (option::of(select(vec!["web", "db"])), option::of(select(vec!["f", "b"]))).prop_map(
        |(app, tier)| {
            let app = app.map(|app| ("app", app));
            app.into_iter().chain(tier.map(|tier| ("tier", tier))).collect()
        },
    )
}

fn random_nets(most: usize) -> impl Strategy<Value = Vec<IpNet>> {
    vec(select(NETS.to_vec()), 0..=most).prop_map(|nets| {
        let mut nets: Vec<IpNet> = nets.into_iter().map(net).collect();
        nets.sort_unstable();
        nets.dedup();
        nets
    })
}

fn random_selector() -> impl Strategy<Value = Selector> {
    select(SELECTORS.to_vec()).prop_map(selector)
}

fn random_port() -> impl Strategy<Value = PortMatch> {
    prop_oneof![
        select(vec![(80, 80), (53, 443), (8080, 8080), (1, 65535)])
            .prop_map(|(first, last)| PortMatch::Range(first, last)),
        select(vec!["http", "dns"]).prop_map(|name| PortMatch::Named(name.to_owned())),
    ]
}

fn random_side() -> impl Strategy<Value = EntityMatch> {
    (
        option::weighted(0.4, random_selector()),
        option::weighted(0.2, random_selector()),
        prop_oneof![3 => Just(Vec::new()), 2 => random_nets(3)],
        prop_oneof![4 => Just(Vec::new()), 1 => random_nets(2)],
    )
        .prop_map(|(selector, not_selector, nets, not_nets)| EntityMatch {
            selector,
            not_selector,
            nets,
            not_nets,
            ports: Vec::new(),
            not_ports: Vec::new(),
        })
}

fn random_rule() -> impl Strategy<Value = Rule> {
    let protocol = prop_oneof![
        2 => Just(ProtocolMatch::default()),
        1 => Just(ProtocolMatch { is: None, is_not: Some(6) }),
        6 => select(vec![6_u8, 6, 17, 1, 58])
            .prop_map(|number| ProtocolMatch { is: Some(number), is_not: None }),
    ];
    let icmp = option::of((select(vec![8_u8, 3, 128]), option::of(select(vec![0_u8, 1]))));
    (
        select(vec![Action::Allow, Action::Allow, Action::Deny, Action::Pass, Action::Log]),
        option::weighted(0.2, select(vec![Family::V4, Family::V6])),
        protocol,
        (icmp.clone(), icmp),
        (random_side(), random_side(), 0..4_u8),
        (vec(random_port(), 0..3), vec(random_port(), 0..2)),
        (vec(random_port(), 0..3), vec(random_port(), 0..2), 0..3_u8),
    )
        .prop_map(|(action, family, protocol, icmp, sides, (ports, not_ports), from)| {
            let (mut source, mut destination, which) = sides;
            // Conditions on both sides of one rule are rare, as they are in life.
            if which & 1 == 0 {
                source = EntityMatch::default();
            }
            if which & 2 == 0 {
                destination = EntityMatch::default();
            }
            if protocol.is.is_some_and(|number| number == 6 || number == 17) {
                (destination.ports, destination.not_ports) = (ports, not_ports);
                let (ports, not_ports, some) = from;
                if some == 0 {
                    (source.ports, source.not_ports) = (ports, not_ports);
                }
            }
            let only = |icmp: Option<(u8, Option<u8>)>| {
                icmp.filter(|_| protocol.is.is_some_and(|number| number == 1 || number == 58))
                    .map(|(kind, code)| IcmpMatch { kind, code })
            };
            let (icmp, not_icmp) = (only(icmp.0), only(icmp.1));
            Rule { index: 0, action, family, protocol, icmp, not_icmp, source, destination }
        })
}

fn random_policy() -> impl Strategy<Value = Policy> {
    let rules = || {
        option::weighted(
            0.7,
            vec(random_rule(), 0..4).prop_map(|mut rules| {
                for (index, rule) in rules.iter_mut().enumerate() {
                    rule.index = index;
                }
                rules
            }),
        )
    };
    (
        select(vec!["p0", "p1", "p2"]),
        select(vec!["", "a", "b"]),
        select(TIERS.to_vec()),
        (
            select(vec![None, Some(1.0), Some(2.0)]),
            select(vec![Reach::Local, Reach::Forward, Reach::Forward, Reach::PreDnat]),
        ),
        random_selector(),
        rules(),
        rules(),
        option::weighted(0.25, select(vec![StagedAction::Set, StagedAction::Delete])),
    )
        .prop_map(
            |(name, namespace, tier, (order, reach), subject, ingress, egress, staged)| Policy {
                key: PolicyKey {
                    name: name.to_owned(),
                    namespace: namespace.to_owned(),
                    kind: match (namespace.is_empty(), staged) {
                        (true, None) => PolicyKind::GlobalNetworkPolicy,
                        (true, Some(_)) => PolicyKind::StagedGlobalNetworkPolicy,
                        (false, None) => PolicyKind::NetworkPolicy,
                        (false, Some(_)) => PolicyKind::StagedNetworkPolicy,
                    },
                },
                tier: tier.to_owned(),
                order: Order(order),
                subject,
                ingress,
                egress,
                untracked: false,
                new_flows: None,
                reach,
                staged,
            },
        )
}

fn random_endpoint() -> impl Strategy<Value = (EndpointId, EndpointSpec)> {
    let port = |name: &str, protocol, port| NamedPort { name: name.to_owned(), protocol, port };
    let ports = vec![
        vec![],
        vec![port("http", 6, 80)],
        vec![port("http", 6, 8080), port("dns", 17, 53), port("dns", 6, 443)],
    ];
    (
        (0..4_u32, 0..2_u32),
        select(vec!["a", "b"]),
        random_labels(),
        vec(select(ADDRESSES[..4].to_vec()), 0..=2),
        option::of(select(ADDRESSES[8..10].to_vec())),
        option::of(Just([2, 0, 0, 0, 0, 1])),
        select(ports),
        option::of(Just(3)),
    )
        .prop_map(|((slot, life), namespace, labels, v4, v6, mac, ports, bridge)| {
            let mut addresses: Vec<IpAddr> = v4.into_iter().chain(v6).map(ip).collect();
            addresses.sort_unstable();
            addresses.dedup();
            let spec = EndpointSpec {
                ifindex: 10 + slot,
                interface: format!("veth{slot}"),
                name: format!("e{slot}"),
                namespace: namespace.to_owned(),
                network: "net".to_owned(),
                labels,
                addresses,
                mac,
                ports,
                bridge,
                plane: Plane::Workload,
                adopt_until_ns: 0,
            };
            (EndpointId(format!("e{slot}-{life}")), spec)
        })
}

fn random_set() -> impl Strategy<Value = NetworkSet> {
    (
        select(vec!["s0", "s1"]),
        select(vec!["", "a"]),
        select(vec![&[("zone", "in")][..], &[("zone", "out")], &[("app", "web")]]),
        random_nets(3),
    )
        .prop_map(|(name, namespace, set_labels, nets)| NetworkSet {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: labels(set_labels),
            nets,
        })
}

/// A host endpoint `up` on interface 40, by its labels, default and expected addresses.
fn random_host_endpoint() -> impl Strategy<Value = HostEndpoint> {
    let default = select(vec![DefaultAction::Allow, DefaultAction::Deny]);
    let expected = select(vec![&[][..], &["10.0.0.254"], &["10.0.0.3", "203.0.113.9", "fd00::1"]]);
    let ports =
        select(vec![vec![], vec![NamedPort { name: "http".to_owned(), protocol: 6, port: 80 }]]);
    (random_labels(), default, expected, ports).prop_map(|(labels, default, expected, ports)| {
        HostEndpoint {
            name: "up".to_owned(),
            node: "here".to_owned(),
            interface: Interface::Named("eth0".to_owned()),
            expected_ips: expected.iter().map(|text| ip(text)).collect(),
            labels,
            ports,
            default,
        }
    })
}

/// Puts a host endpoint on `eth0`, interface 40.
pub(crate) fn add_host_endpoint(model: &mut Model, endpoint: HostEndpoint) {
    let planes = host::planes(&endpoint, "eth0", 40, &model.host_addresses, 0);
    model.endpoints.extend(planes.into_iter().map(|(id, spec)| (id, Arc::new(spec))));
    model.host_endpoints.insert(endpoint.name.clone(), Arc::new(endpoint));
}

/// Any model of the small world.
pub(crate) fn random_model() -> impl Strategy<Value = Model> {
    let settings = (any::<bool>(), any::<bool>()).prop_map(|(deny, host_access)| Settings {
        default_action: if deny { DefaultAction::Deny } else { DefaultAction::Allow },
        host_access,
    });
    (
        settings,
        (random_tiers(), vec(random_policy(), 0..5)),
        vec(random_set(), 0..3),
        vec(random_endpoint(), 1..5),
        vec(select(vec!["10.0.0.254", "fd00::1", "10.0.0.3"]), 0..2),
        (option::of(select(vec!["x", "y"])), option::of(random_host_endpoint())),
        (option::of(select(vec![22, 68])), option::of(select(vec![80, 8080]))),
    )
        .prop_map(
            |(settings, (tiers, policies), sets, endpoints, host, (env, up), (safe, to))| {
                let mut model = Model { settings, ..Model::default() };
                for tier in tiers {
                    add_tier(&mut model, tier);
                }
                for mut policy in policies {
                    if !model.tiers.contains_key(&policy.tier) {
                        policy.tier = DEFAULT_TIER.to_owned();
                    }
                    add_policy(&mut model, policy);
                }
                for set in sets {
                    let key = (set.namespace.clone(), set.name.clone());
                    model.network_sets.insert(key, Arc::new(set));
                }
                for (id, spec) in endpoints {
                    // One interface is one endpoint.
                    if model.endpoints.values().all(|other| other.ifindex != spec.ifindex) {
                        model.endpoints.insert(id, Arc::new(spec));
                    }
                }
                model.host_addresses = host.into_iter().map(ip).collect();
                if let Some(env) = env {
                    model.namespaces.insert("a".to_owned(), labels(&[("env", env)]));
                }
                if let Some(up) = up {
                    add_host_endpoint(&mut model, up);
                    model.failsafe.extend(safe.map(|port| Failsafe {
                        direction: Direction::Ingress,
                        protocol: 6,
                        port,
                        net: None,
                    }));
                    let port = Published { address: ip("0.0.0.0"), protocol: 6, port: 8000 };
                    model.published.extend(to.map(|to| (port, to)));
                }
                model
            },
        )
}

/// A model and some that differ from it in a part, as they follow each other in life.
pub(crate) fn random_history() -> impl Strategy<Value = Vec<Model>> {
    let change = (random_model(), 0..7_u8);
    (random_model(), vec(change, 2..4)).prop_map(|(first, changes)| {
        let mut history = vec![first];
        for (other, what) in changes {
            let mut next = history[history.len() - 1].clone();
            match what {
                0 => (next.tiers, next.policies) = (other.tiers, other.policies),
                1 => {
                    next.endpoints = other.endpoints;
                    next.host_endpoints = other.host_endpoints;
                }
                2 => next.network_sets = other.network_sets,
                3 => {
                    (next.tiers, next.policies) = (other.tiers, other.policies);
                    next.endpoints = other.endpoints;
                }
                4 => (next.namespaces, next.settings) = (other.namespaces, other.settings),
                5 => {
                    // The same tiers with other orders and ends.
                    for tier in next.tiers.values_mut() {
                        if let Some(other) = other.tiers.get(&tier.name) {
                            *tier = other.clone();
                        }
                    }
                }
                _ => next = other,
            }
            history.push(next);
        }
        history
    })
}
