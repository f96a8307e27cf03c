//! The decision: peer, class, interval. Its cost depends on neither the number of rules nor of
//! CIDRs nor of endpoints, beyond one binary search over the steps of one class.

use policy_common::{
    abi::{
        ClassKey, Direction, Endpoint, Family, VERDICT_ALLOW, VERDICT_NESTED, VERDICT_RULE, source,
    },
    packet::Address,
};

use crate::{
    maps::{ADDRESSES_V4, ADDRESSES_V6, CLASSES, INTERVALS},
    networks,
    verifier::bit,
};

/// Steps of a binary search over the longest class, `MAX_CLASS_INTERVALS`.
const SEARCH_STEPS: usize = 18;

/// What the policy says.
#[must_use]
#[derive(Clone, Copy)]
pub struct Verdict {
    /// Whether the packet passes.
    pub allow: bool,
    /// Rule that decided.
    pub rule: u32,
    /// Peer that it was decided for.
    pub peer: u32,
    /// What the staged policies would say, see `Interval::staged`.
    pub staged: u32,
    /// The Log rules on the way, see `Interval::log`.
    pub log: u32,
}

/// What a flow is about, beside the address of the other side.
#[derive(Clone, Copy)]
pub struct Asked {
    /// Protocol and destination port, as `abi::service` has them.
    pub service: u32,
    /// Host order; 0 where there are no ports.
    pub source_port: u16,
}

/// IPv4 address as map key.
#[inline(always)]
pub fn bytes4(address: &Address) -> [u8; 4] {
    address[0].to_ne_bytes()
}

/// IPv6 address as map key.
#[inline(always)]
pub fn bytes16(address: &Address) -> [u8; 16] {
    // SAFETY: both are sixteen plain bytes. Spelled out word by word, LLVM stores them one byte at a
    // time.
    unsafe { core::mem::transmute(*address) }
}

/// Who an address is: the endpoint or host that has exactly it, else the most specific CIDR that
/// holds it, else the world.
#[inline(always)]
pub fn peer(family: Family, address: &Address) -> u32 {
    match family {
        Family::V4 => {
            let key = bytes4(address);
            // SAFETY: the value is one aligned word, read once.
            match unsafe { ADDRESSES_V4.get(key) } {
                Some(peer) => *peer,
                None => networks::peer(family, address),
            }
        }
        Family::V6 => {
            let key = bytes16(address);
            // SAFETY: as above.
            match unsafe { ADDRESSES_V6.get(key) } {
                Some(peer) => *peer,
                None => networks::peer(family, address),
            }
        }
    }
}

/// Decides a new flow of `endpoint`. `None`: the maps contradict each other.
#[inline(always)]
pub fn decide(
    endpoint: &Endpoint,
    direction: Direction,
    family: Family,
    remote: &Address,
    asked: Asked,
) -> Option<Verdict> {
    let peer = peer(family, remote);
    let direction = bit(direction as usize);
    let key = ClassKey { table: endpoint.tables[direction], peer };
    // SAFETY: a row is never changed while a table that has it is live; it is removed only after
    // a grace period.
    let class = match unsafe { CLASSES.get(key) } {
        Some(class) => *class,
        None => endpoint.defaults[direction][bit(family as usize)],
    };
    let mut step = INTERVALS.get(search(class.offset, class.len, asked.service))?;
    if step.verdict & VERDICT_NESTED != 0 {
        let block = source(step.verdict & VERDICT_RULE, asked.source_port);
        step = INTERVALS.get(search(class.offset, class.len, block))?;
        if step.verdict & VERDICT_NESTED != 0 {
            return None;
        }
    }
    Some(Verdict {
        allow: step.verdict & VERDICT_ALLOW != 0,
        rule: step.verdict & VERDICT_RULE,
        peer,
        staged: step.staged,
        log: step.log,
    })
}

/// Index of the last interval of a class that starts at or before `coordinate`; one that the map
/// has not got if the class is not there.
///
/// A global function: the verifier walks it once, for any arguments, and not once more for each way
/// that leads to it (kernel/bpf/verifier.c, `do_check_subprogs`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn search(offset: u32, len: u32, coordinate: u32) -> u32 {
    let mut low = 0;
    let mut high = len;
    for _ in 0..SEARCH_STEPS {
        if high - low <= 1 {
            break;
        }
        let middle = low + (high - low) / 2;
        let Some(interval) = INTERVALS.get(offset + middle) else { return u32::MAX };
        if interval.start <= coordinate {
            low = middle;
        } else {
            high = middle;
        }
    }
    offset + low
}
