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
/// that nobody looks any more.
pub fn search(
    past: &Past,
    filter: &Filter,
    newest: Option<usize>,
    mut show: impl FnMut(Found) -> bool,
) {
    match newest {
        None => {
            let unwritten = |show: &mut dyn FnMut(Found) -> bool| {
                let wanted = past.unwritten.iter().filter(|record| filter.wants(record));
                wanted.into_iter().all(|record| line(record).is_none_or(|it| show(Found::Line(it))))
            };
            let _ = through(past, filter, &mut show) && unwritten(&mut show);
        }
        Some(newest) => {
            let mut found = backwards(past, filter, newest);
            found.reverse();
            let _ = found.into_iter().all(show);
        }
    }
}

fn line(record: &FlowRecord) -> Option<Vec<u8>> {
    serde_json::to_vec(record).ok()
}

/// All that is wanted of the files.
fn through(past: &Past, filter: &Filter, show: &mut dyn FnMut(Found) -> bool) -> bool {
    past.segments.iter().all(|segment| {
        let mut reader = Reader::new(segment, filter);
        segment.blocks.iter().all(|block| match reader.wanted(block) {
            Ok(lines) => lines.into_iter().all(|line| show(Found::Line(line))),
            Err(lost) => show(Found::Lost(lost)),
        })
    })
}

/// The newest so many, newest first.
fn backwards(past: &Past, filter: &Filter, newest: usize) -> Vec<Found> {
    let unwritten = past.unwritten.iter().rev().filter(|record| filter.wants(record));
    let lines = unwritten.filter_map(|record| line(record)).take(newest);
    let mut found: Vec<Found> = lines.map(Found::Line).collect();
    let mut left = newest - found.len();
    for segment in past.segments.iter().rev() {
        let mut reader = Reader::new(segment, filter);
        for block in segment.blocks.iter().rev() {
            if left == 0 {
                return found;
            }
            match reader.wanted(block) {
                Ok(lines) => {
                    let lines: Vec<_> = lines.into_iter().rev().take(left).collect();
                    left -= lines.len();
                    found.extend(lines.into_iter().map(Found::Line));
                }
                Err(lost) => found.push(Found::Lost(lost)),
            }
        }
    }
    found
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

    /// The lines of a block that are wanted, or how many records it has if it cannot be read.
    fn wanted(&mut self, block: &Block) -> Result<Vec<Vec<u8>>, u64> {
        self.read(block).map_err(|error| {
            warn!(file = %self.segment.path.display(), %error, "a block of the history is lost");
            u64::from(block.count)
        })
    }

    fn read(&mut self, block: &Block) -> io::Result<Vec<Vec<u8>>> {
        let (since, until) = self.span;
        if block.newest_us < since || block.oldest_us > until {
            return Ok(Vec::new());
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.segment.path)?,
        };
        let file = self.file.insert(file);
        if !block.may_hold(file, |summary| summary.may_hold(self.filter))? {
            return Ok(Vec::new());
        }
        let lines = block.lines(file)?;
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let wanted = lines.filter(|line| {
            serde_json::from_slice::<FlowRecord>(line)
                .is_ok_and(|record| self.filter.wants(&record))
        });
        Ok(wanted.map(<[u8]>::to_vec).collect())
    }
}
