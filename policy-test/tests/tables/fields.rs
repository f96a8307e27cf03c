//! Every field of the language stands in a table.

use std::collections::BTreeSet;

use policy_api::{
    resource::{Kind, calico, kubernetes},
    yaml,
};
use policy_test::table::{Table, fields};

use crate::{example_policies, language};

/// Every path of a kind's type.
fn of_kind(kind: Kind) -> BTreeSet<String> {
    let (version, name) = kind.names();
    let name = fields::kind_name(version, name);
    match kind {
        Kind::NetworkPolicy => fields::of_type::<calico::NetworkPolicySpec>(&name),
        Kind::GlobalNetworkPolicy => fields::of_type::<calico::GlobalNetworkPolicySpec>(&name),
        Kind::Tier => fields::of_type::<calico::TierSpec>(&name),
        Kind::NetworkSet | Kind::GlobalNetworkSet => {
            fields::of_type::<calico::NetworkSetSpec>(&name)
        }
        Kind::WorkloadEndpoint => fields::of_type::<calico::WorkloadEndpointSpec>(&name),
        Kind::KubernetesNetworkPolicy => fields::of_type::<kubernetes::NetworkPolicySpec>(&name),
        Kind::Namespace => fields::of_type::<kubernetes::NamespaceSpec>(&name),
    }
    .unwrap()
}

/// Every path of a table's resources, those that are refused included.
fn of_table(table: &Table) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut add = |text: &str| {
        if text.trim().is_empty() {
            return;
        }
        for document in yaml::read("table", text.as_bytes()).unwrap() {
            paths.extend(fields::of_resource(&document.value).unwrap());
        }
    };
    add(&table.policies);
    let mut endpoints = table.endpoints.clone();
    for step in table.phases() {
        add(step.policies.as_deref().unwrap_or_default());
        add(&step.apply);
        step.refused.iter().for_each(|refused| add(&refused.resource));
        endpoints.extend(step.endpoints);
    }
    for endpoint in endpoints {
        paths.extend(fields::of_resource(&endpoint.resource("any").unwrap()).unwrap());
    }
    paths
}

#[test]
fn every_field_of_every_kind_stands_in_a_table() {
    let tables = language().into_iter().chain(example_policies());
    let spoken_of: BTreeSet<String> = tables.flat_map(|(_, table)| of_table(&table)).collect();
    let missing: Vec<String> = Kind::ALL
        .into_iter()
        .flat_map(of_kind)
        .filter(|path| !spoken_of.contains(path))
        .collect();
    assert!(missing.is_empty(), "no table has these {}: {missing:#?}", missing.len());
}

#[test]
fn the_paths_of_a_type_are_those_of_the_language() {
    let paths = of_kind(Kind::NetworkPolicy);
    for path in [
        "NetworkPolicy metadata.namespace",
        "NetworkPolicy spec.ingress[].source.notNets",
        "NetworkPolicy spec.egress[].notICMP.code",
        "NetworkPolicy spec.ingress[].metadata.annotations",
    ] {
        assert!(paths.contains(path), "{path}: {paths:#?}");
    }
}
