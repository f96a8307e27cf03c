//! The history: records on disk, for `observe --since`, also after the agent or its host has been started
//! again.
//!
//! Inputs: the observer's records. Outputs: files of blocks ([`segment`]) in a folder, bounded by size and
//! age, and a [`Standing`]. A thread of its own writes; what comes faster than that, and what cannot be
//! written, is left out and counted.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use policy_api::{flow::FlowRecord, messages::Component};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};
use tracing::info;

mod search;
mod segment;
mod shelf;

use self::shelf::{Here, Shelf};
pub use self::{
    search::{Found, search},
    segment::Segment,
};
use crate::{
    ledger::{Attempts, Ledger},
    observer::Observer,
};

/// Records of a block, at most.
pub const BLOCK: usize = 4096;
/// A block is written after so long, however few records there are: so much is lost with a host that loses its
/// power.
const FLUSH: Duration = Duration::from_secs(10);

/// What the history may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all files.
    pub size: u64,
    /// Records that are older go, a file at a time.
    pub age: Duration,
}

/// The files of the history, as they are read.
pub type Segments = Vec<Arc<Segment>>;

/// How the history does.
#[derive(Debug, Default)]
pub struct Standing {
    /// What became of records.
    pub ledger: Arc<Ledger>,
    here: Mutex<Here>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Standing {
    /// As a part of the agent.
    pub fn component(&self) -> Component {
        let trouble = self.ledger.trouble();
        let Here { records, bytes, damaged, oldest_us } = *lock(&self.here);
        let mut detail = format!("{records} records in {} KiB", bytes.div_ceil(1024));
        if damaged > 0 {
            detail += &format!(" ({} KiB of it cannot be read)", damaged.div_ceil(1024));
        }
        if let Some(oldest) = oldest_us.and_then(shelf::time) {
            detail += &format!(", since {}", humantime::format_rfc3339_seconds(oldest));
        }
        let lost = self.ledger.lost();
        if lost > 0 {
            detail += &format!(", {lost} left out");
        }
        if let Some(trouble) = &trouble {
            detail = format!("{trouble}; {detail}");
        }
        Component { name: "history".to_owned(), healthy: trouble.is_none(), detail }
    }
}

/// The history's metrics.
#[derive(Debug)]
pub(crate) struct Counters(pub(crate) Arc<Standing>);

impl Collector for Counters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.ledger.encode(&mut encoder, "history", "history")?;
        let Here { bytes, oldest_us, .. } = *lock(&self.0.here);
        let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let help = "Bytes of the history's files";
        gauge(bytes).encode(encoder.encode_descriptor(
            "history_bytes",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        if let Some(oldest) = oldest_us {
            let help = "Time of the oldest record in the history, seconds since 1970";
            let name = "history_oldest_timestamp_seconds";
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(oldest / 1_000_000).encode(metric)?;
        }
        Ok(())
    }
}

/// The running history. Dropping it writes what is left.
pub struct History {
    stop: Arc<AtomicBool>,
    observer: Observer,
    thread: Option<JoinHandle<()>>,
}

impl History {
    /// Reads what is there, and writes from now on what the observer gets.
    ///
    /// # Errors
    ///
    /// The thread cannot be started. A folder that cannot be used is trouble, and no error: enforcement
    /// does not need it.
    pub fn start(
        dir: &Path,
        bounds: Bounds,
        observer: Observer,
        standing: Arc<Standing>,
    ) -> std::io::Result<History> {
        let stop = Arc::<AtomicBool>::default();
        let ledger = Arc::clone(&standing.ledger);
        let writer = Writer {
            dir: dir.to_owned(),
            shelf: Shelf::new(dir.to_owned(), bounds),
            observer: observer.clone(),
            attempts: Attempts::new("history", dir.to_owned(), Arc::clone(&ledger)),
            standing,
            stop: Arc::clone(&stop),
        };
        let thread = ledger.start("history", writer, Writer::run, Writer::count)?;
        Ok(History { stop, observer, thread: Some(thread) })
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.observer.wake();
        if let Some(thread) = self.thread.take() {
            // A panic has been told of: it is trouble of the ledger.
            let _ = thread.join();
        }
    }
}

struct Writer {
    dir: PathBuf,
    shelf: Shelf,
    observer: Observer,
    attempts: Attempts,
    standing: Arc<Standing>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    fn run(&mut self) {
        if let Err(error) = self.shelf.open() {
            self.attempts.fail(&error);
        } else {
            info!(folder = %self.dir.display(), "history");
        }
        self.observer.written(&[], self.shelf.segments());
        self.tell();
        loop {
            let stops = || self.stop.load(Ordering::SeqCst);
            let batch = self.observer.unwritten(BLOCK, FLUSH, stops);
            let is_last = self.stop.load(Ordering::SeqCst) && batch.len() < BLOCK;
            if batch.is_empty() {
                self.shelf.trim(SystemTime::now());
                self.observer.written(&[], self.shelf.segments());
            } else {
                self.write(&batch);
            }
            self.tell();
            if is_last {
                return;
            }
        }
    }

    /// Counts what is not written any more, until it is stopped.
    fn count(&mut self) {
        let is_stopped = || self.stop.load(Ordering::SeqCst);
        while !is_stopped() {
            let batch = self.observer.unwritten(BLOCK, FLUSH, is_stopped);
            self.standing.ledger.add_not_written(batch.len() as u64);
            self.observer.written(&batch, self.shelf.segments());
        }
    }

    fn write(&mut self, batch: &[Arc<FlowRecord>]) {
        self.attempts.write(batch.len() as u64, || self.shelf.write(batch));
        self.shelf.trim(SystemTime::now());
        self.observer.written(batch, self.shelf.segments());
    }

    fn tell(&self) {
        *lock(&self.standing.here) = self.shelf.here();
    }
}

#[cfg(test)]
mod tests;
