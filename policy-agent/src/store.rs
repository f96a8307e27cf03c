//! What survives a restart: applied resources, the numbers in the kernel maps, totals of drop
//! counters whose endpoints are gone.
//!
//! | file in `--state-dir` | holds |
//! |---|---|
//! | `resources/<kind>.<namespace>.<name>.yaml` | one resource, as it was applied |
//! | `journal.json` | a change that is being made; replayed at start |
//! | `ids.json`, `ids.log` | names of the rule, peer and table numbers in the maps ([`numbers`]) |
//! | `interfaces.json` | names of the interfaces that drop counters speak of |
//! | `policy-dir.json` | the last good content of the policy directory |
//! | `retired.json` | drop totals of endpoints that are gone |
//!
//! Every file is written beside its place, flushed to disk and renamed over it, so that it is either
//! old or new. A change of several resources goes to the journal first: either all of it survives a
//! crash or nothing.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use policy_api::{diagnostic::Diagnostic, messages::ResourceName};
use policy_core::digest::Digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

pub mod numbers;

/// Why something could not be kept or read.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file operation.
    #[error("{path}: {source}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent.
    #[error("another agent works on {0}: stop it first, or choose another --state-dir")]
    Taken(PathBuf),
    /// A resource's file that is not one. The diagnostics name it.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Resource(Vec<Diagnostic>),
    /// A file whose content is not what this agent writes.
    #[error("{path}: {reason}")]
    Content {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// One step of a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// Add or replace.
    Put(ResourceName, Value),
    /// Remove.
    Remove(ResourceName),
}

/// Longest name of a resource's file without its extension; with it, within NAME_MAX (255).
const MAX_STEM: usize = 240;

/// The state directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// Held for as long as the store is open.
    _lock: File,
}

