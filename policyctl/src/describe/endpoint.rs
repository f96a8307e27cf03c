//! An endpoint: who it is, and which policies decide there, in the order in which they are asked.

use std::collections::BTreeSet;

use policy_api::messages::EndpointStatus;
use policy_core::labels::Labels;
use policy_core::model::{DefaultAction, EndpointSpec};
use policy_core::policy::Direction;
use policy_core::tiers::{self, Listed};
use serde::Serialize;

use super::{Picture, PolicyName, TierEnd};

/// An endpoint.
#[derive(Debug, Serialize)]
pub(crate) struct Endpoint {
    #[serde(flatten)]
    pub(crate) status: EndpointStatus,
    /// Tiers that have a say on traffic into it, in order; `None` if nothing is enforced on it yet.
    pub(crate) ingress: Option<Vec<Step>>,
    /// Tiers that have a say on traffic out of it.
    pub(crate) egress: Option<Vec<Step>>,
    /// `allow` or `deny`: what becomes of what no tier decided.
    pub(crate) default_action: &'static str,
}

/// A tier of which a policy applies.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) tier: TierEnd,
    /// Policies that apply, in order.
    pub(crate) policies: Vec<Applied>,
}

/// A policy that applies.
#[derive(Debug, Serialize)]
pub(crate) struct Applied {
    #[serde(flatten)]
    pub(crate) name: PolicyName,
    /// Rules for this direction.
    pub(crate) rules: usize,
    /// Whether it decides; staged policies do not.
    pub(crate) enforced: bool,
    /// Whether it would decide if the staged policies were in force.
    pub(crate) pending: bool,
}

impl Picture {
    pub(super) fn endpoint(&self, status: &EndpointStatus) -> Endpoint {
        let same = |(spec, _): &(&EndpointSpec, Labels)| {
            (&spec.namespace, &spec.name, &spec.network, &spec.addresses)
                == (&status.namespace, &status.name, &status.network, &status.addresses)
        };
        let labels = self.labelled().find(same).map(|(_, labels)| labels);
        let steps = |direction| labels.as_ref().map(|it| self.steps(it, direction));
        Endpoint {
            status: status.clone(),
            ingress: steps(Direction::Ingress),
            egress: steps(Direction::Egress),
            default_action: match self.model.settings.default_action {
                DefaultAction::Allow => "allow",
                DefaultAction::Deny => "deny",
            },
        }
    }

    fn steps(&self, labels: &Labels, direction: Direction) -> Vec<Step> {
        let step = |tier: &tiers::Tier| {
            let policies: Vec<Applied> = tiers::listed(&self.model, tier)
                .into_iter()
                .filter(|listed| listed.policy.subject.matches(labels))
                .filter_map(|Listed { policy, enforced, pending }| {
                    // A Kubernetes rule with several peers is several of ours.
                    let rules = policy.rules(direction)?.iter().map(|rule| rule.index);
                    let rules = rules.collect::<BTreeSet<_>>().len();
                    let name = PolicyName::from(&policy.key);
                    Some(Applied { name, rules, enforced, pending })
                })
                .collect();
            (!policies.is_empty()).then(|| Step { tier: TierEnd::from(tier), policies })
        };
        tiers::of(&self.model).iter().filter_map(step).collect()
    }
}
