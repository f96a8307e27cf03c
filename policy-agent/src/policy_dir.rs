//! The declarative policy directory: whatever its files say is in force, as soon as they say it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use policy_api::diagnostic::Diagnostic;
use serde_json::Value;
use tokio::sync::mpsc;
use tracing::warn;

/// The directory, and news of changes in it.
#[derive(Debug)]
pub struct PolicyDir {
    path: PathBuf,
    changes: mpsc::Receiver<()>,
    _watcher: Option<RecommendedWatcher>,
}

impl PolicyDir {
    /// Starts watching. A directory that does not exist is made, so that it can be watched; one
    /// that cannot be made or watched is read at start only, with a warning.
    pub fn watch(path: &Path) -> PolicyDir {
        let (sender, changes) = mpsc::channel(1);
        let watcher = fs::create_dir_all(path).map_err(notify::Error::io).and_then(|()| {
            let mut watcher = notify::recommended_watcher(move |_| {
                // One pending notice is enough: the whole directory is read again.
                let _ = sender.try_send(());
            })?;
            watcher.watch(path, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        let watcher = watcher
            .inspect_err(|error| {
                warn!(path = %path.display(), %error, "cannot watch the policy directory");
            })
            .ok();
        PolicyDir { path: path.to_owned(), changes, _watcher: watcher }
    }

    /// Waits for a change. Cancel safe.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
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
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
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
