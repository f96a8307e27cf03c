//! A daemon that a test starts.
//!
//! Inputs: a command, a namespace, a file for what it says. Outputs: the running process; when it
//! is dropped, none.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{netns::NetNs, wait};

/// Lines of the log that a failing test shows.
const TAIL: usize = 60;

/// A process of ours with its log.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` in `netns`; both of its outputs are appended to `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(name: &str, netns: &NetNs, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = netns
            .spawn(command)
            .with_context(|| format!("start {name} ({})", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The end of the log, for a message.
    #[must_use]
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// Asks until `ready` says yes.
    ///
    /// # Errors
    /// With the end of the log, if the process ends before, or after `limit`.
    pub fn wait_ready(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let name = self.name.clone();
        let mut ended = None;
        let outcome = wait::until(&format!("{name} to be ready"), limit, || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some() || ready()
        });
        if let Some(status) = ended {
            bail!("{name} ended with {status}:\n{}", self.tail());
        }
        outcome.with_context(|| self.tail())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process has gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("a pid fits an i32")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn terminate(mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let what = format!("{} to end after SIGTERM", self.name);
        wait::for_some(&what, limit, || self.child.try_wait().ok().flatten())
            .with_context(|| self.tail())
    }

    /// Sends SIGKILL and waits for the end.
    ///
    /// # Errors
    /// If the process had ended by itself.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        let status = self.child.wait()?;
        if status.signal() != Some(Signal::SIGKILL as i32) {
            bail!("{} had ended before it was killed ({status}):\n{}", self.name, self.tail());
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- the end of the log of {} ----\n{}", self.name, self.tail());
        }
        // Both fail only on a process that has gone and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
