//! Who may reach whom, for people and for Graphviz. Input: what policies let through, and what was dropped;
//! output: a table and what looks wrong about it, or a graph.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use policy_api::connectivity::{Allowed, Connectivity, DropCount};
use policy_api::difference::End;

use super::ends::{end, shown};
use super::{style, table, text};

/// Denied pairs that are told of.
const SHOWN_DROPS: usize = 10;
/// Connections between groups that are not drawn one by one, but by way of a point.
const DRAWN: usize = 16;

/// The report; at most `limit` entries of connections.
pub(crate) fn report(found: &Connectivity, drops: &[DropCount], limit: usize) -> String {
    let mut out = String::new();
    let entries = &found.connections;
    if !entries.is_empty() {
        let mut rows = table::table(&["FROM", "TO", "SERVICES", "ALLOWED BY"]);
        for allowed in entries.iter().take(limit) {
            let names = |ends: &[End]| shown(ends.iter().map(end).collect());
            rows.add_row([
                names(&allowed.sources),
                names(&allowed.destinations),
                services(allowed),
                deciding(allowed),
            ]);
        }
        out.push_str(&table::render(rows));
    }
    let more = entries.len().saturating_sub(limit) + found.connections_left_out;
    if more > 0 {
        let _ = writeln!(out, "... and {more} more: see them with --limit or -o json");
    }
    let sections = [
        ("exposed to the world", exposed(entries)),
        ("allowed and never used", unused(entries)),
        ("denied and tried", tried(drops)),
    ];
    let warn = style::WARN;
    for (title, lines) in sections.iter().filter(|(_, lines)| !lines.is_empty()) {
        let _ = writeln!(out, "\n{warn}{title}{warn:#}");
        lines.iter().for_each(|line| {
            let _ = writeln!(out, "  {line}");
        });
    }
    let strong = style::STRONG;
    let endpoints = text::count(found.endpoints, "endpoint");
    let summary = match entries.len() {
        0 => "nothing may connect to anything".to_owned(),
        count => text::count(count, "kind") + " of allowed connections",
    };
    let _ = writeln!(out, "\n{strong}{summary}{strong:#}; {endpoints} looked at");
    out
}

fn services(allowed: &Allowed) -> String {
    let clean = |words: &[String]| words.iter().map(|it| text::clean(it).into_owned()).collect();
    let mut words = shown(clean(&allowed.services));
    if !allowed.source_ports.is_empty() {
        words.push_str(&format!(" from source ports {}", shown(clean(&allowed.source_ports))));
    }
    if let [family] = &allowed.families[..] {
        words.push_str(&format!(" ({} only)", text::clean(family)));
    }
    words
}

fn deciding(allowed: &Allowed) -> String {
    let rules = allowed.allowed_by.iter();
    let rules: Vec<String> = rules
        .map(|decided| format!("{}: {}", text::clean(&decided.at), text::rule(&decided.rule)))
        .collect();
    rules.join("; ")
}

/// What the whole world may connect to.
fn exposed(entries: &[Allowed]) -> Vec<String> {
    let open = entries.iter().filter(|allowed| allowed.exposed);
    let line = |allowed: &Allowed| {
        let to = shown(allowed.destinations.iter().map(end).collect());
        format!("{to} on {}, by {}", services(allowed), deciding(allowed))
    };
    open.map(line).collect()
}

/// Rules of policies that allow something and have not allowed a packet yet.
fn unused(entries: &[Allowed]) -> Vec<String> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for allowed in entries {
        let own = allowed.allowed_by.iter().filter(|it| !it.rule.policy.is_empty());
        for decided in own.filter(|it| it.packets == Some(0)) {
            let names = |ends: &[End]| shown(ends.iter().map(end).collect());
            let (from, to) = (names(&allowed.sources), names(&allowed.destinations));
            let lines = found.entry(text::rule(&decided.rule)).or_default();
            lines.push(format!("{from} -> {to} on {}", services(allowed)));
        }
    }
    found.into_iter().map(|(rule, lines)| format!("{rule}: {}", shown(lines))).collect()
}

/// What was dropped most.
fn tried(drops: &[DropCount]) -> Vec<String> {
    let mut denied: Vec<&DropCount> = drops.iter().filter(|it| it.reason == "policy").collect();
    denied.sort_by(|a, b| b.packets.cmp(&a.packets).then_with(|| a.cmp(b)));
    let line = |count: &&DropCount| {
        let name = |namespace: &str, name: &str| text::namespaced(namespace, name);
        let service = match (count.port.as_str(), count.protocol.as_str()) {
            (_, "") => String::new(),
            ("", protocol) => format!(" on {}", text::clean(protocol)),
            (port, protocol) => format!(" on {}/{}", text::clean(port), text::clean(protocol)),
        };
        let rule = match count.policy.as_str() {
            "" => text::clean(&count.rule).into_owned(),
            policy => {
                format!("{} {}", name(&count.policy_namespace, policy), text::clean(&count.rule))
            }
        };
        format!(
            "{} -> {}{service}: {} by {rule}",
            name(&count.source_namespace, &count.source),
            name(&count.destination_namespace, &count.destination),
            text::count(usize::try_from(count.packets).unwrap_or(usize::MAX), "packet"),
        )
    };
    let mut lines: Vec<String> = denied.iter().take(SHOWN_DROPS).map(line).collect();
    if denied.len() > SHOWN_DROPS {
        lines.push(format!("... and {} more", denied.len() - SHOWN_DROPS));
    }
    lines
}

/// A graph: an edge for each pair and what it may use, or a point in the middle where many meet.
pub(crate) fn dot(found: &Connectivity) -> String {
    let mut out = String::from("digraph connectivity {\n  rankdir=LR;\n  node [shape=box];\n");
    let mut nodes: BTreeMap<String, usize> = BTreeMap::new();
    for ends in found.connections.iter().flat_map(|it| [&it.sources, &it.destinations]) {
        for name in ends.iter().map(end) {
            let next = nodes.len();
            nodes.entry(name).or_insert(next);
        }
    }
    for (name, number) in &nodes {
        let _ = writeln!(out, "  n{number} [label={}];", quoted(name));
    }
    for (number, allowed) in found.connections.iter().enumerate() {
        let label = quoted(&services(allowed));
        let node = |it: &End| nodes.get(&end(it)).copied();
        let sources = allowed.sources.iter().filter_map(|it| Some((node(it)?, colour(it))));
        let sources: Vec<(usize, &str)> = sources.collect();
        let destinations: Vec<usize> = allowed.destinations.iter().filter_map(node).collect();
        if sources.len() * destinations.len() > DRAWN {
            let _ = writeln!(out, "  e{number} [shape=point, xlabel={label}];");
            for (from, colour) in sources {
                let _ = writeln!(out, "  n{from} -> e{number} [arrowhead=none{colour}];");
            }
            for to in destinations {
                let _ = writeln!(out, "  e{number} -> n{to};");
            }
            continue;
        }
        for (from, colour) in &sources {
            // Nobody connects to itself.
            for to in destinations.iter().filter(|to| *to != from) {
                let _ = writeln!(out, "  n{from} -> n{to} [label={label}{colour}];");
            }
        }
    }
    out.push_str("}\n");
    out
}

/// What comes from the world is red.
fn colour(source: &End) -> &'static str {
    if source.is_anybody() { ", color=red" } else { "" }
}

/// A text of the DOT language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
