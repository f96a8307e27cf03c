//! Peers: the finest division of all addresses that the rules of a model can ask for.
//!
//! In: the [`Model`] and the conditions of every rule. Out: a `Universe`: each peer is one
//! combination of family, identity (the endpoint or the host behind an exact address) and *groups*
//! (network sets, and the lists of networks that rules name) that the address is in; which exact
//! address and which prefix is which peer; and, for each condition, the peers that meet it.
//!
//! A group is one object however many prefixes it has, so a million prefixes of one network set
//! are one peer, and a condition is decided a peer at a time. `/0` in a rule is no group: it says
//! "any address of that family", the world included.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use fixedbitset::FixedBitSet;
use ipnet::IpNet;
use policy_common::abi::Family;

use crate::{
    digest::Digest,
    host::HostEndpoint,
    identity::{self, HOST_LABEL, Owner},
    labels::Labels,
    model::{EndpointId, EndpointSpec, Model, NamedPort},
    policy::EntityMatch,
    prefixes::Forest,
    selector::Selector,
};

mod name;

pub use name::PeerName;

/// Index of [`policy_common::abi::PEER_WORLD_V4`] and of `PEER_WORLD_V6` in [`Universe::peers`].
pub(crate) const WORLD: [usize; 2] = [0, 1];

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
    fn host() -> Identity {
        Identity {
            namespace: String::new(),
            name: String::new(),
            labels: identity::host_labels(),
            ports: Vec::new(),
        }
    }

    fn host_endpoint(model: &Model, endpoint: &HostEndpoint, address: IpAddr) -> Identity {
        Identity {
            namespace: String::new(),
            name: endpoint.name.clone(),
            labels: endpoint.peer_labels(model.host_addresses.contains(&address)),
            ports: endpoint.ports.clone(),
        }
    }

    /// Whether it is of this host.
    fn is_host(&self) -> bool {
        self.namespace.is_empty() && self.labels.get(HOST_LABEL).is_some()
    }

    fn endpoint(model: &Model, endpoint: &EndpointSpec) -> Identity {
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
enum Group {
    /// A network set: selectors match its labels. Its networks are not part of what it is, so that
    /// one more network leaves the others alone.
    Set { namespace: String, name: String, labels: Labels },
    /// The networks that a rule names, without `/0`.
    Nets(Vec<IpNet>),
}

/// One peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Family of its addresses.
    pub(crate) family: Family,
    /// Index into [`Universe::identities`].
    pub(crate) identity: Option<usize>,
    /// Groups, sorted.
    groups: Arc<[u32]>,
    /// The same peer in another run of the agent.
    pub(crate) digest: Digest,
    /// Whether an address or prefix of the datapath is this peer.
    pub(crate) live: bool,
}

/// The peers that meet a condition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matches {
    /// Whether an address with neither identity nor groups does, by family.
    pub(crate) world: [bool; 2],
    /// The peers (sorted) for which the answer is the other one.
    pub(crate) others: Vec<usize>,
}

impl Matches {
    /// Whether a peer meets the condition.
    pub(crate) fn contains(&self, peer: usize, family: Family) -> bool {
        self.world[family as usize] ^ self.others.binary_search(&peer).is_ok()
    }
}

/// Everybody that rules can tell apart.
#[derive(Debug, Default)]
pub(crate) struct Universe {
    pub(crate) identities: Vec<Identity>,
    groups: Vec<Group>,
    pub(crate) peers: Vec<Peer>,
    /// Exact addresses.
    pub(crate) addresses: BTreeMap<IpAddr, usize>,
    /// Prefixes, in ascending order; one that would be the same peer as the next longer prefix
    /// around it is left out.
    pub(crate) cidrs: Vec<(IpNet, usize)>,
    /// The peers that an endpoint is itself: one for each own address, at least one a family.
    pub(crate) own: BTreeMap<EndpointId, [Vec<usize>; 2]>,
    /// Distinct label sets, of identities and network sets.
    entities: Vec<Labels>,
    /// Entity of each identity.
    identity_entity: Vec<usize>,
    /// Peers of each entity.
    by_entity: Vec<Vec<usize>>,
    /// Peers in each group.
    by_group: Vec<Vec<usize>>,
    group_index: HashMap<Group, u32>,
    selected: HashMap<Selector, Arc<FixedBitSet>>,
    matches: HashMap<EntityMatch, Arc<Matches>>,
}

