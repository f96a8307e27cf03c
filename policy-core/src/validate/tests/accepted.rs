//! What is accepted, and what it means.

use policy_common::abi::Family;

use super::*;
use crate::policy::{Action, EntityMatch, FlowLimit, IcmpMatch, PortMatch, ProtocolMatch, Rule};

fn policy(text: &str) -> Policy {
    match decode(&value(text)) {
        Ok(Object::Policy(policy)) => std::sync::Arc::unwrap_or_clone(policy),
        other => panic!("{text}: {other:?}"),
    }
}

fn text(selector: Option<&crate::selector::Selector>) -> String {
    selector.map_or_else(String::new, ToString::to_string)
}

#[test]
fn every_field_of_a_rule_reaches_the_policy() {
    let policy = policy(&gnp(
        "order: 10.5\nselector: app == 'web'\ntypes: [Ingress, Egress]\nperformanceHints: \
         [AssumeNeededOnEveryNode]\ningress:\n- action: Deny\n- action: Allow\n  ipVersion: 4\n  \
         protocol: TCP\n  notProtocol: UDP\n  metadata: {annotations: {a: b}}\n  source:\n    nets: \
         [192.168.0.0/16, 10.0.0.0/8, 10.0.0.0/8]\n    notNets: [10.1.0.0/16]\n    selector: \
         has(a)\n    notSelector: has(b)\n  destination:\n    selector: has(c)\n    ports: [8080, \
         '90:99', http, '80']\n    notPorts: [93]\negress:\n- action: Allow\n  protocol: 1\n  icmp: \
         {type: 8, code: 0}\n  notICMP: {type: 3}\n- action: Allow\n  source: {selector: has(a)}",
    ));
    assert_eq!(policy.order.0, Some(10.5));
    assert_eq!(policy.tier, "default");
    assert_eq!(policy.subject.to_string(), "app == \"web\"");
    assert_eq!(policy.key.to_string(), "GlobalNetworkPolicy p");
    let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
    let selector = |text: &str| Some(text.parse::<crate::selector::Selector>().unwrap());
    let expected = Rule {
        index: 1,
        action: Action::Allow,
        family: Some(Family::V4),
        protocol: ProtocolMatch { is: Some(6), is_not: Some(17) },
        icmp: None,
        not_icmp: None,
        source: EntityMatch {
            selector: selector("has(a)"),
            not_selector: selector("has(b)"),
            nets: vec![net("10.0.0.0/8"), net("192.168.0.0/16")],
            not_nets: vec![net("10.1.0.0/16")],
            ..EntityMatch::default()
        },
        destination: EntityMatch {
            selector: selector("has(c)"),
            ports: vec![
                PortMatch::Range(80, 80),
                PortMatch::Range(90, 99),
                PortMatch::Range(8080, 8080),
                PortMatch::Named("http".to_owned()),
            ],
            not_ports: vec![PortMatch::Range(93, 93)],
            ..EntityMatch::default()
        },
    };
    assert_eq!(policy.ingress.as_ref().unwrap().get(1), Some(&expected));
    let egress = policy.egress.unwrap();
    let first = egress.first().unwrap();
    assert_eq!(first.icmp, Some(IcmpMatch { kind: 8, code: Some(0) }));
    assert_eq!(first.not_icmp, Some(IcmpMatch { kind: 3, code: None }));
    assert_eq!(text(egress[1].source.selector.as_ref()), "has(a)");
}

#[test]
fn types_default_as_upstream() {
    let allow = "[{action: Allow}]";
    for (spec, ingress, egress) in [
        ("order: 1".to_owned(), Some(0), None),
        (format!("ingress: {allow}"), Some(1), None),
        (format!("egress: {allow}"), None, Some(1)),
        (format!("ingress: {allow}\negress: {allow}"), Some(1), Some(1)),
        (format!("ingress: []\negress: {allow}"), None, Some(1)),
        ("ingress: []\negress: []".to_owned(), Some(0), None),
        ("types: [Egress]".to_owned(), None, Some(0)),
        (format!("types: [Ingress]\negress: {allow}"), Some(0), None),
        ("types: [Egress, Ingress]\ningress: ~".to_owned(), Some(0), Some(0)),
    ] {
        for text in [np(&spec), gnp(&spec)] {
            let policy = policy(&text);
            assert_eq!(policy.ingress.as_ref().map(Vec::len), ingress, "{text}");
            assert_eq!(policy.egress.as_ref().map(Vec::len), egress, "{text}");
        }
    }
}

