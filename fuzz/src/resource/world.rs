//! A small host on which resources are in force.
//!
//! Inputs: resources, and bytes that choose packets. Held: the compiler plans or refuses for a
//! named lack of room; nothing is left to do after a plan has been carried out; the tables decide
//! as the evaluator does, by the same rule.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use policy_api::messages::Verdict;
use policy_common::abi::Direction;
use policy_core::{
    compile::Compiler,
    evaluate::{self, Packet},
    host::Plane,
    identity,
    labels::endpoint_labels,
    model::{EndpointId, EndpointSpec, Model, NamedPort},
    policy::{PortMatch, Rule},
    simulate::{Kernel, Outcome, Probe},
    validate::{self, Object, StaticEndpoint},
};

/// Packets that are tried on one model. Each costs a walk through the whole policy.
const PACKETS: usize = 16;
/// Source ports that packets come from, and next to which rules begin and end.
const SOURCE_PORTS: [u16; 5] = [1, 53, 80, 1024, 50_000];
/// Interface index of the first endpoint.
const FIRST_IFINDEX: u32 = 10;

/// Puts the first half of the resources in force, then all of them.
pub(super) fn check(objects: &[Object], choice: &[u8]) {
    let mut compiler = Compiler::new();
    let mut kernel = Kernel::default();
    for part in [&objects[..objects.len() / 2], objects] {
        let model = model(part);
        // A model that does not fit is refused whole, and the last one stays.
        let Ok(planned) = compiler.plan(&model) else { continue };
        for op in &planned.plan.ops {
            kernel.apply(op);
        }
        compiler.commit(planned);
        agree(&model, &compiler, &kernel, choice);
        match compiler.plan(&model) {
            Ok(again) => assert!(again.plan.ops.is_empty(), "{:?}", again.plan.ops),
            Err(error) => panic!("what was just put in force does not fit: {error}"),
        }
    }
}

fn model(objects: &[Object]) -> Model {
    let dangling: BTreeSet<_> =
        validate::references(objects.iter()).into_iter().map(|(name, _)| name).collect();
    let mut model = Model::default();
    for object in objects.iter().filter(|object| !dangling.contains(&object.resource_name())) {
        match object {
            Object::Policy(policy) => {
                model.policies.insert(policy.key.clone(), Arc::clone(policy));
            }
            Object::NetworkSet(set) => {
                let key = (set.namespace.clone(), set.name.clone());
                model.network_sets.insert(key, Arc::clone(set));
            }
            Object::Namespace { name, labels } => {
                model.namespaces.insert(name.clone(), labels.clone());
            }
            Object::Tier(tier) => {
                model.tiers.insert(tier.name.clone(), tier.clone());
            }
            Object::WorkloadEndpoint(endpoint) => add(&mut model, endpoint),
            // Its planes depend on interfaces; here it counts by the addresses that it expects.
            Object::HostEndpoint(endpoint) => {
                model.host_endpoints.insert(endpoint.name.clone(), Arc::clone(endpoint));
            }
        }
    }
    for endpoint in residents() {
        add(&mut model, &endpoint);
    }
    model.host_addresses =
        ["10.0.0.254", "fd00::fe"].iter().filter_map(|it| it.parse().ok()).collect();
    model.uplinks.insert(1, [("palisade.io/interface", "eth0")].into_iter().collect());
    model
}

/// Endpoints that are always there, so that a lone policy has somebody to select.
fn residents() -> [StaticEndpoint; 3] {
    let resident = |namespace: &str, name: &str, app: &str, addresses: &[&str]| StaticEndpoint {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        interface: name.to_owned(),
        labels: endpoint_labels([("app", app)], namespace, name, "static"),
        addresses: addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        ports: vec![
            NamedPort { name: "dns".to_owned(), protocol: 17, port: 53 },
            NamedPort { name: "http".to_owned(), protocol: 6, port: 80 },
        ],
    };
    [
        resident("default", "web", "web", &["10.0.0.1", "fd00::1"]),
        resident("default", "db", "db", &["10.0.0.2"]),
        resident("a", "web", "web", &["10.0.1.1", "fd00::2"]),
    ]
}

fn add(model: &mut Model, endpoint: &StaticEndpoint) {
    let id = EndpointId(format!("static/{}/{}", endpoint.namespace, endpoint.name));
    let next = FIRST_IFINDEX + u32::try_from(model.endpoints.len()).unwrap_or_default();
    // One that is replaced keeps its interface.
    let ifindex = model.endpoints.get(&id).map_or(next, |known| known.ifindex);
    let spec = EndpointSpec {
        ifindex,
        interface: endpoint.interface.clone(),
        name: endpoint.name.clone(),
        namespace: endpoint.namespace.clone(),
        network: String::new(),
        labels: endpoint.labels.clone(),
        addresses: endpoint.addresses.clone(),
        mac: endpoint.mac,
        ports: endpoint.ports.clone(),
        bridge: None,
        adopt_until_ns: 0,
        plane: Plane::Workload,
    };
    model.endpoints.insert(id, Arc::new(spec));
}

