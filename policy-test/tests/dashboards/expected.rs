//! What each panel and rule must show.
//!
//! Inputs: what was counted, and what is chosen at the head of the dashboard. Outputs: a check of
//! an answer. A panel that is not listed here is an error, so that none goes untested.

mod agent;
mod drops;
mod overview;
mod rollout;
mod rules;
mod workload;

use anyhow::{Context as _, Result, bail, ensure};
use policy_test::dashboards::{
    dashboard::Choice,
    prometheus::{Labels, Vector},
};

use crate::truth::{Counted, Truth, labels, once, sum};

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
    /// These series and no others, all values in a range: they depend on how busy the machine is.
    Within(Vec<Labels>, f64, f64),
    /// Series of these labels, at least one, all values in a range.
    Some(&'static [&'static str], f64, f64),
    /// Whatever there is: it depends on how busy the machine is.
    Anything,
}

impl Expected {
    pub(crate) fn check(&self, answer: &Vector) -> Result<()> {
        let within = |low: f64, high: f64| {
            let within = |value: &f64| (low..=high).contains(value);
            ensure!(answer.values().all(within), "expected {low} to {high}, got {answer:#?}");
            Ok(())
        };
        match self {
            Self::Exactly(expected) => {
                ensure!(answer == expected, "expected {expected:#?}, got {answer:#?}");
                Ok(())
            }
            Self::Within(series, low, high) => {
                let mut series = series.clone();
                series.sort_unstable();
                ensure!(answer.keys().eq(&series), "expected {series:#?}, got {answer:#?}");
                within(*low, *high)
            }
            Self::Some(names, low, high) => {
                let named = |series: &Labels| series.keys().eq(names.iter());
                ensure!(!answer.is_empty() && answer.keys().all(named), "{names:?}: {answer:#?}");
                within(*low, *high)
            }
            Self::Anything => Ok(()),
        }
    }

    /// Of a query of a panel.
    pub(crate) fn of(
        uid: &str,
        (title, reference): (&str, &str),
        truth: &Truth,
        choice: &Choice<'_>,
    ) -> Result<Self> {
        let shown = Shown { truth, choice };
        let expected = match uid {
            "palisade-agent" => agent::expected(title, reference, &shown),
            "palisade-drops" => drops::expected(title, reference, &shown),
            "palisade-overview" => overview::expected(title, reference, &shown),
            "palisade-rollout" => rollout::expected(title, reference, &shown),
            "palisade-workload" => workload::expected(title, reference, &shown),
            _ => bail!("{uid}: say here what it must show"),
        };
        expected.with_context(|| format!("{title} {reference}: say here what it must show"))
    }

    /// Of the expression of a rule, by its name, while all is well but for the drops.
    pub(crate) fn of_rule(name: &str, truth: &Truth) -> Result<Self> {
        rules::expected(name, truth)?.with_context(|| format!("{name}: say here what it must show"))
    }
}

/// What a dashboard shows of everything.
struct Shown<'a> {
    truth: &'a Truth,
    choice: &'a Choice<'a>,
}

impl<'a> Shown<'a> {
    /// Series of a metric whose labels are chosen by variables of their names.
    fn of(&self, metric: &str) -> Vec<&'a Counted> {
        let chosen = |series: &&Counted| {
            self.choice.iter().all(|(name, value)| {
                let values = value.trim_matches(['(', ')']).split('|');
                let actual = match *name {
                    "instance" => INSTANCE,
                    // These say who is meant, at either end.
                    "namespace" | "workload" => return true,
                    name => series.label(name),
                };
                values.into_iter().any(|value| value == actual)
            })
        };
        self.truth.of(metric).iter().filter(chosen).collect()
    }

    /// What is about agents: nothing is to be seen where one is chosen that is not there.
    fn ours(&self, expected: Expected) -> Expected {
        if self.choice.contains_key("instance") {
            return Expected::Exactly(Vector::new());
        }
        expected
    }

    /// A number without labels.
    fn number(&self, value: f64) -> Expected {
        self.ours(Expected::Exactly([(Labels::new(), value)].into()))
    }
}

/// All from whom to whom.
const PAIR: [&str; 4] = ["source_namespace", "source", "destination_namespace", "destination"];
/// A rule, as flows and drops name it.
const RULE: [&str; 4] = ["tier", "policy_namespace", "policy", "rule"];
/// A rule, as what counts for itself names it.
const RULE_AND_ACTION: [&str; 6] = ["tier", "policy_namespace", "kind", "policy", "rule", "action"];
/// The agent, as the example configuration names it.
const INSTANCE: &str = "127.0.0.1:9465";

/// With more labels.
fn and<'a>(by: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [by, more].concat()
}

/// What is not zero.
fn some(mut sums: Vector) -> Vector {
    sums.retain(|_, value| *value > 0.0);
    sums
}

/// The sum of everything, if there is anything.
fn total(sums: &Vector) -> Vector {
    let total: f64 = sums.values().sum();
    if sums.is_empty() { Vector::new() } else { [(Labels::new(), total)].into() }
}

/// Flows, those that both ends have counted once.
fn flows<'a>(series: impl IntoIterator<Item = &'a Counted>) -> Expected {
    Expected::Exactly(total(&once(series, &and(&PAIR, &["protocol", "port"]))))
}

fn on_host(mut labels: Labels) -> Labels {
    labels.insert("instance".to_owned(), INSTANCE.to_owned());
    labels
}

/// Labels of a series as it is scraped.
fn scraped(pairs: &[(&str, &str)]) -> Labels {
    let mut labels = on_host(labels(pairs));
    labels.insert("job".to_owned(), "palisade".to_owned());
    labels
}

/// Every combination of values of two labels.
fn each(first: (&str, &[&str]), second: (&str, &[&str])) -> Vec<Labels> {
    let all = first.1.iter().flat_map(|one| second.1.iter().map(move |other| (one, other)));
    all.map(|(one, other)| labels(&[(first.0, one), (second.0, other)])).collect()
}

/// One value of one label each.
fn each_of(name: &str, values: &[&str]) -> Vec<Labels> {
    values.iter().map(|value| labels(&[(name, value)])).collect()
}
