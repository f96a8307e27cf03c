//! Advice: what a model shows about the policies in it.

use std::collections::BTreeSet;

use super::*;
use crate::{
    labels::endpoint_labels,
    model::Model,
    testing::{add_endpoint, endpoint, ip},
};

/// A model of these resources, `web` (10.0.0.2) and `db` (10.0.0.3) in the namespace `shop`, and
/// the host.
fn model(resources: &[&str]) -> Model {
    let mut model = Model::default();
    for (slot, app, address) in [(0, "web", "10.0.0.2"), (1, "db", "10.0.0.3")] {
        let mut endpoint = endpoint(slot, app, app, &[address]);
        endpoint.labels = endpoint_labels([("app", app)], "shop", app, "docker");
        add_endpoint(&mut model, app, endpoint);
    }
    model.host_addresses.insert(ip("10.0.0.254"));
    for text in resources {
        match decode(&value(text)).expect(text) {
            Object::Policy(policy) => {
                model.policies.insert(policy.key.clone(), policy);
            }
            Object::NetworkSet(set) => {
                model.network_sets.insert((set.namespace.clone(), set.name.clone()), set);
            }
            Object::Tier(tier) => {
                model.tiers.insert(tier.name.clone(), tier);
            }
            other => panic!("{other:?}"),
        }
    }
    model
}

fn everything(resources: &[&str]) -> BTreeSet<ResourceName> {
    resources.iter().map(|text| decode(&value(text)).unwrap().resource_name()).collect()
}

/// (resource, path, part of the text) of each piece of advice about all resources.
fn expect_of(model: &Model, of: &BTreeSet<ResourceName>, expected: &[(&str, &str, &str)]) {
    let found = advice(model, of);
    let texts: Vec<String> = found.iter().map(|(name, it)| format!("{} {it}", name.name)).collect();
    assert_eq!(found.len(), expected.len(), "{texts:#?}");
    for ((name, path, part), (resource, it)) in expected.iter().zip(&found) {
        assert_eq!((resource.name.as_str(), it.path.as_str()), (*name, *path), "{texts:#?}");
        assert!(it.to_string().contains(part), "no `{part}` in {texts:#?}");
        assert!(it.severity == Severity::Warning && it.hint.is_some());
    }
}

fn expect(resources: &[&str], expected: &[(&str, &str, &str)]) {
    expect_of(&model(resources), &everything(resources), expected);
}

fn policy(kind: &str, name: &str, spec: &str) -> String {
    let metadata = match kind {
        "NetworkPolicy" => format!("name: {name}\nnamespace: shop"),
        _ => format!("name: {name}"),
    };
    document("projectcalico.org/v3", kind, &metadata, spec)
}

fn set(name: &str, labels: &str, nets: &str) -> String {
    let metadata = format!("name: {name}\nlabels: {labels}");
    document("projectcalico.org/v3", "GlobalNetworkSet", &metadata, &format!("nets: {nets}"))
}

#[test]
fn a_policy_without_endpoints() {
    let of = |spec: &str| policy("NetworkPolicy", "a", spec);
    expect(&[&of("selector: app == 'web'")], &[]);
    expect(&[&of("order: 1")], &[]);
    expect(&[&of("selector: app == 'wep'")], &[("a", "spec.selector", "selects no endpoint")]);
    // The labels are there, but on nobody of the namespace.
    expect(
        &[&of("selector: app == 'web'").replace("shop", "other")],
        &[("a", "spec.selector", "selects no endpoint")],
    );
    let knp = knp("podSelector: {matchLabels: {app: db}}");
    expect(&[&knp.replace("namespace: ns", "namespace: shop")], &[]);
    expect(&[&knp], &[("p", "spec.podSelector", "selects no endpoint")]);
    // A network set is no endpoint.
    let none = of("selector: list == 'bad'");
    expect(
        &[&set("s", "{list: bad}", "[10.0.0.0/8]"), &none],
        &[("a", "spec.selector", "selects no endpoint")],
    );
    // Where nothing runs yet, nothing is said.
    let mut empty = model(&[&none]);
    empty.endpoints = Default::default();
    expect_of(&empty, &everything(&[&none]), &[]);
}

#[test]
fn a_rule_without_peers() {
    let of = |rule: &str| policy("GlobalNetworkPolicy", "a", &format!("ingress: [{rule}]"));
    for (rule, expected) in [
        ("{action: Allow, source: {selector: \"app == 'db'\"}}", &[][..]),
        ("{action: Allow, source: {selector: has(palisade.io/host)}}", &[]),
        ("{action: Allow, source: {namespaceSelector: \"projectcalico.org/name == 'shop'\"}}", &[]),
        ("{action: Allow, source: {namespaceSelector: global()}}", &[]),
        ("{action: Deny, source: {notSelector: \"app == 'x'\"}}", &[]),
        ("{action: Deny, source: {selector: \"list in {'full', 'bare'}\"}}", &[]),
        (
            "{action: Allow, source: {selector: \"app == 'x'\"}}",
            &[(
                "a",
                "spec.ingress[0].source.selector",
                "allows nothing now: `app == \"x\"` picks no endpoint and no",
            )],
        ),
        (
            "{action: Pass, destination: {selector: \"app starts with 'x'\"}}",
            &[("a", "spec.ingress[0].destination.selector", "passes nothing on now")],
        ),
        (
            "{action: Deny, source: {selector: \"list == 'bare'\"}}",
            &[(
                "a",
                "spec.ingress[0].source.selector",
                "denies nothing now: `list == \"bare\"` picks only network sets without networks, bare",
            )],
        ),
    ] {
        let policy = of(rule);
        let full = set("full", "{list: full}", "[10.0.0.0/8]");
        let bare = set("bare", "{list: bare}", "[]");
        expect(&[&full, &bare, &policy], expected);
    }
    let knp =
        knp("egress: [{to: [{podSelector: {matchLabels: {app: x}}}, {podSelector: {}}], ports: \
                   [{port: 1}, {protocol: UDP, port: 1}]}]");
    let knp = knp.replace("namespace: ns", "namespace: shop");
    expect(&[&knp], &[("p", "spec.egress[0].to", "allows nothing now")]);
}

