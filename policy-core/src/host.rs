//! The host's own interfaces as endpoints.
//!
//! In: HostEndpoint resources (checked by `validate`) and the interfaces that they are about. Out:
//! [`EndpointSpec`]s, one for each [`Plane`] of an interface: the compiler gives each its tables as
//! it does for a container. Upstream's rules (calico `felix/rules/endpoints.go`,
//! `felix/calc/event_sequencer.go`, `felix/dataplane/linux/endpoint_mgr.go`):
//!
//! - An interface belongs to the first HostEndpoint, by name, that names it, or that names none and
//!   expects one of its addresses; else to the first one for `*`.
//! - Packets to and from local processes meet every tracked policy that selects the host endpoint,
//!   and at the end its default: deny, unless it has the profile `projectcalico-default-allow`.
//! - Forwarded packets meet those with `applyOnForward: true`. Where none of these applies, and after
//!   a Pass out of the last tier, they are allowed.
//! - Before both, incoming packets meet the `preDNAT` policies. A Deny there is final, and so is an
//!   Allow; tiers do not end in Deny, and what nothing decides goes on.
//! - Failsafe ports are allowed before the first and skip the last; forwarded packets have none.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use policy_common::abi::Direction;

use crate::{
    identity::{self, HOST_LABEL},
    labels::{INTERFACE_LABEL, Labels},
    model::{DefaultAction, EndpointId, EndpointSpec, NamedPort},
    policy::{Policy, Reach},
};

/// What of an interface a set of tables is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plane {
    /// A container's interface: all of it.
    #[default]
    Workload,
    /// A host endpoint: packets from and to processes of the host. Holds what the end of all tiers
    /// is.
    Local(DefaultAction),
    /// A host endpoint: packets that the host passes on.
    Forward,
    /// A host endpoint: packets that come in, before their destination is translated.
    PreDnat,
}

impl Plane {
    /// Whether a policy that selects the endpoint has a say here.
    pub fn admits(self, policy: &Policy) -> bool {
        !policy.untracked
            && match self {
                Plane::Workload | Plane::Local(_) => policy.reach != Reach::PreDnat,
                Plane::Forward => policy.reach == Reach::Forward,
                Plane::PreDnat => policy.reach == Reach::PreDnat,
            }
    }

    /// Whether it is part of a host endpoint.
    pub const fn of_host(self) -> bool {
        !matches!(self, Plane::Workload)
    }

    /// Bits beside the interface index in the key of `ENDPOINTS`.
    pub const fn bits(self) -> u32 {
        match self {
            Plane::Workload | Plane::Local(_) => 0,
            Plane::Forward => policy_common::abi::PLANE_FORWARD,
            Plane::PreDnat => policy_common::abi::PLANE_PRE_DNAT,
        }
    }

    /// Name in `explain` and the identity of an endpoint.
    pub const fn name(self) -> &'static str {
        match self {
            Plane::Workload => "workload",
            Plane::Local(_) => "local",
            Plane::Forward => "forward",
            Plane::PreDnat => "pre-dnat",
        }
    }
}

/// Which interfaces a HostEndpoint is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// The one of this name.
    Named(String),
    /// The one that has an expected address.
    WithAddress,
    /// `*`: all that no other one is about.
    All,
}

/// A HostEndpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEndpoint {
    /// Name.
    pub name: String,
    /// The host that it is about.
    pub node: String,
    /// Its interfaces there.
    pub interface: Interface,
    /// Addresses that selectors of rules mean by its labels. Sorted, distinct.
    pub expected_ips: Vec<IpAddr>,
    /// Labels, as its author gives them.
    pub labels: Labels,
    /// Named ports, sorted, distinct.
    pub ports: Vec<NamedPort>,
    /// What the end of all tiers is for packets of local processes.
    pub default: DefaultAction,
}

