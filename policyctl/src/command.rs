//! From the command line as typed to what is to be done. Input: [`Args`]; output: an
//! [`Invocation`] in which every combination makes sense. No I/O.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use policy_api::capture::What;
use policy_api::flow::FlowFilter;
use policy_api::resource::Kind;
use policy_core::assemble::Host;
use policy_core::generate::{Chosen, Form, Wanted};
use policy_core::model::{DefaultAction, Settings};
use policy_core::observe::Filter;
use policy_core::selector::Selector;

use crate::args::{
    self, Args, CaptureArgs, CaptureWhat, ChangeFormat, FileArgs, FilterArgs, FindingFormat,
    GenerateArgs, GraphFormat, HostAccess, ListFormat, OfflineArgs, PolicyForm, PolicyTypes,
    RawCommand, ResourceFormat, StreamFormat, TextFormat, TopSort, TopView,
};
use crate::describe::Sort;
use crate::failure::Failure;
use crate::kinds;
use crate::offline::Offline;
use crate::service::Service;
use crate::top::{Order, View};

/// Records shown by `observe` when told neither how many nor since when.
const LAST_RECORDS: usize = 20;

/// Before every record.
const EVER: &str = "1970-01-01T00:00:00Z";

/// A command and the agent that it is for.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) socket: PathBuf,
    pub(crate) timeout: Duration,
    pub(crate) command: Command,
}

/// Which packets, how much of them, and where to.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) write: PathBuf,
    pub(crate) what: What,
    /// Bytes of each.
    pub(crate) snap: u32,
    pub(crate) count: Option<u64>,
    pub(crate) duration: Option<Duration>,
    /// MiB.
    pub(crate) max_size: u64,
    pub(crate) filter: FlowFilter,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Command {
    Apply { files: Vec<PathBuf>, dry_run: bool, output: ChangeFormat },
    Delete { target: DeleteTarget, ignore_not_found: bool, output: ChangeFormat },
    Get { selection: Selection, output: ListFormat },
    Describe { targets: Vec<DescribeTarget>, namespace: Option<String>, output: TextFormat },
    Endpoints { names: Vec<String>, namespace: Option<String>, output: ListFormat },
    Status { output: TextFormat },
    Validate { files: Vec<PathBuf>, endpoints: Vec<PathBuf>, strict: bool, output: FindingFormat },
    Explain { question: Question, offline: Option<Offline>, output: TextFormat },
    Diff { question: DiffQuestion, staged: bool, limit: usize, output: TextFormat },
    Verify { offline: Option<Offline>, staged: bool, limit: usize, output: GraphFormat },
    Top(Top),
    Observe { watch: Watch, output: StreamFormat },
    Capture(Capture),
    Generate { watch: Watch, wanted: Box<Wanted>, denied: bool, output: ResourceFormat },
    Version { client_only: bool, output: TextFormat },
    Completion { shell: clap_complete::Shell },
}

/// How to show the counters.
#[derive(Debug)]
pub(crate) struct Top {
    pub(crate) view: View,
    pub(crate) sort: Order,
    pub(crate) filter: String,
    /// Between two looks.
    pub(crate) interval: Duration,
    /// So many tables and no screen.
    pub(crate) batch: Option<u32>,
}

/// Which records, and from where.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) follow: bool,
    /// The newest so many that are wanted; `None`: all.
    pub(crate) last: Option<usize>,
    pub(crate) filter: FlowFilter,
    /// Files instead of the agent.
    pub(crate) input: Vec<PathBuf>,
}

