//! `policyctl`, Palisade's command line: reads policies from files, talks to the agent over its
//! Unix socket, prints answers. Exit codes: 0 fine, 1 refusal or difference, 2 usage or no agent.

mod args;
mod client;
mod command;
mod describe;
mod failure;
mod input;
mod kinds;
mod offline;
mod output;
mod run;
mod service;
mod top;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let screen = output::Screen::new(args.color);
    match command::resolve(args).and_then(|invocation| run::block_on(invocation, &screen)) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(&screen),
    }
}
