//! A table's state while its steps are taken.
//!
//! Inputs: a [`Table`], its steps. Outputs: what each step changes, the [`Model`] that holds then, and the
//! packets that its rows stand for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use policy_agent::config::Options;
use policy_api::{
    diagnostic::Diagnostic,
    messages::{EPHEMERAL_PORT, ExplainRequest, ExplainedPath, Explanation, ResourceName, Verdict},
    yaml,
};
use policy_common::abi::Direction;
use policy_core::{
    evaluate::{self, Packet},
    explain::{ExplainError, explain},
    host::{self, HostInterface, Plane},
    model::{DefaultAction, EndpointId, EndpointSpec, Model, Settings},
    services::WITH_PORTS,
    validate::{self, Object, StaticEndpoint},
};
use serde_json::Value;

use super::{
    Action, Endpoint, HOST, HostAccess, NODE, PublishedPort, Refused, Row, Service, Staged, Step,
    Table, combine, rule_text,
};

/// Endpoints, settings and resources, as the steps taken so far have left them.
#[derive(Clone, Debug)]
pub struct World {
    settings: super::Settings,
    host: Vec<IpAddr>,
    uplinks: Vec<String>,
    published: Vec<PublishedPort>,
    base: BTreeMap<ResourceName, Value>,
    resources: BTreeMap<ResourceName, Value>,
    endpoints: Vec<Endpoint>,
}

/// What a step changes.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Resources that go.
    pub delete: Vec<ResourceName>,
    /// Resources that come or become others.
    pub apply: Vec<Value>,
    /// Whether endpoints come, go, or become others.
    pub endpoints: bool,
}

/// One packet that a row stands for, and what the evaluator says of it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The row, and the step that it is of.
    pub case: String,
    /// What must become of it.
    pub row: Row,
    /// Its protocol and port; an echo request in its own family.
    pub service: Service,
    /// The walk at both ends.
    pub path: ExplainedPath,
    /// Who listens, and on which port: behind a published port, its container.
    pub target: (IpAddr, u16),
}

impl Attempt {
    /// The source port of the evaluator's packet: the row's, else one as systems choose it.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        if WITH_PORTS.contains(&self.service.protocol) {
            self.row.source_port.unwrap_or(EPHEMERAL_PORT)
        } else {
            0
        }
    }
}

impl Attempt {
    /// The evaluator's packet.
    #[must_use]
    pub fn packet(&self) -> Packet {
        Packet {
            source: self.path.source,
            destination: self.path.destination,
            protocol: self.service.protocol,
            port: self.service.port,
            source_port: self.source_port(),
        }
    }

    /// Whether the host passes it on where it crosses a host endpoint, and its port behind that.
    pub(super) fn crossing(&self, model: &Model, direction: Direction) -> (bool, u16) {
        let packet = self.packet();
        let is_host = |address: &IpAddr| model.host_addresses.contains(address);
        match (direction, evaluate::published(model, &packet)) {
            (Direction::Egress, _) => (!is_host(&packet.source), packet.port),
            (Direction::Ingress, Some(to)) => (true, to),
            (Direction::Ingress, None) => (!is_host(&packet.destination), packet.port),
        }
    }
}

/// Whether an address is neither the host's nor a container's.
pub(super) fn is_away(model: &Model, address: IpAddr) -> bool {
    let endpoints = model.endpoints.values().filter(|it| it.plane == Plane::Workload);
    let mut taken = endpoints.flat_map(|endpoint| &endpoint.addresses);
    !model.host_addresses.contains(&address) && taken.all(|it| *it != address)
}

/// The host endpoints, one for each of their interfaces.
pub(super) fn hosts(model: &Model) -> impl Iterator<Item = &EndpointSpec> {
    let endpoints = model.endpoints.values().map(AsRef::as_ref);
    endpoints.filter(|endpoint: &&EndpointSpec| matches!(endpoint.plane, Plane::Local(_)))
}

impl World {
    /// The beginning of a table: its resources, nothing taken.
    ///
    /// # Errors
    /// If a resource cannot be read.
    pub fn new(table: &Table) -> Result<Self> {
        let base = documents(&table.policies)?;
        Ok(Self {
            settings: table.settings.clone(),
            host: table.host.clone(),
            uplinks: table.uplinks.clone(),
            published: table.published.clone(),
            resources: base.clone(),
            base,
            endpoints: table.endpoints.clone(),
        })
    }

