//! The Grafana dashboard as a file.
//!
//! Inputs: `examples/grafana/palisade-drops.json`. Outputs: its panels, queries and variables; the
//! queries with variables filled in as Grafana does it.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::prometheus::examples;

/// What the tests read of a dashboard.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Dashboard {
    pub(crate) uid: String,
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) schema_version: u32,
    pub(crate) panels: Vec<Panel>,
    templating: Templating,
}

#[derive(Debug, Deserialize)]
struct Templating {
    list: Vec<Variable>,
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
}

impl Panel {
    pub(crate) fn is_row(&self) -> bool {
        self.r#type == "row"
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
    pub(crate) all_value: Option<String>,
}

impl Variable {
    /// Label and selector of a variable whose values are those of a label.
    pub(crate) fn label_values(&self) -> Result<(&str, &str)> {
        let query = self.definition.as_deref().context("a variable without a query")?;
        let inner = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'))
            .with_context(|| format!("{query}: not label_values(...)"))?;
        let (selector, label) =
            inner.rsplit_once(',').with_context(|| format!("{query}: no label"))?;
        Ok((label.trim(), selector.trim()))
    }
}

/// What is chosen at the head of the dashboard, by variable; all where nothing is.
pub(crate) type Choice<'a> = BTreeMap<&'a str, &'a str>;

impl Dashboard {
    pub(crate) fn read() -> Result<Self> {
        let path = examples("grafana").join("palisade-drops.json");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Panels that are no rows.
    pub(crate) fn charts(&self) -> impl Iterator<Item = &Panel> {
        self.panels.iter().filter(|panel| !panel.is_row())
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
            let all = variable.all_value.as_deref();
            let value = choice.get(name).copied().or(all);
            values.insert(name, value.with_context(|| format!("{name}: no value for all"))?);
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
