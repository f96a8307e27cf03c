//! A machine for a kernel: QEMU, without a network and without a disk.
//!
//! Inputs: a kernel, an initramfs. Outputs: what the guest says, line by line, to a [`Listener`].
//!
//! KVM is used if it works; some machines have `/dev/kvm` and cannot run a guest with it. Whoever
//! hangs is killed and reported with the end of the kernel's messages.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::kernels::{
    Release,
    report::{Listener, Report},
};

const QEMU: &str = "qemu-system-x86_64";
/// MiB: twice what the tests' maps and the programs take.
const MEMORY: &str = "3072";
/// Lines of the kernel's messages that are shown.
const CONSOLE_LINES: usize = 30;
/// What QEMU says if KVM is there and does not work.
const NO_KVM: [&str; 3] = ["KVM internal error", "failed to initialize kvm", "failed to set MSR"];

/// Who runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accelerator {
    Kvm,
    /// QEMU itself: works everywhere, ten to thirty times slower.
    Tcg,
}

impl Accelerator {
    const fn option(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }

    /// How many times longer than on a usual machine the tests wait for what has to come.
    const fn patience(self) -> u32 {
        match self {
            Self::Kvm => 2,
            Self::Tcg => 20,
        }
    }

    /// For one kernel with all its suites.
    const fn limit(self) -> Duration {
        match self {
            Self::Kvm => Duration::from_secs(15 * 60),
            Self::Tcg => Duration::from_secs(60 * 60),
        }
    }

    /// Without a line from the guest. It boots within seconds, and no test takes so long.
    const fn silence(self, booted: bool) -> Duration {
        match (self, booted) {
            (Self::Kvm, false) => Duration::from_secs(30),
            (Self::Kvm, true) => Duration::from_secs(2 * 60),
            (Self::Tcg, false) => Duration::from_secs(4 * 60),
            (Self::Tcg, true) => Duration::from_secs(10 * 60),
        }
    }
}

/// How a guest ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    SwitchedOff,
    /// KVM does not work here, or not for this kernel.
    NoKvm,
    /// Nothing came for so long.
    Silent(Duration),
    /// It took longer than that.
    TooLong(Duration),
}

/// Something from QEMU.
enum News {
    /// From the guest.
    Line(String),
    /// From QEMU itself.
    Complaint(String),
}

/// Starts guests.
#[derive(Debug)]
pub(crate) struct Guest {
    accelerator: Accelerator,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let kvm = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        Self { accelerator: if kvm { Accelerator::Kvm } else { Accelerator::Tcg } }
    }

    /// Boots a kernel and lets it run all suites.
    ///
    /// # Errors
    /// If it did not get to the end, with the last lines of its console.
    pub(crate) fn run(
        &mut self,
        release: Release,
        image: &Path,
        archive: &Path,
        report: &mut Report,
    ) -> Result<()> {
        let console = archive.with_extension("console");
        let mut listener = Listener::new(release, report);
        let (mut ending, mut complaints) = self.once(image, archive, &console, &mut listener)?;
        if ending == Ending::NoKvm {
            println!(
                "note  KVM does not work here; QEMU runs the guests by itself, which takes long"
            );
            self.accelerator = Accelerator::Tcg;
            (ending, complaints) = self.once(image, archive, &console, &mut listener)?;
        }
        let why = match ending {
            Ending::SwitchedOff => listener.missing(),
            Ending::NoKvm => Some("QEMU cannot run it".to_owned()),
            Ending::Silent(limit) => Some(format!("said nothing for {} s", limit.as_secs())),
            Ending::TooLong(limit) => Some(format!("took longer than {} s", limit.as_secs())),
        };
        match why {
            None => Ok(()),
            Some(why) => bail!("{why}\n{}", tail(&console, &complaints)),
        }
    }

    fn once(
        &self,
        image: &Path,
        archive: &Path,
        console: &Path,
        listener: &mut Listener<'_>,
    ) -> Result<(Ending, Vec<String>)> {
        // An old one would be shown for this boot's.
        let _ = fs::remove_file(console);
        let append = format!(
            "console=ttyS0 panic=-1 PALISADE_TEST_PATIENCE={}",
            self.accelerator.patience()
        );
        let child = Command::new(QEMU)
            .args(["-accel", self.accelerator.option(), "-cpu", "max", "-smp", "2", "-m", MEMORY])
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-append", &append])
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(archive)
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {QEMU}"))?;
        let mut child = Killed(child);
        let (sender, news) = mpsc::channel();
        if let Some(stdout) = child.0.stdout.take() {
            let sender = sender.clone();
            read(stdout, move |line| sender.send(News::Line(line)).is_ok());
        }
        if let Some(stderr) = child.0.stderr.take() {
            read(stderr, move |line| sender.send(News::Complaint(line)).is_ok());
        }
        Ok(self.follow(&news, listener))
    }

    fn follow(&self, news: &Receiver<News>, listener: &mut Listener<'_>) -> (Ending, Vec<String>) {
        let start = Instant::now();
        let mut complaints = Vec::new();
        let ending = loop {
            let left = self.accelerator.limit().saturating_sub(start.elapsed());
            if left.is_zero() {
                break Ending::TooLong(self.accelerator.limit());
            }
            let silence = self.accelerator.silence(listener.has_booted());
            match news.recv_timeout(left.min(silence)) {
                Ok(News::Line(line)) => listener.hear(&line),
                Ok(News::Complaint(line)) => {
                    let no_kvm = NO_KVM.iter().any(|words| line.contains(words));
                    complaints.push(line);
                    if no_kvm && self.accelerator == Accelerator::Kvm {
                        break Ending::NoKvm;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break Ending::SwitchedOff,
                // It has told everything; that the machine stays on is not what is tested.
                Err(RecvTimeoutError::Timeout) if listener.is_done() => break Ending::SwitchedOff,
                // Without an error of KVM's, too: guests can be so slow in it that they stand still.
                Err(RecvTimeoutError::Timeout)
                    if self.accelerator == Accelerator::Kvm && !listener.has_booted() =>
                {
                    break Ending::NoKvm;
                }
                Err(RecvTimeoutError::Timeout) if left > silence => break Ending::Silent(silence),
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        (ending, complaints)
    }
}

/// A child that does not outlive its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Fails for one that has ended, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Gives each line to `to` until that wants no more.
fn read(from: impl Read + Send + 'static, mut to: impl FnMut(String) -> bool + Send + 'static) {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            if !to(String::from_utf8_lossy(&line).into_owned()) {
                return;
            }
        }
    });
}

/// The end of the kernel's messages, and what QEMU had to say.
fn tail(console: &Path, complaints: &[String]) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(CONSOLE_LINES)..].iter().copied();
    let complaints = complaints.iter().take(CONSOLE_LINES).map(String::as_str);
    shown
        .chain(complaints)
        .map(|line| format!("    | {}", line.trim_end()))
        .collect::<Vec<_>>()
        .join("\n")
}
