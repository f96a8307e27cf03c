//! `cargo xtask demo`: sets up, builds, chooses where the application runs, and shows it.
//!
//! Inputs: `--runtime`, the Docker Engine if one answers. Outputs: those of `palisade-demo`, a
//! program of `policy-test`; this crate cannot link it, because it exists before the kernel
//! programs can be built.

use std::{
    env,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use nix::unistd::geteuid;

use crate::{
    setup::{self, Purpose},
    workspace::Workspace,
};

const PACKAGES: [&str; 3] = ["policy-agent", "policyctl", "policy-test"];
const PROGRAM: &str = "palisade-demo";
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// Where an agent in service listens.
const SOCKET_IN_SERVICE: &str = "/run/palisade/agent.sock";

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Where the application runs [default: docker if an engine answers, else netns]
    #[arg(long, value_enum)]
    runtime: Option<Runtime>,
}

/// Where the application runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Runtime {
    /// Containers of the Docker Engine
    Docker,
    /// Network namespaces; needs no engine
    Netns,
}

/// A runtime and why it was chosen.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    runtime: Runtime,
    because: String,
}

impl Demo {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<ExitCode> {
        ensure!(
            geteuid().is_root(),
            "the demo makes networks and loads BPF programs: run `cargo xtask demo` as root"
        );
        let host = docker_host(env::var("DOCKER_HOST").ok());
        let engine = engine(&host);
        let guarded = Path::new(SOCKET_IN_SERVICE).exists();
        let choice = choose(self.runtime, engine, guarded)?;
        let purpose = match choice.runtime {
            Runtime::Docker => Purpose::DemoDocker,
            Runtime::Netns => Purpose::Demo,
        };
        setup::ensure(workspace, purpose)?;
        build(workspace)?;
        let runtime = match choice.runtime {
            Runtime::Docker => "docker",
            Runtime::Netns => "netns",
        };
        // In place of this process, so that every signal reaches the one that cleans up.
        let error = Command::new(workspace.debug_dir().join(PROGRAM))
            .args(["--runtime", runtime, "--docker-host", &host, "--because", &choice.because])
            .exec();
        Err(error).context(format!("start {PROGRAM}"))
    }
}

fn docker_host(variable: Option<String>) -> String {
    variable.filter(|host| !host.is_empty()).unwrap_or_else(|| DEFAULT_HOST.to_owned())
}

/// The version of the engine, or why there is none.
fn engine(host: &str) -> Result<String, String> {
    if !host.starts_with("unix://") {
        return Err(format!("DOCKER_HOST={host} is no socket of this machine"));
    }
    let output = Command::new("docker")
        .args(["--host", host, "version", "--format", "{{.Server.Version}}"])
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(_) => Err(format!("no Docker Engine at {}", host.trim_start_matches("unix://"))),
        Err(_) => Err("there is no `docker` command".to_owned()),
    }
}

/// `guarded`: an agent in service runs here. It fences every container of the engine, those of the
/// demo included, and its policies would decide with ours.
fn choose(asked: Option<Runtime>, engine: Result<String, String>, guarded: bool) -> Result<Choice> {
    let (runtime, because) = match (asked, engine) {
        (Some(Runtime::Netns), _) => (Runtime::Netns, "as asked".to_owned()),
        (Some(Runtime::Docker), Err(reason)) => {
            bail!("{reason}; start one, or use `--runtime netns`")
        }
        (None, Err(reason)) => (Runtime::Netns, reason),
        (None, Ok(_)) if guarded => {
            (Runtime::Netns, "a Palisade agent guards this engine already".to_owned())
        }
        (Some(Runtime::Docker) | None, Ok(version)) => {
            (Runtime::Docker, format!("Docker Engine {version} answers"))
        }
    };
    Ok(Choice { runtime, because })
}

fn build(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--quiet", "--bins"]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    eprintln!("  ..  cargo build (some minutes the first time)");
    let status = cargo.status().context("start cargo build")?;
    ensure!(status.success(), "building {} failed ({status})", PACKAGES.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up() -> Result<String, String> {
        Ok("28.0.1".to_owned())
    }

    fn down() -> Result<String, String> {
        Err("no Docker Engine at /x".to_owned())
    }

    fn chosen(asked: Option<Runtime>, engine: Result<String, String>, guarded: bool) -> Runtime {
        choose(asked, engine, guarded).unwrap().runtime
    }

    #[test]
    fn an_engine_is_used_if_one_answers_and_nobody_guards_it() {
        assert_eq!(chosen(None, up(), false), Runtime::Docker);
        assert_eq!(chosen(None, up(), true), Runtime::Netns);
        assert_eq!(chosen(None, down(), false), Runtime::Netns);
    }

    #[test]
    fn what_is_asked_for_is_done_or_refused() {
        assert_eq!(chosen(Some(Runtime::Netns), up(), false), Runtime::Netns);
        assert_eq!(chosen(Some(Runtime::Docker), up(), true), Runtime::Docker);
        let error = choose(Some(Runtime::Docker), down(), false).unwrap_err().to_string();
        assert!(error.contains("--runtime netns"), "{error}");
    }

    #[test]
    fn an_engine_elsewhere_is_none() {
        assert_eq!(docker_host(Some(String::new())), DEFAULT_HOST);
        assert!(engine("tcp://192.0.2.1:2375").is_err());
    }
}
