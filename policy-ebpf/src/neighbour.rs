//! ARP and IPv6 neighbour discovery. Policy does not decide on them (without them there is no
//! network to have a policy on); an endpoint may only speak for its own addresses. What looks like
//! them but comes from afar or goes there is decided by policy, as every other packet.

use aya_ebpf::programs::TcContext;
use policy_common::{
    abi::{ADDRESSES_PER_FAMILY, Direction, DropReason, Endpoint, Family},
    packet::{Address, Kind, hop_limit, neighbour_target},
};

use crate::{
    endpoint::Visit,
    lookup::{bytes4, bytes16},
    maps::ADDRESSES_V6,
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

/// Whether a packet is between neighbours, and so for [`discovery`]: ARP is; of IPv6, what no router
/// has passed on and none will. An endpoint's router advertisements are, whoever they go to: they
/// are refused there.
#[inline(never)]
pub fn on_link(ctx: &TcContext, visit: &Visit) -> bool {
    let packet = &visit.packet;
    let outbound = matches!(visit.direction, Direction::Egress);
    let hops = || hop_limit(&TcBytes(ctx)).unwrap_or(0);
    let [first, second, ..] = bytes16(&packet.destination);
    match packet.kind {
        Kind::Arp => true,
        Kind::Router if outbound => true,
        // Reports go to the group that they are about, whatever its scope.
        Kind::Multicast => first == 0xff && hops() == 1,
        // To the link's groups, to link-local addresses (RFC 4291, 2.5.6), or to somebody we know.
        Kind::Neighbour if outbound => {
            let near =
                first == 0xff && second & 0x0f == 2 || first == 0xfe && second & 0xc0 == 0x80;
            // SAFETY: whether there is one is all that is asked.
            let known = || unsafe { ADDRESSES_V6.get(bytes16(&packet.destination)) }.is_some();
            (near || known()) && hops() == 255
        }
        _ => hops() == 255,
    }
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
    if matches!(packet.kind, Kind::Neighbour) && packet.policy_port >> 8 == NEIGHBOUR_ADVERTISEMENT
    {
        let target = neighbour_target(&TcBytes(ctx), packet)?;
        if !owns(endpoint, packet.family, &target) {
            return Err(DropReason::SpoofedNeighbour);
        }
    }
    Ok(())
}
