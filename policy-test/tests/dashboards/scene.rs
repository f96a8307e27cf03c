//! Traffic that is dropped, and what of it must be counted.
//!
//! Inputs: a lab. Outputs: an agent with policies, packets that meet them, and the drops by label
//! with exact numbers.
//!
//! Each packet is sent once, by hand: connections are given up before the first retransmission,
//! and neighbours are known beforehand, so that nothing else is sent on their behalf.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use policy_api::messages::EndpointState;
use policy_test::{
    agent::{Agent, AgentOptions},
    lab::{Lab, Workload},
    net::{Reach, TcpEcho},
    netns::NetNs,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::prometheus::{Labels, Vector};

/// For answers that must come.
const LIMIT: Duration = Duration::from_secs(5);
/// For one that must not.
const SHORT: Duration = Duration::from_millis(50);
const PAYLOAD: &[u8] = b"sixteen bytes...";
/// Declared before it is there: the delay until its fence is on is measured.
const LATE: &str = "veth-late";
/// An address of nobody.
const FORGED: &str = "10.77.0.99";

const POLICIES: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db-from-web, namespace: shop}
spec:
  selector: app == 'db'
  types: [Ingress]
  ingress:
    - action: Allow
      protocol: TCP
      source: {selector: app == 'web'}
      destination: {ports: [5432]}
    - action: Deny
      protocol: UDP
      destination: {ports: [9999]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web-no-mail, namespace: shop}
spec:
  selector: app == 'web'
  types: [Egress]
  egress:
    - action: Deny
      protocol: TCP
      destination: {ports: [25]}
    - action: Allow
";

/// Drops of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Drops {
    labels: Labels,
    packets: u32,
    bytes: u32,
}

/// What to add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    Packets,
    Bytes,
}

impl Drops {
    fn new(labels: &[(&str, &str)], packets: u32, bytes: u32) -> Self {
        let labels =
            labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { labels, packets, bytes }
    }

    /// Empty if there is no such label.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Sums by some of the labels, as `sum by (...)` gives them.
pub(crate) fn sum<'a>(
    drops: impl IntoIterator<Item = &'a Drops>,
    by: &[&str],
    measure: Measure,
) -> Vector {
    let mut sums = Vector::new();
    for Drops { labels, packets, bytes } in drops {
        let mut group = labels.clone();
        group.retain(|name, _| by.contains(&name.as_str()));
        *sums.entry(group).or_default() += f64::from(match measure {
            Measure::Packets => *packets,
            Measure::Bytes => *bytes,
        });
    }
    sums
}

/// Everything that plays a part.
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) agent: Agent,
    web: Workload,
    db: Workload,
    intruder: Workload,
}

impl Scene {
    /// A fenced web and db; the intruder is there, but not fenced yet.
    pub(crate) fn set() -> Result<Self> {
        let lab = Lab::new()?;
        let bridge = lab.bridge("br-lab", &["10.77.0.1/24", "fd77::1/64"])?;
        let web = lab.workload("web", &bridge, &["10.77.0.2/24", "fd77::2/64"])?;
        let db = lab.workload("db", &bridge, &["10.77.0.3/24", "fd77::3/64"])?;
        let intruder = lab.workload("intruder", &bridge, &["10.77.0.4/24", "fd77::4/64"])?;
        let address = mac(&db)?;
        for workload in [&web, &intruder] {
            for ip in [db.ipv4()?, db.ipv6()?] {
                let ip = ip.to_string();
                workload.netns().ip(&[
                    "neigh",
                    "replace",
                    &ip,
                    "lladdr",
                    &address,
                    "dev",
                    "eth0",
                    "nud",
                    "permanent",
                ])?;
            }
        }
        let agent = AgentOptions::default().start(&lab)?;
        let scene = Self { lab, agent, web, db, intruder };
        scene.fence(&scene.web, "shop")?;
        scene.fence(&scene.db, "shop")?;
        scene.agent.apply(POLICIES)?;
        scene.declare("late", "shop", LATE, "10.77.0.5/32")?;
        // Counted already when Prometheus comes: no panel may show these.
        for _ in 0..9 {
            knock(scene.web.netns(), SocketAddr::new(scene.db.ipv4()?, 25))?;
        }
        Ok(scene)
    }

    fn declare(&self, name: &str, namespace: &str, interface: &str, nets: &str) -> Result<()> {
        self.agent.apply(&format!(
            "apiVersion: projectcalico.org/v3\n\
             kind: WorkloadEndpoint\n\
             metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
             spec: {{interfaceName: {interface}, ipNetworks: [{nets}]}}\n",
        ))?;
        Ok(())
    }

    fn fence(&self, workload: &Workload, namespace: &str) -> Result<()> {
        let nets = format!("{}/32, \"{}/128\"", workload.ipv4()?, workload.ipv6()?);
        self.declare(workload.name(), namespace, workload.host_interface(), &nets)?;
        self.wait_enforced(workload.name())
    }

    fn wait_enforced(&self, name: &str) -> Result<()> {
        self.agent.wait_endpoints(&format!("{name} to be enforced"), |endpoints| {
            endpoints
                .iter()
                .any(|endpoint| endpoint.name == name && endpoint.state == EndpointState::Enforcing)
        })?;
        Ok(())
    }

