//! The application in network namespaces.
//!
//! Inputs: a table. Outputs: a stage whose endpoints are namespaces on a bridge, described to the
//! agent by WorkloadEndpoint resources.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use policy_api::messages::EndpointState;

use super::{
    interrupt::Interrupts,
    stage::{self, SERVED, Stage},
};
use crate::{
    agent::{Agent, AgentOptions},
    lab::{Bridge, Lab, Workload},
    net::{Reach, TcpEcho},
    table::{HOST, Table},
};

const BRIDGE: &str = "br-demo";

/// Namespaces and the agent. Fields go in this order: servers before their namespaces.
#[derive(Debug)]
pub(super) struct Namespaces {
    agent: Agent,
    _servers: Vec<TcpEcho>,
    workloads: Vec<Workload>,
    bridge: Bridge,
    lab: Lab,
}

impl Namespaces {
    pub(super) fn start(table: &Table, interrupts: &Interrupts) -> Result<Self> {
        let lab = Lab::new()?;
        let host: Vec<String> = table.host.iter().map(|&address| with_prefix(address)).collect();
        let host: Vec<&str> = host.iter().map(String::as_str).collect();
        let bridge = lab.bridge(BRIDGE, &host)?;
        interrupts.check()?;
        let agent = AgentOptions::default().flags(&["--bridge", BRIDGE]).start(&lab)?;
        interrupts.check()?;
        agent.apply(&table.workload_endpoints()?)?;
        let mut workloads = Vec::new();
        let mut servers = Vec::new();
        for endpoint in &table.endpoints {
            interrupts.check()?;
            let addresses: Vec<String> =
                endpoint.addresses.iter().map(|&address| with_prefix(address)).collect();
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            let workload = lab.workload(&endpoint.name, &bridge, &addresses)?;
            let served = SERVED.iter().filter(|(name, _)| *name == endpoint.name);
            for (&(_, port), &address) in
                served.flat_map(|s| endpoint.addresses.iter().map(move |a| (s, a)))
            {
                servers.push(TcpEcho::start(workload.netns(), SocketAddr::new(address, port))?);
            }
            workloads.push(workload);
        }
        let wanted = table.endpoints.len();
        agent.wait_endpoints("the endpoints to be enforced", |endpoints| {
            let enforced =
                endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::Enforcing);
            enforced.count() == wanted
        })?;
        Ok(Self { agent, _servers: servers, workloads, bridge, lab })
    }

    fn workload(&self, name: &str) -> Result<&Workload> {
        let mut workloads = self.workloads.iter();
        workloads.find(|workload| workload.name() == name).with_context(|| format!("no {name}"))
    }
}

impl Stage for Namespaces {
    fn agent(&self) -> &Agent {
        &self.agent
    }

    fn scope(&self) -> String {
        "in a namespace that plays the host".to_owned()
    }

    fn name(&self, endpoint: &str) -> String {
        endpoint.to_owned()
    }

    fn addresses(&self, name: &str) -> Result<[IpAddr; 2]> {
        if name == HOST {
            let addresses: Vec<IpAddr> = self.bridge.addresses().collect();
            ensure!(addresses.len() == 2, "the host has one address of each family");
            return Ok([addresses[0], addresses[1]]);
        }
        let workload = self.workload(name)?;
        Ok([workload.ipv4()?, workload.ipv6()?])
    }

    fn connect(&self, from: &str, to: &[SocketAddr]) -> Result<Vec<Reach>> {
        let netns = if from == HOST { self.lab.host() } else { self.workload(from)?.netns() };
        stage::connect_from(netns, to)
    }

    fn end(self: Box<Self>) -> Result<()> {
        let name = self.lab.name().to_owned();
        drop(self);
        Lab::ensure_gone(&name)
    }
}

/// All of them are on one link.
fn with_prefix(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 })
}
