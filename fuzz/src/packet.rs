//! The packet parser, on any bytes.
//!
//! Inputs: an Ethernet frame, or what claims to be one. Held: no panic; every offset is within the
//! frame; the ways of reading a frame agree with each other, and with another parser on addresses
//! and ports.

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use policy_common::{
    abi::{DropReason, Family},
    packet::{
        self, Address, Fragment, Kind, Packet, Source, View, arp_sender, hop_limit,
        neighbour_options, neighbour_target, network_layer, parse_plain, protocol, quoted, sender,
    },
};

/// Longest frame whose length its IP header can say, bytes; what is longer is a GSO giant.
const GIANT: usize = 0x1_0000;

/// Bytes in memory as a [`Source`]. A view has exactly the bytes asked for, so that reading past
/// them panics, as the verifier would refuse it.
struct Frame<'a>(&'a [u8]);

#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Source for Frame<'a> {
    type View = Bytes<'a>;

    fn view<const N: usize>(&self, offset: usize) -> Option<Bytes<'a>> {
        self.0.get(offset..offset.checked_add(N)?).map(Bytes)
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl View for Bytes<'_> {
    fn u8(self, at: usize) -> u8 {
        self.0[at]
    }

    fn be16(self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    fn word(self, at: usize) -> u32 {
        u32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
}

/// Holds a frame against everything above; then, if it could not be read, the giant that begins
/// with it.
pub fn check(frame: &[u8]) {
    if read(frame).is_none() && frame.len() < GIANT {
        let mut giant = vec![0; GIANT];
        giant[..frame.len()].copy_from_slice(frame);
        read(&giant);
    }
}

fn read(frame: &[u8]) -> Option<Packet> {
    let source = Frame(frame);
    let mut packet = Packet::UNKNOWN;
    let result = packet::parse(&source, &mut packet);

    let mut plain = Packet::UNKNOWN;
    if parse_plain(&source, &mut plain) {
        assert_eq!(result, Ok(()), "a plain frame that the general way refuses");
        // What identifies fragments is nobody's business in a whole packet.
        assert_eq!(plain, Packet { fragment_id: 0, ..packet }, "the two ways differ");
        quoted_again(frame, &plain);
    }
    let network = network_layer(&source);
    match network {
        Some((Family::V6, ..)) => assert!(hop_limit(&source).is_some()),
        Some((Family::V4, ..)) => assert_eq!(hop_limit(&source), None),
        None => {}
    }
    if let Err(reason) = result {
        let named = matches!(
            reason,
            DropReason::Malformed
                | DropReason::UnsupportedEthertype
                | DropReason::HeaderChain
                | DropReason::SourceRouted
        );
        assert!(named, "{reason:?} is no reason of the parser's");
        return None;
    }
    let own = sender(&source).expect("a frame that could be read has a sender");
    let transport = packet.transport as usize;
    if packet.kind == Kind::Arp {
        assert_eq!(network, None);
        let honest = frame[transport + 8..transport + 14] == own[..6];
        assert_eq!(arp_sender(&source, transport, own).is_ok(), honest);
        return Some(packet);
    }
    assert_eq!(network, Some((packet.family, packet.source, packet.destination)));
    within(frame, &packet);
    consistent(&packet);
    let target = neighbour_target(&source, &packet);
    assert_eq!(target.is_ok(), packet.transport as usize + 24 <= frame.len());

    if let Err(reason) = neighbour_options(&source, transport, own) {
        let named = matches!(
            reason,
            DropReason::Malformed | DropReason::HeaderChain | DropReason::SpoofedNeighbour
        );
        assert!(named, "{reason:?} is no reason of the options'");
    }

    let mut inner = Packet::UNKNOWN;
    match quoted(&source, &packet, &mut inner) {
        Ok(()) => {
            assert_eq!(inner.family, packet.family);
            assert!(inner.transport as usize + 8 <= frame.len());
            assert!(!matches!(inner.kind, Kind::IcmpError | Kind::Arp), "{inner:?}");
        }
        Err(reason) => assert_eq!(reason, DropReason::UnrelatedIcmp),
    }
    if frame.len() < GIANT {
        another_parser(frame, &packet);
    }
    Some(packet)
}

/// What was read was there.
fn within(frame: &[u8], packet: &Packet) {
    let transport = packet.transport as usize;
    let headers = match packet.family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    assert!(transport >= 14 + headers && transport <= frame.len(), "{packet:?}");
    let needed = match (packet.fragment, packet.protocol, packet.family) {
        (Fragment::Later, ..) => 0,
        (_, protocol::TCP, _) => 20,
        (_, protocol::UDP | protocol::UDPLITE | protocol::SCTP, _)
        | (_, protocol::ICMP, Family::V4)
        | (_, protocol::ICMPV6, Family::V6) => 8,
        _ => 0,
    };
    assert!(transport + needed <= frame.len(), "{packet:?}");
}

/// The fields do not contradict each other.
fn consistent(packet: &Packet) {
    if packet.family == Family::V4 {
        let [_, source @ ..] = packet.source;
        let [_, destination @ ..] = packet.destination;
        assert_eq!((source, destination), ([0; 3], [0; 3]));
    }
    let ports = (packet.source_port, packet.destination_port, packet.policy_port);
    let tcp = packet.protocol == protocol::TCP && packet.fragment != Fragment::Later;
    assert_eq!(packet.kind == Kind::Tcp, tcp, "{packet:?}");
    assert!(tcp || packet.tcp_flags == 0, "{packet:?}");
    match packet.kind {
        _ if packet.fragment == Fragment::Later => {
            assert_eq!((packet.kind, ports), (Kind::Stateful, (0, 0, 0)));
        }
        Kind::Tcp | Kind::Stateful => assert_eq!(ports.1, ports.2, "{packet:?}"),
        Kind::EchoRequest => assert_eq!(ports.1, 0, "{packet:?}"),
        Kind::EchoReply => assert_eq!(ports.0, 0, "{packet:?}"),
        Kind::IcmpError | Kind::IcmpOther | Kind::Neighbour | Kind::Router | Kind::Multicast => {
            assert_eq!((ports.0, ports.1), (0, 0), "{packet:?}");
        }
        Kind::Arp => panic!("ARP of an IP packet: {packet:?}"),
    }
}

/// An ICMP error about a plain frame quotes its ends.
fn quoted_again(frame: &[u8], packet: &Packet) {
    let quote = &frame[14..];
    let (kind, header) = match packet.family {
        Family::V4 => (3, 20),
        Family::V6 => (1, 40),
    };
    let mut error = frame[..14 + header].to_vec();
    error.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    error.extend(quote);
    let length = (error.len() - 14 - if header == 20 { 0 } else { 40 }).to_be_bytes();
    let Ok(length) = <[u8; 2]>::try_from(&length[6..]) else { return };
    if error.len() >= GIANT {
        return;
    }
    match packet.family {
        Family::V4 => {
            error[16..18].copy_from_slice(&length);
            error[23] = protocol::ICMP;
        }
        Family::V6 => {
            error[18..20].copy_from_slice(&length);
            error[20] = protocol::ICMPV6;
        }
    }
    let source = Frame(&error);
    let mut outer = Packet::UNKNOWN;
    assert!(parse_plain(&source, &mut outer), "an error about {packet:?} cannot be read");
    assert_eq!(outer.kind, Kind::IcmpError);
    let mut inner = Packet::UNKNOWN;
    if quoted(&source, &outer, &mut inner).is_ok() {
        let ends = |packet: &Packet| {
            let ports = (packet.source_port, packet.destination_port, packet.policy_port);
            (packet.family, packet.protocol, packet.source, packet.destination, ports)
        };
        assert_eq!(ends(&inner), ends(packet), "the quotation is of another connection");
        assert_eq!(inner.transport, outer.transport + 8 + packet.transport - 14);
    } else {
        let tracked = matches!(packet.kind, Kind::Tcp | Kind::EchoRequest | Kind::EchoReply);
        assert!(!tracked, "{packet:?} is not recognised in its quotation");
    }
}

/// Another parser sees the same addresses and ports where it sees any.
fn another_parser(frame: &[u8], packet: &Packet) {
    let Ok(other) = LaxSlicedPacket::from_ethernet(frame) else { return };
    let ends = match &other.net {
        Some(LaxNetSlice::Ipv4(slice)) => {
            let header = slice.header();
            (v4(header.source()), v4(header.destination()))
        }
        Some(LaxNetSlice::Ipv6(slice)) => {
            let header = slice.header();
            (v6(header.source()), v6(header.destination()))
        }
        Some(LaxNetSlice::Arp(_)) | None => return,
    };
    assert_eq!(ends, (packet.source, packet.destination));
    if packet.fragment != Fragment::Whole {
        return;
    }
    let ports = match &other.transport {
        Some(TransportSlice::Tcp(header)) => {
            (protocol::TCP, header.source_port(), header.destination_port())
        }
        Some(TransportSlice::Udp(header)) => {
            (protocol::UDP, header.source_port(), header.destination_port())
        }
        _ => return,
    };
    assert_eq!(ports, (packet.protocol, packet.source_port, packet.destination_port));
}

fn v4(octets: [u8; 4]) -> Address {
    [u32::from_ne_bytes(octets), 0, 0, 0]
}

fn v6(octets: [u8; 16]) -> Address {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}
