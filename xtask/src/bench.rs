//! `cargo xtask bench`: figures, not verdicts.
//!
//! Inputs: root, and what the tests need. Outputs: a table for each bench; an exit code, 0 if
//! everything could be measured, however slow it is.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use nix::unistd::geteuid;

use crate::{
    setup::{self, Purpose},
    workspace::Workspace,
};

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What a packet costs in the kernel programs, over a program that does nothing
    Datapath,
    /// What a change of policies or endpoints costs the compiler and the agent
    Compile,
    /// What a full connection table costs the agent
    Conntrack,
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
            // The kernel runs the programs and measures them, and the object is the same in every
            // profile.
            What::Datapath => (Purpose::Build, &[], "bench-datapath"),
            What::Compile => (Purpose::Test, &["--release"], "bench-compile"),
            What::Conntrack => (Purpose::Test, &["--release"], "bench-conntrack"),
            What::Uplink => (Purpose::Build, &[], "bench-uplink"),
        };
        setup::ensure(workspace, purpose)?;
        // cargo builds no other package's binaries for one that it runs.
        let agent = ["--quiet", "--package", "policy-agent"];
        let built = workspace.cargo().arg("build").args(profile).args(agent).status();
        if !built.context("start cargo build")?.success() {
            return Ok(ExitCode::FAILURE);
        }
        let run = ["--quiet", "--package", "policy-test", "--bin", bin];
        let status = workspace.cargo().arg("run").args(profile).args(run).status();
        let status = status.context("start cargo run")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
