//! A small shop under an agent, and somebody who looks around in it.
//!
//! Inputs: a lab. Outputs: endpoints, policies, a staged one, and traffic that rises and falls: what the policies
//! let through, and what they drop. So much and no more, whatever the machine's speed.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use policy_api::messages::EndpointState;

use crate::{
    agent::{Agent, AgentOptions},
    lab::{Lab, Workload},
    net::UdpEcho,
    pictures::server::{Server, fetch},
};

/// Between two rounds of traffic.
const TICK: Duration = Duration::from_millis(500);
/// Rounds in a second.
const TICKS: u32 = 2;
/// Requests of a round, again and again.
const WAVE: [u32; 16] = [3, 4, 5, 6, 7, 8, 8, 8, 7, 6, 5, 4, 3, 2, 2, 2];
/// Seconds of one element of the wave.
const WAVE_SECONDS: u32 = 2;
/// Seconds in which the intruder looks for open doors.
const SCAN: Range<u32> = 34..58;
const PAYLOAD: &[u8] = b"checkout_total:1|c";

const WEB: u16 = 80;
const API: u16 = 8080;
const DB: u16 = 5432;
const CACHE: u16 = 6379;
const STATS: u16 = 8125;
/// What the intruder tries.
const TRIED_AT_DB: [u16; 2] = [22, DB];
const TRIED_AT_API: [u16; 2] = [22, API];
/// A mail server elsewhere (RFC 5737).
const MAIL: &str = "203.0.113.25:25";
/// An address of nobody.
const FORGED: &str = "10.77.0.99";

const POLICIES: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: app == 'web'
  types: [Ingress, Egress]
  ingress:
    - action: Allow
      protocol: TCP
      destination: {ports: [80]}
  egress:
    - {action: Deny, protocol: TCP, destination: {ports: [25]}}
    - action: Allow
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: app == 'api'
  types: [Ingress, Egress]
  ingress:
    - action: Allow
      protocol: TCP
      source: {selector: app == 'web'}
      destination: {ports: [8080]}
    - action: Allow
      protocol: TCP
      source: {selector: app == 'web'}
      destination: {ports: [8443]}
  egress:
    - {action: Deny, protocol: TCP, destination: {ports: [25]}}
    - action: Allow
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  types: [Ingress]
  ingress:
    - action: Deny
      protocol: TCP
      destination: {ports: [22]}
    - action: Allow
      protocol: TCP
      source: {selector: app == 'api'}
      destination: {ports: [5432]}
    - action: Allow
      protocol: UDP
      source: {selector: app == 'api'}
      destination: {ports: [8125]}
    - action: Allow
      protocol: TCP
      source: {selector: app == 'api'}
      destination: {ports: [5433]}
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
      destination: {ports: [8125]}
    - action: Allow
      protocol: TCP
      source: {selector: app == 'web'}
      destination: {ports: [6379]}
";

/// Everybody, and the agent that fences them.
pub(super) struct Shop {
    pub(super) lab: Lab,
    agent: Agent,
    web: Workload,
    api: Workload,
    db: Workload,
    intruder: Workload,
    _servers: [Server; 3],
    _statistics: UdpEcho,
}

impl Shop {
    /// All but the intruder have their fence.
    pub(super) fn open() -> Result<Self> {
        let lab = Lab::new()?;
        let bridge = lab.bridge("br-shop", &["10.77.0.1/24"])?;
        let workload = |name, address| lab.workload(name, &bridge, &[address]);
        let web = workload("web", "10.77.0.2/24")?;
        let api = workload("api", "10.77.0.3/24")?;
        let db = workload("db", "10.77.0.4/24")?;
        let intruder = workload("intruder", "10.77.0.5/24")?;
        intruder.netns().ip(&["address", "add", &format!("{FORGED}/32"), "dev", "lo"])?;
        let servers = [(&web, WEB), (&api, API), (&db, DB)]
            .map(|(workload, port)| Server::start(workload.netns(), at(workload, port)?));
        let [front, middle, back] = servers;
        let servers = [front?, middle?, back?];
        let statistics = UdpEcho::start(db.netns(), at(&db, STATS)?)?;
        let agent = AgentOptions::default().start(&lab)?;
        agent.apply(POLICIES)?;
        let shop =
            Self { lab, agent, web, api, db, intruder, _servers: servers, _statistics: statistics };
        for workload in [&shop.web, &shop.api, &shop.db] {
            shop.fence(workload, "shop")?;
        }
        Ok(shop)
    }

