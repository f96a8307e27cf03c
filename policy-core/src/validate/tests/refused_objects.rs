//! What is refused, where, and with which words: Kubernetes' policies, endpoints, network sets, namespaces.

use super::*;

const LONG_LABEL: &str = "spec.podSelector.matchLabels.\
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn kubernetes_policies() {
    let from = |peer: &str| knp(&format!("podSelector: {{}}\ningress: [{{from: [{peer}]}}]"));
    let ports = |port: &str| knp(&format!("podSelector: {{}}\negress: [{{ports: [{port}]}}]"));
    let pods = |selector: &str| knp(&format!("podSelector: {selector}"));
    let cases: &[Case] = &[
        ("peer", from("{}"), &[("spec.ingress[0].from[0]", "says nothing")]),
        ("null rule", knp("ingress: [~]"), &[("spec.ingress[0]", "`{}`")]),
        (
            "both",
            from("{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}"),
            &[("spec.ingress[0].from[0]", "two entries")],
        ),
        ("cidr", from("{ipBlock: {}}"), &[("spec.ingress[0].from[0].ipBlock.cidr", "no `cidr`")]),
        (
            "bad",
            from("{ipBlock: {cidr: x}}"),
            &[("spec.ingress[0].from[0].ipBlock.cidr", "not a network")],
        ),
        (
            "address",
            from("{ipBlock: {cidr: 10.0.0.1}}"),
            &[("spec.ingress[0].from[0].ipBlock.cidr", "10.0.0.1/32")],
        ),
        (
            "except",
            from("{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8, 11.0.0.0/16, 10.1.0.0/16]}}"),
            &[
                ("spec.ingress[0].from[0].ipBlock.except[0]", "not a part"),
                ("spec.ingress[0].from[0].ipBlock.except[1]", "not a part"),
            ],
        ),
        (
            "protocol",
            ports("{protocol: ICMP}"),
            &[("spec.egress[0].ports[0].protocol", "TCP or UDP or SCTP")],
        ),
        ("port", ports("{port: 0}"), &[("spec.egress[0].ports[0].port", "1 to 65535")]),
        ("name", ports("{port: Web}"), &[("spec.egress[0].ports[0].port", "lower-case")]),
        ("digits", ports("{port: '80'}"), &[("spec.egress[0].ports[0].port", "without quotes")]),
        (
            "end",
            ports("{port: 90, endPort: 80}"),
            &[("spec.egress[0].ports[0].endPort", "`port: 80`")],
        ),
        (
            "end only",
            ports("{endPort: 80}"),
            &[("spec.egress[0].ports[0].endPort", "needs a `port`")],
        ),
        (
            "named end",
            ports("{port: web, endPort: 80}"),
            &[("spec.egress[0].ports[0].endPort", "number")],
        ),
        ("type", knp("policyTypes: [Both]"), &[("spec.policyTypes[0]", "Ingress or Egress")]),
        ("twice", knp("policyTypes: [Egress, Egress]"), &[("spec.policyTypes[1]", "twice")]),
        (
            "label",
            pods("{matchLabels: {a b: c}}"),
            &[("spec.podSelector.matchLabels.a b", "name for a label")],
        ),
        (
            "value",
            pods("{matchLabels: {a: -c}}"),
            &[("spec.podSelector.matchLabels.a", "value for a label")],
        ),
        (
            "operator",
            pods("{matchExpressions: [{key: a, operator: in, values: [b]}]}"),
            &[("spec.podSelector.matchExpressions[0].operator", "did you mean `In`?")],
        ),
        (
            "no values",
            pods("{matchExpressions: [{key: a, operator: In}]}"),
            &[("spec.podSelector.matchExpressions[0].values", "needs values")],
        ),
        (
            "values",
            pods("{matchExpressions: [{key: a, operator: Exists, values: [b]}]}"),
            &[("spec.podSelector.matchExpressions[0].values", "takes no values")],
        ),
        (
            "no key",
            pods("{matchExpressions: [{operator: Exists}]}"),
            &[("spec.podSelector.matchExpressions[0].key", "has no key")],
        ),
        (
            "no operator",
            pods("{matchExpressions: [{key: a}]}"),
            &[("spec.podSelector.matchExpressions[0].operator", "no operator (write In or NotIn")],
        ),
        (
            "except of the other family",
            from("{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/64']}}"),
            &[("spec.ingress[0].from[0].ipBlock.except[0]", "not a part")],
        ),
        (
            "except around",
            from("{ipBlock: {cidr: 10.0.0.0/8, except: [0.0.0.0/0]}}"),
            &[("spec.ingress[0].from[0].ipBlock.except[0]", "not a part")],
        ),
        (
            "empty cidr",
            from("{ipBlock: {cidr: ''}}"),
            &[("spec.ingress[0].from[0].ipBlock.cidr", "no `cidr`")],
        ),
        (
            "leading zeros",
            from("{ipBlock: {cidr: 010.0.0.0/8}}"),
            &[("spec.ingress[0].from[0].ipBlock.cidr", "not a network")],
        ),
        (
            "lower-case protocol",
            ports("{protocol: tcp}"),
            &[("spec.egress[0].ports[0].protocol", "did you mean `TCP`?")],
        ),
        ("negative", ports("{port: -1}"), &[("spec.egress[0].ports[0].port", "1 to 65535")]),
        ("large", ports("{port: 65536}"), &[("spec.egress[0].ports[0].port", "1 to 65535")]),
        (
            "large end",
            ports("{port: 80, endPort: 65536}"),
            &[("spec.egress[0].ports[0].endPort", "1 to 65535")],
        ),
        (
            "end 0",
            ports("{port: 80, endPort: 0}"),
            &[("spec.egress[0].ports[0].endPort", "1 to 65535")],
        ),
        (
            "long port name",
            ports("{port: a-name-of-16-byte}"),
            &[("spec.egress[0].ports[0].port", "at most 15")],
        ),
        (
            "dashes",
            ports("{port: a--b}"),
            &[("spec.egress[0].ports[0].port", "not the name of a port")],
        ),
        (
            "not in",
            pods("{matchExpressions: [{key: a, operator: NotIn, values: []}]}"),
            &[("spec.podSelector.matchExpressions[0].values", "NotIn needs values")],
        ),
        (
            "not there",
            pods("{matchExpressions: [{key: a, operator: DoesNotExist, values: [b]}]}"),
            &[("spec.podSelector.matchExpressions[0].values", "DoesNotExist takes no values")],
        ),
        (
            "value in a list",
            pods("{matchExpressions: [{key: a, operator: In, values: [ok, 'a b']}]}"),
            &[("spec.podSelector.matchExpressions[0].values[1]", "value for a label")],
        ),
        (
            "prefix",
            pods("{matchLabels: {Example.com/a: b}}"),
            &[("spec.podSelector.matchLabels.Example.com/a", "name for a label")],
        ),
        (
            "long label",
            pods(&format!("{{matchLabels: {{{}: b}}}}", "a".repeat(64))),
            &[(LONG_LABEL, "at most 63")],
        ),
        (
            "types",
            knp("policyTypes: [Ingress, Egress, Ingress]"),
            &[("spec.policyTypes[2]", "twice")],
        ),
        ("null peer", from("~"), &[("spec.ingress[0].from[0]", "ipBlock")]),
        ("field", knp("selector: all()"), &[("spec.selector", "did you mean `podSelector`?")]),
    ];
    for (name, text, expected) in cases {
        check(name, text, expected);
    }
}

