//! Everything about one thing, as text. Input: [`Description`]s; output: `Name: value` lines first,
//! then a section for each list.

use std::collections::BTreeMap;

use comfy_table::Cell;
use policy_api::messages::{EndpointState, StagedFlows};
use policy_api::resource::{CALICO, CORE};

use super::{style, table, text};
use crate::describe::{
    Description, Endpoint, EndpointName, Namespace, NetworkSet, Policy, PolicyName, Rule, Step,
    Tier, TierEnd, Use,
};
use crate::kinds;

/// Networks of a set that are shown; `-o json` has them all.
const NETS_SHOWN: usize = 20;

/// Descriptions, an empty line between two.
pub(crate) fn descriptions(all: &[Description]) -> String {
    let texts: Vec<String> = all
        .iter()
        .map(|it| match it {
            Description::Policy(policy) => self::policy(policy),
            Description::Endpoint(endpoint) => self::endpoint(endpoint),
            Description::Tier(tier) => self::tier(tier),
            Description::NetworkSet(set) => network_set(set),
            Description::Namespace(namespace) => self::namespace(namespace),
        })
        .collect();
    texts.join("\n\n")
}

/// `Name: value` lines.
fn head<const N: usize>(rows: [(&str, String); N]) -> String {
    let mut table = table::bare();
    for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        // One row for each line, so that all of them begin in the second column.
        for (index, line) in value.lines().enumerate() {
            let name = if index == 0 { format!("{name}:") } else { String::new() };
            table.add_row([name, line.to_owned()]);
        }
    }
    table::render(table)
}

fn section(title: &str, body: &str) -> String {
    let strong = style::STRONG;
    let indented: String = body.lines().map(|line| format!("  {line}\n")).collect();
    format!("\n{strong}{title}:{strong:#}\n{indented}")
}

fn policy(policy: &Policy) -> String {
    let standing = match (policy.staged, policy.untracked) {
        (Some("Delete"), _) => "no, staged: would delete the policy of its name",
        (Some(_), _) => "no, staged",
        (None, true) => "at the uplinks, before connection tracking",
        (None, false) => "",
    };
    let mut out = head([
        ("Name", text::clean(&policy.name.name).into_owned()),
        ("Namespace", namespace_of(policy.name.namespace.as_deref())),
        ("Kind", kind(&policy.name.kind, &policy.name.api_version)),
        ("Enforced", standing.to_owned()),
        ("Tier", tier_words(&policy.tier)),
        ("Order", order(policy.order)),
        ("Selects", text::clean(&policy.selects).into_owned()),
        ("Annotations", pairs(&policy.annotations)),
    ]);
    if policy.staged == Some("Delete") {
        return out;
    }
    for (title, way, rules) in
        [("Ingress", "come in", &policy.ingress), ("Egress", "go out", &policy.egress)]
    {
        let body = match rules.as_deref() {
            None => "no say on this direction".to_owned(),
            Some([]) => format!("no rule: nothing may {way}, as far as this policy goes"),
            Some(rules) => self::rules(rules, policy.staged.is_some()),
        };
        out.push_str(&section(title, &body));
    }
    out.push_str(&endpoints_section("Endpoints", &policy.endpoints));
    if !policy.warnings.is_empty() {
        let lines: String =
            policy.warnings.iter().map(|it| format!("{}\n", text::diagnostic(it))).collect();
        out.push_str(&section("Warnings", &lines));
    }
    out
}

fn rules(rules: &[Rule], is_staged: bool) -> String {
    let mut lines = String::new();
    let width = rules.iter().map(|rule| rule.rule.len()).max().unwrap_or_default();
    let dim = style::DIM;
    for Rule { rule, text, packets, bytes, staged } in rules {
        let sentence = text::clean(text);
        let sentence = match sentence.split_once(' ') {
            Some((action, rest)) => {
                let style = action_style(action);
                format!("{style}{action}{style:#} {rest}")
            }
            None => sentence.into_owned(),
        };
        let count = match (packets, bytes, staged) {
            (_, _, Some(flows)) if is_staged => Some(staged_flows(*flows)),
            (Some(packets), Some(bytes), _) => Some(traffic(*packets, *bytes)),
            // What does not decide is not counted.
            _ if text.starts_with("Pass ") => None,
            _ => Some("not in use".to_owned()),
        };
        lines.push_str(&format!("{:width$}  {sentence}\n", text::clean(rule)));
        let count = count.map(|count| format!("{:width$}  {dim}{count}{dim:#}\n", ""));
        lines.push_str(&count.unwrap_or_default());
    }
    lines
}

