//! Peers: everybody whom rules can tell apart.
//!
//! In: identities (endpoints, the host), groups (network sets, and the lists of networks that rules
//! name), conditions of rules. Out: a `Peers`: each peer is one combination of family, identity
//! and groups; and, for each condition, the peers that meet it.
//!
//! A group is one object however many prefixes it has, so a million prefixes of one network set
//! are one peer, and a condition is decided a peer at a time. `/0` in a rule is no group: it says
//! "any address of that family", the world included.
//!
//! Nothing here depends on which model is in force: a peer is a value, and so is what a condition
//! says to it. A `Peers` therefore only ever grows, from one model to the next, and everything in
//! it stays true. Which address is which peer is [`crate::division`]'s to say.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use policy_common::abi::Family;

use crate::{
    digest::Digest,
    host::HostEndpoint,
    identity,
    labels::Labels,
    model::{EndpointSpec, Model, NamedPort, NetworkSet},
    policy::EntityMatch,
    selector::Selector,
};

mod conditions;
mod name;

use conditions::{Condition, Selected};
pub(crate) use conditions::{ConditionId, SelectorId};
pub use name::PeerName;

/// Index of [`policy_common::abi::PEER_WORLD_V4`] and of `PEER_WORLD_V6` among the peers.
pub(crate) const WORLD: [usize; 2] = [0, 1];

/// The set of no groups.
pub(crate) const NO_GROUPS: SetId = SetId(0);

/// Who is behind an exact address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    namespace: String,
    /// Workload name; empty for the host.
    name: String,
    labels: Labels,
    /// Named ports, sorted.
    pub(crate) ports: Vec<NamedPort>,
}

impl Identity {
    pub(crate) fn host() -> Identity {
        Identity {
            namespace: String::new(),
            name: String::new(),
            labels: identity::host_labels(),
            ports: Vec::new(),
        }
    }

    pub(crate) fn host_endpoint(
        model: &Model,
        endpoint: &HostEndpoint,
        address: IpAddr,
    ) -> Identity {
        Identity {
            namespace: String::new(),
            name: endpoint.name.clone(),
            labels: endpoint.peer_labels(model.host_addresses.contains(&address)),
            ports: endpoint.ports.clone(),
        }
    }

    pub(crate) fn endpoint(model: &Model, endpoint: &EndpointSpec) -> Identity {
        let mut ports = endpoint.ports.clone();
        ports.sort_unstable();
        ports.dedup();
        Identity {
            namespace: endpoint.namespace.clone(),
            name: endpoint.name.clone(),
            labels: identity::endpoint_labels(model, endpoint),
            ports,
        }
    }
}

/// Something that a prefix can belong to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Group {
    /// A network set: selectors match its labels. Its networks are not part of what it is, so that
    /// one more network leaves the others alone.
    Set { namespace: String, name: String, labels: Labels },
    /// The networks that a rule names, without `/0`.
    Nets(Arc<[IpNet]>),
}

impl Group {
    pub(crate) fn set(model: &Model, set: &NetworkSet) -> Group {
        Group::Set {
            namespace: set.namespace.clone(),
            name: set.name.clone(),
            labels: identity::network_set_labels(model, set),
        }
    }
}

/// Which group.
pub(crate) type GroupId = u32;

/// A set of groups; equal sets have one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SetId(u32);

/// One peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Family of its addresses.
    pub(crate) family: Family,
    /// Index into [`Peers::identities`].
    pub(crate) identity: Option<usize>,
    /// Groups.
    groups: SetId,
    /// The same peer in another run of the agent.
    pub(crate) digest: Digest,
    /// The conditions that treat it unlike the world.
    pub(crate) singled_out: Vec<ConditionId>,
}