/// What to compare.
#[derive(Debug)]
pub(crate) enum DiffQuestion {
    /// What is in force with what a change would make of it.
    Agent { files: Vec<PathBuf>, delete: Vec<NamedTarget>, namespace: Option<String>, prune: bool },
    /// Two sets of files; the host of the second is the first one's, too.
    Files { before: Vec<PathBuf>, after: Offline },
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

/// What to describe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DescribeTarget {
    /// The kind as typed, for messages.
    pub(crate) sort_text: String,
    pub(crate) sort: Sort,
    /// `NAME` or `NAMESPACE/NAME`.
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
                check_namespace(targets.iter().flat_map(|it| &it.kinds), namespace.as_deref())?;
                DeleteTarget::Named { targets, namespace }
            };
            Command::Delete { target, ignore_not_found, output }
        }
        RawCommand::Get { target, namespace, all_namespaces: _, output } => {
            Command::Get { selection: selection(&target, namespace)?, output }
        }
        RawCommand::Describe { target, namespace, output } => {
            let targets = describe_targets(&target)?;
            check_namespace(
                targets.iter().flat_map(|target| match &target.sort {
                    Sort::Endpoint => &[][..],
                    Sort::Kinds(kinds) => kinds,
                }),
                namespace.as_deref(),
            )?;
            Command::Describe { targets, namespace, output }
        }
        RawCommand::Endpoints { names, namespace, output } => {
            Command::Endpoints { names, namespace, output }
        }
        RawCommand::Status { output } => Command::Status { output },
        RawCommand::Validate { paths, files, endpoints, strict, output } => {
            let files = FileArgs { files: paths.into_iter().chain(files.files).collect() };
            let files = require_files("validate", files)?;
            once([&files, &endpoints])?;
            Command::Validate { files, endpoints, strict, output }
        }
        RawCommand::Explain {
            source,
            destination,
            service,
            source_port,
            files,
            offline,
            output,
        } => {
            let service = service.parse::<Service>()?;
            let question = Question { source, destination, service, source_port };
            Command::Explain { question, offline: resolve_offline(files, offline)?, output }
        }
        RawCommand::Diff {
            files,
            staged,
            prune,
            delete,
            namespace,
            against,
            offline,
            limit,
            output,
        } => {
            let question = if against.is_empty() {
                let delete = named_targets(&delete)?;
                let kinds = delete.iter().flat_map(|it| it.kinds.iter());
                check_namespace(kinds, namespace.as_deref())?;
                // Other changes need no files.
                let files = if staged || prune || !delete.is_empty() {
                    files.files
                } else {
                    require_files("diff", files)?
                };
                if resolve_offline(FileArgs { files: Vec::new() }, offline)?.is_some() {
                    return Err(Failure::usage("--endpoints needs --against FILE"));
                }
                DiffQuestion::Agent { files, delete, namespace, prune }
            } else {
                once([&against, &files.files])?;
                let after = resolve_offline(files, offline)?.unwrap_or_default();
                DiffQuestion::Files { before: against, after }
            };
            Command::Diff { question, staged, limit, output }
        }
        RawCommand::Verify { files, offline, staged, limit, output } => {
            let offline = resolve_offline(files, offline)?;
            Command::Verify { offline, staged, limit, output }
        }
        RawCommand::Top { view, sort, filter, interval, batch } => {
            let view = match view {
                TopView::Drops => View::Drops,
                TopView::Endpoints => View::Endpoints,
                TopView::Rules => View::Rules,
            };
            let sort = match sort {
                TopSort::Rate => Order::Rate,
                TopSort::Total => Order::Total,
                TopSort::Name => Order::Name,
            };
            let filter = filter.unwrap_or_default();
            Command::Top(Top { view, sort, filter, interval, batch })
        }
        RawCommand::Observe { follow, last, since, until, input, filters, output } => {
            once([&input])?;
            let filter = filter(since, until, filters)?;
            let last = match last {
                None if input.is_empty() && filter.since.is_none() => {
                    Some(if follow { 0 } else { LAST_RECORDS })
                }
                last => last,
            };
            Command::Observe { watch: Watch { follow, last, filter, input }, output }
        }
        RawCommand::Capture(args) => Command::Capture(capture(args)?),
        RawCommand::Generate(args) => generate(args)?,
        RawCommand::Version { client, output } => Command::Version { client_only: client, output },
        RawCommand::Completion { shell } => Command::Completion { shell },
    };
    Ok(Invocation { socket: args.socket, timeout: args.timeout, command })
}

