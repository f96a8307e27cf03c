//! ICMP and ICMPv6 (RFC 792, RFC 1122, RFC 4443, RFC 5508): echo, and errors by what they quote.

use policy_common::abi::DropReason::{Malformed, Policy, SpoofedMac, SpoofedSource, UnrelatedIcmp};

use super::{Row, into, out};
use crate::frames::{ACK, ETHERNET, SYN, Way, fragment_header, from_mac, padding, tagged};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (family, own, other, router, header) in [
        ("IPv4", "10.0.0.2", "10.0.0.3", "192.0.2.9", 20),
        ("IPv6", "fd00::2", "fd00::3", "2001:db8::9", 40),
    ] {
        let v4 = family == "IPv4";
        let number = if v4 { 1 } else { 58 };
        let (ask, answer) = if v4 { (8_u16 << 8, 0) } else { (128 << 8, 129 << 8) };
        let (kind, code) = if v4 { (3, 3) } else { (1, 4) };
        let port = u16::from(kind) << 8 | u16::from(code);
        let send = |name: &str, frame| out(format!("{family} {name}"), frame);
        let get = |name: &str, frame| into(format!("{family} {name}"), frame);
        let ping = Way::new(own, 0, other, 0);
        let unrelated = |row: Row| row.drops(UnrelatedIcmp, number, port);

        rows.extend([
            send("echo", ping.ping(7)).opens(),
            send("echo of identifier 0", ping.ping(0)).opens(),
            get("echo reply", ping.back().pong(7)).after_out(ping.ping(7)),
            get("echo reply of identifier 0", ping.back().pong(0)).after_out(ping.ping(0)),
            get("echo reply to nothing", ping.back().pong(7)).drops(UnrelatedIcmp, number, answer),
            get("echo reply to another", ping.back().pong(8)).after_out(ping.ping(7)).drops(
                UnrelatedIcmp,
                number,
                answer,
            ),
            get("echo reply from another", Way::new(router, 0, own, 0).pong(7))
                .after_out(ping.ping(7))
                .drops(UnrelatedIcmp, number, answer),
            get("echo reply after half a minute", ping.back().pong(7))
                .after_out(ping.ping(7))
                .after_seconds(31)
                .drops(UnrelatedIcmp, number, answer),
            get("echo back", ping.back().ping(7))
                .after_out(ping.ping(7))
                .drops(Policy, number, ask),
            send("echo in another's name", ping.back().ping(7)).drops(SpoofedSource, number, ask),
            send("echo behind a tag", tagged(&ping.ping(7), &[0x8100])).opens(),
        ]);
        // An echo with a code is none: policy is asked each time.
        let odd = ping.icmp(if v4 { 8 } else { 128 }, 5, &[0, 7, 0, 1]);
        rows.push(send("echo of code 5", odd));
        for length in [0, 1, 4, 7] {
            let frame = ping.packet(number, &vec![0; length]);
            rows.push(send(&format!("ICMP of {length} bytes"), frame).drops(Malformed, number, 0));
        }
        let others: &[(&str, u8)] = if v4 {
            &[
                ("source quench's neighbour, 6", 6),
                ("time stamp", 13),
                ("information", 15),
                ("mask", 17),
                ("extended echo", 42),
            ]
        } else {
            &[
                ("name query", 139),
                ("home agent discovery", 144),
                ("certificate path", 148),
                ("extended echo", 160),
                ("RPL", 155),
            ]
        };
        for &(name, kind) in others {
            let port = u16::from(kind) << 8;
            let frame = |own| Way::new(own, 0, other, 0).icmp(kind, 0, &[0; 8]);
            rows.push(send(name, frame(own)).drops(Policy, number, port));
            rows.push(send(&format!("{name}, undenied"), frame(&own.replace('2', "5"))).free());
        }

        let call = Way::new(own, 50_000, other, 5432);
        let syn = call.tcp(SYN);
        let query = Way::new(own, 50_000, other, 53);
        let near = Way::new(router, 0, own, 0);
        let about = |quoted: &[u8]| near.icmp(kind, code, &[&[0; 4], quoted].concat());
        let quoted = &syn[ETHERNET..];
        rows.extend([
            get("error about a SYN", near.unreachable(&syn)).after_out(syn.clone()),
            get("error from the other end", call.back().unreachable(&syn)).after_out(syn.clone()),
            get("error about a datagram", near.unreachable(&query.udp())).after_out(query.udp()),
            get("error about an echo", near.unreachable(&ping.ping(7))).after_out(ping.ping(7)),
            get("error behind a tag", tagged(&near.unreachable(&syn), &[0x8100]))
                .after_out(syn.clone()),
            get("error that quotes eight bytes", about(&quoted[..header + 8]))
                .after_out(syn.clone()),
            unrelated(
                get("error that quotes seven bytes", about(&quoted[..header + 7]))
                    .after_out(syn.clone()),
            ),
            unrelated(
                get("error that quotes no ports", about(&quoted[..header])).after_out(syn.clone()),
            ),
            unrelated(
                get("error that quotes half a header", about(&quoted[..header / 2]))
                    .after_out(syn.clone()),
            ),
            unrelated(get("error that quotes nothing", about(&[])).after_out(syn.clone())),
            unrelated(get("error about nothing", near.unreachable(&syn))),
            unrelated(
                get(
                    "error about another port",
                    near.unreachable(&Way::new(own, 50_001, other, 5432).tcp(SYN)),
                )
                .after_out(syn.clone()),
            ),
            unrelated(
                get(
                    "error about another peer",
                    near.unreachable(&Way::new(own, 50_000, router, 5432).tcp(SYN)),
                )
                .after_out(syn.clone()),
            ),
            unrelated(
                get(
                    "error about another protocol",
                    near.unreachable(&Way::new(own, 50_000, other, 5432).udp()),
                )
                .after_out(syn.clone()),
            ),
            unrelated(
                get("error about an answer", near.unreachable(&call.back().tcp(SYN | ACK)))
                    .after_out(syn.clone()),
            ),
            unrelated(
                get("error about an error", near.unreachable(&near.unreachable(&syn)))
                    .after_out(syn.clone()),
            ),
            unrelated(
                get("error about a reply", near.unreachable(&ping.back().pong(7)))
                    .after_out(ping.ping(7)),
            ),
            unrelated(
                get("error about an expired datagram", near.unreachable(&query.udp()))
                    .after_out(query.udp())
                    .after_seconds(31),
            ),
            unrelated(
                send(
                    "error outwards, about what one sent oneself",
                    Way::new(own, 0, other, 0).unreachable(&syn),
                )
                .after_out(syn.clone()),
            ),
        ]);
        // Who was asked may refuse, and tell nobody else.
        let client = if v4 { "10.0.0.4" } else { "fd00::4" };
        let asked = Way::new(client, 50_000, own, 53);
        let refusal = asked.back().unreachable(&asked.udp());
        rows.extend([
            send("refusal", refusal.clone()).after_in(asked.udp()),
            unrelated(
                send("refusal to another", Way::new(own, 0, router, 0).unreachable(&asked.udp()))
                    .after_in(asked.udp()),
            ),
            send(
                "refusal in another's name",
                Way::new(other, 0, client, 0).unreachable(&asked.udp()),
            )
            .after_in(asked.udp())
            .drops(SpoofedSource, number, port),
            send("refusal from another Ethernet address", from_mac(&refusal, [2, 0, 0, 0, 0, 9]))
                .after_in(asked.udp())
                .drops(SpoofedMac, number, port),
        ]);
        // The host translates what an error quotes with it: seen from inside, it is about this end.
        let published = Way::new(client, 50_000, own, 80);
        let outside = Way::new(client, 50_000, router, 8080);
        let answered = published.back().tcp(SYN | ACK);
        rows.extend([
            get(
                "translated error about an answer",
                Way::new(router, 0, own, 0).unreachable(&answered),
            )
            .after_in(published.tcp(SYN))
            .after_out(answered.clone()),
            unrelated(
                get(
                    "error that was not translated",
                    Way::new(router, 0, own, 0).unreachable(&outside.back().tcp(SYN | ACK)),
                )
                .after_in(published.tcp(SYN))
                .after_out(answered),
            ),
        ]);
        // Every kind of error, path MTU discovery among them.
        let kinds: &[(u8, u8)] = if v4 {
            &[(3, 0), (3, 1), (3, 4), (3, 13), (4, 0), (11, 0), (11, 1), (12, 0)]
        } else {
            &[(1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)]
        };
        for &(kind, code) in kinds {
            let frame = near.icmp(kind, code, &[&[0, 0, 5, 0], quoted].concat());
            let name = format!("error {kind}/{code}");
            rows.push(get(&name, frame.clone()).after_out(syn.clone()));
            let port = u16::from(kind) << 8 | u16::from(code);
            rows.push(get(&format!("{name}, forged"), frame).drops(UnrelatedIcmp, number, port));
        }
        // Fragments, quoted.
        let pieces = |offset, payload: &[u8]| query.piece(1, offset, true, payload);
        let first = pieces(0, &query.udp_datagram(&[7; 24]));
        rows.extend([
            get("error about a first fragment", near.unreachable(&first)).after_out(first.clone()),
            unrelated(
                get("error about a later fragment", near.unreachable(&pieces(4, &[7; 16])))
                    .after_out(first),
            ),
        ]);
    }
    let way = Way::new("fd00::2", 50_000, "fd00::3", 53);
    let near = Way::new("2001:db8::9", 0, "fd00::2", 0);
    let atomic = way.chain(&[(44, fragment_header(1, 0, false))]);
    let options = way.chain(&[(60, padding(0))]);
    let cut = near.icmp(2, 0, &[&[0; 4], &atomic[ETHERNET..ETHERNET + 44]].concat());
    rows.extend([
        into(
            "too big, about an atomic fragment",
            near.icmp(2, 0, &[&[0; 4], &atomic[ETHERNET..]].concat()),
        )
        .after_out(atomic.clone()),
        into("too big, the quoted fragment header cut short", cut).after_out(atomic).drops(
            UnrelatedIcmp,
            58,
            2 << 8,
        ),
        into("too big, about options", near.icmp(2, 0, &[&[0; 4], &options[ETHERNET..]].concat()))
            .after_out(options)
            .drops(UnrelatedIcmp, 58, 2 << 8),
    ]);
    let call = Way::new("10.0.0.2", 50_000, "10.0.0.3", 5432);
    let near = Way::new("192.0.2.9", 0, "10.0.0.2", 0);
    for (name, at, value) in [
        ("version 6", 0, 0x65),
        ("a header of four words", 0, 0x44),
        ("a header beyond the quotation", 0, 0x4f),
        ("another source", 15, 9),
        ("another identity of protocol", 9, 17),
    ] {
        let mut quoted = call.tcp(SYN)[ETHERNET..ETHERNET + 28].to_vec();
        quoted[at] = value;
        let frame = near.icmp(3, 3, &[&[0; 4][..], &quoted].concat());
        rows.push(into(format!("a quotation with {name}"), frame).after_out(call.tcp(SYN)).drops(
            UnrelatedIcmp,
            1,
            0x0303,
        ));
    }
    rows
}
