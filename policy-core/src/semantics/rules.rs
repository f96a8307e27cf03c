//! Protocols, ports, families, and the side that a rule's own endpoint is on.

use super::{check, gnp, np};

fn ingress(rule: &str) -> String {
    gnp("p", &format!("{{ingress: [{{action: Allow, {rule}}}]}}"))
}

/// Which of these services a rule lets in to db, whose port `http` is 5432 and `dns` udp/53.
fn lets_in(rule: &str, expected: &[&str]) {
    const SERVICES: [&str; 10] = [
        "tcp/53", "tcp/80", "tcp/5432", "udp/53", "udp/80", "sctp/80", "icmp/8", "icmp/3", "47",
        "1",
    ];
    let connections: String = SERVICES
        .iter()
        .map(|service| {
            let answer = if expected.contains(service) {
                "allow p ingress[0]"
            } else {
                "deny default tier-default"
            };
            format!("in web > db {service}: {answer}\n")
        })
        .collect();
    check(rule, &[ingress(rule)], &connections);
}

#[test]
fn protocols_and_ports() {
    let tcp: &[&str] = &["tcp/53", "tcp/80", "tcp/5432"];
    let all_but_tcp: &[&str] = &["udp/53", "udp/80", "sctp/80", "icmp/8", "icmp/3", "47", "1"];
    for (rule, expected) in [
        ("protocol: TCP", tcp),
        ("protocol: 6", tcp),
        ("protocol: '6'", tcp),
        ("notProtocol: TCP", all_but_tcp),
        ("protocol: TCP, notProtocol: TCP", &[]),
        ("protocol: TCP, notProtocol: UDP", tcp),
        ("protocol: 47", &["47"]),
        ("protocol: ICMP", &["icmp/8", "icmp/3", "1"]),
        ("protocol: ICMPv6", &[]),
        ("protocol: ICMP, icmp: {type: 8}", &["icmp/8"]),
        ("protocol: ICMP, icmp: {type: 8, code: 1}", &[]),
        ("protocol: ICMP, notICMP: {type: 8}", &["icmp/3", "1"]),
        ("protocol: ICMP, notICMP: {type: 8, code: 1}", &["icmp/8", "icmp/3", "1"]),
        ("protocol: ICMP, icmp: {}", &["icmp/8", "icmp/3", "1"]),
        ("protocol: TCP, destination: {ports: []}", tcp),
        ("protocol: TCP, destination: {ports: ~, notPorts: []}", tcp),
        ("protocol: TCP, destination: {ports: [80]}", &["tcp/80"]),
        ("protocol: TCP, destination: {ports: ['50:100', 80]}", &["tcp/53", "tcp/80"]),
        ("protocol: TCP, destination: {notPorts: [80]}", &["tcp/53", "tcp/5432"]),
        (
            "protocol: TCP, destination: {ports: ['1:65535'], notPorts: ['60:90', http]}",
            &["tcp/53"],
        ),
        // Named ports are those of the endpoint, with its protocol.
        ("protocol: TCP, destination: {ports: [http]}", &["tcp/5432"]),
        ("protocol: UDP, destination: {ports: [http]}", &[]),
        ("protocol: TCP, destination: {ports: [dns]}", &[]),
        ("protocol: UDP, destination: {ports: [dns, 80]}", &["udp/53", "udp/80"]),
        ("protocol: TCP, destination: {ports: [nothing]}", &[]),
        ("protocol: TCP, destination: {notPorts: [nothing]}", tcp),
        ("protocol: TCP, destination: {notPorts: [http]}", &["tcp/53", "tcp/80"]),
        // A name brings its protocol along.
        ("destination: {ports: [http, dns]}", &["tcp/5432", "udp/53"]),
    ] {
        lets_in(rule, expected);
    }
}

#[test]
fn named_ports_are_those_of_each_destination() {
    let rule = "{egress: [{action: Allow, protocol: TCP, destination: {ports: [http]}}]}";
    check(
        "egress",
        &[gnp("p", rule)],
        "out blog > web tcp/8080: allow p egress[0]
         out blog > web tcp/5432: deny default tier-default
         out blog > db tcp/5432: allow p egress[0]
         out blog > db tcp/8080: deny default tier-default
         out blog > bare tcp/8080: deny default tier-default
         out blog > 203.0.113.9 tcp/8080: deny default tier-default
         out blog6 > db6 tcp/5432: allow p egress[0]",
    );
    let rule = "{ingress: [{action: Allow, protocol: TCP, destination: {ports: [http]}}]}";
    check(
        "ingress",
        &[gnp("p", rule)],
        "in blog > web tcp/8080: allow p ingress[0]
         in blog > db tcp/5432: allow p ingress[0]
         in blog > db tcp/8080: deny default tier-default
         in blog > bare tcp/8080: deny default tier-default",
    );
}

