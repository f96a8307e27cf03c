//! What resources need of each other: the tier that a policy names, and the policy that a staged one
//! stands for.
//!
//! In: all the resources that would be in force after a change. Out: those that cannot be
//! enforced as their authors mean them. Upstream asks for the tier when a policy is created and
//! leaves a policy without one inert; a policy that is there and does nothing is what we refuse.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use policy_api::{
    diagnostic::Diagnostic,
    messages::ResourceName,
    resource::{CALICO, Kind, did_you_mean},
};

use super::Object;
use crate::{
    model::Model,
    policy::{Policy, PolicyKey, Reach},
    tiers,
};

/// Policies whose tier is neither among the objects nor built in, and staged ones that cannot be
/// staged, each with what is wrong.
pub fn references<'a>(
    objects: impl Iterator<Item = &'a Object> + Clone,
) -> Vec<(ResourceName, Diagnostic)> {
    let known = known_tiers(objects.clone());
    without_tier(objects.clone(), &known)
        .map(|(object, policy)| (object.resource_name(), no_tier(policy)))
        .chain(out_of_order(objects))
        .collect()
}

/// The same of some policies of a model.
pub fn references_of<'a>(
    model: &Model,
    policies: impl Iterator<Item = &'a Arc<Policy>>,
) -> Vec<(ResourceName, Diagnostic)> {
    let wrong = |policy: &Arc<Policy>| {
        let name = Object::Policy(Arc::clone(policy)).resource_name();
        let known =
            tiers::built_in(&policy.tier).is_some() || model.tiers.contains_key(&policy.tier);
        let staged = policy.staged.and_then(|_| {
            let field = model.policies.get(&policy.key.enforced()).and_then(|it| early(it))?;
            Some(not_staged(policy, field))
        });
        let wrong = (!known).then(|| no_tier(policy)).into_iter().chain(staged);
        wrong.map(|diagnostic| (name.clone(), diagnostic)).collect::<Vec<_>>()
    };
    policies.flat_map(wrong).collect()
}

fn no_tier(policy: &Policy) -> Diagnostic {
    let (tier, key) = (&policy.tier, &policy.key);
    let message = format!("{key} is in the tier `{tier}`, which does not exist");
    let hint = format!(
        "apply a `{CALICO}` Tier `{tier}` before the policy or together with it; delete a tier \
         after its policies or together with them"
    );
    Diagnostic::error("spec.tier", message).with_hint(hint)
}

/// The field by which a policy is asked before others.
fn early(policy: &Policy) -> Option<&'static str> {
    match policy {
        Policy { untracked: true, .. } => Some("doNotTrack"),
        Policy { reach: Reach::PreDnat, .. } => Some("preDNAT"),
        _ => None,
    }
}

fn not_staged(policy: &Policy, field: &str) -> Diagnostic {
    let message = format!(
        "{} is in force with `{field}`, and what takes the place of such a policy cannot be staged",
        policy.key.enforced()
    );
    let hint = "give the staged policy another name, or change the one in force";
    Diagnostic::error("metadata.name", message).with_hint(hint)
}

/// Staged policies of the name of one that is asked before others: what those would say if it were
/// another is not computed.
fn out_of_order<'a>(
    objects: impl Iterator<Item = &'a Object> + Clone,
) -> impl Iterator<Item = (ResourceName, Diagnostic)> {
    let policies = |object: &'a Object| match object {
        Object::Policy(policy) => Some(policy),
        _ => None,
    };
    let before: BTreeMap<&PolicyKey, &str> = objects
        .clone()
        .filter_map(policies)
        .filter_map(|policy| Some((&policy.key, early(policy)?)))
        .collect();
    objects.filter_map(move |object| {
        let policy = policies(object).filter(|policy| policy.staged.is_some())?;
        let field = before.get(&policy.key.enforced())?;
        Some((object.resource_name(), not_staged(policy, field)))
    })
}

/// The same of files that need not be all that there is: a tier is warned of, as an agent may have it.
/// `also` are names of tiers that are there, though something is wrong with them.
pub fn open_references<'a>(
    objects: impl Iterator<Item = &'a Object> + Clone,
    also: &'a BTreeSet<String>,
) -> Vec<(ResourceName, Diagnostic)> {
    let mut known = known_tiers(objects.clone());
    known.extend(also.iter().map(String::as_str));
    without_tier(objects.clone(), &known)
        .map(|(object, policy)| {
            let (tier, key) = (&policy.tier, &policy.key);
            let message = format!("{key} is in the tier `{tier}`, which is not in these files");
            let hint = match did_you_mean(tier, known.iter().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!(
                    "unless the agent has it already, apply a `{CALICO}` Tier `{tier}` with the \
                     policy"
                ),
            };
            let diagnostic = Diagnostic::warning("spec.tier", message).with_hint(hint);
            (object.resource_name(), diagnostic)
        })
        .chain(out_of_order(objects))
        .collect()
}

fn known_tiers<'a>(objects: impl Iterator<Item = &'a Object>) -> BTreeSet<&'a str> {
    objects
        .filter_map(|object| match object {
            Object::Tier(tier) => Some(tier.name.as_str()),
            _ => None,
        })
        .chain(tiers::BUILT_IN.map(|(name, ..)| name))
        .collect()
}

fn without_tier<'a>(
    objects: impl Iterator<Item = &'a Object>,
    known: &BTreeSet<&str>,
) -> impl Iterator<Item = (&'a Object, &'a Policy)> {
    objects.filter_map(|object| match object {
        Object::Policy(policy) if !known.contains(policy.tier.as_str()) => {
            Some((object, policy.as_ref()))
        }
        _ => None,
    })
}

/// Why a resource must not be deleted, whatever else is there.
pub fn undeletable(name: &ResourceName) -> Option<Diagnostic> {
    let is_tier = Kind::Tier.names() == (name.api_version.as_str(), name.kind.as_str());
    (is_tier && tiers::built_in(&name.name).is_some()).then(|| {
        Diagnostic::error(
            "metadata.name",
            format!("the tier `{}` is built in and cannot be deleted", name.name),
        )
        .with_hint("delete its policies; a tier without policies decides nothing")
    })
}
