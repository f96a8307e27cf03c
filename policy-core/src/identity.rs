//! Who an address is: the labels that selectors see, and which endpoint owns which address.
//!
//! In: the [`Model`]. Out: effective labels, and [`owners`]. Labels of endpoints come from
//! whoever starts a container, so what the namespace says is written over them, never under.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use policy_common::abi::Family;

use crate::{
    host::HostEndpoint,
    labels::{Labels, NAMESPACE_LABEL, NAMESPACE_PREFIX},
    model::{EndpointId, EndpointSpec, Model, NetworkSet},
};

/// The one label of the host's own addresses.
pub const HOST_LABEL: &str = "palisade.io/host";
/// Label of an uplink: the name of its interface.
pub const INTERFACE_LABEL: &str = "palisade.io/interface";
/// Labels that every namespace carries, with its own name as the value (the first is set by the
/// Kubernetes API server, the second by libcalico-go `conversion.go`).
const NAMESPACE_NAMES: [&str; 2] = ["kubernetes.io/metadata.name", "projectcalico.org/name"];

/// Both families, in the order of their numbers.
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Labels of the host.
pub fn host_labels() -> Labels {
    [(HOST_LABEL, "")].into_iter().collect()
}

/// Labels of an uplink.
pub fn uplink_labels(interface: &str) -> Labels {
    [(HOST_LABEL, ""), (INTERFACE_LABEL, interface)].into_iter().collect()
}

/// Labels of an endpoint: its own, and those of its namespace behind `pcns.`. A host endpoint is in
/// no namespace.
pub fn endpoint_labels(model: &Model, endpoint: &EndpointSpec) -> Labels {
    if endpoint.plane.of_host() {
        return endpoint.labels.clone();
    }
    in_namespace(model, &endpoint.labels, &endpoint.namespace)
}

/// Labels of a network set; a namespaced one also carries those of its namespace.
pub fn network_set_labels(model: &Model, set: &NetworkSet) -> Labels {
    if set.namespace.is_empty() {
        own(&set.labels).collect()
    } else {
        in_namespace(model, &set.labels, &set.namespace)
    }
}

/// The labels that an author may give; the others say where the thing is.
fn own(labels: &Labels) -> impl Iterator<Item = (String, String)> {
    labels
        .iter()
        .filter(|(name, _)| {
            !name.starts_with(NAMESPACE_PREFIX) && *name != NAMESPACE_LABEL && *name != HOST_LABEL
        })
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// Labels of a namespace: those of its document, and the two that every namespace has.
pub fn namespace_labels(model: &Model, namespace: &str) -> Labels {
    let own = model.namespaces.get(namespace).into_iter().flat_map(Labels::iter);
    own.chain(NAMESPACE_NAMES.map(|name| (name, namespace))).collect()
}

fn in_namespace(model: &Model, labels: &Labels, namespace: &str) -> Labels {
    let mut all: BTreeMap<String, String> = own(labels).collect();
    for (name, value) in namespace_labels(model, namespace).iter() {
        all.insert(format!("{NAMESPACE_PREFIX}{name}"), value.to_owned());
    }
    all.insert(NAMESPACE_LABEL.to_owned(), namespace.to_owned());
    all.into_iter().collect()
}

/// Who owns an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// The host itself.
    Host,
    /// A host endpoint that expects the address, of this host or of another.
    HostEndpoint(&'a HostEndpoint),
    /// An endpoint.
    Endpoint(&'a EndpointId, &'a EndpointSpec),
}

impl Owner<'_> {
    /// The labels of one of its addresses.
    pub fn labels(&self, model: &Model, address: IpAddr) -> Labels {
        match self {
            Owner::Host => host_labels(),
            Owner::HostEndpoint(endpoint) => {
                endpoint.peer_labels(model.host_addresses.contains(&address))
            }
            Owner::Endpoint(_, endpoint) => endpoint_labels(model, endpoint),
        }
    }

    /// Whether an address of this owner is this host's.
    pub fn is_host(&self, model: &Model, address: IpAddr) -> bool {
        match self {
            Owner::Host => true,
            Owner::HostEndpoint(_) => model.host_addresses.contains(&address),
            Owner::Endpoint(..) => false,
        }
    }
}

/// Every owned address. An address that two endpoints claim is the first one's, by id; a container
/// goes before a host endpoint, and that before the plain host. Link-local addresses are not here: they say nothing
/// without their link, and two links may use the same.
pub fn owners(model: &Model) -> BTreeMap<IpAddr, Owner<'_>> {
    let mut owners = BTreeMap::new();
    for (id, endpoint) in model.endpoints.iter().filter(|(_, it)| !it.plane.of_host()) {
        for &address in endpoint.addresses.iter().filter(|address| !is_link_local(**address)) {
            owners.entry(address).or_insert(Owner::Endpoint(id, endpoint));
        }
    }
    for endpoint in model.host_endpoints.values() {
        for &address in endpoint.expected_ips.iter().filter(|address| !is_link_local(**address)) {
            owners.entry(address).or_insert(Owner::HostEndpoint(endpoint));
        }
    }
    for &address in model.host_addresses.iter().filter(|address| !is_link_local(**address)) {
        owners.entry(address).or_insert(Owner::Host);
    }
    owners
}

/// The addresses that an endpoint may send from: its own, and the IPv6 link-local one that its
/// MAC address gives. Sorted, distinct. None for a host endpoint: a host may pass anything on.
pub fn own_addresses(endpoint: &EndpointSpec) -> Vec<IpAddr> {
    if endpoint.plane.of_host() {
        return Vec::new();
    }
    let mut addresses = endpoint.addresses.clone();
    addresses.extend(endpoint.mac.map(|mac| IpAddr::V6(link_local(mac))));
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// `fe80::` and the modified EUI-64 interface identifier (RFC 4291, appendix A).
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let identifier = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from(0xfe80_u128 << 112 | u128::from(u64::from_be_bytes(identifier)))
}

/// Whether this is an IPv6 link-local unicast address (fe80::/10).
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Family of an address.
pub fn family(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_cannot_label_itself_into_a_namespace() {
        let mut model = Model::default();
        model.namespaces.insert("shop".to_owned(), [("env", "test")].into_iter().collect());
        let labels: Labels = [
            ("app", "web"),
            ("pcns.env", "prod"),
            ("pcns.team", "root"),
            ("projectcalico.org/namespace", "kube-system"),
            ("palisade.io/host", ""),
        ]
        .into_iter()
        .collect();
        let found = in_namespace(&model, &labels, "shop").to_map();
        let found: Vec<_> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            found,
            [
                ("app", "web"),
                ("pcns.env", "test"),
                ("pcns.kubernetes.io/metadata.name", "shop"),
                ("pcns.projectcalico.org/name", "shop"),
                ("projectcalico.org/namespace", "shop"),
            ]
        );
    }

    #[test]
    fn eui_64_as_the_rfc_has_it() {
        assert_eq!(
            link_local([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]).to_string(),
            "fe80::3656:78ff:fe9a:bcde"
        );
    }
}
