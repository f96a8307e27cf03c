//! The flow log: records in a file, one JSON object a line.
//!
//! Inputs: the observer's records, what of them is wanted. Outputs: files, and a [`Standing`]. A thread
//! of its own writes, so that a slow disk makes nobody wait: what comes faster than it is written, and what cannot
//! be written, is left out and counted.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use policy_api::{flow::FlowRecord, messages::Component, terminal::clean_json};
use policy_core::observe::Filter;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};
use tokio::sync::broadcast::{
    Receiver,
    error::{RecvError, TryRecvError},
};
use tracing::{error, info, warn};

mod book;

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
/// After a failure, nothing is tried for so long.
const PATIENCE: Duration = Duration::from_secs(1);

/// How the log does.
#[derive(Debug, Default)]
pub struct Standing {
    written: AtomicU64,
    /// Left out because they came too fast, and because they could not be written.
    behind: AtomicU64,
    unwritten: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Standing {
    /// As a part of the agent.
    pub fn component(&self, path: &std::path::Path) -> Component {
        let trouble = self.trouble().clone();
        let (written, lost) = (self.written.load(Ordering::Relaxed), self.lost());
        let detail = match &trouble {
            Some(trouble) => format!("{}: {trouble}; {lost} records lost", path.display()),
            None if lost > 0 => format!("{}: {written} written, {lost} lost", path.display()),
            None => format!("{}: {written} written", path.display()),
        };
        Component { name: "flow-log".to_owned(), healthy: trouble.is_none(), detail }
    }

    fn lost(&self) -> u64 {
        self.behind.load(Ordering::Relaxed) + self.unwritten.load(Ordering::Relaxed)
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log's metrics.
#[derive(Debug)]
pub(crate) struct Counters(pub(crate) Arc<Standing>);

impl Collector for Counters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Standing { written, behind, unwritten, .. } = &*self.0;
        let value = |counter: &AtomicU64| ConstCounter::new(counter.load(Ordering::Relaxed));
        let help = "Records in the flow log";
        let metric =
            encoder.encode_descriptor("flow_log_records", help, None, MetricType::Counter)?;
        value(written).encode(metric)?;
        let help = "Records that the flow log lacks: they came too fast, or could not be written";
        let mut metric =
            encoder.encode_descriptor("flow_log_lost", help, None, MetricType::Counter)?;
        for (cause, counter) in [("too-fast", behind), ("not-written", unwritten)] {
            value(counter).encode(metric.encode_family(&[("cause", cause)])?)?;
        }
        Ok(())
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
    standing: Arc<Standing>,
) -> std::io::Result<()> {
    info!(file = %log.path.display(), "flow log");
    let book = Book::new(log.path.clone(), log.bounds);
    let writer = Writer { log, book, standing, failed: None };
    thread::Builder::new().name("flow-log".to_owned()).spawn(move || writer.run(live)).map(drop)
}

struct Writer {
    log: FlowLog,
    book: Book,
    standing: Arc<Standing>,
    failed: Option<Instant>,
}

impl Writer {
    fn run(mut self, mut live: Receiver<Arc<FlowRecord>>) {
        let mut lines = Vec::new();
        loop {
            let mut count = 0;
            let mut next = live.blocking_recv();
            // What has come meanwhile goes into the file with it.
            loop {
                match next {
                    Ok(record) => count += u64::from(self.add(&record, &mut lines)),
                    Err(RecvError::Lagged(lost)) => {
                        self.standing.behind.fetch_add(lost, Ordering::Relaxed);
                    }
                    Err(RecvError::Closed) => {
                        self.write(&lines, count);
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
            self.write(&lines, count);
            lines.clear();
        }
    }

    /// Adds a line, if the record is wanted.
    fn add(&self, record: &FlowRecord, lines: &mut Vec<u8>) -> bool {
        if !self.log.filter.wants(record) {
            return false;
        }
        let line = if self.log.omit.is_empty() {
            serde_json::to_string(record)
        } else {
            serde_json::to_string(&without(record, &self.log.omit))
        };
        // A record is made of texts and numbers: all of that is JSON.
        let Ok(line) = line else { return false };
        // Names and labels are their authors', and files like this one are looked at in terminals.
        lines.extend(clean_json(&line).as_bytes());
        lines.push(b'\n');
        true
    }

    fn write(&mut self, lines: &[u8], count: u64) {
        if count == 0 {
            return;
        }
        let is_waiting = self.failed.is_some_and(|failed| failed.elapsed() < PATIENCE);
        let written =
            if is_waiting { None } else { Some(self.book.write(lines, SystemTime::now())) };
        match written {
            Some(Ok(())) => {
                self.standing.written.fetch_add(count, Ordering::Relaxed);
                if self.failed.take().is_some() {
                    *self.standing.trouble() = None;
                    let lost = self.standing.lost();
                    warn!(file = %self.log.path.display(), lost, "the flow log is written again");
                }
            }
            Some(Err(error)) => {
                self.standing.unwritten.fetch_add(count, Ordering::Relaxed);
                if self.failed.is_none() {
                    error!(file = %self.log.path.display(), %error, "the flow log cannot be written");
                }
                self.failed = Some(Instant::now());
                *self.standing.trouble() = Some(error.to_string());
            }
            None => {
                self.standing.unwritten.fetch_add(count, Ordering::Relaxed);
            }
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
