//! The Grafana dashboards as files.
//!
//! Inputs: `examples/grafana`. Outputs: panels, queries, variables and links; the queries with variables
//! filled in as Grafana does it.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::prometheus::{Vector, examples};

/// A dashboard that is not here was deleted or renamed without a thought for those who point to it.
pub(crate) const UIDS: [&str; 5] = [
    "palisade-agent",
    "palisade-drops",
    "palisade-overview",
    "palisade-rollout",
    "palisade-workload",
];

/// What the tests read of a dashboard.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Dashboard {
    pub(crate) uid: String,
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) tags: Vec<String>,
    pub(crate) schema_version: u32,
    pub(crate) panels: Vec<Panel>,
    pub(crate) links: Vec<Link>,
    templating: Templating,
}

#[derive(Debug, Deserialize)]
struct Templating {
    list: Vec<Variable>,
}

/// A link at the head of the dashboard.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Link {
    pub(crate) r#type: String,
    pub(crate) tags: Vec<String>,
    pub(crate) include_vars: bool,
    pub(crate) keep_time: bool,
}

/// One panel; rows are panels, too.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Panel {
    pub(crate) id: u32,
    pub(crate) r#type: String,
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) description: String,
    pub(crate) grid_pos: Place,
    pub(crate) datasource: Option<Value>,
    #[serde(default)]
    pub(crate) field_config: Value,
    #[serde(default)]
    pub(crate) targets: Vec<Target>,
    #[serde(default)]
    transformations: Vec<Transformation>,
}

#[derive(Debug, Deserialize)]
struct Transformation {
    id: String,
    options: Value,
}

impl Panel {
    pub(crate) fn is_row(&self) -> bool {
        self.r#type == "row"
    }

    /// Columns of a table: what they are called, by what they are called in the answer.
    pub(crate) fn columns(&self) -> BTreeMap<&str, &str> {
        let organize = self.transformations.iter().filter(|it| it.id == "organize");
        let renamed = organize.filter_map(|it| it.options["renameByName"].as_object()).flatten();
        renamed.filter_map(|(from, to)| Some((&**from, to.as_str()?))).collect()
    }

    /// Columns that lead elsewhere, with where.
    pub(crate) fn links(&self) -> BTreeMap<&str, &str> {
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
pub(crate) struct Place {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) w: u32,
    pub(crate) h: u32,
}

impl Place {
    pub(crate) fn overlaps(&self, other: &Place) -> bool {
        self.x < other.x + other.w
            && other.x < self.x + self.w
            && self.y < other.y + other.h
            && other.y < self.y + self.h
    }
}

/// One query.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Target {
    pub(crate) ref_id: String,
    pub(crate) datasource: Value,
    pub(crate) expr: String,
    pub(crate) instant: bool,
    pub(crate) range: bool,
    pub(crate) legend_format: String,
}

/// A variable at the head of the dashboard.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) description: String,
    pub(crate) r#type: String,
    pub(crate) datasource: Option<Value>,
    pub(crate) definition: Option<String>,
    pub(crate) query: Value,
    pub(crate) regex: String,
    pub(crate) all_value: Option<String>,
}

/// Where the values of a variable come from.
#[derive(Debug)]
pub(crate) enum Values<'a> {
    /// Those that a label has in the series of a selector.
    OfLabel { label: &'a str, selector: &'a str },
    /// Those that some labels have in the answer to an expression.
    OfAnswer { labels: Vec<String>, expression: &'a str },
}

impl Variable {
    /// Of a variable that is asked for.
    pub(crate) fn values(&self) -> Result<Values<'_>> {
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
pub(crate) fn values_in(answer: &Vector, labels: &[String]) -> Vec<String> {
    let series = answer.keys().flat_map(|series| labels.iter().map(|label| series.get(label)));
    series.flatten().cloned().collect()
}

/// What is chosen at the head of the dashboard, by variable; all where nothing is.
pub(crate) type Choice<'a> = BTreeMap<&'a str, &'a str>;

impl Dashboard {
    /// The dashboard of a uid, which is its file's name, too.
    pub(crate) fn read(uid: &str) -> Result<Self> {
        let text = Self::text(uid)?;
        serde_json::from_str(&text).with_context(|| format!("in {uid}.json"))
    }

    /// All of them.
    pub(crate) fn all() -> Result<Vec<Self>> {
        UIDS.into_iter().map(Self::read).collect()
    }

    /// The file as it is.
    pub(crate) fn text(uid: &str) -> Result<String> {
        let path = examples("grafana").join(format!("{uid}.json"));
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Panels that are no rows.
    pub(crate) fn charts(&self) -> impl Iterator<Item = &Panel> {
        self.panels.iter().filter(|panel| !panel.is_row())
    }

    /// All queries, with where they are.
    pub(crate) fn targets(&self) -> impl Iterator<Item = (&Panel, &Target)> {
        self.charts().flat_map(|panel| panel.targets.iter().map(move |target| (panel, target)))
    }

    pub(crate) fn variables(&self) -> &[Variable] {
        &self.templating.list
    }

    /// An expression as Grafana sends it, for an interval and a range of so many ms.
    pub(crate) fn fill_in(&self, expression: &str, choice: &Choice<'_>, ms: u32) -> Result<String> {
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
