//! Which addresses and prefixes change peers, and in which order.

use std::net::IpAddr;

use ipnet::IpNet;

use super::world;
use crate::{compile::Desired, plan::Image, prefixes::Forest};

/// An entry of the address or prefix maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Address(IpAddr),
    Net(IpNet),
}

/// One entry that has to be written.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) target: Target,
    /// The peer that its addresses have now, by itself or by the nearest prefix around it.
    pub(super) from: u32,
    /// The peer that they shall have.
    pub(super) to: u32,
    /// Whether the entry is there afterwards.
    pub(super) stays: bool,
}

/// Every entry that has to be written or removed.
#[derive(Debug)]
pub(super) struct Moves {
    /// In order.
    pub(super) steps: Vec<Move>,
    /// Removed at the very end.
    pub(super) removed: Vec<Target>,
}

impl Moves {
    pub(super) fn new(image: &Image, desired: &Desired) -> Moves {
        let mut moves = Moves { steps: Vec::new(), removed: Vec::new() };
        if image.addresses == desired.addresses && image.cidrs == desired.cidrs {
            return moves;
        }
        let nets = image.cidrs.keys().chain(desired.cidrs.keys());
        let forest = Forest::new(nets.map(|net| (*net, 0)).collect());
        // The peer of each prefix's own region, before and after.
        let mut peers: Vec<(u32, u32)> = Vec::with_capacity(forest.nodes().len());
        for node in forest.nodes() {
            let outside = world(node.net.addr());
            let around = node.parent.map_or((outside, outside), |parent| peers[parent]);
            peers.push((
                image.cidrs.get(&node.net).copied().unwrap_or(around.0),
                desired.cidrs.get(&node.net).copied().unwrap_or(around.1),
            ));
        }

        let mut addresses: Vec<IpAddr> =
            image.addresses.keys().chain(desired.addresses.keys()).copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        for address in addresses {
            let (old, new) = (image.addresses.get(&address), desired.addresses.get(&address));
            if old.is_some() && old == new {
                continue;
            }
            let outside = world(address);
            let around = forest.nearest(address).map_or((outside, outside), |node| peers[node]);
            let (from, to) = (*old.unwrap_or(&around.0), *new.unwrap_or(&around.1));
            moves.entry(Target::Address(address), from, to, new.is_some(), old.is_some());
        }
        // Longest first: the regions inside a prefix have moved, or are as before, when it moves.
        let mut order: Vec<usize> = (0..forest.nodes().len()).collect();
        order.sort_by_key(|&node| u8::MAX - forest.nodes()[node].net.prefix_len());
        for index in order {
            let net = forest.nodes()[index].net;
            let (from, to) = peers[index];
            let (old, new) = (image.cidrs.contains_key(&net), desired.cidrs.contains_key(&net));
            moves.entry(Target::Net(net), from, to, new, old);
        }
        moves
    }

    fn entry(&mut self, target: Target, from: u32, to: u32, stays: bool, is_there: bool) {
        if from != to || (stays && !is_there) {
            self.steps.push(Move { target, from, to, stays });
        }
        if !stays {
            self.removed.push(target);
        }
    }
}
