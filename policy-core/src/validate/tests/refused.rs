//! What is refused, where, and with which words: Calico's policies.

use super::*;

/// (fields of one ingress rule, path below the rule, part of the message).
const RULES: &[(&str, &str, &str)] = &[
    ("protocol: TCP", "action", "no action"),
    ("action: allow", "action", "did you mean `Allow`?"),
    ("action: log", "action", "did you mean `Log`?"),
    ("action: Allow\nprotocol: tcp", "protocol", "write TCP"),
    ("action: Allow\nprotocol: 0", "protocol", "0 is not a protocol number"),
    ("action: Allow\nprotocol: 256", "protocol", "256 is not"),
    ("action: Allow\nprotocol: -1", "protocol", "-1 is not"),
    ("action: Allow\nprotocol: '256'", "protocol", "256 is not a protocol number"),
    ("action: Allow\nprotocol: '+6'", "protocol", "`+6` is not a protocol"),
    ("action: Allow\nprotocol: ''", "protocol", "is not a protocol"),
    ("action: Allow\nprotocol: [TCP]", "protocol", "write a whole number or a string"),
    ("action: Allow\nnotProtocol: 0", "notProtocol", "0 is not a protocol number"),
    ("action: Allow\nipVersion: '4'", "ipVersion", "without quotes"),
    ("action: Allow\nprotocol: ICMP\nicmp: {type: -1}", "icmp.type", "0 to 254"),
    ("action: Allow\nprotocol: ICMP\nicmp: {type: 1, code: -1}", "icmp.code", "0 to 255"),
    ("action: Allow\nprotocol: ICMP\nnotICMP: {code: 1}", "notICMP.code", "needs a type"),
    ("action: Allow\nprotocol: ICMPv6\nnotICMP: {type: 255}", "notICMP.type", "0 to 254"),
    ("action: Allow\nprotocol: 17\nicmp: {}", "icmp", "must be ICMP"),
    ("action: Allow\nipVersion: 4\nnotProtocol: 58", "notProtocol", "ipVersion: 6"),
    ("action: Allow\nprotocol: GRE", "protocol", "number from 1 to 255"),
    ("action: Allow\nnotProtocol: udp", "notProtocol", "write UDP"),
    ("action: Allow\nipVersion: 5", "ipVersion", "write 4 or 6"),
    ("action: Allow\nipVersion: 6\nprotocol: ICMP", "protocol", "ipVersion: 4"),
    ("action: Allow\nipVersion: 4\nprotocol: ICMPv6", "protocol", "ipVersion: 6"),
    ("action: Allow\nipVersion: 6\nnotProtocol: 1", "notProtocol", "ipVersion: 4"),
    ("action: Allow\nicmp: {type: 8}", "icmp", "must be ICMP or ICMPv6"),
    ("action: Allow\nprotocol: TCP\nicmp: {type: 8}", "icmp", "must be ICMP"),
    ("action: Allow\nnotICMP: {type: 8}", "notICMP", "must be ICMP"),
    ("action: Allow\nprotocol: ICMP\nicmp: {code: 1}", "icmp.code", "needs a type"),
    ("action: Allow\nprotocol: ICMP\nicmp: {type: 255}", "icmp.type", "0 to 254"),
    ("action: Allow\nprotocol: ICMP\nicmp: {type: 1, code: 256}", "icmp.code", "0 to 255"),
    ("action: Allow\nhttp: {methods: [GET]}", "http", "not supported yet"),
    ("action: Allow\ndestination: {ports: [80]}", "destination.ports[0]", "needs a protocol"),
    ("action: Allow\ndestination: {notPorts: [80]}", "destination.notPorts[0]", "needs a protocol"),
    ("action: Allow\nprotocol: ICMP\ndestination: {ports: [80]}", "destination.ports", "no ports"),
    (
        "action: Allow\nprotocol: UDPLite\ndestination: {ports: [a]}",
        "destination.ports",
        "no ports",
    ),
    (
        "action: Allow\nprotocol: 47\ndestination: {notPorts: [1]}",
        "destination.notPorts",
        "no ports",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: [0]}",
        "destination.ports[0]",
        "0 is not a port",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: [70000]}",
        "destination.ports[0]",
        "1 to 65535",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: ['70000']}",
        "destination.ports[0]",
        "70000 is not",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: ['1:70000']}",
        "destination.ports[0]",
        "70000 is not",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: ['0:80']}",
        "destination.ports[0]",
        "0 is not",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: ['90:80']}",
        "destination.ports[0]",
        "write \"80:90\"",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: ['80-90']}",
        "destination.ports[0]",
        "write \"80:90\"",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: [Web]}",
        "destination.ports[0]",
        "lower-case letters",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: [a-name-of-16-byte]}",
        "destination.ports[0]",
        "at most 15",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: [web_1]}",
        "destination.ports[0]",
        "is not a port",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: ['http--x']}",
        "destination.ports[0]",
        "is not a port",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: [-1]}",
        "destination.ports[0]",
        "-1 is not a port",
    ),
    (
        "action: Allow\ndestination: {ports: [http, '80:90']}",
        "destination.ports[1]",
        "needs a protocol",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: ['a b']}",
        "destination.ports[0]",
        "is not a port",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: ['']}",
        "destination.ports[0]",
        "is not a port",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: [1.5]}",
        "destination.ports[0]",
        "a whole number",
    ),
    (
        "action: Allow\nprotocol: TCP\ndestination: {ports: 80}",
        "destination.ports",
        "expected a list",
    ),
    ("action: Allow\nsource: {ports: [80]}", "source.ports[0]", "a port number needs a protocol"),
    ("action: Allow\nprotocol: ICMP\nsource: {notPorts: [80]}", "source.notPorts", "has no ports"),
    ("action: Allow\nprotocol: TCP\nsource: {ports: [0]}", "source.ports[0]", "1 to 65535"),
    ("action: Allow\nsource: {nets: [10.0.0.0/33]}", "source.nets[0]", "is not a network"),
    ("action: Allow\nsource: {nets: [10.1.0.0/8]}", "source.nets[0]", "write 10.0.0.0/8"),
    ("action: Allow\nsource: {nets: [010.0.0.0/8]}", "source.nets[0]", "is not a network"),
    ("action: Allow\nsource: {nets: [10.0.0.0/+8]}", "source.nets[0]", "is not a network"),
    ("action: Allow\nsource: {nets: ['10.0.0.0/']}", "source.nets[0]", "is not a network"),
    ("action: Allow\nsource: {nets: ['fe80::%eth0/64']}", "source.nets[0]", "is not a network"),
    ("action: Allow\nsource: {nets: [10.0.0.1]}", "source.nets[0]", "write 10.0.0.1/32"),
    (
        "action: Allow\nsource: {nets: ['::ffff:10.0.0.0/104']}",
        "source.nets[0]",
        "write 10.0.0.0/8",
    ),
    ("action: Allow\nsource: {notNets: [web]}", "source.notNets[0]", "is not a network"),
    ("action: Allow\nsource: {notNets: [0.0.0.0/0]}", "source.notNets", "ipVersion: 6"),
    ("action: Allow\nsource: {notNets: ['::/0']}", "source.notNets", "ipVersion: 4"),
    ("action: Allow\nipVersion: 6\nsource: {nets: [10.0.0.0/8]}", "source.nets[0]", "`ipVersion`"),
    ("action: Allow\nsource: {selector: app = 'x'}", "source.selector", "at byte 4: expected `==`"),
    ("action: Allow\nsource: {notSelector: '('}", "source.notSelector", "not a selector"),
    ("action: Allow\nsource: {selector: global()}", "source.selector", "no meaning here"),
    ("action: Allow\nsource: {notSelector: global()}", "source.notSelector", "no meaning here"),
    (
        "action: Allow\nsource: {namespaceSelector: global() || has(a)}",
        "source.namespaceSelector",
        "cannot be combined",
    ),
    (
        "action: Allow\nsource: {namespaceSelector: (global())}",
        "source.namespaceSelector",
        "or parentheses",
    ),
    (
        "action: Allow\nsource: {namespaceSelector: '!global()'}",
        "source.namespaceSelector",
        "cannot be combined",
    ),
    (
        "action: Allow\nsource: {serviceAccounts: {names: [a]}}",
        "source.serviceAccounts",
        "not supported",
    ),
    ("action: Allow\ndestination: {services: {name: a}}", "destination.services", "not supported"),
    ("action: Allow\nsource: {net: [10.0.0.0/8]}", "source.net", "did you mean `nets`?"),
    ("action: Allow\nsrc: {}", "src", "unknown field `src`"),
    (
        "action: Allow\nmetadata: {annotations: {'a b': c}}",
        "metadata.annotations.a b",
        "annotation",
    ),
];

