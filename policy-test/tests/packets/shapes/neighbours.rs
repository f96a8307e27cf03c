//! ARP (RFC 826, RFC 5227), neighbour discovery (RFC 4861, RFC 6980), listener reports (RFC 2710, RFC 3810).

use policy_common::abi::DropReason::{
    HeaderChain, Malformed, Policy, RogueRouter, SpoofedArp, SpoofedMac, SpoofedNeighbour,
    SpoofedSource,
};

use super::{Row, into, out};
use crate::frames::{
    OWN_MAC, Way, arp, fragment_header, from_mac, ip4, network, padding, tagged, target,
};

const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 3];
const SOLICIT: u8 = 135;
const ADVERTISE: u8 = 136;
const ROUTER_SOLICIT: u8 = 133;

/// A link-layer address option (RFC 4861, 4.6.1; RFC 2464, 6).
fn option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

pub(super) fn rows() -> Vec<Row> {
    [arp_rows(), discovery_rows(), option_rows()].into_iter().flatten().collect()
}

fn arp_rows() -> Vec<Row> {
    let (own, other, none) = (ip4(2), ip4(3), ip4(0));
    let zero = std::net::Ipv4Addr::UNSPECIFIED;
    let request = arp(1, own, other);
    let mut rows = vec![
        out("ARP request", request.clone()),
        out("ARP reply", arp(2, own, other)),
        out("ARP announcement", arp(1, own, own)),
        out("ARP announcement as a reply", arp(2, own, own)),
        out("ARP probe", arp(1, zero, own)),
        out("ARP probe of another's", arp(1, zero, other)),
        out("ARP behind a tag", tagged(&request, &[0x8100])),
        out("ARP request in another's name", arp(1, other, own)).drops(SpoofedArp, 0, 0),
        out("ARP reply in another's name", arp(2, other, own)).drops(SpoofedArp, 0, 0),
        out("ARP announcement of another's", arp(1, other, other)).drops(SpoofedArp, 0, 0),
        out("ARP in the subnet's name", arp(2, none, own)).drops(SpoofedArp, 0, 0),
        out("ARP in the gateway's name", arp(2, ip4(1), own)).drops(SpoofedArp, 0, 0),
        out("ARP with another target hardware address", network(&request, &[(18, 9)])),
        out("reverse ARP's request in ARP", network(&request, &[(7, 3)])),
        out("ARP of an unknown operation", network(&request, &[(6, 0xff)])),
        into("ARP request, in", arp(1, other, own)),
        into("ARP reply, in", arp(2, other, own)),
    ];
    // Whose hardware an address is at: a neighbour that believes it sends there.
    for operation in [1, 2] {
        let frame = arp(operation, own, other);
        let row = |name: &str, frame| out(format!("ARP operation {operation}, {name}"), frame);
        let lie = network(&frame, &[(13, 3)]);
        rows.extend([
            row("another hardware address", lie.clone()).drops(SpoofedArp, 0, 0),
            row("no hardware address", network(&frame, &[(8, 0), (12, 0), (13, 0)]))
                .drops(SpoofedArp, 0, 0),
            row(
                "everybody's hardware address",
                network(
                    &frame,
                    &[(8, 0xff), (9, 0xff), (10, 0xff), (11, 0xff), (12, 0xff), (13, 0xff)],
                ),
            )
            .drops(SpoofedArp, 0, 0),
            row("from another's Ethernet address", from_mac(&frame, OTHER_MAC))
                .drops(SpoofedMac, 0, 0),
            row("both of another's", from_mac(&lie, OTHER_MAC)).drops(SpoofedMac, 0, 0),
            row("another hardware address behind a tag", tagged(&lie, &[0x8100]))
                .drops(SpoofedArp, 0, 0),
        ]);
    }
    rows.push(
        out("ARP probe from another hardware address", network(&arp(1, zero, own), &[(13, 3)]))
            .drops(SpoofedArp, 0, 0),
    );
    for (name, at, value) in [
        ("hardware type 0", 1, 0),
        ("hardware type 6 (802)", 1, 6),
        ("hardware type 32 (InfiniBand)", 1, 32),
        ("hardware type 257", 0, 1),
        ("protocol IPv6", 2, 0x86),
        ("protocol trailer", 2, 0x10),
        ("hardware length 0", 4, 0),
        ("hardware length 8", 4, 8),
        ("hardware length 255", 4, 255),
        ("protocol length 0", 5, 0),
        ("protocol length 16", 5, 16),
    ] {
        let frame = network(&request, &[(at, value)]);
        rows.push(out(format!("ARP, {name}"), frame.clone()).drops(Malformed, 0, 0));
        rows.push(into(format!("ARP, {name}, in"), frame).drops(Malformed, 0, 0));
    }
    rows.push(out("ARP cut short", request[..41].to_vec()).drops(Malformed, 0, 0));
    rows
}

