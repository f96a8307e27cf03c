//! Host endpoints: local and forwarded packets at an interface that leads out of the host.

use policy_api::messages::{Explanation, Verdict};
use policy_test::{net::Reach, wait};

use crate::{
    host_stage::{Scene, Who, address, policy},
    stage::{Drops, LIMIT, SHORT},
};

use Who::{Host, Outside, Web};

/// What a host endpoint without policies does: nothing of its own but the failsafe ports, everything
/// that it passes on.
const BARE: &[(Who, &str, bool)] = &[
    (Outside, "tcp 10.99.0.1:7000", false),
    (Outside, "tcp [fd99::1]:7000", false),
    (Outside, "udp 10.99.0.1:5000", false),
    (Outside, "ping 10.99.0.1", false),
    (Outside, "tcp 10.99.0.1:22", true),
    (Outside, "tcp 10.99.0.1:8080", true),
    (Outside, "tcp 10.77.0.2:80", true),
    (Web, "tcp 10.99.0.2:9000", true),
    (Host, "tcp 10.99.0.2:9000", false),
    (Host, "tcp [fd99::2]:9000", false),
    (Host, "udp 10.99.0.2:53", true),
    (Host, "tcp 10.77.0.2:80", true),
];

#[test]
fn local_packets_are_closed_and_forwarded_ones_open_until_policy_says_otherwise() {
    let mut scene = Scene::new();
    let open: Vec<_> = BARE.iter().map(|(from, to, _)| (*from, *to, true)).collect();
    scene.check("without a host endpoint", &open);
    scene.guard();
    scene.check("without policies", BARE);

    // Enforcement does not depend on the agent, and the next one goes on with it.
    scene.agent.kill().unwrap();
    let closed = scene.outside.netns().try_tcp(address("10.99.0.1:7000"), SHORT).unwrap();
    assert_eq!(closed, Reach::Silent, "without an agent");
    let failsafe = scene.outside.netns().try_tcp(address("10.99.0.1:22"), LIMIT).unwrap();
    assert_eq!(failsafe, Reach::Answered, "without an agent");
    scene.agent.start().unwrap();
    scene.check("after a restart", BARE);

    scene.apply(&policy(
        "own",
        "ingress: [{action: Allow, protocol: TCP, source: {nets: [10.99.0.0/24]}, \
         destination: {ports: [7000]}}], \
         egress: [{action: Allow, protocol: TCP, destination: {ports: [9000]}}]",
    ));
    scene.check(
        "allowed by policy",
        &[
            (Outside, "tcp 10.99.0.1:7000", true),
            (Outside, "tcp [fd99::1]:7000", false),
            (Host, "tcp 10.99.0.2:9000", true),
            (Host, "tcp [fd99::2]:9000", true),
            (Outside, "tcp 10.99.0.1:8080", true),
            (Web, "tcp 10.99.0.2:9000", true),
        ],
    );

    scene.delete(&["gnp", "own"]);
    scene.delete(&["hep", "up"]);
    wait::until("the programs to be taken off", LIMIT, || {
        scene.agent.endpoints().unwrap().len() == 1
    })
    .unwrap();
    scene.check("without the host endpoint again", &open);
}

#[test]
fn forwarded_packets_meet_the_policies_that_say_so() {
    let scene = Scene::new();
    scene.guard();
    // The port is the container's, as after translation.
    let ingress = "order: 1, applyOnForward: true, types: [Ingress], ingress: [{action: Deny, \
                   protocol: TCP, destination: {ports: [80]}}, {action: Allow}]";
    scene.apply(&policy("forward", ingress));
    scene.check(
        "denied by the container's port",
        &[
            (Outside, "tcp 10.99.0.1:8080", false),
            (Outside, "tcp 10.77.0.2:80", false),
            (Outside, "ping 10.77.0.2", true),
            (Outside, "tcp 10.99.0.1:7000", true),
            (Web, "tcp 10.99.0.2:9000", true),
        ],
    );
    let egress = "applyOnForward: true, types: [Egress], egress: [{action: Deny, protocol: TCP, \
                  destination: {ports: [9000]}}, {action: Pass}]";
    scene.apply(&policy("forward", egress));
    scene.check(
        "denied on the way out",
        &[(Web, "tcp 10.99.0.2:9000", false), (Outside, "tcp 10.99.0.1:8080", true)],
    );
    // At its end a tier denies what its policies do not decide.
    scene.apply(&policy("forward", "applyOnForward: true, types: [Ingress, Egress]"));
    scene.check(
        "end of the tier",
        &[
            (Web, "tcp 10.99.0.2:9000", false),
            (Outside, "tcp 10.99.0.1:8080", false),
            (Outside, "tcp 10.99.0.1:22", true),
        ],
    );
}

