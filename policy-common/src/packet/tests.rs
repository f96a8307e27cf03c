//! The parser on the host: frames that etherparse builds, and bytes that nobody would.

extern crate std;

use std::{vec, vec::Vec};

use etherparse::{
    Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header,
    LaxNetSlice, LaxSlicedPacket, PacketBuilder, TcpHeader, UdpHeader,
};
use proptest::{collection::vec as bytes, prelude::*, sample::select};

use super::*;

/// Bytes in memory as a [`Source`].
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

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const V4: ([u8; 4], [u8; 4]) = ([10, 0, 0, 2], [192, 0, 2, 3]);
const V6: ([u8; 16], [u8; 16]) = (
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
    [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3],
);

fn parsed(frame: &[u8]) -> Result<Packet, DropReason> {
    let mut packet = Packet::UNKNOWN;
    parse(&Frame(frame), &mut packet).map(|()| packet)
}

fn plain(frame: &[u8]) -> Option<Packet> {
    let mut packet = Packet::UNKNOWN;
    parse_plain(&Frame(frame), &mut packet).then_some(packet)
}

fn address_v4(octets: [u8; 4]) -> Address {
    [u32::from_ne_bytes(octets), 0, 0, 0]
}

fn address_v6(octets: [u8; 16]) -> Address {
    let word =
        |at| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header { source: MAC, destination: MAC, ether_type: ethertype.into() };
    [header.to_bytes().as_slice(), payload].concat()
}

fn ipv4(protocol: u8, payload: &[u8], change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let mut header = Ipv4Header {
        protocol: IpNumber(protocol),
        source: V4.0,
        destination: V4.1,
        time_to_live: 64,
        ..Ipv4Header::default()
    };
    change(&mut header);
    header.total_len = (header.header_len() + payload.len()) as u16;
    ethernet(ETHERTYPE_IPV4, &[header.to_bytes().as_slice(), payload].concat())
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 0xff,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: payload.len() as u16,
        next_header: IpNumber(next),
        hop_limit: 255,
        source: V6.0,
        destination: V6.1,
    };
    ethernet(ETHERTYPE_IPV6, &[header.to_bytes().as_slice(), payload].concat())
}

fn udp(source_port: u16, destination_port: u16) -> Vec<u8> {
    UdpHeader { source_port, destination_port, length: 8, checksum: 0 }.to_bytes().to_vec()
}

/// What both ways of parsing say, which must be the same.
fn usual(frame: &[u8]) -> Packet {
    let packet = parsed(frame).unwrap();
    assert_eq!(plain(frame), Some(packet));
    packet
}

#[test]
fn usual_frames_are_read_alike_by_both_ways() {
    let build = |v6: bool| {
        let ethernet = PacketBuilder::ethernet2(MAC, MAC);
        if v6 { ethernet.ipv6(V6.0, V6.1, 64) } else { ethernet.ipv4(V4.0, V4.1, 64) }
    };
    for v6 in [false, true] {
        let (family, source, destination, transport) = if v6 {
            (Family::V6, address_v6(V6.0), address_v6(V6.1), 54)
        } else {
            (Family::V4, address_v4(V4.0), address_v4(V4.1), 34)
        };
        let base = Packet { family, source, destination, transport, ..Packet::UNKNOWN };

        let mut frame = Vec::new();
        build(v6).tcp(40_000, 443, 1, 2).syn().ack(7).write(&mut frame, b"hello").unwrap();
        let ports = Packet { source_port: 40_000, destination_port: 443, policy_port: 443, ..base };
        let tcp_flags = tcp::SYN | tcp::ACK;
        let expected = Packet { protocol: protocol::TCP, tcp_flags, kind: Kind::Tcp, ..ports };
        assert_eq!(usual(&frame), expected);
        assert_eq!(expected.service(), 6 << 16 | 443);

        let mut frame = Vec::new();
        build(v6).udp(40_000, 443).write(&mut frame, b"hello").unwrap();
        assert_eq!(usual(&frame), Packet { protocol: protocol::UDP, ..ports });

        let mut frame = Vec::new();
        let icmp = build(v6);
        if v6 {
            icmp.icmpv6_echo_request(0x1234, 5).write(&mut frame, b"hello").unwrap();
        } else {
            icmp.icmpv4_echo_request(0x1234, 5).write(&mut frame, b"hello").unwrap();
        }
        let (number, kind) = if v6 { (protocol::ICMPV6, 128) } else { (protocol::ICMP, 8) };
        let expected = Packet {
            protocol: number,
            kind: Kind::EchoRequest,
            source_port: 0x1234,
            policy_port: kind << 8,
            ..base
        };
        assert_eq!(usual(&frame), expected);
        // With a code it is no echo, and no connection's.
        let code = frame.len() - b"hello".len() - 7;
        frame[code] = 1;
        let (policy_port, kind) = (kind << 8 | 1, Kind::IcmpOther);
        assert_eq!(usual(&frame), Packet { source_port: 0, policy_port, kind, ..expected });
    }
    for number in [protocol::SCTP, protocol::UDPLITE] {
        let packet = usual(&ipv4(number, &udp(1, 2), |_| ()));
        assert_eq!((packet.source_port, packet.policy_port), (1, 2));
        assert_eq!((packet.protocol, packet.kind), (number, Kind::Stateful));
    }
    // ICMP of the other family is a protocol without ports.
    for frame in [ipv4(protocol::ICMPV6, &[0; 8], |_| ()), ipv6(protocol::ICMP, &[0; 8])] {
        assert_eq!(usual(&frame).kind, Kind::Stateful);
    }
}

