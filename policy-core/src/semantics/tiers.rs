//! Tiers, Pass, order.

use super::{calico, check, check_model, gnp, knp, model, np, tier, zero_trust};

#[test]
fn pass_leaves_the_tier_and_nothing_else() {
    let documents = [
        tier("security", "{order: 1}"),
        gnp(
            "gate",
            "{tier: security, selector: app == 'db', ingress: [{action: Deny, protocol: TCP, destination: \
             {ports: [22]}}, {action: Pass, source: {selector: app == 'web'}}, {action: Allow, source: \
             {nets: [203.0.113.0/24]}}]}",
        ),
        np(
            "shop/db",
            "{ingress: [{action: Allow, protocol: TCP, destination: {ports: [22, 5432]}}]}",
        ),
    ];
    check(
        "pass",
        &documents,
        "in web > db tcp/22: deny gate ingress[0]
         in web > db tcp/5432: allow db ingress[0]
         in web > db tcp/80: deny default tier-default
         in 203.0.113.9 > db tcp/80: allow gate ingress[2]
         in bare > db tcp/5432: deny security tier-default
         in web > bare tcp/5432: allow db ingress[0]
         out db > web tcp/80: allow endpoint-default",
    );
}

#[test]
fn a_pass_for_some_ports_passes_those_only() {
    let documents = [
        tier("security", "{order: 1}"),
        gnp(
            "gate",
            "{tier: security, ingress: [{action: Pass, protocol: TCP, destination: {ports: ['80:90']}}, \
             {action: Allow, protocol: TCP, destination: {ports: ['85:95']}}]}",
        ),
        np("shop/db", "{ingress: [{action: Deny}]}"),
    ];
    check(
        "ranges",
        &documents,
        "in web > db tcp/80: deny db ingress[0]
         in web > db tcp/90: deny db ingress[0]
         in web > db tcp/91: allow gate ingress[1]
         in web > db tcp/96: deny security tier-default
         in web > db udp/80: deny security tier-default",
    );
}

#[test]
fn the_end_of_a_tier() {
    for (end, udp) in [("Deny", "deny ops tier-default"), ("Pass", "deny default tier-default")] {
        let documents = [
            tier("ops", &format!("{{order: 1, defaultAction: {end}}}")),
            np("shop/ops", "{tier: ops, ingress: [{action: Allow, protocol: TCP}]}"),
            gnp("all", "{ingress: [{action: Allow, protocol: SCTP}]}"),
        ];
        let connections = format!(
            "in web > db tcp/1: allow ops ingress[0]
             in web > db udp/1: {udp}
             in web > blog tcp/1: deny default tier-default
             in web > blog sctp/1: allow all ingress[0]
             out db > web tcp/1: allow endpoint-default"
        );
        check(end, &documents, &connections);
    }
}

#[test]
fn a_tier_without_a_policy_for_the_direction_is_skipped() {
    let documents = [
        tier("ops", "{order: 1}"),
        gnp("out", "{tier: ops, egress: [{action: Pass}]}"),
        gnp("blog", "{tier: ops, selector: projectcalico.org/namespace == 'blog'}"),
        np("shop/db", "{selector: app == 'db', ingress: [{action: Allow}]}"),
    ];
    check(
        "skipped",
        &documents,
        "in web > db tcp/1: allow db ingress[0]
         in web > bare tcp/1: allow endpoint-default
         in web > blog tcp/1: deny ops tier-default",
    );
}

#[test]
fn a_pass_out_of_the_last_tier_meets_the_default_of_the_endpoint() {
    let documents =
        [gnp("p", "{ingress: [{action: Pass, protocol: TCP}], types: [Ingress, Egress]}")];
    let allow = model(&documents);
    check_model(
        "allow",
        &allow,
        "in web > db tcp/1: allow endpoint-default
         in web > db udp/1: deny default tier-default
         out web > db tcp/1: deny default tier-default",
    );
    check_model("deny", &zero_trust(allow), "in web > db tcp/1: deny endpoint-default");
}

#[test]
fn tiers_go_by_order_then_name() {
    let deny = |tier: &str| gnp(tier, &format!("{{tier: {tier}, ingress: [{{action: Deny}}]}}"));
    let allow = gnp("plain", "{ingress: [{action: Allow}]}");
    for (name, spec, expected) in [
        ("z", "{order: 999999}", "deny z ingress[0]"),
        ("a", "{order: 1000001}", "allow plain ingress[0]"),
        // Without an order, that of `default`: the name decides.
        ("a", "{defaultAction: Deny}", "deny a ingress[0]"),
        ("z", "{defaultAction: Deny}", "allow plain ingress[0]"),
    ] {
        let documents = [tier(name, spec), deny(name), allow.clone()];
        check(name, &documents, &format!("in web > db tcp/1: {expected}"));
    }
    let both = [tier("b", "{order: 5}"), tier("a", "{order: 5}"), deny("b"), deny("a")];
    check("tie", &both, "in web > db tcp/1: deny a ingress[0]");
}

