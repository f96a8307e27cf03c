//! Files that are either old or new, and on disk when they are said to be.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use nix::unistd::syncfs;

use super::StoreError;

/// As many files are seen on disk one by one; more are with the whole file system.
const FEW: usize = 16;

/// Names the file in an error.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io { path: path.to_owned(), source }),
    }
}

/// Replaces a file's content, all or nothing, and sees it on disk.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
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

/// Replaces files (`Some`) and removes others (`None`) in one directory, and sees all of it on
/// disk. A crash before that may leave any of them old, new or torn: for those who have the
/// contents elsewhere until then.
pub(super) fn replace_all<'a>(
    dir: &Path,
    files: impl Iterator<Item = (&'a PathBuf, Option<String>)>,
) -> Result<(), StoreError> {
    let mut written = Vec::new();
    for (path, text) in files {
        let change = || match &text {
            Some(text) => {
                let new = path.with_extension("new");
                fs::write(&new, text)?;
                fs::rename(&new, path)
            }
            None => match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            },
        };
        change().map_err(at(path))?;
        written.extend(text.map(|_| path));
    }
    let parent = File::open(dir).map_err(at(dir))?;
    if written.len() > FEW {
        return syncfs(&parent).map_err(|errno| at(dir)(errno.into()));
    }
    for path in written {
        File::open(path).and_then(|file| file.sync_all()).map_err(at(path))?;
    }
    parent.sync_all().map_err(at(dir))
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

pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
