//! What the dashboard of one workload must show.

use super::{Counted, Expected, RULE, Shown, and, flows, once, some, sum};

pub(super) fn expected(title: &str, reference: &str, shown: &Shown<'_>) -> Option<Expected> {
    let chosen = |name| shown.choice.get(name).copied();
    let end = |metric, end: &str| {
        let namespace = format!("{end}_namespace");
        let mut series = shown.of(metric);
        series.retain(|it| {
            chosen("workload") == Some(it.label(end))
                && chosen("namespace").is_none_or(|chosen| chosen == it.label(&namespace))
        });
        series
    };
    let way = |series: Vec<_>, way: &str| {
        series.into_iter().filter(move |it: &&Counted| it.label("way") == way).collect::<Vec<_>>()
    };
    let (begun, passed, dropped) =
        ("palisade_flows_total", "palisade_flow_bytes_total", "palisade_dropped_packets_total");
    let services = ["protocol", "port"];
    let to = and(&["destination_namespace", "destination"], &services);
    let from = and(&["source_namespace", "source"], &services);
    let reasons = and(&RULE, &["reason"]);
    let decided = and(&reasons, &["direction"]);
    Some(Expected::Exactly(match (title, reference) {
        ("Flows to others", "A") => return Some(flows(end(begun, "source"))),
        ("Flows from others", "A") => return Some(flows(end(begun, "destination"))),
        ("Packets dropped from it", "A") => sum(end(dropped, "source"), &[]),
        ("Packets dropped to it", "A") => sum(end(dropped, "destination"), &[]),
        ("Traffic of its own flows", "A") => {
            some(sum(end(passed, "source"), &["direction", "way"]))
        }
        ("Traffic of others' flows", "A") => {
            some(sum(end(passed, "destination"), &["direction", "way"]))
        }
        ("Dropped from it, by rule", "A") => sum(end(dropped, "source"), &reasons),
        ("Dropped to it, by rule", "A") => sum(end(dropped, "destination"), &reasons),
        ("It talks to", "A") => once(end(begun, "source"), &to),
        ("It talks to", "B") => once(way(end(passed, "source"), "original"), &to),
        ("It talks to", "C") => once(way(end(passed, "source"), "reply"), &to),
        ("Who talks to it", "A") => once(end(begun, "destination"), &from),
        ("Who talks to it", "B") => once(way(end(passed, "destination"), "original"), &from),
        ("Who talks to it", "C") => once(way(end(passed, "destination"), "reply"), &from),
        ("Rules that let it through", "A") => {
            let own = [("source", "egress"), ("destination", "ingress")];
            let own = own.into_iter().flat_map(|(which, direction)| {
                end(begun, which).into_iter().filter(move |it| it.label("direction") == direction)
            });
            sum(own, &and(&RULE, &["direction"]))
        }
        ("Dropped from it", "A") => sum(end(dropped, "source"), &and(&decided, &to)),
        ("Dropped to it", "A") => sum(end(dropped, "destination"), &and(&decided, &from)),
        _ => return None,
    }))
}
