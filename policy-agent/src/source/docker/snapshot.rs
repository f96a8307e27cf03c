//! What the Docker source tells the rest of the agent.
//!
//! Output only: plain values, complete each time. Two snapshots that compare equal mean the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use policy_core::{
    host::{Plane, Published},
    labels::Labels,
    model::{EndpointId, EndpointSpec, NamedPort},
};

use crate::netlink::Mac;

/// Everything known about one engine's containers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerSnapshot {
    /// Whether the rest can be relied on to be complete.
    pub engine: EngineState,
    /// Container interfaces on bridge, macvlan and overlay networks, by (container id, network id). Those without a veth
    /// yet are being started, or their interface is not identified beyond doubt.
    pub endpoints: Vec<DockerEndpoint>,
    /// Names of the bridges whose ports must be fenced.
    pub bridges: BTreeSet<String>,
    /// Containers that are not enforced, or that are kept closed because of bad labels.
    pub unsupported: BTreeSet<Unsupported>,
    /// Interfaces on managed bridges that belong to no endpoint yet.
    pub pending: Vec<PendingVeth>,
    /// Labels that were ignored, in part or whole.
    pub warnings: BTreeSet<LabelWarning>,
}

/// How the engine is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// Not everything has been read yet: nothing may be concluded from what is absent.
    Connecting {
        /// Why not, if an attempt has failed.
        error: Option<String>,
    },
    /// The snapshot is complete.
    Synced,
    /// The engine is away, hangs, or has come back but is not fully read yet. The snapshot is the
    /// last one, still updated by what netlink says.
    Lost {
        /// What happened.
        error: String,
    },
}

impl Default for EngineState {
    fn default() -> Self {
        EngineState::Connecting { error: None }
    }
}

/// One container on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerEndpoint {
    /// Container id, 64 hexadecimal digits.
    pub container_id: String,
    /// Container name without the slash.
    pub container_name: String,
    /// Policy namespace.
    pub namespace: String,
    /// The container's labels and the reserved ones.
    pub labels: Labels,
    /// Network name.
    pub network: String,
    /// Network id, 64 hexadecimal digits.
    pub network_id: String,
    /// Name of the network's bridge; empty if it has none.
    pub bridge: String,
    /// Where its interface hangs, if that has no end on the host.
    pub inside: Option<InsideOf>,
    /// The bridge's index, if it exists in the agent's network namespace.
    pub bridge_ifindex: Option<u32>,
    /// Addresses on this network as the engine assigned them.
    pub addresses: Vec<IpAddr>,
    /// MAC address as the engine assigned it.
    pub mac: Option<Mac>,
    /// Named ports.
    pub ports: Vec<NamedPort>,
    /// Ports of the host that the engine translates to it, and its own port.
    pub published: BTreeMap<Published, u16>,
    /// Host end of its veth, once identified.
    pub veth: Option<HostVeth>,
}

/// What an interface inside another network namespace hangs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsideOf {
    /// It is a macvlan of the device of this name.
    Parent(String),
    /// It is a port of the overlay network whose id begins so.
    Overlay(String),
}

/// The host end of a container's veth.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostVeth {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
}

impl DockerEndpoint {
    /// Its identity in the model.
    pub fn id(&self) -> EndpointId {
        EndpointId(format!("{}/{}", self.container_id, self.network_id))
    }

    /// As the compiler wants it; `None` while its interface is not identified.
    pub fn to_spec(&self, adopt_until_ns: u64) -> Option<EndpointSpec> {
        let veth = self.veth.as_ref()?;
        Some(self.spec(veth.ifindex, &veth.name, adopt_until_ns))
    }

    /// As the compiler wants it, on that interface.
    pub fn spec(&self, ifindex: u32, interface: &str, adopt_until_ns: u64) -> EndpointSpec {
        EndpointSpec {
            ifindex,
            interface: interface.to_owned(),
            name: self.container_name.clone(),
            namespace: self.namespace.clone(),
            network: self.network.clone(),
            labels: self.labels.clone(),
            addresses: self.addresses.clone(),
            mac: self.mac,
            ports: self.ports.clone(),
            bridge: self.bridge_ifindex,
            plane: Plane::Workload,
            adopt_until_ns,
        }
    }
}

/// An interface that stays closed for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingVeth {
    /// The interface.
    pub veth: HostVeth,
    /// Name of its bridge.
    pub bridge: String,
    /// What is missing.
    pub reason: PendingReason,
}

/// Why a veth has no endpoint yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingReason {
    /// Its other end has not been handed to a container.
    NotHandedOver,
    /// No container is known to own the namespace of its other end.
    NoOwner,
    /// More than one container may own it, or the evidence contradicts itself.
    Ambiguous,
    /// The owner is known, but the engine does not list an endpoint of it on this network.
    NoEndpoint,
}

impl fmt::Display for PendingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PendingReason::NotHandedOver => "not handed to a container yet",
            PendingReason::NoOwner => "no container is known to own its other end",
            PendingReason::Ambiguous => "more than one container may own its other end",
            PendingReason::NoEndpoint => "its container has no endpoint on this network",
        })
    }
}

/// A container that policy does not reach as one would expect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unsupported {
    /// Container id.
    pub container_id: String,
    /// Container name.
    pub container_name: String,
    /// Why.
    pub reason: UnsupportedReason,
}

/// Why a container is not enforced as its own endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnsupportedReason {
    /// It uses the host's network.
    HostNetwork,
    /// It is on a network of a driver that we do not know how to enforce on.
    Driver {
        /// Network name.
        network: String,
        /// Driver name.
        driver: String,
    },
    /// It shares another container's network: enforced, but under that one's labels.
    SharedNetwork {
        /// Name or id of the container that owns the network.
        with: String,
    },
    /// It has no network but its own loopback.
    NoNetwork,
    /// Its namespace label is no valid name; it stays closed.
    BadNamespace {
        /// The label's value.
        value: String,
    },
}

impl fmt::Display for UnsupportedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnsupportedReason::HostNetwork => {
                f.write_str("uses the host's network: only a HostEndpoint can hold its traffic")
            }
            UnsupportedReason::NoNetwork => f.write_str("has no network: nothing to enforce"),
            UnsupportedReason::Driver { network, driver } => write!(
                f,
                "not enforced on {driver} networks (network \"{network}\"); use a bridge network"
            ),
            UnsupportedReason::SharedNetwork { with } => write!(
                f,
                "shares the network of container \"{with}\": policies see that container's labels"
            ),
            UnsupportedReason::BadNamespace { value } => write!(
                f,
                "all its traffic is dropped: the namespace {value:?} is not valid; use 1 to 63 \
                 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit"
            ),
        }
    }
}

/// A label that was not taken as it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelWarning {
    /// Container id.
    pub container_id: String,
    /// Container name.
    pub container_name: String,
    /// What was ignored and what to write instead.
    pub message: String,
}
