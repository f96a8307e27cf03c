//! One network namespace with a name in `/run/netns`.
//!
//! Inputs: a name. Outputs: closures and commands run in it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

/// Where iproute2 keeps the names.
pub(crate) const FOLDER: &str = "/run/netns";

/// A network namespace. The owner of the lab removes it, not this handle.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
}

impl NetNs {
    /// Makes one, with `lo` up and IPv6 addresses usable at once.
    pub(crate) fn create(name: &str) -> Result<Self> {
        // The first `ip netns add` of a boot mounts the folder; two at once would both do.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        {
            let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            ip(&["netns", "add", name])?;
        }
        let path = PathBuf::from(FOLDER).join(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let netns = Self { name: name.to_owned(), file };
        // Duplicate address detection would keep addresses from use for a second or two.
        for scope in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
        }
        // Lets the probes use ICMP datagram sockets, whose identifiers the kernel minds.
        netns.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// The namespace that a process is in, such as a container's. It has no name for iproute2, so
    /// `ip` on it and its path do not work.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/net");
        let file = File::open(&path).with_context(|| format!("open {path}"))?;
        Ok(Self { name: format!("process-{pid}"), file })
    }

    /// One that has a name for iproute2, by that name; the owner of the lab still removes it.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn named(name: &str) -> Result<Self> {
        let path = PathBuf::from(FOLDER).join(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { name: name.to_owned(), file })
    }

    /// The namespace that this program is in, with the name under which a lab on it goes. As little
    /// a name for iproute2 as that of [`NetNs::of_process`].
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub(crate) fn own(name: &str) -> Result<Self> {
        let file = File::open("/proc/self/ns/net").context("open /proc/self/ns/net")?;
        Ok(Self { name: name.to_owned(), file })
    }

    /// Its name for iproute2.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file, such as `/run/netns/NAME`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.name)
    }

    /// Its inode, which tells it from every other namespace of this boot.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// Runs a closure in this namespace, on a thread of its own. Sockets that it makes stay in
    /// the namespace and may be used from everywhere.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    ///
    /// # Panics
    /// If the closure does.
    pub fn run<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> io::Result<T> {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(closure())
        };
        // The thread ends here: one that has changed its namespace must serve nobody else.
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Starts a command in this namespace. Mounts stay those of the caller, so bpffs and cgroups
    /// are where they were.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        self.run(|| command.spawn())?
    }

    /// Runs a command in this namespace to its end.
    ///
    /// # Errors
    /// If it cannot be started; a failure of the command is in the output.
    pub fn output(&self, command: &mut Command) -> io::Result<Output> {
        self.run(|| command.output())?
    }

    /// Runs `ip` on this namespace and gives what it printed.
    ///
    /// # Errors
    /// If it fails, with its message.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Runs lines of `ip` on this namespace, up to the first that fails.
    ///
    /// # Errors
    /// If one does, with its message.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start `ip -batch`")?;
        let mut stdin = child.stdin.take().context("its stdin is a pipe")?;
        stdin.write_all((lines.join("\n") + "\n").as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}\n{}", message.trim(), lines.join("\n"));
        Ok(())
    }

    /// Writes a sysctl of this namespace, named as a path such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// If it does not exist or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys").join(name);
        self.run(|| fs::write(&path, value))?
            .with_context(|| format!("write {value} to {}", path.display()))
    }

    /// Whether this namespace has that sysctl.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub fn has_sysctl(&self, name: &str) -> io::Result<bool> {
        self.run(|| PathBuf::from("/proc/sys").join(name).exists())
    }
}

/// Runs `ip` and gives what it printed.
pub(crate) fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("start `ip` (Debian package iproute2; `cargo xtask setup --for test`)")?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(
            nix::unistd::geteuid().is_root(),
            "`ip {}` failed because this is not root: {}",
            arguments.join(" "),
            message.trim()
        );
        bail!("`ip {}` failed: {}", arguments.join(" "), message.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
