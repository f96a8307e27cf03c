//! The command line as typed. Input: `argv` and environment; output: [`Args`], whose texts are
//! still texts: `command` turns them into kinds, ports and file lists, or refuses them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum, ValueHint};

mod capture;
mod filter;
mod generate;

pub(crate) use capture::{CaptureArgs, CaptureWhat};
pub(crate) use filter::FilterArgs;
pub(crate) use generate::{GenerateArgs, PolicyForm, PolicyTypes, ResourceFormat};

/// Where the agent listens unless told otherwise.
const DEFAULT_SOCKET: &str = "/run/palisade/agent.sock";

const APPLY_EXAMPLES: &str = "\
Examples:
  policyctl apply -f policies/            every policy file of a directory
  policyctl apply --dry-run -f web.yaml   would it be accepted, and what would change?
  policyctl get -o yaml | ssh other policyctl apply -f -";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  policyctl explain web db 5432/tcp
  policyctl explain shop/web 192.0.2.7 53/udp
  policyctl explain 192.0.2.7 web icmp:8";

const DESCRIBE_EXAMPLES: &str = "\
Examples:
  policyctl describe netpol db -n shop
  policyctl describe endpoint shop/web
  policyctl describe tier default";

const EXPLAIN_OFFLINE: &str = "\
Without an agent:
  policyctl endpoints -o json > endpoints.json    once, on a host that has one
  policyctl explain web db 5432/tcp -f policies/ --endpoints endpoints.json";

const VALIDATE_EXAMPLES: &str = "\
Examples:
  policyctl validate policies/                every policy file of a directory
  policyctl validate --strict -f web.yaml     warnings are errors, too
  policyctl validate -o json policies/ | jq '.[] | select(.severity == \"error\")'
  policyctl validate policies/ --endpoints endpoints.json
                                              does each selector match something there?

Exit codes: 0 nothing wrong; 1 errors, or warnings with --strict; 2 a file cannot be read.";

const DIFF_EXAMPLES: &str = "\
Examples:
  policyctl diff -f policies/            what would `apply -f policies/` do?
  policyctl diff -f policies/ --prune    ... and if nothing else were left
  policyctl diff --delete gnp/default-deny
  policyctl diff --staged                what would the staged policies do if they were in force?
  policyctl diff --against old/ -f new/ --endpoints endpoints.yaml
                                         without an agent

Exit codes: 0 no difference; 1 a difference; 2 trouble.";

const VERIFY_EXAMPLES: &str = "\
Examples:
  policyctl verify
  policyctl verify --staged                 as if the staged policies were in force
  policyctl verify -o dot | dot -Tsvg > connectivity.svg
  policyctl verify -f policies/ --endpoints endpoints.json
  policyctl verify -o json | jq '.connections[] | select(.exposed)'";

const TOP_EXAMPLES: &str = "\
Examples:
  policyctl top
  policyctl top --view rules --sort total
  policyctl top --batch 1 --interval 10     what was dropped in the next ten seconds";

const OBSERVE_EXAMPLES: &str = "\
Examples:
  policyctl observe -f                    drops as they happen
  policyctl observe --to-name shop/db --since 15min -o table
  policyctl observe -f --from-ip 10.0.0.0/8 --port 5432 --not --policy default-deny
  policyctl observe --last 1000 -o json > night.json
  policyctl observe --input night.json --reason policy --from-label \"app == 'web'\"";

/// Heading of the options that every command has.
const GLOBAL: &str = "Options of every command";

/// Command the fence around this host's containers.
#[derive(Debug, Parser)]
#[command(
    name = "policyctl",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 fine or allowed; 1 refused, denied or unhealthy; 2 wrong usage, unreadable files or no agent."
)]
pub(crate) struct Args {
    /// The agent's Unix socket.
    #[arg(long, global = true, help_heading = GLOBAL, display_order = 100, env = "PALISADE_SOCKET", default_value = DEFAULT_SOCKET)]
    #[arg(value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) socket: PathBuf,

    /// When to colour; `auto` is on a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, help_heading = GLOBAL, display_order = 101, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorWhen,

    /// Give up when the agent has not answered after so many seconds.
    #[arg(long, global = true, help_heading = GLOBAL, display_order = 102, value_name = "SECONDS", default_value = "60")]
    #[arg(value_parser = seconds)]
    pub(crate) timeout: Duration,

    #[command(subcommand)]
    pub(crate) command: RawCommand,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(u64::from(seconds))),
        _ => Err("expected a whole number of seconds, 1 or more".to_owned()),
    }
}

