//! The resources' files, written by a thread of their own.
//!
//! In: changes that the journal has. Out: one file a resource, and word to the journal once they
//! are on disk. What cannot be written is tried again; the journal keeps it until then.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use serde_json::Value;
use tracing::warn;

use super::{Change, StoreError, files::replace_all, journal::Journal, resource_file};

/// How often what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What the store and its writer share.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) journal: Mutex<Journal>,
    /// Why the newest resources are only in the journal, if they are.
    pub(super) trouble: Mutex<Option<String>>,
}

/// Contents by file; `None`: to be removed. The newest change of a file is the one that counts.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<PathBuf, Option<Value>>);

impl Pending {
    pub(super) fn add(&mut self, dir: &Path, changes: Vec<Change>) {
        self.0.extend(changes.into_iter().map(|change| match change {
            Change::Put(name, value) => (resource_file(dir, &name), Some(value)),
            Change::Remove(name) => (resource_file(dir, &name), None),
        }));
    }

    /// Writes all of it, and sees it on disk.
    pub(super) fn write(&self, dir: &Path) -> Result<(), StoreError> {
        let text = |(path, value): (_, &Option<Value>)| {
            let text = value.as_ref().map(serde_yaml::to_string).transpose();
            let text = text.map_err(|error| StoreError::Content {
                path: PathBuf::clone(path),
                reason: error.to_string(),
            });
            text.map(|text| (path, text))
        };
        let files: Vec<_> = self.0.iter().map(text).collect::<Result<_, _>>()?;
        replace_all(dir, files.into_iter())
    }
}

/// Writes until there is nobody any more who could send, and nothing left to be done.
pub(super) fn run(dir: &Path, changes: &Receiver<Vec<Change>>, desk: &Arc<Desk>) {
    let mut pending = Pending::default();
    let mut count = 0;
    loop {
        let wait = if count == 0 { Duration::MAX } else { RETRY };
        let last = match changes.recv_timeout(wait) {
            Ok(first) => {
                for changes in std::iter::once(first).chain(changes.try_iter()) {
                    pending.add(dir, changes);
                    count += 1;
                }
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        if count > 0 {
            let trouble = match pending.write(dir) {
                Ok(()) => {
                    desk.journal.lock().unwrap_or_else(PoisonError::into_inner).done(count);
                    (pending, count) = (Pending::default(), 0);
                    None
                }
                Err(error) => {
                    warn!(%error, "resources are only in the journal");
                    Some(error.to_string())
                }
            };
            *desk.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        }
        if last {
            return;
        }
    }
}
