//! The dashboards, the alerts and the recorded series show what an agent really counts.
//!
//! Inputs: `examples/grafana` and `examples/prometheus`, a real agent in a lab, a real Prometheus
//! (Debian package) that scrapes it. Each query is asked; those about packets, flows and rules must give
//! exactly the series and numbers of what was sent.

mod compose;
mod expected;
mod scene;
mod schema;
mod structure;
mod truth;
mod wiring;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use policy_test::{
    dashboards::{
        dashboard::{Choice, Dashboard, Panel, Target, Values, values_in},
        prometheus::{Prometheus, RULES, Vector, check_metrics, examples, looking_back, promtool},
    },
    wait,
};
use serde::Deserialize;

use crate::{
    expected::{Expected, Window},
    scene::Scene,
    truth::{Truth, labels, sum, truth},
};

/// Between two scrapes: the test does not want to wait longer.
const INTERVAL: Duration = Duration::from_millis(200);
/// For scrapes, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
/// Time in which nothing happens, before everything: what is recorded looks back to a moment of it.
const QUIET: Duration = Duration::from_secs(2);
/// For Prometheus to read its rules again.
const RELOAD_MS: u32 = 1500;
/// Between two evaluations of rules, with room.
const EVALUATION_MS: u32 = 700;

#[derive(Deserialize)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: Option<String>,
    record: Option<String>,
    expr: String,
}

impl Rule {
    /// Empty if it is neither, which nobody expects.
    fn name(&self) -> &str {
        self.alert.as_deref().or(self.record.as_deref()).unwrap_or_default()
    }
}

fn rules() -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for file in RULES {
        let text = fs::read_to_string(examples("prometheus").join(file))?;
        let file: RuleFile = serde_yaml::from_str(&text)?;
        rules.extend(file.groups.into_iter().flat_map(|group| group.rules));
    }
    Ok(rules)
}

#[test]
fn promtool_accepts_the_examples() {
    promtool(&["check", "config", "prometheus.yml"]).unwrap();
    for file in RULES {
        promtool(&["check", "rules", "--lint=all", "--lint-fatal", file]).unwrap();
    }
}

#[test]
fn rules_give_what_they_should_when_they_should() {
    promtool(&["test", "rules", "palisade.rules.test.yml"]).unwrap();
    let text = fs::read_to_string(examples("prometheus").join("palisade.rules.test.yml")).unwrap();
    for rule in rules().unwrap() {
        let asked = if rule.alert.is_some() { "alertname" } else { "expr" };
        let tested = format!("{asked}: {}", rule.name());
        assert!(text.lines().any(|line| line.ends_with(&tested)), "{}: no test", rule.name());
    }
}

/// Whether nothing is there that is chosen.
fn nobody(choice: &Choice<'_>) -> bool {
    let other_namespace = choice.get("namespace") == Some(&"lab") && choice["workload"] == "db";
    choice.contains_key("instance") || other_namespace
}

/// What is looked at on a dashboard.
fn choices(uid: &str) -> Vec<Choice<'static>> {
    let elsewhere = ("instance", "somewhere-else:9465");
    let of = |namespace, workload| Choice::from([("namespace", namespace), ("workload", workload)]);
    match uid {
        "palisade-drops" => vec![
            Choice::new(),
            Choice::from([("source_namespace", "lab"), ("reason", "policy")]),
            Choice::from([
                ("destination_namespace", "shop"),
                ("reason", "(policy|spoofed-source)"),
            ]),
            Choice::from([elsewhere]),
        ],
        "palisade-workload" => vec![
            of("shop", "web"),
            of("shop", "db"),
            of("lab", "intruder"),
            of("lab", "db"),
            // It has no namespace.
            Choice::from([("workload", "unknown")]),
            Choice::from([elsewhere, ("workload", "web")]),
        ],
        "palisade-rollout" => vec![
            Choice::new(),
            Choice::from([("policy_namespace", "shop")]),
            Choice::from([elsewhere]),
        ],
        _ => vec![Choice::new(), Choice::from([elsewhere])],
    }
}

