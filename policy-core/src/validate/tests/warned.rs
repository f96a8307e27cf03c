//! Warnings: what is accepted and looks wrong, where, and what is *not* warned about.

use super::*;

/// (fields of ingress rules, one a line; path and part of the text of each warning).
type Rules = (&'static str, &'static [(&'static str, &'static str)]);

fn warned(text: &str) -> Vec<Diagnostic> {
    let (_, warnings) = decode_with_warnings(&value(text)).expect(text);
    assert!(warnings.iter().all(|it| it.severity == Severity::Warning && it.hint.is_some()));
    warnings
}

fn expect(text: &str, expected: &[(&str, &str)]) {
    let warnings = warned(text);
    let found: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), expected.len(), "{text}: {found:#?}");
    for ((path, part), warning) in expected.iter().zip(&warnings) {
        assert_eq!(warning.path, *path, "{text}: {found:#?}");
        assert!(warning.to_string().contains(part), "{text}: no `{part}` in {found:#?}");
    }
}

const FIRST: &str = "no packet reaches this rule: rule 0 matches all that it matches";

const SHADOWED: &[Rules] = &[
    // Everything.
    (
        "{action: Deny, source: {}}\n{action: Allow, protocol: TCP}\n{action: Allow}",
        &[("spec.ingress[1]", "rule 0 matches everything")],
    ),
    ("{action: Allow, protocol: TCP}\n{action: Deny}", &[]),
    ("{action: Pass}\n{action: Deny}", &[("spec.ingress[1]", "rule 0 matches everything")]),
    // A Log rule covers nothing, and can be covered.
    ("{action: Log}\n{action: Allow, protocol: TCP}", &[]),
    (
        "{action: Deny}\n{action: Log, protocol: TCP}",
        &[("spec.ingress[1]", "rule 0 matches everything")],
    ),
    (
        "{action: Log, protocol: TCP}\n{action: Log}",
        &[("spec.ingress", "the rules only log: what no other policy decides is then denied")],
    ),
    // Source ports are conditions like the others.
    (
        "{action: Allow, protocol: TCP, source: {ports: ['1:9']}}\n{action: Deny, protocol: TCP, source: \
         {ports: [5]}, destination: {ports: [80]}}",
        &[("spec.ingress[1]", FIRST)],
    ),
    ("{action: Allow, protocol: TCP, source: {ports: [5]}}\n{action: Deny, protocol: TCP}", &[]),
    // Protocols and ports.
    (
        "{action: Allow, protocol: TCP}\n{action: Deny, protocol: 6}",
        &[("spec.ingress[1]", "(`TCP` and `6` are one protocol)")],
    ),
    ("{action: Allow, protocol: TCP}\n{action: Deny, protocol: UDP}", &[]),
    (
        "{action: Allow, notProtocol: UDP}\n{action: Deny, protocol: TCP, destination: {ports: [1]}}",
        &[("spec.ingress[1]", FIRST)],
    ),
    (
        "{action: Allow, protocol: TCP, destination: {ports: ['80:90', 443]}}\n{action: Allow, protocol: \
         TCP, destination: {ports: [443, '81:82']}}",
        &[("spec.ingress[1]", "remove it")],
    ),
    (
        "{action: Allow, protocol: TCP, destination: {ports: ['80:90']}}\n{action: Deny, protocol: TCP, \
         destination: {ports: ['80:91']}}",
        &[],
    ),
    (
        "{action: Allow, protocol: TCP, destination: {ports: [http, 443]}}\n{action: Deny, protocol: TCP, \
         destination: {ports: [http]}}",
        &[("spec.ingress[1]", "put it before rule 0")],
    ),
    // A name may be any port, and a port may have any name.
    (
        "{action: Allow, protocol: TCP, destination: {ports: ['1:1024']}}\n{action: Deny, protocol: TCP, \
         destination: {ports: [http]}}",
        &[],
    ),
    (
        "{action: Allow, protocol: TCP, destination: {notPorts: [22]}}\n{action: Deny, protocol: TCP, \
         destination: {ports: [http]}}",
        &[],
    ),
    (
        "{action: Allow, protocol: TCP, destination: {notPorts: [ssh]}}\n{action: Deny, protocol: TCP, \
         destination: {ports: [80]}}",
        &[],
    ),
    (
        "{action: Allow, protocol: TCP, destination: {notPorts: [22]}}\n{action: Deny, protocol: TCP, \
         destination: {ports: ['80:90']}}",
        &[("spec.ingress[1]", FIRST)],
    ),
    (
        "{action: Allow, protocol: TCP, destination: {notPorts: [22]}}\n{action: Deny, protocol: TCP, \
         destination: {ports: ['1:90']}}",
        &[],
    ),
    // ICMP.
    (
        "{action: Allow, protocol: ICMP, icmp: {type: 8}}\n{action: Deny, protocol: ICMP, icmp: {type: 8, \
         code: 0}}",
        &[("spec.ingress[1]", FIRST)],
    ),
    (
        "{action: Allow, protocol: ICMP, notICMP: {type: 8}}\n{action: Deny, protocol: ICMP, icmp: {type: 8}}",
        &[],
    ),
    // Families: what is of one is covered by a rule about one.
    (
        "{action: Allow, ipVersion: 4}\n{action: Deny, source: {nets: [10.0.0.0/8]}}",
        &[("spec.ingress[1]", FIRST)],
    ),
    ("{action: Allow, ipVersion: 4}\n{action: Deny, source: {nets: ['fd00::/8']}}", &[]),
    ("{action: Allow, ipVersion: 4}\n{action: Deny, protocol: TCP}", &[]),
    // Networks.
    (
        "{action: Allow, source: {nets: [10.0.0.0/9, 10.128.0.0/9]}}\n{action: Deny, source: {nets: \
         [10.0.0.0/8]}}",
        &[("spec.ingress[1]", FIRST)],
    ),
    (
        "{action: Allow, source: {nets: [10.0.0.0/8], notNets: [10.1.0.0/16]}}\n{action: Deny, source: \
         {nets: [10.1.0.0/16]}}",
        &[],
    ),
    (
        "{action: Allow, source: {notNets: [10.1.0.0/16]}}\n{action: Deny, source: {nets: [10.2.0.0/16]}}",
        &[("spec.ingress[1]", FIRST)],
    ),
    (
        "{action: Allow, source: {nets: [10.0.0.0/8]}}\n{action: Deny, source: {selector: has(a)}}",
        &[],
    ),
    (
        "{action: Allow, source: {nets: [10.0.0.0/8]}}\n{action: Deny, destination: {nets: [10.0.0.0/8]}}",
        &[],
    ),
    // Selectors.
    (
        "{action: Allow, source: {selector: has(a)}}\n{action: Deny, source: {selector: \"a == 'b' && has(c)\"}}",
        &[("spec.ingress[1]", FIRST)],
    ),
    (
        "{action: Allow, source: {selector: all()}}\n{action: Deny, source: {selector: has(a)}}",
        &[("spec.ingress[1]", FIRST)],
    ),
    // The world has no labels.
    ("{action: Allow, source: {selector: all()}}\n{action: Deny}", &[]),
    (
        "{action: Allow, source: {selector: has(a)}}\n{action: Deny, source: {notSelector: has(b)}}",
        &[],
    ),
    (
        "{action: Allow, source: {notSelector: \"a == 'b'\"}}\n{action: Deny, source: {notSelector: has(a)}}",
        &[("spec.ingress[1]", FIRST)],
    ),
    (
        "{action: Allow, source: {notSelector: has(a)}}\n{action: Deny, source: {notSelector: \"a == 'b'\"}}",
        &[],
    ),
    // One of the endpoint's own addresses is enough for a Deny, and all must do for an Allow.
    (
        "{action: Allow, destination: {nets: [10.0.0.0/8]}}\n{action: Deny, destination: {nets: [10.1.0.0/16]}}",
        &[],
    ),
    (
        "{action: Deny, destination: {nets: [10.0.0.0/8]}}\n{action: Allow, destination: {nets: [10.1.0.0/16]}}",
        &[("spec.ingress[1]", FIRST)],
    ),
];