#[test]
fn kubernetes_types_default_as_upstream() {
    for (spec, ingress, egress) in [
        ("podSelector: {}", Some(0), None),
        ("ingress: [{}]", Some(1), None),
        ("egress: []", Some(0), None),
        ("egress: [{}]", Some(0), Some(1)),
        ("policyTypes: []\negress: [{}]", Some(0), Some(1)),
        ("policyTypes: [Egress]", None, Some(0)),
        ("policyTypes: [Ingress, Egress]\ningress: [{}]", Some(1), Some(0)),
        ("policyTypes: [Ingress]\negress: [{}]", Some(0), None),
    ] {
        let policy = policy(&knp(spec));
        assert_eq!(policy.ingress.as_ref().map(Vec::len), ingress, "{spec}");
        assert_eq!(policy.egress.as_ref().map(Vec::len), egress, "{spec}");
        assert_eq!(policy.order.0, Some(1000.0));
        assert_eq!(policy.subject.to_string(), "projectcalico.org/namespace == \"ns\"");
    }
}

#[test]
fn selectors_are_scoped_as_upstream() {
    let own = "projectcalico.org/namespace == \"ns\"";
    // (fields of source, scoped selector in a NetworkPolicy, in a GlobalNetworkPolicy)
    for (source, namespaced, global) in [
        ("nets: [10.0.0.0/8]", String::new(), ""),
        ("selector: has(a)", format!("({own} && has(a))"), "has(a)"),
        ("selector: ''", String::new(), ""),
        ("selector: all()", own.to_owned(), "all()"),
        ("notSelector: has(a)", own.to_owned(), ""),
        ("namespaceSelector: has(n)", "has(pcns.n)".to_owned(), "has(pcns.n)"),
        (
            "namespaceSelector: all()",
            "has(projectcalico.org/namespace)".to_owned(),
            "has(projectcalico.org/namespace)",
        ),
        (
            "namespaceSelector: global(), selector: has(a)",
            "(!has(projectcalico.org/namespace) && has(a))".to_owned(),
            "(!has(projectcalico.org/namespace) && has(a))",
        ),
        (
            "namespaceSelector: ' global( ) '",
            "!has(projectcalico.org/namespace)".to_owned(),
            "!has(projectcalico.org/namespace)",
        ),
        (
            "namespaceSelector: n == 'x', notSelector: has(a)",
            "pcns.n == \"x\"".to_owned(),
            "pcns.n == \"x\"",
        ),
    ] {
        let spec = format!("ingress: [{{action: Allow, source: {{{source}}}}}]");
        for (text_of, expected) in [(np(&spec), namespaced.as_str()), (gnp(&spec), global)] {
            let rules = policy(&text_of).ingress.unwrap();
            assert_eq!(text(rules[0].source.selector.as_ref()), expected, "{source}");
        }
    }
    for (spec, subject) in
        [("selector: has(a)", format!("(has(a) && {own})")), ("selector: ''", own.to_owned())]
    {
        assert_eq!(policy(&np(spec)).subject.to_string(), subject);
    }
    for (spec, subject) in [
        ("selector: ''", "all()"),
        ("namespaceSelector: has(n)", "has(pcns.n)"),
        (
            "namespaceSelector: '!has(n)'\nselector: all()",
            "(has(projectcalico.org/namespace) && !has(pcns.n))",
        ),
        (
            "namespaceSelector: all()\nselector: has(a)",
            "(has(a) && has(projectcalico.org/namespace))",
        ),
    ] {
        assert_eq!(policy(&gnp(spec)).subject.to_string(), subject);
    }
}