#[test]
fn rules() {
    for (rule, path, part) in RULES {
        let fields: String = rule.lines().map(|line| format!("  {line}\n")).collect();
        let list = format!("ingress:\n-{}", fields.get(1..).unwrap());
        check(rule, &np(&list), &[(&format!("spec.ingress[0].{path}"), part)]);
        check(rule, &gnp(&list), &[(&format!("spec.ingress[0].{path}"), part)]);
    }
}

#[test]
fn policies() {
    let deny = "ingress: [{action: Deny, source: {nets: [10.0.0.0/8]}}]";
    let untracked = "doNotTrack: true\napplyOnForward: true";
    let cases: &[Case] = &[
        ("tier", np("tier: Security"), &[("spec.tier", "not the name of a tier")]),
        ("dotted tier", gnp("tier: a.b"), &[("spec.tier", "not the name of a tier")]),
        ("type", np("types: [ingress]"), &[("spec.types[0]", "did you mean `Ingress`?")]),
        ("types twice", np("types: [Egress, Egress]"), &[("spec.types[1]", "stands twice")]),
        ("no types", gnp("types: []"), &[("spec.types", "apply to no traffic")]),
        ("selector", np("selector: 'a == b'"), &[("spec.selector", "at byte 5")]),
        ("global", np("selector: global()"), &[("spec.selector", "no meaning here")]),
        (
            "global 2",
            gnp("namespaceSelector: global()"),
            &[("spec.namespaceSelector", "no meaning")],
        ),
        (
            "accounts",
            np("serviceAccountSelector: all()"),
            &[("spec.serviceAccountSelector", "not supported")],
        ),
        ("hint", np("performanceHints: [Fast]"), &[("spec.performanceHints[0]", "AssumeNeeded")]),
        ("order", np("order: first"), &[("spec.order", "write a number")]),
        (
            "hint twice",
            np("performanceHints: [AssumeNeededOnEveryNode, AssumeNeededOnEveryNode]"),
            &[("spec.performanceHints[1]", "stands twice")],
        ),
        ("order text", gnp("order: '10'"), &[("spec.order", "without quotes")]),
        ("types null", np("types: [~]"), &[("spec.types[0]", "expected a string")]),
        ("type text", np("types: Ingress"), &[("spec.types", "expected a list")]),
        ("unknown type", gnp("types: [Ingress, Both]"), &[("spec.types[1]", "Ingress or Egress")]),
        (
            "three types",
            gnp("types: [Ingress, Egress, Ingress]"),
            &[("spec.types[2]", "stands twice")],
        ),
        ("namespaced doNotTrack", np("doNotTrack: true"), &[("spec.doNotTrack", "unknown field")]),
        ("namespaced preDNAT", np("preDNAT: true"), &[("spec.preDNAT", "unknown field")]),
        (
            "namespaced applyOnForward",
            np("applyOnForward: true"),
            &[("spec.applyOnForward", "unknown field")],
        ),
        (
            "namespaced namespaceSelector",
            np("namespaceSelector: all()"),
            &[("spec.namespaceSelector", "unknown field")],
        ),
        (
            "preDNAT and doNotTrack",
            gnp(&format!("{untracked}\npreDNAT: true\n{deny}")),
            &[("spec.preDNAT", "exclude each other")],
        ),
        (
            "no forward",
            gnp(&format!("doNotTrack: true\n{deny}")),
            &[("spec.applyOnForward", "needs")],
        ),
        (
            "untracked egress",
            gnp(&format!("{untracked}\n{deny}\negress: [{{action: Deny}}]")),
            &[("spec.egress", "Egress under doNotTrack")],
        ),
        (
            "untracked types",
            gnp(&format!("{untracked}\n{deny}\ntypes: [Ingress, Egress]")),
            &[("spec.types", "Egress under doNotTrack")],
        ),
        (
            "untracked namespaces",
            gnp(&format!("{untracked}\n{deny}\nnamespaceSelector: has(a)")),
            &[("spec.namespaceSelector", "no uplink is in a namespace")],
        ),
        (
            "untracked allow",
            gnp(&format!(
                "{untracked}\ningress: [{{action: Allow, source: {{nets: [10.0.0.0/8]}}}}]"
            )),
            &[("spec.ingress[0].action", "Allow under doNotTrack")],
        ),
        (
            "untracked pass",
            gnp(&format!(
                "{untracked}\ningress: [{{action: Pass, source: {{nets: [10.0.0.0/8]}}}}]"
            )),
            &[("spec.ingress[0].action", "Pass under doNotTrack")],
        ),
        (
            "untracked everything",
            gnp(&format!("{untracked}\ningress: [{{action: Deny}}]")),
            &[("spec.ingress[0].source", "every packet")],
        ),
        (
            "untracked both",
            gnp(&format!(
                "{untracked}\ningress: [{{action: Deny, source: {{nets: [10.0.0.0/8], selector: all()}}}}]"
            )),
            &[("spec.ingress[0].source", "one rule for each")],
        ),
        (
            "untracked conditions",
            gnp(&format!(
                "{untracked}\ningress:\n- action: Deny\n  protocol: TCP\n  ipVersion: 4\n  destination: \
                 {{ports: [80]}}\n  source: {{nets: [10.0.0.0/8], notNets: [10.1.0.0/16], notSelector: \
                 has(a), namespaceSelector: global()}}"
            )),
            &[
                ("spec.ingress[0].protocol", "under doNotTrack"),
                ("spec.ingress[0].ipVersion", "under doNotTrack"),
                ("spec.ingress[0].destination", "under doNotTrack"),
                ("spec.ingress[0].source.notNets", "under doNotTrack"),
                ("spec.ingress[0].source.notSelector", "under doNotTrack"),
                ("spec.ingress[0].source.namespaceSelector", "under doNotTrack"),
            ],
        ),
    ];
    for (name, text, expected) in cases {
        check(name, text, expected);
    }
}

