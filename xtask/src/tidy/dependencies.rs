//! Who may use whom.
//!
//! Inputs: the manifests. Outputs: a line for each dependency that the table does not have.
//!
//! The table is the architecture: meaning in `policy-core` without any I/O, one crate that
//! touches the kernel, wire types that know nobody.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{Metadata, MetadataCommand, Package};

use crate::workspace::Workspace;

/// Each crate of ours, and the crates of ours that it may use, for whatever purpose.
const MAY_USE: [(&str, &[&str]); 10] = [
    ("bpf-toolchain", &[]),
    ("policy-common", &[]),
    ("policy-ebpf", &["policy-common"]),
    ("policy-api", &[]),
    ("policy-core", &["policy-common", "policy-api"]),
    ("policy-agent", &["policy-core", "policy-common", "policy-api", "bpf-toolchain"]),
    ("policyctl", &["policy-core", "policy-api"]),
    ("policy-test", &["policy-core", "policy-common", "policy-api", "policy-agent", "policyctl"]),
    ("policy-fuzz", &["policy-core", "policy-common", "policy-api"]),
    ("xtask", &["bpf-toolchain"]),
];

/// The pure crates, and beginnings of names of crates that must not be below them at any depth:
/// what does I/O, and what talks to the kernel or an engine.
const PURE: [&str; 2] = ["policy-core", "policy-api"];
const IMPURE: [&str; 9] =
    ["aya", "axum", "bollard", "hyper", "mio", "nix", "rtnetlink", "socket2", "tokio"];

pub(super) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let manifests: [PathBuf; 3] = [
        workspace.root().join("Cargo.toml"),
        // Not members, so the first one does not list them.
        workspace.root().join("policy-ebpf/Cargo.toml"),
        workspace.root().join("fuzz/Cargo.toml"),
    ];
    let mut breaches = Vec::new();
    for manifest in manifests {
        let metadata: Metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec()?;
        let declared = metadata.packages.iter().map(|package| (name(package), ours(package)));
        breaches.extend(breaches_of_the_table(&declared.collect()));
    }
    for package in PURE {
        let tree = tree(workspace, package)?;
        breaches.extend(impure(package, &tree));
    }
    Ok(breaches)
}

fn name(package: &Package) -> String {
    package.name.to_string()
}

/// Dependencies by path, which are ours.
fn ours(package: &Package) -> Vec<String> {
    let by_path = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
    by_path.map(|dependency| dependency.name.clone()).collect()
}

fn breaches_of_the_table(declared: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut breaches = Vec::new();
    for (package, dependencies) in declared {
        let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| known == package) else {
            breaches.push(format!("{package}: not in the table of who may use whom"));
            continue;
        };
        for dependency in dependencies {
            if !allowed.contains(&dependency.as_str()) {
                breaches.push(format!("{package}: may not use {dependency}"));
            }
        }
    }
    breaches
}

/// Names of everything below `package`, with the features that it asks for itself. `cargo
/// metadata` would add those that other members ask for.
fn tree(workspace: &Workspace, package: &str) -> Result<Vec<String>> {
    let output = workspace
        .cargo()
        .args(["tree", "--package", package, "--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}"])
        .output()
        .context("start cargo tree")?;
    ensure!(
        output.status.success(),
        "cargo tree failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

fn impure(package: &str, tree: &[String]) -> Vec<String> {
    let mut found: Vec<&String> = tree
        .iter()
        .filter(|name| {
            IMPURE.iter().any(|impure| {
                name.strip_prefix(impure)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            })
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|name| format!("{package}: is pure, but {name} is below it")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(package: &str, dependencies: &[&str]) -> BTreeMap<String, Vec<String>> {
        let dependencies = dependencies.iter().map(|&name| name.to_owned()).collect();
        BTreeMap::from([(package.to_owned(), dependencies)])
    }

    #[test]
    fn a_dependency_outside_of_the_table_is_a_breach() {
        assert!(breaches_of_the_table(&declared("policy-core", &["policy-api"])).is_empty());
        assert_eq!(
            breaches_of_the_table(&declared("policy-core", &["policy-agent"])),
            ["policy-core: may not use policy-agent"]
        );
        assert_eq!(
            breaches_of_the_table(&declared("policy-new", &[])),
            ["policy-new: not in the table of who may use whom"]
        );
    }

    #[test]
    fn families_of_impure_crates_are_found_and_namesakes_are_not() {
        let tree = ["policy-core", "aya-obj", "tokio", "tokio", "tokiolike", "serde"];
        let tree: Vec<String> = tree.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(
            impure("policy-core", &tree),
            [
                "policy-core: is pure, but aya-obj is below it",
                "policy-core: is pure, but tokio is below it"
            ]
        );
    }
}
