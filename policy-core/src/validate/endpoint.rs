//! Network sets, namespaces and static endpoints.

use std::net::IpAddr;

use ipnet::IpNet;
use policy_api::resource::{
    IntOrString, Kind, Object as Wire,
    calico::{NetworkSetSpec, WorkloadEndpointPort, WorkloadEndpointSpec},
    kubernetes::NamespaceSpec,
};

use super::{
    Object, StaticEndpoint,
    fields::{self, Masking},
    names::{self, Reserved, is_dns_name},
    report::Report,
};
use crate::{
    labels::{Labels, NAMESPACE_LABEL, endpoint_labels},
    model::{NamedPort, NetworkSet},
};

/// Longest interface name, in bytes (`IFNAMSIZ` less the terminating zero).
const MAX_INTERFACE: usize = 15;

/// Labels that every namespace has, with its name as the value.
const NAMESPACE_NAME_LABELS: [&str; 2] = ["kubernetes.io/metadata.name", "projectcalico.org/name"];

pub(super) fn network_set(
    object: &Wire<NetworkSetSpec>,
    namespaced: bool,
    report: &mut Report,
) -> Option<NetworkSet> {
    let kind = if namespaced { Kind::NetworkSet } else { Kind::GlobalNetworkSet };
    let names = names::metadata(object.metadata.as_ref(), kind, Reserved::Refuse, report);
    let spec = object.spec.as_ref();
    report.unsupported(
        "spec.allowedEgressDomains",
        spec.and_then(|spec| spec.allowed_egress_domains.as_ref()),
        "domain names",
        "list the networks in `nets`",
    );
    let texts = spec.and_then(|spec| spec.nets.as_deref()).unwrap_or_default();
    let mut nets = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        nets.extend(fields::net(&format!("spec.nets[{index}]"), text, Masking::Lenient, report));
    }
    nets.sort_unstable();
    nets.dedup();
    let (namespace, name, own) = names?;
    let mut labels = own.to_map();
    if namespaced {
        labels.insert(NAMESPACE_LABEL.to_owned(), namespace.clone());
    }
    Some(NetworkSet { namespace, name, labels: labels.into_iter().collect(), nets })
}

pub(super) fn namespace(object: &Wire<NamespaceSpec>, report: &mut Report) -> Option<Object> {
    let names = names::metadata(object.metadata.as_ref(), Kind::Namespace, Reserved::Allow, report);
    let (_, name, labels) = names?;
    for label in NAMESPACE_NAME_LABELS {
        if let Some(value) = labels.get(label)
            && value != name
        {
            report.error(
                &format!("metadata.labels.{label}"),
                format!("`{label}` is always the namespace's name, `{name}`"),
                "remove the label",
            );
        }
    }
    let labels: Labels =
        labels.iter().filter(|(label, _)| !NAMESPACE_NAME_LABELS.contains(label)).collect();
    Some(Object::Namespace { name, labels })
}

