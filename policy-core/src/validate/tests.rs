//! Every refusal and every default, from YAML as an operator writes it.

use std::collections::BTreeSet;

use policy_api::{diagnostic::Severity, yaml};
use proptest::prelude::*;

use super::*;

mod accepted;
mod advised;
mod coverage;
mod refused;
mod refused_objects;
mod reported;
mod tiers;
mod warned;

/// Name, resource, and every finding as (path, part of message or hint).
type Case = (&'static str, String, &'static [(&'static str, &'static str)]);

/// Each finding as (path, part of message and hint).
fn check(name: &str, text: &str, expected: &[(&str, &str)]) {
    let diagnostics = decode(&value(text)).expect_err(name);
    let found: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(diagnostics.len(), expected.len(), "{name}: {found:#?}");
    for (path, part) in expected {
        assert!(
            diagnostics.iter().any(|diagnostic| {
                diagnostic.path == *path
                    && diagnostic.severity == Severity::Error
                    && diagnostic.hint.is_some()
                    && diagnostic.to_string().contains(part)
            }),
            "{name}: no `{part}` with a hint at `{path}` in {found:#?}"
        );
    }
}

/// The one resource of a text.
fn value(text: &str) -> Value {
    let mut documents = yaml::read("test.yaml", text.as_bytes()).expect("valid YAML");
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0).value
}

/// A NetworkPolicy `p` in namespace `ns` with this `spec`, one field a line.
fn np(spec: &str) -> String {
    document("projectcalico.org/v3", "NetworkPolicy", "name: p\nnamespace: ns", spec)
}

/// A GlobalNetworkPolicy `p`.
fn gnp(spec: &str) -> String {
    document("projectcalico.org/v3", "GlobalNetworkPolicy", "name: p", spec)
}

/// A Kubernetes NetworkPolicy `p` in namespace `ns`.
fn knp(spec: &str) -> String {
    document("networking.k8s.io/v1", "NetworkPolicy", "name: p\nnamespace: ns", spec)
}

/// A WorkloadEndpoint `w` in the namespace `default`.
fn wep(spec: &str) -> String {
    document("projectcalico.org/v3", "WorkloadEndpoint", "name: w", spec)
}

fn document(version: &str, kind: &str, metadata: &str, spec: &str) -> String {
    let indent = |text: &str| -> String {
        text.trim_matches('\n').lines().map(|line| format!("  {line}\n")).collect()
    };
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata:\n{}spec:\n{}",
        indent(metadata),
        indent(spec)
    )
}

/// Values of any shape, under names that mean something.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1_i64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "Allow",
            "Deny",
            "Pass",
            "TCP",
            "ICMP",
            "Ingress",
            "Egress",
            "In",
            "all()",
            "global()",
            "80:90",
            "10.0.0.0/8",
            "::/0",
            "10.0.0.1",
            "a",
            "",
        ])
        .prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "name",
        "namespace",
        "labels",
        "annotations",
        "selector",
        "namespaceSelector",
        "notSelector",
        "types",
        "policyTypes",
        "ingress",
        "egress",
        "action",
        "protocol",
        "notProtocol",
        "icmp",
        "notICMP",
        "type",
        "code",
        "ipVersion",
        "source",
        "destination",
        "nets",
        "notNets",
        "ports",
        "notPorts",
        "port",
        "endPort",
        "from",
        "to",
        "ipBlock",
        "cidr",
        "except",
        "podSelector",
        "matchLabels",
        "matchExpressions",
        "key",
        "operator",
        "values",
        "doNotTrack",
        "applyOnForward",
        "order",
        "tier",
        "defaultAction",
        "ipNetworks",
        "interfaceName",
        "mac",
    ]);
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..6).prop_map(|fields| {
                fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_is_accepted_or_refused_with_a_reason(
        kind in prop::sample::select(Kind::ALL.to_vec()),
        metadata in any_value(),
        spec in any_value(),
    ) {
        let (version, kind) = kind.names();
        let value = serde_json::json!({
            "apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec,
        });
        match decode_with_warnings(&value) {
            Ok((object, warnings)) => {
                prop_assert_eq!(resource_name(&value), Ok(object.resource_name()));
                prop_assert!(warnings.iter().all(|found| found.severity == Severity::Warning));
            }
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                prop_assert!(errors.iter().all(|found| found.severity == Severity::Error));
            }
        }
    }
}
