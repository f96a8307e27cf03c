//! What a writer of records has done with them: how many are written, how many are left out and why, and whether
//! it can write now. The history and the flow log have one each.
//!
//! Inputs: attempts to write. Outputs: counters, trouble in words, metrics.

use std::{
    any::Any,
    fmt, io,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};
use tracing::{error, warn};

/// After a failure, nothing is tried for so long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Counters of records, and trouble.
#[derive(Debug, Default)]
pub struct Ledger {
    written: AtomicU64,
    /// Left out because they came too fast, and because they could not be written.
    too_fast: AtomicU64,
    not_written: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Ledger {
    /// Records that are written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Records that are left out.
    pub fn lost(&self) -> u64 {
        self.too_fast.load(Ordering::Relaxed) + self.not_written.load(Ordering::Relaxed)
    }

    /// Records came faster than they are written.
    pub fn add_too_fast(&self, count: u64) {
        self.too_fast.fetch_add(count, Ordering::Relaxed);
    }

    /// Records cannot be written.
    pub fn add_not_written(&self, count: u64) {
        self.not_written.fetch_add(count, Ordering::Relaxed);
    }

    /// Why nothing can be written now.
    pub fn trouble(&self) -> Option<String> {
        self.trouble_mut().clone()
    }

    fn trouble_mut(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counters as the metrics `NAME_records` and `NAME_lost`; `what` is the writer in words.
    pub(crate) fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        what: &str,
    ) -> fmt::Result {
        let value = |counter: &AtomicU64| ConstCounter::new(counter.load(Ordering::Relaxed));
        let (records, help) = (format!("{name}_records"), format!("Records written to the {what}"));
        let metric = encoder.encode_descriptor(&records, &help, None, MetricType::Counter)?;
        value(&self.written).encode(metric)?;
        let lost = format!("{name}_lost");
        let help =
            format!("Records that the {what} lacks: they came too fast, or could not be written");
        let mut metric = encoder.encode_descriptor(&lost, &help, None, MetricType::Counter)?;
        for (cause, counter) in [("too-fast", &self.too_fast), ("not-written", &self.not_written)] {
            value(counter).encode(metric.encode_family(&[("cause", cause)])?)?;
        }
        Ok(())
    }

    /// Starts the thread of a writer. Should that panic, nothing more is written, which is trouble and no end of
    /// the agent: enforcement does not need records. They are counted from then on by `count`.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start<W: Send + 'static>(
        self: &Arc<Self>,
        name: &str,
        mut writer: W,
        write: fn(&mut W),
        count: fn(&mut W),
    ) -> io::Result<JoinHandle<()>> {
        let ledger = Arc::clone(self);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Of what a panic leaves half done `count` uses nothing, and others see only counters.
            if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| write(&mut writer))) {
                let why = format!("a fault of the agent stopped it ({})", words(&*panic));
                error!(why, "records are no longer written");
                *ledger.trouble_mut() = Some(why);
                count(&mut writer);
            }
        })
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Writes, and waits a moment after each failure: a disk that is full is not asked for each record.
#[derive(Debug)]
pub struct Attempts {
    what: &'static str,
    path: PathBuf,
    ledger: Arc<Ledger>,
    failed: Option<Instant>,
}

impl Attempts {
    /// Of a writer (`what` it is, in words) to a file or folder.
    pub fn new(what: &'static str, path: PathBuf, ledger: Arc<Ledger>) -> Attempts {
        Attempts { what, path, ledger, failed: None }
    }

    /// Where it writes.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Writes so many records, unless a failure was only just now; they are counted as written or as left out.
    pub fn write(&mut self, count: u64, write: impl FnOnce() -> io::Result<()>) {
        let is_waiting = self.failed.is_some_and(|failed| failed.elapsed() < PATIENCE);
        let written = if is_waiting { None } else { Some(write()) };
        let is_written = matches!(written, Some(Ok(())));
        let counter = if is_written { &self.ledger.written } else { &self.ledger.not_written };
        counter.fetch_add(count, Ordering::Relaxed);
        match written {
            Some(Err(error)) => self.fail(&error),
            Some(Ok(())) if self.failed.take().is_some() => {
                *self.ledger.trouble_mut() = None;
                let (path, lost) = (self.path.display(), self.ledger.lost());
                warn!(%path, lost, "the {} is written again", self.what);
            }
            _ => {}
        }
    }

    /// Notes that writing has failed.
    pub fn fail(&mut self, error: &io::Error) {
        if self.failed.is_none() {
            error!(path = %self.path.display(), %error, "the {} cannot be written", self.what);
        }
        *self.ledger.trouble_mut() = Some(format!("{}: {error}", self.path.display()));
        self.failed = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_trouble_until_something_is_written_again() {
        let ledger = Arc::<Ledger>::default();
        let mut attempts = Attempts::new("log", PathBuf::from("/log"), Arc::clone(&ledger));
        attempts.write(3, || Ok(()));
        attempts.write(2, || Err(io::Error::other("full")));
        attempts.failed = Instant::now().checked_add(PATIENCE);
        assert_eq!(ledger.trouble().as_deref(), Some("/log: full"));
        // Not even tried.
        attempts.write(5, || panic!("a full disk was asked again at once"));
        assert_eq!((ledger.written(), ledger.lost()), (3, 7));
        attempts.failed = Instant::now().checked_sub(PATIENCE);
        attempts.write(1, || Ok(()));
        assert_eq!((ledger.written(), ledger.lost(), ledger.trouble()), (4, 7, None));
    }

    #[test]
    fn a_writer_that_panics_is_told_of() {
        let ledger = Arc::<Ledger>::default();
        let writer = Arc::clone(&ledger);
        let count = |ledger: &mut Arc<Ledger>| ledger.add_not_written(7);
        ledger.start("writer", writer, |_| panic!("a fault"), count).unwrap().join().unwrap();
        let trouble = ledger.trouble().unwrap();
        assert_eq!(trouble, "a fault of the agent stopped it (a fault)");
        assert_eq!(ledger.lost(), 7);
    }
}
