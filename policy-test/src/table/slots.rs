//! The network of the third ring, the same for every table: namespaces that become a table's
//! containers, the host between them, and a world behind it.
//!
//! Inputs: a [`World`]. Outputs: namespaces with its addresses.
//!
//! Addresses stand alone (/32, /128), with routes for each of the others, so that a table may use
//! whichever it likes. Containers meet on the bridge; the world is a route away.

use std::{collections::BTreeMap, net::IpAddr, process::Command};

use anyhow::{Context as _, Result, ensure};
use policy_agent::observer::protocol_name;

use super::World;
use crate::{
    lab::{Bridge, Lab, Workload},
    netns::NetNs,
};

/// The bridge of the containers.
pub(super) const BRIDGE: &str = "br-tables";
/// Where the world comes in; tables call their uplink so.
pub(super) const UPLINK: &str = "eth0";
/// The host's addresses towards the containers and towards the world. No table uses these.
const INSIDE: [&str; 2] = ["100.127.255.254/32", "fd7f:ffff::1/128"];
const OUTSIDE: [&str; 2] = ["100.127.254.254/32", "fd7f:fffe::1/128"];

/// The namespaces.
pub(super) struct Slots {
    pub(super) lab: Lab,
    bridge: Bridge,
    world: Workload,
    workloads: Vec<Workload>,
    /// Which of the workloads an endpoint has.
    taken: BTreeMap<String, usize>,
}

impl Slots {
    pub(super) fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let bridge = lab.bridge(BRIDGE, &INSIDE)?;
        // An interface of its own, and no port of a bridge: only such a one can be a host endpoint's.
        let outside = lab.bridge("br-world", &[])?;
        let world = lab.workload("world", &outside, &[])?;
        let host = lab.host();
        host.ip_batch(&[
            format!("link set {} down", world.host_interface()),
            format!("link set {} name {UPLINK}", world.host_interface()),
            "link delete br-world".to_owned(),
        ])?;
        let mut lines = vec![format!("link set {UPLINK} up")];
        lines.extend(OUTSIDE.map(|address| format!("address add {address} dev {UPLINK} nodad")));
        lines.extend(["0.0.0.0/0", "::/0"].map(|all| format!("route add {all} dev {UPLINK}")));
        host.ip_batch(&lines)?;
        Ok(Self { lab, bridge, world, workloads: Vec::new(), taken: BTreeMap::new() })
    }

    /// Gives every endpoint a workload, and everybody the addresses and routes of now. `worldly` are
    /// the addresses that the rows name and nobody else has.
    pub(super) fn arrange(&mut self, world: &World, worldly: &[IpAddr]) -> Result<()> {
        let endpoints = world.endpoints();
        self.taken.retain(|name, _| endpoints.iter().any(|endpoint| endpoint.name == *name));
        for endpoint in endpoints {
            if self.taken.contains_key(&endpoint.name) {
                continue;
            }
            let used = |slot: &usize| self.taken.values().any(|taken| taken == slot);
            let slot =
                (0..=self.workloads.len()).find(|slot| !used(slot)).context("one is free")?;
            if slot == self.workloads.len() {
                let workload = self.lab.workload(&format!("t{slot}"), &self.bridge, &[])?;
                self.workloads.push(workload);
            }
            self.taken.insert(endpoint.name.clone(), slot);
        }
        let all: Vec<IpAddr> =
            endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
        for endpoint in endpoints {
            let workload = &self.workloads[self.taken[&endpoint.name]];
            let others = all.iter().filter(|it| !endpoint.addresses.contains(it));
            let others = others.chain(world.host()).copied();
            let mac = endpoint.spec.get("mac").and_then(serde_json::Value::as_str);
            let mut lines = guest(workload.netns(), &endpoint.addresses, &INSIDE)?;
            lines.extend(mac.map(|mac| format!("link set eth0 address {mac}")));
            lines.extend(others.map(|other| route(other, "eth0")));
            workload.netns().ip_batch(&lines)?;
        }
        let netns = self.world.netns();
        netns.ip_batch(&guest(netns, worldly, &OUTSIDE)?)?;
        let mut lines = fresh(self.lab.host(), BRIDGE)?;
        lines.extend(INSIDE.map(|address| format!("address add {address} dev {BRIDGE} nodad")));
        lines.extend(world.host().iter().map(|&address| add(address, BRIDGE)));
        lines.extend(all.iter().map(|&address| route(address, BRIDGE)));
        lines.push(format!("neighbour flush dev {UPLINK}"));
        self.lab.host().ip_batch(&lines)?;
        self.translate(world)
    }

    /// Has the host's kernel pass published ports on, as Docker's rules would.
    fn translate(&self, world: &World) -> Result<()> {
        let mut rules = "add table inet tables; delete table inet tables;".to_owned();
        let translations = world.translations();
        if !translations.is_empty() {
            rules += "add table inet tables; add chain inet tables prerouting { type nat hook \
                      prerouting priority dstnat; };";
        }
        for (service, address, at) in translations {
            let protocol = protocol_name(service.protocol);
            let (family, to) = match address {
                IpAddr::V4(_) => ("ip", format!("{address}:{at}")),
                IpAddr::V6(_) => ("ip6", format!("[{address}]:{at}")),
            };
            let nfproto = if address.is_ipv4() { "ipv4" } else { "ipv6" };
            rules += &format!(
                "add rule inet tables prerouting meta nfproto {nfproto} fib daddr type local \
                 {protocol} dport {} dnat {family} to {to};",
                service.port
            );
        }
        let output = self.lab.host().output(Command::new("nft").arg(&rules))?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}\n{rules}", message.trim());
        Ok(())
    }

    /// The host-side interface of an endpoint.
    pub(super) fn interface(&self, name: &str) -> Result<&str> {
        let slot = self.taken.get(name).with_context(|| format!("{name} has no workload"))?;
        Ok(self.workloads[*slot].host_interface())
    }

    /// Where an address is.
    pub(super) fn netns(&self, world: &World, address: IpAddr) -> &NetNs {
        if world.host().contains(&address) {
            return self.lab.host();
        }
        let mut endpoints = world.endpoints().iter();
        match endpoints.find(|endpoint| endpoint.addresses.contains(&address)) {
            Some(endpoint) => self.workloads[self.taken[&endpoint.name]].netns(),
            None => self.world.netns(),
        }
    }
}

