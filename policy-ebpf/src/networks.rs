//! Longest-prefix matches, with a memory of the newest ones.
//!
//! A trie of a million prefixes is walked in some twenty steps, and a flood is mostly the same few
//! addresses. So what was found is kept beside the revision that it was found under, on this CPU
//! alone; another revision, another address in its place, or another scope, and it is asked again.
//!
//! The revision is read here, after the caller has read its endpoint, and a plan that moves prefixes raises
//! it before any endpoint may tell the old peer from the new (`policy_core::transition`): what is
//! remembered from before is never taken for an answer to a new table.

use aya_ebpf::maps::lpm_trie::Key;
use policy_common::{
    abi::{BlockKeyV4, BlockKeyV6, Blocked, Family, PEER_WORLD_V4, PEER_WORLD_V6, RULE_NONE},
    packet::Address,
};

use crate::maps::{BLOCK_V4, BLOCK_V6, CIDRS_V4, CIDRS_V6, GLOBALS, NEAR};

/// Matches that one CPU remembers, a power of two.
pub const SLOTS: u32 = 1024;
/// Bits of a block list id in front of the prefix.
const LIST_BITS: u32 = 32;

/// A match that was found.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Near {
    revision: u64,
    /// IPv4 in the first half.
    address: [u64; 2],
    /// The policies' networks or a block list, and the family.
    value: u64,
    scope: u32,
    pad: u32,
}

/// The peer that the policies' networks give an address to.
#[inline(always)]
pub fn peer(family: Family, address: &Address) -> u32 {
    match family {
        Family::V4 => peer_v4(address[0]),
        Family::V6 => {
            let [first, second] = halves(address);
            peer_v6(first, second)
        }
    }
}

/// What a block list says about an address.
#[inline(always)]
pub fn blocked(list: u32, family: Family, address: &Address) -> Option<Blocked> {
    let packed = match family {
        Family::V4 => blocked_v4(list, address[0]),
        Family::V6 => {
            let [first, second] = halves(address);
            blocked_v6(list, first, second)
        }
    };
    let blocked = Blocked { rule: packed as u32, peer: (packed >> 32) as u32 };
    if blocked.rule == RULE_NONE { None } else { Some(blocked) }
}

/// Scope of the policies' networks; those of block lists are above.
const POLICIES: u32 = 0;

const fn scope(list: u32) -> u32 {
    list + 1
}

#[inline(always)]
fn halves(&[a, b, c, d]: &Address) -> [u64; 2] {
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    [pair(a, b), pair(c, d)]
}

#[inline(always)]
fn bytes(halves: [u64; 2]) -> [u8; 16] {
    // SAFETY: both are sixteen plain bytes, see `lookup::bytes16`.
    unsafe { core::mem::transmute(halves) }
}

/// Global, as those below: see [`crate::lookup::search`]. The address as it lies in the packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn peer_v4(address: u32) -> u32 {
    let peer = remember(Family::V4, POLICIES, [u64::from(address), 0], || {
        let key = Key::new(32, address.to_ne_bytes());
        u64::from(*CIDRS_V4.get(key).unwrap_or(&PEER_WORLD_V4))
    });
    peer as u32
}

/// As [`peer_v4`], in two halves.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn peer_v6(first: u64, second: u64) -> u32 {
    let halves = [first, second];
    let peer = remember(Family::V6, POLICIES, halves, || {
        u64::from(*CIDRS_V6.get(Key::new(128, bytes(halves))).unwrap_or(&PEER_WORLD_V6))
    });
    peer as u32
}

/// What a block list says, packed: the rule, or `RULE_NONE`, below the peer.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn blocked_v4(list: u32, address: u32) -> u64 {
    remember(Family::V4, scope(list), [u64::from(address), 0], || {
        let key = BlockKeyV4 { list: list.to_be_bytes(), address: address.to_ne_bytes() };
        packed(BLOCK_V4.get(Key::new(LIST_BITS + 32, key)))
    })
}

/// As [`blocked_v4`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn blocked_v6(list: u32, first: u64, second: u64) -> u64 {
    let halves = [first, second];
    remember(Family::V6, scope(list), halves, || {
        let key = BlockKeyV6 { list: list.to_be_bytes(), address: bytes(halves) };
        packed(BLOCK_V6.get(Key::new(LIST_BITS + 128, key)))
    })
}

#[inline(always)]
fn packed(blocked: Option<&Blocked>) -> u64 {
    match blocked {
        Some(&Blocked { rule, peer }) => u64::from(rule) | u64::from(peer) << 32,
        None => u64::from(RULE_NONE),
    }
}

#[inline(always)]
fn remember(family: Family, scope: u32, address: [u64; 2], find: impl FnOnce() -> u64) -> u64 {
    let scope = scope << 1 | family as u32;
    let Some(globals) = GLOBALS.get(0) else { return find() };
    // SAFETY: a valid reference; volatile, so that the load stays where it is.
    let revision = unsafe { (&raw const globals.revision).read_volatile() };
    let Some(near) = NEAR.get_ptr_mut(slot(scope, address)) else { return find() };
    // SAFETY: this CPU's own slot, see `emit::record`.
    let near = unsafe { &mut *near };
    let same = near.revision == revision && near.scope == scope;
    if same && near.address[0] == address[0] && near.address[1] == address[1] {
        return near.value;
    }
    let value = find();
    *near = Near { revision, address, value, scope, pad: 0 };
    value
}

/// Where an address is remembered: Fibonacci hashing (Knuth, TAOCP 3, 6.4). Whoever chooses addresses that
/// meet in one slot pays with the walk of the trie, as everybody did before.
#[inline(always)]
fn slot(scope: u32, address: [u64; 2]) -> u32 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (address[0] ^ address[1].wrapping_mul(GOLDEN)).wrapping_add(u64::from(scope));
    (mixed.wrapping_mul(GOLDEN) >> (64 - SLOTS.ilog2())) as u32
}
