//! Questions that no agent is asked. Input: files of policies and endpoints, and what else decides
//! verdicts on a host; output: the model that an agent there would have.

use std::path::PathBuf;

use policy_core::assemble::{self, Host};
use policy_core::model::Model;
use policy_core::validate::Object;

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
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`Failure::Files`] with all that is wrong with any of them.
    pub(crate) fn model(&self) -> Result<Model, Failure> {
        let objects = match &self.files[..] {
            [] => Ok(Vec::new()),
            files => input::read_objects(files),
        };
        let endpoints = input::endpoints::read(&self.endpoints);
        match (objects, endpoints) {
            (Ok(objects), Ok(endpoints)) => build(&self.host, objects.iter(), &endpoints),
            (objects, endpoints) => {
                let wrong = [objects.err(), endpoints.err()];
                Err(Failure::Files(wrong.into_iter().flatten().flatten().collect()))
            }
        }
    }
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
