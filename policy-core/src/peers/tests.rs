use super::*;
use crate::{
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

fn meets(universe: &mut Universe, side: &EntityMatch, address: &str) -> bool {
    let matches = universe.matching(side);
    let address = ip(address);
    let family = identity::family(address);
    let around = universe.cidrs.iter().filter(|(net, _)| net.contains(&address));
    let prefix = around.max_by_key(|(net, _)| net.prefix_len()).map(|(_, peer)| *peer);
    let peer = universe.addresses.get(&address).copied().or(prefix);
    matches.contains(peer.unwrap_or(WORLD[family as usize]), family)
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
    let mut universe = Universe::new(&model(), cases.iter().map(|(side, _)| side));
    for (side, expected) in &cases {
        let who = ["10.0.0.1", "10.0.0.254", "10.0.1.9", "203.0.113.9"];
        let found = who.map(|address| meets(&mut universe, side, address));
        assert_eq!(found, *expected, "{side:?}");
    }
}

#[test]
fn a_prefix_inside_its_own_set_is_left_out() {
    let universe = Universe::new(&model(), std::iter::empty());
    assert_eq!(
        universe.cidrs.iter().map(|(net, _)| *net).collect::<Vec<_>>(),
        [net("10.0.0.0/16")]
    );
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
    let universe = Universe::new(&model, std::iter::empty());
    assert_eq!((universe.cidrs.len(), universe.peers.len()), (100_000, 3));
}

#[test]
fn names_say_who() {
    let nets = side(&["198.51.100.0/24"], None, None);
    let several = side(&["192.0.2.0/24", "203.0.113.0/24"], None, None);
    let universe = Universe::new(&model(), [&nets, &several].into_iter());
    let at = |text: &str| {
        let found = universe.cidrs.iter().find(|(cidr, _)| *cidr == net(text));
        universe.name(found.unwrap().1).name
    };
    assert_eq!(at("198.51.100.0/24"), "198.51.100.0/24");
    assert_eq!(at("203.0.113.0/24"), "192.0.2.0/24 and 1 more");
    assert_eq!(at("10.0.0.0/16"), "lan");
    let web = universe.name(universe.addresses[&ip("10.0.0.1")]);
    assert_eq!((web.namespace.as_str(), web.name.as_str()), ("shop", "web"));
    assert_eq!(universe.name(universe.addresses[&ip("10.0.0.254")]).name, "host");
}
