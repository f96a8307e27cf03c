//! What selectors and conditions say to whom: asked once for each, and again only for who is new.

use std::{collections::BTreeMap, sync::Arc};

use fixedbitset::FixedBitSet;
use ipnet::IpNet;
use policy_common::abi::Family;

use super::{Group, GroupId, Peers};
use crate::{identity, labels::Labels, policy::EntityMatch, selector::Selector};

/// A selector that has been asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SelectorId(usize);

/// A condition that has been asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConditionId(usize);

/// A selector, the entities that it matches, and who asks.
#[derive(Clone, Debug)]
pub(super) struct Selected {
    selector: Selector,
    entities: FixedBitSet,
    /// Conditions that can be met by its entities only, or by all but them.
    conditions: Vec<ConditionId>,
}

/// Conditions on who a side is, and the peers that meet them.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    selector: Option<SelectorId>,
    not_selector: Option<SelectorId>,
    /// Whether there are `nets` at all; if so, the families for which one of them is `/0`, and the
    /// group of the others.
    nets: Option<([bool; 2], Option<GroupId>)>,
    not_nets: ([bool; 2], Option<GroupId>),
    /// Whether an address with neither identity nor groups meets them, by family.
    world: [bool; 2],
    /// The peers (ascending) for which the answer is the other one.
    others: Vec<usize>,
}

/// What a peer is to a condition.
#[derive(Clone, Copy, Default)]
struct Hits {
    selected: bool,
    inside: bool,
    outside: bool,
}

impl Condition {
    fn met(&self, family: Family, hits: Hits) -> bool {
        let family = family as usize;
        // Felix joins a selector and a notSelector of one side into one expression
        // (`combineMatchesIfPossible`), which some one entity must meet; a lone notSelector is met
        // by who is no entity that it selects, and so by the world.
        let wanted = self.selector.is_some();
        hits.selected == wanted
            && self.nets.is_none_or(|(any, _)| any[family] || hits.inside)
            && !self.not_nets.0[family]
            && !hits.outside
    }

    /// Whether one of the selectors picks an entity.
    fn picks(&self, entity: usize, selectors: &[Selected]) -> bool {
        let has = |id: SelectorId| selectors[id.0].entities.contains(entity);
        match (self.selector, self.not_selector) {
            (Some(selector), None) => has(selector),
            (Some(selector), Some(not)) => has(selector) && !has(not),
            (None, Some(not)) => has(not),
            (None, None) => false,
        }
    }

    /// What a peer with these entities and groups is to it.
    fn hits(&self, entities: &[usize], groups: &[GroupId], selectors: &[Selected]) -> Hits {
        let within = |group: Option<GroupId>| {
            group.is_some_and(|group| groups.binary_search(&group).is_ok())
        };
        Hits {
            selected: entities.iter().any(|&entity| self.picks(entity, selectors)),
            inside: within(self.nets.and_then(|(_, group)| group)),
            outside: within(self.not_nets.1),
        }
    }
}

impl Peers {
    /// Asks every selector about one entity more.
    pub(super) fn select(&mut self, entity: usize, labels: &Labels) {
        let mut selecting = Vec::new();
        for (index, selected) in self.selectors.iter_mut().enumerate() {
            if selected.selector.matches(labels) {
                selected.entities.grow_and_insert(entity);
                selecting.push(SelectorId(index));
            }
        }
        self.selecting.push(selecting);
    }

    /// Asks every condition about one peer more that is, or may be, about it: all others treat it
    /// as they treat the world.
    pub(super) fn judge(&mut self, peer: usize, entities: &[usize], groups: &[GroupId]) {
        let by_selector = entities
            .iter()
            .flat_map(|&entity| &self.selecting[entity])
            .flat_map(|id| &self.selectors[id.0].conditions);
        let by_group = groups.iter().flat_map(|&group| &self.naming[group as usize]);
        let mut asked: Vec<usize> = by_selector.chain(by_group).map(|id| id.0).collect();
        asked.sort_unstable();
        asked.dedup();
        let family = self.peers[peer].family;
        for index in asked {
            let condition = &mut self.conditions[index];
            let hits = condition.hits(entities, groups, &self.selectors);
            if condition.met(family, hits) != condition.world[family as usize] {
                condition.others.push(peer);
                self.peers[peer].singled_out.push(ConditionId(index));
            }
        }
    }
    /// A selector, and what it matches of all that there is and will be.
    pub(crate) fn selector(&mut self, selector: &Selector) -> SelectorId {
        if let Some(&known) = self.selector_index.get(selector) {
            return known;
        }
        let id = SelectorId(self.selectors.len());
        let mut entities = FixedBitSet::with_capacity(self.entities.len());
        for (entity, labels) in self.entities.iter().enumerate() {
            if selector.matches(labels) {
                entities.insert(entity);
                self.selecting[entity].push(id);
            }
        }
        let conditions = Vec::new();
        self.selectors.push(Selected { selector: selector.clone(), entities, conditions });
        self.selector_index.insert(selector.clone(), id);
        id
    }

