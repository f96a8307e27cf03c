//! Settings: flags over the YAML configuration file over defaults.
//!
//! Every key of the file is a flag of the same name, so that several agents can run side by side.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use policy_common::abi::Direction;
use policy_core::{
    host::{Failsafe, Published},
    model::{DefaultAction, Settings},
};
use serde::Deserialize;

use crate::{
    flow_log::{FlowLog, Omit},
    history,
    kernel::load::Sizes,
    metrics::Bounds,
};

mod flow_log;
mod ports;

/// Bounds of `--metrics-series`: fewer tell nothing, more are a Prometheus of their own.
const SERIES: RangeInclusive<usize> = 100..=1_000_000;
/// A minute is what Prometheus scrapes at by default.
const SHORTEST_EXPIRY: Duration = Duration::from_secs(60);

/// Bounds of `--history-size`, MiB, and of `--history-age`.
const MOST_HISTORY: u64 = 1024 * 1024;
const SHORTEST_HISTORY: Duration = Duration::from_secs(60);

/// Palisade's host daemon: fences every container by policy.
#[derive(Debug, Parser)]
#[command(name = "policy-agent", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enforce until told to stop; enforcement goes on after that.
    Run(Options),
    /// Take everything off this host: programs, maps, pins. Containers are open then.
    Unload(Options),
}

/// Flags and configuration file, field by field the same.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// YAML file with these same keys; flags win over it.
    #[arg(long, value_name = "FILE", env = "PALISADE_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Where applied resources are kept [default: /var/lib/palisade].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Declarative policies; these win over applied ones [default: /etc/palisade/policies.d].
    #[arg(long, value_name = "DIR")]
    pub policy_dir: Option<PathBuf>,
    /// Unix socket of the API [default: /run/palisade/agent.sock].
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Where maps and links are pinned [default: /sys/fs/bpf/palisade].
    #[arg(long, value_name = "DIR")]
    pub bpffs_dir: Option<PathBuf>,
    /// Address of the Prometheus metrics [default: 127.0.0.1:9465].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_address: Option<SocketAddr>,
    /// Docker Engine's socket, or `none` [default: unix:///var/run/docker.sock].
    #[arg(long, value_name = "URL")]
    pub docker_host: Option<String>,
    /// For endpoints that no policy selects [default: allow].
    #[arg(long, value_enum)]
    pub default_action: Option<DefaultActionOption>,
    /// Whether the host's own addresses are subject to policy [default: policy].
    #[arg(long, value_enum)]
    pub host_access: Option<HostAccess>,
    /// Interface for the XDP block lists; may be given several times.
    #[arg(long = "uplink", value_name = "INTERFACE")]
    #[serde(rename = "uplinks")]
    pub uplinks: Option<Vec<String>>,
    /// Name of this host in the `node` of HostEndpoints [default: its host name].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Port that host endpoints leave open to the outside, such as tcp:22, udp:10.0.0.0/8:53 or
    /// none; may be given several times [default: tcp:22, udp:68, udp:[fe80::/10]:546].
    #[arg(long = "failsafe-inbound-port", value_name = "PORT")]
    #[serde(rename = "failsafe-inbound-ports")]
    pub failsafe_inbound_ports: Option<Vec<String>>,
    /// The same for ports of others that the host reaches [default: udp:53, udp:67,
    /// udp:[ff02::1:2]:547].
    #[arg(long = "failsafe-outbound-port", value_name = "PORT")]
    #[serde(rename = "failsafe-outbound-ports")]
    pub failsafe_outbound_ports: Option<Vec<String>>,
    /// Port of the host that rules other than Docker's translate, such as tcp:8080:80; may be given
    /// several times.
    #[arg(long = "published-port", value_name = "PORT")]
    #[serde(rename = "published-ports")]
    pub published_ports: Option<Vec<String>>,
    /// Bridge to manage besides Docker's own; may be given several times.
    #[arg(long = "bridge", value_name = "INTERFACE")]
    #[serde(rename = "bridges")]
    pub bridges: Option<Vec<String>>,
    /// Manage only the bridges named by --bridge, not every bridge of the Docker Engine: for a
    /// first try on a host whose other containers should not notice.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub only_bridges: Option<bool>,
    /// How programs hang on interfaces; one that has programs keeps its way [default: clsact].
    #[arg(long, value_enum)]
    pub attachment: Option<Attachment>,
    /// IPv4 connections that fit [default: 262144].
    #[arg(long, value_name = "ENTRIES")]
    pub conntrack_v4: Option<u32>,
    /// IPv6 connections that fit [default: 65536].
    #[arg(long, value_name = "ENTRIES")]
    pub conntrack_v6: Option<u32>,
    /// Whether flows that are let through get records, and their bytes are counted [default: true].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub flow_records: Option<bool>,
    /// Series of each metric that are told apart [default: 10000].
    #[arg(long, value_name = "NUMBER")]
    pub metrics_series: Option<usize>,
    /// For how long those of containers and policies that are gone stay [default: 1h].
    #[arg(long, value_name = "AGE")]
    pub metrics_expiry: Option<String>,
    /// MiB of what `observe --since` reads, in the state directory; 0: nothing is kept [default: 512].
    #[arg(long, value_name = "MIB")]
    pub history_size: Option<u64>,
    /// Age at which that goes, such as 12h or 7days [default: 7days].
    #[arg(long, value_name = "AGE")]
    pub history_age: Option<String>,
    /// File for what `observe` shows, one JSON object a line [default: none].
    #[arg(long, value_name = "FILE")]
    pub flow_log: Option<PathBuf>,
    /// MiB after which that file is turned over [default: 64].
    #[arg(long, value_name = "MIB")]
    pub flow_log_size: Option<u64>,
    /// Age at which it is turned over, such as 12h or 1day [default: 1day].
    #[arg(long, value_name = "AGE")]
    pub flow_log_age: Option<String>,
    /// Files that stay beside it [default: 16].
    #[arg(long, value_name = "NUMBER")]
    pub flow_log_files: Option<usize>,
    /// Records that it gets, as `observe` has them: from-namespace=shop, "not reason=policy"; may be
    /// given several times [default: all].
    #[arg(long = "flow-log-filter", value_name = "FILTER")]
    #[serde(rename = "flow-log-filters")]
    pub flow_log_filters: Option<Vec<String>>,
    /// What it does not get of a record; may be given several times [default: nothing].
    #[arg(long, value_enum, value_name = "PART")]
    pub flow_log_omit: Option<Vec<Omit>>,
    /// Whether files that are turned over are compressed with zstd [default: false].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub flow_log_compress: Option<bool>,
    /// Form of the log on standard error [default: text].
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormat>,
}

