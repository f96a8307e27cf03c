//! `cargo xtask setup`: makes a machine able to build, to test, to show the demo.
//!
//! Inputs: what the machine has. Outputs: what was missing, installed; a line for each step.
//!
//! Everything is looked up before anything is installed, so a second run changes nothing and
//! asks nobody. No service of the machine is started, stopped or configured.

mod apt;
mod bpf;
mod fuzz;
pub(crate) mod progress;
mod tools;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

pub(crate) use crate::setup::tools::find;
use crate::{setup::progress::Progress, workspace::Workspace};

/// Arguments of `setup`.
#[derive(Debug, Args)]
pub(crate) struct Setup {
    /// What the machine is to be able to do; each includes building
    #[arg(long = "for", value_enum, default_value_t = Purpose::Build)]
    purpose: Purpose,
}

/// What the machine is to be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// `cargo xtask bench`
    Bench,
    /// `cargo build`
    Build,
    /// `cargo xtask demo` on network namespaces
    Demo,
    /// `cargo xtask demo` on a Docker Engine that runs
    DemoDocker,
    /// `cargo xtask fuzz`
    Fuzz,
    /// `cargo xtask test --kernels`
    Kernels,
    /// `cargo xtask pictures`
    Pictures,
    /// `cargo xtask test`
    Test,
}

impl Setup {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<ExitCode> {
        ensure(workspace, self.purpose)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Installs what is missing for `purpose`.
///
/// # Errors
/// If something is missing and cannot be had; the message says what to install by hand.
pub(crate) fn ensure(workspace: &Workspace, purpose: Purpose) -> Result<()> {
    let progress = Progress::new();
    bpf::ensure(workspace, &progress)?;
    if purpose == Purpose::Fuzz {
        fuzz::ensure(workspace, &progress)?;
    }
    tools::ensure(purpose, &progress)
}
