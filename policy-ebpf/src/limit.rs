//! How many flows each source may begin at an uplink: an option of untracked policies.
//!
//! Only what may begin a flow is counted. TCP says so itself: a SYN. Of everything else the first
//! packet is one whose flow is not known here, be it that it was let in before or that it began on
//! this side ([`depart`]): an answer is no new flow. ICMP errors, neighbour discovery and later fragments
//! begin nothing.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, maps::LruHashMap, programs::TcContext};
use policy_common::{
    abi::{BucketKey, Direction, FLOW_REPLIED, Family, RULE_NONE, Uplink, UplinkFlowKey},
    conntrack::expired,
    pace::{Arrival, arrive},
    packet::{Fragment, Kind, Packet, tcp},
};

use crate::{
    clock,
    endpoint::parse_frame,
    lookup::bytes16,
    maps::{BUCKETS, UPLINK_BEGUN, UPLINK_LET_IN, UPLINKS},
    verifier::{atomic_add, ifindex},
};

/// A flow's newest packet is known to this precision, ns: not each one writes.
const PRECISION_NS: u64 = 1_000_000_000;

/// Whether a packet that comes in begins a flow that its source may not begin now. A flow that it may
/// is known from then on.
///
/// Not inlined, for the stack's sake; a number, see [`crate::emit::Ruling`].
#[inline(never)]
pub fn refuses(uplink: &Uplink, packet: &Packet, now: u64) -> u32 {
    let is_tcp = matches!(packet.kind, Kind::Tcp);
    let may_begin = match packet.kind {
        Kind::Tcp => packet.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN,
        Kind::Stateful | Kind::EchoRequest => true,
        _ => false,
    };
    if !may_begin || matches!(packet.fragment, Fragment::Later) {
        return 0;
    }
    if is_tcp {
        return spend(uplink, packet);
    }
    let key = flow(packet, Direction::Ingress);
    if is_known(&key, now) {
        return 0;
    }
    let refused = spend(uplink, packet);
    if refused == 0 {
        // Should there be no room at once, the next packet is counted, too.
        let _ = UPLINK_LET_IN.insert(key, now, 0);
    }
    refused
}

/// Takes note of flows that begin on this side of a limited uplink.
#[inline(always)]
pub fn depart(ctx: &TcContext) -> i32 {
    // SAFETY: one aligned word, read once.
    let limit = unsafe { UPLINKS.get(ifindex(ctx)) }.map_or(RULE_NONE, |uplink| uplink.limit);
    let mut packet = Packet::UNKNOWN;
    if limit != RULE_NONE
        && parse_frame(ctx, &mut packet).is_ok()
        && matches!(packet.kind, Kind::Stateful)
    {
        note(&packet, clock::now());
    }
    TC_ACT_UNSPEC
}

/// Not inlined, for the stack's sake. Always 0: see [`crate::emit::Ruling`].
#[inline(never)]
fn note(packet: &Packet, now: u64) -> u32 {
    let key = flow(packet, Direction::Egress);
    if !is_known(&key, now) {
        let _ = UPLINK_BEGUN.insert(key, now, 0);
    }
    0
}

/// Whether a flow is known, whoever began it; its packet keeps it so.
#[inline(always)]
fn is_known(key: &UplinkFlowKey, now: u64) -> bool {
    knows(&UPLINK_BEGUN, key, now) || knows(&UPLINK_LET_IN, key, now)
}

#[inline(always)]
fn knows(flows: &LruHashMap<UplinkFlowKey, u64>, key: &UplinkFlowKey, now: u64) -> bool {
    let Some(seen) = flows.get_ptr_mut(key) else { return false };
    // SAFETY: a map value, an aligned word; of two CPUs that write it either is right.
    let seen = unsafe { &mut *seen };
    if expired(FLOW_REPLIED, key.protocol, *seen, now) {
        return false;
    }
    if now.saturating_sub(*seen) > PRECISION_NS {
        *seen = now;
    }
    true
}

/// The flow of a packet that travels in `direction`, as the host sees it.
#[inline(always)]
fn flow(packet: &Packet, direction: Direction) -> UplinkFlowKey {
    let source = (&packet.source, packet.source_port);
    let destination = (&packet.destination, packet.destination_port);
    let ((local, local_port), (remote, remote_port)) = match direction {
        Direction::Ingress => (destination, source),
        Direction::Egress => (source, destination),
    };
    UplinkFlowKey {
        local: bytes16(local),
        remote: bytes16(remote),
        local_port,
        remote_port,
        protocol: packet.protocol,
        family: packet.family as u8,
        pad: [0; 2],
    }
}

/// Takes one flow from what a source has earned: 0, or 1 if it has not earned one. By the exact clock:
/// by the coarse one, a source would earn in steps of a jiffy.
#[inline(never)]
pub fn spend(uplink: &Uplink, packet: &Packet) -> u32 {
    let [a, b, c, d] = packet.source[0].to_ne_bytes();
    // A number and not four bytes, which LLVM would clear by a call that takes stack.
    let rest = match packet.family {
        Family::V4 => 0,
        Family::V6 => packet.source[1],
    };
    let [e, f, g, h] = rest.to_ne_bytes();
    let key = BucketKey {
        limit: uplink.limit,
        family: packet.family as u8,
        pad: [0; 3],
        source: [a, b, c, d, e, f, g, h],
    };
    let now = clock::exact();
    let Some(full) = BUCKETS.get_ptr_mut(key) else {
        let _ = BUCKETS.insert(key, now + uplink.pace.interval_ns, 0);
        return 0;
    };
    // SAFETY: a map value, an aligned word. Of CPUs that find a source at rest together, one's flow is
    // not counted; while it is busy, all are, and what several let pass at once is paid for later.
    let full = unsafe { &mut *full };
    match arrive(&uplink.pace, *full, now) {
        Arrival::Rested(next) => *full = next,
        Arrival::Paced => atomic_add(full, uplink.pace.interval_ns),
        Arrival::Early => return 1,
        Arrival::Stale(next) => {
            *full = next;
            return 1;
        }
    }
    0
}
