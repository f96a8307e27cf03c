//! ARP and IPv6 neighbour discovery. Policy does not decide on them (without them there is no
//! network to have a policy on); an endpoint may only speak for its own addresses.

use aya_ebpf::programs::TcContext;
use policy_common::{
    abi::{ADDRESSES_PER_FAMILY, Direction, DropReason, Endpoint, Family},
    packet::{Address, Kind, neighbour_target},
};

use crate::{
    endpoint::Visit,
    lookup::{bytes4, bytes16},
    verifier::TcBytes,
};

/// ICMPv6 type of a neighbour advertisement (RFC 4861, 4.4).
const NEIGHBOUR_ADVERTISEMENT: u16 = 136;

/// Whether the endpoint has this address.
#[inline(always)]
pub fn owns(endpoint: &Endpoint, family: Family, address: &Address) -> bool {
    match family {
        Family::V4 => {
            let address = bytes4(address);
            let mut slot = 0;
            while slot < ADDRESSES_PER_FAMILY {
                if endpoint.v4[slot] == address {
                    return address != [0; 4];
                }
                slot += 1;
            }
            false
        }
        Family::V6 => {
            let address = bytes16(address);
            let mut slot = 0;
            while slot < ADDRESSES_PER_FAMILY {
                if endpoint.v6[slot] == address {
                    return address != [0; 16];
                }
                slot += 1;
            }
            false
        }
    }
}

/// The unspecified address, `0.0.0.0` or `::`.
#[inline(always)]
pub fn unspecified(address: &Address) -> bool {
    (address[0] | address[1] | address[2] | address[3]) == 0
}

/// fe80::/10 (RFC 4291, 2.5.6).
#[inline(always)]
fn link_local(address: &Address) -> bool {
    u32::from_be(address[0]) >> 22 == 0xfe80 >> 6
}

/// ARP, neighbour discovery and multicast listener reports. On the way in they pass: whatever was
/// sent by another endpoint was checked there, and the host is the router.
///
/// # Errors
///
/// [`DropReason::SpoofedArp`], [`DropReason::RogueRouter`], [`DropReason::SpoofedNeighbour`],
/// [`DropReason::SpoofedSource`].
#[inline(never)]
pub fn discovery(ctx: &TcContext, endpoint: &Endpoint, visit: &Visit) -> Result<(), DropReason> {
    let packet = &visit.packet;
    let router = matches!(packet.kind, Kind::Router);
    if matches!(visit.direction, Direction::Ingress) {
        // RFC 4861, 6.1.2 and 8.1: routers speak from their link-local addresses.
        let fine = !router || link_local(&packet.source);
        return if fine { Ok(()) } else { Err(DropReason::RogueRouter) };
    }
    if router {
        return Err(DropReason::RogueRouter);
    }
    // ARP probes (RFC 5227), duplicate address detection (RFC 4862, 5.4.2) and the first listener
    // report (RFC 3590) come from no address.
    let source = &packet.source;
    if !unspecified(source) && !owns(endpoint, packet.family, source) {
        let arp = matches!(packet.kind, Kind::Arp);
        return Err(if arp { DropReason::SpoofedArp } else { DropReason::SpoofedSource });
    }
    if matches!(packet.kind, Kind::Neighbour)
        && packet.policy_port >> 8 == NEIGHBOUR_ADVERTISEMENT
    {
        let target = neighbour_target(&TcBytes(ctx), packet)?;
        if !owns(endpoint, packet.family, &target) {
            return Err(DropReason::SpoofedNeighbour);
        }
    }
    Ok(())
}
