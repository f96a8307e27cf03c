//! The resources that Palisade reads, as their YAML has them.
//!
//! In: one resource as a JSON value, from a file or from a request. Out: a [`Resource`] and every
//! [`Diagnostic`] about its shape: unknown kinds and fields, values of the wrong type. What the
//! values mean is checked in `policy-core`.

use serde::Deserialize;
use serde_json::Value;

use crate::diagnostic::Diagnostic;

pub mod calico;
mod decode;
pub mod kubernetes;
pub mod metadata;
mod strict;
#[cfg(test)]
mod tests;

pub use decode::did_you_mean;
pub use metadata::{IntOrString, Metadata};

/// `apiVersion` of Calico's resources.
pub const CALICO: &str = "projectcalico.org/v3";
/// `apiVersion` of Kubernetes' NetworkPolicy.
pub const KUBERNETES: &str = "networking.k8s.io/v1";
/// `apiVersion` of Kubernetes' core resources.
pub const CORE: &str = "v1";

/// A resource with a specification.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    expecting = "a mapping with `apiVersion`, `kind`, `metadata` and `spec`"
)]
pub struct Object<S> {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// Name, namespace, labels.
    pub metadata: Option<Metadata>,
    /// The specification.
    pub spec: Option<S>,
    /// Written by a server; no effect.
    pub status: Option<Value>,
}

/// A resource of a kind that Palisade reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// `projectcalico.org/v3` NetworkPolicy.
    NetworkPolicy(Box<Object<calico::NetworkPolicySpec>>),
    /// `projectcalico.org/v3` GlobalNetworkPolicy.
    GlobalNetworkPolicy(Box<Object<calico::GlobalNetworkPolicySpec>>),
    /// `projectcalico.org/v3` StagedNetworkPolicy.
    StagedNetworkPolicy(Box<Object<calico::NetworkPolicySpec>>),
    /// `projectcalico.org/v3` StagedGlobalNetworkPolicy.
    StagedGlobalNetworkPolicy(Box<Object<calico::GlobalNetworkPolicySpec>>),
    /// `projectcalico.org/v3` StagedKubernetesNetworkPolicy.
    StagedKubernetesNetworkPolicy(Box<Object<kubernetes::NetworkPolicySpec>>),
    /// `projectcalico.org/v3` Tier.
    Tier(Box<Object<calico::TierSpec>>),
    /// `projectcalico.org/v3` NetworkSet.
    NetworkSet(Box<Object<calico::NetworkSetSpec>>),
    /// `projectcalico.org/v3` GlobalNetworkSet.
    GlobalNetworkSet(Box<Object<calico::NetworkSetSpec>>),
    /// `projectcalico.org/v3` WorkloadEndpoint.
    WorkloadEndpoint(Box<Object<calico::WorkloadEndpointSpec>>),
    /// `projectcalico.org/v3` HostEndpoint.
    HostEndpoint(Box<Object<calico::HostEndpointSpec>>),
    /// `networking.k8s.io/v1` NetworkPolicy.
    KubernetesNetworkPolicy(Box<Object<kubernetes::NetworkPolicySpec>>),
    /// `v1` Namespace.
    Namespace(Box<Object<kubernetes::NamespaceSpec>>),
}