#[test]
fn kubernetes_peers_and_ports() {
    let rules = policy(&knp(
        "podSelector: {matchLabels: {app: db}, matchExpressions: [{key: x, operator: NotIn, values: \
         [y]}]}\ningress:\n- from: []\n- from:\n  - podSelector: {}\n  - namespaceSelector: {}\n  - \
         namespaceSelector: {matchLabels: {env: prod}}\n    podSelector: {matchExpressions: [{key: \
         a, operator: DoesNotExist}]}\n  - ipBlock: {cidr: 10.1.2.3/8, except: [10.1.0.0/16]}\n  \
         ports:\n  - {port: 80}\n  - {port: 8000, endPort: 8010}\n  - {protocol: UDP, port: dns}\n  - \
         {protocol: SCTP, port: 1}\n  - {protocol: SCTP}",
    ));
    assert_eq!(
        rules.subject.to_string(),
        "(app == \"db\" && x not in {\"y\"} && projectcalico.org/namespace == \"ns\")"
    );
    let ingress = rules.ingress.unwrap();
    let anyone = ingress.first().unwrap();
    assert!(anyone.source.matches_anyone() && anyone.protocol.is.is_none());
    assert!(anyone.destination.ports.is_empty());

    let rest = &ingress[1..];
    assert!(rest.iter().all(|rule| rule.index == 1 && rule.action == Action::Allow));
    assert_eq!(rest.len(), 12, "three protocols, four peers");
    let ports: Vec<_> = rest
        .iter()
        .step_by(4)
        .map(|rule| (rule.protocol.is, rule.destination.ports.clone()))
        .collect();
    assert_eq!(
        ports,
        [
            (Some(6), vec![PortMatch::Range(80, 80), PortMatch::Range(8000, 8010)]),
            (Some(17), vec![PortMatch::Named("dns".to_owned())]),
            (Some(132), vec![]),
        ]
    );
    let pod = "has(projectcalico.org/orchestrator)";
    let peers: Vec<String> =
        rest.iter().take(3).map(|rule| text(rule.source.selector.as_ref())).collect();
    assert_eq!(
        peers,
        [
            format!("({pod} && projectcalico.org/namespace == \"ns\")"),
            format!("({pod} && has(projectcalico.org/namespace))"),
            format!("({pod} && pcns.env == \"prod\" && !has(a))"),
        ]
    );
    assert_eq!(rest[3].source.nets, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(rest[3].source.not_nets, ["10.1.0.0/16".parse().unwrap()]);

    let egress = policy(&knp("egress: [{to: [{podSelector: {}}], ports: [{port: 5432}]}]")).egress;
    let [rule] = egress.as_deref().unwrap() else { panic!("one rule") };
    assert!(rule.source.matches_anyone());
    assert!(rule.destination.selector.is_some());
    assert_eq!(rule.destination.ports, [PortMatch::Range(5432, 5432)]);
}

#[test]
fn untracked_policies() {
    let policy = policy(&gnp(
        "doNotTrack: true\napplyOnForward: true\nselector: has(uplink)\ntypes: \
         [Ingress]\ningress:\n- {action: Deny, source: {selector: \"list == 'bad'\"}}\n- {action: Deny, \
         source: {nets: [192.0.2.0/24, 2001:db8::/32]}}",
    ));
    assert!(policy.untracked && policy.egress.is_none());
    assert_eq!(policy.ingress.unwrap()[1].source.nets.len(), 2);
}

#[test]
fn limits_of_new_flows() {
    let limited = |annotations: &str| {
        let metadata = format!("name: p\nannotations: {{{annotations}}}");
        let spec = "doNotTrack: true\napplyOnForward: true";
        policy(&document("projectcalico.org/v3", "GlobalNetworkPolicy", &metadata, spec)).new_flows
    };
    let rate = "palisade.io/new-flows-per-second";
    let burst = "palisade.io/new-flows-burst";
    assert_eq!(limited("other/word: '1'"), None);
    let limit = |per_second, burst| Some(FlowLimit { per_second, burst });
    assert_eq!(limited(&format!("{rate}: '100'")), limit(100, 100));
    assert_eq!(limited(&format!("{rate}: '1', {burst}: '1000000'")), limit(1, 1_000_000));
    assert_eq!(limited(&format!("{rate}: '0020', {burst}: '1'")), limit(20, 1));
}

#[test]
fn sets_namespaces_and_endpoints() {
    let set = decode(&value(&document(
        "projectcalico.org/v3",
        "NetworkSet",
        "name: bad.list\nlabels: {list: bad}\nuid: x\nresourceVersion: '1'\ncreationTimestamp: ~",
        "nets: [10.1.2.3/8, 192.0.2.1, 2001:db8::1, 10.0.0.0/8]",
    )));
    let Ok(Object::NetworkSet(set)) = set else { panic!("{set:?}") };
    assert_eq!((set.namespace.as_str(), set.name.as_str()), ("default", "bad.list"));
    assert_eq!(set.labels.get("projectcalico.org/namespace"), Some("default"));
    let nets: Vec<String> = set.nets.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::1/128"]);

    let namespace = decode(&value(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: prod\n  labels: {env: prod, \
         kubernetes.io/metadata.name: prod}\nspec: {finalizers: [kubernetes]}\nstatus: {phase: Active}",
    ));
    let labels: Labels = [("env", "prod")].into_iter().collect();
    assert_eq!(namespace, Ok(Object::Namespace { name: "prod".to_owned(), labels }));

    let endpoint = decode(&value(&wep(
        "orchestrator: k8s\nnode: n\nworkload: w\ncontainerID: c\npod: p\nendpoint: eth0\ninterfaceName: \
         vethw\nipNetworks: [10.0.0.2/32, 'fd00::2', 10.0.0.2]\nmac: 02:42:ac:11:00:02\nports: [{name: \
         web, protocol: TCP, port: 8080, hostPort: 0, hostIP: ''}]",
    )));
    let Ok(Object::WorkloadEndpoint(endpoint)) = endpoint else { panic!("{endpoint:?}") };
    let addresses: [IpAddr; 2] = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    assert_eq!(endpoint.addresses, addresses);
    assert_eq!(endpoint.mac, Some([2, 0x42, 0xac, 0x11, 0, 2]));
    assert_eq!(endpoint.ports, [NamedPort { name: "web".to_owned(), protocol: 6, port: 8080 }]);
    let labels: Vec<_> = endpoint.labels.iter().collect();
    assert_eq!(
        labels,
        [
            ("palisade.io/name", "w"),
            ("projectcalico.org/namespace", "default"),
            ("projectcalico.org/orchestrator", "static"),
        ]
    );
}

#[test]
fn names_survive() {
    for (text, expected) in [
        (np("order: 1"), ("projectcalico.org/v3", "NetworkPolicy", Some("ns"), "p")),
        (gnp("order: 1"), ("projectcalico.org/v3", "GlobalNetworkPolicy", None, "p")),
        (knp("podSelector: {}"), ("networking.k8s.io/v1", "NetworkPolicy", Some("ns"), "p")),
        (
            document("projectcalico.org/v3", "Tier", "name: t", "order: 1"),
            ("projectcalico.org/v3", "Tier", None, "t"),
        ),
        (
            wep("interfaceName: a\nipNetworks: [10.0.0.2]"),
            ("projectcalico.org/v3", "WorkloadEndpoint", Some("default"), "w"),
        ),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a}}".to_owned(),
            ("v1", "Namespace", None, "a"),
        ),
    ] {
        let value = value(&text);
        let name = resource_name(&value).unwrap();
        assert_eq!(
            (
                name.api_version.as_str(),
                name.kind.as_str(),
                name.namespace.as_deref(),
                name.name.as_str()
            ),
            expected
        );
        assert_eq!(decode(&value).unwrap().resource_name(), name);
    }
}
