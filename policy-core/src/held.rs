//! What the maps hold, counted: which numbers are in use, and how many rows nothing leads to.
//!
//! In: an [`Image`], then each operation that changes it. Out: for each number whether it is *live*
//! (an address, prefix or endpoint leads to it) or at least still there.

use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;
use policy_common::abi::{Blocked, ClassKey, Endpoint, RULE_NONE, Uplink};

use crate::plan::{Image, Op};

/// What refers to a number.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    /// Entries that lead to it.
    live: u32,
    /// Rows.
    rows: u32,
}

/// Numbers of one kind.
#[derive(Clone, Debug, Default)]
struct Kind {
    uses: HashMap<u32, Uses>,
    /// Rows of numbers that nothing leads to.
    dead_rows: usize,
    /// Numbers that have been released, and may be in use again.
    released: BTreeSet<u32>,
}

impl Kind {
    fn change(&mut self, number: u32, change: impl FnOnce(&mut Uses)) {
        let uses = self.uses.entry(number).or_default();
        let dead = |uses: &Uses| if uses.live == 0 { uses.rows as usize } else { 0 };
        self.dead_rows -= dead(uses);
        change(uses);
        self.dead_rows += dead(uses);
        if uses.live == 0 && uses.rows == 0 {
            self.uses.remove(&number);
            self.released.insert(number);
        }
    }

    fn lead(&mut self, number: u32) {
        self.change(number, |uses| uses.live += 1);
    }

    fn leave(&mut self, number: u32) {
        self.change(number, |uses| uses.live = uses.live.saturating_sub(1));
    }

    fn is_live(&self, number: u32) -> bool {
        self.uses.get(&number).is_some_and(|uses| uses.live > 0)
    }
}

/// The numbers that the maps hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    peers: Kind,
    tables: Kind,
    lists: Kind,
    /// Rules that stand in maps of their own: of block lists, limits of new flows, failsafe ports,
    /// undecided packets.
    rules: Kind,
    rows: usize,
    addresses: [usize; 2],
    cidrs: [usize; 2],
    blocks: [usize; 2],
}

/// Numbers that have been released since they were last asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Released {
    pub(crate) peers: BTreeSet<u32>,
    pub(crate) tables: BTreeSet<u32>,
    pub(crate) lists: BTreeSet<u32>,
    pub(crate) rules: BTreeSet<u32>,
}

fn family(is_v4: bool) -> usize {
    usize::from(!is_v4)
}

fn of_net(net: &IpNet) -> usize {
    family(matches!(net, IpNet::V4(_)))
}

impl Held {
    /// Counts everything.
    pub(crate) fn of(image: &Image) -> Held {
        let mut held = Held::default();
        for (address, &peer) in &image.addresses {
            held.addresses[family(address.is_ipv4())] += 1;
            held.peers.lead(peer);
        }
        for (net, &peer) in &image.cidrs {
            held.cidrs[of_net(net)] += 1;
            held.peers.lead(peer);
        }
        for endpoint in image.endpoints.values() {
            held.endpoint(endpoint, true);
        }
        for key in image.classes.keys() {
            held.row(*key, true);
        }
        for ((list, net), &blocked) in &image.blocks {
            held.blocks[of_net(net)] += 1;
            held.lists.lead(*list);
            held.blocked(blocked, true);
        }
        for &uplink in image.uplinks.values() {
            held.uplink(uplink, true);
        }
        for &rule in image.failsafe.values() {
            held.rules.lead(rule);
        }
        held
    }

    /// Whether an address or prefix is this peer, one of a block list included.
    pub(crate) fn is_live_peer(&self, peer: u32) -> bool {
        self.peers.is_live(peer)
    }

    /// Whether an endpoint has this table.
    pub(crate) fn is_live_table(&self, table: u32) -> bool {
        self.tables.is_live(table)
    }

    /// Whether the maps know a peer, be it only by rows that nothing leads to.
    pub(crate) fn has_peer(&self, peer: u32) -> bool {
        self.peers.uses.contains_key(&peer)
    }

    /// Whether there are rows for a peer.
    pub(crate) fn has_rows_of_peer(&self, peer: u32) -> bool {
        self.peers.uses.get(&peer).is_some_and(|uses| uses.rows > 0)
    }

    /// Whether the maps know a table, likewise.
    pub(crate) fn has_table(&self, table: u32) -> bool {
        self.tables.uses.contains_key(&table)
    }

    /// Whether the maps know a block list.
    pub(crate) fn has_list(&self, list: u32) -> bool {
        self.lists.uses.contains_key(&list)
    }

    /// Whether one of those maps has the rule.
    pub(crate) fn has_rule(&self, rule: u32) -> bool {
        self.rules.uses.contains_key(&rule)
    }

