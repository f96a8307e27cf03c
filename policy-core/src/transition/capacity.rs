//! Whether everything fits, also in the middle of the change, when old and new are both there.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use policy_common::maps;

use crate::{
    compile::Desired,
    plan::{CapacityError, Image},
};

/// Compares one count with what its map holds.
pub(super) fn bound(what: &'static str, needed: usize, capacity: u32) -> Result<(), CapacityError> {
    let (needed, capacity) = (needed as u64, u64::from(capacity));
    if needed > capacity {
        return Err(CapacityError::TooMany { what, needed, capacity });
    }
    Ok(())
}

/// Every number of a kind is in use.
pub(super) fn ids(what: &'static str, in_use: usize) -> CapacityError {
    CapacityError::TooMany { what, needed: in_use as u64 + 1, capacity: u64::from(u32::MAX) }
}

/// Every map whose contents do not depend on how classes are placed.
pub(super) fn check(image: &Image, desired: &Desired) -> Result<(), CapacityError> {
    bound(maps::ENDPOINTS, desired.endpoints.len(), maps::MAX_ENDPOINTS)?;
    bound(maps::GUARD, desired.guard.len(), maps::MAX_GUARD)?;
    // Old and new ones are there at once.
    let failsafe = image.failsafe.keys().chain(desired.failsafe.keys()).collect::<BTreeSet<_>>();
    bound(maps::FAILSAFE, failsafe.len(), maps::MAX_FAILSAFE)?;
    let published = image.published.keys().chain(desired.published.keys()).collect::<BTreeSet<_>>();
    bound(maps::PUBLISHED, published.len(), maps::MAX_PUBLISHED)?;
    bound(maps::UPLINKS, desired.uplinks.len(), maps::MAX_UPLINKS)?;

    let address = |v4: bool| {
        let of = move |address: &&IpAddr| address.is_ipv4() == v4;
        let new = |address: &&IpAddr| !image.addresses.contains_key(address);
        image.addresses.keys().filter(of).count()
            + desired.addresses.keys().filter(of).filter(new).count()
    };
    bound(maps::ADDRESSES_V4, address(true), maps::MAX_ADDRESSES)?;
    bound(maps::ADDRESSES_V6, address(false), maps::MAX_ADDRESSES)?;

    let v4 = |net: &IpNet| matches!(net, IpNet::V4(_));
    let cidr = |wanted: bool| {
        let of = |net: &&IpNet| v4(net) == wanted;
        let new = |net: &&IpNet| !image.cidrs.contains_key(net);
        image.cidrs.keys().filter(of).count() + desired.cidrs.keys().filter(of).filter(new).count()
    };
    bound(maps::CIDRS_V4, cidr(true), maps::MAX_CIDRS)?;
    bound(maps::CIDRS_V6, cidr(false), maps::MAX_CIDRS)?;

    let block = |wanted: bool| {
        let of = |key: &&(u32, IpNet)| v4(&key.1) == wanted;
        let new = |key: &&(u32, IpNet)| !image.blocks.contains_key(key);
        image.blocks.keys().filter(of).count()
            + desired.blocks.keys().filter(of).filter(new).count()
    };
    bound(maps::BLOCK_V4, block(true), maps::MAX_CIDRS)?;
    bound(maps::BLOCK_V6, block(false), maps::MAX_CIDRS)
}
