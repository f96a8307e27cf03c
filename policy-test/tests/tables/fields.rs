//! Every field of the language stands in a table.

use std::collections::{BTreeMap, BTreeSet};

use policy_api::{
    resource::{Kind, calico, kubernetes},
    yaml,
};
use policy_test::table::{Table, fields};
use serde_json::Value;

use crate::{example_policies, language};

/// Every path of a kind's type, and the field that it leads to; two types of one name are told apart.
fn of_kind(kind: Kind) -> BTreeMap<String, String> {
    let (of_type, prefix) = match kind {
        Kind::NetworkPolicy | Kind::StagedNetworkPolicy => {
            (fields::of_type::<calico::NetworkPolicySpec>(), "calico")
        }
        Kind::GlobalNetworkPolicy | Kind::StagedGlobalNetworkPolicy => {
            (fields::of_type::<calico::GlobalNetworkPolicySpec>(), "calico")
        }
        Kind::Tier => (fields::of_type::<calico::TierSpec>(), "calico"),
        Kind::NetworkSet | Kind::GlobalNetworkSet => {
            (fields::of_type::<calico::NetworkSetSpec>(), "calico")
        }
        Kind::WorkloadEndpoint => (fields::of_type::<calico::WorkloadEndpointSpec>(), "calico"),
        Kind::KubernetesNetworkPolicy | Kind::StagedKubernetesNetworkPolicy => {
            (fields::of_type::<kubernetes::NetworkPolicySpec>(), "kubernetes")
        }
        Kind::Namespace => (fields::of_type::<kubernetes::NamespaceSpec>(), "kubernetes"),
    };
    let paths = of_type.unwrap().into_iter();
    paths.map(|(path, field)| (path, format!("{prefix} {field}"))).collect()
}

/// Every resource of a table, those that are refused included.
fn resources(table: &Table) -> Vec<Value> {
    let mut texts = vec![table.policies.clone()];
    let mut endpoints = table.endpoints.clone();
    for step in table.phases() {
        texts.extend(step.policies);
        texts.push(step.apply);
        texts.extend(step.refused.into_iter().map(|refused| refused.resource));
        endpoints.extend(step.endpoints);
    }
    let read = |text: &String| yaml::read("table", text.as_bytes()).unwrap();
    let written = texts.iter().filter(|text| !text.trim().is_empty()).flat_map(read);
    let mut resources: Vec<Value> = written.map(|document| document.value).collect();
    resources.extend(endpoints.iter().map(|endpoint| endpoint.resource("any").unwrap()));
    resources
}

#[test]
fn every_field_of_every_type_stands_in_a_table() {
    let mut missing: BTreeSet<String> =
        Kind::ALL.into_iter().flat_map(|kind| of_kind(kind).into_values()).collect();
    let mut kinds = Kind::ALL.to_vec();
    for (_, table) in language().into_iter().chain(example_policies()) {
        for resource in resources(&table) {
            let Ok(kind) = Kind::of(&resource) else { continue };
            kinds.retain(|it| *it != kind);
            let fields = of_kind(kind);
            for path in fields::of_resource(&resource) {
                if let Some(field) = fields.get(&path) {
                    missing.remove(field);
                }
            }
        }
    }
    assert!(missing.is_empty(), "no table has {missing:#?}");
    assert_eq!(kinds, [], "no table has these kinds");
}

#[test]
fn the_paths_of_a_type_are_those_of_the_language() {
    let paths = of_kind(Kind::NetworkPolicy);
    for (path, field) in [
        ("metadata.namespace", "calico Metadata.namespace"),
        ("spec.ingress[].source.notNets", "calico EntityRule.notNets"),
        ("spec.egress[].notICMP.code", "calico Icmp.code"),
        ("spec.ingress[].metadata.annotations", "calico RuleMetadata.annotations"),
    ] {
        assert_eq!(paths.get(path).map(String::as_str), Some(field), "{paths:#?}");
    }
}
