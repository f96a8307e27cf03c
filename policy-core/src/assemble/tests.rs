use policy_api::messages::{EndpointState, ExplainRequest, Verdict};
use serde_json::{Value, json};

use super::*;
use crate::{explain::explain, model::DefaultAction, testing::ip, validate};

fn objects(values: &[Value]) -> Vec<Object> {
    values.iter().map(|value| validate::decode(value).unwrap()).collect()
}

fn saved(namespace: &str, name: &str, address: &str, labels: &[(&str, &str)]) -> EndpointStatus {
    EndpointStatus {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        network: "front".to_owned(),
        interface: "veth1".to_owned(),
        ifindex: 7,
        addresses: vec![ip(address)],
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ports: Vec::new(),
        state: EndpointState::Enforcing,
        note: None,
        ingress_policies: Vec::new(),
        egress_policies: Vec::new(),
    }
}

fn policy() -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "selector": "app == 'db'",
            "ingress": [{
                "action": "Allow", "protocol": "TCP", "source": {"selector": "app == 'web'"},
                "destination": {"ports": ["sql"]},
            }],
        },
    })
}

fn verdict(model: &Model, source: &str, destination: &str, port: u16) -> Verdict {
    let request = ExplainRequest {
        source: source.to_owned(),
        destination: destination.to_owned(),
        protocol: 6,
        source_port: None,
        port,
    };
    explain(model, &request).unwrap().verdict
}

fn shop() -> Vec<EndpointStatus> {
    let mut db = saved("shop", "db", "10.0.0.2", &[("app", "db")]);
    db.ports = endpoint_ports(&[NamedPort { name: "sql".to_owned(), protocol: 6, port: 5432 }]);
    vec![saved("shop", "web", "10.0.0.1", &[("app", "web")]), db]
}

#[test]
fn saved_endpoints_are_decided_with_labels_and_named_ports() {
    let objects = objects(&[policy()]);
    let model = offline(&Host::default(), &objects, &shop()).unwrap();
    assert_eq!(verdict(&model, "web", "db", 5432), Verdict::Allow);
    assert_eq!(verdict(&model, "web", "db", 5433), Verdict::Deny);
    assert_eq!(verdict(&model, "192.0.2.1", "db", 5432), Verdict::Deny);
}

#[test]
fn a_host_has_settings_addresses_and_uplinks() {
    let objects = objects(&[
        policy(),
        json!({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": {"name": "block"},
            "spec": {
                "doNotTrack": true, "applyOnForward": true,
                "selector": "palisade.io/interface == 'eth0'",
                "ingress": [{"action": "Deny", "source": {"nets": ["198.51.100.0/24"]}}],
            },
        }),
    ]);
    let host = Host {
        settings: Settings { default_action: DefaultAction::Deny, host_access: true },
        addresses: BTreeSet::from([ip("10.0.0.254")]),
        uplinks: BTreeSet::from(["eth0".to_owned()]),
    };
    let closed = offline(&host, &objects, &shop()).unwrap();
    // `web` is selected by no policy.
    assert_eq!(verdict(&closed, "web", "192.0.2.1", 80), Verdict::Deny);
    assert_eq!(verdict(&closed, "10.0.0.254", "db", 1), Verdict::Allow);
    let plain = offline(&Host::default(), &objects, &shop()).unwrap();
    assert_eq!(verdict(&plain, "web", "192.0.2.1", 80), Verdict::Allow);
    assert_eq!(verdict(&plain, "10.0.0.254", "db", 1), Verdict::Deny);
    assert_eq!(verdict(&plain, "198.51.100.1", "web", 1), Verdict::Allow);
    let open = Host { uplinks: host.uplinks, ..Host::default() };
    let open = offline(&open, &objects, &shop()).unwrap();
    let request = ExplainRequest {
        source: "198.51.100.1".to_owned(),
        destination: "web".to_owned(),
        protocol: 6,
        source_port: None,
        port: 1,
    };
    let explained = explain(&open, &request).unwrap();
    assert_eq!(explained.verdict, Verdict::Deny);
    assert!(explained.paths[0].ends[0].walk[0].starts_with("uplink eth0: "), "{explained:?}");
}

#[test]
fn a_static_endpoint_is_what_its_resource_says() {
    let resource = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
        "metadata": {"name": "db", "namespace": "shop", "labels": {"app": "db"}},
        "spec": {"interfaceName": "veth9", "ipNetworks": ["10.0.0.9/32"]},
    });
    let objects = objects(&[resource]);
    let mut was = saved("shop", "db", "10.0.0.2", &[("app", "old")]);
    was.labels.insert(ORCHESTRATOR_LABEL.to_owned(), "static".to_owned());
    let model = offline(&Host::default(), &objects, &[was]).unwrap();
    let found: Vec<_> = model.endpoints.values().map(|spec| spec.addresses[0]).collect();
    assert_eq!(found, [ip("10.0.0.9")]);
}

#[test]
fn interfaces_are_numbered_anew_and_nobody_without_identity_comes_along() {
    let mut endpoints = shop();
    endpoints.push(saved("", "nas", "10.0.0.7", &[]));
    let model = offline(&Host::default(), &[], &endpoints).unwrap();
    let found: Vec<_> = model.endpoints.values().map(|spec| spec.ifindex).collect();
    assert_eq!(found, [1, 2]);
}

#[test]
fn a_protocol_that_is_none_is_named_with_its_place() {
    let mut endpoints = shop();
    endpoints[1].ports[0].protocol = "TPC".to_owned();
    let wrong = offline(&Host::default(), &[], &endpoints).unwrap_err();
    assert_eq!(wrong[0].path, "[1].ports[0].protocol");
}
