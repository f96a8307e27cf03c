//! What the dashboard of the agents' health must show.

use policy_common::abi::ABI_VERSION;

use super::{Expected, INSTANCE, Shown, each, each_of, labels, scraped};

const FAMILIES: (&str, &[&str]) = ("family", &["ipv4", "ipv6"]);
const EVENTS: (&str, &[&str]) = ("event", &["drop", "log", "staged"]);
const NOT_WRITTEN: [&str; 2] = ["too-fast", "not-written"];

pub(super) fn expected(title: &str, reference: &str, shown: &Shown<'_>) -> Option<Expected> {
    let here = || vec![labels(&[("instance", INSTANCE)])];
    let causes = |causes: &[&str]| each(("instance", &[INSTANCE]), ("cause", causes));
    let one = |low, high| Expected::Within(vec![scraped(&[])], low, high);
    Some(match (title, reference) {
        ("Agents up", "A") => shown.number(1.0),
        ("Agents down" | "Components down" | "Restarts", "A") => shown.number(0.0),
        ("Policies", "A") => shown.number(3.0),
        ("Table use", "A") => shown.ours(Expected::Some(&[], 0.0, 0.1)),
        ("Builds", "A") => {
            let abi = ABI_VERSION.to_string();
            let build = scraped(&[("version", env!("CARGO_PKG_VERSION")), ("abi", &abi)]);
            shown.ours(Expected::Exactly([(build, 1.0)].into()))
        }
        ("Components", "A") => shown.ours(Expected::Exactly(
            ["datapath", "docker", "flow-log", "history", "policy-dir", "store"]
                .map(|component| (scraped(&[("component", component)]), 1.0))
                .into(),
        )),
        // Buckets reach from 50 us to half a second, and from half a ms to half a minute.
        ("Fence delay", "A" | "B") => shown.ours(Expected::Within(here(), 0.0, 1.0)),
        ("Apply duration", "A" | "B") => shown.ours(Expected::Within(here(), 0.0, 30.0)),
        ("Policies and revision", "A") => {
            shown.ours(Expected::Exactly([(scraped(&[]), 3.0)].into()))
        }
        ("Policies and revision", "B") => shown.ours(one(1.0, 1e3)),
        ("Map fill", "A") => shown.ours(Expected::Some(&["instance", "job", "map"], 0.0, 0.1)),
        ("Connections", "A") => {
            let states = ("state", &["new", "established", "closing", "over"][..]);
            shown.ours(Expected::Within(each(FAMILIES, states), 0.0, 100.0))
        }
        ("Connections per second", "A") => {
            shown.ours(Expected::Within(each_of(FAMILIES.0, FAMILIES.1), 0.0, 100.0))
        }
        ("Connections per second", "B" | "C") => {
            shown.ours(Expected::Within(each_of(FAMILIES.0, FAMILIES.1), 0.0, 0.0))
        }
        ("Events lost", "A") => {
            let causes = ("cause", &["coalesced", "rate-limit", "ring-full"][..]);
            shown.ours(Expected::Within(each(EVENTS, causes), 0.0, 200.0))
        }
        ("Flow records lost", "A") => {
            let causes = ["unseen", "too-many", "rate-limit"];
            shown.ours(Expected::Within(each_of("cause", &causes), 0.0, 0.0))
        }
        ("Flow log" | "History records", "A") => shown.ours(Expected::Within(here(), 0.1, 1e3)),
        ("Flow log" | "History records", "B") => {
            shown.ours(Expected::Within(causes(&NOT_WRITTEN), 0.0, 0.0))
        }
        ("History size", "A") => shown.ours(one(1.0, 1e6)),
        ("History reaches back", "A") => shown.ours(one(0.0, 300.0)),
        _ => return None,
    })
}
