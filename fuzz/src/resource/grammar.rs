//! Resources from bytes: mostly what an author could mean, sometimes what nobody should write.
//!
//! Inputs: the fuzzer's bytes. Outputs: JSON values of the kinds and fields of Calico and
//! Kubernetes, those included that Palisade refuses. Bytes that run out end everything at once:
//! each choice's first answer is the plain one, each field's is its absence.

use arbitrary::{Result, Unstructured};
use serde_json::{Map, Value, json};

const CALICO: &str = "projectcalico.org/v3";
const KUBERNETES: &str = "networking.k8s.io/v1";

const KINDS: [(&str, &str); 14] = [
    (CALICO, "NetworkPolicy"),
    (CALICO, "GlobalNetworkPolicy"),
    (KUBERNETES, "NetworkPolicy"),
    (CALICO, "Tier"),
    (CALICO, "NetworkSet"),
    (CALICO, "GlobalNetworkSet"),
    (CALICO, "WorkloadEndpoint"),
    ("v1", "Namespace"),
    (CALICO, "StagedNetworkPolicy"),
    (CALICO, "StagedGlobalNetworkPolicy"),
    (CALICO, "StagedKubernetesNetworkPolicy"),
    (CALICO, "HostEndpoint"),
    (CALICO, "Profile"),
    ("v1", "List"),
];
const NAMES: [&str; 6] = ["a", "b", "web", "default.a", "ops.b", "A_"];
const NAMESPACES: [&str; 4] = ["default", "a", "b", "kube-system"];
const TIERS: [&str; 5] = ["default", "ops", "a", "kube-admin", "kube-baseline"];
const LABELS: [&str; 6] =
    ["app", "env", "tier", "kubernetes.io/metadata.name", "projectcalico.org/namespace", "pcns.x"];
const WORDS: [&str; 6] = ["web", "db", "a", "", "default", "true"];
const NETS: [&str; 12] = [
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.2/32",
    "10.0.0.1",
    "0.0.0.0/0",
    "192.0.2.128/25",
    "::/0",
    "fd00::/126",
    "fd00::2/128",
    "fe80::/10",
    "10.0.0.1/24",
    "10.0.0.0/33",
];
const PROTOCOLS: [&str; 8] = ["TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite", "tcp", "47"];
const ACTIONS: [&str; 5] = ["Allow", "Deny", "Pass", "Log", "allow"];
const MATCHES: [&str; 8] = [
    "app == 'web'",
    "all()",
    "!has(app)",
    "app in {'db', 'web'}",
    "projectcalico.org/namespace == 'a'",
    "has(palisade.io/host)",
    "global()",
    "app contains 'e' || env starts with 'x'",
];

type Bytes<'a, 'b> = &'a mut Unstructured<'b>;
type Make = fn(Bytes<'_, '_>) -> Result<Value>;

/// As many resources as the bytes make.
pub(super) fn resources(bytes: Bytes<'_, '_>) -> Result<Vec<Value>> {
    let mut resources = Vec::new();
    while !bytes.is_empty() && resources.len() < super::MAX_RESOURCES {
        resources.push(resource(bytes)?);
    }
    Ok(resources)
}

fn resource(bytes: Bytes<'_, '_>) -> Result<Value> {
    let &(version, kind) = bytes.choose(&KINDS)?;
    let spec = match (version, kind) {
        (KUBERNETES, _) | (_, "StagedKubernetesNetworkPolicy") => kubernetes_policy,
        (_, "Tier") => tier,
        (_, "NetworkSet" | "GlobalNetworkSet") => network_set,
        (_, "WorkloadEndpoint" | "HostEndpoint") => endpoint,
        (_, "Namespace" | "List" | "Profile") => |_: Bytes<'_, '_>| Ok(json!({})),
        _ => policy,
    };
    let mut resource = json!({ "apiVersion": version, "kind": kind, "metadata": metadata(bytes)? });
    resource["spec"] = spec(bytes)?;
    Ok(resource)
}

/// One in 64 values is something else.
fn oddly(bytes: Bytes<'_, '_>, make: Make) -> Result<Value> {
    if bytes.arbitrary::<u8>()? < 252 {
        return make(bytes);
    }
    Ok(match bytes.int_in_range(0..=9_u8)? {
        0 => Value::Null,
        1 => json!(""),
        2 => json!([]),
        3 => json!({}),
        4 => json!(true),
        5 => json!(bytes.arbitrary::<i64>()?),
        6 => json!(bytes.arbitrary::<u64>()?),
        7 => json!(bytes.arbitrary::<f64>()?),
        8 => json!([null, ""]),
        _ => json!(bytes.arbitrary::<&str>()?),
    })
}

/// A mapping that has each of the fields in half of all cases.
fn mapping(bytes: Bytes<'_, '_>, fields: &[(&str, Make)]) -> Result<Value> {
    let mut mapping = Map::new();
    let chosen: u32 = bytes.arbitrary()?;
    for (index, (name, make)) in fields.iter().enumerate() {
        if chosen >> (index % 32) & 1 == 1 {
            mapping.insert((*name).to_owned(), oddly(bytes, *make)?);
        }
    }
    Ok(Value::Object(mapping))
}

