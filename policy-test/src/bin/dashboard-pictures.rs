//! The program behind `cargo xtask pictures`, which sets up, builds and calls it.
//!
//! Inputs: root, where to write. Outputs: pictures of the dashboards; an exit code, 0 if all of them were written.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

/// Draws what the dashboards show of a small shop.
#[derive(Debug, Parser)]
#[command(name = "dashboard-pictures", version)]
struct Arguments {
    /// Where to write the pictures
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
}

fn main() -> ExitCode {
    match policy_test::pictures::write(&Arguments::parse().output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not the debug form: a backtrace of ours explains nothing about the machine.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
