//! From the command line as typed to what is to be done. Input: [`Args`]; output: an
//! [`Invocation`] in which every combination makes sense. No I/O.

use std::path::PathBuf;
use std::time::Duration;

use policy_api::resource::Kind;

use crate::args::{Args, ChangeFormat, FileArgs, ListFormat, RawCommand, StreamFormat, TextFormat};
use crate::failure::Failure;
use crate::kinds;
use crate::service::Service;

/// Drops shown by `observe` when not told how many.
const LAST_DROPS: usize = 20;

/// A command and the agent that it is for.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) socket: PathBuf,
    pub(crate) timeout: Duration,
    pub(crate) command: Command,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Command {
    Apply { files: Vec<PathBuf>, dry_run: bool, output: ChangeFormat },
    Delete { target: DeleteTarget, ignore_not_found: bool, output: ChangeFormat },
    Get { selection: Selection, output: ListFormat },
    Endpoints { names: Vec<String>, namespace: Option<String>, output: ListFormat },
    Status { output: TextFormat },
    Explain { question: Question, output: TextFormat },
    Observe { follow: bool, last: usize, output: StreamFormat },
    Version { client_only: bool, output: TextFormat },
    Completion { shell: clap_complete::Shell },
}

/// A connection to be explained.
#[derive(Debug)]
pub(crate) struct Question {
    /// Endpoint or address.
    pub(crate) source: String,
    /// Endpoint or address.
    pub(crate) destination: String,
    /// Protocol and destination port.
    pub(crate) service: Service,
    /// Source port, if one was given.
    pub(crate) source_port: Option<u16>,
}

/// What to delete.
#[derive(Debug)]
pub(crate) enum DeleteTarget {
    /// Everything that these files name.
    Files(Vec<PathBuf>),
    /// Resources by name.
    Named { targets: Vec<NamedTarget>, namespace: Option<String> },
}

/// One resource by name; its kind is ambiguous if there is more than one candidate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NamedTarget {
    /// As typed, for messages.
    pub(crate) kind_text: String,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) name: String,
}

/// What to get.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Kinds as typed; empty for all.
    pub(crate) kind_texts: Vec<String>,
    /// Kinds meant; empty for all, those that this policyctl does not know included.
    pub(crate) kinds: Vec<Kind>,
    /// Names; empty for all.
    pub(crate) names: Vec<String>,
    /// Namespace; `None` for all and for what has none.
    pub(crate) namespace: Option<String>,
}

/// Turns arguments into a command.
///
/// # Errors
///
/// [`Failure::Usage`] if they make no sense together.
pub(crate) fn resolve(args: Args) -> Result<Invocation, Failure> {
    let command = match args.command {
        RawCommand::Apply { files, dry_run, output } => {
            Command::Apply { files: require_files("apply", files)?, dry_run, output }
        }
        RawCommand::Delete { files, target, namespace, ignore_not_found, output } => {
            let target = if target.is_empty() {
                DeleteTarget::Files(require_files("delete", files)?)
            } else {
                let targets = named_targets(&target)?;
                check_namespace(
                    targets.iter().flat_map(|it| it.kinds.iter().copied()),
                    namespace.as_deref(),
                )?;
                DeleteTarget::Named { targets, namespace }
            };
            Command::Delete { target, ignore_not_found, output }
        }
        RawCommand::Get { target, namespace, all_namespaces: _, output } => {
            Command::Get { selection: selection(&target, namespace)?, output }
        }
        RawCommand::Endpoints { names, namespace, output } => {
            Command::Endpoints { names, namespace, output }
        }
        RawCommand::Status { output } => Command::Status { output },
        RawCommand::Explain { source, destination, service, source_port, output } => {
            let service = service.parse::<Service>()?;
            let question = Question { source, destination, service, source_port };
            Command::Explain { question, output }
        }
        RawCommand::Observe { follow, last, output } => {
            let last = last.unwrap_or(if follow { 0 } else { LAST_DROPS });
            Command::Observe { follow, last, output }
        }
        RawCommand::Version { client, output } => Command::Version { client_only: client, output },
        RawCommand::Completion { shell } => Command::Completion { shell },
    };
    Ok(Invocation { socket: args.socket, timeout: args.timeout, command })
}

