//! A Docker Engine of the test's own, in a lab's host.
//!
//! Inputs: a [`Lab`], `dockerd`, `docker`, `busybox`. Outputs: an engine with all of its data in
//! the lab's folder, and containers of it.
//!
//! It shares the mounts of the caller, not a mount namespace of its own: only so does an agent
//! beside it see the containers' namespaces where the engine says they are, as on a real host.
//! The lab unmounts them. The containers' cgroups carry the lab's name, so that it finds them
//! even if the engine has died.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use procfs::process::Process;

use crate::{http, lab::Lab, process::Daemon, wait};

/// The image that every engine here has: busybox, and nothing else.
pub const IMAGE: &str = "lab/busybox";

/// dockerd starts containerd first, which takes its time on a slow disk.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// dockerd gives its containers 15 s before it ends.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// How to start an engine.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    flags: Vec<String>,
}

impl EngineOptions {
    /// More arguments for `dockerd`, such as `["--live-restore"]`.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// Starts an engine, waits until it answers, and gives it its image.
    ///
    /// # Errors
    /// If it is not installed, ends, or does not answer; with the end of its log.
    pub fn start(self, lab: &Lab) -> Result<Engine> {
        let folder = lab.folder().join("docker");
        fs::create_dir_all(folder.join("cli"))?;
        // Otherwise it would read the machine's own /etc/docker/daemon.json.
        fs::write(folder.join("daemon.json"), "{}")?;
        let mut engine = Engine { lab: lab.clone(), options: self, folder, daemon: None };
        engine.start()?;
        engine.import_image()?;
        Ok(engine)
    }
}

/// A running (or just now stopped) engine. Dropped, it removes its containers.
#[derive(Debug)]
pub struct Engine {
    lab: Lab,
    options: EngineOptions,
    folder: PathBuf,
    daemon: Option<Daemon>,
}

impl Engine {
    /// Starts it again after [`Engine::stop`] or [`Engine::kill`], with its containers.
    ///
    /// # Errors
    /// As [`EngineOptions::start`]; if it runs already.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "the engine runs already");
        let pidfile = self.folder.join("dockerd.pid");
        // A killed engine leaves them, and another process may have that pid now. That of its
        // containerd may be a zombie for long, which dockerd would take for a running one.
        for file in [&pidfile, &self.containerd_pidfile()] {
            if file.exists() {
                fs::remove_file(file)?;
            }
        }
        let mut command = Command::new("dockerd");
        command
            .arg("--config-file")
            .arg(self.folder.join("daemon.json"))
            .arg("--data-root")
            .arg(self.folder.join("data"))
            .arg("--exec-root")
            .arg(self.folder.join("exec"))
            .arg("--pidfile")
            .arg(pidfile)
            .args(["--host", &self.host()])
            // The same on every version of cgroups, whoever else manages them here.
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--cgroup-parent", &format!("/{}", self.lab.name())])
            .args(&self.options.flags);
        let log = self.folder.join("dockerd.log");
        let mut daemon = Daemon::start("dockerd", self.lab.host(), &mut command, &log)
            .context("Debian package docker.io; `cargo xtask setup --for test`")?;
        let socket = self.socket();
        daemon.wait_ready(READY_LIMIT, || {
            http::over_unix(&socket, "GET", "/_ping", None).is_ok_and(|answer| answer.status == 200)
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Stops it with SIGTERM. Its containers end, unless it was started with `--live-restore`.
    ///
    /// # Errors
    /// If it does not run, or does not end.
    pub fn stop(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("the engine does not run")?;
        daemon.terminate(STOP_LIMIT).map(drop)
    }

    /// Stops it with SIGKILL. Its containers go on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("the engine does not run")?;
        let containerd = fs::read_to_string(self.containerd_pidfile())?.trim().parse()?;
        daemon.kill()?;
        // It dies with its parent, and two of them at once would both want the same files.
        wait::until("containerd to die", STOP_LIMIT, || {
            Process::new(containerd)
                .and_then(|process| process.stat())
                .map_or(true, |stat| stat.state == 'Z')
        })
    }

    fn containerd_pidfile(&self) -> PathBuf {
        self.folder.join("exec/containerd/containerd.pid")
    }

    /// Its address for `DOCKER_HOST`, `unix://...`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    /// A `docker` command for this engine.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command
            // Not the contexts and plug-ins of whoever runs the test.
            .env("DOCKER_CONFIG", self.folder.join("cli"))
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_API_VERSION")
            .env_remove("DOCKER_TLS_VERIFY")
            .args(["--host", &self.host()]);
        command
    }

