//! HostEndpoints of this host: which interface belongs to which, and what people are told of it.
//! No I/O.
//!
//! `*` stands for every interface that leads out of the host: no loopback, no port of a bridge, no
//! veth, nothing that is managed for containers, and nothing without Ethernet headers. An interface
//! that is left out for one of these reasons but named is reported, not ignored.

use std::{cell::RefCell, collections::BTreeMap, net::IpAddr, sync::Arc};

use policy_api::messages::{Component, EndpointState, EndpointStatus};
use policy_common::abi::INSIDE;
use policy_core::{
    assemble::endpoint_ports,
    host::{self, HostEndpoint, HostInterface, Interface, Plane, Published},
    labels::Labels,
    model::{EndpointSpec, Model},
    tiers,
};

use super::ADOPTION_NS;
use crate::{
    config::Config,
    fence::View,
    kernel::{clock, pin::Hook},
    netlink::{Link, LinkKind},
};

/// Until when connections that were open before may be picked up, by interface index.
pub(super) type Adoption = RefCell<BTreeMap<u32, u64>>;

/// An interface that belongs to a HostEndpoint.
pub(super) struct Governed<'a> {
    pub(super) link: &'a Link,
    pub(super) endpoint: &'a Arc<HostEndpoint>,
}

impl Governed<'_> {
    /// What selectors match.
    pub(super) fn labels(&self) -> Labels {
        self.endpoint.interface_labels(&self.link.name)
    }
}

/// The HostEndpoints of this host.
fn of_this_host<'a>(
    config: &'a Config,
    base: &'a Model,
) -> impl Iterator<Item = &'a Arc<HostEndpoint>> + Clone {
    base.host_endpoints.values().filter(|endpoint| endpoint.node == config.node_name)
}

/// Why an interface cannot be a host endpoint, whoever names it.
fn unfit(link: &Link, managed: bool) -> Option<&'static str> {
    if link.name == "lo" {
        Some("the loopback interface cannot be a host endpoint")
    } else if managed {
        Some("it is managed for containers")
    } else if link.master.is_some() {
        Some("it is a port of another interface: name that one")
    } else if link.mac.is_none() {
        Some("it has no Ethernet headers, which is not supported yet")
    } else if link.ifindex >= INSIDE {
        Some("its index is above what the datapath can hold")
    } else {
        None
    }
}

fn own_addresses(view: &View, ifindex: u32) -> std::collections::BTreeSet<IpAddr> {
    let own = view.addresses.iter().filter(|(of, _)| *of == ifindex);
    own.map(|(_, address)| *address).collect()
}

/// The interfaces that belong to a HostEndpoint. `managed` says which are for containers.
pub(super) fn governed<'a>(
    config: &'a Config,
    base: &'a Model,
    view: &'a View,
    managed: impl Fn(&Link) -> bool,
) -> Vec<Governed<'a>> {
    let endpoints = of_this_host(config, base);
    // Most hosts have none, and some have a thousand links.
    if endpoints.clone().next().is_none() {
        return Vec::new();
    }
    let governing = |link: &'a Link| {
        let addresses = own_addresses(view, link.ifindex);
        let interface = HostInterface { name: &link.name, addresses: &addresses };
        let endpoint = host::governing(endpoints.clone(), &interface)?;
        let everything = endpoint.interface == Interface::All;
        if unfit(link, managed(link)).is_some() || everything && link.kind == LinkKind::Veth {
            return None;
        }
        Some(Governed { link, endpoint })
    };
    view.links.values().filter_map(governing).collect()
}

