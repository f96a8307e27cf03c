//! `networking.k8s.io/v1` NetworkPolicy.
//!
//! Semantics of Kubernetes, mapped as Calico maps them (libcalico-go `backend/k8s/conversion`):
//! tier `default`, order 1000, Allow rules only. "Pods" are endpoints; network sets and hosts are
//! none, so peer selectors ask for the label that only endpoints have.

use std::collections::BTreeMap;

use ipnet::IpNet;
use policy_api::resource::{
    IntOrString, Kind, Object,
    kubernetes::{IpBlock, LabelSelector, NetworkPolicySpec, Peer, Port},
};

use super::{
    calico::{Directions, named_directions},
    fields::{self, Masking, SCTP, TCP, UDP},
    names::{self, Reserved},
    report::Report,
    staged::{self, IsStaged, no_list},
};
use crate::{
    labels::{NAMESPACE_LABEL, NAMESPACE_PREFIX, ORCHESTRATOR_LABEL},
    policy::{
        Action, EntityMatch, Order, Policy, PolicyKey, PolicyKind, PortMatch, ProtocolMatch, Reach,
        Rule,
    },
    selector::Selector,
    tiers::DEFAULT_TIER,
};

/// Calico's order for Kubernetes policies.
const ORDER: f64 = 1000.0;

/// Pairs of a peer and a port in one policy at most. Each pair is a condition, so without a bound
/// a file of a few megabytes would fill any memory.
const MAX_PAIRS: usize = 100_000;

/// Protocols and ports of a rule: by protocol, no ports meaning all; no protocol meaning all.
type Services = BTreeMap<Option<u8>, Vec<PortMatch>>;

pub(super) fn network_policy(
    object: &Object<NetworkPolicySpec>,
    kind: IsStaged,
    report: &mut Report,
) -> Option<Policy> {
    let named = kind.choose(Kind::KubernetesNetworkPolicy, Kind::StagedKubernetesNetworkPolicy);
    let names = names::metadata(object.metadata.as_ref(), named, Reserved::Allow, report);
    let absent = NetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&absent);
    let staged = staged::action(kind, spec.staged_action.as_deref(), only_action(spec), report);
    let namespace = names.as_ref().map_or("", |(namespace, ..)| namespace);

    let pods = spec
        .pod_selector
        .as_ref()
        .map_or_else(Selector::all, |pods| label_selector("spec.podSelector", pods, report));
    let subject = pods.and(Selector::equal(NAMESPACE_LABEL, namespace));

    let mut pairs = 0;
    let mut ingress = Vec::new();
    for (index, rule) in spec.ingress.iter().flatten().enumerate() {
        let path = format!("spec.ingress[{index}]");
        let peers = peers(&format!("{path}.from"), rule.from.as_deref(), namespace, report);
        let services = services(&format!("{path}.ports"), rule.ports.as_deref(), report);
        if !count(&path, &peers, &services, &mut pairs, report) {
            continue;
        }
        ingress.extend(combine(index, &peers, &services, |rule, peer, ports| Rule {
            source: peer,
            destination: EntityMatch { ports, ..EntityMatch::default() },
            ..rule
        }));
    }
    let mut egress = Vec::new();
    for (index, rule) in spec.egress.iter().flatten().enumerate() {
        let path = format!("spec.egress[{index}]");
        let peers = peers(&format!("{path}.to"), rule.to.as_deref(), namespace, report);
        let services = services(&format!("{path}.ports"), rule.ports.as_deref(), report);
        if !count(&path, &peers, &services, &mut pairs, report) {
            continue;
        }
        egress.extend(combine(index, &peers, &services, |rule, peer, ports| Rule {
            destination: EntityMatch { ports, ..peer },
            ..rule
        }));
    }
    let types = directions(spec, Some(report));

    let (namespace, name, _) = names?;
    Some(Policy {
        key: PolicyKey {
            name,
            namespace,
            kind: kind.choose(
                PolicyKind::KubernetesNetworkPolicy,
                PolicyKind::StagedKubernetesNetworkPolicy,
            ),
        },
        tier: DEFAULT_TIER.to_owned(),
        order: Order(Some(ORDER)),
        subject,
        ingress: types.ingress.then_some(ingress),
        egress: types.egress.then_some(egress),
        untracked: false,
        new_flows: None,
        reach: Reach::Local,
        staged,
    })
}

/// Whether nothing but the staged action is said.
fn only_action(spec: &NetworkPolicySpec) -> bool {
    let NetworkPolicySpec { staged_action: _, pod_selector, policy_types, ingress, egress } = spec;
    let everything = LabelSelector::default();
    pod_selector.as_ref().is_none_or(|pods| *pods == everything)
        && no_list(policy_types)
        && no_list(ingress)
        && no_list(egress)
}

