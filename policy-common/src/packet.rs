//! Packet-header parser: from an Ethernet frame to what policy and conntrack need to know.
//!
//! Generic over [`Source`], so that the code the verifier accepts in the kernel is, line for line,
//! the code that is fuzzed and tested on the host. No loop is unbounded, no offset is fixed that
//! the packet may move (RFC 791 options, RFC 8200 extension headers, IEEE 802.1Q tags), and what
//! cannot be followed is an error with a name, never a guess.

use crate::abi::{DropReason, Family, service};

mod link;
mod options;
mod quoted;

pub use link::{arp_sender, neighbour_options, neighbour_target, sender};
pub use quoted::quoted;

/// Ethernet header, bytes.
const ETH_LEN: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// An outer and an inner tag (802.1ad).
const MAX_VLAN_TAGS: usize = 2;
/// RFC 8200 (4.1) recommends each of six headers at most once.
const MAX_EXTENSION_HEADERS: usize = 6;

/// IP protocol numbers (IANA).
pub mod protocol {
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AH: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDPLITE: u8 = 136;
}

pub mod tcp;

/// Where the bytes come from.
pub trait Source {
    /// A checked run of bytes.
    type View: View;

    /// The `N` bytes at `offset` from the start of the frame, `None` if they are not all there.
    fn view<const N: usize>(&self, offset: usize) -> Option<Self::View>;

    /// Length of the frame, bytes.
    fn len(&self) -> usize;

    /// The same value. Where the ways through the headers meet again, the kernel's source makes the
    /// verifier forget here by which one a value came, so that it walks on once and not for each.
    #[inline(always)]
    fn meet(&self, value: usize) -> usize {
        value
    }

    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A run of bytes that is known to be there. An index past its end is the caller's bug: the
/// verifier refuses it in the kernel, the host implementation panics.
pub trait View: Copy {
    /// One byte.
    fn u8(self, at: usize) -> u8;
    /// Two bytes, network order in the packet, host order here.
    fn be16(self, at: usize) -> u16;
    /// Four bytes as they lie in the packet.
    fn word(self, at: usize) -> u32;
}

/// An address as it lies in the packet: four words in memory order, IPv4 in the first.
pub type Address = [u32; 4];

/// Which part of a fragmented packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented.
    Whole,
    /// The first, with the transport header.
    First,
    /// A later one, without ports.
    Later,
}

/// What kind of exchange a packet belongs to, as far as conntrack is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// Anything else that is tracked by addresses and ports (ports may be 0).
    Stateful,
    /// ICMP or ICMPv6 echo request.
    EchoRequest,
    /// ICMP or ICMPv6 echo reply.
    EchoReply,
    /// An ICMP error or redirect: it quotes the packet that it is about.
    IcmpError,
    /// An ICMP message that is neither; decided by policy each time.
    IcmpOther,
    /// Neighbour solicitation or advertisement, or router solicitation.
    Neighbour,
    /// ICMPv6 router advertisement or redirect, ICMP router advertisement or redirect.
    Router,
    /// Multicast listener discovery.
    Multicast,
    /// ARP for IPv4 over Ethernet (RFC 826): source is the sender's claimed address, destination
    /// the address asked for.
    Arp,
}

/// What is known of a frame. As much as could be read, if parsing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Address family.
    pub family: Family,
    /// Transport protocol (the last one of an extension-header chain).
    pub protocol: u8,
    /// TCP flags byte, else 0.
    pub tcp_flags: u8,
    /// What it is to conntrack.
    pub kind: Kind,
    /// Fragmentation.
    pub fragment: Fragment,
    /// Identification field of a fragmented packet, host order. A field of its own: as the payload
    /// of an enum it would be uninitialised for whole packets, which the verifier refuses to copy.
    pub fragment_id: u32,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Host order. Echo request: the identifier; 0 where there are no ports.
    pub source_port: u16,
    /// Host order. Echo reply: the identifier; 0 where there are no ports.
    pub destination_port: u16,
    /// What policy calls the port: the destination port, or ICMP `type << 8 | code`.
    pub policy_port: u16,
    /// Offset of the transport or ARP header from the start of the frame.
    pub transport: u32,
}