fn list(bytes: Bytes<'_, '_>, most: usize, make: Make) -> Result<Value> {
    let length = bytes.int_in_range(0..=most)?;
    let entries: Result<Vec<Value>> = (0..length).map(|_| oddly(bytes, make)).collect();
    entries.map(Value::Array)
}

fn one_of(bytes: Bytes<'_, '_>, texts: &[&str]) -> Result<Value> {
    Ok(json!(bytes.choose(texts)?))
}

fn metadata(bytes: Bytes<'_, '_>) -> Result<Value> {
    let mut metadata = mapping(
        bytes,
        &[
            ("namespace", |bytes| one_of(bytes, &NAMESPACES)),
            ("labels", labels),
            ("annotations", labels),
        ],
    )?;
    metadata["name"] = oddly(bytes, |bytes| one_of(bytes, &NAMES))?;
    Ok(metadata)
}

fn labels(bytes: Bytes<'_, '_>) -> Result<Value> {
    let mut labels = Map::new();
    for _ in 0..bytes.int_in_range(0..=2)? {
        let label = bytes.choose(&LABELS)?;
        labels.insert((*label).to_owned(), oddly(bytes, |bytes| one_of(bytes, &WORDS))?);
    }
    Ok(Value::Object(labels))
}

fn selector(bytes: Bytes<'_, '_>) -> Result<Value> {
    let first = bytes.choose(&MATCHES)?;
    Ok(match bytes.int_in_range(0..=4_u8)? {
        0..=2 => json!(first),
        3 => json!(format!("({first}) && !({})", bytes.choose(&MATCHES)?)),
        _ => json!(format!("{first} || {}", bytes.choose(&MATCHES)?)),
    })
}

fn nets(bytes: Bytes<'_, '_>) -> Result<Value> {
    list(bytes, 3, net)
}

fn net(bytes: Bytes<'_, '_>) -> Result<Value> {
    if bytes.ratio(3, 4)? {
        return one_of(bytes, &NETS);
    }
    let [a, b, c, d, length] = bytes.arbitrary::<[u8; 5]>()?;
    Ok(json!(if length < 128 {
        format!("{a}.{b}.{c}.{d}/{}", length % 33)
    } else {
        format!("fd{a:02x}:{b:x}::{c:x}:{d:x}/{}", length)
    }))
}

fn port(bytes: Bytes<'_, '_>) -> Result<Value> {
    let [first, second]: [u16; 2] = bytes.arbitrary()?;
    Ok(match bytes.int_in_range(0..=5_u8)? {
        0 => json!(80),
        1 => json!("http"),
        2 => json!(first),
        3 => json!(format!("{}:{}", first.min(second), first.max(second))),
        4 => json!(first.to_string()),
        _ => json!("dns"),
    })
}

fn ports(bytes: Bytes<'_, '_>) -> Result<Value> {
    list(bytes, 3, port)
}

fn protocol(bytes: Bytes<'_, '_>) -> Result<Value> {
    if bytes.ratio(7, 8)? { one_of(bytes, &PROTOCOLS) } else { number(bytes) }
}

fn number(bytes: Bytes<'_, '_>) -> Result<Value> {
    Ok(json!(bytes.arbitrary::<u8>()?))
}

fn any_bool(bytes: Bytes<'_, '_>) -> Result<Value> {
    Ok(json!(bytes.arbitrary::<bool>()?))
}

fn order(bytes: Bytes<'_, '_>) -> Result<Value> {
    Ok(match bytes.int_in_range(0..=3_u8)? {
        0 => json!(1),
        1 => json!(2),
        2 => json!(bytes.arbitrary::<i16>()?),
        _ => json!(bytes.arbitrary::<f32>()?),
    })
}

fn icmp(bytes: Bytes<'_, '_>) -> Result<Value> {
    mapping(bytes, &[("type", number), ("code", number)])
}

fn entity(bytes: Bytes<'_, '_>) -> Result<Value> {
    mapping(
        bytes,
        &[
            ("selector", selector),
            ("nets", nets),
            ("notSelector", selector),
            ("notNets", nets),
            ("namespaceSelector", selector),
            ("ports", ports),
            ("notPorts", ports),
            ("serviceAccounts", |_| Ok(Value::Null)),
        ],
    )
}

fn rule(bytes: Bytes<'_, '_>) -> Result<Value> {
    let mut rule = mapping(
        bytes,
        &[
            ("source", entity),
            ("destination", entity),
            ("protocol", protocol),
            ("notProtocol", protocol),
            ("icmp", icmp),
            ("notICMP", icmp),
            ("ipVersion", |bytes| Ok(json!(if bytes.arbitrary()? { 6 } else { 4 }))),
            ("metadata", |bytes| mapping(bytes, &[("annotations", labels)])),
        ],
    )?;
    rule["action"] = oddly(bytes, |bytes| one_of(bytes, &ACTIONS))?;
    Ok(rule)
}

