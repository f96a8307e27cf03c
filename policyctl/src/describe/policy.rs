//! A policy: where it stands, whom it selects, its rules as sentences with what they decided.

use std::collections::BTreeMap;

use policy_api::diagnostic::Diagnostic;
use policy_api::messages::{ResourceName, StagedFlows, StoredResource};
use policy_core::names;
use policy_core::policy::{Direction, StagedAction};
use policy_core::tiers;
use policy_core::validate;
use serde::{Deserialize, Serialize};

use super::{EndpointName, Picture, TierEnd, sentence};

/// A policy.
#[derive(Debug, Serialize)]
pub(crate) struct Policy {
    #[serde(flatten)]
    pub(crate) name: ResourceName,
    pub(crate) tier: TierEnd,
    /// Place in the tier; `None` is last.
    pub(crate) order: Option<f64>,
    /// Whom it applies to, in Calico's words.
    pub(crate) selects: String,
    /// `Set` or `Delete` for a staged policy, which is not in force.
    pub(crate) staged: Option<&'static str>,
    /// Enforced at the uplinks, not on endpoints.
    pub(crate) untracked: bool,
    /// Rules for traffic into the endpoints; `None` if the policy has no say on it.
    pub(crate) ingress: Option<Vec<Rule>>,
    /// Rules for traffic out of them.
    pub(crate) egress: Option<Vec<Rule>>,
    /// Endpoints that it applies to now.
    pub(crate) endpoints: Vec<EndpointName>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// What looks wrong about it.
    pub(crate) warnings: Vec<Diagnostic>,
}

/// A rule.
#[derive(Debug, Serialize)]
pub(crate) struct Rule {
    /// `ingress[2]`, or `new-flows` for the limit of an untracked policy.
    pub(crate) rule: String,
    /// As a sentence.
    pub(crate) text: String,
    /// Packets that it decided; `None` while no endpoint's policy holds it.
    pub(crate) packets: Option<u64>,
    /// Their bytes.
    pub(crate) bytes: Option<u64>,
    /// New flows that it would decide if the staged policies were in force.
    pub(crate) staged: Option<StagedFlows>,
}

/// What a staged policy would do, in its author's words.
pub(super) fn staged(action: StagedAction) -> &'static str {
    match action {
        StagedAction::Set => "Set",
        StagedAction::Delete => "Delete",
    }
}

impl Picture {
    pub(super) fn policy(
        &self,
        stored: &StoredResource,
        policy: &policy_core::policy::Policy,
    ) -> Policy {
        let tiers = tiers::of(&self.model);
        // Every tier that a policy names is among them.
        let tier = tiers.iter().find(|tier| tier.name == policy.tier).map(TierEnd::from);
        let selected = self.labelled().filter(|(_, labels)| policy.subject.matches(labels));
        let warnings = validate::decode_with_warnings(&stored.resource);
        let rules = |direction| {
            policy.rules(direction).map(|_| self.rules(stored, policy, names::direction(direction)))
        };
        Policy {
            name: stored.name.clone(),
            tier: tier.unwrap_or_else(|| TierEnd {
                name: policy.tier.clone(),
                order: None,
                default_action: "Deny",
            }),
            order: policy.order.0,
            selects: selects(stored),
            staged: policy.staged.map(staged),
            untracked: policy.untracked,
            ingress: rules(Direction::Ingress),
            egress: rules(Direction::Egress),
            endpoints: selected.map(|(spec, _)| EndpointName::from(spec)).collect(),
            annotations: texts(&stored.resource["metadata"]["annotations"]),
            warnings: warnings.map(|(_, warnings)| warnings).unwrap_or_default(),
        }
    }

    fn rules(
        &self,
        stored: &StoredResource,
        policy: &policy_core::policy::Policy,
        direction: &str,
    ) -> Vec<Rule> {
        // What the agent holds has been validated, and here once more.
        let sentences = sentence::rules(stored, direction).unwrap_or_default();
        let key = &policy.key;
        let limit = policy.new_flows.filter(|_| direction == names::direction(Direction::Ingress));
        let limit = limit.map(|limit| (names::new_flows(policy).rule, sentence::limit(limit)));
        let written = sentences.into_iter().enumerate();
        let written = written.map(|(index, text)| (format!("{direction}[{index}]"), text));
        let described = written.chain(limit).map(|(rule, text)| {
            let count = self.counts.iter().find(|count| {
                let named = &count.rule;
                named.rule == rule
                    && named.policy == key.name
                    && named.namespace == key.namespace
                    && named.kind == key.kind.name()
            });
            Rule {
                rule,
                text,
                packets: count.map(|count| count.packets),
                bytes: count.map(|count| count.bytes),
                staged: count.map(|count| count.staged),
            }
        });
        described.collect()
    }
}

/// Labels or annotations of a resource.
pub(super) fn texts(value: &serde_json::Value) -> BTreeMap<String, String> {
    Option::deserialize(value).ok().flatten().unwrap_or_default()
}

/// Whom a policy applies to, as its author wrote it.
fn selects(stored: &StoredResource) -> String {
    let spec = &stored.resource["spec"];
    let text = |field: &str| {
        let words: Vec<&str> = spec[field].as_str()?.split_whitespace().collect();
        (!words.is_empty()).then(|| words.join(" "))
    };
    let own = if sentence::is_kubernetes(stored) {
        let selector = Option::deserialize(&spec["podSelector"]).ok().flatten();
        sentence::label_selector(&selector.unwrap_or_default())
    } else {
        text("selector").unwrap_or_else(|| "all()".to_owned())
    };
    match (&stored.name.namespace, text("namespaceSelector")) {
        (Some(namespace), _) => format!("{own} in namespace {namespace}"),
        (None, Some(namespaces)) => format!("{own} in namespaces with {namespaces}"),
        (None, None) => own,
    }
}
