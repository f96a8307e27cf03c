//! Tables of what policies must do, in one format for three rings.
//!
//! Inputs: YAML: endpoints, policies, one row for each connection, and steps that change some of
//! it while everything runs. Outputs: a [`Table`]; three runners that hold it against what decides:
//! [`core`] (the evaluator and the compiled maps), [`programs`] (the kernel programs by
//! `BPF_PROG_TEST_RUN`), [`sockets`] (an agent, interfaces, packets of real sockets).
//!
//! A row that the third ring cannot express says why, in `without-sockets`; nothing else leaves one out.

pub mod core;
pub mod fields;
mod frames;
mod probes;
pub mod programs;
mod service;
mod slots;
pub mod sockets;
mod world;

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result, ensure};
use policy_agent::observer::protocol_name;
use policy_api::messages::{Explanation, RuleName, Verdict};
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub use service::Service;
pub use world::{Attempt, Change, World};

/// The end of a row that is the host.
pub const HOST: &str = "host";
/// The host's name in HostEndpoints.
pub const NODE: &str = "gateway";

/// Who there is, and what must become of each connection.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Settings of the agent.
    #[serde(default)]
    pub settings: Settings,
    /// Containers.
    pub endpoints: Vec<Endpoint>,
    /// The host's own addresses.
    #[serde(default)]
    pub host: Vec<IpAddr>,
    /// Interfaces to everybody else, by name: with the XDP program, and with those of host endpoints
    /// if a HostEndpoint of the node [`NODE`] is about them.
    #[serde(default)]
    pub uplinks: Vec<String>,
    /// Ports of the host whose connections go to a container.
    #[serde(default)]
    pub published: Vec<PublishedPort>,
    /// Resources that are there all the time, as YAML documents.
    #[serde(default)]
    pub policies: String,
    /// One row for each connection.
    #[serde(default)]
    pub verdicts: Vec<Row>,
    /// What happens then, one after the other.
    #[serde(default)]
    pub steps: Vec<Step>,
}

/// What an agent is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// `--default-action`.
    #[serde(default)]
    pub default_action: Action,
    /// `--host-access allow`.
    #[serde(default)]
    pub host_access: HostAccess,
    /// `--failsafe-inbound-port`, absent: the default.
    #[serde(default)]
    pub failsafe_inbound_ports: Option<Vec<String>>,
    /// `--failsafe-outbound-port`.
    #[serde(default)]
    pub failsafe_outbound_ports: Option<Vec<String>>,
}

/// A port of the host that is a container's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// The host's port.
    pub port: Service,
    /// The container.
    pub to: String,
    /// Its port, of the same protocol.
    pub at: u16,
}

impl PublishedPort {
    /// As `--published-port` takes it.
    ///
    /// # Errors
    /// If its protocol is none that ports are translated for.
    pub fn flag(&self) -> Result<String> {
        let (port, protocol) = (self.port.port, protocol_name(self.port.protocol));
        ensure!(["tcp", "udp"].contains(&protocol.as_str()), "{}: tcp or udp", self.port);
        Ok(format!("{protocol}:{port}:{}", self.at))
    }
}

/// `--default-action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// As without the flag.
    #[default]
    Allow,
    /// Zero trust.
    Deny,
}

/// `--host-access`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostAccess {
    /// As without the flag.
    #[default]
    Policy,
    /// The host reaches its containers.
    Allow,
}

/// A container of a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Labels as its owner wrote them.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Named ports.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Further fields of the WorkloadEndpoint's `spec`.
    #[serde(default)]
    pub spec: Map<String, Value>,
}

/// A named port of a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Name.
    pub name: String,
    /// What it stands for.
    pub port: Service,
}

/// A connection and its verdict.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Row {
    /// Who connects: an endpoint, [`HOST`], or an address.
    pub from: String,
    /// To whom.
    pub to: String,
    /// To which port.
    pub port: Service,
    /// From which port; absent: from one that a system chooses.
    #[serde(default)]
    pub source_port: Option<u16>,
    /// What must become of it.
    pub verdict: Verdict,
    /// What must decide, as [`decider`] puts it; absent if neither end is enforced.
    #[serde(default)]
    pub by: Option<String>,
    /// The Log rules that it comes past, in order.
    #[serde(default)]
    pub logged: Vec<String>,
    /// What would become of it with every staged policy in force; absent if none of them changes
    /// what applies at either end.
    #[serde(default)]
    pub staged: Option<Staged>,
    /// Why no socket can express it.
    #[serde(default)]
    pub without_sockets: Option<String>,
}

/// What staged policies would do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Staged {
    /// What would become of a connection.
    pub verdict: Verdict,
    /// What would decide.
    #[serde(default)]
    pub by: Option<String>,
}

/// A change while everything runs, and what holds from then on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What it shows.
    pub name: String,
    /// Replaces all resources but those of the table itself.
    #[serde(default)]
    pub policies: Option<String>,
    /// Adds or replaces resources.
    #[serde(default)]
    pub apply: String,
    /// Deletes resources, each written as far as its name.
    #[serde(default)]
    pub delete: String,
    /// Containers that go. One with the same address may come in the same step.
    #[serde(default)]
    pub gone: Vec<String>,
    /// Containers that come, or come back as others under the same name.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// What holds now.
    #[serde(default)]
    pub verdicts: Vec<Row>,
    /// What is refused now, and changes nothing.
    #[serde(default)]
    pub refused: Vec<Refused>,
}

