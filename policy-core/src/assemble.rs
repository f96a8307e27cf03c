//! From resources and endpoints to a [`Model`].
//!
//! In: validated [`Object`]s; offline also endpoints that an agent told of earlier
//! (`GET /v1/endpoints`) and what else is known of a host. Out: [`base`], the part of a model that
//! resources alone decide, to which the agent adds what it finds on its host; and [`offline`], a
//! whole model without a host, on which questions are answered as the agent would answer them.
//! Nothing is enforced from an offline model: its interface indexes are its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use policy_api::{
    diagnostic::Diagnostic,
    messages::{EndpointPort, EndpointStatus},
};

use crate::{
    host::Plane,
    identity::{self, HOST_LABEL},
    labels::{Labels, ORCHESTRATOR_LABEL},
    model::{EndpointId, EndpointSpec, Model, NamedPort, Settings},
    names,
    validate::{Object, StaticEndpoint},
};

/// The part of a model that resources alone decide: everything but endpoints and the host.
pub fn base<'a>(settings: Settings, objects: impl IntoIterator<Item = &'a Object>) -> Model {
    let mut model = Model { settings, ..Model::default() };
    for object in objects {
        add(&mut model, object);
    }
    model
}

/// Adds what one resource alone decides.
pub fn add(model: &mut Model, object: &Object) {
    match object {
        Object::Policy(policy) => {
            model.policies.insert(policy.key.clone(), Arc::clone(policy));
        }
        Object::NetworkSet(set) => {
            let key = (set.namespace.clone(), set.name.clone());
            model.network_sets.insert(key, Arc::clone(set));
        }
        Object::Namespace { name, labels } => {
            model.namespaces.insert(name.clone(), labels.clone());
        }
        Object::Tier(tier) => {
            model.tiers.insert(tier.name.clone(), tier.clone());
        }
        Object::HostEndpoint(endpoint) => {
            model.host_endpoints.insert(endpoint.name.clone(), Arc::clone(endpoint));
        }
        // An endpoint depends on its interface, too.
        Object::WorkloadEndpoint(_) => {}
    }
}

/// Takes away what one resource has added.
pub fn remove(model: &mut Model, object: &Object) {
    match object {
        Object::Policy(policy) => {
            model.policies.remove(&policy.key);
        }
        Object::NetworkSet(set) => {
            model.network_sets.remove(&(set.namespace.clone(), set.name.clone()));
        }
        Object::Namespace { name, .. } => {
            model.namespaces.remove(name);
        }
        Object::Tier(tier) => {
            model.tiers.remove(&tier.name);
        }
        Object::HostEndpoint(endpoint) => {
            model.host_endpoints.remove(&endpoint.name);
        }
        Object::WorkloadEndpoint(_) => {}
    }
}

/// What is known of a host that is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Its agent's settings.
    pub settings: Settings,
    /// Its own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Names of its uplinks.
    pub uplinks: BTreeSet<String>,
}