#[test]
fn an_emptied_set_that_a_deny_needs() {
    let deny = |action: &str| {
        let rule =
            format!("ingress: [{{action: {action}, source: {{selector: \"list == 'bad'\"}}}}]");
        policy("GlobalNetworkPolicy", "deny", &rule)
    };
    let (empty, full) = (set("s", "{list: bad}", "[]"), set("s", "{list: bad}", "[192.0.2.0/24]"));
    let just_set = everything(&[&empty]);
    let found = [(
        "s",
        "spec.nets",
        "a rule of GlobalNetworkPolicy deny (spec.ingress[0].source.selector) denies",
    )];
    expect_of(&model(&[&empty, &deny("Deny")]), &just_set, &found);
    expect_of(&model(&[&full, &deny("Deny")]), &just_set, &[]);
    expect_of(&model(&[&empty, &deny("Allow")]), &just_set, &[]);
    expect_of(&model(&[&empty]), &just_set, &[]);
    // Another set has networks to deny.
    let other = set("t", "{list: bad}", "[198.51.100.0/24]");
    expect_of(&model(&[&empty, &other, &deny("Deny")]), &just_set, &[]);
    // Said once where both are applied, at the rule.
    let rule = [("deny", "spec.ingress[0].source.selector", "denies nothing now")];
    expect(&[&empty, &deny("Deny")], &rule);
}

#[test]
fn block_lists() {
    let list = |selector: &str| {
        let spec = format!(
            "doNotTrack: true\napplyOnForward: true\nselector: {selector}\ningress: [{{action: Deny, \
             source: {{selector: \"app == 'web'\"}}}}]"
        );
        policy("GlobalNetworkPolicy", "a", &spec)
    };
    let everywhere = list("all()");
    let mut with_uplink = model(&[&everywhere]);
    let names = everything(&[&everywhere]);
    // An endpoint is in no block list, whatever its labels.
    let no_set = ("a", "spec.ingress[0].source.selector", "picks no network set");
    expect_of(&with_uplink, &names, &[("a", "spec.selector", "selects no uplink"), no_set]);
    with_uplink.uplinks.insert(2, [("palisade.io/host", "")].into_iter().collect());
    expect_of(&with_uplink, &names, &[no_set]);
    let Object::NetworkSet(set) = decode(&value(&set("s", "{app: web}", "[10.0.0.0/8]"))).unwrap()
    else {
        panic!("a set")
    };
    with_uplink.network_sets.insert((String::new(), "s".to_owned()), set);
    expect_of(&with_uplink, &names, &[]);
}

#[test]
fn a_policy_behind_one_that_decides_everything() {
    let of = |kind: &str, name: &str, order: u32, selector: &str, more: &str| {
        policy(kind, name, &format!("order: {order}\nselector: {selector}\n{more}"))
    };
    let (np, gnp) = ("NetworkPolicy", "GlobalNetworkPolicy");
    let all = "ingress: [{action: Deny, protocol: TCP}, {action: Allow}]";
    let tcp = "ingress: [{action: Allow, protocol: TCP}]";
    let behind = [("b", "spec.ingress", "GlobalNetworkPolicy a stands before it")];
    let web = "app == 'web'";
    for (first, second, expected) in [
        (of(gnp, "a", 1, "all()", all), of(gnp, "b", 2, web, tcp), &behind[..]),
        (of(gnp, "a", 1, "all()", all), of(np, "b", 2, web, tcp), &behind),
        (of(gnp, "a", 1, web, all), of(gnp, "b", 2, web, tcp), &behind),
        (
            of(np, "a", 1, "''", all),
            of(np, "b", 2, web, tcp),
            &[("b", "spec.ingress", "NetworkPolicy shop/a stands before it")],
        ),
        (of(gnp, "a", 3, "all()", all), of(gnp, "b", 2, web, tcp), &[]),
        (of(gnp, "a", 1, web, all), of(gnp, "b", 2, "all()", tcp), &[]),
        (of(gnp, "a", 1, "all()", tcp), of(gnp, "b", 2, web, all), &[]),
        (
            of(gnp, "a", 1, "all()", all),
            of(gnp, "b", 2, web, "egress: [{action: Allow, protocol: TCP}]"),
            &[],
        ),
        (of(gnp, "a", 1, "all()", all), of(gnp, "b", 2, web, &format!("tier: ops\n{tcp}")), &[]),
    ] {
        let tier = document("projectcalico.org/v3", "Tier", "name: ops", "order: 1");
        expect(&[&tier, &first, &second], expected);
    }
}

#[test]
fn only_what_is_asked_for() {
    let (a, b) = (np("selector: app == 'x'"), gnp("selector: app == 'x'"));
    let model = model(&[&a, &b]);
    assert_eq!(advice(&model, &BTreeSet::new()), []);
    let gone = everything(&[&knp("podSelector: {}")]);
    assert_eq!(advice(&model, &gone), []);
    let found = advice(&model, &everything(&[&b]));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0.kind, "GlobalNetworkPolicy");
}
