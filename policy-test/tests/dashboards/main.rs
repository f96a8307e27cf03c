//! The dashboard and the alerts show what an agent really drops.
//!
//! Inputs: `examples/grafana` and `examples/prometheus`, a real agent in a lab, a real Prometheus
//! (Debian package) that scrapes it. Each query is asked; those about drops must give exactly the
//! series and numbers of the packets sent.

mod dashboard;
mod expected;
mod prometheus;
mod scene;

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use policy_test::wait;
use serde::Deserialize;

use crate::{
    dashboard::{Choice, Dashboard},
    expected::{Expected, Window},
    prometheus::{Prometheus, Vector, examples, promtool},
    scene::{Drops, Measure, Scene, sum},
};

/// For scrapes, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
/// What the alerts look back, in the file.
const LOOK_BACK: &str = "5m";

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
    alert: String,
    expr: String,
}

fn rules() -> Result<Vec<Rule>> {
    let text = fs::read_to_string(examples("prometheus").join("palisade.rules.yml"))?;
    let file: RuleFile = serde_yaml::from_str(&text)?;
    Ok(file.groups.into_iter().flat_map(|group| group.rules).collect())
}

#[test]
fn panels_have_ids_places_and_words_of_their_own() {
    let dashboard = Dashboard::read().unwrap();
    assert_eq!(dashboard.uid, "palisade-drops");
    assert!(!dashboard.title.is_empty() && !dashboard.description.is_empty());
    assert!(dashboard.schema_version >= 39, "{}", dashboard.schema_version);

    let panels = &dashboard.panels;
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel.id).collect();
    let titles: BTreeSet<_> = panels.iter().map(|panel| &panel.title).collect();
    assert_eq!((ids.len(), titles.len()), (panels.len(), panels.len()));
    for (index, panel) in panels.iter().enumerate() {
        let place = &panel.grid_pos;
        assert!(place.w > 0 && place.h > 0 && place.x + place.w <= 24, "{}", panel.title);
        for other in &panels[index + 1..] {
            assert!(!place.overlaps(&other.grid_pos), "{} and {}", panel.title, other.title);
        }
    }
    for panel in dashboard.charts() {
        let title = &panel.title;
        assert!(panel.description.ends_with('.'), "{title}: a description is whole sentences");
        let unit = &panel.field_config["defaults"]["unit"];
        assert!(unit.as_str().is_some_and(|unit| !unit.is_empty()), "{title}: no unit");
        assert!(!panel.targets.is_empty(), "{title}: no query");
        let references: BTreeSet<_> = panel.targets.iter().map(|target| &target.ref_id).collect();
        assert_eq!(references.len(), panel.targets.len(), "{title}: two queries of one name");
        for target in &panel.targets {
            assert!(!target.expr.is_empty() && target.instant != target.range, "{title}");
        }
    }
}

