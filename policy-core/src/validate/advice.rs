//! What is accepted, but does not do what its author wants as things stand: what only the whole
//! model shows.
//!
//! In: a [`Model`], and the resources to speak of, usually those that were just applied. Out:
//! warnings with field paths: selectors that nothing has the labels for, rules that only empty
//! network sets could match, and policies behind one that decides everything for their endpoints.
//!
//! Label sets are indexed, and a selector that many policies share is looked up once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use policy_api::{diagnostic::Diagnostic, messages::ResourceName, resource::Kind};
use policy_common::abi::Direction;

use super::{coverage::is_everything, warnings::ends_the_walk};
use crate::{
    labels::NAMESPACE_LABEL,
    model::{Model, NetworkSet},
    policy::{Action, Policy, PolicyKey, PolicyKind, Rule, StagedAction},
    selector::Selector,
    tiers,
};

const WAYS: [(Direction, &str); 2] =
    [(Direction::Ingress, "spec.ingress"), (Direction::Egress, "spec.egress")];

mod entities;

use entities::Entities;

/// Policies, and the resources that they come from.
const KINDS: [(PolicyKind, Kind); 6] = [
    (PolicyKind::GlobalNetworkPolicy, Kind::GlobalNetworkPolicy),
    (PolicyKind::NetworkPolicy, Kind::NetworkPolicy),
    (PolicyKind::KubernetesNetworkPolicy, Kind::KubernetesNetworkPolicy),
    (PolicyKind::StagedGlobalNetworkPolicy, Kind::StagedGlobalNetworkPolicy),
    (PolicyKind::StagedNetworkPolicy, Kind::StagedNetworkPolicy),
    (PolicyKind::StagedKubernetesNetworkPolicy, Kind::StagedKubernetesNetworkPolicy),
];

/// Warnings about the resources `of` in the model. Names of other kinds, and of what is not in the
/// model, are passed over.
pub fn advice(model: &Model, of: &BTreeSet<ResourceName>) -> Vec<(ResourceName, Diagnostic)> {
    let policies = of.iter().filter_map(|name| Some((name, policy(model, name)?)));
    // What takes a policy away says nothing itself.
    let named: Vec<(&ResourceName, &Policy)> =
        policies.filter(|(_, policy)| policy.staged != Some(StagedAction::Delete)).collect();
    let sets = of.iter().filter_map(|name| Some((name, network_set(model, name)?)));
    let emptied: Vec<(&ResourceName, &NetworkSet)> =
        sets.filter(|(_, set)| set.nets.is_empty()).collect();
    if named.is_empty() && emptied.is_empty() {
        return Vec::new();
    }

    let mut entities = Entities::of(model);
    let decided = Decided::of(model);
    let mut found = Vec::new();
    for (name, policy) in &named {
        let mut about = Vec::new();
        about.extend(subject(policy, model, &mut entities));
        peers(policy, &mut entities, &mut about);
        decided.behind(policy, &mut about);
        found.extend(about.into_iter().map(|it| ((*name).clone(), it)));
    }
    if !emptied.is_empty() {
        let spoken_of: BTreeSet<&PolicyKey> = named.iter().map(|(_, policy)| &policy.key).collect();
        let others = model.policies.values().filter(|policy| !spoken_of.contains(&policy.key));
        let mut needed: BTreeMap<(&str, &str), String> = BTreeMap::new();
        for policy in others {
            for (path, selector) in denied(policy) {
                for set in entities.picked(selector).only_empty() {
                    needed
                        .entry((&set.namespace, &set.name))
                        .or_insert_with(|| format!("{} ({path})", policy.key));
                }
            }
        }
        for (name, set) in emptied {
            if let Some(rule) = needed.get(&(set.namespace.as_str(), set.name.as_str())) {
                found.push((
                    name.clone(),
                    Diagnostic::warning(
                        "spec.nets",
                        format!("the set has no networks, so a rule of {rule} denies nothing"),
                    )
                    .with_hint("list the networks that are to be denied"),
                ));
            }
        }
    }
    found
}

fn policy<'a>(model: &'a Model, name: &ResourceName) -> Option<&'a Policy> {
    let resource = (name.api_version.as_str(), name.kind.as_str());
    let (kind, _) = KINDS.into_iter().find(|(_, kind)| kind.names() == resource)?;
    let namespace = name.namespace.clone().unwrap_or_default();
    model.policies.get(&PolicyKey { name: name.name.clone(), namespace, kind }).map(AsRef::as_ref)
}

fn network_set<'a>(model: &'a Model, name: &ResourceName) -> Option<&'a NetworkSet> {
    let resource = (name.api_version.as_str(), name.kind.as_str());
    let sets = [Kind::NetworkSet, Kind::GlobalNetworkSet];
    sets.into_iter().find(|kind| kind.names() == resource)?;
    let key = (name.namespace.clone().unwrap_or_default(), name.name.clone());
    model.network_sets.get(&key).map(AsRef::as_ref)
}

/// Whether a policy applies to anything.
fn subject<'a>(
    policy: &'a Policy,
    model: &Model,
    entities: &mut Entities<'a>,
) -> Option<Diagnostic> {
    let kubernetes = policy.key.kind.enforced() == PolicyKind::KubernetesNetworkPolicy;
    let path = if kubernetes { "spec.podSelector" } else { "spec.selector" };
    if policy.untracked {
        let applies = model.uplinks.values().any(|labels| policy.subject.matches(labels));
        return (!applies).then(|| {
            Diagnostic::warning(path, "the policy has no effect now: it selects no uplink")
                .with_hint("compare the selector with the labels of the agent's uplinks")
        });
    }
    (entities.populated && !entities.picked(&policy.subject).endpoint).then(|| {
        Diagnostic::warning(path, "the policy has no effect now: it selects no endpoint")
            .with_hint(COMPARE)
    })
}

