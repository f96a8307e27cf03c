//! `observe`: records of an agent, or of files that hold what it printed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use policy_api::flow::{FlowFilter, FlowRecord, Observed};
use policy_core::observe::Filter;

use crate::args::StreamFormat;
use crate::client::Client;
use crate::command::Watch;
use crate::failure::{Exit, Failure};
use crate::output::{self, Screen};

/// A line of a file is not longer than this, bytes: a record has less than a tenth of it.
const LONGEST: u64 = 1 << 20;

pub(super) async fn observe(
    client: &Client,
    screen: &Screen,
    watch: Watch,
    format: StreamFormat,
) -> Result<Exit, Failure> {
    let mut printer = Printer { screen, format, printed: 0 };
    if !watch.input.is_empty() {
        return replay(screen, &watch, &mut printer);
    }
    let follow = watch.follow;
    let mut records = client.observe(follow, watch.last, &watch.filter).await?;
    while let Some(observed) = records.next().await? {
        match observed {
            Observed::Flow(record) => printer.print(&record)?,
            Observed::Lost(lost) => screen.note(&format!(
                "{lost} records are missing here: they came faster than they were read"
            ))?,
        }
    }
    if follow {
        return Err(Failure::StreamEnded);
    }
    if printer.printed == 0 && format != StreamFormat::Json {
        let none = if watch.filter == FlowFilter::default() {
            "no records yet"
        } else {
            "none of the records that are kept is wanted"
        };
        screen.note(&format!("{none}: watch for them with `policyctl observe -f`"))?;
    }
    Ok(Exit::Fine)
}

/// Prints what is wanted of the records in files.
fn replay(screen: &Screen, watch: &Watch, printer: &mut Printer<'_>) -> Result<Exit, Failure> {
    let filter = Filter::new(&watch.filter).map_err(|error| Failure::usage(error.to_string()))?;
    let mut newest: VecDeque<Box<FlowRecord>> = VecDeque::new();
    let mut unreadable = 0;
    for path in &watch.input {
        let mut faults = Faults::default();
        let failed = |source| Failure::Read { path: path.clone(), source };
        let mut lines = Lines::open(path).map_err(failed)?;
        while let Some(line) = lines.next().map_err(failed)? {
            let record = match line {
                Ok(Observed::Flow(record)) => record,
                Ok(Observed::Lost(_)) => continue,
                Err(problem) => {
                    faults.add(lines.number, problem);
                    continue;
                }
            };
            if !filter.wants(&record) {
                continue;
            }
            let Some(last) = watch.last else {
                printer.print(&record)?;
                continue;
            };
            newest.push_back(record);
            if newest.len() > last {
                newest.pop_front();
            }
        }
        unreadable += faults.count;
        faults.tell(screen, path)?;
    }
    for record in newest {
        printer.print(&record)?;
    }
    Ok(if unreadable == 0 { Exit::Fine } else { Exit::Incomplete })
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
        Ok(Lines { reader, buffer: Vec::new(), number: 0 })
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

struct Printer<'a> {
    screen: &'a Screen,
    format: StreamFormat,
    printed: u64,
}

impl Printer<'_> {
    fn print(&mut self, record: &FlowRecord) -> Result<(), Failure> {
        let is_first = self.printed == 0;
        self.printed += 1;
        match self.format {
            StreamFormat::Compact => {
                self.screen.print(&format!("{}\n", output::flow::compact(record)))
            }
            StreamFormat::Table => {
                let head = if is_first { output::flow::head() } else { String::new() };
                self.screen.print(&format!("{head}{}\n", output::flow::row(record)))
            }
            StreamFormat::Dict => {
                let between = if is_first { "" } else { "------------\n" };
                self.screen.print(&format!("{between}{}", output::flow::dict(record)))
            }
            StreamFormat::Json => self.screen.json_line(record),
        }
    }
}
