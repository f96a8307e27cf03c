//! `policy-agent run` and `policy-agent unload`.

use std::process::ExitCode;

use clap::Parser as _;
use policy_agent::{config::Cli, run};

fn main() -> ExitCode {
    match run::main(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("policy-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
