//! Link-layer addresses, where frames, ARP and neighbour discovery give them.

use super::{Address, ETH_LEN, Packet, Source, View};
use crate::abi::{self, DropReason, Mac};

/// Two addresses, a nonce (RFC 7527) and what secure discovery adds (RFC 3971, 5), with room to spare.
const MAX_NEIGHBOUR_OPTIONS: usize = 8;
/// ICMPv6 type (RFC 4861, 4.1).
const ROUTER_SOLICITATION: u8 = 133;
/// Options of neighbour discovery (RFC 4861, 4.6).
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;

/// The Ethernet address that a frame says it comes from.
#[inline(always)]
pub fn sender<S: Source>(source: &S) -> Option<Mac> {
    Some(mac(source.view::<ETH_LEN>(0)?, 6))
}

/// Holds the hardware address that an ARP header at `offset` gives for its sender against `own`.
///
/// # Errors
///
/// [`DropReason::SpoofedArp`] if it differs, [`DropReason::Malformed`] if it is cut short.
#[inline(always)]
pub fn arp_sender<S: Source>(source: &S, offset: usize, own: Mac) -> Result<(), DropReason> {
    let arp = source.view::<14>(offset).ok_or(DropReason::Malformed)?;
    if mac(arp, 8) == own { Ok(()) } else { Err(DropReason::SpoofedArp) }
}

#[inline(always)]
fn mac<V: View>(view: V, at: usize) -> Mac {
    let [a, b, c, d] = view.word(at).to_ne_bytes();
    let [e, f] = view.be16(at + 4).to_be_bytes();
    abi::mac([a, b, c, d, e, f])
}

/// The target address of a neighbour solicitation or advertisement (RFC 4861, 4.3 and 4.4).
///
/// # Errors
///
/// [`DropReason::Malformed`] if it is cut short.
#[inline(always)]
pub fn neighbour_target<S: Source>(source: &S, packet: &Packet) -> Result<Address, DropReason> {
    let header = source.view::<24>(packet.transport as usize).ok_or(DropReason::Malformed)?;
    Ok([header.word(8), header.word(12), header.word(16), header.word(20)])
}

/// Holds the link-layer addresses that a neighbour solicitation or advertisement or a router
/// solicitation gives (RFC 4861, 4.6.1) against `own`; `transport` is where its ICMPv6 header starts.
///
/// # Errors
///
/// [`DropReason::SpoofedNeighbour`] if one differs, [`DropReason::Malformed`] if the options are cut
/// short or have no length, [`DropReason::HeaderChain`] if there are too many.
#[inline(always)]
pub fn neighbour_options<S: Source>(
    source: &S,
    transport: usize,
    own: Mac,
) -> Result<(), DropReason> {
    let malformed = DropReason::Malformed;
    // Such a message is longer than what Ethernet pads, so that nothing lies behind it.
    let end = source.len();
    let mut at = match source.view::<1>(transport).ok_or(malformed)?.u8(0) {
        ROUTER_SOLICITATION => transport + 8,
        _ => transport + 24,
    };
    let mut seen = 0;
    while seen < MAX_NEIGHBOUR_OPTIONS && at < end {
        let option = source.view::<8>(at).ok_or(malformed)?;
        let length = usize::from(option.u8(1)) * 8;
        if length == 0 {
            return Err(malformed);
        }
        if matches!(option.u8(0), SOURCE_LINK_ADDRESS | TARGET_LINK_ADDRESS) {
            // RFC 2464, 6: on Ethernet it is one unit long.
            if length != 8 {
                return Err(malformed);
            }
            if mac(option, 2) != own {
                return Err(DropReason::SpoofedNeighbour);
            }
        }
        at += length;
        seen += 1;
    }
    match at {
        at if at < end => Err(DropReason::HeaderChain),
        at if at > end => Err(malformed),
        _ => Ok(()),
    }
}