#[test]
fn annotations_of_ours() {
    const RATE: &str = "metadata.annotations.palisade.io/new-flows-per-second";
    const BURST: &str = "metadata.annotations.palisade.io/new-flows-burst";
    let noted = |kind: &str, annotations: &str, spec: &str| {
        let version =
            if kind == "NetworkPolicy." { "networking.k8s.io/v1" } else { "projectcalico.org/v3" };
        let annotations = annotations.replace("NEW", "palisade.io/new-flows");
        let metadata = format!("name: p\nannotations: {{{annotations}}}");
        document(version, kind.trim_end_matches('.'), &metadata, spec)
    };
    let untracked = "doNotTrack: true\napplyOnForward: true";
    let limit = |annotations: &str| noted("GlobalNetworkPolicy", annotations, untracked);
    let one = "NEW-per-second: '1'";
    let cases: &[Case] = &[
        ("word", limit("NEW-per-second: fast"), &[(RATE, "whole number from 1 to 1000000")]),
        ("none", limit("NEW-per-second: '0'"), &[(RATE, "whole number")]),
        ("too many", limit("NEW-per-second: '1000001'"), &[(RATE, "whole number")]),
        ("sign", limit("NEW-per-second: '+1'"), &[(RATE, "`+1` is not a number")]),
        ("empty", limit("NEW-per-second: ''"), &[(RATE, "whole number")]),
        ("part", limit("NEW-per-second: '0.5'"), &[(RATE, "whole number")]),
        ("burst", limit("NEW-per-second: '1', NEW-burst: '-1'"), &[(BURST, "whole number")]),
        ("burst alone", limit("NEW-burst: '1'"), &[(BURST, "in a second, too")]),
        (
            "misspelt",
            limit("NEW-per-minute: '1'"),
            &[(
                "metadata.annotations.palisade.io/new-flows-per-minute",
                "-second and palisade.io/",
            )],
        ),
        ("tracked", noted("GlobalNetworkPolicy", one, ""), &[(RATE, "only a doNotTrack policy")]),
    ];
    for (name, text, expected) in cases {
        check(name, text, expected);
    }
    for (kind, spec) in [
        ("NetworkPolicy", ""),
        ("NetworkPolicy.", "podSelector: {}"),
        ("StagedGlobalNetworkPolicy", ""),
        ("StagedNetworkPolicy", ""),
        ("GlobalNetworkSet", "nets: []"),
        ("Tier", "order: 1"),
    ] {
        check(kind, &noted(kind, one, spec), &[(RATE, "no annotation of this name here")]);
    }
}

