//! HostEndpoints, and the fields of policies that are about them.

use std::sync::Arc;

use super::*;
use crate::{host::Interface, model::DefaultAction, policy::Reach};

fn read(spec: &str) -> Arc<HostEndpoint> {
    match decode(&value(&hep(spec))) {
        Ok(Object::HostEndpoint(endpoint)) => endpoint,
        other => panic!("{spec}: {other:#?}"),
    }
}

fn reach(spec: &str) -> Reach {
    match decode(&value(&gnp(spec))) {
        Ok(Object::Policy(policy)) => policy.reach,
        other => panic!("{spec}: {other:#?}"),
    }
}

#[test]
fn a_host_endpoint_is_read_whole() {
    let found = read(
        "node: db-1.example\ninterfaceName: eth0\nexpectedIPs: ['2001:db8::1', 192.0.2.1, 192.0.2.1]\n\
         ports: [{name: ssh, protocol: TCP, port: 22}, {name: dns, protocol: 17, port: 53}]",
    );
    let port = |name: &str, protocol, port| NamedPort { name: name.to_owned(), protocol, port };
    assert_eq!(
        found,
        Arc::new(HostEndpoint {
            name: "h".to_owned(),
            node: "db-1.example".to_owned(),
            interface: Interface::Named("eth0".to_owned()),
            expected_ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            labels: Labels::default(),
            ports: vec![port("dns", 17, 53), port("ssh", 6, 22)],
            default: DefaultAction::Deny,
        })
    );
}

#[test]
fn the_interface_is_a_name_an_address_or_all() {
    assert_eq!(read("node: n\ninterfaceName: '*'").interface, Interface::All);
    assert_eq!(read("node: n\nexpectedIPs: [192.0.2.1]").interface, Interface::WithAddress);
    assert_eq!(
        read("node: n\ninterfaceName: ''\nexpectedIPs: [192.0.2.1]").interface,
        Interface::WithAddress
    );
}

#[test]
fn the_one_profile_says_what_the_default_is() {
    let default = |profiles: &str| {
        read(&format!("node: n\ninterfaceName: eth0\nprofiles: {profiles}")).default
    };
    assert_eq!(default("[projectcalico-default-allow]"), DefaultAction::Allow);
    assert_eq!(default("[]"), DefaultAction::Deny);
    assert_eq!(default("~"), DefaultAction::Deny);
}

#[test]
fn a_label_is_an_authors_own() {
    let labelled = |label: &str| {
        let metadata = format!("name: h\nlabels: {{{label}: x}}");
        document("projectcalico.org/v3", "HostEndpoint", &metadata, "node: n\ninterfaceName: eth0")
    };
    assert!(decode(&value(&labelled("role"))).is_ok());
    for label in ["palisade.io/host", "projectcalico.org/namespace", "pcns.a", "pcsa.a"] {
        check(label, &labelled(label), &[(&format!("metadata.labels.{label}"), "reserved")]);
    }
    let namespaced =
        hep("node: n\ninterfaceName: eth0").replace("name: h", "name: h\n  namespace: a");
    check("namespace", &namespaced, &[("metadata.namespace", "not in a namespace")]);
}

#[test]
fn host_endpoints() {
    let with = |spec: &str| hep(&format!("node: n\ninterfaceName: eth0\n{spec}"));
    let cases: &[Case] = &[
        (
            "empty",
            hep("node: ~"),
            &[("spec.node", "has no node"), ("spec", "neither an interface nor an address")],
        ),
        ("no node", hep("interfaceName: eth0"), &[("spec.node", "--node-name")]),
        ("bad node", hep("node: Db_1\ninterfaceName: eth0"), &[("spec.node", "name of a node")]),
        ("nothing", hep("node: n"), &[("spec", "expectedIPs")]),
        ("no address", hep("node: n\nexpectedIPs: []"), &[("spec", "neither")]),
        (
            "name",
            hep("node: n\ninterfaceName: a/b"),
            &[("spec.interfaceName", "not an interface name")],
        ),
        (
            "length",
            hep("node: n\ninterfaceName: a123456789012345"),
            &[("spec.interfaceName", "at most 15")],
        ),
        ("star", hep("node: n\ninterfaceName: 'eth*'"), &[("spec.interfaceName", "at most 15")]),
        ("loopback", hep("node: n\ninterfaceName: lo"), &[("spec.interfaceName", "loopback")]),
        (
            "addresses",
            with("expectedIPs: [10.0.0.1/32, x, '::ffff:10.0.0.1', 127.0.0.1, 224.0.0.1, '::']"),
            &[
                ("spec.expectedIPs[0]", "without prefix length"),
                ("spec.expectedIPs[1]", "not an address"),
                ("spec.expectedIPs[2]", "write 10.0.0.1"),
                ("spec.expectedIPs[3]", "cannot be the address"),
                ("spec.expectedIPs[4]", "cannot be the address"),
                ("spec.expectedIPs[5]", "cannot be the address"),
            ],
        ),
        (
            "profile",
            with("profiles: [projectcalico-default-allow, web]"),
            &[("spec.profiles[1]", "no profile `web`")],
        ),
        (
            "ports",
            with(
                "ports: [{}, {name: a, protocol: ICMP, port: 1}, {name: a b, protocol: TCP, port: 0}]",
            ),
            &[
                ("spec.ports[0].name", "is not a port"),
                ("spec.ports[0].protocol", "has no protocol"),
                ("spec.ports[0].port", "has no number"),
                ("spec.ports[1].protocol", "has no ports"),
                ("spec.ports[2].name", "is not a port"),
                ("spec.ports[2].port", "1 to 65535"),
            ],
        ),
        (
            "host port",
            with("ports: [{name: a, protocol: TCP, port: 1, hostPort: 2}]"),
            &[("spec.ports[0].hostPort", "unknown field")],
        ),
        ("unknown", with("interface: eth0"), &[("spec.interface", "did you mean")]),
    ];
    for (name, text, expected) in cases {
        check(name, text, expected);
    }
}