    fn fence(&self, workload: &Workload, namespace: &str) -> Result<()> {
        let name = workload.name();
        self.agent.apply(&format!(
            "apiVersion: projectcalico.org/v3\n\
             kind: WorkloadEndpoint\n\
             metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
             spec: {{interfaceName: {}, ipNetworks: [{}/32]}}\n",
            workload.host_interface(),
            workload.ipv4()?,
        ))?;
        let enforced = |state: EndpointState| state == EndpointState::Enforcing;
        self.agent.wait_endpoints(&format!("{name} to be enforced"), |endpoints| {
            endpoints.iter().any(|endpoint| endpoint.name == name && enforced(endpoint.state))
        })?;
        Ok(())
    }

    /// What comes before that which is shown: customers, and nothing else.
    pub(super) fn warm_up(&self, seconds: u32) -> Result<()> {
        rounds(seconds, |round| self.business(round))
    }

    /// What is shown.
    pub(super) fn trade(&self, seconds: u32) -> Result<()> {
        rounds(seconds, |round| {
            let second = round / TICKS;
            if round == 12 * TICKS {
                self.fence(&self.intruder, "guests")?;
            }
            self.business(round)?;
            self.mistakes(second, round)?;
            self.intrusion(second).with_context(|| format!("in second {second}"))
        })
    }

    /// Requests from web to api, of which every other one goes on to db, and statistics.
    fn business(&self, round: u32) -> Result<()> {
        let requests = wave(round / (WAVE_SECONDS * TICKS));
        let (api, db) = (at(&self.api, API)?, at(&self.db, DB)?);
        for request in 0..requests {
            fetch(self.web.netns(), api, 1_500 + 300 * requests)?;
            if request.is_multiple_of(2) {
                fetch(self.api.netns(), db, 6_000)?;
                self.api.netns().send_udp(None, at(&self.db, STATS)?, PAYLOAD, 1)?;
            }
        }
        Ok(())
    }

    /// Web wants a cache that nobody has opened for it, and both want to send mail.
    fn mistakes(&self, second: u32, round: u32) -> Result<()> {
        if (20..60).contains(&second) {
            for _ in 0..wave(round / TICKS) / 3 {
                self.web.netns().knock(at(&self.db, CACHE)?)?;
            }
        }
        if second.is_multiple_of(3) {
            self.web.netns().knock(MAIL.parse()?)?;
        }
        if round % 8 < second / 10 % 4 {
            self.api.netns().knock(MAIL.parse()?)?;
        }
        Ok(())
    }

    /// First it is a guest as others are, then it looks for open doors, then it forges addresses.
    fn intrusion(&self, second: u32) -> Result<()> {
        let intruder = self.intruder.netns();
        if (15..70).contains(&second) {
            fetch(intruder, at(&self.web, WEB)?, 4_000)?;
        }
        if SCAN.contains(&second) {
            let doors = TRIED_AT_DB.iter().map(|port| (&self.db, *port));
            let doors = doors.chain(TRIED_AT_API.iter().map(|port| (&self.api, *port)));
            for (workload, port) in doors {
                // More and more.
                for _ in 0..=(second - SCAN.start) / 6 {
                    intruder.knock(at(workload, port)?)?;
                }
            }
        }
        if (64..74).contains(&second) {
            let forged: IpAddr = FORGED.parse()?;
            intruder.send_udp(Some(forged), at(&self.db, STATS)?, PAYLOAD, 4)?;
        }
        Ok(())
    }
}

fn wave(element: u32) -> u32 {
    WAVE.into_iter().cycle().nth(element as usize).unwrap_or_default()
}

fn at(workload: &Workload, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(workload.ipv4()?, port))
}

/// A round each tick. A machine that is too slow for that would draw another picture.
fn rounds(seconds: u32, mut play: impl FnMut(u32) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    for round in 0..seconds * TICKS {
        play(round)?;
        thread::sleep((TICK * (round + 1)).saturating_sub(start.elapsed()));
    }
    let late = start.elapsed().saturating_sub(TICK * seconds * TICKS);
    ensure!(late < 4 * TICK, "this machine is too slow: {} ms late", late.as_millis());
    Ok(())
}
