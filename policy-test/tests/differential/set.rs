//! A policy set: settings, the host's addresses, and documents as their authors wrote them.
//!
//! In: the agent's own reader. Out: the model that the compiler and the reference evaluator read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use anyhow::{Result, anyhow, bail, ensure};
use policy_api::{diagnostic::Diagnostic, yaml};
use policy_common::abi::Direction;
use policy_core::{
    host::{self, Failsafe, HostInterface, Plane, Published},
    identity,
    model::{DefaultAction, EndpointId, EndpointSpec, Model, Settings},
    validate::{self, Object},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::generate::{NODE, UPLINK};

/// Everything that decides what a packet meets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PolicySet {
    /// `Allow` or `Deny`.
    pub(crate) default_action: String,
    pub(crate) host_access: bool,
    /// The host's own addresses.
    pub(crate) host: Vec<IpAddr>,
    /// Ports that a host endpoint leaves open.
    #[serde(default)]
    pub(crate) failsafe: Vec<Safe>,
    /// Ports of the host that are passed on.
    #[serde(default)]
    pub(crate) published: Vec<Translated>,
    pub(crate) resources: Vec<Value>,
}

/// A port that is left open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Safe {
    /// Into the host, or out of it.
    pub(crate) inbound: bool,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    /// Of the other side, if it is not everybody's.
    pub(crate) net: Option<String>,
}

/// A port of the host, on each of its addresses, and the one that it is translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Translated {
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) to: u16,
}

impl Default for PolicySet {
    fn default() -> Self {
        PolicySet {
            default_action: "Allow".to_owned(),
            host_access: false,
            host: Vec::new(),
            failsafe: Vec::new(),
            published: Vec::new(),
            resources: Vec::new(),
        }
    }
}

impl PolicySet {
    /// What the documents mean; `ifindex` gives the index of an interface.
    ///
    /// # Errors
    /// If one of them is refused, or needs what is not there.
    pub(crate) fn model(&self, ifindex: &dyn Fn(&str) -> Result<u32>) -> Result<Model> {
        let objects: Vec<Object> = self
            .resources
            .iter()
            .map(|value| {
                validate::decode(value).map_err(|errors| anyhow!("{value}\n{}", lines(&errors)))
            })
            .collect::<Result<_>>()?;
        let dangling = validate::references(objects.iter());
        ensure!(dangling.is_empty(), "{dangling:?}");
        let default_action = match self.default_action.as_str() {
            "Allow" => DefaultAction::Allow,
            "Deny" => DefaultAction::Deny,
            other => bail!("{other} is no default action"),
        };
        let mut model = Model {
            settings: Settings { default_action, host_access: self.host_access },
            host_addresses: self.host.iter().copied().collect(),
            uplinks: BTreeMap::from([(ifindex(UPLINK)?, identity::uplink_labels(UPLINK))]).into(),
            ..Model::default()
        };
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
                Object::WorkloadEndpoint(endpoint) => {
                    let spec = EndpointSpec {
                        ifindex: ifindex(&endpoint.interface)?,
                        interface: endpoint.interface,
                        name: endpoint.name,
                        namespace: endpoint.namespace,
                        network: String::new(),
                        labels: endpoint.labels,
                        addresses: endpoint.addresses,
                        mac: endpoint.mac,
                        ports: endpoint.ports,
                        bridge: None,
                        adopt_until_ns: 0,
                        plane: Plane::Workload,
                    };
                    model.endpoints.insert(id(&spec.interface), Arc::new(spec));
                }
                Object::HostEndpoint(endpoint) => {
                    model.host_endpoints.insert(endpoint.name.clone(), endpoint);
                }
            }
        }
        self.govern(&mut model, ifindex(UPLINK)?)?;
        Ok(model)
    }

    /// Adds the host endpoint of the uplink, if it is one's, as the agent does.
    fn govern(&self, model: &mut Model, ifindex: u32) -> Result<()> {
        let interface = HostInterface { name: UPLINK, addresses: &BTreeSet::new() };
        let here = model.host_endpoints.values().filter(|endpoint| endpoint.node == NODE);
        let Some(endpoint) = host::governing(here, &interface).cloned() else { return Ok(()) };
        let planes = host::planes(&endpoint, UPLINK, ifindex, &model.host_addresses, 0);
        model.endpoints.extend(planes.into_iter().map(|(id, spec)| (id, Arc::new(spec))));
        model.uplinks.insert(ifindex, endpoint.interface_labels(UPLINK));
        for safe in &self.failsafe {
            model.failsafe.insert(Failsafe {
                direction: if safe.inbound { Direction::Ingress } else { Direction::Egress },
                protocol: safe.protocol,
                port: safe.port,
                net: safe.net.as_deref().map(str::parse).transpose()?,
            });
        }
        for Translated { protocol, port, to } in self.published.iter().copied() {
            for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
                model.published.insert(Published { address: any, protocol, port }, to);
            }
        }
        Ok(())
    }

    /// Reads the documents again from the YAML that they are written as.
    ///
    /// # Errors
    /// If the reader does not give back what was written.
    pub(crate) fn survives_writing(&self) -> Result<()> {
        let documents: Vec<String> = self.resources.iter().map(Value::to_string).collect();
        let text = documents.join("\n---\n");
        let read = yaml::read("set", text.as_bytes()).map_err(|errors| anyhow!(lines(&errors)))?;
        let read: Vec<&Value> = read.iter().map(|document| &document.value).collect();
        ensure!(read == self.resources.iter().collect::<Vec<_>>(), "{text} was read as {read:?}");
        Ok(())
    }
}

/// Endpoints go by their interface.
pub(crate) fn id(interface: &str) -> EndpointId {
    EndpointId(interface.to_owned())
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// As a kept case has it: YAML, with one line a document.
impl fmt::Display for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut host = String::new();
        for (index, address) in self.host.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(host, "{separator}\"{address}\"")?;
        }
        writeln!(f, "- defaultAction: {}", self.default_action)?;
        writeln!(f, "  hostAccess: {}", self.host_access)?;
        writeln!(f, "  host: [{host}]")?;
        writeln!(f, "  failsafe: {}", json!(self.failsafe))?;
        writeln!(f, "  published: {}", json!(self.published))?;
        writeln!(f, "  resources:{}", if self.resources.is_empty() { " []" } else { "" })?;
        self.resources.iter().try_for_each(|resource| writeln!(f, "  - {resource}"))
    }
}
