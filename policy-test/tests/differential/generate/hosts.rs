//! Random host endpoints, with what goes before their policies.

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::{
    ADDRESSES, HOST, NODE, PORTS, UPLINK, chance, labels, pick, put_list, put_text, some, texts,
};
use crate::set::{Safe, Translated};

/// Those of this host and of another; the first, if there is one, is the uplink's.
pub(super) fn endpoints(rng: &mut Rng) -> Vec<Value> {
    let mut found = Vec::new();
    if chance(rng, 60) {
        let interface = pick(rng, &[UPLINK, UPLINK, "*"]);
        found.push(endpoint(rng, "up", NODE, Some(interface)));
    }
    if chance(rng, 15) {
        // By name it comes first, and a named interface goes before `*`.
        let interface = pick(rng, &["*", "up1", UPLINK]);
        found.push(endpoint(rng, "all", NODE, Some(interface)));
    }
    if chance(rng, 35) {
        let (node, interface) = pick(rng, &[("far", None), ("far", Some(UPLINK)), (NODE, None)]);
        found.push(endpoint(rng, "peer", node, interface));
    }
    found
}

fn endpoint(rng: &mut Rng, name: &str, node: &str, interface: Option<&str>) -> Value {
    let mut spec = Map::from_iter([("node".to_owned(), node.into())]);
    put_text(rng, &mut spec, "interfaceName", interface.map(str::to_owned));
    let mut expected = some(rng, &HOST, 2);
    expected.extend(some(rng, &ADDRESSES, 2));
    if interface.is_none() && expected.is_empty() {
        expected.push(ADDRESSES[0]);
    }
    put_list(rng, &mut spec, "expectedIPs", texts(expected));
    let profiles = if chance(rng, 35) { vec!["projectcalico-default-allow"] } else { vec![] };
    put_list(rng, &mut spec, "profiles", texts(profiles));
    let ports = some(rng, &PORTS, 2).into_iter().map(|name| {
        let (protocol, port) = pick(rng, &[("TCP", 80), ("TCP", 8080), ("UDP", 53)]);
        json!({"name": name, "protocol": protocol, "port": port})
    });
    let ports = ports.collect();
    put_list(rng, &mut spec, "ports", ports);
    json!({"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint",
           "metadata": {"name": name, "labels": labels(rng)}, "spec": spec})
}

pub(super) fn failsafe(rng: &mut Rng) -> Vec<Safe> {
    let nets = [None, None, Some("192.0.2.0/24"), Some("10.0.0.0/8"), Some("2001:db8::/32")];
    let count = rng.u8(..4);
    (0..count)
        .map(|_| {
            let (protocol, port) = pick(rng, &[(6, 80), (6, 22), (17, 53), (132, 443)]);
            let net = pick(rng, &nets).map(str::to_owned);
            Safe { inbound: rng.bool(), protocol, port, net }
        })
        .collect()
}

pub(super) fn published(rng: &mut Rng) -> Vec<Translated> {
    let ports = [(6, 8080, 80), (6, 443, 443), (17, 53, 5353), (6, 80, 8000), (17, 5353, 53)];
    let chosen = some(rng, &ports, 2).into_iter();
    chosen.map(|(protocol, port, to)| Translated { protocol, port, to }).collect()
}
