//! Frames: well-formed ones by etherparse, and what a hostile container makes of them.
//!
//! Outputs: Ethernet frames without checksum offload; the checksums of the transport headers are
//! right or zero, nobody here looks at them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header,
    TcpHeader, UdpHeader,
};

/// What every frame here comes from, and `web`'s own.
pub(crate) const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 2];

pub(crate) const ETHERNET: usize = 14;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const ARP: u16 = 0x0806;

const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// What stands in byte 13 of a TCP header.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// An address and a port.
pub(crate) type End = (IpAddr, u16);

/// Both ends of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) from: End,
    pub(crate) to: End,
}

impl Way {
    pub(crate) fn new(from: &str, from_port: u16, to: &str, to_port: u16) -> Way {
        Way { from: (ip(from), from_port), to: (ip(to), to_port) }
    }

    /// The way back.
    pub(crate) fn back(self) -> Way {
        Way { from: self.to, to: self.from }
    }

    pub(crate) fn tcp(self, flags: u8) -> Vec<u8> {
        self.packet(TCP, &self.tcp_segment(flags, b"data"))
    }

    pub(crate) fn tcp_segment(self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(self.from.1, self.to.1, 1, 512);
        header.fin = flags & FIN != 0;
        header.syn = flags & SYN != 0;
        header.rst = flags & RST != 0;
        header.ack = flags & ACK != 0;
        [header.to_bytes().as_slice(), payload].concat()
    }

    pub(crate) fn udp(self) -> Vec<u8> {
        self.packet(UDP, &self.udp_datagram(b"payload!"))
    }

    pub(crate) fn udp_datagram(self, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
        let header = UdpHeader {
            source_port: self.from.1,
            destination_port: self.to.1,
            length,
            checksum: 0,
        };
        [header.to_bytes().as_slice(), payload].concat()
    }

    /// ICMP or ICMPv6 echo request.
    pub(crate) fn ping(self, id: u16) -> Vec<u8> {
        self.icmp(if self.is_v4() { 8 } else { 128 }, 0, &echo(id))
    }

    /// ICMP or ICMPv6 echo reply.
    pub(crate) fn pong(self, id: u16) -> Vec<u8> {
        self.icmp(if self.is_v4() { 0 } else { 129 }, 0, &echo(id))
    }

    /// "Port unreachable", about the packet in `frame`.
    pub(crate) fn unreachable(self, frame: &[u8]) -> Vec<u8> {
        let (kind, code) = if self.is_v4() { (3, 3) } else { (1, 4) };
        let quoted = &frame[ETHERNET..];
        self.icmp(kind, code, &[&[0; 4], quoted].concat())
    }

    /// An ICMP or ICMPv6 message; `rest` is what follows the checksum.
    pub(crate) fn icmp(self, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
        let message = [&[kind, code, 0, 0], rest].concat();
        self.packet(if self.is_v4() { ICMP } else { ICMPV6 }, &message)
    }

    /// A whole packet of some protocol.
    pub(crate) fn packet(self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                ethernet(IPV4, &ipv4(from, to, protocol, payload, |_| ()))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                ethernet(IPV6, &ipv6(from, to, protocol, 64, payload))
            }
            ends => unreachable!("one packet has one family: {ends:?}"),
        }
    }

    /// Neighbour discovery, hop limit and all.
    pub(crate) fn discovery(self, kind: u8, rest: &[u8]) -> Vec<u8> {
        self.discovery_from_afar(kind, rest, if matches!(kind, 130..=132 | 143) { 1 } else { 255 })
    }

    pub(crate) fn discovery_from_afar(self, kind: u8, rest: &[u8], hop_limit: u8) -> Vec<u8> {
        let message = [&[kind, 0, 0, 0], rest].concat();
        match (self.from.0, self.to.0) {
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                ethernet(IPV6, &ipv6(from, to, ICMPV6, hop_limit, &message))
            }
            ends => unreachable!("discovery is IPv6: {ends:?}"),
        }
    }

    /// An IPv6 packet with a chain of extension headers, each (its own number, its bytes without
    /// the first), before a UDP datagram.
    pub(crate) fn chain(self, headers: &[(u8, Vec<u8>)]) -> Vec<u8> {
        self.chain_to(headers, UDP, &self.udp_datagram(b"payload!"))
    }

    pub(crate) fn chain_to(self, headers: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
        let numbers: Vec<u8> = headers.iter().map(|header| header.0).chain([last]).collect();
        let mut bytes = Vec::new();
        for (index, (_, header)) in headers.iter().enumerate() {
            bytes.push(numbers[index + 1]);
            bytes.extend(header);
        }
        bytes.extend(payload);
        self.packet(numbers[0], &bytes)
    }

    /// A piece of an IPv4 datagram; `offset` in units of eight bytes.
    pub(crate) fn piece(self, id: u16, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
        self.piece_of(UDP, id, offset, more, payload)
    }

    /// The same of another protocol.
    pub(crate) fn piece_of(
        self,
        protocol: u8,
        id: u16,
        offset: u16,
        more: bool,
        payload: &[u8],
    ) -> Vec<u8> {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (self.from.0, self.to.0) else {
            let header = fragment_header(id, offset, more);
            return self.chain_to(&[(44, header)], protocol, payload);
        };
        let packet = ipv4(from, to, protocol, payload, |header| {
            header.identification = id;
            header.dont_fragment = false;
            header.more_fragments = more;
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap_or(IpFragOffset::ZERO);
        });
        ethernet(IPV4, &packet)
    }

    /// A UDP datagram behind IPv4 options.
    pub(crate) fn with_options(self, options: &[u8]) -> Vec<u8> {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (self.from.0, self.to.0) else {
            unreachable!("options are IPv4's");
        };
        let packet = ipv4(from, to, UDP, &self.udp_datagram(b"payload!"), |header| {
            header.options = Ipv4Options::try_from(options).unwrap_or_default();
        });
        ethernet(IPV4, &packet)
    }

    pub(crate) fn is_v4(self) -> bool {
        self.from.0.is_ipv4()
    }
}

