//! What `generate` is asked.

use std::path::PathBuf;

use clap::{ValueEnum, ValueHint};

use super::FilterArgs;

pub(super) const EXAMPLES: &str = "\
Examples:
  policyctl generate --since 1day > policies.yaml
  policyctl generate --for shop/web --staged | policyctl apply -f -
                                          enforces nothing; `observe` shows what it would deny
  policyctl generate --input night.json --form kubernetes
  policyctl generate --input flows.json --for-label \"app == 'web'\" --types ingress
  policyctl generate --denied --for db    with what a policy denies now

Exit codes: 0 fine; 2 wrong usage, no agent, or something is left out that a note on standard error names.";

/// Which policies, from which records.
#[derive(Debug, clap::Args)]
pub(crate) struct GenerateArgs {
    /// Only for workloads called NAME or NAMESPACE/NAME, and those with the same labels. Repeatable.
    #[arg(long = "for", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Only for workloads with these labels, and those that --for names.
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) for_label: Option<String>,
    /// Select workloads by this label, and by no other that was not named. Repeatable; by default
    /// those that say what a workload is (app, Compose's service, ...), else its name.
    #[arg(long, value_name = "KEY")]
    pub(crate) by_label: Vec<String>,
    /// Whose policy language.
    #[arg(long, value_name = "FORM", default_value = "calico")]
    pub(crate) form: PolicyForm,
    /// Write staged policies: nothing is enforced, and `observe` shows what would be denied.
    #[arg(long)]
    pub(crate) staged: bool,
    /// What policies are about: what comes in, what goes out, or both.
    #[arg(long, value_name = "TYPES", default_value = "both")]
    pub(crate) types: PolicyTypes,
    /// Tier of the policies, in Calico's form [default: default].
    #[arg(long, value_name = "NAME")]
    pub(crate) tier: Option<String>,
    /// Allow what a policy has denied, too (drops of reason `policy`).
    #[arg(long)]
    pub(crate) denied: bool,
    /// Only from the newest N records that are wanted.
    #[arg(long, value_name = "N", conflicts_with = "input")]
    pub(crate) last: Option<usize>,
    /// Only from records that are not older: how long ago (90s, 15min, 2h), or when
    /// (2026-11-21T01:27:01Z).
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only from older ones, likewise.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Read what `observe -o json` printed or the flow log has, instead of asking the agent; `-` for
    /// standard input. Repeatable.
    #[arg(long, value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    pub(crate) input: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
    /// How to print the policies; `json` is one List, without comments.
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    pub(crate) output: ResourceFormat,
}

/// `--form`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyForm {
    Calico,
    Kubernetes,
}

/// `--types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyTypes {
    Ingress,
    Egress,
    Both,
}

/// How to print resources for `apply`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResourceFormat {
    Yaml,
    Json,
}
