use std::net::IpAddr;

use super::*;
use crate::{
    division::Division,
    model::NetworkSet,
    testing::{self, ip, net, selector},
};

fn side(nets: &[&str], chosen: Option<&str>, not: Option<&str>) -> EntityMatch {
    EntityMatch {
        selector: chosen.map(selector),
        not_selector: not.map(selector),
        nets: nets.iter().map(|text| net(text)).collect(),
        ..EntityMatch::default()
    }
}

/// Peers that have been divided as finely as the model needs where rules name `nets`.
fn divided(model: &Model, naming: &[&EntityMatch]) -> (Peers, Division) {
    let (mut peers, mut division) = (Peers::default(), Division::default());
    let groups: Vec<_> =
        naming.iter().filter_map(|side| peers.nets(&side.nets).1).map(|it| (it, true)).collect();
    division.follow(&Model::default(), model, &groups, &mut peers);
    (peers, division)
}

fn at(division: &Division, address: &str) -> usize {
    let net = IpNet::from(ip(address));
    let prefixes = division.prefixes();
    let prefix = || prefixes.peer(net).or_else(|| prefixes.around(net));
    let exact = division.addresses().get(&ip(address)).copied();
    exact.or_else(prefix).unwrap_or(WORLD[usize::from(ip(address).is_ipv6())])
}

fn model() -> Model {
    let mut model = Model::default();
    testing::add_endpoint(&mut model, "w", testing::endpoint(0, "web", "web", &["10.0.0.1"]));
    model.host_addresses.insert(ip("10.0.0.254"));
    let set = NetworkSet {
        namespace: String::new(),
        name: "lan".to_owned(),
        labels: testing::labels(&[("zone", "in")]),
        nets: vec![net("10.0.0.0/16"), net("10.0.1.0/24")],
    };
    model.network_sets.insert((String::new(), "lan".to_owned()), Arc::new(set));
    model
}

#[test]
fn who_meets_which_condition() {
    // Condition, then: the container, the host, somebody in the set, the world.
    let cases = [
        (side(&[], Some("all()"), None), [true, true, true, false]),
        (side(&[], Some("!has(app)"), None), [true, true, true, false]),
        (side(&[], Some("app == 'web'"), None), [true, false, false, false]),
        (side(&[], Some("zone == 'in'"), None), [true, true, true, false]),
        (side(&[], Some("has(palisade.io/host)"), None), [false, true, false, false]),
        (side(&[], None, Some("app == 'web'")), [false, true, true, true]),
        (side(&[], None, Some("all()")), [false, false, false, true]),
        (side(&["0.0.0.0/0"], None, None), [true, true, true, true]),
        (side(&["::/0"], None, None), [false, false, false, false]),
        (side(&["10.0.0.0/24"], None, None), [true, true, false, false]),
        (side(&["10.0.0.0/24"], None, Some("app == 'web'")), [false, true, false, false]),
        (side(&[], Some("all()"), Some("has(app)")), [true, true, true, false]),
    ];
    // Whether the conditions were there before the peers or come after them.
    let sides: Vec<&EntityMatch> = cases.iter().map(|(side, _)| side).collect();
    let (after, division) = divided(&model(), &sides);
    let mut before = Peers::default();
    for side in &sides {
        before.condition(side);
    }
    let mut again = Division::default();
    let groups: Vec<_> =
        sides.iter().filter_map(|side| before.nets(&side.nets).1).map(|it| (it, true)).collect();
    again.follow(&Model::default(), &model(), &groups, &mut before);
    for (mut peers, division) in [(after, division), (before, again)] {
        for (side, expected) in &cases {
            let who = ["10.0.0.1", "10.0.0.254", "10.0.1.9", "203.0.113.9"];
            let condition = peers.condition(side);
            let found = who.map(|address| peers.meets(condition, at(&division, address)));
            assert_eq!(found, *expected, "{side:?}");
        }
    }
}

#[test]
fn a_prefix_inside_its_own_set_is_left_out() {
    let (_, division) = divided(&model(), &[]);
    let nets: Vec<IpNet> = division.prefixes().peers().map(|(net, _)| net).collect();
    assert_eq!(nets, [net("10.0.0.0/16")]);
}

#[test]
fn a_million_prefixes_are_one_peer() {
    let mut model = Model::default();
    let nets = (0..100_000_u32)
        .map(|low| IpNet::new(IpAddr::from((0x0b00_0000 | low << 4).to_be_bytes()), 28).unwrap());
    let set = NetworkSet {
        namespace: String::new(),
        name: "feed".to_owned(),
        labels: Labels::default(),
        nets: nets.collect(),
    };
    model.network_sets.insert((String::new(), "feed".to_owned()), Arc::new(set));
    let (peers, division) = divided(&model, &[]);
    assert_eq!((division.prefixes().peers().count(), peers.peers.len()), (100_000, 3));
}

#[test]
fn names_say_who() {
    let nets = side(&["198.51.100.0/24"], None, None);
    let several = side(&["192.0.2.0/24", "203.0.113.0/24"], None, None);
    let (peers, division) = divided(&model(), &[&nets, &several]);
    let name = |address: &str| peers.name(at(&division, address));
    assert_eq!(name("198.51.100.7").name, "198.51.100.0/24");
    assert_eq!(name("203.0.113.7").name, "192.0.2.0/24 and 1 more");
    assert_eq!(name("10.0.7.7").name, "lan");
    let web = name("10.0.0.1");
    assert_eq!((web.namespace.as_str(), web.name.as_str()), ("shop", "web"));
    assert_eq!(name("10.0.0.254").name, "host");
}

#[test]
fn networks_name_a_peer_alike_whichever_rule_came_first() {
    let sides = [
        side(&["10.0.0.0/24", "192.0.2.0/24"], None, None),
        side(&["10.0.1.0/24", "192.0.2.0/24"], None, None),
    ];
    for sides in [[&sides[0], &sides[1]], [&sides[1], &sides[0]]] {
        let (peers, division) = divided(&Model::default(), &sides);
        assert_eq!(peers.name(at(&division, "192.0.2.1")).name, "10.0.0.0/24 and 1 more");
    }
}
