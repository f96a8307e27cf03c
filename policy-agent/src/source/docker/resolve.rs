//! What the engine, the kernel and the process table say, to one snapshot.
//!
//! Input: a [`Picture`]. Output: a [`DockerSnapshot`]. Pure: no I/O, no clock.
//!
//! A veth belongs to the endpoint (container, network) if it is a port of the network's bridge and
//! its other end is in the container's network namespace. Who owns a namespace is known from two
//! sides: the container whose processes are in it (cgroup membership, see `owners`), early; and the
//! engine's inspect, late. Nothing that a container can write is evidence: not its MAC address, not
//! its addresses, not its interface names. Where the two sides disagree, or more than one container
//! or veth qualifies, nothing is matched and the veth stays closed.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    labels,
    snapshot::{
        DockerEndpoint, DockerSnapshot, EngineState, HostVeth, LabelWarning, PendingReason,
        PendingVeth, Unsupported, UnsupportedReason,
    },
    wire::{Attachment, Container, Holder, Network, NetworkMode},
};
use crate::netlink::{Link, LinkKind};

/// All evidence at one moment.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) engine: EngineState,
    /// By id.
    pub(super) containers: BTreeMap<String, Container>,
    /// By id.
    pub(super) networks: BTreeMap<String, Network>,
    /// Endpoints by network id, as last inspected.
    pub(super) attachments: BTreeMap<String, Vec<Attachment>>,
    /// Interfaces by index.
    pub(super) links: BTreeMap<u32, Link>,
    /// By the index of a host veth: who has processes in the namespace of its other end.
    pub(super) owners: BTreeMap<u32, Owners>,
    /// Namespace ids by container id, as the engine's inspect gave them.
    pub(super) sandboxes: BTreeMap<String, i32>,
}

/// Containers with processes in a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owners {
    /// The namespace.
    pub(super) nsid: i32,
    /// Container ids.
    pub(super) containers: BTreeSet<String>,
}

impl Picture {
    /// Bridge networks by the name of their bridge.
    fn bridges(&self) -> BTreeMap<&str, &Network> {
        let named = |network| Some((Network::bridge(network)?, network));
        self.networks.values().filter_map(named).collect()
    }

    /// Veths on managed bridges, each with the id of its network.
    pub(super) fn managed_veths(&self) -> impl Iterator<Item = (&Link, &Network)> {
        let bridges = self.bridges();
        self.links.values().filter(|link| link.kind == LinkKind::Veth).filter_map(move |link| {
            let bridge = self.links.get(&link.master?)?;
            Some((link, *bridges.get(bridge.name.as_str())?))
        })
    }

    /// The one container that owns the namespace of a veth's other end.
    pub(super) fn owner(&self, veth: &Link) -> Result<&str, PendingReason> {
        let nsid = veth.link_netnsid.ok_or(PendingReason::NotHandedOver)?;
        // A container in another one's namespace is a guest there. One that the list does not know
        // yet may be either, and counts.
        let host = |id: &&str| {
            !matches!(
                self.containers.get(*id).map(|container| &container.mode),
                Some(NetworkMode::Container(_))
            )
        };
        let by_processes: BTreeSet<&str> = self
            .owners
            .get(&veth.ifindex)
            .filter(|owners| owners.nsid == nsid)
            .into_iter()
            .flat_map(|owners| owners.containers.iter().map(String::as_str))
            .filter(host)
            .collect();
        let by_inspect: BTreeSet<&str> = self
            .sandboxes
            .iter()
            .filter(|(_, sandbox)| **sandbox == nsid)
            .map(|(id, _)| id.as_str())
            .filter(host)
            .collect();
        let mut all = by_processes.union(&by_inspect).copied();
        let (Some(owner), rest) = (all.next(), all.next()) else {
            return Err(PendingReason::NoOwner);
        };
        let elsewhere = self.sandboxes.get(owner).is_some_and(|sandbox| *sandbox != nsid);
        if rest.is_some() || elsewhere { Err(PendingReason::Ambiguous) } else { Ok(owner) }
    }

    /// The container that an attachment is of, if the list knows it.
    pub(super) fn holder(&self, attachment: &Attachment) -> Option<&Container> {
        match &attachment.holder {
            Holder::Id(id) => self.containers.get(id),
            // The engine keeps names unique.
            Holder::Name(name) => {
                let mut named = self.containers.values().filter(|c| c.name == *name);
                named.next().filter(|_| named.next().is_none())
            }
        }
    }

