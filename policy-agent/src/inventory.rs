//! From what the sources say to what is to be enforced: Docker's containers, static endpoints, the
//! host's interfaces and the resources become one [`Model`], and a description of it for people.
//! No I/O.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use policy_api::{
    diagnostic::Diagnostic,
    messages::{Component, EndpointState, EndpointStatus, ResourceName},
};
use policy_core::{
    assemble::endpoint_ports,
    host::{HostEndpoint, Plane},
    identity::{self, Owner},
    labels::Labels,
    model::{EndpointId, EndpointSpec, Model},
    peers::PeerName,
    plan::Image,
    shared::{Shared, SharedMap},
    untracked,
    validate::{Claims, Object, StaticEndpoint},
};

mod hosts;
mod waiting;

use hosts::Governed;
pub(crate) use hosts::stands_for_all;

use crate::{
    config::Config,
    fence::{Expected, Inside, On, Scope, View, is_docker_bridge},
    kernel::{attach::UplinkMode, clock, pin::Hook},
    netlink::{Link, LinkKind},
    resources::{Entry, Resources},
    source::docker::{DockerEndpoint, DockerSnapshot, EngineState, InsideOf},
};

/// How long connections that were open before the fence went up may be picked up, ns.
const ADOPTION_NS: u64 = 120_000_000_000;

/// What is to be known of an endpoint whose interface is its container's own.
const INSIDE_NOTE: &str = "enforced inside the container: its processes with CAP_NET_RAW can send \
                           past the fence, those with CAP_NET_ADMIN can take it off";

/// What is to be known of an endpoint whose interface has no programs yet.
const UNFENCED: &str = "the programs are not on its interface yet";

/// What is known of the endpoints.
#[derive(Debug)]
pub struct Inventory {
    docker: Option<Arc<DockerSnapshot>>,
    /// Whether there is a Docker to wait for.
    expects_docker: bool,
    /// Whether an earlier agent left endpoints, which must not be taken for gone.
    inherited: bool,
    /// Docker has been read completely at least once.
    read: bool,
    /// Until when connections of an interface may be picked up, once it has been said.
    adoption: RefCell<BTreeMap<u32, u64>>,
    /// The same of host endpoints.
    host_adoption: hosts::Adoption,
    /// The newest model's part that does not depend on policies, and what it was made from.
    built: RefCell<Option<(Sources, Model)>>,
}

/// What a model is made from, beside policies.
#[derive(Clone, Debug)]
pub struct Sources {
    view: Shared<View>,
    statics: SharedMap<Arc<ResourceName>, Arc<Entry>>,
    host_endpoints: Shared<BTreeMap<String, Arc<HostEndpoint>>>,
    docker: Option<Arc<DockerSnapshot>>,
}

impl Sources {
    /// Whether all are the same values. If not, they may still be equal.
    pub fn same(&self, other: &Sources) -> bool {
        self.view.same(&other.view)
            && self.statics.same(&other.statics)
            && self.host_endpoints.same(&other.host_endpoints)
            && match (&self.docker, &other.docker) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            }
    }
}

/// What is wrong, where something is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors<'a> {
    /// The policy directory is not followed.
    pub policy_dir: Option<&'a str>,
    /// The datapath does not hold the newest state.
    pub datapath: Option<&'a str>,
    /// The newest resources are not in their files.
    pub store: Option<&'a str>,
}

/// Everything that people may ask about.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// Endpoints, enforced or not; with their identity, if they are in the model.
    pub endpoints: Vec<(Option<EndpointId>, EndpointStatus)>,
    /// Who has an address.
    pub owners: BTreeMap<IpAddr, PeerName>,
}

impl Inventory {
    /// Nothing known yet but what an earlier agent left in the maps.
    pub fn new(expects_docker: bool, image: &Image) -> Inventory {
        let adoption: BTreeMap<u32, u64> = image
            .endpoints
            .iter()
            .map(|(ifindex, endpoint)| (*ifindex, endpoint.adopt_until_ns))
            .collect();
        Inventory {
            docker: None,
            expects_docker,
            inherited: !image.endpoints.is_empty(),
            read: false,
            host_adoption: RefCell::new(adoption.clone()),
            adoption: RefCell::new(adoption),
            built: RefCell::new(None),
        }
    }