#[test]
fn built_in_tiers_stand_around_the_default_tier() {
    let documents = [
        gnp("early", "{tier: kube-admin, ingress: [{action: Deny, protocol: SCTP}]}"),
        np(
            "shop/db",
            "{ingress: [{action: Pass, protocol: TCP}, {action: Allow, protocol: SCTP}]}",
        ),
        gnp("late", "{tier: kube-baseline, ingress: [{action: Deny, protocol: TCP}]}"),
    ];
    check(
        "built in",
        &documents,
        "in web > db sctp/1: deny early ingress[0]
         in web > db tcp/1: deny late ingress[0]
         in web > db udp/1: deny default tier-default
         in web > blog tcp/1: deny late ingress[0]
         in web > blog udp/1: allow endpoint-default",
    );
}

#[test]
fn policies_go_by_order_then_key() {
    let rule = |action: &str| format!("ingress: [{{action: {action}}}]");
    for (name, first, second, expected) in [
        ("order", "{order: 2, ", "{order: 1, ", "deny b ingress[0]"),
        ("same", "{order: 1, ", "{order: 1, ", "allow a ingress[0]"),
        ("none is last", "{", "{order: 1000000000, ", "deny b ingress[0]"),
        ("negative", "{order: 0, ", "{order: -0.5, ", "deny b ingress[0]"),
        ("none", "{", "{", "allow a ingress[0]"),
    ] {
        let documents = [
            gnp("a", &format!("{first}{}}}", rule("Allow"))),
            gnp("b", &format!("{second}{}}}", rule("Deny"))),
        ];
        check(name, &documents, &format!("in web > db tcp/1: {expected}"));
    }
    // The kinds of one name: global, then by namespace and kind; `-` sorts before the end of a name.
    let allow = format!("{{{}}}", rule("Allow"));
    let deny = format!("{{{}}}", rule("Deny"));
    let line = "in web > db tcp/1: ";
    check("global", &[np("shop/p", &deny), gnp("p", &allow)], &format!("{line}allow p ingress[0]"));
    check("dash", &[gnp("p", &deny), gnp("p-1", &allow)], &format!("{line}allow p-1 ingress[0]"));
}

#[test]
fn kubernetes_policies_are_of_order_1000_in_the_default_tier() {
    let kubernetes = knp("shop/k", "{podSelector: {}, ingress: [{}]}");
    for (order, expected) in
        [("order: 999", "deny c"), ("order: 1001", "allow k"), ("selector: all()", "allow k")]
    {
        let deny = gnp("c", &format!("{{{order}, ingress: [{{action: Deny}}]}}"));
        let documents = [kubernetes.clone(), deny];
        check(order, &documents, &format!("in web > db tcp/1: {expected} ingress[0]"));
    }
    let documents = [
        kubernetes.clone(),
        tier("ops", "{order: 1}"),
        gnp("gate", "{tier: ops, order: 5000, ingress: [{action: Pass, protocol: TCP}]}"),
    ];
    check(
        "tier",
        &documents,
        "in web > db tcp/1: allow k ingress[0]
         in web > db udp/1: deny ops tier-default",
    );
    // Same name, namespace and order: Kubernetes' goes first.
    let deny = np("shop/k", "{order: 1000, ingress: [{action: Deny}]}");
    check("tie", &[kubernetes, deny], "in web > db tcp/1: allow k ingress[0]");
}

#[test]
fn tiers_that_decide_nothing_cost_no_writes() {
    let documents =
        |order: u8| [tier("ops", &format!("{{order: {order}}}")), np("shop/p", "{tier: ops}")];
    let mut compiler = crate::compile::Compiler::new();
    let planned = compiler.plan(&model(&documents(5))).unwrap();
    assert!(!planned.plan.ops.is_empty());
    compiler.commit(planned);
    // A tier without policies in front, and another order for the same place.
    let more = [&documents(6)[..], &[tier("empty", "{order: 1}")]].concat();
    assert_eq!(compiler.plan(&model(&more)).unwrap().plan.ops, []);
    // Another end is another policy.
    let pass = [tier("ops", "{order: 5, defaultAction: Pass}"), np("shop/p", "{tier: ops}")];
    assert!(!compiler.plan(&model(&pass)).unwrap().plan.ops.is_empty());
}

#[test]
fn the_walk_shows_tiers_and_pass() {
    let model = model(&[
        tier("ops", "{order: 1}"),
        gnp("gate", "{tier: ops, selector: app == 'db', ingress: [{action: Pass}]}"),
        calico("Tier", "quiet", "{order: 2}"),
        np("shop/db", "{ingress: [{action: Allow, protocol: UDP}]}"),
    ]);
    let packet = crate::evaluate::Packet {
        source: super::address(&model, "web"),
        destination: super::address(&model, "db"),
        protocol: 6,
        port: 80,
        source_port: 40_000,
    };
    let id = crate::model::EndpointId("db".to_owned());
    let direction = policy_common::abi::Direction::Ingress;
    let decision = crate::evaluate::evaluate(&model, &packet, direction, &id).unwrap();
    assert_eq!(
        decision.walk,
        [
            "tier ops: GlobalNetworkPolicy gate applies",
            "  ingress[0] pass: match",
            "tier ops: the rest is skipped",
            "tier quiet: no policy applies to ingress of shop/db",
            "tier default: NetworkPolicy shop/db applies",
            "  ingress[0] allow: no match, the protocol is TCP, not UDP",
            "end of tier default: deny, because no rule matched of the policies that apply \
             (NetworkPolicy shop/db)",
        ]
    );
}