fn action_style(action: &str) -> anstyle::Style {
    match action {
        "Allow" => style::GOOD,
        "Deny" => style::BAD,
        _ => style::WARN,
    }
}

/// `would decide 12 new flows: 10 are allowed now, 2 denied`.
fn staged_flows(StagedFlows { allowed, denied }: StagedFlows) -> String {
    match allowed + denied {
        0 => "would have decided no flow so far".to_owned(),
        all => format!(
            "would have decided {}: {allowed} were allowed, {denied} denied",
            text::count(usize::try_from(all).unwrap_or(usize::MAX), "new flow")
        ),
    }
}

/// `12 packets, 840 B`.
fn traffic(packets: u64, bytes: u64) -> String {
    match packets {
        0 => "no packet so far".to_owned(),
        1 => format!("1 packet, {}", text::bytes(bytes)),
        _ => format!("{packets} packets, {}", text::bytes(bytes)),
    }
}

fn endpoint(endpoint: &Endpoint) -> String {
    let status = &endpoint.status;
    let (style, state) = match status.state {
        EndpointState::Enforcing => (style::GOOD, "enforcing"),
        EndpointState::Pending => (style::WARN, "pending"),
        EndpointState::Unsupported => (style::BAD, "unsupported"),
        EndpointState::Elsewhere => (style::GOOD, "elsewhere"),
    };
    let note = status.note.as_ref().map(|note| format!(": {}", text::clean(note)));
    let interface = match (status.interface.as_str(), status.ifindex) {
        ("", 0) => String::new(),
        (name, 0) => text::clean(name).into_owned(),
        (name, index) => format!("{} (#{index})", text::clean(name)),
    };
    let ports = status.ports.iter().map(|it| format!("{} {}/{}", it.name, it.port, it.protocol));
    let mut out = head([
        ("Name", text::clean(&status.name).into_owned()),
        ("Namespace", namespace_of(Some(&status.namespace))),
        ("Network", text::clean(&status.network).into_owned()),
        ("Interface", interface),
        ("State", format!("{style}{state}{style:#}{}", note.unwrap_or_default())),
        ("Addresses", text::list(&status.addresses)),
        ("Named ports", text::list(ports)),
        ("Labels", pairs(&status.labels)),
    ]);
    for (title, steps) in [("Ingress", &endpoint.ingress), ("Egress", &endpoint.egress)] {
        let body = match steps {
            Some(steps) => self::steps(steps, endpoint.default_action),
            None => "no policy is enforced on it".to_owned(),
        };
        out.push_str(&section(title, &body));
    }
    out
}

/// The way of a packet through the tiers, and where it ends.
fn steps(steps: &[Step], default: &str) -> String {
    let default = match default {
        "allow" => format!("{}allowed{:#} by default-action", style::GOOD, style::GOOD),
        _ => format!("{}denied{:#} by default-action", style::BAD, style::BAD),
    };
    if steps.is_empty() {
        return format!("no policy applies: {default}");
    }
    let mut lines = String::new();
    for Step { tier, policies } in steps {
        let strong = style::STRONG;
        let name = text::clean(&tier.name);
        lines.push_str(&format!("tier {strong}{name}{strong:#}, order {}\n", order(tier.order)));
        for policy in policies {
            let rules = text::count(policy.rules, "rule");
            let staged = match (policy.enforced, policy.pending) {
                (true, true) => "",
                (true, false) => "; a staged policy would replace or delete it",
                (false, _) => "; staged, not in force",
            };
            lines.push_str(&format!("  {}: {rules}{staged}\n", policy_words(&policy.name)));
        }
        if !policies.iter().any(|policy| policy.enforced) {
            lines.push_str("  nothing is decided here yet\n");
            continue;
        }
        let end = match tier.default_action {
            "Pass" => format!("{}passed{:#} to the next tier", style::WARN, style::WARN),
            _ => format!("{}denied{:#}", style::BAD, style::BAD),
        };
        lines.push_str(&format!("  what no rule matched is {end}\n"));
    }
    lines.push_str(&format!("what is passed out of the last tier is {default}\n"));
    lines
}

