//! The flow log: records in a file, one JSON object a line.
//!
//! Inputs: the observer's records, what of them is wanted. Outputs: files, and a [`Ledger`]. A thread
//! of its own writes, so that a slow disk makes nobody wait: what comes faster than it is written, and what cannot
//! be written, is left out and counted.

use std::{
    fmt, mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use policy_api::{flow::FlowRecord, messages::Component, terminal::clean_json};
use policy_core::observe::Filter;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use tokio::sync::broadcast::{
    Receiver,
    error::{RecvError, TryRecvError},
};
use tracing::info;

mod book;

use crate::ledger::{Attempts, Ledger};
use book::Book;
pub use book::Bounds;

/// What to write, and where.
#[derive(Clone, Debug)]
pub struct FlowLog {
    /// The file.
    pub path: PathBuf,
    /// When it is turned over, and how many stay.
    pub bounds: Bounds,
    /// The records that are wanted.
    pub filter: Filter,
    /// What is left out of each.
    pub omit: Vec<Omit>,
}

/// A part of records that may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Omit {
    /// Labels of both ends.
    Labels,
    /// Addresses of both ends.
    Addresses,
    /// Ports of both ends.
    Ports,
    /// The deciding rule.
    Rule,
    /// Log rules on the way.
    Logged,
    /// What staged policies would do.
    Staged,
    /// TCP flags.
    TcpFlags,
}

/// Lines are written together up to so many bytes.
const BATCH: usize = 64 * 1024;

/// As a part of the agent.
pub fn component(path: &Path, ledger: &Ledger) -> Component {
    let (path, written, lost) = (path.display(), ledger.written(), ledger.lost());
    let trouble = ledger.trouble();
    let detail = match &trouble {
        Some(trouble) => format!("{trouble}; {lost} records lost"),
        None if lost > 0 => format!("{path}: {written} written, {lost} lost"),
        None => format!("{path}: {written} written"),
    };
    Component { name: "flow-log".to_owned(), healthy: trouble.is_none(), detail }
}

/// The log's metrics.
#[derive(Debug)]
pub(crate) struct Counters(pub(crate) Arc<Ledger>);

impl Collector for Counters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.encode(&mut encoder, "flow_log", "flow log")
    }
}

/// Writes records until there are no more to come.
///
/// # Errors
///
/// The thread cannot be started.
pub fn start(
    log: FlowLog,
    live: Receiver<Arc<FlowRecord>>,
    ledger: &Arc<Ledger>,
) -> std::io::Result<()> {
    info!(file = %log.path.display(), "flow log");
    let book = Book::new(log.path.clone(), log.bounds);
    let attempts = Attempts::new("flow log", log.path.clone(), Arc::clone(ledger));
    let writer = Writer { log, book, attempts, in_hand: 0 };
    ledger
        .start("flow-log", (writer, live), |(it, live)| it.run(live), |(it, live)| it.count(live))
        .map(drop)
}

struct Writer {
    log: FlowLog,
    book: Book,
    attempts: Attempts,
    /// Records of the lines that are not written yet.
    in_hand: u64,
}

impl Writer {
    fn run(&mut self, live: &mut Receiver<Arc<FlowRecord>>) {
        let mut lines = Vec::new();
        loop {
            let mut next = live.blocking_recv();
            // What has come meanwhile goes into the file with it.
            loop {
                match next {
                    Ok(record) => self.add(&record, &mut lines),
                    Err(RecvError::Lagged(lost)) => {
                        self.attempts.ledger().add_too_fast(lost);
                    }
                    Err(RecvError::Closed) => {
                        self.write(&lines);
                        return;
                    }
                }
                if lines.len() >= BATCH {
                    break;
                }
                next = match live.try_recv() {
                    Ok(record) => Ok(record),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Lagged(lost)) => Err(RecvError::Lagged(lost)),
                    Err(TryRecvError::Closed) => Err(RecvError::Closed),
                };
            }
            self.write(&lines);
            lines.clear();
        }
    }

    /// Counts what is not written any more, until there are no more to come.
    fn count(&mut self, live: &mut Receiver<Arc<FlowRecord>>) {
        let ledger = self.attempts.ledger();
        ledger.add_not_written(mem::take(&mut self.in_hand));
        loop {
            match live.blocking_recv() {
                Ok(record) => ledger.add_not_written(self.log.filter.wants(&record).into()),
                Err(RecvError::Lagged(lost)) => ledger.add_too_fast(lost),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Adds a line, if the record is wanted.
    fn add(&mut self, record: &FlowRecord, lines: &mut Vec<u8>) {
        if !self.log.filter.wants(record) {
            return;
        }
        let line = if self.log.omit.is_empty() {
            serde_json::to_string(record)
        } else {
            serde_json::to_string(&without(record, &self.log.omit))
        };
        // A record is made of texts and numbers: all of that is JSON.
        let Ok(line) = line else { return };
        self.in_hand += 1;
        // Names and labels are their authors', and files like this one are looked at in terminals.
        lines.extend(clean_json(&line).as_bytes());
        lines.push(b'\n');
    }

    fn write(&mut self, lines: &[u8]) {
        if self.in_hand > 0 {
            self.attempts.write(self.in_hand, || self.book.write(lines, SystemTime::now()));
            self.in_hand = 0;
        }
    }
}

/// A record with less.
fn without(record: &FlowRecord, omit: &[Omit]) -> FlowRecord {
    let mut record = record.clone();
    for part in omit {
        match part {
            Omit::Labels => {
                record.source.labels.clear();
                record.destination.labels.clear();
            }
            Omit::Addresses => (record.source.ip, record.destination.ip) = (None, None),
            Omit::Ports => (record.source.port, record.destination.port) = (0, 0),
            Omit::Rule => record.rule = None,
            Omit::Logged => record.logged.clear(),
            Omit::Staged => record.staged = None,
            Omit::TcpFlags => record.tcp_flags.clear(),
        }
    }
    record
}
