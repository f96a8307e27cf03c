//! `policy-agent run` and `policy-agent unload`.

use std::process::ExitCode;

use clap::Parser as _;
use policy_agent::{config::Cli, run};
use tikv_jemallocator::Jemalloc;

/// Long-lived small values stand between short-lived ones, a hundred thousand at a change of many
/// policies: glibc's allocator takes twice the time for that and gives little of the room back. How it
/// is set stands in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    match run::main(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("policy-agent: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, without those that a message before has quoted already.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| {
        if told.contains(&cause) {
            told
        } else if told.is_empty() {
            cause
        } else {
            format!("{told}: {cause}")
        }
    })
}