fn tier(tier: &Tier) -> String {
    let built_in = if tier.built_in { " (built in)" } else { "" };
    let end = tier.denied_packets.zip(tier.denied_bytes);
    let mut out = head([
        ("Name", format!("{}{built_in}", text::clean(&tier.tier.name))),
        ("Kind", kind("Tier", CALICO)),
        ("Order", order(tier.tier.order)),
        ("Default action", coloured(tier.tier.default_action)),
        (
            "Denied at its end",
            end.map(|(packets, bytes)| traffic(packets, bytes)).unwrap_or_default(),
        ),
    ]);
    if tier.policies.is_empty() {
        out.push_str(&section("Policies, in order", "none"));
        return out;
    }
    let mut table = table::table(&["ORDER", "KIND", "NAMESPACE", "NAME", "TYPES", "ENDPOINTS"]);
    for member in &tier.policies {
        table.add_row([
            order(member.order),
            member.name.kind.to_owned(),
            dash(&member.name.namespace),
            text::clean(&member.name.name).into_owned(),
            text::list(&member.types),
            member.endpoints.to_string(),
        ]);
    }
    out.push_str(&section("Policies, in order", &table::render(table)));
    out
}

fn network_set(set: &NetworkSet) -> String {
    let mut out = head([
        ("Name", text::clean(&set.name.name).into_owned()),
        ("Namespace", namespace_of(set.name.namespace.as_deref())),
        ("Kind", kind(&set.name.kind, &set.name.api_version)),
        ("Labels", pairs(&set.labels)),
    ]);
    if set.nets.is_empty() {
        out.push_str(&section("Networks", &nothing()));
    } else {
        let mut lines: Vec<&str> = set.nets.iter().take(NETS_SHOWN).map(String::as_str).collect();
        let more = set.nets.len().saturating_sub(NETS_SHOWN);
        let rest = format!("and {more} more");
        if more > 0 {
            lines.push(&rest);
        }
        out.push_str(&section(&format!("Networks ({})", set.nets.len()), &lines.join("\n")));
    }
    let uses: Vec<String> = set.used_by.iter().map(usage).collect();
    let uses = if uses.is_empty() { "no rule".to_owned() } else { uses.join("\n") };
    out.push_str(&section("Used by", &uses));
    out
}

fn usage(usage: &Use) -> String {
    let how = if usage.excluded { "everybody but it as" } else { "as" };
    format!("{} {}, {how} {}", policy_words(&usage.policy), text::clean(&usage.rule), usage.side)
}

fn namespace(namespace: &Namespace) -> String {
    let mut out = head([
        ("Name", text::clean(&namespace.name).into_owned()),
        ("Kind", kind("Namespace", CORE)),
        ("Labels", pairs(&namespace.labels)),
    ]);
    out.push_str(&endpoints_section("Endpoints", &namespace.endpoints));
    let policies: Vec<String> = namespace.policies.iter().map(policy_words).collect();
    for (title, names) in [("Policies", policies), ("Network sets", namespace.network_sets.clone())]
    {
        let names: Vec<_> = names.iter().map(|name| text::clean(name)).collect();
        let body = if names.is_empty() { "none".to_owned() } else { names.join("\n") };
        out.push_str(&section(title, &body));
    }
    out
}

fn endpoints_section(title: &str, endpoints: &[EndpointName]) -> String {
    if endpoints.is_empty() {
        return section(title, &nothing());
    }
    let mut table = table::table(&["NAMESPACE", "NAME", "NETWORK", "ADDRESSES"]);
    for endpoint in endpoints {
        table.add_row([
            Cell::new(text::clean(&endpoint.namespace)),
            Cell::new(text::clean(&endpoint.name)),
            Cell::new(dash(&endpoint.network)),
            Cell::new(text::list(&endpoint.addresses)),
        ]);
    }
    section(&format!("{title} ({})", endpoints.len()), &table::render(table))
}

fn nothing() -> String {
    format!("{}none{:#}", style::WARN, style::WARN)
}

fn coloured(action: &str) -> String {
    let style = action_style(action);
    format!("{style}{action}{style:#}")
}

fn tier_words(tier: &TierEnd) -> String {
    let name = text::clean(&tier.name);
    let end = coloured(tier.default_action);
    format!("{name}, order {}, default action {end}", order(tier.order))
}

fn policy_words(policy: &PolicyName) -> String {
    let kind = text::policy_kind(policy.kind);
    format!("{kind} {}", text::namespaced(&policy.namespace, &policy.name))
}

fn kind(kind: &str, api_version: &str) -> String {
    format!("{} ({})", text::clean(kind), text::clean(kinds::group(api_version)))
}

fn namespace_of(namespace: Option<&str>) -> String {
    text::clean(namespace.unwrap_or_default()).into_owned()
}

fn order(order: Option<f64>) -> String {
    order.map_or_else(|| "last".to_owned(), |order| order.to_string())
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text::clean(text).into_owned() }
}

fn pairs(pairs: &BTreeMap<String, String>) -> String {
    let lines: Vec<_> = pairs
        .iter()
        .map(|(name, value)| text::clean(&format!("{name}={value}")).into_owned())
        .collect();
    lines.join("\n")
}