impl Packet {
    /// A frame that nothing is known of yet.
    pub const UNKNOWN: Packet = Packet {
        family: Family::V4,
        protocol: 0,
        tcp_flags: 0,
        kind: Kind::Stateful,
        fragment: Fragment::Whole,
        fragment_id: 0,
        source: [0; 4],
        destination: [0; 4],
        source_port: 0,
        destination_port: 0,
        policy_port: 0,
        transport: 0,
    };

    /// The coordinate that a class is searched by.
    #[inline(always)]
    pub fn service(&self) -> u32 {
        service(self.protocol, self.policy_port)
    }
}

/// Parses the frames that nearly all traffic is made of: untagged, IPv4 without options or IPv6
/// without extension headers, not fragmented. Every offset is a constant then, which is what makes
/// direct packet access cheap. `false`: `packet` is to be thrown away, and [`parse`] asked.
#[inline(always)]
#[must_use]
pub fn parse_plain<S: Source>(source: &S, packet: &mut Packet) -> bool {
    let Some(eth) = source.view::<ETH_LEN>(0) else { return false };
    match eth.be16(12) {
        ETHERTYPE_IPV4 => {
            let Some(ip) = source.view::<20>(ETH_LEN) else { return false };
            let total = usize::from(ip.be16(2));
            if ip.u8(0) != 0x45
                || ip.be16(6) & 0x3fff != 0
                || total < 20
                || ETH_LEN + total > source.len()
            {
                return false;
            }
            packet.protocol = ip.u8(9);
            packet.source[0] = ip.word(12);
            packet.destination[0] = ip.word(16);
            packet.transport = (ETH_LEN + 20) as u32;
            parse_transport(source, packet, ETH_LEN + 20, total - 20).is_ok()
        }
        ETHERTYPE_IPV6 => {
            let Some(ip) = source.view::<40>(ETH_LEN) else { return false };
            let payload = usize::from(ip.be16(4));
            let next = ip.u8(6);
            if ip.u8(0) >> 4 != 6
                || payload == 0
                || ETH_LEN + 40 + payload > source.len()
                || is_extension(next)
            {
                return false;
            }
            packet.family = Family::V6;
            packet.protocol = next;
            packet.source = [ip.word(8), ip.word(12), ip.word(16), ip.word(20)];
            packet.destination = [ip.word(24), ip.word(28), ip.word(32), ip.word(36)];
            packet.transport = (ETH_LEN + 40) as u32;
            parse_transport(source, packet, ETH_LEN + 40, payload).is_ok()
        }
        _ => false,
    }
}

/// Whether an IPv6 next-header number names an extension header that the parser follows.
#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION_OPTIONS
            | protocol::AH
            | protocol::FRAGMENT
    )
}

/// Parses an Ethernet frame into `packet`, which holds [`Packet::UNKNOWN`].
///
/// # Errors
///
/// The reason to drop it: [`DropReason::Malformed`], [`DropReason::UnsupportedEthertype`],
/// [`DropReason::HeaderChain`] or [`DropReason::SourceRouted`].
#[inline(always)]
pub fn parse<S: Source>(source: &S, packet: &mut Packet) -> Result<(), DropReason> {
    let (ethertype, offset) = link_layer(source).ok_or(DropReason::Malformed)?;
    let offset = source.meet(offset);
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(source, offset, packet),
        ETHERTYPE_IPV6 => parse_ipv6(source, offset, packet),
        ETHERTYPE_ARP => parse_arp(source, offset, packet),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Err(DropReason::HeaderChain),
        _ => Err(DropReason::UnsupportedEthertype),
    }
}

/// The type of what an Ethernet frame carries, and where it starts, after any VLAN tags.
#[inline(always)]
fn link_layer<S: Source>(source: &S) -> Option<(u16, usize)> {
    let mut ethertype = source.view::<ETH_LEN>(0)?.be16(12);
    let mut offset = ETH_LEN;
    for _ in 0..MAX_VLAN_TAGS {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        ethertype = source.view::<4>(offset)?.be16(2);
        offset += 4;
    }
    Some((ethertype, offset))
}

