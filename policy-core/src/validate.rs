//! From resources as they are written to domain objects that can be enforced in full.
//!
//! In: a resource's JSON value, or the wire type that `policy-api` made of it. Out: an [`Object`],
//! or every [`Diagnostic`] about it with its field path and what to write instead. Nothing is
//! ignored: a field that is not enforced is refused by name, except where it has no meaning for
//! verdicts; those are listed here:
//!
//! - `metadata`: what a server writes (see [`policy_api::resource::Metadata`]), `annotations`, and
//!   the labels of policies; `metadata` of a rule.
//! - `performanceHints`: when to program, not what to decide.
//! - `applyOnForward` on containers: their packets always meet policy, forwarded or not.
//! - the names in a WorkloadEndpoint's `spec` ([`policy_api::resource::calico`]).

use std::{net::IpAddr, sync::Arc};

use policy_api::{
    diagnostic::Diagnostic,
    messages::ResourceName,
    resource::{self, CALICO, CORE, KUBERNETES, Kind, Resource},
};
use serde_json::Value;

use crate::{
    host::HostEndpoint,
    labels::Labels,
    model::{NamedPort, NetworkSet},
    policy::{Policy, PolicyKind},
    tiers::Tier,
};

mod advice;
mod calico;
mod claims;
mod coverage;
mod endpoint;
mod entity;
mod fields;
mod forward;
mod host_endpoint;
mod kubernetes;
mod limit;
pub(crate) mod names;
mod redundant;
mod references;
mod report;
mod rule;
mod sizes;
mod staged;
#[cfg(test)]
mod tests;
mod tier;
mod untracked;
mod warnings;

pub use advice::advice;
pub use claims::Claims;
pub use references::{open_references, references, references_of, undeletable};

use report::Report;

/// Namespace of namespaced resources that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A resource that can be enforced.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A policy of any kind.
    Policy(Arc<Policy>),
    /// A Tier.
    Tier(Tier),
    /// A NetworkSet or GlobalNetworkSet.
    NetworkSet(Arc<NetworkSet>),
    /// A `v1` Namespace.
    Namespace {
        /// Name.
        name: String,
        /// Its labels, without the two that every namespace has.
        labels: Labels,
    },
    /// A WorkloadEndpoint.
    WorkloadEndpoint(StaticEndpoint),
    /// A HostEndpoint.
    HostEndpoint(Arc<HostEndpoint>),
}

/// An endpoint that a WorkloadEndpoint resource describes; its interface may not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticEndpoint {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Host-side interface name.
    pub interface: String,
    /// Own labels and those that every endpoint has ([`crate::labels::endpoint_labels`]).
    pub labels: Labels,
    /// Own addresses, sorted, distinct, at least one.
    pub addresses: Vec<IpAddr>,
    /// MAC address, if the resource gives one.
    pub mac: Option<[u8; 6]>,
    /// Named ports, sorted, distinct.
    pub ports: Vec<NamedPort>,
}

impl From<Policy> for Object {
    fn from(policy: Policy) -> Object {
        Object::Policy(Arc::new(policy))
    }
}

impl From<NetworkSet> for Object {
    fn from(set: NetworkSet) -> Object {
        Object::NetworkSet(Arc::new(set))
    }
}

impl Object {
    /// Name of the resource that this came from.
    pub fn resource_name(&self) -> ResourceName {
        let name = |api_version: &str, kind: &str, namespace: &str, name: &str| ResourceName {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            name: name.to_owned(),
        };
        match self {
            Object::Policy(policy) => {
                let key = &policy.key;
                let (version, kind) = match key.kind {
                    PolicyKind::GlobalNetworkPolicy => (CALICO, "GlobalNetworkPolicy"),
                    PolicyKind::NetworkPolicy => (CALICO, "NetworkPolicy"),
                    PolicyKind::KubernetesNetworkPolicy => (KUBERNETES, "NetworkPolicy"),
                    PolicyKind::StagedGlobalNetworkPolicy
                    | PolicyKind::StagedNetworkPolicy
                    | PolicyKind::StagedKubernetesNetworkPolicy => (CALICO, key.kind.name()),
                };
                name(version, kind, &key.namespace, &key.name)
            }
            Object::Tier(tier) => name(CALICO, "Tier", "", &tier.name),
            Object::NetworkSet(set) if set.namespace.is_empty() => {
                name(CALICO, "GlobalNetworkSet", "", &set.name)
            }
            Object::NetworkSet(set) => name(CALICO, "NetworkSet", &set.namespace, &set.name),
            Object::Namespace { name: own, .. } => name(CORE, "Namespace", "", own),
            Object::WorkloadEndpoint(endpoint) => {
                name(CALICO, "WorkloadEndpoint", &endpoint.namespace, &endpoint.name)
            }
            Object::HostEndpoint(endpoint) => name(CALICO, "HostEndpoint", "", &endpoint.name),
        }
    }
}

