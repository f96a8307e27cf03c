//! The Grafana dashboards as files.
//!
//! Inputs: `examples/grafana`. Outputs: panels, queries, variables and links; the queries with variables
//! filled in as Grafana does it.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::dashboards::prometheus::{Vector, examples};

/// A dashboard that is not here was deleted or renamed without a thought for those who point to it.
pub const UIDS: [&str; 5] = [
    "palisade-agent",
    "palisade-drops",
    "palisade-overview",
    "palisade-rollout",
    "palisade-workload",
];

/// What is read of a dashboard.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dashboard {
    /// Its name, and that of its file.
    pub uid: String,
    /// What stands over it.
    pub title: String,
    /// What it shows, in sentences.
    pub description: String,
    /// Words by which others link to it.
    pub tags: Vec<String>,
    /// Of the form.
    pub schema_version: u32,
    /// Rows and charts.
    pub panels: Vec<Panel>,
    /// At its head.
    pub links: Vec<Link>,
    templating: Templating,
}

#[derive(Debug, Deserialize)]
struct Templating {
    list: Vec<Variable>,
}

/// A link at the head of the dashboard.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// `dashboards` for a list of them.
    pub r#type: String,
    /// Of the dashboards in that list.
    pub tags: Vec<String>,
    /// Whether what is chosen is kept.
    pub include_vars: bool,
    /// Whether the time range is kept.
    pub keep_time: bool,
}

/// One panel; rows are panels, too.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Panel {
    /// Unique in a dashboard.
    pub id: u32,
    /// `row`, `stat`, `table` or `timeseries`.
    pub r#type: String,
    /// What stands over it.
    pub title: String,
    /// What it shows, in sentences.
    #[serde(default)]
    pub description: String,
    /// Where it is.
    pub grid_pos: Place,
    /// Where its data come from.
    pub datasource: Option<Value>,
    /// Units, colours and columns, as Grafana has them.
    #[serde(default)]
    pub field_config: Value,
    /// Its queries.
    #[serde(default)]
    pub targets: Vec<Target>,
    /// Legend, order of rows, as Grafana has them.
    #[serde(default)]
    pub options: Value,
    /// The shortest step, such as `30s`.
    pub interval: Option<String>,
    #[serde(default)]
    transformations: Vec<Transformation>,
}

#[derive(Debug, Deserialize)]
struct Transformation {
    id: String,
    options: Value,
}

impl Panel {
    /// Whether it is a heading.
    #[must_use]
    pub fn is_row(&self) -> bool {
        self.r#type == "row"
    }

    /// Columns of a table: what they are called, by what they are called in the answer.
    #[must_use]
    pub fn columns(&self) -> BTreeMap<&str, &str> {
        let organize = self.transformations.iter().filter(|it| it.id == "organize");
        let renamed = organize.filter_map(|it| it.options["renameByName"].as_object()).flatten();
        renamed.filter_map(|(from, to)| Some((&**from, to.as_str()?))).collect()
    }

    /// The same in their order.
    #[must_use]
    pub fn ordered_columns(&self) -> Vec<(&str, &str)> {
        let index = |name: &str| {
            let organize = self.transformations.iter().find(|it| it.id == "organize");
            organize.and_then(|it| it.options["indexByName"][name].as_u64())
        };
        let mut columns: Vec<_> = self.columns().into_iter().collect();
        columns.sort_by_key(|(name, _)| index(name).unwrap_or(u64::MAX));
        columns
    }

    /// Unit of its values, or of a column of them.
    #[must_use]
    pub fn unit(&self, column: Option<&str>) -> &str {
        let overrides = self.field_config["overrides"].as_array().into_iter().flatten();
        let of_column = overrides.filter(|it| {
            column.is_some_and(|column| it["matcher"]["options"].as_str() == Some(column))
        });
        let properties = of_column.filter_map(|it| it["properties"].as_array()).flatten();
        let mut units = properties.filter(|it| it["id"] == "unit").map(|it| &it["value"]);
        let unit = units.next().unwrap_or(&self.field_config["defaults"]["unit"]);
        unit.as_str().unwrap_or_default()
    }

