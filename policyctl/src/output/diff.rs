//! A difference for people. Input: the agent's answer; output: each resource with its fields, then
//! each change of who reaches whom with the rules that decide, then a summary.

use policy_api::difference::{
    ConnectionChange, Difference, Effect, End, FieldChange, Reason, ResourceChange,
};
use policy_api::messages::{Outcome, RuleName};
use serde_json::Value;

use super::ends::{self, shown};
use super::{style, text, to_yaml};
use crate::failure::Failure;
use crate::kinds;

/// Lines of one value that are printed.
const SHOWN_LINES: usize = 20;
/// A list of plain values that is not longer stands on one line, in characters.
const INLINE: usize = 60;

/// The difference as text; at most `limit` entries about connections.
///
/// # Errors
///
/// [`Failure::Encode`] for a value that has no YAML.
pub(crate) fn difference(difference: &Difference, limit: usize) -> Result<String, Failure> {
    let mut lines = Vec::new();
    for resource in &difference.resources {
        lines.extend(of_resource(resource)?);
        lines.push(String::new());
    }
    if !difference.staged.is_empty() {
        let strong = style::STRONG;
        lines.push(format!("{strong}put in force, though staged{strong:#}"));
        lines.extend(difference.staged.iter().map(|it| format!("  {}", text::clean(it))));
        lines.push(String::new());
    }
    let reach = &difference.reach;
    for change in reach.connections.iter().take(limit) {
        lines.extend(of_connections(change));
    }
    let more = reach.connections.len().saturating_sub(limit) + reach.connections_left_out;
    if more > 0 {
        lines.push(format!("... and {more} more: see them with --limit or -o json"));
    }
    if !reach.connections.is_empty() {
        lines.push(String::new());
    }
    for (what, names) in [("new", &reach.endpoints_new), ("gone", &reach.endpoints_gone)] {
        if !names.is_empty() {
            let names = shown(names.iter().map(|name| text::clean(name).into_owned()).collect());
            lines.push(format!("not compared, because {what}: {names}"));
        }
    }
    lines.push(summary(difference));
    lines.push(String::new());
    Ok(lines.join("\n"))
}

fn summary(difference: &Difference) -> String {
    let reach = &difference.reach;
    let count = |effect: Effect| reach.connections.iter().filter(|it| it.effect == effect).count();
    let (good, bad, strong) = (style::GOOD, style::BAD, style::STRONG);
    let mut parts = vec![text::count(difference.resources.len(), "resource")];
    match (count(Effect::Opened), count(Effect::Cut)) {
        (0, 0) => parts.push("no connection opened or cut".to_owned()),
        (opened, cut) => {
            parts.push(format!("connections: {good}{opened} opened{good:#}"));
            parts.push(format!("{bad}{cut} cut{bad:#}"));
        }
    }
    let compared = text::count(reach.endpoints, "endpoint");
    format!("{strong}{}{strong:#}; {compared} compared", parts.join(", "))
}

fn of_resource(change: &ResourceChange) -> Result<Vec<String>, Failure> {
    let (sign_style, outcome) = match change.outcome {
        Outcome::Created => (style::GOOD, "created"),
        Outcome::Deleted => (style::BAD, "deleted"),
        Outcome::Configured | Outcome::Unchanged => (style::WARN, "configured"),
    };
    let name = kinds::qualified(&change.resource);
    let namespace = change.resource.namespace.as_deref();
    let place = namespace.map(|it| format!(" in namespace {it}")).unwrap_or_default();
    let strong = style::STRONG;
    let mut lines = vec![format!(
        "{strong}{}{}{strong:#} {sign_style}{outcome}{sign_style:#}",
        text::clean(&name),
        text::clean(&place)
    )];
    for field in &change.fields {
        lines.extend(of_field(field)?);
    }
    Ok(lines)
}

fn of_field(field: &FieldChange) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    for (value, sign, style) in [(&field.before, '-', style::BAD), (&field.after, '+', style::GOOD)]
    {
        let Some(value) = value else { continue };
        let (first, rest) = written(value)?;
        let mut own = vec![format!("{}:{first}", text::clean(&field.path))];
        let left_out = rest.len().saturating_sub(SHOWN_LINES);
        own.extend(rest.into_iter().take(SHOWN_LINES).map(|line| format!("  {line}")));
        if left_out > 0 {
            own.push(format!("  ... and {left_out} more lines"));
        }
        lines.extend(own.into_iter().map(|line| format!("{style}  {sign} {line}{style:#}")));
    }
    Ok(lines)
}

/// A value as YAML: what stands behind the colon, and the lines below.
fn written(value: &Value) -> Result<(String, Vec<String>), Failure> {
    if let Value::Array(items) = value
        && !items.iter().any(|item| item.is_object() || item.is_array())
    {
        let items: Vec<String> = items.iter().map(scalar).collect::<Result<_, Failure>>()?;
        let inline = format!(" [{}]", items.join(", "));
        if inline.len() <= INLINE {
            return Ok((inline, Vec::new()));
        }
        return Ok((String::new(), items.into_iter().map(|item| format!("- {item}")).collect()));
    }
    let written = to_yaml(value)?;
    let mut lines = written.lines().map(|line| text::clean(line).into_owned());
    if value.is_object() || value.is_array() {
        return Ok((String::new(), lines.collect()));
    }
    let first = lines.next().map(|line| format!(" {line}")).unwrap_or_default();
    Ok((first, lines.collect()))
}

fn scalar(value: &Value) -> Result<String, Failure> {
    Ok(text::clean(to_yaml(value)?.trim_end()).into_owned())
}

fn of_connections(change: &ConnectionChange) -> Vec<String> {
    let (style, sign, word) = match change.effect {
        Effect::Opened => (style::GOOD, '+', "opened"),
        Effect::Cut => (style::BAD, '-', "cut"),
    };
    let named = |ends: &[End]| shown(ends.iter().map(ends::end).collect());
    let services = shown(change.services.iter().map(|it| text::clean(it).into_owned()).collect());
    let from = match &change.source_ports[..] {
        [] => String::new(),
        ports => {
            let ports = ports.iter().map(|it| text::clean(it).into_owned()).collect();
            format!(" from source ports {}", shown(ports))
        }
    };
    let only = match &change.families[..] {
        [family] => format!(" ({} only)", text::clean(family)),
        _ => String::new(),
    };
    let mut lines = vec![
        format!(
            "{style}{sign} {} -> {}{style:#}",
            named(&change.sources),
            named(&change.destinations)
        ),
        format!("    {style}{word}{style:#}: {services}{from}{only}"),
    ];
    for reason in &change.reasons {
        lines.extend(of_reason(reason, change.effect));
    }
    lines
}

fn of_reason(reason: &Reason, effect: Effect) -> [String; 2] {
    let (was, now) = match effect {
        Effect::Opened => ("denied", "allowed"),
        Effect::Cut => ("allowed", "denied"),
    };
    let at = text::clean(&reason.at);
    [
        format!("    {at:<7} was {was}{}", decider(reason.before.as_ref())),
        format!("            now {now}{}", decider(reason.after.as_ref())),
    ]
}

fn decider(rule: Option<&RuleName>) -> String {
    rule.map_or_else(
        || ": nothing is enforced there".to_owned(),
        |rule| format!(" by {}", text::rule(rule)),
    )
}
