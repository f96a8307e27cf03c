//! What alerts and recording rules must find, while all is well but for the drops.

use anyhow::{Result, ensure};
use policy_test::dashboards::prometheus::Labels;

use super::{Counted, Expected, PAIR, Truth, Vector, and, each_of, on_host, sum};

pub(super) fn expected(name: &str, truth: &Truth) -> Result<Option<Expected>> {
    let drops = truth.of("palisade_dropped_packets_total");
    let by = |fields: &[&str], wanted: fn(&&Counted) -> bool| {
        let sums = sum(drops.iter().filter(wanted), fields).into_iter();
        sums.map(|(labels, value)| (on_host(labels), value)).collect::<Vector>()
    };
    let recorded = |metric, by: &[&str]| {
        let sums = sum(truth.of(metric), by).into_iter();
        Expected::Exactly(sums.map(|(labels, value)| (scraped(labels), value)).collect())
    };
    Ok(Some(match name {
        "PalisadeDropsByDefault" => {
            let flow = and(&PAIR, &["protocol", "port"]);
            let mut all = by(&flow, |drops| drops.label("rule") == "tier-default");
            all.retain(|_, packets| *packets > 100.0);
            ensure!(all.len() == 1, "one flow is made to be above the threshold: {all:?}");
            Expected::Exactly(all)
        }
        "PalisadeForgedPackets" => Expected::Exactly(by(&and(&PAIR, &["reason"]), |drops| {
            drops.label("reason") == "spoofed-source"
        })),
        "PalisadeDatapathFault"
        | "PalisadeAgentDown"
        | "PalisadeAgentMissing"
        | "PalisadeComponentDown"
        | "PalisadeEndpointsNotEnforced"
        | "PalisadeMapNearlyFull"
        | "PalisadeConntrackNearlyFull"
        | "PalisadeFlowRecordsLost"
        | "PalisadeHistoryLosing" => Expected::Exactly(Vector::new()),
        "PalisadeFenceSlow" => Expected::Anything,
        "instance_direction:palisade_flows:increase5m" => {
            recorded("palisade_flows_total", &["direction"])
        }
        "instance_direction_way:palisade_flow_bytes:increase5m" => {
            recorded("palisade_flow_bytes_total", &["direction", "way"])
        }
        "instance_reason:palisade_dropped_packets:increase5m" => {
            recorded("palisade_dropped_packets_total", &["reason"])
        }
        "instance_family:palisade_conntrack_used:ratio" => {
            let families = each_of("family", &["ipv4", "ipv6"]);
            Expected::Within(families.into_iter().map(scraped).collect(), 0.0, 0.1)
        }
        _ => return Ok(None),
    }))
}

fn scraped(labels: Labels) -> Labels {
    let mut labels = on_host(labels);
    labels.insert("job".to_owned(), "palisade".to_owned());
    labels
}
