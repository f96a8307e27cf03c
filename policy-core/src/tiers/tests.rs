use super::*;
use crate::{
    policy::PolicyKind,
    testing::{self, add_policy, add_tier, tier},
};

fn names(model: &Model) -> Vec<String> {
    of(model).into_iter().map(|tier| tier.name).collect()
}

#[test]
fn there_is_always_a_default_tier() {
    assert_eq!(of(&Model::default()), [built_in(DEFAULT_TIER).unwrap()]);
}

#[test]
fn tiers_go_by_order_then_by_name() {
    let mut model = Model::default();
    for (name, order) in [
        ("z-first", Some(-1.0)),
        ("b-tie", Some(5.0)),
        ("a-tie", Some(5.0)),
        ("zero", Some(0.0)),
        ("minus-zero", Some(-0.0)),
        // As `default` itself.
        ("a-same", Some(DEFAULT_ORDER)),
        ("z-same", Some(DEFAULT_ORDER)),
        ("late", Some(1e9)),
    ] {
        add_tier(&mut model, tier(name, order, TierAction::Pass));
    }
    let expected =
        ["z-first", "minus-zero", "zero", "a-tie", "b-tie", "a-same", "default", "z-same", "late"];
    assert_eq!(names(&model), expected);
}

#[test]
fn built_in_tiers_appear_where_policies_name_them() {
    let mut model = Model::default();
    for name in ["kube-baseline", "kube-admin"] {
        let mut policy = testing::policy(name, "all()", Vec::new());
        policy.tier = name.to_owned();
        add_policy(&mut model, policy);
    }
    assert_eq!(names(&model), ["kube-admin", "default", "kube-baseline"]);
    assert_eq!(of(&model)[2].end, TierAction::Pass);
}

#[test]
fn policies_of_a_tier_that_is_not_there_are_not_forgotten() {
    let mut model = Model::default();
    let mut policy = testing::policy("p", "all()", Vec::new());
    policy.tier = "gone".to_owned();
    add_policy(&mut model, policy);
    add_tier(&mut model, tier("late", Some(1e9), TierAction::Pass));
    assert_eq!(names(&model), ["default", "late", "gone"]);
    assert_eq!(of(&model)[2].end, TierAction::Deny);
}

#[test]
fn policies_go_by_order_then_by_the_text_of_their_key() {
    use PolicyKind::{GlobalNetworkPolicy, KubernetesNetworkPolicy, NetworkPolicy};
    // As upstream sorts them.
    let expected = [
        ("z", "shop", NetworkPolicy, Some(-1.0)),
        ("a", "shop", KubernetesNetworkPolicy, Some(1000.0)),
        ("a", "shop", NetworkPolicy, Some(1000.0)),
        // `-` and `.` sort before the `/` behind a name.
        ("web-2", "shop", NetworkPolicy, None),
        ("web.2", "shop", NetworkPolicy, None),
        ("web", "", GlobalNetworkPolicy, None),
        ("web", "blog-2", NetworkPolicy, None),
        ("web", "blog", NetworkPolicy, None),
        ("web", "shop", NetworkPolicy, None),
        ("web2", "", GlobalNetworkPolicy, None),
    ];
    let mut model = Model::default();
    for (name, namespace, kind, order) in expected {
        let mut policy = testing::policy(name, "all()", Vec::new());
        policy.key = PolicyKey { name: name.to_owned(), namespace: namespace.to_owned(), kind };
        policy.order = Order(order);
        add_policy(&mut model, policy);
    }
    let tiers = of(&model);
    let found: Vec<_> = policies(&model, &tiers[0], Walk::Enforced)
        .into_iter()
        .map(|it| (it.key.name.as_str(), it.key.namespace.as_str(), it.key.kind, it.order.0))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn untracked_policies_go_by_tier_first() {
    let mut model = Model::default();
    for (name, tier, order) in [("a", "default", 1.0), ("z", "ops", 9.0)] {
        let mut policy = testing::policy(name, "all()", Vec::new());
        (policy.tier, policy.order, policy.untracked) = (tier.to_owned(), Order(Some(order)), true);
        add_policy(&mut model, policy);
    }
    add_tier(&mut model, tier("ops", Some(1.0), TierAction::Deny));
    let found: Vec<&str> =
        untracked(&model).iter().map(|policy| policy.key.name.as_str()).collect();
    assert_eq!(found, ["z", "a"]);
    assert!(policies(&model, &of(&model)[0], Walk::Enforced).is_empty());
}
