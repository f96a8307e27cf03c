//! The bridge guard: between a bridge and its host only addresses of enforced endpoints pass. It
//! holds what an interface that is not fenced yet sends or gets, also while no agent runs.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use policy_common::{
    abi::{CAPTURE_DROPS, Direction, DropReason, Family, GuardKey, PEER_NONE, mapped},
    packet::{Address, Kind, Packet, Source as _, View as _},
};

use crate::{
    capture,
    emit::{self, Drop},
    endpoint::parse_frame,
    lookup::{bytes4, bytes16},
    maps::GUARD,
    neighbour::unspecified,
    verifier::{TcFrame, ifindex, length},
};

/// Decides on one packet between a bridge and the host. `direction` is the containers' view.
#[inline(always)]
pub fn run(ctx: &TcContext, direction: Direction) -> i32 {
    let mut packet = Packet::UNKNOWN;
    match inspect(ctx, direction, &mut packet) {
        Ok(()) => TC_ACT_UNSPEC,
        Err(reason) => {
            let key = emit::key(ifindex(ctx), direction, PEER_NONE, Drop::from(reason), &packet);
            if capture::flags() & CAPTURE_DROPS != 0 {
                capture::guarded(ctx, &packet, direction as u32, reason as u32);
            }
            let length = length(ctx);
            if emit::count_drop(&key, length) {
                emit::tell_of_drop(&key, &packet, length);
            }
            TC_ACT_SHOT
        }
    }
}

#[inline(always)]
fn inspect(ctx: &TcContext, direction: Direction, packet: &mut Packet) -> Result<(), DropReason> {
    parse_frame(ctx, packet)?;
    match direction {
        Direction::Egress => {
            // A probe for an address has none yet.
            let probe = matches!(packet.kind, Kind::Arp | Kind::Neighbour | Kind::Multicast);
            if probe && unspecified(&packet.source) {
                return Ok(());
            }
            known(ctx, packet.family, &packet.source)
        }
        Direction::Ingress => {
            // What goes to many is decided at each endpoint that gets it, and the host's ARP
            // answers carry nothing.
            if matches!(packet.kind, Kind::Arp) || to_many(ctx) {
                return Ok(());
            }
            known(ctx, packet.family, &packet.destination)
        }
    }
}

/// Whether the frame goes to a group or broadcast MAC address.
#[inline(always)]
fn to_many(ctx: &TcContext) -> bool {
    match TcFrame(ctx).view::<14>(0) {
        Some(eth) => eth.u8(0) & 1 != 0,
        None => false,
    }
}

#[inline(always)]
fn known(ctx: &TcContext, family: Family, address: &Address) -> Result<(), DropReason> {
    let address = match family {
        Family::V4 => mapped(bytes4(address)),
        Family::V6 => bytes16(address),
    };
    match GUARD.get_ptr(GuardKey { bridge: ifindex(ctx), address }) {
        Some(_) => Ok(()),
        None => Err(DropReason::Guard),
    }
}