    /// Takes in a Docker snapshot.
    pub fn docker(&mut self, snapshot: Arc<DockerSnapshot>) {
        self.read |= snapshot.engine == EngineState::Synced;
        self.docker = Some(snapshot);
    }

    /// Whether what is absent is gone, rather than not read yet. Where no earlier agent left
    /// anything, there is nothing to lose by not waiting for an engine.
    pub fn complete(&self) -> bool {
        !self.expects_docker || self.read || (!self.inherited && self.engine_is_absent())
    }

    /// Whether every source has been read completely at least once.
    pub fn read_all(&self) -> bool {
        !self.expects_docker || self.read
    }

    fn engine_is_absent(&self) -> bool {
        self.docker.as_ref().is_some_and(|snapshot| {
            matches!(snapshot.engine, EngineState::Connecting { error: Some(_) })
        })
    }

    /// One line about Docker.
    pub fn docker_detail(&self) -> String {
        match self.docker.as_ref().map(|snapshot| &snapshot.engine) {
            None | Some(EngineState::Connecting { error: None }) => "connecting".to_owned(),
            Some(EngineState::Connecting { error: Some(error) }) => error.clone(),
            Some(EngineState::Synced) => "in step".to_owned(),
            Some(EngineState::Lost { error }) => {
                format!("away, containers stay enforced as they were: {error}")
            }
        }
    }

    /// Docker's endpoints, those on bridges that are not managed left out.
    fn containers(&self, config: &Config) -> impl Iterator<Item = &DockerEndpoint> {
        self.docker
            .iter()
            .flat_map(|snapshot| &snapshot.endpoints)
            .filter(|endpoint| !config.only_bridges || config.bridges.contains(&endpoint.bridge))
    }

    /// Which interfaces need programs.
    pub fn scope(
        &self,
        config: &Config,
        resources: &Resources,
        base: &Model,
        view: &View,
    ) -> Scope {
        let governed = self.governed(config, resources, base, view);
        let name = |it: &Governed<'_>| it.link.name.clone();
        let blocked = governed.iter().filter(|it| hosts::has_block_list(base, it)).map(name);
        let plain = config.uplinks.iter().map(|name| (name, identity::uplink_labels(name)));
        let labels = plain.chain(governed.iter().map(|it| (&it.link.name, it.labels())));
        // A host endpoint's labels are the ones that count.
        let labels: BTreeMap<&String, Labels> = labels.collect();
        let limited = labels.iter().filter(|(_, labels)| untracked::limit(base, labels).is_some());
        let docker = self
            .docker
            .iter()
            .filter(|_| !config.only_bridges)
            .flat_map(|snapshot| snapshot.bridges.iter().cloned());
        Scope {
            docker_bridges: self.expects_docker && !config.only_bridges,
            bridges: docker.chain(config.bridges.iter().cloned()).collect(),
            interfaces: statics(resources).map(|endpoint| endpoint.interface.clone()).collect(),
            uplinks: config.uplinks.iter().cloned().chain(blocked).collect(),
            limited: limited.map(|(name, _)| (*name).clone()).collect(),
            hosts: governed.iter().map(name).collect(),
        }
    }

