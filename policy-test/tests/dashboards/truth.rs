//! What must have been counted of what the scene plays.
//!
//! Inputs: the numbers of packets in `scene.rs`. Outputs: each series of the metrics of packets, flows and
//! rules, with its value; sums of them as queries give them.
//!
//! Sizes are those of Ethernet frames: 14 bytes, the IP header (20 or 40), then 40 of a Linux SYN with
//! its options, 8 of UDP with 16 of payload, or 8 of ICMP with 14.

use std::collections::BTreeMap;

use policy_test::dashboards::prometheus::{Labels, Vector};

/// One series.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    labels: Labels,
    value: f64,
}

impl Counted {
    /// Empty if there is no such label.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Series by metric.
#[derive(Debug)]
pub(crate) struct Truth(BTreeMap<&'static str, Vec<Counted>>);

impl Truth {
    /// Everything of a metric.
    pub(crate) fn of(&self, metric: &str) -> &[Counted] {
        self.0.get(metric).map_or(&[], Vec::as_slice)
    }

    /// All of it.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = (&'static str, &[Counted])> {
        self.0.iter().map(|(metric, series)| (*metric, &**series))
    }
}

/// Sums by some of the labels, as `sum by (...)` gives them.
pub(crate) fn sum<'a>(series: impl IntoIterator<Item = &'a Counted>, by: &[&str]) -> Vector {
    let mut sums = Vector::new();
    for Counted { labels, value } in series {
        let mut group = labels.clone();
        group.retain(|name, _| by.contains(&name.as_str()));
        *sums.entry(group).or_default() += value;
    }
    sums
}

