//! Everything that decides what the datapath must hold, as one value: the compiler's input.
//!
//! Sources (Docker, static resources, the policy store) only ever change a [`Model`]; the compiler
//! only ever reads one. Cloning is cheap: the parts are shared, and the compiler looks for changes only
//! in those that two models do not share.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    host::{Failsafe, HostEndpoint, Plane, Published},
    labels::Labels,
    policy::{Policy, PolicyKey, StagedAction},
    shared::{Shared, SharedMap},
    tiers::Tier,
};

/// Identity of an endpoint over its life: `<container id>/<network id>` or `static/<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub String);

/// One container interface to enforce on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Host-side interface; beside it, the bits of the plane.
    pub ifindex: u32,
    /// Host-side interface name, for people.
    pub interface: String,
    /// Workload name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Docker network name, empty for a static endpoint.
    pub network: String,
    /// Own labels plus the reserved ones (`palisade.io/name`, ...), without those of the namespace.
    pub labels: Labels,
    /// Own addresses, at most [`policy_common::abi::ADDRESSES_PER_FAMILY`] a family, the IPv6
    /// link-local one not counted.
    pub addresses: Vec<IpAddr>,
    /// MAC address, if known: it gives the IPv6 link-local address (EUI-64, RFC 4291).
    pub mac: Option<[u8; 6]>,
    /// Named ports.
    pub ports: Vec<NamedPort>,
    /// Bridge that its veth is a port of, if any; the guard lets its addresses through there.
    pub bridge: Option<u32>,
    /// What of the interface this is about.
    pub plane: Plane,
    /// See [`policy_common::abi::Endpoint::adopt_until_ns`].
    pub adopt_until_ns: u64,
}

/// A port that a workload gives a name to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Name.
    pub name: String,
    /// IP protocol number.
    pub protocol: u8,
    /// Port.
    pub port: u16,
}

/// A named set of networks with labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSet {
    /// Namespace, empty for a global set.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels that rule selectors match.
    pub labels: Labels,
    /// Masked, sorted, distinct.
    pub nets: Vec<IpNet>,
}

/// What an endpoint may do that no policy selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DefaultAction {
    /// Everything (Kubernetes' rule).
    #[default]
    Allow,
    /// Nothing (zero trust).
    Deny,
}

/// Settings of the agent that change verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// For endpoints that no policy selects, and for a Pass out of the last tier.
    pub default_action: DefaultAction,
    /// `true`: traffic from the host's own addresses into an endpoint is always allowed.
    pub host_access: bool,
}

/// The compiler's whole input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// Settings.
    pub settings: Settings,
    /// Tiers of `Tier` resources, by name. Those that are built in exist without one.
    pub tiers: Shared<BTreeMap<String, Tier>>,
    /// Policies in force. The tier of each exists.
    pub policies: SharedMap<PolicyKey, Arc<Policy>>,
    /// Network sets by (namespace, name).
    pub network_sets: SharedMap<(String, String), Arc<NetworkSet>>,
    /// Labels of `v1` Namespace documents, by namespace. A namespace that has none still exists.
    pub namespaces: Shared<BTreeMap<String, Labels>>,
    /// Endpoints.
    pub endpoints: SharedMap<EndpointId, Arc<EndpointSpec>>,
    /// The host's own addresses; the peer with the label `palisade.io/host`.
    pub host_addresses: Shared<BTreeSet<IpAddr>>,
    /// Uplinks that the XDP program is on: interface index to labels.
    pub uplinks: Shared<BTreeMap<u32, Labels>>,
    /// Those of them where notice is taken of flows that begin on this side. Without that the answers to
    /// such flows would count as new ones, so there is no limit of new flows elsewhere.
    pub noting_uplinks: Shared<BTreeSet<u32>>,
    /// HostEndpoints of every host, by name: peers by their expected addresses. The interfaces that
    /// they are about here are among the endpoints.
    pub host_endpoints: Shared<BTreeMap<String, Arc<HostEndpoint>>>,
    /// Ports that host endpoints leave open.
    pub failsafe: Shared<BTreeSet<Failsafe>>,
    /// Ports whose connections are passed on, and the port that they go to.
    pub published: Shared<BTreeMap<Published, u16>>,
}

impl Model {
    /// The model that there would be if every staged policy were in force: in place of the policy
    /// of its name, or that policy taken away.
    #[must_use]
    pub fn with_staged_enforced(&self) -> Model {
        let mut policies = self.policies.clone();
        policies.retain(|_, policy| policy.staged.is_none());
        for policy in self.policies.values() {
            let key = policy.key.enforced();
            match policy.staged {
                None => {}
                Some(StagedAction::Set) => {
                    let policy = Policy { key: key.clone(), staged: None, ..(**policy).clone() };
                    policies.insert(key, Arc::new(policy));
                }
                Some(StagedAction::Delete) => {
                    policies.remove(&key);
                }
            }
        }
        Model { policies, ..self.clone() }
    }
}
