//! One Compose file brings everything up.
//!
//! Inputs: `examples/observability`, the provisioning of `examples/grafana`, the agent's own parser.
//! Outputs: what is mounted exists and is where the programs look for it, addresses agree, the agent has
//! what its unit gives it. With `wiring.rs`, a real engine starts the agent as it stands there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use policy_agent::config::{Cli, Command, Config};
use policy_test::dashboards::prometheus::examples;
use serde::Deserialize;
use serde_json::Value;

const UNIT: &str = include_str!("../../../packaging/systemd/palisade.service");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Project {
    name: String,
    services: BTreeMap<String, Service>,
    volumes: BTreeMap<String, Value>,
}

/// What a service may say here. Another key is an error: it would go untested.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    build: Option<Build>,
    image: String,
    #[serde(default)]
    pub(crate) command: Vec<String>,
    restart: String,
    pub(crate) network_mode: String,
    pub(crate) pid: Option<String>,
    pub(crate) cgroup: Option<String>,
    #[serde(default)]
    pub(crate) cap_drop: Vec<String>,
    #[serde(default)]
    pub(crate) cap_add: Vec<String>,
    #[serde(default)]
    pub(crate) security_opt: Vec<String>,
    #[serde(default)]
    pub(crate) ulimits: BTreeMap<String, i64>,
    stop_grace_period: Option<String>,
    pub(crate) volumes: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    healthcheck: Option<HealthCheck>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    context: PathBuf,
    dockerfile: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthCheck {
    test: Vec<String>,
    #[serde(rename = "interval")]
    _interval: String,
    #[serde(rename = "timeout")]
    _timeout: String,
    #[serde(rename = "start_period")]
    _start_period: String,
}

/// A mount: where from, where to, how.
pub(crate) struct Mount<'a> {
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    pub(crate) how: Option<&'a str>,
}

impl Service {
    pub(crate) fn mounts(&self) -> impl Iterator<Item = Mount<'_>> {
        self.volumes.iter().map(|text| {
            let mut parts = text.split(':');
            let (from, to) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            Mount { from, to, how: parts.next() }
        })
    }

    /// The file of the repository that a path in the container is.
    fn file(&self, inside: &str) -> Result<PathBuf> {
        let mounts = self.mounts().filter(|mount| mount.from.starts_with('.'));
        let mut found = mounts.filter_map(|mount| {
            let rest = Path::new(inside).strip_prefix(mount.to).ok()?;
            Some(folder().join(mount.from).join(rest))
        });
        found.next().with_context(|| format!("{inside} is not mounted"))
    }

    /// A flag of its command.
    fn flag(&self, name: &str) -> Result<&str> {
        let found = self.command.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.with_context(|| format!("no {name}"))
    }
}

fn folder() -> PathBuf {
    examples("observability")
}

