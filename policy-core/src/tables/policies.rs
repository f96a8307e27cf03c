//! The policies of the model, in the order in which they are asked, and which of them apply to
//! whom.
//!
//! In: policies, tiers and endpoints that come, go or change. Out: for each label set of an endpoint
//! the policies that select it, in order.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use policy_common::abi::{Direction, VERDICT_ALLOW};

use super::{
    classes::Classes,
    table::{Effect, Walks},
};
use crate::{
    digest::Digest,
    identity::FAMILIES,
    model::{EndpointId, Model},
    names,
    peers::{ConditionId, GroupId, Peers, SelectorId},
    policy::{Action, EntityMatch, Policy, PolicyKey, Rule, StagedAction},
    services::{self, Named, Region},
    shared::differences,
    tiers::{self, Tier},
};

pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// A policy that is in force, by its place in [`Policies`].
pub(super) type Slot = usize;

/// A rule as it is for every subject.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    /// Its place among the policy's rules for the direction.
    index: usize,
    pub(super) effect: Effect,
    pub(super) action: Action,
    /// Who the other side may be.
    pub(super) peers: ConditionId,
    /// The conditions on the subject's own side, if there are any.
    pub(super) own: Option<ConditionId>,
    /// Whether it is not the same rule for every subject.
    pub(super) depends_on_subject: bool,
    /// What it matches by family, unless that depends on named ports.
    pub(super) region: Option<[Arc<Region>; 2]>,
}

/// The rules of a policy for one direction.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    pub(super) rules: Vec<Shared>,
    pub(super) digest: Digest,
}

/// A policy in force.
#[derive(Clone, Debug)]
pub(super) struct Filed {
    pub(super) policy: Arc<Policy>,
    /// The walks that it is part of; none if it is staged to take another one away.
    pub(super) walks: Walks,
    subject: SelectorId,
    /// By direction; `None` if the policy has no say on it.
    shelves: [Option<Shelf>; 2],
    /// Groups of the networks that its rules name.
    groups: Vec<GroupId>,
}

impl Filed {
    /// The rules for one direction.
    pub(super) fn shelf(&self, direction: Direction) -> Option<&Shelf> {
        self.shelves[direction as usize].as_ref()
    }

    /// A rule as it is written.
    pub(super) fn written(&self, direction: Direction, shared: &Shared) -> Option<&Rule> {
        self.policy.rules(direction)?.get(shared.index)
    }

    fn is_staged(&self) -> bool {
        self.policy.staged.is_some()
    }

    fn rules(&self) -> impl Iterator<Item = &Shared> {
        self.shelves.iter().flatten().flat_map(|shelf| &shelf.rules)
    }
}

/// A label set that endpoints have.
#[derive(Clone, Debug, Default)]
struct Selected {
    /// The policies that apply, in order.
    policies: Vec<Slot>,
    endpoints: BTreeSet<EndpointId>,
}

/// The tracked policies of a model.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    filed: Vec<Option<Filed>>,
    free: Vec<Slot>,
    slots: BTreeMap<PolicyKey, Slot>,
    /// Policies of each tier, untracked ones included.
    named_tiers: BTreeMap<String, usize>,
    /// How many are staged.
    staged: usize,
    tiers: Vec<Tier>,
    rank: HashMap<String, usize>,
    /// By entity.
    selected: HashMap<usize, Selected>,
    entity: BTreeMap<EndpointId, usize>,
    /// Policies with a rule whose other side has the condition.
    asking: HashMap<ConditionId, Vec<Slot>>,
    /// Policies with a rule that names ports.
    naming_ports: BTreeSet<Slot>,
}

impl Policies {
    /// A policy in force.
    pub(super) fn get(&self, slot: Slot) -> Option<&Filed> {
        self.filed.get(slot)?.as_ref()
    }

    /// The tier of a policy in force.
    pub(super) fn tier(&self, slot: Slot) -> Option<&Tier> {
        self.tiers.get(self.rank(slot))
    }

    /// Place of a policy's tier.
    pub(super) fn rank(&self, slot: Slot) -> usize {
        let rank = self.get(slot).and_then(|filed| self.rank.get(&filed.policy.tier));
        rank.copied().unwrap_or(usize::MAX)
    }

    /// The policies that apply to an endpoint, in order.
    pub(super) fn applying(&self, endpoint: &EndpointId) -> &[Slot] {
        let selected = self.entity.get(endpoint).and_then(|entity| self.selected.get(entity));
        selected.map_or(&[], |selected| &selected.policies)
    }

    /// The policies that may treat a peer unlike the world.
    pub(super) fn singling_out(&self, peer: usize, peers: &Peers) -> BTreeSet<Slot> {
        let conditions = peers.get(peer).singled_out.iter();
        let mut slots: BTreeSet<Slot> =
            conditions.filter_map(|id| self.asking.get(id)).flatten().copied().collect();
        if !peers.ports(peer).is_empty() {
            slots.extend(&self.naming_ports);
        }
        slots
    }

