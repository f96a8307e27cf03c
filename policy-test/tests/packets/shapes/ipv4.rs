//! IPv4 headers (RFC 791): options, lengths, addresses.

use policy_common::abi::DropReason::{
    Malformed, NoConnection, Policy, SourceRouted, SpoofedSource,
};

use super::{Row, into, out};
use crate::frames::{SYN, Way, network};

fn query() -> Way {
    Way::new("10.0.0.2", 1, "10.0.0.3", 53)
}

fn call() -> Way {
    Way::new("10.0.0.2", 1, "10.0.0.3", 5432)
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let denied = Way::new("10.0.0.2", 1, "10.0.0.3", 54);
    for (name, options) in [
        ("no operation", vec![1; 4]),
        ("end of list", vec![0; 4]),
        ("security (RFC 1108)", vec![130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("record route", [&[7, 7, 4][..], &[0; 5]].concat()),
        ("loose source route, used up", [&[131, 7, 8][..], &[10, 0, 0, 3, 0]].concat()),
        ("strict source route, used up", [&[137, 7, 8][..], &[10, 0, 0, 3, 0]].concat()),
        ("time stamp", [&[68, 12, 5, 0][..], &[0; 8]].concat()),
        ("traceroute (RFC 1393)", [&[82, 12][..], &[0; 10]].concat()),
        ("router alert (RFC 2113)", vec![148, 4, 0, 0]),
        ("stream id", vec![136, 4, 0, 0]),
        ("quick start (RFC 4782)", vec![25, 8, 0, 0, 0, 0, 0, 0]),
        ("experiment (RFC 4727)", vec![158, 4, 0, 0]),
        ("an unknown one", vec![223, 4, 9, 9]),
        ("one behind the end of the list", vec![0, 131, 7, 4]),
        ("as many as there may be", vec![1; 40]),
    ] {
        // A router or the receiver may not like them; what they hide from policy is nothing.
        rows.push(out(format!("option: {name}"), query().with_options(&options)).opens());
        let frame = denied.with_options(&options);
        rows.push(out(format!("option: {name}, denied"), frame).drops(Policy, 17, 54));
    }
    for (name, options) in [
        ("one whose length is 0", vec![7, 0, 0, 0]),
        ("one whose length is 1", vec![7, 1, 0, 0]),
        ("one that is longer than the header", vec![7, 255, 4, 0]),
        ("a kind without a length", vec![1, 1, 1, 7]),
        ("a source route behind a length of 0", vec![7, 0, 131, 7, 4, 10, 0, 0, 4, 0, 0, 0]),
    ] {
        let frame = query().with_options(&options);
        rows.push(out(format!("option: {name}"), frame).drops(Malformed, 17, 0));
    }
    // To a destination that is allowed, and from there to one that is not.
    let on_to = [10, 0, 0, 4];
    let mut far = vec![1; 32];
    far.extend([131, 7, 4]);
    far.extend(on_to);
    far.push(0);
    for (name, options) in [
        ("loose source route", [&[131, 7, 4][..], &on_to, &[0]].concat()),
        ("strict source route", [&[137, 7, 4][..], &on_to, &[0]].concat()),
        ("the second hop of two", [&[131, 11, 8][..], &on_to, &on_to, &[0]].concat()),
        ("a source route behind others", far),
        ("a source route without hops", vec![131, 3, 3, 0]),
    ] {
        let frame = query().with_options(&options);
        rows.push(out(format!("option: {name}"), frame).drops(SourceRouted, 17, 0));
        let frame = Way::new("10.0.0.4", 1, "10.0.0.2", 53).with_options(&options);
        rows.push(into(format!("option: {name}, in"), frame).drops(SourceRouted, 17, 0));
    }
    let syn = call().tcp(SYN);
    // 44 bytes in all: the header may claim up to eleven words, and takes ports from where it ends.
    for words in 0..=15_u8 {
        let frame = network(&syn, &[(0, 0x40 | words)]);
        let row = out(format!("a header of {words} words"), frame);
        rows.push(match words {
            5 => row.opens(),
            // Behind it there is too little of a TCP header.
            6..=11 => row.drops(Malformed, 6, 0),
            _ => row.drops(Malformed, 0, 0),
        });
    }
    for (name, changes, protocol) in [
        ("version 0", &[(0, 0x05)][..], 0),
        ("version 5", &[(0, 0x55)], 0),
        ("version 6", &[(0, 0x65)], 0),
        ("version 15", &[(0, 0xf5)], 0),
        ("a total length of 0", &[(2, 0), (3, 0)], 0),
        ("a total length of 1", &[(2, 0), (3, 1)], 0),
        ("a total length short of the header", &[(2, 0), (3, 19)], 0),
        ("a total length of the header alone", &[(2, 0), (3, 20)], 6),
        ("a total length in the middle of the ports", &[(2, 0), (3, 22)], 6),
        ("a total length short of the TCP header", &[(2, 0), (3, 39)], 6),
        ("a total length of one byte too many", &[(2, 0), (3, 45)], 0),
        ("a total length of 65535", &[(2, 0xff), (3, 0xff)], 0),
    ] {
        let frame = network(&syn, changes);
        rows.push(out(format!("{name}, out"), frame.clone()).drops(Malformed, protocol, 0));
        rows.push(into(format!("{name}, in"), frame).drops(Malformed, protocol, 0));
    }
    rows.extend([
        out("a total length without the payload", network(&syn, &[(2, 0), (3, 40)])).opens(),
        out("padding behind the packet", [syn.clone(), vec![0xee; 20]].concat()).opens(),
        out("a time to live of 0", network(&syn, &[(8, 0)])).opens(),
        out("a time to live of 1", network(&syn, &[(8, 1)])).opens(),
        out("all of the type of service", network(&syn, &[(1, 0xff)])).opens(),
        out("the evil bit (RFC 3514)", network(&syn, &[(6, 0xc0)])).opens(),
        out("a wrong header checksum", network(&syn, &[(10, 0), (11, 0)])).opens(),
        out("to oneself", Way::new("10.0.0.5", 1, "10.0.0.5", 53).udp()).free().opens(),
        out("to no address", Way::new("10.0.0.5", 1, "0.0.0.0", 53).udp()).free().opens(),
        out("to loopback", Way::new("10.0.0.5", 1, "127.0.0.1", 53).udp()).free().opens(),
        out("to loopback, denied", Way::new("10.0.0.2", 1, "127.0.0.1", 53).udp())
            .drops(Policy, 17, 53),
        into("from loopback", Way::new("127.0.0.1", 1, "10.0.0.2", 80).tcp(SYN))
            .drops(Policy, 6, 80),
        into("from a group of IPv4", Way::new("224.0.0.1", 1, "10.0.0.2", 53).udp())
            .drops(Policy, 17, 53),
        into("from everybody", Way::new("255.255.255.255", 1, "10.0.0.2", 53).udp())
            .drops(Policy, 17, 53),
        into("from oneself (land)", Way::new("10.0.0.2", 80, "10.0.0.2", 80).tcp(SYN))
            .drops(Policy, 6, 80),
        out("DHCP without an address", Way::new("0.0.0.0", 68, "255.255.255.255", 67).udp())
            .free()
            .drops(SpoofedSource, 17, 67),
        out("DHCP renewal", Way::new("10.0.0.5", 68, "10.0.0.1", 67).udp()).free().opens(),
        into("a DHCP offer", Way::new("10.0.0.1", 67, "255.255.255.255", 68).udp()).free(),
        into("a DHCP offer, denied", Way::new("10.0.0.1", 67, "255.255.255.255", 68).udp())
            .drops(Policy, 17, 68),
    ]);
    for source in ["10.0.0.3", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1"]
    {
        let way = Way::new(source, 1, "10.0.0.3", 5432);
        rows.push(out(format!("source {source}, SYN"), way.tcp(SYN)).free().drops(
            SpoofedSource,
            6,
            5432,
        ));
        rows.push(out(format!("source {source}, ACK"), way.tcp(0x10)).drops(
            SpoofedSource,
            6,
            5432,
        ));
    }
    // Protocols without ports are decided by their number alone.
    for (name, protocol) in [
        ("hop-by-hop options", 0),
        ("IGMP", 2),
        ("IPv4 in IPv4", 4),
        ("EGP", 8),
        ("DCCP", 33),
        ("IPv6 in IPv4", 41),
        ("GRE", 47),
        ("ESP", 50),
        ("AH", 51),
        ("ICMPv6 over IPv4", 58),
        ("EIGRP", 88),
        ("OSPF", 89),
        ("PIM", 103),
        ("VRRP", 112),
        ("L2TP", 115),
        ("the reserved one", 255),
    ] {
        let frame = |own| Way::new(own, 0, "10.0.0.3", 0).packet(protocol, &[0; 24]);
        rows.push(out(format!("protocol {name}"), frame("10.0.0.5")).free().opens());
        rows.push(
            out(format!("protocol {name}, denied"), frame("10.0.0.2")).drops(Policy, protocol, 0),
        );
    }
    let igmp = |to| Way::new("10.0.0.5", 0, to, 0).packet(2, &[0x16, 0, 0, 0, 224, 0, 0, 251]);
    rows.push(out("an IGMP report", igmp("224.0.0.251")).free().opens());
    rows.push(out("an IGMPv3 report", igmp("224.0.0.22")).free().opens());
    rows.push(out("mid-stream TCP", call().tcp(0x10)).drops(NoConnection, 6, 5432));
    rows
}