const NOTHING: &[Rules] = &[
    (
        "{action: Allow, protocol: TCP, notProtocol: 6}",
        &[(
            "spec.ingress[0].notProtocol",
            "matches nothing: `notProtocol` is the rule's `protocol`",
        )],
    ),
    ("{action: Allow, protocol: TCP, notProtocol: UDP}", &[]),
    (
        "{action: Allow, protocol: ICMP, icmp: {type: 8, code: 0}, notICMP: {type: 8}}",
        &[("spec.ingress[0].notICMP", "all of `icmp`")],
    ),
    ("{action: Allow, protocol: ICMP, icmp: {type: 8}, notICMP: {type: 8, code: 0}}", &[]),
    (
        "{action: Deny, protocol: TCP, destination: {ports: [80, '90:91', web], notPorts: ['80:100', web]}}",
        &[("spec.ingress[0].destination.notPorts", "all of `ports`")],
    ),
    ("{action: Deny, protocol: TCP, destination: {ports: [80, web], notPorts: ['80:100']}}", &[]),
    (
        "{action: Deny, source: {nets: [10.0.0.0/8, 'fd00::/8'], notNets: [10.0.0.0/9, 10.128.0.0/9, \
         'fc00::/7']}}",
        &[("spec.ingress[0].source.notNets", "every address that `nets` leaves")],
    ),
    ("{action: Deny, source: {nets: [10.0.0.0/8, 'fd00::/8'], notNets: [10.0.0.0/8]}}", &[]),
    (
        "{action: Deny, source: {nets: [10.0.0.0/8]}, destination: {nets: ['fd00::/8']}}",
        &[("spec.ingress[0]", "no IP version in common")],
    ),
    (
        "{action: Deny, protocol: ICMPv6, source: {nets: [10.0.0.0/8]}}",
        &[("spec.ingress[0]", "no IP version in common")],
    ),
    (
        "{action: Deny, source: {selector: \"a == 'b'\", notSelector: has(a)}}",
        &[("spec.ingress[0].source.notSelector", "everything that the selectors leave")],
    ),
    ("{action: Deny, source: {selector: has(a), notSelector: \"a == 'b'\"}}", &[]),
    // What matches nothing is not said to be unreachable as well, and shadows nothing.
    (
        "{action: Allow}\n{action: Deny, protocol: TCP, notProtocol: TCP}",
        &[("spec.ingress[1].notProtocol", "matches nothing")],
    ),
];