impl Universe {
    /// Divides the addresses of `model` as finely as the `conditions` need.
    pub(crate) fn new<'a>(
        model: &Model,
        conditions: impl Iterator<Item = &'a EntityMatch>,
    ) -> Universe {
        let mut builder = Builder::default();
        let mut entries = Vec::new();
        for set in model.network_sets.values() {
            let group = builder.universe.group(Group::Set {
                namespace: set.namespace.clone(),
                name: set.name.clone(),
                labels: identity::network_set_labels(model, set),
            });
            entries.extend(set.nets.iter().map(|net| (*net, group)));
        }
        for nets in conditions.flat_map(|side| [&side.nets, &side.not_nets]) {
            let (nets, _) = without_everything(nets);
            if nets.is_empty()
                || builder.universe.group_index.contains_key(&Group::Nets(nets.clone()))
            {
                continue;
            }
            let group = builder.universe.group(Group::Nets(nets.clone()));
            entries.extend(nets.iter().map(|net| (*net, group)));
        }
        builder.build(model, entries)
    }

    fn group(&mut self, group: Group) -> u32 {
        let next = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        *self.group_index.entry(group).or_insert_with_key(|group| {
            self.groups.push(group.clone());
            next
        })
    }

    /// The peers that are the host.
    pub(crate) fn host_peers(&self) -> Vec<usize> {
        let is_host = |peer: &Peer| peer.identity.is_some_and(|it| self.identities[it].is_host());
        (0..self.peers.len()).filter(|&peer| is_host(&self.peers[peer])).collect()
    }

    /// Labels of an endpoint, as [`Universe::selects`] counts them.
    pub(crate) fn entity_of(&self, endpoint: &EndpointId) -> Option<usize> {
        let own = self.own.get(endpoint)?;
        let peer = *own[0].first().or(own[1].first())?;
        Some(self.identity_entity[self.peers[peer].identity?])
    }

    /// The entities that a selector matches.
    pub(crate) fn selects(&mut self, selector: &Selector) -> Arc<FixedBitSet> {
        if let Some(found) = self.selected.get(selector) {
            return Arc::clone(found);
        }
        let mut bits = FixedBitSet::with_capacity(self.entities.len());
        for (entity, labels) in self.entities.iter().enumerate() {
            bits.set(entity, selector.matches(labels));
        }
        let bits = Arc::new(bits);
        self.selected.insert(selector.clone(), Arc::clone(&bits));
        bits
    }

    /// The peers that meet the conditions of `side`; its ports are not looked at.
    pub(crate) fn matching(&mut self, side: &EntityMatch) -> Arc<Matches> {
        let mut key = side.clone();
        key.ports.clear();
        key.not_ports.clear();
        if let Some(found) = self.matches.get(&key) {
            return Arc::clone(found);
        }
        let found = Arc::new(self.decide(&key));
        self.matches.insert(key, Arc::clone(&found));
        found
    }

    fn decide(&mut self, side: &EntityMatch) -> Matches {
        // Felix joins a selector and a notSelector of one side into one expression
        // (`combineMatchesIfPossible`), which some one entity must meet; a lone notSelector is met
        // by who is no entity that it selects, and so by the world.
        let (entities, wanted) = match (&side.selector, &side.not_selector) {
            (Some(selector), None) => (self.selects(selector), true),
            (Some(selector), Some(not)) => {
                let mut bits = (*self.selects(selector)).clone();
                bits.difference_with(&self.selects(not));
                (Arc::new(bits), true)
            }
            (None, Some(not)) => (self.selects(not), false),
            (None, None) => (Arc::default(), false),
        };
        let (nets, any) = without_everything(&side.nets);
        let (not_nets, none) = without_everything(&side.not_nets);
        let members = |nets: Vec<IpNet>| {
            let group = self.group_index.get(&Group::Nets(nets));
            group.map_or(&[][..], |&group| self.by_group[group as usize].as_slice())
        };
        let (inside, outside) = (members(nets), members(not_nets));

        let mut hits: BTreeMap<usize, [bool; 3]> = BTreeMap::new();
        for peer in entities.ones().flat_map(|entity| &self.by_entity[entity]) {
            hits.entry(*peer).or_default()[0] = true;
        }
        for peer in inside {
            hits.entry(*peer).or_default()[1] = true;
        }
        for peer in outside {
            hits.entry(*peer).or_default()[2] = true;
        }
        let met = |family: Family, [selected, inside, outside]: [bool; 3]| {
            let family = family as usize;
            selected == wanted
                && (side.nets.is_empty() || any[family] || inside)
                && !none[family]
                && !outside
        };
        let world = [Family::V4, Family::V6].map(|family| met(family, [false; 3]));
        let differs = |(peer, hits): (usize, [bool; 3])| {
            let family = self.peers[peer].family;
            (met(family, hits) != world[family as usize]).then_some(peer)
        };
        Matches { world, others: hits.into_iter().filter_map(differs).collect() }
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

/// What a peer is made of: family, identity, groups.
type PeerParts = (Family, Option<usize>, Arc<[u32]>);

#[derive(Default)]
struct Builder {
    universe: Universe,
    index: HashMap<PeerParts, usize>,
    group_digests: Vec<Digest>,
    identity_digests: Vec<Digest>,
    identity_index: HashMap<Identity, usize>,
    entity_index: HashMap<Labels, usize>,
}

impl Builder {
    fn build(mut self, model: &Model, entries: Vec<(IpNet, u32)>) -> Universe {
        self.group_digests =
            self.universe.groups.iter().map(|group| Digest::of("group", group)).collect();
        self.peer(Family::V4, None, Arc::default());
        self.peer(Family::V6, None, Arc::default());

        let forest = Forest::new(entries);
        let groups = groups_of(&forest);
        let mut of_node: Vec<usize> = Vec::with_capacity(forest.nodes().len());
        for (node, groups) in forest.nodes().iter().zip(&groups) {
            let family = identity::family(node.net.addr());
            let peer = match node.parent {
                // The usual case a million times over: nothing new, no look-up.
                Some(parent)
                    if Arc::ptr_eq(groups, &self.universe.peers[of_node[parent]].groups) =>
                {
                    of_node[parent]
                }
                _ => self.peer(family, None, Arc::clone(groups)),
            };
            if node.parent.is_none_or(|parent| of_node[parent] != peer) {
                self.universe.peers[peer].live = true;
                self.universe.cidrs.push((node.net, peer));
            }
            of_node.push(peer);
        }
        let groups_at = |address: IpAddr| {
            forest.nearest(address).map_or_else(Arc::default, |node| Arc::clone(&groups[node]))
        };

        for (address, owner) in identity::owners(model) {
            let identity = match owner {
                Owner::Host => self.identity(Identity::host()),
                Owner::HostEndpoint(endpoint) => {
                    self.identity(Identity::host_endpoint(model, endpoint, address))
                }
                Owner::Endpoint(_, endpoint) => self.identity(Identity::endpoint(model, endpoint)),
            };
            let peer = self.peer(identity::family(address), Some(identity), groups_at(address));
            self.universe.peers[peer].live = true;
            self.universe.addresses.insert(address, peer);
        }
        for (id, endpoint) in &model.endpoints {
            let identity = self.identity(Identity::endpoint(model, endpoint));
            let mut own = [Vec::new(), Vec::new()];
            for &address in &endpoint.addresses {
                if !identity::is_link_local(address) {
                    let family = identity::family(address);
                    own[family as usize].push(self.peer(
                        family,
                        Some(identity),
                        groups_at(address),
                    ));
                }
            }
            for family in [Family::V4, Family::V6] {
                let own = &mut own[family as usize];
                if own.is_empty() {
                    own.push(self.peer(family, Some(identity), Arc::default()));
                }
                own.sort_unstable();
                own.dedup();
            }
            self.universe.own.insert(id.clone(), own);
        }
        self.finish()
    }

    fn identity(&mut self, identity: Identity) -> usize {
        if let Some(&index) = self.identity_index.get(&identity) {
            return index;
        }
        let entity = self.entity(&identity.labels);
        self.universe.identity_entity.push(entity);
        self.identity_digests.push(Digest::of("identity", &identity));
        let index = self.universe.identities.len();
        self.universe.identities.push(identity.clone());
        self.identity_index.insert(identity, index);
        index
    }

    fn entity(&mut self, labels: &Labels) -> usize {
        let next = self.entity_index.len();
        *self.entity_index.entry(labels.clone()).or_insert_with(|| {
            self.universe.entities.push(labels.clone());
            next
        })
    }

    fn peer(&mut self, family: Family, identity: Option<usize>, groups: Arc<[u32]>) -> usize {
        let universe = &mut self.universe;
        *self.index.entry((family, identity, groups)).or_insert_with_key(|(_, _, groups)| {
            let mut contained: Vec<_> =
                groups.iter().map(|&group| self.group_digests[group as usize]).collect();
            contained.sort_unstable();
            let who = identity.map(|identity| self.identity_digests[identity]);
            universe.peers.push(Peer {
                family,
                identity,
                groups: Arc::clone(groups),
                digest: Digest::of("peer", &(family, who, contained)),
                live: false,
            });
            universe.peers.len() - 1
        })
    }

    fn finish(mut self) -> Universe {
        let entity_of_group: Vec<Option<usize>> = (0..self.universe.groups.len())
            .map(|group| match self.universe.groups[group].clone() {
                Group::Set { labels, .. } => Some(self.entity(&labels)),
                Group::Nets(_) => None,
            })
            .collect();
        let mut universe = self.universe;
        universe.by_entity = vec![Vec::new(); universe.entities.len()];
        universe.by_group = vec![Vec::new(); universe.groups.len()];
        for (index, peer) in universe.peers.iter().enumerate() {
            for &group in peer.groups.iter() {
                universe.by_group[group as usize].push(index);
            }
            let of_groups = peer.groups.iter().filter_map(|&group| entity_of_group[group as usize]);
            let of_identity = peer.identity.map(|identity| universe.identity_entity[identity]);
            let mut entities: Vec<usize> = of_groups.chain(of_identity).collect();
            entities.sort_unstable();
            entities.dedup();
            for entity in entities {
                universe.by_entity[entity].push(index);
            }
        }
        universe
    }
}

/// For each node, every group that one of its prefixes up to the root belongs to. Equal sets are
/// one allocation.
fn groups_of(forest: &Forest) -> Vec<Arc<[u32]>> {
    let mut sets: HashMap<Vec<u32>, Arc<[u32]>> = HashMap::new();
    // By the parent's set (its address is its identity here) and the node's own groups.
    let mut joined: HashMap<(usize, &[u32]), Arc<[u32]>> = HashMap::new();
    let mut of_node: Vec<Arc<[u32]>> = Vec::with_capacity(forest.nodes().len());
    for node in forest.nodes() {
        let own = forest.tags(node);
        let around: Option<&Arc<[u32]>> = node.parent.map(|parent| &of_node[parent]);
        let key = (around.map_or(0, |set| set.as_ptr() as usize), own);
        let set = joined.entry(key).or_insert_with(|| {
            let mut all: Vec<u32> =
                around.iter().flat_map(|set| set.iter()).chain(own).copied().collect();
            all.sort_unstable();
            all.dedup();
            Arc::clone(sets.entry(all).or_insert_with_key(|all| all.as_slice().into()))
        });
        of_node.push(Arc::clone(set));
    }
    of_node
}

#[cfg(test)]
mod tests;