#[test]
fn everything_asks_the_datasource_that_is_chosen() {
    let dashboard = Dashboard::read().unwrap();
    let chosen = serde_json::json!({"type": "prometheus", "uid": "${datasource}"});
    for panel in dashboard.charts() {
        assert_eq!(panel.datasource.as_ref(), Some(&chosen), "{}", panel.title);
        for target in &panel.targets {
            assert_eq!(target.datasource, chosen, "{} {}", panel.title, target.ref_id);
        }
    }
    let variables = dashboard.variables();
    assert_eq!((&*variables[0].name, &*variables[0].r#type), ("datasource", "datasource"));
    for variable in &variables[1..] {
        assert_eq!(variable.datasource.as_ref(), Some(&chosen), "{}", variable.name);
        assert_eq!(variable.r#type, "query", "{}", variable.name);
        let used = dashboard
            .charts()
            .flat_map(|panel| &panel.targets)
            .any(|target| target.expr.contains(&format!("${}\"", variable.name)));
        assert!(used, "{}: no query uses it", variable.name);
    }
    for variable in variables {
        assert!(!variable.label.is_empty(), "{}: no label", variable.name);
        assert!(!variable.description.is_empty(), "{}: no description", variable.name);
    }
}

#[test]
fn promtool_accepts_the_examples() {
    promtool(&["check", "config", "prometheus.yml"]).unwrap();
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", "palisade.rules.yml"]).unwrap();
}

#[test]
fn alerts_fire_when_they_should() {
    promtool(&["test", "rules", "palisade.rules.test.yml"]).unwrap();
    let text = fs::read_to_string(examples("prometheus").join("palisade.rules.test.yml")).unwrap();
    for rule in rules().unwrap() {
        let tested = format!("alertname: {}", rule.alert);
        assert!(text.lines().any(|line| line.ends_with(&tested)), "{}: no test", rule.alert);
    }
}

#[test]
fn queries_show_the_drops_that_were_made() {
    let mut scene = Scene::set().unwrap();
    let prometheus = Prometheus::start(&scene.lab).unwrap();
    let dashboard = Dashboard::read().unwrap();
    let start = first_scrape(&prometheus).unwrap();
    let drops = scene.play().unwrap();
    let window = window(&prometheus, start, &drops).unwrap();

    let choices = [
        Choice::new(),
        Choice::from([("source_namespace", "lab"), ("reason", "policy")]),
        Choice::from([("destination_namespace", "shop"), ("reason", "(policy|spoofed-source)")]),
        Choice::from([("instance", "somewhere-else:9465")]),
    ];
    for choice in &choices {
        for panel in dashboard.charts() {
            for target in &panel.targets {
                let expected = Expected::of(&panel.title, &target.ref_id, &drops, choice);
                ask(&prometheus, &dashboard, &target.expr, choice, window, target.range)
                    .and_then(|answer| expected.context("an unknown panel")?.check(&answer))
                    .with_context(|| {
                        format!("panel {:?} {}, {choice:?}", panel.title, target.ref_id)
                    })
                    .unwrap();
            }
        }
    }

    for variable in &dashboard.variables()[1..] {
        let (label, selector) = variable.label_values().unwrap();
        let selector = dashboard.fill_in(selector, &Choice::new(), window.ms).unwrap();
        let values = prometheus.label_values(label, &selector).unwrap();
        let expected: BTreeSet<_> = match label {
            "instance" => ["127.0.0.1:9465"].into(),
            _ => drops.iter().map(|d| d.label(label)).filter(|value| !value.is_empty()).collect(),
        };
        assert_eq!(values.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected, "{label}");
    }

    for rule in rules().unwrap() {
        let expression = rule.expr.replace(LOOK_BACK, &format!("{}ms", window.ms));
        let answer = prometheus.query(&expression, window.end).unwrap();
        Expected::of_alert(&rule.alert, &drops)
            .and_then(|expected| expected.check(&answer))
            .with_context(|| rule.alert.clone())
            .unwrap();
    }

    scene.agent.terminate().unwrap();
    let rules = rules().unwrap();
    let down = rules.iter().find(|rule| rule.alert == "PalisadeAgentDown").unwrap();
    wait::until("the alert of an agent that is down", LIMIT, || {
        prometheus
            .now()
            .and_then(|now| prometheus.query(&down.expr, now))
            .is_ok_and(|answer| answer.len() == 1)
    })
    .unwrap();
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

/// Waits until Prometheus has all drops and the delays of the last fence, and gives the time since
/// `start`.
fn window(prometheus: &Prometheus, start: f64, drops: &[Drops]) -> Result<Window> {
    let by = ["source", "destination", "protocol", "port"];
    let expected = sum(drops, &by, Measure::Packets);
    let mut last = Vector::new();
    let outcome = wait::for_some("the drops in Prometheus", LIMIT, || {
        let end = prometheus.now().ok()?;
        let window = Window::between(start, end)?;
        let total = "palisade_dropped_packets_total";
        let dropped = format!("{total} - {total} offset {}ms or {total}", window.ms);
        last = prometheus.query(&format!("sum by ({}) ({dropped})", by.join(", ")), end).ok()?;
        let measured = ["fence_delay", "apply_duration"].into_iter().all(|delay| {
            let rate = format!("rate(palisade_{delay}_seconds_count[{}ms]) > 0", window.ms);
            prometheus.query(&rate, end).is_ok_and(|rates| !rates.is_empty())
        });
        let complete = expected.iter().all(|(labels, value)| last.get(labels) == Some(value));
        (complete && measured).then_some(window)
    });
    outcome.with_context(|| format!("they were {last:#?}"))
}

/// The answer to a dashboard's query. Bars are added up over steps of which the last is the whole
/// window, and asked for in finer steps, too: those must add up to the same.
fn ask(
    prometheus: &Prometheus,
    dashboard: &Dashboard,
    expression: &str,
    choice: &Choice<'_>,
    window: Window,
    range: bool,
) -> Result<Vector> {
    let filled = dashboard.fill_in(expression, choice, window.ms)?;
    let answer = prometheus.query(&filled, window.end)?;
    if range && expression.contains("offset $__interval") {
        let step = window.ms.div_ceil(7);
        let fine = dashboard.fill_in(expression, choice, step)?;
        let end = window.start() + 7.0 * f64::from(step);
        let first = window.start() + f64::from(step);
        let sums = prometheus.sum_of_steps(&fine, (first, end), step)?;
        ensure!(sums == answer, "{fine} adds up to {sums:#?}, {filled} is {answer:#?}");
    }
    Ok(answer)
}
