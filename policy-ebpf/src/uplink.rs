//! The prefilter: untracked denies by source, before the kernel builds an skb.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use policy_common::{
    abi::{Direction, DropReason, LOG_NONE},
    packet::{Kind, Packet, Source as _, hop_limit, network_layer, parse_plain},
};

use crate::{
    clock,
    emit::{self, Drop, Dropped},
    host::failsafe,
    maps::{ENDPOINTS, UPLINKS},
    networks,
    verifier::{XdpFrame, xdp_ifindex},
};

/// Drops what a block list names, passes everything else: what is not IP, or too short to say
/// where it comes from, is the stack's to refuse.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    let frame = XdpFrame(ctx);
    let ifindex = xdp_ifindex(ctx);
    let Some((family, source, destination)) = network_layer(&frame) else { return XDP_PASS };
    // SAFETY: one aligned word, read once.
    let Some(list) = (unsafe { UPLINKS.get(ifindex) }) else { return XDP_PASS };
    let Some(blocked) = networks::blocked(*list, family, &source) else { return XDP_PASS };
    if left_open(ctx, ifindex) != 0 {
        return XDP_PASS;
    }
    let packet = Packet { source, destination, family, ..Packet::UNKNOWN };
    emit::record(&Dropped {
        now: clock::now(),
        ifindex,
        length: frame.len() as u32,
        direction: Direction::Ingress,
        peer: blocked.peer,
        staged: 0,
        log: LOG_NONE,
        drop: Drop { reason: DropReason::Untracked, rule: blocked.rule },
        packet: &packet,
    });
    XDP_DROP
}

/// Whether a packet is of a port that its host endpoint leaves open whatever policy says, or an
/// answer from one; or neighbour discovery, without which nobody on the link would come as far as such
/// a port over IPv6 (over IPv4 it is ARP, which no block list is about). Only packets that are about to
/// be dropped are looked into so far.
///
/// Not inlined, for the stack's sake; a number, see [`emit::Ruling`].
#[inline(never)]
fn left_open(ctx: &XdpContext, ifindex: u32) -> u32 {
    if ENDPOINTS.get_ptr(ifindex).is_none() {
        return 0;
    }
    let mut packet = Packet::UNKNOWN;
    let frame = XdpFrame(ctx);
    if !parse_plain(&frame, &mut packet) {
        return 0;
    }
    let Packet { family, protocol, source_port, destination_port, ref source, .. } = packet;
    // What a router has passed on is none (RFC 4861, 7.1).
    if matches!(packet.kind, Kind::Neighbour) && matches!(hop_limit(&frame), Some(255)) {
        return 1;
    }
    let open = failsafe(family, Direction::Ingress, protocol, destination_port, source).is_some()
        || failsafe(family, Direction::Egress, protocol, source_port, source).is_some();
    u32::from(open)
}
