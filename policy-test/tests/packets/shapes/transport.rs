//! Transport headers (RFC 768, RFC 9293, RFC 9260, RFC 3828): lengths, flags, ports of zero.

use policy_common::abi::DropReason::{Malformed, NoConnection, Policy};

use super::{Row, into, out};
use crate::frames::{ACK, FIN, RST, SYN, Way, network};

const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (family, own, other, header) in
        [("IPv4", "10.0.0.2", "10.0.0.3", 20), ("IPv6", "fd00::2", "fd00::3", 40)]
    {
        let free = own.replace('2', "5");
        let call = Way::new(own, 1, other, 5432);
        let flags = |flags: u8| network(&call.tcp(SYN), &[(header + 13, flags)]);
        let row = |name: &str, frame| out(format!("{family} {name}"), frame);
        for (name, bits) in [
            ("SYN", SYN),
            ("SYN with ECN (RFC 3168)", SYN | ECE | CWR),
            ("SYN and PSH", SYN | PSH),
            ("SYN and URG", SYN | URG),
            // What a SYN asks for is policy's; that no stack answers this one is the stack's.
            ("SYN and FIN", SYN | FIN),
        ] {
            rows.push(row(name, flags(bits)).opens());
            let denied = network(&Way::new(own, 1, other, 22).tcp(SYN), &[(header + 13, bits)]);
            rows.push(row(&format!("{name}, denied"), denied).drops(Policy, 6, 22));
        }
        for (name, bits) in [
            ("no flag (null)", 0),
            ("FIN, PSH, URG (Xmas)", FIN | PSH | URG),
            ("all flags", 0xff),
            ("FIN alone", FIN),
            ("FIN and ACK", FIN | ACK),
            ("ACK", ACK),
            ("PSH and ACK", PSH | ACK),
            ("SYN and ACK", SYN | ACK),
            ("SYN and RST", SYN | RST),
            ("RST", RST),
            ("RST and ACK", RST | ACK),
            ("URG alone", URG),
            ("ECE alone", ECE),
        ] {
            rows.push(row(name, flags(bits)).drops(NoConnection, 6, 5432));
            rows.push(row(&format!("{name}, of a connection"), flags(bits)).after_out(flags(SYN)));
        }
        for words in [0, 1, 4, 15] {
            let frame = network(&call.tcp(SYN), &[(header + 12, words << 4)]);
            rows.push(row(&format!("a data offset of {words}"), frame).drops(Malformed, 6, 0));
        }
        let frame = network(&call.tcp(SYN), &[(header + 12, 0x60)]);
        rows.push(row("a data offset that takes in the data", frame).opens());
        rows.push(
            row("reserved bits of TCP", network(&call.tcp(SYN), &[(header + 12, 0x5f)])).opens(),
        );
        for (name, protocol, length, ports) in [
            ("TCP", 6, 19, false),
            ("UDP", 17, 7, false),
            ("SCTP", 132, 7, false),
            ("UDPLite", 136, 7, false),
            ("TCP", 6, 0, false),
            ("UDP", 17, 0, false),
            ("SCTP", 132, 0, false),
            ("UDPLite", 136, 0, false),
            ("SCTP", 132, 12, true),
            ("UDPLite", 136, 8, true),
            ("DCCP", 33, 12, true),
        ] {
            let frame = |own: &str| Way::new(own, 0, other, 0).packet(protocol, &vec![0; length]);
            let name = format!("{length} bytes of {name}");
            if ports {
                rows.push(row(&name, frame(&free)).free().opens());
                rows.push(row(&format!("{name}, denied"), frame(own)).drops(Policy, protocol, 0));
            } else {
                rows.push(row(&name, frame(&free)).free().drops(Malformed, protocol, 0));
            }
        }
        for (name, protocol) in [("SCTP INIT", 132), ("UDPLite", 136)] {
            let ports = [0x1f, 0x90, 0, 80, 0, 8, 0, 0, 1, 0, 0, 20];
            let body = [&ports[..], &[0; 16]].concat();
            let frame = |own: &str| Way::new(own, 0, other, 0).packet(protocol, &body);
            rows.push(row(name, frame(&free)).free().opens());
            rows.push(
                row(&format!("{name} to port 80, denied"), frame(own)).drops(Policy, protocol, 80),
            );
        }
        let query = Way::new(own, 1, other, 53).udp();
        for (name, length) in [("0", 0), ("7", 7), ("one too many", 17), ("65535", 0xffff_u16)] {
            let [high, low] = length.to_be_bytes();
            let frame = network(&query, &[(header + 4, high), (header + 5, low)]);
            rows.push(row(&format!("a UDP length of {name}"), frame).drops(Malformed, 17, 0));
        }
        let frame = network(&query, &[(header + 5, 8)]);
        rows.push(row("a UDP length without the data", frame).opens());
        rows.push(row("from port 0", Way::new(own, 0, other, 53).udp()).opens());
        rows.push(row("to port 0", Way::new(own, 1, other, 0).udp()).drops(Policy, 17, 0));
        rows.push(row("to port 0, undenied", Way::new(&free, 1, other, 0).udp()).free().opens());
        rows.push(
            row("from port 0 to port 0", Way::new(&free, 0, other, 0).tcp(SYN)).free().opens(),
        );
        rows.push(row("to port 65535", Way::new(&free, 1, other, 65535).tcp(SYN)).free().opens());
        rows.push(
            into(format!("{family} to port 0, in"), Way::new(other, 1, own, 0).tcp(SYN))
                .drops(Policy, 6, 0),
        );
    }
    rows
}
