//! `ports` and `notPorts` of a rule's source.

use super::{check, gnp};

fn ingress(rule: &str) -> String {
    gnp("p", &format!("{{selector: app == 'db', ingress: [{{action: Allow, {rule}}}]}}"))
}

/// Which of these services a rule lets in to db. The sender web has the port `http` tcp/8080.
fn lets_in(rule: &str, expected: &[&str]) {
    const SERVICES: [&str; 9] = [
        "tcp/80<53",
        "tcp/80<8080",
        "tcp/80",
        "tcp/443<53",
        "udp/53<53",
        "udp/53<8080",
        "udp/53",
        "icmp/8",
        "47",
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
fn numbers_ranges_and_names() {
    for (rule, expected) in [
        ("protocol: TCP, source: {ports: [53]}", &["tcp/80<53", "tcp/443<53"][..]),
        (
            "protocol: TCP, source: {ports: ['50:60', 8080]}",
            &["tcp/80<53", "tcp/80<8080", "tcp/443<53"],
        ),
        ("protocol: TCP, source: {notPorts: ['1:1023']}", &["tcp/80<8080", "tcp/80"]),
        ("protocol: TCP, source: {ports: ['1:65535'], notPorts: [53]}", &["tcp/80<8080", "tcp/80"]),
        ("protocol: TCP, source: {ports: [53]}, destination: {ports: [80]}", &["tcp/80<53"]),
        // A name is the sender's, and only for its protocol.
        ("protocol: TCP, source: {ports: [http]}", &["tcp/80<8080"]),
        ("protocol: UDP, source: {ports: [http]}", &[]),
        ("source: {ports: [http]}", &["tcp/80<8080"]),
        ("protocol: UDP, source: {notPorts: [http]}", &["udp/53<53", "udp/53<8080", "udp/53"]),
        (
            "source: {notPorts: [http]}",
            &[
                "tcp/80<53",
                "tcp/80",
                "tcp/443<53",
                "udp/53<53",
                "udp/53<8080",
                "udp/53",
                "icmp/8",
                "47",
            ],
        ),
    ] {
        lets_in(rule, expected);
    }
}

#[test]
fn the_first_rule_wins_port_by_port() {
    let policy = gnp(
        "p",
        "{selector: app == 'db', ingress: [
            {action: Deny, protocol: TCP, source: {ports: ['1:1023']}},
            {action: Allow, protocol: TCP, destination: {ports: [5432]}},
            {action: Deny, protocol: TCP, source: {ports: [50000]}, destination: {ports: ['1:100']}},
            {action: Allow, protocol: TCP, destination: {ports: ['1:200']}}]}",
    );
    check(
        "order",
        &[policy],
        "in web > db tcp/5432<1023: deny p ingress[0]
         in web > db tcp/5432<1024: allow p ingress[1]
         in web > db tcp/100<50000: deny p ingress[2]
         in web > db tcp/101<50000: allow p ingress[3]
         in web > db tcp/100<50001: allow p ingress[3]
         in web > db tcp/100<1: deny p ingress[0]
         in web > db udp/100<1: deny default tier-default",
    );
}

#[test]
fn on_egress_the_names_are_the_senders_own() {
    let policy = gnp(
        "p",
        "{selector: app == 'web', egress: [{action: Deny, protocol: TCP, source: {ports: [http]}},
            {action: Allow}]}",
    );
    check(
        "egress",
        &[policy],
        "out web > db tcp/80<8080: deny p egress[0]
         out web > db tcp/80<80: allow p egress[1]
         out blog > db tcp/80<8080: allow p egress[1]",
    );
}

#[test]
fn the_answer_to_a_service_by_its_source_port() {
    // The classical stateless rule: from port 53 of a resolver, to anywhere.
    let policy = gnp(
        "p",
        "{selector: app == 'web', ingress: [{action: Allow, protocol: UDP,
            source: {nets: [192.0.2.53/32], ports: [53]}}]}",
    );
    check(
        "dns",
        &[policy],
        "in 192.0.2.53 > web udp/40000<53: allow p ingress[0]
         in 192.0.2.53 > web udp/40000<54: deny default tier-default
         in 192.0.2.54 > web udp/40000<53: deny default tier-default",
    );
}
