//! The agent under test, in a lab's host.
//!
//! Inputs: a [`Lab`], the built binaries. Outputs: a running agent with every path of its own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use policy_api::messages::{EndpointStatus, Status};
use serde::de::DeserializeOwned;

use crate::{
    binaries,
    http::{self, Answer},
    lab::{BPFFS, Lab},
    process::Daemon,
    wait,
};

/// Loading and verifying the programs takes seconds of one CPU, and more on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// For a graceful end, and for endpoints to be enforced.
const LIMIT: Duration = Duration::from_secs(10);
/// The one that the agent has by default: a lab's host has all ports to itself.
const METRICS_PORT: u16 = 9465;

/// How to start an agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    name: String,
    docker_host: String,
    metrics: SocketAddr,
    flags: Vec<String>,
}

impl Default for AgentOptions {
    /// An agent without Docker, with the defaults of a fresh installation.
    fn default() -> Self {
        Self {
            name: "agent".to_owned(),
            docker_host: "none".to_owned(),
            metrics: (Ipv4Addr::LOCALHOST, METRICS_PORT).into(),
            flags: Vec::new(),
        }
    }
}

impl AgentOptions {
    /// Another name, for a second agent in the same lab.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The engine to listen to, such as `unix:///...` from [`crate::engine::Engine::host`].
    #[must_use]
    pub fn docker_host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.docker_host);
        self
    }

    /// Where to serve metrics, in the lab's host.
    #[must_use]
    pub fn metrics(mut self, address: SocketAddr) -> Self {
        self.metrics = address;
        self
    }

    /// More arguments for the agent, such as `["--bridge", "br-lab"]`.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// Starts the agent and waits until it answers.
    ///
    /// # Errors
    /// If it is not built, ends, or does not answer; with the end of its log.
    pub fn start(self, lab: &Lab) -> Result<Agent> {
        mount_bpffs()?;
        let folder = lab.folder().join(&self.name);
        fs::create_dir_all(folder.join("policies.d"))?;
        let bpffs = Path::new(BPFFS).join(lab.name()).join(&self.name);
        fs::create_dir_all(&bpffs).with_context(|| format!("make {}", bpffs.display()))?;
        let mut agent = Agent { lab: lab.clone(), options: self, folder, bpffs, daemon: None };
        agent.start()?;
        Ok(agent)
    }
}

/// A running (or just now stopped) agent.
#[derive(Debug)]
pub struct Agent {
    lab: Lab,
    options: AgentOptions,
    folder: PathBuf,
    bpffs: PathBuf,
    daemon: Option<Daemon>,
}

impl Agent {
    /// Starts it again, after [`Agent::terminate`] or [`Agent::kill`], with the same paths.
    ///
    /// # Errors
    /// As [`AgentOptions::start`]; if it runs already.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "the agent runs already");
        let log = self.folder.join("agent.log");
        let mut command = self.command("run")?;
        let mut daemon = Daemon::start(&self.options.name, self.lab.host(), &mut command, &log)?;
        let socket = self.socket();
        daemon.wait_ready(READY_LIMIT, || {
            http::over_unix(&socket, "GET", "/v1/status", None)
                .is_ok_and(|answer| answer.status == 200)
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// A command of the agent's binary (`run`, `unload`) with this agent's settings, for tests of
    /// one that is refused.
    ///
    /// # Errors
    /// If it is not built.
    pub fn command(&self, subcommand: &str) -> Result<Command> {
        let mut command = Command::new(binaries::policy_agent()?);
        command
            .arg(subcommand)
            .arg("--state-dir")
            .arg(self.folder.join("state"))
            .arg("--policy-dir")
            .arg(self.policy_dir())
            .arg("--socket")
            .arg(self.socket())
            .arg("--bpffs-dir")
            .arg(&self.bpffs)
            .args(["--metrics-address", &self.options.metrics.to_string()])
            .args(["--docker-host", &self.options.docker_host])
            .args(&self.options.flags)
            .env("NO_COLOR", "1")
            .env_remove("PALISADE_CONFIG");
        Ok(command)
    }

    /// Stops it with SIGTERM, as an operator does. Enforcement stays on.
    ///
    /// # Errors
    /// If it does not run, or does not end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.running()?.terminate(LIMIT)
    }

    /// Stops it with SIGKILL, as a crash does.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?.kill()
    }