/// Everybody that rules have been able to tell apart so far.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    pub(crate) identities: Vec<Identity>,
    identity_index: HashMap<Identity, usize>,
    identity_digests: Vec<Digest>,
    /// Entity of each identity.
    identity_entity: Vec<usize>,
    /// Distinct label sets, of identities and network sets.
    entities: Vec<Labels>,
    entity_index: HashMap<Labels, usize>,
    /// Peers of each entity.
    by_entity: Vec<Vec<usize>>,
    /// Selectors that match each entity.
    selecting: Vec<Vec<SelectorId>>,
    groups: Vec<Group>,
    group_index: HashMap<Group, GroupId>,
    group_digests: Vec<Digest>,
    /// Entity of each group that is a network set.
    group_entity: Vec<Option<usize>>,
    /// Peers in each group.
    by_group: Vec<Vec<usize>>,
    /// Conditions that name each group's networks.
    naming: Vec<Vec<ConditionId>>,
    sets: Sets,
    peers: Vec<Peer>,
    index: HashMap<(Family, Option<usize>, SetId), usize>,
    selectors: Vec<Selected>,
    selector_index: HashMap<Selector, SelectorId>,
    conditions: Vec<Condition>,
    condition_index: HashMap<EntityMatch, ConditionId>,
}

impl Default for Peers {
    /// The world, in both families.
    fn default() -> Self {
        let mut peers = Peers {
            identities: Vec::new(),
            identity_index: HashMap::new(),
            identity_digests: Vec::new(),
            identity_entity: Vec::new(),
            entities: Vec::new(),
            entity_index: HashMap::new(),
            by_entity: Vec::new(),
            selecting: Vec::new(),
            groups: Vec::new(),
            group_index: HashMap::new(),
            group_digests: Vec::new(),
            group_entity: Vec::new(),
            by_group: Vec::new(),
            naming: Vec::new(),
            sets: Sets::default(),
            peers: Vec::new(),
            index: HashMap::new(),
            selectors: Vec::new(),
            selector_index: HashMap::new(),
            conditions: Vec::new(),
            condition_index: HashMap::new(),
        };
        peers.peer(Family::V4, None, NO_GROUPS);
        peers.peer(Family::V6, None, NO_GROUPS);
        peers
    }
}

impl Peers {
    /// How many things are kept that no model may have a use for any more.
    pub(crate) fn weight(&self) -> usize {
        self.peers.len() + self.conditions.len() + self.selectors.len() + self.entities.len()
    }

    /// How many peers there have been.
    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(crate) fn get(&self, peer: usize) -> &Peer {
        &self.peers[peer]
    }

    /// Named ports of a peer.
    pub(crate) fn ports(&self, peer: usize) -> &[NamedPort] {
        let identity = self.peers[peer].identity;
        identity.map_or(&[], |identity| self.identities[identity].ports.as_slice())
    }

    /// The set with one more group.
    pub(crate) fn with(&mut self, set: SetId, group: GroupId) -> SetId {
        let mut groups = self.sets.lists[set.0 as usize].to_vec();
        if let Err(at) = groups.binary_search(&group) {
            groups.insert(at, group);
        }
        self.sets.id(groups)
    }

    /// The set without a group.
    pub(crate) fn without(&mut self, set: SetId, group: GroupId) -> SetId {
        let mut groups = self.sets.lists[set.0 as usize].to_vec();
        groups.retain(|other| *other != group);
        self.sets.id(groups)
    }

    /// What is in either set.
    pub(crate) fn union(&mut self, a: SetId, b: SetId) -> SetId {
        self.sets.union(a, b)
    }

    /// The group, as it was known or as a new one.
    pub(crate) fn group(&mut self, group: &Group) -> GroupId {
        if let Some(&known) = self.group_index.get(group) {
            return known;
        }
        let id = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        let entity = match group {
            Group::Set { labels, .. } => Some(self.entity(labels)),
            Group::Nets(_) => None,
        };
        self.group_entity.push(entity);
        self.group_digests.push(Digest::of("group", group));
        self.by_group.push(Vec::new());
        self.naming.push(Vec::new());
        self.groups.push(group.clone());
        self.group_index.insert(group.clone(), id);
        id
    }

    /// The identity, as it was known or as a new one.
    pub(crate) fn identity(&mut self, identity: Identity) -> usize {
        if let Some(&index) = self.identity_index.get(&identity) {
            return index;
        }
        let entity = self.entity(&identity.labels);
        let index = self.identities.len();
        self.identity_entity.push(entity);
        self.identity_digests.push(Digest::of("identity", &identity));
        self.identities.push(identity.clone());
        self.identity_index.insert(identity, index);
        index
    }

