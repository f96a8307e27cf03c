//! Rules as sentences. Input: the rules of a policy as their author wrote them; output: one
//! sentence for each, such as `Allow TCP from app == 'web' in namespace shop to port 5432`.

use policy_api::messages::StoredResource;
use policy_api::resource::calico::{EntityRule, Icmp, Rule};
use policy_api::resource::kubernetes::{
    EgressRule, IngressRule, IpBlock, LabelSelector, Peer, Port, Requirement,
};
use policy_api::resource::{IntOrString, KUBERNETES};
use policy_core::policy::FlowLimit;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Entries of a list that a sentence has room for.
const SHOWN: usize = 4;

/// The sentence for a limit of new flows.
pub(super) fn limit(limit: FlowLimit) -> String {
    format!("Deny what a source begins beyond {limit}")
}

/// Sentences for the rules of one direction, `ingress` or `egress`, in order.
///
/// # Errors
///
/// What is no rule, in serde's words.
pub(super) fn rules(
    policy: &StoredResource,
    direction: &str,
) -> Result<Vec<String>, serde_json::Error> {
    let rules = &policy.resource["spec"][direction];
    let namespace = policy.name.namespace.as_deref();
    if is_kubernetes(policy) {
        return Ok(match direction {
            "ingress" => list::<IngressRule>(rules)?
                .iter()
                .map(|rule| {
                    kubernetes("from", rule.from.as_deref(), rule.ports.as_deref(), namespace)
                })
                .collect(),
            _ => list::<EgressRule>(rules)?
                .iter()
                .map(|rule| kubernetes("to", rule.to.as_deref(), rule.ports.as_deref(), namespace))
                .collect(),
        });
    }
    Ok(list::<Rule>(rules)?.iter().map(|rule| calico(rule, direction, namespace)).collect())
}

/// Whether its rules have Kubernetes' form.
pub(super) fn is_kubernetes(policy: &StoredResource) -> bool {
    policy.name.api_version == KUBERNETES || policy.name.kind == "StagedKubernetesNetworkPolicy"
}

fn list<T: DeserializeOwned>(rules: &Value) -> Result<Vec<T>, serde_json::Error> {
    Option::<Vec<T>>::deserialize(rules).map(Option::unwrap_or_default)
}

fn calico(rule: &Rule, direction: &str, namespace: Option<&str>) -> String {
    let mut words = vec![rule.action.clone().unwrap_or_default()];
    words.push(traffic(rule));
    let none = EntityRule::default();
    let source = side(rule.source.as_ref().unwrap_or(&none), namespace);
    let destination = side(rule.destination.as_ref().unwrap_or(&none), namespace);
    // Who is on the other side is what one looks for.
    match (direction, source.is_empty(), destination.is_empty()) {
        ("ingress", true, _) => words.push("from anyone".to_owned()),
        (_, true, _) => {}
        (_, false, _) => words.push(format!("from {source}")),
    }
    match (direction, destination.is_empty()) {
        ("egress", true) => words.push("to anyone".to_owned()),
        (_, true) => {}
        (_, false) => words.push(format!("to {destination}")),
    }
    words.join(" ")
}

/// What is allowed or denied: IP version, protocol, ICMP type.
fn traffic(rule: &Rule) -> String {
    let mut words = Vec::new();
    words.extend(rule.ip_version.map(|version| format!("IPv{version}")));
    words.extend(rule.protocol.as_ref().map(protocol_name));
    if let Some(not) = &rule.not_protocol {
        words.push(format!("everything but {}", protocol_name(not)));
    }
    words.extend(rule.icmp.as_ref().map(icmp));
    words.extend(rule.not_icmp.as_ref().map(|not| format!("but {}", icmp(not))));
    if words.is_empty() { "everything".to_owned() } else { words.join(" ") }
}

fn protocol_name(protocol: &IntOrString) -> String {
    match protocol {
        IntOrString::Int(number) => format!("protocol {number}"),
        IntOrString::String(name) => name.clone(),
    }
}

fn icmp(icmp: &Icmp) -> String {
    match (icmp.r#type, icmp.code) {
        (Some(kind), Some(code)) => format!("type {kind} code {code}"),
        (Some(kind), None) => format!("type {kind}"),
        (None, _) => "any type".to_owned(),
    }
}

