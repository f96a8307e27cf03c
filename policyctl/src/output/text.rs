//! Small texts that several commands print. Input: parts of answers; output: one line each, safe
//! to send to a terminal.

use std::fmt::Display;

use policy_api::diagnostic::{Diagnostic, Severity};
use policy_api::flow::FlowEnd;
use policy_api::messages::RuleName;

use super::style;

pub(crate) use policy_api::terminal::{clean, clean_json};

/// One line for a finding, its severity coloured.
pub(crate) fn diagnostic(diagnostic: &Diagnostic) -> String {
    let line = diagnostic.to_string();
    let (style, word) = match diagnostic.severity {
        Severity::Error => (style::BAD, "error: "),
        Severity::Warning => (style::WARN, "warning: "),
    };
    let line = clean(&line);
    match line.split_once(word) {
        Some((place, message)) => format!("{place}{style}{word}{style:#}{message}"),
        None => line.into_owned(),
    }
}

/// `1 endpoint`, `2 endpoints`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// `namespace/name`, or the name alone for what has no namespace.
pub(crate) fn namespaced(namespace: &str, name: &str) -> String {
    let full = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
    clean(&full).into_owned()
}

/// `a, b, c`, or `-` for nothing.
pub(crate) fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> =
        items.into_iter().map(|item| clean(&item.to_string()).into_owned()).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

/// The kind of a policy in two words where projects share a name.
pub(crate) fn policy_kind(kind: &str) -> &str {
    match kind {
        "KubernetesNetworkPolicy" => "Kubernetes NetworkPolicy",
        kind => kind,
    }
}

/// `840 B`, `1.2 kB`, `34.5 MB`: three digits are enough.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    // Tenths of the unit: integers do not round up to a unit that is not reached.
    let mut tenths = bytes / 100;
    let mut unit = UNITS.iter();
    let mut name = unit.next();
    while tenths >= 10_000 {
        tenths /= 1_000;
        name = unit.next().or(name);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, name.unwrap_or(&"EB"))
}

/// What decided, to stand after "by": a rule of a policy, or the default that stepped in.
pub(crate) fn rule(rule: &RuleName) -> String {
    if !rule.policy.is_empty() {
        let kind = policy_kind(&rule.kind);
        let policy = namespaced(&rule.namespace, &rule.policy);
        return format!("{} {policy} {}", clean(kind), clean(&rule.rule));
    }
    match rule.rule.as_str() {
        "tier-default" => {
            format!("the end of tier {} (no rule matched)", clean(&rule.tier))
        }
        "endpoint-default" => "default-action (no policy decided)".to_owned(),
        "host-access" => "the host-access setting".to_owned(),
        other => clean(other).into_owned(),
    }
}

/// `shop/web 172.20.0.2:41234`.
pub(crate) fn flow_end(end: &FlowEnd) -> String {
    let name = namespaced(&end.namespace, &end.name);
    let address = match (end.ip, end.port) {
        (None, 0) => String::new(),
        (None, port) => format!(":{port}"),
        (Some(ip), 0) => ip.to_string(),
        (Some(ip), port) => std::net::SocketAddr::new(ip, port).to_string(),
    };
    let (strong, between) =
        (style::STRONG, if name.is_empty() || address.is_empty() { "" } else { " " });
    format!("{strong}{name}{strong:#}{between}{address}")
}

/// `3 d 4 h`, `12 min 5 s`: two units are enough.
pub(crate) fn duration(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, unit) in UNITS {
        let amount = rest / size;
        rest %= size;
        if amount > 0 || (!parts.is_empty() && parts.len() < 2) {
            parts.push((amount, unit));
        }
    }
    parts.truncate(2);
    parts.retain(|(amount, _)| *amount > 0);
    if parts.is_empty() {
        return "0 s".to_owned();
    }
    parts.iter().map(|(amount, unit)| format!("{amount} {unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_it_obeys() {
        assert_eq!(clean("web-1 ä"), "web-1 ä");
        assert_eq!(clean("a\u{1b}[2Jb\r\n"), "a\\u{1b}[2Jb\\r\\n");
        assert_eq!(clean("\u{9b}31m\u{202e}x"), "\\u{9b}31m\\u{202e}x");
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({ "a\u{9b}": ["\u{202e}b\n", "\u{7f}", "ä"] });
        let text = serde_json::to_string_pretty(&value).expect("JSON");
        let cleaned = clean_json(&text);
        assert!(cleaned.contains("\\u009b") && cleaned.contains("\\u202e"), "{cleaned}");
        assert!(cleaned.contains("\\u007f") && cleaned.contains('ä'), "{cleaned}");
        let back: serde_json::Value = serde_json::from_str(&cleaned).expect("JSON");
        assert_eq!(back, value);
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (725, "12 min 5 s"),
            (3_601, "1 h"),
            (90_061, "1 d 1 h"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }

    #[test]
    fn bytes_have_one_decimal() {
        for (number, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_290, "1.2 kB"),
            (999_999, "999.9 kB"),
            (34_560_000, "34.5 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(number), expected);
        }
    }

    #[test]
    fn rules_read_as_sentences() {
        let name = RuleName {
            tier: "default".to_owned(),
            namespace: "shop".to_owned(),
            kind: "KubernetesNetworkPolicy".to_owned(),
            policy: "db".to_owned(),
            rule: "ingress[0]".to_owned(),
            action: "deny".to_owned(),
        };
        assert_eq!(rule(&name), "Kubernetes NetworkPolicy shop/db ingress[0]");
        let default = RuleName {
            rule: "tier-default".to_owned(),
            tier: "default".to_owned(),
            ..RuleName::default()
        };
        assert_eq!(rule(&default), "the end of tier default (no rule matched)");
    }
}