    /// The endpoints of now.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The host's own addresses.
    #[must_use]
    pub fn host(&self) -> &[IpAddr] {
        &self.host
    }

    /// The resources of now, as JSON.
    pub fn resources(&self) -> impl Iterator<Item = &Value> {
        self.resources.values()
    }

    /// Takes a step.
    ///
    /// # Errors
    /// If it deletes what is not there, or a resource cannot be read.
    pub fn enter(&mut self, step: &Step) -> Result<Change> {
        let mut change = Change::default();
        if let Some(policies) = &step.policies {
            let wanted = documents(policies)?;
            let stays = |name: &ResourceName| self.base.contains_key(name);
            let goes = |name: &&ResourceName| !stays(name) && !wanted.contains_key(name);
            change.delete = self.resources.keys().filter(goes).cloned().collect();
            self.resources = self.base.clone();
            self.add(wanted, &mut change);
        }
        for value in values(&step.delete)? {
            let name = validate::resource_name(&value).map_err(|found| refusal(&found))?;
            let gone = self.resources.remove(&name);
            gone.with_context(|| format!("step `{}`: there is no {}", step.name, name.name))?;
            change.delete.push(name);
        }
        self.add(documents(&step.apply)?, &mut change);
        for name in &step.gone {
            let place = self.endpoints.iter().position(|endpoint| endpoint.name == *name);
            let place = place.with_context(|| format!("step `{}`: no {name}", step.name))?;
            self.endpoints.remove(place);
        }
        for endpoint in &step.endpoints {
            match self.endpoints.iter_mut().find(|it| it.name == endpoint.name) {
                Some(old) => *old = endpoint.clone(),
                None => self.endpoints.push(endpoint.clone()),
            }
        }
        change.endpoints = !step.gone.is_empty() || !step.endpoints.is_empty();
        Ok(change)
    }

    fn add(&mut self, resources: BTreeMap<ResourceName, Value>, change: &mut Change) {
        change.apply.extend(resources.values().cloned());
        self.resources.extend(resources);
    }

