//! Tiers, in the order in which policies are asked.
//!
//! In: the [`Model`]. Out: tiers, and the policies of each in order. Only the tier `default` can
//! be written today; the walk knows no such limit.

use std::sync::Arc;

use crate::{model::Model, policy::Policy};

/// The tier of a policy that names none.
pub const DEFAULT_TIER: &str = "default";

/// What happens to a packet that no rule of a tier matched, though one of the tier's policies
/// applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TierAction {
    /// It is dropped.
    Deny,
    /// The next tier is asked.
    Pass,
}

/// One tier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tier {
    /// Name.
    pub name: String,
    /// What happens at its end.
    pub end: TierAction,
}

/// The tiers of a model.
pub fn of(model: &Model) -> Vec<Tier> {
    let named = model.policies.values().map(|policy| policy.tier.as_str());
    let mut names: Vec<&str> = named.filter(|name| *name != DEFAULT_TIER).collect();
    names.sort_unstable();
    names.dedup();
    std::iter::once(DEFAULT_TIER)
        .chain(names)
        .map(|name| Tier { name: name.to_owned(), end: TierAction::Deny })
        .collect()
}

/// The tracked policies of a tier, in order.
pub fn policies<'a>(model: &'a Model, tier: &Tier) -> Vec<&'a Arc<Policy>> {
    let mut policies: Vec<_> = model
        .policies
        .values()
        .filter(|policy| policy.tier == tier.name && !policy.untracked)
        .collect();
    policies.sort_by(|a, b| a.order.cmp(&b.order).then_with(|| a.key.cmp(&b.key)));
    policies
}
