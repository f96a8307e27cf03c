//! What resources need of each other: the tier that a policy names.
//!
//! In: all the resources that would be in force after a change. Out: those that cannot be
//! enforced as their authors mean them. Upstream asks for the tier when a policy is created and
//! leaves a policy without one inert; a policy that is there and does nothing is what we refuse.

use std::collections::BTreeSet;

use policy_api::{
    diagnostic::Diagnostic,
    messages::ResourceName,
    resource::{CALICO, Kind},
};

use super::Object;
use crate::tiers;

/// Policies whose tier is neither among the objects nor built in, each with what is wrong.
pub fn references<'a>(
    objects: impl Iterator<Item = &'a Object> + Clone,
) -> Vec<(ResourceName, Diagnostic)> {
    let known: BTreeSet<&str> = objects
        .clone()
        .filter_map(|object| match object {
            Object::Tier(tier) => Some(tier.name.as_str()),
            _ => None,
        })
        .chain(tiers::BUILT_IN.map(|(name, ..)| name))
        .collect();
    objects
        .filter_map(|object| match object {
            Object::Policy(policy) if !known.contains(policy.tier.as_str()) => {
                let (tier, key) = (&policy.tier, &policy.key);
                let message = format!("{key} is in the tier `{tier}`, which does not exist");
                let hint = format!(
                    "apply a `{CALICO}` Tier `{tier}` before the policy or together with it; delete \
                     a tier after its policies or together with them"
                );
                let diagnostic = Diagnostic::error("spec.tier", message).with_hint(hint);
                Some((object.resource_name(), diagnostic))
            }
            _ => None,
        })
        .collect()
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