    /// The snapshot.
    pub(super) fn resolve(&self) -> DockerSnapshot {
        let mut snapshot = DockerSnapshot {
            engine: self.engine.clone(),
            bridges: self.bridges().into_keys().map(str::to_owned).collect(),
            unsupported: self.unsupported(),
            ..DockerSnapshot::default()
        };
        let mut veths = self.match_veths(&mut snapshot.pending);
        for (network_id, attachments) in &self.attachments {
            let Some(network) = self.networks.get(network_id) else { continue };
            if !network.enforced() {
                continue;
            }
            let bridge = network.bridge().unwrap_or_default();
            let device = self.links.values().find(|link| link.name == bridge);
            let bridge_ifindex = device.map(|link| link.ifindex);
            for attachment in attachments {
                let Some(container) = self.holder(attachment) else { continue };
                let Ok(namespace) = labels::namespace(&container.labels) else { continue };
                let (labels, mut messages) =
                    labels::endpoint_labels(container, namespace, &network.name);
                let (ports, more) = labels::named_ports(&container.labels);
                messages.extend(more);
                snapshot.warnings.extend(messages.into_iter().map(|message| LabelWarning {
                    container_id: container.id.clone(),
                    container_name: container.name.clone(),
                    message,
                }));
                snapshot.endpoints.push(DockerEndpoint {
                    container_id: container.id.clone(),
                    container_name: container.name.clone(),
                    namespace: namespace.to_owned(),
                    labels,
                    network: network.name.clone(),
                    network_id: network_id.clone(),
                    bridge: bridge.to_owned(),
                    bridge_ifindex,
                    inside: network.inside.clone(),
                    addresses: attachment.addresses.clone(),
                    mac: attachment.mac,
                    ports,
                    published: container
                        .published
                        .iter()
                        // Without an address to translate to, a process of the engine's answers.
                        .filter(|(port, _)| {
                            let v4 = port.address.is_ipv4();
                            attachment.addresses.iter().any(|own| own.is_ipv4() == v4)
                        })
                        .map(|(port, to)| (*port, *to))
                        .collect(),
                    veth: veths.remove(&(container.id.as_str(), network_id.as_str())),
                });
            }
        }
        snapshot.endpoints.sort_by(|a, b| {
            (&a.container_id, &a.network_id).cmp(&(&b.container_id, &b.network_id))
        });
        snapshot
    }

    /// The veth of each (container id, network id) that has exactly one; the others as pending.
    fn match_veths(&self, pending: &mut Vec<PendingVeth>) -> BTreeMap<(&str, &str), HostVeth> {
        let mut candidates: BTreeMap<(&str, &str), Vec<(HostVeth, &str)>> = BTreeMap::new();
        for (link, network) in self.managed_veths() {
            let veth = HostVeth { ifindex: link.ifindex, name: link.name.clone() };
            let bridge = network.bridge().unwrap_or_default();
            match self.owner(link) {
                Ok(owner) => {
                    candidates
                        .entry((owner, network.id.as_str()))
                        .or_default()
                        .push((veth, bridge));
                }
                Err(reason) => {
                    pending.push(PendingVeth { veth, bridge: bridge.to_owned(), reason });
                }
            }
        }
        let mut attached: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (network, attachments) in &self.attachments {
            for holder in attachments.iter().filter_map(|attachment| self.holder(attachment)) {
                *attached.entry((&holder.id, network)).or_default() += 1;
            }
        }
        let mut matched = BTreeMap::new();
        for ((owner, network), veths) in candidates {
            let attached = attached.get(&(owner, network)) == Some(&1);
            let reason = match veths.len() {
                1 if attached => None,
                1 => Some(PendingReason::NoEndpoint),
                _ => Some(PendingReason::Ambiguous),
            };
            for (veth, bridge) in veths {
                match reason {
                    None => {
                        matched.insert((owner, network), veth);
                    }
                    Some(reason) => {
                        pending.push(PendingVeth { veth, bridge: bridge.to_owned(), reason });
                    }
                }
            }
        }
        pending.sort_by(|a, b| a.veth.cmp(&b.veth));
        matched
    }

    fn network_named(&self, name: &str) -> Option<&Network> {
        self.networks.values().find(|network| network.name == name)
    }

    /// Whose network a container uses, and whether that is another's; the id of one that the list
    /// does not have. Guests can have guests.
    fn network_owner<'a>(
        &'a self,
        container: &'a Container,
    ) -> (Result<&'a Container, &'a str>, bool) {
        let mut owner = container;
        // Each step leads to an older container; the bound is against an engine that says otherwise.
        for _ in 0..self.containers.len() {
            let NetworkMode::Container(with) = &owner.mode else { break };
            match self.containers.get(with) {
                Some(next) => owner = next,
                None => return (Err(with), true),
            }
        }
        (Ok(owner), owner.id != container.id)
    }

    fn unsupported(&self) -> BTreeSet<Unsupported> {
        let mut all = BTreeSet::new();
        for container in self.containers.values().filter(|container| container.running) {
            let mut add = |reason| {
                all.insert(Unsupported {
                    container_id: container.id.clone(),
                    container_name: container.name.clone(),
                    reason,
                });
            };
            let (owner, shared) = self.network_owner(container);
            let none = |name: &String| self.network_named(name).is_some_and(|n| n.driver == "null");
            let reason = match owner.map(|owner| (owner, &owner.mode)) {
                Ok((_, NetworkMode::Host)) => Some(UnsupportedReason::HostNetwork),
                Ok((owner, _)) if owner.networks.iter().any(none) => {
                    Some(UnsupportedReason::NoNetwork)
                }
                Ok((owner, _)) => {
                    shared.then(|| UnsupportedReason::SharedNetwork { with: owner.name.clone() })
                }
                Err(with) => Some(UnsupportedReason::SharedNetwork { with: with.to_owned() }),
            };
            if let Some(reason) = reason {
                add(reason);
                continue;
            }
            if let Err(value) = labels::namespace(&container.labels) {
                add(UnsupportedReason::BadNamespace { value: value.to_owned() });
            }
            for name in &container.networks {
                if let Some(network) = self.network_named(name)
                    && !network.enforced()
                {
                    let (network, driver) = (network.name.clone(), network.driver.clone());
                    add(UnsupportedReason::Driver { network, driver });
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests;
