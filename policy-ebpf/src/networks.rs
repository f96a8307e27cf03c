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
    maps::MAX_RULES,
    packet::Address,
};

use crate::maps::{BLOCK_V4, BLOCK_V6, CIDRS_V4, CIDRS_V6, ENDPOINTS, GLOBALS, NEAR, UPLINKS};

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
    /// The peer, or [`AtUplink`].
    value: u64,
    /// The policies' networks or an uplink, and the family.
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

/// What an uplink says about a source, in one register: see [`crate::emit::Ruling`].
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct AtUplink(u64);

/// Above a rule: the uplink is a host endpoint's, some ports of which are left open.
const HOST: u64 = 1 << 31;
/// Likewise: it limits new flows.
const LIMITED: u64 = 1 << 30;
const _: () = assert!((MAX_RULES as u64) < LIMITED);
/// A peer stands above both.
const PEER_SHIFT: u32 = 32;

impl AtUplink {
    /// The rule and the network set that block it.
    #[inline(always)]
    pub fn blocked(self) -> Option<Blocked> {
        let rule = (self.0 & (LIMITED - 1)) as u32;
        let blocked = Blocked { rule, peer: (self.0 >> PEER_SHIFT) as u32 };
        if rule == RULE_NONE { None } else { Some(blocked) }
    }

    /// Whether it is a host endpoint's.
    #[inline(always)]
    pub fn is_host(self) -> bool {
        self.0 & HOST != 0
    }

    /// Whether new flows are limited.
    #[inline(always)]
    pub fn is_limited(self) -> bool {
        self.0 & LIMITED != 0
    }
}

/// What an uplink says about a source.
#[inline(always)]
pub fn at_uplink(ifindex: u32, family: Family, address: &Address) -> AtUplink {
    AtUplink(match family {
        Family::V4 => at_uplink_v4(ifindex, address[0]),
        Family::V6 => {
            let [first, second] = halves(address);
            at_uplink_v6(ifindex, first, second)
        }
    })
}

/// Scope of the policies' networks. Those of uplinks are their interface indices, which start at 1.
const POLICIES: u32 = 0;

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

/// [`AtUplink`], of an address as it lies in the packet. With the uplink's own row behind the memory as well,
/// a flood pays for neither.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn at_uplink_v4(ifindex: u32, address: u32) -> u64 {
    remember(Family::V4, ifindex, [u64::from(address), 0], || {
        packed(ifindex, |list| {
            let key = BlockKeyV4 { list: list.to_be_bytes(), address: address.to_ne_bytes() };
            BLOCK_V4.get(Key::new(LIST_BITS + 32, key))
        })
    })
}

/// As [`at_uplink_v4`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn at_uplink_v6(ifindex: u32, first: u64, second: u64) -> u64 {
    let halves = [first, second];
    remember(Family::V6, ifindex, halves, || {
        packed(ifindex, |list| {
            let key = BlockKeyV6 { list: list.to_be_bytes(), address: bytes(halves) };
            BLOCK_V6.get(Key::new(LIST_BITS + 128, key))
        })
    })
}

#[inline(always)]
fn packed<'a>(ifindex: u32, find: impl FnOnce(u32) -> Option<&'a Blocked>) -> u64 {
    // SAFETY: an element is replaced as a whole. One that was recycled while it was read is another
    // uplink's, for one packet: the write that took it away raises the revision.
    let Some(uplink) = (unsafe { UPLINKS.get(ifindex) }) else { return u64::from(RULE_NONE) };
    let found = match find(uplink.list) {
        Some(&Blocked { rule, peer }) => u64::from(rule) | u64::from(peer) << PEER_SHIFT,
        None => u64::from(RULE_NONE),
    };
    let host = if ENDPOINTS.get_ptr(ifindex).is_some() { HOST } else { 0 };
    let limited = if uplink.limit != RULE_NONE { LIMITED } else { 0 };
    found | host | limited
}

#[inline(always)]
fn remember(family: Family, scope: u32, address: [u64; 2], find: impl FnOnce() -> u64) -> u64 {
    let scope = scope << 1 | family as u32;
    let Some(globals) = GLOBALS.get(0) else { return find() };
    // SAFETY: a valid reference; volatile, so that the load stays where it is.
    let revision = unsafe { (&raw const globals.revision).read_volatile() };
    let Some(near) = NEAR.get_ptr_mut(slot(scope, address)) else { return find() };
    // SAFETY: this CPU's own slot, see `emit::count_drop`.
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