fn require_files(command: &str, args: FileArgs) -> Result<Vec<PathBuf>, Failure> {
    if args.files.is_empty() {
        let or_name = if command == "delete" { ", or `policyctl delete KIND NAME`" } else { "" };
        return Err(Failure::usage(format!(
            "{command} what? Write `policyctl {command} -f FILE` (a directory, or - for standard \
             input){or_name}"
        )));
    }
    if args.files.iter().filter(|file| file.as_os_str() == "-").count() > 1 {
        return Err(Failure::usage("standard input can be read once: write `-f -` only once"));
    }
    Ok(args.files)
}

/// `KIND NAME...` or `KIND/NAME...`.
fn named_targets(words: &[String]) -> Result<Vec<NamedTarget>, Failure> {
    let target = |kind: &str, name: &str| {
        if kind.eq_ignore_ascii_case("all") {
            return Err(Failure::usage("`all` is no kind to delete: name the kind"));
        }
        let kinds = kinds::lookup(kind)?;
        if name.is_empty() {
            return Err(Failure::usage(format!("{kind}: no name given")));
        }
        Ok(NamedTarget { kind_text: kind.to_owned(), kinds, name: name.to_owned() })
    };
    match words {
        [first, ..] if first.contains('/') => words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) => target(kind, name),
                None => Err(Failure::usage(format!(
                    "`{word}`: write every resource as KIND/NAME, or all as KIND NAME..."
                ))),
            })
            .collect(),
        [kind, names @ ..] => {
            if names.is_empty() {
                return Err(Failure::usage(format!(
                    "{kind}: name the resource, as in `policyctl delete {kind} NAME`"
                )));
            }
            names
                .iter()
                .map(|name| match name.contains('/') {
                    true => Err(Failure::usage(format!(
                        "`{name}` is no name: write KIND NAME... or KIND/NAME..., not both"
                    ))),
                    false => target(kind, name),
                })
                .collect()
        }
        [] => Ok(Vec::new()),
    }
}

fn selection(words: &[String], namespace: Option<String>) -> Result<Selection, Failure> {
    let mut selection = Selection { namespace, ..Selection::default() };
    match words {
        [] => {}
        [first, ..] if first.contains('/') => {
            let targets = named_targets(words)?;
            let Some(first) = targets.first() else { return Ok(selection) };
            // Names of one kind must not select resources of another.
            if targets.iter().any(|target| target.kinds != first.kinds) {
                return Err(Failure::usage("get one kind at a time: write KIND NAME..."));
            }
            selection.kind_texts = vec![first.kind_text.clone()];
            selection.kinds.clone_from(&first.kinds);
            selection.names = targets.into_iter().map(|target| target.name).collect();
        }
        [list, names @ ..] => {
            for text in list.split(',') {
                for kind in kinds::lookup(text)? {
                    if !selection.kinds.contains(&kind) {
                        selection.kinds.push(kind);
                    }
                }
                selection.kind_texts.push(text.to_owned());
            }
            if list.eq_ignore_ascii_case("all") {
                selection.kinds.clear();
                selection.kind_texts.clear();
            }
            selection.names = names.to_vec();
            if selection.kinds.is_empty() && !names.is_empty() {
                return Err(Failure::usage("to get one resource by name, name its kind too"));
            }
        }
    }
    check_namespace(selection.kinds.iter().copied(), selection.namespace.as_deref())?;
    Ok(selection)
}

/// `-n` with kinds that have no namespace would be ignored, so it is refused.
fn check_namespace(
    kinds: impl IntoIterator<Item = Kind>,
    namespace: Option<&str>,
) -> Result<(), Failure> {
    match (namespace, kinds.into_iter().find(|kind| !kind.namespaced())) {
        (Some(_), Some(kind)) => Err(Failure::usage(format!(
            "a {} has no namespace: leave out --namespace",
            kind.names().1
        ))),
        _ => Ok(()),
    }
}