/// `--default-action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DefaultActionOption {
    /// Everything passes, as in Kubernetes.
    Allow,
    /// Nothing passes: zero trust.
    Deny,
}

/// `--host-access`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum HostAccess {
    /// The host is a peer like any other.
    Policy,
    /// Traffic from the host into an endpoint always passes, as in Kubernetes.
    Allow,
}

/// `--attachment`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Attachment {
    /// clsact filters: on every kernel, and on an interface within a millisecond. Replaced in place
    /// when the agent is upgraded; whoever is root and deletes the qdisc deletes them.
    #[default]
    Clsact,
    /// TCX links (Linux 6.6): nobody's `tc` can remove them. Each attachment holds the kernel's
    /// network lock for an RCU grace period, 10 ms and more, so a burst of container starts waits.
    Tcx,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Everything resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// See [`Options::state_dir`].
    pub state_dir: PathBuf,
    /// See [`Options::policy_dir`].
    pub policy_dir: PathBuf,
    /// See [`Options::socket`].
    pub socket: PathBuf,
    /// See [`Options::bpffs_dir`].
    pub bpffs_dir: PathBuf,
    /// See [`Options::metrics_address`].
    pub metrics_address: SocketAddr,
    /// Path of the engine's socket, `None` for no Docker.
    pub docker_socket: Option<PathBuf>,
    /// Settings that change verdicts.
    pub policy: Settings,
    /// See [`Options::uplinks`].
    pub uplinks: Vec<String>,
    /// See [`Options::node_name`].
    pub node_name: String,
    /// See [`Options::failsafe_inbound_ports`] and [`Options::failsafe_outbound_ports`].
    pub failsafe: BTreeSet<Failsafe>,
    /// See [`Options::published_ports`].
    pub published: BTreeMap<Published, u16>,
    /// See [`Options::bridges`].
    pub bridges: Vec<String>,
    /// See [`Options::only_bridges`].
    pub only_bridges: bool,
    /// See [`Options::attachment`].
    pub attachment: Attachment,
    /// Map sizes.
    pub sizes: Sizes,
    /// See [`Options::flow_records`].
    pub flow_records: bool,
    /// See [`Options::metrics_series`] and [`Options::metrics_expiry`].
    pub metrics: Bounds,
    /// See [`Options::history_size`] and [`Options::history_age`].
    pub history: Option<history::Bounds>,
    /// See [`Options::flow_log`], and those below.
    pub flow_log: Option<FlowLog>,
    /// See [`Options::log_format`].
    pub log_format: LogFormat,
}