/// Which records. Before anybody is asked: what means nothing here means nothing there.
fn filter(
    since: Option<String>,
    until: Option<String>,
    filters: FilterArgs,
) -> Result<FlowFilter, Failure> {
    let now = SystemTime::now();
    let moment = |text: Option<String>| text.map(|text| moment(&text, now)).transpose();
    let filter = FlowFilter { since: moment(since)?, until: moment(until)?, conditions: filters.0 };
    Filter::new(&filter).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(filter)
}

fn capture(args: CaptureArgs) -> Result<Capture, Failure> {
    let CaptureArgs { write, what, snap, count, duration, max_size, filters } = args;
    let what = match what {
        CaptureWhat::Drops => What::Drops,
        CaptureWhat::Passes => What::Passes,
        CaptureWhat::All => What::All,
    };
    let filter = filter(None, None, filters)?;
    Ok(Capture { write, what, snap, count, duration, max_size, filter })
}

fn generate(args: GenerateArgs) -> Result<Command, Failure> {
    once([&args.input])?;
    let mut filter = filter(args.since, args.until, args.filters)?;
    let named = |text: String| match text.split_once('/') {
        None if !text.is_empty() => Ok((None, text)),
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok((Some(namespace.to_owned()), name.to_owned()))
        }
        _ => Err(Failure::usage(format!(
            "`{text}` is no workload: write --for NAME or --for NAMESPACE/NAME"
        ))),
    };
    let selector = |text: String| {
        Selector::parse(&text)
            .map_err(|error| Failure::usage(format!("`{text}` is not a selector: {error}")))
    };
    let wanted = Wanted {
        form: match args.form {
            PolicyForm::Calico => Form::Calico,
            PolicyForm::Kubernetes => Form::Kubernetes,
        },
        staged: args.staged,
        tier: args.tier,
        ingress: args.types != PolicyTypes::Egress,
        egress: args.types != PolicyTypes::Ingress,
        keys: args.by_label,
        workloads: Chosen {
            names: args.names.into_iter().map(named).collect::<Result<_, _>>()?,
            selector: args.for_label.map(selector).transpose()?,
        },
    };
    wanted.check().map_err(Failure::usage)?;
    if args.input.is_empty() && args.last.is_none() && filter.since.is_none() {
        // An agent that is asked neither how many nor since when gives a few only.
        filter.since = Some(moment(EVER, SystemTime::UNIX_EPOCH)?);
    }
    let watch = Watch { follow: false, last: args.last, filter, input: args.input };
    let (wanted, denied, output) = (Box::new(wanted), args.denied, args.output);
    Ok(Command::Generate { watch, wanted, denied, output })
}

/// A time, or how long ago: RFC 3339 with microseconds, UTC.
fn moment(text: &str, now: SystemTime) -> Result<String, Failure> {
    let time = match humantime::parse_duration(text) {
        Ok(ago) => now.checked_sub(ago),
        Err(_) => humantime::parse_rfc3339_weak(text).ok(),
    };
    // humantime prints no time before 1970.
    match time.filter(|time| *time >= SystemTime::UNIX_EPOCH) {
        Some(time) => Ok(humantime::format_rfc3339_micros(time).to_string()),
        None => Err(Failure::usage(format!(
            "`{text}` is no time: write how long ago (90s, 15min, 2h, 1day) or when, in UTC \
             (2026-11-21T01:27:01Z)"
        ))),
    }
}

fn require_files(command: &str, args: FileArgs) -> Result<Vec<PathBuf>, Failure> {
    if args.files.is_empty() {
        let or_name = if command == "delete" { ", or `policyctl delete KIND NAME`" } else { "" };
        return Err(Failure::usage(format!(
            "{command} what? Write `policyctl {command} -f FILE` (a directory, or - for standard \
             input){or_name}"
        )));
    }
    once([&args.files])?;
    Ok(args.files)
}