    /// Fences the intruder and an interface that is new, lets web reach db as it may, and everybody do what they may not. Gives
    /// what must have been dropped.
    pub(crate) fn play(&self) -> Result<Vec<Drops>> {
        self.fence(&self.intruder, "lab")?;
        // Down, so it sends nothing.
        self.lab.host().ip(&["link", "add", LATE, "type", "veth", "peer", "name", "p-late"])?;
        self.wait_enforced("late")?;
        let (v4, v6) = (self.db.ipv4()?, self.db.ipv6()?);
        let (web, intruder) = (self.web.netns(), self.intruder.netns());

        for ip in [v4, v6] {
            let server = SocketAddr::new(ip, 5432);
            let _db = TcpEcho::start(self.db.netns(), server)?;
            let reach = web.try_tcp(server, LIMIT)?;
            ensure!(reach == Reach::Answered, "web must reach {server}: {reach:?}");
        }

        for (ip, times) in [(v4, 3), (v6, 2)] {
            for _ in 0..times {
                knock(intruder, SocketAddr::new(ip, 5432))?;
            }
        }
        datagrams(intruder, None, SocketAddr::new(v4, 5353), 120)?;
        datagrams(intruder, None, SocketAddr::new(v6, 5353), 7)?;
        datagrams(intruder, None, SocketAddr::new(v4, 9999), 11)?;
        for ip in [v4, v6] {
            let reach = web.try_ping(ip, SHORT)?;
            ensure!(reach == Reach::Silent, "web must not ping {ip}: {reach:?}");
        }
        knock(web, SocketAddr::new(v4, 25))?;
        knock(web, SocketAddr::new(v6, 25))?;
        intruder.ip(&["address", "add", &format!("{FORGED}/32"), "dev", "lo"])?;
        datagrams(intruder, Some(FORGED.parse()?), SocketAddr::new(v4, 53), 4)?;
        Ok(drops())
    }
}

/// What [`Scene::play`] makes. Sizes are those of Ethernet frames: 14 bytes, the IP header (20 or
/// 40), then 40 of a Linux SYN with its options, 8 of UDP with 16 of payload, or 8 of ICMP with 14.
fn drops() -> Vec<Drops> {
    const WEB: [(&str, &str); 2] = [("source_namespace", "shop"), ("source", "web")];
    const INTRUDER: [(&str, &str); 2] = [("source_namespace", "lab"), ("source", "intruder")];
    const DB: [(&str, &str); 2] = [("destination_namespace", "shop"), ("destination", "db")];
    const DEFAULT: [(&str, &str); 4] = [
        ("direction", "ingress"),
        ("reason", "policy"),
        ("tier", "default"),
        ("rule", "tier-default"),
    ];
    let service = |protocol, port| [("protocol", protocol), ("port", port)];
    vec![
        Drops::new(
            &[&INTRUDER[..], &DB, &DEFAULT, &service("tcp", "5432")].concat(),
            5,
            3 * 74 + 2 * 94,
        ),
        Drops::new(
            &[&INTRUDER[..], &DB, &DEFAULT, &service("udp", "5353")].concat(),
            127,
            120 * 58 + 7 * 78,
        ),
        Drops::new(
            &[
                &INTRUDER[..],
                &DB,
                &service("udp", "9999"),
                &[
                    ("direction", "ingress"),
                    ("reason", "policy"),
                    ("tier", "default"),
                    ("policy_namespace", "shop"),
                    ("policy", "db-from-web"),
                    ("rule", "ingress[1]"),
                ],
            ]
            .concat(),
            11,
            11 * 58,
        ),
        Drops::new(&[&WEB[..], &DB, &DEFAULT, &service("icmp", "8/0")].concat(), 1, 56),
        Drops::new(&[&WEB[..], &DB, &DEFAULT, &service("icmpv6", "128/0")].concat(), 1, 76),
        Drops::new(
            &[
                &WEB[..],
                &DB,
                &service("tcp", "25"),
                &[
                    ("direction", "egress"),
                    ("reason", "policy"),
                    ("tier", "default"),
                    ("policy_namespace", "shop"),
                    ("policy", "web-no-mail"),
                    ("rule", "egress[0]"),
                ],
            ]
            .concat(),
            2,
            74 + 94,
        ),
        Drops::new(
            &[
                &INTRUDER[..],
                &service("udp", "53"),
                &[
                    ("destination", "unknown"),
                    ("direction", "egress"),
                    ("reason", "spoofed-source"),
                ],
            ]
            .concat(),
            4,
            4 * 58,
        ),
    ]
}

fn mac(workload: &Workload) -> Result<String> {
    let link = workload.netns().ip(&["-oneline", "link", "show", "eth0"])?;
    let (_, rest) = link.split_once("link/ether ").context("eth0 has a MAC address")?;
    Ok(rest.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Sends one SYN, and gives up.
fn knock(netns: &NetNs, to: SocketAddr) -> Result<()> {
    let socket =
        netns.run(|| Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)))??;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Ok(()) => anyhow::bail!("{to} answered at once"),
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error).with_context(|| format!("connect to {to}")),
    }
}

fn datagrams(netns: &NetNs, from: Option<IpAddr>, to: SocketAddr, count: u32) -> io::Result<()> {
    let any = || if to.is_ipv4() { "0.0.0.0".parse() } else { "::".parse() };
    let from = match from {
        Some(from) => from,
        None => any().map_err(io::Error::other)?,
    };
    let socket = netns.udp_bind(SocketAddr::new(from, 0))?;
    for _ in 0..count {
        socket.send_to(PAYLOAD, to)?;
    }
    Ok(())
}
