//! A container's labels to its identity: namespace, endpoint labels, named ports.
//!
//! Whoever starts a container writes its labels; the administrator writes the policies. So a label
//! may choose among policies, but never say what a container *is*: the reserved prefixes are ours.

use std::collections::BTreeMap;

use policy_core::{
    labels::{Labels, is_reserved},
    model::NamedPort,
};

use super::wire::Container;

/// Label that sets the namespace.
const NAMESPACE_LABEL: &str = "io.palisade.namespace";
/// Label that Compose puts the project's name in.
const COMPOSE_PROJECT_LABEL: &str = "com.docker.compose.project";
/// Label that names ports.
const PORTS_LABEL: &str = "io.palisade.ports";
/// Namespace of containers that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// The namespace, or the value that is no valid one.
///
/// A container with a bad value is not put into another namespace instead: that could hand it
/// rights which its author did not mean it to have.
pub(super) fn namespace(labels: &BTreeMap<String, String>) -> Result<&str, &str> {
    let named = labels.get(NAMESPACE_LABEL).or_else(|| labels.get(COMPOSE_PROJECT_LABEL));
    let Some(name) = named else { return Ok(DEFAULT_NAMESPACE) };
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let valid = name.len() <= 63
        && edge(name.chars().next())
        && edge(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if valid { Ok(name) } else { Err(name) }
}

/// The labels of a container's endpoint on `network`, and what was ignored.
pub(super) fn endpoint_labels(
    container: &Container,
    namespace: &str,
    network: &str,
) -> (Labels, Vec<String>) {
    let mut warnings = Vec::new();
    let mut labels = BTreeMap::new();
    for (name, value) in &container.labels {
        if is_reserved(name) {
            warnings.push(format!(
                "label {name:?} is ignored: its prefix is reserved; use another name"
            ));
        } else {
            labels.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in [
        ("palisade.io/name", container.name.as_str()),
        ("palisade.io/image", container.image.as_str()),
        ("projectcalico.org/namespace", namespace),
        ("projectcalico.org/orchestrator", "docker"),
    ] {
        labels.insert(name.to_owned(), value.to_owned());
    }
    labels.insert(format!("palisade.io/network.{network}"), String::new());
    (labels.into_iter().collect(), warnings)
}

/// The named ports, and what was ignored of them.
pub(super) fn named_ports(labels: &BTreeMap<String, String>) -> (Vec<NamedPort>, Vec<String>) {
    let mut ports = Vec::new();
    let mut warnings = Vec::new();
    let entries = labels.get(PORTS_LABEL).map(String::as_str).unwrap_or_default();
    for entry in entries.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match named_port(entry) {
            Some(port) => ports.push(port),
            None => warnings.push(format!(
                "{entry:?} in label {PORTS_LABEL} is ignored: write NAME=PORT/PROTOCOL with a port \
                 from 1 to 65535 and tcp, udp or sctp, for example web=8080/tcp"
            )),
        }
    }
    ports.sort();
    ports.dedup();
    (ports, warnings)
}

fn named_port(entry: &str) -> Option<NamedPort> {
    let (name, port) = entry.split_once('=')?;
    let (port, protocol) = port.split_once('/')?;
    // Calico's rule for port names.
    let named = (1..=128).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    // `u16::from_str` takes a leading plus sign.
    let digits = port.chars().all(|c| c.is_ascii_digit());
    let protocol = match protocol {
        "tcp" => libc::IPPROTO_TCP,
        "udp" => libc::IPPROTO_UDP,
        "sctp" => libc::IPPROTO_SCTP,
        _ => return None,
    };
    let port = port.parse().ok().filter(|&port| port != 0)?;
    (named && digits).then_some(NamedPort {
        name: name.to_owned(),
        protocol: u8::try_from(protocol).ok()?,
        port,
    })
}

#[cfg(test)]
mod tests;