/// A kind that Palisade knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `projectcalico.org/v3` NetworkPolicy.
    NetworkPolicy,
    /// `projectcalico.org/v3` GlobalNetworkPolicy.
    GlobalNetworkPolicy,
    /// `projectcalico.org/v3` StagedNetworkPolicy.
    StagedNetworkPolicy,
    /// `projectcalico.org/v3` StagedGlobalNetworkPolicy.
    StagedGlobalNetworkPolicy,
    /// `projectcalico.org/v3` StagedKubernetesNetworkPolicy.
    StagedKubernetesNetworkPolicy,
    /// `projectcalico.org/v3` Tier.
    Tier,
    /// `projectcalico.org/v3` NetworkSet.
    NetworkSet,
    /// `projectcalico.org/v3` GlobalNetworkSet.
    GlobalNetworkSet,
    /// `projectcalico.org/v3` WorkloadEndpoint.
    WorkloadEndpoint,
    /// `projectcalico.org/v3` HostEndpoint.
    HostEndpoint,
    /// `networking.k8s.io/v1` NetworkPolicy.
    KubernetesNetworkPolicy,
    /// `v1` Namespace.
    Namespace,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 12] = [
        Kind::NetworkPolicy,
        Kind::GlobalNetworkPolicy,
        Kind::StagedNetworkPolicy,
        Kind::StagedGlobalNetworkPolicy,
        Kind::StagedKubernetesNetworkPolicy,
        Kind::Tier,
        Kind::NetworkSet,
        Kind::GlobalNetworkSet,
        Kind::WorkloadEndpoint,
        Kind::HostEndpoint,
        Kind::KubernetesNetworkPolicy,
        Kind::Namespace,
    ];

    /// `apiVersion` and `kind`.
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            Kind::NetworkPolicy => (CALICO, "NetworkPolicy"),
            Kind::GlobalNetworkPolicy => (CALICO, "GlobalNetworkPolicy"),
            Kind::StagedNetworkPolicy => (CALICO, "StagedNetworkPolicy"),
            Kind::StagedGlobalNetworkPolicy => (CALICO, "StagedGlobalNetworkPolicy"),
            Kind::StagedKubernetesNetworkPolicy => (CALICO, "StagedKubernetesNetworkPolicy"),
            Kind::Tier => (CALICO, "Tier"),
            Kind::NetworkSet => (CALICO, "NetworkSet"),
            Kind::GlobalNetworkSet => (CALICO, "GlobalNetworkSet"),
            Kind::WorkloadEndpoint => (CALICO, "WorkloadEndpoint"),
            Kind::HostEndpoint => (CALICO, "HostEndpoint"),
            Kind::KubernetesNetworkPolicy => (KUBERNETES, "NetworkPolicy"),
            Kind::Namespace => (CORE, "Namespace"),
        }
    }

    /// Whether resources of the kind are in a namespace.
    pub const fn namespaced(self) -> bool {
        match self {
            Kind::NetworkPolicy
            | Kind::StagedNetworkPolicy
            | Kind::StagedKubernetesNetworkPolicy
            | Kind::NetworkSet
            | Kind::WorkloadEndpoint
            | Kind::KubernetesNetworkPolicy => true,
            Kind::GlobalNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
            | Kind::Tier
            | Kind::GlobalNetworkSet
            | Kind::HostEndpoint
            | Kind::Namespace => false,
        }
    }

    /// The kind of a resource.
    ///
    /// # Errors
    ///
    /// A diagnostic if `apiVersion` and `kind` are missing, unknown, or not supported yet.
    pub fn of(value: &Value) -> Result<Kind, Box<Diagnostic>> {
        decode::kind(value)
    }
}

/// What [`parse`] makes of a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The resource without the fields that are wrong; `None` if nothing can be made of it.
    pub resource: Option<Resource>,
    /// What is wrong; empty if and only if `resource` is all that the author wrote.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads one resource, collecting what is wrong with it.
pub fn parse(value: &Value) -> Parsed {
    let kind = match Kind::of(value) {
        Ok(kind) => kind,
        Err(diagnostic) => return Parsed { resource: None, diagnostics: vec![*diagnostic] },
    };
    let (resource, diagnostics) = match kind {
        Kind::NetworkPolicy => decode::typed(value, Resource::NetworkPolicy),
        Kind::GlobalNetworkPolicy => decode::typed(value, Resource::GlobalNetworkPolicy),
        Kind::StagedNetworkPolicy => decode::typed(value, Resource::StagedNetworkPolicy),
        Kind::StagedGlobalNetworkPolicy => {
            decode::typed(value, Resource::StagedGlobalNetworkPolicy)
        }
        Kind::StagedKubernetesNetworkPolicy => {
            decode::typed(value, Resource::StagedKubernetesNetworkPolicy)
        }
        Kind::Tier => decode::typed(value, Resource::Tier),
        Kind::NetworkSet => decode::typed(value, Resource::NetworkSet),
        Kind::GlobalNetworkSet => decode::typed(value, Resource::GlobalNetworkSet),
        Kind::WorkloadEndpoint => decode::typed(value, Resource::WorkloadEndpoint),
        Kind::HostEndpoint => decode::typed(value, Resource::HostEndpoint),
        Kind::KubernetesNetworkPolicy => decode::typed(value, Resource::KubernetesNetworkPolicy),
        Kind::Namespace => decode::typed(value, Resource::Namespace),
    };
    Parsed { resource, diagnostics }
}