/// Family, source and destination of an IP packet, its other headers not looked at; `None` for
/// everything else.
#[inline(always)]
pub fn network_layer<S: Source>(source: &S) -> Option<(Family, Address, Address)> {
    let (ethertype, offset) = link_layer(source)?;
    match ethertype {
        ETHERTYPE_IPV4 => {
            let ip = source.view::<20>(offset)?;
            Some((Family::V4, [ip.word(12), 0, 0, 0], [ip.word(16), 0, 0, 0]))
        }
        ETHERTYPE_IPV6 => {
            let ip = source.view::<40>(offset)?;
            Some((
                Family::V6,
                [ip.word(8), ip.word(12), ip.word(16), ip.word(20)],
                [ip.word(24), ip.word(28), ip.word(32), ip.word(36)],
            ))
        }
        _ => None,
    }
}

/// How many routers an IPv6 packet may still pass; `None` for everything else. 255 and 1 are what
/// nobody beyond a router can make arrive, or have arrive (RFC 4861, 7.1; RFC 2710, 3).
#[inline(always)]
pub fn hop_limit<S: Source>(source: &S) -> Option<u8> {
    match link_layer(source)? {
        (ETHERTYPE_IPV6, offset) => Some(source.view::<8>(offset)?.u8(7)),
        _ => None,
    }
}

#[inline(always)]
fn parse_arp<S: Source>(source: &S, offset: usize, packet: &mut Packet) -> Result<(), DropReason> {
    let arp = source.view::<28>(offset).ok_or(DropReason::Malformed)?;
    let ethernet_ipv4 = arp.be16(0) == 1 && arp.be16(2) == ETHERTYPE_IPV4;
    if !ethernet_ipv4 || arp.u8(4) != 6 || arp.u8(5) != 4 {
        return Err(DropReason::Malformed);
    }
    packet.kind = Kind::Arp;
    packet.transport = offset as u32;
    packet.source[0] = arp.word(14);
    packet.destination[0] = arp.word(24);
    Ok(())
}

#[inline(always)]
fn parse_ipv4<S: Source>(source: &S, offset: usize, packet: &mut Packet) -> Result<(), DropReason> {
    let ip = source.view::<20>(offset).ok_or(DropReason::Malformed)?;
    let version_ihl = ip.u8(0);
    let header = usize::from(version_ihl & 0x0f) * 4;
    if version_ihl >> 4 != 4 || header < 20 {
        return Err(DropReason::Malformed);
    }
    let mut total = usize::from(ip.be16(2));
    if total == 0 {
        // BIG TCP: a GSO packet over 64 KiB has no room for its length (include/net/ip.h,
        // iph_totlen); then the frame's length is the only one.
        if source.len() <= 0xffff {
            return Err(DropReason::Malformed);
        }
        total = source.len() - offset;
    }
    if total < header || offset + total > source.len() {
        return Err(DropReason::Malformed);
    }
    let flags_offset = ip.be16(6);
    packet.protocol = ip.u8(9);
    packet.fragment = fragment(flags_offset & 0x1fff, flags_offset & 0x2000 != 0);
    packet.fragment_id = u32::from(ip.be16(4));
    packet.source[0] = ip.word(12);
    packet.destination[0] = ip.word(16);
    packet.transport = (offset + header) as u32;
    options::check(source, offset + 20, header - 20)?;
    fits(flags_offset & 0x1fff, total - header, packet.protocol)?;
    parse_transport(source, packet, offset + header, total - header)
}

