//! Packets for `policyctl capture`: the bytes of what is dropped, or passes, while somebody wants them.
//!
//! Whether anybody does stands beside the revision, which is read for each packet anyway.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_md,
    helpers::generated::bpf_skb_load_bytes,
    programs::{TcContext, XdpContext},
};
use policy_common::{
    abi::{
        CAPTURE_DROPS, CAPTURE_PASSES, CAPTURED_BYTES, Captured, CapturedPacket, Direction,
        FAMILY_ANY, PEER_NONE,
    },
    packet::{Packet, Source as _, View as _},
};

use crate::{
    clock,
    endpoint::Visit,
    lookup::{self, bytes16},
    maps::{CAPTURE, CAPTURE_LOST, CAPTURES, GLOBALS},
    verifier::{XdpFrame, ifindex, length, pin, xdp_ifindex},
};

/// Bytes of a frame at an uplink: enough for its headers.
const FRAME_BYTES: usize = 128;

/// A packet that an endpoint's policy has decided on. Always 0: see [`crate::emit::Ruling`].
#[inline(never)]
pub fn decided(ctx: &TcContext, visit: &Visit, is_allowed: u32, reason: u32, rule: u32) -> u32 {
    let flag = if is_allowed != 0 { CAPTURE_PASSES } else { CAPTURE_DROPS };
    if visit.capture & flag == 0 || !is_wanted(&visit.packet) {
        return 0;
    }
    let (_, remote) = visit.ends();
    // Nobody has asked who the other side of a known connection is.
    let peer = match visit.peer {
        PEER_NONE if is_allowed != 0 => lookup::peer(visit.packet.family, &remote),
        peer => peer,
    };
    let head = Captured {
        time_ns: visit.now,
        ifindex: visit.ifindex,
        peer,
        rule,
        staged: visit.staged,
        length: visit.length,
        captured: 0,
        reason: reason as u8,
        direction: visit.direction as u8,
        allowed: is_allowed as u8,
        pad: [0; 5],
    };
    copy(ctx, &head)
}

/// A packet that the bridge guard drops.
#[inline(never)]
pub fn guarded(ctx: &TcContext, packet: &Packet, direction: u32, reason: u32) -> u32 {
    if flags() & CAPTURE_DROPS == 0 || !is_wanted(packet) {
        return 0;
    }
    let head = Captured {
        time_ns: clock::now(),
        ifindex: ifindex(ctx),
        peer: PEER_NONE,
        rule: 0,
        staged: 0,
        length: length(ctx),
        captured: 0,
        reason: reason as u8,
        direction: direction as u8,
        allowed: 0,
        pad: [0; 5],
    };
    copy(ctx, &head)
}

/// What is wanted now, `CAPTURE_*`.
#[inline(always)]
pub fn flags() -> u8 {
    GLOBALS.get(0).map_or(0, |globals| globals.capture)
}

/// Whether a packet is one of those that were asked for. What could not be read of it is not.
#[inline(always)]
fn is_wanted(packet: &Packet) -> bool {
    let Some(wanted) = CAPTURE.get(0) else { return false };
    if wanted.protocol != 0 && wanted.protocol != packet.protocol {
        return false;
    }
    let ports = [packet.source_port, packet.destination_port];
    if wanted.port != 0 && !ports.contains(&wanted.port) {
        return false;
    }
    if wanted.family == FAMILY_ANY {
        return true;
    }
    wanted.family == packet.family as u8
        && (wanted.address == bytes16(&packet.source)
            || wanted.address == bytes16(&packet.destination))
}

#[inline(always)]
fn copy(ctx: &TcContext, head: &Captured) -> u32 {
    let snap = CAPTURE.get(0).map_or(0, |wanted| wanted.snap);
    let Some(mut entry) = CAPTURES.reserve::<CapturedPacket>(0) else {
        lose();
        return 0;
    };
    let place = entry.as_mut_ptr();
    // SAFETY: reserved for a value of this type.
    let bytes = unsafe {
        (&raw mut (*place).head).write(*head);
        &raw mut (*place).bytes
    };
    // Linux 5.10 wants to see that it fits and that it is not nothing, and learns the latter from an addition
    // alone: of what is not 0 it knows as little as before.
    let less = pin((head.length.min(snap) as usize).wrapping_sub(1));
    if less < CAPTURED_BYTES {
        let count = less + 1;
        // SAFETY: a context, and so many bytes of the entry.
        let copied =
            unsafe { bpf_skb_load_bytes(ctx.as_ptr(), 0, bytes.cast(), count as u32) } == 0;
        // SAFETY: as above.
        unsafe { (*place).head.captured = if copied { count as u32 } else { 0 } };
    }
    entry.submit(0);
    0
}

#[inline(always)]
fn lose() {
    if let Some(lost) = CAPTURE_LOST.get_ptr_mut(0) {
        // SAFETY: this CPU's own slot, see `emit::count_drop`.
        unsafe { *lost += 1 };
    }
}

/// A frame that an uplink drops: its first bytes, read two at a time as the verifier likes it. Whether it is
/// one that was asked for, the agent finds out. Global, as `uplink::is_spared`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn capture_frame(ctx: *mut xdp_md, reason: u32, rule: u32, peer: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let frame = XdpFrame(&ctx);
    let Some(mut entry) = CAPTURES.reserve::<CapturedPacket>(0) else {
        lose();
        return 0;
    };
    let head = Captured {
        time_ns: clock::now(),
        ifindex: xdp_ifindex(&ctx),
        peer,
        rule,
        staged: 0,
        length: frame.len() as u32,
        captured: 0,
        reason: reason as u8,
        direction: Direction::Ingress as u8,
        allowed: 0,
        pad: [0; 5],
    };
    let place = entry.as_mut_ptr();
    // SAFETY: reserved for a value of this type.
    unsafe { (&raw mut (*place).head).write(head) };
    for pair in 0..FRAME_BYTES / 2 {
        let Some(view) = frame.view::<2>(2 * pair) else { break };
        // SAFETY: as above; the entry has more bytes than `FRAME_BYTES`.
        unsafe {
            let to = (&raw mut (*place).bytes).cast::<u8>().add(2 * pair);
            to.write(view.u8(0));
            to.add(1).write(view.u8(1));
            (*place).head.captured = 2 * pair as u32 + 2;
        }
    }
    entry.submit(0);
    0
}