const COMPARE: &str = "compare the selector with the labels that `policyctl endpoints` shows";

/// Rules whose selectors pick nobody.
fn peers<'a>(policy: &'a Policy, entities: &mut Entities<'a>, found: &mut Vec<Diagnostic>) {
    let mut said: BTreeSet<(String, String)> = BTreeSet::new();
    for (rule, path, selector) in selectors(policy) {
        let picked = entities.picked(selector);
        let met = if policy.untracked { picked.networks } else { picked.peer };
        if met {
            continue;
        }
        let effect = match rule.action {
            Action::Deny => "the rule denies nothing now",
            Action::Allow => "the rule allows nothing now",
            Action::Pass => "the rule passes nothing on now",
            Action::Log => "the rule logs nothing now",
        };
        let (message, hint) = if !picked.empty.is_empty() {
            let sets: Vec<&str> = picked.empty.iter().map(|set| set.name.as_str()).collect();
            let message = format!(
                "{effect}: `{selector}` picks only network sets without networks, {}",
                sets.join(", ")
            );
            (message, "list networks in the set, or correct the selector")
        } else if policy.untracked {
            let message = format!("{effect}: `{selector}` picks no network set");
            (message, "apply a GlobalNetworkSet with these labels, or correct the selector")
        } else if entities.populated {
            let message = format!("{effect}: `{selector}` picks no endpoint and no network set");
            (message, COMPARE)
        } else {
            continue;
        };
        if said.insert((path.clone(), message.clone())) {
            found.push(Diagnostic::warning(path, message).with_hint(hint));
        }
    }
}

/// The selectors of both sides of each rule, with their field path.
fn selectors(policy: &Policy) -> impl Iterator<Item = (&Rule, String, &Selector)> {
    let kubernetes = policy.key.kind.enforced() == PolicyKind::KubernetesNetworkPolicy;
    let rules = WAYS.into_iter().flat_map(|(direction, path)| {
        let rules = policy.rules(direction).unwrap_or_default();
        rules.iter().map(move |rule| (direction, path, rule))
    });
    rules.flat_map(move |(direction, path, rule)| {
        let sides = [("source", &rule.source), ("destination", &rule.destination)];
        sides.into_iter().filter_map(move |(name, side)| {
            let index = rule.index;
            let path = match direction {
                Direction::Ingress if kubernetes => format!("{path}[{index}].from"),
                Direction::Egress if kubernetes => format!("{path}[{index}].to"),
                Direction::Ingress | Direction::Egress => {
                    format!("{path}[{index}].{name}.selector")
                }
            };
            Some((rule, path, side.selector.as_ref()?))
        })
    })
}

/// The selectors of Deny rules.
fn denied(policy: &Policy) -> impl Iterator<Item = (String, &Selector)> {
    selectors(policy)
        .filter(|(rule, ..)| rule.action == Action::Deny)
        .map(|(_, path, selector)| (path, selector))
}

/// Policies that decide every packet of the endpoints that they apply to: the first of a tier for
/// each choice of endpoints.
struct Decided<'a>(HashMap<(&'a str, &'a Selector, Direction), &'a Policy>);

impl<'a> Decided<'a> {
    fn of(model: &'a Model) -> Decided<'a> {
        let mut first: HashMap<_, &'a Policy> = HashMap::new();
        for policy in
            model.policies.values().filter(|policy| !policy.untracked && policy.staged.is_none())
        {
            for (direction, _) in WAYS {
                let mut rules = policy.rules(direction).unwrap_or_default().iter();
                if rules.any(|rule| is_everything(rule) && ends_the_walk(rule.action)) {
                    let known = first
                        .entry((policy.tier.as_str(), &policy.subject, direction))
                        .or_insert(policy);
                    if tiers::compare(policy, known).is_lt() {
                        *known = policy;
                    }
                }
            }
        }
        Decided(first)
    }

    /// Whether a policy stands behind one that decides everything for the same endpoints, for its
    /// whole namespace, or for all.
    fn behind(&self, policy: &Policy, found: &mut Vec<Diagnostic>) {
        if policy.untracked {
            return;
        }
        let (namespace, everyone) =
            (Selector::equal(NAMESPACE_LABEL, &*policy.key.namespace), Selector::all());
        for (direction, path) in WAYS {
            if policy.rules(direction).is_none() {
                continue;
            }
            let before = [&policy.subject, &namespace, &everyone]
                .into_iter()
                .filter_map(|subject| self.0.get(&(policy.tier.as_str(), subject, direction)))
                // A staged policy does not stand behind the one whose place it would take.
                .filter(|other| other.key != policy.key.enforced())
                .find(|other| tiers::compare(other, policy).is_lt());
            if let Some(other) = before {
                let message = format!(
                    "no packet comes this far: {} stands before it in the tier `{}`, is for the same \
                     endpoints, and has a rule that matches everything",
                    other.key, policy.tier
                );
                let hint = "give this policy a lower `order` than that one, or put its rules there";
                found.push(Diagnostic::warning(path, message).with_hint(hint));
            }
        }
    }
}
