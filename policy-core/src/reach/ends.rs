//! Who can be at an end of a connection, as coarsely as both models allow.
//!
//! In: two models with the same endpoints, compiled. Out: [`Group`]s of addresses: everybody in
//! one has the same tables, and every table of either model treats them alike. A thousand replicas
//! are one group, and so are a million prefixes.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;
use policy_common::abi::Family;

use super::compiled::{Compiled, OPEN};
use crate::{
    identity::{self, Owner},
    model::{EndpointId, Model},
    peers::PeerName,
    prefixes::Forest,
};

/// Prefixes of a network that are named.
pub(super) const SHOWN_NETS: usize = 3;

/// Before and after.
type Both<T> = [T; 2];

/// What makes addresses alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) family: Family,
    /// By what all tables say to them.
    pub(super) columns: Both<usize>,
    /// Tables by direction; `None` for what is no endpoint.
    pub(super) tables: Option<Both<[usize; 2]>>,
    /// What an uplink says to their packets, as a reading.
    pub(super) uplink: Both<usize>,
}

/// Addresses that are alike.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) key: Key,
    /// A peer of each model that stands for all.
    pub(super) peers: Both<usize>,
    pub(super) members: Vec<Member>,
}

/// One of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// An address of an endpoint.
    Endpoint(EndpointId),
    Host,
    World,
    /// Prefixes that are the same peer.
    Network {
        name: PeerName,
        nets: Vec<IpNet>,
        left_out: usize,
    },
}

/// The groups of two models.
pub(super) fn groups(models: Both<&Model>, compiled: &Both<Compiled>) -> Vec<Group> {
    let columns = [compiled[0].columns(), compiled[1].columns()];
    let mut builder = Builder { compiled, columns, groups: Vec::new(), index: HashMap::new() };
    builder.endpoints(models);
    builder.networks();
    builder.groups
}

struct Builder<'a> {
    compiled: &'a Both<Compiled>,
    columns: Both<Vec<usize>>,
    groups: Vec<Group>,
    index: HashMap<Key, usize>,
}

/// What holds for a prefix: peers, and what uplinks say.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    family: Family,
    peers: Both<usize>,
    uplink: Both<usize>,
}

/// What a prefix changes for the addresses in it, in the model before (0) or after (1).
#[derive(Clone, Copy)]
enum Mark {
    Peer(usize, usize),
    Uplink(usize, usize),
}

