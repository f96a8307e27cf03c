//! Random tiers and policies of every kind.

use fastrand::Rng;
use policy_common::abi::Direction;
use serde_json::{Map, Value, json};

use super::{NAMESPACES, NETS, PORTS, chance, metadata, pick, put_list, put_text, some, texts};

const CALICO: &str = "projectcalico.org/v3";
const TIERS: [&str; 3] = ["app", "ops", "security"];
/// Names that tell how ties are broken: `-` sorts before the `/` behind a name.
const NAMES: [&str; 5] = ["p", "p-1", "p-2", "q", "a.p"];

pub(super) fn tiers(rng: &mut Rng) -> Vec<Value> {
    let mut tiers = Vec::new();
    for name in some(rng, &TIERS, 3) {
        let mut spec = Map::new();
        match rng.u8(..6) {
            0 => {}
            1 => drop(spec.insert("order".to_owned(), Value::Null)),
            _ => {
                let order = pick(rng, &[json!(1), json!(0.5), json!(-3), json!(1e6), json!(2e6)]);
                spec.insert("order".to_owned(), order);
            }
        }
        let end = pick(rng, &[None, Some("Deny"), Some("Pass"), Some("Pass")]);
        if let Some(end) = end {
            spec.insert("defaultAction".to_owned(), end.into());
        }
        tiers.push(json!({"apiVersion": CALICO, "kind": "Tier", "metadata": {"name": name},
                          "spec": spec}));
    }
    if chance(rng, 10) {
        tiers.push(json!({"apiVersion": CALICO, "kind": "Tier", "metadata": {"name": "default"},
                          "spec": {"order": 1_000_000, "defaultAction": "Deny"}}));
    }
    tiers
}

/// A policy of any kind, some of them staged.
pub(super) fn any(rng: &mut Rng) -> Value {
    let policy = in_force(rng);
    let spec = &policy["spec"];
    if spec["doNotTrack"].is_null() && spec["preDNAT"].is_null() && chance(rng, 20) {
        return staged(rng, policy);
    }
    policy
}

/// The policy as one that is not in force, or one that takes away the one of its name.
fn staged(rng: &mut Rng, mut policy: Value) -> Value {
    let kind = match policy["apiVersion"].as_str() {
        Some(CALICO) => policy["kind"].as_str().unwrap_or_default(),
        _ => "KubernetesNetworkPolicy",
    };
    policy["kind"] = format!("Staged{kind}").into();
    policy["apiVersion"] = CALICO.into();
    let delete = chance(rng, 30);
    if let Some(spec) = policy.get_mut("spec").and_then(Value::as_object_mut) {
        spec.retain(|field, _| !delete || field == "tier");
        let action = if delete { Some("Delete") } else { pick(rng, &[Some("Set"), None]) };
        put_text(rng, spec, "stagedAction", action.map(str::to_owned));
    }
    policy
}

fn in_force(rng: &mut Rng) -> Value {
    match rng.u8(..10) {
        0..=3 => calico(rng, true),
        4..=7 if chance(rng, 8) => block_list(rng),
        4..=7 if chance(rng, 30) => on_forwarded(rng),
        4..=7 => calico(rng, false),
        _ => kubernetes(rng),
    }
}

/// A test of one label.
fn test(rng: &mut Rng, labels: &[(&str, &[&str])]) -> String {
    let (key, values) = pick(rng, labels);
    let value = pick(rng, values);
    let quote = pick(rng, &['\'', '"']);
    let quoted = |value: &str| format!("{quote}{value}{quote}");
    match rng.u8(..12) {
        0..=2 => format!("{key} == {}", quoted(value)),
        3 => format!("{key}!={}", quoted(value)),
        4 => format!("has({key})"),
        5 => format!("!has({key})"),
        6 => format!("{key} in {{{}, {}}}", quoted(value), quoted("web")),
        7 => format!("{key} not in {{{}}}", quoted(value)),
        8 => format!("{key} contains {}", quoted("e")),
        9 => format!("{key} starts with {}", quoted(value)),
        10 => format!("{key} ends with {}", quoted(value)),
        _ => format!("!({key} == {})", quoted(value)),
    }
}

