//! What the dashboard of a roll-out must show.

use policy_test::dashboards::prometheus::Vector;

use super::{Counted, Expected, RULE, RULE_AND_ACTION, Shown, and, labels, some, sum};

pub(super) fn expected(title: &str, reference: &str, shown: &Shown<'_>) -> Option<Expected> {
    let staged = shown.of("palisade_staged_flows_total");
    let of = |action: &'static str, enforced: &'static str| {
        let wanted =
            move |it: &&Counted| it.label("action") == action && it.label("enforced") == enforced;
        staged.iter().copied().filter(wanted)
    };
    let rules = |metric| Expected::Exactly(some(sum(shown.of(metric), &RULE_AND_ACTION)));
    Some(match (title, reference) {
        ("Would be denied", "A") => Expected::Exactly(sum(of("deny", "allow"), &[])),
        ("Would be allowed", "A") => Expected::Exactly(sum(of("allow", "deny"), &[])),
        ("Would stay as they are", "A") => {
            Expected::Exactly(sum(of("allow", "allow").chain(of("deny", "deny")), &[]))
        }
        ("Would be denied, by rule", "A") => {
            Expected::Exactly(some(sum(of("deny", "allow"), &RULE)))
        }
        ("Would be allowed, by rule", "A") => {
            Expected::Exactly(some(sum(of("allow", "deny"), &RULE)))
        }
        ("Staged verdicts", "A") => {
            Expected::Exactly(some(sum(staged, &and(&RULE_AND_ACTION, &["enforced"]))))
        }
        ("Hits by rule", "A") => rules("palisade_rule_packets_total"),
        ("Hits by rule", "B") => rules("palisade_rule_bytes_total"),
        ("Rules that have never hit", "A") => {
            let choice =
                shown.choice.get("policy_namespace").is_none_or(|chosen| *chosen == "shop");
            let never = Expected::Exactly(if choice { never_hit() } else { Vector::new() });
            shown.ours(never)
        }
        _ => return None,
    })
}

/// The rules, one in force and one staged, for services that nobody asked for.
fn never_hit() -> Vector {
    let rule = |kind, policy, rule| {
        labels(&[
            ("tier", "default"),
            ("policy_namespace", "shop"),
            ("kind", kind),
            ("policy", policy),
            ("rule", rule),
            ("action", "allow"),
        ])
    };
    [
        (rule("NetworkPolicy", "db-from-web", "ingress[3]"), 0.0),
        (rule("StagedNetworkPolicy", "db-next", "ingress[2]"), 0.0),
    ]
    .into()
}