#[test]
fn icmp_types_are_what_their_rfcs_say() {
    let v4 = [
        (0, Kind::EchoReply),
        (3, Kind::IcmpError),
        (4, Kind::IcmpError),
        (5, Kind::Router),
        (8, Kind::EchoRequest),
        (9, Kind::Router),
        (10, Kind::IcmpOther),
        (11, Kind::IcmpError),
        (12, Kind::IcmpError),
        (13, Kind::IcmpOther),
    ];
    for (kind, expected) in v4 {
        assert_eq!(
            usual(&ipv4(protocol::ICMP, &[kind, 0, 0, 0, 0, 9, 0, 0], |_| ())).kind,
            expected
        );
    }
    let v6 = [
        (1, Kind::IcmpError),
        (4, Kind::IcmpError),
        (5, Kind::IcmpOther),
        (128, Kind::EchoRequest),
        (129, Kind::EchoReply),
        (130, Kind::Multicast),
        (133, Kind::Neighbour),
        (134, Kind::Router),
        (135, Kind::Neighbour),
        (136, Kind::Neighbour),
        (137, Kind::Router),
        (143, Kind::Multicast),
        (151, Kind::IcmpOther),
    ];
    for (kind, expected) in v6 {
        let packet = usual(&ipv6(protocol::ICMPV6, &[kind, 0, 0, 0, 0, 9, 0, 0]));
        assert_eq!((packet.kind, packet.policy_port), (expected, u16::from(kind) << 8));
    }
}

#[test]
fn options_and_tags_move_the_transport_header() {
    let options = Ipv4Options::try_from(&[1_u8; 12][..]).unwrap();
    let frame = ipv4(protocol::UDP, &udp(5, 6), |header| header.options = options);
    assert_eq!(plain(&frame), None);
    let packet = parsed(&frame).unwrap();
    assert_eq!((packet.transport, packet.destination_port), (46, 6));

    for (tags, fits) in [(1, true), (2, true), (3, false)] {
        let tag = [0x81, 0x00, 0x00, 0x07].repeat(tags);
        let tagged = [&frame[..12], &tag, &frame[12..]].concat();
        assert_eq!(plain(&tagged), None);
        let expected = Packet { transport: 46 + 4 * tags as u32, ..packet };
        assert_eq!(parsed(&tagged), if fits { Ok(expected) } else { Err(DropReason::HeaderChain) });
        let network = network_layer(&Frame(&tagged));
        assert_eq!(network, fits.then_some((packet.family, packet.source, packet.destination)));
    }
}