fn expression(rng: &mut Rng, labels: &[(&str, &[&str])]) -> String {
    match rng.u8(..12) {
        0 => "all()".to_owned(),
        1 => format!("{} && {}", test(rng, labels), test(rng, labels)),
        2 => format!("{} || {}", test(rng, labels), test(rng, labels)),
        3 => format!("!({} || all() && {})", test(rng, labels), test(rng, labels)),
        4 => format!("({} || {}) && {}", test(rng, labels), test(rng, labels), test(rng, labels)),
        _ => test(rng, labels),
    }
}

/// A selector of endpoints and network sets.
fn selector(rng: &mut Rng) -> String {
    const OFTEN: [(&str, &[&str]); 2] = [("app", &["web", "db", ""]), ("tier", &["front", "back"])];
    const SELDOM: [(&str, &[&str]); 10] = [
        ("zone", &["in", "out"]),
        ("palisade.io/host", &[""]),
        ("palisade.io/interface", &["up0"]),
        ("palisade.io/name", &["pod-w0", "pod-w1"]),
        ("projectcalico.org/namespace", &["default", "shop"]),
        ("projectcalico.org/orchestrator", &["static"]),
        ("pcns.env", &["prod", "test", ""]),
        ("pcns.kubernetes.io/metadata.name", &["shop", "ops"]),
        ("pcns.projectcalico.org/name", &["shop", "ops"]),
        ("missing", &["x"]),
    ];
    if chance(rng, 70) { expression(rng, &OFTEN) } else { expression(rng, &SELDOM) }
}

/// A selector of namespaces.
fn namespaces(rng: &mut Rng) -> String {
    const LABELS: [(&str, &[&str]); 4] = [
        ("env", &["prod", "test", ""]),
        ("team", &["red", "blue"]),
        ("kubernetes.io/metadata.name", &["shop", "ops", "default"]),
        ("projectcalico.org/name", &["shop", "default"]),
    ];
    expression(rng, &LABELS)
}

fn calico(rng: &mut Rng, namespaced: bool) -> Value {
    let kind = if namespaced { "NetworkPolicy" } else { "GlobalNetworkPolicy" };
    let name = pick(rng, &NAMES);
    let metadata = metadata(rng, name, namespaced);
    let mut spec = Map::new();
    if chance(rng, 60) {
        let tier = pick(rng, &["app", "ops", "security", "default", "kube-admin", "kube-baseline"]);
        spec.insert("tier".to_owned(), tier.into());
    }
    if chance(rng, 60) {
        spec.insert("order".to_owned(), pick(rng, &[json!(1), json!(2), json!(1000), json!(0.5)]));
    }
    let own = chance(rng, 60).then(|| selector(rng));
    put_text(rng, &mut spec, "selector", own);
    if !namespaced {
        let scope = chance(rng, 25).then(|| namespaces(rng));
        put_text(rng, &mut spec, "namespaceSelector", scope);
    }
    let types = pick(
        rng,
        &[None, None, Some(vec!["Ingress"]), Some(vec!["Egress"]), Some(vec!["Egress", "Ingress"])],
    );
    if let Some(types) = types {
        spec.insert("types".to_owned(), types.into());
    }
    for field in ["ingress", "egress"] {
        let count = if chance(rng, 65) { rng.u8(1..4) } else { 0 };
        let rules = (0..count).map(|_| rule(rng)).collect();
        put_list(rng, &mut spec, field, rules);
    }
    if chance(rng, 5) {
        // Without `spec` it selects everything, with type Ingress.
        return json!({"apiVersion": CALICO, "kind": kind, "metadata": metadata});
    }
    json!({"apiVersion": CALICO, "kind": kind, "metadata": metadata, "spec": spec})
}

