//! From `--endpoints` arguments to endpoints. Input: files with WorkloadEndpoint resources, or with
//! what `policyctl endpoints -o json` (or `yaml`) printed on some host; output: both sorts.

use std::path::PathBuf;
use std::rc::Rc;

use policy_api::diagnostic::Diagnostic;
use policy_api::messages::EndpointStatus;
use policy_api::resource::Kind;
use policy_api::yaml::{self, Document};
use policy_core::validate::{self, Object};
use serde::Deserialize;
use serde_json::Value;

use super::files;

/// Endpoints that nobody has to run an agent for.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    /// WorkloadEndpoints, and Namespaces for their labels.
    pub(crate) objects: Vec<Object>,
    saved: Vec<EndpointStatus>,
    /// Where they stand, one for each of `saved`.
    places: Vec<(Rc<Document>, usize)>,
}

impl Endpoints {
    /// Endpoints that an agent told of.
    pub(crate) fn saved(&self) -> &[EndpointStatus] {
        &self.saved
    }

    /// Adds file, line and column to what is wrong with a saved endpoint, whose index its path
    /// begins with.
    pub(crate) fn locate(&self, diagnostic: Diagnostic) -> Diagnostic {
        let index = diagnostic.path.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let place = index.and_then(|(index, rest)| {
            let (document, index) = self.places.get(index.parse::<usize>().ok()?)?;
            Some((document, format!("[{index}]{rest}")))
        });
        match place {
            Some((document, path)) => document.locate(Diagnostic { path, ..diagnostic }),
            None => diagnostic,
        }
    }
}

/// Reads endpoints.
///
/// # Errors
///
/// All that is wrong with any of the files.
pub(crate) fn read(arguments: &[PathBuf]) -> Result<Endpoints, Vec<Diagnostic>> {
    let mut endpoints = Endpoints::default();
    let mut wrong = Vec::new();
    for source in files::read(arguments, yaml::MAX_FILE_BYTES) {
        let documents = match source {
            Ok(source) => yaml::read(&source.file, &source.bytes),
            Err(diagnostic) => Err(vec![*diagnostic]),
        };
        match documents {
            Ok(documents) => {
                for document in documents {
                    wrong.extend(take(&Rc::new(document), &mut endpoints));
                }
            }
            Err(diagnostics) => wrong.extend(diagnostics),
        }
    }
    if wrong.is_empty() { Ok(endpoints) } else { Err(wrong) }
}

/// Takes in what one document has; what is wrong with it comes back.
fn take(document: &Rc<Document>, endpoints: &mut Endpoints) -> Vec<Diagnostic> {
    let found = match &document.value {
        Value::Array(items) => saved(items, document, endpoints),
        value => resource(value, endpoints),
    };
    found.into_iter().map(|diagnostic| document.locate(diagnostic)).collect()
}

fn saved(items: &[Value], document: &Rc<Document>, endpoints: &mut Endpoints) -> Vec<Diagnostic> {
    let mut wrong = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match EndpointStatus::deserialize(item) {
            Ok(status) => {
                endpoints.saved.push(status);
                endpoints.places.push((Rc::clone(document), index));
            }
            Err(error) => wrong.push(
                Diagnostic::error(format!("[{index}]"), format!("this is no endpoint: {error}"))
                    .with_hint(
                        "save endpoints with `policyctl endpoints -o json`, or write \
                         WorkloadEndpoint resources",
                    ),
            ),
        }
    }
    wrong
}

fn resource(value: &Value, endpoints: &mut Endpoints) -> Vec<Diagnostic> {
    match Kind::of(value) {
        Ok(Kind::WorkloadEndpoint | Kind::Namespace) => match validate::decode(value) {
            Ok(object) => {
                endpoints.objects.push(object);
                Vec::new()
            }
            Err(diagnostics) => diagnostics,
        },
        Ok(kind) => {
            let message = format!("a {} is no endpoint", kind.names().1);
            vec![Diagnostic::error("kind", message).with_hint("give it with -f")]
        }
        Err(diagnostic) => vec![*diagnostic],
    }
}
