//! What the event loop tells everybody who only reads: the API, the metrics, the observer.
//!
//! One immutable value, replaced as a whole after each change that the datapath holds.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Instant};

use policy_api::messages::{
    Component, EndpointState, EndpointStatus, MapUsage, ResourceName, RuleName, Status,
    StoredResource,
};
use policy_common::{
    abi::{ABI_VERSION, Direction},
    maps,
};
use policy_core::{
    compile::Compiler,
    evaluate::applied,
    host::Plane,
    identity,
    ids::Names,
    labels::Labels,
    model::{DefaultAction, EndpointId, Model},
    peers::PeerName,
    policy::{Policy, StagedAction},
    validate::Object,
};

use crate::{flow_log, history, inventory::stands_for_all, ledger::Ledger, resources::Resources};

/// The newest state that the datapath holds.
#[derive(Clone, Debug)]
pub struct Published {
    /// When the agent started.
    pub started: Instant,
    /// `false` until everything has been read and the datapath holds the first model.
    pub ready: bool,
    /// The model that is in force.
    pub model: Arc<Model>,
    /// Names of the numbers in the maps.
    pub ids: Names,
    /// Resources in force.
    pub resources: Arc<Resources>,
    /// Endpoints, enforced or not; those that are in the model with their identity there. Which
    /// policies apply to them is found out when somebody asks ([`Published::endpoints`]).
    pub endpoints: Arc<Vec<(Option<EndpointId>, EndpointStatus)>>,
    /// Places in `endpoints`, by name.
    pub places: Arc<BTreeMap<PeerName, usize>>,
    /// Names of the interfaces that programs are or were on.
    pub interfaces: Arc<BTreeMap<u32, PeerName>>,
    /// Who has an address.
    pub owners: Arc<BTreeMap<IpAddr, PeerName>>,
    /// Datapath revision.
    pub revision: u64,
    /// Entries in use.
    pub usage: Vec<MapUsage>,
    /// Parts of the agent.
    pub components: Vec<Component>,
    /// Kernel features in use.
    pub features: Vec<(String, String)>,
}

impl Published {
    /// Name of the endpoint (or bridge, or uplink) on an interface.
    pub fn interface(&self, ifindex: u32) -> PeerName {
        self.interfaces.get(&ifindex).cloned().unwrap_or_else(|| PeerName {
            namespace: String::new(),
            name: format!("interface-{ifindex}"),
        })
    }

    /// Labels of the endpoint of a name.
    pub fn labels(&self, name: &PeerName) -> Option<&BTreeMap<String, String>> {
        let place = self.places.get(name)?;
        self.endpoints.get(*place).map(|(_, endpoint)| &endpoint.labels)
    }

    /// Name of a rule.
    pub fn rule(&self, id: u32) -> Option<&RuleName> {
        self.ids.rule(id)
    }

    /// How many endpoints are in a state.
    pub fn count(&self, state: EndpointState) -> usize {
        self.endpoints.iter().filter(|(_, endpoint)| endpoint.state == state).count()
    }