/// A policy with a say on what the host passes on, or on what comes in before its translation.
fn on_forwarded(rng: &mut Rng) -> Value {
    let mut policy = calico(rng, false);
    let before = chance(rng, 35);
    let Some(spec) = policy.get_mut("spec").and_then(Value::as_object_mut) else { return policy };
    spec.insert("applyOnForward".to_owned(), true.into());
    // Mostly for hosts.
    if chance(rng, 40) {
        spec.insert("selector".to_owned(), "has(palisade.io/host)".into());
        spec.remove("namespaceSelector");
    }
    // One that tells a port before its translation from the one behind it.
    if chance(rng, 50) {
        let (protocol, port) = pick(rng, &[("TCP", 80), ("TCP", 8080), ("UDP", 53)]);
        let action = pick(rng, &["Allow", "Deny", "Pass"]);
        let rule =
            json!({"action": action, "protocol": protocol, "destination": {"ports": [port]}});
        let rules = spec.entry("ingress").or_insert_with(|| json!([]));
        match rules.as_array_mut() {
            Some(rules) => rules.insert(0, rule),
            None => *rules = json!([rule]),
        }
    }
    // The near side is no condition, but for numbers of the host's ports.
    for rule in spec.get_mut("ingress").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(entity) = rule.get_mut("destination").and_then(Value::as_object_mut) {
            entity.retain(|field, _| field == "ports" || field == "notPorts");
            for list in entity.values_mut().filter_map(Value::as_array_mut) {
                list.retain(|port| port.as_str().is_none_or(|it| !PORTS.contains(&it)));
            }
        }
    }
    for rule in spec.get_mut("egress").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(rule) = rule.as_object_mut() {
            rule.remove("source");
        }
    }
    if before {
        spec.insert("preDNAT".to_owned(), true.into());
        spec.insert("types".to_owned(), json!(["Ingress"]));
        spec.remove("egress");
        if let Some(rules) = spec.get_mut("ingress").and_then(Value::as_array_mut) {
            rules.retain(|rule| rule["action"] != "Log");
        }
    }
    policy
}

/// A policy that is enforced at the uplink.
fn block_list(rng: &mut Rng) -> Value {
    let mut spec = Map::from_iter([
        ("doNotTrack".to_owned(), true.into()),
        ("applyOnForward".to_owned(), true.into()),
    ]);
    let uplinks = [
        Some("has(palisade.io/host)"),
        Some("palisade.io/interface == 'up0'"),
        Some("palisade.io/interface == 'up1'"),
        None,
    ];
    let own = pick(rng, &uplinks).map(str::to_owned);
    put_text(rng, &mut spec, "selector", own);
    if rng.bool() {
        spec.insert("order".to_owned(), pick(rng, &[json!(1), json!(2)]));
    }
    let count = rng.u8(1..4);
    let rules: Vec<Value> = (0..count)
        .map(|_| {
            let source = if rng.bool() {
                json!({"nets": [pick(rng, &NETS), pick(rng, &NETS)]})
            } else {
                json!({"selector": selector(rng)})
            };
            json!({"action": "Deny", "source": source})
        })
        .collect();
    spec.insert("ingress".to_owned(), rules.into());
    json!({"apiVersion": CALICO, "kind": "GlobalNetworkPolicy",
           "metadata": {"name": pick(rng, &["block", "block-1"])}, "spec": spec})
}

fn rule(rng: &mut Rng) -> Value {
    let mut rule = Map::new();
    let action = pick(rng, &["Allow", "Allow", "Allow", "Deny", "Deny", "Pass", "Log"]);
    rule.insert("action".to_owned(), action.into());
    let version = match rng.u8(..10) {
        0 => Some(4),
        1 => Some(6),
        _ => None,
    };
    if let Some(version) = version {
        rule.insert("ipVersion".to_owned(), version.into());
    }
    let mut protocols = vec![
        json!("TCP"),
        json!("TCP"),
        json!("TCP"),
        json!(6),
        json!("UDP"),
        json!("UDP"),
        json!("SCTP"),
        json!(132),
        json!("UDPLite"),
        json!(47),
    ];
    for (name, number, other) in [("ICMP", 1, 6), ("ICMPv6", 58, 4)] {
        if version != Some(other) {
            protocols.extend([json!(name), json!(name), json!(number)]);
        }
    }
    let protocol = chance(rng, 65).then(|| pick(rng, &protocols));
    if let Some(protocol) = &protocol {
        rule.insert("protocol".to_owned(), protocol.clone());
    } else if chance(rng, 15) {
        rule.insert("protocol".to_owned(), Value::Null);
    }
    if chance(rng, 12) {
        rule.insert("notProtocol".to_owned(), pick(rng, &protocols));
    }
    let is = |names: &[Value]| protocol.as_ref().is_some_and(|it| names.contains(it));
    let (v4, v6) = (is(&[json!("ICMP"), json!(1)]), is(&[json!("ICMPv6"), json!(58)]));
    if v4 || v6 {
        let types = if v4 { [8, 13, 17] } else { [128, 139, 144] };
        for (field, percent) in [("icmp", 45), ("notICMP", 30)] {
            if chance(rng, percent) {
                let mut icmp = Map::from_iter([("type".to_owned(), pick(rng, &types).into())]);
                if rng.bool() {
                    icmp.insert("code".to_owned(), pick(rng, &[0, 0, 1, 255]).into());
                }
                rule.insert(field.to_owned(), icmp.into());
            }
        }
    }
    let with_ports = is(&["TCP", "UDP", "SCTP"].map(Value::from)) || is(&[json!(6), json!(132)]);
    let ports = match (with_ports, protocol) {
        (true, _) => Ports::Any,
        (false, None) => Ports::Names,
        (false, Some(_)) => Ports::None,
    };
    // Conditions on both sides of one rule are rare, as they are in life.
    let sides = rng.u8(..8);
    for (field, present) in [("source", sides <= 3), ("destination", sides >= 3)] {
        // Source ports are rare, too.
        let ports = if field == "source" && chance(rng, 60) { Ports::None } else { ports };
        let entity = present.then(|| entity(rng, version, ports));
        let written = match entity {
            Some(entity) => entity,
            None if chance(rng, 10) => pick(rng, &[json!({}), Value::Null]),
            None => continue,
        };
        rule.insert(field.to_owned(), written);
    }
    rule.into()
}

