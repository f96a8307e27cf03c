//! Does what a command says. Input: an [`Invocation`]; output: text on the screen and how it
//! ended. Changes are in `run/change.rs`, what only reads in `run/show.rs`, records in
//! `run/observe.rs` and, from files, `run/records.rs`, policies from them in `run/generate.rs`, counters as they move in `run/top.rs`, comparisons in `run/diff.rs`, the whole of what is allowed in `run/verify.rs`,
//! what works on files in `run/validate.rs` and `run/explain.rs`.

mod capture;
mod change;
mod describe;
mod diff;
mod explain;
mod generate;
mod observe;
mod records;
mod show;
mod top;
mod validate;
mod verify;

use clap::CommandFactory;

use crate::args::Args;
use crate::client::Client;
use crate::command::{Command, Invocation};
use crate::failure::{Exit, Failure};
use crate::output::Screen;

/// Runs a command to its end.
///
/// # Errors
///
/// [`Failure`], which knows its exit code.
pub(crate) fn block_on(invocation: Invocation, screen: &Screen) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(invocation, screen))
}

async fn run(invocation: Invocation, screen: &Screen) -> Result<Exit, Failure> {
    let client = Client::new(invocation.socket, invocation.timeout);
    match invocation.command {
        Command::Apply { files, dry_run, output } => {
            change::apply(&client, screen, &files, dry_run, output).await
        }
        Command::Delete { target, ignore_not_found, output } => {
            change::delete(&client, screen, target, ignore_not_found, output).await
        }
        Command::Get { selection, output } => show::get(&client, screen, &selection, output).await,
        Command::Endpoints { names, namespace, output } => {
            show::endpoints(&client, screen, &names, namespace.as_deref(), output).await
        }
        Command::Describe { targets, namespace, output } => {
            describe::describe(&client, screen, &targets, namespace.as_deref(), output).await
        }
        Command::Capture(wanted) => capture::capture(&client, screen, wanted).await,
        Command::Status { output } => show::status(&client, screen, output).await,
        Command::Validate { files, endpoints, strict, output } => {
            validate::validate(screen, &files, &endpoints, strict, output)
        }
        Command::Explain { question, offline, output } => {
            explain::explain(&client, screen, question, offline, output)
                .await
                .map_err(|failure| Failure::Trouble(Box::new(failure)))
        }
        Command::Diff { question, staged, limit, output } => {
            diff::diff(&client, screen, question, staged, limit, output)
                .await
                .map_err(|failure| Failure::Trouble(Box::new(failure)))
        }
        Command::Verify { offline, staged, limit, output } => {
            verify::verify(&client, screen, offline, staged, limit, output).await
        }
        Command::Top(wanted) => top::top(&client, screen, wanted).await,
        Command::Observe { watch, output } => {
            observe::observe(&client, screen, watch, output).await
        }
        Command::Generate { watch, wanted, denied, output } => {
            generate::generate(&client, screen, &watch, &wanted, denied, output).await
        }
        Command::Version { client_only, output } => {
            show::version(&client, screen, client_only, output).await
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "policyctl", &mut script);
            screen.print(&String::from_utf8_lossy(&script))?;
            Ok(Exit::Fine)
        }
    }
}
