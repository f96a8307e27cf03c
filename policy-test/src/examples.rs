//! The example policies and the tables of what they must do.
//!
//! Inputs: a folder with policies and `tests/expected.yaml`. Outputs: a [`Table`], the resources,
//! and the [`Model`] that both make together.
//!
//! The table lies in a folder of its own, because `policyctl apply -f` takes every YAML file of a
//! folder, but not those of folders in it.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use policy_api::{
    messages::{Explanation, RuleName, Verdict},
    yaml,
};
use policy_core::{
    labels::endpoint_labels,
    model::{EndpointId, EndpointSpec, Model, NamedPort},
    validate::{self, Object},
};
use serde::{Deserialize, de};

/// The end of a row that is the host.
pub const HOST: &str = "host";
/// Interface index of a table's first endpoint; the uplinks' begin at 1.
const FIRST_ENDPOINT: u32 = 100;

/// `examples/policies` of this repository.
///
/// # Errors
/// If this crate lies elsewhere than it was built.
pub fn folder() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a crate of a workspace")?;
    Ok(root.join("examples/policies"))
}

/// Who there is, and what must become of each connection.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Containers.
    pub endpoints: Vec<Endpoint>,
    /// The host's own addresses.
    #[serde(default)]
    pub host: Vec<IpAddr>,
    /// Uplinks with the XDP program, by interface name.
    #[serde(default)]
    pub uplinks: Vec<String>,
    /// One row for each connection.
    pub verdicts: Vec<Row>,
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
    pub labels: BTreeMap<String, String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Named ports.
    #[serde(default)]
    pub ports: Vec<Port>,
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
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Who connects: an endpoint, [`HOST`], or an address.
    pub from: String,
    /// To whom.
    pub to: String,
    /// To which port.
    pub port: Service,
    /// What must become of it.
    pub verdict: Verdict,
    /// What must decide, as [`decider`] puts it; absent if neither end is enforced.
    #[serde(default)]
    pub by: Option<String>,
}

/// A port and its protocol, `5432/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// IP protocol number.
    pub protocol: u8,
    /// Port.
    pub port: u16,
}

impl FromStr for Service {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (port, protocol) = text.split_once('/').context("a port is written 80/tcp")?;
        let protocol = match protocol {
            "tcp" => 6,
            "udp" => 17,
            other => bail!("{other}: the tables know tcp and udp"),
        };
        Ok(Self { protocol, port: port.parse().with_context(|| format!("{text}: no port"))? })
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = if self.protocol == 6 { "tcp" } else { "udp" };
        write!(f, "{}/{protocol}", self.port)
    }
}

impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| de::Error::custom(format!("{error:#}")))
    }
}

impl Table {
    /// Reads the table of a folder of policies.
    ///
    /// # Errors
    /// If there is none, or it is not one.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tests/expected.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        serde_yaml::from_str(&text).with_context(|| format!("in {}", path.display()))
    }

    /// The table's endpoints under `objects`.
    ///
    /// # Errors
    /// If an object belongs to no example.
    pub fn model(&self, objects: Vec<Object>) -> Result<Model> {
        let mut model =
            Model { host_addresses: self.host.iter().copied().collect(), ..Model::default() };
        for object in objects {
            match object {
                Object::Policy(policy) => {
                    model.policies.insert(policy.key.clone(), policy);
                }
                Object::NetworkSet(set) => {
                    let key = (set.namespace.clone(), set.name.clone());
                    model.network_sets.insert(key, set);
                }
                Object::Namespace { name, labels } => {
                    model.namespaces.insert(name, labels);
                }
                Object::Tier(tier) => {
                    model.tiers.insert(tier.name.clone(), tier);
                }
                other => bail!("{}: endpoints belong in the table", other.resource_name().name),
            }
        }
        for (ifindex, endpoint) in (FIRST_ENDPOINT..).zip(&self.endpoints) {
            let id = EndpointId(format!("{}/{}", endpoint.namespace, endpoint.name));
            model.endpoints.insert(id, Arc::new(endpoint.spec(ifindex)));
        }
        for (ifindex, name) in (1..).zip(&self.uplinks) {
            // As the agent labels them.
            let labels = [("palisade.io/host", ""), ("palisade.io/interface", name)];
            model.uplinks.insert(ifindex, labels.into_iter().collect());
        }
        Ok(model)
    }

    /// The endpoints as the agent can be told of them where no engine does, as YAML: each on the
    /// interface that a lab's workload of its name has.
    ///
    /// # Errors
    /// If an endpoint has named ports, which no lab needs yet.
    pub fn workload_endpoints(&self) -> Result<String> {
        let resource = |endpoint: &Endpoint| {
            ensure!(endpoint.ports.is_empty(), "{}: named ports", endpoint.name);
            let networks: Vec<String> = endpoint
                .addresses
                .iter()
                .map(|address| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }))
                .collect();
            // JSON is YAML, too.
            let resource = serde_json::json!({
                "apiVersion": "projectcalico.org/v3",
                "kind": "WorkloadEndpoint",
                "metadata": {
                    "name": endpoint.name,
                    "namespace": endpoint.namespace,
                    "labels": endpoint.labels,
                },
                "spec": {
                    "interfaceName": format!("veth-{}", endpoint.name),
                    "ipNetworks": networks,
                },
            });
            Ok(format!("{resource}\n"))
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
    fn spec(&self, ifindex: u32) -> EndpointSpec {
        let own = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let ports = self.ports.iter().map(|named| NamedPort {
            name: named.name.clone(),
            protocol: named.port.protocol,
            port: named.port.port,
        });
        EndpointSpec {
            ifindex,
            interface: format!("veth{ifindex}"),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            network: String::new(),
            labels: endpoint_labels(own, &self.namespace, &self.name, "docker"),
            addresses: self.addresses.clone(),
            mac: None,
            ports: ports.collect(),
            bridge: None,
            adopt_until_ns: 0,
        }
    }
}

/// The policies of a folder, in the order in which `policyctl apply -f` takes them.
///
/// # Errors
/// If one of them is not accepted, with everything that is wrong.
pub fn policies(folder: &Path) -> Result<Vec<Object>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("list {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort_unstable();
    ensure!(!files.is_empty(), "{} has no policies", folder.display());
    let mut objects = Vec::new();
    for file in files {
        let shown = file.display().to_string();
        let refused = |diagnostics: Vec<policy_api::diagnostic::Diagnostic>| {
            let lines: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{shown}: {}", lines.join("\n"))
        };
        for document in yaml::read(&shown, &fs::read(&file)?).map_err(refused)? {
            objects.push(validate::decode(&document.value).map_err(refused)?);
        }
    }
    Ok(objects)
}

/// What decided, as the tables write it: for a denial the first end that denies, for a permission
/// the last end that is enforced. `None` if nothing is enforced at either end.
#[must_use]
pub fn decider(explanation: &Explanation) -> Option<String> {
    // An end that is no endpoint has no rule.
    let decided = |rule: &&RuleName| !rule.rule.is_empty();
    let path = explanation.paths.first()?;
    let rules = path.ends.iter().filter(|end| end.verdict == path.verdict).map(|end| &end.rule);
    let mut rules = rules.filter(decided);
    let rule = match path.verdict {
        Verdict::Deny => rules.next(),
        Verdict::Allow => rules.next_back(),
    };
    rule.map(rule_text)
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
