//! The numbers in the kernel maps on disk: what they were at one time, and each change since.
//!
//! Inputs: [`IdChanges`], before the plan that came with them is executed. Outputs: [`Ids`] after a
//! restart.
//!
//! | file | holds |
//! |---|---|
//! | `ids.json` | the whole, replaced by rename |
//! | `ids.log` | a line that names the whole that it belongs to, then a line for each change |
//!
//! Each line begins with the digest of its rest, so that what a crash has torn off is not taken for
//! a change; whatever was written down after that has not been executed either. A log that belongs
//! to another whole is one that a crash has left behind when the whole was written anew.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use policy_core::{
    digest::Digest,
    ids::{IdChanges, Ids},
};

use super::{
    StoreError,
    files::{at, read_if_there, replace},
    lines::{self, line},
};

/// Length of the log, bytes, from which on the whole is written anew when there is time.
const LONG: u64 = 16 << 20;
/// And when there is not.
const TOO_LONG: u64 = 8 * LONG;

/// The two files.
#[derive(Debug)]
pub struct Numbers {
    whole: PathBuf,
    path: PathBuf,
    /// The log; none if the whole has to be written first.
    log: Option<File>,
    length: u64,
}

impl Numbers {
    /// Reads what there is in a state directory.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a file cannot be read, or the whole is none.
    pub fn open(dir: &Path) -> Result<(Numbers, Ids), StoreError> {
        let whole = dir.join("ids.json");
        let path = dir.join("ids.log");
        let bytes = read_if_there(&whole)?;
        let log = read_if_there(&path)?.unwrap_or_default();
        let mut ids = match &bytes {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|error| StoreError::Content {
                path: whole.clone(),
                reason: error.to_string(),
            })?,
            None => Ids::default(),
        };
        let mut lines = lines::contents(&log);
        let belongs = lines.next().is_some_and(|of| of == name_of(bytes.as_deref()).as_bytes());
        if belongs {
            for line in lines {
                let Ok(changes) = serde_json::from_slice::<IdChanges>(line) else { break };
                ids.apply(&changes);
            }
        }
        Ok((Numbers { whole, path, log: None, length: 0 }, ids))
    }

    /// Writes a change down, so that it survives a crash from here on. `after`: the numbers with
    /// it.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the change is not on disk then, or not all of it.
    pub fn record(
        &mut self,
        changes: &IdChanges,
        after: impl FnOnce() -> Ids,
    ) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let Some(mut log) = self.log.take().filter(|_| self.length < TOO_LONG) else {
            return self.rewrite(&after());
        };
        let text = serde_json::to_string(changes).map_err(|error| StoreError::Content {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        let line = line(&text);
        let write = |log: &mut File| {
            log.write_all(line.as_bytes())?;
            log.sync_data()
        };
        // After a failure the log may end in a torn line, and is not written to any more.
        write(&mut log).map_err(at(&self.path))?;
        self.length += line.len() as u64;
        self.log = Some(log);
        Ok(())
    }

    /// Whether the log should be made short when there is time.
    pub fn is_long(&self) -> bool {
        self.length > LONG
    }

    /// Writes the whole, and begins a new log.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn rewrite(&mut self, ids: &Ids) -> Result<(), StoreError> {
        self.log = None;
        let bytes = serde_json::to_vec(ids).map_err(|error| StoreError::Content {
            path: self.whole.clone(),
            reason: error.to_string(),
        })?;
        replace(&self.whole, &bytes)?;
        let first = line(&name_of(Some(&bytes)));
        replace(&self.path, first.as_bytes())?;
        let log = OpenOptions::new().append(true).open(&self.path).map_err(at(&self.path))?;
        self.log = Some(log);
        self.length = first.len() as u64;
        Ok(())
    }
}

/// What a log calls the whole that it belongs to.
fn name_of(whole: Option<&[u8]>) -> String {
    Digest::of("ids", &whole).to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use policy_core::{
        compile::Compiler,
        model::{EndpointId, EndpointSpec, Model},
    };

    use super::*;

    /// The changes that more and more endpoints make, and the numbers after each.
    fn history(length: u8) -> Vec<(IdChanges, Ids)> {
        let mut compiler = Compiler::new();
        let mut model = Model::default();
        let mut history = Vec::new();
        for index in 0..length {
            let spec = EndpointSpec {
                ifindex: 10 + u32::from(index),
                interface: format!("veth{index}"),
                name: format!("e{index}"),
                namespace: "shop".to_owned(),
                network: String::new(),
                labels: [("app", index.to_string())].into_iter().collect(),
                addresses: vec![[10, 0, 0, index].into()],
                mac: None,
                ports: Vec::new(),
                bridge: None,
                plane: policy_core::host::Plane::Workload,
                adopt_until_ns: 0,
            };
            model.endpoints.insert(EndpointId(spec.name.clone()), spec.into());
            let planned = compiler.plan(&model).unwrap();
            history.push((planned.id_changes().clone(), compiler.written(&planned)));
            compiler.commit(planned);
        }
        history
    }

    #[test]
    fn changes_are_found_again_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let mut numbers = Numbers::open(dir.path()).unwrap().0;
        for (index, (changes, after)) in history(6).into_iter().enumerate() {
            numbers.record(&changes, || after.clone()).unwrap();
            if index % 4 == 3 {
                numbers.rewrite(&after).unwrap();
            }
            let (again, found) = Numbers::open(dir.path()).unwrap();
            assert_eq!(found, after, "after {index}");
            if index == 4 {
                numbers = again;
            }
        }
    }

    #[test]
    fn a_torn_line_is_as_if_it_had_not_been_written_and_ends_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut numbers = Numbers::open(dir.path()).unwrap().0;
        let history = history(4);
        for (changes, after) in &history {
            numbers.record(changes, || after.clone()).unwrap();
        }
        let path = dir.path().join("ids.log");
        let log = fs::read(&path).unwrap();
        let before = log[..log.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        for length in [before, before + 1, before + 40, log.len() - 1] {
            fs::write(&path, &log[..length]).unwrap();
            assert_eq!(Numbers::open(dir.path()).unwrap().1, history[2].1, "{length} bytes");
        }
        let mut changed = log.clone();
        changed[before + 40] ^= 1;
        fs::write(&path, &changed).unwrap();
        assert_eq!(Numbers::open(dir.path()).unwrap().1, history[2].1);
        fs::write(&path, &log).unwrap();
        assert_eq!(Numbers::open(dir.path()).unwrap().1, history[3].1);
    }

    #[test]
    fn a_log_of_another_whole_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut numbers = Numbers::open(dir.path()).unwrap().0;
        let history = history(3);
        for (changes, after) in &history[..2] {
            numbers.record(changes, || after.clone()).unwrap();
        }
        // A crash between the two files.
        let log = fs::read(dir.path().join("ids.log")).unwrap();
        numbers.rewrite(&history[2].1).unwrap();
        fs::write(dir.path().join("ids.log"), log).unwrap();
        assert_eq!(Numbers::open(dir.path()).unwrap().1, history[2].1);
    }
}