    /// Columns that lead elsewhere, with where.
    #[must_use]
    pub fn links(&self) -> BTreeMap<&str, &str> {
        let overrides = self.field_config["overrides"].as_array();
        let links = overrides.into_iter().flatten().flat_map(|it| {
            let properties = it["properties"].as_array().into_iter().flatten();
            let links = properties.filter(|property| property["id"] == "links");
            let links = links.filter_map(|property| property["value"].as_array()).flatten();
            links.map(|link| (&it["matcher"]["options"], &link["url"]))
        });
        links.filter_map(|(column, url)| Some((column.as_str()?, url.as_str()?))).collect()
    }
}

/// Where a panel is, in units of a 24th of the width.
#[derive(Debug, Deserialize)]
pub struct Place {
    /// From the left.
    pub x: u32,
    /// From the top, in units of 30 pixels.
    pub y: u32,
    /// Width.
    pub w: u32,
    /// Height.
    pub h: u32,
}

impl Place {
    /// Whether both have a place in common.
    #[must_use]
    pub fn overlaps(&self, other: &Place) -> bool {
        self.x < other.x + other.w
            && other.x < self.x + self.w
            && self.y < other.y + other.h
            && other.y < self.y + self.h
    }
}

/// One query.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Unique in a panel.
    pub ref_id: String,
    /// Whom it asks.
    pub datasource: Value,
    /// PromQL, with variables.
    pub expr: String,
    /// Whether it is asked once, at the end of the time range.
    pub instant: bool,
    /// Whether it is asked for each step of the time range.
    pub range: bool,
    /// Name of a series, with labels in `{{}}`.
    pub legend_format: String,
}

/// A variable at the head of the dashboard.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Variable {
    /// After the `$`.
    pub name: String,
    /// What stands beside it.
    pub label: String,
    /// What it chooses, in sentences.
    pub description: String,
    /// `query` or `datasource`.
    pub r#type: String,
    /// Where its values come from.
    pub datasource: Option<Value>,
    /// The query as text.
    pub definition: Option<String>,
    /// The query as Grafana has it.
    pub query: Value,
    /// What of an answer is a value.
    pub regex: String,
    /// What is filled in for all values.
    pub all_value: Option<String>,
}

/// Where the values of a variable come from.
#[derive(Debug)]
pub enum Values<'a> {
    /// Those that a label has in the series of a selector.
    OfLabel {
        /// Its name.
        label: &'a str,
        /// Which series.
        selector: &'a str,
    },
    /// Those that some labels have in the answer to an expression.
    OfAnswer {
        /// Their names.
        labels: Vec<String>,
        /// The query.
        expression: &'a str,
    },
}

impl Variable {
    /// Of a variable that is asked for.
    ///
    /// # Errors
    /// If its query has another form.
    pub fn values(&self) -> Result<Values<'_>> {
        let query = self.definition.as_deref().context("a variable without a query")?;
        ensure!(self.query["query"] == *query, "{query}: not what {} says", self.query);
        let inner = |function| query.strip_prefix(function)?.strip_suffix(')');
        if let Some(expression) = inner("query_result(") {
            ensure!(self.query["qryType"] == 3, "{query}: {}", self.query);
            return Ok(Values::OfAnswer { labels: self.labels()?, expression });
        }
        ensure!(self.query["qryType"] == 1 && self.regex.is_empty(), "{query}: {}", self.query);
        let inner = inner("label_values(").with_context(|| format!("{query}: neither"))?;
        let (selector, label) =
            inner.rsplit_once(',').with_context(|| format!("{query}: no label"))?;
        Ok(Values::OfLabel { label: label.trim(), selector: selector.trim() })
    }

    /// Labels that the regular expression picks: all of one form.
    fn labels(&self) -> Result<Vec<String>> {
        let form = || format!("{}: not /(?:one|other)_end=\"([^\"]+)\"/", self.regex);
        let inner = self.regex.strip_prefix("/(?:").with_context(form)?;
        let inner = inner.strip_suffix("=\"([^\"]+)\"/").with_context(form)?;
        let (alternatives, end) = inner.split_once(')').with_context(form)?;
        Ok(alternatives.split('|').map(|label| format!("{label}{end}")).collect())
    }
}

