//! What went before: who may answer whom, and who may not make it look so (RFC 9293, RFC 5961).

use policy_common::abi::DropReason::{NoConnection, Policy, SpoofedMac, SpoofedSource};

use super::{Row, into, out};
use crate::frames::{ACK, FIN, RST, SYN, Way, from_mac};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (family, [own, db, client, outside]) in [
        ("IPv4", ["10.0.0.2", "10.0.0.3", "10.0.0.4", "192.0.2.9"]),
        ("IPv6", ["fd00::2", "fd00::3", "fd00::4", "2001:db8::9"]),
    ] {
        let send = |name: &str, frame| out(format!("{family} {name}"), frame);
        let get = |name: &str, frame| into(format!("{family} {name}"), frame);
        let call = Way::new(own, 40_000, db, 5432);
        let called = Way::new(client, 40_000, own, 80);
        let query = Way::new(own, 40_000, db, 53);
        let asked = Way::new(client, 40_000, own, 53);
        let (syn, answer) = (call.tcp(SYN), call.back().tcp(SYN | ACK));
        rows.extend([
            send("allowed call", syn.clone()).opens(),
            get("its answer", answer.clone()).after_out(syn.clone()),
            get("an answer to nothing", answer.clone()).drops(Policy, 6, 40_000),
            get("allowed call, in", called.tcp(SYN)).opens(),
            send("its answer, out", called.back().tcp(SYN | ACK)).after_in(called.tcp(SYN)),
            send("an answer to nothing, out", called.back().tcp(SYN | ACK))
                .drops(Policy, 6, 40_000),
            get("call from outside", Way::new(outside, 40_000, own, 80).tcp(SYN))
                .drops(Policy, 6, 80),
            send("call to outside", Way::new(own, 40_000, outside, 5432).tcp(SYN))
                .drops(Policy, 6, 5432),
            send("SYN again", syn.clone()).after_out(syn.clone()),
            get("both call at once", call.back().tcp(SYN)).after_out(syn.clone()),
            get("SYN against an answered call", call.back().tcp(SYN))
                .after_out(syn.clone())
                .after_in(answer.clone())
                .drops(Policy, 6, 40_000),
            get("answer to a query", query.back().udp()).after_out(query.udp()),
            get("answer from another port", Way::new(db, 54, own, 40_000).udp())
                .after_out(query.udp())
                .drops(Policy, 17, 40_000),
            get("answer from another host", Way::new(outside, 53, own, 40_000).udp())
                .after_out(query.udp())
                .drops(Policy, 17, 40_000),
            get("answer of another protocol", Way::new(db, 53, own, 40_000).tcp(ACK))
                .after_out(query.udp())
                .drops(Policy, 6, 40_000),
            get("answer after half a minute", query.back().udp())
                .after_out(query.udp())
                .after_seconds(31)
                .drops(Policy, 17, 40_000),
            get("answer after a minute and another", query.back().udp())
                .after_out(query.udp())
                .after_in(query.back().udp())
                .after_seconds(60),
            get("answer after two minutes and another", query.back().udp())
                .after_out(query.udp())
                .after_in(query.back().udp())
                .after_seconds(121)
                .drops(Policy, 17, 40_000),
            get("answer to a call after two minutes", answer.clone())
                .after_out(syn.clone())
                .after_seconds(121)
                .drops(Policy, 6, 40_000),
            send("answer to a query, out", asked.back().udp()).after_in(asked.udp()),
        ]);
        // A close ends a connection: what uses its ports again is decided again, and what it was
        // denied before, it is denied still.
        for (name, close) in [("FIN", FIN | ACK), ("RST", RST)] {
            let closed = |row: Row| {
                row.after_out(syn.clone()).after_in(answer.clone()).after_out(call.tcp(close))
            };
            let closed_by_peer = |row: Row| {
                row.after_out(syn.clone()).after_in(answer.clone()).after_in(call.back().tcp(close))
            };
            rows.extend([
                closed(get(&format!("the rest after {name}"), call.back().tcp(ACK))),
                closed(get(&format!("SYN the other way after {name}"), call.back().tcp(SYN)))
                    .drops(Policy, 6, 40_000),
                closed_by_peer(get(
                    &format!("SYN the other way after the peer's {name}"),
                    call.back().tcp(SYN),
                ))
                .drops(Policy, 6, 40_000),
                closed(send(&format!("SYN again after {name}"), syn.clone())),
                closed(send(
                    &format!("SYN again after {name}, another Ethernet address"),
                    from_mac(&syn, [2, 0, 0, 0, 0, 9]),
                ))
                .drops(SpoofedMac, 6, 5432),
                closed(get(&format!("the rest long after {name}"), call.back().tcp(ACK)))
                    .after_seconds(121)
                    .drops(Policy, 6, 40_000),
                get(&format!("{name} of a call in, then SYN out"), called.tcp(SYN))
                    .after_in(called.tcp(SYN))
                    .after_out(called.back().tcp(SYN | ACK))
                    .after_out(called.back().tcp(close)),
                send(&format!("SYN back after {name} of a call in"), called.back().tcp(SYN))
                    .after_in(called.tcp(SYN))
                    .after_out(called.back().tcp(SYN | ACK))
                    .after_in(called.tcp(close))
                    .drops(Policy, 6, 40_000),
            ]);
        }
        let reset =
            |row: Row| row.after_out(syn.clone()).after_out(call.tcp(RST)).after_seconds(11);
        rows.push(reset(send("data long after RST", call.tcp(ACK))).drops(NoConnection, 6, 5432));
        // A forged frame opens nothing, neither for who sends it nor for who is named in it.
        let forged = Way::new(client, 40_000, db, 5432);
        rows.extend([
            send("call in another's name", forged.tcp(SYN)).free().drops(SpoofedSource, 6, 5432),
            send("query in another's name", Way::new(client, 40_000, db, 53).udp()).free().drops(
                SpoofedSource,
                17,
                53,
            ),
            send("answer in another's name", Way::new(db, 5432, client, 40_000).tcp(SYN | ACK))
                .free()
                .drops(SpoofedSource, 6, 40_000),
            send("reset in another's name", Way::new(db, 5432, client, 40_000).tcp(RST))
                .free()
                .drops(SpoofedSource, 6, 40_000),
            get("answer to a call of another's", forged.back().tcp(SYN | ACK))
                .drops(Policy, 6, 40_000),
        ]);
    }
    rows
}
