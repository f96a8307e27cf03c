//! The answer to "may A talk to B?" in words. Input: the agent's explanation; output: the verdict
//! first, then each end with the rule that decides there and the walk that led to it.

use policy_api::messages::{EndDecision, ExplainedPath, Explanation, Verdict};

use super::{style, text};

/// The explanation as text of several lines.
pub(crate) fn explanation(
    source: &str,
    destination: &str,
    service: &str,
    answer: &Explanation,
) -> String {
    let strong = style::STRONG;
    let mut lines = vec![format!(
        "{strong}{} -> {} {service}{strong:#}: {}",
        text::clean(source),
        text::clean(destination),
        verdict(answer.verdict)
    )];
    if answer.paths.is_empty() {
        lines.push(String::new());
        lines.push("The two ends have no address of the same family.".to_owned());
    }
    for group in same_decisions(&answer.paths) {
        lines.push(String::new());
        let pairs: Vec<String> =
            group.iter().map(|path| format!("{} -> {}", path.source, path.destination)).collect();
        lines.push(pairs.join(", "));
        // `same_decisions` makes no empty group.
        for end in group.first().map_or(&[][..], |path| &path.ends) {
            lines.extend(end_lines(end));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Paths of one verdict for one set of reasons, so that IPv4 and IPv6 are told once.
fn same_decisions(paths: &[ExplainedPath]) -> Vec<Vec<&ExplainedPath>> {
    let mut groups: Vec<Vec<&ExplainedPath>> = Vec::new();
    for path in paths {
        let same =
            |other: &ExplainedPath| (&other.ends, other.verdict) == (&path.ends, path.verdict);
        match groups.iter_mut().find(|group| group.iter().any(|other| same(other))) {
            Some(group) => group.push(path),
            None => groups.push(vec![path]),
        }
    }
    groups
}

fn end_lines(end: &EndDecision) -> Vec<String> {
    let (way, direction) = match end.direction.as_str() {
        "egress" => ("leaving ", "egress"),
        "ingress" => ("entering", "ingress"),
        other => ("at", other),
    };
    let Some(endpoint) = &end.endpoint else {
        let dim = style::DIM;
        let direction = text::clean(direction);
        return vec![format!(
            "  {way} the other end ({direction}): {dim}no endpoint of this host, nothing is \
             enforced there{dim:#}"
        )];
    };
    let strong = style::STRONG;
    let mut lines = vec![format!(
        "  {way} {strong}{}{strong:#} ({}): {} by {}",
        text::clean(endpoint),
        text::clean(direction),
        verdict(end.verdict),
        text::rule(&end.rule)
    )];
    lines.extend(walk(&end.walk));
    if let Some(staged) = &end.staged {
        let different = if staged.verdict == end.verdict { "" } else { ", which is different" };
        lines.push(format!(
            "    if the staged policies were in force: {} by {}{different}",
            verdict(staged.verdict),
            text::rule(&staged.rule)
        ));
        lines.extend(walk(&staged.walk));
    }
    lines
}

fn walk(steps: &[String]) -> impl Iterator<Item = String> {
    let dim = style::DIM;
    steps.iter().map(move |step| format!("      {dim}{}{dim:#}", text::clean(step)))
}

fn verdict(verdict: Verdict) -> String {
    let (style, word) = match verdict {
        Verdict::Allow => (style::GOOD, "allowed"),
        Verdict::Deny => (style::BAD, "DENIED"),
    };
    format!("{style}{word}{style:#}")
}
