//! Questions that no agent is asked. Input: files of policies and endpoints, and what else decides
//! verdicts on a host; output: the model that an agent there would have.

use std::collections::BTreeSet;
use std::path::PathBuf;

use policy_api::diagnostic::Diagnostic;
use policy_core::assemble::{self, Host};
use policy_core::model::Model;
use policy_core::validate::{self, Object};

use crate::failure::Failure;
use crate::input;

/// A host that exists in files only.
#[derive(Debug, Default)]
pub(crate) struct Offline {
    /// Policies and what belongs to them.
    pub(crate) files: Vec<PathBuf>,
    /// Endpoints.
    pub(crate) endpoints: Vec<PathBuf>,
    /// The rest of the host.
    pub(crate) host: Host,
}

impl Offline {
    /// Reads the files; says what an agent that has no more than them would not take.
    ///
    /// # Errors
    ///
    /// [`Failure::Files`] with all that is wrong with any of them.
    pub(crate) fn model(&self) -> Result<(Model, Vec<Diagnostic>), Failure> {
        let objects = match &self.files[..] {
            [] => Ok(Vec::new()),
            files => input::read_objects(files),
        };
        let endpoints = input::endpoints::read(&self.endpoints);
        match (objects, endpoints) {
            (Ok(objects), Ok(endpoints)) => {
                let model = build(&self.host, objects.iter(), &endpoints)?;
                Ok((model, without_tier(&objects)))
            }
            (objects, endpoints) => {
                let wrong = [objects.err(), endpoints.err()];
                Err(Failure::Files(wrong.into_iter().flatten().flatten().collect()))
            }
        }
    }
}

/// Warnings about policies whose tier is in no file. They are asked as if it were there, with no
/// more than its name.
pub(crate) fn without_tier(objects: &[Object]) -> Vec<Diagnostic> {
    let no_others = BTreeSet::new();
    let found = validate::open_references(objects.iter(), &no_others);
    found.into_iter().map(|(_, diagnostic)| diagnostic).collect()
}

/// A model of what files say; where two of them describe one thing, the policies' files win.
///
/// # Errors
///
/// [`Failure::Files`]: what is wrong with saved endpoints.
pub(crate) fn build<'a>(
    host: &Host,
    objects: impl Iterator<Item = &'a Object> + Clone,
    endpoints: &'a input::endpoints::Endpoints,
) -> Result<Model, Failure> {
    let all = endpoints.objects.iter().chain(objects);
    assemble::offline(host, all, endpoints.saved())
        .map_err(|wrong| Failure::Files(wrong.into_iter().map(|it| endpoints.locate(it)).collect()))
}