fn discovery_rows() -> Vec<Row> {
    let own = "fd00::2";
    let local = "fe80::ff:fe00:aa02";
    let all = Way::new(own, 0, "ff02::1", 0);
    let ask = Way::new(own, 0, "ff02::1:ff00:3", 0);
    let unicast = Way::new(own, 0, "fd00::3", 0);
    let from = |source: &str, to: &str| Way::new(source, 0, to, 0);
    let advert = |way: Way, of: &str| way.discovery(ADVERTISE, &target(of));
    let port = |kind: u8| u16::from(kind) << 8;
    let mut rows = vec![
        out("NS", ask.discovery(SOLICIT, &target("fd00::3"))),
        out("NS to one", unicast.discovery(SOLICIT, &target("fd00::3"))),
        out(
            "NS from the link-local address",
            from(local, "ff02::1:ff00:3").discovery(SOLICIT, &target("fd00::3")),
        ),
        out(
            "duplicate address detection",
            from("::", "ff02::1:ff00:2").discovery(SOLICIT, &target(own)),
        ),
        out("NA", advert(unicast, own)),
        out("NA to all", advert(all, own)),
        out("NA of the link-local address", advert(from(local, "ff02::1"), local)),
        out("NA from no address", advert(from("::", "ff02::1"), own)),
        out("RS", from(own, "ff02::2").discovery(ROUTER_SOLICIT, &[0; 4])),
        out("RS from no address", from("::", "ff02::2").discovery(ROUTER_SOLICIT, &[0; 4])),
        out("NS behind a tag", tagged(&ask.discovery(SOLICIT, &target("fd00::3")), &[0x8100])),
        out("NA of another's", advert(all, "fd00::3")).drops(SpoofedNeighbour, 58, port(ADVERTISE)),
        out("NA of the router's", advert(all, "fe80::1")).drops(
            SpoofedNeighbour,
            58,
            port(ADVERTISE),
        ),
        out("NA of ::", advert(all, "::")).drops(SpoofedNeighbour, 58, port(ADVERTISE)),
        out("NA in another's name", advert(from("fd00::3", "ff02::1"), own)).drops(
            SpoofedSource,
            58,
            port(ADVERTISE),
        ),
        out(
            "NS in another's name",
            from("fd00::3", "ff02::1:ff00:2").discovery(SOLICIT, &target(own)),
        )
        .drops(SpoofedSource, 58, port(SOLICIT)),
        out("RS in another's name", from("fe80::1", "ff02::2").discovery(ROUTER_SOLICIT, &[0; 4]))
            .drops(SpoofedSource, 58, port(ROUTER_SOLICIT)),
        out("NA cut short", all.discovery(ADVERTISE, &[0; 12])).drops(
            Malformed,
            58,
            port(ADVERTISE),
        ),
        out("NS cut short", all.discovery(SOLICIT, &[0; 12])).drops(Malformed, 58, port(SOLICIT)),
        into("NS, in", from("fe80::1", own).discovery(SOLICIT, &target(own))),
        into("NA, in", from("fd00::3", own).discovery(ADVERTISE, &target("fd00::3"))),
        into("RA from a router", from("fe80::1", "ff02::1").discovery(134, &[0; 12])),
        into("redirect from a router", from("fe80::1", own).discovery(137, &[0; 36])),
        into("RA from a global address", from("2001:db8::1", own).discovery(134, &[0; 12])).drops(
            RogueRouter,
            58,
            port(134),
        ),
        into("redirect from a global address", from("2001:db8::1", own).discovery(137, &[0; 36]))
            .drops(RogueRouter, 58, port(137)),
        into("IPv4 redirect from afar", from("192.0.2.9", "10.0.0.2").icmp(5, 1, &[0; 28]))
            .drops(Policy, 1, 0x0501),
        into(
            "IPv4 router advertisement from afar",
            from("192.0.2.9", "10.0.0.2").icmp(9, 0, &[0; 28]),
        )
        .drops(Policy, 1, 0x0900),
        out("IPv4 redirect", from("10.0.0.5", "10.0.0.3").icmp(5, 1, &[0; 28])).free().drops(
            RogueRouter,
            1,
            0x0501,
        ),
        out("IPv4 router advertisement", from("10.0.0.5", "10.0.0.3").icmp(9, 0, &[0; 28]))
            .free()
            .drops(RogueRouter, 1, 0x0900),
    ];
    for (name, kind) in [("RA", 134), ("redirect", 137)] {
        for (to, frame) in [
            ("to all", all.discovery(kind, &[0; 36])),
            ("to one", unicast.discovery(kind, &[0; 36])),
            ("to the world", from(own, "2001:db8::9").discovery_from_afar(kind, &[0; 36], 64)),
            ("as the router", from("fe80::1", "ff02::1").discovery(kind, &[0; 36])),
        ] {
            rows.push(out(format!("{name} {to}"), frame).free().drops(RogueRouter, 58, port(kind)));
        }
    }
    for kind in [ROUTER_SOLICIT, SOLICIT, ADVERTISE] {
        for hops in [0, 1, 64, 254] {
            let frame = all.discovery_from_afar(kind, &target(own), hops);
            rows.push(out(format!("discovery {kind} with {hops} hops"), frame.clone()).drops(
                Policy,
                58,
                port(kind),
            ));
            let frame = from("2001:db8::9", own).discovery_from_afar(kind, &target(own), hops);
            rows.push(into(format!("discovery {kind} from {hops} hops"), frame).drops(
                Policy,
                58,
                port(kind),
            ));
        }
        let away = from(own, "2001:db8::9").discovery(kind, &target(own));
        rows.push(out(format!("discovery {kind} to the world"), away).drops(
            Policy,
            58,
            port(kind),
        ));
        // Its options would be anywhere (RFC 6980, 5).
        let message =
            [&[kind, 0, 0, 0][..], &target(own), &option(2, OTHER_MAC), &[14, 1, 0, 0, 0, 0, 0, 0]]
                .concat();
        let whole = network(
            &all.chain_to(&[(44, fragment_header(1, 0, false))], 58, &message),
            &[(7, 255)],
        );
        let first = network(
            &all.chain_to(&[(44, fragment_header(1, 0, true))], 58, &message[..24]),
            &[(7, 255)],
        );
        rows.push(out(format!("discovery {kind} in fragments"), first.clone()).drops(
            Malformed,
            58,
            port(kind),
        ));
        rows.push(into(format!("discovery {kind} in fragments, in"), first).drops(
            Malformed,
            58,
            port(kind),
        ));
        if kind != ROUTER_SOLICIT {
            rows.push(out(format!("discovery {kind} in an atomic fragment"), whole).drops(
                SpoofedNeighbour,
                58,
                port(kind),
            ));
        }
    }
    // RFC 2710, RFC 3810: reports carry a router alert.
    let alert = (0, vec![0, 5, 2, 0, 0, 1, 0]);
    for (name, kind) in [("query", 130), ("report", 131), ("done", 132), ("report, version 2", 143)]
    {
        let message = [&[kind, 0, 0, 0][..], &[0; 20]].concat();
        let near = |way: Way| {
            network(&way.chain_to(std::slice::from_ref(&alert), 58, &message), &[(7, 1)])
        };
        rows.push(out(format!("listener {name}"), near(from(local, "ff02::16"))));
        rows.push(out(format!("listener {name}, no address yet"), near(from("::", "ff02::16"))));
        rows.push(
            out(format!("listener {name}, another's"), near(from("fe80::1", "ff02::16"))).drops(
                SpoofedSource,
                58,
                port(kind),
            ),
        );
        rows.push(
            out(
                format!("listener {name}, another Ethernet address"),
                from_mac(&near(from(local, "ff02::16")), OTHER_MAC),
            )
            .drops(SpoofedMac, 58, port(kind)),
        );
        rows.push(out(format!("listener {name} to one"), near(from(own, "fd00::3"))).drops(
            Policy,
            58,
            port(kind),
        ));
        rows.push(
            out(
                format!("listener {name} with 64 hops"),
                from(own, "ff02::16").discovery_from_afar(kind, &[0; 20], 64),
            )
            .drops(Policy, 58, port(kind)),
        );
        rows.push(into(format!("listener {name}, in"), near(from("fe80::1", "ff02::1"))));
    }
    rows
}

