//! ARP and IPv6 neighbour discovery. Policy does not decide on them (without them there is no
//! network to have a policy on); an endpoint may only speak for its own addresses. What looks like
//! them but comes from afar or goes there is decided by policy, as every other packet.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use policy_common::{
    abi::{ADDRESSES_PER_FAMILY, Direction, DropReason, Endpoint, Family, Mac},
    packet::{
        self, Address, Fragment, Kind, arp_sender, hop_limit, neighbour_options, neighbour_target,
    },
};

use crate::{
    endpoint::Visit,
    lookup::{bytes4, bytes16},
    maps::ADDRESSES_V6,
    verifier::{TcBytes, TcFrame},
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

/// Whether a packet comes from the Ethernet address of its endpoint: a bridge learns from every frame
/// who is where (IEEE 802.1Q, 8.7), so another's would draw that one's frames to the endpoint. Where
/// the own address is not known, any will do that a station may have.
///
/// # Errors
///
/// [`DropReason::SpoofedMac`].
#[inline(always)]
pub fn speaks_as(ctx: &TcContext, own: Mac, direction: Direction) -> Result<(), DropReason> {
    if matches!(direction, Direction::Ingress) {
        return Ok(());
    }
    let sender = sender(ctx, direction);
    let [first, ..] = sender;
    let unknown = own == Mac::default();
    if own != sender && !(unknown && first & 1 == 0) {
        return Err(DropReason::SpoofedMac);
    }
    Ok(())
}

/// The Ethernet address that a frame comes from which leaves an endpoint; all zero for one that
/// enters it.
#[inline(always)]
pub fn sender(ctx: &TcContext, direction: Direction) -> Mac {
    match direction {
        Direction::Ingress => Mac::default(),
        // A frame without one is malformed, and has been dropped.
        Direction::Egress => packet::sender(&TcFrame(ctx)).unwrap_or_default(),
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
/// [`DropReason::SpoofedMac`], [`DropReason::SpoofedArp`], [`DropReason::RogueRouter`],
/// [`DropReason::SpoofedNeighbour`], [`DropReason::SpoofedSource`], [`DropReason::Malformed`].
#[inline(never)]
pub fn discovery(ctx: &TcContext, endpoint: &Endpoint, visit: &Visit) -> Result<(), DropReason> {
    let packet = &visit.packet;
    let router = matches!(packet.kind, Kind::Router);
    // Nobody may fragment discovery, and nobody listens to it (RFC 6980, 5): its options might lie in
    // a later fragment.
    let discovery = router || matches!(packet.kind, Kind::Neighbour);
    if discovery && !matches!(packet.fragment, Fragment::Whole) {
        return Err(DropReason::Malformed);
    }
    if matches!(visit.direction, Direction::Ingress) {
        // RFC 4861, 6.1.2 and 8.1: routers speak from their link-local addresses.
        let fine = !router || link_local(&packet.source);
        return if fine { Ok(()) } else { Err(DropReason::RogueRouter) };
    }
    if router {
        return Err(DropReason::RogueRouter);
    }
    speaks_as(ctx, endpoint.mac, visit.direction)?;
    // ARP probes (RFC 5227), duplicate address detection (RFC 4862, 5.4.2) and the first listener
    // report (RFC 3590) come from no address.
    let source = &packet.source;
    let arp = matches!(packet.kind, Kind::Arp);
    if !unspecified(source) && !owns(endpoint, packet.family, source) {
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

/// Holds what an endpoint says of its link-layer address against what its frame says, which
/// [`discovery`] has checked. A step of its own, for the stack's sake.
///
/// # Errors
///
/// [`DropReason::SpoofedArp`], [`DropReason::SpoofedNeighbour`]; [`DropReason::Malformed`] and
/// [`DropReason::HeaderChain`] for options that cannot be held against anything.
#[inline(always)]
pub fn hardware(ctx: &TcContext, visit: &Visit) -> Result<(), DropReason> {
    let packet = &visit.packet;
    let says = matches!(packet.kind, Kind::Arp | Kind::Neighbour);
    if !says || matches!(visit.direction, Direction::Ingress) {
        return Ok(());
    }
    let sender = u64::from_ne_bytes(sender(ctx, visit.direction));
    let arp = u32::from(matches!(packet.kind, Kind::Arp));
    match link_addresses(ctx.as_ptr().cast(), packet.transport, arp, sender) {
        0 => Ok(()),
        reason => Err(DropReason::from_u8(reason as u8).unwrap_or(DropReason::Fault)),
    }
}

/// Why the link-layer addresses in an ARP or neighbour discovery header at `offset` are not to be
/// believed; 0 if they are.
///
/// A global function: see `lookup::search`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn link_addresses(ctx: *mut __sk_buff, offset: u32, arp: u32, own: u64) -> u32 {
    let ctx = TcContext::new(ctx);
    let (offset, own) = (offset as usize, own.to_ne_bytes());
    let honest = if arp != 0 {
        arp_sender(&TcBytes(&ctx), offset, own)
    } else {
        neighbour_options(&TcBytes(&ctx), offset, own)
    };
    match honest {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}
