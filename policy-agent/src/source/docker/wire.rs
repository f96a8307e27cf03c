//! The engine's answers to the few facts that we use.
//!
//! Input: API types. Output: [`Container`], [`Network`], [`Attachment`]. Entries without an id are
//! dropped: there is nothing to refer to them by.

use std::{collections::BTreeMap, net::IpAddr};

use bollard::models::{
    ContainerSummary, ContainerSummaryStateEnum, EndpointResource, Network as ApiNetwork,
    PortSummary, PortSummaryTypeEnum,
};
use policy_common::packet::protocol;
use policy_core::host::Published;

use super::snapshot::InsideOf;
use crate::netlink::Mac;

/// Network option that names the bridge device (driver `bridge`).
const BRIDGE_NAME_OPTION: &str = "com.docker.network.bridge.name";

/// How much of a network's id is in the name of an overlay's namespace, after `1-`.
const OVERLAY_DIGITS: usize = 10;
/// Network option that names the parent device (driver `macvlan`).
const PARENT_OPTION: &str = "parent";

/// A container, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) id: String,
    /// Without the leading slash.
    pub(super) name: String,
    pub(super) image: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) running: bool,
    pub(super) mode: NetworkMode,
    /// Names of its networks; known from its creation on.
    pub(super) networks: Vec<String>,
    /// Ports of the host whose connections go to it, and its own port.
    pub(super) published: BTreeMap<Published, u16>,
}

/// `HostConfig.NetworkMode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NetworkMode {
    Host,
    /// Shares the network of that container.
    Container(String),
    /// Its own network namespace.
    Own,
}

impl From<ContainerSummary> for Container {
    fn from(summary: ContainerSummary) -> Self {
        let id = summary.id.unwrap_or_default();
        // A legacy link adds names with two slashes: "/other/alias".
        let name = summary
            .names
            .unwrap_or_default()
            .into_iter()
            .filter_map(|name| name.strip_prefix('/').map(str::to_owned))
            .find(|name| !name.contains('/'))
            .unwrap_or_else(|| id.chars().take(12).collect());
        let mode = summary.host_config.and_then(|config| config.network_mode).unwrap_or_default();
        let mode = match mode.strip_prefix("container:") {
            Some(with) => NetworkMode::Container(with.to_owned()),
            None if mode == "host" => NetworkMode::Host,
            None => NetworkMode::Own,
        };
        let networks = summary.network_settings.and_then(|settings| settings.networks);
        let mut networks: Vec<String> = networks.unwrap_or_default().into_keys().collect();
        networks.sort();
        let published = summary.ports.unwrap_or_default().into_iter().filter_map(published);
        Container {
            id,
            name,
            image: summary.image.unwrap_or_default(),
            labels: summary.labels.unwrap_or_default().into_iter().collect(),
            running: matches!(
                summary.state,
                Some(ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::PAUSED)
            ),
            mode,
            networks,
            published: published.collect(),
        }
    }
}

/// A published port: the host's, and the container's.
fn published(port: PortSummary) -> Option<(Published, u16)> {
    let protocol = match port.typ? {
        PortSummaryTypeEnum::TCP => protocol::TCP,
        PortSummaryTypeEnum::UDP => protocol::UDP,
        PortSummaryTypeEnum::SCTP => protocol::SCTP,
        PortSummaryTypeEnum::EMPTY => return None,
    };
    let address = port.ip?.parse().ok()?;
    Some((Published { address, protocol, port: port.public_port? }, port.private_port))
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) driver: String,
    /// Bridge device, for the driver `bridge`.
    pub(super) bridge: Option<String>,
    /// Where its containers' interfaces hang, for the drivers `macvlan` and `overlay`.
    pub(super) inside: Option<InsideOf>,
}

impl Network {
    /// Name of the bridge device, for the driver `bridge`.
    pub(super) fn bridge(&self) -> Option<&str> {
        self.bridge.as_deref()
    }

    /// Whether containers on it are enforced.
    pub(super) fn enforced(&self) -> bool {
        self.bridge.is_some() || self.inside.is_some()
    }
}

impl From<ApiNetwork> for Network {
    fn from(network: ApiNetwork) -> Self {
        let id = network.id.unwrap_or_default();
        let driver = network.driver.unwrap_or_default();
        let mut options = network.options.unwrap_or_default();
        // The drivers' own defaults; macvlan makes a dummy device.
        let mut device = |option: &str, prefix: &str| {
            let short = || format!("{prefix}-{}", id.chars().take(12).collect::<String>());
            options.remove(option).unwrap_or_else(short)
        };
        let (bridge, inside) = match driver.as_str() {
            "bridge" => (Some(device(BRIDGE_NAME_OPTION, "br")), None),
            "macvlan" => (None, Some(InsideOf::Parent(device(PARENT_OPTION, "dm")))),
            "overlay" => (None, Some(InsideOf::Overlay(id.chars().take(OVERLAY_DIGITS).collect()))),
            _ => (None, None),
        };
        Network { id, name: network.name.unwrap_or_default(), driver, bridge, inside }
    }
}

/// An endpoint as `GET /networks/{id}` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) holder: Holder,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) mac: Option<Mac>,
}

/// Whose endpoint it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// Container id.
    Id(String),
    /// Container name: the endpoint exists but has not joined its container's sandbox.
    Name(String),
}

/// One entry of `Containers`. The key is the container id, or `ep-<endpoint id>` for an endpoint
/// that has not joined its sandbox yet; then the endpoint's name is the container's name.
pub(super) fn attachment(key: String, resource: EndpointResource) -> Attachment {
    let holder = match (key.starts_with("ep-"), resource.name) {
        (true, name) => Holder::Name(name.unwrap_or_default()),
        (false, _) => Holder::Id(key),
    };
    let addresses = [resource.ipv4_address, resource.ipv6_address]
        .into_iter()
        .flatten()
        .filter_map(|text| address(&text))
        .collect();
    Attachment { holder, addresses, mac: resource.mac_address.as_deref().and_then(mac) }
}

/// `172.17.0.2/16` or `172.17.0.2`; empty means none.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

fn mac(text: &str) -> Option<Mac> {
    let mut bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let mut mac = Mac::default();
    for byte in &mut mac {
        *byte = bytes.next()?.ok()?;
    }
    bytes.next().is_none().then_some(mac)
}