fn project() -> Project {
    let text = fs::read_to_string(folder().join("compose.yml")).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

/// The agent as it stands there.
pub(crate) fn agent() -> Service {
    project().services.remove("agent").unwrap()
}

fn configuration(agent: &Service) -> Config {
    let words = ["policy-agent"].into_iter().chain(agent.command.iter().map(String::as_str));
    let Command::Run(options) = Cli::try_parse_from(words).unwrap().command else {
        panic!("{:?}: does not run", agent.command)
    };
    options.resolve().unwrap()
}

fn yaml(path: &Path) -> Value {
    serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_project_has_three_services_that_come_back() {
    let project = project();
    assert_eq!(project.name, "palisade");
    let names: Vec<_> = project.services.keys().map(String::as_str).collect();
    assert_eq!(names, ["agent", "grafana", "prometheus"]);
    let mut volumes = BTreeSet::new();
    for (name, service) in &project.services {
        assert_eq!(service.restart, "always", "{name}");
        // They reach each other on the loopback of the host.
        assert_eq!(service.network_mode, "host", "{name}");
        let (_, tag) = service.image.rsplit_once(':').expect("an image by tag");
        assert!(tag.trim_start_matches('v').starts_with(|it: char| it.is_ascii_digit()), "{tag}");
        for Mount { from, to, how } in service.mounts() {
            assert!(to.starts_with('/'), "{name}: {to}");
            if from.starts_with('.') {
                assert!(folder().join(from).is_dir(), "{name}: {from}");
                assert_eq!(how, Some("ro"), "{name}: {from}");
            } else if !from.starts_with('/') {
                volumes.insert(from.to_owned());
            }
        }
    }
    assert_eq!(volumes, project.volumes.into_keys().collect());
}

#[test]
fn the_image_of_the_agent_is_what_cargo_builds() {
    let agent = agent();
    let build = agent.build.as_ref().unwrap();
    let context = folder().join(&build.context).canonicalize().unwrap();
    assert!(context.join("Cargo.lock").is_file(), "{}", context.display());
    let dockerfile = fs::read_to_string(context.join(&build.dockerfile)).unwrap();
    let instructions: Vec<_> = dockerfile.lines().filter(|line| !line.starts_with('#')).collect();
    let [from, copy, entry, command] = &instructions[..] else { panic!("{instructions:?}") };
    assert!(from.starts_with("FROM debian:"), "{from}");
    let words: Vec<_> = copy.split(' ').collect();
    let ["COPY", programs @ .., to] = &words[..] else { panic!("{copy}") };
    assert_eq!(programs, ["target/release/policy-agent", "target/release/policyctl"]);
    assert_eq!(*entry, format!("ENTRYPOINT [\"{to}policy-agent\"]"));
    assert_eq!(*command, "CMD [\"run\"]");
    let ignored = fs::read_to_string(folder().join("Dockerfile.dockerignore")).unwrap();
    let kept = ignored.lines().filter_map(|line| line.strip_prefix('!'));
    assert!(kept.eq(programs.iter().copied()), "{ignored}");
    let health = &agent.healthcheck.as_ref().unwrap().test;
    assert_eq!(*health, ["CMD", &format!("{to}policyctl"), "status"]);
    assert!(agent.image.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{}", agent.image);
}

#[test]
fn the_agent_has_what_its_unit_gives_it() {
    let agent = agent();
    let unit = |key: &str| {
        let lines = UNIT.lines().filter_map(|line| line.split_once('='));
        lines.filter(|(name, _)| *name == key).map(|(_, value)| value).next().unwrap()
    };
    let bounding: Vec<_> = unit("CapabilityBoundingSet")
        .split(' ')
        .map(|name| name.strip_prefix("CAP_").unwrap())
        // CAP_SYS_ADMIN includes them.
        .filter(|name| !["BPF", "PERFMON"].contains(name))
        .collect();
    assert_eq!(agent.cap_add, bounding);
    assert_eq!(agent.cap_drop, ["ALL"]);
    assert_eq!(agent.security_opt, ["apparmor=unconfined", "no-new-privileges=true"]);
    assert_eq!(unit("NoNewPrivileges"), "yes");
    assert_eq!(unit("LimitMEMLOCK"), "infinity");
    assert_eq!(unit("LimitNOFILE"), agent.ulimits["nofile"].to_string());
    assert_eq!(agent.ulimits["memlock"], -1);
    let stop = agent.stop_grace_period.as_deref().and_then(|time| time.strip_suffix('s'));
    assert_eq!(stop, Some(unit("TimeoutStopSec")));
    assert_eq!(agent.pid.as_deref(), Some("host"));
    assert_eq!(agent.cgroup.as_deref(), Some("host"));
}

#[test]
fn the_agents_folders_are_the_hosts() {
    let agent = agent();
    let config = configuration(&agent);
    let same: Vec<_> = agent.mounts().filter(|it| it.from == it.to).map(|it| it.to).collect();
    assert_eq!(same.len(), agent.volumes.len(), "{same:?}");
    // /var/run leads to /run on every system with systemd, and in the image.
    let engine = config.docker_socket.unwrap();
    let engine = Path::new("/").join(engine.strip_prefix("/var").unwrap());
    for path in [&config.state_dir, &config.policy_dir, &config.socket, &config.bpffs_dir, &engine]
    {
        let held = same.iter().any(|mount| path.starts_with(mount));
        assert!(held, "{} is not the host's: {same:?}", path.display());
    }
    // Namespaces that the engine mounts later come in, too.
    assert!(agent.mounts().any(|it| it.to == "/run" && it.how == Some("rslave")));
}

#[test]
fn prometheus_reads_the_examples_and_scrapes_the_agent() {
    let services = project().services;
    let prometheus = &services["prometheus"];
    let file = prometheus.file(prometheus.flag("--config.file").unwrap()).unwrap();
    let expected = examples("prometheus").join("prometheus.yml").canonicalize().unwrap();
    assert_eq!(file.canonicalize().unwrap(), expected);
    let config = yaml(&file);
    for rules in config["rule_files"].as_array().unwrap() {
        assert!(file.with_file_name(rules.as_str().unwrap()).is_file(), "{rules:?}");
    }
    let target = &config["scrape_configs"][0]["static_configs"][0]["targets"][0];
    let address = configuration(&services["agent"]).metrics_address.to_string();
    assert_eq!(target.as_str(), Some(&*address));
    let data = prometheus.flag("--storage.tsdb.path").unwrap();
    assert!(prometheus.mounts().any(|mount| mount.to == data), "{data} is lost with its container");
}

#[test]
fn grafana_asks_that_prometheus_and_shows_the_dashboards() {
    let services = project().services;
    let (grafana, prometheus) = (&services["grafana"], &services["prometheus"]);
    // Where Grafana's image looks.
    let provisioning =
        |name: &str| yaml(&grafana.file("/etc/grafana/provisioning").unwrap().join(name));
    let source = &provisioning("datasources/prometheus.yml")["datasources"][0];
    assert_eq!(source["type"].as_str(), Some("prometheus"));
    assert_eq!(source["isDefault"].as_bool(), Some(true));
    let address = prometheus.flag("--web.listen-address").unwrap();
    assert_eq!(source["url"].as_str(), Some(&*format!("http://{address}")));
    let config = yaml(&examples("prometheus").join("prometheus.yml"));
    assert_eq!(source["jsonData"]["timeInterval"], config["global"]["scrape_interval"]);

    let provider = &provisioning("dashboards/palisade.yml")["providers"][0];
    assert_eq!(provider["type"].as_str(), Some("file"));
    let path = grafana.file(provider["options"]["path"].as_str().unwrap()).unwrap();
    assert_eq!(path.canonicalize().unwrap(), examples("grafana").canonicalize().unwrap());
    let home = &grafana.environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    let home = grafana.file(home).unwrap();
    assert_eq!(home.file_name(), Some("palisade-overview.json".as_ref()));
    assert!(home.is_file());
    // Nobody from outside looks in.
    assert_eq!(grafana.environment["GF_SERVER_HTTP_ADDR"], "127.0.0.1");
    assert!(address.starts_with("127.0.0.1:"));
    assert!(configuration(&services["agent"]).metrics_address.ip().is_loopback());
}
