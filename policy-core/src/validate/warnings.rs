//! What is accepted, but probably does not do what its author wants.

use policy_api::{
    diagnostic::Diagnostic,
    resource::{
        Metadata, Resource,
        calico::{EntityRule, Rule},
        kubernetes::NetworkPolicySpec,
    },
};

use super::{
    calico::{self, Directions},
    kubernetes,
};
use crate::tiers::DEFAULT_TIER;

/// Warnings about a resource that is valid.
pub fn warnings(resource: &Resource) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    match resource {
        Resource::NetworkPolicy(policy) | Resource::StagedNetworkPolicy(policy) => {
            if let Some(spec) = &policy.spec {
                let (ingress, egress) = (spec.ingress.as_deref(), spec.egress.as_deref());
                calico_policy(spec.types.as_deref(), ingress, egress, &mut found);
                other_tier(policy.metadata.as_ref(), spec.tier.as_deref(), &mut found);
            }
        }
        Resource::GlobalNetworkPolicy(policy) | Resource::StagedGlobalNetworkPolicy(policy) => {
            if let Some(spec) = &policy.spec {
                let (ingress, egress) = (spec.ingress.as_deref(), spec.egress.as_deref());
                calico_policy(spec.types.as_deref(), ingress, egress, &mut found);
                other_tier(policy.metadata.as_ref(), spec.tier.as_deref(), &mut found);
            }
        }
        Resource::KubernetesNetworkPolicy(policy)
        | Resource::StagedKubernetesNetworkPolicy(policy) => {
            if let Some(spec) = &policy.spec {
                kubernetes_policy(spec, &mut found);
            }
        }
        Resource::Tier(_)
        | Resource::NetworkSet(_)
        | Resource::GlobalNetworkSet(_)
        | Resource::WorkloadEndpoint(_)
        | Resource::HostEndpoint(_)
        | Resource::Namespace(_) => {}
    }
    found
}

fn calico_policy(
    types: Option<&[String]>,
    ingress: Option<&[Rule]>,
    egress: Option<&[Rule]>,
    found: &mut Vec<Diagnostic>,
) {
    let directions = calico::directions(types, ingress, egress, None);
    let counts = [ingress, egress].map(|rules| rules.map_or(0, <[Rule]>::len));
    inactive(directions, counts, "spec.types", found);
    for (path, rules) in [("spec.ingress", ingress), ("spec.egress", egress)] {
        let rules = rules.unwrap_or_default();
        let catch_all = rules.iter().position(catches_all);
        if let Some(first) = catch_all.filter(|first| first + 1 < rules.len()) {
            found.push(
                Diagnostic::warning(
                    format!("{path}[{}]", first + 1),
                    format!("no packet reaches this rule: rule {first} matches everything"),
                )
                .with_hint("put the rule that matches everything last"),
            );
        }
    }
}

/// Upstream once asked for the tier in front of a policy's name (before calico 3.32); today only
/// `spec.tier` counts.
fn other_tier(metadata: Option<&Metadata>, tier: Option<&str>, found: &mut Vec<Diagnostic>) {
    let tier = tier.filter(|tier| !tier.is_empty()).unwrap_or(DEFAULT_TIER);
    let name = metadata.and_then(|metadata| metadata.name.as_deref()).unwrap_or_default();
    if let Some((prefix, _)) = name.split_once('.')
        && prefix != tier
    {
        found.push(
            Diagnostic::warning(
                "metadata.name",
                format!("the name begins with `{prefix}.`, but the policy is in the tier `{tier}`"),
            )
            .with_hint(format!("for the tier `{prefix}`, write `tier: {prefix}` in `spec`")),
        );
    }
}

fn kubernetes_policy(spec: &NetworkPolicySpec, found: &mut Vec<Diagnostic>) {
    let directions = kubernetes::directions(spec, None);
    let counts =
        [spec.ingress.as_ref().map_or(0, Vec::len), spec.egress.as_ref().map_or(0, Vec::len)];
    inactive(directions, counts, "spec.policyTypes", found);
}

/// `counts` are the numbers of ingress and egress rules.
fn inactive(directions: Directions, counts: [usize; 2], types: &str, found: &mut Vec<Diagnostic>) {
    let [ingress, egress] = counts;
    for (path, name, active, count) in [
        ("spec.ingress", "Ingress", directions.ingress, ingress),
        ("spec.egress", "Egress", directions.egress, egress),
    ] {
        if !active && count > 0 {
            found.push(
                Diagnostic::warning(path, format!("the rules have no effect without type {name}"))
                    .with_hint(format!("add {name} to `{types}`, or remove the rules")),
            );
        }
    }
    if directions == (Directions { ingress: false, egress: true }) && ingress == 0 {
        found.push(
            Diagnostic::warning(
                "spec",
                "traffic into the endpoints stays open: the policy is \
                 about egress only",
            )
            .with_hint(format!("add Ingress to `{types}`, or have another policy for it")),
        );
    }
}

/// Whether a rule decides without any condition.
fn catches_all(rule: &Rule) -> bool {
    let free =
        |side: &Option<EntityRule>| side.as_ref().is_none_or(|side| *side == EntityRule::default());
    rule.action.as_deref() != Some("Log")
        && rule.ip_version.is_none()
        && rule.protocol.is_none()
        && rule.not_protocol.is_none()
        && rule.icmp.is_none()
        && rule.not_icmp.is_none()
        && free(&rule.source)
        && free(&rule.destination)
}
