//! What each panel and alert must show.
//!
//! Inputs: the drops made, and what is chosen at the head of the dashboard. Outputs: a check of
//! an answer. A panel that is not listed here is an error, so that none goes untested.

use anyhow::{Result, bail, ensure};

use crate::{
    dashboard::Choice,
    prometheus::{Labels, Vector},
    scene::{Drops, Measure, sum},
};

/// From the first scrape to when everything was there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Its end, ms since 1970.
    pub(crate) end: f64,
    /// Its length.
    pub(crate) ms: u32,
}

impl Window {
    /// `None` if that is no window of less than some minutes.
    pub(crate) fn between(start: f64, end: f64) -> Option<Self> {
        (1..300_000).find(|&ms| start + f64::from(ms) >= end).map(|ms| Self { end, ms })
    }

    /// Its start, ms since 1970.
    pub(crate) fn start(self) -> f64 {
        self.end - f64::from(self.ms)
    }
}

/// What an answer must be.
#[derive(Debug)]
pub(crate) enum Expected {
    /// These series with these values, and no others.
    Exactly(Vector),
    /// These among others.
    Among(Vector),
    /// At least one series, and all values in a range.
    Within(f64, f64),
    /// Whatever there is: it depends on how busy the machine is.
    Anything,
}

impl Expected {
    pub(crate) fn check(&self, answer: &Vector) -> Result<()> {
        match self {
            Self::Exactly(expected) => {
                ensure!(answer == expected, "expected {expected:#?}, got {answer:#?}");
            }
            Self::Among(expected) => {
                for (labels, value) in expected {
                    let actual = answer.get(labels);
                    ensure!(actual == Some(value), "{labels:?}: {value} not in {answer:#?}");
                }
            }
            Self::Within(low, high) => {
                let within = |value: &f64| (*low..=*high).contains(value);
                let fine = !answer.is_empty() && answer.values().all(within);
                ensure!(fine, "expected {low} to {high}, got {answer:#?}");
            }
            Self::Anything => {}
        }
        Ok(())
    }

    /// Of a query of a panel.
    pub(crate) fn of(
        title: &str,
        reference: &str,
        drops: &[Drops],
        choice: &Choice<'_>,
    ) -> Result<Self> {
        let shown: Vec<_> = drops.iter().filter(|drops| chosen(drops, choice)).collect();
        let packets = |by: &[&str]| Self::Exactly(sum(shown.iter().copied(), by, Measure::Packets));
        let only = |measure, wanted: fn(&&Drops) -> bool| {
            Self::Exactly(sum(shown.iter().copied().filter(wanted), &[], measure))
        };
        // None is chosen that exists: what is about agents is empty then.
        let here = !choice.contains_key("instance");
        let ours = |expected| if here { expected } else { Self::Exactly(Vector::new()) };
        Ok(match (title, reference) {
            ("Packets dropped", "A") => packets(&[]),
            ("Bytes dropped", "A") => only(Measure::Bytes, |_| true),
            ("Dropped by default", "A") => {
                only(Measure::Packets, |drops| drops.label("rule") == "tier-default")
            }
            ("Forged packets", "A") => {
                only(Measure::Packets, |drops| drops.label("reason") == "spoofed-source")
            }
            ("Endpoints not enforced" | "Components down", "A") => {
                ours(Self::Exactly([(Labels::new(), 0.0)].into()))
            }
            ("By rule", "A") => Self::Exactly(sum(
                shown.iter().copied().filter(|drops| !drops.label("rule").is_empty()),
                &["tier", "policy_namespace", "policy", "rule"],
                Measure::Packets,
            )),
            ("By reason", "A") => packets(&["reason"]),
            ("By source workload" | "Top sources", "A") => packets(&["source_namespace", "source"]),
            ("By destination workload" | "Top destinations", "A") => {
                packets(&["destination_namespace", "destination"])
            }
            ("By port", "A") => packets(&["protocol", "port"]),
            ("By direction, in bytes", "A") => {
                Self::Exactly(sum(shown.iter().copied(), &["direction"], Measure::Bytes))
            }
            ("Dropped flows", "A") => Self::Exactly(flows(&shown, Measure::Packets)),
            ("Dropped flows", "B") => Self::Exactly(flows(&shown, Measure::Bytes)),
            ("Rules at work", "A") => ours(Self::Among(rules())),
            ("Endpoints by state", "A") => ours(Self::Exactly(
                [("enforcing", 4.0), ("pending", 0.0), ("unsupported", 0.0), ("elsewhere", 0.0)]
                    .map(|(state, count)| (labels(&[("state", state)]), count))
                    .into(),
            )),
            // Buckets reach from 50 us to half a second, and from half a ms to half a minute.
            ("Fence delay", "A" | "B") => ours(Self::Within(0.0, 1.0)),
            ("Apply duration", "A" | "B") => ours(Self::Within(0.0, 30.0)),
            ("Map fill", "A") => ours(Self::Within(0.0, 0.1)),
            // Within the limit of events, so only same drops in quick succession are told once.
            ("Drops without an event", "A") => ours(Self::Within(0.0, 1e6)),
            ("Policies and revision", "A") => ours(Self::Exactly([(agent(&[]), 2.0)].into())),
            ("Policies and revision", "B") => ours(Self::Within(1.0, 1e3)),
            ("Components", "A") => ours(Self::Exactly(
                ["datapath", "docker", "policy-dir", "store"]
                    .map(|component| (agent(&[("component", component)]), 1.0))
                    .into(),
            )),
            _ => bail!("{title} {reference}: say here what it must show"),
        })
    }

