//! `cargo xtask test --kernels`: the programs and a smoke of the lab on other kernels than ours.
//!
//! Inputs: releases, Debian's kernels of them, the test binaries. Outputs: a line for each release
//! and test, the instructions that each verifier walked, then `N passed, N failed`; an exit code,
//! 0 only if every release ran every suite and nothing failed.
//!
//! A release that cannot be had, does not boot, hangs or crashes is a failure like any other.

mod fetch;
mod guest;
mod initramfs;
mod report;

use std::{
    collections::BTreeMap,
    fmt,
    io::BufReader,
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::Message;
use clap::ValueEnum;

use crate::{
    kernels::{guest::Guest, report::Report},
    setup::{self, Purpose, progress::Progress},
    suite,
    workspace::Workspace,
};

/// A kernel, and the Debian release that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Release {
    /// The oldest that Palisade runs on
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13; the first of the three with TCX links
    #[value(name = "6.12")]
    V6_12,
}

impl Release {
    /// The Debian release.
    const fn suite(self) -> &'static str {
        match self {
            Self::V5_10 => "bullseye",
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(self.name())
    }
}

/// A test binary of `policy-test`, and what of it runs.
#[derive(Debug)]
struct Suite {
    name: &'static str,
    /// For the binary; words that the shell of the guest splits at spaces.
    arguments: &'static str,
}

/// Cheapest first: a program that the verifier refuses says so at once. Of the lab what counts no
/// packets that a slow guest sends twice.
const SUITES: [Suite; 4] = [
    Suite { name: "verifier", arguments: "--nocapture" },
    Suite { name: "clsact", arguments: "" },
    Suite { name: "enforcement", arguments: "changes:: selection::" },
    Suite { name: "packets", arguments: "" },
];

/// Runs all suites on the releases, one after the other.
///
/// # Errors
/// If not even the first could be tried: nothing to boot them with, or the tests do not build.
pub(crate) fn run(workspace: &Workspace, releases: &[Release]) -> Result<ExitCode> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the kernels are those of x86_64, and this is another machine"
    );
    setup::ensure(workspace, Purpose::Kernels)?;
    suite::build_binaries(workspace)?;
    let programs = programs(workspace)?;
    let progress = Progress::new();
    let mut report = Report::default();
    let mut guest = Guest::new();
    for release in releases {
        let folder = workspace.kernels_dir().join(release.name());
        let ran = fetch::kernel(*release, &folder, &progress)
            .and_then(|kernel| {
                let archive = folder.join("initramfs.cpio");
                initramfs::write(&archive, &kernel, &programs, &SUITES)?;
                guest.run(*release, &kernel.image, &archive, &mut report)
            })
            .with_context(|| format!("Linux {release}"));
        if let Err(error) = ran {
            report.broken(*release, &format!("{error:#}"));
        }
    }
    print!("{}", report.instructions());
    println!("\n{} passed, {} failed", report.passed(), report.failed());
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything of ours that the guest has, by its name there: tests look for the agent one folder
/// above their own.
fn programs(workspace: &Workspace) -> Result<BTreeMap<String, PathBuf>> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--package", "policy-test", "--no-run", "--message-format", "json"]);
    for suite in SUITES {
        cargo.args(["--test", suite.name]);
    }
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("start cargo test")?;
    let stdout = child.stdout.take().context("cargo test has an output")?;
    let mut programs = BTreeMap::new();
    for message in Message::parse_stream(BufReader::new(stdout)) {
        if let Message::CompilerArtifact(artifact) = message.context("read cargo's messages")?
            && let Some(path) = artifact.executable
            && artifact.profile.test
        {
            programs.insert(format!("debug/deps/{}", artifact.target.name), path.into());
        }
    }
    let status = child.wait().context("wait for cargo test")?;
    ensure!(status.success(), "building the tests failed ({status})");
    for suite in SUITES {
        if !programs.contains_key(&format!("debug/deps/{}", suite.name)) {
            bail!("cargo built no test {}", suite.name);
        }
    }
    for name in suite::BINARIES {
        programs.insert(format!("debug/{name}"), workspace.debug_dir().join(name));
    }
    Ok(programs)
}
