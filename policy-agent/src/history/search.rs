//! Looks for records in the history.

use std::{fs::File, io, sync::Arc};

use policy_api::flow::FlowRecord;
use policy_core::observe::Filter;
use tracing::warn;

use super::{
    segment::{Block, Segment},
    shelf::since_1970,
};
use crate::observer::Past;

/// What a search comes upon.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A record that is wanted, as a line of JSON without a line end.
    Line(Vec<u8>),
    /// So many records could not be read: their file has gone meanwhile, or is damaged. Whether they were
    /// wanted nobody knows.
    Lost(u64),
}

/// Shows records that are wanted, oldest first: the newest so many, or all. Ends early if `show` says
/// that nobody looks any more; `is_over` is asked where nothing is found to be shown.
pub fn search(
    past: &Past,
    filter: &Filter,
    newest: Option<usize>,
    is_over: impl Fn() -> bool,
    mut show: impl FnMut(Found) -> bool,
) {
    match newest {
        None => {
            let unwritten = |show: &mut dyn FnMut(Found) -> bool| {
                let wanted = past.unwritten.iter().filter(|record| filter.wants(record));
                wanted.into_iter().all(|record| line(record).is_none_or(|it| show(Found::Line(it))))
            };
            let _ = through(past, filter, &is_over, &mut show) && unwritten(&mut show);
        }
        Some(newest) => {
            let mut found = backwards(past, filter, newest, &is_over);
            found.reverse();
            let _ = found.into_iter().all(show);
        }
    }
}

fn line(record: &FlowRecord) -> Option<Vec<u8>> {
    serde_json::to_vec(record).ok()
}

/// All that is wanted of the files.
fn through(
    past: &Past,
    filter: &Filter,
    is_over: &dyn Fn() -> bool,
    show: &mut dyn FnMut(Found) -> bool,
) -> bool {
    past.segments.iter().all(|segment| {
        let mut reader = Reader::new(segment, filter);
        segment.blocks.iter().all(|block| {
            let Wanted { lines, lost } = reader.wanted(block);
            !is_over()
                && lines.into_iter().all(|line| show(Found::Line(line)))
                && (lost == 0 || show(Found::Lost(lost)))
        })
    })
}

/// The newest so many, newest first.
fn backwards(
    past: &Past,
    filter: &Filter,
    newest: usize,
    is_over: &dyn Fn() -> bool,
) -> Vec<Found> {
    let unwritten = past.unwritten.iter().rev().filter(|record| filter.wants(record));
    let lines = unwritten.filter_map(|record| line(record)).take(newest);
    let mut found: Vec<Found> = lines.map(Found::Line).collect();
    let mut left = newest - found.len();
    for segment in past.segments.iter().rev() {
        let mut reader = Reader::new(segment, filter);
        for block in segment.blocks.iter().rev() {
            if left == 0 || is_over() {
                return found;
            }
            let Wanted { lines, lost } = reader.wanted(block);
            if lost > 0 {
                found.push(Found::Lost(lost));
            }
            let lines: Vec<_> = lines.into_iter().rev().take(left).collect();
            left -= lines.len();
            found.extend(lines.into_iter().map(Found::Line));
        }
    }
    found
}

/// What there is of a block.
#[derive(Default)]
struct Wanted {
    lines: Vec<Vec<u8>>,
    /// Records that could not be read.
    lost: u64,
}

/// Reads blocks of a file, which is opened when the first is needed.
struct Reader<'a> {
    segment: &'a Arc<Segment>,
    filter: &'a Filter,
    span: (i64, i64),
    file: Option<File>,
}

impl<'a> Reader<'a> {
    fn new(segment: &'a Arc<Segment>, filter: &'a Filter) -> Reader<'a> {
        let (since, until) = filter.span();
        let span = (since.map_or(i64::MIN, since_1970), until.map_or(i64::MAX, since_1970));
        Reader { segment, filter, span, file: None }
    }

    fn wanted(&mut self, block: &Block) -> Wanted {
        self.read(block).unwrap_or_else(|error| {
            warn!(file = %self.segment.path.display(), %error, "a block of the history is lost");
            Wanted { lost: u64::from(block.count), ..Wanted::default() }
        })
    }

    fn read(&mut self, block: &Block) -> io::Result<Wanted> {
        let (since, until) = self.span;
        if block.newest_us < since || block.oldest_us > until {
            return Ok(Wanted::default());
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.segment.path)?,
        };
        let file = self.file.insert(file);
        if !block.may_hold(file, |summary| summary.may_hold(self.filter))? {
            return Ok(Wanted::default());
        }
        let lines = block.lines(file)?;
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut wanted = Wanted::default();
        for line in lines {
            match serde_json::from_slice::<FlowRecord>(line) {
                Ok(record) if self.filter.wants(&record) => wanted.lines.push(line.to_vec()),
                Ok(_) => {}
                // Of another version, or damaged before it was written.
                Err(_) => wanted.lost += 1,
            }
        }
        Ok(wanted)
    }
}
