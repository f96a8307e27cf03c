//! What Prometheus answers to the queries of a panel, ready to be drawn.
//!
//! Inputs: a panel of a dashboard, what is chosen, a time range. Outputs: curves, a table or a number. Queries are
//! those of the dashboard; only their times are made shorter, as those of the rules are.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    dashboards::{
        dashboard::{Choice, Dashboard, Panel, Target},
        prometheus::{Labels, Points, Prometheus, looking_back},
    },
    pictures::{CLOCK, LOOK_BACK_MS, units},
};

/// Seconds of the time over which the recording rules add up, as the dashboards divide by it.
const DIVIDED: u32 = 300;

/// What one panel shows.
pub(super) struct Picture {
    pub(super) title: String,
    pub(super) content: Content,
}

pub(super) enum Content {
    Curves(Curves),
    Table(Table),
    Figure(Figure),
}

/// Series over time.
pub(super) struct Curves {
    pub(super) unit: String,
    /// Bars upon each other, each with the sum of a step.
    pub(super) stacked: bool,
    /// Whether there are no values between whole ones.
    pub(super) whole: bool,
    /// In seconds.
    pub(super) length: f64,
    pub(super) step: f64,
    pub(super) series: Vec<Series>,
    /// Titles of the figures that a series has in the legend.
    pub(super) calculated: Vec<String>,
}

pub(super) struct Series {
    pub(super) name: String,
    /// Seconds since the start, and values.
    pub(super) points: Vec<(f64, f64)>,
    pub(super) calculated: Vec<String>,
}

/// Rows in the panel's order.
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
}

pub(super) struct Column {
    pub(super) title: String,
    /// Whether it has values, not labels.
    pub(super) numeric: bool,
}

pub(super) struct Row {
    pub(super) cells: Vec<String>,
    /// What the rows are ordered by.
    pub(super) weight: f64,
}

/// One number.
pub(super) struct Figure {
    pub(super) text: String,
    /// As the thresholds name it.
    pub(super) colour: String,
}

/// Who asks, and for which time.
pub(super) struct Asker<'a> {
    pub(super) prometheus: &'a Prometheus,
    pub(super) dashboard: &'a Dashboard,
    pub(super) choice: Choice<'a>,
    /// In ms since 1970.
    pub(super) start: f64,
    pub(super) length_ms: u32,
}