#[inline(always)]
fn parse_ipv6<S: Source>(source: &S, offset: usize, packet: &mut Packet) -> Result<(), DropReason> {
    let ip = source.view::<40>(offset).ok_or(DropReason::Malformed)?;
    if ip.u8(0) >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    packet.family = Family::V6;
    packet.source = [ip.word(8), ip.word(12), ip.word(16), ip.word(20)];
    packet.destination = [ip.word(24), ip.word(28), ip.word(32), ip.word(36)];
    let mut payload = usize::from(ip.be16(4));
    if payload == 0 && source.len() > 0xffff {
        // A GSO packet over 64 KiB; the kernel strips the jumbo option before transmission
        // (ipv6_hopopt_jumbo_remove).
        payload = source.len() - offset - 40;
    }
    if offset + 40 + payload > source.len() {
        return Err(DropReason::Malformed);
    }
    let mut next = ip.u8(6);
    let mut transport = offset + 40;
    let mut followed = 0;
    let mut place = 0;
    // RFC 8200, 4: each extension header names the next and, but for the fragment header, its own
    // length.
    while followed < MAX_EXTENSION_HEADERS {
        let length = match next {
            // RFC 8200, 4.1: nowhere but at the beginning.
            protocol::HOP_BY_HOP if followed != 0 => return Err(DropReason::Malformed),
            // A piece of a piece.
            protocol::FRAGMENT if matches!(packet.fragment, Fragment::First) => {
                return Err(DropReason::HeaderChain);
            }
            protocol::ROUTING => {
                let header = source.view::<4>(transport).ok_or(DropReason::Malformed)?;
                // Segments left (RFC 8200, 4.4): the destination address is not the last one.
                if header.u8(3) != 0 {
                    return Err(DropReason::SourceRouted);
                }
                next = header.u8(0);
                8 + usize::from(header.u8(1)) * 8
            }
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS => {
                let header = source.view::<2>(transport).ok_or(DropReason::Malformed)?;
                next = header.u8(0);
                8 + usize::from(header.u8(1)) * 8
            }
            protocol::AH => {
                // RFC 4302, 2.2: in words of four bytes, minus two.
                let header = source.view::<2>(transport).ok_or(DropReason::Malformed)?;
                next = header.u8(0);
                8 + usize::from(header.u8(1)) * 4
            }
            protocol::FRAGMENT => {
                let header = source.view::<8>(transport).ok_or(DropReason::Malformed)?;
                next = header.u8(0);
                let flags_offset = header.be16(2);
                packet.fragment_id = u32::from_be(header.word(4));
                packet.fragment = fragment(flags_offset >> 3, flags_offset & 1 != 0);
                place = flags_offset >> 3;
                8
            }
            _ => break,
        };
        transport = source.meet(transport + length);
        next = source.meet(usize::from(next)) as u8;
        followed += 1;
        if matches!(packet.fragment, Fragment::Later) {
            // What follows is payload, not headers.
            break;
        }
    }
    if is_extension(next) && !matches!(packet.fragment, Fragment::Later) {
        return Err(DropReason::HeaderChain);
    }
    let headers = transport - (offset + 40);
    if headers > payload {
        return Err(DropReason::Malformed);
    }
    packet.protocol = next;
    packet.transport = transport as u32;
    fits(place, payload - headers, next)?;
    parse_transport(source, packet, transport, payload - headers)
}

#[inline(always)]
fn fragment(offset: u16, more: bool) -> Fragment {
    if offset != 0 {
        Fragment::Later
    } else if more {
        Fragment::First
    } else {
        Fragment::Whole
    }
}

/// Holds a fragment against its place, in units of eight bytes: it must not lie over the TCP header, all
/// of which is in the first one and decided the verdict (RFC 1858, RFC 3128), nor end beyond the
/// longest packet (RFC 791, 3.1; RFC 8200, 4.5).
#[inline(always)]
fn fits(place: u16, length: usize, protocol: u8) -> Result<(), DropReason> {
    let over_header = protocol == protocol::TCP && (place == 1 || place == 2);
    if over_header || place != 0 && usize::from(place) * 8 + length > 0xffff {
        return Err(DropReason::Malformed);
    }
    Ok(())
}

