//! From `-f` arguments to resources. Input: paths; output: every document with its name and
//! place, so that a finding about a field, ours or the agent's, can name file, line and column.
//! All or nothing: one bad file among ten and there is no output but the findings.

mod files;

use std::collections::BTreeMap;
use std::path::PathBuf;

use policy_api::diagnostic::Diagnostic;
use policy_api::messages::ResourceName;
use policy_api::yaml::{self, Document};
use policy_core::validate;

use serde_json::Value;

use crate::kinds;

/// Resources that somebody wrote down, no two of one name.
#[derive(Debug)]
pub(crate) struct Input {
    resources: Vec<(ResourceName, Document)>,
}

impl Input {
    /// The resources as they were written.
    pub(crate) fn values(&self) -> Vec<Value> {
        self.resources.iter().map(|(_, document)| document.value.clone()).collect()
    }

    /// Their names.
    pub(crate) fn names(&self) -> Vec<ResourceName> {
        self.resources.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Adds file, line and column to what the agent says about one of the resources, which it
    /// knows by its index.
    pub(crate) fn locate(&self, diagnostic: Diagnostic) -> Diagnostic {
        match diagnostic.resource.and_then(|index| self.resources.get(index)) {
            Some((_, document)) => document.locate(diagnostic),
            None => diagnostic,
        }
    }
}

/// Reads resources and checks every field of them.
///
/// # Errors
///
/// All that is wrong with any of the files.
pub(crate) fn read_valid(arguments: &[PathBuf]) -> Result<Input, Vec<Diagnostic>> {
    read(arguments, |value| validate::decode(value).map(|object| object.resource_name()))
}

/// Reads resources of which only the names have to be right: enough to delete them.
///
/// # Errors
///
/// As [`read_valid`], but for what is in the resources.
pub(crate) fn read_named(arguments: &[PathBuf]) -> Result<Input, Vec<Diagnostic>> {
    read(arguments, validate::resource_name)
}

fn read(
    arguments: &[PathBuf],
    check: impl Fn(&Value) -> Result<ResourceName, Vec<Diagnostic>>,
) -> Result<Input, Vec<Diagnostic>> {
    let (sources, mut wrong) = files::read(arguments, yaml::MAX_FILE_BYTES);
    let mut resources: Vec<(ResourceName, Document)> = Vec::new();
    let mut first_use: BTreeMap<ResourceName, usize> = BTreeMap::new();
    for source in &sources {
        let documents = match yaml::read(&source.file, &source.bytes) {
            Ok(documents) => documents,
            Err(diagnostics) => {
                wrong.extend(diagnostics);
                continue;
            }
        };
        for document in documents {
            let name = match check(&document.value) {
                Ok(name) => name,
                Err(diagnostics) => {
                    wrong.extend(diagnostics.into_iter().map(|it| document.locate(it)));
                    continue;
                }
            };
            match first_use.get(&name).and_then(|index| resources.get(*index)) {
                Some((_, first)) => wrong.push(document.locate(twice(&name, first))),
                None => {
                    first_use.insert(name.clone(), resources.len());
                    resources.push((name, document));
                }
            }
        }
    }
    if wrong.is_empty() { Ok(Input { resources }) } else { Err(wrong) }
}

fn twice(name: &ResourceName, first: &Document) -> Diagnostic {
    let line = format!(":{}", first.place("metadata.name").line);
    Diagnostic::error(
        "metadata.name",
        format!("{} is given twice, first in {}{line}", kinds::qualified(name), first.file),
    )
    .with_hint("remove one of the two, or rename it")
}