    /// Of an alert's expression, while all is well but for the drops.
    pub(crate) fn of_alert(alert: &str, drops: &[Drops]) -> Result<Self> {
        let by = |fields: &[&str], wanted: fn(&&Drops) -> bool| {
            let sums = sum(drops.iter().filter(wanted), fields, Measure::Packets);
            sums.into_iter().map(|(labels, value)| (on_host(labels), value)).collect::<Vector>()
        };
        Ok(match alert {
            "PalisadeDropsByDefault" => {
                let mut all = by(
                    &[
                        "source_namespace",
                        "source",
                        "destination_namespace",
                        "destination",
                        "protocol",
                        "port",
                    ],
                    |drops| drops.label("rule") == "tier-default",
                );
                all.retain(|_, packets| *packets > 100.0);
                ensure!(all.len() == 1, "one flow is made to be above the threshold: {all:?}");
                Self::Exactly(all)
            }
            "PalisadeForgedPackets" => Self::Exactly(by(
                &["source_namespace", "source", "destination_namespace", "destination", "reason"],
                |drops| drops.label("reason") == "spoofed-source",
            )),
            "PalisadeDatapathFault"
            | "PalisadeAgentDown"
            | "PalisadeAgentMissing"
            | "PalisadeComponentDown"
            | "PalisadeEndpointsNotEnforced"
            | "PalisadeMapNearlyFull" => Self::Exactly(Vector::new()),
            "PalisadeFenceSlow" => Self::Anything,
            _ => bail!("{alert}: say here what it must show"),
        })
    }
}

/// Whether the choice lets a drop be shown.
fn chosen(drops: &Drops, choice: &Choice<'_>) -> bool {
    choice.iter().all(|(name, value)| {
        let values = value.trim_matches(['(', ')']).split('|');
        let actual = if *name == "instance" { INSTANCE } else { drops.label(name) };
        values.into_iter().any(|value| value == actual)
    })
}

/// The agent, as the example configuration names it.
const INSTANCE: &str = "127.0.0.1:9465";

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn on_host(mut labels: Labels) -> Labels {
    labels.insert("instance".to_owned(), INSTANCE.to_owned());
    labels
}

/// Labels of a series as it is scraped.
fn agent(pairs: &[(&str, &str)]) -> Labels {
    let mut labels = on_host(labels(pairs));
    labels.insert("job".to_owned(), "palisade".to_owned());
    labels
}

fn flows(shown: &[&Drops], measure: Measure) -> Vector {
    let by = [
        "source_namespace",
        "source",
        "destination_namespace",
        "destination",
        "protocol",
        "port",
        "direction",
        "reason",
        "tier",
        "policy_namespace",
        "policy",
        "rule",
    ];
    let sums = sum(shown.iter().copied(), &by, measure);
    sums.into_iter().map(|(labels, value)| (on_host(labels), value)).collect()
}

/// Rules that denied; what they are called is the kernel's counters' and not the drops' matter.
fn rules() -> Vector {
    let rule = |name, rule| {
        [
            ("tier", "default"),
            ("policy_namespace", "shop"),
            ("kind", "NetworkPolicy"),
            ("policy", name),
            ("rule", rule),
            ("action", "deny"),
        ]
    };
    [
        (labels(&rule("db-from-web", "ingress[1]")), 11.0),
        (labels(&rule("web-no-mail", "egress[0]")), 2.0),
        (labels(&[("tier", "default"), ("rule", "tier-default"), ("action", "deny")]), 134.0),
    ]
    .into()
}
