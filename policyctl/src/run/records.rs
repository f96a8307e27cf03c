//! Records of files, as `observe -o json` and the flow log write them. Input: paths and a filter; output: each
//! record that is wanted, in order, and a note on what is none.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use policy_api::flow::{FlowFilter, FlowRecord, Observed};
use policy_core::observe::Filter;

use crate::failure::{Exit, Failure};
use crate::output::{self, Screen};

/// A line of a file is not longer than this, bytes: a record has less than a tenth of it.
const LONGEST: u64 = 1 << 20;

/// Hands on what is wanted of the records in files; `-` is standard input. Lines that are no records
/// are left out, with a note for each file.
///
/// # Errors
///
/// A filter that means nothing, a file that cannot be read, and what `each` says.
pub(super) fn read(
    screen: &Screen,
    paths: &[PathBuf],
    filter: &FlowFilter,
    mut each: impl FnMut(Box<FlowRecord>) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let filter = Filter::new(filter).map_err(|error| Failure::usage(error.to_string()))?;
    let mut unreadable = 0;
    for path in paths {
        let mut faults = Faults::default();
        let failed = |source| Failure::Read { path: path.clone(), source };
        let mut lines = Lines::open(path).map_err(failed)?;
        while let Some(line) = lines.next().map_err(failed)? {
            match line {
                Ok(Observed::Flow(record)) if filter.wants(&record) => each(record)?,
                Ok(_) => {}
                Err(problem) => faults.add(lines.number, problem),
            }
        }
        unreadable += faults.count;
        faults.tell(screen, path)?;
    }
    Ok(if unreadable == 0 { Exit::Fine } else { Exit::Incomplete })
}

/// What a file says, if it is compressed: as the flow log's old files and those of the history are.
fn unpacked(mut reader: Box<dyn BufRead>) -> io::Result<Box<dyn BufRead>> {
    // RFC 8878, 3.1: the magic number of a frame, and the 16 of skippable frames.
    let is_zstd = match reader.fill_buf()? {
        [first, 0x2a, 0x4d, 0x18, ..] => first & 0xf0 == 0x50,
        bytes => bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]),
    };
    if !is_zstd {
        return Ok(reader);
    }
    Ok(Box::new(BufReader::new(zstd::Decoder::with_buffer(reader)?)))
}

/// Lines of a file that are no records.
#[derive(Default)]
struct Faults {
    count: u64,
    first: Option<(u64, String)>,
}

impl Faults {
    fn add(&mut self, line: u64, problem: String) {
        self.count += 1;
        self.first.get_or_insert((line, problem));
    }

    fn tell(&self, screen: &Screen, path: &Path) -> Result<(), Failure> {
        let Some((line, problem)) = &self.first else { return Ok(()) };
        let what = match self.count {
            1 => "a line is no record, and is left out".to_owned(),
            count => format!("{count} lines are no records, and are left out; the first one"),
        };
        let problem = output::text::clean(problem);
        screen.note(&format!("{}:{line}: {what}: {problem}", path.display()))
    }
}

/// Records of a file, line by line.
struct Lines {
    reader: Box<dyn BufRead>,
    buffer: Vec<u8>,
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> io::Result<Lines> {
        let reader: Box<dyn BufRead> = if path.as_os_str() == "-" {
            Box::new(BufReader::new(io::stdin()))
        } else {
            Box::new(BufReader::new(File::open(path)?))
        };
        Ok(Lines { reader: unpacked(reader)?, buffer: Vec::new(), number: 0 })
    }

    /// The next line that is not empty, as a record or as what is wrong with it; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Result<Observed, String>>> {
        loop {
            self.buffer.clear();
            let mut bounded = io::Read::take(&mut self.reader, LONGEST);
            if bounded.read_until(b'\n', &mut self.buffer)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            let is_whole = self.buffer.ends_with(b"\n");
            if !is_whole && self.buffer.len() as u64 == LONGEST {
                self.skip()?;
                return Ok(Some(Err(format!("it is longer than {LONGEST} bytes"))));
            }
            let line = match std::str::from_utf8(&self.buffer) {
                Ok(line) => line.trim(),
                Err(_) => return Ok(Some(Err("it is not UTF-8".to_owned()))),
            };
            if !line.is_empty() {
                return Ok(Some(Observed::parse(line).map_err(|error| error.to_string())));
            }
        }
    }

    /// Leaves out the rest of a line.
    fn skip(&mut self) -> io::Result<()> {
        loop {
            let (used, ended) = match self.reader.fill_buf()? {
                [] => return Ok(()),
                bytes => match bytes.iter().position(|byte| *byte == b'\n') {
                    Some(end) => (end + 1, true),
                    None => (bytes.len(), false),
                },
            };
            self.reader.consume(used);
            if ended {
                return Ok(());
            }
        }
    }
}