    /// The entities that a selector matches.
    pub(crate) fn selects(&self, selector: SelectorId) -> &FixedBitSet {
        &self.selectors[selector.0].entities
    }

    /// The group of some networks, if there are any beside `/0`; and for which families there is one
    /// of those.
    pub(crate) fn nets(&mut self, nets: &[IpNet]) -> ([bool; 2], Option<GroupId>) {
        let (nets, everything) = without_everything(nets);
        let group = (!nets.is_empty()).then(|| self.group(&Group::Nets(nets.into())));
        (everything, group)
    }

    /// The networks of a group of [`Peers::nets`].
    pub(crate) fn networks(&self, group: GroupId) -> Option<Arc<[IpNet]>> {
        match &self.groups[group as usize] {
            Group::Nets(nets) => Some(Arc::clone(nets)),
            Group::Set { .. } => None,
        }
    }

    /// The conditions of `side`; its ports are not looked at.
    pub(crate) fn condition(&mut self, side: &EntityMatch) -> ConditionId {
        let mut key = side.clone();
        key.ports.clear();
        key.not_ports.clear();
        if let Some(&known) = self.condition_index.get(&key) {
            return known;
        }
        let selector = key.selector.as_ref().map(|selector| self.selector(selector));
        let not_selector = key.not_selector.as_ref().map(|selector| self.selector(selector));
        let nets = (!key.nets.is_empty()).then(|| self.nets(&key.nets));
        let not_nets = self.nets(&key.not_nets);
        let mut condition = Condition {
            selector,
            not_selector,
            nets,
            not_nets,
            world: [false; 2],
            others: Vec::new(),
        };
        condition.world =
            [Family::V4, Family::V6].map(|family| condition.met(family, Hits::default()));
        condition.others = self.differing(&condition);
        let id = ConditionId(self.conditions.len());
        for &peer in &condition.others {
            self.peers[peer].singled_out.push(id);
        }
        if let Some(asked) = condition.selector.or(condition.not_selector) {
            self.selectors[asked.0].conditions.push(id);
        }
        for group in condition.nets.and_then(|(_, group)| group).into_iter().chain(not_nets.1) {
            self.naming[group as usize].push(id);
        }
        self.conditions.push(condition);
        self.condition_index.insert(key, id);
        id
    }

    /// The peers that a condition treats unlike the world. Only those are looked at that something
    /// in it is about.
    fn differing(&self, condition: &Condition) -> Vec<usize> {
        let mut hits: BTreeMap<usize, Hits> = BTreeMap::new();
        let asked = condition.selector.or(condition.not_selector);
        let entities = asked.iter().flat_map(|id| self.selectors[id.0].entities.ones());
        for entity in entities.filter(|&entity| condition.picks(entity, &self.selectors)) {
            for &peer in &self.by_entity[entity] {
                hits.entry(peer).or_default().selected = true;
            }
        }
        let members = |group: Option<GroupId>| {
            group.map_or(&[][..], |group| self.by_group[group as usize].as_slice())
        };
        for &peer in members(condition.nets.and_then(|(_, group)| group)) {
            hits.entry(peer).or_default().inside = true;
        }
        for &peer in members(condition.not_nets.1) {
            hits.entry(peer).or_default().outside = true;
        }
        let differs = |(peer, hits): (usize, Hits)| {
            let family = self.peers[peer].family;
            (condition.met(family, hits) != condition.world[family as usize]).then_some(peer)
        };
        hits.into_iter().filter_map(differs).collect()
    }

    /// Whether an address with neither identity nor groups meets a condition, by family.
    pub(crate) fn world_meets(&self, condition: ConditionId) -> [bool; 2] {
        self.conditions[condition.0].world
    }

    /// The peers (ascending) for which the answer is another one than for the world.
    pub(crate) fn others(&self, condition: ConditionId) -> &[usize] {
        &self.conditions[condition.0].others
    }

    /// Whether a peer meets a condition.
    pub(crate) fn meets(&self, condition: ConditionId, peer: usize) -> bool {
        let family = self.peers[peer].family;
        self.world_meets(condition)[family as usize]
            ^ self.others(condition).binary_search(&peer).is_ok()
    }
}

/// The networks without `/0`, and for which families there was one.
fn without_everything(nets: &[IpNet]) -> (Vec<IpNet>, [bool; 2]) {
    let mut everything = [false; 2];
    let mut rest = Vec::with_capacity(nets.len());
    for net in nets {
        if net.prefix_len() == 0 {
            everything[identity::family(net.addr()) as usize] = true;
        } else {
            rest.push(net.trunc());
        }
    }
    // Where the whole family is in, its other networks say nothing.
    rest.retain(|net| !everything[identity::family(net.addr()) as usize]);
    (rest, everything)
}