/// When to colour the output.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ColorWhen {
    Auto,
    Always,
    Never,
}

/// Files to read.
#[derive(Debug, clap::Args)]
pub(crate) struct FileArgs {
    /// YAML or JSON file, `-` for standard input, or a directory: its *.yaml, *.yml and *.json
    /// files, sorted, subdirectories left out. Repeatable.
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) files: Vec<PathBuf>,
}

/// A host that is not asked.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Without an agent")]
pub(crate) struct OfflineArgs {
    /// Endpoints: a file with WorkloadEndpoints, or what `policyctl endpoints -o json` printed; `-`
    /// for standard input, or a directory. Repeatable.
    #[arg(long, value_name = "FILE|DIR|-", value_hint = ValueHint::AnyPath)]
    pub(crate) endpoints: Vec<PathBuf>,
    /// What endpoints may do that no policy selects, as the agent's flag of this name [default:
    /// allow].
    #[arg(long, value_name = "ACTION")]
    pub(crate) default_action: Option<DefaultAction>,
    /// Whether the host's own addresses are subject to policy, as the agent's flag of this name
    /// [default: policy].
    #[arg(long, value_name = "ACCESS")]
    pub(crate) host_access: Option<HostAccess>,
    /// An address of the host itself. Repeatable.
    #[arg(long = "host-address", value_name = "IP")]
    pub(crate) host_addresses: Vec<IpAddr>,
    /// An interface that block lists (`doNotTrack`) are enforced on. Repeatable.
    #[arg(long = "uplink", value_name = "INTERFACE")]
    pub(crate) uplinks: Vec<String>,
}

/// `--default-action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DefaultAction {
    Allow,
    Deny,
}

/// `--host-access`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HostAccess {
    Policy,
    Allow,
}

/// How to print resources and endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

/// How to print an answer that is no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TextFormat {
    Text,
    Json,
    Yaml,
}

/// How to print what may be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    Text,
    Dot,
    Json,
    Yaml,
}

/// What `top` shows first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopView {
    Drops,
    Endpoints,
    Rules,
}

/// What `top` sorts by first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopSort {
    Rate,
    Total,
    Name,
}

/// How to print findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FindingFormat {
    Text,
    Json,
}

/// How to print what an apply or delete did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChangeFormat {
    Text,
    Json,
    Name,
}

