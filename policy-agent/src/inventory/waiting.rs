//! What is known and not enforced, with the reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use policy_api::messages::{EndpointState, EndpointStatus};
use policy_core::{
    assemble::endpoint_ports,
    model::{EndpointSpec, Model},
};

use super::{Inventory, UNFENCED, enforced, statics};
use crate::{config::Config, fence::View, resources::Resources, source::docker::UnsupportedReason};

const STARTING: &str = "starting: its interface is not identified yet";
const NOT_FOUND: &str = "nothing holds its traffic: its interface is not found; the agent must see \
                         the host's /proc and the engine's mounts below its netns folder";
const UNOWNED: &str = "inside another network namespace: no container is known to own it";

/// What is to be known of an interface inside another namespace that has no programs: unlike one on a
/// bridge it is open until then.
pub(super) fn open(number: u32, view: &View) -> String {
    let reason = view.failures.get(&number);
    let reason = reason.map_or(UNFENCED, String::as_str);
    format!("nothing holds its traffic: {reason}")
}

impl Inventory {
    /// Endpoints that are known but not enforced.
    pub(super) fn waiting(
        &self,
        config: &Config,
        resources: &Resources,
        model: &Model,
        view: &View,
    ) -> Vec<EndpointStatus> {
        let blank = |name: &str, namespace: &str, state, note: String| EndpointStatus {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            network: String::new(),
            interface: String::new(),
            ifindex: 0,
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            ports: Vec::new(),
            state,
            note: Some(note),
            ingress_policies: Vec::new(),
            egress_policies: Vec::new(),
        };
        let mut waiting = Vec::new();
        let links = view.by_name();
        for endpoint in statics(resources) {
            if !links.contains_key(endpoint.interface.as_str()) {
                let note = format!("interface {} does not exist", endpoint.interface);
                waiting.push(EndpointStatus {
                    interface: endpoint.interface.clone(),
                    addresses: endpoint.addresses.clone(),
                    labels: endpoint.labels.to_map(),
                    ports: endpoint_ports(&endpoint.ports),
                    ..blank(&endpoint.name, &endpoint.namespace, EndpointState::Pending, note)
                });
            }
        }
        let Some(docker) = &self.docker else { return waiting };
        for endpoint in self.containers(config) {
            if !model.endpoints.contains_key(&endpoint.id()) {
                // One on a bridge is closed as long as nobody knows whose it is.
                let (state, note) = match endpoint.inside {
                    None => (EndpointState::Pending, STARTING),
                    Some(_) => (EndpointState::Unsupported, NOT_FOUND),
                };
                waiting.push(EndpointStatus {
                    network: endpoint.network.clone(),
                    addresses: endpoint.addresses.clone(),
                    labels: endpoint.labels.to_map(),
                    ports: endpoint_ports(&endpoint.ports),
                    ..blank(&endpoint.container_name, &endpoint.namespace, state, note.to_owned())
                });
            }
        }
        let managed = |bridge: &String| !config.only_bridges || config.bridges.contains(bridge);
        for pending in docker.pending.iter().filter(|pending| managed(&pending.bridge)) {
            waiting.push(EndpointStatus {
                interface: pending.veth.name.clone(),
                ifindex: pending.veth.ifindex,
                ..blank(&pending.veth.name, "", EndpointState::Pending, pending.reason.to_string())
            });
        }
        let held: BTreeSet<u32> = model.endpoints.values().map(|spec| spec.ifindex).collect();
        for (number, inside) in view.inside.iter().filter(|(number, _)| !held.contains(number)) {
            // Programs without an endpoint drop everything.
            let (state, note) = if view.fenced(*number) {
                (EndpointState::Pending, UNOWNED.to_owned())
            } else {
                (EndpointState::Unsupported, open(*number, view))
            };
            waiting.push(EndpointStatus {
                interface: inside.name.clone(),
                ifindex: inside.place.ifindex,
                ..blank(&inside.name, "", state, note)
            });
        }
        for container in &docker.unsupported {
            let state = match container.reason {
                UnsupportedReason::SharedNetwork { .. } | UnsupportedReason::NoNetwork => {
                    EndpointState::Elsewhere
                }
                UnsupportedReason::HostNetwork
                    if model.endpoints.values().any(|spec| spec.plane.of_host()) =>
                {
                    EndpointState::Elsewhere
                }
                _ => EndpointState::Unsupported,
            };
            waiting.push(blank(&container.container_name, "", state, container.reason.to_string()));
        }
        waiting
    }

    /// Containers whose traffic nothing holds, each with the reason, if there are any; and whether
    /// that is a fault. It is not where somebody gave a container the host's network.
    pub(super) fn unfenced(
        &self,
        config: &Config,
        resources: &Resources,
        model: &Model,
        view: &View,
    ) -> Option<(bool, String)> {
        let inside = |spec: &&Arc<EndpointSpec>| view.inside.contains_key(&spec.ifindex);
        let inside = model.endpoints.values().filter(inside).map(|spec| enforced(spec, view));
        let open: Vec<EndpointStatus> = inside
            .chain(self.waiting(config, resources, model, view))
            .filter(|status| status.state == EndpointState::Unsupported)
            .collect();
        let host = UnsupportedReason::HostNetwork.to_string();
        let faults = open.iter().any(|status| status.note.as_ref() != Some(&host));
        let lines: Vec<String> = open
            .into_iter()
            .map(|status| format!("{} {}", status.name, status.note.unwrap_or_default()))
            .collect();
        (!lines.is_empty()).then(|| (faults, lines.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use policy_common::abi::INSIDE;
    use policy_core::{host::Plane, labels::Labels};

    use super::*;
    use crate::{
        fence::{Inside, On},
        kernel::{inside::HOOKS, pin::Place},
    };

    fn spec(ifindex: u32) -> EndpointSpec {
        EndpointSpec {
            ifindex,
            interface: "eth0".to_owned(),
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            network: "lan".to_owned(),
            labels: Labels::default(),
            addresses: Vec::new(),
            mac: None,
            ports: Vec::new(),
            bridge: None,
            plane: Plane::Workload,
            adopt_until_ns: 0,
        }
    }

    #[test]
    fn an_interface_inside_a_container_is_not_called_closed_before_its_programs_are_on() {
        let number = INSIDE | 1;
        let on = On::Overlay("abc".to_owned());
        let place = Place { netns: 1, ifindex: 2 };
        let inside = Inside { place, name: "eth0".to_owned(), on, containers: BTreeSet::new() };
        let mut view = View::default();
        view.inside.insert(number, inside);
        assert_eq!(enforced(&spec(number), &view).state, EndpointState::Unsupported);
        view.failures.insert(number, "no such device".to_owned());
        let status = enforced(&spec(number), &view);
        assert_eq!(status.note.unwrap(), "nothing holds its traffic: no such device");
        view.failures.clear();
        view.attached.extend(HOOKS.map(|hook| (number, hook)));
        assert_eq!(enforced(&spec(number), &view).state, EndpointState::Enforcing);
        // A veth is on a bridge that has a guard.
        assert_eq!(enforced(&spec(7), &view).state, EndpointState::Pending);
    }
}
