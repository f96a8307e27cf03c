//! The prefilter: untracked denies by source, before the kernel builds an skb.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS},
        xdp_md,
    },
    programs::XdpContext,
};
use policy_common::{
    abi::{CAPTURE_DROPS, Direction, DropKey, DropReason, RULE_NONE, Uplink},
    packet::{Kind, Packet, Source as _, hop_limit, network_layer, parse, parse_plain},
};

use crate::{
    capture, clock,
    emit::{self, Drop},
    host::failsafe,
    limit, lookup,
    maps::{PARSED, UPLINKS},
    networks,
    verifier::{XdpFrame, XdpHeaders, xdp_ifindex},
};

/// Drops what a block list names and what begins more flows than it may, passes everything else: what
/// is not IP, or too short to say where it comes from, is the stack's to refuse.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    let frame = XdpFrame(ctx);
    let ifindex = xdp_ifindex(ctx);
    let Some((family, source, destination)) = network_layer(&frame) else { return XDP_PASS };
    let said = networks::at_uplink(ifindex, family, &source);
    let Some(blocked) = said.blocked() else {
        if said.is_limited() {
            return limited(ctx, ifindex, said.is_host());
        }
        return XDP_PASS;
    };
    if said.is_host() && is_spared(ctx.as_ptr().cast()) != 0 {
        return XDP_PASS;
    }
    let length = frame.len() as u32;
    let drop = Drop { reason: DropReason::Untracked, rule: blocked.rule };
    let key = emit::key(ifindex, Direction::Ingress, blocked.peer, drop, &Packet::UNKNOWN);
    capture(ctx, &key);
    if emit::count_drop(&key, length) {
        let packet = Packet { source, destination, family, ..Packet::UNKNOWN };
        emit::tell_of_drop(&key, &packet, length);
    }
    XDP_DROP
}

/// Shows a frame that is dropped to whoever wants it.
#[inline(always)]
fn capture(ctx: &XdpContext, key: &DropKey) {
    if capture::flags() & CAPTURE_DROPS != 0 {
        capture::capture_frame(ctx.as_ptr().cast(), u32::from(key.reason), key.rule, key.peer);
    }
}

#[inline(always)]
fn limited(ctx: &XdpContext, ifindex: u32, is_host: bool) -> u32 {
    // SAFETY: as in `networks::packed`.
    let Some(uplink) = (unsafe { UPLINKS.get(ifindex) }) else { return XDP_PASS };
    if uplink.limit == RULE_NONE || exceeds(ctx, uplink, u32::from(is_host)) == 0 {
        return XDP_PASS;
    }
    refuse(ctx, uplink.limit)
}

/// Whether a packet begins one flow more than its source may. Not inlined, as all below: few uplinks have
/// a limit, and each step has the stack to itself. A number, see [`emit::Ruling`].
#[inline(never)]
fn exceeds(ctx: &XdpContext, uplink: &Uplink, is_host: u32) -> u32 {
    let is_read = read(ctx.as_ptr().cast()) != 0;
    let Some(packet) = parsed() else { return 0 };
    // Whoever is there to refuse what cannot be read may not be the one that gets it: the host puts
    // fragments together first. So such a packet counts as one that begins a flow.
    if !is_read {
        return limit::spend(uplink, packet);
    }
    if is_host != 0 && is_left_open(ctx, packet, false) {
        return 0;
    }
    limit::refuses(uplink, packet, clock::now())
}

/// Drops it: what could be read of it is in [`PARSED`].
#[inline(never)]
fn refuse(ctx: &XdpContext, limit: u32) -> u32 {
    let Some(packet) = parsed() else { return XDP_DROP };
    let length = XdpFrame(ctx).len() as u32;
    let peer = lookup::peer(packet.family, &packet.source);
    let drop = Drop { reason: DropReason::RateLimited, rule: limit };
    // The sender chooses the port: as part of the key it would let him fill the table of counters.
    let counted = Packet { protocol: packet.protocol, ..Packet::UNKNOWN };
    let key = emit::key(xdp_ifindex(ctx), Direction::Ingress, peer, drop, &counted);
    capture(ctx, &key);
    if emit::count_drop(&key, length) {
        emit::tell_of_drop(&key, packet, length);
    }
    XDP_DROP
}

/// What [`read`] has made of a frame. It stays there: on the stack is no room for it.
#[inline(always)]
fn parsed<'a>() -> Option<&'a Packet> {
    // SAFETY: this CPU's own slot, written by `read`.
    PARSED.get_ptr(0).map(|parsed| unsafe { (*parsed).assume_init_ref() })
}

/// Parses a frame, into [`PARSED`]: the usual ones at once, the others at leisure. 0 if that fails; then there
/// are family and addresses alone. Global, as `endpoint::parse_any`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read(ctx: *mut xdp_md) -> u32 {
    let Some(parsed) = PARSED.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own slot; the kernel runs XDP programs with bottom halves off. A packet that
    // nothing is known of is written before anything is read.
    let packet = unsafe { (*parsed).write(Packet::UNKNOWN) };
    let ctx = XdpContext::new(ctx);
    if parse_plain(&XdpFrame(&ctx), packet) {
        return 1;
    }
    *packet = Packet::UNKNOWN;
    if parse(&XdpHeaders(&ctx), packet).is_ok() {
        return 1;
    }
    *packet = Packet::UNKNOWN;
    if let Some((family, source, destination)) = network_layer(&XdpFrame(&ctx)) {
        packet.family = family;
        packet.source = source;
        packet.destination = destination;
    }
    0
}

/// As [`is_left_open`], of a packet that is yet to be read. Only packets that are about to be dropped
/// are looked into so far.
///
/// Global, so that it gets the context as it is: of a function of its own LLVM would make one that gets
/// the frame's bounds, as numbers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_spared(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    let mut packet = Packet::UNKNOWN;
    u32::from(parse_plain(&XdpFrame(&ctx), &mut packet) && is_left_open(&ctx, &packet, true))
}

/// Whether a packet is of a port that its host endpoint leaves open whatever policy says, or may be (with
/// `answers`) an answer from one; or neighbour discovery, without which nobody on the link would come as far as such
/// a port over IPv6 (over IPv4 it is ARP, which no block list is about).
#[inline(always)]
fn is_left_open(ctx: &XdpContext, packet: &Packet, answers: bool) -> bool {
    let Packet { family, protocol, source_port, destination_port, ref source, .. } = *packet;
    // What a router has passed on is none (RFC 4861, 7.1).
    if matches!(packet.kind, Kind::Neighbour) && matches!(hop_limit(&XdpFrame(ctx)), Some(255)) {
        return true;
    }
    failsafe(family, Direction::Ingress, protocol, destination_port, source).is_some()
        || answers && failsafe(family, Direction::Egress, protocol, source_port, source).is_some()
}
