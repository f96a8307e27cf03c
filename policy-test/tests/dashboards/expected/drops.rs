//! What the dashboard of dropped flows must show.

use super::{Counted, Expected, PAIR, RULE, RULE_AND_ACTION, Shown, and, on_host, some, sum};

pub(super) fn expected(title: &str, reference: &str, shown: &Shown<'_>) -> Option<Expected> {
    let drops = shown.of("palisade_dropped_packets_total");
    let bytes = shown.of("palisade_dropped_bytes_total");
    let packets = |by: &[&str]| Expected::Exactly(sum(drops.iter().copied(), by));
    let only = |wanted: fn(&&Counted) -> bool| {
        Expected::Exactly(sum(drops.iter().copied().filter(wanted), &[]))
    };
    let flows = |series: &[&Counted]| {
        let by = and(&and(&PAIR, &RULE), &["protocol", "port", "direction", "reason"]);
        let sums = sum(series.iter().copied(), &by).into_iter();
        Expected::Exactly(sums.map(|(labels, value)| (on_host(labels), value)).collect())
    };
    Some(match (title, reference) {
        ("Packets dropped", "A") => packets(&[]),
        ("Bytes dropped", "A") => Expected::Exactly(sum(bytes, &[])),
        ("Dropped by default", "A") => only(|drops| drops.label("rule") == "tier-default"),
        ("Forged packets", "A") => only(|drops| drops.label("reason") == "spoofed-source"),
        ("Endpoints not enforced" | "Components down", "A") => shown.number(0.0),
        ("By rule", "A") => {
            let by_rule = drops.into_iter().filter(|drops| !drops.label("rule").is_empty());
            Expected::Exactly(sum(by_rule, &RULE))
        }
        ("By reason", "A") => packets(&["reason"]),
        ("By source workload" | "Top sources", "A") => packets(&["source_namespace", "source"]),
        ("By destination workload" | "Top destinations", "A") => {
            packets(&["destination_namespace", "destination"])
        }
        ("By port", "A") => packets(&["protocol", "port"]),
        ("By direction, in bytes", "A") => Expected::Exactly(sum(bytes, &["direction"])),
        ("Dropped flows", "A") => flows(&drops),
        ("Dropped flows", "B") => flows(&bytes),
        // Neither namespaces nor reasons are chosen here: all rules or none.
        ("Rules at work", "A") => {
            let rules = shown.truth.of("palisade_rule_packets_total");
            shown.ours(Expected::Exactly(some(sum(rules, &RULE_AND_ACTION))))
        }
        _ => return None,
    })
}