    /// Labels of an identity, as [`Peers::selects`] counts them.
    pub(crate) fn entity_of(&self, identity: usize) -> usize {
        self.identity_entity[identity]
    }

    fn entity(&mut self, labels: &Labels) -> usize {
        if let Some(&entity) = self.entity_index.get(labels) {
            return entity;
        }
        let entity = self.entities.len();
        self.select(entity, labels);
        self.entities.push(labels.clone());
        self.entity_index.insert(labels.clone(), entity);
        self.by_entity.push(Vec::new());
        entity
    }

    /// The peer, as it was known or as a new one.
    pub(crate) fn peer(&mut self, family: Family, identity: Option<usize>, groups: SetId) -> usize {
        if let Some(&peer) = self.index.get(&(family, identity, groups)) {
            return peer;
        }
        let peer = self.peers.len();
        let list = Arc::clone(&self.sets.lists[groups.0 as usize]);
        let mut contained: Vec<Digest> =
            list.iter().map(|&group| self.group_digests[group as usize]).collect();
        contained.sort_unstable();
        let who = identity.map(|identity| self.identity_digests[identity]);
        let digest = Digest::of("peer", &(family, who, contained));
        let singled_out = Vec::new();
        self.peers.push(Peer { family, identity, groups, digest, singled_out });
        self.index.insert((family, identity, groups), peer);
        for &group in list.iter() {
            self.by_group[group as usize].push(peer);
        }
        let entities = self.entities_of(identity, &list);
        for &entity in &entities {
            self.by_entity[entity].push(peer);
        }
        self.judge(peer, &entities, &list);
        peer
    }

    /// The entities that an address of an identity in these groups is, ascending.
    fn entities_of(&self, identity: Option<usize>, groups: &[GroupId]) -> Vec<usize> {
        let of_groups = groups.iter().filter_map(|&group| self.group_entity[group as usize]);
        let of_identity = identity.map(|identity| self.identity_entity[identity]);
        let mut entities: Vec<usize> = of_groups.chain(of_identity).collect();
        entities.sort_unstable();
        entities.dedup();
        entities
    }
}

/// Sets of groups, each with one id. The first is the empty one.
#[derive(Clone, Debug)]
struct Sets {
    lists: Vec<Arc<[GroupId]>>,
    index: HashMap<Arc<[GroupId]>, SetId>,
    unions: HashMap<(SetId, SetId), SetId>,
}

impl Default for Sets {
    fn default() -> Self {
        let nothing: Arc<[GroupId]> = Arc::default();
        let index = HashMap::from([(Arc::clone(&nothing), NO_GROUPS)]);
        Sets { lists: vec![nothing], index, unions: HashMap::new() }
    }
}

impl Sets {
    /// The id of a sorted list.
    fn id(&mut self, groups: Vec<GroupId>) -> SetId {
        if let Some(&known) = self.index.get(groups.as_slice()) {
            return known;
        }
        let id = SetId(u32::try_from(self.lists.len()).unwrap_or(u32::MAX));
        let groups: Arc<[GroupId]> = groups.into();
        self.lists.push(Arc::clone(&groups));
        self.index.insert(groups, id);
        id
    }

    fn union(&mut self, a: SetId, b: SetId) -> SetId {
        // The usual cases a million times over: nothing around, or the same as around.
        if a == NO_GROUPS || a == b {
            return b;
        }
        if b == NO_GROUPS {
            return a;
        }
        if let Some(&known) = self.unions.get(&(a, b)) {
            return known;
        }
        let lists = [a, b].map(|set| Arc::clone(&self.lists[set.0 as usize]));
        let mut groups: Vec<GroupId> = lists.iter().flat_map(|list| list.iter().copied()).collect();
        groups.sort_unstable();
        groups.dedup();
        let id = self.id(groups);
        self.unions.insert((a, b), id);
        id
    }
}

#[cfg(test)]
mod tests;