/// How to print records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StreamFormat {
    Compact,
    Table,
    Dict,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RawCommand {
    /// Add or replace policies from files, all or none.
    ///
    /// Returns when the datapath holds them: the very next packet obeys.
    #[command(after_help = APPLY_EXAMPLES)]
    Apply {
        #[command(flatten)]
        files: FileArgs,
        /// Let the agent validate and compile, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// How to print what was done; `name` is one name on a line.
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: ChangeFormat,
    },

    /// Remove policies by file or by name, all or none.
    ///
    /// By name: `delete KIND NAME...` or `delete KIND/NAME...`.
    Delete {
        #[command(flatten)]
        files: FileArgs,
        /// `KIND NAME...` or `KIND/NAME...`, such as `gnp block-world`.
        #[arg(value_name = "KIND NAME", conflicts_with = "files")]
        target: Vec<String>,
        /// Namespace of the named resources; `default` if left out.
        #[arg(short, long, value_name = "NS", conflicts_with = "files")]
        namespace: Option<String>,
        /// Do not mind if they are gone already.
        #[arg(long)]
        ignore_not_found: bool,
        /// How to print what was done; `name` is one name on a line.
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: ChangeFormat,
    },

    /// Show applied policies and other resources.
    ///
    /// Kinds: netpol (both kinds of NetworkPolicy), networkpolicies.projectcalico.org,
    /// networkpolicies.networking.k8s.io, gnp, netset, gns, wep, ns, all. `-o yaml` prints what
    /// `apply -f -` reads.
    Get {
        /// `KIND [NAME...]` or `KIND/NAME...`; several kinds joined by commas. All if left out.
        #[arg(value_name = "KIND [NAME]")]
        target: Vec<String>,
        /// Only this namespace; all of them if left out.
        #[arg(short, long, value_name = "NS")]
        namespace: Option<String>,
        /// All namespaces, which is the default.
        #[arg(short = 'A', long, conflicts_with = "namespace")]
        all_namespaces: bool,
        /// How to print them; `wide` has more columns, `name` is one name on a line.
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: ListFormat,
    },

    /// Show everything about one thing: a policy, endpoint, tier, network set or namespace.
    ///
    /// A policy's rules with what they have decided so far, whom it selects and what looks wrong; an
    /// endpoint's policies in the order in which they are asked; the rules that use a network set.
    #[command(after_help = DESCRIBE_EXAMPLES)]
    Describe {
        /// `KIND NAME...` or `KIND/NAME...`; the kind is `endpoint` or one that `get` knows, a name
        /// may be NAMESPACE/NAME.
        #[arg(value_name = "KIND NAME", required = true)]
        target: Vec<String>,
        /// Only in this namespace; in all of them if left out.
        #[arg(short, long, value_name = "NS")]
        namespace: Option<String>,
        /// How to print it; `json` and `yaml` are lists, as several things may have the name.
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: TextFormat,
    },

    /// Show the container interfaces behind the fence and the policies that hold there.
    #[command(alias = "ep")]
    Endpoints {
        /// Only endpoints called NAME or NAMESPACE/NAME; all if left out.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Only this namespace; all of them if left out.
        #[arg(short, long, value_name = "NS")]
        namespace: Option<String>,
        /// How to print them; `wide` has more columns, `name` is one name on a line.
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: ListFormat,
    },

    /// Show how the agent and its datapath are.
    ///
    /// Exit code 1 if a part is unhealthy.
    Status {
        /// How to print the answer.
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: TextFormat,
    },

    /// Say what is wrong or looks wrong with policy files; needs no agent.
    ///
    /// All of it at once, each finding with file, line, column and field. A tier that is in none of
    /// the files is a warning: an agent may have it.
    #[command(after_help = VALIDATE_EXAMPLES)]
    Validate {
        /// The same as with -f.
        #[arg(value_name = "FILE|DIR|-", value_hint = ValueHint::AnyPath)]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        files: FileArgs,
        /// Endpoints that there are, to warn of selectors that match nothing: a file with
        /// WorkloadEndpoints, or what `policyctl endpoints -o json` printed. Repeatable.
        #[arg(long, value_name = "FILE|DIR|-", value_hint = ValueHint::AnyPath)]
        endpoints: Vec<PathBuf>,
        /// Exit with 1 for warnings, too.
        #[arg(long)]
        strict: bool,
        /// How to print the findings; `json` is one array.
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: FindingFormat,
    },

    /// Say whether a connection is allowed, and which rule decides at each end.
    ///
    /// Asks the agent; with -f or --endpoints, answers from files as an agent would. Exit code 0 if
    /// it is allowed, 1 if it is denied, 2 if there is no answer.
    #[command(after_help = format!("{EXPLAIN_EXAMPLES}\n\n{EXPLAIN_OFFLINE}"))]
    Explain {
        /// Who connects: endpoint as NAME or NAMESPACE/NAME, or an IP address.
        #[arg(value_name = "SRC")]
        source: String,
        /// To whom: endpoint as NAME or NAMESPACE/NAME, or an IP address.
        #[arg(value_name = "DST")]
        destination: String,
        /// 5432/tcp, 53/udp, 9/sctp, 7/udplite; icmp (echo request), icmp:TYPE, icmp:TYPE:CODE, the
        /// same with icmpv6; proto:NUMBER for a protocol without ports.
        #[arg(value_name = "PORT/PROTO")]
        service: String,
        /// From this port, for rules that ask for it; else from one as systems choose them (49152).
        #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
        source_port: Option<u16>,
        #[command(flatten)]
        files: FileArgs,
        #[command(flatten)]
        offline: OfflineArgs,
        /// How to print the answer.
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: TextFormat,
    },

    /// Show what a change would do: to rules, and to who reaches whom.
    ///
    /// Compares what is in force with what `apply -f` would make of it, and changes nothing. With
    /// --against, compares two sets of files without an agent, each as if it were all there is.
    #[command(after_help = DIFF_EXAMPLES)]
    Diff {
        #[command(flatten)]
        files: FileArgs,
        /// Also put every staged policy in force: what are they about to do?
        #[arg(long)]
        staged: bool,
        /// Also delete everything else that was applied; what is in the policy directory stays.
        #[arg(long, conflicts_with = "against")]
        prune: bool,
        /// Also delete this resource. Repeatable.
        #[arg(long, value_name = "KIND/NAME", conflicts_with = "against")]
        delete: Vec<String>,
        /// Namespace of what --delete names; `default` if left out.
        #[arg(short, long, value_name = "NS", requires = "delete")]
        namespace: Option<String>,
        /// The files to compare with, instead of what the agent has. Repeatable.
        #[arg(long, value_name = "FILE|DIR|-", value_hint = ValueHint::AnyPath, requires = "files")]
        against: Vec<PathBuf>,
        #[command(flatten)]
        offline: OfflineArgs,
        /// Entries about connections that are printed at most; `json` and `yaml` have all.
        #[arg(long, value_name = "N", default_value = "40")]
        limit: usize,
        /// How to print the difference.
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: TextFormat,
    },

    /// Show who may reach whom: everything that the present policies allow, and what looks wrong.
    ///
    /// Asks the agent; with -f or --endpoints, answers from files as an agent would. What looks wrong:
    /// what the whole world may connect to, rules that have not allowed a packet yet, and denied
    /// connections that are tried.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        #[command(flatten)]
        files: FileArgs,
        /// As if every staged policy were in force.
        #[arg(long)]
        staged: bool,
        #[command(flatten)]
        offline: OfflineArgs,
        /// Entries about connections that are printed at most; the other formats have all.
        #[arg(long, value_name = "N", default_value = "100")]
        limit: usize,
        /// How to print them; `dot` is for Graphviz.
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: GraphFormat,
    },

    /// Show what is dropped and decided now, most first, on a screen of its own.
    ///
    /// Keys: q quit, Tab or 1 2 3 view, s sort, / filter, p pause, j k scroll. The counters are the
    /// kernel's: they count every packet.
    #[command(after_help = TOP_EXAMPLES)]
    Top {
        /// drops: by pair, service and cause; endpoints: by who dropped; rules: all that rules decided.
        #[arg(long, value_name = "VIEW", default_value = "drops")]
        view: TopView,
        /// What comes first.
        #[arg(long, value_name = "ORDER", default_value = "rate")]
        sort: TopSort,
        /// Only rows with this in a name.
        #[arg(long, value_name = "TEXT")]
        filter: Option<String>,
        /// Seconds between two looks.
        #[arg(long, value_name = "SECONDS", default_value = "1")]
        #[arg(value_parser = seconds)]
        interval: Duration,
        /// Print N tables, one each interval, and end; for files and pipes.
        #[arg(long, value_name = "N")]
        batch: Option<u32>,
    },

    /// Show dropped packets and the rules that dropped them.
    ///
    /// And packets that a Log rule matched, and those that staged policies would drop. Filters of one
    /// name are alternatives, those of different names must all hold. Times are UTC.
    #[command(after_help = OBSERVE_EXAMPLES)]
    Observe {
        /// Go on with records as they come.
        #[arg(short, long, conflicts_with_all = ["input", "until"])]
        follow: bool,
        /// Only the newest N that are wanted; by default 20, none with --follow, all with --since or
        /// --input.
        #[arg(long, value_name = "N")]
        last: Option<usize>,
        /// Not older: how long ago (90s, 15min, 2h), or when (2026-11-21T01:27:01Z).
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Older than this, likewise.
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Read what `observe -o json` printed, instead of asking the agent; `-` for standard
        /// input. Repeatable.
        #[arg(long, value_name = "FILE|-", value_hint = ValueHint::FilePath)]
        input: Vec<PathBuf>,
        #[command(flatten)]
        filters: FilterArgs,
        /// How to print them; `json` is one object on a line, `dict` a line for each thing known.
        #[arg(short, long, value_name = "FORMAT", default_value = "compact")]
        output: StreamFormat,
    },

    /// Write whole packets to a file for Wireshark: what is dropped, by which rule; or chosen traffic.
    ///
    /// Until Ctrl-C, or what --count, --for and --max-size say. One capture at a time.
    #[command(after_help = capture::EXAMPLES)]
    Capture(CaptureArgs),

    /// Write policies that allow what was seen, and nothing else.
    ///
    /// One for the workloads of a namespace that share their labels, from the flows that the agent has
    /// records of, or files. What comes out is for `validate`, `diff` and `apply`. A policy by labels holds
    /// for whoever has them; what was not seen yet is denied.
    #[command(after_help = generate::EXAMPLES)]
    Generate(GenerateArgs),

    /// Show the versions of policyctl and of the agent.
    Version {
        /// Do not ask the agent.
        #[arg(long)]
        client: bool,
        /// How to print the answer.
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: TextFormat,
    },

    /// Print a script that completes commands in a shell.
    ///
    /// For this session: `source <(policyctl completion bash)`.
    Completion {
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
}