/// Reads and checks one resource.
///
/// # Errors
///
/// Everything that is wrong with it, at least one diagnostic, all of them errors.
pub fn decode(value: &Value) -> Result<Object, Vec<Diagnostic>> {
    decode_with_warnings(value).map(|(object, _)| object)
}

/// Reads and checks one resource, and says what looks wrong about one that is accepted.
///
/// # Errors
///
/// As [`decode`].
pub fn decode_with_warnings(value: &Value) -> Result<(Object, Vec<Diagnostic>), Vec<Diagnostic>> {
    let parsed = resource::parse(value);
    let mut diagnostics = parsed.diagnostics;
    let Some(resource) = parsed.resource else { return Err(diagnostics) };
    match validate(&resource) {
        Ok(object) if diagnostics.is_empty() => {
            let warnings = warnings::warnings(&resource, &object);
            Ok((object, warnings))
        }
        Ok(_) => Err(diagnostics),
        Err(found) => {
            // A field that was taken out because its shape is wrong is not "missing" as well.
            let shape: Vec<String> = diagnostics.iter().map(|known| known.path.clone()).collect();
            let news = found
                .into_iter()
                .filter(|diagnostic| !shape.iter().any(|path| overlap(path, &diagnostic.path)));
            diagnostics.extend(news);
            Err(diagnostics)
        }
    }
}

/// Whether one of two field paths is the other or contains it.
fn overlap(a: &str, b: &str) -> bool {
    let inside = |outer: &str, inner: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
    };
    inside(a, b) || inside(b, a)
}

/// Checks one resource.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn validate(resource: &Resource) -> Result<Object, Vec<Diagnostic>> {
    let mut report = Report::default();
    let object = match resource {
        Resource::NetworkPolicy(policy) => {
            calico::network_policy(policy, staged::NEVER, &mut report).map(Object::from)
        }
        Resource::StagedNetworkPolicy(policy) => {
            calico::network_policy(policy, staged::ALWAYS, &mut report).map(Object::from)
        }
        Resource::GlobalNetworkPolicy(policy) => {
            calico::global_network_policy(policy, staged::NEVER, &mut report).map(Object::from)
        }
        Resource::StagedGlobalNetworkPolicy(policy) => {
            calico::global_network_policy(policy, staged::ALWAYS, &mut report).map(Object::from)
        }
        Resource::KubernetesNetworkPolicy(policy) => {
            kubernetes::network_policy(policy, staged::NEVER, &mut report).map(Object::from)
        }
        Resource::StagedKubernetesNetworkPolicy(policy) => {
            kubernetes::network_policy(policy, staged::ALWAYS, &mut report).map(Object::from)
        }
        Resource::Tier(tier) => tier::tier(tier, &mut report).map(Object::Tier),
        Resource::NetworkSet(set) => {
            endpoint::network_set(set, true, &mut report).map(Object::from)
        }
        Resource::GlobalNetworkSet(set) => {
            endpoint::network_set(set, false, &mut report).map(Object::from)
        }
        Resource::WorkloadEndpoint(spec) => {
            endpoint::workload_endpoint(spec, &mut report).map(Object::WorkloadEndpoint)
        }
        Resource::HostEndpoint(spec) => host_endpoint::host_endpoint(spec, &mut report)
            .map(|it| Object::HostEndpoint(Arc::new(it))),
        Resource::Namespace(namespace) => endpoint::namespace(namespace, &mut report),
    };
    report.finish(object)
}

/// The name of a resource, of which only `apiVersion`, `kind` and `metadata` are looked at: enough
/// to delete it.
///
/// # Errors
///
/// What is wrong with those fields.
pub fn resource_name(value: &Value) -> Result<ResourceName, Vec<Diagnostic>> {
    let kind = Kind::of(value).map_err(|diagnostic| vec![*diagnostic])?;
    let mut report = Report::default();
    let text = |field: &str| {
        value.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str)
    };
    let metadata = resource::Metadata {
        name: text("name").map(str::to_owned),
        namespace: text("namespace").map(str::to_owned),
        ..resource::Metadata::default()
    };
    let names = names::identity(Some(&metadata), kind, &mut report);
    let (api_version, kind) = kind.names();
    report.finish(names.map(|(namespace, name)| ResourceName {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: (!namespace.is_empty()).then_some(namespace),
        name,
    }))
}
