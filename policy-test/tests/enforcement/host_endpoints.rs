//! Host endpoints: local and forwarded packets at an interface that leads out of the host.
//!
//! The outside is a namespace on a bridge of its own, which is the host's interface to it. A
//! workload on another bridge is published by a translation that the host's nftables make.

use std::{net::SocketAddr, process::Command};

use policy_api::messages::{EndpointState, Explanation, Verdict};
use policy_test::{
    agent::{Agent, AgentOptions},
    lab::{Lab, Workload},
    net::{Reach, TcpEcho, UdpEcho},
    netns::NetNs,
    wait,
};

use crate::stage::{Drops, LIMIT, SHORT, endpoint};

const HOST_ENDPOINT: &str = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: up, labels: {role: gateway}}
spec: {node: lab, interfaceName: br-out}
";

const TRANSLATIONS: &str = "
table ip nat {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    fib daddr type local tcp dport 8080 dnat to 10.77.0.2:80
  }
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr 10.77.0.0/24 oifname \"br-out\" masquerade
  }
}
";

/// A policy on the host endpoint, by its name and the rest of its spec.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n\
         metadata: {{name: {name}}}\nspec: {{selector: role == 'gateway', {spec}}}\n"
    )
}

struct Scene {
    agent: Agent,
    outside: Workload,
    web: Workload,
    lab: Lab,
    _servers: Vec<TcpEcho>,
    _datagrams: Vec<UdpEcho>,
}

/// Who tries to reach whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Outside,
    Web,
    Host,
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Scene {
    fn new() -> Scene {
        let lab = Lab::new().unwrap();
        let out = lab.bridge("br-out", &["10.99.0.1/24", "fd99::1/64"]).unwrap();
        let outside = lab.workload("out", &out, &["10.99.0.2/24", "fd99::2/64"]).unwrap();
        let inner = lab.bridge("br-lab", &["10.77.0.1/24"]).unwrap();
        let web = lab.workload("web", &inner, &["10.77.0.2/24"]).unwrap();
        let rules = lab.name().to_owned() + ".nft";
        let file = std::env::temp_dir().join(rules);
        std::fs::write(&file, TRANSLATIONS).unwrap();
        let made = lab.host().output(Command::new("nft").arg("-f").arg(&file)).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(made.status.success(), "{made:?}");
        let agent = AgentOptions::default()
            .flags(&["--bridge", "br-lab", "--node-name", "lab"])
            .flags(&["--published-port", "tcp:8080:80", "--published-port", "tcp:8081:80"])
            .start(&lab)
            .unwrap();
        agent.apply(&endpoint(&web, "shop", "")).unwrap();
        let tcp = |netns: &NetNs, at: &str| TcpEcho::start(netns, address(at)).unwrap();
        let servers = ["10.99.0.1:7000", "10.99.0.1:22", "10.99.0.1:7001", "10.99.0.1:8081"]
            .map(|at| tcp(lab.host(), at))
            .into_iter()
            .chain([tcp(lab.host(), "[fd99::1]:7000"), tcp(web.netns(), "10.77.0.2:80")])
            .chain(["10.99.0.2:9000", "[fd99::2]:9000"].map(|at| tcp(outside.netns(), at)))
            .collect();
        let datagrams = [(outside.netns(), "10.99.0.2:53"), (lab.host(), "10.99.0.1:5000")]
            .map(|(netns, at)| UdpEcho::start(netns, address(at)).unwrap())
            .into_iter()
            .collect();
        Scene { agent, outside, web, lab, _servers: servers, _datagrams: datagrams }
    }

    fn netns(&self, from: Who) -> &NetNs {
        match from {
            Who::Outside => self.outside.netns(),
            Who::Web => self.web.netns(),
            Who::Host => self.lab.host(),
        }
    }

    /// Each line is who, where to, and whether that is answered.
    fn check(&self, what: &str, table: &[(Who, &str, bool)]) {
        for (from, to, answered) in table {
            let (protocol, at) = to.split_once(' ').unwrap();
            let limit = if *answered { LIMIT } else { SHORT };
            let before = Drops::read(&self.agent);
            let netns = self.netns(*from);
            let reach = match protocol {
                "tcp" => netns.try_tcp(address(at), limit),
                "udp" => netns.try_udp(address(at), limit),
                _ => netns.try_ping(at.parse().unwrap(), limit),
            };
            let moved = Drops::read(&self.agent).since(&before);
            let expected = if *answered { Reach::Answered } else { Reach::Silent };
            assert_eq!(reach.unwrap(), expected, "{what}: {from:?} to {to}: {moved:#?}");
            let dropped = moved.for_reason("policy");
            assert_eq!(dropped > 0, !answered, "{what}: {from:?} to {to}: {moved:#?}");
        }
    }

    fn apply(&self, yaml: &str) {
        self.agent.apply(yaml).unwrap_or_else(|error| panic!("{error:#}\n{yaml}"));
    }

    fn delete(&self, arguments: &[&str]) {
        let output = self.agent.policyctl(&[&["delete"], arguments].concat()).unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Applies the HostEndpoint and waits for its programs.
    fn guard(&self) {
        self.apply(HOST_ENDPOINT);
        self.agent
            .wait_endpoints("the host endpoint to be enforced", |endpoints| {
                endpoints.len() == 2
                    && endpoints.iter().any(|it| it.name == "up")
                    && endpoints.iter().all(|it| it.state == EndpointState::Enforcing)
            })
            .unwrap();
    }
}

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
