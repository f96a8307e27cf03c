//! IPv6 headers and their extensions (RFC 8200, RFC 4302, RFC 6275).

use policy_common::abi::DropReason::{HeaderChain, Malformed, Policy, SourceRouted, SpoofedSource};

use super::{Row, into, out};
use crate::frames::{SYN, Way, fragment_header, network, padding};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AH: u8 = 51;
const ICMPV6: u8 = 58;
const NO_NEXT: u8 = 59;
const OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;

/// An authentication header (RFC 4302, 2.2) with a check value of so many words, without its first
/// byte.
fn ah(words: u8) -> Vec<u8> {
    [&[words + 1][..], &[0; 2], &vec![0; usize::from(words) * 4 + 8]].concat()
}

/// A routing header of a type, with segments left.
fn routing(kind: u8, left: u8) -> Vec<u8> {
    [&[2, kind, left, 0, 0, 0, 0][..], &[0; 16]].concat()
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let way = |port| Way::new("fd00::2", 1, "fd00::3", port);
    let atomic = || (FRAGMENT, fragment_header(1, 0, false));
    let hop = || (HOP_BY_HOP, padding(0));
    let options = || (OPTIONS, padding(0));
    let chains = [
        ("hop-by-hop options", vec![hop()]),
        ("long hop-by-hop options", vec![(HOP_BY_HOP, padding(30))]),
        ("router alert (RFC 2711)", vec![(HOP_BY_HOP, vec![0, 5, 2, 0, 0, 1, 0])]),
        ("destination options", vec![options()]),
        ("long destination options", vec![(OPTIONS, padding(31))]),
        (
            "home address (RFC 6275)",
            vec![(OPTIONS, [&[2, 1, 2, 0, 0, 201, 16][..], &[0; 16]].concat())],
        ),
        ("a routing header without segments", vec![(ROUTING, vec![0; 7])]),
        ("routing type 0, used up", vec![(ROUTING, routing(0, 0))]),
        ("routing type 2, used up", vec![(ROUTING, routing(2, 0))]),
        ("segment routing, used up", vec![(ROUTING, routing(4, 0))]),
        ("an authentication header", vec![(AH, ah(0))]),
        ("a check value of 96 bits", vec![(AH, ah(3))]),
        ("a check value of 128 bits", vec![(AH, ah(4))]),
        ("an atomic fragment", vec![atomic()]),
        (
            "all in the recommended order",
            vec![hop(), options(), (ROUTING, vec![0; 7]), atomic(), (AH, ah(3)), options()],
        ),
        ("destination options six times", vec![options(); 6]),
        ("options behind an atomic fragment", vec![atomic(), options()]),
    ];
    for (name, chain) in &chains {
        rows.push(out(*name, way(53).chain(chain)).opens());
        rows.push(out(format!("{name}, denied"), way(54).chain(chain)).drops(Policy, 17, 54));
        let forged = Way::new("fd00::3", 1, "fd00::2", 53).chain(chain);
        rows.push(out(format!("{name}, another's"), forged).drops(SpoofedSource, 17, 53));
    }
    for (name, chain) in [
        ("seven destination options", vec![options(); 7]),
        ("ten destination options", vec![options(); 10]),
        ("six headers and hop-by-hop options", [vec![options(); 6], vec![hop()]].concat()),
        ("six headers and an atomic fragment", [vec![options(); 6], vec![atomic()]].concat()),
    ] {
        rows.push(out(format!("{name}, out"), way(53).chain(&chain)).drops(HeaderChain, 0, 0));
        let back = Way::new("fd00::4", 1, "fd00::2", 53).chain(&chain);
        rows.push(into(format!("{name}, in"), back).drops(HeaderChain, 0, 0));
    }
    for (name, chain) in [
        ("routing type 0", vec![(ROUTING, routing(0, 1))]),
        ("mobility's routing type 2", vec![(ROUTING, routing(2, 1))]),
        ("segment routing", vec![(ROUTING, routing(4, 1))]),
        ("an unknown routing type", vec![(ROUTING, routing(200, 255))]),
        ("a routing header behind others", vec![hop(), options(), (ROUTING, routing(0, 1))]),
        ("a routing header in a fragment", vec![atomic(), (ROUTING, routing(4, 1))]),
        (
            "the second of two routing headers",
            vec![(ROUTING, routing(0, 0)), (ROUTING, routing(4, 1))],
        ),
    ] {
        rows.push(out(format!("{name}, segments left"), way(53).chain(&chain)).drops(
            SourceRouted,
            0,
            0,
        ));
        let back = Way::new("fd00::4", 1, "fd00::2", 53).chain(&chain);
        rows.push(into(format!("{name}, segments left, in"), back).drops(SourceRouted, 0, 0));
    }
    for (name, header) in [
        ("hop-by-hop options longer than the packet", (HOP_BY_HOP, vec![255, 1, 4, 0, 0, 0, 0])),
        ("destination options longer than the packet", (OPTIONS, vec![9, 1, 4, 0, 0, 0, 0])),
        ("a routing header longer than the packet", (ROUTING, vec![20, 0, 0, 0, 0, 0, 0])),
        ("an authentication header longer than the packet", (AH, vec![200, 0, 0, 0, 0, 0, 0])),
    ] {
        let frame = way(53).chain(&[header]);
        rows.push(out(name, frame).drops(Malformed, 0, 0));
    }
    let cut = |next: u8| Way::new("fd00::2", 1, "fd00::3", 53).packet(next, &[17]);
    for (name, next) in [
        ("hop-by-hop options", HOP_BY_HOP),
        ("a routing header", ROUTING),
        ("a fragment header", FRAGMENT),
        ("an authentication header", AH),
        ("destination options", OPTIONS),
    ] {
        rows.push(out(format!("one byte of {name}"), cut(next)).drops(Malformed, 0, 0));
    }
    for (name, next) in [("ESP", ESP), ("no next header", NO_NEXT), ("mobility", MOBILITY)]
        .into_iter()
        .chain([("HIP", 139), ("shim6", 140), ("experiment 253", 253), ("ICMP over IPv6", 1)])
        .chain([("IPv6 in IPv6", 41), ("GRE over IPv6", 47), ("DCCP over IPv6", 33), ("255", 255)])
    {
        let frame =
            |own| Way::new(own, 0, "fd00::3", 0).packet(next, &[NO_NEXT, 0, 0, 0, 0, 0, 0, 0]);
        rows.push(out(format!("{name}, the last header"), frame("fd00::5")).free().opens());
        rows.push(
            out(format!("{name}, the last header, denied"), frame("fd00::2"))
                .drops(Policy, next, 0),
        );
    }
    let nothing = Way::new("fd00::5", 0, "fd00::3", 0).packet(NO_NEXT, &[]);
    rows.push(out("no next header, and no payload", nothing).free().opens());
    let behind = Way::new("fd00::5", 0, "fd00::3", 0).chain_to(&[options()], NO_NEXT, &[]);
    rows.push(out("no next header behind options", behind).free().opens());
    let syn = Way::new("fd00::2", 1, "fd00::3", 5432).tcp(SYN);
    for (name, changes, protocol) in [
        ("IPv6 version 0", &[(0, 0x00)][..], 0),
        ("IPv6 version 4", &[(0, 0x45)], 0),
        ("IPv6 version 7", &[(0, 0x70)], 0),
        ("a payload length of 0", &[(4, 0), (5, 0)], 6),
        ("a payload length of 3", &[(4, 0), (5, 3)], 6),
        ("a payload length short of the TCP header", &[(4, 0), (5, 19)], 6),
        ("a payload length of one byte too many", &[(4, 0), (5, 25)], 0),
        ("a payload length of 65535", &[(4, 0xff), (5, 0xff)], 0),
    ] {
        let frame = network(&syn, changes);
        rows.push(out(format!("{name}, out"), frame.clone()).drops(Malformed, protocol, 0));
        rows.push(into(format!("{name}, in"), frame).drops(Malformed, protocol, 0));
    }
    rows.extend([
        out("a payload length without the data", network(&syn, &[(4, 0), (5, 20)])).opens(),
        out("IPv6 padding behind the packet", [syn.clone(), vec![0xee; 9]].concat()).opens(),
        out("a hop limit of 0", network(&syn, &[(7, 0)])).opens(),
        out("a flow label", network(&syn, &[(1, 0x0f), (2, 0xff), (3, 0xff)])).opens(),
        out("all of the traffic class", network(&syn, &[(0, 0x6f), (1, 0xf0)])).opens(),
        out(
            "from the own link-local address",
            Way::new("fe80::ff:fe00:aa02", 1, "fd00::3", 53).udp(),
        )
        .opens(),
        out("from another link-local address", Way::new("fe80::1", 1, "fd00::3", 53).udp()).drops(
            SpoofedSource,
            17,
            53,
        ),
        out("from ::", Way::new("::", 1, "fd00::3", 53).udp()).drops(SpoofedSource, 17, 53),
        out("from ::1", Way::new("::1", 1, "fd00::3", 53).udp()).free().drops(
            SpoofedSource,
            17,
            53,
        ),
        out("from a group", Way::new("ff02::1", 1, "fd00::3", 53).udp()).free().drops(
            SpoofedSource,
            17,
            53,
        ),
        out("from an address of IPv4's", Way::new("::ffff:10.0.0.2", 1, "fd00::3", 53).udp())
            .drops(SpoofedSource, 17, 53),
        out("DHCPv6 to its group", Way::new("fe80::ff:fe00:aa02", 546, "ff02::1:2", 547).udp())
            .free()
            .opens(),
        into("from :: to a port", Way::new("::", 1, "fd00::2", 53).udp()).drops(Policy, 17, 53),
        out(
            "ICMPv6 behind options",
            Way::new("fd00::2", 0, "fd00::3", 0).chain_to(
                &[options()],
                ICMPV6,
                &[128, 0, 0, 0, 0, 9, 0, 1],
            ),
        )
        .opens(),
    ]);
    rows
}