impl HostEndpoint {
    /// Labels of one of its addresses, as a peer.
    pub fn peer_labels(&self, of_this_host: bool) -> Labels {
        let host = of_this_host.then_some((HOST_LABEL, ""));
        self.labels.iter().chain(host).collect()
    }

    /// Labels of an interface, as what policies select.
    pub fn interface_labels(&self, interface: &str) -> Labels {
        let own = [(HOST_LABEL, ""), (INTERFACE_LABEL, interface)];
        self.labels.iter().chain(own).collect()
    }
}

/// A port that host endpoints leave open, whatever policy says: felix's
/// `FailsafeInboundHostPorts` and `FailsafeOutboundHostPorts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failsafe {
    /// Into the host (its own port) or out of it (the other side's).
    pub direction: Direction,
    /// TCP, UDP or SCTP.
    pub protocol: u8,
    /// Port.
    pub port: u16,
    /// For these addresses of the other side only.
    pub net: Option<IpNet>,
}

impl Failsafe {
    /// Whether a packet is to be left alone.
    pub fn matches(&self, direction: Direction, remote: IpAddr, protocol: u8, port: u16) -> bool {
        (self.direction, self.protocol, self.port) == (direction, protocol, port)
            && self.net.is_none_or(|net| net.contains(&remote))
    }
}

/// A port of the host whose connections are passed on to somebody else, as Docker does for published
/// ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Published {
    /// Address of the host; unspecified: any of its family.
    pub address: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Port of the host.
    pub port: u16,
}

/// An interface of this host that may belong to a HostEndpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostInterface<'a> {
    /// Name.
    pub name: &'a str,
    /// Its own addresses.
    pub addresses: &'a BTreeSet<IpAddr>,
}

/// The HostEndpoint of this host that an interface belongs to.
pub fn governing<'a>(
    endpoints: impl Iterator<Item = &'a Arc<HostEndpoint>>,
    interface: &HostInterface<'_>,
) -> Option<&'a Arc<HostEndpoint>> {
    let mut found: BTreeMap<(bool, &str), &Arc<HostEndpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        let expects = || endpoint.expected_ips.iter().any(|ip| interface.addresses.contains(ip));
        let (mine, rest) = match &endpoint.interface {
            Interface::Named(name) => (name == interface.name, false),
            Interface::WithAddress => (expects(), false),
            Interface::All => (true, true),
        };
        if mine {
            found.insert((rest, &endpoint.name), endpoint);
        }
    }
    found.into_values().next()
}

/// The planes of an interface, as endpoints of the model. `addresses` are all of the host's own:
/// each can be the near end of a packet on any interface.
pub fn planes(
    endpoint: &HostEndpoint,
    interface: &str,
    ifindex: u32,
    addresses: &BTreeSet<IpAddr>,
    adopt_until_ns: u64,
) -> Vec<(EndpointId, EndpointSpec)> {
    let own = addresses.iter().filter(|ip| !ip.is_loopback() && !identity::is_link_local(**ip));
    let own: Vec<IpAddr> = own.copied().collect();
    [Plane::Local(endpoint.default), Plane::Forward, Plane::PreDnat]
        .into_iter()
        .map(|plane| {
            let spec = EndpointSpec {
                ifindex: ifindex | plane.bits(),
                interface: interface.to_owned(),
                name: endpoint.name.clone(),
                namespace: String::new(),
                network: String::new(),
                labels: endpoint.interface_labels(interface),
                addresses: own.clone(),
                mac: None,
                ports: endpoint.ports.clone(),
                bridge: None,
                plane,
                // Routes may differ by direction: the host may see half of a connection that it
                // only passes on.
                adopt_until_ns: match plane {
                    Plane::Forward => u64::MAX,
                    _ => adopt_until_ns,
                },
            };
            (id(interface, plane), spec)
        })
        .collect()
}

/// Identity of a plane of an interface in the model.
pub fn id(interface: &str, plane: Plane) -> EndpointId {
    EndpointId(format!("host/{interface}/{}", plane.name()))
}
