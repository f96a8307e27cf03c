//! What the overview must show.

use policy_test::dashboards::prometheus::Vector;

use super::{Expected, PAIR, Shown, each_of, flows, labels, once, some, sum};

/// What rates are counted over, in seconds.
const LOOK_BACK: f64 = 300.0;

pub(super) fn expected(title: &str, reference: &str, shown: &Shown<'_>) -> Option<Expected> {
    let rate = |metric, by: &[&str]| {
        let sums: Vector = sum(shown.of(metric), by);
        Expected::Exactly(sums.into_iter().map(|(labels, sum)| (labels, sum / LOOK_BACK)).collect())
    };
    Some(match (title, reference) {
        ("Hosts", "A") => shown.number(1.0),
        ("Endpoints enforced", "A") => shown.number(4.0),
        ("Endpoints not enforced" | "Components down", "A") => shown.number(0.0),
        ("Flows let through", "A") => flows(shown.of("palisade_flows_total")),
        ("Packets dropped", "A") => {
            Expected::Exactly(sum(shown.of("palisade_dropped_packets_total"), &[]))
        }
        // Within the limit of events, so only same drops in quick succession are told once.
        ("Events lost", "A") => shown.ours(Expected::Some(&[], 1.0, 200.0)),
        ("Flows per second", "A") => rate("palisade_flows_total", &["direction"]),
        ("Bytes per second", "A") => rate("palisade_flow_bytes_total", &["direction", "way"]),
        ("Drops per second, by reason", "A") => rate("palisade_dropped_packets_total", &["reason"]),
        ("Endpoints by state", "A") => shown.ours(Expected::Exactly(
            each_of("state", &["enforcing", "pending", "unsupported", "elsewhere"])
                .into_iter()
                .map(|state| {
                    let count = if state == labels(&[("state", "enforcing")]) { 4.0 } else { 0.0 };
                    (state, count)
                })
                .collect(),
        )),
        ("Top talkers", "A") => {
            Expected::Exactly(some(once(shown.of("palisade_flow_bytes_total"), &PAIR)))
        }
        ("Top talkers", "B") => Expected::Exactly(once(shown.of("palisade_flows_total"), &PAIR)),
        ("Top dropped pairs", "A") => {
            Expected::Exactly(sum(shown.of("palisade_dropped_packets_total"), &PAIR))
        }
        _ => return None,
    })
}
