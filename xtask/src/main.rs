//! `cargo xtask`: everything that is done with this repository and is not `cargo build`.
//!
//! Inputs: the subcommand. Outputs: an exit code, 0 only if all of it succeeded.

mod bench;
mod demo;
mod ebpf;
mod fuzz;
mod kernels;
mod pictures;
mod setup;
mod suite;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    bench::Bench, demo::Demo, ebpf::BuildEbpf, fuzz::Fuzz, pictures::Pictures, setup::Setup,
    suite::Test, workspace::Workspace,
};

/// Palisade's set-up, builds and tests.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building, testing or the demo needs; does nothing if it is there
    Setup(Setup),
    /// Build the kernel programs into <target directory>/bpf/policy-ebpf.o
    BuildEbpf(BuildEbpf),
    /// Show a three-tier application before and after its policies (as root)
    Demo(Demo),
    /// Run all tests, those with namespaces and a private Docker Engine included (as root)
    Test(Test),
    /// Give random input to what reads input: packets, selectors, YAML, resources
    Fuzz(Fuzz),
    /// Measure Palisade beside nftables and iptables, or alone (as root)
    Bench(Bench),
    /// Draw what the Grafana dashboards show into docs/observability (as root)
    Pictures(Pictures),
    /// Check the rules of the house: who may use whom, lengths of files, leftovers
    Tidy,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            // Not the debug form: a backtrace of ours explains nothing about the machine.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match Arguments::parse().task {
        Task::Setup(task) => task.run(&workspace),
        Task::BuildEbpf(task) => task.run(&workspace),
        Task::Demo(task) => task.run(&workspace),
        Task::Test(task) => task.run(&workspace),
        Task::Fuzz(task) => task.run(&workspace),
        Task::Bench(task) => task.run(&workspace),
        Task::Pictures(task) => task.run(&workspace),
        Task::Tidy => tidy::run(&workspace),
    }
}
