//! `cargo xtask pictures`: what the dashboards show, for the documentation.
//!
//! Inputs: root, Prometheus (Debian package), which is installed if it is missing. Outputs: an SVG for each dashboard
//! that is drawn; an exit code, 0 if all of them were.

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use nix::unistd::geteuid;

use crate::{
    setup::{self, Purpose},
    workspace::Workspace,
};

/// Arguments of `pictures`.
#[derive(Debug, Args)]
pub(crate) struct Pictures {
    /// Where to write them [default: docs/observability]
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

impl Pictures {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<ExitCode> {
        ensure!(
            geteuid().is_root(),
            "an agent loads BPF programs for the pictures and fences network namespaces: run \
             `cargo xtask pictures` as root"
        );
        setup::ensure(workspace, Purpose::Pictures)?;
        let output = match &self.output {
            // The program runs in the root; the caller may stand elsewhere.
            Some(named) => env::current_dir()?.join(named),
            None => workspace.root().join("docs/observability"),
        };
        // cargo builds no other package's binaries for one that it runs.
        let others = ["build", "--quiet", "--package", "policy-agent", "--package", "policyctl"];
        let built = workspace.cargo().args(others).status().context("start cargo build")?;
        if !built.success() {
            return Ok(ExitCode::FAILURE);
        }
        let run = ["run", "--quiet", "--package", "policy-test", "--bin", "dashboard-pictures"];
        let mut command = workspace.cargo();
        command.args(run).arg("--").arg("--output").arg(output);
        let status = command.status().context("start cargo run")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
