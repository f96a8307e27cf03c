//! Where the programs under test are.
//!
//! Inputs: the path of the running test or demo. Outputs: paths of binaries that the same build made.

use std::{
    env, fs,
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
    if let Some(source) = newer_source(&path)? {
        bail!(
            "{} is older than {source}: run `cargo build --workspace`, or the tests through `cargo \
             xtask test`",
            path.display()
        );
    }
    Ok(path)
}

/// A source of a binary that has changed since. `cargo test -p policy-test` does not build other
/// packages' binaries: a test of yesterday's agent says nothing. What went into it stands in the file
/// that cargo writes beside it; where there is none, the binary was brought from elsewhere.
fn newer_source(binary: &Path) -> Result<Option<String>> {
    let Ok(rule) = fs::read_to_string(binary.with_extension("d")) else { return Ok(None) };
    let built = fs::metadata(binary)?.modified()?;
    let (_, sources) = rule.split_once(": ").context("a rule in a .d file")?;
    let changed = |source: &&str| {
        let data = fs::metadata(source).ok().filter(fs::Metadata::is_file);
        data.and_then(|data| data.modified().ok()).is_some_and(|time| time > built)
    };
    Ok(sources.split_ascii_whitespace().find(changed).map(str::to_owned))
}
