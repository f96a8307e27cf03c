//! The history's folder: which files there are, and which have to go.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use policy_api::flow::FlowRecord;
use tracing::warn;

use super::{Bounds, Segments, segment::Segment};

/// The history is in so many files, so that little goes when one does.
const FILES: u64 = 16;
/// What the names of its files end in.
const ENDING: &str = ".jsonl.zst";

/// What the files hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Here {
    /// Records that can be read.
    pub(super) records: u64,
    /// Bytes of all files.
    pub(super) bytes: u64,
    /// And of those, bytes that are no whole block or stand behind one that is none.
    pub(super) damaged: u64,
    /// Time of the oldest record, µs since 1970.
    pub(super) oldest_us: Option<i64>,
}

/// Files of blocks, oldest first.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    bounds: Bounds,
    segments: Segments,
    is_open: bool,
}

impl Shelf {
    pub(super) fn new(dir: PathBuf, bounds: Bounds) -> Shelf {
        Shelf { dir, bounds, segments: Vec::new(), is_open: false }
    }

    /// Makes the folder, or reads what is there.
    ///
    /// # Errors
    ///
    /// It cannot be made or read. A file of it that cannot be read is left alone.
    pub(super) fn open(&mut self) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if number(&path).is_some() {
                paths.push(path);
            }
        }
        paths.sort_unstable();
        self.segments.clear();
        for path in paths {
            match Segment::read(&path) {
                Ok(segment) => self.segments.push(Arc::new(segment)),
                Err(error) => warn!(file = %path.display(), %error, "not read into the history"),
            }
        }
        self.is_open = true;
        Ok(())
    }

    pub(super) fn segments(&self) -> Segments {
        self.segments.clone()
    }

    /// Adds a block of records, which are not none.
    ///
    /// # Errors
    ///
    /// A file cannot be written. None of the records is there then.
    pub(super) fn write(&mut self, records: &[Arc<FlowRecord>]) -> io::Result<()> {
        if !self.is_open {
            self.open()?;
        }
        let timed = || records.iter().map(|record| (micros(record), record.as_ref()));
        let room = (self.bounds.size / FILES).max(1);
        let first = timed().next().map_or(0, |(time, _)| time);
        // On a quiet host a file would take months to be full, and nothing of it be old enough to go.
        let span = u64::try_from(self.bounds.age.as_micros()).unwrap_or(u64::MAX) / FILES;
        let is_over = |segment: &Arc<Segment>| {
            segment.size() >= room
                || segment.rest > 0
                || segment.oldest_us().is_some_and(|oldest| first.abs_diff(oldest) >= span)
        };
        if self.segments.last().is_none_or(is_over) {
            self.segments.push(Arc::new(Segment::new(self.path(first))));
        }
        let Some(segment) = self.segments.last_mut() else { return Ok(()) };
        // Whoever reads has the file as it was.
        let written = Arc::make_mut(segment).write(timed());
        if written.is_err() && segment.blocks.is_empty() {
            // Empty, if the disk had no more room: the next attempt makes one of another name.
            let _ = fs::remove_file(&segment.path);
            self.segments.pop();
        }
        written
    }

    /// A name that comes after those that are there, whatever the clock says.
    fn path(&self, first: i64) -> PathBuf {
        let newest = self.segments.last().and_then(|segment| number(&segment.path));
        let name = newest.map_or(first, |newest| first.max(newest.saturating_add(1))).max(0);
        self.dir.join(format!("{name:020}{ENDING}"))
    }

    /// Removes the oldest files, until the rest is within its bounds.
    pub(super) fn trim(&mut self, now: SystemTime) {
        let eldest = now.checked_sub(self.bounds.age).map_or(i64::MIN, since_1970);
        let mut bytes: u64 = self.segments.iter().map(|segment| segment.size()).sum();
        let mut place = 0;
        while let Some(segment) = self.segments.get(place) {
            // The one that is written stays, so that a clock that is set wrong empties no history at once.
            let is_written = place + 1 == self.segments.len();
            let is_old = !is_written && newest(segment).is_some_and(|newest| newest < eldest);
            let is_too_much = place == 0 && bytes > self.bounds.size;
            if !is_old && !is_too_much {
                // One from a clock that was ahead is not in the way of those behind it.
                place += 1;
                continue;
            }
            match fs::remove_file(&segment.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    warn!(file = %segment.path.display(), %error, "cannot remove old history");
                    place += 1;
                }
                _ => {
                    bytes -= segment.size();
                    self.segments.remove(place);
                }
            }
        }
    }

    /// What is there.
    pub(super) fn here(&self) -> Here {
        let mut here = Here::default();
        for segment in &self.segments {
            here.records += segment.count();
            here.bytes += segment.size();
            here.damaged += segment.rest;
            here.oldest_us = here.oldest_us.into_iter().chain(segment.oldest_us()).min();
        }
        here
    }
}

/// Time of the newest record of a file, µs since 1970; of one that nothing can be read of, when it was begun.
fn newest(segment: &Segment) -> Option<i64> {
    segment.newest_us().or_else(|| number(&segment.path))
}

/// The number that a file of ours has as its name.
fn number(path: &std::path::Path) -> Option<i64> {
    let name = path.file_name()?.to_str()?.strip_suffix(ENDING)?;
    let is_number = name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| name.parse().ok()).flatten()
}

/// Time of a record, µs since 1970.
fn micros(record: &FlowRecord) -> i64 {
    humantime::parse_rfc3339(&record.time).map_or(0, since_1970)
}

pub(super) fn since_1970(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

pub(super) fn time(micros: i64) -> Option<SystemTime> {
    // What is beyond the year 9999 cannot be written down.
    let since = Duration::from_micros(u64::try_from(micros).ok()?);
    let time = SystemTime::UNIX_EPOCH.checked_add(since)?;
    (since.as_secs() < 253_402_300_800).then_some(time)
}