fn option_rows() -> Vec<Row> {
    let all = Way::new("fd00::2", 0, "ff02::1", 0);
    let mut rows = Vec::new();
    for (name, kind, body) in [
        ("NS", SOLICIT, target("fd00::3")),
        ("NA", ADVERTISE, target("fd00::2")),
        ("RS", ROUTER_SOLICIT, vec![0; 4]),
    ] {
        let port = u16::from(kind) << 8;
        let with =
            |options: &[Vec<u8>]| all.discovery(kind, &[body.clone(), options.concat()].concat());
        let row =
            |what: &str, options: &[Vec<u8>]| out(format!("{name} option: {what}"), with(options));
        let nonce = vec![14, 1, 1, 2, 3, 4, 5, 6];
        let (source, lie) = (option(1, OWN_MAC), option(1, OTHER_MAC));
        let (target, target_lie) = (option(2, OWN_MAC), option(2, OTHER_MAC));
        let long = [&[1, 2][..], &OWN_MAC, &[0; 8]].concat();
        rows.extend([
            row("source address", std::slice::from_ref(&source)),
            row("target address", std::slice::from_ref(&target)),
            row("both addresses and a nonce", &[source.clone(), target, nonce.clone()]),
            row("nonce", std::slice::from_ref(&nonce)),
            row("eight of them", &vec![nonce.clone(); 8]),
            row("another's source address", std::slice::from_ref(&lie)).drops(
                SpoofedNeighbour,
                58,
                port,
            ),
            row("another's target address", &[target_lie]).drops(SpoofedNeighbour, 58, port),
            row("another's behind the own", &[source.clone(), lie.clone()]).drops(
                SpoofedNeighbour,
                58,
                port,
            ),
            row("another's behind a nonce", &[nonce.clone(), lie.clone()]).drops(
                SpoofedNeighbour,
                58,
                port,
            ),
            row("another's as the eighth", &[vec![nonce.clone(); 7], vec![lie.clone()]].concat())
                .drops(SpoofedNeighbour, 58, port),
            row("nine of them", &vec![nonce.clone(); 9]).drops(HeaderChain, 58, port),
            row("another's as the ninth", &[vec![nonce.clone(); 8], vec![lie.clone()]].concat())
                .drops(HeaderChain, 58, port),
            row("no length", &[vec![1, 0, 0, 0, 0, 0, 0, 0]]).drops(Malformed, 58, port),
            row("no length, unknown", &[vec![99, 0, 0, 0, 0, 0, 0, 0]]).drops(Malformed, 58, port),
            row("longer than the message", &[vec![99, 9, 0, 0, 0, 0, 0, 0]])
                .drops(Malformed, 58, port),
            row("an address of two units", &[long]).drops(Malformed, 58, port),
            row("cut short", &[vec![1, 1, 2, 0]]).drops(Malformed, 58, port),
        ]);
        rows.push(
            out(format!("{name} from another's Ethernet address"), from_mac(&with(&[]), OTHER_MAC))
                .drops(SpoofedMac, 58, port),
        );
        rows.push(
            out(format!("{name} option: another's, behind options"), {
                let message = [&[kind, 0, 0, 0][..], &body, &lie].concat();
                network(&all.chain_to(&[(60, padding(0))], 58, &message), &[(7, 255)])
            })
            .drops(SpoofedNeighbour, 58, port),
        );
        rows.push(into(format!("{name} option: another's, in"), with(&[lie])));
    }
    rows
}
