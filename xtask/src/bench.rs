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
}

impl Bench {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<ExitCode> {
        let What::Datapath = self.what;
        ensure!(
            geteuid().is_root(),
            "the bench loads BPF programs and makes a network namespace: run `cargo xtask bench \
             datapath` as root"
        );
        setup::ensure(workspace, Purpose::Build)?;
        // Not a release build: the kernel runs the programs and measures them, and the object is
        // the same in every profile.
        let status = workspace
            .cargo()
            .args(["run", "--quiet", "--package", "policy-test", "--bin", "bench-datapath"])
            .status()
            .context("start cargo run")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