#[test]
fn endpoints_sets_and_namespaces() {
    let good = "interfaceName: veth0\nipNetworks: [10.0.0.2/32]";
    let set =
        |metadata: &str, spec: &str| document("projectcalico.org/v3", "NetworkSet", metadata, spec);
    let endpoint = |more: &str| wep(&format!("{good}\n{more}"));
    let cases: &[Case] = &[
        (
            "empty endpoint",
            wep("node: a"),
            &[("spec.interfaceName", "no interface"), ("spec.ipNetworks", "no address")],
        ),
        (
            "interface",
            wep("interfaceName: a-name-of-16-byte\nipNetworks: [10.0.0.2]"),
            &[("spec.interfaceName", "15 letters")],
        ),
        (
            "interface path",
            wep("interfaceName: ../x\nipNetworks: [10.0.0.2]"),
            &[("spec.interfaceName", "is not an interface")],
        ),
        (
            "addresses",
            wep("interfaceName: a\nipNetworks: [10.0.0.0/24, x, '::', 127.0.0.1, 224.0.0.1]"),
            &[
                ("spec.ipNetworks[0]", "more than one address"),
                ("spec.ipNetworks[1]", "is not a network"),
                ("spec.ipNetworks[2]", "cannot be"),
                ("spec.ipNetworks[3]", "cannot be"),
                ("spec.ipNetworks[4]", "cannot be"),
            ],
        ),
        (
            "an address with the prefix length of its network",
            wep("interfaceName: a\nipNetworks: [10.0.0.2/24]"),
            &[("spec.ipNetworks[0]", "such as 10.0.0.2/32")],
        ),
        (
            "origins",
            endpoint(
                "orchestrator: k_8\nworkload: A\nnode: a b\npod: -a\nendpoint: a..b\n\
                 serviceAccountName: a/b\ncontainerID: a.b",
            ),
            &[
                ("spec.orchestrator", "`k_8` is not a name"),
                ("spec.workload", "is not a name"),
                ("spec.node", "is not a name"),
                ("spec.pod", "is not a name"),
                ("spec.endpoint", "is not a name"),
                ("spec.serviceAccountName", "is not a name"),
                ("spec.containerID", "is not the id of a container"),
            ],
        ),
        ("container", endpoint("containerID: a-"), &[("spec.containerID", "at both ends")]),
        ("mac", endpoint("mac: 02:42:ac:11:00"), &[("spec.mac", "six octets")]),
        ("mac signs", endpoint("mac: '+2:42:ac:11:00:0g'"), &[("spec.mac", "six octets")]),
        ("profiles", endpoint("profiles: [a]"), &[("spec.profiles", "not supported")]),
        ("nats", endpoint("ipNATs: [{internalIP: 10.0.0.2}]"), &[("spec.ipNATs", "not supported")]),
        (
            "spoof",
            endpoint("allowSpoofedSourcePrefixes: [10.0.0.0/8]"),
            &[("spec.allowSpoofedSourcePrefixes", "not supported")],
        ),
        (
            "port",
            endpoint("ports: [{}]"),
            &[
                ("spec.ports[0].name", "is not a port name (write a name of at most 15"),
                ("spec.ports[0].protocol", "no protocol"),
                ("spec.ports[0].port", "no number"),
            ],
        ),
        (
            "port values",
            endpoint("ports: [{name: a, protocol: ICMP, port: 70000, hostPort: 80}]"),
            &[
                ("spec.ports[0].protocol", "has no ports"),
                ("spec.ports[0].port", "70000"),
                ("spec.ports[0].hostPort", "not supported"),
            ],
        ),
        (
            "reserved labels",
            set(
                "name: s\nlabels: {projectcalico.org/namespace: x, palisade.io/host: '', pcns.a: b, pcsa.a: b}",
                "nets: []",
            ),
            &[
                ("metadata.labels.projectcalico.org/namespace", "reserved"),
                ("metadata.labels.palisade.io/host", "reserved"),
                ("metadata.labels.pcns.a", "reserved"),
                ("metadata.labels.pcsa.a", "reserved"),
            ],
        ),
        (
            "labels",
            set(&format!("name: s\nlabels: {{/a: b, c: {}, d: 1}}", "x".repeat(64)), "nets: []"),
            &[
                ("metadata.labels.d", "in quotes"),
                ("metadata.labels./a", "name for a label"),
                ("metadata.labels.c", "value for a label"),
            ],
        ),
        ("nets", set("name: s", "nets: [10.0.0.1, x/8]"), &[("spec.nets[1]", "is not a network")]),
        (
            "domains",
            set("name: s", "allowedEgressDomains: [a.b]"),
            &[("spec.allowedEgressDomains", "not supported")],
        ),
        ("no name", set("labels: {a: b}", "nets: []"), &[("metadata.name", "missing")]),
        ("name", set("name: A", "nets: []"), &[("metadata.name", "lower-case")]),
        (
            "long name",
            set(&format!("name: {}", "a".repeat(254)), "nets: []"),
            &[("metadata.name", "253")],
        ),
        ("namespace", set("name: a\nnamespace: a.b-", "nets: []"), &[("metadata.namespace", "63")]),
        (
            "generated",
            set("name: a\ngenerateName: a-", "nets: []"),
            &[("metadata.generateName", "`name`")],
        ),
        (
            "global in a namespace",
            document(
                "projectcalico.org/v3",
                "GlobalNetworkSet",
                "name: a\nnamespace: b",
                "nets: []",
            ),
            &[("metadata.namespace", "remove the field")],
        ),
        (
            "a policy of Kubernetes as upstream shows it",
            document(
                "projectcalico.org/v3",
                "NetworkPolicy",
                "name: knp.default.a",
                "types: [Ingress]",
            ),
            &[("metadata.name", "apply the Kubernetes NetworkPolicy itself")],
        ),
        (
            "long policy name",
            document(
                "projectcalico.org/v3",
                "GlobalNetworkPolicy",
                &format!("name: {}", "a".repeat(254)),
                "order: 1",
            ),
            &[("metadata.name", "not a name for this kind")],
        ),
        (
            "annotations",
            set(&format!("name: s\nannotations: {{a: {}}}", "x".repeat(256 * 1024)), "nets: []"),
            &[("metadata.annotations", "262145 bytes, at most 262144")],
        ),
        (
            "annotation name",
            set("name: s\nannotations: {a/b/c: d}", "nets: []"),
            &[("metadata.annotations.a/b/c", "name for an annotation")],
        ),
        (
            "label prefix",
            set("name: s\nlabels: {Example.com/a: b, -a: b, a.: b}", "nets: []"),
            &[
                ("metadata.labels.Example.com/a", "name for a label"),
                ("metadata.labels.-a", "name for a label"),
                ("metadata.labels.a.", "name for a label"),
            ],
        ),
        (
            "two dots",
            document("projectcalico.org/v3", "NetworkPolicy", "name: a.b.c", "types: [Ingress]"),
            &[("metadata.name", "at most one `.`")],
        ),
        (
            "namespace label",
            document(
                "v1",
                "Namespace",
                "name: a\nlabels: {kubernetes.io/metadata.name: b}",
                "finalizers: []",
            ),
            &[("metadata.labels.kubernetes.io/metadata.name", "always the namespace's name")],
        ),
        (
            "unknown metadata",
            set("name: a\nclusterName: x", "nets: []"),
            &[("metadata.clusterName", "unknown field")],
        ),
    ];
    for (name, text, expected) in cases {
        check(name, text, expected);
    }
}

