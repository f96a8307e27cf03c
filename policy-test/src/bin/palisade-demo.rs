//! The program behind `cargo xtask demo`, which sets up, builds, chooses the runtime and calls it.
//!
//! Inputs: the runtime and why it was chosen. Outputs: what [`policy_test::demo`] shows; exit code
//! 0 if everything is as the policies say, 1 if not, 130 after a signal.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use policy_test::demo::{self, Ending, Runtime, Screen};

/// Shows Palisade at work.
#[derive(Debug, Parser)]
#[command(name = "palisade-demo", version)]
struct Arguments {
    /// Where the application runs
    #[arg(long, value_enum)]
    runtime: Choice,
    /// Docker Engine's address, for the runtime `docker`
    #[arg(long, value_name = "URL", default_value = "unix:///var/run/docker.sock")]
    docker_host: String,
    /// Why this runtime, to be shown
    #[arg(long, value_name = "TEXT", default_value = "as asked")]
    because: String,
}

/// `--runtime`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Choice {
    /// Containers
    Docker,
    /// Network namespaces
    Netns,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match arguments.runtime {
        Choice::Docker => Runtime::Docker { host: arguments.docker_host },
        Choice::Netns => Runtime::Netns,
    };
    let mut screen = Screen::new();
    match demo::run(&runtime, &arguments.because, &mut screen) {
        Ok(Ending::AsExpected) => ExitCode::SUCCESS,
        Ok(Ending::NotAsExpected) => ExitCode::FAILURE,
        Ok(Ending::Interrupted) => {
            eprintln!("\ninterrupted; everything is taken away again");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