/// An address from its text; a wrong one is a wrong test.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is no address"))
}

fn echo(id: u16) -> Vec<u8> {
    [&id.to_be_bytes()[..], &[0, 1], b"palisade"].concat()
}

fn ipv4(
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: u8,
    payload: &[u8],
    change: impl FnOnce(&mut Ipv4Header),
) -> Vec<u8> {
    let mut header = Ipv4Header {
        protocol: IpNumber(protocol),
        source: from.octets(),
        destination: to.octets(),
        time_to_live: 64,
        dont_fragment: true,
        ..Ipv4Header::default()
    };
    change(&mut header);
    header.total_len = u16::try_from(header.header_len() + payload.len()).unwrap_or(u16::MAX);
    header.header_checksum = header.calc_header_checksum();
    [header.to_bytes().as_slice(), payload].concat()
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: u16::try_from(payload.len()).unwrap_or(u16::MAX),
        next_header: IpNumber(next),
        hop_limit,
        source: from.octets(),
        destination: to.octets(),
    };
    [header.to_bytes().as_slice(), payload].concat()
}

/// An IPv6 fragment header (RFC 8200, 4.5) without its first byte.
pub(crate) fn fragment_header(id: u16, offset: u16, more: bool) -> Vec<u8> {
    let place = offset << 3 | u16::from(more);
    [&[0][..], &place.to_be_bytes(), &u32::from(id).to_be_bytes()].concat()
}

/// Options that pad (RFC 8200, 4.2) in a header of `8 + more * 8` bytes, without its first byte.
pub(crate) fn padding(more: u8) -> Vec<u8> {
    let length = usize::from(more) * 8 + 4;
    let mut header = vec![more, 1, u8::try_from(length).unwrap_or(u8::MAX)];
    header.resize(3 + length, 0);
    header
}

/// To a unicast MAC address.
pub(crate) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header {
        destination: [2, 0, 0, 0, 0xaa, 1],
        source: OWN_MAC,
        ether_type: ethertype.into(),
    };
    [header.to_bytes().as_slice(), payload].concat()
}

/// The same frame from another Ethernet address.
pub(crate) fn from_mac(frame: &[u8], mac: [u8; 6]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[6..12].copy_from_slice(&mac);
    frame
}

/// The same frame, some bytes of what follows its Ethernet header changed.
pub(crate) fn network(frame: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for &(at, value) in changes {
        frame[ETHERNET + at] = value;
    }
    frame
}

/// 10.0.0.x.
pub(crate) fn ip4(low: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, low)
}

/// The same frame to everybody.
pub(crate) fn broadcast(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].fill(0xff);
    frame
}

/// The same frame behind tags, the outermost first.
pub(crate) fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|tag| {
        let [high, low] = tag.to_be_bytes();
        [high, low, 0, 7]
    });
    [&frame[..12], &tags.collect::<Vec<u8>>(), &frame[12..]].concat()
}

/// ARP for IPv4 over Ethernet (RFC 826).
pub(crate) fn arp(operation: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(OWN_MAC);
    packet.extend(sender.octets());
    packet.extend([0; 6]);
    packet.extend(target.octets());
    broadcast(ethernet(ARP, &packet))
}

/// What follows the checksum of a neighbour solicitation or advertisement.
pub(crate) fn target(text: &str) -> Vec<u8> {
    match ip(text) {
        IpAddr::V6(target) => [&[0; 4], target.octets().as_slice()].concat(),
        IpAddr::V4(target) => unreachable!("{target} is no IPv6 address"),
    }
}