fn rules(bytes: Bytes<'_, '_>) -> Result<Value> {
    list(bytes, 4, rule)
}

fn types(bytes: Bytes<'_, '_>) -> Result<Value> {
    list(bytes, 2, |bytes| one_of(bytes, &["Ingress", "Egress"]))
}

fn policy(bytes: Bytes<'_, '_>) -> Result<Value> {
    mapping(
        bytes,
        &[
            ("ingress", rules),
            ("egress", rules),
            ("selector", selector),
            ("types", types),
            ("order", order),
            ("tier", |bytes| one_of(bytes, &TIERS)),
            ("namespaceSelector", selector),
            ("serviceAccountSelector", |bytes| one_of(bytes, &["", "all()"])),
            ("doNotTrack", any_bool),
            ("applyOnForward", any_bool),
            ("preDNAT", any_bool),
            ("stagedAction", |bytes| one_of(bytes, &["Set", "Delete"])),
            ("performanceHints", |_| Ok(json!(["AssumeNeededOnEveryNode"]))),
        ],
    )
}

fn tier(bytes: Bytes<'_, '_>) -> Result<Value> {
    mapping(bytes, &[("order", order), ("defaultAction", |bytes| one_of(bytes, &["Deny", "Pass"]))])
}

fn network_set(bytes: Bytes<'_, '_>) -> Result<Value> {
    mapping(bytes, &[("nets", nets)])
}

fn endpoint(bytes: Bytes<'_, '_>) -> Result<Value> {
    let mut endpoint = mapping(
        bytes,
        &[
            ("mac", |_| Ok(json!("02:00:00:00:00:07"))),
            ("ports", |bytes| list(bytes, 2, named_port)),
            ("expectedIPs", nets),
            ("node", |bytes| one_of(bytes, &NAMES)),
        ],
    )?;
    endpoint["interfaceName"] = oddly(bytes, |bytes| one_of(bytes, &["veth0", "veth1", "*"]))?;
    endpoint["ipNetworks"] = oddly(bytes, |bytes| {
        list(bytes, 3, |bytes| one_of(bytes, &["10.0.0.3/32", "10.0.0.4", "fd00::3/128"]))
    })?;
    Ok(endpoint)
}

fn named_port(bytes: Bytes<'_, '_>) -> Result<Value> {
    let name = oddly(bytes, |bytes| one_of(bytes, &["http", "dns"]))?;
    let protocol = oddly(bytes, protocol)?;
    Ok(json!({ "name": name, "protocol": protocol, "port": bytes.arbitrary::<u16>()? }))
}

fn kubernetes_policy(bytes: Bytes<'_, '_>) -> Result<Value> {
    let rules: fn(Bytes<'_, '_>, &str) -> Result<Value> = |bytes, peers| {
        let length = bytes.int_in_range(0..=3)?;
        let mut rules = Vec::new();
        for _ in 0..length {
            let mut rule = mapping(bytes, &[("ports", |bytes| list(bytes, 2, kubernetes_port))])?;
            if bytes.arbitrary()? {
                rule[peers] = list(bytes, 2, kubernetes_peer)?;
            }
            rules.push(rule);
        }
        Ok(Value::Array(rules))
    };
    let mut policy = mapping(bytes, &[("podSelector", label_selector), ("policyTypes", types)])?;
    for (field, peers) in [("ingress", "from"), ("egress", "to")] {
        if bytes.arbitrary()? {
            policy[field] = rules(bytes, peers)?;
        }
    }
    Ok(policy)
}

fn kubernetes_port(bytes: Bytes<'_, '_>) -> Result<Value> {
    mapping(
        bytes,
        &[
            ("port", port),
            ("protocol", |bytes| one_of(bytes, &PROTOCOLS)),
            ("endPort", |bytes| Ok(json!(bytes.arbitrary::<u16>()?))),
        ],
    )
}

fn kubernetes_peer(bytes: Bytes<'_, '_>) -> Result<Value> {
    if bytes.arbitrary()? {
        return Ok(json!({ "ipBlock": mapping(bytes, &[("cidr", net), ("except", nets)])? }));
    }
    mapping(bytes, &[("podSelector", label_selector), ("namespaceSelector", label_selector)])
}

fn label_selector(bytes: Bytes<'_, '_>) -> Result<Value> {
    mapping(
        bytes,
        &[("matchLabels", labels), ("matchExpressions", |bytes| list(bytes, 2, expression))],
    )
}

fn expression(bytes: Bytes<'_, '_>) -> Result<Value> {
    let key = one_of(bytes, &LABELS)?;
    let operator = one_of(bytes, &["In", "NotIn", "Exists", "DoesNotExist"])?;
    let mut expression = json!({ "key": key, "operator": operator });
    if bytes.arbitrary()? {
        expression["values"] = list(bytes, 2, |bytes| one_of(bytes, &WORDS))?;
    }
    Ok(expression)
}