    /// Everything that decides. `index` gives each endpoint (by its place) and each uplink (by its name) the
    /// index of its interface.
    ///
    /// # Errors
    /// If a resource or endpoint is refused.
    pub fn model(&self, mut index: impl FnMut(Interface<'_>) -> Result<u32>) -> Result<Model> {
        let objects = self
            .resources
            .values()
            .map(|value| validate::decode(value).map_err(|found| refusal(&found)))
            .collect::<Result<Vec<Object>>>()?;
        let dangling = validate::references(objects.iter());
        ensure!(dangling.is_empty(), "{dangling:?}");
        let mut model = Model {
            settings: Settings {
                default_action: match self.settings.default_action {
                    Action::Allow => DefaultAction::Allow,
                    Action::Deny => DefaultAction::Deny,
                },
                host_access: self.settings.host_access == HostAccess::Allow,
            },
            host_addresses: self.host.iter().copied().collect(),
            ..Model::default()
        };
        for object in objects {
            insert(&mut model, object)?;
        }
        for (place, endpoint) in self.endpoints.iter().enumerate() {
            let ifindex = index(Interface::Endpoint(place))?;
            let resource = endpoint.resource(&format!("veth{ifindex}"))?;
            let Object::WorkloadEndpoint(endpoint) =
                validate::decode(&resource).map_err(|found| refusal(&found))?
            else {
                bail!("{resource}: no endpoint");
            };
            let id = EndpointId(format!("static/{}/{}", endpoint.namespace, endpoint.name));
            model.endpoints.insert(id, Arc::new(spec(endpoint, ifindex)));
        }
        for name in &self.uplinks {
            // As the agent labels them.
            let labels = [("palisade.io/host", ""), ("palisade.io/interface", name)];
            let ifindex = index(Interface::Uplink(name))?;
            model.uplinks.insert(ifindex, labels.into_iter().collect());
            self.govern(&mut model, name, ifindex)?;
        }
        Ok(model)
    }

    /// Adds what a host endpoint on an uplink needs, if one is about it, as the agent does.
    fn govern(&self, model: &mut Model, name: &str, ifindex: u32) -> Result<()> {
        let here = model.host_endpoints.values().filter(|endpoint| endpoint.node == NODE);
        let interface = HostInterface { name, addresses: &BTreeSet::new() };
        let Some(endpoint) = host::governing(here, &interface).cloned() else { return Ok(()) };
        let options = Options {
            failsafe_inbound_ports: self.settings.failsafe_inbound_ports.clone(),
            failsafe_outbound_ports: self.settings.failsafe_outbound_ports.clone(),
            published_ports: Some(
                self.published.iter().map(PublishedPort::flag).collect::<Result<_>>()?,
            ),
            ..Options::default()
        };
        let config = options.resolve()?;
        model.failsafe = config.failsafe.into();
        model.published = config.published.into();
        let planes = host::planes(&endpoint, name, ifindex, &model.host_addresses, 0);
        model.endpoints.extend(planes.into_iter().map(|(id, spec)| (id, Arc::new(spec))));
        model.uplinks.insert(ifindex, endpoint.interface_labels(name));
        Ok(())
    }

    /// Who gets a packet that its sender sends to `destination`.
    fn target(&self, destination: IpAddr, service: Service) -> (IpAddr, u16) {
        let published = self.published.iter().filter(|_| self.host.contains(&destination));
        let behind = published.filter(|it| it.port == service).find_map(|published| {
            let endpoint = self.endpoints.iter().find(|it| it.name == published.to)?;
            let mut addresses = endpoint.addresses.iter();
            let address = addresses.find(|it| it.is_ipv4() == destination.is_ipv4())?;
            Some((*address, published.at))
        });
        behind.unwrap_or((destination, service.port))
    }

    /// Ports of the host, each with the address and port of the container that gets its packets.
    pub(super) fn translations(&self) -> Vec<(Service, IpAddr, u16)> {
        let families = |published: &PublishedPort| {
            let endpoint = self.endpoints.iter().find(|it| it.name == published.to);
            let addresses = endpoint.map(|it| it.addresses.clone()).unwrap_or_default();
            let (port, at) = (published.port, published.at);
            addresses.into_iter().map(move |address| (port, address, at))
        };
        self.published.iter().flat_map(families).collect()
    }

    /// Holds what a step says of a refused resource against validation, by itself and with all others.
    ///
    /// # Errors
    /// If it is accepted, or refused for something else.
    pub fn refuses(&self, refused: &Refused) -> Result<()> {
        let documents = values(&refused.resource)?;
        let [resource] = &documents[..] else { bail!("not one resource:\n{}", refused.resource) };
        let object = match validate::decode(resource) {
            Ok(object) => object,
            Err(diagnostics) => return expect_refusal(refused, &diagnostics),
        };
        let others = self
            .resources
            .values()
            .map(|value| validate::decode(value).map_err(|found| refusal(&found)))
            .collect::<Result<Vec<Object>>>()?;
        let dangling = validate::references(others.iter().chain([&object]));
        let dangling: Vec<Diagnostic> = dangling.into_iter().map(|(_, found)| found).collect();
        ensure!(!dangling.is_empty(), "accepted:\n{}", refused.resource);
        expect_refusal(refused, &dangling)
    }

    /// The packets that the rows of a step stand for: one for each pair of addresses on which the
    /// two ends meet. What the evaluator says is held against the row.
    ///
    /// # Errors
    /// If a row stands for no packet, or the evaluator decides otherwise.
    pub fn attempts(&self, model: &Model, step: &Step) -> Result<Vec<Attempt>> {
        let mut attempts = Vec::new();
        let mut failures = Vec::new();
        for row in &step.verdicts {
            let before = (attempts.len(), failures.len());
            let case = format!("step `{}`: {} -> {} {}", step.name, row.from, row.to, row.port);
            for (source, destination) in self.pairs(row) {
                for service in row.port.each() {
                    let request = ExplainRequest {
                        source: source.clone(),
                        destination: destination.clone(),
                        protocol: service.protocol,
                        port: service.port,
                        source_port: row.source_port,
                    };
                    let paths = match explain(model, &request) {
                        Ok(Explanation { paths, .. }) => paths,
                        // The other end has that family, or the other kind of ping.
                        Err(ExplainError::NoPath { .. }) => continue,
                        Err(error) => bail!("{case}: {error}"),
                    };
                    for path in paths {
                        let case = format!("{case} ({} -> {})", path.source, path.destination);
                        if let Err(error) = expect(&case, row, &path) {
                            failures.push(error.to_string());
                        } else {
                            let target = self.target(path.destination, service);
                            attempts.push(Attempt {
                                case,
                                row: row.clone(),
                                service,
                                path,
                                target,
                            });
                        }
                    }
                }
            }
            if before == (attempts.len(), failures.len()) {
                failures.push(format!("{case}: the two have no way to meet"));
            }
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(attempts)
    }

    fn pairs(&self, row: &Row) -> Vec<(String, String)> {
        let ends = |name: &str| -> Vec<String> {
            if name == HOST {
                return self.host.iter().map(ToString::to_string).collect();
            }
            vec![name.to_owned()]
        };
        let destinations = ends(&row.to);
        let with = |source: String| {
            destinations.iter().map(move |destination| (source.clone(), destination.clone()))
        };
        ends(&row.from).into_iter().flat_map(with).collect()
    }
}

/// Whose interface index is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Interface<'a> {
    /// That of an endpoint, by its place among the endpoints.
    Endpoint(usize),
    /// That of an uplink.
    Uplink(&'a str),
}

/// Holds the evaluator's walk against a row.
fn expect(case: &str, row: &Row, path: &ExplainedPath) -> Result<()> {
    let ends = || path.ends.iter();
    let (verdict, by) = combine(ends().map(|end| (end.verdict, &end.rule)));
    // What is denied at one end does not come to the other.
    let denies = ends().position(|end| end.verdict == Verdict::Deny).unwrap_or(path.ends.len());
    let logged: Vec<String> =
        ends().take(denies + 1).flat_map(|end| &end.logged).map(rule_text).collect();
    let staged = ends().any(|end| end.staged.is_some()).then(|| {
        let would = ends().map(|end| match &end.staged {
            Some(staged) => (staged.verdict, &staged.rule),
            None => (end.verdict, &end.rule),
        });
        let (verdict, by) = combine(would);
        Staged { verdict, by }
    });
    let found = (verdict, by, logged, staged);
    let wanted = (row.verdict, row.by.clone(), row.logged.clone(), row.staged.clone());
    let walk: Vec<&str> =
        path.ends.iter().flat_map(|end| end.walk.iter().map(String::as_str)).collect();
    ensure!(
        found == wanted,
        "{case}: the evaluator says {found:?}, the table {wanted:?}\n  {}",
        walk.join("\n  ")
    );
    Ok(())
}

/// Holds diagnostics against what a table says of a refused resource.
///
/// # Errors
/// If none of them is the one.
pub(super) fn expect_refusal(refused: &Refused, diagnostics: &[Diagnostic]) -> Result<()> {
    let found = diagnostics
        .iter()
        .any(|found| found.path == refused.at && found.to_string().contains(&refused.says));
    let all: Vec<String> = diagnostics.iter().map(|it| format!("{}: {it}", it.path)).collect();
    ensure!(found, "no diagnostic at {} says `{}`: {all:#?}", refused.at, refused.says);
    Ok(())
}

/// The resources of a text, by their names.
fn documents(text: &str) -> Result<BTreeMap<ResourceName, Value>> {
    let named = |value: Value| {
        let name = validate::resource_name(&value).map_err(|found| refusal(&found))?;
        Ok((name, value))
    };
    let values = values(text)?;
    let count = values.len();
    let documents: BTreeMap<ResourceName, Value> =
        values.into_iter().map(named).collect::<Result<_>>()?;
    ensure!(documents.len() == count, "a resource stands twice in\n{text}");
    Ok(documents)
}

/// The resources of a text; none of an empty one.
pub(super) fn values(text: &str) -> Result<Vec<Value>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let documents = yaml::read("table", text.as_bytes()).map_err(|found| refusal(&found))?;
    Ok(documents.into_iter().map(|document| document.value).collect())
}

fn refusal(diagnostics: &[Diagnostic]) -> anyhow::Error {
    let lines: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    anyhow!("{}", lines.join("\n"))
}

fn insert(model: &mut Model, object: Object) -> Result<()> {
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
        Object::HostEndpoint(endpoint) => {
            model.host_endpoints.insert(endpoint.name.clone(), endpoint);
        }
        other => bail!("{}: endpoints belong in the table", other.resource_name().name),
    }
    Ok(())
}

fn spec(endpoint: StaticEndpoint, ifindex: u32) -> EndpointSpec {
    EndpointSpec {
        ifindex,
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
    }
}
