//! The declarative policy directory: whatever its files say is in force, as soon as they say it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use policy_api::diagnostic::Diagnostic;
use serde_json::Value;
use tokio::sync::mpsc;
use tracing::warn;

/// The directory, and news of changes in it.
#[derive(Debug)]
pub struct PolicyDir {
    path: PathBuf,
    changes: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
    /// It was there when the agent started: when it is missing later, it is not empty but gone.
    existed: bool,
}

impl PolicyDir {
    /// Starts watching. A directory that does not exist is made, so that it can be watched; one
    /// that cannot be made or watched is read at start only, with a warning.
    pub fn watch(path: &Path) -> PolicyDir {
        let (sender, changes) = mpsc::channel(1);
        let warn = |error: notify::Error| {
            warn!(path = %path.display(), %error, "cannot watch the policy directory");
        };
        let existed =
            fs::create_dir_all(path).map_err(|error| warn(notify::Error::io(error))).is_ok();
        let watcher = notify::recommended_watcher(move |event| {
            if is_change(&event) {
                // One pending notice is enough: the whole directory is read again.
                let _ = sender.try_send(());
            }
        });
        let mut dir = PolicyDir {
            path: path.to_owned(),
            changes,
            watcher: watcher.map_err(warn).ok(),
            existed,
        };
        if existed {
            dir.rewatch();
        }
        dir
    }

    /// Watches what is at the path now. To be called before each reading: the kernel watches the
    /// directory itself, and another one may have been put into its place.
    pub fn rewatch(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        // Not watched, or no longer there.
        let _ = watcher.unwatch(&self.path);
        if let Err(error) = watcher.watch(&self.path, RecursiveMode::NonRecursive) {
            warn!(path = %self.path.display(), %error, "cannot watch the policy directory");
        }
    }

    /// Waits for a change. Cancel safe.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Every resource in the directory's `.yaml`, `.yml` and `.json` files, in order of file name.
    /// Hidden files are left out: editors keep theirs there.
    ///
    /// # Errors
    ///
    /// What is wrong with each file.
    pub fn read(&self) -> Result<Vec<(PathBuf, Value)>, Vec<Diagnostic>> {
        let unreadable = |path: &Path, error: &io::Error| Diagnostic {
            file: Some(path.display().to_string()),
            ..Diagnostic::error("", error.to_string())
        };
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.existed => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(vec![unreadable(&self.path, &error)]),
        };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_policy(path))
            .collect();
        paths.sort();
        let mut resources = Vec::new();
        let mut errors = Vec::new();
        for path in paths {
            let file = path.display().to_string();
            let documents = fs::read(&path)
                .map_err(|error| vec![unreadable(&path, &error)])
                .and_then(|bytes| policy_api::yaml::read(&file, &bytes));
            match documents {
                Ok(documents) => {
                    resources.extend(documents.into_iter().map(|d| (path.clone(), d.value)));
                }
                Err(diagnostics) => errors.extend(diagnostics),
            }
        }
        if errors.is_empty() { Ok(resources) } else { Err(errors) }
    }
}

fn is_policy(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Whether the directory may hold something else than before. Reading it is reported, too, the
/// agent's own reading as well: to follow that would be to read for ever.
fn is_change(event: &notify::Result<Event>) -> bool {
    match event {
        Ok(Event { kind: EventKind::Access(kind), .. }) => {
            *kind == AccessKind::Close(AccessMode::Write)
        }
        // Events may have been lost.
        Ok(_) | Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, RemoveKind};

    use super::*;

    #[test]
    fn reading_is_no_change() {
        let event = |kind| Ok(Event::new(kind));
        assert!(!is_change(&event(EventKind::Access(AccessKind::Open(AccessMode::Any)))));
        assert!(!is_change(&event(EventKind::Access(AccessKind::Close(AccessMode::Read)))));
        assert!(is_change(&event(EventKind::Access(AccessKind::Close(AccessMode::Write)))));
        assert!(is_change(&event(EventKind::Create(CreateKind::File))));
        assert!(is_change(&event(EventKind::Remove(RemoveKind::Folder))));
        assert!(is_change(&Err(notify::Error::generic("overflow"))));
    }

    #[tokio::test]
    async fn reading_and_watching_anew_is_no_news() {
        let parent = tempfile::tempdir().unwrap();
        let mut dir = PolicyDir::watch(parent.path());
        fs::write(parent.path().join("a.yaml"), "kind: X\n").unwrap();
        dir.changed().await;
        // The notices of one write may be several; each reading must not make another.
        let mut notices = 0;
        let quiet = std::time::Duration::from_millis(300);
        while tokio::time::timeout(quiet, dir.changed()).await.is_ok() {
            notices += 1;
            assert!(notices < 10, "the agent hears its own reading");
            dir.rewatch();
            assert_eq!(dir.read().unwrap().len(), 1);
        }
    }

    #[tokio::test]
    async fn a_directory_put_into_the_place_of_another_is_followed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("policies.d");
        let mut dir = PolicyDir::watch(&path);
        assert!(dir.read().unwrap().is_empty());
        fs::remove_dir(&path).unwrap();
        dir.changed().await;
        assert!(dir.read().is_err(), "a directory that is gone is not an empty one");

        fs::create_dir(&path).unwrap();
        dir.rewatch();
        assert!(dir.read().unwrap().is_empty());
        while dir.changes.try_recv().is_ok() {}
        fs::write(path.join("a.yaml"), "kind: X\n").unwrap();
        dir.changed().await;
        assert_eq!(dir.read().unwrap().len(), 1);
    }
}