impl Builder<'_> {
    fn add(&mut self, state: State, tables: Option<Both<[usize; 2]>>, member: Member) {
        let key = Key {
            family: state.family,
            columns: [0, 1].map(|side| self.columns[side][state.peers[side]]),
            tables,
            uplink: state.uplink,
        };
        let groups = &mut self.groups;
        let index = *self.index.entry(key).or_insert_with(|| {
            groups.push(Group { key, peers: state.peers, members: Vec::new() });
            groups.len() - 1
        });
        // Addresses of one endpoint come one after the other.
        let members = &mut groups[index].members;
        if members.last() != Some(&member) {
            members.push(member);
        }
    }

    /// Endpoints that both models have, the host, and what host endpoints expect.
    fn endpoints(&mut self, models: Both<&Model>) {
        let owned = [self.compiled[0].addresses(), self.compiled[1].addresses()];
        let at = |address: &IpAddr| {
            let peers = [*owned[0].get(address)?, *owned[1].get(address)?];
            let family = identity::family(*address);
            Some(State { family, peers, uplink: [OPEN; 2] })
        };
        let owners = models.map(identity::owners);
        for (address, owner) in &owners[0] {
            let member = match (owner, owners[1].get(address)) {
                (Owner::Endpoint(..), _) | (_, None | Some(Owner::Endpoint(..))) => continue,
                (Owner::Host, Some(_)) => Member::Host,
                (Owner::HostEndpoint(endpoint), Some(_)) => Member::Network {
                    name: PeerName { namespace: String::new(), name: endpoint.name.clone() },
                    nets: vec![IpNet::from(*address)],
                    left_out: 0,
                },
            };
            if let Some(state) = at(address) {
                self.add(state, None, member);
            }
        }
        for (id, spec) in &models[0].endpoints {
            let tables = self.compiled.each_ref().map(|compiled| compiled.tables(id));
            let ([Some(before), Some(after)], Some(other)) = (tables, models[1].endpoints.get(id))
            else {
                continue;
            };
            for address in spec.addresses.iter().filter(|it| other.addresses.contains(it)) {
                // Link-local addresses have no owner.
                if let Some(state) = at(address) {
                    self.add(state, Some([before, after]), Member::Endpoint(id.clone()));
                }
            }
        }
    }

    /// All other addresses.
    fn networks(&mut self) {
        let mut marks = Vec::new();
        let mut entries: Vec<(IpNet, u32)> = Vec::new();
        for (side, compiled) in self.compiled.iter().enumerate() {
            let peers = compiled.prefixes().map(|(net, peer)| (net, Mark::Peer(side, peer)));
            let blocked = compiled.blocked().map(|(net, it)| (net, Mark::Uplink(side, it)));
            for (net, mark) in peers.chain(blocked) {
                entries.push((net, u32::try_from(marks.len()).unwrap_or(u32::MAX)));
                marks.push(mark);
            }
        }
        let forest = Forest::new(entries);
        let world = |family: Family| State {
            family,
            peers: [Compiled::world(family); 2],
            uplink: [OPEN; 2],
        };
        let mut states: Vec<State> = Vec::with_capacity(forest.nodes().len());
        for node in forest.nodes() {
            let around = node.parent.and_then(|parent| states.get(parent)).copied();
            let mut state = around.unwrap_or_else(|| world(identity::family(node.net.addr())));
            for &tag in forest.tags(node) {
                match marks.get(tag as usize) {
                    Some(&Mark::Peer(side, peer)) => state.peers[side] = peer,
                    Some(&Mark::Uplink(side, reading)) => state.uplink[side] = reading,
                    None => {}
                }
            }
            states.push(state);
        }
        let (left, world_left) = left(&forest, &self.compiled[0], &self.compiled[1]);
        for family in [Family::V4, Family::V6] {
            if world_left[family as usize] {
                self.add(world(family), None, Member::World);
            }
        }
        // One network for all prefixes that are the same, in the order of the first of each.
        let mut index: HashMap<State, usize> = HashMap::new();
        let mut networks: Vec<(State, Vec<IpNet>, usize)> = Vec::new();
        for ((node, state), _) in
            forest.nodes().iter().zip(&states).zip(left).filter(|(_, left)| *left)
        {
            let network = *index.entry(*state).or_insert_with(|| {
                networks.push((*state, Vec::new(), 0));
                networks.len() - 1
            });
            let (_, nets, left_out) = &mut networks[network];
            if nets.len() < SHOWN_NETS {
                nets.push(node.net);
            } else {
                *left_out += 1;
            }
        }
        for (state, nets, left_out) in networks {
            let member = match self.name(state, &nets) {
                Some(name) => Member::Network { name, nets, left_out },
                None => Member::World,
            };
            self.add(state, None, member);
        }
    }

    /// What the network is called where it has a name; a blocked prefix has only itself.
    fn name(&self, state: State, nets: &[IpNet]) -> Option<PeerName> {
        let names = [1, 0].map(|side: usize| self.compiled[side].name(state.peers[side]));
        if let Some(name) = names.into_iter().find(|name| *name != PeerName::world()) {
            return Some(name);
        }
        let net = nets.first().filter(|_| state.uplink != [OPEN; 2])?;
        Some(PeerName { namespace: String::new(), name: net.to_string() })
    }
}

/// Which prefixes have addresses that belong to no longer prefix and to nobody; and whether each
/// family has addresses outside all prefixes.
fn left(forest: &Forest, before: &Compiled, after: &Compiled) -> (Vec<bool>, [bool; 2]) {
    // Numbers of addresses, where 2 to the power of 128 counts as 0.
    let size = |net: &IpNet| {
        let bits = u32::from(net.max_prefix_len() - net.prefix_len());
        1_u128.checked_shl(bits).unwrap_or(0)
    };
    let whole: [u128; 2] = [1 << 32, 0];
    // What is taken of a prefix, and whether anything is.
    let mut taken = vec![(0_u128, false); forest.nodes().len()];
    let mut taken_of_world = [(0_u128, false); 2];
    let mut take = |owner: Option<usize>, family: Family, count: u128| {
        let place = match owner {
            Some(owner) => &mut taken[owner],
            None => &mut taken_of_world[family as usize],
        };
        *place = (place.0.wrapping_add(count), true);
    };
    for node in forest.nodes() {
        take(node.parent, identity::family(node.net.addr()), size(&node.net));
    }
    let only_after = after.addresses().keys().filter(|ip| !before.addresses().contains_key(ip));
    for &address in before.addresses().keys().chain(only_after) {
        take(forest.nearest(address), identity::family(address), 1);
    }
    let left = |(taken, any): (u128, bool), size: u128| !any || taken != size;
    let world = [0, 1].map(|family: usize| left(taken_of_world[family], whole[family]));
    let nodes = forest.nodes().iter().zip(taken);
    (nodes.map(|(node, taken)| left(taken, size(&node.net))).collect(), world)
}
