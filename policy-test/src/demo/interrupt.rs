//! Signals that ask for the end.
//!
//! Inputs: SIGINT, SIGTERM, SIGHUP. Outputs: a flag, looked at between the steps; so a signal
//! ends the demo in the way in which an error does, and takes everything away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// Whether a signal has come.
#[derive(Clone, Debug)]
pub(crate) struct Interrupts(Arc<AtomicBool>);

impl Interrupts {
    /// Begins to hold signals back. To be called before there are other threads: they inherit
    /// that the signals are not theirs. Programs that are started may inherit it, too, so they are
    /// ended by SIGKILL.
    pub(crate) fn hold() -> Result<Self> {
        let signals: SigSet =
            [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block().context("hold signals back")?;
        let came = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&came);
        thread::spawn(move || {
            while signals.wait().is_ok() {
                theirs.store(true, Ordering::SeqCst);
            }
        });
        Ok(Self(came))
    }

    /// Whether one has come.
    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error once one has come.
    pub(crate) fn check(&self) -> Result<()> {
        if self.came() {
            bail!("interrupted");
        }
        Ok(())
    }
}