/// `policyTypes`; absent or empty means Ingress, and Egress too if there are egress rules
/// (kubernetes `pkg/apis/networking/v1/defaults.go`).
pub(super) fn directions(spec: &NetworkPolicySpec, report: Option<&mut Report>) -> Directions {
    match spec.policy_types.as_deref() {
        Some(types) if !types.is_empty() => named_directions("spec.policyTypes", types, report),
        _ => Directions {
            ingress: true,
            egress: spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        },
    }
}

/// Counts the pairs of a rule; `false` if there are too many in the policy by now.
fn count(
    path: &str,
    peers: &[EntityMatch],
    services: &Services,
    pairs: &mut usize,
    report: &mut Report,
) -> bool {
    let ports: usize = services.values().map(|ports| ports.len().max(1)).sum();
    let before = *pairs;
    *pairs = peers.len().saturating_mul(ports).saturating_add(before);
    if *pairs <= MAX_PAIRS {
        return true;
    }
    // Once is enough.
    if before <= MAX_PAIRS {
        report.error(
            path,
            format!(
                "{} peers with {ports} ports each: a policy can have {MAX_PAIRS} pairs of peer and \
                 port, and this makes it {pairs}",
                peers.len()
            ),
            "write ranges of ports with `endPort`, larger networks, or several policies",
        );
    }
    false
}

/// One rule for each protocol and peer.
fn combine(
    index: usize,
    peers: &[EntityMatch],
    services: &Services,
    place: impl Fn(Rule, EntityMatch, Vec<PortMatch>) -> Rule,
) -> Vec<Rule> {
    let mut rules = Vec::with_capacity(peers.len() * services.len());
    for (protocol, ports) in services {
        let rule = Rule {
            index,
            action: Action::Allow,
            family: None,
            protocol: ProtocolMatch { is: *protocol, is_not: None },
            icmp: None,
            not_icmp: None,
            source: EntityMatch::default(),
            destination: EntityMatch::default(),
        };
        rules.extend(peers.iter().map(|peer| place(rule.clone(), peer.clone(), ports.clone())));
    }
    rules
}

/// The peers of a rule; none given means anyone.
fn peers(
    path: &str,
    peers: Option<&[Peer]>,
    namespace: &str,
    report: &mut Report,
) -> Vec<EntityMatch> {
    let peers = peers.unwrap_or_default();
    if peers.is_empty() {
        return vec![EntityMatch::default()];
    }
    let peers = peers.iter().enumerate();
    peers.map(|(index, wire)| peer(&format!("{path}[{index}]"), wire, namespace, report)).collect()
}

fn peer(path: &str, peer: &Peer, namespace: &str, report: &mut Report) -> EntityMatch {
    let selectors = (peer.pod_selector.as_ref(), peer.namespace_selector.as_ref());
    if let Some(block) = &peer.ip_block {
        if selectors != (None, None) {
            report.error(
                path,
                "`ipBlock` cannot be combined with selectors",
                "write two entries, one with `ipBlock` and one with the selectors",
            );
        }
        return ip_block(&format!("{path}.ipBlock"), block, report);
    }
    if selectors == (None, None) {
        report.error(
            path,
            "the peer says nothing",
            "write `podSelector`, `namespaceSelector` or `ipBlock`; to allow anyone, remove the \
             list of peers",
        );
    }
    let (pods, namespaces) = selectors;
    let namespaces = match namespaces {
        Some(namespaces) => {
            label_selector(&format!("{path}.namespaceSelector"), namespaces, report)
                .on_namespace(NAMESPACE_PREFIX)
        }
        None => Selector::equal(NAMESPACE_LABEL, namespace),
    };
    let pods = pods.map_or_else(Selector::all, |pods| {
        label_selector(&format!("{path}.podSelector"), pods, report)
    });
    let selector = Selector::has(ORCHESTRATOR_LABEL).and(namespaces).and(pods);
    EntityMatch { selector: Some(selector), ..EntityMatch::default() }
}

fn ip_block(path: &str, block: &IpBlock, report: &mut Report) -> EntityMatch {
    let cidr_path = format!("{path}.cidr");
    let Some(text) = block.cidr.as_deref().filter(|text| !text.is_empty()) else {
        report.error(&cidr_path, "the block has no `cidr`", "write one, such as 10.0.0.0/8");
        return EntityMatch::default();
    };
    let cidr = fields::net(&cidr_path, text, Masking::Prefix, report);
    let mut not_nets: Vec<IpNet> = Vec::new();
    for (index, text) in block.except.iter().flatten().enumerate() {
        let path = format!("{path}.except[{index}]");
        let Some(except) = fields::net(&path, text, Masking::Prefix, report) else { continue };
        if let Some(cidr) = cidr
            && (!cidr.contains(&except) || cidr == except)
        {
            report.error(
                &path,
                format!("{except} is not a part of {cidr}"),
                "leave out networks that are inside `cidr` and smaller",
            );
        }
        not_nets.push(except);
    }
    not_nets.sort_unstable();
    not_nets.dedup();
    EntityMatch { nets: cidr.into_iter().collect(), not_nets, ..EntityMatch::default() }
}