/// Takes an interface's addresses, routes and neighbours away.
fn fresh(netns: &NetNs, interface: &str) -> Result<Vec<String>> {
    // The lines of a batch are all of one family where none has an address.
    netns.ip(&["-6", "route", "flush", "dev", interface, "proto", "static"])?;
    Ok(vec![
        format!("address flush dev {interface} scope global"),
        format!("route flush dev {interface} proto static"),
        format!("neighbour flush dev {interface}"),
    ])
}

/// What a namespace does that has one interface and a gateway of each family.
fn guest(netns: &NetNs, addresses: &[IpAddr], gateways: &[&str]) -> Result<Vec<String>> {
    let mut lines = fresh(netns, "eth0")?;
    lines.extend(addresses.iter().map(|&address| add(address, "eth0")));
    for gateway in gateways {
        let (gateway, _) = gateway.split_once('/').context("with its prefix length")?;
        let gateway: IpAddr = gateway.parse()?;
        if addresses.iter().any(|address| address.is_ipv4() == gateway.is_ipv4()) {
            let all = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            lines.push(route(gateway, "eth0"));
            lines.push(format!("route replace {all} via {gateway} dev eth0 onlink proto static"));
        }
    }
    Ok(lines)
}

fn add(address: IpAddr, interface: &str) -> String {
    let (length, nodad) = if address.is_ipv4() { (32, "") } else { (128, " nodad") };
    format!("address add {address}/{length} dev {interface}{nodad}")
}

fn route(address: IpAddr, interface: &str) -> String {
    let length = if address.is_ipv4() { 32 } else { 128 };
    format!("route replace {address}/{length} dev {interface} proto static")
}
