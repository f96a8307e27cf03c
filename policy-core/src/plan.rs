//! Map operations as data: what the compiler decides and the agent's executor carries out.
//!
//! Operations are executed strictly in order. After any prefix of a plan every packet still meets
//! a whole policy, either the old or the new one (ARCHITECTURE.md, "Atomicity").

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use policy_common::abi::{Blocked, ClassKey, ClassRef, Endpoint, GuardKey, Interval, Uplink};

use crate::host::{Failsafe, Published};

/// One write to a BPF map.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Write a run of `INTERVALS`, from `offset` on.
    WriteIntervals {
        /// Index of the first.
        offset: u32,
        /// The run.
        intervals: Vec<Interval>,
    },
    /// Insert or replace a row of `CLASSES`.
    SetClass(ClassKey, ClassRef),
    /// Delete a row of `CLASSES`.
    RemoveClass(ClassKey),
    /// Insert or replace an exact address.
    SetAddress(IpAddr, u32),
    /// Delete an exact address.
    RemoveAddress(IpAddr),
    /// Insert or replace a prefix.
    SetCidr(IpNet, u32),
    /// Delete a prefix.
    RemoveCidr(IpNet),
    /// Insert or replace an endpoint, in one write: this switches it to its new tables.
    SetEndpoint(u32, Endpoint),
    /// Delete an endpoint: its interface is *pending* from then on.
    RemoveEndpoint(u32),
    /// Let an address use a bridge.
    SetGuard(GuardKey),
    /// Take that back.
    RemoveGuard(GuardKey),
    /// Insert or replace a prefix of a block list.
    SetBlock {
        /// Block list id.
        list: u32,
        /// Blocked prefix.
        net: IpNet,
        /// Rule that blocks it, and the network set that it is of.
        blocked: Blocked,
    },
    /// Delete a prefix of a block list.
    RemoveBlock {
        /// Block list id.
        list: u32,
        /// Prefix.
        net: IpNet,
    },
    /// Give an uplink, by its interface index, a block list and a limit of new flows.
    SetUplink(u32, Uplink),
    /// Take them away.
    RemoveUplink(u32),
    /// Leave a port open.
    SetFailsafe(Failsafe, u32),
    /// Take that back.
    RemoveFailsafe(Failsafe),
    /// Say what port a published one is translated to.
    SetPublished(Published, u16),
    /// A port is no longer published.
    RemovePublished(Published),
    /// Make every connection's verdict be computed anew at its next packet.
    SetRevision(u64),
    /// Wait until no program that started before this point still runs (an RCU grace period), so
    /// that what they may have been reading can be overwritten.
    Quiesce,
}

/// What the kernel maps hold: the state that a plan starts from.
///
/// Kept by the compiler between plans, and read back from the pinned maps when an agent takes over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// `ENDPOINTS`.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// `CLASSES`.
    pub classes: BTreeMap<ClassKey, ClassRef>,
    /// `ADDRESSES_V4` and `ADDRESSES_V6`.
    pub addresses: BTreeMap<IpAddr, u32>,
    /// `CIDRS_V4` and `CIDRS_V6`.
    pub cidrs: BTreeMap<IpNet, u32>,
    /// `GUARD`.
    pub guard: std::collections::BTreeSet<GuardKey>,
    /// `BLOCK_V4` and `BLOCK_V6`: (list, prefix) to rule and network set.
    pub blocks: BTreeMap<(u32, IpNet), Blocked>,
    /// `UPLINKS`.
    pub uplinks: BTreeMap<u32, Uplink>,
    /// `FAILSAFE`: to rule.
    pub failsafe: BTreeMap<Failsafe, u32>,
    /// `PUBLISHED`.
    pub published: BTreeMap<Published, u16>,
    /// `GLOBALS`.
    pub revision: u64,
}

/// Operations, and what they mean to a person.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In order.
    pub ops: Vec<Op>,
    /// Endpoints that get other tables, or are new.
    pub endpoints_changed: usize,
    /// Revision after the plan.
    pub revision: u64,
}

/// A model that does not fit the maps; nothing has been changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapacityError {
    /// Too many entries for one map.
    #[error("the policies need {needed} entries of {what}, the datapath holds {capacity}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// Entries needed.
        needed: u64,
        /// Entries that fit.
        capacity: u64,
    },
    /// An endpoint has more addresses than the datapath can check.
    #[error("endpoint {endpoint} has {count} addresses of one family, at most {capacity} fit")]
    Addresses {
        /// `namespace/name`.
        endpoint: String,
        /// Addresses of that family, the link-local one included.
        count: usize,
        /// How many fit.
        capacity: usize,
    },
}