/// Which ports a rule may speak of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ports {
    Any,
    Names,
    None,
}

fn entity(rng: &mut Rng, version: Option<u8>, ports: Ports) -> Value {
    let mut entity = Map::new();
    let own = chance(rng, 40).then(|| selector(rng));
    put_text(rng, &mut entity, "selector", own);
    let not = chance(rng, 20).then(|| selector(rng));
    put_text(rng, &mut entity, "notSelector", not);
    let scope = chance(rng, 25).then(|| match rng.u8(..5) {
        0 => "global()".to_owned(),
        1 => "all()".to_owned(),
        _ => namespaces(rng),
    });
    put_text(rng, &mut entity, "namespaceSelector", scope);
    for (field, percent) in [("nets", 35), ("notNets", 25)] {
        let mut nets = if chance(rng, percent) { some(rng, &NETS, 3) } else { Vec::new() };
        nets.retain(|net| version.is_none_or(|version| net.contains(':') == (version == 6)));
        nets.retain(|net| field == "nets" || !net.ends_with("/0"));
        put_list(rng, &mut entity, field, texts(nets));
    }
    if ports != Ports::None {
        for (field, percent) in [("ports", 60), ("notPorts", 25)] {
            let count = if chance(rng, percent) { rng.u8(1..4) } else { 0 };
            let list = (0..count).map(|_| port(rng, ports)).collect();
            put_list(rng, &mut entity, field, list);
        }
    }
    entity.into()
}

fn port(rng: &mut Rng, ports: Ports) -> Value {
    if ports == Ports::Names || chance(rng, 30) {
        return pick(rng, &PORTS).into();
    }
    let numbers =
        [json!(80), json!(53), json!("443"), json!("80:443"), json!("1:65535"), json!("8000:8080")];
    pick(rng, &numbers)
}

/// A selector in Kubernetes' form.
fn label_selector(rng: &mut Rng, labels: &[(&str, &[&str])]) -> Value {
    let mut selector = Map::new();
    if chance(rng, 40) {
        let (key, values) = pick(rng, labels);
        selector.insert("matchLabels".to_owned(), json!({key: pick(rng, values)}));
    }
    let count = if chance(rng, 40) { rng.u8(1..3) } else { 0 };
    let mut expressions = Vec::new();
    for _ in 0..count {
        let (key, values) = pick(rng, labels);
        let operator = pick(rng, &["In", "NotIn", "Exists", "DoesNotExist"]);
        let mut it = Map::from_iter([
            ("key".to_owned(), key.into()),
            ("operator".to_owned(), operator.into()),
        ]);
        let mut listed = some(rng, values, 2);
        if operator.ends_with("In") && listed.is_empty() {
            listed.push(values[0]);
        }
        if !operator.ends_with("In") {
            listed.clear();
        }
        put_list(rng, &mut it, "values", texts(listed));
        expressions.push(it.into());
    }
    put_list(rng, &mut selector, "matchExpressions", expressions);
    selector.into()
}