impl Options {
    /// Reads the configuration file, if one is named, and fills in the defaults.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or a value cannot be used.
    pub fn resolve(self) -> Result<Config> {
        let file = match &self.config {
            None => Options::default(),
            Some(path) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("reading the configuration {}", path.display()))?;
                serde_yaml::from_str(&text)
                    .with_context(|| format!("in the configuration {}", path.display()))?
            }
        };
        let path = |flag: Option<PathBuf>, key: Option<PathBuf>, default: &str| {
            flag.or(key).unwrap_or_else(|| PathBuf::from(default))
        };
        let sizes = Sizes::default();
        let sizes = Sizes {
            conntrack_v4: self.conntrack_v4.or(file.conntrack_v4).unwrap_or(sizes.conntrack_v4),
            conntrack_v6: self.conntrack_v6.or(file.conntrack_v6).unwrap_or(sizes.conntrack_v6),
        };
        if sizes.conntrack_v4 < 1024 || sizes.conntrack_v6 < 1024 {
            bail!("conntrack-v4 and conntrack-v6 must be at least 1024");
        }
        let inbound = self.failsafe_inbound_ports.or(file.failsafe_inbound_ports);
        let outbound = self.failsafe_outbound_ports.or(file.failsafe_outbound_ports);
        let mut failsafe = ports::failsafe(Direction::Ingress, inbound.as_deref())?;
        failsafe.extend(ports::failsafe(Direction::Egress, outbound.as_deref())?);
        let mut published = BTreeMap::new();
        for text in self.published_ports.or(file.published_ports).unwrap_or_default() {
            published.extend(ports::published(&text)?);
        }
        let flow_log = flow_log::resolve(flow_log::Given {
            path: self.flow_log.or(file.flow_log),
            size: self.flow_log_size.or(file.flow_log_size),
            age: self.flow_log_age.or(file.flow_log_age),
            files: self.flow_log_files.or(file.flow_log_files),
            filters: self.flow_log_filters.or(file.flow_log_filters),
            omit: self.flow_log_omit.or(file.flow_log_omit),
            compress: self.flow_log_compress.or(file.flow_log_compress),
        })?;
        let metrics = metrics(
            self.metrics_series.or(file.metrics_series),
            self.metrics_expiry.or(file.metrics_expiry).as_deref(),
        )?;
        Ok(Config {
            flow_records: self.flow_records.or(file.flow_records).unwrap_or(true),
            metrics,
            history: history(
                self.history_size.or(file.history_size),
                self.history_age.or(file.history_age).as_deref(),
            )?,
            flow_log,
            node_name: node_name(self.node_name.or(file.node_name))?,
            failsafe: failsafe.into_iter().collect(),
            published,
            state_dir: path(self.state_dir, file.state_dir, "/var/lib/palisade"),
            policy_dir: path(self.policy_dir, file.policy_dir, "/etc/palisade/policies.d"),
            socket: path(self.socket, file.socket, "/run/palisade/agent.sock"),
            bpffs_dir: path(self.bpffs_dir, file.bpffs_dir, "/sys/fs/bpf/palisade"),
            metrics_address: self
                .metrics_address
                .or(file.metrics_address)
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9465))),
            docker_socket: docker_socket(self.docker_host.or(file.docker_host).as_deref())?,
            policy: Settings {
                default_action: match self.default_action.or(file.default_action) {
                    None | Some(DefaultActionOption::Allow) => DefaultAction::Allow,
                    Some(DefaultActionOption::Deny) => DefaultAction::Deny,
                },
                host_access: self.host_access.or(file.host_access) == Some(HostAccess::Allow),
            },
            uplinks: self.uplinks.or(file.uplinks).unwrap_or_default(),
            bridges: self.bridges.or(file.bridges).unwrap_or_default(),
            attachment: self.attachment.or(file.attachment).unwrap_or_default(),
            only_bridges: self.only_bridges.or(file.only_bridges).unwrap_or(false),
            sizes,
            log_format: self.log_format.or(file.log_format).unwrap_or(LogFormat::Text),
        })
    }
}