#[test]
fn staged_policies() {
    let staged = |kind: &str, metadata: &str, spec: &str| {
        document("projectcalico.org/v3", kind, metadata, spec)
    };
    let snp = |spec: &str| staged("StagedNetworkPolicy", "name: p\nnamespace: ns", spec);
    let sgnp = |spec: &str| staged("StagedGlobalNetworkPolicy", "name: p", spec);
    let sknp = |spec: &str| staged("StagedKubernetesNetworkPolicy", "name: p\nnamespace: ns", spec);
    const ACTION: &str = "spec.stagedAction";
    let cases: &[Case] = &[
        ("in force", np("stagedAction: Set"), &[(ACTION, "put `Staged` in front of the kind")]),
        ("global", gnp("stagedAction: Delete"), &[(ACTION, "only a staged policy")]),
        ("kubernetes", knp("podSelector: {}\nstagedAction: Set"), &[(ACTION, "only a staged")]),
        ("case", snp("stagedAction: delete"), &[(ACTION, "did you mean `Delete`?")]),
        ("learn", snp("stagedAction: Learn"), &[(ACTION, "Learn is not supported")]),
        ("ignore", sgnp("stagedAction: Ignore"), &[(ACTION, "write Set or Delete")]),
        ("more", snp("stagedAction: Delete\norder: 1"), &[(ACTION, "says nothing else")]),
        (
            "more global",
            sgnp("stagedAction: Delete\ntypes: [Ingress]"),
            &[(ACTION, "remove the rest")],
        ),
        (
            "more pods",
            sknp("stagedAction: Delete\npodSelector: {matchLabels: {a: b}}"),
            &[(ACTION, "says nothing else")],
        ),
        (
            "untracked",
            sgnp(
                "doNotTrack: true\napplyOnForward: true\ningress: [{action: Deny, source: {nets: [10.0.0.0/8]}}]",
            ),
            &[("spec.doNotTrack", "staged doNotTrack")],
        ),
        (
            "more hints",
            snp("stagedAction: Delete\nperformanceHints: [AssumeNeededOnEveryNode]"),
            &[(ACTION, "else")],
        ),
        ("more flags", sgnp("stagedAction: Delete\napplyOnForward: true"), &[(ACTION, "else")]),
        ("more rules", sknp("stagedAction: Delete\negress: [{}]"), &[(ACTION, "else")]),
        ("a rule", snp("ingress: [{action: allow}]"), &[("spec.ingress[0].action", "`Allow`")]),
    ];
    for (name, text, expected) in cases {
        check(name, text, expected);
    }
    for text in [
        snp("tier: ops\nstagedAction: Delete"),
        sgnp("stagedAction: Delete"),
        sknp("stagedAction: Delete"),
        snp("stagedAction: Set"),
        snp("stagedAction: ~"),
        // Zero values are absence: so the API server and calicoctl write them out.
        snp(
            "stagedAction: Delete\nselector: ''\norder: ~\ningress: []\nserviceAccountSelector: ''",
        ),
        sgnp("stagedAction: Delete\ndoNotTrack: false\npreDNAT: false\nnamespaceSelector: ''"),
        sknp("stagedAction: Delete\npodSelector: {}"),
    ] {
        assert!(decode(&value(&text)).is_ok(), "{text}");
    }
}