const LISTS: &[Rules] = &[
    (
        "{action: Allow, source: {nets: [10.1.0.0/16, 10.0.0.0/8, 10.2.0.0/16]}}",
        &[(
            "spec.ingress[0].source.nets[0]",
            "part of `10.0.0.0/8`, which is in the list too, one of 2 such entries",
        )],
    ),
    (
        "{action: Allow, source: {notNets: [10.0.0.0/8, 11.0.0.0/8, 10.0.0.0/8]}}",
        &[("spec.ingress[0].source.notNets[2]", "stands in the list twice")],
    ),
    ("{action: Allow, source: {nets: [10.0.0.0/9, 10.128.0.0/9, '::/0']}}", &[]),
    (
        "{action: Allow, protocol: TCP, destination: {ports: [80, web, '70:90', web]}}",
        &[("spec.ingress[0].destination.ports[0]", "`80` is part of `70:90`")],
    ),
    ("{action: Allow, protocol: TCP, destination: {ports: [80, web, '81:90', '85:95']}}", &[]),
    (
        "{action: Allow, protocol: TCP, destination: {notPorts: ['22', 22]}}",
        &[("spec.ingress[0].destination.notPorts[1]", "twice")],
    ),
];

#[test]
fn rules() {
    for (rules, expected) in SHADOWED.iter().chain(NOTHING).chain(LISTS) {
        let list: String = rules.lines().map(|rule| format!("\n- {rule}")).collect();
        expect(&np(&format!("ingress:{list}")), expected);
        expect(&gnp(&format!("ingress:{list}")), expected);
    }
}

#[test]
fn rules_of_the_other_direction() {
    let rules = "types: [Ingress, Egress]\ningress: [{action: Allow}]\negress:\n- {action: Allow, \
                 source: {nets: [10.0.0.0/8]}}\n- {action: Deny, source: {nets: [10.0.0.0/8]}}\n";
    expect(&np(rules), &[]);
    let denied = rules.replace("Deny", "Pass");
    expect(&np(&denied), &[("spec.egress[1]", FIRST)]);
}

