//! What a map operation does to the maps.
//!
//! In: an [`Op`]. Out: the [`Image`] after it. Intervals are not part of an image: what they say
//! is known by their digests ([`crate::ids::Ids`]).

use policy_common::abi::ClassRef;

use crate::plan::{Image, Op};

impl Image {
    /// Carries out one operation.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::WriteIntervals { .. } | Op::Quiesce => {}
            Op::SetClass(key, class) => {
                self.classes.insert(*key, *class);
            }
            Op::RemoveClass(key) => {
                self.classes.remove(key);
            }
            Op::SetAddress(address, peer) => {
                self.addresses.insert(*address, *peer);
            }
            Op::RemoveAddress(address) => {
                self.addresses.remove(address);
            }
            Op::SetCidr(net, peer) => {
                self.cidrs.insert(*net, *peer);
            }
            Op::RemoveCidr(net) => {
                self.cidrs.remove(net);
            }
            Op::SetEndpoint(ifindex, endpoint) => {
                self.endpoints.insert(*ifindex, *endpoint);
            }
            Op::RemoveEndpoint(ifindex) => {
                self.endpoints.remove(ifindex);
            }
            Op::SetGuard(key) => {
                self.guard.insert(*key);
            }
            Op::RemoveGuard(key) => {
                self.guard.remove(key);
            }
            Op::SetBlock { list, net, rule } => {
                self.blocks.insert((*list, *net), *rule);
            }
            Op::RemoveBlock { list, net } => {
                self.blocks.remove(&(*list, *net));
            }
            Op::SetUplink { ifindex, list } => {
                self.uplinks.insert(*ifindex, *list);
            }
            Op::RemoveUplink(ifindex) => {
                self.uplinks.remove(ifindex);
            }
            Op::SetFailsafe(port, rule) => {
                self.failsafe.insert(*port, *rule);
            }
            Op::RemoveFailsafe(port) => {
                self.failsafe.remove(port);
            }
            Op::SetPublished(port, to) => {
                self.published.insert(*port, *to);
            }
            Op::RemovePublished(port) => {
                self.published.remove(port);
            }
            Op::SetRevision(revision) => self.revision = *revision,
        }
    }

    /// Every reference into `INTERVALS`, once for each map value that holds it.
    pub(crate) fn class_references(&self) -> impl Iterator<Item = ClassRef> {
        let defaults = self.endpoints.values().flat_map(|endpoint| endpoint.defaults);
        self.classes.values().copied().chain(defaults.flatten())
    }
}