/// At the bound a list is taken; one more is refused, at the list's path.
#[test]
fn sizes_are_bounded_as_upstreams() {
    let list = |count: usize, item: &dyn Fn(usize) -> String| {
        (0..count).map(item).collect::<Vec<_>>().join(", ")
    };
    let side = |side: &str, field: &str, items: &str| {
        np(&format!("{side}: [{{action: Deny, protocol: TCP, source: {{{field}: [{items}]}}}}]"))
    };
    let net = |it: usize| format!("10.{}.{}.0/24", it / 256, it % 256);
    let port = |it: usize| format!("{}", 2 * it + 1);
    // `a==''` and spaces, in characters and not in bytes.
    let text = |count: usize| format!("\"a=='ä'{}\"", " ".repeat(count - 6));
    let rule = |_: usize| "{action: Deny}".to_owned();
    type Make<'a> = Box<dyn Fn(usize) -> String + 'a>;
    let peer = |field: &'static str| -> Make<'_> {
        Box::new(move |it| {
            np(&format!("egress: [{{action: Deny, destination: {{{field}: {}}}}}]", text(it)))
        })
    };
    let cases: Vec<(&str, usize, Make<'_>)> = vec![
        ("spec.ingress", 1024, Box::new(|it| gnp(&format!("ingress: [{}]", list(it, &rule))))),
        ("spec.egress", 1024, Box::new(|it| np(&format!("egress: [{}]", list(it, &rule))))),
        (
            "spec.ingress[0].source.nets",
            256,
            Box::new(|it| side("ingress", "nets", &list(it, &net))),
        ),
        (
            "spec.egress[0].source.notNets",
            256,
            Box::new(|it| side("egress", "notNets", &list(it, &net))),
        ),
        (
            "spec.ingress[0].source.ports",
            50,
            Box::new(|it| side("ingress", "ports", &list(it, &port))),
        ),
        (
            "spec.egress[0].source.notPorts",
            50,
            Box::new(|it| side("egress", "notPorts", &list(it, &port))),
        ),
        ("spec.selector", 1024, Box::new(|it| np(&format!("selector: {}", text(it))))),
        (
            "spec.namespaceSelector",
            1024,
            Box::new(|it| gnp(&format!("namespaceSelector: {}", text(it)))),
        ),
        ("spec.egress[0].destination.selector", 1024, peer("selector")),
        ("spec.egress[0].destination.notSelector", 1024, peer("notSelector")),
        ("spec.egress[0].destination.namespaceSelector", 1024, peer("namespaceSelector")),
    ];
    for (path, bound, make) in cases {
        let taken = make(bound);
        assert!(decode(&value(&taken)).is_ok(), "{path}: {taken}");
        check(path, &make(bound + 1), &[(path, &format!("at most {bound} are allowed"))]);
    }
}
