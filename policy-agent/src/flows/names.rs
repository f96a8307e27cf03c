//! Who the ends of a flow are, as of when it was first seen, and its records.
//!
//! Names are looked up once for all flows between the same two by the same rule: there are few of those,
//! and a flow that is over still has its names when its interface, its rule or its workload is gone.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::SystemTime};

use policy_api::{
    flow::{CLOSE, Ended, FlowEnd, FlowRecord, OPEN, Traffic},
    messages::{RuleName, StagedVerdict, Verdict},
};
use policy_common::{
    abi::{
        Direction, FLOW_FIN_ORIGINAL, FLOW_FIN_REPLY, FLOW_RESET, Flow, OpenedKey, RULE_NONE,
        VERDICT_ALLOW, VERDICT_RULE,
    },
    packet::protocol,
};

use super::{Key, Known};
use policy_core::peers::PeerName;

use crate::{
    kernel::clock::wall_time,
    metrics::Series,
    observer::{self, protocol_name},
    published::Published,
};

/// Names of flows between the same two.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) peer: u32,
    pub(super) rule_id: u32,
    own: FlowEnd,
    other: FlowEnd,
    rule: Option<RuleName>,
    staged: Option<StagedVerdict>,
}

impl Named {
    /// What is counted of them, by name.
    pub(super) fn series(&self, key: &OpenedKey) -> Series {
        Series::named(key, &self.own, &self.other, self.rule.as_ref())
    }
}

/// Names that have been looked up, by interface, peer, rule and staged verdict.
#[derive(Debug, Default)]
pub(super) struct Register(HashMap<[u32; 4], Arc<Named>>);

impl Register {
    /// Looks everything up again from now on.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    pub(super) fn name(&mut self, ifindex: u32, flow: &Flow, names: &Published) -> Arc<Named> {
        let named = self.0.entry([ifindex, flow.peer, flow.rule, flow.staged]);
        Arc::clone(named.or_insert_with(|| Arc::new(look_up(names, ifindex, flow))))
    }
}

fn look_up(names: &Published, ifindex: u32, flow: &Flow) -> Named {
    let end = |name| observer::end(name, None, 0, names);
    let other = names.ids.peer(flow.peer);
    let other =
        other.unwrap_or_else(|| PeerName { namespace: String::new(), name: "gone".to_owned() });
    let staged = names.rule(flow.staged & VERDICT_RULE).filter(|_| flow.staged != 0);
    Named {
        peer: flow.peer,
        rule_id: flow.rule,
        own: end(names.interface(ifindex)),
        other: end(other),
        rule: names.rule(flow.rule).filter(|_| flow.rule != RULE_NONE).cloned(),
        staged: staged.map(|rule| StagedVerdict {
            verdict: observer::verdict(flow.staged & VERDICT_ALLOW != 0),
            rule: rule.clone(),
        }),
    }
}

/// What there is to tell of a flow, of its end if it has ended.
pub(super) fn record<K: Key>(
    key: &K,
    known: &Known,
    ended: Option<Ended>,
    now: SystemTime,
) -> FlowRecord {
    let Named { own, other, rule, staged, .. } = &*known.named;
    let at = |end: &FlowEnd, (ip, port): (IpAddr, u16)| FlowEnd {
        ip: Some(ip),
        port: if is_icmp(key.protocol()) { 0 } else { port },
        ..end.clone()
    };
    let ingress = Direction::from_u8(known.direction) == Some(Direction::Ingress);
    let (own, other) = (at(own, key.local()), at(other, key.remote()));
    let (source, destination) = if ingress { (other, own) } else { (own, other) };
    let written = |time: SystemTime| humantime::format_rfc3339_micros(time).to_string();
    // From the pairing of the clocks that its start is told by, lest a flow of a moment end before it began; and of two
    // CPUs one may have read the clock before the other, and found the flow after it.
    let seen_ns = known.seen_ns.max(known.created_ns);
    let end = wall_time(seen_ns, known.created_ns, known.created);
    let [packets, reply_packets] = known.packets;
    let [bytes, reply_bytes] = known.bytes;
    let echo = match key.protocol() {
        protocol::ICMP => Some(8),
        protocol::ICMPV6 => Some(128),
        _ => None,
    };
    FlowRecord {
        time: written(now),
        event: if ended.is_some() { CLOSE } else { OPEN }.to_owned(),
        verdict: Verdict::Allow,
        reason: String::new(),
        direction: if ingress { "ingress" } else { "egress" }.to_owned(),
        source,
        destination,
        protocol: protocol_name(key.protocol()),
        icmp_type: echo,
        icmp_code: echo.map(|_| 0),
        tcp_flags: flags(key.protocol(), known.state),
        rule: rule.clone(),
        logged: Vec::new(),
        staged: staged.clone(),
        bytes: bytes + reply_bytes,
        traffic: Some(Traffic {
            start: written(known.created),
            end: written(end),
            packets,
            bytes,
            reply_packets,
            reply_bytes,
            ended,
        }),
    }
}

fn is_icmp(number: u8) -> bool {
    matches!(number, protocol::ICMP | protocol::ICMPV6)
}

/// The flags that tell how a TCP connection ended, as far as it has.
fn flags(number: u8, state: u8) -> String {
    let fin = state & (FLOW_FIN_ORIGINAL | FLOW_FIN_REPLY) != 0;
    let set = [("FIN", fin), ("RST", state & FLOW_RESET != 0)];
    let set = set.into_iter().filter(|(_, set)| number == protocol::TCP && *set);
    set.map(|(name, _)| name).collect::<Vec<_>>().join("|")
}