/// A resource that is refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// One YAML document.
    pub resource: String,
    /// The field that a diagnostic names.
    pub at: String,
    /// Part of what it says, with its hint.
    pub says: String,
}

impl Table {
    /// Reads a table.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        serde_yaml::from_str(&text).with_context(|| format!("in {}", path.display()))
    }

    /// The beginning, as a step, and then the steps.
    pub fn phases(&self) -> impl Iterator<Item = Step> {
        let beginning = Step {
            name: "beginning".to_owned(),
            policies: None,
            apply: String::new(),
            delete: String::new(),
            gone: Vec::new(),
            endpoints: Vec::new(),
            verdicts: self.verdicts.clone(),
            refused: Vec::new(),
        };
        std::iter::once(beginning).chain(self.steps.iter().cloned())
    }

    /// The endpoints as the agent can be told of them where no engine does, as YAML: each on the
    /// interface that a lab's workload of its name has.
    ///
    /// # Errors
    /// If an endpoint has named ports of protocols that no endpoint can have.
    pub fn workload_endpoints(&self) -> Result<String> {
        let resource = |endpoint: &Endpoint| {
            // JSON is YAML, too.
            Ok(format!("{}\n", endpoint.resource(&format!("veth-{}", endpoint.name))?))
        };
        let resources: Vec<String> = self.endpoints.iter().map(resource).collect::<Result<_>>()?;
        Ok(resources.join("---\n"))
    }

    /// The row about one connection, by the names that the table gives.
    ///
    /// # Errors
    /// If the table does not say.
    pub fn row(&self, from: &str, to: &str, service: Service) -> Result<&Row> {
        self.verdicts
            .iter()
            .find(|row| (row.from.as_str(), row.to.as_str(), row.port) == (from, to, service))
            .with_context(|| format!("the table has no row {from} -> {to} {service}"))
    }

    /// The texts that [`policy_core::explain`] takes for one end of a row.
    #[must_use]
    pub fn ends(&self, name: &str) -> Vec<String> {
        if name == HOST {
            return self.host.iter().map(ToString::to_string).collect();
        }
        vec![name.to_owned()]
    }
}

impl Endpoint {
    /// Its WorkloadEndpoint, on an interface.
    ///
    /// # Errors
    /// If a named port is of a protocol that has no ports.
    pub fn resource(&self, interface: &str) -> Result<Value> {
        let networks: Vec<String> = self
            .addresses
            .iter()
            .map(|address| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }))
            .collect();
        let port = |port: &Port| {
            let protocol = match port.port.protocol {
                6 => "TCP",
                17 => "UDP",
                132 => "SCTP",
                other => anyhow::bail!("{}: protocol {other} has no ports", port.name),
            };
            Ok(json!({"name": port.name, "protocol": protocol, "port": port.port.port}))
        };
        let ports: Vec<Value> = self.ports.iter().map(port).collect::<Result<_>>()?;
        let mut spec = self.spec.clone();
        for (field, value) in [("interfaceName", json!(interface)), ("ipNetworks", json!(networks))]
        {
            let before = spec.insert(field.to_owned(), value);
            ensure!(before.is_none(), "{}: {field} is the runner's to say", self.name);
        }
        if !ports.is_empty() {
            spec.insert("ports".to_owned(), Value::Array(ports));
        }
        Ok(json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "WorkloadEndpoint",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "labels": self.labels,
            },
            "spec": spec,
        }))
    }
}

/// What decided, as the tables write it: for a denial the first end that denies, for a permission
/// the last end that is enforced. `None` if nothing is enforced at either end.
#[must_use]
pub fn decider(explanation: &Explanation) -> Option<String> {
    let path = explanation.paths.first()?;
    combine(path.ends.iter().map(|end| (end.verdict, &end.rule))).1
}

/// What two ends make of a connection.
fn combine<'a>(
    ends: impl Iterator<Item = (Verdict, &'a RuleName)> + Clone,
) -> (Verdict, Option<String>) {
    let mut denials = ends.clone().filter(|(verdict, _)| *verdict == Verdict::Deny);
    if let Some((verdict, rule)) = denials.next() {
        return (verdict, Some(rule_text(rule)));
    }
    // An end that is no endpoint has no rule.
    let last = ends.filter(|(_, rule)| !rule.rule.is_empty()).last();
    (Verdict::Allow, last.map(|(_, rule)| rule_text(rule)))
}

/// `namespace/policy ingress[0]`, `policy egress[1]` for a global one, or a default's name.
#[must_use]
pub fn rule_text(rule: &RuleName) -> String {
    match (rule.namespace.as_str(), rule.policy.as_str()) {
        (_, "") => rule.rule.clone(),
        ("", policy) => format!("{policy} {}", rule.rule),
        (namespace, policy) => format!("{namespace}/{policy} {}", rule.rule),
    }
}