/// Adds what host endpoints need to a model.
pub(super) fn complete(
    model: &mut Model,
    governed: &[Governed<'_>],
    config: &Config,
    published: BTreeMap<Published, u16>,
    adoption: &Adoption,
) {
    let mut adoption = adoption.borrow_mut();
    // One that comes back later has other connections then.
    adoption.retain(|ifindex, _| governed.iter().any(|it| it.link.ifindex == *ifindex));
    if governed.is_empty() {
        return;
    }
    model.failsafe = config.failsafe.clone().into();
    model.published = published.into();
    model.published.extend(config.published.iter().map(|(port, to)| (*port, *to)));
    for it @ Governed { link, endpoint } in governed {
        let until =
            *adoption.entry(link.ifindex).or_insert_with(|| clock::monotonic_ns() + ADOPTION_NS);
        let addresses = &model.host_addresses;
        let planes = host::planes(endpoint, &link.name, link.ifindex, addresses, until);
        model.endpoints.extend(planes.into_iter().map(|(id, spec)| (id, Arc::new(spec))));
        model.uplinks.insert(link.ifindex, it.labels());
    }
}

/// Whether a block list is wanted on an interface.
pub(super) fn has_block_list(base: &Model, governed: &Governed<'_>) -> bool {
    let labels = governed.labels();
    tiers::untracked(base).iter().any(|policy| policy.subject.matches(&labels))
}

/// One part of the agent for each HostEndpoint.
pub(super) fn components(
    config: &Config,
    base: &Model,
    view: &View,
    governed: &[Governed<'_>],
    managed: impl Fn(&Link) -> bool,
) -> Vec<Component> {
    base.host_endpoints
        .values()
        .map(|endpoint| {
            let (healthy, detail) = standing(config, endpoint, view, governed, &managed);
            Component { name: format!("host endpoint {}", endpoint.name), healthy, detail }
        })
        .collect()
}

/// Where a HostEndpoint stands, in one line, and whether that is well.
fn standing(
    config: &Config,
    endpoint: &Arc<HostEndpoint>,
    view: &View,
    governed: &[Governed<'_>],
    managed: &impl Fn(&Link) -> bool,
) -> (bool, String) {
    if endpoint.node != config.node_name {
        return (true, format!("of node {}, this is {}", endpoint.node, config.node_name));
    }
    let own: Vec<&Link> =
        governed.iter().filter(|it| Arc::ptr_eq(it.endpoint, endpoint)).map(|it| it.link).collect();
    if !own.is_empty() {
        let names: Vec<&str> = own.iter().map(|link| link.name.as_str()).collect();
        let missing = own.iter().find(|link| !view.guarded(link.ifindex));
        return match missing {
            None => (true, format!("enforced on {}", names.join(", "))),
            Some(link) => (false, format!("the programs are not on {} yet", link.name)),
        };
    }
    let expected = |link: &&Link| match &endpoint.interface {
        Interface::Named(name) => link.name == *name,
        Interface::WithAddress => {
            let addresses = own_addresses(view, link.ifindex);
            endpoint.expected_ips.iter().any(|ip| addresses.contains(ip))
        }
        Interface::All => false,
    };
    match (&endpoint.interface, view.links.values().find(expected)) {
        (Interface::All, _) => (true, "no interface is left for it".to_owned()),
        (_, Some(link)) => match unfit(link, managed(link)) {
            Some(why) => (false, format!("not enforced on {}: {why}", link.name)),
            None => (false, format!("{} belongs to another host endpoint", link.name)),
        },
        (Interface::Named(name), None) => (false, format!("interface {name} does not exist")),
        (Interface::WithAddress, None) => {
            (false, "no interface has one of its expectedIPs".to_owned())
        }
    }
}

/// Status of a host endpoint on one interface.
pub(super) fn status(spec: &EndpointSpec, view: &View) -> EndpointStatus {
    let on = view.guarded(spec.ifindex);
    let own = own_addresses(view, spec.ifindex);
    EndpointStatus {
        name: spec.name.clone(),
        namespace: String::new(),
        network: String::new(),
        interface: spec.interface.clone(),
        ifindex: spec.ifindex,
        addresses: own.into_iter().collect(),
        labels: spec.labels.to_map(),
        ports: endpoint_ports(&spec.ports),
        state: if on { EndpointState::Enforcing } else { EndpointState::Pending },
        note: (!on).then(|| "the programs are not on its interface yet".to_owned()),
        ingress_policies: Vec::new(),
        egress_policies: Vec::new(),
    }
}

/// Whether a plane stands for its whole endpoint, where each is to be counted or shown once.
pub(crate) fn stands_for_all(plane: Plane) -> bool {
    matches!(plane, Plane::Workload | Plane::Local(_))
}

/// Whether a hook is one of a container's.
pub(super) fn of_workload(hook: Hook) -> bool {
    matches!(hook, Hook::FromEndpoint | Hook::ToEndpoint)
}