#[test]
fn queries_show_what_was_let_through_and_what_was_dropped() {
    let mut scene = Scene::set().unwrap();
    let prometheus = Prometheus::start(&scene.lab, INTERVAL).unwrap();
    let start = first_scrape(&prometheus).unwrap();
    thread::sleep(QUIET);
    scene.play().unwrap();
    check_metrics(&scene.agent.metrics().unwrap()).unwrap();
    let truth = truth();
    let window = window(&prometheus, start, &truth).unwrap();
    let recorded = recorded(&prometheus, start, &truth).unwrap();

    for dashboard in Dashboard::all().unwrap() {
        let mut seen = BTreeMap::<_, BTreeSet<String>>::new();
        for choice in choices(&dashboard.uid) {
            let mut nothing = true;
            for (panel, target) in dashboard.targets() {
                let of = (&*panel.title, &*target.ref_id);
                let expected = Expected::of(&dashboard.uid, of, &truth, &choice);
                let at = if target.expr.contains(":palisade_") { recorded } else { window };
                let answer = ask(&prometheus, &dashboard, target, &choice, at);
                let answer = answer
                    .and_then(|answer| expected?.check(&answer).map(|()| answer))
                    .with_context(|| format!("{} {of:?}, {choice:?}", dashboard.uid))
                    .unwrap();
                if !answer.is_empty() {
                    nothing = false;
                    let labels = answer.into_keys().flat_map(BTreeMap::into_keys);
                    seen.entry(of).or_default().extend(labels);
                }
            }
            assert_eq!(nothing, nobody(&choice), "{}: {choice:?}", dashboard.uid);
        }
        for (panel, target) in dashboard.targets() {
            let of = (&*panel.title, &*target.ref_id);
            let labels = seen.get(&of).unwrap_or_else(|| panic!("{of:?}: never an answer"));
            words_are_there(panel, target, labels);
        }
        variables_have_values(&prometheus, &dashboard, window, &truth).unwrap();
    }

    for rule in rules().unwrap() {
        let expression = looking_back(&rule.expr, window.ms);
        let answer = prometheus.query(&expression, window.end).unwrap();
        Expected::of_rule(rule.name(), &truth)
            .and_then(|expected| expected.check(&answer))
            .with_context(|| rule.name().to_owned())
            .unwrap();
    }

    alerts_fire(&prometheus, recorded).unwrap();
    scene.agent.terminate().unwrap();
    let rules = rules().unwrap();
    let down = rules.iter().find(|rule| rule.name() == "PalisadeAgentDown").unwrap();
    wait::until("the alert of an agent that is down", LIMIT, || {
        prometheus
            .now()
            .and_then(|now| prometheus.query(&down.expr, now))
            .is_ok_and(|answer| answer.len() == 1)
    })
    .unwrap();
}

/// Prometheus itself raises those that are due at once, and no others.
fn alerts_fire(prometheus: &Prometheus, recorded: Window) -> Result<()> {
    let firing =
        "count by (alertname) (ALERTS{alertstate=\"firing\", alertname!=\"PalisadeFenceSlow\"})";
    let due = ["PalisadeDropsByDefault", "PalisadeForgedPackets"];
    let due: Vector = due.map(|name| (labels(&[("alertname", name)]), 1.0)).into();
    let alerts = prometheus.query(firing, recorded.end)?;
    ensure!(alerts == due, "{alerts:#?} for {due:#?}");
    Ok(())
}

/// Labels that a legend and a table's columns speak of are in answers; a table names all of them.
fn words_are_there(panel: &Panel, target: &Target, labels: &BTreeSet<String>) {
    let legend = target.legend_format.split("{{").skip(1);
    for (name, _) in legend.filter_map(|rest| rest.split_once("}}")) {
        assert!(labels.contains(name), "{}: no series has {name}: {labels:?}", panel.title);
    }
    if panel.r#type == "table" {
        let columns = panel.columns().into_keys().filter(|name| !name.starts_with("Value"));
        let shown = labels.iter().map(String::as_str).filter(|name| *name != "job");
        assert!(columns.eq(shown), "{}: {:?} for {labels:?}", panel.title, panel.columns());
    }
}

/// Each variable offers what there is, and nothing else.
fn variables_have_values(
    prometheus: &Prometheus,
    dashboard: &Dashboard,
    window: Window,
    truth: &Truth,
) -> Result<()> {
    for variable in &dashboard.variables()[1..] {
        let all = Choice::new();
        let (labels, values) = match variable.values()? {
            Values::OfLabel { label, selector } => {
                let selector = dashboard.fill_in(selector, &all, window.ms)?;
                (vec![label.to_owned()], prometheus.label_values(label, &selector)?)
            }
            Values::OfAnswer { labels, expression } => {
                let expression = dashboard.fill_in(expression, &all, window.ms)?;
                let answer = prometheus.query(&expression, window.end)?;
                let values = values_in(&answer, &labels);
                (labels, values)
            }
        };
        let metrics: &[&str] = match &*dashboard.uid {
            "palisade-rollout" => &["palisade_rule_packets_total", "palisade_staged_flows_total"],
            "palisade-workload" => &["palisade_flows_total", "palisade_dropped_packets_total"],
            _ => &["palisade_dropped_packets_total"],
        };
        let series = metrics.iter().flat_map(|metric| truth.of(metric));
        let expected: BTreeSet<_> = if variable.name == "instance" {
            ["127.0.0.1:9465"].into()
        } else {
            let values = series.flat_map(|it| labels.iter().map(|label| it.label(label)));
            values.filter(|value| !value.is_empty()).collect()
        };
        let values: BTreeSet<_> = values.iter().map(String::as_str).collect();
        ensure!(values == expected, "{}: {values:?} for {expected:?}", variable.name);
    }
    Ok(())
}