#[test]
fn forwarding() {
    assert_eq!(reach("ingress: [{action: Allow}]"), Reach::Local);
    assert_eq!(reach("applyOnForward: false\npreDNAT: false"), Reach::Local);
    assert_eq!(reach("applyOnForward: true"), Reach::Forward);
    assert_eq!(reach("applyOnForward: true\npreDNAT: true"), Reach::PreDnat);
    // What is sure at the uplink may be said.
    for rule in [
        "ingress: [{action: Deny, protocol: TCP, source: {selector: role == 'bad', nets: [10.0.0.0/8], \
         notNets: [10.1.0.0/16]}, destination: {ports: [80, '90:99'], notPorts: [95]}}]",
        "egress: [{action: Deny, protocol: TCP, destination: {selector: all(), namespaceSelector: \
         global(), ports: [80]}}]",
    ] {
        assert_eq!(reach(&format!("applyOnForward: true\n{rule}")), Reach::Forward, "{rule}");
    }

    let forward = |text: &str| gnp(&format!("applyOnForward: true\n{text}"));
    let cases: &[Case] = &[
        ("forward", gnp("preDNAT: true"), &[("spec.applyOnForward", "needs")]),
        (
            "both",
            forward("preDNAT: true\ndoNotTrack: true\ntypes: [Ingress]"),
            &[("spec.preDNAT", "exclude each other")],
        ),
        (
            "rules out",
            forward("preDNAT: true\negress: [{action: Deny}]"),
            &[("spec.egress", "no say on egress")],
        ),
        (
            "type",
            forward("preDNAT: true\ntypes: [Ingress, Egress]"),
            &[("spec.types", "no say on egress")],
        ),
        (
            "near side of ingress",
            forward(
                "ingress: [{action: Deny, destination: {nets: [10.0.0.0/8], notNets: [10.1.0.0/16], \
                 selector: a == 'b', notSelector: a == 'c', namespaceSelector: all()}}]",
            ),
            &[
                ("spec.ingress[0].destination.nets", "applyOnForward"),
                ("spec.ingress[0].destination.notNets", "near side"),
                ("spec.ingress[0].destination.selector", "without applyOnForward that selects"),
                ("spec.ingress[0].destination.notSelector", "near side"),
                ("spec.ingress[0].destination.namespaceSelector", "near side"),
            ],
        ),
        (
            "near side of egress",
            forward("egress: [{action: Deny}, {action: Deny, source: {selector: a == 'b'}}]"),
            &[("spec.egress[1].source.selector", "after the source was translated")],
        ),
        (
            "near side before translation",
            forward("preDNAT: true\ningress: [{action: Deny, destination: {nets: [10.0.0.0/8]}}]"),
            &[("spec.ingress[0].destination.nets", "under preDNAT")],
        ),
        (
            "log",
            forward("preDNAT: true\ningress: [{action: Log}, {action: Deny}]"),
            &[("spec.ingress[0].action", "without preDNAT")],
        ),
        (
            "staged",
            document(
                "projectcalico.org/v3",
                "StagedGlobalNetworkPolicy",
                "name: p",
                "applyOnForward: true\npreDNAT: true\ningress: [{action: Deny}]",
            ),
            &[("spec.preDNAT", "staged preDNAT")],
        ),
        (
            "names",
            forward(
                "ingress: [{action: Deny, protocol: TCP, destination: {ports: [80, web], notPorts: [x]}}]",
            ),
            &[
                ("spec.ingress[0].destination.ports[1]", "named ports"),
                ("spec.ingress[0].destination.notPorts[0]", "named ports"),
            ],
        ),
    ];
    for (name, text, expected) in cases {
        check(name, text, expected);
    }
}

#[test]
fn a_policy_that_is_asked_before_others_cannot_be_staged_away() {
    let object = |text: &str| decode(&value(text)).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let staged = |name: &str| {
        let (version, kind) = ("projectcalico.org/v3", "StagedGlobalNetworkPolicy");
        object(&document(version, kind, &format!("name: {name}"), "stagedAction: Delete"))
    };
    let deny = "ingress: [{action: Deny, source: {nets: [10.0.0.0/8]}}]";
    for (field, refused) in [("preDNAT", true), ("doNotTrack", true), ("applyOnForward", false)] {
        let spec = format!("applyOnForward: true\n{deny}");
        let spec = if field == "applyOnForward" { spec } else { format!("{field}: true\n{spec}") };
        let objects = [object(&gnp(&spec)), staged("p"), staged("q")];
        for found in [
            references(objects.iter()),
            open_references(objects.iter(), &std::collections::BTreeSet::new()),
        ] {
            let at: Vec<_> = found
                .iter()
                .map(|(name, it)| (name.kind.as_str(), name.name.as_str(), it.path.as_str()))
                .collect();
            let expected = [("StagedGlobalNetworkPolicy", "p", "metadata.name")];
            assert_eq!(at, &expected[..usize::from(refused)], "{field}");
            assert!(found.iter().all(|(_, it)| it.message.contains(field)), "{found:#?}");
        }
    }
}
