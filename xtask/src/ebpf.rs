//! `cargo xtask build-ebpf`.
//!
//! Inputs: `policy-ebpf/`, the BPF toolchain. Outputs: `<target directory>/bpf/policy-ebpf.o`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use bpf_toolchain::{BpfArch, Toolchain, Warnings};
use clap::Args;

use crate::workspace::Workspace;

/// Arguments of `build-ebpf`. There is one profile: without optimisation the verifier refuses
/// what the compiler makes.
#[derive(Debug, Args)]
pub(crate) struct BuildEbpf {
    /// Architecture of the host that will run the programs: x86_64 or aarch64 [default: this one]
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Take warnings for errors
    #[arg(long)]
    deny_warnings: bool,
}

impl BuildEbpf {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<ExitCode> {
        let arch = match &self.arch {
            Some(name) => BpfArch::parse(name)?,
            None => BpfArch::host()?,
        };
        let toolchain = Toolchain::discover().context(
            "this machine cannot build the kernel programs yet: run `cargo xtask setup`",
        )?;
        // Apart from the common directory: the flag is part of cargo's fingerprint, and the next
        // build without it would start from scratch.
        let (warnings, target_dir) = if self.deny_warnings {
            (Warnings::Deny, workspace.bpf_dir().join("strict"))
        } else {
            (Warnings::Show, workspace.bpf_dir())
        };
        let object = toolchain.build(workspace.root(), &target_dir, &arch, warnings)?;
        println!("{}", object.display());
        Ok(ExitCode::SUCCESS)
    }
}