/// Waits until Prometheus has scraped the agent twice; gives a time between the two, in ms since
/// 1970. What happens from now on is a change to a rate that starts then.
fn first_scrape(prometheus: &Prometheus) -> Result<f64> {
    let scraped_since = |start: Option<f64>| {
        wait::for_some("a scrape", LIMIT, || {
            let now = prometheus.now().ok()?;
            let ms = Window::between(start.unwrap_or(now - 60_000.0), now)?.ms;
            let up = format!("count_over_time(up{{job=\"palisade\"}}[{ms}ms]) > 0");
            let seen = prometheus.query(&up, now).ok()?;
            (!seen.is_empty()).then_some(now)
        })
    };
    let start = scraped_since(None)?;
    scraped_since(Some(start))?;
    Ok(start)
}

/// Waits until Prometheus has everything that was counted, series by series, the delays of the last fence and
/// what was written, and gives the time since `start`.
fn window(prometheus: &Prometheus, start: f64, truth: &Truth) -> Result<Window> {
    let mut missing = String::new();
    let outcome = wait::for_some("what was counted, in Prometheus", LIMIT, || {
        let end = prometheus.now().ok()?;
        let window = Window::between(start, end)?;
        for (metric, series) in truth.metrics() {
            let since = format!("{metric} - {metric} offset {}ms or {metric}", window.ms);
            let mut answer = prometheus.query(&format!("({since}) > 0"), end).ok()?;
            answer = answer
                .into_iter()
                .map(|(mut labels, value)| {
                    labels.retain(|name, _| name != "instance" && name != "job");
                    (labels, value)
                })
                .collect();
            let mut expected = sum(series, &LABELS);
            expected.retain(|_, value| *value > 0.0);
            if answer != expected {
                missing = difference(metric, &answer, &expected);
                return None;
            }
        }
        // The history is written in blocks, some seconds after their first record.
        let others = [
            "fence_delay_seconds_count",
            "apply_duration_seconds_count",
            "flow_log_records_total",
            "history_records_total",
        ];
        let moved = others.into_iter().all(|name| {
            let rate = format!("rate(palisade_{name}[{}ms]) > 0", window.ms);
            prometheus.query(&rate, end).is_ok_and(|rates| !rates.is_empty())
        });
        "delays, or records on disk".clone_into(&mut missing);
        moved.then_some(window)
    });
    outcome.with_context(|| missing)
}

/// All labels that what is counted may have.
const LABELS: [&str; 16] = [
    "action",
    "destination",
    "destination_namespace",
    "direction",
    "enforced",
    "kind",
    "policy",
    "policy_namespace",
    "port",
    "protocol",
    "reason",
    "rule",
    "source",
    "source_namespace",
    "tier",
    "way",
];

fn difference(metric: &str, answer: &Vector, expected: &Vector) -> String {
    let not_in = |these: &Vector, those: &Vector| {
        let others = these.iter().filter(|&(labels, value)| those.get(labels) != Some(value));
        others.map(|(labels, value)| format!("\n  {value} {labels:?}")).collect::<String>()
    };
    let (more, less) = (not_in(answer, expected), not_in(expected, answer));
    format!("{metric}: there is{more}\nand should be{less}")
}

/// Lets Prometheus record over a time that has everything in it, and gives when it has.
fn recorded(prometheus: &Prometheus, start: f64, truth: &Truth) -> Result<Window> {
    let flows = sum(truth.of("palisade_flows_total"), &["direction"]);
    let mut last = Vector::new();
    for _ in 0..5 {
        // Between these two, rules look back to the quiet time.
        let read = prometheus.now()? + f64::from(RELOAD_MS);
        let ms = Window::between(start, read).context("too late")?.ms;
        prometheus.look_back(ms)?;
        let end = read + f64::from(EVALUATION_MS);
        wait::until("rules to be evaluated", LIMIT, || {
            prometheus.now().is_ok_and(|now| now > end + f64::from(EVALUATION_MS))
        })?;
        let name = "instance_direction:palisade_flows:increase5m";
        last = prometheus.query(&format!("sum by (direction) ({name})"), end)?;
        if last == flows {
            return Ok(Window { end, ms });
        }
    }
    anyhow::bail!("recorded: {last:#?} for {flows:#?}")
}

/// The answer to a dashboard's query. Bars are added up over steps of which the last is the whole
/// window, and asked for in finer steps, too: those must add up to the same.
fn ask(
    prometheus: &Prometheus,
    dashboard: &Dashboard,
    Target { expr: expression, range, .. }: &Target,
    choice: &Choice<'_>,
    window: Window,
) -> Result<Vector> {
    let filled = dashboard.fill_in(expression, choice, window.ms)?;
    let answer = prometheus.query(&filled, window.end)?;
    if *range && expression.contains("offset $__interval") {
        let step = window.ms.div_ceil(7);
        let fine = dashboard.fill_in(expression, choice, step)?;
        let end = window.start() + 7.0 * f64::from(step);
        let first = window.start() + f64::from(step);
        let lines = prometheus.query_range(&fine, (first, end), step)?;
        let sums = lines.into_iter().map(|(labels, points)| {
            (labels, points.into_iter().map(|(_, value)| value).sum::<f64>())
        });
        let sums: Vector = sums.collect();
        ensure!(sums == answer, "{fine} adds up to {sums:#?}, {filled} is {answer:#?}");
    }
    Ok(answer)
}
