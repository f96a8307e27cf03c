//! Random policy sets over a small world in which things often meet: few labels and values, three
//! namespaces, nested networks that hold addresses of endpoints and of the host, both families.
//!
//! Out: documents that are all to be accepted, with fields now absent, now `null`, now empty.

mod hosts;
mod policies;

use std::net::IpAddr;

use fastrand::Rng;
use serde_json::{Map, Value, json};

use crate::set::PolicySet;

/// Interfaces that an endpoint may be on.
pub(crate) const INTERFACES: [&str; 5] = ["w0", "w1", "w2", "w3", "w4"];
/// Where packets come in from outside.
pub(crate) const UPLINK: &str = "up0";
/// The host's name.
pub(crate) const NODE: &str = "lab";
const NAMESPACES: [&str; 3] = ["default", "shop", "ops"];
/// Addresses that are nobody's, unless a network holds them.
pub(crate) const ADDRESSES: [&str; 7] = [
    "192.0.2.1",
    "192.0.2.129",
    "198.51.100.7",
    "203.0.113.9",
    "2001:db8::1",
    "2001:db8:1::9",
    "fd00:1::9",
];
/// Three addresses for each interface, the first two always free.
pub(crate) const OWN: [[&str; 4]; 5] = [
    ["10.0.0.1", "10.0.1.1", "fd00::1", "fd00:1::1"],
    ["10.0.0.2", "10.0.1.2", "fd00::2", "fd00:1::2"],
    ["10.0.0.3", "10.0.1.3", "fd00::3", "fd00:1::3"],
    ["10.0.0.4", "192.0.2.4", "fd00::4", "2001:db8::4"],
    ["10.0.0.5", "192.0.2.5", "fd00::5", "2001:db8::5"],
];
const HOST: [&str; 4] = ["10.0.0.254", "192.0.2.254", "fd00::fe", "10.0.0.3"];
const NETS: [&str; 18] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.0/30",
    "10.0.0.2/32",
    "10.0.0.254/32",
    "10.0.1.0/24",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "198.51.100.0/24",
    "::/0",
    "fd00::/8",
    "fd00::/64",
    "fd00::2/128",
    "fd00::fe/128",
    "fd00:1::/64",
    "2001:db8::/32",
    "2001:db8::/64",
];
/// Names of ports.
const PORTS: [&str; 3] = ["web", "dns", "admin"];

/// One of a few.
pub(crate) fn pick<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())].clone()
}

/// Some of a few, in their order.
fn some<T: Clone>(rng: &mut Rng, of: &[T], most: usize) -> Vec<T> {
    let count = rng.usize(..=most.min(of.len()));
    let mut chosen = rng.choose_multiple(0..of.len(), count);
    chosen.sort_unstable();
    chosen.into_iter().map(|index| of[index].clone()).collect()
}

