//! A host with an interface to the outside, and tables of who may reach whom through it.
//!
//! The outside is a namespace on a bridge of its own, which is the host's interface to it. A
//! workload on another bridge is published by a translation that the host's nftables make.

use std::{net::SocketAddr, process::Command};

use policy_api::messages::EndpointState;
use policy_test::{
    agent::{Agent, AgentOptions},
    lab::{Lab, Workload},
    net::{Reach, TcpEcho, UdpEcho},
    netns::NetNs,
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
    fib daddr type local tcp dport { 8080, 8082 } dnat to 10.77.0.2:80
  }
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr 10.77.0.0/24 oifname \"br-out\" masquerade
  }
}
";

/// A policy on the host endpoint, by its name and the rest of its spec.
pub(crate) fn policy(name: &str, spec: &str) -> String {
    of_kind("GlobalNetworkPolicy", name, spec)
}

/// The same, staged.
pub(crate) fn staged(name: &str, spec: &str) -> String {
    of_kind("StagedGlobalNetworkPolicy", name, spec)
}

fn of_kind(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: {kind}\n\
         metadata: {{name: {name}}}\nspec: {{selector: role == 'gateway', {spec}}}\n"
    )
}

pub(crate) struct Scene {
    pub(crate) agent: Agent,
    pub(crate) outside: Workload,
    pub(crate) web: Workload,
    pub(crate) lab: Lab,
    _servers: Vec<TcpEcho>,
    _datagrams: Vec<UdpEcho>,
}

/// Who tries to reach whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Outside,
    Web,
    Host,
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let lab = Lab::new().unwrap();
        let out = lab.bridge("br-out", &["10.99.0.1/24", "fd99::1/64"]).unwrap();
        let addresses = ["10.99.0.2/24", "fd99::2/64", "10.99.0.3/24"];
        let outside = lab.workload("out", &out, &addresses).unwrap();
        let inner = lab.bridge("br-lab", &["10.77.0.1/24"]).unwrap();
        let web = lab.workload("web", &inner, &["10.77.0.2/24"]).unwrap();
        let rules = lab.name().to_owned() + ".nft";
        let file = std::env::temp_dir().join(rules);
        std::fs::write(&file, TRANSLATIONS).unwrap();
        let made = lab.host().output(Command::new("nft").arg("-f").arg(&file)).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(made.status.success(), "{made:?}");
        let published = ["tcp:8080:80", "tcp:8081:80", "tcp:8082:80"];
        let published = published.map(|port| ["--published-port", port]).concat();
        let agent = AgentOptions::default()
            .flags(&["--bridge", "br-lab", "--node-name", "lab"])
            .flags(&published)
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

    /// Each line is who, where to, and whether that is answered; if it is not, policy has dropped it.
    pub(crate) fn check(&self, what: &str, table: &[(Who, &str, bool)]) {
        self.check_for("policy", what, table);
    }

    /// The same, with the reason for which it is dropped.
    pub(crate) fn check_for(&self, reason: &str, what: &str, table: &[(Who, &str, bool)]) {
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
            let dropped = moved.for_reason(reason);
            assert_eq!(dropped > 0, !answered, "{what}: {from:?} to {to}: {moved:#?}");
        }
    }

    pub(crate) fn apply(&self, yaml: &str) {
        self.agent.apply(yaml).unwrap_or_else(|error| panic!("{error:#}\n{yaml}"));
    }

    pub(crate) fn delete(&self, arguments: &[&str]) {
        let output = self.agent.policyctl(&[&["delete"], arguments].concat()).unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Applies the HostEndpoint and waits for its programs.
    pub(crate) fn guard(&self) {
        self.apply(HOST_ENDPOINT);
        self.wait_for(&[("up", "br-out")]);
    }

    /// Waits until these host endpoints, by name and interface, are enforced, and no other.
    pub(crate) fn wait_for(&self, wanted: &[(&str, &str)]) {
        self.agent
            .wait_endpoints("the host endpoints to be enforced", |endpoints| {
                let mut found: Vec<(&str, &str)> = endpoints
                    .iter()
                    .filter(|it| it.name != "web")
                    .map(|it| (it.name.as_str(), it.interface.as_str()))
                    .collect();
                found.sort_unstable();
                found == wanted && endpoints.iter().all(|it| it.state == EndpointState::Enforcing)
            })
            .unwrap();
    }
}