    /// Moves from one model's policies and tiers to another's. Returns the endpoints to which others
    /// apply now, or the same ones in another order, and what happened to the groups that rules name.
    pub(super) fn follow(
        &mut self,
        before: &Model,
        now: &Model,
        peers: &mut Peers,
        classes: &mut Classes,
    ) -> (BTreeSet<EndpointId>, Vec<(GroupId, bool)>) {
        let mut affected = BTreeSet::new();
        let mut naming = Vec::new();
        let mut new = Vec::new();
        // Policies of whose names staged ones came or went.
        let mut shadowed = BTreeSet::new();
        if !before.policies.same(&now.policies) {
            let changed: Vec<_> = differences(&before.policies, &now.policies).collect();
            for policy in changed.iter().filter_map(|(_, old, _)| *old) {
                self.remove(policy, peers, &mut affected, &mut naming);
                shadowed.extend(policy.staged.map(|_| policy.key.enforced()));
            }
            for policy in changed.iter().filter_map(|(_, _, new)| *new) {
                new.extend(self.file(policy, peers, classes, &mut naming));
                shadowed.extend(policy.staged.map(|_| policy.key.enforced()));
            }
        }
        shadowed.extend(new.iter().filter_map(|&slot| Some(self.get(slot)?.policy.key.clone())));
        for key in shadowed {
            self.cast_shadow(&key, now, peers, &mut affected);
        }
        // The place of the new ones depends on the tiers.
        let tiers = tiers::in_use(now, self.named_tiers.keys().map(String::as_str));
        if tiers != self.tiers {
            self.rank = tiers.iter().map(|tier| tier.name.clone()).zip(0..).collect();
            self.tiers = tiers;
            self.sort();
            affected.extend(self.entity.keys().cloned());
        }
        for slot in new {
            self.apply(slot, peers, &mut affected);
        }
        (affected, naming)
    }

    /// An endpoint has these labels now, or is gone.
    pub(super) fn place(&mut self, endpoint: &EndpointId, entity: Option<usize>, peers: &Peers) {
        let old = match entity {
            Some(entity) => self.entity.insert(endpoint.clone(), entity),
            None => self.entity.remove(endpoint),
        };
        if old == entity {
            return;
        }
        if let Some(old) = old
            && let Some(selected) = self.selected.get_mut(&old)
        {
            selected.endpoints.remove(endpoint);
            if selected.endpoints.is_empty() {
                self.selected.remove(&old);
            }
        }
        let Some(entity) = entity else { return };
        if !self.selected.contains_key(&entity) {
            let filed = self.slots.values().copied();
            let mut policies: Vec<Slot> =
                filed.filter(|&slot| self.selects(slot, entity, peers)).collect();
            policies.sort_by(|a, b| self.compare(*a, *b));
            self.selected.insert(entity, Selected { policies, endpoints: BTreeSet::new() });
        }
        if let Some(selected) = self.selected.get_mut(&entity) {
            selected.endpoints.insert(endpoint.clone());
        }
    }

    fn selects(&self, slot: Slot, entity: usize, peers: &Peers) -> bool {
        self.get(slot).is_some_and(|filed| peers.selects(filed.subject).contains(entity))
    }

    fn compare(&self, a: Slot, b: Slot) -> Ordering {
        let order = || match (self.get(a), self.get(b)) {
            (Some(a), Some(b)) => tiers::compare(&a.policy, &b.policy),
            (a, b) => a.is_some().cmp(&b.is_some()),
        };
        self.rank(a).cmp(&self.rank(b)).then_with(order)
    }

    fn sort(&mut self) {
        let mut selected = std::mem::take(&mut self.selected);
        for of_entity in selected.values_mut() {
            of_entity.policies.sort_by(|a, b| self.compare(*a, *b));
        }
        self.selected = selected;
    }

    fn remove(
        &mut self,
        policy: &Policy,
        peers: &Peers,
        affected: &mut BTreeSet<EndpointId>,
        naming: &mut Vec<(GroupId, bool)>,
    ) {
        if let Some(count) = self.named_tiers.get_mut(&policy.tier) {
            *count -= 1;
            if *count == 0 {
                self.named_tiers.remove(&policy.tier);
            }
        }
        let Some(slot) = self.slots.remove(&policy.key) else { return };
        if let Some(filed) = self.filed[slot].take() {
            self.staged -= usize::from(filed.is_staged());
            for entity in peers.selects(filed.subject).ones() {
                if let Some(selected) = self.selected.get_mut(&entity) {
                    selected.policies.retain(|other| *other != slot);
                    affected.extend(selected.endpoints.iter().cloned());
                }
            }
            for shared in filed.rules() {
                if let Some(slots) = self.asking.get_mut(&shared.peers) {
                    slots.retain(|other| *other != slot);
                    if slots.is_empty() {
                        self.asking.remove(&shared.peers);
                    }
                }
            }
            naming.extend(filed.groups.iter().map(|group| (*group, false)));
        }
        self.naming_ports.remove(&slot);
        self.free.push(slot);
    }