#[test]
fn extension_headers_are_followed_up_to_six() {
    for count in 0..9 {
        let mut payload = Vec::new();
        for index in 0..count {
            let next =
                if index + 1 == count { protocol::UDP } else { protocol::DESTINATION_OPTIONS };
            payload.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        payload.extend(udp(5, 6));
        let first = if count == 0 { protocol::UDP } else { protocol::DESTINATION_OPTIONS };
        let frame = ipv6(first, &payload);
        if count > MAX_EXTENSION_HEADERS {
            assert_eq!(parsed(&frame), Err(DropReason::HeaderChain));
        } else {
            let packet = parsed(&frame).unwrap();
            assert_eq!((packet.protocol, packet.destination_port), (protocol::UDP, 6));
            assert_eq!(packet.transport as usize, 54 + 8 * count);
        }
    }
    assert_eq!(hop_limit(&Frame(&ipv6(protocol::UDP, &udp(5, 6)))), Some(255));
    assert_eq!(hop_limit(&Frame(&ipv4(protocol::UDP, &udp(5, 6), |_| ()))), None);
}

#[test]
fn fragments_are_told_apart() {
    let piece = |offset, more| {
        ipv4(protocol::UDP, &[0xab; 16], |header| {
            header.identification = 0x1234;
            header.more_fragments = more;
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        })
    };
    for (offset, more, expected) in
        [(0, true, Fragment::First), (1, true, Fragment::Later), (0x1ff0, false, Fragment::Later)]
    {
        let frame = piece(offset, more);
        assert_eq!(plain(&frame), None);
        let packet = parsed(&frame).unwrap();
        assert_eq!((packet.fragment, packet.fragment_id), (expected, 0x1234));
        // A later one has no ports, whatever its bytes look like.
        let port = if expected == Fragment::First { 0xabab } else { 0 };
        assert_eq!((packet.source_port, packet.destination_port), (port, port));
    }
    // No packet is longer than 65,535 bytes (RFC 791).
    assert_eq!(parsed(&piece(0x1fff, false)), Err(DropReason::Malformed));
    let atomic = [&[protocol::UDP, 0, 0, 0, 0, 0, 0, 1], udp(5, 6).as_slice()].concat();
    let packet = parsed(&ipv6(protocol::FRAGMENT, &atomic)).unwrap();
    assert_eq!((packet.fragment, packet.destination_port), (Fragment::Whole, 6));
    // RFC 8200, 4.5: the offset is in the upper 13 bits.
    let later = [&[protocol::UDP, 0, 0, 8, 0, 0, 0, 1], udp(5, 6).as_slice()].concat();
    let packet = parsed(&ipv6(protocol::FRAGMENT, &later)).unwrap();
    assert_eq!((packet.fragment, packet.fragment_id), (Fragment::Later, 1));
    assert_eq!(packet.destination_port, 0);
}

#[test]
fn contradictions_are_malformed() {
    let segment = TcpHeader::new(1, 2, 3, 4).to_bytes();
    let v4 = ipv4(protocol::TCP, &segment, |_| ());
    let v6 = ipv6(protocol::TCP, &segment);
    let cases = [
        (&v4, 14, 0x65_u8), // version
        (&v4, 14, 0x44),    // header length
        (&v4, 14, 0x4f),
        (&v4, 17, 19), // total length
        (&v4, 17, 41),
        (&v4, 46, 0x40), // data offset
        (&v4, 46, 0x60),
        (&v6, 14, 0x40), // version
        (&v6, 19, 21),   // payload length
        (&v6, 19, 19),
        (&v6, 66, 0x40), // data offset
        (&v6, 66, 0x60),
    ];
    for (frame, at, value) in cases {
        usual(frame);
        let mut frame = frame.clone();
        frame[at] = value;
        assert_eq!(parsed(&frame), Err(DropReason::Malformed), "{value:#x} at {at}");
        assert_eq!(plain(&frame), None);
    }
    for frame in [v4, v6] {
        for length in 0..frame.len() {
            assert_eq!(parsed(&frame[..length]), Err(DropReason::Malformed), "{length} bytes");
            assert_eq!(plain(&frame[..length]), None);
        }
    }
    assert_eq!(parsed(&ethernet(0x88cc, &[0; 46])), Err(DropReason::UnsupportedEthertype));
}

#[test]
fn a_length_of_none_is_what_a_giant_has() {
    // BIG TCP: longer than its length field can say.
    let segment = [TcpHeader::new(1, 2, 3, 4).to_bytes().as_slice(), &[0; 70_000]].concat();
    for mut frame in [ipv4(protocol::TCP, &segment, |_| ()), ipv6(protocol::TCP, &segment)] {
        let length = if frame[12..14] == [8, 0] { 16 } else { 18 };
        frame[length..length + 2].fill(0);
        assert_eq!(parsed(&frame).unwrap().destination_port, 2);
        assert_eq!(parsed(&frame[..1000]), Err(DropReason::Malformed));
    }
}

/// What is read of a frame that an ICMP error quotes.
fn quoting(frame: &[u8], v6: bool) -> Result<Packet, DropReason> {
    let message = [&[if v6 { 1 } else { 3 }, 1, 0, 0, 0, 0, 0, 0], &frame[14..]].concat();
    let error =
        if v6 { ipv6(protocol::ICMPV6, &message) } else { ipv4(protocol::ICMP, &message, |_| ()) };
    let outer = parsed(&error).unwrap();
    assert_eq!(outer.kind, Kind::IcmpError);
    let mut inner = Packet::UNKNOWN;
    quoted(&Frame(&error), &outer, &mut inner).map(|()| inner)
}

#[test]
fn errors_quote_what_they_are_about() {
    let options = Ipv4Options::try_from(&[1_u8; 8][..]).unwrap();
    for (frame, v6) in [
        (ipv4(protocol::UDP, &udp(5, 6), |_| ()), false),
        (ipv4(protocol::UDP, &udp(5, 6), |header| header.options = options), false),
        (ipv6(protocol::UDP, &udp(5, 6)), true),
    ] {
        let original = parsed(&frame).unwrap();
        let inner = quoting(&frame, v6).unwrap();
        assert_eq!((inner.source, inner.destination), (original.source, original.destination));
        assert_eq!((inner.source_port, inner.destination_port), (5, 6));
        assert_eq!(quoting(&frame[..frame.len() - 1], v6), Err(DropReason::UnrelatedIcmp));
        assert_eq!(quoting(&frame, !v6), Err(DropReason::UnrelatedIcmp));
    }
    let later = ipv4(protocol::UDP, &udp(5, 6), |header| {
        header.fragment_offset = IpFragOffset::try_new(1).unwrap();
    });
    assert_eq!(quoting(&later, false), Err(DropReason::UnrelatedIcmp));
    // An error about an error (RFC 1122, 3.2.2: there is none).
    let error = ipv4(protocol::ICMP, &[3, 1, 0, 0, 0, 0, 0, 0], |_| ());
    assert_eq!(quoting(&error, false), Err(DropReason::UnrelatedIcmp));
}

/// Found by fuzzing: the quotation had an identifier that its connection does not have.
#[test]
fn icmp_of_the_other_family_is_quoted_without_ports() {
    let about = [8, 0, 0, 0, 0x12, 0x34, 0, 0];
    for (protocol, frame, v6) in [
        (protocol::ICMPV6, ipv4(protocol::ICMPV6, &about, |_| ()), false),
        (protocol::ICMP, ipv6(protocol::ICMP, &about), true),
    ] {
        let inner = quoting(&frame, v6).unwrap();
        assert_eq!((inner.protocol, inner.kind), (protocol, Kind::Stateful));
        assert_eq!((inner.source_port, inner.destination_port, inner.policy_port), (0, 0, 0));
    }
}

/// Bytes that are near enough to a frame to get past the first check.
fn near_frames() -> impl Strategy<Value = Vec<u8>> {
    let headers = vec![
        ipv4(protocol::TCP, &TcpHeader::new(1, 2, 3, 4).to_bytes(), |_| ()),
        ipv4(protocol::ICMP, &[8; 16], |_| ()),
        ipv6(protocol::UDP, &udp(5, 6)),
        ipv6(
            protocol::HOP_BY_HOP,
            &[protocol::FRAGMENT, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 0],
        ),
        ipv6(protocol::ICMPV6, &[136; 32]),
        ethernet(ETHERTYPE_ARP, &[0; 28]),
        ethernet(ETHERTYPE_QINQ, &[0, 1, 0x81, 0, 0, 2, 8, 0, 0x45, 0, 0, 20]),
    ];
    let changes = bytes((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (select(headers), changes, bytes(any::<u8>(), 0..40), any::<prop::sample::Index>()).prop_map(
        |(mut frame, changes, rest, cut)| {
            for (at, value) in changes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            frame.extend(rest);
            frame.truncate(cut.index(frame.len() * 2 + 1));
            frame
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Nothing panics, the two ways agree, and what was read was there.
    #[test]
    fn any_bytes_are_read_or_refused(
        frame in prop_oneof![3 => near_frames(), 1 => bytes(any::<u8>(), 0..120)],
    ) {
        let source = Frame(&frame);
        let general = parsed(&frame);
        if let Some(packet) = plain(&frame) {
            // What identifies fragments is nobody's business in a whole packet.
            let general = general.map(|packet| Packet { fragment_id: 0, ..packet });
            prop_assert_eq!(general, Ok(packet));
        }
        let _ = network_layer(&source);
        let _ = hop_limit(&source);
        let Ok(packet) = general else { return Ok(()) };
        prop_assert!(packet.transport as usize <= frame.len());
        let _ = neighbour_target(&source, &packet);
        let mut inner = Packet::UNKNOWN;
        let _ = quoted(&source, &packet, &mut inner);
        // Another parser sees the same addresses and ports where it sees any.
        let Ok(other) = LaxSlicedPacket::from_ethernet(&frame) else { return Ok(()) };
        if let Some(net) = &other.net && packet.kind != Kind::Arp {
            let ends = match net {
                LaxNetSlice::Ipv4(slice) => {
                    let header = slice.header();
                    Some((address_v4(header.source()), address_v4(header.destination())))
                }
                LaxNetSlice::Ipv6(slice) => {
                    let header = slice.header();
                    Some((address_v6(header.source()), address_v6(header.destination())))
                }
                LaxNetSlice::Arp(_) => None,
            };
            prop_assert_eq!(ends, Some((packet.source, packet.destination)));
        }
        if packet.fragment == Fragment::Whole
            && let Some(etherparse::TransportSlice::Tcp(header)) = &other.transport
        {
            prop_assert_eq!(packet.protocol, protocol::TCP);
            prop_assert_eq!(packet.source_port, header.source_port());
            prop_assert_eq!(packet.destination_port, header.destination_port());
        }
    }
}
