//! Later fragments carry no ports: they follow the verdict of the first one.

use aya_ebpf::programs::TcContext;
use policy_common::{
    abi::{DropReason, Family, Fragment as Remembered, FragmentKey},
    packet::Address,
};

use crate::{
    emit::{Drop, Ruling},
    endpoint::Visit,
    lookup::bytes16,
    maps::FRAGMENTS,
    neighbour::sender,
};

/// How long the kernel itself waits for the rest of a packet (`net.ipv4.ipfrag_time`), ns.
const LIFETIME_NS: u64 = 30_000_000_000;

#[inline(always)]
fn address(family: Family, address: &Address) -> [u8; 16] {
    let [first, second, third, fourth] = *address;
    // By words, as `mapped` has it by bytes: those would be laid out on the stack twice.
    bytes16(&match family {
        Family::V4 => [0, 0, 0xffff_u32.to_be(), first],
        Family::V6 => [first, second, third, fourth],
    })
}

#[inline(always)]
fn key(visit: &Visit) -> FragmentKey {
    let packet = &visit.packet;
    FragmentKey {
        ifindex: visit.ifindex,
        id: packet.fragment_id,
        source: address(packet.family, &packet.source),
        destination: address(packet.family, &packet.destination),
        // RFC 8200, 4.5: in IPv6 the protocol is not part of what identifies a packet.
        protocol: match packet.family {
            Family::V4 => packet.protocol,
            Family::V6 => 0,
        },
        direction: visit.direction as u8,
        pad: [0; 2],
    }
}

/// Remembers that a first fragment passed.
#[inline(never)]
pub fn remember(ctx: &TcContext, visit: &Visit, rule: u32) {
    // An LRU insert fails only on contention for its last free element; the rest of this one
    // packet is dropped then, and counted.
    let _ = FRAGMENTS.insert(
        key(visit),
        Remembered {
            seen_ns: visit.now,
            rule,
            revision: visit.revision as u32,
            mac: sender(ctx, visit.direction),
        },
        0,
    );
}

/// The rule that let the first fragment pass; a drop for [`DropReason::Fragment`] if none passed
/// lately under the policy of now, for [`DropReason::SpoofedMac`] if it came from somebody else.
#[inline(never)]
pub fn follow(ctx: &TcContext, visit: &Visit) -> Ruling {
    // SAFETY: a few words, read once; a recycled element is another passed first fragment.
    let first = unsafe { FRAGMENTS.get(key(visit)) };
    Ruling::from(match first {
        // A policy that has changed in between costs the rest of one packet.
        Some(first)
            if first.revision == visit.revision as u32
                && visit.now.saturating_sub(first.seen_ns) < LIFETIME_NS =>
        {
            if first.mac == sender(ctx, visit.direction) {
                Ok(first.rule)
            } else {
                Err(Drop::from(DropReason::SpoofedMac))
            }
        }
        _ => Err(Drop::from(DropReason::Fragment)),
    })
}
