//! One model, compiled for comparison: the only part of [`crate::reach`] that reads what the
//! compiler makes.
//!
//! In: a [`Model`]. Out: [`Compiled`]: which address is which peer, which table an endpoint has,
//! and what a table says to a peer, as a *reading* ([`super::readings`]).

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use policy_api::messages::RuleName;
use policy_common::abi::Family;

use super::readings::{self, Reading};
use crate::{
    model::{EndpointId, Model},
    peers::{PeerName, Universe, WORLD},
    tables::{self, Tables},
    tiers,
    untracked::{self, Untracked},
};

/// The reading of an end at which nothing is enforced.
pub(super) const OPEN: usize = 0;

/// A compiled model.
pub(super) struct Compiled {
    universe: Universe,
    tables: Tables,
    blocks: Untracked,
}

impl Compiled {
    /// Compiles from scratch.
    pub(super) fn new(model: &Model) -> Compiled {
        let mut universe = Universe::new(model, tables::conditions(model));
        let tables = tables::compile(model, &tiers::of(model), &mut universe);
        Compiled { universe, tables, blocks: untracked::compile(model) }
    }

    /// Every address that has an owner, and its peer.
    pub(super) fn addresses(&self) -> &BTreeMap<IpAddr, usize> {
        &self.universe.addresses
    }

    /// Every prefix, and the peer of its addresses unless they have an owner or a longer prefix.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = (IpNet, usize)> {
        self.universe.cidrs.iter().copied()
    }

    /// The peer of all other addresses.
    pub(super) fn world(family: Family) -> usize {
        WORLD[family as usize]
    }

    /// Prefixes whose packets some uplink drops, and the reading that says so. Where uplinks
    /// differ, the first one's rule is named.
    pub(super) fn blocked(&self) -> impl Iterator<Item = (IpNet, usize)> {
        let first = 1 + self.tables.classes.len();
        let mut blocked: BTreeMap<IpNet, usize> = BTreeMap::new();
        for &list in self.blocks.uplinks.values() {
            for &(net, rule) in &self.blocks.lists[list].prefixes {
                blocked.entry(net).or_insert(first + rule);
            }
        }
        blocked.into_iter()
    }

    /// Name of a peer.
    pub(super) fn name(&self, peer: usize) -> PeerName {
        self.universe.name(peer)
    }

    /// Tables of an endpoint by direction.
    pub(super) fn tables(&self, endpoint: &EndpointId) -> Option<[usize; 2]> {
        self.tables.of_endpoint.get(endpoint).copied()
    }

    /// What a table says to a peer.
    pub(super) fn reading(&self, table: usize, peer: usize, family: Family) -> usize {
        let table = &self.tables.tables[table];
        let row = table.rows.binary_search_by_key(&peer, |&(peer, _)| peer);
        1 + row.map_or(table.defaults[family as usize], |row| table.rows[row].1)
    }

    /// Peers by what all tables say to them: two of one family with one number are treated alike.
    pub(super) fn columns(&self) -> Vec<usize> {
        let mut columns: Vec<Vec<(usize, usize)>> = vec![Vec::new(); self.universe.peers.len()];
        for (index, table) in self.tables.tables.iter().enumerate() {
            for &(peer, class) in &table.rows {
                columns[peer].push((index, class));
            }
        }
        let mut numbers = HashMap::new();
        let number = |column| {
            let next = numbers.len();
            *numbers.entry(column).or_insert(next)
        };
        columns.into_iter().map(number).collect()
    }

    /// All readings by number: [`OPEN`], one for each class, one for each rule of a block list.
    pub(super) fn readings(&self) -> Vec<Reading> {
        let classes = self.tables.classes.iter().map(|class| readings::of_class(class));
        let first = self.tables.names.len();
        let blocks = (0..self.blocks.names.len()).map(|rule| readings::deny(first + rule));
        std::iter::once(readings::open()).chain(classes).chain(blocks).collect()
    }

    /// A rule of a reading. Rules of block lists come after all others.
    pub(super) fn rule(&self, rule: usize) -> Option<&RuleName> {
        let names = &self.tables.names;
        names.get(rule).or_else(|| self.blocks.names.get(rule - names.len()))
    }

    /// Whether a rule of a reading is one of a block list.
    pub(super) fn is_block(&self, rule: usize) -> bool {
        rule >= self.tables.names.len()
    }
}
