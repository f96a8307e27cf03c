//! Whether everything fits, also in the middle of the change, when old and new are both there.

use std::collections::BTreeSet;

use ipnet::IpNet;
use policy_common::maps;

use crate::{
    compile::Desired,
    held::Held,
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

/// What there is too much of where old and new prefixes do not fit together.
const BESIDE_V4: &str = "CIDRS_V4, with the old networks beside the new ones (take the old ones out \
                         of their sets first, in a change of its own)";
const BESIDE_V6: &str = "CIDRS_V6, with the old networks beside the new ones (take the old ones out \
                         of their sets first, in a change of its own)";

/// Every map whose contents do not depend on how classes are placed.
pub(super) fn check(image: &Image, held: &Held, desired: &Desired) -> Result<(), CapacityError> {
    bound(maps::ENDPOINTS, desired.endpoints.len(), maps::MAX_ENDPOINTS)?;
    bound(maps::GUARD, desired.guard.len(), maps::MAX_GUARD)?;
    // Old and new ones are there at once.
    let failsafe = image.failsafe.keys().chain(desired.failsafe.keys()).collect::<BTreeSet<_>>();
    bound(maps::FAILSAFE, failsafe.len(), maps::MAX_FAILSAFE)?;
    let published = image.published.keys().chain(desired.published.keys()).collect::<BTreeSet<_>>();
    bound(maps::PUBLISHED, published.len(), maps::MAX_PUBLISHED)?;

    let mut addresses = held.addresses();
    for (address, change) in &desired.addresses {
        addresses[usize::from(address.is_ipv6())] += usize::from(!change.is_there);
    }
    bound(maps::ADDRESSES_V4, addresses[0], maps::MAX_ADDRESSES)?;
    bound(maps::ADDRESSES_V6, addresses[1], maps::MAX_ADDRESSES)?;

    let is_v6 = |net: &IpNet| usize::from(matches!(net, IpNet::V6(_)));
    let (mut cidrs, mut left) = (held.cidrs(), held.cidrs());
    for (net, change) in &desired.cidrs {
        cidrs[is_v6(net)] += usize::from(!change.is_there);
        left[is_v6(net)] += usize::from(!change.is_there);
        left[is_v6(net)] -= usize::from(!change.stays);
    }
    // The new prefixes fit, and only not beside the old ones: there is a way.
    let what = |family: usize, plain, beside| {
        if left[family] as u64 <= u64::from(maps::MAX_CIDRS) { beside } else { plain }
    };
    bound(what(0, maps::CIDRS_V4, BESIDE_V4), cidrs[0], maps::MAX_CIDRS)?;
    bound(what(1, maps::CIDRS_V6, BESIDE_V6), cidrs[1], maps::MAX_CIDRS)?;

    let Some(blocks) = &desired.blocks else { return Ok(()) };
    bound(maps::UPLINKS, blocks.uplinks.len(), maps::MAX_UPLINKS)?;
    let mut prefixes = held.blocks();
    for key in blocks.prefixes.keys().filter(|key| !image.blocks.contains_key(key)) {
        prefixes[is_v6(&key.1)] += 1;
    }
    bound(maps::BLOCK_V4, prefixes[0], maps::MAX_CIDRS)?;
    bound(maps::BLOCK_V6, prefixes[1], maps::MAX_CIDRS)
}
