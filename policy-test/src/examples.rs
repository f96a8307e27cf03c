//! The example policies and the tables of what they must do.
//!
//! Inputs: a folder with policies and `tests/expected.yaml`. Outputs: a [`Table`].
//!
//! The table lies in a folder of its own, because `policyctl apply -f` takes every YAML file of a
//! folder, but not those of folders in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::table::Table;

/// `examples/policies` of this repository.
///
/// # Errors
/// If this crate lies elsewhere than it was built.
pub fn folder() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a crate of a workspace")?;
    Ok(root.join("examples/policies"))
}

/// The folders of the examples, by name.
///
/// # Errors
/// If they cannot be listed.
pub fn folders() -> Result<Vec<PathBuf>> {
    let mut folders = listed(&folder()?)?;
    folders.retain(|path| path.is_dir());
    Ok(folders)
}

/// The table of an example, with the example's policies in the order in which `policyctl apply -f`
/// takes them.
///
/// # Errors
/// If there is none, or it is not one.
pub fn read(folder: &Path) -> Result<Table> {
    let mut table = Table::read(&folder.join("tests/expected.yaml"))?;
    ensure!(table.policies.is_empty(), "{}: the policies stand beside", folder.display());
    let mut files = listed(folder)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    ensure!(!files.is_empty(), "{} has no policies", folder.display());
    let texts = files
        .iter()
        .map(|file| fs::read_to_string(file).with_context(|| format!("read {}", file.display())))
        .collect::<Result<Vec<String>>>()?;
    table.policies = texts.join("\n---\n");
    Ok(table)
}

/// What is in a folder, by name.
///
/// # Errors
/// If it cannot be listed.
pub fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("list {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort_unstable();
    Ok(paths)
}
