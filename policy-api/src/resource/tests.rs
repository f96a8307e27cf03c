//! Shape errors: where, how many, and what they say.

use serde_json::json;

use super::*;

fn found(value: &Value) -> Vec<(String, String)> {
    let parsed = parse(value);
    parsed.diagnostics.into_iter().map(|found| (found.path.clone(), found.to_string())).collect()
}

#[test]
fn what_servers_write_is_accepted() {
    let value = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": "a", "namespace": "b", "uid": "1", "resourceVersion": "2", "generation": 3,
            "creationTimestamp": null, "selfLink": "/x", "managedFields": [{"manager": "m"}],
            "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0,
            "ownerReferences": [{"kind": "k"}], "annotations": {"c": "d"},
        },
        "spec": {"podSelector": {}},
        "status": {},
    });
    let parsed = parse(&value);
    assert_eq!(parsed.diagnostics, []);
    assert!(matches!(parsed.resource, Some(Resource::KubernetesNetworkPolicy(_))));
}

#[test]
fn null_is_absence_and_empty_is_not() {
    let policy = |spec: Value| {
        let value = json!({"apiVersion": KUBERNETES, "kind": "NetworkPolicy", "metadata": {"name": "a"}, "spec": spec});
        match parse(&value).resource {
            Some(Resource::KubernetesNetworkPolicy(object)) => object.spec,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(policy(Value::Null), None);
    let null = policy(json!({"podSelector": null, "ingress": null})).unwrap();
    assert_eq!(null, kubernetes::NetworkPolicySpec::default());
    let empty = policy(json!({"podSelector": {}, "ingress": []})).unwrap();
    assert_eq!(empty.pod_selector, Some(kubernetes::LabelSelector::default()));
    assert_eq!(empty.ingress, Some(vec![]));
    let peers = policy(
        json!({"ingress": [{"from": [{"namespaceSelector": {}}, {"namespaceSelector": null}]}]}),
    );
    let rules = peers.unwrap().ingress.unwrap();
    let peers = rules[0].from.as_ref().unwrap();
    assert!(peers[0].namespace_selector.is_some() && peers[1].namespace_selector.is_none());
}

#[test]
fn all_shape_errors_are_found_with_a_hint() {
    let value = json!({
        "apiVersion": CALICO,
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": 5, "lables": {}},
        "spec": {
            "doNotTrack": "yes",
            "preDnat": true,
            "types": "Ingress",
            "ingress": [
                {"action": "Allow", "icmp": {"type": "8"}, "notIcmp": {}},
                {"action": "Allow", "source": {"nets": [1]}, "destination": []},
            ],
        },
    });
    let found = found(&value);
    let expected = [
        ("metadata.name", "expected a string, found integer `5` (put the value in quotes)"),
        ("metadata.lables", "unknown field `lables` (did you mean `labels`?)"),
        ("spec.doNotTrack", "expected true or false"),
        ("spec.preDnat", "did you mean `preDNAT`?"),
        ("spec.types", "expected a list"),
        ("spec.ingress[0].icmp.type", "expected a whole number"),
        ("spec.ingress[0].notIcmp", "did you mean `notICMP`?"),
        ("spec.ingress[1].source.nets[0]", "expected a string"),
        ("spec.ingress[1].destination", "expected a mapping"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (path, part) in expected {
        assert!(
            found.iter().any(|(at, text)| at == path && text.contains(part)),
            "{path} {part}: {found:#?}"
        );
    }
}

/// serde takes a list for the fields of a struct in their order.
#[test]
fn a_list_is_no_mapping() {
    let of = |api: &str, kind: &str, spec: Value| {
        found(&json!({"apiVersion": api, "kind": kind, "metadata": {"name": "a"}, "spec": spec}))
    };
    let rule = |rule: Value| of(CALICO, "NetworkPolicy", json!({"ingress": [rule]}));
    let peer = |peer: Value| of(KUBERNETES, "NetworkPolicy", json!({"ingress": [peer]}));
    for (found, path) in [
        (of(CALICO, "Tier", json!([100, "Pass"])), "spec"),
        (of(CALICO, "GlobalNetworkSet", json!([["10.0.0.0/8"], null])), "spec"),
        (rule(json!({"icmp": [8, 0]})), "spec.ingress[0].icmp"),
        (rule(json!(["Allow"])), "spec.ingress[0]"),
        (rule(json!([])), "spec.ingress[0]"),
        (peer(json!({"ports": [["TCP", 80, null]]})), "spec.ingress[0].ports[0]"),
        (
            peer(json!({"from": [{"ipBlock": ["10.0.0.0/8", null]}]})),
            "spec.ingress[0].from[0].ipBlock",
        ),
        (
            peer(json!({"from": [{"podSelector": [{"a": "b"}, null]}]})),
            "spec.ingress[0].from[0].podSelector",
        ),
    ] {
        let [(at, text)] = found.as_slice() else { panic!("{path}: {found:#?}") };
        assert!(at == path && text.contains("found a list (write a"), "{path}: {text}");
    }
    let metadata = json!({"apiVersion": CALICO, "kind": "Tier", "metadata": ["a"]});
    assert!(found(&metadata)[0].1.contains("found a list"));
}

#[test]
fn what_was_found_is_named_in_words() {
    for (value, words) in [
        (
            json!({"matchLabels": {"a": "b"}}),
            "found a mapping (write a selector such as `app == 'web'`)",
        ),
        (json!(["a"]), "found a list (write a single value)"),
        (json!(5), "found integer `5` (put the value in quotes)"),
    ] {
        let policy =
            json!({"apiVersion": CALICO, "kind": "NetworkPolicy", "spec": {"selector": value}});
        assert!(found(&policy)[0].1.ends_with(words), "{words}: {:?}", found(&policy));
    }
    let set = json!({"apiVersion": CALICO, "kind": "NetworkSet", "spec": {"nets": [null]}});
    assert!(found(&set)[0].1.ends_with("found nothing (write a value, or remove this)"));
}

#[test]
fn kinds_of_other_policy_languages_are_not_taken_for_misspellings() {
    for (version, kind) in [
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy"),
        ("cilium.io/v2", "CiliumClusterwideNetworkPolicy"),
        ("projectcalico.org/v3", "Profile"),
    ] {
        let found = found(&json!({"apiVersion": version, "kind": kind}));
        assert!(found[0].1.contains("is not supported yet (supported are"), "{found:?}");
    }
}

#[test]
fn errors_are_bounded() {
    let spec: serde_json::Map<String, Value> =
        (0..1000).map(|index| (format!("field{index}"), Value::Null)).collect();
    let value = json!({"apiVersion": CALICO, "kind": "NetworkSet", "spec": spec});
    assert_eq!(found(&value).len(), 50);
}

#[test]
fn hints_know_typos_from_other_words() {
    assert_eq!(did_you_mean("slector", ["selector", "types"]), Some("selector"));
    assert_eq!(did_you_mean("Selector", ["selector", "notSelector"]), Some("selector"));
    assert_eq!(did_you_mean("zzz", ["selector", "types"]), None);
}
