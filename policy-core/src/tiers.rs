//! Tiers, in the order in which policies are asked.
//!
//! In: the [`Model`]. Out: its tiers, and the policies of each in order.
//!
//! Order is upstream's (calico `felix/calc/policy_sorter.go`): tiers by `order`, then by name;
//! policies of a tier by `order`, then by the text `name/namespace/kind`. A tier without an order
//! has that of `default` (libcalico-go `lib/resources/tier.go`).

use std::{cmp::Ordering, collections::BTreeSet, iter::once, sync::Arc};

use crate::{
    model::Model,
    policy::{Order, Policy, PolicyKey, PolicyKind, StagedAction},
};

/// The tier of a policy that names none.
pub const DEFAULT_TIER: &str = "default";

/// The order of the tier `default`, and of a tier that is given none.
pub const DEFAULT_ORDER: f64 = 1_000_000.0;

/// What happens to a packet that no rule of a tier matched, though one of the tier's policies
/// applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TierAction {
    /// It is dropped.
    #[default]
    Deny,
    /// The next tier is asked.
    Pass,
}

/// One tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Name.
    pub name: String,
    /// Place among the tiers; ties go by name.
    pub order: Order,
    /// What happens at its end.
    pub end: TierAction,
}

/// The tiers that exist without a resource, as upstream makes them (calico
/// `api/pkg/apis/projectcalico/v3/tier.go`): name, order, end.
pub const BUILT_IN: [(&str, f64, TierAction); 3] = [
    ("kube-admin", 1_000.0, TierAction::Pass),
    (DEFAULT_TIER, DEFAULT_ORDER, TierAction::Deny),
    ("kube-baseline", 10_000_000.0, TierAction::Pass),
];

/// The built-in tier of a name.
pub fn built_in(name: &str) -> Option<Tier> {
    BUILT_IN.into_iter().find(|(known, ..)| *known == name).map(|(name, order, end)| Tier {
        name: name.to_owned(),
        order: Order(Some(order)),
        end,
    })
}

/// The tiers of a model, in order: those of its resources, `default`, and what else its policies
/// name.
///
/// Whoever fills a model sees to it that the tiers of its policies exist. If one does not all the
/// same, its policies are not left out: it comes last, and ends in Deny.
pub fn of(model: &Model) -> Vec<Tier> {
    in_use(model, model.policies.values().map(|policy| policy.tier.as_str()))
}

/// As [`of`], for whoever knows which tiers the policies name.
pub(crate) fn in_use<'a>(model: &Model, named: impl Iterator<Item = &'a str>) -> Vec<Tier> {
    let named: BTreeSet<&str> = named.chain(once(DEFAULT_TIER)).collect();
    let without_resource = named.into_iter().filter(|name| !model.tiers.contains_key(*name));
    let mut tiers: Vec<Tier> = without_resource
        .map(|name| {
            built_in(name).unwrap_or_else(|| Tier {
                name: name.to_owned(),
                order: Order(None),
                end: TierAction::Deny,
            })
        })
        .chain(model.tiers.values().cloned())
        .collect();
    tiers.sort_by(|a, b| a.order.cmp(&b.order).then_with(|| a.name.cmp(&b.name)));
    tiers
}

/// Which policies a packet is led past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Walk {
    /// Those in force.
    Enforced,
    /// Those that would be in force if every staged policy were: a staged policy takes the place
    /// of the one of its name, or takes it away.
    Pending,
}

/// A tracked policy of a tier, and the walks that it is part of.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The policy.
    pub policy: &'a Arc<Policy>,
    /// Part of [`Walk::Enforced`].
    pub enforced: bool,
    /// Part of [`Walk::Pending`].
    pub pending: bool,
}

impl Listed<'_> {
    /// Whether a walk comes past it.
    pub fn is_part_of(&self, walk: Walk) -> bool {
        match walk {
            Walk::Enforced => self.enforced,
            Walk::Pending => self.pending,
        }
    }
}

/// The tracked policies of a tier that are part of some walk, in order. A staged policy stands
/// where it would stand if it were in force.
pub fn listed<'a>(model: &'a Model, tier: &Tier) -> Vec<Listed<'a>> {
    // Few models have a staged policy, and asking each policy for its own costs a look-up.
    let some_staged = model.policies.values().any(|policy| policy.staged.is_some());
    in_order(model, tier, false)
        .into_iter()
        .map(|policy| Listed {
            policy,
            enforced: policy.staged.is_none(),
            pending: match policy.staged {
                None => !(some_staged && is_replaced(model, policy)),
                Some(action) => action == StagedAction::Set,
            },
        })
        .filter(|listed| listed.enforced || listed.pending)
        .collect()
}

/// Whether a staged policy would take the place of this one, or take it away.
pub(crate) fn is_replaced(model: &Model, policy: &Policy) -> bool {
    STAGED_KINDS.iter().any(|&kind| {
        kind.enforced() == policy.key.kind
            && model.policies.contains_key(&PolicyKey { kind, ..policy.key.clone() })
    })
}

const STAGED_KINDS: [PolicyKind; 3] = [
    PolicyKind::StagedGlobalNetworkPolicy,
    PolicyKind::StagedNetworkPolicy,
    PolicyKind::StagedKubernetesNetworkPolicy,
];

/// The tracked policies of a tier that a walk comes past, in order.
pub fn policies<'a>(model: &'a Model, tier: &Tier, walk: Walk) -> Vec<&'a Arc<Policy>> {
    let listed = listed(model, tier).into_iter();
    listed.filter(|listed| listed.is_part_of(walk)).map(|listed| listed.policy).collect()
}

/// The untracked policies of every tier, in order.
pub fn untracked(model: &Model) -> Vec<&Arc<Policy>> {
    of(model).iter().flat_map(|tier| in_order(model, tier, true)).collect()
}

fn in_order<'a>(model: &'a Model, tier: &Tier, untracked: bool) -> Vec<&'a Arc<Policy>> {
    let mut policies: Vec<_> = model
        .policies
        .values()
        .filter(|policy| policy.tier == tier.name && policy.untracked == untracked)
        .collect();
    policies.sort_by(|a, b| compare(a, b));
    policies
}

/// Which of two policies of one tier comes first.
pub(crate) fn compare(a: &Policy, b: &Policy) -> Ordering {
    a.order.cmp(&b.order).then_with(|| compare_keys(&a.key, &b.key))
}

/// Compares the texts `name/namespace/kind`, a staged policy's kind being what it would become. `-`
/// and `.` sort before `/`, so `web-2` comes before `web`.
fn compare_keys(a: &PolicyKey, b: &PolicyKey) -> Ordering {
    fn text(key: &PolicyKey) -> impl Iterator<Item = u8> {
        let slash = || once(b'/');
        let (name, namespace) = (key.name.bytes(), key.namespace.bytes());
        name.chain(slash())
            .chain(namespace)
            .chain(slash())
            .chain(key.kind.enforced().name().bytes())
    }
    text(a).cmp(text(b))
}

#[cfg(test)]
mod tests;
