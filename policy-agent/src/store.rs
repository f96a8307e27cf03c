//! What survives a restart: applied resources, the numbers in the kernel maps, totals of drop
//! counters whose endpoints are gone.
//!
//! | file in `--state-dir` | holds |
//! |---|---|
//! | `resources/<kind>.<namespace>.<name>.yaml` | one resource, as it was applied |
//! | `journal.log` | changes that are not in the resources' files yet; replayed at start |
//! | `ids.json`, `ids.log` | names of the rule, peer and table numbers in the maps ([`numbers`]) |
//! | `interfaces.json` | names of the interfaces that drop counters speak of |
//! | `policy-dir.json` | the last good content of the policy directory |
//! | `totals.json` | drops and flows of endpoints that are gone |
//!
//! Every file is written beside its place and renamed over it, so that it is either old or new. A
//! change of resources is flushed to the journal first: either all of it survives a crash or nothing.
//! Their files follow behind the caller's back ([`writer`]).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

use policy_api::{diagnostic::Diagnostic, messages::ResourceName};
use policy_core::digest::Digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

mod files;
mod journal;
mod lines;
pub mod numbers;
mod writer;

pub use files::lock;
use files::{at, read_if_there, replace};
use journal::Journal;
use writer::{Desk, Pending};

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
    desk: Arc<Desk>,
    /// To the writer; gone when it is to end.
    changes: Option<mpsc::Sender<Vec<Change>>>,
    writer: Option<JoinHandle<()>>,
    /// Held for as long as the store is open.
    _lock: File,
}

impl Store {
    /// Opens or creates the directory, and finishes changes that a crash interrupted.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        let resources = dir.join("resources");
        fs::create_dir_all(&resources).map_err(at(&resources))?;
        let lock = lock(dir)?;
        let (mut journal, left) = Journal::open(dir)?;
        let mut pending = Pending::default();
        pending.add(&resources, left);
        pending.write(&resources)?;
        journal.done(0);
        let desk = Arc::new(Desk { journal: Mutex::new(journal), trouble: Mutex::new(None) });
        let (sender, changes) = mpsc::channel();
        let writer = thread::Builder::new().name("store".to_owned()).spawn({
            let desk = Arc::clone(&desk);
            move || writer::run(&resources, &changes, &desk)
        });
        Ok(Store {
            dir: dir.to_owned(),
            desk,
            changes: Some(sender),
            writer: Some(writer.map_err(at(dir))?),
            _lock: lock,
        })
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

    /// Writes a change down, so that it survives a crash from here on. It is then either
    /// [carried out](Store::carry_out) or [taken back](Store::take_back).
    ///
    /// # Errors
    ///
    /// [`StoreError`]; nothing has changed then.
    pub fn prepare(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.journal().append(changes)
    }

    /// Makes the change that was prepared last; this waits for nothing.
    pub fn carry_out(&self, changes: Vec<Change>) {
        // The writer ends after the store.
        if let Some(writer) = &self.changes {
            let _ = writer.send(changes);
        }
    }

    /// Drops the change that was prepared last.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the change may come back with the next start.
    pub fn take_back(&self) -> Result<(), StoreError> {
        self.journal().take_back()
    }