impl Store {
    /// Opens or creates the directory, and finishes a change that a crash interrupted.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        let resources = dir.join("resources");
        fs::create_dir_all(&resources).map_err(at(&resources))?;
        let store = Store { dir: dir.to_owned(), _lock: lock(dir)? };
        store.finish()?;
        Ok(store)
    }

    /// Every resource, with the file that it is in.
    ///
    /// # Errors
    ///
    /// [`StoreError`] for the first file that cannot be read.
    pub fn resources(&self) -> Result<Vec<(PathBuf, Value)>, StoreError> {
        let dir = self.resources_dir();
        let mut paths = Vec::new();
        for entry in fs::read_dir(&dir).map_err(at(&dir))? {
            let path = entry.map_err(at(&dir))?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                paths.push(path);
            }
        }
        paths.sort();
        paths
            .into_iter()
            .map(|path| {
                let bytes = fs::read(&path).map_err(at(&path))?;
                let file = path.display().to_string();
                let documents =
                    policy_api::yaml::read(&file, &bytes).map_err(StoreError::Resource)?;
                match <[_; 1]>::try_from(documents) {
                    Ok([document]) => Ok((path, document.value)),
                    Err(documents) => Err(StoreError::Content {
                        reason: format!("{} resources instead of one", documents.len()),
                        path,
                    }),
                }
            })
            .collect()
    }

    /// Writes a change down, so that it survives a crash from here on. What an earlier change left
    /// to do is done first: there is one journal.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; nothing has changed then.
    pub fn prepare(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.finish()?;
        self.write(&self.journal(), &changes)
    }

    /// Finishes a change that was prepared and not carried out, if there is one.
    fn finish(&self) -> Result<(), StoreError> {
        match self.read::<Vec<Change>>(&self.journal())? {
            Some(changes) => self.carry_out(&changes),
            None => Ok(()),
        }
    }

    /// Makes a prepared change.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the journal stays, and the change is finished at the next start.
    pub fn carry_out(&self, changes: &[Change]) -> Result<(), StoreError> {
        for change in changes {
            match change {
                Change::Put(name, value) => {
                    let path = self.resource(name);
                    let text = serde_yaml::to_string(value).map_err(|error| {
                        StoreError::Content { path: path.clone(), reason: error.to_string() }
                    })?;
                    replace(&path, text.as_bytes())?;
                }
                Change::Remove(name) => remove(&self.resource(name))?,
            }
        }
        self.forget()
    }

    /// Drops a prepared change.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn forget(&self) -> Result<(), StoreError> {
        remove(&self.journal())
    }

    /// Reads `<name>.json`; `None` if it was never written.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        self.read(&self.dir.join(format!("{name}.json")))
    }

    /// Writes `<name>.json`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn put<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        self.write(&self.dir.join(format!("{name}.json")), value)
    }

    fn resources_dir(&self) -> PathBuf {
        self.dir.join("resources")
    }

    fn journal(&self) -> PathBuf {
        self.dir.join("journal.json")
    }

    /// The file of a resource. Kinds and validated names hold no slash; the API group tells two
    /// kinds of the same name apart.
    fn resource(&self, name: &ResourceName) -> PathBuf {
        let group = name.api_version.split('/').next().unwrap_or_default();
        let namespace = name.namespace.as_deref().unwrap_or("-");
        let kind = name.kind.to_lowercase();
        let mut stem = format!("{kind}.{group}_{namespace}_{}", name.name);
        if stem.len() > MAX_STEM {
            // A name of 253 characters is valid, and alone nearly as long as a file's name may be.
            let digest = Digest::of("resource file", &stem);
            stem = stem.chars().take(MAX_STEM - 33).chain(format!("~{digest}").chars()).collect();
        }
        self.resources_dir().join(format!("{stem}.yaml"))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, StoreError> {
        let Some(bytes) = read_if_there(path)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| StoreError::Content {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    fn write<T: Serialize + ?Sized>(&self, path: &Path, value: &T) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(value).map_err(|error| StoreError::Content {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        replace(path, &bytes)
    }
}

/// Makes sure that no other agent works on this directory. The kernel drops the lock with the
/// process, however that ends.
///
/// # Errors
///
/// [`StoreError::Taken`] if one does.
pub fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::Taken(dir.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(StoreError::Io { path, source }),
    }
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io { path: path.to_owned(), source }),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

/// Replaces a file's content, all or nothing, and sees it on disk.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_parent(path)
    };
    write().map_err(at(path))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path).map_err(at(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(StoreError::Io { path: path.to_owned(), source }),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(name: &str) -> ResourceName {
        ResourceName {
            api_version: "projectcalico.org/v3".into(),
            kind: "NetworkPolicy".into(),
            namespace: Some("shop".into()),
            name: name.into(),
        }
    }

    fn resource(n: &str) -> Value {
        json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
               "metadata": {"name": n, "namespace": "shop"}, "spec": {"selector": "all()"}})
    }

    #[test]
    fn resources_come_back_as_they_were_put() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let changes =
            [Change::Put(name("a"), resource("a")), Change::Put(name("b"), resource("b"))];
        store.prepare(&changes).unwrap();
        store.carry_out(&changes).unwrap();
        store.carry_out(&[Change::Remove(name("a"))]).unwrap();
        drop(store);
        let found: Vec<Value> = Store::open(dir.path())
            .unwrap()
            .resources()
            .unwrap()
            .into_iter()
            .map(|r| r.1)
            .collect();
        assert_eq!(found, [resource("b")]);
    }

    #[test]
    fn a_change_that_was_only_prepared_is_finished_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.prepare(&[Change::Put(name("a"), resource("a"))]).unwrap();
        assert!(store.resources().unwrap().is_empty());
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.resources().unwrap().len(), 1);
        assert!(!dir.path().join("journal.json").exists());
    }

    #[test]
    fn an_unfinished_change_is_not_lost_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.prepare(&[Change::Put(name("a"), resource("a"))]).unwrap();
        let second = [Change::Put(name("b"), resource("b"))];
        store.prepare(&second).unwrap();
        store.carry_out(&second).unwrap();
        assert_eq!(store.resources().unwrap().len(), 2);
    }

    #[test]
    fn the_longest_names_fit_and_stay_apart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let long = |last: &str| format!("{}{last}", "a".repeat(252));
        for last in ["x", "y"] {
            let name = ResourceName {
                kind: "StagedGlobalNetworkPolicy".into(),
                namespace: Some("n".repeat(63)),
                ..name(&long(last))
            };
            store.carry_out(&[Change::Put(name, resource(last))]).unwrap();
        }
        assert_eq!(store.resources().unwrap().len(), 2);
    }

    #[test]
    fn two_agents_do_not_work_on_one_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Taken(_))));
        drop(first);
        Store::open(dir.path()).unwrap();
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = dir.path().join("resources/x.yaml");
        fs::write(&path, "a: [").unwrap();
        let error = store.resources().unwrap_err().to_string();
        assert_eq!(error.matches("x.yaml").count(), 1, "{error}");
    }
}
