//! `cargo xtask test`: every test there is, after its own set-up.
//!
//! Inputs: arguments for `cargo test`. Outputs: cargo's own lines as they come, then one line
//! `N passed, N failed` over all of them; an exit code, 0 only if nothing failed and nothing was
//! skipped.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use nix::unistd::geteuid;

use crate::{
    kernels::{self, Release},
    setup::{self, Purpose},
    workspace::Workspace,
};

/// The binaries that the tests start; the harness looks for them beside its own.
pub(crate) const BINARIES: [&str; 2] = ["policy-agent", "policyctl"];

/// Arguments of `test`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Boot other kernels in QEMU instead, and run there what depends on the kernel: the verifier,
    /// the packets, a smoke of the lab [default: all of them]
    #[arg(
        long,
        value_name = "RELEASES",
        value_enum,
        value_delimiter = ',',
        num_args = 0..=1,
        default_missing_value = "5.10,6.1,6.12",
        conflicts_with = "cargo"
    )]
    kernels: Option<Vec<Release>>,
    /// Arguments for `cargo test`, such as `-p policy-core` or a test's name
    #[arg(last = true)]
    cargo: Vec<String>,
}

impl Test {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<ExitCode> {
        ensure!(
            geteuid().is_root(),
            "the tests make network namespaces, load BPF programs and start a private Docker \
             Engine: run `cargo xtask test` as root"
        );
        if let Some(releases) = &self.kernels {
            return kernels::run(workspace, releases);
        }
        setup::ensure(workspace, Purpose::Test)?;
        build_binaries(workspace)?;
        self.run_suites(workspace)
    }

    fn run_suites(&self, workspace: &Workspace) -> Result<ExitCode> {
        let mut cargo = workspace.cargo();
        cargo.args(["test", "--no-fail-fast"]);
        if !chooses_packages(&self.cargo) {
            cargo.arg("--workspace");
        }
        let mut child =
            cargo.args(&self.cargo).stdout(Stdio::piped()).spawn().context("start cargo test")?;
        let stdout = child.stdout.take().context("cargo test has an output")?;
        let mut totals = Totals::default();
        let mut out = std::io::stdout();
        // Bytes, not `lines()`: a test may print what is not UTF-8.
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("read the output of cargo test")?;
            out.write_all(&line).and_then(|()| out.write_all(b"\n")).context("write a line")?;
            totals.add_line(&String::from_utf8_lossy(&line));
        }
        let status = child.wait().context("wait for cargo test")?;
        if !status.success() && totals.failed == 0 {
            eprintln!("cargo test ended with {status} before every test could say its result");
            totals.failed = 1;
        }
        if totals.ignored > 0 {
            eprintln!("{} tests were ignored: a test that cannot run has to fail", totals.ignored);
        }
        println!("\n{} passed, {} failed", totals.passed, totals.failed);
        let fine = totals.failed == 0 && totals.ignored == 0;
        Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Builds [`BINARIES`].
///
/// # Errors
/// If that fails.
pub(crate) fn build_binaries(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.arg("build");
    for binary in BINARIES {
        cargo.args(["--package", binary]);
    }
    let status = cargo.status().context("start cargo build")?;
    if !status.success() {
        bail!("building {} failed ({status})", BINARIES.join(" and "));
    }
    Ok(())
}

/// Whether the caller's arguments name packages, which `--workspace` would override.
fn chooses_packages(arguments: &[String]) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| {
        argument.starts_with("-p")
            || argument == "--package"
            || argument.starts_with("--package=")
            || argument.starts_with("--manifest-path")
    })
}

/// Sum over the result lines of all test binaries.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Totals {
    /// Takes in a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn add_line(&mut self, line: &str) {
        let Some((_, counts)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split(';') {
            let Some((number, what)) = count.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed_and_other_lines_are_not() {
        let mut totals = Totals::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test a ... ok",
            "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.00s",
            "a log line: 4 passed; 4 failed",
        ] {
            totals.add_line(line);
        }
        assert_eq!(totals, Totals { passed: 8, failed: 2, ignored: 1 });
    }

    #[test]
    fn the_callers_choice_of_packages_is_seen() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(chooses_packages(&words("-p policy-core name")));
        assert!(chooses_packages(&words("--package=policy-core")));
        assert!(!chooses_packages(&words("name -- -p")));
    }
}
