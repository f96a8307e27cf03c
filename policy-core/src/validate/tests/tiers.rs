//! Tiers: what is accepted, what is refused, and what policies need of them.

use super::*;
use crate::{
    policy::{Action, Order},
    tiers::TierAction,
};

fn tier(name: &str, spec: &str) -> String {
    document("projectcalico.org/v3", "Tier", &format!("name: {name}"), spec)
}

fn policy(text: &str) -> Policy {
    match decode(&value(text)) {
        Ok(Object::Policy(policy)) => std::sync::Arc::unwrap_or_clone(policy),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn fields_and_defaults() {
    for (name, spec, order, end) in [
        ("ops", "order: 10.5\ndefaultAction: Pass", 10.5, TierAction::Pass),
        ("ops", "order: -1\ndefaultAction: Deny", -1.0, TierAction::Deny),
        ("ops", "order: 0", 0.0, TierAction::Deny),
        ("ops", "defaultAction: Pass", 1_000_000.0, TierAction::Pass),
        ("ops", "order: ~\ndefaultAction: ~", 1_000_000.0, TierAction::Deny),
        // The built-in ones, as an export has them.
        ("default", "order: 1000000\ndefaultAction: Deny", 1_000_000.0, TierAction::Deny),
        ("default", "order: ~", 1_000_000.0, TierAction::Deny),
        ("kube-admin", "order: 1000\ndefaultAction: Pass", 1_000.0, TierAction::Pass),
        ("kube-baseline", "order: 10000000\ndefaultAction: Pass", 10_000_000.0, TierAction::Pass),
    ] {
        let text = tier(name, spec);
        let Ok(Object::Tier(found)) = decode(&value(&text)) else { panic!("{text}") };
        assert_eq!((found.name.as_str(), found.order, found.end), (name, Order(Some(order)), end));
    }
    let exported = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: a, finalizers: \
                    [projectcalico.org/tier-controller]}\nstatus: {conditions: []}";
    assert!(matches!(decode(&value(exported)), Ok(Object::Tier(_))));
}

#[test]
fn what_is_refused() {
    let long = "a".repeat(64);
    let cases: &[Case] = &[
        ("dot", tier("a.b", "order: 1"), &[("metadata.name", "not a name for this kind")]),
        ("case", tier("Ops", "order: 1"), &[("metadata.name", "lower-case")]),
        ("long", tier(&long, "order: 1"), &[("metadata.name", "at most 63")]),
        (
            "namespace",
            tier("a\nnamespace: b", "order: 1"),
            &[("metadata.namespace", "not in a namespace")],
        ),
        ("order", tier("a", "order: first"), &[("spec.order", "write a number")]),
        ("allow", tier("a", "defaultAction: Allow"), &[("spec.defaultAction", "Deny or Pass")]),
        ("log", tier("a", "defaultAction: Log"), &[("spec.defaultAction", "Deny or Pass")]),
        (
            "case",
            tier("a", "defaultAction: pass"),
            &[("spec.defaultAction", "did you mean `Pass`?")],
        ),
        ("field", tier("a", "ordr: 1"), &[("spec.ordr", "did you mean `order`?")]),
        (
            "default",
            tier("default", "order: 1\ndefaultAction: Pass"),
            &[("spec.order", "always 1000000"), ("spec.defaultAction", "always Deny")],
        ),
        (
            "kube-admin",
            tier("kube-admin", "order: ~"),
            &[("spec.order", "always 1000"), ("spec.defaultAction", "always Pass")],
        ),
        (
            "kube-baseline",
            tier("kube-baseline", "defaultAction: Pass"),
            &[("spec.order", "always 10000000")],
        ),
    ];
    for (name, text, expected) in cases {
        check(name, text, expected);
    }
}

#[test]
fn policies_name_their_tier() {
    for (spec, expected) in
        [("order: 1", "default"), ("tier: ''", "default"), ("tier: ~", "default"), ("tier: a", "a")]
    {
        assert_eq!(policy(&np(spec)).tier, expected);
        assert_eq!(policy(&gnp(spec)).tier, expected);
    }
    assert_eq!(policy(&knp("podSelector: {}")).tier, "default");
    check("k8s", &knp("tier: a"), &[("spec.tier", "unknown field")]);
    // The tier in front of the name was the rule once, and still is allowed; `spec.tier` decides.
    let dotted = np("tier: ops").replacen("name: p", "name: ops.p", 1);
    let dotted = policy(&dotted);
    assert_eq!((dotted.key.name.as_str(), dotted.tier.as_str()), ("ops.p", "ops"));

    let rules = policy(&gnp("tier: a\ningress: [{action: Pass}]\negress: [{action: Pass}]"));
    let actions = [rules.ingress, rules.egress].map(|rules| rules.unwrap()[0].action);
    assert_eq!(actions, [Action::Pass; 2]);
}

#[test]
fn a_name_that_speaks_of_another_tier_is_warned_about() {
    for (tier, warned) in [("tier: ops", false), ("tier: default", true), ("order: 1", true)] {
        for text in [np(tier), gnp(tier)] {
            let text = text.replacen("name: p", "name: ops.p", 1);
            let (_, warnings) = decode_with_warnings(&value(&text)).unwrap();
            let found = warnings.iter().any(|it| it.message.contains("begins with `ops.`"));
            assert_eq!(found, warned, "{text}: {warnings:?}");
        }
    }
}

#[test]
fn a_policy_needs_its_tier() {
    let of = |texts: &[String]| -> Vec<(String, String)> {
        let objects: Vec<Object> =
            texts.iter().map(|text| decode(&value(text)).expect(text)).collect();
        let found = references(objects.iter());
        assert!(found.iter().all(|(_, it)| it.path == "spec.tier" && it.hint.is_some()));
        found.into_iter().map(|(name, it)| (name.kind, it.message)).collect()
    };
    assert_eq!(of(&[np("tier: ops"), tier("ops", "order: 1"), gnp("tier: ops")]), []);
    assert_eq!(
        of(&[
            np("order: 1"),
            gnp("tier: default"),
            knp("podSelector: {}"),
            gnp("tier: kube-admin")
        ]),
        []
    );
    let found = of(&[np("tier: ops"), tier("other", "order: 1"), gnp("tier: ops")]);
    let [(np, np_says), (gnp, gnp_says)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((np.as_str(), gnp.as_str()), ("NetworkPolicy", "GlobalNetworkPolicy"));
    assert_eq!(np_says, "NetworkPolicy ns/p is in the tier `ops`, which does not exist");
    assert_eq!(gnp_says, "GlobalNetworkPolicy p is in the tier `ops`, which does not exist");
}

#[test]
fn built_in_tiers_cannot_be_deleted() {
    let name = |version: &str, kind: &str, name: &str| ResourceName {
        api_version: version.to_owned(),
        kind: kind.to_owned(),
        namespace: None,
        name: name.to_owned(),
    };
    for built_in in ["default", "kube-admin", "kube-baseline"] {
        assert!(undeletable(&name(CALICO, "Tier", built_in)).is_some(), "{built_in}");
    }
    assert_eq!(undeletable(&name(CALICO, "Tier", "ops")), None);
    assert_eq!(undeletable(&name(CALICO, "GlobalNetworkPolicy", "default")), None);
    assert_eq!(undeletable(&name(CORE, "Namespace", "default")), None);
}
