//! Everything about one thing, for a human. Input: what the agent holds, as a [`Picture`]; output:
//! [`Description`]s, which `output::describe` prints and `-o json` shows as they are. No I/O.

mod endpoint;
mod others;
mod policy;
mod sentence;

use std::collections::BTreeMap;

use policy_api::messages::{EndpointStatus, ResourceName, RuleCount, Status, StoredResource};
use policy_api::resource::Kind;
use policy_core::assemble::{self, Host};
use policy_core::identity;
use policy_core::labels::Labels;
use policy_core::model::{DefaultAction, EndpointSpec, Model, Settings};
use policy_core::tiers::{self, TierAction};
use policy_core::validate::{self, Object};
use serde::Serialize;

use crate::kinds;

pub(crate) use endpoint::{Endpoint, Step};
pub(crate) use others::{Namespace, NetworkSet, Tier, Use};
pub(crate) use policy::{Policy, Rule};

/// One thing.
#[derive(Debug, Serialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub(crate) enum Description {
    Policy(Policy),
    Endpoint(Endpoint),
    Tier(Tier),
    NetworkSet(NetworkSet),
    Namespace(Namespace),
}

/// What somebody wants described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// Container interfaces.
    Endpoint,
    /// Resources of these kinds.
    Kinds(Vec<Kind>),
}

/// A tier and what happens at its end.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct TierEnd {
    pub(crate) name: String,
    pub(crate) order: Option<f64>,
    /// `Deny` or `Pass`.
    pub(crate) default_action: &'static str,
}

impl From<&tiers::Tier> for TierEnd {
    fn from(tier: &tiers::Tier) -> Self {
        TierEnd {
            name: tier.name.clone(),
            order: tier.order.0,
            default_action: match tier.end {
                TierAction::Deny => "Deny",
                TierAction::Pass => "Pass",
            },
        }
    }
}

/// A policy by name.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PolicyName {
    /// As rules have it: Kubernetes' NetworkPolicy is `KubernetesNetworkPolicy`.
    pub(crate) kind: &'static str,
    /// Empty for a global one.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl From<&policy_core::policy::PolicyKey> for PolicyName {
    fn from(key: &policy_core::policy::PolicyKey) -> Self {
        PolicyName {
            kind: key.kind.name(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }
}

/// An endpoint by name, with what tells it from others.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct EndpointName {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Docker network; empty for a static endpoint.
    pub(crate) network: String,
    pub(crate) addresses: Vec<std::net::IpAddr>,
}

impl From<&EndpointSpec> for EndpointName {
    fn from(spec: &EndpointSpec) -> Self {
        EndpointName {
            namespace: spec.namespace.clone(),
            name: spec.name.clone(),
            network: spec.network.clone(),
            addresses: spec.addresses.clone(),
        }
    }
}

/// What an agent holds.
#[derive(Debug)]
pub(crate) struct Picture {
    resources: BTreeMap<ResourceName, (StoredResource, Object)>,
    endpoints: Vec<EndpointStatus>,
    model: Model,
    counts: Vec<RuleCount>,
}

/// A resource of the agent's that we cannot read: it is of another version.
#[derive(Debug, thiserror::Error)]
#[error(
    "the agent holds {0}, which this policyctl cannot read: compare `policyctl version` of both"
)]
pub(crate) struct Unreadable(String);

impl Picture {
    /// A picture of these answers of one agent.
    ///
    /// # Errors
    ///
    /// [`Unreadable`].
    pub(crate) fn new(
        stored: Vec<StoredResource>,
        endpoints: Vec<EndpointStatus>,
        status: &Status,
        counts: Vec<RuleCount>,
    ) -> Result<Picture, Unreadable> {
        let mut resources = BTreeMap::new();
        for resource in stored {
            let object = validate::decode(&resource.resource)
                .map_err(|_| Unreadable(kinds::qualified(&resource.name)))?;
            resources.insert(resource.name.clone(), (resource, object));
        }
        let default_action = match status.default_action.as_str() {
            "deny" => DefaultAction::Deny,
            _ => DefaultAction::Allow,
        };
        let host = Host {
            settings: Settings { default_action, ..Settings::default() },
            ..Host::default()
        };
        // Endpoints are those that the agent has an interface for, static ones included.
        let objects = resources.values().map(|(_, object)| object);
        let objects = objects.filter(|it| !matches!(it, Object::WorkloadEndpoint(_)));
        let here: Vec<EndpointStatus> =
            endpoints.iter().filter(|status| status.ifindex != 0).cloned().collect();
        let model = assemble::offline(&host, objects, &here)
            .map_err(|_| Unreadable("endpoints".to_owned()))?;
        Ok(Picture { resources, endpoints, model, counts })
    }

    /// What there is of this sort and name; `name` may be `NAMESPACE/NAME`.
    pub(crate) fn find(
        &self,
        sort: &Sort,
        name: &str,
        namespace: Option<&str>,
    ) -> Vec<Description> {
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (namespace, name),
        };
        match sort {
            Sort::Endpoint => self.find_endpoints(name, namespace),
            Sort::Kinds(kinds) => {
                kinds.iter().flat_map(|kind| self.find_kind(*kind, name, namespace)).collect()
            }
        }
    }

    fn find_endpoints(&self, name: &str, namespace: Option<&str>) -> Vec<Description> {
        let called = |it: &&EndpointStatus| {
            it.name == name && namespace.is_none_or(|wanted| wanted == it.namespace)
        };
        let found = self.endpoints.iter().filter(called);
        found.map(|status| Description::Endpoint(self.endpoint(status))).collect()
    }

    fn find_kind(&self, kind: Kind, name: &str, namespace: Option<&str>) -> Vec<Description> {
        match kind {
            Kind::Tier => {
                let tiers = tiers::of(&self.model);
                let tier = tiers.into_iter().find(|tier| tier.name == name);
                let tier = tier.or_else(|| tiers::built_in(name));
                tier.iter().map(|tier| Description::Tier(self.tier(tier))).collect()
            }
            Kind::Namespace => {
                self.namespace(name).map(Description::Namespace).into_iter().collect()
            }
            Kind::WorkloadEndpoint => self.find_endpoints(name, namespace),
            kind => {
                let called = |it: &&ResourceName| {
                    kinds::is_of(it, kind)
                        && it.name == name
                        && namespace.is_none_or(|wanted| it.namespace.as_deref() == Some(wanted))
                };
                let found = self.resources.iter().filter(|(it, _)| called(it));
                found.filter_map(|(_, (stored, object))| self.resource(stored, object)).collect()
            }
        }
    }

    fn resource(&self, stored: &StoredResource, object: &Object) -> Option<Description> {
        match object {
            Object::Policy(policy) => Some(Description::Policy(self.policy(stored, policy))),
            Object::NetworkSet(set) => Some(Description::NetworkSet(self.network_set(stored, set))),
            _ => None,
        }
    }

    /// Endpoints in force with all their labels.
    fn labelled(&self) -> impl Iterator<Item = (&EndpointSpec, Labels)> {
        let endpoints = self.model.endpoints.values();
        endpoints.map(|spec| (spec.as_ref(), identity::endpoint_labels(&self.model, spec)))
    }
}