#[test]
fn families() {
    for (rule, four, six) in [
        ("ipVersion: 4", "allow p ingress[0]", "deny default tier-default"),
        ("ipVersion: 6", "deny default tier-default", "allow p ingress[0]"),
        // Networks of both families in one rule: each speaks of its own.
        ("source: {nets: [10.0.0.0/24, 'fd00::/64']}", "allow p ingress[0]", "allow p ingress[0]"),
        ("source: {nets: [10.0.0.0/24]}", "allow p ingress[0]", "deny default tier-default"),
        ("source: {nets: ['::/0']}", "deny default tier-default", "allow p ingress[0]"),
        // Networks of one family make the rule that family's, also where they are excluded only (felix
        // `rules.FilterRuleToIPVersion`).
        (
            "source: {notNets: [10.0.0.0/24]}",
            "deny default tier-default",
            "deny default tier-default",
        ),
        ("source: {notNets: [10.9.0.0/24]}", "allow p ingress[0]", "deny default tier-default"),
        ("source: {notNets: ['fd09::/64']}", "deny default tier-default", "allow p ingress[0]"),
        (
            "source: {nets: [10.0.0.0/24, 'fd00::/64'], notNets: [10.0.0.1/32]}",
            "deny default tier-default",
            "allow p ingress[0]",
        ),
        (
            "source: {notNets: [10.9.0.0/24]}, destination: {notNets: ['fd00::2/128']}",
            "allow p ingress[0]",
            "deny default tier-default",
        ),
        (
            "source: {notNets: [10.0.0.0/24, 'fd00::/64']}",
            "deny default tier-default",
            "deny default tier-default",
        ),
        ("source: {selector: app == 'web'}", "allow p ingress[0]", "allow p ingress[0]"),
    ] {
        let lines = format!("in web > db tcp/1: {four}\nin web6 > db6 tcp/1: {six}");
        check(rule, &[ingress(rule)], &lines);
    }
    check(
        "icmp",
        &[gnp(
            "p",
            "{ingress: [{action: Allow, protocol: ICMP}, {action: Allow, protocol: ICMPv6}]}",
        )],
        "in web > db icmp/8: allow p ingress[0]
         in web6 > db6 icmp6/128: allow p ingress[1]
         in web > db icmp6/128: deny default tier-default
         in web6 > db6 icmp/8: deny default tier-default",
    );
}

#[test]
fn conditions_on_the_own_side() {
    check(
        "destination of an ingress rule",
        &[gnp(
            "p",
            "{ingress: [{action: Allow, destination: {selector: app == 'db'}}, {action: Allow, protocol: \
             UDP, destination: {nets: [10.0.0.3/32]}}, {action: Allow, protocol: SCTP, destination: \
             {notSelector: has(app)}}]}",
        )],
        "in blog > db tcp/1: allow p ingress[0]
         in blog > web tcp/1: deny default tier-default
         in blog > bare udp/1: allow p ingress[1]
         in blog > web udp/1: deny default tier-default
         in blog > bare sctp/1: allow p ingress[2]
         in blog > web sctp/1: deny default tier-default",
    );
    check(
        "source of an egress rule, in the own namespace",
        &[np("shop/p", "{egress: [{action: Allow, source: {selector: app == 'web'}}]}")],
        "out web > blog tcp/1: allow p egress[0]
         out db > blog tcp/1: deny default tier-default
         out blog > web tcp/1: allow endpoint-default",
    );
}

#[test]
fn rules_go_in_the_order_of_their_list() {
    check(
        "first match",
        &[gnp(
            "p",
            "{ingress: [{action: Deny, source: {nets: [10.0.0.1/32]}}, {action: Allow, protocol: TCP}, \
             {action: Deny, protocol: TCP}, {action: Allow}]}",
        )],
        "in web > db tcp/1: deny p ingress[0]
         in bare > db tcp/1: allow p ingress[1]
         in bare > db udp/1: allow p ingress[3]",
    );
}
