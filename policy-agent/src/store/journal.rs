//! Changes of resources that are decided and may not be in the resources' files yet.
//!
//! In: a change before it is enforced, and word that it is in the files. Out: after a crash, the
//! changes that were told or were about to be, in order. One line a change ([`super::lines`]), and
//! one flush: that is all that a caller has to wait for.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{
    Change, StoreError,
    files::{at, read_if_there, sync_parent},
    lines,
};

/// The file, and what of it is still needed.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes that are whole changes; what is behind them is torn.
    length: u64,
    /// The same without the newest change.
    before: u64,
    /// Changes that are not in the files yet.
    open: usize,
}

impl Journal {
    /// Opens or creates the journal in a state directory, and reads what is still to be done.
    pub(super) fn open(dir: &Path) -> Result<(Journal, Vec<Change>), StoreError> {
        let path = dir.join("journal.log");
        let bytes = read_if_there(&path)?;
        let mut changes = Vec::new();
        let whole = lines::undamaged(bytes.as_deref().unwrap_or_default()).map_err(|line| {
            let reason = format!("line {line} is damaged, and changes stand behind it");
            StoreError::Content { path: path.clone(), reason }
        })?;
        for line in whole {
            let change: Vec<Change> = serde_json::from_slice(line).map_err(|error| {
                StoreError::Content { path: path.clone(), reason: error.to_string() }
            })?;
            changes.extend(change);
        }
        let file = OpenOptions::new().append(true).create(true).open(&path).map_err(at(&path))?;
        if bytes.is_none() {
            sync_parent(&path).map_err(at(&path))?;
        }
        Ok((Journal { path, file, length: 0, before: 0, open: 0 }, changes))
    }

    /// Writes a change down, so that it survives a crash from here on.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the change is not there then.
    pub(super) fn append(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let text = serde_json::to_string(changes).map_err(|error| StoreError::Content {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        let line = lines::line(&text);
        // What an earlier failure may have left would hide everything behind it.
        self.cut(self.length)?;
        let write = |file: &mut File| {
            file.write_all(line.as_bytes())?;
            file.sync_data()
        };
        if let Err(error) = write(&mut self.file) {
            // Tried again before the next change, and a torn line counts for nothing.
            let _ = self.file.set_len(self.length);
            return Err(at(&self.path)(error));
        }
        self.before = self.length;
        self.length += line.len() as u64;
        self.open += 1;
        Ok(())
    }

    /// Drops the newest change, which nobody has been told of.
    pub(super) fn take_back(&mut self) -> Result<(), StoreError> {
        self.open -= 1;
        self.length = self.before;
        self.cut(self.length)?;
        self.file.sync_data().map_err(at(&self.path))
    }

    /// Takes note that so many changes are in the files, and on disk there. Once all are, the
    /// journal is empty.
    pub(super) fn done(&mut self, count: usize) {
        self.open -= count;
        if self.open == 0 {
            (self.length, self.before) = (0, 0);
            // If it fails: tried again before the next change, and until then a replay says what
            // the files say already.
            let _ = self.cut(0);
        }
    }

    fn cut(&mut self, length: u64) -> Result<(), StoreError> {
        self.file.set_len(length).map_err(at(&self.path))
    }
}
