//! Traffic that is let through, and traffic that is dropped. `truth.rs` has what of it must be counted.
//!
//! Inputs: a lab. Outputs: an agent with policies, and packets that meet them.
//!
//! Each packet is sent once, by hand: connections are given up before the first retransmission,
//! and neighbours are known beforehand, so that nothing else is sent on their behalf.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use policy_api::messages::EndpointState;
use policy_test::{
    agent::{Agent, AgentOptions},
    lab::{Lab, Workload},
    net::{Reach, TcpEcho, UdpEcho, recv},
    netns::NetNs,
    wait,
};

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
    - action: Allow
      protocol: UDP
      source: {selector: app == 'web'}
      destination: {ports: [53]}
    - action: Allow
      protocol: TCP
      source: {selector: app == 'web'}
      destination: {ports: [6379]}
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
---
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: db-next, namespace: shop}
spec:
  order: 10
  selector: app == 'db'
  types: [Ingress]
  ingress:
    - action: Deny
      protocol: UDP
      destination: {ports: [53]}
    - action: Allow
      protocol: UDP
      destination: {ports: [5353]}
    - action: Allow
      protocol: SCTP
";

/// Everything that plays a part.
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) agent: Agent,
    web: Workload,
    db: Workload,
    intruder: Workload,
}

impl Scene {
    /// A fenced web and db with a past; the intruder is there, but not fenced yet.
    pub(crate) fn set() -> Result<Self> {
        let lab = Lab::new()?;
        let bridge = lab.bridge("br-lab", &["10.77.0.1/24", "fd77::1/64"])?;
        let web = lab.workload("web", &bridge, &["10.77.0.2/24", "fd77::2/64"])?;
        let db = lab.workload("db", &bridge, &["10.77.0.3/24", "fd77::3/64"])?;
        let intruder = lab.workload("intruder", &bridge, &["10.77.0.4/24", "fd77::4/64"])?;
        for (of, to) in
            [(&db, [&web, &intruder]), (&web, [&db, &intruder]), (&intruder, [&web, &db])]
        {
            for neighbour in to {
                know(neighbour, of)?;
            }
        }
        let log = lab.folder().join("flows.json");
        let flags = ["--flow-log", log.to_str().context("a path that is no text")?];
        let agent = AgentOptions::default().flags(&flags).start(&lab)?;
        let scene = Self { lab, agent, web, db, intruder };
        scene.fence(&scene.web, "shop")?;
        scene.fence(&scene.db, "shop")?;
        scene.agent.apply(POLICIES)?;
        scene.declare("late", "shop", LATE, "10.77.0.5/32")?;
        scene.past()?;
        Ok(scene)
    }

    /// What is counted already when Prometheus comes: no panel may show it. Connections are there, whose
    /// number of packets is TCP's own affair.
    fn past(&self) -> Result<()> {
        for _ in 0..9 {
            self.web.netns().knock(SocketAddr::new(self.db.ipv4()?, 25))?;
        }
        let dns = SocketAddr::new(self.db.ipv4()?, 53);
        converse(self.web.netns(), self.db.netns(), dns, 6)?;
        for ip in [self.db.ipv4()?, self.db.ipv6()?] {
            let server = SocketAddr::new(ip, 5432);
            let _db = TcpEcho::start(self.db.netns(), server)?;
            let reach = self.web.netns().try_tcp(server, LIMIT)?;
            ensure!(reach == Reach::Answered, "web must reach {server}: {reach:?}");
        }
        let mut last = String::new();
        wait::until("the end of both connections, at both ends", 6 * LIMIT, || {
            let words = ["observe", "-o", "json", "--event", "close", "--last", "9"];
            let told = self.agent.policyctl(&words);
            last = told.map_or_else(
                |error| error.to_string(),
                |output| String::from_utf8_lossy(&output.stdout).into_owned(),
            );
            last.lines().count() == 4
        })
        .with_context(|| last)
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

    /// Fences the intruder and an interface that is new, and lets everybody do what they may and what they
    /// may not.
    pub(crate) fn play(&self) -> Result<()> {
        self.fence(&self.intruder, "lab")?;
        // Down, so it sends nothing.
        self.lab.host().ip(&["link", "add", LATE, "type", "veth", "peer", "name", "p-late"])?;
        self.wait_enforced("late")?;
        self.pass()?;
        self.fail()
    }

    fn pass(&self) -> Result<()> {
        let (web, db, intruder) = (self.web.netns(), self.db.netns(), self.intruder.netns());
        converse(web, db, SocketAddr::new(self.db.ipv4()?, 53), 7)?;
        converse(web, db, SocketAddr::new(self.db.ipv6()?, 53), 3)?;
        converse(intruder, web, SocketAddr::new(self.web.ipv6()?, 7777), 4)?;
        let log = SocketAddr::new(self.web.ipv4()?, 514);
        let _nobody_answers = web.udp_bind(log)?;
        db.send_udp(None, log, PAYLOAD, 5)?;
        Ok(())
    }

    fn fail(&self) -> Result<()> {
        let (v4, v6) = (self.db.ipv4()?, self.db.ipv6()?);
        let (web, intruder) = (self.web.netns(), self.intruder.netns());
        for (ip, times) in [(v4, 3), (v6, 2)] {
            for _ in 0..times {
                intruder.knock(SocketAddr::new(ip, 5432))?;
            }
        }
        intruder.send_udp(None, SocketAddr::new(v4, 5353), PAYLOAD, 120)?;
        intruder.send_udp(None, SocketAddr::new(v6, 5353), PAYLOAD, 7)?;
        intruder.send_udp(None, SocketAddr::new(v4, 9999), PAYLOAD, 11)?;
        for ip in [v4, v6] {
            let reach = web.try_ping(ip, SHORT)?;
            ensure!(reach == Reach::Silent, "web must not ping {ip}: {reach:?}");
        }
        web.knock(SocketAddr::new(v4, 25))?;
        web.knock(SocketAddr::new(v6, 25))?;
        intruder.ip(&["address", "add", &format!("{FORGED}/32"), "dev", "lo"])?;
        intruder.send_udp(Some(FORGED.parse()?), SocketAddr::new(v4, 53), PAYLOAD, 4)?;
        Ok(())
    }
}

/// Writes down where `of` is, so that nobody asks for it.
fn know(workload: &Workload, of: &Workload) -> Result<()> {
    let address = mac(of)?;
    for ip in [of.ipv4()?, of.ipv6()?] {
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
    Ok(())
}

/// So many messages, each answered before the next.
fn converse(asks: &NetNs, answers: &NetNs, at: SocketAddr, messages: u32) -> Result<()> {
    let echo = UdpEcho::start(answers, at)?;
    let any: IpAddr = if at.is_ipv4() { "0.0.0.0".parse()? } else { "::".parse()? };
    let socket = asks.udp_bind(SocketAddr::new(any, 0))?;
    socket.set_read_timeout(Some(LIMIT))?;
    for _ in 0..messages {
        socket.send_to(PAYLOAD, echo.address()?)?;
        ensure!(recv(&socket, &mut [0; 64])? == PAYLOAD.len(), "{at} must answer");
    }
    Ok(())
}

fn mac(workload: &Workload) -> Result<String> {
    let link = workload.netns().ip(&["-oneline", "link", "show", "eth0"])?;
    let (_, rest) = link.split_once("link/ether ").context("eth0 has a MAC address")?;
    Ok(rest.split_whitespace().next().unwrap_or_default().to_owned())
}
