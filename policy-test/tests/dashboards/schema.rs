//! The form of a dashboard as Grafana publishes it (`kinds/dashboard/dashboard_kind.cue`), as far as it is closed.
//!
//! Input: a dashboard's JSON. Output: a line for each field that is missing, unknown or of another type.
//! What plugins define (`options`, `custom`, queries) is open there; of queries, what Prometheus's has.

use serde_json::{Map, Value};

/// What a value must be.
#[derive(Clone, Copy)]
enum Shape {
    Any,
    Bool,
    Text,
    Number,
    /// From 0 to a limit.
    Whole(u64),
    /// `null` or a number.
    NumberOrNull,
    OneOf(&'static [&'static str]),
    ListOf(&'static Shape),
    /// Fields that must be there, and fields that may.
    Fields(&'static [Field], &'static [Field]),
    /// Values of one shape under any name.
    Named(&'static Shape),
    /// Text, or these fields.
    TextOr(&'static Shape),
    /// Rows are panels of another shape.
    Panel,
}

type Field = (&'static str, Shape);

use Shape::{
    Any, Bool, Fields, ListOf, Named, Number, NumberOrNull, OneOf, Panel, Text, TextOr, Whole,
};

const ANY_FIELDS: Shape = Named(&Any);
const DATASOURCE: Shape = Fields(&[("type", Text), ("uid", Text)], &[]);
const PLACE: Shape = Fields(
    &[("h", Whole(100)), ("w", Whole(24)), ("x", Whole(23)), ("y", Whole(10_000))],
    &[("static", Bool)],
);
const MATCHER: Shape = Fields(&[("id", Text)], &[("options", Any)]);
const MAPPING: Shape = Fields(
    &[
        ("type", OneOf(&["value", "range", "regex", "special"])),
        (
            "options",
            Named(&Fields(
                &[],
                &[("text", Text), ("color", Text), ("icon", Text), ("index", Whole(100))],
            )),
        ),
    ],
    &[],
);
const THRESHOLDS: Shape = Fields(
    &[
        ("mode", OneOf(&["absolute", "percentage"])),
        ("steps", ListOf(&Fields(&[("color", Text), ("value", NumberOrNull)], &[]))),
    ],
    &[],
);
const FIELD_CONFIG: Shape = Fields(
    &[
        (
            "defaults",
            Fields(
                &[("unit", Text)],
                &[
                    ("displayName", Text),
                    ("description", Text),
                    ("decimals", Number),
                    ("min", Number),
                    ("max", Number),
                    ("mappings", ListOf(&MAPPING)),
                    ("thresholds", THRESHOLDS),
                    ("color", ANY_FIELDS),
                    ("links", ListOf(&DATA_LINK)),
                    ("noValue", Text),
                    ("custom", ANY_FIELDS),
                ],
            ),
        ),
        (
            "overrides",
            ListOf(&Fields(
                &[
                    ("matcher", MATCHER),
                    ("properties", ListOf(&Fields(&[("id", Text), ("value", Any)], &[]))),
                ],
                &[],
            )),
        ),
    ],
    &[],
);
const DATA_LINK: Shape = Fields(&[("title", Text), ("url", Text)], &[("targetBlank", Bool)]);
const TARGET: Shape = Fields(
    &[
        ("refId", Text),
        ("datasource", DATASOURCE),
        ("expr", Text),
        ("instant", Bool),
        ("range", Bool),
        ("format", OneOf(&["time_series", "table", "heatmap"])),
        ("legendFormat", Text),
        ("editorMode", OneOf(&["code", "builder"])),
    ],
    &[],
);
const CHART: Shape = Fields(
    &[
        ("id", Whole(u32::MAX as u64)),
        ("type", OneOf(&["stat", "table", "timeseries"])),
        ("title", Text),
        ("description", Text),
        ("datasource", DATASOURCE),
        ("gridPos", PLACE),
        ("fieldConfig", FIELD_CONFIG),
        ("options", ANY_FIELDS),
        ("targets", ListOf(&TARGET)),
    ],
    &[
        ("interval", Text),
        ("pluginVersion", Text),
        ("transparent", Bool),
        ("maxDataPoints", Number),
        (
            "transformations",
            ListOf(&Fields(
                &[("id", Text), ("options", ANY_FIELDS)],
                &[("disabled", Bool), ("filter", MATCHER)],
            )),
        ),
    ],
);
const ROW: Shape = Fields(
    &[
        ("id", Whole(u32::MAX as u64)),
        ("type", OneOf(&["row"])),
        ("title", Text),
        ("collapsed", Bool),
        ("gridPos", PLACE),
        ("panels", ListOf(&CHART)),
    ],
    &[("datasource", DATASOURCE), ("repeat", Text)],
);
const VARIABLE: Shape = Fields(
    &[
        ("name", Text),
        ("type", OneOf(&["query", "datasource"])),
        ("label", Text),
        ("description", Text),
        ("hide", Whole(2)),
        ("skipUrlSync", Bool),
        ("query", TextOr(&Fields(&[("qryType", Whole(5)), ("query", Text), ("refId", Text)], &[]))),
        ("refresh", Whole(2)),
        ("regex", Text),
        ("multi", Bool),
        ("includeAll", Bool),
        ("options", ListOf(&Any)),
        ("current", ANY_FIELDS),
    ],
    &[("datasource", DATASOURCE), ("definition", Text), ("sort", Whole(8)), ("allValue", Text)],
);
const LINK: Shape = Fields(
    &[
        ("title", Text),
        ("type", OneOf(&["link", "dashboards"])),
        ("icon", Text),
        ("tooltip", Text),
        ("url", Text),
        ("tags", ListOf(&Text)),
        ("asDropdown", Bool),
        ("targetBlank", Bool),
        ("includeVars", Bool),
        ("keepTime", Bool),
    ],
    &[],
);
const ANNOTATION: Shape = Fields(
    &[("name", Text), ("datasource", DATASOURCE), ("enable", Bool), ("iconColor", Text)],
    &[("builtIn", Whole(1)), ("hide", Bool), ("type", Text)],
);
/// The first three are those of a file that is imported by hand.
const DASHBOARD: Shape = Fields(
    &[
        ("__inputs", ListOf(&Any)),
        ("__elements", ANY_FIELDS),
        (
            "__requires",
            ListOf(&Fields(
                &[("type", Text), ("id", Text), ("name", Text), ("version", Text)],
                &[],
            )),
        ),
        ("uid", Text),
        ("title", Text),
        ("description", Text),
        ("tags", ListOf(&Text)),
        ("timezone", Text),
        ("editable", Bool),
        ("graphTooltip", Whole(2)),
        ("time", Fields(&[("from", Text), ("to", Text)], &[])),
        ("timepicker", ANY_FIELDS),
        ("fiscalYearStartMonth", Whole(11)),
        ("refresh", Text),
        ("schemaVersion", Whole(u16::MAX as u64)),
        ("version", Whole(u32::MAX as u64)),
        ("panels", ListOf(&Panel)),
        ("templating", Fields(&[("list", ListOf(&VARIABLE))], &[])),
        ("annotations", Fields(&[("list", ListOf(&ANNOTATION))], &[])),
        ("links", ListOf(&LINK)),
    ],
    &[("liveNow", Bool), ("weekStart", Text)],
);

/// What of a dashboard has not the published form.
pub(crate) fn breaches(dashboard: &Value) -> Vec<String> {
    let mut breaches = Vec::new();
    check("", dashboard, DASHBOARD, &mut breaches);
    breaches
}

fn check(at: &str, value: &Value, shape: Shape, breaches: &mut Vec<String>) {
    let fits = match shape {
        Any => true,
        Bool => value.is_boolean(),
        Text => value.is_string(),
        Number => value.is_number(),
        Whole(limit) => value.as_u64().is_some_and(|number| number <= limit),
        NumberOrNull => value.is_number() || value.is_null(),
        OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
        ListOf(element) => value.as_array().is_some_and(|list| {
            for (index, value) in list.iter().enumerate() {
                check(&format!("{at}[{index}]"), value, *element, breaches);
            }
            true
        }),
        Named(element) => value.as_object().is_some_and(|fields| {
            for (name, value) in fields {
                check(&format!("{at}.{name}"), value, *element, breaches);
            }
            true
        }),
        Fields(required, optional) => value.as_object().is_some_and(|fields| {
            check_fields(at, fields, required, optional, breaches);
            true
        }),
        TextOr(fields) => {
            value.is_string() || {
                check(at, value, *fields, breaches);
                true
            }
        }
        Panel => {
            check(at, value, if value["type"] == "row" { ROW } else { CHART }, breaches);
            true
        }
    };
    if !fits {
        breaches.push(format!("{at}: {value}"));
    }
}

fn check_fields(
    at: &str,
    fields: &Map<String, Value>,
    required: &[Field],
    optional: &[Field],
    breaches: &mut Vec<String>,
) {
    for (name, _) in required {
        if !fields.contains_key(*name) {
            breaches.push(format!("{at}: no {name}"));
        }
    }
    for (name, value) in fields {
        match required.iter().chain(optional).find(|(known, _)| known == name) {
            Some((_, shape)) => check(&format!("{at}.{name}"), value, *shape, breaches),
            None => breaches.push(format!("{at}: what is {name}?")),
        }
    }
}

#[test]
fn another_form_is_told_of_with_its_place() {
    let text = policy_test::dashboards::dashboard::Dashboard::text("palisade-drops").unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["panels"][1]["targets"][0]["instant"] = "yes".into();
    value["panels"][0]["collapse"] = true.into();
    value["templating"]["list"][1]["hide"] = 3.into();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("uid");
    }
    let mut breaches = breaches(&value);
    breaches.sort_unstable();
    assert_eq!(
        breaches,
        [
            ".panels[0]: what is collapse?",
            ".panels[1].targets[0].instant: \"yes\"",
            ".templating.list[1].hide: 3",
            ": no uid",
        ]
    );
}