/// What the labels of an answer say.
#[must_use]
pub fn values_in(answer: &Vector, labels: &[String]) -> Vec<String> {
    let series = answer.keys().flat_map(|series| labels.iter().map(|label| series.get(label)));
    series.flatten().cloned().collect()
}

/// What is chosen at the head of the dashboard, by variable; all where nothing is.
pub type Choice<'a> = BTreeMap<&'a str, &'a str>;

impl Dashboard {
    /// The dashboard of a uid, which is its file's name, too.
    ///
    /// # Errors
    /// If there is none, or it is not one.
    pub fn read(uid: &str) -> Result<Self> {
        let text = Self::text(uid)?;
        serde_json::from_str(&text).with_context(|| format!("in {uid}.json"))
    }

    /// All of them.
    ///
    /// # Errors
    /// As [`Dashboard::read`].
    pub fn all() -> Result<Vec<Self>> {
        UIDS.into_iter().map(Self::read).collect()
    }

    /// The file as it is.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn text(uid: &str) -> Result<String> {
        let path = examples("grafana").join(format!("{uid}.json"));
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Panels that are no rows.
    pub fn charts(&self) -> impl Iterator<Item = &Panel> {
        self.panels.iter().filter(|panel| !panel.is_row())
    }

    /// All queries, with where they are.
    pub fn targets(&self) -> impl Iterator<Item = (&Panel, &Target)> {
        self.charts().flat_map(|panel| panel.targets.iter().map(move |target| (panel, target)))
    }

    /// Variables at its head, the data source first.
    #[must_use]
    pub fn variables(&self) -> &[Variable] {
        &self.templating.list
    }

    /// An expression as Grafana sends it, for an interval and a range of so many ms.
    ///
    /// # Errors
    /// If nobody sets one of its variables.
    pub fn fill_in(&self, expression: &str, choice: &Choice<'_>, ms: u32) -> Result<String> {
        let duration = format!("{ms}ms");
        let mut values: BTreeMap<&str, &str> =
            ["__range", "__interval", "__rate_interval"].map(|name| (name, &*duration)).into();
        for variable in self.variables().iter().filter(|variable| variable.r#type == "query") {
            let name = &*variable.name;
            // Whoever has no value for all is chosen where it is asked for.
            values.extend(
                choice.get(name).copied().or(variable.all_value.as_deref()).map(|it| (name, it)),
            );
        }
        let mut pieces = expression.split('$');
        let mut filled = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let end = piece
                .find(|character: char| !character.is_ascii_alphanumeric() && character != '_')
                .unwrap_or(piece.len());
            let (name, rest) = piece.split_at(end);
            let value = values.get(name);
            ensure!(value.is_some(), "{expression}: nobody sets ${name}");
            filled.extend([value.copied().unwrap_or_default(), rest]);
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_an_order_and_units() {
        let dashboard = Dashboard::read("palisade-drops").unwrap();
        let panel = dashboard.charts().find(|panel| panel.title == "Dropped flows").unwrap();
        let columns = panel.ordered_columns();
        assert_eq!(columns[..2], [("source_namespace", "From namespace"), ("source", "From")]);
        let units = ["Packets", "Bytes"].map(|column| panel.unit(Some(column)));
        assert_eq!((panel.unit(None), units), ("short", ["short", "bytes"]));
    }
}