/// Reads ports, flags or ICMP type; `length` is what the IP header says follows it.
#[inline(always)]
fn parse_transport<S: Source>(
    source: &S,
    packet: &mut Packet,
    offset: usize,
    length: usize,
) -> Result<(), DropReason> {
    if matches!(packet.fragment, Fragment::Later) {
        return Ok(());
    }
    match packet.protocol {
        protocol::TCP => {
            if length < 20 {
                return Err(DropReason::Malformed);
            }
            let header = source.view::<20>(offset).ok_or(DropReason::Malformed)?;
            let header_length = usize::from(header.u8(12) >> 4) * 4;
            if header_length < 20 || header_length > length {
                return Err(DropReason::Malformed);
            }
            packet.source_port = header.be16(0);
            packet.destination_port = header.be16(2);
            packet.policy_port = packet.destination_port;
            packet.tcp_flags = header.u8(13);
            packet.kind = Kind::Tcp;
        }
        protocol::UDP | protocol::UDPLITE | protocol::SCTP => {
            if length < 8 {
                return Err(DropReason::Malformed);
            }
            let header = source.view::<8>(offset).ok_or(DropReason::Malformed)?;
            // RFC 768: the header and the data. The first fragment speaks for all of them; a jumbogram's
            // says nothing (RFC 2675, 4).
            let said = usize::from(header.be16(4));
            let whole = matches!(packet.fragment, Fragment::Whole) && length <= 0xffff;
            if packet.protocol == protocol::UDP && whole && (said < 8 || said > length) {
                return Err(DropReason::Malformed);
            }
            packet.source_port = header.be16(0);
            packet.destination_port = header.be16(2);
            packet.policy_port = packet.destination_port;
        }
        protocol::ICMP if matches!(packet.family, Family::V4) => {
            parse_icmp(source, packet, offset, length, icmp_kind)?;
        }
        protocol::ICMPV6 if matches!(packet.family, Family::V6) => {
            parse_icmp(source, packet, offset, length, icmpv6_kind)?;
        }
        _ => {}
    }
    Ok(())
}

#[inline(always)]
fn parse_icmp<S: Source>(
    source: &S,
    packet: &mut Packet,
    offset: usize,
    length: usize,
    kind: fn(u8) -> Kind,
) -> Result<(), DropReason> {
    if length < 8 {
        return Err(DropReason::Malformed);
    }
    let header = source.view::<8>(offset).ok_or(DropReason::Malformed)?;
    packet.policy_port = header.be16(0);
    packet.kind = kind(header.u8(0));
    // Echo has no code but 0 (RFC 792; RFC 4443, 4.1). With another one it is no echo: a connection
    // has no room for the code, so that policy, which has, is asked each time.
    if header.u8(1) != 0 && matches!(packet.kind, Kind::EchoRequest | Kind::EchoReply) {
        packet.kind = Kind::IcmpOther;
    }
    // The identifier stands on the asking side only: an inbound request and an outbound one with
    // the same identifier are two exchanges, and the reply finds its own.
    match packet.kind {
        Kind::EchoRequest => packet.source_port = header.be16(4),
        Kind::EchoReply => packet.destination_port = header.be16(4),
        _ => {}
    }
    Ok(())
}

/// RFC 792, RFC 1256.
#[inline(always)]
fn icmp_kind(kind: u8) -> Kind {
    match kind {
        8 => Kind::EchoRequest,
        0 => Kind::EchoReply,
        3 | 4 | 11 | 12 => Kind::IcmpError,
        5 | 9 => Kind::Router,
        _ => Kind::IcmpOther,
    }
}

/// RFC 4443, RFC 4861, RFC 2710, RFC 3810.
#[inline(always)]
fn icmpv6_kind(kind: u8) -> Kind {
    match kind {
        128 => Kind::EchoRequest,
        129 => Kind::EchoReply,
        1..=4 => Kind::IcmpError,
        133 | 135 | 136 => Kind::Neighbour,
        134 | 137 => Kind::Router,
        130..=132 | 143 => Kind::Multicast,
        _ => Kind::IcmpOther,
    }
}

#[cfg(test)]
mod tests;
