//! `projectcalico.org/v3` HostEndpoint.
//!
//! Upstream's rules: calico `api/pkg/apis/projectcalico/v3/hostendpoint.go` and libcalico-go
//! `lib/validator/v3`. Profiles do not exist here; the one that upstream brings along,
//! `projectcalico-default-allow`, only says what the end of all tiers is.

use std::net::IpAddr;

use policy_api::resource::{Kind, Object as Wire, calico::HostEndpointSpec};

use super::{
    endpoint,
    names::{self, Reserved},
    report::Report,
};
use crate::{
    host::{HostEndpoint, Interface},
    model::{DefaultAction, NamedPort},
};

/// The profile that allows everything.
const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

pub(super) fn host_endpoint(
    object: &Wire<HostEndpointSpec>,
    report: &mut Report,
) -> Option<HostEndpoint> {
    let names =
        names::metadata(object.metadata.as_ref(), Kind::HostEndpoint, Reserved::Refuse, report);
    let absent = HostEndpointSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&absent);
    let node = node(spec.node.as_deref(), report);
    let expected_ips = addresses(spec.expected_ips.as_deref(), report);
    let given = spec.expected_ips.as_ref().is_some_and(|list| !list.is_empty());
    let interface = interface(spec.interface_name.as_deref(), given, report);
    let default = profiles(spec.profiles.as_deref(), report);
    let ports = spec.ports.iter().flatten().enumerate();
    let mut ports: Vec<NamedPort> = ports
        .filter_map(|(index, port)| {
            let path = format!("spec.ports[{index}]");
            let name = port.name.as_deref();
            endpoint::named_port(&path, name, port.protocol.as_ref(), port.port, report)
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    let (_, name, labels) = names?;
    Some(HostEndpoint {
        name,
        node: node?,
        interface: interface?,
        expected_ips,
        labels,
        ports,
        default,
    })
}

fn node(node: Option<&str>, report: &mut Report) -> Option<String> {
    const PATH: &str = "spec.node";
    let node = node.unwrap_or_default();
    if node.is_empty() {
        let hint = "name the host: the agent's `--node-name`, by default its host name";
        report.error(PATH, "the host endpoint has no node", hint);
        return None;
    }
    if !names::is_dns_name(node) {
        report.error(
            PATH,
            format!("`{node}` is not the name of a node"),
            "use at most 253 lower-case letters, digits, `-` and `.`, with a letter or digit at \
             both ends of each part",
        );
        return None;
    }
    Some(node.to_owned())
}

fn interface(name: Option<&str>, has_addresses: bool, report: &mut Report) -> Option<Interface> {
    const PATH: &str = "spec.interfaceName";
    match name {
        Some("*") => Some(Interface::All),
        None | Some("") if has_addresses => Some(Interface::WithAddress),
        None | Some("") => {
            report.error(
                "spec",
                "the host endpoint has neither an interface nor an address",
                "write `interfaceName`, `*` for every interface, or `expectedIPs`",
            );
            None
        }
        Some("lo") => {
            report.error(
                PATH,
                "the loopback interface cannot be a host endpoint",
                "name an interface that leads out of the host, or `*` for all of them",
            );
            None
        }
        Some(name) => endpoint::interface_name(PATH, name, report).map(Interface::Named),
    }
}

fn addresses(texts: Option<&[String]>, report: &mut Report) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (index, text) in texts.unwrap_or_default().iter().enumerate() {
        let path = format!("spec.expectedIPs[{index}]");
        let Ok(address) = text.parse::<IpAddr>() else {
            report.error(
                &path,
                format!("`{text}` is not an address"),
                "write an address without prefix length, such as 192.0.2.1",
            );
            continue;
        };
        let mapped = match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => v6.to_ipv4_mapped(),
        };
        if let Some(v4) = mapped {
            let message = format!("`{text}` is an IPv4 address written as IPv6");
            report.error(&path, message, format!("write {v4}"));
        } else if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            report.error(
                &path,
                format!("{address} cannot be the address of a host endpoint"),
                "write the address that others reach the host by",
            );
        } else {
            addresses.push(address);
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn profiles(profiles: Option<&[String]>, report: &mut Report) -> DefaultAction {
    let profiles = profiles.unwrap_or_default();
    for (index, profile) in profiles.iter().enumerate() {
        if profile != DEFAULT_ALLOW {
            report.error(
                &format!("spec.profiles[{index}]"),
                format!("there is no profile `{profile}`: profiles are not supported yet"),
                format!("write its rules as a GlobalNetworkPolicy, or `{DEFAULT_ALLOW}`"),
            );
        }
    }
    if profiles.is_empty() { DefaultAction::Deny } else { DefaultAction::Allow }
}
