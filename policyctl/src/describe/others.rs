//! Tiers, network sets and namespaces.

use std::collections::BTreeMap;

use policy_api::messages::{ResourceName, StoredResource};
use policy_core::policy::{Direction, EntityMatch, Policy, StagedAction};
use policy_core::{identity, model, names, tiers};
use serde::Serialize;

use super::policy::staged;
use super::{EndpointName, Picture, PolicyName, TierEnd};

/// A tier.
#[derive(Debug, Serialize)]
pub(crate) struct Tier {
    #[serde(flatten)]
    pub(crate) tier: TierEnd,
    /// Whether it exists without a resource.
    pub(crate) built_in: bool,
    /// Its policies, in order; first those at the uplinks (`doNotTrack`).
    pub(crate) policies: Vec<Member>,
    /// Packets that its end denied; `None` while no endpoint's policy ends there.
    pub(crate) denied_packets: Option<u64>,
    /// Their bytes.
    pub(crate) denied_bytes: Option<u64>,
}

/// A policy of a tier.
#[derive(Debug, Serialize)]
pub(crate) struct Member {
    #[serde(flatten)]
    pub(crate) name: PolicyName,
    /// Place in the tier; `None` is last.
    pub(crate) order: Option<f64>,
    /// `ingress`, `egress`.
    pub(crate) types: Vec<&'static str>,
    /// `Set` or `Delete` for a staged policy, which is not in force.
    pub(crate) staged: Option<&'static str>,
    /// Number of endpoints that it applies to now.
    pub(crate) endpoints: usize,
}

/// A network set.
#[derive(Debug, Serialize)]
pub(crate) struct NetworkSet {
    #[serde(flatten)]
    pub(crate) name: ResourceName,
    /// What selectors of rules match.
    pub(crate) labels: BTreeMap<String, String>,
    /// Masked, sorted, distinct.
    pub(crate) nets: Vec<String>,
    /// Rules that it matters to.
    pub(crate) used_by: Vec<Use>,
}

/// A rule that a network set matters to.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Use {
    #[serde(flatten)]
    pub(crate) policy: PolicyName,
    /// `ingress[2]`.
    pub(crate) rule: String,
    /// `source` or `destination`.
    pub(crate) side: &'static str,
    /// `true` if the rule is about everybody else.
    pub(crate) excluded: bool,
}

/// A namespace.
#[derive(Debug, Serialize)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    /// What namespace selectors match.
    pub(crate) labels: BTreeMap<String, String>,
    /// Endpoints in it.
    pub(crate) endpoints: Vec<EndpointName>,
    /// Policies in it.
    pub(crate) policies: Vec<PolicyName>,
    /// Names of the network sets in it.
    pub(crate) network_sets: Vec<String>,
}

impl Picture {
    pub(super) fn tier(&self, tier: &tiers::Tier) -> Tier {
        let labels: Vec<_> = self.labelled().map(|(_, labels)| labels).collect();
        let member = |policy: &Policy| Member {
            name: PolicyName::from(&policy.key),
            order: policy.order.0,
            types: [Direction::Ingress, Direction::Egress]
                .into_iter()
                .filter(|direction| policy.rules(*direction).is_some())
                .map(names::direction)
                .collect(),
            staged: policy.staged.map(staged),
            endpoints: match policy.staged {
                Some(StagedAction::Delete) => 0,
                _ => labels.iter().filter(|labels| policy.subject.matches(labels)).count(),
            },
        };
        let untracked = tiers::untracked(&self.model);
        let untracked = untracked.into_iter().filter(|policy| policy.tier == tier.name);
        let listed = tiers::listed(&self.model, tier).into_iter().map(|listed| listed.policy);
        // What would take a policy away is on no packet's way.
        let deletions = self.model.policies.values().filter(|policy| {
            policy.tier == tier.name && policy.staged == Some(StagedAction::Delete)
        });
        let policies = untracked.chain(listed).chain(deletions);
        let end = names::tier_default(&tier.name);
        let count = self.counts.iter().find(|count| count.rule == end);
        Tier {
            tier: TierEnd::from(tier),
            built_in: tiers::built_in(&tier.name).is_some(),
            policies: policies.map(|policy| member(policy)).collect(),
            denied_packets: count.map(|count| count.packets),
            denied_bytes: count.map(|count| count.bytes),
        }
    }

    pub(super) fn network_set(
        &self,
        stored: &StoredResource,
        set: &model::NetworkSet,
    ) -> NetworkSet {
        let labels = identity::network_set_labels(&self.model, set);
        // Whether a side of a rule turns on the set, and if so whether it leaves the set out.
        let excluded = |side: &EntityMatch| {
            let not = side.not_selector.as_ref().is_some_and(|not| not.matches(&labels));
            let selected = side.selector.as_ref().is_some_and(|it| it.matches(&labels));
            (selected || side.selector.is_none() && not).then_some(not)
        };
        let mut used_by: Vec<Use> = Vec::new();
        for policy in self.model.policies.values() {
            for direction in [Direction::Ingress, Direction::Egress] {
                for rule in policy.rules(direction).unwrap_or_default() {
                    let sides = [("source", &rule.source), ("destination", &rule.destination)];
                    used_by.extend(sides.into_iter().filter_map(|(side, entity)| {
                        Some(Use {
                            policy: PolicyName::from(&policy.key),
                            rule: format!("{}[{}]", names::direction(direction), rule.index),
                            side,
                            excluded: excluded(entity)?,
                        })
                    }));
                }
            }
        }
        // A Kubernetes rule with several peers is several of ours.
        used_by.dedup();
        NetworkSet {
            name: stored.name.clone(),
            labels: set.labels.to_map(),
            nets: set.nets.iter().map(ToString::to_string).collect(),
            used_by,
        }
    }

    /// A namespace that has a document, or something in it.
    pub(super) fn namespace(&self, name: &str) -> Option<Namespace> {
        let endpoints = self.model.endpoints.values().filter(|it| it.namespace == name);
        let endpoints: Vec<_> = endpoints.map(|it| EndpointName::from(it.as_ref())).collect();
        let policies = self.model.policies.keys().filter(|it| it.namespace == name);
        let policies: Vec<_> = policies.map(PolicyName::from).collect();
        let sets = self.model.network_sets.keys().filter(|(namespace, _)| namespace == name);
        let network_sets: Vec<_> = sets.map(|(_, name)| name.clone()).collect();
        let exists = self.model.namespaces.contains_key(name)
            || !(endpoints.is_empty() && policies.is_empty() && network_sets.is_empty());
        exists.then(|| Namespace {
            name: name.to_owned(),
            labels: identity::namespace_labels(&self.model, name).to_map(),
            endpoints,
            policies,
            network_sets,
        })
    }
}