/// Holds the verdicts of some packets, deciding rule included, against the evaluator's.
fn agree(model: &Model, compiler: &Compiler, kernel: &Kernel, choice: &[u8]) {
    let remotes: Vec<IpAddr> = remotes(model).into_iter().collect();
    let services: Vec<(u8, u16)> = services(model).into_iter().collect();
    let ends: Vec<(&EndpointId, u32, IpAddr)> = model
        .endpoints
        .iter()
        .flat_map(|(id, spec)| {
            let own = identity::own_addresses(spec).into_iter();
            own.map(move |address| (id, spec.ifindex, address))
        })
        .collect();
    let mut choice = choice.iter().cycle().copied();
    // Steps of a size that the input chooses: every packet can be met by some input.
    let mut take = |count: usize, step: usize| {
        let (high, low) = (choice.next().unwrap_or_default(), choice.next().unwrap_or_default());
        (usize::from(u16::from_be_bytes([high, low])) + step) % count.max(1)
    };
    for packet in 0..PACKETS {
        let (id, ifindex, own) = ends[take(ends.len(), packet)];
        let direction = if packet % 2 == 0 { Direction::Ingress } else { Direction::Egress };
        let remote = remotes[take(remotes.len(), packet / 2)];
        let (protocol, port) = services[take(services.len(), packet / 3)];
        if remote.is_ipv4() != own.is_ipv4() {
            continue;
        }
        let (source, destination) = match direction {
            Direction::Ingress => (remote, own),
            Direction::Egress => (own, remote),
        };
        let source_port = SOURCE_PORTS[take(SOURCE_PORTS.len(), packet)];
        let probe = Probe { ifindex, direction, source, destination, protocol, port, source_port };
        let question = Packet { source, destination, protocol, port, source_port };
        let Some(expected) = evaluate::evaluate(model, &question, direction, id) else {
            panic!("{} is no endpoint of the model", id.0)
        };
        let Outcome::Decided { allow, rule, .. } = kernel.look_up(&probe) else {
            panic!("{probe:?}: {:?}", kernel.look_up(&probe))
        };
        let found = if allow { Verdict::Allow } else { Verdict::Deny };
        assert_eq!(
            (found, compiler.ids().rule(rule)),
            (expected.verdict, Some(&expected.rule)),
            "{probe:?}\n{}",
            expected.walk.join("\n")
        );
    }
}

fn rules(model: &Model) -> impl Iterator<Item = &Rule> {
    model
        .policies
        .values()
        .flat_map(|policy| policy.ingress.iter().flatten().chain(policy.egress.iter().flatten()))
}

/// Addresses at the edges of what the rules and sets name, and those of the host and the endpoints.
fn remotes(model: &Model) -> BTreeSet<IpAddr> {
    let sides = rules(model).flat_map(|rule| [&rule.source, &rule.destination]);
    let nets = sides.flat_map(|side| side.nets.iter().chain(&side.not_nets));
    let sets = model.network_sets.values().flat_map(|set| &set.nets);
    let owned = model.endpoints.values().flat_map(|endpoint| endpoint.addresses.iter().copied());
    let world = ["203.0.113.9", "2001:db8::9"].iter().filter_map(|address| address.parse().ok());
    nets.chain(sets)
        .flat_map(edges)
        .chain(owned)
        .chain(model.host_addresses.iter().copied())
        .chain(world)
        .collect()
}

fn edges(net: &IpNet) -> [IpAddr; 4] {
    let beyond = |address: IpAddr, up: bool| match address {
        IpAddr::V4(address) => {
            let number = u32::from(address);
            IpAddr::V4(if up { number.saturating_add(1) } else { number.saturating_sub(1) }.into())
        }
        IpAddr::V6(address) => {
            let number = u128::from(address);
            IpAddr::V6(if up { number.saturating_add(1) } else { number.saturating_sub(1) }.into())
        }
    };
    let (first, last) = (net.network(), net.broadcast());
    [first, last, beyond(first, false), beyond(last, true)]
}

/// Protocols and ports at the edges of what the rules name.
fn services(model: &Model) -> BTreeSet<(u8, u16)> {
    let mut services = BTreeSet::from([(6, 80), (17, 53), (1, 8 << 8), (58, 128 << 8), (47, 0)]);
    for rule in rules(model) {
        let protocol = rule.protocol.is.or(rule.protocol.is_not).unwrap_or(6);
        services.insert((protocol, 0));
        for icmp in [rule.icmp, rule.not_icmp].into_iter().flatten() {
            let first = u16::from_be_bytes([icmp.kind, icmp.code.unwrap_or_default()]);
            services.extend([(protocol, first), (protocol, first.saturating_add(1))]);
        }
        for port in rule.destination.ports.iter().chain(&rule.destination.not_ports) {
            if let PortMatch::Range(first, last) = port {
                let edges = [*first, *last, first.saturating_sub(1), last.saturating_add(1)];
                services.extend(edges.map(|port| (protocol, port)));
            }
        }
    }
    services
}