#[test]
fn policies_before_translation_see_the_client_and_the_port_of_the_host() {
    let scene = Scene::new();
    scene.guard();
    let pre = "applyOnForward: true, preDNAT: true, types: [Ingress]";
    scene.apply(&policy(
        "front",
        &format!(
            "{pre}, ingress: [{{action: Deny, protocol: TCP, source: {{nets: [10.99.0.2/32]}}, \
             destination: {{ports: [8080, 22]}}}}, {{action: Allow, protocol: TCP, \
             destination: {{ports: [7001]}}}}]"
        ),
    ));
    scene.check(
        "before translation",
        &[
            (Outside, "tcp 10.99.0.1:8080", false),
            // Not by its own address and port.
            (Outside, "tcp 10.77.0.2:80", true),
            // An Allow is final, and failsafe ports go before a Deny.
            (Outside, "tcp 10.99.0.1:7001", true),
            (Outside, "tcp 10.99.0.1:22", true),
            // What it does not decide meets the others.
            (Outside, "tcp 10.99.0.1:7000", false),
            (Web, "tcp 10.99.0.2:9000", true),
        ],
    );
    let moved = Drops::read(&scene.agent);
    assert!(
        moved
            .between("10.99.0.2/32", "up")
            .iter()
            .any(|(series, _)| series.get("policy") == "front"),
        "{moved:#?}"
    );
    let output =
        scene.agent.policyctl(&["explain", "10.99.0.2", "10.99.0.1", "8080/tcp", "-o", "json"]);
    let explained: Explanation = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    assert_eq!(explained.verdict, Verdict::Deny, "{explained:#?}");
    assert_eq!(explained.paths[0].ends[0].rule.policy, "front", "{explained:#?}");
}

#[test]
fn a_port_that_is_said_to_be_published_and_is_not_stays_closed() {
    let scene = Scene::new();
    scene.guard();
    // Nothing translates it: the answer comes from a process of the host.
    scene.check("not published", &[(Outside, "tcp 10.99.0.1:8081", false)]);
}

#[test]
fn two_ports_of_one_container_are_told_apart_before_translation() {
    let scene = Scene::new();
    scene.guard();
    let both = [(Outside, "tcp 10.99.0.1:8080", true), (Outside, "tcp 10.99.0.1:8082", true)];
    scene.check("without policies", &both);
    // Behind the translation both are port 80 of one address.
    let pre = "applyOnForward: true, preDNAT: true, types: [Ingress]";
    scene.apply(&policy(
        "front",
        &format!(
            "{pre}, ingress: [{{action: Allow, protocol: TCP, source: {{nets: [10.99.0.2/32]}}, \
             destination: {{ports: [8080]}}}}, {{action: Deny, protocol: TCP, destination: \
             {{ports: ['8080:8082']}}}}]"
        ),
    ));
    scene.check(
        "by the port of the host",
        &[(Outside, "tcp 10.99.0.1:8080", true), (Outside, "tcp 10.99.0.1:8082", false)],
    );
    // By the client, too: another address of the same machine.
    scene
        .outside
        .netns()
        .ip(&["route", "add", "10.99.0.1/32", "dev", "eth0", "src", "10.99.0.3"])
        .unwrap();
    scene.check("another client", &[(Outside, "tcp 10.99.0.1:8080", false)]);
}