    /// Runs `docker` and gives what it printed, without the end of the line.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        if !output.status.success() {
            bail!(
                "`docker {}`: {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Runs `docker` to its end, whatever that is.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        self.command()
            .args(arguments)
            .output()
            .context("start `docker` (Debian package docker.io; `cargo xtask setup --for test`)")
    }

    /// Starts a container of [`IMAGE`] in the background, and gives its id. `options` are those of
    /// `docker run`, such as `--label`; `words` is the command in it.
    ///
    /// # Errors
    /// If it does not start.
    pub fn run(&self, name: &str, options: &[&str], words: &[&str]) -> Result<String> {
        // --init: a shell as pid 1 would sit out every SIGTERM.
        let begin: &[&str] = &["run", "--detach", "--init", "--name", name];
        self.docker(&[begin, options, &[IMAGE], words].concat())
    }

    /// Runs a command in a container to its end.
    ///
    /// # Errors
    /// If it cannot be started; what the command says and how it ends is in the output.
    pub fn exec(&self, container: &str, words: &[&str]) -> Result<Output> {
        self.output(&[&["exec", container], words].concat())
    }

    /// Stops a container.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn stop_container(&self, container: &str) -> Result<()> {
        self.docker(&["stop", "--time", "2", container]).map(drop)
    }

    /// Removes a container, running or not.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn remove_container(&self, container: &str) -> Result<()> {
        self.docker(&["rm", "--force", "--volumes", container]).map(drop)
    }

    /// The pid of a container's first process, as the host counts.
    ///
    /// # Errors
    /// If there is none of that name, or it does not run.
    pub fn pid(&self, container: &str) -> Result<u32> {
        let pid: u32 =
            self.docker(&["inspect", "--format", "{{.State.Pid}}", container])?.parse()?;
        ensure!(pid != 0, "{container} does not run");
        Ok(pid)
    }

    /// Adds an image with more files: pairs of a path in the image and a file of this machine,
    /// which must be a static program or data.
    ///
    /// # Errors
    /// If a file is not there, or the engine refuses.
    pub fn import(&self, image: &str, files: &[(&str, &Path)]) -> Result<()> {
        let staging = tempfile::tempdir_in(&self.folder)?;
        let archive = archive(staging.path(), files)?;
        let archive = archive.to_str().context("a lab's paths are UTF-8")?;
        self.docker(&["import", archive, image]).map(drop)
    }

    fn import_image(&self) -> Result<()> {
        self.import(IMAGE, &[])
    }

    fn remove_containers(&self) -> Result<()> {
        let ids = self.docker(&["ps", "--all", "--quiet"])?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if ids.is_empty() {
            return Ok(());
        }
        self.docker(&[&["rm", "--force", "--volumes"], ids.as_slice()].concat()).map(drop)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.daemon.is_none() {
            return;
        }
        // The lab kills and unmounts whatever does not go by itself; this way is only kinder.
        if let Err(error) = self.remove_containers().and_then(|()| self.stop()) {
            eprintln!("engine of {}: {error:#}", self.lab.name());
        }
    }
}

/// Makes an archive for `docker import` in `folder`: busybox, and pairs of a path in the image and a
/// file of this machine.
///
/// # Errors
/// If a file is not there, busybox among them.
pub fn archive(folder: &Path, files: &[(&str, &Path)]) -> Result<PathBuf> {
    let root = folder.join("root");
    make_root(&root)?;
    for (inside, file) in files {
        let to = root.join(inside.trim_start_matches('/'));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(file, &to).with_context(|| format!("copy {}", file.display()))?;
    }
    let archive = folder.join("image.tar");
    let status = Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(&root)
        .arg(".")
        .status()
        .context("start tar")?;
    ensure!(status.success(), "tar: {status}");
    Ok(archive)
}

/// A root file system: busybox under all of its names, and the folders that programs expect.
fn make_root(root: &Path) -> Result<()> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.is_file())
        .context("no busybox (Debian package busybox-static; `cargo xtask setup --for test`)")?;
    for folder in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(busybox, root.join("bin/busybox"))?;
    let output = Command::new(busybox).arg("--list").output().context("start busybox --list")?;
    ensure!(output.status.success(), "busybox --list: {}", output.status);
    for applet in String::from_utf8_lossy(&output.stdout).lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet))?;
        }
    }
    Ok(())
}
