//! How a command ends: exit codes and error messages. Input: what went wrong; output: text on
//! standard error and the process's exit code.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use policy_api::diagnostic::Diagnostic;

use crate::describe::Unreadable;
use crate::kinds::UnknownKind;
use crate::output::{Screen, style, text};
use crate::service::ServiceError;

/// Findings that are shown at most: nobody reads on, and the first ones stay on the screen.
const SHOWN: usize = 50;

/// End of a command that did its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, allowed, healthy: 0.
    Fine,
    /// Denied, unhealthy, or something is wrong with the files: 1.
    Difference,
    /// Not everything could be read: 2.
    Incomplete,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Fine => ExitCode::SUCCESS,
            Exit::Difference => ExitCode::from(1),
            Exit::Incomplete => ExitCode::from(2),
        }
    }
}

/// End of a command that could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The arguments make no sense.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    UnknownKind(#[from] UnknownKind),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The files are wrong; nothing was sent.
    #[error("nothing was sent to the agent")]
    Input(Vec<Diagnostic>),
    /// Files that a question is about are wrong; there is no answer.
    #[error("no answer before the files are right")]
    Files(Vec<Diagnostic>),
    /// A failure of a command for which 1 is a result, as for diff(1).
    #[error(transparent)]
    Trouble(Box<Failure>),
    /// The agent said no; nothing has changed.
    #[error("{error}")]
    Refused { error: String, diagnostics: Vec<Diagnostic> },
    /// Decided here, from what the agent holds.
    #[error("{0}")]
    Declined(String),
    #[error(
        "no agent answers on {}: {source}; start one with `systemctl start palisade` or \
         `policy-agent run`, or name its socket with --socket", socket.display()
    )]
    NoAgent { socket: PathBuf, source: io::Error },
    #[error(
        "permission denied on {}: run policyctl as root (sudo), or as a member of the group that \
         owns the socket", .0.display()
    )]
    SocketPermission(PathBuf),
    #[error(
        "{} is not a socket: name the agent's socket with --socket or PALISADE_SOCKET", .0.display()
    )]
    NotASocket(PathBuf),
    #[error(
        "the agent on {} has not answered for {} s: see `systemctl status palisade`, or wait \
         longer with --timeout; if this was a change, it may still be made",
        socket.display(), after.as_secs()
    )]
    Timeout { socket: PathBuf, after: Duration },
    #[error("the connection to the agent broke: {0}; see `systemctl status palisade`")]
    Connection(Box<dyn std::error::Error + Send + Sync>),
    #[error(
        "what answers on {} does not speak like an agent of this version: {detail}; compare \
         `policyctl version --client` with `policy-agent --version`", socket.display()
    )]
    Protocol { socket: PathBuf, detail: String },
    #[error("the agent closed the stream of records: see `systemctl status palisade`")]
    StreamEnded,
    /// A file of records.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file to write.
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// Standard output or error cannot be written.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
    #[error("printing as YAML or JSON: {0}")]
    Encode(String),
}

impl Failure {
    /// Wrong usage.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::Usage(message.into())
    }

    /// Says what happened on standard error and gives the exit code.
    pub(crate) fn report(&self, screen: &Screen) -> ExitCode {
        let failure = match self {
            Failure::Trouble(failure) => failure,
            failure => failure,
        };
        // `policyctl get | head` closes our output when it has seen enough.
        if let Failure::Output(error) = failure
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            return ExitCode::SUCCESS;
        }
        let mut message = String::new();
        if let Failure::Input(diagnostics)
        | Failure::Files(diagnostics)
        | Failure::Refused { diagnostics, .. } = failure
        {
            for diagnostic in diagnostics.iter().take(SHOWN) {
                message.push_str(&text::diagnostic(diagnostic));
                message.push('\n');
            }
            if diagnostics.len() > SHOWN {
                message.push_str(&format!("... and {} more\n", diagnostics.len() - SHOWN));
            }
        }
        let bad = style::BAD;
        message.push_str(&format!("{bad}error:{bad:#} {}\n", text::clean(&failure.to_string())));
        if matches!(failure, Failure::Usage(_) | Failure::UnknownKind(_) | Failure::Service(_)) {
            message.push_str("See `policyctl --help`.\n");
        }
        // Standard error is where a failure to write would be reported.
        let _ = screen.error(&message);
        ExitCode::from(self.exit_code())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Failure::Input(_)
            | Failure::Refused { .. }
            | Failure::Declined(_)
            | Failure::Output(_)
            | Failure::Encode(_) => 1,
            Failure::Usage(_)
            | Failure::UnknownKind(_)
            | Failure::Service(_)
            | Failure::Files(_)
            | Failure::Unreadable(_)
            | Failure::Trouble(_)
            | Failure::NoAgent { .. }
            | Failure::SocketPermission(_)
            | Failure::NotASocket(_)
            | Failure::Timeout { .. }
            | Failure::Connection(_)
            | Failure::Protocol { .. }
            | Failure::Read { .. }
            | Failure::Write { .. }
            | Failure::StreamEnded => 2,
        }
    }
}