    fn running(&mut self) -> Result<Daemon> {
        self.daemon.take().context("the agent does not run")
    }

    /// Takes enforcement off with `policy-agent unload`.
    ///
    /// # Errors
    /// If that fails, with what it said.
    pub fn unload(&self) -> Result<String> {
        let mut command = self.command("unload")?;
        let output = self.lab.host().output(&mut command).context("start policy-agent unload")?;
        if !output.status.success() {
            bail!("unload: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Its process id, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// What it has logged since the first start.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.folder.join("agent.log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Its API's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    /// Where it keeps what outlives it.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Its watched directory of policies.
    #[must_use]
    pub fn policy_dir(&self) -> PathBuf {
        self.folder.join("policies.d")
    }

    /// Where its maps and links are pinned.
    #[must_use]
    pub fn bpffs_dir(&self) -> &Path {
        &self.bpffs
    }

    /// Asks its API. `body` is JSON.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn request(&self, method: &str, path: &str, body: Option<&str>) -> Result<Answer> {
        http::over_unix(&self.socket(), method, path, body)
    }

    /// Asks its API for something that is there.
    ///
    /// # Errors
    /// If the answer is not 200 with that type in it.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.request("GET", path, None)?;
        ensure!(answer.status == 200, "GET {path}: {}: {}", answer.status, answer.text());
        answer.json()
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// As [`Agent::get`].
    pub fn status(&self) -> Result<Status> {
        self.get("/v1/status")
    }

    /// `GET /v1/endpoints`.
    ///
    /// # Errors
    /// As [`Agent::get`].
    pub fn endpoints(&self) -> Result<Vec<EndpointStatus>> {
        self.get("/v1/endpoints")
    }

    /// Waits until the endpoints satisfy a condition.
    ///
    /// # Errors
    /// If they do not within 10 s; with what they were.
    pub fn wait_endpoints(
        &self,
        what: &str,
        condition: impl Fn(&[EndpointStatus]) -> bool,
    ) -> Result<Vec<EndpointStatus>> {
        let mut last = None;
        let outcome = wait::for_some(what, LIMIT, || {
            let endpoints = self.endpoints();
            let fine = endpoints.as_ref().is_ok_and(|endpoints| condition(endpoints));
            last = Some(endpoints);
            if fine { last.take()?.ok() } else { None }
        });
        outcome.with_context(|| format!("the last answer was {last:?}"))
    }

    /// The text of its metrics.
    ///
    /// # Errors
    /// If there is no answer, or none that is fine.
    pub fn metrics(&self) -> Result<String> {
        let answer = http::get_over_tcp(self.lab.host(), self.options.metrics, "/metrics")?;
        ensure!(answer.status == 200, "metrics: {}: {}", answer.status, answer.text());
        Ok(answer.text())
    }

    /// Runs `policyctl` against this agent.
    ///
    /// # Errors
    /// If it cannot be started; a refusal is in the output.
    pub fn policyctl(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.policyctl_command()?;
        command.args(arguments).output().context("start policyctl")
    }

    /// The beginning of a `policyctl` command against this agent, for those that follow.
    ///
    /// # Errors
    /// If it is not built.
    pub fn policyctl_command(&self) -> Result<Command> {
        let mut command = Command::new(binaries::policyctl()?);
        command.env("PALISADE_SOCKET", self.socket()).env("NO_COLOR", "1");
        Ok(command)
    }

    /// Applies resources as YAML with `policyctl apply -f`, and gives what it printed.
    ///
    /// # Errors
    /// If they are refused, with what it said.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile_in(&self.folder)?;
        fs::write(file.path(), yaml)?;
        let path = file.path().to_str().context("a lab's paths are UTF-8")?;
        let output = self.policyctl(&["apply", "-f", path])?;
        ensure!(
            output.status.success(),
            "apply: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Mounts bpffs where it belongs, unless it is there.
fn mount_bpffs() -> Result<()> {
    let is_bpffs = statfs(BPFFS).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC);
    if is_bpffs {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount bpffs on {BPFFS}"))
}