/// Bounds of the number of series.
fn metrics(series: Option<usize>, expiry: Option<&str>) -> Result<Bounds> {
    let series = series.unwrap_or(10_000);
    if !SERIES.contains(&series) {
        bail!("metrics-series must be {} to {}", SERIES.start(), SERIES.end());
    }
    let expiry = expiry.unwrap_or("1h");
    let expiry = humantime::parse_duration(expiry)
        .with_context(|| format!("metrics-expiry {expiry:?}: write 10min or 1h"))?;
    if expiry < SHORTEST_EXPIRY {
        bail!("metrics-expiry must be at least a minute, or a scrape may miss the last numbers");
    }
    Ok(Bounds { series, expiry })
}

/// Bounds of the history, if there is to be one.
fn history(size: Option<u64>, age: Option<&str>) -> Result<Option<history::Bounds>> {
    let size = size.unwrap_or(512);
    if size > MOST_HISTORY {
        bail!("history-size must be at most {MOST_HISTORY} MiB, and 0 for none");
    }
    let age = age.unwrap_or("7days");
    let age = humantime::parse_duration(age)
        .with_context(|| format!("history-age {age:?}: write 12h or 7days"))?;
    if age < SHORTEST_HISTORY {
        bail!("history-age must be at least a minute");
    }
    Ok((size > 0).then_some(history::Bounds { size: size * 1024 * 1024, age }))
}

/// The name given, else the host's, in lower case: that is how Kubernetes and Calico name nodes.
fn node_name(given: Option<String>) -> Result<String> {
    let name = match given {
        Some(name) if name.is_empty() => bail!("node-name is empty: write a name, or leave it out"),
        Some(name) => name,
        None => nix::sys::utsname::uname()
            .context("reading the host name")?
            .nodename()
            .to_str()
            .context("the host name is no text: write node-name")?
            .to_owned(),
    };
    Ok(name.to_lowercase())
}

fn docker_socket(host: Option<&str>) -> Result<Option<PathBuf>> {
    match host.unwrap_or("unix:///var/run/docker.sock") {
        "none" => Ok(None),
        url => match url.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(Some(PathBuf::from(path))),
            _ => bail!(
                "docker-host {url:?} cannot be used: write unix:///path/to/docker.sock, or none \
                 (the agent must run on the engine's own host)"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "state-dir: /a\nsocket: /b\ndefault-action: deny\n").unwrap();
        let options = Options {
            config: Some(file.path().to_owned()),
            socket: Some("/c".into()),
            ..Options::default()
        };
        let config = options.resolve().unwrap();
        assert_eq!(config.state_dir, PathBuf::from("/a"));
        assert_eq!(config.socket, PathBuf::from("/c"));
        assert_eq!(config.policy.default_action, DefaultAction::Deny);
        assert_eq!(config.metrics_address.port(), 9465);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "sockett: /b\n").unwrap();
        let options = Options { config: Some(file.path().to_owned()), ..Options::default() };
        let error = format!("{:#}", options.resolve().unwrap_err());
        assert!(error.contains("sockett"), "{error}");
    }

    #[test]
    fn a_docker_host_is_a_unix_socket_or_none() {
        assert_eq!(docker_socket(Some("none")).unwrap(), None);
        assert_eq!(docker_socket(Some("unix:///x")).unwrap(), Some(PathBuf::from("/x")));
        assert!(docker_socket(Some("tcp://10.0.0.1:2375")).is_err());
    }
}
