//! What is accepted, but probably does not do what its author wants: what one resource alone shows.
//!
//! In: a valid resource, and the object that it became. Out: warnings with field paths. What other
//! resources and the endpoints show is told by `advice`.

use policy_api::{
    diagnostic::Diagnostic,
    resource::{
        IntOrString, Metadata, Resource,
        calico::{EntityRule, Rule as Wire},
        kubernetes::NetworkPolicySpec,
    },
};
use policy_common::abi::Direction;

use super::{
    Object,
    calico::{self, Directions},
    coverage::Reach,
    kubernetes, redundant,
};
use crate::{
    policy::{Action, Policy, PolicyKind, Rule},
    tiers::DEFAULT_TIER,
};

/// Conditions that are compared for one policy at most; beyond, nothing more is said. It is enough
/// to compare each of upstream's 1,024 rules with all before it.
const EFFORT: u32 = 2_000_000;

/// Warnings about a resource that is valid.
pub(super) fn warnings(resource: &Resource, object: &Object) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    match resource {
        Resource::NetworkPolicy(policy) | Resource::StagedNetworkPolicy(policy) => {
            if let Some(spec) = &policy.spec {
                let rules = [spec.ingress.as_deref(), spec.egress.as_deref()];
                calico_policy(object, spec.types.as_deref(), rules, &mut found);
                other_tier(policy.metadata.as_ref(), spec.tier.as_deref(), &mut found);
            }
        }
        Resource::GlobalNetworkPolicy(policy) | Resource::StagedGlobalNetworkPolicy(policy) => {
            if let Some(spec) = &policy.spec {
                let rules = [spec.ingress.as_deref(), spec.egress.as_deref()];
                calico_policy(object, spec.types.as_deref(), rules, &mut found);
                other_tier(policy.metadata.as_ref(), spec.tier.as_deref(), &mut found);
            }
        }
        Resource::KubernetesNetworkPolicy(policy)
        | Resource::StagedKubernetesNetworkPolicy(policy) => {
            if let Some(spec) = &policy.spec {
                kubernetes_policy(object, spec, &mut found);
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

/// `rules` are those of ingress and egress.
fn calico_policy(
    object: &Object,
    types: Option<&[String]>,
    rules: [Option<&[Wire]>; 2],
    found: &mut Vec<Diagnostic>,
) {
    let [ingress, egress] = rules;
    let directions = calico::directions(types, ingress, egress, None);
    let rules = rules.map(Option::unwrap_or_default);
    inactive(directions, rules.map(<[Wire]>::len), "spec.types", found);
    // Who writes the types means them.
    if types.is_none() && !directions.ingress {
        found.push(
            Diagnostic::warning(
                "spec",
                "traffic into the endpoints stays open: the policy is about egress only, as it has \
                 no other rules",
            )
            .with_hint("write `types: [Egress]` if that is meant, else `types: [Ingress, Egress]`"),
        );
    }
    for (path, rules) in [("spec.ingress", rules[0]), ("spec.egress", rules[1])] {
        for (index, rule) in rules.iter().enumerate() {
            for (name, side) in [("source", &rule.source), ("destination", &rule.destination)] {
                if let Some(side) = side {
                    lists(&format!("{path}[{index}].{name}"), side, found);
                }
            }
        }
    }
    if let Object::Policy(policy) = object {
        let spelling = |direction: Direction, index: usize| {
            rules[direction as usize].get(index).and_then(|rule| rule.protocol.as_ref())
        };
        dead_rules(policy, spelling, EFFORT, found);
    }
}

/// Lists in which an entry says nothing.
fn lists(path: &str, side: &EntityRule, found: &mut Vec<Diagnostic>) {
    for (name, nets) in [("nets", &side.nets), ("notNets", &side.not_nets)] {
        let nets = nets.as_deref().unwrap_or_default();
        found.extend(redundant::nets(&format!("{path}.{name}"), nets));
    }
    for (name, ports) in [("ports", &side.ports), ("notPorts", &side.not_ports)] {
        let ports = ports.as_deref().unwrap_or_default();
        found.extend(redundant::ports(&format!("{path}.{name}"), ports));
    }
}

/// Rules that no packet can match or reach. `spelling` is how a rule writes its protocol, `effort`
/// the number of conditions to compare at most.
pub(super) fn dead_rules<'a>(
    policy: &Policy,
    spelling: impl Fn(Direction, usize) -> Option<&'a IntOrString>,
    mut effort: u32,
    found: &mut Vec<Diagnostic>,
) {
    for (direction, path) in
        [(Direction::Ingress, "spec.ingress"), (Direction::Egress, "spec.egress")]
    {
        let rules = policy.rules(direction).unwrap_or_default();
        if !rules.is_empty() && !rules.iter().any(|rule| ends_the_walk(rule.action)) {
            found.push(only_logs(path, &policy.tier));
        }
        let reaches: Vec<Reach<'_>> = rules.iter().map(Reach::of).collect();
        // What the author wrote as one rule may be several here; all of them must be dead.
        let same = |a: &Rule, b: &Rule| a.index == b.index;
        let mut start = 0;
        for written in rules.chunk_by(same) {
            let (before, from) = reaches.split_at(start);
            start += written.len();
            let (Some(rule), Some(own)) = (written.first(), from.get(..written.len())) else {
                continue;
            };
            if effort == 0 {
                return;
            }
            let path = format!("{path}[{}]", rule.index);
            let nothing: Vec<_> = own.iter().filter_map(|it| it.nothing(&mut effort)).collect();
            if let Some(why) = nothing.first().filter(|_| nothing.len() == own.len()) {
                let field = if rule_is_whole(policy, &why.field) {
                    path
                } else {
                    format!("{path}.{}", why.field)
                };
                found.push(
                    Diagnostic::warning(
                        field,
                        format!("the rule matches nothing: {}", why.message),
                    )
                    .with_hint("loosen one of the conditions, or remove the rule"),
                );
                continue;
            }
            let decides = |reach: &&Reach<'_>| ends_the_walk(reach.rule().action);
            let mut covering = own.iter().map(|later| {
                before
                    .iter()
                    .filter(decides)
                    .find(|earlier| earlier.covers(later, direction, &mut effort))
            });
            let Some(Some(first)) = covering.next() else { continue };
            if !covering.all(|other| other.is_some()) {
                continue;
            }
            let spellings = [first.rule().index, rule.index].map(|at| spelling(direction, at));
            found.push(covered(path, rule, first, spellings));
            if first.is_everything() {
                // Nor does any packet reach the others.
                break;
            }
        }
    }
}

/// Whether a finding is about a rule as a whole. What is one rule to the author of a Kubernetes
/// policy has other fields than ours.
fn rule_is_whole(policy: &Policy, field: &str) -> bool {
    field.is_empty() || policy.key.kind.enforced() == PolicyKind::KubernetesNetworkPolicy
}

/// Whether a packet that matches is done with, in its tier at least.
pub(super) fn ends_the_walk(action: Action) -> bool {
    match action {
        Action::Allow | Action::Deny | Action::Pass => true,
        Action::Log => false,
    }
}

fn only_logs(path: &str, tier: &str) -> Diagnostic {
    let message = format!(
        "the rules only log: what no other policy decides is then denied at the end of the tier \
         `{tier}`, unless its defaultAction is Pass"
    );
    Diagnostic::warning(path, message).with_hint("put an Allow or Pass rule behind them")
}

fn covered(
    path: String,
    rule: &Rule,
    first: &Reach<'_>,
    spellings: [Option<&IntOrString>; 2],
) -> Diagnostic {
    let (index, action) = (first.rule().index, first.rule().action);
    let mut message = if first.is_everything() {
        format!("no packet reaches this rule: rule {index} matches everything")
    } else {
        format!("no packet reaches this rule: rule {index} matches all that it matches")
    };
    if let [Some(one), Some(other)] = spellings
        && one != other
        && first.rule().protocol == rule.protocol
    {
        message.push_str(&format!(" (`{one}` and `{other}` are one protocol)"));
    }
    let hint = if first.is_everything() {
        "put the rule that matches everything last".to_owned()
    } else if action == rule.action {
        "remove it; the policy decides the same without".to_owned()
    } else {
        format!("put it before rule {index} if it is to count, or remove it")
    };
    Diagnostic::warning(path, message).with_hint(hint)
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

fn kubernetes_policy(object: &Object, spec: &NetworkPolicySpec, found: &mut Vec<Diagnostic>) {
    let directions = kubernetes::directions(spec, None);
    let counts =
        [spec.ingress.as_ref().map_or(0, Vec::len), spec.egress.as_ref().map_or(0, Vec::len)];
    inactive(directions, counts, "spec.policyTypes", found);
    let ingress = spec.ingress.iter().flatten().map(|rule| &rule.ports);
    let egress = spec.egress.iter().flatten().map(|rule| &rule.ports);
    for (path, index, ports) in ingress
        .enumerate()
        .map(|(index, ports)| ("spec.ingress", index, ports))
        .chain(egress.enumerate().map(|(index, ports)| ("spec.egress", index, ports)))
    {
        let ports = ports.as_deref().unwrap_or_default();
        found.extend(redundant::kubernetes_ports(&format!("{path}[{index}].ports"), ports));
    }
    if let Object::Policy(policy) = object {
        dead_rules(policy, |_, _| None, EFFORT, found);
    }
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
}
