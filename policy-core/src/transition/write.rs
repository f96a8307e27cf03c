//! Single writes: each is emitted only if it changes something, and keeps the books: rows in the
//! map, references into `INTERVALS`, endpoints as they are by now.

use std::collections::BTreeSet;

use policy_common::abi::{ClassKey, ClassRef, Endpoint};

use super::{Planner, Target};
use crate::plan::Op;

impl Planner<'_> {
    /// Brings block lists and uplinks up to date.
    pub(super) fn blocks(&mut self) {
        let old = self.image;
        let Some(new) = &self.desired.blocks else { return };
        for (&(list, net), &blocked) in &new.prefixes {
            if old.blocks.get(&(list, net)) != Some(&blocked) {
                self.ops.push(Op::SetBlock { list, net, blocked });
            }
        }
        let attached: BTreeSet<u32> = old.uplinks.values().map(|uplink| uplink.list).collect();
        let kept: BTreeSet<u32> = new.uplinks.values().map(|uplink| uplink.list).collect();
        let gone = |wanted: bool| {
            old.blocks
                .keys()
                .filter(|key| !new.prefixes.contains_key(key))
                .filter(|(list, _)| kept.contains(list) && attached.contains(list) == wanted)
                .map(|&(list, net)| Op::RemoveBlock { list, net })
                .collect::<Vec<_>>()
        };
        self.ops.extend(gone(false));
        for (&ifindex, &uplink) in &new.uplinks {
            if old.uplinks.get(&ifindex) != Some(&uplink) {
                self.ops.push(Op::SetUplink(ifindex, uplink));
            }
        }
        for ifindex in old.uplinks.keys().filter(|ifindex| !new.uplinks.contains_key(ifindex)) {
            self.ops.push(Op::RemoveUplink(*ifindex));
        }
        self.ops.extend(gone(true));
    }

    /// Brings the ports of host endpoints up to date. Each is a matter of its own.
    pub(super) fn host_ports(&mut self) {
        let (old, new) = (self.image, self.desired);
        for (&port, &rule) in &new.failsafe {
            if old.failsafe.get(&port) != Some(&rule) {
                self.ops.push(Op::SetFailsafe(port, rule));
            }
        }
        for &port in old.failsafe.keys().filter(|port| !new.failsafe.contains_key(port)) {
            self.ops.push(Op::RemoveFailsafe(port));
        }
        for (&port, &to) in &new.published {
            if old.published.get(&port) != Some(&to) {
                self.ops.push(Op::SetPublished(port, to));
            }
        }
        for &port in old.published.keys().filter(|port| !new.published.contains_key(port)) {
            self.ops.push(Op::RemovePublished(port));
        }
    }

    /// The row of a pair before the plan; `None`: the table's default.
    pub(super) fn old_row(&self, table: u32, peer: u32) -> Option<ClassRef> {
        self.image.classes.get(&ClassKey { table, peer }).copied()
    }

    /// The desired row of a pair.
    pub(super) fn new_row(&self, table: u32, peer: u32) -> Option<ClassRef> {
        let desired = self.desired;
        if desired.new_tables.contains(&table) || desired.new_peers.contains(&peer) {
            let class = desired.rows.get(&ClassKey { table, peer })?;
            return self.places.get(class).copied();
        }
        self.old_row(table, peer)
    }

    /// An endpoint as it is by now.
    pub(super) fn endpoint(&self, ifindex: u32) -> Option<Endpoint> {
        let held = || self.image.endpoints.get(&ifindex).copied();
        self.endpoints.get(&ifindex).copied().unwrap_or_else(held)
    }

    pub(super) fn set_row(&mut self, key: ClassKey, row: Option<ClassRef>) {
        let now =
            self.rows.get(&key).copied().unwrap_or_else(|| self.image.classes.get(&key).copied());
        if now == row {
            return;
        }
        match row {
            Some(class) => {
                self.extents.acquire(class);
                self.ops.push(Op::SetClass(key, class));
            }
            None => self.ops.push(Op::RemoveClass(key)),
        }
        match now {
            Some(class) => self.extents.release(class),
            None => self.row_count += 1,
        }
        if row.is_none() {
            self.row_count -= 1;
        }
        self.row_peak = self.row_peak.max(self.row_count);
        self.rows.insert(key, row);
    }

    pub(super) fn set_endpoint(&mut self, ifindex: u32, value: Option<Endpoint>) {
        let now = self.endpoint(ifindex);
        if now == value {
            return;
        }
        for class in value.iter().flat_map(|endpoint| endpoint.defaults.as_flattened()) {
            self.extents.acquire(*class);
        }
        for class in now.iter().flat_map(|endpoint| endpoint.defaults.as_flattened()) {
            self.extents.release(*class);
        }
        self.endpoints.insert(ifindex, value);
        self.ops.push(match value {
            Some(endpoint) => Op::SetEndpoint(ifindex, endpoint),
            None => Op::RemoveEndpoint(ifindex),
        });
    }

    pub(super) fn set_target(&mut self, target: Target, peer: u32) {
        self.ops.push(match target {
            Target::Address(address) => Op::SetAddress(address, peer),
            Target::Net(net) => Op::SetCidr(net, peer),
        });
    }
}
