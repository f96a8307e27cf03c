//! Fragments (RFC 791, RFC 815, RFC 1858, RFC 3128, RFC 5722, RFC 6946, RFC 8200): without ports, they
//! follow the first one's verdict.

use policy_common::abi::DropReason::{
    Fragment, HeaderChain, Malformed, NoConnection, Policy, SpoofedMac, SpoofedSource,
};

use super::{Row, into, out};
use crate::frames::{SYN, Way, fragment_header, from_mac, network, padding, tagged};

const UDP: u8 = 17;
const TCP: u8 = 6;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (family, own, other) in [("IPv4", "10.0.0.2", "10.0.0.3"), ("IPv6", "fd00::2", "fd00::3")] {
        let row = |name: &str, frame| out(format!("{family} fragments: {name}"), frame);
        let way = Way::new(own, 1, other, 53);
        let denied = Way::new(own, 1, other, 54);
        let first = way.piece(1, 0, true, &way.udp_datagram(&[7; 24]));
        let rest = [7; 16];
        let later = way.piece(1, 4, true, &rest);
        let last = way.piece(1, 6, false, &rest[..5]);
        // What a later fragment is counted under: IPv6 says what begins the packet, IPv4 what it is of.
        let alone = |row: Row| row.drops(Fragment, UDP, 0);
        rows.extend([
            row("the first", first.clone()).opens(),
            row("a middle one", later.clone()).after_out(first.clone()),
            row("the last", last.clone()).after_out(first.clone()),
            row("the last before a middle one", later.clone())
                .after_out(first.clone())
                .after_out(last.clone()),
            row("the last twice", last.clone()).after_out(first.clone()).after_out(last.clone()),
            row("behind a tag", tagged(&later, &[0x8100])).after_out(first.clone()),
            alone(row("a middle one alone", later.clone())),
            alone(row("the last alone", last.clone())),
            alone(row("of another packet", way.piece(2, 4, false, &rest)).after_out(first.clone())),
            alone(
                row("of another source", Way::new(other, 1, own, 53).piece(1, 4, false, &rest))
                    .after_out(first.clone()),
            ),
            alone(
                row("after half a minute", later.clone())
                    .after_out(first.clone())
                    .after_seconds(30),
            ),
            row("before half a minute", later.clone()).after_out(first.clone()).after_seconds(25),
            row(
                "the first of a denied packet",
                denied.piece(3, 0, true, &denied.udp_datagram(&[7; 24])),
            )
            .drops(Policy, UDP, 54),
            row("a first without ports", way.piece(4, 0, true, &way.udp_datagram(&[])[..4]))
                .drops(Malformed, UDP, 0),
            row("a first of eight bytes", way.piece(4, 0, true, &way.udp_datagram(&[7; 24])[..8]))
                .opens(),
            row(
                "a first in another's name",
                Way::new(other, 1, own, 53).piece(5, 0, true, &way.udp_datagram(&[7; 24])),
            )
            .drops(SpoofedSource, UDP, 53),
            row("a middle one from another Ethernet address", from_mac(&later, [2, 0, 0, 0, 0, 9]))
                .after_out(first.clone())
                .drops(SpoofedMac, UDP, 0),
            row("one over the data", way.piece(1, 1, true, &rest)).after_out(first.clone()),
            row("another first, denied", denied.piece(1, 0, true, &denied.udp_datagram(&[7; 24])))
                .after_out(first.clone())
                .drops(Policy, UDP, 54),
            row("one that ends beyond 65535", way.piece(1, 0x1fff, false, &rest))
                .after_out(first.clone())
                .drops(Malformed, UDP, 0),
            row("one that ends at 65535", way.piece(1, 0x1ffe, false, &[7; 15]))
                .after_out(first.clone()),
            row("one without data", way.piece(1, 4, false, &[])).after_out(first.clone()),
            row(
                "a first that says its whole length",
                way.piece(7, 0, true, &way.udp_datagram(&[7; 56])[..32]),
            )
            .opens(),
        ]);
        let back = way.back();
        rows.push(
            into(
                format!("{family} fragments: the way back of a packet that went out"),
                back.piece(1, 4, false, &rest),
            )
            .after_out(first.clone())
            .drops(Fragment, UDP, 0),
        );
        rows.push(
            into(
                format!("{family} fragments: an answer in pieces"),
                back.piece(9, 4, false, &rest),
            )
            .after_out(way.udp())
            .after_in(back.piece(9, 0, true, &back.udp_datagram(&[7; 24]))),
        );
        // TCP: the header is whole in the first one, and stays as it was.
        let call = Way::new(own, 1, other, 5432);
        let segment = call.tcp_segment(SYN, &[7; 20]);
        let whole = call.piece_of(TCP, 1, 0, true, &segment);
        rows.push(row("the first of a SYN", whole.clone()).opens());
        for short in [8, 16] {
            let frame = call.piece_of(TCP, 1, 0, true, &segment[..short]);
            rows.push(
                row(&format!("{short} bytes of TCP (RFC 1858)"), frame).drops(Malformed, TCP, 0),
            );
        }
        for place in [1, 2] {
            let frame = call.piece_of(TCP, 1, place, false, &rest);
            rows.push(
                row(&format!("over the TCP header at {place} (RFC 3128)"), frame)
                    .after_out(whole.clone())
                    .drops(Malformed, TCP, 0),
            );
        }
        let behind = call.piece_of(TCP, 1, 3, false, &rest);
        rows.push(row("behind the TCP header", behind).after_out(whole));
        let ack = call.piece_of(TCP, 1, 0, true, &call.tcp_segment(0x10, &[7; 20]));
        rows.push(row("the first of a stray segment", ack).drops(NoConnection, TCP, 5432));
    }
    // IPv4 keeps what a packet is of in every fragment, and tells them apart by it.
    let way = Way::new("10.0.0.2", 1, "10.0.0.3", 53);
    let first = way.piece(1, 0, true, &way.udp_datagram(&[7; 24]));
    let tcp = way.piece_of(TCP, 1, 4, false, &[7; 16]);
    let reserved = network(&way.udp(), &[(6, 0x80)]);
    let contradiction = network(&first, &[(6, 0x60)]);
    rows.extend([
        out("IPv4 fragments: of another protocol", tcp).after_out(first).drops(Fragment, TCP, 0),
        out("IPv4 fragments: none, with the reserved bit", reserved).opens(),
        out("IPv4 fragments: more of them, and none allowed", contradiction).opens(),
    ]);
    let way = Way::new("fd00::2", 1, "fd00::3", 53);
    let datagram = way.udp_datagram(&[7; 24]);
    let atomic = (FRAGMENT, fragment_header(1, 0, false));
    let begins = (FRAGMENT, fragment_header(1, 0, true));
    let options = (OPTIONS, padding(0));
    rows.extend([
        out("an atomic fragment with an identification", way.chain(std::slice::from_ref(&atomic)))
            .opens(),
        out("two atomic fragment headers", way.chain(&[atomic.clone(), atomic.clone()])).opens(),
        out("a fragment header behind a first one's", way.chain(&[begins.clone(), atomic.clone()]))
            .drops(HeaderChain, 0, 0),
        out("a first fragment behind an atomic one", way.chain(&[atomic, begins.clone()])).opens(),
        out(
            "a first fragment with options behind it",
            way.chain_to(&[begins.clone(), options.clone()], UDP, &datagram),
        )
        .opens(),
        out(
            "a first fragment that ends in its options (RFC 7112)",
            way.chain_to(&[begins, options.clone()], UDP, &[]),
        )
        .drops(Malformed, UDP, 0),
        out(
            "a later fragment of options",
            way.chain_to(&[(FRAGMENT, fragment_header(1, 1, false)), options], UDP, &[]),
        )
        .drops(Fragment, OPTIONS, 0),
    ]);
    rows
}