/// The larger sum of the two directions: what both ends have counted is there once.
pub(crate) fn once<'a>(series: impl IntoIterator<Item = &'a Counted>, by: &[&str]) -> Vector {
    let mut most = Vector::new();
    for (mut labels, value) in sum(series, &[by, &["direction"]].concat()) {
        labels.remove("direction");
        let known = most.entry(labels).or_insert(value);
        *known = known.max(value);
    }
    most
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

type Pairs = &'static [(&'static str, &'static str)];

/// Parties, service and rule of a series.
fn who(parts: &[Pairs]) -> Labels {
    labels(&parts.concat())
}

const FROM_WEB: Pairs = &[("source_namespace", "shop"), ("source", "web")];
const FROM_DB: Pairs = &[("source_namespace", "shop"), ("source", "db")];
const FROM_INTRUDER: Pairs = &[("source_namespace", "lab"), ("source", "intruder")];
const TO_WEB: Pairs = &[("destination_namespace", "shop"), ("destination", "web")];
const TO_DB: Pairs = &[("destination_namespace", "shop"), ("destination", "db")];
const TO_UNKNOWN: Pairs = &[("destination", "unknown")];
const INGRESS: Pairs = &[("direction", "ingress")];
const EGRESS: Pairs = &[("direction", "egress")];
const TIER_END: Pairs = &[("tier", "default"), ("rule", "tier-default")];
const NO_POLICY: Pairs = &[("rule", "endpoint-default")];
const DB_DNS: Pairs = &[
    ("tier", "default"),
    ("policy_namespace", "shop"),
    ("policy", "db-from-web"),
    ("rule", "ingress[2]"),
];
const DB_NO_9999: Pairs = &[
    ("tier", "default"),
    ("policy_namespace", "shop"),
    ("policy", "db-from-web"),
    ("rule", "ingress[1]"),
];
const WEB_NO_MAIL: Pairs = &[
    ("tier", "default"),
    ("policy_namespace", "shop"),
    ("policy", "web-no-mail"),
    ("rule", "egress[0]"),
];
const WEB_ALL: Pairs = &[
    ("tier", "default"),
    ("policy_namespace", "shop"),
    ("policy", "web-no-mail"),
    ("rule", "egress[1]"),
];
const ENFORCED: Pairs = &[("kind", "NetworkPolicy")];
const TCP_5432: Pairs = &[("protocol", "tcp"), ("port", "5432")];
const TCP_25: Pairs = &[("protocol", "tcp"), ("port", "25")];
const UDP_53: Pairs = &[("protocol", "udp"), ("port", "53")];
const UDP_514: Pairs = &[("protocol", "udp"), ("port", "514")];
const UDP_5353: Pairs = &[("protocol", "udp"), ("port", "5353")];
const UDP_7777: Pairs = &[("protocol", "udp"), ("port", "7777")];
const UDP_9999: Pairs = &[("protocol", "udp"), ("port", "9999")];
const PING: Pairs = &[("protocol", "icmp"), ("port", "8/0")];
const PING6: Pairs = &[("protocol", "icmpv6"), ("port", "128/0")];
const POLICY: Pairs = &[("reason", "policy")];
const SPOOFED: Pairs = &[("reason", "spoofed-source")];

/// Packets and bytes of a flow's way.
type Amount = (u32, u32);

/// What [`crate::scene::Scene::play`] makes.
pub(crate) fn truth() -> Truth {
    let mut metrics: BTreeMap<&'static str, Vec<Counted>> = BTreeMap::new();
    let mut count = |metric, labels: Labels, value: u32| {
        metrics.entry(metric).or_default().push(Counted { labels, value: f64::from(value) });
    };
    for (parts, (packets, bytes)) in drops() {
        count("palisade_dropped_packets_total", who(parts), packets);
        count("palisade_dropped_bytes_total", who(parts), bytes);
    }
    for (parts, flows, ways) in flows() {
        count("palisade_flows_total", who(parts), flows);
        for (way, (packets, bytes)) in ["original", "reply"].into_iter().zip(ways) {
            let mut labels = who(parts);
            labels.insert("way".to_owned(), way.to_owned());
            count("palisade_flow_packets_total", labels.clone(), packets);
            count("palisade_flow_bytes_total", labels, bytes);
        }
    }
    for (parts, (packets, bytes)) in rules() {
        count("palisade_rule_packets_total", who(parts), packets);
        count("palisade_rule_bytes_total", who(parts), bytes);
    }
    for (parts, flows) in staged() {
        count("palisade_staged_flows_total", who(parts), flows);
    }
    Truth(metrics)
}

fn drops() -> [(&'static [Pairs], Amount); 7] {
    [
        (&[FROM_INTRUDER, TO_DB, INGRESS, POLICY, TIER_END, TCP_5432], (5, 3 * 74 + 2 * 94)),
        (&[FROM_INTRUDER, TO_DB, INGRESS, POLICY, TIER_END, UDP_5353], (127, 120 * 58 + 7 * 78)),
        (&[FROM_INTRUDER, TO_DB, INGRESS, POLICY, DB_NO_9999, UDP_9999], (11, 11 * 58)),
        (&[FROM_WEB, TO_DB, INGRESS, POLICY, TIER_END, PING], (1, 56)),
        (&[FROM_WEB, TO_DB, INGRESS, POLICY, TIER_END, PING6], (1, 76)),
        (&[FROM_WEB, TO_DB, EGRESS, POLICY, WEB_NO_MAIL, TCP_25], (2, 74 + 94)),
        (&[FROM_INTRUDER, TO_UNKNOWN, EGRESS, SPOOFED, UDP_53], (4, 4 * 58)),
    ]
}

/// Flows and, of each way, what passed. A flow between two endpoints is there at both; one that the
/// receiver's endpoint drops has passed the sender's.
fn flows() -> [(&'static [Pairs], u32, [Amount; 2]); 11] {
    const DNS: [Amount; 2] = [(10, 7 * 58 + 3 * 78), (10, 7 * 58 + 3 * 78)];
    const NONE: Amount = (0, 0);
    const SYSLOG: [Amount; 2] = [(5, 5 * 58), NONE];
    const GAME: [Amount; 2] = [(4, 4 * 78), (4, 4 * 78)];
    [
        (&[FROM_WEB, TO_DB, EGRESS, WEB_ALL, UDP_53], 2, DNS),
        (&[FROM_WEB, TO_DB, INGRESS, DB_DNS, UDP_53], 2, DNS),
        (&[FROM_DB, TO_WEB, EGRESS, NO_POLICY, UDP_514], 1, SYSLOG),
        (&[FROM_DB, TO_WEB, INGRESS, NO_POLICY, UDP_514], 1, SYSLOG),
        (&[FROM_INTRUDER, TO_WEB, EGRESS, NO_POLICY, UDP_7777], 1, GAME),
        (&[FROM_INTRUDER, TO_WEB, INGRESS, NO_POLICY, UDP_7777], 1, GAME),
        (&[FROM_WEB, TO_DB, EGRESS, WEB_ALL, PING], 1, [(1, 56), NONE]),
        (&[FROM_WEB, TO_DB, EGRESS, WEB_ALL, PING6], 1, [(1, 76), NONE]),
        (&[FROM_INTRUDER, TO_DB, EGRESS, NO_POLICY, TCP_5432], 5, [(5, 3 * 74 + 2 * 94), NONE]),
        (&[FROM_INTRUDER, TO_DB, EGRESS, NO_POLICY, UDP_5353], 2, [(127, 120 * 58 + 7 * 78), NONE]),
        (&[FROM_INTRUDER, TO_DB, EGRESS, NO_POLICY, UDP_9999], 1, [(11, 11 * 58), NONE]),
    ]
}

/// What each rule decided, of both ways and at both ends.
fn rules() -> [(&'static [Pairs], Amount); 6] {
    const ALLOW: Pairs = &[("action", "allow")];
    const DENY: Pairs = &[("action", "deny")];
    [
        (&[DB_DNS, ENFORCED, ALLOW], (2 * 10, 2 * (7 * 58 + 3 * 78))),
        (&[WEB_ALL, ENFORCED, ALLOW], (2 * 10 + 2, 2 * (7 * 58 + 3 * 78) + 56 + 76)),
        // Syslog and the game at both ends; what the intruder sends to db at its own.
        (
            &[NO_POLICY, ALLOW],
            (
                2 * 5 + 2 * 8 + 5 + 127 + 11,
                2 * 5 * 58 + 2 * 8 * 78 + 3 * 74 + 2 * 94 + 120 * 58 + 7 * 78 + 11 * 58,
            ),
        ),
        (&[DB_NO_9999, ENFORCED, DENY], (11, 11 * 58)),
        (&[WEB_NO_MAIL, ENFORCED, DENY], (2, 74 + 94)),
        (&[TIER_END, DENY], (5 + 127 + 2, 3 * 74 + 2 * 94 + 120 * 58 + 7 * 78 + 56 + 76)),
    ]
}

/// What would become of the flows that reach db. Each packet that is denied begins a flow.
fn staged() -> [(&'static [Pairs], u32); 4] {
    const NEXT: Pairs = &[
        ("tier", "default"),
        ("policy_namespace", "shop"),
        ("kind", "StagedNetworkPolicy"),
        ("policy", "db-next"),
    ];
    const CUT: Pairs = &[("rule", "ingress[0]"), ("action", "deny"), ("enforced", "allow")];
    const OPENED: Pairs = &[("rule", "ingress[1]"), ("action", "allow"), ("enforced", "deny")];
    const STILL_DENIED: Pairs = &[("action", "deny"), ("enforced", "deny")];
    [
        (&[NEXT, CUT], 2),
        (&[NEXT, OPENED], 127),
        (&[DB_NO_9999, ENFORCED, STILL_DENIED], 11),
        (&[TIER_END, STILL_DENIED], 5 + 2),
    ]
}