pub(super) fn workload_endpoint(
    object: &Wire<WorkloadEndpointSpec>,
    report: &mut Report,
) -> Option<StaticEndpoint> {
    let names =
        names::metadata(object.metadata.as_ref(), Kind::WorkloadEndpoint, Reserved::Refuse, report);
    let absent = WorkloadEndpointSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&absent);
    let refused = [
        ("ipNATs", &spec.ip_nats, "address translations"),
        ("ipv4Gateway", &spec.ipv4_gateway, "gateways"),
        ("ipv6Gateway", &spec.ipv6_gateway, "gateways"),
        ("profiles", &spec.profiles, "profiles"),
        (
            "allowSpoofedSourcePrefixes",
            &spec.allow_spoofed_source_prefixes,
            "source addresses of others",
        ),
        ("qosControls", &spec.qos_controls, "QoS controls"),
    ];
    for (field, value, what) in refused {
        report.unsupported(&format!("spec.{field}"), value.as_ref(), what, "remove the field");
    }
    origins(spec, report);
    let interface = interface(spec.interface_name.as_deref(), report);
    let addresses = addresses(spec.ip_networks.as_deref(), report);
    let mac = mac(spec.mac.as_deref(), report);
    let ports = spec.ports.iter().flatten().enumerate();
    let mut ports: Vec<NamedPort> = ports
        .filter_map(|(index, port)| {
            let path = format!("spec.ports[{index}]");
            host_port(&path, port, report);
            named_port(&path, port.name.as_deref(), port.protocol.as_ref(), port.port, report)
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();

    let (namespace, name, own) = names?;
    Some(StaticEndpoint {
        labels: endpoint_labels(own.iter(), &namespace, &name, "static"),
        namespace,
        name,
        interface: interface?,
        addresses,
        mac,
        ports,
    })
}

/// Checks the names of where a WorkloadEndpoint comes from; they have no effect.
fn origins(spec: &WorkloadEndpointSpec, report: &mut Report) {
    let fields = [
        ("orchestrator", &spec.orchestrator),
        ("workload", &spec.workload),
        ("node", &spec.node),
        ("pod", &spec.pod),
        ("endpoint", &spec.endpoint),
        ("serviceAccountName", &spec.service_account_name),
    ];
    for (field, name) in fields {
        if let Some(name) = name.as_deref().filter(|name| !name.is_empty() && !is_dns_name(name)) {
            report.error(
                &format!("spec.{field}"),
                format!("`{name}` is not a name"),
                "use lower-case letters, digits, `-` and `.`, with a letter or digit at both ends of \
                 each part, or remove the field",
            );
        }
    }
    let container = spec.container_id.as_deref().filter(|id| !id.is_empty());
    if let Some(id) = container.filter(|id| !is_container_id(id)) {
        report.error(
            "spec.containerID",
            format!("`{id}` is not the id of a container"),
            "use letters, digits and `-`, with a letter or digit at both ends, or remove the field",
        );
    }
}

fn is_container_id(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn interface(name: Option<&str>, report: &mut Report) -> Option<String> {
    const PATH: &str = "spec.interfaceName";
    let name = name.unwrap_or_default();
    if name.is_empty() {
        report.error(PATH, "the endpoint has no interface", "name its host-side interface");
        return None;
    }
    interface_name(PATH, name, report)
}

/// A name that an interface can have.
pub(super) fn interface_name(path: &str, name: &str, report: &mut Report) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if name.len() > MAX_INTERFACE || !name.bytes().all(allowed) || matches!(name, "." | "..") {
        report.error(
            path,
            format!("`{name}` is not an interface name"),
            "use at most 15 letters, digits, `_`, `.` and `-`",
        );
        return None;
    }
    Some(name.to_owned())
}

fn addresses(networks: Option<&[String]>, report: &mut Report) -> Vec<IpAddr> {
    const PATH: &str = "spec.ipNetworks";
    let networks = networks.unwrap_or_default();
    if networks.is_empty() {
        report.error(
            PATH,
            "the endpoint has no address",
            "list the addresses that it sends from, such as 10.0.0.2/32",
        );
    }
    let mut addresses = Vec::new();
    for (index, text) in networks.iter().enumerate() {
        let path = format!("{PATH}[{index}]");
        let Some(net) = fields::net(&path, text, Masking::Host, report) else { continue };
        if net.prefix_len() != net.max_prefix_len() {
            let whole = IpNet::from(net.addr());
            report.error(
                &path,
                format!("{net} is more than one address"),
                format!("write each address by itself, such as {whole}"),
            );
            continue;
        }
        let address = net.addr();
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            report.error(
                &path,
                format!("{address} cannot be the address of an endpoint"),
                "write the address of the interface",
            );
            continue;
        }
        addresses.push(address);
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn mac(text: Option<&str>, report: &mut Report) -> Option<[u8; 6]> {
    let text = text.filter(|text| !text.is_empty())?;
    let octets: Option<Vec<u8>> = text
        .split(':')
        .map(|octet| match octet.len() {
            2 => u8::from_str_radix(octet, 16).ok(),
            _ => None,
        })
        .collect();
    let mac = octets.and_then(|octets| <[u8; 6]>::try_from(octets).ok());
    if mac.is_none() {
        report.error(
            "spec.mac",
            format!("`{text}` is not a MAC address"),
            "write six octets, such as 02:42:ac:11:00:02",
        );
    }
    mac
}

/// Refuses what a named port of a WorkloadEndpoint may say of the host.
fn host_port(path: &str, port: &WorkloadEndpointPort, report: &mut Report) {
    // 0 is upstream's absence: its tools write it out.
    let host_port = port.host_port.as_ref().filter(|port| port.as_i64() != Some(0));
    for (field, value) in [("hostPort", host_port), ("hostIP", port.host_ip.as_ref())] {
        let path = format!("{path}.{field}");
        report.unsupported(&path, value, "host ports", "remove the field");
    }
}

/// A named port of an endpoint.
pub(super) fn named_port(
    path: &str,
    name: Option<&str>,
    protocol: Option<&IntOrString>,
    port: Option<i64>,
    report: &mut Report,
) -> Option<NamedPort> {
    let at = |field: &str| format!("{path}.{field}");
    let name = name.unwrap_or_default();
    let named = fields::is_service_name(name);
    if !named {
        report.error(
            &at("name"),
            format!("`{name}` is not a port name"),
            format!("write {}", fields::PORT_NAME),
        );
    }
    let protocol = match protocol {
        None => {
            report.error(&at("protocol"), "the port has no protocol", "write TCP, UDP or SCTP");
            None
        }
        Some(protocol) => fields::protocol(&at("protocol"), protocol, report),
    };
    if protocol.is_some_and(|protocol| !fields::has_ports(protocol)) {
        report.error(&at("protocol"), "the protocol has no ports", "write TCP, UDP or SCTP");
    }
    let number = match port {
        None => {
            let hint = "write a number from 1 to 65535";
            report.error(&at("port"), "the port has no number", hint);
            None
        }
        Some(number) => fields::port_number(&at("port"), number, report),
    };
    named.then_some(NamedPort { name: name.to_owned(), protocol: protocol?, port: number? })
}