    /// Rows that nothing leads to, at least: those of dead tables and those of dead peers are
    /// counted apart, and some may be both.
    pub(crate) fn garbage(&self) -> usize {
        self.tables.dead_rows.max(self.peers.dead_rows)
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Exact addresses by family, IPv4 first.
    pub(crate) fn addresses(&self) -> [usize; 2] {
        self.addresses
    }

    /// Prefixes by family.
    pub(crate) fn cidrs(&self) -> [usize; 2] {
        self.cidrs
    }

    /// Prefixes of block lists by family.
    pub(crate) fn blocks(&self) -> [usize; 2] {
        self.blocks
    }

    /// Numbers that the maps have stopped holding since this was last called.
    pub(crate) fn released(&mut self) -> Released {
        let take = |kind: &mut Kind| {
            let mut released = std::mem::take(&mut kind.released);
            released.retain(|number| !kind.uses.contains_key(number));
            released
        };
        Released {
            peers: take(&mut self.peers),
            tables: take(&mut self.tables),
            lists: take(&mut self.lists),
            rules: take(&mut self.rules),
        }
    }

    /// Takes note of one operation, before `image` does.
    pub(crate) fn apply(&mut self, image: &Image, op: &Op) {
        match op {
            Op::WriteIntervals { .. }
            | Op::Quiesce
            | Op::SetGuard(_)
            | Op::RemoveGuard(_)
            | Op::SetPublished(..)
            | Op::RemovePublished(_)
            | Op::SetRevision(_) => {}
            Op::SetFailsafe(port, rule) => {
                self.rules.lead(*rule);
                if let Some(&old) = image.failsafe.get(port) {
                    self.rules.leave(old);
                }
            }
            Op::RemoveFailsafe(port) => {
                if let Some(&old) = image.failsafe.get(port) {
                    self.rules.leave(old);
                }
            }
            Op::SetClass(key, _) => {
                if !image.classes.contains_key(key) {
                    self.row(*key, true);
                }
            }
            Op::RemoveClass(key) => {
                if image.classes.contains_key(key) {
                    self.row(*key, false);
                }
            }
            Op::SetAddress(address, peer) => {
                self.peers.lead(*peer);
                match image.addresses.get(address) {
                    Some(&old) => self.peers.leave(old),
                    None => self.addresses[family(address.is_ipv4())] += 1,
                }
            }
            Op::RemoveAddress(address) => {
                if let Some(&old) = image.addresses.get(address) {
                    self.addresses[family(address.is_ipv4())] -= 1;
                    self.peers.leave(old);
                }
            }
            Op::SetCidr(net, peer) => {
                self.peers.lead(*peer);
                match image.cidrs.get(net) {
                    Some(&old) => self.peers.leave(old),
                    None => self.cidrs[of_net(net)] += 1,
                }
            }
            Op::RemoveCidr(net) => {
                if let Some(&old) = image.cidrs.get(net) {
                    self.cidrs[of_net(net)] -= 1;
                    self.peers.leave(old);
                }
            }
            Op::SetEndpoint(ifindex, endpoint) => {
                self.endpoint(endpoint, true);
                if let Some(old) = image.endpoints.get(ifindex) {
                    self.endpoint(old, false);
                }
            }
            Op::RemoveEndpoint(ifindex) => {
                if let Some(old) = image.endpoints.get(ifindex) {
                    self.endpoint(old, false);
                }
            }
            Op::SetBlock { list, net, blocked } => {
                self.blocked(*blocked, true);
                match image.blocks.get(&(*list, *net)) {
                    Some(&old) => self.blocked(old, false),
                    None => {
                        self.blocks[of_net(net)] += 1;
                        self.lists.lead(*list);
                    }
                }
            }
            Op::RemoveBlock { list, net } => {
                if let Some(&old) = image.blocks.get(&(*list, *net)) {
                    self.blocks[of_net(net)] -= 1;
                    self.lists.leave(*list);
                    self.blocked(old, false);
                }
            }
            Op::SetUplink(ifindex, uplink) => {
                self.uplink(*uplink, true);
                if let Some(&old) = image.uplinks.get(ifindex) {
                    self.uplink(old, false);
                }
            }
            Op::RemoveUplink(ifindex) => {
                if let Some(&old) = image.uplinks.get(ifindex) {
                    self.uplink(old, false);
                }
            }
        }
    }

    fn endpoint(&mut self, endpoint: &Endpoint, is_there: bool) {
        for table in endpoint.tables {
            if is_there {
                self.tables.lead(table);
            } else {
                self.tables.leave(table);
            }
        }
        match endpoint.undecided {
            RULE_NONE => {}
            rule if is_there => self.rules.lead(rule),
            rule => self.rules.leave(rule),
        }
    }

    fn blocked(&mut self, Blocked { rule, peer }: Blocked, is_there: bool) {
        if is_there {
            self.rules.lead(rule);
            self.peers.lead(peer);
        } else {
            self.rules.leave(rule);
            self.peers.leave(peer);
        }
    }

    fn uplink(&mut self, Uplink { list, limit, .. }: Uplink, is_there: bool) {
        let change = if is_there { Kind::lead } else { Kind::leave };
        change(&mut self.lists, list);
        if limit != RULE_NONE {
            change(&mut self.rules, limit);
        }
    }

    fn row(&mut self, key: ClassKey, is_there: bool) {
        let count = |uses: &mut Uses| {
            uses.rows = if is_there { uses.rows + 1 } else { uses.rows.saturating_sub(1) };
        };
        self.peers.change(key.peer, count);
        self.tables.change(key.table, count);
        self.rows = if is_there { self.rows + 1 } else { self.rows.saturating_sub(1) };
    }
}