    /// The interfaces that belong to host endpoints.
    fn governed<'a>(
        &'a self,
        config: &'a Config,
        resources: &'a Resources,
        base: &'a Model,
        view: &'a View,
    ) -> Vec<Governed<'a>> {
        hosts::governed(config, base, view, |link| self.is_managed(link, config, resources))
    }

    /// Whether an interface is there for containers.
    fn is_managed(&self, link: &Link, config: &Config, resources: &Resources) -> bool {
        let docker = self.docker.as_ref();
        config.bridges.contains(&link.name)
            || docker.is_some_and(|snapshot| snapshot.bridges.contains(&link.name))
            || link.kind == LinkKind::Bridge && is_docker_bridge(&link.name)
            || statics(resources).any(|endpoint| endpoint.interface == link.name)
    }

    /// What the datapath shall hold. `base` has the part that resources alone decide
    /// ([`Resources::base`]).
    pub fn model(
        &self,
        config: &Config,
        resources: &Resources,
        base: &Model,
        view: &Shared<View>,
    ) -> Model {
        let sources = self.sources(resources, base, view);
        let mut built = self.built.borrow_mut();
        let (_, parts) = match built.take().filter(|(of, _)| of.same(&sources)) {
            Some(known) => built.insert(known),
            None => {
                let parts = self.build(config, resources, base, view);
                built.insert((sources, parts))
            }
        };
        Model {
            endpoints: parts.endpoints.clone(),
            host_addresses: parts.host_addresses.clone(),
            uplinks: parts.uplinks.clone(),
            noting_uplinks: parts.noting_uplinks.clone(),
            failsafe: parts.failsafe.clone(),
            published: parts.published.clone(),
            ..base.clone()
        }
    }

    /// What a model is made from, beside policies.
    pub fn sources(&self, resources: &Resources, base: &Model, view: &Shared<View>) -> Sources {
        Sources {
            view: view.clone(),
            statics: resources.statics().clone(),
            host_endpoints: base.host_endpoints.clone(),
            docker: self.docker.clone(),
        }
    }

    /// The part of the model that does not depend on policies.
    fn build(&self, config: &Config, resources: &Resources, base: &Model, view: &View) -> Model {
        let links = view.by_name();
        let mut model = Model { host_addresses: view.host_addresses().into(), ..Model::default() };
        for endpoint in statics(resources) {
            if let Some(link) = links.get(endpoint.interface.as_str()) {
                let spec = self.static_spec(endpoint, link, config, view);
                model.endpoints.insert(endpoint.id(), Arc::new(spec));
            }
        }
        for endpoint in self.containers(config) {
            if let Some((ifindex, name)) = interface_of(endpoint, view) {
                let adopt_until = self.adopt_until(ifindex, view);
                let mut spec = endpoint.spec(ifindex, name, adopt_until);
                // The guard must not open for an address whose interface has no fence yet.
                spec.bridge = spec.bridge.filter(|_| view.fenced(spec.ifindex));
                model.endpoints.insert(endpoint.id(), Arc::new(spec));
            }
        }
        for name in &config.uplinks {
            if let Some(link) = view.link(name) {
                model.uplinks.insert(link.ifindex, identity::uplink_labels(name));
            }
        }
        let governed = self.governed(config, resources, base, view);
        let containers = self.docker.iter().flat_map(|snapshot| &snapshot.endpoints);
        let published = containers
            .flat_map(|endpoint| &endpoint.published)
            .map(|(port, to)| (*port, *to))
            .collect();
        hosts::complete(&mut model, &governed, config, published, &self.host_adoption);
        let noting = |ifindex: &u32| view.attached.contains(&(*ifindex, Hook::UplinkEgress));
        model.noting_uplinks = model.uplinks.keys().copied().filter(noting).collect();
        model
    }

    /// What should be found inside other network namespaces.
    pub fn insiders(&self, config: &Config) -> BTreeSet<Expected> {
        let expected = |endpoint: &DockerEndpoint| {
            Some(Expected {
                container: endpoint.container_id.clone(),
                network: endpoint.network_id.clone(),
                overlay: matches!(endpoint.inside.as_ref()?, InsideOf::Overlay(_)),
            })
        };
        self.containers(config).filter_map(expected).collect()
    }

    /// The same answer each time for one interface: a model must not change by being built again.
    fn adopt_until(&self, ifindex: u32, view: &View) -> u64 {
        let found_open = view.found_open.contains(&ifindex);
        let until = || if found_open { clock::monotonic_ns() + ADOPTION_NS } else { 0 };
        *self.adoption.borrow_mut().entry(ifindex).or_insert_with(until)
    }

    fn static_spec(
        &self,
        endpoint: &StaticEndpoint,
        link: &Link,
        config: &Config,
        view: &View,
    ) -> EndpointSpec {
        let bridge = link.master.filter(|master| {
            view.fenced(link.ifindex)
                && view
                    .links
                    .get(master)
                    .is_some_and(|bridge| config.bridges.contains(&bridge.name))
        });
        EndpointSpec {
            ifindex: link.ifindex,
            interface: endpoint.interface.clone(),
            name: endpoint.name.clone(),
            namespace: endpoint.namespace.clone(),
            network: String::new(),
            labels: endpoint.labels.clone(),
            addresses: endpoint.addresses.clone(),
            mac: endpoint.mac.or_else(|| view.peer_macs.get(&link.ifindex).copied()),
            ports: endpoint.ports.clone(),
            bridge,
            plane: Plane::Workload,
            adopt_until_ns: self.adopt_until(link.ifindex, view),
        }
    }

    /// Static endpoints in `next` that claim an interface or address that is another's, where they
    /// did not in `before`: a container that took an address hinders no other change.
    pub fn new_conflicts(&self, before: &Resources, next: &Resources) -> Vec<Diagnostic> {
        if before.statics().same(next.statics()) {
            return Vec::new();
        }
        let known = self.conflicts(before);
        self.conflicts(next).into_iter().filter(|conflict| !known.contains(conflict)).collect()
    }

    fn conflicts(&self, resources: &Resources) -> Vec<Diagnostic> {
        let mut claims = Claims::default();
        for endpoint in self.docker.iter().flat_map(|snapshot| &snapshot.endpoints) {
            let interface = endpoint.veth.as_ref().map(|veth| veth.name.as_str());
            claims.container(&endpoint.container_name, interface, &endpoint.addresses);
        }
        statics(resources).flat_map(|endpoint| claims.endpoint(endpoint)).collect()
    }

    /// Names of the interfaces that programs are on: endpoints, bridges, uplinks.
    pub fn names(&self, model: &Model, view: &View) -> BTreeMap<u32, PeerName> {
        let others = view.attached.iter().filter_map(|(ifindex, hook)| {
            if hosts::of_workload(*hook) {
                return None;
            }
            let name = view.links.get(ifindex)?.name.clone();
            Some((*ifindex, PeerName { namespace: String::new(), name }))
        });
        // Docker may not have noticed yet that an interface is gone; its name has been dropped.
        let here = |endpoint: &&Arc<EndpointSpec>| {
            view.links.contains_key(&endpoint.ifindex)
                || view.inside.contains_key(&endpoint.ifindex)
        };
        let endpoints = model.endpoints.values().filter(here).map(|endpoint| {
            let (namespace, name) = (endpoint.namespace.clone(), endpoint.name.clone());
            (endpoint.ifindex, PeerName { namespace, name })
        });
        others.chain(endpoints).collect()
    }

    /// Everything that people may ask about.
    pub fn describe(
        &self,
        config: &Config,
        resources: &Resources,
        model: &Model,
        view: &View,
    ) -> Description {
        let mut endpoints: Vec<_> = model
            .endpoints
            .iter()
            .filter(|(_, spec)| stands_for_all(spec.plane))
            .map(|(id, spec)| (Some(id.clone()), enforced(spec, view)))
            .collect();
        let waiting = self.waiting(config, resources, model, view);
        endpoints.extend(waiting.into_iter().map(|status| (None, status)));
        endpoints.sort_by(|(_, a), (_, b)| {
            (&a.namespace, &a.name, &a.network).cmp(&(&b.namespace, &b.name, &b.network))
        });
        let owners = identity::owners(model)
            .into_iter()
            .map(|(ip, owner)| {
                let (namespace, name) = match owner {
                    Owner::Host => (String::new(), "host".to_owned()),
                    Owner::HostEndpoint(endpoint) => (String::new(), endpoint.name.clone()),
                    Owner::Endpoint(_, spec) => (spec.namespace.clone(), spec.name.clone()),
                };
                (ip, PeerName { namespace, name })
            })
            .collect();
        Description { endpoints, owners }
    }

    /// Parts of the agent.
    pub fn components(
        &self,
        config: &Config,
        resources: &Resources,
        model: &Model,
        view: &View,
        Errors { policy_dir, datapath, store }: Errors<'_>,
    ) -> Vec<Component> {
        let component = |name: &str, healthy: bool, detail: String| Component {
            name: name.to_owned(),
            healthy,
            detail,
        };
        let mut components = vec![component(
            "datapath",
            datapath.is_none(),
            datapath.map_or_else(|| "in step".to_owned(), str::to_owned),
        )];
        components.push(if self.expects_docker {
            let synced =
                self.docker.as_ref().is_some_and(|snapshot| snapshot.engine == EngineState::Synced);
            component("docker", synced, self.docker_detail())
        } else {
            component("docker", true, "not used".to_owned())
        });
        components.push(component(
            "policy-dir",
            policy_dir.is_none(),
            policy_dir.map_or_else(|| config.policy_dir.display().to_string(), str::to_owned),
        ));
        components.push(component(
            "store",
            store.is_none(),
            store.map_or_else(
                || config.state_dir.display().to_string(),
                |error| format!("the newest resources are only in the journal: {error}"),
            ),
        ));
        let unfenced = self.unfenced(config, resources, model, view);
        if let Some((faults, detail)) = unfenced {
            components.push(component("containers", !faults, detail));
        }
        for failure in view.failures.values() {
            components.push(component("fence", false, format!("not enforced on {failure}")));
        }
        for name in &config.uplinks {
            let link = view.link(name);
            let mode = link.map(|link| view.uplink_modes.get(&link.ifindex));
            let attached =
                link.is_some_and(|link| view.attached.contains(&(link.ifindex, Hook::Uplink)));
            let (healthy, detail) = match mode {
                None => (false, "interface does not exist".to_owned()),
                Some(None) if attached => (true, "XDP as an earlier agent attached it".to_owned()),
                Some(None) => (false, "the XDP program is not attached".to_owned()),
                Some(Some(UplinkMode::Native)) => (true, "XDP in the driver".to_owned()),
                Some(Some(UplinkMode::Generic)) => {
                    (true, "XDP in the stack (generic; the driver has none)".to_owned())
                }
            };
            components.push(component(&format!("uplink {name}"), healthy, detail));
        }
        let governed = self.governed(config, resources, model, view);
        let managed = |link: &Link| self.is_managed(link, config, resources);
        components.extend(hosts::components(config, model, view, &governed, managed));
        for warning in self.docker.iter().flat_map(|snapshot| &snapshot.warnings) {
            components.push(component(
                &format!("labels of {}", warning.container_name),
                false,
                warning.message.clone(),
            ));
        }
        components
    }
}

