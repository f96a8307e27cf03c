//! Where the programs under test are.
//!
//! Inputs: the path of the running test. Outputs: paths of binaries that the same build made.

use std::{
    env,
    path::{Path, PathBuf},
};

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
    let test = env::current_exe().context("ask for the path of this test")?;
    // <target directory>/<profile>/deps/<test>-<hash>
    let profile = test.parent().and_then(Path::parent).context("a test lies in deps/")?;
    let path = profile.join(name);
    if !path.is_file() {
        bail!("{} is not built: run the tests through `cargo xtask test`", path.display());
    }
    Ok(path)
}