fn once<const N: usize>(lists: [&[PathBuf]; N]) -> Result<(), Failure> {
    if lists.into_iter().flatten().filter(|file| file.as_os_str() == "-").count() > 1 {
        return Err(Failure::usage("standard input can be read once: write `-` only once"));
    }
    Ok(())
}

/// The host that files describe, if there are files.
fn resolve_offline(files: FileArgs, args: OfflineArgs) -> Result<Option<Offline>, Failure> {
    let files = files.files;
    once([&files, &args.endpoints])?;
    let settings = Settings {
        default_action: match args.default_action {
            None | Some(args::DefaultAction::Allow) => DefaultAction::Allow,
            Some(args::DefaultAction::Deny) => DefaultAction::Deny,
        },
        host_access: args.host_access == Some(HostAccess::Allow),
    };
    let live = files.is_empty() && args.endpoints.is_empty();
    let host = Host {
        settings,
        addresses: args.host_addresses.into_iter().collect(),
        uplinks: args.uplinks.into_iter().collect(),
    };
    let given = args.default_action.is_some() || args.host_access.is_some();
    if live && (given || !host.addresses.is_empty() || !host.uplinks.is_empty()) {
        return Err(Failure::usage(
            "an agent knows its own host: --default-action, --host-access, --host-address and \
             --uplink need --endpoints FILE or -f FILE",
        ));
    }
    Ok((!live).then_some(Offline { files, endpoints: args.endpoints, host }))
}

/// `KIND NAME...` or `KIND/NAME...`.
fn named_targets(words: &[String]) -> Result<Vec<NamedTarget>, Failure> {
    let target = |kind: &str, name: &str| {
        if kind.eq_ignore_ascii_case("all") {
            return Err(Failure::usage("`all` is no kind to delete: name the kind"));
        }
        let kinds = kinds::lookup(kind)?;
        if name.contains('/') {
            let message = format!("`{name}` is no name: say the namespace with --namespace");
            return Err(Failure::usage(message));
        }
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
    check_namespace(&selection.kinds, selection.namespace.as_deref())?;
    Ok(selection)
}

/// `KIND NAME...` or `KIND/NAME...`, where a name may be `NAMESPACE/NAME`.
fn describe_targets(words: &[String]) -> Result<Vec<DescribeTarget>, Failure> {
    let sort = |kind: &str| match kind.to_ascii_lowercase().as_str() {
        "endpoint" | "endpoints" | "ep" => Ok(Sort::Endpoint),
        "all" => Err(Failure::usage("`all` is no kind to describe: name the kind")),
        kind => Ok(Sort::Kinds(kinds::lookup(kind)?)),
    };
    let target = |kind: &str, name: &str| {
        let sort = sort(kind)?;
        if name.is_empty() {
            return Err(Failure::usage(format!("{kind}: no name given")));
        }
        Ok(DescribeTarget { sort_text: kind.to_owned(), sort, name: name.to_owned() })
    };
    match words {
        [first, ..] if first.contains('/') => words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) => target(kind, name),
                None => Err(Failure::usage(format!(
                    "`{word}`: write everything as KIND/NAME, or all as KIND NAME..."
                ))),
            })
            .collect(),
        [kind] => Err(sort(kind).err().unwrap_or_else(|| {
            Failure::usage(format!(
                "{kind}: name it, as in `policyctl describe {kind} NAME`; `policyctl get {kind}` \
                 lists them"
            ))
        })),
        [kind, names @ ..] => names.iter().map(|name| target(kind, name)).collect(),
        [] => Ok(Vec::new()),
    }
}

/// `-n` with kinds that have no namespace would be ignored, so it is refused.
fn check_namespace<'a>(
    kinds: impl IntoIterator<Item = &'a Kind>,
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
