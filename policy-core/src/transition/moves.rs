//! Which addresses and prefixes change peers, and in which order.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::compile::{Change, Desired};

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
    /// Exact addresses first, then prefixes, longest first: the regions inside a prefix have moved, or
    /// are as before, when it moves.
    pub(super) fn new(desired: &Desired) -> Moves {
        let mut moves = Moves { steps: Vec::new(), removed: Vec::new() };
        for &(address, change) in &desired.addresses {
            moves.entry(Target::Address(address), change);
        }
        let mut nets: Vec<&(IpNet, Change)> = desired.cidrs.iter().collect();
        nets.sort_by_key(|(net, _)| u8::MAX - net.prefix_len());
        for &(net, change) in nets {
            moves.entry(Target::Net(net), change);
        }
        moves
    }

    fn entry(&mut self, target: Target, change: Change) {
        let Change { from, to, is_there, stays } = change;
        if from != to || (stays && !is_there) {
            self.steps.push(Move { target, from, to, stays });
        }
        if !stays {
            self.removed.push(target);
        }
    }
}