impl Asker<'_> {
    pub(super) fn picture(&self, title: &str) -> Result<Picture> {
        let mut charts = self.dashboard.charts();
        let panel = charts.find(|panel| panel.title == title);
        let panel = panel.with_context(|| format!("no panel has the title {title:?}"))?;
        let content = match &*panel.r#type {
            "timeseries" => self.curves(panel).map(Content::Curves),
            "table" => self.table(panel).map(Content::Table),
            "stat" => self.figure(panel).map(Content::Figure),
            other => bail!("{title}: panels of type {other} are not drawn"),
        };
        let content = content.with_context(|| format!("panel {title:?}"))?;
        Ok(Picture { title: panel.title.clone(), content })
    }

    fn end(&self) -> f64 {
        self.start + f64::from(self.length_ms)
    }

    fn expression(&self, target: &Target, ms: u32) -> Result<String> {
        let filled = self.dashboard.fill_in(&target.expr, &self.choice, ms)?;
        let faster = format!("/ {}", DIVIDED / CLOCK);
        Ok(looking_back(&filled, LOOK_BACK_MS).replace(&format!("/ {DIVIDED}"), &faster))
    }

    fn curves(&self, panel: &Panel) -> Result<Curves> {
        let interval = panel.interval.as_deref().and_then(|it| it.strip_suffix('s')?.parse().ok());
        let interval: u32 = interval.context("no shortest step in seconds")?;
        let step_ms = interval * 1000 / CLOCK;
        let step = f64::from(step_ms);
        let defaults = &panel.field_config["defaults"];
        let calcs = panel.options["legend"]["calcs"].as_array().into_iter().flatten();
        let calcs: Vec<_> =
            calcs.filter_map(Value::as_str).filter_map(Calculation::named).collect();
        let unit = panel.unit(None);
        let mut series = Vec::new();
        for target in &panel.targets {
            let expression = self.expression(target, step_ms)?;
            let range = (self.start + step, self.end());
            for (labels, points) in self.prometheus.query_range(&expression, range, step_ms)? {
                let figure = |it: &Calculation| units::text(unit, (it.of)(&points));
                let calculated = calcs.iter().map(figure).collect();
                let seconds = |&(time, value): &(f64, f64)| ((time - self.start) / 1000.0, value);
                let points_shown = points.iter().map(seconds).collect();
                let name = legend(&target.legend_format, &labels);
                series.push((total(&points), Series { name, points: points_shown, calculated }));
            }
        }
        series.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        Ok(Curves {
            unit: unit.to_owned(),
            stacked: defaults["custom"]["drawStyle"] == "bars",
            whole: defaults["decimals"] == 0,
            length: f64::from(self.length_ms) / 1000.0,
            step: step / 1000.0,
            series: series.into_iter().map(|(_, series)| series).collect(),
            calculated: calcs.iter().map(|it| it.title.to_owned()).collect(),
        })
    }

    fn table(&self, panel: &Panel) -> Result<Table> {
        let mut merged = BTreeMap::<Labels, BTreeMap<String, f64>>::new();
        for target in &panel.targets {
            let expression = self.expression(target, self.length_ms)?;
            let name = match panel.targets.len() {
                1 => "Value".to_owned(),
                _ => format!("Value #{}", target.ref_id),
            };
            for (labels, value) in self.prometheus.query(&expression, self.end())? {
                merged.entry(labels).or_default().insert(name.clone(), value);
            }
        }
        let shown = panel.ordered_columns();
        let order = &panel.options["sortBy"][0];
        let of_order = shown.iter().find(|(_, title)| order["displayName"].as_str() == Some(title));
        let weight = |values: &BTreeMap<String, f64>| {
            of_order.and_then(|(name, _)| values.get(*name)).copied().unwrap_or_default()
        };
        let cell =
            |labels: &Labels, values: &BTreeMap<String, f64>, (name, title): (&str, &str)| {
                let value = values.get(name).map(|&it| units::text(panel.unit(Some(title)), it));
                value.or_else(|| labels.get(name).cloned()).unwrap_or_default()
            };
        let row = |(labels, values): (&Labels, &BTreeMap<String, f64>)| Row {
            cells: shown.iter().map(|&column| cell(labels, values, column)).collect(),
            weight: weight(values),
        };
        let mut rows: Vec<Row> = merged.iter().map(row).collect();
        rows.sort_by(|one, other| other.weight.total_cmp(&one.weight));
        let column = |&(name, title): &(&str, &str)| Column {
            title: title.to_owned(),
            numeric: name.starts_with("Value"),
        };
        Ok(Table { columns: shown.iter().map(column).collect(), rows })
    }

    fn figure(&self, panel: &Panel) -> Result<Figure> {
        let target = panel.targets.first().context("no query")?;
        let answer =
            self.prometheus.query(&self.expression(target, self.length_ms)?, self.end())?;
        let defaults = &panel.field_config["defaults"];
        let Some(&value) = answer.values().next() else {
            let text = defaults["noValue"].as_str().unwrap_or("no data").to_owned();
            return Ok(Figure { text, colour: "green".to_owned() });
        };
        let steps = defaults["thresholds"]["steps"].as_array().into_iter().flatten();
        let mut reached = steps.filter(|step| step["value"].as_f64().is_none_or(|it| value >= it));
        let colour = reached.next_back().and_then(|step| step["color"].as_str()).unwrap_or("green");
        let text = units::text(panel.unit(None), value);
        Ok(Figure { text, colour: colour.to_owned() })
    }
}

/// A figure of a series in the legend.
struct Calculation {
    title: &'static str,
    of: fn(&Points) -> f64,
}

impl Calculation {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "sum" => Self { title: "Total", of: total },
            "lastNotNull" => Self {
                title: "Last",
                of: |points| points.last().map(|(_, value)| *value).unwrap_or_default(),
            },
            "max" => Self {
                title: "Max",
                of: |points| points.iter().map(|(_, value)| *value).fold(0.0, f64::max),
            },
            _ => return None,
        })
    }
}

fn total(points: &Points) -> f64 {
    points.iter().map(|(_, value)| value).sum()
}

/// The name of a series: the format with its labels. Absent ones leave nothing behind.
fn legend(format: &str, labels: &Labels) -> String {
    let mut pieces = format.split("{{");
    let mut name = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (label, rest) = piece.split_once("}}").unwrap_or((piece, ""));
        name.push_str(labels.get(label.trim()).map_or("", String::as_str));
        name.push_str(rest);
    }
    let name = name.replace("()", "");
    let words: Vec<_> = name.split_whitespace().collect();
    if words.is_empty() { "(none)".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legend_has_the_labels_that_there_are() {
        let format = "{{reason}} {{policy}} {{rule}} ({{tier}})";
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let rule = labels(&[("reason", "policy"), ("rule", "tier-default"), ("tier", "default")]);
        assert_eq!(legend(format, &rule), "policy tier-default (default)");
        assert_eq!(legend(format, &labels(&[("reason", "malformed")])), "malformed");
        assert_eq!(legend("{{policy}} ({{tier}})", &Labels::new()), "(none)");
    }
}
