//! Tables of the policy language (`policy-test/tables`) and of the example policies, in three rings:
//! the evaluator and the compiled maps, the kernel programs by `BPF_PROG_TEST_RUN`, and packets of
//! real sockets between namespaces with an agent beside them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod fields;

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
};

use policy_test::{
    examples,
    table::{Table, core, programs::Programs, sockets::Sockets},
};

/// The tables of this crate's folder, by the names of their files.
pub(crate) fn language() -> Vec<(String, Table)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tables");
    let files = examples::listed(&folder).unwrap();
    assert!(!files.is_empty());
    files.iter().map(|file| (name(file), Table::read(file).unwrap())).collect()
}

/// The tables of the examples, by the names of their folders.
pub(crate) fn example_policies() -> Vec<(String, Table)> {
    let folders: Vec<PathBuf> = examples::folders().unwrap();
    folders.iter().map(|folder| (name(folder), examples::read(folder).unwrap())).collect()
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

/// Runs every table, and tells of all that fail.
fn run<T: Debug>(
    tables: Vec<(String, Table)>,
    mut runner: impl FnMut(&Table) -> anyhow::Result<T>,
) {
    let mut failures = Vec::new();
    for (name, table) in tables {
        match runner(&table) {
            // Seen with --nocapture.
            Ok(packets) => println!("{name}: {packets:?}"),
            Err(error) => failures.push(format!("{name}: {error:#}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Those with the same settings beside each other: an agent for each is seconds of verification.
fn by_settings(mut tables: Vec<(String, Table)>) -> Vec<(String, Table)> {
    tables.sort_by_key(|(_, table)| (table.settings.clone(), table.published.clone()));
    tables
}

#[test]
fn evaluator_and_maps_decide_as_the_tables_of_the_language_say() {
    run(language(), core::run);
}

#[test]
fn evaluator_and_maps_decide_as_the_tables_of_the_examples_say() {
    run(example_policies(), core::run);
}

#[test]
fn the_programs_decide_as_the_tables_of_the_language_say() {
    let mut programs = Programs::load().unwrap();
    run(language(), |table| programs.run(table));
}

#[test]
fn the_programs_decide_as_the_tables_of_the_examples_say() {
    let mut programs = Programs::load().unwrap();
    run(example_policies(), |table| programs.run(table));
}

#[test]
fn packets_go_as_the_tables_of_the_language_say() {
    let mut sockets = Sockets::new().unwrap();
    run(by_settings(language()), |table| sockets.run(table));
}

#[test]
fn packets_go_as_the_tables_of_the_examples_say() {
    let mut sockets = Sockets::new().unwrap();
    run(by_settings(example_policies()), |table| sockets.run(table));
}
