//! From `-f` arguments to resources. Input: paths; output: every document with its name and
//! place, so that a finding about a field, ours or the agent's, can name file, line and column.
//! Whoever acts on resources gets all or nothing: one bad file among ten and there is no output but
//! the findings. `validate` gets both.

pub(crate) mod endpoints;
mod files;

use std::collections::BTreeMap;
use std::path::PathBuf;

use policy_api::diagnostic::{Diagnostic, Severity};
use policy_api::messages::ResourceName;
use policy_api::yaml::{self, Document};
use policy_core::validate::{self, Object};

use serde_json::Value;

use crate::kinds;

/// What is said about a resource that somebody wrote down.
#[derive(Debug)]
pub(crate) struct Finding {
    /// With file, and line and column where they are known.
    pub(crate) diagnostic: Diagnostic,
    /// The resource, if its name could be read.
    pub(crate) resource: Option<ResourceName>,
    /// Place of the file among those read.
    file: usize,
}

impl Finding {
    /// Whether the input is refused for it.
    pub(crate) fn is_error(&self) -> bool {
        self.diagnostic.severity == Severity::Error
    }
}

/// A resource, what it means, and where it stands.
#[derive(Debug)]
pub(crate) struct Item<T> {
    pub(crate) name: ResourceName,
    pub(crate) meaning: T,
    document: Document,
    file: usize,
}

/// All that files say, right or wrong.
#[derive(Debug)]
pub(crate) struct Reading<T> {
    /// Resources in which nothing is wrong, no two of one name.
    pub(crate) items: Vec<Item<T>>,
    /// What is wrong or looks wrong, in no order.
    findings: Vec<Finding>,
    /// Names of resources in which something is wrong.
    pub(crate) refused: Vec<ResourceName>,
    /// Resources that were looked at, right or wrong.
    pub(crate) resources: usize,
    /// Files that were read.
    pub(crate) files: usize,
    /// Files and directories that could not be read.
    pub(crate) unreadable: usize,
}

impl<T> Reading<T> {
    /// Adds what was found out about resources by looking at all of them.
    pub(crate) fn add(&mut self, found: Vec<(ResourceName, Diagnostic)>) {
        let items: BTreeMap<_, _> = self.items.iter().map(|item| (&item.name, item)).collect();
        let findings = found.into_iter().filter_map(|(name, diagnostic)| {
            let item = items.get(&name)?;
            let diagnostic = item.document.locate(diagnostic);
            Some(Finding { diagnostic, resource: Some(name), file: item.file })
        });
        self.findings.extend(findings);
    }

    /// Everything that is wrong or looks wrong, in the order of the files and of their lines.
    pub(crate) fn into_findings(mut self) -> Vec<Finding> {
        let place = |finding: &Finding| {
            let Diagnostic { line, column, .. } = finding.diagnostic;
            (finding.file, line, column)
        };
        self.findings.sort_by_key(place);
        self.findings
    }

    /// The resources, if nothing is wrong at all.
    fn all(self) -> Result<Vec<Item<T>>, Vec<Diagnostic>> {
        if self.findings.iter().any(Finding::is_error) {
            let findings = self.into_findings().into_iter().filter(Finding::is_error);
            return Err(findings.map(|finding| finding.diagnostic).collect());
        }
        Ok(self.items)
    }
}

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

    /// Name and value of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ResourceName, &Value)> {
        self.resources.iter().map(|(name, document)| (name, &document.value))
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

impl<T> From<Vec<Item<T>>> for Input {
    fn from(items: Vec<Item<T>>) -> Self {
        Input { resources: items.into_iter().map(|item| (item.name, item.document)).collect() }
    }
}

/// Reads resources and checks every field of them.
///
/// # Errors
///
/// All that is wrong with any of the files.
pub(crate) fn read_valid(arguments: &[PathBuf]) -> Result<Input, Vec<Diagnostic>> {
    check(arguments).all().map(Input::from)
}

/// Reads resources for what they mean.
///
/// # Errors
///
/// As [`read_valid`].
pub(crate) fn read_objects(arguments: &[PathBuf]) -> Result<Vec<Object>, Vec<Diagnostic>> {
    let items = check(arguments).all()?;
    Ok(items.into_iter().map(|item| item.meaning).collect())
}

/// Reads resources of which only the names have to be right: enough to delete them.
///
/// # Errors
///
/// As [`read_valid`], but for what is in the resources.
pub(crate) fn read_named(arguments: &[PathBuf]) -> Result<Input, Vec<Diagnostic>> {
    let name = |value: &Value| Ok((validate::resource_name(value)?, (), Vec::new()));
    read(arguments, name).all().map(Input::from)
}

/// Reads resources, checks every field of them, and says what looks wrong, too.
pub(crate) fn check(arguments: &[PathBuf]) -> Reading<Object> {
    read(arguments, |value| {
        let (object, warnings) = validate::decode_with_warnings(value)?;
        Ok((object.resource_name(), object, warnings))
    })
}

/// Name, meaning and warnings of a resource, or its errors.
type Meaning<T> = Result<(ResourceName, T, Vec<Diagnostic>), Vec<Diagnostic>>;

fn read<T>(arguments: &[PathBuf], meaning: impl Fn(&Value) -> Meaning<T>) -> Reading<T> {
    let mut reading = Reading {
        items: Vec::new(),
        findings: Vec::new(),
        refused: Vec::new(),
        resources: 0,
        files: 0,
        unreadable: 0,
    };
    let mut first_use: BTreeMap<ResourceName, usize> = BTreeMap::new();
    for (file, source) in files::read(arguments, yaml::MAX_FILE_BYTES).into_iter().enumerate() {
        let unnamed = |diagnostic| Finding { diagnostic, resource: None, file };
        let source = match source {
            Ok(source) => source,
            Err(diagnostic) => {
                reading.unreadable += 1;
                reading.findings.push(unnamed(*diagnostic));
                continue;
            }
        };
        reading.files += 1;
        let documents = match yaml::read(&source.file, &source.bytes) {
            Ok(documents) => documents,
            Err(diagnostics) => {
                reading.findings.extend(diagnostics.into_iter().map(unnamed));
                continue;
            }
        };
        for document in documents {
            reading.resources += 1;
            let about = |name: Option<&ResourceName>, diagnostic| Finding {
                diagnostic: document.locate(diagnostic),
                resource: name.cloned(),
                file,
            };
            let (name, meaning, warnings) = match meaning(&document.value) {
                Ok(read) => read,
                Err(diagnostics) => {
                    let name = validate::resource_name(&document.value).ok();
                    let findings = diagnostics.into_iter().map(|it| about(name.as_ref(), it));
                    reading.findings.extend(findings);
                    reading.refused.extend(name);
                    continue;
                }
            };
            let findings = warnings.into_iter().map(|it| about(Some(&name), it));
            reading.findings.extend(findings);
            match first_use.get(&name).and_then(|index| reading.items.get(*index)) {
                Some(first) => {
                    reading.findings.push(about(Some(&name), twice(&name, &first.document)));
                }
                None => {
                    first_use.insert(name.clone(), reading.items.len());
                    reading.items.push(Item { name, meaning, document, file });
                }
            }
        }
    }
    reading
}

fn twice(name: &ResourceName, first: &Document) -> Diagnostic {
    let line = format!(":{}", first.place("metadata.name").line);
    Diagnostic::error(
        "metadata.name",
        format!("{} is given twice, first in {}{line}", kinds::qualified(name), first.file),
    )
    .with_hint("remove one of the two, or rename it")
}