    /// Takes in a policy; `None` if it is none for endpoints.
    fn file(
        &mut self,
        policy: &Arc<Policy>,
        peers: &mut Peers,
        classes: &mut Classes,
        naming: &mut Vec<(GroupId, bool)>,
    ) -> Option<Slot> {
        *self.named_tiers.entry(policy.tier.clone()).or_default() += 1;
        if policy.untracked {
            return None;
        }
        let mut groups = Vec::new();
        let shelves = DIRECTIONS.map(|direction| {
            let rules = policy.rules(direction)?;
            let digest = Digest::of("policy", &(&policy.key, &policy.tier, direction, rules));
            let share = |(index, rule): (usize, &Rule)| {
                let (own, peer) = sides(rule, direction);
                for nets in [&own.nets, &own.not_nets, &peer.nets, &peer.not_nets] {
                    groups.extend(peers.nets(nets).1);
                }
                let mut number = || classes.name(names::of_rule(policy, direction, rule));
                let own_names = services::uses_names(own);
                let named = own_names || services::uses_names(peer);
                let own_matters = !own.matches_anyone();
                Shared {
                    index,
                    effect: match rule.action {
                        Action::Allow => Effect::Decide(VERDICT_ALLOW | number()),
                        Action::Deny => Effect::Decide(number()),
                        Action::Pass => Effect::Pass,
                        Action::Log => Effect::Log(number()),
                    },
                    action: rule.action,
                    peers: peers.condition(peer),
                    own: own_matters.then(|| peers.condition(own)),
                    depends_on_subject: own_matters || own_names,
                    region: (!named).then(|| of_both(rule)),
                }
            };
            Some(Shelf { rules: rules.iter().enumerate().map(share).collect(), digest })
        });
        naming.extend(groups.iter().map(|group| (*group, true)));
        let subject = peers.selector(&policy.subject);
        let walks = Walks { enforced: false, pending: false };
        let filed = Filed { policy: Arc::clone(policy), walks, subject, shelves, groups };
        self.staged += usize::from(filed.is_staged());
        let slot = self.free.pop().unwrap_or(self.filed.len());
        for shared in filed.rules() {
            let slots = self.asking.entry(shared.peers).or_default();
            if slots.last() != Some(&slot) {
                slots.push(slot);
            }
            if shared.region.is_none() {
                self.naming_ports.insert(slot);
            }
        }
        if slot == self.filed.len() {
            self.filed.push(Some(filed));
        } else {
            self.filed[slot] = Some(filed);
        }
        self.slots.insert(policy.key.clone(), slot);
        Some(slot)
    }

    /// Finds out which walks a policy is part of.
    fn cast_shadow(
        &mut self,
        key: &PolicyKey,
        now: &Model,
        peers: &Peers,
        affected: &mut BTreeSet<EndpointId>,
    ) {
        let Some(&slot) = self.slots.get(key) else { return };
        let some_staged = self.staged > 0;
        let Some(filed) = self.filed[slot].as_mut() else { return };
        let walks = Walks {
            enforced: filed.policy.staged.is_none(),
            pending: match filed.policy.staged {
                None => !(some_staged && tiers::is_replaced(now, &filed.policy)),
                Some(action) => action == StagedAction::Set,
            },
        };
        if walks != filed.walks {
            filed.walks = walks;
            for entity in peers.selects(filed.subject).ones() {
                let selected = self.selected.get(&entity);
                affected.extend(selected.iter().flat_map(|it| it.endpoints.iter().cloned()));
            }
        }
    }

    /// Puts a policy in its place wherever it applies.
    fn apply(&mut self, slot: Slot, peers: &Peers, affected: &mut BTreeSet<EndpointId>) {
        let Some(subject) = self.get(slot).map(|filed| filed.subject) else { return };
        let mut selected = std::mem::take(&mut self.selected);
        for entity in peers.selects(subject).ones() {
            if let Some(of_entity) = selected.get_mut(&entity) {
                let policies = &mut of_entity.policies;
                let at = policies.partition_point(|other| self.compare(*other, slot).is_lt());
                policies.insert(at, slot);
                affected.extend(of_entity.endpoints.iter().cloned());
            }
        }
        self.selected = selected;
    }
}

/// The sides of a rule: the subject's own, and its peer's.
pub(super) fn sides(rule: &Rule, direction: Direction) -> (&EntityMatch, &EntityMatch) {
    match direction {
        Direction::Ingress => (&rule.destination, &rule.source),
        Direction::Egress => (&rule.source, &rule.destination),
    }
}

/// What a rule matches that depends on nobody's named ports.
fn of_both(rule: &Rule) -> [Arc<Region>; 2] {
    let of = |family| Arc::new(services::of_rule(rule, family, Named::default()));
    let [v4, v6] = FAMILIES.map(of);
    if v4 == v6 { [Arc::clone(&v4), v4] } else { [v4, v6] }
}