/// A model of resources, of the endpoints among them, and of saved ones. Every interface is taken
/// to exist. A static endpoint that is saved, too, is what its resource says; an endpoint that the
/// agent could not enforce on is left out, as the agent leaves it out.
///
/// # Errors
///
/// What cannot be read of the saved endpoints, with a path that begins with the index, as in
/// `[2].ports[0].protocol`.
pub fn offline<'a>(
    host: &Host,
    objects: impl IntoIterator<Item = &'a Object> + Clone,
    saved: &[EndpointStatus],
) -> Result<Model, Vec<Diagnostic>> {
    let mut model = base(host.settings, objects.clone());
    let mut endpoints: BTreeMap<EndpointId, EndpointSpec> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (index, status) in saved.iter().enumerate().filter(|(_, status)| has_identity(status)) {
        match ports(index, &status.ports) {
            Ok(ports) => {
                endpoints.insert(saved_id(index, status), saved_spec(status, ports));
            }
            Err(diagnostics) => wrong.extend(diagnostics),
        }
    }
    for object in objects {
        if let Object::WorkloadEndpoint(endpoint) = object {
            endpoints.insert(endpoint.id(), static_spec(endpoint));
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    model.endpoints = (1..)
        .zip(endpoints)
        .map(|(ifindex, (id, spec))| (id, Arc::new(EndpointSpec { ifindex, ..spec })))
        .collect();
    model.host_addresses = host.addresses.clone().into();
    // From the far end, which endpoints do not reach.
    let uplinks = host.uplinks.iter().map(|name| identity::uplink_labels(name));
    model.uplinks = (0..).map(|back| u32::MAX - back).zip(uplinks).collect();
    model.noting_uplinks = model.uplinks.keys().copied().collect();
    Ok(model)
}

impl StaticEndpoint {
    /// Its identity in a model.
    pub fn id(&self) -> EndpointId {
        EndpointId(format!("static/{}/{}", self.namespace, self.name))
    }
}

/// Whether it is known whose endpoint this is; labels and addresses come together.
fn has_identity(status: &EndpointStatus) -> bool {
    // A host endpoint's say depends on its host.
    !status.labels.is_empty()
        && !status.addresses.is_empty()
        && !status.labels.contains_key(HOST_LABEL)
}

/// A container may have several endpoints on one network of one host, and hosts may have
/// containers of one name.
fn saved_id(index: usize, status: &EndpointStatus) -> EndpointId {
    let EndpointStatus { namespace, name, .. } = status;
    match status.labels.get(ORCHESTRATOR_LABEL).map(String::as_str) {
        Some("static") => EndpointId(format!("static/{namespace}/{name}")),
        _ => EndpointId(format!("saved/{namespace}/{name}/{index}")),
    }
}

fn saved_spec(status: &EndpointStatus, ports: Vec<NamedPort>) -> EndpointSpec {
    EndpointSpec {
        ifindex: 0,
        interface: status.interface.clone(),
        name: status.name.clone(),
        namespace: status.namespace.clone(),
        network: status.network.clone(),
        labels: status.labels.iter().collect::<Labels>(),
        addresses: status.addresses.clone(),
        mac: None,
        ports,
        bridge: None,
        plane: Plane::Workload,
        adopt_until_ns: 0,
    }
}

fn static_spec(endpoint: &StaticEndpoint) -> EndpointSpec {
    EndpointSpec {
        ifindex: 0,
        interface: endpoint.interface.clone(),
        name: endpoint.name.clone(),
        namespace: endpoint.namespace.clone(),
        network: String::new(),
        labels: endpoint.labels.clone(),
        addresses: endpoint.addresses.clone(),
        mac: endpoint.mac,
        ports: endpoint.ports.clone(),
        bridge: None,
        plane: Plane::Workload,
        adopt_until_ns: 0,
    }
}

fn ports(endpoint: usize, ports: &[EndpointPort]) -> Result<Vec<NamedPort>, Vec<Diagnostic>> {
    let mut named = Vec::with_capacity(ports.len());
    let mut wrong = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        match names::protocol_number(&port.protocol) {
            Some(protocol) => {
                named.push(NamedPort { name: port.name.clone(), protocol, port: port.port });
            }
            None => wrong.push(
                Diagnostic::error(
                    format!("[{endpoint}].ports[{index}].protocol"),
                    format!("`{}` is not a protocol", port.protocol),
                )
                .with_hint("write TCP, UDP or SCTP"),
            ),
        }
    }
    if wrong.is_empty() { Ok(named) } else { Err(wrong) }
}

/// Named ports as messages have them.
pub fn endpoint_ports(ports: &[NamedPort]) -> Vec<EndpointPort> {
    let shown = |port: &NamedPort| EndpointPort {
        name: port.name.clone(),
        protocol: names::protocol(port.protocol),
        port: port.port,
    };
    ports.iter().map(shown).collect()
}

#[cfg(test)]
mod tests;