/// Each pair becomes a condition: 50,000 peers with 60,000 ports, in a file of 3 MB, took all memory.
#[test]
fn peers_times_ports_are_bounded() {
    let policy = |rules: usize, peers: usize, ports: usize| {
        let peers: Vec<String> = (0..peers)
            .map(|n| format!("{{ipBlock: {{cidr: 10.{}.{}.0/24}}}}", n / 256, n % 256))
            .collect();
        let ports: Vec<String> = (1..=ports).map(|port| format!("{{port: {port}}}")).collect();
        let rule = format!("{{from: [{}], ports: [{}]}}", peers.join(", "), ports.join(", "));
        knp(&format!("podSelector: {{}}\ningress: [{}]", vec![rule; rules].join(", ")))
    };
    assert!(decode(&value(&policy(1, 500, 200))).is_ok());
    check(
        "one rule",
        &policy(1, 500, 201),
        &[("spec.ingress[0]", "500 peers with 201 ports each: a policy can have 100000 pairs")],
    );
    check("four rules", &policy(4, 300, 160), &[("spec.ingress[2]", "this makes it 144000")]);
}

#[test]
fn a_long_list_of_errors_is_cut_short_and_counted() {
    let nets = vec!["x"; 1000].join(", ");
    let set = document(CALICO, "GlobalNetworkSet", "name: a", &format!("nets: [{nets}]"));
    let found = decode(&value(&set)).expect_err("a thousand errors");
    assert_eq!(found.len(), 101);
    assert_eq!(found[100].path, "spec.nets[100]");
    assert_eq!(found[100].message, "here and elsewhere: 900 more errors in this resource");
}
