//! What fuzzing needs beside cargo.
//!
//! Inputs: cargo, apt. Outputs: cargo-fuzz, and a C++ compiler, because libFuzzer is built from
//! its source.

use anyhow::Result;

use crate::{
    setup::{apt, progress::Progress},
    workspace::Workspace,
};

const PACKAGE: &str = "cargo-fuzz";
const VERSION: &str = "0.13.1";

/// Installs what is missing.
///
/// # Errors
/// If cargo or apt cannot provide it.
pub(super) fn ensure(workspace: &Workspace, progress: &Progress) -> Result<()> {
    if which::which("c++").is_err() {
        apt::install(&["g++"], progress)?;
    }
    if installed(workspace) {
        progress.present(PACKAGE, VERSION);
        return Ok(());
    }
    let mut cargo = workspace.cargo();
    cargo
        .args(["install", PACKAGE, "--version", VERSION, "--locked", "--force"])
        // All it does is to call cargo, so its own speed is worth no minute of optimisation.
        .arg("--debug")
        // `install` has a target directory of its own for each run.
        .env_remove("CARGO_TARGET_DIR");
    progress.run(&format!("cargo install {PACKAGE} {VERSION}"), &mut cargo)
}

/// Whether this version is there. Another one may understand other arguments.
fn installed(workspace: &Workspace) -> bool {
    let output = workspace.cargo().args(["fuzz", "--version"]).output();
    output.is_ok_and(|output| {
        output.status.success()
            && String::from_utf8_lossy(&output.stdout).trim() == format!("{PACKAGE} {VERSION}")
    })
}