/// The number and the name of the interface that a container's endpoint is on, if it is known.
fn interface_of<'a>(endpoint: &'a DockerEndpoint, view: &'a View) -> Option<(u32, &'a str)> {
    if let Some(veth) = &endpoint.veth {
        return Some((veth.ifindex, &veth.name));
    }
    let on = match endpoint.inside.as_ref()? {
        InsideOf::Parent(name) => On::Parent(view.link(name)?.ifindex),
        InsideOf::Overlay(network) => On::Overlay(network.clone()),
    };
    let number = view.inside_of(&endpoint.container_id, &on)?;
    Some((number, &view.inside.get(&number)?.name))
}

fn statics(resources: &Resources) -> impl Iterator<Item = &StaticEndpoint> {
    resources.statics().values().filter_map(|entry| match &entry.object {
        Object::WorkloadEndpoint(endpoint) => Some(endpoint),
        _ => None,
    })
}

fn enforced(spec: &EndpointSpec, view: &View) -> EndpointStatus {
    if spec.plane.of_host() {
        return hosts::status(spec, view);
    }
    let inside = view.inside.get(&spec.ifindex);
    let (state, note) = match (view.fenced(spec.ifindex), inside) {
        (true, Some(Inside { on: On::Parent(_), .. })) => {
            (EndpointState::Enforcing, Some(INSIDE_NOTE.to_owned()))
        }
        (true, _) => (EndpointState::Enforcing, None),
        // No guard and no bridge of this host's is in its way.
        (false, Some(_)) => (EndpointState::Unsupported, Some(waiting::open(spec.ifindex, view))),
        (false, None) => (EndpointState::Pending, Some(UNFENCED.to_owned())),
    };
    EndpointStatus {
        name: spec.name.clone(),
        namespace: spec.namespace.clone(),
        network: spec.network.clone(),
        interface: spec.interface.clone(),
        ifindex: inside.map_or(spec.ifindex, |inside| inside.place.ifindex),
        addresses: spec.addresses.clone(),
        labels: spec.labels.to_map(),
        ports: endpoint_ports(&spec.ports),
        state,
        note,
        ingress_policies: Vec::new(),
        egress_policies: Vec::new(),
    }
}