/// One side of a Calico rule; empty if it has no condition.
fn side(side: &EntityRule, namespace: Option<&str>) -> String {
    let mut parts = Vec::new();
    let text =
        |selector: &Option<String>| selector.as_deref().map(one_line).filter(|it| !it.is_empty());
    let (selector, not_selector) = (text(&side.selector), text(&side.not_selector));
    let place = match (text(&side.namespace_selector), namespace) {
        (Some(all), _) if all == "all()" => " in any namespace".to_owned(),
        (Some(global), _) if global == "global()" => " in no namespace".to_owned(),
        (Some(namespaces), _) => format!(" in namespaces with {namespaces}"),
        (None, Some(namespace)) => format!(" in namespace {namespace}"),
        (None, None) => String::new(),
    };
    match (selector, not_selector) {
        (Some(selector), None) => parts.push(format!("{selector}{place}")),
        (Some(selector), Some(not)) => parts.push(format!("{selector} but not {not}{place}")),
        (None, Some(not)) => parts.push(format!("anyone but {not}{place}")),
        (None, None) if side.namespace_selector.is_some() && !place.is_empty() => {
            parts.push(format!("anyone{place}"));
        }
        (None, None) => {}
    }
    let (nets, not_nets) = (listed(&side.nets), listed(&side.not_nets));
    match (nets, not_nets) {
        (Some(nets), None) => parts.push(nets),
        (Some(nets), Some(not)) => parts.push(format!("{nets} but not {not}")),
        (None, Some(not)) => parts.push(format!("anything but {not}")),
        (None, None) => {}
    }
    parts.extend(ports(side.ports.as_deref().unwrap_or_default(), ""));
    parts.extend(ports(side.not_ports.as_deref().unwrap_or_default(), "other than "));
    parts.join(", ")
}

fn ports(ports: &[IntOrString], not: &str) -> Option<String> {
    let noun = if ports.len() == 1 && not.is_empty() { "port" } else { "ports" };
    let shown: Vec<String> = ports.iter().map(|port| port.to_string().replace(':', "-")).collect();
    some(&shown).map(|shown| format!("{noun} {not}{shown}"))
}

fn listed(items: &Option<Vec<String>>) -> Option<String> {
    some(items.as_deref().unwrap_or_default())
}

/// `a, b, c, d and 12 more`.
fn some(items: &[String]) -> Option<String> {
    let more = items.len().saturating_sub(SHOWN);
    let shown = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match (items.len(), more) {
        (0, _) => None,
        (_, 0) => Some(shown),
        (_, more) => Some(format!("{shown} and {more} more")),
    }
}

/// A selector may span lines; a sentence may not.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn kubernetes(
    way: &str,
    peers: Option<&[Peer]>,
    ports: Option<&[Port]>,
    namespace: Option<&str>,
) -> String {
    let services = match ports.unwrap_or_default() {
        [] => "everything".to_owned(),
        ports => ports.iter().map(kubernetes_port).collect::<Vec<_>>().join(", "),
    };
    let peers = match peers.unwrap_or_default() {
        [] => "anyone".to_owned(),
        peers => peers
            .iter()
            .map(|peer| kubernetes_peer(peer, namespace))
            .collect::<Vec<_>>()
            .join("; or "),
    };
    format!("Allow {services} {way} {peers}")
}

fn kubernetes_port(port: &Port) -> String {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match (&port.port, port.end_port) {
        (None, _) => protocol.to_owned(),
        (Some(first), None) => format!("{protocol} port {first}"),
        (Some(first), Some(last)) => format!("{protocol} ports {first}-{last}"),
    }
}

fn kubernetes_peer(peer: &Peer, namespace: Option<&str>) -> String {
    if let Some(IpBlock { cidr, except }) = &peer.ip_block {
        let cidr = cidr.clone().unwrap_or_default();
        return match listed(except) {
            Some(except) => format!("{cidr} but not {except}"),
            None => cidr,
        };
    }
    let pods = match peer.pod_selector.as_ref().map(label_selector).as_deref() {
        None | Some("all()") => "all pods".to_owned(),
        Some(selector) => format!("pods with {selector}"),
    };
    match peer.namespace_selector.as_ref().map(label_selector).as_deref() {
        None => format!("{pods} in namespace {}", namespace.unwrap_or("default")),
        Some("all()") => format!("{pods} in any namespace"),
        Some(selector) => format!("{pods} in namespaces with {selector}"),
    }
}

