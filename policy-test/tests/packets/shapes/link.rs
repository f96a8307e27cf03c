//! What stands in front of the network header: EtherTypes, tags, 802.3 (IEEE 802.3, 802.1Q, RFC 1042).

use policy_common::abi::DropReason::{
    HeaderChain, Malformed, Policy, SpoofedArp, SpoofedMac, SpoofedSource, UnsupportedEthertype,
};

use super::{Row, into, out};
use crate::frames::{
    ETHERNET, IPV4, IPV6, SYN, Way, arp, broadcast, ethernet, from_mac, ip4, tagged,
};

const QUERY: [(&str, &str); 2] = [("10.0.0.2", "10.0.0.3"), ("fd00::2", "fd00::3")];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, ethertype) in [
        ("PUP", 0x0200),
        ("X.25", 0x0805),
        ("Wake-on-LAN", 0x0842),
        ("TRILL", 0x22f3),
        ("RARP", 0x8035),
        ("AppleTalk", 0x809b),
        ("AARP", 0x80f3),
        ("IPX", 0x8137),
        ("Ethernet flow control", 0x8808),
        ("slow protocols (LACP)", 0x8809),
        ("MPLS", 0x8847),
        ("MPLS multicast", 0x8848),
        ("PPPoE discovery", 0x8863),
        ("PPPoE session", 0x8864),
        ("EAPoL", 0x888e),
        ("ATA over Ethernet", 0x88a2),
        ("experimental", 0x88b5),
        ("LLDP", 0x88cc),
        ("MACsec", 0x88e5),
        ("backbone bridging (802.1ah)", 0x88e7),
        ("PTP", 0x88f7),
        ("FCoE", 0x8906),
        ("RoCE", 0x8915),
        ("HSR", 0x892f),
        ("the old number of QinQ", 0x9100),
        ("loopback test", 0x9000),
        ("reserved", 0xffff),
    ] {
        let frame = ethernet(ethertype, &[0; 46]);
        rows.push(out(format!("EtherType {name}, out"), frame.clone()).free().drops(
            UnsupportedEthertype,
            0,
            0,
        ));
        rows.push(into(format!("EtherType {name}, in"), frame).drops(UnsupportedEthertype, 0, 0));
    }
    // 802.3 carries a length where Ethernet II has a type: LLC, and SNAP behind it.
    let llc = [0x42, 0x42, 3, 0, 0, 0, 0, 0];
    let ip_in_snap = |way: Way| {
        let packet = way.udp()[ETHERNET..].to_vec();
        [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &packet].concat()
    };
    let snap = ip_in_snap(Way::new("10.0.0.5", 1, "10.0.0.3", 53));
    let raw_ipx = [&[0xff, 0xff][..], &[0; 44]].concat();
    for (name, payload) in [
        ("spanning tree in LLC", [&llc[..], &[0; 38]].concat()),
        ("IPv4 in SNAP", snap),
        ("raw 802.3", raw_ipx),
    ] {
        let length = u16::try_from(payload.len()).unwrap_or_default();
        let frame = ethernet(length, &payload);
        rows.push(out(name, frame).free().drops(UnsupportedEthertype, 0, 0));
    }
    rows.push(out("a length of more than 1500", ethernet(0x05ff, &[0; 46])).free().drops(
        UnsupportedEthertype,
        0,
        0,
    ));
    for (own, other) in QUERY {
        let family = if own.contains('.') { "IPv4" } else { "IPv6" };
        let allowed = Way::new(own, 1, other, 53).udp();
        let denied = Way::new(own, 1, other, 54).udp();
        for (name, tags) in [
            ("a tag", &[0x8100][..]),
            ("a service tag", &[0x88a8]),
            ("QinQ", &[0x88a8, 0x8100]),
            ("two tags of customers", &[0x8100, 0x8100]),
            ("two service tags", &[0x88a8, 0x88a8]),
        ] {
            rows.push(out(format!("{family} behind {name}"), tagged(&allowed, tags)).opens());
            rows.push(
                out(format!("{family} behind {name}, denied"), tagged(&denied, tags))
                    .drops(Policy, 17, 54),
            );
        }
        // VLAN 0: a priority and no VLAN (802.1Q, 9.6).
        let mut priority = tagged(&allowed, &[0x8100]);
        priority[14..16].copy_from_slice(&[0xe0, 0]);
        rows.push(out(format!("{family} behind a priority tag"), priority).opens());
        for (name, tags) in [
            ("three tags", &[0x8100, 0x8100, 0x8100][..]),
            ("three tags, service first", &[0x88a8, 0x8100, 0x8100]),
            ("five tags", &[0x8100; 5]),
        ] {
            let frame = tagged(&allowed, tags);
            rows.push(out(format!("{family} behind {name}, out"), frame.clone()).drops(
                HeaderChain,
                0,
                0,
            ));
            rows.push(into(format!("{family} behind {name}, in"), frame).drops(HeaderChain, 0, 0));
        }
        let forged = tagged(&Way::new(other, 1, own, 53).udp(), &[0x8100]);
        rows.push(out(format!("{family}, another's, behind a tag"), forged).drops(
            SpoofedSource,
            17,
            53,
        ));
        let cut = tagged(&allowed, &[0x8100])[..16].to_vec();
        rows.push(into(format!("{family}, the tag cut short"), cut).drops(Malformed, 0, 0));

        for (name, mac) in [
            ("another's", [2, 0, 0, 0, 0, 9]),
            ("a group's", [3, 0, 0, 0, 0xaa, 2]),
            ("everybody's", [0xff; 6]),
            ("no", [0; 6]),
            ("nearly the own", [2, 0, 0, 0, 0xaa, 3]),
        ] {
            let name = format!("{family} from {name} Ethernet address");
            let frame = from_mac(&allowed, mac);
            rows.push(out(name.clone(), frame.clone()).drops(SpoofedMac, 17, 53));
            rows.push(
                out(format!("{name}, known connection"), frame.clone())
                    .after_out(allowed.clone())
                    .drops(SpoofedMac, 17, 53),
            );
            let behind = tagged(&frame, &[0x8100]);
            rows.push(out(format!("{name}, behind a tag"), behind).drops(SpoofedMac, 17, 53));
        }
        // Who sends what comes in is for its own fence to say.
        let inward = from_mac(&Way::new(other, 53, own, 1).udp(), [2, 0, 0, 0, 0, 9]);
        rows.push(
            into(format!("{family}, an answer from its own address"), inward)
                .after_out(allowed.clone()),
        );
        let both = from_mac(&Way::new(other, 1, own, 53).udp(), [2, 0, 0, 0, 0, 9]);
        rows.push(out(format!("{family}, both sources forged"), both).drops(SpoofedSource, 17, 53));
        let stray = from_mac(&Way::new(own, 1, other, 22).tcp(SYN), [2, 0, 0, 0, 0, 9]);
        rows.push(out(format!("{family}, forged and denied"), stray).drops(SpoofedMac, 6, 22));
    }
    rows.extend([
        out("IPv6 under IPv4's EtherType", ethernet(IPV4, &[0x60; 60])).drops(Malformed, 0, 0),
        out("IPv4 under IPv6's EtherType", ethernet(IPV6, &[0x45; 60])).drops(Malformed, 0, 0),
        out("Ethernet in Ethernet", ethernet(IPV4, &ethernet(IPV4, &[0; 46])))
            .drops(Malformed, 0, 0),
        out("ARP in another's name behind a tag", tagged(&arp(2, ip4(3), ip4(2)), &[0x8100]))
            .drops(SpoofedArp, 0, 0),
        into(
            "an allowed datagram to everybody",
            broadcast(Way::new("10.0.0.4", 1, "255.255.255.255", 53).udp()),
        ),
        into(
            "a denied datagram to everybody",
            broadcast(Way::new("10.0.0.4", 1, "255.255.255.255", 54).udp()),
        )
        .drops(Policy, 17, 54),
        into(
            "an allowed datagram to the subnet",
            broadcast(Way::new("10.0.0.4", 1, "10.0.0.255", 53).udp()),
        ),
        into("an allowed datagram to a group", Way::new("10.0.0.4", 1, "224.0.0.251", 53).udp()),
        into("an allowed datagram to an IPv6 group", Way::new("fd00::4", 1, "ff02::fb", 53).udp()),
        into("a frame that a bridge floods", Way::new("10.0.0.4", 1, "10.0.0.9", 53).udp()),
        out("multicast DNS", Way::new("10.0.0.5", 5353, "224.0.0.251", 5353).udp()).free().opens(),
        out("multicast DNS, denied", Way::new("10.0.0.2", 5353, "224.0.0.251", 5353).udp())
            .drops(Policy, 17, 5353),
    ]);
    rows
}
