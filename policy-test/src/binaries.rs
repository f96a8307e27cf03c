//! Where the programs under test are.
//!
//! Inputs: the path of the running test or demo. Outputs: paths of binaries that the same build made.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, bail};

/// The agent.
///
/// # Errors
/// If it has not been built: cargo builds no other package's binaries for a test.
pub fn policy_agent() -> Result<PathBuf> {
    binary("policy-agent")
}

/// The command line.
///
/// # Errors
/// As [`policy_agent`].
pub fn policyctl() -> Result<PathBuf> {
    binary("policyctl")
}

fn binary(name: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("ask for the path of this program")?;
    // <target directory>/<profile>/<binary>, or for a test .../<profile>/deps/<test>-<hash>
    let folder = own.parent().context("a program lies in a folder")?;
    let profile = match folder.parent() {
        Some(profile) if folder.ends_with("deps") => profile,
        _ => folder,
    };
    let path = profile.join(name);
    if !path.is_file() {
        bail!(
            "{} is not built: run this through `cargo xtask test` or `cargo xtask demo`",
            path.display()
        );
    }
    Ok(path)
}