    /// Why the newest resources are only in the journal, if they are and should not be.
    pub fn trouble(&self) -> Option<String> {
        self.desk.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.desk.journal.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Drop for Store {
    /// Waits until the files hold what was carried out.
    fn drop(&mut self) {
        self.changes = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// The file of a resource. Kinds and validated names hold no slash; the API group tells two kinds
/// of the same name apart.
fn resource_file(dir: &Path, name: &ResourceName) -> PathBuf {
    let group = name.api_version.split('/').next().unwrap_or_default();
    let namespace = name.namespace.as_deref().unwrap_or("-");
    let kind = name.kind.to_lowercase();
    let mut stem = format!("{kind}.{group}_{namespace}_{}", name.name);
    if stem.len() > MAX_STEM {
        // A name of 253 characters is valid, and alone nearly as long as a file's name may be.
        let digest = Digest::of("resource file", &stem);
        stem = stem.chars().take(MAX_STEM - 33).chain(format!("~{digest}").chars()).collect();
    }
    dir.join(format!("{stem}.yaml"))
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

    fn change(store: &Store, changes: &[Change]) {
        store.prepare(changes).unwrap();
        store.carry_out(changes.to_vec());
    }

    fn found(dir: &Path) -> Vec<Value> {
        let resources = Store::open(dir).unwrap().resources().unwrap();
        resources.into_iter().map(|(_, value)| value).collect()
    }

    #[test]
    fn resources_come_back_as_they_were_put() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let put = |n: &str| Change::Put(name(n), resource(n));
        change(&store, &[put("a"), put("b")]);
        change(&store, &[Change::Remove(name("a"))]);
        drop(store);
        assert_eq!(found(dir.path()), [resource("b")]);
        assert_eq!(fs::metadata(dir.path().join("journal.log")).unwrap().len(), 0);
    }

    #[test]
    fn many_changes_at_once_end_in_the_newest_of_each_resource() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let put = |n: &str, version: u32| {
            let mut value = resource(n);
            value["spec"]["order"] = version.into();
            Change::Put(name(n), value)
        };
        for version in 0..50 {
            change(&store, &[put("a", version), put("b", version)]);
        }
        change(&store, &[Change::Remove(name("b"))]);
        drop(store);
        let left = found(dir.path());
        assert_eq!((left.len(), left[0]["spec"]["order"].as_u64()), (1, Some(49)));
    }

    /// As a crash leaves it: in the journal, and not in the files.
    #[test]
    fn changes_that_were_only_prepared_are_finished_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.prepare(&[Change::Put(name("a"), resource("a"))]).unwrap();
        store.prepare(&[Change::Put(name("b"), resource("b"))]).unwrap();
        assert!(store.resources().unwrap().is_empty());
        drop(store);
        assert_eq!(found(dir.path()), [resource("a"), resource("b")]);
        assert_eq!(fs::metadata(dir.path().join("journal.log")).unwrap().len(), 0);
    }

    #[test]
    fn a_change_that_was_taken_back_does_not_come_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.prepare(&[Change::Put(name("a"), resource("a"))]).unwrap();
        store.prepare(&[Change::Put(name("b"), resource("b"))]).unwrap();
        store.take_back().unwrap();
        store.prepare(&[Change::Put(name("c"), resource("c"))]).unwrap();
        drop(store);
        assert_eq!(found(dir.path()), [resource("a"), resource("c")]);
    }

    #[test]
    fn what_a_crash_has_torn_off_is_no_change_and_hides_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.prepare(&[Change::Put(name("a"), resource("a"))]).unwrap();
        drop(store);
        let path = dir.path().join("journal.log");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_within(..bytes.len() / 2);
        fs::write(&path, bytes).unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.prepare(&[Change::Put(name("b"), resource("b"))]).unwrap();
        drop(store);
        assert_eq!(found(dir.path()), [resource("a"), resource("b")]);
    }

    #[test]
    fn a_damaged_line_before_others_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for n in ["a", "b"] {
            store.prepare(&[Change::Put(name(n), resource(n))]).unwrap();
        }
        drop(store);
        let path = dir.path().join("journal.log");
        let mut bytes = fs::read(&path).unwrap();
        bytes[40] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("journal.log: line 1 is damaged"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn what_cannot_be_written_stays_in_the_journal_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let resources = dir.path().join("resources");
        let away = dir.path().join("away");
        fs::rename(&resources, &away).unwrap();
        change(&store, &[Change::Put(name("a"), resource("a"))]);
        while store.trouble().is_none() {
            thread::yield_now();
        }
        assert!(store.trouble().unwrap().contains("resources"), "{:?}", store.trouble());
        fs::rename(&away, &resources).unwrap();
        // The next change takes it along.
        change(&store, &[Change::Put(name("b"), resource("b"))]);
        while store.trouble().is_some() {
            thread::yield_now();
        }
        drop(store);
        assert_eq!(found(dir.path()), [resource("a"), resource("b")]);
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
            change(&store, &[Change::Put(name, resource(last))]);
        }
        drop(store);
        assert_eq!(found(dir.path()).len(), 2);
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