/// True in so many of a hundred cases.
fn chance(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

/// A list as its author may write it: an empty one also as `null`, or not at all.
fn put_list(rng: &mut Rng, to: &mut Map<String, Value>, field: &str, items: Vec<Value>) {
    match (items.is_empty(), rng.u8(..4)) {
        (true, 0) => {
            to.insert(field.to_owned(), Value::Null);
        }
        (true, 1 | 2) => {}
        (true, _) | (false, _) => {
            to.insert(field.to_owned(), items.into());
        }
    }
}

/// A text as its author may write it: no text also as `null`, empty, or not at all.
fn put_text(rng: &mut Rng, to: &mut Map<String, Value>, field: &str, text: Option<String>) {
    let value = match (text, rng.u8(..12)) {
        (Some(text), _) => text.into(),
        (None, 0) => Value::Null,
        (None, 1) => "".into(),
        (None, _) => return,
    };
    to.insert(field.to_owned(), value);
}

fn texts(values: Vec<&str>) -> Vec<Value> {
    values.into_iter().map(Value::from).collect()
}

/// What makes the names of things distinct.
fn key(document: &Value) -> String {
    let metadata = &document["metadata"];
    let namespace = metadata["namespace"].as_str().filter(|it| !it.is_empty());
    let namespace = namespace.unwrap_or("default");
    format!("{} {} {namespace} {}", document["apiVersion"], document["kind"], metadata["name"])
}

fn is_policy(document: &Value) -> bool {
    document["kind"].as_str().is_some_and(|kind| kind.ends_with("Policy"))
}

/// A set; one of eight holds Kubernetes policies alone.
pub(crate) fn set(rng: &mut Rng) -> PolicySet {
    let only_kubernetes = rng.u8(..8) == 0;
    let mut set = PolicySet {
        default_action: if chance(rng, 70) { "Allow" } else { "Deny" }.to_owned(),
        host_access: chance(rng, 30),
        host: some(rng, &HOST, 3).into_iter().map(address).collect(),
        failsafe: hosts::failsafe(rng),
        published: hosts::published(rng),
        resources: Vec::new(),
    };
    if only_kubernetes {
        (set.default_action, set.host_access) = ("Allow".to_owned(), false);
    }
    let mut resources: Vec<Value> =
        some(rng, &INTERFACES, 5).into_iter().map(|it| endpoint(rng, it)).collect();
    if resources.is_empty() {
        resources.push(endpoint(rng, "w0"));
    }
    for name in NAMESPACES {
        if chance(rng, 50) {
            resources.push(namespace(rng, name));
        }
    }
    resources.extend((0..rng.u8(..4)).map(|_| network_set(rng)));
    resources.extend(hosts::endpoints(rng));
    if !only_kubernetes {
        resources.extend(policies::tiers(rng));
    }
    for _ in 0..rng.u8(1..8) {
        let policy = if only_kubernetes { policies::kubernetes(rng) } else { policies::any(rng) };
        resources.push(policy);
    }
    set.resources = resources;
    settle(&mut set);
    set
}

/// A set that differs in a part, as they follow each other in life.
pub(crate) fn next(rng: &mut Rng, old: &PolicySet) -> PolicySet {
    let other = set(rng);
    let mut set = old.clone();
    let keep = |set: &mut PolicySet, test: &dyn Fn(&Value) -> bool| {
        set.resources.retain(|it| !test(it));
        set.resources.extend(other.resources.iter().filter(|it| test(it)).cloned());
    };
    match rng.u8(..12) {
        0 => keep(&mut set, &is_policy),
        1 => keep(&mut set, &|it| it["kind"] == "WorkloadEndpoint"),
        2 => keep(&mut set, &|it| it["kind"] == "NetworkSet" || it["kind"] == "GlobalNetworkSet"),
        3 => keep(&mut set, &|it| it["kind"] == "Namespace"),
        4 => keep(&mut set, &|it| it["kind"] == "Tier"),
        5 => {
            let policies: Vec<usize> =
                (0..set.resources.len()).filter(|&at| is_policy(&set.resources[at])).collect();
            if !policies.is_empty() {
                set.resources.remove(pick(rng, &policies));
            }
        }
        6 => set.resources.extend(other.resources.iter().find(|it| is_policy(it)).cloned()),
        7 => {
            // A container is replaced, or gets another label.
            let name = pick(rng, &INTERFACES);
            let endpoint = endpoint(rng, name);
            set.resources.retain(|it| it["spec"]["interfaceName"] != name);
            set.resources.push(endpoint);
        }
        8 => {
            set.host_access = other.host_access;
            set.default_action.clone_from(&other.default_action);
            set.host.clone_from(&other.host);
        }
        9 => keep(&mut set, &|it| it["kind"] == "HostEndpoint"),
        10 => {
            set.failsafe.clone_from(&other.failsafe);
            set.published.clone_from(&other.published);
        }
        _ => set = other.clone(),
    }
    settle(&mut set);
    set
}

/// Drops what stands twice and what cannot be staged, and puts policies whose tier has gone into
/// `default`.
fn settle(set: &mut PolicySet) {
    let mut known = Vec::new();
    set.resources.retain(|it| {
        let key = key(it);
        let new = !known.contains(&key);
        known.push(key);
        new
    });
    let first =
        |it: &Value| ["preDNAT", "doNotTrack"].iter().any(|field| it["spec"][field] == true);
    let first: Vec<Value> = set
        .resources
        .iter()
        .filter(|it| it["kind"] == "GlobalNetworkPolicy" && first(it))
        .map(|it| it["metadata"]["name"].clone())
        .collect();
    set.resources.retain(|it| {
        it["kind"] != "StagedGlobalNetworkPolicy" || !first.contains(&it["metadata"]["name"])
    });
    let built_in = ["kube-admin", "kube-baseline"].map(Value::from);
    let tiers: Vec<Value> = set
        .resources
        .iter()
        .filter(|it| it["kind"] == "Tier")
        .map(|it| it["metadata"]["name"].clone())
        .chain(built_in)
        .collect();
    for policy in set.resources.iter_mut().filter(|it| is_policy(it)) {
        if let Some(spec) = policy["spec"].as_object_mut()
            && spec.get("tier").is_some_and(|tier| !tiers.contains(tier))
        {
            spec.remove("tier");
        }
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is no address"))
}

fn labels(rng: &mut Rng) -> Map<String, Value> {
    let mut labels = Map::new();
    for (key, values) in
        [("app", ["web", "db", "", "webshop"]), ("tier", ["front", "back", "front", "mid"])]
    {
        if chance(rng, 75) {
            labels.insert(key.to_owned(), pick(rng, &values).into());
        }
    }
    labels
}

fn metadata(rng: &mut Rng, name: &str, namespaced: bool) -> Map<String, Value> {
    let mut metadata = Map::from_iter([("name".to_owned(), name.into())]);
    if namespaced {
        let namespace = Some(pick(rng, &NAMESPACES)).filter(|it| *it != "default" || rng.bool());
        put_text(rng, &mut metadata, "namespace", namespace.map(str::to_owned));
    }
    metadata
}

fn endpoint(rng: &mut Rng, interface: &str) -> Value {
    let slot = INTERFACES.iter().position(|it| *it == interface).unwrap_or_default();
    // Two lives of an interface may swap second addresses.
    let mut own = some(rng, &OWN[slot], 3);
    if own.is_empty() {
        own.push(OWN[slot][0]);
    }
    let networks: Vec<Value> = own
        .into_iter()
        .map(|text| match (rng.bool(), text.contains(':')) {
            (true, _) => text.into(),
            (false, true) => format!("{text}/128").into(),
            (false, false) => format!("{text}/32").into(),
        })
        .collect();
    let mut ports = Vec::new();
    for name in some(rng, &PORTS, 3) {
        let protocol = pick(rng, &["TCP", "TCP", "UDP", "SCTP"]);
        let number = pick(rng, &[53, 80, 443, 8080]);
        ports.push(json!({"name": name, "protocol": protocol, "port": number}));
    }
    if let (true, Some(first)) = (chance(rng, 20), ports.first().cloned()) {
        // One name, two ports.
        ports.push(json!({"name": first["name"], "protocol": "TCP", "port": 9_000}));
    }
    let mut spec = Map::new();
    spec.insert("interfaceName".to_owned(), interface.into());
    spec.insert("ipNetworks".to_owned(), networks.into());
    put_list(rng, &mut spec, "ports", ports);
    let mac = chance(rng, 30).then(|| format!("02:00:00:00:00:0{}", slot + 1));
    put_text(rng, &mut spec, "mac", mac);
    let mut metadata = metadata(rng, &format!("pod-{interface}"), true);
    metadata.insert("labels".to_owned(), labels(rng).into());
    json!({"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
           "metadata": metadata, "spec": spec})
}

fn namespace(rng: &mut Rng, name: &str) -> Value {
    let mut labels = Map::new();
    for (key, values) in [("env", ["prod", "test", ""]), ("team", ["red", "blue", "red"])] {
        if chance(rng, 70) {
            labels.insert(key.to_owned(), pick(rng, &values).into());
        }
    }
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn network_set(rng: &mut Rng) -> Value {
    let namespaced = rng.bool();
    let kind = if namespaced { "NetworkSet" } else { "GlobalNetworkSet" };
    let name = pick(rng, &["set-a", "set-b"]);
    let mut metadata = metadata(rng, name, namespaced);
    let mut labels = labels(rng);
    if chance(rng, 40) {
        labels.insert("zone".to_owned(), pick(rng, &["in", "out"]).into());
    }
    metadata.insert("labels".to_owned(), labels.into());
    let mut nets = some(rng, &NETS, 3);
    // Sets take single addresses, and bits behind the prefix.
    nets.extend(some(rng, &["10.0.0.4", "192.0.2.77/25", "fd00::3", "fd00:1::99/64"], 1));
    let mut spec = Map::new();
    put_list(rng, &mut spec, "nets", texts(nets));
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec})
}
