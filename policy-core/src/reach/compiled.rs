//! One model, compiled for comparison: the only part of [`crate::reach`] that reads what the
//! compiler makes.
//!
//! In: a [`Model`]. Out: [`Compiled`]: which address is which peer, which table an endpoint has,
//! and what a table says to a peer, as a *reading* ([`super::readings`]).

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use policy_api::messages::RuleName;
use policy_common::abi::Family;

use super::readings::{self, Reading};
use crate::{
    model::{EndpointId, Model},
    peers::{PeerName, WORLD},
    tables::{ClassId, TableId},
    untracked::Untracked,
    workspace::Workspace,
};

/// The reading of an end at which nothing is enforced.
pub(super) const OPEN: usize = 0;

/// A compiled model.
pub(super) struct Compiled {
    workspace: Workspace,
    /// Ascending.
    tables: Vec<(TableId, Table)>,
    /// The classes that the tables have.
    classes: Vec<ClassId>,
    blocks: Arc<Untracked>,
}

/// A table, with classes by their place in [`Compiled::classes`].
struct Table {
    defaults: [usize; 2],
    /// By peer, ascending.
    rows: Vec<(usize, usize)>,
}

impl Compiled {
    /// Compiles from scratch.
    pub(super) fn new(model: &Model) -> Compiled {
        let mut workspace = Workspace::default();
        workspace.follow(model);
        let (blocks, _) = workspace.blocks();
        let Workspace { peers, division, tables, .. } = &mut workspace;
        let known: Vec<(TableId, [ClassId; 2])> =
            tables.iter().map(|(id, table)| (id, table.defaults)).collect();
        let mut classes = Vec::new();
        let mut index = HashMap::new();
        let mut place = |class: ClassId| {
            *index.entry(class).or_insert_with(|| {
                classes.push(class);
                classes.len() - 1
            })
        };
        let mut compiled = Vec::with_capacity(known.len());
        for (id, defaults) in known {
            let rows = tables.rows(id, division, peers);
            let rows = rows.into_iter().map(|(peer, class)| (peer, place(class))).collect();
            compiled.push((id, Table { defaults: defaults.map(&mut place), rows }));
        }
        Compiled { workspace, tables: compiled, classes, blocks }
    }

    /// Every address that has an owner, and its peer.
    pub(super) fn addresses(&self) -> &BTreeMap<IpAddr, usize> {
        self.workspace.division.addresses()
    }

    /// Every prefix, and the peer of its addresses unless they have an owner or a longer prefix.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = (IpNet, usize)> {
        self.workspace.division.prefixes().peers()
    }

    /// The peer of all other addresses.
    pub(super) fn world(family: Family) -> usize {
        WORLD[family as usize]
    }

    /// Prefixes whose packets some uplink drops, and the reading that says so. Where uplinks
    /// differ, the first one's rule is named.
    pub(super) fn blocked(&self) -> impl Iterator<Item = (IpNet, usize)> {
        let first = 1 + self.classes.len();
        let mut blocked: BTreeMap<IpNet, usize> = BTreeMap::new();
        for uplink in self.blocks.uplinks.values() {
            for &(net, source) in &self.blocks.lists[uplink.list].prefixes {
                blocked.entry(net).or_insert(first + source.rule);
            }
        }
        blocked.into_iter()
    }

    /// Name of a peer.
    pub(super) fn name(&self, peer: usize) -> PeerName {
        self.workspace.peers.name(peer)
    }

    /// Tables of an endpoint by direction.
    pub(super) fn tables(&self, endpoint: &EndpointId) -> Option<[usize; 2]> {
        let [ingress, egress] = self.workspace.tables.of_endpoint(endpoint)?;
        let place = |table| self.tables.binary_search_by_key(&table, |(id, _)| *id).ok();
        Some([place(ingress)?, place(egress)?])
    }

    /// What a table says to a peer.
    pub(super) fn reading(&self, table: usize, peer: usize, family: Family) -> usize {
        let (_, table) = &self.tables[table];
        let row = table.rows.binary_search_by_key(&peer, |&(peer, _)| peer);
        1 + row.map_or(table.defaults[family as usize], |row| table.rows[row].1)
    }

    /// Peers by what all tables say to them: two of one family with one number are treated alike.
    pub(super) fn columns(&self) -> Vec<usize> {
        let mut columns: Vec<Vec<(usize, usize)>> = vec![Vec::new(); self.workspace.peers.len()];
        for (index, (_, table)) in self.tables.iter().enumerate() {
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
        let all = &self.workspace.tables.classes;
        let content = |&class| all.get(class).unwrap_or_default();
        let classes = self.classes.iter().map(|class| readings::of_class(&content(class)));
        let first = all.names().len();
        let blocks = (0..self.blocks.names.len()).map(|rule| readings::deny(first + rule));
        std::iter::once(readings::open()).chain(classes).chain(blocks).collect()
    }

    /// A rule of a reading. Rules of block lists come after all others.
    pub(super) fn rule(&self, rule: usize) -> Option<&RuleName> {
        let names = self.workspace.tables.classes.names();
        match names.get(rule) {
            Some(name) => Some(name),
            None => self.blocks.names.get(rule - names.len()),
        }
    }

    /// Whether a rule of a reading is one of a block list.
    pub(super) fn is_block(&self, rule: usize) -> bool {
        rule >= self.workspace.tables.classes.names().len()
    }
}