#[test]
fn kubernetes_rules() {
    for (spec, expected) in [
        ("ingress: [{}, {ports: [{port: 80}]}]", &[("spec.ingress[1]", "matches everything")][..]),
        // Two peers, each of which an earlier peer covers.
        (
            "ingress:\n- from: [{namespaceSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8}}]\n- from: \
             [{podSelector: {}}, {ipBlock: {cidr: 10.1.0.0/16}}]",
            &[("spec.ingress[1]", "remove it")],
        ),
        (
            "ingress:\n- from: [{podSelector: {}}]\n- from: [{podSelector: {}}, {ipBlock: {cidr: \
             10.1.0.0/16}}]",
            &[],
        ),
        (
            "ingress:\n- from:\n  - ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/9, 10.128.0.0/9]}",
            &[("spec.ingress[0]", "matches nothing")],
        ),
        (
            "ingress:\n- from:\n  - ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/9, 10.128.0.0/9]}\n  - \
             podSelector: {}",
            &[],
        ),
        (
            "ingress: [{ports: [{port: 80}, {protocol: UDP, port: 80}, {port: 70, endPort: 90}]}]",
            &[("spec.ingress[0].ports[0]", "`TCP 80` is part of `TCP 70:90`")],
        ),
        (
            "ingress: [{ports: [{protocol: UDP}, {protocol: UDP, port: 53}]}]",
            &[("spec.ingress[0].ports[1]", "`UDP 53` is part of `UDP`")],
        ),
        ("ingress: [{ports: [{port: http}, {protocol: UDP, port: http}]}]", &[]),
    ] {
        expect(&knp(spec), expected);
    }
}

#[test]
fn directions() {
    let (deny, open) = ("[{action: Deny}]", "traffic into the endpoints stays open");
    let no_effect = |kind: &str| format!("no effect without type {kind}");
    let (no_ingress, no_egress) = (no_effect("Ingress"), no_effect("Egress"));
    let ingress = ("spec.ingress", no_ingress.as_str());
    let egress = ("spec.egress", no_egress.as_str());
    let stays_open = ("spec", open);
    for (types, has_ingress, has_egress, expected) in [
        ("", false, false, &[][..]),
        ("", true, false, &[]),
        ("", false, true, &[stays_open]),
        ("", true, true, &[]),
        ("Ingress", false, false, &[]),
        ("Ingress", true, false, &[]),
        ("Ingress", false, true, &[egress]),
        ("Ingress", true, true, &[egress]),
        ("Egress", false, false, &[]),
        ("Egress", true, false, &[ingress]),
        ("Egress", false, true, &[]),
        ("Egress", true, true, &[ingress]),
        ("Ingress, Egress", false, false, &[]),
        ("Ingress, Egress", true, false, &[]),
        ("Ingress, Egress", false, true, &[]),
        ("Ingress, Egress", true, true, &[]),
    ] {
        let spec = |types_field: &str, rule: &str| {
            let mut spec = "order: 1\n".to_owned();
            if !types.is_empty() {
                spec.push_str(&format!("{types_field}: [{types}]\n"));
            }
            for (name, given) in [("ingress", has_ingress), ("egress", has_egress)] {
                if given {
                    spec.push_str(&format!("{name}: {rule}\n"));
                }
            }
            spec
        };
        expect(&np(&spec("types", deny)), expected);
        expect(&gnp(&spec("types", deny)), expected);
        // Kubernetes' policies are about ingress unless they say otherwise.
        let expected = if types.is_empty() { &[] } else { expected };
        expect(&knp(&spec("policyTypes", "[{}]").replace("order: 1\n", "")), expected);
    }
}

#[test]
fn the_effort_is_bounded() {
    let rule = |n: usize| format!("- {{action: Allow, source: {{selector: \"a == '{n}'\"}}}}\n");
    let rules: String = (0..60).map(rule).chain([rule(0)]).collect();
    let Ok(Object::Policy(policy)) = decode(&value(&gnp(&format!("ingress:\n{rules}")))) else {
        panic!("valid")
    };
    let found = |effort: u32| {
        let mut found = Vec::new();
        warnings::dead_rules(&policy, |_, _| None, effort, &mut found);
        found.len()
    };
    // Each of 61 rules is compared with all before it, at three a pair.
    assert_eq!((found(6_000), found(5_000)), (1, 0));
}