/// A Kubernetes selector in Calico's words.
pub(super) fn label_selector(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten();
    let mut terms: Vec<String> =
        labels.map(|(name, value)| format!("{name} == '{value}'")).collect();
    for Requirement { key, operator, values } in selector.match_expressions.iter().flatten() {
        let key = key.as_deref().unwrap_or_default();
        let values: Vec<String> =
            values.iter().flatten().map(|value| format!("'{value}'")).collect();
        terms.push(match operator.as_deref() {
            Some("Exists") => format!("has({key})"),
            Some("DoesNotExist") => format!("!has({key})"),
            Some("NotIn") => format!("{key} not in {{{}}}", values.join(", ")),
            _ => format!("{key} in {{{}}}", values.join(", ")),
        });
    }
    if terms.is_empty() { "all()".to_owned() } else { terms.join(" && ") }
}

#[cfg(test)]
mod tests {
    use policy_api::messages::ResourceName;
    use policy_api::resource::CALICO;
    use serde_json::json;

    use super::*;

    fn policy(version: &str, namespace: Option<&str>, spec: &Value) -> StoredResource {
        StoredResource {
            name: ResourceName {
                api_version: version.to_owned(),
                kind: "NetworkPolicy".to_owned(),
                namespace: namespace.map(str::to_owned),
                name: "it".to_owned(),
            },
            resource: json!({ "spec": spec }),
            endpoints: 0,
        }
    }

    #[test]
    fn calico_rules_read_as_sentences() {
        for (direction, rule, expected) in [
            ("ingress", json!({"action": "Allow"}), "Allow everything from anyone"),
            ("egress", json!({"action": "Deny"}), "Deny everything to anyone"),
            (
                "ingress",
                json!({"action": "Allow", "protocol": "TCP", "source": {"selector": "app ==\n 'web'"},
                       "destination": {"ports": [5432]}}),
                "Allow TCP from app == 'web' in namespace shop to port 5432",
            ),
            (
                "egress",
                json!({"action": "Pass", "ipVersion": 4, "notProtocol": 17, "destination": {
                    "nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"], "notPorts": [25, "6000:6010"]}}),
                "Pass IPv4 everything but protocol 17 to 10.0.0.0/8 but not 10.1.0.0/16, ports \
                 other than 25, 6000-6010",
            ),
            (
                "ingress",
                json!({"action": "Allow", "protocol": "ICMP", "icmp": {"type": 3, "code": 4},
                       "source": {"namespaceSelector": "global()"}}),
                "Allow ICMP type 3 code 4 from anyone in no namespace",
            ),
            (
                "ingress",
                json!({"action": "Allow", "source": {"selector": "a == 'b'", "notSelector": "has(c)",
                       "namespaceSelector": "env == 'prod'"}}),
                "Allow everything from a == 'b' but not has(c) in namespaces with env == 'prod'",
            ),
            (
                "ingress",
                json!({"action": "Deny", "source": {"notSelector": "has(c)",
                       "nets": ["10.0.0.0/8", "10.1.0.0/16", "b", "c", "d", "e"]}}),
                "Deny everything from anyone but has(c) in namespace shop, 10.0.0.0/8, 10.1.0.0/16, \
                 b, c and 2 more",
            ),
        ] {
            let mut spec = json!({});
            spec[direction] = json!([rule]);
            let found = rules(&policy(CALICO, Some("shop"), &spec), direction).expect("rules");
            assert_eq!(found, [expected]);
        }
    }

    #[test]
    fn kubernetes_rules_read_as_sentences() {
        let spec = json!({
            "ingress": [
                {},
                {
                    "from": [
                        {"podSelector": {"matchLabels": {"app": "web"}}},
                        {"podSelector": {}, "namespaceSelector": {
                            "matchExpressions": [{"key": "env", "operator": "In", "values": ["a", "b"]}]}},
                        {"namespaceSelector": {}},
                        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                    ],
                    "ports": [{"port": 53, "protocol": "UDP"}, {"port": 8000, "endPort": 8080}, {}],
                },
            ],
            "egress": null,
        });
        let policy = policy(KUBERNETES, Some("shop"), &spec);
        assert_eq!(
            rules(&policy, "ingress").expect("rules"),
            [
                "Allow everything from anyone",
                "Allow UDP port 53, TCP ports 8000-8080, TCP from pods with app == 'web' in \
                 namespace shop; or all pods in namespaces with env in {'a', 'b'}; or all pods in \
                 any namespace; or 10.0.0.0/8 but not 10.1.0.0/16",
            ]
        );
        assert!(rules(&policy, "egress").expect("rules").is_empty());
    }
}
