//! Runs the built `policyctl`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a run printed and how it ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Everything, as a snapshot shows it.
    pub(crate) fn transcript(&self) -> String {
        format!("{}--- stderr\n{}--- exit {}", self.out, self.err, self.code)
    }
}

/// The command with this socket and nothing of our environment that it could obey.
pub(crate) fn command(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_policyctl"));
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS"] {
        command.env_remove(name);
    }
    command.env("PALISADE_SOCKET", socket);
    command
}

/// Runs it to its end, standard input empty.
pub(crate) fn run(socket: &Path, arguments: &[&str]) -> Run {
    run_with_input(socket, arguments, b"")
}

/// Runs it to its end with `input` on standard input.
pub(crate) fn run_with_input(socket: &Path, arguments: &[&str], input: &[u8]) -> Run {
    let mut child = command(socket)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start policyctl");
    // It may end without reading everything.
    let _ = child.stdin.take().expect("stdin").write_all(input);
    let output = child.wait_with_output().expect("wait for policyctl");
    Run {
        code: output.status.code().expect("exit code"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}