/// `ports` of a rule; none given means every protocol.
fn services(path: &str, ports: Option<&[Port]>, report: &mut Report) -> Services {
    let ports = ports.unwrap_or_default();
    if ports.is_empty() {
        return BTreeMap::from([(None, Vec::new())]);
    }
    let mut services: BTreeMap<Option<u8>, Option<Vec<PortMatch>>> = BTreeMap::new();
    for (index, wire) in ports.iter().enumerate() {
        let Some((protocol, port)) = port(&format!("{path}[{index}]"), wire, report) else {
            continue;
        };
        let known = services.entry(Some(protocol)).or_insert_with(|| Some(Vec::new()));
        match (port, known.as_mut()) {
            // An entry without a port covers every port, whatever the others say.
            (None, _) => *known = None,
            (Some(port), Some(known)) => known.push(port),
            (Some(_), None) => {}
        }
    }
    services
        .into_iter()
        .map(|(protocol, ports)| {
            let mut ports = ports.unwrap_or_default();
            ports.sort_unstable();
            ports.dedup();
            (protocol, ports)
        })
        .collect()
}

fn port(path: &str, wire: &Port, report: &mut Report) -> Option<(u8, Option<PortMatch>)> {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let protocol = match wire.protocol.as_deref() {
        None | Some("TCP") => Some(TCP),
        Some("UDP") => Some(UDP),
        Some("SCTP") => Some(SCTP),
        Some(other) => {
            let path = format!("{path}.protocol");
            fields::unknown_word(&path, "a protocol", other, &PROTOCOLS, report);
            None
        }
    };
    let end_path = format!("{path}.endPort");
    let port_path = format!("{path}.port");
    let port = match (&wire.port, wire.end_port) {
        (None, None) => None,
        (None, Some(_)) => {
            report.error(&end_path, "`endPort` needs a `port`", "add the first port as `port`");
            return None;
        }
        (Some(IntOrString::Int(first)), end) => {
            let first = fields::port_number(&port_path, *first, report)?;
            let last = match end {
                Some(end) => fields::port_number(&end_path, end, report)?,
                None => first,
            };
            if last < first {
                report.error(
                    &end_path,
                    format!("the range {first} to {last} ends before it begins"),
                    format!("write `port: {last}` and `endPort: {first}`"),
                );
                return None;
            }
            Some(PortMatch::Range(first, last))
        }
        (Some(IntOrString::String(name)), end) => {
            if end.is_some() {
                report.error(
                    &end_path,
                    "`endPort` needs a port number",
                    "write `port` as a number",
                );
            }
            if !fields::is_service_name(name) {
                report.error(
                    &port_path,
                    format!("`{name}` is not the name of a port"),
                    "write a number without quotes, or at most 15 lower-case letters, digits and \
                     `-`, with at least one letter",
                );
                return None;
            }
            Some(PortMatch::Named(name.clone()))
        }
    };
    Some((protocol?, port))
}

/// A selector in Kubernetes' form; an empty one selects everything.
fn label_selector(path: &str, wire: &LabelSelector, report: &mut Report) -> Selector {
    const OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];
    let mut selector = Selector::all();
    for (name, value) in wire.match_labels.iter().flatten() {
        names::label(&format!("{path}.matchLabels.{name}"), name, value, report);
        selector = selector.and(Selector::equal(name, value));
    }
    for (index, wire) in wire.match_expressions.iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let key = wire.key.as_deref().unwrap_or_default();
        let values = wire.values.as_deref().unwrap_or_default();
        if key.is_empty() {
            let hint = "name the label that the expression is about";
            report.error(&format!("{path}.key"), "the expression has no key", hint);
        } else {
            names::label_name(&format!("{path}.key"), key, report);
        }
        for (index, value) in values.iter().enumerate() {
            names::label_value(&format!("{path}.values[{index}]"), value, report);
        }
        let operator = wire.operator.as_deref().unwrap_or_default();
        let (condition, wants_values) = match operator {
            "In" => (Selector::one_of(key, values), true),
            "NotIn" => (Selector::none_of(key, values), true),
            "Exists" => (Selector::has(key), false),
            "DoesNotExist" => (Selector::has(key).negate(), false),
            "" => {
                let path = format!("{path}.operator");
                let hint = format!("write {}", OPERATORS.join(" or "));
                report.error(&path, "the expression has no operator", hint);
                continue;
            }
            other => {
                let path = format!("{path}.operator");
                fields::unknown_word(&path, "an operator", other, &OPERATORS, report);
                continue;
            }
        };
        if wants_values == values.is_empty() {
            let (message, hint) = if wants_values {
                (format!("{operator} needs values"), "list at least one value")
            } else {
                (format!("{operator} takes no values"), "remove `values`")
            };
            report.error(&format!("{path}.values"), message, hint);
        }
        selector = selector.and(condition);
    }
    selector
}
