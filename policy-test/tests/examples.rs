//! The example policies are there, each with a table worth the name, and the pages that point to
//! them are true. What the tables say is held against everything that decides in `tests/tables`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs};

use policy_api::{messages::Verdict, yaml};
use policy_core::validate;
use policy_test::examples;
use serde::Deserialize;

/// An example that is not here was deleted or renamed without a thought for those who point to it.
const EXAMPLES: [&str; 29] = [
    "allow-dns",
    "bastion-ssh",
    "block-metadata-address",
    "ci-runners",
    "databases",
    "default-deny",
    "deny-list-feed",
    "dmz",
    "e-commerce",
    "egress-only-to-cidr",
    "ephemeral-source-ports",
    "host-firewall",
    "ipv6-only",
    "kubernetes",
    "kubernetes-egress-lockdown",
    "kubernetes-namespace-isolation",
    "log-before-deny",
    "monitoring",
    "multi-tenant",
    "named-ports",
    "partner-egress",
    "ping-only",
    "published-port-allow-list",
    "quarantine",
    "security-tier",
    "staged-roll-out",
    "telecom-sctp",
    "three-tier",
    "uplink-block-list",
];

#[test]
fn every_example_has_its_table_and_its_row_in_the_list() {
    let folders = examples::folders().unwrap();
    let names: Vec<String> = folders
        .iter()
        .map(|folder| folder.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, EXAMPLES);
    let list = fs::read_to_string(examples::folder().unwrap().join("README.md")).unwrap();
    for (folder, name) in folders.iter().zip(&names) {
        assert!(list.contains(&format!("| `{name}` |")), "{name} is not in README.md");
        let table = examples::read(folder).unwrap();
        assert!(table.policies.starts_with('#'), "{name} does not say what it is for");
        let rows: Vec<_> = table.phases().flat_map(|step| step.verdicts).collect();
        for verdict in [Verdict::Allow, Verdict::Deny] {
            assert!(rows.iter().any(|row| row.verdict == verdict), "{name}: no row {verdict:?}");
        }
        let left_out = rows.iter().filter(|row| row.without_sockets.is_some()).count();
        // Answers from a blocked source.
        let expected = usize::from(name == "uplink-block-list");
        assert_eq!(left_out, expected, "{name}: an example can be tried");
    }
}

#[test]
fn the_three_tiers_give_no_warning() {
    let table = examples::read(&examples::folder().unwrap().join("three-tier")).unwrap();
    for document in yaml::read("three-tier", table.policies.as_bytes()).unwrap() {
        let (_, warnings) = validate::decode_with_warnings(&document.value).unwrap();
        assert_eq!(warnings, []);
    }
}

/// As much of a Compose file as the labels need.
#[derive(Debug, Deserialize)]
struct Compose {
    name: String,
    services: BTreeMap<String, ComposeService>,
}

#[derive(Debug, Deserialize)]
struct ComposeService {
    labels: BTreeMap<String, String>,
    #[serde(default)]
    networks: Vec<String>,
}

#[test]
fn the_compose_file_has_the_labels_that_the_policies_select() {
    let policies = examples::folder().unwrap();
    let path = policies.parent().unwrap().join("compose/docker-compose.yml");
    let compose: Compose = serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let table = examples::read(&policies.join("three-tier")).unwrap();
    assert_eq!(compose.services.len(), table.endpoints.len());
    for endpoint in &table.endpoints {
        assert_eq!(endpoint.namespace, compose.name, "the project is the namespace");
        let service = &compose.services[&endpoint.name];
        assert_eq!(service.labels, endpoint.labels, "{}", endpoint.name);
        // All on one network: it is the policies that keep them apart.
        assert_eq!(service.networks, ["shop"], "{}", endpoint.name);
    }
}
