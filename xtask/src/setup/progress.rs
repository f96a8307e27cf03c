//! What a person sees while things are installed.
//!
//! Inputs: a title and a command for each step. Outputs: on a terminal a spinner with the time,
//! elsewhere a line at the beginning and the end; the command's own output only if it fails.

use std::{
    io::IsTerminal as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// Lines of a failed command's output that are shown. apt and cargo put the reason at the end.
const TAIL: usize = 40;

/// Prints the steps.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    /// Something that is there already.
    pub(crate) fn present(&self, what: &str, detail: &str) {
        eprintln!("  ok  {what}: {detail}");
    }

    /// Something that the person should know.
    pub(crate) fn note(&self, text: &str) {
        eprintln!("note  {text}");
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// If it does not start, or fails: with the end of its output.
    pub(crate) fn run(&self, title: &str, command: &mut Command) -> Result<()> {
        let start = Instant::now();
        let spinner = self.terminal.then(|| spinner(title));
        if spinner.is_none() {
            eprintln!("  ..  {title}");
        }
        let output = command.stdin(Stdio::null()).output();
        if let Some(spinner) = spinner {
            spinner.finish_and_clear();
        }
        let output =
            output.with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let seconds = start.elapsed().as_secs();
        if output.status.success() {
            eprintln!("done  {title} ({seconds} s)");
            return Ok(());
        }
        eprintln!("FAIL  {title} ({seconds} s)");
        let text = [output.stdout, output.stderr].concat();
        bail!("`{}` failed ({}):\n{}", shown(command), output.status, tail(&text));
    }
}

fn spinner(title: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("  {spinner}   {msg} ({elapsed})")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style).with_message(title.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// The command as a person would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn tail(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_shows_the_end_of_what_it_said() {
        let progress = Progress { terminal: false };
        let error = progress
            .run("a step", Command::new("sh").args(["-c", "seq 100; echo reason >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("100\nreason"), "{error}");
        assert!(!error.contains("\n50\n"), "{error}");
    }
}