fn pods(rng: &mut Rng) -> Value {
    label_selector(rng, &[("app", &["web", "db", ""]), ("tier", &["front", "back"])])
}

fn kubernetes_namespaces(rng: &mut Rng) -> Value {
    let names: &[&str] = &NAMESPACES;
    let env: &[&str] = &["prod", "test", ""];
    label_selector(rng, &[("env", env), ("kubernetes.io/metadata.name", names)])
}

/// A NetworkPolicy of Kubernetes.
pub(super) fn kubernetes(rng: &mut Rng) -> Value {
    let name = pick(rng, &NAMES);
    let metadata = metadata(rng, name, true);
    let mut spec = Map::new();
    if chance(rng, 80) {
        spec.insert("podSelector".to_owned(), pods(rng));
    }
    match rng.u8(..6) {
        0 => drop(spec.insert("policyTypes".to_owned(), json!(["Ingress"]))),
        1 => drop(spec.insert("policyTypes".to_owned(), json!(["Egress"]))),
        2 => drop(spec.insert("policyTypes".to_owned(), json!(["Ingress", "Egress"]))),
        _ => put_list(rng, &mut spec, "policyTypes", Vec::new()),
    }
    for (field, peers, direction) in
        [("ingress", "from", Direction::Ingress), ("egress", "to", Direction::Egress)]
    {
        let count = if chance(rng, 60) { rng.u8(1..3) } else { 0 };
        let rules = (0..count).map(|_| kubernetes_rule(rng, peers, direction)).collect();
        put_list(rng, &mut spec, field, rules);
    }
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata,
           "spec": spec})
}

fn kubernetes_rule(rng: &mut Rng, peers: &str, direction: Direction) -> Value {
    let mut rule = Map::new();
    let count = if chance(rng, 75) { rng.u8(1..3) } else { 0 };
    let list = (0..count).map(|_| kubernetes_peer(rng)).collect();
    put_list(rng, &mut rule, peers, list);
    // Who may come in on which port is asked more often than who may go where.
    let percent = if direction == Direction::Ingress { 60 } else { 45 };
    let count = if chance(rng, percent) { rng.u8(1..3) } else { 0 };
    let list = (0..count).map(|_| kubernetes_port(rng)).collect();
    put_list(rng, &mut rule, "ports", list);
    rule.into()
}

fn kubernetes_peer(rng: &mut Rng) -> Value {
    match rng.u8(..5) {
        0 => json!({"podSelector": pods(rng)}),
        1 => json!({"namespaceSelector": kubernetes_namespaces(rng)}),
        2 => json!({"podSelector": pods(rng), "namespaceSelector": kubernetes_namespaces(rng)}),
        _ => {
            let blocks: [(&str, &[&str]); 5] = [
                ("10.0.0.0/8", &["10.0.0.0/24", "10.0.1.0/24", "10.0.0.2/32"]),
                ("0.0.0.0/0", &["10.0.0.0/8", "192.0.2.128/25"]),
                ("192.0.2.77/24", &["192.0.2.128/25"]),
                ("fd00::/8", &["fd00::/64", "fd00::2/128"]),
                ("::/0", &["fd00::/8", "2001:db8::/32"]),
            ];
            let (cidr, excepts) = pick(rng, &blocks);
            let mut block = Map::from_iter([("cidr".to_owned(), cidr.into())]);
            let except = some(rng, excepts, 2);
            put_list(rng, &mut block, "except", texts(except));
            json!({"ipBlock": block})
        }
    }
}

fn kubernetes_port(rng: &mut Rng) -> Value {
    let mut port = Map::new();
    let protocol = pick(rng, &[None, Some("TCP"), Some("UDP"), Some("SCTP")]);
    port.extend(protocol.map(|it| ("protocol".to_owned(), it.into())));
    match rng.u8(..6) {
        0 => {}
        1 => drop(port.insert("port".to_owned(), pick(rng, &PORTS).into())),
        2 => {
            port.insert("port".to_owned(), 80.into());
            port.insert("endPort".to_owned(), pick(rng, &[80, 443, 65_535]).into());
        }
        _ => drop(port.insert("port".to_owned(), pick(rng, &[53, 80, 443]).into())),
    }
    port.into()
}
