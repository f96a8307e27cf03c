//! `cargo xtask bench`: figures, not verdicts.
//!
//! Inputs: root, and what the benches need. Outputs: a report with plots, or a table; an exit code,
//! 0 if everything could be measured, however slow it is.

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use nix::unistd::geteuid;

use crate::{
    setup::{self, Purpose},
    workspace::Workspace,
};

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    /// Two minutes instead of half an hour
    #[arg(long)]
    quick: bool,
    /// Where to write the report [default: docs/bench, or with --quick bench in the target
    /// directory]
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What a packet costs in the kernel programs, over a program that does nothing
    Datapath,
    /// What a change of policies or endpoints costs the compiler and the agent
    Compile,
    /// What a full connection table costs the agent
    Conntrack,
    /// What observing costs, and how fast the history answers
    Observe,
    /// What a block list costs at an uplink
    Uplink,
}

impl Bench {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<ExitCode> {
        ensure!(
            geteuid().is_root(),
            "the bench loads BPF programs and makes network namespaces: run `cargo xtask bench` as \
             root"
        );
        let (purpose, profile, bin): (_, &[&str], _) = match self.what {
            None => (Purpose::Bench, &["--release"], "bench-compare"),
            // The kernel runs the programs and measures them, and the object is the same in every
            // profile.
            Some(What::Datapath) => (Purpose::Build, &[], "bench-datapath"),
            Some(What::Compile) => (Purpose::Test, &["--release"], "bench-compile"),
            Some(What::Conntrack) => (Purpose::Test, &["--release"], "bench-conntrack"),
            Some(What::Observe) => (Purpose::Test, &["--release"], "bench-observe"),
            Some(What::Uplink) => (Purpose::Build, &[], "bench-uplink"),
        };
        setup::ensure(workspace, purpose)?;
        // cargo builds no other package's binaries for one that it runs.
        let others = ["--quiet", "--package", "policy-agent", "--package", "policyctl"];
        let built = workspace.cargo().arg("build").args(profile).args(others).status();
        if !built.context("start cargo build")?.success() {
            return Ok(ExitCode::FAILURE);
        }
        let run = ["--quiet", "--package", "policy-test", "--bin", bin];
        let mut command = workspace.cargo();
        command.arg("run").args(profile).args(run);
        if self.what.is_none() {
            command.arg("--").arg("--output").arg(self.output(workspace)?);
            command.args(self.quick.then_some("--quick"));
            if let Some(commit) = workspace.commit() {
                command.args(["--commit", &commit]);
            }
        }
        let status = command.status().context("start cargo run")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// A quick run is not to stand where a full one did.
    fn output(&self, workspace: &Workspace) -> Result<PathBuf> {
        Ok(match &self.output {
            // The bench runs in the root; the caller may stand elsewhere.
            Some(named) => env::current_dir()?.join(named),
            None if self.quick => workspace.bench_dir(),
            None => workspace.root().join("docs/bench"),
        })
    }
}