    /// Answer to `GET /v1/endpoints`. Evaluates every policy's selector for every endpoint.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        self.endpoints
            .iter()
            .map(|(id, status)| {
                let policies = |direction| {
                    id.as_ref().map_or_else(Vec::new, |id| applied(&self.model, id, direction))
                };
                EndpointStatus {
                    ingress_policies: policies(Direction::Ingress),
                    egress_policies: policies(Direction::Egress),
                    ..status.clone()
                }
            })
            .collect()
    }

    /// Answer to `GET /v1/resources`: those that `wanted` wants, with the number of endpoints that
    /// each selects.
    pub fn resources(&self, wanted: impl Fn(&ResourceName) -> bool) -> Vec<StoredResource> {
        let model = &self.model;
        let endpoints = || model.endpoints.values().filter(|spec| stands_for_all(spec.plane));
        let labels: Vec<(Plane, Labels)> =
            endpoints().map(|spec| (spec.plane, identity::endpoint_labels(model, spec))).collect();
        // Each host endpoint has a plane for every policy that selects it.
        let meets = |policy: &Policy, plane: Plane| plane.of_host() || plane.admits(policy);
        let selects = |object: &Object| match object {
            // What would take a policy away applies to nothing.
            Object::Policy(policy) if policy.staged == Some(StagedAction::Delete) => 0,
            Object::Policy(policy) => {
                let selected = |(plane, labels): &&(Plane, Labels)| {
                    meets(policy, *plane) && policy.subject.matches(labels)
                };
                labels.iter().filter(selected).count()
            }
            Object::WorkloadEndpoint(endpoint) => {
                usize::from(model.endpoints.contains_key(&endpoint.id()))
            }
            Object::HostEndpoint(endpoint) => endpoints()
                .filter(|spec| spec.plane.of_host() && spec.name == endpoint.name)
                .count(),
            Object::Namespace { name, .. } => {
                endpoints().filter(|spec| spec.namespace == *name).count()
            }
            _ => 0,
        };
        self.resources
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, entry)| StoredResource {
                name: name.clone(),
                resource: entry.value(),
                endpoints: selects(&entry.object),
            })
            .collect()
    }

    /// Answer to `GET /v1/status`.
    pub fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi_version: ABI_VERSION,
            revision: self.revision,
            uptime_seconds: self.started.elapsed().as_secs(),
            default_action: match self.model.settings.default_action {
                DefaultAction::Allow => "allow",
                DefaultAction::Deny => "deny",
            }
            .to_owned(),
            policies: self.model.policies.len(),
            endpoints_enforcing: self.count(EndpointState::Enforcing),
            endpoints_pending: self.count(EndpointState::Pending),
            endpoints_unsupported: self.count(EndpointState::Unsupported),
            endpoints_elsewhere: self.count(EndpointState::Elsewhere),
            components: self.components.clone(),
            features: self.features.clone(),
            maps: self.usage.clone(),
        }
    }
}

/// Who keeps records: parts of the agent that the event loop knows nothing of.
#[derive(Clone, Debug, Default)]
pub struct Keepers {
    /// The flow log, if there is one: its file, and how it does.
    pub flow_log: Option<(PathBuf, Arc<Ledger>)>,
    /// How the history does, if there is one.
    pub history: Option<Arc<history::Standing>>,
}

impl Keepers {
    /// How they do.
    pub fn components(&self) -> Vec<Component> {
        let flow_log = self.flow_log.iter().map(|(path, ledger)| flow_log::component(path, ledger));
        flow_log.chain(self.history.iter().map(|standing| standing.component())).collect()
    }
}

/// Entries in use of each map that a plan writes.
pub fn usage(compiler: &Compiler) -> Vec<MapUsage> {
    let (image, usage) = (compiler.image(), compiler.usage());
    let entry = |name: &str, used: usize, capacity: u32| MapUsage {
        name: name.to_owned(),
        used: used as u64,
        capacity: u64::from(capacity),
    };
    vec![
        entry(maps::ENDPOINTS, image.endpoints.len(), maps::MAX_ENDPOINTS),
        entry(maps::ADDRESSES_V4, usage.addresses[0], maps::MAX_ADDRESSES),
        entry(maps::ADDRESSES_V6, usage.addresses[1], maps::MAX_ADDRESSES),
        entry(maps::CIDRS_V4, usage.cidrs[0], maps::MAX_CIDRS),
        entry(maps::CIDRS_V6, usage.cidrs[1], maps::MAX_CIDRS),
        entry(maps::CLASSES, image.classes.len(), maps::MAX_CLASSES),
        MapUsage {
            name: maps::INTERVALS.to_owned(),
            used: usage.intervals,
            capacity: u64::from(maps::MAX_INTERVALS),
        },
        entry(maps::GUARD, image.guard.len(), maps::MAX_GUARD),
    ]
}
